package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// referenceFolder has a page for each command, made by this test with -update.
const referenceFolder = "../../docs/reference/cli"

// TestReference: the pages of the command reference are what the commands say, and there is none too many.
func TestReference(t *testing.T) {
	root := newRootCommand()
	const indexPage = "crossbill.md"
	pages := map[string]bool{indexPage: true}
	index := "# Commands\n\nThis reference is generated from the commands: `go test ./cmd/crossbill -update` writes it. [Settings](../configuration.md) that a\nflag shares with `crossbill.yaml` and the environment are listed there; [exit codes](../exit-codes.md) have their own page.\n"
	var visit func(cmd *cobra.Command, heading string)
	visit = func(cmd *cobra.Command, heading string) {
		if !cmd.IsAvailableCommand() || cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		page := pageOf(cmd)
		pages[page] = true
		golden(t, filepath.Join(referenceFolder, page), referencePage(cmd))
		index += heading + fmt.Sprintf("| [%s](%s) | %s |\n", strings.TrimPrefix(cmd.CommandPath(), "crossbill "), page, cell(cmd.Short))
		for _, child := range cmd.Commands() {
			visit(child, "")
		}
	}
	for _, group := range root.Groups() {
		heading := fmt.Sprintf("\n## %s\n\n| command | |\n|---|---|\n", strings.TrimSuffix(group.Title, ":"))
		for _, cmd := range root.Commands() {
			if cmd.GroupID == group.ID {
				before := index
				if visit(cmd, heading); index != before {
					heading = ""
				}
			}
		}
	}
	golden(t, filepath.Join(referenceFolder, indexPage), []byte(index))
	found, err := os.ReadDir(referenceFolder)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range found {
		if !pages[file.Name()] {
			if *update {
				_ = os.Remove(filepath.Join(referenceFolder, file.Name()))
				continue
			}
			t.Errorf("%s is of no command", file.Name())
		}
	}
}

// pageOf is the file of a command, as cobra's own generator names it.
func pageOf(cmd *cobra.Command) string {
	return strings.ReplaceAll(cmd.CommandPath(), " ", "_") + ".md"
}

// referencePage is a command's help as Markdown.
func referencePage(cmd *cobra.Command) []byte {
	var page bytes.Buffer
	fmt.Fprintf(&page, "# %s\n\n%s.\n\n```\n%s\n```\n", cmd.CommandPath(), cell(cmd.Short), cmd.UseLine())
	if cmd.Long != "" {
		fmt.Fprintf(&page, "\n```text\n%s\n```\n", strings.TrimSpace(cmd.Long))
	}
	if cmd.Example != "" {
		fmt.Fprintf(&page, "\n## Examples\n\n```sh\n%s\n```\n", unindent(cmd.Example))
	}
	if guide := "../../commands/" + cmd.Name() + ".md"; cmd.Parent() == cmd.Root() {
		if _, err := os.Stat(filepath.Join(referenceFolder, guide)); err == nil {
			fmt.Fprintf(&page, "\nMore about it: [crossbill %s](%s).\n", cmd.Name(), guide)
		}
	}
	cmd.InitDefaultHelpFlag()
	for _, section := range flagSections(cmd) {
		fmt.Fprintf(&page, "\n## %s\n\n| flag | default | |\n|---|---|---|\n", section.Title)
		section.Flags.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Deprecated != "" {
				return
			}
			fmt.Fprintf(&page, "| %s | %s | %s |\n", flagName(f), flagDefault(f), cell(f.Usage))
		})
	}
	if cmd.HasAvailableSubCommands() {
		page.WriteString("\n## Commands\n\n| command | |\n|---|---|\n")
		for _, child := range cmd.Commands() {
			if child.IsAvailableCommand() {
				fmt.Fprintf(&page, "| [%s](%s) | %s |\n", child.Name(), pageOf(child), cell(child.Short))
			}
		}
	}
	return page.Bytes()
}

func flagName(f *pflag.Flag) string {
	name := "`--" + f.Name + "`"
	if value, _ := pflag.UnquoteUsage(f); value != "" {
		name = "`--" + f.Name + " " + value + "`"
	}
	if f.Shorthand != "" {
		name = "`-" + f.Shorthand + "`, " + name
	}
	return name
}

// flagDefault is "" for a zero value: the text says what then holds.
func flagDefault(f *pflag.Flag) string {
	if slices.Contains([]string{"", "0", "0s", "[]", "false"}, f.DefValue) {
		return ""
	}
	return "`" + f.DefValue + "`"
}

var markup = regexp.MustCompile(`[|<>]`)

// cell is a text in a table.
func cell(text string) string {
	return markup.ReplaceAllString(strings.ReplaceAll(text, "\n", " "), `\$0`)
}

// unindent takes the two spaces of an example away.
func unindent(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}
