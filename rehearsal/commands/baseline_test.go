package commands_test

import (
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// testBaseline releases with a baseline under steady traffic through an Envoy: promoted, then rolled back and promoted. No request
// is lost, callers get no other version than primary's and the canary's, and the controllers leave each Deployment its own pods.
// Nothing is left of a baseline when primary has another version.
func testBaseline(a *app, manifests func(*app)) {
	manifests(a)
	looks := 0
	for _, c := range a.traffic(nil, "drains", func(a *app, w *weights, image string, round int) []off {
		want := release.Release{ID: "beside-" + string(rune('a'+round)), Image: images[image], Weight: 10, Baseline: true}
		return a.looking(w, want, image, round, func(inFlight bool) {
			looks++
			a.beside(inFlight)
		})
	}) {
		a.Logf("%d looks, %+v", looks, c)
		if c.Lost != 0 || c.WrongVersion != 0 || c.Requests == 0 || looks < 6 {
			a.Errorf("of %d requests %d were lost, %d answered by the wrong version: %v", c.Requests, c.Lost, c.WrongVersion, c.Problems)
		}
	}
}

// beside checks that an app has a baseline that serves beside primary, or that nothing of one is left.
func (a *app) beside(there bool) {
	a.Helper()
	ctx, name := a.Context(), a.name+"-"+string(manifest.BaselineTrack)
	deployments, err1 := a.kube.AppsV1().Deployments(a.namespace).List(ctx, metav1.ListOptions{})
	sets, err2 := a.kube.AppsV1().ReplicaSets(a.namespace).List(ctx, metav1.ListOptions{})
	pods, err3 := a.kube.CoreV1().Pods(a.namespace).List(ctx, metav1.ListOptions{LabelSelector: manifest.BaselineLabel})
	slices, err4 := a.kube.DiscoveryV1().EndpointSlices(a.namespace).List(ctx, metav1.ListOptions{})
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			a.Fatal(err)
		}
	}
	replicas := map[string]int32{}
	for _, d := range deployments.Items {
		if replicas[d.Name] = *d.Spec.Replicas; d.Status.Replicas != *d.Spec.Replicas {
			a.Errorf("Deployment %s has %d pods, and asks for %d", d.Name, d.Status.Replicas, *d.Spec.Replicas)
		}
	}
	for _, set := range sets.Items {
		owner := metav1.GetControllerOf(&set)
		if owner == nil || !strings.HasPrefix(set.Name, owner.Name+"-") {
			a.Errorf("ReplicaSet %s belongs to %+v", set.Name, owner)
		}
		if !there && strings.HasPrefix(set.Name, name) {
			a.Errorf("ReplicaSet %s is left", set.Name)
		}
	}
	if !there {
		if _, left := replicas[name]; left || len(pods.Items) > 0 {
			a.Errorf("of a baseline there are left %v and %d pods", replicas, len(pods.Items))
		}
		return
	}
	if replicas[name] != replicas[a.name+"-canary"] || int(replicas[name]) != len(pods.Items) {
		a.Errorf("replicas are %v, and %d pods are a baseline's", replicas, len(pods.Items))
	}
	for _, pod := range pods.Items {
		serves := false
		for _, slice := range slices.Items {
			for _, endpoint := range slice.Endpoints {
				of := slice.Labels[discoveryv1.LabelServiceName]
				serves = serves || endpoint.TargetRef.Name == pod.Name && *endpoint.Conditions.Ready && !strings.HasSuffix(of, "-canary")
			}
		}
		if !serves {
			a.Errorf("pod %s is no ready endpoint", pod.Name)
		}
	}
}
