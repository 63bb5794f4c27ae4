package pipelinefile

import (
	"strings"
	"testing"
)

// scriptInputs are inputs that scripts of tests use.
var scriptInputs = map[string]Input{
	"image":   {Regex: `^(registry\.example\.com/our-org/[a-z0-9._-]+@sha256:[0-9a-f]{64})?$`},
	"digest":  {Regex: `^sha256:[0-9a-f]{64}$`},
	"tag":     {Regex: `^[a-z0-9.]+$`},
	"id":      {Regex: `^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$`},
	"action":  {Options: []string{"status", "promote"}},
	"reading": {Options: []string{"status", "history"}},
	"open":    {},
}

// analyzed analyzes a script whose lines are its items, or one whose items are separated by lines of ---.
func analyzed(script string) effects {
	var items []scriptLine
	if strings.Contains(script, "\n---\n") {
		line := 1
		for item := range strings.SplitSeq(script, "\n---\n") {
			items = append(items, scriptLine{item, line})
			line += strings.Count(item, "\n") + 1
		}
	} else {
		items = []scriptLine{{script, 1}}
	}
	return analyze(items, scriptContext{Inputs: scriptInputs})
}

// verdictOf sums effects up in words.
func verdictOf(e effects) string {
	var words []string
	if len(e.changes) > 0 {
		words = append(words, "changes")
	}
	if len(e.opaque) > 0 {
		words = append(words, "opaque")
	}
	if len(e.uses) > 0 {
		words = append(words, "uses")
	}
	if len(e.images) > 0 {
		words = append(words, "image")
	}
	if len(words) == 0 && len(e.canary) > 0 {
		return "canary"
	}
	if len(words) == 0 {
		return "reads"
	}
	return strings.Join(words, " ")
}

func TestAnalyze(t *testing.T) {
	for script, want := range map[string]string{
		`echo done`:                                "reads",
		`crossbill promote`:                        "changes",
		`crossbill verify --release-id x`:          "canary",
		`curl -fsS https://app.example.com/health`: "reads",
		`sh -c 'kubectl apply -f x'`:               "changes",
		`eval "$X"`:                                "opaque",
		`echo() { kubectl apply -f x; }; echo hi`:  "changes",
	} {
		if got := verdictOf(analyzed(script)); got != want {
			t.Errorf("%s: %s, want %s (%+v)", script, got, want, analyzed(script))
		}
	}
}
