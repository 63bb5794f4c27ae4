package rollout

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// What a rollback restores is what primary ran. The template from before is kept beside the ledger, in a ConfigMap that
// more accounts may write than Deployments; the write that replaces it notes its hash on the Deployment. A kept template
// without that hash is not restored, and holds no rollback up (invariant 5).

// previousAnnotation is the hash of the pod template that promotion replaced, and its image.
const previousAnnotation = "crossbill.our-org.github.com/previous-template"

// bindPrevious notes on primary, as promotion writes it, what it ran before. A promotion that goes on after a crash leaves
// the note of the one that wrote it.
func (j *job) bindPrevious(live, desired *appsv1.Deployment) error {
	r := j.ledger.Release
	if live == nil || r.Stage != release.StagePromoting {
		return nil
	}
	note := live.Annotations[previousAnnotation]
	if note == "" || j.Manifests.Image(live) != r.Image {
		text, err := templateText(live)
		if err != nil {
			return err
		}
		note = hashOf(text) + " " + j.Manifests.Image(live)
	}
	desired.Annotations = maps.Clone(desired.Annotations)
	if desired.Annotations == nil {
		desired.Annotations = map[string]string{}
	}
	desired.Annotations[previousAnnotation] = note
	return nil
}

func hashOf(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// forged says whether the template that is kept is not the one that this release's promotion has replaced on primary.
func (j *job) forged(live *appsv1.Deployment) bool {
	hash, _, noted := strings.Cut(live.Annotations[previousAnnotation], " ")
	return noted && hash != hashOf(j.previous) && j.Manifests.Image(live) == j.ledger.Release.Image
}

// restorable is what rollback applies to a primary that is not as before: the template that is kept, if it is the one that
// promotion replaced; else the manifest's, with the image that promotion noted. Nil: no promotion has written primary,
// whatever the ledger says, so that it runs what it ran.
func (j *job) restorable(ctx context.Context, live *appsv1.Deployment) (*appsv1.Deployment, error) {
	if live == nil {
		return j.previousPrimary(live)
	}
	hash, _, noted := strings.Cut(live.Annotations[previousAnnotation], " ")
	if hash == hashOf(j.previous) {
		return j.previousPrimary(live)
	}
	o := j.track(release.Primary).String()
	canary, err := j.liveTrack(ctx, release.Canary)
	switch {
	case err == nil && canary != nil && j.Manifests.Image(canary) != j.Manifests.Image(live):
		j.log(o, "the ledger says that promotion has replaced its pod template, and it does not run the canary's image: it stays as it is")
		return nil, nil
	case noted && !j.forged(live): // the note is an earlier promotion's
		j.log(o, "the ledger says that promotion has replaced its pod template, and it does not run the release's image: it stays as it is")
		return nil, nil
	case noted:
		return j.noted(live)
	}
	j.log(o, "its pod template before the release is not bound to it, as with a promotion by an older crossbill; it is restored as it was kept")
	return j.previousPrimary(live)
}

// noted is primary with the image that promotion noted, where the template that is kept is not to be believed.
func (j *job) noted(live *appsv1.Deployment) (*appsv1.Deployment, error) {
	_, image, _ := strings.Cut(live.Annotations[previousAnnotation], " ")
	j.log(j.track(release.Primary).String(), "the pod template that %s keeps is not the one that promotion replaced: somebody has changed it, and it is not restored; it gets the manifest's with %s", j.ledgerName(), image)
	if !j.Manifests.NamesOnly {
		desired, err := j.Manifests.Track(release.Primary, j.Namespace, image)
		if err == nil {
			desired.Spec.Selector = live.Spec.Selector.DeepCopy()
		}
		return desired, err
	}
	desired, err := ownFields(live)
	if err != nil {
		return nil, err
	}
	desired.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	for i, container := range desired.Spec.Template.Spec.Containers {
		if container.Image == j.ledger.Release.Image {
			desired.Spec.Template.Spec.Containers[i].Image = image
		}
	}
	return desired, nil
}
