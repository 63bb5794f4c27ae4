package commands_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// change is one event of a watch, in the API server's own order; before is what was there already.
type change struct {
	before   bool
	revision int64
	event    watch.Event
}

// observe is observing, with what is found as errors of the test.
func (a *app) observe() (stop func()) {
	a.Helper()
	stopped := a.observing()
	return func() {
		a.Helper()
		problems, states := stopped()
		for _, problem := range problems {
			a.Error(problem)
		}
		if states < 10 {
			a.Errorf("only %d states were seen", states)
		}
	}
}

// observing watches every object of the app until it is stopped, then replays all of it in the order
// in which it happened and checks the design's invariants at each change: no weight above 0 on a subset
// or Service without a ready endpoint (1), no route to one that does not exist (2), nothing on primary that this
// release's canary has not proved (3), no write of an older lock after one of a newer (4), everybody
// else's routes as they were (7), subsets whose labels never move (12), an image only ever with its own
// configuration, which is there for as long as something reads it (14). It gives what it found, in how
// many states. That every death is followed by rest (5, 6) is for the caller to see.
func (a *app) observing() (stop func() (problems []string, states int)) {
	a.Helper()
	ctx, cancel := context.WithCancel(a.Context())
	var mu sync.Mutex
	var changes []change
	var watching sync.WaitGroup
	follow := func(w watch.Interface, err error) {
		if err != nil {
			a.Fatal(err)
		}
		watching.Go(func() {
			before := true
			for event := range w.ResultChan() {
				object, ok := event.Object.(metav1.Object)
				if event.Type == watch.Bookmark {
					before = before && object.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true"
					continue
				}
				if !ok {
					continue
				}
				revision, err := strconv.ParseInt(object.GetResourceVersion(), 10, 64)
				if err != nil {
					a.Error(err)
				}
				mu.Lock()
				changes = append(changes, change{before, revision, event})
				mu.Unlock()
			}
		})
	}
	// Each watch begins with what is there, and says by a bookmark where that ends.
	all := metav1.ListOptions{SendInitialEvents: new(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}
	if routes, _, rules := a.route(); rules == "rules" {
		follow(routes.Watch(ctx, all))
	}
	follow(a.mesh.NetworkingV1().VirtualServices(a.namespace).Watch(ctx, all))
	follow(a.mesh.NetworkingV1().DestinationRules(a.namespace).Watch(ctx, all))
	follow(a.kube.CoreV1().Services(a.namespace).Watch(ctx, all))
	follow(a.kube.DiscoveryV1().EndpointSlices(a.namespace).Watch(ctx, all))
	follow(a.kube.CoreV1().Pods(a.namespace).Watch(ctx, all))
	follow(a.kube.AppsV1().Deployments(a.namespace).Watch(ctx, all))
	follow(a.kube.CoreV1().ConfigMaps(a.namespace).Watch(ctx, all))
	if a.commits != nil {
		follow(a.commits.watch(ctx))
	}
	return func() ([]string, int) {
		cancel()
		watching.Wait()
		slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.revision, b.revision) })
		return a.replay(changes)
	}
}

// mesh is what is known at one moment.
type mesh struct {
	set      *manifest.Set
	route    *networking.VirtualService
	rule     *networking.DestinationRule
	gateway  *manifest.GatewayRoute
	services map[string]bool // that are there
	slices   map[string]*discoveryv1.EndpointSlice
	tracks   map[string]string // of pods by name

	configs   map[string]map[string]string // what ConfigMaps have, by name
	templates map[string]corev1.PodSpec    // of the Deployments, by name

	ledger  *release.Ledger
	primary string           // the digest on it
	epochs  map[string]int64 // of the lock that wrote an object last
	foreign []string         // routes that are not the release's
}

func (a *app) replay(changes []change) (problems []string, states int) {
	a.Helper()
	set, err := manifest.Load(a.manifests)
	if err != nil {
		a.Fatal(err)
	}
	m := &mesh{set: set, services: map[string]bool{}, slices: map[string]*discoveryv1.EndpointSlice{}, tracks: map[string]string{}, epochs: map[string]int64{}, configs: map[string]map[string]string{}, templates: map[string]corev1.PodSpec{}}
	// Objects that existed before have the revisions of their last changes, which do not show what existed at the
	// same time, so they come first.
	for _, c := range changes {
		if c.before {
			m.apply(c.event)
		}
	}
	for _, c := range changes {
		if c.before {
			continue
		}
		found := m.apply(c.event)
		if (m.route != nil && m.rule != nil || m.gateway != nil) && len(m.slices) > 0 {
			states++
			found = append(found, m.routing()...)
		}
		for _, problem := range found {
			problems = append(problems, fmt.Sprintf("at revision %d (%s %T): %s", c.revision, c.event.Type, c.event.Object, problem))
		}
	}
	return problems, states
}

// apply takes in a change, and says what of it may not be.
func (m *mesh) apply(event watch.Event) (problems []string) {
	gone := event.Type == watch.Deleted
	switch o := event.Object.(type) {
	case *networking.VirtualService:
		m.route = o
		problems = append(m.written(o, "VirtualService", gone), m.others(o)...)
	case *unstructured.Unstructured:
		problems = append(m.written(o, o.GetKind(), gone), m.otherRules(o, gone)...)
	case *networking.DestinationRule:
		m.rule = o
		problems = m.written(o, "DestinationRule", gone)
		for _, subset := range o.Spec.Subsets {
			if (subset.Name == "primary" || subset.Name == "canary") && !maps.Equal(subset.Labels, map[string]string{manifest.TrackLabel: subset.Name}) {
				problems = append(problems, fmt.Sprintf("the labels of subset %s have moved: %v", subset.Name, subset.Labels))
			}
		}
	case *appsv1.Deployment:
		problems = m.written(o, "Deployment", gone)
		if m.templates[o.Name] = o.Spec.Template.Spec; gone {
			delete(m.templates, o.Name)
		} else {
			problems = append(problems, m.configured("Deployment "+o.Name, o.Spec.Template.Spec)...)
		}
		if o.Name == m.set.Name(release.Primary) {
			problems = append(problems, m.onPrimary(release.DigestOf(m.set.Image(o)))...)
		}
	case *corev1.Service:
		m.services[o.Name] = !gone
		problems = m.written(o, "Service", gone)
	case *corev1.ConfigMap:
		if ledger, err := release.ParseLedger(m.set.App, o.Data["ledger.json"]); o.Data["ledger.json"] != "" {
			if err != nil {
				return []string{err.Error()}
			}
			if m.ledger != nil && ledger.Epoch < m.ledger.Epoch {
				problems = []string{fmt.Sprintf("the ledger's epoch fell from %d to %d", m.ledger.Epoch, ledger.Epoch)}
			}
			if m.ledger != nil && m.ledger.Release != nil && ledger.Release != nil && m.ledger.Release.ID != ledger.Release.ID {
				problems = append(problems, fmt.Sprintf("release %s began before %s had ended", ledger.Release.ID, m.ledger.Release.ID))
			}
			m.ledger = ledger
			return problems
		}
		if m.configs[o.Name] = o.Data; gone {
			delete(m.configs, o.Name)
			for name, pod := range m.templates {
				problems = append(problems, m.configured("Deployment "+name, pod)...)
			}
		}
	case *discoveryv1.EndpointSlice:
		m.slices[o.Name] = o
		if gone {
			delete(m.slices, o.Name)
		}
	case *corev1.Pod:
		m.tracks[o.Name] = o.Labels[manifest.TrackLabel]
		if event.Type == watch.Added {
			problems = m.configured("pod "+o.Name, o.Spec)
		}
	}
	return problems
}

// releaseKey is what the configuration of a test's release has, where it has any: the digest of the image that it goes with, or a name.
const releaseKey = "RELEASE"

// configured checks that what a pod reads is there, and goes with its image.
func (m *mesh) configured(what string, pod corev1.PodSpec) (problems []string) {
	for _, r := range manifest.References(&pod) {
		if r.Kind != "ConfigMap" || r.Optional {
			continue
		}
		data, ok := m.configs[r.Name]
		image := pod.Containers[0].Image
		switch of := data[releaseKey]; {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s reads ConfigMap %s, which does not exist", what, r.Name))
		case strings.HasPrefix(of, "sha256:") && of != digest(image):
			problems = append(problems, fmt.Sprintf("%s runs %s with the configuration of %s", what, image, of))
		}
	}
	return problems
}

// written checks that locks write an object in their order, each after the ledger knows it.
func (m *mesh) written(o metav1.Object, kind string, gone bool) (problems []string) {
	epoch, err := strconv.ParseInt(o.GetAnnotations()["crossbill.our-org.github.com/epoch"], 10, 64)
	if err != nil {
		return nil
	}
	name := kind + " " + o.GetName()
	if epoch < m.epochs[name] {
		problems = append(problems, fmt.Sprintf("%s was written by lock %d after lock %d", name, epoch, m.epochs[name]))
	}
	if m.ledger != nil && epoch > m.ledger.Epoch {
		problems = append(problems, fmt.Sprintf("%s was written by lock %d, the ledger knows %d", name, epoch, m.ledger.Epoch))
	}
	m.epochs[name] = epoch
	if gone {
		delete(m.epochs, name)
	}
	return problems
}

// onPrimary checks that primary takes only what the canary of the release in flight was judged healthy
// with, or goes back to what it had.
func (m *mesh) onPrimary(digest string) []string {
	before := m.primary
	m.primary = digest
	if before == "" || before == digest || m.ledger == nil {
		return nil
	}
	r := m.ledger.Release
	switch {
	case r == nil:
		return []string{fmt.Sprintf("primary takes %s without a release in flight", digest)}
	case digest == release.DigestOf(r.Previous), r.Previous == "" && digest == r.Digest():
		return nil
	case digest != r.Digest(), r.Verdict == nil || r.Verdict.Digest != digest || r.Verdict.Outcome != release.Healthy:
		return []string{fmt.Sprintf("primary takes %s, the release's verdict is %+v", digest, r.Verdict)}
	}
	return nil
}

// others checks that http routes which are not the release's stay as they were.
func (m *mesh) others(vs *networking.VirtualService) []string {
	foreign := []string{}
	ours := m.set.Routes(vs)
	for i, route := range vs.Spec.Http {
		if !manifest.Generated(route.Name) && !slices.ContainsFunc(ours, func(r manifest.Route) bool { return r.HTTP == i }) {
			foreign = append(foreign, route.String())
		}
	}
	return m.same(foreign)
}

// otherRules does the same of the rules of a Gateway API's route, which it takes in.
func (m *mesh) otherRules(o *unstructured.Unstructured, gone bool) []string {
	g, err := manifest.ReadGatewayRoute(o)
	if err != nil {
		return []string{err.Error()}
	}
	if m.gateway = g; gone {
		m.gateway = nil
	}
	rules, _, err := unstructured.NestedSlice(o.Object, "spec", "rules")
	if err != nil {
		return []string{err.Error()}
	}
	foreign := []string{}
	ours := m.set.Rules(g)
	for i, rule := range g.Rules {
		if !manifest.Generated(rule.Name) && !slices.ContainsFunc(ours, func(r manifest.Route) bool { return r.HTTP == i }) {
			foreign = append(foreign, fmt.Sprint(rules[i]))
		}
	}
	return m.same(foreign)
}

// same checks that the routes of others are as they were.
func (m *mesh) same(foreign []string) []string {
	before := m.foreign
	m.foreign = foreign
	if before != nil && !slices.Equal(before, foreign) {
		return []string{fmt.Sprintf("other people's routes were %q, now they are %q", before, foreign)}
	}
	return nil
}

// readyOf counts the endpoints of a Service that are ready on a track.
func (m *mesh) readyOf(service, track string) (n int) {
	for _, slice := range m.slices {
		if slice.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if endpoint.TargetRef != nil && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready && m.tracks[endpoint.TargetRef.Name] == track {
				n++
			}
		}
	}
	return n
}

// gatewayRouting checks what traffic meets at this moment that comes by a route of the Gateway API, by the release's rules, those that
// it adds, and copies.
func (m *mesh) gatewayRouting() (problems []string) {
	ours := m.set.Rules(m.gateway)
	for i, rule := range m.gateway.Rules {
		if !manifest.Generated(rule.Name) && !slices.ContainsFunc(ours, func(r manifest.Route) bool { return r.HTTP == i }) {
			continue
		}
		gets := map[string]int32{}
		for _, b := range rule.Backends {
			gets[string(b.Name)] = b.Weigh()
		}
		for _, filter := range rule.Filters {
			if to, ok, _ := unstructured.NestedString(filter, "requestMirror", "backendRef", "name"); ok {
				gets[to] = max(1, gets[to])
			}
		}
		for _, track := range []release.Track{release.Primary, release.Canary} {
			service := m.set.Tracks[track].Name
			weight, named := gets[service]
			if named && !m.services[service] {
				problems = append(problems, fmt.Sprintf("the route names Service %s, which does not exist", service))
			}
			if weight > 0 && m.readyOf(service, string(track)) == 0 {
				problems = append(problems, fmt.Sprintf("weight %d on %s, which has no ready endpoint", weight, track))
			}
		}
	}
	return problems
}

// routing checks what traffic meets at this moment.
func (m *mesh) routing() (problems []string) {
	if m.gateway != nil {
		return m.gatewayRouting()
	}
	ready := map[string]int{}
	for _, track := range []string{"primary", "canary"} {
		ready[track] = m.readyOf(m.set.Service.Name, track)
	}
	for _, r := range m.set.Routes(m.route) {
		w := manifest.Weights(m.route, r)
		for track, weight := range map[release.Track]int32{release.Primary: w.Primary, release.Canary: w.Canary} {
			if !manifest.HasSubset(m.rule, track) {
				problems = append(problems, fmt.Sprintf("the route names subset %s, which does not exist", track))
			}
			if weight > 0 && ready[string(track)] == 0 {
				problems = append(problems, fmt.Sprintf("weight %d on %s, which has no ready endpoint", weight, track))
			}
		}
	}
	for _, http := range m.route.Spec.Http { // all of a sticky route's traffic goes to one track
		if !manifest.Generated(http.Name) {
			continue
		}
		if len(http.Route) != 1 || len(http.Match) == 0 || ready[http.Route[0].Destination.Subset] == 0 {
			problems = append(problems, fmt.Sprintf("route %s leads to nothing that is ready: %v", http.Name, http.Route))
		}
	}
	return problems
}

// foreign puts a route of somebody else ahead of the release's.
func (a *app) foreign() {
	a.Helper()
	theirs := `{"name":"theirs","match":[{"uri":{"prefix":"/theirs"}}],"route":[{"destination":{"host":"other"}}],"timeout":"3s"}`
	_, _, rules := a.route()
	if rules == "rules" { // a controller says of a route that a Service is missing
		other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
		if _, err := a.kube.CoreV1().Services(a.namespace).Create(a.Context(), other, metav1.CreateOptions{}); err != nil {
			a.Fatal(err)
		}
		theirs = `{"name":"theirs","matches":[{"path":{"type":"PathPrefix","value":"/theirs"}}],"backendRefs":[{"name":"other","port":80}],"timeouts":{"request":"3s"}}`
	}
	a.patchRoute(fmt.Sprintf(`[{"op":"add","path":"/spec/%s/0","value":%s}]`, rules, theirs), "them")
}
