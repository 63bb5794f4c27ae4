package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"

	"github.com/our-org/crossbill/release"
)

// Push gives a Pushgateway (https://github.com/prometheus/pushgateway) the metrics of a verb's last run, in
// the group of job "crossbill", namespace, app and verb. Times are seconds, the weight is percent.
func Push(ctx context.Context, address string, e *Event) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	pusher := push.New(address, "crossbill").Client(&http.Client{Timeout: 10 * time.Second}).
		Grouping("namespace", e.Namespace).Grouping("app", e.App).Grouping("verb", e.Verb)
	gauge := func(name, help string, value float64) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		g.Set(value)
		pusher.Collector(g)
	}
	gauge("crossbill_verb_last_run_timestamp_seconds", "When the verb ended last.", float64(e.Ended.UnixMilli())/1000)
	gauge("crossbill_verb_duration_seconds", "How long its last run took.", e.Ended.Sub(e.Begun).Seconds())
	gauge("crossbill_verb_exit_code", "What its last run ended with; 0 is success.", float64(e.ExitCode))
	if r := e.Release; r != nil {
		weight := 0.0
		if e.Outcome == "" && (r.Stage == release.StageCanary || r.Stage == release.StageVerified || r.Stage == release.StagePromoting) {
			weight = float64(r.Weight)
		}
		gauge("crossbill_canary_weight_percent", "The canary's share of the traffic after it.", weight)
		if r.Verdict != nil {
			gauge("crossbill_canary_requests", "The canary's requests that its last verdict rests on.", float64(r.Verdict.Requests))
		}
		if e.Outcome != "" {
			gauge("crossbill_release_duration_seconds", "How long the release took that the verb ended.", e.Ended.Sub(r.StartedAt).Seconds())
			rolledBack := 0.0
			if !e.Outcome.Good() {
				rolledBack = 1
			}
			gauge("crossbill_release_rolled_back", "1 if that release was rolled back, else 0.", rolledBack)
		}
	}
	if err := pusher.PushContext(ctx); err != nil {
		return fmt.Errorf("Pushgateway: %w", err)
	}
	return nil
}
