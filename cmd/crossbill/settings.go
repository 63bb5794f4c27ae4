package main

import (
	"context"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/config"
)

// configKey is where a command's context has what crossbill.yaml and the environment say.
type configKey struct{}

// resolved is crossbill.yaml, and the settings that hold for a command.
type resolved struct {
	*config.Config
	settings *config.Settings
}

// unconfigured marks a command whose flags are not set by crossbill.yaml: it writes that file.
const unconfigured = "crossbill/unconfigured"

// apply gives the flags that were not given what the environment or crossbill.yaml says. A command that has no
// such flag does not read the file.
func (o *globalOptions) apply(cmd *cobra.Command) error {
	configurable := slices.ContainsFunc(config.Options, func(option config.Option) bool {
		return option.Key != "config" && slices.ContainsFunc(option.Flags, func(name string) bool { return cmd.Flags().Lookup(name) != nil })
	})
	if !configurable || cmd.Annotations[unconfigured] != "" {
		return nil
	}
	file, settings, err := configured(cmd, o.config, os.Getenv)
	if err != nil {
		return err
	}
	if collector := settings.Value("notify.otlpEndpoint"); collector != "" {
		if err := os.Setenv("CROSSBILL_OTLP_ENDPOINT", collector); err != nil { // where package notify looks for it
			return err
		}
	}
	cmd.SetContext(context.WithValue(cmd.Context(), configKey{}, resolved{file, settings}))
	return nil
}

// configOf is what apply has found for a command.
func configOf(cmd *cobra.Command) resolved {
	if found, ok := cmd.Context().Value(configKey{}).(resolved); ok {
		return found
	}
	return resolved{Config: &config.Config{}}
}

// explain is the text of an error for the person at the command: an option that a library has named by its key
// in crossbill.yaml is shown as the flag, the variable or the line of the file that set it.
func explain(cmd *cobra.Command, err error) string {
	settings := configOf(cmd).settings
	if settings == nil {
		var unset error
		if settings, unset = new(config.Config).Resolve(cmd.Name(), cmd.Flags(), func(string) string { return "" }); unset != nil {
			return err.Error()
		}
	}
	return settings.Explain(err).Error()
}
