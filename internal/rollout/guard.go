package rollout

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// Limits say how long a release may stand still before Guard ends it.
type Limits struct {
	Dead    time.Duration // in a stage that a job must be at work in
	Waiting time.Duration // with a canary that waits for its verdict, or for a person
}

// Guard ends a release that nobody works on any more: it is rolled back, or cleaned up when it was
// promoted. A release whose lock is held by a living job is left alone, as is one that stands still
// for no longer than the limits allow.
func (c *Cluster) Guard(ctx context.Context, limits Limits) (Result, error) {
	return c.run(ctx, command{
		look: func(ctx context.Context, j *job) (Result, bool, error) { return j.lookGuard(ctx, limits) },
		act: func(ctx context.Context, j *job) (Result, error) {
			r := j.ledger.Release
			if r.Stage == release.StagePromoted {
				return j.cleanup(ctx)
			}
			return j.rollback(ctx, fmt.Sprintf("nobody has worked on it since %s (stage %s)", lastStep(r).Format(time.RFC3339), r.Stage))
		},
	})
}

func lastStep(r *release.Release) time.Time { return r.Steps[len(r.Steps)-1].At }

func (j *job) lookGuard(ctx context.Context, limits Limits) (Result, bool, error) {
	r := j.ledger.Release
	if r == nil {
		return j.result("guard", "no release is in flight"), true, nil
	}
	limit := limits.Dead
	switch r.Stage {
	case release.StageCanary, release.StageVerified, release.StagePromoted: // promoted: it may be baking
		limit = limits.Waiting
	}
	idle := j.now().Sub(lastStep(r))
	if idle < limit {
		return j.result("guard", "release %s is at stage %s for %s; %s is allowed", r.ID, r.Stage, idle.Round(time.Second), limit), true, nil
	}
	if j.locked {
		return Result{}, false, nil
	}
	lease, err := j.Kube.CoordinationV1().Leases(j.Namespace).Get(ctx, j.stateName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return Result{}, false, fmt.Errorf("lock (Lease %s/%s): %w; nothing was changed", j.Namespace, j.stateName(), err)
	}
	if holder, alive := holderOf(lease); err == nil && alive {
		return j.result("guard", "release %s is at stage %s; %s works on it", r.ID, r.Stage, holder), true, nil
	}
	return Result{}, false, nil
}
