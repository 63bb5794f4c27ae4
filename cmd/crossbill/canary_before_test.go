package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
)

// TestWeightBesideTesters: with testers or copies a canary starts at weight 0, unless somebody has given a weight.
func TestWeightBesideTesters(t *testing.T) {
	match := &release.Match{Header: "x-canary", Kind: release.MatchExact, Value: "yes"}
	for name, c := range map[string]struct {
		file string
		args []string
		want release.Release
	}{
		"neither":                       {"", nil, release.Release{Weight: 10}},
		"testers":                       {"", []string{"--match", "header:X-Canary=yes"}, release.Release{Match: match}},
		"testers and a weight":          {"", []string{"--match", "header:x-canary=yes", "--weight", "5"}, release.Release{Weight: 5, Match: match}},
		"copies":                        {"", []string{"--mirror", "5"}, release.Release{Mirror: 5}},
		"of the file":                   {"canary: {match: \"header:x-canary=yes\", mirror: 5%}", nil, release.Release{Match: match, Mirror: 5}},
		"a weight of the file":          {"canary: {weight: 20}", []string{"--match", "header:x-canary=yes"}, release.Release{Weight: 20, Match: match}},
		"none of the file's weight":     {"canary: {weight: 20}", []string{"--mirror", "5%", "--weight", "0"}, release.Release{Mirror: 5}},
		"testers of the file, a weight": {"canary: {match: \"header:x-canary=yes\"}", []string{"--weight", "30"}, release.Release{Weight: 30, Match: match}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "crossbill.yaml")
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			o := &canaryOptions{}
			cmd := &cobra.Command{Use: "canary"}
			o.addRelease(cmd)
			o.cmd = cmd
			if err := cmd.Flags().Parse(c.args); err != nil {
				t.Fatal(err)
			}
			read, settings, err := configured(cmd, file, func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			cmd.SetContext(context.WithValue(t.Context(), configKey{}, resolved{read, settings}))
			got, err := o.parseBefore()
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
