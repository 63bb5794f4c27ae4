package manifest

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/our-org/crossbill/internal/release"
)

// GatewayGroup is the API group of the Gateway API.
const GatewayGroup = gateway.GroupName

// GatewayRoute is what an HTTPRoute and a GRPCRoute have in common, as a release reads it.
type GatewayRoute struct {
	Namespace string
	Parents   []gateway.ParentReference
	Hosts     []string
	Rules     []GatewayRule
}

// GatewayRule is one rule of it. What is only carried from one rule to another is as it was read.
type GatewayRule struct {
	Name               string           `json:"name"`
	Matches            []map[string]any `json:"matches"`
	Filters            []map[string]any `json:"filters"`
	Backends           []GatewayBackend `json:"backendRefs"`
	SessionPersistence *struct{}        `json:"sessionPersistence"`
}

// GatewayBackend is one backend of a rule.
type GatewayBackend struct {
	gateway.BackendRef `json:",inline"`
	Filters            []map[string]any `json:"filters"`
}

// ReadGatewayRoute reads what a release needs to know of an HTTPRoute or a GRPCRoute.
func ReadGatewayRoute(o *unstructured.Unstructured) (*GatewayRoute, error) {
	text, err := json.Marshal(o.Object["spec"])
	if err != nil {
		return nil, err
	}
	var spec struct {
		ParentRefs []gateway.ParentReference `json:"parentRefs"`
		Hostnames  []string                  `json:"hostnames"`
		Rules      []GatewayRule             `json:"rules"`
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("%s %s is not readable: %w", o.GetKind(), o.GetName(), err)
	}
	return &GatewayRoute{Namespace: o.GetNamespace(), Parents: spec.ParentRefs, Hosts: spec.Hostnames, Rules: spec.Rules}, nil
}

// Weigh is a backend's weight, which is 1 where none is written.
func (b *GatewayBackend) Weigh() int32 {
	if b.Weight == nil {
		return 1
	}
	return *b.Weight
}

// Weights reads a rule's weights.
func (g *GatewayRoute) Weights(r Route) WeightPair {
	backends := g.Rules[r.HTTP].Backends
	return WeightPair{Primary: backends[r.Primary].Weigh(), Canary: backends[r.Canary].Weigh()}
}

// deref is what a pointer points at, or another value for nil.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// isService says whether a backend is a Service beside the app's: one of another namespace is others'.
func (s *Set) isService(b *GatewayBackend, namespace string) bool {
	if deref(b.Group, "") != "" || deref(b.Kind, "Service") != "Service" {
		return false
	}
	in := string(deref(b.Namespace, gateway.Namespace(namespace)))
	if own := s.Service.Namespace; own != "" {
		return in == "" || in == own
	}
	return in == namespace // the manifests leave it open: it is beside what names it
}

// IsApex says whether a backend is the app's own Service.
func (s *Set) IsApex(b *GatewayBackend, namespace string) bool {
	return s.isService(b, namespace) && string(b.Name) == s.Service.Name
}

// IsTrack says whether a backend is the Service of a track.
func (s *Set) IsTrack(b *GatewayBackend, namespace string, track release.Track) bool {
	return s.Tracks[track] != nil && s.isService(b, namespace) && string(b.Name) == s.Tracks[track].Name
}

// Rules finds the rules that a release changes: those that name the Services of both tracks, each once. Beside them a rule may
// have backends of others, which keep their weights. Those that a release adds are not among them.
func (s *Set) Rules(g *GatewayRoute) (routes []Route) {
	for i := range g.Rules {
		if Generated(g.Rules[i].Name) {
			continue
		}
		r, names := Route{HTTP: i, Primary: -1, Canary: -1}, 0
		for j := range g.Rules[i].Backends {
			b := &g.Rules[i].Backends[j]
			switch {
			case s.IsTrack(b, g.Namespace, release.Primary):
				r.Primary = j
				names++
			case s.IsTrack(b, g.Namespace, release.Canary):
				r.Canary = j
				names++
			}
		}
		if names == 2 && r.Primary >= 0 && r.Canary >= 0 {
			routes = append(routes, r)
		}
	}
	return routes
}

// LeadsTo says whether a rule leads to the Service of a track, or has a filter that copies requests to it.
func (s *Set) LeadsTo(g *GatewayRoute, rule int, track release.Track) bool {
	return slices.ContainsFunc(g.Rules[rule].Backends, func(b GatewayBackend) bool { return s.IsTrack(&b, g.Namespace, track) })
}

// LeadsToApex says whether a rule leads to the app's own Service.
func (s *Set) LeadsToApex(g *GatewayRoute, rule int) bool {
	return slices.ContainsFunc(g.Rules[rule].Backends, func(b GatewayBackend) bool { return s.IsApex(&b, g.Namespace) })
}

// MeshParent says whether a parent of a route is the app's own Service: callers in the mesh then come by the route.
func (s *Set) MeshParent(p gateway.ParentReference) bool {
	return deref(p.Group, gateway.GroupName) == "" && deref(p.Kind, "Gateway") == "Service" && string(p.Name) == s.Service.Name
}

// speaksGRPC says whether a port of a Service is one of gRPC: a mesh takes what does not say so for HTTP/1.1, and every call fails.
func speaksGRPC(port corev1.ServicePort) bool {
	return slices.Contains([]string{"grpc", "grpc-web", "http2"}, protocolOf(port))
}

// withDefaults writes out what the API server fills in: tools that compare would take it for a change.
func withDefaults(route *unstructured.Unstructured) error {
	spec, _, err := unstructured.NestedMap(route.Object, "spec")
	if err != nil {
		return err
	}
	or := func(fields map[string]any, key string, value any) {
		if _, ok := fields[key]; !ok {
			fields[key] = value
		}
	}
	each := func(fields map[string]any, list string, do func(map[string]any)) {
		items, _ := fields[list].([]any)
		for _, item := range items {
			if fields, ok := item.(map[string]any); ok {
				do(fields)
			}
		}
	}
	reference := func(ref map[string]any) {
		or(ref, "group", "")
		or(ref, "kind", "Service")
	}
	filters := func(f map[string]any) {
		if mirror, ok := f["requestMirror"].(map[string]any); ok {
			if ref, ok := mirror["backendRef"].(map[string]any); ok {
				reference(ref)
			}
			if fraction, ok := mirror["fraction"].(map[string]any); ok {
				or(fraction, "denominator", int64(100))
			}
		}
		if redirect, ok := f["requestRedirect"].(map[string]any); ok {
			or(redirect, "statusCode", int64(302))
		}
		if cors, ok := f["cors"].(map[string]any); ok {
			or(cors, "maxAge", int64(5))
		}
	}
	each(spec, "parentRefs", func(p map[string]any) {
		or(p, "group", gateway.GroupName)
		or(p, "kind", "Gateway")
	})
	http := route.GetKind() == "HTTPRoute"
	each(spec, "rules", func(rule map[string]any) {
		if http {
			or(rule, "matches", []any{map[string]any{}})
		}
		each(rule, "matches", func(match map[string]any) {
			if http {
				or(match, "path", map[string]any{})
				if path, ok := match["path"].(map[string]any); ok {
					or(path, "type", "PathPrefix")
					or(path, "value", "/")
				}
			} else if method, ok := match["method"].(map[string]any); ok {
				or(method, "type", "Exact")
			}
			for _, list := range []string{"headers", "queryParams"} {
				each(match, list, func(m map[string]any) { or(m, "type", "Exact") })
			}
		})
		each(rule, "filters", filters)
		each(rule, "backendRefs", func(ref map[string]any) {
			reference(ref)
			or(ref, "weight", int64(1))
			each(ref, "filters", filters)
		})
	})
	return unstructured.SetNestedMap(route.Object, spec, "spec")
}

// SplitBackend is a backendRef of the app's Service as one for each track, at rest, with all else that it has.
func (s *Set) SplitBackend(ref map[string]any) (both []any) {
	for _, track := range bothTracks {
		of := runtime.DeepCopyJSON(ref)
		of["name"], of["weight"] = s.Tracks[track].Name, map[release.Track]int64{release.Primary: 100}[track]
		both = append(both, of)
	}
	return both
}
