package verdict

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// shares are the shares of bad events of both tracks at a second.
type shares func(at float64) (canary, primary float64)

// scene is a release that is good, or bad, at every moment, though not always for the same reason.
type scene struct {
	name       string
	truth      string // good or bad
	objectives []shares
	test       Test
	rate       float64                  // requests a second, of the whole app; 0 is 50
	scrape     float64                  // seconds; 0 is 15
	weight     func(at float64) float64 // nil is canaryWeight
	late       func(at float64) bool    // whether primary's events come with the next ones only; nil is never
	gone       func(at float64) bool    // whether primary has no traffic; nil is never
	group      float64                  // how many events go bad together; 0 is 1
	warmUp     float64                  // seconds
	beside     float64                  // a baseline's weight, whose events count as primary's; 0: primary is what it is compared with
	since      float64                  // when the outage ends, or the fault begins: its times are counted from there
	together   bool                     // all objectives count the same events as the first one
	watch      bool                     // goes on after the canary has passed
	releases   float64                  // part of the releases that are simulated; 0 is all
}

// play judges one release.
func (s scene) play(rng *rand.Rand) end {
	state, waiting := s.test.Begin(), make([]Tally, len(s.objectives))
	last := end{outcome: release.Inconclusive}
	for at := s.scrape; at <= s.test.MaxDuration.Seconds(); at += s.scrape {
		middle, weight := at-s.scrape/2, canaryWeight
		if s.weight != nil {
			weight = s.weight(middle)
		}
		b := Block{Elapsed: time.Duration(at * float64(time.Second)), WarmUp: at <= s.warmUp}
		for i, of := range s.objectives {
			canary, primary := of(middle)
			pair := Pair{Canary: s.events(rng, weight, canary)}
			other := 1 - weight
			if s.beside > 0 {
				other = s.beside
			}
			if s.gone == nil || !s.gone(middle) {
				waiting[i] = waiting[i].add(s.events(rng, other, primary))
			}
			if s.late == nil || !s.late(middle) {
				pair.Primary, waiting[i] = waiting[i], Tally{}
			}
			if s.together && i > 0 {
				pair = b.Pairs[0]
			}
			b.Pairs = append(b.Pairs, pair)
		}
		j := state.Add(b)
		if !j.Decided {
			continue
		}
		last = end{j.Outcome, at, j.Evidence[0].Total.Canary.Events}
		if !s.watch || j.Outcome == release.Unhealthy {
			return last
		}
	}
	return last
}

// events draws what a track is sent between two scrapes.
func (s scene) events(rng *rand.Rand, weight, share float64) Tally {
	groups := math.Round(s.rate * s.scrape * weight / s.group)
	return Tally{s.group * groups, s.group * draw(rng, int(groups), share)}
}

func both(share func(float64) float64) shares {
	return func(at float64) (float64, float64) { return share(at), share(at) }
}

func steady(canary, primary float64) shares {
	return func(float64) (float64, float64) { return canary, primary }
}

// during is one thing for a while, and another before and after.
func during(from, to float64, inside, outside shares) shares {
	return func(at float64) (float64, float64) {
		if at >= from && at < to {
			return inside(at)
		}
		return outside(at)
	}
}

// inTurns is one thing and another, for so many seconds each.
func inTurns(seconds float64, all ...shares) shares {
	return func(at float64) (float64, float64) { return all[int(at/seconds)%len(all)](at) }
}

// scenes are what the two rates are held against, beside steady releases.
func scenes() []scene {
	one, two := DefaultSLO().Test(), DefaultSLO().Test()
	one.Objectives, two.Objectives = one.Objectives[:1], two.Objectives[:2]
	slow := one
	slow.Objectives = two.Objectives[1:]
	grouped := func(n float64) Test { t := one; t.Burst = n; return t }
	lasting := func(t Test, d time.Duration) Test { t.MaxDuration = d; return t }
	baked := lasting(one, 30*time.Minute)
	baked.Whole, baked.Alone = true, true
	relative := one
	relative.Objectives = []Objective{{Name: "not found", Budget: 0.001, Margin: 0.05, Relative: true}}
	warm := two
	same, hung := one, one
	same.Objectives, hung.Objectives = nil, nil
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		same.Objectives = append(same.Objectives, Objective{Name: name, Budget: 0.001, Margin: 0.01})
	}
	hung.Objectives = same.Objectives[:2]
	level := steady(0.01, 0.01)

	fine, fineLatency := steady(0.001, 0.001), steady(0.02, 0.02)
	outage := steady(0.2, 0.2)
	usual := []shares{fine, fineLatency, steady(0.002, 0.002), steady(0.02, 0.02), steady(0, 0)}
	storm := []shares{fine, fineLatency, steady(0.002, 0.002), steady(0.072, 0.02), steady(0, 0)}
	byBudget := steady(0.045, 0.01)     // slow answers: above primary, within the budget
	byPrimary := steady(0.4, 0.4)       // slow answers: above the budget, not above primary
	badByPrimary := steady(0.062, 0.01) // above primary by the margin, not above the budget by it
	badByBudget := steady(0.11, 0.3)    // above the budget by the margin, below primary
	rising := both(func(at float64) float64 { return 0.001 + 0.0001*at })
	var all []scene
	for _, rate := range []float64{50, 300} {
		for _, share := range []float64{0.05, 0.3} {
			for _, from := range []float64{0, 30, 60} {
				all = append(all, scene{name: fmt.Sprintf("both tracks at %g%% for 60 s, from %g s", 100*share, from), truth: "good", test: one, rate: rate, scrape: 5, since: from + 60,
					objectives: []shares{during(from, from+60, steady(share, share), fine)}})
			}
		}
	}
	return append(all,
		scene{name: "slow: within the budget, an outage that both share for 60 s, within the budget", truth: "good", test: slow, objectives: []shares{during(60, 120, byPrimary, byBudget)}},
		scene{name: "the same, at 500 requests/s", truth: "good", test: slow, rate: 500, objectives: []shares{during(60, 120, byPrimary, byBudget)}},
		scene{name: "slow: an outage that both share, then within the budget", truth: "good", test: slow, objectives: []shares{during(0, 60, byPrimary, byBudget)}},
		scene{name: "slow: within the budget, then an outage without end", truth: "good", test: slow, objectives: []shares{during(300, 900, byPrimary, byBudget)}},
		scene{name: "slow: by the budget and by primary in turns", truth: "good", test: slow, objectives: []shares{inTurns(15, byBudget, byPrimary)}},
		scene{name: "errors: by the budget and by primary in turns", truth: "good", test: one, rate: 500, objectives: []shares{inTurns(15, steady(0.001, 0), steady(0.01, 0.01))}},
		scene{name: "both objectives, good for opposite reasons", truth: "good", test: two, objectives: []shares{inTurns(30, steady(0.001, 0), outage), inTurns(30, byPrimary, byBudget)}},
		scene{name: "errors of both tracks rise to 9% in 15 min", truth: "good", test: one, objectives: []shares{rising}},
		scene{name: "the weight goes from 10% to 50% to 5%, errors with it", truth: "good", test: one, objectives: []shares{inTurns(60, steady(0.03, 0.03), outage, fine)},
			weight: func(at float64) float64 { return []float64{0.1, 0.5, 0.05}[int(at/60)%3] }},
		scene{name: "slow: bad by primary and by the budget in turns", truth: "bad", test: slow, objectives: []shares{inTurns(15, badByPrimary, badByBudget)}},
		scene{name: "slow: bad by primary, then by the budget", truth: "bad", test: slow, objectives: []shares{during(120, 900, badByBudget, badByPrimary)}},
		scene{name: "slow: bad by primary and by the budget in turns of 5 s", truth: "bad", test: slow, scrape: 5, objectives: []shares{inTurns(5, badByPrimary, badByBudget)}},
		scene{name: "slow: the same in turns of 15 s, 20 requests/s", truth: "bad", test: slow, rate: 20, scrape: 5, objectives: []shares{inTurns(15, badByPrimary, badByBudget)}},
		scene{name: "bad by one objective and by the other in turns of 5 s", truth: "bad", test: two, scrape: 5, objectives: []shares{inTurns(5, steady(0.012, 0.001), fine), inTurns(5, fineLatency, steady(0.11, 0.02))}},
		scene{name: "bad by one objective and by the other in turns", truth: "bad", test: two, objectives: []shares{inTurns(15, steady(0.012, 0.001), fine), inTurns(15, fineLatency, steady(0.11, 0.02))}},
		scene{name: "bad by one objective, then by the other", truth: "bad", test: two, objectives: []shares{during(0, 60, steady(0.012, 0.001), fine), during(60, 900, steady(0.11, 0.02), fineLatency)}},
		scene{name: "worse by the margin, an outage that both share for 60 s", truth: "bad", test: one, objectives: []shares{during(30, 90, outage, steady(0.0112, 0.001))}},
		scene{name: "worse by the margin, with a tide", truth: "bad", test: one, objectives: []shares{func(at float64) (float64, float64) { p := 0.001 * float64(int(at/15)%10); return p + 0.0101, p }}},
		scene{name: "two objectives, both fine", truth: "good", test: two, objectives: []shares{fine, fineLatency}},
		scene{name: "two objectives, slow by the margin", truth: "bad", test: two, objectives: []shares{fine, steady(0.1, 0.02)}},
		scene{name: "half of the answers slow for the first 15 s, with a warm-up of 30 s", truth: "good", test: warm, scrape: 5, warmUp: 30, objectives: []shares{fine, during(0, 15, steady(0.5, 0.02), fineLatency)}},
		scene{name: "slow after the warm-up", truth: "bad", test: warm, scrape: 5, warmUp: 30, objectives: []shares{fine, during(0, 30, fineLatency, steady(0.105, 0.02))}},
		scene{name: "beside a baseline of 10%: half of both's answers slow for the first 20 s, no warm-up", truth: "good", test: warm, scrape: 5, beside: 0.1, objectives: []shares{fine, during(0, 20, steady(0.5, 0.5), fineLatency)}},
		scene{name: "beside a baseline of 10%: the same, and the canary stays slow by the margin", truth: "bad", test: warm, scrape: 5, beside: 0.1, objectives: []shares{fine, during(0, 20, steady(0.56, 0.5), steady(0.105, 0.02))}},
		scene{name: "errors in groups of 5, burst: 5", truth: "good", test: grouped(5), group: 5, objectives: []shares{fine}},
		scene{name: "errors in groups of 20, burst: 20", truth: "good", test: grouped(20), rate: 500, group: 20, objectives: []shares{fine}},
		scene{name: "errors in groups of 5, burst: 5, 1.2%", truth: "bad", test: grouped(5), group: 5, objectives: []shares{steady(0.012, 0.001)}},
		scene{name: "an outage that both share, primary's counters a scrape late", truth: "good", test: one, objectives: []shares{steady(0.05, 0.05)}, late: func(at float64) bool { return at < 15 }},
		scene{name: "the same, 45 s late, again and again", truth: "good", test: one, objectives: []shares{steady(0.05, 0.05)}, late: func(at float64) bool { return int(at/15)%4 != 3 }},
		scene{name: "primary without traffic for minutes, canary within the budget", truth: "good", test: one, objectives: []shares{fine}, gone: func(at float64) bool { return at < 120 || at > 300 && at < 420 }},
		scene{name: "primary without traffic from 60 s on, canary over the budget", truth: "bad", test: one, objectives: []shares{steady(0.0112, 0.001)}, gone: func(at float64) bool { return at > 60 }},
		scene{name: "404: both tracks a third", truth: "good", test: relative, objectives: []shares{steady(0.33, 0.33)}},
		scene{name: "404: a third, and of the canary 5.2 points more", truth: "bad", test: relative, objectives: []shares{steady(0.382, 0.33)}},
		scene{name: "all that is judged by default, usual", truth: "good", test: DefaultSLO().Test(), objectives: usual},
		scene{name: "the same, at 20 requests/s", truth: "good", test: DefaultSLO().Test(), rate: 20, scrape: 5, objectives: usual},
		scene{name: "five objectives at primary's rate, bad together", truth: "good", test: same, together: true, objectives: []shares{level, level, level, level, level}},
		scene{name: "five objectives at primary's rate, each by itself", truth: "good", test: same, objectives: []shares{level, level, level, level, level}},
		scene{name: "errors that are slow as well, 2 points of both", truth: "bad", test: hung, together: true, objectives: []shares{steady(0.021, 0.001), fine}},
		scene{name: "all that is judged by default, 5.2 points more 404s", truth: "bad", test: DefaultSLO().Test(), objectives: storm},
		scene{name: "bake of 30 min, good", truth: "good", test: baked, objectives: []shares{fine}, watch: true},
		scene{name: "bake of 30 min, 2% errors in the last 5", truth: "bad", test: baked, since: 1500, objectives: []shares{during(1500, 1800, steady(0.02, 0), fine)}},
		scene{name: "bake of 30 min, 1.1% errors in the last 5", truth: "bad", test: baked, since: 1500, objectives: []shares{during(1500, 1800, steady(0.0112, 0), fine)}},
		scene{name: "watch of 2 h, good", truth: "good", test: lasting(one, 2*time.Hour), watch: true, objectives: []shares{fine}},
		scene{name: "watch of 2 h, an outage that both share every 10 min", truth: "good", test: lasting(one, 2*time.Hour), watch: true, objectives: []shares{inTurns(60, fine, fine, fine, steady(0.001, 0), fine, fine, fine, fine, fine, outage)}},
		scene{name: "watch of 24 h, at primary's rate, above the budget", truth: "good", test: lasting(one, 24*time.Hour), watch: true, scrape: 60, releases: 0.1, objectives: []shares{steady(0.005, 0.005)}},
		scene{name: "watch of 24 h, at the budget, above primary", truth: "good", test: lasting(one, 24*time.Hour), watch: true, scrape: 60, releases: 0.1, objectives: []shares{steady(0.001, 0)}},
		scene{name: "watch: 2% errors after 1 h", truth: "bad", test: lasting(one, 2*time.Hour), watch: true, since: 3600, releases: 0.2, objectives: []shares{during(3600, 7200, steady(0.02, 0.001), fine)}},
		scene{name: "watch: 5% errors after 1 h", truth: "bad", test: lasting(one, 2*time.Hour), watch: true, since: 3600, releases: 0.2, objectives: []shares{during(3600, 7200, steady(0.05, 0.001), fine)}},
	)
}

// cellOf plays a scene many times.
func cellOf(s scene, releases int) cell {
	if s.rate == 0 {
		s.rate = 50
	}
	if s.scrape == 0 {
		s.scrape = scrape
	}
	if s.group == 0 {
		s.group = 1
	}
	if s.releases > 0 {
		releases = max(1, int(s.releases*float64(releases)))
	}
	w := world{Scenario: s.name, Rate: s.rate, Canary: func(at float64) float64 { c, _ := s.objectives[0](at); return c }, Primary: func(at float64) float64 { _, p := s.objectives[0](at); return p }}
	c := simulate(w, method{"Crossbill", func(_ world, rng *rand.Rand) end {
		e := s.play(rng)
		e.seconds -= s.since
		return e
	}}, s.test, releases)
	c.Truth, c.FalseRollback, c.FalsePass, c.Since, c.scene = s.truth, 0, 0, s.since, true
	return c.promise(s.test)
}

// promise says what the cell's rate must not exceed.
func (c cell) promise(t Test) cell {
	promised, measured := t.FalseRollback, c.RolledBack
	switch c.Truth {
	case "good":
		c.FalseRollback = c.RolledBack
	case "bad":
		promised, measured = t.FalsePass, c.Passed
		c.FalsePass = c.Passed
	default:
		return c
	}
	atMost := upper(measured, c.Releases)
	c.Promised, c.Measured, c.AtMost = &promised, &measured, &atMost
	return c
}

// upper is the upper bound of a rate of which so much was measured, at a confidence of 95% (Clopper and Pearson, 1934).
func upper(measured float64, releases int) float64 {
	low, high := measured, 1.0
	for range 60 {
		rate := (low + high) / 2
		if atMost(math.Round(measured*float64(releases)), float64(releases), rate) > 0.05 {
			low = rate
		} else {
			high = rate
		}
	}
	return high
}

// atMost is the probability of at most k of n, by the binomial distribution.
func atMost(k, n, rate float64) float64 {
	sum := 0.0
	for i := 0.0; i <= k; i++ {
		sum += binomial(i, n, rate)
	}
	return sum
}

// binomial is the probability of k of n.
func binomial(k, n, rate float64) float64 {
	logGamma := func(x float64) float64 { v, _ := math.Lgamma(x); return v }
	return math.Exp(logGamma(n+1) - logGamma(k+1) - logGamma(n-k+1) + k*math.Log(rate) + (n-k)*math.Log1p(-rate))
}

// broken says that so many wrong verdicts have a probability below 0.001 if the promise is kept, by the exact
// binomial distribution.
func (c cell) broken() bool {
	if c.Promised == nil {
		return false
	}
	n, wrong := float64(c.Releases), math.Round(*c.Measured*float64(c.Releases))
	tail := 0.0
	for k := wrong; k <= n && (tail == 0 || k < wrong+1000); k++ {
		tail += binomial(k, n, *c.Promised)
	}
	return wrong > 0 && tail < 0.001
}

// TestUpper holds the bound against values of the F distribution's tables: 3 of n without an event is the rule of three.
func TestUpper(t *testing.T) {
	for _, c := range []struct{ measured, want float64 }{{0, 0.0002995}, {0.0003, 0.0007752}, {0.01, 0.0118}, {0.05, 0.0537}} {
		if got := upper(c.measured, 10000); math.Abs(got-c.want) > 0.01*c.want {
			t.Errorf("%g of 10000: at most %g, want %g", c.measured, got, c.want)
		}
	}
}
