package analysis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

// Options say what is judged, and by what.
type Options struct {
	Rollout   Rollout
	App       string
	ReleaseID string // release that is meant; any for ""
	// Canary and Primary are the workloads of the tracks. Bake judges Primary alone.
	Canary, Primary string

	Source   *verdict.Source
	Test     verdict.Test
	WarmUp   time.Duration            // for so long latency is not weighed
	Interval time.Duration            // between two looks
	Report   func(verdict.Evaluation) // is given each look; may be nil
	Warn     func(string)             // is given what hinders a verdict; may be nil
	Probe    *Probe                   // requests of Verify's own; nil: none

	Again      bool // judge again what was judged healthy
	Observe    bool // change nothing: no verdict in the ledger, no rollback
	NoRollback bool // leave an unhealthy canary as it is
	// Record keeps a verdict outside the ledger before anything follows from it; may be nil. What it fails to
	// keep is not noted either.
	Record func(*release.Release, *verdict.Verification) error
}

// Verify judges the canary of the release in flight beside primary, notes the verdict, and rolls back an
// unhealthy one.
//
// Errors: *UnhealthyError and *InconclusiveError beside an outcome with the verdict; *rollout.StageError and
// *release.InFlightError when there is nothing that may be judged.
func Verify(ctx context.Context, o Options) (Outcome, error) {
	before, err := o.Rollout.Status(ctx)
	if err != nil {
		return Outcome{}, err
	}
	r := before.Release
	if r != nil && o.ReleaseID != "" && r.ID != o.ReleaseID {
		return Outcome{}, &release.InFlightError{Release: *r}
	}
	message, done, err := judged(before, o.ReleaseID, o.Again || o.Observe)
	if err != nil {
		return Outcome{}, err
	}
	if done {
		return Outcome{Result: o.result(r, message)}, nil
	}
	v, err := o.watch(ctx)
	if err != nil {
		return Outcome{}, err
	}
	// What was judged must be what the release has put there, from the first look to the last.
	after, err := o.Rollout.Status(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if drift := append(before.Drift, after.Drift...); len(drift) > 0 && v.Outcome != release.Unhealthy {
		v.Outcome, v.Cause, v.Reason = release.Inconclusive, verdict.Drift, "somebody else has changed the release: "+drift[0]
	}
	if o.Record != nil {
		if err := o.Record(r, v); err != nil {
			return Outcome{}, fmt.Errorf("%w; the verdict (%s: %s) was not noted, run verify again", err, v.Outcome, v.Reason)
		}
	}
	if o.Observe {
		return o.observed(r, v)
	}
	return o.conclude(ctx, r, v)
}

func (o Options) result(r *release.Release, message string) rollout.Result {
	return rollout.Result{Command: "verify", App: o.App, Release: r, Message: message}
}

// watch judges both tracks while the probe, if there is one, calls them.
func (o Options) watch(ctx context.Context) (*verdict.Verification, error) {
	if o.Probe != nil {
		stop := o.Probe.start(ctx)
		defer stop()
	}
	return verdict.Verify(ctx, verdict.Options{
		Source: o.Source, Canary: o.Canary, Primary: o.Primary, Test: o.Test, WarmUp: o.WarmUp, Interval: o.Interval, Report: o.Report, Warn: o.Warn,
	})
}

// judged says whether there is nothing to judge any more, or nothing that could be judged.
func judged(status *rollout.Status, id string, again bool) (message string, done bool, err error) {
	r := status.Release
	if r == nil {
		last := (&release.Ledger{History: status.History}).Last(id)
		switch {
		case last == nil:
			return "", false, &rollout.StageError{Err: fmt.Errorf("%w: start one with canary", release.ErrNoRelease)}
		case !last.Outcome.Good():
			return "", false, &rollout.StageError{Err: fmt.Errorf("release %s has finished: %s (%s); start one with canary", last.ID, last.Outcome, last.Reason)}
		}
		return fmt.Sprintf("release %s has finished (%s): there is no canary to judge", last.ID, last.Outcome), true, nil
	}
	healthy := r.Verdict != nil && r.Verdict.Outcome == release.Healthy
	switch r.Stage {
	case release.StageVerified:
		if healthy && !again {
			return "judged healthy before: " + r.Verdict.Reason, true, nil
		}
		return "", false, nil
	case release.StageCanary:
		return "", false, nil
	case release.StagePromoting, release.StagePromoted:
		if !healthy { // no ledger of ours; nothing may follow from it
			return "", false, &rollout.StageError{Err: fmt.Errorf("release %s is at stage %s without a healthy verdict: run rollback", r.ID, r.Stage)}
		}
		return "judged healthy before it was promoted: " + r.Verdict.Reason, true, nil
	}
	subject := r.Subject()
	return "", false, &rollout.StageError{Err: (&release.Ledger{Release: r}).Judgeable(&subject)}
}

// conclude notes the verdict in the ledger and does what follows from it.
func (o Options) conclude(ctx context.Context, r *release.Release, v *verdict.Verification) (Outcome, error) {
	evidence, err := json.Marshal(v.Record)
	if err != nil {
		return Outcome{}, err
	}
	noted := r.Subject() // as it was when the analysis began
	noted.Outcome, noted.Cause, noted.Reason, noted.Evidence = v.Outcome, string(v.Cause), v.Reason, string(evidence)
	noted.Requests, noted.At = int64(v.Record.Requests()), time.Now().UTC().Truncate(time.Millisecond)
	result, err := o.Rollout.Judge(ctx, noted, !o.NoRollback)
	came := Outcome{Result: result, Verdict: v}
	if unfinished, ok := errors.AsType[*rollout.RollbackError](err); ok {
		came.Result = o.result(r, fmt.Sprintf("%s: %s", v.Outcome, v.Reason))
		return came, &UnhealthyError{Reason: v.Reason, Err: unfinished.Err}
	}
	if err != nil {
		return Outcome{}, fmt.Errorf("%s (%s), but the verdict could not be noted: %w", v.Outcome, v.Reason, err)
	}
	switch v.Outcome {
	case release.Inconclusive:
		return came, &InconclusiveError{Reason: v.Reason, Next: "the canary keeps its weight, run verify again or roll back"}
	case release.Unhealthy:
		if o.NoRollback {
			return came, &UnhealthyError{Reason: v.Reason}
		}
		return came, &UnhealthyError{Reason: v.Reason, Then: "rolled back: " + result.Message}
	}
	return came, nil
}

// observed is a verdict from which nothing follows but the error.
func (o Options) observed(r *release.Release, v *verdict.Verification) (Outcome, error) {
	const unchanged = "nothing was changed"
	came := Outcome{Result: o.result(r, fmt.Sprintf("observed: %s: %s; %s", v.Outcome, v.Reason, unchanged)), Verdict: v}
	switch v.Outcome {
	case release.Unhealthy:
		return came, &UnhealthyError{Reason: v.Reason, Then: unchanged}
	case release.Inconclusive:
		return came, &InconclusiveError{Reason: v.Reason, Next: unchanged}
	}
	return came, nil
}
