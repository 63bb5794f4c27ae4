package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
)

const (
	pageCommit = "0123456789abcdef0123456789abcdef01234567"
	appToken   = "ghs_app" // of a GitHub App, or of GitHub Actions
	userToken  = "ghp_user"
)

// gitHubPages is a double of what GitHub has of a commit and its pull requests, checked against
// https://docs.github.com/rest: commits (pulls, statuses), checks/runs, issues/comments, users and the permissions of
// each. As there, check runs are an app's alone and may only be changed by who made them, an app may not ask who it is, a
// right that lacks is 403 or, for what is hidden, 404, comments come by ascending id and 100 a page at most, and what is
// too long, in bytes, or incomplete is 422. It differs: it has one repository, a write is seen at once, and a rate limit
// only comes where a test asks for it.
type gitHubPages struct {
	sync.Mutex
	pulls    []map[string]any
	rights   map[string]bool // that the token lacks
	before   map[string]func()
	lost     map[string]int // how many answers of a kind are lost, after the work is done
	limited  map[string]int
	comments []map[string]any
	checks   []map[string]any
	statuses []map[string]any
	requests []string
	id       int
}

func (g *gitHubPages) RoundTrip(r *http.Request) (*http.Response, error) {
	kind := kindOf(r)
	g.Lock()
	hook := g.before[kind]
	g.requests = append(g.requests, kind)
	g.Unlock()
	if hook != nil {
		hook()
	}
	g.Lock()
	defer g.Unlock()
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	g.serve(w, r, kind)
	if g.lost[kind] > 0 {
		g.lost[kind]--
		return nil, errors.New("connection reset by peer")
	}
	return w.Result(), nil
}

// kindOf is a request without its names: POST comments.
func kindOf(r *http.Request) string {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/repos/our-org/shop/"), "/")
	name := parts[len(parts)-1]
	if len(parts) > 1 && name[0] >= '0' && name[0] <= '9' {
		name = parts[len(parts)-2]
	}
	return r.Method + " " + strings.TrimPrefix(name, "/")
}

func (g *gitHubPages) serve(w *httptest.ResponseRecorder, r *http.Request, kind string) {
	app := r.Header.Get("Authorization") == "Bearer "+appToken
	login, of := "release-bot", "User"
	if app {
		login, of = "crossbill[bot]", "Bot"
	}
	refuse := func(code int, message string) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"message":%q,"documentation_url":"https://docs.github.com/rest","status":"%d"}`, message, code)
	}
	answer := func(code int, v any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	var body map[string]any
	if r.Body != nil {
		_ = json.NewDecoder(r.Body).Decode(&body)
	}
	number, _ := strconv.Atoi(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
	find := func(rows []map[string]any) map[string]any {
		if i := slices.IndexFunc(rows, func(row map[string]any) bool { return row["id"] == number }); i >= 0 {
			return rows[i]
		}
		return nil
	}
	g.id++
	switch {
	case !app && r.Header.Get("Authorization") != "Bearer "+userToken:
		refuse(http.StatusUnauthorized, "Bad credentials")
	case g.limited[kind] > 0:
		g.limited[kind]--
		w.Header().Set("Retry-After", "60")
		refuse(http.StatusForbidden, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.")
	case g.rights[kind]:
		refuse(http.StatusForbidden, "Resource not accessible by personal access token")
	case kind == "GET user" && app:
		refuse(http.StatusForbidden, "Resource not accessible by integration")
	case kind == "GET user":
		answer(http.StatusOK, map[string]any{"login": login, "type": of})
	case !strings.HasPrefix(r.URL.Path, "/repos/our-org/shop/"):
		refuse(http.StatusNotFound, "Not Found")
	case kind == "GET pulls":
		answer(http.StatusOK, g.pulls)
	case kind == "GET commits": // the whole hash alone, by its media type
		fmt.Fprint(w, pageCommit)
	case kind == "GET deployments":
		answer(http.StatusOK, []map[string]any{{"id": 4, "sha": pageCommit, "payload": map[string]any{"release": "0123456789ab", "pipeline": "https://gitlab.example.com/p/-/pipelines/7"}}})
	case kind == "GET comments":
		page, each := max(1, atoi(r.URL.Query().Get("page"))), min(100, max(30, atoi(r.URL.Query().Get("per_page"))))
		from, to := min(len(g.comments), (page-1)*each), min(len(g.comments), page*each)
		if to < len(g.comments) {
			w.Header().Set("Link", fmt.Sprintf(`<https://%s%s?per_page=%d&page=%d>; rel="next"`, r.URL.Host, r.URL.Path, each, page+1))
		}
		answer(http.StatusOK, g.comments[from:to])
	case kind == "POST comments":
		g.comments = append(g.comments, map[string]any{"id": g.id, "body": body["body"], "user": map[string]any{"login": login, "type": of}})
		answer(http.StatusCreated, g.comments[len(g.comments)-1])
	case kind == "PATCH comments" || kind == "DELETE comments":
		c := find(g.comments)
		if c == nil {
			refuse(http.StatusNotFound, "Not Found")
			return
		}
		if kind == "DELETE comments" {
			g.comments = slices.DeleteFunc(g.comments, func(row map[string]any) bool { return row["id"] == number })
			w.WriteHeader(http.StatusNoContent)
			return
		}
		c["body"] = body["body"]
		answer(http.StatusOK, c)
	case kind == "GET check-runs":
		answer(http.StatusOK, map[string]any{"total_count": len(g.checks), "check_runs": g.checks})
	case kind == "POST check-runs" || kind == "PATCH check-runs":
		run := find(g.checks)
		output, _ := body["output"].(map[string]any)
		summary, _ := output["summary"].(string)
		switch {
		case kind == "PATCH check-runs" && run == nil:
			refuse(http.StatusNotFound, "Not Found")
			return
		case !app:
			refuse(http.StatusForbidden, "You must authenticate via a GitHub App.")
			return
		case run != nil && run["by"] != nil:
			refuse(http.StatusForbidden, "Invalid app_id `1` - check run can only be modified by the GitHub App that created it.")
			return
		case len(summary) > 65535, body["status"] == "completed" && body["conclusion"] == nil, kind == "POST check-runs" && body["head_sha"] != pageCommit:
			refuse(http.StatusUnprocessableEntity, "Validation Failed")
			return
		}
		if run == nil {
			run = map[string]any{"id": g.id}
			g.checks = append(g.checks, run)
		}
		maps.Copy(run, body)
		answer(http.StatusCreated, run)
	case kind == "GET statuses":
		newest := slices.Clone(g.statuses)
		slices.Reverse(newest)
		answer(http.StatusOK, newest)
	case kind == "POST statuses":
		if text, _ := body["description"].(string); len([]rune(text)) > 140 {
			refuse(http.StatusUnprocessableEntity, "Validation Failed")
			return
		}
		body["created_at"] = time.Now().UTC().Format(time.RFC3339)
		g.statuses = append(g.statuses, body)
		answer(http.StatusCreated, body)
	default:
		refuse(http.StatusNotFound, "Not Found")
	}
}

func atoi(text string) int { n, _ := strconv.Atoi(text); return n }

// mergedPull is a pull request of a commit, as GitHub lists it.
func mergedPull(number int, base, merged, mergeCommit string) map[string]any {
	pr := map[string]any{"number": number, "base": map[string]any{"ref": base, "repo": map[string]any{"default_branch": "main"}}, "merge_commit_sha": mergeCommit}
	if merged != "" {
		pr["merged_at"] = merged
	}
	return pr
}

// pageEvent is a release with so many steps, some minutes after its start.
func pageEvent(minute, steps int, outcome release.Outcome) *Event {
	r := &release.Release{
		ID: "0123456789ab", Image: "registry.example.com/shop@sha256:" + strings.Repeat("a", 64), Stage: release.StageCanary, Weight: 10, Commit: pageCommit,
		StartedAt: started, StartedBy: "ada", PipelineURL: "https://gitlab.example.com/infra/deploy/-/pipelines/9",
	}
	for range steps {
		r.Steps = append(r.Steps, release.Step{Stage: release.StageCanary, At: started})
	}
	return &Event{Command: "canary", App: "shop", Namespace: "production", Release: r, ReleaseID: r.ID, Outcome: outcome, Result: Succeeded, Message: fmt.Sprintf("at minute %d", minute), StartedAt: started, FinishedAt: started.Add(time.Duration(minute) * time.Minute)}
}

// seen is what people see on GitHub.
type seen struct {
	Comments []string // the message of each
	Checks   []string // status and conclusion of each
	Statuses []string
	Said     []string
}

func (g *gitHubPages) seen() seen {
	var s seen
	for _, c := range g.comments {
		body, _ := c["body"].(string)
		if at := strings.Index(body, "| What happened | "); at >= 0 {
			body, _, _ = strings.Cut(body[at+len("| What happened | "):], " |")
		}
		s.Comments = append(s.Comments, body)
	}
	for _, c := range g.checks {
		s.Checks = append(s.Checks, strings.TrimSuffix(fmt.Sprintf("%v %v", c["status"], c["conclusion"]), " <nil>"))
	}
	for _, c := range g.statuses {
		s.Statuses = append(s.Statuses, fmt.Sprintf("%v %v: %v", c["context"], c["state"], c["description"]))
	}
	return s
}

// TestPullRequest: one comment and one check run, whatever happens on the way.
func TestPullRequest(t *testing.T) {
	merged := []map[string]any{mergedPull(7, "main", "2026-11-23T07:00:00Z", pageCommit)}
	lifecycle := []*Event{pageEvent(1, 2, ""), pageEvent(2, 3, ""), pageEvent(3, 5, release.OutcomePromoted)}
	shown := seen{Comments: []string{"at minute 3"}, Checks: []string{"completed success"}}
	statuses := []string{"crossbill/shop pending: shop: canary with 10% of the traffic", "crossbill/shop success: shop: promoted"}
	const mayNotCheck = "GitHub: the token may not write check runs of our-org/shop, which takes an app's token with checks:write: the commit has the status crossbill/shop instead"
	unread := pageEvent(4, 0, "") // the API server is down
	unread.Release, unread.Result, unread.Command = nil, Failed, "promote"
	short := pageEvent(1, 2, "")
	short.Release.Commit = pageCommit[:7]
	noCommit := pageEvent(1, 2, "")
	noCommit.Release.Commit = ""
	again := pageEvent(60, 1, "")
	again.Release.StartedAt = started.Add(50 * time.Minute)
	long := pageEvent(1, 2, "")
	long.Message, long.Release.Reason, long.Release.StartedBy = strings.Repeat("@ü|", 40000), strings.Repeat("\U0001F600", 70000), strings.Repeat("#", 70000)
	long.Release.PipelineURL = "https://gitlab.example.com/" + strings.Repeat("x", 70000)
	for name, test := range map[string]struct {
		token   string // default: an app's
		change  func(*gitHubPages)
		events  []*Event
		want    seen
		wantErr string
	}{
		"a lifecycle":                       {events: lifecycle, want: shown},
		"a lifecycle, backward":             {events: []*Event{lifecycle[2], lifecycle[1], lifecycle[0]}, want: shown},
		"the same event twice":              {events: []*Event{lifecycle[2], lifecycle[2]}, want: shown},
		"rolled back after promotion":       {events: []*Event{lifecycle[2], pageEvent(9, 7, release.OutcomeRolledBack)}, want: seen{Comments: []string{"at minute 9"}, Checks: []string{"completed failure"}}},
		"the same commit is released again": {events: []*Event{lifecycle[2], again, lifecycle[1]}, want: seen{Comments: []string{"at minute 60"}, Checks: []string{"completed success", "in_progress"}}},
		"a job that read no ledger":         {events: []*Event{lifecycle[0], unread, pageEvent(5, 4, "")}, want: seen{Comments: []string{"at minute 5"}, Checks: []string{"in_progress"}}},
		"that comes too late":               {events: []*Event{lifecycle[2], unread}, want: shown},
		"a short commit":                    {events: []*Event{short}, want: seen{Comments: []string{"at minute 1"}, Checks: []string{"in_progress"}}},
		"the commit of the Deployment":      {events: []*Event{noCommit}, want: seen{Comments: []string{"at minute 1"}, Checks: []string{"in_progress"}}},
		"no pull request":                   {change: func(g *gitHubPages) { g.pulls = nil }, events: lifecycle, want: seen{Checks: shown.Checks}},
		"pull requests that did not bring it": {change: func(g *gitHubPages) {
			g.pulls = []map[string]any{mergedPull(1, "main", "", ""), mergedPull(2, "feature", "2026-11-23T07:00:00Z", pageCommit)}
		}, events: lifecycle, want: seen{Checks: shown.Checks}},
		"a person's token":    {token: userToken, events: lifecycle, want: seen{Comments: shown.Comments, Statuses: statuses, Said: []string{mayNotCheck}}},
		"that comes backward": {token: userToken, events: []*Event{lifecycle[2], lifecycle[0]}, want: seen{Comments: shown.Comments, Statuses: statuses[1:], Said: []string{mayNotCheck}}},
		"no rights but for deployments": {token: userToken, change: func(g *gitHubPages) {
			g.rights = map[string]bool{"GET check-runs": true, "GET statuses": true, "POST statuses": true, "GET pulls": true}
		}, events: lifecycle, want: seen{Said: []string{
			mayNotCheck,
			"GitHub: the token may not comment on pull requests of our-org/shop: give it pull_requests:write, or set notify.github.pullRequest: false (403 Resource not accessible by personal access token [])",
			"GitHub: the token may not write the status of a commit either: give it statuses:write, or set notify.github.pullRequest: false (403 Resource not accessible by personal access token [])",
		}}},
		"may read, not comment": {change: func(g *gitHubPages) { g.rights = map[string]bool{"POST comments": true} }, events: lifecycle[:1], want: seen{Checks: []string{"in_progress"}, Said: []string{
			"GitHub: the token may not comment on pull requests of our-org/shop: give it pull_requests:write, or set notify.github.pullRequest: false (403 Resource not accessible by personal access token [])",
		}}},
		"wrong token":              {token: "old", events: lifecycle[:1], wantErr: "401"},
		"a rate limit is no right": {change: func(g *gitHubPages) { g.limited = map[string]int{"POST check-runs": 1} }, events: lifecycle[:1], want: seen{Comments: []string{"at minute 1"}}, wantErr: "rate limit"},
		"lost answers": {change: func(g *gitHubPages) {
			g.lost = map[string]int{"POST comments": 1, "POST check-runs": 1, "PATCH comments": 1, "PATCH check-runs": 1, "GET comments": 1, "GET pulls": 2}
		}, events: lifecycle, want: shown},
		"no answer is ever given": {change: func(g *gitHubPages) { g.lost = map[string]int{"GET pulls": 99, "GET check-runs": 99} }, events: lifecycle[:1], wantErr: "connection reset"},
		"another app's check run": {change: func(g *gitHubPages) {
			g.checks = []map[string]any{{"id": -1, "by": "other", "status": "in_progress", "output": map[string]any{"summary": marker("shop")}}}
		}, events: lifecycle[:1], want: seen{Comments: []string{"at minute 1"}, Checks: []string{"in_progress", "in_progress"}}},
		"a person has copied the page": {change: func(g *gitHubPages) {
			g.comments = []map[string]any{{"id": -1, "body": marker("shop") + "mine", "user": map[string]any{"login": "mallory", "type": "User"}}}
		}, events: lifecycle, want: seen{Comments: []string{marker("shop") + "mine", "at minute 3"}, Checks: shown.Checks}},
		"texts without end": {events: []*Event{long}, want: seen{Checks: []string{"in_progress"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // simulated: go-github leaves the bodies of errors to their time-out
				time.Sleep(time.Until(started.Add(time.Hour)))
				double := &gitHubPages{pulls: merged}
				if test.change != nil {
					test.change(double)
				}
				if test.token == "" {
					test.token = appToken
				}
				var log heard
				p := PullRequest{GitHub: GitHub{URL: "https://github.example.com", Repository: "our-org/shop", Token: test.token, Transport: double}, Log: log.add}
				err := inTime(t, p, test.events...)
				if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error %v, want %q", err, test.wantErr)
				}
				slices.Sort(test.want.Said)
				got := double.seen()
				got.Said = log.said()
				if name == "texts without end" {
					body, _ := double.comments[0]["body"].(string)
					if len(body) > longestPage || !strings.HasSuffix(body, "…") {
						t.Errorf("%d bytes, ends with %q", len(body), body[len(body)-10:])
					}
					got.Comments = nil
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			})
		})
	}
}

// TestPullRequestRaces: two jobs at the same time leave one comment, of the later state.
func TestPullRequestRaces(t *testing.T) {
	for name, kind := range map[string]string{"both make it": "POST comments", "both change it": "PATCH comments"} {
		for _, laterFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, later first %v", name, laterFirst), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					defer time.Sleep(time.Minute)
					double := &gitHubPages{pulls: []map[string]any{mergedPull(7, "main", "2026-11-23T07:00:00Z", pageCommit)}}
					p := PullRequest{GitHub: GitHub{URL: "https://github.example.com", Repository: "our-org/shop", Token: appToken, Transport: double}}
					if kind == "PATCH comments" {
						if err := p.Notify(t.Context(), pageEvent(1, 1, "")); err != nil {
							t.Fatal(err)
						}
					}
					arrived := 0
					double.before = map[string]func(){kind: func() { // both have looked before either writes; then one is slower
						double.Lock()
						arrived++
						mine := arrived
						double.Unlock()
						time.Sleep(time.Duration(mine) * time.Second / 2)
					}}
					events := []*Event{pageEvent(2, 2, ""), pageEvent(3, 5, release.OutcomePromoted)}
					if laterFirst {
						slices.Reverse(events)
					}
					var pending sync.WaitGroup
					for i, e := range events {
						pending.Go(func() {
							time.Sleep(time.Duration(i) * time.Millisecond)
							if err := p.Notify(t.Context(), e); err != nil {
								t.Error(err)
							}
						})
					}
					pending.Wait()
					if diff := cmp.Diff([]string{"at minute 3"}, double.seen().Comments); diff != "" {
						t.Errorf("comments (-want +got)\n%s", diff)
					}
				})
			})
		}
	}
}

// TestPullRequestTakesNoTime: only the command after which none may follow looks again.
func TestPullRequestTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute)
		double := &gitHubPages{pulls: []map[string]any{mergedPull(7, "main", "2026-11-23T07:00:00Z", pageCommit)}}
		p := PullRequest{GitHub: GitHub{URL: "https://github.example.com", Repository: "our-org/shop", Token: appToken, Transport: double}}
		var took []time.Duration
		for _, e := range []*Event{pageEvent(1, 1, ""), pageEvent(2, 2, ""), pageEvent(3, 5, release.OutcomePromoted)} {
			began := time.Now()
			if err := p.Notify(t.Context(), e); err != nil {
				t.Error(err)
			}
			took = append(took, time.Since(began))
		}
		if diff := cmp.Diff([]time.Duration{0, 0, settle}, took); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// TestPullRequestOfTwo: the comment is on the pull request that brought the commit, also among many comments.
func TestPullRequestOfTwo(t *testing.T) {
	for name, test := range map[string]struct {
		pulls []map[string]any
		want  int
	}{
		"its merge commit":  {[]map[string]any{mergedPull(1, "main", "2026-11-20T07:00:00Z", "f"), mergedPull(2, "main", "2026-11-23T07:00:00Z", pageCommit)}, 2},
		"the earlier merge": {[]map[string]any{mergedPull(1, "main", "2026-11-23T07:00:00Z", "f"), mergedPull(2, "main", "2026-11-20T07:00:00Z", "e")}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			repo, err := GitHub{URL: "https://github.example.com", Repository: "our-org/shop", Token: appToken, Transport: &gitHubPages{pulls: test.pulls}}.connect()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := (&pages{host: &gitHubHost{repository: repo}}).review(t.Context(), pageCommit); got != int64(test.want) || err != nil {
				t.Errorf("%d, %v, want %d", got, err, test.want)
			}
		})
	}
	t.Run("many comments", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			double := &gitHubPages{pulls: []map[string]any{mergedPull(7, "main", "2026-11-23T07:00:00Z", pageCommit)}}
			for i := range 250 {
				double.comments = append(double.comments, map[string]any{"id": -300 + i, "body": "a talk", "user": map[string]any{"login": "ada", "type": "User"}})
			}
			p := PullRequest{GitHub: GitHub{URL: "https://github.example.com", Repository: "our-org/shop", Token: userToken, Transport: double}}
			for minute := range 3 {
				if err := p.Notify(t.Context(), pageEvent(minute+1, 2, "")); err != nil {
					t.Fatal(err)
				}
			}
			if got := double.seen().Comments; len(got) != 251 || got[250] != "at minute 3" {
				t.Errorf("%d comments, the last one %q", len(got), got[len(got)-1])
			}
			time.Sleep(time.Minute)
		})
	})
}

// TestLive: what comes faster than it is sent is left out but for the newest, and nothing is held up.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		slow := recorder{func(e *Event) error {
			time.Sleep(11 * time.Second)
			got = append(got, e.Message)
			return errors.New("down")
		}}
		failures := 0
		live := NewLive(t.Context(), []Notifier{slow}, func(error) { failures++ })
		began := time.Now()
		for i := range 60 {
			before := time.Now()
			live.Show(pageEvent(i, 1, ""))
			if held := time.Since(before); held > 0 {
				t.Errorf("held up for %s", held)
			}
			time.Sleep(5 * time.Second)
		}
		live.Stop()
		if diff := cmp.Diff([]string{"at minute 0", "at minute 26", "at minute 52"}, got); diff != "" || failures != 1 || time.Since(began) > 5*time.Minute+timeout {
			t.Errorf("%d failures, sent (-want +got)\n%s", failures, diff)
		}
		(*Live)(nil).Show(nil)
		(*Live)(nil).Stop()
	})
}

type recorder struct{ send func(*Event) error }

func (r recorder) Notify(_ context.Context, e *Event) error { return r.send(e) }

// heard are the different texts of a log.
type heard struct {
	lock  sync.Mutex
	texts []string
}

func (h *heard) add(text string) {
	h.lock.Lock()
	defer h.lock.Unlock()
	if !slices.Contains(h.texts, text) {
		h.texts = append(h.texts, text)
	}
}

func (h *heard) said() []string {
	h.lock.Lock()
	defer h.lock.Unlock()
	return slices.Sorted(slices.Values(h.texts))
}

// inTime notifies of events, each of which may take as long as a release waits for it.
func inTime(t *testing.T, n Notifier, events ...*Event) error {
	t.Helper()
	var errs []error
	for _, e := range events {
		began := time.Now()
		errs = append(errs, All(t.Context(), []Notifier{n}, e))
		if took := time.Since(began); took > timeout {
			t.Errorf("took %s", took)
		}
	}
	return errors.Join(errs...)
}
