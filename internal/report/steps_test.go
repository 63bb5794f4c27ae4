package report

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// TestStepsAreShown: the status has each step of the plan, with a mark at the one that the release is at, and says what goes on
// with it; the timeline has what neither a weight nor a verdict shows.
func TestStepsAreShown(t *testing.T) {
	s := status(t)
	at := time.Date(2026, 11, 23, 9, 10, 0, 0, time.UTC)
	s.Release.Plan = release.Plan{
		{Match: &release.Match{Header: "x-canary", Kind: release.MatchPresent}, DoneAt: at, By: "ann"}, {Weight: 10, DoneAt: at, By: "bob", Skipped: true},
		{Approve: true}, {Weight: 50}, {Analyze: &release.Analyze{}},
	}
	var out bytes.Buffer
	if err := WriteStatus(&out, s, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"steps    ✓ 1 match header:x-canary, 2026-11-23T09:10:00Z\n", "         – 2 weight 10%, left out by bob\n", "         → 3 approve\n", "           4 weight 50%\n",
		"next     approve, then canary --follow, for step 3 of 5: approve\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, out.String())
		}
	}
	s.Release.Stage = release.StageCanary
	if got, want := nextStep(s.Release), "canary --follow, for step 3 of 5: approve"; got != want {
		t.Errorf("next is %q, want %q", got, want)
	}
	var steps []string
	for _, e := range Timeline(s) {
		if e.Event == "step" {
			steps = append(steps, e.Detail+" by "+e.By)
		}
	}
	if want := []string{"step 1 of 5: match header:x-canary by ann", "step 2 of 5: weight 10%, left out by bob"}; !slices.Equal(steps, want) {
		t.Errorf("timeline: %q, want %q", steps, want)
	}
}
