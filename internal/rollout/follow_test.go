package rollout_test

import (
	"context"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// parts are the routes that a job wrote, in order.
func (w *world) parts(j *job) string {
	var routes []string
	for _, did := range w.did(j) {
		if route, ok := strings.CutPrefix(did, "update vs "); ok {
			routes = append(routes, route)
		}
	}
	return strings.Join(routes, ", ")
}

// forgetful gives primary an HPA that forgets at once.
func (w *world) forgetful() {
	w.Helper()
	w.hpa(w.set.Name(release.Primary), 8)
	hpas := w.kube.AutoscalingV2().HorizontalPodAutoscalers(namespace)
	hpa, err := hpas.Get(w.Context(), "hpa", metav1.GetOptions{})
	w.must(hpa, err)
	hpa.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(0))}}
	w.must(hpas.Update(w.Context(), hpa, metav1.UpdateOptions{}))
}

// TestShrunkInAPart: an HPA leaves primary less than its window says, while the pods of a part get ready: the window of
// kube-controller-manager is another one. The part is what is there, not what was to be.
func TestShrunkInAPart(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.hpa(w.set.Name(release.Primary), 8)
		w.shrunk()
		j := w.job("job")
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.server.mu.Lock()
		w.controllers.shrink[w.set.Name(release.Primary)] = 1
		w.server.mu.Unlock()
		w.observer.demand = 6
		ctx, stop := context.WithCancel(w.Context())
		log := j.Log
		j.Log = func(e rollout.Event) {
			if log(e); strings.HasPrefix(e.Message, "routes ") && !strings.HasPrefix(e.Message, "routes 0%") {
				stop()
			}
		}
		_, err := j.Promote(ctx)
		if got, want := w.parts(j), "0/100, 20/80"; got != want {
			t.Errorf("with one replica of the six that all of it needs, routes %s, want %s (%v)", got, want, err)
		}
	})
}

// TestKilledInAPart: the job dies once primary has its first part. The next one goes on in parts.
func TestKilledInAPart(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.forgetful()
		w.scale(release.Primary, 6)
		j := w.job("job")
		w.must(j.Canary(w.Context(), wanted("2")))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		log := j.Log
		j.Log = func(e rollout.Event) {
			if log(e); strings.HasPrefix(e.Message, "routes 20%") {
				j.mu.Lock()
				j.killed = true
				j.mu.Unlock()
				j.kill()
			}
		}
		if _, err := j.Promote(w.Context()); err == nil {
			t.Fatal("it was not killed")
		}
		again := w.job("again")
		w.must(again.Promote(w.Context()))
		if got := w.parts(again); !strings.HasPrefix(got, "25/75, ") {
			t.Errorf("routes %s after 20%%", got)
		}
	})
}

// TestUnpinnedParts: both tracks run the release when the traffic returns. Browsers that a sticky release had moved to the
// canary return with it: else they would all come back with the last part.
func TestUnpinnedParts(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.hpa(w.set.Name(release.Primary), 8)
		w.scale(release.Primary, 6)
		j := w.job("job")
		r := wanted("2")
		r.Sticky = &release.Sticky{Assets: "/build/"}
		w.must(j.Canary(w.Context(), r))
		w.must(j.Shift(w.Context(), []int{50}, 0))
		w.scale(release.Primary, 3)
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		for _, line := range j.logged {
			if strings.Contains(line, "routes 62%") && strings.Contains(line, "browsers stay where they are") {
				t.Errorf("%s", line)
			}
		}
	})
}
