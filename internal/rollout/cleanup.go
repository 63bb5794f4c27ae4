package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Cleanup drains and deletes the canary of a promoted release, or gives it the pods that primary ran before, and ends the
// release.
func (c *Cluster) Cleanup(ctx context.Context) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "cleanup",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			nothing, err := j.lookCleanup(ctx)
			return struct{}{}, nothing, err
		},
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) { return j.cleanup(ctx) },
	})
}

func (j *job) lookCleanup(ctx context.Context) (*Result, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return nil, err
	}
	r := j.ledger.Release
	if r == nil {
		if late, err := j.orphaned(ctx); late && j.ledger.Warm != nil || err != nil { // it was kept, and its time is over
			return nil, err
		}
		return j.nothing("no release is in flight: nothing to do"), nil
	}
	if r.Stage != release.StagePromoted {
		return nil, &StageError{fmt.Errorf("release %s is at stage %s: cleanup follows promote; to end the release now run rollback", r.ID, r.Stage)}
	}
	return nil, nil
}

func (j *job) cleanup(ctx context.Context) (Result, error) {
	r := j.ledger.Release
	if r == nil {
		return j.removeOrphan(ctx)
	}
	after := j.hooks(release.AfterPromotion, 0) // of a promotion whose job has died
	if r.Return != nil {
		after = j.afterRollback
	}
	if err := inOrder(ctx, j.routeBack(free), j.leaveCanary, j.collect, after); err != nil {
		return Result{}, err
	}
	outcome, failed := release.OutcomePromoted, j.failedAt(release.AfterPromotion)
	if r.Return != nil {
		outcome, failed = release.OutcomeReturned, j.failedAt(release.AfterRollback)
	}
	if warm := j.ledger.Warm; warm != nil {
		return j.finish(outcome, "%s is released; the pods of release %s are kept until %s%s", r.Digest(), warm.Release, warm.Until.Format(time.RFC3339), failed)
	}
	return j.finish(outcome, "%s is released; the canary is gone%s", r.Digest(), failed)
}

// removeCanary is the step that deletes the canary, which has no weight any more, when it is drained, and gives back
// what others own.
func (j *job) removeCanary(drain step) step {
	return func(ctx context.Context) error {
		return inOrder(ctx,
			j.deleteDrained(drain),
			j.waitGone(release.Canary),
			j.handBack,
		)
	}
}

// deleteDrained is the step that deletes the canary's Deployment, if there is one, when it is drained.
func (j *job) deleteDrained(drain step) step {
	return func(ctx context.Context) error {
		j.ledger.Warm = nil
		live, err := j.liveTrack(ctx, release.Canary)
		if err == nil && live == nil && j.planning() {
			j.Plan.removeMade(j.track(release.Canary))
		}
		if err != nil || live == nil {
			return err
		}
		if live.DeletionTimestamp == nil { // else its pods end already
			if err := drain(ctx); err != nil {
				return err
			}
		}
		return j.deleteDeployment(ctx, live.Name)
	}
}
