package reconcile

import (
	"context"
	"fmt"
	"time"
)

// Loop carries out what Git asks for, a command after the other. It keeps nothing: whatever dies, another one goes on from
// the ledger.
type Loop struct {
	// Look reads what Git and the cluster say. An error is of the cluster; what is wrong with Git is in what it gives.
	Look func(context.Context) (Git, State, error)
	// Do runs the command of a step to its end and gives its exit code. It asks a command to stop when its context ends, and
	// returns when the command has.
	Do       func(context.Context, Step) int
	Say      func(Event) // is given what begins, ends and is waited for, when it changes
	Round    func()      // is called each time that the loop comes round, at least every interval unless Look hangs; nil for nothing
	Interval time.Duration
}

// Event is what happens.
type Event struct {
	At        time.Time `json:"at"`
	Command   Command   `json:"command,omitempty"` // "" while nothing is to be done
	ReleaseID string    `json:"releaseId,omitempty"`
	ExitCode  *int      `json:"exitCode,omitempty"` // of a command that has ended
	Message   string    `json:"message"`
}

// longest is the pause before what does not succeed is tried again, at most.
const longest = 10 * time.Minute

// running is a command at work.
type running struct {
	step Step
	stop context.CancelFunc
	done chan int // its exit code
}

// Run goes on until its context ends, and until the command at work then has stopped.
func (l *Loop) Run(ctx context.Context) error {
	w := &work{Loop: l}
	for ctx.Err() == nil {
		w.round()
		w.look(ctx)
		w.pause(ctx)
	}
	w.end()
	return context.Cause(ctx)
}

// work is what a Loop is at.
type work struct {
	*Loop
	now    *running
	last   Step // that has ended last
	failed int  // how often it has ended without anything being different then
	again  time.Time
	said   Event
}

func (s Step) same(other Step) bool {
	return s.Command == other.Command && s.Release == other.Release && s.Proposal == other.Proposal
}

// interruptible says whether a command only watches, or waits for its turn: what is to be done next need not wait for it.
func (s Step) interruptible() bool { return s.Command == Verify || s.Command == Follow || s.Turn }

// look looks once, and begins what is next.
func (w *work) look(ctx context.Context) {
	git, state, err := w.Look(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		w.say(Step{Reason: err.Error()})
		return
	}
	next := Next(git, state, time.Now())
	if w.now != nil {
		if next.Command == None || next.same(w.now.step) || !w.now.step.interruptible() {
			return
		}
		w.end()
		w.look(ctx) // it may have done something to the end
		return
	}
	w.say(next)
	if next.Command == None {
		w.last, w.failed = Step{}, 0
		return
	}
	if !next.same(w.last) {
		w.failed, w.again = 0, time.Time{}
	}
	if time.Now().Before(w.again) {
		return
	}
	w.begin(ctx, next)
}

func (w *work) begin(ctx context.Context, step Step) {
	ctx, stop := context.WithCancel(ctx)
	w.now = &running{step: step, stop: stop, done: make(chan int, 1)}
	go func(r *running) { r.done <- w.Do(ctx, step) }(w.now)
}

// end stops the command at work, if there is one.
func (w *work) end() {
	if w.now == nil {
		return
	}
	w.now.stop()
	w.ended(w.waited())
	w.last = Step{} // it was stopped, and has not failed
}

// waited is the exit code of the command at work, when it has stopped.
func (w *work) waited() int {
	for {
		select {
		case code := <-w.now.done:
			return code
		case <-time.After(w.Interval):
			w.round()
		}
	}
}

func (w *work) round() {
	if w.Round != nil {
		w.Round()
	}
}

func (w *work) ended(code int) {
	w.now.stop()
	step := w.now.step
	w.now, w.said = nil, Event{}
	w.Say(Event{At: time.Now(), Command: step.Command, ReleaseID: step.Release.ID, ExitCode: &code, Message: fmt.Sprintf("ended with exit code %d", code)})
	if !step.same(w.last) {
		w.failed = 0
	}
	w.last = step
	w.again = time.Now().Add(min(w.Interval<<min(w.failed, 10), longest))
	w.failed++
}

// pause waits until it is time to look again: when a command has ended, at once.
func (w *work) pause(ctx context.Context) {
	var done chan int
	if w.now != nil {
		done = w.now.done
	}
	select {
	case code := <-done:
		w.ended(code)
	case <-ctx.Done():
	case <-time.After(w.Interval):
	}
}

// say says what is done or waited for, once.
func (w *work) say(step Step) {
	e := Event{Command: step.Command, ReleaseID: step.Release.ID, Message: step.Reason}
	if e == w.said {
		return
	}
	w.said, e.At = e, time.Now()
	w.Say(e)
}

// ExitError says that a command has not done what was to be done.
type ExitError struct {
	Command Command
	Code    int
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s ended with exit code %d; run the same command again, which goes on from there", e.Command, e.Code)
}

// Once does what can be done now, and ends. What waits for an approver is looked at once. A command that changes nothing of what
// is to be done ends it, with an *ExitError if it says so itself.
func (l *Loop) Once(ctx context.Context) error {
	w := &work{Loop: l}
	for {
		git, state, err := l.Look(ctx)
		if err != nil {
			return err
		}
		next := Next(git, state, time.Now())
		switch {
		case next.same(w.last) && w.last.Command != None:
			return fmt.Errorf("%s has changed nothing: %s", next.Command, next.Reason)
		case next.Command == None:
			w.say(next)
			if git.Problem != nil {
				return git.Problem
			}
			return nil
		case next.Waits:
			next.Command = Guard
		}
		w.say(next)
		w.begin(ctx, next)
		code := <-w.now.done
		w.ended(code)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case code == 5 && next.Turn: // it waits still
			return nil
		case code == 1, code == 2, code == 5:
			return &ExitError{next.Command, code}
		case next.Command == Guard && code == 0:
			return nil
		}
	}
}
