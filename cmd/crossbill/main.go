// Command crossbill carries a release through its canary: the commands of its lifecycle, for a laptop or a
// runner that may not run a container engine.
//
// Each command is one file: an options struct whose flags are bound, completed from the environment and
// crossbill.yaml, validated before anything is asked of a server, and then run. What a release may do is
// decided in the packages below internal/, not here.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

func main() {
	klog.SetLogger(logr.Discard()) // client-go's own messages; the commands say what they do themselves
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, newRootCommand())
	stop()
	os.Exit(code)
}

// execute runs a command line and gives its exit code.
func execute(ctx context.Context, root *cobra.Command) int {
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && cmd.HasSubCommands() { // cobra shows the group's help for `image nope --help`, and for `completion nope`
		if unknown := unknownCommand(cmd, cmd.Flags().Args()); unknown != nil {
			err = &exitError{exitBadInput, unknown}
		}
	}
	if err != nil {
		fmt.Fprintln(root.ErrOrStderr(), "crossbill:", explain(cmd, err))
	}
	return exitCode(err)
}
