package pipelinefile

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Include is a file that a pipeline file includes. Address is the path in the repository of a local one, FILE@PROJECT:REF
// of one in another project, and else what is written.
type Include struct {
	Kind    string // local, component, remote, project or template
	Address string
}

func (i Include) String() string { return i.Kind + ": " + i.Address }

// Finder finds included files. name is what findings call the file. An error says why it was not found, or is not seen.
type Finder func(Include) (name string, text []byte, err error)

// part is a file with the files that it includes, in which inputs stand for what they were given. What is included stands
// below the file's own text: GitLab merges them in their order, then the file into them.
type part struct {
	name         string // "" for the file itself
	base         int    // what the numbers of its lines begin behind, so that each line of all parts has a number of its own
	body         string // with empty lines in the header's place, so that lines count
	interpolates bool   // it has a header, so that GitLab puts inputs in
	includes     []*part
	written      string // what its include says, before inputs are put in
}

// Bounds of what is included. GitLab has the same one for files.
const (
	mostIncludes = 150
	linesOfAPart = 1 << 20
)

// value is a part's mapping, merged with what it includes.
func (p *part) value(f *File, assigned map[string]string) (*yamlValue, error) {
	found := &yamlValue{kind: mapValue}
	for _, included := range p.includes {
		value, err := included.value(f, assigned)
		if err != nil {
			return nil, err
		}
		found = merged(found, value)
	}
	own, problems, err := p.decode(assigned)
	if err != nil {
		return nil, err
	}
	f.problems = append(f.problems, problems...)
	written, restore := interpolate(p.written, assigned)
	if now := own.get("include").canonical(); now != p.written && now != restore(written) {
		f.problems = append(f.problems, problem{line: p.base + 1, keyword: "include", text: "what it includes depends on an input"})
	}
	return merged(found, own.without("include")), nil
}

// decode reads a part's own text.
func (p *part) decode(assigned map[string]string) (*yamlValue, []problem, error) {
	text, restore := p.body, func(text string) string { return text }
	if p.interpolates {
		text, restore = interpolate(text, assigned)
	}
	documents, err := decodeDocuments([]byte(text))
	if err != nil {
		return nil, nil, p.error(err)
	}
	if len(documents) != 1 || documents[0].Kind != yaml.MappingNode {
		return nil, nil, p.error(errors.New("not a pipeline file: it must be one mapping, perhaps after a spec header"))
	}
	shift(documents[0], p.base)
	d := &decoder{restore: restore}
	root, err := d.decode(documents[0], 0)
	return root, d.problems, p.error(err)
}

func (p *part) error(err error) error {
	if err == nil || p.name == "" {
		return err
	}
	return fmt.Errorf("%s: %w", p.name, err)
}

// all are a part and those below it.
func (p *part) all() []*part {
	found := []*part{p}
	for _, included := range p.includes {
		found = append(found, included.all()...)
	}
	return found
}

// place is the file and the line of one of the numbers of lines: "" for the file itself.
func (f *File) place(line int) (name string, number int) {
	for _, p := range f.parts {
		if p.base == line/linesOfAPart*linesOfAPart {
			return p.name, line - p.base
		}
	}
	return "", line
}

// Place is the file and the line of a job: "" for the file itself.
func (f *File) Place(job *Job) (name string, line int) { return f.place(job.Line) }

// at is a line for an error.
func (f *File) at(line int) string {
	name, number := f.place(line)
	if name != "" {
		return fmt.Sprintf("%s: line %d", name, number)
	}
	return fmt.Sprintf("line %d", number)
}

// includer reads what a file includes.
type includer struct {
	source *source
	find   Finder
	count  int
}

// problem notes something about an include.
func (n *includer) problem(line int, rule, fix, format string, args ...any) {
	n.source.problems = append(n.source.problems, problem{line: line, rule: rule, keyword: "include", fix: fix, text: fmt.Sprintf(format, args...)})
}

// unseen notes a file whose jobs are not checked.
func (n *includer) unseen(line int, what, why string) {
	n.source.unseen = true
	n.problem(line, RuleIncluded, "give its text with --include, or check the merged file that GitLab's pipeline editor shows", "the jobs of %s are not checked: %s", what, why)
}

// read adds to a part what it includes. local says that it is a file of the repository, which can include others of it.
func (n *includer) read(p *part, local bool, depth int) error {
	own, _, err := p.decode(nil)
	if err != nil {
		return err
	}
	written := own.get("include")
	p.written = written.canonical()
	if written == nil {
		return nil
	}
	items := []*yamlValue{written}
	if written.kind == listValue {
		items = written.list
	}
	for _, item := range items {
		for _, include := range n.itemsOf(item) {
			if n.count++; n.count > mostIncludes || depth > deepest {
				return p.error(fmt.Errorf("it includes more than %d files, or itself", mostIncludes))
			}
			if err := n.add(p, item, include, local, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// includeKeywords are those of an item of include that are understood.
var includeKeywords = []string{"local", "component", "remote", "project", "template", "file", "ref", "inputs", "integrity"}

// itemsOf are the files of one item. What is not understood is noted, and none is given.
func (n *includer) itemsOf(item *yamlValue) []Include {
	if item.kind == textValue {
		if strings.HasPrefix(item.text, "http://") || strings.HasPrefix(item.text, "https://") {
			return n.known(item, Include{"remote", item.text})
		}
		return n.known(item, Include{"local", item.text})
	}
	for _, key := range item.keysOf() {
		if !slices.Contains(includeKeywords, key) {
			n.unseen(item.line, "an include with `"+key+"`", "which of them there are is not known")
			return nil
		}
	}
	for _, kind := range []string{"local", "component", "remote", "template"} {
		if address := item.get(kind).string(); address != "" {
			return n.known(item, Include{kind, address})
		}
	}
	var found []Include
	for _, file := range item.get("file").texts() {
		address := strings.TrimPrefix(file, "/") + "@" + item.get("project").string()
		if ref := item.get("ref").string(); ref != "" {
			address += ":" + ref
		}
		found = append(found, n.known(item, Include{"project", address})...)
	}
	if len(found) == 0 && item.get("project").string() == "" {
		n.unseen(item.line, "an include", "it names no file")
	}
	return found
}

// server is the variable that a component's address may begin with: of GitLab's own, as everywhere, it is taken on trust that
// nobody sets them.
var server = regexp.MustCompile(`^\$(CI_SERVER_FQDN|\{CI_SERVER_FQDN\})/`)

// known gives an include whose address says which file it is.
func (n *includer) known(item *yamlValue, include Include) []Include {
	address := include.Address
	if include.Kind == "component" {
		address = server.ReplaceAllString(address, "")
	}
	if strings.Contains(address, "$") {
		n.unseen(item.line, include.String(), "a variable or an input decides which file it is")
		return nil
	}
	if include.Kind == "local" {
		if include.Address = path.Clean(strings.TrimPrefix(include.Address, "/")); strings.ContainsAny(address, "*?") {
			n.unseen(item.line, include.String(), "it is a pattern of names")
			return nil
		}
	}
	return []Include{include}
}

// add reads one included file into a part.
func (n *includer) add(p *part, item *yamlValue, include Include, local bool, depth int) error {
	if n.find == nil || include.Kind == "local" && !local {
		n.unseen(item.line, include.String(), "they are in another file")
		return nil
	}
	name, text, err := n.find(include)
	if err != nil {
		n.unseen(item.line, include.String(), err.Error())
		return nil
	}
	if include.Kind == "remote" {
		n.integrity(item, include, text)
	}
	if strings.Count(string(text), "\n") >= linesOfAPart {
		return fmt.Errorf("%s: too large", name)
	}
	read, err := split(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	n.source.parts++
	added := read.root
	added.name, added.base = name, n.source.parts*linesOfAPart
	for _, header := range read.problems {
		header.line += added.base
		n.source.problems = append(n.source.problems, header)
	}
	n.give(added, read, item)
	if err := n.read(added, local && include.Kind == "local", depth+1); err != nil {
		return err
	}
	p.includes = append(p.includes, added)
	return nil
}

// integrity checks what the text of a remote file is held against: whoever can change it there can change the pipeline.
func (n *includer) integrity(item *yamlValue, include Include, text []byte) {
	sum := sha256.Sum256(text)
	want := "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
	switch written := item.get("integrity").string(); written {
	case want:
	case "":
		n.problem(item.line, RuleIncluded, "give `integrity: "+want+"`, which GitLab holds the file against", "%s can be another file tomorrow", include)
	default:
		n.problem(item.line, RuleIncludedInput, "give the file whose integrity it is", "%s has the integrity %s, the file that is checked has %s", include, written, want)
	}
}

// give puts what an include gives for the inputs of a file into its text, in the words of the file that is checked: its
// inputs stay as they are.
func (n *includer) give(added *part, read *source, item *yamlValue) {
	given := item.get("inputs")
	for _, name := range given.keysOf() {
		if _, declared := read.inputs[name]; !declared {
			n.problem(given.lines[name], RuleIncludedInput, "leave it out", "%s has no input %q: GitLab makes no pipeline", added.name, name)
		}
	}
	if !read.header {
		if block.MatchString(added.body) {
			n.problem(added.base+1, "", "", "it has interpolations and no header: GitLab does not put inputs in")
		}
		return
	}
	values := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(read.inputs)) {
		values[name] = n.valueOf(added, name, read.inputs[name], given.get(name), item)
	}
	var lines []string
	for number, line := range strings.Split(added.body, "\n") {
		lines = append(lines, block.ReplaceAllStringFunc(line, func(whole string) string {
			name := inputBlock.FindStringSubmatch(block.FindStringSubmatch(whole)[1])
			if name == nil {
				n.problem(added.base+number+1, "", "", "the interpolation %s of an included file is not understood", whole)
				return ""
			}
			value, declared := values[name[1]]
			if !declared {
				n.problem(added.base+number+1, RuleInput, "declare it in spec:inputs", "it uses input %q, which its header does not declare", name[1])
			}
			return value
		}))
	}
	added.body, added.interpolates = strings.Join(lines, "\n"), n.source.header
}

// valueOf is what an input of an included file stands for: a text, perhaps with inputs of the file that is checked.
func (n *includer) valueOf(added *part, name string, input Input, given, item *yamlValue) string {
	line, keyword := item.line, fmt.Sprintf("input %q of %s", name, added.name)
	if given != nil && given.kind != nullValue {
		line = given.line
	} else {
		if input.Default == nil {
			n.problem(line, RuleIncludedInput, "give it", "%s is missing: GitLab makes no pipeline", keyword)
			return ""
		}
		given = &yamlValue{kind: textValue, text: *input.Default}
		if input.Type == "boolean" {
			given = &yamlValue{kind: boolValue, truth: *input.Default == "true"}
		}
	}
	text, ok := given.word()
	switch {
	case !ok || input.Type == "array" || input.conditional:
		n.problem(line, "", "", "%s is not understood: lists, maps and `rules` of inputs are not read", keyword)
		return text
	case strings.ContainsAny(text, "\n\r\x00"):
		n.problem(line, "", "", "%s has more than one line", keyword)
		return strings.Map(func(r rune) rune {
			if r < ' ' {
				return ' '
			}
			return r
		}, text)
	}
	sample := text
	for _, found := range block.FindAllStringSubmatch(text, -1) {
		passed := inputBlock.FindStringSubmatch(found[1])
		if passed == nil || !n.source.header {
			n.problem(line, "", "", "%s is given %s, which is not understood", keyword, found[0])
			return ""
		}
		root := n.source.inputs[passed[1]]
		if root.changesYAML() {
			n.problem(line, "", "", "%s is given %s, whose options are more than words", keyword, found[0])
		}
		if input.Type != root.Type && (input.Type == "boolean" || input.Type == "number") {
			n.problem(line, RuleIncludedInput, "give both the same type", "%s is a %s, and %s is not", keyword, input.Type, found[0])
		}
		if root.Default == nil {
			return text // it is always given, and GitLab checks it
		}
		sample = strings.Replace(sample, found[0], *root.Default, 1)
	}
	n.validate(line, keyword, input, given, sample, sample != text)
	return text
}

// notText are plain texts of YAML 1.1 that Psych makes a number or a date of, or a symbol.
var notText = regexp.MustCompile(`^([-+]?[0-9][0-9_,]*(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+]?[0-9]+)?|[-+]?0[xXbBoO][0-9a-fA-F_]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|:.*)$`)

// validate checks a value as GitLab does: it makes no pipeline of one that is not valid. With inputs in it, it is what
// their defaults make of it.
func (n *includer) validate(line int, keyword string, input Input, given *yamlValue, value string, passed bool) {
	switch input.Type {
	case "boolean":
		if !passed && !given.is(boolValue) || passed && !psychTrue.MatchString(value) && !psychFalse.MatchString(value) {
			n.problem(line, RuleIncludedInput, "give true or false", "%s is no boolean: GitLab makes no pipeline", keyword)
		}
		return
	case "number":
		if !given.plain && given.line > 0 || !notText.MatchString(value) {
			n.problem(line, RuleIncludedInput, "give a number, without quotes", "%s is no number: GitLab makes no pipeline", keyword)
		}
	default:
		switch {
		case passed && given.plain && strings.TrimSpace(block.ReplaceAllString(given.text, "")) == "":
			n.problem(line, RuleIncludedInput, `write it in quotes: "`+given.text+`"`, "%s is given %s without quotes: GitLab reads the value as YAML, where 1234567 is a number and yes a boolean, and makes no pipeline", keyword, given.text)
		case given.kind == boolValue || given.plain && !passed && notText.MatchString(value):
			n.problem(line, RuleIncludedInput, "write it in quotes", "%s is no text: GitLab makes no pipeline", keyword)
		}
	}
	pattern, err := regexp.Compile(input.Regex)
	switch {
	case err != nil:
		n.problem(line, RuleIncludedInput, "correct it", "%s has a pattern that is not RE2: %v", keyword, err)
	case input.Regex != "" && !pattern.MatchString(value):
		n.problem(line, RuleIncludedInput, "give one that does", "%s does not admit %q: it does not match %s", keyword, value, input.Regex)
	case len(input.Options) > 0 && !slices.Contains(input.Options, value):
		n.problem(line, RuleIncludedInput, "give one of them", "%s does not admit %q: its options are %q", keyword, value, input.Options)
	}
}
