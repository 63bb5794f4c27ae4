package rollout_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// service is the app's Service as it is live.
func (w *world) service() *corev1.Service {
	w.Helper()
	live, err := w.kube.CoreV1().Services(namespace).Get(w.Context(), w.set.Service.Name, metav1.GetOptions{})
	w.must(live, err)
	return live
}

func (w *world) patchService(patch string) {
	w.Helper()
	w.must(w.kube.CoreV1().Services(namespace).Patch(w.Context(), w.set.Service.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))
}

// moved are manifests whose Service differs from the one that is live, in a way that fits both tracks.
func (w *world) moved() *manifest.Set {
	set := w.own()
	number := set.Deployment.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort
	set.Service.Spec.Ports = append(set.Service.Spec.Ports, corev1.ServicePort{Name: "http-alt", Port: 8080, TargetPort: intstr.FromInt32(number)})
	set.Service.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	for _, service := range set.Tracks {
		service.Spec.Ports = slices.Clone(set.Service.Spec.Ports)
	}
	return set
}

// TestServiceOfBothTracks: a Service that does not fit both tracks, as they are live, is refused before the lock, with
// the way to do it in two releases (invariant 14).
func TestServiceOfBothTracks(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *world, set *manifest.Set)
		says []string // of the error; none: it is taken
	}{
		"nothing":            {func(*world, *manifest.Set) {}, nil},
		"a port more":        {func(w *world, set *manifest.Set) { set.Service.Spec.Ports = w.moved().Service.Spec.Ports }, nil},
		"the number by name": {func(_ *world, set *manifest.Set) { set.Service.Spec.Ports[0].TargetPort = intstr.FromString("http") }, nil},
		"a selector of a label that primary lacks": {func(_ *world, set *manifest.Set) {
			set.Service.Spec.Selector["tier"], set.Deployment.Spec.Template.Labels["tier"] = "web", "web"
		}, []string{"spec.selector", "tier: web, in the manifest, does not select the pods of primary, as they are live", "in two steps"}},
		"a label that the live Service selects": {func(w *world, _ *manifest.Set) {
			w.patchDeployment(release.Primary, `[{"op":"add","path":"/spec/template/metadata/labels/tier","value":"web"}]`)
			w.patchService(`[{"op":"add","path":"/spec/selector/tier","value":"web"}]`)
		}, []string{"tier: web, in the cluster, does not select the pods of the canary", "in two steps"}},
		"a targetPort that primary does not have": {func(_ *world, set *manifest.Set) {
			set.Service.Spec.Ports[0].TargetPort = intstr.FromString("web")
			set.Deployment.Spec.Template.Spec.Containers[0].Ports[0].Name = "web"
		}, []string{"spec.ports", "leads to port web, which no container of the pods of primary, as they are live, has", "in two steps"}},
		"a container port that moves": {func(_ *world, set *manifest.Set) {
			set.Deployment.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort = 4000
			set.Service.Spec.Ports[0].TargetPort = intstr.FromInt32(4000)
		}, []string{"leads to port 4000", "primary, as they are live"}},
		"a container port that the canary leaves": {func(w *world, set *manifest.Set) {
			w.patchService(`[{"op":"replace","path":"/spec/ports/0/targetPort","value":3000}]`)
			set.Service.Spec.Ports[0].TargetPort = intstr.FromInt32(3000)
			set.Deployment.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort = 4000
		}, []string{"leads to port 3000", "the canary, as the manifest has them"}},
		"a port of a route taken away": {func(w *world, set *manifest.Set) {
			w.patchRoute(`[{"op":"add","path":"/spec/http/0/route/0/destination/port","value":{"number":80}}]`)
			set.Service.Spec.Ports[0].Port = 81
		}, []string{"takes port 80 away", "spec.http[0] of VirtualService prod/qwik-node-app-vs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, "rest", func(w *world) {
				j := w.job("job")
				j.Manifests = w.own()
				w.observer.started = false
				c.do(w, j.Manifests)
				w.wait()
				_, err := j.Canary(w.Context(), wanted("2"))
				if len(c.says) == 0 {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if !errors.As(err, new(*usererr.Error)) || len(j.every) > 0 {
					t.Errorf("%v, after %q", err, j.every)
				}
				for _, says := range c.says {
					if err == nil || !strings.Contains(err.Error(), says) {
						t.Errorf("%v does not say %q", err, says)
					}
				}
			})
		})
	}
}

// TestServiceAtPromotion: what fits both tracks is left alone while the canary is in flight, applied when primary runs
// the release, and taken back by a rollback, whatever manifests that is run with.
func TestServiceAtPromotion(t *testing.T) {
	at(t, "rest", func(w *world) {
		before := w.service().Spec
		j := w.job("job")
		j.Manifests = w.moved()
		w.must(j.Canary(w.Context(), wanted("2")))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		if diff := cmp.Diff(before, w.service().Spec); diff != "" {
			t.Errorf("the canary changed the Service:\n%s", diff)
		}
		w.must(j.Promote(w.Context()))
		if after := w.service().Spec; len(after.Ports) != 2 || after.SessionAffinity != corev1.ServiceAffinityClientIP {
			t.Errorf("after promotion the Service is %+v", after)
		}
		did := w.did(j)
		if at := slices.Index(did, "update service"); at < slices.Index(did, "update vs 100/0") {
			t.Errorf("it did %q", did)
		}
		if _, err := w.job("back").Rollback(w.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, w.service().Spec); diff != "" {
			t.Errorf("rollback left of the Service (-before +after):\n%s", diff)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
		again := w.job("again")
		r := wanted("2")
		r.ID = "again"
		again.Again = true
		again.Manifests = w.moved()
		w.must(again.Canary(w.Context(), r))
		w.must(judge(w.Context(), again.Cluster, release.Healthy))
		w.must(again.Promote(w.Context()))
		w.must(again.Cleanup(w.Context()))
		if after := w.service().Spec; len(after.Ports) != 2 {
			t.Errorf("after another promotion the Service is %+v", after)
		}
		state, err := w.kube.CoreV1().ConfigMaps(namespace).Get(w.Context(), "crossbill-"+w.set.App, metav1.GetOptions{})
		if err != nil || state.Data["previous-service.json"] != "" {
			t.Errorf("kept after the release: %v, %v", state.Data, err)
		}
	})
}

// TestServiceThatCameMeanwhile: a first release whose job has died does not take over a Service that somebody has made since, neither
// when it goes on, nor after a rollback, whose stamp would make it look like ours.
func TestServiceThatCameMeanwhile(t *testing.T) {
	at(t, "new", func(w *world) {
		w.observer.started = false
		first := w.job("first")
		first.killOn = "note r1 started"
		_, _ = first.Canary(first.ctx, wanted("1"))
		somebodys := w.set.Service.DeepCopy()
		somebodys.Spec.Selector = map[string]string{"app": "somebody's"}
		w.must(w.kube.CoreV1().Services(namespace).Create(w.Context(), somebodys, metav1.CreateOptions{}))
		time.Sleep(time.Minute) // the lock of the job that died is over
		stays := func(when string, err error) {
			t.Helper()
			live, getErr := w.kube.CoreV1().Services(namespace).Get(w.Context(), somebodys.Name, metav1.GetOptions{})
			if getErr != nil || live.Spec.Selector["app"] != "somebody's" || live.Annotations[epochAnnotation] != "" {
				t.Errorf("%s: the Service is %+v, %v", when, live, getErr)
			}
			if bad, ok := errors.AsType[*usererr.Error](err); !ok || bad.Field != "Service prod/qwik-node-app-service: spec.selector" {
				t.Errorf("%s: %v", when, err)
			}
		}
		j := w.job("resumed")
		_, err := j.Canary(w.Context(), wanted("1"))
		if stays("resumed", err); len(j.every) > 0 {
			t.Errorf("it wrote %q", j.every)
		}
		w.must(w.job("back").Rollback(w.Context(), "test"))
		next := w.job("next")
		next.Again = true
		_, err = next.Canary(w.Context(), wanted("1"))
		stays("after the rollback", err)
		w.must(nil, w.kube.CoreV1().Services(namespace).Delete(w.Context(), somebodys.Name, metav1.DeleteOptions{}))
		next.before = func(r *http.Request) error { // after it was looked at
			if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/services/"+somebodys.Name) {
				next.before = nil
				w.must(w.kube.CoreV1().Services(namespace).Create(w.Context(), somebodys, metav1.CreateOptions{}))
				return syscall.ECONNRESET
			}
			return nil
		}
		_, err = next.Canary(w.Context(), wanted("1"))
		stays("while it is made", err)
		w.must(nil, w.kube.CoreV1().Services(namespace).Delete(w.Context(), somebodys.Name, metav1.DeleteOptions{}))
		w.must(next.Canary(w.Context(), wanted("1")))
	})
}

// TestServiceOfAnother: a first release does not take over a Service that selects other pods, a missing Service is made
// for a canary, and one that promotion does not change is not written.
func TestServiceOfAnother(t *testing.T) {
	at(t, "new", func(w *world) {
		theirs := w.set.Service.DeepCopy()
		theirs.Spec.Selector = map[string]string{"app": "theirs"}
		w.must(w.kube.CoreV1().Services(namespace).Create(w.Context(), theirs, metav1.CreateOptions{}))
		j := w.job("job")
		if _, err := j.Canary(w.Context(), wanted("1")); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "crossbill migrate") || len(j.every) > 0 {
			t.Errorf("%v, after %q", err, j.every)
		}
	})
	at(t, "rest", func(w *world) {
		w.observer.started = false
		w.must(nil, w.kube.CoreV1().Services(namespace).Delete(w.Context(), w.set.Service.Name, metav1.DeleteOptions{}))
		j := w.job("job")
		w.must(j.Canary(w.Context(), wanted("2")))
		if did := w.did(j); !slices.Contains(did, "create service") {
			t.Errorf("it did %q", did)
		}
	})
	at(t, "healthy", func(w *world) {
		j := w.job("job")
		w.must(j.Promote(w.Context()))
		if slices.ContainsFunc(j.every, func(write string) bool { return strings.Contains(write, "/services/") }) {
			t.Errorf("it wrote %q", j.every)
		}
	})
}
