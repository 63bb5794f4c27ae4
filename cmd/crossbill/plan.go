package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// plannable are the commands that `plan` takes.
var plannable = []string{"canary", "promote", "cleanup", "rollback", "migrate"}

// newPlanCommand is an older way to say COMMAND --dry-run. It has the flags of all of these commands, and
// passes those that were given to the one that is named.
func newPlanCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:        "plan COMMAND",
		Short:      "Show what a command would write: an older way to say COMMAND --dry-run",
		Example:    "  crossbill promote --dry-run",
		Deprecated: "use COMMAND --dry-run",
		Hidden:     true,
		ValidArgs:  plannable,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(plannable, args[0]) {
				return fmt.Errorf("name one of: %s", strings.Join(plannable, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			target, _, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if err := passFlags(cmd, target); err != nil {
				return err
			}
			return target.RunE(target, nil)
		},
	}
	new(canaryOptions).addAll(cmd)
	cmd.Flags().String("from", "", "for migrate: the Deployment that was created manually")
	return cmd
}

// passFlags gives a command the flags that another one was given, and --dry-run.
func passFlags(from, to *cobra.Command) error {
	to.SetContext(from.Context())
	if err := to.ParseFlags([]string{"--dry-run"}); err != nil {
		return err
	}
	var err error
	from.Flags().Visit(func(f *pflag.Flag) {
		target := to.Flags().Lookup(f.Name)
		if target == nil || err != nil {
			return
		}
		if given, ok := f.Value.(pflag.SliceValue); ok {
			err = target.Value.(pflag.SliceValue).Replace(given.GetSlice())
		} else {
			err = target.Value.Set(f.Value.String())
		}
		target.Changed = true
	})
	if err != nil {
		return err
	}
	return to.Root().PersistentPreRunE(to, nil)
}
