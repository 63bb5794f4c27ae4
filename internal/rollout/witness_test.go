package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// onPods lets the kubelets write what a test says of a track's pods, and nothing else from then on.
func (w *world) onPods(track release.Track, write func(*corev1.Pod)) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	w.controllers.stopped = true
	for _, pod := range get[corev1.Pod](w.server, "pods") {
		if pod.Labels["version"] == string(track) {
			write(pod)
			set(w.controllers, "pods", pod)
		}
	}
}

// restarted says of a pod that its app ended once, and was started again.
func restarted(code int32, reason string, at metav1.Time) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].RestartCount = 1
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, FinishedAt: at}
	}
}

// witness is a job's witness of the release as it is now.
func (w *world) witness(ctx context.Context, j *job) *rollout.Witness {
	w.Helper()
	status, err := w.job("look").Status(ctx)
	if err != nil {
		w.Fatal(err)
	}
	witness, err := j.Witness(ctx, status.Release)
	if err != nil {
		w.Fatal(err)
	}
	return witness
}

// TestWitness: what happens to the canary's pods is seen without a list, through an API server that is away for a while.
func TestWitness(t *testing.T) {
	at(t, "canary", func(w *world) {
		j := w.job("verify")
		var mu sync.Mutex
		lists, down := []string{}, false
		j.before = func(r *http.Request) error {
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Query().Get("watch") == "" {
				lists = append(lists, r.Method+" "+r.URL.Path)
			}
			if down {
				return syscall.ECONNREFUSED
			}
			return nil
		}
		ctx, stop := context.WithCancel(w.Context())
		defer stop()
		witness := w.witness(ctx, j)
		if seen, err := witness.Look(); err != nil || seen != (rollout.Witnessed{PrimaryWhole: true}) {
			w.Errorf("at rest: %+v, %v", seen, err)
		}
		if len(lists) > 0 {
			w.Errorf("it asked %q", lists)
		}

		mu.Lock()
		down = true
		mu.Unlock()
		w.server.mu.Lock()
		for open := range w.server.watches {
			open.timeout.Reset(0)
		}
		w.server.mu.Unlock()
		time.Sleep(10 * time.Second)
		if _, err := witness.Look(); err == nil || !strings.Contains(err.Error(), "cannot be watched: ") {
			w.Errorf("while the API server is away: %v", err)
		}
		w.onPods(release.Canary, restarted(137, "OOMKilled", metav1.Now()))
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(time.Minute)
		if seen, err := witness.Look(); err != nil || seen.Cause != rollout.CauseOOMKilled || !strings.Contains(seen.Unhealthy, "out of memory") {
			w.Errorf("after it: %+v, %v", seen, err)
		}
	})
}

// TestWitnessOfADeadJob: what happened between the canary's traffic and the first look counts.
func TestWitnessOfADeadJob(t *testing.T) {
	at(t, "canary", func(w *world) {
		w.onPods(release.Canary, restarted(1, "Error", metav1.Now()))
		ctx, stop := context.WithCancel(w.Context())
		defer stop()
		witness := w.witness(ctx, w.job("verify"))
		time.Sleep(5 * time.Second)
		if seen, err := witness.Look(); err != nil || seen.Cause != rollout.CauseRestarts {
			w.Errorf("%+v, %v", seen, err)
		}
	})
}

// TestWitnessSeesTheReleaseMove: whoever goes on with what is judged is seen at once.
func TestWitnessSeesTheReleaseMove(t *testing.T) {
	for name, c := range map[string]struct {
		stage string
		move  func(*world) error
		says  string
	}{
		"a shift":     {"canary", func(w *world) error { _, err := w.job("o").Shift(w.Context(), []int{25}, 0); return err }, "with 10% of the traffic, not with 25%"},
		"a verdict":   {"canary", func(w *world) error { _, err := judge(w.Context(), w.job("o").Cluster, release.Healthy); return err }, ""},
		"a promotion": {"healthy", func(w *world) error { _, err := w.job("o").Promote(w.Context()); return err }, "is at stage promot"},
		"a rollback":  {"canary", func(w *world) error { _, err := w.job("o").Rollback(w.Context(), "x"); return err }, "no release is in flight"},
		"it is lost":  {"canary", func(w *world) error { w.forget(); return nil }, "no release is in flight"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				ctx, stop := context.WithCancel(w.Context())
				defer stop()
				witness := w.witness(ctx, w.job("verify"))
				if seen, err := witness.Look(); err != nil || seen.Moved != nil {
					w.Errorf("before: %+v, %v", seen, err)
				}
				if err := c.move(w); err != nil {
					w.Fatal(err)
				}
				time.Sleep(time.Second)
				seen, err := witness.Look()
				if err != nil || (seen.Moved != nil) != (c.says != "") || seen.Moved != nil && !strings.Contains(seen.Moved.Error(), c.says) {
					w.Errorf("%+v, %v, want %q", seen, err, c.says)
				}
			})
		})
	}
}

// TestAShiftDoesNotHideACrash: a crash at the weight before counts at the next one.
func TestAShiftDoesNotHideACrash(t *testing.T) {
	at(t, "canary", func(w *world) {
		crashed := metav1.Now()
		w.must(w.job("shift").Shift(w.Context(), []int{25}, 0))
		w.onPods(release.Canary, restarted(1, "Error", crashed))
		ctx, stop := context.WithCancel(w.Context())
		defer stop()
		witness := w.witness(ctx, w.job("verify"))
		time.Sleep(5 * time.Second)
		if seen, err := witness.Look(); err != nil || seen.Cause != rollout.CauseRestarts {
			w.Errorf("%+v, %v", seen, err)
		}
	})
}

// TestWitnessMayNotWatch: an account without the permission gets an error that says so, before anything is judged.
func TestWitnessMayNotWatch(t *testing.T) {
	for _, what := range []string{"pods", "endpointslices", "configmaps"} {
		at(t, "canary", func(w *world) {
			j := w.job("verify")
			j.before = func(r *http.Request) error {
				if strings.HasSuffix(r.URL.Path, "/"+what) {
					return forbidden(what)
				}
				return nil
			}
			ctx, stop := context.WithCancel(w.Context())
			defer stop()
			_, err := j.Witness(ctx, &release.Release{ID: "r2"})
			if input := new(usererr.Error); !errors.As(err, &input) || !strings.Contains(input.Fix, "rbac.yaml") {
				w.Errorf("%s: %v", what, err)
			}
		})
	}
}
