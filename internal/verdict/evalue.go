package verdict

import (
	"math"
	"slices"
)

// experts are the weights of the alternatives to one hypothesis. They add up to 1, and follow from earlier blocks
// only, so the mixture of the alternatives' e-values is an e-value.
type experts []float64

// forget is the share of all weight that is dealt out evenly after each block of at least forgetEvents, so that an
// alternative that was wrong for long can be right again (fixed share; Herbster and Warmuth: Tracking the best
// expert, 1998). Smaller blocks forget less.
const (
	forget       = 0.02
	forgetEvents = 75
)

// mix is the logarithm of the mixture of e-values, which are given as logarithms. It is +∞ if there are none.
func (e experts) mix(logs []float64) float64 {
	if len(logs) == 0 {
		return math.Inf(1)
	}
	highest, sum := slices.Max(logs), 0.0
	for i, log := range logs {
		sum += e[i] * math.Exp(log-highest)
	}
	return highest + math.Log(sum)
}

// given is the weights of two experts of which the second one is favored by the given odds, as a logarithm. The odds must
// follow from earlier blocks and from how many events the block has.
func (e experts) given(odds float64) experts {
	second := e[1] / (e[1] + e[0]*math.Exp(-odds))
	return experts{1 - second, second}
}

// learn weighs each alternative by what it was worth. It was worth no more than what else limits the bet.
func (e experts) learn(logs []float64, limit, forgotten float64) {
	if len(logs) == 0 {
		return
	}
	highest, sum := math.Min(slices.Max(logs), limit), 0.0
	for i, log := range logs {
		e[i] *= math.Exp(math.Min(log, limit) - highest)
		sum += e[i]
	}
	for i := range e {
		e[i] = (1-forgotten)*e[i]/sum + forgotten/float64(len(e))
	}
}

// capital is an e-process: what became of 1 that was bet block by block. A part is kept aside, so that one
// block for which every bet was wrong, such as the first of an outage, does not take everything. When the bets
// have lost and the last block would have won, a part of what is aside is staked anew: 2/3 of it, then 2/4, 2/5,
// and so on. After k such stakes there is about 2/k² of it left, so a change is still seen, after any time, at the
// price of evidence of about k³ to 1. All of it follows from earlier blocks only, so that the
// capital is a nonnegative supermartingale whenever each block's bet is an e-value.
type capital struct {
	aside, staked float64 // logarithms
	stakes        int
	winning       bool // the last block would have won
}

// What is kept aside at the start: more of the bets that a canary is good, which an outage takes.
const (
	harmAside   = 0.15
	safetyAside = 0.2
)

func newCapital(aside float64) capital {
	return capital{aside: math.Log(aside), staked: math.Log(1 - aside)}
}

// stake stakes anew what is aside, if it is time, before a block. It says whether it did.
func (c *capital) stake() bool {
	part := 2 / float64(c.stakes+3)
	stake := c.aside + math.Log(part)
	if !c.winning || c.staked >= stake {
		return false
	}
	c.staked = logSum(c.staked, stake)
	c.aside += math.Log(1 - part)
	c.stakes++
	return true
}

// settle pays out a block. log is the logarithm of its e-value. What exceeds limit is given away: evidence that
// is never needed must not outweigh what happens later.
func (c *capital) settle(log, limit float64, calm bool) {
	c.staked += log
	c.winning = calm && log > 0
	if excess := c.log() - limit; excess > 0 {
		c.staked -= excess
		c.aside -= excess
	}
}

// log is the logarithm of the whole capital.
func (c capital) log() float64 { return logSum(c.aside, c.staked) }

// The alternatives to each hypothesis. Their weights add up to 1.
var (
	worseBy       = []float64{0, 0.05, 0.15, 0.35, 0.6} // places between the least that is bad and certain failure, in log-odds
	worseWeights  = []float64{0.4, 0.35, 0.12, 0.1, 0.03}
	safeAt        = []struct{ of, plus float64 }{{1, 0}, {1, 0.25}, {0.25, 0}, {1, 0.6}} // parts of primary's share or the budget, and of the margin
	safeWeights   = []float64{0.55, 0.2, 0.15, 0.1}
	withinMargin  = []float64{0.1, 0.3, 0.6} // parts of the margin
	withinWeights = []float64{0.5, 0.3, 0.2}
)

// certain is the share of bad events of a canary that fails for certain.
const certain = 0.99

// between is a share between low (place 0) and certain (place 1), linearly in log-odds. It is below low if low is above
// certain: then it is no alternative to a share of at most low.
func between(low, place float64) float64 {
	low = math.Min(low, certain)
	logit := func(p float64) float64 { return math.Log(p / (1 - p)) }
	from := logit(low)
	return 1 / (1 + math.Exp(-(from + place*(logit(certain)-from))))
}

func clamp(p float64) float64 { return math.Min(math.Max(p, 1e-6), 1-1e-6) }

// ratio is the logarithm of a block's e-value for the alternative (c, p). With c > p + margin it is evidence
// against θc ≤ θp + margin, with c < p + margin against θc ≥ θp + margin.
//
// It is the likelihood ratio of (c, p) to the point θ° of the hypothesis that is nearest by
// nc·KL(c‖θc) + np·KL(p‖θp). Under any θ the logarithm of its expectation is nc·ln A(θc) + np·ln B(θp) with
// A and B linear: it is concave, 0 at θ°, and its gradient there is minus that of the divergence. The
// hypothesis is convex and θ° its nearest point, so the logarithm is at most 0 on all of it. (Turner, Grünwald:
// Exact anytime-valid confidence intervals for contingency tables and beyond, 2023.)
func ratio(b Pair, c, p, margin float64) float64 {
	nc, np := b.Canary.Events, b.Primary.Events
	p0 := (nc*c + np*p) / (nc + np)
	if margin != 0 {
		p0 = nearest(nc, np, c, p, margin)
	}
	return logRatio(b.Canary, c, p0+margin) + logRatio(b.Primary, p, p0)
}

// nearest is the θp that minimizes nc·KL(c‖θp+margin) + np·KL(p‖θp). Its derivative increases, and its zero is
// between p, where the second term has its minimum, and c - margin, where the first has. Newton's steps find it;
// one that leaves the bounds is halved.
func nearest(nc, np, c, p, margin float64) float64 {
	low, high := math.Min(p, c-margin), math.Max(p, c-margin)
	low, high = math.Max(low, 1e-12), math.Min(high, 1-margin-1e-12)
	t := (low + high) / 2
	for range 100 {
		u := t + margin
		vu, vt := u*(1-u), t*(1-t)
		slope := nc*(u-c)/vu + np*(t-p)/vt
		if slope > 0 {
			high = t
		} else {
			low = t
		}
		curve := nc*(vu-(u-c)*(1-2*u))/(vu*vu) + np*(vt-(t-p)*(1-2*t))/(vt*vt)
		next := t - slope/curve
		if !(next > low && next < high) {
			next = (low + high) / 2
		}
		if math.Abs(next-t) <= 1e-10*t {
			return next
		}
		t = next
	}
	return t
}

// logRatio is the logarithm of the likelihood ratio of two shares.
func logRatio(t Tally, share, null float64) float64 {
	log := 0.0
	if t.Bad > 0 {
		log = t.Bad * math.Log(share/null)
	}
	return log + (t.Events-t.Bad)*math.Log((1-share)/(1-null))
}

// alternative is one share that a tally is tested for against a fixed bound, as the logarithms of its likelihood
// ratio for each bad and each good event.
type alternative struct{ bad, good float64 }

func newAlternative(share, bound float64) alternative {
	return alternative{math.Log(share / bound), math.Log((1 - share) / (1 - bound))}
}

// log is the logarithm of the e-value of a tally.
func (a alternative) log(t Tally) float64 { return t.Bad*a.bad + (t.Events-t.Bad)*a.good }

// above are the alternatives to "the share is within the bound". Where no share between is above it, there is none.
func above(bound, margin float64) []alternative {
	bound = clamp(bound)
	all := make([]alternative, len(worseBy))
	for i, place := range worseBy {
		if share := clamp(between(bound+margin, place)); share > bound {
			all[i] = newAlternative(share, bound)
		}
	}
	return all
}

// below are the alternatives to "the share is above the budget by the margin or more".
func below(o Objective) []alternative {
	var all []alternative
	for _, at := range safeAt {
		all = append(all, newAlternative(clamp(at.of*o.Budget+at.plus*o.Margin), clamp(o.Budget+o.Margin)))
	}
	return all
}

// belowMargin are the alternatives to "the share is the margin or more".
func belowMargin(o Objective) []alternative {
	var all []alternative
	for _, part := range withinMargin {
		all = append(all, newAlternative(clamp(part*o.Margin), clamp(o.Margin)))
	}
	return all
}

// logSum is the logarithm of e^a + e^b.
func logSum(a, b float64) float64 {
	return math.Max(a, b) + math.Log1p(math.Exp(-math.Abs(a-b)))
}
