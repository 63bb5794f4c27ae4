package commands_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict"
	"github.com/our-org/crossbill/rehearsal/load"
)

// TestVerdict judges versions that are bad in different ways, and a good one, by what the gateway's
// counters say, through Prometheus.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		image  string
		code   int
		says   string
		within time.Duration // from its first request until it gets no more
		long   bool          // left out of a short run
	}{
		"healthy":         {"two", 0, "healthy: availability: ", 0, false}, // not 100%: this machine may lose a request
		"5% errors":       {"fails 5", 3, "availability:", 30 * time.Second, true},
		"20% errors":      {"fails 20", 3, "availability:", 15 * time.Second, true},
		"only errors":     {"fails", 3, "availability:", 15 * time.Second, true},
		"added latency":   {"slow", 3, "latency:", time.Minute, false},
		"nobody calls it": {"two", 4, "no request reached", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.long {
				onlyLong(t)
			}
			t.Parallel()
			a := released(t, "verdict-"+strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
					return r
				}
				return -1
			}, name))
			var traffic *load.Generator
			duration := "90s"
			if c.code == 4 {
				duration = "6s"
			} else {
				traffic = load.Start("http://"+running.GatewayAddress+"/", a.served(), 100)
				defer traffic.Stop()
				time.Sleep(2 * time.Second)
			}
			a.must("canary", "--image", images[c.image], "--weight", "50")
			file := filepath.Join(t.TempDir(), "verdict.json")
			verify := []string{"verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", duration, "--record", file}
			if c.image != "slow" { // how quickly a pod answers says something of this machine
				verify = append(verify, "--config", byAvailability(t))
			}

			before := a.state()
			if code, out := a.crossbill(append(verify, "--observe")...); code != c.code || !strings.Contains(out, "nothing was changed") {
				t.Errorf("--observe: exit code %d\n%s", code, out)
			}
			delete(before, "Deployment "+a.name+"-canary") // its controller writes its status when pods die
			after := a.state()
			for object, version := range before {
				if after[object] != version {
					t.Errorf("--observe changed %s", object)
				}
			}
			if c.within > 0 { // a fresh canary, to see how long it is on the route
				a.must("rollback")
				a.must("canary", "--again", "--image", images[c.image], "--weight", "50")
			}
			routed := time.Now()
			code, out := a.crossbill(verify...)
			if code != c.code || !strings.Contains(out, c.says) {
				t.Errorf("exit code %d, want %d and %q\n%s", code, c.code, c.says, out)
			}
			status := a.status()
			if c.within == 0 {
				if status.Release == nil || status.Release.Verdict == nil || c.code == 4 && status.Release.Verdict.Cause != string(verdict.NoTraffic) {
					t.Errorf("the ledger has %+v", status.Release)
				}
			} else {
				version := c.image
				last := traffic.Seen(version, true)
				t.Logf("%s: on the route until %s after the canary had its share; %s", name, last.Sub(routed).Round(100*time.Millisecond), out[strings.LastIndex(out, "crossbill: "):])
				if last.Sub(routed) > c.within {
					t.Errorf("it was on the route for %s, %s is allowed", last.Sub(routed), c.within)
				}
				if a.weights() != atRest || status.History[0].Outcome != release.OutcomeRolledBack {
					t.Errorf("weights %+v, history %+v", a.weights(), status.History[0])
				}
			}

			// The same counts make the same verdict, from the ledger and from the file.
			if c.code == 4 {
				return
			}
			for _, from := range [][]string{{"replay"}, {"replay", "--file", file}} {
				if code, out := a.crossbill(from...); code != c.code || !strings.Contains(out, "again: "+map[int]string{0: "healthy", 3: "unhealthy"}[c.code]) {
					t.Errorf("%v: exit code %d\n%s", from, code, out)
				}
			}
			strict := filepath.Join(t.TempDir(), "strict.yaml")
			if err := os.WriteFile(strict, []byte("minRequests: 1000000\nobjectives: [{name: availability, objective: 99.9, margin: 1}]"), 0o644); err != nil {
				t.Fatal(err)
			}
			if c.code == 0 {
				if code, out := a.crossbill("replay", "--slo", strict); code != 4 {
					t.Errorf("replay by more requests than there were: exit code %d\n%s", code, out)
				}
			}
			var kept struct{ Outcome release.VerdictOutcome }
			text, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(text, &kept)
			}
			if err != nil || (kept.Outcome == release.Healthy) != (c.code == 0) {
				t.Errorf("the record says %q, %v", kept.Outcome, err)
			}
		})
	}
}

// byAvailability is a configuration that does not judge by latency.
func byAvailability(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "crossbill.yaml")
	if err := os.WriteFile(file, []byte("analysis:\n  objectives:\n    - {name: availability, objective: 99.9, margin: 1}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestTwoReplicas judges by two Prometheus servers that answer in turn: each has scraped at moments of its own, so
// counters seem to fall and to rise from one answer to the next. On the way, it counts what a good release asks of the
// API server.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]int{"two": 0, "fails 5": 3} {
		t.Run(image, func(t *testing.T) {
			t.Parallel()
			a := released(t, "replicas-"+strings.ReplaceAll(image, " ", "-"))
			traffic := load.Start("http://"+running.GatewayAddress+"/", a.served(), 100)
			defer traffic.Stop()
			var said strings.Builder
			run := func(args ...string) int {
				code, out := a.crossbill(append(args, "--prometheus", running.ReplicasURL, "--config", byAvailability(t), "--verbose")...)
				fmt.Fprintf(&said, "%s: exit code %d\n%s", args[0], code, out)
				return code
			}
			steps := map[string]int{"canary": run("canary", "--image", images[image], "--weight", "50")}
			steps["verify"] = run("verify", "--interval", "1s", "--max-duration", "90s")
			if want == 0 {
				steps["promote"] = run("promote")
				steps["cleanup"] = run("cleanup") // waits until the canary's counters rest
				a.cheap(said.String())
			}
			if steps["canary"] != 0 || steps["verify"] != want || steps["promote"] != 0 || steps["cleanup"] != 0 {
				t.Errorf("exit codes %v, want %d from verify\n%s", steps, want, said.String())
			}
			if a.weights() != atRest || a.image("canary") != "" {
				t.Errorf("weights %+v, canary %q", a.weights(), a.image("canary"))
			}
		})
	}
}

// testProbe: an app that nobody calls is judged by verify's own requests, which a route of the app's leads
// to the canary.
func testProbe(t *testing.T) {
	t.Parallel()
	a := released(t, "probe")
	_, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Patch(t.Context(), "probe-vs", types.JSONPatchType, []byte(
		`[{"op":"add","path":"/spec/http/0","value":{"name":"testers","match":[{"headers":{"x-track":{"exact":"canary"}}}],"route":[{"destination":{"host":"probe-service","subset":"canary"}}]}},
		{"op":"replace","path":"/spec/hosts","value":["127.0.0.1"]}]`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.mesh.NetworkingV1().Gateways(a.namespace).Patch(t.Context(), "public-gateway", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/servers/0/hosts","value":["127.0.0.1"]}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	a.reached(running.GatewayAddress, "127.0.0.1")
	source, err := verdict.NewSource(verdict.SourceOptions{URL: running.PrometheusURL, Namespace: a.namespace})
	if err != nil {
		t.Fatal(err)
	}
	a.eventually(func() error { // else primary's one request is counted while the canary is judged
		seen, err := source.Requests(t.Context(), "source", "probe-primary", time.Now())
		if err == nil && len(seen) == 0 {
			err = errors.New("the request is not counted yet")
		}
		return err
	})
	a.must("canary", "--image", images["fails 20"])
	probe := []string{"verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "30s", "--probe", "http://127.0.0.1/", "--probe-rate", "40"}
	if code, out := a.crossbill(append(probe, "--probe-header", "no header")...); code != 2 || !strings.Contains(out, "--probe-header") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	code, out := a.crossbill(append(probe, "--probe-header", "x-track: canary")...)
	if code != 3 || !strings.Contains(out, "of the canary's requests are the probe's") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// TestLostScrape: a scrape that fails just before the end of a verification hides every counter at that moment. The
// samples before it are fresh, so it changes nothing. When no scrape succeeds any more, nobody can say that a
// workload is not called.
func TestLostScrape(t *testing.T) {
	t.Parallel()
	started := time.Now()
	var losing atomic.Bool
	var lost atomic.Int64
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if losing.Load() {
			lost.Add(1)
			http.Error(w, "lost", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		for _, reporter := range []string{"source", "destination"} {
			fmt.Fprintf(w, "istio_requests_total{reporter=%q,destination_workload=\"lost-canary\",destination_workload_namespace=\"lost\",response_code=\"200\"} %d\n",
				reporter, 2*time.Since(started).Milliseconds())
		}
	}))
	defer gateway.Close()

	slo := verdict.DefaultSLO()
	slo.Objectives = slo.Objectives[:1]
	source, err := verdict.NewSource(verdict.SourceOptions{URL: prometheus(t, gateway.Listener.Addr().String()), Namespace: "lost", Indicators: slo.Indicators()})
	if err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		interval, err := source.ScrapeInterval(t.Context(), "lost-canary", time.Now())
		if err == nil && interval > 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("the counters are not sampled: %s, %v", interval, err)
		}
	}
	test := slo.Test()
	test.Whole, test.MinDuration, test.MaxDuration = true, time.Second, 10500*time.Millisecond
	before := int64(0)
	v, err := verdict.Verify(t.Context(), verdict.Options{
		Source: source, Canary: "lost-canary", Test: test, Interval: 100 * time.Millisecond,
		Report: func(e verdict.Evaluation) {
			losing.Store(e.Elapsed > 8*time.Second)
			for losing.Load() && lost.Load() == 0 && t.Context().Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			before = lost.Load()
		},
	})
	if err != nil || v.Outcome != release.Healthy || before == 0 {
		t.Errorf("%d scrapes were lost before the last look; %+v, %v", before, v, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	if err := source.Quiet(ctx, "lost-canary"); err == nil {
		t.Error("calls that cannot be seen were taken for none")
	}
}

// prometheus runs a Prometheus that scrapes one target every two seconds, and gives its URL.
func prometheus(t *testing.T, target string) string {
	t.Helper()
	folder := t.TempDir()
	config := filepath.Join(folder, "prometheus.yaml")
	if err := os.WriteFile(config, []byte("global: {scrape_interval: 2s, scrape_timeout: 2s}\nscrape_configs: [{job_name: gateway, static_configs: [{targets: ["+target+"]}]}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const address = "127.0.0.1:9091" // nobody else's in the sandbox
	server := exec.Command(binaries.Prometheus, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(folder, "data"), "--web.listen-address="+address)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	return "http://" + address
}
