package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/pipelinefile"
	"github.com/our-org/crossbill/internal/usererr"
)

func newLintCommand() *cobra.Command {
	var options pipelinefile.Options
	var output outputOptions
	cmd := &cobra.Command{
		Use:   "lint [FILE]",
		Short: "Prove of a .gitlab-ci.yml that nothing is promoted unless a person presses the button",
		Long: `Prove of a .gitlab-ci.yml that no job behind the gate can run before a person
has pressed it, that rollback can be reached from every state, and that nothing
is deployed by tag. It reads the file alone and asks no GitLab. The default FILE
is .gitlab-ci.yml. Exit codes: 0 nothing found, 1 something found, 2 no such
file, or not a pipeline file.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ".gitlab-ci.yml"
			if len(args) == 1 {
				path = args[0]
			}
			return lint(cmd, path, options, &output)
		},
	}
	cmd.Flags().StringVar(&options.Gate, "gate", "promote_to_production", "job that a person must press")
	cmd.Flags().StringVar(&options.Canary, "canary", "deploy_canary", "job that begins a release")
	cmd.Flags().StringVar(&options.Verify, "verify", "verify_canary", "job that judges the canary")
	cmd.Flags().StringVar(&options.Rollback, "rollback", "rollback", "what the names of the rollback jobs begin with")
	output.add(cmd)
	return cmd
}

func lint(cmd *cobra.Command, path string, options pipelinefile.Options, output *outputOptions) error {
	if err := output.validate(); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return &usererr.Error{Field: "FILE", Problem: err.Error(), Fix: "give a .gitlab-ci.yml"}
	}
	file, err := pipelinefile.Parse(data)
	if err != nil {
		return &usererr.Error{Field: path, Problem: err.Error(), Fix: "give a .gitlab-ci.yml"}
	}
	findings := pipelinefile.Check(file, options)
	err = output.print(cmd.OutOrStdout(), view{data: findings, text: func(out io.Writer) error {
		for _, f := range findings {
			fmt.Fprintf(out, "%s: %s\n", path, f)
		}
		if len(findings) == 0 {
			fmt.Fprintf(out, "lint: %s: %d jobs, nothing found\n", path, len(file.Jobs))
		}
		return nil
	}})
	if err == nil && len(findings) > 0 {
		noun := "findings"
		if len(findings) == 1 {
			noun = "finding"
		}
		err = fmt.Errorf("%s: %d %s", path, len(findings), noun)
	}
	return err
}
