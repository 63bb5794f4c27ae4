package notify

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
)

// page is what people see of a release on its commit and its pull or merge request.
type page struct {
	title      string // plain text, one line
	conclusion string // GitHub's word for how it ended; "" while it goes on
	body       string // Markdown
}

// longestPage is how many bytes of Markdown GitHub takes, for a comment and for a check run alike. It says characters,
// and counts bytes (https://github.com/github/docs/issues/35252).
const longestPage = 65535

// longestText is how long one text that comes from elsewhere may be.
const longestText = 1000

// pageOf is the page of a release after an event. pipelineURL is that of its pipeline, "" if it is not known.
func pageOf(e *Event, pipelineURL string) page {
	state, conclusion := stateOf(e)
	p := page{title: e.App + ": " + state, conclusion: conclusion}
	var b strings.Builder
	fmt.Fprintf(&b, "### %s: %s\n\n| | |\n|---|---|\n", escapePage(e.App), escapePage(state))
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "| %s | %s |\n", name, value)
		}
	}
	row("Waits for", waitsFor(e, conclusion, pipelineURL))
	if r := e.Release; r != nil {
		row("Stage", stageText(e))
		row("Traffic", escapePage(traffic(e)))
		row("Evidence", evidence(e))
		row("Verdict", verdictText(e))
		row("Approved by", escapePage(r.Approvers()))
	}
	row("What happened", whatHappened(e))
	row("Release", releaseText(e))
	if pipelineURL != "" {
		row("Pipeline", report.MarkdownLink("GitLab", pipelineURL))
	}
	fmt.Fprintf(&b, "\nBy `crossbill %s` in %s, %s.\n", e.Command, escapePage(e.Namespace), e.FinishedAt.UTC().Format(timeText))
	p.body = b.String()
	return p
}

const timeText = "2006-01-02 15:04:05 UTC"

// The conclusions of a check run that are used.
const (
	success  = "success"
	failure  = "failure"
	canceled = "cancelled" //nolint:misspell // GitHub writes it so
)

// stateOf is where a release is, for people, and its conclusion.
func stateOf(e *Event) (state, conclusion string) {
	if e.SupersededBy != "" {
		return "superseded by release " + e.SupersededBy, canceled
	}
	switch e.Outcome {
	case release.OutcomeFirst:
		return "released, straight to primary as the first release", success
	case release.OutcomePromoted, release.OutcomeReturned:
		return string(e.Outcome), success
	case release.OutcomeUnchanged:
		return "unchanged, primary ran it already", success
	case release.OutcomeRolledBack:
		return "rolled back", failure
	case release.OutcomeSuperseded:
		return "superseded", canceled
	}
	if r := e.Release; r != nil && r.Stage == release.StagePromoted { // it has all of the traffic, whatever became of the command
		return "promoted", success
	}
	switch e.Result {
	case Waits:
		return "waits in the line", ""
	case Waited:
		return "has left the line", canceled
	case Unhealthy:
		return "unhealthy", failure
	case NotReady:
		return "not ready", failure
	case Inconclusive:
		return "no verdict yet: inconclusive", ""
	case Failed:
		return e.Command + " did not finish", ""
	}
	return inFlight(e), ""
}

// inFlight is the state of a release that goes on.
func inFlight(e *Event) string {
	r := e.Release
	if r == nil {
		return e.Command
	}
	switch {
	case e.Progress != nil && e.Progress.Outcome == release.Healthy, r.Proven():
		return fmt.Sprintf("healthy with %d%% of the traffic", r.Weight)
	case e.Progress != nil:
		return fmt.Sprintf("analyzed with %d%% of the traffic", r.Weight)
	case r.Stage == release.StageCanary, r.Stage == release.StageVerified:
		return fmt.Sprintf("canary with %d%% of the traffic", r.Weight)
	case r.Stage == release.StagePromoting:
		return "being promoted"
	case r.Stage == release.StageRollingBack:
		return "being rolled back"
	}
	return "started"
}

// waitsFor says who or what a release waits for, in Markdown, with a link to where that is done.
func waitsFor(e *Event, conclusion, pipelineURL string) string {
	at := func(text string) string {
		if pipelineURL == "" {
			return text
		}
		return text + ", in the " + report.MarkdownLink("pipeline", pipelineURL)
	}
	r := e.Release
	switch {
	case conclusion == success && e.Outcome == "":
		return at("`cleanup`")
	case conclusion == failure && e.Outcome == "" && r != nil:
		return at("**somebody** who rolls back, or runs the job again")
	case conclusion != "":
		return "nobody"
	case e.Result == Waits:
		return "its turn"
	case e.Result == Inconclusive:
		return at("**somebody** who runs `verify` again, or rolls back")
	case e.Result == Failed:
		return at("**somebody** who runs the job again, or rolls back")
	case r == nil:
		return ""
	case r.AwaitsApproval() > 0 && healthy(e):
		return at("**an approver**, for " + escapePage(r.Plan.Step(r.Plan.At())))
	case !r.Plan.Finished() && healthy(e):
		return at(escapePage(r.Plan.Step(r.Plan.At())))
	case healthy(e):
		return at("**an approver**, who promotes it or rolls back")
	case e.Progress != nil:
		return "the analysis"
	case r.Stage == release.StageCanary:
		return at("`verify`")
	}
	return ""
}

// healthy says whether the canary was judged healthy as it is.
func healthy(e *Event) bool {
	return e.Progress != nil && e.Progress.Outcome == release.Healthy || e.Progress == nil && e.Release.Proven()
}

// stageText is the stage with its step of the plan.
func stageText(e *Event) string {
	r := e.Release
	if e.Outcome != "" {
		return "finished"
	}
	text := strings.ReplaceAll(string(r.Stage), "_", " ")
	if len(r.Plan) > 0 && !r.Plan.Finished() {
		text += ", " + escapePage(r.Plan.Step(r.Plan.At()))
	}
	return text
}

// traffic is which version gets which share.
func traffic(e *Event) string {
	r := e.Release
	switch {
	case e.SupersededBy != "" || e.Outcome == release.OutcomeSuperseded: // the newer one has what there is
		return ""
	case e.Outcome == release.OutcomeRolledBack:
		return "100% to the version before"
	case e.Outcome != "" || r.Stage == release.StagePromoted:
		return "100% to this release"
	case r.Stage == release.StageStarted || r.Stage == release.StageRollingBack && r.Weight == 0:
		return "100% to primary"
	}
	return fmt.Sprintf("canary: %s; primary: %d%%", r.Gets(), 100-r.Weight)
}

// evidence is how much there is, and when it will be enough.
func evidence(e *Event) string {
	p := e.Progress
	if p == nil {
		return ""
	}
	text := fmt.Sprintf("%.0f%% of what a healthy verdict needs, from %d requests of the canary", math.Floor(100*p.Enough), p.Requests)
	switch {
	case p.Outcome == release.Healthy:
		text = fmt.Sprintf("enough, from %d requests of the canary", p.Requests)
	case p.Left > 0:
		text += fmt.Sprintf("; enough at about %s UTC (in %s)", e.FinishedAt.Add(p.Left).UTC().Format("15:04"), report.FormatDuration(p.Left.Round(time.Second)))
	default:
		text += "; when it will be enough is not known yet"
	}
	if p.Missing != "" && p.Outcome == "" {
		text += "<br>" + escapePage(p.Missing)
	}
	return text
}

// verdictText is the last verdict with its reason.
func verdictText(e *Event) string {
	v := e.Release.Verdict
	if v == nil || e.Progress != nil && e.Progress.Outcome == "" && !v.On(e.Release.Subject()) {
		return ""
	}
	return fmt.Sprintf("**%s**, from %d requests of the canary, at %s<br>%s", v.Outcome, v.Requests, v.At.UTC().Format(timeText), escapePage(v.Reason))
}

// whatHappened is what the command did, or why it failed.
func whatHappened(e *Event) string {
	if e.Progress != nil {
		return ""
	}
	if r := e.Release; r != nil && e.Result == Succeeded && r.Proven() && strings.Contains(e.Message, r.Verdict.Reason) { // which is said above
		return ""
	}
	text := escapePage(e.Message)
	if r := e.Release; r != nil && r.Reason != "" && !strings.Contains(e.Message, r.Reason) {
		text += "<br>Why: " + escapePage(r.Reason)
	}
	return text
}

// releaseText names a release.
func releaseText(e *Event) string {
	text := "`" + escapeCode(e.ReleaseID) + "`"
	r := e.Release
	if r == nil {
		return text
	}
	if _, hex, ok := strings.Cut(r.Digest(), ":"); ok && len(hex) >= 12 {
		text += ", image `sha256:" + escapeCode(hex[:12]) + "…`"
	}
	if r.StartedAt.IsZero() {
		return text
	}
	text += ", started " + r.StartedAt.UTC().Format(timeText)
	if r.StartedBy != "" {
		text += " by " + escapePage(r.StartedBy)
	}
	return text
}

// escapePage makes a text that GitHub and GitLab show as it is: only the page's own links lead anywhere.
func escapePage(text string) string { return report.EscapeMarkdown(truncate(text, longestText)) }

// escapeCode makes a text that may stand between backticks in a table.
var escapeCode = strings.NewReplacer("`", "", "|", "", "\n", " ").Replace
