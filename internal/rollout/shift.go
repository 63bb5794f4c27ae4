package rollout

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/our-org/crossbill/internal/release"
)

// Shift raises the canary's share of the traffic in steps, in percent, rising. Before each step the
// canary is sized for it and every pod of it is a ready endpoint; after it the pause is waited out.
// Steps that the release has passed are left out. The release has to be judged again at its new share.
func (c *Cluster) Shift(ctx context.Context, steps []int, pause time.Duration) (Result, error) {
	if err := release.CheckSteps("steps", steps); err != nil {
		return Result{}, err
	}
	return run(ctx, c, command[struct{}]{
		name: "shift",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			nothing, err := j.lookShift(ctx, steps[len(steps)-1])
			if nothing == nil && err == nil {
				err = j.pass(ctx, j.ledger.Release)
			}
			if nothing == nil && err == nil {
				err = j.admit(ctx, j.ledger.Release)
			}
			if nothing == nil && err == nil {
				err = j.lookHooks(ctx, j.ledger.Release, release.BeforeStep)
			}
			return struct{}{}, nothing, err
		},
		start: func(j *job, _ struct{}) error { j.notePassed(); return nil },
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) {
			result, err := j.shift(ctx, steps, pause)
			return j.backAfterHook(ctx, result, err)
		},
	})
}

func (j *job) lookShift(ctx context.Context, last int) (*Result, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return nil, err
	}
	r := j.ledger.Release
	switch {
	case r == nil:
		return nil, &StageError{fmt.Errorf("%w: start one with canary", release.ErrNoRelease)}
	case r.Stage == release.StagePromoting, r.Stage == release.StagePromoted:
		return j.nothing("release %s is past it (stage %s): nothing to do", r.ID, r.Stage), nil
	case r.Stage != release.StageCanary && r.Stage != release.StageVerified:
		return nil, &StageError{fmt.Errorf("release %s is at stage %s: only a canary with traffic gets more", r.ID, r.Stage)}
	case r.Stage == release.StageVerified && r.Verdict.Outcome != release.Healthy:
		return nil, &StageError{fmt.Errorf("release %s was judged %s (%s): only a healthy one gets more traffic", r.ID, r.Verdict.Outcome, r.Verdict.Reason)}
	}
	if err := r.Shiftable(last); err != nil {
		return nil, &StageError{fmt.Errorf("%w: approve it first, or roll back", err)}
	}
	if err := j.bind(ctx); err != nil {
		return nil, err
	}
	if err := j.sameTemplate(); err != nil {
		return nil, err
	}
	status, err := j.status(ctx)
	if err != nil {
		return nil, err
	}
	if r.Weight > last || r.Weight == last && status.routed(last) {
		return j.nothing("release %s has %s: nothing to do", r.ID, r.Gets()), nil
	}
	return nil, nil
}

func (j *job) shift(ctx context.Context, steps []int, pause time.Duration) (Result, error) {
	r := j.ledger.Release
	if err := j.ensureCopies(ctx); err != nil {
		return Result{}, err
	}
	for i, weight := range steps {
		if weight < r.Weight {
			continue
		}
		if weight > r.Weight {
			if err := j.hooks(release.BeforeStep, weight)(ctx); err != nil {
				return Result{}, err
			}
		}
		primary, err := j.liveTrack(ctx, release.Primary)
		if err != nil {
			return Result{}, err
		}
		if err := j.raise(ctx, primary, weight, func() error { return j.ledger.Shift(weight, j.By, now()) }); err != nil {
			return Result{}, err
		}
		if i == len(steps)-1 {
			break
		}
		if err := j.pause(pause)(ctx); err != nil {
			return Result{}, err
		}
	}
	return j.result("%s gets %s", r.Digest(), r.Gets()), nil
}

// raise gives the canary a larger share of the traffic, in percent, as the ledger has it after a change to it.
func (j *job) raise(ctx context.Context, primary *appsv1.Deployment, share int, change func() error) error {
	s, hpa, err := j.sizes(ctx, primary, primaryShare(j.ledger.Release))
	if err != nil {
		return err
	}
	need := int32(0)
	return inOrder(ctx,
		j.applyCanary(func(has int32) int32 {
			s.canary = has
			need = j.within(s.need(), s, hpa)
			return forShare(need, share)
		}),
		j.waitTrack(release.Canary, j.ledger.Release.Image),
		j.ensureBaseline,
		func(context.Context) error {
			j.note(need, s)
			return change()
		},
		j.commit, // before the route: what is live never exceeds what is in the ledger
		func(ctx context.Context) error { return j.route(j.ledger.Release.Weight)(ctx) },
	)
}
