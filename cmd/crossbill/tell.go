package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/rollout"
	"github.com/our-org/crossbill/telemetry"
)

// tellFlags say who is told what a verb did: GitHub, a webhook, a trace collector, a Pushgateway.
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

// around runs a verb and tells who is to be told. Telling never changes the verb's own outcome.
func (f *tellFlags) around(cmd *cobra.Command, cluster *clusterFlags, verb string, releaseID *string, run func() (rollout.Result, error)) error {
	begun := time.Now()
	result, err := run()
	id := *releaseID
	if result.Release != nil {
		id = result.Release.ID
	}
	// Also after Ctrl-C: it is the last thing that this process does.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), tellTimeout)
	defer cancel()
	status, tell := deploymentStatus(verb, result, err)
	if !tell {
		return err
	}
	if id != "" && status.State != "" {
		status.EnvironmentURL = f.github.environmentURL
		f.github.tell(ctx, cmd.ErrOrStderr(), id, status)
	}
	event := &telemetry.Event{
		Verb: verb, App: cluster.app, Namespace: cluster.namespace, Release: result.Release, ReleaseID: id, Outcome: result.Outcome,
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

// trace tells the trace collector of a verb of the handoff.
func trace(cmd *cobra.Command, verb, app, releaseID string, begun time.Time, err error) {
	if !telemetry.Traced() || releaseID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), tellTimeout)
	defer cancel()
	event := &telemetry.Event{Verb: verb, App: app, ReleaseID: releaseID, Begun: begun, Ended: time.Now()}
	if err != nil && exitCode(err) != exitWaiting {
		event.ExitCode, event.Message = exitCode(err), err.Error()
	}
	if untold := telemetry.Trace(ctx, version, event); untold != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "crossbill: not told: %v\n", untold)
	}
}

// send tells everybody but GitHub.
func (f *tellFlags) send(ctx context.Context, e *telemetry.Event) error {
	address, err := secret("--webhook-file", f.webhookFile, "CROSSBILL_WEBHOOK")
	errs := []error{err}
	if address != "" {
		errs = append(errs, telemetry.Webhook(ctx, address, e))
	}
	gateway := f.pushgateway
	if gateway == "" {
		gateway = os.Getenv("CROSSBILL_PUSHGATEWAY")
	}
	if gateway != "" {
		errs = append(errs, telemetry.Push(ctx, gateway, e))
	}
	if telemetry.Traced() {
		errs = append(errs, telemetry.Trace(ctx, version, e))
	}
	return errors.Join(errs...)
}
