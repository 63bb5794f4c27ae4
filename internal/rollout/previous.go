package rollout

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// What a rollback restores is what primary ran. The template from before is kept beside the ledger, in a ConfigMap that
// more accounts may write than Deployments; the write that replaces it notes its hash on the Deployment. A kept template
// without that hash is not restored, and holds no rollback up (invariant 5).

// previousAnnotation is the hash of the pod template that promotion replaced, its image, and the release that did it. An
// older crossbill does not say the last.
const previousAnnotation = "crossbill.our-org.github.com/previous-template"

// note is what promotion has noted on primary of what it replaced.
type note struct {
	hash, image string
	run         string // "" of an older crossbill's
	there       bool
}

func noteOf(live *appsv1.Deployment) (n note) {
	words := strings.Fields(live.Annotations[previousAnnotation])
	if len(words) < 2 {
		return note{}
	}
	n = note{hash: words[0], image: words[1], there: true}
	if len(words) > 2 {
		n.run = words[2]
	}
	return n
}

// runOf names one run of a release: one that has ended may start again under its name.
func runOf(r *release.Release) string { return fmt.Sprintf("%s@%d", r.ID, r.StartedAt.UnixMilli()) }

// replaced says whether this release's promotion has written primary. The image alone does not show it: a release can
// change no more than the pod template or what pods read.
func (j *job) replaced(live *appsv1.Deployment) bool {
	r := j.ledger.Release
	if !j.store().binds() && r.Previous == r.Image {
		return j.Manifests.Image(live) == r.Image && j.previous != "" && !j.asBefore(live)
	}
	if n := noteOf(live); n.run != "" && n.run != runOf(r) || n.run == "" && r.Previous == r.Image {
		return false
	}
	return j.Manifests.Image(live) == r.Image
}

// bindPrevious notes on primary, as promotion writes it, what it ran before. A promotion that goes on after a crash leaves
// the note of the one that wrote it.
func (j *job) bindPrevious(live, desired *appsv1.Deployment) error {
	r := j.ledger.Release
	if live == nil || r.Stage != release.StagePromoting || !j.store().binds() {
		return nil
	}
	note := live.Annotations[previousAnnotation]
	if note == "" || !j.replaced(live) {
		text, err := templateText(live)
		if err != nil {
			return err
		}
		note = hashOf(text) + " " + j.Manifests.Image(live) + " " + runOf(r)
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
	n := noteOf(live)
	return n.there && n.hash != hashOf(j.previous) && j.replaced(live)
}

// restorable is what rollback applies to a primary that is not as before: the template that is kept, if it is the one that
// promotion replaced; else the manifest's, with the image that promotion noted. Nil: no promotion has written primary,
// whatever the ledger says, so that it runs what it ran.
func (j *job) restorable(ctx context.Context, live *appsv1.Deployment) (*appsv1.Deployment, error) {
	n := note{}
	if live != nil {
		n = noteOf(live)
	}
	o := j.track(release.Primary).String()
	switch {
	case n.run != "" && n.run == runOf(j.ledger.Release) && n.hash == hashOf(j.previous): // also if somebody has changed it since
		return j.previousPrimary(ctx, live)
	case !j.store().binds() && live != nil && j.previous != "" && j.ledger.Release.Reached(release.StagePromoted): // it has replaced it for certain
		return j.previousPrimary(ctx, live)
	case n.run != "" && !j.replaced(live): // the note is an earlier promotion's
		j.log(o, "the ledger says that promotion has replaced its pod template, and it has not: it stays as it is")
		return nil, nil
	case live == nil, n.hash == hashOf(j.previous):
		return j.previousPrimary(ctx, live)
	}
	canary, err := j.liveTrack(ctx, release.Canary)
	switch {
	case n.run == "" && err == nil && canary != nil && j.unlike(live, canary):
		j.log(o, "the ledger says that promotion has replaced its pod template, and it does not run what the canary runs: it stays as it is")
		return nil, nil
	case n.there && !j.forged(live): // the note is an earlier promotion's
		j.log(o, "the ledger says that promotion has replaced its pod template, and it does not run the release's image: it stays as it is")
		return nil, nil
	case n.there:
		return j.noted(live)
	}
	if j.store().binds() {
		j.log(o, "its pod template before the release is not bound to it, as with a promotion by an older crossbill; it is restored as it was kept")
	}
	return j.previousPrimary(ctx, live)
}

// unlike says whether two Deployments' pods run something else.
func (j *job) unlike(a, b *appsv1.Deployment) bool {
	if j.Manifests.Image(a) != j.Manifests.Image(b) {
		return true
	}
	different, err := differences(a, b)
	return err == nil && !different.Empty()
}

// noted is primary with the image that promotion noted, where the template that is kept is not to be believed.
func (j *job) noted(live *appsv1.Deployment) (*appsv1.Deployment, error) {
	image := noteOf(live).image
	j.log(j.track(release.Primary).String(), "the pod template that %s keeps is not the one that promotion replaced: somebody has changed it, and it is not restored; it gets %s in what it has", j.ledgerName(), image)
	desired, err := ownFields(live)
	if err != nil {
		return nil, err
	}
	desired.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	pod := &desired.Spec.Template.Spec
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			if containers[i].Image == j.ledger.Release.Image {
				containers[i].Image = image
			}
		}
	}
	return desired, nil
}
