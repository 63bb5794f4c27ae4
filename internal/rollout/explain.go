package rollout

import (
	"context"
	"fmt"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/our-org/crossbill/internal/release"
)

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
		details = append(details, podDetails(pod)...)
	}
	events, err := j.Kube.CoreV1().Events(j.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		return append(details, "its events cannot be read: "+err.Error())
	}
	return append(details, lastEvents(events.Items, names)...)
}

// shownEvents is how many events an error shows.
const shownEvents = 5

// lastEvents are the newest events of some pods.
func lastEvents(events []corev1.Event, pods sets.Set[string]) []string {
	sort.SliceStable(events, func(a, b int) bool { return eventTime(events[a]).Before(eventTime(events[b])) })
	var last []string
	for _, event := range events {
		if pods.Has(event.InvolvedObject.Name) {
			last = append(last, fmt.Sprintf("event on %s: %s: %s", event.InvolvedObject.Name, event.Reason, event.Message))
		}
	}
	return last[max(0, len(last)-shownEvents):]
}

func eventTime(e corev1.Event) time.Time {
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// podDetails are what a pod says about why it is not ready.
func podDetails(pod corev1.Pod) (details []string) {
	for _, status := range pod.Status.ContainerStatuses {
		container := fmt.Sprintf("pod %s, container %s: ", pod.Name, status.Name)
		switch waiting, terminated := status.State.Waiting, status.State.Terminated; {
		case waiting != nil:
			details = append(details, container+waiting.Reason+" "+waiting.Message)
		case terminated != nil:
			details = append(details, fmt.Sprintf("%sterminated with exit code %d, %d restarts", container, terminated.ExitCode, status.RestartCount))
		case !status.Ready:
			details = append(details, fmt.Sprintf("%srunning, not ready, %d restarts", container, status.RestartCount))
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			details = append(details, fmt.Sprintf("pod %s: not scheduled: %s", pod.Name, condition.Message))
		}
	}
	return details
}

// hopeless says why pods cannot come up any more, with what they say; "" while they may.
func hopeless([]corev1.Pod) (reason string, details []string) { return "", nil }
