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

// guardTimeout bounds the time that Guard takes for its look.
const guardTimeout = 2 * time.Minute

// errSeen ends an analysis that has caught up.
var errSeen = errors.New("it has caught up")

// Guard looks once at a canary that waits for its verdict or its approver: at its pods, and at all of its requests since
// it was judged last, by the same objectives. One that has turned bad is rolled back; nothing else is noted. The message says what it saw; it is ""
// when there is no canary that waits.
//
// Errors: *UnhealthyError; any other is that it could not be judged.
func Guard(ctx context.Context, o Options) (Outcome, error) {
	status, err := o.Rollout.Status(ctx)
	if err != nil {
		return Outcome{}, err
	}
	r := status.Release
	if r == nil || r.Stage != release.StageCanary && r.Stage != release.StageVerified {
		return Outcome{}, nil
	}
	from := known(r, o.Test)
	if !from.GoesOn(testFor(r, o.Test)) {
		return Outcome{}, &usererr.Error{
			Field: "analysis", Problem: fmt.Sprintf("it is not what the canary of release %s was judged by: it is not judged by it", r.ID),
			Fix: "give guard the crossbill.yaml that verify has; after an upgrade, run verify --again",
		}
	}
	looking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	looking, cancel := context.WithTimeout(looking, guardTimeout)
	defer cancel()
	began, report := time.Now(), o.Report
	o.Report = func(e verdict.Evaluation) {
		if report != nil {
			report(e)
		}
		if !e.At.Before(began) {
			stop(errSeen)
		}
	}
	v, _, err := o.judge(looking, r, from, nil)
	switch {
	case ctx.Err() != nil:
		return Outcome{}, ctx.Err()
	case errors.As(err, new(*rollout.StageError)): // somebody has gone on with it
		return Outcome{}, nil
	case err == nil && v.Outcome == release.Unhealthy:
		return o.note(ctx, r, v)
	case err == nil || errors.Is(context.Cause(looking), errSeen):
		return Outcome{Result: rollout.Result{Command: "guard", App: o.App, Release: r, Message: fmt.Sprintf("release %s is at stage %s: nothing shows that its canary is unhealthy", r.ID, r.Stage)}}, nil
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("its counters could not be read within %s", guardTimeout)
	}
	return Outcome{}, fmt.Errorf("release %s is at stage %s, and its canary could not be judged: %w", r.ID, r.Stage, err)
}
