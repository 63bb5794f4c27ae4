package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/rollout"
)

// tellFlags say who is notified of what a command did: GitHub, a webhook, a trace collector, a Pushgateway.
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

// around runs a command and notifies the targets of its end, which never changes the command's own result.
func (f *tellFlags) around(cmd *cobra.Command, cluster *clusterFlags, command string, releaseID *string, run func() (rollout.Result, error)) error {
	started := time.Now()
	result, err := run()
	event := &notify.Event{
		Command: command, App: cluster.app, Namespace: cluster.namespace, Release: result.Release, ReleaseID: *releaseID, Outcome: result.Outcome,
		Message: result.Message, StartedAt: started, FinishedAt: time.Now(), Steps: cluster.steps,
	}
	if result.Release != nil {
		event.ReleaseID = result.Release.ID
	}
	if event.Result = resultOf(err); err != nil {
		event.ExitCode, event.Message = exitCode(err), err.Error()
	}
	targets, bad := f.targets()
	if failed := errors.Join(bad, notify.All(cmd.Context(), targets.Notifiers(), event)); failed != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "crossbill: notification failed: %v\ncrossbill: the release itself is not affected by this\n", failed)
	}
	return err
}

// resultOf is what the error of a command means to those who are notified.
func resultOf(err error) notify.Result {
	if err == nil {
		return notify.Succeeded
	}
	switch exitCode(err) {
	case exitUnhealthy:
		return notify.Unhealthy
	case exitDeadline:
		return notify.NotReady
	case exitInconclusive:
		return notify.Inconclusive
	case exitFailure:
		return notify.Failed
	}
	return notify.Refused
}

// targets are those that the flags and the environment name.
func (f *tellFlags) targets() (notify.Targets, error) {
	github, _, githubErr := f.github.source()
	webhook, webhookErr := secret("--webhook-file", f.webhookFile, "CROSSBILL_WEBHOOK")
	return notify.Targets{
		GitHub: github, WebhookURL: webhook, PushgatewayURL: cmp.Or(f.pushgateway, os.Getenv("CROSSBILL_PUSHGATEWAY")), Version: version,
	}, errors.Join(githubErr, webhookErr)
}

// traceTimeout bounds the sending of a trace.
const traceTimeout = 20 * time.Second

// trace sends the trace of a command of the handoff.
func trace(cmd *cobra.Command, command, app, releaseID string, started time.Time, err error) {
	if !notify.TracesConfigured() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), traceTimeout)
	defer cancel()
	event := &notify.Event{Command: command, App: app, ReleaseID: releaseID, Result: notify.Succeeded, StartedAt: started, FinishedAt: time.Now()}
	if err != nil && exitCode(err) != exitWaiting {
		event.Result, event.ExitCode, event.Message = notify.Failed, exitCode(err), err.Error()
	}
	if failed := (notify.Traces{Version: version}).Notify(ctx, event); failed != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "crossbill: notification failed: %v\n", failed)
	}
}
