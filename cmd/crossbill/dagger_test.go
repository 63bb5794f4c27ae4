package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
	for _, path := range strings.Fields(string(out)) {
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

// TestTheDaggerModulePassesFlagsThatAreThere: ci/ runs this command by its flags, as text.
func TestTheDaggerModulePassesFlagsThatAreThere(t *testing.T) {
	known := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(newRootCommand())
	files, err := filepath.Glob("../../ci/*.go")
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`"(pnpm|apt-get)",.*`).ReplaceAll(text, nil) // have flags of their own
		for _, found := range regexp.MustCompile(`"--([a-z-]+)[="]`).FindAllSubmatch(text, -1) {
			passed++
			if name := string(found[1]); !known[name] {
				t.Errorf("%s passes --%s, which no verb has", file, name)
			}
		}
	}
	if passed < 20 {
		t.Errorf("found only %d flags", passed)
	}
}
