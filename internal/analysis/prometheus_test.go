package analysis

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/verdict"
)

// prometheus answers as a Prometheus does that scrapes a gateway (checked against that of package verdict's
// tests, which the rehearsal checks against a real one). It differs in that all requests are quick and that
// no sidecar reports.
type prometheus struct {
	start time.Time

	rate float64            // requests a second of each workload
	bad  map[string]float64 // share that fails, by workload
}

func (p *prometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query, elapsed := r.FormValue("query"), time.Since(p.start)
	type sample struct {
		Metric map[string]string `json:"metric"`
		Value  *[2]any           `json:"value,omitempty"`
		Values [][2]any          `json:"values,omitempty"`
	}
	seconds := func(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
	kind, result := "vector", []sample{}
	add := func(metric map[string]string, value float64) {
		result = append(result, sample{Metric: metric, Value: &[2]any{seconds(time.Now()), fmt.Sprint(value)}})
	}
	count := p.rate * elapsed.Seconds()
	share := 0.0
	for workload, bad := range p.bad {
		if strings.Contains(query, workload) {
			share = bad
		}
	}
	switch {
	case strings.Contains(query, `reporter="destination"`): // no sidecar
	case strings.HasSuffix(query, "[10m]"):
		kind = "matrix"
		var values [][2]any
		for i := range 10 {
			values = append(values, [2]any{seconds(p.start.Add(-time.Duration(10-i) * 20 * time.Millisecond)), "1"})
		}
		result = append(result, sample{Metric: map[string]string{}, Values: values})
	case strings.HasPrefix(query, "max(timestamp("):
		add(map[string]string{}, seconds(time.Now()))
	case strings.HasPrefix(query, "count("):
		add(map[string]string{}, 1)
	case strings.Contains(query, "duration_milliseconds_bucket"):
		add(map[string]string{"le": "500"}, count)
		add(map[string]string{"le": "+Inf"}, count)
	default:
		add(map[string]string{"response_code": "200"}, count*(1-share))
		add(map[string]string{"response_code": "500"}, count*share)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": kind, "result": result}})
}

// judgedBy are options for a release whose requests a Prometheus counts, and which is decided quickly.
func judgedBy(t *testing.T, p *prometheus, r Rollout) Options {
	t.Helper()
	p.start = time.Now()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	slo := verdict.DefaultSLO()
	source, err := verdict.NewSource(verdict.SourceOptions{URL: server.URL, Namespace: "shop", Indicators: slo.Objectives})
	if err != nil {
		t.Fatal(err)
	}
	test := slo.Test()
	test.MinDuration, test.MaxDuration = 300*time.Millisecond, 700*time.Millisecond
	return Options{
		Rollout: r, App: "app", Canary: "app-canary", Primary: "app-primary",
		Source: source, Test: test, Interval: 30 * time.Millisecond,
	}
}

// The three ways in which requests can go.
func fine() *prometheus { return &prometheus{rate: 4000} }
func failing() *prometheus {
	return &prometheus{rate: 4000, bad: map[string]float64{"app-canary": 0.5}}
}
func idle() *prometheus { return &prometheus{rate: 20} }

// counted counts the requests of a probe.
type counted struct {
	mu      sync.Mutex
	headers []string
}

func (c *counted) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers = append(c.headers, r.Method+" "+r.Header.Get("X-Track")+" "+r.UserAgent())
}
