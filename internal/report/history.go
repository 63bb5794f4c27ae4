package report

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// FinishedRelease is a line of an app's history.
type FinishedRelease struct {
	ID              string                 `json:"id"`
	Digest          string                 `json:"digest"`
	Commit          string                 `json:"commit,omitempty"`
	Bundle          string                 `json:"bundle,omitempty"`
	Outcome         release.Outcome        `json:"outcome"`
	Reason          string                 `json:"reason,omitempty"`
	StartedAt       time.Time              `json:"startedAt"`
	StartedBy       string                 `json:"startedBy"`
	FinishedAt      time.Time              `json:"finishedAt"`
	FinishedBy      string                 `json:"finishedBy"`
	PromotedBy      string                 `json:"promotedBy,omitempty"`
	ApprovedBy      string                 `json:"approvedBy,omitempty"`
	DurationSeconds float64                `json:"durationSeconds"`
	Verdict         release.VerdictOutcome `json:"verdict,omitempty"`
	Requests        int64                  `json:"canaryRequests,omitempty"` // that the verdict is based on
	Links           release.Links          `json:"links"`
}

// History is what became of releases, newest first.
func History(finished []release.Finished) []FinishedRelease {
	history := []FinishedRelease{}
	for i := range finished {
		f := &finished[i]
		p := FinishedRelease{
			ID: f.ID, Digest: f.Digest(), Commit: f.Commit, Bundle: f.Bundle, Outcome: f.Outcome, Reason: f.Why(), StartedAt: f.StartedAt, StartedBy: f.StartedBy,
			FinishedAt: f.FinishedAt, FinishedBy: f.FinishedBy, DurationSeconds: f.FinishedAt.Sub(f.StartedAt).Seconds(), Links: f.Links(), ApprovedBy: f.Approvers(),
		}
		if f.Verdict != nil {
			p.Verdict, p.Requests = f.Verdict.Outcome, f.Verdict.Requests
		}
		for _, step := range f.Steps {
			if step.Stage == release.StagePromoting {
				p.PromotedBy = step.By
			}
		}
		history = append(history, p)
	}
	return history
}

// WriteHistory writes a history as a table, for people; wide adds who started and approved each, its commit and pipeline.
func WriteHistory(out io.Writer, history []FinishedRelease, wide bool) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	header := "FINISHED (UTC)\tRELEASE\tDIGEST\tTOOK\tVERDICT\tREQUESTS\tPROMOTED BY\t"
	if wide {
		header += "STARTED BY\tAPPROVED BY\tCOMMIT\tPIPELINE\t"
	}
	fmt.Fprintln(w, header+"OUTCOME")
	for _, p := range history {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t", p.FinishedAt.UTC().Format("2006-01-02 15:04:05"), p.ID, shortDigest(p.Digest),
			FormatDuration(p.FinishedAt.Sub(p.StartedAt).Round(time.Second)), dash(string(p.Verdict)), dash(count(p.Requests)), dash(rollout.OneLine(p.PromotedBy)))
		if wide {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t", rollout.OneLine(p.StartedBy), dash(rollout.OneLine(p.ApprovedBy)), dash(p.Commit), dash(p.Links.PipelineURL))
		}
		fmt.Fprintf(w, "%s%s\n", colored(string(p.Outcome)), suffix(p.Reason))
	}
	return w.Flush()
}

// count is a number, "" for 0.
func count(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
