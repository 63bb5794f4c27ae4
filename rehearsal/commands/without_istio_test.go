package commands_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// TestMissingCRDs takes Istio's types away, and brings them back for the tests that run side by side after it.
func TestMissingCRDs(t *testing.T) {
	a := newApp(t, "crds")
	objects, err := dynamic.NewForConfig(running.RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	definitions := objects.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	const name = "virtualservices.networking.istio.io"
	definition, err := definitions.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := definitions.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	served := func(want bool) func() error {
		return func() error {
			resources, err := a.kube.Discovery().ServerResourcesForGroupVersion("networking.istio.io/v1")
			if err != nil {
				return err
			}
			is := slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Kind == "VirtualService" })
			if is != want {
				return fmt.Errorf("VirtualService is served: %t", is)
			}
			return nil
		}
	}
	a.eventually(served(false))
	defer func() { // for the tests that follow
		definition.SetResourceVersion("")
		definition.SetUID("")
		unstructured.RemoveNestedField(definition.Object, "status")
		if _, err := definitions.Create(t.Context(), definition, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		a.eventually(served(true))
	}()
	if code, out := a.crossbill("canary", "--image", images["one"]); code != 2 || !strings.Contains(out, "CRD of VirtualService") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if got := a.image("primary"); got != "" {
		t.Errorf("primary has %s", got)
	}
}
