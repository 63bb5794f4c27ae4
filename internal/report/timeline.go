package report

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// The sources of a timeline's entries.
const (
	Cluster = "cluster" // the ledger
	GitLab  = "gitlab"
	GitHub  = "github"
)

// Entry is one line of a timeline.
type Entry struct {
	At        time.Time `json:"at"`
	Source    string    `json:"source"`
	ReleaseID string    `json:"releaseId"`
	Digest    string    `json:"digest"`
	Event     string    `json:"event"`
	Detail    string    `json:"detail,omitempty"`
	By        string    `json:"by,omitempty"`
	URL       string    `json:"url,omitempty"`
}

// Report is what is known of an app's releases.
type Report struct {
	Status   *rollout.Status `json:"-"`
	Timeline []Entry         `json:"items"`
	Delivery Delivery        `json:"delivery"`
	Missing  []string        `json:"-"` // what could not be read
	Now      time.Time       `json:"-"`
}

// Timeline sorts what the ledger knows and other entries by time, oldest first.
func Timeline(s *rollout.Status, others ...Entry) []Entry {
	entries := append([]Entry{}, others...)
	for _, f := range s.History {
		entries = append(entries, entriesOf(&f.Release)...)
		entries = append(entries, entry(&f.Release, f.FinishedAt, string(f.Outcome), f.Why(), f.FinishedBy))
	}
	if s.Release != nil {
		entries = append(entries, entriesOf(s.Release)...)
	}
	sort.SliceStable(entries, func(a, b int) bool { return entries[a].At.Before(entries[b].At) })
	return entries
}

// entry is one of the ledger's.
func entry(r *release.Release, at time.Time, event, detail, by string) Entry {
	return Entry{At: at, Source: Cluster, ReleaseID: r.ID, Digest: r.Digest(), Event: event, Detail: detail, By: by, URL: r.JobURL(by)}
}

// entriesOf are the entries of what a release has done so far.
func entriesOf(r *release.Release) []Entry {
	var entries []Entry
	for _, v := range r.Judged {
		entries = append(entries, entry(r, v.At, "judged", fmt.Sprintf("%s: %s", v.Outcome, v.Reason), ""))
	}
	for _, step := range r.Steps {
		detail := ""
		switch {
		case step.Gets != "":
			detail = step.Gets
		case step.Weight > 0:
			detail = fmt.Sprintf("%d%% of the traffic", step.Weight)
		case step.Stage == release.StageVerified && r.Verdict != nil:
			detail = fmt.Sprintf("%s: %s", r.Verdict.Outcome, r.Verdict.Reason)
		case step.Stage == release.StageRollingBack:
			detail = r.Reason
		}
		entries = append(entries, entry(r, step.At, string(step.Stage), detail, step.By))
	}
	for i, s := range r.Plan {
		switch {
		case !s.Done():
		case s.Skipped:
			entries = append(entries, entry(r, s.DoneAt, "step", r.Plan.Step(i)+", left out", s.By))
		case s.Weight == 0 && s.Analyze == nil: // a weight and a verdict are there already
			entries = append(entries, entry(r, s.DoneAt, "step", r.Plan.Step(i), s.By))
		}
	}
	for _, a := range r.Approvals {
		detail := fmt.Sprintf("%s, %s", a.Command, a.Kind)
		if a.Kind == release.ApprovalUnverified {
			detail = a.Command + ", not verified: no policy asks for an approver"
		}
		e := entry(r, a.At, "approved", detail, a.By)
		if a.Job != "" {
			e.URL = r.JobURL(a.By + "@gitlab-job-" + a.Job)
		}
		entries = append(entries, e)
	}
	for _, h := range r.Hooks {
		at, detail := h.FinishedAt, strings.TrimPrefix(h.String(), "hook ")
		if h.State == release.HookStarted {
			at = h.StartedAt
		}
		for _, more := range []string{h.Message, h.Job, h.URL} {
			if more != "" {
				detail += "; " + more
			}
		}
		entries = append(entries, entry(r, at, "hook "+string(h.State), detail, h.By))
	}
	for _, t := range r.Takeovers {
		entries = append(entries, entry(r, t.At, "taken over", "from "+t.From, t.By))
	}
	return entries
}

// WriteReport writes the timeline and the figures of delivery, for people.
func WriteReport(out io.Writer, r Report) error {
	if err := writeTimeline(out, r.Timeline); err != nil || r.Delivery.Changes == 0 {
		return err
	}
	if _, err := fmt.Fprintln(out); err != nil {
		return err
	}
	return writeDelivery(out, r.Delivery)
}

func writeTimeline(out io.Writer, entries []Entry) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, e := range entries {
		cells := []string{e.At.UTC().Format(time.RFC3339), e.Source, e.ReleaseID, shortDigest(e.Digest), e.Event, e.By, e.Detail}
		for i := range cells {
			cells[i] = rollout.OneLine(cells[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}
