package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// A baseline is a few new pods of what primary runs, beside a canary that is compared with them: both begin cold. Its pods have
// primary's labels, so that no route changes. They never count as primary's: primary has the capacity for all of its traffic
// without them, and they are gone before it gets another version.

const baseline = manifest.BaselineTrack

// lookBaseline refuses a baseline that could not be made, before the lock.
func (j *job) lookBaseline(ctx context.Context, want *release.Release, primary *appsv1.Deployment) error {
	switch {
	case !want.Baseline:
		return nil
	case primary == nil:
		j.log(j.track(baseline).String(), "is not made: the app's first release has nothing to be compared with")
		want.Baseline = false
		return nil
	case j.Git != nil:
		return &usererr.Error{Field: "canary.baseline", Problem: "gitops.store is git, and a baseline is in no Git: it is written to the cluster", Fix: "set gitops.store to cluster, or do without a baseline; nothing was changed"}
	}
	o := j.track(baseline)
	live, err := j.liveTrack(ctx, baseline)
	switch {
	case lacksPermission(err):
		return &usererr.Error{Field: "canary.baseline", Problem: err.Error(), Fix: "let this account get, list, watch, create, patch and delete " + o.String() + ", as in k8s/guard/rbac.yaml, or do without a baseline; nothing was changed"}
	case err != nil:
		return fmt.Errorf("%w; nothing was changed", err)
	case live != nil && j.foreign(live):
		return j.foreignError(live, "give it another name, or do without canary.baseline; nothing was changed")
	}
	desired, err := j.Manifests.Baseline(primary)
	if err != nil {
		return err
	}
	desired.Spec.Replicas = new(int32)
	_, err = j.store().dryApply(ctx, j, desired)
	return err
}

// ensureBaseline is the step that gives a release with a baseline as many ready pods of it as its canary was applied with. A
// creation cannot name what it follows, and what is made late would get primary's traffic at once. So it is made without pods,
// and gets them if nobody has taken the lock until then: whoever takes it later stamps what is there, so that the second write
// is a conflict.
func (j *job) ensureBaseline(ctx context.Context) error {
	if !j.ledger.Release.Baseline {
		return nil
	}
	o := j.track(baseline)
	primary, err := j.liveTrack(ctx, release.Primary)
	if err == nil && primary == nil {
		err = fmt.Errorf("%s not found: somebody has deleted it; %s", j.track(release.Primary), j.next())
	}
	if err != nil {
		return err
	}
	desired, err := j.Manifests.Baseline(primary)
	if err != nil {
		return err
	}
	delete(desired.Spec.Template.Annotations, restartedAt)
	image, want := j.Manifests.Image(primary), j.canarySize
	before, _, err := j.applyDeployment(ctx, desired, func(live, desired *appsv1.Deployment) error {
		has := int32(0)
		if live != nil {
			has = replicasOf(live)
		}
		if j.planning() { // in one write
			has = max(has, want)
		}
		desired.Spec.Replicas = new(has)
		return nil
	})
	if err != nil {
		return err
	}
	if before == nil {
		j.log(o.String(), "made of what primary runs, %s: the canary is compared with it", release.Shortly(image))
		if !drains(primary) {
			j.say(o.String(), "a rollback ends its pods under primary's traffic, and no container of them has a preStop hook: an app that ends at once on SIGTERM loses requests")
		}
	}
	if j.planning() {
		return nil
	}
	if err := j.holds(ctx); err != nil {
		return err
	}
	if _, err := j.grow(ctx, baseline, want); err != nil {
		return err
	}
	if err := j.waitRollout(baseline, image)(ctx); err != nil {
		return err
	}
	if release.DigestOf(image) == "" { // what a tag names is not known
		image = ""
	}
	if err := j.waitEndpoints(baseline, image)(ctx); err != nil {
		return err
	}
	return j.waitTrack(release.Canary, j.ledger.Release.Image)(ctx) // it may have failed meanwhile
}

// baselineSize is how many replicas the baseline of the release has; 0 without one.
func (j *job) baselineSize(ctx context.Context) (int32, error) {
	if !j.ledger.Release.Baseline {
		return 0, nil
	}
	live, err := recent[*appsv1.Deployment](ctx, j, j.track(baseline))
	if live == nil || err != nil {
		return 0, err
	}
	return replicasOf(live), nil
}

// baselineDrift is what somebody else has changed of the baseline: then a verdict is on less than the release promises, or on
// something else; "" when nothing is, or that is not known.
func (s *Status) baselineDrift() string {
	live, known := s.live[baseline]
	primary := s.live[release.Primary]
	switch {
	case !known || s.Release.Stage == release.StagePromoted:
		return ""
	case s.Tracks[baseline] == nil || live.DeletionTimestamp != nil:
		return "the Deployment of baseline is gone, which the canary is compared with"
	case replicasOf(live) == 0:
		return "baseline has 0 replicas: the canary is compared with nothing"
	case primary == nil:
		return ""
	}
	different, err := differences(primary, live)
	switch {
	case err != nil:
		return err.Error()
	case different.Empty():
		return ""
	}
	return "baseline does not run what primary runs, but another " + strings.Join(topmost(different), ", ")
}

// shareBaseline notes which part of primary's share a baseline gets: each ready pod gets as much.
func (s *Status) shareBaseline() {
	if primary, beside := s.Tracks[release.Primary], s.Tracks[baseline]; primary != nil && beside != nil && beside.Ready > 0 {
		all := primary.Ready + beside.Ready
		beside.Share = (s.Weights.Primary*beside.Ready + all/2) / all
	}
}

// measures is how many replicas primary's share of the traffic needs, by the metrics of the pods that its HPA finds. Beside a
// baseline these are averaged over its pods too. An HPA multiplies the average by the number of all these pods, and so finds
// what primary needs alone; but while the average is within its tolerance, it leaves primary as it is
// (pkg/controller/podautoscaler/replica_calculator.go).
func (s sizes) measures(hpa *autoscalingv2.HorizontalPodAutoscaler) float64 {
	measured, _ := measures(hpa, ofPods)
	return measured * float64(s.primary+s.beside) / float64(max(1, s.primary))
}

// oldDrained waits until neither primary nor its baseline gets requests.
func (j *job) oldDrained(ctx context.Context) error {
	if !j.ledger.Release.Baseline {
		return j.Drained(ctx, j.deploymentName(release.Primary))
	}
	beside := make(chan error, 1)
	go func() { beside <- j.Drained(ctx, j.deploymentName(baseline)) }()
	err := j.Drained(ctx, j.deploymentName(release.Primary))
	return errors.Join(err, <-beside)
}

// removeBaseline is the step that deletes a baseline, whoever has left it, and waits until its pods are gone: primary may get
// another version then.
func (j *job) removeBaseline(ctx context.Context) error {
	left, err := j.baselineLeft(ctx)
	if err != nil {
		return err
	}
	if !left {
		if j.planning() {
			j.Plan.removeMade(j.track(baseline))
		}
		return nil
	}
	if err := j.deleteDeployment(ctx, j.deploymentName(baseline)); err != nil {
		return err
	}
	return j.waitGone(baseline)(ctx)
}

// removeBesides is the same where a release ends, which may have none.
func (j *job) removeBesides(ctx context.Context) error {
	if r := j.ledger.Release; r != nil && !r.Baseline {
		return nil
	}
	return j.removeBaseline(ctx)
}

// stampBaseline is stampOne of the release's baseline. The way back does not depend on the permission for it, which came later
// than those for the tracks: no promotion goes on without it.
func (j *job) stampBaseline(ctx context.Context) error {
	if r := j.ledger.Release; r == nil || !r.Baseline {
		return nil
	}
	err := j.stampOne(ctx, j.track(baseline))
	if lacksPermission(err) {
		j.log(j.track(baseline).String(), "%v; going on without it", err)
		return nil
	}
	return err
}

// baselineLeft says whether there is a baseline: the release's, or one whose ledger was lost. Where this account may not look, or
// releases are commits, none has made one.
func (j *job) baselineLeft(ctx context.Context) (bool, error) {
	if j.Git != nil {
		return false, nil
	}
	live, err := j.liveTrack(ctx, baseline)
	if r := j.ledger.Release; lacksPermission(err) && (r == nil || !r.Baseline) {
		return false, nil
	}
	return live != nil && !j.foreign(live), err
}
