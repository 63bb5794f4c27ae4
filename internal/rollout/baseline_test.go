package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// besides is a release whose canary is compared with a baseline.
func besides(digit string) release.Release {
	r := wanted(digit)
	r.Baseline = true
	return r
}

func init() {
	commands["canary beside a baseline"] = func(ctx context.Context, j *job) (rollout.Result, error) { return j.Canary(ctx, besides("2")) }
}

// besideLeft names what there is of a baseline.
func (w *world) besideLeft() (left []string) {
	w.Helper()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	for p := range w.server.objects {
		if strings.Contains(p.name, "-baseline") && p.resource != "events" {
			left = append(left, p.resource+"/"+p.name)
		}
	}
	slices.Sort(left)
	return left
}

func (w *world) baseline() *appsv1.Deployment {
	w.Helper()
	d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.App+"-baseline", metav1.GetOptions{})
	w.must(d, err)
	return d
}

// TestBaseline: what a release with a baseline writes, and in which order. The baseline begins beside the canary with as many
// pods, and is gone before primary gets another version; nothing of it is left, whichever way the release ends.
func TestBaseline(t *testing.T) {
	for _, c := range []struct {
		stage, command string
		does           []string
	}{
		{"rest", "canary beside a baseline", []string{"note r2 started", "create canary image 2 x1", "create baseline image 1", "update baseline x1", "split 90/10", "note r2 canary 10%"}},
		{"beside half", "canary beside a baseline", []string{"split 90/10", "note r2 canary 10%"}},
		{"beside", "shift", []string{"note r2 canary 25%", "split 75/25", "update canary x2", "update baseline x2", "note r2 canary 60%", "split 40/60"}},
		{"beside healthy", "promote", []string{"note r2 promoting", "update canary x2", "split 0/100", "delete baseline", "update primary image 2", "split 100/0", "note r2 promoted"}},
		{"beside healthy", "promote under traffic", []string{"note r2 promoting", "delete baseline", "update primary image 2", "split 100/0", "note r2 promoted"}},
		{"beside moving", "promote", []string{"delete baseline", "update primary image 2", "split 100/0", "note r2 promoted"}},
		{"beside half", "rollback", []string{"note r2 rolling_back", "delete canary", "delete baseline", "note r2 ended: rolled_back"}},
		{"beside", "rollback", []string{"note r2 rolling_back", "split 100/0", "delete canary", "delete baseline", "note r2 ended: rolled_back"}},
		{"beside moving", "rollback", []string{"note r2 rolling_back", "split 100/0", "delete canary", "delete baseline", "note r2 ended: rolled_back"}},
		{"beside", "guard", []string{"note r2 rolling_back", "split 100/0", "delete canary", "delete baseline", "note r2 ended: rolled_back"}},
	} {
		routers(t, c.stage, func(w *world) {
			j := w.job("job")
			if _, err := commands[c.command](w.Context(), j); err != nil {
				t.Fatalf("%s at %s: %v", c.command, c.stage, err)
			}
			did := w.did(j)
			for i := range did { // the two routes have other names
				if at := strings.LastIndex(did[i], " "); strings.HasPrefix(did[i], "update ") && strings.Contains(did[i][at:], "/") {
					did[i] = "split" + did[i][at:]
				}
			}
			if diff := cmp.Diff(c.does, did); diff != "" {
				t.Errorf("%s at %s (-want +did):\n%s", c.command, c.stage, diff)
			}
			if ends := strings.HasPrefix(c.does[len(c.does)-1], "note r2 ended"); ends || strings.HasPrefix(c.command, "promote") {
				if left := w.besideLeft(); len(left) > 0 {
					t.Errorf("%s at %s: left: %q", c.command, c.stage, left)
				}
			}
		})
	}
}

// TestBaselineIsPrimarysTwin: its pods have all of primary's labels and run what primary runs, and its selector takes none of
// primary's pods; its pods never count as primary's.
func TestBaselineIsPrimarysTwin(t *testing.T) {
	routers(t, "beside", func(w *world) {
		primary, twin := w.deployment(release.Primary), w.baseline()
		labels := twin.Spec.Template.Labels
		for key, value := range primary.Spec.Template.Labels {
			if labels[key] != value {
				t.Errorf("label %s is %q, primary's is %q", key, labels[key], value)
			}
		}
		own := twin.Spec.Template.DeepCopy()
		delete(own.Labels, manifest.BaselineLabel)
		if diff := cmp.Diff(primary.Spec.Template, *own); diff != "" {
			t.Errorf("the template (-primary's +baseline's):\n%s", diff)
		}
		if !manifest.IsBaseline(twin) || manifest.IsBaseline(primary) || len(twin.Spec.Selector.MatchLabels) != len(primary.Spec.Selector.MatchLabels)+1 {
			t.Errorf("the selector is %v", twin.Spec.Selector)
		}
		status, err := w.job("look").Status(w.Context())
		w.must(status, err)
		if got := status.Tracks[manifest.BaselineTrack]; got == nil || got.Ready != 1 || got.Image != image("1") || len(status.Drift) > 0 {
			t.Errorf("%+v, drift %q", got, status.Drift)
		}
		all, err := rollout.StatusOfAll(w.Context(), w.kube, nil, namespace)
		w.must(all, err)
		if got := all[0].Tracks[release.Primary]; len(all) != 1 || got.Replicas != *primary.Spec.Replicas {
			t.Errorf("in the list of all apps primary is %+v", got)
		}
		// Primary has no pod that is ready: the baseline's must not stand for it.
		w.observer.started = false
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/replicas","value":0}]`)
		w.wait()
		j := w.job("back")
		j.Timeout = 20 * time.Second
		w.controllers.refuse[release.DigestOf(image("1"))] = "a quota"
		_, err = j.Rollback(w.Context(), "test")
		if !errors.As(err, new(*rollout.NotReadyError)) || slices.ContainsFunc(w.did(j), func(did string) bool { return strings.Contains(did, "100/0") }) {
			t.Errorf("%v after %q", err, w.did(j))
		}
	})
}

// TestBaselineNotReady: a baseline that does not get ready fails the release, and is named; a rollback leaves nothing.
func TestBaselineNotReady(t *testing.T) {
	routers(t, "rest", func(w *world) {
		w.controllers.refuse[release.DigestOf(image("1"))] = "exceeded quota: pods"
		_, err := w.job("job").Canary(w.Context(), besides("2"))
		notReady, ok := errors.AsType[*rollout.NotReadyError](err)
		if !ok || notReady.Deployment != "qwik-node-app-baseline" || notReady.ReleaseID != "r2" || !strings.Contains(err.Error(), "exceeded quota") {
			t.Fatalf("%v", err)
		}
		delete(w.controllers.refuse, release.DigestOf(image("1")))
		w.must(w.job("back").Rollback(w.Context(), notReady.Deployment+": "+notReady.Reason))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestBaselineOfALostLedger: guard and rollback remove it, and so does the promotion of a release without one.
func TestBaselineOfALostLedger(t *testing.T) {
	for name, do := range map[string]func(*world){
		"guard":    func(w *world) { w.must(commands["guard"](w.Context(), w.job("job"))) },
		"rollback": func(w *world) { w.must(commands["rollback"](w.Context(), w.job("job"))) },
		"promote": func(w *world) {
			j := w.job("job")
			w.must(j.Canary(w.Context(), wanted("3")))
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			w.must(j.Cleanup(w.Context()))
		},
	} {
		routers(t, "beside", func(w *world) {
			w.forget()
			do(w)
			if left := w.besideLeft(); len(left) > 0 {
				t.Errorf("%s: left: %q", name, left)
			}
		})
	}
	routers(t, "beside", func(w *world) { // the canary is gone, the baseline is all that is left
		w.observer.started = false
		w.forget()
		w.delete(release.Canary)
		w.must(commands["guard"](w.Context(), w.job("job")))
		if left := w.besideLeft(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// TestBaselineRefused: what cannot have a baseline is refused before anything is written.
func TestBaselineRefused(t *testing.T) {
	refused := func(stage string, prepare func(*world), field, says string) {
		at(t, stage, func(w *world) {
			w.observer.started = false
			prepare(w)
			j := w.job("job")
			_, err := j.Canary(w.Context(), besides("2"))
			bad, ok := errors.AsType[*usererr.Error](err)
			if !ok || bad.Field != field || !strings.Contains(bad.Problem, says) || bad.Fix == "" || len(w.did(j)) > 0 {
				t.Errorf("%s: %v after %q", stage, err, w.did(j))
			}
		})
	}
	refused(gitApp+"rest", func(*world) {}, "canary.baseline", "gitops.store is git")
	refused("rest", func(w *world) {
		other := w.deployment(release.Primary).DeepCopy()
		other.ObjectMeta = metav1.ObjectMeta{Name: "qwik-node-app-baseline"}
		w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), other, metav1.CreateOptions{}))
	}, "Deployment prod/qwik-node-app-baseline", "no release has made it")
	at(t, "new", func(w *world) { // an app's first release has nothing to be compared with
		j := w.job("job")
		r := besides("1")
		result, err := j.Canary(w.Context(), r)
		w.must(result, err)
		if result.Outcome != release.OutcomeFirst || len(w.besideLeft()) > 0 || !slices.ContainsFunc(j.logged, func(line string) bool { return strings.Contains(line, "first release has nothing to be compared with") }) {
			t.Errorf("%s, %q, logged %q", result.Outcome, w.besideLeft(), j.logged)
		}
	})
}

// TestBaselineIsKept: a release goes on with what it started with; the ledger says so while it is in flight, in a format that a
// Crossbill which knows no baseline refuses, and can be read by that one again afterwards.
func TestBaselineIsKept(t *testing.T) {
	at(t, "beside half", func(w *world) {
		ledger, err := release.ParseLedger(w.set.App, w.ledger().Data[ledgerKey])
		if err != nil || !ledger.Release.Baseline || ledger.Version != 2 {
			t.Fatalf("%v, %+v", err, ledger)
		}
		j := w.job("job")
		w.must(j.Canary(w.Context(), wanted("2")))
		if got := w.baseline().Spec.Replicas; *got != 1 || !slices.ContainsFunc(j.logged, func(line string) bool {
			return strings.Contains(line, "keeps what it started with, which is a baseline")
		}) {
			t.Errorf("%d replicas, logged %q", *got, j.logged)
		}
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		w.must(j.Cleanup(w.Context()))
		if ledger, err = release.ParseLedger(w.set.App, w.ledger().Data[ledgerKey]); err != nil || ledger.Version != 1 || ledger.History[0].Outcome != release.OutcomePromoted {
			t.Errorf("%v, %+v", err, ledger)
		}
	})
}

// TestBaselineBesideFlux: it is in no Git, and Flux lets it be.
func TestBaselineBesideFlux(t *testing.T) {
	routers(t, fluxApp+"rest", func(w *world) {
		j := w.job("job")
		w.must(j.Canary(w.Context(), besides("2")))
		time.Sleep(10 * time.Minute)
		if d := w.baseline(); d.Status.ReadyReplicas != 1 {
			t.Errorf("%+v", d.Status)
		}
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		w.must(j.Cleanup(w.Context()))
		time.Sleep(10 * time.Minute)
		if unrest := w.unrest("2"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestBaselineDrained: promotion waits until neither primary nor its baseline is called, before it deletes one of them.
func TestBaselineDrained(t *testing.T) {
	at(t, "beside healthy", func(w *world) {
		j := w.job("job")
		asked := make(chan string, 10)
		j.Drained = func(ctx context.Context, workload string) error {
			asked <- workload
			time.Sleep(10 * time.Second)
			if left := w.besideLeft(); len(left) == 0 {
				t.Error("the baseline went before it was drained")
			}
			return ctx.Err()
		}
		w.must(j.Promote(w.Context()))
		close(asked)
		var all []string
		for workload := range asked {
			all = append(all, workload)
		}
		slices.Sort(all)
		if diff := cmp.Diff([]string{"qwik-node-app-baseline", "qwik-node-app-primary"}, all); diff != "" {
			t.Error(diff)
		}
	})
}

// TestBaselineIsReadOnce: a promotion beside an HPA sizes primary by the baseline that its look has just read, and reads that again
// only to delete it.
func TestBaselineIsReadOnce(t *testing.T) {
	routers(t, "beside healthy", func(w *world) {
		w.hpa(w.set.Name(release.Primary), 8)
		j, reads := w.job("job"), 0
		j.Drained = func(context.Context, string) error { time.Sleep(time.Minute); return nil } // so that it is not known any more
		j.before = func(r *http.Request) error {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/qwik-node-app-baseline") {
				reads++
			}
			return nil
		}
		w.must(j.Promote(w.Context()))
		if reads != 2 {
			t.Errorf("%d reads", reads)
		}
	})
}

// TestBaselineInPlan: a plan shows it, and writes nothing.
func TestBaselineInPlan(t *testing.T) {
	for _, c := range []struct{ stage, command, object, action string }{
		{"rest", "canary beside a baseline", "Deployment prod/qwik-node-app-baseline", "create"},
		{"beside healthy", "promote", "Deployment prod/qwik-node-app-baseline", "delete"},
		{"beside", "rollback", "Deployment prod/qwik-node-app-baseline", "delete"},
	} {
		at(t, c.stage, func(w *world) {
			j := w.job("job")
			j.Plan = &rollout.Plan{}
			w.must(commands[c.command](w.Context(), j))
			if !slices.ContainsFunc(j.Plan.Changes, func(change rollout.Change) bool { return change.Object == c.object && change.Action == c.action }) || len(w.did(j)) > 0 {
				t.Errorf("%s at %s: %+v, did %q", c.command, c.stage, j.Plan.Changes, w.did(j))
			}
		})
	}
}

// TestLateBaseline: what a job that has lost its lock makes of a baseline late has no pods, and so no traffic.
func TestLateBaseline(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.observer.started = false
		_, goOn := w.hold("canary beside a baseline", 3)
		back := w.job("back")
		w.must(back.Rollback(w.Context(), "test"))
		if err := goOn(); !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("%v", err)
		}
		w.wait()
		if left := w.besideLeft(); !cmp.Equal(left, []string{"deployments/qwik-node-app-baseline", "replicasets/" + nameOf(left, "replicasets/")}) || *w.baseline().Spec.Replicas != 0 {
			t.Errorf("left: %q", left)
		}
		w.must(commands["guard"](w.Context(), w.job("guard")))
		if left := w.besideLeft(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// TestLateBaselineOfASuccessor: what a job that has lost its lock makes of a baseline late takes no pods from the one that its
// successor has made meanwhile.
func TestLateBaselineOfASuccessor(t *testing.T) {
	routers(t, "rest", func(w *world) {
		_, goOn := w.hold("canary beside a baseline", 3)
		next := w.job("next")
		next.Takeover = true
		w.must(commands["canary beside a baseline"](w.Context(), next))
		if err := goOn(); !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("%v", err)
		}
		w.wait()
		if d := w.baseline(); *d.Spec.Replicas != 1 || d.Status.ReadyReplicas != 1 {
			t.Errorf("%d replicas, %+v", *d.Spec.Replicas, d.Status)
		}
	})
}

// nameOf is the name of the first of some objects that has a prefix.
func nameOf(all []string, prefix string) string {
	for _, one := range all {
		if name, ok := strings.CutPrefix(one, prefix); ok {
			return name
		}
	}
	return ""
}

// TestBaselineOfARestart: a restart of primary by a person does not restart the baseline at the next step.
func TestBaselineOfARestart(t *testing.T) {
	at(t, "beside", func(w *world) {
		w.patchDeployment(release.Primary, `[{"op":"add","path":"/spec/template/metadata/annotations","value":{"kubectl.kubernetes.io/restartedAt":"2026-01-01T00:00:00Z"}}]`)
		w.wait()
		j := w.job("job")
		w.must(j.Shift(w.Context(), []int{25}, 0))
		if slices.ContainsFunc(w.did(j), func(did string) bool { return strings.Contains(did, "baseline template") }) {
			t.Errorf("it did %q", w.did(j))
		}
	})
}

// TestCanaryFailsBesideBaseline: a canary that fails while its baseline starts gets no traffic, nor more of it at a later step.
func TestCanaryFailsBesideBaseline(t *testing.T) {
	for _, stage := range []string{"rest", "beside"} {
		routers(t, stage, func(w *world) {
			j := w.job("job")
			failed := false
			j.before = func(r *http.Request) error {
				if !failed && r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/qwik-node-app-baseline") && r.URL.Query().Get("dryRun") == "" {
					failed = true
					w.observer.started = stage == "rest" // at the later stage it has a share already
					w.controllers.refuse[release.DigestOf(image("2"))] = "exceeded quota: pods"
					pods, err := w.kube.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{LabelSelector: "version=canary"})
					w.must(pods, err)
					for _, p := range pods.Items {
						w.must(nil, w.kube.CoreV1().Pods(namespace).Delete(w.Context(), p.Name, metav1.DeleteOptions{}))
					}
					w.wait()
				}
				return nil
			}
			var err error
			if stage == "rest" {
				_, err = j.Canary(w.Context(), besides("2"))
			} else {
				_, err = j.Shift(w.Context(), []int{60}, 0)
			}
			notReady, ok := errors.AsType[*rollout.NotReadyError](err)
			status, looked := w.job("look").Status(w.Context())
			w.must(status, looked)
			if !failed || !ok || notReady.Deployment != "qwik-node-app-canary" || status.Weights.Canary != map[string]int32{"rest": 0, "beside": 10}[stage] {
				t.Errorf("at %s: failed %t, weights %+v, %v after %q", stage, failed, status.Weights, err, w.did(j))
			}
		})
	}
}

// noPermission is what an account is answered whose Role does not have the baseline's name.
func noPermission() error {
	return apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments"}, "qwik-node-app-baseline", errors.New(`User "guard" cannot get resource "deployments"`))
}

// TestBaselineWithoutPermission: an account with a Role from before there were baselines cannot remove one. That does not keep
// it from sending the traffic back to primary, whatever the job has left that died.
func TestBaselineWithoutPermission(t *testing.T) {
	for _, command := range []string{"guard", "rollback"} {
		routers(t, "beside moving", func(w *world) {
			j := w.job("job")
			j.before = func(r *http.Request) error {
				if !strings.HasSuffix(r.URL.Path, "/qwik-node-app-baseline") {
					return nil
				}
				return noPermission()
			}
			_, err := commands[command](w.Context(), j)
			status, failed := w.job("look").Status(w.Context())
			w.must(status, failed)
			if err == nil || !strings.Contains(err.Error(), "qwik-node-app-baseline") || status.Weights.Primary != 100 {
				t.Errorf("%s: weights %+v, %v after %q", command, status.Weights, err, w.did(j))
			}
			w.must(commands[command](w.Context(), w.job("with permission")))
			if unrest := w.unrest("1"); unrest != "" {
				t.Errorf("%s: %s", command, unrest)
			}
		})
	}
}

// TestForeignBaselineIsNotStamped: somebody else's Deployment that has taken the baseline's name is left as it is.
func TestForeignBaselineIsNotStamped(t *testing.T) {
	at(t, "beside half", func(w *world) {
		w.delete(manifest.BaselineTrack)
		other := w.deployment(release.Primary).DeepCopy()
		other.ObjectMeta = metav1.ObjectMeta{Name: "qwik-node-app-baseline"}
		other.Spec.Selector.MatchLabels, other.Spec.Template.Labels = map[string]string{"app": "other"}, map[string]string{"app": "other"}
		w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), other, metav1.CreateOptions{}))
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if got := w.baseline(); len(got.Annotations) > 0 || got.DeletionTimestamp != nil {
			t.Errorf("%+v", got.ObjectMeta)
		}
	})
}

// somebodysImage is another one than the release's, but for primary: that would be one from before the release.
func somebodysImage(track release.Track) string {
	return image(map[bool]string{true: "1", false: "9"}[track == release.Primary])
}

// somebodys makes a Deployment that has a track's name, and that no job has made. With alike it has the track's selector as well.
func (w *world) somebodys(track release.Track, alike bool) {
	w.Helper()
	d, err := w.set.Track(track, namespace, somebodysImage(track))
	w.must(d, err)
	d.Spec.Replicas = new(int32(1))
	if !alike {
		d.Spec.Selector.MatchLabels, d.Spec.Template.Labels = map[string]string{"app": "other"}, map[string]string{"app": "other"}
	}
	w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), d, metav1.CreateOptions{}))
	w.wait()
}

// theirs says whether a track's Deployment is as somebodys has made it.
func (w *world) theirs(track release.Track) bool {
	w.Helper()
	d := w.deployment(track)
	return d.DeletionTimestamp == nil && w.set.Image(d) == somebodysImage(track) && d.Annotations[epochAnnotation] == ""
}

// TestForeignCanaryStays: what the ledger that was lost has left of a release goes, and somebody else's Deployment that has the
// canary's name stays as it is, its annotations too: also when what is left is a baseline, or the job before died.
func TestForeignCanaryStays(t *testing.T) {
	for _, alike := range []bool{false, true} {
		for _, command := range []string{"guard", "rollback"} {
			routers(t, "beside", func(w *world) {
				w.observer.started = false
				w.forget()
				w.delete(release.Canary)
				w.somebodys(release.Canary, alike)
				j := w.job("job")
				w.must(commands[command](w.Context(), j))
				if left := w.besideLeft(); len(left) > 0 || !w.theirs(release.Canary) || !j.said("no release has made it") {
					t.Errorf("%s: left %q, the canary is %+v, said %q", command, left, w.deployment(release.Canary).ObjectMeta, j.logged)
				}
			})
			at(t, "started", func(w *world) {
				w.observer.started = false
				w.somebodys(release.Canary, alike)
				w.must(commands[command](w.Context(), w.job("job")))
				if !w.theirs(release.Canary) {
					t.Errorf("%s: the canary is %+v", command, w.deployment(release.Canary).ObjectMeta)
				}
				w.forget()
				w.must(commands[command](w.Context(), w.job("again")))
				if !w.theirs(release.Canary) {
					t.Errorf("%s without a ledger: the canary is %+v", command, w.deployment(release.Canary).ObjectMeta)
				}
			})
		}
	}
}

// TestForeignIsNotTakenOver: no release makes somebody else's Deployment its own because of its name, neither one that starts nor
// one that goes on after a job that died.
func TestForeignIsNotTakenOver(t *testing.T) {
	for _, stage := range []string{"rest", "started"} {
		routers(t, stage, func(w *world) {
			w.observer.started = false
			w.somebodys(release.Canary, true)
			_, err := w.job("job").Canary(w.Context(), wanted("2"))
			if bad, ok := errors.AsType[*usererr.Error](err); !ok || bad.Field != "Deployment prod/qwik-node-app-canary" || !strings.Contains(bad.Problem, "no release has made it") || !w.theirs(release.Canary) {
				t.Errorf("%v, the canary is %+v", err, w.deployment(release.Canary).ObjectMeta)
			}
			if r := w.read().Release; (r != nil) != (stage == "started") {
				t.Errorf("the release in flight is %+v", r)
			}
			w.must(w.job("back").Rollback(w.Context(), "test"))
			if !w.theirs(release.Canary) {
				t.Errorf("after the rollback the canary is %+v", w.deployment(release.Canary).ObjectMeta)
			}
			w.delete(release.Canary)
			next := w.job("next")
			next.Again = true
			w.must(next.Canary(w.Context(), wanted("2")))
		})
	}
	at(t, "new", func(w *world) {
		w.observer.started = false
		first := w.job("first")
		first.killOn = "note r1 started"
		_, _ = first.Canary(first.ctx, wanted("1"))
		w.somebodys(release.Primary, true)
		time.Sleep(time.Minute)
		if _, err := w.job("job").Canary(w.Context(), wanted("1")); err == nil || !w.theirs(release.Primary) {
			t.Errorf("%v, primary is %+v", err, w.deployment(release.Primary).ObjectMeta)
		}
		if _, err := w.job("back").Rollback(w.Context(), "test"); err == nil || !strings.Contains(err.Error(), "somebody else did") || !w.theirs(release.Primary) {
			t.Errorf("%v, primary is %+v", err, w.deployment(release.Primary).ObjectMeta)
		}
	})
}

// TestMigrateRemovesABaseline: one whose ledger was lost is not what an app that is deployed manually serves from, and goes with it.
func TestMigrateRemovesABaseline(t *testing.T) {
	at(t, "beside", func(w *world) {
		w.observer.started = false
		w.forget()
		w.patchRoute(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":100},{"op":"replace","path":"/spec/http/0/route/1/weight","value":0}]`)
		w.delete(release.Canary)
		web := w.deployment(release.Primary).DeepCopy()
		web.ObjectMeta = metav1.ObjectMeta{Name: "web"}
		web.Spec.Selector.MatchLabels["web"], web.Spec.Template.Labels["web"] = "true", "true"
		w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), web, metav1.CreateOptions{}))
		w.wait()
		w.must(w.job("job").Migrate(w.Context(), ""))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
		again := w.job("again")
		if w.must(again.Migrate(w.Context(), "")); len(again.every) > 0 {
			t.Errorf("again: %q", again.every)
		}
	})
}

// TestForeignBaselineAtAStep: somebody else's Deployment that has taken the baseline's name during a release is not one that migrate
// could change.
func TestForeignBaselineAtAStep(t *testing.T) {
	at(t, "beside", func(w *world) {
		w.delete(manifest.BaselineTrack)
		w.somebodys(manifest.BaselineTrack, false)
		_, err := w.job("job").Shift(w.Context(), []int{25}, 0)
		if bad, ok := errors.AsType[*usererr.Error](err); !ok || bad.Field != "Deployment prod/qwik-node-app-baseline" || strings.Contains(err.Error(), "migrate") || !w.theirs(manifest.BaselineTrack) {
			t.Errorf("%v", err)
		}
	})
}

// patchBaseline changes the baseline as a person would.
func (w *world) patchBaseline(patch string) {
	w.Helper()
	w.patchDeployment(manifest.BaselineTrack, patch)
	w.wait()
}

// TestBaselineDrift: what somebody else does to a baseline is seen by status and while the canary is judged, and nothing is promoted
// after it.
func TestBaselineDrift(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*world)
		want string // "" is none
	}{
		"nothing":     {func(*world) {}, ""},
		"deleted":     {func(w *world) { w.delete(manifest.BaselineTrack) }, "the Deployment of baseline is gone"},
		"scaled to 0": {func(w *world) { w.patchBaseline(`[{"op":"replace","path":"/spec/replicas","value":0}]`) }, "baseline has 0 replicas"},
		"scaled up":   {func(w *world) { w.patchBaseline(`[{"op":"replace","path":"/spec/replicas","value":3}]`) }, ""},
		"somebody's":  {func(w *world) { w.delete(manifest.BaselineTrack); w.somebodys(manifest.BaselineTrack, false) }, "the Deployment of baseline is gone"},
		"another image": {func(w *world) {
			w.patchBaseline(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"` + image("3") + `"}]`)
		}, "baseline does not run what primary runs, but another .spec.template.spec.containers"},
		"another environment": {func(w *world) {
			w.patchBaseline(`[{"op":"add","path":"/spec/template/spec/containers/0/env/-","value":{"name":"FASTER","value":"1"}}]`)
		}, "FASTER"},
		"a restart": {func(w *world) {
			w.patchBaseline(`[{"op":"add","path":"/spec/template/metadata/annotations","value":{"kubectl.kubernetes.io/restartedAt":"2026-01-01T00:00:00Z"}}]`)
		}, ""},
	} {
		routers(t, "beside healthy", func(w *world) {
			w.observer.started = false
			ctx, stop := context.WithCancel(w.Context())
			defer stop()
			witness := w.witness(ctx, w.job("verify"))
			c.do(w)
			status, err := w.job("look").Status(w.Context())
			w.must(status, err)
			watched, err := witness.Live(w.Context())
			w.must(watched, err)
			for _, found := range []string{strings.Join(status.Drift, "\n"), strings.Join(watched.Drift, "\n")} {
				if (found == "") != (c.want == "") || !strings.Contains(found, c.want) {
					t.Errorf("%s: drift %q, want %q", name, found, c.want)
				}
			}
			j := w.job("job")
			_, err = j.Promote(w.Context())
			if refused := errors.As(err, new(*rollout.StageError)) && strings.Contains(err.Error(), c.want) && len(w.did(j)) == 0; refused != (c.want != "") || c.want == "" && err != nil {
				t.Errorf("%s: promote: %v after %q", name, err, w.did(j))
			}
			w.must(w.job("back").Rollback(w.Context(), "test"))
		})
	}
}

// TestBaselineThatIsNotReady: a canary is not healthy while its baseline has fewer ready pods than it is to have, for whatever
// reason, and can be again when it has them.
func TestBaselineThatIsNotReady(t *testing.T) {
	routers(t, "beside", func(w *world) {
		ctx, stop := context.WithCancel(w.Context())
		defer stop()
		witness := w.witness(ctx, w.job("verify"))
		holds := func(want string) {
			t.Helper()
			if seen, err := witness.Look(); err != nil || seen.Unhealthy != "" || (seen.Hold == "") != (want == "") || !strings.Contains(seen.Hold, want) {
				t.Errorf("%+v, %v, want %q", seen, err, want)
			}
		}
		holds("")
		w.server.mu.Lock()
		w.controllers.refuse[release.DigestOf(image("1"))] = "a quota"
		w.server.mu.Unlock()
		pods, err := w.kube.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{LabelSelector: manifest.BaselineLabel})
		w.must(pods, err)
		for _, p := range pods.Items { // as a node that is drained does
			w.must(nil, w.kube.CoreV1().Pods(namespace).Delete(w.Context(), p.Name, metav1.DeleteOptions{}))
		}
		w.wait()
		holds("0 of the baseline's 1 pod is ready")
		w.server.mu.Lock()
		delete(w.controllers.refuse, release.DigestOf(image("1")))
		w.server.mu.Unlock()
		w.patchBaseline(`[{"op":"add","path":"/metadata/labels/x","value":"y"}]`) // so that its controller tries again
		holds("")
		w.delete(manifest.BaselineTrack)
		holds("0 of the baseline's 1 pod is ready")
	})
}

// TestJudgeWithoutPermissionForTheBaseline: an account with a Role from before there were baselines sees the canary's pods as before,
// and goes by the baseline's, so that a guard still finds a canary that is bad. It cannot promote: whether the baseline is as it was
// is not known.
func TestJudgeWithoutPermissionForTheBaseline(t *testing.T) {
	routers(t, "beside healthy", func(w *world) {
		j := w.job("job")
		j.before = func(r *http.Request) error {
			if strings.HasSuffix(r.URL.Path, "/qwik-node-app-baseline") || strings.HasSuffix(r.URL.Path, "/deployments") && strings.HasSuffix(r.URL.Query().Get("fieldSelector"), "-baseline") {
				return noPermission()
			}
			return nil
		}
		ctx, stop := context.WithCancel(w.Context())
		defer stop()
		witness := w.witness(ctx, j)
		seen, err := witness.Look()
		status, failed := witness.Live(w.Context())
		if err != nil || seen != (rollout.Witnessed{PrimaryWhole: true}) || failed != nil || len(status.Drift) > 0 {
			t.Errorf("%+v, %v, %+v, %v", seen, err, status, failed)
		}
		_, err = j.Promote(w.Context())
		if !errors.As(err, new(*rollout.StageError)) || !strings.Contains(err.Error(), "Deployment prod/qwik-node-app-baseline is as when release r2 started is not known") || len(w.did(j)) > 0 {
			t.Errorf("promote: %v after %q", err, w.did(j))
		}
	})
}

// TestBaselineShare: status says about which part of the traffic a baseline gets: as much for each pod as primary's.
func TestBaselineShare(t *testing.T) {
	routers(t, "beside", func(w *world) {
		status, err := w.job("look").Status(w.Context())
		w.must(status, err)
		if got := status.Tracks[manifest.BaselineTrack]; *got != (rollout.TrackStatus{Image: image("1"), Replicas: 1, Ready: 1, Share: 30}) || status.Tracks[release.Primary].Share != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestBaselineInTheQueue: a release with a baseline that gives way to a newer one leaves nothing of it, and the next one has its own.
func TestBaselineInTheQueue(t *testing.T) {
	for _, stage := range []string{"beside half", "beside", "beside healthy"} {
		routers(t, stage, func(w *world) {
			w.must(w.job("queue").queues(release.QueueSupersede).Queue(w.Context(), handed("3", 13)))
			if unrest := w.unrest("1"); unrest != "" {
				t.Errorf("at %s: %s", stage, unrest)
			}
			w.must(w.job("canary").queues(release.QueueSupersede).Canary(w.Context(), besides("3")))
			if d := w.baseline(); d.Status.ReadyReplicas != 1 {
				t.Errorf("at %s: %+v", stage, d.Status)
			}
			w.finish(stage)
			if unrest := w.unrest("3"); unrest != "" {
				t.Errorf("at %s: %s", stage, unrest)
			}
		})
	}
	for _, policy := range []release.QueuePolicy{release.QueueInOrder, release.QueueSupersede} {
		at(t, "beside promoted", func(w *world) { // what is on its way to primary gives way to nobody
			_, done := w.queueing(w.Context(), policy, handed("3", 13))
			if !still(done) {
				t.Fatalf("%s: it did not wait", policy)
			}
			w.finish("the one before")
			if c := <-done; c.err != nil || c.result.Message != "it is the turn of release r3" {
				t.Errorf("%s: %+v", policy, c)
			}
			w.must(w.job("canary").queues(policy).Canary(w.Context(), besides("3")))
			if d := w.baseline(); w.set.Image(d) != image("2") {
				t.Errorf("%s: the baseline runs %s", policy, w.set.Image(d))
			}
		})
	}
}

// TestBaselineOfALateApproval: a release whose approver comes after hours has its baseline until then, nodes that are drained in
// between or not, and nothing of it afterwards.
func TestBaselineOfALateApproval(t *testing.T) {
	routers(t, "beside healthy", func(w *world) {
		for range 12 {
			time.Sleep(time.Hour)
			pods, err := w.kube.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{LabelSelector: manifest.BaselineLabel})
			w.must(pods, err)
			for _, p := range pods.Items {
				w.must(nil, w.kube.CoreV1().Pods(namespace).Delete(w.Context(), p.Name, metav1.DeleteOptions{}))
			}
			w.wait()
			if result, err := w.job("guard").Guard(w.Context(), rollout.Limits{Dead: time.Hour, Waiting: 24 * time.Hour}); err != nil || result.Outcome != "" {
				t.Fatalf("guard: %+v, %v", result, err)
			}
		}
		j := w.job("job")
		j.MaxVerdictAge = time.Hour
		if _, err := j.Promote(w.Context()); !errors.As(err, new(*rollout.StaleVerdictError)) {
			t.Errorf("%v", err)
		}
		w.must(judge(w.Context(), w.job("verify").Cluster, release.Healthy))
		w.must(commands["promote approved"](w.Context(), j))
		if left := w.besideLeft(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		w.must(j.Cleanup(w.Context()))
		if unrest := w.unrest("2"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestBaselineBesideOtherObjects: the release of an app whose manifests have more, a PodDisruptionBudget that selects the
// baseline's pods as well among them.
func TestBaselineBesideOtherObjects(t *testing.T) {
	for _, bad := range []bool{false, true} {
		routers(t, othersApp+"rest", func(w *world) {
			w.must(w.job("job").Canary(w.Context(), besides("2")))
			if bad {
				w.must(w.job("back").Rollback(w.Context(), "test"))
			} else {
				w.finish("beside others")
			}
			if unrest := w.unrest(map[bool]string{true: "1", false: "2"}[bad]); unrest != "" {
				t.Error(unrest)
			}
		})
	}
}

// component makes the manifests of an app that has the label app in common with others.
func (w *world) component(name string) *manifest.Set {
	w.Helper()
	set := w.own()
	set.App, set.Deployment.Name, set.Service.Name, set.DestinationRule.Name, set.VirtualService.Name = name, name+"-primary", name+"-service", name+"-dr", name+"-vs"
	for _, labels := range []map[string]string{set.Deployment.Spec.Selector.MatchLabels, set.Deployment.Spec.Template.Labels, set.Service.Spec.Selector} {
		labels["component"] = name
	}
	set.DestinationRule.Spec.Host, set.VirtualService.Spec.Hosts = set.Service.Name, []string{name + ".example.com"}
	for _, http := range set.VirtualService.Spec.Http {
		for _, to := range http.Route {
			to.Destination.Host = set.Service.Name
		}
	}
	return set
}

// TestBaselinesOfTwoApps: each of two apps of one namespace has a baseline of its own, although their pods have the label app in
// common; what becomes of one is nothing to the other.
func TestBaselinesOfTwoApps(t *testing.T) {
	at(t, "new", func(w *world) {
		w.observer.started = false // it knows one app
		job := func(app string) *job {
			j := w.job(app)
			j.Manifests = w.component(app)
			return j
		}
		ready := func(app string) int32 {
			status, err := job(app).Status(w.Context())
			w.must(status, err)
			if len(status.Drift) > 0 {
				t.Errorf("%s: drift %q", app, status.Drift)
			}
			if t := status.Tracks[manifest.BaselineTrack]; t != nil {
				return t.Ready
			}
			return 0
		}
		ended := make(chan error, 2)
		for _, app := range []string{"web", "worker"} {
			w.must(job(app).Canary(w.Context(), wanted("1")))
		}
		for app, weight := range map[string]int{"web": 10, "worker": 60} {
			go func() {
				r := besides("2")
				r.Weight = weight
				_, err := job(app).Canary(w.Context(), r)
				ended <- err
			}()
		}
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Fatal(err)
		}
		if web, worker := ready("web"), ready("worker"); web != 1 || worker != 2 {
			t.Errorf("baselines of %d and %d pods", web, worker)
		}
		all, err := rollout.StatusOfAll(w.Context(), w.kube, nil, namespace)
		w.must(all, err)
		for i, want := range []int32{1, 2} {
			if got := all[i].Tracks[manifest.BaselineTrack]; got == nil || got.Ready != want {
				t.Errorf("%s: %+v", all[i].App, got)
			}
		}
		w.must(job("web").Rollback(w.Context(), "test"))
		if web, worker := ready("web"), ready("worker"); web != 0 || worker != 2 {
			t.Errorf("after the rollback of one, baselines of %d and %d pods", web, worker)
		}
		j := job("worker")
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		w.must(j.Cleanup(w.Context()))
		if left := w.besideLeft(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// TestForeignCanaryIsNoShelter: somebody else's Deployment that has taken the canary's name gets no traffic of a rollback, and no job
// scales it.
func TestForeignCanaryIsNoShelter(t *testing.T) {
	routers(t, "promoted", func(w *world) {
		w.observer.started = false
		w.delete(release.Canary)
		w.somebodys(release.Canary, true)
		j := w.job("back")
		w.must(j.Rollback(w.Context(), "it is bad"))
		if did := strings.Join(w.did(j), ", "); strings.Contains(did, "0/100") || strings.Contains(did, "update canary") || strings.Contains(did, "delete canary") {
			t.Errorf("it did %q", did)
		}
		if !w.theirs(release.Canary) {
			t.Errorf("%+v", w.deployment(release.Canary).ObjectMeta)
		}
	})
	routers(t, "canary", func(w *world) { // what guard does each time
		w.observer.started = false
		w.delete(release.Canary)
		w.somebodys(release.Canary, true)
		w.scale(release.Primary, 20)
		_, _ = w.job("guard").FitCanary(w.Context())
		if !w.theirs(release.Canary) || w.replicas(release.Canary) != 1 {
			t.Errorf("%+v", w.deployment(release.Canary).ObjectMeta)
		}
		if _, err := w.job("shift").Shift(w.Context(), []int{60}, 0); err == nil || !w.theirs(release.Canary) {
			t.Errorf("%v, %+v", err, w.deployment(release.Canary).ObjectMeta)
		}
	})
}
