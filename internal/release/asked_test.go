package release

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAsked: people are asked at once, and reminded after an hour, two, four and so on, five times; for each wait anew.
func TestAsked(t *testing.T) {
	start := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	const image = "registry.example.com/app@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	waiting := func(t *testing.T, plan ...PlanStep) *Ledger {
		l := &Ledger{App: "app"}
		if _, err := l.Start(Release{ID: "one", Image: image, Previous: image, Weight: 10, Plan: plan}, "ann", start.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := l.Reach(StageCanary, "ann", start.Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
		judge(t, l, Healthy, start)
		return l
	}
	asked := func(l *Ledger, remind time.Duration) (hours []float64) {
		for now := start; now.Before(start.Add(100 * time.Hour)); now = now.Add(30 * time.Minute) {
			if l.AskDue(remind, now) {
				l.Ask("ann", now)
				hours = append(hours, now.Sub(start).Hours())
			}
		}
		return hours
	}
	for name, test := range map[string]struct {
		change func(*testing.T, *Ledger)
		plan   []PlanStep
		remind time.Duration
		want   []float64
	}{
		"by default":   {remind: time.Hour, want: []float64{0, 1, 3, 7, 15, 31}},
		"once":         {want: []float64{0}},
		"nothing":      {change: func(_ *testing.T, l *Ledger) { l.Release = nil }, remind: time.Hour},
		"inconclusive": {change: func(t *testing.T, l *Ledger) { judge(t, l, Inconclusive, start) }, remind: time.Hour},
		"being promoted": {change: func(t *testing.T, l *Ledger) {
			if err := l.Reach(StagePromoting, "ann", start); err != nil {
				t.Fatal(err)
			}
		}, remind: time.Hour},
		"a step that waits for an approval":  {plan: []PlanStep{{Weight: 10, DoneAt: start}, {Approve: true}, {Weight: 50}}, want: []float64{0}},
		"a step that waits for nobody":       {plan: []PlanStep{{Weight: 10, DoneAt: start}, {Weight: 50}}},
		"the last approval is promote's own": {plan: []PlanStep{{Weight: 10, DoneAt: start}, {Approve: true}}, want: []float64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			l := waiting(t, test.plan...)
			if test.change != nil {
				test.change(t, l)
			}
			if diff := cmp.Diff(test.want, asked(l, test.remind)); diff != "" {
				t.Errorf("hours (-want +got)\n%s", diff)
			}
		})
	}
	t.Run("it ends", func(t *testing.T) {
		l := waiting(t)
		l.Ask("ann", start)
		for _, stage := range []Stage{StagePromoting, StagePromoted} {
			if err := l.Reach(stage, "ann", start); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Finish(OutcomePromoted, "ann", start); err != nil || l.History[0].Asked != nil {
			t.Errorf("%v, %+v", err, l.History[0].Asked)
		}
	})
	t.Run("another weight", func(t *testing.T) {
		l := waiting(t)
		asked(l, 0)
		if err := l.Shift(50, "ann", start.Add(200*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if l.AskDue(0, start.Add(201*time.Hour)) {
			t.Error("asked before there is a verdict")
		}
		judge(t, l, Healthy, start.Add(202*time.Hour))
		l.Ask("ann", start.Add(202*time.Hour))
		if diff := cmp.Diff(&Asked{Since: start.Add(202 * time.Hour), Times: 1, At: start.Add(202 * time.Hour), By: "ann"}, l.Release.Asked); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

func judge(t *testing.T, l *Ledger, outcome VerdictOutcome, at time.Time) {
	t.Helper()
	v := l.Release.Subject()
	v.Outcome, v.At = outcome, at
	if err := l.Judge(v, "ann", at); err != nil {
		t.Fatal(err)
	}
}
