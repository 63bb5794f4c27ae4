package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

func newGuardCommand() *cobra.Command {
	var cluster clusterFlags
	var drain drainFlags
	var tell tellFlags
	var limits rollout.Limits
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "End a release that nobody works on any more; to be run on a schedule",
		Long: `End a release that nobody works on any more: roll it back, or clean it up when
it was promoted. A release that a living job works on is left alone, as is one
that stands still for no longer than the flags allow. Run it on a schedule.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limits.Dead <= 0 || limits.Waiting <= 0 {
				return &usererr.Error{Field: "--dead, --waiting", Problem: "they are times above 0", Fix: "give for example 15m and 24h"}
			}
			return tell.around(cmd, &cluster, "guard", new(string), func() (rollout.Result, error) {
				c, err := cluster.connect(cmd)
				if err != nil {
					return rollout.Result{}, err
				}
				if err := drain.apply(c); err != nil {
					return rollout.Result{}, err
				}
				result, err := c.Guard(cmd.Context(), limits)
				if err != nil {
					return rollout.Result{}, err
				}
				return cluster.printed(cmd, result)
			})
		},
	}
	cluster.add(cmd.Flags())
	drain.add(cmd.Flags())
	tell.add(cmd)
	cmd.Flags().DurationVar(&limits.Dead, "dead", 15*time.Minute, "how long a release may stand still where a job must be at work")
	cmd.Flags().DurationVar(&limits.Waiting, "waiting", 24*time.Hour, "how long a canary may wait for its verdict, or for a person")
	return cmd
}
