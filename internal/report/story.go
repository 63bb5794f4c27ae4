package report

import (
	"fmt"
	"math"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

// Story is a release as it is told: what came of it and why, then how.
type Story struct {
	*release.Release
	Links   release.Links
	Outcome string // or the stage, of one in flight
	Why     string // the reason of its outcome, or what comes next
	Ended   time.Time
	EndedBy string
	Took    string

	Verdicts []decision
	Charts   []*chart
	Entries  []Entry
}

// decision is a verdict with its inputs.
type decision struct {
	release.Verdict
	Test       *verdict.Test // nil when its counts are not kept
	Objectives []objective
}

// objective is what a verdict rests on, by the counts of one objective.
type objective struct {
	Name, Target    string
	Canary, Primary string
	Bad, Good       string // how far the evidence was
}

// Stories are the releases of an app, the one in flight first, then newest first.
func Stories(s *rollout.Status, entries []Entry, now time.Time) []Story {
	var stories []Story
	if r := s.Release; r != nil {
		story := tell(r, "", entries, now)
		story.Outcome, story.Why, story.Took = string(r.Stage), "next: "+next(r), Took(now.Sub(r.StartedAt).Round(time.Second))
		stories = append(stories, story)
	}
	for i := range s.History {
		f := &s.History[i]
		story := tell(&f.Release, f.Outcome, entries, f.FinishedAt)
		story.Outcome, story.Ended, story.EndedBy, story.Took = string(f.Outcome), f.FinishedAt, f.FinishedBy, Took(f.FinishedAt.Sub(f.StartedAt).Round(time.Second))
		if story.Why = f.Reason; story.Why == "" && f.Verdict != nil {
			story.Why = f.Verdict.Reason
		}
		stories = append(stories, story)
	}
	for i := range stories {
		for k, c := range stories[i].Charts {
			c.ID = fmt.Sprintf("chart-%d-%d", i, k)
		}
	}
	return stories
}

// tell is what there is to say of any release; its outcome is "" while it is in flight.
func tell(r *release.Release, outcome release.Outcome, entries []Entry, until time.Time) Story {
	story := Story{Release: r, Links: r.Links(), Charts: []*chart{shares(r, until, outcome)}}
	for _, v := range r.Judged {
		story.Verdicts = append(story.Verdicts, decision{Verdict: v})
	}
	if r.Verdict != nil {
		d, charts := decided(r)
		story.Verdicts = append(story.Verdicts, d)
		story.Charts = append(story.Charts, charts...)
	}
	for _, e := range entries {
		if e.Release == r.ID && !e.At.Before(r.StartedAt.Add(-time.Hour)) && !e.At.After(until.Add(time.Hour)) { // an id may be released again
			story.Entries = append(story.Entries, e)
		}
	}
	return story
}

// Good says whether there is nothing to explain.
func (s Story) Good() bool { return s.EndedBy != "" && release.Outcome(s.Outcome).Good() }

// Requests is how many requests of the canary its last verdict rests on.
func (s Story) Requests() int64 {
	if s.Verdict == nil {
		return 0
	}
	return s.Verdict.Requests
}

// shares is the share of the traffic that the new version gets.
func shares(r *release.Release, until time.Time, outcome release.Outcome) *chart {
	c := &chart{Title: "Share of the traffic that the new version gets", High: 100}
	line := curve{Name: "new version", Class: "canary", Stairs: true, Points: []point{{}}}
	now := 0.0
	to := func(at time.Time, share float64) {
		now = share
		line.Points = append(line.Points, point{At: at.Sub(r.StartedAt), Value: share})
	}
	for _, step := range r.Steps {
		switch {
		case step.Stage == release.StageCanary && step.Weight == 0: // a ledger of before steps had weights
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
	c.Says = fmt.Sprintf("It ends at %.0f %% after %s.", now, Took(until.Sub(r.StartedAt).Round(time.Second)))
	return c
}

// decided is the last verdict of a release, and for each objective the charts of what it rests on.
func decided(r *release.Release) (decision, []*chart) {
	d := decision{Verdict: *r.Verdict}
	record, err := verdict.ParseRecord(r.Verdict.Evidence)
	if err != nil || len(record.Blocks) == 0 {
		return d, nil
	}
	d.Test = &record.Test
	state := record.Test.Begin()
	looks := make([]verdict.Judgement, len(record.Blocks))
	for i, block := range record.Blocks {
		looks[i] = state.Add(block)
	}
	var charts []*chart
	for i, o := range record.Test.Objectives {
		last := looks[len(looks)-1].Evidence[i]
		bad, good := last.Progress()
		d.Objectives = append(d.Objectives, objective{
			Name: o.Name, Target: fmt.Sprintf("%.4g %% good; bad from %.4g %% on", 100*(1-o.Budget), 100*(1-o.Budget-o.Margin)),
			Canary: tallyText(last.Total.Canary), Primary: tallyText(last.Total.Primary),
			Bad: fmt.Sprintf("%.0f %%", 100*bad), Good: fmt.Sprintf("%.0f %%", 100*good),
		})
		charts = append(charts, ratios(o, i, record.Blocks, looks), evidence(o, i, record.Blocks, looks))
	}
	return d, charts
}

func tallyText(t verdict.Tally) string {
	if t.Events == 0 {
		return "no requests"
	}
	return fmt.Sprintf("%.2f %% of %.0f", 100*(1-t.Share()), t.Events)
}

// ratios is the share of good events of both tracks so far, with its confidence band.
func ratios(o verdict.Objective, i int, blocks []verdict.Block, looks []verdict.Judgement) *chart {
	c := &chart{Title: o.Name + ": good requests so far", High: 100}
	canary, primary := curve{Name: "canary", Class: "canary"}, curve{Name: "primary", Class: "primary"}
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
	canary.Points, primary.Points = thin(canary.Points, mostPoints), thin(primary.Points, mostPoints)
	c.Curves = []curve{canary, primary}
	c.Bounds = []bound{{fmt.Sprintf("objective %.4g %%", 100*(1-o.Budget)), 100 * (1 - o.Budget)}}
	last := looks[len(looks)-1].Evidence[i].Total
	c.Says = fmt.Sprintf("At the end the canary had %s, primary %s. The bands are 95 %% confidence.", tallyText(last.Canary), tallyText(last.Primary))
	return c
}

// evidence is how far the test was on its ways to either verdict.
func evidence(o verdict.Objective, i int, blocks []verdict.Block, looks []verdict.Judgement) *chart {
	c := &chart{Title: o.Name + ": evidence, at 100 % it decides", High: 100}
	bad, good := curve{Name: "unhealthy", Class: "bad", Points: []point{{}}}, curve{Name: "healthy", Class: "good", Points: []point{{}}}
	for k, look := range looks {
		against, safe := look.Evidence[i].Progress()
		bad.Points = append(bad.Points, point{At: blocks[k].Elapsed, Value: 100 * against})
		good.Points = append(good.Points, point{At: blocks[k].Elapsed, Value: 100 * safe})
	}
	against, safe := looks[len(looks)-1].Evidence[i].Progress()
	bad.Points, good.Points = thin(bad.Points, mostPoints), thin(good.Points, mostPoints)
	c.Curves = []curve{bad, good}
	c.Says = fmt.Sprintf("At the end it was shown unhealthy to %.0f %%, healthy to %.0f %%; at 100 %% the test decides.", 100*against, 100*safe)
	return c
}
