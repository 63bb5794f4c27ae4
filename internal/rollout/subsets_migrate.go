package rollout

import (
	"context"
	"encoding/json"
	"fmt"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// convertible says whether the VirtualService has the release's route already, and refuses one that migrate
// cannot make into it: one that splits traffic, or has no route to the Service.
func (s subsets) convertible(ctx context.Context) (routed bool, err error) {
	live, err := look[*networking.VirtualService](ctx, s.job, s.route())
	if err != nil {
		return false, fmt.Errorf("%w; nothing was changed", err)
	}
	if live == nil {
		return false, nil
	}
	object := s.virtualService().String()
	for _, r := range s.Manifests.Routes(live) {
		if manifest.Weights(live, r).Canary != 0 {
			return false, &usererr.Error{Field: object, Problem: "the canary has traffic", Fix: "end that release first: route 100 to primary"}
		}
	}
	plain := len(s.plain(live))
	if routed = len(s.Manifests.Routes(live)) > 0 && plain == 0; routed || plain > 0 {
		return routed, nil
	}
	return false, &usererr.Error{Field: object, Problem: "it has no http route that leads to the Service alone, with one destination", Fix: "give it such a route (or the manifest's, primary 100 and canary 0, once primary has pods), then run migrate"}
}

// plain are the http routes with one destination, the app's Service. Beside the release's route, one with a subset is
// meant to be as it is.
func (s subsets) plain(vs *networking.VirtualService) []int {
	var found []int
	routed := len(s.Manifests.Routes(vs)) > 0
	for i, http := range vs.Spec.Http {
		if len(http.Route) == 1 && http.Route[0].Destination != nil && s.Manifests.IsHost(http.Route[0].Destination.Host, vs.Namespace) && (!routed || http.Route[0].Destination.Subset == "") {
			found = append(found, i)
		}
	}
	return found
}

// take leads the traffic to the subsets: they are there, and primary's pods behind the Service, before the route names them.
func (s subsets) take(ctx context.Context) error {
	return inOrder(ctx,
		s.ensureBackends,
		s.applyService, // ready pods of ours exist: its selector may change
		s.waitEndpoints(release.Primary, ""),
		s.settle(s.destinationRule(), "what the route leads to"),
		s.convert,
		s.settle(s.route(), "the route"),
	)
}

// convert makes each plain route of the VirtualService the release's, at rest, and creates one that is
// missing. All else in it stays.
func (s subsets) convert(ctx context.Context) error {
	if err := s.ensureGateways(ctx); err != nil {
		return err
	}
	o := s.virtualService()
	desired := s.Manifests.VirtualService.DeepCopy()
	desired.Namespace = o.namespace
	before, after, err := change(ctx, s.job, o, func(live *networking.VirtualService) (*write, error) {
		switch {
		case live == nil:
			return s.create(desired, true), nil
		case len(s.plain(live)) == 0:
			return nil, nil
		}
		var ops []patchOp
		for _, i := range s.plain(live) {
			both, err := bothTracks(live.Spec.Http[i].Route[0])
			if err != nil {
				return nil, err
			}
			ops = append(ops, patchOp{"replace", fmt.Sprintf("/spec/http/%d/route", i), both})
		}
		return s.patch(ops...), nil
	})
	if err == nil && before != after {
		s.log(o.String(), "leads to primary by subset; the canary has weight 0")
	}
	return err
}

// bothTracks is a destination as two, with all else that it has.
func bothTracks(plain *networkingapi.HTTPRouteDestination) ([]any, error) {
	var both []any
	for track, weight := range map[release.Track]int32{release.Primary: 100, release.Canary: 0} {
		d := plain.DeepCopy()
		d.Destination.Subset, d.Weight = string(track), weight
		text, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		var value map[string]any
		if err := json.Unmarshal(text, &value); err != nil {
			return nil, err
		}
		value["weight"] = weight // a 0 is left out otherwise
		if track == release.Primary {
			both = append([]any{value}, both...)
		} else {
			both = append(both, value)
		}
	}
	return both, nil
}
