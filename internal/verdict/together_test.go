package verdict

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/release"
)

// TestTogether enumerates what a block can count of three objectives whose events are the same ones, or opposite ones: the
// expectation of the average of the evidence is at most 1 under random points of "good", whatever was learned before.
func TestTogether(t *testing.T) {
	most := 0.0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 6))
		test := standard
		test.Objectives = []Objective{{Name: "a", Budget: 0.001, Margin: 0.01}, {Name: "b", Budget: 0.2, Margin: 0.1}, {Name: "c", Budget: 0.05, Margin: 0.05, Relative: true}}
		past := func() *State {
			rng, s := rand.New(rand.NewPCG(seed, 7)), test.Begin()
			for range int(seed % 4) {
				some := func() Pair {
					return Pair{Tally{20, float64(rng.IntN(3))}, Tally{90, float64(rng.IntN(6))}}
				}
				s.Add(blockAt(5, some(), some(), some()))
			}
			return s
		}
		average := func(s *State) float64 {
			sum := 0.0
			for _, st := range s.streams {
				sum += math.Exp(st.capital.log()) / float64(len(s.streams))
			}
			return sum
		}
		before, expected := average(past()), 0.0
		nc, np := float64(1+rng.IntN(6)), float64(1+rng.IntN(8))
		// Good by all of them, though events are bad together: not above primary, which is above each budget.
		primary := 0.2 + 0.6*rng.Float64()
		canary := primary * part(rng)
		eachPair(nc, np, canary, primary, func(p Pair, chance float64) {
			s := past()
			s.Add(blockAt(10, p, p, p))
			expected += chance * average(s)
		})
		if expected > before*(1+1e-9) {
			t.Errorf("seed %d: the average is %g before the block, %g expected after it", seed, before, expected)
		}
		most = max(most, expected/before)
	}
	if most < 0.9 {
		t.Errorf("the expectation reaches %g: evidence is wasted", most)
	}
}

// TestTogetherDecides shows that two objectives roll back together that would not do so alone, that the reason names both,
// that the rule is never later than one objective alone, and that neither what is not judged nor what is fine adds to it.
func TestTogetherDecides(t *testing.T) {
	needed := standard.harm()
	of := func(name string, against float64) Evidence {
		return Evidence{Objective: name, Total: Pair{Tally{100, 5}, Tally{900, 1}}, Against: against, Harm: needed}
	}
	unjudged := of("relative", needed)
	unjudged.Relative, unjudged.Alone = true, true
	for name, c := range map[string]struct {
		all  []Evidence
		bad  string   // the objective that the reason starts with; "" if the canary is not unhealthy
		with []string // what else the reason has
	}{
		"one alone":             {[]Evidence{of("a", needed), of("b", -1)}, "a", []string{"evidence of 200 to 1 (200 to 1 needed)"}},
		"none":                  {[]Evidence{of("a", needed-1), of("b", -1)}, "", nil},
		"two together":          {[]Evidence{of("a", needed-0.7), of("b", needed-0.6)}, "b", []string{"evidence of 110 to 1 (101 to 1 needed beside a with 99 to 1)"}},
		"two almost":            {[]Evidence{of("a", needed-0.7), of("b", needed-0.72)}, "", nil},
		"a little from another": {[]Evidence{of("a", needed-0.001), of("b", 0)}, "a", []string{"(199 to 1 needed)"}},
		"many together":         {[]Evidence{of("a", needed-0.1), of("b", needed-0.1), of("c", needed-0.2)}, "a", []string{"(1 to 1 needed beside b with 181 to 1, c with 164 to 1)"}},
		"one that is unjudged":  {[]Evidence{of("a", needed-0.7), unjudged}, "", nil},
		"two alone":             {[]Evidence{of("a", needed+1), of("b", needed+2)}, "a", []string{"(200 to 1 needed)"}},
	} {
		reason := together(c.all)
		if c.bad == "" && reason != "" || !strings.HasPrefix(reason, c.bad) {
			t.Errorf("%s: %q, want one of %q", name, reason, c.bad)
		}
		for _, text := range c.with {
			if !strings.Contains(reason, text) {
				t.Errorf("%s: %q lacks %q", name, reason, text)
			}
		}
		marked := ""
		for _, e := range c.all {
			if e.Unhealthy {
				marked += e.Objective
				if e.Against < e.Harm {
					t.Errorf("%s: %s is unhealthy with %g of %g", name, e.Objective, e.Against, e.Harm)
				}
			}
		}
		if !strings.HasPrefix(marked, c.bad) || c.bad == "" && marked != "" {
			t.Errorf("%s: %q is marked, want %q", name, marked, c.bad)
		}
	}

	earlier := 0
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 8))
		s := standard.Begin()
		for at := 5.0; at <= 900; at += 5 {
			p := Pair{Tally{8, draw(rng, 8, 0.02)}, Tally{72, draw(rng, 72, 0.001)}}
			q := Pair{Tally{8, draw(rng, 8, 0.12)}, Tally{72, draw(rng, 72, 0.02)}}
			j := s.Add(blockAt(at, p, q))
			alone := false
			for _, st := range s.streams {
				alone = alone || st.capital.log() >= needed
			}
			if alone && j.Outcome != release.Unhealthy {
				t.Fatalf("seed %d, %g s: an objective alone is enough, and together: %s", seed, at, j.Reason)
			}
			if j.Decided {
				if !alone {
					earlier++
				}
				break
			}
		}
	}
	if earlier == 0 {
		t.Error("two objectives never decide together")
	}
	t.Logf("%d of 200 are decided by both together", earlier)
}
