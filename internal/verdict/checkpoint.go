package verdict

import "slices"

// comparable says whether evidence of this test may go on as evidence of another one: they judge the same.
func (t Test) comparable(other Test) bool {
	return slices.Equal(t.Objectives, other.Objectives) && t.FalseRollback == other.FalseRollback && t.FalsePass == other.FalsePass && t.Burst == other.Burst
}

// state is the state after all blocks.
func (r *Record) state() *State {
	s := r.Test.Begin()
	for _, b := range r.Blocks {
		s.Add(b)
	}
	return s
}

// fold keeps a record small.
func (r *Record) fold() {}
