package rollout_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/release"
)

// TestObserver shows the observer each thing that it is there to see.
func TestObserver(t *testing.T) {
	route := func(patch string) func(w *world) { return func(w *world) { w.patchRoute(patch) } }
	for name, c := range map[string]struct {
		stage string
		do    func(w *world)
		want  string
	}{
		"weight without a ready endpoint": {"rest", route(`[{"op":"add","path":"/spec/http/0/route/1/weight","value":10}]`), "has weight 10 on canary, which has no ready endpoint"},
		"traffic without capacity":        {"canary", route(`[{"op":"add","path":"/spec/http/0/route/1/weight","value":90}]`), "canary gets 90% with 1 ready endpoints; it needs 2"},
		"an endpoint that goes under its traffic": {"canary", func(w *world) {
			w.patchDeployment(release.Canary, `[{"op":"replace","path":"/spec/replicas","value":0}]`)
			w.wait()
		}, "which has no ready endpoint"},
		"a subset that goes":      {"rest", func(w *world) { w.patchRule(`[{"op":"remove","path":"/spec/subsets/1"}]`) }, "names subset canary, which is missing"},
		"labels that move":        {"rest", func(w *world) { w.patchRule(`[{"op":"replace","path":"/spec/subsets/1/labels/version","value":"x"}]`) }, "the labels of subset canary have moved"},
		"a subset of others":      {"foreign", func(w *world) { w.patchRule(`[{"op":"remove","path":"/spec/subsets/2"}]`) }, "somebody's subset theirs is gone"},
		"a route of others":       {"foreign", route(`[{"op":"remove","path":"/spec/http/0"}]`), "other people's routes were"},
		"an annotation of others": {"foreign", route(`[{"op":"remove","path":"/metadata/annotations/theirs~1note"}]`), "somebody's annotation theirs/note is gone"},
		"primary with what was not proved": {"canary", func(w *world) {
			w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"`+image("2")+`"}]`)
		}, "primary takes sha256:2222"},
		"an older lock": {"rest", route(`[{"op":"add","path":"/metadata/annotations","value":{"` + epochAnnotation + `":"9"}},{"op":"add","path":"/metadata/annotations","value":{"` + epochAnnotation + `":"8"}}]`), "written by lock 8, the ledger knows 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, c.stage, func(w *world) {
				c.do(w)
				w.server.mu.Lock()
				defer w.server.mu.Unlock()
				if found := strings.Join(w.observer.problems, "\n"); !strings.Contains(found, c.want) {
					t.Errorf("found %q, want %q", found, c.want)
				}
				w.observer.problems = nil
			})
		})
	}
}

// TestServer shows what the stand-in for the API server refuses, as the original does.
func TestServer(t *testing.T) {
	at(t, "rest", func(w *world) {
		deployments, name := w.kube.AppsV1().Deployments(namespace), w.set.Name(release.Primary)
		live, err := deployments.Get(w.Context(), name, metav1.GetOptions{})
		w.must(live, err)
		stale := live.DeepCopy()
		patch := func(kind types.PatchType, body string, options metav1.PatchOptions) error {
			_, err := deployments.Patch(w.Context(), name, kind, []byte(body), options)
			return err
		}
		version := func() string {
			d, err := deployments.Get(w.Context(), name, metav1.GetOptions{})
			w.must(d, err)
			return d.ResourceVersion
		}
		force := true
		w.must(nil, patch(types.JSONPatchType, `[{"op":"add","path":"/metadata/annotations/a","value":"b"}]`, metav1.PatchOptions{}))
		changed := version()
		for what, c := range map[string]struct {
			err  error
			want string
		}{
			"a PUT of an old version":      {func() error { _, err := deployments.Update(w.Context(), stale, metav1.UpdateOptions{}); return err }(), "has been modified"},
			"a patch of an old version":    {patch(types.JSONPatchType, `[{"op":"replace","path":"/metadata/resourceVersion","value":"`+stale.ResourceVersion+`"},{"op":"add","path":"/metadata/annotations/a","value":"c"}]`, metav1.PatchOptions{}), "has been modified"},
			"an apply of an old version":   {patch(types.ApplyPatchType, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"`+name+`","resourceVersion":"`+stale.ResourceVersion+`","annotations":{"a":"c"}}}`, metav1.PatchOptions{FieldManager: "x", Force: &force}), "has been modified"},
			"another selector":             {patch(types.JSONPatchType, `[{"op":"replace","path":"/spec/selector/matchLabels/version","value":"x"}]`, metav1.PatchOptions{}), "immutable"},
			"an apply of others' field":    {patch(types.ApplyPatchType, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"`+name+`"},"spec":{"replicas":7}}`, metav1.PatchOptions{FieldManager: "x"}), "conflict"},
			"a deletion of an old version": {deployments.Delete(w.Context(), name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &stale.ResourceVersion}}), "Precondition failed"},
			"a dry run":                    {patch(types.JSONPatchType, `[{"op":"add","path":"/metadata/annotations/a","value":"c"}]`, metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}), ""},
			"a write of what is there":     {patch(types.JSONPatchType, `[{"op":"add","path":"/metadata/annotations/a","value":"b"}]`, metav1.PatchOptions{}), ""},
		} {
			if (c.err == nil) != (c.want == "") || c.err != nil && !strings.Contains(c.err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", what, c.err, c.want)
			}
		}
		if now := version(); now != changed {
			t.Errorf("resourceVersion %s, want %s: something was written", now, changed)
		}
	})
}
