package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/our-org/crossbill/internal/release"
)

// Line says how releases wait for each other.
type Line struct {
	Policy release.QueuePolicy // "": release.QueueRefuse
	Wait   time.Duration       // how long a release waits for its turn
	Turn   time.Duration       // how long one that took its turn may take until it starts

	Waits func(ctx context.Context, message string) // says what a release waits for, each time that it is something else; nil: nobody
}

const (
	// linePoll is how often the first ones in the line look, and lazyPoll how often the others do.
	linePoll, lazyPoll = 5 * time.Second, 20 * time.Second
	// unansweredFor is how long the first one in the line may leave its turn, while nothing is in flight and the API server
	// answers: a job that waits takes it within linePoll.
	unansweredFor = 2 * time.Minute
)

// WaitedError says that a release has left the line because it was not its turn for as long as it could wait.
type WaitedError struct {
	ReleaseID, Ahead string
	Waited           time.Duration
}

func (e *WaitedError) Error() string {
	return fmt.Sprintf("release %s has waited for %s, and left the line: %s; run queue again to wait on; nothing was changed", e.ReleaseID, e.Waited.Round(time.Second), e.Ahead)
}

// Queue puts a release into the line and waits until it is its turn, or until a newer release has made it superfluous. Run
// again, it keeps its place. With release.QueueSupersede, a release in flight that nobody has approved is rolled back for it.
//
// Whoever waits needs no sign of life: the first in the line that does not take its turn loses it, to the next one that looks.
func (c *Cluster) Queue(ctx context.Context, want release.Queued) (Result, error) {
	q := &queueing{Cluster: c, want: want, until: time.Now().Add(c.Line.Wait)}
	said := ""
	for {
		result, done, err := q.once(ctx)
		switch {
		case ctx.Err() != nil && err != nil:
			return Result{}, q.stopped(ctx)
		case err != nil && !waitsOut(err):
			return Result{}, err
		case err != nil:
			q.head = ""
			c.log("line", "%v; trying again", err)
		case done || c.planning():
			return result, nil
		case c.Line.Waits != nil && q.ahead != said:
			said = q.ahead
			c.Line.Waits(ctx, result.Message)
		}
		if !time.Now().Before(q.until) {
			return Result{}, q.leave(ctx, cmp.Or(q.ahead, fmt.Sprint(err)))
		}
		select {
		case <-time.After(q.poll):
		case <-ctx.Done():
			return Result{}, q.stopped(ctx)
		}
	}
}

// stopped is the error of a job that was stopped while it waited.
func (q *queueing) stopped(ctx context.Context) error {
	return fmt.Errorf("stopped while release %s waited: %w; it keeps its place in the line for a while, run queue again", q.want.ID, context.Cause(ctx))
}

// waitsOut says whether an error is one that a job which waits can wait out.
func waitsOut(err error) bool {
	return transient(err) || errors.Is(err, ErrLockLost) || errors.As(err, new(*LockHeldError)) || errors.As(err, new(*NotReadyError)) ||
		errors.As(err, new(*release.LineFullError)) || errors.As(err, new(*release.InLineError))
}

// queueing is a job that waits.
type queueing struct {
	*Cluster
	want  release.Queued
	until time.Time

	poll  time.Duration // until the next look
	ahead string        // what it waits for
	head  string        // the first one in the line, while it could go on
	since time.Time     // when it was seen first
}

// once looks, and does what is to be done now. done: it waits no more.
func (q *queueing) once(ctx context.Context) (result Result, done bool, err error) {
	supersedes, already := false, false
	q.poll = linePoll
	err = q.writeLine(ctx, func(j *job) (note lineNote, err error) {
		var nothing *Result
		supersedes = false
		if nothing, done = q.over(j); nothing != nil {
			result = *nothing
			return nil, nil
		}
		if j.ledger.Waits(q.want.ID) == nil {
			note = q.enters
		}
		l := *j.ledger
		if note != nil {
			if err := note(&l); err != nil {
				return nil, err
			}
			if left := gaveWay(&l, "queue", j.app(), q.want.ID); left != nil {
				result, done = *left, true
				return note, nil
			}
		}
		turn, ahead := l.Turn(q.want.ID)
		if done = turn; turn {
			result = *j.aboutNone("it is the turn of release %s", q.want.ID)
			return func(l *release.Ledger) error { return errors.Join(q.enters(l), l.Call(q.want.ID, j.By, now())) }, nil
		}
		q.waits(ahead)
		if at := slices.IndexFunc(l.Queue, func(w release.Queued) bool { return w.ID == q.want.ID }); at > 1 {
			q.poll = lazyPoll
		}
		result = *j.aboutNone("release %s waits: %s", q.want.ID, ahead)
		if supersedes = q.supersedes(&l); supersedes || note != nil {
			already = supersedes && l.Release.Stage == release.StageRollingBack
			return note, nil
		}
		gone, why, err := q.gone(ctx, j)
		if gone == "" || err != nil {
			return nil, err
		}
		return func(l *release.Ledger) error { l.Leave(gone, why, now()); return nil }, nil
	})
	if err == nil && supersedes && !q.planning() {
		err = q.supersede(ctx, already)
	}
	return result, done && err == nil, err
}

// waits says what the release waits for, once.
func (q *queueing) waits(ahead string) {
	if ahead != q.ahead {
		q.ahead = ahead
		q.log("line", "release %s waits: %s", q.want.ID, ahead)
	}
}

// lineNote is a change of the line.
type lineNote func(*release.Ledger) error

// enters is safe to do again.
func (q *queueing) enters(l *release.Ledger) error {
	_, err := l.Enter(q.want, q.Line.Policy, now())
	return err
}

// writeLine changes the line as it was read, or looks again. It needs no lock: what the lock protects is not in it, and the
// job that has it keeps the line as it finds it.
func (c *Cluster) writeLine(ctx context.Context, look func(*job) (lineNote, error)) error {
	return persist(ctx, func() error {
		j := &job{Cluster: c, command: "queue"}
		if err := j.readLedger(ctx); err != nil {
			return err
		}
		if j.state.ResourceVersion == "" && c.queues() && !c.planning() {
			if err := c.beginLedger(ctx); err != nil {
				return err
			}
			if err := j.readLedger(ctx); err != nil {
				return err
			}
		}
		note, err := look(j)
		if note == nil || err != nil || c.planning() {
			return err
		}
		if err := note(j.ledger); err != nil {
			return err
		}
		next := j.state.DeepCopy()
		if next.Data == nil { // somebody has emptied it
			next.Data = map[string]string{}
		}
		next.Data[lineKey] = j.ledger.Line()
		_, err = j.store().writeState(ctx, j, next)
		return err
	})
}

// beginLedger makes the ledger of an app that has none: the line is beside it.
func (c *Cluster) beginLedger(ctx context.Context) error {
	_, err := run(ctx, c, command[struct{}]{
		name: "queue",
		look: func(_ context.Context, j *job) (struct{}, *Result, error) {
			if j.state.ResourceVersion != "" {
				return struct{}{}, j.nothing("the app has a ledger"), nil
			}
			return struct{}{}, nil, nil
		},
		noted: func(j *job) Result { return j.result("the app has a ledger") },
	})
	return err
}

// mayStart says whether the release that this job is about to put in flight is still the one whose turn it is: a newer one
// can have taken it since the line was looked at.
func (j *job) mayStart(state *corev1.ConfigMap) bool {
	r := j.ledger.Release
	if !j.queues() || r == nil || j.inFlight() {
		return true
	}
	l := release.Ledger{App: j.app()}
	if l.ReadLine(state.Data[lineKey]) != nil { // a newer crossbill has written it meanwhile
		return false
	}
	left := l.HasLeft(r.ID)
	return (left == nil || left.SupersededBy == "" || j.Again) && (len(l.Queue) == 0 || l.Queue[0].ID == r.ID)
}

// lineIn is the line beside a ledger as this job leaves it: what is in flight does not wait any more.
func (j *job) lineIn(state *corev1.ConfigMap) string {
	l := release.Ledger{App: j.app(), Release: j.ledger.Release}
	if l.ReadLine(state.Data[lineKey]) != nil { // a newer crossbill has written it meanwhile: it stays as it is
		return state.Data[lineKey]
	}
	if j.passedBy != nil {
		l.PassOver(*j.passedBy)
	}
	return l.Line()
}

// over says why there is nothing to wait for; nil when there is.
func (q *queueing) over(j *job) (nothing *Result, over bool) {
	id := q.want.ID
	switch r, finished := j.ledger.Release, j.ledger.Find(id); {
	case !j.queues():
		return j.aboutNone("queue.policy is refuse: no release waits for another one"), true
	case r != nil && r.ID == id && r.SupersededBy == "":
		return j.aboutNone("release %s is in flight (stage %s)", id, r.Stage), true
	case j.ledger.Waits(id) != nil && !j.ledger.Waits(id).CalledAt.IsZero() && r == nil && j.ledger.Hold == nil:
		return j.aboutNone("it is the turn of release %s", id), true
	case q.want.Again || j.ledger.Waits(id) != nil:
		return nil, false
	case finished != nil && finished.Outcome != release.OutcomeSuperseded:
		return j.aboutNone("release %s has finished (%s): there is nothing to wait for", id, finished.Outcome), true
	}
	if by, _ := j.ledger.Superseded(id); by != "" {
		return j.gaveWay(id), true
	}
	return nil, false
}

// supersedes says whether the release in flight is to give way to this one.
func (q *queueing) supersedes(l *release.Ledger) bool {
	r := l.Release
	if q.Line.Policy != release.QueueSupersede || r == nil || l.Hold != nil || l.Waits(q.want.ID) == nil {
		return false
	}
	return l.Supersedable(q.want.ID) || r.SupersededBy != "" && r.Stage == release.StageRollingBack
}

// supersede rolls the release in flight back. It takes the lock of whoever holds it, as rollback does, but for a living job
// that rolls it back already.
func (q *queueing) supersede(ctx context.Context, already bool) error {
	taking := *q.Cluster
	taking.Takeover, taking.ReleaseID = !already, ""
	_, err := run(ctx, &taking, command[struct{}]{
		name: "queue",
		look: func(ctx context.Context, j *job) (found struct{}, nothing *Result, err error) {
			if !q.supersedes(j.ledger) {
				return found, j.nothing("nothing gives way any more"), nil
			}
			j.goByLedger()
			if already {
				nothing, err = j.leaveToTheLiving(ctx, "it is rolled back")
			}
			return found, nothing, err
		},
		start: func(j *job, _ struct{}) error { return j.ledger.Supersede(q.want.ID, j.By, now()) },
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) {
			return j.rollback(ctx, j.ledger.Release.Reason)
		},
	})
	return err
}

// gone is the first one in the line, when it does not take its turn, with why: its job has not looked while this one did,
// although nothing kept it from going on; or it has taken its turn, and its canary did not start.
func (q *queueing) gone(ctx context.Context, j *job) (id, why string, err error) {
	if j.ledger.Release != nil || j.ledger.Hold != nil || j.API.away(linePoll) {
		q.head = ""
		return "", "", nil
	}
	first, limit := j.ledger.Queue[0], unansweredFor
	why = fmt.Sprintf("its job did not take its turn within %s", limit)
	if !first.CalledAt.IsZero() {
		limit = q.Line.Turn
		why = fmt.Sprintf("it took its turn at %s, and its canary did not start within %s", first.CalledAt.Format(time.RFC3339), limit)
	}
	if head := fmt.Sprint(first.ID, first.EnteredAt, first.CalledAt); head != q.head {
		q.head, q.since = head, time.Now()
	}
	if time.Since(q.since) < limit {
		return "", "", nil
	}
	_, alive, err := j.liveLock(ctx) // it may be about to start
	if err != nil || alive {
		return "", "", err
	}
	q.log("line", "release %s loses its turn: %s", first.ID, why)
	return first.ID, why, nil
}

// leave takes the release out of the line at the end of its time.
func (q *queueing) leave(ctx context.Context, ahead string) error {
	waited := &WaitedError{ReleaseID: q.want.ID, Ahead: ahead, Waited: q.Line.Wait}
	_, err := q.Leave(ctx, q.want.ID, fmt.Sprintf("it has waited for %s: %s", waited.Waited.Round(time.Second), ahead))
	if err != nil {
		return fmt.Errorf("%w (that could not be noted: %w)", waited, err)
	}
	return waited
}

// Leave takes a release out of the line.
func (c *Cluster) Leave(ctx context.Context, id, reason string) (result Result, err error) {
	err = c.writeLine(ctx, func(j *job) (lineNote, error) {
		if j.ledger.Waits(id) == nil {
			result = *j.aboutNone("release %s is not in the line: nothing to do", id)
			return nil, nil
		}
		result = *j.aboutNone("release %s has left the line: %s", id, reason)
		return func(l *release.Ledger) error { l.Leave(id, reason, now()); return nil }, nil
	})
	return result, err
}

// aboutNone is a result that is not about the release in flight.
func (j *job) aboutNone(format string, args ...any) *Result {
	result := j.nothing(format, args...)
	result.Release = nil
	return result
}

// queues says whether releases wait for each other.
func (c *Cluster) queues() bool { return c.Line.Policy != "" && c.Line.Policy != release.QueueRefuse }

// gaveWay is the result of a command about a release that another one has superseded, or that has left the line: there is
// nothing to do, and nothing is wrong. Nil when that is not so.
func (j *job) gaveWay(id string) *Result { return gaveWay(j.ledger, j.command, j.app(), id) }

// GaveWay is the result of a command about a release that another one has superseded, or that has left the line; nil when
// that is not so.
func (s *Status) GaveWay(command, id string) *Result {
	return gaveWay(&release.Ledger{Release: s.Release, History: s.History, Queue: s.Queue, Left: s.Left}, command, s.App, id)
}

func gaveWay(l *release.Ledger, command, app, id string) *Result {
	by, why := l.Superseded(id)
	if why == "" {
		return nil
	}
	result := &Result{Command: command, App: app, SupersededBy: by}
	if by == "" {
		result.Message = fmt.Sprintf("release %s has left the line without having started: %s; run queue again to let it enter", id, why)
		return result
	}
	result.Message = fmt.Sprintf("release %s is superseded by release %s: %s; nothing to do", id, by, why)
	if f := l.Find(id); f != nil && f.Outcome == release.OutcomeSuperseded {
		result.Release = &f.Release
	}
	return result
}

// superfluous is gaveWay of the release that a command is about, but for the commands that have something to do all the
// same: what is rolling back, rollback finishes.
func superfluous[Found any](j *job, cmd *command[Found]) *Result {
	id := cmp.Or(cmd.id, j.ReleaseID)
	rollingBack := j.ledger.Release != nil && j.ledger.Release.ID == id
	if id == "" || j.planning() || cmd.name == "queue" || cmd.name == "rollback" && rollingBack || cmd.name == "canary" && j.Again {
		return nil
	}
	result := j.gaveWay(id)
	if result != nil && result.SupersededBy == "" && cmd.name == "canary" && j.ledger.Release == nil && len(j.ledger.Queue) == 0 {
		return nil // it is late, and nobody is in its way
	}
	return result
}

// inTurn refuses a release that starts while another one has its turn.
func (j *job) inTurn(id string) error {
	if !j.queues() || len(j.ledger.Queue) == 0 || j.ledger.Queue[0].ID == id {
		return nil
	}
	return &release.InLineError{ID: id, Ahead: "release " + j.ledger.Queue[0].ID + " is before it in the line"}
}
