package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

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
		for _, found := range regexp.MustCompile(`"--([a-z-]+)[="]`).FindAllSubmatch(text, -1) {
			passed++
			// pnpm's own
			if name := string(found[1]); !known[name] && !slices.Contains([]string{"frozen-lockfile", "prefer-offline", "store-dir"}, name) {
				t.Errorf("%s passes --%s, which no verb has", file, name)
			}
		}
	}
	if passed < 20 {
		t.Errorf("found only %d flags", passed)
	}
}
