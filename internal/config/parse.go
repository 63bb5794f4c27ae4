package config

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agext/levenshtein"
	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// Parse reads the text of a file. Errors are *usererr.Error, joined when there are more, in the order of the
// lines.
func Parse(file string, text []byte) (*Config, error) {
	c := &Config{file: file, found: map[string]setting{}}
	d := &decoder{file: file, found: c.found}
	root, err := d.document(text)
	if err != nil {
		return nil, err
	}
	if root == nil { // empty, or comments alone
		return c, nil
	}
	d.decode(root, root.Line, "", reflect.ValueOf(c).Elem())
	if len(d.problems) == 0 {
		d.check(c)
	}
	if len(d.problems) > 0 {
		return nil, d.err()
	}
	return c, nil
}

// decoder reads YAML into a value by its type and remembers everything that is wrong. sigs.k8s.io/yaml and yaml's
// own strict decoder give no field, or no line.
type decoder struct {
	file     string
	found    map[string]setting
	problems []problem
}

type problem struct {
	line int
	err  error
}

func (d *decoder) problem(line int, field, what, fix string) {
	d.problems = append(d.problems, problem{line, &usererr.Error{Field: d.at(line, field), Problem: what, Fix: fix}})
}

func (d *decoder) at(line int, field string) string {
	at := fmt.Sprintf("%s:%d", d.file, line)
	if field != "" {
		at += ": " + field
	}
	return at
}

func (d *decoder) err() error {
	slices.SortStableFunc(d.problems, func(a, b problem) int { return a.line - b.line })
	var errs []error
	for _, p := range d.problems {
		errs = append(errs, p.err)
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

var yamlError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)

// document gives the content of the file, nil when it has none.
func (d *decoder) document(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	err := decoder.Decode(&first)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		if err = decoder.Decode(&second); err == nil {
			d.problem(second.Line, "", "the file has a second document", "keep one")
			return nil, d.err()
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		match := yamlError.FindStringSubmatch(err.Error())
		line := 1
		if match != nil && match[1] != "" {
			line, _ = strconv.Atoi(match[1])
		}
		d.problem(line, "", "it is not YAML: "+yamlError.ReplaceAllString(err.Error(), ""), "correct that line, or the one before it")
		return nil, d.err()
	}
	root := first.Content[0]
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return nil, nil
	}
	return root, nil
}

var (
	durationType    = reflect.TypeFor[metav1.Duration]()
	durationFormat  = regexp.MustCompile(durationPattern)
	bareNumber      = regexp.MustCompile(`^-?[0-9.]+$`)
	numberAndUnit   = regexp.MustCompile(`^([0-9.]+)\s*[^0-9.\s].*$`)
	analysisDefault = reflect.TypeFor[*verdict.SLO]()
)

// decode reads a node into a value of the configuration. path is its place, analysis.objectives[0].name; line is
// that of its name.
func (d *decoder) decode(node *yaml.Node, line int, path string, into reflect.Value) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		d.problem(line, path, "has no value", "give one, or remove the line")
		return
	}
	switch kind := into.Kind(); {
	case into.Type() == analysisDefault:
		into.Set(reflect.ValueOf(verdict.DefaultSLO()))
		d.decode(node, line, path, into.Elem())
	case kind == reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.decode(node, line, path, into.Elem())
	case into.Type() == durationType:
		d.scalar(node, line, path, into)
	case kind == reflect.Struct:
		d.mapping(node, line, path, into)
	case kind == reflect.Slice:
		d.list(node, line, path, into)
	default:
		d.scalar(node, line, path, into)
	}
}

func (d *decoder) mapping(node *yaml.Node, line int, path string, into reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.problem(line, path, describe(node)+" is not a section", "give `name: value` lines below it: "+strings.Join(fieldNames(into.Type()), ", "))
		return
	}
	d.found[path] = setting{line: line}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field := join(path, key.Value)
		if first, ok := seen[key.Value]; ok {
			d.problem(key.Line, field, fmt.Sprintf("is there twice, first in line %d", first), "remove one")
			continue
		}
		seen[key.Value] = key.Line
		index := slices.Index(fieldNames(into.Type()), key.Value)
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || index < 0 {
			d.problem(key.Line, field, "is not a field", suggestion(key.Value, path, into.Type()))
			continue
		}
		d.decode(value, key.Line, field, into.Field(index))
	}
	for _, name := range fieldNames(into.Type()) {
		if o := find(join(path, name)); o != nil && o.Required && seen[name] == 0 {
			d.problem(line, join(path, name), "is missing", "give for example "+o.form.example)
		}
	}
}

func join(path, name string) string { return strings.TrimPrefix(path+"."+name, ".") }

// fieldNames are the names of a struct's fields in YAML, by their index.
func fieldNames(t reflect.Type) []string {
	var names []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || name == "-" {
			break // the last ones, in all of these structs
		}
		names = append(names, name)
	}
	return names
}

// suggestion says which field may be meant.
func suggestion(name, path string, t reflect.Type) string {
	best, distance := "", 3
	for _, candidate := range fieldNames(t) {
		if n := levenshtein.Distance(strings.ToLower(name), strings.ToLower(candidate), nil); n < distance && n < len(candidate) {
			best, distance = candidate, n
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	for i := range Options { // in another section, for what is not in a list
		if o := &Options[i]; !strings.Contains(path, "[") && o.Key != name && !o.Secret && strings.HasSuffix(o.Key, "."+name) && !strings.Contains(o.Key, "[") {
			return "did you mean " + o.Key + "?"
		}
	}
	where := "the file"
	if path != "" {
		where = path
	}
	return where + " has " + strings.Join(fieldNames(t), ", ")
}

func (d *decoder) list(node *yaml.Node, line int, path string, into reflect.Value) {
	if node.Kind != yaml.SequenceNode {
		d.problem(line, path, describe(node)+" is not a list", "write each item on its own line after a dash")
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content)))
	var texts []string
	for i, item := range node.Content {
		place := fmt.Sprintf("%s[%d]", path, i)
		d.decode(item, item.Line, place, into.Index(i))
		texts = append(texts, d.found[place].text)
	}
	var text strings.Builder
	w := csv.NewWriter(&text) // as flags with lists are read
	_ = w.Write(texts)        // a Builder takes all
	w.Flush()
	d.found[path] = setting{text: strings.TrimSuffix(text.String(), "\n"), origin: d.at(line, path), line: line}
}

// describe is a node for a message.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	}
	if node.ShortTag() == "!!str" {
		return strconv.Quote(node.Value)
	}
	return node.Value
}

// scalar reads a single value: text, a number, a duration, true or false.
func (d *decoder) scalar(node *yaml.Node, line int, path string, into reflect.Value) {
	f := anything
	if o := find(path); o != nil {
		f = o.form
	}
	fix := "give for example " + f.example
	bad := func(hint string) {
		d.problem(line, path, describe(node)+" is not "+f.what, hint)
	}
	if node.Kind != yaml.ScalarNode {
		bad(fix)
		return
	}
	tag, text := node.ShortTag(), node.Value
	switch {
	case into.Type() == durationType:
		value, err := time.ParseDuration(text)
		switch {
		case bareNumber.MatchString(text):
			bad("give the unit too: " + text + "s or " + text + "m")
		case tag != "!!str" || !durationFormat.MatchString(text) || err != nil || !f.within(value.Seconds()):
			bad(fix)
		default:
			into.Set(reflect.ValueOf(metav1.Duration{Duration: value}))
		}
	case into.Kind() == reflect.String:
		switch {
		case tag != "!!str" && f.checkText("", text) == nil:
			bad(`write it in quotes: "` + text + `"`)
		case tag != "!!str", f.checkText("", text) != nil:
			bad(fix)
		default:
			if f.path && !filepath.IsAbs(text) && text != "-" && !bundle.Named(text) {
				text = filepath.Join(filepath.Dir(d.file), text)
			}
			into.SetString(text)
		}
	case into.Kind() == reflect.Bool:
		var value bool
		if tag != "!!bool" || node.Decode(&value) != nil {
			bad(fix)
			return
		}
		into.SetBool(value)
		text = strconv.FormatBool(value)
	default:
		text = d.number(node, into, f, bad)
	}
	d.found[path] = setting{text: text, origin: d.at(line, path), line: line}
}

// number reads a whole number or one with a fraction.
func (d *decoder) number(node *yaml.Node, into reflect.Value, f form, bad func(hint string)) string {
	fix := "give for example " + f.example
	tag := node.ShortTag()
	whole := into.Kind() == reflect.Int
	if tag != "!!int" && (whole || tag != "!!float") {
		switch match := numberAndUnit.FindStringSubmatch(node.Value); {
		case tag == "!!str" && bareNumber.MatchString(node.Value):
			fix = "write it without quotes"
		case match != nil:
			fix = "give the number alone: " + match[1]
		}
		bad(fix)
		return ""
	}
	var value float64
	if err := node.Decode(&value); err != nil || !f.within(value) {
		bad(fix)
		return ""
	}
	if whole {
		into.SetInt(int64(value))
	} else {
		into.SetFloat(value)
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}

// checkText finds text that the option does not take; field is for the message.
func (f form) checkText(field, text string) error {
	if f.pattern == "" || regexp.MustCompile(f.pattern).MatchString(text) {
		return nil
	}
	return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not %s", text, f.what), Fix: "give for example " + f.example}
}

// within says whether a number is in the option's bounds.
func (f form) within(n float64) bool {
	return (f.min == nil || n >= *f.min) && (f.max == nil || n <= *f.max) && (f.above == nil || n > *f.above) && (f.below == nil || n < *f.below)
}

// check finds fields that do not fit together.
func (d *decoder) check(c *Config) {
	for i := 1; i < len(c.Shift.Steps); i++ {
		if c.Shift.Steps[i] <= c.Shift.Steps[i-1] {
			field := fmt.Sprintf("shift.steps[%d]", i)
			d.problem(d.found[field].line, field, fmt.Sprintf("%d does not follow %d", c.Shift.Steps[i], c.Shift.Steps[i-1]), "give rising percentages, for example [10, 25, 50]")
		}
	}
	d.steps(c)
	if c.Analysis != nil {
		if len(c.Analysis.Objectives) == 0 {
			c.Analysis.Objectives = verdict.DefaultSLO().Objectives
		}
		_, c.Analysis.WarmUpGiven = d.found["analysis.warmUp"]
		d.section("analysis", c.Analysis.Check())
	}
	if c.ImagePolicy != nil {
		var input *usererr.Error
		c.verifier, input = provenance.NewVerifier(c.ImagePolicy, d.file)
		d.section("imagePolicy", input)
	}
	if c.Preview.ImagePolicy != nil {
		var input *usererr.Error
		c.previews, input = provenance.NewVerifier(c.Preview.ImagePolicy, d.file)
		d.section("preview.imagePolicy", input)
	}
	for i := range c.Hooks {
		d.section(fmt.Sprintf("hooks[%d]", i), c.Hooks[i].Check())
	}
	if at, bad := hook.CheckAll(c.Hooks); bad != nil {
		d.section(fmt.Sprintf("hooks[%d]", at), bad)
	}
	d.section("bundle", c.Bundle.Validate())
	if c.Approval != nil {
		d.section("approval", c.Approval.Check())
	}
}

// section adds an error of the package that a section belongs to.
func (d *decoder) section(section string, input *usererr.Error) {
	if input == nil {
		return
	}
	field := join(section, input.Field)
	line := d.found[section].line
	for place := field; place != section; place = parent(place) {
		if found, ok := d.found[place]; ok {
			line = found.line
			break
		}
	}
	d.problem(line, field, input.Problem, input.Fix)
}

// parent is the place that a place is in.
func parent(place string) string { return place[:max(strings.LastIndexAny(place, ".["), 0)] }
