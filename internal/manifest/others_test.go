package manifest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// othersOfApp are objects beside the app's, in an order in which they could not be applied.
const othersOfApp = `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: hpa}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: qwik-node-app-primary}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: theirs}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: qwik-node-app}}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: monitor}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: binding}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: role}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: account, uid: x, resourceVersion: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: dashboards}
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: pull}
stringData: {password: planted}
---
apiVersion: v1
kind: Namespace
metadata: {name: prod}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {generateName: data-}
`

// TestApplied: the other objects come in an order in which they can be applied, what scales the Deployment by its name
// leads to primary's, and what is not applied is named with why, without a Secret's values.
func TestApplied(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../k8s")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "others.yaml"), []byte(othersOfApp), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	applied, left, err := set.Applied("prod")
	if err != nil {
		t.Fatal(err)
	}
	var names, needed []string
	for _, o := range applied {
		name := o.GetKind() + " " + o.GetName()
		if o.GetKind() == "HorizontalPodAutoscaler" {
			target, _ := o.Object["spec"].(map[string]any)["scaleTargetRef"].(map[string]any)["name"].(string)
			name += " of " + target
		}
		names = append(names, name)
		if Needed(o) {
			needed = append(needed, o.GetName())
		}
		if o.GetUID() != "" || o.GetResourceVersion() != "" {
			t.Errorf("%s has what its server keeps", name)
		}
	}
	want := []string{
		"NetworkPolicy qwik-node-app", "ServiceAccount account", "ConfigMap dashboards", "Role role", "RoleBinding binding",
		"HorizontalPodAutoscaler hpa of qwik-node-app-primary", "HorizontalPodAutoscaler theirs of qwik-node-app", "ServiceMonitor monitor",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"account", "dashboards", "role", "binding"}, needed); diff != "" {
		t.Errorf("needed: -want +got:\n%s", diff)
	}
	remarks, err := set.RemarksApplied("prod")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(remarks, "\n")
	for _, says := range []string{"applied with the release: NetworkPolicy qwik-node-app, ServiceAccount account,", "Secret pull (no container", "Namespace prod (it is the release's own)", "PersistentVolumeClaim data- (it has no name)"} {
		if !strings.Contains(text, says) {
			t.Errorf("%q does not say %q", text, says)
		}
	}
	if strings.Contains(text+strings.Join(left, ""), "planted") {
		t.Error("a Secret's value is named")
	}

	bound, err := set.Bind([]byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := bound.Applied("prod")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(applied, again); diff != "" {
		t.Errorf("of a bound set: -want +got:\n%s", diff)
	}
}

// TestRetarget: where the Deployment has another name in its manifest than the tracks', what scales it by that name leads to
// primary's.
func TestRetarget(t *testing.T) {
	rendered, err := RenderedFrom("others.yaml", []byte(othersOfApp))
	if err != nil {
		t.Fatal(err)
	}
	set, err := Load("../../k8s")
	if err != nil {
		t.Fatal(err)
	}
	set.Written = "qwik-node-app"
	for i := range rendered.Objects {
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(rendered.Objects[i].Raw); err != nil {
			t.Fatal(err)
		}
		set.Others = append(set.Others, o)
	}
	for _, o := range set.Others {
		if o.GetName() != "theirs" {
			continue
		}
		if err := set.retarget(o); err != nil {
			t.Fatal(err)
		}
		if name, _, _ := unstructured.NestedString(o.Object, "spec", "scaleTargetRef", "name"); name != "qwik-node-app-primary" {
			t.Errorf("it scales %s", name)
		}
	}
}
