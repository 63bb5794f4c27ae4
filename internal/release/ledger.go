package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
)

// HistoryLength is how many finished releases a ledger keeps, whatever they are; of older ones, as many that serve or can be returned to.
const HistoryLength = 20

// Ledger is what is known of an app's releases: the one in flight and the last outcomes. It lives in
// the cluster, so that any job on any machine can resume it. Epoch is the number of the newest
// lock that wrote it; a writer with an older one has lost its lock.
type Ledger struct {
	Version int        `json:"version"` // of the format that it was read in; String gives it the one that it needs
	App     string     `json:"app"`
	Epoch   int64      `json:"epoch"`
	Open    bool       `json:"open,omitempty"`    // that lock was not released in order: its job may still write
	Release *Release   `json:"release,omitempty"` // in flight
	Serving *Serving   `json:"serving,omitempty"` // on primary, where its origin is known
	History []Finished `json:"history,omitempty"` // newest first

	Warm *Warm `json:"warm,omitempty"` // pods that are kept for a return
	Hold *Hold `json:"hold,omitempty"` // no new release starts; nil: not on hold

	// The line is kept beside the ledger: whoever enters it need not wait for the job that has the lock.
	Queue []Queued `json:"-"` // releases that wait for their turn, in order
	Left  []Left   `json:"-"` // that have left the line without having started, newest first

	Policy *PolicySeen `json:"approvalPolicy,omitempty"` // the last one; nil: none was ever there
}

// Finished is a release that is over.
type Finished struct {
	Release
	Outcome    Outcome   `json:"outcome"`
	FinishedAt time.Time `json:"finishedAt"`
	FinishedBy string    `json:"finishedBy"`
}

// InFlightError says that another release of the app is in flight.
type InFlightError struct {
	Release  Release
	CanQueue bool // what was refused is a release that could wait for its turn
}

func (e *InFlightError) Error() string {
	wait := ""
	if e.CanQueue {
		wait = "; to let the next release wait, run `crossbill queue` before canary, with queue.policy queue or supersede (docs/guides/queue.md)"
	}
	if r := e.Release; r.Return != nil {
		return fmt.Sprintf("the return to release %s (%s) is in flight: stage %s since %s, started by %s; finish it with rollback --to %s, or take it back with rollback%s",
			r.ID, r.Digest(), r.Stage, r.Steps[len(r.Steps)-1].At.Format(time.RFC3339), r.StartedBy, r.ID, wait)
	}
	return fmt.Sprintf("release %s (%s) is in flight: stage %s since %s, started by %s; finish it with promote and cleanup, or with rollback%s",
		e.Release.ID, e.Release.Digest(), e.Release.Stage, e.Release.Steps[len(e.Release.Steps)-1].At.Format(time.RFC3339), e.Release.StartedBy, wait)
}

// ErrNoRelease says that no release is in flight.
var ErrNoRelease = errors.New("no release is in flight")

// ParseLedger reads a ledger. An empty text is an app's first ledger. Errors: *NewerLedgerError; otherwise the text is not a
// ledger of the app.
func ParseLedger(app, text string) (*Ledger, error) {
	if text == "" {
		return &Ledger{Version: LedgerVersion, App: app}, nil
	}
	var l Ledger
	err := l.parse(app, text)
	switch {
	case errors.As(err, new(*NewerLedgerError)):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("ledger of %s is not readable: %w", app, err)
	}
	if l.App != app {
		return nil, fmt.Errorf("ledger is of app %s, not of %s", l.App, app)
	}
	if l.Release != nil && len(l.Release.Steps) == 0 {
		return nil, fmt.Errorf("ledger of %s: release %s has no steps", app, l.Release.ID)
	}
	return &l, nil
}

// String is the ledger as it is kept, in the oldest version of the format that holds it.
func (l *Ledger) String() string {
	kept := *l
	kept.Version = formatOf(l)
	text, err := json.MarshalIndent(&kept, "", "  ")
	if err != nil {
		panic(err) // plain data: cannot fail
	}
	return string(text)
}

// Start puts a release in flight, or resumes the same one. started says which.
func (l *Ledger) Start(r Release, by string, now time.Time) (started bool, err error) {
	if l.Release != nil {
		if l.Release.ID != r.ID || l.Release.Image != r.Image || l.Release.Return != nil {
			return false, &InFlightError{*l.Release, l.Release.ID != r.ID && r.Return == nil}
		}
		if l.Release.Template != r.Template {
			return false, &usererr.Error{
				Field:   "manifests",
				Problem: fmt.Sprintf("the pod template is not the one that release %s started with", r.ID),
				Fix:     "use the manifests of that commit, or roll the release back and start a new one",
			}
		}
		return false, nil
	}
	l.Warm = nil // its Deployment is the canary's
	l.starts(r.ID)
	r.Stage, r.StartedAt, r.StartedBy = StageStarted, now, by
	r.Steps = []Step{{Stage: StageStarted, At: now, By: by}}
	l.Release = &r
	return true, nil
}

// Reach notes that the release in flight has reached a stage. Reaching the present stage again
// changes nothing.
func (l *Ledger) Reach(stage Stage, by string, now time.Time) error {
	r := l.Release
	if r == nil {
		return ErrNoRelease
	}
	if r.Stage == stage {
		return nil
	}
	if straight := r.Return != nil && r.Stage == StageStarted && stage == StagePromoting; !straight && !allowed(r.Stage, stage) {
		return fmt.Errorf("release %s cannot go from stage %s to %s", r.ID, r.Stage, stage)
	}
	if stage == StagePromoting {
		if err := l.Promotable(); err != nil {
			return err
		}
		r.Plan = slices.Clone(r.Plan)
		r.Plan.done(len(r.Plan), false, by, now) // the approval that is last is the promotion's own
	}
	r.Stage = stage
	step := Step{Stage: stage, At: now, By: by}
	if stage == StageCanary {
		step = r.canaryStep(now, by)
		if r.Plan.At() == 0 { // a canary starts with what the first step gives
			r.Plan = slices.Clone(r.Plan)
			r.Plan.done(min(1, len(r.Plan)), false, by, now)
		}
	}
	r.Steps = append(r.Steps, step)
	return nil
}

// canaryStep is the step that says what leads to the canary from now on.
func (r *Release) canaryStep(now time.Time, by string) Step {
	step := Step{Stage: StageCanary, At: now, By: by, Weight: r.Weight}
	if r.Match != nil || r.Mirror > 0 {
		step.Gets = r.Gets()
	}
	return step
}

// allowed says which stage may follow which. Verifying again, after an inconclusive verdict or to be
// sure, is allowed until promotion starts. Nothing but the end follows rolling back.
func allowed(from, to Stage) bool {
	switch to {
	case StageCanary:
		return from == StageStarted
	case StageVerified:
		return from == StageCanary
	case StagePromoting:
		return from == StageVerified
	case StagePromoted:
		return from == StagePromoting
	case StageRollingBack:
		return true
	default:
		return false
	}
}

// Judgeable says whether a verdict can be put on the release in flight: it is on what the release is.
func (l *Ledger) Judgeable(v *Verdict) error {
	r := l.Release
	switch {
	case r == nil:
		return ErrNoRelease
	case r.Stage == StageRollingBack:
		return fmt.Errorf("release %s is rolling back (%s): finish with rollback", r.ID, r.Reason)
	case r.Stage != StageCanary && r.Stage != StageVerified:
		return fmt.Errorf("release %s is at stage %s: only a canary with traffic can be judged", r.ID, r.Stage)
	}
	if unlike := v.unlike(r); unlike != "" {
		return fmt.Errorf("release %s has changed meanwhile: it was judged %s; run verify again", r.ID, unlike)
	}
	return nil
}

// Judge puts a verdict on the release in flight.
func (l *Ledger) Judge(v Verdict, by string, now time.Time) error {
	if err := l.Judgeable(&v); err != nil {
		return err
	}
	r := l.Release
	if err := l.Reach(StageVerified, by, now); err != nil {
		return err
	}
	if r.Verdict == nil || r.Verdict.Outcome != Healthy || v.Outcome != Healthy || r.Verdict.unlike(r) != "" {
		r.superseded() // else it says again what it said, with more evidence
	}
	r.Verdict = &v
	r.analyzed(by, now)
	return nil
}

// judgedLength is how many verdicts a release keeps beside its last one.
const judgedLength = 10

// superseded puts the release's verdict, if it has one, among those that were.
func (r *Release) superseded() {
	if r.Verdict == nil {
		return
	}
	was := *r.WithoutEvidence().Verdict
	r.Judged = append(r.Judged[max(0, len(r.Judged)-judgedLength+1):], was)
	r.Verdict = nil
}

// Shift gives the canary of the release in flight another share, in percent. What was judged at the old
// one is judged no more. Mirroring ends with the first percent.
func (l *Ledger) Shift(weight int, by string, now time.Time) error {
	r := l.Release
	if r == nil {
		return ErrNoRelease
	}
	if r.Stage != StageCanary && r.Stage != StageVerified {
		return fmt.Errorf("release %s is at stage %s: only a canary with traffic gets another share", r.ID, r.Stage)
	}
	if err := r.Shiftable(weight); err != nil {
		return err
	}
	r.Plan = slices.Clone(r.Plan)
	r.Plan.shifted(weight, by, now)
	moves := r.Stage == StageVerified || r.Weight != weight
	r.superseded()
	if r.Weight, r.Stage = weight, StageCanary; weight > 0 {
		r.Mirror = 0
	}
	if moves {
		r.Steps = append(r.Steps, r.canaryStep(now, by))
	}
	return nil
}

// Promotable says whether the release in flight may go to primary: it was judged healthy as it is, the same digest, pod
// template and weight, in this release (invariant 3).
func (l *Ledger) Promotable() error {
	r := l.Release
	switch {
	case r == nil:
		return ErrNoRelease
	case r.Stage == StageRollingBack:
		return fmt.Errorf("release %s is rolling back (%s): finish with rollback", r.ID, r.Reason)
	case r.Return != nil: // it was judged when it was released
		return nil
	case r.Verdict == nil:
		return fmt.Errorf("release %s has no verdict: run verify first", r.ID)
	case r.Verdict.Outcome != Healthy:
		return fmt.Errorf("release %s was judged %s (%s): only a healthy one is promoted", r.ID, r.Verdict.Outcome, r.Verdict.Reason)
	case r.Stage == StagePromoting: // it was promotable; its weight changes from here on
		return nil
	case !r.Plan.Finished():
		return fmt.Errorf("release %s is at %s: canary --follow goes on with it", r.ID, r.Plan.Step(r.Plan.At()))
	}
	if unlike := r.Verdict.unlike(r); unlike != "" {
		return fmt.Errorf("release %s was judged %s; run verify again", r.ID, unlike)
	}
	return nil
}

// Finish ends the release in flight.
func (l *Ledger) Finish(outcome Outcome, by string, now time.Time) error {
	r := l.Release
	if r == nil {
		return ErrNoRelease
	}
	want := map[Outcome]Stage{OutcomeFirst: StageStarted, OutcomeUnchanged: StageStarted, OutcomePromoted: StagePromoted, OutcomeReturned: StagePromoted, OutcomeRolledBack: StageRollingBack, OutcomeSuperseded: StageRollingBack}[outcome]
	if r.Stage != want || outcome.Good() && (outcome == OutcomeReturned) != (r.Return != nil) {
		return fmt.Errorf("release %s is at stage %s and cannot end as %s", r.ID, r.Stage, outcome)
	}
	if outcome.Good() {
		l.serve(r)
	}
	r.Git = r.Git.finished()
	r.Asked, r.Baseline = nil, false // the version before can read the ledger again
	l.History = append([]Finished{{*r, outcome, now, by}}, l.History...)
	l.forget()
	l.Release = nil
	return nil
}

// forget drops what is too old. The newest ones stay, whatever is kept beside them: that they failed is to be known.
func (l *Ledger) forget() {
	serves := l.Serves()
	var kept []Finished
	for i := range l.History {
		if f := &l.History[i]; i < HistoryLength || len(kept) < 2*HistoryLength && (f.Pod != "" || f == serves) {
			kept = append(kept, *f)
		}
	}
	l.History = kept
}

// Find is the finished release with this name, or nil.
func (l *Ledger) Find(id string) *Finished {
	for i := range l.History {
		if l.History[i].ID == id {
			return &l.History[i]
		}
	}
	return nil
}

// Serves is the release that has left on primary what it serves, or nil.
func (l *Ledger) Serves() *Finished {
	for i := range l.History {
		if l.History[i].Outcome.Good() {
			return &l.History[i]
		}
	}
	return nil
}

// Failed is the newest finished release of the same as one that is wanted if it was rolled back, or nil. One that made
// nothing, or gave way to a newer one, says nothing of what it was of.
func (l *Ledger) Failed(want *Release) *Finished {
	for i := range l.History {
		if f := &l.History[i]; f.Return != nil && !f.Outcome.Good() { // it was taken back, and was good before
			continue
		}
		if !l.History[i].Same(want) || l.History[i].Untried || l.History[i].Outcome == OutcomeSuperseded {
			continue
		}
		if l.History[i].Outcome.Good() {
			return nil
		}
		return &l.History[i]
	}
	return nil
}

// Last is the finished release with a name, or the newest for "", or nil.
func (l *Ledger) Last(id string) *Finished {
	if id == "" && len(l.History) > 0 {
		return &l.History[0]
	}
	return l.Find(id)
}

// Expect checks that the release in flight, if there is one, is the one that is meant; "" means any.
func (l *Ledger) Expect(id string) error {
	if id == "" || l.Release == nil || l.Release.ID == id {
		return nil
	}
	return fmt.Errorf("release %s was meant: %w", id, &InFlightError{Release: *l.Release})
}
