package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/usererr"
)

// options are what a command is made of.
type options interface {
	// complete fills in what was not given, from arguments, files and the environment.
	complete(cmd *cobra.Command, args []string) error
	// validate finds bad input. It asks nothing of a server.
	validate() error
	run(ctx context.Context) error
}

// runs gives a command its options: complete, validate, run.
func runs(o options) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := o.complete(cmd, args); err != nil {
			return err
		}
		if err := o.validate(); err != nil {
			return err
		}
		return o.run(cmd.Context())
	}
}

// globalOptions are those of every command.
type globalOptions struct {
	config  string
	verbose bool
}

func (o *globalOptions) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.config, "config", "", "configuration file (default $CROSSBILL_CONFIG, then crossbill.yaml in the working directory, if there is one)")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "show each request to the API server: method, URL, status, time")
}

func newRootCommand() *cobra.Command {
	cobra.EnableCommandSorting = false // the order is the lifecycle's
	global := &globalOptions{}
	root := newGroupCommand("crossbill", "Carry a release into an Istio mesh, a little traffic first")
	root.Long = `Crossbill carries a release into an Istio mesh, a little traffic first: canary,
verify, promote, cleanup; and rollback at any time.

Options are flags, environment variables, or keys of crossbill.yaml; flags win
over the environment, the environment over the file.`
	root.Example = `  # A release, step by step
  crossbill canary --image registry.example.com/our-org/app@sha256:…
  crossbill verify --prometheus http://prometheus.istio-system:9090
  crossbill promote
  crossbill cleanup

  # Where is it, and what would the next step change?
  crossbill status
  crossbill promote --dry-run`
	root.Version = buildVersion().Version
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(badFlag)
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpCommand(newHelpCommand())
	global.add(root.PersistentFlags())
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return global.apply(cmd) }
	for _, group := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Set up", []*cobra.Command{newInitCommand(), newDoctorCommand()}},
		{"Release lifecycle", []*cobra.Command{newQueueCommand(), newCanaryCommand(), newShiftCommand(), newVerifyCommand(), newApproveCommand(), newPromoteCommand(), newCleanupCommand(), newRollbackCommand(), newHoldCommand(), newResumeCommand(), newPreviewCommand(), newRunCommand()}},
		{"Inspect and recover", []*cobra.Command{newStatusCommand(), newHistoryCommand(), newReportCommand(), newReplayCommand(), newGuardCommand(), newMigrateCommand(), newGitOpsCommand(), newPlanCommand()}},
		{"Image and bundle", []*cobra.Command{newImageCommand(), newBundleCommand()}},
		{"Handoff to GitLab", []*cobra.Command{newTriggerCommand(), newProposeCommand(), newProposalCommand(), newWatchCommand(), newCancelCommand(), newLintCommand()}},
	} {
		root.AddGroup(&cobra.Group{ID: group.title, Title: group.title + ":"})
		for _, command := range group.commands {
			command.GroupID = group.title
			root.AddCommand(command)
		}
	}
	const other = "Other"
	root.AddGroup(&cobra.Group{ID: other, Title: other + ":"})
	version := newVersionCommand()
	version.GroupID = other
	root.AddCommand(version)
	root.SetHelpCommandGroupID(other)
	root.SetCompletionCommandGroupID(other)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	badArgsAreBadInput(root)
	return root
}

// newGroupCommand makes a command that has subcommands only: without one it shows its help, with an unknown one
// it suggests others.
func newGroupCommand(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: unknownCommand, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
}

// unknownCommand refuses an argument of a group: what is not one of its commands.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if suggestions := cmd.SuggestionsFor(args[0]); args[0] != "" && len(suggestions) > 0 {
		text += "; did you mean " + strings.Join(suggestions, ", ") + "?"
	}
	return errors.New(text)
}

// oneArgument refuses anything but one argument, which the message calls by its name.
func oneArgument(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 || len(args) == 1 && args[0] == "":
			return &usererr.Error{Field: name, Problem: "is missing"}
		case len(args) > 1:
			return &usererr.Error{Field: name, Problem: fmt.Sprintf("%d are given", len(args)), Fix: "give one"}
		}
		return nil
	}
}

// badArgsAreBadInput gives wrong arguments the exit code of bad input.
func badArgsAreBadInput(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &exitError{exitBadInput, fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, child := range cmd.Commands() {
		badArgsAreBadInput(child)
	}
}

// badFlag gives a wrong flag the exit code of bad input.
func badFlag(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 { // the flag is that of a command that there is not
		if err := unknownCommand(cmd, cmd.Flags().Args()); err != nil {
			return &exitError{exitBadInput, err}
		}
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return badValue(invalid, cmd)
	}
	return &exitError{exitBadInput, fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
}

// badValue says what a flag takes, in place of what strconv says about its text.
func badValue(err *pflag.InvalidValueError, cmd *cobra.Command) error {
	bad := &usererr.Error{Field: "--" + err.GetFlag().Name, Problem: err.Unwrap().Error(), Fix: fmt.Sprintf("see `%s --help`", cmd.CommandPath())}
	for kind, takes := range map[string]struct{ what, example string }{
		"int":      {"a whole number", "10"},
		"int64":    {"a whole number", "1234"},
		"float64":  {"a number", "10"},
		"bool":     {"true or false", "true"},
		"intSlice": {"a list of whole numbers", "10,25,50"},
	} {
		if err.GetFlag().Value.Type() == kind {
			bad.Problem, bad.Fix = fmt.Sprintf("%q is not %s", err.GetValue(), takes.what), "give for example "+takes.example
		}
	}
	return bad
}

// newHelpCommand is cobra's, but that an unknown command is an error.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Example: "  crossbill help canary\n  crossbill help image build",
		Args: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) == 0 {
				return err
			}
			if found.HasSubCommands() {
				return unknownCommand(found, rest)
			}
			return fmt.Errorf("%q has no command %q", found.CommandPath(), rest[0])
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			found, _, err := cmd.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, child := range found.Commands() {
				if child.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(child.Name(), child.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			found, _, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}
