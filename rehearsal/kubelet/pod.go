package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A pod is one pod whose processes this kubelet runs.
type pod struct {
	k               *kubelet
	namespace, name string
	dir             string

	ctx      context.Context // ends when everything must die at once
	kill     context.CancelFunc
	deleting chan struct{} // closed when the pod is to end in order
	changed  chan struct{} // holds one when the status must be published

	gone atomic.Bool // its node is

	mu         sync.Mutex // guards what follows, and the containers' status
	object     *corev1.Pod
	containers []*container
	conditions map[corev1.PodConditionType]corev1.PodCondition // as published
}

func newPod(k *kubelet, object *corev1.Pod) *pod {
	p := &pod{
		k: k, namespace: object.Namespace, name: object.Name, object: object, dir: filepath.Join(k.podsDir(), string(object.UID)),
		deleting: make(chan struct{}), changed: make(chan struct{}, 1),
		conditions: map[corev1.PodConditionType]corev1.PodCondition{},
	}
	p.ctx, p.kill = context.WithCancel(k.ctx)
	for i := range object.Spec.Containers {
		p.containers = append(p.containers, newContainer(p, &object.Spec.Containers[i]))
	}
	return p
}

// update takes the newest version of the pod's object.
func (p *pod) update(object *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, gone := object.Annotations[GoneAnnotation]; gone && p.gone.CompareAndSwap(false, true) {
		for _, c := range p.containers {
			if pid := c.pid; pid > 0 {
				_ = syscall.Kill(-pid, syscall.SIGSTOP)
			}
		}
		time.AfterFunc(goneAfter, p.markNotReady)
	}
	if object.DeletionTimestamp != nil && p.object.DeletionTimestamp == nil && !p.lost() {
		close(p.deleting)
	}
	p.object = object
}

// lost tells whether the pod's node is gone.
func (p *pod) lost() bool { return p.gone.Load() }

// markNotReady does what the node lifecycle controller does about a pod of a node that is gone.
func (p *pod) markNotReady() {
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"False","lastTransitionTime":%q}]}}`, time.Now().UTC().Format(time.RFC3339))
	_, err := p.k.Client.CoreV1().Pods(p.namespace).Patch(p.ctx, p.name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && p.ctx.Err() == nil {
		p.k.Log("status of pod %s/%s: %v", p.namespace, p.name, err)
	}
}

// current is the newest version of the pod's object.
func (p *pod) current() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object
}

func (p *pod) stopping() bool {
	select {
	case <-p.deleting:
		return true
	case <-p.ctx.Done():
		return true
	default:
		return false
	}
}

// run runs the pod from its start until its object is removed, or until kill.
func (p *pod) run() {
	defer p.kill()
	defer os.RemoveAll(p.dir)
	var publisher, containers sync.WaitGroup
	ended := make(chan struct{})
	publisher.Go(func() { p.publishChanges(ended) })
	for _, c := range p.containers {
		containers.Go(c.run)
	}
	containers.Wait()
	select { // a pod that has run to its end stays until someone deletes it
	case <-p.deleting:
	case <-p.ctx.Done():
	}
	close(ended)
	publisher.Wait()
	if p.ctx.Err() == nil {
		_ = p.publish() // the end of its containers; the object goes next
		p.k.remove(p.current())
	}
}

// touch asks for the status to be published.
func (p *pod) touch() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *pod) publishChanges(ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-p.ctx.Done():
			return
		case <-p.changed:
		}
		if err := p.publish(); err != nil && p.ctx.Err() == nil {
			p.k.Log("status of pod %s/%s: %v", p.namespace, p.name, err)
			time.AfterFunc(200*time.Millisecond, p.touch)
		}
	}
}

// publish writes the pod's status. A pod that is gone is no error.
func (p *pod) publish() error {
	if p.lost() {
		return nil
	}
	p.mu.Lock()
	status := p.status(metav1.Now())
	uid := p.object.UID
	p.mu.Unlock()
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": uid}, // never a successor of the same name
		"status":   status,
	})
	if err != nil {
		return err
	}
	_, err = p.k.Client.CoreV1().Pods(p.namespace).Patch(p.ctx, p.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsConflict(err) { // others wrote it again and again meanwhile; or it is a successor's, whose event ends this one
		time.AfterFunc(200*time.Millisecond, p.touch)
		return nil
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// status is what a kubelet would write: phase, conditions and container statuses.
func (p *pod) status(now metav1.Time) map[string]any {
	var statuses []corev1.ContainerStatus
	var unready []string
	created, over, failed := true, true, false
	for _, c := range p.containers {
		statuses = append(statuses, c.status)
		if !c.status.Ready {
			unready = append(unready, c.status.Name)
		}
		created = created && (c.status.State.Waiting == nil || c.status.RestartCount > 0)
		over = over && c.over
		failed = failed || c.status.State.Terminated != nil && c.status.State.Terminated.ExitCode != 0
	}
	phase := corev1.PodPending
	switch {
	case over && failed:
		phase = corev1.PodFailed
	case over:
		phase = corev1.PodSucceeded
	case created:
		phase = corev1.PodRunning
	}
	ready := corev1.PodCondition{Status: corev1.ConditionTrue}
	if len(unready) > 0 {
		ready = corev1.PodCondition{Status: corev1.ConditionFalse, Reason: "ContainersNotReady",
			Message: fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))}
		if over && !failed {
			ready.Reason = "PodCompleted"
		}
	}
	var conditions []corev1.PodCondition
	set := func(t corev1.PodConditionType, c corev1.PodCondition) {
		c.Type, c.LastTransitionTime = t, now
		if before, ok := p.conditions[t]; ok && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		p.conditions[t] = c
		conditions = append(conditions, c)
	}
	set(corev1.ContainersReady, ready)
	if ready.Status == corev1.ConditionTrue {
		for _, gate := range p.object.Spec.ReadinessGates {
			if !hasTrue(p.object.Status.Conditions, gate.ConditionType) {
				ready = corev1.PodCondition{Status: corev1.ConditionFalse, Reason: "ReadinessGatesNotReady",
					Message: fmt.Sprintf("corresponding condition of pod readiness gate %q is not True.", gate.ConditionType)}
			}
		}
	}
	set(corev1.PodReady, ready)
	return map[string]any{"phase": phase, "conditions": conditions, "containerStatuses": statuses}
}

func hasTrue(conditions []corev1.PodCondition, t corev1.PodConditionType) bool {
	for _, c := range conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
