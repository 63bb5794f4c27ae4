package rollout

import (
	"context"
	"errors"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Rollback sends all of the traffic to primary, puts the old digest back on it when promotion had
// started, and drains and deletes the canary. It takes the lock of whoever holds it.
func (c *Cluster) Rollback(ctx context.Context, reason string) (Result, error) {
	taking := *c
	taking.Takeover = true
	return run(ctx, &taking, command[struct{}]{
		name: "rollback",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			nothing, err := j.lookRollback(ctx)
			return struct{}{}, nothing, err
		},
		start: func(j *job, _ struct{}) error { return j.startRollback(reason) },
		act:   func(ctx context.Context, j *job, _ struct{}) (Result, error) { return j.rollback(ctx, reason) },
	})
}

func (j *job) lookRollback(ctx context.Context) (*Result, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return nil, err
	}
	if j.ledger.Release != nil {
		j.goByLedger()
		return nil, nil
	}
	if j.ReleaseID == "" {
		for _, left := range []func(context.Context) (bool, error){j.orphaned, j.heldByNone, j.lockLeft} {
			if found, err := left(ctx); err != nil || found {
				return nil, err
			}
		}
	}
	return j.nothing("no release is in flight: nothing to roll back"), nil
}

// lockLeft says whether there is a lock without a release, where none ends by itself: a job has died between two releases.
func (j *job) lockLeft(ctx context.Context) (bool, error) {
	lease, err := j.store().readLease(ctx, j.stateName())
	if err != nil || holderOf(lease) == "" {
		return false, err
	}
	_, certain := j.store().expired(lease)
	return !certain, nil
}

// startRollback notes that a release is rolling back. Whether a first release can is not known yet.
func (j *job) startRollback(reason string) error {
	r := j.ledger.Release
	if r == nil || r.Previous == "" || r.Stage == release.StageRollingBack {
		return nil
	}
	r.Reason = reason
	return j.ledger.Reach(release.StageRollingBack, j.By, now())
}

// rollback goes by the names in the ledger, whichever command it is a part of.
func (j *job) rollback(ctx context.Context, reason string) (Result, error) {
	j.goByLedger()
	r := j.ledger.Release
	switch {
	case r == nil:
		return j.removeLeft(ctx)
	case r.Previous == "":
		return j.rollbackFirst(ctx, reason)
	}
	j.log("ledger", "rolling back release %s: %s", r.ID, r.Reason)
	sticky, err := j.stickyRollback(ctx)
	if err != nil {
		return Result{}, err
	}
	steps := []step{j.keepOffIfPossible, j.router().backendsBack, j.restoreFirst, func(ctx context.Context) error { return j.restorePrimary(ctx, sticky) }}
	if sticky == assets {
		steps = append(steps, j.drainAtMost(openPages, "open pages that ask for its assets have to be loaded again"), j.routeBack(free))
	}
	if err := inOrder(ctx, append(steps, j.removeCanary(j.drainBriefly()), j.restoreService, j.restoreOthers, j.leaveHooks, j.afterRollback, j.collect, j.letIn)...); err != nil {
		return Result{}, err
	}
	return j.finish(r.TakenBack(), "%s has all of the traffic again; the canary is gone%s", release.Shortly(r.Previous), j.failedAt(release.AfterRollback))
}

// drainBriefly is the drain of a canary that is known to be bad.
func (j *job) drainBriefly() step { return j.drainAtMost(drainFor, "it goes all the same") }

// emergencyRoute is the step that sends the traffic to primary, before anything else that a rollback does. What its
// destination needs comes first where it is missing, and only there.
func (j *job) emergencyRoute(sticky stickiness) step {
	return func(ctx context.Context) error {
		router := j.router()
		backed, err := router.backed(ctx)
		if err != nil { // nothing is known to be missing
			j.log(router.backends()[0].String(), "%v; rolling back nevertheless", err)
			backed = map[release.Track]bool{release.Primary: true, release.Canary: true}
		}
		if !backed[release.Primary] {
			return inOrder(ctx, router.addBackends, j.routeBack(sticky))
		}
		if err := j.routeBack(sticky)(ctx); err != nil || backed[release.Canary] {
			return err
		}
		if err := router.addBackends(ctx); err != nil { // nobody is led to it any more
			j.log(router.backends()[0].String(), "%v; rolling back nevertheless", err)
		}
		return ctx.Err()
	}
}

// stickyRollback says what browsers with open pages of the canary still need.
func (j *job) stickyRollback(ctx context.Context) (stickiness, error) {
	if r := j.ledger.Release; r.Sticky == nil || r.Weight == 0 && !r.Reached(release.StagePromoting) { // testers have no cookie
		return free, nil
	}
	live, err := j.liveTrack(ctx, release.Canary)
	if err != nil {
		return free, err
	}
	if serves, err := j.serves(ctx, live, release.Canary); err != nil || !serves {
		return free, err
	}
	return assets, nil
}

// restorePrimary brings the traffic to a primary with the old template, and with the capacity for it.
func (j *job) restorePrimary(ctx context.Context, sticky stickiness) error {
	live, err := j.liveTrack(ctx, release.Primary)
	if err != nil {
		return err
	}
	share, err := j.liveShare(ctx)
	if err != nil {
		return err
	}
	need, err := j.neededBack(ctx, live, share)
	if err != nil {
		return err
	}
	urgent, err := j.urgent(ctx, share)
	if err != nil {
		return err
	}
	if live != nil && (!j.ledger.Release.Reached(release.StagePromoting) || j.asBefore(live) && !j.forged(live)) {
		return j.backTo(ctx, live, need, urgent, sticky)
	}
	return j.backFromPromotion(ctx, live, share, need, urgent, sticky)
}

// neededBack is how many replicas primary needs for all of the traffic. An HPA that cannot be read holds no rollback
// up.
func (j *job) neededBack(ctx context.Context, live *appsv1.Deployment, share int) (int32, error) {
	s, hpa, err := j.sizes(ctx, live, share)
	if err != nil {
		j.log(j.track(release.Primary).String(), "%v; it gets what it had", err)
		j.hpas = &autoscalingv2.HorizontalPodAutoscalerList{}
		return s.need(), ctx.Err()
	}
	if s.scaled && share < 100 {
		canary, err := j.liveTrack(ctx, release.Canary)
		if err != nil {
			return 0, err
		}
		if canary != nil {
			s.canary = replicasOf(canary)
		}
	}
	return j.within(s.need(), s, hpa), nil
}

// urgent says whether callers get errors while this waits: from a canary that was judged so, or that has no endpoint for
// the traffic that it has.
func (j *job) urgent(ctx context.Context, share int) (bool, error) {
	if v := j.ledger.Release.Verdict; j.Urgent || v != nil && v.Outcome == release.Unhealthy {
		return true, nil
	}
	if share == 100 {
		return false, nil
	}
	canary, err := j.liveTrack(ctx, release.Canary)
	if err != nil {
		return false, err
	}
	serves, err := j.serves(ctx, canary, release.Canary)
	return !serves, err
}

// backTo is the way back to a primary that nobody has changed. It gets its capacity first, unless callers get errors
// meanwhile: then what it has has to do, and the rest follows. One that cannot get it takes the traffic as it is.
func (j *job) backTo(ctx context.Context, live *appsv1.Deployment, need int32, urgent bool, sticky stickiness) error {
	has, err := j.readyEndpoints(ctx, live, release.Primary)
	if err != nil {
		return err
	}
	if has < need && (has > 0 || replicasOf(live) < need) {
		if err := j.regrow(ctx, need, urgent && has > 0); err != nil {
			if has, failed := j.readyEndpoints(ctx, live, release.Primary); failed != nil || has == 0 || ctx.Err() != nil {
				return err
			}
			j.log(j.track(release.Primary).String(), "%v; it gets the traffic as it is", err)
		}
		has = max(has, 1)
	}
	if has == 0 {
		return &NotReadyError{Deployment: j.deploymentName(release.Primary), Reason: "it has no ready endpoint, so the traffic stays where it is", Details: j.explain(ctx, release.Primary)}
	}
	return j.emergencyRoute(sticky)(ctx)
}

// regrow gives primary what it needs, and waits until all of it is ready unless that is not the time.
func (j *job) regrow(ctx context.Context, need int32, hurry bool) error {
	if _, err := j.grow(ctx, release.Primary, need); err != nil || hurry {
		return err
	}
	return j.waitCapacity(ctx, release.Primary, "", need)
}

// backFromPromotion is the way back to a primary that promotion has started to change, or that somebody has deleted. A
// canary that has all of the traffic, or had it while primary was replaced, keeps it until primary is back. Else
// the traffic goes to primary first if that serves at all, and its pods are replaced under it.
func (j *job) backFromPromotion(ctx context.Context, live *appsv1.Deployment, share int, need int32, urgent bool, sticky stickiness) error {
	restore := []step{
		func(ctx context.Context) error { return j.applyPrevious(ctx, live) },
		func(ctx context.Context) error { return j.regrowOrGo(ctx, need) },
		j.emergencyRoute(sticky),
	}
	canary, err := j.liveTrack(ctx, release.Canary)
	if err != nil {
		return err
	}
	if canary != nil && j.foreign(canary) { // no release has made its pods
		canary = nil
	}
	shelter, err := j.serves(ctx, canary, release.Canary)
	if err != nil {
		return err
	}
	shelter = shelter && !urgent && (share == 0 || live != nil && movedBefore(j.ledger.Release))
	if shelter && share > 0 {
		if shelter, err = j.shelter(ctx); err != nil {
			return err
		}
	}
	if !shelter {
		has, err := j.readyEndpoints(ctx, live, release.Primary)
		if err != nil {
			return err
		}
		if has > 0 && (urgent || has >= need) {
			restore = append([]step{j.emergencyRoute(sticky)}, restore...)
		}
		if has > 0 && !drains(live) {
			j.log(j.track(release.Primary).String(), "its pods are replaced under its traffic, and no container of them has a preStop hook: an app that ends at once on SIGTERM loses requests")
		}
	}
	return inOrder(ctx, restore...)
}

// shelter gives the canary the traffic while primary is put back, and says whether it has it: one that does not get
// ready for all of it holds no rollback up.
func (j *job) shelter(ctx context.Context) (bool, error) {
	route, err := j.router().recent(ctx)
	if err != nil || len(route.routes) == 0 { // nothing leads to either track
		return false, err
	}
	err = j.moveToCanary("", shelterFor)(ctx)
	if errors.As(err, new(*NotReadyError)) || errors.As(err, new(*shrinkingError)) {
		j.log(j.track(release.Canary).String(), "%v; primary is put back under its traffic", err)
		return false, nil
	}
	return err == nil, err
}

// regrowOrGo gives primary what it needs. An HPA that does not leave it there holds no rollback up.
func (j *job) regrowOrGo(ctx context.Context, need int32) error {
	err := j.regrow(ctx, need, false)
	if shrinks, ok := errors.AsType[*shrinkingError](err); ok {
		j.log(j.track(release.Primary).String(), "%v; rolling back nevertheless", shrinks)
		return nil
	}
	return err
}

// applyPrevious puts primary back to what it ran before the release, and to the manifest's size if somebody has
// deleted it.
func (j *job) applyPrevious(ctx context.Context, live *appsv1.Deployment) error {
	desired, err := j.restorable(ctx, live)
	if desired == nil || err != nil {
		return err
	}
	var before, after *appsv1.Deployment
	err = j.lasting(ctx, j.track(release.Primary), func(ctx context.Context) (_ metav1.Object, err error) {
		before, after, err = j.applyDeployment(ctx, desired, j.unbind)
		return after, err
	})
	if err != nil {
		return err
	}
	if live == nil {
		if err := j.sizePrimary(ctx, before, after); err != nil {
			return err
		}
	}
	j.log(j.track(release.Primary).String(), "put back to %s", release.Shortly(j.Manifests.Image(after)))
	return nil
}

// rollbackFirst ends an app's first release: one that is live has nothing to go back to, else its primary,
// which never had traffic, is removed.
func (j *job) rollbackFirst(ctx context.Context, reason string) (Result, error) {
	r := j.ledger.Release
	primary, err := j.liveTrack(ctx, release.Primary)
	if err != nil {
		return Result{}, err
	}
	if j.isPrevious(primary) {
		j.log(j.track(release.Primary).String(), "release %s is noted as the app's first, and it runs %s: it stays", r.ID, release.Shortly(j.Manifests.Image(primary)))
		r.Previous = j.Manifests.Image(primary)
		if r.Stage != release.StageRollingBack {
			r.Reason = reason
		}
		if err := j.reach(release.StageRollingBack)(ctx); err != nil {
			return Result{}, err
		}
		return j.rollback(ctx, reason)
	}
	if r.Stage == release.StageStarted {
		live, err := j.firstIsLive(ctx)
		if err != nil {
			return Result{}, err
		}
		if live {
			if err := j.handBack(ctx); err != nil {
				return Result{}, err
			}
			return j.finish(release.OutcomeFirst, "the app's first release, %s, has all of the traffic: there is nothing to go back to", r.Digest())
		}
		r.Reason = reason
	}
	err = inOrder(ctx,
		j.reach(release.StageRollingBack),
		j.removeFirst,
		j.waitGone(release.Primary),
		j.restoreOthers,
		j.handBack,
		j.leaveHooks,
		j.afterRollback,
		j.collect, // what the hooks read too
	)
	if err != nil {
		return Result{}, err
	}
	return j.finish(release.OutcomeRolledBack, "the first release is removed: the app has no primary%s", j.failedAt(release.AfterRollback))
}

// isPrevious says whether a primary is not what the app's first release has made, whatever the ledger says: it runs another
// image, or a promotion has written it.
func (j *job) isPrevious(primary *appsv1.Deployment) bool {
	if primary == nil {
		return false
	}
	image := j.Manifests.Image(primary)
	return image != "" && (image != j.ledger.Release.Image || noteOf(primary).there)
}

// removeFirst deletes the primary of a first release that did not come up.
func (j *job) removeFirst(ctx context.Context) error {
	j.log("ledger", "rolling back release %s: %s", j.ledger.Release.ID, j.ledger.Release.Reason)
	router := j.router()
	route, err := router.read(ctx)
	if err != nil {
		return err
	}
	if route.live != nil {
		j.log(router.route().String(), "is left as it is; it leads to no pods until the next release")
	}
	live, err := j.liveTrack(ctx, release.Primary)
	if err != nil || live == nil {
		return err
	}
	if j.foreign(live) {
		return &usererr.Error{Field: j.track(release.Primary).String(), Problem: "the first release did not create it, somebody else did", Fix: "delete it, or give it another name, then run rollback again"}
	}
	return j.deleteDeployment(ctx, live.Name)
}

// firstIsLive says whether a first release that was not noted as finished has its traffic already: its route
// is the last thing that it makes.
func (j *job) firstIsLive(ctx context.Context) (bool, error) {
	route, err := j.router().read(ctx)
	if err != nil || route.live == nil {
		return false, err
	}
	live, err := j.liveTrack(ctx, release.Primary)
	if err != nil {
		return false, err
	}
	return j.serves(ctx, live, release.Primary)
}

// orphaned says whether there is a canary, or a baseline, that no release in the ledger has created.
func (j *job) orphaned(ctx context.Context) (bool, error) {
	if j.ledger.Warm.Lasts(now()) {
		return false, nil
	}
	live, err := j.liveTrack(ctx, release.Canary)
	if err != nil || live != nil && !j.foreign(live) {
		return err == nil, err
	}
	return j.baselineLeft(ctx)
}

// removeLeft removes what no release in the ledger has left. A lock goes with the end of this job.
func (j *job) removeLeft(ctx context.Context) (Result, error) {
	for _, left := range []func(context.Context) (bool, error){j.orphaned, j.heldByNone} {
		if found, err := left(ctx); err != nil {
			return Result{}, err
		} else if found {
			return j.removeOrphan(ctx)
		}
	}
	return j.result("no release is in flight; the lock that a job had left is gone"), nil
}

// removeOrphan removes a canary and a baseline whose ledger was lost.
func (j *job) removeOrphan(ctx context.Context) (Result, error) {
	warm := j.ledger.Warm
	held, err := j.heldByNone(ctx)
	if err != nil {
		return Result{}, err
	}
	if warm != nil {
		j.log("ledger", "the pods of release %s were kept until %s", warm.Release, warm.Until.Format(time.RFC3339))
	} else {
		j.log("ledger", "no release is in flight, but one has left something: its ledger was lost")
	}
	if err := inOrder(ctx, j.emergencyRoute(free), j.removeCanary(j.drainBriefly()), j.letIn); err != nil {
		return Result{}, err
	}
	if warm != nil {
		return j.result("the pods of release %s, which were kept for a return, are gone", warm.Release), nil
	}
	if held {
		return j.result("what a release had left that the ledger does not know is gone; primary has all of the traffic, and %s applies the app again", j.GitOps.Controller), nil
	}
	return j.result("what a release had left that no release in the ledger knew is gone; primary has all of the traffic"), nil
}
