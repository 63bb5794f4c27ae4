package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// RestartPod deletes one of the pods that a selector finds, in order, and waits until as many as before are ready without
// it. It gives the pod's name.
func (c *Cluster) RestartPod(ctx context.Context, selector string) (name string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	kube, err := kubernetes.NewForConfig(c.RESTConfig)
	if err != nil {
		return "", err
	}
	ready := func() ([]corev1.Pod, error) {
		pods, err := kube.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return nil, err
		}
		return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || !isReady(&p) }), nil
	}
	before, err := ready()
	if err != nil {
		return "", err
	}
	if len(before) == 0 {
		return "", fmt.Errorf("no pod with %s is ready", selector)
	}
	name = before[0].Name
	if err := kube.CoreV1().Pods(c.Namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return name, err
	}
	for {
		now, err := ready()
		if err != nil {
			return name, err
		}
		if len(now) >= len(before) && !slices.ContainsFunc(now, func(p corev1.Pod) bool { return p.Name == name }) {
			return name, nil
		}
		select {
		case <-ctx.Done():
			return name, fmt.Errorf("pod %s has no successor that is ready: %w", name, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
