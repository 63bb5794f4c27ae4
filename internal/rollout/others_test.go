package rollout_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// othersApp is the prefix of a stage of an app whose releases apply other objects too.
const othersApp = "others, "

// otherManifests are these objects: the first and the last one are new.
const otherManifests = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: qwik-node-app-sa}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: qwik-node-app-pdb, labels: {release: "2"}}
spec: {minAvailable: 2, unhealthyPodEvictionPolicy: AlwaysAllow, selector: {matchLabels: {app: qwik-node-app}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: qwik-node-app-role}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: qwik-node-app-np}
spec: {podSelector: {matchLabels: {app: qwik-node-app}}, policyTypes: [Ingress], ingress: [{}]}
`

// otherMade are those of them that the cluster has, as somebody has made them.
const otherMade = `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: qwik-node-app-pdb, annotations: {theirs/note: noted}}
spec: {minAvailable: 1, selector: {matchLabels: {app: qwik-node-app, tier: web}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: qwik-node-app-role}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}, {apiGroups: [""], resources: [pods], verbs: [list]}]
`

// objectsOf reads objects out of YAML.
func (w *world) objectsOf(text string) (found []*unstructured.Unstructured) {
	w.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			w.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(raw); err != nil {
			w.Fatal(err)
		}
		found = append(found, o)
	}
	return found
}

// withOthers are the app's manifests with the other objects.
func (w *world) withOthers() *manifest.Set {
	w.Helper()
	set := w.own()
	set.Others = w.objectsOf(otherManifests)
	return set
}

// dynamic is the real client of every kind, over a network.
func (w *world) dynamic(by string, network http.RoundTripper) dynamic.Interface {
	w.Helper()
	config := &rest.Config{Host: "http://cluster.test", QPS: -1, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeJSON, AcceptContentTypes: runtime.ContentTypeJSON}}
	client, err := dynamic.NewForConfigAndClient(config, &http.Client{Transport: agent{by, network}})
	if err != nil {
		w.Fatal(err)
	}
	return client
}

// any reaches the objects of a kind as a person does.
func (w *world) any(o *unstructured.Unstructured) dynamic.ResourceInterface {
	w.Helper()
	at := slices.IndexFunc(kinds, func(k kind) bool { return k.GroupVersionKind == o.GroupVersionKind() })
	if at < 0 {
		w.Fatalf("the server has no %s", o.GroupVersionKind())
	}
	client := w.dynamic("them", w.server).Resource(schema.GroupVersionResource{Group: kinds[at].Group, Version: kinds[at].Version, Resource: kinds[at].plural})
	if !kinds[at].namespaced {
		return client
	}
	return client.Namespace(namespace)
}

// makeOthers makes those that the cluster has.
func (w *world) makeOthers() {
	w.Helper()
	for _, o := range w.objectsOf(otherMade) {
		w.must(w.any(o).Create(w.Context(), o, metav1.CreateOptions{FieldManager: "kubectl"}))
	}
}

// patchOther changes one as a person would.
func (w *world) patchOther(kind, patch string) {
	w.Helper()
	for _, o := range w.objectsOf(otherManifests) {
		if o.GetKind() == kind {
			w.must(w.any(o).Patch(w.Context(), o.GetName(), types.JSONPatchType, []byte(patch), metav1.PatchOptions{FieldManager: "kubectl"}))
		}
	}
}

// contents are the other objects as they are, without what the server and Crossbill keep for themselves; "" for one that is
// missing.
func (w *world) contents() map[string]string {
	w.Helper()
	found := map[string]string{}
	for _, o := range w.objectsOf(otherManifests) {
		found[o.GetKind()] = ""
		live, err := w.any(o).Get(w.Context(), o.GetName(), metav1.GetOptions{})
		if err != nil {
			continue
		}
		metadata := live.Object["metadata"].(map[string]any)
		for _, key := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "namespace"} {
			delete(metadata, key)
		}
		annotations := live.GetAnnotations()
		for key := range annotations {
			if strings.HasPrefix(key, "crossbill.") {
				delete(annotations, key)
			}
		}
		if live.SetAnnotations(annotations); len(annotations) == 0 {
			live.SetAnnotations(nil)
		}
		text, err := json.Marshal(live.Object)
		w.must(nil, err)
		found[o.GetKind()] = string(text)
	}
	return found
}

// unrestOfOthers says what of the other objects is not as before every release, or as the release has it.
func (w *world) unrestOfOthers(applied bool) string {
	w.Helper()
	want := map[string]string{}
	for _, o := range w.objectsOf(otherManifests) {
		want[o.GetKind()] = ""
	}
	if !applied {
		for _, o := range w.objectsOf(otherMade) {
			text, err := json.Marshal(o.Object)
			w.must(nil, err)
			want[o.GetKind()] = string(text)
		}
		return cmp.Diff(want, w.contents())
	}
	is := w.contents()
	for kind, fields := range map[string][]string{
		"ServiceAccount": {"qwik-node-app-sa"}, "NetworkPolicy": {`"policyTypes":["Ingress"]`}, "Role": {`"verbs":["get","list"]`},
		"PodDisruptionBudget": {`"minAvailable":2`, "AlwaysAllow", `"theirs/note":"noted"`, `"release":"2"`},
	} {
		for _, field := range fields {
			if !strings.Contains(is[kind], field) {
				return fmt.Sprintf("%s has no %s: %s", kind, field, is[kind])
			}
		}
	}
	return ""
}

// TestOthers: a canary makes only what is missing and its pods need to start, promotion applies all else after the Service,
// and a rollback puts everything back byte for byte, whatever manifests it is run with.
func TestOthers(t *testing.T) {
	at(t, othersApp+"rest", func(w *world) {
		before := w.contents()
		j := w.job("job")
		w.must(j.Canary(w.Context(), wanted("2")))
		if did := w.did(j); !slices.Contains(did, "create sa") || slices.Index(did, "create sa") > slices.Index(did, "create canary image 2 x1") {
			t.Errorf("it did %q", did)
		}
		during := w.contents()
		if during["ServiceAccount"] == "" {
			t.Error("the ServiceAccount is missing")
		}
		during["ServiceAccount"] = ""
		if diff := cmp.Diff(before, during); diff != "" {
			t.Errorf("the canary changed (-before +after):\n%s", diff)
		}
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		if unrest := w.unrestOfOthers(true); unrest != "" {
			t.Error(unrest)
		}
		did := w.did(j)
		for i, effect := range []string{"update vs 100/0", "create np", "update pdb", "update role"} {
			if at := slices.Index(did, effect); at < 0 || i > 0 && at < slices.Index(did, "update vs 100/0") {
				t.Errorf("%s is not in place: it did %q", effect, did)
			}
		}
		back := w.job("back")
		back.Manifests, back.ApplyOthers = w.set, false
		w.must(back.Rollback(w.Context(), "test"))
		if diff := cmp.Diff(before, w.contents()); diff != "" {
			t.Errorf("rollback left (-before +after):\n%s", diff)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestOthersRefused: what cannot be applied is bad input before the lock, by name.
func TestOthersRefused(t *testing.T) {
	for name, c := range map[string]struct {
		add, forbid string // to the manifests; the path that the account may not use
		says        []string
	}{
		"a kind that the cluster lacks": {"apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata: {name: m}\n", "",
			[]string{"ServiceMonitor m", "the cluster has no kind ServiceMonitor of apiVersion monitoring.coreos.com/v1"}},
		"of the whole cluster": {"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\n", "/clusterroles/",
			[]string{"ClusterRole r", "it is of the whole cluster"}},
		"of another namespace": {"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: theirs}\n", "/namespaces/theirs/",
			[]string{"ServiceAccount theirs/a", "it is in namespace theirs"}},
		"a ledger": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: crossbill-qwik-node-app}\n", "",
			[]string{"ConfigMap prod/crossbill-qwik-node-app", "a release makes and changes it itself"}},
		"the app's own": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: qwik-node-app-canary}\n", "",
			[]string{"Deployment prod/qwik-node-app-canary", "a release makes and changes it itself"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, othersApp+"rest", func(w *world) {
				j := w.job("job")
				j.Manifests.Others = append(j.Manifests.Others, w.objectsOf(c.add)...)
				j.before = func(r *http.Request) error {
					if c.forbid != "" && strings.Contains(r.URL.Path, c.forbid) {
						return forbidden(r.URL.Path)
					}
					return nil
				}
				_, err := j.Canary(w.Context(), wanted("2"))
				if !errors.As(err, new(*usererr.Error)) || len(j.every) > 0 {
					t.Fatalf("%v, after %q", err, j.every)
				}
				for _, says := range c.says {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("%v does not say %q", err, says)
					}
				}
			})
		})
	}
	at(t, othersApp+"rest", func(w *world) { // what it was before has to fit beside the ledger
		large := w.objectsOf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: large}\n")[0]
		large.Object["data"] = map[string]any{"text": strings.Repeat("x", 300<<10)}
		w.must(w.any(large).Create(w.Context(), large.DeepCopy(), metav1.CreateOptions{}))
		j := w.job("job")
		large.Object["data"] = map[string]any{"text": "y"}
		j.Manifests.Others = append(j.Manifests.Others, large)
		if _, err := j.Canary(w.Context(), wanted("2")); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "ConfigMap large") || len(j.every) > 0 {
			t.Errorf("%v, after %q", err, j.every)
		}
	})
	for name, change := range map[string]func(*job){
		"without": func(j *job) { j.ApplyOthers = false },
		"others": func(j *job) {
			j.Manifests.Others = j.Manifests.Others[1:]
		},
	} {
		at(t, othersApp+"healthy", func(w *world) {
			j := w.job("job")
			change(j)
			if _, err := j.Promote(w.Context()); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "release r2 started with") || len(j.every) > 0 {
				t.Errorf("%s: %v, after %q", name, err, j.every)
			}
		})
	}
}

// TestOthersOfSomebody: what a person changes while a release is in flight is what a rollback puts back, what somebody has
// made meanwhile is not deleted, and a kept state that is forged is not believed.
func TestOthersOfSomebody(t *testing.T) {
	at(t, othersApp+"healthy", func(w *world) {
		w.observer.started = false
		w.patchOther("PodDisruptionBudget", `[{"op":"replace","path":"/spec/minAvailable","value":3}]`)
		np := w.objectsOf(otherManifests)[3]
		before := w.contents()
		j := w.job("job")
		j.before = func(r *http.Request) error { // after the look of promote, before its write
			if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/deployments/qwik-node-app-primary") && r.URL.Query().Get("dryRun") == "" && before["NetworkPolicy"] == "" {
				w.patchOther("Role", `[{"op":"replace","path":"/rules/0","value":{"apiGroups":[""],"resources":["configmaps"],"verbs":["watch"]}}]`)
				np.SetAnnotations(map[string]string{"theirs/note": "n"})
				w.must(w.any(np).Create(w.Context(), np.DeepCopy(), metav1.CreateOptions{}))
				before = w.contents()
			}
			return nil
		}
		w.must(j.Promote(w.Context()))
		if unrest := w.unrestOfOthers(true); unrest != "" {
			t.Error(unrest)
		}
		w.must(w.job("back").Rollback(w.Context(), "test"))
		before["ServiceAccount"] = "" // made by the release
		if diff := cmp.Diff(before, w.contents()); diff != "" {
			t.Errorf("rollback left (-before +after):\n%s", diff)
		}
	})
	at(t, othersApp+"promoted", func(w *world) {
		before := w.contents()
		w.forge(func(data map[string]string) {
			data["previous-others.json"] = strings.ReplaceAll(strings.ReplaceAll(data["previous-others.json"], `\"minAvailable\":1`, `\"minAvailable\":9`), "created by", "x")
		})
		back := w.job("back")
		w.must(back.Rollback(w.Context(), "test"))
		after := w.contents()
		if after["PodDisruptionBudget"] != before["PodDisruptionBudget"] || after["Role"] == before["Role"] || !slices.ContainsFunc(back.logged, func(l string) bool {
			return strings.Contains(l, "PodDisruptionBudget prod/qwik-node-app-pdb: stays as it is")
		}) {
			t.Errorf("%v, after it said %q", after, back.logged)
		}
	})
}

// TestOthersAlone: a release that changes nothing but another object is a release.
func TestOthersAlone(t *testing.T) {
	at(t, othersApp+"ended", func(w *world) {
		j := w.job("job")
		again := wanted("2")
		again.ID = "r3"
		if came, err := j.Canary(w.Context(), again); err != nil || came.Outcome != release.OutcomeUnchanged {
			t.Fatalf("%+v, %v", came, err)
		}
		again.ID = "r4"
		if err := unstructured.SetNestedField(j.Manifests.Others[1].Object, int64(4), "spec", "minAvailable"); err != nil {
			t.Fatal(err)
		}
		w.must(j.Canary(w.Context(), again))
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		w.must(j.Cleanup(w.Context()))
		if is := w.contents()["PodDisruptionBudget"]; !strings.Contains(is, `"minAvailable":4`) {
			t.Error(is)
		}
	})
}

// TestOthersDefaults: of a field that a release has brought, the API server's defaults go with it, unless somebody else has
// set one since.
func TestOthersDefaults(t *testing.T) {
	for name, theirs := range map[string]string{"nobody's": "", "somebody's": `{"spec":{"behavior":{"scaleDown":{"selectPolicy":"Min"}}}}`} {
		at(t, othersApp+"rest", func(w *world) {
			hpa := w.objectsOf(`
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: hpa}
spec: {minReplicas: 1, maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: worker}}
`)[0]
			w.must(w.any(hpa).Create(w.Context(), hpa.DeepCopy(), metav1.CreateOptions{FieldManager: "kubectl"}))
			spec := func() any {
				live, err := w.any(hpa).Get(w.Context(), "hpa", metav1.GetOptions{})
				w.must(live, err)
				return live.Object["spec"]
			}
			before := spec()
			w.must(nil, unstructured.SetNestedField(hpa.Object, int64(60), "spec", "behavior", "scaleDown", "stabilizationWindowSeconds"))
			run := func(name string) *job {
				j := w.job(name)
				j.Manifests.Others = append(j.Manifests.Others, hpa)
				return j
			}
			w.must(run("canary").Canary(w.Context(), wanted("2")))
			w.must(judge(w.Context(), run("verify").Cluster, release.Healthy))
			w.must(run("promote").Promote(w.Context()))
			if text := fmt.Sprint(spec()); !strings.Contains(text, "stabilizationWindowSeconds:60") || !strings.Contains(text, "selectPolicy:Max") {
				t.Fatal(text)
			}
			if theirs != "" {
				w.must(w.any(hpa).Patch(w.Context(), "hpa", types.MergePatchType, []byte(theirs), metav1.PatchOptions{FieldManager: "kubectl"}))
			}
			w.must(run("back").Rollback(w.Context(), "test"))
			after := spec()
			if theirs != "" {
				if text := fmt.Sprint(after); !strings.Contains(text, "selectPolicy:Min") || strings.Contains(text, "stabilization") {
					t.Errorf("%s: %s", name, text)
				}
				return
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("%s: rollback left (-before +after):\n%s", name, diff)
			}
		})
	}
}

// TestOthersPlanned: a dry run shows what promotion will change.
func TestOthersPlanned(t *testing.T) {
	at(t, othersApp+"rest", func(w *world) {
		before := w.contents()
		j := w.job("job")
		j.Plan = &rollout.Plan{}
		w.must(j.Canary(w.Context(), wanted("2")))
		shown := map[string]string{}
		for _, change := range j.Plan.Changes {
			shown[change.Object] = change.Action + change.Diff
		}
		for object, says := range map[string]string{
			"ServiceAccount prod/qwik-node-app-sa":                      "create",
			"NetworkPolicy prod/qwik-node-app-np (at promotion)":        "create",
			"PodDisruptionBudget prod/qwik-node-app-pdb (at promotion)": "+  minAvailable: 2",
			"Role prod/qwik-node-app-role (at promotion)":               "-  - pods",
		} {
			if !strings.Contains(shown[object], says) {
				t.Errorf("%s: %q does not say %q", object, shown[object], says)
			}
		}
		if diff := cmp.Diff(before, w.contents()); diff != "" || len(j.every) > 0 {
			t.Errorf("it wrote %q:\n%s", j.every, diff)
		}
	})
}
