package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// crashing is a pod that never gets ready.
func crashing(state corev1.ContainerState, conditions ...corev1.PodCondition) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodRunning, Conditions: conditions, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", RestartCount: 3, State: state}}}
}

// TestNotReady: a canary that does not get ready gets no traffic; the error says why, and a rollback removes it.
func TestNotReady(t *testing.T) {
	digest := release.DigestOf(image("2"))
	for name, c := range map[string]struct {
		do   func(w *world, j *job)
		says []string
	}{
		"it made no progress": {func(w *world, _ *job) {
			w.controllers.broken[digest] = crashing(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating", Message: "a volume"}})
		}, []string{"progressDeadlineSeconds", "container app: ContainerCreating a volume"}},
		"it ended": {func(w *world, _ *job) {
			w.controllers.broken[digest] = crashing(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137}})
		}, []string{"exit code 137, 3 restarts"}},
		"it runs": {func(w *world, _ *job) {
			w.controllers.broken[digest] = crashing(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
		}, []string{"running, not ready, 3 restarts"}},
		"no node has room": {func(w *world, _ *job) {
			w.controllers.broken[digest] = corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes"}}}
		}, []string{"not scheduled: 0/3 nodes"}},
		"the time is over": {func(w *world, j *job) {
			w.controllers.broken[digest] = crashing(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
			j.Timeout = 30 * time.Second
		}, []string{"0 available"}},
		"the controller sleeps": {func(w *world, _ *job) { w.controllers.stopped = true }, []string{"waiting for"}},
		"no endpoints":          {func(w *world, _ *job) { w.controllers.silent = true }, []string{"not ready endpoints of Service qwik-node-app-service"}},
		"another image": {func(w *world, _ *job) { w.controllers.pulled[image("2")] = image("9") }, []string{
			"do not run " + digest, "runs sha256:9999", "another image in its place",
		}},
		"another part": {func(w *world, j *job) {
			w.controllers.pulled[image("2")] = image("9")
			j.Parts = func(context.Context, string) ([]string, error) { return []string{release.DigestOf(image("8"))}, nil }
		}, []string{"do not run " + digest}},
		"another configuration": {func(w *world, j *job) {
			w.controllers.pulled[image("2")] = image("9")
			j.Configs = func(_ context.Context, _, reported string) ([]string, error) { return []string{reported}, nil }
		}, []string{"do not run " + digest, "runs sha256:9999", "another image in its place"}},
		"an image that the registry does not know": {func(w *world, j *job) {
			w.controllers.pulled[image("2")] = image("9")
			j.Configs = func(_ context.Context, of, reported string) ([]string, error) {
				if reported == of {
					return []string{"sha256:c"}, nil
				}
				return nil, &transport.Error{StatusCode: http.StatusNotFound, Errors: []transport.Diagnostic{{Code: transport.ManifestUnknownErrorCode, Message: "no such manifest"}}}
			}
		}, []string{"do not run " + digest, "runs sha256:9999", "the registry does not say that it is the same image: MANIFEST_UNKNOWN: no such manifest"}},
		"its pods are not to be seen": {func(w *world, j *job) {
			w.controllers.broken[digest] = crashing(corev1.ContainerState{})
			j.before = func(r *http.Request) error { return only(r, "/pods", forbidden("pods")) }
		}, []string{"pods cannot be read"}},
		"its events are not to be seen": {func(w *world, j *job) {
			w.controllers.broken[digest] = crashing(corev1.ContainerState{})
			j.before = func(r *http.Request) error { return only(r, "/events", forbidden("events")) }
		}, []string{"events cannot be read"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, "rest", func(w *world) {
				j := w.job("job")
				w.server.mu.Lock()
				c.do(w, j)
				w.server.mu.Unlock()
				_, err := j.Canary(w.Context(), wanted("2"))
				var notReady *rollout.NotReadyError
				if !errors.As(err, &notReady) || notReady.ReleaseID != "r2" || notReady.Deployment != "qwik-node-app-canary" {
					t.Fatalf("%v", err)
				}
				for _, says := range c.says {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("%q does not say %q", err, says)
					}
				}
				if got, want := strings.Join(w.did(j), ", "), "note r2 started, create canary image 2 x1"; got != want {
					t.Errorf("it did %q, want %q", got, want)
				}
				w.server.mu.Lock()
				w.controllers.stopped, w.controllers.silent = false, false
				w.server.mu.Unlock()
				w.controllers.hurry()
				w.wait()
				if _, err := w.job("back").Rollback(w.Context(), "not ready"); err != nil {
					t.Error(err)
				}
				if unrest := w.unrest("1"); unrest != "" {
					t.Error(unrest)
				}
			})
		})
	}
}

// TestGivenUpEarly: a canary that cannot come up is given up as soon as that is clear, with the reason, in at most 20
// seconds; one that may still come up is waited for.
func TestGivenUpEarly(t *testing.T) {
	digest := release.DigestOf(image("2"))
	const quota = `pods "x" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=4, limited: pods=4`
	for name, c := range map[string]struct {
		ailment ailment
		refuse  string
		freed   time.Duration // when it is no longer refused
		says    []string      // nil: it comes up
	}{
		"a crash loop":                 {crashLoop(1, 0, 0), "", 0, []string{"cannot come up: container app of pod", "does not stay up; terminated with exit code 1, 2 restarts"}},
		"a crash loop of some seconds": {crashLoop(137, 2*time.Second, 0), "", 0, []string{"exit code 137"}},
		"a proxy that is late":         {crashLoop(1, 0, 3), "", 0, nil},
		"an init container":            {initCrashLoop(3), "", 0, []string{"container migrate of pod", "exit code 3"}},
		"an image that does not exist": {noImage("manifest unknown", 0), "", 0, []string{"cannot get its image: ", "manifest unknown"}},
		"a registry that was away":     {noImage("i/o timeout", 6*time.Second), "", 0, nil},
		"a Secret that is missing":     {stays("CreateContainerConfigError", `secret "s" not found`, 0), "", 0, []string{`secret "s" not found`}},
		"a Secret that comes later":    {stays("CreateContainerConfigError", `secret "s" not found`, 5*time.Second), "", 0, nil},
		"a name that no image has":     {stays("InvalidImageName", "couldn't parse image", 0), "", 0, []string{"InvalidImageName"}},
		"a quota":                      {nil, quota, 0, []string{"its pods are refused: pods \"x\" is forbidden: exceeded quota", "event on qwik-node-app-canary-", "FailedCreate: " + quota}},
		"a quota that gets free":       {nil, quota, 4 * time.Second, nil},
		"a webhook that was away":      {nil, "failed calling webhook \"w\": connection refused", time.Minute, nil},
		"a node that is added":         {nowhere(3 * time.Minute), "", 0, nil},
		"an app that takes its time":   {stays("ContainerCreating", "", 2*time.Minute-10*time.Second), "", 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, "rest", func(w *world) {
				w.server.mu.Lock()
				w.controllers.ailing[digest], w.controllers.refuse[digest] = c.ailment, c.refuse
				w.server.mu.Unlock()
				if c.freed > 0 {
					time.AfterFunc(c.freed, func() {
						w.server.mu.Lock()
						delete(w.controllers.refuse, digest)
						w.server.mu.Unlock()
						w.controllers.hurry()
					})
				}
				j := w.job("job")
				j.Manifests = changedManifests(t, "progressDeadlineSeconds: 120", "progressDeadlineSeconds: 600")
				start := time.Now()
				_, err := j.Canary(w.Context(), wanted("2"))
				if c.says == nil {
					if err != nil {
						t.Errorf("%v", err)
					}
					return
				}
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("given up after %s", took)
				}
				if _, ok := errors.AsType[*rollout.NotReadyError](err); !ok {
					t.Fatalf("%v", err)
				}
				for _, says := range c.says {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("%q does not say %q", err, says)
					}
				}
				if _, err := w.job("back").Rollback(w.Context(), "not ready"); err != nil {
					t.Error(err)
				}
				if unrest := w.unrest("1"); unrest != "" {
					t.Error(unrest)
				}
			})
		})
	}
}

// TestLastEvents: the error has the last five warnings of the track's own pods, in their order.
func TestLastEvents(t *testing.T) {
	at(t, "canary", func(w *world) {
		pods, err := w.kube.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{LabelSelector: "version=canary"})
		w.must(pods, err)
		for i := range 7 {
			e := &corev1.Event{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("e%d", i)}, Type: "Warning", Reason: "BackOff", Message: fmt.Sprintf("number %d", 7-i),
				InvolvedObject: corev1.ObjectReference{Name: pods.Items[0].Name}, LastTimestamp: metav1.NewTime(time.Now().Add(-time.Duration(i) * time.Second)),
			}
			if i == 0 {
				e.EventTime, e.LastTimestamp = metav1.NewMicroTime(time.Now()), metav1.Time{}
			}
			w.must(w.kube.CoreV1().Events(namespace).Create(w.Context(), e, metav1.CreateOptions{}))
		}
		w.must(w.kube.CoreV1().Events(namespace).Create(w.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "normal"}, Type: "Normal", Message: "normal", InvolvedObject: corev1.ObjectReference{Name: pods.Items[0].Name}}, metav1.CreateOptions{}))
		w.must(w.kube.CoreV1().Events(namespace).Create(w.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "others"}, Type: "Warning", Message: "others", InvolvedObject: corev1.ObjectReference{Name: "x"}}, metav1.CreateOptions{}))
		w.server.mu.Lock()
		w.controllers.silent = true
		w.server.mu.Unlock()
		w.observer.started = false
		w.patchDeployment(release.Canary, `[{"op":"replace","path":"/spec/replicas","value":2}]`)
		j := w.job("job")
		j.Timeout = time.Minute
		_, err = j.Shift(w.Context(), []int{20}, 0)
		var notReady *rollout.NotReadyError
		if !errors.As(err, &notReady) {
			t.Fatalf("%v", err)
		}
		var want []string
		for i := range 5 {
			want = append(want, fmt.Sprintf("event on %s: BackOff: number %d", pods.Items[0].Name, i+3))
		}
		if diff := cmp.Diff(want, notReady.Details); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// TestIndex: pods may run a part of the image that is released, and a registry that cannot say so is no obstacle.
func TestIndex(t *testing.T) {
	for name, parts := range map[string]func(context.Context, string) ([]string, error){
		"a part of it": func(_ context.Context, of string) ([]string, error) {
			if of != image("2") {
				return nil, errors.New("not the release's")
			}
			return []string{release.DigestOf(image("8")), release.DigestOf(image("9"))}, nil
		},
		"an answer that fails": func(context.Context, string) ([]string, error) { return nil, errors.New("no registry") },
	} {
		at(t, "rest", func(w *world) {
			w.controllers.pulled[image("2")] = image("9")
			j := w.job("job")
			j.Parts = parts
			if _, err := j.Canary(w.Context(), wanted("2")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if said := slices.ContainsFunc(j.logged, func(l string) bool { return strings.Contains(l, "no registry") }); said != (name == "an answer that fails") {
				t.Errorf("%s: %q", name, j.logged)
			}
		})
	}
}

// TestAnotherDigest: a node names an image by the first digest that it knows it by: one pulled before, of another index. The
// registry is asked only then, and a job that is interrupted meanwhile finds nothing wrong with the canary.
func TestAnotherDigest(t *testing.T) {
	for name, c := range map[string]struct {
		pulled, asked, says string
		interrupted         bool
	}{
		"the same digest": {pulled: image("2")},
		"another digest":  {pulled: image("9"), asked: image("2") + ", " + image("9"), says: "another digest, " + release.DigestOf(image("9")) + ": it is the same image"},
		"an interruption": {pulled: image("9"), asked: image("2"), interrupted: true},
	} {
		at(t, "rest", func(w *world) {
			w.controllers.pulled[image("2")] = c.pulled
			j := w.job("job")
			ctx, cancel := context.WithCancel(w.Context())
			defer cancel()
			var asked []string
			j.Configs = func(_ context.Context, of, reported string) ([]string, error) {
				if of != image("2") {
					t.Errorf("%s: asked for %s", name, of)
				}
				asked = append(asked, reported)
				if c.interrupted {
					cancel()
					return nil, ctx.Err()
				}
				return []string{"sha256:c"}, nil
			}
			_, err := j.Canary(ctx, wanted("2"))
			if c.interrupted != errors.Is(err, context.Canceled) || !c.interrupted && err != nil || errors.As(err, new(*rollout.NotReadyError)) {
				t.Errorf("%s: %v", name, err)
			}
			if got := strings.Join(asked, ", "); got != c.asked {
				t.Errorf("%s: asked for %s, want %s", name, got, c.asked)
			}
			if c.says != "" && !slices.ContainsFunc(j.logged, func(l string) bool { return strings.Contains(l, c.says) }) {
				t.Errorf("%s: %q", name, j.logged)
			}
		})
	}
}

// TestRegistryIsAskedOnce: each of the images once in a job, so that a registry that is away later, or has deleted the one that the
// node reports, ends no release that it has found to run the right image.
func TestRegistryIsAskedOnce(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.controllers.pulled[image("2")] = image("9")
		j := w.job("job")
		var asked []string
		j.Configs = func(_ context.Context, _, reported string) ([]string, error) {
			if slices.Contains(asked, reported) {
				return nil, &transport.Error{StatusCode: http.StatusNotFound}
			}
			asked = append(asked, reported)
			return []string{"sha256:c"}, nil
		}
		_, err := j.Canary(w.Context(), wanted("2"))
		w.must(nil, err)
		_, err = j.Shift(w.Context(), []int{20, 50}, 0)
		w.must(nil, err)
		w.must(judge(w.Context(), w.job("verify").Cluster, release.Healthy))
		_, err = j.Promote(w.Context())
		w.must(nil, err)
		if got, want := strings.Join(asked, ", "), image("2")+", "+image("9"); got != want {
			t.Errorf("asked for %s, want %s", got, want)
		}
	})
}

// TestSlowRollout: a roll-out that advances is neither given up nor rolled back, however long it takes in all, and neither is
// its rollback; one that stands still is.
func TestSlowRollout(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/replicas","value":8}]`)
		time.Sleep(time.Minute)
		j := w.job("job")
		j.Timeout = time.Minute
		j.Manifests = w.own()
		j.Manifests.Deployment.Spec.Replicas = nil
		w.server.mu.Lock()
		w.controllers.slow = 50 * time.Second // within progressDeadlineSeconds
		w.server.mu.Unlock()
		r := wanted("2")
		r.Weight = 50
		start := time.Now()
		if _, err := j.Canary(w.Context(), r); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 2*time.Minute {
			t.Errorf("the canary took only %s", took)
		}
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		start = time.Now()
		w.must(j.Promote(w.Context()))
		if took := time.Since(start); took < 5*time.Minute {
			t.Errorf("promotion took only %s", took)
		}
		start = time.Now()
		w.must(j.Rollback(w.Context(), "test"))
		if took := time.Since(start); took < 5*time.Minute {
			t.Errorf("the rollback took only %s", took)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
		w.server.mu.Lock()
		w.controllers.slow = time.Hour
		w.server.mu.Unlock()
		j.Timeout = 30 * time.Second
		start = time.Now()
		if _, err := j.Canary(w.Context(), wanted("3")); err == nil || !strings.Contains(err.Error(), "no progress for 30s") {
			t.Errorf("%v", err)
		}
		if took := time.Since(start); took > 10*time.Minute {
			t.Errorf("it was given up after %s", took)
		}
	})
}

// TestDeletedMeanwhile: somebody deletes the canary while a job waits for it.
func TestDeletedMeanwhile(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.controllers.broken[release.DigestOf(image("2"))] = crashing(corev1.ContainerState{})
		j := w.job("job")
		ended := make(chan error, 1)
		go func() {
			_, err := j.Canary(w.Context(), wanted("2"))
			ended <- err
		}()
		w.wait()
		w.delete(release.Canary)
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "somebody else deleted it") {
			t.Errorf("%v", err)
		}
		delete(w.controllers.broken, release.DigestOf(image("2")))
		if _, err := w.job("again").Canary(w.Context(), wanted("2")); err != nil {
			t.Error(err)
		}
	})
}

// TestStuckCanary: pods that do not end are waited for as long as a wait may take; the same command goes on then.
func TestStuckCanary(t *testing.T) {
	at(t, "promoted", func(w *world) {
		w.controllers.stuck["qwik-node-app-canary"] = true
		j := w.job("job")
		_, err := j.Cleanup(w.Context())
		if err == nil || !strings.Contains(err.Error(), "still terminating") {
			t.Errorf("%v", err)
		}
		w.server.mu.Lock()
		delete(w.controllers.stuck, "qwik-node-app-canary")
		w.server.mu.Unlock()
		w.controllers.hurry()
		if _, err := w.job("again").Cleanup(w.Context()); err != nil {
			t.Error(err)
		}
		if unrest := w.unrest("2"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestDrained: the canary goes only when it gets no more requests, and nothing of it goes before.
func TestDrained(t *testing.T) {
	at(t, "promoted", func(w *world) {
		j := w.job("job")
		asked := ""
		j.Drained = func(_ context.Context, workload string) error {
			asked = workload
			return errors.New("12 requests in the last second")
		}
		_, err := j.Cleanup(w.Context())
		if err == nil || !strings.Contains(err.Error(), "12 requests") || asked != "qwik-node-app-canary" || len(w.did(j)) > 0 {
			t.Errorf("%v, asked for %q, did %q", err, asked, w.did(j))
		}
		j.Drained = func(context.Context, string) error { return nil }
		if _, err := j.Cleanup(w.Context()); err != nil {
			t.Error(err)
		}
		if unrest := w.unrest("2"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestSettle: without a look at the requests the canary stays for the time that the data plane is given.
func TestSettle(t *testing.T) {
	for _, delay := range []time.Duration{0, 3 * time.Second} {
		at(t, "promoted", func(w *world) {
			j := w.job("job")
			j.SettleDelay = delay
			start := time.Now()
			if _, err := j.Cleanup(w.Context()); err != nil {
				t.Error(err)
			}
			want := delay
			if want == 0 {
				want = rollout.DefaultSettleDelay
			}
			if took := time.Since(start); took < want || took > want+3*time.Second {
				t.Errorf("it took %s, want %s", took, want)
			}
		})
	}
}

// TestShiftPauses: each step but the last is left alone for a while, and one that a stopped job has reached is not
// done again.
func TestShiftPauses(t *testing.T) {
	at(t, "canary", func(w *world) {
		j := w.job("job")
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Minute)
		defer cancel()
		if _, err := j.Shift(ctx, []int{30, 60}, 10*time.Minute); err == nil {
			t.Error("the pause was not waited out")
		}
		next := w.job("next")
		if _, err := next.Shift(w.Context(), []int{30, 60}, time.Second); err != nil {
			t.Error(err)
		}
		if got, want := strings.Join(w.did(next), ", "), "update canary x2, note r2 canary 60%, update vs 40/60"; got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
	})
}

// TestStickyRoutes: browsers are held to their track while the canary has traffic, and its open pages get their assets for a while
// when it is rolled back.
func TestStickyRoutes(t *testing.T) {
	at(t, "sticky", func(w *world) {
		j := w.job("job")
		drained := 0
		j.Drained = func(ctx context.Context, _ string) error {
			if drained++; drained == 1 { // open pages keep asking
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		if _, err := j.Rollback(w.Context(), "test"); err != nil {
			t.Error(err)
		}
		want := []string{"note r2 rolling_back", "update vs 100/0 sticky assets+pages", "update vs 100/0", "delete canary", "note r2 ended: rolled_back"}
		if diff := cmp.Diff(want, w.did(j)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
		vs, err := w.mesh.NetworkingV1().VirtualServices(namespace).Get(w.Context(), w.set.VirtualService.Name, metav1.GetOptions{})
		if err != nil || len(vs.Spec.Http) != 1 || vs.Spec.Http[0].Route[0].Headers != nil || vs.Spec.Http[0].Route[1].Headers != nil {
			t.Errorf("%v, %v", vs.Spec.Http, err)
		}
	})
}

// TestStickyLeavesHeaders: headers that others set on the destinations stay, whatever they are.
func TestStickyLeavesHeaders(t *testing.T) {
	for _, headers := range []string{
		`{"request":{"set":{"a":"b"}}}`,
		`{"response":{"set":{"a":"b"}}}`,
		`{"response":{"add":{"a":"b"}}}`,
		`{"response":{"remove":["a"]}}`,
		`{"request":{"set":{"a":"b"}},"response":{"add":{"a":"b"}}}`,
	} {
		at(t, "rest", func(w *world) {
			w.patchRoute(`[{"op":"add","path":"/spec/http/0/route/0/headers","value":` + headers + `},{"op":"add","path":"/spec/http/0/route/1/headers","value":` + headers + `}]`)
			route := func() string {
				vs, err := w.mesh.NetworkingV1().VirtualServices(namespace).Get(w.Context(), w.set.VirtualService.Name, metav1.GetOptions{})
				w.must(vs, err)
				return fmt.Sprint(vs.Spec.Http)
			}
			before := route()
			j := w.job("job")
			if _, err := j.Canary(w.Context(), sticky("2")); err != nil {
				t.Fatal(err)
			}
			vs, err := w.mesh.NetworkingV1().VirtualServices(namespace).Get(w.Context(), w.set.VirtualService.Name, metav1.GetOptions{})
			w.must(vs, err)
			for i, d := range vs.Spec.Http[2].Route {
				if cookie := d.Headers.GetResponse().GetAdd()["set-cookie"]; !strings.HasPrefix(cookie, "crossbill-qwik-node-app=") || !strings.Contains(cookie, []string{".primary;", ".canary;"}[i]) {
					t.Errorf("%s: cookie %q", headers, cookie)
				}
			}
			if got := splitOf(w.set, vs); got != "90/10 sticky canary+primary" {
				t.Errorf("%s: %s", headers, got)
			}
			if _, err := j.Rollback(w.Context(), "test"); err != nil {
				t.Fatal(err)
			}
			if after := route(); after != before {
				t.Errorf("%s: the route was %s, is %s", headers, before, after)
			}
		})
	}
}

// TestMissingObjects: what somebody has deleted is made again where a release needs it, or not missed.
func TestMissingObjects(t *testing.T) {
	deleteRule := func(w *world) {
		w.must(nil, w.mesh.NetworkingV1().DestinationRules(namespace).Delete(w.Context(), w.set.DestinationRule.Name, metav1.DeleteOptions{}))
	}
	deleteRoute := func(w *world) {
		w.must(nil, w.mesh.NetworkingV1().VirtualServices(namespace).Delete(w.Context(), w.set.VirtualService.Name, metav1.DeleteOptions{}))
	}
	for name, c := range map[string]struct {
		stage, command string
		do             func(w *world)
		changes, says  string
	}{
		"the route, canary":                {"rest", "canary", deleteRoute, "note r2 started, create vs 100/0, create canary image 2 x1, update vs 90/10, note r2 canary 10%", ""},
		"the subsets, canary":              {"rest", "canary", func(w *world) { deleteRoute(w); w.patchRule(`[{"op":"remove","path":"/spec/subsets"}]`) }, "note r2 started, update dr, create vs 100/0, create canary image 2 x1, update vs 90/10, note r2 canary 10%", ""},
		"a subset's labels, canary":        {"rest", "canary", func(w *world) { w.patchRule(`[{"op":"replace","path":"/spec/subsets/1/labels/version","value":"x"}]`) }, "", "its subset canary selects other pods"},
		"a subset's labels, rollback":      {"canary", "rollback", func(w *world) { w.patchRule(`[{"op":"replace","path":"/spec/subsets/1/labels/version","value":"x"}]`) }, "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
		"the rule, rollback":               {"canary", "rollback", deleteRule, "note r2 rolling_back, create dr, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
		"the route, rollback":              {"canary", "rollback", deleteRoute, "note r2 rolling_back, delete canary, note r2 ended: rolled_back", ""},
		"the route, rollback after it":     {"promoted", "rollback", deleteRoute, "note r2 rolling_back, update primary image 1, delete canary, note r2 ended: rolled_back", ""},
		"the route, promote":               {"promoting", "promote", deleteRoute, "", "somebody has deleted it, so nobody gets the traffic"},
		"the canary, rollback":             {"canary", "rollback", func(w *world) { w.delete(release.Canary) }, "note r2 rolling_back, update vs 100/0, note r2 ended: rolled_back", ""},
		"the canary, cleanup":              {"promoted", "cleanup", func(w *world) { w.delete(release.Canary) }, "note r2 ended: promoted", ""},
		"primary, promote":                 {"healthy", "promote", func(w *world) { w.delete(release.Primary) }, "", "the Deployment of primary is gone"},
		"primary, rollback":                {"canary", "rollback", func(w *world) { w.delete(release.Primary) }, "note r2 rolling_back, create primary image 1 x1, update primary x2, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
		"primary, rollback of a promotion": {"promoting", "rollback", func(w *world) { w.delete(release.Primary) }, "note r2 rolling_back, create primary image 1 x1, update primary x2, update vs 100/0, delete canary, note r2 ended: rolled_back", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				w.observer.started = false
				c.do(w)
				j := w.job("job")
				_, err := commands[c.command](w.Context(), j)
				if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %q", err, c.says)
				}
				if diff := cmp.Diff(c.changes, strings.Join(w.did(j), ", ")); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			})
		})
	}
}

// drain is the variable DRAIN_MS of a Deployment.
func drain(d *appsv1.Deployment) *corev1.EnvVar {
	env := d.Spec.Template.Spec.Containers[0].Env
	return &env[slices.IndexFunc(env, func(v corev1.EnvVar) bool { return v.Name == "DRAIN_MS" })]
}

// TestPreviousTemplate: a rollback of a promotion puts primary's template back as it was, not only its image.
func TestPreviousTemplate(t *testing.T) {
	at(t, "rest", func(w *world) {
		env := func() string {
			d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(release.Primary), metav1.GetOptions{})
			w.must(d, err)
			return drain(d).Value
		}
		j := w.job("job")
		j.Manifests = w.own()
		drain(j.Manifests.Deployment).Value = "9000"
		w.must(j.Canary(w.Context(), wanted("2")))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		if got := env(); got != "9000" {
			t.Errorf("promoted with %s", got)
		}
		w.must(j.Rollback(w.Context(), "test"))
		if got := env(); got != "5000" {
			t.Errorf("rolled back to %s, want 5000", got)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestPrimaryNotReady: the traffic stays where it is when primary, which nobody has touched, is not ready.
func TestPrimaryNotReady(t *testing.T) {
	at(t, "canary", func(w *world) {
		w.observer.started = false
		w.controllers.broken[release.DigestOf(image("1"))] = crashing(corev1.ContainerState{})
		w.patchDeployment(release.Primary, `[{"op":"add","path":"/metadata/labels/x","value":"y"}]`) // the controllers look again
		w.wait()
		j := w.job("job")
		_, err := j.Rollback(w.Context(), "test")
		if !errors.As(err, new(*rollout.NotReadyError)) || !strings.Contains(err.Error(), "the traffic stays where it is") {
			t.Errorf("%v", err)
		}
		if got, want := strings.Join(w.did(j), ", "), "note r2 rolling_back"; got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
		w.server.mu.Lock()
		delete(w.controllers.broken, release.DigestOf(image("1")))
		w.server.mu.Unlock()
		w.patchDeployment(release.Primary, `[{"op":"remove","path":"/metadata/labels/x"}]`)
		w.wait()
		w.must(w.job("again").Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestFirstThatFails: a first release that does not come up is removed; another one's primary is not.
func TestFirstThatFails(t *testing.T) {
	for _, theirs := range []bool{false, true} {
		at(t, "new", func(w *world) {
			w.controllers.broken[release.DigestOf(image("1"))] = crashing(corev1.ContainerState{})
			j := w.job("job")
			if _, err := j.Canary(w.Context(), wanted("1")); !errors.As(err, new(*rollout.NotReadyError)) {
				t.Fatalf("%v", err)
			}
			if theirs {
				w.delete(release.Primary)
				d := w.own().Deployment
				d.Spec.Template.Spec.Containers[0].Image = image("1")
				w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), d, metav1.CreateOptions{}))
			}
			result, err := j.Rollback(w.Context(), "test")
			if theirs {
				if err == nil || !strings.Contains(err.Error(), "somebody else") {
					t.Errorf("%v", err)
				}
				return
			}
			status, failed := j.Status(w.Context())
			if err != nil || failed != nil || result.Outcome != release.OutcomeRolledBack || len(status.Tracks) != 0 || status.Release != nil {
				t.Errorf("%+v, %v, %+v, %v", result, err, status, failed)
			}
		})
	}
}

// TestReadyPodsAreNoEndpoints: primary's pods are ready, but not endpoints yet. A rollback leaves the traffic where it is.
func TestReadyPodsAreNoEndpoints(t *testing.T) {
	at(t, "canary", func(w *world) {
		w.observer.started = false
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/replicas","value":0}]`)
		w.wait()
		w.server.mu.Lock()
		w.controllers.silent = true
		w.server.mu.Unlock()
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/replicas","value":2}]`)
		w.wait()
		j := w.job("job")
		j.Timeout = 30 * time.Second
		_, err := j.Rollback(w.Context(), "test")
		if !errors.As(err, new(*rollout.NotReadyError)) {
			t.Errorf("%v", err)
		}
		if got, want := strings.Join(w.did(j), ", "), "note r2 rolling_back"; got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
	})
}
