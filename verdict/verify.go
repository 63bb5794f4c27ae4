package verdict

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/our-org/crossbill/release"
)

// Evaluation is one look at both tracks, counted from the beginning of the window.
type Evaluation struct {
	At      time.Time     `json:"at"`
	Elapsed time.Duration `json:"elapsed"`
	Canary  Counts        `json:"canary"`
	Primary Counts        `json:"primary"`
}

// Options say what is verified and how.
type Options struct {
	Source     *Source
	Canary     string // workload names
	Primary    string
	Thresholds Thresholds
	Interval   time.Duration // between two looks; default 5 seconds
	Report     func(Evaluation)
}

// Verification is a verdict with its evidence.
type Verification struct {
	Outcome     release.VerdictOutcome `json:"outcome"`
	Reason      string                 `json:"reason"`
	Thresholds  Thresholds             `json:"thresholds"`
	Evaluations []Evaluation           `json:"evaluations"`
}

// Canary is the canary's counts over the whole window.
func (v *Verification) Canary() Counts {
	if len(v.Evaluations) == 0 {
		return Counts{}
	}
	return v.Evaluations[len(v.Evaluations)-1].Canary
}

// Verify watches the canary for the window and judges it. It ends early when the canary is
// unhealthy. A Prometheus that does not answer at the first look is bad input; later it makes the
// verdict wait, and inconclusive when the window ends before it answers again.
func Verify(ctx context.Context, o Options) (*Verification, error) {
	if err := o.Thresholds.Check(); err != nil {
		return nil, err
	}
	if o.Interval == 0 {
		o.Interval = 5 * time.Second
	}
	start := time.Now()
	canary, primary, err := o.read(ctx, start, o.Source.Baseline)
	if err != nil {
		var unreachable *UnreachableError
		if errors.As(err, &unreachable) {
			return nil, &release.InputError{Field: "--prometheus", Problem: unreachable.Error(), Fix: "check the URL and that this machine reaches it; nothing was changed"}
		}
		return nil, err
	}
	v := &Verification{Thresholds: o.Thresholds}
	watch := &window{canary: canary, primary: primary}
	end := time.NewTimer(o.Thresholds.Window)
	defer end.Stop()
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for {
		final := false
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end.C:
			final = true
		case <-tick.C:
		}
		now := time.Now()
		canary, primary, err := o.read(ctx, now, o.Source.Read)
		if err != nil {
			if errors.As(err, new(*release.InputError)) || ctx.Err() != nil {
				return nil, err
			}
			if final {
				v.Outcome, v.Reason = release.Inconclusive, err.Error()
				return v, nil
			}
			continue // hold: it neither passes nor fails
		}
		evaluation := watch.add(canary, primary)
		evaluation.At, evaluation.Elapsed = now, now.Sub(start)
		v.Evaluations = append(v.Evaluations, evaluation)
		if o.Report != nil {
			o.Report(evaluation)
		}
		outcome, reason, decided := o.Thresholds.Judge(evaluation.Canary, final)
		if !decided {
			continue
		}
		if outcome == release.Healthy {
			if stale := o.stale(ctx, now); stale != "" {
				outcome, reason = release.Inconclusive, stale
			}
		}
		v.Outcome, v.Reason = outcome, reason
		return v, nil
	}
}

// stale says why the canary's counters cannot vouch for the whole window; "" when they can. A scrape
// every 30 s is common, so a sample may be 45 s old, but it must be from within the window.
func (o Options) stale(ctx context.Context, end time.Time) string {
	sampled, err := o.Source.sampledAt(ctx, o.Canary, end)
	switch {
	case err != nil:
		return err.Error()
	case end.Sub(sampled) > min(max(o.Thresholds.Window/2, 45*time.Second), o.Thresholds.Window*9/10):
		return fmt.Sprintf("the canary's counters were sampled last %s before the window's end: scraping has stopped, or is too slow for a window of %s", end.Sub(sampled).Round(time.Second), o.Thresholds.Window)
	}
	return ""
}

func (o Options) read(ctx context.Context, at time.Time, read func(context.Context, string, time.Time) (*Reading, error)) (canary, primary *Reading, err error) {
	if canary, err = read(ctx, o.Canary, at); err != nil {
		return nil, nil, err
	}
	primary, err = read(ctx, o.Primary, at)
	return canary, primary, err
}

// window adds up the increases between readings, so that a reset in the middle loses nothing that
// was read before it.
type window struct {
	canary, primary *Reading
	total           Evaluation
}

func (w *window) add(canary, primary *Reading) Evaluation {
	w.total.Canary = w.total.Canary.Add(canary.Since(w.canary))
	w.total.Primary = w.total.Primary.Add(primary.Since(w.primary))
	w.canary, w.primary = canary.over(w.canary), primary.over(w.primary)
	return w.total
}

// over keeps what an earlier reading knew and this one lacks: a series that a failed scrape hides for
// a moment must not count from 0 when it is back.
func (r *Reading) over(earlier *Reading) *Reading {
	for _, pair := range []struct{ now, before Series }{{r.Requests, earlier.Requests}, {r.Timed, earlier.Timed}, {r.Fast, earlier.Fast}} {
		for key, value := range pair.before {
			if _, ok := pair.now[key]; !ok {
				pair.now[key] = value
			}
		}
	}
	return r
}
