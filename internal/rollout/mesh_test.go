package rollout_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// route makes somebody's VirtualService.
func (w *world) route(namespace, name, host string, gateways []string, routes ...*networkingapi.HTTPRoute) {
	w.Helper()
	vs := &networking.VirtualService{ObjectMeta: metav1.ObjectMeta{Name: name}}
	vs.Spec.Hosts, vs.Spec.Gateways, vs.Spec.Http = []string{host}, gateways, routes
	w.must(w.mesh.NetworkingV1().VirtualServices(namespace).Create(w.Context(), vs, metav1.CreateOptions{}))
}

// rule makes somebody's DestinationRule.
func (w *world) rule(namespace, host string, subsets ...*subset) {
	w.Helper()
	rule := &networking.DestinationRule{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}
	rule.Spec.Host, rule.Spec.Subsets = host, subsets
	w.must(w.mesh.NetworkingV1().DestinationRules(namespace).Create(w.Context(), rule, metav1.CreateOptions{}))
}

func to(host string) *networkingapi.HTTPRoute {
	return &networkingapi.HTTPRoute{Route: []*networkingapi.HTTPRouteDestination{{Destination: &networkingapi.Destination{Host: host}}}}
}

func under(prefix string, route *networkingapi.HTTPRoute) *networkingapi.HTTPRoute {
	route.Match = []*networkingapi.HTTPMatchRequest{{Uri: &networkingapi.StringMatch{MatchType: &networkingapi.StringMatch_Prefix{Prefix: prefix}}}}
	return route
}

// gatewayPod puts a pod of the app's gateway into a namespace.
func (w *world) gatewayPod(namespace string) {
	w.Helper()
	labels := w.set.Gateways[0].Spec.Selector
	w.must(w.kube.CoreV1().Pods(namespace).Create(w.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "gateway", Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "istio-proxy", Image: image("9")}}}}, metav1.CreateOptions{}))
}

// TestIneffective: what would make a release ineffective is refused before the lock, with the object that does.
func TestIneffective(t *testing.T) {
	const host, fqdn = "app.example.com", "qwik-node-app-service.prod.svc.cluster.local"
	const gateway = "prod/public-gateway"
	for name, c := range map[string]struct {
		first bool // the first release, after what the test does
		do    func(w *world)
		says  string // "": it is released
	}{
		"nothing": {false, func(*world) {}, ""},
		"a route without a subset": {false, func(w *world) {
			w.patchRoute(`[{"op":"add","path":"/spec/http/0","value":{"match":[{"uri":{"prefix":"/api"}}],"route":[{"destination":{"host":"qwik-node-app-service"}}]}}]`)
		}, "VirtualService prod/qwik-node-app-vs: spec.http[0].route: it leads to Service qwik-node-app-service without a subset"},
		"a TCP route without one": {false, func(w *world) {
			w.patchRoute(`[{"op":"add","path":"/spec/tcp","value":[{"route":[{"destination":{"host":"` + fqdn + `"}}]}]}]`)
		}, "spec.tcp[0].route"},
		"one in somebody's VirtualService":          {false, func(w *world) { w.route("other", "theirs", "x.example.com", nil, to(fqdn)) }, "VirtualService other/theirs: spec.http[0].route"},
		"a short host elsewhere is another Service": {false, func(w *world) { w.route("other", "theirs", "x.example.com", nil, to("qwik-node-app-service")) }, ""},
		"a moved subset": {false, func(w *world) {
			w.patchRule(`[{"op":"replace","path":"/spec/subsets/1/labels","value":{"version":"v2"}}]`)
		}, "its subset canary selects other pods"},
		"a subset of nobody":      {false, func(w *world) { w.patchRule(`[{"op":"add","path":"/spec/subsets/1/labels/tier","value":"web"}]`) }, "DestinationRule prod/qwik-node-app-dr: spec.subsets: subset canary asks for the label tier: web, which no pod of the track has"},
		"an older VirtualService": {true, func(w *world) { w.route(namespace, "theirs", host, []string{"public-gateway"}, to("other")) }, "VirtualService prod/theirs: it is for host app.example.com on gateway prod/public-gateway too, and older"},
		"an older one elsewhere":  {true, func(w *world) { w.route("other", "theirs", host, []string{gateway}, to("other")) }, "VirtualService other/theirs"},
		"an older one for another path": {true, func(w *world) {
			w.route(namespace, "theirs", host, []string{"public-gateway"}, under("/theirs", to("other")))
		}, ""},
		"an older one on another gateway": {true, func(w *world) { w.route(namespace, "theirs", host, []string{"private"}, to("other")) }, ""},
		"an older one for another host":   {true, func(w *world) { w.route(namespace, "theirs", "b.example.com", []string{"public-gateway"}, to("other")) }, ""},
		"a younger VirtualService":        {false, func(w *world) { w.route(namespace, "theirs", host, []string{"public-gateway"}, to("other")) }, ""},
		"an older DestinationRule with other subset": {true, func(w *world) {
			w.rule(namespace, fqdn, &subset{Name: "canary", Labels: map[string]string{"version": "v2"}})
		}, "DestinationRule prod/theirs: spec.subsets"},
		"an older one with other subsets beside": {true, func(w *world) { w.rule(namespace, fqdn, &subset{Name: "theirs", Labels: map[string]string{"a": "b"}}) }, ""},
		"a DestinationRule where the gateway is": {false, func(w *world) { w.gatewayPod("edge"); w.rule("edge", fqdn) }, "DestinationRule edge/theirs: the app's gateway, which has its pods in that namespace, takes it instead"},
		"a DestinationRule where no gateway is":  {false, func(w *world) { w.gatewayPod("edge"); w.rule("other", fqdn) }, ""},
		"a VirtualService that the gateway misses": {false, func(w *world) {
			w.gatewayPod("edge")
			w.patchRoute(`[{"op":"add","path":"/spec/exportTo","value":["."]}]`)
		}, "VirtualService prod/qwik-node-app-vs: spec.exportTo: [.] hides it from namespace edge"},
		"a DestinationRule that it misses": {false, func(w *world) {
			w.gatewayPod("edge")
			w.patchRule(`[{"op":"add","path":"/spec/exportTo","value":["other"]}]`)
		}, "DestinationRule prod/qwik-node-app-dr: spec.exportTo"},
		"one that it sees": {false, func(w *world) {
			w.gatewayPod("edge")
			w.patchRule(`[{"op":"add","path":"/spec/exportTo","value":[".","edge"]}]`)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, map[bool]string{true: "new", false: "rest"}[c.first], func(w *world) {
				w.observer.started = false
				c.do(w)
				w.wait()
				j := w.job("job")
				_, err := j.Canary(w.Context(), wanted("2"))
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
}

// TestMeshOfTheRole: an account that may list nothing outside its namespace, or nothing at all, releases, and the log says what was
// not checked.
func TestMeshOfTheRole(t *testing.T) {
	for name, c := range map[string]struct {
		forbids func(path string) bool
		says    string
	}{
		"one namespace": {func(path string) bool { return !strings.Contains(path, "/namespaces/") }, "of other namespaces cannot be listed"},
		"no list": {func(path string) bool {
			return strings.HasSuffix(path, "/virtualservices") || strings.HasSuffix(path, "/destinationrules")
		}, "cannot be listed: whether another one is for the app's host is not checked"},
	} {
		at(t, "rest", func(w *world) {
			j := w.job("job")
			j.before = func(r *http.Request) error {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "networking.istio.io") && c.forbids(r.URL.Path) {
					return forbidden(r.URL.Path)
				}
				return nil
			}
			if _, err := j.Canary(w.Context(), wanted("2")); err != nil || !strings.Contains(strings.Join(j.logged, "\n"), c.says) {
				t.Errorf("%s: %v, %q", name, err, j.logged)
			}
		})
	}
}

// TestMeshElsewhere: a VirtualService in the gateway's namespace takes the release's weights, and names the Service in full.
func TestMeshElsewhere(t *testing.T) {
	at(t, "new", func(w *world) {
		set := w.own()
		set.VirtualService.Namespace = "edge" // as its manifest has it
		if err := set.In(namespace); err == nil || !strings.Contains(err.Error(), "from namespace edge its host is qwik-node-app-service.prod.svc.cluster.local") {
			t.Fatalf("a short host: %v", err)
		}
		for _, d := range set.VirtualService.Spec.Http[0].Route {
			d.Destination.Host = "qwik-node-app-service.prod.svc.cluster.local"
		}
		if err := set.In(namespace); err != nil {
			t.Fatal(err)
		}
		w.observer.set = set
		for digit, end := range map[string]string{"1": "first"} {
			j := w.job(end)
			j.Manifests = set
			w.must(j.Canary(w.Context(), wanted(digit)))
		}
		j := w.job("job")
		j.Manifests = set
		w.must(j.Canary(w.Context(), wanted("2")))
		vs, err := w.mesh.NetworkingV1().VirtualServices("edge").Get(w.Context(), set.VirtualService.Name, metav1.GetOptions{})
		if err != nil || manifest.Weights(vs, set.Routes(vs)[0]) != (manifest.WeightPair{Primary: 90, Canary: 10}) {
			t.Errorf("%v, %v", vs, err)
		}
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		w.must(j.Cleanup(w.Context()))
	})
}

// TestRouteThatLostTheMesh: a canary says that callers in the mesh reach it past its weight, where the manifests say otherwise.
func TestRouteThatLostTheMesh(t *testing.T) {
	at(t, "rest", func(w *world) {
		set := w.own()
		set.VirtualService.Spec.Gateways = append(set.VirtualService.Spec.Gateways, manifest.MeshGateway)
		j := w.job("job")
		j.Manifests = set
		w.must(j.Canary(w.Context(), wanted("2")))
		if !j.said("VirtualService", "does not route callers in the mesh, as the manifests' does: its gateways lack `mesh`") {
			t.Errorf("%q", j.logged)
		}
		w.patchRoute(`[{"op":"add","path":"/spec/gateways/-","value":"mesh"}]`)
		w.must(j.Rollback(w.Context(), "test"))
		j = w.job("again")
		j.Manifests, j.Again = set, true
		w.must(j.Canary(w.Context(), wanted("2")))
		if j.said("does not route callers") {
			t.Errorf("%q", j.logged)
		}
	})
}

// broughtCase loads a case of package manifest: what it does not have is the base's.
func broughtCase(t *testing.T, name string) *manifest.Set {
	t.Helper()
	dir := t.TempDir()
	for _, from := range []string{"00-base", name} {
		if err := filepath.WalkDir(filepath.Join("../manifest/testdata/cases", from), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, d.Name()), text, 0o644)
		}); err != nil {
			t.Fatal(err)
		}
	}
	set, err := manifest.Load(dir)
	if err == nil {
		err = set.In(namespace)
	}
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestTwoComponents: two components with one label `app` have a ledger and pods each, and release beside each other.
func TestTwoComponents(t *testing.T) {
	at(t, "new", func(w *world) {
		w.observer.started = false // it knows one app
		jobs := map[string]*job{}
		start := func(component, digit string) (rollout.Result, error) {
			set := broughtCase(t, "23-guestbook/"+component)
			jobs[component] = w.job(component)
			jobs[component].Manifests = set
			return jobs[component].Canary(w.Context(), release.Release{ID: component + digit, Image: "registry.example.com/our-org/" + component + "@sha256:" + strings.Repeat(digit, 64), Weight: 10})
		}
		for _, component := range []string{"backend", "frontend"} {
			w.must(start(component, "1"))
		}
		for _, component := range []string{"backend", "frontend"} {
			w.must(start(component, "2"))
		}
		w.must(judge(w.Context(), jobs["frontend"].Cluster, release.Healthy))
		w.must(jobs["backend"].Rollback(w.Context(), "test"))
		w.must(jobs["frontend"].Promote(w.Context()))
		w.must(jobs["frontend"].Cleanup(w.Context()))
		got := map[string]string{}
		for component, j := range jobs {
			status, err := j.Status(w.Context())
			if err != nil {
				t.Fatal(err)
			}
			got[component] = status.Tracks[release.Primary].Image[:len("registry.example.com/our-org/x")+len(component)+len("@sha256:")]
		}
		want := map[string]string{"backend": "registry.example.com/our-org/backend@sha256:1", "frontend": "registry.example.com/our-org/frontend@sha256:2"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		all, err := rollout.StatusOfAll(w.Context(), w.kube, nil, namespace)
		if err != nil || len(all) != 2 || all[0].App != "backend" || digitOf(all[0].Tracks[release.Primary].Image) != "1" || digitOf(all[1].Tracks[release.Primary].Image) != "2" {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// TestLedgerByLabel: an app whose Deployment is named otherwise than its label keeps the ledger that an earlier Crossbill
// made by the label, unless that is another component's.
func TestLedgerByLabel(t *testing.T) {
	for _, c := range []struct{ repository, want string }{{"backend", "crossbill-guestbook"}, {"frontend", "crossbill-backend"}} {
		at(t, "new", func(w *world) {
			w.observer.started = false
			set := broughtCase(t, "23-guestbook/backend")
			of := func(repository, digit string) string {
				return "registry.example.com/our-org/" + repository + "@sha256:" + strings.Repeat(digit, 64)
			}
			first := w.job("first")
			first.Manifests = set
			w.must(first.Canary(w.Context(), release.Release{ID: "one", Image: of("backend", "1"), Weight: 10}))
			configMaps := w.kube.CoreV1().ConfigMaps(namespace)
			state, err := configMaps.Get(w.Context(), "crossbill-backend", metav1.GetOptions{})
			w.must(state, err)
			ledger, err := release.ParseLedger("backend", state.Data[ledgerKey])
			w.must(ledger, err)
			ledger.App, ledger.History[0].Objects, ledger.History[0].Image = "guestbook", nil, of(c.repository, "1")
			w.must(configMaps.Create(w.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "crossbill-guestbook", Labels: state.Labels}, Data: map[string]string{ledgerKey: ledger.String()}}, metav1.CreateOptions{}))
			w.must(nil, configMaps.Delete(w.Context(), "crossbill-backend", metav1.DeleteOptions{}))
			next := w.job("next")
			next.Manifests = set
			w.must(next.Canary(w.Context(), release.Release{ID: "two", Image: of("backend", "2"), Weight: 10}))
			found, err := configMaps.Get(w.Context(), c.want, metav1.GetOptions{})
			if err != nil || !strings.Contains(found.Data[ledgerKey], `"two"`) {
				t.Errorf("%s: the release is not in %s: %v", c.repository, c.want, err)
			}
			if set.App != "backend" {
				t.Errorf("the manifests were changed: %s", set.App)
			}
		})
	}
}

// TestEveryRoute: all of the release's routes are written and compared.
func TestEveryRoute(t *testing.T) {
	at(t, "new", func(w *world) {
		w.observer.started = false
		set := broughtCase(t, "22-two-routes")
		j := w.job("job")
		j.Manifests = set
		of := func(digit string) release.Release {
			return release.Release{ID: "r" + digit, Image: "registry.example.com/our-org/shop@sha256:" + strings.Repeat(digit, 64), Weight: 10}
		}
		w.must(j.Canary(w.Context(), of("1")))
		w.must(j.Canary(w.Context(), of("2")))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		patch := func(text string) {
			w.must(w.mesh.NetworkingV1().VirtualServices(namespace).Patch(w.Context(), "shop", "application/json-patch+json", []byte(text), metav1.PatchOptions{}))
		}
		patch(`[{"op":"replace","path":"/spec/http/1/route/1/weight","value":99},{"op":"replace","path":"/spec/http/1/route/0/weight","value":1}]`)
		const says = "the canary has weight 99 in spec.http[1], the release gave it 10"
		status, err := j.Status(w.Context())
		if err != nil || !strings.Contains(strings.Join(status.Drift, "\n"), says) {
			t.Errorf("drift %q, %v", status.Drift, err)
		}
		if _, err := j.Promote(w.Context()); !errors.As(err, new(*rollout.StageError)) || !strings.Contains(err.Error(), says) {
			t.Errorf("promote: %v", err)
		}
		w.must(j.Rollback(w.Context(), "test"))
		vs, err := w.mesh.NetworkingV1().VirtualServices(namespace).Get(w.Context(), "shop", metav1.GetOptions{})
		w.must(vs, err)
		for _, r := range set.Routes(vs) {
			if got := manifest.Weights(vs, r); got != (manifest.WeightPair{Primary: 100}) {
				t.Errorf("after rollback spec.http[%d] has %+v", r.HTTP, got)
			}
		}
	})
}

// TestRouteWithoutSubsetInFlight: a route to the Service that somebody adds during a release is drift, and holds no
// rollback up.
func TestRouteWithoutSubsetInFlight(t *testing.T) {
	at(t, "healthy", func(w *world) {
		w.observer.started = false
		w.patchRoute(`[{"op":"add","path":"/spec/http/0","value":{"match":[{"uri":{"prefix":"/api"}}],"route":[{"destination":{"host":"qwik-node-app-service"}}]}}]`)
		j := w.job("job")
		if _, err := j.Promote(w.Context()); !errors.As(err, new(*rollout.StageError)) || !strings.Contains(err.Error(), "spec.http[0].route of the VirtualService leads to the Service without a subset") {
			t.Errorf("promote: %v", err)
		}
		w.must(j.Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestSelectorOfTheManifest: the whole selector is compared before the lock, and a rollback works with whatever manifests
// there are by then.
func TestSelectorOfTheManifest(t *testing.T) {
	at(t, "new", func(w *world) {
		w.observer.started = false
		of := func(digit string) release.Release {
			return release.Release{ID: "r" + digit, Image: "registry.example.com/our-org/shop@sha256:" + strings.Repeat(digit, 64), Weight: 10}
		}
		j := w.job("job")
		j.Manifests = broughtCase(t, "00-base")
		w.must(j.Canary(w.Context(), of("1")))
		later := w.job("later")
		later.Manifests = broughtCase(t, "21-selector-changed")
		if _, err := later.Canary(w.Context(), of("2")); !errors.As(err, new(*usererr.Error)) || len(later.every) > 0 ||
			!strings.Contains(err.Error(), "Deployment prod/shop-primary: spec.selector: it is app=shop,version=primary in the cluster and app=shop,tier=web,version=primary in the manifest") {
			t.Errorf("%v, after %q", err, later.every)
		}
		w.must(j.Canary(w.Context(), of("2")))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		if _, err := later.Rollback(w.Context(), "test"); err != nil {
			t.Error(err)
		}
		status, err := j.Status(w.Context())
		if err != nil || status.Release != nil || digitOf(status.Tracks[release.Primary].Image) != "1" {
			t.Errorf("%+v, %v", status, err)
		}
	})
}
