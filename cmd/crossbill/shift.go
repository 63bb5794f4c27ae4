package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/rollout"
)

func newShiftCommand() *cobra.Command {
	var cluster clusterFlags
	var drain drainFlags
	var tell tellFlags
	var takeover bool
	var trust trustFlags
	var id *string
	var steps []int
	var pause time.Duration
	cmd := &cobra.Command{
		Use:   "shift --steps 10,25,50",
		Short: "Give the canary more of the traffic, in steps",
		Long: `Give the canary more of the traffic, in steps. Before each step the canary is
sized for it, and all of its pods are ready. Steps that the release has passed
are left out. Run verify again afterwards: promote asks for a verdict at the
canary's last share.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tell.around(cmd, &cluster, "shift", id, func() (rollout.Result, error) {
				c, err := cluster.connect(cmd)
				if err != nil {
					return rollout.Result{}, err
				}
				if err := drain.apply(c); err != nil { // for the way back
					return rollout.Result{}, err
				}
				if err := trust.apply(c, cluster.manifests); err != nil {
					return rollout.Result{}, err
				}
				c.Takeover, c.ReleaseID = takeover, *id
				result, err := c.Shift(cmd.Context(), steps, pause)
				if err != nil {
					return rollout.Result{}, rollBackUnready(cmd.Context(), c, err)
				}
				return cluster.printed(cmd, result)
			})
		},
	}
	cluster.add(cmd.Flags())
	id = ofReleaseFlag(cmd.Flags())
	drain.add(cmd.Flags())
	trust.add(cmd.Flags())
	tell.add(cmd)
	takeoverFlag(cmd.Flags(), &takeover)
	cmd.Flags().IntSliceVar(&steps, "steps", nil, "percentages, rising: the last one is where the canary stays")
	cmd.Flags().DurationVar(&pause, "pause", 0, "how long each step but the last is left as it is")
	return cmd
}
