package verdict

import (
	"math"
	"slices"
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
// In a block, a canary is good if, for each objective, its share of bad events is within the budget or not above
// primary's. A canary that is good in each block is rolled back with a probability of at most FalseRollback, no
// matter how often and how long it is evaluated, also after it has passed. In a block, a canary is bad if, for some
// objective, its share is above primary's, or above the budget, by the margin or more. A canary that is bad in each
// block passes with a probability of at most FalsePass; one that turns bad passes at most if it passed before. A
// canary between the two gets either verdict, or none before MaxDuration. Two kinds of objectives differ: a relative
// one goes by primary alone, and one that is slow is not judged in blocks of the warm-up. While primary has no
// events, the budget alone counts; while a baseline has none, it counts against the canary only; see [State.Add].
//
// Both rates hold if events are independent of each other given the shares. The shares may change from block to
// block, and so may what makes the canary good: the budget in one block, primary in the next. The same is true of
// what makes it bad. Errors that come in bursts of n events break the rates; Burst = n restores them.
//
// The method is that of e-processes (Ramdas, Grünwald, Vovk, Shafer: Game-theoretic statistics and safe
// anytime-valid inference, Statistical Science 2023). The e-value of a block is a number that is not negative, and
// whose expectation is at most 1 under the hypothesis, given all earlier blocks. The product of e-values ever
// reaches 1/α with a probability of at most α (Ville's inequality). "Good" is a union of two hypotheses, "not above
// primary" and "within the budget", and so is "bad". A block's e-value for a union is made of these parts:
//
//   - For each half, a mixture of likelihood ratios for some alternatives. The weights and alternatives follow from
//     earlier blocks, so the mixture is an e-value. The ratios for two streams are those of Turner, Ly, Grünwald:
//     Generic E-variables for exact sequential k-sample tests that allow for optional stopping (2024); see ratio.
//   - The smaller of the two mixtures. Whichever half is true in this block, the expectation of its mixture is at
//     most 1, and so is that of what is not larger. This loses little when a block has many events, and much when
//     it has few: a block then rarely speaks against both halves.
//   - One more mixture against a hypothesis that contains both halves and is convex, so that it loses as little in
//     small blocks as in large ones. For "good" it is θc ≤ θp + budget, which follows from θc ≤ max(θp, budget).
//     For "bad" it is θc ≥ margin, which follows from θc ≥ min(θp, budget) + margin.
//   - A mixture of the latter two, again with weights that follow from earlier blocks, and from how many events this one has.
//
// An e-value that is raised to the power 1/n, n ≥ 1, is still one (Jensen's inequality); Burst does that.
//
// What is bet on which blocks may follow from earlier blocks as well; see capital. So an outage costs a part of the
// evidence, not all of it, and faults that begin after hours are still seen. A rollback goes by the average of the
// evidence over all objectives: the average of e-processes is one, whatever the objectives' events have to do with each
// other (Vovk, Wang: E-values: Calibration, combination and applications, Annals of Statistics 2021). The average
// reaches 1/α at the latest when the evidence of one of K objectives reaches K/α, which is what dividing α among them
// (Bonferroni) would wait for. So it is as safe, and never later. The objective with the most evidence is named.
// The product of e-processes would need objectives that are independent of each other, and slow answers and errors are not.
// A pass needs evidence against "bad by this objective" for each objective, and against "bad by some
// objective, now this, now that": the smallest e-value of a block over all objectives but the relative ones, each of
// which is judged for itself.
//
// The smallest e-value over all objectives is taken of several blocks together, of the products of each objective's
// e-values since the canary had spanEvents: the smallest of a block with few events is seldom above 1. So it holds for a
// canary whose objective changes between such spans. What makes it bad by one objective may change with each block.
type Test struct {
	FalseRollback float64       `json:"falseRollback"`   // α, from 0 to 1
	FalsePass     float64       `json:"falsePass"`       // β, from 0 to 1
	Burst         float64       `json:"burst"`           // how many events go bad together, at least 1
	MinRequests   float64       `json:"minRequests"`     // nothing passes with fewer requests to the canary
	MinDuration   time.Duration `json:"-"`               // nothing passes earlier
	MaxDuration   time.Duration `json:"-"`               // an undecided canary is inconclusive then
	Whole         bool          `json:"whole"`           // nothing passes before MaxDuration
	Alone         bool          `json:"alone,omitempty"` // there is no primary: the budgets alone decide
	// Baseline: what counts as primary's are the events of new pods of what primary runs, which began when the canary did.
	Baseline   bool        `json:"baseline,omitempty"`
	Objectives []Objective `json:"objectives"`
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

// aloneAfter is how long primary must have had no events until the budget alone decides. Primary's counters may
// arrive a scrape after the canary's.
const aloneAfter = time.Minute

// parts is in how many parts a test of the whole time starts its evidence anew.
const parts = 6

// State is a running test. [Test.Begin] makes it and Add grows it. The same blocks give the same judgments.
type State struct {
	test    Test
	elapsed time.Duration
	streams []stream
	runs    []run // the first one is of the whole time
}

// run is the evidence that the canary is good since a certain time.
type run struct {
	before float64   // the canary's requests before it
	each   []capital // of each objective
	all    capital   // of all objectives together
}

// stream is the evidence so far about one objective.
type stream struct {
	total       Pair          // all events
	waiting     Pair          // events of the canary that wait for primary's of the same time
	span        span          // what the next bet over all objectives takes in
	lastPrimary time.Duration // when primary last had events
	guess       guess
	outage      float64 // evidence that primary itself is over the budget, of late

	harm, safety sides
	capital      capital // evidence against: the canary is good

	// What a share is tested against does not depend on the events, so it is computed once.
	overBudget, withinBudget, withinMargin, overMargin []alternative
}

// sides are the experts for a union of two hypotheses.
type sides struct {
	primary, budget experts // against each of the two
	both            experts // against a larger hypothesis, which contains both
	choice          experts // between the smaller of the first two, and the third
}

func harmSides() sides {
	return sides{slices.Clone(worseWeights), slices.Clone(worseWeights), slices.Clone(worseWeights), []float64{0.5, 0.5}}
}

func safetySides() sides {
	return sides{slices.Clone(safeWeights), slices.Clone(safeWeights), slices.Clone(withinWeights), []float64{0.8, 0.2}}
}

// wager is a block's e-values, as logarithms, of the alternatives. What does not apply is empty.
type wager struct {
	primary, budget, both []float64
	// fewBad is how much the third mixture weighs against the smaller of the first two because the block is small, as a
	// logarithm of odds.
	fewBad float64
}

// Begin starts a test.
func (t Test) Begin() *State {
	s := &State{test: t, streams: make([]stream, len(t.Objectives))}
	for i, o := range t.Objectives {
		s.streams[i] = stream{
			capital:    newCapital(harmAside),
			guess:      guess{budget: o.Budget},
			harm:       harmSides(),
			safety:     safetySides(),
			overBudget: above(o.Budget, o.Margin), withinBudget: below(o), withinMargin: belowMargin(o),
			overMargin: above(o.Budget+o.Margin, o.Margin),
		}
	}
	s.runs = []run{s.newRun(0)}
	return s
}

func (s *State) newRun(before float64) run {
	r := run{before: before, each: make([]capital, len(s.streams)), all: newCapital(safetyAside)}
	for i := range r.each {
		r.each[i] = newCapital(safetyAside)
	}
	return r
}

// Add adds a block and judges. Events of the canary without any of primary in the same block wait for primary's,
// whose counters may arrive later. When primary has had none for aloneAfter, the canary is judged by the budget. It is
// then good if it is within the budget, and bad if it is above it by the margin. A baseline was to be compared with instead of
// a warm-up: without its events nothing shows that the canary is good, and answers that are slow may be those of a cold one.
//
// A test of the whole time gathers the evidence of a pass also for its last parts alone. The last part that had
// enough requests decides. So a canary that is bad from then on passes with a probability of at most FalsePass,
// however good it was before. The evidence of harm is of all time, and so is the bound on false rollbacks.
func (s *State) Add(b Block) Judgment {
	s.elapsed = b.Elapsed
	due := s.passing() || s.elapsed >= s.test.MaxDuration
	bets := make([]safeBet, len(s.streams))
	for i := range s.streams {
		st, o := &s.streams[i], s.test.Objectives[i]
		st.total = st.total.add(b.Pairs[i])
		if b.WarmUp && o.Slow {
			st.span.exempt = st.span.exempt || b.events() > 0
			continue
		}
		if p, alone, ready := st.gather(b.Pairs[i], s.elapsed, s.test.Alone); ready {
			s.stake(i)
			bets[i] = st.settle(p, o, alone, s.test)
			st.span.add(bets[i], p)
		} else {
			st.span.exempt = st.span.exempt || alone && o.Relative
		}
		due = due || st.span.events >= spanEvents
	}
	s.settleEach(bets)
	nextPart := s.test.Whole && s.elapsed < s.test.MaxDuration && s.elapsed >= s.test.MaxDuration/parts*time.Duration(len(s.runs))
	if due || nextPart {
		s.settleAll()
	}
	if nextPart {
		s.runs = append(s.runs, s.newRun(s.requests()))
	}
	return s.judge()
}

// spanEvents is how many events of the canary a bet over all objectives takes in.
const spanEvents = 75

// span is what one objective's bets were worth together since the last bet over all objectives.
type span struct {
	made    bool
	exempt  bool    // the objective was not judged in some block
	log     float64 // of the product of the e-values
	events  float64 // the canary's
	primary Tally
}

func (s *span) add(b safeBet, p Pair) {
	if !b.made {
		s.exempt = s.exempt || b.exempt
		return
	}
	s.made, s.log, s.events, s.primary = true, s.log+b.log, s.events+p.Canary.Events, s.primary.add(p.Primary)
}

// passing says whether the bets so far are enough for a pass. Then nothing is held back: the next block's bet is made
// at once. It follows from earlier blocks only.
func (s *State) passing() bool {
	run := s.lastRun(s.requests())
	for i := range s.streams {
		if e := s.evidence(i, run); !e.Healthy && !e.unjudged() {
			return false
		}
	}
	return true
}

// stake stakes anew what the runs have aside, if it is time, before a bet that the canary is good by an objective.
func (s *State) stake(objective int) {
	anew := false
	for r := range s.runs {
		anew = s.runs[r].each[objective].stake()
	}
	if anew { // the newest run's
		s.streams[objective].safety = safetySides()
	}
}

// requests is the number of the canary's requests so far.
func (s *State) requests() float64 {
	requests := 0.0
	for i := range s.streams {
		requests = math.Max(requests, s.streams[i].total.Canary.Events)
	}
	return requests
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

// gather says which events are weighed now. The canary's wait until primary has some, or has had none for so
// long that the canary is alone. This depends on how many events there are, not on how many of them are bad.
func (st *stream) gather(p Pair, elapsed time.Duration, alone bool) (_ Pair, isAlone, ready bool) {
	st.waiting = st.waiting.add(p)
	if p.Primary.Events > 0 {
		st.lastPrimary = elapsed
	}
	isAlone = st.waiting.Primary.Events == 0 && (alone || elapsed-st.lastPrimary >= aloneAfter)
	switch p = st.waiting; {
	case p.Canary.Events == 0:
		st.guess.add(p.Primary)
	case p.Primary.Events == 0 && !isAlone:
		return Pair{}, false, false
	default:
		ready = true
	}
	st.waiting = Pair{}
	return p, isAlone, ready
}

// safeBet is a block's bet that the canary is good by one objective.
type safeBet struct {
	made      bool
	exempt    bool // the objective is not judged in this block
	relative  bool
	wager     wager
	log       float64
	forgotten float64
	calm      bool // primary itself was within the budget and the margin
}

// fewBad is how many bad events of a canary that is barely bad make a block large enough for the smaller of two mixtures
// to be worth as much as the third one.
const fewBad = 0.5

// settle weighs a block. What it bets follows from earlier blocks: a block must not choose the bet on itself.
func (st *stream) settle(p Pair, o Objective, alone bool, t Test) safeBet {
	if alone && (o.Relative || t.Baseline && o.Slow) {
		return safeBet{exempt: true, relative: o.Relative}
	}
	var harm, safety wager
	if !o.Relative {
		harm.budget, safety.budget = logsOf(st.overBudget, p.Canary), logsOf(st.withinBudget, p.Canary)
	}
	if !alone {
		harm.primary, safety.primary = againstPrimary(p, st.guess.share(), o)
	}
	if !alone && !o.Relative {
		harm.both, safety.both = againstSum(p, st.guess.share(), o), logsOf(st.withinMargin, p.Canary)
	}
	harm.fewBad = -math.Log(p.Canary.Events / t.burst() * (math.Max(o.Budget, st.guess.share()) + o.Margin) / fewBad)
	for _, w := range []wager{harm, safety} {
		w.divide(t.burst())
	}
	if st.capital.stake() {
		st.harm = harmSides()
	}
	st.capital.settle(st.harm.log(harm), math.Inf(1), true)
	st.harm.learn(harm, math.Inf(1), forgotten(p))
	if !alone {
		primary := wager{budget: logsOf(st.overMargin, p.Primary)}
		primary.divide(t.burst())
		st.outage = math.Min(math.Max(0, st.outage+experts(worseWeights).mix(primary.budget)), 2*t.harm())
		st.guess.add(p.Primary)
	}
	if alone && t.Baseline {
		return safeBet{exempt: true}
	}
	return safeBet{made: true, relative: o.Relative, wager: safety, log: st.safety.log(safety), forgotten: forgotten(p), calm: calm(p.Primary, o)}
}

// calm says whether primary itself was within the budget and the margin.
func calm(primary Tally, o Objective) bool { return o.Relative || primary.Share() < o.Budget+o.Margin }

// most is the evidence of safety that is kept.
func (t Test) most() float64 { return 3 * t.safety() }

// settleEach pays out the bets of a block that the canary is good, for each objective.
func (s *State) settleEach(bets []safeBet) {
	for i, b := range bets {
		if !b.made {
			continue
		}
		for r := range s.runs {
			s.runs[r].each[i].settle(b.log, s.test.most(), b.calm)
		}
		s.streams[i].safety.learn(b.wager, smallestOther(bets, i), b.forgotten)
	}
}

// smallestOther is the smallest of the other bets that count together with one.
func smallestOther(bets []safeBet, i int) float64 {
	least := math.Inf(1)
	for k, other := range bets {
		if k != i && other.made && !other.relative && !bets[i].relative {
			least = math.Min(least, other.log)
		}
	}
	return least
}

// settleAll makes and pays out the bet that the canary is good by all objectives but the relative ones: the smallest
// of what their bets since the last one were worth, so it is an e-value whichever objective the canary is bad by. It is
// not made when there were no events for some objective.
func (s *State) settleAll() {
	least, made, quiet := math.Inf(1), true, true
	for i := range s.streams {
		one, o := s.streams[i].span, s.test.Objectives[i]
		s.streams[i].span = span{}
		if o.Relative {
			continue
		}
		if one.made {
			least, quiet = math.Min(least, one.log), quiet && calm(one.primary, o)
		}
		made = made && (one.made || one.exempt)
	}
	if !made || math.IsInf(least, 1) {
		return
	}
	for r := range s.runs {
		s.runs[r].all.stake()
		s.runs[r].all.settle(least, s.test.most(), quiet)
	}
}

// log is the logarithm of an e-value for the union. Each half's mixture is an e-value for its half, so the
// smaller of the two is one for both.
func (s sides) log(w wager) float64 {
	log := math.Min(s.primary.mix(w.primary), s.budget.mix(w.budget))
	if len(w.both) == 0 {
		return log
	}
	return s.choice.given(w.fewBad).mix([]float64{log, s.both.mix(w.both)})
}

// forgotten is the share of the experts' weight that is dealt out after a block.
func forgotten(p Pair) float64 { return forget * math.Min(1, p.Canary.Events/forgetEvents) }

// learn weighs the alternatives by a block.
func (s sides) learn(w wager, others, forgotten float64) {
	primary, budget := s.primary.mix(w.primary), s.budget.mix(w.budget)
	if len(w.both) > 0 {
		s.choice.learn([]float64{math.Min(primary, budget), s.both.mix(w.both)}, others, forgotten)
		s.both.learn(w.both, others, forgotten)
	}
	s.primary.learn(w.primary, math.Min(budget, others), forgotten)
	s.budget.learn(w.budget, math.Min(primary, others), forgotten)
}

// divide is how bursts are weighed: the logarithm of each alternative's e-value is divided. The result is still
// an e-value (Jensen's inequality), and it is one again if events go bad so many at a time: a block of n such
// events then weighs as one. Each alternative is divided, not their mixture, whose root would be too large.
func (w wager) divide(burst float64) {
	for _, logs := range [][]float64{w.primary, w.budget, w.both} {
		for i := range logs {
			logs[i] /= burst
		}
	}
}

// againstPrimary is the logarithms of e-values against "not above primary" and "above primary by the margin".
func againstPrimary(p Pair, primary float64, o Objective) (harm, safety []float64) {
	harm, safety = make([]float64, len(worseBy)), make([]float64, len(safeAt))
	for i, place := range worseBy {
		if canary := clamp(between(primary+o.Margin, place)); canary > primary { // else it is a canary that is good
			harm[i] = ratio(p, canary, primary, 0)
		}
	}
	for i, at := range safeAt {
		safety[i] = ratio(p, clamp(at.of*primary+at.plus*o.Margin), primary, o.Margin)
	}
	return harm, safety
}

// againstSum is the logarithms of e-values against "not above the sum of primary's share and the budget".
func againstSum(p Pair, primary float64, o Objective) []float64 {
	logs := make([]float64, len(worseBy))
	for i, place := range worseBy {
		if canary := clamp(between(math.Max(primary, o.Budget)+o.Margin, place)); canary > primary+o.Budget {
			logs[i] = ratio(p, canary, primary, o.Budget)
		}
	}
	return logs
}

func logsOf(all []alternative, t Tally) []float64 {
	logs := make([]float64, len(all))
	for i, a := range all {
		logs[i] = a.log(t)
	}
	return logs
}

// guess is what is known about primary's share.
type guess struct {
	budget            float64
	all, recent, last Tally
}

// The weight of the budget in the guess of primary's share: so many events, and at least so many bad ones. With less
// than one bad event the guess would fall far below primary's share before its first one.
const (
	priorEvents = 50
	priorBad    = 1
)

// changed is by how much evidence, as a logarithm, events must differ from the usual guess so that they are the guess.
const changed = 5

func (g *guess) add(t Tally) {
	if t.Events == 0 { // how often is looked must not matter
		return
	}
	g.all, g.last = g.all.add(t), t
	g.recent = Tally{g.recent.Events / 2, g.recent.Bad / 2}.add(t)
}

func (g guess) share() float64 {
	share := func(t Tally, prior float64) float64 { return clamp((t.Bad + g.budget*prior) / (t.Events + prior)) }
	usual := share(g.all, math.Max(priorEvents, priorBad/g.budget))
	for _, other := range []Tally{g.last, g.recent, g.all} {
		if logRatio(other, clamp(other.Share()), usual) > changed {
			return share(other, priorEvents)
		}
	}
	return usual
}

func (t Test) burst() float64 { return math.Max(1, t.Burst) }

// harm is the logarithm of the evidence that a rollback takes, of one objective if the others have none.
func (t Test) harm() float64 { return math.Log(float64(len(t.Objectives)) / t.FalseRollback) }

// safety is the logarithm of the evidence that a pass takes.
func (t Test) safety() float64 { return math.Log(1 / t.FalsePass) }

func (s *State) judge() Judgment {
	j := Judgment{}
	healthy, judged := true, false
	requests := s.requests()
	run := s.lastRun(requests)
	for i := range s.streams {
		e := s.evidence(i, run)
		j.Evidence = append(j.Evidence, e)
		healthy = healthy && (e.Healthy || e.unjudged())
		judged = judged || !e.unjudged()
	}
	if reason := together(j.Evidence); reason != "" {
		j.Decided, j.Outcome, j.Reason = true, release.Unhealthy, reason
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

// lastRun is the newest evidence that the canary is good that had enough requests to be sufficient. It depends on
// how many events there were, not on how many of them were bad.
func (s *State) lastRun(requests float64) run {
	enough := s.test.MinRequests
	for _, o := range s.test.Objectives {
		enough = math.Max(enough, 3*s.test.safety()*s.test.burst()/o.Margin)
	}
	for i := len(s.runs) - 1; i > 0; i-- {
		if requests-s.runs[i].before >= enough {
			return s.runs[i]
		}
	}
	return s.runs[0]
}
