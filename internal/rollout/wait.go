package rollout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// NotReadyError says that a Deployment did not become ready in time, with what the cluster said.
type NotReadyError struct {
	ReleaseID  string
	Deployment string
	Reason     string
	Details    []string // states of containers and last events
}

func (e *NotReadyError) Error() string {
	text := fmt.Sprintf("Deployment %s did not become ready: %s", e.Deployment, e.Reason)
	for _, detail := range e.Details {
		text += "\n  " + detail
	}
	return text
}

// waitRollout waits until every replica of a Deployment runs its present template and is available.
func (j *job) waitRollout(ctx context.Context, track release.Track) error {
	if j.plan != nil {
		return nil
	}
	ctx, cancel := j.bounded(ctx)
	defer cancel()
	name := j.deploymentName(track)
	object := "Deployment " + j.Namespace + "/" + name
	progress := ""
	deleted := &NotReadyError{Deployment: name, Reason: "it was deleted by somebody else"}
	there := func(store cache.Store) (bool, error) { // no event tells of one that was deleted before the watch began
		if len(store.List()) > 0 {
			return false, nil
		}
		if live, err := j.deployment(ctx, name); err == nil && live == nil { // asked anew: the watch may begin in the past
			return false, deleted
		}
		return false, nil
	}
	var old *metav1.Time // of a deadline that was exceeded before, by another rollout
	_, err := watchtools.UntilWithSync(ctx, j.watchDeployment(name), &appsv1.Deployment{}, there, func(event watch.Event) (bool, error) {
		d, ok := event.Object.(*appsv1.Deployment)
		if !ok || event.Type == watch.Deleted {
			return false, deleted
		}
		if w, ok := j.applied[name]; ok && (d.UID != w.uid || d.Generation < w.generation) {
			return false, nil // a cache that has not heard of our write yet
		}
		if old == nil {
			old = new(metav1.Time)
			if c := exceeded(d); c != nil {
				*old = c.LastUpdateTime
			}
		}
		done, now, err := rolledOut(d, *old)
		if now != progress && !done && err == nil {
			progress = now
			j.log(object, "%s", now)
		}
		return done, err
	})
	if err == nil {
		j.log(object, "every replica is ready")
		return nil
	}
	notReady := &NotReadyError{Deployment: name, Reason: err.Error()}
	if !errors.As(err, &notReady) && ctx.Err() != nil {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return ctx.Err()
		}
		notReady.Reason = fmt.Sprintf("deadline passed (%s)", progress)
	}
	notReady.Deployment = name
	notReady.Details = j.explain(context.WithoutCancel(ctx), track)
	return notReady
}

// exceeded is the condition that a Deployment made no progress in time, or nil.
func exceeded(d *appsv1.Deployment) *appsv1.DeploymentCondition {
	for i, condition := range d.Status.Conditions {
		if condition.Type == appsv1.DeploymentProgressing && condition.Reason == "ProgressDeadlineExceeded" {
			return &d.Status.Conditions[i]
		}
	}
	return nil
}

// rolledOut reads a Deployment's own conditions, as `kubectl rollout status` does. A deadline that was
// exceeded at a time before is another rollout's: the controller keeps the condition for a while.
func rolledOut(d *appsv1.Deployment, before metav1.Time) (done bool, progress string, err error) {
	if d.Status.ObservedGeneration < d.Generation {
		return false, "waiting for the controller to see it", nil
	}
	want, s := replicasOf(d), d.Status
	progress = fmt.Sprintf("%d of %d replicas updated, %d available", s.UpdatedReplicas, want, s.AvailableReplicas)
	if s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want {
		return true, progress, nil
	}
	if c := exceeded(d); c != nil && !c.LastUpdateTime.Equal(&before) {
		return false, "", &NotReadyError{Reason: "it made no progress within its progressDeadlineSeconds"}
	}
	return false, progress, nil
}

func (j *job) selector(track release.Track) string {
	return labels.SelectorFromSet(labels.Set{manifest.AppLabel: j.app(), manifest.TrackLabel: string(track)}).String()
}

// waitEndpoints waits until every pod of a track is a ready endpoint of the Service, and that there
// is one: only then may a route point at it.
func (j *job) waitEndpoints(ctx context.Context, track release.Track, image string) error {
	if j.plan != nil {
		return nil
	}
	ctx, cancel := j.bounded(ctx)
	defer cancel()
	var pods []corev1.Pod
	endpoints := j.Kube.DiscoveryV1().EndpointSlices(j.Namespace)
	ofService := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector = discoveryv1.LabelServiceName + "=" + j.Manifests.Service.Name
		return o
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return endpoints.List(ctx, ofService(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return endpoints.Watch(ctx, ofService(o))
		},
	}
	ready := map[string]sets.Set[string]{} // by slice
	_, err := watchtools.UntilWithSync(ctx, lw, &discoveryv1.EndpointSlice{}, nil, func(event watch.Event) (bool, error) {
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
		pods, err = j.livePods(ctx, track) // each time: pods come and go while this waits
		return err == nil && len(pods) > 0 && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !all.Has(p.Name) }), err
	})
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &NotReadyError{Deployment: j.deploymentName(track), Reason: "its pods are not ready endpoints of Service " + j.Manifests.Service.Name, Details: j.explain(context.WithoutCancel(ctx), track)}
		}
		return fmt.Errorf("EndpointSlices of %s: %w", j.Manifests.Service.Name, err)
	}
	j.log("Service "+j.Namespace+"/"+j.Manifests.Service.Name, "%d ready %s of %s", len(pods), plural(len(pods), "endpoint"), track)
	return j.checkImages(ctx, track, image, pods)
}

// livePods are a track's pods that are to serve: not those that end, or have ended.
func (j *job) livePods(ctx context.Context, track release.Track) ([]corev1.Pod, error) {
	pods, err := j.Kube.CoreV1().Pods(j.Namespace).List(ctx, metav1.ListOptions{LabelSelector: j.selector(track)})
	if err != nil {
		return nil, fmt.Errorf("pods of %s: %w", j.deploymentName(track), err)
	}
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	}), nil
}

// checkImages asks the pods what they run, by the imageID that their nodes have pulled: the release's image, or,
// where that is an index, the part of it for the node's platform. An image of "" is not checked: the way back.
func (j *job) checkImages(ctx context.Context, track release.Track, image string, pods []corev1.Pod) error {
	others := otherImages(pods, j.Manifests.ContainerName(), release.DigestOf(image))
	if image == "" || len(others) == 0 {
		return nil
	}
	if j.Parts != nil {
		parts, err := j.Parts(ctx, image)
		if err != nil {
			j.log("image", "the registry does not say what %s is made of, so that it is not known whether the pods run it: %v", release.DigestOf(image), err)
			return nil
		}
		for _, part := range parts {
			delete(others, part)
		}
	}
	if len(others) == 0 {
		return nil
	}
	notReady := &NotReadyError{Deployment: j.deploymentName(track), Reason: "its pods do not run " + release.DigestOf(image)}
	for _, digest := range slices.Sorted(maps.Keys(others)) {
		notReady.Details = append(notReady.Details, fmt.Sprintf("pod %s runs %s: something on the way to the node puts another image in its place", others[digest], digest))
	}
	return notReady
}

// otherImages are digests that pods run and that are not the one wanted, each with a pod that runs it. A node that
// does not name what it pulled by its digest in a registry tells nothing.
func otherImages(pods []corev1.Pod, container, want string) map[string]string {
	others := map[string]string{}
	for _, pod := range pods {
		for _, status := range pod.Status.ContainerStatuses {
			if _, digest, ok := strings.Cut(status.ImageID, "@"); ok && status.Name == container && digest != want {
				others[digest] = pod.Name
			}
		}
	}
	return others
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

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// waitGone waits until a track's Deployment, which is deleted after its pods, is not there any more.
func (j *job) waitGone(ctx context.Context, track release.Track) error {
	if j.plan != nil {
		return nil
	}
	return j.waitNoDeployment(ctx, j.deploymentName(track), "is gone with its pods")
}

func (j *job) waitNoDeployment(ctx context.Context, name, says string) error {
	ctx, cancel := j.bounded(ctx)
	defer cancel()
	gone := func(store cache.Store) (bool, error) { return len(store.List()) == 0, nil }
	_, err := watchtools.UntilWithSync(ctx, j.watchDeployment(name), &appsv1.Deployment{}, gone, func(event watch.Event) (bool, error) {
		return event.Type == watch.Deleted, nil
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("Deployment %s is still terminating; run the command again", name)
	}
	if err != nil {
		return fmt.Errorf("Deployment %s: %w", name, err)
	}
	j.log("Deployment "+j.Namespace+"/"+name, "%s", says)
	return nil
}

// watchDeployment lists and watches one Deployment.
func (j *job) watchDeployment(name string) *cache.ListWatch {
	deployments := j.Kube.AppsV1().Deployments(j.Namespace)
	only := func(o metav1.ListOptions) metav1.ListOptions {
		o.FieldSelector = "metadata.name=" + name
		return o
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return deployments.List(ctx, only(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return deployments.Watch(ctx, only(o))
		},
	}
}

// waitDrained waits until the canary, at weight 0, gets no more requests.
func (j *job) waitDrained(ctx context.Context) error {
	if j.plan != nil {
		return nil
	}
	workload := j.deploymentName(release.Canary)
	if j.Drained != nil {
		ctx, cancel := j.bounded(ctx)
		defer cancel()
		if err := j.Drained(ctx, workload); err != nil {
			return fmt.Errorf("%s still gets requests or cannot be seen to have none: %w; its pods are kept, run the command again", workload, err)
		}
		j.log("Deployment "+j.Namespace+"/"+workload, "gets no more requests: its counters stand still")
		return nil
	}
	return j.settle(ctx, "VirtualService "+j.Namespace+"/"+j.Manifests.VirtualService.Name, "the route (with --prometheus it would be seen)")
}

// settle gives the data plane time to have a change: nothing shows here that it has it.
func (j *job) settle(ctx context.Context, object, what string) error {
	if j.plan != nil {
		return nil
	}
	delay := j.SettleDelay
	if delay == 0 {
		delay = DefaultSettleDelay
	}
	j.log(object, "the data plane is given %s to have %s", delay, what)
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// explain gathers what the cluster says about a track that is not ready: the states of its
// containers and the last events of its pods.
func (j *job) explain(ctx context.Context, track release.Track) []string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pods, err := j.Kube.CoreV1().Pods(j.Namespace).List(ctx, metav1.ListOptions{LabelSelector: j.selector(track)})
	if err != nil {
		return []string{"its pods cannot be read: " + err.Error()}
	}
	var details []string
	names := sets.New[string]()
	for _, pod := range pods.Items {
		names.Insert(pod.Name)
		for _, status := range pod.Status.ContainerStatuses {
			container := fmt.Sprintf("pod %s, container %s: ", pod.Name, status.Name)
			switch waiting, ended := status.State.Waiting, status.State.Terminated; {
			case waiting != nil:
				details = append(details, container+waiting.Reason+" "+waiting.Message)
			case ended != nil:
				details = append(details, fmt.Sprintf("%sended with exit code %d, %d restarts", container, ended.ExitCode, status.RestartCount))
			case !status.Ready:
				details = append(details, fmt.Sprintf("%srunning, not ready, %d restarts", container, status.RestartCount))
			}
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
				details = append(details, fmt.Sprintf("pod %s: not scheduled: %s", pod.Name, condition.Message))
			}
		}
	}
	events, err := j.Kube.CoreV1().Events(j.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		return append(details, "its events cannot be read: "+err.Error())
	}
	sort.SliceStable(events.Items, func(a, b int) bool { return eventTime(events.Items[a]).Before(eventTime(events.Items[b])) })
	var last []string
	for _, event := range events.Items {
		if names.Has(event.InvolvedObject.Name) {
			last = append(last, fmt.Sprintf("event on %s: %s: %s", event.InvolvedObject.Name, event.Reason, event.Message))
		}
	}
	if len(last) > 5 {
		last = last[len(last)-5:]
	}
	return append(details, last...)
}

func eventTime(e corev1.Event) time.Time {
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}
