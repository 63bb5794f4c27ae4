package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Promote puts the digest that the canary proved on primary, waits for the rollout, and routes all
// of the traffic to primary. The canary has all of the traffic until then, or, if PromoteTraffic says so, keeps its
// share.
func (c *Cluster) Promote(ctx context.Context) (Result, error) {
	return run(ctx, c, command[promoteFound]{
		name: "promote",
		look: func(ctx context.Context, j *job) (found promoteFound, nothing *Result, err error) {
			nothing, err = j.lookPromote(ctx)
			if r := j.ledger.Release; nothing != nil && err == nil && r != nil && r.Return == nil && j.pending(release.AfterPromotion) {
				found.after = true
				return found, nil, nil
			}
			if nothing == nil && err == nil && j.ledger.Release.Stage == release.StageVerified { // later nothing depends on them
				err = j.lookHooks(ctx, j.ledger.Release, release.BeforePromotion, release.AfterPromotion)
			}
			if nothing == nil && err == nil {
				found.service, err = j.lookPromotedService(ctx)
			}
			if nothing == nil && err == nil {
				found.others, err = j.lookPromotedOthers(ctx)
			}
			if nothing == nil && err == nil {
				err = j.admit(ctx, j.ledger.Release)
			}
			return found, nothing, err
		},
		start: func(j *job, found promoteFound) error {
			if found.after {
				return nil
			}
			if j.notePassed(); j.asksBefore() {
				return nil
			}
			return j.startPromote(found)
		},
		act: func(ctx context.Context, j *job, found promoteFound) (Result, error) {
			if found.after {
				return j.afterPromotion(ctx)
			}
			if j.asksBefore() {
				if err := j.beforePromotion(ctx, found); err != nil {
					return j.backAfterHook(ctx, Result{}, err)
				}
			}
			return j.promote(ctx)
		},
	})
}

// promoteFound is what promotion is about to change of what both tracks share, as it is before: see lookPromotedService and
// lookPromotedOthers.
type promoteFound struct {
	service, others string
	after           bool // it is promoted, and hooks after it have yet to run
}

func (j *job) lookPromote(ctx context.Context) (*Result, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return nil, err
	}
	r := j.ledger.Release
	switch {
	case r == nil:
		return j.lookPromoted()
	case r.Stage == release.StagePromoted:
		return j.nothing("release %s is promoted: continue with cleanup", r.ID), nil
	}
	if r.Return != nil {
		return nil, &StageError{fmt.Errorf("release %s is returned to: `rollback --to %s` goes on with it, rollback without --to takes it back", r.ID, r.ID)}
	}
	if err := j.ledger.Promotable(); err != nil {
		return nil, &StageError{err}
	}
	if err := j.bind(ctx); err != nil {
		return nil, err
	}
	if err := j.sameTemplate(); err != nil {
		return nil, err
	}
	if err := j.pass(ctx, r); err != nil {
		return nil, err
	}
	if r.Stage != release.StageVerified {
		return nil, nil
	}
	return nil, j.lookVerified(ctx)
}

// lookVerified refuses to promote a release that is not as it was judged, or was judged too long ago.
func (j *job) lookVerified(ctx context.Context) error {
	r := j.ledger.Release
	status, err := j.status(ctx)
	if err != nil {
		return err
	}
	if drift := status.drift(); len(drift) > 0 { // copies that are missing are made again
		return &StageError{fmt.Errorf("somebody else has changed release %s: %s", r.ID, strings.Join(drift, "; "))}
	}
	if unseen := status.reads.unseen; len(unseen) > 0 {
		return &StageError{fmt.Errorf("whether %s %s as when release %s started is not known: let this account read it, and run verify --again", strings.Join(unseen, ", "), map[bool]string{true: "is", false: "are"}[len(unseen) == 1], r.ID)}
	}
	if age := now().Sub(r.Verdict.At); j.MaxVerdictAge > 0 && age > j.MaxVerdictAge && !j.planning() {
		return &StaleVerdictError{ReleaseID: r.ID, Age: age, Most: j.MaxVerdictAge}
	}
	return j.provable(status.live)
}

// sameTemplate refuses manifests with another pod template, or another content of what pods read, than those that the
// release in flight started with.
func (j *job) sameTemplate() error {
	r := j.ledger.Release
	template, err := j.Manifests.TemplateHash()
	if err != nil || template == r.Template {
		return err
	}
	return &usererr.Error{
		Field:   "manifests",
		Problem: fmt.Sprintf("the pod template, or what its pods read, is not what the canary of release %s proved", r.ID),
		Fix:     "run " + j.command + " with the manifests that canary was run with",
	}
}

// StaleVerdictError says that a release was judged too long ago to be promoted. Nothing was changed.
type StaleVerdictError struct {
	ReleaseID string
	Age, Most time.Duration
}

func (e *StaleVerdictError) Error() string {
	return fmt.Sprintf("release %s was judged healthy %s ago, %s is allowed", e.ReleaseID, e.Age.Round(time.Second), e.Most)
}

// lookPromoted is what promote finds when no release is in flight.
func (j *job) lookPromoted() (*Result, error) {
	last := j.ledger.Last(j.ReleaseID)
	switch {
	case last == nil:
		return nil, &StageError{fmt.Errorf("%w: start one with canary", release.ErrNoRelease)}
	case !last.Outcome.Good():
		return nil, &StageError{fmt.Errorf("release %s has finished: %s%s; start one with canary", last.ID, last.Outcome, because(last.Reason))}
	}
	return j.nothing("release %s has finished (%s) and has all of the traffic: nothing to do", last.ID, last.Outcome), nil
}

// startPromote notes that promotion begins, and keeps primary's pod template as the look has just read it: rollback
// puts it back as it was, not only its image. So it does with what promotion changes of what both tracks share.
func (j *job) startPromote(found promoteFound) error {
	if j.ledger.Release.Stage == release.StagePromoting {
		return nil
	}
	live := as[*appsv1.Deployment](j.recall(j.track(release.Primary)))
	if live == nil {
		return fmt.Errorf("%s not found: somebody has deleted it; nothing was changed, rollback ends the release", j.track(release.Primary))
	}
	text, err := templateText(live)
	if err != nil {
		return err
	}
	j.previous, j.previousService, j.previousOthers = text, found.service, found.others
	return j.ledger.Reach(release.StagePromoting, j.By, now())
}

func (j *job) promote(ctx context.Context) (Result, error) {
	r := j.ledger.Release
	primary, err := recent[*appsv1.Deployment](ctx, j, j.track(release.Primary))
	if err != nil {
		return Result{}, err
	}
	steps := []step{j.keepOff, j.ensureCopies, j.prepare(primary)} // canary has made the subsets that the routes name
	switch {
	case primary == nil, j.replaced(primary) && !j.asBefore(primary): // and wherever the traffic is, it stays there
		steps = append(steps, j.noteFound)
	case j.behindCanary():
		steps = append(steps, j.moveToCanary(r.Image, leaveFor))
	default:
		steps = append(steps, j.fitCanary)
	}
	err = inOrder(ctx, append(steps, j.replacePrimary, j.routeToPrimary, j.promoteService, j.promoteOthers, j.shrinkPrimary, j.commitRelease)...)
	if err == nil {
		err = j.ledger.Reach(release.StagePromoted, j.By, now())
	}
	if err != nil {
		return Result{}, err
	}
	return j.afterPromotion(ctx)
}

// approved says who has approved a release, where that is noted.
func approved(r *release.Release) string {
	if by := r.Approvers(); by != "" {
		return ", approved by " + by
	}
	return ""
}

// prepare is the step that finds what promotion needs, and says what it takes or risks. Until the next commit, only this
// job knows.
func (j *job) prepare(primary *appsv1.Deployment) step {
	return func(ctx context.Context) error {
		if primary == nil {
			return nil
		}
		need, s, err := j.needed(ctx, primary)
		if err != nil {
			return err
		}
		j.note(need, s)
		j.sayCapacity(primary, need)
		return nil
	}
}

// needed is how many replicas all of the traffic needs now, with the sizes that show it.
func (j *job) needed(ctx context.Context, primary *appsv1.Deployment) (int32, sizes, error) {
	share, err := j.liveShare(ctx)
	if err != nil {
		return 0, sizes{}, err
	}
	s, hpa, err := j.sizes(ctx, primary, share)
	if err != nil {
		return 0, s, err
	}
	if s.scaled {
		canary, err := j.liveTrack(ctx, release.Canary)
		if err != nil {
			return 0, s, err
		}
		if canary != nil {
			s.canary = replicasOf(canary)
		}
	}
	need := j.within(s.need(), s, hpa)
	if hpa != nil {
		j.measure(hpa, s, need)
	}
	return need, s, nil
}

// templateText is a Deployment's pod template, as it is kept beside the ledger.
func templateText(d *appsv1.Deployment) (string, error) {
	text, err := json.Marshal(d.Spec.Template)
	return string(text), err
}

// replacePrimary puts the release on primary, beside which no baseline has another version then, and waits until it is ready
// for the traffic that it gets next: all of it, unless its HPA takes replicas away meanwhile.
func (j *job) replacePrimary(ctx context.Context) error {
	if err := j.removeBaseline(ctx); err != nil {
		return err
	}
	var live *appsv1.Deployment
	err := j.lasting(ctx, j.track(release.Primary), func(ctx context.Context) (_ metav1.Object, err error) {
		live, err = j.applyPrimary(ctx)
		return live, err
	})
	if err != nil {
		return err
	}
	need := j.ledger.Release.Replicas
	kept, hpa, err := j.kept(ctx)
	if err != nil {
		return err
	}
	if part := bearable(kept, need); part < 100 {
		return j.enlarge(ctx, forShare(need, part))
	}
	if replicasOf(live) < need {
		if _, err := j.grow(ctx, release.Primary, need); err != nil {
			return err
		}
	}
	err = j.waitCapacity(ctx, release.Primary, j.ledger.Release.Image, need)
	if _, shrinks := errors.AsType[*shrinkingError](err); shrinks && hpa != nil { // else it is none that measures
		j.shrinks, err = true, nil
	}
	return err
}
