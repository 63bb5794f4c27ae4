// Package pipelinefile reads a .gitlab-ci.yml as GitLab means it and proves what must hold of a release
// pipeline: nothing behind the gate runs before a person has pressed it, a way back is open from every
// state, and nothing is deployed by tag.
//
// GitLab's schema accepts files that break all three: they are faults of meaning, not of form. The best
// known is `when: manual` at the job beside `rules` without `when`: the job is manual but not blocking,
// so that the jobs behind it run at once and the pipeline is green with nothing promoted.
//
// Read are: the spec header, stages, default, workflow, hidden jobs, extends, anchors, !reference,
// rules, needs, when, allow_failure. Jobs from include are not seen, which is a finding.
package pipelinefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File is a pipeline file with everything that is inherited filled in.
type File struct {
	Inputs   map[string]Input
	Name     string // workflow:name
	Workflow []Rule
	Stages   []string
	Jobs     []Job // in the file's order, without hidden ones

	variables map[string]any
	included  bool
}

// Input is one of spec:inputs.
type Input struct {
	Type    string   `yaml:"type"`
	Regex   string   `yaml:"regex"`
	Options []string `yaml:"options"`
	Default *string  `yaml:"default"`
}

// Rule is one of rules.
type Rule struct {
	If           string `yaml:"if"`
	When         string `yaml:"when"`
	AllowFailure *bool  `yaml:"allow_failure"`

	conditional bool // it has an if, or changes, or exists
}

// Job is a job as written; Behaviours says what GitLab makes of it.
type Job struct {
	Name  string
	Line  int
	Stage string

	When          string // "" when not written
	AllowFailure  *bool  // nil when not written; allow_failure:exit_codes counts as false
	Rules         []Rule
	HasRules      bool
	Needs         []string
	HasNeeds      bool // needs: [] starts the job at once
	Script        []string
	Interruptible *bool
	ResourceGroup string
	Environment   Environment
	RetryWhen     []string // nil without retry; "always" without retry:when
	Trigger       bool     // it starts a child pipeline

	variables map[string]any
}

// Environment is a job's environment.
type Environment struct {
	Name   string `yaml:"name"`
	Action string `yaml:"action"`
}

// Behaviour is what GitLab makes of when, allow_failure and one matching rule.
type Behaviour struct {
	When         string // on_success, on_failure, always, manual, delayed; never: the job is left out
	AllowFailure bool
}

// Behaviours are the ways in which a job can be in a pipeline, one for each rule that may match.
func (j *Job) Behaviours() []Behaviour {
	when := j.When
	if when == "" {
		when = "on_success"
	}
	// allow_failure is decided by the job-level `when` alone; a rule changes it only by its own
	// allow_failure. That is why a job-level `when: manual` beside rules does not block.
	allow := when == "manual"
	if j.AllowFailure != nil {
		allow = *j.AllowFailure
	}
	if !j.HasRules {
		return []Behaviour{{when, allow}}
	}
	var found []Behaviour
	for _, rule := range j.Rules {
		b := Behaviour{when, allow}
		if rule.When != "" {
			b.When = rule.When
		}
		if rule.AllowFailure != nil {
			b.AllowFailure = *rule.AllowFailure
		}
		found = append(found, b)
		if !rule.conditional {
			return found
		}
	}
	return append(found, Behaviour{When: "never"}) // no rule matched
}

// keywords are top-level keys that are no jobs.
var keywords = []string{"spec", "default", "stages", "workflow", "variables", "include", "image", "services", "cache", "before_script", "after_script", "pages"}

// Parse reads a pipeline file. Interpolations ($[[ inputs.x ]]) stay as they are.
func Parse(data []byte) (*File, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var documents []*yaml.Node
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("not YAML: %w", err)
		}
		if len(document.Content) == 1 {
			documents = append(documents, document.Content[0])
		}
	}
	file := &File{Inputs: map[string]Input{}}
	if len(documents) == 2 {
		var header struct {
			Spec struct {
				Inputs map[string]Input `yaml:"inputs"`
			} `yaml:"spec"`
		}
		if err := documents[0].Decode(&header); err != nil {
			return nil, fmt.Errorf("the header: %w", err)
		}
		if header.Spec.Inputs != nil {
			file.Inputs = header.Spec.Inputs
		}
		documents = documents[1:]
	}
	if len(documents) != 1 || documents[0].Kind != yaml.MappingNode {
		return nil, errors.New("not a pipeline file: want one mapping, perhaps after a spec header")
	}
	return file, file.read(documents[0])
}

func (f *File) read(root *yaml.Node) error {
	reader := &reader{jobs: map[string]any{}}
	var order []*yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		value, err := plain(root.Content[i+1], 0)
		if err != nil {
			return err
		}
		reader.jobs[key.Value] = value
		if !slices.Contains(keywords, key.Value) && !strings.HasPrefix(key.Value, ".") {
			order = append(order, key)
		}
	}
	f.included = reader.jobs["include"] != nil
	f.variables, _ = reader.jobs["variables"].(map[string]any)
	f.Stages = []string{".pre", "build", "test", "deploy", ".post"}
	if stages, ok := reader.jobs["stages"].([]any); ok {
		f.Stages = append(append([]string{".pre"}, texts(stages)...), ".post")
	}
	if workflow, ok := reader.jobs["workflow"].(map[string]any); ok {
		f.Name, _ = workflow["name"].(string)
		f.Workflow, _ = rules(workflow["rules"])
	}
	for _, key := range order {
		job, err := reader.job(key)
		if err != nil {
			return err
		}
		if !slices.Contains(f.Stages, job.Stage) {
			return fmt.Errorf("line %d: job %s is of stage %q, which stages does not name", job.Line, job.Name, job.Stage)
		}
		f.Jobs = append(f.Jobs, job)
	}
	for _, job := range f.Jobs {
		for _, need := range job.Needs {
			if f.Job(need) == nil {
				return fmt.Errorf("line %d: job %s needs %q, which is no job of this file", job.Line, job.Name, need)
			}
		}
	}
	return nil
}

// Job gives a job by name, nil when there is none.
func (f *File) Job(name string) *Job {
	for i := range f.Jobs {
		if f.Jobs[i].Name == name {
			return &f.Jobs[i]
		}
	}
	return nil
}

// reference is a !reference [job, key …] that is still to be looked up.
type reference []string

// deepest bounds extends, !reference and nesting, against files that refer to themselves.
const deepest = 50

// plain turns a node into maps, lists and texts.
func plain(node *yaml.Node, depth int) (any, error) {
	if depth > deepest {
		return nil, fmt.Errorf("line %d: nested too deeply", node.Line)
	}
	switch node.Kind {
	case yaml.AliasNode:
		return plain(node.Alias, depth+1)
	case yaml.SequenceNode:
		list := make([]any, 0, len(node.Content))
		for _, item := range node.Content {
			value, err := plain(item, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		if node.Tag == "!reference" {
			return reference(texts(list)), nil
		}
		return list, nil
	case yaml.MappingNode:
		return plainMap(node, depth)
	default:
		if node.Tag == "!!null" {
			return nil, nil
		}
		if node.Tag == "!!bool" {
			var value bool
			err := node.Decode(&value)
			return value, err
		}
		return node.Value, nil
	}
}

func plainMap(node *yaml.Node, depth int) (any, error) {
	found := map[string]any{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		value, err := plain(node.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		if key := node.Content[i]; key.Tag != "!!merge" {
			found[key.Value] = value
			continue
		}
		merged, ok := value.([]any)
		if !ok {
			merged = []any{value}
		}
		for _, item := range merged {
			from, _ := item.(map[string]any)
			for key, value := range from {
				if _, has := found[key]; !has {
					found[key] = value
				}
			}
		}
	}
	// A key written in the map itself wins over a merged one, wherever it stands.
	for i := 0; i+1 < len(node.Content); i += 2 {
		if key := node.Content[i]; key.Tag != "!!merge" {
			value, err := plain(node.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			found[key.Value] = value
		}
	}
	return found, nil
}

func texts(list []any) []string {
	var found []string
	for _, item := range list {
		switch item := item.(type) {
		case string:
			found = append(found, item)
		case []any:
			found = append(found, texts(item)...)
		}
	}
	return found
}

// reader fills in what jobs inherit.
type reader struct{ jobs map[string]any }

// whole is a job with its extends merged in: maps deeply, everything else replaced.
func (r *reader) whole(name string, depth int) (map[string]any, error) {
	job, ok := r.jobs[name].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is extended but is no job of this file", name)
	}
	if depth > deepest {
		return nil, fmt.Errorf("job %s extends itself", name)
	}
	found := map[string]any{}
	parents := texts([]any{job["extends"]})
	for _, parent := range parents {
		inherited, err := r.whole(parent, depth+1)
		if err != nil {
			return nil, err
		}
		merge(found, inherited)
	}
	merge(found, job)
	return found, nil
}

func merge(into, from map[string]any) {
	for key, value := range from {
		old, a := into[key].(map[string]any)
		new, b := value.(map[string]any)
		if a && b {
			copied := map[string]any{}
			merge(copied, old)
			merge(copied, new)
			into[key] = copied
			continue
		}
		into[key] = value
	}
}

// resolved looks up !reference, which may stand in lists and refer to further ones.
func (r *reader) resolved(value any, depth int) (any, error) {
	if depth > deepest {
		return nil, errors.New("!reference refers to itself")
	}
	switch value := value.(type) {
	case reference:
		if len(value) == 0 {
			return nil, errors.New("!reference names nothing")
		}
		job, err := r.whole(value[0], 0)
		if err != nil {
			return nil, err
		}
		var target any = job
		for _, key := range value[1:] {
			inner, ok := target.(map[string]any)
			if !ok || inner[key] == nil {
				return nil, fmt.Errorf("!reference %v names nothing", []string(value))
			}
			target = inner[key]
		}
		return r.resolved(target, depth+1)
	case []any:
		list := make([]any, 0, len(value))
		for _, item := range value {
			got, err := r.resolved(item, depth+1)
			if err != nil {
				return nil, err
			}
			if _, referred := item.(reference); referred {
				if inner, ok := got.([]any); ok { // a list in the place of an item is spliced in
					list = append(list, inner...)
					continue
				}
			}
			list = append(list, got)
		}
		return list, nil
	case map[string]any:
		found := map[string]any{}
		for key, item := range value {
			got, err := r.resolved(item, depth+1)
			if err != nil {
				return nil, err
			}
			found[key] = got
		}
		return found, nil
	default:
		return value, nil
	}
}

func (r *reader) job(key *yaml.Node) (Job, error) {
	whole, err := r.whole(key.Value, 0)
	if err != nil {
		return Job{}, fmt.Errorf("line %d: %w", key.Line, err)
	}
	if defaults, ok := r.jobs["default"].(map[string]any); ok {
		filled := map[string]any{}
		for name, value := range defaults {
			filled[name] = value
		}
		for name, value := range whole { // a job's key replaces the default's, it is not merged
			filled[name] = value
		}
		whole = filled
	}
	got, err := r.resolved(whole, 0)
	if err != nil {
		return Job{}, fmt.Errorf("line %d: job %s: %w", key.Line, key.Value, err)
	}
	values, _ := got.(map[string]any)
	job := Job{Name: key.Value, Line: key.Line, Stage: "test"}
	if stage, ok := values["stage"].(string); ok {
		job.Stage = stage
	}
	job.When, _ = values["when"].(string)
	job.ResourceGroup, _ = values["resource_group"].(string)
	switch allow := values["allow_failure"].(type) {
	case bool:
		job.AllowFailure = &allow
	case map[string]any:
		job.AllowFailure = new(false)
	}
	if interruptible, ok := values["interruptible"].(bool); ok {
		job.Interruptible = &interruptible
	}
	job.Rules, job.HasRules = rules(values["rules"])
	for _, need := range list(values["needs"]) {
		job.HasNeeds = true
		switch need := need.(type) {
		case string:
			job.Needs = append(job.Needs, need)
		case map[string]any:
			if name, ok := need["job"].(string); ok && need["pipeline"] == nil && need["project"] == nil {
				job.Needs = append(job.Needs, name)
			}
		}
	}
	if needs, ok := values["needs"].([]any); ok && len(needs) == 0 {
		job.HasNeeds = true
	}
	for _, part := range []string{"before_script", "script", "after_script"} {
		job.Script = append(job.Script, texts([]any{values[part]})...)
	}
	switch environment := values["environment"].(type) {
	case string:
		job.Environment.Name = environment
	case map[string]any:
		job.Environment.Name, _ = environment["name"].(string)
		job.Environment.Action, _ = environment["action"].(string)
	}
	switch retry := values["retry"].(type) {
	case string:
		if retry != "0" {
			job.RetryWhen = []string{"always"}
		}
	case map[string]any:
		if job.RetryWhen = texts([]any{retry["when"]}); job.RetryWhen == nil {
			job.RetryWhen = []string{"always"}
		}
	}
	job.Trigger = values["trigger"] != nil
	job.variables, _ = values["variables"].(map[string]any)
	return job, nil
}

func list(value any) []any {
	found, _ := value.([]any)
	return found
}

func rules(value any) ([]Rule, bool) {
	items, ok := value.([]any)
	var found []Rule
	for _, item := range items {
		values, _ := item.(map[string]any)
		rule := Rule{}
		rule.If, _ = values["if"].(string)
		rule.When, _ = values["when"].(string)
		if allow, ok := values["allow_failure"].(bool); ok {
			rule.AllowFailure = &allow
		}
		rule.conditional = values["if"] != nil || values["changes"] != nil || values["exists"] != nil
		found = append(found, rule)
	}
	return found, ok
}
