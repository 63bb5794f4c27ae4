package verdict

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Options say what Verify judges and how.
type Options struct {
	Source   *Source
	Canary   string // workload
	Primary  string // workload; "" judges the canary by the budgets alone
	Test     Test
	Interval time.Duration    // between two evaluations; default 5 seconds
	Report   func(Evaluation) // called after each evaluation; may be nil
	Warn     func(string)     // called once for each obstacle; may be nil
	// Witness is asked at each evaluation what can be seen of the canary beside its counters; may be nil.
	Witness func(context.Context) (Witnessed, error)
	// Resume is a record that the evidence goes on from; nil begins anew.
	Resume *Record
}

// Evaluation is what was counted at one time, and the judgment that follows from all counts so far.
type Evaluation struct {
	At       time.Time
	Elapsed  time.Duration
	Judgment Judgment
}

// When counters are trusted.
const (
	staleScrapes = 3                // counters older than so many scrapes are stale
	staleLeast   = 45 * time.Second // the same if the scrape interval is unknown
	seenShare    = 0.9              // share of the requests to the canary that its own side must have counted
)

// watching is a running verification.
type watching struct {
	Options
	start           time.Time
	canary, primary *Reading // as last read
	sent, seen      Series   // the canary's requests at the start, by its callers and by itself
	scrape          time.Duration
	state           *State
	result          *Verification
	warned          map[string]bool
}

// Verify watches both tracks until the test decides. If Prometheus does not answer at the start, that is bad
// input. If it stops answering later, the verdict waits, and is inconclusive if the time ends first. Counters
// that cannot be trusted delay a healthy verdict in the same way.
func Verify(ctx context.Context, o Options) (*Verification, error) {
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	o.Test.Alone = o.Primary == ""
	w := &watching{Options: o, start: time.Now(), state: o.Test.Begin(), warned: map[string]bool{}, result: &Verification{Record: Record{Method: Method, Test: o.Test}}}
	if err := w.begin(ctx); err != nil {
		if errors.As(err, new(*UnreachableError)) {
			return nil, &usererr.Error{Field: "prometheus.url", Problem: err.Error(), Fix: "check the URL, and that this machine can reach it; nothing was changed"}
		}
		return nil, err
	}
	end := time.NewTimer(o.Test.MaxDuration)
	defer end.Stop()
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end.C:
		case <-tick.C:
		}
		if done, err := w.evaluate(ctx); done || err != nil {
			return w.result, err
		}
	}
}

// begin takes the first readings. It rejects a MaxDuration that is too short for the scrape interval.
func (w *watching) begin(ctx context.Context) (err error) {
	if w.canary, err = w.Source.Baseline(ctx, w.Canary, w.start); err != nil {
		return err
	}
	sampled := w.Canary
	if w.Primary != "" {
		if w.primary, err = w.Source.Baseline(ctx, w.Primary, w.start); err != nil {
			return err
		}
		sampled = w.Primary
	}
	if w.scrape, err = w.Source.ScrapeInterval(ctx, sampled, w.start); err != nil {
		return err
	}
	if least := 4 * w.scrape; w.Test.MaxDuration < least {
		return &usererr.Error{Field: "analysis.maxDuration", Problem: fmt.Sprintf("%s is too short: the counters are sampled every %s", w.Test.MaxDuration, w.scrape), Fix: fmt.Sprintf("give at least %s", least)}
	}
	if w.sent, err = w.Source.Requests(ctx, "source", w.Canary, w.start); err != nil {
		return err
	}
	w.seen, err = w.Source.Requests(ctx, "destination", w.Canary, w.start)
	return err
}

// evaluate takes one more reading, and says whether the verdict is final.
func (w *watching) evaluate(ctx context.Context) (done bool, err error) {
	now := time.Now()
	elapsed := now.Sub(w.start)
	timeUp := elapsed >= w.Test.MaxDuration
	block, err := w.read(ctx, now)
	if err != nil {
		if errors.As(err, new(*usererr.Error)) || ctx.Err() != nil {
			return false, err
		}
		return w.hold(timeUp, causeOf(err), err.Error(), ": the verdict waits, and the canary keeps its weight"), nil
	}
	block.Elapsed = elapsed
	j := w.state.Add(block)
	if j.Decided || block.events() > 0 {
		w.result.Record.Blocks = append(w.result.Record.Blocks, block)
	}
	evaluation := Evaluation{At: now, Elapsed: elapsed, Judgment: j}
	w.result.Evaluations = append(w.result.Evaluations, evaluation)
	if w.Report != nil {
		w.Report(evaluation)
	}
	if !j.Decided {
		return false, nil
	}
	switch {
	case j.Outcome == release.Healthy:
		if cause, reason := w.distrust(ctx, now); reason != "" {
			return w.hold(timeUp, cause, reason, ""), nil
		}
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

// hold warns that there is no verdict yet. If the time is up the verdict is inconclusive, and final.
func (w *watching) hold(timeUp bool, cause Cause, reason, consequence string) (done bool) {
	if text := reason + consequence; w.Warn != nil && !w.warned[text] {
		w.warned[text] = true
		w.Warn(text)
	}
	if timeUp {
		w.conclude(release.Inconclusive, cause, reason)
	}
	return timeUp
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

// read counts what both tracks got since the last evaluation. It reads both as of the same time.
func (w *watching) read(ctx context.Context, now time.Time) (Block, error) {
	canary, err := w.Source.Read(ctx, w.Canary, now)
	if err != nil {
		return Block{}, err
	}
	primary := w.primary
	if w.Primary != "" {
		if primary, err = w.Source.Read(ctx, w.Primary, now); err != nil {
			return Block{}, err
		}
	}
	block := Block{Pairs: make([]Pair, len(w.Test.Objectives))}
	for i, tally := range canary.Since(w.canary) {
		block.Pairs[i].Canary = tally
	}
	w.canary = canary.mergeMissing(w.canary)
	if primary != nil {
		for i, tally := range primary.Since(w.primary) {
			block.Pairs[i].Primary = tally
		}
		w.primary = primary.mergeMissing(w.primary)
	}
	return block, nil
}

// stale says that the canary's counters are no longer sampled; "" if they are.
func (w *watching) stale(ctx context.Context, now time.Time) (Cause, string) {
	sampled, err := w.Source.lastSample(ctx, "source", w.Canary, now)
	if err != nil {
		return causeOf(err), err.Error()
	}
	if sampled.IsZero() {
		return Stale, "the canary's counters have not been sampled for " + lookback + ": scraping has stopped"
	}
	limit := staleLeast
	if w.scrape > 0 {
		limit = staleScrapes * w.scrape
	}
	if age := now.Sub(sampled); age > limit {
		return Stale, fmt.Sprintf("the canary's counters were sampled %s ago: scraping has stopped", age.Round(time.Second))
	}
	return "", ""
}

// distrust says why counters that look healthy cannot be trusted; "" if they can.
func (w *watching) distrust(ctx context.Context, now time.Time) (Cause, string) {
	if cause, reason := w.stale(ctx, now); cause != "" {
		return cause, reason
	}
	// The callers' counts are read as of the time at which the canary's own side was sampled. Otherwise the
	// latest requests would look lost.
	at, err := w.Source.lastSample(ctx, "destination", w.Canary, now)
	if err != nil {
		return causeOf(err), err.Error()
	}
	if at.IsZero() {
		return "", "" // without a sidecar the canary's own side counts nothing
	}
	sent, err := w.Source.Requests(ctx, "source", w.Canary, at)
	if err != nil {
		return causeOf(err), err.Error()
	}
	seen, err := w.Source.Requests(ctx, "destination", w.Canary, now)
	if err != nil {
		return causeOf(err), err.Error()
	}
	if a, b := sent.Increase(w.sent), seen.Increase(w.seen); b < seenShare*a {
		return CountGap, fmt.Sprintf("%.0f requests were sent to the canary, and it saw %.0f of them; what happened to the others is unknown", a, b)
	}
	return "", ""
}
