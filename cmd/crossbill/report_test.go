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

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// TestWhatGitLabAndGitHubKnow: their part of the timeline is there when they answer, and named as missing
// when they do not; the cluster's part never waits on it.
func TestWhatGitLabAndGitHubKnow(t *testing.T) {
	begun := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	server := gitlabtest.New()
	life := []gitlabtest.Phase{{Status: "running", Jobs: []gitlabtest.Job{
		{Name: "deploy_canary", Stage: "deploy_canary", Status: "success", User: "jane", StartedAt: begun, FinishedAt: begun.Add(5 * time.Second)},
		{Name: "verify_canary", Stage: "verify_canary", Status: "running", User: "jane", StartedAt: begun.Add(6 * time.Second)},
		{Name: "promote_to_production", Stage: "promote", Status: "created"},
	}}}
	pipeline := server.Add(gitlabtest.Pipeline{Ref: "main", Life: life})
	gitlab := httptest.NewServer(server)
	defer gitlab.Close()
	github := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/repos/our-org/app/deployments":
			fmt.Fprint(w, `[{"id":4,"created_at":"2026-11-23T07:59:00Z","creator":{"login":"bot"},"payload":{"release":"one"}}]`)
		case "/repos/our-org/app/deployments/4/statuses":
			fmt.Fprint(w, `[{"state":"in_progress","description":"canary: 10 %","created_at":"2026-11-23T08:00:06Z","creator":{"login":"bot"}}]`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer github.Close()

	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("ghs_token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	told := []string{"gitlab success job deploy_canary, ran 5 s jane", "gitlab running job verify_canary jane"}
	state := []string{"github created  bot", "github in_progress canary: 10 % bot"}
	for name, test := range map[string]struct {
		change  func(*reportFlags)
		want    []string
		missing []string
		input   bool
		noToken bool
	}{
		"both":               {want: slices.Concat(told, state)},
		"no GitLab token":    {noToken: true, want: state},
		"neither asked":      {change: func(f *reportFlags) { f.gitlab.project, f.github.tokenFile = "", "" }},
		"GitLab is away":     {change: func(f *reportFlags) { f.gitlab.project = "no/where" }, want: state, missing: []string{"GitLab's jobs of release one are missing"}},
		"GitHub is away":     {change: func(f *reportFlags) { f.github.github.URL = "http://127.0.0.1:1" }, want: told, missing: []string{"GitHub's Deployment of release one is missing"}},
		"no such repository": {change: func(f *reportFlags) { f.github.github.Repository = "app" }, input: true},
		"no repository":      {change: func(f *reportFlags) { f.github.github.Repository = "" }, want: told},
		"no such token file": {change: func(f *reportFlags) { f.gitlab.tokenFile = "missing" }, input: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GITLAB_TOKEN", server.APIToken)
			if test.noToken {
				t.Setenv("GITLAB_TOKEN", "")
			}
			var flags reportFlags
			flags.gitlab.url, flags.gitlab.project = gitlab.URL, server.Project
			flags.gitlab.output = outputOptions{"text", formats}
			flags.github.tokenFile = token
			flags.github.github.Repository, flags.github.github.URL = "our-org/app", github.URL
			if test.change != nil {
				test.change(&flags)
			}
			cmd := &cobra.Command{}
			cmd.SetContext(t.Context())
			cmd.SetErr(new(bytes.Buffer))
			entries, missing, err := flags.elsewhere(cmd, &rollout.Status{Release: &release.Release{ID: "one", PipelineURL: fmt.Sprintf("%s/infra/deploy/-/pipelines/%d", gitlab.URL, pipeline)}})
			if errors.As(err, new(*usererr.Error)) != test.input {
				t.Fatalf("bad input %v: %v", test.input, err)
			}
			if test.input {
				return
			}
			var got []string
			for _, e := range entries {
				got = append(got, strings.Join([]string{e.Source, e.Event, e.Detail, e.By}, " "))
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(test.want))
			if !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
			if len(missing) != len(test.missing) || len(missing) > 0 && !strings.Contains(missing[0], test.missing[0]) {
				t.Errorf("missing %q, want %q", missing, test.missing)
			}
		})
	}
}
