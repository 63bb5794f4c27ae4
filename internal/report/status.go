// Package report shows where releases are and what happened to them: as text, as Markdown, as values for JSON, and
// as one HTML file that needs no network. It reads nothing itself.
package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// hookLine says where a hook of the release in flight is.
func hookLine(h *release.HookRun) string {
	text := fmt.Sprintf("%s %s", strings.TrimPrefix(h.String(), "hook "), colored(string(h.State)))
	if h.State == release.HookStarted {
		text += " " + h.StartedAt.Format(time.RFC3339) + " by " + rollout.OneLine(h.By)
	}
	parts := slices.DeleteFunc([]string{text, h.Job, h.URL, h.Message}, func(part string) bool { return part == "" })
	for i := range parts[1:] {
		parts[i+1] = rollout.OneLine(parts[i+1])
	}
	return strings.Join(parts, ", ")
}

// WriteStatus writes where an app's release is, for people; wide adds its steps and all of its history.
func WriteStatus(out io.Writer, s *rollout.Status, wide bool) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "app\t%s in %s\n", s.App, s.Namespace)
	if r := s.Release; r != nil {
		fmt.Fprintf(w, "release\t%s, %s\n", r.ID, r.Digest())
		fmt.Fprintf(w, "stage\t%s, started %s by %s\n", colored(string(r.Stage)), r.StartedAt.Format(time.RFC3339), rollout.OneLine(r.StartedBy))
		if r.Return != nil {
			fmt.Fprintf(w, "returns\t%s\n", rollout.OneLine(r.Why()))
		}
		if r.Verdict != nil {
			fmt.Fprintf(w, "verdict\t%s: %s\n", colored(string(r.Verdict.Outcome)), rollout.OneLine(r.Verdict.Reason))
		}
		if r.Origin != nil {
			fmt.Fprintf(w, "origin\t%s\n", r.Origin)
		}
		if by := r.Approvers(); by != "" {
			fmt.Fprintf(w, "approved\tby %s\n", rollout.OneLine(by))
		}
		for _, h := range r.Hooks {
			if wide || h.State != release.HookPassed {
				fmt.Fprintf(w, "hook\t%s\n", hookLine(&h))
			}
		}
		for i, planned := range r.Plan {
			fmt.Fprintf(w, "%s\t%s\n", map[bool]string{true: "steps"}[i == 0], stepText(r.Plan, i, planned))
		}
		links := r.Links()
		step := r.Steps[len(r.Steps)-1]
		for _, page := range []struct{ name, address string }{{"commit", links.CommitURL}, {"run", links.RunURL}, {"pipeline", r.PipelineURL}, {"job", r.JobURL(step.By)}} {
			if page.address != "" {
				fmt.Fprintf(w, "%s\t%s\n", page.name, page.address)
			}
		}
		if wide {
			for _, step := range r.Steps {
				fmt.Fprintf(w, "%s\t%s by %s\n", step.Stage, step.At.Format(time.RFC3339), rollout.OneLine(step.By))
			}
		}
		fmt.Fprintf(w, "next\t%s\n", nextStep(r))
	} else if s.Problem != "" {
		fmt.Fprintf(w, "release\tnot known: %s\n", rollout.OneLine(s.Problem))
	} else {
		fmt.Fprintf(w, "release\tnone in flight\n")
	}
	if s.Warm != nil {
		fmt.Fprintf(w, "warm\tthe pods of release %s until %s; `crossbill rollback --to %s` returns to them\n", s.Warm.Release, s.Warm.Until.Format(time.RFC3339), s.Warm.Release)
	}
	if s.Hold != nil {
		fmt.Fprintf(w, "hold\t%s; `crossbill resume` ends it\n", rollout.OneLine(s.Hold.String()))
	}
	for i, q := range s.Queue {
		label := "line"
		if i > 0 {
			label = ""
		}
		fmt.Fprintf(w, "%s\t%s\n", label, queuedText(q, i, wide))
	}
	if s.Lock != "" {
		died := ""
		if s.Expired {
			died = ", a job that died: run its command again, or rollback"
		}
		fmt.Fprintf(w, "lock\theld by %s%s\n", rollout.OneLine(s.Lock), died)
	}
	if s.Weights != nil {
		fmt.Fprintf(w, "traffic\t%s\n", trafficText(s))
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		t := s.Tracks[track]
		if t == nil {
			fmt.Fprintf(w, "%s\tnot found\n", track)
			continue
		}
		fmt.Fprintf(w, "%s\t%d of %d ready, %s\n", track, t.Ready, t.Replicas, t.Image)
	}
	if t := s.Tracks[manifest.BaselineTrack]; t != nil {
		fmt.Fprintf(w, "%s\t%s, %s\n", manifest.BaselineTrack, baselineText(t), t.Image)
	}
	for _, drift := range s.Drift {
		fmt.Fprintf(w, "drift\t%s\n", rollout.OneLine(drift))
	}
	for i, f := range s.History {
		label := "last"
		if i > 0 {
			label = ""
		}
		if i == 3 && !wide {
			fmt.Fprintf(w, "\t… %d more in `crossbill history`\n", len(s.History)-i)
			break
		}
		fmt.Fprintf(w, "%s\t%s %s %s%s\n", label, f.FinishedAt.Format(time.RFC3339), colored(string(f.Outcome)), shortDigest(f.Digest()), suffix(f.Why()))
	}
	return w.Flush()
}

// baselineText is how many pods of a baseline are ready, and what they get.
func baselineText(t *rollout.TrackStatus) string {
	text := fmt.Sprintf("%d of %d ready", t.Ready, t.Replicas)
	if t.Share > 0 {
		text += fmt.Sprintf(", about %d%% of the traffic, out of primary's", t.Share)
	}
	return text
}

// trafficText is what leads to both tracks now.
func trafficText(s *rollout.Status) string {
	text := fmt.Sprintf("%d%% primary, canary ", s.Weights.Primary)
	if s.Match == nil && s.Mirror == 0 {
		return fmt.Sprintf("%d%% primary, %d%% canary", s.Weights.Primary, s.Weights.Canary)
	}
	text += fmt.Sprintf("%d%%", s.Weights.Canary)
	if s.Match != nil {
		text += " and requests with " + s.Match.Text()
	}
	if s.Mirror > 0 {
		text += fmt.Sprintf(", and copies of %d%% of the safe requests", s.Mirror)
	}
	return text
}

// stepText is a step of a plan with a mark: done, left out, the one that the release is at, or to come.
func stepText(p release.Plan, i int, s release.PlanStep) string {
	switch {
	case s.Skipped:
		return fmt.Sprintf("– %d %s, left out by %s", i+1, s, s.By)
	case s.Done():
		return fmt.Sprintf("✓ %d %s, %s", i+1, s, s.DoneAt.Format(time.RFC3339))
	case i == p.At():
		return fmt.Sprintf("→ %d %s", i+1, s)
	}
	return fmt.Sprintf("  %d %s", i+1, s)
}
