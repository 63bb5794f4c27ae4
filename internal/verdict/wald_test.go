package verdict

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// distance is how far the test is from Wald's over both tracks with both shares known, in canary requests until a decision, and
// what each thing that the test does not know, or must be robust against, adds.
type distance struct {
	Objective    string  `json:"objective"`
	CanaryShare  float64 `json:"canaryShare"`
	PrimaryShare float64 `json:"primaryShare"`
	Truth        string  `json:"truth"`
	WaldRequests float64 `json:"waldRequests"`
	Steps        []step  `json:"steps"`   // each one adds to those before it, at 50 requests a second
	Traffic      []pace  `json:"traffic"` // as it is by default
}

type step struct {
	Name      string  `json:"name"`
	Requests  float64 `json:"requests"` // mean; one that is not decided counts with all it had
	Ratio     float64 `json:"ratio"`    // to Wald's
	Undecided float64 `json:"undecided"`
	Wrong     float64 `json:"wrong"` // share of releases with the wrong verdict; 0 between good and bad
	Releases  int     `json:"releases"`
}

type pace struct {
	RequestsPerSecond float64 `json:"requestsPerSecond"`
	WaldSeconds       float64 `json:"waldSeconds"`
	Seconds           float64 `json:"seconds"`
	Undecided         float64 `json:"undecided"`
}

// The steps. The first one is by itself: what the promise costs a test that knows both shares.
const (
	knownPromise = "either reason, shares known"
	unknown      = "shares unknown"
	eitherReason = "either reason"
	outages      = "outages"
	eachScrape   = "a scrape every 15 s"
	settling     = "samples settle"
	warmingUp    = "warm-up"
	byDefault    = "all by default"
)

// distances are the cells, in the order of the table.
func distances() []distance {
	var all []distance
	for _, share := range []float64{0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 1} {
		all = append(all, distance{Objective: "errors", CanaryShare: share, PrimaryShare: 0.001})
	}
	for _, share := range []float64{0.02, 0.12, 0.2, 0.5, 1} {
		all = append(all, distance{Objective: "slow answers", CanaryShare: share, PrimaryShare: 0.02})
	}
	for i := range all {
		o := all[i].test().Objectives[0]
		switch d := &all[i]; {
		case d.CanaryShare <= max(o.Budget, d.PrimaryShare):
			d.Truth = "good"
		case d.CanaryShare >= min(o.Budget, d.PrimaryShare)+o.Margin:
			d.Truth = "bad"
		default:
			d.Truth = "between"
		}
	}
	return all
}

// test is the default test with the one objective alone.
func (d distance) test() Test {
	t := DefaultSLO().Test()
	for i, o := range t.Objectives {
		if o.Slow == (d.Objective == "slow answers") {
			t.Objectives = t.Objectives[i : i+1]
			break
		}
	}
	return t
}

// mostRequests is after how many requests one that is decided at each request is given up.
const mostRequests = 8000

// pair is one request to the canary, and the nine to primary that come with it.
func (d distance) pair(rng *rand.Rand) Pair {
	return Pair{Tally{1, draw(rng, 1, d.CanaryShare)}, Tally{9, draw(rng, 9, d.PrimaryShare)}}
}

// known is Wald's test over both tracks, against the nearest shares that are good (or bad), by primary or by the budget; or, as
// the promise has it, against the larger hypothesis that has both reasons, which is what a single request is tested against.
func (d distance) known(promise bool, rng *rand.Rand) (requests float64, outcome release.VerdictOutcome) {
	t := d.test()
	o := t.Objectives[0]
	canary, primary := clamp(d.CanaryShare), clamp(d.PrimaryShare)
	upper, lower := math.Log((1-t.FalsePass)/t.FalseRollback), math.Log(t.FalsePass/(1-t.FalseRollback))
	sign, byPrimary, byBudget, byBoth := 1.0, 0.0, newAlternative(canary, o.Budget), func(p Pair) float64 { return ratio(p, canary, primary, o.Budget) }
	if d.Truth == "good" {
		safe := newAlternative(canary, o.Margin)
		sign, byPrimary, byBudget, byBoth = -1, o.Margin, newAlternative(canary, o.Budget+o.Margin), func(p Pair) float64 { return safe.log(p.Canary) }
	}
	against := func(p Pair) float64 { return ratio(p, canary, primary, byPrimary) }
	usual := Pair{Tally{1, canary}, Tally{9, primary}}
	if byBudget.log(usual.Canary) < against(usual) {
		against = func(p Pair) float64 { return byBudget.log(p.Canary) }
	}
	if promise {
		against = byBoth
	}
	sum := 0.0
	for n := 1.0; ; n++ {
		sum += sign * against(d.pair(rng))
		switch {
		case sum >= upper:
			return n, release.Unhealthy
		case sum <= lower:
			return n, release.Healthy
		}
	}
}

// unknownShares gathers evidence against "not above primary" and "above primary by the margin" alone.
func (d distance) unknownShares(rng *rand.Rand) (requests float64, outcome release.VerdictOutcome) {
	t := d.test()
	o := t.Objectives[0]
	worse, safe, g := append(experts{}, worseWeights...), append(experts{}, safeWeights...), guess{budget: o.Budget}
	harm, safety := 0.0, 0.0
	for n := 1.0; n < mostRequests; n++ {
		p := d.pair(rng)
		a, b := againstPrimary(p, g.share(), o)
		harm, safety = harm+worse.mix(a), safety+safe.mix(b)
		switch {
		case harm >= t.harm():
			return n, release.Unhealthy
		case safety >= t.safety():
			return n, release.Healthy
		}
		worse.learn(a, math.Inf(1), forgotten(p))
		safe.learn(b, math.Inf(1), forgotten(p))
		g.add(p.Primary)
	}
	return mostRequests, release.Inconclusive
}

// atEach judges at each request. Without what is kept aside, nothing is left after an outage.
func (d distance) atEach(aside bool, rng *rand.Rand) (requests float64, outcome release.VerdictOutcome) {
	t := d.test()
	t.MinRequests, t.MinDuration, t.MaxDuration = 0, 0, 1<<62
	s := t.Begin()
	if !aside {
		s.streams[0].capital, s.runs[0].each[0], s.runs[0].all = newCapital(0), newCapital(0), newCapital(0)
	}
	for n := 1.0; n < mostRequests; n++ {
		if j := s.Add(blockAt(n, d.pair(rng))); j.Decided {
			return n, j.Outcome
		}
	}
	return mostRequests, release.Inconclusive
}

// conditions are those of a simulated analysis in time.
type conditions struct {
	rate    float64 // requests a second, of the whole app
	settles bool    // looked at every 5 s, when the samples are settled; else at each scrape
	warmUp  bool
	all     bool // beside the objective, all that is judged by default, with the least time and requests
}

// A new series is counted 2 s after its first sample (arrival), at the next look.
const lookEvery = 5.0

// inTime judges an analysis whose scrapes begin at any time in the first 15 s.
func (d distance) inTime(c conditions, rng *rand.Rand) (seconds float64, outcome release.VerdictOutcome) {
	t := d.test()
	shares := [][2]float64{{d.CanaryShare, d.PrimaryShare}}
	if c.all {
		t = DefaultSLO().Test()
		shares = [][2]float64{{0.001, 0.001}, {0.02, 0.02}, {0.002, 0.002}, {0.02, 0.02}, {0, 0}}
		place := 0
		if d.Objective == "slow answers" {
			place = 1
		}
		shares[place] = [2]float64{d.CanaryShare, d.PrimaryShare}
	} else {
		t.MinRequests, t.MinDuration = 0, 0
	}
	w, s := world{Rate: c.rate, Burst: 1}, t.Begin()
	limit, from, seen := t.MaxDuration.Seconds(), 0.0, map[string]bool{}
	add := func(at float64, pairs []Pair) release.VerdictOutcome {
		return s.Add(Block{Elapsed: time.Duration(at * float64(time.Second)), WarmUp: c.warmUp && from < DefaultSLO().WarmUp.Seconds(), Pairs: pairs}).Outcome
	}
	tick := lookEvery
	for at := scrape * (1 - rng.Float64()); at < limit; at += scrape {
		var pairs []Pair
		born := false
		for i, share := range shares {
			p := Pair{w.events(rng, c.rate*canaryWeight, at-from, share[0]), w.events(rng, c.rate*(1-canaryWeight), at-from, share[1])}
			for name, events := range map[string]float64{"all": p.Canary.Events, "canary": p.Canary.Bad, "primary": p.Primary.Bad} {
				if name = fmt.Sprint(i, name); events > 0 && !seen[name] {
					seen[name], born = true, true
				}
			}
			pairs = append(pairs, p)
		}
		look := at
		if c.settles {
			ready := at
			if born {
				ready += arrival.Seconds()
			}
			for ; tick < ready; tick += lookEvery { // nothing new
				if c.all && tick >= t.MinDuration.Seconds() {
					if outcome := add(tick, make([]Pair, len(shares))); outcome != "" {
						return tick, outcome
					}
				}
			}
			look = tick
		}
		if look >= limit {
			break
		}
		if outcome := add(look, pairs); outcome != "" {
			return look, outcome
		}
		if c.settles {
			tick += lookEvery
		}
		from = at
	}
	return limit, release.Inconclusive
}

// measure fills a cell. Its random numbers are its own, and those of each release are the same for all steps.
func (d *distance) measure(number, releases int) {
	type judge func(*rand.Rand) (float64, release.VerdictOutcome)
	mean := func(name string, n int, one judge) (of step) {
		of.Name, of.Releases = name, n
		share := 1 / float64(n)
		for i := range n {
			value, outcome := one(rand.New(rand.NewPCG(uint64(number), uint64(i))))
			of.Requests += value * share
			switch {
			case outcome == release.Inconclusive:
				of.Undecided += share
			case d.Truth == "good" && outcome == release.Unhealthy, d.Truth == "bad" && outcome == release.Healthy:
				of.Wrong += share
			}
		}
		return of
	}
	add := func(name string, n int, perRequest float64, one judge) {
		of := mean(name, n, one)
		of.Requests *= perRequest
		of.Ratio = of.Requests / d.WaldRequests
		d.Steps = append(d.Steps, of)
	}
	each, timed := max(10, releases/20), max(10, releases/10)
	if d.CanaryShare >= 0.2 { // these are quick, and differ by single requests
		each = max(10, releases/2)
	}
	d.WaldRequests = mean("", max(each, timed), func(rng *rand.Rand) (float64, release.VerdictOutcome) { return d.known(false, rng) }).Requests
	add(knownPromise, timed, 1, func(rng *rand.Rand) (float64, release.VerdictOutcome) { return d.known(true, rng) })
	add(unknown, each, 1, d.unknownShares)
	add(eitherReason, each, 1, func(rng *rand.Rand) (float64, release.VerdictOutcome) { return d.atEach(false, rng) })
	add(outages, each, 1, func(rng *rand.Rand) (float64, release.VerdictOutcome) { return d.atEach(true, rng) })
	for _, c := range []struct {
		name string
		conditions
	}{
		{eachScrape, conditions{}}, {settling, conditions{settles: true}},
		{warmingUp, conditions{settles: true, warmUp: true}}, {byDefault, conditions{settles: true, warmUp: true, all: true}},
	} {
		c.rate = 50
		add(c.name, timed, c.rate*canaryWeight, func(rng *rand.Rand) (float64, release.VerdictOutcome) { return d.inTime(c.conditions, rng) })
	}
	for _, rate := range requestRates {
		of := mean("", timed, func(rng *rand.Rand) (float64, release.VerdictOutcome) {
			return d.inTime(conditions{rate: rate, settles: true, warmUp: true, all: true}, rng)
		})
		d.Traffic = append(d.Traffic, pace{rate, d.WaldRequests / (rate * canaryWeight), of.Requests, of.Undecided})
	}
}

func (d distance) step(name string) step {
	for _, one := range d.Steps {
		if one.Name == name {
			return one
		}
	}
	return step{}
}

// farthest is how far from Wald's test a cell of a promise may be, looked at at each request. Certain failure is left out: it
// takes Wald's test two requests.
func (d distance) farthest() float64 {
	if d.Objective == "errors" {
		return 1.5
	}
	return 3 // the budget for slow answers is so large that either reason costs more; see docs/verdict.md
}

// measured are all cells, measured once for TestDistance and for the tables.
var measured = sync.OnceValue(func() []distance {
	all := distances()
	slots := make(chan struct{}, runtime.NumCPU())
	var group sync.WaitGroup
	for i := range all {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			all[i].measure(i, *benchReleases)
		})
	}
	group.Wait()
	return all
})

// TestDistance holds the test to its distance from Wald's, and each step to its promise. The short form is only as exact as its
// few releases are, but its seeds are fixed.
func TestDistance(t *testing.T) {
	slack := 1.3
	if *benchReleases >= 5000 {
		slack = 1
	}
	for _, d := range measured() {
		line := fmt.Sprintf("%-12s %6.3f %-7s wald %6.1f", d.Objective, d.CanaryShare, d.Truth, d.WaldRequests)
		for _, one := range d.Steps {
			line += fmt.Sprintf(" | %s %.2f", one.Name, one.Ratio)
			promised := d.test().FalseRollback
			if d.Truth == "bad" {
				promised = d.test().FalsePass
			}
			if c := (cell{Promised: &promised, Measured: &one.Wrong, Releases: one.Releases}); d.Truth != "between" && c.broken() {
				t.Errorf("%s, %g of the canary's, %s: %.4f wrong verdicts, promised %.4f", d.Objective, d.CanaryShare, one.Name, one.Wrong, promised)
			}
		}
		t.Log(line)
		if got := d.step(outages).Ratio; d.Truth != "between" && d.CanaryShare < 1 && got > slack*d.farthest() {
			t.Errorf("%s, %g of the canary's: %.2f of Wald's requests, want at most %.2f", d.Objective, d.CanaryShare, got, slack*d.farthest())
		}
		if d.Truth == "good" && d.step(outages).Undecided > 0 {
			t.Errorf("%s, %g: good canaries are undecided after %d requests", d.Objective, d.CanaryShare, mostRequests)
		}
	}
}

// costs are the tables of docs/verdict.md.
func costs(all []distance) (steps, traffic string) {
	var b strings.Builder
	columns := []string{knownPromise, unknown, eitherReason, outages, eachScrape, settling, warmingUp, byDefault}
	fmt.Fprintf(&b, "| what is bad | the canary's share | Wald |%s\n|---|---|---|%s\n", cellsOf(columns, func(name string) string { return name }), cellsOf(columns, func(string) string { return "---" }))
	for _, d := range all {
		fmt.Fprintf(&b, "| %s | %g%% (%s) | %.0f |%s\n", d.Objective, 100*d.CanaryShare, d.Truth, d.WaldRequests, cellsOf(columns, func(name string) string {
			text := fmt.Sprintf("%.2f", d.step(name).Ratio)
			if d.step(name).Undecided >= 0.005 {
				text += fmt.Sprintf(", %.0f%% undecided", 100*d.step(name).Undecided)
			}
			return text
		}))
	}
	steps = b.String()
	b.Reset()
	fmt.Fprintf(&b, "| what is bad | the canary's share |%s\n|---|---|%s\n", cellsOf(requestRates, func(r float64) string { return fmt.Sprintf("%g requests/s", r) }), cellsOf(requestRates, func(float64) string { return "---" }))
	for _, d := range all {
		fmt.Fprintf(&b, "| %s | %g%% (%s) |%s\n", d.Objective, 100*d.CanaryShare, d.Truth, cellsOf(d.Traffic, func(p pace) string {
			text := fmt.Sprintf("%.0f s, Wald %.1f s", p.Seconds, p.WaldSeconds)
			if p.Undecided >= 0.005 {
				text += fmt.Sprintf(", %.0f%% undecided", 100*p.Undecided)
			}
			return text
		}))
	}
	return steps, b.String()
}
