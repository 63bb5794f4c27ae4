package gitops

import (
	"context"
	"maps"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// argoWorld is a world with Argo CD in it. It was written against ApplicationController of Argo CD 3.5.7
// (controller/appcontroller.go): needRefreshAppStatus, processAppRefreshQueueItem with autoSync before
// persistReconciliationStatus, processRequestedAppOperation, setOperationState; and CompareAppState (controller/state.go) for
// what an unreadable branch does to a comparison that was asked for, and to one that was not.
//
// Differences: it polls where Argo CD watches; one object differs where the commit that was applied last is not the one
// compared; self-healing, retries, waves, windows and manifest caches are left out; a comparison that nobody asked for uses
// the head that the last one read, as from Redis within three minutes.
type argoWorld struct {
	*world
	name reference

	mu        sync.Mutex
	seen      *unstructured.Unstructured // the informer's copy
	branch    string                     // the cached head
	after     bool                       // a comparison was asked for by the end of a sync
	unchanged bool                       // no commit changes anything
}

func newArgoWorld(seed uint64, objects ...*unstructured.Unstructured) *argoWorld {
	return &argoWorld{world: newWorld(seed, objects...), name: theApplication}
}

func (w *argoWorld) run(ctx context.Context) {
	go w.informer(ctx)
	go w.compare(ctx, 2*time.Second)
	go w.operate(ctx)
}

func (w *argoWorld) informer(ctx context.Context) {
	for {
		o := w.get(w.name)
		if !sleep(ctx, w.upTo(200*time.Millisecond)) {
			return
		}
		w.mu.Lock()
		if w.seen == nil || older(w.seen, o) {
			w.seen = o
		}
		w.mu.Unlock()
	}
}

func older(a, b *unstructured.Unstructured) bool {
	x, y := a.GetResourceVersion(), b.GetResourceVersion()
	return len(x) < len(y) || len(x) == len(y) && x < y
}

func (w *argoWorld) cached() *unstructured.Unstructured {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// write is PatchAppWithWriteBack.
func (w *argoWorld) write(fields map[string]any) {
	w.patch(w.name, fields)
	o := w.get(w.name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = o
}

func (w *argoWorld) compare(ctx context.Context, expiry time.Duration) {
	last := time.Time{}
	for sleep(ctx, w.upTo(100*time.Millisecond)) {
		o := w.cached()
		if o == nil {
			continue
		}
		_, asked := o.GetAnnotations()[refreshAnnotation]
		w.mu.Lock()
		due := asked || w.after || time.Since(last) > expiry
		w.after = false
		w.mu.Unlock()
		if due && o.GetAnnotations()[skipReconcile] == "" {
			last = time.Now()
			w.compareOnce(ctx, o, asked)
		}
	}
}

func (w *argoWorld) compareOnce(ctx context.Context, o *unstructured.Unstructured, asked bool) {
	sleep(ctx, w.upTo(300*time.Millisecond))
	head, broken := w.head()
	w.mu.Lock()
	if broken == "" && (asked || w.branch == "") {
		w.branch = head
	}
	revision := w.branch
	w.mu.Unlock()
	sleep(ctx, w.upTo(300*time.Millisecond))
	status := map[string]any{"conditions": []any{}, "sync": map[string]any{"revision": revision, "status": w.syncStatus(revision)}}
	switch {
	case broken != "" && !asked:
		return
	case broken != "":
		status["sync"] = map[string]any{"revision": "main", "status": "Unknown"}
		status["conditions"] = []any{map[string]any{"type": "ComparisonError", "message": "Failed to load target state: " + broken}}
	default:
		w.autoSync(o, revision)
	}
	sleep(ctx, w.upTo(100*time.Millisecond))
	fields := map[string]any{"status": status}
	if asked {
		fields["metadata"] = map[string]any{"annotations": map[string]any{refreshAnnotation: nil}}
	}
	w.write(fields)
	w.shows(revision)
}

func (w *argoWorld) syncStatus(revision string) string {
	w.world.mu.Lock()
	defer w.world.mu.Unlock()
	if n := len(w.written); w.unchanged || n > 0 && w.written[n-1].commit == revision {
		return "Synced"
	}
	return "OutOfSync"
}

func (w *argoWorld) autoSync(o *unstructured.Unstructured, revision string) {
	_, automated, _ := unstructured.NestedMap(o.Object, "spec", "syncPolicy", "automated")
	_, busy, _ := unstructured.NestedMap(o.Object, "operation")
	last, _, _ := unstructured.NestedString(o.Object, "status", "operationState", "syncResult", "revision")
	if !automated || busy || w.syncStatus(revision) == "Synced" || last == revision {
		return
	}
	if _, busy, _ := unstructured.NestedMap(w.get(w.name).Object, "operation"); busy { // SetAppOperation
		return
	}
	w.write(map[string]any{"operation": map[string]any{"sync": map[string]any{"revision": revision}}})
}

func (w *argoWorld) operate(ctx context.Context) {
	for sleep(ctx, w.upTo(100*time.Millisecond)) {
		o := w.cached()
		if o == nil {
			continue
		}
		revision, busy, _ := unstructured.NestedString(o.Object, "operation", "sync", "revision")
		if !busy {
			continue
		}
		state := map[string]any{"phase": "Running", "message": "waiting for a hook", "syncResult": map[string]any{"revision": revision}}
		w.write(map[string]any{"status": map[string]any{"operationState": state}})
		sleep(ctx, w.upTo(2*time.Second))
		state["phase"], state["message"] = "Succeeded", "successfully synced"
		if refused := w.apply(ctx, revision); refused != "" {
			state["phase"], state["message"] = "Failed", refused
		}
		sleep(ctx, w.health)
		w.write(map[string]any{"operation": nil, "status": map[string]any{"operationState": state}})
		w.mu.Lock()
		w.after = true
		w.mu.Unlock()
	}
}

// What the tests have in the cluster.

var theApplication = reference{applications, "Application", "argocd", "shop"}

// anApplication keeps the peace.
func anApplication(change ...func(map[string]any)) *unstructured.Unstructured {
	o := map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": map[string]any{"name": "shop", "namespace": "argocd", "resourceVersion": "1"},
		"spec": map[string]any{
			"source": map[string]any{"repoURL": "https://gitlab.example.com/our-org/environment.git", "targetRevision": "main", "path": "apps/shop"},
			"ignoreDifferences": []any{
				map[string]any{"group": "networking.istio.io", "kind": "VirtualService", "managedFieldsManagers": []any{"crossbill"}},
				map[string]any{"group": "apps", "kind": "Deployment", "name": "shop-primary", "jqPathExpressions": []any{".spec.template.spec.containers[].image"}},
			},
			"syncPolicy": map[string]any{"automated": map[string]any{"prune": true, "selfHeal": true}, "syncOptions": []any{"RespectIgnoreDifferences=true"}},
		},
	}
	for _, f := range change {
		f(o)
	}
	return &unstructured.Unstructured{Object: o}
}

// byArgo is a live object of the app that an Application applies; "" for one that nothing does.
func byArgo(group, kind, name, application string, fields map[string]any) Object {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/v1", "kind": kind, "metadata": map[string]any{"namespace": "shop", "name": name}}}
	maps.Copy(o.Object, fields)
	if application != "" {
		o.SetAnnotations(map[string]string{trackingID: application + ":" + group + "/" + kind + ":shop/" + name})
	}
	return Object{Group: group, Kind: kind, Object: metav1.Object(o)}
}

func aDeployment(application string, containers ...any) Object {
	if containers == nil {
		containers = []any{map[string]any{"name": "app", "image": "registry.example.com/shop@sha256:1", "env": []any{map[string]any{"name": "A", "value": "1"}}}}
	}
	return byArgo("apps", "Deployment", "shop-primary", application, map[string]any{"spec": map[string]any{
		"replicas": int64(2), "template": map[string]any{"spec": map[string]any{"containers": containers}},
	}})
}

func aVirtualService(application string) Object {
	to := func(subset string, weight int64) any {
		return map[string]any{"destination": map[string]any{"host": "shop", "subset": subset}, "weight": weight}
	}
	return byArgo("networking.istio.io", "VirtualService", "shop", application, map[string]any{"spec": map[string]any{
		"hosts": []any{"shop.example.com"}, "http": []any{map[string]any{"timeout": "5s", "route": []any{to("primary", 100), to("canary", 0)}}},
	}})
}

func theAppOfArgo() []Object { return []Object{aDeployment("shop"), aVirtualService("shop")} }
