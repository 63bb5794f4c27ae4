package gitops

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

func deploymentOf(containers, initContainers []corev1.Container) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "shop-primary", Namespace: "shop"}}
	d.Spec.Template.Spec.Containers, d.Spec.Template.Spec.InitContainers = containers, initContainers
	return d
}

// TestSetupPassesCheck: an Application that says what is printed has nothing left to refuse.
func TestSetupPassesCheck(t *testing.T) {
	app, proxy := corev1.Container{Name: "app", Image: "registry.example.com/shop:1"}, corev1.Container{Name: "proxy", Image: "registry.example.com/proxy:1"}
	prepare := corev1.Container{Name: "prepare", Image: "registry.example.com/shop:1"}
	for name, c := range map[string]struct {
		containers, init []corev1.Container
		route            *release.RouteName
		want             []any
	}{
		"one container":   {containers: []corev1.Container{app}, want: []any{".spec.template.spec.containers[].image"}},
		"a sidecar first": {containers: []corev1.Container{proxy, app}, want: []any{`.spec.template.spec.containers[] | select(.name == "app") | .image`}},
		"an HTTPRoute":    {containers: []corev1.Container{app}, route: &release.RouteName{Kind: "HTTPRoute", Name: "shop"}, want: []any{".spec.template.spec.containers[].image"}},
		"an init container": {containers: []corev1.Container{app, proxy}, init: []corev1.Container{prepare}, want: []any{
			`.spec.template.spec.containers[] | select(.name == "app") | .image`, ".spec.template.spec.initContainers[].image",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			deployment := deploymentOf(c.containers, c.init)
			parts, err := Setup{
				Controller: ArgoCD, Account: release.ObjectName{Namespace: "shop", Name: "crossbill"}, Application: release.ObjectName{Namespace: "argocd", Name: "shop"},
				Objects:    &release.Objects{Deployments: map[release.Track]string{release.Primary: "shop-primary"}, VirtualService: release.ObjectName{Name: "shop"}, Route: c.route},
				Deployment: deployment, Container: "app",
			}.Parts()
			if err != nil {
				t.Fatal(err)
			}
			rules, _, _ := unstructured.NestedSlice(parts[0].Object, "spec", "ignoreDifferences")
			if diff := cmp.Diff(c.want, rules[1].(map[string]any)["jqPathExpressions"]); diff != "" {
				t.Error(diff)
			}
			live := anApplication(func(o map[string]any) {
				o["spec"].(map[string]any)["ignoreDifferences"] = rules
				o["spec"].(map[string]any)["syncPolicy"] = parts[0].Object["spec"].(map[string]any)["syncPolicy"]
			}, set("syncPolicy.automated", map[string]any{}))
			deployment.Annotations = map[string]string{trackingID: "shop:apps/Deployment:shop/shop-primary"}
			route := aVirtualService("shop")
			if c.route != nil {
				route = byArgo("gateway.networking.k8s.io", "HTTPRoute", "shop", "shop", map[string]any{"spec": map[string]any{"rules": []any{map[string]any{"backendRefs": []any{map[string]any{"weight": int64(1)}}}}}})
			}
			controller, _ := controllerOf(t, ArgoCD, fakeClient(live), Options{Branch: "main"})
			remarks, err := controller.Check(t.Context(), []Object{{Group: "apps", Kind: "Deployment", Object: deployment, Paths: ImagePaths(deployment, "app")}, route})
			if err != nil || len(remarks) > 0 {
				t.Errorf("%v, remarks %q", err, remarks)
			}
		})
	}
}

func TestParseName(t *testing.T) {
	for text, want := range map[string]string{"a/b": "a/b", "b": "here/b", "/b": "here/b", "": "", "a/": "", "a/b/c": ""} {
		name, err := ParseName("--x", text, "here")
		got := ""
		if err == nil {
			got = name.Namespace + "/" + name.Name
		} else if !errors.As(err, new(*usererr.Error)) {
			t.Errorf("%q: %v", text, err)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if _, err := ParseName("--x", "b", ""); err == nil {
		t.Error("a name without any namespace is taken")
	}
}
