package rollout

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// services routes by an HTTPRoute or a GRPCRoute of the Gateway API, whose backends are a Service for each track. The app's own
// Service selects primary alone, so that whoever calls it past the route never gets the canary.
//
// All lists of such a route are atomic under server-side apply: it is changed by JSON patches, of the weights and of
// the rules that a release adds. Its status
// says that a controller has read it, not that the data plane has it: what a command waits for there is progress to show, and
// never evidence of what the callers get.
type services struct{ *job }

// gatewayRoute is the app's HTTPRoute or GRPCRoute.
func (c *Cluster) gatewayRoute() object {
	kind, name := c.Manifests.Route.GetKind(), c.Manifests.Route.GetName()
	o, err := c.gatewayObject(kind, c.Namespace, name)
	if err != nil {
		unreachable := func(context.Context) (metav1.Object, error) { return nil, err }
		return object{kind: kind, namespace: c.Namespace, name: name, read: unreachable}
	}
	return c.readRoute(o)
}

// gatewayObject is an object of the Gateway API.
func (c *Cluster) gatewayObject(kind, namespace, name string) (object, error) {
	return c.otherObject(keptOther{Group: manifest.GatewayGroup, Version: "v1", Kind: kind, Resource: strings.ToLower(kind) + "s", Namespace: namespace, Name: name})
}

// trackService is the Service of a track.
func (c *Cluster) trackService(track release.Track) object {
	return objectOf("Service", c.Namespace, c.Manifests.Tracks[track].Name, c.Kube.CoreV1().Services(c.Namespace))
}

func (s services) route() object { return s.gatewayRoute() }

func (s services) backends() []object {
	return []object{s.trackService(release.Primary), s.trackService(release.Canary)}
}

func (s services) endpoints(track release.Track) string {
	if track == baseline { // what leads to primary leads to it
		track = release.Primary
	}
	return s.Manifests.Tracks[track].Name
}

func (s services) missing() error {
	return &usererr.Error{
		Field:   s.route().String(),
		Problem: fmt.Sprintf("no rule in the cluster leads to %s and %s", s.endpoints(release.Primary), s.endpoints(release.Canary)),
		Fix:     "apply the manifest's rule (primary 100, canary 0) to it, or run `crossbill migrate`; a release adds no rules to an object that others own",
	}
}

// read gives what the route says as it is now.
func (s services) read(ctx context.Context) (routing, error) {
	live, err := look[*unstructured.Unstructured](ctx, s.job, s.route())
	if err != nil {
		return routing{}, err
	}
	return s.routing(live)
}

func (s services) recent(ctx context.Context) (routing, error) {
	live, err := recent[*unstructured.Unstructured](ctx, s.job, s.route())
	if err != nil {
		return routing{}, err
	}
	return s.routing(live)
}

// routing is what a live route says.
func (s services) routing(live *unstructured.Unstructured) (routing, error) {
	found := routing{kind: s.route().kind, leads: map[release.Track]bool{}}
	if live == nil {
		return found, nil
	}
	found.live = live
	g, err := manifest.ReadGatewayRoute(live)
	if err != nil {
		return found, err
	}
	rules := s.Manifests.Rules(g)
	for _, r := range rules {
		one := routeStatus{weights: g.Weights(r)}
		if len(rules) > 1 {
			one.place = fmt.Sprintf(" in spec.rules[%d]", r.HTTP)
		}
		found.routes = append(found.routes, one)
	}
	for i := range g.Rules {
		for _, track := range tracks {
			found.leads[track] = found.leads[track] || s.Manifests.LeadsTo(g, i, track)
		}
		name := g.Rules[i].Name
		found.matched = found.matched || strings.HasPrefix(name, manifest.MatchPrefix)
		if strings.HasPrefix(name, manifest.MirrorPrefix) {
			found.mirrors = append(found.mirrors, mirroredBy(&g.Rules[i]))
		}
		switch {
		case manifest.Generated(name):
		case s.Manifests.LeadsTo(g, i, release.Canary) && !slices.ContainsFunc(rules, func(r manifest.Route) bool { return r.HTTP == i }):
			found.past = append(found.past, fmt.Sprintf("spec.rules[%d] of %s, which leads to the canary", i, s.route()))
		}
	}
	return found, nil
}

// mirroredBy is how many percent of a rule's requests the last of its mirrors copies, as a release's is.
func mirroredBy(rule *manifest.GatewayRule) float64 {
	for _, filter := range slices.Backward(rule.Filters) {
		mirror, ok := filter["requestMirror"].(map[string]any)
		if !ok {
			continue
		}
		if percent, ok := mirror["percent"].(float64); ok {
			return percent
		}
		fraction, ok := mirror["fraction"].(map[string]any)
		if !ok {
			return 100
		}
		of, ok := fraction["denominator"].(float64)
		if !ok {
			of = 100
		}
		part, _ := fraction["numerator"].(float64)
		return part * 100 / of
	}
	return 0
}

// ports are those that rules which lead to the app name.
func (s services) ports(live routing) map[uint32]string {
	used := map[uint32]string{}
	for _, route := range []*unstructured.Unstructured{as[*unstructured.Unstructured](live.live), s.Manifests.Route} {
		if route == nil {
			continue
		}
		g, err := manifest.ReadGatewayRoute(route)
		if err != nil {
			continue // whoever reads the route says so
		}
		for i := range g.Rules {
			for j := range g.Rules[i].Backends {
				b := &g.Rules[i].Backends[j]
				if b.Port != nil && (s.Manifests.IsApex(b, s.Namespace) || s.Manifests.IsTrack(b, s.Namespace, release.Primary) || s.Manifests.IsTrack(b, s.Namespace, release.Canary)) {
					used[uint32(*b.Port)] = fmt.Sprintf("spec.rules[%d] of %s", i, s.route())
				}
			}
		}
	}
	return used
}

// backed says which tracks' Services are there. One that somebody has moved to other pods does not hold a rollback up: the
// traffic that goes there does so already.
func (s services) backed(ctx context.Context) (map[release.Track]bool, error) {
	found := map[release.Track]bool{}
	for _, track := range tracks {
		live, err := look[*corev1.Service](ctx, s.job, s.trackService(track))
		if err != nil {
			return nil, err
		}
		found[track] = live != nil
	}
	return found, nil
}

// ensureBackends makes the tracks' Services that are missing.
func (s services) ensureBackends(ctx context.Context) error {
	return s.addServices(ctx, false, func(moved error) error { return moved })
}

// promoteBackends gives the tracks' Services the ports of the manifest, which fit both tracks as those of the app's own do.
func (s services) promoteBackends(ctx context.Context) error {
	return s.addServices(ctx, true, func(moved error) error { return moved })
}

func (s services) addBackends(ctx context.Context) error {
	return s.addServices(ctx, false, func(moved error) error {
		s.log("mesh", "%v; rolling back nevertheless", moved)
		return nil
	})
}

// addServices is ensureBackends for whoever decides what a Service that somebody has moved to other pods means.
func (s services) addServices(ctx context.Context, ports bool, moved func(error) error) error {
	for _, track := range tracks {
		o := s.trackService(track)
		desired, err := s.desiredTrack(ctx, track)
		if err != nil {
			return err
		}
		before, after, err := change(ctx, s.job, o, func(live *corev1.Service) (*write, error) {
			if live == nil {
				return s.apply(desired.DeepCopy()), nil
			}
			if err := s.movedTrack(track, live); err != nil {
				return nil, moved(err)
			}
			if !ports || s.Manifests.NamesOnly || hasPorts(live, desired) {
				return nil, nil
			}
			return s.apply(desired.DeepCopy()), nil
		})
		switch {
		case err != nil:
			return err
		case before == nil:
			s.log(o.String(), "created, over the pods of %s", track)
		case before != after:
			s.log(o.String(), "has the ports of the manifest")
		}
	}
	return nil
}

// desiredTrack is the Service of a track, with the ports of the app's own where only its name is known.
func (s services) desiredTrack(ctx context.Context, track release.Track) (*corev1.Service, error) {
	desired := s.Manifests.Tracks[track].DeepCopy()
	desired.APIVersion, desired.Kind, desired.Namespace = "v1", "Service", s.Namespace
	if len(desired.Spec.Ports) > 0 {
		return desired, nil
	}
	for _, o := range append([]object{s.service()}, s.backends()...) {
		live, err := o.read(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		if found := as[*corev1.Service](live); found != nil {
			for _, port := range found.Spec.Ports {
				port.NodePort = 0
				desired.Spec.Ports = append(desired.Spec.Ports, port)
			}
			return desired, nil
		}
	}
	return desired, nil // it is refused if it has to be made
}

// movedTrack is the error of a Service that does not select the pods of its track.
func (s services) movedTrack(track release.Track, live *corev1.Service) error {
	if maps.Equal(live.Spec.Selector, s.Manifests.Tracks[track].Spec.Selector) || s.Manifests.NamesOnly && live.Spec.Selector[manifest.TrackLabel] == string(track) {
		return nil
	}
	return &usererr.Error{
		Field:   s.trackService(track).String() + ": spec.selector",
		Problem: fmt.Sprintf("it selects %v, and the pods of %s have %v", live.Spec.Selector, track, s.Manifests.Tracks[track].Spec.Selector),
		Fix:     fmt.Sprintf("give it the selector of the manifest, or give the Service of %s another name there", track),
	}
}

// hasPorts says whether a Service has all ports that another one has.
func hasPorts(live, desired *corev1.Service) bool {
	return !slices.ContainsFunc(desired.Spec.Ports, func(want corev1.ServicePort) bool {
		return !slices.ContainsFunc(live.Spec.Ports, func(is corev1.ServicePort) bool {
			return is.Port == want.Port && is.Name == want.Name && manifest.TargetOf(is) == manifest.TargetOf(want) && reflect.DeepEqual(is.AppProtocol, want.AppProtocol)
		})
	})
}

// ensureRoute creates a route that is missing, at rest.
func (s services) ensureRoute(ctx context.Context) error {
	o := s.route()
	desired := s.Manifests.Route.DeepCopy()
	desired.SetNamespace(s.Namespace)
	before, after, err := change(ctx, s.job, o, func(live *unstructured.Unstructured) (*write, error) {
		if live == nil {
			return s.create(desired, true), nil
		}
		g, err := manifest.ReadGatewayRoute(live)
		if err == nil && len(s.Manifests.Rules(g)) == 0 {
			err = s.missing()
		}
		return nil, err
	})
	if err != nil {
		return err
	}
	if before == nil {
		s.log(o.String(), "created: 100%% to primary")
	}
	return s.waitTaken(ctx, after)
}

// split gives the canary its weight, and testers and copies their rules. What leads to the canary is waited for until a
// controller has taken it; the way back is held up by nothing that a status says.
func (s services) split(ctx context.Context, want traffic) (routing, error) {
	o := s.route()
	before, after, err := change(ctx, s.job, o, func(live *unstructured.Unstructured) (*write, error) {
		if live == nil {
			return nil, nil
		}
		ops, err := s.splitOps(live, want)
		if len(ops) == 0 || err != nil {
			return nil, err
		}
		w := s.patch(ops...)
		w.says = want.String()
		return w, nil
	})
	if err != nil {
		return routing{}, err
	}
	if after != nil && s.planning() {
		s.Plan.routed(o, before, after)
	}
	if before != after {
		s.log(o.String(), "%s", want)
	}
	now, err := s.routing(after)
	r := s.ledger.Release
	back := r != nil && r.Stage == release.StageRollingBack // which is held up by nothing that a status says
	if err == nil && after != nil && !back && (want.weight > 0 || want.match != nil || want.mirror > 0) {
		err = s.waitTaken(ctx, after)
	}
	return now, err
}

// splitOps are the operations that bring a route to what is wanted. They hold for the version that was read, so that their
// places are those of the same rules and backends.
func (s services) splitOps(live *unstructured.Unstructured, to traffic) ([]patchOp, error) {
	if err := s.refusal(live, to); err != nil {
		return nil, err
	}
	g, err := manifest.ReadGatewayRoute(live)
	if err != nil {
		return nil, err
	}
	rules := s.Manifests.Rules(g)
	if len(rules) == 0 && (to.weight > 0 || to.match != nil || to.mirror > 0 || s.leadsPast(g)) {
		return nil, s.missing()
	}
	ops, places, insert, err := s.ruleOps(live, to)
	if err != nil {
		return nil, err
	}
	want := manifest.WeightPair{Primary: 100 - int32(to.weight), Canary: int32(to.weight)}
	for i, r := range places {
		if g.Weights(rules[i]) == want {
			continue
		}
		path := fmt.Sprintf("/spec/rules/%d/backendRefs/", r.HTTP)
		ops = append(ops,
			patchOp{"add", fmt.Sprintf("%s%d/weight", path, r.Primary), &want.Primary},
			patchOp{"add", fmt.Sprintf("%s%d/weight", path, r.Canary), &want.Canary})
	}
	return append(ops, insert...), nil
}

// leadsPast says whether a route without the release's rules leads to the canary nevertheless, or has none but those that a
// release has added, which it would not be valid without.
func (s services) leadsPast(g *manifest.GatewayRoute) bool {
	alone := len(g.Rules) > 0
	for i := range g.Rules {
		if manifest.Generated(g.Rules[i].Name) {
			continue
		}
		if alone = false; s.Manifests.LeadsTo(g, i, release.Canary) {
			return true
		}
	}
	return alone
}

// backendsBack is the step of a rollback that makes the Services again by which the tracks' endpoints are seen, where somebody
// has deleted one.
func (s services) backendsBack(ctx context.Context) error {
	backed, err := s.backed(ctx)
	switch {
	case err != nil:
		s.log("mesh", "%v; rolling back nevertheless", err)
		return ctx.Err()
	case backed[release.Primary] && backed[release.Canary]:
		return nil
	}
	if err := s.addBackends(ctx); err != nil {
		s.log("mesh", "%v; rolling back nevertheless", err)
		return ctx.Err()
	}
	if live, err := s.liveTrack(ctx, release.Primary); err != nil || backed[release.Primary] || live == nil || live.Status.ReadyReplicas == 0 {
		return err
	}
	if err := s.waitEndpoints(release.Primary, "")(ctx); err != nil {
		s.log("mesh", "%v; rolling back nevertheless", err)
	}
	return ctx.Err()
}
