package verdict

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Options say what Verify judges and how.
type Options struct {
	Source   *Source
	Canary   string // workload
	Primary  string // workload that it is compared with, a baseline's too; "" judges the canary by the budgets alone
	Test     Test
	Interval time.Duration    // between two evaluations, at most; see watching.pace; default 5 seconds
	Report   func(Evaluation) // called after each evaluation; may be nil
	Warn     func(string)     // called once for each obstacle; may be nil
	// Made is a time between the end of an earlier canary of the same name and the start of this one: what counters have of
	// before is the earlier one's. Zero: there was none.
	Made time.Time
	// Witness is asked at each evaluation what can be seen of the canary beside its counters; may be nil.
	Witness func(context.Context) (Witnessed, error)
	// WarmUp is for how long latency is counted, but not weighed.
	WarmUp time.Duration
	// Healthy is asked whether a healthy verdict is to be judged on: true goes on until the canary is unhealthy, or
	// until it is not healthy any more when the time ends. Nil: a healthy verdict is final.
	Healthy func(*Verification) bool
	// Resume is a record that the evidence goes on from; nil begins anew. Its blocks are judged again, and the time
	// that nobody looked at is caught up with.
	Resume *Record
}

// Evaluation is what was counted at one time, and the judgment that follows from all counts so far.
type Evaluation struct {
	At       time.Time
	Elapsed  time.Duration
	WarmUp   bool // latency was counted, but not weighed
	Judgment Judgment
}

// When counters are trusted.
const (
	staleScrapes = 3                // counters older than so many scrapes are stale
	staleLeast   = 45 * time.Second // the same if the scrape interval is unknown
	seenShare    = 0.9              // share of the requests to the canary that its own side must have counted
)

// caughtUpIn is in how many steps the time that nobody looked at is caught up with, at most.
const caughtUpIn = 60

// keptEvaluations is how many evaluations a verification keeps, at least; the newest ones.
const keptEvaluations = 2000

// watching is a running verification.
type watching struct {
	Options
	began     time.Time // when Verify was called
	start     time.Time // of the evidence
	test      Test
	counting  *counting
	sent      Series     // the canary's requests at the start, by its callers
	sentAt    model.Time // what an earlier canary got up to then is left out
	witnessed Witnessed
	unseen    error // why the witness could not be asked
	state     *State
	result    *Verification
	warned    map[string]bool
}

// Verify watches both tracks until the test decides. While Prometheus does not answer, or its counters cannot be
// trusted, the verdict waits, and is inconclusive if the time ends first. Only what the user must fix is an error.
func Verify(ctx context.Context, o Options) (*Verification, error) {
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	o.Test.Alone = o.Primary == ""
	w := &watching{Options: o, began: time.Now(), warned: map[string]bool{}, result: &Verification{Record: Record{Method: Method, Test: o.Test}}}
	end := time.NewTimer(o.Test.MaxDuration)
	defer end.Stop()
	pace := o.Interval
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		done, err := w.step(ctx)
		if done || err != nil {
			return w.result, err
		}
		if now := w.pace(); now != pace {
			pace = now
			tick.Reset(pace)
		}
		select {
		case <-ctx.Done():
			return w.result, ctx.Err()
		case <-end.C:
		case <-tick.C:
		}
	}
}

// leastPace is the least time between two evaluations that [watching.pace] makes of a scrape interval.
const leastPace = time.Second

// pace is the time between two evaluations: where counters are sampled more often than every Interval, each sample is looked
// at, so that a bad canary goes as soon as they show it. A watch, which takes hours, keeps to Interval.
func (w *watching) pace() time.Duration {
	if w.counting == nil || w.counting.scrape <= 0 || w.Healthy != nil {
		return w.Interval
	}
	return min(w.Interval, max(w.counting.scrape, leastPace))
}

// step takes the first readings, or evaluates what was counted since. It says whether the verdict is final.
func (w *watching) step(ctx context.Context) (done bool, err error) {
	if w.counting != nil {
		return w.evaluate(ctx)
	}
	if done, err := w.witness(ctx); done || err != nil {
		return done, err
	}
	now := time.Now()
	if err = toFix(w.begin(ctx, now)); err == nil || ctx.Err() != nil || errors.As(err, new(*usererr.Error)) {
		return false, errors.Join(err, ctx.Err())
	}
	return w.hold(now.Sub(w.began) >= w.Test.MaxDuration, causeOf(err), err.Error(), ": nothing is counted yet, and the canary keeps its weight"), nil
}

// toFix names what the user must fix in an error of the first readings.
func toFix(err error) error {
	if unreachable, ok := errors.AsType[*UnreachableError](err); ok && unreachable.fixable() {
		return &usererr.Error{Field: "prometheus.url", Problem: err.Error(), Fix: "check the URL and the credentials, and that this machine can reach it"}
	}
	return err
}

// Check takes the first readings of a verification that is to come, and finds what the user must fix. What may be there in
// a minute, such as a Prometheus that does not answer, is no error.
func Check(ctx context.Context, o Options) error {
	o.Test.Alone = o.Primary == ""
	w := &watching{Options: o, result: &Verification{}}
	if err := toFix(w.begin(ctx, time.Now())); errors.As(err, new(*usererr.Error)) {
		return err
	}
	return ctx.Err()
}

// begin takes the first readings. It rejects a MaxDuration that is too short for the scrape interval.
func (w *watching) begin(ctx context.Context, now time.Time) error {
	workloads := []string{w.Canary}
	if w.Primary != "" {
		workloads = append(workloads, w.Primary)
	}
	from, resumed := now, w.resumable(now)
	if resumed {
		from = w.Resume.Until
	}
	source := *w.Source
	source.made = w.Made
	counting, err := source.begin(ctx, workloads, from)
	if err == nil && resumed && counting.none() {
		if len(w.Resume.Blocks) > 0 {
			w.warn(fmt.Sprintf("Prometheus has no counters of %s any more, up to which the canary was judged before: the analysis begins anew", from.UTC().Format(time.RFC3339)))
		}
		from, resumed = now, false
		counting, err = source.begin(ctx, workloads, from)
	}
	if err != nil {
		return err
	}
	if least := LeastDuration(counting.scrape); w.Test.MaxDuration < least {
		return &usererr.Error{Field: "analysis.maxDuration", Problem: fmt.Sprintf("%s is too short: the counters are sampled every %s", w.Test.MaxDuration, counting.scrape), Fix: fmt.Sprintf("give at least %s", least)}
	}
	if w.sent, err = w.Source.Requests(ctx, callersSide, w.Canary, from); err != nil {
		return err
	}
	w.counting, w.start, w.test, w.state = counting, from, w.Test, w.Test.Begin()
	if resumed {
		w.goOn(now)
	}
	w.result.Record.Test, w.result.Record.Since, w.result.Record.Until = w.test, w.start, from
	return nil
}

// evaluate takes one more reading, and says whether the verdict is final.
func (w *watching) evaluate(ctx context.Context) (done bool, err error) {
	if done, err := w.witness(ctx); done || err != nil {
		return done, err
	}
	now := time.Now()
	timeUp := now.Sub(w.began) >= w.Test.MaxDuration
	var j Judgment
	for _, at := range w.times(now) {
		if j, err = w.look(ctx, at, timeUp && at.Equal(now)); err != nil {
			if errors.As(err, new(*usererr.Error)) || ctx.Err() != nil {
				return false, err
			}
			return w.hold(timeUp, causeOf(err), err.Error(), ": the verdict waits, and the canary keeps its weight"), nil
		}
		if j.Outcome == release.Unhealthy {
			break
		}
	}
	if reason := w.unnamed(now); reason != "" {
		w.warn(reason)
	}
	if timeUp && !j.Decided {
		j.Decided, j.Outcome, j.Cause = true, release.Inconclusive, PrometheusDown
		j.Reason = fmt.Sprintf("the counters could be read only from %s on, which is too late", w.start.UTC().Format(time.TimeOnly))
	}
	switch {
	case !j.Decided:
		return false, nil
	case j.Outcome == release.Healthy:
		if cause, reason := w.distrust(ctx, now); reason != "" {
			return w.hold(timeUp, cause, reason, ""), nil
		}
		if w.Healthy != nil {
			healthy := *w.result
			healthy.Outcome, healthy.Reason = j.Outcome, j.Reason
			if w.Healthy(&healthy) {
				return false, nil
			}
		}
	case (j.Cause == NoTraffic || j.Cause == NoData || j.Cause == ThinTraffic) && w.unnamed(now) != "":
		j.Cause, j.Reason = MissingLabels, w.unnamed(now)
	case j.Cause == NoTraffic:
		cause, reason := w.Source.Missing(ctx, w.Canary, now)
		if cause == "" { // there are counters, but they do not grow
			cause, reason = w.stale(ctx, now)
		}
		if cause != "" {
			j.Cause, j.Reason = cause, reason
		}
	}
	w.conclude(j.Outcome, j.Cause, j.Reason)
	return true, nil
}

// times are the times to look at: now, and before it, in steps, what nobody looked at.
func (w *watching) times(now time.Time) []time.Time {
	missed := now.Sub(w.counting.at)
	step := max(w.Interval, missed/caughtUpIn)
	var all []time.Time
	if missed > 3*w.Interval {
		for at := w.counting.at.Add(step); now.Sub(at) > step/2; at = at.Add(step) {
			all = append(all, at)
		}
	}
	return append(all, now)
}

// look counts and weighs what both tracks got since the last look.
func (w *watching) look(ctx context.Context, at time.Time, last bool) (Judgment, error) {
	from := w.counting.requests.from.Time()
	tallies, err := w.counting.read(ctx, at)
	if err != nil {
		return Judgment{}, err
	}
	w.result.Record.Unattributed += w.counting.errors
	block := Block{Elapsed: at.Sub(w.start).Round(time.Millisecond), WarmUp: w.WarmUp > 0 && from.Sub(w.start) < w.WarmUp, Pairs: make([]Pair, len(w.test.Objectives))}
	if late := w.start.Sub(w.began); last && (late <= w.Interval || w.test.Whole && late <= w.test.MaxDuration/parts) { // else much was not seen
		block.Elapsed = max(block.Elapsed, w.test.MaxDuration)
	}
	for i := range block.Pairs {
		block.Pairs[i].Canary = tallies[0][i]
		if len(tallies) > 1 {
			block.Pairs[i].Primary = tallies[1][i]
		}
	}
	j := w.result.Record.add(w.state, block)
	w.result.Record.Until = at
	evaluation := Evaluation{At: at, Elapsed: block.Elapsed, WarmUp: block.WarmUp, Judgment: j}
	if n := len(w.result.Evaluations); n >= 2*keptEvaluations {
		w.result.Evaluations = slices.Clone(w.result.Evaluations[n-keptEvaluations:])
	}
	w.result.Evaluations = append(w.result.Evaluations, evaluation)
	if w.Report != nil {
		w.Report(evaluation)
	}
	return j, nil
}

// hold warns that there is no verdict yet. If the time is up the verdict is inconclusive, and final.
func (w *watching) hold(timeUp bool, cause Cause, reason, consequence string) (done bool) {
	w.warn(reason + consequence)
	if timeUp {
		w.conclude(release.Inconclusive, cause, reason)
	}
	return timeUp
}

func (w *watching) warn(text string) {
	if w.Warn != nil && !w.warned[text] {
		w.warned[text] = true
		w.Warn(text)
	}
}

func (w *watching) conclude(outcome release.VerdictOutcome, cause Cause, reason string) {
	w.result.Outcome, w.result.Cause, w.result.Reason = outcome, cause, reason
}

func causeOf(err error) Cause {
	if data, ok := errors.AsType[*DataError](err); ok {
		return data.Cause
	}
	return PrometheusDown
}

// stale says that the counters of the track that is judged are no longer sampled; "" if they are.
func (w *watching) stale(ctx context.Context, now time.Time) (Cause, string) {
	sampled, err := w.Source.lastSample(ctx, w.Source.side, w.Canary, now)
	if err != nil {
		return causeOf(err), err.Error()
	}
	if sampled.IsZero() {
		return Stale, w.Test.judged() + "'s counters have not been sampled for " + sampledWithin.String() + ": scraping has stopped"
	}
	if age := now.Sub(sampled); Late(age, w.counting.scrape) {
		return Stale, fmt.Sprintf("%s's counters were sampled %s ago: scraping has stopped", w.Test.judged(), age.Round(time.Second))
	}
	return "", ""
}

// unnamed says that requests are counted whose answers nothing names; "" if they no longer are: neither have the last scrapes any,
// nor is a caller without the label too rare for each of them to have some.
func (w *watching) unnamed(now time.Time) string {
	found := w.counting.unnamed
	if now.Sub(found.last) < w.counting.horizon() || w.counting.named()-found.named < w.Test.MinRequests {
		return found.why
	}
	return ""
}

// distrust says why counters that look healthy cannot be trusted; "" if they can.
func (w *watching) distrust(ctx context.Context, now time.Time) (Cause, string) {
	if reason := w.unnamed(now); reason != "" {
		return MissingLabels, reason
	}
	if cause, reason := w.unattributed(); cause != "" {
		return cause, reason
	}
	if cause, reason := w.stale(ctx, now); cause != "" {
		return cause, reason
	}
	// The callers' counts are read as of the time up to which each pod of the canary was sampled. Otherwise the latest
	// requests would look lost.
	at := w.counting.ownAt
	if at == 0 {
		return "", "" // without a sidecar the canary's own side counts nothing
	}
	if since := w.counting.requests.former.latest; since > w.sentAt {
		earlier, err := w.Source.Requests(ctx, callersSide, w.Canary, since.Time())
		if err != nil {
			return causeOf(err), err.Error()
		}
		w.sent, w.sentAt = earlier, since
	}
	sent, err := w.Source.Requests(ctx, callersSide, w.Canary, at.Time())
	if err != nil {
		return causeOf(err), err.Error()
	}
	if a, b := sent.Increase(w.sent), w.counting.seen(); b < seenShare*a {
		return CountGap, fmt.Sprintf("%.0f requests were sent to the canary, and it saw %.0f of them; what happened to the others is unknown", a, b)
	}
	return "", ""
}
