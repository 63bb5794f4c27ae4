package release

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ended is a release that is over.
func ended(id, image, pod string, outcome Outcome) Finished {
	return Finished{Release: Release{ID: id, Image: image, Pod: pod}, Outcome: outcome}
}

// TestKeepPods: of the newest good releases, each content once, the pod template is kept.
func TestKeepPods(t *testing.T) {
	l := &Ledger{History: []Finished{
		ended("6", "b", "pod", OutcomeRolledBack),
		ended("5", "a", "", OutcomeUnchanged),
		ended("4", "a", "pod", OutcomePromoted),
		ended("3", "a", "other pod", OutcomePromoted),
		ended("2", "a", "pod", OutcomePromoted), // as 4
		ended("1", "c", "pod", OutcomeFirst),
	}}
	ids := func() (ids []string) {
		for _, f := range l.Returnable() {
			ids = append(ids, f.ID)
		}
		return ids
	}
	for most, want := range map[int][]string{5: {"4", "3", "1"}, 2: {"4", "3"}, 1: {"4"}} {
		was := *l
		l.History = append([]Finished(nil), l.History...)
		l.KeepPods(most)
		if diff := cmp.Diff(want, ids()); diff != "" {
			t.Errorf("of %d (-want +got):\n%s", most, diff)
		}
		for _, f := range l.History {
			if f.Pod != "" && !strings.Contains(strings.Join(want, " "), f.ID) {
				t.Errorf("of %d: that of %s is kept", most, f.ID)
			}
		}
		*l = was
	}
}

// TestReturnableOutliveWhatCameToNothing: releases that can be returned to stay in the history however many others follow, and so
// does the one that serves.
func TestReturnableOutliveWhatCameToNothing(t *testing.T) {
	finish := func(l *Ledger, r Release, outcome Outcome) {
		t.Helper()
		if l.Release = &r; l.Finish(outcome, "me", now) != nil {
			t.Fatalf("%s does not end as %s", r.ID, outcome)
		}
		l.KeepPods(DefaultKeepReleases)
		if l.History[0].ID != r.ID || len(l.History) > HistoryLength+3 {
			t.Fatalf("%d releases, the newest is %s, not %s", len(l.History), l.History[0].ID, r.ID)
		}
	}
	for _, unchanged := range []bool{false, true} {
		l := &Ledger{Version: LedgerVersion, App: "app"}
		serves := "b"
		finish(l, Release{ID: "a", Image: "a", Pod: "pod of a", Stage: StagePromoted}, OutcomePromoted)
		finish(l, Release{ID: "b", Image: "b", Pod: "pod of b", Stage: StagePromoted}, OutcomePromoted)
		if unchanged {
			serves = "same"
			finish(l, Release{ID: serves, Image: "b", Stage: StageStarted}, OutcomeUnchanged)
		}
		for i := range HistoryLength + 5 {
			finish(l, Release{ID: fmt.Sprint(i), Image: "c", Stage: StageRollingBack}, []Outcome{OutcomeSuperseded, OutcomeRolledBack}[i%2])
		}
		kept := l.Returnable()
		if len(kept) != 2 || kept[0].ID != "b" || kept[1].ID != "a" {
			t.Errorf("%d can be returned to: %+v", len(kept), kept)
		}
		if f := l.Serves(); f == nil || f.ID != serves {
			t.Errorf("%+v serves, want %s", f, serves)
		}
	}
}

// TestFailuresAreKnown: what was rolled back is among the newest however many releases can be returned to, and so cannot start again
// unasked. What is kept is bounded.
func TestFailuresAreKnown(t *testing.T) {
	l := &Ledger{Version: LedgerVersion, App: "app"}
	var order []string
	finish := func(r Release, outcome Outcome) {
		t.Helper()
		if l.Release = &r; l.Finish(outcome, "me", now) != nil {
			t.Fatalf("%s does not end as %s", r.ID, outcome)
		}
		l.KeepPods(3 * HistoryLength)
		order = append([]string{r.ID}, order...)
		for i, f := range l.History[:min(len(l.History), HistoryLength)] {
			if f.ID != order[i] {
				t.Fatalf("after %s: %s is number %d of the newest, want %s", r.ID, f.ID, i, order[i])
			}
		}
		if len(l.History) > 2*HistoryLength {
			t.Fatalf("%d releases are kept", len(l.History))
		}
	}
	good := func(n int) {
		for range n {
			id := fmt.Sprint(len(order))
			finish(Release{ID: id, Image: id, Pod: "pod of " + id, Stage: StagePromoted}, OutcomePromoted)
		}
	}
	good(HistoryLength)
	bad := Release{ID: "bad", Image: repo + "@" + digestA, Stage: StageRollingBack}
	finish(bad, OutcomeRolledBack)
	good(1)
	if l.Find("bad") == nil || l.Failed(&bad) == nil {
		t.Error("it is not known any more that a release has failed")
	}
	good(3 * HistoryLength)
}

// TestHowItEnds: a return ends as one, and nothing else does.
func TestHowItEnds(t *testing.T) {
	for _, back := range []*Return{nil, {From: "0"}} {
		l := started(t)
		r := l.Release
		r.Return, r.Stage = back, StagePromoted
		ends, other := OutcomePromoted, OutcomeReturned
		if back != nil {
			ends, other = other, ends
		}
		if err := l.Finish(other, "me", now); err == nil || l.Release != r {
			t.Errorf("return %v: it ends as %s", back, other)
		}
		if err := l.Finish(ends, "me", now); err != nil || l.Release != nil {
			t.Errorf("return %v: %v", back, err)
		}
	}
}

// TestGitOfFinished: the pod template that Git had is of no use after the release, however it ends, and people never read it.
func TestGitOfFinished(t *testing.T) {
	l := started(t)
	l.Release.Git = &Git{Controller: "Flux", Commit: "c0ffee0", Template: "{}", PushOpen: true}
	want := &Git{Controller: "Flux", Commit: "c0ffee0"}
	if diff := cmp.Diff(want, l.Release.WithoutEvidence().Git); diff != "" || l.Release.Git.Template == "" {
		t.Errorf("for people (-want +got):\n%s", diff)
	}
	if err := errors.Join(l.Reach(StageRollingBack, "me", now), l.Finish(OutcomeRolledBack, "me", now)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, l.History[0].Git); diff != "" {
		t.Errorf("without a verdict (-want +got):\n%s", diff)
	}
}

// TestPodsAreShed: where there is no room, evidence goes before pod templates, old ones before new ones, and these before the
// history.
func TestPodsAreShed(t *testing.T) {
	l := &Ledger{Version: LedgerVersion, App: "app"}
	for _, id := range []string{"3", "2", "1"} {
		f := ended(id, id, strings.Repeat("p", 100_000), OutcomePromoted)
		f.Verdict = &Verdict{Outcome: Healthy, Evidence: strings.Repeat("e", 100_000)}
		l.History = append(l.History, f)
	}
	l.Fit(ledgerBudget - 250_000)
	var kept []string
	for _, f := range l.History {
		if f.Verdict.Evidence != "" {
			t.Errorf("the evidence of %s is kept", f.ID)
		}
		if f.Pod != "" {
			kept = append(kept, f.ID)
		}
	}
	if diff := cmp.Diff([]string{"3", "2"}, kept); diff != "" || len(l.History) != 3 {
		t.Errorf("%d releases (-want +got):\n%s", len(l.History), diff)
	}
}
