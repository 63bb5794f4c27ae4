package report

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/verdict"
)

// weightChart is the share of the traffic that the new version gets.
func weightChart(r *release.Release, until time.Time, outcome release.Outcome) *chart {
	c := &chart{Title: "Share of the traffic that the new version gets", High: 100}
	line := curve{Name: "new version", Class: "canary", Stairs: true, Points: []point{{}}}
	now := 0.0
	to := func(at time.Time, share float64) {
		now = share
		line.Points = append(line.Points, point{At: at.Sub(r.StartedAt), Value: share})
	}
	for _, step := range r.Steps {
		switch {
		case step.Stage == release.StageCanary && step.Weight == 0 && step.Gets == "": // a ledger from before steps had weights
			to(step.At, float64(r.Weight))
		case step.Stage == release.StageCanary:
			to(step.At, float64(step.Weight))
		case step.Stage == release.StagePromoted:
			to(step.At, 100)
		case step.Stage == release.StageRollingBack:
			to(step.At, 0)
		}
	}
	if outcome == release.OutcomeFirst || outcome == release.OutcomeUnchanged {
		now = 100
	}
	to(until, now)
	c.Curves = []curve{line}
	c.Description = fmt.Sprintf("It ends at %.0f%% after %s.", now, FormatDuration(until.Sub(r.StartedAt).Round(time.Second)))
	return c
}

// ratioChart is the share of good events of both tracks so far, with its confidence band.
func ratioChart(test *verdict.Test, i int, blocks []verdict.Block, looks []verdict.Judgment) *chart {
	o, beside := test.Objectives[i], test.Beside()
	c := &chart{Title: o.Name + ": good requests so far", High: 100}
	canary, primary := curve{Name: "canary", Class: "canary"}, curve{Name: strings.TrimPrefix(beside, "the "), Class: "primary"}
	c.Low = 100 * (1 - o.Budget)
	for k, look := range looks {
		total := look.Evidence[i].Total
		for _, of := range []struct {
			line  *curve
			tally verdict.Tally
		}{{&canary, total.Canary}, {&primary, total.Primary}} {
			if of.tally.Events == 0 {
				continue
			}
			p := point{At: blocks[k].Elapsed, Value: 100 * (1 - of.tally.Share())}
			p.Low, p.High = wilson(of.tally.Events-of.tally.Bad, of.tally.Events)
			of.line.Points = append(of.line.Points, p)
			if k == len(looks)-1 || k >= len(looks)/4 { // the first bands are wide: they may leave the picture
				c.Low = math.Min(c.Low, p.Low)
			}
		}
	}
	c.Low = math.Max(0, c.Low-(100-c.Low)/10)
	c.roundLow()
	canary.Points, primary.Points = downsample(canary.Points, mostPoints), downsample(primary.Points, mostPoints)
	c.Curves = []curve{canary, primary}
	c.Bounds = []bound{{fmt.Sprintf("objective %.4g%%", 100*(1-o.Budget)), 100 * (1 - o.Budget)}}
	last := looks[len(looks)-1].Evidence[i].Total
	c.Description = fmt.Sprintf("At the end the canary had %s, %s %s. The bands are 95%% confidence.", tallyText(last.Canary), beside, tallyText(last.Primary))
	return c
}

// evidenceChart is how far the test had come to either verdict.
func evidenceChart(o verdict.Objective, i int, blocks []verdict.Block, looks []verdict.Judgment) *chart {
	c := &chart{Title: o.Name + ": evidence, at 100% the test decides", High: 100}
	bad, good := curve{Name: "unhealthy", Class: "bad", Points: []point{{}}}, curve{Name: "healthy", Class: "good", Points: []point{{}}}
	for k, look := range looks {
		against, safe := look.Evidence[i].Progress()
		bad.Points = append(bad.Points, point{At: blocks[k].Elapsed, Value: 100 * against})
		good.Points = append(good.Points, point{At: blocks[k].Elapsed, Value: 100 * safe})
	}
	against, safe := looks[len(looks)-1].Evidence[i].Progress()
	bad.Points, good.Points = downsample(bad.Points, mostPoints), downsample(good.Points, mostPoints)
	c.Curves = []curve{bad, good}
	c.Description = fmt.Sprintf("At the end the evidence for unhealthy was at %.0f%%, for healthy at %.0f%%; at 100%% the test decides.", 100*against, 100*safe)
	return c
}
