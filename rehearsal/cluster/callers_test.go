package cluster_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/rehearsal/cluster"
)

// through is a client that reaches every host through an address.
func through(address string) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 8,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		},
	}}
}

func ask(client *http.Client, host string) (int, string, error) {
	response, err := client.Get("http://" + host + "/")
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// answers waits until a client gets an answer of the app, and then counts those of n requests.
func answers(t *testing.T, client *http.Client, host string, n int) map[string]int {
	t.Helper()
	eventually(t, func() error {
		if status, body, err := ask(client, host); err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %q %v", status, body, err)
		}
		return nil
	})
	count := map[string]int{}
	for range n {
		status, body, err := ask(client, host)
		if err != nil || status != http.StatusOK {
			body = fmt.Sprint(status, body, err)
		}
		count[body]++
	}
	return count
}

// around says whether n of all is a share p, within five standard deviations.
func around(n, all int, p float64) bool {
	return math.Abs(float64(n)-float64(all)*p) <= 5*math.Sqrt(float64(all)*p*(1-p))
}

// inNamespaces starts a caller in the app's namespace and one in another.
func inNamespaces(t *testing.T, name string) map[string]*cluster.Caller {
	t.Helper()
	callers := map[string]*cluster.Caller{}
	for _, namespace := range []string{running.Namespace, "callers"} {
		caller, err := running.StartCaller(t.Context(), namespace, name)
		if err != nil {
			t.Fatal(err)
		}
		callers[namespace] = caller
	}
	return callers
}

// shares waits until a client's answers come by weight, and then counts those of some hundred requests.
func shares(t *testing.T, name string, client *http.Client, host string, canary float64) {
	t.Helper()
	const n = 500
	eventually(t, func() error {
		if count := answers(t, client, host, 100); !around(count["canary"], 100, canary) || count["canary"]+count["primary"] != 100 {
			return fmt.Errorf("%s: %v", name, count)
		}
		return nil
	})
	count := answers(t, client, host, n)
	t.Logf("%s: %v", name, count)
	if !around(count["canary"], n, canary) || count["canary"]+count["primary"] != n {
		t.Errorf("%s reaches %v, want %.0f%% canary", name, count, 100*canary)
	}
}

// TestCallersInTheMesh: for callers in the mesh a VirtualService holds if it has the gateway mesh and the Service's host.
func TestCallersInTheMesh(t *testing.T) {
	deploy(t, "called", 90, 10, map[string]int{"primary": 1, "canary": 1})
	callers := inNamespaces(t, "caller")
	service := "called-service." + running.Namespace
	for namespace, c := range callers { // by the share of the pods
		shares(t, "in "+namespace+", past the gateway's route", through(c.Address(80)), service, 0.5)
	}
	patch := `[{"op":"replace","path":"/spec/gateways","value":["public-gateway","mesh"]},{"op":"add","path":"/spec/hosts/-","value":"called-service"}]`
	if _, err := objects(t, "VirtualService").Patch(t.Context(), "called-vs", types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for namespace, c := range callers {
		for _, host := range []string{service, service + ".svc.cluster.local", "called.example.com"} {
			shares(t, "in "+namespace+", "+host, through(c.Address(80)), host, 0.1)
		}
	}
	shares(t, "the gateway", gateway, "called.example.com", 0.1)
	setWeights(t, "called", 100, 0)
	for namespace, c := range callers {
		shares(t, "in "+namespace+", weight 0", through(c.Address(80)), service, 0)
	}
}

// TestHTTPRoute: a route of the Gateway API holds at the gateway and, with the Service as its parent, for callers in the
// mesh of every namespace; and the requests are counted by the track's workload, though no cluster names a subset.
func TestHTTPRoute(t *testing.T) {
	callers := inNamespaces(t, "gamma")
	mustApply(t, "http-route.yaml", map[string]string{"NAME": "routed", "PRIMARY": "90", "CANARY": "10"}, nil)
	for _, track := range []string{"primary", "canary"} {
		deployment(t, "routed", track, 1, nil)
		rolledOut(t, "routed-"+track)
	}
	eventually(t, func() error {
		u, err := objects(t, "HTTPRoute").Get(t.Context(), "routed", metav1.GetOptions{})
		if err != nil {
			return err
		}
		parents, _, _ := unstructured.NestedSlice(u.Object, "status", "parents")
		good := 0
		for _, parent := range parents {
			conditions, _, _ := unstructured.NestedSlice(parent.(map[string]any), "conditions")
			for _, condition := range conditions {
				if condition.(map[string]any)["status"] == "True" {
					good++
				}
			}
		}
		if len(parents) != 2 || good != 4 {
			return fmt.Errorf("parents %v, want both to have Accepted and ResolvedRefs", parents)
		}
		return nil
	})
	service := "routed-service." + running.Namespace
	shares(t, "the gateway", gateway, "routed.example.com", 0.1)
	for namespace, c := range callers {
		shares(t, "in "+namespace, through(c.Address(80)), service, 0.1)
	}
	for _, reporter := range []string{"source", "destination"} {
		for _, from := range []string{"istio-system", running.Namespace, "callers"} {
			counts(t, fmt.Sprintf(`sum by (destination_workload) (istio_requests_total{reporter=%q,source_workload_namespace=%q,destination_workload=~"routed-.*"}) > bool 0`, reporter, from),
				"destination_workload", map[string]float64{"routed-primary": 1, "routed-canary": 1})
		}
	}
	weigh := func(canary int) {
		t.Helper()
		patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":%d},{"op":"replace","path":"/spec/rules/0/backendRefs/1/weight","value":%d}]`, 100-canary, canary)
		if _, err := objects(t, "HTTPRoute").Patch(t.Context(), "routed", types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	weigh(0)
	shares(t, "the gateway, weight 0", gateway, "routed.example.com", 0)
	for namespace, c := range callers {
		shares(t, "in "+namespace+", weight 0", through(c.Address(80)), service, 0)
	}
	for _, canary := range []int{100, 0, 100, 0} {
		want := map[int]string{0: "primary", 100: "canary"}[canary]
		began := time.Now()
		weigh(canary)
		took := map[string]time.Duration{}
		for name, address := range map[string]string{"gateway": running.GatewayAddress, "sidecar": callers["callers"].Address(80)} {
			client, host := through(address), map[string]string{"gateway": "routed.example.com", "sidecar": service}[name]
			eventually(t, func() error {
				for range 20 {
					if status, body, err := ask(client, host); err != nil || status != http.StatusOK || body != want {
						return fmt.Errorf("%s: %d %q %v, want %s", name, status, body, err, want)
					}
				}
				return nil
			})
			took[name] = time.Since(began).Round(time.Millisecond)
		}
		t.Logf("weight %d in effect after %v", canary, took)
	}
}
