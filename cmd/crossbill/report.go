package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/usererr"
)

type reportOptions struct {
	readerOptions
	html    string
	since   string
	gitlab  gitlabOptions
	github  githubOptions
	code    codeOptions
	named   bool            // --project is given
	sources timelineSources // after validate
	from    time.Time       // of the releases, after validate; zero: all of them
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

DORA's four figures of delivery follow: deployment frequency, lead time for
changes, change failure rate and time to restore, over the last 20 releases.
Lead times need the times of the commits, from GitHub or GitLab.

-o markdown is for a job's summary, a merge request's note, or a chat.

Environment:
  GITLAB_TOKEN            access token, scope read_api (or --token-file)
  CROSSBILL_GITHUB_TOKEN  token that may read deployments and commits (or --github-token-file)
  CROSSBILL_NOTIFY_GITLAB_TOKEN
                          access token of the code's project, scope read_api or
                          api (or --notify-gitlab-token-file)`,
		Example: `  # A page with charts, to keep as a job's artifact
  crossbill report --html report.html

  # The summary of a GitHub Actions job
  crossbill report -o markdown >> "$GITHUB_STEP_SUMMARY"

  # Events of all releases, with the jobs of GitLab
  crossbill report --project infra/deploy -o json | jq '.items[] | .event'

  # The figures of the last 30 days
  crossbill report --since 30d -o json | jq .delivery`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.html, "html", "", "also write one self-contained HTML file to this path")
	_ = cmd.MarkFlagFilename("html", "html")
	cmd.Flags().StringVar(&o.since, "since", "", "leave out releases that finished earlier: a date (2026-11-01) or a duration (30d) (default: all in the ledger)")
	o.gitlab.add(cmd, "read_api: GitLab's jobs are in the timeline")
	inSection(cmd.Flags(), notificationSection, o.github.addRepository)
	inSection(cmd.Flags(), notificationSection, o.code.add)
	cmd.Flags().Lookup("notify-gitlab-project").Usage = "GitLab project of the code: the lead times are from its commits (default the job's project, none without a token)"
	cmd.Flags().Lookup("notify-gitlab-token-file").Usage = "file with an access token of scope read_api or api for it (default $CROSSBILL_NOTIFY_GITLAB_TOKEN)"
	cmd.Flags().Lookup("github-repository").Usage = "owner/name: the statuses of its Deployment are in the timeline; needs a token"
	cmd.Flags().Lookup("github-token-file").Usage = "file with a token that may read deployments and commits (default $CROSSBILL_GITHUB_TOKEN)"
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
	if o.from, err = parseSince(o.since, time.Now()); err != nil {
		return err
	}
	o.sources, err = newTimelineSources(&o.gitlab, &o.github, &o.code, o.named, o.log)
	return err
}

func (o *reportOptions) run(ctx context.Context) error {
	status, err := o.cluster.status(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askedTimeout)
	defer cancel()
	times, untimed := o.sources.commitTimes(ctx, status)
	now := time.Now()
	shown := report.Report{Status: status, Delivery: report.DeliveryOf(status.History, times, o.from, now), Now: now}
	status.History = slices.DeleteFunc(status.History, func(f release.Finished) bool { return f.FinishedAt.Before(o.from) })
	others, missing, err := o.sources.entries(ctx, status)
	if err != nil {
		return err
	}
	shown.Missing = append(missing, untimed...)
	for _, text := range shown.Missing {
		fmt.Fprintln(o.log, "crossbill: "+text)
	}
	shown.Timeline = report.Timeline(status, others...)
	if o.html != "" {
		var page bytes.Buffer
		if err := report.WriteHTML(&page, shown); err != nil {
			return err
		}
		if err := writeWhole(o.html, page.Bytes()); err != nil {
			return fmt.Errorf("--html: %w", err)
		}
	}
	v := view{
		data: shown,
		text: func(out io.Writer) error { return report.WriteReport(out, shown) },
		more: map[string]func(io.Writer) error{"markdown": func(out io.Writer) error { return report.WriteMarkdown(out, shown) }},
	}
	for _, r := range newestReleases(status, len(status.History)+1) {
		v.names = append(v.names, releaseNames(r.ID)...)
	}
	return o.output.print(o.out, v)
}

// parseSince is a moment as --since gives it: a date, or a duration before now. Zero for "".
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	var at time.Time
	if before, err := model.ParseDuration(text); err == nil {
		at = now.Add(-time.Duration(before))
	} else if at, err = time.Parse(time.DateOnly, text); err != nil {
		if at, err = time.Parse(time.RFC3339, text); err != nil {
			return at, &usererr.Error{Field: "--since", Problem: fmt.Sprintf("%q is neither a date nor a duration", text), Fix: "give for example 2026-11-01, 30d or 2w"}
		}
	}
	if !at.Before(now) {
		return at, &usererr.Error{Field: "--since", Problem: text + " is not in the past", Fix: "give for example 2026-11-01, 30d or 2w"}
	}
	return at, nil
}
