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

// Guard ends a release that nobody works on any more: it is rolled back, or cleaned up when it was
// promoted. A release whose lock is held by a living job is left alone, as is one that stands still
// for no longer than the limits allow.
func (c *Cluster) Guard(ctx context.Context, limits Limits) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "guard",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			nothing, err := j.lookGuard(ctx, limits)
			return struct{}{}, nothing, err
		},
		start: func(j *job, _ struct{}) error {
			if r := j.ledger.Release; r.Stage != release.StagePromoted {
				return j.startRollback(abandoned(r))
			}
			return nil
		},
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) {
			r := j.ledger.Release
			if r.Stage == release.StagePromoted {
				return j.cleanup(ctx)
			}
			return j.rollback(ctx, abandoned(r))
		},
	})
}

func abandoned(r *release.Release) string {
	return fmt.Sprintf("nobody has worked on it since %s (stage %s)", lastStep(r).Format(time.RFC3339), r.Stage)
}

func lastStep(r *release.Release) time.Time { return r.Steps[len(r.Steps)-1].At }

func (j *job) lookGuard(ctx context.Context, limits Limits) (*Result, error) {
	r := j.ledger.Release
	if r == nil {
		return j.nothing("no release is in flight"), nil
	}
	limit := limits.Dead
	switch r.Stage {
	case release.StageCanary, release.StageVerified, release.StagePromoted: // promoted: it may be baking
		limit = limits.Waiting
	}
	idle := now().Sub(lastStep(r))
	if idle < limit {
		return j.nothing("release %s is at stage %s for %s; %s is allowed", r.ID, r.Stage, idle.Round(time.Second), limit), nil
	}
	if j.locked {
		return nil, nil
	}
	holder, alive, err := j.liveLock(ctx)
	if err != nil || !alive {
		return nil, err
	}
	return j.nothing("release %s is at stage %s; %s works on it", r.ID, r.Stage, holder), nil
}
