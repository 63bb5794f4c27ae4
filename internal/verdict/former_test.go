package verdict

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// TestFormerCanary: what a canary of the same name did before this one was made does not count, though the first scrape
// since then has both, in one job as well as in two. What this one does counts from its first scrape on, or from the first
// one if there was no other.
func TestFormerCanary(t *testing.T) {
	before := flow{workload: "app-canary", rate: 5, from: -5 * time.Minute, to: 30 * time.Second}
	for name, c := range map[string]struct {
		flows   []flow
		made    time.Duration
		outcome release.VerdictOutcome
		bad     float64 // when it was decided
	}{
		"it failed now and then, and at its end": {[]flow{
			{workload: "app-canary", rate: 5, bad: 0.01, from: -5 * time.Minute, to: 30 * time.Second},
			{workload: "app-canary", rate: 10, bad: 1, from: 30 * time.Second, to: 40 * time.Second},
			{workload: "app-canary", rate: 20, from: 50 * time.Second, to: time.Hour},
		}, 42 * time.Second, release.Healthy, 0},
		"it failed for the first time at its end": {[]flow{before,
			{workload: "app-canary", rate: 10, bad: 1, from: 30 * time.Second, to: 40 * time.Second},
			{workload: "app-canary", rate: 20, from: 50 * time.Second, to: time.Hour},
		}, 42 * time.Second, release.Healthy, 0},
		"this one fails": {[]flow{before,
			{workload: "app-canary", rate: 20, bad: 1, from: 50 * time.Second, to: time.Hour},
		}, 42 * time.Second, release.Unhealthy, 60 * 20},
		"this one fails, and there was no other": {[]flow{
			{workload: "app-canary", rate: 20, bad: 1, from: 50 * time.Second, to: time.Hour},
		}, 42 * time.Second, release.Unhealthy, 10 * 20},
		"this one failed before it got its present weight": {[]flow{before,
			{workload: "app-canary", rate: 10, bad: 1, from: 30 * time.Second, to: 40 * time.Second},
			{workload: "app-canary", rate: 20, from: 50 * time.Second, to: time.Hour},
		}, -2 * time.Minute, release.Unhealthy, 10 * 10},
	} {
		for _, jobs := range []int{1, 2} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMesh(time.Minute)
					m.add(flow{workload: "app-primary", rate: 180, from: -5 * time.Minute, to: time.Hour})
					for _, f := range c.flows {
						m.add(f)
					}
					o := m.options(t)
					o.Made = time.Now().Add(c.made)
					time.Sleep(50 * time.Second)
					if jobs == 2 {
						ctx, stop := context.WithTimeout(t.Context(), 6*time.Second)
						defer stop()
						first, err := Verify(ctx, o)
						if !errors.Is(err, context.DeadlineExceeded) {
							t.Fatal(err)
						}
						o.Resume = &first.Record
						time.Sleep(20 * time.Second)
					}
					v, err := Verify(t.Context(), o)
					if err != nil || v.Outcome != c.outcome {
						t.Fatalf("%s: %s, %v", v.Outcome, v.Reason, err)
					}
					if got := v.Record.judgment().Evidence[0].Total.Canary.Bad; !about(got, c.bad, 10) {
						t.Errorf("%v bad requests of the canary count, want %v: %s", got, c.bad, v.Reason)
					}
				})
			})
		}
	}
}

// TestFormerCanaryOfService: the first errors for which no endpoint is chosen are this canary's, if they come after the first
// scrape since it was made.
func TestFormerCanaryOfService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Minute)
		m.add(flow{workload: "app-primary", rate: 180, from: -5 * time.Minute, to: time.Hour})
		m.add(flow{workload: "app-canary", rate: 5, from: -5 * time.Minute, to: 30 * time.Second})
		m.add(flow{workload: "app-canary", rate: 20, from: 50 * time.Second, to: time.Hour})
		labels := requestLabels("unknown", "503", "UH")
		labels["destination_workload_namespace"], labels["destination_service_name"], labels["destination_service_namespace"] = "unknown", "app-canary", "production"
		m.gateways[0].Add(labels, time.Now().Add(5*time.Minute), 2000)
		o := m.options(t)
		o.Source = m.source(t, func(s *SourceOptions) {
			s.Tracks = map[string]string{"app-canary": "app-canary", "app-primary": "app-primary"}
		})
		o.Made, o.Test.MinDuration = time.Now().Add(42*time.Second), 10*time.Minute
		time.Sleep(50 * time.Second)
		v, err := Verify(t.Context(), o)
		if err != nil || v.Outcome != release.Unhealthy {
			t.Fatalf("%s: %s, %v", v.Outcome, v.Reason, err)
		}
		if got := v.Record.judgment().Evidence[0].Total.Canary.Bad; got != 2000 {
			t.Errorf("%v errors count, want 2000: %s", got, v.Reason)
		}
	})
}
