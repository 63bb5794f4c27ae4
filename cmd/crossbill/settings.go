package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/usererr"
)

// setting is an option that can be given in crossbill.yaml or by the environment beside its flag.
type setting struct {
	flag string
	key  string   // in crossbill.yaml; "" for none
	env  []string // variables, the first that is set counts
}

// apply gives the flags that were not given what the environment or crossbill.yaml says.
func (o *globalOptions) apply(cmd *cobra.Command) error { return nil }

// settings are all of them: the one table of flags, keys and variables.
var settings = []setting{
	{flag: "app", key: "app"},
	{flag: "manifests", key: "manifests"},
	{flag: "context", key: "cluster.context"},
	{flag: "namespace", key: "cluster.namespace"},
	{flag: "prometheus", key: "prometheus.url"},
	{flag: "prometheus-config", key: "prometheus.httpConfig"},
	{flag: "gitlab-url", key: "gitlab.url"},
	{flag: "project", key: "gitlab.project"},
	{flag: "weight", key: "canary.weight"},
}

// explain is the text of an error for the person at the command: an option that a library has named by its key
// in crossbill.yaml, or plainly, is shown as the flag of this command.
func explain(cmd *cobra.Command, err error) string {
	text := err.Error()
	var input *usererr.Error
	if !errors.As(err, &input) {
		return text
	}
	flag := flagOf(cmd, input.Field)
	if flag == nil {
		return text
	}
	shown := *input
	shown.Field = "--" + flag.Name
	return strings.ReplaceAll(text, input.Error(), shown.Error())
}

// flagOf is the flag of a command that gives an option, or nil.
func flagOf(cmd *cobra.Command, option string) *pflag.Flag {
	if cmd == nil || option == "" {
		return nil
	}
	for _, s := range settings {
		if s.key == option {
			return cmd.Flags().Lookup(s.flag)
		}
	}
	if strings.ContainsAny(option, " .:/-") {
		return nil
	}
	return cmd.Flags().Lookup(kebab(option))
}

// kebab writes releaseId as release-id.
func kebab(name string) string {
	var b strings.Builder
	for _, r := range name {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('-')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
