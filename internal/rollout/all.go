package rollout

import (
	"context"
	"fmt"

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

// StatusOfAll reads where all apps of a namespace are, of every namespace for "". It takes three requests,
// however many there are, needs no manifests, and writes nothing.
func StatusOfAll(ctx context.Context, kube kubernetes.Interface, namespace string) ([]AppStatus, error) {
	ledgers, err := kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=" + fieldManager})
	if err != nil {
		return nil, fmt.Errorf("ledgers (ConfigMaps): %w", err)
	}
	deployments, err := kube.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{LabelSelector: fmt.Sprintf("%s in (%s,%s)", manifest.TrackLabel, release.Primary, release.Canary)})
	if err != nil {
		return nil, fmt.Errorf("Deployments: %w", err)
	}
	leases, err := kube.CoordinationV1().Leases(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("locks (Leases): %w", err)
	}
	type key struct{ namespace, name string }
	tracks := map[key]map[release.Track]*TrackStatus{}
	for i := range deployments.Items {
		d := &deployments.Items[i]
		k := key{d.Namespace, d.Labels[manifest.AppLabel]}
		if tracks[k] == nil {
			tracks[k] = map[release.Track]*TrackStatus{}
		}
		t := &TrackStatus{Replicas: replicasOf(d), Ready: d.Status.ReadyReplicas}
		if containers := d.Spec.Template.Spec.Containers; len(containers) > 0 {
			t.Image = containers[0].Image
		}
		tracks[k][release.Track(d.Labels[manifest.TrackLabel])] = t
	}
	locks := map[key]int{}
	for i, lease := range leases.Items {
		locks[key{lease.Namespace, lease.Name}] = i
	}
	all := []AppStatus{}
	for _, state := range ledgers.Items {
		text, ok := state.Data[ledgerKey]
		if !ok {
			continue
		}
		app := state.Labels["app"]
		s := AppStatus{Namespace: state.Namespace, App: app, Tracks: tracks[key{state.Namespace, app}]}
		ledger, err := release.ParseLedger(app, text)
		if err != nil {
			s.Problem = err.Error()
		} else if s.Release = ledger.Release.WithoutEvidence(); len(ledger.History) > 0 {
			last := ledger.History[0]
			last.Release = *last.Release.WithoutEvidence()
			s.Last = &last
		}
		if i, ok := locks[key{state.Namespace, state.Name}]; ok {
			holder, alive := holderOf(&leases.Items[i])
			s.Lock, s.Expired = holder, holder != "" && !alive
		}
		all = append(all, s)
	}
	return all, nil
}
