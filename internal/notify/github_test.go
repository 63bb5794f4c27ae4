package notify

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// gitHub is a double of GitHub's deployments API, checked against https://docs.github.com/rest/deployments. It
// differs: it has one page of everything but Deployments, and no rate limits but those in faults.
type gitHub struct {
	others   int   // Deployments of another commit and environment that are newer
	faults   []int // status codes of the next answers; 0 is none
	statuses map[string][]map[string]any
	requests int
}

func (g *gitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
		g.deployments(w, r)
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

// deployedCommit is the commit of the releases that the double has a Deployment of.
const deployedCommit = "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe"

// deployments answers with a page of them, newest first, of one commit where that is asked for.
func (g *gitHub) deployments(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var rows []string
	for i := range g.others {
		if query.Get("sha") == "" {
			rows = append(rows, fmt.Sprintf(`{"id":%d,"sha":"0000000000000000000000000000000000000000","environment":"preview","payload":{}}`, 20+g.others-i))
		}
	}
	if sha := query.Get("sha"); sha == "" || sha == deployedCommit {
		rows = append(rows, `{"id":13,"environment":"production","payload":""}`,
			`{"id":12,"environment":"production","created_at":"2026-11-23T08:00:00Z","creator":{"login":"github-actions[bot]"},"payload":{"release":"one","image":"x","pipeline":"https://gitlab.example.com/p/-/pipelines/7"}}`,
			`{"id":11,"environment":"preview","payload":"[1, 2]"}`,
			`{"id":10,"environment":"production","payload":{"release":"one","pipeline":"https://gitlab.example.com/p/-/pipelines/6"}}`)
	}
	each, page := 30, max(1, atoi(query.Get("page")))
	if n := atoi(query.Get("per_page")); n > 0 {
		each = min(100, n)
	}
	from, to := min(len(rows), (page-1)*each), min(len(rows), page*each)
	if to < len(rows) {
		w.Header().Set("Link", fmt.Sprintf(`<https://%s%s?per_page=%d&page=%d>; rel="next"`, r.URL.Host, r.URL.Path, each, page+1))
	}
	fmt.Fprintf(w, "[%s]", strings.Join(rows[from:to], ","))
}

// repositoryOf is a GitHub that a double answers for.
func repositoryOf(double *gitHub) GitHub {
	return GitHub{URL: "https://github.example.com", Repository: "our-org/qwik-node-app", Token: "ghs_right", EnvironmentURL: "https://app.example.com", Transport: server{double}}
}

func TestGitHubNotify(t *testing.T) {
	for name, test := range map[string]struct {
		change       func(*GitHub)
		release      string
		commit       string
		others       int
		faults       []int
		want         string // the error contains it; "" for none
		wantRequests int
	}{
		"success":                   {release: "one", wantRequests: 2},
		"after three faults":        {release: "one", faults: []int{502, 429, 0, 500}, wantRequests: 5},
		"GitHub is down":            {release: "one", faults: []int{503, 503, 503, 503}, want: "503", wantRequests: 4},
		"GitHub is unreachable":     {release: "one", change: func(g *GitHub) { g.Transport = server{} }, want: "connection refused"},
		"token without the role":    {release: "one", faults: []int{0, 403}, want: "403", wantRequests: 2},
		"wrong token":               {release: "one", change: func(g *GitHub) { g.Token = "old" }, want: "401", wantRequests: 1},
		"unknown repository":        {release: "one", change: func(g *GitHub) { g.Repository = "our-org/other" }, want: "404", wantRequests: 1},
		"unknown release":           {release: "two", want: "no deployment of release two", wantRequests: 1},
		"of its commit":             {release: "one", commit: deployedCommit, others: 5000, wantRequests: 2},
		"of another commit":         {release: "one", commit: strings.Repeat("0", 40), others: 5000, want: "no deployment of release one", wantRequests: 1},
		"of a short commit, page 3": {release: "one", commit: "c0ffee0", others: 250, wantRequests: 4},
		"of no commit, too many":    {release: "one", others: 5000, want: "no deployment of release one among its last 1000", wantRequests: 10},
		"no release":                {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // simulated: go-github leaves the bodies of errors to their time-out
				double := &gitHub{others: test.others, faults: test.faults, statuses: map[string][]map[string]any{}}
				g := repositoryOf(double)
				if test.change != nil {
					test.change(&g)
				}
				e := unhealthyCanary("")
				e.Release.Commit = test.commit
				e.ReleaseID, e.Message = test.release, strings.Repeat("ü", 200)
				err := g.Notify(t.Context(), e)
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				if err != nil && strings.Contains(err.Error(), g.Token) {
					t.Error("the error contains the token")
				}
				if double.requests != test.wantRequests {
					t.Errorf("%d requests, want %d", double.requests, test.wantRequests)
				}
				if err != nil || test.release == "" {
					return
				}
				status := double.statuses["12"][0]
				description, _ := status["description"].(string)
				delete(status, "description")
				want := map[string]any{"state": "failure", "log_url": "https://gitlab.example.com/p/-/pipelines/7", "environment_url": "https://app.example.com"}
				if diff := cmp.Diff(want, status); diff != "" || utf8.RuneCountInString(description) != 140 {
					t.Errorf("description %q, status (-want +got)\n%s", description, diff)
				}
			})
		})
	}
}

// TestGitHubStatuses: a Deployment's statuses are given oldest first, after its creation.
func TestGitHubStatuses(t *testing.T) {
	at := func(minute, second int) time.Time { return time.Date(2026, 11, 23, 8, minute, second, 0, time.UTC) }
	all := []DeploymentStatus{
		{State: "created", CreatedAt: at(0, 0), CreatedBy: "github-actions[bot]"},
		{State: "queued", CreatedAt: at(0, 1), CreatedBy: "github-actions[bot]"},
		{State: "success", Description: "promote: done", CreatedAt: at(9, 0), CreatedBy: "release-bot"},
	}
	for name, test := range map[string]struct {
		release string
		faults  []int
		want    []DeploymentStatus
		wantErr string
	}{
		"success":         {release: "one", want: all},
		"after faults":    {release: "one", faults: []int{502, 0, 429}, want: all},
		"GitHub is down":  {release: "one", faults: []int{0, 503, 503, 503, 503}, wantErr: "statuses of deployment 12"},
		"unknown release": {release: "two", wantErr: "no deployment of release two"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // simulated: go-github leaves the bodies of errors to their time-out
				got, err := repositoryOf(&gitHub{faults: test.faults}).Statuses(t.Context(), test.release, "")
				if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error %v, want %q", err, test.wantErr)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		})
	}
}
