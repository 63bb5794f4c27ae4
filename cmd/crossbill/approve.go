package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/proposal"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type approveOptions struct {
	lifecycleOptions
	approval approvalOptions
	inGit    bool // it is written in the environment repository

	git    *proposals // with inGit
	signer string     // who approves there, where one is not enough; "" else
}

func newApproveCommand() *cobra.Command {
	o := &approveOptions{}
	cmd := &cobra.Command{
		Use:   "approve",
		Short: "Record a verified approval of the release, where promote needs more than one",
		Long: `Verify GitLab's ID token of the job that runs this command, and record in the
ledger who started the job: an approval of the release in flight. With
approval.number above 1, promote counts it together with its own; each of them is
of another person. It changes nothing else.

With --in-git the approval is one commit in the environment repository, for
crossbill run: it writes the release that the app's file names there into its field
approve. It needs no cluster. gitops.signingKeyFile signs it. With gitops.approvals
above 1, each of so many people runs it with a key of their own.`,
		Example: `  # In a manual job with id_tokens, which another person starts
  crossbill approve --release-id "$RELEASE_ID"

  # On a laptop, with rights in the cluster
  crossbill approve --approve-as-operator --by mona

  # Where crossbill run releases what Git asks for
  crossbill approve --app shop --in-git --release-id "$RELEASE_ID"`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	o.addReleaseID(cmd)
	o.addTakeover(cmd)
	o.approval.add(cmd)
	inSection(cmd.Flags(), approvalSection, func(flags *pflag.FlagSet) {
		flags.BoolVar(&o.inGit, "in-git", false, "write the approval into the app's file in the environment repository, by one commit")
	})
	o.add(cmd)
	o.notify.add(cmd)
	return cmd
}

func (o *approveOptions) validate() error {
	if o.inGit {
		return o.validateCommit()
	}
	if err := o.lifecycleOptions.validate(); err != nil {
		return err
	}
	return o.approval.load(o.cmd, o.by)
}

// validateCommit finds what is wrong with the options of an approval in Git.
func (o *approveOptions) validateCommit() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	for name, given := range map[string]bool{"--approve-as-operator": o.approval.operator, "--dry-run": o.dryRun} {
		if given {
			return &usererr.Error{Field: name, Problem: "does not go together with --in-git", Fix: "leave one of them out"}
		}
	}
	if o.cluster.app == "" {
		return &usererr.Error{Field: "--app", Problem: "is missing", Fix: "give the name of the app"}
	}
	if err := release.CheckApp("app", o.cluster.app); err != nil {
		return err
	}
	if o.git, err = newProposals(o.cmd, o.cluster.app); err != nil || o.git.needs <= 1 {
		return err
	}
	o.signer, err = o.git.repository.SignsAs(o.git.signers)
	return err
}

// approved is what approve --in-git prints.
type approved struct {
	App       string `json:"app"`
	ReleaseID string `json:"releaseId"`
	File      string `json:"file"`
	Branch    string `json:"branch"`
	Commit    string `json:"commit"`  // the new one, or the head that was looked at
	Changed   bool   `json:"changed"` // a commit was made
	Message   string `json:"message"`
}

// runCommit makes the commit.
func (o *approveOptions) runCommit(ctx context.Context) error {
	ctx, stop := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("--timeout: %s are over", o.timeout))
	defer stop()
	id := o.releaseID
	message := environment.Message{Subject: o.git.app + ": approve a release"}
	if id != "" {
		message.Subject = o.git.app + ": approve release " + id
	}
	commit, err := o.git.repository.Commit(ctx, message, func(files *environment.Tree) error {
		p, err := proposal.Approve(files, o.git.file, o.git.app, o.releaseID, o.signer)
		if err == nil {
			id = p.ID
		}
		return err
	})
	if err != nil {
		return err
	}
	a := approved{App: o.git.app, ReleaseID: id, File: o.git.file, Branch: commit.Branch, Commit: commit.Hash, Changed: commit.New}
	a.Message = fmt.Sprintf("release %s is approved by commit %.12s on %s (%s)", id, a.Commit, a.Branch, a.File)
	if !a.Changed {
		if err := o.counts(ctx, id); err != nil {
			return err
		}
		a.Message = fmt.Sprintf("release %s is approved already on %s (%s); nothing to do", id, a.Branch, a.File)
	}
	return o.output.print(o.out, view{data: a, text: line("approve: %s", a.Message), names: []string{"commit/" + a.Commit}})
}

// counts says why an approval of a release that the file has already is none.
func (o *approveOptions) counts(ctx context.Context, id string) error {
	history, err := o.git.read(ctx, "")
	if err != nil {
		return err
	}
	_, proposed, err := history.Current()
	if err != nil || proposed == nil {
		return err
	}
	found, missing := history.Approvals(proposed.Commit, id, o.git.signers, 1, time.Now())
	if missing == nil && o.signer != "" && !slices.ContainsFunc(found, func(a proposal.Approval) bool { return a.Of(o.signer) }) {
		missing = fmt.Errorf("no commit that %s has signed brought it", o.signer)
	}
	if missing != nil {
		return &usererr.Error{Field: o.git.file, Problem: "it has an approval that does not count: " + missing.Error(), Fix: "take the lines approve and approvedBy out by a commit, then run the same command again; nothing was changed"}
	}
	return nil
}

func (o *approveOptions) run(ctx context.Context) error {
	if o.inGit {
		return o.runCommit(ctx)
	}
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		o.approval.apply(c)
		result, err := c.Approve(ctx)
		return outcome{Result: result}, err
	})
}
