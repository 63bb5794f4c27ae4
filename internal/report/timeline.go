package report

import (
	"fmt"
	"io"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// Where an entry of a timeline is from.
const (
	Cluster = "cluster" // the ledger
	GitLab  = "gitlab"
	GitHub  = "github"
)

// Entry is one line of a timeline.
type Entry struct {
	At      time.Time `json:"at"`
	Source  string    `json:"source"`
	Release string    `json:"release"`
	Digest  string    `json:"digest"`
	What    string    `json:"what"`
	Detail  string    `json:"detail,omitempty"`
	By      string    `json:"by,omitempty"`
	URL     string    `json:"url,omitempty"` // page of it
}

// Timeline puts what the ledger knows, and what else is given, in the order of time, oldest first.
func Timeline(s *rollout.Status, others ...Entry) []Entry {
	entries := append([]Entry{}, others...)
	for _, f := range s.History {
		entries = append(entries, steps(&f.Release)...)
		entries = append(entries, entry(&f.Release, f.FinishedAt, string(f.Outcome), f.Reason, f.FinishedBy))
	}
	if s.Release != nil {
		entries = append(entries, steps(s.Release)...)
	}
	sort.SliceStable(entries, func(a, b int) bool { return entries[a].At.Before(entries[b].At) })
	return entries
}

func entry(r *release.Release, at time.Time, what, detail, by string) Entry {
	return Entry{At: at, Source: Cluster, Release: r.ID, Digest: r.Digest(), What: what, Detail: detail, By: by, URL: r.JobURL(by)}
}

func steps(r *release.Release) []Entry {
	var entries []Entry
	for _, v := range r.Judged {
		entries = append(entries, entry(r, v.At, "judged", fmt.Sprintf("%s: %s", v.Outcome, v.Reason), ""))
	}
	for _, step := range r.Steps {
		detail := ""
		switch {
		case step.Weight > 0:
			detail = fmt.Sprintf("%d %% of the traffic", step.Weight)
		case step.Stage == release.StageVerified && r.Verdict != nil:
			detail = fmt.Sprintf("%s: %s", r.Verdict.Outcome, r.Verdict.Reason)
		case step.Stage == release.StageRollingBack:
			detail = r.Reason
		}
		entries = append(entries, entry(r, step.At, string(step.Stage), detail, step.By))
	}
	for _, t := range r.Takeovers {
		entries = append(entries, entry(r, t.At, "taken over", "from "+t.From, t.By))
	}
	return entries
}

// Text writes a timeline for a person.
func Text(out io.Writer, entries []Entry) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.At.UTC().Format(time.RFC3339), e.Source, e.Release, short(e.Digest), e.What, e.By, e.Detail)
	}
	return w.Flush()
}
