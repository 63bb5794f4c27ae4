package analysis

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict"
)

// TestBeforeTheFirstPercent: what reaches a canary at weight 0 is judged, and named. Who mirrors reports no copy, so that they
// are those that sidecars report; a canary with a weight is never judged by them.
func TestBeforeTheFirstPercent(t *testing.T) {
	match := &release.Match{Header: "x-canary", Kind: release.MatchExact, Value: "yes"}
	mirrored := func(by string, bad float64) func(w *world) {
		return func(w *world) {
			w.reported("destination", "app-primary", 900, 0.0005, -2*time.Minute, time.Hour)
			w.reported(by, "app-canary", 20, bad, 0, time.Hour)
		}
	}
	for name, c := range map[string]struct {
		release     release.Release
		set         func(w *world)
		err         string
		says, never string
		calls       []string
	}{
		"mirrored, healthy": {release.Release{Mirror: 5}, mirrored("destination", 0), "", "mirrored requests: copies of GET and HEAD requests, whose answers no caller got", "testers", []string{"healthy"}},
		"mirrored, failing": {release.Release{Mirror: 5}, mirrored("destination", 0.3), "unhealthy", "mirrored requests: copies", "testers", []string{"unhealthy"}},
		"mirrored, and nobody reports the copies": {release.Release{Mirror: 5}, mirrored("nobody", 0), "inconclusive",
			"only a sidecar counts what is mirrored", "mirrored requests:", []string{"inconclusive"}},
		"both, healthy": {release.Release{Mirror: 5, Match: match}, mirrored("destination", 0), "",
			"requests of the canary were testers', with header x-canary: yes, and mirrored requests", "", []string{"healthy"}},
		"testers, healthy":                       {release.Release{Match: match}, mirrored("source", 0), "", "requests of testers, with header x-canary: yes", "mirrored", []string{"healthy"}},
		"testers, failing":                       {release.Release{Match: match}, mirrored("source", 0.3), "unhealthy", "requests of testers, with header x-canary: yes", "mirrored", []string{"unhealthy"}},
		"no tester came":                         {release.Release{Match: match}, func(*world) {}, "inconclusive", "no request reached app-canary", "testers", []string{"inconclusive"}},
		"few testers came":                       {release.Release{Match: match}, func(w *world) { w.flow("app-canary", 0.02, 0, 0, time.Hour) }, "inconclusive", "17 requests of testers", "", []string{"inconclusive"}},
		"a weight, and what was mirrored before": {release.Release{Weight: 10}, mirrored("destination", 0), "inconclusive", "no request reached app-canary", "mirrored", []string{"inconclusive"}},
		"a weight and testers":                   {release.Release{Weight: 10, Match: match}, mirrored("source", 0), "", "healthy", "testers", []string{"healthy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				r := w.ledger.Release
				r.Weight, r.Match, r.Mirror = c.release.Weight, c.release.Match, c.release.Mirror
				c.set(w)
				came, err := Verify(t.Context(), w.options())
				text := came.Message
				if r.Verdict != nil {
					text += r.Verdict.Reason
				}
				if err != nil {
					text = err.Error()
				}
				if kind(err) != c.err || !strings.Contains(text, c.says) || c.never != "" && strings.Contains(text, c.never) {
					t.Errorf("%s: %q, want %s: %q", kind(err), text, c.err, c.says)
				}
				w.did(c.calls)
				if v := r.Verdict; v == nil || v.Mirror != c.release.Mirror || !v.Match.Same(c.release.Match) || v.Weight != c.release.Weight {
					t.Errorf("noted %+v", v)
				}
			})
		})
	}
}

// TestUnlikePrimary: copies are of GET and HEAD only, and testers send what they like. The same code is not rolled back because
// primary's other requests have fewer 404s; a canary that has hardly anything else is.
func TestUnlikePrimary(t *testing.T) {
	match := &release.Match{Header: "x-canary", Kind: release.MatchExact, Value: "yes"}
	for name, c := range map[string]struct {
		release release.Release
		side    string
		primary float64 // share of primary's GET requests that get a 404
		share   float64 // of the canary's requests that get a 404
		err     string
		calls   []string
	}{
		"copies, the same code":              {release.Release{Mirror: 100}, "destination", 0.1, 0.1, "", []string{"healthy"}},
		"copies, a third are 404":            {release.Release{Mirror: 100}, "destination", 0.04, 0.32, "inconclusive", []string{"inconclusive"}},
		"copies, more than a third are 404":  {release.Release{Mirror: 100}, "destination", 0.04, 0.35, "inconclusive", []string{"inconclusive"}},
		"copies, more than half are 404":     {release.Release{Mirror: 100}, "destination", 0.04, 0.75, "unhealthy", []string{"unhealthy"}},
		"copies and testers":                 {release.Release{Mirror: 100, Match: match}, "destination", 0.04, 0.3, "inconclusive", []string{"inconclusive"}},
		"copies, nothing but 404":            {release.Release{Mirror: 100}, "destination", 0.1, 1, "unhealthy", []string{"unhealthy"}},
		"testers whose script is full of it": {release.Release{Match: match}, "source", 0.1, 0.3, "", []string{"healthy"}},
		"testers, nothing but 404":           {release.Release{Match: match}, "source", 0.1, 1, "unhealthy", []string{"unhealthy"}},
		"a share of the traffic":             {release.Release{Weight: 10}, "source", 0.1, 0.3, "unhealthy", []string{"unhealthy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				r := w.ledger.Release
				r.Weight, r.Match, r.Mirror = c.release.Weight, c.release.Match, c.release.Mirror
				w.coded(c.side, "app-primary", "200", 25*(1-c.primary), -2*time.Minute, time.Hour) // GET
				w.coded(c.side, "app-primary", "404", 25*c.primary, -2*time.Minute, time.Hour)
				w.coded(c.side, "app-primary", "200", 25, -2*time.Minute, time.Hour) // POST
				w.coded(c.side, "app-canary", "200", 25*(1-c.share), 0, time.Hour)
				w.coded(c.side, "app-canary", "404", 25*c.share, 0, time.Hour)
				came, err := Verify(t.Context(), w.options())
				if kind(err) != c.err {
					t.Fatalf("%s: %v; %s", kind(err), err, came.Message)
				}
				w.did(c.calls)
				v := r.Verdict
				points := map[bool]int{true: 15, false: 40}[r.Mirror > 0]
				if said := strings.HasSuffix(v.Reason, fmt.Sprintf("; not held to primary alone, whose requests are others: callers-left, client-errors, cut-streams, "+
					"for which a canary is rolled back only over half of its requests, and passes only less than %d points above primary's share", points)); said != (r.Weight == 0) {
					t.Errorf("said %t: %s", said, v.Reason)
				}
				record, err := verdict.ParseRecord(v.Evidence)
				if err != nil {
					t.Fatal(err)
				}
				usual := verdict.DefaultSLO().Test()
				for _, test := range []*verdict.Test{nil, &usual} {
					if j, _, err := record.Replay(test); err != nil || j.Outcome != v.Outcome {
						t.Errorf("judged again: %s %s, %v; first: %s", j.Outcome, j.Reason, err, v.Reason)
					}
				}
			})
		})
	}
}
