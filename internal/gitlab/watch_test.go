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

func jobs(promote, rollback string) []gitlabtest.Job {
	found := []gitlabtest.Job{
		{Name: "deploy_canary", Stage: "deploy_canary", Status: "success"},
		{Name: "verify_canary", Stage: "verify_canary", Status: "success"},
		{Name: "rollback", Stage: "cleanup", Status: rollback, AllowFailure: true},
	}
	if promote != "" {
		found = append(found, gitlabtest.Job{Name: "promote_to_production", Stage: "promote_to_production", Status: promote})
	}
	return found
}

// finishedAt gives jobs the times at which they finished.
func finishedAt(list []gitlabtest.Job, at map[string]time.Time) []gitlabtest.Job {
	for i := range list {
		list[i].FinishedAt = at[list[i].Name]
	}
	return list
}

// refused are the jobs after rollback_after_… failed early, and others started late.
func refused(after, promote string, late time.Time, again ...string) []gitlabtest.Job {
	found := append(jobs(promote, "manual"), gitlabtest.Job{Name: "rollback_after_" + after, Status: "failed", FinishedAt: late.Add(-time.Hour)})
	for i := range found {
		if slices.Contains(again, found[i].Name) {
			found[i].StartedAt = late
		}
	}
	return found
}

// TestWatchEnds is what each end of a pipeline means for its release.
func TestWatchEnds(t *testing.T) {
	early, late := time.Now(), time.Now().Add(time.Hour)
	for name, test := range map[string]struct {
		status string
		jobs   []gitlabtest.Job
		want   State
	}{
		"waiting for an approver":                            {"manual", jobs("manual", "manual"), Waiting},
		"promoted":                                           {"success", jobs("success", "manual"), Promoted},
		"green, but nobody pressed":                          {"success", jobs("manual", "manual"), Waiting},
		"green, promotion skipped":                           {"success", jobs("skipped", "manual"), Failed},
		"green, no job promotes":                             {"success", jobs("", "manual"), Failed},
		"failed":                                             {"failed", jobs("failed", "manual"), Failed},
		"failed and rolled back":                             {"failed", jobs("skipped", "success"), RolledBack},
		"failed, and the rollback too":                       {"failed", jobs("skipped", "failed"), Failed},
		"waiting, but a rollback failed":                     {"manual", jobs("manual", "failed"), Failed},
		"promoted, cleanup failed":                           {"failed", append(jobs("success", "manual"), gitlabtest.Job{Name: "cleanup", Status: "failed"}), Unfinished},
		"promoted, cleanup canceled":                         {"canceled", append(jobs("success", "manual"), gitlabtest.Job{Name: "cleanup", Status: "canceled"}), Unfinished},
		"the canary is judged on while the gate waits":       {"running", append(jobs("manual", ""), gitlabtest.Job{Name: "watch_canary", Status: "running"}), Waiting},
		"promoted, then rolled back":                         {"success", finishedAt(jobs("success", "success"), map[string]time.Time{"promote_to_production": early, "rollback": late}), RolledBack},
		"promoted, then a rollback that failed":              {"success", finishedAt(jobs("success", "failed"), map[string]time.Time{"promote_to_production": early, "rollback": late}), Failed},
		"rolled back, then started anew and promoted":        {"success", finishedAt(jobs("success", "success"), map[string]time.Time{"promote_to_production": late, "rollback": early}), Promoted},
		"a rollback that failed, then another one":           {"failed", finishedAt(append(jobs("failed", "failed"), gitlabtest.Job{Name: "rollback_unhealthy", Status: "success"}), map[string]time.Time{"rollback": early, "rollback_unhealthy": late}), RolledBack},
		"a rollback, then another one that failed":           {"failed", finishedAt(append(jobs("failed", "failed"), gitlabtest.Job{Name: "rollback_unhealthy", Status: "success"}), map[string]time.Time{"rollback": late, "rollback_unhealthy": early}), Failed},
		"a rollback that was refused, then verified":         {"manual", refused("verify", "manual", late, "verify_canary"), Waiting},
		"a rollback that was refused":                        {"manual", refused("verify", "manual", late), Failed},
		"a rollback that was refused, then promoted":         {"failed", refused("verify", "success", late, "verify_canary", "promote_to_production"), Promoted},
		"promotion refused a rollback, then succeeded":       {"failed", refused("promote", "success", late, "promote_to_production"), Promoted},
		"the same, and cleanup failed":                       {"failed", append(refused("promote", "success", late, "promote_to_production"), gitlabtest.Job{Name: "cleanup", Status: "failed"}), Unfinished},
		"the same, and a job that may fail did":              {"failed", append(refused("promote", "success", late, "promote_to_production"), gitlabtest.Job{Name: "check", Status: "failed", AllowFailure: true}), Promoted},
		"a rollback that was refused, watched again":         {"running", append(refused("watch", "manual", early), gitlabtest.Job{Name: "watch_canary", Status: "running", StartedAt: late}), Waiting},
		"a rollback by a person that failed":                 {"manual", append(jobs("manual", "failed"), gitlabtest.Job{Name: "check", Status: "success", StartedAt: late}), Failed},
		"a rollback that was refused, then one that was not": {"manual", append(refused("verify", "manual", late, "verify_canary"), gitlabtest.Job{Name: "rollback_after_watch", Status: "success", FinishedAt: late.Add(time.Minute)}), RolledBack},
		"rolled back by a person, and then refused":          {"failed", finishedAt(append(jobs("manual", "success"), gitlabtest.Job{Name: "rollback_after_verify", Status: "failed"}), map[string]time.Time{"rollback": early, "rollback_after_verify": late}), RolledBack},
		"rolled back, while the canary is judged on":         {"running", append(jobs("manual", "success"), gitlabtest.Job{Name: "watch_canary", Status: "running"}), RolledBack},
		"the same, and it waits for a runner":                {"pending", append(jobs("manual", "success"), gitlabtest.Job{Name: "watch_canary", Status: "pending"}), RolledBack},
		"the same, and it waits for the other one's":         {"waiting_for_resource", append(jobs("manual", "success"), gitlabtest.Job{Name: "watch_canary", Status: "waiting_for_resource"}), RolledBack},
		"canceled": {"canceled", jobs("canceled", "manual"), Canceled},
		"skipped":  {"skipped", jobs("skipped", "manual"), Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				id := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{
					{Status: "created"},
					{After: time.Minute, Status: "running", Jobs: jobs("created", "manual")},
					{After: 90 * time.Second, Status: "waiting_for_resource", Jobs: jobs("created", "manual")},
					{After: 95 * time.Second, Status: "a word to come", Jobs: jobs("created", "manual")},
					{After: 2 * time.Minute, Status: test.status, Jobs: test.jobs},
				}})
				p, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{PipelineID: id}})
				if err != nil || p.State != test.want || p.Reason == "" || p.PipelineID != id {
					t.Errorf("%+v, %v; want %s", p, err, test.want)
				}
			})
		})
	}
}

// TestWatchOfWhatAPersonCanceledAtItsGate: nobody is asked to press a gate beside which nobody watches.
func TestWatchOfWhatAPersonCanceledAtItsGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		id := server.Add(gitlabtest.Pipeline{Life: []gitlabtest.Phase{{Status: "running", Jobs: append(jobs("manual", "manual"), gitlabtest.Job{Name: "watch_canary", Status: "running"})}}})
		c := connect(t, server, nil)
		if err := c.cancelPipeline(t.Context(), time.Now().Add(time.Minute), id); !errors.Is(err, errAtGate) {
			t.Errorf("canceled: %v", err)
		}
		p, err := Watch(t.Context(), c, WatchOptions{Target: Target{PipelineID: id}})
		if err != nil || p.State != Waiting || p.Status != "manual" || !strings.HasPrefix(p.Reason, "watch_canary was canceled: nobody watches the canary; press rollback, or retry watch_canary (https://") {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestWatchOfARollbackThatIsNotTheLast: a release that was rolled back and is started again is neither rolled back nor failed meanwhile.
func TestWatchOfARollbackThatIsNotTheLast(t *testing.T) {
	early, late := time.Now(), time.Now().Add(time.Hour)
	for name, changed := range map[string]gitlabtest.Job{
		"the canary has yet to start":       {Name: "deploy_canary", Status: "created"},
		"it is yet to be verified":          {Name: "verify_canary", Status: "created"},
		"the canary starts again":           {Name: "deploy_canary", Status: "pending"},
		"the canary waits for the other":    {Name: "deploy_canary", Status: "waiting_for_resource"},
		"the canary has started again":      {Name: "deploy_canary", Status: "success", StartedAt: late},
		"it is verified again":              {Name: "verify_canary", Status: "running", StartedAt: late},
		"it is promoted":                    {Name: "promote_to_production", Status: "running", StartedAt: late},
		"it is rolled back":                 {Name: "rollback_after_watch", Status: "running", StartedAt: late},
		"it is about to be rolled back too": {Name: "rollback_after_watch", Status: "pending"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				list := append(finishedAt(jobs("created", "success"), map[string]time.Time{"rollback": early}), gitlabtest.Job{Name: "watch_canary", Status: "running"})
				list = append(slices.DeleteFunc(list, func(j gitlabtest.Job) bool { return j.Name == changed.Name }), changed)
				server := gitlabtest.New()
				id := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{{Status: "running", Jobs: list}}})
				p, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{PipelineID: id}, Timeout: time.Second})
				if !errors.As(err, new(*DeadlineError)) || p.State != Running {
					t.Errorf("%+v, %v", p, err)
				}
			})
		})
	}
}

// TestWatchIsBounded: a pipeline that never ends is watched for a bounded time, and further later.
func TestWatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		server.ReadFaults = []gitlabtest.Fault{{}, {Kind: gitlabtest.Refuse}, {Kind: gitlabtest.Drop}, {Kind: gitlabtest.Limit, Delay: time.Hour}}
		server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{{Status: "running"}, {After: 20 * time.Minute, Status: "manual", Jobs: jobs("manual", "manual")}}})
		c := connect(t, server, nil)
		id := idOf(toRelease)
		start := time.Now()
		_, err := Watch(t.Context(), c, WatchOptions{Target: Target{ReleaseID: id}, Timeout: 10 * time.Minute})
		var deadline *DeadlineError
		if took := time.Since(start); !errors.As(err, &deadline) || took > 10*time.Minute || took < 9*time.Minute {
			t.Fatalf("%v after %s", err, took)
		}
		p, err := Watch(t.Context(), c, WatchOptions{Target: Target{ReleaseID: id, App: toRelease.App}, Timeout: 20 * time.Minute})
		if err != nil || p.State != Waiting {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestWatchInTheLine: while its job queue is running a release is queued, and the watch goes on.
func TestWatchInTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := func(status, canary string) []gitlabtest.Job {
			return []gitlabtest.Job{{Name: "queue", Stage: "queue", Status: status}, {Name: "deploy_canary", Stage: "deploy_canary", Status: canary}}
		}
		server := gitlabtest.New()
		id := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{
			{Status: "pending", Jobs: queue("pending", "created")},
			{After: 10 * time.Second, Status: "running", Jobs: queue("running", "created")},
			{After: time.Hour, Status: "running", Jobs: queue("success", "running")},
			{After: 61 * time.Minute, Status: "manual", Jobs: jobs("manual", "manual")},
		}})
		var lines []string
		c := connect(t, server, func(c *Connection) { c.Log = func(line string) { lines = append(lines, line) } })
		const says = "queued after 30m0s"
		p, err := Watch(t.Context(), c, WatchOptions{Target: Target{PipelineID: id}})
		if !errors.As(err, new(*DeadlineError)) || !strings.Contains(err.Error(), says) || p.State != Queued || !strings.Contains(p.Reason, "waits in the line") || !strings.Contains(p.Reason, "/-/jobs/") {
			t.Errorf("%+v, %v", p, err)
		}
		if said := strings.Join(lines, "\n"); strings.Count(said, "waits in the line") != 1 {
			t.Errorf("it said %q", said)
		}
		if p, err := Watch(t.Context(), c, WatchOptions{Target: Target{PipelineID: id}, Timeout: time.Hour}); err != nil || p.State != Waiting {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestWatchGivesWhatItSaw: a GitLab that cannot be read for long ends the watch with an error, and with what was seen before.
func TestWatchGivesWhatItSaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute)
		server := gitlabtest.New()
		server.ReadFaults = append([]gitlabtest.Fault{{}, {}, {}, {}}, slices.Repeat([]gitlabtest.Fault{{Kind: gitlabtest.Refuse, Status: 503}}, 20)...)
		id := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{{Status: "running", Jobs: jobs("created", "manual")}}})
		p, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{PipelineID: id}})
		if err == nil || errors.As(err, new(*DeadlineError)) || !strings.Contains(err.Error(), "503") || p.State != Running || len(p.Jobs) == 0 {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestWatchIsBoundedByASlowGitLab: an answer that does not come in time ends the watch with what was seen before.
func TestWatchIsBoundedByASlowGitLab(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		server.ReadFaults = []gitlabtest.Fault{{}, {}, {}, {Kind: gitlabtest.Slow, Delay: 50 * time.Second}}
		id := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{{Status: "running"}}})
		start := time.Now()
		p, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{PipelineID: id}, Timeout: 10 * time.Second})
		if !errors.As(err, new(*DeadlineError)) || p.Status != "running" || time.Since(start) != 10*time.Second {
			t.Errorf("%+v, %v after %s", p, err, time.Since(start))
		}
		server.Wait()
	})
}

// TestWatchChildPipeline: the promote job may be in a child pipeline.
func TestWatchChildPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := gitlabtest.New()
		many := slices.Repeat([]gitlabtest.Job{{Name: "check", Status: "success"}}, 150) // more than a page
		child := server.Add(gitlabtest.Pipeline{Source: "parent_pipeline", Life: []gitlabtest.Phase{{Status: "success", Jobs: append(jobs("success", "manual"), many...)}}})
		id := server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Child: child, Life: []gitlabtest.Phase{{Status: "success"}}})
		p, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{PipelineID: id}})
		if err != nil || p.State != Promoted || len(p.Jobs) != 154 {
			t.Errorf("%s with %d jobs, %v", p.State, len(p.Jobs), err)
		}
	})
}

// TestWatchFindsTheRelease is which of several pipelines of one name is the release's.
func TestWatchFindsTheRelease(t *testing.T) {
	for name, test := range map[string]struct {
		statuses []string
		want     int
	}{
		"the only one":                   {[]string{"manual"}, 0},
		"not the canceled":               {[]string{"canceled", "manual"}, 1},
		"the first of two that run":      {[]string{"manual", "manual"}, 0},
		"the newest attempt":             {[]string{"failed", "manual"}, 1},
		"the newest of ended attempts":   {[]string{"failed", "success"}, 1},
		"a canceled one, when it is all": {[]string{"canceled"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := gitlabtest.New()
				var ids []int64
				for _, status := range test.statuses {
					ids = append(ids, server.Add(gitlabtest.Pipeline{Name: nameOf(toRelease), Life: []gitlabtest.Phase{{Status: status, Jobs: jobs("success", "manual")}}}))
				}
				server.Add(gitlabtest.Pipeline{Name: "release other-app 0123456789ab", Status: "manual"})
				p, err := Watch(t.Context(), connect(t, server, nil), WatchOptions{Target: Target{ReleaseID: idOf(toRelease)}})
				if err != nil || p.PipelineID != ids[test.want] {
					t.Errorf("%+v, %v; of %v", p, err, ids)
				}
			})
		})
	}
}

func TestWatchRefusesBadInput(t *testing.T) {
	for name, test := range map[string]struct {
		options WatchOptions
		field   string
	}{
		"nothing":         {WatchOptions{}, "pipeline"},
		"both":            {WatchOptions{Target: Target{PipelineID: 1, ReleaseID: "abc"}}, "pipeline"},
		"hostile id":      {WatchOptions{Target: Target{ReleaseID: "a b"}}, "releaseId"},
		"hostile app":     {WatchOptions{Target: Target{ReleaseID: "abc", App: "../x"}}, "app"},
		"unknown release": {WatchOptions{Target: Target{ReleaseID: "abc"}}, "releaseId"},
		"unknown id":      {WatchOptions{Target: Target{PipelineID: 5}}, "gitlab.project"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Watch(t.Context(), connect(t, gitlabtest.New(), nil), test.options)
			var input *usererr.Error
			if !errors.As(err, &input) || input.Field != test.field {
				t.Errorf("%v, want one of %s", err, test.field)
			}
		})
	}
}

func TestConnectRefusesBadInput(t *testing.T) {
	good := Connection{URL: "https://gitlab.example.com", Project: "infra/deploy", Token: "t"}
	if _, err := Connect(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Connection){
		"gitlab.url":     func(c *Connection) { c.URL = "http://gitlab.example.com" },
		"gitlab.project": func(c *Connection) { c.Project = "a b" },
		"gitlabToken":    func(c *Connection) { c.Token = "" },
	} {
		bad := good
		change(&bad)
		_, err := Connect(bad)
		var input *usererr.Error
		if !errors.As(err, &input) || input.Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}
