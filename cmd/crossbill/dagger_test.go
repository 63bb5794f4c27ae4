package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestTheDaggerModuleHasTheSource: the module's source is filtered by a list of folders. Each package that this
// command is made of has to be in it.
func TestTheDaggerModuleHasTheSource(t *testing.T) {
	text, err := os.ReadFile("../../ci/main.go")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for path := range strings.FieldsSeq(string(out)) {
		folder, ours := strings.CutPrefix(path, "github.com/our-org/crossbill/")
		if !ours {
			continue
		}
		found++
		folder, _, _ = strings.Cut(folder, "/")
		if !strings.Contains(string(text), `"!`+folder+`/**"`) {
			t.Errorf("the module's source lacks %s", folder)
		}
	}
	if found < 5 {
		t.Errorf("found only %d packages", found)
	}
}

// TestTheDaggerModuleIsUnderstood: ci/ runs this command by lines of text, which are in a file of its tests.
func TestTheDaggerModuleIsUnderstood(t *testing.T) {
	text, err := os.ReadFile("../../ci/testdata/command-lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) < 20 {
		t.Errorf("found only %d lines", len(lines))
	}
	for _, line := range lines {
		cmd, args, err := newRootCommand().Find(strings.Fields(line)[1:])
		if err == nil {
			err = cmd.ParseFlags(args)
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil || !cmd.Runnable() || cmd.HasSubCommands() && cmd.Name() != "bundle" { // which also runs by itself
			t.Errorf("%v: %s", err, line)
		}
	}
}
