package rollout

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// What else in the mesh would make a release ineffective: a weight that is written and that nobody keeps to. It was
// checked against Istio 1.31 (pilot/pkg/model: destination_rule.go, push_context.go; networking/core/gateway.go).

// mesh is what a cluster's VirtualServices and DestinationRules are, as far as they may be read.
type mesh struct {
	routes []*networking.VirtualService
	rules  []*networking.DestinationRule
	route  *networking.VirtualService  // the app's
	rule   *networking.DestinationRule // the app's
}

// readMesh reads the mesh: everywhere, or where this account may, and at least the app's own objects.
func (s subsets) readMesh(ctx context.Context) (m mesh, err error) {
	routes, rules := s.virtualService(), s.destinationRule()
	m.routes, err = readable(ctx, s.job, "VirtualServices", routes.namespace, func(namespace string) ([]*networking.VirtualService, error) {
		list, err := s.Istio.NetworkingV1().VirtualServices(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	}, routes)
	if err != nil {
		return m, err
	}
	m.rules, err = readable(ctx, s.job, "DestinationRules", rules.namespace, func(namespace string) ([]*networking.DestinationRule, error) {
		list, err := s.Istio.NetworkingV1().DestinationRules(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	}, rules)
	m.route, m.rule = own(s.job, m.routes, routes), own(s.job, m.rules, rules)
	return m, err
}

// readable lists what an account may: all namespaces, one, or only the object that the app has.
func readable[T metav1.Object](ctx context.Context, j *job, kinds, namespace string, list func(namespace string) ([]T, error), o object) ([]T, error) {
	found, err := list("")
	if apierrors.IsForbidden(err) {
		found, err = list(namespace)
		if err == nil {
			j.log("mesh", "the %s of other namespaces cannot be listed: whether one of them is for the app's host is not checked", kinds)
		}
	}
	if apierrors.IsForbidden(err) {
		j.log("mesh", "%s cannot be listed: whether another one is for the app's host is not checked", kinds)
		one, err := o.read(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; nothing was changed", o, err)
		}
		if one == nil {
			return nil, nil
		}
		return []T{one.(T)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; nothing was changed", kinds, err)
	}
	return found, nil
}

// own is the app's object among others, kept for the write that may follow.
func own[T metav1.Object](j *job, found []T, o object) (none T) {
	if i := slices.IndexFunc(found, func(f T) bool { return f.GetNamespace() == o.namespace && f.GetName() == o.name }); i >= 0 {
		j.remember(o, found[i])
		return found[i]
	}
	j.remember(o, nil)
	return none
}

// look refuses routes without the release's, and what in the mesh would make a release ineffective.
func (s subsets) look(ctx context.Context, primary *appsv1.Deployment, want traffic) (found routerFound, err error) {
	m, err := s.readMesh(ctx)
	if err != nil {
		return found, err
	}
	found.routing = s.routing(m.route)
	if m.route != nil && s.Manifests.PastMesh(s.Manifests.VirtualService) == "" { // else the manifests' remark says it
		if why := s.Manifests.PastMesh(m.route); why != "" {
			s.log(s.route().String(), "does not route callers in the mesh, as the manifests' does: %s; they reach a canary by its share of the pods, at any weight, until it is applied", why)
		}
	}
	found.backed = m.rule != nil && manifest.HasSubset(m.rule, release.Primary) && manifest.HasSubset(m.rule, release.Canary)
	if found.routed() && len(found.routes) == 0 {
		return found, s.missing()
	}
	if found.routed() {
		if err := s.refusal(m.route, want); err != nil {
			return found, err
		}
	}
	return found, s.checkMesh(ctx, m, primary)
}

// checkMesh refuses what would make a release ineffective. primary is as it is live, nil for a first release.
func (s subsets) checkMesh(ctx context.Context, m mesh, primary *appsv1.Deployment) error {
	route, rule := m.route, m.rule
	if route == nil {
		route = s.Manifests.VirtualService.DeepCopy()
		route.Namespace = s.virtualService().namespace
	}
	if rule == nil {
		rule = s.Manifests.DestinationRule.DeepCopy()
		rule.Namespace = s.destinationRule().namespace
	}
	if err := s.checkSplit(m, route); err != nil {
		return err
	}
	if err := s.checkSubsets(rule, primary); err != nil {
		return err
	}
	for _, other := range m.routes {
		if other != m.route {
			if err := s.checkShadow(route, other); err != nil {
				return err
			}
		}
	}
	return s.checkSeen(ctx, m, route, rule, primary)
}

// checkSplit refuses routes to the Service without a subset: they send traffic to the canary by its share of the pods,
// whatever its weight is, and go on when it is 0.
func (s subsets) checkSplit(m mesh, own *networking.VirtualService) error {
	for _, vs := range slices.Concat([]*networking.VirtualService{own, s.Manifests.VirtualService}, m.routes) {
		if places := s.Manifests.Unsplit(vs); len(places) > 0 {
			return &usererr.Error{
				Field:   fmt.Sprintf("VirtualService %s/%s: %s", s.namespaceOf(vs), vs.Name, places[0]),
				Problem: fmt.Sprintf("it leads to Service %s without a subset: the canary would get its share of the pods there, not its weight", s.Manifests.Service.Name),
				Fix:     "give it both destinations as the release's route has them (subset primary with weight 100, canary with 0), or `subset: primary` to keep it out of releases; `crossbill migrate` does the former for the app's own VirtualService",
			}
		}
	}
	return nil
}

// checkSubsets refuses subsets that select no pod of their track.
func (s subsets) checkSubsets(rule *networking.DestinationRule, primary *appsv1.Deployment) error {
	o := s.destinationRule()
	if _, err := missingSubsets(o, rule); err != nil {
		return err
	}
	for _, track := range tracks {
		d, err := s.Manifests.Track(track, s.Namespace, "")
		if err != nil {
			return err
		}
		if track == release.Primary && primary != nil {
			d = primary
		}
		if lacking := s.Manifests.Lacking(rule, track, d.Spec.Template.Labels); lacking != "" {
			return &usererr.Error{
				Field:   o.String() + ": spec.subsets",
				Problem: fmt.Sprintf("subset %s asks for the label %s, which no pod of the track has: what is routed to it would be lost", track, lacking),
				Fix:     fmt.Sprintf("let it have the label %s: %s alone", manifest.TrackLabel, track),
			}
		}
	}
	return nil
}

// checkShadow refuses an older VirtualService for the same host on the same gateway. Istio takes the older one's routes
// first on a gateway, and nothing but the older one in sidecars (gateway mesh).
func (s subsets) checkShadow(ours, other *networking.VirtualService) error {
	host := shared(hostsOf(ours), hostsOf(other))
	gateway := shared(gatewaysOf(ours), gatewaysOf(other))
	if host == "" || gateway == "" || !older(other, ours) {
		return nil
	}
	if gateway != manifest.MeshGateway && !s.takesFirst(ours, other) {
		return nil
	}
	return &usererr.Error{
		Field:   fmt.Sprintf("VirtualService %s/%s", other.Namespace, other.Name),
		Problem: fmt.Sprintf("it is for host %s on gateway %s too, and older than %s: Istio lets the older one win, so that the release's weights would have no effect", host, gateway, s.virtualService()),
		Fix:     "delete it, or take the host, or the routes that both have, out of one of them",
	}
}

func hostsOf(vs *networking.VirtualService) sets.Set[string] {
	hosts := sets.New[string]()
	for _, host := range vs.Spec.Hosts {
		if !strings.Contains(host, ".") && host != "*" {
			host += "." + vs.Namespace + ".svc.cluster.local"
		}
		hosts.Insert(strings.ToLower(host))
	}
	return hosts
}

// gatewaysOf are a VirtualService's gateways, in full.
func gatewaysOf(vs *networking.VirtualService) sets.Set[string] {
	gateways := sets.New[string]()
	for _, name := range vs.Spec.Gateways {
		if name != manifest.MeshGateway && !strings.Contains(name, "/") {
			name = vs.Namespace + "/" + name
		}
		gateways.Insert(name)
	}
	if len(gateways) == 0 {
		gateways.Insert(manifest.MeshGateway)
	}
	return gateways
}

// shared is something that two sets have, the mesh first; "" when they have nothing.
func shared(a, b sets.Set[string]) string {
	both := a.Intersection(b)
	if both.Has(manifest.MeshGateway) {
		return manifest.MeshGateway
	}
	for _, one := range sets.List(both) {
		return one
	}
	return ""
}

// older says whether Istio sorts a ahead of b: by creation, then by name. What is not made yet is the youngest.
func older(a, b *networking.VirtualService) bool {
	if b.CreationTimestamp.IsZero() {
		return true
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return cmp.Compare(a.Name+"."+a.Namespace, b.Name+"."+b.Namespace) < 0
}

// takesFirst says whether another VirtualService has a match that one of the release's routes has: a gateway has the
// routes of both, and the older one's are asked first.
func (s subsets) takesFirst(ours, other *networking.VirtualService) bool {
	for _, r := range s.Manifests.Routes(ours) {
		for _, http := range other.Spec.Http {
			for _, a := range matchesOf(ours.Spec.Http[r.HTTP]) {
				if slices.ContainsFunc(matchesOf(http), func(b *networkingapi.HTTPMatchRequest) bool {
					return proto.Equal(a, b) || everything(a) && everything(b)
				}) {
					return true
				}
			}
		}
	}
	return false
}

func matchesOf(http *networkingapi.HTTPRoute) []*networkingapi.HTTPMatchRequest {
	if len(http.Match) == 0 {
		return []*networkingapi.HTTPMatchRequest{{}}
	}
	return http.Match
}

// everything says whether a match leaves nothing to others.
func everything(m *networkingapi.HTTPMatchRequest) bool {
	rest := proto.Clone(m).(*networkingapi.HTTPMatchRequest)
	if rest.Name = ""; rest.GetUri().GetPrefix() == "/" {
		rest.Uri = nil
	}
	return proto.Equal(rest, &networkingapi.HTTPMatchRequest{})
}

// checkSeen refuses objects that the callers do not see: hidden by exportTo, or behind another DestinationRule for the
// host. Istio looks for one in the caller's namespace, then in the Service's, then in its root namespace; of two in one
// namespace it takes the subsets of both, the older one's first.
func (s subsets) checkSeen(ctx context.Context, m mesh, route *networking.VirtualService, rule *networking.DestinationRule, primary *appsv1.Deployment) error {
	var others []*networking.DestinationRule
	for _, other := range m.rules {
		if other == m.rule || !s.isOwnHost(other) {
			continue
		}
		if other.Namespace != rule.Namespace {
			others = append(others, other)
		} else if m.rule == nil || other.CreationTimestamp.Before(&m.rule.CreationTimestamp) {
			if err := s.checkOlderRule(other, primary); err != nil {
				return err
			}
		}
	}
	restricted := len(route.Spec.ExportTo) > 0 || len(rule.Spec.ExportTo) > 0
	if !restricted && len(others) == 0 {
		return nil
	}
	callers := s.gatewayNamespaces(ctx, route)
	for _, namespace := range sets.List(callers) {
		for _, o := range []struct {
			object   object
			home     string
			exportTo []string
		}{{s.virtualService(), route.Namespace, route.Spec.ExportTo}, {s.destinationRule(), rule.Namespace, rule.Spec.ExportTo}} {
			if !exported(o.exportTo, o.home, namespace) {
				return &usererr.Error{
					Field:   o.object.String() + ": spec.exportTo",
					Problem: fmt.Sprintf("%v hides it from namespace %s, where the pods of its gateway are: the release's weights would have no effect", o.exportTo, namespace),
					Fix:     fmt.Sprintf("add %q, or remove exportTo", namespace),
				}
			}
		}
	}
	for _, other := range others {
		if !callers.Has(other.Namespace) {
			s.log("mesh", "DestinationRule %s/%s is for the app's host too: callers in that namespace keep to it, and not to %s", other.Namespace, other.Name, s.destinationRule())
			continue
		}
		if err := s.checkOlderRule(other, primary); err != nil {
			return err
		}
		for _, track := range tracks {
			if !manifest.HasSubset(other, track) {
				return &usererr.Error{
					Field:   fmt.Sprintf("DestinationRule %s/%s", other.Namespace, other.Name),
					Problem: fmt.Sprintf("the app's gateway, which has its pods in that namespace, takes it instead of %s, and it has no subset %s", s.destinationRule(), track),
					Fix:     fmt.Sprintf("delete it, or give it the subsets primary and canary, by the label %s", manifest.TrackLabel),
				}
			}
		}
	}
	return nil
}

// isOwnHost says whether a DestinationRule is for the app's Service.
func (s subsets) isOwnHost(rule *networking.DestinationRule) bool {
	if !strings.Contains(rule.Spec.Host, ".") {
		return rule.Spec.Host == s.Manifests.Service.Name && rule.Namespace == s.Namespace
	}
	return s.Manifests.IsHost(rule.Spec.Host, s.Namespace)
}

// checkOlderRule refuses a DestinationRule whose subsets come before the release's and select other pods.
func (s subsets) checkOlderRule(other *networking.DestinationRule, primary *appsv1.Deployment) error {
	err := s.checkSubsets(other, primary)
	if bad, ok := err.(*usererr.Error); ok { //nolint:errorlint // it is made just there
		bad.Field = fmt.Sprintf("DestinationRule %s/%s: spec.subsets", other.Namespace, other.Name)
		bad.Problem += fmt.Sprintf("; it is for the app's host too, and comes before %s", s.destinationRule())
	}
	return err
}

// exported says whether an object in a namespace is seen from another one.
func exported(to []string, home, from string) bool {
	return len(to) == 0 || slices.Contains(to, "*") || slices.Contains(to, from) || slices.Contains(to, ".") && home == from
}

// gatewayNamespaces are those that the pods of a VirtualService's gateways are in, as far as that can be read.
func (s subsets) gatewayNamespaces(ctx context.Context, route *networking.VirtualService) sets.Set[string] {
	namespaces := sets.New[string]()
	for _, full := range sets.List(gatewaysOf(route)) {
		namespace, name, found := strings.Cut(full, "/")
		if !found { // sidecars are everywhere: the app's own namespace stands for them
			namespaces.Insert(s.Namespace)
			continue
		}
		selects := labels.Set(nil)
		gateway, err := look[*networking.Gateway](ctx, s.job, s.gateway(namespace, name))
		if gateway != nil {
			selects = gateway.Spec.Selector
		}
		for _, own := range s.Manifests.Gateways {
			if gateway == nil && own.Name == name {
				selects = own.Spec.Selector
			}
		}
		if err == nil && len(selects) > 0 {
			list, failed := s.Kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{LabelSelector: selects.String()})
			if err = failed; err == nil {
				for _, pod := range list.Items {
					namespaces.Insert(pod.Namespace)
				}
				continue
			}
		}
		if err != nil {
			s.log("mesh", "where the pods of gateway %s are cannot be read: that they see the app's objects is not checked: %v", full, err)
		}
	}
	return namespaces
}
