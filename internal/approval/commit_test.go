package approval

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/release"
)

// TestByCommit: a promotion that Git approves, and one that it does not.
func TestByCommit(t *testing.T) {
	missing := errors.New("nobody has approved it in Git")
	found := func(kind release.ApprovalKind) func(context.Context, *release.Release) ([]release.Approval, error) {
		return func(context.Context, *release.Release) ([]release.Approval, error) {
			return []release.Approval{{Kind: kind, By: "mona", Commit: "77ac01be9d02aa"}}, nil
		}
	}
	none := func(context.Context, *release.Release) ([]release.Approval, error) { return nil, missing }
	underWay := &release.Release{ID: "one", Stage: release.StagePromoting, Approvals: []release.Approval{{Kind: release.ApprovalSigned, By: "mona", Command: Promote}}}
	for name, test := range map[string]struct {
		gate    Gate
		command string
		release *release.Release
		ledger  release.Ledger
		by, is  string // of the approval; "" for none
		err     string
	}{
		"signed":              {gate: Gate{Commit: found(release.ApprovalSigned)}, by: "mona", is: "mona (signed commit 77ac01be9d02)"},
		"by whoever may push": {gate: Gate{Commit: found(release.ApprovalCommit)}, is: "mona (commit 77ac01be9d02)"},
		"not approved":        {gate: Gate{Commit: none}, err: missing.Error()},
		"under way":           {gate: Gate{Commit: none}, release: underWay},
		"an operator began":   {gate: Gate{Commit: none}, release: &release.Release{ID: "one", Stage: release.StagePromoting, Approvals: []release.Approval{{Kind: release.ApprovalOperator, By: "lisa", Command: Promote}}}},
		"under way without":   {gate: Gate{Commit: none}, release: &release.Release{ID: "one", Stage: release.StagePromoting}, err: missing.Error()},
		"there was a policy":  {gate: Gate{Commit: found(release.ApprovalSigned)}, ledger: release.Ledger{Policy: &release.PolicySeen{Hash: "x"}}, err: "this app has had a policy"},
		"an operator":         {gate: Gate{Commit: none, Operator: true, By: "lisa"}, is: "lisa (operator)"},
		"another command":     {gate: Gate{Commit: none}, command: Canary},
	} {
		if test.command == "" {
			test.command = Promote
		}
		if test.release == nil {
			test.release = &release.Release{ID: "one", Stage: release.StageVerified}
		}
		passed, err := test.gate.Ask(t.Context(), test.command, &test.ledger, test.release)
		if err != nil != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err != nil {
			continue
		}
		is := ""
		if passed.Approval != nil {
			if is = passed.Approval.String(); passed.Approval.Command != Promote {
				t.Errorf("%s: the approval is of %s", name, passed.Approval.Command)
			}
		}
		if passed.By != test.by || is != test.is {
			t.Errorf("%s: by %q, approval %q", name, passed.By, is)
		}
	}
}
