package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type holdOptions struct {
	lifecycleOptions
	reason string
}

func newHoldCommand() *cobra.Command {
	o := &holdOptions{}
	cmd := &cobra.Command{
		Use:   "hold --reason REASON",
		Short: "Keep new releases of the app from starting",
		Long: `Keep new releases of the app from starting, until resume. canary then stops with
exit code 2 and says who holds the app, since when and why. A release in flight
goes on. rollback --to does the same by itself.`,
		Example: `  # During an incident
  crossbill hold --reason "database migration until 15:00"`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.reason, "reason", "", "why, for the ledger and whoever is refused")
	o.addTakeover(cmd)
	o.add(cmd)
	o.notify.add(cmd)
	o.addRecovery(cmd)
	return cmd
}

func (o *holdOptions) validate() error {
	if o.reason == "" {
		return &usererr.Error{Field: "--reason", Problem: "is missing", Fix: "say why: whoever is refused reads it"}
	}
	return o.lifecycleOptions.validate()
}

func (o *holdOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		result, err := c.Hold(ctx, o.reason)
		return outcome{Result: result}, err
	})
}

type resumeOptions struct{ lifecycleOptions }

func newResumeCommand() *cobra.Command {
	o := &resumeOptions{}
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Let new releases of an app that is on hold start again",
		Long: `Let new releases of the app start again, after hold or rollback --to. A release
that was taken back does not start by itself: canary needs --again for it.`,
		Example: `  crossbill resume`,
		Args:    cobra.NoArgs,
		RunE:    runs(o),
	}
	o.addTakeover(cmd)
	o.add(cmd)
	o.notify.add(cmd)
	o.addRecovery(cmd)
	return cmd
}

func (o *resumeOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		result, err := c.Resume(ctx)
		return outcome{Result: result}, err
	})
}
