package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

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

// waiting bounds a wait for the cluster. A plan waits for nothing.
func (j *job) waiting(ctx context.Context, wait step) error {
	if j.planning() {
		return nil
	}
	ctx, cancel := j.bounded(ctx)
	defer cancel()
	return wait(ctx)
}

// waitTrack is the step that waits until a track can be routed to: it is ready, and runs the image; "" for
// whichever.
func (j *job) waitTrack(track release.Track, image string) step {
	return func(ctx context.Context) error {
		return inOrder(ctx, j.waitRollout(track), j.waitEndpoints(track, image))
	}
}

// waitRollout is the step that waits until every replica of a Deployment runs its present template and is
// available.
func (j *job) waitRollout(track release.Track) step {
	return func(ctx context.Context) error {
		return j.waiting(ctx, func(ctx context.Context) error { return j.untilRolledOut(ctx, track) })
	}
}

func (j *job) untilRolledOut(ctx context.Context, track release.Track) error {
	o := j.track(track)
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
	_, err := watchtools.UntilWithSync(ctx, j.watchDeployment(o.name), &appsv1.Deployment{}, exists, func(event watch.Event) (bool, error) {
		d, ok := event.Object.(*appsv1.Deployment)
		if !ok || event.Type == watch.Deleted {
			return false, deleted
		}
		if w, ok := j.written[o.name]; ok && (d.UID != w.uid || d.Generation < w.generation) {
			return false, nil // a cache that has not heard of our write yet
		}
		done, changed, err := p.look(d)
		if changed {
			j.log(o.String(), "%s", p.text)
		}
		return done, err
	})
	if err == nil {
		j.log(o.String(), "every replica is ready")
		return nil
	}
	notReady := &NotReadyError{Reason: err.Error()}
	if !errors.As(err, &notReady) && ctx.Err() != nil {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return ctx.Err()
		}
		notReady.Reason = fmt.Sprintf("deadline passed (%s)", p.text)
	}
	notReady.Deployment = o.name
	notReady.Details = j.explain(context.WithoutCancel(ctx), track)
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

// waitGone is the step that waits until a track's Deployment, which is deleted after its pods, is gone.
func (j *job) waitGone(track release.Track) step {
	return j.waitDeleted(j.deploymentName(track), "is gone with its pods")
}

// waitDeleted is the step that waits until a Deployment is gone.
func (j *job) waitDeleted(name, says string) step {
	return func(ctx context.Context) error {
		return j.waiting(ctx, func(ctx context.Context) error {
			o := j.deployment(name)
			gone := func(store cache.Store) (bool, error) { return len(store.List()) == 0, nil }
			_, err := watchtools.UntilWithSync(ctx, j.watchDeployment(name), &appsv1.Deployment{}, gone, func(event watch.Event) (bool, error) {
				return event.Type == watch.Deleted, nil
			})
			switch {
			case err != nil && ctx.Err() != nil:
				return fmt.Errorf("%s is still terminating; %s", o, j.next())
			case err != nil:
				return fmt.Errorf("%s: %w", o, err)
			}
			j.log(o.String(), "%s", says)
			return nil
		})
	}
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
