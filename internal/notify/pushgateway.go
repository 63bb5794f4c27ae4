package notify

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"

	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/release"
)

// Pushgateway (https://github.com/prometheus/pushgateway) gets the metrics of a command's last run, in the group of
// job "crossbill", namespace, app and command; and those of the release, in the group of namespace and app, where
// the next command's values replace them. Times are in seconds, the weight is in percent.
type Pushgateway struct {
	URL string

	Transport http.RoundTripper // default http.DefaultTransport
}

// Notify pushes the metrics of an event. Errors say what the Pushgateway answered after a few attempts.
func (p Pushgateway) Notify(ctx context.Context, e *Event) error {
	client := httpretry.Client(p.Transport)
	group := func() *push.Pusher {
		return push.New(p.URL, "crossbill").Client(client).Grouping("namespace", e.Namespace).Grouping("app", e.App)
	}
	command := group().Grouping("command", e.Command)
	addGauge(command, "crossbill_command_last_run_timestamp_seconds", "When the command last finished.", float64(e.FinishedAt.UnixMilli())/1000)
	addGauge(command, "crossbill_command_duration_seconds", "How long its last run took.", e.FinishedAt.Sub(e.StartedAt).Seconds())
	addGauge(command, "crossbill_command_exit_code", "The exit code of its last run; 0 is success.", float64(e.ExitCode))
	if err := command.PushContext(ctx); err != nil {
		return fmt.Errorf("Pushgateway: %w", err)
	}
	if e.Release == nil {
		return nil
	}
	app := group()
	addReleaseGauges(app, e)
	if err := app.AddContext(ctx); err != nil {
		return fmt.Errorf("Pushgateway: %w", err)
	}
	return nil
}

func addGauge(to *push.Pusher, name, help string, value float64) {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	g.Set(value)
	to.Collector(g)
}

// addReleaseGauges adds where the release is now.
func addReleaseGauges(to *push.Pusher, e *Event) {
	r, weight := e.Release, 0.0
	if e.Outcome == "" && (r.Stage == release.StageCanary || r.Stage == release.StageVerified || r.Stage == release.StagePromoting) {
		weight = float64(r.Weight)
	}
	addGauge(to, "crossbill_canary_weight_percent", "The canary's share of the traffic.", weight)
	if r.Verdict != nil {
		addGauge(to, "crossbill_canary_requests", "The canary's requests that the last verdict is based on.", float64(r.Verdict.Requests))
	}
	if e.Outcome == "" || e.Outcome == release.OutcomeSuperseded { // which is neither success nor failure
		return
	}
	rolledBack := 0.0
	if !e.Outcome.Good() {
		rolledBack = 1
	}
	addGauge(to, "crossbill_release_duration_seconds", "How long the last finished release took.", e.FinishedAt.Sub(r.StartedAt).Seconds())
	addGauge(to, "crossbill_release_rolled_back", "1 if that release was rolled back, else 0.", rolledBack)
}
