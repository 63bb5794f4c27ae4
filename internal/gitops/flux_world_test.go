package gitops

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// fluxWorld is a world with Flux in it. It was written against GitRepositoryReconciler of source-controller
// 1.9.6 and KustomizationReconciler of kustomize-controller 1.9.6 (internal/controller), and the patch helper of
// fluxcd/pkg/runtime 0.110.3: what is read when a reconcile starts and from how old a cache, in which order conditions and
// status are written, what a suspended object still answers, one reconcile at a time for each object.
//
// Differences: it polls where they watch, so it is slower to start; it has one worker for each object, and no rate limits;
// what it applies is a line in a list; dependencies, history and inventory are left out; a failed source is tried again
// every second without backing off.
type fluxWorld struct{ *world }

func newFluxWorld(seed uint64, objects ...*unstructured.Unstructured) fluxWorld {
	return fluxWorld{newWorld(seed, objects...)}
}

func (w fluxWorld) status(r reference, fields map[string]any) {
	w.patch(r, map[string]any{"status": fields})
}

func (w fluxWorld) ready(r reference, status, reason, message string) {
	w.status(r, map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": status, "reason": reason, "message": message}}})
}

// sourceController reconciles a GitRepository that is asked for.
func (w fluxWorld) sourceController(ctx context.Context, r reference) {
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
		w.shows(head)
	}
}

// ask is somebody else, who for five seconds asks so often that hardly a request is read before the next has taken its
// place. The last one stays, so that a wait ends then at the latest.
func (w fluxWorld) ask(ctx context.Context, r reference) {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	for i := 0; sleep(ctx, w.upTo(800*time.Millisecond)); i++ {
		w.patch(r, map[string]any{"metadata": map[string]any{"annotations": map[string]any{requestedAt: fmt.Sprint(i)}}})
	}
}

// kustomizeController reconciles a Kustomization that is asked for, whose source has changed, or whose interval is over.
// What it knows of both is as old as its caches.
func (w fluxWorld) kustomizeController(ctx context.Context, r, source reference, interval time.Duration) {
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

func (w fluxWorld) reconcile(ctx context.Context, r reference, o *unstructured.Unstructured, revision string) {
	done := map[string]any{"lastHandledReconcileAt": o.GetAnnotations()[requestedAt]}
	if suspended(o) || revision == "" {
		w.status(r, done)
		return
	}
	w.ready(r, "Unknown", "Progressing", "Reconciliation in progress")
	sleep(ctx, w.upTo(200*time.Millisecond))
	w.status(r, map[string]any{"lastAttemptedRevision": revision})
	sleep(ctx, w.upTo(time.Second))
	if refused := w.apply(ctx, revision[len("main@sha1:"):]); refused != "" {
		w.ready(r, "False", "ReconciliationFailed", refused)
		w.status(r, done)
		return
	}
	sleep(ctx, w.health)
	w.ready(r, "True", "ReconciliationSucceeded", "Applied revision: "+revision)
	sleep(ctx, w.upTo(20*time.Millisecond))
	done["lastAppliedRevision"], done["observedGeneration"] = revision, o.GetGeneration()
	w.status(r, done)
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
