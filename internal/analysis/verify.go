package analysis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// Options say what is judged, and by what.
type Options struct {
	Rollout   Rollout
	App       string
	ReleaseID string // release that is meant; any for ""
	// Canary and Primary are the workloads of the tracks. Bake judges Primary alone. A release with a baseline is compared with
	// that workload.
	Canary, Primary, Baseline string

	Source *verdict.Source
	Test   verdict.Test
	WarmUp time.Duration // for which latency is counted, but not weighed
	// BaselineWarmUp is WarmUp where the canary is compared with a baseline, whose pods begin when its own do.
	BaselineWarmUp time.Duration
	Interval       time.Duration                              // between two looks
	Report         func(verdict.Evaluation)                   // is given each look; may be nil
	Progress       func(*release.Release, verdict.Evaluation) // is given each look with what is judged; may be nil
	Warn           func(string)                               // is given what hinders a verdict; may be nil
	Probe          *Probe                                     // requests of Verify's own; nil: none

	Again      bool // judge again what was judged healthy
	Observe    bool // change nothing: no verdict in the ledger, no rollback
	NoRollback bool // leave an unhealthy canary as it is
	// Record keeps a verdict outside the ledger before anything follows from it; may be nil. What it fails to
	// keep is not noted either.
	Record func(*release.Release, *verdict.Verification) error

	// Refresh is after how long Watch notes a verdict that stays healthy anew; default 5 minutes.
	Refresh time.Duration
}

// Verify judges the canary of the release in flight beside primary, notes the verdict, and rolls back an
// unhealthy one. It goes on from what is known: the record of the last verdict on the same release at the same weight, or
// else the time at which the canary got its weight. So a job that died, or a verdict that was not conclusive, costs no
// evidence. Going on from a record spends no error rate; a job that died before it noted one is one more test, of mostly the same requests.
//
// Errors: *UnhealthyError and *InconclusiveError beside an outcome with the verdict; *rollout.StageError and
// *release.InFlightError when there is nothing that may be judged, or no longer.
func Verify(ctx context.Context, o Options) (Outcome, error) {
	status, nothing, err := o.begin(ctx, o.Again || o.Observe)
	switch {
	case err != nil:
		return Outcome{}, err
	case nothing != nil:
		return Outcome{Result: *nothing}, nil
	}
	v, last, err := o.judge(ctx, status.Release, known(status.Release, o.Test), nil)
	if errors.As(err, new(*rollout.StageError)) { // somebody goes on with it: it may have given way
		o.ReleaseID = status.Release.ID
		if _, nothing, failed := o.begin(ctx, true); failed == nil && nothing != nil && nothing.SupersededBy != "" {
			return Outcome{Result: *nothing}, nil
		}
	}
	if err != nil {
		return Outcome{}, err
	}
	return o.conclude(ctx, status, last, v)
}

// begin reads what there is to judge. nothing says that there is nothing, and that nothing is wrong.
func (o Options) begin(ctx context.Context, again bool) (status *rollout.Status, nothing *rollout.Result, err error) {
	if status, err = o.Rollout.Status(ctx); err != nil {
		return nil, nil, err
	}
	if nothing = status.GaveWay("verify", o.ReleaseID); nothing != nil {
		return status, nothing, nil
	}
	if r := status.Release; r != nil && o.ReleaseID != "" && r.ID != o.ReleaseID {
		return nil, nil, &release.InFlightError{Release: *r}
	}
	message, err := judged(status, o.ReleaseID, again)
	if message != "" {
		nothing = new(o.result(status.Release, message))
	}
	return status, nothing, err
}

func (o Options) result(r *release.Release, message string) rollout.Result {
	return rollout.Result{Command: "verify", App: o.App, Release: r, Message: message}
}

// known is what the evidence goes on from.
func known(r *release.Release, test verdict.Test) *verdict.Record {
	subject := r.Subject()
	if v := r.Verdict; v != nil && v.Evidence != "" && v.On(subject) {
		if record, err := verdict.ParseRecord(v.Evidence); err == nil && !record.Until.IsZero() {
			return record
		}
	}
	return &verdict.Record{Method: verdict.Method, Test: testFor(r, test), Since: subject.Since, Until: subject.Since}
}

// testFor is what the canary of a release is judged by. Before it has a share of the traffic, its requests are others than
// primary's.
func testFor(r *release.Release, test verdict.Test) verdict.Test {
	test.Baseline = r.Baseline
	if r.Weight == 0 {
		test = test.Unlike(r.Mirror > 0)
	}
	return test
}

// judge judges both tracks while the probe, if there is one, calls them. It ends with a *rollout.StageError when
// somebody goes on with the release meanwhile. What was counted is in the result even then. last is where the release was
// at the end, nil if that does not matter to the verdict. healthy is asked of a healthy verdict whether it is to go on; nil:
// it is not.
func (o Options) judge(ctx context.Context, r *release.Release, from *verdict.Record, healthy func(*verdict.Verification, Witness) bool) (_ *verdict.Verification, last *rollout.Status, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	witness, err := o.Rollout.Witness(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	var goOn func(*verdict.Verification) bool
	if healthy != nil {
		goOn = func(v *verdict.Verification) bool { return healthy(v, witness) }
	}
	var probing *probing
	report := o.Report
	if o.Probe != nil {
		probing = o.Probe.begin(ctx, o.Test, r.Weight)
		defer probing.stop()
		report = probing.counts(report)
	}
	if o.Progress != nil {
		report = withProgress(report, r, o.Progress)
	}
	source := o.Source
	if r.Mirror > 0 {
		source = source.Copies()
	}
	if r.Baseline {
		o.Primary, o.WarmUp = o.Baseline, o.BaselineWarmUp
	}
	changed := drift{witness: witness, looked: time.Now()}
	v, err := verdict.Verify(ctx, verdict.Options{
		Source: source, Canary: o.Canary, Primary: o.Primary, Test: testFor(r, o.Test), WarmUp: o.WarmUp, Interval: o.Interval,
		Report: report, Warn: o.Warn, Resume: from, Healthy: goOn,
		Made: r.StartedAt, // the pods of the release before were gone by then
		Witness: func(context.Context) (verdict.Witnessed, error) {
			seen, err := witness.Look()
			if err == nil && seen.Moved != nil {
				stop(&rollout.StageError{Err: fmt.Errorf("the analysis has ended: %w", seen.Moved)})
			}
			if seen.Unhealthy == "" && changed.lasts(ctx) {
				stop(errDrift)
			}
			witnessed := verdict.Witnessed{Unhealthy: seen.Unhealthy, Cause: verdict.Cause(seen.Cause), Hold: seen.Hold, PrimaryWhole: seen.PrimaryWhole}
			if probing != nil && seen.Unhealthy == "" && seen.Hold == "" {
				probing.witness(&witnessed)
			}
			return witnessed, err
		},
	})
	if v != nil {
		v.Reason += before(r, o.Test, int64(v.Record.Requests()))
	}
	if v != nil && probing != nil {
		v.Reason += probing.text()
	}
	if moved, ok := errors.AsType[*rollout.StageError](context.Cause(ctx)); ok {
		err = moved
	}
	if v != nil && errors.Is(context.Cause(ctx), errDrift) {
		v.Outcome, v.Cause, v.Reason = ofDrift(changed.found.Drift)
		return v, changed.found, nil
	}
	if err == nil && v.Outcome != release.Unhealthy {
		last, err = witness.Live(ctx)
	}
	return v, last, err
}

// withProgress gives each look to both.
func withProgress(report func(verdict.Evaluation), r *release.Release, progress func(*release.Release, verdict.Evaluation)) func(verdict.Evaluation) {
	return func(e verdict.Evaluation) {
		if report != nil {
			report(e)
		}
		progress(r, e)
	}
}

// errDrift ends an analysis of a canary that does not get what its release gave it.
var errDrift = errors.New("somebody else has changed the release")

// driftEvery is how often a release is compared with what is live while it is judged.
const driftEvery = 10 * time.Second

// ofDrift is the verdict on a release that is not as it was made.
func ofDrift(found []string) (release.VerdictOutcome, verdict.Cause, string) {
	return release.Inconclusive, verdict.Drift, errDrift.Error() + ": " + found[0]
}

// drift looks whether somebody else has changed a release while it is judged.
type drift struct {
	witness Witness
	looked  time.Time
	found   *rollout.Status // where the release was when it was found changed; nil when it was not, or never looked at
}

// lasts says whether the release has been changed for two looks: whoever goes on with it changes it and then notes so.
func (d *drift) lasts(ctx context.Context) bool {
	if time.Since(d.looked) < driftEvery {
		return false
	}
	d.looked = time.Now()
	before := d.found
	d.found = nil
	if live, err := d.witness.Live(ctx); err == nil && len(live.Drift) > 0 { // an error is the next look's matter
		d.found = live
	}
	return before != nil && d.found != nil
}

// before says whose requests a verdict rests on that is not on a share of the traffic, and what was not compared because of it.
func before(r *release.Release, test verdict.Test, requests int64) string {
	if requests == 0 || r.Weight > 0 {
		return ""
	}
	text := ""
	switch {
	case r.Mirror > 0 && r.Match != nil:
		text = fmt.Sprintf("; the %d requests of the canary were testers', with %s, and mirrored requests: copies of GET and HEAD requests, whose answers no caller got", requests, r.Match.Text())
	case r.Mirror > 0:
		text = fmt.Sprintf("; %d mirrored requests: copies of GET and HEAD requests, whose answers no caller got", requests)
	case r.Match != nil:
		text = fmt.Sprintf("; %d requests of testers, with %s", requests, r.Match.Text())
	}
	var relative []string
	margin, by := 0.0, testFor(r, test)
	for i, o := range test.Objectives {
		if o.Relative {
			relative, margin = append(relative, o.Name), by.Objectives[i].Margin
		}
	}
	if len(relative) > 0 {
		text += fmt.Sprintf("; not held to primary alone, whose requests are others: %s, for which a canary is rolled back only over half of its requests, and passes only less than %.0f points above primary's share", strings.Join(relative, ", "), 100*margin)
	}
	return text
}

// judged says whether there is nothing to judge any more, or nothing that could be judged.
func judged(status *rollout.Status, id string, again bool) (message string, err error) {
	r := status.Release
	if r == nil {
		last := (&release.Ledger{History: status.History}).Last(id)
		switch {
		case last == nil:
			return "", &rollout.StageError{Err: fmt.Errorf("%w: start one with canary", release.ErrNoRelease)}
		case !last.Outcome.Good():
			return "", &rollout.StageError{Err: fmt.Errorf("release %s has finished: %s (%s); start one with canary", last.ID, last.Outcome, last.Reason)}
		}
		return fmt.Sprintf("release %s has finished (%s): there is no canary to judge", last.ID, last.Outcome), nil
	}
	healthy := r.Verdict != nil && r.Verdict.Outcome == release.Healthy
	switch r.Stage {
	case release.StageVerified:
		if healthy && !again && r.Verdict.On(r.Subject()) { // else promote refuses it, and asks for another one
			return "judged healthy before: " + r.Verdict.Reason, nil
		}
		return "", nil
	case release.StageCanary:
		return "", nil
	case release.StagePromoting, release.StagePromoted:
		if !healthy { // no ledger of ours; nothing may follow from it
			return "", &rollout.StageError{Err: fmt.Errorf("release %s is at stage %s without a healthy verdict: run rollback", r.ID, r.Stage)}
		}
		return "judged healthy before it was promoted: " + r.Verdict.Reason, nil
	}
	subject := r.Subject()
	return "", &rollout.StageError{Err: (&release.Ledger{Release: r}).Judgeable(&subject)}
}

// conclude notes a verdict, and does what follows from it. status is where the release was when the analysis began, last
// where it was in the end: what was judged must be what the release has put there. It does not matter to an unhealthy one.
func (o Options) conclude(ctx context.Context, status, last *rollout.Status, v *verdict.Verification) (Outcome, error) {
	drift := status.Drift
	if last != nil {
		drift = append(drift, last.Drift...)
	}
	if len(drift) > 0 && v.Outcome != release.Unhealthy {
		v.Outcome, v.Cause, v.Reason = ofDrift(drift)
	}
	r := status.Release
	if o.Record != nil {
		if err := o.Record(r, v); err != nil {
			return Outcome{}, fmt.Errorf("%w; the verdict (%s: %s) was not noted, run verify again", err, v.Outcome, v.Reason)
		}
	}
	if o.Observe {
		return o.observed(r, v)
	}
	return o.note(ctx, r, v)
}

// note puts the verdict into the ledger and does what follows from it.
func (o Options) note(ctx context.Context, r *release.Release, v *verdict.Verification) (Outcome, error) {
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
	if result.SupersededBy != "" {
		return Outcome{Result: result}, nil
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

// bad says whether an error is what the user must fix, or the state of the release: trying again does not help.
func bad(err error) bool {
	return errors.As(err, new(*usererr.Error)) || errors.As(err, new(*rollout.StageError)) || errors.As(err, new(*release.InFlightError))
}
