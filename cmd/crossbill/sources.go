package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// Bounds of what is asked of GitLab and GitHub for a timeline.
const (
	askedReleases = 5                // the newest
	askedTimeout  = 20 * time.Second // for all of it: a report is never late for GitLab or GitHub
)

// timelineSources are where a timeline has events from that the ledger does not know. Each may be nil.
type timelineSources struct {
	gitlab *gitlab.Client
	github *notify.GitHub
	code   *notify.GitLab // has the times of commits
}

// newTimelineSources gives the sources that have a name and a token. Nothing is sent. A project that only the configuration
// names is not asked without a token; one that is given is then bad input.
func newTimelineSources(g *gitlabOptions, h *githubOptions, c *codeOptions, given bool, log io.Writer) (s timelineSources, err error) {
	connection, err := g.connection(log)
	if err != nil {
		return s, err
	}
	if connection.Project != "" && (connection.Token != "" || given) {
		if s.gitlab, err = gitlab.Connect(connection); err != nil {
			return s, err
		}
	}
	github, named, err := h.source()
	if err == nil && named && github.Repository != "" {
		s.github = &github
	}
	code, codeErr := c.source()
	if codeErr == nil && code.Token != "" && code.Project != "" {
		s.code = &code
	}
	return s, errors.Join(err, codeErr)
}

// entries asks for what the sources know about the newest releases. Bad input is an error; what does not answer is
// only missing.
func (s timelineSources) entries(ctx context.Context, status *rollout.Status) (entries []report.Entry, missing []string, err error) {
	for _, r := range newestReleases(status, askedReleases) {
		jobs, err := s.jobEntries(ctx, r)
		if err != nil {
			missing = append(missing, fmt.Sprintf("GitLab's jobs of release %s are missing: %v", r.ID, firstLine(err)))
		}
		statuses, err := s.deploymentEntries(ctx, r)
		if errors.As(err, new(*usererr.Error)) {
			return nil, nil, err
		}
		if err != nil {
			missing = append(missing, fmt.Sprintf("GitHub's Deployment of release %s is missing: %v", r.ID, firstLine(err)))
		}
		entries = append(append(entries, jobs...), statuses...)
	}
	return entries, missing, nil
}

var pipelineNumber = regexp.MustCompile(`/-/pipelines/([0-9]+)$`)

// jobEntries are the jobs of a release's pipeline that have run.
func (s timelineSources) jobEntries(ctx context.Context, r *release.Release) ([]report.Entry, error) {
	match := pipelineNumber.FindStringSubmatch(r.PipelineURL)
	if s.gitlab == nil || match == nil {
		return nil, nil
	}
	id, err := strconv.ParseInt(match[1], 10, 64)
	if err != nil {
		return nil, err
	}
	jobs, err := gitlab.Jobs(ctx, s.gitlab, id, askedTimeout)
	if err != nil {
		return nil, err
	}
	var entries []report.Entry
	for _, j := range jobs {
		if j.StartedAt.IsZero() && j.FinishedAt.IsZero() {
			continue // it has not run
		}
		e := report.Entry{Source: report.GitLab, ReleaseID: r.ID, Digest: r.Digest(), Event: j.Status, Detail: "job " + j.Name, By: j.User, URL: j.URL}
		if e.At = j.FinishedAt; e.At.IsZero() {
			e.At = j.StartedAt
		} else if !j.StartedAt.IsZero() {
			e.Detail += ", ran " + report.FormatDuration(j.FinishedAt.Sub(j.StartedAt))
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// deploymentEntries are the statuses of a release's Deployment in GitHub.
func (s timelineSources) deploymentEntries(ctx context.Context, r *release.Release) ([]report.Entry, error) {
	if s.github == nil {
		return nil, nil
	}
	statuses, err := s.github.Statuses(ctx, r.ID, r.Commit)
	if err != nil {
		return nil, err
	}
	var entries []report.Entry
	for _, d := range statuses {
		entries = append(entries, report.Entry{At: d.CreatedAt, Source: report.GitHub, ReleaseID: r.ID, Digest: r.Digest(), Event: d.State, Detail: d.Description, By: d.CreatedBy, URL: r.Links().RunURL})
	}
	return entries, nil
}

// commitTimes are when the commits of deployed releases were made, and what of that is missing.
func (s timelineSources) commitTimes(ctx context.Context, status *rollout.Status) (times map[string]time.Time, missing []string) {
	if s.github == nil && s.code == nil {
		return nil, nil
	}
	var commits []string
	for _, f := range status.History {
		if f.Commit != "" && f.Outcome.Good() && !slices.Contains(commits, f.Commit) {
			commits = append(commits, f.Commit)
		}
	}
	times = map[string]time.Time{}
	if s.github != nil {
		found, err := s.github.CommitTimes(ctx, commits)
		if err != nil {
			missing = append(missing, fmt.Sprintf("GitHub's times of commits are missing: %v", firstLine(err)))
		}
		maps.Copy(times, found)
	}
	if s.code != nil {
		found, err := s.code.CommitTimes(ctx, slices.DeleteFunc(commits, func(commit string) bool { return !times[commit].IsZero() }))
		if err != nil {
			missing = append(missing, fmt.Sprintf("GitLab's times of commits are missing: %v", firstLine(err)))
		}
		maps.Copy(times, found)
	}
	return times, missing
}

// newestReleases are the release in flight and the newest that have finished, up to a number.
func newestReleases(s *rollout.Status, most int) []*release.Release {
	var all []*release.Release
	if s.Release != nil {
		all = append(all, s.Release)
	}
	for i := range s.History {
		all = append(all, &s.History[i].Release)
	}
	return all[:min(most, len(all))]
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
