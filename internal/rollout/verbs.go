package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// StageError says that a command cannot be run at the present stage. Nothing was changed.
type StageError struct{ Err error }

func (e *StageError) Error() string { return e.Err.Error() }
func (e *StageError) Unwrap() error { return e.Err }

// command is a step of the road. look says what it would find: done with a result when there is nothing to
// do, or an error when the present state does not allow it; it writes nothing. begin changes the ledger
// alone, which is written together with the lock; nil when there is nothing to note. act does the work.
type command struct {
	look  func(context.Context, *job) (result Result, done bool, err error)
	begin func(*job) error
	act   func(context.Context, *job) (Result, error)
}

// run looks, takes the lock when there is something to do, looks again if the ledger has moved
// meanwhile, and acts. What is refused or has nothing to do writes nothing and disturbs nobody who works
// on the app.
func (c *Cluster) run(ctx context.Context, v command) (Result, error) {
	before := &job{Cluster: c}
	if err := before.readState(ctx); err != nil {
		return Result{}, err
	}
	result, done, err := v.look(ctx, before)
	if done || err != nil {
		return result, err
	}
	if c.plan != nil {
		return c.withoutLock(ctx, before, v)
	}
	return c.withLock(ctx, before, v)
}

// Canary begins a release, or goes on with it: the canary's Deployment, its readiness, then its
// share of the traffic. An app without a primary has nothing to protect: its first release goes
// straight to primary. want needs ID, Image and Weight.
func (c *Cluster) Canary(ctx context.Context, want release.Release) (Result, error) {
	var err error
	if want.Template, err = c.Manifests.TemplateHash(); err != nil {
		return Result{}, err
	}
	started := false
	return c.run(ctx, command{
		look: func(ctx context.Context, j *job) (Result, bool, error) {
			result, done, err := j.lookCanary(ctx, &want)
			return j.admitted(ctx, &want, result, done, err)
		},
		begin: func(j *job) (err error) {
			started, err = j.ledger.Begin(want, j.By, j.now())
			return err
		},
		act: func(ctx context.Context, j *job) (Result, error) { return j.canary(ctx, started) },
	})
}

// admitted ends a look that found something to do: whether the image of the release in flight, or else of the
// one that is wanted, may be deployed.
func (j *job) admitted(ctx context.Context, want *release.Release, found Result, done bool, err error) (Result, bool, error) {
	if j.Admit == nil || done || err != nil {
		return found, done, err
	}
	if r := j.ledger.Release; r != nil {
		want = r
	}
	return Result{}, false, j.Admit(ctx, want)
}

// lookCanary also notes in want what primary runs.
func (j *job) lookCanary(ctx context.Context, want *release.Release) (Result, bool, error) {
	if r := j.ledger.Release; r != nil {
		again := *j.ledger
		if _, err := again.Begin(*want, j.By, j.now()); err != nil {
			return Result{}, false, err
		}
		switch {
		case r.Stage == release.StageStarted && r.Weight != want.Weight:
			return Result{}, false, &usererr.Error{Field: "--weight", Problem: fmt.Sprintf("%d is not the weight that release %s began with", want.Weight, r.ID), Fix: fmt.Sprintf("give %d, or roll the release back and begin a new one", r.Weight)}
		case r.Stage == release.StageStarted && (r.Sticky == nil) != (want.Sticky == nil):
			return Result{}, false, &usererr.Error{Field: "--sticky", Problem: fmt.Sprintf("release %s did not begin so", r.ID), Fix: "give it as it was given first, or roll the release back and begin a new one"}
		case r.Stage == release.StageRollingBack:
			return Result{}, false, &StageError{j.ledger.Promotable()}
		case r.Stage != release.StageStarted:
			return j.result("canary", "the canary of release %s already has its traffic (stage %s)", r.ID, r.Stage), true, nil
		}
		return Result{}, false, nil
	}
	want.Previous, want.Replicas = "", 0
	live, err := j.deployment(ctx, j.deploymentName(release.Primary))
	if err != nil {
		return Result{}, false, fmt.Errorf("Deployment %s: %w; nothing was changed", j.deploymentName(release.Primary), err)
	}
	if live != nil {
		if want.Previous, err = j.running(live); err != nil {
			return Result{}, false, err
		}
		if live.Spec.Replicas != nil {
			want.Replicas = *live.Spec.Replicas
		}
	}
	ended := j.ledger.Ended(want.ID)
	switch {
	case ended != nil && ended.Outcome.Good() && want.Previous == want.Image:
		return j.result("canary", "primary already runs %s: nothing to do", want.Digest()), true, nil
	case ended != nil && want.Previous != want.Image && !j.Again:
		return Result{}, false, &StageError{fmt.Errorf("release %s has ended before: %s at %s%s; --again releases it once more", want.ID, ended.Outcome, ended.FinishedAt.Format(time.RFC3339), because(ended.Reason))}
	}
	if failed := j.ledger.Failed(want.Digest()); failed != nil && want.Previous != want.Image && !j.Again {
		return Result{}, false, &StageError{fmt.Errorf("%s was rolled back in release %s at %s%s; --again releases it once more", want.Digest(), failed.ID, failed.FinishedAt.Format(time.RFC3339), because(failed.Reason))}
	}
	return Result{}, false, j.routable(ctx, want.Sticky != nil)
}

// running is what a primary that is there runs. A Deployment that Crossbill could not change, or whose
// container it cannot name, is somebody else's: it is neither a first release's nor a canary's primary.
func (j *job) running(primary *appsv1.Deployment) (string, error) {
	desired, err := j.Manifests.Track(release.Primary, j.Namespace, "")
	if err != nil {
		return "", err
	}
	if err := sameSelector(primary, desired); err != nil {
		return "", err
	}
	image := j.Manifests.Image(primary)
	if image == "" {
		return "", &usererr.Error{
			Field:   "Deployment " + primary.Namespace + "/" + primary.Name,
			Problem: "it has no container with the name that the manifest has",
			Fix:     "give the container in the manifest the name that it has in the cluster",
		}
	}
	return image, nil
}

// routable finds a VirtualService that is there without the release's route.
func (j *job) routable(ctx context.Context, sticky bool) error {
	name := j.Manifests.VirtualService.Name
	object := "VirtualService " + j.Namespace + "/" + name
	live, err := j.Istio.NetworkingV1().VirtualServices(j.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w; nothing was changed", object, err)
	}
	if len(j.Manifests.Routes(live)) == 0 {
		return routeMissing(object)
	}
	j.routed = true
	if sticky {
		return j.stickyRefusal(live)
	}
	return nil
}

func (j *job) canary(ctx context.Context, started bool) (Result, error) {
	r := j.ledger.Release
	if started && r.Previous == r.Image {
		digest := r.Digest()
		if err := j.finish(release.OutcomeUnchanged); err != nil {
			return Result{}, err
		}
		return j.ended("canary", release.OutcomeUnchanged, "primary already runs %s: nothing to do", digest), nil
	}
	if started {
		j.log("ledger", "release %s of %s begins", r.ID, r.Digest())
	} else {
		j.log("ledger", "going on with release %s from stage %s", r.ID, r.Stage)
	}
	if r.Previous == "" {
		return j.first(ctx)
	}

	if err := j.applyService(ctx); err != nil {
		return Result{}, err
	}
	if err := j.ensureSubsets(ctx); err != nil {
		return Result{}, err
	}
	if err := j.ensureRoute(ctx); err != nil {
		return Result{}, err
	}
	if err := j.applyCanary(ctx, r.Weight); err != nil {
		return Result{}, err
	}
	if err := j.waitTrack(ctx, release.Canary, r.Image); err != nil {
		return Result{}, err
	}
	if err := j.route(ctx, r.Weight); err != nil {
		return Result{}, err
	}
	if err := j.arrive(release.StageCanary); err != nil {
		return Result{}, err
	}
	return j.result("canary", "%s gets %d %% of the traffic", r.Digest(), r.Weight), nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// applyCanary applies the canary's Deployment, sized from primary's live size and a weight in percent.
func (j *job) applyCanary(ctx context.Context, weight int) error {
	primary, err := j.deployment(ctx, j.deploymentName(release.Primary))
	if err != nil {
		return fmt.Errorf("Deployment %s: %w", j.deploymentName(release.Primary), err)
	}
	r := j.ledger.Release
	desired, err := j.Manifests.Track(release.Canary, j.Namespace, r.Image)
	if err != nil {
		return err
	}
	routed := 0 // what primary is relieved of already
	if r.Stage != release.StageStarted {
		routed = r.Weight
	}
	var replicas int32
	_, _, err = j.applyDeployment(ctx, desired, func(live *appsv1.Deployment) *int32 {
		replicas = CanaryReplicas(primary, live, routed, weight)
		return &replicas
	})
	if err != nil {
		return err
	}
	j.log("Deployment "+j.Namespace+"/"+desired.Name, "applied with %d %s of %s", replicas, plural(int(replicas), "replica"), r.Digest())
	return nil
}

// CanaryReplicas is the canary's size for a weight in percent: its share of what the app needs, rounded
// up, at least one, and never less than it has. The app needs what primary has now for the part that
// it still serves: an HPA has shrunk it by what is routed to the canary already.
func CanaryReplicas(primary, canary *appsv1.Deployment, routed, weight int) int32 {
	size := func(d *appsv1.Deployment, otherwise int32) int32 {
		if d == nil || d.Spec.Replicas == nil {
			return otherwise
		}
		return *d.Spec.Replicas
	}
	served := int32(100 - routed)
	return max(1, size(canary, 0), (size(primary, 1)*int32(weight)+served-1)/served)
}

// waitTrack waits until a track can be routed to: it is ready, and runs the image; "" for whichever.
func (j *job) waitTrack(ctx context.Context, track release.Track, image string) error {
	if err := j.waitRollout(ctx, track); err != nil {
		return err
	}
	return j.waitEndpoints(ctx, track, image)
}

// first releases an app that has no primary.
func (j *job) first(ctx context.Context) (Result, error) {
	r := j.ledger.Release
	j.log("ledger", "first release: there is no primary to protect, so it goes straight to primary")
	if err := j.applyService(ctx); err != nil {
		return Result{}, err
	}
	if err := j.applyPrimary(ctx); err != nil {
		return Result{}, err
	}
	if err := j.waitTrack(ctx, release.Primary, r.Image); err != nil {
		return Result{}, err
	}
	if err := j.ensureSubsets(ctx); err != nil {
		return Result{}, err
	}
	if err := j.ensureRoute(ctx); err != nil {
		return Result{}, err
	}
	if err := j.handBack(ctx); err != nil {
		return Result{}, err
	}
	digest := r.Digest()
	if err := j.finish(release.OutcomeFirst); err != nil {
		return Result{}, err
	}
	return j.ended("canary", release.OutcomeFirst, "first release: %s has all of the traffic", digest), nil
}

// applyPrimary puts the release's digest on primary.
func (j *job) applyPrimary(ctx context.Context) error {
	r := j.ledger.Release
	desired, err := j.Manifests.Track(release.Primary, j.Namespace, r.Image)
	if err != nil {
		return err
	}
	before, after, err := j.applyDeployment(ctx, desired, nil)
	if err != nil {
		return err
	}
	j.log("Deployment "+j.Namespace+"/"+desired.Name, "applied with %s", r.Digest())
	return j.sizePrimary(ctx, after, before == nil)
}

// Judge puts a verdict on the release in flight.
func (c *Cluster) Judge(ctx context.Context, v release.Verdict) (Result, error) {
	return c.run(ctx, command{
		look: func(_ context.Context, j *job) (Result, bool, error) {
			return Result{}, false, j.ledger.Expect(c.ReleaseID)
		},
		act: func(_ context.Context, j *job) (Result, error) {
			if err := j.ledger.Judge(v, j.By, j.now()); err != nil {
				return Result{}, &StageError{err}
			}
			j.unwritten = true
			return j.result("verify", "%s: %s", v.Outcome, v.Reason), nil
		},
	})
}

// Promote puts the digest that the canary proved on primary, waits for the rollout, and routes all
// of the traffic to primary. The canary keeps its share until then.
func (c *Cluster) Promote(ctx context.Context) (Result, error) {
	return c.run(ctx, command{
		look: func(ctx context.Context, j *job) (Result, bool, error) {
			result, done, err := j.lookPromote(ctx)
			return j.admitted(ctx, nil, result, done, err)
		},
		act: func(ctx context.Context, j *job) (Result, error) { return j.promote(ctx) },
	})
}

func (j *job) lookPromote(ctx context.Context) (Result, bool, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return Result{}, false, err
	}
	r := j.ledger.Release
	if r == nil {
		last := j.ledger.Last(j.ReleaseID)
		switch {
		case last == nil:
			return Result{}, false, &StageError{fmt.Errorf("%w: begin one with canary", release.ErrNoRelease)}
		case !last.Outcome.Good():
			return Result{}, false, &StageError{fmt.Errorf("release %s has ended: %s%s; begin one with canary", last.ID, last.Outcome, because(last.Reason))}
		}
		return j.result("promote", "release %s has ended (%s) and has all of the traffic: nothing to do", last.ID, last.Outcome), true, nil
	}
	if r.Stage == release.StagePromoted {
		return j.result("promote", "release %s is promoted: go on with cleanup", r.ID), true, nil
	}
	if err := j.ledger.Promotable(); err != nil {
		return Result{}, false, &StageError{err}
	}
	template, err := j.Manifests.TemplateHash()
	if err != nil {
		return Result{}, false, err
	}
	if template != r.Template {
		return Result{}, false, &usererr.Error{
			Field:   "--manifests",
			Problem: fmt.Sprintf("the pod template is not the one that the canary of release %s proved", r.ID),
			Fix:     "promote with the manifests that canary was run with",
		}
	}
	if r.Stage != release.StageVerified {
		return Result{}, false, nil
	}
	status, err := j.status(ctx)
	if err != nil {
		return Result{}, false, err
	}
	if len(status.Drift) > 0 {
		return Result{}, false, &StageError{fmt.Errorf("somebody else has changed release %s: %s", r.ID, strings.Join(status.Drift, "; "))}
	}
	return Result{}, false, nil
}

func (j *job) promote(ctx context.Context) (Result, error) {
	r := j.ledger.Release
	if r.Stage != release.StagePromoting {
		if err := j.rememberPrevious(ctx); err != nil {
			return Result{}, err
		}
		if err := j.reach(ctx, release.StagePromoting); err != nil {
			return Result{}, err
		}
	}
	if err := j.ensureSubsets(ctx); err != nil {
		return Result{}, err
	}
	if err := j.applyPrimary(ctx); err != nil {
		return Result{}, err
	}
	if err := j.waitPrimary(ctx); err != nil {
		return Result{}, err
	}
	if err := j.route(ctx, 0); err != nil {
		return Result{}, err
	}
	if err := j.arrive(release.StagePromoted); err != nil {
		return Result{}, err
	}
	return j.result("promote", "%s is on primary and has all of the traffic", r.Digest()), nil
}

// waitPrimary waits until primary is ready for all of the traffic. An HPA has shrunk it by what the canary
// serves and may do so again while this waits: what is routed to is what was seen ready last.
func (j *job) waitPrimary(ctx context.Context) error {
	for range regrowths {
		if err := j.waitTrack(ctx, release.Primary, j.ledger.Release.Image); err != nil {
			return err
		}
		if j.shrunkBy == nil {
			return nil
		}
		if grown, err := j.regrow(ctx); err != nil || !grown {
			return err
		}
	}
	return fmt.Errorf("HorizontalPodAutoscaler %s takes replicas away that %s needs for all of the traffic (%d when the release began); the canary keeps its share: raise minReplicas until the release is over, then run promote again",
		j.shrunkBy.Name, j.deploymentName(release.Primary), j.ledger.Release.Replicas)
}

// regrowths is how often promotion brings primary back to size against an HPA.
const regrowths = 4

// rememberPrevious keeps primary's pod template beside the ledger: rollback puts it back as it was,
// not only its image.
func (j *job) rememberPrevious(ctx context.Context) error {
	live, err := j.deployment(ctx, j.deploymentName(release.Primary))
	if err != nil || live == nil {
		return fmt.Errorf("Deployment %s is not there (%v); nothing was changed, rollback ends the release", j.deploymentName(release.Primary), err)
	}
	text, err := json.Marshal(live.Spec.Template)
	if err != nil {
		return err
	}
	if j.state.Data == nil {
		j.state.Data = map[string]string{}
	}
	j.state.Data[previousKey] = string(text)
	return nil
}

// Cleanup drains and deletes the canary of a promoted release, and ends the release.
func (c *Cluster) Cleanup(ctx context.Context) (Result, error) {
	return c.run(ctx, command{
		look: func(_ context.Context, j *job) (Result, bool, error) { return j.lookCleanup() },
		act:  func(ctx context.Context, j *job) (Result, error) { return j.cleanup(ctx) },
	})
}

func (j *job) lookCleanup() (Result, bool, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return Result{}, false, err
	}
	r := j.ledger.Release
	if r == nil {
		return j.result("cleanup", "no release is in flight: nothing to do"), true, nil
	}
	if r.Stage != release.StagePromoted {
		return Result{}, false, &StageError{fmt.Errorf("release %s is at stage %s: cleanup follows promote; to end the release now run rollback", r.ID, r.Stage)}
	}
	return Result{}, false, nil
}

func (j *job) cleanup(ctx context.Context) (Result, error) {
	r := j.ledger.Release
	if err := j.removeCanary(ctx); err != nil {
		return Result{}, err
	}
	digest := r.Digest()
	if err := j.finish(release.OutcomePromoted); err != nil {
		return Result{}, err
	}
	return j.ended("cleanup", release.OutcomePromoted, "%s is released; the canary is gone", digest), nil
}

// removeCanary takes the canary off the route, waits until nobody calls it, deletes it, and gives
// back what others own.
func (j *job) removeCanary(ctx context.Context) error {
	if err := j.routeIfThere(ctx, 0); err != nil {
		return err
	}
	if j.keepAssets {
		if err := j.waitPages(ctx); err != nil {
			return err
		}
		j.keepAssets = false
		if err := j.routeIfThere(ctx, 0); err != nil {
			return err
		}
	}
	live, err := j.deployment(ctx, j.deploymentName(release.Canary))
	if err != nil {
		return fmt.Errorf("Deployment %s: %w", j.deploymentName(release.Canary), err)
	}
	if live != nil {
		if err := j.waitDrained(ctx); err != nil {
			return err
		}
		if err := j.deleteDeployment(ctx, live.Name); err != nil {
			return err
		}
	}
	if err := j.waitGone(ctx, release.Canary); err != nil {
		return err
	}
	return j.handBack(ctx)
}

// openPages is how long the pages of a canary that is rolled back can still load its assets, at most.
const openPages = time.Minute

// waitPages waits until nobody asks for the canary's assets any more, or for as long as a rollback can wait.
func (j *job) waitPages(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, openPages)
	defer cancel()
	err := j.waitDrained(bounded)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		j.log("Deployment "+j.deploymentName(release.Canary), "pages that are open still ask for its assets after %s: they have to be loaded again", openPages)
		return nil
	}
	return err
}

// Rollback sends all of the traffic to primary, puts the old digest back on it when promotion had
// begun, and drains and deletes the canary. It takes the lock of whoever holds it.
func (c *Cluster) Rollback(ctx context.Context, reason string) (Result, error) {
	taking := *c
	taking.Takeover = true
	return taking.run(ctx, command{
		look:  func(ctx context.Context, j *job) (Result, bool, error) { return j.lookRollback(ctx) },
		begin: func(j *job) error { return j.beginRollback(reason) },
		act:   func(ctx context.Context, j *job) (Result, error) { return j.rollback(ctx, reason) },
	})
}

func (j *job) lookRollback(ctx context.Context) (Result, bool, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return Result{}, false, err
	}
	if j.ledger.Release != nil {
		return Result{}, false, nil
	}
	if j.ReleaseID == "" {
		if orphan, err := j.orphaned(ctx); err != nil || orphan {
			return Result{}, false, err
		}
	}
	return j.result("rollback", "no release is in flight: nothing to roll back"), true, nil
}

// beginRollback notes that a release goes back; of a first release it is not known yet whether it can.
func (j *job) beginRollback(reason string) error {
	r := j.ledger.Release
	if r == nil || r.Previous == "" || r.Stage == release.StageRollingBack {
		return nil
	}
	r.Reason = reason
	return j.ledger.Reach(release.StageRollingBack, j.By, j.now())
}

func (j *job) rollback(ctx context.Context, reason string) (Result, error) {
	r := j.ledger.Release
	if r == nil {
		return j.removeOrphan(ctx)
	}
	if r.Previous == "" && r.Stage == release.StageStarted {
		if live, err := j.firstIsLive(ctx); err != nil || live {
			if err != nil {
				return Result{}, err
			}
			digest := r.Digest()
			if err := j.finish(release.OutcomeFirst); err != nil {
				return Result{}, err
			}
			return j.ended("rollback", release.OutcomeFirst, "the app's first release, %s, has all of the traffic: there is nothing to go back to", digest), nil
		}
	}
	if r.Stage != release.StageRollingBack {
		r.Reason = reason
		if err := j.reach(ctx, release.StageRollingBack); err != nil {
			return Result{}, err
		}
	}
	j.log("ledger", "rolling back release %s: %s", r.ID, r.Reason)
	if r.Previous == "" {
		return j.rollbackFirst(ctx)
	}
	if r.Sticky != nil {
		live, err := j.deployment(ctx, j.deploymentName(release.Canary))
		if err != nil {
			return Result{}, fmt.Errorf("Deployment %s: %w", j.deploymentName(release.Canary), err)
		}
		if j.keepAssets, err = j.serves(ctx, live, release.Canary); err != nil {
			return Result{}, err
		}
	}
	if err := j.restorePrimary(ctx); err != nil {
		return Result{}, err
	}
	if err := j.removeCanary(ctx); err != nil {
		return Result{}, err
	}
	previous := release.DigestOf(r.Previous)
	if err := j.finish(release.OutcomeRolledBack); err != nil {
		return Result{}, err
	}
	return j.ended("rollback", release.OutcomeRolledBack, "%s has all of the traffic again; the canary is gone", previous), nil
}

// restorePrimary brings the traffic to a primary with the old template. A primary that promotion has
// begun to change is put back first when it has no ready endpoint of its own; else the traffic goes
// first. One that somebody has deleted is made again.
func (j *job) restorePrimary(ctx context.Context) error {
	if err := j.ensureSubsets(ctx); err != nil {
		return err
	}
	live, err := j.deployment(ctx, j.deploymentName(release.Primary))
	if err != nil {
		return fmt.Errorf("Deployment %s: %w", j.deploymentName(release.Primary), err)
	}
	ready, err := j.serves(ctx, live, release.Primary)
	if err != nil {
		return err
	}
	if ready {
		if err := j.routeIfThere(ctx, 0); err != nil {
			return err
		}
	}
	text := j.state.Data[previousKey]
	if text == "" && live != nil {
		if !ready && j.plan == nil {
			return &NotReadyError{Deployment: j.deploymentName(release.Primary), Reason: "it has no ready endpoint, so the traffic stays where it is", Details: j.explain(ctx, release.Primary)}
		}
		return nil
	}
	desired, err := j.Manifests.Track(release.Primary, j.Namespace, j.ledger.Release.Previous)
	if err != nil {
		return err
	}
	if text != "" {
		var template corev1.PodTemplateSpec
		if err := json.Unmarshal([]byte(text), &template); err != nil {
			return fmt.Errorf("ledger: primary's previous pod template is not readable: %w", err)
		}
		desired.Spec.Template = template
	}
	_, after, err := j.applyDeployment(ctx, desired, nil)
	if err != nil {
		return err
	}
	if live == nil {
		if err := j.sizePrimary(ctx, after, true); err != nil {
			return err
		}
	}
	j.log("Deployment "+j.Namespace+"/"+desired.Name, "put back to %s", release.DigestOf(j.ledger.Release.Previous))
	if err := j.waitTrack(ctx, release.Primary, ""); err != nil {
		return err
	}
	return j.routeIfThere(ctx, 0)
}

// routeIfThere routes, unless somebody has deleted the VirtualService: then there is no traffic.
func (j *job) routeIfThere(ctx context.Context, weight int) error {
	if err := j.route(ctx, weight); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// rollbackFirst removes the primary of a first release that did not come up: it never had traffic.
func (j *job) rollbackFirst(ctx context.Context) (Result, error) {
	services := j.Istio.NetworkingV1().VirtualServices(j.Namespace)
	if _, err := services.Get(ctx, j.Manifests.VirtualService.Name, metav1.GetOptions{}); err == nil {
		j.log("VirtualService "+j.Manifests.VirtualService.Name, "is left as it is; it leads to no pods until the next release")
	}
	live, err := j.deployment(ctx, j.deploymentName(release.Primary))
	if err != nil {
		return Result{}, fmt.Errorf("Deployment %s: %w", j.deploymentName(release.Primary), err)
	}
	if live != nil {
		if _, ours := live.Annotations[epochAnnotation]; !ours {
			return Result{}, &usererr.Error{Field: "Deployment " + live.Namespace + "/" + live.Name, Problem: "the first release has not made it, somebody else has", Fix: "delete it, or give it another name, then run rollback again"}
		}
		if err := j.deleteDeployment(ctx, live.Name); err != nil {
			return Result{}, err
		}
	}
	if err := j.waitGone(ctx, release.Primary); err != nil {
		return Result{}, err
	}
	if err := j.handBack(ctx); err != nil {
		return Result{}, err
	}
	if err := j.finish(release.OutcomeRolledBack); err != nil {
		return Result{}, err
	}
	return j.ended("rollback", release.OutcomeRolledBack, "the first release is removed: the app has no primary"), nil
}

// firstIsLive says whether a first release that was not noted as ended has its traffic already: its route
// is the last thing that it makes.
func (j *job) firstIsLive(ctx context.Context) (bool, error) {
	_, err := j.Istio.NetworkingV1().VirtualServices(j.Namespace).Get(ctx, j.Manifests.VirtualService.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("VirtualService %s: %w", j.Manifests.VirtualService.Name, err)
	}
	live, err := j.deployment(ctx, j.deploymentName(release.Primary))
	if err != nil {
		return false, fmt.Errorf("Deployment %s: %w", j.deploymentName(release.Primary), err)
	}
	return j.serves(ctx, live, release.Primary)
}

// orphaned says whether there is a canary that no release in the ledger has put there.
func (j *job) orphaned(ctx context.Context) (bool, error) {
	live, err := j.deployment(ctx, j.deploymentName(release.Canary))
	if err != nil || live == nil {
		return false, err
	}
	_, ours := live.Annotations[epochAnnotation]
	return ours, nil
}

// removeOrphan takes away a canary whose ledger was lost.
func (j *job) removeOrphan(ctx context.Context) (Result, error) {
	j.log("ledger", "no release is in flight, but there is a canary: its ledger was lost")
	if err := j.removeCanary(ctx); err != nil {
		return Result{}, err
	}
	return j.result("rollback", "a canary that no release in the ledger knew is gone; primary has all of the traffic"), nil
}

// serves says whether a track, whose Deployment is live, can take traffic and keep it: the pods of one that
// was deleted are ready for some moments more.
func (j *job) serves(ctx context.Context, live *appsv1.Deployment, track release.Track) (bool, error) {
	if live == nil || live.DeletionTimestamp != nil {
		return false, nil
	}
	pods, err := j.Kube.CoreV1().Pods(j.Namespace).List(ctx, metav1.ListOptions{LabelSelector: j.selector(track)})
	if err != nil {
		return false, fmt.Errorf("pods of %s: %w", j.deploymentName(track), err)
	}
	for _, pod := range pods.Items {
		for _, condition := range pod.Status.Conditions {
			if pod.DeletionTimestamp == nil && condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
	}
	return false, nil
}

func (j *job) result(command, format string, args ...any) Result {
	return Result{Command: command, App: j.app(), Release: j.ledger.Release, Message: fmt.Sprintf(format, args...)}
}

// ended is the result of a command that ended the release.
func (j *job) ended(command string, outcome release.Outcome, format string, args ...any) Result {
	result := j.result(command, format, args...)
	if len(j.ledger.History) > 0 {
		result.Release = &j.ledger.History[0].Release
	}
	result.Outcome = outcome
	return result
}

// IsRefusal says whether an error changed nothing because of the state of things: the wrong stage, or
// another release in flight.
func IsRefusal(err error) bool {
	return errors.As(err, new(*StageError)) || errors.As(err, new(*release.InFlightError)) || errors.Is(err, ErrLockLost)
}
