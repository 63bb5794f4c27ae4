package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

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
	return strings.Join(append([]string{text}, e.Details...), "\n  ")
}

// waiting bounds a wait in total: for what shows no progress. A plan waits for nothing.
func (j *job) waiting(ctx context.Context, wait step) error {
	if j.planning() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, j.timeout())
	defer cancel()
	return wait(ctx)
}

// errNoProgress ends a wait for a track.
var errNoProgress = errors.New("no progress")

// patiently bounds a wait for a track: it ends when nothing that is seen is progress for the timeout, never in
// total. Time in which the API server did not answer does not count. A plan waits for nothing.
func (j *job) patiently(ctx context.Context, wait func(ctx context.Context, seen func(mark)) error) error {
	if j.planning() {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	moved := make(chan struct{}, 1)
	api, timeout := j.API, j.timeout() // j.Cluster may be another one before the goroutine has ended
	go func() {
		lost, left := api.lost(), timeout
		for {
			select {
			case <-ctx.Done():
				return
			case <-moved:
				lost, left = api.lost(), timeout
			case <-time.After(left):
				if left = api.lost() - lost; left <= 0 {
					cancel(errNoProgress)
					return
				}
				lost += left
			}
		}
	}()
	var best *mark
	return wait(ctx, func(now mark) {
		if further(&best, now) {
			select {
			case moved <- struct{}{}:
			default:
			}
		}
	})
}

// mark is how far a track has come.
type mark struct {
	generation int64 // that the controller has seen
	updated    int32 // pods of the present template
	available  int32
	ready      int   // endpoints
	left       int32 // pods that have yet to go
}

// further says whether there is progress beyond the best so far, and keeps the best: a newer generation, more pods
// than ever, or fewer that have yet to go. Pods that come and go are none.
func further(best **mark, now mark) bool {
	was := *best
	if was == nil || now.generation > was.generation {
		*best = &now
		return true
	}
	progress := now.updated > was.updated || now.available > was.available || now.ready > was.ready || now.left < was.left
	*best = &mark{was.generation, max(was.updated, now.updated), max(was.available, now.available), max(was.ready, now.ready), min(was.left, now.left)}
	return progress
}

// markOf is how far a Deployment has come.
func markOf(d *appsv1.Deployment) mark {
	m := mark{generation: d.Status.ObservedGeneration, updated: d.Status.UpdatedReplicas, available: d.Status.AvailableReplicas, left: d.Status.Replicas - d.Status.UpdatedReplicas}
	if d.DeletionTimestamp != nil {
		m.left = d.Status.Replicas
		if ending := d.Status.TerminatingReplicas; ending != nil {
			m.left += *ending
		}
	}
	return m
}

// waitTrack is the step that waits until a track can be routed to: it is ready, and runs the image; "" for
// whichever.
func (j *job) waitTrack(track release.Track, image string) step {
	return func(ctx context.Context) error {
		return inOrder(ctx, j.waitRollout(track, image), j.waitEndpoints(track, image))
	}
}

// waitRollout is the step that waits until every replica of a Deployment runs its present template and is
// available. One whose pods run an image and cannot come up is given up at once; with "" it is waited for in any case.
func (j *job) waitRollout(track release.Track, image string) step {
	return func(ctx context.Context) error {
		return j.patiently(ctx, func(ctx context.Context, seen func(mark)) error {
			return j.untilRolledOut(ctx, track, image, seen)
		})
	}
}

// hopePeriod is how often a track that is waited for is judged.
const hopePeriod = time.Second

// hoping watches the pods of a track that run an image, and ends the wait when it is clear that they cannot come up.
// It gives the pods as it saw them last.
func (j *job) hoping(ctx context.Context, track release.Track, image string, live func() *appsv1.Deployment, give func(error)) map[string]corev1.Pod {
	tick := time.NewTicker(hopePeriod)
	defer tick.Stop()
	hope, pods := outlook{}, map[string]corev1.Pod{}
	events, stop := j.podEvents(ctx, track)
	defer func() { stop() }()
	for watched := time.Now(); ; {
		select {
		case <-ctx.Done():
			return pods
		case event, ok := <-events:
			pod, is := event.Object.(*corev1.Pod)
			switch {
			case !ok:
				events = nil
			case !is:
			case event.Type == watch.Deleted || !runs(pod.Spec, image):
				delete(pods, pod.Name)
			default:
				pods[pod.Name] = *pod
			}
		case <-tick.C:
			if reason := hope.hopeless(live(), j.madeSince(track, image, live(), pods), time.Now()); reason != "" {
				give(&NotReadyError{Reason: "it cannot come up: " + reason})
				return pods
			}
			if events == nil && time.Since(watched) > patience { // it has ended, or could not begin
				clear(pods)
				stop()
				events, stop = j.podEvents(ctx, track)
				watched = time.Now()
			}
		}
	}
}

// keepPods keeps the pods of a rollout that is done for the wait that follows, if those are all and each is ready.
func (j *job) keepPods(track release.Track, live *appsv1.Deployment, pods []corev1.Pod) {
	delete(j.rolledOut, track)
	if len(pods) != int(replicasOf(live)) || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return leaving(&p) || !isReadyPod(&p) }) {
		return
	}
	if j.rolledOut == nil {
		j.rolledOut = map[release.Track][]corev1.Pod{}
	}
	j.rolledOut[track] = pods
}

// takePods gives what was kept of a rollout, once: pods come and go.
func (j *job) takePods(track release.Track) []corev1.Pod {
	pods := j.rolledOut[track]
	delete(j.rolledOut, track)
	return pods
}

// podEvents are the pods of a track and what becomes of them; none when they cannot be watched.
func (j *job) podEvents(ctx context.Context, track release.Track) (events <-chan watch.Event, stop func()) {
	pods, err := j.Kube.CoreV1().Pods(j.Namespace).Watch(ctx, labeled(j.selector(track)))
	if err != nil {
		return nil, func() {}
	}
	return pods.ResultChan(), pods.Stop
}

// runs says whether a pod has a container of an image.
func runs(pod corev1.PodSpec, image string) bool {
	return slices.ContainsFunc(pod.Containers, func(c corev1.Container) bool { return c.Image == image })
}

// madeSince are those of the pods that run an image which were made since its Deployment was applied, where primary ran that
// image before as well: a release can change no more than the pod template, or what pods read.
func (j *job) madeSince(track release.Track, image string, live *appsv1.Deployment, pods map[string]corev1.Pod) (found []corev1.Pod) {
	r := j.ledger.Release
	alike := track == release.Primary && r != nil && r.Previous == image
	for _, pod := range pods {
		if !alike || live != nil && !pod.CreationTimestamp.Time.Before(appliedAt(live)) {
			found = append(found, pod)
		}
	}
	return found
}

// appliedAt is when Crossbill last applied a Deployment.
func appliedAt(d *appsv1.Deployment) (at time.Time) {
	for _, entry := range d.ManagedFields {
		if ours(entry) && entry.Operation == metav1.ManagedFieldsOperationApply && entry.Time != nil {
			at = entry.Time.Time
		}
	}
	return at
}

func (j *job) untilRolledOut(ctx context.Context, track release.Track, image string, seen func(mark)) error {
	o := j.track(track)
	ctx, give := context.WithCancelCause(ctx)
	defer give(nil)
	var live atomic.Pointer[appsv1.Deployment]
	watched := make(chan map[string]corev1.Pod, 1)
	if image != "" {
		go func() { watched <- j.hoping(ctx, track, image, live.Load, give) }()
	}
	deleted := &NotReadyError{Reason: "somebody else deleted it"}
	exists := func(store cache.Store) (bool, error) { // no event comes of one that was deleted before the watch started
		if len(store.List()) > 0 {
			return false, nil
		}
		if live, err := o.read(ctx); err == nil && live == nil { // asked anew: the watch may start in the past
			return false, deleted
		}
		return false, nil
	}
	var p progress
	size := int32(0)
	err := until(ctx, j.watchDeployment(o.name), &appsv1.Deployment{}, exists, func(event watch.Event) (bool, error) {
		d, ok := event.Object.(*appsv1.Deployment)
		if !ok || event.Type == watch.Deleted {
			return false, deleted
		}
		if w, ok := j.written[o.name]; ok && (d.UID != w.uid || d.Generation < w.generation) {
			return false, nil // a cache that has not heard of our write yet
		}
		j.remember(o, d)
		live.Store(d)
		seen(markOf(d))
		size = replicasOf(d)
		done, changed, err := p.look(d)
		if changed {
			j.log(o.String(), "%s", p.text)
		}
		return done, err
	})
	if err == nil {
		j.log(o.String(), "every replica is ready")
		j.waited = map[release.Track]int32{track: size}
		if give(nil); image != "" {
			j.keepPods(track, live.Load(), j.madeSince(track, image, live.Load(), <-watched))
		}
		return nil
	}
	notReady := &NotReadyError{Reason: err.Error()}
	switch cause := context.Cause(ctx); {
	case errors.As(err, &notReady), errors.As(cause, &notReady):
	case errors.Is(cause, errNoProgress):
		notReady.Reason = fmt.Sprintf("no progress for %s (%s)", j.timeout(), p.text)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	notReady.Deployment = o.name
	if notReady.Details == nil {
		notReady.Details = j.explain(context.WithoutCancel(ctx), track)
	}
	return notReady
}

// progress is how far a rollout has come.
type progress struct {
	text  string
	stale *metav1.Time // of a deadline that another rollout exceeded before
}

// look says whether a rollout is done, and whether there is something new to say of it.
func (p *progress) look(d *appsv1.Deployment) (done, changed bool, err error) {
	if p.stale == nil {
		p.stale = new(metav1.Time)
		if c := exceeded(d); c != nil {
			*p.stale = c.LastUpdateTime
		}
	}
	done, text, err := rolledOut(d, *p.stale)
	if done || err != nil || text == p.text {
		return done, false, err
	}
	p.text = text
	return false, true, nil
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

// watchDeployment lists and watches one Deployment.
func (j *job) watchDeployment(name string) *cache.ListWatch {
	return listWatch(j.Kube.AppsV1().Deployments(j.Namespace), named(name))
}
