package report

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteMarkdown writes the release in flight, or else the newest, for a job's summary or a note: its outcome and
// why, its links, its timeline, and the figures of delivery.
func WriteMarkdown(out io.Writer, all Report) error {
	s := all.Status
	releases := summaries(s, all.Timeline, all.Now)
	if len(releases) == 0 {
		_, err := fmt.Fprintf(out, "No release of %s yet.\n", EscapeMarkdown(s.App))
		return err
	}
	r := releases[0]
	var b strings.Builder
	fmt.Fprintf(&b, "### Release `%s` of %s: %s\n\n", r.ID, EscapeMarkdown(s.App), strings.ReplaceAll(r.State, "_", " "))
	if r.Explanation != "" {
		fmt.Fprintf(&b, "%s\n\n", EscapeMarkdown(r.Explanation))
	}
	b.WriteString("| | |\n|---|---|\n")
	row := func(name, value string) { fmt.Fprintf(&b, "| %s | %s |\n", name, value) }
	row("Image", "`"+r.Image+"`")
	if r.Bundle != "" {
		row("Bundle", "`"+r.Bundle+"`")
	}
	if r.Commit != "" {
		row("Commit", MarkdownLink(r.Commit, r.Links.CommitURL))
	}
	if r.Git != nil && r.Git.Commit != "" {
		row("Environment", "commit `"+r.Git.Commit+"`")
	}
	if r.Origin != nil {
		row("Origin", EscapeMarkdown(r.Origin.String()))
	}
	if r.Links.RunURL != "" {
		row("GitHub", MarkdownLink("run", r.Links.RunURL))
	}
	if r.Links.PipelineURL != "" {
		row("GitLab", MarkdownLink("pipeline", r.Links.PipelineURL))
	}
	if r.Verdict != nil {
		row("Verdict", fmt.Sprintf("%s, based on %d requests of the canary", r.Verdict.Outcome, r.Verdict.Requests))
	}
	if by := r.Approvers(); by != "" {
		row("Approved by", EscapeMarkdown(by))
	}
	if s.Weights != nil {
		row("Traffic now", EscapeMarkdown(trafficText(s)))
	}
	if len(s.Queue) > 0 {
		row("Line", EscapeMarkdown(Line(s.Queue)))
	}
	if s.Hold != nil {
		row("Hold", EscapeMarkdown(s.Hold.String()))
	}
	row("Duration", r.Duration)
	b.WriteString("\n| Time (UTC) | Source | Event | Detail | By |\n|---|---|---|---|---|\n")
	for _, e := range r.Entries {
		by := EscapeMarkdown(e.By)
		if e.URL != "" {
			by = MarkdownLink(e.By, e.URL)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", e.At.UTC().Format("2006-01-02 15:04:05"), e.Source, EscapeMarkdown(e.Event), EscapeMarkdown(e.Detail), by)
	}
	if all.Delivery.Changes > 0 {
		fmt.Fprintf(&b, "\n| Delivery | since %s |\n|---|---|\n", all.Delivery.Since.UTC().Format(time.DateOnly))
		for _, f := range all.Delivery.Figures() {
			row(f.Name, EscapeMarkdown(f.Text))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// EscapeMarkdown makes a text that Markdown prints as it is, on one line. Nobody is mentioned by it, and nothing is
// referenced: GitHub looks for both after Markdown, where a backslash is gone, and GitLab before it, so a character without
// width parts them. Nor are addresses links.
func EscapeMarkdown(text string) string {
	var b strings.Builder
	for _, c := range strings.Join(strings.Fields(text), " ") {
		switch {
		case c == '@', c == '#':
			b.WriteRune(c)
			c = '\u200b'
		case strings.ContainsRune("\\`*_[]<>|!~&", c):
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	return withoutReferences(b.String())
}

var withoutReferences = strings.NewReplacer("://", ":\u200b//", "www.", "www\u200b.", "GH-", "GH-\u200b").Replace

// MarkdownLink is a text with a link to an address; without one, the text.
func MarkdownLink(text, address string) string {
	if text == "" {
		text = "page"
	}
	if address == "" {
		return EscapeMarkdown(text)
	}
	return fmt.Sprintf("[%s](<%s>)", EscapeMarkdown(text), strings.NewReplacer("<", "%3C", ">", "%3E", "\n", "", " ", "%20").Replace(address))
}
