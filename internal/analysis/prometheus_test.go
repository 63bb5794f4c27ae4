package analysis

import (
	"encoding/json"
	"fmt"
	"math"
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

// scraped is the time between two scrapes.
const scraped = 20 * time.Millisecond

func (p *prometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.FormValue("query")
	type sample struct {
		Metric map[string]string `json:"metric"`
		Value  *[2]any           `json:"value,omitempty"`
		Values [][2]any          `json:"values,omitempty"`
	}
	seconds := func(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
	kind, result := "vector", []sample{}
	// add adds a counter that grows by so much a second: its value, or its samples if the query asks for them.
	add := func(metric map[string]string, rate float64) {
		count := func(at time.Time) string { return fmt.Sprint(math.Floor(rate * max(0, at.Sub(p.start).Seconds()))) }
		one := sample{Metric: metric}
		if kind == "matrix" {
			now := time.Now()
			for at := now.Add(-5 * time.Second).Truncate(scraped); !at.After(now); at = at.Add(scraped) {
				one.Values = append(one.Values, [2]any{seconds(at), count(at)})
			}
		} else {
			one.Value = &[2]any{seconds(time.Now()), count(time.Now())}
		}
		result = append(result, one)
	}
	if strings.HasSuffix(query, "ms]") {
		kind = "matrix"
	}
	switch {
	case strings.Contains(query, `reporter="destination"`), strings.Contains(query, `"unknown"`): // no sidecar, no stray requests
	case strings.HasPrefix(query, "count("):
		result = append(result, sample{Metric: map[string]string{}, Value: &[2]any{seconds(time.Now()), "1"}})
	default:
		for _, workload := range []string{"app-canary", "app-primary"} {
			if !strings.Contains(query, workload) {
				continue
			}
			if strings.Contains(query, "duration_milliseconds_bucket") {
				add(map[string]string{"destination_workload": workload, "le": "500"}, p.rate)
				add(map[string]string{"destination_workload": workload, "le": "+Inf"}, p.rate)
				continue
			}
			add(map[string]string{"destination_workload": workload, "response_code": "200"}, p.rate*(1-p.bad[workload]))
			add(map[string]string{"destination_workload": workload, "response_code": "500"}, p.rate*p.bad[workload])
		}
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
	source, err := verdict.NewSource(verdict.SourceOptions{URL: server.URL, Namespace: "shop", Indicators: slo.Indicators()})
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
