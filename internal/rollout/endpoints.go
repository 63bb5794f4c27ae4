package rollout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// selector is the one of a track's Deployment: labels of the app's may be other apps' as well. The pods of a baseline have
// primary's labels, and are not primary's.
func (j *job) selector(track release.Track) string {
	switch track {
	case release.Primary:
		return withoutBaseline(j.ownSelector(track))
	case baseline:
		return j.ownSelector(release.Primary) + "," + manifest.BaselineLabel
	}
	return j.ownSelector(track)
}

// withoutBaseline leaves a baseline's pods out of those that primary's selector selects.
func withoutBaseline(selector string) string { return selector + ",!" + manifest.BaselineLabel }

func (j *job) ownSelector(track release.Track) string {
	if j.ledger != nil && j.ledger.Release != nil && j.ledger.Release.Objects != nil { // the manifests may be later ones
		if of, ok := j.ledger.Release.Objects.Selectors[track]; ok { // else it is a preview's
			return labels.SelectorFromSet(of).String()
		}
	}
	selector, err := j.Manifests.Selector(track)
	if err != nil {
		return labels.Nothing().String() // it was checked when the manifests were read
	}
	return selector.String()
}

// waitEndpoints is the step that waits until every pod of a track is a ready endpoint of the Service, and that
// there is one: only then may a route point at it.
func (j *job) waitEndpoints(track release.Track, image string) step {
	return func(ctx context.Context) error {
		return j.patiently(ctx, func(ctx context.Context, seen func(mark)) error {
			pods, err := j.untilEndpoints(ctx, track, seen)
			if err != nil {
				return err
			}
			j.log(j.service().String(), "%d ready %s of %s", len(pods), plural(len(pods), "endpoint"), track)
			return j.checkImages(ctx, track, image, pods)
		})
	}
}

func (j *job) untilEndpoints(ctx context.Context, track release.Track, seen func(mark)) (pods []corev1.Pod, err error) {
	ready := map[string]sets.Set[string]{} // by slice
	err = until(ctx, j.watchEndpoints(track), &discoveryv1.EndpointSlice{}, nil, func(event watch.Event) (bool, error) {
		if slice, ok := event.Object.(*discoveryv1.EndpointSlice); ok {
			ready[slice.Name] = readyPods(slice)
			if event.Type == watch.Deleted {
				delete(ready, slice.Name)
			}
		}
		all := sets.New[string]()
		for _, names := range ready {
			all = all.Union(names)
		}
		var err error
		if pods = j.takePods(track); pods == nil {
			pods, err = j.livePods(ctx, track) // each time: pods come and go while this waits
		}
		if err != nil {
			return false, err
		}
		missing := 0
		for _, pod := range pods {
			if !all.Has(pod.Name) {
				missing++
			}
		}
		seen(mark{ready: len(pods) - missing})
		return len(pods) > 0 && missing == 0, nil
	})
	if errors.Is(context.Cause(ctx), errNoProgress) && err != nil {
		return nil, &NotReadyError{Deployment: j.deploymentName(track), Reason: "its pods are not ready endpoints of Service " + j.Manifests.Service.Name, Details: j.explain(context.WithoutCancel(ctx), track)}
	}
	if err != nil {
		err = fmt.Errorf("EndpointSlices of %s: %w", j.Manifests.Service.Name, err)
	}
	return pods, err
}

// watchEndpoints lists and watches the EndpointSlices that have the endpoints of tracks.
func (j *job) watchEndpoints(of ...release.Track) *cache.ListWatch {
	return listWatch(j.Kube.DiscoveryV1().EndpointSlices(j.Namespace), j.slicesOf(of...))
}

// slicesOf selects the EndpointSlices that have the endpoints of tracks.
func (j *job) slicesOf(of ...release.Track) metav1.ListOptions {
	services := sets.New[string]()
	for _, track := range of {
		services.Insert(j.router().endpoints(track))
	}
	if services.Len() == 1 {
		return labeled(discoveryv1.LabelServiceName + "=" + sets.List(services)[0])
	}
	return labeled(discoveryv1.LabelServiceName + " in (" + strings.Join(sets.List(services), ",") + ")")
}

// livePods are a track's pods that are to serve: not those that end, or have ended.
func (j *job) livePods(ctx context.Context, track release.Track) ([]corev1.Pod, error) {
	pods, err := j.podsOf(ctx, track)
	if err != nil {
		return nil, fmt.Errorf("pods of %s: %w", j.deploymentName(track), err)
	}
	return slices.DeleteFunc(pods, func(p corev1.Pod) bool { return leaving(&p) }), nil
}

// podsOf are all pods of a track, whatever has become of them.
func (j *job) podsOf(ctx context.Context, track release.Track) ([]corev1.Pod, error) {
	pods, err := j.Kube.CoreV1().Pods(j.Namespace).List(ctx, labeled(j.selector(track)))
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// checkImages asks the pods what they run, by the imageID that their nodes give: the release's image, where that is an
// index, the part of it for the node's platform, or the same image by another digest. An image of "" is not checked: the
// way back.
func (j *job) checkImages(ctx context.Context, track release.Track, image string, pods []corev1.Pod) error {
	container, want := j.Manifests.ContainerName(), release.DigestOf(image)
	others := otherImages(pods, container, want)
	if image == "" || len(others) == 0 {
		return nil
	}
	if j.Parts != nil {
		parts, err := j.Parts(ctx, image)
		if err != nil {
			j.log("image", "the registry does not say what %s is made of, so that it is not known whether the pods run it: %v", want, err)
			return nil
		}
		for _, part := range parts {
			delete(others, part)
		}
	}
	asked := askFor(pods, container, want)
	notReady := &NotReadyError{Deployment: j.deploymentName(track), Reason: "its pods do not run " + want}
	for _, digest := range slices.Sorted(maps.Keys(others)) {
		other := others[digest]
		same, err := j.sameImage(ctx, image, other.image, asked)
		switch {
		case err != nil && ctx.Err() != nil && !errors.Is(context.Cause(ctx), errNoProgress):
			return fmt.Errorf("image of pod %s: %w", other.pod, err)
		case err != nil && asked && !refused(err):
			j.log("image", "the registry does not say what %s is made of, so that it is not known whether pod %s runs %s: %v", digest, other.pod, want, err)
		case err != nil: // or something has put another image in the pod, and nobody says that it is the same
			notReady.Details = append(notReady.Details, fmt.Sprintf("pod %s runs %s, of which the registry does not say that it is the same image: %v", other.pod, digest, err))
		case !same:
			notReady.Details = append(notReady.Details, fmt.Sprintf("pod %s runs %s: something on the way to the node puts another image in its place", other.pod, digest))
		default:
			j.log("image", "the node of pod %s knows it by another digest, %s: it is the same image", other.pod, digest)
		}
	}
	if len(notReady.Details) == 0 {
		return nil
	}
	return notReady
}

// sameImage asks the registry whether what a node reports is the image under another digest. A node has an image once,
// by the digest of its configuration, and reports one of the references that it has pulled it by, not the one that the pod
// asks for (containerd 2: internal/cri/store/image and server/container_status.go; CRI-O: server/container_create.go).
func (j *job) sameImage(ctx context.Context, image, reported string, asked bool) (bool, error) {
	if j.Configs == nil {
		return false, nil
	}
	want, err := j.configsOf(ctx, image, image)
	if err != nil {
		return false, err
	}
	got, err := j.configsOf(ctx, image, reported)
	return err == nil && sameConfigs(want, got, asked), err
}

// configsOf asks the registry once: what a digest names does not change.
func (j *job) configsOf(ctx context.Context, image, reported string) ([]string, error) {
	if configs, ok := j.configs[reported]; ok {
		return configs, nil
	}
	configs, err := j.Configs(ctx, image, reported)
	if err == nil && j.configs != nil {
		j.configs[reported] = configs
	}
	return configs, err
}

// refused says whether a registry has answered that it does not have an image, or does not give it to this account. Other errors
// say nothing about the image.
func refused(err error) bool {
	answer, ok := errors.AsType[*transport.Error](err)
	return ok && slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound}, answer.StatusCode)
}

// sameConfigs says whether an image whose configurations a node reports is the one wanted, whatever the node's platform is.
// Pods that ask for the wanted one run it: one of its configurations that is reported as well is enough. Others may run any
// that is reported.
func sameConfigs(want, got []string, asked bool) bool {
	wanted := sets.New(want...)
	return wanted.HasAny(got...) && (asked || wanted.HasAll(got...))
}

// askFor says whether all pods ask for a digest: admission has put no other one in its place.
func askFor(pods []corev1.Pod, container, digest string) bool {
	return !slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		return !slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
			return c.Name == container && release.DigestOf(c.Image) == digest
		})
	})
}

// reported is an image as a node names it, and a pod that runs it.
type reported struct{ image, pod string }

// otherImages are what pods run, by digest, that is not the one wanted. A node that does not name what it pulled by its
// digest in a registry shows nothing.
func otherImages(pods []corev1.Pod, container, want string) map[string]reported {
	others := map[string]reported{}
	for _, pod := range pods {
		for _, status := range pod.Status.ContainerStatuses {
			if _, digest, ok := strings.Cut(status.ImageID, "@"); ok && status.Name == container && digest != want {
				others[digest] = reported{pulledAs(status.ImageID), pod.Name}
			}
		}
	}
	return others
}

// pulledAs is the reference in an imageID, before which cri-dockerd has docker-pullable://.
func pulledAs(imageID string) string {
	return strings.TrimPrefix(imageID, "docker-pullable://")
}

func readyPods(slice *discoveryv1.EndpointSlice) sets.Set[string] {
	names := sets.New[string]()
	for _, endpoint := range slice.Endpoints {
		if endpoint.TargetRef != nil && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
			names.Insert(endpoint.TargetRef.Name)
		}
	}
	return names
}

// serves says whether a track, whose Deployment is live, can take traffic and keep it.
func (j *job) serves(ctx context.Context, live *appsv1.Deployment, track release.Track) (bool, error) {
	n, err := j.readyEndpoints(ctx, live, track)
	return n > 0, err
}

// readyEndpoints is how many pods of a track, whose Deployment is live, are ready endpoints of the Service. The pods of
// a deleted Deployment stay ready for a moment: they do not count.
func (j *job) readyEndpoints(ctx context.Context, live *appsv1.Deployment, track release.Track) (n int32, err error) {
	if live == nil || live.DeletionTimestamp != nil {
		return 0, nil
	}
	pods, err := j.livePods(ctx, track)
	if err != nil || len(pods) == 0 {
		return 0, err
	}
	found, err := j.Kube.DiscoveryV1().EndpointSlices(j.Namespace).List(ctx, j.slicesOf(track))
	if err != nil {
		return 0, fmt.Errorf("EndpointSlices of %s: %w", j.Manifests.Service.Name, err)
	}
	ready := sets.New[string]()
	for i := range found.Items {
		ready = ready.Union(readyPods(&found.Items[i]))
	}
	for _, pod := range pods {
		if ready.Has(pod.Name) {
			n++
		}
	}
	return n, nil
}
