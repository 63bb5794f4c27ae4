package pipelinefile

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// atom is a piece of a word, or the end of one: an unquoted value may be several words.
type atom struct {
	piece
	split bool
	many  bool // any number of words
	empty bool // no word, when it is empty and nothing is beside it
}

// words expands the words of a command. Each result is one list of words that the command may get; nil when there are
// too many.
func (a *analyzer) words(args []*syntax.Word, s *shellState) [][]field {
	return a.wordsOf(args, s, distinct)
}

// wordsOf are the lists of words, of which few keeps those whose difference matters.
func (a *analyzer) wordsOf(args []*syntax.Word, s *shellState, few func([][]field) [][]field) [][]field {
	all := [][]field{nil}
	for _, arg := range args {
		expanded := a.expand(arg.Parts, s, false)
		if len(all) == 1 && len(expanded) == 1 {
			all[0] = append(all[0], fieldsOf(expanded[0])...)
			continue
		}
		var next [][]field
		for _, atoms := range expanded {
			fields := fieldsOf(atoms)
			for _, before := range all {
				next = append(next, append(slices.Clone(before), fields...))
			}
		}
		next = few(next)
		if len(next) > mostCalls || !a.step(len(next)*(1+len(next[0])/64)/8) {
			return nil
		}
		all = next
	}
	return all
}

func distinct(all [][]field) [][]field {
	var kept [][]field
	for _, one := range all {
		if len(all) > 64 || !slices.ContainsFunc(kept, func(k []field) bool { return equalFields(k, one) }) {
			kept = append(kept, one)
		}
	}
	return kept
}

// single expands a word that is not split, such as the right side of an assignment.
func (a *analyzer) single(word *syntax.Word, s *shellState) []value {
	if word == nil {
		return []value{{}}
	}
	var all []value
	for _, atoms := range a.expand(word.Parts, s, true) {
		var v value
		for _, at := range atoms {
			switch {
			case at.split:
				v = append(v, piece{kind: pieceText, text: " "})
			case at.many:
				v = append(v, piece{kind: at.kind, text: at.text})
				if at.kind == pieceText {
					v[len(v)-1] = piece{kind: pieceAny}
				}
			default:
				p := at.piece
				p.quoted, p.pattern = false, false
				v = append(v, p)
			}
		}
		all = union(all, []value{mergePieces(v)})
	}
	return all
}

// mergePieces joins pieces of text.
func mergePieces(v value) value {
	merged := value{}
	for _, p := range v {
		if last := len(merged) - 1; p.kind == pieceText && last >= 0 && merged[last].kind == pieceText {
			merged[last].text += p.text
		} else if p.kind != pieceText || p.text != "" {
			merged = append(merged, p)
		}
	}
	if size := len(merged); size > 64 || size > 0 && len(merged[0].text) > 1<<15 || size > 1 && len(merged[size-1].text) > 1<<15 {
		return value{{kind: pieceAny}} // too long to prove anything
	}
	return merged
}

// fieldsOf makes words of atoms.
func fieldsOf(atoms []atom) []field {
	var fields []field
	current, started, certain := field{}, false, false
	end := func() {
		if started {
			current.many = current.many || hasBraces(current.pieces)
			if !certain && !current.many {
				current.many, current.absent = true, true
			}
			for i := range current.pieces {
				current.many = current.many || current.pieces[i].pattern
				current.pieces[i].quoted, current.pieces[i].pattern = false, false
			}
			current.pieces = mergePieces(current.pieces)
			fields = append(fields, current)
		}
		current, started, certain = field{}, false, false
	}
	for _, at := range atoms {
		switch {
		case at.split:
			end()
		case at.kind == pieceText && at.text == "" && !at.quoted && !at.many:
		default:
			started, certain = true, certain || !at.empty
			current.many = current.many || at.many
			current.pieces = append(current.pieces, at.piece)
		}
	}
	end()
	return fields
}

// hasBraces says whether bash makes several words of one with {a,b}.
func hasBraces(pieces value) bool {
	var all strings.Builder
	for _, p := range pieces {
		switch {
		case p.quoted || p.kind != pieceText:
			all.WriteString("_")
		default:
			all.WriteString(p.text)
		}
	}
	_, inner, open := strings.Cut(all.String(), "{")
	return open && strings.Contains(inner, "}") && (strings.Contains(inner, ",") || strings.Contains(inner, ".."))
}

// expand expands the parts of a word. quoted: nothing is split, and names of files are not filled in.
func (a *analyzer) expand(parts []syntax.WordPart, s *shellState, quoted bool) [][]atom {
	all := [][]atom{nil}
	for i, part := range parts {
		var next [][]atom
		for _, one := range a.part(part, s, quoted, i == 0) {
			for _, before := range all {
				next = append(next, append(slices.Clone(before), one...))
			}
		}
		if len(next) > mostCalls || longest(next) > 4096 || !a.step(1+len(next)/8) {
			return [][]atom{{{piece: piece{kind: pieceAny}, many: !quoted}}}
		}
		all = next
	}
	return all
}

func longest(lists [][]atom) int {
	most := 0
	for _, list := range lists {
		most = max(most, len(list))
	}
	return most
}

func one(p piece) [][]atom { return [][]atom{{{piece: p}}} }

// part expands one part of a word.
func (a *analyzer) part(part syntax.WordPart, s *shellState, quoted, first bool) [][]atom {
	switch p := part.(type) {
	case *syntax.Lit:
		return a.literal(p.Value, quoted, first)
	case *syntax.SglQuoted:
		if p.Dollar && strings.Contains(p.Value, `\'`) {
			a.opaque(part, "another shell than bash ends the quotes before the escaped one")
		}
		if p.Dollar && strings.Contains(p.Value, `\`) { // bash reads escapes, other shells do not
			return one(piece{kind: pieceAny, quoted: true})
		}
		return a.textWithInputs(p.Value, true)
	case *syntax.DblQuoted:
		inner := a.doubleQuoted(p.Parts, s)
		for i := range inner {
			if !slices.ContainsFunc(inner[i], func(at atom) bool { return at.many || at.split }) || len(p.Parts) == 0 {
				inner[i] = append(inner[i], atom{piece: piece{kind: pieceText, quoted: true}})
			}
		}
		return inner
	case *syntax.ParamExp:
		return a.parameter(p, s, quoted)
	case *syntax.CmdSubst:
		a.subshell(p.Stmts, s)
		output := outputOf(p.Stmts)
		for _, statement := range p.Stmts {
			if why := a.chooser(statement, s); why != "" {
				output.from = why
			}
		}
		output.quoted = quoted
		return [][]atom{{{piece: output, many: !quoted}}}
	case *syntax.ArithmExp:
		a.arithmetic(p.X, s)
		return one(piece{kind: pieceOutput, number: true, quoted: true})
	case *syntax.ProcSubst:
		a.subshell(p.Stmts, s)
		return one(piece{kind: pieceOutput, quoted: true})
	}
	a.opaque(part, "it has a form that is not understood")
	return [][]atom{{{piece: piece{kind: pieceAny}, many: !quoted}}}
}

// doubleQuoted expands what is in double quotes. "$@" is several words there too.
func (a *analyzer) doubleQuoted(parts []syntax.WordPart, s *shellState) [][]atom {
	all := [][]atom{nil}
	for _, part := range parts {
		var expanded [][]atom
		switch p := part.(type) {
		case *syntax.Lit:
			expanded = a.textWithInputs(unescape(p.Value, "$`\"\\"), true)
		case *syntax.ParamExp:
			expanded = a.parameter(p, s, true)
			if name := p.Param; name != nil && (name.Value == "@" || isWholeArray(p, "@")) && plainParameter(p) {
				expanded = a.separately(p, s)
			}
		default:
			expanded = a.part(part, s, true, false)
		}
		var next [][]atom
		for _, one := range expanded {
			for _, before := range all {
				next = append(next, append(slices.Clone(before), one...))
			}
		}
		if len(next) > mostCalls || longest(next) > 4096 || !a.step(1+len(next)/8) {
			return [][]atom{{{piece: piece{kind: pieceAny, quoted: true}, many: true}}}
		}
		all = next
	}
	return all
}

// plainParameter is an expansion of a name without an operator.
func plainParameter(p *syntax.ParamExp) bool {
	return !p.Excl && !p.Length && !p.Width && !p.IsSet && p.Slice == nil && p.Repl == nil && p.Names == 0 && p.Exp == nil && p.Flags == nil && p.NestedParam == nil && len(p.Modifiers) == 0
}

func isWholeArray(p *syntax.ParamExp, index string) bool {
	word, ok := p.Index.(*syntax.Word)
	return ok && word.Lit() == index
}

// separately expands "$@" or "${ARRAY[@]}": each element is a word.
func (a *analyzer) separately(p *syntax.ParamExp, s *shellState) [][]atom {
	fields, known := s.params, !s.anyParams
	if p.Param.Value != "@" {
		fields, known = s.arrays[p.Param.Value], s.arrays[p.Param.Value] != nil
	}
	if !known {
		return [][]atom{{{piece: piece{kind: pieceAny}, many: true}}}
	}
	atoms := []atom{}
	for i, f := range fields {
		if i > 0 {
			atoms = append(atoms, atom{split: true})
		}
		atoms = append(atoms, atom{piece: piece{kind: pieceText, quoted: !f.many}}) // it may be an empty word
		for _, p := range f.pieces {
			p.quoted = true
			atoms = append(atoms, atom{piece: p, many: f.many})
		}
	}
	if len(fields) == 0 {
		atoms = append(atoms, atom{split: true}) // no word at all
	}
	return [][]atom{atoms}
}

// unescape removes backslashes before the given characters, and before the ends of lines.
func unescape(text, special string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			if text[i+1] == '\n' {
				i++
				continue
			}
			if special == "" || strings.IndexByte(special, text[i+1]) >= 0 {
				i++
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// literal expands unquoted text. Only in ${X:+words} it has spaces, which separate words there.
func (a *analyzer) literal(raw string, quoted, first bool) [][]atom {
	chunks := splitUnescaped(raw)
	if quoted || len(chunks) == 1 {
		return a.chunk(raw, quoted, first)
	}
	all := [][]atom{nil}
	for i, chunk := range chunks {
		var next [][]atom
		for _, one := range a.chunk(chunk, false, first || i > 0) {
			if i > 0 {
				one = append([]atom{{split: true}}, one...)
			}
			for _, before := range all {
				next = append(next, append(slices.Clone(before), one...))
			}
		}
		if len(next) > mostCalls || !a.step(1+len(next)/8) {
			return [][]atom{{{piece: piece{kind: pieceAny}, many: true}}}
		}
		all = next
	}
	return all
}

// splitUnescaped cuts a text at spaces that have no backslash before them.
func splitUnescaped(raw string) []string {
	chunks := []string{""}
	for i := 0; i < len(raw); i++ {
		switch {
		case raw[i] == '\\' && i+1 < len(raw):
			chunks[len(chunks)-1] += raw[i : i+2]
			i++
		case isSpace(rune(raw[i])):
			chunks = append(chunks, "")
		default:
			chunks[len(chunks)-1] += raw[i : i+1]
		}
	}
	return chunks
}

func (a *analyzer) chunk(raw string, quoted, first bool) [][]atom {
	pattern := false
	if !quoted {
		for i := 0; i < len(raw); i++ {
			switch raw[i] {
			case '\\':
				i++
			case '*', '?':
				pattern = true
			case '[':
				pattern = pattern || strings.Contains(raw[i:], "]")
			}
		}
	}
	text := raw
	var before [][]atom
	if first && strings.HasPrefix(text, "~") {
		before = one(piece{kind: pieceVariable, text: "HOME", quoted: true})
		name, rest, _ := strings.Cut(text[1:], "/")
		if name != "" { // another user's, or an older folder
			before = one(piece{kind: pieceAny, quoted: true})
		}
		text = strings.TrimPrefix(text[1:], name)
		_ = rest
	}
	alternatives := a.textWithInputs(unescape(text, ""), false)
	for i := range alternatives {
		for j := range alternatives[i] {
			at := &alternatives[i][j]
			switch {
			case at.kind == pieceText:
				at.pattern = pattern
				at.quoted = strings.Contains(raw, `\`) && at.text == ""
			case at.kind == pieceInput && !quoted:
				word, empty := a.isOneWord(at.text)
				at.many, at.empty = !word, empty
			}
		}
		if before != nil {
			alternatives[i] = append(slices.Clone(before[0]), alternatives[i]...)
		}
	}
	return alternatives
}

// isOneWord proves that every value of an input is one plain word, and says whether it may be empty.
func (a *analyzer) isOneWord(token string) (word, empty bool) {
	_, indexes := a.placeholders.split(token)
	if len(indexes) != 1 {
		return false, true
	}
	input := a.placeholders.inputs[indexes[0]]
	use := inputUse{Place: placeWord, Functions: input.functions}
	return input.declared && use.harm(input.input) == "", input.input.Type != "number" && a.mayBeEmpty(input.input)
}

func (a *analyzer) mayBeEmpty(input Input) bool {
	if len(input.Options) > 0 {
		return slices.Contains(input.Options, "")
	}
	pattern, err := parseLanguage(input.Regex)
	if err != nil {
		return true
	}
	states := pattern.after(map[int]bool{0: true}, automaton{next: func(int, rune) int { return 1 }})
	return states[0] || states[-1]
}

// textWithInputs makes pieces of a text in which GitLab has inserted inputs.
func (a *analyzer) textWithInputs(text string, quoted bool) [][]atom {
	texts, inputs := a.placeholders.split(text)
	all := [][]atom{{{piece: piece{kind: pieceText, text: texts[0], quoted: quoted}}}}
	for i, index := range inputs {
		var values []piece
		for _, option := range a.placeholders.inputs[index].alternatives() {
			values = append(values, piece{kind: pieceText, text: option, quoted: quoted})
		}
		if values == nil {
			values = []piece{{kind: pieceInput, text: a.placeholders.token(index), function: a.placeholders.inputs[index].functions, quoted: quoted}}
		}
		var next [][]atom
		for _, v := range values {
			for _, before := range all {
				next = append(next, append(slices.Clone(before), atom{piece: v}, atom{piece: piece{kind: pieceText, text: texts[i+1], quoted: quoted}}))
			}
		}
		if len(next) > mostCalls || !a.step(1+len(next)/8) {
			return one(piece{kind: pieceAny, quoted: quoted})
		}
		all = next
	}
	return all
}

// parameter expands a variable.
func (a *analyzer) parameter(p *syntax.ParamExp, s *shellState, quoted bool) [][]atom {
	a.parameterEffects(p, s)
	if p.Param == nil || p.Flags != nil || p.NestedParam != nil || len(p.Modifiers) > 0 {
		a.opaque(p, "it has a form that is not understood")
		return [][]atom{{{piece: piece{kind: pieceAny}, many: !quoted}}}
	}
	name := p.Param.Value
	if p.Length || p.Width {
		return one(piece{kind: pieceOutput, number: true, quoted: true})
	}
	if p.Excl || p.Names != 0 || p.IsSet {
		return [][]atom{{{piece: piece{kind: pieceAny, quoted: quoted}, many: !quoted}}}
	}
	switch name {
	case "@", "*":
		return a.positional(p, s, quoted)
	case "#", "?", "$", "!", "-", "LINENO", "RANDOM", "SECONDS", "BASHPID", "PPID", "UID", "EUID":
		if _, assigned := s.vars[name]; !assigned {
			return one(piece{kind: pieceOutput, number: true, quoted: true})
		}
	}
	values := a.values(name, p, s)
	if p.Exp != nil {
		return a.withOperator(p, s, values, quoted)
	}
	if p.Slice != nil || p.Repl != nil {
		values = derived(values)
	}
	return a.spread(values, s, quoted)
}

// parameterEffects are the commands inside an expansion.
func (a *analyzer) parameterEffects(p *syntax.ParamExp, s *shellState) {
	if p.Index != nil {
		a.arithmetic(p.Index, s)
	}
	if p.Slice != nil {
		a.arithmetic(p.Slice.Offset, s)
		a.arithmetic(p.Slice.Length, s)
	}
	if p.Repl != nil {
		a.single(p.Repl.Orig, s)
		a.single(p.Repl.With, s)
	}
	if p.Exp != nil && p.Exp.Op == syntax.OtherParamOps && (p.Exp.Word == nil || p.Exp.Word.Lit() != "Q" && p.Exp.Word.Lit() != "U" && p.Exp.Word.Lit() != "L" && p.Exp.Word.Lit() != "u") {
		a.opaque(p, "it may execute the value of a variable")
	}
}

// values are those of a variable or a positional parameter.
func (a *analyzer) values(name string, p *syntax.ParamExp, s *shellState) []value {
	if n, err := strconv.Atoi(name); err == nil && n > 0 {
		known := !s.anyParams
		for i := 0; i < n && known; i++ {
			known = i >= len(s.params) || !s.params[i].many
		}
		switch {
		case !known:
			return []value{{{kind: pieceAny}}}
		case n <= len(s.params):
			return []value{s.params[n-1].pieces}
		}
		return []value{{}}
	}
	if name == "0" {
		return []value{{{kind: pieceOutput}}}
	}
	if elements, ok := s.arrays[name]; ok {
		index, whole := p.Index.(*syntax.Word)
		switch {
		case elements == nil:
			return []value{{{kind: pieceAny}}}
		case p.Index == nil || whole && index.Lit() == "0":
			if len(elements) == 0 {
				return []value{{}}
			}
			if !elements[0].many {
				return []value{elements[0].pieces}
			}
		}
		return []value{{{kind: pieceAny}}}
	}
	if p.Index != nil {
		return derived(s.lookup(name))
	}
	return s.lookup(name)
}

// derived are values made from others: where they come from is known, not what they are.
func derived(values []value) []value {
	var all []value
	for _, v := range values {
		kind := piece{kind: pieceOutput}
		for _, p := range v {
			if p.kind == pieceVariable || p.kind == pieceAny || p.kind == pieceOutput && (p.text != "" || p.from != "") {
				kind = piece{kind: p.kind, text: p.text, from: p.from}
			}
		}
		all = union(all, []value{{kind}})
	}
	return all
}

// positional expands $@ and $*, outside of "$@".
func (a *analyzer) positional(p *syntax.ParamExp, s *shellState, quoted bool) [][]atom {
	if s.anyParams || !plainParameter(p) {
		return [][]atom{{{piece: piece{kind: pieceAny, quoted: quoted}, many: !quoted}}}
	}
	var atoms []atom
	for i, f := range s.params {
		if i > 0 {
			separator := atom{split: true}
			if quoted {
				separator = atom{piece: piece{kind: pieceText, text: " ", quoted: true}}
			}
			atoms = append(atoms, separator)
		}
		if f.many && quoted {
			atoms = append(atoms, atom{piece: piece{kind: pieceAny, quoted: true}})
			continue
		}
		if f.many {
			atoms = append(atoms, atom{piece: piece{kind: pieceAny}, many: true})
			continue
		}
		spread := a.spread([]value{f.pieces}, s, quoted)
		atoms = append(atoms, spread[0]...)
	}
	return [][]atom{atoms}
}

// spread makes atoms of values. Unquoted, a text is split at spaces, and an unknown value may be any number of words.
func (a *analyzer) spread(values []value, s *shellState, quoted bool) [][]atom {
	var all [][]atom
	_, separators := s.vars["IFS"]
	for _, v := range values {
		var atoms []atom
		for _, p := range v {
			p.quoted = quoted
			switch {
			case quoted || p.number || p.kind == pieceVariable && oneWord(p.text):
				atoms = append(atoms, atom{piece: p})
			case p.kind == pieceInput && !separators:
				word, empty := a.isOneWord(p.text)
				atoms = append(atoms, atom{piece: p, many: !word, empty: empty})
			case p.kind != pieceText:
				atoms = append(atoms, atom{piece: p, many: true})
			case separators:
				atoms = append(atoms, atom{piece: piece{kind: pieceAny}, many: true})
			default:
				atoms = append(atoms, splitText(p.text)...)
			}
		}
		all = append(all, atoms)
	}
	return all
}

// oneWord are variables that GitLab sets to a text without spaces.
func oneWord(name string) bool {
	return (predefined(name) || name == "KUBECONFIG") && !slices.ContainsFunc([]string{"MESSAGE", "TITLE", "DESCRIPTION", "AUTHOR", "NAME", "TAGS", "LABELS", "HOME", "PWD"}, func(part string) bool { return strings.Contains(name, part) })
}

// splitText splits at spaces, tabs and ends of lines.
func splitText(text string) []atom {
	var atoms []atom
	for i, word := range strings.FieldsFunc(text, isSpace) {
		if i > 0 || isSpace(rune(text[0])) {
			atoms = append(atoms, atom{split: true})
		}
		atoms = append(atoms, atom{piece: piece{kind: pieceText, text: word, pattern: strings.ContainsAny(word, "*?[")}})
	}
	if text != "" && isSpace(rune(text[len(text)-1])) {
		atoms = append(atoms, atom{split: true})
	}
	return atoms
}

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\n' }

// withOperator expands ${X:-word} and its kin.
func (a *analyzer) withOperator(p *syntax.ParamExp, s *shellState, values []value, quoted bool) [][]atom {
	word := func() [][]atom {
		if p.Exp.Word == nil {
			return [][]atom{nil}
		}
		if quoted {
			return a.doubleQuoted(p.Exp.Word.Parts, s)
		}
		return a.expand(p.Exp.Word.Parts, s, false)
	}
	orEmpty := p.Exp.Op == syntax.AlternateUnsetOrNull || p.Exp.Op == syntax.DefaultUnsetOrNull || p.Exp.Op == syntax.AssignUnsetOrNull
	var all [][]atom
	switch p.Exp.Op {
	case syntax.AlternateUnset, syntax.AlternateUnsetOrNull:
		set, unset := false, false
		for _, v := range values {
			isSet, isUnset := present(v, orEmpty)
			set, unset = set || isSet, unset || isUnset
		}
		if set {
			all = append(all, word()...)
		}
		if unset {
			all = append(all, nil)
		}
	case syntax.DefaultUnset, syntax.DefaultUnsetOrNull, syntax.AssignUnset, syntax.AssignUnsetOrNull:
		var kept []value
		missing := false
		for _, v := range values {
			isSet, isUnset := present(v, orEmpty)
			missing = missing || isUnset
			if isSet {
				kept = union(kept, []value{v})
			}
		}
		all = a.spread(kept, s, quoted)
		if missing {
			if p.Exp.Op == syntax.AssignUnset || p.Exp.Op == syntax.AssignUnsetOrNull {
				kept = union(kept, a.single(p.Exp.Word, s))
				a.assign(s, p.Param.Value, kept)
			}
			all = append(all, word()...)
		}
	case syntax.ErrorUnset, syntax.ErrorUnsetOrNull:
		word()
		all = a.spread(values, s, quoted)
	default:
		word()
		all = a.spread(derived(values), s, quoted)
	}
	return all
}

// present says whether a variable of this value may be set, and whether it may be unset. orEmpty: an empty one counts as
// unset.
func present(v value, orEmpty bool) (set, unset bool) {
	var known strings.Builder
	unknown := false
	for _, p := range v {
		known.WriteString(map[bool]string{true: p.text}[p.kind == pieceText])
		unknown = unknown || p.kind != pieceText && !p.number
	}
	for _, p := range v {
		if p.number {
			known.WriteString("0")
		}
	}
	switch {
	case known.String() != "":
		return true, false
	case unknown:
		return true, true
	case orEmpty:
		return false, true
	}
	return true, true // empty, or unset
}

// arithmetic executes the commands in an expression, and takes its assignments into account.
func (a *analyzer) arithmetic(expression syntax.ArithmExpr, s *shellState) {
	if expression == nil {
		return
	}
	syntax.Walk(expression, func(node syntax.Node) bool {
		switch n := node.(type) {
		case *syntax.CmdSubst:
			a.subshell(n.Stmts, s)
			return false
		case *syntax.BinaryArithm:
			if word, ok := n.X.(*syntax.Word); ok && isAssignment(n.Op) {
				a.assignNumber(word.Lit(), s)
			}
		case *syntax.UnaryArithm:
			if word, ok := n.X.(*syntax.Word); ok && (n.Op == syntax.Inc || n.Op == syntax.Dec) {
				a.assignNumber(word.Lit(), s)
			}
		case *syntax.ParamExp:
			if n.Param != nil {
				a.evaluated(n, n.Param.Value, s)
			}
		case *syntax.Lit:
			a.evaluatedText(n, n.Value, s, 0)
		case *syntax.SglQuoted:
			a.evaluatedText(n, n.Value, s, 0)
		}
		return true
	})
}

func isAssignment(op syntax.BinAritOperator) bool {
	switch op {
	case syntax.Assgn, syntax.AddAssgn, syntax.SubAssgn, syntax.MulAssgn, syntax.QuoAssgn, syntax.RemAssgn, syntax.AndAssgn, syntax.OrAssgn, syntax.XorAssgn, syntax.ShlAssgn, syntax.ShrAssgn:
		return true
	}
	return false
}

func (a *analyzer) assignNumber(name string, s *shellState) {
	name, _, _ = strings.Cut(name, "[")
	a.assign(s, name, []value{{{kind: pieceOutput, number: true}}})
}

// evaluated is a variable whose value bash reads as an expression: a[$(command)] in it would be executed.
func (a *analyzer) evaluated(node syntax.Node, name string, s *shellState) {
	a.evaluatedText(node, name, s, 0)
}

var identifiers = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)

// evaluatedText is a text that bash reads as an expression, with the values of its variables.
func (a *analyzer) evaluatedText(node syntax.Node, text string, s *shellState, depth int) {
	if strings.ContainsAny(text, "$`") || depth > 8 {
		a.opaque(node, "bash executes what is in the expression")
		return
	}
	for _, name := range identifiers.FindAllString(text, 8) {
		for _, v := range s.lookup(name) {
			for _, p := range v {
				switch {
				case p.kind == pieceVariable && !predefined(p.text), p.kind == pieceAny:
					a.opaque(node, "bash evaluates the value of $"+name+", which the script does not assign, as an expression")
				case p.kind == pieceOutput && p.text == printed:
					a.opaque(node, "bash evaluates the value of $"+name+", which may be any text, as an expression")
				case p.kind == pieceText && !isNumber(p.text):
					a.evaluatedText(node, p.text, s, depth+1)
				}
			}
		}
	}
}

// printed marks the output of a command that may print what the script asks for.
const printed = "printed"

// outputOf says what a command substitution may be.
func outputOf(list []*syntax.Stmt) piece {
	p := piece{kind: pieceOutput}
	for _, statement := range list {
		syntax.Walk(statement, func(node syntax.Node) bool {
			if call, ok := node.(*syntax.CallExpr); ok && len(call.Args) > 0 && slices.Contains([]string{"echo", "printf", "cat", "head", "tail", "sed", "tr", "base64", "rev", "curl", "wget", "xxd", "tac"}, call.Args[0].Lit()) {
				var text strings.Builder
				for _, word := range call.Args {
					for _, part := range word.Parts {
						if quoted, ok := part.(*syntax.SglQuoted); ok {
							text.WriteString(quoted.Value)
						}
					}
				}
				if name := call.Args[0].Lit(); name == "echo" && !strings.ContainsAny(text.String(), "$`") {
					return true
				}
				p.text = printed
			}
			return true
		})
	}
	return p
}

// predefined are variables that GitLab sets in each job.
func predefined(name string) bool {
	return slices.Contains(gitlabVariables, name) || name == "HOME" || name == "PWD" || name == "HOSTNAME" ||
		isNumber(name) || slices.Contains([]string{"LINENO", "RANDOM", "SECONDS", "BASHPID", "PPID", "UID", "EUID", "#", "?", "$", "!", "-"}, name)
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}
