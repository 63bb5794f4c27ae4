package rollout

import (
	"context"
	"errors"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/our-org/crossbill/internal/release"
)

// An app is known by the name of its Deployment: two components with one label `+"`app`"+` are two apps. Before 0.2 it was
// known by that label. Where the two differ and there is a ledger by the label which is this app's, it keeps its name.

// readLedgerByLabel reads the ledger under the app's older name, and goes on under that name if it is the app's.
func (j *job) readLedgerByLabel(ctx context.Context, notFound error) (*corev1.ConfigMap, error) {
	label := j.Manifests.Label
	if label == "" || label == j.app() {
		return nil, notFound
	}
	state, err := j.store().readState(ctx, statePrefix+label)
	if apierrors.IsNotFound(err) {
		return nil, notFound
	}
	if err != nil {
		return nil, err
	}
	ledger, err := release.ParseLedger(label, state.Data[ledgerKey])
	switch {
	case errors.As(err, new(*release.NewerLedgerError)):
		return nil, err // it may be this app's
	case err != nil:
		return nil, notFound // another app's, of whatever kind
	}
	own, err := j.ownsLedger(ctx, ledger)
	if err != nil || !own {
		return nil, notFoundOr(err, notFound)
	}
	manifests := *j.Manifests
	manifests.App = label
	j.Manifests = &manifests
	return state, nil
}

func notFoundOr(err, notFound error) error {
	if err != nil {
		return err
	}
	return notFound
}

// ownsLedger says whether a ledger is of this app's Deployment: by the names in it, or in one that has none by the
// image that primary runs.
func (j *job) ownsLedger(ctx context.Context, ledger *release.Ledger) (bool, error) {
	var newest *release.Release
	if newest = ledger.Release; newest == nil && len(ledger.History) > 0 {
		newest = &ledger.History[0].Release
	}
	if newest == nil {
		return false, nil
	}
	if newest.Objects != nil {
		return newest.Objects.Deployments[release.Primary] == j.deploymentName(release.Primary), nil
	}
	primary, err := j.liveTrack(ctx, release.Primary)
	if err != nil || primary == nil {
		return false, err
	}
	runs := j.Manifests.Image(primary)
	return runs != "" && (repositoryOf(runs) == repositoryOf(newest.Image)), nil
}

func repositoryOf(image string) string {
	repository, _, _ := strings.Cut(image, "@")
	return repository
}
