package verdict

import (
	"context"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict/prometheustest"
)

// report is what one proxy counts of the calls to a workload, each second.
type report struct {
	reporter, source, workload string
	requests, bad              float64
	status                     string // of gRPC; the code is then 200
	flags                      string // default -
	service                    string // destination_service_name; may be empty
	of                         string // namespace of the workload; default production
	from, to                   time.Duration
	metric                     string // default istio_requests_total, with the histogram
}

// proxies counts reports, each by a proxy of its own.
func (m *mesh) proxies(reports ...report) {
	now := time.Now()
	for i, r := range reports {
		proxy := m.Target(prometheustest.Labels{"job": "envoy", "instance": fmt.Sprintf("10.0.1.%d:15090", i+1)}, time.Duration(i)*100*time.Millisecond)
		if r.to == 0 {
			r.from, r.to = -3*time.Minute, 16*time.Minute
		}
		labels := func(code, status string) prometheustest.Labels {
			l := requestLabels(r.workload, code, "-")
			l["reporter"], l["source_workload"], l["source_workload_namespace"] = r.reporter, r.source, "shop"
			l["grpc_response_status"], l["destination_service_name"], l["destination_service_namespace"] = status, r.service, "production"
			if r.of != "" {
				l["destination_workload_namespace"] = r.of
			}
			if r.flags != "" && code != "200" {
				l["response_flags"] = r.flags
			}
			if r.metric != "" {
				l["__name__"] = r.metric
			}
			return l
		}
		good, bad := labels("200", ""), labels("503", "")
		if r.status != "" {
			good, bad = labels("200", "0"), labels("200", r.status)
		}
		counts := map[*prometheustest.Counter]float64{proxy.Counter(good): r.requests - r.bad}
		if r.bad > 0 {
			counts[proxy.Counter(bad)] = r.bad
		}
		for _, le := range []string{"500", "+Inf"} {
			if r.metric == "" {
				bucket := maps.Clone(good)
				bucket["__name__"], bucket["le"] = "istio_request_duration_milliseconds_bucket", le
				counts[proxy.Counter(bucket)] = r.requests
			}
		}
		for counter, n := range counts {
			for at := r.from; at < r.to; at += time.Second {
				counter.Add(now.Add(at), n)
			}
		}
	}
}

// TestReporters: whichever proxies report a request, it counts once, and none is missed. The labels are those of
// istio/proxy (testdata/metric) and of istiod's endpoints: see callersSide.
func TestReporters(t *testing.T) {
	const gateway, caller, canary = "istio-ingressgateway", "cart", "app-canary"
	for name, c := range map[string]struct {
		reports []report
		want    float64 // requests a second to the canary; one in ten is bad
	}{
		"the gateway alone":                            {[]report{{reporter: "source", source: gateway, workload: canary, requests: 10, bad: 1}}, 10},
		"a Service for each track":                     {[]report{{reporter: "source", source: gateway, workload: canary, service: "app-canary", requests: 10, bad: 1}}, 10},
		"sidecars on both sides":                       {[]report{{reporter: "source", source: caller, workload: canary, requests: 10, bad: 1}, {reporter: "destination", source: caller, workload: canary, requests: 10, bad: 1}}, 10},
		"a waypoint":                                   {[]report{{reporter: "waypoint", source: caller, workload: canary, requests: 10, bad: 1}}, 10},
		"a gateway before a waypoint":                  {[]report{{reporter: "source", source: gateway, workload: "waypoint", requests: 10, bad: 1}, {reporter: "waypoint", source: gateway, workload: canary, requests: 10, bad: 1}}, 10},
		"the same, and the gateway knows who answered": {[]report{{reporter: "source", source: gateway, workload: canary, requests: 10, bad: 1}, {reporter: "waypoint", source: gateway, workload: canary, requests: 10, bad: 1}}, 10},
		"all together": {[]report{
			{reporter: "source", source: gateway, workload: "waypoint", requests: 10, bad: 1}, {reporter: "waypoint", source: gateway, workload: canary, requests: 10, bad: 1},
			{reporter: "waypoint", source: "ambient", workload: canary, requests: 20, bad: 2},
			{reporter: "source", source: caller, workload: canary, requests: 30, bad: 3},
			{reporter: "waypoint", source: "unknown", workload: canary, requests: 10, bad: 1}, {reporter: "source", source: "unknown", workload: canary, requests: 10, bad: 1},
		}, 80},
		"another namespace's":                     {[]report{{reporter: "waypoint", source: caller, workload: canary, of: "staging", requests: 10, bad: 1}}, 0},
		"callers that no proxy of the mesh knows": {[]report{{reporter: "destination", source: "unknown", workload: canary, requests: 10, bad: 1}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				m.proxies(c.reports...)
				all := m.read(t, 5*time.Second, 5*time.Minute)
				for i, share := range []float64{0.1, 0} { // availability, latency
					got, want := all[i].Canary, 300*c.want
					if math.Abs(got.Events-want) > 0.03*want || math.Abs(got.Bad-share*want) > 0.03*want {
						t.Errorf("objective %d: %+v, want %g events, %g bad", i, got, want, share*want)
					}
				}
				sent, err := m.source(t).Requests(t.Context(), callersSide, canary, time.Now())
				if got, want := sent.Increase(nil), 480*c.want; err != nil || math.Abs(got-want) > 0.03*want {
					t.Errorf("sent %g, want %g: %v", got, want, err)
				}
			})
		})
	}
}

// TestGRPC: a gRPC call that fails is answered with code 200. By its status it is an error of the app, as in
// OpenTelemetry's conventions, or one of the caller's that is compared with primary, or good.
func TestGRPC(t *testing.T) {
	server := map[int]bool{2: true, 4: true, 12: true, 13: true, 14: true, 15: true}
	for status := range 17 {
		synctest.Test(t, func(t *testing.T) {
			m := newMesh(time.Second)
			bad := func(workload string, requests, share float64) report {
				return report{reporter: "source", source: "cart", workload: workload, requests: requests, bad: share * requests, status: fmt.Sprint(status)}
			}
			m.proxies(bad("app-canary", 20, 0.3), bad("app-primary", 180, 0))
			v, err := Verify(t.Context(), m.options(t))
			if err != nil {
				t.Fatal(err)
			}
			want, reason := release.Unhealthy, "client-errors"
			if server[status] {
				reason = "availability"
			} else if status == 0 {
				want, reason = release.Healthy, ""
			}
			if v.Outcome != want || !strings.HasPrefix(v.Reason, reason) {
				t.Errorf("status %d: %s: %s, want %s for %q", status, v.Outcome, v.Reason, want, reason)
			}
		})
		if server[status] {
			continue
		}
		synctest.Test(t, func(t *testing.T) { // what callers do wrong on both tracks blames no track
			m := newMesh(time.Second)
			m.proxies(report{reporter: "waypoint", source: "cart", workload: "app-canary", requests: 20, bad: 6, status: fmt.Sprint(status)},
				report{reporter: "waypoint", source: "cart", workload: "app-primary", requests: 180, bad: 54, status: fmt.Sprint(status)})
			if v, err := Verify(t.Context(), m.options(t)); err != nil || v.Outcome != release.Healthy {
				t.Errorf("status %d on both tracks: %s: %s, %v", status, v.Outcome, v.Reason, err)
			}
		})
	}
}

// TestOwnService: errors of a Service that leads to one track alone are that track's, though Istio knows no
// workload where no endpoint was chosen; those of the Service that both have are not.
func TestOwnService(t *testing.T) {
	for name, c := range map[string]struct {
		stray   report
		outcome release.VerdictOutcome
		cause   Cause
	}{
		"the canary's":                {report{reporter: "source", service: "app-canary", flags: "UH"}, release.Unhealthy, ""},
		"the canary's, by a waypoint": {report{reporter: "waypoint", service: "app-canary", flags: "UH"}, release.Unhealthy, ""},
		"the canary's, by its host":   {report{reporter: "source", service: "app-canary.production.svc.cluster.local:80", flags: "NC"}, release.Unhealthy, ""},
		"the canary's, by gRPC":       {report{reporter: "source", service: "app-canary", flags: "UH", status: "14"}, release.Unhealthy, ""},
		"primary's":                   {report{reporter: "source", service: "app-primary", flags: "UH"}, release.Healthy, ""},
		"of the app":                  {report{reporter: "source", service: "app", flags: "UH"}, release.Inconclusive, Unattributed},
		"of the app, by a waypoint":   {report{reporter: "waypoint", service: "app", flags: "UH"}, release.Inconclusive, Unattributed},
		"another app's":               {report{reporter: "source", service: "app-canary-2", flags: "UH"}, release.Healthy, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				m.both(flow{rate: 20}, flow{rate: 180})
				c.stray.workload, c.stray.of, c.stray.requests, c.stray.bad = "unknown", "unknown", 3, 3
				m.proxies(c.stray)
				o := m.options(t)
				o.Source = m.source(t, func(s *SourceOptions) {
					s.Service, s.Tracks = "app", map[string]string{"app-canary": "app-canary", "app-primary": "app-primary"}
				})
				o.Witness = func(context.Context) (Witnessed, error) { return Witnessed{PrimaryWhole: true}, nil }
				v, err := Verify(t.Context(), o)
				if err != nil || v.Outcome != c.outcome || v.Cause != c.cause {
					t.Errorf("%s %s: %s, %v; want %s %s", v.Outcome, v.Cause, v.Reason, err, c.outcome, c.cause)
				}
			})
		})
	}
}

// TestQuietReporters: a workload is quiet when no proxy that knows its callers counts calls, whoever reports them.
func TestQuietReporters(t *testing.T) {
	const canary = "app-canary"
	for name, c := range map[string]struct {
		report report
		waits  bool
	}{
		"a gateway":                              {report{reporter: "source", source: "istio-ingressgateway"}, true},
		"a waypoint":                             {report{reporter: "waypoint", source: "cart"}, true},
		"a waypoint that does not know whom for": {report{reporter: "waypoint", source: "unknown"}, true},
		"the canary's sidecar":                   {report{reporter: "destination", source: "cart"}, true},
		"what scrapes the app":                   {report{reporter: "destination", source: "unknown"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				m.proxies(report{reporter: "source", source: "cart", workload: canary, requests: 10, from: -time.Minute, to: -30 * time.Second})
				c.report.workload, c.report.requests, c.report.from, c.report.to = canary, 1, -time.Minute, 40*time.Second
				m.proxies(c.report)
				start := time.Now()
				err := m.source(t).Quiet(t.Context(), canary)
				if took := time.Since(start); err != nil || (took > 40*time.Second) != c.waits {
					t.Errorf("quiet after %s, %v; waits: %t", took, err, c.waits)
				}
			})
		})
	}
}

// TestQuietStreams: streams that were open and end are no calls, as their durations show; calls that take as long,
// and calls of which nothing shows how long they took, are waited for.
func TestQuietStreams(t *testing.T) {
	const canary = "app-canary"
	for name, c := range map[string]struct {
		took func(waited time.Duration) time.Duration
		no   bool // histograms
		most time.Duration
	}{
		"streams of hours":           {took: func(time.Duration) time.Duration { return 2 * time.Hour }, most: 30 * time.Second},
		"streams opened just before": {took: func(waited time.Duration) time.Duration { return waited + 40*time.Second }, most: time.Minute},
		"short calls":                {took: func(time.Duration) time.Duration { return 20 * time.Millisecond }},
		"calls that take a while":    {took: func(waited time.Duration) time.Duration { return min(waited, 50*time.Second) }},
		"streams and a call every 6 s": {took: func(waited time.Duration) time.Duration {
			return []time.Duration{2 * time.Hour, time.Second}[btoi(waited%(6*time.Second) == 0)]
		}},
		"streams, no histograms":       {took: func(time.Duration) time.Duration { return 2 * time.Hour }, no: true},
		"streams that began meanwhile": {took: func(waited time.Duration) time.Duration { return waited - time.Second }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				now := time.Now()
				labels := requestLabels(canary, "200", "-")
				calls, buckets := m.gateways[0].Counter(labels), map[float64]*prometheustest.Counter{}
				labels["__name__"] = "istio_request_duration_milliseconds_bucket"
				for _, le := range []float64{100, 1000, 10000, 30000, 60000, 300000, 600000, 1.8e6, 3.6e6, math.Inf(1)} {
					labels["le"] = strconv.FormatFloat(le, 'g', -1, 64)
					buckets[le] = m.gateways[0].Counter(labels)
				}
				for at := -time.Minute; at < 3*time.Minute; at += time.Second {
					took := 20 * time.Millisecond // before the weight was 0
					if at >= 0 {
						took = c.took(at)
					}
					calls.Add(now.Add(at), 1)
					for le, counter := range buckets {
						if n := float64(btoi(took <= time.Duration(min(le, 1e9))*time.Millisecond)); !c.no {
							counter.Add(now.Add(at).Truncate(5*time.Second).Add(5*time.Second), n)
						}
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				err := m.source(t).Quiet(ctx, canary)
				if took := time.Since(now); (err == nil) != (c.most > 0) || c.most > 0 && took > c.most {
					t.Errorf("after %s: %v, want within %s", took, err, c.most)
				}
			})
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestMissingReporters: what Prometheus has instead of the canary's requests is named.
func TestMissingReporters(t *testing.T) {
	for name, c := range map[string]struct {
		report report
		cause  Cause
		want   string
	}{
		"requests by a waypoint": {report{reporter: "waypoint", source: "cart", workload: "app-canary"}, "", ""},
		"connections alone":      {report{reporter: "source", source: "cart", workload: "app-canary", metric: "istio_tcp_connections_opened_total"}, MissingLabels, "need a waypoint"},
		"another workload":       {report{reporter: "waypoint", source: "cart", workload: "app-primary"}, NoTraffic, "other workloads in its namespace"},
		"sidecars of the tracks": {report{reporter: "destination", source: "cart", workload: "app-canary"}, MissingLabels, `reporter="source" or "waypoint"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				c.report.requests = 10
				m.proxies(c.report)
				cause, reason := m.source(t).Missing(t.Context(), "app-canary", time.Now())
				if cause != c.cause || !strings.Contains(reason, c.want) {
					t.Error(cmp.Diff(c.want, reason), cause)
				}
			})
		})
	}
}
