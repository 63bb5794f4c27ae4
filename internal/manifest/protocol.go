package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
)

// protocolOf is the protocol that Istio takes a Service's port to speak, in lower case: of appProtocol, else of the name
// up to the first hyphen; "" if neither says one, so that the proxies look at the bytes. (istio/istio 1.31,
// pkg/config/kube/conversion.go, ConvertProtocol; pkg/config/protocol.)
func protocolOf(port corev1.ServicePort) string {
	if port.Protocol != "" && port.Protocol != corev1.ProtocolTCP {
		return strings.ToLower(string(port.Protocol))
	}
	name := port.Name
	if port.AppProtocol != nil {
		name = *port.AppProtocol
		switch name {
		case "kubernetes.io/h2c":
			return "http2"
		case "kubernetes.io/ws":
			return "http"
		case "kubernetes.io/wss":
			return "https"
		}
	}
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "grpc-web") {
		return "grpc-web"
	}
	name, _, _ = strings.Cut(name, "-")
	switch name {
	case "http", "http2", "grpc", "https", "tls", "hbone", "tcp", "udp", "mongo", "redis", "mysql":
		return name
	}
	if slices.Contains([]int32{25, 53, 3306, 27017}, port.Port) { // SMTP, DNS, MySQL and MongoDB: Istio looks at no byte
		return "tcp"
	}
	return ""
}

// opaque says whether the proxies see connections of a port and no requests. A port with TLS may be one that the proxies
// encrypt for, by a DestinationRule.
func opaque(port corev1.ServicePort) bool {
	return slices.Contains([]string{"tcp", "udp", "sctp", "mongo", "redis", "mysql"}, protocolOf(port))
}

// checkProtocols rejects what has no requests to split and to judge, before it is half released: routes of connections, and
// ports that the proxies take for such.
func (s *Set) checkProtocols() error {
	const fix = "a release splits and judges requests (HTTP, gRPC, WebSocket); release an app that speaks TCP alone without Crossbill"
	if vs := s.VirtualService; vs != nil {
		for i, tcp := range vs.Spec.Tcp {
			if s.splitsConnections(tcp.Route) {
				return s.problem("VirtualService", vs.Name, fmt.Sprintf("spec.tcp[%d].route", i), "it leads to the app by connections, and a release changes http routes only", fix)
			}
		}
		for i, tls := range vs.Spec.Tls {
			if s.splitsConnections(tls.Route) {
				return s.problem("VirtualService", vs.Name, fmt.Sprintf("spec.tls[%d].route", i), "it leads to the app by connections, and a release changes http routes only", fix+"; if the gateway is to see its requests, end TLS there and write an http route")
			}
		}
	}
	for _, port := range s.routed() {
		if !opaque(port) {
			if s.Route != nil && s.Route.GetKind() == "GRPCRoute" && protocolOf(port) == "http" {
				return s.problem("Service", s.Service.Name, s.portField(port), "is HTTP/1.1 to the proxies by its name or appProtocol, and a GRPCRoute leads to it: every call would fail", "name it grpc, or set appProtocol: kubernetes.io/h2c")
			}
			continue
		}
		problem := fmt.Sprintf("is %s to the proxies by its name or appProtocol, so they see connections to it and no requests", protocolOf(port))
		return s.problem("Service", s.Service.Name, s.portField(port), problem, "if it speaks HTTP, name it http, http2 or grpc, or set appProtocol so; else: "+fix)
	}
	return nil
}

// splitsConnections says whether a route of connections leads to a track of the app, or to the app when no http route
// does.
func (s *Set) splitsConnections(routes []*networkingapi.RouteDestination) bool {
	alone := len(s.Routes(s.VirtualService)) == 0
	return slices.ContainsFunc(routes, func(r *networkingapi.RouteDestination) bool {
		return r.Destination != nil && (r.Destination.Subset != "" || alone) && s.IsHost(r.Destination.Host, s.VirtualService.Namespace)
	})
}

// routed are the ports of the app's Service that its routes lead to: those that they name, or its only one.
func (s *Set) routed() (ports []corev1.ServicePort) {
	all := s.Service.Spec.Ports
	if len(all) == 1 {
		return all
	}
	if s.Route != nil || s.VirtualService == nil {
		if !slices.ContainsFunc(all, func(p corev1.ServicePort) bool { return !opaque(p) }) {
			return all
		}
		return nil
	}
	named := s.RoutePorts(s.VirtualService)
	for _, r := range s.Routes(s.VirtualService) {
		for _, port := range all {
			if uint32(port.Port) == named[r.HTTP] { //nolint:gosec // a port is no more than 65535
				ports = append(ports, port)
			}
		}
	}
	return ports
}

// portField names a port of the Service.
func (s *Set) portField(port corev1.ServicePort) string {
	return "spec.ports: " + cmp.Or(port.Name, fmt.Sprint(port.Port))
}
