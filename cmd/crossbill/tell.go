package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/rollout"
)

// tellFlags say who is told what a command did: GitHub, a webhook, a trace collector, a Pushgateway.
type tellFlags struct {
	github      githubFlags
	webhookFile string
	pushgateway string
}

func (f *tellFlags) add(cmd *cobra.Command) {
	f.github.add(cmd)
	cmd.Flags().StringVar(&f.webhookFile, "webhook-file", "", "file with the address that gets a notice of what came of it, as JSON that Slack shows too (default $CROSSBILL_WEBHOOK)")
	cmd.Flags().StringVar(&f.pushgateway, "pushgateway", "", "URL of a Prometheus Pushgateway that gets its metrics (default $CROSSBILL_PUSHGATEWAY)")
}

// tellTimeout bounds all of the telling.
const tellTimeout = time.Minute

// around runs a command and tells who is to be told. Telling never changes the command's own outcome.
func (f *tellFlags) around(cmd *cobra.Command, cluster *clusterFlags, command string, releaseID *string, run func() (rollout.Result, error)) error {
	begun := time.Now()
	result, err := run()
	id := *releaseID
	if result.Release != nil {
		id = result.Release.ID
	}
	// Also after Ctrl-C: it is the last thing that this process does.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), tellTimeout)
	defer cancel()
	status, tell := deploymentStatus(command, result, err)
	if !tell {
		return err
	}
	if id != "" && status.State != "" {
		status.EnvironmentURL = f.github.environmentURL
		f.github.tell(ctx, cmd.ErrOrStderr(), id, status)
	}
	event := &notify.Event{
		Command: command, App: cluster.app, Namespace: cluster.namespace, Release: result.Release, ReleaseID: id, Outcome: result.Outcome,
		Message: result.Message, Begun: begun, Ended: time.Now(), Steps: cluster.steps,
	}
	if err != nil {
		event.ExitCode, event.Message = exitCode(err), err.Error()
	}
	if untold := f.send(ctx, event); untold != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "crossbill: not told: %v; the release itself is not touched by this\n", untold)
	}
	return err
}

// trace tells the trace collector of a command of the handoff.
func trace(cmd *cobra.Command, command, app, releaseID string, begun time.Time, err error) {
	if !notify.Traced() || releaseID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), tellTimeout)
	defer cancel()
	event := &notify.Event{Command: command, App: app, ReleaseID: releaseID, Begun: begun, Ended: time.Now()}
	if err != nil && exitCode(err) != exitWaiting {
		event.ExitCode, event.Message = exitCode(err), err.Error()
	}
	if untold := notify.Trace(ctx, version, event); untold != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "crossbill: not told: %v\n", untold)
	}
}

// send tells everybody but GitHub.
func (f *tellFlags) send(ctx context.Context, e *notify.Event) error {
	address, err := secret("--webhook-file", f.webhookFile, "CROSSBILL_WEBHOOK")
	errs := []error{err}
	if address != "" {
		errs = append(errs, notify.Webhook(ctx, address, e))
	}
	gateway := f.pushgateway
	if gateway == "" {
		gateway = os.Getenv("CROSSBILL_PUSHGATEWAY")
	}
	if gateway != "" {
		errs = append(errs, notify.Push(ctx, gateway, e))
	}
	if notify.Traced() {
		errs = append(errs, notify.Trace(ctx, version, e))
	}
	return errors.Join(errs...)
}
