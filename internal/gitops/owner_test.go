package gitops

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOwnerOf(t *testing.T) {
	byArgo := []metav1.ManagedFieldsEntry{{Manager: "kubectl"}, {Manager: "argocd-controller"}}
	for _, c := range []struct {
		name   string
		object metav1.ObjectMeta
		want   string // of the owner; "" for none
	}{
		{"nothing", metav1.ObjectMeta{}, ""},
		{"Flux", metav1.ObjectMeta{Labels: map[string]string{"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}}, "Flux's Kustomization flux-system/apps"},
		{"Flux without a namespace", metav1.ObjectMeta{Labels: map[string]string{"kustomize.toolkit.fluxcd.io/name": "apps"}}, ""},
		{"Helm by Flux", metav1.ObjectMeta{Labels: map[string]string{"helm.toolkit.fluxcd.io/name": "shop", "helm.toolkit.fluxcd.io/namespace": "shop"}}, "Flux's HelmRelease shop/shop"},
		{"Argo CD", metav1.ObjectMeta{Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/shop-primary"}}, "Argo CD's Application shop"},
		{"Argo CD in another namespace", metav1.ObjectMeta{Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "teams_shop:apps/Deployment:shop/shop-primary"}}, "Argo CD's Application teams/shop"},
		{"Argo CD with an empty group", metav1.ObjectMeta{Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "shop:/Service:shop/shop"}}, "Argo CD's Application shop"},
		{"no tracking id", metav1.ObjectMeta{Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "shop"}}, ""},
		{"Argo CD by label", metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/instance": "shop"}, ManagedFields: byArgo}, "Argo CD's Application shop"},
		{"a chart's label", metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/instance": "shop"}}, ""},
		{"a chart's label beside the annotation", metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/instance": "chart"}, ManagedFields: byArgo, Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/x"}}, "Argo CD's Application shop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			owner, ok := OwnerOf(&c.object)
			got := ""
			if ok {
				got = owner.String()
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
