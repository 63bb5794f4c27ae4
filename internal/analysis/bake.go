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

// promotedStill is what may be done after a bake without a verdict.
const promotedStill = "the release is promoted, run promote again to judge it, or rollback"

// worth is what a bake is worth, for who reads its message.
const worth = " (by the budgets alone: what is within them, or was so before the release, does not show)"

// Bake judges primary by the budgets after it has all of the traffic, for all of the time. An unhealthy one
// is rolled back to the previous digest. Too little evidence is neither a reason to roll back nor a proof: the
// release stays promoted, and the error says so.
//
// Errors: as of Verify, beside the outcome that they leave behind.
func Bake(ctx context.Context, o Options, promoted rollout.Result, lasts time.Duration) (Outcome, error) {
	o.Test.Whole, o.Test.Alone, o.Test.MaxDuration, o.Test.MinDuration = true, true, lasts, min(o.Test.MinDuration, lasts)
	o.WarmUp = min(o.WarmUp, lasts/2)
	v, err := verdict.Verify(ctx, verdict.Options{
		Source: o.Source, Canary: o.Primary, Test: o.Test, WarmUp: o.WarmUp, Interval: o.Interval, Report: o.Report, Warn: o.Warn,
	})
	came := Outcome{Result: promoted, Verdict: v}
	switch {
	case errors.As(err, new(*usererr.Error)): // it is promoted, so this is not the bad input of a command that changed nothing
		v.Outcome, v.Cause, v.Reason = release.Inconclusive, verdict.BadInput, err.Error()
		return came, fmt.Errorf("bake: %w", &InconclusiveError{Reason: v.Reason, Next: promotedStill})
	case err != nil:
		return came, fmt.Errorf("bake: %w; %s", err, promotedStill)
	case v.Outcome == release.Healthy:
		came.Message += "; baked: " + v.Reason + worth
		return came, nil
	case v.Outcome == release.Inconclusive:
		return came, fmt.Errorf("bake: %w", &InconclusiveError{Reason: v.Reason, Next: promotedStill})
	}
	start := time.Now()
	result, err := o.Rollout.Rollback(ctx, promoted.Release.ID, "bake: "+v.Reason, true)
	if err != nil {
		return came, fmt.Errorf("bake: %w", &UnhealthyError{Reason: v.Reason, Err: err})
	}
	if result.Outcome != release.OutcomeRolledBack {
		return came, fmt.Errorf("bake: %w", &UnhealthyError{Reason: v.Reason, Then: "NOT rolled back, the release has finished meanwhile: release an older image"})
	}
	came.Result = result
	return came, fmt.Errorf("bake: %w", &UnhealthyError{Reason: v.Reason, Then: fmt.Sprintf("rolled back in %s: %s", time.Since(start).Round(100*time.Millisecond), result.Message)})
}
