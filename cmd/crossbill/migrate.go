package main

import (
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/rollout"
)

func newMigrateCommand() *cobra.Command {
	var cluster clusterFlags
	var drain drainFlags
	var takeover bool
	var from string
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Take an app that was deployed by hand to the two tracks, without losing a request",
		Long: `Take an app that was deployed by hand to the two tracks: make primary with the
digest that its pods run, wait until it is ready, lead the route to it, and
remove the old Deployment. The app serves all the while. Once for an app, before
its first canary; see it beforehand with: crossbill plan migrate.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.connect(cmd)
			if err != nil {
				return err
			}
			c.SettleDelay, c.Takeover = drain.settle, takeover
			result, err := c.Migrate(cmd.Context(), from)
			if err != nil {
				return err
			}
			_, err = cluster.printed(cmd, result)
			return err
		},
	}
	cluster.add(cmd.Flags())
	cmd.Flags().DurationVar(&drain.settle, "settle-delay", rollout.DefaultSettleDelay, "time that the data plane is given to take a change over")
	cmd.Flags().StringVar(&from, "from", "", "Deployment that was made by hand (default: the one whose pods the Service selects)")
	takeoverFlag(cmd.Flags(), &takeover)
	return cmd
}
