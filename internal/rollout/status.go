package rollout

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"

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
	Match     *release.Match                 `json:"match,omitempty"`  // whose requests reach the canary beside its weight
	Mirror    int                            `json:"mirror,omitempty"` // percent of the safe requests that it gets a copy of
	Tracks    map[release.Track]*TrackStatus `json:"tracks"`
	History   []release.Finished             `json:"history,omitempty"`
	Warm      *release.Warm                  `json:"warm,omitempty"`  // pods that are kept for a return
	Hold      *release.Hold                  `json:"hold,omitempty"`  // no new release starts
	Queue     []release.Queued               `json:"queue,omitempty"` // releases that wait, in order
	Left      []release.Left                 `json:"left,omitempty"`  // that have left the line without having started
	// Drift is what somebody else has changed of a release in flight, and what to do about it.
	Drift []string `json:"drift,omitempty"`
	// Problem is why the ledger cannot be read. Only the lock, the weights and the tracks are then known.
	Problem string `json:"problem,omitempty"`

	routing routing // Weights are its first route's
	live    map[release.Track]*appsv1.Deployment
	reads   configurationDrift
}

// TrackStatus is one track's Deployment.
type TrackStatus struct {
	Image    string `json:"image"`
	Replicas int32  `json:"replicas"`
	Ready    int32  `json:"ready"`
	Share    int32  `json:"share,omitempty"` // of a baseline: about how many percent of the traffic it gets, a part of primary's
}

// Status reads where the app's release is, and who works on it. It writes nothing and needs no lock.
func (c *Cluster) Status(ctx context.Context) (*Status, error) {
	status, err := c.Live(ctx)
	if err != nil {
		return nil, err
	}
	return status, c.lockInto(ctx, status)
}

// StatusOfObjects is Status without the ledger, of which problem says why it cannot be read.
func (c *Cluster) StatusOfObjects(ctx context.Context, problem string) (*Status, error) {
	status, err := (&job{Cluster: c, ledger: &release.Ledger{App: c.app()}}).status(ctx)
	if err != nil {
		return nil, err
	}
	status.Problem = problem
	return status, c.lockInto(ctx, status)
}

// lockInto reads who has the lock.
func (c *Cluster) lockInto(ctx context.Context, s *Status) error {
	holder, alive, err := c.liveLock(ctx)
	s.Lock, s.Expired = holder, holder != "" && !alive
	return err
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
	live := map[release.Track]*appsv1.Deployment{}
	for _, track := range tracks {
		d, err := j.liveTrack(ctx, track)
		if err != nil {
			return nil, err
		}
		live[track] = d
	}
	if r := j.ledger.Release; r != nil && r.Baseline {
		switch d, err := j.liveTrack(ctx, baseline); {
		case err == nil:
			live[baseline] = d
		case !lacksPermission(err): // else it is not known
			return nil, err
		}
	}
	return j.statusWith(ctx, live)
}

// statusWith is the same with the Deployments as they are known; nil is one that is gone, a baseline that is missing is not known.
func (j *job) statusWith(ctx context.Context, live map[release.Track]*appsv1.Deployment) (_ *Status, err error) {
	c := j.Cluster
	status := &Status{App: c.app(), Namespace: c.Namespace, Release: j.ledger.Release, History: j.ledger.History, Hold: j.ledger.Hold, Queue: j.ledger.Queue, Left: j.ledger.Left, Warm: j.ledger.Warm, Tracks: map[release.Track]*TrackStatus{}, live: live}
	for track, d := range live {
		if d != nil && (track != baseline || !j.foreign(d)) {
			status.Tracks[track] = &TrackStatus{Image: c.Manifests.Image(d), Replicas: replicasOf(d), Ready: d.Status.ReadyReplicas}
		}
	}
	if live[release.Canary] == nil { // somebody has deleted what was kept
		status.Warm = nil
	}
	if status.routing, err = j.router().read(ctx); err != nil {
		return nil, err
	}
	if len(status.routing.routes) > 0 {
		status.Weights = &status.routing.routes[0].weights
		status.shareBaseline()
	}
	if r := status.Release; r != nil && status.routing.matched {
		status.Match = r.Match
	}
	if status.Release != nil && len(status.routing.mirrors) > 0 {
		status.Mirror = int(status.routing.mirrors[0])
	}
	if status.reads, err = j.readsConfiguration(ctx, live); err != nil {
		return nil, err
	}
	if _, known := live[baseline]; !known && status.Release != nil && status.Release.Baseline {
		status.reads.unseen = append(status.reads.unseen, j.track(baseline).String())
	}
	status.Drift = append(status.drift(), status.reads.missing...)
	return status, nil
}

// routed says whether every route of the release gives the canary a weight.
func (s *Status) routed(weight int) bool {
	return len(s.routing.routes) > 0 && !slices.ContainsFunc(s.routing.routes, func(r routeStatus) bool { return int(r.weights.Canary) != weight })
}

// mirrored says whether every route that the release adds for copies is of a percentage; none is for 0.
func (s *Status) mirrored(percent int) bool {
	return len(s.routing.mirrors) > 0 == (percent > 0) && !slices.ContainsFunc(s.routing.mirrors, func(is float64) bool { return is != float64(percent) })
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
		found = append(found, "the "+s.routing.kind+" or its route is gone"+remedy)
	}
	for _, route := range s.routing.routes {
		if w := route.weights; w.Canary != want.canary {
			found = append(found, fmt.Sprintf("the canary has weight %d%s, the release gave it %d", w.Canary, route.place, want.canary)+remedy)
		} else if w.Primary != 100-want.canary {
			found = append(found, fmt.Sprintf("primary has weight %d%s, the release gave it %d", w.Primary, route.place, 100-want.canary)+remedy)
		}
	}
	for _, place := range s.routing.unsplit {
		found = append(found, place+remedy)
	}
	if sticky := r.Sticky != nil && want.canary > 0; s.Weights != nil && s.routing.pinned != sticky {
		found = append(found, map[bool]string{true: "the routes that keep browsers on a version are gone", false: "there are routes that keep browsers on a version, which no release needs"}[sticky]+remedy)
	}
	waits := r.Stage != release.StagePromoted
	for _, of := range []struct {
		there, wanted bool
		what          string
	}{{s.routing.matched, waits && r.Match != nil, "lead testers to the canary"}, {len(s.routing.mirrors) > 0, waits && r.Mirror > 0, "mirror requests to the canary"}} {
		if s.Weights != nil && of.there != of.wanted {
			found = append(found, map[bool]string{true: "the routes that " + of.what + " are gone", false: "there are routes that " + of.what + ", which the release did not make"}[of.wanted]+remedy)
		}
	}
	if other := slices.IndexFunc(s.routing.mirrors, func(is float64) bool { return is != float64(r.Mirror) }); other >= 0 && waits && r.Mirror > 0 {
		found = append(found, fmt.Sprintf("the canary gets copies of %g%% of the safe requests, the release gave it %d%%", s.routing.mirrors[other], r.Mirror)+remedy)
	}
	for track, image := range map[release.Track]string{release.Primary: want.primary, release.Canary: want.other} {
		switch t := s.Tracks[track]; {
		case t == nil && (track == release.Primary || r.Stage != release.StagePromoted):
			found = append(found, fmt.Sprintf("the Deployment of %s is gone", track)+remedy)
		case t != nil && track == release.Canary && r.Stage == release.StagePromoted && t.Image == r.Previous: // a cleanup keeps it
		case t != nil && t.Image != image:
			found = append(found, fmt.Sprintf("%s runs %s, the release gave it %s", track, t.Image, image)+remedy)
		}
	}
	if text := s.baselineDrift(); text != "" {
		found = append(found, text+remedy)
	}
	if primary := s.live[release.Primary]; primary != nil {
		found = append(found, letInAgain(primary)...)
	}
	if route := s.routing.live; route != nil {
		found = append(found, letInAgain(route)...)
	}
	for _, text := range s.reads.changed {
		found = append(found, text+remedy)
	}
	slices.Sort(found)
	return found
}
