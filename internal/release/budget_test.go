package release

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestLedgerFits: whatever sizes the evidence of releases has, a ledger is within its budget, loses the evidence of
// older releases before that of newer ones and before any history, and never the release in flight.
func TestLedgerFits(t *testing.T) {
	verdict := rapid.Custom(func(t *rapid.T) *Verdict {
		size := rapid.SampledFrom([]int{0, 100, 20_000, 60_000, 128_000, 600_000}).Draw(t, "size")
		return &Verdict{Outcome: Healthy, Digest: "sha256:a", Evidence: strings.Repeat("e", size)}
	})
	checks := flag.Lookup("rapid.checks").Value.String()
	defer func() { _ = flag.Set("rapid.checks", checks) }()
	if err := flag.Set("rapid.checks", "25"); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		beside := rapid.SampledFrom([]int{0, 4_000, 100_000}).Draw(t, "beside")
		l := &Ledger{Version: LedgerVersion, App: "app", Epoch: 7}
		for i := range rapid.IntRange(0, 2*HistoryLength).Draw(t, "history") {
			l.History = append(l.History, Finished{Release: Release{ID: fmt.Sprint(i), Verdict: verdict.Draw(t, "verdict"), Reason: strings.Repeat("r", rapid.IntRange(0, 40_000).Draw(t, "reason"))}})
		}
		inFlight := rapid.Bool().Draw(t, "in flight")
		if inFlight {
			l.Release = &Release{ID: "now", Stage: StageVerified, Steps: []Step{{Stage: StageStarted}}, Verdict: verdict.Draw(t, "its verdict"), Objects: &Objects{Service: "s"}}
		}
		was := *l
		was.History = append([]Finished(nil), l.History...)
		l.Fit(beside)
		if size := len(l.String()) + beside; size > ledgerBudget {
			t.Fatalf("%d bytes", size)
		}
		if inFlight {
			if diff := cmp.Diff(was.Release, l.Release, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Verdict" }, cmp.Ignore())); diff != "" {
				t.Fatalf("the release in flight has changed:\n%s", diff)
			}
			if l.Release.Verdict.Outcome != Healthy || l.Release.Verdict.Dropped && len(l.History) > 0 {
				t.Fatalf("%+v with %d of history", l.Release.Verdict, len(l.History))
			}
		}
		dropped := false
		for i, f := range l.History { // newest first: once evidence is dropped, all that is older is
			if f.ID != was.History[i].ID || f.Verdict.Outcome != Healthy {
				t.Fatalf("release %d is %+v", i, f)
			}
			dropped = dropped || f.Verdict.Dropped
			if dropped && f.Verdict.Evidence != "" {
				t.Fatal("newer evidence was dropped before older")
			}
			if f.Verdict.Evidence != "" && len(l.History) < len(was.History) {
				t.Fatal("history was dropped before evidence")
			}
		}
		l.Fit(beside)
		if again, err := ParseLedger("app", l.String()); err != nil || again.String() != l.String() {
			t.Fatalf("it does not survive being written: %v", err)
		}
	})
}

// TestLedgerThatFitsIsLeftAlone: as long as there is room, nothing is dropped.
func TestLedgerThatFitsIsLeftAlone(t *testing.T) {
	l := &Ledger{Version: LedgerVersion, App: "app", History: []Finished{{Release: Release{ID: "1", Verdict: &Verdict{Evidence: strings.Repeat("e", 100_000)}}}}}
	before := l.String()
	if l.Fit(10_000); l.String() != before {
		t.Error("it was changed")
	}
}
