package verdict

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Objective is what one service level indicator is held to. An event is bad (an error, a slow answer) with
// a probability that neither track's owner knows.
type Objective struct {
	Name   string  `json:"name"`
	Budget float64 `json:"budget"` // the share of bad events that is in order, from 0 to 1: 1 - the objective
	Margin float64 `json:"margin"` // by how much more, as a share, the canary is bad for certain
}

// Test decides about a canary from two streams of events, its own and primary's of the same time, as early
// as they allow.
//
// A canary is good when, for each objective, its share of bad events is within the budget or not above
// primary's. It is rolled back with a probability of at most FalseRollback, however long and often one
// looks. A canary is bad when, for some objective, its share is above primary's, or above the budget, by
// the margin or more. It passes with a probability of at most FalsePass. What lies between is decided
// either way, or not at all before MaxDuration.
//
// Both hold when events are independent of each other given the shares, which may change from block to
// block as long as the canary stays good, or bad, all the while. Errors that come in bursts of n events
// bend them: Burst = n restores them.
//
// The method is that of e-processes: for each of the four hypotheses "not above primary", "within the
// budget", "above primary by the margin", "above the budget by the margin", evidence against it is a product
// of likelihood ratios whose expectation under the hypothesis is at most 1, so by Ville's inequality it
// ever reaches 1/α with a probability of at most α (Ramdas, Grünwald, Vovk, Shafer: Game-theoretic
// statistics and safe anytime-valid inference, Statistical Science 2023). The ratios for two streams are those of Turner,
// Ly, Grünwald: Generic E-variables for exact sequential k-sample tests that allow for optional stopping
// (2024): see ratio. Unhealthy needs evidence against both of the first two hypotheses, so neither costs
// the other anything; over objectives α is divided (Bonferroni). Healthy needs evidence against both of the
// others for every objective, which divides nothing.
type Test struct {
	FalseRollback float64       `json:"falseRollback"` // α, from 0 to 1
	FalsePass     float64       `json:"falsePass"`     // β, from 0 to 1
	Burst         float64       `json:"burst"`         // how many events go bad together, at least 1
	MinRequests   float64       `json:"minRequests"`   // the canary's, below which nothing passes
	MinDuration   time.Duration `json:"minDuration"`   // before which nothing passes
	MaxDuration   time.Duration `json:"maxDuration"`   // after which what is not decided is inconclusive
	Whole         bool          `json:"whole"`         // watch for all of MaxDuration before it passes
	Objectives    []Objective   `json:"objectives"`
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

func (t Tally) add(u Tally) Tally { return Tally{t.Events + u.Events, t.Bad + u.Bad} }

// Pair is the events of both tracks in the same span of time. As JSON it is a list of four numbers, for a
// ledger keeps many: the canary's events and how many are bad, then primary's.
type Pair struct{ Canary, Primary Tally }

// MarshalJSON writes the four numbers.
func (p Pair) MarshalJSON() ([]byte, error) {
	return json.Marshal([]float64{p.Canary.Events, p.Canary.Bad, p.Primary.Events, p.Primary.Bad})
}

// UnmarshalJSON reads the four numbers, and refuses what cannot have been counted.
func (p *Pair) UnmarshalJSON(text []byte) error {
	var n []float64
	if err := json.Unmarshal(text, &n); err != nil {
		return err
	}
	if len(n) != 4 || n[1] < 0 || n[1] > n[0] || n[3] < 0 || n[3] > n[2] {
		return fmt.Errorf("%v is not events and bad ones of two tracks", n)
	}
	*p = Pair{Tally{n[0], n[1]}, Tally{n[2], n[3]}}
	return nil
}

// Block is what was counted between two looks, a pair for each objective.
type Block struct {
	Elapsed time.Duration `json:"elapsed"` // since the first look, at the block's end
	Pairs   []Pair        `json:"pairs"`
}

// Evidence is what there is to say about one objective: natural logarithms of the e-processes. One that
// reaches Harm or Safety, the logarithms of 1/α and 1/β, has rejected its hypothesis.
type Evidence struct {
	Objective string  `json:"objective"`
	Total     Pair    `json:"total"`     // all events so far
	Worse     float64 `json:"worse"`     // against: the canary is not worse than primary
	Over      float64 `json:"over"`      // against: the canary is within the budget
	NotWorse  float64 `json:"notWorse"`  // against: the canary is worse than primary by the margin
	Within    float64 `json:"within"`    // against: the canary is over the budget by the margin
	Harm      float64 `json:"harm"`      // what Worse and Over need
	Safety    float64 `json:"safety"`    // what NotWorse and Within need
	Alone     bool    `json:"alone"`     // primary had no events: judged by the budget alone
	Outage    bool    `json:"outage"`    // primary itself has left the budget, by the evidence of its own events
	Unhealthy bool    `json:"unhealthy"` // both harms are shown
	Healthy   bool    `json:"healthy"`   // both safeties are shown
}

// Cause names why there is no verdict.
type Cause string

// The causes of an inconclusive verdict.
const (
	NoTraffic      Cause = "no_traffic"      // nobody called the canary
	NoData         Cause = "no_data"         // an objective had no events while there was traffic
	ThinTraffic    Cause = "thin_traffic"    // too few events for a decision in time
	SharedOutage   Cause = "shared_outage"   // primary misses the objective as well
	Undecided      Cause = "undecided"       // neither good nor bad by the margin
	Stale          Cause = "stale"           // scraping has stopped
	NotANumber     Cause = "nan"             // Prometheus had NaN
	MissingLabels  Cause = "missing_labels"  // counters are there, but not by workload
	PrometheusDown Cause = "prometheus_down" // no answer
	CountGap       Cause = "count_gap"       // the canary has not seen what was sent to it
	Drift          Cause = "drift"           // somebody else has changed the release meanwhile
)

// Judgement is where a test is after a block.
type Judgement struct {
	Decided  bool                   `json:"decided"`
	Outcome  release.VerdictOutcome `json:"outcome,omitempty"` // when it is decided
	Cause    Cause                  `json:"cause,omitempty"`   // of an inconclusive one
	Reason   string                 `json:"reason"`
	Evidence []Evidence             `json:"evidence"`
	// Left is about how long a healthy verdict takes from here at the present rates; 0 is not known.
	Left time.Duration `json:"left,omitempty"`
}

// State is a test under way. It is made by [Test.Begin] and grows by Add; the same blocks make the same
// judgements.
type State struct {
	test    Test
	elapsed time.Duration
	streams []stream
}

// stream is one objective's evidence so far.
type stream struct {
	total           Pair
	worse, notWorse bets
}

// bets is the evidence against one hypothesis as capital that began as 1: logarithms of what lies on each
// alternative, and of what is kept aside. Before each block a part of that goes to the alternatives
// again: a block for which all of them were wrong, such as the first of an outage, does not end the game
// (fixed share, after Herbster and Warmuth: Tracking the best expert, 1998).
type bets struct {
	aside float64
	on    []float64
}

const (
	keptAside = 0.2  // of the capital, at the beginning
	putBack   = 0.25 // of what is aside, before each block
)

func newBets(weights []float64) bets {
	b := bets{aside: math.Log(keptAside), on: make([]float64, len(weights))}
	for i, w := range weights {
		b.on[i] = math.Log(w * (1 - keptAside))
	}
	return b
}

// settle pays a block out: log is the logarithm of each alternative's e-variable.
func (b *bets) settle(weights, logs []float64) {
	moved := b.aside + math.Log(putBack)
	b.aside += math.Log(1 - putBack)
	for i, log := range logs {
		b.on[i] = logSum(b.on[i], moved+math.Log(weights[i])) + log
	}
}

// capital is the logarithm of all of it.
func (b bets) capital() float64 { return logSum(append([]float64{b.aside}, b.on...)...) }

// Begin starts a test.
func (t Test) Begin() *State {
	s := &State{test: t, streams: make([]stream, len(t.Objectives))}
	for i := range s.streams {
		s.streams[i].worse, s.streams[i].notWorse = newBets(worseWeights), newBets(safeWeights)
	}
	return s
}

// Add takes in a block and judges.
func (s *State) Add(b Block) Judgement {
	s.elapsed = b.Elapsed
	for i := range s.streams {
		s.streams[i].add(b.Pairs[i], s.test.Objectives[i], s.test.burst())
	}
	return s.judge()
}

// Judge replays blocks up to the first decision.
func (t Test) Judge(blocks []Block) (last Judgement, used int) {
	s := t.Begin()
	for i, b := range blocks {
		if last = s.Add(b); last.Decided {
			return last, i + 1
		}
	}
	return last, len(blocks)
}

// The alternatives that the evidence is weighed for. Their weights add up to 1.
var (
	worseBy      = []float64{0, 0.25, 0.5, 0.75, 1} // places between primary + margin and certain failure, in log-odds
	worseWeights = []float64{0.2, 0.2, 0.2, 0.2, 0.2}
	safeAt       = []struct{ of, plus float64 }{{1, 0}, {1, 0.25}, {0.25, 0}} // shares of primary's, and of the margin
	safeWeights  = []float64{0.6, 0.2, 0.2}
)

// priorEvents is how many events the budget counts for in the first guess of primary's share.
const priorEvents = 50

// add weighs a block. What the canary may be under each alternative is guessed from earlier blocks only:
// what a block itself says must not choose the bet on it.
func (s *stream) add(p Pair, o Objective, burst float64) {
	primary := (s.total.Primary.Bad + o.Budget*priorEvents) / (s.total.Primary.Events + priorEvents)
	primary = clamp(primary)
	if p.Primary.Events > 0 && p.Canary.Events > 0 {
		logs := make([]float64, 0, len(worseBy))
		for _, place := range worseBy {
			logs = append(logs, ratio(p, clamp(between(primary+o.Margin, place)), primary, 0)/burst)
		}
		s.worse.settle(worseWeights, logs)
		logs = logs[:0]
		for _, at := range safeAt {
			logs = append(logs, ratio(p, clamp(at.of*primary+at.plus*o.Margin), primary, o.Margin)/burst)
		}
		s.notWorse.settle(safeWeights, logs)
	}
	s.total.Canary, s.total.Primary = s.total.Canary.add(p.Canary), s.total.Primary.add(p.Primary)
}

// between is a share that lies between low and almost 1, linearly in log-odds.
func between(low, place float64) float64 {
	low = math.Min(low, certain)
	logit := func(p float64) float64 { return math.Log(p / (1 - p)) }
	return 1 / (1 + math.Exp(-(logit(low) + place*(logit(certain)-logit(low)))))
}

const certain = 0.99

func clamp(p float64) float64 { return math.Min(math.Max(p, 1e-6), 1-1e-6) }

// ratio is the logarithm of an e-variable of a block. With margin 0 it is against the hypothesis
// θc ≤ θp, for an alternative (c, p) with c > p; with a margin above 0 against θc ≥ θp + margin, for one
// with c < p + margin.
//
// It is the likelihood ratio of (c, p) and that point θ° of the hypothesis which is nearest to it by
// nc·KL(c‖θc) + np·KL(p‖θp). Under any θ the logarithm of its expectation is nc·ln A(θc) + np·ln B(θp) with A
// and B linear: concave, 0 at θ°, and its gradient there is minus that of the divergence. The hypothesis
// is convex and θ° its nearest point, so that logarithm is at most 0 on all of it. (Turner, Grünwald:
// Exact anytime-valid confidence intervals for contingency tables and beyond, 2023.)
func ratio(b Pair, c, p, margin float64) float64 {
	nc, np := b.Canary.Events, b.Primary.Events
	var c0, p0 float64
	if margin == 0 {
		p0 = (nc*c + np*p) / (nc + np)
		c0 = p0
	} else {
		p0 = nearest(nc, np, c, p, margin)
		c0 = p0 + margin
	}
	return logRatio(b.Canary, c, c0) + logRatio(b.Primary, p, p0)
}

// nearest is the θp at which nc·KL(c‖θp+margin) + np·KL(p‖θp) is least: its derivative rises, and is
// positive at p.
func nearest(nc, np, c, p, margin float64) float64 {
	slope := func(t float64) float64 {
		u := t + margin
		return nc*(u-c)/(u*(1-u)) + np*(t-p)/(t*(1-t))
	}
	low, high := 1e-12, math.Min(p, 1-margin-1e-9)
	for range 60 {
		middle := (low + high) / 2
		if slope(middle) > 0 {
			high = middle
		} else {
			low = middle
		}
	}
	return (low + high) / 2
}

// logRatio is the logarithm of the likelihood ratio of two shares.
func logRatio(t Tally, share, null float64) float64 {
	return t.Bad*math.Log(share/null) + (t.Events-t.Bad)*math.Log((1-share)/(1-null))
}

// over is the logarithm of the evidence that a tally's share is above a bound.
func over(t Tally, bound, margin, burst float64) float64 {
	bound = clamp(bound)
	logs := make([]float64, len(worseBy))
	for i, place := range worseBy {
		logs[i] = math.Log(worseWeights[i]) + logRatio(t, clamp(between(bound+margin, place)), bound)/burst
	}
	return logSum(logs...)
}

// within is the logarithm of the evidence that a tally's share is below budget + margin.
func within(t Tally, o Objective, burst float64) float64 {
	bound := clamp(o.Budget + o.Margin)
	logs := make([]float64, len(safeAt))
	for i, at := range safeAt {
		logs[i] = math.Log(safeWeights[i]) + logRatio(t, clamp(at.of*o.Budget+at.plus*o.Margin), bound)/burst
	}
	return logSum(logs...)
}

// logSum is the logarithm of the sum of e to the logs.
func logSum(logs ...float64) float64 {
	most := math.Inf(-1)
	for _, l := range logs {
		most = math.Max(most, l)
	}
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(l - most)
	}
	return most + math.Log(sum)
}

// burst is by what the logarithm of each alternative's e-variable is divided. That keeps it one (Jensen's
// inequality), and makes it one again when events go bad so many at a time: a block of n such events then
// weighs as one. Each alternative is divided, not their mixture, whose root would be too large.
func (t Test) burst() float64 { return math.Max(1, t.Burst) }

// evidence is what a stream has come to.
func (s *State) evidence(i int) Evidence {
	o, st := s.test.Objectives[i], s.streams[i]
	burst := s.test.burst()
	e := Evidence{
		Objective: o.Name, Total: st.total,
		Harm: math.Log(float64(len(s.test.Objectives)) / s.test.FalseRollback), Safety: math.Log(1 / s.test.FalsePass),
		Over: over(st.total.Canary, o.Budget, o.Margin, burst), Within: within(st.total.Canary, o, burst),
		Worse: st.worse.capital(), NotWorse: st.notWorse.capital(),
		Alone: st.total.Primary.Events == 0,
	}
	e.Outage = over(st.total.Primary, o.Budget+o.Margin, o.Margin, burst) >= e.Harm
	e.Unhealthy = e.Over >= e.Harm && (e.Alone || e.Worse >= e.Harm)
	e.Healthy = e.Within >= e.Safety && (e.Alone || e.NotWorse >= e.Safety)
	return e
}

func (s *State) judge() Judgement {
	j := Judgement{}
	healthy := true
	requests := 0.0
	for i := range s.streams {
		e := s.evidence(i)
		j.Evidence = append(j.Evidence, e)
		requests = math.Max(requests, e.Total.Canary.Events)
		healthy = healthy && e.Healthy
		if e.Unhealthy && !j.Decided {
			j.Decided, j.Outcome, j.Reason = true, release.Unhealthy, e.harm()
		}
	}
	if j.Decided {
		return j
	}
	over := s.elapsed >= s.test.MaxDuration
	if healthy && requests >= s.test.MinRequests && s.elapsed >= s.test.MinDuration && (over || !s.test.Whole) {
		j.Decided, j.Outcome, j.Reason = true, release.Healthy, healthReason(j.Evidence)
		return j
	}
	j.Left = s.left(j.Evidence, requests)
	j.Cause, j.Reason = s.cause(j.Evidence, requests)
	if over {
		j.Decided, j.Outcome = true, release.Inconclusive
	}
	return j
}

func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

// odds is evidence as people say it.
func odds(log float64) string {
	if log > math.Log(1e6) {
		return "over 1,000,000 to 1"
	}
	return fmt.Sprintf("%.0f to 1", math.Exp(log))
}

func (e Evidence) harm() string {
	c := e.Total.Canary
	text := fmt.Sprintf("%s: %.0f of the canary's %.0f events are bad (%s)", e.Objective, c.Bad, c.Events, percent(c.Share()))
	if e.Alone {
		return fmt.Sprintf("%s: over the objective's budget by evidence of %s, %s needed; primary had no events to compare with", text, odds(e.Over), odds(e.Harm))
	}
	return fmt.Sprintf("%s, %s of primary's %.0f: worse than primary and over the budget by evidence of %s, %s needed",
		text, percent(e.Total.Primary.Share()), e.Total.Primary.Events, odds(math.Min(e.Worse, e.Over)), odds(e.Harm))
}

func healthReason(all []Evidence) string {
	text := ""
	for i, e := range all {
		if i > 0 {
			text += "; "
		}
		text += fmt.Sprintf("%s: %s of the canary's %.0f events are good", e.Objective, percent(1-e.Total.Canary.Share()), e.Total.Canary.Events)
		if e.Alone {
			text += " (primary had none to compare with)"
		} else {
			text += fmt.Sprintf(", %s of primary's %.0f", percent(1-e.Total.Primary.Share()), e.Total.Primary.Events)
		}
	}
	return text
}

// cause says why there is no decision yet, by what would have to change first.
func (s *State) cause(all []Evidence, requests float64) (Cause, string) {
	if requests == 0 {
		return NoTraffic, "no request reached the canary"
	}
	for _, e := range all {
		if e.Total.Canary.Events == 0 {
			return NoData, fmt.Sprintf("%s: the canary has no events, though it was called", e.Objective)
		}
	}
	for _, e := range all {
		if e.Outage && !e.Healthy {
			return SharedOutage, fmt.Sprintf("%s: primary misses the objective too (%s of its events are bad, %s of the canary's): not the canary's fault, and no time to pass it", e.Objective, percent(e.Total.Primary.Share()), percent(e.Total.Canary.Share()))
		}
	}
	worst, least := Evidence{}, math.Inf(1)
	for _, e := range all {
		if share := e.safety() / e.Safety; !e.Healthy && share < least {
			worst, least = e, share
		}
	}
	c := worst.Total.Canary
	switch {
	case worst.Objective == "":
		return ThinTraffic, fmt.Sprintf("%.0f requests in %s, at least %.0f in %s are asked for", requests, s.elapsed.Round(time.Second), s.test.MinRequests, s.test.MinDuration)
	case worst.safety() <= 0:
		return Undecided, fmt.Sprintf("%s: %.0f of the canary's %.0f events are bad (%s, primary %s), which neither shows it good nor bad", worst.Objective, c.Bad, c.Events, percent(c.Share()), percent(worst.Total.Primary.Share()))
	}
	needed := c.Events * worst.Safety / worst.safety()
	return ThinTraffic, fmt.Sprintf("%s: evidence of %s for the canary, %s needed: about %.0f of its requests, which take %.1f a second to come in %s", worst.Objective, odds(worst.safety()), odds(worst.Safety), needed, needed/s.test.MaxDuration.Seconds(), s.test.MaxDuration)
}

// safety is the lesser of the two kinds of evidence that a canary is safe.
func (e Evidence) safety() float64 {
	if e.Alone {
		return e.Within
	}
	return math.Min(e.Within, e.NotWorse)
}

// Progress is how far the evidence is on its ways to unhealthy and to healthy, as shares of what is needed
// from 0 to 1.
func (e Evidence) Progress() (against, safe float64) {
	harm := e.Over
	if !e.Alone {
		harm = math.Min(e.Over, e.Worse)
	}
	within := func(share float64) float64 { return math.Min(math.Max(share, 0), 1) }
	return within(harm / e.Harm), within(e.safety() / e.Safety)
}

// left projects how long the evidence for a healthy verdict takes to be enough, if it grows as it has.
func (s *State) left(all []Evidence, requests float64) time.Duration {
	if s.elapsed <= 0 || requests == 0 {
		return 0
	}
	whole := math.Max(s.test.MinDuration.Seconds(), s.elapsed.Seconds()*s.test.MinRequests/requests)
	if s.test.Whole {
		whole = math.Max(whole, s.test.MaxDuration.Seconds())
	}
	for _, e := range all {
		if e.safety() <= 0 {
			return 0
		}
		whole = math.Max(whole, s.elapsed.Seconds()*e.Safety/e.safety())
	}
	return time.Duration((whole - s.elapsed.Seconds()) * float64(time.Second))
}
