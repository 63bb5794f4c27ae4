package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Shift raises the canary's share of the traffic in steps, in percent, rising. Before each step the
// canary is sized for it and every pod of it is a ready endpoint; after it the pause is waited out.
// Steps that the release has passed are left out. The release has to be judged again at its new share.
func (c *Cluster) Shift(ctx context.Context, steps []int, pause time.Duration) (Result, error) {
	for i, step := range steps {
		if err := release.ParseWeight("--steps", step); err != nil {
			return Result{}, err
		}
		if i > 0 && step <= steps[i-1] {
			return Result{}, &usererr.Error{Field: "--steps", Problem: fmt.Sprintf("%d comes after %d", step, steps[i-1]), Fix: "give rising percentages, for example 10,25,50"}
		}
	}
	if len(steps) == 0 {
		return Result{}, &usererr.Error{Field: "--steps", Problem: "is missing", Fix: "give rising percentages, for example 10,25,50"}
	}
	return c.run(ctx, command{
		look: func(ctx context.Context, j *job) (Result, bool, error) {
			result, done, err := j.lookShift(ctx, steps)
			return j.admitted(ctx, nil, result, done, err)
		},
		act: func(ctx context.Context, j *job) (Result, error) { return j.shift(ctx, steps, pause) },
	})
}

func (j *job) lookShift(ctx context.Context, steps []int) (Result, bool, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return Result{}, false, err
	}
	r := j.ledger.Release
	last := steps[len(steps)-1]
	switch {
	case r == nil:
		return Result{}, false, &StageError{fmt.Errorf("%w: begin one with canary", release.ErrNoRelease)}
	case r.Stage == release.StagePromoting, r.Stage == release.StagePromoted:
		return j.result("shift", "release %s is past it (stage %s): nothing to do", r.ID, r.Stage), true, nil
	case r.Stage != release.StageCanary && r.Stage != release.StageVerified:
		return Result{}, false, &StageError{fmt.Errorf("release %s is at stage %s: only a canary with traffic gets more", r.ID, r.Stage)}
	case r.Stage == release.StageVerified && r.Verdict.Outcome != release.Healthy:
		return Result{}, false, &StageError{fmt.Errorf("release %s was judged %s (%s): only a healthy one gets more traffic", r.ID, r.Verdict.Outcome, r.Verdict.Reason)}
	}
	status, err := j.status(ctx)
	if err != nil {
		return Result{}, false, err
	}
	if r.Weight > last || r.Weight == last && status.Weights != nil && int(status.Weights.Canary) == last {
		return j.result("shift", "release %s has %d %% of the traffic: nothing to do", r.ID, r.Weight), true, nil
	}
	return Result{}, false, nil
}

func (j *job) shift(ctx context.Context, steps []int, pause time.Duration) (Result, error) {
	r := j.ledger.Release
	for i, step := range steps {
		if step < r.Weight {
			continue
		}
		if err := j.applyCanary(ctx, step); err != nil {
			return Result{}, err
		}
		if err := j.waitTrack(ctx, release.Canary, r.Image); err != nil {
			return Result{}, err
		}
		if err := j.ledger.Shift(step, j.By, j.now()); err != nil {
			return Result{}, err
		}
		if err := j.writeState(ctx); err != nil { // before the route: what is live never exceeds what is written
			return Result{}, err
		}
		if err := j.route(ctx, step); err != nil {
			return Result{}, err
		}
		if i == len(steps)-1 || j.plan != nil {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
	}
	return j.result("shift", "%s gets %d %% of the traffic", r.Digest(), r.Weight), nil
}
