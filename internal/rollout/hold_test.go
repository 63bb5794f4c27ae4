package rollout_test

import (
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// TestHold: whoever is refused reads who holds the app, since when and why, and what ends it; so does who looks.
func TestHold(t *testing.T) {
	at(t, "held", func(w *world) {
		status, err := w.job("look").Status(w.Context())
		w.must(status, err)
		all, err := rollout.StatusOfAll(w.Context(), w.kube, nil, "")
		w.must(all, err)
		if status.Hold == nil || all[0].Hold == nil || status.Hold.String() != all[0].Hold.String() {
			t.Fatalf("%v, of all %v", status.Hold, all[0].Hold)
		}
		j := w.job("job")
		_, err = j.Canary(w.Context(), wanted("2"))
		for _, says := range []string{"on hold since " + status.Hold.Since.Format("2006-01-02T15:04:05Z"), "by before-2", "an incident", "`crossbill resume`", "nothing was changed"} {
			if refusal(err) != "stage" || !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want %q", err, says)
			}
		}
		// What primary runs already is no release.
		if result, err := j.Canary(w.Context(), wanted("1")); err != nil || !strings.Contains(result.Message, "nothing to do") {
			t.Errorf("%+v, %v", result, err)
		}
		if len(j.every) > 0 {
			t.Errorf("it wrote %q", j.every)
		}
		w.must(w.job("person").Resume(w.Context()))
		w.must(j.Canary(w.Context(), wanted("2")))
	})
}

// TestHoldLeavesWhatIsInFlight: a release goes on to its end while the app is on hold, and the next one waits.
func TestHoldLeavesWhatIsInFlight(t *testing.T) {
	at(t, "held in flight", func(w *world) {
		j := w.job("job")
		w.must(judge(w.Context(), j.Cluster, release.Healthy))
		w.must(j.Promote(w.Context()))
		w.must(j.Cleanup(w.Context()))
		if unrest := w.unrest("2"); unrest != "" {
			t.Error(unrest)
		}
		if _, err := j.Canary(w.Context(), wanted("3")); refusal(err) != "stage" {
			t.Errorf("the next one: %v", err)
		}
	})
}
