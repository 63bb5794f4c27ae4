package notify

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"

	"github.com/our-org/crossbill/internal/release"
)

// Push gives a Pushgateway (https://github.com/prometheus/pushgateway) the metrics of a command's last run, in
// the group of job "crossbill", namespace, app and command; and what the release came to by it, in the group of
// namespace and app, where the next command's values take its place. Times are seconds, the weight is percent.
func Push(ctx context.Context, address string, e *Event) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	ofApp := func() *push.Pusher {
		return push.New(address, "crossbill").Client(&http.Client{Timeout: 10 * time.Second}).Grouping("namespace", e.Namespace).Grouping("app", e.App)
	}
	run, app := ofApp().Grouping("command", e.Command), ofApp()
	gauge(run, "crossbill_verb_last_run_timestamp_seconds", "When the command ended last.", float64(e.Ended.UnixMilli())/1000)
	gauge(run, "crossbill_verb_duration_seconds", "How long its last run took.", e.Ended.Sub(e.Begun).Seconds())
	gauge(run, "crossbill_verb_exit_code", "What its last run ended with; 0 is success.", float64(e.ExitCode))
	err := run.PushContext(ctx)
	if e.Release != nil && err == nil {
		state(app, e)
		err = app.AddContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("Pushgateway: %w", err)
	}
	return nil
}

func gauge(to *push.Pusher, name, help string, value float64) {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	g.Set(value)
	to.Collector(g)
}

// state is what the release came to.
func state(to *push.Pusher, e *Event) {
	r, weight := e.Release, 0.0
	if e.Outcome == "" && (r.Stage == release.StageCanary || r.Stage == release.StageVerified || r.Stage == release.StagePromoting) {
		weight = float64(r.Weight)
	}
	gauge(to, "crossbill_canary_weight_percent", "The canary's share of the traffic.", weight)
	if r.Verdict != nil {
		gauge(to, "crossbill_canary_requests", "The canary's requests that the last verdict rests on.", float64(r.Verdict.Requests))
	}
	if e.Outcome == "" {
		return
	}
	rolledBack := 0.0
	if !e.Outcome.Good() {
		rolledBack = 1
	}
	gauge(to, "crossbill_release_duration_seconds", "How long the release took that ended last.", e.Ended.Sub(r.StartedAt).Seconds())
	gauge(to, "crossbill_release_rolled_back", "1 if that release was rolled back, else 0.", rolledBack)
}
