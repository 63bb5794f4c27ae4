package rollout

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// applyDeployment applies a track's Deployment and returns what is live before and after. size, when given,
// computes the number of replicas from what is live.
func (j *job) applyDeployment(ctx context.Context, desired *appsv1.Deployment, size func(live *appsv1.Deployment) int32) (before, after *appsv1.Deployment, err error) {
	o := j.deployment(desired.Name)
	return change(ctx, j, o, func(live *appsv1.Deployment) (write, error) {
		if live != nil {
			if err := sameSelector(live, desired); err != nil {
				return nil, err
			}
		}
		sized := desired.DeepCopy()
		if size != nil {
			sized.Spec.Replicas = new(size(live))
		}
		return j.apply(o, sized), nil
	})
}

// sameSelector refuses a Deployment that was made with another selector: selectors are immutable.
func sameSelector(live, desired *appsv1.Deployment) error {
	if apiequality.Semantic.DeepEqual(live.Spec.Selector, desired.Spec.Selector) {
		return nil
	}
	if track := desired.Spec.Selector.MatchLabels[manifest.TrackLabel]; live.Spec.Selector != nil && live.Spec.Selector.MatchLabels[manifest.TrackLabel] == track {
		return &usererr.Error{
			Field:   "Deployment " + live.Namespace + "/" + live.Name + ": spec.selector",
			Problem: fmt.Sprintf("it is %s in the cluster and %s in the manifest, and selectors cannot be changed", metav1.FormatLabelSelector(live.Spec.Selector), metav1.FormatLabelSelector(desired.Spec.Selector)),
			Fix:     "write the selector that it has into the manifest (the pods may have more labels), or run `crossbill migrate`, which replaces the Deployment while the app serves",
		}
	}
	return &usererr.Error{
		Field:   "Deployment " + live.Namespace + "/" + live.Name,
		Problem: "it was created manually with a selector that does not name its track, and selectors cannot be changed",
		Fix:     "run `crossbill migrate`, which moves it to the two tracks without taking its traffic away",
	}
}

// applyCanary is the step that applies the canary's Deployment, sized from primary's live size and a weight in
// percent.
func (j *job) applyCanary(primary *appsv1.Deployment, weight int) step {
	return func(ctx context.Context) error {
		r := j.ledger.Release
		desired, err := j.Manifests.Track(release.Canary, j.Namespace, r.Image)
		if err != nil {
			return err
		}
		routed := 0 // what primary is relieved of already
		if r.Stage != release.StageStarted {
			routed = r.Weight
		}
		_, after, err := j.applyDeployment(ctx, desired, func(live *appsv1.Deployment) int32 { return CanaryReplicas(primary, live, routed, weight) })
		if err != nil {
			return err
		}
		j.log(j.track(release.Canary).String(), "applied with %d %s of %s", replicasOf(after), plural(int(replicasOf(after)), "replica"), r.Digest())
		return nil
	}
}

// CanaryReplicas is the canary's size for a weight in percent: its share of what the app needs, rounded
// up, at least one, and never less than it has. The app needs what primary has now for the part that
// it still serves: an HPA has shrunk it by what is routed to the canary already.
func CanaryReplicas(primary, canary *appsv1.Deployment, routed, weight int) int32 {
	has := int32(0)
	if canary != nil && canary.Spec.Replicas != nil {
		has = *canary.Spec.Replicas
	}
	served := int32(100 - routed)
	return max(1, has, (replicasOf(primary)*int32(weight)+served-1)/served)
}

// replicasOf is how many replicas a Deployment asks for; 1 when it is nil or does not say.
func replicasOf(d *appsv1.Deployment) int32 {
	if d == nil || d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// applyPrimary puts the release's digest on primary. shrinkable is the HPA that owns primary's replicas and may
// take some away; nil when there is none, or when it does not matter.
func (j *job) applyPrimary(ctx context.Context) (shrinkable *autoscalingv2.HorizontalPodAutoscaler, err error) {
	r := j.ledger.Release
	desired, err := j.Manifests.Track(release.Primary, j.Namespace, r.Image)
	if err != nil {
		return nil, err
	}
	before, after, err := j.applyDeployment(ctx, desired, nil)
	if err != nil {
		return nil, err
	}
	j.log(j.track(release.Primary).String(), "applied with %s", r.Digest())
	return j.sizePrimary(ctx, before, after)
}

// sizePrimary gives primary the manifest's number of replicas. One that an HPA owns is brought back to the
// size that it had when the release started, if the HPA has shrunk it since.
func (j *job) sizePrimary(ctx context.Context, before, live *appsv1.Deployment) (shrinkable *autoscalingv2.HorizontalPodAutoscaler, err error) {
	r, want := j.ledger.Release, j.Manifests.Deployment.Spec.Replicas
	sized := want == nil || live.Spec.Replicas != nil && *live.Spec.Replicas == *want
	if sized && (live.Spec.Replicas == nil || *live.Spec.Replicas >= r.Replicas) {
		return nil, nil
	}
	hpa, err := j.hpaOf(ctx, live.Name)
	switch {
	case err != nil:
		return nil, err
	case hpa != nil && r.Stage == release.StagePromoting:
		_, err := j.regrow(ctx, hpa)
		return hpa, err
	case hpa != nil:
		j.log(j.track(release.Primary).String(), "its replicas are an HPA's: left alone")
		return nil, nil
	case want == nil, j.planning() && before == nil: // only the plan has made it
		return nil, nil
	}
	return nil, j.resize(ctx, live.Name, *want)
}

// resize gives a Deployment a number of replicas.
func (j *job) resize(ctx context.Context, name string, replicas int32) error {
	o := j.deployment(name)
	_, _, err := change(ctx, j, o, func(live *appsv1.Deployment) (write, error) {
		if live == nil {
			return nil, errors.New("somebody has deleted it")
		}
		return j.applySize(o, replicas), nil
	})
	return err
}

// hpaOf is the HPA that scales a Deployment; nil when there is none.
func (j *job) hpaOf(ctx context.Context, deployment string) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	hpas, err := j.Kube.AutoscalingV2().HorizontalPodAutoscalers(j.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("HorizontalPodAutoscalers of %s: %w", j.Namespace, err)
	}
	for i := range hpas.Items {
		if target := hpas.Items[i].Spec.ScaleTargetRef; target.Kind == "Deployment" && target.Name == deployment {
			return &hpas.Items[i], nil
		}
	}
	return nil, nil
}

// regrow brings a primary that its HPA has shrunk back to the size that it had when the release started, or
// as far as the HPA allows, and says whether it had to. The HPA continues from there.
func (j *job) regrow(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler) (grown bool, err error) {
	o := j.track(release.Primary)
	want := min(j.ledger.Release.Replicas, hpa.Spec.MaxReplicas)
	_, _, err = change(ctx, j, o, func(live *appsv1.Deployment) (write, error) {
		switch {
		case live == nil:
			return nil, errors.New("somebody has deleted it")
		case live.Spec.Replicas != nil && *live.Spec.Replicas >= want:
			return nil, nil
		}
		grown = true // even if the answer is lost: what was added has to get ready
		return j.patch(o, patchOp{"replace", "/spec/replicas", want}), nil
	})
	if grown && err == nil {
		j.log(o.String(), "scaled back to %d replicas, which it had when the release started: HorizontalPodAutoscaler %s had shrunk it", want, hpa.Name)
	}
	return grown, err
}

// deleteDeployment deletes a Deployment; its pods go first.
func (j *job) deleteDeployment(ctx context.Context, name string) error {
	o := j.deployment(name)
	before, after, err := change(ctx, j, o, func(live *appsv1.Deployment) (write, error) {
		if live == nil || live.DeletionTimestamp != nil {
			return nil, nil
		}
		return j.remove(o, metav1.DeletePropagationForeground), nil
	})
	if err == nil && before != after {
		j.log(o.String(), "deleting")
	}
	return err
}
