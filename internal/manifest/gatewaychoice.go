package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// The routers: what leads the traffic to the tracks.
const (
	RouterVirtualService = "virtualservice" // a VirtualService, by the subsets of a DestinationRule
	RouterHTTPRoute      = "httproute"      // an HTTPRoute or a GRPCRoute, by a Service for each track
)

var bothTracks = []release.Track{release.Primary, release.Canary}

// router finds what leads to the app: a VirtualService, or a route of the Gateway API.
func (c *choice) router() error {
	router := c.r.Router
	var route *Object
	if router != RouterVirtualService {
		var err error
		if route, err = c.gatewayRoute(); err != nil {
			return err
		}
	}
	switch vs := c.leading(); {
	case router == RouterHTTPRoute && route == nil:
		return &usererr.Error{Field: "router", Problem: "it is httproute, and no HTTPRoute or GRPCRoute leads to Service " + c.set.Service.Name, Fix: "add one that does, in the app's namespace, or leave router out"}
	case router == "" && route != nil && vs != nil:
		return &usererr.Error{
			Field: "router", Problem: fmt.Sprintf("%s and %s both lead to Service %s: which of them a release changes is not known", vs, route, c.set.Service.Name),
			Fix: "say router: virtualservice or router: httproute (--router), or remove one of them; `crossbill migrate` takes an app from the first to the second",
		}
	case router == "" && route != nil:
		router = RouterHTTPRoute
	}
	if router == RouterHTTPRoute {
		return c.takeGatewayRoute(route)
	}
	c.set.Tracks = nil
	if err := c.destinationRule(); err != nil {
		return err
	}
	return c.virtualService()
}

// leading is a VirtualService that leads to the app's Service; nil for none.
func (c *choice) leading() *Object {
	for _, o := range c.of("VirtualService") {
		if vs := c.decoded(o); vs != nil && (len(c.set.Routes(vs)) > 0 || c.names(vs)) {
			return o
		}
	}
	return nil
}

// isGatewayRoute says whether an object is a route of the Gateway API, of whichever kind.
func isGatewayRoute(o *Object) bool {
	return o.Group == GatewayGroup && strings.HasSuffix(o.Kind, "Route")
}

// gatewayRoute is the HTTPRoute or GRPCRoute that leads to the app; nil for none.
func (c *choice) gatewayRoute() (*Object, error) {
	s := c.set
	if err := c.trackServices(); err != nil {
		return nil, err
	}
	var split, named []*Object
	for i := range c.r.Objects {
		o := &c.r.Objects[i]
		if !isGatewayRoute(o) {
			continue
		}
		raw := &unstructured.Unstructured{}
		if raw.UnmarshalJSON(o.Raw) != nil {
			continue
		}
		g, err := ReadGatewayRoute(raw)
		if err != nil {
			if o.Kind == "HTTPRoute" || o.Kind == "GRPCRoute" {
				return nil, o.problem(plain(err))
			}
			continue
		}
		if !c.leadsHere(g) {
			continue
		}
		switch own := s.Service.Namespace; {
		case o.Kind != "HTTPRoute" && o.Kind != "GRPCRoute":
			return nil, o.problem(fmt.Sprintf("%s leads to Service %s: a %s has no requests whose answers could be judged; let an HTTPRoute or a GRPCRoute lead there, or take the Service out of it", o, s.Service.Name, o.Kind))
		case own != "" && o.Namespace != "" && o.Namespace != own:
			return nil, o.problem(fmt.Sprintf("%s leads to Service %s from another namespace: a release changes routes of the app's own namespace alone; move it there", o, s.Service.Name))
		case len(s.Rules(g)) > 0:
			split = append(split, o)
		default:
			named = append(named, o)
		}
	}
	switch {
	case len(split) == 1:
		return split[0], nil
	case len(split) > 1:
		return nil, split[1].problem(fmt.Sprintf("%s leads to both tracks too, after %s: a release changes one; join them, with the parentRefs of both", split[1], split[0]))
	case len(named) > 1:
		return nil, named[1].problem(fmt.Sprintf("%s and %s lead to Service %s, and neither names the Services of both tracks: give the one that is to be split both backendRefs, %s with weight 100 and %s with weight 0", named[0], named[1], s.Service.Name, s.Tracks[release.Primary].Name, s.Tracks[release.Canary].Name))
	case len(named) == 1:
		return named[0], nil
	}
	return nil, nil
}

// leadsHere says whether a route leads to the app's Service or to a track's.
func (c *choice) leadsHere(g *GatewayRoute) bool {
	for i := range g.Rules {
		if c.set.LeadsToApex(g, i) || c.set.LeadsTo(g, i, release.Primary) || c.set.LeadsTo(g, i, release.Canary) {
			return true
		}
	}
	return false
}

// ofTrack is the track whose pods alone a Service of the source selects; "" for none. A Service is primary's where there is
// another one of its name without the track: the app's own may select primary alone as well.
func (c *choice) ofTrack(o *Object) release.Track {
	v := viewOf(o)
	switch release.Track(v.selects()[TrackLabel]) {
	case release.Canary:
		return release.Canary
	case release.Primary:
		apex, ok := strings.CutSuffix(o.Name, "-"+string(release.Primary))
		if ok && slices.ContainsFunc(c.of("Service"), func(other *Object) bool { return other.Name == apex }) || c.besideCanary(o.Name) {
			return release.Primary
		}
	}
	return ""
}

// besideCanary says whether a rule of a route names a Service beside one that selects the canary alone.
func (c *choice) besideCanary(name string) bool {
	canaries := map[string]bool{}
	for _, o := range c.of("Service") {
		if v := viewOf(o); v.selects()[TrackLabel] == string(release.Canary) {
			canaries[o.Name] = true
		}
	}
	for i := range c.r.Objects {
		if !isGatewayRoute(&c.r.Objects[i]) {
			continue
		}
		for _, rule := range viewOf(&c.r.Objects[i]).Spec.Rules {
			names, beside := false, false
			for _, ref := range rule.BackendRefs {
				names, beside = names || ref.Name == name, beside || canaries[ref.Name]
			}
			if names && beside {
				return true
			}
		}
	}
	return false
}

// trackServices finds the Services of the tracks, or derives them from the app's own.
func (c *choice) trackServices() error {
	s := c.set
	s.Tracks, c.tracks = map[release.Track]*corev1.Service{}, map[release.Track]*Object{}
	pods := s.Deployment.Spec.Template.Labels
	for _, o := range c.of("Service") {
		v := viewOf(o)
		track := c.ofTrack(o)
		if track == "" || o.Name == s.Service.Name || !covers(v.selects(), pods) {
			continue
		}
		if other := c.tracks[track]; other != nil {
			return o.problem(fmt.Sprintf("Services %s and %s both select the pods of the %s alone: keep one", other.Name, o.Name, track))
		}
		var service *corev1.Service
		if err := read(&service, o, nil); err != nil {
			return err
		}
		s.Tracks[track], c.tracks[track] = service, o
	}
	for _, track := range bothTracks {
		if s.Tracks[track] == nil {
			s.Tracks[track] = trackService(s.Service, track)
		}
	}
	return nil
}

// trackService is the Service of a track, made from the app's: the same ports over the pods of the track alone, inside of the
// cluster. It has none of its labels and annotations but the mesh's: what selects the app's Service by them, to scrape it for
// example, is not to find its pods a second time.
func trackService(apex *corev1.Service, track release.Track) *corev1.Service {
	service := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: apex.Name + "-" + string(track), Namespace: apex.Namespace, Labels: ofMesh(apex.Labels), Annotations: ofMesh(apex.Annotations)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: maps.Clone(apex.Spec.Selector),
			IPFamilies: apex.Spec.IPFamilies, IPFamilyPolicy: apex.Spec.IPFamilyPolicy, InternalTrafficPolicy: apex.Spec.InternalTrafficPolicy, TrafficDistribution: apex.Spec.TrafficDistribution,
		},
	}
	service.Labels["app.kubernetes.io/managed-by"], service.Labels[TrackLabel] = "crossbill", string(track)
	if service.Spec.Selector == nil {
		service.Spec.Selector = map[string]string{}
	}
	service.Spec.Selector[TrackLabel] = string(track)
	for _, port := range apex.Spec.Ports {
		port.NodePort = 0
		service.Spec.Ports = append(service.Spec.Ports, port)
	}
	return service
}

// ofMesh are the labels or annotations that are the mesh's.
func ofMesh(all map[string]string) map[string]string {
	kept := map[string]string{}
	for key, value := range all {
		if domain, _, ok := strings.Cut(key, "/"); ok && (domain == "istio.io" || strings.HasSuffix(domain, ".istio.io")) {
			kept[key] = value
		}
	}
	return kept
}

// takeGatewayRoute makes a route the app's router.
func (c *choice) takeGatewayRoute(o *Object) error {
	s := c.set
	c.take(o)
	if err := checkName(o); err != nil {
		return o.problem(err.Error())
	}
	if err := c.checkVersion(o); err != nil {
		return err
	}
	route := &unstructured.Unstructured{}
	if err := route.UnmarshalJSON(o.Raw); err != nil {
		return o.problem(plain(err))
	}
	route.SetAPIVersion(GatewayGroup + "/v1")
	s.Route = route
	for track, own := range c.tracks {
		c.taken = append(c.taken, own)
		s.origins["Service "+s.Tracks[track].Name] = own.From
	}
	s.origins["Service "+s.Service.Name] = s.origins["Service"]
	for _, track := range bothTracks {
		name := s.Tracks[track].Name
		if c.tracks[track] != nil {
			continue
		}
		if i := slices.IndexFunc(c.r.Objects, func(o Object) bool { return o.Kind == "Service" && o.Group == "" && o.Name == name }); i >= 0 {
			return c.r.Objects[i].problem(fmt.Sprintf("Service %s has the name of the %s's, and does not select its pods alone: give it the selector of Service %s with %s: %s", name, track, s.Service.Name, TrackLabel, track))
		}
		s.origins["Service "+name] = s.origins["Service"]
		c.remark("Service %s is made, with the ports of %s, over the pods of the %s alone", name, s.Service.Name, track)
	}
	if s.Service.Spec.Selector[TrackLabel] == "" && len(s.Service.Spec.Selector) > 0 {
		s.Service.Spec.Selector[TrackLabel] = string(release.Primary)
		c.remark("Service %s selects primary alone, by %s: %s: whoever calls it past %s never gets the canary", s.Service.Name, TrackLabel, release.Primary, o)
	}
	if err := withDefaults(route); err != nil {
		return o.problem(plain(err))
	}
	return c.splitRules(o)
}

// checkVersion refuses a route of a version that no longer is, and finds fields that the Gateway API does not have: the API
// server would drop them without a word.
func (c *choice) checkVersion(o *Object) error {
	if err := o.unrendered(); err != nil {
		return err
	}
	switch {
	case o.Version == "v1":
	case o.Version == "v1beta1" && o.Kind == "HTTPRoute":
		c.remark("%s is read as %s/v1", o, GatewayGroup)
	default:
		return o.problem(fmt.Sprintf("apiVersion %s/%s of %s is not served any more: use %s/v1", o.Group, o.Version, o, GatewayGroup))
	}
	var typed any = &gateway.HTTPRoute{}
	if o.Kind == "GRPCRoute" {
		typed = &gateway.GRPCRoute{}
	}
	unknown, err := kjson.UnmarshalStrict(o.Raw, typed)
	if err == nil && len(unknown) > 0 {
		err = unknown[0]
	}
	if err != nil {
		return o.unreadable(err)
	}
	return nil
}

// splitRules gives both tracks to the rules that lead to the app's Service alone.
func (c *choice) splitRules(o *Object) error {
	s := c.set
	g, err := ReadGatewayRoute(s.Route)
	if err != nil {
		return o.problem(plain(err))
	}
	rules, _, err := unstructured.NestedSlice(s.Route.Object, "spec", "rules")
	if err != nil {
		return o.problem(plain(err))
	}
	for i := range g.Rules {
		if len(g.Rules[i].Backends) != 1 || !s.LeadsToApex(g, i) {
			continue
		}
		rule := rules[i].(map[string]any) // it was read as one
		rule["backendRefs"] = s.SplitBackend(rule["backendRefs"].([]any)[0].(map[string]any))
		c.remark("%s: spec.rules[%d] gets both tracks, primary with weight 100", o, i)
	}
	return unstructured.SetNestedSlice(s.Route.Object, rules, "spec", "rules")
}

// checkRoute finds what does not fit together of a route of the Gateway API and the Services that it leads to.
func (s *Set) checkRoute() error {
	if s.Route == nil {
		return nil
	}
	kind, name := s.Route.GetKind(), s.Route.GetName()
	problem := func(field, problem, fix string) error { return s.problem(kind, name, field, problem, fix) }
	if in, own := s.Route.GetNamespace(), s.Service.Namespace; in != "" && own != "" && in != own {
		return problem("metadata.namespace", fmt.Sprintf("it is in namespace %s, and Service %s in %s", in, s.Service.Name, own), "move it there: a release changes routes of the app's own namespace alone")
	}
	g, err := ReadGatewayRoute(s.Route)
	if err != nil {
		return problem("spec", plain(err), "correct it")
	}
	if err := s.checkParents(g); err != nil {
		return err
	}
	for _, track := range bothTracks {
		if err := s.checkTrackService(track, s.Tracks[track]); err != nil {
			return err
		}
	}
	primary, canary := s.Tracks[release.Primary].Name, s.Tracks[release.Canary].Name
	rules := s.Rules(g)
	if len(rules) == 0 {
		return problem("spec.rules", fmt.Sprintf("no rule leads to %s and %s", primary, canary), fmt.Sprintf("give one rule both backendRefs: %s with weight 100, %s with weight 0", primary, canary))
	}
	for i := range g.Rules {
		field := fmt.Sprintf("spec.rules[%d]", i)
		at := slices.IndexFunc(rules, func(r Route) bool { return r.HTTP == i })
		switch apex := s.LeadsToApex(g, i); {
		case at < 0 && s.LeadsTo(g, i, release.Canary):
			return problem(field+".backendRefs", fmt.Sprintf("it leads to %s past the weights", canary), fmt.Sprintf("give the rule %s and %s, each once; `crossbill canary --match` leads testers to the canary", primary, canary))
		case apex && (at >= 0 || len(g.Rules[i].Backends) > 1):
			return problem(field+".backendRefs", fmt.Sprintf("it leads to Service %s beside others", s.Service.Name), fmt.Sprintf("name %s with its weight and %s with weight 0 in its place", primary, canary))
		case at < 0:
			continue
		}
		if w := g.Weights(rules[at]); w.Primary != 100 || w.Canary != 0 {
			return problem(field+".backendRefs", fmt.Sprintf("the weights are %d/%d", w.Primary, w.Canary), "write the weights without a release: primary 100, canary 0")
		}
		if g.Rules[i].SessionPersistence != nil {
			return problem(field+".sessionPersistence", "Istio does not carry it out (GEP-1619 is experimental), and says nothing of it", "leave it out; canary.sticky keeps a browser on the version that answered it first")
		}
		if err := s.checkPorts(field, &g.Rules[i], rules[at]); err != nil {
			return err
		}
	}
	return nil
}

// checkParents refuses a route that nothing leads to, or whose callers in the mesh are another Service's.
func (s *Set) checkParents(g *GatewayRoute) error {
	problem := func(problem, fix string) error {
		return s.problem(s.Route.GetKind(), s.Route.GetName(), "spec.parentRefs", problem, fix)
	}
	if len(g.Parents) == 0 {
		return problem("is missing: no gateway would take the route", "name the Gateway, or Service "+s.Service.Name+" for callers in the mesh")
	}
	for _, p := range g.Parents {
		in := string(deref(p.Namespace, gateway.Namespace(s.Service.Namespace)))
		if deref(p.Group, gateway.GroupName) != "" || deref(p.Kind, "Gateway") != "Service" || s.MeshParent(p) && (s.Service.Namespace == "" || in == s.Service.Namespace) {
			continue
		}
		return problem(fmt.Sprintf("Service %s is not the app's", p.Name), "name Service "+s.Service.Name+", whose callers in the mesh then come by this route, or leave it out")
	}
	return nil
}

// checkTrackService refuses a Service of a track that does not lead to its pods, or also to those that are not ready.
func (s *Set) checkTrackService(track release.Track, service *corev1.Service) error {
	problem := func(field, problem, fix string) error { return s.problem("Service", service.Name, field, problem, fix) }
	const longest = 63
	switch {
	case len(service.Name) > longest:
		return problem("metadata.name", fmt.Sprintf("it has %d characters, and a Service's name has at most %d", len(service.Name), longest), "give the app's Service a shorter name, or add the tracks' Services")
	case service.Spec.Selector[TrackLabel] != string(track):
		return problem("spec.selector", fmt.Sprintf("it does not select the %s alone", track), fmt.Sprintf("add %s: %s", TrackLabel, track))
	case service.Spec.ClusterIP == corev1.ClusterIPNone || service.Spec.Type == corev1.ServiceTypeExternalName:
		return problem("spec.clusterIP", "a route needs a Service with an address in the cluster", "leave clusterIP out")
	case service.Spec.PublishNotReadyAddresses:
		return problem("spec.publishNotReadyAddresses", "pods that are not ready would get traffic", "leave it out")
	case service.Namespace != "" && s.Service.Namespace != "" && service.Namespace != s.Service.Namespace:
		return problem("metadata.namespace", fmt.Sprintf("it is in namespace %s, and Service %s in %s", service.Namespace, s.Service.Name, s.Service.Namespace), "move it there")
	}
	pods := s.podLabels(track)
	for _, key := range slices.Sorted(maps.Keys(service.Spec.Selector)) {
		if value := service.Spec.Selector[key]; pods[key] != value {
			return problem("spec.selector", fmt.Sprintf("%s: %s does not match the pods of the %s", key, value, track), "make them equal")
		}
	}
	return nil
}

// checkPorts refuses backends of ports that their Services lack, which nobody says an error of: the route is accepted, and its
// callers get 500. A port of another protocol is accepted as well.
func (s *Set) checkPorts(field string, rule *GatewayRule, r Route) error {
	for _, track := range bothTracks {
		at := map[release.Track]int{release.Primary: r.Primary, release.Canary: r.Canary}[track]
		service, number := s.Tracks[track], deref(rule.Backends[at].Port, 0)
		i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == int32(number) })
		if i < 0 {
			return s.problem(s.Route.GetKind(), s.Route.GetName(), fmt.Sprintf("%s.backendRefs[%d].port", field, at), fmt.Sprintf("Service %s has no port %d", service.Name, number), "name a port of the Service")
		}
		if port := service.Spec.Ports[i]; s.Route.GetKind() == "GRPCRoute" && !speaksGRPC(port) {
			return s.problem("Service", service.Name, "spec.ports", fmt.Sprintf("port %d is named %q: a mesh takes it for HTTP/1.1, and every call of GRPCRoute %s would fail", port.Port, port.Name, s.Route.GetName()), "name it grpc, or give it appProtocol: kubernetes.io/h2c")
		}
	}
	return nil
}
