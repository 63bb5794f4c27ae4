package report

import (
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

// summary is a release as a page shows it.
type summary struct {
	*release.Release
	Links       release.Links
	State       string // its outcome; of one in flight its stage
	Explanation string // the reason of its outcome, or what comes next
	FinishedAt  time.Time
	FinishedBy  string
	Duration    string

	Decisions []decision
	Charts    []*chart
	Entries   []Entry
}

// decision is a verdict with what it is based on.
type decision struct {
	release.Verdict
	Test       *verdict.Test // nil when its counts are not kept
	Objectives []objective
}

// objective is what the counts of one objective say.
type objective struct {
	Name, Target    string
	Canary, Primary string
	Bad, Good       string // how far the evidence is
}

// summaries are the releases of an app, the one in flight first, then newest first.
func summaries(s *rollout.Status, entries []Entry, now time.Time) []summary {
	var all []summary
	if r := s.Release; r != nil {
		one := summaryOf(r, "", entries, now)
		one.State, one.Explanation = string(r.Stage), "next: "+nextStep(r)
		all = append(all, one)
	}
	for i := range s.History {
		f := &s.History[i]
		one := summaryOf(&f.Release, f.Outcome, entries, f.FinishedAt)
		one.State, one.FinishedAt, one.FinishedBy = string(f.Outcome), f.FinishedAt, f.FinishedBy
		if one.Explanation = f.Reason; one.Explanation == "" && f.Verdict != nil {
			one.Explanation = f.Verdict.Reason
		}
		all = append(all, one)
	}
	for i := range all {
		for k, c := range all[i].Charts {
			c.ID = fmt.Sprintf("chart-%d-%d", i, k)
		}
	}
	return all
}

// summaryOf is what is common to releases that have finished and the one in flight, whose outcome is "".
func summaryOf(r *release.Release, outcome release.Outcome, entries []Entry, until time.Time) summary {
	s := summary{Release: r, Links: r.Links(), Duration: FormatDuration(until.Sub(r.StartedAt).Round(time.Second)), Charts: []*chart{weightChart(r, until, outcome)}}
	for _, v := range r.Judged {
		s.Decisions = append(s.Decisions, decision{Verdict: v})
	}
	if r.Verdict != nil {
		d, charts := lastDecision(r)
		s.Decisions = append(s.Decisions, d)
		s.Charts = append(s.Charts, charts...)
	}
	for _, e := range entries {
		if e.ReleaseID == r.ID && !e.At.Before(r.StartedAt.Add(-time.Hour)) && !e.At.After(until.Add(time.Hour)) { // an id may be released again
			s.Entries = append(s.Entries, e)
		}
	}
	return s
}

// Good says whether there is nothing to explain.
func (s summary) Good() bool { return s.FinishedBy != "" && release.Outcome(s.State).Good() }

// Requests is how many requests of the canary its last verdict is based on.
func (s summary) Requests() int64 {
	if s.Verdict == nil {
		return 0
	}
	return s.Verdict.Requests
}

// lastDecision is the last verdict of a release, and for each objective the charts of what it is based on.
func lastDecision(r *release.Release) (decision, []*chart) {
	d := decision{Verdict: *r.Verdict}
	record, err := verdict.ParseRecord(r.Verdict.Evidence)
	if err != nil || len(record.Blocks) == 0 {
		return d, nil
	}
	d.Test = &record.Test
	looks := record.Judgments()
	var charts []*chart
	for i, o := range record.Test.Objectives {
		last := looks[len(looks)-1].Evidence[i]
		bad, good := last.Progress()
		d.Objectives = append(d.Objectives, objective{
			Name: o.Name, Target: target(&record.Test, o),
			Canary: tallyText(last.Total.Canary), Primary: tallyText(last.Total.Primary),
			Bad: fmt.Sprintf("%.0f%%", 100*bad), Good: fmt.Sprintf("%.0f%%", 100*good),
		})
		charts = append(charts, ratioChart(&record.Test, i, record.Blocks, looks), evidenceChart(o, i, record.Blocks, looks))
	}
	return d, charts
}

// target says what makes a canary good and bad by an objective.
func target(test *verdict.Test, o verdict.Objective) string {
	if o.Relative {
		return fmt.Sprintf("not above %s; bad from %.4g points above", test.Beside(), 100*o.Margin)
	}
	return fmt.Sprintf("%.4g%% good; bad below %.4g%%", 100*(1-o.Budget), 100*(1-o.Budget-o.Margin))
}

func tallyText(t verdict.Tally) string {
	if t.Events == 0 {
		return "no requests"
	}
	return fmt.Sprintf("%.2f%% of %.0f", 100*(1-t.Share()), t.Events)
}
