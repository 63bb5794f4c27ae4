package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/our-org/crossbill/internal/release"
)

//go:embed page.html
var page string

// Style is the style sheet of the report and of the live page.
//
//go:embed style.css
var Style string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"next": nextStep, "duration": FormatDuration, "style": func() template.CSS { return template.CSS(Style) },
	"percent": func(share float64) string { return fmt.Sprintf("%.3g%%", 100*share) },
	"words":   words,
	"class": func(word any) string { // a style, by the word of an outcome, stage or verdict
		if fmt.Sprint(word) == string(release.StageCanary) {
			return "canary-stage"
		}
		return fmt.Sprint(word)
	},
}).Parse(page))

// WriteHTML writes the releases of an app as one page that needs no network. Nothing is written unless the page is whole.
func WriteHTML(out io.Writer, r Report) error {
	var text bytes.Buffer
	err := pageTemplate.Execute(&text, map[string]any{"Status": r.Status, "Releases": summaries(r.Status, r.Timeline, r.Now), "Delivery": r.Delivery, "Missing": r.Missing, "Now": r.Now})
	if err == nil {
		_, err = text.WriteTo(out)
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// words is the word of an outcome, a stage or a verdict, for people.
func words(word any) string { return strings.ReplaceAll(fmt.Sprint(word), "_", " ") }
