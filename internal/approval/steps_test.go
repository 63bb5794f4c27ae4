package approval

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/release"
)

// planned takes the world's release to the step of its plan with an index.
func (w *world) planned(at int, plan ...release.PlanStep) {
	w.ledger.Release.Plan = plan
	for i := range at {
		plan[i].DoneAt = w.ledger.Release.StartedAt
	}
}

var approve = release.PlanStep{Approve: true}

func weight(percent int) release.PlanStep { return release.PlanStep{Weight: percent} }

// job gives a token's job a number.
func job(id int64) func(*gitlabtest.TokenJob) { return func(j *gitlabtest.TokenJob) { j.ID = id } }

// waits says what an approval step waits for; "" when it is approved.
func waits(t *testing.T, err error) string {
	t.Helper()
	awaits, ok := errors.AsType[*release.AwaitsApprovalError](err)
	if err != nil && !ok {
		t.Fatalf("%v is no step that waits", err)
	}
	if err == nil {
		return ""
	}
	return awaits.Error()
}

// TestStepWaits: an approval step goes on by what approvers have recorded for it, and by nothing else: an approval of the
// promotion, of another step, of somebody who is no approver, and the token of the job that asks.
func TestStepWaits(t *testing.T) {
	w := newWorld(t)
	w.planned(1, weight(10), approve, weight(50), approve, weight(60))
	if got := waits(t, second(w.ask(Step, w.pressed("mona")))); !strings.Contains(got, "step 2 of 5: approve: nobody has approved it yet") {
		t.Errorf("by the job's own token: %q", got)
	}
	r := w.ledger.Release
	r.Approvals = []release.Approval{
		{Kind: release.ApprovalVerified, By: "mona", UserID: "1", Command: Approve, Issuer: w.policy.Issuer},                 // of the promotion
		{Kind: release.ApprovalVerified, By: "mona", UserID: "1", Command: Promote, Issuer: w.policy.Issuer, Step: 2},        // of another command
		{Kind: release.ApprovalVerified, By: "mona", UserID: "1", Command: Approve, Issuer: "https://other", Step: 2},        // of another GitLab
		{Kind: release.ApprovalVerified, By: "release-bot", UserID: "2", Command: Approve, Issuer: w.policy.Issuer, Step: 2}, // who started the pipeline
		{Kind: release.ApprovalUnverified, By: "mona", Command: Approve, Step: 2},
		{Kind: release.ApprovalOperator, By: "ops", Command: Approve, Step: 4},
	}
	if got := waits(t, second(w.ask(Step, ""))); got == "" {
		t.Error("what is no approval of it passes")
	}
	w.note(Approve, w.pressed("mona", job(70)))
	if a := r.Approvals[len(r.Approvals)-1]; a.Step != 2 || a.By != "mona" {
		t.Errorf("noted %+v", a)
	}
	if got := waits(t, second(w.ask(Step, ""))); got != "" {
		t.Errorf("approved, and it waits: %s", got)
	}
	w.policy.Approvers = []string{"lisa"}
	if got := waits(t, second(w.ask(Step, ""))); got == "" {
		t.Error("an approver who is none any more")
	}
}

// TestStepIsNotThePromotion: whoever approved a step has not approved the promotion, nor a later step.
func TestStepIsNotThePromotion(t *testing.T) {
	w := newWorld(t)
	w.policy.Number = 2
	w.planned(1, weight(10), approve, weight(50), approve, weight(60))
	w.note(Approve, w.pressed("mona", job(70)))
	if got := waits(t, second(w.ask(Step, ""))); !strings.Contains(got, "1 of 2 approvals: only mona has approved it") {
		t.Errorf("%q", got)
	}
	w.note(Approve, w.pressed("lisa", job(71)))
	if got := waits(t, second(w.ask(Step, ""))); got != "" {
		t.Errorf("%q", got)
	}
	w.planned(3, weight(10), approve, weight(50), approve, weight(60))
	if got := waits(t, second(w.ask(Step, ""))); !strings.Contains(got, "step 4 of 5: approve: nobody") {
		t.Errorf("a later step: %q", got)
	}
	for name, token := range map[string]string{
		"the job of another step": w.pressed("mona", job(70)),
		"a token from before":     w.pressed("mona", job(72), func(j *gitlabtest.TokenJob) { j.At = time.Now().Add(-10 * time.Minute) }),
	} {
		w.ledger.Release.StartedAt = time.Now().Add(-time.Hour)
		w.ledger.Release.Plan[2].DoneAt = time.Now()
		if _, err := w.ask(Approve, token); err == nil {
			t.Errorf("%s approves", name)
		}
	}
	w.note(Approve, w.pressed("mona", job(73)))
	for i := range w.ledger.Release.Plan {
		w.ledger.Release.Plan[i].DoneAt = time.Now()
	}
	if _, err := w.ask(Promote, w.pressed("lisa", job(74))); err == nil || !strings.Contains(err.Error(), "1 of 2 approvals: only lisa") {
		t.Errorf("the approvals of steps count for the promotion: %v", err)
	}
	if _, err := w.ask(Promote, w.pressed("mona", job(73))); err == nil || !strings.Contains(err.Error(), "has approved step 4 of 5") {
		t.Errorf("the job that approved a step promotes: %v", err)
	}
}

// TestStepBeforeShift: where the policy is asked before shift, or was when the app was last released, more traffic needs
// the approval of the step before it.
func TestStepBeforeShift(t *testing.T) {
	for name, c := range map[string]struct {
		before, was []string
		plan        []release.PlanStep
		refused     bool
	}{
		"not asked":         {plan: []release.PlanStep{weight(10), weight(50)}},
		"asked":             {before: []string{Shift, Promote}, plan: []release.PlanStep{weight(10), weight(50)}, refused: true},
		"was asked":         {was: []string{Shift}, plan: []release.PlanStep{weight(10), weight(50)}, refused: true},
		"an older approval": {before: []string{Shift, Promote}, plan: []release.PlanStep{weight(10), approve, weight(20), weight(50)}, refused: true},
		"only copies":       {before: []string{Shift, Promote}, plan: []release.PlanStep{weight(10), {Mirror: 5}}},
	} {
		w := newWorld(t)
		if c.before != nil {
			w.policy.Before = c.before
		}
		w.ledger.Policy.Before = c.was
		w.planned(len(c.plan)-1, c.plan...)
		if _, err := w.ask(Step, ""); (err != nil) != c.refused || c.refused && !strings.Contains(err.Error(), "asked before shift") {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := newWorld(t)
	w.policy.Before = []string{Shift, Promote}
	w.planned(1, weight(10), approve, weight(50))
	w.note(Approve, w.pressed("mona", job(70)))
	w.planned(2, weight(10), approve, weight(50))
	if _, err := w.ask(Step, ""); err != nil {
		t.Errorf("approved: %v", err)
	}
	w.ledger.Release.Approvals = slices.Delete(w.ledger.Release.Approvals, 0, 1)
	if got := waits(t, second(w.ask(Step, ""))); got == "" {
		t.Error("nobody has approved it")
	}
}

// TestStepOfOperators: a person with rights in the cluster approves a step, also without a policy; the app's policy is not
// left out by a file without one.
func TestStepOfOperators(t *testing.T) {
	w := newWorld(t)
	w.planned(1, weight(10), approve, weight(50), approve, weight(60))
	gate := w.gate("")
	gate.Policy = nil
	if _, err := gate.Ask(t.Context(), Step, w.ledger, w.ledger.Release); err == nil || !strings.Contains(err.Error(), "this app has had a policy") {
		t.Errorf("a file without the policy: %v", err)
	}
	w.ledger.Policy = nil
	if got := waits(t, second(gate.Ask(t.Context(), Step, w.ledger, w.ledger.Release))); got == "" {
		t.Error("nobody was asked")
	}
	gate.Operator = true
	for _, command := range []string{Approve, Step} {
		w.ledger.Release.Approvals = nil
		passed, err := gate.Ask(t.Context(), command, w.ledger, w.ledger.Release)
		if err != nil || passed.Approval == nil || passed.Approval.Step != 2 {
			t.Fatalf("%s: %+v, %v", command, passed, err)
		}
		w.ledger.Pass(passed, "ops", time.Now())
		gate := w.gate("")
		gate.Policy = nil
		if got := waits(t, second(gate.Ask(t.Context(), Step, w.ledger, w.ledger.Release))); got != "" {
			t.Errorf("%s: %s", command, got)
		}
	}
}

func second(_ *release.Passed, err error) error { return err }
