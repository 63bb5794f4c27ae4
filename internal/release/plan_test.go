package release

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// planned puts a release in flight that is taken through a plan, and gives its canary what the first step does.
func planned(t testing.TB, steps ...PlanStep) *Ledger {
	t.Helper()
	l, err := ParseLedger("app", "")
	if err != nil {
		t.Fatal(err)
	}
	r := Release{ID: "1", Image: repo + "@" + digestA, Previous: repo + "@" + digestB, Plan: NewPlan(steps)}
	r.give(r.Plan[0])
	if _, err = l.Start(r, "me", now); err == nil {
		err = l.Reach(StageCanary, "me", now)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// judge puts a verdict on what the release is.
func judgeAs(l *Ledger, outcome VerdictOutcome, requests int64, at time.Time) error {
	v := l.Release.Subject()
	v.Outcome, v.Requests, v.At = outcome, requests, at
	return l.Judge(v, "me", at)
}

// TestPlanIsKept: whatever is tried, in any order and however often, each step is done once and in order; the canary gets
// more only after a healthy verdict on what it has, never more than the plan has given, and nothing past an approval that
// was not given; and only a whole plan is promoted.
func TestPlanIsKept(t *testing.T) {
	kinds := []PlanStep{{Mirror: 1}, {Weight: 1}, {Pause: Duration(time.Minute)}, {Analyze: &Analyze{}}, {Analyze: &Analyze{MinRequests: 100, MinDuration: Duration(time.Minute)}}, {Approve: true}}
	rapid.Check(t, func(t *rapid.T) {
		steps := []PlanStep{{Match: &Match{Header: "x", Kind: MatchPresent}}}
		weight, mirror := 0, 0
		for range rapid.IntRange(0, 8).Draw(t, "steps") {
			s := rapid.SampledFrom(kinds).Draw(t, "kind")
			switch {
			case s.Mirror > 0 && weight > 0:
				continue
			case s.Mirror > 0:
				mirror += 5
				s.Mirror = mirror
			case s.Weight > 0:
				weight += rapid.IntRange(1, 10).Draw(t, "more")
				s.Weight = weight
			case s.Approve && steps[len(steps)-1].Approve:
				continue
			}
			steps = append(steps, s)
		}
		if problem := CheckPlan("steps", steps); problem != nil {
			t.Fatal(problem)
		}
		l, err := ParseLedger("app", "")
		if err != nil {
			t.Fatal(err)
		}
		r := Release{ID: "1", Image: repo + "@" + digestA, Plan: NewPlan(steps)}
		r.give(r.Plan[0])
		if _, err = l.Start(r, "me", now); err == nil {
			err = l.Reach(StageCanary, "me", now)
		}
		if err != nil {
			t.Fatal(err)
		}
		at, given, proven := now, 0, Verdict{}
		for range rapid.IntRange(1, 80).Draw(t, "tries") {
			at = at.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
			if l, err = ParseLedger("app", l.String()); err != nil { // whoever tried it has died
				t.Fatal(err)
			}
			before, is := slices.Clone(l.Release.Plan), l.Release.Subject()
			index := rapid.IntRange(0, len(before)-1).Draw(t, "index")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				err = l.Give(index, "me", at)
			case 1:
				err = l.PassStep(index, "me", at)
			case 2:
				outcome := rapid.SampledFrom([]VerdictOutcome{Healthy, Healthy, Healthy, Inconclusive}).Draw(t, "outcome")
				err = judgeAs(l, outcome, int64(rapid.IntRange(0, 200).Draw(t, "requests")), at)
				if proven = l.Release.Subject(); outcome != Healthy {
					proven = Verdict{}
				}
			case 3:
				err = l.Weighed("me", at)
			case 4:
				if err = l.Promotable(); err == nil && !l.Release.Plan.Finished() {
					t.Fatalf("at %s it is promoted", l.Release.Plan.Step(l.Release.Plan.At()))
				}
			}
			after := l.Release.Plan
			moved := after.At() - before.At()
			if moved < 0 || moved > 1 || err != nil && moved != 0 {
				t.Fatalf("from step %d to %d: %v", before.At()+1, after.At()+1, err)
			}
			for i := range after {
				if was := before[i]; was.Done() && !cmp.Equal(was, after[i]) {
					t.Fatalf("%s was done twice", after.Step(i))
				}
			}
			if moved == 1 {
				switch done := after[before.At()]; {
				case (done.Gives() || done.Approve) && !proven.On(is):
					t.Fatalf("%s without a healthy verdict", after.Step(before.At()))
				case done.Pause > 0 && at.Sub(before.Since()) < time.Duration(done.Pause):
					t.Fatalf("%s took %s", done, at.Sub(before.Since()))
				case done.Weight > 0:
					given = done.Weight
				}
			}
			if l.Release.Weight != given {
				t.Fatalf("the canary has %d%%, the plan gave it %d%%", l.Release.Weight, given)
			}
		}
	})
}

// TestPlanOfAShift: a person's shift goes past the steps up to its weight, and past no approval; what it has reached is
// judged before the plan goes on.
func TestPlanOfAShift(t *testing.T) {
	steps := []PlanStep{{Weight: 10}, {Pause: Duration(time.Hour)}, {Weight: 25}, {Approve: true}, {Weight: 50}, {Weight: 60}}
	for _, c := range []struct {
		weight int
		at     string // the step after it; "" when it is refused
	}{
		{20, "pause 1h"}, {25, "analyze"}, {26, ""}, {50, ""}, {99, ""},
	} {
		l := planned(t, steps...)
		if err := judgeAs(l, Healthy, 1000, now); err != nil {
			t.Fatal(err)
		}
		err := l.Shift(c.weight, "her", now)
		switch r := l.Release; {
		case c.at == "" && (err == nil || !strings.Contains(err.Error(), "more than its plan gives before step 6 of 10: approve")):
			t.Errorf("%d: %v", c.weight, err)
		case c.at != "" && (err != nil || r.Plan.Current().String() != c.at || r.Weight != c.weight || r.Proven()):
			t.Errorf("%d: at %s with %d%%: %v", c.weight, r.Plan.Current(), r.Weight, err)
		}
	}
	l := planned(t, PlanStep{Weight: 10}, PlanStep{Weight: 25}, PlanStep{Weight: 50})
	if err := l.Shift(60, "her", now); err != nil || l.Release.Plan.Current().String() != "analyze" || l.Release.Plan.At() != 5 {
		t.Errorf("at step %d of %v: %v", l.Release.Plan.At(), l.Release.Plan, err)
	}
	if step := l.Release.Plan[4]; !step.Skipped || step.By != "her" {
		t.Errorf("%+v was not left out by her", step)
	}
}

// TestAnalysisOfAStep: a verdict is enough for a step only when it is all that the step asks for.
func TestAnalysisOfAStep(t *testing.T) {
	for _, c := range []struct {
		requests int64
		after    time.Duration
		enough   bool
	}{{99, time.Hour, false}, {100, 59 * time.Second, false}, {100, time.Minute, true}} {
		l := planned(t, PlanStep{Weight: 10}, PlanStep{Analyze: &Analyze{MinRequests: 100, MinDuration: Duration(time.Minute)}}, PlanStep{Weight: 25})
		if err := judgeAs(l, Healthy, c.requests, now.Add(c.after)); err != nil {
			t.Fatal(err)
		}
		if got := l.Release.Plan.At() == 2; got != c.enough {
			t.Errorf("%d requests in %s: %v", c.requests, c.after, got)
		}
	}
	l := planned(t, PlanStep{Weight: 10}, PlanStep{Pause: Duration(time.Minute)}, PlanStep{Analyze: &Analyze{}}, PlanStep{Weight: 25})
	v := l.Release.Subject()
	v.Outcome, v.At = Healthy, now.Add(59*time.Second) // its job has waited for the lock meanwhile
	if err := l.PassStep(1, "other", now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := l.Judge(v, "me", now.Add(61*time.Second)); err != nil || l.Release.Plan.At() != 2 {
		t.Errorf("a verdict from before the step is enough for it: step %d, %v", l.Release.Plan.At(), err)
	}
}

// TestPlanInTheLedger: a plan is what it was after it was written and read, and a ledger without one is as before.
func TestPlanInTheLedger(t *testing.T) {
	l := planned(t, PlanStep{Match: &Match{Cookie: "c", Kind: MatchPrefix, Value: "v"}}, PlanStep{Mirror: 5}, PlanStep{Weight: 10}, PlanStep{Pause: Duration(90 * time.Minute)}, PlanStep{Analyze: &Analyze{MinRequests: 2.5, MinDuration: Duration(time.Minute), MaxDuration: Duration(time.Hour)}}, PlanStep{Approve: true})
	read, err := ParseLedger("app", l.String())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.Release.Plan, read.Release.Plan); diff != "" {
		t.Error(diff)
	}
	var texts []string
	for _, s := range read.Release.Plan {
		texts = append(texts, s.String())
	}
	want := []string{"match cookie:c^=v", "analyze", "mirror 5%", "analyze", "weight 10%", "pause 1h30m", "analyze, 2.5 requests, at least 1m, at most 1h", "approve"}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Error(diff)
	}
	text, err := json.Marshal(Release{})
	if err != nil || strings.Contains(string(text), "plan") {
		t.Errorf("%s, %v", text, err)
	}
	if err := started(t).Give(0, "me", now); !errors.Is(err, ErrNoPlan) {
		t.Error(err)
	}
}
