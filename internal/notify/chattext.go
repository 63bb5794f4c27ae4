package notify

import (
	"fmt"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
)

// The events of a release that chats can be sent.
const (
	ChatCanary     = "canary"     // the canary gets its first traffic
	ChatShift      = "shift"      // it gets another share
	ChatVerdict    = "verdict"    // it was judged
	ChatApproval   = "approval"   // it waits for an approver; and the reminders
	ChatPromoted   = "promoted"   // it has all of the traffic
	ChatFinished   = "finished"   // the canary is removed
	ChatRolledBack = "rolledBack" // the version before has all of the traffic again
	ChatFailed     = "failed"     // somebody has to look: a command failed, or there was no verdict
)

// DefaultChatEvents are those by which somebody has to do something, or which end a release.
var DefaultChatEvents = []string{ChatApproval, ChatPromoted, ChatRolledBack, ChatFailed}

// chatEvents are the events that a command has brought about, the most important one first. What another command has done
// before is none: so a command that is run again says nothing twice.
func chatEvents(e *Event) []string {
	switch e.Result {
	case Refused, Waits:
		return nil
	case Asks:
		return []string{ChatApproval}
	case Waited:
		return []string{ChatFailed}
	case Failed:
		if e.Command == "guard" { // it runs on a schedule
			return nil
		}
		return []string{ChatFailed}
	case Inconclusive:
		return []string{ChatFailed, ChatVerdict}
	case Unhealthy, NotReady:
		if e.Outcome == release.OutcomeRolledBack {
			return []string{ChatRolledBack, ChatVerdict, ChatFailed}
		}
		return []string{ChatFailed, ChatRolledBack, ChatVerdict}
	}
	switch e.Outcome {
	case release.OutcomeFirst:
		return []string{ChatPromoted, ChatFinished}
	case release.OutcomePromoted:
		return append(e.steps(), ChatFinished)
	case release.OutcomeReturned, release.OutcomeRolledBack:
		return []string{ChatRolledBack, ChatFinished}
	case release.OutcomeSuperseded:
		return []string{ChatFinished}
	case "":
		return e.steps()
	}
	return nil
}

// steps are the events of the steps that the command has taken, the last one first.
func (e *Event) steps() (events []string) {
	if e.Release == nil {
		return nil
	}
	served := false
	for _, step := range e.Release.Steps {
		event := ""
		switch step.Stage {
		case release.StageCanary:
			if event = ChatShift; !served {
				event = ChatCanary
			}
			served = true
		case release.StageVerified:
			if event = ChatVerdict; e.Asked { // who was asked knows it
				event = ""
			}
		case release.StagePromoted:
			event = ChatPromoted
		}
		if event != "" && step.By == e.By && !step.At.Before(e.StartedAt.Truncate(time.Millisecond)) {
			events = append([]string{event}, events...)
		}
	}
	return events
}

// chatKey names an event of a release, so that one process sends it once.
func chatKey(e *Event, what string) string {
	key := strings.Join([]string{e.Namespace, e.App, e.ReleaseID, what}, "/")
	if r := e.Release; r != nil && (what == ChatCanary || what == ChatShift || what == ChatVerdict) {
		key += fmt.Sprint(len(r.Steps))
	}
	if e.Result == Asks {
		key += e.Release.Asked.At.String()
	}
	return key
}

// note is what people read.
type note struct {
	title string
	lines []string
	links []chatLink
}

type chatLink struct{ text, address string }

// longestLine is how many characters of one text are sent.
const longestLine = 400

// noteOf says what has happened, and who is awaited.
func (c Chat) noteOf(e *Event, what string) note {
	n := note{title: fmt.Sprintf("%s in %s: %s", e.App, e.Namespace, chatTitle(e, what))}
	line := func(format string, args ...any) {
		text := strings.ReplaceAll(strings.TrimSpace(fmt.Sprintf(format, args...)), "\n", "; ")
		if text = strings.Join(strings.Fields(text), " "); text != "" {
			n.lines = append(n.lines, truncate(text, longestLine))
		}
	}
	r := e.Release
	if what == ChatApproval {
		line("%s", c.ask(e))
		if c.Approvers != "" {
			line("May approve: %s.", c.Approvers)
		}
	} else if said := e.Message; said != "" {
		line("%s", said)
	}
	if r != nil {
		if v := r.Verdict; v != nil && !strings.Contains(e.Message, v.Reason) {
			line("%s: %s", v.Outcome, v.Reason)
		}
		if r.Reason != "" && !strings.Contains(e.Message, r.Reason) && (r.Verdict == nil || r.Verdict.Reason != r.Reason) {
			line("Why: %s", r.Reason)
		}
		if split := traffic(e); split != "" {
			line("Traffic: %s.", split)
		}
	}
	line("%s", chatRelease(e))
	if r == nil {
		return n
	}
	links := r.Links()
	for _, l := range []chatLink{{"pipeline", links.PipelineURL}, {"commit", links.CommitURL}, {"GitHub run", links.RunURL}} {
		if l.address != "" {
			n.links = append(n.links, l)
		}
	}
	return n
}

// chatTitle is what has happened, in a few words.
func chatTitle(e *Event, what string) string {
	switch {
	case what == ChatApproval && e.Release.Asked != nil && e.Release.Asked.Times > 1:
		return "still waits for you"
	case what == ChatApproval:
		return "waits for you"
	case what == ChatFinished && e.Outcome == release.OutcomePromoted:
		return "finished"
	}
	state, _ := stateOf(e)
	return state
}

// ask says what is asked of whom.
func (c Chat) ask(e *Event) string {
	r := e.Release
	text := fmt.Sprintf("Healthy with %s", r.Gets())
	if a := r.Asked; a != nil && a.Times > 1 {
		text += " for " + report.FormatDuration(a.At.Sub(a.Since).Round(time.Minute))
	}
	switch at := r.AwaitsApproval(); {
	case at > 0:
		text += ". An approver lets it go on, with crossbill approve: " + r.Plan.Step(at-1)
	case r.Proposal != "":
		text += ". An approver promotes it, with crossbill approve --in-git"
	case r.Links().PipelineURL != "" && c.Button != "":
		text += ". An approver starts the job " + c.Button + " in the pipeline, or rolls back"
	default:
		text += ". An approver promotes it, or rolls back"
	}
	return text + "."
}

// chatRelease names a release, its commit and who started it.
func chatRelease(e *Event) string {
	if e.ReleaseID == "" {
		return ""
	}
	text := "Release " + e.ReleaseID
	r := e.Release
	if r == nil {
		return text
	}
	if r.Commit != "" {
		text += ", commit " + r.Commit[:min(len(r.Commit), 12)]
	}
	if r.StartedBy != "" {
		text += ", started by " + r.StartedBy
	}
	return text
}

// markup is how a service writes a link, and what keeps a text from being markup.
type markup struct {
	link   string // of its text and its address
	escape func(string) string
}

// Of Slack (https://docs.slack.dev/messaging/formatting-message-text), of Markdown, and of plain text. Where there is no way
// to escape, a character without width parts what would mention somebody or be a link.
var (
	slackMarkup    = markup{"<%[2]s|%[1]s>", escapeSlack}
	markdownMarkup = markup{"[%[1]s](%[2]s)", strings.NewReplacer("@", "@\u200b", "](", "]\u200b(", "<", "<\u200b", "://", ":\u200b//").Replace}
	plainMarkup    = markup{"%[1]s: %[2]s", strings.NewReplacer().Replace}
)

// without is the same markup where a character cannot be escaped.
func (m markup) without(character string) markup {
	m.escape = strings.NewReplacer(character, character+"\u200b").Replace
	return m
}

// text is a note in a service's markup.
func (n note) text(m markup) (title, body string) {
	var b strings.Builder
	for i, line := range n.lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(m.escape(line))
	}
	for i, l := range n.links {
		b.WriteString(map[bool]string{true: "\n", false: " · "}[i == 0])
		fmt.Fprintf(&b, m.link, l.text, escapeLink(l.address))
	}
	return m.escape(n.title), b.String()
}

// escapeLink makes an address that ends none of the markups.
var escapeLink = strings.NewReplacer("<", "%3C", ">", "%3E", "|", "%7C", "(", "%28", ")", "%29", " ", "%20", "\n", "").Replace
