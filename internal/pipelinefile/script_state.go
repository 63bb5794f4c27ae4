package pipelinefile

import (
	"maps"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

type pieceKind int

const (
	pieceText     pieceKind = iota
	pieceInput              // an input of the pipeline, by name
	pieceVariable           // a variable of the job that the script has not assigned, by name
	pieceOutput             // of a command
	pieceAny                // unknown
)

// piece is a part of a word whose text is known, or whose origin is.
type piece struct {
	kind     pieceKind
	text     string
	function string // of an input: the function behind it, such as expand_vars
	quoted   bool
	pattern  bool   // unquoted text with wildcards: it may become the names of files
	number   bool   // an output without spaces
	from     string // what an output depends on that whoever starts the pipeline chooses
}

// value is what a variable holds: a sequence of pieces.
type value []piece

func text(s string) value {
	if s == "" {
		return value{}
	}
	return value{{kind: pieceText, text: s}}
}

// constant is the text of a value that has no unknown piece.
func (v value) constant() (string, bool) {
	var all strings.Builder
	for _, p := range v {
		if p.kind != pieceText {
			return "", false
		}
		all.WriteString(p.text)
	}
	return all.String(), true
}

func (v value) equal(other value) bool { return slices.Equal(v, other) }

// union are all alternatives of both, unknown when they are too many.
func union(one, other []value) []value {
	all := slices.Clone(one)
	for _, v := range other {
		if !slices.ContainsFunc(all, v.equal) {
			all = append(all, v)
		}
	}
	if len(all) > mostAlternatives {
		return []value{{{kind: pieceAny}}}
	}
	return all
}

// field is one word of a command after expansion.
type field struct {
	pieces value
	many   bool // it may also be no word, or several
	absent bool // when many is set: it is one word, or none
}

// replaces says whether the script may have made another command of a name.
func (s *shellState) replaces(name string) bool {
	_, alias := s.aliases[name]
	return alias || len(s.functions[name]) > 0
}

// isOption says whether a field begins as an option does.
func (f field) isOption() bool {
	return len(f.pieces) > 0 && f.pieces[0].kind == pieceText && strings.HasPrefix(f.pieces[0].text, "-")
}

// literal is the text of a field that is certainly one word of known text.
func (f field) literal() (string, bool) {
	if f.many {
		return "", false
	}
	return f.pieces.constant()
}

// shellState is what a shell knows at one point of a script.
type shellState struct {
	vars      map[string][]value // absent: as the job's environment has it
	arrays    map[string][]field // absent or nil: not known
	readonly  map[string]bool
	functions map[string][]*syntax.Stmt // bodies; nil among them: perhaps not defined
	aliases   map[string][]string
	params    []field
	anyParams bool              // params are not known
	replaced  map[string]string // programs that the script has put in the place of others, and how
	chosen    map[string]string // files that the script has made of a variable or an input, and of which
	dead      bool              // this point is not reached
	trusted   map[string]string // files that were downloaded from where a program is published, and which program it is
	code      string            // a file with code that the script has written
	folders   []string          // where it may be: "" is the repository's folder
	pushed    [][]string        // by pushd
	touched   string            // what may have changed the repository's configuration or module
	shell     string            // why options or variables of the shell make every command doubtful
}

func newShellState() *shellState {
	return &shellState{
		vars: map[string][]value{}, arrays: map[string][]field{}, readonly: map[string]bool{}, functions: map[string][]*syntax.Stmt{},
		aliases: map[string][]string{}, replaced: map[string]string{}, chosen: map[string]string{}, trusted: map[string]string{}, folders: []string{""},
	}
}

func (s *shellState) clone() *shellState {
	c := *s
	c.vars, c.arrays, c.readonly = maps.Clone(s.vars), maps.Clone(s.arrays), maps.Clone(s.readonly)
	c.functions, c.aliases, c.replaced = maps.Clone(s.functions), maps.Clone(s.aliases), maps.Clone(s.replaced)
	c.chosen = maps.Clone(s.chosen)
	c.trusted = maps.Clone(s.trusted)
	c.params = slices.Clone(s.params)
	return &c
}

// lookup are the values that a variable may have.
func (s *shellState) lookup(name string) []value {
	if values, ok := s.vars[name]; ok {
		return values
	}
	return []value{{{kind: pieceVariable, text: name}}}
}

// join makes s the state after one of two ways.
func (s *shellState) join(other *shellState) {
	switch {
	case other == nil || other.dead:
		return
	case s.dead:
		*s = *other.clone()
		return
	}
	for name := range other.vars {
		s.vars[name] = union(s.lookup(name), other.lookup(name))
	}
	for name := range s.vars {
		if _, ok := other.vars[name]; !ok {
			s.vars[name] = union(s.vars[name], other.lookup(name))
		}
	}
	for name, fields := range s.arrays {
		if !equalFields(fields, other.arrays[name]) {
			s.arrays[name] = nil
		}
	}
	for name := range other.arrays {
		if _, ok := s.arrays[name]; !ok {
			s.arrays[name] = nil
		}
	}
	maps.Copy(s.readonly, other.readonly)
	s.joinFunctions(other)
	s.joinFiles(other)
	for name, words := range other.aliases {
		if !slices.Equal(s.aliases[name], words) {
			s.aliases[name] = nil
			if s.shell == "" {
				s.shell = "aliases depend on a condition"
			}
		}
	}
	if !equalFields(s.params, other.params) {
		s.anyParams = true
	}
	s.anyParams = s.anyParams || other.anyParams
	if s.shell == "" {
		s.shell = other.shell
	}
}

// joinFiles takes over what another way has done to files.
func (s *shellState) joinFiles(other *shellState) {
	maps.Copy(s.replaced, other.replaced)
	maps.DeleteFunc(s.trusted, func(file, program string) bool { return other.trusted[file] != program })
	s.folders = mergeFolders(s.folders, other.folders)
	if s.touched == "" {
		s.touched = other.touched
	}
	if s.code == "" {
		s.code = other.code
	}
}

// unknownFolder stands for any folder.
const unknownFolder = "?"

func mergeFolders(one, other []string) []string {
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(one, other))))
	if len(all) > 8 {
		return []string{unknownFolder}
	}
	return all
}

// moved says whether it may be in another folder than the repository's.
func (s *shellState) moved() bool { return !slices.Equal(s.folders, []string{""}) }

func (s *shellState) joinFunctions(other *shellState) {
	names := map[string]bool{}
	for name := range s.functions {
		names[name] = true
	}
	for name := range other.functions {
		names[name] = true
	}
	for name := range names {
		one, other := s.functions[name], other.functions[name]
		if len(one) == 0 {
			one = []*syntax.Stmt{nil}
		}
		if len(other) == 0 {
			other = []*syntax.Stmt{nil}
		}
		all := slices.Clone(one)
		for _, body := range other {
			if !slices.Contains(all, body) {
				all = append(all, body)
			}
		}
		s.functions[name] = all
	}
}

func equalFields(one, other []field) bool {
	return slices.EqualFunc(one, other, func(a, b field) bool { return a.many == b.many && a.pieces.equal(b.pieces) })
}

// equal says whether another run of a loop's body can find anything new.
func (s *shellState) equal(other *shellState) bool {
	sameValues := func(a, b []value) bool { return slices.EqualFunc(a, b, value.equal) }
	return s.dead == other.dead && s.code == other.code && maps.Equal(s.trusted, other.trusted) && slices.Equal(s.folders, other.folders) && s.touched == other.touched && s.shell == other.shell && s.anyParams == other.anyParams &&
		equalFields(s.params, other.params) && maps.EqualFunc(s.vars, other.vars, sameValues) && maps.EqualFunc(s.arrays, other.arrays, equalFields) &&
		maps.EqualFunc(s.functions, other.functions, slices.Equal[[]*syntax.Stmt]) && maps.Equal(s.replaced, other.replaced) &&
		maps.Equal(s.readonly, other.readonly) && maps.EqualFunc(s.aliases, other.aliases, slices.Equal[[]string])
}

// forget makes everything unknown, after something opaque has run in this shell.
func (s *shellState) forget() {
	for name := range s.vars {
		s.vars[name] = []value{{{kind: pieceAny}}}
	}
	for name := range s.arrays {
		s.arrays[name] = nil
	}
	s.anyParams, s.folders, s.touched = true, []string{unknownFolder}, "something that cannot be proved ran in the same shell"
	s.shell = s.touched
}

// assign sets a variable.
func (a *analyzer) assign(s *shellState, name string, values []value) {
	if s.readonly[name] {
		values = union(s.lookup(name), values)
	}
	delete(s.arrays, name)
	s.vars[name] = values
	a.ever[name] = union(a.ever[name], values)
}
