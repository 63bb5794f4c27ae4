package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// register makes the node's object and says that the node is ready, once: nobody here looks at heartbeats or leases.
func (k *kubelet) register() error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:   k.Node,
		Labels: map[string]string{corev1.LabelHostname: k.Node, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH},
	}}
	if _, err := k.Client.CoreV1().Nodes().Create(k.ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create node %s: %w", k.Node, err)
	}
	patch, err := json.Marshal(map[string]any{"status": k.nodeStatus(metav1.Now())})
	if err != nil {
		return err
	}
	if _, err := k.Client.CoreV1().Nodes().Patch(k.ctx, k.Node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("status of node %s: %w", k.Node, err)
	}
	return nil
}

// nodeStatus has room for any pod: that a pod's requests fit is no matter of this node.
func (k *kubelet) nodeStatus(now metav1.Time) corev1.NodeStatus {
	status := corev1.NodeStatus{
		Capacity: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("1k"), corev1.ResourceMemory: resource.MustParse("1Ti"), corev1.ResourcePods: resource.MustParse("1M"),
		},
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: k.NodeIP.String()}, {Type: corev1.NodeHostName, Address: k.Node}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: port}},
		NodeInfo: corev1.NodeSystemInfo{
			Architecture: runtime.GOARCH, OperatingSystem: "linux",
			KubeletVersion: "rehearsal", ContainerRuntimeVersion: "rehearsal", KernelVersion: "rehearsal",
		},
	}
	status.Allocatable = status.Capacity
	for _, c := range []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID"},
	} {
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		status.Conditions = append(status.Conditions, c)
	}
	return status
}

// admit gives a pod its address and its first status, as each version of it without one asks for. Its processes start when
// the API server has reported that.
func (k *kubelet) admit(p *corev1.Pod) {
	ip, err := k.addresses.of(p.UID)
	if err == nil {
		err = k.publishFirst(k.ctx, p, ip)
	}
	if apierrors.IsNotFound(err) {
		k.addresses.release(p.UID) // it was gone before it had one
		return
	}
	if err != nil && !apierrors.IsConflict(err) && k.ctx.Err() == nil {
		k.Log("first status of pod %s/%s: %v", p.Namespace, p.Name, err) // the next version or resync tries again
	}
}

func (k *kubelet) publishFirst(ctx context.Context, p *corev1.Pod, ip netip.Addr) error {
	patch, err := json.Marshal(map[string]any{
		// Never a successor of the same name, nor what another admission and its processes have written since this version.
		"metadata": map[string]any{"uid": p.UID, "resourceVersion": p.ResourceVersion},
		"status":   firstStatus(p, k.NodeIP.String(), ip.String(), metav1.Now()),
	})
	if err != nil {
		return err
	}
	_, err = k.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// firstStatus is that of a pod whose sandbox is made and whose containers are not.
func firstStatus(p *corev1.Pod, hostIP, podIP string, now metav1.Time) corev1.PodStatus {
	status := corev1.PodStatus{
		Phase: corev1.PodPending, StartTime: &now,
		HostIP: hostIP, HostIPs: []corev1.HostIP{{IP: hostIP}},
		PodIP: podIP, PodIPs: []corev1.PodIP{{IP: podIP}},
	}
	for _, c := range []corev1.PodCondition{
		{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue},
		{Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
		{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady"},
		{Type: corev1.ContainersReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady"},
	} {
		c.LastTransitionTime = now
		status.Conditions = append(status.Conditions, c)
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Started: new(bool),
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}},
		})
	}
	return status
}
