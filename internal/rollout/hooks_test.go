package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// points are those that a release has.
var points = []release.HookPoint{release.BeforeCanary, release.BeforeStep, release.BeforePromotion, release.AfterPromotion, release.AfterRollback}

// everyHook is a Job and a call at each point.
func everyHook() (hooks []hook.Hook) {
	for _, point := range points {
		name := strings.ToLower(string(point))
		hooks = append(hooks, hook.Hook{Name: name + "-job", Point: point, Job: "work"}, hook.Hook{Name: name + "-call", Point: point, URL: "https://hooks.example.com/" + name})
	}
	return hooks
}

// hooked is what a test knows of hooks.
type hooked struct {
	*world
	hooks []hook.Hook
	set   *manifest.Set

	mu       sync.Mutex
	calls    map[string]int // by key
	bodies   map[string]hook.Message
	problems []string
	answers  map[string]int // the status that a hook's call is answered with, by name
	takes    time.Duration
	logs     map[string]string // that were kept, by run
}

// withHooks gives a world hooks.
func withHooks(w *world, hooks []hook.Hook) *hooked {
	w.Helper()
	h := &hooked{world: w, hooks: hooks, calls: map[string]int{}, bodies: map[string]hook.Message{}, answers: map[string]int{}, takes: time.Second, logs: map[string]string{}}
	set, err := loadManifests()
	if err != nil {
		w.Fatal(err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: metav1.ObjectMeta{Name: "work"},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "work"}}, Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "work", Image: taggedImage}},
		}}},
	})
	if err != nil {
		w.Fatal(err)
	}
	set.Others = append(set.Others, &unstructured.Unstructured{Object: content})
	if err := set.TakeJobs("work"); err != nil {
		w.Fatal(err)
	}
	h.set = set
	return h
}

// job is a command's view of the cluster, with the hooks.
func (h *hooked) job(name string) *job {
	h.Helper()
	j := h.world.job(name)
	j.Manifests, j.Hooks, j.Web = h.set, h.hooks, web{h, j.network}
	j.HookLog = func(id string, run release.HookRun, text string) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.logs[id+" "+run.String()] += text
		return nil
	}
	return j
}

// web is where the calls of a job end.
type web struct {
	*hooked
	network *network
}

// RoundTrip answers a call. It finds calls that the ledger does not say have started, or that it says have ended.
func (w web) RoundTrip(r *http.Request) (*http.Response, error) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w.network.mu.Lock()
	killed := w.network.killed
	w.network.mu.Unlock()
	if killed {
		return nil, errKilled
	}
	key := r.Header.Get(hook.KeyHeader)
	var message hook.Message
	w.server.mu.Lock()
	ledger := w.observer.ledger
	w.server.mu.Unlock()
	w.mu.Lock()
	w.calls[key]++
	if err := json.Unmarshal(text, &message); err != nil {
		w.problems = append(w.problems, err.Error())
	}
	w.bodies[key] = message
	step := 0
	if message.Point == release.BeforeStep {
		step = message.Weight
	}
	if ledger == nil || ledger.Release == nil {
		w.problems = append(w.problems, key+": it is called when no release is in flight")
	} else if run := ledger.Release.HookRun(message.Point, message.Hook, step); run == nil || run.State != release.HookStarted {
		w.problems = append(w.problems, fmt.Sprintf("%s: it is called when the ledger says %+v", key, run))
	}
	status := w.answers[message.Hook]
	w.mu.Unlock()
	if status == 0 {
		status = http.StatusOK
	}
	select {
	case <-time.After(w.takes):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return reply(r, status, io.NopCloser(strings.NewReader("it was asked for "+key))), nil
}

// ran are the hooks that have run, by release, point, name and step, with how often.
func (h *hooked) ran() map[string]int {
	found := map[string]int{}
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, counted := range []map[string]int{h.controllers.ran, h.calls} {
		for key, n := range counted {
			found[key[:strings.LastIndex(key, "/")]] += n
		}
	}
	return found
}

// expect checks that these and no others have run, and how often: a Job once, a call once too, or again with the same key where
// a job was killed.
func (h *hooked) expect(where string, again bool, want ...string) {
	h.Helper()
	got := h.ran()
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		h.Errorf("%s: hooks that ran (-want +got):\n%s", where, diff)
	}
	for key, n := range got {
		if n != 1 && (!again || !strings.Contains(key, "-call/")) {
			h.Errorf("%s: %s ran %d times", where, key, n)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, problem := range h.problems {
		h.Errorf("%s: %s", where, problem)
	}
}

// runsOf are the runs of the hooks of everyHook at points of a release, as expect has them.
func runsOf(id string, at ...string) (runs []string) {
	for _, place := range at {
		point, step, ok := strings.Cut(place, " ")
		if !ok {
			step = "0"
		}
		for _, kind := range []string{"call", "job"} {
			runs = append(runs, fmt.Sprintf("%s/%s/%s-%s/%s", id, point, strings.ToLower(point), kind, step))
		}
	}
	slices.Sort(runs)
	return runs
}

// goodRun is a whole release.
func (h *hooked) goodRun(from string) error {
	for _, command := range []string{"canary", "shift", "verify healthy", "promote", "cleanup"} {
		if from != "" && command != from {
			continue
		}
		from = ""
		if _, err := commands[command](h.Context(), h.job(command)); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	return nil
}

// TestHooks: a good release runs the hooks of its points in order, each once, with what they need to know, and keeps what
// they say.
func TestHooks(t *testing.T) {
	at(t, "rest", func(w *world) {
		h := withHooks(w, everyHook())
		w.controllers.ran[""] = 0
		if err := h.goodRun(""); err != nil {
			t.Fatal(err)
		}
		delete(w.controllers.ran, "")
		h.expect("", false, runsOf("r2", "afterPromotion", "beforeCanary", "beforePromotion", "beforeStep 10", "beforeStep 25", "beforeStep 60")...)
		status, err := h.job("look").Status(w.Context())
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, run := range status.History[0].Hooks {
			order = append(order, strings.TrimPrefix(run.String(), "hook ")+" "+string(run.State))
		}
		want := []string{
			"beforecanary-job at beforeCanary passed", "beforecanary-call at beforeCanary passed",
			"beforestep-job at beforeStep 10% passed", "beforestep-call at beforeStep 10% passed",
			"beforestep-job at beforeStep 25% passed", "beforestep-call at beforeStep 25% passed",
			"beforestep-job at beforeStep 60% passed", "beforestep-call at beforeStep 60% passed",
			"beforepromotion-job at beforePromotion passed", "beforepromotion-call at beforePromotion passed",
			"afterpromotion-job at afterPromotion passed", "afterpromotion-call at afterPromotion passed",
		}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		jobs, err := w.kube.BatchV1().Jobs(namespace).List(w.Context(), metav1.ListOptions{})
		w.must(jobs, err)
		for _, job := range jobs.Items {
			c := job.Spec.Template.Spec.Containers[0]
			if c.Image != image("2") || len(c.Env) != 5 || c.Env[0].Value != "r2" || job.Annotations[epochAnnotation] == "" || *job.Spec.BackoffLimit != 0 || *job.Spec.ActiveDeadlineSeconds != 600 {
				t.Errorf("%s: %+v", job.Name, job)
			}
		}
		if len(jobs.Items) != 6 {
			t.Errorf("%d Jobs", len(jobs.Items))
		}
		if len(h.logs) != 12 || !strings.Contains(h.logs["r2 hook beforestep-job at beforeStep 25%"], "log of qwik-node-app-beforestep-job-") || !strings.Contains(h.logs["r2 hook beforecanary-call at beforeCanary"], "it was asked for r2/beforeCanary") {
			t.Errorf("logs: %q", h.logs)
		}
		for key, body := range h.bodies {
			if body.App != w.set.App || body.Release == nil || body.Release.ID != "r2" || body.Key != key || body.Point == release.BeforeStep && body.Weight == 0 {
				t.Errorf("%s: %+v", key, body)
			}
		}
	})
}

// TestHooksOfAFirstRelease: they come before its primary is made, and after it has all of the traffic.
func TestHooksOfAFirstRelease(t *testing.T) {
	at(t, "new", func(w *world) {
		h := withHooks(w, everyHook())
		j := h.job("first")
		if _, err := j.Canary(w.Context(), wanted("1")); err != nil {
			t.Fatal(err)
		}
		h.expect("", false, runsOf("r1", "afterPromotion", "beforeCanary")...)
		did := w.did(j)
		if first := slices.IndexFunc(did, func(e string) bool { return strings.HasPrefix(e, "create beforecanary-job") }); first < 0 || first > slices.IndexFunc(did, func(e string) bool { return strings.HasPrefix(e, "create primary") }) {
			t.Errorf("it did %q", did)
		}
	})
	at(t, "new", func(w *world) {
		h := withHooks(w, everyHook())
		w.controllers.work["beforecanary-job"] = jobWork{fails: true}
		_, err := h.job("first").Canary(w.Context(), wanted("1"))
		if failed, ok := errors.AsType[*rollout.HookError](err); !ok || failed.Err != nil {
			t.Fatalf("%v", err)
		}
		h.expect("failed", false, append(runsOf("r1", "afterRollback"), "r1/beforeCanary/beforecanary-job/0")...)
		w.controllers.work["beforecanary-job"] = jobWork{}
		if _, err := h.job("again").Canary(w.Context(), wanted("1")); err != nil {
			t.Errorf("nothing of it was made, so it may start again: %v", err)
		}
	})
}

// TestFailedHooks: a hook that fails before the promotion rolls the release back, under the same lock; one of which
// it is said that the release goes on, and one that comes after, changes nothing.
func TestFailedHooks(t *testing.T) {
	for _, c := range []struct {
		stage, command string
		point          release.HookPoint
	}{
		{"rest", "canary", release.BeforeCanary},
		{"rest", "canary", release.BeforeStep},
		{"canary", "shift", release.BeforeStep},
		{"healthy", "shift", release.BeforeStep},
		{"healthy", "promote", release.BeforePromotion},
		{"healthy", "promote", release.AfterPromotion},
		{"canary", "rollback", release.AfterRollback},
		{"returned", "return", release.AfterRollback},
	} {
		for _, kind := range []string{"job", "call"} {
			for _, then := range []string{"", hook.Continue} {
				name := strings.ToLower(string(c.point)) + "-" + kind
				t.Run(fmt.Sprintf("%s at %s, %s %s", c.command, c.stage, name, then), func(t *testing.T) {
					t.Parallel()
					at(t, c.stage, func(w *world) {
						h := withHooks(w, everyHook())
						for i := range h.hooks {
							h.hooks[i].OnFailure = then
						}
						w.controllers.work[name], h.answers[name] = jobWork{fails: true}, http.StatusConflict
						j := h.job("job")
						result, err := commands[c.command](w.Context(), j)
						failed, ok := errors.AsType[*rollout.HookError](err)
						if back := then == "" && c.point.Before(); ok != back || !back && err != nil {
							t.Fatalf("%v", err)
						}
						if !ok {
							if late := !c.point.Before(); late != strings.Contains(result.Message, "hook "+name+" at "+string(c.point)+" failed") {
								t.Errorf("%s", result.Message)
							}
							return
						}
						says := map[string]string{"job": "BackoffLimitExceeded", "call": "409 Conflict"}[kind]
						if failed.Err != nil || failed.Run.Name != name || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "rolled back: ") {
							t.Errorf("%v", err)
						}
						if unrest := w.unrest("1"); unrest != "" {
							t.Error(unrest)
						}
						status, err := h.job("look").Status(w.Context())
						w.must(status, err)
						last := status.History[0]
						if last.Outcome != release.OutcomeRolledBack || last.Untried != (c.point == release.BeforeCanary) || !strings.Contains(last.Reason, name) {
							t.Errorf("%+v", last)
						}
						w.controllers.work[name], h.answers[name] = jobWork{}, 0
						ran := h.ran()
						if _, err := h.job("again").Canary(w.Context(), wanted("2")); (err == nil) != last.Untried {
							t.Errorf("once more: %v", err)
						}
						if last.Untried && h.ran()["r2/beforeCanary/"+name+"/0"] != ran["r2/beforeCanary/"+name+"/0"]+1 {
							t.Errorf("what is started again runs its hooks again: %v", h.ran())
						}
					})
				})
			}
		}
	}
}

// TestHooksOnceAfterCrashes lets the writes of commands with hooks fail in each way that passes, and kills the job after each of
// them. The same command finishes the work, and each hook has run once.
func TestHooksOnceAfterCrashes(t *testing.T) {
	for i, c := range []struct {
		stage, command, end string
		ran                 []string
		rest                string // of the release, after it
	}{
		{"rest", "canary", "2", runsOf("r2", "beforeCanary", "beforeStep 10"), "verify healthy"},
		{"new", "canary", "2", runsOf("r2", "afterPromotion", "beforeCanary"), ""},
		{"canary", "shift", "2", runsOf("r2", "beforeStep 25", "beforeStep 60"), "verify healthy"},
		{"healthy", "promote", "2", runsOf("r2", "afterPromotion", "beforePromotion"), "cleanup"},
		{"canary", "rollback", "1", runsOf("r2", "afterRollback"), ""},
		{"returning", "return", "1", runsOf("r1", "afterRollback"), ""},
	} {
		for _, f := range []fault{never, silent, outdated, dies} {
			t.Run(fmt.Sprintf("%s at %s, a write %s", c.command, c.stage, f), func(t *testing.T) {
				t.Parallel()
				first, stride := strides(f)
				if f == dies && !*everyWrite { // the commands take turns with the writes
					first, stride = 1+i%4, 4
				}
				for n := first; !t.Failed(); n += stride {
					more := false
					at(t, c.stage, func(w *world) {
						h := withHooks(w, everyHook())
						first := h.job("first")
						first.at, first.fault = n, f
						_, err := commands[c.command](first.ctx, first)
						where := fmt.Sprintf("write %d (%s)", n, first.hit)
						if more = first.hit != ""; !more {
							return
						}
						if f != dies {
							if err != nil {
								t.Errorf("%s: %v", where, err)
							}
							h.expect(where, false, c.ran...)
							return
						}
						time.Sleep(90 * time.Second)
						if _, err := commands[c.command](w.Context(), h.job("next")); err != nil {
							t.Errorf("%s: the same command again: %v", where, err)
						}
						ran := c.ran
						if c.rest == "cleanup" {
							if err := h.goodRun(c.rest); err != nil {
								t.Errorf("%s: %v", where, err)
							}
						}
						h.expect(where, true, ran...)
						if c.rest != "verify healthy" {
							w.settled(where, c.end, false)
						}
					})
					if !more {
						break
					}
				}
			})
		}
	}
}

// TestRollbackAfterCrashesWithHooks: whatever a job with hooks died of, a rollback leads back, and no Job is left that could still
// begin.
func TestRollbackAfterCrashesWithHooks(t *testing.T) {
	for i, c := range []struct{ stage, command string }{{"rest", "canary"}, {"canary", "shift"}, {"healthy", "promote"}} {
		t.Run(c.command+" at "+c.stage, func(t *testing.T) {
			t.Parallel()
			first, stride := 1+i, 3
			if *everyWrite {
				first, stride = 1, 1
			}
			for n := first; !t.Failed(); n += stride {
				more := false
				at(t, c.stage, func(w *world) {
					h := withHooks(w, everyHook())
					first := h.job("first")
					first.at, first.fault = n, dies
					_, _ = commands[c.command](first.ctx, first)
					if more = first.hit != ""; !more {
						return
					}
					where := fmt.Sprintf("write %d (%s)", n, first.hit)
					time.Sleep(90 * time.Second)
					if _, err := h.job("next").Rollback(w.Context(), "test"); err != nil {
						t.Errorf("%s: rollback: %v", where, err)
					}
					w.settled(where, "1", true)
					jobs, err := w.kube.BatchV1().Jobs(namespace).List(w.Context(), metav1.ListOptions{})
					w.must(jobs, err)
					for _, job := range jobs.Items {
						if *job.Spec.Suspend {
							t.Errorf("%s: %s is left, and could still begin", where, job.Name)
						}
					}
				})
				if !more {
					break
				}
			}
		})
	}
}

// TestHooksOnceUnderRandomKills kills the jobs of a release at random times, each of its commands again and again, and finds in
// the end that each Job was started once, that a call was never made after the ledger noted how it ended, and that the same
// call had the same key each time.
func TestHooksOnceUnderRandomKills(t *testing.T) {
	var mu sync.Mutex
	kills, runs, calls := 0, 0, 0
	t.Run("schedules", func(t *testing.T) {
		for seed := range uint64(6) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				at(t, "rest", func(w *world) {
					rng := rand.New(rand.NewPCG(seed, 20))
					h := withHooks(w, everyHook())
					h.takes = 4 * time.Second
					for _, hk := range h.hooks {
						w.controllers.work[hk.Name] = jobWork{takes: time.Duration(1+rng.IntN(20)) * time.Second}
					}
					killed := 0
					for _, command := range []string{"canary", "shift", "verify healthy", "promote", "cleanup"} {
						for most := 6; ; most-- {
							j := h.job(command)
							ctx, cancel := context.WithCancel(j.ctx)
							var timer *time.Timer
							if most > 0 {
								timer = time.AfterFunc(time.Duration(rng.IntN(20_000))*time.Millisecond, func() {
									if rng.IntN(4) > 0 { // else it was asked to end, and does so in order
										j.mu.Lock()
										j.killed = true
										j.mu.Unlock()
									}
									cancel()
								})
							}
							_, err := commands[command](ctx, j)
							if timer != nil && !timer.Stop() {
								killed++
							}
							interrupted := ctx.Err() != nil
							cancel()
							if err == nil {
								break
							}
							if !interrupted {
								t.Fatalf("%s: %v", command, err)
							}
							time.Sleep(time.Duration(rng.IntN(120)) * time.Second)
						}
					}
					h.expect("", true, runsOf("r2", "afterPromotion", "beforeCanary", "beforePromotion", "beforeStep 10", "beforeStep 25", "beforeStep 60")...)
					time.Sleep(2 * time.Minute) // the lock of the last one that was killed expires
					if unrest := w.unrest("2"); unrest != "" {
						t.Error(unrest)
					}
					mu.Lock()
					defer mu.Unlock()
					kills += killed
					runs += len(w.controllers.ran)
					for _, n := range h.calls {
						calls += n
					}
				})
			})
		}
	})
	t.Logf("%d kills, %d runs of Jobs, %d calls", kills, runs, calls)
	if kills < 80 {
		t.Errorf("only %d kills", kills)
	}
}

// TestLateJobStartsNothing: a job that has lost its lock between two writes of a hook starts no Job, however late it goes on.
func TestLateJobStartsNothing(t *testing.T) {
	for n, what := range map[int]string{2: "the Job's creation", 3: "the note", 4: "the Job's start"} {
		t.Run(what, func(t *testing.T) {
			at(t, "rest", func(w *world) {
				h := withHooks(w, []hook.Hook{{Name: "migrate", Point: release.BeforeCanary, Job: "work"}})
				late := h.job("late")
				held, back, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
				late.before = func(r *http.Request) error {
					late.mu.Lock()
					hit := late.seen == n && r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/leases") && r.URL.Query().Get("dryRun") == ""
					late.mu.Unlock()
					if hit {
						close(held)
						<-back
					}
					return nil
				}
				go func() {
					_, err := late.Canary(w.Context(), wanted("2"))
					ended <- err
				}()
				<-held
				if _, err := h.job("other").Rollback(w.Context(), "test"); err != nil {
					t.Fatal(err)
				}
				close(back)
				if err := <-ended; !errors.Is(err, rollout.ErrLockLost) {
					t.Errorf("%v", err)
				}
				time.Sleep(time.Minute)
				if ran := h.ran(); len(ran) > 0 {
					t.Errorf("it ran %v", ran)
				}
				if unrest := w.unrest("1"); unrest != "" {
					t.Error(unrest)
				}
			})
		})
	}
}

// TestRollbackWhileAHookRuns: it takes the lock, ends the release, and leaves the Job that runs to its end.
func TestRollbackWhileAHookRuns(t *testing.T) {
	at(t, "healthy", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "migrate", Point: release.BeforePromotion, Job: "work"}})
		w.controllers.work["migrate"] = jobWork{takes: 5 * time.Minute}
		ended := make(chan error, 1)
		go func() {
			_, err := h.job("promote").Promote(w.Context())
			ended <- err
		}()
		time.Sleep(2 * time.Minute)
		back := h.job("back")
		w.must(back.Rollback(w.Context(), "test"))
		if err := <-ended; !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("promote: %v", err)
		}
		if !slices.ContainsFunc(back.logged, func(line string) bool { return strings.Contains(line, "is left to its end") }) {
			t.Errorf("it said %q", back.logged)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
		time.Sleep(5 * time.Minute)
		jobs, err := w.kube.BatchV1().Jobs(namespace).List(w.Context(), metav1.ListOptions{})
		w.must(jobs, err)
		if len(jobs.Items) != 1 {
			t.Fatalf("%d Jobs", len(jobs.Items))
		}
		if ended, passed, _ := hook.Ended(&jobs.Items[0]); !ended || !passed {
			t.Errorf("%+v", jobs.Items[0].Status)
		}
	})
}

// TestLateHook: a job that has lost its lock lets no hook begin any more, from the first change of the one that has taken it on.
func TestLateHook(t *testing.T) {
	at(t, "healthy", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "migrate", Point: release.BeforePromotion, Job: "work"}})
		old, other := h.job("old"), h.job("other")
		still, back := old.standsAt("/jobs/")
		ended, routes := make(chan error, 1), 0
		other.before = func(r *http.Request) error {
			if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/virtualservices/") {
				if routes++; routes == 2 { // the first one is the fence's
					back()
					if err := <-ended; !errors.Is(err, rollout.ErrLockLost) {
						t.Errorf("the job without the lock: %v", err)
					}
				}
			}
			return nil
		}
		go func() {
			_, err := old.Promote(w.Context())
			ended <- err
		}()
		<-still
		w.must(other.Rollback(w.Context(), "test"))
		time.Sleep(time.Minute)
		h.expect("", false)
	})
}

// TestLongHookKeepsTheLock: and a verdict that has become too old meanwhile promotes nothing; the hooks that have passed are not run again.
func TestLongHookKeepsTheLock(t *testing.T) {
	at(t, "healthy", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "load", Point: release.BeforePromotion, Job: "work", Timeout: metav1.Duration{Duration: time.Hour}}})
		w.controllers.work["load"] = jobWork{takes: 20 * time.Minute}
		j := h.job("promote")
		j.MaxVerdictAge = 10 * time.Minute
		ended := make(chan error, 1)
		go func() {
			_, err := j.Promote(w.Context())
			ended <- err
		}()
		time.Sleep(10 * time.Minute)
		other := h.job("other")
		if _, err := other.Promote(w.Context()); !errors.As(err, new(*rollout.LockHeldError)) && !errors.As(err, new(*rollout.StaleVerdictError)) {
			t.Errorf("another job: %v", err)
		}
		if err := <-ended; !errors.As(err, new(*rollout.StaleVerdictError)) {
			t.Fatalf("%v", err)
		}
		w.must(judge(w.Context(), h.job("judge").Cluster, release.Healthy))
		w.must(h.job("promote").Promote(w.Context()))
		h.expect("", false, "r2/beforePromotion/load/0")
	})
}

// TestHookThatNobodyRuns: a Job that its controller does not touch is given up some time after its own.
func TestHookThatNobodyRuns(t *testing.T) {
	at(t, "rest", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "migrate", Point: release.BeforeCanary, Job: "work", Timeout: metav1.Duration{Duration: time.Minute}}})
		w.server.mu.Lock()
		w.controllers.stopped = true
		w.server.mu.Unlock()
		start := time.Now()
		_, err := h.job("job").Canary(w.Context(), wanted("2"))
		if !errors.As(err, new(*rollout.HookError)) || !strings.Contains(err.Error(), "nobody runs it") {
			t.Errorf("%v", err)
		}
		if took := time.Since(start); took > 4*time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// TestHooksAreLookedAtFirst: what would keep a hook from running is refused before the lock, and nothing is written.
func TestHooksAreLookedAtFirst(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(h *hooked, j *job)
		field   string
		says    string
	}{
		"no permission to make Jobs": {func(_ *hooked, j *job) { j.before = denies(http.MethodPost, "/jobs") }, "Job prod/", "give this account the permission"},
		"none to read them":          {func(_ *hooked, j *job) { j.before = denies(http.MethodGet, "/jobs/") }, "Job prod/", "give this account the permission"},
		"none to start them":         {func(_ *hooked, j *job) { j.before = denies(http.MethodPatch, "/jobs/") }, "Job prod/", "give this account the permission"},
		"an image by tag":            {func(h *hooked, _ *job) { h.set.Jobs["work"].Spec.Template.Spec.Containers[0].Image = "busybox:1" }, "Job work: spec.template.spec.containers[work].image", "by tag"},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, "rest", func(w *world) {
				h := withHooks(w, everyHook())
				j := h.job("job")
				c.prepare(h, j)
				_, err := j.Canary(w.Context(), wanted("2"))
				bad, ok := errors.AsType[*usererr.Error](err)
				if !ok || !strings.HasPrefix(bad.Field, c.field) || !strings.Contains(err.Error(), c.says) || len(j.every) > 0 {
					t.Errorf("%v, after %q", err, j.every)
				}
			})
		})
	}
}

// denies answers as an API server does whose account may not do something.
func denies(method, path string) func(*http.Request) error {
	return func(r *http.Request) error {
		if r.Method == method && strings.Contains(r.URL.Path, path) {
			return apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "", errors.New(`User "ci" cannot do that to resource "jobs" in API group "batch" in the namespace "prod"`))
		}
		return nil
	}
}

// TestForeignJob: a Job of a hook's name that is somebody else's stops the release with its name, and stays as it is.
func TestForeignJob(t *testing.T) {
	at(t, "started", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "migrate", Point: release.BeforeCanary, Job: "work"}})
		status, err := h.job("look").Status(w.Context())
		w.must(status, err)
		name := hook.Run{Hook: h.hooks[0], App: w.set.App, Namespace: namespace, Release: status.Release}.JobName()
		w.must(w.kube.BatchV1().Jobs(namespace).Create(w.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: h.set.Jobs["work"].Spec}, metav1.CreateOptions{}))
		_, err = h.job("job").Canary(w.Context(), wanted("2"))
		if bad, ok := errors.AsType[*usererr.Error](err); !ok || bad.Field != "Job prod/"+name || !strings.Contains(bad.Problem, "a release did not make it") {
			t.Errorf("%v", err)
		}
	})
}

// TestPlanWithHooks: a dry run shows the Jobs that would be made and the calls, and does neither.
func TestPlanWithHooks(t *testing.T) {
	at(t, "rest", func(w *world) {
		h := withHooks(w, everyHook())
		j := h.job("plan")
		j.Plan = &rollout.Plan{}
		before := w.server.version
		w.must(j.Canary(w.Context(), wanted("2")))
		var made []string
		for _, change := range j.Plan.Changes {
			if strings.HasPrefix(change.Object, "Job ") {
				made = append(made, change.Action)
			}
		}
		if len(made) != 2 || !strings.Contains(strings.Join(j.Plan.Notes, "\n"), "https://hooks.example.com/beforecanary would be called") || w.server.version != before || len(h.ran()) > 0 {
			t.Errorf("it plans %q, %q and ran %v", made, j.Plan.Notes, h.ran())
		}
	})
}

// TestTestersComeBeforeTheFirstStep: a hook before the first share finds the canary by the header of testers, at weight 0, and is
// given that header.
func TestTestersComeBeforeTheFirstStep(t *testing.T) {
	at(t, "rest", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "smoke", Point: release.BeforeStep, URL: "https://hooks.example.com/smoke"}})
		j := h.job("job")
		want := wanted("2")
		want.Match = &release.Match{Header: "x-canary", Kind: release.MatchExact, Value: "yes"}
		w.must(j.Canary(w.Context(), want))
		h.expect("", false, "r2/beforeStep/smoke/10")
		for _, body := range h.bodies {
			if body.Weight != 10 || body.MatchHeader != "x-canary: yes" {
				t.Errorf("%+v", body)
			}
		}
		var routes []string
		for _, e := range w.did(j) {
			if split, ok := strings.CutPrefix(e, "update vs "); ok {
				routes = append(routes, split[:strings.Index(split+" ", " ")])
			}
		}
		if diff := cmp.Diff([]string{"100/0", "90/10"}, routes); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestHookAfterRollbackReadsConfiguration: its Job reads the release's copies, which go when it has ended.
func TestHookAfterRollbackReadsConfiguration(t *testing.T) {
	for stage, from := range map[string]string{"rest": "rolled back", "new": "removed"} {
		t.Run(stage, func(t *testing.T) {
			at(t, stage, func(w *world) {
				h := withHooks(w, []hook.Hook{{Name: "undo", Point: release.AfterRollback, Job: "work"}, {Name: "stop", Point: release.BeforeCanary, Job: "work"}})
				jobs := h.set.Jobs
				h.set = w.version("2")
				h.set.Jobs = jobs
				jobs["work"].Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
				w.controllers.work["stop"] = jobWork{fails: true}
				_, err := h.job("job").Canary(w.Context(), wanted("2"))
				if failed, ok := errors.AsType[*rollout.HookError](err); !ok || failed.Err != nil {
					t.Fatalf("%v", err)
				}
				last := w.state().History[0]
				if undo := last.HookRun(release.AfterRollback, "undo", 0); undo == nil || undo.State != release.HookPassed {
					t.Errorf("%s: %+v", from, undo)
				}
				for _, name := range w.copies() {
					if strings.HasPrefix(name, "settings-") {
						t.Errorf("%s is left", name)
					}
				}
			})
		})
	}
}

// TestFirstHookReadsNewObjects: what the pods of a hook before an app's first release need to start is made first.
func TestFirstHookReadsNewObjects(t *testing.T) {
	at(t, "new", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "migrate", Point: release.BeforeCanary, Job: "work"}})
		h.set.Jobs["work"].Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "database"}}}}
		h.set.Others = w.objectsOf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: database}\ndata: {host: db}\n")
		j := h.job("first")
		j.ApplyOthers = true
		if _, err := j.Canary(w.Context(), wanted("1")); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLateHookFailureIsSaid: the failure of a hook after a promotion is part of the message of whatever command ran it.
func TestLateHookFailureIsSaid(t *testing.T) {
	late := []hook.Hook{{Name: "index", Point: release.AfterPromotion, Job: "work"}}
	for stage, command := range map[string]string{"new": "canary", "promoted": "cleanup"} {
		t.Run(command, func(t *testing.T) {
			at(t, stage, func(w *world) {
				h := withHooks(w, late)
				w.controllers.work["index"] = jobWork{fails: true}
				result, err := commands[command](w.Context(), h.job("job"))
				if err != nil || !strings.Contains(result.Message, "hook index at afterPromotion failed: ") {
					t.Errorf("%q, %v", result.Message, err)
				}
			})
		})
	}
}

// TestStricterHook: a hook whose failure was noted, and changed nothing, ends the release when crossbill.yaml says so at the next
// command: the ledger says that it is rolling back before anything is written.
func TestStricterHook(t *testing.T) {
	at(t, "healthy", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "load", Point: release.BeforePromotion, Job: "work", OnFailure: hook.Continue, Timeout: metav1.Duration{Duration: time.Hour}}})
		w.controllers.work["load"] = jobWork{takes: 20 * time.Minute, fails: true}
		j := h.job("promote")
		j.MaxVerdictAge = 10 * time.Minute
		if _, err := j.Promote(w.Context()); !errors.As(err, new(*rollout.StaleVerdictError)) {
			t.Fatalf("%v", err)
		}
		w.must(judge(w.Context(), h.job("judge").Cluster, release.Healthy))
		h.hooks[0].OnFailure = ""
		_, err := h.job("promote").Promote(w.Context())
		if failed, ok := errors.AsType[*rollout.HookError](err); !ok || failed.Err != nil {
			t.Errorf("%v", err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
		if last := w.state().History[0]; last.Outcome != release.OutcomeRolledBack || !strings.Contains(last.Reason, "load") {
			t.Errorf("%s: %s", last.Outcome, last.Reason)
		}
	})
}

// TestFirstHookFailsAndItsJobDies: whatever finishes the rollback, the same release may start again.
func TestFirstHookFailsAndItsJobDies(t *testing.T) {
	for n := 1; !t.Failed(); n++ {
		more := false
		at(t, "new", func(w *world) {
			h := withHooks(w, []hook.Hook{{Name: "migrate", Point: release.BeforeCanary, Job: "work"}})
			w.controllers.work["migrate"] = jobWork{fails: true}
			j := h.job("first")
			j.at, j.fault = n, dies
			_, _ = j.Canary(j.ctx, wanted("1"))
			if more = j.hit != ""; !more {
				return
			}
			where := fmt.Sprintf("write %d (%s)", n, j.hit)
			time.Sleep(90 * time.Second)
			_, err := h.job("next").Canary(w.Context(), wanted("1"))
			if errors.As(err, new(*rollout.StageError)) { // it is rolling back
				_, err = h.job("back").Rollback(w.Context(), "test")
			}
			if err != nil && !errors.As(err, new(*rollout.HookError)) {
				t.Errorf("%s: %v", where, err)
			}
			w.controllers.work["migrate"] = jobWork{}
			if _, err := h.job("again").Canary(w.Context(), wanted("1")); err != nil {
				t.Errorf("%s: nothing of it was made, so it may start again: %v", where, err)
			}
		})
		if !more {
			break
		}
	}
}

// TestPromotionGoesOnWithoutHooks: one that has started needs nothing of the hooks: those after it are noted as failed.
func TestPromotionGoesOnWithoutHooks(t *testing.T) {
	at(t, "promoting", func(w *world) {
		h := withHooks(w, everyHook())
		j := h.job("promote")
		j.before = denies(http.MethodPost, "/jobs")
		result, err := j.Promote(w.Context())
		if err != nil || !strings.Contains(result.Message, "hook afterpromotion-job at afterPromotion failed: it could not be run") {
			t.Errorf("%q, %v", result.Message, err)
		}
	})
}

// TestHookOutputIsText: what others say reaches a terminal and the ledger without what these would take for a command.
func TestHookOutputIsText(t *testing.T) {
	at(t, "rest", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "ask", Point: release.BeforeCanary, URL: "https://hooks.example.com/"}})
		j := h.job("job")
		j.Web = says("200 \x1b[2JOK", "one\r\ntwo\r::error::three\x1b[2J\n\tfour\n")
		w.must(j.Canary(w.Context(), wanted("2")))
		var said []string
		for _, line := range j.logged {
			if _, text, ok := strings.Cut(line, "hook ask at beforeCanary: "); ok {
				said = append(said, text)
			}
		}
		want := []string{"calling https://hooks.example.com/", "passed within 0s (it answered 200 \uFFFD[2JOK)", "| one", "| two\uFFFD::error::three\uFFFD[2J", "| \tfour"}
		slices.Sort(said)
		slices.Sort(want)
		if diff := cmp.Diff(want, said); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := w.state().Release.Hooks[0].Message; got != "it answered 200 \uFFFD[2JOK" {
			t.Errorf("%q", got)
		}
		if got := h.logs["r2 hook ask at beforeCanary"]; !strings.Contains(got, "\x1b[2J") {
			t.Errorf("the file has %q", got)
		}
	})
}

// says answers each call with a status and a text.
func says(status, text string) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response := reply(r, http.StatusOK, io.NopCloser(strings.NewReader(text)))
		response.Status = status
		return response, nil
	})
}

// roundTripper is a way to a server.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestRollbackLeavesWhatARunningHookReads: a Job that is left to its end keeps the configuration that a pod of it may have yet to read.
func TestRollbackLeavesWhatARunningHookReads(t *testing.T) {
	at(t, "rest", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "migrate", Point: release.BeforeCanary, Job: "work"}})
		jobs := h.set.Jobs
		h.set = w.version("2")
		h.set.Jobs = jobs
		jobs["work"].Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
		w.controllers.work["migrate"] = jobWork{takes: 5 * time.Minute}
		ended := make(chan error, 1)
		go func() {
			_, err := h.job("job").Canary(w.Context(), wanted("2"))
			ended <- err
		}()
		time.Sleep(2 * time.Minute)
		back := h.job("back")
		back.before = func(r *http.Request) error {
			if r.Method == http.MethodPatch { // the controllers have seen the stamps of its lock by then, as they do in a cluster
				time.Sleep(time.Second)
			}
			return nil
		}
		w.must(back.Rollback(w.Context(), "test"))
		if err := <-ended; !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("%v", err)
		}
		list, err := w.kube.BatchV1().Jobs(namespace).List(w.Context(), metav1.ListOptions{})
		w.must(list, err)
		reads := list.Items[0].Spec.Template.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name
		if is, _, _ := hook.Ended(&list.Items[0]); is || reads == "settings" {
			t.Fatalf("the Job reads %s: %+v", reads, list.Items[0].Status)
		}
		has := func() bool {
			_, err := w.kube.CoreV1().ConfigMaps(namespace).Get(w.Context(), reads, metav1.GetOptions{})
			return err == nil
		}
		if !has() {
			t.Error("a pod of the Job that has yet to start has nothing to read")
		}
		between := h.job("between") // another release comes and goes while the Job still runs
		between.Hooks, between.Again = nil, true
		w.must(between.Canary(w.Context(), wanted("3")))
		gone := h.job("gone")
		gone.Hooks = nil
		w.must(gone.Rollback(w.Context(), "test"))
		list, err = w.kube.BatchV1().Jobs(namespace).List(w.Context(), metav1.ListOptions{})
		w.must(list, err)
		if is, _, _ := hook.Ended(&list.Items[0]); is {
			t.Fatal("the Job has ended: this proves nothing")
		}
		if !has() {
			t.Error("the next release has deleted what the Job of the one before reads")
		}
		time.Sleep(5 * time.Minute)
		next := h.job("next")
		next.Again = true
		w.must(next.Canary(w.Context(), wanted("3")))
		w.must(h.job("back").Rollback(w.Context(), "test"))
		if has() {
			t.Error("it is there after the Job has ended")
		}
	})
}

// TestTriedAfterALongHook: a release whose canary had pods was tried, however long ago its job has written their Deployment.
func TestTriedAfterALongHook(t *testing.T) {
	at(t, "rest", func(w *world) {
		h := withHooks(w, []hook.Hook{{Name: "smoke", Point: release.BeforeStep, Job: "work"}})
		w.controllers.work["smoke"] = jobWork{takes: time.Minute}
		j := h.job("job")
		j.before = func(r *http.Request) error {
			if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/virtualservices/") && r.URL.Query().Get("dryRun") == "" {
				return apierrors.NewBadRequest("a test does not allow it")
			}
			return nil
		}
		if _, err := j.Canary(w.Context(), wanted("2")); err == nil || w.read().Release.Untried {
			t.Errorf("%v; untried: %t", err, w.read().Release.Untried)
		}
	})
}
