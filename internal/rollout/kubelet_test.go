package rollout_test

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// ailment is what is wrong with a pod: the states that its kubelet reports of it at an age, nil when it is well. They
// were checked against Kubernetes 1.37.2 (pkg/kubelet/kuberuntime, images/image_manager.go, kubelet_pods.go).
type ailment func(age time.Duration) *corev1.PodStatus

// The kubelet's back-off: a container that has ended is started again at once the first time, and then after 10
// seconds, 20, and so on, up to 5 minutes.
const firstBackOff, lastBackOff = 10 * time.Second, 5 * time.Minute

// begins is when a container starts, after its pod has been made: a node is found, and the image is pulled.
const begins = time.Second

// crashLoop is an app that ends with a code, so long after each start. It is well at its start number wellAt; 0 is
// never.
func crashLoop(code int32, lives time.Duration, wellAt int) ailment {
	return func(age time.Duration) *corev1.PodStatus {
		return ofContainer(crashLoopState(age, code, lives, wellAt))
	}
}

// initCrashLoop is an init container that does.
func initCrashLoop(code int32) ailment {
	return func(age time.Duration) *corev1.PodStatus {
		status := crashLoopState(age, code, 100*time.Millisecond, 0)
		status.Name = "migrate"
		return &corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{*status}, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: waits("PodInitializing", "")}}}
	}
}

func crashLoopState(age time.Duration, code int32, lives time.Duration, wellAt int) *corev1.ContainerStatus {
	if age < begins {
		return &corev1.ContainerStatus{Name: "app", State: waits("ContainerCreating", "")}
	}
	start, backOff := begins, time.Duration(0)
	for n := 0; ; n++ {
		if n+1 == wellAt {
			return nil
		}
		status := &corev1.ContainerStatus{Name: "app", RestartCount: int32(n)}
		ended := &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error"}
		if n > 0 {
			status.LastTerminationState.Terminated = ended
		}
		switch end := start + lives; {
		case age < end:
			status.State.Running = &corev1.ContainerStateRunning{}
			return status
		case age < end+time.Second: // until the kubelet looks at the pod again
			status.State.Terminated = ended
			return status
		case age < end+max(backOff, time.Second):
			status.State, status.LastTerminationState.Terminated = waits("CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=app", backOff)), ended
			return status
		default:
			start = end + max(backOff, time.Second)
		}
		backOff = min(max(2*backOff, firstBackOff), lastBackOff)
	}
}

// noImage is an image that cannot be pulled, until an age; 0 is for ever.
func noImage(message string, until time.Duration) ailment {
	return func(age time.Duration) *corev1.PodStatus {
		switch {
		case until > 0 && age >= until:
			return nil
		case age < begins:
			return ofContainer(&corev1.ContainerStatus{Name: "app", State: waits("ContainerCreating", "")})
		case age < begins+firstBackOff:
			return ofContainer(&corev1.ContainerStatus{Name: "app", State: waits("ErrImagePull", message)})
		}
		return ofContainer(&corev1.ContainerStatus{Name: "app", State: waits("ImagePullBackOff", "Back-off pulling image: "+message)})
	}
}

// stays is a pod whose container waits for something until an age; 0 is for ever.
func stays(reason, message string, until time.Duration) ailment {
	return func(age time.Duration) *corev1.PodStatus {
		if until > 0 && age >= until {
			return nil
		}
		return ofContainer(&corev1.ContainerStatus{Name: "app", State: waits(reason, message)})
	}
}

// nowhere is a pod that no node has room for until an age.
func nowhere(until time.Duration) ailment {
	return func(age time.Duration) *corev1.PodStatus {
		if age >= until {
			return nil
		}
		return &corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available"}}}
	}
}

func waits(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ofContainer(status *corev1.ContainerStatus) *corev1.PodStatus {
	if status == nil {
		return nil
	}
	return &corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}, ContainerStatuses: []corev1.ContainerStatus{*status}}
}

// state is what is wrong with a pod now; nil when it is well.
func (c *controllers) state(pod *corev1.Pod) *corev1.PodStatus {
	ailment := c.ailing[release.DigestOf(pod.Spec.Containers[0].Image)]
	if ailment == nil {
		return nil
	}
	return ailment(time.Since(pod.CreationTimestamp.Time))
}

// refusal notes on a ReplicaSet that its pods are refused, as the controller does, and makes the event; false when
// they are not.
func (c *controllers) refusal(rs *appsv1.ReplicaSet) bool {
	message := c.refuse[release.DigestOf(rs.Spec.Template.Spec.Containers[0].Image)]
	rs.Status.Conditions = nil
	if message != "" {
		rs.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: message}}
		set(c, "events", &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: rs.Name + ".failed", Namespace: rs.Namespace}, Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: "Error creating: " + message,
			InvolvedObject: corev1.ObjectReference{Kind: "ReplicaSet", Name: rs.Name},
		})
	}
	set(c, "replicasets", rs)
	return message != ""
}

// failures are the conditions of a Deployment's ReplicaSets that it takes over.
func failures(sets []*appsv1.ReplicaSet) (conditions []appsv1.DeploymentCondition) {
	for _, rs := range sets {
		for _, failure := range rs.Status.Conditions {
			conditions = append(conditions, appsv1.DeploymentCondition{Type: appsv1.DeploymentReplicaFailure, Status: failure.Status, Reason: failure.Reason, Message: failure.Message})
		}
	}
	return conditions
}
