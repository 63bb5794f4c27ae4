package rollout

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	ledgers, err := kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: ledgerLabel + "=" + fieldManager})
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
	tracks, byLabel := map[appKey]map[release.Track]*TrackStatus{}, map[appKey]map[release.Track]*TrackStatus{} // the latter for ledgers of long ago
	for i := range deployments.Items {
		d := &deployments.Items[i]
		labels := d.Spec.Template.Labels // nothing guarantees its own labels
		track := release.Track(labels[manifest.TrackLabel])
		if track != release.Primary && track != release.Canary {
			continue
		}
		app := strings.TrimSuffix(d.Name, "-"+string(track))
		found := &TrackStatus{Image: manifest.AppImage(d.Spec.Template.Spec, app, labels[manifest.AppLabel]), Replicas: replicasOf(d), Ready: d.Status.ReadyReplicas}
		for names, name := range map[*map[appKey]map[release.Track]*TrackStatus]string{&tracks: app, &byLabel: labels[manifest.AppLabel]} {
			key := appKey{d.Namespace, name}
			if (*names)[key] == nil {
				(*names)[key] = map[release.Track]*TrackStatus{}
			}
			(*names)[key][track] = found
		}
	}
	locks := map[appKey]int{}
	for i, lease := range leases.Items {
		locks[appKey{lease.Namespace, lease.Name}] = i
	}
	all := []AppStatus{}
	for _, state := range ledgers.Items {
		text, ok := state.Data[ledgerKey]
		if !ok {
			continue
		}
		app := state.Labels["app"]
		s := AppStatus{Namespace: state.Namespace, App: app, Tracks: tracks[appKey{state.Namespace, app}]}
		if s.Tracks == nil {
			s.Tracks = byLabel[appKey{state.Namespace, app}]
		}
		ledger, err := release.ParseLedger(app, text)
		if err != nil {
			s.Problem = err.Error()
		} else if s.Release = ledger.Release.WithoutEvidence(); len(ledger.History) > 0 {
			last := ledger.History[0]
			last.Release = *last.WithoutEvidence()
			s.Last = &last
		}
		if i, ok := locks[appKey{state.Namespace, state.Name}]; ok {
			s.Lock = holderOf(&leases.Items[i])
			s.Expired = s.Lock != "" && (&Cluster{}).expired(&leases.Items[i])
		}
		all = append(all, s)
	}
	return all, nil
}
