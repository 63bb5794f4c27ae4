package analysis

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// promoted is somebody who presses the gate.
func promoted(l *release.Ledger) { _ = l.Reach(release.StagePromoting, "approver", time.Now().UTC()) }

// TestWatch: the analysis goes on after a healthy verdict until the release is promoted or rolled back; a canary that
// turns bad goes back; an API server and a Prometheus that are away are waited for.
func TestWatch(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(w *world)
		err   string // its kind
		says  string // the error, or else the message
		calls []string
		ends  time.Duration // at most
		warns string
	}{
		"promoted": {
			set:  func(w *world) { w.flow("app-canary", 100, 0.0005, 0, time.Hour); w.after(12*time.Minute, promoted) },
			says: "judged healthy before it was promoted", ends: 12*time.Minute + 6*time.Second,
			calls: []string{"healthy", "healthy", "healthy"}, warns: "judged on until the release is promoted",
		},
		"it turns bad after a while": {
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, 20*time.Minute)
				w.flow("app-canary", 100, 0.1, 20*time.Minute, time.Hour)
			},
			err: "unhealthy", says: "rolled back: primary has it again", ends: 20*time.Minute + 15*time.Second,
			calls: []string{"healthy", "healthy", "healthy", "healthy", "unhealthy at 20m10s"},
		},
		"its pods crash after a while": {
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, time.Hour)
				w.seen = func(at time.Duration) rollout.Witnessed {
					if at > 3*time.Minute {
						return rollout.Witnessed{Unhealthy: "pod c1 crashed", Cause: rollout.CauseRestarts}
					}
					return rollout.Witnessed{PrimaryWhole: true}
				}
			},
			err: "unhealthy", says: "unhealthy: pod c1 crashed", ends: 3*time.Minute + 6*time.Second, calls: []string{"healthy", "unhealthy"},
		},
		"the API server is away for minutes": {
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, time.Hour)
				w.awayFrom(4*time.Minute, 9*time.Minute)
				w.after(13*time.Minute, promoted)
			},
			says: "judged healthy before", ends: 15 * time.Minute, warns: "API server is down",
			calls: []string{"healthy", "healthy at 9m"},
		},
		"both are away for minutes": {
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, time.Hour)
				w.awayFrom(4*time.Minute, 9*time.Minute)
				w.blindFrom(4*time.Minute, 9*time.Minute)
				w.after(30*time.Minute, promoted)
			},
			says: "judged healthy before", ends: 31 * time.Minute, warns: "does not answer", calls: []string{"healthy", "healthy at 9m", "healthy", "healthy", "healthy", "healthy"},
		},
		"it turns bad while the API server is away": {
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, 3*time.Minute)
				w.flow("app-canary", 100, 0.1, 3*time.Minute, time.Hour)
				w.awayFrom(2*time.Minute, 6*time.Minute)
			},
			err: "unhealthy", says: "rolled back: primary has it again", ends: 6*time.Minute + 15*time.Second, calls: []string{"healthy", "unhealthy"}, warns: "trying again",
		},
		"shifted": {
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, time.Hour)
				w.after(2*time.Minute, func(l *release.Ledger) { _ = l.Shift(25, "me", time.Now().UTC()) })
				w.after(4*time.Minute, promoted)
			},
			says: "judged healthy before", ends: 4*time.Minute + 6*time.Second, calls: []string{"healthy", "healthy"},
		},
		"rolled back by somebody": {
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, time.Hour)
				w.after(2*time.Minute, func(*release.Ledger) { _, _ = w.end() })
			},
			err: "stage", says: "release one has finished: rolled_back", ends: 2*time.Minute + 6*time.Second, calls: []string{"healthy"},
		},
		"never enough requests": {
			set: func(w *world) { w.flow("app-canary", 0.01, 0, 0, time.Hour) },
			err: "inconclusive", says: "the canary keeps its weight", ends: 16 * time.Minute, calls: []string{"inconclusive at 15m0s"},
		},
		"somebody else changes it": {
			set: func(w *world) {
				w.flow("app-canary", 0.01, 0, 0, time.Hour)
				w.after(2*time.Minute, func(*release.Ledger) { w.drift = []string{"the canary has weight 0"} })
			},
			err: "inconclusive", says: "somebody else has changed the release: the canary has weight 0", ends: 2*time.Minute + 30*time.Second, calls: []string{"inconclusive at 2m"},
		},
		"what differs for a moment as it begins": {
			set: func(w *world) {
				w.drift = []string{"the canary has weight 5, the release gave it 10"}
				w.flow("app-canary", 100, 0.0005, 0, time.Hour)
				w.after(6*time.Second, func(*release.Ledger) { w.drift = nil })
				w.after(4*time.Minute, promoted)
			},
			says: "judged healthy before", ends: 4*time.Minute + 6*time.Second, calls: []string{"healthy"},
		},
		"what differs for a moment": { // somebody goes on with it, and has not noted it yet
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, time.Hour)
				w.after(time.Minute-time.Second, func(*release.Ledger) { w.drift = []string{"the canary has weight 25"} })
				w.after(time.Minute+6*time.Second, func(*release.Ledger) { w.drift = nil })
				w.after(4*time.Minute, promoted)
			},
			says: "judged healthy before", ends: 4*time.Minute + 6*time.Second, calls: []string{"healthy"},
		},
		"nobody calls it any more": {
			set: func(w *world) {
				w.flow("app-canary", 100, 0.0005, 0, 2*time.Minute)
				w.after(40*time.Minute, promoted)
			},
			says: "judged healthy before", ends: 41 * time.Minute, calls: []string{"healthy", "healthy", "healthy", "healthy", "healthy", "healthy", "healthy", "healthy"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c.set(w)
				came, err := Watch(t.Context(), w.options())
				text := came.Message
				if err != nil {
					text = err.Error()
				}
				if kind(err) != c.err || !strings.Contains(text, c.says) {
					t.Errorf("%s: %q, want %s: %q", kind(err), text, c.err, c.says)
				}
				if took := time.Since(w.start); took > c.ends {
					t.Errorf("it took %s", took)
				}
				if !strings.Contains(strings.Join(w.warned, "\n"), c.warns) {
					t.Errorf("it warned %q, want %q", w.warned, c.warns)
				}
				w.did(c.calls)
			})
		})
	}
}

// TestVerifyGoesOnFromWhatIsKnown: what happened while no job looked counts, and the evidence of a verdict that was not
// conclusive is not lost.
func TestVerifyGoesOnFromWhatIsKnown(t *testing.T) {
	t.Run("the job died before it looked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.flow("app-canary", 100, 0.1, 0, 2*time.Minute)
			w.flow("app-canary", 100, 0.0005, 2*time.Minute, time.Hour)
			time.Sleep(5 * time.Minute)
			if _, err := Verify(t.Context(), w.options()); kind(err) != "unhealthy" {
				t.Errorf("%v: the errors of the time when nobody looked are forgotten", err)
			}
		})
	})
	t.Run("an inconclusive verdict", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.flow("app-canary", 0.3, 0, 0, time.Hour)
			if _, err := Verify(t.Context(), w.options()); kind(err) != "inconclusive" {
				t.Fatal(err)
			}
			came, err := Verify(t.Context(), w.options())
			if err != nil {
				t.Fatalf("after %s: %v", time.Since(w.start), err)
			}
			if took := time.Since(w.start); took > 25*time.Minute {
				t.Errorf("it took %s: %s", took, came.Verdict.Reason)
			}
			if !came.Verdict.Record.Since.Equal(w.start) {
				t.Errorf("the record begins at %s", came.Verdict.Record.Since)
			}
		})
	})
	t.Run("the witness holds a verdict", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.flow("app-canary", 100, 0.0005, 0, time.Hour)
			w.seen = func(time.Duration) rollout.Witnessed {
				return rollout.Witnessed{Hold: "1 of the canary's 3 pods is ready"}
			}
			_, err := Verify(t.Context(), w.options())
			if kind(err) != "inconclusive" || !strings.Contains(err.Error(), "1 of the canary's 3 pods is ready") || w.ledger.Release.Verdict.Cause != "not_ready" {
				t.Errorf("%v", err)
			}
		})
	})
	t.Run("somebody shifts meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.flow("app-canary", 100, 0.0005, 0, time.Hour)
			w.after(12*time.Second, func(l *release.Ledger) { _ = l.Shift(25, "me", time.Now().UTC()) })
			if _, err := Verify(t.Context(), w.options()); kind(err) != "stage" || !strings.Contains(err.Error(), "with 10% of the traffic, not with 25%") || time.Since(w.start) > 20*time.Second {
				t.Errorf("%v", err)
			}
		})
	})
}

// TestPromoteJudgesAgain: a verdict that is too old is judged on, not anew, before the release is promoted.
func TestPromoteJudgesAgain(t *testing.T) {
	for name, c := range map[string]struct {
		later float64 // share of the canary's requests that fails after its verdict
		none  bool    // there is no Prometheus
		down  bool    // it is away
		wait  time.Duration
		err   string
		says  string
		calls []string
	}{
		"young":              {wait: 5 * time.Minute, says: "promoted", calls: []string{"healthy", "promote at 5m0s"}},
		"old":                {wait: 3 * time.Hour, says: "promoted", calls: []string{"healthy", "healthy at 3h0m5s", "promote at 3h0m5s"}},
		"bad since":          {later: 0.1, wait: 30 * time.Minute, err: "unhealthy", says: "rolled back", calls: []string{"healthy", "unhealthy at 30m5s"}},
		"no Prometheus":      {none: true, wait: 30 * time.Minute, err: "input", says: " ago, 10m0s is allowed", calls: []string{"healthy"}},
		"Prometheus is away": {down: true, wait: 30 * time.Minute, err: "inconclusive", says: "the canary keeps its weight", calls: []string{"healthy", "inconclusive at 45m"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				const verdictAt = 40 * time.Second
				w.flow("app-canary", 100, 0.0005, 0, verdictAt)
				w.flow("app-canary", 100, max(c.later, 0.0005), verdictAt, 50*time.Minute)
				if _, err := Verify(t.Context(), w.options()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Until(w.start.Add(c.wait)))
				w.flow("app-canary", 100, 0.0005, c.wait-time.Minute, c.wait+20*time.Minute)
				w.flow("app-primary", 900, 0.0005, c.wait-time.Minute, c.wait+20*time.Minute)
				if c.down {
					w.blindFrom(c.wait, time.Hour)
				}
				by := func() (Options, error) { return w.options(), nil }
				if c.none {
					by = nil
				}
				came, err := Promote(t.Context(), w, by)
				text := came.Message
				if err != nil {
					text = err.Error()
				}
				if kind(err) != c.err || !strings.Contains(text, c.says) {
					t.Errorf("%s: %q, want %s: %q", kind(err), text, c.err, c.says)
				}
				w.did(c.calls)
			})
		})
	}
}

// TestGuardLooks: a canary that waits and has turned bad is rolled back; nothing else is changed.
func TestGuardLooks(t *testing.T) {
	for name, c := range map[string]struct {
		bad   float64
		set   func(w *world)
		other bool // guard has other objectives than verify had
		err   string
		says  string
		calls []string
	}{
		"fine":              {says: "nothing shows that its canary is unhealthy", calls: []string{"healthy"}},
		"it has turned bad": {bad: 0.1, err: "unhealthy", says: "rolled back", calls: []string{"healthy", "unhealthy at 20m5s"}},
		"its pods crash": {set: func(w *world) {
			w.seen = func(time.Duration) rollout.Witnessed { return rollout.Witnessed{Unhealthy: "crash"} }
		}, err: "unhealthy", says: "crash", calls: []string{"healthy", "unhealthy at 20m0s"}},
		"other objectives":   {bad: 0.1, other: true, err: "input", says: "give guard the crossbill.yaml that verify has", calls: []string{"healthy"}},
		"promoting":          {set: func(w *world) { promoted(w.ledger) }, calls: []string{"healthy"}},
		"no release":         {set: func(w *world) { _, _ = w.end() }, calls: []string{"healthy"}},
		"Prometheus is away": {set: func(w *world) { w.blindFrom(19*time.Minute, time.Hour) }, err: "failure", says: "could not be judged", calls: []string{"healthy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.flow("app-canary", 100, 0.0005, 0, 10*time.Minute)
				w.flow("app-canary", 100, max(0.0005, c.bad), 10*time.Minute, time.Hour)
				if _, err := Verify(t.Context(), w.options()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Until(w.start.Add(20 * time.Minute)))
				if c.set != nil {
					c.set(w)
				}
				o := w.options()
				if c.other {
					o.Test.Objectives = slices.Clone(o.Test.Objectives)
					o.Test.Objectives[1].Budget = 0.01
				}
				came, err := Guard(t.Context(), o)
				text := came.Message
				if err != nil {
					text = err.Error()
				}
				if kind(err) != c.err || !strings.Contains(text, c.says) {
					t.Errorf("%s: %q, want %s: %q", kind(err), text, c.err, c.says)
				}
				w.did(c.calls)
				if took := time.Since(w.start.Add(20 * time.Minute)); took > 3*time.Minute {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// TestGuardRefusesOtherRates: guard judges by what the canary was judged by, or says that it cannot.
func TestGuardRefusesOtherRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.flow("app-canary", 100, 0.0005, 0, 10*time.Minute)
		w.flow("app-canary", 100, 0.1, 10*time.Minute, 15*time.Minute)
		w.flow("app-canary", 100, 0.0005, 15*time.Minute, time.Hour)
		if _, err := Verify(t.Context(), w.options()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(w.start.Add(20 * time.Minute)))
		o := w.options()
		o.Test.Burst = 5
		if came, err := Guard(t.Context(), o); kind(err) != "input" {
			t.Errorf("%q, %v", came.Message, err)
		}
	})
}
