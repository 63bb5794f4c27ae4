package rollout_test

import (
	"strings"
	"testing"
	"time"

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

// TestMirrorCutOff: a mirror that was cut off before the route had it is finished, also when another command has ended the lock of
// the job that died.
func TestMirrorCutOff(t *testing.T) {
	for _, app := range []string{"", gatewayApp} {
		at(t, app+"rest", func(w *world) {
			w.must(commands["preview up"](w.Context(), w.job("preview")))
			r := wanted("2")
			r.Weight, r.Mirror = 0, 5
			r.Plan = release.NewPlan([]release.PlanStep{{Mirror: 5}, {Mirror: 50}})
			w.must(w.job("canary").Canary(w.Context(), r))
			w.must(judge(w.Context(), w.job("verify").Cluster, release.Healthy))
			dead := w.job("dead")
			dead.killOn = "note r2 canary 0%"
			_, _ = dead.Give(dead.ctx, 2)
			time.Sleep(90 * time.Second)
			w.must(commands["preview down"](w.Context(), w.job("preview")))
			if ledger := w.read(); ledger.Open || ledger.Release.Mirror != 50 {
				t.Fatalf("the ledger is open: %v, with a mirror of %d%%", ledger.Open, ledger.Release.Mirror)
			}
			status, err := w.job("look").Status(w.Context())
			w.must(status, err)
			if status.Mirror != 5 || len(status.Drift) != 1 {
				t.Errorf("%sbefore: a mirror of %d%%, drift %q", app, status.Mirror, status.Drift)
			}
			j := w.job("next")
			w.must(j.Give(w.Context(), 2))
			status, err = w.job("look").Status(w.Context())
			w.must(status, err)
			if status.Mirror != 50 || len(status.Drift) > 0 {
				t.Errorf("%safter %q: a mirror of %d%%, drift %q", app, w.did(j), status.Mirror, status.Drift)
			}
			if result, err := w.job("again").Give(w.Context(), 2); err != nil || !strings.Contains(result.Message, "nothing to do") {
				t.Errorf("%sagain: %q, %v", app, result.Message, err)
			}
		})
	}
}
