package verdict

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Verification is a verdict with its evidence.
type Verification struct {
	Outcome     release.VerdictOutcome `json:"outcome"`
	Cause       Cause                  `json:"cause,omitempty"` // of an inconclusive verdict, or what the witness saw
	Reason      string                 `json:"reason"`
	Record      Record                 `json:"record"`
	Evaluations []Evaluation           `json:"evaluations"`
}

// Method is the version of the test. The evidence of version 1 against the two halves of a hypothesis was gathered
// apart, and nothing was forgotten; its records have no version. Version 2 divided α among the objectives, and had other
// alternatives.
const Method = 3

// Record is all that a verdict follows from: judged again by the same method, it gives the same verdict.
type Record struct {
	Method int     `json:"method,omitempty"`
	Test   Test    `json:"test"`
	Blocks []Block `json:"blocks"`
	// Checkpoint is the state after those first blocks that are merged ones; nil if none is.
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
	// Since and Until are the span of time that the blocks cover, by Prometheus's clock.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Unattributed is how many errors of the Service belonged to no track.
	Unattributed float64 `json:"unattributed,omitempty"`
	// Witnessed is what made the canary unhealthy, beside the counters; nil if nothing did.
	Witnessed *Witnessed `json:"witnessed,omitempty"`
}

// Requests is how many requests to the canary were judged, rounded as in the reason of the verdict. Objectives that
// read other metrics count a few more or fewer. This is the count of the objective that the reason names first: the
// first unhealthy one, or else the first one, or else the busiest if the first has no events.
func (r Record) Requests() float64 { return r.state().judge().requests() }

// requests is the count of a judgment.
func (j Judgment) requests() float64 {
	busiest := 0.0
	for _, e := range j.Evidence {
		if e.Unhealthy {
			return math.Round(e.Total.Canary.Events)
		}
		busiest = max(busiest, e.Total.Canary.Events)
	}
	if busiest > 0 && j.Evidence[0].Total.Canary.Events > 0 {
		return math.Round(j.Evidence[0].Total.Canary.Events)
	}
	return math.Round(busiest)
}

// ParseRecord reads a record from the ledger.
func ParseRecord(text string) (*Record, error) {
	var r Record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, unreadable(err)
	}
	return &r, r.Check()
}

// Check finds a record whose counts do not match its objectives.
func (r *Record) Check() error {
	for i, b := range r.Blocks {
		if len(b.Pairs) != len(r.Test.Objectives) {
			return unreadable(fmt.Errorf("block %d has %d pairs for %d objectives", i, len(b.Pairs), len(r.Test.Objectives)))
		}
	}
	if r.Checkpoint != nil {
		if err := r.Checkpoint.check(r.Test, len(r.Blocks)); err != nil {
			return unreadable(err)
		}
	}
	return nil
}

// Outdated says that a record was made by an earlier method, so that judged again it may come out differently.
func (r *Record) Outdated() bool { return r.Method != Method }

// Replay judges a record again, and says how many blocks the decision took. If another test is given, it
// judges the recorded objectives of the same names, up to its first decision. What is judged against primary only
// was not counted by older records: there it is left out. Where it was judged by a budget ([Test.Unlike]), it is by the same one.
func (r *Record) Replay(other *Test) (Judgment, int, error) {
	if other == nil {
		return r.judgment(), len(r.Blocks), nil
	}
	test := *other
	test.Baseline = r.Test.Baseline // which of the two was counted
	recorded := func(o Objective) int {
		return slices.IndexFunc(r.Test.Objectives, func(one Objective) bool { return one.Name == o.Name })
	}
	test.Objectives = slices.DeleteFunc(slices.Clone(other.Objectives), func(o Objective) bool { return o.Relative && recorded(o) < 0 })
	for i, o := range test.Objectives {
		if o.Relative && !r.Test.Objectives[recorded(o)].Relative {
			test.Objectives[i] = r.Test.Objectives[recorded(o)]
		}
	}
	blocks, err := r.blocksFor(test.Objectives)
	if err != nil {
		return Judgment{}, 0, err
	}
	j, used := test.Judge(blocks)
	if seen := r.Witnessed; seen != nil && j.Outcome != release.Unhealthy {
		j = seen.judgment(j)
	}
	return j, used, nil
}

// judgment is what follows from all of the record. Evidence that was enough for a healthy verdict goes on growing
// in a record that is gone on from, or while something else holds the verdict.
func (r *Record) judgment() Judgment {
	j := r.state().judge()
	if seen := r.Witnessed; seen != nil {
		j = seen.judgment(j)
	}
	return j
}

// blocksFor are the blocks with the pairs of the given objectives, in their order.
func (r *Record) blocksFor(objectives []Objective) ([]Block, error) {
	places := make([]int, len(objectives))
	for i, o := range objectives {
		places[i] = slices.IndexFunc(r.Test.Objectives, func(recorded Objective) bool { return recorded.Name == o.Name })
		if places[i] < 0 {
			return nil, &usererr.Error{Field: "analysis.objectives", Problem: fmt.Sprintf("objective %s was not counted in that release", o.Name), Fix: "name only objectives that were counted"}
		}
	}
	var blocks []Block
	for _, b := range r.Blocks {
		chosen := Block{Elapsed: b.Elapsed, WarmUp: b.WarmUp}
		for _, place := range places {
			chosen.Pairs = append(chosen.Pairs, b.Pairs[place])
		}
		blocks = append(blocks, chosen)
	}
	return blocks, nil
}

// events is the number of events of both tracks.
func (b Block) events() float64 {
	sum := 0.0
	for _, p := range b.Pairs {
		sum += p.Canary.Events + p.Primary.Events
	}
	return sum
}

// Tally counts events.
type Tally struct {
	Events float64 `json:"events"`
	Bad    float64 `json:"bad"`
}

// Share is the share of bad events, from 0 to 1.
func (t Tally) Share() float64 {
	if t.Events == 0 {
		return 0
	}
	return t.Bad / t.Events
}

func (p Pair) add(q Pair) Pair { return Pair{p.Canary.add(q.Canary), p.Primary.add(q.Primary)} }

func (t Tally) add(u Tally) Tally { return Tally{t.Events + u.Events, t.Bad + u.Bad} }

// Pair is the events of both tracks in the same span of time. Its JSON is short, because a ledger keeps many:
// four numbers, which are the canary's events and bad events, then primary's.
type Pair struct{ Canary, Primary Tally }

// MarshalJSON writes the four numbers.
func (p Pair) MarshalJSON() ([]byte, error) {
	return json.Marshal([]float64{p.Canary.Events, p.Canary.Bad, p.Primary.Events, p.Primary.Bad})
}

// UnmarshalJSON reads the four numbers, and refuses numbers that cannot be counts.
func (p *Pair) UnmarshalJSON(text []byte) error {
	var n []float64
	if err := json.Unmarshal(text, &n); err != nil {
		return err
	}
	if len(n) != 4 || n[1] < 0 || n[1] > n[0] || n[3] < 0 || n[3] > n[2] {
		return fmt.Errorf("%v is not the events and the bad events of two tracks", n)
	}
	*p = Pair{Tally{n[0], n[1]}, Tally{n[2], n[3]}}
	return nil
}

// duration is a Go duration string in JSON. It also reads nanoseconds, which older records have.
type duration time.Duration

func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

func (d *duration) UnmarshalJSON(text []byte) error {
	var n int64
	if json.Unmarshal(text, &n) == nil {
		*d = duration(n)
		return nil
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(s)
	*d = duration(parsed)
	return err
}

// The JSON forms of the types below differ from the types in their durations alone.
type (
	plainTest Test
	testJSON  struct {
		plainTest
		MinDuration duration `json:"minDuration"`
		MaxDuration duration `json:"maxDuration"`
	}
	blockJSON struct {
		Elapsed duration `json:"elapsed"`
		WarmUp  bool     `json:"warmUp,omitempty"`
		Pairs   []Pair   `json:"pairs"`
	}
	plainJudgment Judgment
	judgmentJSON  struct {
		plainJudgment
		Left duration `json:"left,omitempty"`
	}
	evaluationJSON struct {
		At       time.Time `json:"at"`
		Elapsed  duration  `json:"elapsed"`
		WarmUp   bool      `json:"warmUp,omitempty"`
		Judgment *Judgment `json:"judgment,omitempty"`
		// Judgement is the name of the field in older records. It is only read.
		Judgement *Judgment `json:"judgement,omitempty"`
	}
)

// MarshalJSON writes durations as strings.
func (t Test) MarshalJSON() ([]byte, error) {
	return json.Marshal(testJSON{plainTest(t), duration(t.MinDuration), duration(t.MaxDuration)})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (t *Test) UnmarshalJSON(text []byte) error {
	var v testJSON
	err := json.Unmarshal(text, &v)
	*t = Test(v.plainTest)
	t.MinDuration, t.MaxDuration = time.Duration(v.MinDuration), time.Duration(v.MaxDuration)
	return err
}

// MarshalJSON writes durations as strings.
func (b Block) MarshalJSON() ([]byte, error) {
	return json.Marshal(blockJSON{duration(b.Elapsed), b.WarmUp, b.Pairs})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (b *Block) UnmarshalJSON(text []byte) error {
	var v blockJSON
	err := json.Unmarshal(text, &v)
	*b = Block{time.Duration(v.Elapsed), v.WarmUp, v.Pairs}
	return err
}

// MarshalJSON writes durations as strings.
func (j Judgment) MarshalJSON() ([]byte, error) {
	return json.Marshal(judgmentJSON{plainJudgment(j), duration(j.Left)})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (j *Judgment) UnmarshalJSON(text []byte) error {
	var v judgmentJSON
	err := json.Unmarshal(text, &v)
	*j = Judgment(v.plainJudgment)
	j.Left = time.Duration(v.Left)
	return err
}

// MarshalJSON writes durations as strings.
func (e Evaluation) MarshalJSON() ([]byte, error) {
	return json.Marshal(evaluationJSON{At: e.At, Elapsed: duration(e.Elapsed), WarmUp: e.WarmUp, Judgment: &e.Judgment})
}

// UnmarshalJSON is the inverse of MarshalJSON. It also reads older records.
func (e *Evaluation) UnmarshalJSON(text []byte) error {
	var v evaluationJSON
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	*e = Evaluation{At: v.At, Elapsed: time.Duration(v.Elapsed), WarmUp: v.WarmUp}
	if v.Judgment == nil {
		v.Judgment = v.Judgement
	}
	if v.Judgment != nil {
		e.Judgment = *v.Judgment
	}
	return nil
}
