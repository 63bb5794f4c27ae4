package release

import "time"

// Asked is how often people were asked to go on with a release that waits for one of them.
type Asked struct {
	Since time.Time `json:"since"` // since when it waits; if it waits for something else later, they are asked anew
	Times int       `json:"times"`
	At    time.Time `json:"at"` // the last time
	By    string    `json:"by"` // whose job it was: what two jobs note at the same moment is not the same
}

// mostReminders is how often people are reminded of one wait.
const mostReminders = 5

// WaitsSince is since when a release waits for an approver: it was judged healthy as it is, and nothing but an approval is
// next. It is zero for any other.
func (r *Release) WaitsSince() time.Time {
	if r.Return != nil || !r.Proven() || !r.Plan.Finished() && r.AwaitsApproval() == 0 {
		return time.Time{}
	}
	since := r.Steps[len(r.Steps)-1].At
	if step := r.Plan.Since(); step.After(since) {
		since = step
	}
	return since
}

// AskDue says whether it is time to ask people to go on with the release in flight: at once, and again remind later, then
// after twice as long each time. With a remind of 0 they are asked once.
func (l *Ledger) AskDue(remind time.Duration, now time.Time) bool {
	r := l.Release
	if r == nil || r.WaitsSince().IsZero() {
		return false
	}
	a := r.Asked
	if a == nil || !a.Since.Equal(r.WaitsSince()) {
		return true
	}
	return remind > 0 && a.Times <= mostReminders && !now.Before(a.At.Add(remind<<(a.Times-1)))
}

// Ask notes that people are asked now.
func (l *Ledger) Ask(by string, now time.Time) {
	r := l.Release
	next := Asked{Since: r.WaitsSince(), Times: 1, At: now, By: by}
	if r.Asked != nil && r.Asked.Since.Equal(next.Since) {
		next.Times = r.Asked.Times + 1
	}
	r.Asked = &next
}
