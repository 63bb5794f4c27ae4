package release

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// handed is a release that run number n has handed over; 0 for one that does not say.
func handed(id string, n int) Queued {
	q := Queued{ID: id, By: "job of " + id}
	if n > 0 {
		q.SourceURL = fmt.Sprintf("https://github.com/our-org/app/actions/runs/%d", n)
	}
	return q
}

// line is what waits, in order.
func line(l *Ledger) string {
	var ids []string
	for _, w := range l.Queue {
		ids = append(ids, w.ID)
	}
	return strings.Join(ids, " ")
}

// enter lets releases into a line, and fails the test when one is refused.
func enter(t *testing.T, l *Ledger, policy QueuePolicy, all ...Queued) {
	t.Helper()
	for _, q := range all {
		if _, err := l.Enter(q, policy, now); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLineIsInOrderOfCommits(t *testing.T) {
	for _, c := range []struct {
		name string
		all  []Queued
		want string
	}{
		{"as they come", []Queued{handed("a", 0), handed("b", 0)}, "a b"},
		{"an older one comes late", []Queued{handed("c", 3), handed("a", 1), handed("b", 2)}, "a b c"},
		{"one that says nothing keeps its place", []Queued{handed("c", 3), handed("x", 0), handed("a", 1)}, "a c x"},
		{"twice is once", []Queued{handed("a", 1), handed("b", 2), handed("a", 1)}, "a b"},
		{"runs of another repository are not compared", []Queued{handed("c", 3), {ID: "o", SourceURL: "https://github.com/other/app/actions/runs/1"}}, "c o"},
		{"wanted again waits its turn", []Queued{handed("c", 3), {ID: "a", SourceURL: handed("", 1).SourceURL, Again: true}, handed("b", 2)}, "b c a"},
	} {
		l := &Ledger{}
		enter(t, l, QueueInOrder, c.all...)
		if got := line(l); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestSupersedeInTheLine(t *testing.T) {
	l := &Ledger{}
	enter(t, l, QueueSupersede, handed("a", 1), handed("c", 3), handed("b", 2))
	if line(l) != "c" {
		t.Errorf("%q waits", line(l))
	}
	for _, id := range []string{"a", "b"} {
		if by, why := l.Superseded(id); by != "c" || why == "" {
			t.Errorf("%s: by %q, %q", id, by, why)
		}
	}
	if by, _ := l.Superseded("c"); by != "" {
		t.Errorf("c is superseded by %q", by)
	}
	again := func(q Queued) Queued { q.Again = true; return q }
	for name, c := range map[string]struct {
		all  []Queued
		want string
	}{
		"a newer one comes":          {[]Queued{again(handed("a", 1)), handed("c", 3)}, "a c"},
		"it comes later":             {[]Queued{handed("c", 3), again(handed("a", 1))}, "c a"},
		"it does not say what it is": {[]Queued{handed("c", 3), again(handed("x", 0))}, "c x"},
		"it is newer":                {[]Queued{handed("a", 1), again(handed("c", 3))}, "c"},
		"the others give way still":  {[]Queued{again(handed("a", 1)), handed("b", 2), handed("c", 3)}, "a c"},
	} {
		l := &Ledger{}
		if enter(t, l, QueueSupersede, c.all...); line(l) != c.want {
			t.Errorf("wanted again, %s: %q waits, want %q", name, line(l), c.want)
		}
	}
}

// TestNewerMakesSuperfluous: what is older than what is in flight, or serves, does not come into the line. It does when it
// is wanted again.
func TestNewerMakesSuperfluous(t *testing.T) {
	flight := &Ledger{Release: &Release{ID: "c", SourceURL: handed("", 3).SourceURL, Stage: StageCanary}}
	served := &Ledger{History: []Finished{
		{Release: Release{ID: "bad", SourceURL: handed("", 9).SourceURL}, Outcome: OutcomeRolledBack},
		{Release: Release{ID: "c", Origin: &Origin{Run: handed("", 3).SourceURL}}, Outcome: OutcomePromoted},
	}}
	for name, l := range map[string]*Ledger{"in flight": flight, "serves": served} {
		left, err := l.Enter(handed("a", 1), QueueInOrder, now)
		if err != nil || left == nil || left.SupersededBy != "c" || line(l) != "" {
			t.Errorf("%s: %+v, %v, line %q", name, left, err, line(l))
		}
		enter(t, l, QueueInOrder, handed("d", 4), Queued{ID: "a", SourceURL: handed("", 1).SourceURL, Again: true})
		if line(l) != "d a" || l.HasLeft("a") != nil {
			t.Errorf("%s: line %q, left %+v", name, line(l), l.Left)
		}
	}
}

func TestTurn(t *testing.T) {
	l := &Ledger{}
	enter(t, l, QueueInOrder, handed("a", 1), handed("b", 2))
	before := *l
	if err := before.Call("a", "me", now); err != nil {
		t.Fatal(err)
	}
	if left, err := before.Enter(handed("z", 0), QueueInOrder, now); left != nil || err != nil || line(&before) != "a b z" {
		t.Errorf("%+v, %v, %q", left, err, line(&before))
	}
	if left, err := (&Ledger{Queue: []Queued{{ID: "c", SourceURL: handed("", 3).SourceURL, CalledAt: now}}}).Enter(handed("b", 2), QueueInOrder, now); left == nil || left.SupersededBy != "c" || err != nil {
		t.Errorf("older than the one whose turn it is: %+v, %v", left, err)
	}
	says := func(id, want string) {
		t.Helper()
		turn, ahead := l.Turn(id)
		if turn != (want == "") || !strings.Contains(ahead, want) {
			t.Errorf("%s: %v, %q; want %q", id, turn, ahead, want)
		}
		if err := l.Call(id, "me", now); (err == nil) != (want == "") || want != "" && !errors.As(err, new(*InLineError)) {
			t.Errorf("call %s: %v", id, err)
		}
	}
	says("b", "release a is before it")
	l.Hold = &Hold{By: "me", Since: now}
	says("a", "on hold")
	l.Hold = nil
	says("a", "")
	if _, err := l.Start(Release{ID: "a", Image: repo + "@" + digestA, Previous: "p"}, "me", now); err != nil || line(l) != "b" {
		t.Errorf("%v, line %q", err, line(l))
	}
	says("b", "release a is in flight (stage started)")
}

// TestSupersede: only a release that nobody has approved gives way; that it did is no verdict on it.
func TestSupersede(t *testing.T) {
	flight := func(change func(*Release)) *Ledger {
		l := &Ledger{Release: &Release{ID: "a", Image: repo + "@" + digestA, Previous: "p", Stage: StageVerified, Steps: []Step{{Stage: StageVerified}}, Verdict: &Verdict{Outcome: Healthy}}}
		if change != nil {
			change(l.Release)
		}
		enter(t, l, QueueSupersede, handed("b", 0))
		return l
	}
	for name, c := range map[string]struct {
		change  func(*Release)
		gives   bool
		outcome Outcome
	}{
		"healthy":                {nil, true, OutcomeSuperseded},
		"started":                {func(r *Release) { r.Stage, r.Verdict = StageStarted, nil }, true, OutcomeSuperseded},
		"judged unhealthy":       {func(r *Release) { r.Verdict.Outcome = Unhealthy }, true, OutcomeRolledBack},
		"approved":               {func(r *Release) { r.Approvals = []Approval{{Kind: ApprovalVerified, By: "ann", Command: "approve"}} }, false, ""},
		"its canary is approved": {func(r *Release) { r.Approvals = []Approval{{Kind: ApprovalVerified, By: "ann", Command: "canary"}} }, true, OutcomeSuperseded},
		"promoting":              {func(r *Release) { r.Stage = StagePromoting }, false, ""},
		"promoted":               {func(r *Release) { r.Stage = StagePromoted }, false, ""},
		"rolling back":           {func(r *Release) { r.Stage = StageRollingBack }, false, ""},
		"the app's first":        {func(r *Release) { r.Stage, r.Previous = StageStarted, "" }, false, ""},
		"a return":               {func(r *Release) { r.Stage, r.Return = StageStarted, &Return{} }, false, ""},
	} {
		l := flight(c.change)
		err := l.Supersede("b", "me", now)
		if (err == nil) != c.gives || err != nil && !errors.As(err, new(*InLineError)) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if err := l.Supersede("b", "me", now); err != nil {
			t.Errorf("%s, again: %v", name, err)
		}
		want := l.Release
		if err := l.Finish(want.TakenBack(), "me", now); err != nil || l.History[0].Outcome != c.outcome {
			t.Errorf("%s: %v, %s", name, err, l.History[0].Outcome)
		}
		by, _ := l.Superseded("a")
		if failed := l.Failed(want) != nil; failed != (c.outcome == OutcomeRolledBack) || (by == "b") == failed || c.outcome.Good() {
			t.Errorf("%s: failed %v, superseded by %q, good %v", name, failed, by, c.outcome.Good())
		}
	}
	l := flight(nil)
	l.Hold = &Hold{By: "me", Since: now}
	if err := l.Supersede("b", "me", now); !errors.As(err, new(*InLineError)) || l.Release.Stage != StageVerified {
		t.Errorf("on hold: %v", err)
	}
}

// TestWhatWaitedTogether: what is in the line when a release starts lets it finish, whatever the clocks say, and also when it has left
// the line and enters again. What comes after that takes its place.
func TestWhatWaitedTogether(t *testing.T) {
	again := handed("b", 0)
	again.Again = true
	start := func(l *Ledger, id string) {
		t.Helper()
		l.Release = nil
		if _, err := l.Start(Release{ID: id, Image: repo + "@" + digestA, Previous: "p"}, "me", now.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	gives := func(l *Ledger, what, by string, want bool) {
		t.Helper()
		if got := l.Supersedable(by); got != want {
			t.Errorf("%s: gives way %v", what, got)
		}
	}
	l := &Ledger{}
	enter(t, l, QueueSupersede, handed("a", 0), again)
	start(l, "a")
	gives(l, "it waited", "b", false)
	gives(l, "who is not in the line", "c", true)
	enter(t, l, QueueSupersede, handed("c", 0))
	gives(l, "it came later", "c", true)
	l.Leave("b", "it has waited for 23h", now)
	gives(l, "out of the line", "b", false)
	enter(t, l, QueueSupersede, again)
	gives(l, "it has entered again", "b", false)
	if err := l.Supersede("b", "me", now); !errors.As(err, new(*InLineError)) {
		t.Errorf("by the one that waited: %v", err)
	}
	if err := l.Supersede("c", "me", now); err != nil || line(l) != "c b" || l.Release.SupersededBy != "c" {
		t.Errorf("by the one that came later: %v, line %q, %+v", err, line(l), l.Release)
	}
	l.Leave("b", "it has waited for 23h", now)
	start(l, "c")
	start(l, "a")
	enter(t, l, QueueSupersede, again)
	gives(l, "of a start before", "b", true)
}

// TestLineIsBounded: who does not fit gets an error, and what left long ago is forgotten.
func TestLineIsBounded(t *testing.T) {
	l := &Ledger{}
	for i := range mostQueued {
		enter(t, l, QueueInOrder, handed(fmt.Sprint("r", i), 0))
	}
	if _, err := l.Enter(handed("more", 0), QueueInOrder, now); !errors.As(err, new(*LineFullError)) || l.Waits("more") != nil {
		t.Errorf("%v", err)
	}
	enter(t, l, QueueSupersede, handed("new", 0))
	enter(t, l, QueueSupersede, handed("newer", 0))
	if line(l) != "newer" || len(l.Left) != mostLeft || l.HasLeft("new") == nil || l.HasLeft("r0") != nil {
		t.Errorf("line %q, %d left", line(l), len(l.Left))
	}
}

// TestLineIsKept: a ledger with a line is read as it was written, and one without is what earlier versions wrote.
func TestLineIsKept(t *testing.T) {
	l := &Ledger{Version: 1, App: "app"}
	if text := l.Line(); text != "" {
		t.Errorf("an app that nobody waits for has a line: %s", text)
	}
	enter(t, l, QueueInOrder, handed("a", 1), handed("b", 2))
	l.Leave("b", "a test", now)
	if err := l.Call("a", "me", now); err != nil {
		t.Fatal(err)
	}
	read, err := ParseLedger("app", l.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := read.ReadLine(l.Line()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l, read); diff != "" {
		t.Error(diff)
	}
	if err := read.ReadLine("{"); err != nil || len(read.Queue)+len(read.Left) != 0 {
		t.Errorf("an unreadable line is %q, %v", line(read), err)
	}
	if err := read.ReadLine(`{"queue": [{"id": "a", "lane": "fast"}]}`); !errors.As(err, new(*NewerLedgerError)) {
		t.Errorf("a line of a newer crossbill: %v", err)
	}
	read.Release = &Release{ID: "a"} // its job died before it had noted that
	if err := read.ReadLine(l.Line()); err != nil || line(read) != "" || read.HasLeft("b") == nil {
		t.Errorf("what is in flight waits: %q, left %+v", line(read), read.Left)
	}
}

// TestLineProperties lets releases come, go and start in any order.
func TestLineProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &Ledger{Version: LedgerVersion, App: "app"}
		runs, starts, known := map[string]int{}, map[string]int{}, []string{}
		var released []int // the numbers of what got all of the traffic
		policy := rapid.SampledFrom([]QueuePolicy{QueueInOrder, QueueSupersede}).Draw(t, "policy")
		at := now
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			at = at.Add(time.Minute)
			switch rapid.SampledFrom([]string{"enter", "enter", "call", "start", "end", "leave", "supersede", "hold"}).Draw(t, "event") {
			case "enter":
				id := fmt.Sprintf("r%02d", rapid.IntRange(0, 29).Draw(t, "id"))
				if _, came := runs[id]; !came {
					runs[id] = rapid.IntRange(1, 99).Draw(t, "run")
					known = append(known, id)
				}
				if by, _ := l.Superseded(id); by != "" || l.Find(id) != nil || l.Release != nil && l.Release.ID == id {
					continue // queue does not ask for those
				}
				before := line(l)
				again := l.Waits(id) != nil
				if _, err := l.Enter(handed(id, runs[id]), policy, at); err != nil {
					t.Fatal(err)
				}
				if again && line(l) != before {
					t.Fatalf("%s has entered once more: %q, then %q", id, before, line(l))
				}
			case "call":
				if len(l.Queue) > 0 {
					_ = l.Call(rapid.SampledFrom(l.Queue).Draw(t, "who").ID, "me", at)
				}
			case "start":
				if i := slices.IndexFunc(l.Queue, func(w Queued) bool { return !w.CalledAt.IsZero() }); i >= 0 && l.Release == nil {
					q := l.Queue[i]
					if i > 0 {
						continue // canary asks whose turn it is
					}
					if _, err := l.Start(Release{ID: q.ID, Image: repo + "@" + digestA, Previous: "p", SourceURL: q.SourceURL}, "me", at); err != nil {
						t.Fatal(err)
					}
					starts[q.ID]++
				}
			case "end":
				r := l.Release
				if r == nil {
					continue
				}
				if good := rapid.Bool().Draw(t, "good"); good && r.Stage == StageStarted {
					r.Stage = StagePromoted
					if err := l.Finish(OutcomePromoted, "me", at); err != nil {
						t.Fatal(err)
					}
					released = append(released, runs[r.ID])
				} else {
					r.Stage = StageRollingBack
					if err := l.Finish(r.TakenBack(), "me", at); err != nil {
						t.Fatal(err)
					}
				}
			case "leave":
				if len(l.Queue) > 0 {
					l.Leave(rapid.SampledFrom(l.Queue).Draw(t, "who").ID, "a test", at)
				}
			case "supersede":
				if policy == QueueSupersede && len(l.Queue) > 0 {
					_ = l.Supersede(l.Queue[0].ID, "me", at)
				}
			case "hold":
				if l.Hold == nil {
					l.Hold = &Hold{By: "me", Since: at}
				} else {
					l.Hold = nil
				}
			}
			turns := 0
			for i, w := range l.Queue {
				if slices.ContainsFunc(l.Queue[:i], func(o Queued) bool { return o.ID == w.ID || runs[o.ID] > runs[w.ID] }) {
					t.Fatalf("the line is %q, runs %v", line(l), runs)
				}
				if turn, _ := l.Turn(w.ID); turn {
					turns++
				}
			}
			free := l.Release == nil && l.Hold == nil && len(l.Queue) > 0
			if turns != map[bool]int{true: 1, false: 0}[free] {
				t.Fatalf("it is the turn of %d, free %v", turns, free)
			}
			if policy == QueueSupersede && len(l.Queue) > 1 {
				t.Fatalf("%q wait", line(l))
			}
			if !slices.IsSorted(released) {
				t.Fatalf("an older one was released after a newer one: %v", released)
			}
			for _, id := range known {
				by, why := l.Superseded(id)
				here := l.Waits(id) != nil || l.Release != nil && l.Release.ID == id || l.Find(id) != nil || why != "" || by != ""
				if !here && len(l.History) < HistoryLength {
					t.Fatalf("%s is lost", id)
				}
				if starts[id] > 1 {
					t.Fatalf("%s has started %d times", id, starts[id])
				}
			}
		}
	})
}
