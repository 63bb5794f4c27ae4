package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

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
	InGit     bool                           `json:"inGit,omitempty"`   // its ledger is in Git
	Problem   string                         `json:"problem,omitempty"` // why its ledger cannot be read
}

// appKey names an app, or its Lease, in a cluster.
type appKey struct{ namespace, name string }

// StatusOfAll reads where all apps of a namespace are, of every namespace for "": those with a ledger in the cluster, and those
// in Git. It asks the API server three times and the repository once, however many there are, needs no manifests, and writes
// nothing. What one of the two does not give keeps nothing of the other away: its error comes with what was read.
func StatusOfAll(ctx context.Context, kube kubernetes.Interface, git *GitLedgers, namespace string) ([]AppStatus, error) {
	live, err := listAll(ctx, kube, namespace)
	inGit, failed := git.read(ctx, namespace)
	return statuses(live, inGit, readState), errors.Join(err, failed)
}

// listed is what the status of all apps is made of in the cluster.
type listed struct {
	ledgers     []*corev1.ConfigMap
	deployments []*appsv1.Deployment
	leases      []*coordinationv1.Lease
}

func listAll(ctx context.Context, kube kubernetes.Interface, namespace string) (listed, error) {
	ledgers, err := kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofLedgers})
	if err != nil {
		return listed{}, fmt.Errorf("ledgers (ConfigMaps): %w", err)
	}
	deployments, err := kube.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return listed{}, fmt.Errorf("Deployments: %w", err)
	}
	leases, err := kube.CoordinationV1().Leases(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return listed{}, fmt.Errorf("locks (Leases): %w", err)
	}
	return listed{pointers(ledgers.Items), pointers(deployments.Items), pointers(leases.Items)}, nil
}

// ofLedgers selects the ledgers.
const ofLedgers = ledgerLabel + "=" + fieldManager

// Watched is what WatchAll keeps up to date.
type Watched struct {
	// Apps are all apps. It asks nobody.
	Apps func() ([]AppStatus, error)
	// Git says why the environment repository does not answer, and when it answered last; nil while it does. Apps has what it
	// said then.
	Git func() (answered time.Time, err error)
}

// WatchAll gives what StatusOfAll reads, again and again, out of watches and of one look at the repository every few seconds.
// changed, which may be nil, is called when there may be something new to see. The watches end with ctx. The error is that of
// the cluster: what Git does not give now may come later.
func WatchAll(ctx context.Context, kube kubernetes.Interface, git *GitLedgers, namespace string, changed func()) (*Watched, error) {
	if _, err := listAll(ctx, kube, namespace); err != nil { // a watch only waits for what it may not list
		return nil, err
	}
	if changed == nil {
		changed = func() {}
	}
	labeled := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = ofLedgers }))
	plain := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace))
	ledgers, deployments, leases := labeled.Core().V1().ConfigMaps().Lister(), plain.Apps().V1().Deployments().Lister(), plain.Coordination().V1().Leases().Lister()
	for _, informer := range []cache.SharedIndexInformer{labeled.Core().V1().ConfigMaps().Informer(), plain.Apps().V1().Deployments().Informer(), plain.Coordination().V1().Leases().Informer()} {
		if _, err := informer.AddEventHandler(onChange(changed)); err != nil {
			return nil, err
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
	repository := watchGit(ctx, git, namespace, changed)
	read := readNew()
	return &Watched{Git: repository.answers, Apps: func() ([]AppStatus, error) {
		var live listed
		var err1, err2, err3 error
		live.ledgers, err1 = ledgers.List(labels.Everything())
		live.deployments, err2 = deployments.List(labels.Everything())
		live.leases, err3 = leases.List(labels.Everything())
		return statuses(live, repository.has(), read), errors.Join(err1, err2, err3)
	}}, nil
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

// statuses puts together where each app is. One with a ledger in both places is where Git says.
func statuses(live listed, inGit []keptInGit, read func(*corev1.ConfigMap) AppStatus) []AppStatus {
	tracks, byLabel := map[appKey]map[release.Track]*TrackStatus{}, map[appKey]map[release.Track]*TrackStatus{} // the latter for ledgers of long ago
	for _, d := range live.deployments {
		own := d.Spec.Template.Labels // nothing guarantees the Deployment's
		track := release.Track(own[manifest.TrackLabel])
		if manifest.IsBaseline(d) { // its pods have primary's labels
			track = baseline
		}
		if track != release.Primary && track != release.Canary && track != baseline {
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
	all, said := []AppStatus{}, map[appKey]bool{}
	add := func(s AppStatus, in store, lock *coordinationv1.Lease) {
		if s.Tracks = tracks[appKey{s.Namespace, s.App}]; s.Tracks == nil {
			s.Tracks = byLabel[appKey{s.Namespace, s.App}]
		}
		if s.Lock = holderOf(lock); s.Lock != "" {
			s.Expired, _ = in.expired(lock)
		}
		all, said[appKey{s.Namespace, s.App}] = append(all, s), true
	}
	for _, one := range inGit {
		s := AppStatus{Namespace: one.place.Namespace, App: one.app, Problem: errorText(one.err)}
		if one.err == nil {
			s = read(one.state)
		}
		s.InGit = true
		add(s, gitStore{}, one.lock)
	}
	locks := map[appKey]*coordinationv1.Lease{}
	for _, lease := range live.leases {
		locks[appKey{lease.Namespace, lease.Name}] = lease
	}
	for _, state := range live.ledgers {
		if _, ok := state.Data[ledgerKey]; !ok {
			continue
		}
		if s := read(state); !said[appKey{s.Namespace, s.App}] {
			add(s, apiServer{&Cluster{}}, locks[appKey{state.Namespace, state.Name}])
		}
	}
	slices.SortStableFunc(all, func(a, b AppStatus) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.App, b.App))
	})
	return all
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
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
