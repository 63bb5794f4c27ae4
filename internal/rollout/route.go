package rollout

import (
	"context"
	"fmt"
	"slices"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

var tracks = []release.Track{release.Primary, release.Canary}

func routeMissing(o object) error {
	return &usererr.Error{
		Field:   o.String(),
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

// ensureSubsets creates the DestinationRule or adds the subsets that it lacks. It refuses one that somebody has moved.
func (j *job) ensureSubsets(ctx context.Context) error { return j.addSubsets(ctx, refuseMoved) }

// addSubsets is ensureSubsets for whoever decides what a subset that somebody has moved to other pods means.
func (j *job) addSubsets(ctx context.Context, moved func(error) error) error {
	o := j.destinationRule()
	desired := j.Manifests.DestinationRule.DeepCopy()
	desired.Namespace = o.namespace
	before, after, err := change(ctx, j, o, func(live *networking.DestinationRule) (write, error) {
		if live == nil {
			return j.create(o, desired, true), nil
		}
		ops, err := missingSubsets(o, live)
		if err := moved(err); len(ops) == 0 || err != nil {
			return nil, err
		}
		return j.patch(o, ops...), nil
	})
	switch {
	case err != nil:
		return err
	case before == nil:
		j.log(o.String(), "created with subsets primary and canary")
	case before != after:
		j.log(o.String(), "added the missing subsets")
	}
	return nil
}

func refuseMoved(err error) error { return err }

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
func (j *job) ensureGateways(ctx context.Context) error {
	for _, gateway := range j.Manifests.Gateways {
		o := j.gateway(j.namespaceOf(gateway), gateway.Name)
		desired := gateway.DeepCopy()
		desired.Namespace = o.namespace
		before, _, err := change(ctx, j, o, func(live *networking.Gateway) (write, error) {
			if live != nil {
				return nil, nil
			}
			return j.create(o, desired, false), nil
		})
		if apierrors.IsForbidden(err) && o.namespace != j.Namespace { // it is who has that namespace that makes it
			j.log(o.String(), "cannot be read, and is left alone: %v", err)
			continue
		}
		if err != nil {
			return err
		}
		if before == nil {
			j.log(o.String(), "created")
		}
	}
	return nil
}

// ensureRoute creates a VirtualService that is missing, at rest. One that exists is left as it is.
func (j *job) ensureRoute(ctx context.Context) error {
	o := j.virtualService()
	desired := j.Manifests.VirtualService.DeepCopy()
	desired.Namespace = o.namespace
	before, _, err := change(ctx, j, o, func(live *networking.VirtualService) (write, error) {
		switch {
		case live == nil:
			return j.create(o, desired, true), nil
		case len(j.Manifests.Routes(live)) == 0:
			return nil, routeMissing(o)
		}
		return nil, nil
	})
	if err == nil && before == nil {
		j.log(o.String(), "created: 100%% to primary")
	}
	return err
}

// route is the step that gives the canary a weight in percent and primary the rest, in every http route that
// is the release's.
func (j *job) route(weight int) step {
	return func(ctx context.Context) error {
		live, err := j.split(ctx, weight, j.stickinessAt(weight))
		if err == nil && live == nil && !j.planning() { // a plan may just have planned to create it
			return fmt.Errorf("%s: somebody has deleted it, so nobody gets the traffic; create it as the manifest has it, then %s", j.virtualService(), j.next())
		}
		return err
	}
}

// routeBack is the step that takes the canary's traffic away. If somebody has deleted the VirtualService, there is
// none.
func (j *job) routeBack(sticky stickiness) step {
	return func(ctx context.Context) error { _, err := j.split(ctx, 0, sticky); return err }
}

// split gives the canary a weight, and browsers what they are held to. It gives what is live afterwards; nil when
// somebody has deleted the VirtualService.
func (j *job) split(ctx context.Context, weight int, sticky stickiness) (after *networking.VirtualService, err error) {
	o := j.virtualService()
	before, after, err := change(ctx, j, o, func(live *networking.VirtualService) (write, error) {
		switch {
		case live == nil:
			return nil, nil
		case len(j.Manifests.Routes(live)) > 0:
		case weight == 0 && !j.Manifests.Named(live, release.Canary):
			return nil, nil // nothing leads to the canary: there is no traffic to take away
		default:
			return nil, routeMissing(o)
		}
		ops, err := j.routeOps(live, int32(weight), sticky)
		if len(ops) == 0 || err != nil {
			return nil, err
		}
		return j.patch(o, ops...), nil
	})
	if err == nil && after != nil && j.planning() {
		j.Plan.routed(o, before, after)
	}
	if err == nil && before != after {
		j.log(o.String(), "routes %d%% to primary, %d%% to canary%s", 100-weight, weight, sticky)
	}
	return after, err
}

// routeOps are the operations that bring the release's routes to a weight.
func (j *job) routeOps(live *networking.VirtualService, weight int32, sticky stickiness) ([]patchOp, error) {
	if sticky == pinned {
		if err := j.stickyRefusal(live); err != nil {
			return nil, err
		}
	}
	ops, routes, insert, err := j.stickyOps(live, sticky)
	if err != nil {
		return nil, err
	}
	want := manifest.WeightPair{Primary: 100 - weight, Canary: weight}
	for i, r := range routes {
		if manifest.Weights(live, j.Manifests.Routes(live)[i]) == want {
			continue
		}
		path := fmt.Sprintf("/spec/http/%d/route/", r.HTTP)
		ops = append(ops,
			patchOp{"add", fmt.Sprintf("%s%d/weight", path, r.Primary), &want.Primary},
			patchOp{"add", fmt.Sprintf("%s%d/weight", path, r.Canary), &want.Canary})
	}
	return append(ops, insert...), nil
}
