package rollout

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Witness watches what both tracks' pods go through while a canary is judged, and what becomes of its release. Counters
// have the requests that a canary answered; those that found no pod of it are no canary's. It watches and lists
// nothing, so it costs the API server no request. What it makes of the pods is in testimony.go.
type Witness struct {
	cluster *Cluster

	mu        sync.Mutex
	testimony *testimony
	ledger    *release.Ledger
	moved     error
	withheld  bool             // this account may not watch the baseline's Deployment: its Role is from before there were any
	blind     map[string]error // what cannot be watched at the moment, and why
	changed   chan struct{}
}

// Witnessed is what the pods show of a canary.
type Witnessed struct {
	Unhealthy string // why the canary is unhealthy; "" if nothing shows that it is
	Cause     string // of Unhealthy: one of the causes below
	Hold      string // why it cannot be healthy at the moment; "" if it can
	// PrimaryWhole says that every pod that primary is to have is a ready endpoint of the Service.
	PrimaryWhole bool
	// Moved is why a verdict on what is judged could not be noted any more: somebody has gone on with the release, or
	// ended it. Nil while it could.
	Moved error
}

// The causes of what is unhealthy, in the words of package verdict.
const (
	CauseRestarts  = "restarts"
	CauseOOMKilled = "oom_killed"
	CauseNotReady  = "not_ready"
)

// witnessTimeout is how long the API server may take to say what there is.
const witnessTimeout = 30 * time.Second

// Witness starts to watch, until ctx ends. r is the release that is judged, as it is: what happened to the canary's pods
// since it got its first traffic counts, whoever watched. It returns when all that there is has been seen. An account that may not watch is a
// *usererr.Error.
func (c *Cluster) Witness(ctx context.Context, r *release.Release) (*Witness, error) {
	of := r.Subject()
	watched := tracks
	if r.Baseline {
		watched = append(slices.Clone(tracks), baseline)
	}
	w := &Witness{cluster: c, ledger: &release.Ledger{App: c.app()}, testimony: newTestimony(r.ServesSince(), watched...), blind: map[string]error{}, changed: make(chan struct{}, 1)}
	j := &job{Cluster: c}
	wait := []func() bool{w.follow(ctx, j.ledgerName(), c.watchLedger(), &corev1.ConfigMap{}, func(kind watch.EventType, o any) {
		w.ledger, w.moved = movedOn(c.app(), o.(*corev1.ConfigMap), kind == watch.Deleted, of)
	})}
	for _, track := range watched {
		seen := w.follow(ctx, w.deployment(track), j.watchDeployment(c.deploymentName(track)), &appsv1.Deployment{}, func(kind watch.EventType, o any) {
			w.testimony.deployment(track, o.(*appsv1.Deployment), kind == watch.Deleted)
		})
		wait = append(wait, func() bool { return seen() || track == baseline && w.without() })
	}
	wait = append(wait, w.follow(ctx, "EndpointSlices of "+c.Manifests.Service.Name, j.watchEndpoints(tracks...), &discoveryv1.EndpointSlice{}, func(kind watch.EventType, o any) {
		w.testimony.endpoints(o.(*discoveryv1.EndpointSlice), kind == watch.Deleted)
	}))
	if err := w.synced(ctx, wait); err != nil {
		return nil, err
	}
	wait = nil
	for _, track := range watched {
		selector := w.testimony.selectorOf(track)
		if track == baseline {
			selector = j.selector(track)
		}
		if selector == "" { // there is no such Deployment: what judges drift says so
			continue
		}
		wait = append(wait, w.follow(ctx, "pods of "+c.deploymentName(track), c.watchPods(selector), &corev1.Pod{}, func(kind watch.EventType, o any) {
			w.testimony.pod(track, o.(*corev1.Pod), kind == watch.Deleted, time.Now())
		}))
	}
	if err := w.synced(ctx, wait); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.testimony.opened(time.Now())
	return w, nil
}

// Look says what the pods show by now. Its error is that they cannot be seen: then nothing is known of them.
func (w *Witness) Look() (Witnessed, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if what, err := firstOf(w.blind); err != nil {
		return Witnessed{}, fmt.Errorf("%s cannot be watched: %w", what, err)
	}
	seen := w.testimony.look(time.Now())
	seen.Moved = w.moved
	return seen, nil
}

// movedOn reads a ledger and says why a verdict cannot be noted in it.
func movedOn(app string, state *corev1.ConfigMap, deleted bool, of release.Verdict) (*release.Ledger, error) {
	none := &release.Ledger{App: app}
	if deleted {
		return none, release.ErrNoRelease
	}
	ledger, err := release.ParseLedger(app, state.Data[ledgerKey])
	if err != nil {
		return none, err
	}
	return ledger, ledger.Judgeable(&of)
}

// Live is where the release is, as Cluster.Live reads it: what is watched is known, so that only the route is asked for.
func (w *Witness) Live(ctx context.Context) (*Status, error) {
	if _, err := w.Look(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	j := &job{Cluster: w.cluster, ledger: w.ledger}
	live := map[release.Track]*appsv1.Deployment{}
	for track, seen := range w.testimony.tracks {
		if track != baseline || !w.withheld {
			live[track] = seen.live
		}
	}
	w.mu.Unlock()
	return j.statusWith(ctx, live)
}

// follow watches objects of a kind, and says whether all that there are have been seen.
func (w *Witness) follow(ctx context.Context, what string, from *cache.ListWatch, kind runtime.Object, see func(watch.EventType, any)) (seen func() bool) {
	note := func(err error) {
		w.mu.Lock()
		if what == w.deployment(baseline) {
			if w.withheld = lacksPermission(err); w.withheld {
				err = nil
			}
		}
		if w.blind[what] = err; err == nil {
			delete(w.blind, what)
		}
		w.mu.Unlock()
		w.wake()
	}
	take := func(kind watch.EventType, o any) {
		if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = last.Obj
		}
		w.mu.Lock()
		see(kind, o)
		w.mu.Unlock()
	}
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := from.ListWithContextFunc(ctx, o)
			note(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			events, err := from.WatchFuncWithContext(ctx, o)
			note(err)
			return events, err
		},
	}, kind, 0, nil)
	_ = informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}) // it is noted; fails only after the start
	registered, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { take(watch.Added, o) },
		UpdateFunc: func(_, o any) { take(watch.Modified, o) },
		DeleteFunc: func(o any) { take(watch.Deleted, o) },
	})
	if err != nil { // only after it has stopped
		return func() bool { return false }
	}
	go informer.RunWithContext(ctx)
	return registered.HasSynced
}

// deployment is how a track's Deployment is named where it cannot be watched.
func (w *Witness) deployment(track release.Track) string {
	return "Deployment " + w.cluster.deploymentName(track)
}

// without says whether the baseline's Deployment is left out.
func (w *Witness) without() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.withheld
}

func (w *Witness) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// synced waits until all that is followed has been seen.
func (w *Witness) synced(ctx context.Context, all []func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if !slices.ContainsFunc(all, func(seen func() bool) bool { return !seen() }) {
			return nil
		}
		w.mu.Lock()
		what, err := firstOf(w.blind)
		w.mu.Unlock()
		if apierrors.IsForbidden(err) {
			return &usererr.Error{Field: what, Problem: err.Error(), Fix: "let this account list and watch them, as in k8s/guard/rbac.yaml; a canary whose pods cannot be seen is never healthy"}
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return fmt.Errorf("the pods cannot be watched: %s: %w", what, err)
		case <-w.changed:
		case <-tick.C:
		}
	}
}

func firstOf(all map[string]error) (string, error) {
	for _, what := range slices.Sorted(maps.Keys(all)) {
		return what, all[what]
	}
	return "", nil
}

// watchLedger lists and watches the ledger.
func (c *Cluster) watchLedger() *cache.ListWatch {
	return c.store().watchState(c.stateName())
}

// watchPods lists and watches the pods that a selector names.
func (c *Cluster) watchPods(selector string) *cache.ListWatch {
	return listWatch(c.Kube.CoreV1().Pods(c.Namespace), labeled(selector))
}
