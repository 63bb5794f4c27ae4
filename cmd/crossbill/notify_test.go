package main

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// TestResults is what each error of a command means to those who are notified.
func TestResults(t *testing.T) {
	for _, test := range []struct {
		err  error
		want notify.Result
	}{
		{nil, notify.Succeeded},
		{&analysis.NotReadyError{Cause: errors.New("x")}, notify.NotReady},
		{&analysis.UnhealthyError{Reason: "x", Err: rollout.ErrLockLost}, notify.Unhealthy},
		{&analysis.InconclusiveError{Reason: "x", Err: &usererr.Error{}}, notify.Inconclusive},
		{errors.New("x"), notify.Failed},
		{&usererr.Error{Field: "--image"}, notify.Refused},
		{&release.InFlightError{}, notify.Refused},
		{&rollout.WaitedError{}, notify.Waited},
		{&rollout.StageError{Err: errors.New("x")}, notify.Refused},
	} {
		if got := resultOf(test.err); got != test.want {
			t.Errorf("%v: %s, want %s", test.err, got, test.want)
		}
	}
}

// TestNotifyingIsHarmless: without a target nothing is sent or printed; a notification that fails is
// printed, and nothing more.
func TestNotifyingIsHarmless(t *testing.T) {
	for name, test := range map[string]struct{ token, repository, webhook, said string }{
		"no token":       {repository: "our-org/app"},
		"no repository":  {token: "t", said: "notify.github.repository"},
		"no web address": {webhook: "hooks.example.com", said: "webhook: it is not a web address"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CROSSBILL_GITHUB_TOKEN", test.token)
			t.Setenv("CROSSBILL_WEBHOOK", test.webhook)
			var o notifyOptions
			var log bytes.Buffer
			cmd := &cobra.Command{}
			cmd.SetContext(t.Context())
			o.add(cmd)
			o.github.github.Repository = test.repository
			o.send(t.Context(), &log, &notify.Event{Command: "promote", ReleaseID: "one"}, rollout.Result{}, errors.New("the command's own"))
			if got := log.String(); (got == "") != (test.said == "") || !bytes.Contains(log.Bytes(), []byte(test.said)) {
				t.Errorf("said %q, want %q", got, test.said)
			}
			log.Reset()
			o.waits(t.Context(), &log, &notify.Event{Command: "queue", ReleaseID: "one"}) // for GitHub alone
			if got := log.String(); (got == "") != (test.token == "") || !strings.Contains(got, test.said) && test.token != "" {
				t.Errorf("in the line: said %q, want %q", got, test.said)
			}
		})
	}
}

// TestProgress is what the pull request shows of a judgment.
func TestProgress(t *testing.T) {
	evidence := func(requests, enough float64) verdict.Evidence {
		return verdict.Evidence{Total: verdict.Pair{Canary: verdict.Tally{Events: requests}}, For: enough, Safety: 1, Harm: 1}
	}
	alone := evidence(10, 0)
	alone.Relative, alone.Alone = true, true
	for name, test := range map[string]struct {
		judgment verdict.Judgment
		want     notify.Progress
	}{
		"nothing yet":          {verdict.Judgment{Reason: "no request"}, notify.Progress{Missing: "no request"}},
		"no requests":          {verdict.Judgment{Evidence: []verdict.Evidence{evidence(0, 0.5)}, Reason: "no request"}, notify.Progress{Missing: "no request"}},
		"the least counts":     {verdict.Judgment{Evidence: []verdict.Evidence{evidence(90, 0.5), evidence(100, 0.25)}, Left: time.Minute, Reason: "thin"}, notify.Progress{Enough: 0.25, Requests: 100, Left: time.Minute, Missing: "thin"}},
		"nothing to compare":   {verdict.Judgment{Evidence: []verdict.Evidence{evidence(90, 0.5), alone}}, notify.Progress{Enough: 0.5, Requests: 90}},
		"healthy, judged on":   {verdict.Judgment{Outcome: release.Healthy, Reason: "good", Evidence: []verdict.Evidence{evidence(90, 2)}}, notify.Progress{Outcome: release.Healthy, Enough: 1, Requests: 90}},
		"unhealthy at the end": {verdict.Judgment{Outcome: release.Unhealthy, Reason: "bad", Evidence: []verdict.Evidence{evidence(90, 0)}}, notify.Progress{Requests: 90, Missing: "bad"}},
	} {
		if diff := cmp.Diff(test.want, *progressOf(test.judgment)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// TestPullRequestIsShown: by default, and not where crossbill.yaml says so. What the token may not do is said once.
func TestPullRequestIsShown(t *testing.T) {
	for _, test := range []struct {
		file string
		want []string
	}{
		{"", []string{"GET check-runs", "GET deployments", "GET pulls", "GET statuses", "POST statuses"}},
		{"notify: {github: {pullRequest: true}}", []string{"GET check-runs", "GET deployments", "GET pulls", "GET statuses", "POST statuses"}},
		{"notify: {github: {pullRequest: false}}", []string{"GET deployments"}},
	} {
		t.Run(test.file, func(t *testing.T) {
			var lock sync.Mutex
			seen := map[string]bool{}
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				lock.Lock()
				defer lock.Unlock()
				parts := strings.Split(strings.TrimSuffix(r.URL.Path, "/"+commit), "/")
				seen[r.Method+" "+parts[len(parts)-1]] = true
				w.WriteHeader(http.StatusForbidden) // a token without any right
			}))
			defer server.Close()
			before := http.DefaultTransport
			http.DefaultTransport = server.Client().Transport
			defer func() { http.DefaultTransport = before }()
			t.Setenv("CROSSBILL_GITHUB_TOKEN", "t")
			c, err := config.Parse("crossbill.yaml", []byte(test.file))
			if err != nil {
				t.Fatal(err)
			}
			cmd := &cobra.Command{}
			cmd.SetContext(context.WithValue(t.Context(), configKey{}, resolved{Config: c}))
			var o notifyOptions
			o.add(cmd)
			o.github.github.Repository, o.github.github.URL = "our-org/shop", server.URL
			var log bytes.Buffer
			result := rollout.Result{Release: &release.Release{ID: "one", Stage: release.StageCanary, Commit: commit}}
			for range 2 {
				o.send(t.Context(), &log, &notify.Event{Command: "canary", App: "shop", ReleaseID: "one"}, result, nil)
			}
			if diff := cmp.Diff(test.want, slices.Sorted(maps.Keys(seen))); diff != "" {
				t.Errorf("requests (-want +got)\n%s", diff)
			}
			if said := strings.Count(log.String(), "the token may not"); said != 3 && len(test.want) > 1 || said != 0 && len(test.want) == 1 {
				t.Errorf("said %d times:\n%s", said, log.String())
			}
		})
	}
}

// TestMergeRequestIsShown: in the job's project, but not beside GitHub, unless the project is named.
func TestMergeRequestIsShown(t *testing.T) {
	const lost = "GitLab: nothing is shown there"
	for name, test := range map[string]struct {
		file, github string
		flags        []string
		project      string // that is asked; "" for none
		said         string
	}{
		"the job's project":    {project: "infra/deploy"},
		"beside GitHub":        {github: "t", said: lost},
		"named, beside GitHub": {github: "t", file: "notify: {gitlab: {project: our-org/shop}}", project: "our-org/shop"},
		"by a flag":            {github: "t", flags: []string{"--notify-gitlab-project=our-org/shop"}, project: "our-org/shop"},
	} {
		t.Run(name, func(t *testing.T) {
			var lock sync.Mutex
			asked := map[string]bool{}
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				lock.Lock()
				defer lock.Unlock()
				if project, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v4/projects/"), "/repository/commits/"+commit); ok {
					asked[project] = true
				}
				w.WriteHeader(http.StatusForbidden)
			}))
			defer server.Close()
			before := http.DefaultTransport
			http.DefaultTransport = server.Client().Transport
			defer func() { http.DefaultTransport = before }()
			for variable, value := range map[string]string{"GITLAB_CI": "true", "CI_PROJECT_PATH": "infra/deploy", "CI_SERVER_URL": server.URL, "CROSSBILL_NOTIFY_GITLAB_TOKEN": "glpat", "CROSSBILL_GITHUB_TOKEN": test.github} {
				t.Setenv(variable, value)
			}
			c, err := config.Parse("crossbill.yaml", []byte(test.file))
			if err != nil {
				t.Fatal(err)
			}
			cmd := &cobra.Command{}
			var o notifyOptions
			o.add(cmd)
			if err := cmd.ParseFlags(append(test.flags, "--github-url="+server.URL, "--github-repository=our-org/shop")); err != nil {
				t.Fatal(err)
			}
			settings, err := c.Resolve("canary", cmd.Flags(), os.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			cmd.SetContext(context.WithValue(t.Context(), configKey{}, resolved{c, settings}))
			var log bytes.Buffer
			for range 2 {
				o.send(t.Context(), &log, &notify.Event{Command: "canary", App: "shop", ReleaseID: "one", Commit: commit}, rollout.Result{}, errors.New("x"))
			}
			want := map[string]bool{}
			if test.project != "" {
				want[test.project] = true
			}
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Errorf("projects, -want +got\n%s", diff)
			}
			if got := strings.Count(log.String(), lost); got != strings.Count(test.said, lost) || strings.Contains(log.String(), "glpat") {
				t.Errorf("said\n%s", log.String())
			}
		})
	}
}

const commit = "0123456789abcdef0123456789abcdef01234567"
