package rollout

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// sizes are what shows how many replicas the app needs.
type sizes struct {
	primary, canary int32 // the tracks' replicas
	share           int   // primary's of the traffic, in percent
	// noted is what all of the traffic needed when primary got that share, and had what it had then.
	noted, had int32
	// Of primary's HPA, if there is one: its bounds, and whether it has had the time to follow primary's share.
	scaled, settled bool
	least           int32
	// beside are a baseline's replicas, and measured what primary's share needs by the metrics of its HPA then; 0 without one.
	beside, measured int32
}

// need is how many replicas all of the traffic needs now. Without an HPA that is what people gave primary; what they
// took away while the canary had a part of the traffic, they took for that part. An HPA follows what primary serves,
// some minutes behind: until it has, it shows no more than that both tracks together are enough.
func (s sizes) need() int32 {
	if !s.scaled {
		return max(1, s.primary, s.noted)
	}
	switch { // where primary's size shows nothing of the need
	case s.share == 0:
		return max(1, s.noted, s.canary)
	case s.primary == 0, s.primary == s.had && !s.settled && s.measured <= s.primary:
		return max(1, s.noted)
	}
	follows := portion(max(s.primary, s.measured)*100, s.share)
	switch {
	case s.settled && s.primary > s.least:
		return follows
	case s.settled: // it may need less than it must have
		return min(follows, max(1, s.noted))
	}
	return min(follows, max(s.noted, max(s.primary, s.measured)+s.canary))
}

// portion is n/of, rounded up.
func portion(n int32, of int) int32 { return int32((int(n) + of - 1) / of) }

// forShare is how many of the replicas that all of the traffic needs a share of it needs, in percent: at least one.
func forShare(need int32, percent int) int32 { return max(1, portion(need*int32(percent), 100)) }

// following is how long after a change of its share primary's HPA has followed it: the time that it looks back over,
// and that in which the change shows in the metrics.
func following(hpa *autoscalingv2.HorizontalPodAutoscaler) time.Duration {
	return window(hpa) + measuredAfter
}

// sizes are those of the release in flight while primary has a share of the traffic.
func (j *job) sizes(ctx context.Context, primary *appsv1.Deployment, share int) (sizes, *autoscalingv2.HorizontalPodAutoscaler, error) {
	r := j.ledger.Release
	s := sizes{share: share, noted: r.Replicas, had: r.PrimaryReplicas}
	if primary != nil {
		s.primary = replicasOf(primary)
	}
	if s.noted == 0 {
		s.noted = s.primary
	}
	if s.had == 0 {
		s.had = s.noted
	}
	if primary != nil && s.primary == s.noted && !r.Baseline && sizedByManifest(primary) {
		return s, nil, nil // no HPA has ever scaled it, if there is one
	}
	hpa, err := j.hpaOf(ctx, j.deploymentName(release.Primary))
	if err != nil || hpa == nil {
		return s, nil, err
	}
	s.scaled, s.least, s.settled = true, fewest(hpa), now().Sub(sinceShare(r)) > following(hpa)
	if s.beside, err = j.baselineSize(ctx); s.beside > 0 {
		s.measured = int32(math.Ceil(s.measures(hpa) - 1e-9))
	}
	return s, hpa, err
}

// sinceShare is when the canary's share changed last.
func sinceShare(r *release.Release) time.Time {
	at := r.StartedAt
	for _, step := range r.Steps {
		if step.Weight > 0 || step.Stage == release.StagePromoted {
			at = step.At
		}
	}
	return at
}

// primaryShare is how much of the traffic primary has at the stage of a release, in percent.
func primaryShare(r *release.Release) int {
	switch r.Stage {
	case release.StageCanary, release.StageVerified, release.StagePromoting:
		return 100 - r.Weight
	}
	return 100
}

// within is a need that an HPA allows. What is beyond its maximum is said, and done without.
func (j *job) within(need int32, s sizes, hpa *autoscalingv2.HorizontalPodAutoscaler) int32 {
	if hpa == nil || need <= max(hpa.Spec.MaxReplicas, s.primary) {
		return need
	}
	most := max(hpa.Spec.MaxReplicas, s.primary)
	j.say(j.track(release.Primary).String(), "all of the traffic would need %d replicas; HorizontalPodAutoscaler %s allows %d, which is what it gets", need, hpa.Name, most)
	return most
}

// note keeps what all of the traffic needs, for the next command.
func (j *job) note(need int32, s sizes) {
	j.ledger.Release.Replicas, j.ledger.Release.PrimaryReplicas = need, s.primary
}

// hpaOf is the HPA that scales a Deployment; nil when there is none. A job asks once.
func (j *job) hpaOf(ctx context.Context, deployment string) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	if j.hpas == nil {
		hpas, err := j.Kube.AutoscalingV2().HorizontalPodAutoscalers(j.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("HorizontalPodAutoscalers of %s: %w", j.Namespace, err)
		}
		j.hpas = hpas
	}
	for i := range j.hpas.Items {
		if target := j.hpas.Items[i].Spec.ScaleTargetRef; target.Kind == "Deployment" && target.Name == deployment {
			return &j.hpas.Items[i], nil
		}
	}
	return nil, nil
}

// grow gives a track at least so many replicas, and says whether it had to. An HPA continues from there.
func (j *job) grow(ctx context.Context, track release.Track, want int32) (grown bool, err error) {
	o := j.track(track)
	had := int32(0)
	_, _, err = change(ctx, j, o, func(live *appsv1.Deployment) (*write, error) {
		switch {
		case live == nil:
			return nil, errors.New("somebody has deleted it")
		case j.foreign(live):
			return nil, j.notForeign(live)
		case replicasOf(live) >= want:
			return nil, nil
		}
		grown, had = true, replicasOf(live) // even if the answer is lost: what was added has to get ready
		return j.patch(patchOp{"add", "/spec/replicas", want}), nil
	})
	if grown && err == nil {
		j.log(o.String(), "scaled from %d to %d replicas, for what it is about to get", had, want)
	}
	return grown, err
}

// regrowths is how often a track is scaled back against an HPA.
const regrowths = 4

// waitCapacity waits until a track, which runs an image ("" for whichever), is ready with all the replicas that it
// needs. An HPA may take some away while this waits: what is routed to is what was seen ready last.
func (j *job) waitCapacity(ctx context.Context, track release.Track, image string, want int32) error {
	var hpa *autoscalingv2.HorizontalPodAutoscaler
	for range regrowths {
		if err := j.waitTrack(track, image)(ctx); err != nil {
			return err
		}
		if j.hpas != nil || j.waited[track] < want {
			var err error
			if hpa, err = j.hpaOf(ctx, j.deploymentName(track)); err != nil {
				return err
			}
		}
		if hpa == nil {
			return nil
		}
		if grown, err := j.grow(ctx, track, want); err != nil || !grown || j.planning() {
			return err
		}
	}
	return &shrinkingError{hpa: hpa.Name, deployment: j.deploymentName(track), want: want}
}

// shrinkingError says that an HPA does not leave a track the replicas that it needs.
type shrinkingError struct {
	hpa, deployment string
	want            int32
}

func (e *shrinkingError) Error() string {
	return fmt.Sprintf("HorizontalPodAutoscaler %s takes replicas away that %s needs for what it is about to get (%d); the traffic stays as it is: raise minReplicas until the release has finished, then run the command again", e.hpa, e.deployment, e.want)
}

// FitCanary gives the canary of a release that waits what its share needs now: the app may need more than when the
// canary was made. It never makes it smaller.
func (c *Cluster) FitCanary(ctx context.Context) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "fit",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			if r := j.ledger.Release; r == nil || r.Stage != release.StageCanary && r.Stage != release.StageVerified {
				return struct{}{}, j.nothing("no canary waits"), nil
			}
			if want, _, _, has, err := j.canaryFit(ctx); err != nil || has == 0 || has >= want {
				return struct{}{}, j.nothing("the canary has the size that it needs"), err
			}
			return struct{}{}, nil, nil
		},
		act: func(ctx context.Context, j *job, _ struct{}) (Result, error) {
			return j.result("the canary has the size that it needs"), j.fitCanary(ctx)
		},
	})
}

// canaryFit is how many replicas the canary of a release that waits needs, what all of the traffic does, and how many
// it has; 0 when it is gone.
func (j *job) canaryFit(ctx context.Context) (want, need int32, s sizes, has int32, err error) {
	primary, err := j.liveTrack(ctx, release.Primary)
	if err != nil || primary == nil {
		return 0, 0, s, 0, err
	}
	canary, err := j.liveTrack(ctx, release.Canary)
	if err != nil || canary == nil || j.foreign(canary) {
		return 0, 0, s, 0, err
	}
	s, hpa, err := j.sizes(ctx, primary, primaryShare(j.ledger.Release))
	if err != nil {
		return 0, 0, s, 0, err
	}
	s.canary = replicasOf(canary)
	need = j.within(s.need(), s, hpa)
	return forShare(need, j.ledger.Release.Needs()), need, s, s.canary, nil
}

// fitCanary is the step that gives a canary with traffic what its share needs now.
func (j *job) fitCanary(ctx context.Context) error {
	want, need, s, has, err := j.canaryFit(ctx)
	if err != nil || has == 0 || has >= want {
		return err
	}
	if _, err := j.grow(ctx, release.Canary, want); err != nil {
		return err
	}
	j.note(need, s)
	return j.waitTrack(release.Canary, j.ledger.Release.Image)(ctx)
}
