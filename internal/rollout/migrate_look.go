package rollout

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// What migrate looks for before it changes anything.

// appSelector selects the app's pods, whichever track they are of, as its Service does where that is over both.
func (j *job) appSelector() labels.Selector {
	selector := maps.Clone(j.Manifests.Service.Spec.Selector)
	delete(selector, manifest.TrackLabel)
	return labels.SelectorFromSet(selector)
}

func (j *job) lookMigrate(ctx context.Context, from string) (m migration, done bool, err error) {
	if r := j.ledger.Release; r != nil {
		return m, false, &release.InFlightError{Release: *r}
	}
	selected := j.appSelector()
	served, err := j.lookServed(ctx, from, selected)
	if err != nil {
		return m, false, err
	}
	orphans, err := j.orphanedReplicaSets(ctx, selected) // a migration that died has left them
	if err != nil {
		return m, false, err
	}
	routed, err := j.router().convertible(ctx)
	if err != nil {
		return m, false, err
	}
	m.stale = served.left
	switch {
	case served.primary != nil && served.old == nil && len(m.stale) == 0 && len(orphans) == 0 && routed:
		if owned, err := j.ownsFields(ctx); err != nil || !owned {
			return m, true, err
		}
	case served.primary == nil && served.old == nil && len(orphans) == 0:
		problem := "no Deployment has pods that the Service selects"
		if from != "" {
			problem = fmt.Sprintf("there is no Deployment %q whose pods the Service selects", from)
		}
		return m, false, &usererr.Error{Field: "from", Problem: problem, Fix: "for an app that is not deployed yet run canary: its first release goes straight to primary"}
	}
	if err := j.lookMigrateGitOps(); err != nil {
		return m, false, err
	}
	if served.primary != nil { // started before
		if m.image = j.Manifests.Image(served.primary); release.DigestOf(m.image) == "" {
			return m, false, &usererr.Error{Field: j.track(release.Primary).String(), Problem: "its image is a tag", Fix: "give it the image by digest"}
		}
		m.replicas = replicasOf(served.primary)
	}
	if old, primary := served.old, j.deploymentName(release.Primary); old != nil {
		if err := j.scaledByOthers(ctx, old.Name, primary); err != nil {
			return m, false, err
		}
		m.from, m.replicas = old.Name, max(m.replicas, replicasOf(old))
		if old.Name != primary {
			m.stale = append(m.stale, old.Name)
		}
	}
	m.replicas = max(m.replicas, sizeOf(orphans)) // primary adopts their pods: it must not be smaller
	if m.template = templateOf(served, orphans); m.template == nil {
		return m, false, &usererr.Error{Field: "from", Problem: "nothing is left of what ran before", Fix: "run canary: its first release goes straight to primary"}
	}
	if err := j.checkMigrated(ctx, m.template); err != nil {
		return m, false, err
	}
	if m.image == "" {
		m.image, err = j.runningDigest(ctx, served.old, selected, j.Manifests.RunsIn(m.template.Spec))
		if err == nil && served.old != nil { // else a migration has started, and goes on
			err = j.admit(ctx, &release.Release{Image: m.image})
		}
	}
	return m, false, err
}

// templateOf is the pod template that runs: primary's, when a migration has made it before, else what it is to be made
// from. nil when nothing runs.
func templateOf(served served, orphans []appsv1.ReplicaSet) *corev1.PodTemplateSpec {
	switch {
	case served.primary != nil:
		return &served.primary.Spec.Template
	case served.old != nil:
		return &served.old.Spec.Template
	case len(orphans) == 0:
		return nil
	}
	largest := slices.MaxFunc(orphans, func(a, b appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(sizeOf([]appsv1.ReplicaSet{a}), sizeOf([]appsv1.ReplicaSet{b})), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	return &largest.Spec.Template
}

// checkMigrated refuses manifests that what runs does not fit: primary takes it over as it is.
func (j *job) checkMigrated(ctx context.Context, runs *corev1.PodTemplateSpec) error {
	if container, want := j.Manifests.RunsIn(runs.Spec), j.Manifests.ContainerName(); container != want {
		var names []string
		for _, c := range runs.Spec.Containers {
			names = append(names, c.Name)
		}
		return &usererr.Error{
			Field:   j.track(release.Primary).String() + ": spec.template.spec.containers",
			Problem: fmt.Sprintf("the manifest's container %s is not among those that run (%s)", want, strings.Join(names, ", ")),
			Fix:     "give the container in the manifest the name that it has in the cluster",
		}
	}
	service, err := j.liveService(ctx)
	if err != nil {
		return err
	}
	return j.leads(j.desiredService(), service, []pods{{"the app, as they run,", *runs}}, "the manifest")
}

// served are the Deployments whose pods the Service selects.
type served struct {
	primary, old *appsv1.Deployment
	left         []string // the canary's and the baseline's
}

func (j *job) lookServed(ctx context.Context, from string, selected labels.Selector) (found served, err error) {
	list, err := j.Kube.AppsV1().Deployments(j.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return found, fmt.Errorf("Deployments of %s: %w; nothing was changed", j.Namespace, err)
	}
	desired, err := j.Manifests.Track(release.Primary, j.Namespace, "")
	if err != nil {
		return found, err
	}
	for i := range list.Items {
		d := &list.Items[i]
		switch {
		case d.Name == desired.Name && sameSelector(d, desired) == nil:
			found.primary = d
		case !selected.Matches(labels.Set(d.Spec.Template.Labels)):
		case d.Name == j.deploymentName(release.Canary) && j.foreign(d):
			return found, j.nameFree(d)
		case d.Name == j.deploymentName(release.Canary), d.Name == j.deploymentName(baseline) && !j.foreign(d):
			found.left = append(found.left, d.Name)
		case from != "" && d.Name != from:
		case found.old != nil:
			return found, &usererr.Error{Field: "from", Problem: fmt.Sprintf("the Service selects the pods of Deployments %s and %s", found.old.Name, d.Name), Fix: "name the one that the traffic goes to; delete the others first if nobody needs them"}
		default:
			found.old = d
		}
	}
	return found, nil
}

// orphanedReplicaSets are those without a Deployment whose pods the Service selects.
func (j *job) orphanedReplicaSets(ctx context.Context, selected labels.Selector) ([]appsv1.ReplicaSet, error) {
	sets, err := j.Kube.AppsV1().ReplicaSets(j.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("ReplicaSets of %s: %w; nothing more was changed", j.Namespace, err)
	}
	return slices.DeleteFunc(sets.Items, func(set appsv1.ReplicaSet) bool {
		return metav1.GetControllerOf(&set) != nil || set.DeletionTimestamp != nil || !selected.Matches(labels.Set(set.Spec.Template.Labels))
	}), nil
}

// sizeOf is how many replicas ReplicaSets ask for together.
func sizeOf(sets []appsv1.ReplicaSet) (replicas int32) {
	for _, set := range sets {
		if set.Spec.Replicas != nil {
			replicas += *set.Spec.Replicas
		}
	}
	return replicas
}

// runningDigest is the image that the app's pods run, by the digest that their nodes report.
func (j *job) runningDigest(ctx context.Context, old *appsv1.Deployment, selected labels.Selector, container string) (string, error) {
	pods, err := j.Kube.CoreV1().Pods(j.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selected.String()})
	if err != nil {
		return "", fmt.Errorf("pods of Service %s: %w; nothing was changed", j.Manifests.Service.Name, err)
	}
	if old != nil {
		own, err := metav1.LabelSelectorAsSelector(old.Spec.Selector)
		if err != nil {
			return "", err
		}
		pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
			return !own.Matches(labels.Set(p.Labels)) || p.Labels[manifest.TrackLabel] == string(release.Canary)
		})
	}
	found, err := imagesOf(pods.Items, container)
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		var each []string
		for image, pod := range found {
			each = append(each, fmt.Sprintf("pod %s runs %s", pod, image))
		}
		slices.Sort(each)
		if len(each) == 0 {
			each = []string{"it has none"}
		}
		return "", &usererr.Error{Field: "pods of Service " + j.Manifests.Service.Name, Problem: "they do not all run one image: " + strings.Join(each, ", "), Fix: "finish the rollout that is in progress, or give its Deployment the image by digest where nodes name the same one differently; then run migrate"}
	}
	for image := range found {
		return image, nil
	}
	return "", nil
}

// imagesOf are the images that pods run in the app's container, by digest, each with a pod that runs it. A pod may have
// more containers than its Deployment names: a sidecar is injected.
func imagesOf(pods []corev1.Pod, inContainer string) (map[string]string, error) {
	found := map[string]string{}
	for _, pod := range pods {
		for _, container := range pod.Spec.Containers {
			if container.Name != inContainer {
				continue
			}
			id := ""
			for _, status := range pod.Status.ContainerStatuses {
				if status.Name == container.Name {
					id = status.ImageID
				}
			}
			image, err := byDigest(container.Image, id)
			if err != nil {
				return nil, &usererr.Error{Field: "pod " + pod.Name, Problem: err.Error(), Fix: "give its Deployment the image by digest"}
			}
			found[image] = pod.Name
		}
	}
	return found, nil
}

// byDigest names an image by its digest: its own, or that of the imageID which the node gives. That may be of any repository
// that the node has the same image from, and the image's own may have no such digest.
func byDigest(image, imageID string) (string, error) {
	if release.DigestOf(image) != "" {
		return release.ParseImage("image", image)
	}
	ref, err := name.ParseReference(image)
	pulled, pulledErr := name.NewDigest(pulledAs(imageID))
	switch {
	case err != nil || pulledErr != nil:
		return "", fmt.Errorf("its image %s is a tag, and its node does not say the digest (imageID %q)", image, imageID)
	case pulled.Context().Name() != ref.Context().Name():
		return "", fmt.Errorf("its image %s is a tag, and its node says the digest that it has in another repository (imageID %q)", image, imageID)
	}
	return pulled.Name(), nil
}

// scaledByOthers refuses an HPA that would lose its Deployment.
func (j *job) scaledByOthers(ctx context.Context, old, primary string) error {
	if old == primary {
		return nil
	}
	hpa, err := j.hpaOf(ctx, old)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	if hpa == nil {
		return nil
	}
	return &usererr.Error{Field: "HorizontalPodAutoscaler " + hpa.Name, Problem: fmt.Sprintf("it scales Deployment %s, which goes", old), Fix: "let it scale " + primary + " (that may be done before there is one), then run migrate"}
}
