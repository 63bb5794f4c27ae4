package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// restless is a canary that never comes to rest.
func restless(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// said says whether a job has logged a line that contains all of these.
func (j *job) said(parts ...string) bool {
	return slices.ContainsFunc(j.logged, func(line string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
	})
}

// TestRollbackDrainIsBounded: whoever still calls a canary that is rolled back is named, and keeps it for 30 s at most.
func TestRollbackDrainIsBounded(t *testing.T) {
	for _, stage := range []string{"canary", "promoting", "promoted"} {
		at(t, stage, func(w *world) {
			w.observer.started = false // somebody else's route leads to the canary
			w.patchRoute(`[{"op":"add","path":"/spec/http/0","value":{"name":"qa","match":[{"headers":{"x-qa":{"exact":"1"}}}],"route":[{"destination":{"host":"qwik-node-app-service","subset":"canary"}}]}},
				{"op":"add","path":"/spec/http/1","value":{"match":[{"uri":{"prefix":"/old"}}],"route":[{"destination":{"host":"qwik-node-app-service"}}]}}]`)
			j := w.job("job")
			j.Drained = restless
			j.Callers = func(context.Context, string) ([]string, error) { return []string{"checkout (shop)"}, nil }
			start := time.Now()
			if _, err := j.Rollback(w.Context(), "bad"); err != nil {
				t.Fatalf("at %s: %v", stage, err)
			}
			if took := time.Since(start); took > 50*time.Second {
				t.Errorf("at %s: it took %s", stage, took)
			}
			if !j.said("still gets requests after 30s, from checkout (shop)", `http route "qa"`, "http route 1", "names no subset", "callers in the mesh", "goes all the same") {
				t.Errorf("at %s: nobody says who calls it: %q", stage, j.logged)
			}
			if unrest := w.unrest("1"); unrest != "" {
				t.Error(unrest)
			}
		})
	}
}

// TestRollbackWithoutPrometheus: a Prometheus that is away does not hold a rollback up; the route gets its time.
func TestRollbackWithoutPrometheus(t *testing.T) {
	at(t, "canary", func(w *world) {
		j := w.job("job")
		j.Drained = func(context.Context, string) error { return errors.New("Prometheus is away") }
		start := time.Now()
		if _, err := j.Rollback(w.Context(), "bad"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < rollout.DefaultSettleDelay || !j.said("Prometheus is away") {
			t.Errorf("it took %s: %q", took, j.logged)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestCleanupNamesCallers: cleanup waits longer, because nothing is wrong with the canary, but says for whom.
func TestCleanupNamesCallers(t *testing.T) {
	at(t, "promoted", func(w *world) {
		j := w.job("job")
		j.Drained, j.Timeout = restless, 2*time.Minute
		j.Callers = func(context.Context, string) ([]string, error) { return []string{"checkout (shop)"}, nil }
		start := time.Now()
		_, err := j.Cleanup(w.Context())
		if took := time.Since(start); err == nil || took < 2*time.Minute || !strings.Contains(err.Error(), "from checkout (shop)") || len(w.did(j)) > 0 {
			t.Errorf("after %s: %v, did %q", took, err, w.did(j))
		}
		if !j.said("still gets requests after 30s, from checkout (shop)") {
			t.Errorf("%q", j.logged)
		}
	})
}

// TestEmergencyRouteFirst: nothing about subsets stands before the route to a primary that serves, unless the route
// needs them.
func TestEmergencyRouteFirst(t *testing.T) {
	rules := func(method string) func(*http.Request) error {
		return func(r *http.Request) error {
			if strings.Contains(r.URL.Path, "/destinationrules") && (method == "" || r.Method == method) {
				return forbidden(r.URL.Path)
			}
			return nil
		}
	}
	removed := func(w *world, track release.Track) {
		w.observer.started = false // the test breaks the route, the rollback fixes it
		at := map[release.Track]string{release.Primary: "0", release.Canary: "1"}[track]
		w.patchRule(`[{"op":"remove","path":"/spec/subsets/` + at + `"}]`)
	}
	for name, c := range map[string]struct {
		do     func(w *world, j *job)
		did    string
		failed bool
	}{
		"the rule cannot be read": {func(_ *world, j *job) { j.before = rules("") }, "update vs 100/0, delete canary", true},
		"the canary's subset is missing and cannot be added": {func(w *world, j *job) {
			removed(w, release.Canary)
			j.before = rules(http.MethodPatch)
		}, "update vs 100/0, delete canary", false},
		"the canary's subset is missing": {func(w *world, _ *job) { removed(w, release.Canary) }, "update vs 100/0, update dr, delete canary", false},
		"primary's subset is missing":    {func(w *world, _ *job) { removed(w, release.Primary) }, "update dr, update vs 100/0, delete canary", false},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, "canary", func(w *world) {
				j := w.job("job")
				c.do(w, j)
				_, err := j.Rollback(w.Context(), "bad")
				if (err != nil) != c.failed { // what cannot be handed back is said
					t.Errorf("%v", err)
				}
				did := slices.DeleteFunc(w.did(j), func(d string) bool { return strings.HasPrefix(d, "note") })
				if got := strings.Join(did, ", "); got != c.did {
					t.Errorf("it did %q, want %q", got, c.did)
				}
			})
		})
	}
}

// ledger is the ledger's ConfigMap.
func (w *world) ledger() *corev1.ConfigMap {
	w.Helper()
	state, err := w.kube.CoreV1().ConfigMaps(namespace).Get(w.Context(), "crossbill-"+w.set.App, metav1.GetOptions{})
	w.must(state, err)
	return state
}

// TestRestoredLedger: a ledger that somebody has restored is older than what it describes. The next command says so,
// draws an epoch above all that is there, and goes on.
func TestRestoredLedger(t *testing.T) {
	for _, command := range []string{"rollback", "canary of 3", "promote", "cleanup", "guard"} {
		t.Run(command, func(t *testing.T) {
			at(t, map[string]string{"promote": "healthy", "cleanup": "promoted"}[command]+map[bool]string{true: "canary"}[command == "rollback" || command == "guard"]+map[bool]string{true: "rest"}[command == "canary of 3"], func(w *world) {
				w.observer.started = false // a ledger that goes back is what this is about
				w.server.mu.Lock()
				for p, live := range w.server.objects {
					if slices.Contains(fencedKinds, p.resource) && live.object.GetAnnotations()[epochAnnotation] != "" {
						object := live.object.DeepCopy()
						annotations := object.GetAnnotations()
						annotations[epochAnnotation] = "17"
						object.SetAnnotations(annotations)
						w.server.put(kindOf(p.resource), live, object)
					}
				}
				w.server.mu.Unlock()
				j := w.job("job")
				if _, err := commands[command](w.Context(), j); err != nil {
					t.Fatal(err)
				}
				if !j.said("it is older", "lock 17", "restored") {
					t.Errorf("it does not say so: %q", j.logged)
				}
				objects, ledger := w.epochs()
				for name, epoch := range objects {
					if epoch != "18" || ledger != 18 {
						t.Errorf("%s carries %s, the ledger %d", name, epoch, ledger)
					}
				}
			})
		})
	}
}

// TestLedgerNearItsLimit: a ledger that has grown to the size that a ConfigMap may have stops no command, and is smaller
// after the next one.
func TestLedgerNearItsLimit(t *testing.T) {
	at(t, "canary", func(w *world) {
		state := w.ledger()
		ledger, err := release.ParseLedger(w.set.App, state.Data[ledgerKey])
		w.must(state, err)
		for range 8 {
			verdict := &release.Verdict{Outcome: release.Healthy, Evidence: strings.Repeat("e", 128_000)}
			ledger.History = append(ledger.History, release.Finished{Release: release.Release{ID: "old", Verdict: verdict}, Outcome: release.OutcomePromoted})
		}
		state.Data[ledgerKey] = ledger.String()
		w.must(w.kube.CoreV1().ConfigMaps(namespace).Update(w.Context(), state, metav1.UpdateOptions{}))
		if size := len(state.Data[ledgerKey]); size < 1000<<10 {
			t.Fatalf("only %d bytes", size)
		}
		j := w.job("job")
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		if size := len(w.ledger().Data[ledgerKey]); size > 512<<10 {
			t.Errorf("%d bytes", size)
		}
		status, err := j.Status(w.Context())
		if err != nil || status.Release == nil || status.Release.Verdict == nil || len(status.History) != len(ledger.History) {
			t.Errorf("%+v, %v", status, err)
		}
	})
}

// dead makes the node that pods were put on one that does not answer, with a canary on it.
func (w *world) dead(node string) {
	w.Helper()
	w.server.mu.Lock()
	w.controllers.stuck["qwik-node-app-canary"] = true
	for p, live := range w.server.objects {
		if p.resource == "pods" && strings.Contains(p.name, "canary") {
			pod := copied(decode[corev1.Pod](live))
			pod.Spec.NodeName = node
			set(w.controllers, "pods", pod)
		}
	}
	w.server.mu.Unlock()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	set(w.controllers, "nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}},
	}})
}

// TestDeadNode: pods on a node that does not answer never end. They are named, nobody waits for them longer than their
// grace period, and the next release starts.
func TestDeadNode(t *testing.T) {
	for _, c := range []struct{ stage, command, end string }{{"canary", "rollback", "1"}, {"promoted", "cleanup", "2"}} {
		for _, allowed := range []bool{true, false} {
			at(t, c.stage, func(w *world) {
				w.dead("node-7")
				j := w.job("job")
				if !allowed {
					j.before = func(r *http.Request) error { return only(r, "/nodes/", forbidden("nodes")) }
				}
				start := time.Now()
				if _, err := commands[c.command](w.Context(), j); err != nil {
					t.Fatalf("%s: %v", c.command, err)
				}
				if took := time.Since(start); took < 30*time.Second || took > 2*time.Minute {
					t.Errorf("%s took %s", c.command, took)
				}
				if !j.said("is not waited for: its last pod cannot end: qwik-node-app-canary-", "node-7") {
					t.Errorf("%s: %q", c.command, j.logged)
				}
				if unrest := w.unrest(c.end); unrest != "" {
					t.Errorf("%s: %s", c.command, unrest)
				}
				w.server.mu.Lock()
				delete(w.controllers.stuck, "qwik-node-app-canary")
				w.server.mu.Unlock()
				if _, err := w.job("next").Canary(w.Context(), wanted("3")); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestDeadNodeCrashes: the write that takes a canary away from its dead pods can fail in every way, as all others.
func TestDeadNodeCrashes(t *testing.T) {
	for _, f := range []fault{never, silent, outdated, dies, refused} {
		for n := 1; !t.Failed(); n++ {
			more := false
			at(t, "canary", func(w *world) {
				w.dead("node-7")
				first := w.job("first")
				first.at, first.fault = n, f
				_, err := first.Rollback(first.ctx, "bad")
				more = first.hit != ""
				if passes := f == never || f == silent || f == outdated; err != nil && (passes || !more) {
					t.Errorf("write %d (%s) %s: %v", n, first.hit, f, err)
				}
				time.Sleep(90 * time.Second)
				if _, err := w.job("next").Rollback(w.Context(), "bad"); err != nil {
					t.Errorf("write %d (%s) %s: %v", n, first.hit, f, err)
				}
				if unrest := w.unrest("1"); unrest != "" {
					t.Errorf("write %d (%s) %s: %s", n, first.hit, f, unrest)
				}
			})
			if !more {
				break
			}
		}
	}
}
