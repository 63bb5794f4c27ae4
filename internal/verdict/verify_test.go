package verdict

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/our-org/crossbill/internal/release"
)

// prometheus answers queries like a Prometheus that scrapes a gateway with a constant rate of requests to each
// track. The tests set what is wrong with it. The rehearsal's tests run against a real one.
type prometheus struct {
	start time.Time
	step  time.Duration // between two samples

	mu      sync.Mutex
	asked   []http.Header
	down    func(elapsed time.Duration) bool
	nan     bool
	stopped bool    // sampling stopped at the start
	labels  bool    // series have their labels
	seen    float64 // share of the canary's requests that its own side counts; 0: it has no sidecar
}

// started says whether Verify has its first readings: of two tracks and two objectives, the scrape interval,
// and the canary's requests by both sides.
func (p *prometheus) started() bool { return len(p.asked) > 7 }

func (p *prometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, r.Header.Clone())
	elapsed := time.Since(p.start)
	if p.down != nil && p.down(elapsed) {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	query := r.FormValue("query")
	type sample struct {
		Metric map[string]string `json:"metric"`
		Value  *[2]any           `json:"value,omitempty"`
		Values [][2]any          `json:"values,omitempty"`
	}
	sampled := time.Now()
	if p.stopped {
		elapsed, sampled = 2*time.Second, p.start.Add(-10*time.Minute)
	}
	result := []sample{}
	add := func(metric map[string]string, value float64) {
		text := fmt.Sprint(value)
		if p.nan && p.started() {
			text = "NaN"
		}
		result = append(result, sample{Metric: metric, Value: &[2]any{float64(time.Now().UnixMilli()) / 1000, text}})
	}
	count := 2000 * elapsed.Seconds()
	if strings.Contains(query, "app-primary") {
		count *= 9
	}
	kind := "vector"
	own := strings.Contains(query, `reporter="destination"`)
	named := strings.Contains(query, "destination_workload=")
	switch {
	case own && p.seen == 0:
	case strings.HasSuffix(query, "[10m]"):
		kind = "matrix"
		if !p.labels {
			break
		}
		var values [][2]any
		for i := range 10 {
			values = append(values, [2]any{float64(p.start.Add(-time.Duration(10-i)*p.step).UnixMilli()) / 1000, "1"})
		}
		result = append(result, sample{Metric: map[string]string{}, Values: values})
	case !p.labels && (named || strings.Contains(query, `reporter="source"`)):
	case strings.HasPrefix(query, "max(timestamp("):
		add(map[string]string{}, float64(sampled.UnixMilli())/1000)
	case strings.HasPrefix(query, "count("):
		add(map[string]string{}, 1)
	case strings.Contains(query, "duration_milliseconds_bucket"):
		add(map[string]string{"le": "500"}, count)
		add(map[string]string{"le": "+Inf"}, count)
	default:
		if own {
			count *= p.seen
		}
		add(map[string]string{"response_code": "200"}, count)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": kind, "result": result}})
}

func TestVerify(t *testing.T) {
	readBackoff = wait.Backoff{Duration: time.Millisecond, Steps: 2} // waiting does not help here
	for name, c := range map[string]struct {
		change  func(*prometheus)
		outcome release.VerdictOutcome
		cause   Cause
		err     string
	}{
		"healthy":              {func(p *prometheus) {}, release.Healthy, "", ""},
		"with a sidecar":       {func(p *prometheus) { p.seen = 1 }, release.Healthy, "", ""},
		"requests that vanish": {func(p *prometheus) { p.seen = 0.5 }, release.Inconclusive, CountGap, ""},
		"not a number":         {func(p *prometheus) { p.nan = true }, release.Inconclusive, NotANumber, ""},
		"down for a while": {func(p *prometheus) {
			p.down = func(e time.Duration) bool { return p.started() && e < 300*time.Millisecond }
		}, release.Healthy, "", ""},
		"down to the end":         {func(p *prometheus) { p.down = func(time.Duration) bool { return p.started() } }, release.Inconclusive, PrometheusDown, ""},
		"down at the first look":  {func(p *prometheus) { p.down = func(time.Duration) bool { return true } }, "", "", "prometheus.url"},
		"scraping has stopped":    {func(p *prometheus) { p.stopped = true }, release.Inconclusive, Stale, ""},
		"labels that are dropped": {func(p *prometheus) { p.labels = false }, release.Inconclusive, MissingLabels, ""},
		"scraped too rarely":      {func(p *prometheus) { p.step = time.Minute }, "", "", "analysis.maxDuration"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &prometheus{start: time.Now(), step: 20 * time.Millisecond, labels: true}
			c.change(p)
			server := httptest.NewServer(p)
			defer server.Close()
			slo := DefaultSLO()
			source, err := NewSource(SourceOptions{URL: server.URL, Namespace: "production", Indicators: slo.Objectives})
			if err != nil {
				t.Fatal(err)
			}
			test := slo.Test()
			test.MinDuration, test.MaxDuration = 300*time.Millisecond, 700*time.Millisecond
			v, err := Verify(t.Context(), Options{Source: source, Canary: "app-canary", Primary: "app-primary", Test: test, Interval: 30 * time.Millisecond})
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
			if v.Outcome != release.Healthy {
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
	}
}

// TestCredentials shows that every query carries what prometheus.httpConfig says.
func TestCredentials(t *testing.T) {
	p := &prometheus{start: time.Now(), step: time.Second, labels: true}
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
	if header := p.asked[0]; header.Get("Authorization") != "Bearer secret" || header.Get("X-Scope-OrgID") != "team-a" {
		t.Errorf("asked with %v", header)
	}
	if _, err := NewSource(SourceOptions{URL: server.URL, HTTPConfig: filepath.Join(folder, "bad")}); err == nil || !strings.Contains(err.Error(), "prometheus.httpConfig") {
		t.Errorf("a file with a wrong field: %v", err)
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
		pairs := make([]Pair, len(slo.Objectives))
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
