package rollout

import (
	"context"
	"encoding/json"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/our-org/crossbill/internal/release"
)

// leaveFor is how long promotion waits for those who still call a primary without weight.
const leaveFor = 2 * time.Minute

// shelterFor is how long a rollback waits for them: longer than the data plane takes to have the route.
const shelterFor = 15 * time.Second

// behindCanary says whether primary's pods are replaced while the canary has all of the traffic. Of an app that ends at
// once on SIGTERM no request is lost then.
func (j *job) behindCanary() bool { return j.PromoteTraffic != release.Primary }

// moveToCanary is the step that gives the canary all of the traffic, once it has the capacity for it, and waits until
// nobody calls primary any more: its pods can be replaced then.
func (j *job) moveToCanary(image string, drain time.Duration) step {
	return func(ctx context.Context) error {
		need := j.ledger.Release.Replicas
		if _, err := j.grow(ctx, release.Canary, need); err != nil {
			return err
		}
		return inOrder(ctx,
			func(ctx context.Context) error { return j.waitCapacity(ctx, release.Canary, image, need) },
			j.noteAll,
			j.route(100),
			j.waitLeft(drain),
		)
	}
}

// noteAll notes that the canary has all of the traffic from now on. The next commit keeps it.
func (j *job) noteAll(context.Context) error {
	if r := j.ledger.Release; r.Stage == release.StagePromoting && !movedBefore(r) {
		r.Steps = append(r.Steps, release.Step{Stage: release.StagePromoting, At: now(), By: j.By, Weight: 100})
	}
	return nil
}

// movedBefore says whether promotion has replaced primary behind the canary.
func movedBefore(r *release.Release) bool {
	for _, step := range r.Steps {
		if step.Stage == release.StagePromoting && step.Weight == 100 {
			return true
		}
	}
	return false
}

// waitLeft is the step that waits until primary, at weight 0, gets no more requests. Who calls it past the release's
// route does so all the while, and is waited for no longer than that.
func (j *job) waitLeft(limit time.Duration) step {
	return func(ctx context.Context) error {
		if j.Drained == nil || j.planning() {
			return j.settleRoute(ctx)
		}
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		o := j.track(release.Primary).String()
		err := j.oldDrained(bounded)
		switch {
		case err == nil:
			j.log(o, "gets no more requests: its counters stand still")
		case ctx.Err() != nil:
			return ctx.Err()
		case bounded.Err() != nil:
			j.log(o, "still gets requests after %s, past the release's route; its pods are replaced all the same", limit)
		default:
			j.log(o, "it cannot be seen whether it still gets requests: %v", err)
			return j.settleRoute(ctx)
		}
		return nil
	}
}

// asBefore says whether primary has the pod template that it had before promotion.
func (j *job) asBefore(live *appsv1.Deployment) bool {
	if j.previous == "" {
		return j.Manifests.Image(live) == j.ledger.Release.Previous
	}
	var previous corev1.PodTemplateSpec
	return json.Unmarshal([]byte(j.previous), &previous) == nil && apiequality.Semantic.DeepEqual(previous, live.Spec.Template)
}

// sayCapacity says what promotion takes for as long as it lasts, and what it risks.
func (j *job) sayCapacity(live *appsv1.Deployment, need int32) {
	switch {
	case j.behindCanary():
		j.say(j.track(release.Canary).String(), "promotion gives it %d %s, enough for all of the traffic, while primary's pods are replaced behind it; cleanup removes them", need, plural(int(need), "replica"))
	case !drains(live):
		j.say(j.track(release.Primary).String(), "its pods are replaced under traffic, and no container of them has a preStop hook: an app that ends at once on SIGTERM loses requests; with promote.traffic: canary it does not")
	}
}

// drains says whether a Deployment's pods can finish requests before they end, as far as it shows: by a preStop hook of
// a container.
func drains(d *appsv1.Deployment) bool {
	for _, container := range d.Spec.Template.Spec.Containers {
		if container.Lifecycle != nil && container.Lifecycle.PreStop != nil {
			return true
		}
	}
	return false
}
