package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/our-org/crossbill/internal/usererr"
	"k8s.io/apimachinery/pkg/util/wait"
)

// gitHub is a double of GitHub's deployments API (https://docs.github.com/rest/deployments).
type gitHub struct {
	mu       sync.Mutex
	faults   []int // status codes of the next answers; 0 is none
	statuses map[string][]map[string]any
	requests int
}

func (g *gitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests++
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	switch {
	case len(g.faults) > 0 && g.faults[0] != 0:
		w.WriteHeader(g.faults[0])
		fmt.Fprint(w, `{"message":"not now"}`)
	case r.Header.Get("Authorization") != "Bearer ghs_right":
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"message":"Bad credentials","documentation_url":"https://docs.github.com/rest","status":"401"}`)
	case r.Method == http.MethodGet && r.URL.Path == "/repos/our-org/qwik-node-app/deployments":
		fmt.Fprint(w, `[{"id":13,"environment":"production","payload":""},
			{"id":12,"environment":"production","created_at":"2026-11-23T08:00:00Z","creator":{"login":"github-actions[bot]"},"payload":{"release":"one","image":"x","pipeline":"https://gitlab.example.com/p/-/pipelines/7"}},
			{"id":11,"environment":"preview","payload":"[1, 2]"},
			{"id":10,"environment":"production","payload":{"release":"one","pipeline":"https://gitlab.example.com/p/-/pipelines/6"}}]`)
	case r.Method == http.MethodGet && r.URL.Path == "/repos/our-org/qwik-node-app/deployments/12/statuses":
		fmt.Fprint(w, `[{"state":"success","description":"promote: done","created_at":"2026-11-23T08:09:00Z","creator":{"login":"release-bot"}},
			{"state":"queued","created_at":"2026-11-23T08:00:01Z","creator":{"login":"github-actions[bot]"}}]`)
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/repos/our-org/qwik-node-app/deployments/"):
		id := strings.Split(r.URL.Path, "/")[5]
		var status map[string]any
		if err := json.NewDecoder(r.Body).Decode(&status); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			break
		}
		g.statuses[id] = append(g.statuses[id], status)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":1,"state":"success"}`)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"Not Found","documentation_url":"https://docs.github.com/rest","status":"404"}`)
	}
	if len(g.faults) > 0 {
		g.faults = g.faults[1:]
	}
}

func TestTellGitHub(t *testing.T) {
	for name, test := range map[string]struct {
		change   func(*GitHub)
		release  string
		faults   []int
		said     string // the error has it; "" for none
		input    bool
		requests int
	}{
		"told":                     {release: "one", requests: 2},
		"told after three faults":  {release: "one", faults: []int{502, 429, 0, 500}, requests: 5},
		"GitHub is down":           {release: "one", faults: []int{503, 503, 503, 503}, said: "503", requests: 4},
		"token without the right":  {release: "one", faults: []int{0, 403}, said: "403", requests: 2},
		"wrong token":              {release: "one", change: func(g *GitHub) { g.Token = "old" }, said: "401", requests: 1},
		"no such repository":       {release: "one", change: func(g *GitHub) { g.Repository = "our-org/other" }, said: "404", requests: 1},
		"no such release":          {release: "two", said: "no deployment of release two", requests: 1},
		"not a repository":         {release: "one", change: func(g *GitHub) { g.Repository = "qwik-node-app" }, input: true},
		"a path for a repository":  {release: "one", change: func(g *GitHub) { g.Repository = "our-org/a/b?c" }, input: true},
		"token over plain network": {release: "one", change: func(g *GitHub) { g.URL = "http://github.example.com/api/v3" }, input: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			double := &gitHub{faults: test.faults, statuses: map[string][]map[string]any{}}
			server := httptest.NewServer(double)
			defer server.Close()
			g := GitHub{URL: server.URL, Repository: "our-org/qwik-node-app", Token: "ghs_right", Backoff: wait.Backoff{Steps: 4}}
			if test.change != nil {
				test.change(&g)
			}
			err := g.Tell(t.Context(), test.release, DeploymentStatus{State: "success", Description: strings.Repeat("ü", 200), EnvironmentURL: "https://app.example.com"})
			if got := errors.As(err, new(*usererr.Error)); got != test.input {
				t.Errorf("bad input %v: %v", got, err)
			}
			if !test.input && (err == nil) != (test.said == "") || err != nil && !strings.Contains(err.Error(), test.said) {
				t.Errorf("error %v, want %q", err, test.said)
			}
			if err != nil && strings.Contains(err.Error(), g.Token) {
				t.Error("the error holds the token")
			}
			if double.requests != test.requests {
				t.Errorf("%d requests, want %d", double.requests, test.requests)
			}
			if err != nil {
				return
			}
			status := double.statuses["12"][0]
			description, _ := status["description"].(string)
			if status["state"] != "success" || status["log_url"] != "https://gitlab.example.com/p/-/pipelines/7" || status["environment_url"] != "https://app.example.com" || utf8.RuneCountInString(description) != 140 {
				t.Errorf("status %v", status)
			}
		})
	}
}

// TestWhatGitHubWasTold: a Deployment's statuses are told oldest first, after its making.
func TestWhatGitHubWasTold(t *testing.T) {
	at := func(clock string) time.Time {
		parsed, err := time.Parse(time.RFC3339, "2026-11-23T"+clock+"Z")
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	want := []ToldStatus{
		{State: "created", At: at("08:00:00"), By: "github-actions[bot]"},
		{State: "queued", At: at("08:00:01"), By: "github-actions[bot]"},
		{State: "success", Description: "promote: done", At: at("08:09:00"), By: "release-bot"},
	}
	for name, test := range map[string]struct {
		release string
		faults  []int
		said    string
	}{
		"told":           {release: "one"},
		"after faults":   {release: "one", faults: []int{502, 0, 429}},
		"GitHub is down": {release: "one", faults: []int{0, 503, 503, 503, 503}, said: "statuses of deployment 12"},
		"never heard of": {release: "two", said: "no deployment of release two"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(&gitHub{faults: test.faults})
			defer server.Close()
			told, err := GitHub{URL: server.URL, Repository: "our-org/qwik-node-app", Token: "ghs_right", Backoff: wait.Backoff{Steps: 4}}.Told(t.Context(), test.release)
			if test.said != "" {
				if err == nil || !strings.Contains(err.Error(), test.said) {
					t.Errorf("error %v, want %q", err, test.said)
				}
				return
			}
			if err != nil || !slices.EqualFunc(told, want, func(a, b ToldStatus) bool {
				return a.At.Equal(b.At) && a.State == b.State && a.Description == b.Description && a.By == b.By
			}) {
				t.Errorf("%v, %v", told, err)
			}
		})
	}
}
