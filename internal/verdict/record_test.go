package verdict

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
)

// oldRecord is what verify --record wrote before durations were strings and judgment had its present spelling.
const oldRecord = `{
  "outcome": "healthy",
  "reason": "fine",
  "record": {
    "test": {"falseRollback": 0.01, "falsePass": 0.05, "burst": 1, "minRequests": 50, "minDuration": 30000000000, "maxDuration": 900000000000,
      "whole": false, "objectives": [{"name": "availability", "budget": 0.001, "margin": 0.01}]},
    "blocks": [{"elapsed": 15000000000, "pairs": [[400, 0, 3600, 4]]}, {"elapsed": 30000000000, "pairs": [[400, 0, 3600, 3]]}]
  },
  "evaluations": [{"at": "2026-11-23T12:00:00Z", "elapsed": 15000000000,
    "judgement": {"decided": false, "cause": "thin_traffic", "reason": "not yet", "evidence": null, "left": 12000000000}}]
}`

func TestVerificationJSON(t *testing.T) {
	want := Verification{
		Outcome: release.Healthy, Reason: "fine",
		Record: Record{
			Method: Method,
			Test:   standard.availability(),
			Blocks: []Block{blockAt(15, Pair{Tally{400, 0}, Tally{3600, 4}}), blockAt(30, Pair{Tally{400, 0}, Tally{3600, 3}})},
		},
		Evaluations: []Evaluation{{
			At: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Elapsed: 15 * time.Second,
			Judgment: Judgment{Cause: ThinTraffic, Reason: "not yet", Left: 12 * time.Second},
		}},
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"an old record": oldRecord, "a new record": string(text)} {
		var got Verification
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		want.Record.Method = got.Record.Method
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if outdated := got.Record.Outdated(); outdated != (name == "an old record") {
			t.Errorf("%s: outdated: %v", name, outdated)
		}
		if j, used, err := got.Record.Replay(nil); err != nil || j.Outcome != release.Healthy || used != 2 {
			t.Errorf("%s judged again: %s after %d blocks, %v", name, j.Outcome, used, err)
		}
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	evaluation := fields["evaluations"].([]any)[0].(map[string]any)
	test := fields["record"].(map[string]any)["test"].(map[string]any)
	got := []any{evaluation["elapsed"], evaluation["judgment"].(map[string]any)["left"], test["minDuration"], test["maxDuration"]}
	if diff := cmp.Diff([]any{"15s", "12s", "30s", "15m0s"}, got); diff != "" {
		t.Errorf("durations (-want +got):\n%s", diff)
	}
}
