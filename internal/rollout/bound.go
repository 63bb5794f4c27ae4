package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// What a return puts back is what primary ran as a release that ended well. Its pod template is kept in the ledger, in a
// ConfigMap that more accounts may write than Deployments; so promotion notes the hash of image and template on primary, and a
// return believes only what is noted there.

// boundAnnotation are the hashes of the releases that primary has run, newest first.
const boundAnnotation = "crossbill.our-org.github.com/releases"

// podOf is a Deployment's pod template as primary has it, as the ledger keeps it: without the time of a restart.
func podOf(d *appsv1.Deployment) (string, error) {
	template := d.Spec.Template.DeepCopy()
	if delete(template.Annotations, restartedAt); len(template.Annotations) == 0 {
		template.Annotations = nil
	}
	template.Labels = maps.Clone(template.Labels)
	metav1.SetMetaDataLabel(&template.ObjectMeta, manifest.TrackLabel, string(release.Primary))
	text, err := json.Marshal(template)
	return string(text), err
}

// bindingOf is what primary notes of a release.
func bindingOf(image, pod string) string { return hashOf(image + "\n" + pod) }

// bound are the hashes that a Deployment notes.
func bound(d *appsv1.Deployment) []string { return strings.Fields(d.Annotations[boundAnnotation]) }

// boundTo says whether a Deployment has run an image with a pod template as a release of its own.
func (j *job) boundTo(d *appsv1.Deployment, image, pod string) bool {
	return !j.store().binds() || slices.Contains(bound(d), bindingOf(image, pod))
}

// carryBound keeps what primary notes, whoever applies it: a field that an apply does not name is given up.
func carryBound(live, desired *appsv1.Deployment) {
	if live != nil && live.Annotations[boundAnnotation] != "" {
		setBound(desired, bound(live))
	}
}

func setBound(desired *appsv1.Deployment, hashes []string) {
	desired.Annotations = maps.Clone(desired.Annotations)
	if len(hashes) == 0 {
		delete(desired.Annotations, boundAnnotation)
		return
	}
	metav1.SetMetaDataAnnotation(&desired.ObjectMeta, boundAnnotation, strings.Join(hashes, " "))
}

// withBinding are the hashes of a Deployment and another one, as many as can be returned to, beside the release in flight.
func (j *job) withBinding(live *appsv1.Deployment, hash string) []string {
	hashes := []string{hash}
	if live != nil {
		hashes = append(hashes, without(bound(live), hash)...)
	}
	return hashes[:min(len(hashes), j.keepReleases()+1)]
}

func without(hashes []string, hash string) []string {
	return slices.DeleteFunc(slices.Clone(hashes), func(h string) bool { return h == hash })
}

// bindAhead notes on primary what promotion is about to make of it: what the canary has. That spares a write of its own.
func (j *job) bindAhead(canary, live, desired *appsv1.Deployment) error {
	if canary == nil || !j.store().binds() {
		return nil
	}
	pod, err := podOf(canary)
	if err == nil {
		setBound(desired, j.withBinding(live, bindingOf(j.ledger.Release.Image, pod)))
	}
	return err
}

// keepPod notes what primary runs with the release in flight, in the ledger as it will be committed and, where that was not
// known ahead, on primary.
func (j *job) keepPod(ctx context.Context, after *appsv1.Deployment) (*appsv1.Deployment, error) {
	r := j.ledger.Release
	pod, err := podOf(after)
	if err != nil || j.planning() {
		return after, err
	}
	r.Pod = pod
	if j.boundTo(after, r.Image, pod) {
		return after, nil
	}
	o := j.track(release.Primary)
	_, after, err = change(ctx, j, o, func(live *appsv1.Deployment) (*write, error) {
		if live == nil {
			return nil, errors.New("somebody has deleted it")
		}
		note := strings.Join(j.withBinding(live, bindingOf(r.Image, pod)), " ")
		return j.patch(patchOp{"add", "/metadata/annotations/" + strings.ReplaceAll(boundAnnotation, "/", "~1"), note}), nil
	})
	return after, err
}

// unbind takes back what promotion has noted of the release that a rollback ends: nobody is to return to it. What ended well
// before stays.
func (j *job) unbind(live, desired *appsv1.Deployment) error {
	if live == nil {
		return nil
	}
	pod, err := podOf(live)
	image := j.ledger.Release.Image
	if err != nil || slices.ContainsFunc(j.ledger.Returnable(), func(f release.Finished) bool { return f.Image == image && f.Pod == pod }) {
		return err
	}
	setBound(desired, without(bound(live), bindingOf(image, pod)))
	return nil
}
