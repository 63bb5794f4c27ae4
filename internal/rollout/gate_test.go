package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// approvedBy is a gate that finds a verified approval.
func approvedBy(login string) func(context.Context, string, *release.Ledger, *release.Release) (*release.Passed, error) {
	return func(_ context.Context, command string, _ *release.Ledger, r *release.Release) (*release.Passed, error) {
		passed := &release.Passed{By: login + "@gitlab-job-5", Policy: "p", Pipeline: &release.Pipeline{ID: "9", Users: []release.User{{ID: "1", Login: "bot"}}}}
		if command == "promote" || command == "approve" {
			passed.Approval = &release.Approval{Kind: release.ApprovalVerified, By: login, UserID: login, Command: command, Job: "5", Token: "t" + r.ID}
		}
		return passed, nil
	}
}

func init() {
	commands["approve"] = func(ctx context.Context, j *job) (rollout.Result, error) {
		j.Gate = approvedBy("lisa")
		return j.Approve(ctx)
	}
	commands["promote approved"] = func(ctx context.Context, j *job) (rollout.Result, error) {
		j.Gate = approvedBy("mona")
		return j.Promote(ctx)
	}
	crashes = append(crashes, struct{ stage, command, end string }{"canary", "approve", "2"}, struct{ stage, command, end string }{"healthy", "promote approved", "2"})
}

// TestGateIsAskedBeforeAnyWrite: a command that the gate refuses, as bad input or because it cannot be asked, writes nothing
// and takes no lock, and does not count as an unready release, which would be rolled back. Rollback, verify, cleanup and guard
// do not ask.
func TestGateIsAskedBeforeAnyWrite(t *testing.T) {
	for _, refusal := range []error{&usererr.Error{Field: "approval", Problem: "nobody pressed it"}, errors.New("the issuer is away")} {
		for _, c := range []struct {
			stage, command string
			asks           bool
		}{
			{"rest", "canary", true}, {"started", "canary", true}, {"canary", "shift", true}, {"healthy", "promote", true}, {"promoting", "promote", true},
			{"canary", "verify healthy", false}, {"healthy", "rollback", false}, {"promoted", "cleanup", false}, {"healthy", "guard", false}, {"promoting", "rollback", false},
		} {
			at(t, c.stage, func(w *world) {
				j := w.job("job")
				var writes []string
				j.before = func(r *http.Request) error {
					if r.Method != http.MethodGet && r.URL.Query().Get("dryRun") == "" {
						writes = append(writes, r.Method+" "+r.URL.Path)
					}
					return nil
				}
				asked := false
				j.Gate = func(context.Context, string, *release.Ledger, *release.Release) (*release.Passed, error) {
					asked = true
					return nil, refusal
				}
				_, err := commands[c.command](w.Context(), j)
				switch {
				case asked != c.asks:
					t.Errorf("%s at %s: asked %t", c.command, c.stage, asked)
				case c.asks && (!errors.Is(err, refusal) || len(writes) > 0):
					t.Errorf("%s at %s: %v, writes %v", c.command, c.stage, err, writes)
				case c.asks && errors.As(err, new(*rollout.NotReadyError)):
					t.Errorf("%s at %s: it would be rolled back", c.command, c.stage)
				case !c.asks && err != nil:
					t.Errorf("%s at %s: %v", c.command, c.stage, err)
				}
			})
		}
	}
}

// TestApproverIsTheVerifiedOne: the ledger, the history and the message name who was verified, not who the command says it is.
func TestApproverIsTheVerifiedOne(t *testing.T) {
	at(t, "canary", func(w *world) {
		w.must(commands["approve"](w.Context(), w.job("said")))
		w.must(commands["approve"](w.Context(), w.job("said"))) // again: nothing
		w.must(commands["verify healthy"](w.Context(), w.job("said")))
		result, err := commands["promote approved"](w.Context(), w.job("said"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(result.Message, "has all of the traffic, approved by lisa, mona") {
			t.Error(result.Message)
		}
		r := result.Release
		if len(r.Approvals) != 2 || r.Approvals[0].By != "lisa" || r.Approvals[1].By != "mona" || r.Approvals[1].At.IsZero() {
			t.Errorf("approvals %+v", r.Approvals)
		}
		for _, step := range r.Steps {
			if (step.Stage == release.StagePromoting || step.Stage == release.StagePromoted) && step.By != "mona@gitlab-job-5" {
				t.Errorf("stage %s by %s", step.Stage, step.By)
			}
		}
		w.must(commands["cleanup"](w.Context(), w.job("said")))
		status, err := w.job("look").Status(w.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := status.History[0].Approvers(); got != "lisa, mona" {
			t.Errorf("history: approved by %s", got)
		}
	})
}

// TestCanaryRunAgain: who runs the canary's job again while the release waits is noted as whom its jobs may run, once, and
// nothing else is changed.
func TestCanaryRunAgain(t *testing.T) {
	runs := func(user string) func(context.Context, string, *release.Ledger, *release.Release) (*release.Passed, error) {
		return func(context.Context, string, *release.Ledger, *release.Release) (*release.Passed, error) {
			return &release.Passed{By: user, Pipeline: &release.Pipeline{ID: "9", Users: []release.User{{ID: user, Login: user}}}}, nil
		}
	}
	at(t, "rest", func(w *world) {
		canary := func(user string) *job {
			j := w.job(user)
			j.Gate = runs(user)
			result, err := j.Canary(w.Context(), wanted("2"))
			w.must(result, err)
			return j
		}
		canary("bot")
		if again := canary("bot"); len(again.every) > 0 {
			t.Errorf("the same user: it wrote %q", again.every)
		}
		j := canary("mona")
		for _, e := range w.did(j) {
			if !strings.HasPrefix(e, "note ") {
				t.Errorf("it did %s", e)
			}
		}
		w.must(commands["verify healthy"](w.Context(), w.job("judge")))
		canary("lisa")
		status, err := w.job("look").Status(w.Context())
		if err != nil {
			t.Fatal(err)
		}
		var users []string
		for _, u := range status.Release.Pipeline.Users {
			users = append(users, u.Login)
		}
		if got := strings.Join(users, " "); got != "bot mona lisa" || status.Release.Stage != release.StageVerified {
			t.Errorf("the pipeline's jobs run as %s, stage %s", got, status.Release.Stage)
		}
		refused := w.job("eve")
		refused.Gate = func(context.Context, string, *release.Ledger, *release.Release) (*release.Passed, error) {
			return nil, errors.New("the issuer is away")
		}
		if _, err := refused.Canary(w.Context(), wanted("2")); err == nil || len(refused.every) > 0 {
			t.Errorf("who cannot be noted: %v, it wrote %q", err, refused.every)
		}
	})
}

// TestApproveChangesTheLedgerOnly: and asks for a release with a canary.
func TestApproveChangesTheLedgerOnly(t *testing.T) {
	for stage, want := range map[string]string{"new": "stage", "rest": "stage", "started": "stage", "canary": "", "healthy": "", "promoting": "", "promoted": "", "rolling_back": "stage"} {
		at(t, stage, func(w *world) {
			j := w.job("job")
			_, err := commands["approve"](w.Context(), j)
			if got := refusal(err); got != want {
				t.Errorf("%s: %v", stage, err)
			}
			for _, e := range w.did(j) {
				if !strings.HasPrefix(e, "note ") {
					t.Errorf("%s: it did %s", stage, e)
				}
			}
		})
	}
}

// TestDryRunAsksNobody: a plan needs no token.
func TestDryRunAsksNobody(t *testing.T) {
	at(t, "healthy", func(w *world) {
		j := w.job("job")
		j.Plan = &rollout.Plan{}
		j.Gate = func(context.Context, string, *release.Ledger, *release.Release) (*release.Passed, error) {
			t.Error("a dry run asks")
			return nil, errors.New("no")
		}
		w.must(j.Promote(w.Context()))
		w.must(j.Approve(w.Context()))
	})
}

// TestGateIsAskedAgain: under the lock, when the ledger has moved meanwhile: what was found may not hold any more.
func TestGateIsAskedAgain(t *testing.T) {
	at(t, "healthy", func(w *world) {
		asked := 0
		j := w.job("job")
		good := approvedBy("mona")
		j.Gate = func(ctx context.Context, command string, l *release.Ledger, r *release.Release) (*release.Passed, error) {
			if asked++; asked == 1 {
				w.must(commands["approve"](w.Context(), w.job("other")))
			}
			return good(ctx, command, l, r)
		}
		result, err := j.Promote(w.Context())
		if err != nil {
			t.Fatal(err)
		}
		if asked != 2 || result.Release.Approvers() != "lisa, mona" {
			t.Errorf("asked %d times, approved by %s", asked, result.Release.Approvers())
		}
	})
}
