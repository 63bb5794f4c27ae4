package rollout

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/our-org/crossbill/internal/release"
)

// measuredAfter is how long after a change of primary's share its HPA may still go by the share before: it looks every
// 15 seconds, at metrics that are up to a minute old, and new pods have none at first.
const measuredAfter = 2 * time.Minute

// followPeriod is how often an HPA that is waited for is looked at.
const followPeriod = 2 * time.Second

// ahead is how much of the traffic primary may get at once, in percent of what its HPA leaves it replicas for. An HPA
// scales up from 110%; an app whose target leaves it less room than this is overloaded whenever its traffic grows.
const ahead = 125

// routeToPrimary is the step that gives primary all of the traffic. Its HPA has measured less until now, and takes
// replicas away until it measures what primary serves. Where it may take many, the traffic comes back in parts, each
// a little more than what primary keeps replicas for, and the next when the HPA has followed.
func (j *job) routeToPrimary(ctx context.Context) error {
	share, err := j.liveShare(ctx)
	if err != nil {
		return err
	}
	kept, hpa, err := j.kept(ctx)
	if err != nil {
		return err
	}
	need := j.ledger.Release.Replicas
	next := max(share, bearable(kept, need))
	if next < 100 {
		left, err := j.firstPart(ctx, forShare(need, next))
		if err != nil {
			return err
		}
		next = max(share, min(next, bearable(left, need)))
	}
	for next < 100 { // so there is an HPA
		if next, err = j.part(ctx, next, hpa.Name); err != nil {
			return err
		}
	}
	if kept < need {
		if err := j.enlarge(ctx, need); err != nil {
			return err
		}
	}
	return j.route(0)(ctx)
}

// part gives primary a part of the traffic, in percent, waits until its HPA has followed, and returns the next one.
func (j *job) part(ctx context.Context, share int, name string) (int, error) {
	j.log(j.track(release.Primary).String(), "gets %d%% of the traffic, and more when HorizontalPodAutoscaler %s has followed, which may take replicas away until it measures that", share, name)
	if err := j.enlarge(ctx, forShare(j.ledger.Release.Replicas, share)); err != nil {
		return 0, err
	}
	hpa, err := j.hpaNow(ctx)
	if err != nil {
		return 0, err
	}
	before := 0.0
	if hpa != nil {
		before, _ = measures(hpa, ofPods)
	}
	if err := j.route(100 - share)(ctx); err != nil {
		return 0, err
	}
	return j.followed(ctx, share, before)
}

// firstPart gives primary at least so many replicas, and returns how many it has once all are ready: an HPA that forgets
// sooner than it says may have left it fewer, and has not measured that these are enough. The ledger has by then that the
// canary had all of the traffic: whoever goes on, or rolls back, finds a weight that does not say so.
func (j *job) firstPart(ctx context.Context, want int32) (int32, error) {
	if j.uncommitted() {
		if err := j.commit(ctx); err != nil {
			return 0, err
		}
	}
	if err := j.enlarge(ctx, want); err != nil {
		return 0, err
	}
	return j.waited[release.Primary], nil
}

// noteFound is the step that notes, where a job died before it could, that the canary has had all of the traffic: since
// when is not known, so since promotion began.
func (j *job) noteFound(ctx context.Context) error {
	r := j.ledger.Release
	if j.planning() || r.Stage != release.StagePromoting || movedBefore(r) {
		return nil
	}
	share, err := j.liveShare(ctx)
	if err != nil || share >= slices.Min(sharesSince(r, now())) {
		return err
	}
	began := r.Steps[slices.IndexFunc(r.Steps, func(s release.Step) bool { return s.Stage == release.StagePromoting })]
	r.Steps = append(r.Steps, release.Step{Stage: release.StagePromoting, At: began.At, By: j.By, Weight: 100})
	return nil
}

// enlarge gives primary at least so many replicas, and waits until all that it has are ready. What its HPA takes away
// meanwhile, it finds dispensable.
func (j *job) enlarge(ctx context.Context, want int32) error {
	if _, err := j.grow(ctx, release.Primary, want); err != nil {
		return err
	}
	return j.waitTrack(release.Primary, j.ledger.Release.Image)(ctx)
}

// bearable is the share of the traffic, in percent, that so many replicas bear until there are more, of those that all
// of it needs.
func bearable(kept, need int32) int {
	return whole(float64(kept) * ahead / float64(max(1, need)))
}

// whole is a share of the traffic in whole percent, from 1 to 100. The last twentieth is no step of its own.
func whole(percent float64) int {
	if percent >= 95 {
		return 100
	}
	return max(1, int(percent))
}

// kept is how many of the replicas that all of the traffic needs primary keeps until its HPA measures it, with that
// HPA: all of them where none scales it.
func (j *job) kept(ctx context.Context) (int32, *autoscalingv2.HorizontalPodAutoscaler, error) {
	need := j.ledger.Release.Replicas
	if j.planning() {
		return need, nil, nil
	}
	hpa, err := j.hpaOf(ctx, j.deploymentName(release.Primary))
	if err != nil || hpa == nil || !scales(hpa) {
		return need, nil, err
	}
	return leaves(hpa, j.ledger.Release, now(), j.shrinks), hpa, nil
}

// hpaNow is primary's HPA with its status of now; nil when there is none.
func (j *job) hpaNow(ctx context.Context) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	j.hpas = nil
	return j.hpaOf(ctx, j.deploymentName(release.Primary))
}

// scales says whether an HPA can change anything: one that has no metrics does not.
func scales(hpa *autoscalingv2.HorizontalPodAutoscaler) bool {
	for _, c := range hpa.Status.Conditions {
		if (c.Type == autoscalingv2.ScalingActive || c.Type == autoscalingv2.AbleToScale) && c.Status == corev1.ConditionFalse {
			return false
		}
	}
	return true
}

// leaves is how many of the replicas that all of the traffic needs an HPA leaves primary for the time being: what the
// largest share needed that it has measured within its window, what it measures outside of primary's pods, and no fewer
// than its bounds and policies allow. One that was seen to shrink primary earlier has a shorter window than it says: it has
// forgotten everything.
func leaves(hpa *autoscalingv2.HorizontalPodAutoscaler, r *release.Release, at time.Time, shrinks bool) int32 {
	since := at.Add(-max(0, window(hpa)-measuredAfter))
	if shrinks {
		since = at
	}
	largest := slices.Max(sharesSince(r, since))
	measured := (r.Replicas*int32(largest) + 50) / 100 // what all of it needs is rounded up already
	if has := r.PrimaryReplicas; has > 0 && largest > 0 && portion(has*100, largest) < r.Replicas {
		measured = min(measured, has) // before promotion; else it had as many as the largest share needs, rounded
	}
	outside, _ := measures(hpa, func(m autoscalingv2.MetricSpec) bool { return !ofPods(m) })
	return min(r.Replicas, max(fewest(hpa), measured, int32(outside), r.Replicas-removable(hpa, r.Replicas)))
}

// sharesSince are the shares of the traffic, in percent, that primary has had since a time, as the ledger has them: the
// last one is that of now, unless promotion has already given some back.
func sharesSince(r *release.Release, since time.Time) []int {
	var shares []int
	share := 100
	for _, step := range r.Steps {
		if step.Weight == 0 {
			continue
		}
		if step.At.After(since) { // until then it had the share before
			shares = append(shares, share)
		}
		share = 100 - step.Weight
	}
	return append(shares, share)
}

// fewest is how many replicas an HPA leaves at least.
func fewest(hpa *autoscalingv2.HorizontalPodAutoscaler) int32 {
	if hpa.Spec.MinReplicas != nil {
		return *hpa.Spec.MinReplicas
	}
	return 1
}

// window is how long an HPA looks back before it scales down.
func window(hpa *autoscalingv2.HorizontalPodAutoscaler) time.Duration {
	if b := hpa.Spec.Behavior; b != nil && b.ScaleDown != nil && b.ScaleDown.StabilizationWindowSeconds != nil {
		return time.Duration(*b.ScaleDown.StabilizationWindowSeconds) * time.Second
	}
	return 5 * time.Minute // kube-controller-manager's default
}

// removable is how many of so many replicas an HPA's policies allow it to remove until it has measured: all without
// policies (autoscaling/v2, HPAScalingRules).
func removable(hpa *autoscalingv2.HorizontalPodAutoscaler, has int32) int32 {
	b := hpa.Spec.Behavior
	if b == nil || b.ScaleDown == nil {
		return has
	}
	choose := autoscalingv2.MaxChangePolicySelect
	if b.ScaleDown.SelectPolicy != nil {
		choose = *b.ScaleDown.SelectPolicy
	}
	if choose == autoscalingv2.DisabledPolicySelect {
		return 0
	}
	if len(b.ScaleDown.Policies) == 0 {
		return has
	}
	many, few := int32(0), has
	for _, p := range b.ScaleDown.Policies {
		takes := float64(has) // of an unknown kind
		times := math.Ceil(measuredAfter.Seconds() / float64(max(1, p.PeriodSeconds)))
		switch p.Type {
		case autoscalingv2.PodsScalingPolicy:
			takes = float64(p.Value) * times
		case autoscalingv2.PercentScalingPolicy:
			takes = float64(has) * (1 - math.Pow(1-min(1, float64(p.Value)/100), times))
		}
		n := int32(min(float64(has), math.Ceil(takes)))
		many, few = max(many, n), min(few, n)
	}
	if choose == autoscalingv2.MinChangePolicySelect {
		return few
	}
	return many
}

// followed waits until primary's HPA measures what primary serves at a share, in percent, and has given it the replicas
// for it, and returns the share that these bear. It must have measured less before, or meanwhile: then what it measures is
// no share before, as primary's has only fallen until promotion. An HPA that has had the time to measure, and gives no
// more, finds them enough.
func (j *job) followed(ctx context.Context, share int, before float64) (int, error) {
	least := j.needs() * float64(share) / 100 / tolerance
	for deadline := now().Add(measuredAfter); ; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(followPeriod):
		}
		hpa, err := j.hpaNow(ctx)
		if err != nil || hpa == nil {
			return 100, err
		}
		if !scales(hpa) { // it has no metrics of pods that have just started
			if now().Before(deadline) {
				continue
			}
			return 100, nil
		}
		primary, err := j.liveTrack(ctx, release.Primary)
		switch {
		case err != nil:
			return 0, err
		case primary == nil:
			return 0, fmt.Errorf("%s not found: somebody has deleted it; %s", j.track(release.Primary), j.next())
		}
		has := float64(replicasOf(primary))
		serves, read := measures(hpa, ofPods)
		measured, _ := measures(hpa, anyMetric)
		followed := before < least && serves >= least && has >= math.Ceil(measured/tolerance)
		if read {
			before = min(before, serves)
		}
		if !followed && now().Before(deadline) { // it may still measure a share before
			continue
		}
		bears := ahead * float64(share) / 100 // at least, if its metrics cannot be read
		if measured > 0 {
			keeps := min(has, max(math.Ceil(measured), float64(fewest(hpa)))) // it may take the rest away
			bears = max(bears, min(bears*keeps/measured, 2*float64(share)))
		}
		if serves > 0 { // another version may need more or less for the same traffic
			j.measured = serves * 100 / float64(share)
		}
		return max(share+1, whole(bears)), j.waitTrack(release.Primary, j.ledger.Release.Image)(ctx)
	}
}

// needs is how many replicas all of the traffic needs: not rounded, as an HPA's would be, where primary's HPA has measured it.
func (j *job) needs() float64 {
	if j.measured > 0 {
		return j.measured
	}
	return float64(j.ledger.Release.Replicas)
}

// measure keeps what all of the traffic needs by what primary's HPA measures at a share that primary has had for a while.
// It may still measure a larger share.
func (j *job) measure(hpa *autoscalingv2.HorizontalPodAutoscaler, s sizes, need int32) {
	if s.share > 0 {
		j.measured = min(s.measures(hpa)*100/float64(s.share), float64(need))
	}
}

// tolerance is by how much an HPA lets its target be exceeded (kube-controller-manager's default).
const tolerance = 1.1

// measures is how many replicas some of an HPA's metrics ask for, as it read them last, and whether it has read any. Its
// status has them in the order of its spec (pkg/controller/podautoscaler/horizontal.go, computeReplicasForMetrics).
func measures(hpa *autoscalingv2.HorizontalPodAutoscaler, of func(autoscalingv2.MetricSpec) bool) (replicas float64, read bool) {
	for i, spec := range hpa.Spec.Metrics {
		if i >= len(hpa.Status.CurrentMetrics) {
			break
		}
		target, current := metricTarget(spec), metricValue(hpa.Status.CurrentMetrics[i])
		if target != nil && current != nil && of(spec) {
			replicas, read = max(replicas, ratio(*target, *current)*float64(hpa.Status.CurrentReplicas)), true
		}
	}
	return replicas, read
}

func anyMetric(autoscalingv2.MetricSpec) bool { return true }

// ofPods says whether a metric is one of the pods that an HPA scales. The others measure all of the traffic, or something else.
func ofPods(m autoscalingv2.MetricSpec) bool { return m.External == nil && m.Object == nil }

// ratio is how much of its target a metric has.
func ratio(target autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) float64 {
	switch {
	case target.AverageUtilization != nil && *target.AverageUtilization > 0 && current.AverageUtilization != nil:
		return float64(*current.AverageUtilization) / float64(*target.AverageUtilization)
	case target.AverageValue != nil && !target.AverageValue.IsZero() && current.AverageValue != nil:
		return current.AverageValue.AsApproximateFloat64() / target.AverageValue.AsApproximateFloat64()
	case target.Value != nil && !target.Value.IsZero() && current.Value != nil:
		return current.Value.AsApproximateFloat64() / target.Value.AsApproximateFloat64()
	}
	return 0
}

func metricTarget(m autoscalingv2.MetricSpec) *autoscalingv2.MetricTarget {
	switch {
	case m.Resource != nil:
		return &m.Resource.Target
	case m.ContainerResource != nil:
		return &m.ContainerResource.Target
	case m.Pods != nil:
		return &m.Pods.Target
	case m.Object != nil:
		return &m.Object.Target
	case m.External != nil:
		return &m.External.Target
	}
	return nil
}

func metricValue(m autoscalingv2.MetricStatus) *autoscalingv2.MetricValueStatus {
	switch {
	case m.Resource != nil:
		return &m.Resource.Current
	case m.ContainerResource != nil:
		return &m.ContainerResource.Current
	case m.Pods != nil:
		return &m.Pods.Current
	case m.Object != nil:
		return &m.Object.Current
	case m.External != nil:
		return &m.External.Current
	}
	return nil
}
