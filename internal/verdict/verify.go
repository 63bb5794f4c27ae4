package verdict

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Options say what is verified and how.
type Options struct {
	Source   *Source
	Canary   string // workload names
	Primary  string // "": the canary is judged by the budgets alone
	Test     Test
	Interval time.Duration    // between two looks; default 5 seconds
	Report   func(Evaluation) // is told each look; may be nil
	Warn     func(string)     // is told what hinders, once; may be nil
}

// Evaluation is one look: what was counted since the last one, and what follows from all so far.
type Evaluation struct {
	At        time.Time     `json:"at"`
	Elapsed   time.Duration `json:"elapsed"`
	Judgement Judgement     `json:"judgement"`
}

// The limits of what counters may be like.
const (
	staleScrapes = 3                // an age of so many scrapes is stale
	staleLeast   = 45 * time.Second // when the interval is not known
	seenShare    = 0.9              // of the requests that were sent to the canary, which its own side must have counted
)

// watching is a verification under way.
type watching struct {
	Options
	start           time.Time
	canary, primary *Reading // as last read
	sent, seen      Series   // the canary's requests by both sides, at the start
	scrape          time.Duration
	state           *State
	result          *Verification
	warned          map[string]bool
}

// Verify watches both tracks until the test decides. A Prometheus that does not answer at the first look is
// bad input; later it makes the verdict wait, and inconclusive when the time is over before it answers
// again. Counters that cannot be trusted hold a healthy verdict back.
func Verify(ctx context.Context, o Options) (*Verification, error) {
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	w := &watching{Options: o, start: time.Now(), state: o.Test.Begin(), warned: map[string]bool{}, result: &Verification{Record: Record{Test: o.Test}}}
	if err := w.begin(ctx); err != nil {
		if errors.As(err, new(*UnreachableError)) {
			return nil, &usererr.Error{Field: "--prometheus", Problem: err.Error(), Fix: "check the URL and that this machine reaches it; nothing was changed"}
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
		if done, err := w.look(ctx); done || err != nil {
			return w.result, err
		}
	}
}

// begin takes the first readings, and finds a time to watch that is too short for how often counters are
// sampled.
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
		return &usererr.Error{Field: "--max-duration", Problem: fmt.Sprintf("%s is too short: the counters are sampled every %s", w.Test.MaxDuration, w.scrape), Fix: fmt.Sprintf("give at least %s", least)}
	}
	if w.sent, err = w.Source.Requests(ctx, "source", w.Canary, w.start); err != nil {
		return err
	}
	w.seen, err = w.Source.Requests(ctx, "destination", w.Canary, w.start)
	return err
}

// look takes one more reading, and says whether the verdict stands.
func (w *watching) look(ctx context.Context) (done bool, err error) {
	now := time.Now()
	elapsed := now.Sub(w.start)
	over := elapsed >= w.Test.MaxDuration
	block, err := w.read(ctx, now)
	if err != nil {
		if errors.As(err, new(*usererr.Error)) || ctx.Err() != nil {
			return false, err
		}
		w.warn(err.Error() + ": the verdict waits, the canary keeps its share")
		if over {
			w.conclude(release.Inconclusive, causeOf(err), err.Error())
		}
		return over, nil // hold: it neither passes nor fails
	}
	block.Elapsed = elapsed
	j := w.state.Add(block)
	if j.Decided || block.events() > 0 {
		w.result.Record.Blocks = append(w.result.Record.Blocks, block)
	}
	evaluation := Evaluation{At: now, Elapsed: elapsed, Judgement: j}
	w.result.Evaluations = append(w.result.Evaluations, evaluation)
	if w.Report != nil {
		w.Report(evaluation)
	}
	if !j.Decided {
		return false, nil
	}
	switch {
	case j.Outcome == release.Healthy:
		cause, doubt := w.doubt(ctx, now)
		if doubt != "" {
			w.warn(doubt)
			if over {
				w.conclude(release.Inconclusive, cause, doubt)
			}
			return over, nil
		}
	case j.Cause == NoTraffic:
		cause, reason := w.Source.Missing(ctx, w.Canary, now)
		if cause == "" { // there are counters, which stand still
			cause, reason = w.stale(ctx, now)
		}
		if cause != "" {
			j.Cause, j.Reason = cause, reason
		}
	}
	w.conclude(j.Outcome, j.Cause, j.Reason)
	return true, nil
}

func (w *watching) conclude(outcome release.VerdictOutcome, cause Cause, reason string) {
	w.result.Outcome, w.result.Cause, w.result.Reason = outcome, cause, reason
}

func (w *watching) warn(text string) {
	if w.Warn != nil && !w.warned[text] {
		w.warned[text] = true
		w.Warn(text)
	}
}

func causeOf(err error) Cause {
	var data *DataError
	if errors.As(err, &data) {
		return data.Cause
	}
	return PrometheusDown
}

// read counts what both tracks got since the last look. Both are read as of one time.
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
	w.canary = canary.over(w.canary)
	if primary != nil {
		for i, tally := range primary.Since(w.primary) {
			block.Pairs[i].Primary = tally
		}
		w.primary = primary.over(w.primary)
	}
	return block, nil
}

// stale says since when the canary's counters are not sampled any more; "" when they are.
func (w *watching) stale(ctx context.Context, now time.Time) (Cause, string) {
	sampled, err := w.Source.sampledAt(ctx, "source", w.Canary, now)
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

// doubt says why counters that look healthy are not to be trusted; "" when they are.
func (w *watching) doubt(ctx context.Context, now time.Time) (Cause, string) {
	if cause, reason := w.stale(ctx, now); cause != "" {
		return cause, reason
	}
	// What was sent is read as of the time at which the canary's own side was sampled: else the last
	// requests would only not be known yet.
	at, err := w.Source.sampledAt(ctx, "destination", w.Canary, now)
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
		return CountGap, fmt.Sprintf("%.0f requests were sent to the canary, it has seen %.0f of them: what happened to the others is not known", a, b)
	}
	return "", ""
}
