package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/rollout"
)

// Markdown writes the release in flight, or else the newest, for a job's summary or a note: what came of it
// and why, its links, its timeline.
func Markdown(out io.Writer, s *rollout.Status, entries []Entry, now time.Time) error {
	stories := Stories(s, entries, now)
	if len(stories) == 0 {
		_, err := fmt.Fprintf(out, "No release of %s yet.\n", plain(s.App))
		return err
	}
	r := stories[0]
	var b strings.Builder
	fmt.Fprintf(&b, "### Release `%s` of %s: %s\n\n", r.ID, plain(s.App), strings.ReplaceAll(r.Outcome, "_", " "))
	if r.Why != "" {
		fmt.Fprintf(&b, "%s\n\n", plain(r.Why))
	}
	b.WriteString("| | |\n|---|---|\n")
	row := func(name, value string) { fmt.Fprintf(&b, "| %s | %s |\n", name, value) }
	row("Image", "`"+r.Image+"`")
	if r.Commit != "" {
		row("Commit", link(r.Commit, r.Links.CommitURL))
	}
	if r.Links.RunURL != "" {
		row("GitHub", link("run", r.Links.RunURL))
	}
	if r.Links.PipelineURL != "" {
		row("GitLab", link("pipeline", r.Links.PipelineURL))
	}
	if r.Verdict != nil {
		row("Verdict", fmt.Sprintf("%s, by %d requests of the canary", r.Verdict.Outcome, r.Verdict.Requests))
	}
	if s.Weights != nil {
		row("Traffic now", fmt.Sprintf("%d %% primary, %d %% canary", s.Weights.Primary, s.Weights.Canary))
	}
	row("Took", r.Took)
	b.WriteString("\n| When (UTC) | Where | What | Detail | By |\n|---|---|---|---|---|\n")
	for _, e := range r.Entries {
		by := plain(e.By)
		if e.URL != "" {
			by = link(e.By, e.URL)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", e.At.UTC().Format("2006-01-02 15:04:05"), e.Source, plain(e.What), plain(e.Detail), by)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// plain is text that Markdown prints as it is, on one line.
func plain(text string) string {
	var b strings.Builder
	for _, c := range strings.Join(strings.Fields(text), " ") {
		if strings.ContainsRune("\\`*_[]<>|#@!~&", c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// link is a text that leads to an address; without one, the text.
func link(text, address string) string {
	if text == "" {
		text = "page"
	}
	if address == "" {
		return plain(text)
	}
	return fmt.Sprintf("[%s](<%s>)", plain(text), strings.NewReplacer("<", "%3C", ">", "%3E", "\n", "", " ", "%20").Replace(address))
}
