package analysis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// Stepper takes a release through its plan, and judges it.
type Stepper interface {
	Rollout
	// Give takes the step of the plan with an index, which gives the canary something, or finishes it.
	Give(ctx context.Context, step int) (rollout.Result, error)
	// Pass notes that a pause is over or that an approval was given; until then it is a *release.AwaitsApprovalError.
	Pass(ctx context.Context, step int) (rollout.Result, error)
}

// FollowOptions say how a release is taken through its plan.
type FollowOptions struct {
	Options
	Steps Stepper
	Until time.Time    // when the job's time ends; zero: never
	Say   func(string) // is given a line for each step; may be nil
}

// TimeOverError says that the time of a job has ended before the release was through its plan. Nothing is lost.
type TimeOverError struct{ Step string }

func (e *TimeOverError) Error() string {
	return e.Step + ": the time of this job is over; the canary keeps what it has, run the same command again to go on from here"
}

// stubborn is for how long a step is tried that an API server does not let happen.
const stubborn = 5 * time.Minute

// Follow takes the release in flight through its plan, from the step where it is: each step once and in order, and none
// that gives the canary more before it was judged healthy with what it has. While it pauses, the canary is judged all
// the while. It ends when a step waits for its approver, and after the last one. What a job that died has left half done is
// finished first. An API server, a Prometheus and a lock that somebody else has are waited for. After a person's shift it
// goes on from there.
//
// Errors: *TimeOverError; *NotReadyError; those of Verify. What the user must fix before the canary can be judged is an
// *InconclusiveError: the canary has traffic by then. See CheckPlan.
func Follow(ctx context.Context, o FollowOptions) (Outcome, error) {
	o.Rollout, o.Observe, o.NoRollback = o.Steps, false, false
	f := &following{FollowOptions: o, watch: watch{Options: o.Options}, said: -1}
	if f.watch.Refresh <= 0 {
		f.watch.Refresh = DefaultRefresh
	}
	for {
		came, done, err := f.once(ctx)
		switch {
		case ctx.Err() != nil:
			return came, ctx.Err()
		case done:
			return came, err
		case err != nil:
			f.watch.warn("%v; trying again", err)
			if err := pause(ctx); err != nil {
				return Outcome{}, err
			}
		}
	}
}

// following is a running Follow.
type following struct {
	FollowOptions
	watch   watch
	settled bool      // what an earlier job has left half done was finished
	said    int       // the step that was said last
	failing time.Time // since when a step does not succeed; zero: none
	refused string    // why a step was refused last
	passed  int       // the number of the step whose analysis has passed last
	verdict *verdict.Verification
}

// once does what is next. done says that its outcome is Follow's.
func (f *following) once(ctx context.Context) (_ Outcome, done bool, err error) {
	status, nothing, err := f.watch.begin(ctx, true)
	switch {
	case err != nil:
		return Outcome{}, bad(err), err
	case nothing != nil:
		return Outcome{Result: *nothing, Verdict: f.verdict}, true, nil
	}
	r := status.Release
	if len(r.Plan) == 0 {
		return Outcome{}, true, &rollout.StageError{Err: fmt.Errorf("release %s: %w", r.ID, release.ErrNoPlan)}
	}
	f.watch.ReleaseID = r.ID
	at := r.Plan.At()
	if f.over() {
		return f.outcome(r, ""), true, f.timeOver(r)
	}
	if !f.settled {
		came, done, err := f.take(ctx, r, func(ctx context.Context) (rollout.Result, error) { return f.Steps.Give(ctx, r.Plan.Given()) })
		f.settled = err == nil && !done
		return came, done, err
	}
	f.show(r)
	switch current := r.Plan.Current(); {
	case current.Analyze != nil:
		return f.analyze(ctx, r, *current.Analyze)
	case current.Pause > 0:
		return f.pause(ctx, r, r.Plan.Since().Add(time.Duration(current.Pause)))
	case !r.Proven() || time.Since(r.Verdict.At) > 2*f.watch.Refresh: // somebody has shifted it, or nobody has looked at it for long
		return f.analyze(ctx, r, release.Analyze{})
	case r.Plan.Finished():
		return f.outcome(r, r.Gets()+", healthy: the plan is done, and the canary waits for its approver"), true, nil
	case current.Approve:
		return f.take(ctx, r, func(ctx context.Context) (rollout.Result, error) { return f.Steps.Pass(ctx, at) })
	}
	return f.take(ctx, r, func(ctx context.Context) (rollout.Result, error) { return f.Steps.Give(ctx, at) })
}

// CheckPlan reads once what a release of a plan will be judged by, before it starts. Errors are *usererr.Error, for what the
// user must fix.
func CheckPlan(ctx context.Context, o Options, plan release.Plan) error {
	test := o.Test
	for _, s := range plan {
		if s.Analyze != nil { // the shortest one
			test.MaxDuration = min(test.MaxDuration, testOf(o.Test, *s.Analyze).MaxDuration)
		}
	}
	return verdict.Check(ctx, verdict.Options{Source: o.Source, Canary: o.Canary, Primary: o.Primary, Test: test})
}

// testOf is the test of a step's analysis.
func testOf(test verdict.Test, a release.Analyze) verdict.Test {
	if a.MinRequests > 0 {
		test.MinRequests = a.MinRequests
	}
	if a.MinDuration > 0 {
		test.MinDuration = time.Duration(a.MinDuration)
	}
	if a.MaxDuration > 0 {
		test.MaxDuration = time.Duration(a.MaxDuration)
	}
	test.MaxDuration = max(test.MaxDuration, test.MinDuration)
	return test
}

// judge has the canary judged.
func (f *following) judge(ctx context.Context, r *release.Release) (Outcome, bool, error) {
	came, done, err := f.watch.once(ctx)
	if !errors.As(err, new(*usererr.Error)) || errors.As(err, new(*UnhealthyError)) {
		return came, done, err
	}
	v := &verdict.Verification{Outcome: release.Inconclusive, Cause: verdict.BadInput, Reason: err.Error()}
	return Outcome{Result: f.outcome(r, "").Result, Verdict: v}, true, &InconclusiveError{Reason: v.Reason, Next: "the canary keeps what it has, run the same command again when that is fixed, or roll back", Err: err}
}

// analyze judges the canary until it passes what a step asks for.
func (f *following) analyze(ctx context.Context, r *release.Release, a release.Analyze) (Outcome, bool, error) {
	if f.passed == r.Plan.At()+1 && a != (release.Analyze{}) { // the ledger has counted less than the analysis, by a rounding
		if err := pause(ctx); err != nil {
			return Outcome{}, true, err
		}
	}
	f.watch.Test, f.watch.first, f.watch.until = testOf(f.Test, a), true, f.Until
	came, done, err := f.judge(ctx, r)
	switch {
	case errors.Is(err, errTime):
		return f.outcome(r, ""), true, f.timeOver(r)
	case done && err == nil && came.Verdict != nil:
		f.verdict, f.passed = came.Verdict, r.Plan.At()+1
		return Outcome{}, false, nil
	}
	return came, done, err
}

// pause judges the canary until a time. What it is judged by stays the same, without an end to it.
func (f *following) pause(ctx context.Context, r *release.Release, ends time.Time) (Outcome, bool, error) {
	left := time.Until(ends)
	if left <= 0 {
		return f.take(ctx, r, func(ctx context.Context) (rollout.Result, error) { return f.Steps.Pass(ctx, r.Plan.At()) })
	}
	f.watch.Test, f.watch.first, f.watch.until = f.Test, false, ends
	f.watch.Test.MaxDuration += left
	if !f.Until.IsZero() && f.Until.Before(ends) {
		f.watch.until = f.Until
	}
	came, done, err := f.judge(ctx, r)
	if errors.Is(err, errTime) {
		return Outcome{}, false, nil // what ended is looked at anew
	}
	return came, done, err
}

// take takes a step, and says what its error means.
func (f *following) take(ctx context.Context, r *release.Release, step func(context.Context) (rollout.Result, error)) (Outcome, bool, error) {
	bounded, stop := ctx, context.CancelFunc(func() {})
	if !f.Until.IsZero() {
		bounded, stop = context.WithDeadline(ctx, f.Until)
	}
	defer stop()
	_, err := step(bounded)
	if err == nil {
		f.failing, f.refused = time.Time{}, ""
		return Outcome{}, false, nil
	}
	if f.failing.IsZero() {
		f.failing = time.Now()
	}
	awaits, waiting := errors.AsType[*release.AwaitsApprovalError](err)
	stage, refused := errors.AsType[*rollout.StageError](err)
	switch {
	case bounded.Err() != nil && ctx.Err() == nil:
		return f.outcome(r, ""), true, f.timeOver(r)
	case waiting:
		return f.outcome(r, awaits.Error()+"; after `crossbill approve`, run the same command again"), true, nil
	case errors.As(err, new(*rollout.NotReadyError)):
		return f.outcome(r, ""), true, RollBackUnready(ctx, f.Steps, err)
	case refused && stage.Error() != f.refused: // somebody has gone on with it: what there is now is looked at anew
		f.refused = stage.Error()
		return Outcome{}, false, nil
	case refused, errors.As(err, new(*rollout.HookError)), errors.As(err, new(*usererr.Error)), errors.As(err, new(*release.InFlightError)):
		return Outcome{}, true, err
	case errors.Is(err, rollout.ErrLockLost), errors.As(err, new(*rollout.LockHeldError)):
		return Outcome{}, false, err
	}
	return Outcome{}, time.Since(f.failing) > stubborn, err
}

func (f *following) over() bool { return !f.Until.IsZero() && !time.Now().Before(f.Until) }

func (f *following) timeOver(r *release.Release) error {
	if at := r.Plan.At(); at < len(r.Plan) {
		return &TimeOverError{r.Plan.Step(at)}
	}
	return &TimeOverError{"after the last step"}
}

func (f *following) outcome(r *release.Release, message string) Outcome {
	return Outcome{Result: rollout.Result{Command: "canary", App: f.App, Release: r, Message: message}, Verdict: f.verdict}
}

// show says which step is next, what it waits for and how long at most.
func (f *following) show(r *release.Release) {
	at := r.Plan.At()
	if at == f.said || at == len(r.Plan) || f.Say == nil {
		return
	}
	f.said = at
	text := r.Plan.Step(at)
	var ends time.Time
	switch s := r.Plan[at]; {
	case s.Analyze != nil:
		most := f.Test.MaxDuration
		if s.Analyze.MaxDuration > 0 {
			most = time.Duration(s.Analyze.MaxDuration)
		}
		text += fmt.Sprintf(": until it is healthy, for %s at most", release.Duration(most))
		ends = time.Now().Add(most)
	case s.Pause > 0:
		ends = r.Plan.Since().Add(time.Duration(s.Pause))
		text += fmt.Sprintf(": judged all the while, until %s", ends.Format("15:04:05"))
	}
	if !f.Until.IsZero() && f.Until.Before(ends) {
		text += fmt.Sprintf("; this job has time until %s, and the next one goes on", f.Until.Format("15:04:05"))
	}
	f.Say(text)
}
