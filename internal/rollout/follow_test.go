package rollout_test

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
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

// autoscaled gives primary an HPA that measures its pods, and looks back for so many seconds, and the app as much traffic as
// so many replicas can serve.
func (w *world) autoscaled(least, most, window int32, demand float64) {
	w.Helper()
	w.must(w.kube.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(w.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "hpa"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &least, MaxReplicas: most,
			Metrics:  []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(100))}}}},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window}},
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{
				APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment", Name: w.set.Name(release.Primary)}},
	}, metav1.CreateOptions{}))
	w.server.mu.Lock()
	w.controllers.autoscaler.demand, w.observer.demand = demand, int32(math.Ceil(demand))
	w.server.mu.Unlock()
	w.controllers.hurry()
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

// TestFollowedSoon: an HPA is waited for no longer than it takes to measure a part: also when what the app needs is no whole
// number of replicas, and when primary had the same share before promotion. When the release needs more or less than
// what it replaces, one part takes as long as an HPA may take.
func TestFollowedSoon(t *testing.T) {
	const look = 10*time.Second + syncPeriod + 2*time.Second // how old metrics are, and until the HPA, and the job, look
	for name, c := range map[string]struct {
		had             int
		least           int32
		demand, demands float64 // replicas that all of the traffic needs, and that it does of the release
	}{
		"a whole number":      {had: 4, least: 1, demand: 4, demands: 4},
		"rounded up":          {had: 4, least: 1, demand: 3.1, demands: 3.1},
		"one replica of two":  {had: 2, least: 1, demand: 1.3, demands: 1.3},
		"the share as before": {had: 5, least: 2, demand: 4.9, demands: 4.9},
		"it needs less":       {had: 8, least: 1, demand: 7.5, demands: 5},
		"it needs more":       {had: 8, least: 1, demand: 7.5, demands: 9},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, "rest", func(w *world) {
				w.scale(release.Primary, c.had)
				w.autoscaled(c.least, 12, 0, c.demand)
				w.server.mu.Lock()
				w.controllers.autoscaler.lag = 10 * time.Second
				w.server.mu.Unlock()
				j := w.job("job")
				r := wanted("2")
				r.Weight = 50
				w.must(j.Canary(w.Context(), r))
				time.Sleep(5 * time.Minute) // its HPA follows primary's half
				w.must(judge(w.Context(), j.Cluster, release.Healthy))
				w.server.mu.Lock()
				w.controllers.autoscaler.demand = c.demands
				w.server.mu.Unlock()
				began := time.Now()
				w.must(j.Promote(w.Context()))
				took, parts := time.Since(began), w.parts(j)
				bound := time.Duration(strings.Count(parts, ", ")) * look
				if c.demands != c.demand {
					bound += 2 * time.Minute
				}
				if took > bound {
					t.Errorf("promotion took %s, want at most %s: %s", took, bound, parts)
				}
				if o := w.controllers.autoscaler.overloads; len(o) > 0 && c.demands <= c.demand { // else nobody could know
					t.Errorf("%s", o)
				}
			})
		})
	}
}
