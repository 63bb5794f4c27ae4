package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/rollout"
)

type rollbackOptions struct {
	lifecycleOptions
	reason string
}

func newRollbackCommand() *cobra.Command {
	o := &rollbackOptions{}
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Send all of the traffic back to the old primary and remove the canary",
		Long: `Send all of the traffic to primary, put the old digest back on it when promotion
had started, then drain and delete the canary. Works at any time, from wherever
another job died, and takes the lock of whoever holds it. Where crossbill.yaml or
the manifests cannot be read, it warns and goes by the ledger.`,
		Example: `  # End the release in flight
  crossbill rollback --reason "checkout is slow"

  # Only if it is this one
  crossbill rollback --release-id app-2b9c6e1-c0ffee1`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.reason, "reason", "requested by a person", "why, for the ledger")
	o.addReleaseID(cmd)
	o.add(cmd)
	o.traffic.add(cmd)
	o.notify.add(cmd)
	o.addRecovery(cmd)
	return cmd
}

func (o *rollbackOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		result, err := c.Rollback(ctx, o.reason)
		return outcome{Result: result}, err
	})
}
