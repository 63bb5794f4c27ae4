package main

import (
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

func newPromoteCommand() *cobra.Command {
	var cluster clusterFlags
	var takeover bool
	var drain drainFlags
	var trust trustFlags
	var tell tellFlags
	var limits sloFlags
	var id *string
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "Put the canary's digest on primary and give it all of the traffic",
		Long: `Put the digest that the canary proved on primary, wait for the rollout, and
route all of the traffic to primary. Only a digest that was judged healthy in
this release is promoted. A primary that does not become ready is rolled back
to what it ran before (exit code 6). With --bake, primary is judged for a while
longer and rolled back when it is unhealthy (exit code 3).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tell.around(cmd, &cluster, "promote", id, func() (rollout.Result, error) {
				slo, err := checkBake(cmd, &limits, &drain, cluster.manifests)
				if err != nil {
					return rollout.Result{}, err
				}
				c, err := cluster.connect(cmd)
				if err != nil {
					return rollout.Result{}, err
				}
				if err := drain.apply(c); err != nil {
					return rollout.Result{}, err
				}
				if err := trust.apply(c, cluster.manifests); err != nil {
					return rollout.Result{}, err
				}
				c.Takeover = takeover
				c.ReleaseID = *id
				result, err := c.Promote(cmd.Context())
				if err != nil {
					return rollout.Result{}, rollBackUnready(cmd.Context(), c, err)
				}
				if slo != nil && result.Release != nil && result.Release.Stage == release.StagePromoted {
					if result, err = bake(cmd, c, slo, &limits, &drain, result); err != nil {
						return result, err
					}
				}
				return cluster.printed(cmd, result)
			})
		},
	}
	cluster.add(cmd.Flags())
	id = ofReleaseFlag(cmd.Flags())
	takeoverFlag(cmd.Flags(), &takeover)
	drain.add(cmd.Flags())
	trust.add(cmd.Flags())
	tell.add(cmd)
	cmd.Flags().DurationVar(&limits.maxDuration, "bake", 0, "how long primary is judged after it has all of the traffic; needs --prometheus (default: not)")
	limits.add(cmd.Flags())
	return cmd
}

func newCleanupCommand() *cobra.Command {
	var cluster clusterFlags
	var tell tellFlags
	var drain drainFlags
	var id *string
	var takeover bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Drain and delete the canary of a promoted release, and end the release",
		Long: `Wait until nobody calls the canary of a promoted release any more, delete it,
give back the ownership of fields that others own, and end the release. With
--prometheus the canary's counters are the evidence; else a delay is waited out.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tell.around(cmd, &cluster, "cleanup", id, func() (rollout.Result, error) {
				c, err := cluster.connect(cmd)
				if err != nil {
					return rollout.Result{}, err
				}
				if err := drain.apply(c); err != nil {
					return rollout.Result{}, err
				}
				c.Takeover = takeover
				c.ReleaseID = *id
				result, err := c.Cleanup(cmd.Context())
				if err != nil {
					return rollout.Result{}, err
				}
				return cluster.printed(cmd, result)
			})
		},
	}
	cluster.add(cmd.Flags())
	id = ofReleaseFlag(cmd.Flags())
	drain.add(cmd.Flags())
	tell.add(cmd)
	takeoverFlag(cmd.Flags(), &takeover)
	return cmd
}

func newRollbackCommand() *cobra.Command {
	var cluster clusterFlags
	var drain drainFlags
	var tell tellFlags
	var id *string
	var reason string
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Send all of the traffic back to the old primary and remove the canary",
		Long: `Send all of the traffic to primary, put the old digest back on it when promotion
had begun, then drain and delete the canary. Works at any time, from wherever
another job died, and takes the lock of whoever holds it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tell.around(cmd, &cluster, "rollback", id, func() (rollout.Result, error) {
				c, err := cluster.connect(cmd)
				if err != nil {
					return rollout.Result{}, err
				}
				if err := drain.apply(c); err != nil {
					return rollout.Result{}, err
				}
				c.ReleaseID = *id
				result, err := c.Rollback(cmd.Context(), reason)
				if err != nil {
					return rollout.Result{}, err
				}
				return cluster.printed(cmd, result)
			})
		},
	}
	cluster.add(cmd.Flags())
	id = ofReleaseFlag(cmd.Flags())
	drain.add(cmd.Flags())
	tell.add(cmd)
	cmd.Flags().StringVar(&reason, "reason", "asked for by a person", "why, for the ledger")
	return cmd
}
