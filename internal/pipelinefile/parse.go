package pipelinefile

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// reserved are keys of the top level that are never jobs in GitLab. `default` and `workflow` are not among them: one
// that has a script is a job.
var reserved = []string{"stages", "variables", "include", "image", "services", "cache", "before_script", "after_script"}

// Parse reads a pipeline file. Interpolations of inputs that admit any value ($[[ inputs.x ]]) stay as they are. An
// input in a place that decides which jobs there are, or when they run, is put in as GitLab does, before the YAML is
// read: the file is then what it is with the default, and Check looks at every value.
//
// Errors say what is wrong with the file, and where. What GitLab accepts and is not understood is no error but a
// finding of Check.
func Parse(data []byte) (*File, error) { return ParseIncluding(data, nil) }

// ParseIncluding is Parse of a file with those that it includes, as GitLab merges them. A file that find does not find is a
// finding, as all are without one.
func ParseIncluding(data []byte, find Finder) (*File, error) {
	source, err := split(data)
	if err != nil {
		return nil, err
	}
	includes := &includer{source: source, find: find}
	if err := includes.read(source.root, true, 0); err != nil {
		return nil, err
	}
	file, err := source.read(nil)
	if err != nil {
		return nil, source.because(err)
	}
	closed, problems := file.structuralInputs()
	if len(closed) == 0 {
		file.problems = append(file.problems, problems...)
		return file, file.checkReferences()
	}
	return source.variants(closed, problems)
}

// because says why a file cannot be read: an input that GitLab rejects may be the reason.
func (s *source) because(err error) error {
	for _, p := range s.problems {
		if p.rule == RuleIncludedInput {
			return fmt.Errorf("line %d: %s", p.line%linesOfAPart, p.text)
		}
	}
	return err
}

// source is a file that is not read yet: what its header says, and its text.
type source struct {
	inputs   map[string]Input
	problems []problem // of the header, and of what it includes
	header   bool
	root     *part
	parts    int  // that it includes
	unseen   bool // it includes a file that is not seen
}

var separator = regexp.MustCompile(`(?m)^---([ \t]|\r?$)`)

// split separates the header from the rest. A file has a header if it has two documents and the first one has `spec`.
func split(data []byte) (*source, error) {
	text := string(data)
	if strings.ContainsAny(text, markStart+markEnd) {
		return nil, errors.New("not a pipeline file: it has characters for private use")
	}
	var starts []int
	for _, at := range separator.FindAllStringIndex(text, -1) {
		starts = append(starts, at[0])
	}
	var documents []string // each with empty lines before it
	for i, from := range append([]int{0}, starts...) {
		to := len(text)
		if i < len(starts) {
			to = starts[i]
		}
		document := strings.TrimPrefix(text[from:to], "---")
		if from != to && !blank(document) {
			documents = append(documents, strings.Repeat("\n", strings.Count(text[:from], "\n"))+document)
		}
	}
	s := &source{inputs: map[string]Input{}, root: &part{}}
	switch len(documents) {
	case 1:
		s.root.body = documents[0]
		return s, nil
	case 2:
		return s, s.readHeader(documents)
	}
	return nil, errors.New("not a pipeline file: it must be one mapping, perhaps after a spec header")
}

// blank says whether a document has nothing but comments.
func blank(document string) bool {
	for line := range strings.Lines(document) {
		if trimmed := strings.TrimSpace(line); trimmed != "" && !strings.HasPrefix(trimmed, "#") {
			return false
		}
	}
	return true
}

func (s *source) readHeader(documents []string) error {
	nodes, err := decodeDocuments([]byte(documents[0]))
	if err != nil {
		return err
	}
	d := &decoder{restore: func(text string) string { return text }}
	header := &yamlValue{}
	if len(nodes) == 1 {
		if header, err = d.decode(nodes[0], 0); err != nil {
			return fmt.Errorf("the header: %w", err)
		}
	}
	if header.get("spec") == nil {
		s.root.body = documents[0]
		s.problems = append(s.problems, problem{line: 1 + strings.Count(documents[0], "\n"), keyword: "---", text: "the file has two documents, and the first one is no header: GitLab reads only one of them"})
		return nil
	}
	s.header, s.root.body, s.root.interpolates = true, documents[1], true
	s.readInputs(header, d)
	s.problems = append(s.problems, d.problems...)
	return nil
}

// read reads the file with some inputs put in.
func (s *source) read(assigned map[string]string) (*File, error) {
	file := &File{Inputs: s.inputs, parts: s.root.all(), included: s.unseen, problems: slices.Clone(s.problems)}
	root, err := s.root.value(file, assigned)
	if err != nil {
		return nil, err
	}
	return file, file.read(root)
}

// read fills in what the file's mapping says.
func (f *File) read(root *yamlValue) error {
	r := &inheritance{root: root}
	names, err := f.readTopLevel(root)
	if err != nil {
		return err
	}
	f.variables = root.get("variables")
	f.Stages = []string{".pre", "build", "test", "deploy", ".post"}
	if stages, err := r.resolve(&yamlValue{kind: listValue, list: []*yamlValue{orNull(root.get("stages"))}}, 0); err == nil && root.get("stages") != nil {
		f.Stages = slices.Concat([]string{".pre"}, slices.DeleteFunc(stages.texts(), func(s string) bool { return s == ".pre" || s == ".post" }), []string{".post"})
		f.stages = stages
	} else if err != nil {
		return err
	}
	if err := f.readWorkflow(r, root); err != nil {
		return err
	}
	for _, name := range names {
		job, err := f.readJob(r, name, root.lines[name])
		if err != nil {
			return err
		}
		f.Jobs = append(f.Jobs, job)
	}
	return nil
}

func orNull(v *yamlValue) *yamlValue {
	if v == nil {
		return &yamlValue{}
	}
	return v
}

// readTopLevel finds the file's jobs, in their order. A file that has something else in the place of a job, or no
// job at all, is not a pipeline file.
func (f *File) readTopLevel(root *yamlValue) (names []string, err error) {
	for _, key := range root.keys {
		v := root.fields[key]
		if slices.Contains(reserved, key) || strings.HasPrefix(key, ".") {
			continue
		}
		if key == "default" || key == "workflow" {
			if !looksLikeJob(v) {
				continue
			}
			f.problem(nil, root.lines[key], key, "`%s` has keywords of a job: GitLab runs it as one", key)
		}
		if !v.is(mapValue) {
			return nil, fmt.Errorf("not a pipeline file: %s: %q is neither a keyword of GitLab CI/CD nor a job", f.at(root.lines[key]), key)
		}
		names = append(names, key)
	}
	if len(names) == 0 && !f.included {
		return nil, errors.New("not a pipeline file: it has no jobs")
	}
	return names, nil
}

// looksLikeJob is what GitLab goes by: Entry::Job.matching? and Entry::Bridge.matching?.
func looksLikeJob(v *yamlValue) bool {
	return v.get("script") != nil || v.get("run") != nil || v.get("trigger") != nil || v.get("needs") != nil
}

// checkReferences checks that every stage and needed job of a job is in the file.
func (f *File) checkReferences() error {
	for i := range f.Jobs {
		job := &f.Jobs[i]
		if !slices.Contains(f.Stages, job.Stage) && !strings.Contains(job.Stage, "$[[") { // that one is a finding
			return fmt.Errorf("%s: job %s has stage %q, which is not in stages", f.at(job.Line), job.Name, job.Stage)
		}
		for _, needs := range job.allNeeds() {
			for _, need := range needs {
				if f.Job(need.name) == nil && !need.optional && !strings.Contains(need.name, "$[[") {
					return fmt.Errorf("%s: job %s needs %q, which is not a job of this file", f.at(job.Line), job.Name, need.name)
				}
			}
		}
	}
	return nil
}
