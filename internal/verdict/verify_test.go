package verdict

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict/prometheustest"
)

// mesh is a gateway's counters in a Prometheus, and the traffic that they count.
type mesh struct {
	*prometheustest.Server
	gateways []*prometheustest.Target
	start    time.Time
	random   *rand.Rand
}

// newMesh is a mesh that has run for a minute, with one gateway.
func newMesh(scrape time.Duration) *mesh {
	m := &mesh{Server: &prometheustest.Server{Scrape: scrape}, start: time.Now().Add(-time.Minute), random: rand.New(rand.NewPCG(1, 2))}
	m.gateways = []*prometheustest.Target{m.Target(prometheustest.Labels{"job": "envoy", "instance": "10.0.0.1:15090"}, 300*time.Millisecond)}
	return m
}

func requestLabels(workload, code, flags string) prometheustest.Labels {
	return prometheustest.Labels{"__name__": "istio_requests_total", "reporter": "source", "destination_workload": workload, "destination_workload_namespace": "production",
		"response_code": code, "response_flags": flags}
}

// flow is the requests to a workload from a time to another one.
type flow struct {
	workload string
	rate     float64 // a second
	bad      float64 // share that fails, or has the code and the flags
	code     string  // default 503
	flags    string  // default -
	status   string  // of gRPC, of what is bad
	slow     float64 // share that takes too long
	from, to time.Duration
	spread   bool // the numbers of requests vary
}

// add counts the requests of a flow, a part of them at each gateway. Times are from now.
func (m *mesh) add(f flow) {
	const step = 100 * time.Millisecond
	if f.code == "" {
		f.code = "503"
	}
	if f.flags == "" {
		f.flags = "-"
	}
	type counters struct{ requests, quick, all *prometheustest.Counter }
	of := func(gateway *prometheustest.Target, code, flags string) (c counters) {
		labels := requestLabels(f.workload, code, flags)
		if f.status != "" {
			labels["grpc_response_status"] = map[bool]string{true: f.status, false: "0"}[flags == f.flags]
		}
		c.requests = gateway.Counter(labels)
		labels["__name__"] = "istio_request_duration_milliseconds_bucket"
		bucket := func(le string) *prometheustest.Counter {
			labels["le"] = le
			return gateway.Counter(labels)
		}
		bucket("100")
		c.quick, c.all = bucket("500"), bucket("+Inf")
		return c
	}
	var good, failed []counters
	for _, gateway := range m.gateways {
		good, failed = append(good, of(gateway, "200", "-")), append(failed, of(gateway, f.code, f.flags))
	}
	now, owed, bad, slow := time.Now(), 0.0, 0.0, 0.0
	tally := map[counters]struct{ all, quick float64 }{}
	for at := f.from; at < f.to; at += step {
		owed += f.rate * step.Seconds()
		if f.spread {
			owed += m.random.NormFloat64() * math.Sqrt(f.rate*step.Seconds())
		}
		for ; owed >= 1; owed-- {
			to := good[m.random.IntN(len(good))]
			if f.spread {
				bad, slow = m.random.Float64()+f.bad, m.random.Float64()+f.slow
			} else {
				bad, slow = bad+f.bad, slow+f.slow
			}
			if bad >= 1 {
				bad--
				to = failed[m.random.IntN(len(failed))]
			}
			n := tally[to]
			n.all++
			if slow >= 1 {
				slow--
			} else {
				n.quick++
			}
			tally[to] = n
		}
		for to, n := range tally {
			to.requests.Add(now.Add(at), n.all)
			to.all.Add(now.Add(at), n.all)
			to.quick.Add(now.Add(at), n.quick)
		}
		clear(tally)
	}
}

// both adds the usual traffic of both tracks, for as long as a verification takes.
func (m *mesh) both(canary, primary flow) {
	for _, f := range []*flow{&canary, &primary} {
		if f.to == 0 {
			f.from, f.to = -3*time.Minute, 16*time.Minute
		}
	}
	canary.workload, primary.workload = "app-canary", "app-primary"
	m.add(canary)
	m.add(primary)
}

func (m *mesh) source(t *testing.T, change ...func(*SourceOptions)) *Source {
	t.Helper()
	o := SourceOptions{URL: "http://prometheus", Transport: m, Namespace: "production", Indicators: DefaultSLO().Indicators()}
	for _, c := range change {
		c(&o)
	}
	source, err := NewSource(o)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// options are the options of a verification by the default objectives.
func (m *mesh) options(t *testing.T) Options {
	return Options{Source: m.source(t), Canary: "app-canary", Primary: "app-primary", Test: DefaultSLO().Test(), WarmUp: DefaultSLO().WarmUp.Duration}
}

func TestVerify(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*mesh)
		options func(*Options)
		outcome release.VerdictOutcome
		cause   Cause
		err     string
	}{
		"healthy":                {outcome: release.Healthy},
		"unhealthy":              {change: func(m *mesh) { m.add(flow{workload: "app-canary", rate: 5, bad: 1, to: time.Minute}) }, outcome: release.Unhealthy},
		"with a sidecar":         {change: func(m *mesh) { m.sidecar(1) }, outcome: release.Healthy},
		"requests that vanish":   {change: func(m *mesh) { m.sidecar(0.5) }, outcome: release.Inconclusive, cause: CountGap},
		"not a number":           {change: func(m *mesh) { m.Value = "NaN" }, outcome: release.Inconclusive, cause: NotANumber},
		"down for a while":       {change: func(m *mesh) { m.downFrom(20*time.Second, 3*time.Minute) }, outcome: release.Healthy},
		"down at the first look": {change: func(m *mesh) { m.downFrom(0, 2*time.Minute) }, outcome: release.Healthy},
		"one read fails":         {change: func(m *mesh) { m.downFrom(30*time.Second, 31*time.Second) }, outcome: release.Healthy},
		"down to the end":        {change: func(m *mesh) { m.downFrom(20*time.Second, time.Hour) }, outcome: release.Inconclusive, cause: PrometheusDown},
		"never up":               {change: func(m *mesh) { m.downFrom(0, time.Hour) }, outcome: release.Inconclusive, cause: PrometheusDown},
		"not a Prometheus":       {change: func(m *mesh) { m.Fails = func(string, time.Time) int { return http.StatusNotFound } }, err: "prometheus.url"},
		"refused":                {change: func(m *mesh) { m.Fails = func(string, time.Time) int { return http.StatusUnauthorized } }, err: "prometheus.url"},
		"refused later": {change: func(m *mesh) {
			start := time.Now()
			m.Fails = func(_ string, now time.Time) int {
				if now.Sub(start) > 15*time.Second && now.Sub(start) < time.Minute {
					return http.StatusUnauthorized
				}
				return 0
			}
		}, outcome: release.Healthy},
		"scraping has stopped": {change: func(m *mesh) {
			stopped := time.Now().Add(-10 * time.Second)
			m.Replicas = []prometheustest.Replica{{Missed: func(at time.Time) bool { return at.After(stopped) }}}
		}, outcome: release.Inconclusive, cause: Stale},
		"scraped too rarely":          {change: func(m *mesh) { m.Scrape = time.Minute }, options: func(o *Options) { o.Test.MaxDuration = 3 * time.Minute }, err: "analysis.maxDuration"},
		"codes are dropped":           {change: func(m *mesh) { m.dropped("app-canary", "request_protocol", "http") }, outcome: release.Inconclusive, cause: MissingLabels},
		"primary's codes are dropped": {change: func(m *mesh) { m.dropped("app-primary", "request_protocol", "http") }, outcome: release.Inconclusive, cause: MissingLabels},
		"codes are dropped, and latency alone judges": {change: func(m *mesh) { m.dropped("app-canary") }, options: func(o *Options) {
			o.Source.indicators, o.Test.Objectives = o.Source.indicators[1:2], o.Test.Objectives[1:2]
		}, outcome: release.Healthy},
		"codes were dropped before":     {change: func(m *mesh) { m.droppedUntil(0, "app-canary") }, outcome: release.Healthy},
		"codes are dropped for a while": {change: func(m *mesh) { m.droppedUntil(20*time.Second, "app-canary") }, outcome: release.Healthy},
		"a caller's codes are dropped, and a gateway's requests fail": {change: func(m *mesh) {
			m.dropped("app-canary")
			m.add(flow{workload: "app-canary", rate: 20, bad: 1, to: time.Minute})
		}, outcome: release.Unhealthy},
		"a caller's codes are dropped that calls rarely": {change: func(m *mesh) {
			for at := time.Second; at < 16*time.Minute; at += 70 * time.Second {
				m.gateways[0].Add(codeless("app-canary"), time.Now().Add(at), 1)
			}
		}, options: func(o *Options) { o.Test.MinRequests = 20 * 80 }, outcome: release.Inconclusive, cause: MissingLabels},
		"the status of gRPC is dropped": {change: func(m *mesh) { m.dropped("app-canary", "request_protocol", "grpc", "response_code", "200") }, outcome: release.Inconclusive, cause: MissingLabels},
		"gRPC": {change: func(m *mesh) {
			m.dropped("app-canary", "request_protocol", "grpc", "response_code", "200", "grpc_response_status", "0")
			m.dropped("app-primary", "request_protocol", "grpc", "response_code", "200", "grpc_response_status", "0")
		}, outcome: release.Healthy},
		"gRPC calls whose callers left before an answer": {change: func(m *mesh) {
			m.dropped("app-canary", "request_protocol", "grpc", "response_code", "0", "response_flags", "DC", "grpc_response_status", "")
			m.dropped("app-primary", "request_protocol", "grpc", "response_code", "0", "response_flags", "DC", "grpc_response_status", "")
		}, outcome: release.Healthy},
		"a bound that is not one": {options: func(o *Options) { o.Source.indicators[1].Latency.Duration = 250 * time.Millisecond }, err: "250 ms is not a bucket bound"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				m.both(flow{rate: 20}, flow{rate: 180})
				if c.change != nil {
					c.change(m)
				}
				o := m.options(t)
				if c.options != nil {
					c.options(&o)
				}
				v, err := Verify(t.Context(), o)
				if c.err != "" {
					if err == nil || !strings.Contains(err.Error(), c.err) {
						t.Fatalf("%v, want %q", err, c.err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if v.Outcome != c.outcome || v.Cause != c.cause {
					t.Errorf("%s %s: %s", v.Outcome, v.Cause, v.Reason)
				}
				if v.Outcome == release.Inconclusive {
					return
				}
				text, err := json.Marshal(v.Record)
				if err != nil {
					t.Fatal(err)
				}
				kept, err := ParseRecord(string(text))
				if err != nil {
					t.Fatal(err)
				}
				if again, _, err := kept.Replay(nil); err != nil || again.Outcome != v.Outcome || again.Reason != v.Reason {
					t.Errorf("judged again: %s: %s, %v; first: %s", again.Outcome, again.Reason, err, v.Reason)
				}
			})
		})
	}
	t.Run("labels that are dropped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newMesh(time.Second)
			m.gateways[0].Add(prometheustest.Labels{"__name__": "istio_requests_total", "response_code": "200"}, time.Now().Add(-time.Minute), 100)
			v, err := Verify(t.Context(), m.options(t))
			if err != nil || v.Outcome != release.Inconclusive || v.Cause != MissingLabels {
				t.Errorf("%+v, %v", v, err)
			}
		})
	})
}

// TestMarkers: the NaN that some servers have where a scrape failed, or a gateway ended, is no sample. It does not hold the verdict.
func TestMarkers(t *testing.T) {
	for name, missed := range map[string]func(since time.Duration, gone bool) bool{
		"scrapes that fail":   func(since time.Duration, _ bool) bool { return since > 10*time.Second && since < 14*time.Second },
		"a gateway that ends": func(since time.Duration, gone bool) bool { return gone && since > 10*time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				m.gateways = append(m.gateways, m.Target(prometheustest.Labels{"job": "envoy", "instance": "10.0.0.2:15090"}, 0))
				m.both(flow{rate: 20}, flow{rate: 180})
				m.Markers = true
				start := time.Now()
				m.Replicas = []prometheustest.Replica{{Missed: func(at time.Time) bool { return missed(at.Sub(start), at.Nanosecond() == 0) }}}
				o := m.options(t)
				o.Test.MinDuration = time.Minute
				o.Warn = func(text string) { t.Errorf("warned: %s", text) }
				if v, err := Verify(t.Context(), o); err != nil || v.Outcome != release.Healthy {
					t.Errorf("%s %s: %s, %v", v.Outcome, v.Cause, v.Reason, err)
				}
			})
		})
	}
}

// TestPace: counters that are sampled often are looked at as often, unless they are watched for hours.
func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		scrape time.Duration
		watch  bool
		want   time.Duration
	}{
		"sampled every second":             {scrape: time.Second, want: time.Second},
		"sampled every two seconds":        {scrape: 2 * time.Second, want: 2 * time.Second},
		"sampled more often than looked":   {scrape: 500 * time.Millisecond, want: time.Second},
		"sampled every 15 s":               {scrape: 15 * time.Second, want: 5 * time.Second},
		"sampled every second and watched": {scrape: time.Second, watch: true, want: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(c.scrape)
				m.both(flow{rate: 20}, flow{rate: 180})
				o := m.options(t)
				if c.watch {
					o.Healthy = func(*Verification) bool { return false }
				}
				v, err := Verify(t.Context(), o)
				if err != nil || len(v.Evaluations) < 2 {
					t.Fatalf("%+v, %v", v, err)
				}
				for i, e := range v.Evaluations[1:] {
					if got := e.At.Sub(v.Evaluations[i].At); got != c.want {
						t.Fatalf("%s between two looks, want %s", got, c.want)
					}
				}
			})
		})
	}
}

// codeless are the labels of requests that are counted without a code.
func codeless(workload string) prometheustest.Labels {
	all := requestLabels(workload, "", "-")
	delete(all, "response_code")
	return all
}

// TestDroppedForAll: a canary of whose requests none has a code never passes, and the next job judges it once they have one.
func TestDroppedForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Second)
		m.add(flow{workload: "app-primary", rate: 180, from: -3 * time.Minute, to: time.Hour})
		m.add(flow{workload: "app-canary", rate: 20, from: 4 * time.Minute, to: time.Hour})
		m.droppedUntil(4*time.Minute, "app-canary")
		o := m.options(t)
		o.Test.MaxDuration = 3 * time.Minute
		for _, want := range []struct {
			outcome release.VerdictOutcome
			cause   Cause
		}{{release.Inconclusive, MissingLabels}, {release.Healthy, ""}} {
			v, err := Verify(t.Context(), o)
			if err != nil || v.Outcome != want.outcome || v.Cause != want.cause {
				t.Fatalf("%s %s: %s, %v", v.Outcome, v.Cause, v.Reason, err)
			}
			o.Resume = &v.Record
			time.Sleep(5 * time.Minute)
		}
	})
}

// dropped adds a request each second, or nine to primary, that are counted without a code, but with other labels.
func (m *mesh) dropped(workload string, labels ...string) {
	m.droppedUntil(16*time.Minute, workload, labels...)
}

func (m *mesh) droppedUntil(until time.Duration, workload string, labels ...string) {
	all := codeless(workload)
	for i := 0; i < len(labels); i += 2 {
		all[labels[i]] = labels[i+1]
	}
	n := 1.0
	if workload == "app-primary" {
		n = 9
	}
	for at := -3 * time.Minute; at < until; at += time.Second {
		m.gateways[0].Add(all, time.Now().Add(at), n)
	}
}

// sidecar makes the canary's own side count a share of its requests.
func (m *mesh) sidecar(share float64) {
	pod := m.Target(prometheustest.Labels{"job": "envoy", "instance": "10.0.0.9:15090"}, 700*time.Millisecond)
	labels := requestLabels("app-canary", "200", "-")
	labels["reporter"] = "destination"
	for at := -time.Minute; at < 16*time.Minute; at += time.Second {
		pod.Add(labels, time.Now().Add(at), 20*share)
	}
}

// pod is a pod of the canary that is scraped so long after each scrape's time, and whose sidecar counts so many requests a
// second, between two times.
func (m *mesh) pod(offset time.Duration, rate float64, from, to time.Duration) *prometheustest.Target {
	pod := m.Target(prometheustest.Labels{"job": "envoy", "instance": fmt.Sprintf("10.0.1.%.0f:15090", offset.Seconds())}, offset)
	labels := requestLabels("app-canary", "200", "-")
	labels["reporter"] = "destination"
	for at := from; at < to; at += time.Second {
		pod.Add(labels, time.Now().Add(at), rate)
	}
	return pod
}

// TestPodsThatEnded: what a pod counted is not forgotten when it has been gone for more than an hour, and requests that
// vanish are still found then.
func TestPodsThatEnded(t *testing.T) {
	for name, c := range map[string]struct {
		second  float64 // what the pod that stays counts of the 2 requests a second
		outcome release.VerdictOutcome
		cause   Cause
	}{
		"all are counted": {2, release.Healthy, ""},
		"requests vanish": {1, release.Inconclusive, CountGap},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(15 * time.Second)
				m.both(flow{rate: 2, from: -time.Minute, to: 2 * time.Hour}, flow{rate: 18, from: -time.Minute, to: 2 * time.Hour})
				m.pod(time.Second, 2, -time.Minute, 10*time.Minute).End(time.Now().Add(10*time.Minute + 10*time.Second))
				m.pod(7*time.Second, c.second, 10*time.Minute, 2*time.Hour)
				o := m.options(t)
				o.Test.MinDuration, o.Test.MaxDuration = 80*time.Minute, 90*time.Minute
				o.Warn = func(text string) {
					if c.outcome == release.Healthy {
						t.Errorf("warned: %s", text)
					}
				}
				v, err := Verify(t.Context(), o)
				if err != nil || v.Outcome != c.outcome || v.Cause != c.cause {
					t.Errorf("%s %s: %s, %v", v.Outcome, v.Cause, v.Reason, err)
				}
			})
		})
	}
}

// TestPodsSampledApart: pods that are sampled at different times are compared with their callers as of the one that was
// sampled first. Else the requests of half a scrape look lost.
func TestPodsSampledApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(30 * time.Second)
		m.both(flow{rate: 100}, flow{rate: 900})
		m.pod(time.Second, 50, -time.Minute, 16*time.Minute)
		m.pod(8*time.Second, 50, -time.Minute, 16*time.Minute) // the look after the scrapes of the others has this one of the scrape before
		o := m.options(t)
		o.Warn = func(text string) { t.Errorf("warned: %s", text) }
		if v, err := Verify(t.Context(), o); err != nil || v.Outcome != release.Healthy {
			t.Errorf("%s %s: %s, %v", v.Outcome, v.Cause, v.Reason, err)
		}
	})
}

// downFrom makes queries fail from a time to another one.
func (m *mesh) downFrom(from, to time.Duration) {
	start := time.Now()
	m.Fails = func(_ string, now time.Time) int {
		if now.Sub(start) >= from && now.Sub(start) < to {
			return http.StatusServiceUnavailable
		}
		return 0
	}
}

// TestCredentials shows that every query carries what prometheus.httpConfig says.
func TestCredentials(t *testing.T) {
	p := &prometheustest.Server{}
	server := httptest.NewServer(p)
	defer server.Close()
	folder := t.TempDir()
	for file, text := range map[string]string{
		"token":  "secret",
		"config": "authorization: {credentials_file: token}\nhttp_headers: {X-Scope-OrgID: {values: [team-a]}}",
		"bad":    "autorization: {}",
	} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	source, err := NewSource(SourceOptions{URL: server.URL, HTTPConfig: filepath.Join(folder, "config")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Requests(context.Background(), "source", "app-canary", time.Now()); err != nil {
		t.Fatal(err)
	}
	if header := p.Asked()[0].Header; header.Get("Authorization") != "Bearer secret" || header.Get("X-Scope-OrgID") != "team-a" {
		t.Errorf("asked with %v", header)
	}
	if _, err := NewSource(SourceOptions{URL: server.URL, HTTPConfig: filepath.Join(folder, "bad")}); err == nil || !strings.Contains(err.Error(), "prometheus.httpConfig") {
		t.Errorf("a file with a wrong field: %v", err)
	}
}

// TestCredentialsStayWithPrometheus: the transport adds what prometheus.httpConfig says to every request, so to one that
// a redirect leads elsewhere too.
func TestCredentialsStayWithPrometheus(t *testing.T) {
	elsewhere := 0
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer evil.Close()
	for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
		server := httptest.NewServer(http.RedirectHandler(evil.URL+"/?query=x", status))
		defer server.Close()
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, []byte("authorization: {credentials: secret}\nhttp_headers: {X-Scope-OrgID: {secrets: [team-a]}}"), 0o600); err != nil {
			t.Fatal(err)
		}
		source, err := NewSource(SourceOptions{URL: server.URL, HTTPConfig: file})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := source.Requests(t.Context(), "source", "app-canary", time.Now()); err == nil || !strings.Contains(err.Error(), evil.URL+"; that is not followed") {
			t.Errorf("%d: error %v, want where it redirects to", status, err)
		}
	}
	if elsewhere != 0 {
		t.Error("another host got a query")
	}
}

func TestSLO(t *testing.T) {
	plain := func(s *SLO) string {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if s, err := ParseSLO("slo.yaml", nil); err != nil || plain(s) != plain(DefaultSLO()) {
		t.Errorf("an empty file: %v, %v", s, err)
	}
	for text, want := range map[string]string{
		"falseRollback: 0":  "falseRollback",
		"falsePass: 60":     "falsePass",
		"burst: 0":          "burst",
		"minRequests: 0":    "minRequests",
		"maxDuration: 0s":   "maxDuration",
		"minDuration: 1h":   "minDuration",
		"maxDuration: soon": "soon",
		"objective: 99":     "objective",
		"warmUp: 20m":       "warmUp",
		"warmUp: -1s":       "warmUp",
		"callersLeft: -1":   "callersLeft",
		"clientErrors: 100": "clientErrors",
		"cutStreams: x":     "cutStreams",
		"objectives: [{objective: 99, margin: 1}]":                                             "objectives[0].name",
		"objectives: [{name: a, objective: 100, margin: 1}]":                                   "objectives[0].objective",
		"objectives: [{name: a, objective: 99, margin: 0}]":                                    "objectives[0].margin",
		"objectives: [{name: a, objective: 99, margin: 1, good: x}]":                           "good and total",
		"objectives: [{name: a, objective: 99, margin: 1, latency: -1s}]":                      "latency",
		"objectives: [{name: a, objective: 9, margin: 1}, {name: a, objective: 9, margin: 1}]": "twice",
	} {
		if _, err := ParseSLO("slo.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// FuzzSLO shows that any file is rejected, or makes a test that judges without a crash and never passes a canary
// without events.
func FuzzSLO(f *testing.F) {
	for _, text := range []string{"", "falseRollback: 0.1\nburst: 20", "objectives: [{name: a, objective: 99.999, margin: 0.001, good: x, total: y}]", "minDuration: 0s\nminRequests: 1\nmaxDuration: 1ns"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		slo, err := ParseSLO("slo.yaml", []byte(text))
		if err != nil {
			return
		}
		s := slo.Test().Begin()
		pairs := make([]Pair, len(slo.Indicators()))
		if j := s.Add(Block{Elapsed: 1 << 60, Pairs: pairs}); j.Outcome != release.Inconclusive {
			t.Fatalf("without events: %s", j.Outcome)
		}
		for i := range pairs {
			pairs[i] = Pair{Tally{100, 1}, Tally{900, 1}}
		}
		for _, e := range s.Add(Block{Elapsed: 1 << 60, Pairs: pairs}).Evidence {
			if e.Against != e.Against || e.For != e.For {
				t.Fatalf("%+v", e)
			}
		}
	})
}

// FuzzRecord shows that any record is rejected or can be judged again.
func FuzzRecord(f *testing.F) {
	f.Add(`{"test":{"falseRollback":0.01,"falsePass":0.05,"burst":1,"objectives":[{"name":"a","budget":0.001,"margin":0.01}]},"blocks":[{"elapsed":1,"pairs":[[10,1,90,0]]}]}`)
	f.Add(`{"blocks":[{"pairs":[[1]]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := ParseRecord(text); err == nil {
			_, _, _ = r.Replay(nil)
			r.Requests()
		}
	})
}
