package rollout_test

import (
	"fmt"
	"math"
	"slices"
	"time"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"github.com/our-org/crossbill/internal/manifest"
)

// autoscaler does what the horizontal Pod autoscaler does: every 15 seconds it takes a Deployment to what its share of the
// traffic needs, as the metrics show it, within its bounds; up at once, down to the most of its window. One without
// replicas is left alone. It was checked against pkg/controller/podautoscaler/horizontal.go. Where it differs: its
// metrics are exact, and know the load of pods that are not ready; there are no policies.
type autoscaler struct {
	demand float64       // replicas that all of the traffic needs; 0: it does nothing
	lag    time.Duration // how old the metrics are
	looked time.Time
	loads  map[string][]load // by Deployment, each second
	wanted map[string][]want // by Deployment, of its window

	overloads []string // seconds in which a Deployment had a third more traffic than its pods are for
}

// load is what a Deployment had to do in a second, in replicas, and how many it had ready for it.
type load struct {
	at    time.Time
	needs float64
	ready int32
}

// want is how many replicas the metrics asked for.
type want struct {
	at       time.Time
	replicas int32
}

const syncPeriod = 15 * time.Second

// run lets a second pass: it measures, and scales when it is time.
func (a *autoscaler) run(c *controllers, deployments []*appsv1.Deployment) {
	routes := get[networking.VirtualService](c.server, "virtualservices")
	for _, d := range deployments {
		l := load{time.Now(), a.demand * float64(shareOf(routes, d)) / 100, d.Status.ReadyReplicas}
		if all := a.loads[d.Name]; len(all) > 0 && l.at.Sub(all[len(all)-1].at) < time.Second {
			continue
		}
		a.loads[d.Name] = append(a.loads[d.Name], l)
		if l.needs > 1.3*float64(l.ready) {
			a.overloads = append(a.overloads, fmt.Sprintf("%s: %s needs %.1f replicas, %d are ready", l.at.Format(time.TimeOnly), d.Name, l.needs, l.ready))
		}
	}
	if time.Since(a.looked) < syncPeriod {
		return
	}
	a.looked = time.Now()
	for _, hpa := range get[autoscalingv2.HorizontalPodAutoscaler](c.server, "horizontalpodautoscalers") {
		for _, d := range deployments {
			if d.Name == hpa.Spec.ScaleTargetRef.Name && d.Spec.Replicas != nil && *d.Spec.Replicas > 0 && d.DeletionTimestamp == nil {
				a.scale(c, hpa, d)
			}
		}
	}
}

// scale is one look of an autoscaler.
func (a *autoscaler) scale(c *controllers, hpa *autoscalingv2.HorizontalPodAutoscaler, d *appsv1.Deployment) {
	now, has, seen := time.Now(), *d.Spec.Replicas, load{}
	for _, l := range a.loads[d.Name] {
		if now.Sub(l.at) >= a.lag {
			seen = l
		}
	}
	if seen.at.IsZero() {
		return
	}
	needs, least := int32(math.Ceil(seen.needs-1e-9)), int32(1)
	if r := seen.needs / float64(has); r > 1 && r <= 1.1 || r < 1 && r >= 0.9 {
		needs = has // its tolerance
	}
	if hpa.Spec.MinReplicas != nil {
		least = *hpa.Spec.MinReplicas
	}
	needs = min(max(needs, least), hpa.Spec.MaxReplicas)
	window := 5 * time.Minute
	if b := hpa.Spec.Behavior; b != nil && b.ScaleDown != nil && b.ScaleDown.StabilizationWindowSeconds != nil {
		window = time.Duration(*b.ScaleDown.StabilizationWindowSeconds) * time.Second
	}
	lately := append(slices.DeleteFunc(a.wanted[d.Name], func(w want) bool { return now.Sub(w.at) > window }), want{now, needs})
	a.wanted[d.Name] = lately
	most := slices.MaxFunc(lately, func(a, b want) int { return int(a.replicas - b.replicas) }).replicas
	to := max(needs, min(has, most))
	utilization := int32(seen.needs * 100 / float64(max(1, has)))
	hpa = hpa.DeepCopy()
	hpa.Status = autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: has, DesiredReplicas: to, CurrentMetrics: []autoscalingv2.MetricStatus{
		{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{Name: "cpu", Current: autoscalingv2.MetricValueStatus{AverageUtilization: &utilization}}},
	}}
	set(c, "horizontalpodautoscalers", hpa)
	if to != has {
		d.Spec.Replicas = &to
		set(c, "deployments", d)
	}
}

// shareOf is how much of the traffic the pods of a Deployment get, in percent.
func shareOf(routes []*networking.VirtualService, d *appsv1.Deployment) int32 {
	for _, vs := range routes {
		for _, to := range vs.Spec.Http[len(vs.Spec.Http)-1].Route {
			if to.Destination.Subset == d.Spec.Template.Labels[manifest.TrackLabel] {
				return to.Weight
			}
		}
	}
	return 0
}
