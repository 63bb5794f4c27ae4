package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab"
)

type watchOptions struct {
	handoffOptions
	watch gitlab.WatchOptions
}

func newWatchCommand() *cobra.Command {
	o := &watchOptions{}
	cmd := &cobra.Command{
		Use:   "watch --project GROUP/PROJECT --pipeline ID | --release-id ID",
		Short: "Follow GitLab's pipeline of a release until it finishes or waits for an approver",
		Long: `Follow GitLab's pipeline of a release, and its child pipelines, until it
finishes or waits for an approver. It never waits longer than --timeout, and it
can be started again at any time. A pipeline is a success only if its promote
job has run; that of a preview, which has none, if it succeeded. With --release-id, only a pipeline that the trigger token started
on --ref is followed.

Exit codes: 0 promoted or finished, 1 failed, canceled or rolled back, 6 the time is over
(the pipeline goes on), 7 waiting for an approver.

Environment:
  GITLAB_TOKEN  access token, scope read_api (or --token-file)`,
		Example: `  # Follow the pipeline that trigger started
  crossbill watch --project infra/deploy --pipeline 1234

  # Follow a release, for an hour at most
  crossbill watch --project infra/deploy --app shop --release-id 0123456789ab --timeout 1h`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	addTarget(cmd, &o.watch.Target)
	o.gitlab.addOrigin(cmd, &o.watch.Ref)
	addJobNames(cmd, &o.watch.Jobs)
	o.add(cmd, "read_api", 30*time.Minute)
	return cmd
}

func (o *watchOptions) run(ctx context.Context) error {
	o.watch.Timeout = o.timeout
	started := time.Now()
	p, err := gitlab.Watch(ctx, o.client, o.watch)
	if errors.As(err, new(*gitlab.DeadlineError)) {
		err = &exitError{exitDeadline, err}
	}
	if p.Status == "" {
		return err
	}
	if err == nil {
		err = errorOf(p)
	}
	o.trace(ctx, "watch", o.watch.App, p.ReleaseID, started, err)
	if err != nil && !o.output.structured() { // the error says it
		return err
	}
	return errors.Join(err, o.output.print(o.out, view{
		data:  p,
		text:  line("watch: pipeline %d: %s", p.PipelineID, p.Reason),
		names: pipelineName(p.PipelineID),
	}))
}

// errorOf is the error, with its exit code, of a pipeline that has not promoted its release; else nil.
func errorOf(p gitlab.Progress) error {
	err := fmt.Errorf("pipeline %d: %s; %s", p.PipelineID, p.Reason, p.URL)
	switch p.State {
	case gitlab.Promoted, gitlab.Finished:
		return nil
	case gitlab.Waiting:
		return &exitError{exitWaiting, err}
	default:
		return err
	}
}
