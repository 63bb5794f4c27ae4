package verdict

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// chance is the probability of a tally.
func chance(t Tally, share float64) float64 {
	logGamma := func(x float64) float64 { v, _ := math.Lgamma(x); return v }
	choose := math.Exp(logGamma(t.Events+1) - logGamma(t.Bad+1) - logGamma(t.Events-t.Bad+1))
	return choose * math.Pow(share, t.Bad) * math.Pow(1-share, t.Events-t.Bad)
}

// eachPair calls f with every pair of so many events, and its probability.
func eachPair(canary, primary, thetaC, thetaP float64, f func(p Pair, chance float64)) {
	for bc := 0.0; bc <= canary; bc++ {
		for bp := 0.0; bp <= primary; bp++ {
			p := Pair{Tally{canary, bc}, Tally{primary, bp}}
			f(p, chance(p.Canary, thetaC)*chance(p.Primary, thetaP))
		}
	}
}

// good are shares for which a canary is good: by the budget, or by primary.
func good(o Objective, rng *rand.Rand) (canary, primary float64) {
	primary = edge(rng)
	if rng.IntN(2) == 0 {
		return o.Budget * part(rng), primary
	}
	return primary * part(rng), primary
}

// bad are shares for which a canary is bad: by the budget, or by primary.
func bad(o Objective, rng *rand.Rand) (canary, primary float64) {
	primary = edge(rng) * (1 - o.Margin)
	least := primary + o.Margin
	if rng.IntN(2) == 0 {
		least = o.Budget + o.Margin
	}
	return least + (1-least)*(1-part(rng)), primary
}

// edge is a share that is small, or any.
func edge(rng *rand.Rand) float64 {
	if rng.IntN(2) == 0 {
		return 0.1 * rng.Float64() * rng.Float64()
	}
	return rng.Float64()
}

// part is 1 as often as not: the edge of a hypothesis.
func part(rng *rand.Rand) float64 {
	if rng.IntN(2) == 0 {
		return 1
	}
	return rng.Float64()
}

// TestUnion holds the expectation of the evidence against 1, by enumerating all that two blocks can count, under
// random points of the hypothesis. The blocks are good, or bad, for reasons of their own. What was learned before is
// random as well.
func TestUnion(t *testing.T) {
	most := [2]float64{}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		test := DefaultSLO().Test()
		o := Objective{Name: "a", Budget: []float64{0.001, 0.05, 0.2}[rng.IntN(3)], Margin: []float64{0.01, 0.1}[rng.IntN(2)]}
		test.Objectives = []Objective{o}
		test.Burst = []float64{1, 1, 2.5}[rng.IntN(3)]
		past := func() *State {
			rng, s := rand.New(rand.NewPCG(seed, 4)), test.Begin()
			for range int(seed % 4) {
				s.Add(blockAt(5, Pair{Tally{20, float64(rng.IntN(3))}, Tally{90, float64(rng.IntN(6))}}))
				s.settleAll()
			}
			return s
		}
		capitals := func(s *State) [2]float64 {
			e := s.judge().Evidence[0]
			return [2]float64{math.Exp(e.Against), math.Exp(e.For)}
		}
		before := capitals(past())
		nc, np := float64(1+rng.IntN(4)), float64(1+rng.IntN(6))
		for side, shares := range []func(Objective, *rand.Rand) (float64, float64){good, bad} {
			c1, p1 := shares(o, rng)
			c2, p2 := shares(o, rng)
			expected := 0.0
			eachPair(nc, np, c1, p1, func(first Pair, chance1 float64) {
				eachPair(np, nc, c2, p2, func(second Pair, chance2 float64) {
					s := past()
					s.Add(blockAt(10, first))
					s.settleAll() // as if it had enough events
					s.Add(blockAt(15, second))
					s.settleAll()
					expected += chance1 * chance2 * capitals(s)[side]
				})
			})
			if expected > before[side]*(1+1e-9) {
				t.Errorf("seed %d, side %d: %g before the blocks, %g expected after them (%g against %g, then %g against %g; %+v)", seed, side, before[side], expected, c1, p1, c2, p2, o)
			}
			most[side] = max(most[side], expected/before[side])
		}
	}
	if most[0] < 0.9 || most[1] < 0.9 {
		t.Errorf("the expectations reach %g: evidence is wasted", most)
	}
}

// TestUnionOfObjectives is the same for a canary that is bad by one objective in the first block and by the other
// in the second one, while the objectives' events go together.
func TestUnionOfObjectives(t *testing.T) {
	test := standard
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 5))
		expected := 0.0
		c1, p1 := bad(test.Objectives[0], rng)
		c2, p2 := bad(test.Objectives[1], rng)
		eachPair(4, 5, c1, p1, func(first Pair, chance1 float64) {
			eachPair(5, 4, c2, p2, func(second Pair, chance2 float64) {
				s := test.Begin()
				s.Add(blockAt(5, first, Pair{Tally{4, 4 - first.Canary.Bad}, Tally{5, 0}}))
				s.settleAll() // as if it had enough events
				s.Add(blockAt(10, Pair{Tally{5, 0}, Tally{4, second.Primary.Bad}}, second))
				s.settleAll()
				expected += chance1 * chance2 * math.Exp(s.runs[0].all.log())
			})
		})
		if expected > 1+1e-9 {
			t.Errorf("seed %d: %g", seed, expected)
		}
	}
}

// TestLatePrimary shows that the budget alone does not decide while primary's counters may still arrive, and that it
// does when primary has had no events for a minute.
func TestLatePrimary(t *testing.T) {
	test := standard.availability()
	canary := Pair{Canary: Tally{300, 30}}
	s := test.Begin()
	if j := s.Add(blockAt(5, canary)); j.Decided {
		t.Fatalf("at the first look, without primary's events: %s: %s", j.Outcome, j.Reason)
	}
	if j := s.Add(blockAt(10, Pair{Tally{300, 30}, Tally{5400, 540}})); j.Decided {
		t.Errorf("as many errors as primary, whose counters came later: %s: %s", j.Outcome, j.Reason)
	}
	for at := 15.0; at < 70; at += 5 {
		if j := s.Add(blockAt(at, canary)); j.Decided {
			t.Fatalf("after %g s without primary: %s: %s", at-10, j.Outcome, j.Reason)
		}
	}
	if j := s.Add(blockAt(70, canary)); j.Outcome != release.Unhealthy {
		t.Errorf("after a minute without primary: %s: %s", j.Outcome, j.Reason)
	}
	test.Alone = true
	if j := test.Begin().Add(blockAt(5, canary)); j.Outcome != release.Unhealthy {
		t.Errorf("there is no primary: %s: %s", j.Outcome, j.Reason)
	}
}

// TestLateFaults shows that a bake whose last minutes are bad is unhealthy, however good
// the time before was; and that a watch sees a fault that begins after a day.
func TestLateFaults(t *testing.T) {
	test := standard.availability()
	test.Alone, test.Whole, test.MaxDuration = true, true, 30*time.Minute
	for _, c := range []struct {
		name  string
		from  float64 // second
		share float64
		want  release.VerdictOutcome
	}{
		{"good", 1800, 0, release.Healthy},
		{"2% in the last 5 minutes", 1500, 0.02, release.Unhealthy},
		{"2% in the last minute", 1740, 0.02, release.Unhealthy},
		{"1.1% in the last 5 minutes", 1500, 0.0111, release.Unhealthy},
	} {
		rng := rand.New(rand.NewPCG(1, 2))
		s, last := test.Begin(), Judgment{}
		for at := 5.0; at <= 1800 && !last.Decided; at += 5 {
			share := 0.0005
			if at > c.from {
				share = c.share
			}
			last = s.Add(blockAt(at, Pair{Canary: Tally{225, draw(rng, 225, share)}}))
		}
		if last.Outcome != c.want {
			t.Errorf("bake, %s: %s: %s", c.name, last.Outcome, last.Reason)
		}
	}

	rng := rand.New(rand.NewPCG(1, 3))
	test = standard.availability()
	test.MaxDuration = 48 * time.Hour
	s, found := test.Begin(), 0.0
	for at := 30.0; found == 0 && at < 90000; at += 30 {
		share := 0.0005
		if at > 86400 {
			share = 0.05
		}
		if s.Add(blockAt(at, Pair{Tally{150, draw(rng, 150, share)}, Tally{1350, draw(rng, 1350, 0.0005)}})).Outcome == release.Unhealthy {
			found = at
		}
	}
	if found <= 86400 || found > 86400+180 {
		t.Errorf("5%% errors from 86400 s on are found after %g s", found)
	}
}

// TestAfterAnOutage shows how soon a good canary passes after an outage of 60 s that both tracks had.
func TestAfterAnOutage(t *testing.T) {
	for rate, limit := range map[float64]float64{300: 60, 50: 180} {
		rng := rand.New(rand.NewPCG(1, 2))
		s, passed := standard.availability().Begin(), 0.0
		for at := 5.0; passed == 0 && at < 900; at += 5 {
			share := 0.0
			if at <= 60 {
				share = 0.05
			}
			canary, primary := math.Round(rate*0.1*5), math.Round(rate*0.9*5)
			if j := s.Add(blockAt(at, Pair{Tally{canary, draw(rng, int(canary), share)}, Tally{primary, draw(rng, int(primary), share)}})); j.Outcome != "" {
				passed = at - 60
			}
		}
		if passed <= 0 || passed > limit {
			t.Errorf("at %g requests/s it passes %g s after the outage, want at most %g", rate, passed, limit)
		}
	}
}
