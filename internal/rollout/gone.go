package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/our-org/crossbill/internal/release"
)

const (
	// lostCheck is how often a wait for the end of pods asks whether they can end at all.
	lostCheck = 15 * time.Second
	// lostAfter is how long a pod may be past its grace period where nobody says how its node is.
	lostAfter = time.Minute
)

// errLost says that the pods that are waited for cannot end.
var errLost = errors.New("its pods are on nodes that do not answer")

// waitGone is the step that waits until a track's Deployment, which is deleted after its pods, is gone. Pods on a node
// that is dead never end: they are not waited for.
func (j *job) waitGone(track release.Track) step {
	return func(ctx context.Context) error {
		return j.patiently(ctx, func(ctx context.Context, seen func(mark)) error {
			watched, stop := context.WithCancelCause(ctx)
			defer stop(nil)
			var lost []string
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if lost = j.untilLost(watched, track); len(lost) > 0 {
					stop(errLost)
				}
			}()
			err := j.untilDeleted(watched, j.deploymentName(track), seen)
			stop(nil)
			<-ended
			if err != nil && ctx.Err() == nil && errors.Is(context.Cause(watched), errLost) {
				return j.abandon(ctx, track, lost)
			}
			if err == nil {
				j.log(j.track(track).String(), "is gone with its pods")
			}
			return err
		})
	}
}

// waitDeleted is the step that waits until a Deployment is gone.
func (j *job) waitDeleted(name, says string) step {
	return func(ctx context.Context) error {
		return j.patiently(ctx, func(ctx context.Context, seen func(mark)) error {
			err := j.untilDeleted(ctx, name, seen)
			if err == nil {
				j.log(j.deployment(name).String(), "%s", says)
			}
			return err
		})
	}
}

func (j *job) untilDeleted(ctx context.Context, name string, seen func(mark)) error {
	o := j.deployment(name)
	gone := func(store cache.Store) (bool, error) { return len(store.List()) == 0, nil }
	err := until(ctx, j.watchDeployment(name), &appsv1.Deployment{}, gone, func(event watch.Event) (bool, error) {
		if d, ok := event.Object.(*appsv1.Deployment); ok {
			seen(markOf(d))
		}
		return event.Type == watch.Deleted, nil
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s is still terminating; %s", o, j.next())
	case err != nil:
		return fmt.Errorf("%s: %w", o, err)
	}
	return nil
}

// untilLost looks now and then whether all pods of a track that are left are lost, and gives their names. It gives
// none when ctx ends.
func (j *job) untilLost(ctx context.Context, track release.Track) []string {
	began := time.Now()
	for j.pause(lostCheck)(ctx) == nil {
		pods, err := j.podsOf(ctx, track)
		if err != nil {
			continue
		}
		var lost []string
		for _, pod := range pods {
			if why := j.lost(ctx, pod, began); why != "" {
				lost = append(lost, fmt.Sprintf("%s (%s)", pod.Name, why))
			}
		}
		if len(lost) > 0 && len(lost) == len(pods) {
			return lost
		}
	}
	return nil
}

// lost says why a pod that is to end never will: its grace period is over, and its node is gone or does not answer.
// Where nodes may not be read, it counts as lost when it is long past its time.
func (j *job) lost(ctx context.Context, pod corev1.Pod, began time.Time) string {
	if pod.DeletionTimestamp == nil || time.Since(pod.DeletionTimestamp.Time) < 0 || pod.Spec.NodeName == "" {
		return ""
	}
	node, err := j.Kube.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "node " + pod.Spec.NodeName + " is gone"
	case err != nil && time.Since(began) > lostAfter && time.Since(pod.DeletionTimestamp.Time) > lostAfter:
		return fmt.Sprintf("on node %s, it should have ended at %s", pod.Spec.NodeName, pod.DeletionTimestamp.UTC().Format(time.RFC3339))
	case err != nil:
		return ""
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			return "node " + pod.Spec.NodeName + " is not ready"
		}
	}
	return ""
}

// abandon ends the wait for pods that cannot end: the Deployment goes without them. They go when somebody removes
// their node.
func (j *job) abandon(ctx context.Context, track release.Track, lost []string) error {
	o := j.track(track)
	j.log(o.String(), "is not waited for: its last %s cannot end: %s", plural(len(lost), "pod"), strings.Join(lost, ", "))
	_, _, err := change(ctx, j, o, func(live *appsv1.Deployment) (*write, error) {
		if live == nil {
			return nil, nil
		}
		return j.remove(metav1.DeletePropagationBackground), nil // in the place of the deletion that waits for its pods
	})
	return err
}
