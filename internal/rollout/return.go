package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Previous names the release that primary ran before the one that it runs.
const Previous = "previous"

// returnFound is what a return looks for.
type returnFound struct {
	resumed bool              // the return is in the ledger already
	other   *release.Release  // another release is in flight: it is rolled back first
	target  *release.Finished // where to
	objects *release.Objects
	primary *appsv1.Deployment
	// takeOver: primary has fields of an older apply that the return is to remove.
	takeOver bool
}

// RollbackTo returns to a finished release that had all of the traffic, or to the Previous one: its image, pod template and
// configuration, as primary ran them. The canary's Deployment gets them, then all of the traffic, and primary is replaced
// behind it. It was judged when it was released, so it is not judged again. Another release in flight is rolled back first.
// hold: no new release starts until Resume. It takes the lock of whoever holds it.
func (c *Cluster) RollbackTo(ctx context.Context, to, reason string, hold bool) (Result, error) {
	taking := *c
	taking.Takeover = true
	return run(ctx, &taking, command[returnFound]{
		name: "rollback",
		look: func(ctx context.Context, j *job) (returnFound, *Result, error) { return j.lookReturn(ctx, to) },
		start: func(j *job, found returnFound) error {
			if !found.resumed && hold && j.ledger.Hold == nil {
				j.ledger.Hold = &release.Hold{By: j.By, Since: now(), Reason: reason, Release: j.takenBack()}
			}
			switch {
			case found.resumed:
				return nil
			case found.other != nil:
				return j.startRollback(fmt.Sprintf("going back to release %s%s", found.target.ID, because(reason)))
			}
			return j.startReturn(found, reason)
		},
		act: func(ctx context.Context, j *job, found returnFound) (Result, error) {
			return j.returnTo(ctx, found, reason)
		},
	})
}

// takenBack is the release that a return takes back.
func (j *job) takenBack() string {
	if r := j.ledger.Release; r != nil {
		return r.ID
	}
	if deployed := j.deployed(); deployed != nil {
		return deployed.ID
	}
	return ""
}

// deployed is the release that put on primary what it serves, as far as the ledger knows, or nil: one that found its image there
// already is only another name of it.
func (j *job) deployed() *release.Finished {
	history := j.ledger.History
	i := slices.IndexFunc(history, func(f release.Finished) bool {
		return f.Outcome.Good() && f.Outcome != release.OutcomeUnchanged
	})
	if serves := j.ledger.Serves(); i < 0 || history[i].Image != serves.Image { // somebody else put it there
		return serves
	}
	return &history[i]
}

func (j *job) lookReturn(ctx context.Context, to string) (found returnFound, nothing *Result, err error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return found, nil, err
	}
	r := j.ledger.Release
	switch {
	case r != nil && r.Return != nil && (to == Previous || to == r.ID):
		if r.Stage == release.StageRollingBack {
			return found, nil, &StageError{fmt.Errorf("the return to release %s is taken back (%s): finish with rollback", r.ID, r.Reason)}
		}
		found.resumed, found.takeOver = true, true // the job before may have died before it did so
		j.goByNames(r.Objects)
		return found, nil, nil
	case r != nil && to == Previous:
		return found, nil, &StageError{fmt.Errorf("release %s is in flight, and rollback without --to returns to what primary ran before it; nothing was changed", r.ID)}
	}
	if found.target, nothing, err = j.returnTarget(to); nothing != nil || err != nil {
		return found, nothing, err
	}
	found.other = r
	if found.objects = j.names(); found.objects == nil {
		return found, nil, j.unreturnable(found.target, "the ledger does not name the app's objects: an earlier Crossbill has written it")
	}
	j.goByNames(found.objects)
	if found.primary, err = j.liveTrack(ctx, release.Primary); err != nil {
		return found, nil, fmt.Errorf("%w; nothing was changed", err)
	}
	if err := j.returnable(ctx, &found); err != nil {
		return found, nil, err
	}
	if runs, err := j.runs(found.primary, found.target.Pod); err != nil || runs && found.other == nil {
		return found, j.nothing("primary already runs release %s: nothing to do", found.target.ID), err
	}
	return found, nil, nil
}

// returnTarget is the release that is to be returned to, as the ledger has it.
func (j *job) returnTarget(to string) (*release.Finished, *Result, error) {
	all := j.ledger.Returnable()
	if to == Previous {
		deployed := j.deployed()
		switch {
		case deployed != nil && deployed.Outcome == release.OutcomeReturned:
			return nil, j.nothing("release %s was returned to at %s: nothing to do; name the release to go back further", deployed.ID, deployed.FinishedAt.Format("2006-01-02T15:04:05Z")), nil
		case len(all) > 0 && all[0].Pod != deployed.Pod: // it is not kept
			return &all[0], nil, nil
		case len(all) > 1:
			return &all[1], nil, nil
		}
		return nil, nil, &StageError{errors.New("the ledger has no release before the one that primary runs; nothing was changed")}
	}
	var ids []string
	for i := range all {
		if all[i].ID == to {
			return &all[i], nil, nil
		}
		ids = append(ids, all[i].ID)
	}
	fix := "no release is kept: deploy the image again with canary"
	if len(ids) > 0 {
		fix = "give one of " + strings.Join(ids, ", ")
	}
	problem := fmt.Sprintf("%q is no release in the ledger", to)
	if finished := j.ledger.Find(to); finished != nil {
		problem = fmt.Sprintf("release %s ended as %s: only one that had all of the traffic can be returned to", to, finished.Outcome)
		if finished.Outcome.Good() {
			problem = fmt.Sprintf("the pod template of release %s is not kept any more: rollback.keepReleases says of how many it is", to)
			fix += ", or release the image again: `crossbill canary --image " + finished.Image + " --again`"
		}
	}
	return nil, nil, &usererr.Error{Field: "to", Problem: problem, Fix: fix}
}

// unreturnable says why a release that the ledger keeps cannot be returned to.
func (j *job) unreturnable(target *release.Finished, problem string) error {
	return &usererr.Error{Field: "to", Problem: fmt.Sprintf("release %s: %s", target.ID, problem), Fix: "release the image again: `crossbill canary --image " + target.Image + " --again`; nothing was changed"}
}

// names are those of the app's objects, of the release that serves.
func (j *job) names() *release.Objects {
	for _, f := range j.ledger.History {
		if f.Outcome.Good() && f.Objects != nil {
			return f.Objects
		}
	}
	return nil
}

// goByNames makes names of the ledger those of this job: the manifests are another release's.
func (j *job) goByNames(objects *release.Objects) {
	c := *j.Cluster
	c.Manifests, c.given = manifest.OfObjects(j.app(), objects), j.jobManifests()
	j.Cluster = &c
}

// returnable refuses what would fail half-way, or would not be what primary ran.
func (j *job) returnable(ctx context.Context, found *returnFound) error {
	target, primary := found.target, found.primary
	switch {
	case primary == nil:
		return &StageError{fmt.Errorf("%s not found: there is nothing to return from; start a release with canary", j.track(release.Primary))}
	case primary.Spec.Paused:
		return paused(j.track(release.Primary))
	case !j.boundTo(primary, target.Image, target.Pod):
		return j.unreturnable(target, fmt.Sprintf("%s does not note that it ran it with the pod template that %s keeps", j.track(release.Primary), j.ledgerName()))
	}
	if err := j.canaryNameFree(ctx); err != nil {
		return err
	}
	if err := j.returnableInGit(target); err != nil {
		return err
	}
	if err := j.copiesLeft(ctx, target); err != nil {
		return err
	}
	canary, err := j.with(release.Canary, primary, target.Image, target.Pod)
	if err != nil {
		return err
	}
	if err := j.served(ctx, target, canary); err != nil {
		return err
	}
	router := j.router()
	route, err := router.read(ctx)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	if len(route.routes) == 0 {
		return router.missing()
	}
	if _, err := router.backed(ctx); err != nil { // known to the step that makes what is missing
		return fmt.Errorf("%w; nothing was changed", err)
	}
	dry, err := j.store().dryApply(ctx, j, canary)
	if dry == nil || err != nil {
		return err
	}
	found.takeOver, err = j.judgeTemplates(primary, dry)
	return err
}

// copiesLeft refuses a release whose configuration is gone.
func (j *job) copiesLeft(ctx context.Context, target *release.Finished) error {
	var gone []string
	for _, c := range target.Config {
		if c.Copy == "" {
			continue
		}
		o := j.configuration(c.Kind, c.Copy)
		switch live, err := o.read(ctx); {
		case lacksPermission(err):
			j.log(o.String(), "may not be read: whether it is there is not checked")
		case err != nil:
			return fmt.Errorf("%s: %w; nothing was changed", o, err)
		case live == nil:
			gone = append(gone, o.String())
		}
	}
	if len(gone) > 0 {
		return j.unreturnable(target, "its configuration is gone: "+strings.Join(gone, ", "))
	}
	return nil
}

// served refuses a release whose pods the Service, as it is live, does not serve: it stays as it is.
func (j *job) served(ctx context.Context, target *release.Finished, d *appsv1.Deployment) error {
	service, err := j.liveService(ctx)
	if err != nil {
		return err
	}
	if service == nil {
		return &StageError{fmt.Errorf("%s not found; nothing was changed", j.service())}
	}
	its := []pods{{"release " + target.ID + ", as primary ran them,", d.Spec.Template}}
	for _, err := range []error{j.selects(service, its, "the cluster"), j.leads(service, service, its, "the cluster")} {
		if bad, ok := errors.AsType[*usererr.Error](err); ok {
			return j.unreturnable(target, bad.Field+": "+bad.Problem)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// runs says whether primary has a pod template that the ledger keeps.
func (j *job) runs(primary *appsv1.Deployment, pod string) (bool, error) {
	if primary == nil {
		return false, nil
	}
	is, err := podOf(primary)
	return is == pod, err
}

// with is a track's Deployment with a pod template that the ledger keeps; all else of it is what primary has of us.
func (j *job) with(track release.Track, primary *appsv1.Deployment, image, pod string) (*appsv1.Deployment, error) {
	var template corev1.PodTemplateSpec
	if err := json.Unmarshal([]byte(pod), &template); err != nil {
		return nil, fmt.Errorf("%s: a pod template is not readable: %w", j.ledgerName(), err)
	}
	d, err := j.Manifests.Track(track, j.Namespace, image)
	if err != nil {
		return nil, err
	}
	own, err := ownFields(primary)
	if err != nil {
		return nil, err
	}
	selector := d.Spec.Selector
	if track == release.Primary {
		selector = primary.Spec.Selector.DeepCopy()
	}
	if d.Labels = maps.Clone(own.Labels); d.Labels != nil {
		d.Labels[manifest.TrackLabel] = string(track)
	}
	d.Annotations, d.Spec = own.Annotations, own.Spec
	delete(d.Annotations, boundAnnotation)
	d.Spec.Selector, d.Spec.Template = selector, template
	metav1.SetMetaDataLabel(&d.Spec.Template.ObjectMeta, manifest.TrackLabel, string(track))
	return d, nil
}

// returned is what a return gives a track. It believes the ledger only in what primary notes.
func (j *job) returned(ctx context.Context, track release.Track) (*appsv1.Deployment, error) {
	r := j.ledger.Release
	primary, err := recent[*appsv1.Deployment](ctx, j, j.track(release.Primary))
	switch {
	case err != nil:
		return nil, err
	case primary == nil:
		return nil, &StageError{fmt.Errorf("%s not found: somebody has deleted it; rollback makes it again", j.track(release.Primary))}
	case !j.boundTo(primary, r.Image, r.Pod):
		return nil, &StageError{fmt.Errorf("%s does not note that it ran release %s with the pod template that %s keeps: somebody has changed one of the two; rollback ends the return", j.track(release.Primary), r.ID, j.ledgerName())}
	}
	return j.with(track, primary, r.Image, r.Pod)
}

// startReturn puts the return in flight, and keeps primary's pod template: a rollback puts it back.
func (j *job) startReturn(found returnFound, reason string) (err error) {
	if j.previous, err = templateText(found.primary); err != nil {
		return err
	}
	j.previousService, j.previousOthers = "", "" // of a release that has ended
	r := found.target.Again(release.Return{From: j.takenBack(), Reason: reason})
	r.Objects, r.Previous, r.Replicas = found.objects, j.Manifests.Image(found.primary), replicasOf(found.primary)
	_, err = j.ledger.Start(r, j.By, now())
	return err
}

// returnTo does what is left of a return.
func (j *job) returnTo(ctx context.Context, found returnFound, reason string) (Result, error) {
	if found.other != nil {
		j.returning = true
		result, err := j.rollback(ctx, reason)
		if err != nil {
			return result, err
		}
		if err := j.commit(ctx); err != nil { // one release ends before the next one starts
			return result, err
		}
		j.returning = false
		again, nothing, err := j.lookReturn(ctx, found.target.ID)
		if err != nil {
			return result, err
		}
		if nothing != nil {
			result.Message += ": it is release " + found.target.ID
			return result, nil
		}
		found = again
		if err := j.startReturn(found, reason); err != nil {
			return result, err
		}
		if err := j.commit(ctx); err != nil {
			return result, err
		}
	}
	return j.goBack(ctx, found)
}

func (j *job) goBack(ctx context.Context, found returnFound) (Result, error) {
	r := j.ledger.Release
	j.log("ledger", "returning to release %s, %s", r.ID, r.Digest())
	primary, err := recent[*appsv1.Deployment](ctx, j, j.track(release.Primary))
	if err != nil {
		return Result{}, err
	}
	steps := []step{j.keepOff}
	if r.Stage == release.StageStarted {
		steps = append(steps, j.router().ensureBackends)
		if found.takeOver {
			steps = append(steps, j.takeOverTemplate)
		}
		steps = append(steps,
			j.fitFor(primary),
			j.applyCanary(func(int32) int32 { return j.ledger.Release.Replicas }),
			j.waitTrack(release.Canary, r.Image),
			j.reach(release.StagePromoting),
		)
	}
	if r.Stage != release.StagePromoted {
		replaced, err := j.runs(primary, r.Pod)
		if err != nil {
			return Result{}, err
		}
		switch {
		case replaced: // the traffic stays wherever it is
			steps = append(steps, j.noteFound)
		case j.planning(): // only the plan has made the canary
			steps = append(steps, j.route(100))
		default:
			steps = append(steps, j.moveToCanary(r.Image, leaveFor))
		}
		steps = append(steps, j.replacePrimary, j.routeToPrimary, j.commitRelease, j.reach(release.StagePromoted))
	}
	if err := inOrder(ctx, append(steps, j.routeBack(free), j.removeCanary(j.drainAtMost(leaveFor, "it goes all the same")), j.afterRollback, j.letIn)...); err != nil {
		return Result{}, err
	}
	return j.finish(release.OutcomeReturned, "%s has all of the traffic again, as release %s%s", r.Digest(), r.ID, j.failedAt(release.AfterRollback))
}

// fitFor is the step that finds how many replicas all of the traffic needs, and notes it.
func (j *job) fitFor(primary *appsv1.Deployment) step {
	return func(ctx context.Context) error {
		need, s, err := j.needed(ctx, primary)
		if err == nil {
			j.note(need, s)
		}
		return err
	}
}
