package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// TestAShiftWhileItIsJudged: a verdict on what the canary was before a shift, or on a release of before, is refused and
// writes nothing; harm that was seen at the old weight still rolls the release back.
func TestAShiftWhileItIsJudged(t *testing.T) {
	for name, c := range map[string]struct {
		outcome release.VerdictOutcome
		want    string
	}{
		"healthy":   {release.Healthy, "stage"},
		"unhealthy": {release.Unhealthy, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, "canary", func(w *world) {
				status, err := w.job("look").Status(w.Context())
				if err != nil {
					w.Fatal(err)
				}
				v := status.Release.Subject()
				v.Outcome, v.Reason, v.At = c.outcome, "a test", time.Now()
				if _, err := w.job("shift").Shift(w.Context(), []int{25}, 0); err != nil {
					w.Fatal(err)
				}
				j := w.job("judge")
				if _, err = j.Judge(w.Context(), v, true); refusal(err) != c.want {
					w.Errorf("%v, want %q", err, c.want)
				}
				if c.want != "" && len(j.every) > 0 {
					w.Errorf("it wrote %q", j.every)
				}
				if _, err := w.job("promote").Promote(w.Context()); refusal(err) != "stage" {
					w.Errorf("promote: %v", err)
				}
			})
		})
	}
}

// TestShiftCutOff: a shift that was killed between ledger and route is finished by the same command, whatever verify has found
// meanwhile but for harm, and only what comes after that counts. After an inconclusive verdict it goes no further, however often
// it is run, until the canary is judged healthy.
func TestShiftCutOff(t *testing.T) {
	for _, found := range []release.VerdictOutcome{"", release.Inconclusive, release.Unhealthy} {
		at(t, "canary", func(w *world) {
			dead := w.job("dead")
			dead.killOn = "note r2 canary 50%"
			_, _ = dead.Shift(dead.ctx, []int{50}, 0)
			time.Sleep(time.Hour)
			if found != "" {
				w.must(judge(w.Context(), w.job("verify").Cluster, found))
				if _, err := w.job("other").Shift(w.Context(), []int{60}, 0); refusal(err) != "stage" {
					t.Errorf("%s: another shift: %v", found, err)
				}
			}
			steps := []int{50}
			if found == release.Inconclusive {
				steps = []int{50, 60}
				late := w.job("late") // it dies before the route has the step, too
				late.killOn = "note r2 canary 50%"
				_, _ = late.Shift(late.ctx, steps, 0)
				time.Sleep(time.Hour)
			}
			again := time.Now().Truncate(time.Second)
			result, err := w.job("next").Shift(w.Context(), steps, 0)
			if found == release.Unhealthy {
				if refusal(err) != "stage" {
					t.Errorf("%v", err)
				}
				return
			}
			status, failed := w.job("look").Status(w.Context())
			w.must(status, failed)
			if subject := status.Release.Subject(); err != nil || status.Weights.Canary != 50 || len(status.Drift) > 0 || subject.Weight != 50 || subject.Since.Before(again) {
				t.Errorf("%q: %v, weights %+v, drift %q, judged with %d%% since %s, want %s", found, err, status.Weights, status.Drift, subject.Weight, subject.Since, again)
			}
			if found != release.Inconclusive {
				return
			}
			if !strings.Contains(result.Message, "gets 50% of the traffic; it was judged inconclusive") {
				t.Errorf("it says %q", result.Message)
			}
			if _, err := w.job("same").Shift(w.Context(), []int{50}, 0); err != nil {
				t.Errorf("that step again: %v", err)
			}
			if _, err := w.job("more").Shift(w.Context(), steps, 0); refusal(err) != "stage" {
				t.Errorf("more without a verdict: %v", err)
			}
			w.must(judge(w.Context(), w.job("verify").Cluster, release.Healthy))
			_, err = w.job("more").Shift(w.Context(), steps, 0)
			status, failed = w.job("look").Status(w.Context())
			w.must(status, failed)
			if err != nil || status.Weights.Canary != 60 {
				t.Errorf("more after a healthy verdict: %v, weights %+v", err, status.Weights)
			}
		})
	}
}
