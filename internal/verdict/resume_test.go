package verdict

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict/prometheustest"
)

// TestResume: another job goes on from a record, hours later: what nobody looked at is counted, the evidence is not
// started anew, and a canary that turned bad meanwhile is found.
func TestResume(t *testing.T) {
	for name, c := range map[string]struct {
		bad     float64
		missing time.Duration // between the two jobs
		outcome release.VerdictOutcome
	}{
		"still good":       {0, 20 * time.Minute, release.Healthy},
		"bad meanwhile":    {0.3, 20 * time.Minute, release.Unhealthy},
		"at once":          {0, time.Second, release.Healthy},
		"after many hours": {0, 5 * time.Hour, release.Healthy},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				end := c.missing + 30*time.Minute
				m.add(flow{workload: "app-primary", rate: 18, from: -time.Minute, to: end})
				m.add(flow{workload: "app-canary", rate: 5, from: -time.Minute, to: 5 * time.Minute})
				m.add(flow{workload: "app-canary", rate: 5, bad: c.bad, from: 5 * time.Minute, to: end})
				start := time.Now()
				first, err := Verify(t.Context(), m.options(t))
				if err != nil || first.Outcome != release.Healthy || first.Record.Since != start || first.Record.Until != time.Now() {
					t.Fatalf("%+v, %v", first, err)
				}
				text, err := json.Marshal(first.Record)
				if err != nil {
					t.Fatal(err)
				}
				kept, err := ParseRecord(string(text))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(c.missing)
				again := time.Now()
				o := m.options(t)
				o.Resume, o.Warn = kept, func(text string) { t.Errorf("warned: %s", text) }
				v, err := Verify(t.Context(), o)
				if err != nil || v.Outcome != c.outcome {
					t.Fatalf("%s: %s, %v", v.Outcome, v.Reason, err)
				}
				if took := time.Since(again); took > 15*time.Second {
					t.Errorf("it took %s", took)
				}
				if !v.Record.Since.Equal(start) {
					t.Errorf("evidence since %s, want %s", v.Record.Since, start)
				}
				if c.outcome == release.Healthy {
					if got, want := v.Record.Requests(), 5*time.Since(start).Seconds(); !about(got, want, 20) {
						t.Errorf("%v of %v requests are counted", got, want)
					}
				}
				if j, _, err := v.Record.Replay(nil); err != nil || j.Outcome != v.Outcome || j.Reason != v.Reason {
					t.Errorf("judged again: %s, %v", j.Reason, err)
				}
			})
		})
	}
}

// TestResumeHasItsTimeAgain: an analysis that had too few requests in its time goes on from its record for as long once more.
func TestResumeHasItsTimeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Second)
		m.both(flow{rate: 20, from: -time.Minute, to: time.Hour}, flow{rate: 180, from: -time.Minute, to: time.Hour})
		o := m.options(t)
		o.Test.MaxDuration, o.Test.MinRequests = 5*time.Minute, 20*8*60 // which takes eight minutes
		for _, want := range []release.VerdictOutcome{release.Inconclusive, release.Healthy} {
			v, err := Verify(t.Context(), o)
			if err != nil || v.Outcome != want {
				t.Fatalf("%+v, %v; want %s", v, err, want)
			}
			o = m.options(t)
			o.Test.MaxDuration, o.Test.MinRequests, o.Resume = 5*time.Minute, 20*8*60, &v.Record
		}
	})
}

// TestResumeAnew: a record that cannot be gone on from is not, and that is said.
func TestResumeAnew(t *testing.T) {
	for name, c := range map[string]struct {
		record func(*Record)
		asks   func(*Options)
		lost   bool // Prometheus has no samples of that time
		says   string
	}{
		"Prometheus has lost the time": {lost: true, says: "has no counters of"},
		"other objectives":             {asks: func(o *Options) { o.Test.FalsePass = 0.01 }, says: "the objectives or the method"},
		"beside a baseline now":        {asks: func(o *Options) { o.Test.Baseline = true }, says: "the objectives or the method"},
		"the whole time now":           {asks: func(o *Options) { o.Test.Whole = true }, says: "the objectives or the method"},
		"from a clock that is ahead":   {record: func(r *Record) { r.Until = time.Now().Add(time.Minute) }},
		"another method":               {record: func(r *Record) { r.Method = 1 }, says: "the objectives or the method"},
		"no times":                     {record: func(r *Record) { r.Until = time.Time{} }},
		"nothing counted yet":          {record: func(r *Record) { r.Blocks, r.Checkpoint = nil, nil }, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				m.both(flow{rate: 20, from: -time.Minute, to: time.Hour}, flow{rate: 180, from: -time.Minute, to: time.Hour})
				first, err := Verify(t.Context(), m.options(t))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Minute)
				if c.lost {
					since := time.Now().Add(-time.Minute)
					m.Replicas = []prometheustest.Replica{{Missed: func(at time.Time) bool { return at.Before(since) }}}
				}
				if c.record != nil {
					c.record(&first.Record)
				}
				now, warned := time.Now(), ""
				o := m.options(t)
				o.Resume, o.Warn = &first.Record, func(text string) { warned += text }
				if c.asks != nil {
					c.asks(&o)
				}
				v, err := Verify(t.Context(), o)
				if err != nil || v.Outcome != release.Healthy || !v.Record.Since.Equal(now) || !strings.Contains(warned, c.says) || (c.says == "") != (warned == "") {
					t.Errorf("%s since %s, warned %q, %v", v.Outcome, v.Record.Since, warned, err)
				}
			})
		})
	}
}

// TestCanceled: a job that is stopped leaves what it has counted.
func TestCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Second)
		m.both(flow{rate: 20}, flow{rate: 180})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		v, err := Verify(ctx, m.options(t))
		if !errors.Is(err, context.DeadlineExceeded) || v == nil || len(v.Record.Blocks) < 3 || v.Outcome != "" {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// TestGap: what was not looked at because Prometheus did not answer is counted in steps when it answers again.
func TestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Second)
		m.both(flow{rate: 20}, flow{rate: 180})
		m.downFrom(10*time.Second, 5*time.Minute)
		v, err := Verify(t.Context(), m.options(t))
		if err != nil || v.Outcome != release.Healthy {
			t.Fatalf("%+v, %v", v, err)
		}
		longest := time.Duration(0)
		for i, b := range v.Record.Blocks[1:] {
			longest = max(longest, b.Elapsed-v.Record.Blocks[i].Elapsed)
		}
		if longest > 10*time.Second {
			t.Errorf("a block of %s", longest)
		}
	})
}

// stray adds requests for which the gateway chose no endpoint, as Istio's proxy labels them.
func (m *mesh) stray(rate float64, from, to time.Duration) {
	labels := requestLabels("unknown", "503", "UH")
	labels["destination_workload_namespace"] = "unknown"
	labels["destination_service_name"], labels["destination_service_namespace"] = "app-service", "production"
	counter := m.gateways[0].Counter(labels)
	now := time.Now()
	for at := from; at < to; at += time.Second {
		counter.Add(now.Add(at), rate)
	}
}

// TestUnattributed: errors of the Service that belong to no track hold a pass while primary is whole, also those that
// came before, as long as they are more than the budget; other Services' do not.
func TestUnattributed(t *testing.T) {
	whole := func(context.Context) (Witnessed, error) { return Witnessed{PrimaryWhole: true}, nil }
	for name, c := range map[string]struct {
		stray    func(*mesh)
		witness  func(context.Context) (Witnessed, error)
		outcome  release.VerdictOutcome
		cause    Cause
		earliest time.Duration
	}{
		"none":         {witness: whole, outcome: release.Healthy},
		"all the time": {stray: func(m *mesh) { m.stray(3, 0, 16*time.Minute) }, witness: whole, outcome: release.Inconclusive, cause: Unattributed},
		"every 20 s": {stray: func(m *mesh) {
			for at := time.Duration(0); at < 16*time.Minute; at += 20 * time.Second {
				m.stray(3, at, at+4*time.Second)
			}
		}, witness: whole, outcome: release.Inconclusive, cause: Unattributed},
		"a few at the start":   {stray: func(m *mesh) { m.stray(1, 2*time.Second, 5*time.Second) }, witness: whole, outcome: release.Healthy, earliest: 2 * time.Minute},
		"before the start":     {stray: func(m *mesh) { m.stray(30, -30*time.Second, 0) }, witness: whole, outcome: release.Healthy},
		"primary is not whole": {stray: func(m *mesh) { m.stray(3, 0, 16*time.Minute) }, witness: func(context.Context) (Witnessed, error) { return Witnessed{}, nil }, outcome: release.Healthy},
		"another Service's": {stray: func(m *mesh) {
			m.gateways[0].Add(prometheustest.Labels{"__name__": "istio_requests_total", "reporter": "source", "destination_workload": "unknown", "destination_service_name": "other", "destination_service_namespace": "production", "response_code": "503"}, time.Now().Add(time.Second), 1000)
		}, witness: whole, outcome: release.Healthy},
		"pods that cannot be seen": {witness: func(context.Context) (Witnessed, error) { return Witnessed{}, errors.New("API server is down") }, outcome: release.Inconclusive, cause: PodsUnseen},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				m.both(flow{rate: 20}, flow{rate: 180})
				if c.stray != nil {
					c.stray(m)
				}
				start := time.Now()
				o := m.options(t)
				o.Source = m.source(t, func(s *SourceOptions) { s.Service = "app-service" })
				o.Witness = c.witness
				v, err := Verify(t.Context(), o)
				if err != nil || v.Outcome != c.outcome || v.Cause != c.cause || time.Since(start) < c.earliest {
					t.Errorf("%s %s after %s: %s, %v", v.Outcome, v.Cause, time.Since(start), v.Reason, err)
				}
			})
		})
	}
}

// TestUnattributedAlone: where one track has all of the traffic, what belongs to no track is its own.
func TestUnattributedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Second)
		m.add(flow{workload: "app-primary", rate: 50, from: -time.Minute, to: 16 * time.Minute})
		m.stray(50, 30*time.Second, 16*time.Minute)
		o := m.options(t)
		o.Source = m.source(t, func(s *SourceOptions) { s.Service = "app-service" })
		o.Canary, o.Primary, o.Test.Whole = "app-primary", "", true
		v, err := Verify(t.Context(), o)
		if err != nil || v.Outcome != release.Unhealthy {
			t.Errorf("%s: %s, %v", v.Outcome, v.Reason, err)
		}
	})
}

// TestWitness: what the witness sees decides at once, with its cause, whatever the counters say and whether
// Prometheus answers, and the record says the same again.
func TestWitness(t *testing.T) {
	for _, down := range []bool{false, true} {
		for _, after := range []time.Duration{0, 20 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(time.Second)
				m.both(flow{rate: 20}, flow{rate: 180})
				if down {
					m.downFrom(0, time.Hour)
				}
				start := time.Now()
				o := m.options(t)
				o.Witness = func(context.Context) (Witnessed, error) {
					if time.Since(start) < after {
						return Witnessed{PrimaryWhole: true}, nil
					}
					return Witnessed{Unhealthy: "container app of pod app-canary-1 has restarted", Cause: Restarts, PrimaryWhole: true}, nil
				}
				v, err := Verify(t.Context(), o)
				if took := time.Since(start); err != nil || v.Outcome != release.Unhealthy || v.Cause != Restarts || took > after+14*time.Second {
					t.Fatalf("%s %s after %s: %s, %v", v.Outcome, v.Cause, took, v.Reason, err)
				}
				text, err := json.Marshal(v.Record)
				if err != nil {
					t.Fatal(err)
				}
				kept, err := ParseRecord(string(text))
				if err != nil {
					t.Fatal(err)
				}
				for _, test := range []*Test{nil, &o.Test} {
					if j, _, err := kept.Replay(test); err != nil || j.Outcome != v.Outcome || j.Cause != v.Cause || j.Reason != v.Reason {
						t.Errorf("judged again: %+v, %v", j, err)
					}
				}
			})
		}
	}
}

// TestOlderRecords: a record from before something was judged against primary can be judged by today's objectives.
func TestOlderRecords(t *testing.T) {
	old, today := DefaultSLO(), DefaultSLO().Test()
	old.CallersLeft, old.ClientErrors, old.CutStreams = 0, 0, 0
	r := Record{Test: old.Test()}
	for at := 5 * time.Second; at < 2*time.Minute; at += 5 * time.Second {
		r.Blocks = append(r.Blocks, Block{Elapsed: at, Pairs: slices.Repeat([]Pair{{Tally{100, 0}, Tally{900, 0}}}, 2)})
	}
	if j, _, err := r.Replay(&today); err != nil || j.Outcome != release.Healthy {
		t.Errorf("%+v, %v", j, err)
	}
}

// TestUnattributedGoesOn: errors that belong to no track hold the verdict of the job that goes on from the record as well.
func TestUnattributedGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Second)
		m.both(flow{rate: 20, from: -time.Minute, to: 10 * time.Minute}, flow{rate: 180, from: -time.Minute, to: 10 * time.Minute})
		m.stray(3, 0, 2*time.Minute)
		var from *Record
		for job := range 2 {
			o := m.options(t)
			o.Source = m.source(t, func(s *SourceOptions) { s.Service = "app-service" })
			o.Witness = func(context.Context) (Witnessed, error) { return Witnessed{PrimaryWhole: true}, nil }
			o.Test.MaxDuration, o.Resume = 2*time.Minute, from
			v, err := Verify(t.Context(), o)
			if err != nil || v.Outcome != release.Inconclusive || v.Cause != Unattributed {
				t.Fatalf("job %d: %s %s: %s, %v", job, v.Outcome, v.Cause, v.Reason, err)
			}
			text, err := json.Marshal(v.Record)
			if err != nil {
				t.Fatal(err)
			}
			if from, err = ParseRecord(string(text)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
	})
}

// TestResumeSeesWhatARestartHides: what a killed job did not see is read in full, also where a gateway has started its counters anew since.
func TestResumeSeesWhatARestartHides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Second)
		end := 5*time.Hour + 30*time.Minute
		m.add(flow{workload: "app-primary", rate: 18, from: -time.Minute, to: end})
		m.add(flow{workload: "app-canary", rate: 5, from: -time.Minute, to: 5 * time.Minute})
		first, err := Verify(t.Context(), m.options(t))
		if err != nil || first.Outcome != release.Healthy {
			t.Fatalf("%+v, %v", first, err)
		}
		m.add(flow{workload: "app-canary", rate: 5, bad: 0.3, from: 20 * time.Second, to: 4 * time.Minute})
		m.gateways[0].Reset(time.Now().Add(4*time.Minute + time.Second))
		m.add(flow{workload: "app-canary", rate: 5, from: 4*time.Minute + 2*time.Second, to: end})
		time.Sleep(5 * time.Hour)
		o := m.options(t)
		o.Resume = &first.Record
		if v, err := Verify(t.Context(), o); err != nil || v.Outcome != release.Unhealthy {
			t.Errorf("%s: %s, %v", v.Outcome, v.Reason, err)
		}
	})
}

// TestLateCounters: counters that can be read at the end of the time only are no evidence for all of it.
func TestLateCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(time.Second)
		m.both(flow{rate: 50, from: 13 * time.Minute, to: 16 * time.Minute}, flow{rate: 450, from: 13 * time.Minute, to: 16 * time.Minute})
		m.downFrom(0, 14*time.Minute)
		o := m.options(t)
		o.Test.MinDuration = 10 * time.Minute
		v, err := Verify(t.Context(), o)
		if err != nil || v.Outcome != release.Inconclusive || v.Reason == "" {
			t.Errorf("%s after a minute of counting: %s, %v", v.Outcome, v.Reason, err)
		}
	})
}
