package analysis

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict"
)

// besides are options for a release with a baseline.
func (w *world) besides() Options {
	w.ledger.Release.Baseline = true
	o := w.options()
	o.Baseline = "app-baseline"
	return o
}

// TestVerifyBesideABaseline: a release with a baseline is judged against that, whatever primary does. The reason and the record
// say so, and latency is weighed from the start.
func TestVerifyBesideABaseline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.flow("app-canary", 100, 0.03, 0, time.Hour)
		w.flow("app-baseline", 100, 0.0005, 0, time.Hour)
		w.flow("app-primary", 900, 0.03, 0, time.Hour) // which would excuse the canary
		came, err := Verify(t.Context(), w.besides())
		if !errors.As(err, new(*UnhealthyError)) || !strings.Contains(err.Error(), "of the baseline's") || !strings.Contains(err.Error(), "worse than the baseline") || strings.Contains(err.Error(), "primary's") {
			t.Fatalf("%v", err)
		}
		if record := came.Verdict.Record; !record.Test.Baseline || slices.ContainsFunc(record.Blocks, func(b verdict.Block) bool { return b.WarmUp }) {
			t.Errorf("%+v", record.Test)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.flow("app-canary", 100, 0.0005, 0, time.Hour)
		w.flow("app-baseline", 100, 0.0005, 0, time.Hour)
		o := w.besides()
		o.BaselineWarmUp = 20 * time.Second // somebody has given it
		came, err := Verify(t.Context(), o)
		if err != nil || !strings.Contains(came.Verdict.Reason, "of the baseline's") || !slices.ContainsFunc(came.Verdict.Record.Blocks, func(b verdict.Block) bool { return b.WarmUp }) {
			t.Fatalf("%v, %+v", err, came.Verdict)
		}
	})
}

// TestABaselineIsJudgedOn: another job goes on with the evidence against the baseline. A record of the same release against
// primary is none of it.
func TestABaselineIsJudgedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.flow("app-canary", 100, 0.0005, 0, time.Hour)
		w.flow("app-baseline", 100, 0.0005, 0, time.Hour)
		o := w.besides()
		first, err := Verify(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		o.Again = true
		second, err := Verify(t.Context(), o)
		if err != nil || len(w.warned) > 0 {
			t.Fatalf("%v, %q", err, w.warned)
		}
		if before, after := first.Verdict.Record, second.Verdict.Record; !after.Test.Baseline || !after.Since.Equal(before.Since) || after.Requests() < before.Requests()+5000 {
			t.Errorf("since %s with %.0f requests, then since %s with %.0f", before.Since, before.Requests(), after.Since, after.Requests())
		}
		if came, err := Guard(t.Context(), o); err != nil || !strings.Contains(came.Message, "nothing shows that its canary is unhealthy") {
			t.Errorf("%+v, %v", came.Result, err)
		}
		w.ledger.Release.Baseline, w.warned = false, nil
		if _, err := Verify(t.Context(), o); err != nil || len(w.warned) != 1 || !strings.Contains(w.warned[0], "begins anew") {
			t.Errorf("%v, %q", err, w.warned)
		}
	})
}

// TestBakeHasNoBaseline: after the promotion it is gone, and primary is judged alone.
func TestBakeHasNoBaseline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		o := w.besides()
		promoted, err := w.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		came, err := Bake(t.Context(), o, o.result(promoted.Release, "promoted"), 10*time.Minute)
		if err != nil || came.Verdict.Record.Test.Baseline || came.Verdict.Outcome != release.Healthy {
			t.Errorf("%v, %+v", err, came.Verdict)
		}
	})
}
