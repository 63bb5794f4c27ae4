package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

type shiftOptions struct {
	lifecycleOptions
	trust    trustOptions
	approval approvalOptions
	steps    []int
	pause    time.Duration
}

func newShiftCommand() *cobra.Command {
	o := &shiftOptions{}
	cmd := &cobra.Command{
		Use:   "shift --steps 10,25,50",
		Short: "Give the canary more of the traffic, in steps",
		Long: `Give the canary more of the traffic, in steps. Before each step the canary is
scaled for it, and all of its pods are ready. Steps that the release has passed
are left out. Run verify again afterwards: promote asks for a verdict at the
canary's last weight.`,
		Example: `  # Go up to 50%, ten minutes at each step
  crossbill shift --steps 20,35,50 --pause 10m`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().IntSliceVar(&o.steps, "steps", nil, "percentages, rising: the last one is where the canary stays")
	anyDuration(cmd.Flags(), &o.pause, "pause", 0, "how long each step but the last is left as it is (default: not at all)")
	o.addReleaseID(cmd)
	o.addTakeover(cmd)
	o.addHooks(cmd, true)
	o.trust.add(cmd)
	o.approval.add(cmd)
	o.add(cmd)
	o.traffic.add(cmd)
	o.notify.add(cmd)
	return cmd
}

func (o *shiftOptions) validate() error {
	if err := release.CheckSteps("--steps", o.steps); err != nil {
		return err
	}
	if err := o.trust.load(o.cmd, o.cluster.manifests); err != nil {
		return err
	}
	o.trust.admitBundle(&o.cluster, provenance.Wanted{AnyAge: true}) // canary has looked at commit and age
	if err := o.lifecycleOptions.validate(); err != nil {
		return err
	}
	return o.approval.load(o.cmd, o.by)
}

func (o *shiftOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		if err := o.trust.apply(c); err != nil {
			return outcome{}, err
		}
		requireBundle(c, o.cluster.bundle)
		o.approval.apply(c)
		result, err := c.Shift(ctx, o.steps, o.pause)
		return outcome{Result: result}, analysis.RollBackUnready(ctx, analysis.Of(c), err)
	})
}
