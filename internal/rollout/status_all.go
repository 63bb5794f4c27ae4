package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// AppStatus is where one of many apps is, as far as its ledger and its Deployments say.
type AppStatus struct {
	Namespace string                         `json:"namespace"`
	App       string                         `json:"app"`
	Release   *release.Release               `json:"release,omitempty"` // in flight
	Last      *release.Finished              `json:"last,omitempty"`    // that has ended
	Hold      *release.Hold                  `json:"hold,omitempty"`    // no new release starts
	Queue     []release.Queued               `json:"queue,omitempty"`   // releases that wait, in order
	Lock      string                         `json:"lock,omitempty"`
	Expired   bool                           `json:"lockExpired,omitempty"`
	Tracks    map[release.Track]*TrackStatus `json:"tracks"`
	Problem   string                         `json:"problem,omitempty"` // why its ledger cannot be read
}

// appKey names an app, or its Lease, in a cluster.
type appKey struct{ namespace, name string }

// StatusOfAll reads where all apps of a namespace are, of every namespace for "". It takes three requests,
// however many there are, needs no manifests, and writes nothing.
func StatusOfAll(ctx context.Context, kube kubernetes.Interface, namespace string) ([]AppStatus, error) {
	ledgers, deployments, leases, err := listAll(ctx, kube, namespace)
	if err != nil {
		return nil, err
	}
	return statuses(pointers(ledgers.Items), pointers(deployments.Items), pointers(leases.Items), readState), nil
}

// listAll reads what the status of all apps is made of.
func listAll(ctx context.Context, kube kubernetes.Interface, namespace string) (*corev1.ConfigMapList, *appsv1.DeploymentList, *coordinationv1.LeaseList, error) {
	ledgers, err := kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofLedgers})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("ledgers (ConfigMaps): %w", err)
	}
	deployments, err := kube.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("Deployments: %w", err)
	}
	leases, err := kube.CoordinationV1().Leases(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("locks (Leases): %w", err)
	}
	return ledgers, deployments, leases, nil
}

// ofLedgers selects the ledgers.
const ofLedgers = ledgerLabel + "=" + fieldManager

// WatchAll gives what StatusOfAll reads, again and again, out of watches: a look asks the API server for nothing. changed,
// which may be nil, is called when a look may see something new. The watches end with ctx. Errors are those of StatusOfAll.
func WatchAll(ctx context.Context, kube kubernetes.Interface, namespace string, changed func()) (look func() ([]AppStatus, error), err error) {
	if _, _, _, err := listAll(ctx, kube, namespace); err != nil { // a watch only waits for what it may not list
		return nil, err
	}
	labeled := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = ofLedgers }))
	plain := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace))
	ledgers, deployments, leases := labeled.Core().V1().ConfigMaps().Lister(), plain.Apps().V1().Deployments().Lister(), plain.Coordination().V1().Leases().Lister()
	if changed != nil {
		for _, informer := range []cache.SharedIndexInformer{labeled.Core().V1().ConfigMaps().Informer(), plain.Apps().V1().Deployments().Informer(), plain.Coordination().V1().Leases().Informer()} {
			if _, err := informer.AddEventHandler(onChange(changed)); err != nil {
				return nil, err
			}
		}
	}
	for _, factory := range []informers.SharedInformerFactory{labeled, plain} {
		factory.StartWithContext(ctx)
		for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
			if !synced {
				return nil, fmt.Errorf("%s: not read: %w", kind, context.Cause(ctx))
			}
		}
	}
	read := readNew()
	return func() ([]AppStatus, error) {
		states, err1 := ledgers.List(labels.Everything())
		sets, err2 := deployments.List(labels.Everything())
		locks, err3 := leases.List(labels.Everything())
		byName := func(a, b *corev1.ConfigMap) int {
			return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
		}
		slices.SortFunc(states, byName)
		return statuses(states, sets, locks, read), errors.Join(err1, err2, err3)
	}, nil
}

// Reach asks the API server for as little as shows that it answers, and that it still lets the ledgers of a namespace be read.
func Reach(ctx context.Context, kube kubernetes.Interface, namespace string) error {
	_, err := kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofLedgers, Limit: 1})
	return err
}

// onChange calls changed for each change of an object that an app's status is made of: a cluster has many more Deployments
// and Leases.
func onChange(changed func()) cache.ResourceEventHandler {
	return cache.FilteringResourceEventHandler{
		FilterFunc: func(object any) bool {
			switch o := object.(type) {
			case *appsv1.Deployment:
				return o.Spec.Template.Labels[manifest.TrackLabel] != ""
			case *coordinationv1.Lease:
				return strings.HasPrefix(o.Name, statePrefix)
			}
			return true
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { changed() },
			UpdateFunc: func(any, any) { changed() },
			DeleteFunc: func(any) { changed() },
		},
	}
}

func pointers[T any](items []T) []*T {
	all := make([]*T, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	return all
}

// statuses puts together where each app is.
func statuses(ledgers []*corev1.ConfigMap, deployments []*appsv1.Deployment, leases []*coordinationv1.Lease, read func(*corev1.ConfigMap) AppStatus) []AppStatus {
	tracks, byLabel := map[appKey]map[release.Track]*TrackStatus{}, map[appKey]map[release.Track]*TrackStatus{} // the latter for ledgers of long ago
	for _, d := range deployments {
		own := d.Spec.Template.Labels // nothing guarantees the Deployment's
		track := release.Track(own[manifest.TrackLabel])
		if track != release.Primary && track != release.Canary {
			continue
		}
		app := strings.TrimSuffix(d.Name, "-"+string(track))
		found := &TrackStatus{Image: manifest.AppImage(d.Spec.Template.Spec, app, own[manifest.AppLabel]), Replicas: replicasOf(d), Ready: d.Status.ReadyReplicas}
		for names, name := range map[*map[appKey]map[release.Track]*TrackStatus]string{&tracks: app, &byLabel: own[manifest.AppLabel]} {
			key := appKey{d.Namespace, name}
			if (*names)[key] == nil {
				(*names)[key] = map[release.Track]*TrackStatus{}
			}
			(*names)[key][track] = found
		}
	}
	locks := map[appKey]*coordinationv1.Lease{}
	for _, lease := range leases {
		locks[appKey{lease.Namespace, lease.Name}] = lease
	}
	all := []AppStatus{}
	for _, state := range ledgers {
		if _, ok := state.Data[ledgerKey]; !ok {
			continue
		}
		s := read(state)
		if s.Tracks = tracks[appKey{s.Namespace, s.App}]; s.Tracks == nil {
			s.Tracks = byLabel[appKey{s.Namespace, s.App}]
		}
		if lease := locks[appKey{state.Namespace, state.Name}]; lease != nil {
			if s.Lock = holderOf(lease); s.Lock != "" {
				s.Expired, _ = apiServer{&Cluster{}}.expired(lease)
			}
		}
		all = append(all, s)
	}
	return all
}

// readState is what an app's ledger says, and the line beside it.
func readState(state *corev1.ConfigMap) AppStatus {
	s := AppStatus{Namespace: state.Namespace, App: state.Labels["app"]}
	ledger, err := release.ParseLedger(s.App, state.Data[ledgerKey])
	if err == nil {
		err = ledger.ReadLine(state.Data[lineKey])
	}
	if err != nil {
		s.Problem = err.Error()
		if newer, ok := errors.AsType[*release.NewerLedgerError](err); ok {
			s.Problem = newer.Problem()
		}
		return s
	}
	s.Hold, s.Queue, s.Release = ledger.Hold, ledger.Queue, ledger.Release.WithoutEvidence()
	if len(ledger.History) > 0 {
		last := ledger.History[0]
		last.Release = *last.WithoutEvidence()
		s.Last = &last
	}
	return s
}

// readNew is readState for looks at a cache, whose objects do not change: it reads only those that it has not seen. 200
// ledgers that are full take over a second.
func readNew() func(*corev1.ConfigMap) AppStatus {
	type ledger struct {
		state *corev1.ConfigMap
		says  AppStatus
	}
	var mu sync.Mutex
	seen := map[appKey]ledger{}
	return func(state *corev1.ConfigMap) AppStatus {
		mu.Lock()
		defer mu.Unlock()
		key := appKey{state.Namespace, state.Name}
		if seen[key].state != state {
			seen[key] = ledger{state, readState(state)}
		}
		return seen[key].says
	}
}
