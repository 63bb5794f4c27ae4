package manifest

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

const shipped = "../../k8s"

// TestTheShippedManifests: what the repository's own manifests say about each other.
func TestTheShippedManifests(t *testing.T) {
	set, err := Load(shipped)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"NetworkPolicy qwik-node-app"}; !slices.Equal(set.left(), want) {
		t.Errorf("left alone: %q, want %q", set.left(), want)
	}
	origin := ""
	for _, e := range set.Deployment.Spec.Template.Spec.Containers[0].Env {
		if e.Name == "ORIGIN" {
			origin = e.Value
		}
	}
	if host := set.VirtualService.Spec.Hosts[0]; origin != "https://"+host {
		t.Errorf("ORIGIN is %q, and the route is for %s", origin, host)
	}
}

// TestTheProbes: one late answer takes no pod away and restarts none, and a pod that is asked to end is not ready before it has ended.
func TestTheProbes(t *testing.T) {
	set, err := Load(shipped)
	if err != nil {
		t.Fatal(err)
	}
	container := set.Deployment.Spec.Template.Spec.Containers[0]
	for name, probe := range map[string]*corev1.Probe{"startup": container.StartupProbe, "readiness": container.ReadinessProbe, "liveness": container.LivenessProbe} {
		if probe.TimeoutSeconds < 5 || probe.FailureThreshold < 3 {
			t.Errorf("the %s probe fails %d times in a row, after %d s each: a node that is busy for a moment takes that long", name, probe.FailureThreshold, probe.TimeoutSeconds)
		}
	}
	drain := 0
	for _, e := range container.Env {
		if e.Name == "DRAIN_MS" {
			drain, _ = strconv.Atoi(e.Value)
		}
	}
	ready := container.ReadinessProbe
	if unready := 1000 * int(ready.PeriodSeconds*ready.FailureThreshold); unready+1000 > drain {
		t.Errorf("a pod is seen to be not ready after %d ms, and serves for %d ms: want a second between, for the proxies to hear of it", unready, drain)
	}
}

// TestTheGatewayWithTLS: the other gateway takes the place of the first one, and nothing passes it without TLS.
func TestTheGatewayWithTLS(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"deployment.yaml", "service.yaml", "destination-rule.yaml", "virtual-service.yaml", "tls/gateway.yaml"} {
		text, err := os.ReadFile(filepath.Join(shipped, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain, err := Load(shipped)
	if err != nil {
		t.Fatal(err)
	}
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Gateways) != 1 || set.Gateways[0].Name != plain.Gateways[0].Name || !slices.Contains(set.VirtualService.Spec.Gateways, set.Gateways[0].Name) {
		t.Fatalf("gateways %v", set.Gateways)
	}
	for _, server := range set.Gateways[0].Spec.Servers {
		if !slices.Equal(server.Hosts, plain.Gateways[0].Spec.Servers[0].Hosts) {
			t.Errorf("%s: hosts %v", server.Port.Name, server.Hosts)
		}
		if server.Tls.GetCredentialName() == "" && !server.Tls.GetHttpsRedirect() {
			t.Errorf("%s: it answers without TLS", server.Port.Name)
		}
	}
}

// TestTheNetworkPolicy: the app's port and the tunnel of ambient mode are open, and the ports of metrics only to the namespace
// of the Prometheus that the configuration names.
func TestTheNetworkPolicy(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(shipped, "network-policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var policy networkingv1.NetworkPolicy
	if err := yaml.UnmarshalStrict(text, &policy); err != nil {
		t.Fatal(err)
	}
	set, err := Load(shipped)
	if err != nil {
		t.Fatal(err)
	}
	selected := policy.Spec.PodSelector.MatchLabels
	for label, value := range selected {
		if set.Service.Spec.Selector[label] != value {
			t.Errorf("it selects by %s: %s, the Service by %v", label, value, set.Service.Spec.Selector)
		}
	}
	if len(selected) == 0 || !slices.Equal(policy.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}) {
		t.Errorf("selector %v, types %v", selected, policy.Spec.PolicyTypes)
	}
	config, err := os.ReadFile("../../crossbill.yaml")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, port := range set.Deployment.Spec.Template.Spec.Containers[0].Ports {
		named[port.Name] = true
	}
	admitted := map[string]string{} // to whom each port is open; "" for everybody
	for _, rule := range policy.Spec.Ingress {
		from := ""
		for _, peer := range rule.From {
			from = peer.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"]
			if from == "" || !strings.Contains(string(config), "."+from+".svc") {
				t.Errorf("it admits namespace %q, which crossbill.yaml's Prometheus is not in", from)
			}
		}
		for _, port := range rule.Ports {
			if port.Port.StrVal != "" && !named[port.Port.StrVal] {
				t.Errorf("the Deployment has no port %s", port.Port)
			}
			admitted[port.Port.String()] = from
		}
	}
	for _, port := range []string{"http", "15008"} {
		if open, ok := admitted[port]; !ok || open != "" {
			t.Errorf("%s is open to %q, or to nobody", port, open)
		}
	}
	for _, port := range []string{"metrics", "15020", "15090"} {
		if admitted[port] == "" {
			t.Errorf("%s is open to everybody, or to nobody", port)
		}
	}
}
