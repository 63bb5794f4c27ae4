package verdict

import "math"

// bets is the evidence against one hypothesis, as capital that starts at 1. It keeps logarithms: of the
// capital on each alternative, and of the capital kept aside. Before each block a part of what is aside goes
// to the alternatives. So a block for which all of them are wrong, such as the first of an outage, does not
// lose everything (fixed share; Herbster and Warmuth: Tracking the best expert, 1998).
type bets struct {
	aside float64
	on    []float64
}

const (
	keptAside = 0.2  // share of the capital, at the start
	putBack   = 0.25 // share of what is aside, before each block
)

func newBets(weights []float64) bets {
	b := bets{aside: math.Log(keptAside), on: make([]float64, len(weights))}
	for i, w := range weights {
		b.on[i] = math.Log(w * (1 - keptAside))
	}
	return b
}

// settle pays out a block. logs are the logarithms of the alternatives' e-values.
func (b *bets) settle(weights, logs []float64) {
	moved := b.aside + math.Log(putBack)
	b.aside += math.Log(1 - putBack)
	for i, log := range logs {
		b.on[i] = logSum(b.on[i], moved+math.Log(weights[i])) + log
	}
}

// capital is the logarithm of the whole capital.
func (b bets) capital() float64 { return logSum(append([]float64{b.aside}, b.on...)...) }

// The alternatives to each hypothesis. Their weights add up to 1.
var (
	worseBy      = []float64{0, 0.25, 0.5, 0.75, 1} // places between primary + margin and certain failure, in log-odds
	worseWeights = []float64{0.2, 0.2, 0.2, 0.2, 0.2}
	safeAt       = []struct{ of, plus float64 }{{1, 0}, {1, 0.25}, {0.25, 0}} // parts of primary's share, and of the margin
	safeWeights  = []float64{0.6, 0.2, 0.2}
)

// priorEvents is the weight of the budget, in events, in the first guess of primary's share.
const priorEvents = 50

// certain is the share of bad events of a canary that fails for certain.
const certain = 0.99

// between is a share between low (place 0) and certain (place 1), linearly in log-odds.
func between(low, place float64) float64 {
	low = math.Min(low, certain)
	logit := func(p float64) float64 { return math.Log(p / (1 - p)) }
	from := logit(low)
	return 1 / (1 + math.Exp(-(from + place*(logit(certain)-from))))
}

func clamp(p float64) float64 { return math.Min(math.Max(p, 1e-6), 1-1e-6) }

// ratio is the logarithm of a block's e-value. With margin 0 it is evidence against θc ≤ θp, for an
// alternative (c, p) with c > p. With a margin above 0 it is evidence against θc ≥ θp + margin, for an
// alternative with c < p + margin.
//
// It is the likelihood ratio of (c, p) to the point θ° of the hypothesis that is nearest by
// nc·KL(c‖θc) + np·KL(p‖θp). Under any θ the logarithm of its expectation is nc·ln A(θc) + np·ln B(θp) with
// A and B linear: it is concave, 0 at θ°, and its gradient there is minus that of the divergence. The
// hypothesis is convex and θ° its nearest point, so the logarithm is at most 0 on all of it. (Turner, Grünwald:
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

// nearest is the θp that minimizes nc·KL(c‖θp+margin) + np·KL(p‖θp). Its derivative increases and is positive
// at p, so bisection finds the zero.
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

// alternative is one share that a tally is tested for against a fixed bound, with the logarithm of its weight
// and of its likelihood ratio for each bad and each good event.
type alternative struct{ weight, bad, good float64 }

func newAlternative(weight, share, bound float64) alternative {
	return alternative{math.Log(weight), math.Log(share / bound), math.Log((1 - share) / (1 - bound))}
}

// above are the alternatives to "the share is within the bound".
func above(bound, margin float64) []alternative {
	bound = clamp(bound)
	var all []alternative
	for i, place := range worseBy {
		all = append(all, newAlternative(worseWeights[i], clamp(between(bound+margin, place)), bound))
	}
	return all
}

// below are the alternatives to "the share is above the budget by the margin or more".
func below(o Objective) []alternative {
	bound := clamp(o.Budget + o.Margin)
	var all []alternative
	for i, at := range safeAt {
		all = append(all, newAlternative(safeWeights[i], clamp(at.of*o.Budget+at.plus*o.Margin), bound))
	}
	return all
}

// evidenceFor is the logarithm of a tally's evidence for a mixture of alternatives.
func evidenceFor(all []alternative, t Tally, burst float64) float64 {
	logs := make([]float64, 0, len(worseBy))
	for _, a := range all {
		logs = append(logs, a.weight+(t.Bad*a.bad+(t.Events-t.Bad)*a.good)/burst)
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
