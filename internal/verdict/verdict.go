// Package verdict judges a canary by what its callers saw. It counts requests from raw counters, and weighs
// the evidence in them by a sequential test with stated error rates. It promises that too few requests,
// missing or unreadable metrics are never a healthy verdict.
//
// The mathematics (Test, State) is pure; reading Prometheus is in source.go, watching in verify.go.
package verdict

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Verification is a verdict with its evidence. Its test and blocks alone make the same verdict again.
type Verification struct {
	Outcome     release.VerdictOutcome `json:"outcome"`
	Cause       Cause                  `json:"cause,omitempty"` // of an inconclusive one
	Reason      string                 `json:"reason"`
	Record      Record                 `json:"record"`
	Evaluations []Evaluation           `json:"evaluations"`
}

// Record is what a verdict rests on.
type Record struct {
	Test   Test    `json:"test"`
	Blocks []Block `json:"blocks"`
}

// Requests is how many requests of the canary were judged. Objectives that read other metrics count a few more or
// fewer; this is what the objective counts that the reason of the verdict names first: the first unhealthy one,
// else the first, or the busiest when that one has counted nothing. It is rounded as in the reason.
func (r Record) Requests() float64 {
	state, last := r.Test.Begin(), Judgement{}
	for _, b := range r.Blocks {
		last = state.Add(b)
	}
	busiest := 0.0
	for _, e := range last.Evidence {
		if e.Unhealthy {
			return math.Round(e.Total.Canary.Events)
		}
		busiest = max(busiest, e.Total.Canary.Events)
	}
	if busiest > 0 && last.Evidence[0].Total.Canary.Events > 0 {
		return math.Round(last.Evidence[0].Total.Canary.Events)
	}
	return math.Round(busiest)
}

func (b Block) events() float64 {
	sum := 0.0
	for _, p := range b.Pairs {
		sum += p.Canary.Events + p.Primary.Events
	}
	return sum
}

// ParseRecord reads a record as the ledger keeps it.
func ParseRecord(text string) (*Record, error) {
	var r Record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, fmt.Errorf("what the verdict rests on is not readable: %w", err)
	}
	return &r, r.Check()
}

// Check finds a record whose counts are not those of its objectives.
func (r *Record) Check() error {
	for i, b := range r.Blocks {
		if len(b.Pairs) != len(r.Test.Objectives) {
			return fmt.Errorf("what the verdict rests on is not readable: block %d has %d pairs for %d objectives", i, len(b.Pairs), len(r.Test.Objectives))
		}
	}
	return nil
}

// Replay judges a record again, by another test if one is given; its objectives are then those of the same
// names.
func (r *Record) Replay(other *Test) (Judgement, int, error) {
	test, blocks := r.Test, r.Blocks
	if other != nil {
		test = *other
		places := make([]int, len(other.Objectives))
		for i, o := range other.Objectives {
			places[i] = slices.IndexFunc(r.Test.Objectives, func(was Objective) bool { return was.Name == o.Name })
			if places[i] < 0 {
				return Judgement{}, 0, &usererr.Error{Field: "--slo", Problem: fmt.Sprintf("objective %s was not counted in that release", o.Name), Fix: "name only objectives that were"}
			}
		}
		blocks = nil
		for _, b := range r.Blocks {
			changed := Block{Elapsed: b.Elapsed}
			for _, place := range places {
				changed.Pairs = append(changed.Pairs, b.Pairs[place])
			}
			blocks = append(blocks, changed)
		}
	}
	j, used := test.Judge(blocks)
	return j, used, nil
}
