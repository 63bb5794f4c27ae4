// Command crossbill carries a release through its canary: the commands of the road, for a laptop or a
// runner that may not run a container engine. The exit codes are below.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// Exit codes, documented in docs/exit-codes.md.
const (
	exitFailure      = 1 // a dependency failed; the message says what is safe to do next
	exitBadInput     = 2 // bad input, or a command that the present stage does not allow; nothing was changed
	exitUnhealthy    = 3 // the canary is unhealthy; it was rolled back, unless --no-rollback
	exitInconclusive = 4 // too little evidence; the canary keeps its share
	exitLockHeld     = 5 // another release is in flight, or another job has taken the lock
	exitDeadline     = 6 // pods were not ready in time; rolled back
)

// version is set when the command is built (see the Makefile).
var version = "development"

// exitError carries an exit code of its own with an error.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() {
	klog.SetLogger(logr.Discard()) // client-go's own messages; the commands say what they do themselves
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "crossbill:", err)
		os.Exit(exitCode(err))
	}
}

func newRootCommand() *cobra.Command {
	cobra.EnableCommandSorting = false // the order is the road's
	root := &cobra.Command{
		Use:           "crossbill",
		Short:         "Carry a release into an Istio mesh, a little traffic first",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitBadInput, err} })
	for _, group := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"The road of a release", []*cobra.Command{
			newImageCommand(), newTriggerCommand(), newWatchCommand(), newCancelCommand(),
			newCanaryCommand(), newShiftCommand(), newVerifyCommand(), newPromoteCommand(), newCleanupCommand(),
		}},
		{"At any time", []*cobra.Command{newStatusCommand(), newHistoryCommand(), newReportCommand(), newPlanCommand(), newReplayCommand(), newRollbackCommand(), newGuardCommand(), newMigrateCommand(), newLintCommand()}},
	} {
		root.AddGroup(&cobra.Group{ID: group.title, Title: group.title + ":"})
		for _, command := range group.commands {
			command.GroupID = group.title
			root.AddCommand(command)
		}
	}
	badArgsAreBadInput(root)
	return root
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

func exitCode(err error) int {
	var coded *exitError
	var input *usererr.Error
	var inFlight *release.InFlightError
	var stage *rollout.StageError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, rollout.ErrLockLost), errors.As(err, &inFlight), errors.As(err, new(*rollout.LockHeldError)):
		return exitLockHeld
	case errors.As(err, &input), errors.As(err, &stage):
		return exitBadInput
	default:
		return exitFailure
	}
}
