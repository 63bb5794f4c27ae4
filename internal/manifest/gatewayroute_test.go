package manifest

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

const (
	plainRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: public, namespace: istio-system}]
  hostnames: [shop.example.com]
  rules:
  - backendRefs: [{name: shop, port: 80}]
`
	trackServices = `apiVersion: v1
kind: Service
metadata: {name: shop-primary}
spec: {selector: {app: shop, version: primary}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: shop-canary}
spec: {selector: {app: shop, version: canary}, ports: [{name: http, port: 80, targetPort: http}]}
`
)

// withRoute is the plain app with a route of the Gateway API in the place of its VirtualService, and further files.
func withRoute(t *testing.T, route string, files map[string]string) string {
	t.Helper()
	dir := caseFolder(t, "00-base")
	for _, file := range []string{"virtual-service.yaml", "destination-rule.yaml"} {
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "route.yaml"), route)
	for file, text := range files {
		write(t, filepath.Join(dir, file), text)
	}
	return dir
}

// TestGatewayRoutes: a route of the Gateway API that leads to the app is its router, with a Service for each track; what does
// not fit together is refused, by file and field.
func TestGatewayRoutes(t *testing.T) {
	both := "[{name: shop-primary, port: 80, weight: 100}, {name: shop-canary, port: 80, weight: 0}]"
	rules := func(rules string) string {
		return strings.Replace(plainRoute, "  - backendRefs: [{name: shop, port: 80}]\n", rules, 1)
	}
	replace := func(text, old, with string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("%q is not in %s", old, text)
		}
		return strings.Replace(text, old, with, 1)
	}
	grpc := replace(plainRoute, "HTTPRoute", "GRPCRoute")
	grpcPort := map[string]string{"service.yaml": replace(base(t, "service.yaml"), "name: http,", "name: grpc,")}
	vs := map[string]string{"virtual-service.yaml": base(t, "virtual-service.yaml"), "destination-rule.yaml": base(t, "destination-rule.yaml")}
	for name, c := range map[string]struct {
		route  string
		files  map[string]string
		router string
		want   string // of the error; "" for none
		other  string // "virtualservice" where that is to be the router
		rules  int    // of the release; 0 for one
	}{
		"a rule to the Service alone":    {route: plainRoute},
		"a rule to both tracks":          {route: rules("  - backendRefs: " + both + "\n")},
		"with the tracks' Services":      {route: rules("  - backendRefs: " + both + "\n"), files: map[string]string{"tracks.yaml": trackServices}},
		"Services of other names":        {route: rules("  - backendRefs: [{name: stable, port: 80, weight: 100}, {name: next, port: 80, weight: 0}]\n"), files: map[string]string{"tracks.yaml": strings.NewReplacer("shop-primary", "stable", "shop-canary", "next").Replace(trackServices)}},
		"two rules":                      {route: rules("  - {name: api, matches: [{path: {value: /api}}], timeouts: {request: 5s}, backendRefs: [{name: shop, port: 80}]}\n  - backendRefs: " + both + "\n"), rules: 2},
		"others' rules":                  {route: rules("  - {matches: [{path: {value: /theirs}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: b}]}}], backendRefs: [{name: other, port: 80}]}\n  - backendRefs: " + both + "\n")},
		"others' backend beside":         {route: rules("  - backendRefs: [{name: shop-primary, port: 80, weight: 100}, {name: other, port: 80, weight: 3}, {name: shop-canary, port: 80, weight: 0}]\n")},
		"primary alone in another rule":  {route: rules("  - {matches: [{path: {value: /admin}}], backendRefs: [{name: shop-primary, port: 80}]}\n  - backendRefs: " + both + "\n")},
		"a backend of another namespace": {route: rules("  - {matches: [{path: {value: /theirs}}], backendRefs: [{name: shop-canary, namespace: theirs, port: 80}]}\n  - backendRefs: " + both + "\n")},
		"the mesh":                       {route: replace(plainRoute, "[{name: public, namespace: istio-system}]\n  hostnames: [shop.example.com]", "[{group: '', kind: Service, name: shop, port: 80}]")},
		"the mesh and a gateway":         {route: replace(plainRoute, "[{name: public", "[{group: '', kind: Service, name: shop, port: 80}, {name: public")},
		"gRPC":                           {route: grpc, files: grpcPort},
		"gRPC by appProtocol":            {route: grpc, files: map[string]string{"service.yaml": replace(base(t, "service.yaml"), "name: http,", "name: http, appProtocol: kubernetes.io/h2c,")}},
		"v1beta1":                        {route: replace(plainRoute, "io/v1", "io/v1beta1")},
		"a Service over primary":         {route: plainRoute, files: map[string]string{"service.yaml": replace(base(t, "service.yaml"), "selector: {app: shop}", "selector: {app: shop, version: primary}"), "tracks.yaml": trackServices}},
		"a VirtualService of others":     {route: plainRoute, files: map[string]string{"other.yaml": replace(base(t, "virtual-service.yaml"), "host: shop, subset: primary}", "host: other}")[:0] + "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: other}\nspec: {hosts: [other.example.com], http: [{route: [{destination: {host: other}}]}]}\n"}},
		"both, and httproute":            {route: plainRoute, files: vs, router: RouterHTTPRoute},
		"both, and virtualservice":       {route: plainRoute, files: vs, router: RouterVirtualService, other: RouterVirtualService},

		"both":                            {route: plainRoute, files: vs, want: "router: VirtualService shop and HTTPRoute shop both lead to Service shop"},
		"httproute without one":           {route: replace(plainRoute, "{name: shop, port", "{name: other, port"), router: RouterHTTPRoute, want: "router: it is httproute, and no HTTPRoute or GRPCRoute leads to Service shop"},
		"GRPCRoute to a port of HTTP":     {route: grpc, want: "Service shop: spec.ports: http: is HTTP/1.1 to the proxies by its name or appProtocol, and a GRPCRoute leads to it"},
		"GRPCRoute to a port of anything": {route: grpc, files: map[string]string{"service.yaml": replace(base(t, "service.yaml"), "name: http,", "name: web,")}, want: `Service shop-primary: spec.ports: port 80 is named "web": a mesh takes it for HTTP/1.1`},
		"a port that is nobody's":         {route: replace(plainRoute, "port: 80", "port: 81"), want: "route.yaml: HTTPRoute shop: spec.rules[0].backendRefs[0].port: Service shop-primary has no port 81"},
		"not at rest":                     {route: rules("  - backendRefs: [{name: shop-primary, port: 80, weight: 90}, {name: shop-canary, port: 80, weight: 10}]\n"), want: "spec.rules[0].backendRefs: the weights are 90/10"},
		"weights that nobody wrote":       {route: rules("  - backendRefs: [{name: shop-primary, port: 80}, {name: shop-canary, port: 80}]\n"), want: "the weights are 1/1"},
		"a rule to the canary alone":      {route: rules("  - {matches: [{path: {value: /next}}], backendRefs: [{name: shop-canary, port: 80}]}\n  - backendRefs: " + both + "\n"), want: "spec.rules[0].backendRefs: it leads to shop-canary past the weights"},
		"the Service beside another":      {route: rules("  - backendRefs: [{name: shop, port: 80}, {name: other, port: 80}]\n"), want: "no rule leads to shop-primary and shop-canary"},
		"the Service beside the tracks":   {route: rules("  - backendRefs: [{name: shop, port: 80}, {name: shop-primary, port: 80, weight: 100}, {name: shop-canary, port: 80, weight: 0}]\n"), want: "spec.rules[0].backendRefs: it leads to Service shop beside others"},
		"session persistence":             {route: replace(plainRoute, "  - backend", "  - sessionPersistence: {type: Cookie}\n    backend"), want: "spec.rules[0].sessionPersistence: Istio does not carry it out (GEP-1619 is experimental)"},
		"an unknown field":                {route: replace(plainRoute, "hostnames", "hosts"), want: `route.yaml: document 1: unknown field "spec.hosts"`},
		"a version of long ago":           {route: replace(plainRoute, "io/v1", "io/v1alpha2"), want: "apiVersion gateway.networking.k8s.io/v1alpha2 of HTTPRoute shop is not served any more"},
		"no parent":                       {route: replace(plainRoute, "[{name: public, namespace: istio-system}]", "[]"), want: "spec.parentRefs: is missing: no gateway would take the route"},
		"another Service's callers":       {route: replace(plainRoute, "[{name: public, namespace: istio-system}]", "[{group: '', kind: Service, name: other}]"), want: "spec.parentRefs: Service other is not the app's"},
		"two routes":                      {route: plainRoute + "---\n" + replace(plainRoute, "metadata: {name: shop}", "metadata: {name: second}"), want: "HTTPRoute shop and HTTPRoute second lead to Service shop, and neither names the Services of both tracks"},
		"two routes of both tracks":       {route: rules("  - backendRefs: "+both+"\n") + "---\n" + replace(rules("  - backendRefs: "+both+"\n"), "metadata: {name: shop}", "metadata: {name: second}"), want: "HTTPRoute second leads to both tracks too, after HTTPRoute shop"},
		"TCP":                             {route: "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: shop}\nspec: {parentRefs: [{name: public}], rules: [{backendRefs: [{name: shop, port: 80}]}]}\n", want: "TCPRoute shop leads to Service shop: a TCPRoute has no requests"},
		"another namespace":               {route: replace(replace(plainRoute, "{name: shop}\nspec", "{name: shop, namespace: gateways}\nspec"), "{name: shop, port", "{name: shop, namespace: prod, port"), files: map[string]string{"service.yaml": replace(base(t, "service.yaml"), "{name: shop}", "{name: shop, namespace: prod}"), "deployment.yaml": replace(base(t, "deployment.yaml"), "name: shop-primary\n", "name: shop-primary\n  namespace: prod\n")}, want: "HTTPRoute shop leads to Service shop from another namespace"},
		"a Service of a track's name":     {route: plainRoute, files: map[string]string{"more.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: shop-canary}\nspec: {selector: {app: other}, ports: [{port: 80}]}\n"}, want: "Service shop-canary has the name of the canary's"},
		"a track's Service without a VIP": {route: plainRoute, files: map[string]string{"tracks.yaml": replace(trackServices, "version: canary},", "version: canary}, clusterIP: None,")}, want: "Service shop-canary: spec.clusterIP: a route needs a Service with an address"},
		"pods that are not ready":         {route: plainRoute, files: map[string]string{"tracks.yaml": replace(trackServices, "version: canary},", "version: canary}, publishNotReadyAddresses: true,")}, want: "Service shop-canary: spec.publishNotReadyAddresses"},
		"a Service over the canary":       {route: plainRoute, files: map[string]string{"service.yaml": replace(base(t, "service.yaml"), "selector: {app: shop}", "selector: {app: shop, version: canary}")}, want: "Service"},
		"two Services of a track":         {route: plainRoute, files: map[string]string{"tracks.yaml": trackServices, "again.yaml": replace(strings.SplitN(trackServices, "---\n", 2)[1], "name: shop-canary", "name: next")}, want: "both select the pods of the canary alone"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := withRoute(t, c.route, c.files)
			set, err := Read(t.Context(), Source{Path: dir, Router: c.router})
			if err == nil {
				err = set.In("demo")
			}
			if c.want != "" {
				if err == nil || !errors.As(err, new(*usererr.Error)) || !strings.Contains(strings.ReplaceAll(err.Error(), dir+"/", ""), c.want) {
					t.Errorf("got %v, want a usererr.Error with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.other != "" {
				if set.Route != nil || set.Tracks != nil || set.VirtualService == nil {
					t.Errorf("the router is %v", set.Route)
				}
				return
			}
			if set.VirtualService != nil || set.DestinationRule != nil || set.Route == nil {
				t.Fatalf("VirtualService %v, DestinationRule %v, route %v", set.VirtualService, set.DestinationRule, set.Route)
			}
			if set.Route.GetNamespace() != "demo" || set.Route.GetAPIVersion() != "gateway.networking.k8s.io/v1" || set.Service.Spec.Selector[TrackLabel] != "primary" {
				t.Errorf("%s in %s, Service over %v", set.Route.GetAPIVersion(), set.Route.GetNamespace(), set.Service.Spec.Selector)
			}
			g, err := ReadGatewayRoute(set.Route)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := len(set.Rules(g)), max(c.rules, 1); got != want {
				t.Errorf("%d rules of the release, want %d", got, want)
			}
			for _, r := range set.Rules(g) {
				if w := g.Weights(r); w != (WeightPair{Primary: 100}) {
					t.Errorf("weights %v", w)
				}
			}
			for track, service := range set.Tracks {
				if service.Namespace != "demo" || service.Spec.Selector[TrackLabel] != string(track) || len(service.Spec.Ports) != len(set.Service.Spec.Ports) || service.Spec.Selector["app"] != "shop" {
					t.Errorf("%s: %+v", track, service)
				}
			}
			if strings.Contains(strings.Join(set.left(), " "), "Service shop-") {
				t.Errorf("left alone: %v", set.left())
			}
		})
	}
}

// TestGatewayRouteAsTheServerHasIt: what the API server fills in is written out, so that no tool takes it for a change.
func TestGatewayRouteAsTheServerHasIt(t *testing.T) {
	set, err := Load(withRoute(t, strings.Replace(plainRoute, "  - backend", "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: logs, port: 80}}}]\n    backend", 1), nil))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"hostnames":["shop.example.com"],"parentRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"public","namespace":"istio-system"}],` +
		`"rules":[{"backendRefs":[{"group":"","kind":"Service","name":"shop-primary","port":80,"weight":100},{"group":"","kind":"Service","name":"shop-canary","port":80,"weight":0}],` +
		`"filters":[{"requestMirror":{"backendRef":{"group":"","kind":"Service","name":"logs","port":80}},"type":"RequestMirror"}],"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]}`
	got, err := json.Marshal(set.Route.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	remarks := strings.Join(set.Remarks(), "\n")
	for _, want := range []string{"Service shop-canary is made", "Service shop selects primary alone", "HTTPRoute shop: spec.rules[0] gets both tracks, primary with weight 100"} {
		if !strings.Contains(remarks, want) {
			t.Errorf("%q is not in %s", want, remarks)
		}
	}
}

// TestTrackServices: what is derived from the app's Service is inside of the cluster, and nothing that scrapes the app's Service
// finds it.
func TestTrackServices(t *testing.T) {
	service := `apiVersion: v1
kind: Service
metadata:
  name: shop
  labels: {app: shop, istio.io/use-waypoint: waypoint}
  annotations: {networking.istio.io/exportTo: '.', service.beta.kubernetes.io/aws-load-balancer-type: nlb}
spec:
  type: LoadBalancer
  selector: {app: shop}
  externalIPs: [10.1.1.1]
  publishNotReadyAddresses: true
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080, appProtocol: http}]
`
	set, err := Load(withRoute(t, plainRoute, map[string]string{"service.yaml": service}))
	if err != nil {
		t.Fatal(err)
	}
	got := set.Tracks[release.Canary]
	want := corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"app": "shop", "version": "canary"}, Ports: set.Service.DeepCopy().Spec.Ports}
	want.Ports[0].NodePort = 0
	if diff := cmp.Diff(want, got.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"app.kubernetes.io/managed-by": "crossbill", "version": "canary", "istio.io/use-waypoint": "waypoint"}, got.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"networking.istio.io/exportTo": "."}, got.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	if set.Service.Spec.Ports[0].NodePort != 30080 || set.Service.Spec.Selector[TrackLabel] != "primary" {
		t.Errorf("the app's own Service is %+v", set.Service.Spec)
	}
}

// TestGatewayWishes: render.gateway is a wish for a VirtualService, also where an HTTPRoute leads to the app.
func TestGatewayWishes(t *testing.T) {
	source := Source{Path: withRoute(t, plainRoute, nil), Gateway: "istio-system/public"}
	set, err := Read(t.Context(), source)
	if err != nil || set.Route != nil || set.VirtualService == nil || set.VirtualService.Spec.Hosts[0] != "shop.example.com" {
		t.Errorf("got %v, %v", set, err)
	}
	source.Router = RouterHTTPRoute
	if set, err = Read(t.Context(), source); err != nil || set.Route == nil {
		t.Errorf("got %v, %v", set, err)
	}
}

// TestObjectsOfARoute: the ledger's names lead back to the same objects.
func TestObjectsOfARoute(t *testing.T) {
	set, err := Load(withRoute(t, plainRoute, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := set.In("demo"); err != nil {
		t.Fatal(err)
	}
	names, err := set.Objects("demo")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "irtualService") || !strings.Contains(string(text), `"route":{"kind":"HTTPRoute","name":"shop"},"trackServices":{"canary":"shop-canary","primary":"shop-primary"}`) {
		t.Errorf("the ledger has %s", text)
	}
	var read release.Objects
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	back := OfObjects("shop", &read)
	again, err := back.Objects("demo")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names, again); diff != "" {
		t.Errorf("-names +names of them:\n%s", diff)
	}
	if back.VirtualService != nil || back.Route.GetKind() != "HTTPRoute" || back.Tracks[release.Canary].Spec.Selector[TrackLabel] != "canary" {
		t.Errorf("got %+v", back)
	}
	plain, err := Load("../../k8s")
	if err != nil {
		t.Fatal(err)
	}
	if names, err = plain.Objects("demo"); err != nil {
		t.Fatal(err)
	}
	if text, err = json.Marshal(names); err != nil || strings.Contains(string(text), "trackServices") || !strings.Contains(string(text), `"virtualService":{"name":"qwik-node-app-vs"}`) {
		t.Errorf("the ledger has %s, %v", text, err)
	}
}
