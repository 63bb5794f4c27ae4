package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/usererr"
)

// TestProtocolOf holds the protocol of ports against istiod's ConvertProtocol (pkg/config/kube/conversion_test.go).
func TestProtocolOf(t *testing.T) {
	app := func(p string) *string { return &p }
	for want, ports := range map[string][]corev1.ServicePort{
		"http":     {{Name: "http"}, {Name: "http-web"}, {Name: "HTTP-web"}, {Name: "x", AppProtocol: app("http")}, {Name: "tcp", AppProtocol: app("kubernetes.io/ws")}},
		"http2":    {{Name: "http2"}, {Name: "tcp", AppProtocol: app("kubernetes.io/h2c")}},
		"https":    {{Name: "https"}, {AppProtocol: app("kubernetes.io/wss")}},
		"grpc":     {{Name: "grpc"}, {Name: "grpc-api"}},
		"grpc-web": {{Name: "grpc-web"}, {Name: "grpc-web-api"}},
		"tcp":      {{Name: "tcp"}, {Name: "tcp-http"}, {Name: "db", Port: 3306}, {Name: "http", AppProtocol: app("tcp")}},
		"udp":      {{Name: "http", Protocol: corev1.ProtocolUDP}},
		"":         {{}, {Name: "web"}, {Name: "httpx"}, {Name: "metrics-http"}, {Name: "x", AppProtocol: app("example.com/own")}},
	} {
		for _, port := range ports {
			if got := protocolOf(port); got != want {
				t.Errorf("%+v: %q, want %q", port, got, want)
			}
		}
	}
}

// TestProtocols: what leads to the app by connections is rejected, with the field and what to do; what has requests, or
// may have them, is not.
func TestProtocols(t *testing.T) {
	shipped := func(file string) string {
		text, err := os.ReadFile(filepath.Join("../../k8s", file))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	_, http, _ := strings.Cut(shipped("virtual-service.yaml"), "  http:\n")
	http = "  http:\n" + http
	connections := func(kind, match, subset string) string {
		return "  " + kind + ":\n    - match: [{port: 5432" + match + "}]\n      route: [{destination: {host: qwik-node-app-service" + subset + "}}]\n"
	}
	const tls, port = ", sniHosts: [app.example.com]", "- name: http\n      port: 80"
	for name, c := range map[string]struct{ file, old, new, want, fix string }{
		"tcp routes alone":               {"virtual-service.yaml", http, connections("tcp", "", ""), "virtual-service.yaml: VirtualService qwik-node-app-vs: spec.tcp[0].route: it leads to the app by connections", "without Crossbill"},
		"tcp routes to a track alone":    {"virtual-service.yaml", http, connections("tcp", "", ", subset: primary"), "spec.tcp[0].route", "without Crossbill"},
		"tls routes alone":               {"virtual-service.yaml", http, connections("tls", tls, ""), "spec.tls[0].route: it leads to the app by connections", "end TLS there"},
		"tcp routes to a track beside":   {"virtual-service.yaml", http, connections("tcp", "", ", subset: canary") + http, "spec.tcp[0].route", "without Crossbill"},
		"tls routes to a track beside":   {"virtual-service.yaml", http, connections("tls", tls, ", subset: canary") + http, "spec.tls[0].route", "end TLS there"},
		"tcp routes of another Service":  {"virtual-service.yaml", http, strings.ReplaceAll(connections("tcp", "", ""), "qwik-node-app-service", "database") + http, "", ""},
		"a tcp port":                     {"service.yaml", "- name: http\n", "- name: tcp-app\n", "service.yaml: Service qwik-node-app-service: spec.ports: tcp-app: is tcp to the proxies", "name it http, http2 or grpc"},
		"appProtocol tcp":                {"service.yaml", port, port + "\n      appProtocol: tcp", "spec.ports: http: is tcp to the proxies", "appProtocol"},
		"a well-known port without name": {"service.yaml", port, "- port: 3306", "spec.ports: 3306: is tcp", "name it http"},
		"no name":                        {"service.yaml", port, "- port: 80", "", ""},
		"a name that says nothing":       {"service.yaml", port, "- name: web\n      port: 80", "", ""},
		"grpc":                           {"service.yaml", port, "- name: grpc\n      port: 80", "", ""},
		"h2c":                            {"service.yaml", port, "- name: tcp\n      appProtocol: kubernetes.io/h2c\n      port: 80", "", ""},
		"a tcp port beside":              {"service.yaml", port, "- name: tcp-debug\n      port: 9000\n    " + port, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Load(copyWith(t, c.file, c.old, c.new))
			if err == nil {
				err = set.In("production")
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var bad *usererr.Error
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) || !strings.Contains(bad.Fix, c.fix) {
				t.Errorf("%v, want %q and the fix %q", err, c.want, c.fix)
			}
		})
	}
}

// TestGRPCRoutePort: a GRPCRoute to a port that the proxies speak HTTP/1.1 to is Accepted, and fails every call.
func TestGRPCRoutePort(t *testing.T) {
	route := &unstructured.Unstructured{Object: map[string]any{"kind": "GRPCRoute"}}
	for name, want := range map[string]string{"http": "spec.ports: http: is HTTP/1.1", "grpc": "", "web": "", "tcp": "spec.ports: tcp: is tcp"} {
		set := &Set{Route: route, Service: &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: name, Port: 80}}}}}
		if err := set.checkProtocols(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
