package rollout_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// TestRouteIsNotTaken: a weight that no controller takes, or that one refuses, is an error; the way back is held up by neither.
func TestRouteIsNotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(c *controllers)
		says string
	}{
		"silence":   {func(c *controllers) { c.mute = true }, "no controller has said anything of the route as it is"},
		"a refusal": {func(c *controllers) { c.rejects = "NotAllowedByListeners" }, "Gateway istio-system/public: Accepted is False, NotAllowedByListeners"},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, gatewayApp+"rest", func(w *world) {
				j := w.job("job")
				j.Timeout = 30 * time.Second
				hold := false
				w.server.changed = append(w.server.changed, func(e event) { // from the canary's pods on
					if e.resource == "httproutes" && e.by == j.name && !hold {
						hold = true
						c.do(w.controllers)
					}
				})
				before := time.Now()
				_, err := j.Canary(w.Context(), wanted("2"))
				if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "rollback ends the release") || time.Since(before) > 2*time.Minute {
					t.Errorf("after %s: %v, want %q", time.Since(before), err, c.says)
				}
				back := w.job("back")
				before = time.Now()
				if _, err := back.Rollback(w.Context(), "test"); err != nil || time.Since(before) > time.Minute {
					t.Errorf("after %s: %v", time.Since(before), err)
				}
				if unrest := w.unrest("1"); unrest != "" {
					t.Error(unrest)
				}
			})
		})
	}
}

// TestIneffectiveRoutes: what the status of a route says nothing of, and what would make a release ineffective, is refused
// before anything is written.
func TestIneffectiveRoutes(t *testing.T) {
	other := func(w *world, change func(o *unstructured.Unstructured)) {
		o := w.set.Route.DeepCopy()
		o.SetName("other")
		change(o)
		w.must(w.any(o).Create(w.Context(), o, metav1.CreateOptions{}))
	}
	remake := func(w *world) { // so that it is younger
		live := w.liveRoute()
		w.must(nil, w.any(live).Delete(w.Context(), live.GetName(), metav1.DeleteOptions{}))
		time.Sleep(2 * time.Second)
		live.SetResourceVersion("")
		live.SetUID("")
		live.SetManagedFields(nil)
		w.must(w.any(live).Create(w.Context(), live, metav1.CreateOptions{}))
		time.Sleep(2 * time.Second)
	}
	service := func(w *world, name, patch string) {
		w.must(w.kube.CoreV1().Services(namespace).Patch(w.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}))
		time.Sleep(time.Second)
	}
	gateway := func(w *world, change func(*unstructured.Unstructured)) {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		live := w.server.objects[place{"gateways.gateway", "istio-system", "public"}]
		object := live.object.DeepCopy()
		if change(object); object.GetName() == "" {
			w.server.drop(kindOf("gateways.gateway"), live)
			return
		}
		w.server.put(kindOf("gateways.gateway"), live, object)
	}
	theirs := func(w *world, host, subset string) {
		w.must(w.mesh.NetworkingV1().VirtualServices(namespace).Create(w.Context(), &networking.VirtualService{
			ObjectMeta: metav1.ObjectMeta{Name: "theirs"},
			Spec: networkingapi.VirtualService{Hosts: []string{host}, Http: []*networkingapi.HTTPRoute{{Route: []*networkingapi.HTTPRouteDestination{
				{Destination: &networkingapi.Destination{Host: w.set.Service.Name, Subset: subset}},
			}}}},
		}, metav1.CreateOptions{}))
	}
	for name, c := range map[string]struct {
		do   func(w *world, j *job)
		says string // "": it is released
	}{
		"nothing":                     {func(*world, *job) {}, ""},
		"an older route of the host":  {func(w *world, _ *job) { other(w, func(*unstructured.Unstructured) {}); remake(w) }, "HTTPRoute prod/other: it has a match of HTTPRoute prod/qwik-node-app-vs for host app.example.com at the same parent, and is older"},
		"a younger route of the host": {func(w *world, _ *job) { time.Sleep(time.Second); other(w, func(*unstructured.Unstructured) {}) }, ""},
		"an older one of another host": {func(w *world, _ *job) {
			other(w, func(o *unstructured.Unstructured) {
				w.must(nil, unstructured.SetNestedStringSlice(o.Object, []string{"other.example.com"}, "spec", "hostnames"))
			})
			remake(w)
		}, ""},
		"an older one of another match": {func(w *world, _ *job) {
			other(w, func(o *unstructured.Unstructured) {
				w.must(nil, unstructured.SetNestedSlice(o.Object, []any{map[string]any{"matches": []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": "/theirs"}}}, "backendRefs": []any{map[string]any{"name": "other", "port": int64(80)}}}}, "spec", "rules"))
			})
			remake(w)
		}, ""},
		"no rule of the release": {func(w *world, _ *job) { w.patchGatewayRoute(`[{"op":"remove","path":"/spec/rules/0/backendRefs/1"}]`) }, "no rule in the cluster leads to qwik-node-app-service-primary and qwik-node-app-service-canary"},
		"weights of nothing": {func(w *world, _ *job) {
			w.observer.started = false
			w.patchGatewayRoute(`[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":0}]`)
		}, "the weights are 0/0: callers get the answer 500"},
		"a port that is nobody's": {func(w *world, _ *job) {
			w.observer.started = false
			w.patchGatewayRoute(`[{"op":"replace","path":"/spec/rules/0/backendRefs/1/port","value":81}]`)
		}, "Service qwik-node-app-service-canary does not have the port that the rule names"},
		"a Service over both tracks": {func(w *world, _ *job) { service(w, w.set.Service.Name, `{"spec":{"selector":{"version":null}}}`) }, "it selects the pods of both tracks: whoever calls it past HTTPRoute prod/qwik-node-app-vs would get the canary"},
		"a track's Service that moved": {func(w *world, _ *job) {
			service(w, w.set.Tracks[release.Canary].Name, `{"spec":{"selector":{"version":"x"}}}`)
		}, "Service prod/qwik-node-app-service-canary: spec.selector: it selects"},
		"pods that are not ready": {func(w *world, _ *job) {
			service(w, w.set.Tracks[release.Canary].Name, `{"spec":{"publishNotReadyAddresses":true}}`)
		}, "pods that are not ready would get traffic"},
		"a Gateway that is missing": {func(w *world, _ *job) { gateway(w, func(o *unstructured.Unstructured) { o.SetName("") }) }, "Gateway.gateway.networking.k8s.io istio-system/public not found"},
		"a Gateway without an address": {func(w *world, _ *job) {
			gateway(w, func(o *unstructured.Unstructured) {
				w.must(nil, unstructured.SetNestedSlice(o.Object, []any{map[string]any{"type": "Programmed", "status": "False", "reason": "AddressNotUsable", "message": "port 81 not found"}}, "status", "conditions"))
			})
		}, "it is not programmed, AddressNotUsable: port 81 not found"},
		"a Gateway that may not be read": {func(_ *world, j *job) {
			j.refuses = "GET /apis/gateway.networking.k8s.io/v1/namespaces/istio-system/gateways/public"
		}, ""},
		"a route that is refused": {func(w *world, _ *job) {
			w.server.mu.Lock()
			w.controllers.rejects = "NoMatchingParent"
			w.server.mu.Unlock()
			w.patchGatewayRoute(`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`)
			time.Sleep(time.Second)
		}, "Accepted is False, NoMatchingParent"},
		"a VirtualService of the host":     {func(w *world, _ *job) { theirs(w, "app.example.com", "primary") }, "VirtualService prod/theirs: it leads to Service qwik-node-app-service for the same callers"},
		"a VirtualService to the canary":   {func(w *world, _ *job) { theirs(w, "else.example.com", "canary") }, "VirtualService prod/theirs: it leads to Service"},
		"a VirtualService of another host": {func(w *world, _ *job) { theirs(w, "else.example.com", "") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, gatewayApp+"rest", func(w *world) {
				j := w.job("job")
				c.do(w, j)
				_, err := j.Canary(w.Context(), wanted("2"))
				w.observer.problems = nil // of what the test has done
				if c.says == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), c.says) || len(j.every) > 0 {
					t.Errorf("%v, after %q; want %q", err, j.every, c.says)
				}
			})
		})
	}
	at(t, gatewayApp+"rest", func(w *world) {
		j := w.job("job")
		if _, err := j.Canary(w.Context(), sticky("2")); err == nil || !strings.Contains(err.Error(), "canary.sticky: HTTPRoute prod/qwik-node-app-vs does not keep a browser on a version: session persistence (GEP-1619)") {
			t.Error(err)
		}
		w.forget()
		w.server.missing = map[string]bool{"HTTPRoute": true}
		if err := w.job("job").Preflight(w.Context()); err == nil || !strings.Contains(err.Error(), "the CRDs of the Gateway API are missing") {
			t.Error(err)
		}
	})
}

// withoutWeights is what of a route is not the release's to change.
func withoutWeights(w *world, route *unstructured.Unstructured) any {
	spec, _, _ := unstructured.NestedMap(route.DeepCopy().Object, "spec")
	for _, rule := range spec["rules"].([]any) {
		for _, ref := range rule.(map[string]any)["backendRefs"].([]any) {
			if name := ref.(map[string]any)["name"]; name != "other" {
				delete(ref.(map[string]any), "weight")
			}
		}
	}
	return []any{spec, route.GetLabels(), route.GetAnnotations()["theirs/note"]}
}

// TestForeignBackends: a backend of others beside the tracks', with its weight, stays through a release and through a rollback
// (Argo Rollouts' plugin takes it away: rollouts-plugin-trafficrouter-gatewayapi#203).
func TestForeignBackends(t *testing.T) { keepsOthers(t, []string{"other 3"}) }

// TestForeignRules: rules of others, their filters, timeouts and matches, and the filters of the release's own rule stay
// (Flagger writes the list anew: flagger#1857).
func TestForeignRules(t *testing.T) { keepsOthers(t, []string{"theirs", "x-theirs", "3s"}) }

func keepsOthers(t *testing.T, has []string) {
	for _, end := range []string{"promote", "rollback"} {
		at(t, gatewayApp+"foreign", func(w *world) {
			before := w.liveRoute()
			text := fmt.Sprint(before.Object["spec"])
			for _, part := range has {
				if name, weight, ok := strings.Cut(part, " "); ok {
					part = fmt.Sprintf("name:%s port:80 weight:%s", name, weight)
				}
				if !strings.Contains(text, part) {
					t.Errorf("the stage has no %q: %s", part, text)
				}
			}
			j := w.job("job")
			w.must(j.Canary(w.Context(), wanted("2")))
			if g, err := manifest.ReadGatewayRoute(w.liveRoute()); err != nil || g.Weights(w.set.Rules(g)[0]) != (manifest.WeightPair{Primary: 90, Canary: 10}) {
				t.Errorf("%+v, %v", g, err)
			}
			if diff := cmp.Diff(withoutWeights(w, before), withoutWeights(w, w.liveRoute())); diff != "" {
				t.Errorf("with a canary (-before +now):\n%s", diff)
			}
			digit := "1"
			if end == "rollback" {
				w.must(j.Rollback(w.Context(), "test"))
			} else {
				w.finish("a release")
				digit = "2"
			}
			if diff := cmp.Diff(withoutWeights(w, before), withoutWeights(w, w.liveRoute())); diff != "" {
				t.Errorf("after %s (-before +now):\n%s", end, diff)
			}
			if unrest := w.unrest(digit); unrest != "" {
				t.Error(unrest)
			}
		})
	}
}

// TestDeletedServices: what somebody has deleted under a release is made again on the way back, and holds it up no longer than
// its endpoints take.
func TestDeletedServices(t *testing.T) {
	for _, track := range []release.Track{release.Primary, release.Canary} {
		for _, names := range []bool{false, true} {
			at(t, gatewayApp+"canary", func(w *world) {
				w.observer.started = false // callers get errors from then on, whoever has done it
				w.must(nil, w.kube.CoreV1().Services(namespace).Delete(w.Context(), w.set.Tracks[track].Name, metav1.DeleteOptions{}))
				time.Sleep(time.Second)
				j := w.job("back")
				if names {
					objects, err := j.Manifests.Objects(namespace)
					if err != nil {
						t.Fatal(err)
					}
					j.Manifests = manifest.OfObjects(w.set.App, objects)
				}
				before := time.Now()
				if _, err := j.Rollback(w.Context(), "test"); err != nil || time.Since(before) > time.Minute {
					t.Errorf("%s, names only: %v: after %s: %v", track, names, time.Since(before), err)
				}
				if unrest := w.unrest("1"); unrest != "" {
					t.Errorf("%s, names only: %v: %s", track, names, unrest)
				}
				live, err := w.kube.CoreV1().Services(namespace).Get(w.Context(), w.set.Tracks[track].Name, metav1.GetOptions{})
				if err != nil || len(live.Spec.Ports) != len(w.set.Service.Spec.Ports) {
					t.Errorf("%s, names only: %v: %+v, %v", track, names, live, err)
				}
			})
		}
	}
}

// answering checks at each change that somebody leads the callers to pods that are ready: the HTTPRoute, whose rules come first,
// or else the VirtualService.
type answering struct {
	w        *world
	route    *manifest.GatewayRoute
	vs       *networking.VirtualService
	ready    map[string]int // endpoints by Service
	problems []string
}

func (a *answering) see(e event) {
	gone := e.kind == watch.Deleted
	switch e.resource {
	case "httproutes":
		if a.route = routeOf(e.after); gone {
			a.route = nil
		}
	case "virtualservices":
		if a.vs = decode[networking.VirtualService](e.after); gone {
			a.vs = nil
		}
	case "endpointslices":
		slice, n := decode[discoveryv1.EndpointSlice](e.after), 0
		for _, endpoint := range slice.Endpoints {
			if *endpoint.Conditions.Ready && !gone {
				n++
			}
		}
		a.ready[slice.Labels[discoveryv1.LabelServiceName]] = n
	}
	if a.route != nil {
		for _, rule := range a.route.Rules {
			for _, b := range rule.Backends {
				if b.Weigh() > 0 && a.ready[string(b.Name)] == 0 {
					a.problems = append(a.problems, fmt.Sprintf("%s %s: the route leads to %s, which has no ready endpoint", e.kind, e.resource, b.Name))
				}
			}
		}
		return
	}
	leads := a.vs != nil && slices.ContainsFunc(a.vs.Spec.Http, func(h *networkingapi.HTTPRoute) bool {
		return slices.ContainsFunc(h.Route, func(d *networkingapi.HTTPRouteDestination) bool {
			return d.Destination.Host == a.w.set.Service.Name && d.Destination.Subset != "canary"
		})
	})
	if !leads || a.ready[a.w.set.Service.Name] == 0 {
		a.problems = append(a.problems, fmt.Sprintf("%s %s: nothing leads to pods that are ready", e.kind, e.resource))
	}
}

// TestMigrateToHTTPRoute takes an app from its VirtualService to an HTTPRoute: what the route leads to is there before it is, the
// VirtualService goes when the route is taken, and the selector of the app's Service is last. A job that dies after any of its
// writes loses no request, and the same command goes on.
func TestMigrateToHTTPRoute(t *testing.T) {
	for stage, want := range map[string]string{
		"rest":                 "create service-primary, create service-canary, create vs no route, update service",
		"manual, another name": "create primary image 1 x2, create service-primary, create service-canary, create vs no route, update vs no route, update service, delete web",
	} {
		t.Run(stage, func(t *testing.T) {
			for n := range 40 { // 0: nothing fails
				more := true
				at(t, stage, func(w *world) {
					w.observer.started = false // it knows one router
					w.makeGateway()
					set, err := gatewaySet()
					if err != nil {
						t.Fatal(err)
					}
					a := &answering{w: w, ready: map[string]int{}}
					for _, k := range kinds {
						for p, o := range w.server.objects {
							if p.resource == k.plural {
								a.see(event{kind: watch.Added, resource: p.resource, after: o})
							}
						}
					}
					a.problems = nil
					w.server.changed = append(w.server.changed, a.see)
					j := w.job("job")
					j.Manifests = set
					j.at, j.fault = n, dies
					_, err = j.Migrate(j.ctx, "")
					if n > 0 && j.hit != "" {
						time.Sleep(90 * time.Second)
						next := w.job("next")
						next.Manifests = set
						if _, err := next.Migrate(w.Context(), ""); err != nil {
							t.Errorf("write %d (%s): the same command again: %v", n, j.hit, err)
						}
					} else if more = n == 0; err != nil {
						t.Errorf("write %d: %v", n, err)
					} else if n == 0 {
						if diff := cmp.Diff(want, strings.Join(w.did(j), ", ")); diff != "" {
							t.Errorf("changes (-want +got):\n%s", diff)
						}
					}
					for _, problem := range a.problems {
						t.Errorf("write %d (%s): %s", n, j.hit, problem)
					}
					leads := a.vs != nil && slices.ContainsFunc(a.vs.Spec.Http, func(h *networkingapi.HTTPRoute) bool {
						return h.Route[0].Destination.Host == w.set.Service.Name
					})
					if leads || (a.vs == nil) != (stage == "rest") || a.vs != nil && slices.Contains(a.vs.Spec.Hosts, w.set.Service.Name) {
						t.Errorf("write %d (%s): the VirtualService is %v", n, j.hit, a.vs)
					}
					w.gateway, w.set = true, set
					again := w.job("again")
					if _, err := again.Migrate(w.Context(), ""); err != nil || len(again.every) > 0 {
						t.Errorf("write %d: again: %v, after %q", n, err, again.every)
					}
					if n > 0 {
						return
					}
					w.must(again.Canary(w.Context(), wanted("2")))
					w.finish("a release after migrate")
					if unrest := w.unrest("2"); unrest != "" {
						t.Error(unrest)
					}
				})
				if !more {
					if n < 5 {
						t.Errorf("only %d writes", n)
					}
					break
				}
			}
		})
	}
}

// TestNoMigrationUnderPreviews: a VirtualService that leads to previews goes with the migration, so it is refused before anything
// is changed, by the name of a preview; when that has ended the same command goes on.
func TestNoMigrationUnderPreviews(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.must(w.job("up").PreviewUp(w.Context(), previewOf("9")))
		w.observer.started = false // it knows one router
		w.makeGateway()
		set, err := gatewaySet()
		if err != nil {
			t.Fatal(err)
		}
		refused := w.job("migrate")
		refused.Manifests = set
		_, err = refused.Migrate(w.Context(), "")
		if says := "it leads to preview pr-42"; refusal(err) == "" || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "preview down --name pr-42") || len(refused.every) > 0 {
			t.Errorf("%v, after %q; want %q", err, refused.every, says)
		}
		if w.liveVS() == nil || len(w.leftOfPreviews()) == 0 {
			t.Error("the VirtualService, or the preview, is gone")
		}
		w.must(w.job("down").PreviewDown(w.Context(), "pr-42"))
		time.Sleep(time.Minute)
		now := w.job("again")
		now.Manifests = set
		if _, err := now.Migrate(w.Context(), ""); err != nil || len(now.every) == 0 {
			t.Errorf("without previews: %v, after %q", err, now.every)
		}
	})
}

// TestAnotherRouter: manifests that name another router than the release in flight has, or than the app had, change nothing.
func TestAnotherRouter(t *testing.T) {
	for _, c := range []struct{ stage, command, says string }{
		{"rest", "canary", "crossbill migrate"},
		{"canary", "shift", "router"},
		{"healthy", "promote", "router"},
		{"promoted", "cleanup", "router"},
	} {
		at(t, c.stage, func(w *world) {
			w.makeGateway()
			set, err := gatewaySet()
			if err != nil {
				t.Fatal(err)
			}
			j := w.job("job")
			j.Manifests = set
			_, err = commands[c.command](w.Context(), j)
			if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), c.says) || len(j.every) > 0 {
				t.Errorf("%s at %s: %v, after %q", c.command, c.stage, err, j.every)
			}
			if c.stage == "rest" {
				return
			}
			if _, err := j.Rollback(w.Context(), "test"); err != nil { // by the ledger
				t.Errorf("rollback at %s: %v", c.stage, err)
			}
			if unrest := w.unrest("1"); unrest != "" {
				t.Error(unrest)
			}
		})
	}
	at(t, gatewayApp+"rest", func(w *world) {
		set, err := loadManifests()
		if err != nil {
			t.Fatal(err)
		}
		j := w.job("job")
		j.Manifests = set
		if _, err := j.Canary(w.Context(), wanted("2")); !errors.As(err, new(*usererr.Error)) || len(j.every) > 0 {
			t.Errorf("%v, after %q", err, j.every)
		}
	})
}

// TestRollbackOfAPromotionWhoseRouteIsNotTaken: the traffic may stay with the canary while primary is put back, and that is held up
// by nothing that the route's status says.
func TestRollbackOfAPromotionWhoseRouteIsNotTaken(t *testing.T) {
	for name, do := range map[string]func(*controllers){
		"silence": func(c *controllers) { c.mute = true }, "a refusal": func(c *controllers) { c.rejects = "NotAllowedByListeners" },
	} {
		at(t, gatewayApp+"promoted", func(w *world) {
			w.server.mu.Lock()
			do(w.controllers)
			w.server.mu.Unlock()
			j := w.job("back")
			j.Timeout = 30 * time.Second
			if _, err := j.Rollback(w.Context(), "it is bad"); err != nil {
				t.Errorf("%s: %v; it did %q", name, err, w.did(j))
			}
			if is := w.running(release.Primary); is != "1" {
				t.Errorf("%s: primary runs image %s", name, is)
			}
		})
	}
}

// TestRollbackWithoutTheAppsService: a Service that somebody has deleted keeps no rollback from its end, where the tracks have Services
// of their own.
func TestRollbackWithoutTheAppsService(t *testing.T) {
	at(t, gatewayApp+"promoted with a Service", func(w *world) {
		w.observer.started = false
		w.must(nil, w.kube.CoreV1().Services(namespace).Delete(w.Context(), w.set.Service.Name, metav1.DeleteOptions{}))
		time.Sleep(time.Second)
		j := w.job("back")
		w.must(j.Rollback(w.Context(), "it is bad"))
		if w.read().Release != nil || w.running(release.Primary) != "1" || !j.said("somebody has deleted it") {
			t.Errorf("in flight: %+v; it said %q", w.read().Release, j.logged)
		}
	})
}
