package cluster_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/our-org/crossbill/rehearsal/kubelet"
)

// createPod creates a pod of the test's app, changed by edit, and removes it when the test ends.
func createPod(t *testing.T, name string, edit func(*corev1.Pod)) {
	t.Helper()
	grace := int64(2)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "app", Image: image(t)}},
		},
	}
	if edit != nil {
		edit(p)
	}
	client := clientset(t).CoreV1().Pods(running.Namespace)
	if _, err := client.Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := client.Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

func pod(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	p, err := clientset(t).CoreV1().Pods(running.Namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func probe(path string, edit func(*corev1.Probe)) *corev1.Probe {
	p := &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1}
	p.HTTPGet = &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(3000)}
	if edit != nil {
		edit(p)
	}
	return p
}

func TestPodRunsAsItsImageAndSpecSay(t *testing.T) {
	yes := true
	createPod(t, "self", func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = probe("/ready", nil)
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes, RunAsNonRoot: &yes}
	})
	eventually(t, func() error {
		p := pod(t, "self")
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("not ready: %+v", p.Status)
	})
	p := pod(t, "self")
	s := p.Status.ContainerStatuses[0]
	if p.Status.Phase != corev1.PodRunning || s.ImageID != image(t) || s.State.Running == nil || !s.Ready || !*s.Started || s.RestartCount != 0 {
		t.Errorf("phase %s, status %+v", p.Status.Phase, s)
	}
	response, err := http.Get("http://" + p.Status.PodIP + ":3000/self")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	got := string(body)
	user := 65532
	if onlyOneUser(t) {
		user = 0 // pods run as the one who started the sandbox
	}
	if want := fmt.Sprintf("uid=%d gid=%d written=false host=%s hostname=self", user, user, p.Status.PodIP); got != want {
		t.Errorf("the process says %q, want %q", got, want)
	}
}

// onlyOneUser tells whether the sandbox was started without root.
func onlyOneUser(t *testing.T) bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))[2] == "1"
}

// What a person looks at when a pod does not come up.
func TestPodsShowWhyTheyAreNotReady(t *testing.T) {
	root, yes := int64(0), true
	for _, tt := range []struct {
		name  string
		edit  func(*corev1.Pod)
		check func(p *corev1.Pod, s corev1.ContainerStatus) bool
		event string // reason: message
	}{
		{"crash", func(p *corev1.Pod) { p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "CRASH", Value: "1"}} },
			func(p *corev1.Pod, s corev1.ContainerStatus) bool {
				return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" && s.RestartCount >= 1 &&
					s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 3
			}, "BackOff: Back-off restarting failed container app in pod crash"},
		{"no-image", func(p *corev1.Pod) {
			p.Spec.Containers[0].Image = running.RegistryHost + "/demo/app@sha256:" + strings.Repeat("0", 64)
		}, func(p *corev1.Pod, s corev1.ContainerStatus) bool {
			return p.Status.Phase == corev1.PodPending && s.State.Waiting != nil && s.State.Waiting.Reason == "ImagePullBackOff" &&
				strings.Contains(s.State.Waiting.Message, "ErrImagePull") && strings.Contains(s.State.Waiting.Message, "MANIFEST_UNKNOWN")
		}, "Failed: Failed to pull image"},
		{"as-root", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &root}
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes}
		}, func(p *corev1.Pod, s corev1.ContainerStatus) bool {
			return s.State.Waiting != nil && s.State.Waiting.Reason == "CreateContainerConfigError"
		}, "Failed: Error: container has runAsNonRoot and image will run as root"},
		{"unsupported", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "example.com/init"}}
		}, func(p *corev1.Pod, s corev1.ContainerStatus) bool {
			return s.State.Waiting != nil && s.State.Waiting.Reason == "CreateContainerConfigError"
		}, "Failed: Error: init containers are not supported in the rehearsal"},
		{"unready", func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "UNREADY", Value: "1"}}
			p.Spec.Containers[0].ReadinessProbe = probe("/ready", nil)
		}, func(p *corev1.Pod, s corev1.ContainerStatus) bool {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse && c.Message == "containers with unready status: [app]" {
					return s.State.Running != nil && p.Status.Phase == corev1.PodRunning
				}
			}
			return false
		}, "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 503"},
		{"not-live", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = probe("/fail", func(p *corev1.Probe) { p.InitialDelaySeconds = 1 })
		}, func(p *corev1.Pod, s corev1.ContainerStatus) bool {
			return s.RestartCount >= 1
		}, "Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 500"},
		{"not-started", func(p *corev1.Pod) {
			p.Spec.Containers[0].StartupProbe = probe("/fail", func(p *corev1.Probe) { p.FailureThreshold = 2 })
		}, func(p *corev1.Pod, s corev1.ContainerStatus) bool {
			return s.RestartCount >= 1 && !*s.Started
		}, "Killing: Container app failed startup probe, will be restarted"},
		{"oom", func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "EATS", Value: "40"}, {Name: "AT_ONCE", Value: "1"}}
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
		}, func(p *corev1.Pod, s corev1.ContainerStatus) bool {
			last := s.LastTerminationState.Terminated
			return s.RestartCount == 1 && last != nil && last.Reason == "OOMKilled" && last.ExitCode == 137
		}, "Started: Started container app"},
		{"one-shot", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "CRASH", Value: "1"}}
		}, func(p *corev1.Pod, s corev1.ContainerStatus) bool {
			return p.Status.Phase == corev1.PodFailed && s.RestartCount == 0 && s.State.Terminated != nil && s.State.Terminated.ExitCode == 3
		}, "Started: Started container app"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			createPod(t, tt.name, tt.edit)
			eventually(t, func() error {
				p := pod(t, tt.name)
				if s := p.Status.ContainerStatuses; len(s) != 1 || !tt.check(p, s[0]) {
					return fmt.Errorf("status %+v", p.Status)
				}
				return nil
			})
			eventually(t, func() error {
				events, err := clientset(t).CoreV1().Events(running.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + tt.name})
				if err != nil {
					return err
				}
				var all []string
				for _, e := range events.Items {
					all = append(all, e.Reason+": "+e.Message)
				}
				if !strings.Contains(strings.Join(all, "\n"), tt.event) {
					return fmt.Errorf("no event %q in %q", tt.event, all)
				}
				return nil
			})
		})
	}
}

func TestDeletedPodEndsInOrder(t *testing.T) {
	for _, tt := range []struct {
		name  string
		edit  func(*corev1.Pod)
		least time.Duration
	}{
		{"at-once", func(p *corev1.Pod) { *p.Spec.TerminationGracePeriodSeconds = 60 }, 0},
		{"pre-stop", func(p *corev1.Pod) {
			*p.Spec.TerminationGracePeriodSeconds = 60
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 2}}}
		}, 2 * time.Second},
		{"drains", func(p *corev1.Pod) {
			*p.Spec.TerminationGracePeriodSeconds = 60
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "DRAIN", Value: "2s"}}
		}, 2 * time.Second},
		{"killed-after-grace", func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "DRAIN", Value: "1h"}}
		}, 2 * time.Second},
		{"never-started", func(p *corev1.Pod) {
			*p.Spec.TerminationGracePeriodSeconds = 60
			p.Spec.Containers[0].Image = "127.0.0.1:1/nowhere:1"
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			createPod(t, tt.name, tt.edit)
			var address string
			eventually(t, func() error {
				p := pod(t, tt.name)
				address = p.Status.PodIP + ":3000"
				if tt.name == "never-started" {
					if s := p.Status.ContainerStatuses; len(s) == 0 || s[0].State.Waiting == nil || !strings.Contains(s[0].State.Waiting.Reason, "Pull") {
						return fmt.Errorf("status %+v", p.Status)
					}
					return nil
				}
				return dial(address)
			})
			client := clientset(t).CoreV1().Pods(running.Namespace)
			began := time.Now()
			if err := client.Delete(t.Context(), tt.name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				served := dial(address) == nil // asked first: the object may not go before the process
				_, err := client.Get(t.Context(), tt.name, metav1.GetOptions{})
				if !apierrors.IsNotFound(err) {
					return fmt.Errorf("still there (%v)", err)
				}
				if served && dial(address) == nil {
					t.Errorf("the object is gone, but its process still listens")
				}
				return nil
			})
			if took := time.Since(began); took < tt.least || took > 30*time.Second { // else the grace period of 60 s is waited for
				t.Errorf("gone after %s, want %s to 30 s", took, tt.least)
			}
		})
	}
}

func dial(address string) error {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// A node that is gone: its pod stays as it was for whoever asks the API server, answers nobody, and is never gone.
func TestPodOfALostNode(t *testing.T) {
	createPod(t, "lost", func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = probe("/ready", nil) })
	ready := func() error {
		if p := pod(t, "lost"); len(p.Status.ContainerStatuses) == 0 || !p.Status.ContainerStatuses[0].Ready {
			return fmt.Errorf("not ready: %+v", p.Status)
		}
		return nil
	}
	eventually(t, ready)
	client := clientset(t).CoreV1().Pods(running.Namespace)
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"true"}}}`, kubelet.GoneAnnotation)
	if _, err := client.Patch(t.Context(), "lost", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	impatient := http.Client{Timeout: 200 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, func() error {
		response, err := impatient.Get("http://" + pod(t, "lost").Status.PodIP + ":3000/health")
		if err != nil {
			return nil
		}
		response.Body.Close()
		return fmt.Errorf("it answers %s", response.Status)
	})
	if err := client.Delete(t.Context(), "lost", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second) // twice its grace period
	if err := ready(); err != nil {
		t.Error(err)
	}
	now := int64(0)
	if err := client.Delete(t.Context(), "lost", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
}
