package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// elsewhere is what the ledger does not know, and how much of it is asked for.
const (
	askedReleases = 5                // the newest
	askedTimeout  = 20 * time.Second // for all of it: a report is never late for GitLab or GitHub
)

type reportFlags struct {
	html   string
	gitlab gitlabFlags
	github githubOptions
}

func newReportCommand() *cobra.Command {
	var cluster clusterOptions
	var output outputOptions
	var flags reportFlags
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Tell the app's releases as one timeline: text, JSON, Markdown, or one HTML file",
		Long: `Tell the app's releases as one timeline, from the ledger in the cluster; with
--project and a token also what GitLab's jobs did, with --github-repository and
a token also what GitHub's Deployment was told (of the newest releases). What
cannot be read there is named, and left out.

-o markdown is for a job's summary, a merge request's note, or a chat.

Environment:
  GITLAB_TOKEN            access token, scope read_api (or --token-file)
  CROSSBILL_GITHUB_TOKEN  token that may read deployments (or --github-token-file)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster.complete(cmd)
			if err := output.validate(); err != nil {
				return err
			}
			if err := cluster.validate(); err != nil {
				return err
			}
			status, err := cluster.status(cmd.Context())
			if err != nil {
				return err
			}
			others, missing, err := flags.elsewhere(cmd, status)
			if err != nil {
				return err
			}
			for _, text := range missing {
				fmt.Fprintln(cmd.ErrOrStderr(), "crossbill: "+text)
			}
			timeline := report.Timeline(status, others...)
			if flags.html != "" {
				if err := report.WriteHTML(flags.html, status, timeline, missing, time.Now()); err != nil {
					return err
				}
			}
			return output.print(cmd.OutOrStdout(), view{
				data: timeline,
				text: func(out io.Writer) error { return report.WriteTimeline(out, timeline) },
				more: map[string]func(io.Writer) error{"markdown": func(out io.Writer) error { return report.WriteMarkdown(out, status, timeline, time.Now()) }},
			})
		},
	}
	cluster.addReader(cmd)
	output.add(cmd, "markdown")
	cmd.Flags().StringVar(&flags.html, "html", "", "also write one self-contained HTML file there")
	cmd.Flags().StringVar(&flags.gitlab.url, "gitlab-url", "https://gitlab.com", "GitLab's URL")
	cmd.Flags().StringVar(&flags.gitlab.project, "project", "", "GitLab project that deploys, group/project: its jobs are in the timeline")
	cmd.Flags().StringVar(&flags.gitlab.tokenFile, "token-file", "", "file with an access token of scope read_api (default $GITLAB_TOKEN)")
	flags.gitlab.output.format, flags.gitlab.output.formats = "text", formats
	flags.github.addRepository(cmd.Flags())
	cmd.Flags().Lookup("github-repository").Usage = "owner/name: what its Deployment was told is in the timeline (default $CROSSBILL_GITHUB_REPOSITORY, none without a token)"
	cmd.Flags().Lookup("github-token-file").Usage = "file with a token that may read deployments (default $CROSSBILL_GITHUB_TOKEN)"
	return cmd
}

var pipelineNumber = regexp.MustCompile(`/-/pipelines/([0-9]+)$`)

// elsewhere asks GitLab and GitHub for what they know of the newest releases. Bad input is an error; what
// does not answer is only missing.
func (f *reportFlags) elsewhere(cmd *cobra.Command, s *rollout.Status) (entries []report.Entry, missing []string, err error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), askedTimeout)
	defer cancel()
	gitlab := func(*release.Release) ([]report.Entry, error) { return nil, nil }
	token, err := secret("--token-file", f.gitlab.tokenFile, "GITLAB_TOKEN")
	if err != nil {
		return nil, nil, err
	}
	// A project that only the configuration names is not asked without a token.
	if f.gitlab.project != "" && (token != "" || cmd.Flags().Changed("project")) {
		c, err := f.gitlab.connect(cmd)
		if err != nil {
			return nil, nil, err
		}
		gitlab = func(r *release.Release) ([]report.Entry, error) { return jobsOf(ctx, c, r) }
	}
	github, asked, err := f.github.source()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range newest(s, askedReleases) {
		found, err := gitlab(r)
		if err != nil {
			missing = append(missing, fmt.Sprintf("GitLab's jobs of release %s are missing: %v", r.ID, firstLine(err)))
		}
		entries = append(entries, found...)
		if !asked || github.Repository == "" {
			continue
		}
		statuses, err := github.Statuses(ctx, r.ID)
		if errors.As(err, new(*usererr.Error)) {
			return nil, nil, err
		}
		if err != nil {
			missing = append(missing, fmt.Sprintf("GitHub's Deployment of release %s is missing: %v", r.ID, firstLine(err)))
		}
		for _, t := range statuses {
			entries = append(entries, report.Entry{At: t.CreatedAt, Source: report.GitHub, ReleaseID: r.ID, Digest: r.Digest(), Event: t.State, Detail: t.Description, By: t.CreatedBy, URL: r.Links().RunURL})
		}
	}
	return entries, missing, nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// newest are the release in flight and the newest that have ended.
func newest(s *rollout.Status, most int) []*release.Release {
	var all []*release.Release
	if s.Release != nil {
		all = append(all, s.Release)
	}
	for i := range s.History {
		all = append(all, &s.History[i].Release)
	}
	return all[:min(most, len(all))]
}

// jobsOf are the jobs of a release's pipeline that have run.
func jobsOf(ctx context.Context, c *gitlab.Client, r *release.Release) ([]report.Entry, error) {
	match := pipelineNumber.FindStringSubmatch(r.PipelineURL)
	if match == nil {
		return nil, nil
	}
	id, err := strconv.ParseInt(match[1], 10, 64)
	if err != nil {
		return nil, err
	}
	jobs, err := gitlab.Jobs(ctx, c, id, askedTimeout)
	if err != nil {
		return nil, err
	}
	var entries []report.Entry
	for _, j := range jobs {
		at := j.FinishedAt
		if at.IsZero() {
			at = j.StartedAt
		}
		if at.IsZero() {
			continue // it has not run
		}
		e := report.Entry{At: at, Source: report.GitLab, ReleaseID: r.ID, Digest: r.Digest(), Event: j.Status, Detail: "job " + j.Name, By: j.User, URL: j.URL}
		if !j.StartedAt.IsZero() && !j.FinishedAt.IsZero() {
			e.Detail += ", ran " + report.FormatDuration(j.FinishedAt.Sub(j.StartedAt))
		}
		entries = append(entries, e)
	}
	return entries, nil
}
