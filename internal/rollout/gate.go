package rollout

import (
	"context"
	"fmt"

	"github.com/our-org/crossbill/internal/release"
)

// pass asks the approval gate, before anything is written and before the lock is taken. What it finds is noted together
// with what it admits, by notePassed.
func (j *job) pass(ctx context.Context, r *release.Release) error {
	if j.Gate == nil || j.planning() {
		return nil
	}
	passed, err := j.Gate(ctx, j.command, j.ledger, r)
	if err != nil {
		return err
	}
	if passed.By != "" {
		j.By = passed.By
	}
	for _, remark := range passed.Remarks {
		j.log("approval", "%s", remark)
	}
	if a := passed.Approval; a != nil && a.Kind == release.ApprovalVerified {
		j.log("approval", "verified: %s started job %s of pipeline %s", a.By, a.Job, a.Pipeline)
	}
	j.passed = passed
	return nil
}

// notePassed notes what the gate has found, in the ledger as it will be committed.
func (j *job) notePassed() { j.ledger.Pass(j.passed, j.By, now()) }

// Approve notes an approval of the release in flight, for a policy that asks for more than one: promote counts it. It
// changes nothing else.
func (c *Cluster) Approve(ctx context.Context) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "approve",
		look: func(ctx context.Context, j *job) (struct{}, *Result, error) {
			nothing, err := j.lookApprove(ctx)
			return struct{}{}, nothing, err
		},
		start: func(j *job, _ struct{}) error { j.notePassed(); return nil },
		noted: func(j *job) Result {
			r := j.ledger.Release
			if at := r.AwaitsApproval(); at > 0 {
				return j.result("release %s is approved by %s: canary --follow goes on with %s", r.ID, r.Approvers(), r.Plan.Step(at-1))
			}
			return j.result("release %s is approved by %s", r.ID, r.Approvers())
		},
	})
}

func (j *job) lookApprove(ctx context.Context) (*Result, error) {
	if err := j.ledger.Expect(j.ReleaseID); err != nil {
		return nil, err
	}
	r := j.ledger.Release
	switch {
	case r == nil:
		return nil, &StageError{fmt.Errorf("%w: there is nothing to approve", release.ErrNoRelease)}
	case r.Stage == release.StagePromoting, r.Stage == release.StagePromoted:
		return j.nothing("release %s is past it (stage %s): nothing to do", r.ID, r.Stage), nil
	case r.Stage != release.StageCanary && r.Stage != release.StageVerified:
		return nil, &StageError{fmt.Errorf("release %s is at stage %s: only a release with a canary is approved", r.ID, r.Stage)}
	case j.planning():
		return j.nothing("a dry run asks nobody: the approval would be noted in the ledger"), nil
	}
	if err := j.pass(ctx, r); err != nil {
		return nil, err
	}
	if j.passed == nil || j.passed.Approval == nil || r.Approved(*j.passed.Approval) {
		return j.nothing("release %s is approved by %s already: nothing to do", r.ID, r.Approvers()), nil
	}
	return nil, nil
}
