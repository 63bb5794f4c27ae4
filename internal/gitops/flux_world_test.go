package gitops

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
)

// fluxWorld is a branch, and what Flux does with it. It was written against GitRepositoryReconciler of source-controller
// 1.9.6 and KustomizationReconciler of kustomize-controller 1.9.6 (internal/controller), and the patch helper of
// fluxcd/pkg/runtime 0.110.3: what is read when a reconcile starts and from how old a cache, in which order conditions and
// status are written, what a suspended object still answers, one reconcile at a time for each object.
//
// Differences: it polls where they watch, so it is slower to start; it has one worker for each object, and no rate limits;
// what it applies is a line in a list; dependencies, history and inventory are left out; a failed source is tried again
// every second without backing off.
type fluxWorld struct {
	client *dynamicfake.FakeDynamicClient
	random *rand.Rand

	mu      sync.Mutex
	commits []string // of the branch; the last is its head
	broken  string   // why the branch cannot be read
	applies string   // why nothing can be applied
	health  time.Duration
	written []write
	read    time.Time // when a source first showed the head after the request
}

// write is one object that was applied.
type write struct {
	commit string
	at     time.Time
}

func newFluxWorld(seed uint64, objects ...*unstructured.Unstructured) *fluxWorld {
	w := &fluxWorld{random: rand.New(rand.NewPCG(seed, 1)), commits: []string{sha(0)}}
	w.client = fakeClient(objects...)
	return w
}

func fakeClient(objects ...*unstructured.Unstructured) *dynamicfake.FakeDynamicClient {
	var all []runtime.Object
	for _, o := range objects {
		all = append(all, o.DeepCopy())
	}
	return dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		kustomizations: "KustomizationList", gitRepositories: "GitRepositoryList",
	}, all...)
}

func sha(n int) string { return fmt.Sprintf("%040x", n+1) }

func (w *fluxWorld) push() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commits = append(w.commits, sha(len(w.commits)))
	return w.commits[len(w.commits)-1]
}

func (w *fluxWorld) head() (commit, broken string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.commits[len(w.commits)-1], w.broken
}

// upTo is a random time.
func (w *fluxWorld) upTo(longest time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.random.Int64N(int64(longest)))
}

func (w *fluxWorld) get(r reference) *unstructured.Unstructured {
	live, err := w.client.Tracker().Get(r.resource, r.namespace, r.name) // what fails for Crossbill does not for them
	if err != nil {
		panic(err)
	}
	return live.DeepCopyObject().(*unstructured.Unstructured)
}

// patch writes as the controllers do: a merge patch, which leaves alone what it does not name.
func (w *fluxWorld) patch(r reference, fields map[string]any) {
	text, err := json.Marshal(fields)
	if err == nil {
		_, err = w.client.Resource(r.resource).Namespace(r.namespace).Patch(context.Background(), r.name, types.MergePatchType, text, metav1.PatchOptions{})
	}
	if err != nil {
		panic(err)
	}
}

func (w *fluxWorld) status(r reference, fields map[string]any) {
	w.patch(r, map[string]any{"status": fields})
}

func (w *fluxWorld) ready(r reference, status, reason, message string) {
	w.status(r, map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": status, "reason": reason, "message": message}}})
}

// sourceController reconciles a GitRepository that is asked for.
func (w *fluxWorld) sourceController(ctx context.Context, r reference) {
	for sleep(ctx, w.upTo(300*time.Millisecond)) {
		o := w.get(r)
		token := o.GetAnnotations()[requestedAt]
		ready := condition(o, "Ready")
		if lastHandled(o) == token && ready.Status == metav1.ConditionTrue {
			continue
		}
		done := map[string]any{"lastHandledReconcileAt": token, "observedGeneration": o.GetGeneration()}
		if suspended(o) {
			w.status(r, done)
			continue
		}
		sleep(ctx, w.upTo(500*time.Millisecond))
		head, broken := w.head()
		if broken != "" {
			w.ready(r, "False", "GitOperationFailed", broken)
			w.status(r, map[string]any{"lastHandledReconcileAt": token})
			sleep(ctx, time.Second)
			continue
		}
		if revision, _, _ := unstructured.NestedString(o.Object, "status", "artifact", "revision"); revision != "main@sha1:"+head {
			w.ready(r, "Unknown", "Progressing", "building artifact: new upstream revision")
			sleep(ctx, w.upTo(300*time.Millisecond))
		}
		w.ready(r, "True", "Succeeded", "stored artifact for revision 'main@sha1:"+head+"'")
		sleep(ctx, w.upTo(20*time.Millisecond))
		done["artifact"] = map[string]any{"revision": "main@sha1:" + head}
		w.status(r, done)
		w.mu.Lock()
		if w.read.IsZero() && len(w.commits) > 1 {
			w.read = time.Now()
		}
		w.mu.Unlock()
	}
}

// ask is somebody else, who asks so often that hardly a request is read before the next has taken its place.
func (w *fluxWorld) ask(ctx context.Context, r reference) {
	for i := 0; sleep(ctx, w.upTo(800*time.Millisecond)); i++ {
		w.patch(r, map[string]any{"metadata": map[string]any{"annotations": map[string]any{requestedAt: fmt.Sprint(i)}}})
	}
}

// kustomizeController reconciles a Kustomization that is asked for, whose source has changed, or whose interval is over.
// What it knows of both is as old as its caches.
func (w *fluxWorld) kustomizeController(ctx context.Context, r, source reference, interval time.Duration) {
	var seen, seenSource *unstructured.Unstructured
	var mu sync.Mutex
	cache := func(into **unstructured.Unstructured, of reference) {
		for {
			o := w.get(of)
			lag := w.upTo(200 * time.Millisecond)
			if !sleep(ctx, lag) {
				return
			}
			mu.Lock()
			*into = o
			mu.Unlock()
		}
	}
	go cache(&seen, r)
	go cache(&seenSource, source)
	last, token := "", ""
	next := time.Now()
	for sleep(ctx, 10*time.Millisecond) {
		mu.Lock()
		o, from := seen, seenSource
		mu.Unlock()
		if o == nil || from == nil {
			continue
		}
		revision, _, _ := unstructured.NestedString(from.Object, "status", "artifact", "revision")
		if o.GetAnnotations()[requestedAt] == token && revision == last && time.Now().Before(next) {
			continue
		}
		token, last, next = o.GetAnnotations()[requestedAt], revision, time.Now().Add(interval)
		w.reconcile(ctx, r, o, revision)
	}
}

func (w *fluxWorld) reconcile(ctx context.Context, r reference, o *unstructured.Unstructured, revision string) {
	done := map[string]any{"lastHandledReconcileAt": o.GetAnnotations()[requestedAt]}
	if suspended(o) || revision == "" {
		w.status(r, done)
		return
	}
	w.ready(r, "Unknown", "Progressing", "Reconciliation in progress")
	sleep(ctx, w.upTo(200*time.Millisecond))
	w.status(r, map[string]any{"lastAttemptedRevision": revision})
	sleep(ctx, w.upTo(time.Second))
	w.mu.Lock()
	refused := w.applies
	w.mu.Unlock()
	if refused != "" {
		w.ready(r, "False", "ReconciliationFailed", refused)
		w.status(r, done)
		return
	}
	for range 4 {
		w.mu.Lock()
		w.written = append(w.written, write{revision[len("main@sha1:"):], time.Now()})
		w.mu.Unlock()
		sleep(ctx, w.upTo(300*time.Millisecond))
	}
	sleep(ctx, w.health)
	w.ready(r, "True", "ReconciliationSucceeded", "Applied revision: "+revision)
	sleep(ctx, w.upTo(20*time.Millisecond))
	done["lastAppliedRevision"], done["observedGeneration"] = revision, o.GetGeneration()
	w.status(r, done)
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// What the tests have in the cluster.

func aKustomization(change ...func(map[string]any)) *unstructured.Unstructured {
	spec := map[string]any{"sourceRef": map[string]any{"kind": "GitRepository", "name": "env"}}
	return fluxObject("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "apps", spec, change)
}

func aGitRepository(change ...func(map[string]any)) *unstructured.Unstructured {
	spec := map[string]any{"url": "https://gitlab.example.com/our-org/environment.git", "ref": map[string]any{"branch": "main"}}
	return fluxObject("source.toolkit.fluxcd.io/v1", "GitRepository", "env", spec, change)
}

func fluxObject(version, kind, name string, spec map[string]any, change []func(map[string]any)) *unstructured.Unstructured {
	o := map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": name, "namespace": "flux-system", "generation": int64(1)}, "spec": spec}
	for _, f := range change {
		f(o)
	}
	return &unstructured.Unstructured{Object: o}
}

var (
	theKustomization = kustomization("flux-system", "apps")
	theRepository    = reference{gitRepositories, "GitRepository", "flux-system", "env"}
)

// byFlux is a live object of the app that a Kustomization applies; "" for one that nothing does.
func byFlux(group, kind, name, kustomization string) Object {
	meta := &metav1.ObjectMeta{Namespace: "shop", Name: name}
	if kustomization != "" {
		meta.Labels = map[string]string{"kustomize.toolkit.fluxcd.io/name": kustomization, "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
	}
	return Object{Group: group, Kind: kind, Object: meta, Paths: []string{""}}
}

func theApp() []Object {
	return []Object{byFlux("apps", "Deployment", "shop-primary", "apps"), byFlux("networking.istio.io", "VirtualService", "shop", "apps")}
}

// controllerOf is the controller under test, with all that it says in a list.
func controllerOf(t *testing.T, name string, client *dynamicfake.FakeDynamicClient, options Options) (Controller, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	options.Log = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, fmt.Sprintf(format, args...))
	}
	c, err := New(name, client, options)
	if err != nil {
		t.Fatal(err)
	}
	return c, func() []string { mu.Lock(); defer mu.Unlock(); return lines }
}
