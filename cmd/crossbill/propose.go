package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/proposal"
)

type proposeOptions struct {
	output       outputOptions
	timeout      time.Duration
	proposal     proposal.Proposal
	mergeRequest bool

	file, branch        string // in the environment repository
	applied, controller string // the folder of it that the controller applies
	repository          *environment.Repository
	out, log            io.Writer
}

// proposed is what propose prints.
type proposed struct {
	App       string `json:"app"`
	ReleaseID string `json:"releaseId"`
	File      string `json:"file"`
	Branch    string `json:"branch"`
	Commit    string `json:"commit"`  // of the environment repository: the new one, or the head that was looked at
	Changed   bool   `json:"changed"` // a commit was made
	// SupersededBy is the newer release that the file names; "" when the release is proposed.
	SupersededBy string `json:"supersededBy,omitempty"`
	Message      string `json:"message"`
}

func newProposeCommand() *cobra.Command {
	o := &proposeOptions{}
	cmd := &cobra.Command{
		Use:   "propose --app NAME (--image | --bundle) REPOSITORY@sha256:… --commit SHA",
		Short: "Hand a release over by one commit in the environment repository",
		Long: `Hand a release over by one commit in the environment repository: the file of the
app in the folder gitops.releases names the release, and GitLab's pipeline starts
from the push. No trigger token is needed. The section gitops of crossbill.yaml
says which repository it is, and which credential pushes.

Proposing the same release again makes no commit. A release that is older than the
one that the file names is not proposed: exit code 0, and a message that says
which release has superseded it. Whatever happens to the network, the same command
can be run again.

With --merge-request the commit goes to a branch of its own, for which GitLab
opens a merge request; the release starts when somebody merges it.`,
		Example: `  # In a GitHub workflow, which sets the commit and the page of the run
  crossbill propose --app shop --bundle registry.example.com/our-org/shop@sha256:…

  # Let somebody review it first
  crossbill propose --app shop --bundle registry.example.com/our-org/shop@sha256:… --merge-request

  # Return to an older release on purpose
  crossbill propose --app shop --image registry.example.com/our-org/shop@sha256:… --commit 3f9a1c2 --again`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.proposal.App, "app", "", "name of the app")
	flags.StringVar(&o.proposal.Image, "image", "", "image to release, by digest: repository@sha256:…")
	flags.StringVar(&o.proposal.Bundle, "bundle", "", "bundle to release in place of an image, by digest: repository@sha256:…")
	flags.StringVar(&o.proposal.Commit, "commit", "", "commit that the image was built from")
	flags.StringVar(&o.proposal.SourceURL, "source-url", "", "page of the run that hands the release over: by its number an older release is known")
	flags.BoolVar(&o.proposal.Again, "again", false, "propose it although it is older than the release that the file names, and release it although it has finished before")
	flags.BoolVar(&o.mergeRequest, "merge-request", false, "push a branch and let GitLab open a merge request for it")
	positiveDuration(flags, &o.timeout, "timeout", 5*time.Minute, "bound of the whole command")
	o.output.add(cmd)
	return cmd
}

func (o *proposeOptions) complete(cmd *cobra.Command, _ []string) (err error) {
	o.out, o.log = cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := o.proposal.Check(); err != nil { // before what the repository needs: it is what is asked for first
		return err
	}
	settings := configOf(cmd).settings
	if o.file, err = proposal.Path(settings.Value("gitops.releases"), o.proposal.App); err != nil {
		return err
	}
	o.branch, o.applied, o.controller = settings.Value("gitops.branch"), settings.Value("gitops.path"), settings.Value("gitops.controller")
	o.repository, err = environmentRepository(cmd)
	return err
}

func (o *proposeOptions) validate() error { return o.output.validate() }

func (o *proposeOptions) run(ctx context.Context) error {
	ctx, stop := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("--timeout: %s are over", o.timeout))
	defer stop()
	started := time.Now()
	p, err := o.propose(ctx)
	traceHandoff(ctx, o.log, "propose", o.proposal.App, o.proposal.ID, started, err)
	if err != nil {
		return err
	}
	return o.output.print(o.out, view{data: p, text: line("propose: %s", p.Message), names: []string{"commit/" + p.Commit}})
}

func (o *proposeOptions) propose(ctx context.Context) (proposed, error) {
	var came proposal.Outcome
	commit, err := o.commit(ctx, func(files *environment.Tree) (err error) {
		if err := proposal.CheckFolder(files, o.file, o.applied, o.controller); err != nil {
			return err
		}
		came, err = proposal.Edit(files, o.file, &o.proposal)
		return err
	})
	if err != nil {
		return proposed{}, err
	}
	p := proposed{App: o.proposal.App, ReleaseID: o.proposal.ID, File: o.file, Branch: commit.Branch, Commit: commit.Hash, Changed: commit.New, SupersededBy: came.SupersededBy}
	switch {
	case p.Changed:
		p.Message = fmt.Sprintf("release %s is proposed by commit %s on %s (%s)", p.ReleaseID, p.Commit[:12], p.Branch, p.File)
	case p.SupersededBy != "":
		p.Message = fmt.Sprintf("release %s is superseded by release %s: it is older than what %s names; nothing to do", p.ReleaseID, p.SupersededBy, p.File)
	case o.mergeRequest && p.Branch != o.branch:
		p.Message = fmt.Sprintf("release %s is proposed already on branch %s, and waits to be merged; nothing to do", p.ReleaseID, p.Branch)
	default:
		p.Message = fmt.Sprintf("release %s is proposed already on %s (%s); nothing to do", p.ReleaseID, p.Branch, p.File)
	}
	return p, nil
}

// commit makes the commit: on the branch, or on one of its own with a merge request.
func (o *proposeOptions) commit(ctx context.Context, edit func(*environment.Tree) error) (environment.Commit, error) {
	message := o.proposal.Message()
	if !o.mergeRequest {
		return o.repository.Commit(ctx, message, edit)
	}
	to := environment.NewBranch{Name: o.proposal.Branch(), Options: []environment.PushOption{
		{Key: "merge_request.create"}, {Key: "merge_request.target", Value: o.branch}, {Key: "merge_request.title", Value: message.Subject}, {Key: "merge_request.remove_source_branch"},
	}}
	return o.repository.Propose(ctx, message, to, edit)
}
