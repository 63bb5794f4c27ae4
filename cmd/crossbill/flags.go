package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// sectionKey is the annotation of a flag that names its section in the help.
const sectionKey = "crossbill_section"

// The sections of flags in the help, in their order; flags of no section are the command's own and come first.
const (
	clusterSection      = "Cluster flags"
	approvalSection     = "Approval flags"
	trafficSection      = "Traffic flags"
	analysisSection     = "Analysis flags"
	notificationSection = "Notification flags"
	gitlabSection       = "GitLab flags"
	registrySection     = "Registry flags"
	outputSection       = "Output flags"
)

var sections = []string{approvalSection, clusterSection, trafficSection, analysisSection, notificationSection, gitlabSection, registrySection, outputSection}

// inSection adds flags that belong to a section of the help.
func inSection(flags *pflag.FlagSet, section string, add func(*pflag.FlagSet)) {
	own := pflag.NewFlagSet(section, pflag.ContinueOnError)
	own.SortFlags = false
	add(own)
	own.VisitAll(func(f *pflag.Flag) {
		if f.Annotations == nil {
			f.Annotations = map[string][]string{}
		}
		f.Annotations[sectionKey] = []string{section}
	})
	flags.AddFlagSet(own)
}

// flagSection is one section of a command's flags.
type flagSection struct {
	Title string
	Flags *pflag.FlagSet
}

// flagSections are a command's flags as its help shows them.
func flagSections(cmd *cobra.Command) []flagSection {
	all := []flagSection{{Title: "Flags"}}
	for _, title := range sections {
		all = append(all, flagSection{Title: title})
	}
	all = append(all, flagSection{Title: "Global flags"})
	for i := range all {
		all[i].Flags = pflag.NewFlagSet(all[i].Title, pflag.ContinueOnError)
		all[i].Flags.SortFlags = false
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if cmd.InheritedFlags().Lookup(f.Name) != nil {
			return
		}
		place := 0
		switch {
		case f.Name == "help", f.Name == "version" && cmd.Root() == cmd, cmd.PersistentFlags().Lookup(f.Name) != nil:
			place = len(all) - 1
		default:
			for i, section := range all {
				if title := f.Annotations[sectionKey]; len(title) > 0 && title[0] == section.Title {
					place = i
				}
			}
		}
		all[place].Flags.AddFlag(f)
	})
	all[len(all)-1].Flags.AddFlagSet(cmd.InheritedFlags())
	var shown []flagSection
	for _, section := range all {
		if section.Flags.HasAvailableFlags() {
			shown = append(shown, section)
		}
	}
	return shown
}

// usageWidth is how wide the help of flags is, in characters.
const usageWidth = 100

func init() {
	cobra.AddTemplateFunc("flagSections", flagSections)
	cobra.AddTemplateFunc("usagesOf", func(flags *pflag.FlagSet) string {
		return strings.TrimRight(flags.FlagUsagesWrapped(usageWidth), " \n")
	})
}

const usageTemplate = `Usage:
  {{if .HasAvailableSubCommands}}{{if ne .Use .Name}}{{.UseLine}}
  {{end}}{{.CommandPath}} COMMAND [flags]{{else}}{{.UseLine}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}{{$cmds := .Commands}}{{if .Groups}}{{range $group := .Groups}}

{{.Title}}{{range $cmds}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{else}}

Commands:{{range $cmds}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{range flagSections .}}

{{.Title}}:
{{usagesOf .Flags}}{{end}}{{if .HasAvailableSubCommands}}

Use "{{.CommandPath}} COMMAND --help" for more about a command.{{end}}
`

// boundedDuration is a flag's duration that has a lower bound.
type boundedDuration struct {
	value *time.Duration
	zero  bool // 0 is allowed
}

func (d *boundedDuration) String() string {
	if d.value == nil {
		return ""
	}
	return d.value.String()
}
func (d *boundedDuration) Type() string { return "duration" }
func (d *boundedDuration) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a duration; give for example 90s, 5m or 1h30m", text)
	case parsed < 0, parsed == 0 && !d.zero:
		return fmt.Errorf("%s is too short; give for example 5m", parsed)
	}
	*d.value = parsed
	return nil
}

// positiveDuration adds a flag for a duration above 0.
func positiveDuration(flags *pflag.FlagSet, value *time.Duration, name string, standard time.Duration, usage string) {
	*value = standard
	addDuration(flags, &boundedDuration{value: value}, name, usage)
}

// anyDuration adds a flag for a duration of 0 or more.
func anyDuration(flags *pflag.FlagSet, value *time.Duration, name string, standard time.Duration, usage string) {
	*value = standard
	addDuration(flags, &boundedDuration{value: value, zero: true}, name, usage)
}

func addDuration(flags *pflag.FlagSet, value *boundedDuration, name, usage string) {
	flags.Var(value, name, usage)
	if *value.value == 0 { // pflag leaves out the zero of its own types only
		flags.Lookup(name).DefValue = ""
	}
}
