package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/proposal"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// dotenvFormat is the format of proposal for the variables of jobs.
const dotenvFormat = "dotenv"

type proposalOptions struct {
	output     outputOptions
	app        string
	repository string

	file     string
	proposal *proposal.Proposal
	out      io.Writer
}

func newProposalCommand() *cobra.Command {
	o := &proposalOptions{}
	cmd := &cobra.Command{
		Use:   "proposal [FILE]",
		Short: "Read the release that the environment repository names for an app",
		Long: `Read the file that propose has written, in a clone of the environment repository,
and reject one that is not right: an unknown field, an image without a digest,
another app's. Without FILE it is the one of the app in the folder
gitops.releases.

With -o dotenv it prints the variables that trigger --variables starts a pipeline
with: CROSSBILL_APP, CROSSBILL_RELEASE_ID, CROSSBILL_IMAGE, CROSSBILL_BUNDLE,
CROSSBILL_COMMIT, CROSSBILL_SOURCE_URL and CROSSBILL_AGAIN, each in one line
without quotes, for a shell and for GitLab's artifacts:reports:dotenv.`,
		Example: `  # What is to be released?
  crossbill proposal releases/shop.yaml

  # In a job: only images and bundles of the app's own repository
  crossbill proposal --app shop --repository registry.example.com/our-org/shop -o dotenv > release.env
  . ./release.env`,
		Args: cobra.MaximumNArgs(1),
		RunE: runs(o),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.app, "app", "", "name of the app (default: that of FILE)")
	flags.StringVar(&o.repository, "repository", "", "repository that the image or bundle has to be from; without it from any")
	o.output.add(cmd, dotenvFormat)
	return cmd
}

func (o *proposalOptions) complete(cmd *cobra.Command, args []string) (err error) {
	o.out = cmd.OutOrStdout()
	switch {
	case len(args) == 1:
		if o.file = args[0]; !cmd.Flags().Changed("app") { // crossbill.yaml may be another app's
			o.app = strings.TrimSuffix(filepath.Base(o.file), filepath.Ext(o.file))
		}
		return nil
	case o.app == "":
		return &usererr.Error{Field: "--app", Problem: "is missing", Fix: "give the name of the app, or the file of its proposal"}
	}
	if err := release.CheckApp("app", o.app); err != nil {
		return err
	}
	o.file, err = proposal.Path(configOf(cmd).settings.Value("gitops.releases"), o.app)
	return err
}

func (o *proposalOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	text, err := readProposal(o.file)
	if err != nil {
		return err
	}
	if o.proposal, err = proposal.Parse(o.file, text, o.app); err != nil || o.repository == "" {
		return err
	}
	repository, err := name.NewRepository(o.repository)
	if err != nil {
		return &usererr.Error{Field: "--repository", Problem: fmt.Sprintf("%q is not a repository", o.repository), Fix: "give for example registry.example.com/our-org/shop"}
	}
	return o.proposal.CheckRepository(repository.Name())
}

// readProposal reads a file that a repository has: no link leads out of it, and no device is waited for.
func readProposal(file string) ([]byte, error) {
	const fix = "give the file that `crossbill propose` writes, in a clone of the environment repository"
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &usererr.Error{Field: file, Problem: "not found: nothing is proposed there", Fix: fix}
	case err != nil:
		return nil, &usererr.Error{Field: file, Problem: err.Error(), Fix: fix}
	case !info.Mode().IsRegular():
		return nil, &usererr.Error{Field: file, Problem: "it is no file", Fix: fix}
	}
	opened, err := os.Open(file)
	if err != nil {
		return nil, &usererr.Error{Field: file, Problem: err.Error(), Fix: fix}
	}
	defer opened.Close()
	return io.ReadAll(io.LimitReader(opened, proposal.MaxFile+1))
}

func (o *proposalOptions) run(context.Context) error {
	return o.output.print(o.out, view{
		data: o.proposal, names: []string{"release/" + o.proposal.ID}, text: o.text,
		more: map[string]func(io.Writer) error{dotenvFormat: func(out io.Writer) error {
			_, err := io.WriteString(out, o.proposal.Dotenv())
			return err
		}},
	})
}

func (o *proposalOptions) text(out io.Writer) error {
	p, again := o.proposal, ""
	if p.Again {
		again = "although it has finished before, or is older"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, field := range []struct{ name, value string }{
		{"app", p.App}, {"release", p.ID}, {"image", p.Image}, {"bundle", p.Bundle}, {"commit", p.Commit}, {"run", p.SourceURL}, {"again", again}, {"approve", p.Approve},
	} {
		if field.value != "" {
			fmt.Fprintf(w, "%s:\t%s\n", field.name, field.value)
		}
	}
	return w.Flush()
}
