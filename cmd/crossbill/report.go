package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/report"
)

type reportOptions struct {
	readerOptions
	html    string
	gitlab  gitlabOptions
	github  githubOptions
	named   bool            // --project is given
	sources timelineSources // after validate
}

func newReportCommand() *cobra.Command {
	o := &reportOptions{}
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Show the app's releases as one timeline: text, JSON, Markdown, or one HTML file",
		Long: `Show the app's releases as one timeline, from the ledger in the cluster; with
--project and a token also GitLab's jobs, with --github-repository and a token
also the statuses of GitHub's Deployment (of the newest releases). What cannot be
read there is reported as missing, and left out.

-o markdown is for a job's summary, a merge request's note, or a chat.

Environment:
  GITLAB_TOKEN            access token, scope read_api (or --token-file)
  CROSSBILL_GITHUB_TOKEN  token that may read deployments (or --github-token-file)`,
		Example: `  # A page with charts, to keep as a job's artifact
  crossbill report --html report.html

  # The summary of a GitHub Actions job
  crossbill report -o markdown >> "$GITHUB_STEP_SUMMARY"

  # Events of all releases, with the jobs of GitLab
  crossbill report --project infra/deploy -o json | jq '.items[] | .event'`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.html, "html", "", "also write one self-contained HTML file to this path")
	_ = cmd.MarkFlagFilename("html", "html")
	o.gitlab.add(cmd, "read_api: GitLab's jobs are in the timeline")
	inSection(cmd.Flags(), notificationSection, o.github.addRepository)
	cmd.Flags().Lookup("github-repository").Usage = "owner/name: the statuses of its Deployment are in the timeline; needs a token"
	cmd.Flags().Lookup("github-token-file").Usage = "file with a token that may read deployments (default $CROSSBILL_GITHUB_TOKEN)"
	o.add(cmd, "markdown")
	return cmd
}

func (o *reportOptions) complete(cmd *cobra.Command, args []string) error {
	o.named = cmd.Flags().Changed("project")
	return o.readerOptions.complete(cmd, args)
}

func (o *reportOptions) validate() error {
	if err := o.readerOptions.validate(); err != nil {
		return err
	}
	if err := requireWritable("--html", o.html); err != nil {
		return err
	}
	var err error
	o.sources, err = newTimelineSources(&o.gitlab, &o.github, o.named, o.log)
	return err
}

func (o *reportOptions) run(ctx context.Context) error {
	status, err := o.cluster.status(ctx)
	if err != nil {
		return err
	}
	others, missing, err := o.sources.entries(ctx, status)
	if err != nil {
		return err
	}
	for _, text := range missing {
		fmt.Fprintln(o.log, "crossbill: "+text)
	}
	timeline := report.Timeline(status, others...)
	if o.html != "" {
		var page bytes.Buffer
		if err := report.WriteHTML(&page, status, timeline, missing, time.Now()); err != nil {
			return err
		}
		if err := writeWhole(o.html, page.Bytes()); err != nil {
			return fmt.Errorf("--html: %w", err)
		}
	}
	v := view{
		data: timeline,
		text: func(out io.Writer) error { return report.WriteTimeline(out, timeline) },
		more: map[string]func(io.Writer) error{"markdown": func(out io.Writer) error {
			return report.WriteMarkdown(out, status, timeline, time.Now())
		}},
	}
	for _, r := range newestReleases(status, len(status.History)+1) {
		v.names = append(v.names, releaseNames(r.ID)...)
	}
	return o.output.print(o.out, v)
}
