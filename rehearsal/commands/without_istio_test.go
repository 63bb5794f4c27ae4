package commands_test

import (
	"errors"
	"strings"
	"testing"
)

// TestMissingCRDs takes Istio's types away, so it comes last: tests run in the order of their files' names.
func TestMissingCRDs(t *testing.T) {
	a := newApp(t, "crds")
	discovery := a.kube.Discovery().RESTClient()
	if err := discovery.Delete().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/virtualservices.networking.istio.io").Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	a.eventually(func() error {
		resources, err := a.kube.Discovery().ServerResourcesForGroupVersion("networking.istio.io/v1")
		if err != nil {
			return err
		}
		for _, r := range resources.APIResources {
			if r.Kind == "VirtualService" {
				return errors.New("VirtualService is still served")
			}
		}
		return nil
	})
	if code, out := a.crossbill("canary", "--image", images["one"]); code != 2 || !strings.Contains(out, "CRD of VirtualService") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if got := a.image("primary"); got != "" {
		t.Errorf("primary has %s", got)
	}
}
