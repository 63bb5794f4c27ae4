package rollout

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func sized(n int32) *appsv1.Deployment {
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &n}}
}

func TestCanaryReplicas(t *testing.T) {
	for name, test := range map[string]struct {
		primary, canary *appsv1.Deployment
		routed, weight  int
		want            int32
	}{
		"a tenth of two":            {primary: sized(2), weight: 10, want: 1},
		"a tenth of 25, rounded up": {primary: sized(25), weight: 10, want: 3},
		"half of ten":               {primary: sized(10), weight: 50, want: 5},
		"no primary":                {weight: 10, want: 1},
		"primary shrunk by its HPA to what it serves": {primary: sized(5), canary: sized(5), routed: 50, weight: 90, want: 9},
		"never smaller than it is":                    {primary: sized(2), canary: sized(5), routed: 50, weight: 60, want: 5},
	} {
		if got := CanaryReplicas(test.primary, test.canary, test.routed, test.weight); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// TestADeadlineOfAnotherRollout: the controller keeps the condition of the rollout before for a while.
func TestADeadlineOfAnotherRollout(t *testing.T) {
	before, now := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	with := func(at metav1.Time, ready int32) *appsv1.Deployment {
		d := sized(2)
		d.Status = appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: ready, Conditions: []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentProgressing, Reason: "ProgressDeadlineExceeded", LastUpdateTime: at},
		}}
		return d
	}
	if done, _, err := rolledOut(with(before, 1), before); done || err != nil {
		t.Errorf("another rollout's deadline: %v, %v", done, err)
	}
	if _, _, err := rolledOut(with(now, 1), before); err == nil {
		t.Error("this rollout's deadline is overlooked")
	}
	if done, _, err := rolledOut(with(before, 2), before); !done || err != nil {
		t.Errorf("a rollout that is complete: %v, %v", done, err)
	}
	behind := with(before, 2)
	behind.Generation = 3
	if done, _, _ := rolledOut(behind, before); done {
		t.Error("a status of an older generation counts")
	}
}

// TestOtherImages: what pods run is known from the digest that their node pulled, of the app's container alone.
func TestOtherImages(t *testing.T) {
	pod := func(name, container, imageID string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: container, ImageID: imageID}}}}
	}
	pods := []corev1.Pod{
		pod("right", "app", "registry.example.com/app@sha256:a"), pod("mirrored", "app", "mirror.example.com/app@sha256:a"), pod("dockershim", "app", "docker-pullable://app@sha256:a"),
		pod("local", "app", "sha256:c"), pod("not started", "app", ""), pod("sidecar", "istio-proxy", "proxyv2@sha256:d"), pod("wrong", "app", "registry.example.com/app@sha256:b"),
	}
	if got := otherImages(pods, "app", "sha256:a"); len(got) != 1 || got["sha256:b"] != "wrong" {
		t.Errorf("%v", got)
	}
}

// TestProgress: what comes and goes holds no wait up: between two generations there is as much progress as there are
// pods to wait for, however often they change.
func TestProgress(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		const pods = 4
		count := rapid.IntRange(0, pods)
		marks := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mark {
			return mark{updated: int32(count.Draw(t, "updated")), available: int32(count.Draw(t, "available")), ready: count.Draw(t, "ready"), left: int32(count.Draw(t, "left"))}
		}), 0, 200).Draw(r, "marks")
		best := &mark{left: pods}
		progress := 0
		for _, m := range marks {
			if further(&best, m) {
				progress++
			}
			if further(&best, m) {
				r.Fatalf("%+v twice is progress", m)
			}
		}
		if progress > 4*pods {
			r.Errorf("%d times progress in %d marks", progress, len(marks))
		}
		next := *best
		next.generation++
		next.updated = 0
		if !further(&best, next) || !further(&best, mark{generation: next.generation, updated: 1, left: 9}) {
			r.Error("a new generation is no progress, or none follows it")
		}
	})
}
