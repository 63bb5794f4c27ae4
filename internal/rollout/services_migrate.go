package rollout

import (
	"context"
	"fmt"
	"slices"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// convertible says whether the route is the release's, and nothing else leads the same callers to the app; it refuses a route
// that migrate cannot make into it.
func (s services) convertible(ctx context.Context) (routed bool, err error) {
	if err := s.routeServed(); err != nil {
		return false, err
	}
	o := s.route()
	live, err := look[*unstructured.Unstructured](ctx, s.job, o)
	if err != nil {
		return false, fmt.Errorf("%w; nothing was changed", err)
	}
	route := live
	if route == nil {
		route = s.Manifests.Route
	}
	g, err := manifest.ReadGatewayRoute(route)
	if err != nil {
		return false, err
	}
	if err := s.checkGateways(ctx, g.Parents); err != nil {
		return false, err
	}
	rules, plain := s.Manifests.Rules(g), s.plain(g)
	for _, r := range rules {
		if live != nil && g.Weights(r).Canary != 0 {
			return false, &usererr.Error{Field: o.String(), Problem: "the canary has traffic", Fix: "end that release first: route 100 to primary"}
		}
	}
	if len(rules)+len(plain) == 0 {
		return false, &usererr.Error{Field: o.String(), Problem: "it has no rule that leads to the Service alone, or to the Services of both tracks", Fix: "give it such a rule (or the manifest's, primary 100 and canary 0), then run migrate"}
	}
	leftovers, err := s.leftovers(ctx, g)
	if err != nil {
		return false, err
	}
	for _, vs := range leftovers {
		for _, http := range vs.Spec.Http {
			if name := previewOfRoute(http.Name); name != "" {
				return false, &usererr.Error{Field: fmt.Sprintf("VirtualService %s/%s", vs.Namespace, vs.Name), Problem: fmt.Sprintf("it leads to preview %s, which would not be reached any more", name), Fix: "run `crossbill preview down --name " + name + "` first, and bring it up again afterwards"}
			}
		}
		if others := len(vs.Spec.Http) - len(s.routesHere(vs)) + len(vs.Spec.Tcp) + len(vs.Spec.Tls); others > 0 && len(s.otherHosts(vs)) == 0 {
			return false, &usererr.Error{
				Field:   fmt.Sprintf("VirtualService %s/%s", vs.Namespace, vs.Name),
				Problem: fmt.Sprintf("it is for host %s alone and has other routes beside those to the app: without these, its callers would get the answer 404", vs.Spec.Hosts[0]),
				Fix:     "write its other routes as rules of " + o.String() + " and take them out of it, then run migrate",
			}
		}
	}
	backed, err := s.backed(ctx)
	if err != nil {
		return false, fmt.Errorf("%w; nothing was changed", err)
	}
	apex, err := s.liveService(ctx)
	if err != nil {
		return false, err
	}
	return live != nil && len(plain) == 0 && len(leftovers) == 0 && backed[release.Primary] && backed[release.Canary] &&
		apex != nil && apex.Spec.Selector[manifest.TrackLabel] == string(release.Primary), nil
}

// plain are the rules with one backend, the app's Service.
func (s services) plain(g *manifest.GatewayRoute) (found []int) {
	for i := range g.Rules {
		if len(g.Rules[i].Backends) == 1 && s.Manifests.LeadsToApex(g, i) {
			found = append(found, i)
		}
	}
	return found
}

// take leads the traffic to primary by the route. Each thing that is led to is there and answers before it is, and what led
// there before goes last: an HTTPRoute and a VirtualService may be for one host for a while, since the rules of the first come
// first. The selector of the app's Service is narrowed when nobody comes by it for want of another way.
func (s services) take(ctx context.Context) error {
	return inOrder(ctx,
		s.ensureBackends,
		s.waitEndpoints(release.Primary, ""),
		s.settle(s.trackService(release.Primary), "what the route leads to"),
		s.convert,
		s.settle(s.route(), "the route"),
		s.retire,
		s.narrow,
	)
}

// convert makes each plain rule of the route the release's, at rest, and creates a route that is missing. All else in it stays.
func (s services) convert(ctx context.Context) error {
	o := s.route()
	desired := s.Manifests.Route.DeepCopy()
	desired.SetNamespace(s.Namespace)
	before, after, err := change(ctx, s.job, o, func(live *unstructured.Unstructured) (*write, error) {
		if live == nil {
			return s.create(desired, true), nil
		}
		g, err := manifest.ReadGatewayRoute(live)
		if err != nil || len(s.plain(g)) == 0 {
			return nil, err
		}
		rules, _, err := unstructured.NestedSlice(live.Object, "spec", "rules")
		if err != nil {
			return nil, err
		}
		var ops []patchOp
		for _, i := range s.plain(g) {
			ref := rules[i].(map[string]any)["backendRefs"].([]any)[0].(map[string]any) // it was read as one
			ops = append(ops, patchOp{"replace", fmt.Sprintf("/spec/rules/%d/backendRefs", i), s.Manifests.SplitBackend(ref)})
		}
		return s.patch(ops...), nil
	})
	if err != nil {
		return err
	}
	if before != after {
		s.log(o.String(), "leads to primary by its Service; the canary has weight 0")
	}
	return s.waitTaken(ctx, after)
}

// retire takes the app out of the VirtualServices that led its callers there before: their routes to it, or all of one that has
// no others.
func (s services) retire(ctx context.Context) error {
	g, err := manifest.ReadGatewayRoute(s.Manifests.Route)
	if err != nil {
		return err
	}
	leftovers, err := s.leftovers(ctx, g)
	if err != nil {
		return err
	}
	for _, found := range leftovers {
		o := objectOf("VirtualService", found.Namespace, found.Name, s.Istio.NetworkingV1().VirtualServices(found.Namespace))
		before, after, err := change(ctx, s.job, o, func(live *networking.VirtualService) (*write, error) {
			if live == nil || live.DeletionTimestamp != nil {
				return nil, nil
			}
			ours := s.routesHere(live)
			switch others := len(live.Spec.Http) - len(ours) + len(live.Spec.Tcp) + len(live.Spec.Tls); {
			case len(ours) == 0:
				return nil, nil
			case others == 0:
				return s.remove(metav1.DeletePropagationBackground), nil
			}
			var ops []patchOp
			for _, i := range slices.Backward(ours) {
				ops = append(ops, patchOp{Op: "remove", Path: fmt.Sprintf("/spec/http/%d", i)})
			}
			if left := s.otherHosts(live); len(left) < len(live.Spec.Hosts) { // sidecars would answer 404 for what it has no route for
				ops = append(ops, patchOp{"replace", "/spec/hosts", left})
			}
			return s.patch(ops...), nil
		})
		switch {
		case err != nil:
			return err
		case before != nil && after == nil:
			s.log(o.String(), "deleted: %s leads there now", s.route())
		case before != after:
			s.log(o.String(), "leads to the app no more: %s does", s.route())
		}
	}
	if len(leftovers) > 0 {
		return s.settle(s.route(), "that the route alone leads to the app")(ctx)
	}
	return nil
}

// otherHosts are the hosts of a VirtualService beside the app's own Service.
func (s services) otherHosts(vs *networking.VirtualService) []string {
	return slices.DeleteFunc(slices.Clone(vs.Spec.Hosts), func(host string) bool { return s.Manifests.IsHost(host, vs.Namespace) })
}

// routesHere are the http routes of a VirtualService that lead to the app, and to nothing else.
func (s services) routesHere(vs *networking.VirtualService) (found []int) {
	for i, http := range vs.Spec.Http {
		all := len(http.Route) > 0
		for _, d := range http.Route {
			all = all && s.leadsHere(d, vs.Namespace)
		}
		if all {
			found = append(found, i)
		}
	}
	return found
}

// narrow applies the app's Service, which selects primary alone.
func (s services) narrow(ctx context.Context) error {
	live, err := look[*corev1.Service](ctx, s.job, s.service())
	if err != nil {
		return err
	}
	if err := s.applyService(ctx); err != nil {
		return err
	}
	if live == nil || live.Spec.Selector[manifest.TrackLabel] != string(release.Primary) {
		s.log(s.service().String(), "selects primary alone")
		return s.settle(s.service(), "what it selects")(ctx)
	}
	return nil
}
