package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// schemaVersion is the version of what -o json and -o yaml print. It rises when a field changes its meaning
// or goes; new fields may come at any time.
const schemaVersion = 1

// formats are those of every command.
var formats = []string{"text", "wide", "json", "yaml", "name"}

// outputOptions say in which form a command prints its result.
type outputOptions struct {
	format  string
	formats []string
}

// add adds --output; more are formats that only this command has.
func (o *outputOptions) add(cmd *cobra.Command, more ...string) {
	o.formats = append(slices.Clone(formats), more...)
	inSection(cmd.Flags(), outputSection, func(flags *pflag.FlagSet) {
		flags.StringVarP(&o.format, "output", "o", "text", strings.Join(o.formats, ", "))
	})
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(o.formats, cobra.ShellCompDirectiveNoFileComp))
}

func (o *outputOptions) validate() error {
	if slices.Contains(o.formats, o.format) {
		return nil
	}
	return &usererr.Error{Field: "--output", Problem: fmt.Sprintf("%q is not a format", o.format), Fix: "give one of: " + strings.Join(o.formats, ", ")}
}

// structured says whether the result is for a program to read.
func (o *outputOptions) structured() bool { return o.format == "json" || o.format == "yaml" }

// view is a result in each format.
type view struct {
	data  any                              // for json and yaml: a struct, or a slice that becomes {"items": […]}
	text  func(io.Writer) error            // also for wide, when wide is nil
	wide  func(io.Writer) error            // text with more in it; may be nil
	names []string                         // kind/name of what the result is about, one a line
	more  map[string]func(io.Writer) error // formats that only this command has
}

// print prints a result in the format that was asked for.
func (o *outputOptions) print(out io.Writer, v view) error {
	switch {
	case o.format == "json":
		return printJSON(out, v.data)
	case o.format == "yaml":
		return printYAML(out, v.data)
	case o.format == "name":
		for _, name := range v.names {
			if _, err := fmt.Fprintln(out, name); err != nil {
				return err
			}
		}
		return nil
	case o.format == "wide" && v.wide != nil:
		return v.wide(out)
	case v.more[o.format] != nil:
		return v.more[o.format](out)
	}
	return v.text(out)
}

// requireWritable finds a file that could not be written, before the work whose result goes there. "" is none.
func requireWritable(option, path string) error {
	if path == "" {
		return nil
	}
	before, missing := os.Stat(path)
	if missing == nil && !before.Mode().IsRegular() && !before.IsDir() {
		return nil // a device or a pipe: opening one may wait for its reader
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err == nil {
		if err = file.Close(); missing != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}
	if err != nil {
		return &usererr.Error{Field: option, Problem: err.Error(), Fix: "give a file in a folder that exists and can be written to"}
	}
	return nil
}

// writeWhole writes a file that appears whole or not at all. A device, a pipe or a link stays one.
func writeWhole(path string, text []byte) error {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() { // /dev/stdout is a link
		return os.WriteFile(path, text, 0o644)
	}
	return renameio.WriteFile(path, text, 0o644)
}

// warn prints what a command goes on in spite of; nothing for "".
func warn(cmd *cobra.Command, warning string) {
	if warning != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "crossbill: warning:", warning)
	}
}

// line is a text of one line.
func line(format string, args ...any) func(io.Writer) error {
	return func(out io.Writer) error {
		_, err := fmt.Fprintf(out, format+"\n", args...)
		return err
	}
}

func printJSON(out io.Writer, value any) error {
	text, err := document(value)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, indented.String())
	return err
}

func printYAML(out io.Writer, value any) error {
	text, err := document(value)
	if err == nil {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// document is a value as a JSON object that says the version of its schema; a list is its items.
func document(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	body := bytes.TrimSpace(text.Bytes())
	switch {
	case bytes.Equal(body, []byte("null")):
		body = []byte(`{"items":[]}`)
	case body[0] == '[':
		body = fmt.Appendf(nil, `{"items":%s}`, body)
	case body[0] != '{':
		return nil, fmt.Errorf("a result of type %T is not an object", value)
	}
	if bytes.Equal(body, []byte("{}")) {
		return fmt.Appendf(nil, `{"schemaVersion":%d}`, schemaVersion), nil
	}
	return fmt.Appendf(nil, `{"schemaVersion":%d,%s`, schemaVersion, body[1:]), nil
}
