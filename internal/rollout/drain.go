package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

const (
	// drainFor is how long a rollback waits for the callers of a canary that they ought not to call any more.
	drainFor = 30 * time.Second
	// openPages is how long the pages of a canary that is rolled back can still load its assets, at most.
	openPages = time.Minute
)

// waitDrained is the step that waits until the canary, at weight 0, gets no more requests. Its pods are kept until
// then: nothing is wrong with them.
func (j *job) waitDrained(ctx context.Context) error {
	if j.Drained == nil {
		return j.settleRoute(ctx)
	}
	return j.waiting(ctx, func(ctx context.Context) error {
		naming, cancel := context.WithTimeout(ctx, drainFor)
		defer cancel()
		err := j.Drained(naming, j.deploymentName(release.Canary))
		if err != nil && ctx.Err() == nil && naming.Err() != nil {
			j.log(j.track(release.Canary).String(), "still gets requests after %s%s", drainFor, from(j.callers(ctx)))
			err = j.Drained(ctx, j.deploymentName(release.Canary))
		}
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%s still gets requests or cannot be seen to have none%s: %w; its pods are kept; %s",
				j.deploymentName(release.Canary), from(j.callers(context.WithoutCancel(ctx))), err, j.next())
		}
		j.drained()
		return nil
	})
}

func (j *job) drained() {
	j.log(j.track(release.Canary).String(), "gets no more requests: its counters stand still")
}

// drainAtMost is the step that waits until the canary gets no more requests, but no longer than that: nobody who
// calls it, and no Prometheus that is away, keeps a canary that is rolled back.
func (j *job) drainAtMost(limit time.Duration, then string) step {
	return func(ctx context.Context) error {
		if j.Drained == nil || j.planning() {
			return j.settleRoute(ctx)
		}
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		err := j.Drained(bounded, j.deploymentName(release.Canary))
		switch {
		case err == nil:
			j.drained()
		case ctx.Err() != nil:
			return ctx.Err()
		case bounded.Err() != nil:
			j.log(j.track(release.Canary).String(), "still gets requests after %s%s; %s", limit, from(j.callers(ctx)), then)
		default:
			j.log(j.track(release.Canary).String(), "it cannot be seen whether it still gets requests: %v", err)
			return j.settleRoute(ctx)
		}
		return nil
	}
}

// settleRoute gives the data plane time to have the route.
func (j *job) settleRoute(ctx context.Context) error {
	return j.settle(j.router().route(), "the route (with Prometheus it would be seen)")(ctx)
}

// lookFor bounds a look that only serves a message.
const lookFor = 5 * time.Second

// callers are those who may still call a canary without weight: the workloads that do, as Prometheus knows them, and
// the ways past the release's route that the live one leaves.
func (j *job) callers(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	var found []string
	if j.Callers != nil {
		workloads, err := j.Callers(ctx, j.deploymentName(release.Canary))
		if err == nil {
			found = append(found, workloads...)
		}
	}
	if live, err := j.router().read(ctx); err == nil {
		found = append(found, live.ways()...)
	}
	return found
}

// from names callers at the end of a message.
func from(callers []string) string {
	if len(callers) == 0 {
		return ""
	}
	return ", from " + strings.Join(callers, ", ")
}

// settle is the step that gives the data plane time to have a change, where nothing shows that it has it.
func (j *job) settle(o object, what string) step {
	return func(ctx context.Context) error {
		delay := j.SettleDelay
		if delay == 0 {
			delay = DefaultSettleDelay
		}
		j.log(o.String(), "waiting %s for the data plane to have %s", delay, what)
		return j.pause(delay)(ctx)
	}
}

// pause is the step that waits for a time. A plan waits for nothing.
func (j *job) pause(delay time.Duration) step {
	return func(ctx context.Context) error {
		if j.planning() {
			return nil
		}
		select {
		case <-time.After(delay):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
