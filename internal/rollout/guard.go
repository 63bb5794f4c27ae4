package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Limits say how long a release may stand still before Guard ends it.
type Limits struct {
	Dead    time.Duration // in a stage that a job must be at work in
	Waiting time.Duration // with a canary that waits for its verdict, or for its approver
}

// Guard ends a release that nobody works on any more: it is rolled back, or cleaned up when it was promoted. What is
// known to be bad is ended at once: a canary that was judged unhealthy, a rollback that did not finish, a canary of no
// release. A release whose lock is held by a living job is left alone, as is one that stands still for no longer than
// the limits allow.
func (c *Cluster) Guard(ctx context.Context, limits Limits) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "guard",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			nothing, err := j.lookGuard(ctx, limits)
			return struct{}{}, nothing, err
		},
		start: func(j *job, _ struct{}) error {
			if r := j.ledger.Release; r != nil && r.Stage != release.StagePromoted {
				return j.startRollback(abandoned(r))
			}
			return nil
		},
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) {
			r := j.ledger.Release
			switch {
			case r == nil:
				return j.removeOrphan(ctx)
			case r.Stage == release.StagePromoted:
				return j.cleanup(ctx)
			}
			return j.rollback(ctx, abandoned(r))
		},
	})
}

// abandoned is why a release is ended.
func abandoned(r *release.Release) string {
	if judgedBad(r) {
		return fmt.Sprintf("it was judged %s and not rolled back: %s", r.Verdict.Outcome, r.Verdict.Reason)
	}
	return fmt.Sprintf("nobody has worked on it since %s (stage %s)", lastStep(r).Format(time.RFC3339), r.Stage)
}

// judgedBad says whether a release has a verdict from which a rollback ought to have followed.
func judgedBad(r *release.Release) bool {
	return r.Stage == release.StageVerified && r.Verdict != nil && r.Verdict.Outcome == release.Unhealthy
}

func lastStep(r *release.Release) time.Time { return r.Steps[len(r.Steps)-1].At }

func (j *job) lookGuard(ctx context.Context, limits Limits) (*Result, error) {
	r := j.ledger.Release
	if r == nil {
		return j.lookOrphan(ctx)
	}
	limit := limits.Dead
	switch {
	case r.Stage == release.StageRollingBack, judgedBad(r):
		limit = 0
	case r.Return != nil: // nobody is waited for
	case r.Stage == release.StageCanary, r.Stage == release.StageVerified, r.Stage == release.StagePromoted: // promoted: it may be baking
		limit = limits.Waiting
	}
	idle := now().Sub(lastStep(r))
	if idle < limit {
		return j.nothing("release %s is at stage %s for %s; %s is allowed", r.ID, r.Stage, idle.Round(time.Second), limit), nil
	}
	j.goByLedger()
	return j.leaveToTheLiving(ctx, fmt.Sprintf("release %s is at stage %s", r.ID, r.Stage))
}

// lookOrphan looks for what a release has left that no ledger has.
func (j *job) lookOrphan(ctx context.Context) (*Result, error) {
	orphan, err := j.orphaned(ctx)
	if err != nil {
		return nil, err
	}
	if warm := j.ledger.Warm; warm.Lasts(now()) {
		return j.nothing("no release is in flight; the pods of release %s are kept until %s", warm.Release, warm.Until.Format(time.RFC3339)), nil
	}
	if !orphan {
		return j.nothing("no release is in flight"), nil
	}
	return j.leaveToTheLiving(ctx, "a canary or a baseline of no release is left")
}

// leaveToTheLiving is the result of a look while a living job holds the lock; nil when none does.
func (j *job) leaveToTheLiving(ctx context.Context, what string) (*Result, error) {
	if j.locked {
		return nil, nil
	}
	holder, alive, err := j.liveLock(ctx)
	if alive && err == nil {
		alive, err = j.store().answers(ctx)
	}
	if err != nil || !alive {
		return nil, err
	}
	return j.nothing("%s; %s works on it", what, holder), nil
}
