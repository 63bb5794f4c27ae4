package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// subsets routes by a VirtualService, whose destinations are the subsets that a DestinationRule makes of the app's Service.
type subsets struct{ *job }

func (s subsets) route() object { return s.virtualService() }

func (s subsets) backends() []object { return []object{s.destinationRule()} }

func (s subsets) endpoints(release.Track) string { return s.Manifests.Service.Name }

func (s subsets) missing() error {
	return &usererr.Error{
		Field:   s.route().String(),
		Problem: "no http route in the cluster names both subsets of the Service",
		Fix:     "apply the manifest's route (primary 100, canary 0) to it; Crossbill never adds routes to an object that others own",
	}
}

func subsetMoved(o object, track release.Track) error {
	return &usererr.Error{
		Field:   o.String(),
		Problem: fmt.Sprintf("its subset %s selects other pods than those labeled %s: %s", track, manifest.TrackLabel, track),
		Fix:     fmt.Sprintf("give the subset the label %s: %s, or its other users a subset of another name", manifest.TrackLabel, track),
	}
}

// read gives what the VirtualService says as it is now.
func (s subsets) read(ctx context.Context) (routing, error) {
	live, err := look[*networking.VirtualService](ctx, s.job, s.route())
	return s.routing(live), err
}

func (s subsets) recent(ctx context.Context) (routing, error) {
	live, err := recent[*networking.VirtualService](ctx, s.job, s.route())
	return s.routing(live), err
}

// routing is what a VirtualService says.
func (s subsets) routing(vs *networking.VirtualService) routing {
	found := routing{kind: s.route().kind, leads: map[release.Track]bool{}}
	if vs == nil {
		return found
	}
	found.live, found.past = vs, s.past(vs)
	for _, place := range s.Manifests.Unsplit(vs) {
		found.unsplit = append(found.unsplit, place+" of the VirtualService leads to the Service without a subset, and so to the canary by its share of the pods")
	}
	routes := s.Manifests.Routes(vs)
	for _, r := range routes {
		one := routeStatus{weights: manifest.Weights(vs, r)}
		if len(routes) > 1 {
			one.place = fmt.Sprintf(" in spec.http[%d]", r.HTTP)
		}
		found.routes = append(found.routes, one)
	}
	for _, track := range tracks {
		found.leads[track] = s.Manifests.Named(vs, track)
	}
	for _, http := range vs.Spec.Http {
		found.matched = found.matched || strings.HasPrefix(http.Name, manifest.MatchPrefix)
		if strings.HasPrefix(http.Name, manifest.MirrorPrefix) {
			percent := 0.0
			for _, mirror := range http.Mirrors {
				if percent = 100; mirror.Percentage != nil {
					percent = mirror.Percentage.Value
				}
			}
			found.mirrors = append(found.mirrors, percent)
		}
		found.pinned = found.pinned || strings.HasPrefix(http.Name, manifest.StickyPrefix)
	}
	if why := s.Manifests.PastMesh(vs); why != "" {
		found.unrouted = []string{fmt.Sprintf("callers in the mesh, which %s does not route: %s", s.route(), why)}
	}
	return found
}

// past are the http routes of a VirtualService that lead to the canary beside the release's.
func (s subsets) past(vs *networking.VirtualService) (ways []string) {
	ours := s.Manifests.Routes(vs)
	for i, http := range vs.Spec.Http {
		name := fmt.Sprintf("http route %d", i)
		if http.Name != "" {
			name = fmt.Sprintf("http route %q", http.Name)
		}
		for _, r := range http.Route {
			if r.Destination == nil || !s.Manifests.IsHost(r.Destination.Host, vs.Namespace) {
				continue
			}
			switch subset := r.Destination.Subset; {
			case subset == "":
				ways = append(ways, fmt.Sprintf("%s of %s, which names no subset", name, s.route()))
			case subset == string(release.Canary) && !slices.ContainsFunc(ours, func(o manifest.Route) bool { return o.HTTP == i }):
				ways = append(ways, fmt.Sprintf("%s of %s, which leads to the canary", name, s.route()))
			}
		}
	}
	return ways
}

// ports are those that routes and the DestinationRule name.
func (s subsets) ports(live routing) map[uint32]string {
	used := map[uint32]string{}
	for _, vs := range []*networking.VirtualService{as[*networking.VirtualService](live.live), s.Manifests.VirtualService} {
		for i, number := range s.Manifests.RoutePorts(vs) {
			used[number] = fmt.Sprintf("spec.http[%d] of %s", i, s.route())
		}
	}
	for _, setting := range s.Manifests.DestinationRule.Spec.GetTrafficPolicy().GetPortLevelSettings() {
		used[setting.GetPort().GetNumber()] = "spec.trafficPolicy of " + s.destinationRule().String()
	}
	return used
}

// backed says which subsets are there. One that somebody has moved to other pods does not hold a rollback up: the traffic that
// goes there does so already.
func (s subsets) backed(ctx context.Context) (map[release.Track]bool, error) {
	rule, err := look[*networking.DestinationRule](ctx, s.job, s.destinationRule())
	if err != nil {
		return nil, err
	}
	found := map[release.Track]bool{}
	if rule != nil {
		for _, subset := range rule.Spec.Subsets {
			found[release.Track(subset.Name)] = true
		}
	}
	return found, nil
}

// ensureBackends creates the DestinationRule or adds the subsets that it lacks.
func (s subsets) ensureBackends(ctx context.Context) error {
	return s.addSubsets(ctx, func(moved error) error { return moved })
}

func (s subsets) addBackends(ctx context.Context) error {
	return s.addSubsets(ctx, func(moved error) error {
		if moved != nil {
			s.log(s.destinationRule().String(), "%v; rolling back nevertheless", moved)
		}
		return nil
	})
}

// backendsBack has nothing to make: the endpoints of both tracks are those of the app's Service.
func (s subsets) backendsBack(context.Context) error { return nil }

// promoteBackends has nothing to change: the subsets are labels alone.
func (s subsets) promoteBackends(context.Context) error { return nil }

// addSubsets is ensureBackends for whoever decides what a subset that somebody has moved to other pods means.
func (s subsets) addSubsets(ctx context.Context, moved func(error) error) error {
	o := s.destinationRule()
	desired := s.Manifests.DestinationRule.DeepCopy()
	desired.Namespace = o.namespace
	before, after, err := change(ctx, s.job, o, func(live *networking.DestinationRule) (*write, error) {
		if live == nil {
			return s.create(desired, true), nil
		}
		ops, err := missingSubsets(o, live)
		if err := moved(err); len(ops) == 0 || err != nil {
			return nil, err
		}
		return s.patch(ops...), nil
	})
	switch {
	case err != nil:
		return err
	case before == nil:
		s.log(o.String(), "created with subsets primary and canary")
	case before != after:
		s.log(o.String(), "added the missing subsets")
	}
	return nil
}

// missingSubsets are the operations that add the tracks' subsets which a DestinationRule lacks. The error is of one that
// is there, and selects other pods.
func missingSubsets(o object, live *networking.DestinationRule) (ops []patchOp, moved error) {
	for _, track := range tracks {
		if manifest.HasSubset(live, track) {
			continue
		}
		if slices.ContainsFunc(live.Spec.Subsets, func(s *networkingapi.Subset) bool { return s.Name == string(track) }) {
			moved = subsetMoved(o, track)
			continue
		}
		ops = append(ops, patchOp{"add", "/spec/subsets/-", map[string]any{"name": track, "labels": map[string]any{manifest.TrackLabel: track}}})
	}
	if len(ops) > 0 && len(live.Spec.Subsets) == 0 {
		ops = append([]patchOp{{"add", "/spec/subsets", []any{}}}, ops...)
	}
	return ops, moved
}

// ensureGateways creates the Gateways that are missing. Apps may share one, so it is only ever created.
func (s subsets) ensureGateways(ctx context.Context) error {
	for _, gateway := range s.Manifests.Gateways {
		o := s.gateway(s.namespaceOf(gateway), gateway.Name)
		desired := gateway.DeepCopy()
		desired.Namespace = o.namespace
		before, _, err := change(ctx, s.job, o, func(live *networking.Gateway) (*write, error) {
			if live != nil {
				return nil, nil
			}
			return s.create(desired, false), nil
		})
		if apierrors.IsForbidden(err) && o.namespace != s.Namespace { // it is who has that namespace that makes it
			s.log(o.String(), "cannot be read, and is left alone: %v", err)
			continue
		}
		if err != nil {
			return err
		}
		if before == nil {
			s.log(o.String(), "created")
		}
	}
	return nil
}

// ensureRoute creates the Gateways and the VirtualService that are missing.
func (s subsets) ensureRoute(ctx context.Context) error {
	if err := s.ensureGateways(ctx); err != nil {
		return err
	}
	o := s.virtualService()
	desired := s.Manifests.VirtualService.DeepCopy()
	desired.Namespace = o.namespace
	before, _, err := change(ctx, s.job, o, func(live *networking.VirtualService) (*write, error) {
		switch {
		case live == nil:
			return s.create(desired, true), nil
		case len(s.Manifests.Routes(live)) == 0:
			return nil, s.missing()
		}
		return nil, nil
	})
	if err == nil && before == nil {
		s.log(o.String(), "created: 100%% to primary")
	}
	return err
}

// split gives the canary its weight, and browsers what they are held to.
func (s subsets) split(ctx context.Context, want traffic) (routing, error) {
	o := s.route()
	before, after, err := change(ctx, s.job, o, func(live *networking.VirtualService) (*write, error) {
		switch {
		case live == nil:
			return nil, nil
		case len(s.Manifests.Routes(live)) > 0:
		case want.weight == 0 && want.match == nil && want.mirror == 0 && !s.Manifests.Named(ungenerated(live), release.Canary):
			// Nothing else leads to the canary: there is no traffic to take away.
			if ops := removals(live); len(ops) > 0 {
				return s.patch(ops...), nil
			}
			return nil, nil
		default:
			return nil, s.missing()
		}
		ops, err := s.routeOps(live, want)
		if len(ops) == 0 || err != nil {
			return nil, err
		}
		w := s.patch(ops...)
		w.says = want.String()
		return w, nil
	})
	if err == nil && after != nil && s.planning() {
		s.Plan.routed(o, before, after)
	}
	if err == nil && before != after {
		s.log(o.String(), "%s", want)
	}
	return s.routing(after), err
}

// routeOps are the operations that bring the release's routes to what is wanted.
func (s subsets) routeOps(live *networking.VirtualService, to traffic) ([]patchOp, error) {
	if err := s.refusal(live, to); err != nil {
		return nil, err
	}
	ops, routes, insert, err := s.generatedOps(live, to)
	if err != nil {
		return nil, err
	}
	weight := int32(to.weight)
	want := manifest.WeightPair{Primary: 100 - weight, Canary: weight}
	for i, r := range routes {
		if manifest.Weights(live, s.Manifests.Routes(live)[i]) == want {
			continue
		}
		path := fmt.Sprintf("/spec/http/%d/route/", r.HTTP)
		ops = append(ops,
			patchOp{"add", fmt.Sprintf("%s%d/weight", path, r.Primary), &want.Primary},
			patchOp{"add", fmt.Sprintf("%s%d/weight", path, r.Canary), &want.Canary})
	}
	return append(ops, insert...), nil
}
