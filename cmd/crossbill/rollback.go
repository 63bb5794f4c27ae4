package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type rollbackOptions struct {
	lifecycleOptions
	reason string
	to     string
	hold   bool
}

func newRollbackCommand() *cobra.Command {
	o := &rollbackOptions{}
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Send all of the traffic back to the old primary and remove the canary",
		Long: `Send all of the traffic to primary, put the old digest back on it when promotion
had started, then drain and delete the canary. Works at any time, from wherever
another job died, and takes the lock of whoever holds it. Where crossbill.yaml or
the manifests cannot be read, it warns and goes by the ledger.

With --to it returns to a release that has finished, as primary ran it: image,
pod template and configuration. With an id, a release in flight is rolled back
first; previous is rejected then. The pods of the release get ready as the canary,
then all of the traffic; primary is replaced behind them. Nothing is judged again.
No new release starts from then on until resume.

Where the steps of a release are commits (gitops.store: git), --now moves the traffic
in the cluster first, and has the controller leave the route alone; then rollback
puts Git right, and the controller gets the route back. It is for a canary that has
a share, and for an account that may patch the route.`,
		Example: `  # End the release in flight
  crossbill rollback --reason "checkout is slow"

  # Only if it is this one
  crossbill rollback --release-id app-2b9c6e1-c0ffee1

  # While Git is down, where the steps of a release are commits
  crossbill rollback --now --reason "checkout is slow"

  # Return to the release before the one that primary runs, or to any of the last ones
  crossbill rollback --to previous --reason "orders are lost"
  crossbill rollback --to 8db9a2d5989c --reason "orders are lost"`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.reason, "reason", "requested by a person", "why, for the ledger")
	cmd.Flags().StringVar(&o.to, "to", "", "finished release to return to, by its id in history, or previous (default: what primary ran before the release in flight)")
	cmd.Flags().BoolVar(&o.hold, "hold", true, "with --to: no new release starts until resume")
	cmd.Flags().BoolVar(&o.now, "now", false, "with gitops.store git: move the traffic in the cluster first, while Git or its controller is down")
	completeReleases(cmd, "to", &o.cluster, true)
	o.addReleaseID(cmd)
	o.addHooks(cmd, false)
	o.add(cmd)
	o.traffic.add(cmd)
	o.notify.add(cmd)
	o.addRecovery(cmd)
	return cmd
}

func (o *rollbackOptions) validate() error {
	if o.to != "" && o.to != rollout.Previous {
		if err := release.CheckID("--to", o.to); err != nil {
			return err
		}
	}
	if o.now && o.to != "" {
		return &usererr.Error{Field: "--now", Problem: "it is for the release in flight, and --to returns to another one", Fix: "leave out one of the two"}
	}
	if o.to == "" && o.cmd.Flags().Changed("hold") {
		return &usererr.Error{Field: "--hold", Problem: "it is for --to", Fix: "run `crossbill hold` to keep new releases from starting"}
	}
	return o.lifecycleOptions.validate()
}

func (o *rollbackOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		if o.to != "" {
			result, err := c.RollbackTo(ctx, o.to, o.reason, o.hold)
			return outcome{Result: result}, err
		}
		result, err := c.Rollback(ctx, o.reason)
		return outcome{Result: result}, err
	})
}
