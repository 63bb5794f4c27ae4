package gitlab

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/usererr"
)

// strangers are pipelines of the release's name that others can make, each with what the log says of it.
var strangers = map[string]struct {
	pipeline gitlabtest.Pipeline
	says     string
}{
	"a person's, in GitLab":        {gitlabtest.Pipeline{Source: "web", User: "mallory"}, `its source is "web"`},
	"the bot's, in GitLab":         {gitlabtest.Pipeline{Source: "web"}, `its source is "web"`},
	"an access token's":            {gitlabtest.Pipeline{Source: "api"}, `its source is "api"`},
	"a job token's":                {gitlabtest.Pipeline{Source: "pipeline"}, `its source is "pipeline"`},
	"a child":                      {gitlabtest.Pipeline{Source: "parent_pipeline"}, `its source is "parent_pipeline"`},
	"a schedule's":                 {gitlabtest.Pipeline{Source: "schedule"}, `its source is "schedule"`},
	"a merge request's":            {gitlabtest.Pipeline{Source: "merge_request_event", Ref: "refs/merge-requests/1/head"}, `its source is "merge_request_event"`},
	"on another branch":            {gitlabtest.Pipeline{Ref: "mallory"}, `it runs on "mallory"`},
	"on a branch of a like name":   {gitlabtest.Pipeline{Ref: "Main"}, `it runs on "Main"`},
	"another trigger token's":      {gitlabtest.Pipeline{User: "mallory"}, `"mallory" started it, not "release-bot"`},
	"another's, of its own source": {gitlabtest.Pipeline{Source: "push", User: "mallory", Ref: "mallory"}, `its source is "push"`},
}

// TestStrangersAreLeftAlone: a pipeline that has the release's name alone is not adopted, not canceled, and never a reason
// to cancel the genuine one. It is older, so its id is the lowest.
func TestStrangersAreLeftAlone(t *testing.T) {
	for name, test := range strangers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				server.Life = []gitlabtest.Phase{{Status: "running", Jobs: []gitlabtest.Job{{Name: "deploy_canary", Status: "pending"}, {Name: "rollback", Status: "manual", AllowFailure: true}}}}
				test.pipeline.Name, test.pipeline.Life = nameOf(toRelease), server.Life
				stranger := server.Add(test.pipeline)
				var log []string
				c := connect(t, server, func(c *Connection) { c.Log = func(line string) { log = append(log, line) } })
				target := Target{ReleaseID: idOf(toRelease), App: toRelease.App}
				if _, err := Watch(t.Context(), c, WatchOptions{Target: target}); !inputError(err, "releaseId") || !strings.Contains(err.Error(), "others started 1") {
					t.Errorf("watch of a stranger alone: %v", err)
				}
				if _, _, err := Cancel(t.Context(), c, CancelOptions{Target: target}); !inputError(err, "releaseId") {
					t.Errorf("cancel of a stranger alone: %v", err)
				}
				p, err := Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease})
				if err != nil || p.Adopted || p.ID == stranger || len(p.Canceled) != 0 || p.User != "release-bot" {
					t.Fatalf("%+v, %v", p, err)
				}
				again, err := Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease})
				if err != nil || again.ID != p.ID || !again.Adopted {
					t.Errorf("the same again: %+v, %v", again, err)
				}
				for _, app := range []string{toRelease.App, ""} {
					target.App = app
					if progress, err := Watch(t.Context(), c, WatchOptions{Target: target, Timeout: time.Second}); !errors.As(err, new(*DeadlineError)) || progress.PipelineID != p.ID {
						t.Errorf("watch: pipeline %d, %v; want %d", progress.PipelineID, err, p.ID)
					}
				}
				if got := server.Effective(); !slices.Equal(got, []int64{stranger, p.ID}) {
					t.Errorf("pipelines %v take effect, want the stranger %d and %d", got, stranger, p.ID)
				}
				if canceled, _, err := Cancel(t.Context(), c, CancelOptions{Target: target}); err != nil || canceled.PipelineID != p.ID {
					t.Errorf("cancel: pipeline %d, %v", canceled.PipelineID, err)
				}
				if got := server.Effective(); !slices.Equal(got, []int64{stranger}) {
					t.Errorf("pipelines %v take effect after cancel, want the stranger alone", got)
				}
				if text := strings.Join(log, "\n"); strings.Count(text, "is not the release's: "+test.says) != 1 {
					t.Errorf("the log names it not once, with %q:\n%s", test.says, text)
				}
			})
		})
	}
}

func inputError(err error, field string) bool {
	input, ok := errors.AsType[*usererr.Error](err)
	return ok && input.Field == field
}

// TestOwnerOfTheTriggerToken is what is done when nobody said who owns the trigger token.
func TestOwnerOfTheTriggerToken(t *testing.T) {
	for name, test := range map[string]struct {
		existing string // user of a pipeline that is there
		reader   string // user of the access token
		config   string
		lost     bool // the answer to the first POST
		field    string
		adopted  bool
		posts    int
	}{
		"nothing is there":                           {reader: "operator", posts: 1},
		"the access token's own user's":              {existing: "release-bot", reader: "release-bot", adopted: true},
		"the same, in other letters":                 {existing: "Release-Bot", reader: "release-bot", adopted: true},
		"another user's, whoever that is":            {existing: "release-bot", reader: "operator", field: "gitlab.user"},
		"another user's, and the token may not say":  {existing: "release-bot", field: "gitlab.user"},
		"configured":                                 {existing: "release-bot", reader: "operator", config: "release-bot", adopted: true},
		"configured, another's":                      {existing: "mallory", reader: "mallory", config: "release-bot", posts: 1},
		"configured wrongly":                         {reader: "operator", config: "mallory", posts: 1},
		"no answer, and the access token's own user": {reader: "release-bot", lost: true, adopted: true, posts: 1},
		"no answer, and nobody knows":                {reader: "operator", lost: true, field: "gitlab.user", posts: 1},
		"no answer, but configured":                  {reader: "operator", config: "release-bot", lost: true, adopted: true, posts: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				server.ReadUser = test.reader
				if test.lost {
					server.Faults = []gitlabtest.Fault{{Kind: gitlabtest.DropAfter}}
				}
				if test.existing != "" {
					server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), User: test.existing, Status: "running"})
				}
				c := connect(t, server, func(c *Connection) { c.Token, c.User = server.ReadToken, test.config })
				p, err := Trigger(t.Context(), c, TriggerOptions{Ref: "main", Release: toRelease})
				if test.field != "" {
					if !inputError(err, test.field) || errors.As(err, new(*UnknownError)) != test.lost || !strings.Contains(err.Error(), "release-bot") {
						t.Errorf("error %v, want one of %s that names the user", err, test.field)
					}
				} else if err != nil || p.Adopted != test.adopted || !strings.EqualFold(p.User, "release-bot") {
					t.Errorf("%+v, %v", p, err)
				}
				if server.Posts() != test.posts {
					t.Errorf("%d POSTs, want %d", server.Posts(), test.posts)
				}
				for _, one := range server.Pipelines() {
					if one.Status == "canceled" {
						t.Errorf("pipeline %d was canceled", one.ID)
					}
				}
			})
		})
	}
}

// TestRefInFull: refs/tags/v1 is not the branch v1.
func TestRefInFull(t *testing.T) {
	for ref, want := range map[string]string{"v1": "both", "refs/tags/v1": "tag", "refs/heads/v1": "branch"} {
		synctest.Test(t, func(t *testing.T) {
			server := gitlabtest.New()
			branch := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Ref: "v1", Status: "running"})
			tag := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Ref: "v1", Tag: true, Status: "running"})
			p, err := Trigger(t.Context(), connect(t, server, nil), TriggerOptions{Ref: ref, Release: toRelease})
			kept, canceled := map[string]int64{"both": branch, "tag": tag, "branch": branch}[want], []int64(nil)
			if want == "both" {
				canceled = []int64{tag}
			}
			if err != nil || p.ID != kept || !slices.Equal(p.Canceled, canceled) {
				t.Errorf("%s: %+v, %v; want %d, and %v canceled", ref, p, err, kept, canceled)
			}
		})
	}
}
