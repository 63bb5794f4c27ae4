package verdict

import (
	"math"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Objective is the target of one service level indicator. An event is bad (an error, a slow answer) with a
// probability that is unknown for both tracks.
type Objective struct {
	Name     string  `json:"name"`
	Budget   float64 `json:"budget"`             // acceptable share of bad events, from 0 to 1: 1 - the objective
	Margin   float64 `json:"margin"`             // how much larger a share makes the canary bad
	Relative bool    `json:"relative,omitempty"` // judged against primary alone, and not at all while primary has no events
	Slow     bool    `json:"slow,omitempty"`     // not weighed during warm-up
}

// Test judges a canary from two streams of events, the canary's and primary's of the same time. It decides as
// early as the evidence allows.
//
// A canary is good if, for each objective, its share of bad events is within the budget or not above
// primary's. A good canary is rolled back with a probability of at most FalseRollback, no matter how often and
// how long it is evaluated. A canary is bad if, for some objective, its share is above primary's, or above the
// budget, by the margin or more. A bad canary passes with a probability of at most FalsePass. A canary
// between the two gets either verdict, or none before MaxDuration.
//
// Both rates hold if events are independent of each other given the shares. The shares may change from block
// to block as long as the canary stays good, or bad. Errors that come in bursts of n events break the rates;
// Burst = n restores them.
//
// The method is that of e-processes. There are four hypotheses: "not above primary", "within the budget",
// "above primary by the margin" and "above the budget by the margin". Evidence against each is a product of
// likelihood ratios whose expectation under the hypothesis is at most 1. By Ville's inequality it ever
// reaches 1/α with a probability of at most α (Ramdas, Grünwald, Vovk, Shafer: Game-theoretic statistics and
// safe anytime-valid inference, Statistical Science 2023). The ratios for two streams are those of Turner, Ly,
// Grünwald: Generic E-variables for exact sequential k-sample tests that allow for optional stopping (2024);
// see ratio. Unhealthy needs evidence against both of the first two hypotheses, so neither costs the other
// anything; over objectives α is divided (Bonferroni). Healthy needs evidence against both of the others for
// every objective, which divides nothing.
type Test struct {
	FalseRollback float64       `json:"falseRollback"` // α, from 0 to 1
	FalsePass     float64       `json:"falsePass"`     // β, from 0 to 1
	Burst         float64       `json:"burst"`         // how many events go bad together, at least 1
	MinRequests   float64       `json:"minRequests"`   // nothing passes with fewer requests to the canary
	MinDuration   time.Duration `json:"-"`             // nothing passes earlier
	MaxDuration   time.Duration `json:"-"`             // an undecided canary is inconclusive then
	Whole         bool          `json:"whole"`         // nothing passes before MaxDuration
	Objectives    []Objective   `json:"objectives"`
}

// Block is what was counted between two evaluations: one pair for each objective.
type Block struct {
	Elapsed time.Duration // from the start to the block's end
	WarmUp  bool          // the canary was warming up: slow objectives are counted, but not weighed
	Pairs   []Pair
}

// Judgment is the state of a test after a block.
type Judgment struct {
	Decided  bool                   `json:"decided"`
	Outcome  release.VerdictOutcome `json:"outcome,omitempty"` // if decided
	Cause    Cause                  `json:"cause,omitempty"`   // if not healthy or unhealthy
	Reason   string                 `json:"reason"`
	Evidence []Evidence             `json:"evidence"`
	// Left estimates the time until a healthy verdict at the present rates; 0 is unknown.
	Left time.Duration `json:"-"`
}

// State is a running test. [Test.Begin] makes it and Add grows it. The same blocks give the same judgments.
type State struct {
	test    Test
	elapsed time.Duration
	streams []stream
}

// stream is the evidence so far about one objective.
type stream struct {
	total           Pair // all events
	weighed         Pair // without those of the warm-up
	worse, notWorse bets
	// What a share is tested against does not depend on the events, so it is computed once.
	overBudget, withinBudget, outage []alternative
}

// Begin starts a test.
func (t Test) Begin() *State {
	s := &State{test: t, streams: make([]stream, len(t.Objectives))}
	for i, o := range t.Objectives {
		s.streams[i] = stream{
			worse: newBets(worseWeights), notWorse: newBets(safeWeights),
			overBudget: above(o.Budget, o.Margin), withinBudget: below(o), outage: above(o.Budget+o.Margin, o.Margin),
		}
	}
	return s
}

// Add adds a block and judges.
func (s *State) Add(b Block) Judgment {
	s.elapsed = b.Elapsed
	for i := range s.streams {
		st, o := &s.streams[i], s.test.Objectives[i]
		st.total = st.total.add(b.Pairs[i])
		if !b.WarmUp || !o.Slow {
			st.add(b.Pairs[i], o, s.test.burst())
		}
	}
	return s.judge()
}

// Judge replays blocks up to the first decision.
func (t Test) Judge(blocks []Block) (last Judgment, used int) {
	s := t.Begin()
	for i, b := range blocks {
		if last = s.Add(b); last.Decided {
			return last, i + 1
		}
	}
	return last, len(blocks)
}

// add weighs a block. It guesses the canary's share under each alternative from earlier blocks only: a block
// must not choose the bet on itself.
func (s *stream) add(p Pair, o Objective, burst float64) {
	primary := (s.weighed.Primary.Bad + o.Budget*priorEvents) / (s.weighed.Primary.Events + priorEvents)
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
	s.weighed = s.weighed.add(p)
}

// burst divides the logarithm of each alternative's e-value. The result is still an e-value (Jensen's
// inequality), and it is one again if events go bad so many at a time: a block of n such events then weighs as
// one. Each alternative is divided, not their mixture, whose root would be too large.
func (t Test) burst() float64 { return math.Max(1, t.Burst) }

func (s *State) judge() Judgment {
	j := Judgment{}
	healthy, judged := true, false
	requests := 0.0
	for i := range s.streams {
		e := s.evidence(i)
		j.Evidence = append(j.Evidence, e)
		requests = math.Max(requests, e.Total.Canary.Events)
		healthy = healthy && (e.Healthy || e.unjudged())
		judged = judged || !e.unjudged()
		if e.Unhealthy && !j.Decided {
			j.Decided, j.Outcome, j.Reason = true, release.Unhealthy, e.unhealthyReason()
		}
	}
	if j.Decided {
		return j
	}
	timeUp := s.elapsed >= s.test.MaxDuration
	if healthy && judged && requests >= s.test.MinRequests && s.elapsed >= s.test.MinDuration && (timeUp || !s.test.Whole) {
		j.Decided, j.Outcome, j.Reason = true, release.Healthy, healthyReason(j.Evidence)
		return j
	}
	j.Left = s.left(j.Evidence, requests)
	j.Cause, j.Reason = s.cause(j.Evidence, requests)
	if timeUp {
		j.Decided, j.Outcome = true, release.Inconclusive
	}
	return j
}
