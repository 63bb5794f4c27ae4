package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab"
)

type cancelOptions struct {
	handoffOptions
	cancel gitlab.CancelOptions
}

func newCancelCommand() *cobra.Command {
	o := &cancelOptions{}
	cmd := &cobra.Command{
		Use:   "cancel --project GROUP/PROJECT --pipeline ID | --release-id ID",
		Short: "End a release from outside GitLab: press its rollback button, or cancel its pipeline",
		Long: `End a release from outside GitLab. When its canary has started, its rollback job
is pressed: that takes the lock from whatever job runs, and brings the old
primary back. Before that the pipeline is canceled. Follow it with watch.

A pipeline without the jobs that --canary-job and --rollback-job name is left
alone, exit code 2: nothing shows whether its canary has traffic.

Environment:
  GITLAB_TOKEN  access token, scope api, whose user may run the rollback job
                (or --token-file)`,
		Example: `  # End a release
  crossbill cancel --project infra/deploy --app shop --release-id 0123456789ab

  # The pipeline's jobs have other names
  crossbill cancel --project infra/deploy --pipeline 1234 --canary-job canary --rollback-job undo`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	addTarget(cmd, &o.cancel.Target)
	o.gitlab.addOrigin(cmd, &o.cancel.Ref)
	addJobNames(cmd, &o.cancel.Jobs)
	o.add(cmd, "api", 2*time.Minute)
	return cmd
}

func (o *cancelOptions) run(ctx context.Context) error {
	o.cancel.Timeout = o.timeout
	p, done, err := gitlab.Cancel(ctx, o.client, o.cancel)
	if err != nil {
		return err
	}
	return o.output.print(o.out, view{
		data: struct {
			gitlab.Progress
			Done string `json:"done"`
		}{p, done},
		text:  line("cancel: pipeline %d: %s", p.PipelineID, done),
		names: pipelineName(p.PipelineID),
	})
}
