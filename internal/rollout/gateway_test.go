package rollout_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// The Gateway API in the tests' cluster. It was checked against its CRDs of v1.6.0 (the defaults and bounds of
// apis/v1/httproute_types.go and shared_types.go) and istiod 1.31 as the rehearsal has it: the status of a route comes after it
// was written, a route whose parent is missing gets none, a backend that is missing makes ResolvedRefs False, and a port that is
// missing makes nothing.
//
// Where it differs: only what a release reads is defaulted; listeners and their hostnames are not looked at; one controller, which
// the test can silence or let refuse.

// gatewayApp is the prefix of a stage of the app that is routed by an HTTPRoute.
const gatewayApp = "by HTTPRoute, "

// gatewayRoute is the app's; it leads callers in the mesh as well.
const gatewayRoute = `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: qwik-node-app-vs}
spec:
  parentRefs:
  - {name: public, namespace: istio-system}
  - {group: "", kind: Service, name: qwik-node-app-service, port: 80}
  hostnames: [app.example.com]
  rules:
  - name: release
    backendRefs: [{name: qwik-node-app-service, port: 80}]
`

// gatewaySet is the app's, routed by an HTTPRoute.
var gatewaySet = sync.OnceValues(func() (*manifest.Set, error) {
	var text bytes.Buffer
	for _, file := range []string{"deployment.yaml", "service.yaml"} {
		content, err := os.ReadFile("../../k8s/" + file)
		if err != nil {
			return nil, err
		}
		text.WriteString("---\n")
		text.Write(content)
	}
	text.WriteString(gatewayRoute)
	rendered, err := manifest.RenderedFrom("the app by HTTPRoute", text.Bytes())
	if err != nil {
		return nil, err
	}
	set, err := rendered.Set()
	if err == nil {
		err = set.In(namespace)
	}
	return set, err
})

// byRoute is a set with a route of the Gateway API in the place of its VirtualService.
func byRoute(set *manifest.Set) (*manifest.Set, error) {
	routed, err := gatewaySet()
	if err != nil {
		return nil, err
	}
	set.VirtualService, set.DestinationRule, set.Gateways = nil, nil, nil
	set.Service, set.Route, set.Tracks = routed.Service.DeepCopy(), routed.Route.DeepCopy(), map[release.Track]*corev1.Service{}
	for track, service := range routed.Tracks {
		set.Tracks[track] = service.DeepCopy()
	}
	return set, nil
}

// makeGateway makes the Gateway that the route names, as an infrastructure team has.
func (w *world) makeGateway() {
	w.Helper()
	gateway := empty(schema.GroupVersionKind{Group: manifest.GatewayGroup, Version: "v1", Kind: "Gateway"})
	gateway.SetName("public")
	gateway.SetNamespace("istio-system")
	gateway.Object["spec"] = map[string]any{"gatewayClassName": "istio", "listeners": []any{map[string]any{"name": "http", "port": int64(80), "protocol": "HTTP"}}}
	gateway.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Programmed", "status": "True", "reason": "Programmed", "message": ""}}}
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	w.server.put(kindOf("gateways.gateway"), nil, gateway)
}

// patchGatewayRoute changes the HTTPRoute as a person would.
func (w *world) patchGatewayRoute(patch string) {
	w.Helper()
	w.must(w.any(w.set.Route).Patch(w.Context(), w.set.Route.GetName(), types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))
}

// liveRoute is the HTTPRoute as it is.
func (w *world) liveRoute() *unstructured.Unstructured {
	w.Helper()
	live, err := w.any(w.set.Route).Get(w.Context(), w.set.Route.GetName(), metav1.GetOptions{})
	w.must(live, err)
	return live
}

// routeOf reads a stored route.
func routeOf(s *stored) *manifest.GatewayRoute {
	if s.route == nil {
		g, err := manifest.ReadGatewayRoute(s.object)
		if err != nil {
			panic(err)
		}
		s.route = g
	}
	return s.route
}

// gatewaySplit is how a route splits the traffic.
func gatewaySplit(set *manifest.Set, s *stored) string {
	g := routeOf(s)
	rules := set.Rules(g)
	if len(rules) == 0 {
		return "no route"
	}
	w := g.Weights(rules[0])
	text := fmt.Sprintf("%d/%d", w.Primary, w.Canary)
	for _, rule := range g.Rules {
		for kind, prefix := range map[string]string{" match": manifest.MatchPrefix, " mirror": manifest.MirrorPrefix} {
			if strings.HasPrefix(rule.Name, prefix) {
				text += kind
			}
		}
	}
	return text
}

// defaultRoute fills in what the CRDs do.
func defaultRoute(object *unstructured.Unstructured) error {
	spec, _, _ := unstructured.NestedMap(object.Object, "spec")
	or := func(fields any, key string, value any) {
		if m, ok := fields.(map[string]any); ok && m[key] == nil {
			m[key] = value
		}
	}
	list := func(fields any, key string) []any {
		m, _ := fields.(map[string]any)
		items, _ := m[key].([]any)
		return items
	}
	for _, p := range list(spec, "parentRefs") {
		or(p, "group", manifest.GatewayGroup)
		or(p, "kind", "Gateway")
	}
	rules, names, all := list(spec, "rules"), map[any]bool{}, 0
	for _, rule := range rules {
		matches, name := len(list(rule, "matches")), rule.(map[string]any)["name"]
		if all += max(1, matches); matches > 64 || all > 128 || len(rules) > 16 || name != nil && names[name] {
			return fmt.Errorf("spec.rules: Invalid value: %d rules, %d matches, name %v", len(rules), all, name)
		}
		names[name] = true
		if object.GetKind() == "HTTPRoute" {
			or(rule, "matches", []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": "/"}}})
			for _, match := range list(rule, "matches") {
				or(match, "path", map[string]any{"type": "PathPrefix", "value": "/"})
				or(match.(map[string]any)["path"], "type", "PathPrefix")
				for _, header := range list(match, "headers") {
					or(header, "type", "Exact")
				}
			}
		}
		for _, ref := range list(rule, "backendRefs") {
			or(ref, "group", "")
			or(ref, "kind", "Service")
			or(ref, "weight", int64(1))
			if weight, ok := ref.(map[string]any)["weight"].(int64); !ok || weight < 0 || weight > 1000000 {
				return fmt.Errorf("spec.rules.backendRefs.weight: Invalid value: %v", weight)
			}
			if ref.(map[string]any)["port"] == nil {
				return fmt.Errorf("spec.rules.backendRefs: must have port for Service reference")
			}
		}
	}
	return unstructured.SetNestedMap(object.Object, spec, "spec")
}

// routes writes the status of the routes, a round behind what is read there.
func (c *controllers) routes() {
	if c.mute {
		return
	}
	for _, plural := range []string{"httproutes", "grpcroutes"} {
		for at, live := range maps.Clone(c.server.objects) {
			if at.resource != plural {
				continue
			}
			parents, _, _ := unstructured.NestedSlice(live.object.Object, "spec", "parentRefs")
			statuses := []any{}
			for _, p := range parents {
				parent := p.(map[string]any)
				in, _ := parent["namespace"].(string)
				if in == "" {
					in = at.namespace
				}
				resource := map[any]string{"Gateway": "gateways.gateway", "Service": "services"}[parent["kind"]]
				if c.server.objects[place{resource, in, parent["name"].(string)}] == nil {
					continue // it says nothing at all
				}
				statuses = append(statuses, map[string]any{
					"controllerName": "istio.io/gateway-controller", "parentRef": parent,
					"conditions": []any{c.condition(live, "Accepted", c.rejects), c.condition(live, "ResolvedRefs", c.unresolved(live))},
				})
			}
			status := map[string]any{"parents": statuses}
			if reflect.DeepEqual(live.object.Object["status"], status) {
				continue
			}
			object := live.object.DeepCopy()
			object.Object["status"] = status
			c.server.put(kindOf(plural), live, object)
		}
	}
}

func (c *controllers) condition(live *stored, of, refusal string) map[string]any {
	status, reason := "True", of
	if refusal != "" {
		status, reason, _ = "False", refusal, ""
	}
	return map[string]any{"type": of, "status": status, "reason": reason, "message": "", "observedGeneration": live.object.GetGeneration(), "lastTransitionTime": live.object.GetCreationTimestamp().Format(time.RFC3339)}
}

// unresolved is the reason for which a route's backends are not resolved; "" when they are.
func (c *controllers) unresolved(live *stored) string {
	for _, rule := range routeOf(live).Rules {
		for _, b := range rule.Backends {
			if c.server.objects[place{"services", live.object.GetNamespace(), string(b.Name)}] == nil && string(b.Name) != "other" {
				return "BackendNotFound"
			}
		}
	}
	return ""
}

// gatewayChange checks what a change of the route must keep.
func (o *observer) gatewayChange(e event) {
	o.written(e)
	o.kept(e)
	o.gateway = nil
	if e.kind == "DELETED" {
		return
	}
	o.gateway = routeOf(e.after)
	if e.before == nil {
		return
	}
	before := routeOf(e.before)
	if was, is := o.foreignRules(before), o.foreignRules(o.gateway); !slices.Equal(was, is) {
		o.found(e, "other people's rules were %q, now they are %q", was, is)
	}
	if !reflect.DeepEqual(before.Parents, o.gateway.Parents) || !slices.Equal(before.Hosts, o.gateway.Hosts) {
		o.found(e, "its parents or hosts have changed")
	}
	if rules, was := o.set.Rules(o.gateway), o.set.Rules(before); len(rules) > 0 && len(was) > 0 {
		o.enough(e, o.gateway.Weights(rules[0]), before.Weights(was[0]))
	}
}

// foreignRules are the rules of others, and of the release's all that is not the weights of its tracks.
func (o *observer) foreignRules(g *manifest.GatewayRoute) (foreign []string) {
	for i, rule := range g.Rules {
		if manifest.Generated(rule.Name) || len(rule.Backends) == 1 && o.set.LeadsToApex(g, i) { // a plain one is migrate's to convert
			continue
		}
		text := fmt.Sprint(rule.Name, rule.Matches, rule.Filters)
		for j := range rule.Backends {
			b := &rule.Backends[j]
			text += fmt.Sprint(" ", b.Name, *b.Port, b.Filters)
			if !o.set.IsTrack(b, namespace, release.Primary) && !o.set.IsTrack(b, namespace, release.Canary) {
				text += fmt.Sprint(" ", b.Weigh())
			}
		}
		foreign = append(foreign, text)
	}
	return foreign
}

// gatewayRouting checks what traffic meets now that comes by the route.
func (o *observer) gatewayRouting(e event) {
	if o.gateway == nil {
		return
	}
	for i, rule := range o.gateway.Rules {
		o.gatewayCopies(e, i)
		for j := range rule.Backends {
			b := &rule.Backends[j]
			for _, track := range []release.Track{release.Primary, release.Canary} {
				if !o.set.IsTrack(b, namespace, track) {
					continue
				}
				if !o.services[string(b.Name)] {
					o.found(e, "rule %d names Service %s, which is missing", i, b.Name)
				}
				if b.Weigh() > 0 && o.readyOn(track) == 0 {
					o.found(e, "rule %d has weight %d on %s, which has no ready endpoint", i, b.Weigh(), track)
				}
			}
		}
	}
}

// gatewayCopies checks the filters of a rule that copy requests to a track: it is there, it has what they need, and nothing but
// safe requests is copied.
func (o *observer) gatewayCopies(e event, i int) {
	rule := o.gateway.Rules[i]
	for _, filter := range rule.Filters {
		to, _, _ := unstructured.NestedString(filter, "requestMirror", "backendRef", "name")
		if filter["type"] != "RequestMirror" || to != o.set.Tracks[release.Canary].Name {
			continue
		}
		percent, _, _ := unstructured.NestedFloat64(filter, "requestMirror", "percent")
		if need := o.neededFor(percent); !o.services[to] || o.readyOn(release.Canary) < need && o.mirroring(e) {
			o.found(e, "rule %d copies %g%% to %s, which has %d ready endpoints and needs %d", i, percent, to, o.readyOn(release.Canary), need)
		}
		for _, m := range rule.Matches {
			if m["method"] != "GET" && m["method"] != "HEAD" {
				o.found(e, "rule %d copies requests of method %v", i, m["method"])
			}
		}
	}
}

// byBothRouters are tests' cases, and the same of an app that is routed by an HTTPRoute. Stickiness is a
// VirtualService's: the HTTPRoute refuses it (TestIneffectiveRoutes).
func byBothRouters[T any](cases []T, stage func(*T) *string, command func(*T) string) (both []T) {
	both = slices.Clone(cases)
	for _, c := range cases {
		at := stage(&c)
		alone := slices.ContainsFunc([]string{"sticky", "manual"}, func(of string) bool { return strings.Contains(*at+command(&c), of) })
		alone = alone || (strings.Contains(*at, fluxApp) || strings.Contains(*at, gitApp)) && !*everyWrite && command(&c) != "promote" // Flux meets the same steps
		if !alone {
			*at = gatewayApp + *at
			both = append(both, c)
		}
	}
	return both
}

// byTurns are tests' cases for a short run, of which one is routed by a VirtualService and the next by an HTTPRoute, where it can be.
// The long form has all cases of both.
func byTurns[T any](cases []T, stage func(*T) *string, command func(*T) string) []T {
	both := byBothRouters(cases, stage, command)
	if *everyWrite {
		return both
	}
	turns := slices.Clone(cases)
	next := len(cases)
	for i := range turns {
		if next == len(both) || *stage(&both[next]) != gatewayApp+*stage(&turns[i]) || command(&both[next]) != command(&turns[i]) {
			continue // it has one router
		}
		if i%2 == 1 {
			turns[i] = both[next]
		}
		next++
	}
	return turns
}

// byGateway says whether a stage is of the app that is routed by an HTTPRoute, and gives it without that.
func byGateway(stage string) (plain string, gateway bool) {
	return strings.CutPrefix(stage, gatewayApp)
}

// foreignGateway gives others their own things in the app's objects: a rule and a backend of theirs, a filter, labels.
func (w *world) foreignGateway() {
	w.Helper()
	w.patchGatewayRoute(`[{"op":"add","path":"/metadata/annotations","value":{"theirs/note":"n"}},{"op":"add","path":"/metadata/labels","value":{"theirs/label":"l"}},
		{"op":"add","path":"/spec/rules/0/backendRefs/1","value":{"name":"other","port":80,"weight":3}},
		{"op":"add","path":"/spec/rules/0/filters","value":[{"type":"RequestHeaderModifier","requestHeaderModifier":{"add":[{"name":"x-theirs","value":"y"}]}}]},
		{"op":"add","path":"/spec/rules/0","value":{"name":"theirs","matches":[{"path":{"type":"PathPrefix","value":"/theirs"}}],"backendRefs":[{"name":"other","port":80}],"timeouts":{"request":"3s"}}}]`)
	for _, service := range w.set.Tracks {
		w.must(w.kube.CoreV1().Services(namespace).Patch(w.Context(), service.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"theirs/note":"n"}}}`), metav1.PatchOptions{}))
	}
	w.patchDeployment(release.Primary, `[{"op":"add","path":"/metadata/annotations/theirs~1note","value":"n"},{"op":"add","path":"/metadata/labels/theirs~1label","value":"l"}]`)
}

// unrestOfGateway says what of the route and its Services is not as it is when no release is in flight.
func (w *world) unrestOfGateway(digit string) string {
	w.Helper()
	objects := []metav1.Object{w.liveRoute()}
	for track, service := range w.set.Tracks {
		live, err := w.kube.CoreV1().Services(namespace).Get(w.Context(), service.Name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if live.Spec.Selector[manifest.TrackLabel] != string(track) {
			return fmt.Sprintf("Service %s selects %v", live.Name, live.Spec.Selector)
		}
		objects = append(objects, live)
	}
	for _, object := range objects {
		if slices.ContainsFunc(object.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "crossbill" }) {
			return object.GetName() + " has fields that crossbill still owns"
		}
	}
	if apex, err := w.kube.CoreV1().Services(namespace).Get(w.Context(), w.set.Service.Name, metav1.GetOptions{}); err != nil || apex.Spec.Selector[manifest.TrackLabel] != string(release.Primary) {
		return fmt.Sprintf("Service %+v, %v", apex.Spec, err)
	}
	if w.applies {
		return w.unrestOfOthers(digit != "1")
	}
	return ""
}
