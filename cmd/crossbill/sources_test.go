package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// TestSources: the events of GitLab and GitHub are in the timeline when they answer, and reported as missing when
// they do not.
func TestSources(t *testing.T) {
	started := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	server := gitlabtest.New()
	life := []gitlabtest.Phase{{Status: "running", Jobs: []gitlabtest.Job{
		{Name: "deploy_canary", Stage: "deploy_canary", Status: "success", User: "jane", StartedAt: started, FinishedAt: started.Add(5 * time.Second)},
		{Name: "verify_canary", Stage: "verify_canary", Status: "running", User: "jane", StartedAt: started.Add(6 * time.Second)},
		{Name: "promote_to_production", Stage: "promote", Status: "created"},
	}}}
	pipeline := server.Add(gitlabtest.Pipeline{Ref: "main", Life: life})
	server.Commits = map[string]time.Time{"decade0" + strings.Repeat("0", 33): started.Add(-2 * time.Hour)}
	gitlab := httptest.NewServer(server)
	defer gitlab.Close()
	github := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/repos/our-org/app/deployments":
			fmt.Fprint(w, `[{"id":4,"created_at":"2026-11-23T07:59:00Z","creator":{"login":"bot"},"payload":{"release":"one"}}]`)
		case "/repos/our-org/app/commits/c0ffee0":
			fmt.Fprint(w, `{"commit":{"author":{"date":"2026-11-20T07:00:00Z"},"committer":{"date":"2026-11-23T07:00:00Z"}}}`)
		case "/repos/our-org/app/deployments/4/statuses":
			fmt.Fprint(w, `[{"state":"in_progress","description":"canary: 10%","created_at":"2026-11-23T08:00:06Z","creator":{"login":"bot"}}]`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer github.Close()

	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("ghs_token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	jobs := []string{"gitlab success job deploy_canary, ran 5 s jane", "gitlab running job verify_canary jane"}
	statuses := []string{"github created  bot", "github in_progress canary: 10% bot"}
	for name, test := range map[string]struct {
		change    func(*gitlabOptions, *githubOptions)
		want      []string
		missing   string // "" for nothing
		given     bool   // --project
		wantInput bool
	}{
		"both":                {want: slices.Concat(jobs, statuses)},
		"neither is named":    {change: func(g *gitlabOptions, h *githubOptions) { g.project, h.tokenFile = "", "" }},
		"no token for GitLab": {change: func(*gitlabOptions, *githubOptions) { t.Setenv("GITLAB_TOKEN", "") }, want: statuses},
		"the same, given":     {change: func(*gitlabOptions, *githubOptions) { t.Setenv("GITLAB_TOKEN", "") }, given: true, wantInput: true},
		"GitLab fails":        {change: func(g *gitlabOptions, _ *githubOptions) { g.project = "no/where" }, want: statuses, missing: "GitLab's jobs of release one are missing"},
		"GitHub fails":        {change: func(_ *gitlabOptions, h *githubOptions) { h.github.Repository = "our-org/other" }, want: jobs, missing: "GitHub's Deployment of release one is missing"},
		"not a repository":    {change: func(_ *gitlabOptions, h *githubOptions) { h.github.Repository = "app" }, wantInput: true},
		"no repository":       {change: func(_ *gitlabOptions, h *githubOptions) { h.github.Repository = "" }, want: jobs},
		"no such token file":  {change: func(g *gitlabOptions, _ *githubOptions) { g.tokenFile = "missing" }, wantInput: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GITLAB_TOKEN", server.APIToken)
			g, h := gitlabOptions{url: gitlab.URL, project: server.Project}, githubOptions{tokenFile: token}
			c := codeOptions{gitlab: notify.GitLab{URL: gitlab.URL, Project: server.Project}}
			t.Setenv("CROSSBILL_NOTIFY_GITLAB_TOKEN", server.ReadToken)
			h.github.Repository, h.github.URL = "our-org/app", github.URL
			if test.change != nil {
				test.change(&g, &h)
			}
			status := &rollout.Status{Release: &release.Release{ID: "one", PipelineURL: fmt.Sprintf("%s/infra/deploy/-/pipelines/%d", gitlab.URL, pipeline)}}
			finished := func(commit string, outcome release.Outcome) release.Finished {
				return release.Finished{Release: release.Release{ID: commit, Commit: commit}, Outcome: outcome}
			}
			past := []release.Finished{finished("c0ffee0", release.OutcomePromoted), finished("decade0", release.OutcomePromoted), finished("elsewhere", release.OutcomeFirst), finished("bad", release.OutcomeRolledBack)}
			s, err := newTimelineSources(&g, &h, &c, test.given, new(bytes.Buffer))
			var got, missing []string
			if err == nil {
				entries, notFound, asked := s.entries(t.Context(), status)
				for _, e := range entries {
					got = append(got, strings.Join([]string{e.Source, e.Event, e.Detail, e.By}, " "))
				}
				missing, err = notFound, asked
				times, untimed := s.commitTimes(t.Context(), &rollout.Status{History: past})
				wantTimes := map[string]time.Time{"decade0": started.Add(-2 * time.Hour)} // from GitLab
				if s.github != nil && s.github.Repository == "our-org/app" {
					wantTimes["c0ffee0"] = started.Add(-time.Hour)
				}
				if diff := cmp.Diff(wantTimes, times); diff != "" || len(untimed) > 0 && !test.wantInput {
					t.Errorf("times of commits: %v, -want +got\n%s", untimed, diff)
				}
			}
			if errors.As(err, new(*usererr.Error)) != test.wantInput || !test.wantInput && err != nil {
				t.Fatalf("error %v, want bad input: %v", err, test.wantInput)
			}
			slices.Sort(got)
			if diff := cmp.Diff(slices.Sorted(slices.Values(test.want)), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if joined := strings.Join(missing, "\n"); (joined == "") != (test.missing == "") || !strings.Contains(joined, test.missing) {
				t.Errorf("missing %q, want %q", joined, test.missing)
			}
		})
	}
}

// TestSince: a moment is a date, or a duration before now.
func TestSince(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                     {},
		"2026-11-01":           time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		"2026-11-23T07:00:00Z": now.Add(-time.Hour),
		"30d":                  now.AddDate(0, 0, -30),
		"2w":                   now.AddDate(0, 0, -14),
		"90m":                  now.Add(-90 * time.Minute),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "30", "0d", "2026-11-24", "-3d", "1.5h", "2026-13-01"} {
		var input *usererr.Error
		if got, err := parseSince(text, now); !errors.As(err, &input) || input.Field != "--since" {
			t.Errorf("%q: %s, %v, want bad input", text, got, err)
		}
	}
}
