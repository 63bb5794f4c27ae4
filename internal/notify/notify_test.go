package notify

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// server is a handler that is reached without a network, so that synctest controls the time. Without a handler
// no connection can be made.
type server struct{ handler http.Handler }

func (s server) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.handler == nil {
		return nil, errors.New("connection refused")
	}
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

var started = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// unhealthyCanary is the event of a verify that found the canary unhealthy.
func unhealthyCanary(outcome release.Outcome) *Event {
	r := &release.Release{
		ID: "0123456789ab", Image: "registry.example.com/app@sha256:" + strings.Repeat("a", 64), Stage: release.StageRollingBack, Weight: 10, StartedAt: started.Add(-time.Minute), Reason: "too many errors",
		PipelineURL: "https://gitlab.example.com/infra/deploy/-/pipelines/9", Verdict: &release.Verdict{Outcome: release.Unhealthy, Requests: 194, Evidence: "long"},
	}
	return &Event{
		Command: "verify", App: "shop", Namespace: "production", Release: r, ReleaseID: r.ID, Outcome: outcome, Result: Unhealthy, ExitCode: 3, Message: "unhealthy: <!channel> & more",
		StartedAt: started, FinishedAt: started.Add(42 * time.Second),
		Steps: []Step{{started.Add(time.Second), "VirtualService shop-vs", "routes 100% to primary"}},
	}
}

// TestWhoIsNotified is which events are sent, and what each means for the Deployment in GitHub.
func TestWhoIsNotified(t *testing.T) {
	inFlight, promoted := &release.Release{ID: "one", Stage: release.StageCanary}, &release.Release{ID: "one", Stage: release.StagePromoted}
	for name, test := range map[string]struct {
		event      Event
		want       bool
		wantGitHub string // "" leaves the Deployment as it is
	}{
		"canary has traffic":       {Event{Command: "canary", Release: inFlight, Result: Succeeded}, true, "in_progress"},
		"first release":            {Event{Command: "canary", Release: inFlight, Outcome: release.OutcomeFirst, Result: Succeeded}, true, "success"},
		"primary runs the digest":  {Event{Command: "canary", Release: inFlight, Outcome: release.OutcomeUnchanged, Result: Succeeded}, true, "success"},
		"canary of a promoted one": {Event{Command: "canary", Release: promoted, Result: Succeeded}, true, "success"},
		"canary never ready":       {Event{Command: "canary", Result: NotReady}, true, "failure"},
		"canary, API server down":  {Event{Command: "canary", Result: Failed}, true, "error"},
		"canary refused":           {Event{Command: "canary", Result: Refused}, false, ""},
		"healthy, waits":           {Event{Command: "verify", Release: inFlight, Result: Succeeded}, true, "pending"},
		"unhealthy":                {Event{Command: "verify", Result: Unhealthy}, true, "failure"},
		"inconclusive, goes on":    {Event{Command: "verify", Result: Inconclusive}, true, "in_progress"},
		"promoted":                 {Event{Command: "promote", Release: inFlight, Result: Succeeded}, true, "success"},
		"cleaned up":               {Event{Command: "cleanup", Release: promoted, Result: Succeeded}, true, "success"},
		"cleanup did not finish":   {Event{Command: "cleanup", Result: Failed}, true, ""},
		"rolled back":              {Event{Command: "rollback", Release: inFlight, Result: Succeeded}, true, "failure"},
		"nothing to roll back":     {Event{Command: "rollback", Result: Succeeded}, false, ""},
		"guard left it alone":      {Event{Command: "guard", Release: inFlight, Result: Succeeded}, false, ""},
		"guard rolled back":        {Event{Command: "guard", Release: inFlight, Outcome: release.OutcomeRolledBack, Result: Succeeded}, true, "failure"},
		"guard cleaned up":         {Event{Command: "guard", Release: inFlight, Outcome: release.OutcomePromoted, Result: Succeeded}, true, "success"},
		"waits in the line":        {Event{Command: "queue", Result: Waits}, true, "queued"},
		"has waited for too long":  {Event{Command: "queue", Result: Waited}, true, "inactive"},
		"has its turn":             {Event{Command: "queue", Result: Succeeded}, false, ""},
		"guard failed":             {Event{Command: "guard", Result: Failed}, true, "error"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.event.noteworthy(); got != test.want {
				t.Errorf("noteworthy %v, want %v", got, test.want)
			}
			if got, _ := deploymentState(&test.event); got != test.wantGitHub {
				t.Errorf("GitHub's state %q, want %q", got, test.wantGitHub)
			}
		})
	}
}

// stub is a target that answers with an error, perhaps late.
type stub struct {
	delay time.Duration
	err   error
}

func (s stub) Notify(ctx context.Context, _ *Event) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.delay):
		return s.err
	}
}

// TestAll: one target neither holds up nor hides another, and the time is bounded, also after an interrupt.
func TestAll(t *testing.T) {
	down, refused := errors.New("down"), errors.New("refused")
	for name, test := range map[string]struct {
		notifiers []Notifier
		event     *Event
		want      []error
		wantTook  time.Duration
	}{
		"nobody":                {event: unhealthyCanary("")},
		"all succeed":           {notifiers: []Notifier{stub{delay: time.Second}, stub{delay: 2 * time.Second}}, event: unhealthyCanary(""), wantTook: 2 * time.Second},
		"two fail":              {notifiers: []Notifier{stub{err: down}, stub{}, stub{err: refused}}, event: unhealthyCanary(""), want: []error{down, refused}},
		"one never answers":     {notifiers: []Notifier{stub{delay: time.Hour}, stub{err: down}}, event: unhealthyCanary(""), want: []error{context.DeadlineExceeded, down}, wantTook: timeout},
		"nothing to notify of":  {notifiers: []Notifier{stub{err: down}}, event: &Event{Command: "rollback", Result: Succeeded}},
		"a command was refused": {notifiers: []Notifier{stub{err: down}}, event: &Event{Command: "canary", Result: Refused}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				interrupted, cancel := context.WithCancel(t.Context())
				cancel()
				start := time.Now()
				err := All(interrupted, test.notifiers, test.event)
				if (err == nil) != (len(test.want) == 0) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				for _, want := range test.want {
					if !errors.Is(err, want) {
						t.Errorf("error %v does not contain %v", err, want)
					}
				}
				if took := time.Since(start); took != test.wantTook {
					t.Errorf("took %s, want %s", took, test.wantTook)
				}
			})
		})
	}
}

// TestTargets: without an address or a token nothing is sent.
func TestTargets(t *testing.T) {
	for _, name := range []string{endpointVariable, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		t.Setenv(name, "")
	}
	github := GitHub{Repository: "our-org/app", Token: "t"}
	for name, test := range map[string]struct {
		targets   Targets
		collector string
		want      []Notifier
	}{
		"none":               {},
		"GitHub, no token":   {targets: Targets{GitHub: GitHub{Repository: "our-org/app"}}},
		"all but traces":     {targets: Targets{GitHub: github, WebhookURL: "https://w", PushgatewayURL: "https://p"}, want: []Notifier{github, Webhook{URL: "https://w"}, Pushgateway{URL: "https://p"}}},
		"traces and nothing": {targets: Targets{Version: "1.2.3"}, collector: "https://o", want: []Notifier{Traces{Version: "1.2.3"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(endpointVariable, test.collector)
			if diff := cmp.Diff(test.want, test.targets.Notifiers()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestBadTargets: a target that is misconfigured is bad input, and its error contains no secret.
func TestBadTargets(t *testing.T) {
	for name, test := range map[string]struct {
		notifier Notifier
		want     string // the field
	}{
		"no repository":            {GitHub{Token: "SECRET"}, "notify.github.repository"},
		"not a repository":         {GitHub{Token: "SECRET", Repository: "app"}, "notify.github.repository"},
		"a path as a repository":   {GitHub{Token: "SECRET", Repository: "our-org/a/b?c"}, "notify.github.repository"},
		"token over plain network": {GitHub{Token: "SECRET", Repository: "our-org/app", URL: "http://github.example.com/api/v3"}, "notify.github.url"},
		"webhook without a scheme": {Webhook{URL: "hooks.example.com/SECRET"}, "webhook"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.notifier.Notify(t.Context(), unhealthyCanary(""))
			var input *usererr.Error
			if !errors.As(err, &input) || input.Field != test.want {
				t.Fatalf("error %v, want one of %s", err, test.want)
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error contains the secret: %v", err)
			}
		})
	}
}
