package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// Status is where an app's release is.
type Status struct {
	App       string                         `json:"app"`
	Namespace string                         `json:"namespace"`
	Lock      string                         `json:"lock,omitempty"`        // who holds it, if anybody
	Expired   bool                           `json:"lockExpired,omitempty"` // the holder has not renewed it in time: that job is dead
	Release   *release.Release               `json:"release,omitempty"`
	Weights   *manifest.WeightPair           `json:"weights,omitempty"`
	Tracks    map[release.Track]*TrackStatus `json:"tracks"`
	History   []release.Finished             `json:"history,omitempty"`
	// Drift is what somebody else has changed of a release in flight, and what to do about it.
	Drift []string `json:"drift,omitempty"`

	pinned bool // sticky routes are there
}

// TrackStatus is one track's Deployment.
type TrackStatus struct {
	Image    string `json:"image"`
	Replicas int32  `json:"replicas"`
	Ready    int32  `json:"ready"`
}

// Status reads where the app's release is, and who works on it. It writes nothing and needs no lock.
func (c *Cluster) Status(ctx context.Context) (*Status, error) {
	status, err := c.Live(ctx)
	if err != nil {
		return nil, err
	}
	holder, alive, err := c.liveLock(ctx)
	if err != nil {
		return nil, err
	}
	status.Lock, status.Expired = holder, holder != "" && !alive
	return status, nil
}

// Live reads where the app's release is, as Status does, but for the lock.
func (c *Cluster) Live(ctx context.Context) (*Status, error) {
	j := &job{Cluster: c}
	if err := j.firstLedger(ctx); err != nil {
		return nil, err
	}
	return j.status(ctx)
}

// status is where the release of the ledger that was read is.
func (j *job) status(ctx context.Context) (*Status, error) {
	c := j.Cluster
	status := &Status{App: c.app(), Namespace: c.Namespace, Release: j.ledger.Release, History: j.ledger.History, Tracks: map[release.Track]*TrackStatus{}}
	for _, track := range tracks {
		d, err := j.liveTrack(ctx, track)
		if err != nil {
			return nil, err
		}
		if d != nil {
			status.Tracks[track] = &TrackStatus{Image: c.Manifests.Image(d), Replicas: replicasOf(d), Ready: d.Status.ReadyReplicas}
		}
	}
	vs, err := j.liveRoute(ctx)
	if err != nil {
		return nil, err
	}
	if vs != nil {
		if routes := c.Manifests.Routes(vs); len(routes) > 0 {
			weights := manifest.Weights(vs, routes[0])
			status.Weights = &weights
			status.pinned = slices.ContainsFunc(vs.Spec.Http, func(h *networkingapi.HTTPRoute) bool { return strings.HasPrefix(h.Name, manifest.StickyPrefix) })
		}
	}
	status.Drift = status.drift()
	return status, nil
}

// drift compares what is live with what the stage of the release in flight has made. While a stage is
// under way (promoting, rolling_back) there is nothing to compare.
func (s *Status) drift() []string {
	r := s.Release
	if r == nil {
		return nil
	}
	type expectation struct {
		canary         int32 // weight
		primary, other string
	}
	var want expectation
	switch r.Stage {
	case release.StageCanary, release.StageVerified:
		want = expectation{int32(r.Weight), r.Previous, r.Image}
	case release.StagePromoted:
		want = expectation{0, r.Image, r.Image}
	default:
		return nil
	}
	var found []string
	const remedy = "; rollback ends the release, or put it back as it was"
	if s.Weights == nil {
		found = append(found, "the VirtualService or its route is gone"+remedy)
	} else if s.Weights.Canary != want.canary {
		found = append(found, fmt.Sprintf("the canary has weight %d, the release gave it %d", s.Weights.Canary, want.canary)+remedy)
	}
	if sticky := r.Sticky != nil && want.canary > 0; s.Weights != nil && s.pinned != sticky {
		found = append(found, map[bool]string{true: "the routes that keep browsers on a version are gone", false: "there are routes that keep browsers on a version, which no release needs"}[sticky]+remedy)
	}
	for track, image := range map[release.Track]string{release.Primary: want.primary, release.Canary: want.other} {
		switch t := s.Tracks[track]; {
		case t == nil && (track == release.Primary || r.Stage != release.StagePromoted):
			found = append(found, fmt.Sprintf("the Deployment of %s is gone", track)+remedy)
		case t != nil && t.Image != image:
			found = append(found, fmt.Sprintf("%s runs %s, the release gave it %s", track, t.Image, image)+remedy)
		}
	}
	slices.Sort(found)
	return found
}
