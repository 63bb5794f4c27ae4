package verdict

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Witnessed is what is seen of the tracks beside their counters: their pods. Counters have the requests that a
// canary answered, and not those that found no pod of it.
type Witnessed struct {
	// Unhealthy is why the canary is unhealthy whatever its counters say; "" if nothing does.
	Unhealthy string `json:"unhealthy,omitempty"`
	Cause     Cause  `json:"cause,omitempty"` // of Unhealthy, or of Hold
	// Hold is why the canary cannot be healthy at the moment; "" if it can.
	Hold string `json:"-"`
	// PrimaryWhole says that all of primary's wanted pods are ready endpoints. Errors of the Service that belong to
	// no track are then the canary's.
	PrimaryWhole bool `json:"primaryWhole,omitempty"`
}

// The causes that the witness finds, or that need it.
const (
	Restarts     Cause = "restarts"     // a container of the canary restarted
	OOMKilled    Cause = "oom_killed"   // a container of the canary ran out of memory
	NotReady     Cause = "not_ready"    // a pod of the canary lost its readiness, or fewer are ready than wanted
	Unattributed Cause = "unattributed" // callers of the Service got errors that belong to no track
	PodsUnseen   Cause = "pods_unseen"  // the witness could not be asked
)

// judgment is what follows from what was seen, with the evidence of the counters.
func (w *Witnessed) judgment(j Judgment) Judgment {
	j.Decided, j.Outcome, j.Cause, j.Reason, j.Left = true, release.Unhealthy, w.Cause, w.Unhealthy, 0
	return j
}

// witness asks the witness. What it calls unhealthy is, at once.
func (w *watching) witness(ctx context.Context) (done bool, err error) {
	if w.Witness == nil {
		return false, nil
	}
	w.witnessed, w.unseen = w.Witness(ctx)
	switch {
	case w.unseen != nil:
		w.warn(fmt.Sprintf("the canary's pods cannot be seen: %v: the verdict waits", w.unseen))
		return false, ctx.Err()
	case w.witnessed.Unhealthy == "":
		return false, nil
	}
	seen := w.witnessed
	w.result.Record.Witnessed = &seen
	w.conclude(release.Unhealthy, seen.Cause, seen.Unhealthy)
	return true, nil
}

// unattributed says why a canary cannot pass whose pods were not seen or are not all ready, or beside which callers of the Service got
// errors that belong to no track while primary was whole; "" if it can. Such errors hold a verdict when they came
// since the last look, and when, counted as the canary's, they are more than its budget.
func (w *watching) unattributed() (Cause, string) {
	if w.unseen != nil {
		return PodsUnseen, fmt.Sprintf("the canary's pods cannot be seen: %v", w.unseen)
	}
	if w.witnessed.Hold != "" {
		return cmp.Or(w.witnessed.Cause, NotReady), w.witnessed.Hold
	}
	errors := w.result.Record.Unattributed
	if !w.witnessed.PrimaryWhole || errors == 0 {
		return "", ""
	}
	all := errors + w.state.judge().requests()
	if w.counting.errors == 0 && errors <= w.budget()*all {
		return "", ""
	}
	return Unattributed, fmt.Sprintf("%.0f requests to the Service found no pod of either track (response flag UH, NC or NR) while all of primary's were ready: that leaves the canary's", errors)
}

// budget is the smallest budget of the objectives that count errors.
func (w *watching) budget() float64 {
	budget := 1.0
	for i, indicator := range w.Source.indicators {
		if indicator.Counts == "" && !indicator.paired() {
			budget = min(budget, w.test.Objectives[i].Budget)
		}
	}
	return budget
}

// resumable says whether the evidence goes on from the record that the options name.
func (w *watching) resumable(now time.Time) bool {
	r := w.Resume
	switch {
	case r == nil || r.Until.IsZero() || r.Until.After(now):
		return false
	case !r.GoesOn(w.Test):
		w.warn("the objectives or the method are others than those that the canary was judged by before: the analysis begins anew")
		return false
	}
	return true
}

// goOn takes the record that the options name over. The time for a verdict begins again, the evidence does not.
func (w *watching) goOn(now time.Time) {
	r := *w.Resume
	r.Witnessed = nil
	w.start = r.Since
	w.test.MaxDuration += now.Sub(w.start)
	r.Test = w.test
	w.result.Record, w.state = r, r.state()
}

// GoesOn says whether the evidence of a test may go on from the record.
func (r *Record) GoesOn(t Test) bool { return !r.Outdated() && r.Test.comparable(t) }
