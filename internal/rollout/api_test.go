package rollout_test

import (
	"context"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// judge puts a verdict on the release in flight.
func judge(ctx context.Context, c *rollout.Cluster, outcome release.VerdictOutcome) (rollout.Result, error) {
	return judgeAnd(ctx, c, outcome, false)
}

// judgeAnd puts a verdict on the release in flight, and rolls it back when it is unhealthy and that is asked for.
func judgeAnd(ctx context.Context, c *rollout.Cluster, outcome release.VerdictOutcome, rollBack bool) (rollout.Result, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return rollout.Result{}, err
	}
	return judgeAs(ctx, c, status, outcome, rollBack)
}

// judgeAs puts a verdict on the release that somebody has looked at.
func judgeAs(ctx context.Context, c *rollout.Cluster, status *rollout.Status, outcome release.VerdictOutcome, rollBack bool) (rollout.Result, error) {
	v := release.Verdict{}
	if status.Release != nil {
		v = status.Release.Subject()
	}
	v.Outcome, v.Reason, v.At = outcome, "a test", time.Now()
	return c.Judge(ctx, v, rollBack)
}
