package verdict

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/release"
)

var standard = Test{
	FalseRollback: 0.01, FalsePass: 0.05, Burst: 1, MinRequests: 50, MinDuration: 30 * time.Second, MaxDuration: 15 * time.Minute,
	Objectives: []Objective{{Name: "availability", Budget: 0.001, Margin: 0.01}, {Name: "latency", Budget: 0.05, Margin: 0.05}},
}

// availability is the test with its first objective alone.
func (t Test) availability() Test {
	t.Objectives = t.Objectives[:1]
	return t
}

func blockAt(seconds float64, pairs ...Pair) Block {
	return Block{Elapsed: time.Duration(seconds * float64(time.Second)), Pairs: pairs}
}

func TestSequential(t *testing.T) {
	none := Pair{}
	fine := func(canary, primary float64) Pair {
		return Pair{Tally{canary, 0}, Tally{primary, math.Round(primary / 1000)}}
	}
	bad := func(share float64) Pair { return Pair{Tally{200, 200 * share}, Tally{1800, 2}} }
	for _, c := range []struct {
		name    string
		test    Test
		blocks  []Block
		outcome release.VerdictOutcome // "" is undecided
		cause   Cause
	}{
		{"nothing is decided without data", standard, []Block{blockAt(60, none, none)}, "", NoTraffic},
		{"no traffic is never healthy", standard, []Block{blockAt(900, none, none)}, release.Inconclusive, NoTraffic},
		{"an objective without data is never healthy", standard, []Block{blockAt(900, fine(5000, 45000), none)}, release.Inconclusive, NoData},
		{"healthy, early", standard, []Block{blockAt(60, fine(1000, 9000), fine(1000, 9000))}, release.Healthy, ""},
		{"not before the minimum time", standard, []Block{blockAt(15, fine(1000, 9000), fine(1000, 9000))}, "", ThinTraffic},
		{"too thin for a pass", standard, []Block{blockAt(900, fine(40, 360), fine(40, 360))}, release.Inconclusive, ThinTraffic},
		{"all errors, at the first look", standard, []Block{blockAt(1, bad(1), fine(200, 1800))}, release.Unhealthy, ""},
		{"a fifth of errors", standard, []Block{blockAt(1, bad(0.2), fine(200, 1800))}, release.Unhealthy, ""},
		{"slow", standard, []Block{blockAt(1, fine(200, 1800), Pair{Tally{200, 80}, Tally{1800, 20}})}, release.Unhealthy, ""},
		{"a shared outage does not blame the canary", standard, []Block{blockAt(60, Pair{Tally{1000, 200}, Tally{9000, 1800}}, fine(1000, 9000))}, "", SharedOutage},
		{"a shared outage is never passed", standard, []Block{blockAt(900, Pair{Tally{10000, 2000}, Tally{90000, 18000}}, fine(1000, 9000))}, release.Inconclusive, SharedOutage},
		{"worse than an outage is still to blame", standard, []Block{blockAt(30, Pair{Tally{100, 20}, Tally{900, 180}}, fine(100, 900)), blockAt(60, Pair{Tally{1000, 600}, Tally{9000, 1800}}, fine(1000, 9000))}, release.Unhealthy, ""},
		{"without primary by the budget alone: bad", standard, []Block{blockAt(60, Pair{Canary: Tally{1000, 50}}, Pair{Canary: Tally{1000, 0}})}, release.Unhealthy, ""},
		{"without primary by the budget alone: good", standard, []Block{blockAt(60, Pair{Canary: Tally{1000, 0}}, Pair{Canary: Tally{1000, 0}})}, release.Healthy, ""},
		{"between good and bad", standard, []Block{blockAt(900, Pair{Tally{1000, 9}, Tally{9000, 60}}, fine(1000, 9000))}, release.Inconclusive, Undecided},
	} {
		j, _ := c.test.Judge(c.blocks)
		if j.Outcome != c.outcome || j.Cause != c.cause || j.Decided != (c.outcome != "") || j.Reason == "" {
			t.Errorf("%s: %s %s decided=%v: %s", c.name, j.Outcome, j.Cause, j.Decided, j.Reason)
		}
	}
	whole := standard
	whole.Whole = true
	if j, _ := whole.Judge([]Block{blockAt(60, fine(1000, 9000), fine(1000, 9000))}); j.Decided {
		t.Errorf("a bake passes before its end: %s", j.Reason)
	}
}

// TestWarmUp shows that slow answers of the warm-up are recorded and shown, and neither blame nor pass a canary, and
// that errors of the warm-up still do.
func TestWarmUp(t *testing.T) {
	test := standard
	test.Objectives = slices.Clone(test.Objectives)
	test.Objectives[1].Slow = true
	fine := Pair{Tally{200, 0}, Tally{1800, 2}}
	bad := Pair{Tally{200, 150}, Tally{1800, 2}}
	warm := func(pairs ...Pair) Block { return Block{Elapsed: 15 * time.Second, WarmUp: true, Pairs: pairs} }
	s := test.Begin()
	j := s.Add(warm(fine, bad))
	if latency := j.Evidence[1]; j.Decided || latency.Total.Canary.Bad != 150 || math.Abs(latency.Against) > nothing || latency.For > nothing || j.Left != 0 {
		t.Errorf("slow answers of the warm-up: %+v", j)
	}
	if j := s.Add(blockAt(60, Pair{Tally{800, 0}, Tally{7200, 7}}, Pair{Tally{800, 8}, Tally{7200, 72}})); j.Outcome != release.Healthy {
		t.Errorf("quick after the warm-up: %s: %s", j.Outcome, j.Reason)
	}
	if j := test.Begin().Add(warm(bad, fine)); j.Outcome != release.Unhealthy {
		t.Errorf("errors of the warm-up: %s: %s", j.Outcome, j.Reason)
	}
	only := Block{Elapsed: time.Minute, WarmUp: true, Pairs: []Pair{{Tally{2000, 0}, Tally{18000, 18}}, {Tally{2000, 0}, Tally{18000, 18}}}}
	if j := test.Begin().Add(only); j.Decided {
		t.Errorf("passed by the latency of its warm-up: %s", j.Reason)
	}
	text, err := json.Marshal(only)
	var again Block
	if err == nil {
		err = json.Unmarshal(text, &again)
	}
	if err != nil || !again.WarmUp {
		t.Errorf("%s: %v", text, err)
	}
}

// TestRelative shows that a relative objective goes by primary alone, whatever the budget, and is not judged while
// primary has no events.
func TestRelative(t *testing.T) {
	test := standard
	test.Objectives = slices.Clone(test.Objectives)
	test.Objectives[1] = Objective{Name: "not found", Budget: 0.001, Margin: 0.05, Relative: true}
	fine := Pair{Tally{1000, 0}, Tally{9000, 9}}
	for name, c := range map[string]struct {
		pair Pair
		want release.VerdictOutcome
	}{
		"both tracks answer a third of the calls with 404": {Pair{Tally{1000, 330}, Tally{9000, 3000}}, release.Healthy},
		"many more than primary":                           {Pair{Tally{1000, 500}, Tally{9000, 3000}}, release.Unhealthy},
		"fewer than primary":                               {Pair{Tally{1000, 10}, Tally{9000, 3000}}, release.Healthy},
		"primary has no events":                            {Pair{Canary: Tally{1000, 900}}, release.Healthy},
	} {
		var blocks []Block
		for i := range 20 {
			blocks = append(blocks, blockAt(float64(15*(i+1)), fine, c.pair))
		}
		if j, _ := test.Judge(blocks); j.Outcome != c.want {
			t.Errorf("%s: %s: %s", name, j.Outcome, j.Reason)
		}
	}
	test.Objectives = test.Objectives[1:]
	if j := test.Begin().Add(blockAt(900, Pair{Canary: Tally{1000, 0}})); j.Outcome != release.Inconclusive {
		t.Errorf("a canary that nothing judges: %s: %s", j.Outcome, j.Reason)
	}
}

// TestExpectation enumerates small blocks. Under every point of a hypothesis the expectation of the evidence
// against it is at most 1, whatever the alternative.
func TestExpectation(t *testing.T) {
	binomial := func(n, k int, p float64) float64 {
		choose, _ := math.Lgamma(float64(n + 1))
		a, _ := math.Lgamma(float64(k + 1))
		b, _ := math.Lgamma(float64(n - k + 1))
		return math.Exp(choose-a-b) * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
	}
	expectation := func(nc, np int, thetaC, thetaP, c, p, margin float64) float64 {
		sum := 0.0
		for bc := range nc + 1 {
			for bp := range np + 1 {
				b := Pair{Tally{float64(nc), float64(bc)}, Tally{float64(np), float64(bp)}}
				sum += binomial(nc, bc, thetaC) * binomial(np, bp, thetaP) * math.Exp(ratio(b, c, p, margin))
			}
		}
		return sum
	}
	grid := []float64{0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.8, 1}
	most := map[float64]float64{}
	for _, size := range [][2]int{{1, 9}, {5, 3}, {12, 30}} {
		for _, thetaC := range grid {
			for _, thetaP := range grid {
				for _, alternative := range [][2]float64{{0.02, 0.001}, {0.2, 0.001}, {0.99, 0.3}, {0.5, 0.4}} {
					if thetaC <= thetaP {
						most[0] = max(most[0], expectation(size[0], size[1], thetaC, thetaP, alternative[0], alternative[1], 0))
					}
				}
				for _, margin := range []float64{0.01, 0.1} {
					for _, alternative := range [][2]float64{{0.001, 0.001}, {0.0005, 0.002}, {0.2, 0.2}, {0.3, 0.6}} {
						if thetaC >= thetaP+margin {
							most[margin] = max(most[margin], expectation(size[0], size[1], thetaC, thetaP, alternative[0], alternative[1], margin))
						}
					}
				}
			}
		}
	}
	// Almost all of primary's events are bad: what is bet must still be that a canary is worse. Bounds are the same.
	for _, guess := range []float64{0.3, 0.985, 0.992, 0.9965} {
		o := Objective{Budget: guess, Margin: 0.01}
		for _, theta := range [][2]float64{{0.3, 0.3}, {0.99, 0.99}, {0.99, 0.9965}, {0.9, 1}} {
			for i := range worseBy {
				sum, alone := 0.0, 0.0
				eachPair(75, 60, theta[0], theta[1], func(p Pair, chance float64) {
					harm, _ := againstPrimary(p, guess, o)
					sum += chance * math.Exp(harm[i])
					if theta[0] <= o.Budget {
						alone += chance * math.Exp(above(o.Budget, o.Margin)[i].log(p.Canary))
					}
				})
				if sum > 1+1e-9 || alone > 1+1e-9 {
					t.Errorf("guess %g, alternative %d: the expectation under %g reaches %g, by the budget %g", guess, i, theta, sum, alone)
				}
			}
		}
	}
	for margin, e := range most {
		if e > 1+1e-9 {
			t.Errorf("margin %g: the expectation reaches %g", margin, e)
		}
		if e < 0.9 {
			t.Errorf("margin %g: the expectation stays at %g: evidence is wasted", margin, e)
		}
	}
}

// draw draws how many of n events are bad. It steps from one bad event to the next.
func draw(rng *rand.Rand, n int, p float64) float64 {
	if p > 0.5 {
		return float64(n) - draw(rng, n, 1-p)
	}
	if p <= 0 {
		return 0
	}
	bad, scale := 0, math.Log1p(-p)
	for at := 0; ; bad++ {
		at += 1 + int(math.Log(1-rng.Float64())/scale)
		if at > n {
			return float64(bad)
		}
	}
}

// TestErrorRates simulates releases at the edges of what is good and bad, with shares that drift. It holds the
// rates of wrong verdicts against what the test promises, and all rates against those of a long simulation, so
// that any wrong formula breaks it. make verdict-bench runs it with more releases.
func TestErrorRates(t *testing.T) {
	releases := max(300, *benchReleases)
	test := standard.availability()
	for i, c := range []struct {
		name               string
		truth              string
		shares             func(look int) (canary, primary float64)
		rolledBack, passed float64 // of 20,000 releases
	}{
		{"as good as primary", "good", func(int) (float64, float64) { return 0.02, 0.02 }, 0.0008, 0.0005},
		{"at the budget", "good", func(int) (float64, float64) { return 0.001, 0.0001 }, 0.0008, 0.9991},
		{"with primary, which drifts", "good", func(look int) (float64, float64) { p := 0.001 + 0.002*float64(look); return p, p }, 0.0018, 0.0770},
		{"in an outage of both tracks", "good", func(look int) (float64, float64) { p := 0.001 + 0.3*float64(look/3%2); return p, p }, 0, 0},
		{"far within the budget", "good", func(int) (float64, float64) { return 0.001, 0.001 }, 0.0001, 0.9999},
		{"worse by the margin", "bad", func(int) (float64, float64) { return 0.02, 0.01 }, 0.8406, 0.0005},
		{"over the budget by the margin", "bad", func(int) (float64, float64) { return 0.011, 0.011 }, 0.0014, 0.0313},
		{"worse by the margin, with a tide", "bad", func(look int) (float64, float64) { p := 0.001 * float64(look%10); return p + 0.01, p }, 0.9647, 0.0092},
		{"far over the budget", "bad", func(int) (float64, float64) { return 0.05, 0.001 }, 1, 0},
		{"quicker than a primary that is slow by design", "good", func(int) (float64, float64) { return 0.985, 0.998 }, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rng, test := rand.New(rand.NewPCG(1, uint64(i))), test
			if strings.Contains(c.name, "slow") {
				test.Objectives = standard.Objectives[1:]
			}
			count := map[release.VerdictOutcome]float64{}
			for range releases {
				s := test.Begin()
				for look := 1; look <= 60; look++ {
					canary, primary := c.shares(look)
					j := s.Add(blockAt(float64(15*look), Pair{Tally{75, draw(rng, 75, canary)}, Tally{675, draw(rng, 675, primary)}}))
					if j.Decided {
						count[j.Outcome]++
						break
					}
				}
			}
			rolledBack, passed := count[release.Unhealthy]/float64(releases), count[release.Healthy]/float64(releases)
			t.Logf("rolled back %.4f, passed %.4f", rolledBack, passed)
			deviation := func(rate float64) float64 { return math.Sqrt(rate * (1 - rate) / float64(releases)) }
			if limit := test.FalseRollback; c.truth == "good" && rolledBack > limit+3*deviation(limit) {
				t.Errorf("%.4f were rolled back, at most %.4f may be", rolledBack, limit)
			}
			if limit := test.FalsePass; c.truth == "bad" && passed > limit+3*deviation(limit) {
				t.Errorf("%.4f passed, at most %.4f may", passed, limit)
			}
			for _, rate := range []struct {
				name      string
				got, want float64
			}{{"rolled back", rolledBack, c.rolledBack}, {"passed", passed, c.passed}} {
				if math.Abs(rate.got-rate.want) > 4*deviation(rate.want)+3/float64(releases) {
					t.Errorf("%s: got %.4f, want about %.4f", rate.name, rate.got, rate.want)
				}
			}
		})
	}
}

// TestBursts shows that events that go bad, or well, in groups of a fixed size weigh as one event, for every
// alternative.
func TestBursts(t *testing.T) {
	one, five := standard.availability(), standard.availability()
	five.Burst = 5
	for _, p := range []Pair{{Tally{40, 0}, Tally{360, 1}}, {Tally{40, 3}, Tally{360, 1}}, {Tally{40, 40}, Tally{360, 0}}} {
		big := Pair{Tally{5 * p.Canary.Events, 5 * p.Canary.Bad}, Tally{5 * p.Primary.Events, 5 * p.Primary.Bad}}
		evidence := func(test Test, p Pair) Evidence {
			s := test.Begin()
			s.Add(blockAt(1, p))
			s.settleAll() // as if it had enough events
			return s.judge().Evidence[0]
		}
		a, b := evidence(one, p), evidence(five, big)
		for _, pair := range [][2]float64{{a.Against, b.Against}, {a.For, b.For}} {
			if math.Abs(pair[0]-pair[1]) > 1e-9 {
				t.Errorf("%v: %g, in groups of five %g", p, pair[0], pair[1])
			}
		}
	}
}

func drawPair(t *rapid.T, label string) Pair {
	tally := func(label string, most int) Tally {
		n := rapid.IntRange(0, most).Draw(t, label)
		return Tally{float64(n), float64(rapid.IntRange(0, n).Draw(t, label+" bad"))}
	}
	return Pair{tally(label+" canary", 200), tally(label+" primary", 1800)}
}

func TestSequentialProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		test := standard.availability()
		var blocks []Block
		for i := range rapid.IntRange(1, 6).Draw(t, "blocks") {
			blocks = append(blocks, blockAt(float64(20*(i+1)), drawPair(t, "")))
		}
		evidence := func(blocks []Block) Evidence {
			s := test.Begin()
			var last Judgment
			for _, b := range blocks {
				last = s.Add(b)
			}
			return last.Evidence[0]
		}
		whole := evidence(blocks)
		if again := evidence(blocks); !reflect.DeepEqual(whole, again) {
			t.Fatalf("the same blocks: %+v, then %+v", whole, again)
		}

		// A block that is cut into two equal halves weighs as much.
		total := Pair{}
		for _, b := range blocks {
			total = total.add(b.Pairs[0])
		}
		half := Pair{Tally{total.Canary.Events / 2, total.Canary.Bad / 2}, Tally{total.Primary.Events / 2, total.Primary.Bad / 2}}
		for _, at := range [][3]float64{{0.02, 0.001, 0}, {0.001, 0.001, 0.01}} {
			if two, one := 2*ratio(half, at[0], at[1], at[2]), ratio(total, at[0], at[1], at[2]); total.Canary.Events > 0 && total.Primary.Events > 0 && math.Abs(two-one) > 1e-6*math.Max(1, math.Abs(one)) {
				t.Fatalf("two halves %g, one %g", two, one)
			}
		}

		// One more bad answer of the canary, in place of a good one, never speaks for it.
		last := len(blocks) - 1
		if p := blocks[last].Pairs[0]; p.Canary.Bad < p.Canary.Events {
			p.Canary.Bad++
			worse := evidence(append(append([]Block{}, blocks[:last]...), blockAt(float64(20*len(blocks)), p)))
			if worse.Against < whole.Against-1e-9 || worse.For > whole.For+1e-9 {
				t.Fatalf("%+v, with one more bad answer %+v", whole, worse)
			}
		}

		// Blocks without events change nothing.
		idle := evidence(append(append([]Block{}, blocks...), blockAt(float64(20*len(blocks)), Pair{})))
		if !reflect.DeepEqual(whole, idle) {
			t.Fatalf("%+v, and after an idle block %+v", whole, idle)
		}
		for _, v := range []float64{whole.Against, whole.For} {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Fatalf("%+v", whole)
			}
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	s := standard.Begin()
	for b.Loop() {
		s.Add(blockAt(15, Pair{Tally{75, 0}, Tally{675, 1}}, Pair{Tally{75, 1}, Tally{675, 3}}))
	}
}

// TestSilentBaseline: while a baseline that the canary is to be compared with has no events, nothing passes, and slow answers, which
// may be those of a cold canary, are held against nobody. Errors over the budget are, as beside a primary that has no events.
func TestSilentBaseline(t *testing.T) {
	test := standard
	test.Objectives = slices.Clone(standard.Objectives)
	test.Objectives[1].Slow = true
	beside := test
	beside.Baseline = true
	for name, c := range map[string]struct {
		errors, slow float64 // of 50 requests in 5 s
		until        float64 // the baseline has events, in seconds
		test         Test
		want         release.VerdictOutcome
		cause        Cause
	}{
		"a good canary":                               {0, 1, 0, beside, release.Inconclusive, NoData},
		"a good canary, beside primary":               {0, 1, 0, test, release.Healthy, ""},
		"a good canary, by its errors alone":          {0, 0, 0, beside.availability(), release.Inconclusive, NoData},
		"a good canary, the baseline crashed":         {0, 1, 10, beside, release.Inconclusive, NoData},
		"a cold canary":                               {0, 40, 0, beside, release.Inconclusive, NoData},
		"a cold canary, beside primary":               {0, 40, 0, test, release.Unhealthy, ""},
		"a canary with errors":                        {10, 1, 0, beside, release.Unhealthy, ""},
		"a canary with errors, the baseline is there": {10, 1, 900, beside, release.Unhealthy, ""},
		"a good canary, the baseline is there":        {0, 1, 900, beside, release.Healthy, ""},
	} {
		s, j := c.test.Begin(), Judgment{}
		for at := 5.0; at <= 900 && !j.Decided; at += 5 {
			primary := Pair{}.Primary
			if at <= c.until {
				primary = Tally{100, 0}
			}
			pairs := []Pair{{Tally{50, c.errors}, primary}, {Tally{50, c.slow}, primary}}
			j = s.Add(blockAt(at, pairs[:len(c.test.Objectives)]...))
		}
		if j.Outcome != c.want || j.Cause != c.cause || c.cause == NoData && !strings.Contains(j.Reason, "the baseline has had no events for ") {
			t.Errorf("%s: %s (%s): %s", name, j.Outcome, j.Cause, j.Reason)
		}
	}
}
