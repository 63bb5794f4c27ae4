package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/usererr"
)

// setting is a value as text, and how its author wrote its name.
type setting struct {
	text   string
	origin string // --prometheus, CROSSBILL_PROMETHEUS, "crossbill.yaml:12: prometheus.url"; "" for a default
	line   int    // in the file, 0 for what is not from it
}

// Settings are the values that hold for one call of a command.
type Settings struct {
	command string
	flags   *pflag.FlagSet
	values  map[string]setting
}

// Resolve gives the values that hold for a command, and sets those of its flags that were not given. A flag that
// it sets does not count as Changed. flags may be nil; getenv is os.Getenv but for tests.
func (c *Config) Resolve(command string, flags *pflag.FlagSet, getenv func(string) string) (*Settings, error) {
	if flags == nil {
		flags = pflag.NewFlagSet(command, pflag.ContinueOnError)
	}
	s := &Settings{command: command, flags: flags, values: map[string]setting{}}
	for i := range Options {
		o := &Options[i]
		if o.Secret || strings.Contains(o.Key, "[") {
			continue
		}
		flag := o.flag(command, flags)
		if flag != nil && flag.Changed {
			if err := o.checkFlag(flag); err != nil {
				return nil, err
			}
			s.values[o.Key] = setting{text: flag.Value.String(), origin: "--" + flag.Name}
			continue
		}
		value, err := c.value(o, getenv)
		if err != nil {
			return nil, err
		}
		if file := replacedBy(o, flags); file != "" {
			value = setting{origin: file}
		}
		s.values[o.Key] = value
		if flag == nil || value.text == "" || strings.HasPrefix(o.Key, "analysis.") || value.text == o.Default && value.origin == "" {
			continue // the flag has its own default; objectives are a whole, from one place
		}
		if err := flag.Value.Set(value.text); err != nil {
			return nil, &usererr.Error{Field: value.origin, Problem: err.Error(), Fix: "give a value that --" + flag.Name + " takes"}
		}
	}
	return s, nil
}

// replacedBy is the flag that was given to name a file in place of the option's section, "" if none was.
func replacedBy(o *Option, flags *pflag.FlagSet) string {
	for section, name := range map[string]string{"analysis.": "slo", "imagePolicy.": "trust", "preview.imagePolicy.": "trust"} {
		if strings.HasPrefix(o.Key, section) && flags.Changed(name) {
			return "--" + name
		}
	}
	return ""
}

// flag is the option's flag of a command, nil when it has none.
func (o *Option) flag(command string, flags *pflag.FlagSet) *pflag.Flag {
	if !o.means(command) {
		return nil
	}
	for _, name := range o.Flags {
		if flag := flags.Lookup(name); flag != nil {
			return flag
		}
	}
	return nil
}

// checkFlag holds text that was given by a flag to what variables and the file are held to. Empty text means none,
// where none is the flag's default.
func (o *Option) checkFlag(flag *pflag.Flag) error {
	text := flag.Value.String()
	if flag.Value.Type() != "string" || text == "" && flag.DefValue == "" {
		return nil
	}
	return o.form.checkText("--"+flag.Name, text)
}

// value is what holds when no flag was given.
func (c *Config) value(o *Option, getenv func(string) string) (setting, error) {
	if o.Variable != "" {
		if text := getenv(o.Variable); text != "" {
			return setting{text: text, origin: o.Variable}, o.form.checkText(o.Variable, text)
		}
	}
	if found, ok := c.found[o.Key]; ok {
		return found, nil
	}
	for _, template := range o.Platform {
		if text, ok := platformValue(template, getenv); ok {
			return setting{text: text, origin: template}, o.form.checkText(template, text)
		}
	}
	if o.form.path && c.file != "" && o.Default != "" {
		return setting{text: filepath.Join(filepath.Dir(c.file), o.Default)}, nil
	}
	return setting{text: o.Default}, nil
}

// platformValue is what the job of GitLab's or GitHub's that this is says; false outside of one. A variable of
// theirs on a laptop, or in the other's job, is there by accident.
func platformValue(template string, getenv func(string) string) (string, bool) {
	in := "GITLAB_CI"
	if strings.HasPrefix(template, "$GITHUB_") {
		in = "GITHUB_ACTIONS"
	}
	complete := getenv(in) == "true"
	text := os.Expand(template, func(name string) string {
		value := getenv(name)
		complete = complete && value != ""
		return value
	})
	return text, complete
}

// Value is an option's value as text, by its key; "" when it has none.
func (s *Settings) Value(key string) string { return s.values[key].text }

// Given says whether somebody has set an option: by its flag, a variable or the file.
func (s *Settings) Given(key string) bool { return s.values[key].origin != "" }

// Platform says whether an option is only what the job of GitLab's or GitHub's says.
func (s *Settings) Platform(key string) bool { return strings.HasPrefix(s.values[key].origin, "$") }

// Name is an option as its author knows it: the flag, the variable or the line of the file that set it. One that
// nobody set is named by its flag, if the command has it. key may be more of them, with commas.
func (s *Settings) Name(key string) string {
	if first, rest, more := strings.Cut(key, ", "); more {
		return s.Name(first) + ", " + s.Name(rest)
	}
	base := key
	if i := strings.IndexAny(key, "[:"); i >= 0 { // analysis.objectives[0].name, analysis.objectives: more about it
		base = key[:i]
	}
	if origin := s.values[base].origin; origin != "" {
		return origin + strings.TrimPrefix(key, base)
	}
	if file := replacedBy(&Option{Key: base + "."}, s.flags); file != "" { // imagePolicy as a whole
		return file + strings.TrimPrefix(key, base)
	}
	if o := byKey[base]; o != nil {
		if flag := o.flag(s.command, s.flags); flag != nil {
			return "--" + flag.Name + strings.TrimPrefix(key, base)
		}
		return key
	}
	if flag := s.flags.Lookup(kebab(key)); flag != nil {
		return "--" + flag.Name
	}
	return key
}

// Explain gives an error of a library's in the words of the person who called the command: an option by the flag,
// the variable or the line that set it, not by its key.
func (s *Settings) Explain(err error) error {
	var input *usererr.Error
	if !errors.As(err, &input) {
		return err
	}
	named := *input
	if named.Field = s.Name(input.Field); named.Field == input.Field {
		return err
	}
	if err.Error() == input.Error() {
		return &named
	}
	return &explained{text: strings.Replace(err.Error(), input.Error(), named.Error(), 1), err: err}
}

// explained is an error with another text.
type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.err }
