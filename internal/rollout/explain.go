package rollout

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/our-org/crossbill/internal/release"
)

// explain gathers what the cluster says about a track that is not ready: the conditions of its Deployment, the states
// of its containers, and the last warnings about its pods and about those that could not be created.
func (j *job) explain(ctx context.Context, track release.Track) []string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var details []string
	live, err := j.liveTrack(ctx, track)
	switch {
	case err != nil:
		details = append(details, "its Deployment cannot be read: "+err.Error())
	case live != nil:
		details = append(details, deploymentDetails(live)...)
	}
	pods, err := j.podsOf(ctx, track)
	if err != nil {
		return append(details, "its pods cannot be read: "+err.Error())
	}
	names := sets.New[string]()
	for _, pod := range pods {
		names.Insert(pod.Name)
		details = append(details, podDetails(pod)...)
	}
	events, err := j.Kube.CoreV1().Events(j.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		return append(details, "its events cannot be read: "+err.Error())
	}
	return append(details, lastEvents(events.Items, func(o corev1.ObjectReference) bool {
		return names.Has(o.Name) || o.Kind == "Deployment" && o.Name == j.deploymentName(track) || o.Kind == "ReplicaSet" && madeBy(j.deploymentName(track), o.Name)
	})...)
}

// madeBy says whether a ReplicaSet has the name that a Deployment gives one: its own, and a hash of the template.
func madeBy(deployment, replicaSet string) bool {
	hash, ok := strings.CutPrefix(replicaSet, deployment+"-")
	return ok && !strings.Contains(hash, "-")
}

// shownEvents is how many events an error shows.
const shownEvents = 5

// lastEvents are the newest of the events that are about some objects. A message that came more than once is shown
// once.
func lastEvents(events []corev1.Event, about func(corev1.ObjectReference) bool) []string {
	sort.SliceStable(events, func(a, b int) bool { return eventTime(events[a]).Before(eventTime(events[b])) })
	var last []string
	for _, event := range events {
		if !about(event.InvolvedObject) {
			continue
		}
		text := fmt.Sprintf("event on %s: %s: %s", event.InvolvedObject.Name, OneLine(event.Reason), OneLine(event.Message))
		last = append(slices.DeleteFunc(last, func(said string) bool { return said == text }), text)
	}
	return last[max(0, len(last)-shownEvents):]
}

func eventTime(e corev1.Event) time.Time {
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// deploymentDetails are what a Deployment says about why it does not go on.
func deploymentDetails(d *appsv1.Deployment) (details []string) {
	if d.Spec.Paused {
		details = append(details, "it is paused: `kubectl rollout resume deployment/"+d.Name+"` lets it go on")
	}
	for _, c := range d.Status.Conditions {
		if bad := c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue ||
			c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse; bad && c.Message != "" {
			details = append(details, fmt.Sprintf("%s: %s", c.Reason, OneLine(c.Message)))
		}
	}
	return details
}

// podDetails are what a pod says about why it is not ready.
func podDetails(pod corev1.Pod) (details []string) {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if state := stateOf(status); state != "" && !finished(pod, status) {
			details = append(details, fmt.Sprintf("pod %s, container %s: %s", pod.Name, status.Name, state))
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			details = append(details, fmt.Sprintf("pod %s: not scheduled: %s", pod.Name, OneLine(condition.Message)))
		}
	}
	if len(details) == 0 && pod.Status.Message != "" { // evicted, for example
		details = append(details, fmt.Sprintf("pod %s: %s %s", pod.Name, OneLine(pod.Status.Reason), OneLine(pod.Status.Message)))
	}
	return details
}

// finished says whether a container is an init container that has done its work.
func finished(pod corev1.Pod, status corev1.ContainerStatus) bool {
	init := slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == status.Name })
	return init && status.State.Terminated != nil && status.State.Terminated.ExitCode == 0
}

// stateOf says why a container is not ready; "" when it is.
func stateOf(status corev1.ContainerStatus) string {
	switch waiting, terminated := status.State.Waiting, status.State.Terminated; {
	case waiting != nil && waiting.Reason == "PodInitializing":
		return ""
	case waiting != nil:
		return OneLine(waiting.Reason+" "+waiting.Message) + endOf(status.LastTerminationState.Terminated, status.RestartCount)
	case terminated != nil:
		return strings.TrimPrefix(endOf(terminated, status.RestartCount), "; ")
	case !status.Ready:
		return fmt.Sprintf("running, not ready, %d %s", status.RestartCount, plural(int(status.RestartCount), "restart")) + endOf(status.LastTerminationState.Terminated, 0)
	}
	return ""
}

// endOf says how a container ended.
func endOf(t *corev1.ContainerStateTerminated, restarts int32) string {
	if t == nil {
		return ""
	}
	text := fmt.Sprintf("; terminated with exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		text += " (" + OneLine(t.Reason) + ")"
	}
	if restarts > 0 {
		text += fmt.Sprintf(", %d %s", restarts, plural(int(restarts), "restart"))
	}
	if t.Message != "" {
		text += ": " + OneLine(t.Message)
	}
	return text
}

// patience is how long that is watched which may still pass by itself: a registry that does not answer, a Secret that
// an operator is about to create, a quota that another pod is about to free.
const patience = 10 * time.Second

// crashes is how often a container may have ended before its pod counts as one that cannot start. An app whose proxy
// or database is not up yet in its first second ends once or twice, and runs then. A kubelet gets to three in
// about 13 seconds: its first restart is at once, its second after 10 seconds.
const crashes = 3

// sign is one thing that keeps a track from coming up.
type sign struct {
	reason string
	final  bool // it does not pass by itself
}

// outlook remembers since when a track has shown what keeps it from coming up.
type outlook map[string]time.Time

// hopeless says why a track cannot come up, judged by its Deployment and those of its pods that are to get ready; ""
// while it may. A pod that no node has room for is not hopeless: an autoscaler may be adding one.
func (o outlook) hopeless(d *appsv1.Deployment, pods []corev1.Pod, now time.Time) string {
	seen := map[string]sign{}
	if message := refusedPods(d); message != "" {
		seen["pods"] = sign{reason: "its pods are refused: " + message}
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if s := signOf(pod, status); s.reason != "" {
				seen[pod.Name+"/"+status.Name] = s
			}
		}
	}
	for key := range o {
		if _, still := seen[key]; !still {
			delete(o, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(seen)) {
		since, known := o[key]
		if !known {
			since, o[key] = now, now
		}
		if seen[key].final || now.Sub(since) >= patience {
			return seen[key].reason
		}
	}
	return ""
}

// refusedPods is why pods of a Deployment are refused: by a quota, by PodSecurity, by a webhook; "" when they are not.
// A webhook that does not answer refuses nothing for good.
func refusedPods(d *appsv1.Deployment) string {
	if d == nil {
		return ""
	}
	for _, c := range d.Status.Conditions {
		unanswered := strings.Contains(c.Message, "failed calling webhook") || strings.Contains(c.Message, "etcdserver") || strings.Contains(c.Message, "context deadline exceeded")
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue && c.Reason == "FailedCreate" && !unanswered {
			return OneLine(c.Message)
		}
	}
	return ""
}

// signOf is what keeps a container from starting; none when nothing does.
func signOf(pod corev1.Pod, status corev1.ContainerStatus) sign {
	about := func(what ...string) string {
		return fmt.Sprintf("container %s of pod %s %s", status.Name, pod.Name, OneLine(strings.Join(what, " ")))
	}
	last := status.State.Terminated
	if last == nil {
		last = status.LastTerminationState.Terminated
	}
	waiting := status.State.Waiting
	ended := status.State.Terminated != nil || waiting != nil && waiting.Reason == "CrashLoopBackOff"
	switch {
	case ended && status.RestartCount >= crashes-1 && !finished(pod, status):
		return sign{about("does not stay up") + endOf(last, status.RestartCount), true}
	case waiting == nil:
		return sign{}
	}
	switch reason, message := waiting.Reason, waiting.Message; reason {
	case "InvalidImageName", "ErrImageNeverPull":
		return sign{about("cannot get its image:", reason, message), true}
	case "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return sign{about("cannot get its image:", reason, message), false}
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
		return sign{about("cannot be created:", reason, message), false}
	}
	return sign{}
}
