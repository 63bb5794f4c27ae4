package rollout_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
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

// layouts are ways in which people deploy an app manually, with what migrate does to each.
var layouts = []struct{ stage, changes string }{
	// The new Deployment adopts the old pods.
	{"manual", "delete primary but not its pods, create primary image 1 x2, create dr, update vs 100/0"},
	// It does not; they are removed at the end.
	{"manual, bare", "delete primary but not its pods, create primary image 1 x2, create dr, update vs 100/0, delete primary-HASH"},
	{"manual, another name", "create primary image 1 x2, create dr, update vs 100/0, delete web"},
}

// migrated says what is not as migrate leaves an app; "" when all is.
func (w *world) migrated() string {
	w.Helper()
	status, err := w.job("look").Status(w.Context())
	if err != nil {
		return err.Error()
	}
	primary := status.Tracks[release.Primary]
	switch {
	case status.Weights == nil || *status.Weights != manifest.WeightPair{Primary: 100}:
		return fmt.Sprintf("weights are %+v", status.Weights)
	case primary == nil || *primary != rollout.TrackStatus{Image: image("1"), Replicas: 2, Ready: 2}:
		return fmt.Sprintf("primary is %+v", primary)
	}
	vs, err := w.mesh.NetworkingV1().VirtualServices(namespace).Get(w.Context(), w.set.VirtualService.Name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	if http := vs.Spec.Http; len(http) != 2 || http[0].Name != "theirs" || len(http[1].Route) != 2 ||
		http[1].Route[0].Headers.GetResponse().GetSet()["x-by"] != "them" || http[1].Route[1].Destination.GetPort().GetNumber() != 80 {
		return fmt.Sprintf("what others set is not as it was: %v", http)
	}
	deployments, err := w.kube.AppsV1().Deployments(namespace).List(w.Context(), metav1.ListOptions{})
	if err != nil || len(deployments.Items) != 1 {
		return fmt.Sprintf("%d Deployments, %v", len(deployments.Items), err)
	}
	sets, err := w.kube.AppsV1().ReplicaSets(namespace).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, rs := range sets.Items {
		if metav1.GetControllerOf(&rs) == nil {
			return "ReplicaSet " + rs.Name + " is left"
		}
	}
	if slices.ContainsFunc(vs.ManagedFields, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "crossbill" }) {
		return "the VirtualService has fields that crossbill still owns"
	}
	if drift := deployments.Items[0].Spec.Replicas; drift == nil || *drift != 2 {
		return "primary has another size"
	}
	return ""
}

// TestMigrate takes apps that were deployed manually to the two tracks; done twice it does nothing, and a release works on it.
func TestMigrate(t *testing.T) {
	for _, c := range layouts {
		t.Run(c.stage, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				j := w.job("job")
				if _, err := j.Migrate(w.Context(), ""); err != nil {
					t.Fatal(err)
				}
				did := w.did(j)
				for i, d := range did {
					if strings.HasPrefix(d, "delete primary-") {
						did[i] = "delete primary-HASH"
					}
				}
				if diff := cmp.Diff(c.changes, strings.Join(slices.DeleteFunc(did, func(d string) bool { return d == "create public-gateway" }), ", ")); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				w.wait()
				if wrong := w.migrated(); wrong != "" {
					t.Error(wrong)
				}
				again := w.job("again")
				if _, err := again.Migrate(w.Context(), ""); err != nil || len(again.every) > 0 {
					t.Errorf("again: %v, after %q", err, again.every)
				}
				w.must(again.Canary(w.Context(), wanted("2")))
				w.finish("a release after migrate")
				if unrest := w.unrest("2"); unrest != "" {
					t.Error(unrest)
				}
			})
		})
	}
}

// TestMigrateCrashes lets every write of migrate fail; the same command goes on from there, and no traffic is lost
// meanwhile.
func TestMigrateCrashes(t *testing.T) {
	var cases atomic.Int64
	t.Run("matrix", func(t *testing.T) {
		for _, c := range layouts {
			for _, f := range []fault{never, silent, outdated, dies, refused} {
				t.Run(c.stage+", a write "+string(f), func(t *testing.T) {
					t.Parallel()
					first, stride := strides(f)
					stride = min(stride, 5)
					for n := first; !t.Failed(); n += stride {
						more := false
						at(t, c.stage, func(w *world) {
							j := w.job("first")
							j.at, j.fault = n, f
							_, err := j.Migrate(j.ctx, "")
							if more = j.hit != ""; !more {
								return
							}
							cases.Add(1)
							if (err != nil) == (f == never || f == silent || f == outdated) && !harmless(j.hit) {
								t.Errorf("write %d (%s) %s: %v", n, j.hit, f, err)
							}
							time.Sleep(20 * time.Second)
							if err != nil {
								_, err = w.job("next").Migrate(w.Context(), "")
							}
							if err != nil {
								t.Errorf("write %d (%s) %s: again: %v", n, j.hit, f, err)
							}
							w.wait()
							wrong := w.migrated()
							if wrong != "" {
								t.Errorf("write %d (%s) %s: %s", n, j.hit, f, wrong)
							}
						})
						if !more {
							break
						}
					}
				})
			}
		}
	})
	if cases.Load() < 50 {
		t.Errorf("only %d cases", cases.Load())
	}
}

// TestMigrateFence: a newer lock comes to every object before each write of migrate; nothing but creations arrives.
func TestMigrateFence(t *testing.T) {
	for _, c := range layouts {
		t.Run(c.stage, func(t *testing.T) {
			t.Parallel()
			fenced(t, c.stage, "migrate", 1, 1)
		})
	}
}

// TestMigratePlan: the dry run has what the real one does.
func TestMigratePlan(t *testing.T) {
	for _, c := range layouts {
		at(t, c.stage, func(w *world) {
			j := w.job("plan")
			j.Plan = &rollout.Plan{}
			before := w.server.version
			if _, err := j.Migrate(w.Context(), ""); err != nil || w.server.version != before {
				w.Fatalf("%s: %v", c.stage, err)
			}
			var planned []string
			for _, change := range j.Plan.Changes {
				_, name, _ := strings.Cut(change.Object, "/")
				planned = append(planned, change.Action+" "+strings.TrimPrefix(name, w.set.App+"-"))
			}
			for _, want := range []string{"create primary", "create dr", "update vs"} {
				if !slices.Contains(planned, want) {
					t.Errorf("%s: %q lacks %q", c.stage, planned, want)
				}
			}
			if old := map[bool]string{true: "delete web", false: "delete primary"}[c.stage == "manual, another name"]; !slices.Contains(planned, old) {
				t.Errorf("%s: %q lacks %q", c.stage, planned, old)
			}
		})
	}
}

// TestMigrateKeepsTheTemplate: primary runs the pod template that runs, byte for byte, with the labels of its track; what
// the manifests have otherwise is shown, and goes out with the first canary.
func TestMigrateKeepsTheTemplate(t *testing.T) {
	for _, c := range layouts {
		at(t, c.stage, func(w *world) {
			name := map[bool]string{true: "web", false: w.set.Name(release.Primary)}[c.stage == "manual, another name"]
			before, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), name, metav1.GetOptions{})
			w.must(before, err)
			for _, dryRun := range []bool{true, false} {
				j := w.job("job")
				j.Manifests = w.own()
				j.Manifests.Deployment.Spec.Template.Spec.Containers[0].Env[1].Value = "changed"
				if dryRun {
					j.Plan = &rollout.Plan{}
				}
				w.must(j.Migrate(w.Context(), ""))
				if logged := strings.Join(j.logged, "\n"); !strings.Contains(logged, "keeps the pod template that runs; the first canary brings the manifests'") || !strings.Contains(logged, "+    - name: "+j.Manifests.Deployment.Spec.Template.Spec.Containers[0].Env[1].Name) && !strings.Contains(logged, "+      value: changed") {
					t.Errorf("%s, dry run %v: it says %s", c.stage, dryRun, logged)
				}
			}
			after, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(release.Primary), metav1.GetOptions{})
			w.must(after, err)
			want := before.Spec.Template.DeepCopy()
			want.Labels["version"] = "primary"
			want.Spec.Containers[0].Image = image("1")
			if diff := cmp.Diff(*want, after.Spec.Template); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.stage, diff)
			}
			w.wait()
			next := w.job("next")
			next.Manifests = w.own()
			next.Manifests.Deployment.Spec.Template.Spec.Containers[0].Env[1].Value = "changed"
			w.must(next.Canary(w.Context(), wanted("2")))
			w.must(judge(w.Context(), next.Cluster, release.Healthy))
			w.must(next.Promote(w.Context()))
			w.must(next.Cleanup(w.Context()))
			after, err = w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(release.Primary), metav1.GetOptions{})
			w.must(after, err)
			if got := after.Spec.Template.Spec.Containers[0].Env[1].Value; got != "changed" {
				t.Errorf("%s: after the first release primary has %q", c.stage, got)
			}
		})
	}
}

// TestMigrateWithASidecar: a pod has a container that was injected, and the app's is named neither app nor like the app.
func TestMigrateWithASidecar(t *testing.T) {
	at(t, "new", func(w *world) {
		w.observer.started = false
		manifests := broughtCase(t, "24-migrate-with-sidecar")
		old := manifests.Deployment.DeepCopy()
		old.ObjectMeta = metav1.ObjectMeta{Name: "shop"}
		old.Spec.Selector.MatchLabels, old.Spec.Template.Labels = map[string]string{"app": "shop"}, map[string]string{"app": "shop"}
		old.Spec.Template.Spec.Containers[0].Image = image("1")
		w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), old, metav1.CreateOptions{}))
		w.must(w.kube.CoreV1().Services(namespace).Create(w.Context(), manifests.Service.DeepCopy(), metav1.CreateOptions{}))
		w.wait()
		pods, err := w.kube.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{})
		w.must(pods, err)
		w.server.mu.Lock()
		for i := range pods.Items {
			pod := &pods.Items[i]
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "istio-proxy", Image: "proxy:1"})
			set(w.controllers, "pods", pod)
		}
		w.server.mu.Unlock()
		j := w.job("job")
		j.Manifests = manifests
		if _, err := j.Migrate(w.Context(), ""); err != nil {
			t.Fatal(err)
		}
		status, err := j.Status(w.Context())
		if err != nil || digitOf(status.Tracks[release.Primary].Image) != "1" {
			t.Errorf("%+v, %v", status, err)
		}
		primary, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), "shop-primary", metav1.GetOptions{})
		if err != nil || len(primary.Spec.Template.Spec.Containers) != 1 {
			t.Errorf("the sidecar was taken over: %v, %v", primary, err)
		}
	})
}

// TestMigrateLeavesAForeignCanary: a Deployment of the canary's name that no release has made is not migrate's to delete.
func TestMigrateLeavesAForeignCanary(t *testing.T) {
	for _, stage := range []string{"rest", "manual, another name"} {
		at(t, stage, func(w *world) {
			w.observer.started = false
			w.somebodys(release.Canary, true)
			j := w.job("job")
			_, err := j.Migrate(w.Context(), "")
			if bad, ok := errors.AsType[*usererr.Error](err); !ok || bad.Field != "Deployment prod/qwik-node-app-canary" || len(j.every) > 0 || !w.theirs(release.Canary) {
				t.Errorf("%s: %v, after %q", stage, err, j.every)
			}
		})
	}
}
