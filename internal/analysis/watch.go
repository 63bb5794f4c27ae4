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

// DefaultRefresh is Options.Refresh's.
const DefaultRefresh = 5 * time.Minute

// patience is the pause before something that failed is tried again, and persistence for how long a rollback is.
const (
	patience    = 10 * time.Second
	persistence = 30 * time.Minute
)

// Watch judges as Verify does and, once the canary was judged healthy, goes on until somebody promotes the release, rolls
// it back or ends it. A canary that turns bad is rolled back. The record of one analysis goes on all the while, so that
// its error rates hold for all of the time. An API server or a Prometheus that is away is waited for. A canary that is
// shifted is judged anew, at its new weight.
//
// Errors: as of Verify. An outcome without an error says who took the release over, or that it has ended well.
func Watch(ctx context.Context, o Options) (Outcome, error) {
	w := &watch{Options: o}
	if w.Refresh <= 0 {
		w.Refresh = DefaultRefresh
	}
	for {
		came, done, err := w.once(ctx)
		switch {
		case ctx.Err() != nil:
			return came, ctx.Err()
		case done:
			return came, err
		case err != nil:
			w.warn("%v; trying again", err)
			if err := pause(ctx); err != nil {
				return Outcome{}, err
			}
		}
	}
}

// watch is a running Watch.
type watch struct {
	Options
	subject release.Verdict // what is judged
	record  *verdict.Record // what is known of it; nil: as the ledger says
	noted   time.Time       // when a healthy verdict on it was noted last; zero: never
	tried   time.Time       // when one was to be
	changed string          // what somebody else has changed of it, as it was last said; "" when nothing is
	first   bool            // the first healthy verdict ends it
	until   time.Time       // that ends it with errTime; zero: nothing does
}

// errTime says that a watch has ended because of its time.
var errTime = errors.New("the time is over")

// once judges until something happens. done says that its outcome is Watch's.
func (w *watch) once(ctx context.Context) (_ Outcome, done bool, err error) {
	status, nothing, err := w.begin(ctx, true)
	switch {
	case err != nil:
		return Outcome{}, bad(err), err
	case nothing != nil:
		return Outcome{Result: *nothing}, true, nil
	}
	r := status.Release
	w.ReleaseID = r.ID
	if subject := r.Subject(); !w.subject.On(subject) {
		w.subject, w.record, w.noted, w.tried = subject, nil, time.Time{}, time.Time{}
		if v := r.Verdict; r.Stage == release.StageVerified && v.Outcome == release.Healthy {
			w.noted = v.At
		}
	}
	if w.record == nil {
		w.record = known(r, w.Test)
	}
	judging, stop := ctx, context.CancelFunc(func() {})
	if !w.until.IsZero() {
		judging, stop = context.WithDeadline(ctx, w.until)
	}
	defer stop()
	goOn := func(v *verdict.Verification, witness Witness) bool { return w.healthy(ctx, status, witness, v) }
	if w.first {
		goOn = nil
	}
	v, last, err := w.judge(judging, r, w.record, goOn)
	if v != nil && !v.Record.Until.IsZero() {
		w.record = &v.Record
	}
	switch {
	case errors.As(err, new(*rollout.StageError)): // somebody goes on with it: begin says what there is now
		return Outcome{}, false, nil
	case err != nil && judging.Err() != nil && ctx.Err() == nil:
		return Outcome{}, true, errTime
	case err != nil:
		return Outcome{}, bad(err), err
	case w.first && v.Outcome == release.Healthy:
		came, err := w.conclude(ctx, status, last, v)
		return came, err == nil || errors.As(err, new(*InconclusiveError)) || errors.As(err, new(*usererr.Error)), err
	case v.Outcome == release.Unhealthy:
		came, err := w.rollBack(ctx, r, v)
		return came, true, err
	case v.Outcome == release.Inconclusive && (w.noted.IsZero() || w.first):
		came, err := w.conclude(ctx, status, last, v)
		return came, true, err
	}
	changed := ""
	if v.Cause == verdict.Drift { // it is found again and again
		changed = v.Reason
	}
	if changed == "" || changed != w.changed {
		w.warn("%s: %s; the canary keeps its weight and is judged on", v.Outcome, v.Reason)
	}
	w.changed = changed
	return Outcome{}, false, nil
}

// healthy notes a healthy verdict, when there is none or it has grown old, and goes on. What hinders that is tried again
// a minute later.
func (w *watch) healthy(ctx context.Context, status *rollout.Status, witness Witness, v *verdict.Verification) (goOn bool) {
	if time.Since(w.noted) < w.Refresh || time.Since(w.tried) < time.Minute {
		return true
	}
	w.tried = time.Now()
	copied := *v
	copied.Outcome = release.Healthy
	last, err := witness.Live(ctx)
	if err == nil {
		began := *status
		began.Drift = nil // what is changed now is in last, and what lasted has ended the analysis
		_, err = w.conclude(ctx, &began, last, &copied)
	}
	if err != nil {
		w.warn("the canary is healthy, which was not noted: %v", err)
		return true
	}
	if w.noted.IsZero() {
		w.warn("healthy: %s; judged on until the release is promoted or rolled back", v.Reason)
	}
	w.noted = time.Now()
	return true
}

// rollBack notes an unhealthy verdict and rolls back, and tries until that is done.
func (w *watch) rollBack(ctx context.Context, r *release.Release, v *verdict.Verification) (came Outcome, err error) {
	if w.Record != nil {
		if err := w.Record(r, v); err != nil {
			w.warn("%v", err)
		}
	}
	end := time.Now().Add(persistence)
	for came, err = w.note(ctx, r, v); unfinished(err) && time.Now().Before(end) && ctx.Err() == nil; {
		w.warn("%v; trying again", err)
		if pause(ctx) != nil {
			break
		}
		if !errors.As(err, new(*UnhealthyError)) {
			came, err = w.note(ctx, r, v)
			continue
		}
		result, failed := w.Rollout.Rollback(ctx, r.ID, v.Reason, true) // the verdict is noted
		if err = (&UnhealthyError{Reason: v.Reason, Err: failed}); failed == nil {
			came.Result, err = result, &UnhealthyError{Reason: v.Reason, Then: "rolled back: " + result.Message}
		}
	}
	return came, err
}

// unfinished says whether a rollback has still to be done, and may succeed.
func unfinished(err error) bool {
	if unhealthy, ok := errors.AsType[*UnhealthyError](err); ok {
		return unhealthy.Err != nil && !bad(unhealthy.Err)
	}
	return err != nil && !bad(err)
}

func (w *watch) warn(format string, args ...any) {
	if w.Warn != nil {
		w.Warn(fmt.Sprintf(format, args...))
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return nil
	}
}
