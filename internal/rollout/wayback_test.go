package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
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
			most := 50 * time.Second
			if stage == "promoted" { // primary is left first, and then the canary
				most = 80 * time.Second
			}
			if took := time.Since(start); took > most {
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

// restored makes the ledger older than what it describes, as somebody does who restores it: the objects carry the epoch
// of a later lock.
func (w *world) restored() {
	w.observer.started = false // a ledger that goes back is what this is about
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	for p, live := range w.server.objects {
		if slices.Contains(fencedKinds, p.resource) && live.object.GetAnnotations()[epochAnnotation] != "" {
			object := live.object.DeepCopy()
			annotations := object.GetAnnotations()
			annotations[epochAnnotation] = "17"
			object.SetAnnotations(annotations)
			w.server.put(kindOf(p.resource), live, object)
		}
	}
}

// TestRestoredLedger: a ledger that somebody has restored is older than what it describes. The next command says so,
// draws an epoch above all that is there, and goes on.
func TestRestoredLedger(t *testing.T) {
	for _, command := range []string{"rollback", "canary of 3", "promote", "cleanup", "guard"} {
		t.Run(command, func(t *testing.T) {
			at(t, map[string]string{"promote": "healthy", "cleanup": "promoted"}[command]+map[bool]string{true: "canary"}[command == "rollback" || command == "guard"]+map[bool]string{true: "rest"}[command == "canary of 3"], func(w *world) {
				w.restored()
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
				if !j.said("is not waited for: its last pod", " cannot end: qwik-node-app-canary-", "node-7") {
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

// TestCrashesOnTheWayBack: the writes that take a canary away from its dead pods, and those that bring a restored ledger
// above what it describes, can fail in every way, as all others.
func TestCrashesOnTheWayBack(t *testing.T) {
	for name, trouble := range map[string]func(*world){"a dead node": func(w *world) { w.dead("node-7") }, "a restored ledger": (*world).restored} {
		for i, f := range []fault{never, silent, outdated, dies, refused} {
			first, stride := 1+(i+len(name))%3, 3 // the faults take turns with the writes
			if f == dies || *everyWrite {
				first, stride = 1, 1
			}
			t.Run(name+", a write "+string(f), func(t *testing.T) {
				t.Parallel()
				for n := first; !t.Failed(); n += stride {
					more := false
					at(t, "canary", func(w *world) { trouble(w); more = w.crashOnTheWayBack(f, n) })
					if !more {
						break
					}
				}
			})
		}
	}
}

// crashOnTheWayBack is one case; false when the rollback makes fewer writes.
func (w *world) crashOnTheWayBack(f fault, n int) bool {
	w.Helper()
	first := w.job("first")
	first.at, first.fault = n, f
	_, err := first.Rollback(first.ctx, "bad")
	if passes := f == never || f == silent || f == outdated; err != nil && (passes || first.hit == "") {
		w.Errorf("write %d (%s): %v", n, first.hit, err)
	}
	time.Sleep(90 * time.Second)
	if _, err := w.job("next").Rollback(w.Context(), "bad"); err != nil {
		w.Errorf("write %d (%s), next: %v", n, first.hit, err)
	}
	if unrest := w.unrest("1"); unrest != "" {
		w.Errorf("write %d (%s): %s", n, first.hit, unrest)
	}
	return first.hit != ""
}

// TestGuardSeesWhatIsBadAtOnce: a canary that was judged unhealthy and not rolled back, a rollback that did not begin or
// finish, and a canary of no release are ended by the next guard, whatever it allows. A job that lives is left alone.
func TestGuardSeesWhatIsBadAtOnce(t *testing.T) {
	for stage, says := range map[string]string{"unhealthy": "it was judged unhealthy and not rolled back: a test", "rolling_back": "test", "canary": "no release in the ledger"} {
		at(t, stage, func(w *world) {
			if stage == "canary" {
				w.forget()
			}
			j := w.job("guard")
			result, err := commands["guard early"](w.Context(), j)
			if err != nil || !strings.Contains(strings.Join(append(j.logged, result.Message), "\n"), says) {
				t.Errorf("at %s: %+v, %v, %q", stage, result, err, j.logged)
			}
			if unrest := w.unrest("1"); unrest != "" {
				t.Errorf("at %s: %s", stage, unrest)
			}
		})
	}
	at(t, "unhealthy", func(w *world) {
		_, goOn := w.hold("rollback", 2)
		result, err := commands["guard early"](w.Context(), w.job("guard"))
		if err != nil || !strings.Contains(result.Message, "works on it") {
			t.Errorf("%+v, %v", result, err)
		}
		if err := goOn(); err != nil {
			t.Error(err)
		}
	})
}

// TestCanaryOfSomebodyElse: a Deployment with the name of the canary that no release has made is nobody's to remove.
func TestCanaryOfSomebodyElse(t *testing.T) {
	for _, command := range []string{"rollback", "guard early"} {
		at(t, "rest", func(w *world) {
			d, err := w.set.Track(release.Canary, namespace, image("3"))
			w.must(d, err)
			w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), d, metav1.CreateOptions{}))
			j := w.job("job")
			w.must(commands[command](w.Context(), j))
			if live := w.deployment(release.Canary); live.DeletionTimestamp != nil || len(j.every) > 0 {
				t.Errorf("%s wrote %q", command, j.every)
			}
		})
	}
}

// TestGuardLimits: what a job must be at work in stands still for less long than what waits for an approver or for its analysis. A
// return waits for nobody.
func TestGuardLimits(t *testing.T) {
	for stage, ends := range map[string]bool{"started": true, "canary": false, "healthy": false, "promoting": true, "promoted": false, "returning": true, "returned": true} {
		at(t, stage, func(w *world) {
			j := w.job("guard")
			_, err := j.Guard(w.Context(), rollout.Limits{Dead: time.Minute, Waiting: 24 * time.Hour})
			if ended := len(w.did(j)) > 0; err != nil || ended != ends {
				t.Errorf("at %s it did %q, %v", stage, w.did(j), err)
			}
		})
	}
}

// byLedger is a job that knows the app by its ledger alone.
func (w *world) byLedger(name string) *job {
	w.Helper()
	j := w.job(name)
	app, err := rollout.FindApp(w.Context(), w.kube, namespace, "")
	if w.committed {
		app, err = w.ledgersInGit(j).Find(w.Context(), namespace, "")
	}
	w.must(app, err)
	j.Manifests = app.Manifests
	return j
}

// TestByTheLedgerAlone: guard and rollback do without the app's manifests at every stage what they do with them.
func TestByTheLedgerAlone(t *testing.T) {
	stages := []string{"started", "canary", "sticky", "unhealthy", "promoting", "promoted", "rolling_back"}
	for _, stage := range []string{"started", "canary", "promoting", "moving", "promoted"} {
		stages = append(stages, gitApp+stage)
	}
	for _, stage := range stages {
		for _, command := range []string{"rollback", "guard"} {
			t.Run(command+" at "+stage, func(t *testing.T) {
				var with []string
				var before, template string
				primary := func(w *world) string {
					d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(release.Primary), metav1.GetOptions{})
					w.must(d, err)
					delete(d.Annotations, epochAnnotation)
					delete(d.Annotations, "deployment.kubernetes.io/revision")
					d.ObjectMeta = metav1.ObjectMeta{Labels: d.Labels, Annotations: d.Annotations}
					d.Status.ObservedGeneration = 0
					text, err := json.Marshal(d)
					w.must(text, err)
					return string(text)
				}
				at(t, stage, func(w *world) {
					j := w.job("job")
					w.must(commands[command](w.Context(), j))
					with, before = w.did(j), primary(w)
				})
				at(t, stage, func(w *world) {
					j := w.byLedger("job")
					w.must(commands[command](w.Context(), j))
					if diff := cmp.Diff(with, w.did(j)); diff != "" {
						t.Errorf("what it did (-with manifests +without):\n%s", diff)
					}
					template = primary(w)
					end := map[bool]string{true: "2", false: "1"}[command == "guard" && strings.HasSuffix(stage, "promoted")]
					if unrest := w.unrest(end); unrest != "" {
						t.Error(unrest)
					}
				})
				if diff := cmp.Diff(before, template); diff != "" {
					t.Errorf("primary (-with manifests +without):\n%s", diff)
				}
			})
		}
	}
}

// TestDeletedPrimaryByTheLedgerAlone: a primary that somebody has deleted comes back as it was, with its size.
func TestDeletedPrimaryByTheLedgerAlone(t *testing.T) {
	at(t, "canary", func(w *world) {
		w.observer.started = false // traffic goes to nobody, which is what somebody has done
		w.delete(release.Primary)
		w.must(w.byLedger("job").Rollback(w.Context(), "bad"))
		d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(release.Primary), metav1.GetOptions{})
		w.must(d, err)
		if *d.Spec.Replicas != 2 || len(d.Spec.Template.Spec.Containers[0].Env) == 0 {
			t.Errorf("%+v", d.Spec)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestManifestsWithOtherNames: manifests that have changed since the release began lead nothing that ends it to other objects.
func TestManifestsWithOtherNames(t *testing.T) {
	in := func(name, stage string, test func(*testing.T, *world)) {
		t.Run(name, func(t *testing.T) { at(t, stage, func(w *world) { test(t, w) }) })
	}
	for _, command := range []string{"rollback", "guard"} {
		in(command, "canary", func(t *testing.T, w *world) {
			j := w.job("job")
			j.Manifests = w.own()
			j.Manifests.VirtualService.Name, j.Manifests.Deployment.Name = "renamed", "renamed-primary"
			w.must(commands[command](w.Context(), j))
			w.wentByLedger(j, "1")
		})
	}
	rename := func(set *manifest.Set) {
		if set.Route != nil {
			set.Route.SetName("renamed")
		} else {
			set.VirtualService.Name = "renamed"
		}
	}
	for _, app := range []string{"", gatewayApp} {
		in(app+"verify", app+"canary", func(t *testing.T, w *world) {
			j := w.job("verify")
			j.Manifests = w.own()
			rename(j.Manifests)
			w.must(judgeAnd(w.Context(), j.Cluster, release.Unhealthy, true))
			w.wentByLedger(j, "1")
		})
		in(app+"shift", app+"canary", func(t *testing.T, w *world) {
			h := withHooks(w, everyHook())
			if w.gateway {
				w.must(byRoute(h.set))
			}
			rename(h.set)
			w.controllers.work["beforestep-job"] = jobWork{fails: true}
			j := h.job("shift")
			_, err := commands["shift"](w.Context(), j)
			if failed, ok := errors.AsType[*rollout.HookError](err); !ok || failed.Err != nil {
				t.Errorf("%v", err)
			}
			w.wentByLedger(j, "1")
		})
		in(app+"cleanup", app+"promoted", func(t *testing.T, w *world) { // somebody has moved its traffic
			w.observer.started = false
			if w.gateway {
				w.patchGatewayRoute(`[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":90},{"op":"replace","path":"/spec/rules/0/backendRefs/1/weight","value":10}]`)
			} else {
				w.patchRoute(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":90},{"op":"replace","path":"/spec/http/0/route/1/weight","value":10}]`)
			}
			j := w.job("cleanup")
			j.Manifests = w.own()
			rename(j.Manifests)
			w.must(j.Cleanup(w.Context()))
			w.wentByLedger(j, "2")
		})
	}
	in("return", "next", func(t *testing.T, w *world) { // what is returned to had another route, which is there still
		old := w.set.VirtualService.DeepCopy()
		old.Name, old.Namespace, old.Spec.Hosts = "old", namespace, []string{"old.example.com"}
		w.must(w.mesh.NetworkingV1().VirtualServices(namespace).Create(w.Context(), old, metav1.CreateOptions{}))
		state, ledger := w.ledger(), w.read()
		for i := range ledger.History {
			ledger.History[i].Objects.VirtualService.Name = old.Name
		}
		state.Data[ledgerKey] = ledger.String()
		w.must(w.kube.CoreV1().ConfigMaps(namespace).Update(w.Context(), state, metav1.UpdateOptions{}))
		j := w.job("return")
		_, err := commands["return"](w.Context(), j)
		if unrest := w.unrest("1"); err != nil || unrest != "" || !slices.Contains(w.did(j), "update vs 100/0") {
			t.Errorf("%v, %s, it did %q", err, unrest, w.did(j))
		}
	})
}

// wentByLedger checks that a job with other names has ended a release by those of the ledger.
func (w *world) wentByLedger(j *job, end string) {
	w.Helper()
	if !j.said("other objects than those of release r2") {
		w.Errorf("it said %q", j.logged)
	}
	if unrest := w.unrest(end); unrest != "" {
		w.Error(unrest)
	}
}

// TestLedgersWithoutNames: what is missing is said, with what to give.
func TestLedgersWithoutNames(t *testing.T) {
	at(t, "canary", func(w *world) {
		state := w.ledger()
		ledger, err := release.ParseLedger(w.set.App, state.Data[ledgerKey])
		w.must(state, err)
		ledger.Release.Objects = nil
		state.Data[ledgerKey] = ledger.String()
		w.must(w.kube.CoreV1().ConfigMaps(namespace).Update(w.Context(), state, metav1.UpdateOptions{}))
		for _, name := range []string{"", w.set.App} {
			if _, err := rollout.FindApp(w.Context(), w.kube, namespace, name); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "an earlier Crossbill") {
				t.Errorf("%q: %v", name, err)
			}
		}
		if _, err := rollout.FindApp(w.Context(), w.kube, namespace, "other"); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "no ledger") {
			t.Errorf("%v", err)
		}
		w.must(w.job("job").Rollback(w.Context(), "with manifests"))
	})
}

// TestRollbackOfAThirdImage: what somebody has put on primary after the promotion goes, too, with the pod template of the release.
func TestRollbackOfAThirdImage(t *testing.T) {
	at(t, "promoted", func(w *world) {
		w.observer.started = false
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"`+image("3")+`"}]`)
		w.wait()
		if _, err := w.job("cleanup").Cleanup(w.Context()); err == nil || !strings.Contains(err.Error(), "or run rollback, which ends the release") {
			t.Fatalf("%v", err)
		}
		w.must(w.job("back").Rollback(w.Context(), "it is bad"))
		if is := w.running(release.Primary); is != "1" {
			t.Errorf("primary runs image %s", is)
		}
	})
}
