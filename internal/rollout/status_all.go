package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

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
	ledgers, err := kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofLedgers})
	if err != nil {
		return nil, fmt.Errorf("ledgers (ConfigMaps): %w", err)
	}
	deployments, err := kube.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("Deployments: %w", err)
	}
	leases, err := kube.CoordinationV1().Leases(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("locks (Leases): %w", err)
	}
	return statuses(pointers(ledgers.Items), pointers(deployments.Items), pointers(leases.Items)), nil
}

// ofLedgers selects the ledgers.
const ofLedgers = ledgerLabel + "=" + fieldManager

// WatchAll gives what StatusOfAll reads, again and again, out of watches: a look asks the API server for nothing. The
// watches end with ctx. Errors are those of StatusOfAll.
func WatchAll(ctx context.Context, kube kubernetes.Interface, namespace string) (look func() ([]AppStatus, error), err error) {
	if _, err := StatusOfAll(ctx, kube, namespace); err != nil { // a watch only waits for what it may not list
		return nil, err
	}
	labeled := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = ofLedgers }))
	plain := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace))
	ledgers, deployments, leases := labeled.Core().V1().ConfigMaps().Lister(), plain.Apps().V1().Deployments().Lister(), plain.Coordination().V1().Leases().Lister()
	for _, factory := range []informers.SharedInformerFactory{labeled, plain} {
		factory.StartWithContext(ctx)
		for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
			if !synced {
				return nil, fmt.Errorf("%s: not read: %w", kind, context.Cause(ctx))
			}
		}
	}
	return func() ([]AppStatus, error) {
		states, err1 := ledgers.List(labels.Everything())
		sets, err2 := deployments.List(labels.Everything())
		locks, err3 := leases.List(labels.Everything())
		byName := func(a, b *corev1.ConfigMap) int {
			return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
		}
		slices.SortFunc(states, byName)
		return statuses(states, sets, locks), errors.Join(err1, err2, err3)
	}, nil
}

func pointers[T any](items []T) []*T {
	all := make([]*T, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	return all
}

// statuses puts together where each app is.
func statuses(ledgers []*corev1.ConfigMap, deployments []*appsv1.Deployment, leases []*coordinationv1.Lease) []AppStatus {
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
		text, ok := state.Data[ledgerKey]
		if !ok {
			continue
		}
		app := state.Labels["app"]
		s := AppStatus{Namespace: state.Namespace, App: app, Tracks: tracks[appKey{state.Namespace, app}]}
		if s.Tracks == nil {
			s.Tracks = byLabel[appKey{state.Namespace, app}]
		}
		s.read(text, state.Data[lineKey])
		if lease := locks[appKey{state.Namespace, state.Name}]; lease != nil {
			s.Lock = holderOf(lease)
			s.Expired = s.Lock != "" && (&Cluster{}).expired(lease)
		}
		all = append(all, s)
	}
	return all
}

// read takes what an app's ledger says, and the line beside it.
func (s *AppStatus) read(text, line string) {
	ledger, err := release.ParseLedger(s.App, text)
	if err != nil {
		s.Problem = err.Error()
		return
	}
	ledger.ReadLine(line)
	s.Hold, s.Queue, s.Release = ledger.Hold, ledger.Queue, ledger.Release.WithoutEvidence()
	if len(ledger.History) > 0 {
		last := ledger.History[0]
		last.Release = *last.WithoutEvidence()
		s.Last = &last
	}
}
