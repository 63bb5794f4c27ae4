package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/internal/doctor"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type doctorOptions struct {
	cluster clusterOptions
	output  outputOptions
	gitops  gitOpsOptions

	cmd      *cobra.Command
	out, log io.Writer
}

func newDoctorCommand() *cobra.Command {
	o := &doctorOptions{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the set-up before a release: what is wrong, and the fix",
		Long: `Check whether what a release needs is in place: a list of what is right (✓), what
is wrong (✗) with its fix, and what cannot be known before it is tried (?).
Nothing is changed.

For an app that Flux or Argo CD applies from Git: what applies each object, whether
it would undo a release, whether Crossbill may ask it, and whether the environment
repository has primary run what it runs.

Exit codes: 0 nothing blocks a release, 2 something does, 1 something could not be
looked at.`,
		Example: `  # As the job that releases, with its account
  crossbill doctor --namespace production

  # The fixes of what blocks
  crossbill doctor -o json | jq -r '.items[] | select(.status == "problem") | .fix'`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	o.cluster.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *doctorOptions) complete(cmd *cobra.Command, _ []string) error {
	o.cmd, o.out, o.log = cmd, cmd.OutOrStdout(), cmd.ErrOrStderr()
	o.cluster.complete(cmd)
	return nil
}

func (o *doctorOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	if err := o.cluster.validate(); err != nil {
		return err
	}
	return o.gitops.load(o.cmd, false)
}

func (o *doctorOptions) run(ctx context.Context) error {
	checks, err := o.checks(ctx)
	if err != nil {
		return err
	}
	named := func(field string) string { return field }
	if settings := configOf(o.cmd).settings; settings != nil {
		named = settings.Name
	}
	findings := doctor.Run(ctx, checks, named)
	v := view{data: findings, text: func(out io.Writer) error { return writeFindings(out, findings) }}
	problems, failures := 0, 0
	for _, f := range findings {
		switch {
		case f.Failure != nil:
			failures++
		case f.Status == doctor.Problem:
			problems++
			v.names = append(v.names, "problem/"+f.Check)
		}
	}
	if err := o.output.print(o.out, v); err != nil {
		return err
	}
	switch {
	case problems > 0:
		return &exitError{exitBadInput, fmt.Errorf("problems that block a release: %d; nothing was changed", problems)}
	case failures > 0:
		return fmt.Errorf("checks that could not be carried out: %d; run the command again", failures)
	}
	return nil
}

// checks are all that there are, in the order in which a person would look.
func (o *doctorOptions) checks(ctx context.Context) ([]doctor.Check, error) {
	c, err := o.cluster.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.Log = func(rollout.Event) {}
	if err := o.gitops.apply(o.cmd, &o.cluster, c); err != nil {
		return nil, err
	}
	objects, err := o.cluster.set.Objects(o.cluster.namespace)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(o.cluster.config)
	if err != nil {
		return nil, &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	git := &doctor.GitOps{Client: client, Namespace: o.cluster.namespace, Names: objects}
	if o.gitops.settings != nil {
		git.Controller, git.Image, git.Missing, git.Branch = c.Applies(), o.gitops.image(o.cmd, &o.cluster, c), o.gitops.missing, o.gitops.settings.Value("gitops.branch")
	}
	return git.Checks(), nil
}

// writeFindings writes a line for each, and one for its fix.
func writeFindings(out io.Writer, findings []doctor.Finding) error {
	for _, f := range findings {
		if _, err := fmt.Fprintf(out, "%s %s: %s\n", map[doctor.Status]string{doctor.OK: "✓", doctor.Problem: "✗", doctor.Unknown: "?"}[f.Status], f.Check, f.Detail); err != nil {
			return err
		}
		if f.Fix != "" {
			if _, err := fmt.Fprintf(out, "  fix: %s\n", f.Fix); err != nil {
				return err
			}
		}
	}
	return nil
}
