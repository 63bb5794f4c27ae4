package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/rollout"
)

type guardOptions struct {
	lifecycleOptions
	limits   rollout.Limits
	analysis analysisOptions
}

func newGuardCommand() *cobra.Command {
	o := &guardOptions{}
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "End a release that nobody works on any more; to be run on a schedule",
		Long: `End a release that nobody works on any more: roll it back, or clean it up when
it was promoted. A release that a living job works on is left alone, as is one
that stands still for no longer than the flags allow. Run it on a schedule.

With --prometheus a canary that waits for its verdict or its approver is judged:
its pods, and all of its requests since it was judged last. One that has turned
bad is rolled back (exit code 3).`,
		Example: `  # In a scheduled pipeline, every five minutes
  crossbill guard --dead 15m --waiting 24h`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	positiveDuration(cmd.Flags(), &o.limits.Dead, "dead", 15*time.Minute, "how long a release may stand still where a job must be at work")
	positiveDuration(cmd.Flags(), &o.limits.Waiting, "waiting", 24*time.Hour, "how long a canary may wait for its verdict, or for an approver")
	o.add(cmd)
	o.traffic.add(cmd)
	o.notify.add(cmd)
	o.recovers = true
	return cmd
}

func (o *guardOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		result, err := c.Guard(ctx, o.limits)
		if err != nil || o.dryRun || o.traffic.prometheus == "" || result.Outcome != "" {
			return outcome{Result: result}, err
		}
		options, err := o.analysis.options(c, &o.traffic, o.log)
		if err != nil {
			return outcome{Result: result}, err
		}
		came, err := analysis.Guard(ctx, options)
		if came.Message == "" { // there is no canary that waits
			came.Result = result
		}
		return outcome{came.Result, summaryOf(came.Verdict)}, err
	})
}

func (o *guardOptions) validate() error {
	if err := o.lifecycleOptions.validate(); err != nil || o.traffic.prometheus == "" {
		return err
	}
	return o.analysis.load(o.cmd, o.cluster.manifests)
}
