package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestIstiodRefusesWhatTheSchemaAllows(t *testing.T) {
	err := apply(t, "app.yaml", map[string]string{"NAME": "refused", "PRIMARY": "111", "CANARY": "-1"}, nil)
	if err == nil || !strings.Contains(err.Error(), "validation.istio.io") {
		t.Errorf("a weight of 111 and one of -1: %v, want a refusal by validation.istio.io", err)
	}
}

func TestBothSubsetsServeByWeight(t *testing.T) {
	deploy(t, "split", 90, 10, map[string]int{"primary": 2, "canary": 1})
	const n, p = 2000, 0.1
	count := map[string]int{}
	for range n {
		status, body, err := get("split", "/")
		if err != nil || status != http.StatusOK {
			t.Fatalf("%d %q %v", status, body, err)
		}
		count[body]++
	}
	t.Logf("%v", count)
	// Five standard deviations: a right gateway fails this once in a million runs.
	bound := 5 * math.Sqrt(n*p*(1-p))
	if d := math.Abs(float64(count["canary"]) - n*p); d > bound || count["primary"]+count["canary"] != n {
		t.Errorf("of %d requests %v, want %d ± %.0f for canary and the rest for primary", n, count, int(n*p), bound)
	}
}

func TestWeightChangeTakesEffect(t *testing.T) {
	deploy(t, "weights", 100, 0, map[string]int{"primary": 1, "canary": 1})
	for _, w := range []struct {
		primary, canary int
		want            string
	}{{0, 100, "canary"}, {100, 0, "primary"}} {
		began := time.Now()
		setWeights(t, "weights", w.primary, w.canary)
		eventually(t, func() error {
			for range 20 {
				if _, body, err := get("weights", "/"); err != nil || body != w.want {
					return fmt.Errorf("served by %q, want %q (%v)", body, w.want, err)
				}
			}
			return nil
		})
		t.Logf("%d/%d in effect after %s", w.primary, w.canary, time.Since(began))
		for range 200 {
			if _, body, err := get("weights", "/"); err != nil || body != w.want {
				t.Fatalf("served by %q afterwards, want %q (%v)", body, w.want, err)
			}
		}
	}
}

// Two of three pods are not ready: with a share of healthy endpoints below one half, Envoy's
// default would be to use them all.
func TestPodThatIsNotReadyGetsNoTraffic(t *testing.T) {
	deploy(t, "unready", 100, 0, map[string]int{"primary": 1})
	mustApply(t, "app.yaml", map[string]string{"NAME": "unready", "PRIMARY": "100", "CANARY": "0"}, nil)
	deployment(t, "unready", "canary", 2, map[string]string{"UNREADY": "1"})
	// One subset for all: the choice is between endpoints, not between subsets.
	if _, err := objects(t, "DestinationRule").Patch(t.Context(), "unready-dr", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/subsets/0/labels","value":{"app":"unready"}}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		running := 0
		for _, p := range pods(t, "app=unready,version=canary") {
			if s := p.Status.ContainerStatuses; len(s) == 1 && s[0].State.Running != nil && *s[0].Started {
				running++
				if s[0].Ready {
					t.Fatalf("pod %s is ready", p.Name)
				}
			}
		}
		if running != 2 {
			return fmt.Errorf("%d of 2 unready pods run", running)
		}
		return nil
	})
	eventually(t, func() error {
		healthy, all, err := endpoints("outbound|80|primary|unready-service.demo.svc.cluster.local")
		if healthy != 1 || all != 3 {
			return fmt.Errorf("%d endpoints, %d of them healthy, want 3 and 1 (%v)", all, healthy, err)
		}
		return nil
	})
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		if status, body, err := get("unready", "/"); err != nil || status != http.StatusOK || body != "primary" {
			t.Fatalf("served by %q (%d, %v), want primary alone", body, status, err)
		}
	}
}

func TestDeletionLosesNoRequest(t *testing.T) {
	deploy(t, "drain", 100, 0, map[string]int{"primary": 2})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sent, lost atomic.Int64
	var last sync.Map
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				status, body, err := get("drain", "/")
				if sent.Add(1); err != nil || status != http.StatusOK {
					lost.Add(1)
					last.Store("", fmt.Sprintf("%d %q %v", status, body, err))
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	before := pods(t, "app=drain")
	began := time.Now()
	for _, p := range before {
		if err := clientset(t).CoreV1().Pods(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		// The next one is deleted when a successor serves and this one does not any more.
		eventually(t, func() error {
			if _, err := clientset(t).CoreV1().Pods(p.Namespace).Get(t.Context(), p.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("pod %s is still there (%v)", p.Name, err)
			}
			return nil
		})
		rolledOut(t, "drain-primary")
		serving(t, "drain", "primary", 2)
	}
	if d := time.Since(began); d < 2*2*time.Second {
		t.Errorf("both pods were gone after %s: they did not drain for 2 seconds each", d)
	}
	stop()
	load.Wait()
	why, _ := last.Load("")
	t.Logf("%d requests, %d lost", sent.Load(), lost.Load())
	if lost.Load() > 0 || sent.Load() < 500 {
		t.Errorf("of %d requests %d were lost, want none of at least 500: %v", sent.Load(), lost.Load(), why)
	}
}

// query asks Prometheus for an instant vector, keyed by the label's value.
func query(t *testing.T, q, label string) map[string]float64 {
	t.Helper()
	response, err := http.Get(running.PrometheusURL + "/api/v1/query?query=" + url.QueryEscape(q))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Error != "" {
		t.Fatalf("%s: %v %s", q, err, answer.Error)
	}
	values := map[string]float64{}
	for _, r := range answer.Data.Result {
		v, err := strconv.ParseFloat(r.Value[1].(string), 64)
		if err != nil {
			t.Fatal(err)
		}
		values[r.Metric[label]] = v
	}
	return values
}

func TestPrometheusCountsEveryRequestOnce(t *testing.T) {
	deploy(t, "counted", 100, 0, map[string]int{"primary": 1, "canary": 0})
	for range 300 {
		if status, _, err := get("counted", "/"); err != nil || status != http.StatusOK {
			t.Fatal(status, err)
		}
	}
	for range 40 {
		if status, _, err := get("counted", "/fail"); err != nil || status != http.StatusInternalServerError {
			t.Fatal(status, err)
		}
	}
	// A subset without a pod: Envoy answers by itself.
	setWeights(t, "counted", 0, 100)
	eventually(t, func() error {
		status, _, err := get("counted", "/")
		if status != http.StatusServiceUnavailable {
			return fmt.Errorf("%d %v", status, err)
		}
		return nil
	})
	for range 19 {
		if status, _, err := get("counted", "/"); err != nil || status != http.StatusServiceUnavailable {
			t.Fatal(status, err)
		}
	}
	sent := tally.answers["counted"] // 200 and 500 by primary, 503 for canary
	served := sent[http.StatusOK] + sent[http.StatusInternalServerError]
	const of = `{destination_service_name="counted-service",destination_service_namespace="demo",source_workload="istio-ingressgateway",`
	const source, destination = of + `reporter="source",`, of + `reporter="destination",`
	const primary = `destination_workload="counted-primary",destination_workload_namespace="demo"`
	for _, tt := range []struct {
		query, label string
		want         map[string]float64
	}{
		{`sum by (response_code) (istio_requests_total` + source + primary + `,response_flags="-"})`, "response_code", map[string]float64{"200": sent[200], "500": 40}},
		{`sum by (response_code) (istio_requests_total` + destination + primary + `,destination_version="primary"})`, "response_code", map[string]float64{"200": sent[200], "500": 40}},
		{`sum by (destination_workload) (istio_requests_total` + source + `response_code="503",response_flags="UH"})`, "destination_workload", map[string]float64{"unknown": sent[503]}},
		{`sum by (response_code) (istio_requests_total` + destination + `response_code="503"})`, "response_code", map[string]float64{}},
		{`sum by (destination_workload) (istio_request_duration_milliseconds_count` + source + `})`, "destination_workload", map[string]float64{"counted-primary": served, "unknown": sent[503]}},
		{`sum by (reporter) (istio_request_duration_milliseconds_bucket` + of + primary + `,le="+Inf"})`, "reporter", map[string]float64{"source": served, "destination": served}},
	} {
		counts(t, tt.query, tt.label, tt.want)
	}
}

// counts waits until Prometheus has counted what it should. Histograms come up to 5 s later than counters.
func counts(t *testing.T, q, label string, want map[string]float64) {
	t.Helper()
	eventually(t, func() error {
		if got := query(t, q, label); !maps.Equal(got, want) {
			return fmt.Errorf("%s:\ngot  %v\nwant %v", q, got, want)
		}
		return nil
	})
}

// TestUnknownWorkload: what the gateway answers because no endpoint was chosen is nobody's, as in Istio. The service is
// known when its cluster is: not when the route names a subset that does not exist, nor without a route.
func TestUnknownWorkload(t *testing.T) {
	deploy(t, "unknown", 100, 0, map[string]int{"primary": 1})
	deployment(t, "unknown", "canary", 1, map[string]string{"UNREADY": "1"})
	answered := func(host string, want int) {
		t.Helper()
		eventually(t, func() error {
			if status, _, err := get(host, "/"); status != want {
				return fmt.Errorf("%s answers %d, want %d (%v)", host, status, want, err)
			}
			return nil
		})
	}
	nobody := map[string]float64{"NC": -query(t, `sum by (response_flags) (istio_requests_total{destination_service_name="unknown",response_flags="NC"})`, "response_flags")["NC"]}
	setWeights(t, "unknown", 0, 100) // to a pod that is there, but not ready
	answered("unknown", http.StatusServiceUnavailable)
	unhealthy := tally.answers["unknown"][http.StatusServiceUnavailable]
	counts(t, `sum by (response_flags) (istio_requests_total{destination_workload="unknown",destination_workload_namespace="unknown",destination_service="unknown-service.demo.svc.cluster.local",destination_service_name="unknown-service"})`,
		"response_flags", map[string]float64{"UH": unhealthy})

	if _, err := objects(t, "VirtualService").Patch(t.Context(), "unknown-vs", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/http/0/route/1/destination/subset","value":"missing"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, _, _ = get("unknown", "/")
		if got := query(t, `sum by (response_flags) (istio_requests_total{destination_service_name="unknown",response_flags="NC"})`, "response_flags")["NC"]; got+nobody["NC"] <= 0 {
			return fmt.Errorf("%v requests without a cluster, and no service", got)
		}
		return nil
	})
	answered("nowhere", http.StatusNotFound)
	counts(t, `sum by (destination_service) (istio_requests_total{response_flags="NR",response_code="404"}) > bool 0`, "destination_service", map[string]float64{"unknown": 1})
}

// Istio's counters are the proxy's, not its clusters': they go on when Envoy replaces a cluster whose policy changes.
func TestChangedClusterIsCountedOn(t *testing.T) {
	deploy(t, "replaced", 100, 0, map[string]int{"primary": 1})
	const total = `istio_requests_total{reporter="source",destination_workload="replaced-primary",response_code="200"}`
	send := func(n int) {
		t.Helper()
		for range n {
			if status, _, err := get("replaced", "/"); err != nil || status != http.StatusOK {
				t.Fatal(status, err)
			}
		}
	}
	send(100)
	sent := tally.answers["replaced"][http.StatusOK]
	counts(t, total, "response_code", map[string]float64{"200": sent})
	if _, err := objects(t, "DestinationRule").Patch(t.Context(), "replaced-dr", types.MergePatchType,
		[]byte(`{"spec":{"trafficPolicy":{"connectionPool":{"http":{"maxRetries":77}}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		body, err := adminGet("/clusters")
		if !strings.Contains(body, "|primary|replaced-service.demo.svc.cluster.local::default_priority::max_retries::77") {
			return fmt.Errorf("the gateway does not have the policy (%v)", err)
		}
		return nil
	})
	serving(t, "replaced", "primary", 1)
	send(10)
	counts(t, total, "response_code", map[string]float64{"200": tally.answers["replaced"][http.StatusOK]})
	if resets := query(t, "resets("+total+"[1m])", "response_code")["200"]; resets != 0 {
		t.Errorf("%v resets", resets)
	}
}
