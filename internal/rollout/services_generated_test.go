package rollout

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// calling is the job of an app behind a GRPCRoute with one rule, for the calls of one service.
func calling() (s services, route *unstructured.Unstructured, method map[string]any) {
	method = map[string]any{"type": "Exact", "service": "shop.Cart"}
	backends := []any{map[string]any{"name": "cart-primary", "port": int64(80), "weight": int64(100)}, map[string]any{"name": "cart-canary", "port": int64(80), "weight": int64(0)}}
	route = &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": manifest.GatewayGroup + "/v1", "kind": "GRPCRoute", "metadata": map[string]any{"name": "cart", "namespace": "prod"},
		"spec": map[string]any{"rules": []any{map[string]any{"name": "release", "matches": []any{map[string]any{"method": method}}, "backendRefs": backends}}},
	}}
	named := func(name string) *corev1.Service { return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	set := &manifest.Set{Deployment: &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "cart-primary"}}, Service: named("cart"), Route: route, Tracks: map[release.Track]*corev1.Service{release.Primary: named("cart-primary"), release.Canary: named("cart-canary")}}
	return services{&job{Cluster: &Cluster{Manifests: set, Namespace: "prod"}}}, route, method
}

// TestPreviewOfCalls: the rule of a preview beside a GRPCRoute has the calls of the app's with its header, and no method of HTTP,
// which is no match of a GRPCRoute.
func TestPreviewOfCalls(t *testing.T) {
	s, route, method := calling()
	rules, _, err := unstructured.NestedSlice(route.Object, "spec", "rules")
	if err != nil {
		t.Fatal(err)
	}
	match, err := release.ParseMatch("preview.header", "header:x-crossbill-preview=pr-42")
	if err != nil {
		t.Fatal(err)
	}
	rule := rules[0].(map[string]any)
	rule["filters"] = []any{map[string]any{"type": "RequestMirror"}}
	want := map[string]any{
		"name":        "release",
		"matches":     []any{map[string]any{"method": method, "headers": []any{map[string]any{"name": "x-crossbill-preview", "type": "Exact", "value": "pr-42"}}}},
		"backendRefs": []any{map[string]any{"name": "cart-preview-pr-42", "port": int64(80), "weight": int64(1)}},
	}
	if diff := cmp.Diff(want, s.previewRule(rule, manifest.Route{Primary: 0, Canary: 1}, "pr-42", match)); diff != "" {
		t.Errorf("rule (-want +got):\n%s", diff)
	}
	rule["matches"] = []any{map[string]any{"headers": []any{map[string]any{"name": "X-Crossbill-Preview", "value": "a"}}}}
	if got := s.previewRule(rule, manifest.Route{Primary: 0, Canary: 1}, "pr-42", match); len(got["matches"].([]any)) > 0 {
		t.Errorf("a header cannot be compared twice: %v", got)
	}
}

// TestTestersOfCalls: a GRPCRoute has testers' rules too, with its own kind of matches. Its calls are POST, so none is copied.
func TestTestersOfCalls(t *testing.T) {
	s, route, method := calling()
	want := traffic{match: &release.Match{Header: "x-user", Kind: release.MatchPrefix, Value: "q."}}
	if err := s.refusal(route, want); err != nil {
		t.Fatal(err)
	}
	_, desired, places, err := s.generatedRules(route, want)
	if err != nil || len(desired) != 2 {
		t.Fatalf("%v, %v", desired, err)
	}
	added := map[string]any{
		"name":        "crossbill-match-0",
		"matches":     []any{map[string]any{"method": method, "headers": []any{map[string]any{"name": "x-user", "type": "RegularExpression", "value": `^(?:q\..*)$`}}}},
		"backendRefs": []any{map[string]any{"name": "cart-canary", "port": int64(80), "weight": int64(100)}},
	}
	if diff := cmp.Diff(added, desired[0]); diff != "" {
		t.Errorf("rule (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]manifest.Route{{HTTP: 0, Primary: 0, Canary: 1}}, places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	if err := s.carries(traffic{mirror: 5}); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "the calls of GRPCRoute prod/cart are POST") {
		t.Error(err)
	}
}
