package istiostats

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const shop = `[{"host":"shop.production.svc.cluster.local","name":"shop","namespace":"production"}]`

// scraped is what Prometheus gets after some lines of a log.
func scraped(t *testing.T, s *Stats, lines ...string) string {
	t.Helper()
	for i, line := range lines {
		if strings.Count(line, "\t") == 6 { // it is not gRPC
			lines[i] += "\t-\t-"
		}
	}
	if err := s.Read(strings.NewReader(strings.Join(lines, "\n"))); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, nil)
	return w.Body.String()
}

// TestLabels holds the labels against what Istio's gateway was seen to report, and against its filter.
func TestLabels(t *testing.T) {
	canary := "shop-canary;production;shop;canary;Kubernetes"
	for name, c := range map[string]struct {
		line                string
		source, destination string // what series of each must say; "" is no series
	}{
		"answered": {"HTTP/1.1\t7\t200\t-\tvia_upstream\t" + canary + "\t" + shop,
			`destination_workload="shop-canary",destination_workload_namespace="production" destination_version="unknown" destination_service="shop.production.svc.cluster.local" destination_canonical_revision="canary" destination_service_name="shop",destination_service_namespace="production" source_workload="istio-ingressgateway" response_code="200",grpc_response_status="",response_flags="-"`,
			`destination_version="canary" response_code="200",grpc_response_status="",response_flags="-"`},
		"no endpoint is healthy": {"HTTP/1.1\t0\t503\tUH\tno_healthy_upstream\t-\t" + shop,
			`destination_workload="unknown",destination_workload_namespace="unknown" destination_service="shop.production.svc.cluster.local" destination_service_name="shop",destination_service_namespace="production" response_code="503",grpc_response_status="",response_flags="UH"`, ""},
		"no cluster":           {"HTTP/1.1\t0\t503\tNC\tcluster_not_found\t-\t-", `destination_workload="unknown" destination_service="unknown" destination_service_name="unknown",destination_service_namespace="unknown" response_flags="NC"`, ""},
		"no route":             {"HTTP/1.1\t0\t404\tNR\troute_not_found\t-\t-", `destination_service="unknown" response_code="404",grpc_response_status="",response_flags="NR"`, ""},
		"connection refused":   {"HTTP/1.1\t1\t503\tUF\tupstream_reset_before_response_started{connection_failure}\t" + canary + "\t" + shop, `destination_workload="shop-canary" response_code="503",grpc_response_status="",response_flags="UF"`, ""},
		"the app breaks off":   {"HTTP/1.1\t1\t503\tUC\tupstream_reset_before_response_started{connection_termination}\t" + canary + "\t" + shop, `response_code="503",grpc_response_status="",response_flags="UC"`, `response_code="503",grpc_response_status="",response_flags="UC"`},
		"the caller leaves":    {"HTTP/1.1\t900\t0\tDC\tdownstream_remote_disconnect\t" + canary + "\t" + shop, `response_code="0",grpc_response_status="",response_flags="DC"`, `response_code="0",grpc_response_status="",response_flags="DC"`},
		"the gateway gives up": {"HTTP/1.1\t900\t504\tUT\tresponse_timeout\t" + canary + "\t" + shop, `response_code="504",grpc_response_status="",response_flags="UT"`, `response_code="0",grpc_response_status="",response_flags="DC"`},
		"gRPC": {"HTTP/2\t7\t200\t-\tvia_upstream\t" + canary + "\t" + shop + "\tapplication/grpc\t5",
			`request_protocol="grpc" response_code="200",grpc_response_status="5",response_flags="-"`, `request_protocol="grpc" response_code="200",grpc_response_status="5",response_flags="-"`},
		"gRPC by another name": {"HTTP/2\t7\t200\t-\tvia_upstream\t" + canary + "\t" + shop + "\tapplication/grpc+\t0", `request_protocol="grpc" grpc_response_status="0"`, `grpc_response_status="0"`},
		"gRPC in a browser":    {"HTTP/1.1\t7\t200\t-\tvia_upstream\t" + canary + "\t" + shop + "\tapplication/grpc-\t-", `request_protocol="http" grpc_response_status=""`, `grpc_response_status=""`},
		"gRPC, the app breaks off": {"HTTP/2\t7\t200\tUC\tupstream_reset_before_response_started{connection_termination}\t" + canary + "\t" + shop + "\tapplication/grpc\t14",
			`response_code="200",grpc_response_status="14",response_flags="UC"`, `response_code="503",grpc_response_status="14",response_flags="UC"`},
		"gRPC, the caller leaves": {"HTTP/2\t7\t200\tDC\tdownstream_remote_disconnect\t" + canary + "\t" + shop + "\tapplication/grpc\t2", `response_code="200",grpc_response_status="2",response_flags="DC"`, `response_code="0",grpc_response_status="",response_flags="DC"`},
		"no request":              {"-\t0\t0\t-\t-\t-\t-", "", ""},
	} {
		text := scraped(t, New(Gateway), c.line)
		for reporter, want := range map[string]string{"source": c.source, "destination": c.destination} {
			got := ""
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, `istio_requests_total{reporter="`+reporter+`"`) {
					got += line
				}
			}
			if want == "" && got != "" {
				t.Errorf("%s: %s reports %s", name, reporter, got)
			}
			for part := range strings.FieldsSeq(want) {
				if !strings.Contains(got, part) {
					t.Errorf("%s: %s reports %s\nwithout %s", name, reporter, got, part)
				}
			}
		}
	}
}

// TestHistogramsLag: as Envoy's do, the histograms follow the counters every 5 s.
func TestHistogramsLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Gateway)
		line := "HTTP/1.1\t7\t200\t-\tvia_upstream\tshop-canary;production;shop;canary;Kubernetes\t" + shop
		scraped(t, s, line)
		text := scraped(t, s, line)
		if !strings.Contains(text, "} 2\n") || !strings.Contains(text, `le="10"} 1`+"\n") || strings.Contains(text, `le="5"} 1`) {
			t.Errorf("at once:\n%s", text)
		}
		time.Sleep(flush)
		if text := scraped(t, s); !strings.Contains(text, `le="10"} 2`+"\n") {
			t.Errorf("after %s:\n%s", flush, text)
		}
	})
}

// TestCopies: what the gateway mirrors is reported by the pod that gets it, and by nobody else.
func TestCopies(t *testing.T) {
	stats := `cluster.outbound|80|canary|shop.production.svc.cluster.local;.internal.upstream_rq_200: 40
cluster.outbound|80|canary|shop.production.svc.cluster.local;.internal.upstream_rq_503: 2
cluster.outbound|80|canary|shop.production.svc.cluster.local;.internal.upstream_rq_5xx: 2
cluster.xds-grpc.internal.upstream_rq_200: 7
`
	dump := `{"configs":[{},{"dynamic_endpoint_configs":[{"endpoint_config":{"cluster_name":"outbound|80|canary|shop.production.svc.cluster.local","endpoints":[{"lb_endpoints":[{"metadata":{"filter_metadata":{"istio":{"workload":"shop-canary;production;shop;canary;Kubernetes"}}}}]}]}}]}]}`
	envoy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := stats
		if r.URL.Path == "/config_dump" {
			text = dump
		}
		_, _ = w.Write([]byte(text))
	}))
	defer envoy.Close()
	s := New(Gateway)
	s.ReadCopies(strings.TrimPrefix(envoy.URL, "http://"))
	counted := func(part string) (found []string) {
		t.Helper()
		for line := range strings.Lines(scraped(t, s)) {
			if strings.Contains(line, `destination_workload="shop-canary"`) && strings.Contains(line, part) && strings.HasPrefix(line, "istio_requests_total") {
				found = append(found, line[strings.LastIndex(line, " ")+1:])
			}
		}
		return found
	}
	for _, want := range []struct{ part, value string }{
		{`reporter="destination"`, "40\n2\n"}, {`reporter="source"`, ""}, {`response_code="503"`, "2\n"},
	} {
		got := counted(want.part)
		slices.Sort(got)
		slices.Reverse(got)
		if strings.Join(got, "") != want.value {
			t.Errorf("%s: %q, want %q", want.part, got, want.value)
		}
	}
	if text := scraped(t, s); !strings.Contains(text, `destination_version="canary"`) || strings.Contains(text, "xds-grpc") {
		t.Error(text)
	}
	stats = strings.ReplaceAll(stats, "200: 40", "200: 45")
	dump = `{"configs":[]}` // the endpoints are gone
	if got := counted(`response_code="200"`); len(got) != 1 || got[0] != "45\n" {
		t.Errorf("%q", got)
	}
	stats = strings.ReplaceAll(stats, "200: 45", "200: 3") // Envoy has started again
	if got := counted(`response_code="200"`); len(got) != 1 || got[0] != "48\n" {
		t.Errorf("%q", got)
	}
}
