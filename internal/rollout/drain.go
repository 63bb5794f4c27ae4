package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// waitDrained waits until the canary, at weight 0, gets no more requests.
func (j *job) waitDrained(ctx context.Context) error {
	workload := j.deploymentName(release.Canary)
	if j.Drained == nil {
		return j.settle(j.virtualService(), "the route (with Prometheus it would be seen)")(ctx)
	}
	return j.waiting(ctx, func(ctx context.Context) error {
		if err := j.Drained(ctx, workload); err != nil {
			return fmt.Errorf("%s still gets requests or cannot be seen to have none: %w; its pods are kept; %s", workload, err, j.next())
		}
		j.log(j.track(release.Canary).String(), "gets no more requests: its counters stand still")
		return nil
	})
}

// openPages is how long the pages of a canary that is rolled back can still load its assets, at most.
const openPages = time.Minute

// waitPages waits until nobody asks for the canary's assets any more, or for as long as a rollback can wait.
func (j *job) waitPages(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, openPages)
	defer cancel()
	err := j.waitDrained(bounded)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		j.log(j.track(release.Canary).String(), "open pages still ask for its assets after %s: they have to be loaded again", openPages)
		return nil
	}
	return err
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
