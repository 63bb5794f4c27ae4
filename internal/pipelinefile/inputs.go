package pipelinefile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Input is one of spec:inputs.
type Input struct {
	Type    string
	Regex   string
	Options []string
	Default *string

	line   int
	closed bool // nothing but Options can be given

	conditional bool // it has rules
}

// inputKeywords are the keywords of an input in the header.
var inputKeywords = []string{"type", "regex", "options", "default", "description", "rules"}

// readInputs reads spec:inputs.
func (s *source) readInputs(header *yamlValue, d *decoder) {
	for _, key := range header.keys {
		if key != "spec" {
			d.problem(header.lines[key], key, "`%s` in the header is not understood", key)
		}
	}
	spec := header.get("spec")
	for _, key := range spec.keysOf() {
		if !slices.Contains([]string{"inputs", "component", "description"}, key) {
			d.problem(spec.lines[key], "spec:"+key, "`spec:%s` is not understood: inputs may come from elsewhere", key)
		}
	}
	inputs := spec.get("inputs")
	for _, name := range inputs.keysOf() {
		v := inputs.fields[name]
		input := Input{line: inputs.lines[name], Type: v.get("type").string(), Regex: v.get("regex").string(), Options: v.get("options").words()}
		if given := v.get("default"); given != nil && given.kind != nullValue {
			if text, ok := given.word(); ok {
				input.Default = &text
			}
		}
		for _, key := range v.keysOf() {
			if !slices.Contains(inputKeywords, key) {
				d.problem(v.lines[key], "spec:inputs:"+name+":"+key, "`%s` of an input is not understood", key)
			}
		}
		input.closed = len(input.Options) > 0
		if rules := v.get("rules"); rules != nil {
			input.conditional = true
			input.closed = false // a value is checked by the first rule that matches, and perhaps by none
			for _, rule := range rules.list {
				options := rule.get("options").words()
				input.Options = append(input.Options, options...)
				if len(options) == 0 {
					input.closed = false
					break
				}
				input.closed = input.closed || rule.get("if") == nil
			}
			if !input.closed {
				input.Options = nil
			}
		}
		if input.Type == "boolean" {
			input.Options, input.closed = []string{"false", "true"}, true
		}
		s.inputs[name] = input
	}
}

func (v *yamlValue) keysOf() []string {
	if v.is(mapValue) {
		return v.keys
	}
	return nil
}

// word is a scalar as GitLab puts it into the file's text.
func (v *yamlValue) word() (string, bool) {
	switch {
	case v.is(textValue):
		return v.text, true
	case v.is(boolValue):
		return strconv.FormatBool(v.truth), true
	}
	return "", false
}

func (v *yamlValue) words() (found []string) {
	if !v.is(listValue) {
		return nil
	}
	for _, item := range v.list {
		if word, ok := item.word(); ok {
			found = append(found, word)
		}
	}
	return found
}

// block is GitLab's interpolation: $[[ inputs.name ]], perhaps with functions behind a |.
var block = regexp.MustCompile(`\$\[\[\s*(\S(?:.*?\S)?)\s*\]\]`)

var (
	inputBlock     = regexp.MustCompile(`^inputs\.([A-Za-z0-9_-]+)$`)
	inputWithBlock = regexp.MustCompile(`^inputs\.([A-Za-z0-9_-]+)`)
)

// Characters that stand for an interpolation while the YAML is read: GitLab interpolates first, so that the brackets
// never reach its YAML reader.
const (
	markStart = "\ue000"
	markEnd   = "\ue001"
)

var mark = regexp.MustCompile(markStart + `([0-9]+)` + markEnd)

// interpolate puts values into a text, and placeholders for inputs without one. restore undoes the placeholders.
func interpolate(text string, assigned map[string]string) (changed string, restore func(string) string) {
	var blocks []string
	changed = block.ReplaceAllStringFunc(text, func(whole string) string {
		if name := inputBlock.FindStringSubmatch(block.FindStringSubmatch(whole)[1]); name != nil {
			if given, ok := assigned[name[1]]; ok {
				return given
			}
		}
		blocks = append(blocks, whole)
		return markStart + strconv.Itoa(len(blocks)-1) + markEnd
	})
	return changed, func(text string) string {
		return mark.ReplaceAllStringFunc(text, func(found string) string {
			i, err := strconv.Atoi(mark.FindStringSubmatch(found)[1])
			if err != nil || i >= len(blocks) {
				return found
			}
			return blocks[i]
		})
	}
}

// structuralInputs are the inputs that stand where they decide which jobs there are, when they run, or what is
// known of them. closed are those of which every value is known.
func (f *File) structuralInputs() (closed []string, problems []problem) {
	found := map[string]bool{}
	look := func(job *Job, keyword string, line int, text string) {
		for _, match := range block.FindAllStringSubmatch(text, -1) {
			name := inputBlock.FindStringSubmatch(match[1])
			if name != nil && f.Inputs[name[1]].closed {
				found[name[1]] = true
				continue
			}
			p := problem{line: line, keyword: keyword, text: fmt.Sprintf("`%s` is %s: whoever starts the pipeline decides it, and its values are not a closed list", keyword, match[0])}
			if job != nil {
				p.job = job.Name
			}
			problems = append(problems, p)
		}
	}
	for i := range f.Jobs {
		job := &f.Jobs[i]
		look(job, "name of the job", job.Line, job.Name)
		job.values.walk(nil, func(place []string, v *yamlValue) {
			if freePlace(place) {
				return
			}
			if v.kind == textValue {
				look(job, strings.Join(place, ":"), v.line, v.text)
			}
			for _, key := range v.keysOf() {
				look(job, strings.Join(append(slices.Clip(place), key), ":"), v.lines[key], key)
			}
		})
	}
	f.workflow.walk([]string{"workflow"}, func(place []string, v *yamlValue) {
		if v.kind == textValue && !freePlace(place[1:]) && !slices.Equal(place, []string{"workflow", "name"}) {
			look(nil, strings.Join(place, ":"), v.line, v.text)
		}
	})
	f.stages.walk([]string{"stages"}, func(_ []string, v *yamlValue) {
		if v.kind == textValue {
			look(nil, "stages", v.line, v.text)
		}
	})
	for _, p := range f.parts {
		if !p.interpolates {
			continue
		}
		for _, match := range block.FindAllStringSubmatch(p.body, -1) {
			if name := inputBlock.FindStringSubmatch(match[1]); name != nil && f.Inputs[name[1]].changesYAML() {
				found[name[1]] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), problems
}

// meaningful are the characters by which a value can be more than a text of the file.
var meaningful = regexp.MustCompile("[\\n\\r\"'{}\\[\\],#&*!|>\\\\]|: ")

// changesYAML says whether one of the values of a closed input can change more than the place where it is put in.
func (i Input) changesYAML() bool {
	return i.closed && slices.ContainsFunc(i.Options, meaningful.MatchString)
}

// freePlace says whether a value in a job may be any text: it does not decide whether or when the job runs. Scripts,
// images and the like are checked by themselves.
func freePlace(place []string) bool {
	if len(place) == 0 {
		return false
	}
	switch keyword := place[0]; keyword {
	case "rules":
		return len(place) > 2 && slices.Contains([]string{"if", "changes", "exists", "variables"}, place[2])
	case "environment":
		return len(place) == 1 || slices.Contains([]string{"name", "url", "deployment_tier", "auto_stop_in", "kubernetes"}, place[1])
	case "retry":
		return len(place) > 1 && place[1] == "max"
	default:
		use, known := jobKeywords[keyword]
		return known && use != decides
	}
}

// mostVariants bounds the combinations of inputs that are tried.
const mostVariants = 64

// variants reads the file with every combination of the values of some inputs, the defaults first. GitLab makes no
// pipeline of a combination that is not valid.
func (s *source) variants(closed []string, problems []problem) (*File, error) {
	combinations := []map[string]string{{}}
	for _, name := range closed {
		var grown []map[string]string
		for _, value := range s.inputs[name].inOrder() {
			for _, earlier := range combinations {
				with := maps.Clone(earlier)
				with[name] = value
				grown = append(grown, with)
			}
		}
		if combinations = grown; len(combinations) > mostVariants {
			problems = append(problems, problem{rule: RuleTooLarge, keyword: "spec:inputs", text: fmt.Sprintf("its inputs %s make more than %d different files", strings.Join(closed, ", "), mostVariants)})
			combinations = combinations[:1]
			break
		}
	}
	var file *File
	var firstErr error
	for _, assigned := range combinations {
		one, err := s.read(assigned)
		if err == nil {
			err = one.checkReferences()
		}
		if err != nil {
			if firstErr == nil {
				firstErr = err
			}
			continue
		}
		var names []string
		for _, name := range closed {
			names = append(names, fmt.Sprintf("%s is %q", name, assigned[name]))
		}
		one.when = strings.Join(names, ", ")
		if file == nil {
			file = one
			file.problems = append(file.problems, problems...)
			continue
		}
		file.variants = append(file.variants, one)
	}
	if file == nil {
		return nil, firstErr
	}
	return file, nil
}

// inOrder are an input's options, the default first.
func (i Input) inOrder() []string {
	options := slices.Clone(i.Options)
	if i.Default != nil {
		options = slices.DeleteFunc(options, func(o string) bool { return o == *i.Default })
		options = append([]string{*i.Default}, options...)
	}
	return options
}
