package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab"
)

func newCancelCommand() *cobra.Command {
	var flags gitlabFlags
	var options gitlab.CancelOptions
	cmd := &cobra.Command{
		Use:   "cancel --project GROUP/PROJECT --pipeline ID | --release-id ID",
		Short: "End a release from outside GitLab: press its rollback button, or cancel its pipeline",
		Long: `End a release from outside GitLab. When its canary has begun, its rollback job
is pressed: that takes the lock from whatever job runs, and brings the old
primary back. Before that the pipeline is canceled. Follow it with watch.

Environment:
  GITLAB_TOKEN  access token, scope api, whose user may run the rollback job
                (or --token-file)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.connect(cmd)
			if err != nil {
				return err
			}
			p, done, err := gitlab.Cancel(cmd.Context(), c, options)
			if err != nil {
				return err
			}
			return flags.output.print(cmd.OutOrStdout(), view{
				data: struct {
					gitlab.Progress
					Done string `json:"done"`
				}{p, done},
				text:  line("cancel: pipeline %d: %s", p.PipelineID, done),
				names: []string{fmt.Sprintf("pipeline/%d", p.PipelineID)},
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().Int64Var(&options.PipelineID, "pipeline", 0, "pipeline's id")
	cmd.Flags().StringVar(&options.ReleaseID, "release-id", "", "name of the release, as trigger printed it")
	cmd.Flags().StringVar(&options.App, "app", "", "name of the app, to find the release among many pipelines")
	cmd.Flags().StringVar(&options.Jobs.Canary, "canary-job", "deploy_canary", "job that starts the canary")
	cmd.Flags().StringVar(&options.Jobs.Promote, "promote-job", "promote_to_production", "job that promotes the release")
	cmd.Flags().StringVar(&options.Jobs.Rollback, "rollback-job", "rollback", "manual job that rolls back")
	cmd.Flags().DurationVar(&options.Timeout, "timeout", 2*time.Minute, "bound of the whole command")
	return cmd
}
