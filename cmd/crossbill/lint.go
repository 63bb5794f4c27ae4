package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/pipelinefile"
	"github.com/our-org/crossbill/internal/usererr"
)

type lintOptions struct {
	path   string
	jobs   pipelinefile.Options
	out    io.Writer
	file   *pipelinefile.File // after validate
	output outputOptions
}

func newLintCommand() *cobra.Command {
	o := &lintOptions{}
	cmd := &cobra.Command{
		Use:   "lint [FILE]",
		Short: "Prove that a .gitlab-ci.yml promotes nothing before its approval gate",
		Long: `Prove that in a .gitlab-ci.yml no job behind the approval gate can run before
somebody has pressed it, that rollback can be reached from every state, and that
nothing is deployed by tag. It reads only the file and sends nothing to GitLab.
The default FILE is .gitlab-ci.yml.

Exit codes: 0 no finding, 1 findings, 2 no such file, or not a pipeline file.`,
		Example: `  # Check the file of this repository
  crossbill lint

  # Check another file, whose jobs have other names, in a program
  crossbill lint deploy.yml --promote-job promote --canary-job canary -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: runs(o),
	}
	inSection(cmd.Flags(), gitlabSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.jobs.Gate, "promote-job", "promote_to_production", "job that promotes the release: the approval gate")
		flags.StringVar(&o.jobs.Canary, "canary-job", "deploy_canary", "job that starts the canary")
		flags.StringVar(&o.jobs.Verify, "verify-job", "verify_canary", "job that judges the canary")
		flags.StringVar(&o.jobs.Rollback, "rollback-job", "rollback", "prefix of the names of the rollback jobs")
	})
	// Until the next release these flags have their old names as well.
	earlier := map[string]string{"gate": "promote-job", "canary": "canary-job", "verify": "verify-job", "rollback": "rollback-job"}
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if renamed, ok := earlier[name]; ok {
			name = renamed
		}
		return pflag.NormalizedName(name)
	})
	o.output.add(cmd)
	return cmd
}

func (o *lintOptions) complete(cmd *cobra.Command, args []string) error {
	o.out, o.path = cmd.OutOrStdout(), ".gitlab-ci.yml"
	if len(args) == 1 {
		o.path = args[0]
	}
	return nil
}

func (o *lintOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	data, err := os.ReadFile(o.path)
	if err != nil {
		return &usererr.Error{Field: "FILE", Problem: err.Error(), Fix: "give a .gitlab-ci.yml"}
	}
	if o.file, err = pipelinefile.Parse(data); err != nil {
		return &usererr.Error{Field: o.path, Problem: err.Error(), Fix: "give a .gitlab-ci.yml"}
	}
	return nil
}

func (o *lintOptions) run(context.Context) error {
	findings := pipelinefile.Check(o.file, o.jobs)
	v := view{data: findings, text: func(out io.Writer) error {
		for _, f := range findings {
			fmt.Fprintf(out, "%s: %s\n", o.path, f)
		}
		if len(findings) == 0 {
			fmt.Fprintf(out, "lint: %s: %s, no finding\n", o.path, counted(len(o.file.Jobs), "job"))
		}
		return nil
	}}
	for _, f := range findings {
		v.names = append(v.names, "rule/"+f.Rule)
	}
	if err := o.output.print(o.out, v); err != nil || len(findings) == 0 {
		return err
	}
	return fmt.Errorf("%s: %s", o.path, counted(len(findings), "finding"))
}

// counted is a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
