package rollout

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// canaryFound is what canary looks for.
type canaryFound struct {
	want    release.Release
	resumed bool               // the release is in the ledger already
	primary *appsv1.Deployment // as it is live; nil when the app has none
	router  routerFound        // what routes the app
	served  bool               // the Service is there
	rerun   *Result            // the canary has its traffic: all that is left is to note who has run the job again
	recopy  bool               // copies that the release's pods read are missing
	others  othersFound        // what the release changes of the other objects
	// keptOthers is what the ledger is to keep of these from the start.
	keptOthers string
	serving    *release.Finished  // what primary serves, as far as the ledger knows it
	same       bool               // primary runs all of what is wanted
	trial      *appsv1.Deployment // the canary, as the API server would make it, once it was asked
	// takeOver: primary has fields of an older apply that promotion is to remove.
	takeOver bool
	older    string // why it is passed over: a newer release has all of the traffic
}

// Canary starts a release, or resumes it: the canary's Deployment, its readiness, then its share of the
// traffic. An app without a primary has nothing to protect: its first release goes straight to primary. want
// needs ID, Image and Weight.
func (c *Cluster) Canary(ctx context.Context, want release.Release) (Result, error) {
	var err error
	if want.Objects, err = c.Manifests.Objects(c.Namespace); err != nil {
		return Result{}, err
	}
	return run(ctx, c, command[canaryFound]{
		name: "canary",
		id:   want.ID,
		look: func(ctx context.Context, j *job) (canaryFound, *Result, error) { return j.lookCanary(ctx, want) },
		start: func(j *job, found canaryFound) error {
			if found.older != "" {
				j.passedBy = &release.Left{ID: want.ID, SupersededBy: j.ledger.Serves().ID, Reason: found.older, At: now()}
				j.ledger.PassOver(*j.passedBy)
				return nil
			}
			started, err := j.ledger.Start(found.want, j.By, now())
			if r := j.ledger.Release; err == nil { // this job may make something
				j.untried, r.Untried = started || r.Untried, false
			}
			if err == nil && started && found.primary != nil {
				j.previous, err = templateText(found.primary)
			}
			if started {
				j.previousOthers = found.keptOthers
			}
			if err == nil {
				j.notePassed()
			}
			return err
		},
		act: func(ctx context.Context, j *job, found canaryFound) (Result, error) {
			switch {
			case found.older != "":
				return *j.gaveWay(want.ID), nil
			case found.recopy:
				return *found.rerun, j.ensureCopies(ctx)
			case found.rerun != nil:
				return *found.rerun, nil
			}
			result, err := j.canary(ctx, found)
			return j.backAfterHook(ctx, result, err)
		},
	})
}

func (j *job) lookCanary(ctx context.Context, want release.Release) (found canaryFound, nothing *Result, err error) {
	if err := j.bind(ctx); err != nil {
		return found, nil, err
	}
	if want.Template, err = j.Manifests.TemplateHash(); err != nil {
		return found, nil, err
	}
	want.Config = j.Manifests.Config
	found = canaryFound{want: want, resumed: j.ledger.Release != nil}
	if found.resumed {
		nothing, err = j.lookResumed(want)
	}
	if nothing != nil && err == nil {
		again, err := j.lookRerun(ctx)
		if err != nil {
			return found, nil, err
		}
		reads, err := j.readsConfiguration(ctx, nil)
		if err != nil {
			return found, nil, err
		}
		if found.recopy = len(reads.missing) > 0; again || found.recopy {
			found.rerun = nothing
			return found, nil, nil
		}
	}
	if nothing != nil || err != nil {
		return found, nothing, err
	}
	if found.primary, err = j.liveTrack(ctx, release.Primary); err != nil {
		return found, nil, fmt.Errorf("%w; nothing was changed", err)
	}
	if found.resumed {
		found.takeOver = true // the job before may have died before it did so
		if r := j.ledger.Release; r.Previous == "" && j.isPrevious(found.primary) {
			return found, nil, &StageError{fmt.Errorf("release %s is noted as the app's first, which goes straight to primary, and %s runs %s; nothing was changed, rollback ends the release", r.ID, j.track(release.Primary), release.Shortly(j.Manifests.Image(found.primary)))}
		}
		if err := j.resumeService(ctx); err != nil {
			return found, nil, err
		}
		if err := j.resumeOthers(); err != nil {
			return found, nil, err
		}
		if err := j.pass(ctx, j.ledger.Release); err != nil {
			return found, nil, err
		}
		return found, nil, j.admit(ctx, j.ledger.Release)
	}
	if err := j.notePrimary(&found.want, found.primary); err != nil {
		return found, nil, err
	}
	if found.want.Config, err = j.lookWatched(ctx); err != nil {
		return found, nil, err
	}
	if err := j.lookUnchanged(ctx, &found); err != nil {
		return found, nil, err
	}
	if nothing, err = j.lookBefore(&found); nothing != nil {
		return found, nothing, err
	}
	if held := j.held(); held != nil { // said before what --again admits
		return found, nil, held
	}
	if err != nil {
		return found, nil, err
	}
	if err := j.inTurn(want.ID); err != nil {
		return found, nil, err
	}
	if err := j.lookShared(ctx, &found); err != nil {
		return found, nil, err
	}
	if !found.same {
		if err := j.store().lookRelease(ctx, j, &found); err != nil {
			return found, nil, err
		}
	}
	if err := j.releasable(found.primary); err != nil {
		return found, nil, err
	}
	if err := j.pass(ctx, &found.want); err != nil {
		return found, nil, err
	}
	if err := j.admit(ctx, &found.want); err != nil {
		return found, nil, err
	}
	if older := j.ledger.Older(&found.want); older != "" && !j.Again && j.queues() && j.ledger.Serves() != nil {
		found.older = "its image is older than what primary runs: " + older
		return found, nil, nil
	}
	if err := j.notOlder(&found.want); err != nil {
		return found, nil, err
	}
	if !found.same {
		if err := j.lookCanaryOthers(ctx, &found); err != nil {
			return found, nil, err
		}
	}
	if !found.same {
		if err := j.lookHooks(ctx, &found.want, release.BeforeCanary, release.BeforeStep, release.BeforePromotion, release.AfterPromotion, release.AfterRollback); err != nil {
			return found, nil, err
		}
	}
	if found.takeOver, err = j.rehearse(ctx, &found); err == nil && !found.same {
		err = j.lookBaseline(ctx, &found.want, found.primary)
	}
	return found, nil, err
}

// releasable refuses a Deployment that a release would take capacity from, or that would never get it, and images
// that can be others on primary than on the canary.
func (j *job) releasable(primary *appsv1.Deployment) error {
	if err := j.Manifests.Releasable(); err != nil {
		return err
	}
	if primary != nil && primary.Spec.Paused {
		return paused(j.track(release.Primary))
	}
	tagged, err := j.Manifests.Tagged(j.AllowTags)
	for _, image := range tagged {
		j.log("image", "%s has no digest, and canary.allowTags admits it: what it names can change without a release", image)
	}
	return err
}

func paused(o object) error {
	return &usererr.Error{Field: o.String(), Problem: "it is paused, so that it would never get the release", Fix: "run `kubectl rollout resume deployment/" + o.name + "` first; nothing was changed"}
}

// lookResumed compares the release in flight with the one that is wanted.
func (j *job) lookResumed(want release.Release) (*Result, error) {
	r, again := j.ledger.Release, *j.ledger
	if _, err := again.Start(want, j.By, now()); err != nil {
		return nil, err
	}
	if len(r.Plan) > 0 && len(want.Plan) > 0 && !r.Plan.Same(want.Plan) {
		j.log("ledger", "release %s keeps the steps that it started with; those of crossbill.yaml are others now", r.ID)
	}
	if r.Previous != "" && r.Baseline != want.Baseline {
		j.log("ledger", "release %s keeps what it started with, which is %s baseline; canary.baseline says otherwise now", r.ID, map[bool]string{true: "a", false: "no"}[r.Baseline])
	}
	switch {
	case len(r.Plan) == 0 && len(want.Plan) > 0 && slices.Contains([]release.Stage{release.StageStarted, release.StageCanary, release.StageVerified}, r.Stage):
		return nil, &StageError{fmt.Errorf("release %s: %w", r.ID, release.ErrNoPlan)}
	case len(r.Plan) > 0 && r.Stage == release.StageStarted: // what it starts with is its first step
	case r.Stage == release.StageStarted && r.Weight != want.Weight:
		return nil, &usererr.Error{Field: "canary.weight", Problem: fmt.Sprintf("%d is not the weight that release %s started with", want.Weight, r.ID), Fix: fmt.Sprintf("give %d, or roll the release back and start a new one", r.Weight)}
	case r.Stage == release.StageStarted && (r.Sticky == nil) != (want.Sticky == nil):
		return nil, &usererr.Error{Field: "canary.sticky", Problem: fmt.Sprintf("it differs from how release %s started", r.ID), Fix: "give it as it was given first, or roll the release back and start a new one"}
	case r.Stage == release.StageStarted && !r.Match.Same(want.Match):
		return nil, &usererr.Error{Field: "canary.match", Problem: fmt.Sprintf("it is not what release %s started with: %s", r.ID, cmp.Or(matchText(r.Match), "no testers")), Fix: "give it as it was given first, or roll the release back and start a new one"}
	case r.Stage == release.StageStarted && r.Mirror != want.Mirror:
		return nil, &usererr.Error{Field: "canary.mirror", Problem: fmt.Sprintf("%d%% is not what release %s started with: %d%%", want.Mirror, r.ID, r.Mirror), Fix: "give it as it was given first, or roll the release back and start a new one"}
	case r.Stage == release.StageRollingBack:
		return nil, &StageError{j.ledger.Promotable()}
	case r.Stage != release.StageStarted:
		return j.nothing("the canary of release %s already has its traffic (stage %s)", r.ID, r.Stage), nil
	}
	return nil, nil
}

func matchText(m *release.Match) string {
	if m == nil {
		return ""
	}
	return m.String()
}

// wantedOf is what a release is to start with, and what its routes must be able to have later.
func wantedOf(r *release.Release) traffic {
	want := traffic{weight: r.Weight, match: r.Match, mirror: r.Mirror}
	if r.Sticky != nil {
		want.sticky = pinned
	}
	return want
}

// lookRerun says whether the canary of a release that waits for its approver runs as somebody who is not noted yet. From then
// on GitLab may start the jobs after it as that user, whom promote therefore refuses.
func (j *job) lookRerun(ctx context.Context) (again bool, err error) {
	r := j.ledger.Release
	if r.Stage != release.StageCanary && r.Stage != release.StageVerified {
		return false, nil
	}
	if err := j.pass(ctx, r); err != nil || j.passed == nil {
		return false, err
	}
	return r.NewUser(j.passed.Pipeline), nil
}

// notePrimary notes in a release what primary runs when it starts. A Deployment that Crossbill could not
// change, or whose container it cannot name, is somebody else's: it is neither a first release's nor a
// canary's primary.
func (j *job) notePrimary(want *release.Release, primary *appsv1.Deployment) error {
	want.Previous, want.Replicas = "", 0
	if primary == nil {
		return nil
	}
	desired, err := j.Manifests.Track(release.Primary, j.Namespace, "")
	if err != nil {
		return err
	}
	if err := sameSelector(primary, desired); err != nil {
		return err
	}
	if want.Previous = j.Manifests.Image(primary); want.Previous == "" {
		return &usererr.Error{
			Field:   j.track(release.Primary).String(),
			Problem: "it has no container with the name that the manifest has",
			Fix:     "give the container in the manifest the name that it has in the cluster",
		}
	}
	if want.Replicas = replicasOf(primary); want.Replicas == 0 {
		return &usererr.Error{
			Field:   j.track(release.Primary).String(),
			Problem: "it has 0 replicas: there is nothing to compare the canary with, and nothing to go back to",
			Fix:     "scale it up, then run canary again",
		}
	}
	return nil
}

// lookUnchanged says whether primary runs what is wanted already: the image, the pod template with all that it reads, as the
// API server would make the canary's, what others own of that as it was when primary got it, and the other objects.
func (j *job) lookUnchanged(ctx context.Context, found *canaryFound) error {
	found.serving = j.ledger.Serves()
	if found.want.Previous == "" || found.want.Previous != found.want.Image {
		return nil
	}
	if err := j.lookRuns(ctx, found); err != nil || !found.same {
		return err
	}
	err := j.lookCanaryOthers(ctx, found)
	found.same = err == nil && !found.others.changed()
	return err
}

// lookRuns says whether primary's pods are what is wanted.
func (j *job) lookRuns(ctx context.Context, found *canaryFound) error {
	if found.serving != nil && len(found.want.Changed(&found.serving.Release)) > 0 {
		return nil
	}
	desired, err := j.Manifests.Track(release.Canary, j.Namespace, found.want.Image)
	if err != nil {
		return err
	}
	if found.trial, err = j.store().dryApply(ctx, j, desired); err != nil {
		return err
	}
	if found.trial == nil { // a webhook knows no dry runs
		found.same = found.serving != nil && found.serving.Template == found.want.Template
		return nil
	}
	different, err := differences(found.primary, found.trial)
	found.same = err == nil && different.Empty()
	return err
}

// unchanged is the result of a release of what primary runs, with what was compared.
func (found *canaryFound) unchanged(result Result) Result {
	result.Compared = []string{"image", "pod template"}
	var serving *release.Release
	if found.serving != nil {
		serving = &found.serving.Release
	}
	for _, c := range found.want.Compared(serving) {
		result.Compared = append(result.Compared, c.Kind+" "+c.Name)
	}
	for _, other := range found.others.all {
		result.Compared = append(result.Compared, other.object.kind+" "+other.object.name)
	}
	last := len(result.Compared) - 1
	result.Message = fmt.Sprintf("primary already runs %s: %s and %s are the same; nothing to do", found.want.Digest(), strings.Join(result.Compared[:last], ", "), result.Compared[last])
	return result
}

// lookBefore finds a release that has finished before, with this name or of the same.
func (j *job) lookBefore(found *canaryFound) (*Result, error) {
	want := &found.want
	if finished := j.ledger.Find(want.ID); finished != nil {
		switch {
		case finished.Outcome.Good() && found.same:
			return new(found.unchanged(j.result(""))), nil
		case !found.same && finished.Same(want) && !j.Again && !finished.Untried && finished.Outcome != release.OutcomeSuperseded:
			return nil, &StageError{fmt.Errorf("release %s has finished before: %s at %s%s; --again releases it once more", want.ID, finished.Outcome, finished.FinishedAt.Format(time.RFC3339), because(finished.Reason))}
		}
	}
	if failed := j.ledger.Failed(want); failed != nil && !found.same && !j.Again {
		return nil, &StageError{fmt.Errorf("%s was rolled back in release %s at %s%s; --again releases it once more", want.Digest(), failed.ID, failed.FinishedAt.Format(time.RFC3339), because(failed.Reason))}
	}
	return nil, nil
}

// lookShared looks at what both tracks share, and refuses what would make the release ineffective or primary lose its
// traffic.
func (j *job) lookShared(ctx context.Context, found *canaryFound) error {
	var err error
	if found.router, err = j.router().look(ctx, found.primary, wantedOf(&found.want)); err != nil {
		return err
	}
	service, err := j.liveService(ctx)
	if err != nil {
		return err
	}
	found.served = service != nil
	if found.primary == nil {
		return j.checkFirstService(service)
	}
	return j.checkService(service, found.primary, found.router.routing)
}

// resumeService looks at the Service again where the release is to make it: somebody else may have, since.
func (j *job) resumeService(ctx context.Context) error {
	if !j.first() {
		return nil
	}
	service, err := j.liveService(ctx)
	if err != nil {
		return err
	}
	return j.checkFirstService(service)
}

// admit asks whether a release's image may be deployed.
func (j *job) admit(ctx context.Context, r *release.Release) error {
	if j.Admit == nil {
		return nil
	}
	return j.Admit(ctx, r)
}

// notOlder refuses an image that is older than the one that primary runs, unless it is wanted: going back is what rollback
// is for, and never by accident.
func (j *job) notOlder(want *release.Release) error {
	serving := j.ledger.Serving
	if serving != nil && want.Origin != nil && want.Previous != "" && release.DigestOf(want.Previous) != serving.Digest {
		j.log("image", "primary runs %s, which the last release did not put there: which of the images is older is not known", release.Shortly(want.Previous))
	}
	older := j.ledger.Older(want)
	switch {
	case older == "":
		return nil
	case !j.Again:
		return &StageError{fmt.Errorf("%s is older than what primary runs: %s; --again releases it nevertheless; nothing was changed", want.Digest(), older)}
	}
	j.log("image", "is older than what primary runs, and --again admits it: %s", older)
	origin := *want.Origin
	origin.Older = older
	want.Origin = &origin
	return nil
}

func (j *job) canary(ctx context.Context, found canaryFound) (Result, error) {
	r := j.ledger.Release
	switch {
	case found.same:
		result, err := j.finish(release.OutcomeUnchanged, "")
		return found.unchanged(result), err
	case found.resumed:
		j.log("ledger", "resuming release %s from stage %s", r.ID, r.Stage)
	default:
		j.log("ledger", "release %s of %s starts", r.ID, r.Digest())
	}
	if r.Previous == "" {
		if err := j.ensureCopies(ctx); err != nil {
			return Result{}, err
		}
		return j.canaryFirst(ctx)
	}
	steps := []step{j.keepOff}
	router := j.router()
	if !found.router.backed {
		steps = append(steps, router.ensureBackends)
	}
	if !found.served {
		steps = append(steps, j.ensureService)
	}
	if !found.router.routed() {
		steps = append(steps, router.ensureRoute)
	}
	if found.takeOver {
		steps = append(steps, j.takeOverTemplate)
	}
	j.sayOthers(found.others)
	for i := range r.Plan {
		if j.planning() {
			j.say("steps", "%s", r.Plan.Step(i))
		}
	}
	err := inOrder(ctx, append(steps,
		j.createNeeded,
		j.ensureCopies,
		j.hooks(release.BeforeCanary, 0),
		j.applyCanary(func(int32) int32 { return forShare(max(replicasOf(found.primary), r.Replicas), r.Needs()) }),
		j.waitTrack(release.Canary, r.Image),
		j.beforeStep(r.Weight),
		j.ensureBaseline,
		j.route(r.Weight),
	)...)
	if err == nil {
		err = j.ledger.Reach(release.StageCanary, j.By, now())
	}
	return j.result("%s gets %s", r.Digest(), r.Gets()), err
}

// canaryFirst releases an app that has no primary.
func (j *job) canaryFirst(ctx context.Context) (Result, error) {
	r := j.ledger.Release
	j.log("ledger", "first release: there is no primary to protect, so it goes straight to primary")
	router := j.router()
	err := inOrder(ctx,
		j.beforeFirst,
		j.applyService,
		router.ensureBackends,
		j.promoteOthers,
		func(ctx context.Context) error { _, err := j.applyPrimary(ctx); return err },
		j.waitTrack(release.Primary, r.Image),
		router.ensureRoute,
		j.handBack,
		j.hooks(release.AfterPromotion, 0),
	)
	if err != nil {
		return Result{}, err
	}
	return j.finish(release.OutcomeFirst, "first release: %s has all of the traffic%s", r.Digest(), j.failedAt(release.AfterPromotion))
}
