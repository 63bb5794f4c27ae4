package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/our-org/crossbill/internal/release"
)

// IsHost says whether an Istio host is the app's Service, by its short or its full name. namespace is the
// namespace of the object that names it.
func (s *Set) IsHost(host, namespace string) bool {
	own := s.Service.Namespace
	if own == "" { // the manifests leave it open: it is beside what names it
		own = namespace
	}
	if host == s.Service.Name {
		return namespace == "" || namespace == own
	}
	short, rest, _ := strings.Cut(host, ".")
	ns, domain, _ := strings.Cut(rest, ".")
	if short != s.Service.Name || (domain != "" && domain != "svc" && !strings.HasPrefix(domain, "svc.")) {
		return false
	}
	return own == "" || ns == own
}

// Unsplit are the places of a VirtualService that lead to the app's Service without a subset.
func (s *Set) Unsplit(vs *networking.VirtualService) (places []string) {
	leads := func(d *networkingapi.Destination) bool {
		return d != nil && d.Subset == "" && s.IsHost(d.Host, vs.Namespace)
	}
	for i, http := range vs.Spec.Http {
		if slices.ContainsFunc(http.Route, func(r *networkingapi.HTTPRouteDestination) bool { return leads(r.Destination) }) {
			places = append(places, fmt.Sprintf("spec.http[%d].route", i))
		}
	}
	for i, tcp := range vs.Spec.Tcp {
		if slices.ContainsFunc(tcp.Route, func(r *networkingapi.RouteDestination) bool { return leads(r.Destination) }) {
			places = append(places, fmt.Sprintf("spec.tcp[%d].route", i))
		}
	}
	for i, tls := range vs.Spec.Tls {
		if slices.ContainsFunc(tls.Route, func(r *networkingapi.RouteDestination) bool { return leads(r.Destination) }) {
			places = append(places, fmt.Sprintf("spec.tls[%d].route", i))
		}
	}
	return places
}

// MeshGateway stands for the sidecars of all callers.
const MeshGateway = "mesh"

// PastMesh says why a VirtualService does not split what callers in the mesh send to the app's Service; "" when it does.
func (s *Set) PastMesh(vs *networking.VirtualService) string {
	if gateways := vs.Spec.Gateways; len(gateways) > 0 && !slices.Contains(gateways, MeshGateway) {
		return "its gateways lack `" + MeshGateway + "`"
	}
	if !slices.ContainsFunc(vs.Spec.Hosts, func(host string) bool { return s.IsHost(host, vs.Namespace) || s.matchesHost(host, vs.Namespace) }) {
		return "its hosts lack the Service, " + s.Service.Name
	}
	inMesh := func(match *networkingapi.HTTPMatchRequest) bool {
		return len(match.Gateways) == 0 || slices.Contains(match.Gateways, MeshGateway)
	}
	routes := s.Routes(vs)
	if len(routes) > 0 && !slices.ContainsFunc(routes, func(r Route) bool {
		matches := vs.Spec.Http[r.HTTP].Match
		return len(matches) == 0 || slices.ContainsFunc(matches, inMesh)
	}) {
		return "its routes of both tracks match only other gateways than `" + MeshGateway + "`"
	}
	return ""
}

// matchesHost says whether a host with a wildcard, such as *.production.svc.cluster.local, has the app's Service.
func (s *Set) matchesHost(host, namespace string) bool {
	if own := s.Service.Namespace; own != "" {
		namespace = own
	}
	suffix, wild := strings.CutPrefix(host, "*")
	if !wild {
		return false
	}
	if namespace == "" { // where the Service will be is not known
		return strings.Contains(suffix, ".svc.")
	}
	return strings.HasSuffix(s.Service.Name+"."+namespace+".svc.cluster.local", suffix)
}

// HasSubset says whether a DestinationRule has the subset of a track.
func HasSubset(rule *networking.DestinationRule, track release.Track) bool {
	return slices.ContainsFunc(rule.Spec.Subsets, func(s *networkingapi.Subset) bool {
		return s.Name == string(track) && s.Labels[TrackLabel] == string(track)
	})
}

// Lacking is a label that a subset asks for and the pods of its track do not have, as "key: value"; "" for none.
func (s *Set) Lacking(rule *networking.DestinationRule, track release.Track, pods map[string]string) string {
	for _, subset := range rule.Spec.Subsets {
		if subset.Name != string(track) {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(subset.Labels)) {
			if pods[key] != subset.Labels[key] {
				return key + ": " + subset.Labels[key]
			}
		}
	}
	return ""
}

// What the names of the http routes begin with that a release adds and removes: for testers, for what is mirrored, and to
// keep browsers on a version.
const (
	MatchPrefix  = "crossbill-match-"
	MirrorPrefix = "crossbill-mirror-"
	StickyPrefix = "crossbill-sticky-"
)

// Generated says whether an http route is one that a release adds and removes, by its name.
func Generated(name string) bool {
	return strings.HasPrefix(name, MatchPrefix) || strings.HasPrefix(name, MirrorPrefix) || strings.HasPrefix(name, StickyPrefix)
}

// Route locates an http route that a release changes, by its index and the indexes of its two destinations.
type Route struct{ HTTP, Primary, Canary int }

// Routes finds the http routes that a release may change: those that name both subsets of the app's Service and
// nothing else.
func (s *Set) Routes(vs *networking.VirtualService) []Route {
	var routes []Route
	for i, http := range vs.Spec.Http {
		r := Route{HTTP: i, Primary: -1, Canary: -1}
		for j, destination := range http.Route {
			if destination.Destination == nil || !s.IsHost(destination.Destination.Host, vs.Namespace) {
				continue
			}
			switch destination.Destination.Subset {
			case string(release.Primary):
				r.Primary = j
			case string(release.Canary):
				r.Canary = j
			}
		}
		if len(http.Route) == 2 && r.Primary >= 0 && r.Canary >= 0 {
			routes = append(routes, r)
		}
	}
	return routes
}

// RoutePorts are the ports of the app's Service that http routes lead to, by the route's index.
func (s *Set) RoutePorts(vs *networking.VirtualService) map[int]uint32 {
	ports := map[int]uint32{}
	if vs == nil {
		return ports
	}
	for i, http := range vs.Spec.Http {
		for _, d := range http.Route {
			if number := d.GetDestination().GetPort().GetNumber(); number > 0 && s.IsHost(d.Destination.Host, vs.Namespace) {
				ports[i] = number
			}
		}
	}
	return ports
}

// Named says whether any http route leads to a track's subset of the app's Service.
func (s *Set) Named(vs *networking.VirtualService, track release.Track) bool {
	return slices.ContainsFunc(vs.Spec.Http, func(http *networkingapi.HTTPRoute) bool {
		return slices.ContainsFunc(http.Route, func(r *networkingapi.HTTPRouteDestination) bool {
			return r.Destination != nil && r.Destination.Subset == string(track) && s.IsHost(r.Destination.Host, vs.Namespace)
		})
	})
}

// WeightPair is the weights of a route, in percent.
type WeightPair struct {
	Primary int32 `json:"primary"`
	Canary  int32 `json:"canary"`
}

// Weights reads a route's weights.
func Weights(vs *networking.VirtualService, r Route) WeightPair {
	route := vs.Spec.Http[r.HTTP].Route
	return WeightPair{Primary: route[r.Primary].Weight, Canary: route[r.Canary].Weight}
}
