package main

import (
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict"
)

// TestLookText is the line that verify and promote --bake print for each look.
func TestLookText(t *testing.T) {
	both := verdict.Evidence{Objective: "availability", Total: verdict.Pair{Canary: verdict.Tally{Events: 200, Bad: 1}, Primary: verdict.Tally{Events: 1800}}, Against: 1, For: 1, Harm: 4, Safety: 2}
	alone := verdict.Evidence{Objective: "latency", Alone: true, Harm: 4, Safety: 2}
	for name, c := range map[string]struct {
		look verdict.Judgment
		want string
	}{
		"under way": {verdict.Judgment{Evidence: []verdict.Evidence{both, alone}, Left: 61400 * time.Millisecond}, "   5.0s  availability: canary 99.50% of 200 ok, primary 100.00% of 1800 ok, shown bad 25%, good 50%;  latency: canary nothing yet, shown bad 0%, good 0%;  about 1m1s more"},
		"decided":   {verdict.Judgment{Evidence: []verdict.Evidence{alone}, Decided: true, Outcome: release.Healthy}, "   5.0s  latency: canary nothing yet, shown bad 0%, good 0%;  healthy"},
		"nothing":   {verdict.Judgment{}, "   5.0s"},
	} {
		if got := lookText(verdict.Evaluation{Elapsed: 5 * time.Second, Judgment: c.look}); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c.want)
		}
	}
}
