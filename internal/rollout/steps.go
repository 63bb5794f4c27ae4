package rollout

import (
	"context"
	"fmt"

	"github.com/our-org/crossbill/internal/release"
)

// Give takes a step of the release's plan that gives the canary something, by its index: the canary is made ready for it,
// the ledger notes it, and then the route has it. A step that is taken is not taken again; if the job that took it died
// before the route had it, this finishes that work, and what the canary is judged by begins anew.
func (c *Cluster) Give(ctx context.Context, step int) (Result, error) {
	return run(ctx, c, command[bool]{
		name:  "step",
		look:  func(ctx context.Context, j *job) (bool, *Result, error) { return j.lookGive(ctx, step) },
		start: func(j *job, _ bool) error { j.notePassed(); return nil },
		act: func(ctx context.Context, j *job, taken bool) (Result, error) {
			result, err := j.give(ctx, step, taken)
			return j.backAfterHook(ctx, result, err)
		},
	})
}

// lookGive says whether the ledger has the step already, and the route does not.
func (j *job) lookGive(ctx context.Context, step int) (taken bool, nothing *Result, err error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return false, nil, err
	}
	if taken, err = j.ledger.Giveable(step); err != nil {
		return false, nil, &StageError{err}
	}
	if err := j.bind(ctx); err != nil {
		return false, nil, err
	}
	if err := j.sameTemplate(); err != nil {
		return false, nil, err
	}
	r := j.ledger.Release
	if taken {
		status, err := j.status(ctx)
		if err == nil && status.routed(r.Weight) && status.mirrored(r.Mirror) && status.Match.Same(r.Match) {
			nothing = j.nothing("%s is done: nothing to do", r.Plan.Step(step))
		}
		return taken, nothing, err
	}
	if err := j.pass(ctx, r); err != nil {
		return false, nil, err
	}
	if err := j.admit(ctx, r); err != nil {
		return false, nil, err
	}
	return false, nil, j.lookHooks(ctx, r, release.BeforeStep)
}

func (j *job) give(ctx context.Context, step int, taken bool) (Result, error) {
	r := j.ledger.Release
	if err := j.ensureCopies(ctx); err != nil {
		return Result{}, err
	}
	if weight := r.Plan[step].Weight; !taken && weight > 0 {
		if err := j.hooks(release.BeforeStep, weight)(ctx); err != nil {
			return Result{}, err
		}
	}
	primary, err := j.liveTrack(ctx, release.Primary)
	if err != nil {
		return Result{}, err
	}
	share, note := r.Needs(), func() error { return j.ledger.Weighed(j.By, now()) }
	if !taken {
		share, note = max(share, r.Plan[step].Needs()), func() error { return j.ledger.Give(step, j.By, now()) }
	}
	if err := j.raise(ctx, primary, share, note); err != nil {
		return Result{}, err
	}
	return j.result("%s: %s gets %s", r.Plan.Step(step), r.Digest(), r.Gets()), nil
}

// Pass notes that a step of the release's plan which gives the canary nothing is over, by its index: a pause whose time has
// passed, or an approval. An approval is asked of the gate; the error of one that is still waited for is a
// *release.AwaitsApprovalError.
func (c *Cluster) Pass(ctx context.Context, step int) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "step",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			nothing, err := j.lookPass(ctx, step)
			return struct{}{}, nothing, err
		},
		start: func(j *job, _ struct{}) error {
			j.notePassed()
			if err := j.ledger.PassStep(step, j.By, now()); err != nil {
				return &StageError{err}
			}
			return nil
		},
		noted: func(j *job) Result { return j.result("%s: done", j.ledger.Release.Plan.Step(step)) },
	})
}

func (j *job) lookPass(ctx context.Context, step int) (nothing *Result, err error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return nil, err
	}
	over, err := j.ledger.Passable(step, now())
	switch {
	case err != nil:
		return nil, &StageError{err}
	case over:
		return j.nothing("%s is done: nothing to do", j.ledger.Release.Plan.Step(step)), nil
	case !j.ledger.Release.Plan[step].Approve:
		return nil, nil
	case j.Gate == nil:
		return nil, fmt.Errorf("%s: there is no gate to ask", j.ledger.Release.Plan.Step(step))
	}
	return nil, j.pass(ctx, j.ledger.Release)
}
