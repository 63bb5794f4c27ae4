package gitlab

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/usererr"
)

func TestCancel(t *testing.T) {
	withCanary := func(canary, rollback string) []gitlabtest.Job {
		return []gitlabtest.Job{
			{Name: "deploy_canary", Status: canary}, {Name: "rollback", Status: rollback, AllowFailure: true},
			{Name: "rollback_after_verify", Status: "created"}, {Name: "promote_to_production", Status: "created"},
		}
	}
	renamed := withCanary("success", "manual")
	renamed[0].Name = "canary:shop"
	for name, test := range map[string]struct {
		status string
		jobs   []gitlabtest.Job
		names  JobNames
		token  string
		done   string // the text begins so
		field  string // of the error
		after  string // status of the pipeline
		button string // status of job rollback
	}{
		"before its canary":           {status: "pending", jobs: withCanary("pending", "manual"), done: "canceled pipeline", after: "canceled", button: "manual"},
		"while its canary starts":     {status: "running", jobs: withCanary("running", "manual"), done: "pressed rollback", after: "running", button: "pending"},
		"while it waits for approval": {status: "manual", jobs: withCanary("success", "manual"), done: "pressed rollback", after: "running", button: "pending"},
		"after a failure":             {status: "failed", jobs: withCanary("failed", "manual"), done: "pressed rollback", after: "running", button: "pending"},
		"the rollback failed before":  {status: "running", jobs: withCanary("success", "failed"), done: "pressed rollback", after: "running", button: "pending"},
		"the rollback runs":           {status: "running", jobs: withCanary("success", "running"), done: "job rollback runs already", after: "running", button: "running"},
		"rolled back":                 {status: "failed", jobs: jobs("skipped", "success"), done: "nothing", after: "failed", button: "success"},
		"canceled before its canary":  {status: "canceled", jobs: withCanary("created", "manual"), done: "nothing", after: "canceled", button: "manual"},
		"in production":               {status: "success", jobs: jobs("success", "manual"), field: "releaseId", after: "success", button: "manual"},
		"its cleanup failed":          {status: "failed", jobs: append(jobs("success", "manual"), gitlabtest.Job{Name: "cleanup", Status: "failed"}), field: "releaseId", after: "failed", button: "manual"},
		"its cleanup runs":            {status: "running", jobs: append(jobs("success", "manual"), gitlabtest.Job{Name: "cleanup", Status: "running"}), field: "releaseId", after: "running", button: "manual"},
		"its cleanup runs, after a rollback that was refused": {status: "running", jobs: append(refused("promote", "success", time.Now(), "promote_to_production"), gitlabtest.Job{Name: "cleanup", Status: "running"}), field: "releaseId", after: "running", button: "manual"},
		"its canary is tried again, and waits for a runner": {
			status: "running", jobs: append(withCanary("pending", "manual"), gitlabtest.Job{Name: "deploy_canary", Status: "failed", Retried: true}), done: "pipeline 1000 was canceled after its canary had started: pressed rollback", after: "running", button: "pending",
		},
		"canceled before its canary was tried again": {
			status: "canceled", jobs: append(withCanary("canceled", "manual"), gitlabtest.Job{Name: "deploy_canary", Status: "failed", Retried: true}), done: "pipeline 1000 was canceled after its canary had started: pressed rollback", after: "running", button: "pending",
		},
		"its canary never ran, and is tried again": {
			status: "running", jobs: append(withCanary("pending", "manual"), gitlabtest.Job{Name: "deploy_canary", Status: "canceled", Retried: true}), done: "canceled pipeline", after: "canceled", button: "manual",
		},
		"it waits at a gate of the project's, which GitLab does not cancel": {
			status: "manual", jobs: append(withCanary("created", "manual"), gitlabtest.Job{Name: "change_window", Status: "manual"}), field: "releaseId", after: "manual", button: "manual",
		},
		"the rollback waits":         {status: "running", jobs: withCanary("success", "waiting_for_resource"), done: "job rollback runs already", after: "running", button: "waiting_for_resource"},
		"the rollback was skipped":   {status: "failed", jobs: withCanary("failed", "skipped"), field: "gitlab.jobs.rollback", after: "failed", button: "skipped"},
		"the rollback has no button": {status: "running", jobs: withCanary("running", "created"), field: "gitlab.jobs.rollback", after: "running", button: "created"},
		"the rollback is delayed":    {status: "running", jobs: withCanary("running", "scheduled"), field: "gitlab.jobs.rollback", after: "running", button: "scheduled"},
		"no rollback job":            {status: "running", jobs: []gitlabtest.Job{{Name: "deploy_canary", Status: "running"}}, field: "gitlab.jobs.rollback", after: "running"},
		// A canary job of another name was taken for one that had not started: the pipeline was canceled with exit
		// code 0, and the mesh stayed split.
		"canary job of another name": {status: "manual", jobs: renamed, field: "gitlab.jobs.canary", after: "manual", button: "manual"},
		"the same, named":            {status: "manual", jobs: renamed, names: JobNames{Canary: "canary:shop", Rollback: "rollback"}, done: "pressed rollback", after: "running", button: "pending"},
		"no jobs at all":             {status: "running", field: "gitlab.jobs.canary", after: "running"},
		"a token that may only read": {status: "running", jobs: withCanary("running", "manual"), token: "glpat-read", field: "gitlabToken", after: "running", button: "manual"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Ref: "main", Source: "trigger", Life: []gitlabtest.Phase{{Status: test.status, Jobs: test.jobs}}})
				c := connect(t, server, func(c *Connection) {
					if test.token != "" {
						c.Token = test.token
					}
				})
				options := CancelOptions{Target: Target{ReleaseID: idOf(toRelease), App: toRelease.App}, Jobs: test.names}
				_, done, err := Cancel(t.Context(), c, options)
				var input *usererr.Error
				if errors.As(err, &input) != (test.field != "") || input != nil && input.Field != test.field || input == nil && err != nil {
					t.Errorf("error %v, want one of %q", err, test.field)
				}
				if err == nil && !strings.HasPrefix(done, test.done) {
					t.Errorf("done %q, want %q", done, test.done)
				}
				seen, _ := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{PipelineID: server.Pipelines()[0].ID}, Timeout: time.Second})
				button := ""
				if i := slices.IndexFunc(seen.Jobs, func(j Job) bool { return j.Name == "rollback" }); i >= 0 {
					button = seen.Jobs[i].Status
				}
				if seen.Status != test.after || button != test.button {
					t.Errorf("pipeline %s, rollback %s; want %s, %s", seen.Status, button, test.after, test.button)
				}
			})
		})
	}
}

// TestCancelWhileTheCanaryStarts: the canary's job may start between the look at it and the cancellation, which ends it half-way.
func TestCancelWhileTheCanaryStarts(t *testing.T) {
	for name, test := range map[string]struct {
		rollback string // "" for no such job
		faults   []gitlabtest.Fault
		done     string
		wantErr  string
		again    string // what the same call says then
	}{
		"and can be rolled back":  {rollback: "manual", done: "pipeline 1000 was canceled after its canary had started: pressed rollback", again: "job rollback runs already"},
		"without a rollback job":  {wantErr: `pipeline 1000 was canceled, but its canary had started, and it has no job "rollback"`},
		"and is not known to":     {rollback: "manual", faults: slices.Repeat([]gitlabtest.Fault{{Kind: gitlabtest.Refuse, Status: 503}}, 9), wantErr: "whether its canary had started is not known", again: "pressed rollback"},
		"and GitLab falters once": {rollback: "manual", faults: []gitlabtest.Fault{{Kind: gitlabtest.Refuse, Status: 503}}, done: "pipeline 1000 was canceled after its canary", again: "job rollback runs already"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute)
				server := gitlabtest.New()
				// The pipeline, its jobs, its child pipelines; then the cancellation.
				server.ReadFaults = append([]gitlabtest.Fault{{}, {}, {Kind: gitlabtest.Slow, Delay: 2 * time.Second}, {}}, test.faults...)
				list := func(canary string, at time.Time) []gitlabtest.Job {
					found := []gitlabtest.Job{{Name: "deploy_canary", Status: canary, StartedAt: at}}
					if test.rollback != "" {
						found = append(found, gitlabtest.Job{Name: "rollback", Status: test.rollback, AllowFailure: true})
					}
					return found
				}
				id := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{
					{Status: "pending", Jobs: list("pending", time.Time{})},
					{After: time.Second, Status: "running", Jobs: list("running", time.Now().Add(time.Second))},
				}})
				c := connect(t, server, nil)
				_, done, err := Cancel(t.Context(), c, CancelOptions{Target: Target{PipelineID: id}})
				if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) || err == nil && !strings.HasPrefix(done, test.done) {
					t.Errorf("%q, %v; want %q, %q", done, err, test.done, test.wantErr)
				}
				server.ReadFaults = nil
				if test.again == "" {
					return
				}
				if _, done, err = Cancel(t.Context(), c, CancelOptions{Target: Target{PipelineID: id}}); err != nil || !strings.HasPrefix(done, test.again) {
					t.Errorf("again: %q, %v; want %q", done, err, test.again)
				}
			})
		})
	}
}

// TestTheDoubleHasGitLabsShapes: every field that the double sends is one that GitLab's own client
// library knows, with its type.
func TestTheDoubleHasGitLabsShapes(t *testing.T) {
	server := gitlabtest.New()
	child := server.Add(gitlabtest.Pipeline{Name: "child", Ref: "main", Source: "parent_pipeline", Life: []gitlabtest.Phase{{Status: "running"}}})
	server.Add(gitlabtest.Pipeline{Name: "release a b", Ref: "main", Source: "trigger", YamlErrors: "x", Child: child, Life: []gitlabtest.Phase{{Status: "running", Jobs: []gitlabtest.Job{{Name: "deploy_canary", Stage: "deploy_canary", Status: "manual", FinishedAt: time.Now()}}}}})
	listener := httptest.NewServer(server)
	defer listener.Close()
	for _, test := range []struct {
		method, path string
		into         any
	}{
		{http.MethodGet, "pipelines", &[]*gitlab.PipelineInfo{}},
		{http.MethodGet, "pipelines/1001", &gitlab.Pipeline{}},
		{http.MethodGet, "pipelines/1001/jobs", &[]*gitlab.Job{}},
		{http.MethodGet, "pipelines/1001/bridges", &[]*gitlab.Bridge{}},
		{http.MethodPost, "jobs/100100/play", &gitlab.Job{}},
		{http.MethodPost, "pipelines/1001/cancel", &gitlab.Pipeline{}},
		{http.MethodGet, "", &gitlab.Project{}},
	} {
		request, err := http.NewRequestWithContext(t.Context(), test.method, strings.TrimSuffix(listener.URL+"/api/v4/projects/7/"+test.path, "/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("PRIVATE-TOKEN", server.APIToken)
		response, err := listener.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		decoder := json.NewDecoder(response.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(test.into); err != nil || response.StatusCode/100 != 2 {
			t.Errorf("%s %s: %s, %v", test.method, test.path, response.Status, err)
		}
		response.Body.Close()
	}
}
