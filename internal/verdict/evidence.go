package verdict

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Evidence is what is known about one objective, as natural logarithms of the e-processes. One that reaches
// Harm or Safety, the logarithms of 1/α and 1/β, has rejected its hypothesis.
type Evidence struct {
	Objective string  `json:"objective"`
	Total     Pair    `json:"total"`              // all events so far
	Against   float64 `json:"against"`            // evidence against: the canary is good
	For       float64 `json:"for"`                // evidence against: the canary is bad, by this objective and, if it is not relative, by any
	Harm      float64 `json:"harm"`               // the threshold of Against; less if other objectives' evidence adds to it
	Safety    float64 `json:"safety"`             // the threshold of For
	Alone     bool    `json:"alone"`              // primary had no events, so the budget alone decides
	Relative  bool    `json:"relative,omitempty"` // primary alone decides
	Outage    bool    `json:"outage"`             // primary itself is over the budget, by its own events
	Unhealthy bool    `json:"unhealthy"`          // harm is shown
	Healthy   bool    `json:"healthy"`            // safety is shown

	Bake     bool `json:"-"`                  // it is primary that is judged, after promotion
	Baseline bool `json:"baseline,omitempty"` // what counts as primary's events are a baseline's
}

// judged is the track whose events count as the canary's.
func (t Test) judged() string {
	if t.Whole {
		return "primary"
	}
	return "the canary"
}

func (e Evidence) judged() string { return Test{Whole: e.Bake}.judged() }

// Beside is what the canary is compared with.
func (t Test) Beside() string {
	if t.Baseline {
		return "the baseline"
	}
	return "primary"
}

func (e Evidence) beside() string { return Test{Baseline: e.Baseline}.Beside() }

// Cause names why there is no verdict.
type Cause string

// The causes of an inconclusive verdict.
const (
	NoTraffic      Cause = "no_traffic"      // nobody called the canary
	NoData         Cause = "no_data"         // an objective had no events although there was traffic
	ThinTraffic    Cause = "thin_traffic"    // too few events to decide in time
	SharedOutage   Cause = "shared_outage"   // primary misses the objective as well
	Undecided      Cause = "undecided"       // neither good nor bad by the margin
	Stale          Cause = "stale"           // scraping has stopped
	NotANumber     Cause = "nan"             // Prometheus had NaN
	MissingLabels  Cause = "missing_labels"  // the counters exist, but not by workload or by answer
	PrometheusDown Cause = "prometheus_down" // no answer
	CountGap       Cause = "count_gap"       // the canary has not seen what was sent to it
	Drift          Cause = "drift"           // somebody else changed the release meanwhile
	BadInput       Cause = "bad_input"       // somebody must fix what the evidence is read by, while the canary has traffic
)

// evidence is the state of a stream.
func (s *State) evidence(i int, r run) Evidence {
	st := s.streams[i]
	e := Evidence{
		Objective: s.test.Objectives[i].Name, Total: st.total, Harm: s.test.harm(), Safety: s.test.safety(),
		Against: st.capital.log(), For: r.each[i].log(),
		Alone: st.total.Primary.Events == 0, Relative: s.test.Objectives[i].Relative,
		Bake: s.test.Whole, Baseline: s.test.Baseline,
	}
	if !e.Relative {
		e.For = math.Min(e.For, r.all.log())
	}
	e.Outage = !e.Relative && st.outage >= s.test.harm()
	e.Healthy = !e.unjudged() && e.For >= e.Safety
	return e
}

// unjudged says that an objective that compares has nothing to compare with.
func (e Evidence) unjudged() bool { return e.Relative && e.Alone }

// Progress is how far the evidence has come toward unhealthy and toward healthy, as shares from 0 to 1 of
// what each needs.
func (e Evidence) Progress() (unhealthy, healthy float64) {
	share := func(s float64) float64 { return math.Min(math.Max(s, 0), 1) }
	return share(e.Against / e.Harm), share(e.For / e.Safety)
}

// nothing is evidence that is too little to go by, or a rounding error.
const nothing = 1e-6

// left estimates the time until the evidence for a healthy verdict is enough, if it grows as it has so far.
func (s *State) left(all []Evidence, requests float64) time.Duration {
	if s.elapsed <= 0 || requests == 0 {
		return 0
	}
	whole := math.Max(s.test.MinDuration.Seconds(), s.elapsed.Seconds()*s.test.MinRequests/requests)
	if s.test.Whole {
		whole = math.Max(whole, s.test.MaxDuration.Seconds())
	}
	for _, e := range all {
		if e.unjudged() {
			continue
		}
		if e.For <= nothing {
			return 0
		}
		whole = math.Max(whole, s.elapsed.Seconds()*e.Safety/e.For)
	}
	return time.Duration((whole - s.elapsed.Seconds()) * float64(time.Second))
}

func percent(share float64) string { return fmt.Sprintf("%.2f%%", 100*share) }

// odds shows a logarithm of evidence as odds.
func odds(log float64) string {
	if log > math.Log(1e6) {
		return "over 1,000,000 to 1"
	}
	return fmt.Sprintf("%.0f to 1", math.Exp(log))
}

// together marks the objectives that show harm, and says why the canary is unhealthy; "" if it is not. The evidence of all
// objectives together must reach the threshold that one alone would have to reach: that is the average over them. Of the
// objective with the most evidence, it shows what was left for it to reach.
func together(all []Evidence) string {
	first, sum := -1, math.Inf(-1)
	for i := range all {
		e := &all[i]
		if e.unjudged() {
			continue
		}
		e.Unhealthy = e.Against >= e.Harm
		sum = logSum(e.Against, sum)
		if first < 0 || e.Against > all[first].Against {
			first = i
		}
	}
	if first < 0 || sum < all[first].Harm {
		return ""
	}
	var helped []string
	worst := &all[first]
	if !worst.Unhealthy {
		others := 0.0
		for i, e := range all {
			if i != first && !e.unjudged() {
				others += math.Exp(e.Against)
				if e.Against > 0 && math.Exp(e.Against-e.Harm) >= 0.01 {
					helped = append(helped, fmt.Sprintf("%s with %s", e.Objective, odds(e.Against)))
				}
			}
		}
		worst.Unhealthy, worst.Harm = true, math.Min(worst.Against, math.Log(math.Max(1, math.Exp(worst.Harm)-others)))
	}
	for _, e := range all { // an objective that shows harm alone, the first one as it is configured
		if e.Unhealthy {
			return e.unhealthyReason(helped)
		}
	}
	return ""
}

func (e Evidence) unhealthyReason(helped []string) string {
	c := e.Total.Canary
	needed := odds(e.Harm) + " needed"
	if len(helped) > 0 {
		needed += " beside " + strings.Join(helped, ", ")
	}
	text := fmt.Sprintf("%s: %.0f of %s's %.0f events are bad (%s)", e.Objective, c.Bad, e.judged(), c.Events, percent(c.Share()))
	if e.Bake {
		return fmt.Sprintf("%s: over the objective's budget by evidence of %s (%s)", text, odds(e.Against), needed)
	}
	if e.Alone {
		return fmt.Sprintf("%s: over the objective's budget by evidence of %s (%s); %s had no events to compare with", text, odds(e.Against), needed, e.beside())
	}
	if e.Relative {
		text = fmt.Sprintf("%s, %s of %[3]s's %.0[4]f: worse than %[3]s by evidence of %[5]s (%[6]s)",
			text, percent(e.Total.Primary.Share()), e.beside(), e.Total.Primary.Events, odds(e.Against), needed)
		if e.Objective == string(ClientErrors) { // a page's files are in one version alone, and any new build of them looks like this
			text += "; if the release changed files of its pages, see --sticky and --assets-of first (docs/guides/sticky.md)"
		}
		return text
	}
	return fmt.Sprintf("%s, %s of %[3]s's %.0[4]f: worse than %[3]s and over the budget by evidence of %[5]s (%[6]s)",
		text, percent(e.Total.Primary.Share()), e.beside(), e.Total.Primary.Events, odds(e.Against), needed)
}

func healthyReason(all []Evidence) string {
	var texts []string
	for _, e := range all {
		if e.Relative && e.Total.Canary.Bad == 0 {
			continue
		}
		text := fmt.Sprintf("%s: %s of %s's %.0f events are good", e.Objective, percent(1-e.Total.Canary.Share()), e.judged(), e.Total.Canary.Events)
		switch {
		case e.Bake:
		case e.Alone:
			text += fmt.Sprintf(" (%s had none to compare with)", e.beside())
		default:
			text += fmt.Sprintf(", %s of %s's %.0f", percent(1-e.Total.Primary.Share()), e.beside(), e.Total.Primary.Events)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

// cause says why there is no decision yet, by what would have to change first.
func (s *State) cause(all []Evidence, requests float64) (Cause, string) {
	if requests == 0 {
		return NoTraffic, "no request reached " + s.test.judged()
	}
	for _, e := range all {
		if e.Total.Canary.Events == 0 && !e.unjudged() {
			return NoData, fmt.Sprintf("%s: %s has no events, although it was called", e.Objective, s.test.judged())
		}
	}
	for i, e := range all {
		if silent := s.elapsed - s.streams[i].lastPrimary; s.test.Baseline && silent >= aloneAfter && !e.Healthy && !e.Relative {
			return NoData, fmt.Sprintf("%s: %s has had no events for %s: there is nothing to compare the canary with", e.Objective, e.beside(), silent.Round(time.Second))
		}
	}
	for _, e := range all {
		if e.Outage && !e.Healthy {
			return SharedOutage, fmt.Sprintf("%s: %s misses the objective too (%s of its events are bad, %s of the canary's): the canary is not to blame, but cannot pass now", e.Objective, e.beside(), percent(e.Total.Primary.Share()), percent(e.Total.Canary.Share()))
		}
	}
	weakest, least := Evidence{}, math.Inf(1)
	for _, e := range all {
		if share := e.For / e.Safety; !e.Healthy && !e.unjudged() && share < least {
			weakest, least = e, share
		}
	}
	c := weakest.Total.Canary
	switch {
	case weakest.For <= nothing && s.test.Whole && weakest.Objective != "":
		return Undecided, fmt.Sprintf("%s: %.0f of primary's %.0f events are bad (%s), which shows neither a good nor a bad version", weakest.Objective, c.Bad, c.Events, percent(c.Share()))
	case weakest.Objective == "":
		return ThinTraffic, fmt.Sprintf("%.0f requests in %s; a healthy verdict needs at least %.0f in %s", requests, s.elapsed.Round(time.Second), s.test.MinRequests, s.test.MinDuration)
	case weakest.For <= nothing:
		return Undecided, fmt.Sprintf("%s: %.0f of the canary's %.0f events are bad (%s, %s %s), which shows neither a good nor a bad canary", weakest.Objective, c.Bad, c.Events, percent(c.Share()), weakest.beside(), percent(weakest.Total.Primary.Share()))
	}
	needed := c.Events * weakest.Safety / weakest.For
	return ThinTraffic, fmt.Sprintf("%s: evidence of %s for %s (%s needed): that takes about %.0f of its requests, or %.1f per second for %s", weakest.Objective, odds(weakest.For), s.test.judged(), odds(weakest.Safety), needed, needed/s.test.MaxDuration.Seconds(), s.test.MaxDuration)
}
