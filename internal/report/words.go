package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/fatih/color"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// colored is a word of a release as a terminal shows it: outcomes, stages and verdicts. Package color leaves it
// plain where there is no terminal, and where NO_COLOR is set (https://no-color.org).
func colored(word string) string {
	paint := color.New(color.FgCyan)
	switch word {
	case string(release.OutcomePromoted), string(release.OutcomeFirst), string(release.OutcomeReturned), string(release.OutcomeUnchanged), string(release.Healthy):
		paint = color.New(color.FgGreen)
	case string(release.OutcomeRolledBack), string(release.StageRollingBack), string(release.Unhealthy):
		paint = color.New(color.FgRed)
	}
	return paint.Sprint(word)
}

// suffix is a reason as it follows an outcome; "" for none.
func suffix(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + rollout.OneLine(reason)
}

// shortDigest is a digest as people compare it.
func shortDigest(digest string) string {
	if hex, ok := strings.CutPrefix(digest, "sha256:"); ok && len(hex) > 12 {
		return "sha256:" + hex[:12]
	}
	return digest
}

// queuedText is a release in the line, for people.
func queuedText(q release.Queued, place int, wide bool) string {
	text := fmt.Sprintf("%d. %s since %s by %s", place+1, q.ID, q.EnteredAt.Format(time.RFC3339), rollout.OneLine(q.By))
	if !q.CalledAt.IsZero() {
		text += ", its turn since " + q.CalledAt.Format(time.RFC3339)
	}
	if !wide {
		return text
	}
	for _, more := range []string{q.Commit, shortDigest(release.DigestOf(q.Image)), shortDigest(release.DigestOf(q.Bundle)), q.PipelineURL} {
		if more != "" {
			text += ", " + more
		}
	}
	return text
}

// Line is what waits for its turn, for people; "" when nothing does.
func Line(queue []release.Queued) string {
	ids := make([]string, len(queue))
	for i, q := range queue {
		ids[i] = q.ID
	}
	return strings.Join(ids, ", ")
}

// dash is a table's cell: "-" for an empty one.
func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// nextStep is what an approver or a pipeline does from a stage on.
func nextStep(r *release.Release) string {
	if r.Return != nil && (r.Stage == release.StageStarted || r.Stage == release.StagePromoting) {
		return "rollback --to " + r.ID + " (it is not finished; run it again) or rollback"
	}
	if at := r.Plan.At(); r.AwaitsApproval() > 0 && r.Proven() {
		return "approve, then canary --follow, for " + r.Plan.Step(at)
	} else if !r.Plan.Finished() && (r.Stage == release.StageCanary || r.Stage == release.StageVerified) {
		return "canary --follow, for " + r.Plan.Step(at)
	}
	switch r.Stage {
	case release.StageStarted:
		return "canary (it is not finished; run it again)"
	case release.StageCanary:
		return "verify"
	case release.StageVerified:
		if r.Verdict != nil && r.Verdict.Outcome == release.Healthy {
			return "promote, by an approver"
		}
		return "rollback, or verify again"
	case release.StagePromoting:
		return "promote (it is not finished; run it again) or rollback"
	case release.StagePromoted:
		return "cleanup"
	default:
		return "rollback (it is not finished; run it again)"
	}
}

// FormatDuration is a duration as people read it: 41 s, 3 min 15 s, 2 h.
func FormatDuration(d time.Duration) string {
	switch {
	case d < 10*time.Second && d%time.Second != 0:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 10*time.Minute && d%time.Minute >= time.Second:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}
