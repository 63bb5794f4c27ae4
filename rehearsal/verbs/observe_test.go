package verbs_test

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"sync"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/our-org/crossbill/manifest"
	"github.com/our-org/crossbill/release"
)

// change is one event of a watch, in the API server's own order.
type change struct {
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
// in which it happened and checks the invariants at each change: no weight above 0 on a subset
// without a ready endpoint, no route to a subset that is not there. It gives what it found, in how
// many states.
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
			for event := range w.ResultChan() {
				object, ok := event.Object.(metav1.Object)
				if !ok {
					continue
				}
				revision, err := strconv.ParseInt(object.GetResourceVersion(), 10, 64)
				if err != nil {
					a.Error(err)
				}
				mu.Lock()
				changes = append(changes, change{revision, event})
				mu.Unlock()
			}
		})
	}
	all := metav1.ListOptions{} // without a resourceVersion a watch begins with what is there
	follow(a.mesh.NetworkingV1().VirtualServices(a.namespace).Watch(ctx, all))
	follow(a.mesh.NetworkingV1().DestinationRules(a.namespace).Watch(ctx, all))
	follow(a.kube.DiscoveryV1().EndpointSlices(a.namespace).Watch(ctx, all))
	follow(a.kube.CoreV1().Pods(a.namespace).Watch(ctx, all))
	return func() ([]string, int) {
		cancel()
		watching.Wait()
		sort.SliceStable(changes, func(i, j int) bool { return changes[i].revision < changes[j].revision })
		return a.replay(changes)
	}
}

// mesh is what is known at one moment.
type mesh struct {
	set    *manifest.Set
	route  *networking.VirtualService
	rule   *networking.DestinationRule
	slices map[string]*discoveryv1.EndpointSlice
	tracks map[string]string // of pods by name
}

func (a *app) replay(changes []change) (problems []string, states int) {
	a.Helper()
	set, err := manifest.Load(a.manifests)
	if err != nil {
		a.Fatal(err)
	}
	m := &mesh{set: set, slices: map[string]*discoveryv1.EndpointSlice{}, tracks: map[string]string{}}
	// Objects that were there before are told in no order: they are taken in first.
	for _, c := range changes {
		m.apply(c.event)
		if m.route == nil || m.rule == nil || len(m.slices) == 0 {
			continue
		}
		states++
		if problem := m.violation(); problem != "" {
			problems = append(problems, fmt.Sprintf("at revision %d (%s %T): %s", c.revision, c.event.Type, c.event.Object, problem))
		}
	}
	return problems, states
}

func (m *mesh) apply(event watch.Event) {
	gone := event.Type == watch.Deleted
	switch o := event.Object.(type) {
	case *networking.VirtualService:
		m.route = o
	case *networking.DestinationRule:
		m.rule = o
	case *discoveryv1.EndpointSlice:
		m.slices[o.Name] = o
		if gone {
			delete(m.slices, o.Name)
		}
	case *corev1.Pod:
		m.tracks[o.Name] = o.Labels[manifest.TrackLabel]
	}
}

func (m *mesh) violation() string {
	ready := map[string]int{}
	for _, slice := range m.slices {
		for _, endpoint := range slice.Endpoints {
			if endpoint.TargetRef != nil && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				ready[m.tracks[endpoint.TargetRef.Name]]++
			}
		}
	}
	for _, r := range m.set.Routes(m.route) {
		w := manifest.Weights(m.route, r)
		for track, weight := range map[release.Track]int32{release.Primary: w.Primary, release.Canary: w.Canary} {
			if !manifest.HasSubset(m.rule, track) {
				return fmt.Sprintf("the route names subset %s, which is not there", track)
			}
			if weight > 0 && ready[string(track)] == 0 {
				return fmt.Sprintf("weight %d on %s, which has no ready endpoint", weight, track)
			}
		}
	}
	return ""
}
