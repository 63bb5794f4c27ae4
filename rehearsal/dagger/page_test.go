//go:build dagger

package dagger_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// functions are the module's functions, in the order of the lifecycle.
var functions = []string{
	"check", "build", "publish", "inspect", "trigger", "watch", "cancel", "release", "canary", "shift", "verify", "promote", "cleanup",
	"rollback", "guard", "preview-up", "preview-down", "preview-list", "preview-handoff", "status", "history", "plan", "report", "rehearse", "cli",
}

// record is a call and what it came to.
type record struct {
	function          string
	constructor, args []string
	result
}

var records []record

// What differs from machine to machine, what a reader compares by its beginning, and what a terminal shows as color.
var (
	folders = regexp.MustCompile(`((?:file:|-file=))/\S+/`)
	digests = regexp.MustCompile(`(sha256:[0-9a-f]{12})[0-9a-f]{52}`)
	escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")
)

const (
	shownLines = 30
	shownWidth = 150
)

// writePage writes each function's call, and what it printed, as a page of the documentation.
func writePage(file, listed string) error {
	var page strings.Builder
	page.WriteString(`# Dagger functions

Each function of the [Dagger module](guides/dagger.md) with a call and what it printed: on a real engine, against the rehearsal's
registry, cluster, and Prometheus and a simulated GitLab, by ` + "`make test-dagger DOCS=1`" + `, which writes this page. Digests are
shortened, and … stands for omitted output. ` + "`dagger call FUNCTION --help`" + ` lists the arguments of a function, and
` + "`dagger call --help`" + ` those before its name ([overview](guides/dagger.md#arguments)).
`)
	for _, function := range functions {
		does := regexp.MustCompile(`(?m)^` + function + ` +(\S.*)$`).FindStringSubmatch(listed)
		if does == nil {
			return fmt.Errorf("%s is not listed", function)
		}
		fmt.Fprintf(&page, "\n## %s\n\n%s.\n", function, does[1])
		for _, good := range []bool{true, false} {
			at := slices.IndexFunc(records, func(r record) bool { return r.function == function && (r.code == 0) == good })
			if at >= 0 {
				page.WriteString(records[at].shown())
			}
		}
	}
	return os.WriteFile(file, []byte(page.String()), 0o644)
}

// shown is a record as Markdown.
func (r record) shown() string {
	words := append(append([]string{"dagger", "call"}, r.constructor...), r.args...)
	line, text := "", "\n```sh\n"
	for i, word := range words {
		if word = digests.ReplaceAllString(folders.ReplaceAllString(word, "$1"), "$1…"); i > 0 {
			word = " " + word
		}
		if len(line)+len(word) > 110 {
			text, line = text+line+" \\\n", "  "
			word = strings.TrimPrefix(word, " ")
		}
		line += word
	}
	text += line + "\n```\n"
	if r.code != 0 {
		text += fmt.Sprintf("\nends with exit code %d:\n", r.code)
	}
	printed := r.printed()
	if printed == "" {
		return text
	}
	return text + "\n```\n" + printed + "\n```\n"
}

// printed is the result, or with a failure what `dagger` says of it.
func (r record) printed() string {
	text := r.stdout
	if r.code != 0 {
		text = r.stderr[max(0, strings.LastIndex(r.stderr, "\nError: ")):]
		text = regexp.MustCompile(` \[traceparent:[^\]]*\]`).ReplaceAllString(text, "")
	}
	text = digests.ReplaceAllString(escapes.ReplaceAllString(strings.TrimSpace(text), ""), "$1…")
	lines := strings.Split(text, "\n")
	if len(lines) > shownLines {
		lines = append(lines[:shownLines], "…")
	}
	for i, line := range lines {
		if short := []rune(line); len(short) > shownWidth && r.code == 0 {
			lines[i] = string(short[:shownWidth]) + "…"
		}
	}
	return strings.Join(lines, "\n")
}
