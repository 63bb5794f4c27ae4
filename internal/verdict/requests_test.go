package verdict

import "testing"

// TestRequestsAreRounded: the table of a report and the reason of a verdict show the same number of requests. The
// one was cut off, the other rounded.
func TestRequestsAreRounded(t *testing.T) {
	for _, test := range []struct {
		events []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{60, 60}, 120},
		{[]float64{60.4, 60.4}, 121},
		{[]float64{60.2, 60.2}, 120},
		{[]float64{3196.9999999999995}, 3197},
	} {
		record := Record{Test: Test{Objectives: []Objective{{Name: "availability"}}}}
		for _, events := range test.events {
			record.Blocks = append(record.Blocks, Block{Pairs: []Pair{{Canary: Tally{Events: events}}}})
		}
		if got := record.Requests(); got != test.want {
			t.Errorf("%v: %g, want %g", test.events, got, test.want)
		}
	}
}
