package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// TestMain runs more schedules than rapid's default; -rapid.checks still decides.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "400"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

const digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

var toRelease = release.Handoff{
	App: "qwik-node-app", Image: "registry.example.com/our-org/qwik-node-app@" + digest,
	Commit: "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe", SourceURL: "https://github.com/our-org/qwik-node-app/actions/runs/1",
}

// bundled is the same as a bundle.
var bundled = release.Handoff{
	App: toRelease.App, Bundle: "registry.example.com/our-org/qwik-node-app@sha256:" + strings.Repeat("0b", 32),
	Commit: toRelease.Commit, SourceURL: toRelease.SourceURL,
}

func idOf(r release.Handoff) string {
	return release.NewID(r.App, release.DigestOf(r.Image), r.Commit, r.Bundle)
}

func nameOf(r release.Handoff) string { return pipelineName(r.App, idOf(r)) }

// connect gives a client of a double, without a network.
func connect(t *testing.T, server *gitlabtest.Server, change func(*Connection)) *Client {
	t.Helper()
	connection := Connection{
		URL: "https://gitlab.example.com", Project: server.Project, TriggerToken: server.TriggerToken, Token: server.APIToken, User: server.TriggerUser,
		Transport: server.Transport(),
	}
	if change != nil {
		change(&connection)
	}
	c, err := Connect(connection)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTriggerThroughFaults is the table of what one sender meets: one pipeline takes effect, and each
// POST was one that had to be.
func TestTriggerThroughFaults(t *testing.T) {
	unreachable := slices.Repeat([]gitlabtest.Fault{{Kind: gitlabtest.Refuse, Status: 503}}, 3)
	for name, test := range map[string]struct {
		faults, reads []gitlabtest.Fault
		lag           time.Duration
		posts         int
		adopted       bool
		atLeast       time.Duration // simulated time that the call takes
	}{
		"no fault":                              {posts: 1, atLeast: 10 * time.Second},
		"late row":                              {posts: 1, lag: 8 * time.Second},
		"a row later than it is waited for":     {posts: 1, lag: 30 * time.Second},
		"answer lost after create":              {faults: []gitlabtest.Fault{{Kind: gitlabtest.DropAfter}}, posts: 1, adopted: true, atLeast: 75 * time.Second},
		"answer lost after create, late row":    {faults: []gitlabtest.Fault{{Kind: gitlabtest.DropAfter}}, lag: 30 * time.Second, posts: 1, adopted: true},
		"answer cut after create":               {faults: []gitlabtest.Fault{{Kind: gitlabtest.CutAnswer}}, posts: 1, adopted: true},
		"connection lost before create":         {faults: []gitlabtest.Fault{{Kind: gitlabtest.Drop}}, posts: 2, atLeast: 75 * time.Second},
		"502 before create":                     {faults: []gitlabtest.Fault{{Kind: gitlabtest.Refuse, Status: 502}}, posts: 2},
		"408 before create":                     {faults: []gitlabtest.Fault{{Kind: gitlabtest.Refuse, Status: 408}}, posts: 2, atLeast: 75 * time.Second},
		"408 after create":                      {faults: []gitlabtest.Fault{{Kind: gitlabtest.RefuseAfter, Status: 408}}, posts: 1, adopted: true},
		"502 after create":                      {faults: []gitlabtest.Fault{{Kind: gitlabtest.RefuseAfter, Status: 502}}, posts: 1, adopted: true},
		"504, created 50 s later":               {faults: []gitlabtest.Fault{{Kind: gitlabtest.RefuseAfter, Status: 504, Delay: 50 * time.Second}}, posts: 1, adopted: true},
		"500 before create, three times":        {faults: slices.Repeat([]gitlabtest.Fault{{Kind: gitlabtest.Refuse, Status: 500}}, 3), posts: 4},
		"429 with headers":                      {faults: []gitlabtest.Fault{{Kind: gitlabtest.Limit, Delay: 20 * time.Second}}, posts: 2, atLeast: 30 * time.Second},
		"429 with headers that ask for an hour": {faults: []gitlabtest.Fault{{Kind: gitlabtest.Limit, Delay: time.Hour}}, posts: 2, atLeast: 60 * time.Second},
		"429 without headers":                   {faults: []gitlabtest.Fault{{Kind: gitlabtest.Limit}, {Kind: gitlabtest.Limit}}, posts: 3},
		"too many pipelines, as 400":            {faults: []gitlabtest.Fault{{Kind: gitlabtest.Throttle}}, posts: 2, atLeast: 60 * time.Second},
		"answer after 40 s":                     {faults: []gitlabtest.Fault{{Kind: gitlabtest.Slow, Delay: 40 * time.Second}}, posts: 1},
		"answer after 5 min":                    {faults: []gitlabtest.Fault{{Kind: gitlabtest.Slow, Delay: 5 * time.Minute}}, posts: 1, adopted: true},
		"list is down for a while":              {reads: unreachable, posts: 1},
		"list is limited":                       {reads: []gitlabtest.Fault{{Kind: gitlabtest.Limit, Delay: 15 * time.Second}}, posts: 1, atLeast: 25 * time.Second},
		"list's connection is lost":             {reads: []gitlabtest.Fault{{Kind: gitlabtest.Drop}}, posts: 1},
		"both are down":                         {faults: []gitlabtest.Fault{{Kind: gitlabtest.DropAfter}}, reads: append([]gitlabtest.Fault{{}}, unreachable...), posts: 1, adopted: true},
	} {
		throughFaults := func(t *testing.T, r release.Handoff) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				server.Faults, server.ReadFaults, server.Lag = test.faults, test.reads, test.lag
				start := time.Now()
				p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: r})
				if err != nil {
					t.Fatal(err)
				}
				if got := server.Effective(); !slices.Equal(got, []int64{p.ID}) {
					t.Errorf("pipelines %v take effect, Trigger says %d", got, p.ID)
				}
				if server.Posts() != test.posts || p.Sends != test.posts {
					t.Errorf("%d POSTs (says %d), want %d", server.Posts(), p.Sends, test.posts)
				}
				if p.Adopted != test.adopted {
					t.Errorf("adopted: %v", p.Adopted)
				}
				if took := time.Since(start); took < test.atLeast || took > 6*time.Minute {
					t.Errorf("took %s, want at least %s", took, test.atLeast)
				}
				if p.URL == "" || p.ReleaseID != idOf(r) {
					t.Errorf("pipeline %+v", p)
				}
				server.Wait()
			})
		}
		t.Run(name, func(t *testing.T) { throughFaults(t, toRelease) })
		t.Run(name+", a bundle", func(t *testing.T) { throughFaults(t, bundled) })
	}
}

// TestAnImageAndABundleAreTwoReleases: each has its own pipeline, and finds it again.
func TestAnImageAndABundleAreTwoReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		ids := map[bool]int64{}
		for n, r := range []release.Handoff{toRelease, bundled, toRelease, bundled} {
			p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: r})
			isBundle := r.Bundle != ""
			if err != nil || p.Adopted != (n > 1) || n > 1 && p.ID != ids[isBundle] {
				t.Errorf("call %d: %+v, %v; the first one was %d", n+1, p, err, ids[isBundle])
			}
			ids[isBundle] = p.ID
		}
		if got := server.Effective(); len(got) != 2 {
			t.Errorf("pipelines %v", got)
		}
	})
}

// TestTriggerAgain is what a second call finds.
func TestTriggerAgain(t *testing.T) {
	for name, test := range map[string]struct {
		status  string
		again   bool
		adopted bool
	}{
		"running":                      {status: "running", adopted: true},
		"waiting for an approver":      {status: "manual", adopted: true},
		"running, asked for another":   {status: "running", again: true, adopted: true},
		"failed":                       {status: "failed", adopted: true},
		"succeeded":                    {status: "success", adopted: true},
		"failed, asked for another":    {status: "failed", again: true},
		"succeeded, asked for another": {status: "success", again: true},
		"canceled":                     {status: "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				for range 120 { // others' pipelines, more than a page
					server.Add(gitlabtest.Pipeline{Name: "release other-app 0123456789ab", Ref: "main", Source: "trigger", Status: "success"})
				}
				old := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Ref: "main", Source: "trigger", Status: test.status})
				p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease, Again: test.again})
				if err != nil {
					t.Fatal(err)
				}
				if p.Adopted != test.adopted || (p.ID == old) != test.adopted || (server.Posts() == 0) != test.adopted {
					t.Errorf("%+v after %d POSTs, the old one is %d", p, server.Posts(), old)
				}
			})
		})
	}
}

// TestTriggerBesideEarlierAttempts: attempts that finished before a call neither hold up one that is open nor have it canceled, and a call
// names the one that a watch follows.
func TestTriggerBesideEarlierAttempts(t *testing.T) {
	for name, test := range map[string]struct {
		statuses []string
		want     int
		canceled int // -1 for none
		later    map[int]string
	}{
		"failed, then one that runs":                {statuses: []string{"failed", "running"}, want: 1, canceled: -1},
		"succeeded, then one that waits":            {statuses: []string{"success", "manual"}, want: 1, canceled: -1},
		"one that runs, then one that failed":       {statuses: []string{"running", "failed"}, want: 0, canceled: -1},
		"failed, then one that succeeded":           {statuses: []string{"failed", "success"}, want: 1, canceled: -1},
		"failed twice":                              {statuses: []string{"failed", "failed"}, want: 1, canceled: -1},
		"failed, then one that was canceled":        {statuses: []string{"failed", "canceled"}, want: 0, canceled: -1},
		"failed, then two that run":                 {statuses: []string{"failed", "running", "running"}, want: 1, canceled: 2},
		"two that run, and the first of them fails": {statuses: []string{"failed", "running", "running"}, want: 1, canceled: 2, later: map[int]string{1: "failed"}},
		"one that runs is canceled by a person":     {statuses: []string{"failed", "running"}, want: 0, canceled: -1, later: map[int]string{1: "canceled"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				var ids, canceled []int64
				for _, status := range test.statuses {
					ids = append(ids, server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{{Status: status, Jobs: jobs("created", "manual")}}}))
				}
				if test.canceled >= 0 {
					canceled = ids[test.canceled : test.canceled+1]
				}
				time.AfterFunc(5*time.Second, func() {
					for i, status := range test.later {
						server.Show(ids[i], status, nil)
					}
				})
				p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease})
				if err != nil || p.ID != ids[test.want] || !p.Adopted || !slices.Equal(p.Canceled, canceled) || server.Posts() != 0 {
					t.Errorf("%+v, %v, %d POSTs; of %v want %d", p, err, server.Posts(), ids, ids[test.want])
				}
				seen, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{ReleaseID: idOf(toRelease), App: toRelease.App}, Timeout: time.Second})
				if err != nil && !errors.As(err, new(*DeadlineError)) || seen.PipelineID != p.ID {
					t.Errorf("watch sees %+v, %v; trigger said %d", seen, err, p.ID)
				}
			})
		})
	}
}

// TestTriggerAdoptsNothingCanceled: what is canceled while it is being adopted is named as that.
func TestTriggerAdoptsNothingCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		id := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{{Status: "running"}, {After: 5 * time.Second, Status: "canceled"}}})
		p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease})
		if err == nil || !strings.Contains(err.Error(), "canceled by somebody else") || server.Posts() != 0 {
			t.Errorf("%+v, %v after %d POSTs; %d was canceled", p, err, server.Posts(), id)
		}
	})
}

// TestTriggerPreview: what happens to a preview has one pipeline at a time, and another one after that has finished. Coming up, another
// image, and going are three things.
func TestTriggerPreview(t *testing.T) {
	up := release.PreviewHandoff{App: "shop", Name: "pr-42", Image: "registry.example.com/our-org/shop-previews@" + digest, Commit: toRelease.Commit, SourceURL: toRelease.SourceURL}
	other, down := up, release.PreviewHandoff{App: "shop", Name: "pr-42", Down: true}
	other.Image = strings.Replace(up.Image, "9f86", "1111", 1)
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		trigger := func(h release.PreviewHandoff) Pipeline {
			t.Helper()
			p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Preview: &h})
			if err != nil || p.Preview != "pr-42" || p.ReleaseID != "" {
				t.Fatalf("%+v, %v", p, err)
			}
			return p
		}
		ids := map[int64]bool{}
		for _, h := range []release.PreviewHandoff{up, other, down} {
			first, again := trigger(h), trigger(h)
			if ids[first.ID] || first.Adopted || again.ID != first.ID || !again.Adopted {
				t.Errorf("%s: %+v, then %+v", h.ID(), first, again)
			}
			ids[first.ID] = true
		}
		sent := server.Pipelines()[0]
		want := map[string]any{"app": "shop", "name": "pr-42", "action": "up", "image": up.Image, "commit": up.Commit, "preview_id": "pr-42-up-9f86d081884c", "source_url": up.SourceURL}
		if diff := cmp.Diff(want, sent.Inputs); diff != "" || sent.Name != "preview shop pr-42-up-9f86d081884c" {
			t.Errorf("%s, inputs (-want +got):\n%s", sent.Name, diff)
		}
		for id := range ids { // the pull request is closed and opened again
			server.Show(id, "success", nil)
		}
		if p := trigger(up); p.Adopted || ids[p.ID] {
			t.Errorf("opened again: %+v", p)
		}
	})
}

// TestTriggerPreviewThatWasOvertaken: a pipeline that has not finished is not adopted when something else was asked of the preview since:
// it would run first, and a pull request that was closed, opened and closed again would leave its preview behind.
func TestTriggerPreviewThatWasOvertaken(t *testing.T) {
	down := release.PreviewHandoff{App: "shop", Name: "pr-42", Down: true}
	name := func(what string) string { return "preview shop " + what }
	for what, test := range map[string]struct {
		newer   gitlabtest.Pipeline
		adopted bool
	}{
		"by an up":                     {newer: gitlabtest.Pipeline{Name: name("pr-42-up-9f86d081884c"), Status: "running"}},
		"by an up that has finished":   {newer: gitlabtest.Pipeline{Name: name("pr-42-up-9f86d081884c"), Status: "success"}},
		"by one that was canceled":     {newer: gitlabtest.Pipeline{Name: name("pr-42-up-9f86d081884c"), Status: "canceled"}, adopted: true},
		"by the same":                  {newer: gitlabtest.Pipeline{Name: name("pr-42-down"), Status: "success"}, adopted: true},
		"by one of another preview":    {newer: gitlabtest.Pipeline{Name: name("pr-42-up-up-9f86d081884c"), Status: "running"}, adopted: true},
		"by one of another app":        {newer: gitlabtest.Pipeline{Name: "preview blog pr-42-up-9f86d081884c", Status: "running"}, adopted: true},
		"by one that a person started": {newer: gitlabtest.Pipeline{Name: name("pr-42-up-9f86d081884c"), Status: "running", Source: "web"}, adopted: true},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				old := server.Add(gitlabtest.Pipeline{Name: name("pr-42-down"), Status: "pending"})
				server.Add(test.newer)
				for range 250 { // others' pipelines, more than two pages
					server.Add(gitlabtest.Pipeline{Name: name("pr-7-up-9f86d081884c"), Status: "success"})
				}
				trigger := func() Pipeline {
					p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Preview: &down})
					if err != nil {
						t.Fatal(err)
					}
					return p
				}
				p := trigger()
				if p.Adopted != test.adopted || (p.ID == old) != test.adopted || len(p.Canceled) > 0 {
					t.Errorf("%+v, the old one is %d", p, old)
				}
				if again := trigger(); again.ID != p.ID || !again.Adopted {
					t.Errorf("then %+v, want %d", again, p.ID)
				}
			})
		})
	}
}

// TestLostAnswersOfPreviews: the same protocol as for a release; what has finished while its answer was lost is adopted.
func TestLostAnswersOfPreviews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		server.Faults = []gitlabtest.Fault{{Kind: gitlabtest.DropAfter}}
		server.Life = []gitlabtest.Phase{{Status: "success"}}
		p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Preview: &release.PreviewHandoff{App: "shop", Name: "pr-42", Down: true}})
		if err != nil || !p.Adopted || server.Posts() != 1 || len(server.Pipelines()) != 1 {
			t.Errorf("%+v, %v, %d POSTs", p, err, server.Posts())
		}
		server.Wait()
	})
}

// TestWatchPreview: the pipeline of a preview has no promotion to wait for.
func TestWatchPreview(t *testing.T) {
	for status, want := range map[string]State{"success": Finished, "failed": Failed, "canceled": Canceled} {
		synctest.Test(t, func(t *testing.T) {
			server := gitlabtest.New()
			id := server.Add(gitlabtest.Pipeline{Name: "preview shop pr-42-down", Ref: "main", Source: "trigger", Status: status})
			p, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{PipelineID: id}})
			if err != nil || p.State != want {
				t.Errorf("%s: %+v, %v", status, p, err)
			}
		})
	}
}

// TestTriggerAdoptsTheLowest: what is adopted may not be the lowest id yet, when the transaction that
// started first commits last.
func TestTriggerAdoptsTheLowest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		lowest := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Status: "running", Committed: time.Now().Add(5 * time.Second)})
		other := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Status: "running"})
		p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease})
		if err != nil || p.ID != lowest || !slices.Equal(p.Canceled, []int64{other}) {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestTriggerAdoptsTheLowestThatCameMeanwhile: the same of pipelines that others have started while GitLab's limit held this
// call up.
func TestTriggerAdoptsTheLowestThatCameMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		server.Faults = []gitlabtest.Fault{{Kind: gitlabtest.Throttle}} // for a minute
		lowest := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Status: "running", Committed: time.Now().Add(65 * time.Second)})
		other := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Status: "running", Committed: time.Now().Add(30 * time.Second)})
		p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease})
		if err != nil || p.ID != lowest || !slices.Equal(p.Canceled, []int64{other}) || server.Posts() != 1 {
			t.Errorf("%+v, %v, %d POSTs", p, err, server.Posts())
		}
	})
}

// TestTriggerGivesUpInTime: a GitLab that starts nothing for long is asked as long as the call may take, and the error says so.
func TestTriggerGivesUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		server.Faults = slices.Repeat([]gitlabtest.Fault{{Kind: gitlabtest.Throttle}}, 20) // for a minute each
		start := time.Now()
		_, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease, Timeout: 5 * time.Minute})
		took := time.Since(start)
		if err == nil || !strings.Contains(err.Error(), "GitLab did not accept the pipeline within 5m0s") || took > 5*time.Minute || len(server.Pipelines()) > 0 {
			t.Errorf("%v after %s, %d pipelines", err, took, len(server.Pipelines()))
		}
	})
}

// TestTriggerLeavesItCanceled: a pipeline that somebody cancels while others are looked for is not started again.
func TestTriggerLeavesItCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		time.AfterFunc(2*time.Second, func() { server.Show(server.Pipelines()[0].ID, "canceled", nil) })
		_, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease})
		if err == nil || !strings.Contains(err.Error(), "canceled by somebody else") || server.Posts() != 1 {
			t.Errorf("%v after %d POSTs", err, server.Posts())
		}
	})
}

// TestTriggerExplainsRefusals is each thing that GitLab refuses: the field to fix is named, nothing
// was started, and nothing is sent twice.
func TestTriggerExplainsRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		server  func(*gitlabtest.Server)
		client  func(*Connection)
		options func(*TriggerOptions)
		field   string
		posts   int
	}{
		"wrong trigger token":     {client: func(c *Connection) { c.TriggerToken = "wrong" }, field: "gitlabTriggerToken", posts: 1},
		"no trigger token":        {client: func(c *Connection) { c.TriggerToken = "" }, field: "gitlabTriggerToken"},
		"wrong token":             {client: func(c *Connection) { c.Token = "wrong" }, field: "gitlabToken"},
		"wrong project":           {client: func(c *Connection) { c.Project = "infra/other" }, field: "gitlab.project"},
		"missing ref":             {options: func(o *TriggerOptions) { o.Ref = "release" }, field: "gitlab.ref", posts: 1},
		"hostile ref":             {options: func(o *TriggerOptions) { o.Ref = "main\n--x" }, field: "gitlab.ref"},
		"variables not permitted": {server: func(s *gitlabtest.Server) { s.NoVariables = true }, options: func(o *TriggerOptions) { o.Variables = true }, field: "variables", posts: 1},
		"not allowed to create":   {server: func(s *gitlabtest.Server) { s.Refusal = "Insufficient permissions to create a new pipeline" }, field: "gitlabTriggerToken", posts: 1},
		"protected branch": {server: func(s *gitlabtest.Server) {
			s.Refusal = "You do not have sufficient permission to run a pipeline on 'main'. Please select a different branch or contact your administrator for assistance."
		}, field: "gitlabTriggerToken", posts: 1},
		"filtered by rules": {server: func(s *gitlabtest.Server) {
			s.Refusal = "Pipeline will not run for the selected trigger. The rules configuration prevented any jobs from being added to the pipeline."
		}, field: "gitlab.ref", posts: 1},
		"words to come":        {server: func(s *gitlabtest.Server) { s.Refusal = "the moon is full" }, field: ".gitlab-ci.yml", posts: 1},
		"invalid file, as 422": {server: func(s *gitlabtest.Server) { s.Faults = []gitlabtest.Fault{{Kind: gitlabtest.InvalidFile}} }, field: ".gitlab-ci.yml", posts: 1},
		"invalid file, as 201": {server: func(s *gitlabtest.Server) { s.Faults = []gitlabtest.Fault{{Kind: gitlabtest.InvalidFile201}} }, field: ".gitlab-ci.yml", posts: 1},
		"rejected, as 422":     {server: func(s *gitlabtest.Server) { s.Faults = []gitlabtest.Fault{{Kind: gitlabtest.Rejected}} }, field: "gitlab.project", posts: 1},
		"rejected, as 201":     {server: func(s *gitlabtest.Server) { s.Faults = []gitlabtest.Fault{{Kind: gitlabtest.Rejected201}} }, field: "gitlab.project", posts: 1},
		"image by tag":         {options: func(o *TriggerOptions) { o.Release.Image = "registry.example.com/app:v1" }, field: "image"},
		"image with a command": {options: func(o *TriggerOptions) { o.Release.Image = "registry.example.com/$(id)@" + digest }, field: "image"},
		"bundle by tag":        {options: func(o *TriggerOptions) { o.Release = bundled; o.Release.Bundle = "registry.example.com/app:v1" }, field: "bundle"},
		"bundle with a command": {options: func(o *TriggerOptions) {
			o.Release = bundled
			o.Release.Bundle = "registry.example.com/$(id)@" + digest
		}, field: "bundle"},
		"bundle of no registry": {options: func(o *TriggerOptions) { o.Release = bundled; o.Release.Bundle = "oci://" }, field: "bundle"},
		"bundle and image":      {options: func(o *TriggerOptions) { o.Release.Bundle = bundled.Bundle }, field: "bundle"},
		"neither":               {options: func(o *TriggerOptions) { o.Release.Image = "" }, field: "image"},
		"an image's id":         {options: func(o *TriggerOptions) { o.Release = bundled; o.Release.ID = idOf(toRelease) }, field: "releaseId"},
		"a file without bundles": {server: func(s *gitlabtest.Server) {
			s.Refusal = "Given inputs not defined in the `spec` section of the included configuration file"
		}, options: func(o *TriggerOptions) { o.Release = bundled }, field: "gitlab.ref", posts: 1},
		"app with a quote":       {options: func(o *TriggerOptions) { o.Release.App = "app'; id '" }, field: "app"},
		"commit with a newline":  {options: func(o *TriggerOptions) { o.Release.Commit = "c0ffee0\nid" }, field: "commit"},
		"id with a space":        {options: func(o *TriggerOptions) { o.Release.ID = "a b" }, field: "releaseId"},
		"source URL with quotes": {options: func(o *TriggerOptions) { o.Release.SourceURL = "https://x/'$(id)'" }, field: "sourceUrl"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				if test.server != nil {
					test.server(server)
				}
				options := TriggerOptions{Ref: "main", Release: toRelease}
				if test.options != nil {
					test.options(&options)
				}
				_, err := Trigger(t.Context(), connect(t, server, test.client), options)
				var input *usererr.Error
				if !errors.As(err, &input) || input.Field != test.field || input.Fix == "" {
					t.Errorf("error %v, want one of %s", err, test.field)
				}
				if server.Posts() != test.posts || len(server.Effective()) != 0 {
					t.Errorf("%d POSTs, pipelines %v", server.Posts(), server.Effective())
				}
				for _, secret := range []string{server.TriggerToken, server.APIToken} {
					if err != nil && strings.Contains(err.Error(), secret) {
						t.Error("the error holds a token")
					}
				}
			})
		})
	}
}

// TestTriggerAfterARejection: a pipeline that GitLab failed before it had jobs is no attempt, and watch does not look for a job of it.
func TestTriggerAfterARejection(t *testing.T) {
	for _, kind := range []gitlabtest.Kind{gitlabtest.Rejected, gitlabtest.Rejected201} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				server.Faults = []gitlabtest.Fault{{Kind: kind}}
				options := TriggerOptions{Ref: "main", Release: toRelease}
				if p, err := Trigger(t.Context(), connect(t, server, nil), options); !inputError(err, "gitlab.project") {
					t.Errorf("%+v, %v", p, err)
				}
				rejected := server.Pipelines()[0].ID
				p, err := Trigger(t.Context(), connect(t, server, nil), options)
				if err != nil || p.Adopted || p.ID == rejected {
					t.Errorf("again: %+v, %v", p, err)
				}
				seen, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{PipelineID: rejected}})
				if err != nil || seen.State != Failed || !strings.Contains(seen.Reason, "before it had a job") {
					t.Errorf("%+v, %v", seen, err)
				}
			})
		})
	}
}

// TestTriggerSaysWhatIsUnknown: when the outcome stays unknown the error says so, whatever ended the call,
// and the same call later adopts.
func TestTriggerSaysWhatIsUnknown(t *testing.T) {
	for name, test := range map[string]struct {
		faults []gitlabtest.Fault
		reads  []gitlabtest.Fault
		revoke bool
		limit  time.Duration
	}{
		"every POST is lost":                        {faults: slices.Repeat([]gitlabtest.Fault{{Kind: gitlabtest.Drop}}, 9)},
		"the list stays down after a lost POST":     {faults: []gitlabtest.Fault{{Kind: gitlabtest.DropAfter}}, reads: append([]gitlabtest.Fault{{}}, slices.Repeat([]gitlabtest.Fault{{Kind: gitlabtest.Refuse}}, 6)...)},
		"the token is revoked after a lost POST":    {faults: []gitlabtest.Fault{{Kind: gitlabtest.Drop}}, revoke: true},
		"the caller gives up while the POST is out": {faults: []gitlabtest.Fault{{Kind: gitlabtest.Slow, Delay: 50 * time.Second}}, limit: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				server.Faults, server.ReadFaults = test.faults, test.reads
				ctx := t.Context()
				if test.limit > 0 {
					limited, cancel := context.WithTimeout(ctx, test.limit)
					defer cancel()
					ctx = limited
				}
				c := connect(t, server, func(c *Connection) {
					c.Log = func(line string) {
						if test.revoke && strings.Contains(line, "no clear answer") {
							server.TriggerToken = "another"
						}
					}
				})
				_, err := Trigger(ctx, c, TriggerOptions{Ref: "main", Release: toRelease})
				if !errors.As(err, new(*UnknownError)) {
					t.Fatalf("error %v", err)
				}
				if posts := server.Posts(); posts > 4 {
					t.Errorf("%d POSTs", posts)
				}
				server.Wait()
				server.Faults, server.ReadFaults, server.TriggerToken = nil, nil, "glptt-trigger"
				p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease})
				if err != nil || !slices.Equal(server.Effective(), []int64{p.ID}) {
					t.Errorf("run again: %+v, %v; pipelines %v", p, err, server.Effective())
				}
			})
		})
	}
}

// TestDuplicatesAtTheirGate: GitLab cancels no manual job, so that a duplicate is named where somebody could still press it.
func TestDuplicatesAtTheirGate(t *testing.T) {
	atGate := func(watch string) []gitlabtest.Job {
		return append(jobs("manual", "manual"), gitlabtest.Job{Name: "watch_canary", Status: watch}, gitlabtest.Job{Name: "cleanup", Status: "created"})
	}
	for name, test := range map[string]struct{ status, watch, cleanup string }{
		"it waits":                {"manual", "failed", "created"},
		"its canary is judged on": {"running", "running", "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				first := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Status: "running"})
				second := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{{Status: test.status, Jobs: atGate(test.watch)}}})
				p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: toRelease})
				var duplicate *DuplicateError
				if !errors.As(err, &duplicate) || p.ID != first || len(p.Canceled) > 0 || !slices.Equal(duplicate.Left, []int64{second}) || !strings.Contains(err.Error(), "do not press it, or delete the pipeline") {
					t.Errorf("%+v, %v", p, err)
				}
				var lines []string
				c := connect(t, server, func(c *Connection) { c.Log = func(line string) { lines = append(lines, line) } })
				seen, err := Watch(t.Context(), c, WatchOptions{Target: Target{ReleaseID: idOf(toRelease), App: toRelease.App}, Timeout: 2 * time.Minute})
				if !errors.As(err, new(*DeadlineError)) || seen.PipelineID != first {
					t.Errorf("%+v, %v", seen, err)
				}
				if n := strings.Count(strings.Join(lines, "\n"), "duplicate"); n != 1 {
					t.Errorf("the log names it %d times: %q", n, lines)
				}
				left, err := Watch(t.Context(), c, WatchOptions{Target: Target{PipelineID: second}})
				cleanup := left.Jobs[slices.IndexFunc(left.Jobs, func(j Job) bool { return j.Name == "cleanup" })].Status
				if err != nil || left.Status != "manual" || cleanup != test.cleanup {
					t.Errorf("%+v, %v", left, err)
				}
			})
		})
	}
}

// TestTriggerWithoutRightToCancel: with a token of scope read_api a duplicate is named, not hidden.
func TestTriggerWithoutRightToCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		first := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Ref: "main", Source: "trigger", Status: "running"})
		second := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Ref: "main", Source: "trigger", Status: "running"})
		p, err := Trigger(t.Context(), connect(t, server, func(c *Connection) { c.Token = server.ReadToken }), TriggerOptions{Ref: "main", Release: toRelease})
		var duplicate *DuplicateError
		if !errors.As(err, &duplicate) || p.ID != first || !slices.Equal(duplicate.Left, []int64{second}) {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestTriggerOfALateCommit is the window that this package leaves open, and how it closes later: a
// POST that GitLab executes after the window makes a second pipeline, which the next look cancels.
func TestTriggerOfALateCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		server.Faults = []gitlabtest.Fault{{Kind: gitlabtest.RefuseAfter, Status: 504, Delay: 10 * time.Minute}}
		c := connect(t, server, nil)
		if _, err := Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if got := server.Effective(); len(got) != 2 {
			t.Fatalf("pipelines %v: the double did not do what this test is about", got)
		}
		progress, err := Watch(t.Context(), c, WatchOptions{Target: Target{ReleaseID: idOf(toRelease), App: toRelease.App}, Timeout: time.Second})
		if !errors.As(err, new(*DeadlineError)) {
			t.Fatal(err)
		}
		if got := server.Effective(); !slices.Equal(got, []int64{progress.PipelineID}) {
			t.Errorf("pipelines %v after a watch of %d", got, progress.PipelineID)
		}
	})
}

// TestTriggerRequest is what goes over the wire.
func TestTriggerRequest(t *testing.T) {
	for _, variables := range []bool{false, true} {
		for what, r := range map[string]release.Handoff{"image": toRelease, "bundle": bundled} {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				if _, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: "main", Release: r, Variables: variables, Again: true}); err != nil {
					t.Fatal(err)
				}
				var body map[string]any
				if err := json.Unmarshal([]byte(server.Bodies()[0]), &body); err != nil {
					t.Fatal(err)
				}
				key, content, again := "inputs", what, "again"
				if variables {
					key, content, again = "variables", "CROSSBILL_"+strings.ToUpper(what), "CROSSBILL_AGAIN"
				}
				values, _ := body[key].(map[string]any)
				if len(body) != 3 || len(values) != 6 || values[content] != r.Image+r.Bundle || values[again] != "yes" || body["token"] != server.TriggerToken || body["ref"] != "main" {
					t.Errorf("body %v", body)
				}
			})
		}
	}
}

// pipeListener accepts the connections that dial makes: real ones, but under synctest's clock.
type pipeListener struct {
	accepted chan net.Conn
	closed   chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{accepted: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	l.accepted <- there
	return here, nil
}

// TestTriggerOverConnections is the same over connections and Go's own HTTP, which end as real ones do.
func TestTriggerOverConnections(t *testing.T) {
	for kind, posts := range map[gitlabtest.Kind]int{
		gitlabtest.None: 1, gitlabtest.Drop: 2, gitlabtest.DropAfter: 1, gitlabtest.CutAnswer: 1,
		gitlabtest.Refuse: 2, gitlabtest.RefuseAfter: 1, gitlabtest.Limit: 2,
	} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, listener := gitlabtest.New(), newPipeListener()
				server.Lag, server.Faults = 5*time.Second, []gitlabtest.Fault{{Kind: kind}}
				over := &http.Server{Handler: server}
				go func() { _ = over.Serve(listener) }()
				transport := &http.Transport{DialContext: listener.dial}
				defer over.Close()
				defer transport.CloseIdleConnections()
				c := connect(t, server, func(c *Connection) { c.URL, c.Transport = "http://localhost", transport })
				p, err := Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease})
				if err != nil || !slices.Equal(server.Effective(), []int64{p.ID}) || server.Posts() != posts {
					t.Errorf("%+v, %v; pipelines %v after %d POSTs, want %d", p, err, server.Effective(), server.Posts(), posts)
				}
			})
		})
	}
}

// TestTriggerUnreachable: a connection that was never made started nothing, and the error says that.
func TestTriggerUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		c := connect(t, gitlabtest.New(), func(c *Connection) {
			c.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, refused }}
		})
		_, err := Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease})
		if errors.As(err, new(*UnknownError)) || !errors.Is(err, refused) {
			t.Errorf("error %v, want %v and nothing unknown", err, refused)
		}
	})
}

// schedule is one history that GitLab and the network could give several senders.
type schedule struct {
	Senders       int
	Starts        []time.Duration
	Faults, Reads []gitlabtest.Fault
	Lag           time.Duration
}

// schedules draws faults that a sender must survive: fewer lost POSTs than it may send, rows and
// commits within the windows that it looks for.
func schedules() *rapid.Generator[schedule] {
	fault := rapid.Custom(func(t *rapid.T) gitlabtest.Fault {
		f := gitlabtest.Fault{
			Kind: rapid.SampledFrom([]gitlabtest.Kind{
				gitlabtest.None, gitlabtest.Refuse, gitlabtest.RefuseAfter, gitlabtest.Drop, gitlabtest.DropAfter,
				gitlabtest.CutAnswer, gitlabtest.Limit, gitlabtest.Throttle, gitlabtest.Slow,
			}).Draw(t, "kind"),
			Status: rapid.SampledFrom([]int{500, 502, 503, 504}).Draw(t, "status"),
		}
		f.Delay = time.Duration(rapid.IntRange(0, 60).Draw(t, "delay")) * time.Second
		if f.Kind == gitlabtest.Slow {
			f.Delay *= 3 // also longer than a request may take
		}
		return f
	})
	read := rapid.Custom(func(t *rapid.T) gitlabtest.Fault {
		return gitlabtest.Fault{
			Kind:  rapid.SampledFrom([]gitlabtest.Kind{gitlabtest.None, gitlabtest.None, gitlabtest.Refuse, gitlabtest.Drop, gitlabtest.Limit}).Draw(t, "kind"),
			Delay: time.Duration(rapid.IntRange(0, 20).Draw(t, "delay")) * time.Second,
		}
	})
	return rapid.Custom(func(t *rapid.T) schedule {
		s := schedule{Senders: rapid.IntRange(1, 4).Draw(t, "senders")}
		for range s.Senders {
			s.Starts = append(s.Starts, time.Duration(rapid.IntRange(0, 12).Draw(t, "start"))*time.Second)
		}
		s.Faults = rapid.SliceOfN(fault, 0, 3).Draw(t, "faults")
		s.Reads = rapid.SliceOfN(read, 0, 5).Draw(t, "reads")
		s.Lag = time.Duration(rapid.IntRange(0, 9).Draw(t, "lag")) * time.Second
		return s
	})
}

// run runs the senders of a schedule beside earlier attempts with these statuses, and then one more. It gives what they returned.
func (s schedule) run(t *testing.T, server *gitlabtest.Server, options TriggerOptions, earlier []string) (results []Pipeline, errs []error, last Pipeline, lastErr error) {
	results, errs = make([]Pipeline, s.Senders), make([]error, s.Senders)
	synctest.Test(t, func(t *testing.T) {
		server.Faults, server.ReadFaults, server.Lag = s.Faults, s.Reads, s.Lag
		for _, status := range earlier {
			server.Add(gitlabtest.Pipeline{Name: nameOf(options.Release), Committed: time.Now().Add(-time.Hour), Life: []gitlabtest.Phase{{Status: status}}})
		}
		var senders sync.WaitGroup
		for i := range s.Senders {
			senders.Go(func() {
				time.Sleep(s.Starts[i])
				results[i], errs[i] = Trigger(t.Context(), connect(t, server, nil), options)
			})
		}
		senders.Wait()
		server.Wait()
		options.Again = false
		last, lastErr = Trigger(t.Context(), connect(t, server, nil), options)
	})
	return results, errs, last, lastErr
}

// TestAnyScheduleHasOneEffect: whatever happens to whichever sender, one pipeline takes effect beside the attempts that had
// finished before, and a later call names it without sending. If nothing new was asked for, it is the newest of those attempts.
func TestAnyScheduleHasOneEffect(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := schedules().Draw(r, "schedule")
		server := gitlabtest.New()
		options := TriggerOptions{Ref: "main", Release: rapid.SampledFrom([]release.Handoff{toRelease, bundled}).Draw(r, "release")}
		options.Again = rapid.Bool().Draw(r, "again")
		earlier := rapid.SliceOfN(rapid.SampledFrom([]string{"failed", "success", "canceled", "running"}), 0, 3).Draw(r, "earlier attempts")
		results, errs, last, lastErr := s.run(t, server, options, earlier)
		posts := 0
		for i, err := range errs {
			if err != nil {
				r.Errorf("sender %d: %v", i, err)
			}
			posts += results[i].Sends
		}
		var over, effective []int64
		for i, p := range server.Pipelines() {
			switch {
			case i < len(earlier) && (earlier[i] == "failed" || earlier[i] == "success"):
				over = append(over, p.ID)
				if p.Status != earlier[i] {
					r.Errorf("the earlier attempt %d is %s, was %s", p.ID, p.Status, earlier[i])
				}
			case p.Status != "canceled":
				effective = append(effective, p.ID)
			}
		}
		if len(over) > 0 && !options.Again && !slices.Contains(earlier, "running") {
			if len(effective) > 0 || server.Posts() > 0 {
				r.Errorf("pipelines %v take effect after %d POSTs; %v had finished", effective, server.Posts(), over)
			}
			effective = over[len(over)-1:]
		}
		if lastErr != nil || last.Sends != 0 || !last.Adopted || !slices.Equal(effective, []int64{last.ID}) {
			r.Errorf("pipelines %v take effect of %d; a later call says %+v, %v", effective, len(server.Pipelines()), last, lastErr)
		}
		if i := slices.Index(earlier, "running"); i >= 0 && last.ID != server.Pipelines()[i].ID {
			r.Errorf("a later call says %+v; %d ran before", last, server.Pipelines()[i].ID)
		}
		if posts != server.Posts() || posts > s.Senders+len(s.Faults) {
			r.Errorf("%d POSTs, senders say %d", server.Posts(), posts)
		}
		// A sender that was answered before another's pipeline of a lower id was committed may name one
		// that was canceled since; without such late commits all name the same.
		late := slices.ContainsFunc(s.Faults, func(f gitlabtest.Fault) bool {
			return f.Delay > 0 && (f.Kind == gitlabtest.RefuseAfter || f.Kind == gitlabtest.DropAfter)
		})
		for i, p := range results {
			if !late && p.ID != last.ID {
				r.Errorf("sender %d names pipeline %d, %d takes effect", i, p.ID, last.ID)
			}
		}
	})
}

// TestTriggerAgainAfterARollback: a gate that nobody will press any more does not hold up the next attempt, and watch follows that one.
func TestTriggerAgainAfterARollback(t *testing.T) {
	t.Run("at the gate", func(t *testing.T) { triggerAgainAfterARollback(t, "manual") })
	t.Run("while it is watched", func(t *testing.T) { triggerAgainAfterARollback(t, "running") })
}

func triggerAgainAfterARollback(t *testing.T, status string) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		old := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Ref: "main", Source: "trigger", Life: []gitlabtest.Phase{{Status: status, Jobs: append(jobs("manual", "success"), gitlabtest.Job{Name: "watch_canary", Status: status})}}})
		c := connect(t, server, nil)
		p, err := Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease, Again: true})
		if err != nil || p.Adopted || p.ID == old || server.Posts() != 1 {
			t.Fatalf("%+v after %d POSTs, %v; the one that was rolled back is %d", p, server.Posts(), err, old)
		}
		seen, err := Watch(t.Context(), c, WatchOptions{Target: Target{ReleaseID: idOf(toRelease), App: toRelease.App}, Timeout: time.Minute})
		if !errors.As(err, new(*DeadlineError)) || seen.PipelineID != p.ID || seen.Status != "running" {
			t.Errorf("watch sees %+v, %v; want pipeline %d running", seen, err, p.ID)
		}
	})
}
