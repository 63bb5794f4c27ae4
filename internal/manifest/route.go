package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// virtualService finds the VirtualService whose routes a release changes, or makes it where that is safe.
func (c *choice) virtualService() error {
	s := c.set
	all := c.of("VirtualService")
	var split, named []int // those with a route of both tracks, and those that name the Service
	for i, o := range all {
		vs := c.decoded(o)
		if vs != nil && len(s.Routes(vs)) > 0 {
			split = append(split, i)
		}
		if vs != nil && c.names(vs) {
			named = append(named, i)
		}
	}
	var chosen int
	switch {
	case len(split) == 1:
		chosen = split[0]
	case len(split) > 1:
		return all[split[1]].problem(fmt.Sprintf("VirtualService %s has a route of both tracks too, after %s: a release changes one; join them, with the hosts and gateways of both", all[split[1]].Name, all[split[0]].Name))
	case len(named) == 1:
		chosen = named[0]
	case len(named) > 1:
		return all[named[1]].problem(fmt.Sprintf("VirtualServices %s and %s lead to Service %s, and none has a route of both tracks: give the one that is to be split both destinations", all[named[0]].Name, all[named[1]].Name, s.Service.Name))
	case len(all) == 1: // the check says what is wrong with it
		chosen = 0
	case len(all) == 0:
		return c.makeVirtualService()
	default:
		return c.missing("VirtualService that leads to Service "+s.Service.Name, "")
	}
	if err := read(&s.VirtualService, c.take(all[chosen]), &networkingapi.VirtualService{}); err != nil {
		return err
	}
	if len(split) == 0 {
		c.splitRoutes()
	}
	if why := s.PastMesh(s.VirtualService); why != "" && len(s.Routes(s.VirtualService)) > 0 {
		c.remark("VirtualService %s does not route callers in the mesh: %s; they reach a canary by its share of the pods, at any weight: add the gateway `%s` and the host %s", s.VirtualService.Name, why, MeshGateway, s.hostFrom(s.VirtualService.Namespace))
	}
	return nil
}

// hostFrom is the Service's name as an object in a namespace has to write it.
func (s *Set) hostFrom(namespace string) string {
	if own := s.Service.Namespace; own != "" && own != namespace {
		return s.Service.Name + "." + own + ".svc.cluster.local"
	}
	return s.Service.Name
}

// decoded is a VirtualService that can be read; nil for another one.
func (c *choice) decoded(o *Object) *networking.VirtualService {
	var vs *networking.VirtualService
	if err := decode(&vs, o.Raw, &networkingapi.VirtualService{}); err != nil {
		return nil
	}
	return vs
}

// names says whether a VirtualService leads to the app's Service, in whichever way.
func (c *choice) names(vs *networking.VirtualService) bool {
	return slices.ContainsFunc(vs.Spec.Http, func(http *networkingapi.HTTPRoute) bool {
		return slices.ContainsFunc(http.Route, func(d *networkingapi.HTTPRouteDestination) bool {
			return d.Destination != nil && c.set.IsHost(d.Destination.Host, vs.Namespace)
		})
	})
}

// splitRoutes gives both tracks to the routes that lead to the Service alone and name no subset: a chart's, which does not
// know of tracks. One that names a subset was meant in another way.
func (c *choice) splitRoutes() {
	s := c.set
	vs := s.VirtualService
	for _, http := range vs.Spec.Http {
		for _, d := range http.Route {
			if d.Destination != nil && s.IsHost(d.Destination.Host, vs.Namespace) && (d.Destination.Subset != "" || len(http.Route) > 1) {
				return
			}
		}
	}
	for i, http := range vs.Spec.Http {
		if len(http.Route) != 1 || http.Route[0].Destination == nil || !s.IsHost(http.Route[0].Destination.Host, vs.Namespace) {
			continue
		}
		primary := http.Route[0]
		canary := primary.DeepCopy()
		primary.Destination.Subset, primary.Weight = string(release.Primary), 100
		canary.Destination.Subset, canary.Weight = string(release.Canary), 0
		http.Route = append(http.Route, canary)
		c.remark("VirtualService %s: spec.http[%d] gets both tracks, primary with weight 100", vs.Name, i)
	}
}

// backend is a Service that a path of an Ingress, or of a route of the Gateway API, leads to.
type backend struct {
	host, path, service string
	port                int32
	portName            string
}

// backends are those of an Ingress, or of a route of the Gateway API.
func (c *choice) backends(o *Object) (found []backend) {
	v := viewOf(o)
	if d := v.Spec.Default.Service; d.Name != "" {
		found = append(found, backend{service: d.Name, port: d.Port.Number, portName: d.Port.Name})
	}
	for _, rule := range v.Spec.Rules {
		for _, path := range rule.HTTP.Paths {
			to := path.Backend.Service
			found = append(found, backend{rule.Host, path.Path, to.Name, to.Port.Number, to.Port.Name})
		}
		paths := []string{""}
		if len(rule.Matches) > 0 {
			paths = nil
		}
		for _, match := range rule.Matches {
			if match.Path == nil {
				paths = append(paths, "")
				continue
			}
			paths = append(paths, match.Path.Value)
		}
		hosts := v.Spec.Hostnames
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, ref := range rule.BackendRefs {
			for _, path := range paths {
				for _, host := range hosts {
					found = append(found, backend{host: host, path: path, service: ref.Name, port: ref.Port})
				}
			}
		}
	}
	return found
}

// exposed is what an Ingress, or a route of the Gateway API, says of the app's Service.
type exposed struct {
	by    []string // these objects
	hosts []string
	port  int32
	more  string // what a VirtualService for these hosts would leave out; "" for nothing
}

func (c *choice) exposed() (e exposed) {
	s := c.set
	for i := range c.r.Objects {
		o := &c.r.Objects[i]
		if o.Kind != "Ingress" && o.Kind != "HTTPRoute" && o.Kind != "GRPCRoute" {
			continue
		}
		all := c.backends(o)
		if !slices.ContainsFunc(all, func(b backend) bool { return b.service == s.Service.Name }) {
			continue
		}
		e.by = append(e.by, o.String())
		for _, b := range all {
			switch {
			case b.service != s.Service.Name:
				e.more = fmt.Sprintf("%s leads to Service %s as well", o, b.service)
			case b.path != "" && b.path != "/":
				e.more = fmt.Sprintf("%s leads there for the path %s", o, b.path)
			}
			if b.host != "" && !slices.Contains(e.hosts, b.host) {
				e.hosts = append(e.hosts, b.host)
			}
			for _, port := range s.Service.Spec.Ports {
				if b.service == s.Service.Name && (port.Name == b.portName && b.portName != "" || port.Port == b.port) {
					e.port = port.Port
				}
			}
		}
	}
	return e
}

// makeVirtualService makes the VirtualService for the gateway that was named, or says what is to be added.
func (c *choice) makeVirtualService() error {
	s, e := c.set, c.exposed()
	gateway, hosts := c.r.gateway, c.r.hosts
	if len(hosts) == 0 {
		hosts = e.hosts
	}
	if gateway != "" && len(hosts) > 0 && (e.more == "" || len(c.r.hosts) > 0) {
		s.VirtualService = c.route(gateway, hosts, e.port)
		s.origins["VirtualService"] = "render.gateway"
		c.r.Remarks = append(c.r.Remarks, fmt.Sprintf("VirtualService %s is made, for %s at gateway %s, and for callers in the mesh", s.Service.Name, strings.Join(hosts, ", "), gateway))
		if len(e.by) > 0 {
			c.r.Remarks = append(c.r.Remarks, fmt.Sprintf("what comes by %s is not split: it leads past the gateway", strings.Join(e.by, ", ")))
		}
		return nil
	}
	fix := "add one"
	switch {
	case gateway != "" && e.more != "":
		fix = e.more + ", so none is made; add one"
	case gateway != "":
		fix = "say in render.hosts for which hosts it is made, or add one"
	case len(e.by) > 0:
		fix = fmt.Sprintf("%s names the hosts, but not through the mesh's gateway: name that in render.gateway, and it is made; or add one", strings.Join(e.by, ", "))
	}
	gateways := []string{"NAMESPACE/GATEWAY"}
	if own := c.of("Gateway"); gateway != "" {
		gateways = []string{gateway}
	} else if len(own) == 1 {
		gateways = []string{own[0].Name}
	}
	if len(hosts) == 0 {
		hosts = []string{"app.example.com"}
	}
	raw, err := json.Marshal(c.route(gateways[0], hosts, e.port))
	if err == nil {
		raw, err = withoutServers(raw)
	}
	if err == nil {
		raw, err = yaml.JSONToYAML(raw)
	}
	if err != nil {
		return &usererr.Error{Field: c.r.path, Problem: err.Error()}
	}
	return c.missing("VirtualService", fix+":\n\n"+string(raw))
}

// route is the VirtualService over both tracks, for what comes by the gateway and for callers in the mesh.
func (c *choice) route(gateway string, hosts []string, port int32) *networking.VirtualService {
	s := c.set
	if !slices.Contains(hosts, s.Service.Name) {
		hosts = append(slices.Clone(hosts), s.Service.Name)
	}
	to := func(track release.Track, weight int32) *networkingapi.HTTPRouteDestination {
		d := &networkingapi.Destination{Host: s.Service.Name, Subset: string(track)}
		if ports := s.Service.Spec.Ports; len(ports) > 1 {
			number := port
			for _, p := range ports {
				if number == 0 && (strings.HasPrefix(p.Name, "http") || p.Port == 80) {
					number = p.Port
				}
			}
			if number == 0 {
				number = ports[0].Port
			}
			d.Port = &networkingapi.PortSelector{Number: uint32(number)}
		}
		return &networkingapi.HTTPRouteDestination{Destination: d, Weight: weight}
	}
	return &networking.VirtualService{
		TypeMeta:   metav1.TypeMeta{APIVersion: istioGroup + "/v1", Kind: "VirtualService"},
		ObjectMeta: metav1.ObjectMeta{Name: s.Service.Name, Namespace: s.Service.Namespace},
		Spec: networkingapi.VirtualService{
			Hosts: hosts, Gateways: []string{gateway, MeshGateway},
			Http: []*networkingapi.HTTPRoute{{Route: []*networkingapi.HTTPRouteDestination{to(release.Primary, 100), to(release.Canary, 0)}}},
		},
	}
}

// addRoute adds the VirtualService that is made where there is none: what is rendered is whole.
func (r *Rendered) addRoute() error {
	if r.gateway == "" || r.Router == RouterHTTPRoute || slices.ContainsFunc(r.Objects, func(o Object) bool { return o.Kind == "VirtualService" && own(&o) }) {
		return nil
	}
	s, err := r.Set()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(s.VirtualService)
	if err != nil {
		return &usererr.Error{Field: "render.gateway", Problem: err.Error()}
	}
	return r.add(Object{From: "render.gateway"}, raw)
}
