package rollout_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
)

// TestStepsBeforeTheFirstPercent: testers, then copies, then a share, each after a verdict on what was before it.
func TestStepsBeforeTheFirstPercent(t *testing.T) {
	at(t, "rest", func(w *world) {
		match := &release.Match{Header: "x-canary", Kind: release.MatchExact, Value: "yes"}
		r := wanted("2")
		r.Weight, r.Match = 0, match
		r.Plan = release.NewPlan([]release.PlanStep{{Match: match}, {Mirror: 5}, {Weight: 10}})
		j := w.job("job")
		w.must(j.Canary(w.Context(), r))
		var got []string
		for _, step := range []int{2, 4} {
			if _, err := j.Give(w.Context(), step); err == nil {
				t.Errorf("step %d without a verdict", step+1)
			}
			w.must(judge(w.Context(), w.job("verify").Cluster, release.Healthy))
			w.must(j.Give(w.Context(), step))
			status, err := j.Status(w.Context())
			w.must(status, err)
			if len(status.Drift) > 0 {
				t.Errorf("after step %d: %q", step+1, status.Drift)
			}
			got = append(got, status.Release.Gets())
		}
		want := []string{"0% of the traffic and requests with header x-canary: yes, and copies of 5% of the safe requests", "10% of the traffic and requests with header x-canary: yes"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", diff, strings.Join(w.did(j), ", "))
		}
	})
}
