package verdict

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// A record must stay small, because a ledger keeps it: a watch of a day looks 17,000 times. Blocks that are merged
// later are other bets than those that were made, so the evidence is not computed from them again: that would be one
// more test for each merging, and the error rates hold for one. Instead a checkpoint has the state of the test after
// the blocks that were merged, as they were weighed. Judged again, a record goes on from there and gives the verdict
// that it gave. Only another test, such as replay's, judges the merged blocks.
const (
	keptFine   = 240 // blocks after which the older half of those since the checkpoint is merged
	keptMerged = 120 // merged blocks after which they are merged again
)

// Checkpoint is the state of a test after the first blocks of its record.
type Checkpoint struct {
	Blocks  int            `json:"blocks"` // of the record, merged, that it has weighed
	Elapsed duration       `json:"elapsed"`
	Streams []streamJSON   `json:"streams"`
	Runs    []evidenceJSON `json:"runs"`
}

type (
	// capitalJSON is what is aside, what is staked, how often it was staked, and 1 if it is winning.
	capitalJSON  [4]float64
	evidenceJSON struct {
		Before float64       `json:"before"`
		Each   []capitalJSON `json:"each"`
		All    capitalJSON   `json:"all"`
	}
	sidesJSON struct {
		Primary []float64 `json:"primary"`
		Budget  []float64 `json:"budget"`
		Both    []float64 `json:"both"`
		Choice  []float64 `json:"choice"`
	}
	spanJSON struct {
		Made    bool    `json:"made,omitempty"`
		Exempt  bool    `json:"exempt,omitempty"`
		Log     float64 `json:"log"`
		Events  float64 `json:"events"`
		Primary Tally   `json:"primary"`
	}
	streamJSON struct {
		Total       Pair        `json:"total"`
		Waiting     Pair        `json:"waiting"`
		Span        *spanJSON   `json:"span,omitempty"`
		LastPrimary duration    `json:"lastPrimary"`
		Guess       [3]Tally    `json:"guess"` // of all, recent and last events
		Outage      float64     `json:"outage"`
		Harm        sidesJSON   `json:"harm"`
		Safety      sidesJSON   `json:"safety"`
		Capital     capitalJSON `json:"capital"`
	}
)

func (c capital) save() capitalJSON {
	winning := 0.0
	if c.winning {
		winning = 1
	}
	return capitalJSON{c.aside, c.staked, float64(c.stakes), winning}
}

func (c capitalJSON) load() capital { return capital{c[0], c[1], int(c[2]), c[3] == 1} }

func (s sides) save() sidesJSON {
	return sidesJSON{slices.Clone(s.primary), slices.Clone(s.budget), slices.Clone(s.both), slices.Clone(s.choice)}
}

func (s sidesJSON) load() sides {
	return sides{slices.Clone(s.Primary), slices.Clone(s.Budget), slices.Clone(s.Both), slices.Clone(s.Choice)}
}

func (s span) save() *spanJSON {
	if s == (span{}) {
		return nil
	}
	return &spanJSON{s.made, s.exempt, s.log, s.events, s.primary}
}

func (s *spanJSON) load() span {
	if s == nil {
		return span{}
	}
	return span{s.Made, s.Exempt, s.Log, s.Events, s.Primary}
}

// like says whether a side has as many alternatives as another one.
func (s sides) like(other sides) bool {
	return len(s.primary) == len(other.primary) && len(s.budget) == len(other.budget) && len(s.both) == len(other.both) && len(s.choice) == len(other.choice)
}

func (s *State) save(blocks int) *Checkpoint {
	c := &Checkpoint{Blocks: blocks, Elapsed: duration(s.elapsed)}
	for _, st := range s.streams {
		c.Streams = append(c.Streams, streamJSON{
			Total: st.total, Waiting: st.waiting, Span: st.span.save(), LastPrimary: duration(st.lastPrimary), Guess: [3]Tally{st.guess.all, st.guess.recent, st.guess.last},
			Outage: st.outage, Harm: st.harm.save(), Safety: st.safety.save(), Capital: st.capital.save(),
		})
	}
	for _, r := range s.runs {
		saved := evidenceJSON{Before: r.before, All: r.all.save()}
		for _, one := range r.each {
			saved.Each = append(saved.Each, one.save())
		}
		c.Runs = append(c.Runs, saved)
	}
	return c
}

// load gives the test's state at a checkpoint.
func (t Test) load(c *Checkpoint) *State {
	s := t.Begin()
	s.elapsed = time.Duration(c.Elapsed)
	for i, saved := range c.Streams {
		st := &s.streams[i]
		st.total, st.waiting, st.span, st.lastPrimary = saved.Total, saved.Waiting, saved.Span.load(), time.Duration(saved.LastPrimary)
		st.guess.all, st.guess.recent, st.guess.last = saved.Guess[0], saved.Guess[1], saved.Guess[2]
		st.outage, st.harm, st.safety, st.capital = saved.Outage, saved.Harm.load(), saved.Safety.load(), saved.Capital.load()
	}
	s.runs = nil
	for _, saved := range c.Runs {
		r := run{before: saved.Before, all: saved.All.load()}
		for _, one := range saved.Each {
			r.each = append(r.each, one.load())
		}
		s.runs = append(s.runs, r)
	}
	return s
}

// check finds a checkpoint that does not fit a test with so many blocks.
func (c *Checkpoint) check(t Test, blocks int) error {
	fits := c.Blocks >= 0 && c.Blocks <= blocks && len(c.Streams) == len(t.Objectives) && len(c.Runs) > 0
	for _, saved := range c.Streams {
		fits = fits && saved.Harm.load().like(harmSides()) && saved.Safety.load().like(safetySides())
	}
	for _, saved := range c.Runs {
		fits = fits && len(saved.Each) == len(t.Objectives)
	}
	if !fits {
		return errors.New("its checkpoint does not fit its test")
	}
	return nil
}

// comparable says whether evidence of this test may go on as evidence of another one: they judge the same.
func (t Test) comparable(other Test) bool {
	return slices.Equal(t.Objectives, other.Objectives) && t.FalseRollback == other.FalseRollback && t.FalsePass == other.FalsePass &&
		t.Burst == other.Burst && t.Alone == other.Alone && t.Whole == other.Whole && t.Baseline == other.Baseline
}

// merged is how many of the blocks are merged ones that the checkpoint has weighed.
func (r *Record) merged() int {
	if r.Checkpoint == nil {
		return 0
	}
	return r.Checkpoint.Blocks
}

// checkpoint is the state after the merged blocks.
func (r *Record) checkpoint() *State {
	if r.Checkpoint == nil {
		return r.Test.Begin()
	}
	return r.Test.load(r.Checkpoint)
}

// state is the state after all blocks.
func (r *Record) state() *State {
	s := r.checkpoint()
	for _, b := range r.Blocks[r.merged():] {
		s.Add(b)
	}
	return s
}

// add judges one more block by a state that is the record's, and keeps it. A block without events is kept if the state differs by
// more than the time: with it, events that waited for primary's were weighed, or a bet was made.
func (r *Record) add(s *State, b Block) Judgment {
	before := s.save(0)
	j := s.Add(b)
	before.Elapsed = duration(s.elapsed)
	if j.Decided || b.events() > 0 || !reflect.DeepEqual(before, s.save(0)) {
		r.Blocks = append(r.Blocks, b)
	}
	r.fold()
	return j
}

// Judgments are the judgments after each block. Those of merged blocks are only near what was judged then.
func (r *Record) Judgments() []Judgment {
	all := make([]Judgment, len(r.Blocks))
	s := r.Test.Begin()
	for i, b := range r.Blocks {
		if i == r.merged() {
			s = r.checkpoint()
		}
		all[i] = s.Add(b)
	}
	return all
}

// fold merges old blocks when there are many. When it does so depends on how many blocks there are only.
func (r *Record) fold() {
	merged := r.merged()
	if len(r.Blocks)-merged <= keptFine {
		return
	}
	folded := r.Blocks[merged : merged+keptFine/2]
	s := r.checkpoint()
	for _, b := range folded {
		s.Add(b)
	}
	old := append(slices.Clone(r.Blocks[:merged]), inPairs(folded)...)
	for len(old) > keptMerged {
		shorter := inPairs(old)
		if len(shorter) == len(old) {
			break
		}
		old = shorter
	}
	r.Checkpoint = s.save(len(old))
	r.Blocks = append(old, r.Blocks[merged+keptFine/2:]...)
}

// inPairs merges each two blocks, unless only one of them is of the warm-up.
func inPairs(blocks []Block) []Block {
	var all []Block
	for i := 0; i < len(blocks); i++ {
		b := blocks[i]
		if i+1 < len(blocks) && blocks[i+1].WarmUp == b.WarmUp {
			i++
			pairs := slices.Clone(b.Pairs)
			for k := range pairs {
				pairs[k] = pairs[k].add(blocks[i].Pairs[k])
			}
			b = Block{Elapsed: blocks[i].Elapsed, WarmUp: b.WarmUp, Pairs: pairs}
		}
		all = append(all, b)
	}
	return all
}

// unreadable says what is wrong with a record.
func unreadable(err error) error {
	return fmt.Errorf("the record of the verdict is not readable: %w", err)
}
