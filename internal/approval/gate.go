package approval

import (
	"context"
	"fmt"
	"slices"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Gate is asked by every command that needs an approval, before it writes anything.
type Gate struct {
	Policy   *Policy   // nil: none
	Verifier *Verifier // of the policy's issuer
	Token    string    // of the job; "" without one
	Operator bool      // a person with rights in the cluster says so: --approve-as-operator
	By       string    // who that is
	// Commit finds the approvals of a release in the environment repository, or says why there are not enough; nil: they are not
	// approved there.
	Commit func(context.Context, *release.Release) ([]release.Approval, error)

	claims *Claims // of Token, once it was verified: a command may ask twice
}

// Ask says whether a command may go on with a release, and what is noted of that.
func (g *Gate) Ask(ctx context.Context, command string, l *release.Ledger, r *release.Release) (*release.Passed, error) {
	switch {
	case g.Operator:
		return g.operator(command, l, r), nil
	case g.Policy == nil && l.Policy != nil:
		return nil, &usererr.Error{
			Field: "approval", Problem: fmt.Sprintf("crossbill.yaml has no such section, and this app has had a policy since %s (%s)", l.Policy.Since.Format("2006-01-02"), l.Policy.Hash),
			Fix: "use the crossbill.yaml of the protected branch; a person with rights in the cluster can give --approve-as-operator. Nothing was changed",
		}
	case g.Policy != nil && l.Policy != nil && l.Policy.Where != g.Policy.where():
		return nil, &usererr.Error{
			Field: "approval", Problem: fmt.Sprintf("crossbill.yaml asks %s, and this app is approved by %s since %s", g.Policy.where(), l.Policy.Where, l.Policy.Since.Format("2006-01-02")),
			Fix: "use the crossbill.yaml of the protected branch; where the gate has moved, a person with rights in the cluster gives --approve-as-operator once. Nothing was changed",
		}
	case g.Commit != nil && command == Promote:
		return g.byCommit(ctx, r)
	case g.Policy == nil && command == Approve:
		return nil, &usererr.Error{Field: "approval", Problem: "crossbill.yaml has no such section: there is no policy to approve by", Fix: "add it, or give --approve-as-operator"}
	case g.Policy == nil && command == Step:
		return &release.Passed{}, (&Policy{Number: 1}).step(Question{command, r, l, nil})
	case g.Policy == nil:
		return g.unverified(command), nil
	case command == Step: // what approvers have said is in the ledger
		return g.Policy.Decide(Question{command, r, l, nil})
	}
	if g.Token != "" && g.claims == nil {
		if command == Promote && r.Stage == release.StagePromoting {
			// It was approved when it began: neither an outage nor an old token holds up what finishes it.
			if passed, err := g.Policy.Decide(Question{command, r, l, nil}); err == nil {
				return passed, nil
			}
		}
		claims, err := g.Verifier.Verify(ctx, g.Token)
		if err != nil {
			return nil, err
		}
		g.claims = claims
	}
	return g.Policy.Decide(Question{command, r, l, g.claims})
}

// operator notes whose word it is.
func (g *Gate) operator(command string, l *release.Ledger, r *release.Release) *release.Passed {
	passed := &release.Passed{Approval: &release.Approval{Kind: release.ApprovalOperator, By: g.By, Command: command}}
	switch command {
	case Approve:
		passed.Approval.Step = r.AwaitsApproval()
	case Step:
		passed.Approval.Step = r.Plan.At() + 1
	}
	passed.Remarks = []string{fmt.Sprintf("%s acts as operator: no approval was verified", g.By)}
	if g.Policy != nil {
		passed.Policy, passed.Where, passed.Before = g.Policy.Hash(), g.Policy.where(), g.Policy.beyond()
		passed.Approval.Policy = passed.Policy
	} else if l.Policy != nil {
		passed.Remarks = append(passed.Remarks, "crossbill.yaml has no approval policy; the app's stays "+l.Policy.Hash)
	}
	return passed
}

// unverified notes, of the command that gives a release all of the traffic, that nobody was asked.
func (g *Gate) unverified(command string) *release.Passed {
	if command != Promote {
		return &release.Passed{}
	}
	return &release.Passed{
		Approval: &release.Approval{Kind: release.ApprovalUnverified, By: g.By, Command: command},
		Remarks:  []string{"not verified: crossbill.yaml has no approval policy"},
	}
}

// byCommit lets a release be promoted that a commit approves.
func (g *Gate) byCommit(ctx context.Context, r *release.Release) (*release.Passed, error) {
	began := func(a release.Approval) bool { return a.Command == Promote } // of whatever kind: a person may have started it
	if r.Stage == release.StagePromoting && slices.ContainsFunc(r.Approvals, began) {
		return &release.Passed{Remarks: []string{"the promotion was approved when it began, by " + r.Approvers()}}, nil
	}
	approvals, err := g.Commit(ctx, r)
	if err != nil {
		return nil, err
	}
	passed := &release.Passed{Approval: &approvals[0], Others: approvals[1:]}
	for i := range approvals {
		approvals[i].Command = Promote
		passed.Remarks = append(passed.Remarks, "approved by "+approvals[i].String())
	}
	if passed.Approval.Kind == release.ApprovalSigned {
		passed.By = passed.Approval.By
	}
	return passed, nil
}
