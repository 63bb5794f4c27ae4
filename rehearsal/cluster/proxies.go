package cluster

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/rehearsal/istiostats"
)

//go:embed envoy.yaml
var envoyYAML []byte

// A proxy is an Envoy that takes everything but its identity from istiod.
type proxy struct {
	name     string // of its log
	kind     string // router or sidecar
	pod      string
	ip       string
	source   istiostats.Source
	labels   map[string]string
	metadata map[string]any // further metadata of its node
	admin    string
	metrics  string // where Prometheus finds it: a pod of Istio's has its proxy's metrics at port 15090
}

// bootstrap is Envoy's configuration. Its node says what Istio's own bootstrap says, so far as istiod looks at it.
func (p *proxy) bootstrap() ([]byte, error) {
	var config map[string]any
	if err := yaml.Unmarshal(envoyYAML, &config); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(p.admin)
	if err != nil {
		return nil, err
	}
	metadata := map[string]any{
		"NAME": p.pod, "NAMESPACE": p.source.Namespace, "INSTANCE_IPS": p.ip, "LABELS": p.labels,
		"WORKLOAD_NAME": p.source.Workload, "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31.0",
		"PROXY_CONFIG": map[string]any{"discoveryAddress": "127.0.0.1:15010"},
	}
	maps.Copy(metadata, p.metadata)
	config["node"] = map[string]any{
		"id":      fmt.Sprintf("%s~%s~%s.%s~%s.svc.cluster.local", p.kind, p.ip, p.pod, p.source.Namespace, p.source.Namespace),
		"cluster": p.source.Workload + "." + p.source.Namespace, "metadata": metadata,
	}
	config["admin"] = map[string]any{"address": map[string]any{"socket_address": map[string]any{"address": host, "port_value": port}}}
	return yaml.Marshal(config)
}

// startProxy runs an Envoy. What it logs of each request is read here, and served as Istio's metrics.
func (c *Cluster) startProxy(p *proxy) error {
	config, err := p.bootstrap()
	if err != nil {
		return err
	}
	file := c.dir(p.name + ".yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	l, err := net.Listen("tcp", p.metrics)
	if err != nil {
		return fmt.Errorf("metrics of %s: %w", p.name, err)
	}
	log, stdout, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdout.Close() // the process has its own
	_, err = c.runTo(p.name, stdout, nil, c.options.EnvoyBinary, "--config-path", file, "--concurrency", "1",
		"--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", "100")
	if err != nil {
		return err
	}
	stats := istiostats.New(p.source)
	if p.kind == "router" { // all callers of it are outside, so that what is internal are copies
		stats.ReadCopies(p.admin)
	}
	c.inside.Go(func() {
		defer log.Close()
		if err := stats.Read(log); err != nil {
			c.report(err)
		}
	})
	c.serve(l, stats)
	return c.scrape(p)
}

// scrape lets Prometheus find where a proxy has its metrics: a file a proxy, which appears at once.
func (c *Cluster) scrape(p *proxy) error {
	dir := c.dir("targets")
	partial := filepath.Join(dir, p.name+".partial")
	if err := os.WriteFile(partial, fmt.Appendf(nil, `[{"targets": [%q]}]`, p.metrics), 0o600); err != nil {
		return err
	}
	return os.Rename(partial, filepath.Join(dir, p.name+".json"))
}

// gatewayIP is the ingress gateway's. It listens on every address.
const gatewayIP = "10.244.250.1"

// startGateway runs the ingress gateway. No pod of its name need exist.
func (c *Cluster) startGateway() error {
	return c.startProxy(&proxy{
		name: "envoy", kind: "router", pod: "ingressgateway-0", ip: gatewayIP, source: istiostats.Gateway,
		labels: gatewayLabels, // what a Gateway selects
		admin:  EnvoyAdmin, metrics: gatewayIP + ":15090",
	})
}

// A Caller is a workload in the mesh: an Envoy with the identity of its sidecar, and no app. Who sends a request to its
// address, with a Service in the host header, is the app.
//
// The Envoy is a stock one, and takes its routes from istiod as the sidecar of a pod does. Its interception mode is NONE,
// which Istio has for pods without iptables rules, and a Sidecar object gives it the address to listen on: from the HTTP
// connection manager on, configuration and behavior are those of a sidecar to which iptables redirect (the same route
// configuration, named by the Service's port). What differs:
//   - Nothing is redirected: a caller asks the sidecar's address, not the Service's. There is no listener for an address
//     that no Service has.
//   - A port belongs either to HTTP, for all Services that have it, or to the first TCP Service that does: the listeners
//     of several are distinguished by the address that iptables kept.
//   - There is no inbound side, no certificate and no mutual TLS, and none of the filters of Istio's own build.
//   - What it reports is made from its access log, as the gateway's is (package istiostats).
type Caller struct {
	Name, Namespace string
	IP              string // of its pod; port 80 of it leads to port 80 of each Service, and so on
	Admin           string // host:port of Envoy's admin interface
}

// Address is where the sidecar listens for what goes to a port of Services.
func (c *Caller) Address(port int) string { return fmt.Sprintf("%s:%d", c.IP, port) }

// StartCaller starts the sidecar of a workload in a namespace, which is made if it is missing. It is ready when it has
// its configuration from istiod, and listens. It ends with the cluster.
func (c *Cluster) StartCaller(ctx context.Context, namespace, name string) (*Caller, error) {
	c.mu.Lock()
	ip := fmt.Sprintf("10.244.250.%d", 2+len(c.callers))
	caller := &Caller{Name: name, Namespace: namespace, IP: ip, Admin: ip + ":15000"}
	c.callers = append(c.callers, caller)
	c.mu.Unlock()
	a, err := newObjects(c.RESTConfig)
	if err != nil {
		return nil, err
	}
	if err := a.sidecar(ctx, caller); err != nil {
		return nil, err
	}
	p := &proxy{
		name: "sidecar-" + namespace + "-" + name, kind: "sidecar", pod: name + "-0", ip: ip,
		source: istiostats.Source{Workload: name, Namespace: namespace, App: name},
		labels: map[string]string{"app": name, "service.istio.io/canonical-name": name, "service.istio.io/canonical-revision": "latest"},
		metadata: map[string]any{
			"INTERCEPTION_MODE": "NONE", "MESH_ID": "cluster.local", "SERVICE_ACCOUNT": "default", "NODE_NAME": nodeName,
			"OWNER": fmt.Sprintf("kubernetes://apis/apps/v1/namespaces/%s/deployments/%s", namespace, name),
		},
		admin: caller.Admin, metrics: ip + ":15090",
	}
	if err := c.startProxy(p); err != nil {
		return nil, err
	}
	// Until it listens, the gateway, which does on every address, would take what is sent to its own, and keep a
	// connection that stays open.
	return caller, c.await(ctx, p.name, listens(netip.MustParseAddrPort(caller.Address(80))))
}

// listens says whether a socket listens on an address of its own. Envoy names a listener before its workers listen.
func listens(address netip.AddrPort) func(context.Context) error {
	ip := address.Addr().As4()
	local := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], address.Port())
	return func(context.Context) error {
		sockets, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(sockets)) {
			const listen = "0A" // TCP_LISTEN of the kernel's include/net/tcp_states.h
			if field := strings.Fields(line); len(field) > 3 && field[1] == local && field[3] == listen {
				return nil
			}
		}
		return fmt.Errorf("nobody listens on %s", address)
	}
}

var sidecars = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "sidecars"}

// sidecar makes the Sidecar that gives a caller's proxy its address, for every port of every Service.
func (o *objects) sidecar(ctx context.Context, c *Caller) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.Namespace}}
	if _, err := o.typed.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", c.Namespace, err)
	}
	sidecar := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": map[string]any{"name": c.Name},
		"spec": map[string]any{
			"workloadSelector": map[string]any{"labels": map[string]any{"app": c.Name}},
			"egress":           []any{map[string]any{"bind": c.IP, "captureMode": "NONE", "hosts": []any{"*/*"}}},
		},
	}}
	if _, err := o.dynamic.Resource(sidecars).Namespace(c.Namespace).Create(ctx, sidecar, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Sidecar %s/%s: %w", c.Namespace, c.Name, err)
	}
	return nil
}

// gatewayLabels are what the ingress gateway's pods have.
var gatewayLabels = map[string]string{"istio": "ingressgateway", "app": "istio-ingressgateway"}

//go:embed gateway.yaml
var gatewayYAML string

// gatewayAPI makes the kinds of the Gateway API, and a Gateway of it that is the Envoy which is there.
func (o *objects) gatewayAPI(ctx context.Context, definitions []unstructured.Unstructured) error {
	if err := o.establish(ctx, definitions); err != nil {
		return err
	}
	all, err := documents(strings.NewReader(strings.ReplaceAll(gatewayYAML, "GATEWAY_IP", gatewayIP)))
	if err != nil {
		return err
	}
	for _, u := range all {
		resource := map[string]schema.GroupVersionResource{
			"Service":       {Version: "v1", Resource: "services"},
			"EndpointSlice": {Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"},
			"Gateway":       {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"},
		}[u.GetKind()]
		if _, err := o.dynamic.Resource(resource).Namespace(u.GetNamespace()).Create(ctx, &u, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create %s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
	return nil
}
