package notify

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/release"
)

// newCode is a GitLab with the code of releases, whose access token may show them.
func newCode() *gitlabtest.Server {
	s := gitlabtest.New()
	s.Project = "our-org/shop"
	s.Private = true
	s.Commits = map[string]time.Time{pageCommit: started.Add(-time.Hour)}
	s.Members = map[string]int{s.APIUser: gitlabtest.Maintainer, s.ReadUser: gitlabtest.Maintainer}
	s.MergeRequests = []gitlabtest.MergeRequest{{IID: 7, MergedAt: started.Add(-time.Hour), MergeCommit: pageCommit}}
	return s
}

// onTheWay is a way to GitLab that loses answers, after the work is done, and shows requests before they arrive.
type onTheWay struct {
	http.RoundTripper
	sync.Mutex
	lost   map[string]int // answers by kind: POST notes
	before func(kind string)
	seen   []string
}

func (o *onTheWay) RoundTrip(r *http.Request) (*http.Response, error) {
	kind := kindOf(r)
	if o.before != nil {
		o.before(kind)
	}
	response, err := o.RoundTripper.RoundTrip(r)
	o.Lock()
	defer o.Unlock()
	o.seen = append(o.seen, kind)
	if o.lost[kind] > 0 {
		o.lost[kind]--
		if response != nil {
			response.Body.Close()
		}
		return nil, errors.New("connection reset by peer")
	}
	return response, err
}

// shownInGitLab is what people see in GitLab.
type shownInGitLab struct {
	Notes    []string // the message of each
	Statuses []string
	Said     []string
}

func shownBy(s *gitlabtest.Server) (shown shownInGitLab) {
	for _, n := range s.Notes() {
		body := n.Body
		if at := strings.Index(body, "| What happened | "); at >= 0 {
			body, _, _ = strings.Cut(body[at+len("| What happened | "):], " |")
		}
		shown.Notes = append(shown.Notes, body)
	}
	for _, c := range s.Statuses() {
		if !c.Retried {
			shown.Statuses = append(shown.Statuses, fmt.Sprintf("%d %s %s: %s", c.Pipeline, c.Name, c.State, c.Description))
		}
	}
	return shown
}

// TestMergeRequest: one note and one status, whatever happens on the way.
func TestMergeRequest(t *testing.T) {
	lifecycle := []*Event{pageEvent(1, 2, ""), pageEvent(2, 3, ""), pageEvent(3, 5, release.OutcomePromoted)}
	const running, promoted = "1000 crossbill/shop running: shop: release in progress", "1000 crossbill/shop success: shop: promoted"
	shown := shownInGitLab{Notes: []string{"at minute 3"}, Statuses: []string{promoted}}
	unread := pageEvent(4, 0, "") // the API server is down
	unread.Release, unread.Result, unread.Command = nil, Failed, "promote"
	waits := pageEvent(1, 0, "")
	waits.Release, waits.Result, waits.Command, waits.Commit = nil, Waits, "queue", pageCommit
	short, longURL := pageEvent(1, 2, ""), pageEvent(3, 5, release.OutcomePromoted)
	short.Release.Commit = pageCommit[:7]
	longURL.Release.PipelineURL = "https://gitlab.example.com/" + strings.Repeat("x", 240)
	noURL, noURLBefore := pageEvent(3, 5, release.OutcomePromoted), pageEvent(2, 3, "")
	noURL.Release.PipelineURL, noURLBefore.Release.PipelineURL = "", ""
	elsewhere := pageEvent(1, 2, "")
	elsewhere.Release.Commit = strings.Repeat("e", 40)
	again := pageEvent(60, 1, "")
	again.Release.StartedAt = started.Add(50 * time.Minute)
	superseded, unhealthy := pageEvent(4, 4, ""), pageEvent(2, 3, "")
	superseded.SupersededBy, unhealthy.Result = "99aa", Unhealthy
	long := pageEvent(1, 2, "")
	long.Message, long.Release.Reason, long.Release.StartedBy = strings.Repeat("@ü|\n/close", 40000), strings.Repeat("\U0001F600", 70000), strings.Repeat("!", 70000)
	const mayNotNote = "GitLab: the token may not write notes on merge requests of our-org/shop: it takes scope api and the role Developer"
	const mayNotStatus = "GitLab: the token may not write the status of a commit of our-org/shop: it takes scope api, the role Developer, and the right to push or merge to a branch that is protected"
	built := gitlabtest.Pipeline{SHA: pageCommit, Source: "push", Status: "success"}
	its := gitlabtest.Pipeline{SHA: pageCommit, Name: "release shop 0123456789ab"}
	for name, test := range map[string]struct {
		token     string // default: of scope api
		project   string
		pipelines []gitlabtest.Pipeline // of the commit; default one
		change    func(*gitlabtest.Server, *onTheWay)
		events    []*Event
		want      shownInGitLab
		wantErr   string
	}{
		"a lifecycle":                       {events: lifecycle, want: shown},
		"while it goes on":                  {events: lifecycle[:2], want: shownInGitLab{Notes: []string{"at minute 2"}, Statuses: []string{running}}},
		"a lifecycle, backward":             {events: []*Event{lifecycle[2], lifecycle[1], lifecycle[0]}, want: shown},
		"the same event twice":              {events: []*Event{lifecycle[2], lifecycle[2]}, want: shown},
		"an older failure comes late":       {events: []*Event{lifecycle[2], unhealthy}, want: shown},
		"rolled back after promotion":       {events: []*Event{lifecycle[2], pageEvent(9, 7, release.OutcomeRolledBack)}, want: shownInGitLab{Notes: []string{"at minute 9"}, Statuses: []string{"1000 crossbill/shop failed: shop: rolled back"}}},
		"superseded":                        {events: []*Event{lifecycle[0], superseded}, want: shownInGitLab{Notes: []string{"at minute 4"}, Statuses: []string{"1000 crossbill/shop canceled: shop: superseded by release 99aa"}}},
		"the same commit is released again": {events: []*Event{lifecycle[2], again, lifecycle[1]}, want: shownInGitLab{Notes: []string{"at minute 60"}, Statuses: []string{running}}},
		"a job that read no ledger":         {events: []*Event{lifecycle[0], unread, pageEvent(5, 4, "")}, want: shownInGitLab{Notes: []string{"at minute 5"}, Statuses: []string{running}}},
		"in the line":                       {events: []*Event{waits, lifecycle[0]}, want: shownInGitLab{Notes: []string{"at minute 1"}, Statuses: []string{running}}},
		"a short commit":                    {events: []*Event{short}, want: shownInGitLab{Notes: []string{"at minute 1"}, Statuses: []string{running}}},
		"an address without room":           {events: []*Event{longURL, lifecycle[1]}, want: shown},
		"no address":                        {events: []*Event{noURL, noURLBefore}, want: shown},
		"no merge request":                  {change: func(s *gitlabtest.Server, _ *onTheWay) { s.MergeRequests = nil }, events: lifecycle, want: shownInGitLab{Statuses: shown.Statuses}},
		"merge requests that did not bring it": {change: func(s *gitlabtest.Server, _ *onTheWay) {
			s.MergeRequests = []gitlabtest.MergeRequest{{IID: 1, Commits: []string{pageCommit}}, {IID: 2, Target: "feature", MergedAt: started, Commits: []string{pageCommit}}}
		}, events: lifecycle, want: shownInGitLab{Statuses: shown.Statuses}},
		"no pipeline":                 {pipelines: []gitlabtest.Pipeline{}, events: lifecycle, want: shown},
		"the code's own project":      {pipelines: []gitlabtest.Pipeline{built, its}, events: lifecycle, want: shown},
		"only the release's pipeline": {pipelines: []gitlabtest.Pipeline{its}, events: lifecycle, want: shownInGitLab{Notes: shown.Notes}},
		"a newer pipeline comes": {change: func(s *gitlabtest.Server, way *onTheWay) {
			way.before = func(kind string) {
				if kind == "POST statuses" {
					way.before = func(string) {
						way.before = nil
						s.Add(gitlabtest.Pipeline{SHA: pageCommit, Source: "schedule"})
					}
				}
			}
		}, events: []*Event{lifecycle[0], lifecycle[2]}, want: shown},
		"may read alone": {token: "glpat-read", events: lifecycle, want: shownInGitLab{Said: []string{
			mayNotNote + " (403 insufficient_scope)", mayNotStatus + " (403 insufficient_scope)",
		}}},
		"a developer, of a protected branch": {change: func(s *gitlabtest.Server, _ *onTheWay) { s.Members[s.APIUser] = gitlabtest.Developer }, events: lifecycle, want: shownInGitLab{Notes: shown.Notes, Said: []string{mayNotStatus + " (403 Forbidden)"}}},
		"a stranger": {change: func(s *gitlabtest.Server, _ *onTheWay) { s.Members = nil }, events: lifecycle[:1], want: shownInGitLab{Said: []string{
			"GitLab: our-org/shop does not have commit 0123456789ab, or the token may not see it: name the project of the code by notify.gitlab.project, and make the token's user a member with the role Developer (403 Forbidden)",
		}}},
		"the code is elsewhere": {events: []*Event{elsewhere}, want: shownInGitLab{Said: []string{
			"GitLab: our-org/shop does not have commit eeeeeeeeeeee, or the token may not see it: name the project of the code by notify.gitlab.project, and make the token's user a member with the role Developer (404 Not Found)",
		}}},
		"a wrong token": {token: "glpat-old", events: lifecycle[:1], wantErr: "401"},
		"no project":    {project: "-", events: lifecycle[:1], wantErr: "notify.gitlab.project"},
		"lost answers": {change: func(_ *gitlabtest.Server, way *onTheWay) {
			way.lost = map[string]int{"POST notes": 1, "PUT notes": 1, "POST statuses": 1, "GET notes": 1, "GET statuses": 1, "GET merge_requests": 2}
		}, events: lifecycle, want: shown},
		"no answer is ever given": {change: func(_ *gitlabtest.Server, way *onTheWay) { way.lost = map[string]int{"GET commits": 99} }, events: lifecycle[:1], wantErr: "connection reset"},
		"it is away for a while": {change: func(s *gitlabtest.Server, _ *onTheWay) {
			s.ReadFaults = []gitlabtest.Fault{{Kind: gitlabtest.Refuse}, {Kind: gitlabtest.Limit, Delay: 2 * time.Second}, {Kind: gitlabtest.Drop}}
		}, events: lifecycle, want: shown},
		"a person has copied the page": {change: func(s *gitlabtest.Server, _ *onTheWay) {
			s.AddNote(gitlabtest.Note{Request: 7, Author: "mallory", Body: marker("shop") + "mine"})
			s.AddNote(gitlabtest.Note{Request: 7, Author: s.APIUser, Body: marker("shop") + "system", System: true})
		}, events: lifecycle, want: shownInGitLab{Notes: []string{marker("shop") + "mine", marker("shop") + "system", "at minute 3"}, Statuses: shown.Statuses}},
		"texts without end": {events: []*Event{long}, want: shownInGitLab{Statuses: []string{running}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(started.Add(time.Hour)))
				server := newCode()
				if test.pipelines == nil {
					test.pipelines = []gitlabtest.Pipeline{built}
				}
				for _, p := range test.pipelines { // from 1000 on
					server.Add(p)
				}
				way := &onTheWay{RoundTripper: server.Transport()}
				if test.change != nil {
					test.change(server, way)
				}
				token, project := "glpat-api", server.Project
				if test.token != "" {
					token = test.token
				}
				if test.project != "" {
					project = ""
				}
				var log heard
				m := MergeRequest{GitLab: GitLab{URL: "https://gitlab.example.com", Project: project, Token: token, Transport: way}, Log: log.add}
				err := inTime(t, m, test.events...)
				server.Wait()
				if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) || err != nil && strings.Contains(err.Error(), "glpat") {
					t.Errorf("error %v, want %q", err, test.wantErr)
				}
				got := shownBy(server)
				got.Said = log.said()
				if name == "texts without end" {
					if body := server.Notes()[0].Body; len(body) > longestPage || strings.Count(body, " /close") < 50 { // else GitLab has taken it for an action
						t.Errorf("%d bytes: %.300q", len(body), body)
					}
					got.Notes = nil
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			})
		})
	}
}

// TestMergeRequestRaces: two jobs at the same time leave one note and one status, of the later state.
func TestMergeRequestRaces(t *testing.T) {
	promoted := pageEvent(3, 5, release.OutcomePromoted)
	for name, test := range map[string]struct {
		kind   string
		first  *Event // before the two
		events []*Event
		want   shownInGitLab
	}{
		"both make the note":     {kind: "POST notes", events: []*Event{pageEvent(2, 2, ""), promoted}, want: shownInGitLab{Notes: []string{"at minute 3"}, Statuses: []string{"success"}}},
		"both change the note":   {kind: "PUT notes", first: pageEvent(1, 1, ""), events: []*Event{pageEvent(2, 2, ""), promoted}, want: shownInGitLab{Notes: []string{"at minute 3"}, Statuses: []string{"success"}}},
		"both make the status":   {kind: "POST statuses", events: []*Event{pageEvent(2, 2, ""), promoted}, want: shownInGitLab{Notes: []string{"at minute 3"}, Statuses: []string{"success"}}},
		"both say that it runs":  {kind: "POST statuses", events: []*Event{pageEvent(2, 2, ""), pageEvent(3, 3, "")}, want: shownInGitLab{Notes: []string{"at minute 3"}, Statuses: []string{"running"}}},
		"both change the status": {kind: "POST statuses", first: pageEvent(1, 1, ""), events: []*Event{pageEvent(2, 2, release.OutcomeRolledBack), promoted}, want: shownInGitLab{Notes: []string{"at minute 3"}, Statuses: []string{"success"}}},
	} {
		for _, laterFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, later first %v", name, laterFirst), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := newCode()
					server.Add(gitlabtest.Pipeline{SHA: pageCommit, Source: "push", Status: "success"})
					way := &onTheWay{RoundTripper: server.Transport()}
					m := MergeRequest{GitLab: GitLab{URL: "https://gitlab.example.com", Project: server.Project, Token: server.APIToken, Transport: way}, Log: func(text string) { t.Error(text) }}
					if test.first != nil {
						if err := m.Notify(t.Context(), test.first); err != nil {
							t.Fatal(err)
						}
					}
					arrived := 0
					way.before = func(kind string) { // both have looked before either writes; then one is slower
						if kind == test.kind {
							way.Lock()
							arrived++
							mine := arrived
							way.Unlock()
							time.Sleep(time.Duration(mine) * time.Second / 2)
						}
					}
					if laterFirst {
						slices.Reverse(test.events)
					}
					var pending sync.WaitGroup
					for i, e := range test.events {
						pending.Go(func() {
							time.Sleep(time.Duration(i) * time.Millisecond)
							if err := m.Notify(t.Context(), e); err != nil {
								t.Error(err)
							}
						})
					}
					pending.Wait()
					got := shownBy(server)
					for i, status := range got.Statuses {
						got.Statuses[i] = strings.TrimSuffix(strings.Fields(status)[2], ":")
					}
					if diff := cmp.Diff(test.want, got); diff != "" {
						t.Errorf("-want +got\n%s", diff)
					}
				})
			})
		}
	}
}

// TestOrderInAddress: a status is ordered by its address, which leads where it did.
func TestOrderInAddress(t *testing.T) {
	for name, o := range map[string]order{
		"all":              {Release: "0123456789ab", Started: started.Add(time.Nanosecond), Finished: true, Steps: 12, At: started.Add(time.Millisecond)},
		"no ledger":        {Release: "one", At: started},
		"an odd release":   {Release: "a&b#c=d é", Started: started, At: started},
		"before the epoch": {Release: "one", At: time.UnixMilli(-5).UTC()},
	} {
		const page = "https://gitlab.example.com/infra/deploy/-/pipelines/9"
		text := o.address(page + "#before")
		if got, ok := readAddress(text); got != o || !ok || !strings.HasPrefix(text, page+"#") || strings.Count(text, "#") != 1 {
			t.Errorf("%s: %s: %+v, %v", name, text, got, ok)
		}
	}
	for _, text := range []string{"", "https://gitlab.example.com", "https://gitlab.example.com#top", "x#release=one", "x#release=one&at=5&steps=many", "x#release=%zz&at=1", "x#at=1"} {
		if got, ok := readAddress(text); ok || got != (order{}) {
			t.Errorf("%s: %+v", text, got)
		}
	}
	if got := (order{Release: "one"}).address(""); got != "" {
		t.Errorf("without a page: %q", got)
	}
}

// TestGitLabCommitTimes: those of commits that the project has.
func TestGitLabCommitTimes(t *testing.T) {
	server := newCode()
	got, err := GitLab{URL: "https://gitlab.example.com", Project: server.Project, Token: server.APIToken, Transport: server.Transport()}.CommitTimes(t.Context(), []string{pageCommit[:8], strings.Repeat("e", 40)})
	if diff := cmp.Diff(map[string]time.Time{pageCommit[:8]: started.Add(-time.Hour)}, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
}
