package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/rollout"
)

// TestLockOfADeadJob: the lock of a job that is dead for a minute by the API server's clock is free at once, whatever
// the clocks of the two jobs say. One that was killed just now is waited for until it would have renewed.
func TestLockOfADeadJob(t *testing.T) {
	for name, c := range map[string]struct {
		dead    time.Duration // by the server's clock
		renewed time.Duration // what the dead job's own clock said, from the server's
		server  time.Duration // the server's clock, from this job's
		waits   time.Duration // at most
	}{
		"just now":                           {0, 0, 0, 23 * time.Second},
		"half a minute":                      {30 * time.Second, 0, 0, 23 * time.Second},
		"a minute":                           {61 * time.Second, 0, 0, 2 * time.Second},
		"a minute, its clock was ahead":      {61 * time.Second, time.Hour, 0, 2 * time.Second},
		"a minute, this clock is behind":     {61 * time.Second, 0, time.Hour, 2 * time.Second},
		"a minute, this clock is ahead":      {61 * time.Second, 0, -time.Hour, 2 * time.Second},
		"just now, its clock was behind":     {0, -time.Hour, 0, 23 * time.Second},
		"just now, this clock is far ahead":  {0, 0, -time.Hour, 23 * time.Second},
		"just now, this clock is far behind": {0, 0, time.Hour, 23 * time.Second},
		"yesterday":                          {24 * time.Hour, 0, 0, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, "rest", func(w *world) {
				w.server.skew = c.server
				dead := w.job("dead")
				dead.killOn = "note r2 started"
				_, _ = dead.Canary(dead.ctx, wanted("2"))
				leases := w.kube.CoordinationV1().Leases(namespace)
				lease, err := leases.Get(w.Context(), "crossbill-qwik-node-app", metav1.GetOptions{})
				if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
					t.Fatalf("no dead job holds the lock: %+v, %v", lease, err)
				}
				renewed := metav1.NewMicroTime(time.Now().Add(c.server + c.renewed))
				lease.Spec.RenewTime = &renewed
				w.must(leases.Update(w.Context(), lease, metav1.UpdateOptions{}))
				time.Sleep(c.dead)
				j := w.job("next")
				if _, err := j.Status(w.Context()); err != nil { // it has heard of the server's clock
					t.Fatal(err)
				}
				start := time.Now()
				j.before = func(r *http.Request) error {
					if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/configmaps") && j.took == 0 {
						j.took = time.Since(start)
					}
					return nil
				}
				w.must(j.Canary(w.Context(), wanted("2")))
				if j.took > c.waits || c.waits > 20*time.Second && j.took < 20*time.Second {
					t.Errorf("it waited for %s, want %s", j.took, c.waits)
				}
				status, err := w.job("look").Status(w.Context())
				if err != nil || len(status.Release.Takeovers) != 1 {
					t.Errorf("taken over: %+v, %v", status.Release, err)
				}
			})
		})
	}
}

// away makes the API server unreachable for every job, for a time.
func (w *world) away(jobs []*job, lasts time.Duration) {
	over := time.Now().Add(lasts)
	for _, j := range jobs {
		before := j.before
		j.before = func(r *http.Request) error {
			if time.Now().Before(over) {
				return syscall.ECONNREFUSED
			}
			if before != nil {
				return before(r)
			}
			return nil
		}
	}
}

// TestAMinuteWithoutTheServer: a job that waits for pods goes on when the API server is back, with its lock, also when
// another job waits for that.
func TestAMinuteWithoutTheServer(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.server.mu.Lock()
		w.controllers.stopped = true
		w.server.mu.Unlock()
		j, other := w.job("job"), w.job("other")
		j.Timeout = 90 * time.Second
		other.LockTimeout = 3 * time.Minute
		ended, second := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := j.Canary(w.Context(), wanted("2"))
			ended <- err
		}()
		time.Sleep(20 * time.Second)
		go func() {
			_, err := other.Canary(w.Context(), wanted("3"))
			second <- err
		}()
		time.Sleep(5 * time.Second)
		w.away([]*job{j, other}, time.Minute)
		time.Sleep(70 * time.Second)
		w.server.mu.Lock()
		w.controllers.stopped = false
		w.server.mu.Unlock()
		w.controllers.hurry()
		if err := <-ended; err != nil {
			t.Errorf("the job has lost its work: %v", err)
		}
		if err := <-second; err == nil {
			t.Error("two releases are in flight")
		}
		if status, err := w.job("look").Status(w.Context()); err != nil || status.Release.ID != "r2" || len(status.Release.Takeovers) > 0 {
			t.Errorf("%+v, %v", status.Release, err)
		}
	})
}

// TestReadsAreRetried: a read that fails for half a minute ends no command, one of a server that has never answered
// does at once, and a longer one says what is safe, which is never that the canary is bad.
func TestReadsAreRetried(t *testing.T) {
	at(t, "canary", func(w *world) {
		j := w.job("job")
		w.must(j.Status(w.Context()))
		w.away([]*job{j}, 25*time.Second)
		if _, err := j.Status(w.Context()); err != nil {
			t.Errorf("after 25s: %v", err)
		}
		w.away([]*job{j}, 45*time.Second)
		start := time.Now()
		_, err := j.Rollback(w.Context(), "x")
		if took := time.Since(start); err == nil || took < 25*time.Second || took > 35*time.Second || !strings.Contains(err.Error(), "nothing was changed") || errors.As(err, new(*rollout.NotReadyError)) {
			t.Errorf("after %s: %v", took, err)
		}
		never := w.job("never")
		w.away([]*job{never}, time.Hour)
		start = time.Now()
		if _, err := never.Status(w.Context()); err == nil || time.Since(start) > time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// TestStoppedJobReleasesItsLock: a job that is stopped has no lock a second later, wherever it was, and what it says
// of it is true.
func TestStoppedJobReleasesItsLock(t *testing.T) {
	for name, c := range map[string]struct {
		stage string
		do    func(w *world, j *job)
		run   string
		says  string
	}{
		"while it waits for pods":       {"rest", func(w *world, _ *job) { w.controllers.stopped = true }, "canary", "interrupted: the same command continues from here, rollback ends the release"},
		"while it drains":               {"canary", func(_ *world, j *job) { j.Drained = restless }, "rollback", "interrupted: rollback continues from here"},
		"while pods end":                {"canary", func(w *world, _ *job) { w.controllers.stuck["qwik-node-app-canary"] = true }, "rollback", "rollback continues from here"},
		"while it drains a good canary": {"promoted", func(_ *world, j *job) { j.Drained = restless }, "cleanup", "interrupted: "},
		"while a write fails": {"canary", func(_ *world, j *job) {
			j.before = func(r *http.Request) error {
				if r.Method == http.MethodPatch {
					return syscall.ECONNREFUSED
				}
				return nil
			}
		}, "rollback", "interrupted: rollback continues from here"},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, c.stage, func(w *world) {
				j := w.job("job")
				w.server.mu.Lock()
				c.do(w, j)
				w.server.mu.Unlock()
				ctx, stop := context.WithCancel(w.Context())
				time.AfterFunc(18*time.Second, stop)
				start := time.Now()
				_, err := commands[c.run](ctx, j)
				if took := time.Since(start); err == nil || took > 19*time.Second || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("after %s: %v", took, err)
				}
				if strings.Contains(err.Error(), "nothing was changed") || strings.Contains(err.Error(), "still gets requests") {
					t.Errorf("it does not know that: %v", err)
				}
				if status, err := w.job("look").Status(w.Context()); err != nil || status.Lock != "" {
					t.Errorf("the lock is %q, %v", status.Lock, err)
				}
			})
		})
	}
	at(t, "rest", func(w *world) { // while it waits for the lock
		_, goOn := w.hold("canary", 3)
		j := w.job("job")
		ctx, stop := context.WithCancel(w.Context())
		time.AfterFunc(10*time.Second, stop)
		if _, err := j.Canary(ctx, wanted("2")); err == nil || !strings.Contains(err.Error(), "stopped while it waited for the lock") || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%v", err)
		}
		if err := goOn(); err != nil {
			t.Error(err)
		}
	})
}

// TestALockThatCannotBeReleased: a job that is stopped while the API server is away says who still holds the lock, until
// when, and how to go on at once.
func TestALockThatCannotBeReleased(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.server.mu.Lock()
		w.controllers.stopped = true
		w.server.mu.Unlock()
		j := w.job("job")
		ctx, stop := context.WithCancel(w.Context())
		j.before = func(*http.Request) error {
			if ctx.Err() != nil {
				return syscall.ECONNREFUSED
			}
			return nil
		}
		time.AfterFunc(18*time.Second, stop)
		if _, err := j.Canary(ctx, wanted("2")); err == nil || !strings.Contains(err.Error(), "interrupted: the same command continues from here, rollback ends the release") {
			t.Error(err)
		}
		until := time.Now().Add(time.Minute).UTC().Format(time.TimeOnly)
		said := strings.Join(j.logged, "\n")
		for _, want := range []string{"lock: could not be released (", "still held by " + j.name + "_", "free at " + until + " UTC at the latest", "--takeover"} {
			if !strings.Contains(said, want) {
				t.Errorf("it does not say %q:\n%s", want, said)
			}
		}
		w.server.mu.Lock()
		w.controllers.stopped = false
		w.server.mu.Unlock()
		w.must(w.job("next").Rollback(w.Context(), "stopped"))
	})
}
