package rollout

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// look refuses routes without the release's, and what would make a release ineffective: what the Gateway API says, and Istio
// 1.31 does (facts of the rehearsal's control plane), is accepted by every status and answered with something else.
func (s services) look(ctx context.Context, _ *appsv1.Deployment, want traffic) (found routerFound, err error) {
	live, err := look[*unstructured.Unstructured](ctx, s.job, s.route())
	if err != nil {
		return found, fmt.Errorf("%w; nothing was changed", err)
	}
	if found.routing, err = s.routing(live); err != nil {
		return found, err
	}
	if live == nil {
		if err := s.routeServed(); err != nil {
			return found, err
		}
	}
	if err := s.carries(want); err != nil {
		return found, err
	}
	if found.routed() && len(found.routes) == 0 {
		return found, s.missing()
	}
	if found.backed, err = s.lookBackends(ctx); err != nil {
		return found, err
	}
	route := live
	if route == nil {
		route = s.Manifests.Route
	}
	g, err := manifest.ReadGatewayRoute(route)
	if err != nil {
		return found, err
	}
	if err := s.checkRules(ctx, g); err != nil {
		return found, err
	}
	if err := s.refusal(route, want); err != nil {
		return found, err
	}
	if err := s.checkGateways(ctx, g.Parents); err != nil {
		return found, err
	}
	if live != nil {
		if err := s.checkTaken(live, found.backed); err != nil {
			return found, err
		}
	}
	if err := s.checkOlder(ctx, live, g); err != nil {
		return found, err
	}
	leftovers, err := s.leftovers(ctx, g)
	if err == nil && len(leftovers) > 0 {
		err = &usererr.Error{
			Field:   fmt.Sprintf("VirtualService %s/%s", leftovers[0].Namespace, leftovers[0].Name),
			Problem: fmt.Sprintf("it leads to Service %s for the same callers as %s: nobody says which of the two they come by", s.Manifests.Service.Name, s.route()),
			Fix:     "run `crossbill migrate`, which takes the app from it to the route, or remove it",
		}
	}
	return found, err
}

// carries refuses what a release by the Gateway API does not do.
func (s services) carries(want traffic) error {
	switch {
	case want.mirror > 0 && !s.isHTTP():
		return &usererr.Error{Field: "canary.mirror", Problem: fmt.Sprintf("only GET and HEAD are mirrored, and the calls of %s are POST", s.route()), Fix: "leave mirror out"}
	case want.sticky == free:
		return nil
	}
	return &usererr.Error{
		Field:   "canary.sticky",
		Problem: fmt.Sprintf("%s does not keep a browser on a version: session persistence (GEP-1619) is in the experimental channel of the Gateway API alone, and Istio does not carry it out", s.route()),
		Fix:     "release without sticky, or lead to the app by a VirtualService (router: virtualservice)",
	}
}

// lookBackends looks at the Services: those of the tracks select their pods alone, and the app's own primary's.
func (s services) lookBackends(ctx context.Context) (backed bool, err error) {
	backed = true
	for _, track := range tracks {
		live, err := look[*corev1.Service](ctx, s.job, s.trackService(track))
		if err != nil {
			return false, fmt.Errorf("%w; nothing was changed", err)
		}
		if live == nil {
			backed = false
			continue
		}
		if err := s.movedTrack(track, live); err != nil {
			return false, err
		}
		if live.Spec.PublishNotReadyAddresses {
			return false, &usererr.Error{Field: s.trackService(track).String() + ": spec.publishNotReadyAddresses", Problem: "pods that are not ready would get traffic", Fix: "remove it"}
		}
	}
	apex, err := s.liveService(ctx)
	if err != nil {
		return false, err
	}
	if apex != nil && apex.Spec.Selector[manifest.TrackLabel] != string(release.Primary) {
		return false, &usererr.Error{
			Field:   s.service().String() + ": spec.selector",
			Problem: fmt.Sprintf("it selects the pods of both tracks: whoever calls it past %s would get the canary by its share of the pods, at any weight", s.route()),
			Fix:     fmt.Sprintf("run `crossbill migrate`, which adds %s: %s when that takes nothing from anybody", manifest.TrackLabel, release.Primary),
		}
	}
	return backed, nil
}

// checkRules refuses rules whose callers get errors whatever the weights are.
func (s services) checkRules(ctx context.Context, g *manifest.GatewayRoute) error {
	for _, r := range s.Manifests.Rules(g) {
		field := fmt.Sprintf("%s: spec.rules[%d].backendRefs", s.route(), r.HTTP)
		if w := g.Weights(r); w.Primary == 0 && w.Canary == 0 {
			return &usererr.Error{Field: field, Problem: "the weights are 0/0: callers get the answer 500", Fix: "give primary weight 100 and the canary 0"}
		}
		for track, at := range map[release.Track]int{release.Primary: r.Primary, release.Canary: r.Canary} {
			service, err := recent[*corev1.Service](ctx, s.job, s.trackService(track))
			if err != nil {
				return err
			}
			port := g.Rules[r.HTTP].Backends[at].Port
			has := func(service *corev1.Service) bool {
				return service != nil && port != nil && slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == int32(*port) })
			}
			if !has(service) && !has(s.Manifests.Tracks[track]) {
				return &usererr.Error{Field: field, Problem: fmt.Sprintf("Service %s does not have the port that the rule names: callers would get the answer 500, and no status says so", s.endpoints(track)), Fix: "name a port of the Service"}
			}
		}
	}
	return nil
}

// checkOlder refuses an older route of the kind that takes the release's requests: same parent, same host, same match. The
// Gateway API lets the older one win, and the status of both says that they are accepted.
func (s services) checkOlder(ctx context.Context, live *unstructured.Unstructured, g *manifest.GatewayRoute) error {
	o := s.route()
	resource := s.Kinds.client.Resource(schema.GroupVersionResource{Group: manifest.GatewayGroup, Version: "v1", Resource: strings.ToLower(o.kind) + "s"})
	all, err := readable(ctx, s.job, o.kind+"s", s.Namespace, func(namespace string) ([]*unstructured.Unstructured, error) {
		list, err := resource.Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		var found []*unstructured.Unstructured
		for i := range list.Items {
			found = append(found, &list.Items[i])
		}
		return found, nil
	}, o)
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.GetNamespace() == o.namespace && other.GetName() == o.name || !olderRoute(other, live) {
			continue
		}
		theirs, err := manifest.ReadGatewayRoute(other)
		if err != nil {
			s.log(o.String(), "%v: whether it takes the release's requests is not checked", err)
			continue
		}
		if host, taken := s.takes(g, theirs); taken {
			return &usererr.Error{
				Field:   fmt.Sprintf("%s %s/%s", other.GetKind(), other.GetNamespace(), other.GetName()),
				Problem: fmt.Sprintf("it has a match of %s for %s at the same parent, and is older: it gets the requests, and the release's weights would have no effect", o, host),
				Fix:     "delete it, or take the host, or the rules that both have, out of one of them",
			}
		}
	}
	return nil
}

// olderRoute says whether a route comes before the app's: by its creation, then by its name. What is not made yet is the
// youngest.
func olderRoute(other, live *unstructured.Unstructured) bool {
	if live == nil {
		return true
	}
	a, b := other.GetCreationTimestamp(), live.GetCreationTimestamp()
	if !a.Equal(&b) {
		return a.Before(&b)
	}
	return other.GetNamespace()+"/"+other.GetName() < live.GetNamespace()+"/"+live.GetName()
}

// takes says whether a route has a parent, a host and a match that the release's rules have, and which host.
func (s services) takes(ours, theirs *manifest.GatewayRoute) (host string, taken bool) {
	if !slices.ContainsFunc(ours.Parents, func(a gateway.ParentReference) bool {
		return slices.ContainsFunc(theirs.Parents, func(b gateway.ParentReference) bool {
			whole := func(p gateway.ParentReference, namespace string) gateway.ParentReference {
				namespaced := or(p.Namespace, gateway.Namespace(namespace))
				p.Namespace = &namespaced
				return p
			}
			a, b := whole(a, s.Namespace), whole(b, theirs.Namespace)
			if a.SectionName == nil || b.SectionName == nil { // all of its listeners
				a.SectionName, b.SectionName = nil, nil
			}
			if a.Port == nil || b.Port == nil {
				a.Port, b.Port = nil, nil
			}
			return sameParent(a, b, "")
		})
	}) {
		return "", false
	}
	if len(ours.Hosts) > 0 && len(theirs.Hosts) > 0 {
		i := slices.IndexFunc(ours.Hosts, func(h string) bool { return slices.Contains(theirs.Hosts, h) })
		if i < 0 {
			return "", false
		}
		host = "host " + ours.Hosts[i]
	} else if len(ours.Hosts) == len(theirs.Hosts) {
		host = "all hosts"
	} else {
		return "", false // the one that names a host wins for it
	}
	for _, r := range s.Manifests.Rules(ours) {
		for _, a := range matchesOfRule(&ours.Rules[r.HTTP]) {
			for i := range theirs.Rules {
				if slices.ContainsFunc(matchesOfRule(&theirs.Rules[i]), func(b map[string]any) bool { return reflect.DeepEqual(a, b) }) {
					return host, true
				}
			}
		}
	}
	return "", false
}

// matchesOfRule are those of a rule; one of everything where it has none.
func matchesOfRule(rule *manifest.GatewayRule) []map[string]any {
	if len(rule.Matches) == 0 {
		return []map[string]any{{"path": map[string]any{"type": "PathPrefix", "value": "/"}}}
	}
	return rule.Matches
}

// leftovers are the VirtualServices that lead the same callers to the app as the route does: for one of its hosts, or for the
// app's Service; and those that lead to a subset of the canary, which has no pods behind the app's Service any more.
func (s services) leftovers(ctx context.Context, g *manifest.GatewayRoute) ([]*networking.VirtualService, error) {
	all, err := readable(ctx, s.job, "VirtualServices", s.Namespace, func(namespace string) ([]*networking.VirtualService, error) {
		list, err := s.Istio.NetworkingV1().VirtualServices(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	}, object{read: func(context.Context) (metav1.Object, error) { return nil, nil }})
	if apierrors.IsNotFound(err) { // the Gateway API is another mesh's
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(vs *networking.VirtualService) bool { return !s.leftover(vs, g) }), nil
}

func (s services) leftover(vs *networking.VirtualService, g *manifest.GatewayRoute) bool {
	leads, canary := false, false
	for _, http := range vs.Spec.Http {
		for _, d := range http.Route {
			if s.leadsHere(d, vs.Namespace) {
				leads, canary = true, canary || d.Destination.Subset == string(release.Canary)
			}
		}
	}
	return canary || leads && slices.ContainsFunc(vs.Spec.Hosts, func(host string) bool {
		return slices.Contains(g.Hosts, host) || s.Manifests.IsHost(host, vs.Namespace) || len(g.Hosts) == 0 && len(g.Parents) > 0 && host == "*"
	})
}

func (s services) leadsHere(d *networkingapi.HTTPRouteDestination, namespace string) bool {
	return d.Destination != nil && s.Manifests.IsHost(d.Destination.Host, namespace)
}
