package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReference: the tables in the documentation are those of Options.
func TestReference(t *testing.T) {
	for _, page := range []struct{ file, table string }{
		{"../../docs/reference/configuration.md", fileTable(t)},
		{"../../docs/reference/environment.md", variableTable()},
	} {
		const begin, end = "<!-- generated: go test ./internal/config -run 'TestSchema|TestReference' -update -->\n", "<!-- end of generated -->"
		text, err := os.ReadFile(page.file)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, ok := strings.Cut(string(text), begin)
		_, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no place for its table: %s…%s", page.file, begin, end)
		}
		want := before + begin + "\n" + page.table + "\n" + end + after
		if *update {
			if err := os.WriteFile(page.file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(want, string(text)); diff != "" {
			t.Errorf("%s is out of date: run %s\n%s", page.file, begin, diff)
		}
	}
}

// fileTable lists the fields of crossbill.yaml, by section.
func fileTable(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	section := "-"
	for _, o := range Options {
		root, _, nested := strings.Cut(o.Key, ".")
		if !nested && !slices.Contains(fieldNames(reflect.TypeFor[Config]()), root) || strings.HasSuffix(o.Key, "[]") {
			continue
		}
		if !nested {
			root = ""
		}
		if root != section {
			section = root
			if section != "" {
				if sections[section] == "" {
					t.Errorf("%s has no description", section)
				}
				fmt.Fprintf(&out, "\n**`%s`**: %s.\n\n", section, lowerFirst(sections[section]))
			} else if out.Len() > 0 {
				out.WriteString("\n**Without a section**:\n\n")
			}
			out.WriteString("| Field | Default | Flag | Meaning |\n|---|---|---|---|\n")
		}
		meaning := o.Doc
		if o.Required {
			meaning += " (required)"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", o.Key, code(o.Default), o.flags(), cell(meaning))
	}
	return out.String()
}

// variableTable lists the environment variables.
func variableTable() string {
	var out strings.Builder
	out.WriteString("| Variable | Sets | Instead of it | Meaning |\n|---|---|---|---|\n")
	for _, o := range Options {
		switch {
		case o.Variable == "":
			continue
		case o.Secret:
			fmt.Fprintf(&out, "| `%s` | a secret | %s | %s |\n", o.Variable, o.flags(), cell(o.Doc))
		case strings.Contains(o.Key, ".") || o.Key == "app" || o.Key == "manifests" || o.Key == "router":
			fmt.Fprintf(&out, "| `%s` | `%s` | %s | %s |\n", o.Variable, o.Key, o.flags(), cell(o.Doc))
		default:
			fmt.Fprintf(&out, "| `%s` | | %s | %s |\n", o.Variable, o.flags(), cell(o.Doc))
		}
	}
	out.WriteString("\nVariables that GitLab and GitHub set in their jobs are defaults there (`GITLAB_CI=true`, `GITHUB_ACTIONS=true`).\nThe file takes precedence over them.\n\n")
	out.WriteString("| In a job of | Variable | Default of |\n|---|---|---|\n")
	for _, host := range []string{"GitHub", "GitLab"} {
		for _, o := range Options {
			for _, template := range o.Platform {
				if strings.HasPrefix(template, "$GITHUB_") != (host == "GitHub") {
					continue
				}
				sets := "`" + o.Key + "`"
				if !strings.Contains(o.Key, ".") {
					sets = o.flags()
				}
				if len(o.Commands) > 0 {
					sets += " of " + code(strings.Join(o.Commands, "`, `"))
				}
				fmt.Fprintf(&out, "| %s | `%s` | %s |\n", host, template, sets)
			}
		}
	}
	return out.String()
}

func (o *Option) flags() string {
	if len(o.Flags) == 0 {
		return ""
	}
	return code("--" + o.Flags[0])
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// cell is text in a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func lowerFirst(text string) string { return strings.ToLower(text[:1]) + text[1:] }
