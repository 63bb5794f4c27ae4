package analysis

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
	"github.com/our-org/crossbill/internal/verdict/prometheustest"
)

// world is an app whose canary waits, with a Prometheus that counts its requests, by the clock of a test
// (testing/synctest). Its ledger is a real one; of the rollout around it there is nothing but what can fail: the API
// server may be away.
type world struct {
	*testing.T
	prometheus *prometheustest.Server
	gateway    *prometheustest.Target
	start      time.Time

	mu     sync.Mutex
	ledger *release.Ledger
	away   bool                                  // the API server
	drift  []string                              // what somebody else has changed
	seen   func(time.Duration) rollout.Witnessed // what the pods show at a time; nil: they are fine
	calls  []string
	warned []string
}

// newWorld has a canary with 10% of 1000 requests a second, from now on.
func newWorld(t *testing.T) *world {
	w := &world{T: t, prometheus: &prometheustest.Server{Scrape: 5 * time.Second}, start: time.Now().UTC()}
	w.gateway = w.prometheus.Target(prometheustest.Labels{"job": "envoy"}, 300*time.Millisecond)
	w.ledger = &release.Ledger{Version: release.LedgerVersion, App: "app"}
	if _, err := w.ledger.Start(release.Release{ID: "one", Image: image, Previous: "p", Weight: 10, Template: "t"}, "me", w.start); err != nil {
		t.Fatal(err)
	}
	if err := w.ledger.Reach(release.StageCanary, "me", w.start); err != nil {
		t.Fatal(err)
	}
	w.flow("app-primary", 900, 0.0005, -2*time.Minute, time.Hour)
	return w
}

// flow is requests to a workload, a second, of which a share fails, between two times from the start.
func (w *world) flow(workload string, rate, bad float64, from, to time.Duration) {
	w.reported("source", workload, rate, bad, from, to)
}

// reported is a flow as one side of it reports it.
func (w *world) reported(by, workload string, rate, bad float64, from, to time.Duration) {
	w.coded(by, workload, "200", rate*(1-bad), from, to)
	w.coded(by, workload, "500", rate*bad, from, to)
}

// coded is requests to a workload that all get one code.
func (w *world) coded(by, workload, code string, rate float64, from, to time.Duration) {
	labels := prometheustest.Labels{"__name__": "istio_requests_total", "reporter": by, "destination_workload": workload, "destination_workload_namespace": "shop", "response_code": code, "response_flags": "-"}
	requests := w.gateway.Counter(labels)
	labels["__name__"] = "istio_request_duration_milliseconds_bucket"
	bucket := func(le string) *prometheustest.Counter { labels["le"] = le; return w.gateway.Counter(labels) }
	quick, all := bucket("500"), bucket("+Inf")
	owed := 0.0
	for at := from; at < to && rate > 0; at += time.Second {
		owed += rate
		n := float64(int(owed))
		if owed -= n; n == 0 {
			continue
		}
		for _, counter := range []*prometheustest.Counter{requests, quick, all} {
			counter.Add(w.start.Add(at), n)
		}
	}
}

// options judge the world's canary.
func (w *world) options() Options {
	slo := verdict.DefaultSLO()
	source, err := verdict.NewSource(verdict.SourceOptions{URL: "http://prometheus.test", Transport: w.prometheus, Namespace: "shop", Indicators: slo.Indicators()})
	if err != nil {
		w.Fatal(err)
	}
	return Options{
		Rollout: w, App: "app", Canary: "app-canary", Primary: "app-primary",
		Source: source, Test: slo.Test(), WarmUp: slo.WarmUp.Duration, Interval: 5 * time.Second,
		Warn: func(text string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.warned = append(w.warned, text)
		},
	}
}

// after does something at a time from the start.
func (w *world) after(d time.Duration, do func(l *release.Ledger)) {
	time.AfterFunc(time.Until(w.start.Add(d)), func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		do(w.ledger)
	})
}

// did compares what was done with what was to be; times are compared where they are wanted.
func (w *world) did(want []string) {
	w.Helper()
	same := len(want) == len(w.calls)
	for i := range want {
		same = same && strings.HasPrefix(w.calls[i], want[i])
	}
	if !same {
		w.Errorf("it did %q, want %q", w.calls, want)
	}
}

// awayFrom lets the API server be away between two times.
func (w *world) awayFrom(from, to time.Duration) {
	w.after(from, func(*release.Ledger) { w.away = true })
	w.after(to, func(*release.Ledger) { w.away = false })
}

// blindFrom lets Prometheus be away between two times.
func (w *world) blindFrom(from, to time.Duration) {
	w.prometheus.Fails = func(_ string, now time.Time) int {
		if at := now.Sub(w.start); at >= from && at < to {
			return http.StatusServiceUnavailable
		}
		return 0
	}
}

func (w *world) note(call string) {
	w.calls = append(w.calls, fmt.Sprintf("%s at %s", call, time.Since(w.start).Truncate(time.Second)))
}

func (w *world) Status(context.Context) (*rollout.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, errDown
	}
	copied, err := release.ParseLedger("app", w.ledger.String())
	if err != nil {
		return nil, err
	}
	return &rollout.Status{App: "app", Release: copied.Release, History: copied.History, Drift: slices.Clone(w.drift)}, nil
}

func (w *world) Judge(_ context.Context, v release.Verdict, rollback bool) (rollout.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return rollout.Result{}, errDown
	}
	if err := w.ledger.Judge(v, "me", time.Now().UTC()); err != nil {
		return rollout.Result{}, &rollout.StageError{Err: err}
	}
	w.note(string(v.Outcome))
	if rollback && v.Outcome == release.Unhealthy {
		return w.end()
	}
	return rollout.Result{Command: "verify", Message: string(v.Outcome)}, nil
}

func (w *world) Rollback(context.Context, string, string, bool) (rollout.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return rollout.Result{}, errDown
	}
	w.note("rollback")
	return w.end()
}

// end ends the release.
func (w *world) end() (rollout.Result, error) {
	at := time.Now().UTC()
	if err := errors.Join(w.ledger.Reach(release.StageRollingBack, "me", at), w.ledger.Finish(release.OutcomeRolledBack, "me", at)); err != nil {
		return rollout.Result{}, err
	}
	return rollout.Result{Command: "verify", Outcome: release.OutcomeRolledBack, Message: "primary has it again"}, nil
}

func (w *world) Promote(context.Context) (rollout.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.ledger.Promotable(); err != nil {
		return rollout.Result{}, &rollout.StageError{Err: err}
	}
	r := w.ledger.Release
	if age := time.Since(r.Verdict.At); age > 10*time.Minute {
		return rollout.Result{}, &rollout.StaleVerdictError{ReleaseID: r.ID, Age: age, Most: 10 * time.Minute}
	}
	w.note("promote")
	return rollout.Result{Command: "promote", Release: r, Message: "promoted"}, nil
}

func (w *world) Witness(_ context.Context, r *release.Release) (Witness, error) {
	of := r.Subject()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, errDown
	}
	return look{func() (rollout.Witnessed, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.away {
			return rollout.Witnessed{}, errDown
		}
		seen := rollout.Witnessed{PrimaryWhole: true}
		if w.seen != nil {
			seen = w.seen(time.Since(w.start))
		}
		seen.Moved = w.ledger.Judgeable(&of)
		return seen, nil
	}, w}, nil
}

// look is a witness.
type look struct {
	look func() (rollout.Witnessed, error)
	of   Rollout
}

func (l look) Look() (rollout.Witnessed, error)                  { return l.look() }
func (l look) Live(ctx context.Context) (*rollout.Status, error) { return l.of.Status(ctx) }
