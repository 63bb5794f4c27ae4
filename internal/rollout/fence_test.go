package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// fencedKinds are the kinds of objects that carry the epoch of the lock that wrote them last, the other ones of the manifests
// among them.
var fencedKinds = []string{"deployments", "services", "destinationrules", "virtualservices", "httproutes", "grpcroutes", "replicasets", "serviceaccounts", "roles", "poddisruptionbudgets", "networkpolicies"}

// overtake does to the app's objects what a newer lock would do: all of them, and the ledger, carry its epoch.
func (w *world) overtake(epoch int64) {
	if w.committed {
		w.overtakeInGit(epoch)
		return
	}
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if state := (place{"configmaps", namespace, "crossbill-" + w.set.App}); w.server.objects[state] == nil { // it writes the ledger first
		object := empty(kindOf("configmaps").GroupVersionKind)
		object.SetNamespace(state.namespace)
		object.SetName(state.name)
		object.Object["data"] = map[string]any{ledgerKey: fmt.Sprintf(`{"version":1,"app":%q}`, w.set.App)}
		w.server.put(kindOf("configmaps"), nil, object)
	}
	for p, live := range w.server.objects {
		object := live.object.DeepCopy()
		_, copied := object.GetLabels()[manifest.CopyLabel]
		switch {
		case slices.Contains(fencedKinds, p.resource), copied && !strings.HasSuffix(p.name, "-key"):
			annotations := object.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[epochAnnotation] = fmt.Sprint(epoch)
			object.SetAnnotations(annotations)
		case p.resource == "leases":
			if err := unstructured.SetNestedField(object.Object, "newer", "spec", "holderIdentity"); err != nil {
				panic(err)
			}
		case p.resource == "configmaps":
			text, _, _ := unstructured.NestedString(object.Object, "data", ledgerKey)
			var ledger map[string]any
			if err := json.Unmarshal([]byte(text), &ledger); err != nil {
				panic(err)
			}
			ledger["epoch"] = epoch
			changed, err := json.Marshal(ledger)
			if err != nil {
				panic(err)
			}
			if err := unstructured.SetNestedField(object.Object, string(changed), "data", ledgerKey); err != nil {
				panic(err)
			}
		default:
			continue
		}
		w.server.put(kindOf(p.resource), live, object)
	}
}

// overtakeInGit does to the ledger in Git what a newer lock would do.
func (w *world) overtakeInGit(epoch int64) {
	_, err := w.git.repository.commit("newer", func(tree *environment.Tree) error {
		name := path.Join(ledgerFolder, w.set.App, ledgerKey)
		text, err := tree.Read(name)
		if err != nil {
			return err
		}
		var ledger map[string]any
		if err := json.Unmarshal(text, &ledger); err != nil {
			return err
		}
		ledger["epoch"] = epoch
		if text, err = json.Marshal(ledger); err != nil {
			return err
		}
		return errors.Join(tree.Write(name, text), tree.Write(path.Join(ledgerFolder, w.set.App, "lock.json"), []byte(`{"holderIdentity": "newer"}`)))
	}, nil)
	w.must(nil, err)
}

// TestFence: before each write of each command a newer lock comes to every object and the ledger. Nothing of
// the old one's arrives any more, but the creation of an object that was missing.
func TestFence(t *testing.T) {
	for i, c := range byTurns(crashes, func(c *crashCase) *string { return &c.stage }, func(c *crashCase) string { return c.command }) {
		if strings.HasSuffix(c.stage, "new") || c.command == "verify healthy" {
			continue // all that it does is to create what is missing, or one write of the ledger
		}
		t.Run(c.command+" at "+c.stage, func(t *testing.T) {
			t.Parallel()
			fenced(t, c.stage, c.command, i+i/2, 9)
		})
	}
}

// fenced is a case for each so many-th write of the i-th command: those that follow each other take turns with the writes. In the
// long form it is one for every write.
func fenced(t *testing.T, stage, command string, i, stride int) {
	t.Helper()
	writes := withoutFault(t, stage, command).writes
	if writes == 0 {
		t.Fatal("it wrote nothing")
	}
	first := 1 + i%min(stride, writes)
	if *everyWrite {
		first, stride = 1, 1
	}
	for n := first; n <= writes && !t.Failed(); n += stride {
		at(t, stage, func(w *world) { w.fenced(command, n) })
	}
}

// fenced is one case.
func (w *world) fenced(command string, n int) {
	w.Helper()
	j := w.job("old")
	before, taken := []string{}, ""
	j.before = func(r *http.Request) error {
		j.mu.Lock()
		seen := j.seen
		j.mu.Unlock()
		if seen == n && taken == "" && r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/leases") {
			taken = r.Method + " " + r.URL.Path
			before = w.did(j)
			w.observer.started = false // it is no job that does this
			w.overtake(99)
			w.observer.started = true
		}
		return nil
	}
	_, err := commands[command](w.Context(), j)
	if taken == "" {
		w.Errorf("write %d: it made %d, %v", n, j.seen, err)
		return
	}
	for _, late := range w.did(j)[len(before):] {
		if !strings.HasPrefix(late, "create ") {
			w.Errorf("write %d (%s): a job without the lock did %q", n, taken, late)
		}
	}
	if !errors.Is(err, rollout.ErrLockLost) && !harmless(taken) {
		w.Errorf("write %d (%s): %v, want ErrLockLost", n, taken, err)
	}
}

// TestVerdictOnAnotherLedger: a verdict is one write of the ledger, for which nobody's lock is taken. One that somebody
// has written meanwhile is looked at again.
func TestVerdictOnAnotherLedger(t *testing.T) {
	at(t, "canary", func(w *world) {
		j := w.job("verify")
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		if slices.ContainsFunc(j.every, func(write string) bool { return !strings.Contains(write, "/configmaps/") }) {
			t.Errorf("it wrote %q", j.every)
		}
	})
	at(t, "canary", func(w *world) {
		j, rolledBack := w.job("verify"), false
		j.before = func(r *http.Request) error {
			if r.Method == http.MethodPut && !rolledBack {
				rolledBack = true
				_, err := w.job("other").Rollback(w.Context(), "meanwhile")
				return err
			}
			return nil
		}
		if _, err := judge(w.Context(), j.Cluster, release.Healthy); !errors.As(err, new(*rollout.StageError)) || len(w.did(j)) > 0 {
			t.Errorf("%v, did %q", err, w.did(j))
		}
	})
	at(t, "canary", func(w *world) { // somebody is at work
		_, goOn := w.hold("shift", 3)
		j := w.job("verify")
		j.LockTimeout = 5 * time.Second
		if _, err := judge(w.Context(), j.Cluster, release.Healthy); !errors.As(err, new(*rollout.LockHeldError)) {
			t.Errorf("%v", err)
		}
		if err := goOn(); err != nil {
			t.Error(err)
		}
	})
}

// TestTakeover: at each write of a job its network stands still; another one takes the lock and rolls the release back,
// then the first one's network is back. All of the first one's late writes come to nothing.
func TestTakeover(t *testing.T) {
	for _, c := range []struct{ stage, command string }{{"rest", "canary"}, {"rest", "sticky"}, {"canary", "shift"}, {"healthy", "promote"}, {configuredApp + "rest", "canary"}, {configuredApp + "healthy", "promote"}, {gatewayApp + "rest", "canary"}, {gatewayApp + "canary", "shift"}, {gatewayApp + "healthy", "promote"}} {
		t.Run(c.command+" at "+c.stage, func(t *testing.T) {
			t.Parallel()
			for n := 2; !t.Failed(); n++ { // before the second one there is no release
				more := false
				at(t, c.stage, func(w *world) {
					j := w.job("old")
					still, back, ended := make(chan string, 1), make(chan struct{}), make(chan error, 1)
					j.before = func(r *http.Request) error {
						j.mu.Lock()
						hit := j.seen >= n
						j.mu.Unlock()
						if hit {
							select {
							case still <- r.Method + " " + r.URL.Path:
							default:
							}
							<-back
						}
						return nil
					}
					go func() {
						_, err := commands[c.command](w.Context(), j)
						ended <- err
					}()
					select {
					case where := <-still:
						more = true
						other := w.job("other")
						if _, err := other.Rollback(w.Context(), "taken over"); err != nil {
							t.Errorf("write %d (%s): rollback: %v", n, where, err)
						}
						close(back)
						err := <-ended
						w.wait()
						if slices.ContainsFunc(w.did(j), func(did string) bool { return strings.HasPrefix(did, "create canary") }) {
							// A creation cannot name what it follows: it may come late, but gets no traffic, and goes.
							if _, err := w.job("last").Rollback(w.Context(), "late"); err != nil {
								t.Errorf("write %d (%s): %v", n, where, err)
							}
						}
						if unrest := w.unrest("1"); unrest != "" {
							t.Errorf("write %d (%s): %s", n, where, unrest)
						}
						if err == nil && !harmless(where) {
							t.Errorf("write %d (%s): the job did not notice", n, where)
						}
					case err := <-ended:
						if err != nil {
							t.Error(err)
						}
						close(back)
					}
				})
				if !more {
					break
				}
			}
		})
	}
}

// standsAt has the network of a job stand still from its first write to an object, by a part of its path, on, until it is back.
func (j *job) standsAt(object string) (still <-chan struct{}, back func()) {
	at, released := make(chan struct{}), make(chan struct{})
	var stands atomic.Bool
	j.before = func(r *http.Request) error {
		if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, object) && r.URL.Query().Get("dryRun") == "" && stands.CompareAndSwap(false, true) {
			close(at)
		}
		if stands.Load() {
			<-released
		}
		return nil
	}
	return at, func() { close(released) }
}

// TestLateOther: what a job without its lock writes to an object of others comes to nothing, also where the rollback that has taken
// the lock had nothing to put back in it.
func TestLateOther(t *testing.T) {
	at(t, othersApp+"healthy", func(w *world) {
		old := w.job("old")
		still, back := old.standsAt("/poddisruptionbudgets/")
		ended := make(chan error, 1)
		go func() {
			_, err := old.Promote(w.Context())
			ended <- err
		}()
		<-still
		w.must(w.job("other").Rollback(w.Context(), "taken over"))
		back()
		if err := <-ended; !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("the job without the lock: %v", err)
		}
		w.wait()
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestFenceWithoutPermission: an object of others that this account may no longer write keeps no rollback from bringing the traffic
// back.
func TestFenceWithoutPermission(t *testing.T) {
	at(t, othersApp+"promoting", func(w *world) {
		j := w.job("back")
		j.before = denies(http.MethodPatch, "/poddisruptionbudgets/")
		_, err := j.Rollback(w.Context(), "test")
		status, failed := j.Status(w.Context())
		if failed != nil || *status.Weights != (manifest.WeightPair{Primary: 100}) {
			t.Errorf("%v: weights %+v, %v", err, status.Weights, failed)
		}
	})
}

// hold lets a job's command come to a write and stay there, with its lock alive, until it may go on.
func (w *world) hold(command string, n int) (j *job, goOn func() error) {
	w.Helper()
	j = w.job("holder")
	held, back, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	j.before = func(r *http.Request) error {
		j.mu.Lock()
		hit := j.seen == n && r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/leases") && r.URL.Query().Get("dryRun") == ""
		j.mu.Unlock()
		if hit {
			close(held)
			<-back
		}
		return nil
	}
	go func() {
		_, err := commands[command](w.Context(), j)
		ended <- err
	}()
	<-held
	return j, func() error {
		close(back)
		return <-ended
	}
}

// TestLockHeld: a job waits for the lock as long as it may, then says who is in its way and has written nothing.
func TestLockHeld(t *testing.T) {
	at(t, "rest", func(w *world) {
		_, goOn := w.hold("canary", 3)
		j := w.job("second")
		j.LockTimeout = 7 * time.Second
		start := time.Now()
		_, err := j.Canary(w.Context(), wanted("2"))
		var held *rollout.LockHeldError
		if !errors.As(err, &held) || held.Waited != 7*time.Second || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%v", err)
		}
		if waited := time.Since(start); waited < 7*time.Second || waited > 10*time.Second {
			t.Errorf("it waited for %s", waited)
		}
		if len(j.every) > 0 {
			t.Errorf("it wrote %q", j.every)
		}
		if !slices.ContainsFunc(j.logged, func(l string) bool { return strings.Contains(l, "held by holder-") }) {
			t.Errorf("nobody says who holds it: %q", j.logged)
		}
		status, err := w.job("look").Status(w.Context())
		if err != nil || !strings.HasPrefix(status.Lock, "holder-") || status.Expired {
			t.Errorf("status: %+v, %v", status, err)
		}
		if err := goOn(); err != nil {
			t.Error(err)
		}
	})
}

// TestLockReleased: a job that waits gets the lock when the other one has ended, and looks again at what there is to do.
func TestLockReleased(t *testing.T) {
	at(t, "rest", func(w *world) {
		_, goOn := w.hold("canary", 3)
		second := make(chan error, 1)
		j := w.job("second")
		go func() {
			_, err := j.Canary(w.Context(), wanted("2"))
			second <- err
		}()
		time.Sleep(5 * time.Second)
		if err := goOn(); err != nil {
			t.Error(err)
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		if did := w.did(j); len(did) > 0 {
			t.Errorf("the second job did %q", did)
		}
	})
}

// TestOtherReleaseMeanwhile: while a job waits for the lock, another release starts. It is refused then.
func TestOtherReleaseMeanwhile(t *testing.T) {
	at(t, "rest", func(w *world) {
		_, goOn := w.hold("canary", 3)
		second := make(chan error, 1)
		j := w.job("second")
		go func() {
			_, err := j.Canary(w.Context(), wanted("3"))
			second <- err
		}()
		time.Sleep(time.Second)
		if err := goOn(); err != nil {
			t.Error(err)
		}
		if err := <-second; !errors.As(err, new(*release.InFlightError)) || len(j.every) > 0 {
			t.Errorf("%v, after %q", err, j.every)
		}
	})
}

// TestTakeoverIsNoted: a takeover is in the ledger, with who it was taken from.
func TestTakeoverIsNoted(t *testing.T) {
	at(t, "canary", func(w *world) {
		_, goOn := w.hold("shift", 3)
		j := w.job("taker")
		j.Takeover = true
		if _, err := judge(w.Context(), j.Cluster, release.Healthy); err != nil {
			t.Error(err)
		}
		if err := goOn(); !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("%v, want ErrLockLost", err)
		}
		status, err := w.job("look").Status(w.Context())
		if err != nil {
			t.Fatal(err)
		}
		if taken := status.Release.Takeovers; len(taken) != 1 || !strings.HasPrefix(taken[0].From, "holder-") || taken[0].By != j.By {
			t.Errorf("takeovers: %+v", taken)
		}
	})
}

// epochs are those that the app's objects carry, and the ledger's.
func (w *world) epochs() (objects map[string]string, ledger int64) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	objects = map[string]string{}
	for p, o := range w.server.objects {
		if slices.Contains(fencedKinds[:4], p.resource) {
			objects[p.resource+"/"+p.name] = o.object.GetAnnotations()[epochAnnotation]
		}
		if p.resource == "configmaps" {
			l, err := ledgerIn(o, w.set.App)
			if err != nil {
				w.Fatal(err)
			}
			ledger = l.Epoch
		}
	}
	return objects, ledger
}

// TestStamp: a job that follows one which did not end in order puts its epoch on every object first.
func TestStamp(t *testing.T) {
	for _, c := range []struct {
		after   string
		objects int
		want    bool
	}{{"canary", 5, false}, {"promoting", 5, true}, {"beside moving", 6, true}} {
		at(t, c.after, func(w *world) {
			j := w.job("next")
			if c.want {
				j.fault, j.at = refused, 2+c.objects // after the ledger's and the stamps, before any other change
				_, _ = j.Promote(w.Context())
			} else if _, err := judge(w.Context(), j.Cluster, release.Healthy); err != nil {
				t.Fatal(err)
			}
			objects, ledger := w.epochs()
			for name, epoch := range objects {
				if (epoch == fmt.Sprint(ledger)) != c.want {
					t.Errorf("after %s: %s carries %q, the ledger %d", c.after, name, epoch, ledger)
				}
			}
			if len(objects) != c.objects {
				t.Errorf("%v", objects)
			}
		})
	}
}

// TestLostLedger: an app whose ledger was lost draws an epoch above those that its objects carry, and a rollback
// removes the canary that no ledger knows.
func TestLostLedger(t *testing.T) {
	at(t, "canary", func(w *world) {
		_, before := w.epochs()
		if err := w.kube.CoreV1().ConfigMaps(namespace).Delete(w.Context(), "crossbill-"+w.set.App, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		j := w.job("job")
		result, err := j.Rollback(w.Context(), "test")
		if err != nil || !strings.Contains(result.Message, "no release in the ledger") {
			t.Errorf("%+v, %v", result, err)
		}
		if got, want := strings.Join(w.did(j), ", "), "update vs 100/0, delete canary"; got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
		if _, after := w.epochs(); after <= before {
			t.Errorf("epoch %d after %d", after, before)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestLedgerDeletedMeanwhile: a job whose ledger is deleted under it fails, and a rollback removes what it left.
func TestLedgerDeletedMeanwhile(t *testing.T) {
	at(t, "rest", func(w *world) {
		_, goOn := w.hold("canary", 2)
		if err := w.kube.CoreV1().ConfigMaps(namespace).Delete(w.Context(), "crossbill-"+w.set.App, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := goOn(); err == nil {
			t.Error("the job did not notice")
		}
		if _, err := w.job("next").Rollback(w.Context(), "test"); err != nil {
			t.Error(err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestEditedLedger: somebody's own keys in the ledger's ConfigMap stay, and cost the job nothing.
func TestEditedLedger(t *testing.T) {
	at(t, "rest", func(w *world) {
		_, goOn := w.hold("canary", 2)
		configMaps := w.kube.CoreV1().ConfigMaps(namespace)
		state, err := configMaps.Get(w.Context(), "crossbill-"+w.set.App, metav1.GetOptions{})
		w.must(state, err)
		state.Data["theirs"] = "note"
		w.must(configMaps.Update(w.Context(), state, metav1.UpdateOptions{}))
		if err := goOn(); err != nil {
			t.Error(err)
		}
		state, err = configMaps.Get(w.Context(), "crossbill-"+w.set.App, metav1.GetOptions{})
		if err != nil || state.Data["theirs"] != "note" {
			t.Errorf("%v, %v", state.Data, err)
		}
	})
}

// TestBadEpoch: an epoch that is no number is refused, with what to do.
func TestBadEpoch(t *testing.T) {
	at(t, "canary", func(w *world) {
		w.patchRoute(`[{"op":"add","path":"/metadata/annotations","value":{"` + epochAnnotation + `":"seven"}}]`)
		_, err := w.job("job").Rollback(w.Context(), "test")
		if err == nil || !strings.Contains(err.Error(), "not a number; remove it") {
			t.Errorf("%v", err)
		}
	})
}

// TestInterrupted: a job that is stopped says what to do next.
func TestInterrupted(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.controllers.stopped = true
		j := w.job("job")
		ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
		defer cancel()
		_, err := j.Canary(ctx, wanted("2"))
		if err == nil || !strings.Contains(err.Error(), "interrupted: the same command continues from here, rollback ends the release") {
			t.Errorf("%v", err)
		}
	})
}

// TestFenceByTheLedger: a job whose manifests have other names keeps the one before it from the objects that the release has.
func TestFenceByTheLedger(t *testing.T) {
	at(t, "canary", func(w *world) {
		dead := w.job("dead")
		dead.killOn = "note r2 canary 25%"
		_, _ = commands["shift"](dead.ctx, dead)
		j := w.job("next")
		j.Takeover, j.Manifests = true, w.own()
		j.Manifests.VirtualService.Name = "renamed"
		if _, err := j.Shift(w.Context(), []int{60}, 0); err == nil || !strings.Contains(err.Error(), "somebody has deleted it") {
			t.Errorf("%v", err)
		}
		vs, err := w.mesh.NetworkingV1().VirtualServices(namespace).Get(w.Context(), w.set.VirtualService.Name, metav1.GetOptions{})
		w.must(vs, err)
		if got, want := vs.Annotations[epochAnnotation], fmt.Sprint(w.read().Epoch); got != want {
			t.Errorf("the route carries epoch %s, want %s", got, want)
		}
	})
}
