package commands_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict"
	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/load"
)

var (
	trafficRequests = flag.Int("traffic.requests", 3000, "TestTraffic: requests at least, for each way to release")
	trafficOut      = flag.String("traffic.json", "", "TestTraffic: file for what it counts")
)

// trafficRate is how many requests come each second, by each of two paths.
func trafficRate() int {
	if *long {
		return 150
	}
	return 50 // more than that, beside all others, and two cores have no time for the releases
}

// served is what callers of an app saw, by one path.
type served struct {
	Path         string         `json:"path"`
	Requests     int            `json:"requests"`
	Lost         int            `json:"lost"`         // no answer by any version of the app
	WrongVersion int            `json:"wrongVersion"` // by a track or version, from a second after it was off the route until it is on it again
	ByVersion    map[string]int `json:"byVersion"`
	// Shares is the canary's share in percent, by the weight that the route gave it.
	Shares   map[string]float64 `json:"canaryShareByWeight,omitempty"`
	Problems map[string]int     `json:"problems,omitempty"`
}

// byRouter is what callers saw by one path of an app with one kind of routing.
type byRouter struct {
	Router string `json:"router"`
	served
	// WeightToDataPlane is how long a change of weights takes, from its write until 20 answers in a row have come by it.
	WeightToDataPlane percentiles `json:"weightToDataPlaneSeconds"`
}

type percentiles struct {
	P50     float64 `json:"p50"`
	P95     float64 `json:"p95"`
	Changes int     `json:"changes"`
}

// routers are the kinds of routing, each with what it makes of the repository's manifests.
var routers = []struct {
	name, app string
	manifests func(a *app)
	// weigh gives the canary a weight by a patch of the route; each answer by that has the step in a header.
	weigh func(a *app, canary, step int)
}{
	{"VirtualService", "traffic", func(*app) {}, (*app).weighVirtualService},
	{"HTTPRoute", "routed", routeBy("HTTPRoute"), (*app).weighHTTPRoute},
}

// TestTraffic releases under steady traffic through Envoys, the gateway and the sidecar of a caller in another namespace: as
// Crossbill does, canary by canary, every second one rolled back, by each router; an app that ends at once when it is asked
// to; with a baseline, and beside a preview; and as the usual hand-written pipeline does, which waits for nothing, with an app
// that drains.
func TestTraffic(t *testing.T) {
	var out struct {
		Paths        []byRouter `json:"paths"`        // Crossbill, with an app that drains
		WithoutDrain []served   `json:"withoutDrain"` // Crossbill, with an app that ends at once
		Reference    served     `json:"reference"`
	}
	caller, err := running.StartCaller(t.Context(), "callers", "checkout")
	if err != nil {
		t.Fatal(err)
	}
	apps := make([]*app, len(routers))
	paths := make([][]served, len(routers))
	for i, router := range routers {
		apps[i] = newApp(t, router.app)
		router.manifests(apps[i])
	}
	t.Run("side by side", func(t *testing.T) {
		for i, router := range routers {
			t.Run(router.name, func(t *testing.T) {
				t.Parallel()
				paths[i] = apps[i].in(t).traffic(caller, "drains", (*app).byCrossbill)
			})
		}
		for i, router := range routers { // in the short form one of them each: Envoy has the same of both
			t.Run("baseline by "+router.name, func(t *testing.T) {
				if i == 0 {
					onlyLong(t)
				}
				t.Parallel()
				testBaseline(newApp(t, "beside-"+router.app), router.manifests)
			})
			t.Run("preview by header by "+router.name, func(t *testing.T) {
				if i == 1 {
					onlyLong(t)
				}
				t.Parallel()
				testPreview(released(t, "preview-"+router.app, router.manifests))
			})
		}
		t.Run("ends at once", func(t *testing.T) {
			t.Parallel()
			out.WithoutDrain = newApp(t, "abrupt").traffic(caller, "ends", (*app).byCrossbill)
		})
		t.Run("reference", func(t *testing.T) {
			t.Parallel()
			out.Reference = newApp(t, "reference").traffic(nil, "drains", (*app).handwritten)[0]
		})
	})
	if !t.Failed() {
		took := make([]map[string]percentiles, len(routers))
		t.Run("arrivals", func(t *testing.T) {
			for i, router := range routers {
				t.Run(router.name, func(t *testing.T) {
					if !*long { // else how long it takes is measured, one after the other
						t.Parallel()
					}
					took[i] = apps[i].in(t).arrivals(caller, router.weigh)
				})
			}
		})
		for i, router := range routers {
			for _, path := range paths[i] {
				out.Paths = append(out.Paths, byRouter{router.name, path, took[i][path.Path]})
			}
		}
	}
	check := func(name string, c served) {
		t.Helper()
		t.Logf("%s: %+v", name, c)
		if c.Lost != 0 || c.WrongVersion != 0 || c.Requests == 0 {
			t.Errorf("%s, by the %s: of %d requests %d were lost, %d answered by the wrong version: %v", name, c.Path, c.Requests, c.Lost, c.WrongVersion, c.Problems)
		}
	}
	for _, c := range out.Paths {
		check(c.Router, c.served)
		took := c.WeightToDataPlane
		t.Logf("%s: a weight reaches the %s in %.3f s (median), %.3f s (p95)", c.Router, c.Path, took.P50, took.P95)
		if *trafficRequests >= 50000 && took.P95 > 1 { // else there are too few changes for a p95
			t.Errorf("%s: a weight reaches the %s in %.3f s (p95)", c.Router, c.Path, took.P95)
		}
	}
	for _, c := range out.WithoutDrain {
		check("an app that ends at once", c)
	}
	t.Logf("reference: %+v", out.Reference)
	if out.Reference.Lost == 0 {
		t.Error("the hand-written pipeline lost nothing: the traffic does not see what it should")
	}
	writeJSON(t, *trafficOut, out)
}

// in is the app in another test.
func (a *app) in(t *testing.T) *app {
	moved := *a
	moved.T = t
	return &moved
}

// off is a version that nobody should see from a time on.
type off struct {
	version  string
	from, to time.Time
}

// path is a way into the mesh that leads to an app.
type path struct{ name, address, host string }

// paths are that of the gateway, and that of a caller in the mesh if there is one.
func (a *app) paths(caller *cluster.Caller) []path {
	all := []path{{"gateway", running.GatewayAddress, a.name + ".example.com"}}
	if caller != nil {
		all = append(all, path{"sidecar", caller.Address(80), a.name + "-service." + a.namespace + ".svc.cluster.local"})
	}
	return all
}

// traffic releases again and again while requests come by each path, and counts what they met.
func (a *app) traffic(caller *cluster.Caller, manner string, next func(a *app, w *weights, image string, round int) []off) []served {
	a.Helper()
	a.must("canary", "--image", images[manner+" a"])
	paths := a.paths(caller)
	for _, p := range paths {
		a.reached(p.address, p.host)
	}
	begin := time.Now()
	w := &weights{times: []kept{{from: begin}}}
	generators := make([]*load.Generator, len(paths))
	rate := 2 * trafficRate() / len(paths)
	for i, p := range paths {
		generators[i] = load.Start("http://"+p.address+"/", p.host, rate)
	}
	var gone []off
	names := []string{manner + " b", manner + " c", manner + " a"}
	for round := 0; round < 2 || int(time.Since(begin).Seconds()*float64(rate)) < *trafficRequests; round++ {
		gone = append(gone, next(a, w, names[round%len(names)], round)...)
	}
	time.Sleep(2 * time.Second)
	all := make([]served, len(paths))
	for i, generator := range generators {
		generator.Stop()
		tally := generator.Between(begin, time.Now())
		s := served{Path: paths[i].name, Requests: tally.Requests, Lost: tally.Lost, ByVersion: tally.Versions, Problems: tally.Problems}
		for _, o := range gone {
			s.WrongVersion += generator.Between(o.from.Add(time.Second), o.to).Versions[o.version]
		}
		if len(w.times) > 1 { // else nobody noted them
			a.hold(&s, w.times, generator)
		}
		all[i] = s
	}
	return all
}

// hold holds the answers against the weights, from a second after each was written until the next was: at 0 and 100 no other
// track answers, in between the canary by its share, within five standard deviations.
func (a *app) hold(s *served, times []kept, generator *load.Generator) {
	a.Helper()
	requests, canary := map[int]int{}, map[int]int{}
	for _, k := range times {
		if k.to.IsZero() {
			k.to = time.Now()
		}
		tally := generator.Between(k.from.Add(time.Second), k.to)
		requests[k.canary] += tally.Requests
		canary[k.canary] += tally.Tracks["canary"]
	}
	s.Shares = map[string]float64{}
	for weight, n := range requests {
		if n == 0 {
			continue
		}
		got, share := float64(canary[weight]), float64(weight)/100
		s.Shares[fmt.Sprint(weight)] = 100 * got / float64(n)
		switch off := math.Abs(got - float64(n)*share); {
		case weight == 0 || weight == 100:
			s.WrongVersion += int(off)
		case off > 5*math.Sqrt(float64(n)*share*(1-share)):
			a.Errorf("%s: of %d requests at weight %d, the canary answered %d", s.Path, n, weight, canary[weight])
		}
	}
}

// kept is a time in which a route gave the canary a weight.
type kept struct {
	canary   int
	from, to time.Time
}

// weights notes when commands change a route's weights.
type weights struct {
	mu    sync.Mutex
	times []kept
}

// config is the API server's, for clients whose requests are seen.
func (w *weights) config() *rest.Config {
	config := rest.CopyConfig(running.RESTConfig)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &weighing{next, w} })
	return config
}

type weighing struct {
	http.RoundTripper
	*weights
}

// RoundTrip implements http.RoundTripper.
func (w *weighing) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	response, err := w.RoundTripper.RoundTrip(r)
	if err != nil || r.Method != http.MethodPatch || response.StatusCode >= 300 || !strings.Contains(r.URL.Path, "/virtualservices/") && !strings.Contains(r.URL.Path, "/httproutes/") {
		return response, err
	}
	text, err := io.ReadAll(response.Body)
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(text))
	if err != nil {
		return response, err
	}
	canary, err := canaryWeight(text)
	if err != nil {
		return response, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := &w.times[len(w.times)-1]; last.canary != canary {
		last.to = began
		w.times = append(w.times, kept{canary: canary, from: time.Now()})
	}
	return response, nil
}

// canaryWeight is that of the release's route in a VirtualService or HTTPRoute.
func canaryWeight(text []byte) (int, error) {
	var route struct {
		Spec struct {
			HTTP []struct {
				Name  string
				Route []struct {
					Destination struct{ Subset string }
					Weight      int
				}
			}
			Rules []struct {
				Name        string
				BackendRefs []struct {
					Name   string
					Weight int
				}
			}
		}
	}
	if err := json.Unmarshal(text, &route); err != nil {
		return 0, err
	}
	for _, http := range route.Spec.HTTP {
		for _, to := range http.Route {
			if http.Name == "release" && to.Destination.Subset == "canary" {
				return to.Weight, nil
			}
		}
	}
	for _, rule := range route.Spec.Rules {
		for _, to := range rule.BackendRefs {
			if rule.Name == "release" && strings.HasSuffix(to.Name, "-canary") {
				return to.Weight, nil
			}
		}
	}
	return 0, errors.New("a route without the release's")
}

// arrivals changes the weights of a release in flight again and again, and measures by each path how long a change takes.
func (a *app) arrivals(caller *cluster.Caller, weigh func(a *app, canary, step int)) map[string]percentiles {
	a.Helper()
	a.must("canary", "--again", "--image", images["drains b"])
	changes := max(10, min(100, *trafficRequests/500))
	paths := a.paths(caller)
	took := make([][]float64, len(paths))
	for step := 1; step <= changes; step++ {
		canary := []int{0, 100, 0, 10, 90}[step%5]
		start := time.Now()
		weigh(a, canary, step)
		var group sync.WaitGroup
		for i, p := range paths {
			group.Go(func() {
				if err := a.arrived(p, canary, step); err != nil {
					a.Errorf("%s: weight %d: %v", p.name, canary, err)
				}
				took[i] = append(took[i], time.Since(start).Seconds())
			})
		}
		group.Wait()
		time.Sleep(time.Duration(step*37%200) * time.Millisecond) // not in step with istiod's own rhythm
	}
	a.must("rollback")
	found := map[string]percentiles{}
	for i, p := range paths {
		slices.Sort(took[i])
		at := func(p float64) float64 { return took[i][int(p*float64(changes-1)+0.5)] }
		found[p.name] = percentiles{at(0.5), at(0.95), changes}
	}
	return found
}

// arrived waits until 20 answers in a row have come by a path by a step, and from a track that the weight allows.
func (a *app) arrived(p path, canary, step int) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	right := 0
	for deadline := time.Now().Add(30 * time.Second); right < 20; {
		if time.Now().After(deadline) {
			return errors.New("not within 30 s")
		}
		request, err := http.NewRequestWithContext(a.Context(), http.MethodGet, "http://"+p.address+"/", nil)
		if err != nil {
			return err
		}
		request.Host = p.host
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		track := response.Header.Get("x-app-track")
		if right++; response.Header.Get(stepHeader) != fmt.Sprint(step) || canary == 0 && track != "primary" || canary == 100 && track != "canary" {
			right = 0
		}
	}
	return nil
}

// stepHeader is what a route adds to the answers that come by a step.
const stepHeader = "x-step"

func (a *app) weighVirtualService(canary, step int) {
	a.Helper()
	patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":%d},{"op":"replace","path":"/spec/http/0/route/1/weight","value":%d},
		{"op":"add","path":"/spec/http/0/headers","value":{"response":{"set":{%q:"%d"}}}}]`, 100-canary, canary, stepHeader, step)
	a.patchRoute(patch, "")
}

// routeBy has an app's manifests route by a kind of the Gateway API, at the gateway and for callers in the mesh, to a Service for
// each track, which are made.
func routeBy(kind string) func(*app) {
	return func(a *app) {
		a.Helper()
		for _, file := range []string{"virtual-service.yaml", "destination-rule.yaml", "gateway.yaml"} {
			if err := os.Remove(filepath.Join(a.manifests, file)); err != nil {
				a.Fatal(err)
			}
		}
		text := fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: %[3]s
metadata: {name: %[1]s}
spec:
  parentRefs:
    - {name: public, namespace: istio-system}
    - {group: "", kind: Service, name: %[2]s, port: 80}
  hostnames: [%[1]s.example.com]
  rules:
    - name: release
      backendRefs:
        - {name: %[2]s-primary, port: 80, weight: 100}
        - {name: %[2]s-canary, port: 80, weight: 0}
`, a.name, a.name+"-service", kind)
		if err := os.WriteFile(filepath.Join(a.manifests, "route.yaml"), []byte(text), 0o644); err != nil {
			a.Fatal(err)
		}
	}
}

// route is what routes the app by its manifests: a client for its kind, its name, and the field of its spec that has the rules.
func (a *app) route() (client dynamic.ResourceInterface, name, rules string) {
	a.Helper()
	set, err := manifest.Load(a.manifests)
	if err != nil {
		a.Fatal(err)
	}
	all, err := dynamic.NewForConfig(running.RESTConfig)
	if err != nil {
		a.Fatal(err)
	}
	if set.Route == nil {
		return all.Resource(networking.SchemeGroupVersion.WithResource("virtualservices")).Namespace(a.namespace), set.VirtualService.Name, "http"
	}
	gvk := set.Route.GroupVersionKind()
	return all.Resource(gvk.GroupVersion().WithResource(strings.ToLower(gvk.Kind) + "s")).Namespace(a.namespace), set.Route.GetName(), "rules"
}

// patchRoute changes what routes the app by a JSON patch.
func (a *app) patchRoute(patch, manager string) {
	a.Helper()
	client, name, _ := a.route()
	if _, err := client.Patch(a.Context(), name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{FieldManager: manager}); err != nil {
		a.Fatal(err)
	}
}

func (a *app) weighHTTPRoute(canary, step int) {
	a.Helper()
	patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":%d},{"op":"replace","path":"/spec/rules/0/backendRefs/1/weight","value":%d},
		{"op":"add","path":"/spec/rules/0/filters","value":[{"type":"ResponseHeaderModifier","responseHeaderModifier":{"set":[{"name":%q,"value":"%d"}]}}]}]`, 100-canary, canary, stepHeader, step)
	a.patchRoute(patch, "")
}

// served waits until the gateway leads to the app, and gives its host name.
func (a *app) served() (host string) {
	a.Helper()
	host = a.name + ".example.com"
	a.reached(running.GatewayAddress, host)
	return host
}

// reached waits until a proxy answers for a host.
func (a *app) reached(address, host string) {
	a.Helper()
	a.eventually(func() error {
		request, err := http.NewRequestWithContext(a.Context(), http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			return err
		}
		request.Host = host
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", address, response.Status)
		}
		return nil
	})
}

// testAPromotedReleaseThatTurnsOutBad: a bake rolls back what only all of the traffic shows, proves
// nothing without traffic, and lets a good release be.
func testAPromotedReleaseThatTurnsOutBad(t *testing.T) {
	t.Parallel()
	a := released(t, "bake")
	bake := func(image string, want int, says string) {
		t.Helper()
		a.must("canary", "--again", "--image", images[image])
		a.healthy()
		promote := []string{"promote", "--bake", "12s", "--interval", "1s", "--min-requests", "50", "--prometheus", running.PrometheusURL, "--config", byAvailability(t)}
		code, out := a.crossbill(promote...)
		for again := 0; again < 3 && code == 4 && strings.Contains(out, "scraping has stopped"); again++ { // on a starved machine: as it says
			code, out = a.crossbill(promote...)
		}
		if code != want || !strings.Contains(out, says) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s", image, code, want, says, out)
		}
	}
	if code, out := a.crossbill("promote", "--bake", "8s"); code != 2 || !strings.Contains(out, "--prometheus") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	bake("drains a", 4, "bake: inconclusive: ")
	a.must("cleanup")
	generator := load.Start("http://"+running.GatewayAddress+"/", a.served(), 100)
	defer generator.Stop()
	bake("fails", 3, "rolled back in ")
	if digest(a.image("primary")) != digest(images["drains a"]) || a.weights() != atRest {
		t.Errorf("primary runs %s", a.image("primary"))
	}
	bake("drains b", 0, "baked: availability: ") // not 100%: one request that this machine loses makes no difference
	a.must("cleanup")
}

// byCrossbill releases an image by canary, in steps; every second one is rolled back, and then released again.
func (a *app) byCrossbill(w *weights, image string, round int) []off {
	a.Helper()
	return a.looking(w, release.Release{ID: fmt.Sprintf("traffic-%d", round), Image: images[image], Weight: 10}, image, round, func(bool) {})
}

// looking is the same for a release, with a look while it has a canary, and after that.
func (a *app) looking(w *weights, want release.Release, image string, round int, look func(inFlight bool)) []off {
	a.Helper()
	ctx := a.Context()
	source, err := verdict.NewSource(verdict.SourceOptions{URL: running.PrometheusURL, Namespace: a.namespace})
	if err != nil {
		a.Fatal(err)
	}
	c := a.quiet("traffic", w.config())
	c.Again, c.Drained = true, source.Quiet
	var gone []off
	step := func(err error) {
		a.Helper()
		if err != nil {
			a.Fatal(err)
		}
	}
	if round%2 == 1 {
		_, err := c.Canary(ctx, want)
		step(err)
		time.Sleep(time.Second)
		look(true)
		_, err = c.Rollback(ctx, "traffic")
		step(err)
		back := time.Now()
		look(false)
		time.Sleep(3 * time.Second)
		gone = append(gone, off{image, back, time.Now()})
	}
	old := a.version()
	_, err = c.Canary(ctx, want)
	step(err)
	const pause = 2500 * time.Millisecond // long enough to count answers at each weight
	time.Sleep(pause)
	_, err = c.Shift(ctx, []int{25, 50}, pause)
	step(err)
	time.Sleep(pause)
	look(true)
	a.healthy()
	_, err = c.Promote(ctx)
	step(err)
	promoted := time.Now()
	look(false)
	_, err = c.Cleanup(ctx)
	step(err)
	return append(gone, off{old, promoted, time.Now()})
}

// version is what primary runs, by its name among the images.
func (a *app) version() string {
	a.Helper()
	live := a.image("primary")
	for name, reference := range images {
		if digest(reference) == digest(live) {
			return name
		}
	}
	a.Fatalf("primary runs %s", live)
	return ""
}

// handwritten releases as the usual hand-written pipeline does: it applies the canary's Deployment and the
// route at once; then sets primary's image, routes everything to primary and deletes the canary, and
// waits for nothing. Between its two jobs a person looks for some seconds.
func (a *app) handwritten(_ *weights, image string, _ int) []off {
	a.Helper()
	ctx := a.Context()
	set, err := manifest.Load(a.manifests)
	if err != nil {
		a.Fatal(err)
	}
	deployments := a.kube.AppsV1().Deployments(a.namespace)
	apply := func(d *appsv1.Deployment) {
		a.Helper()
		d.Spec.Replicas = new(int32)
		*d.Spec.Replicas = 1
		if d.Name == set.Name(release.Primary) {
			*d.Spec.Replicas = 2
		}
		text, err := json.Marshal(d)
		if err == nil {
			_, err = deployments.Patch(ctx, d.Name, types.ApplyPatchType, text, metav1.PatchOptions{FieldManager: "by-hand", Force: new(true)})
		}
		if err != nil {
			a.Fatal(err)
		}
	}
	route := func(primary, canary int) {
		a.Helper()
		patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":%d},{"op":"replace","path":"/spec/http/0/route/1/weight","value":%d}]`, primary, canary)
		if _, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Patch(ctx, set.VirtualService.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			a.Fatal(err)
		}
	}
	track := func(track release.Track) *appsv1.Deployment {
		a.Helper()
		d, err := set.Track(track, a.namespace, images[image])
		if err != nil {
			a.Fatal(err)
		}
		return d
	}
	apply(track(release.Canary))
	route(90, 10)
	time.Sleep(5 * time.Second)
	old := a.version()
	apply(track(release.Primary))
	route(100, 0)
	if err := deployments.Delete(context.WithoutCancel(ctx), set.Name(release.Canary), metav1.DeleteOptions{}); err != nil {
		a.Fatal(err)
	}
	switched := time.Now() // the pipeline says that the new version has all of the traffic
	time.Sleep(5 * time.Second)
	return []off{{old, switched, time.Now()}}
}
