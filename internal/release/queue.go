package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// QueuePolicy says what becomes of a release that comes while another one is in flight.
type QueuePolicy string

// The policies.
const (
	QueueRefuse    QueuePolicy = "refuse"    // it is refused
	QueueInOrder   QueuePolicy = "queue"     // it waits in a line, in order of commits
	QueueSupersede QueuePolicy = "supersede" // it takes the place of older ones that nobody has approved yet
)

const (
	mostQueued = 50 // releases in a line
	mostLeft   = 50 // of which is known why they have left it
)

// Queued is a release that waits in the line until it is its turn.
type Queued struct {
	ID          string    `json:"id"`
	Image       string    `json:"image,omitempty"`
	Bundle      string    `json:"bundle,omitempty"`
	Commit      string    `json:"commit,omitempty"`
	SourceURL   string    `json:"sourceUrl,omitempty"` // page of the run that handed it over, by whose number the line is in order
	PipelineURL string    `json:"pipelineUrl,omitempty"`
	By          string    `json:"by"`
	EnteredAt   time.Time `json:"enteredAt"`
	CalledAt    time.Time `json:"calledAt,omitzero"` // when it took its turn; its canary starts next
	Again       bool      `json:"again,omitempty"`   // it is wanted whatever is newer
	Behind      string    `json:"behind,omitempty"`  // the last release that has started while it was in the line: it lets that one finish
}

// Left is a release that has left the line, or did not come into it, without having started.
type Left struct {
	ID           string    `json:"id"`
	SupersededBy string    `json:"supersededBy,omitempty"` // a newer release; "" when it did not take its turn
	Reason       string    `json:"reason"`
	At           time.Time `json:"at"`
	Behind       string    `json:"behind,omitempty"` // what it lets finish when it enters again
}

// LineFullError says that no more releases can wait.
type LineFullError struct{ Most int }

func (e *LineFullError) Error() string {
	return fmt.Sprintf("%d releases wait in the line, and no more fit", e.Most)
}

// InLineError says that it is another release's turn.
type InLineError struct{ ID, Ahead string }

func (e *InLineError) Error() string {
	return fmt.Sprintf("it is not the turn of release %s: %s; `crossbill queue` waits for it; nothing was changed", e.ID, e.Ahead)
}

// kept is the line as it is kept.
type kept struct {
	Queue []Queued `json:"queue,omitempty"`
	Left  []Left   `json:"left,omitempty"`
}

// Line is the line as it is kept beside the ledger; "" when there is nothing to keep.
func (l *Ledger) Line() string {
	if len(l.Queue)+len(l.Left) == 0 {
		return ""
	}
	text, err := json.MarshalIndent(kept{l.Queue, l.Left}, "", "  ")
	if err != nil {
		panic(err) // plain data: cannot fail
	}
	return string(text)
}

// ReadLine reads the line that is kept beside the ledger. What is in flight does not wait. One that is not readable is
// empty: it must not keep a release from ending. The error is a *NewerLedgerError.
func (l *Ledger) ReadLine(text string) error {
	var line kept
	if text != "" {
		err := strictly(l.App, text, &line)
		switch {
		case errors.As(err, new(*NewerLedgerError)):
			return err
		case err != nil:
			line = kept{}
		}
	}
	l.Queue, l.Left = line.Queue, line.Left
	if r := l.Release; r != nil && (l.Waits(r.ID) != nil || l.HasLeft(r.ID) != nil) {
		l.starts(r.ID)
	}
	return nil
}

// Waits is a release's entry in the line, or nil.
func (l *Ledger) Waits(id string) *Queued {
	for i := range l.Queue {
		if l.Queue[i].ID == id {
			return &l.Queue[i]
		}
	}
	return nil
}

// HasLeft says why a release has left the line; nil when it has not.
func (l *Ledger) HasLeft(id string) *Left {
	for i := range l.Left {
		if l.Left[i].ID == id {
			return &l.Left[i]
		}
	}
	return nil
}

// Enter puts a release into the line, in order of commits. One that is in it keeps its place. One that a newer release
// makes superfluous does not come into it: left says why. With QueueSupersede, those in the line that it is newer than
// leave it, unless they are wanted again. One that is wanted again is not newer for coming later.
func (l *Ledger) Enter(q Queued, policy QueuePolicy, now time.Time) (left *Left, err error) {
	if l.Waits(q.ID) != nil {
		return nil, nil
	}
	if by, reason := l.newerThan(&q, policy); by != "" {
		l.leave(Left{ID: q.ID, SupersededBy: by, Reason: reason, At: now})
		return l.HasLeft(q.ID), nil
	}
	if policy == QueueSupersede {
		for _, w := range l.Queue {
			if w.Again || q.Again && !newer(q.SourceURL, w.SourceURL) {
				continue
			}
			l.leave(Left{ID: w.ID, SupersededBy: q.ID, Reason: "a newer release came before it had started", At: now})
		}
	}
	if len(l.Queue) >= mostQueued {
		return nil, &LineFullError{mostQueued}
	}
	at := len(l.Queue)
	if !q.Again {
		if i := slices.IndexFunc(l.Queue, func(w Queued) bool { return !w.Again && newer(w.SourceURL, q.SourceURL) }); i >= 0 {
			at = i
		}
	}
	q.EnteredAt, q.Behind = now, l.behind(q.ID)
	l.Queue = slices.Insert(slices.Clone(l.Queue), at, q)
	l.Left = slices.DeleteFunc(slices.Clone(l.Left), func(e Left) bool { return e.ID == q.ID })
	return nil, nil
}

// newerThan is the release that makes another one superfluous, with why; "" when none does. What came later is not newer
// for that: only a run that is known to be says so.
func (l *Ledger) newerThan(q *Queued, policy QueuePolicy) (by, reason string) {
	if q.Again {
		return "", ""
	}
	if r := l.Release; r != nil && newer(r.handedOver(), q.SourceURL) {
		return r.ID, "it is older than release " + r.ID + ", which is in flight"
	}
	if len(l.Queue) > 0 && !l.Queue[0].CalledAt.IsZero() && newer(l.Queue[0].SourceURL, q.SourceURL) {
		return l.Queue[0].ID, "it is older than release " + l.Queue[0].ID + ", whose turn it is"
	}
	if f := l.Serves(); f != nil && newer(f.handedOver(), q.SourceURL) {
		return f.ID, "it is older than release " + f.ID + ", which has all of the traffic"
	}
	if policy == QueueSupersede {
		for _, w := range l.Queue {
			if newer(w.SourceURL, q.SourceURL) {
				return w.ID, "it is older than release " + w.ID + ", which waits"
			}
		}
	}
	return "", ""
}

// handedOver is the page of the run that a release comes from.
func (r *Release) handedOver() string {
	if r.SourceURL == "" && r.Origin != nil {
		return r.Origin.Run
	}
	return r.SourceURL
}

// newer says whether what a run has handed over is newer than what another one has: runs of one repository are numbered,
// and a second attempt keeps its number.
func newer(run, other string) bool {
	of, number := runNumber(run)
	ofOther, otherNumber := runNumber(other)
	return of != "" && of == ofOther && number > otherNumber
}

// Turn says whether it is the turn of a release in the line, or what is ahead of it.
func (l *Ledger) Turn(id string) (turn bool, ahead string) {
	switch {
	case l.Hold != nil:
		return false, "the app is " + l.Hold.String()
	case l.Release != nil:
		return false, fmt.Sprintf("release %s is in flight (stage %s)", l.Release.ID, l.Release.Stage)
	case len(l.Queue) > 0 && l.Queue[0].ID != id:
		return false, "release " + l.Queue[0].ID + " is before it in the line"
	}
	return true, ""
}

// Call notes that a release takes its turn: its canary starts next. Until then it is nobody else's turn.
func (l *Ledger) Call(id, by string, now time.Time) error {
	if turn, ahead := l.Turn(id); !turn {
		return &InLineError{id, ahead}
	}
	w := l.Waits(id)
	if w == nil {
		return fmt.Errorf("release %s is not in the line", id)
	}
	called := *w
	called.By, called.CalledAt = by, now
	l.Queue = slices.Clone(l.Queue)
	*l.Waits(id) = called
	return nil
}

// Leave takes a release out of the line, which can enter it again.
func (l *Ledger) Leave(id, reason string, now time.Time) {
	if l.Waits(id) != nil {
		l.leave(Left{ID: id, Reason: reason, At: now})
	}
}

// PassOver notes that a release does not start because a newer one has all of the traffic.
func (l *Ledger) PassOver(left Left) { l.leave(left) }

func (l *Ledger) leave(left Left) {
	if left.SupersededBy == "" {
		left.Behind = l.behind(left.ID)
	}
	l.Queue = slices.DeleteFunc(slices.Clone(l.Queue), func(w Queued) bool { return w.ID == left.ID })
	others := slices.DeleteFunc(slices.Clone(l.Left), func(e Left) bool { return e.ID == left.ID })
	l.Left = append([]Left{left}, others[:min(len(others), mostLeft-1)]...)
}

// starts takes a release that starts out of the line. What is in the line then lets it finish.
func (l *Ledger) starts(id string) {
	l.Queue = slices.DeleteFunc(slices.Clone(l.Queue), func(w Queued) bool { return w.ID == id })
	l.Left = slices.DeleteFunc(slices.Clone(l.Left), func(e Left) bool { return e.ID == id })
	for i := range l.Queue {
		l.Queue[i].Behind = id
	}
	for i := range l.Left {
		l.Left[i].Behind = ""
	}
}

// behind is what a release lets finish, in the line or out of it; "" for nothing.
func (l *Ledger) behind(id string) string {
	if w := l.Waits(id); w != nil {
		return w.Behind
	}
	if left := l.HasLeft(id); left != nil {
		return left.Behind
	}
	return ""
}

// Supersedable says whether the release in flight gives way to another one: it has a canary, or is about to, which nobody
// has approved, and the other one came after it had started.
func (l *Ledger) Supersedable(by string) bool {
	r := l.Release
	if r == nil || r.Previous == "" || r.Return != nil { // it goes straight to primary
		return false
	}
	if l.behind(by) == r.ID { // one of the two is wanted again
		return false
	}
	if slices.ContainsFunc(r.Approvals, func(a Approval) bool { return a.Command == "promote" || a.Command == "approve" }) {
		return false
	}
	return r.Stage == StageStarted || r.Stage == StageCanary || r.Stage == StageVerified
}

// Supersede begins to roll back the release in flight, in favor of one that waits. That need not be the first one in the
// line: those before it may have let the one in flight finish.
func (l *Ledger) Supersede(by, who string, now time.Time) error {
	r := l.Release
	switch {
	case r == nil:
		return ErrNoRelease
	case l.Hold != nil:
		return &InLineError{by, "the app is " + l.Hold.String()}
	case l.Waits(by) == nil:
		return fmt.Errorf("release %s is not in the line", by)
	case r.SupersededBy != "" && r.Stage == StageRollingBack: // and goes on
		return nil
	case !l.Supersedable(by):
		return &InLineError{by, fmt.Sprintf("release %s is in flight (stage %s), and does not give way any more", r.ID, r.Stage)}
	}
	if err := l.Reach(StageRollingBack, who, now); err != nil {
		return err
	}
	r.SupersededBy, r.Reason = by, "superseded by release "+by
	return nil
}

// TakenBack is the outcome of a release that was rolled back. One that was judged unhealthy is not only superseded.
func (r *Release) TakenBack() Outcome {
	if r.SupersededBy != "" && (r.Verdict == nil || r.Verdict.Outcome != Unhealthy) {
		return OutcomeSuperseded
	}
	return OutcomeRolledBack
}

// Superseded says in favor of what a release is not released, and why; "" when it is not so. It can be in flight still.
func (l *Ledger) Superseded(id string) (by, why string) {
	if id == "" || l.Waits(id) != nil {
		return "", ""
	}
	if r := l.Release; r != nil && r.ID == id {
		if r.Stage == StageRollingBack && r.TakenBack() == OutcomeSuperseded {
			return r.SupersededBy, "it is rolling back"
		}
		return "", ""
	}
	if left := l.HasLeft(id); left != nil {
		return left.SupersededBy, left.Reason
	}
	if f := l.Find(id); f != nil && f.Outcome == OutcomeSuperseded {
		return f.SupersededBy, "its canary is rolled back"
	}
	return "", ""
}
