package hook

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// LogBytes is how much is kept of what a hook says: the last bytes of a Job's logs, the first ones of an answer.
const LogBytes = 64 << 10

// mostPods and readBytes bound what is read of a Job's logs.
const (
	mostPods  = 5
	readLines = 2000
	readBytes = 4 << 20
)

// Logs gives the last of what the containers of a Job's pods have written, oldest pod first. A container whose log cannot be
// read says why in its place.
func Logs(ctx context.Context, kube kubernetes.Interface, namespace, job string) (string, error) {
	pods, err := kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job})
	if err != nil {
		return "", err
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	var text strings.Builder
	for _, pod := range pods.Items[max(0, len(pods.Items)-mostPods):] {
		for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for _, c := range containers {
				fmt.Fprintf(&text, "==> pod %s, container %s%s\n", pod.Name, c.Name, endOf(&pod, c.Name))
				written, err := logOf(ctx, kube, &pod, c.Name)
				if err != nil {
					written = fmt.Sprintf("(its log cannot be read: %v)\n", err)
				}
				text.WriteString(strings.TrimRight(written, "\n") + "\n")
			}
		}
	}
	return lastBytes(text.String()), nil
}

// endOf says how a container has ended.
func endOf(pod *corev1.Pod, name string) string {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range statuses {
			if s.Name == name && s.State.Terminated != nil {
				return fmt.Sprintf(", exit code %d", s.State.Terminated.ExitCode)
			}
			if s.Name == name && s.State.Waiting != nil && s.State.Waiting.Reason != "" {
				return ", " + strings.TrimSuffix(s.State.Waiting.Reason+": "+s.State.Waiting.Message, ": ")
			}
		}
	}
	return ""
}

func logOf(ctx context.Context, kube kubernetes.Interface, pod *corev1.Pod, container string) (string, error) {
	stream, err := kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container, TailLines: new(int64(readLines))}).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	text, err := io.ReadAll(io.LimitReader(stream, readBytes))
	return lastBytes(string(text)), err
}

// lastBytes is the end of a text, from the beginning of a line.
func lastBytes(text string) string {
	if len(text) > LogBytes {
		text = text[len(text)-LogBytes:]
		if _, rest, ok := strings.Cut(text, "\n"); ok {
			text = rest
		}
	}
	return strings.ToValidUTF8(text, "?")
}
