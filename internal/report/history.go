package report

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Past is a release that has ended, as a line of its app's history.
type Past struct {
	ID       string                 `json:"id"`
	Digest   string                 `json:"digest"`
	Commit   string                 `json:"commit,omitempty"`
	Outcome  release.Outcome        `json:"outcome"`
	Reason   string                 `json:"reason,omitempty"`
	Begun    time.Time              `json:"begun"`
	BegunBy  string                 `json:"begunBy"`
	Ended    time.Time              `json:"ended"`
	EndedBy  string                 `json:"endedBy"`
	Promoted string                 `json:"promotedBy,omitempty"` // who let it through
	Seconds  float64                `json:"seconds"`
	Verdict  release.VerdictOutcome `json:"verdict,omitempty"`
	Requests int64                  `json:"canaryRequests,omitempty"` // that the verdict rests on
	Links    release.Links          `json:"links"`
}

// History is what became of releases, newest first.
func History(finished []release.Finished) []Past {
	past := []Past{}
	for i := range finished {
		f := &finished[i]
		p := Past{
			ID: f.ID, Digest: f.Digest(), Commit: f.Commit, Outcome: f.Outcome, Reason: f.Reason, Begun: f.StartedAt, BegunBy: f.StartedBy,
			Ended: f.FinishedAt, EndedBy: f.FinishedBy, Seconds: f.FinishedAt.Sub(f.StartedAt).Seconds(), Links: f.Release.Links(),
		}
		if f.Verdict != nil {
			p.Verdict, p.Requests = f.Verdict.Outcome, f.Verdict.Requests
		}
		for _, step := range f.Steps {
			if step.Stage == release.StagePromoting {
				p.Promoted = step.By
			}
		}
		past = append(past, p)
	}
	return past
}

// HistoryText writes a history as a table, for a person; wide also who began each, its commit and pipeline.
func HistoryText(out io.Writer, past []Past, wide bool) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	header := "ENDED (UTC)\tRELEASE\tDIGEST\tTOOK\tVERDICT\tREQUESTS\tPROMOTED BY\t"
	if wide {
		header += "BEGUN BY\tCOMMIT\tPIPELINE\t"
	}
	fmt.Fprintln(w, header+"OUTCOME")
	for _, p := range past {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t", p.Ended.UTC().Format("2006-01-02 15:04:05"), p.ID, short(p.Digest),
			Took(p.Ended.Sub(p.Begun).Round(time.Second)), orDash(string(p.Verdict)), orDash(count(p.Requests)), orDash(p.Promoted))
		if wide {
			fmt.Fprintf(w, "%s\t%s\t%s\t", p.BegunBy, orDash(p.Commit), orDash(p.Links.PipelineURL))
		}
		fmt.Fprintf(w, "%s%s\n", coloured(string(p.Outcome)), because(p.Reason))
	}
	return w.Flush()
}

func count(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
