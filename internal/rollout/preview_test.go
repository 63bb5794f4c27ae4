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
	networkingapi "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

const previewService = "qwik-node-app-preview-pr-42"

// previewOf is the preview of an image that tests bring up.
func previewOf(digit string) rollout.PreviewSpec {
	return rollout.PreviewSpec{Name: "pr-42", Image: image(digit), Header: rollout.DefaultPreviewHeader, Replicas: 1, Lasts: rollout.DefaultPreviewLasts, Limit: rollout.DefaultPreviewLimit}
}

func init() {
	commands["preview up"] = func(ctx context.Context, j *job) (rollout.Result, error) { return j.PreviewUp(ctx, previewOf("9")) }
	commands["preview down"] = func(ctx context.Context, j *job) (rollout.Result, error) { return j.PreviewDown(ctx, "pr-42") }
}

// previewRouting checks that what leads to a preview leads the requests with its header there and no others, and names a
// Service that is there with a ready endpoint; and that nothing of the app's selects its pods.
func (o *observer) previewRouting(e event) {
	check := func(place, service string, conditions []map[string]string) {
		for _, headers := range conditions {
			if headers["x-crossbill-preview"] != strings.TrimPrefix(service, "qwik-node-app-preview-") {
				o.found(e, "%s leads to %s by the headers %v", place, service, headers)
			}
		}
		ready := 0
		for slice, of := range o.slices {
			if of == service {
				ready += len(o.ready[slice])
			}
		}
		if !o.services[service] || ready == 0 || len(conditions) == 0 {
			o.found(e, "%s leads to %s, which has %d ready endpoints", place, service, ready)
		}
	}
	if o.route != nil {
		for _, http := range o.route.Spec.Http {
			for _, d := range http.Route {
				if name, _, _ := strings.Cut(d.GetDestination().GetHost(), "."); strings.Contains(name, "-preview-") {
					check("http route "+http.Name, name, headersOf(http.Match))
				}
			}
		}
	}
	for name, route := range o.previews {
		rules, _, _ := unstructured.NestedSlice(route.Object, "spec", "rules")
		for _, rule := range rules {
			var conditions []map[string]string
			for _, m := range rule.(map[string]any)["matches"].([]any) {
				headers := map[string]string{}
				all, _ := m.(map[string]any)["headers"].([]any)
				for _, h := range all {
					key, value := fieldsOf(h, "name", "value")
					headers[key] = value
				}
				conditions = append(conditions, headers)
			}
			for _, b := range rule.(map[string]any)["backendRefs"].([]any) {
				service, _ := fieldsOf(b, "name", "")
				check("HTTPRoute "+name, service, conditions)
			}
		}
	}
	for slice, service := range o.slices {
		for pod := range o.ready[slice] {
			if strings.HasPrefix(o.tracks[pod], "preview-") && !strings.HasSuffix(service, o.tracks[pod]) {
				o.found(e, "Service %s has pod %s of a preview", service, pod)
			}
		}
	}
}

func headersOf(all []*networkingapi.HTTPMatchRequest) (conditions []map[string]string) {
	for _, m := range all {
		headers := map[string]string{}
		for name, value := range m.Headers {
			headers[name] = value.GetExact()
		}
		conditions = append(conditions, headers)
	}
	return conditions
}

// previewRoutes are the HTTPRoutes that lead callers to the app, the oldest first.
func (w *world) allRoutes() *unstructured.Unstructured {
	w.Helper()
	list, err := w.any(w.set.Route).List(w.Context(), metav1.ListOptions{})
	w.must(list, err)
	slices.SortStableFunc(list.Items, func(a, b unstructured.Unstructured) int {
		return a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time)
	})
	merged, rules := w.liveRoute(), []any{}
	for i := range list.Items {
		of, _, _ := unstructured.NestedSlice(list.Items[i].Object, "spec", "rules")
		rules = append(rules, of...)
	}
	w.must(nil, unstructured.SetNestedSlice(merged.Object, rules, "spec", "rules"))
	return merged
}

// asked is who answers a request, by either router.
func (w *world) asked(method, path string, headers map[string]string) answered {
	w.Helper()
	if w.gateway {
		return askRoute(w.allRoutes(), method, path, headers)
	}
	return ask(w.liveVS(), method, path, headers)
}

// routesText is what routes the app but its previews.
func (w *world) routesText() string {
	w.Helper()
	if w.gateway {
		return rulesText(w.T, w.liveRoute())
	}
	var text []string
	for _, http := range w.liveVS().Spec.Http {
		if !strings.HasPrefix(http.Name, manifest.PreviewPrefix) {
			text = append(text, http.String())
		}
	}
	return strings.Join(text, "\n")
}

// routers runs a test of a stage with each router.
func routers(t *testing.T, stage string, test func(w *world)) {
	t.Helper()
	for _, prefix := range []string{"", gatewayApp} {
		t.Run(prefix+stage, func(t *testing.T) {
			t.Parallel()
			at(t, prefix+stage, test)
		})
	}
}

// leftOfPreviews names what there is of previews.
func (w *world) leftOfPreviews() (left []string) {
	w.Helper()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	for p, o := range w.server.objects {
		if o.object.GetLabels()[manifest.PreviewOfLabel] != "" && o.object.GetDeletionTimestamp() == nil || p.resource == "pods" && strings.Contains(p.name, "-preview-") {
			left = append(left, p.resource+"/"+p.name)
		}
	}
	slices.Sort(left)
	return left
}

// TestPreview: a preview is reached by its header alone, by every method; what it is written with, and in which order; nothing is
// left of it, and what routes the app is as it was.
func TestPreview(t *testing.T) {
	for _, stage := range []string{"rest", "foreign"} {
		routers(t, stage, func(w *world) {
			before, header := w.routesText(), map[string]string{"x-crossbill-preview": "pr-42"}
			up := w.job("up")
			result, err := up.PreviewUp(w.Context(), previewOf("9"))
			w.must(result, err)
			if p := result.Preview; p == nil || !p.Routed || p.Header != "x-crossbill-preview: pr-42" || p.Image != image("9") || p.Ready != 1 {
				t.Errorf("%+v", p)
			}
			want := []string{"create preview-pr-42 image 9 x1", "create preview-pr-42", "update vs 100/0 preview pr-42"}
			if w.gateway {
				want[2] = "create preview-pr-42 route"
			}
			if diff := cmp.Diff(want, w.did(up)); diff != "" {
				t.Errorf("up (-want +did):\n%s", diff)
			}
			w.wait()
			for _, method := range []string{"GET", "HEAD", "POST"} {
				if got := w.asked(method, "/x", header); len(got.By) != 1 || got.By[previewService] == 0 || len(got.Copies) > 0 {
					t.Errorf("%s with the header gets %v", method, got)
				}
				for _, others := range []map[string]string{nil, {"x-crossbill-preview": "pr-4"}, {"x-crossbill-preview": ""}, {"x-crossbill-preview": "pr-42x"}} {
					if got := w.asked(method, "/x", others); got.By[previewService] != 0 {
						t.Errorf("%s with %v gets %v", method, others, got)
					}
				}
			}
			again := w.job("again")
			w.must(again.PreviewUp(w.Context(), previewOf("8")))
			if got := strings.Join(w.did(again), ", "); got != "update preview-pr-42 image 8" {
				t.Errorf("again: %s", got)
			}
			down := w.job("down")
			w.must(down.PreviewDown(w.Context(), "pr-42"))
			want = []string{"update vs 100/0", "delete preview-pr-42"}
			if w.gateway {
				want[0] = "delete preview-pr-42 route"
			}
			if diff := cmp.Diff(want, w.did(down)); diff != "" {
				t.Errorf("down (-want +did):\n%s", diff)
			}
			time.Sleep(time.Minute)
			if left := w.leftOfPreviews(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if diff := cmp.Diff(before, w.routesText()); diff != "" {
				t.Errorf("the app's routes (-before +after):\n%s", diff)
			}
			if unrest := w.unrest("1"); unrest != "" && stage == "rest" {
				t.Error(unrest)
			}
			if result, err := w.job("none").PreviewDown(w.Context(), "pr-42"); err != nil || !strings.Contains(result.Message, "nothing to do") {
				t.Errorf("down again: %v, %v", result, err)
			}
		})
	}
}

// TestPreviewBesideARelease: a whole release goes by while a preview is up, and leaves its rule where it is; neither sees the
// other. What the commands do is what they do without a preview.
func TestPreviewBesideARelease(t *testing.T) {
	for name, end := range map[string][]string{
		"promoted": {"mirror", "shift", "verify healthy", "promote", "cleanup"},
		"rolled":   {"match", "rollback"},
		"guarded":  {"canary", "guard"},
		"returned": {"canary", "verify healthy", "promote under traffic", "cleanup", "return"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			effects := map[bool][]string{}
			for _, prefix := range []string{"", gatewayApp} {
				for _, preview := range []bool{false, true} {
					at(t, prefix+"rest", func(w *world) {
						atRest := w.routesText()
						if preview {
							w.must(w.job("up").PreviewUp(w.Context(), previewOf("9")))
						}
						effects[preview] = nil
						for _, command := range end {
							j := w.job(command)
							_, err := commands[command](w.Context(), j)
							w.must(nil, err)
							for _, did := range w.did(j) {
								effects[preview] = append(effects[preview], strings.ReplaceAll(did, " preview pr-42", ""))
							}
							w.wait()
							if !preview {
								continue
							}
							for method, headers := range map[string]map[string]string{"GET": {"x-crossbill-preview": "pr-42"}, "POST": {"x-crossbill-preview": "pr-42"}} {
								if got := w.asked(method, "/", headers); got.By[previewService] == 0 || len(got.By) > 1 || len(got.Copies) > 0 {
									t.Errorf("%safter %s, %s with the header gets %v", prefix, command, method, got)
								}
							}
							if got := w.asked("GET", "/", nil); got.By[previewService] != 0 {
								t.Errorf("%safter %s, others get %v", prefix, command, got)
							}
						}
						if diff := cmp.Diff(atRest, w.routesText()); diff != "" && !strings.Contains(name, "guard") {
							t.Errorf("%sthe routes are not as they were (-then +now):\n%s", prefix, diff)
						}
						if preview {
							w.must(w.job("down").PreviewDown(w.Context(), "pr-42"))
						}
					})
				}
				if diff := cmp.Diff(effects[false], effects[true]); diff != "" {
					t.Errorf("%sthe release (-without a preview +with one):\n%s", prefix, diff)
				}
			}
		})
	}
}

// TestPreviewCrashes lets writes of both commands fail in each way, while a release is in flight: the same command finishes the
// work, and down takes everything away. In the short form the cases take turns with the writes and the faults.
func TestPreviewCrashes(t *testing.T) {
	i := 0
	for _, stage := range []string{"matched", configuredApp + "canary"} {
		for _, prefix := range []string{"", gatewayApp} {
			for _, command := range []string{"preview up", "preview down"} {
				first, stride, faults := 1+i%4, 4, []fault{dies, refused, silent, dies, never, outdated}
				turn := i
				i++
				t.Run(prefix+stage+", "+command, func(t *testing.T) {
					t.Parallel()
					of := func(n int) []fault { return faults[(n+turn)%len(faults):][:1] }
					if *everyWrite {
						first, stride, of = 1, 1, func(int) []fault { return []fault{never, silent, dies, refused, outdated} }
					}
					more := true
					for n := first; more && !t.Failed(); n += stride {
						for _, f := range of(n) {
							at(t, prefix+stage, func(w *world) { more = w.previewCrash(command, f, n) })
						}
					}
				})
			}
		}
	}
}

// previewCrash is one case; false when the command has fewer writes.
func (w *world) previewCrash(command string, f fault, n int) bool {
	w.Helper()
	routes := w.routesText()
	if command == "preview down" {
		w.must(w.job("up").PreviewUp(w.Context(), previewOf("9")))
	}
	first := w.job("first")
	first.at, first.fault = n, f
	_, err := commands[command](first.ctx, first)
	if first.hit == "" {
		return false
	}
	where := fmt.Sprintf("write %d (%s) %s", n, first.hit, f)
	if f == outdated && strings.HasPrefix(first.hit, "POST") {
		f = none // there is nothing that it could conflict with
	}
	if passes := f == none || f == never || f == silent || f == outdated; passes && err != nil || !passes && err == nil && !harmless(first.hit) {
		w.Errorf("%s: %v", where, err)
	}
	time.Sleep(90 * time.Second)
	for _, then := range []string{command, "preview down"} {
		if _, err := commands[then](w.Context(), w.job("next")); err != nil {
			w.Errorf("%s, then %s: %v", where, then, err)
		}
		if got := w.asked("GET", "/", map[string]string{"x-crossbill-preview": "pr-42"}); (got.By[previewService] > 0) != (then == "preview up") {
			w.Errorf("%s, after %s the header leads to %v", where, then, got)
		}
	}
	time.Sleep(time.Minute)
	if left := w.leftOfPreviews(); len(left) > 0 {
		w.Errorf("%s: left: %v", where, left)
	}
	if diff := cmp.Diff(routes, w.routesText()); diff != "" {
		w.Errorf("%s: the app's routes (-before +after):\n%s", where, diff)
	}
	w.finish(where)
	return true
}

// TestNoPreview: what cannot be a preview is refused before anything is written.
func TestNoPreview(t *testing.T) {
	deployment := func(w *world, labels map[string]string) {
		d := w.deployment(release.Primary)
		d.ObjectMeta = metav1.ObjectMeta{Name: previewService, Namespace: namespace, Labels: labels}
		d.Spec.Selector.MatchLabels, d.Spec.Template.Labels = map[string]string{"a": "b"}, map[string]string{"a": "b"}
		w.must(w.kube.AppsV1().Deployments(namespace).Create(w.Context(), d, metav1.CreateOptions{}))
	}
	for name, c := range map[string]struct {
		stage   string
		prepare func(*world, *job, *rollout.PreviewSpec)
		says    string
	}{
		"a name with a dot":  {"rest", func(_ *world, _ *job, p *rollout.PreviewSpec) { p.Name = "pr.42" }, "is not a name of lower-case letters"},
		"a long name":        {"rest", func(_ *world, _ *job, p *rollout.PreviewSpec) { p.Name = strings.Repeat("a", 50) }, "has at most 63"},
		"no header":          {"rest", func(_ *world, _ *job, p *rollout.PreviewSpec) { p.Header = ":path" }, "is a pseudo-header"},
		"an app without one": {"new", func(*world, *job, *rollout.PreviewSpec) {}, "a preview runs beside an app that was released"},
		"one too many": {"rest", func(w *world, _ *job, p *rollout.PreviewSpec) {
			other := previewOf("8")
			other.Name = "pr-1"
			w.must(w.job("other").PreviewUp(w.Context(), other))
			p.Limit = 1
		}, "has 1 preview already: pr-1 (until "},
		"somebody's Deployment": {"rest", func(w *world, _ *job, _ *rollout.PreviewSpec) { deployment(w, nil) }, "is there, and is not a preview's"},
		"another app's": {"rest", func(w *world, _ *job, _ *rollout.PreviewSpec) {
			deployment(w, map[string]string{manifest.PreviewLabel: "pr-42", manifest.PreviewOfLabel: "qwik"})
		}, "is there, and is not a preview's"},
		"somebody's Service": {"rest", func(w *world, _ *job, _ *rollout.PreviewSpec) {
			w.must(w.kube.CoreV1().Services(namespace).Create(w.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: previewService}, Spec: corev1.ServiceSpec{Selector: map[string]string{"a": "b"}}}, metav1.CreateOptions{}))
		}, "is there, and is not a preview's"},
		"a kept label that selects": {"rest", func(_ *world, _ *job, p *rollout.PreviewSpec) { p.Labels = []string{"app"} }, "is among the labels by which"},
		"an image that is rejected": {"rest", func(_ *world, j *job, _ *rollout.PreviewSpec) {
			j.Admit = func(_ context.Context, r *release.Release) error {
				return &usererr.Error{Field: "image", Problem: r.Digest() + " is rejected"}
			}
		}, "is rejected"},
		"steps that are commits": {gitApp + "rest", func(*world, *job, *rollout.PreviewSpec) {}, "gitops.store: it is git, and a preview is written to the cluster"},
		"a route by Flux": {"rest", func(w *world, _ *job, _ *rollout.PreviewSpec) {
			w.patchRoute(`[{"op":"add","path":"/metadata/labels","value":{"kustomize.toolkit.fluxcd.io/name":"app","kustomize.toolkit.fluxcd.io/namespace":"flux-system"}}]`)
		}, "would take the rule of a preview out of it"},
		"the header is taken": {"rest", func(w *world, _ *job, _ *rollout.PreviewSpec) {
			w.observer.started = false
			w.patchRoute(`[{"op":"add","path":"/spec/http/0/match","value":[{"headers":{"x-crossbill-preview":{"exact":"a"}}}]}]`)
		}, "matches the header x-crossbill-preview already"},
		"the header is taken by a rule": {gatewayApp + "rest", func(w *world, _ *job, _ *rollout.PreviewSpec) {
			w.reroute(`[{"op":"add","path":"/spec/rules/0/matches","value":[{"headers":[{"name":"X-Crossbill-Preview","value":"a"}]}]}]`)
		}, "matches the header x-crossbill-preview already"},
		"somebody's route": {gatewayApp + "rest", func(w *world, _ *job, _ *rollout.PreviewSpec) {
			route := w.liveRoute()
			theirs := &unstructured.Unstructured{Object: map[string]any{"apiVersion": route.GetAPIVersion(), "kind": route.GetKind(), "metadata": map[string]any{"name": previewService, "namespace": namespace}, "spec": route.Object["spec"]}}
			w.observer.started = false
			w.must(w.any(w.set.Route).Create(w.Context(), theirs, metav1.CreateOptions{}))
		}, "is there, and is not a preview's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				want, j := previewOf("9"), w.job("job")
				c.prepare(w, j, &want)
				_, err := j.PreviewUp(w.Context(), want)
				if refusal(err) == "" || !strings.Contains(fmt.Sprint(err), c.says) || len(j.every) > 0 {
					t.Errorf("%v, after %q; want %q", err, j.every, c.says)
				}
			})
		})
	}
}

// TestPreviewNotReady: an image that does not come up gets no rule; one that took the place of a good one leaves it serving.
// Primary is as it was.
func TestPreviewNotReady(t *testing.T) {
	routers(t, "rest", func(w *world) {
		w.controllers.broken[release.DigestOf(image("9"))] = *ofContainer(&corev1.ContainerStatus{Name: "app", State: waits("ImagePullBackOff", "not found")})
		header := map[string]string{"x-crossbill-preview": "pr-42"}
		up := func(digit string, fails bool) {
			t.Helper()
			_, err := w.job("up").PreviewUp(w.Context(), previewOf(digit))
			if notReady := errors.As(err, new(*rollout.NotReadyError)); notReady != fails || !fails && err != nil {
				t.Errorf("up with %s: %v", digit, err)
			}
		}
		up("9", true)
		if got := w.asked("GET", "/", header); got.By[previewService] != 0 {
			t.Errorf("it is reached: %v", got)
		}
		up("8", false)
		up("9", true)
		if got := w.asked("GET", "/", header); got.By[previewService] == 0 {
			t.Errorf("it is not reached any more: %v", got)
		}
		w.must(w.job("down").PreviewDown(w.Context(), "pr-42"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestPreviewsEnd: guard ends what nobody wants any more, and nothing else.
func TestPreviewsEnd(t *testing.T) {
	routers(t, "canary", func(w *world) {
		for name, lasts := range map[string]time.Duration{"pr-1": time.Hour, "pr-2": 3 * time.Hour, "pr-3": 3 * time.Hour} {
			want := previewOf("9")
			want.Name, want.Lasts = name, lasts
			w.must(w.job("up").PreviewUp(w.Context(), want))
		}
		ends := func(want ...string) {
			t.Helper()
			j := w.job("guard")
			ended, err := j.EndPreviews(w.Context())
			if diff := cmp.Diff(want, ended); diff != "" || err != nil {
				t.Errorf("%v (-want +ended):\n%s", err, diff)
			}
			if len(want) == 0 && len(j.every) > 0 {
				t.Errorf("it wrote %v", j.every)
			}
		}
		ends()
		time.Sleep(2 * time.Hour)
		ends("pr-1")
		again := previewOf("9")
		again.Name = "pr-2" // has a new time
		w.must(w.job("up").PreviewUp(w.Context(), again))
		time.Sleep(2 * time.Hour)
		ends("pr-3")
		w.observer.started = false // somebody deletes what a rule leads to
		policy := metav1.DeletePropagationForeground
		w.must(nil, w.kube.AppsV1().Deployments(namespace).Delete(w.Context(), "qwik-node-app-preview-pr-2", metav1.DeleteOptions{PropagationPolicy: &policy}))
		time.Sleep(time.Minute)
		if !w.gateway { // a route of its own has gone with it
			all, err := w.job("list").Previews(w.Context())
			if diff := cmp.Diff([]rollout.Preview{{Name: "pr-2", Routed: true}}, all, cmp.AllowUnexported(rollout.Preview{})); diff != "" || err != nil {
				t.Errorf("%v (-want +listed):\n%s", err, diff)
			}
			ends("pr-2")
		}
		ends()
		time.Sleep(time.Minute)
		if left := w.leftOfPreviews(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestPreviewReads: a preview's pods read copies of their own, which a release neither shares nor deletes, and which go with it.
func TestPreviewReads(t *testing.T) {
	routers(t, configuredApp+"rest", func(w *world) {
		up := func(version string) (reads []string) {
			t.Helper()
			j := w.job("up")
			j.Manifests = w.version(version)
			w.must(j.PreviewUp(w.Context(), previewOf("1")))
			d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), previewService, metav1.GetOptions{})
			w.must(d, err)
			for _, r := range manifest.References(&d.Spec.Template.Spec) {
				if !r.Node && strings.HasPrefix(r.Name, previewService+"-") {
					reads = append(reads, r.Kind+" "+r.Name)
				}
			}
			slices.Sort(reads)
			return slices.Compact(reads)
		}
		ones := up("1")
		if len(ones) == 0 {
			t.Fatal("it reads nothing of its own")
		}
		w.must(w.job("canary").Canary(w.Context(), w.job("x").wanted("2")))
		w.must(w.job("rollback").Rollback(w.Context(), "test"))
		twos := up("2")
		if cmp.Equal(ones, twos) {
			t.Errorf("another version is read as the same: %v", twos)
		}
		var left []string
		for _, o := range w.leftOfPreviews() {
			if strings.HasPrefix(o, "configmaps/") || strings.HasPrefix(o, "secrets/") {
				left = append(left, strings.NewReplacer("configmaps/", "ConfigMap ", "secrets/", "Secret ").Replace(o))
			}
		}
		if diff := cmp.Diff(twos, left); diff != "" {
			t.Errorf("copies (-read +there):\n%s", diff)
		}
		w.must(w.job("down").PreviewDown(w.Context(), "pr-42"))
		time.Sleep(time.Minute)
		if left := w.leftOfPreviews(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestPreviewsWait: a preview does not get between the writes of a job that has the app's lock, and holds none while it waits for
// its pods.
func TestPreviewsWait(t *testing.T) {
	routers(t, "rest", func(w *world) {
		w.controllers.stopped = true
		done := make(chan error, 1)
		up := w.job("up")
		go func() {
			_, err := up.PreviewUp(w.Context(), previewOf("9"))
			done <- err
		}()
		time.Sleep(20 * time.Second) // it waits for its pods
		began := time.Now()
		w.must(w.job("hold").Hold(w.Context(), "test"))
		if took := time.Since(began); took > time.Second {
			t.Errorf("a command waited %s for a preview's pods", took)
		}
		w.must(w.job("resume").Resume(w.Context()))
		w.server.mu.Lock()
		w.controllers.stopped = false
		w.server.mu.Unlock()
		w.controllers.hurry()
		w.must(nil, <-done)
		// A canary that waits for its pods has the lock.
		w.server.mu.Lock()
		w.controllers.broken[release.DigestOf(image("2"))] = corev1.PodStatus{}
		w.server.mu.Unlock()
		canary := make(chan error, 1)
		ctx, cancel := context.WithCancel(w.Context())
		go func() {
			_, err := w.job("canary").Canary(ctx, wanted("2"))
			canary <- err
		}()
		time.Sleep(10 * time.Second)
		down := w.job("down")
		if _, err := down.PreviewDown(w.Context(), "pr-42"); !errors.As(err, new(*rollout.LockHeldError)) || len(down.every) > 0 {
			t.Errorf("down beside a canary: %v, after %v", err, down.every)
		}
		cancel()
		if err := <-canary; err == nil {
			t.Error("the canary got ready")
		}
		time.Sleep(2 * time.Minute)
		w.must(w.job("rollback").Rollback(w.Context(), "test"))
		w.must(w.job("down").PreviewDown(w.Context(), "pr-42"))
	})
}

// TestPreviewPlan: a dry run shows all that would be written, and writes nothing.
func TestPreviewPlan(t *testing.T) {
	routers(t, "rest", func(w *world) {
		plan := func(command string) (changes []string) {
			t.Helper()
			j := w.job("plan")
			j.Plan = &rollout.Plan{}
			_, err := commands[command](w.Context(), j)
			w.must(nil, err)
			if did := w.did(j); len(did) > 0 {
				t.Errorf("%s: the plan did %v", command, did)
			}
			for _, change := range j.Plan.Changes {
				changes = append(changes, change.Action+" "+change.Object)
			}
			return changes
		}
		route := []string{"update VirtualService prod/qwik-node-app-vs", "update VirtualService prod/qwik-node-app-vs"}
		if w.gateway {
			route = []string{"create HTTPRoute prod/" + previewService, "delete HTTPRoute prod/" + previewService}
		}
		if diff := cmp.Diff([]string{"create Deployment prod/" + previewService, "create Service prod/" + previewService, route[0]}, plan("preview up")); diff != "" {
			t.Errorf("up (-want +planned):\n%s", diff)
		}
		w.must(w.job("up").PreviewUp(w.Context(), previewOf("9")))
		if diff := cmp.Diff([]string{route[1], "delete Deployment prod/" + previewService}, plan("preview down")); diff != "" {
			t.Errorf("down (-want +planned):\n%s", diff)
		}
	})
}

// TestPreviewAlone: the pods of a preview have nothing by which they are taken for the app's, or push primary's off a node.
func TestPreviewAlone(t *testing.T) {
	at(t, "rest", func(w *world) {
		set, err := loadManifests()
		w.must(set, err)
		pod := &set.Deployment.Spec.Template
		pod.Labels["team"], pod.Labels["tier"], pod.Labels["sidecar.istio.io/inject"] = "shop", "web", "true"
		terms := []corev1.PodAffinityTerm{{TopologyKey: "kubernetes.io/hostname", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "qwik-node-app"}}}}
		pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}, NodeAffinity: &corev1.NodeAffinity{}}
		pod.Spec.TopologySpreadConstraints, pod.Spec.PriorityClassName = []corev1.TopologySpreadConstraint{{MaxSkew: 1}}, "high"
		j, want := w.job("up"), previewOf("9")
		j.Manifests, want.Labels = set, []string{"team"}
		w.must(j.PreviewUp(w.Context(), want))
		d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), previewService, metav1.GetOptions{})
		w.must(d, err)
		labels := map[string]string{
			"app": previewService, "version": "preview-pr-42", "team": "shop", "sidecar.istio.io/inject": "true", "app.kubernetes.io/managed-by": "crossbill",
			manifest.PreviewLabel: "pr-42", manifest.PreviewOfLabel: "qwik-node-app",
		}
		if diff := cmp.Diff(labels, d.Spec.Template.Labels); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
		own := d.Spec.Template.Spec
		if own.Affinity.PodAntiAffinity != nil || own.Affinity.NodeAffinity == nil || len(own.TopologySpreadConstraints) > 0 || own.PriorityClassName != "" {
			t.Errorf("%+v", own)
		}
		if diff := cmp.Diff(set.Deployment.Spec.Template.Spec.Containers[0].Resources, own.Containers[0].Resources); diff != "" {
			t.Errorf("resources (-primary's +its):\n%s", diff)
		}
		for what, change := range map[string]func(*corev1.PodSpec){
			"which is primary's": func(p *corev1.PodSpec) {
				p.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
			},
			"ports of the node":  func(p *corev1.PodSpec) { p.HostNetwork = true },
			"a port of the node": func(p *corev1.PodSpec) { p.Containers[0].Ports[0].HostPort = 80 },
		} {
			set, err := loadManifests()
			w.must(set, err)
			change(&set.Deployment.Spec.Template.Spec)
			j := w.job("refused")
			j.Manifests = set
			if _, err := j.PreviewUp(w.Context(), want); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// TestPreviewFence: a job that has lost the lock changes no preview any more; previews outlive a ledger that is lost.
func TestPreviewFence(t *testing.T) {
	routers(t, "rest", func(w *world) {
		w.must(w.job("up").PreviewUp(w.Context(), previewOf("7")))
		old, newer := w.job("old"), w.job("newer")
		newer.Takeover = true
		once := false
		old.before = func(r *http.Request) error {
			if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/deployments/") && !once {
				once = true
				if _, err := newer.PreviewUp(w.Context(), previewOf("8")); err != nil {
					t.Error(err)
				}
			}
			return nil
		}
		if _, err := old.PreviewUp(w.Context(), previewOf("9")); !errors.Is(err, rollout.ErrLockLost) || len(w.did(old)) > 0 {
			t.Errorf("the old one: %v, it did %v", err, w.did(old))
		}
		w.forget()
		time.Sleep(time.Minute)
		w.must(w.job("after").PreviewUp(w.Context(), previewOf("6")))
		w.must(w.job("down").PreviewDown(w.Context(), "pr-42"))
		time.Sleep(time.Minute)
		if left := w.leftOfPreviews(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestRefusedPreviewNamesNoRollback: the release in flight has nothing to do with a preview that the API server refuses.
func TestRefusedPreviewNamesNoRollback(t *testing.T) {
	at(t, "started", func(w *world) {
		j := w.job("up")
		j.before = func(r *http.Request) error {
			if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/services/"+previewService) {
				return apierrors.NewBadRequest("a test does not allow it")
			}
			return nil
		}
		if _, err := j.PreviewUp(w.Context(), previewOf("9")); err == nil || strings.Contains(err.Error(), "rollback") {
			t.Errorf("%v", err)
		}
	})
}

// TestPreviewRenewedWhileItEnds: one that gets a new time while guard drains it stays.
func TestPreviewRenewedWhileItEnds(t *testing.T) {
	routers(t, "rest", func(w *world) {
		old := previewOf("8")
		old.Lasts = time.Hour
		w.must(w.job("up").PreviewUp(w.Context(), old))
		time.Sleep(2 * time.Hour)
		guarded, up := make(chan error, 1), make(chan error, 1)
		go func() { _, err := w.job("guard").EndPreviews(w.Context()); guarded <- err }()
		time.Sleep(3 * time.Second) // the rule is gone, its callers are waited for
		w.server.mu.Lock()
		w.controllers.broken[release.DigestOf(image("9"))] = corev1.PodStatus{}
		w.server.mu.Unlock()
		go func() { _, err := w.job("again").PreviewUp(w.Context(), previewOf("9")); up <- err }()
		time.Sleep(30 * time.Second)
		w.server.mu.Lock()
		delete(w.controllers.broken, release.DigestOf(image("9")))
		w.server.mu.Unlock()
		w.controllers.hurry()
		if err := <-up; err != nil {
			t.Errorf("%v", err)
		}
		if err := <-guarded; err != nil {
			t.Errorf("guard: %v", err)
		}
	})
}
