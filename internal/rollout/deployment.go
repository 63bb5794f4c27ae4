package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// applyDeployment applies a track's Deployment and returns what is live before and after. shape, when given, makes of what
// is live what else is desired: the number of replicas, a note.
func (j *job) applyDeployment(ctx context.Context, desired *appsv1.Deployment, shape func(live, desired *appsv1.Deployment) error) (before, after *appsv1.Deployment, err error) {
	o := j.deployment(desired.Name)
	return change(ctx, j, o, func(live *appsv1.Deployment) (*write, error) {
		if live != nil {
			if err := j.appliable(live, desired); err != nil {
				return nil, err
			}
		}
		shaped := desired.DeepCopy()
		carryBound(live, shaped)
		if shape != nil {
			if err := shape(live, shaped); err != nil {
				return nil, err
			}
		}
		return j.apply(shaped), nil
	})
}

// appliable refuses a Deployment that is not a release's to apply.
func (j *job) appliable(live, desired *appsv1.Deployment) error {
	if err := j.notForeign(live); err != nil {
		return err
	}
	return sameSelector(live, desired)
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

// desired is what the release in flight gives a track, without a number of replicas. This is the one place that says so.
func (j *job) desired(ctx context.Context, track release.Track) (*appsv1.Deployment, error) {
	if j.ledger.Release.Return != nil {
		return j.returned(ctx, track)
	}
	return j.Manifests.Track(track, j.Namespace, j.ledger.Release.Image)
}

// applyCanary is the step that applies the canary's Deployment with as many replicas as it needs, which may depend on
// how many it has: never fewer than that, and at least one.
func (j *job) applyCanary(size func(has int32) int32) step {
	return func(ctx context.Context) error {
		r := j.ledger.Release
		desired, err := j.desired(ctx, release.Canary)
		if err != nil {
			return err
		}
		_, after, err := j.applyDeployment(ctx, desired, func(live, desired *appsv1.Deployment) error {
			has := int32(0)
			if live != nil {
				has = replicasOf(live)
			}
			desired.Spec.Replicas = new(max(1, has, size(has)))
			return nil
		})
		if err != nil {
			return err
		}
		j.canarySize = replicasOf(after)
		j.log(j.track(release.Canary).String(), "applied with %d %s of %s", replicasOf(after), plural(int(replicasOf(after)), "replica"), r.Digest())
		return nil
	}
}

// replicasOf is how many replicas a Deployment asks for; 1 when it is nil or does not say.
func replicasOf(d *appsv1.Deployment) int32 {
	if d == nil || d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// applyPrimary puts the release's digest on primary.
func (j *job) applyPrimary(ctx context.Context) (*appsv1.Deployment, error) {
	r := j.ledger.Release
	desired, err := j.desired(ctx, release.Primary)
	if err != nil {
		return nil, err
	}
	canary, err := j.provenCanary(ctx)
	if err != nil {
		return nil, err
	}
	before, after, err := j.applyDeployment(ctx, desired, func(live, desired *appsv1.Deployment) error {
		if err := j.bindPrevious(live, desired); err != nil {
			return err
		}
		return j.bindAhead(canary, live, desired)
	})
	if err != nil {
		return nil, err
	}
	j.log(j.track(release.Primary).String(), "applied with %s", r.Digest())
	if err := j.proven(after, canary); err != nil {
		return nil, err
	}
	if after, err = j.keepPod(ctx, after); err != nil {
		return nil, err
	}
	return after, j.sizePrimary(ctx, before, after)
}

// sizePrimary gives primary the manifest's number of replicas, where nobody else has one. What it has more is taken away
// when it is not needed: never here.
func (j *job) sizePrimary(ctx context.Context, before, live *appsv1.Deployment) error {
	want := j.Manifests.Deployment.Spec.Replicas
	if want == nil || replicasOf(live) >= *want && live.Spec.Replicas != nil {
		return nil
	}
	hpa, err := j.hpaOf(ctx, live.Name)
	switch {
	case err != nil:
		return err
	case hpa != nil:
		j.log(j.track(release.Primary).String(), "its replicas are an HPA's: left alone")
		return nil
	case j.planning() && before == nil: // only the plan has made it
		return nil
	}
	return j.resize(ctx, live.Name, *want)
}

// shrinkPrimary takes away what primary has more than the manifest gives it, once it has all of the traffic: if its
// number is a manifest's, and neither an HPA's nor somebody's.
func (j *job) shrinkPrimary(ctx context.Context) error {
	want := j.Manifests.Deployment.Spec.Replicas
	if want == nil || j.ledger.Release.Replicas <= *want {
		return nil
	}
	live, err := j.liveTrack(ctx, release.Primary)
	if err != nil || live == nil || replicasOf(live) <= *want {
		return err
	}
	hpa, err := j.hpaOf(ctx, live.Name)
	if err != nil || hpa != nil {
		return err
	}
	if !sizedByManifest(live) {
		j.log(j.track(release.Primary).String(), "keeps its %d replicas, which somebody else gave it; the manifest has %d", replicasOf(live), *want)
		return nil
	}
	return j.resize(ctx, live.Name, *want)
}

// sizedByManifest says whether the number of a Deployment's replicas is what a manifest gave it.
func sizedByManifest(d *appsv1.Deployment) bool {
	return slices.ContainsFunc(d.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == sizeManager && e.FieldsV1 != nil && strings.Contains(e.FieldsV1.GetRawString(), `"f:replicas"`)
	})
}

// resize gives a Deployment a number of replicas.
func (j *job) resize(ctx context.Context, name string, replicas int32) error {
	o := j.deployment(name)
	_, _, err := change(ctx, j, o, func(live *appsv1.Deployment) (*write, error) {
		if live == nil {
			return nil, errors.New("somebody has deleted it")
		}
		return j.applySize(replicas), nil
	})
	return err
}

// deleteDeployment deletes a Deployment; its pods go first.
func (j *job) deleteDeployment(ctx context.Context, name string) error {
	o := j.deployment(name)
	before, after, err := change(ctx, j, o, func(live *appsv1.Deployment) (*write, error) {
		if live == nil || live.DeletionTimestamp != nil {
			return nil, nil
		}
		return j.remove(metav1.DeletePropagationForeground), nil
	})
	if err == nil && before != after {
		j.log(o.String(), "deleting")
	}
	return err
}
