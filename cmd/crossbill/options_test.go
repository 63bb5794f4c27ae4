package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/config"
)

// TestOptionsAreFlags: each flag of the table of options is one of a command, with the default that the table says.
func TestOptionsAreFlags(t *testing.T) {
	plain := func(text string) string { // 5m0s is 5m
		if d, err := time.ParseDuration(text); err == nil {
			return d.String()
		}
		return text
	}
	root := newRootCommand()
	for _, o := range config.Options {
		found := len(o.Flags) == 0
		var look func(*cobra.Command)
		look = func(cmd *cobra.Command) {
			cmd.InheritedFlags() // merges those of the parents
			for _, name := range o.Flags {
				flag := cmd.Flags().Lookup(name)
				if flag == nil {
					flag = cmd.PersistentFlags().Lookup(name)
				}
				if flag == nil || len(o.Commands) > 0 && !slices.Contains(o.Commands, cmd.Name()) {
					continue
				}
				found = true
				if o.Key != "config" && !emptyDefault(flag, o.Default) && plain(flag.DefValue) != plain(o.Default) {
					t.Errorf("%s --%s has the default %q, the table says %q for %s", cmd.CommandPath(), name, flag.DefValue, o.Default, o.Key)
				}
			}
			for _, child := range cmd.Commands() {
				look(child)
			}
		}
		look(root)
		if !found && !strings.HasPrefix(o.Key, "analysis.") {
			t.Errorf("no command has --%s of %s", strings.Join(o.Flags, " or --"), o.Key)
		}
	}
}

// emptyDefault says whether the command puts the default in place of none, or makes it itself.
func emptyDefault(flag *pflag.Flag, text string) bool {
	return text == "" || slices.Contains([]string{"", "[]", "0", "0s"}, flag.DefValue)
}
