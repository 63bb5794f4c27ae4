package rollout_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// planned is a release that is taken through steps: the third is a pause of ten minutes, the fourth gives it 25%.
func planned(digit string) release.Release {
	r := wanted(digit)
	r.Plan = release.NewPlan([]release.PlanStep{{Weight: 10}, {Analyze: &release.Analyze{}}, {Pause: release.Duration(10 * time.Minute)}, {Weight: 25}})
	return r
}

func init() {
	commands["step"] = func(ctx context.Context, j *job) (rollout.Result, error) {
		if result, err := j.Pass(ctx, 2); err != nil {
			return result, err
		}
		return j.Give(ctx, 3)
	}
}

// TestGiveBeginsAnew: when the job that took a step has died before the route had it, what was counted until the route has
// it is not what the canary is judged by.
func TestGiveBeginsAnew(t *testing.T) {
	at(t, "planned half taken", func(w *world) {
		died := w.inFlight().Subject()
		w.must(w.job("next").Give(w.Context(), 3))
		if now := w.inFlight().Subject(); now.Weight != 25 || !now.Since.After(died.Since) {
			t.Errorf("judged since %s with %d%%, before since %s", now.Since, now.Weight, died.Since)
		}
		if step := w.inFlight().Plan[3]; !step.DoneAt.Equal(died.Since) {
			t.Errorf("done at %s: it was taken at %s", step.DoneAt, died.Since)
		}
	})
}

// TestStepsAreKept: the plan that a release has started with is the one that it keeps, and that is said; a release without
// one gets none.
func TestStepsAreKept(t *testing.T) {
	other := planned("2")
	other.Plan, other.Weight = release.NewPlan([]release.PlanStep{{Weight: 50}}), 50
	for _, stage := range []string{"planned", "planned healthy"} {
		at(t, stage, func(w *world) {
			j := w.job("again")
			if _, err := j.Canary(w.Context(), other); err != nil {
				t.Error(err)
			}
			if logged := strings.Join(j.logged, "\n"); !strings.Contains(logged, "release r2 keeps the steps that it started with") {
				t.Errorf("it says %q", logged)
			}
			if r := w.inFlight(); !r.Plan.Same(planned("2").Plan) || r.Weight != 10 {
				t.Errorf("it has %v with %d%%", r.Plan, r.Weight)
			}
		})
	}
	at(t, "canary", func(w *world) {
		_, err := w.job("again").Canary(w.Context(), planned("2"))
		if !errors.As(err, new(*rollout.StageError)) || !errors.Is(err, release.ErrNoPlan) {
			t.Error(err)
		}
	})
}

// TestStepAsksTheGate: more traffic and an approval are asked of the gate before anything is written; so is a shift past an
// approval refused.
func TestStepAsksTheGate(t *testing.T) {
	inWorld(t, "gate", nil, func(w *world) {
		w.begin("", "rest")
		time.Sleep(150 * time.Second)
		r := wanted("2")
		r.Plan = release.NewPlan([]release.PlanStep{{Weight: 10}, {Approve: true}, {Weight: 25}, {Weight: 50}})
		w.must(w.job("canary").Canary(w.Context(), r))
		w.must(judge(w.Context(), w.job("verify").Cluster, release.Healthy))
		no := &release.AwaitsApprovalError{Step: "step 3", Reason: "no"}
		refused := func(name string, want error, run func(j *job) (rollout.Result, error)) {
			j := w.job(name)
			j.Gate = func(_ context.Context, command string, _ *release.Ledger, _ *release.Release) (*release.Passed, error) {
				if command != "step" {
					t.Errorf("%s asks for %q", name, command)
				}
				return nil, no
			}
			if _, err := run(j); !errors.Is(err, want) && !errors.As(err, new(*rollout.StageError)) || err == nil {
				t.Errorf("%s: %v", name, err)
			}
			if did := w.did(j); len(did) > 0 {
				t.Errorf("%s did %q", name, did)
			}
		}
		refused("approve", no, func(j *job) (rollout.Result, error) { return j.Pass(w.Context(), 2) })
		refused("weight", no, func(j *job) (rollout.Result, error) { return j.Give(w.Context(), 3) })
		refused("shift", no, func(j *job) (rollout.Result, error) { return j.Shift(w.Context(), []int{11}, 0) })
		if _, err := w.job("no gate").Pass(w.Context(), 2); err == nil {
			t.Error("without a gate an approval is given")
		}
		yes := w.job("yes")
		yes.Gate = func(context.Context, string, *release.Ledger, *release.Release) (*release.Passed, error) {
			return &release.Passed{}, nil
		}
		w.must(yes.Pass(w.Context(), 2))
		refused("weight", no, func(j *job) (rollout.Result, error) { return j.Give(w.Context(), 3) })
		w.must(yes.Give(w.Context(), 3))
		w.must(w.job("shift").Shift(w.Context(), []int{60}, 0))
		if at := w.inFlight().Plan.At(); at != 6 || !w.inFlight().Plan[5].Skipped {
			t.Errorf("after the shift it is at step %d: %v", at, w.inFlight().Plan)
		}
	})
}

// inFlight is the release in flight, as the ledger has it.
func (w *world) inFlight() *release.Release {
	w.Helper()
	ledger, err := release.ParseLedger(w.set.App, w.ledger().Data[ledgerKey])
	if err != nil || ledger.Release == nil {
		w.Fatalf("no release is in flight: %v", err)
	}
	return ledger.Release
}
