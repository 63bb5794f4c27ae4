package rollout_test

import (
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
