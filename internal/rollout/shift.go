package rollout

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/our-org/crossbill/internal/release"
)

// Shift raises the canary's share of the traffic in steps, in percent, rising. Before each step the
// canary is sized for it and every pod of it is a ready endpoint; after it the pause is waited out.
// Steps that the release has passed are left out. The release has to be judged again at its new share.
func (c *Cluster) Shift(ctx context.Context, steps []int, pause time.Duration) (Result, error) {
	if err := release.CheckSteps("steps", steps); err != nil {
		return Result{}, err
	}
	return run(ctx, c, command[bool]{
		name: "shift",
		look: func(ctx context.Context, j *job) (routed bool, nothing *Result, err error) {
			routed, nothing, err = j.lookShift(ctx, steps)
			if nothing == nil && err == nil {
				err = j.pass(ctx, j.ledger.Release)
			}
			if nothing == nil && err == nil {
				err = j.admit(ctx, j.ledger.Release)
			}
			if nothing == nil && err == nil {
				err = j.lookHooks(ctx, j.ledger.Release, release.BeforeStep)
			}
			return routed, nothing, err
		},
		start: func(j *job, _ bool) error { j.notePassed(); return nil },
		act: func(ctx context.Context, j *job, routed bool) (Result, error) {
			result, err := j.shift(ctx, steps, pause, routed)
			return j.backAfterHook(ctx, result, err)
		},
	})
}

// lookShift says whether the route has the weight that the ledger has. One that does not was cut off by a crash, or somebody has
// changed it: verify finds that inconclusive, and the same steps finish that weight.
func (j *job) lookShift(ctx context.Context, steps []int) (routed bool, nothing *Result, err error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return false, nil, err
	}
	r, last := j.ledger.Release, steps[len(steps)-1]
	switch {
	case r == nil:
		return false, nil, &StageError{fmt.Errorf("%w: start one with canary", release.ErrNoRelease)}
	case r.Stage == release.StagePromoting, r.Stage == release.StagePromoted:
		return false, j.nothing("release %s is past it (stage %s): nothing to do", r.ID, r.Stage), nil
	case r.Stage != release.StageCanary && r.Stage != release.StageVerified:
		return false, nil, &StageError{fmt.Errorf("release %s is at stage %s: only a canary with traffic gets more", r.ID, r.Stage)}
	}
	if err := r.Shiftable(last); err != nil {
		return false, nil, &StageError{fmt.Errorf("%w: approve it first, or roll back", err)}
	}
	if err := j.bind(ctx); err != nil {
		return false, nil, err
	}
	if err := j.sameTemplate(); err != nil {
		return false, nil, err
	}
	status, err := j.status(ctx)
	if err != nil {
		return false, nil, err
	}
	routed = status.routed(r.Weight)
	over := r.Weight > last || r.Weight == last && routed
	if v := doubt(r); v != nil && (r.Verdict != nil || !over) {
		if cutOff := !routed && slices.Contains(steps, r.Weight); !cutOff || v.Outcome != release.Inconclusive {
			return false, nil, &StageError{fmt.Errorf("release %s was judged %s (%s): only a healthy one gets more traffic", r.ID, v.Outcome, v.Reason)}
		}
	}
	if over {
		return routed, j.nothing("release %s has %s: nothing to do", r.ID, r.Gets()), nil
	}
	return routed, nil, nil
}

// doubt is the verdict that keeps the canary from more traffic than it has: its last one, unless that was healthy. It keeps doing
// so when the weight that it was on is finished and has to be judged anew.
func doubt(r *release.Release) *release.Verdict {
	v := r.Verdict
	if n := len(r.Judged); v == nil && n > 0 && r.Judged[n-1].Weight == r.Weight {
		v = &r.Judged[n-1]
	}
	if v == nil || v.Outcome == release.Healthy {
		return nil
	}
	return v
}

func (j *job) shift(ctx context.Context, steps []int, pause time.Duration, routed bool) (Result, error) {
	r := j.ledger.Release
	after := ""
	if v := doubt(r); v != nil {
		if r.Weight < steps[len(steps)-1] {
			after = fmt.Sprintf("; it was judged %s, and gets more once it is judged healthy", v.Outcome)
		}
		steps = []int{r.Weight}
	}
	if err := j.ensureCopies(ctx); err != nil {
		return Result{}, err
	}
	for i, weight := range steps {
		if weight < r.Weight {
			continue
		}
		note := func() error { return j.ledger.Shift(weight, j.By, now()) }
		if weight > r.Weight {
			if err := j.hooks(release.BeforeStep, weight)(ctx); err != nil {
				return Result{}, err
			}
		} else if !routed { // what was counted until now was at another weight
			note = func() error { return j.ledger.Weighed(j.By, now()) }
		}
		primary, err := j.liveTrack(ctx, release.Primary)
		if err != nil {
			return Result{}, err
		}
		if err := j.raise(ctx, primary, weight, note); err != nil {
			return Result{}, err
		}
		if i == len(steps)-1 {
			break
		}
		if err := j.pause(pause)(ctx); err != nil {
			return Result{}, err
		}
	}
	return j.result("%s gets %s%s", r.Digest(), r.Gets(), after), nil
}

// raise gives the canary a larger share of the traffic, in percent, as the ledger has it after a change to it.
func (j *job) raise(ctx context.Context, primary *appsv1.Deployment, share int, change func() error) error {
	s, hpa, err := j.sizes(ctx, primary, primaryShare(j.ledger.Release))
	if err != nil {
		return err
	}
	need := int32(0)
	return inOrder(ctx,
		j.applyCanary(func(has int32) int32 {
			s.canary = has
			need = j.within(s.need(), s, hpa)
			return forShare(need, share)
		}),
		j.waitTrack(release.Canary, j.ledger.Release.Image),
		j.ensureBaseline,
		func(context.Context) error {
			j.note(need, s)
			return change()
		},
		j.commit, // before the route: what is live never exceeds what is in the ledger
		func(ctx context.Context) error { return j.route(j.ledger.Release.Weight)(ctx) },
	)
}
