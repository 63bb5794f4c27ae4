package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab"
)

func newWatchCommand() *cobra.Command {
	var flags gitlabFlags
	var options gitlab.WatchOptions
	cmd := &cobra.Command{
		Use:   "watch --project GROUP/PROJECT --pipeline ID | --release-id ID",
		Short: "Follow GitLab's pipeline of a release until it ends or waits for a person",
		Long: `Follow GitLab's pipeline of a release, and its child pipelines, until it ends
or waits for a person. It never waits longer than --timeout, and it can be begun
again at any time. A pipeline is a success only if its promote job has run.

Exit codes: 0 promoted, 1 failed, canceled or rolled back, 6 the time is over
(the pipeline goes on), 7 waiting for a person.

Environment:
  GITLAB_TOKEN  access token, scope read_api (or --token-file)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.connect(cmd)
			if err != nil {
				return err
			}
			begun := time.Now()
			p, err := gitlab.Watch(cmd.Context(), c, options)
			var deadline *gitlab.DeadlineError
			if errors.As(err, &deadline) {
				err = &exitError{exitDeadline, err}
			}
			if p.Status == "" {
				return err
			}
			if err == nil {
				err = ended(p)
			}
			trace(cmd, "watch", options.App, p.ReleaseID, begun, err)
			return errors.Join(err, flags.printProgress(cmd, p, err == nil))
		},
	}
	flags.add(cmd)
	cmd.Flags().Int64Var(&options.PipelineID, "pipeline", 0, "pipeline's id")
	cmd.Flags().StringVar(&options.ReleaseID, "release-id", "", "name of the release, as trigger printed it")
	cmd.Flags().StringVar(&options.App, "app", "", "name of the app, to find the release among many pipelines")
	cmd.Flags().StringVar(&options.Jobs.Promote, "promote-job", "promote_to_production", "job that must have run for a success")
	cmd.Flags().DurationVar(&options.Timeout, "timeout", 30*time.Minute, "how long to watch")
	return cmd
}

// ended gives a state its exit code.
func ended(p gitlab.Progress) error {
	err := fmt.Errorf("pipeline %d: %s; %s", p.PipelineID, p.Reason, p.URL)
	switch p.State {
	case gitlab.Promoted:
		return nil
	case gitlab.Waiting:
		return &exitError{exitWaiting, err}
	default:
		return err
	}
}

func (f *gitlabFlags) printProgress(cmd *cobra.Command, p gitlab.Progress, good bool) error {
	if !good && !f.output.structured() { // the error says it
		return nil
	}
	return f.output.print(cmd.OutOrStdout(), view{
		data:  p,
		text:  line("watch: pipeline %d: %s", p.PipelineID, p.Reason),
		names: []string{fmt.Sprintf("pipeline/%d", p.PipelineID)},
	})
}
