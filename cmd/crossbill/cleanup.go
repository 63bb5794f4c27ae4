package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/rollout"
)

type cleanupOptions struct{ lifecycleOptions }

func newCleanupCommand() *cobra.Command {
	o := &cleanupOptions{}
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Drain and delete the canary of a promoted release, and finish the release",
		Long: `Wait until nobody calls the canary of a promoted release any more, delete it,
give back the ownership of fields that others own, and finish the release. With
--prometheus the canary's counters are the evidence; without it, a delay is
waited out. With --keep-warm the canary's Deployment gets the pods of the version
before instead, which get no traffic; guard or the next release removes them.`,
		Example: `  crossbill cleanup --prometheus http://prometheus.istio-system:9090`,
		Args:    cobra.NoArgs,
		RunE:    runs(o),
	}
	o.cluster.byLedger = true
	o.addReleaseID(cmd)
	o.addKeepWarm(cmd)
	o.addTakeover(cmd)
	o.addHooks(cmd, false)
	o.add(cmd)
	o.traffic.add(cmd)
	o.notify.add(cmd)
	return cmd
}

func (o *cleanupOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		result, err := c.Cleanup(ctx)
		return outcome{Result: result}, err
	})
}
