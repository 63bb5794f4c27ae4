package pipelinefile

import (
	"maps"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// statements executes statements one after the other.
func (a *analyzer) statements(list []*syntax.Stmt, s *shellState) {
	for _, statement := range list {
		if s.dead || a.stopped {
			return
		}
		a.statement(statement, s, stdin{})
	}
}

// stdin is what a command reads.
type stdin struct {
	from *syntax.Stmt // the other side of a pipe
	text []value      // a here-document; nil: none
	file bool         // a file
}

// statement executes one statement.
func (a *analyzer) statement(statement *syntax.Stmt, s *shellState, input stdin) {
	if statement == nil || s.dead || !a.step(1+len(s.vars)/16) {
		return
	}
	if a.depth > mostDepth {
		a.opaque(statement, "calls are nested too deeply")
		return
	}
	if statement.Background || statement.Coprocess || statement.Disown {
		copied := *statement
		copied.Background, copied.Coprocess, copied.Disown = false, false, false
		a.separate(s, func(s *shellState) { a.statement(&copied, s, input) })
		return
	}
	now, from := a.statementNow, a.inputNow
	a.statementNow, a.inputNow = statement, input.from
	defer func() { a.statementNow, a.inputNow = now, from }()
	input = a.redirects(statement, s, input)
	a.writtenKubeconfig(statement)
	if statement.Cmd != nil {
		a.command(statement, s, input)
	}
}

// separate executes something in a shell of its own, whose variables do not last.
func (a *analyzer) separate(s *shellState, execute func(*shellState)) {
	inner := s.clone()
	loops, frames := a.loops, a.frames
	a.loops, a.frames = nil, nil
	execute(inner)
	a.loops, a.frames = loops, frames
	s.keepFiles(inner)
}

// keepFiles takes over what a shell that has ended did to files.
func (s *shellState) keepFiles(inner *shellState) {
	maps.Copy(s.replaced, inner.replaced)
	s.trusted = inner.trusted
	maps.Copy(s.chosen, inner.chosen)
	if s.touched == "" {
		s.touched = inner.touched
	}
	if s.code == "" {
		s.code = inner.code
	}
}

func (a *analyzer) subshell(list []*syntax.Stmt, s *shellState) {
	a.depth++
	a.separate(s, func(inner *shellState) { a.statements(list, inner) })
	a.depth--
}

// perhaps executes something that may also not be executed.
func (a *analyzer) perhaps(s *shellState, execute func(*shellState)) {
	branch := s.clone()
	a.branches++
	execute(branch)
	a.branches--
	s.join(branch)
}

func (a *analyzer) command(statement *syntax.Stmt, s *shellState, input stdin) {
	a.depth++
	defer func() { a.depth-- }()
	switch c := statement.Cmd.(type) {
	case *syntax.CallExpr:
		a.call(c, s, input)
	case *syntax.Block:
		a.statementsWith(c.Stmts, s, input)
	case *syntax.Subshell:
		a.separate(s, func(s *shellState) { a.statementsWith(c.Stmts, s, input) })
	case *syntax.BinaryCmd:
		a.binary(c, s, input)
	case *syntax.IfClause:
		a.ifClause(c, s, input)
	case *syntax.WhileClause:
		a.repeat(s, func(s *shellState) {
			a.statementsWith(c.Cond, s, input)
			leaves := s.clone() // the condition may end the loop
			a.statementsWith(c.Do, s, input)
			s.join(leaves)
		})
	case *syntax.ForClause:
		a.forClause(c, s, input)
	case *syntax.CaseClause:
		a.caseClause(c, s, input)
	case *syntax.FuncDecl:
		a.declare(c, s)
	case *syntax.DeclClause:
		a.declaration(c, s)
	case *syntax.TestClause:
		a.test(c.X, s)
	case *syntax.ArithmCmd:
		a.arithmetic(c.X, s)
	case *syntax.LetClause:
		for _, expression := range c.Exprs {
			a.arithmetic(expression, s)
		}
	case *syntax.TimeClause:
		a.statement(c.Stmt, s, input)
	case *syntax.CoprocClause:
		a.separate(s, func(s *shellState) { a.statement(c.Stmt, s, input) })
	default:
		a.opaque(statement, "it has a form that is not understood")
	}
}

// statementsWith executes statements that share their standard input.
func (a *analyzer) statementsWith(list []*syntax.Stmt, s *shellState, input stdin) {
	for _, statement := range list {
		if s.dead || a.stopped {
			return
		}
		a.statement(statement, s, input)
	}
}

func (a *analyzer) binary(c *syntax.BinaryCmd, s *shellState, input stdin) {
	switch c.Op {
	case syntax.AndStmt, syntax.OrStmt:
		a.statement(c.X, s, input)
		a.perhaps(s, func(s *shellState) { a.statement(c.Y, s, input) })
	case syntax.Pipe, syntax.PipeAll:
		a.separate(s, func(s *shellState) { a.statement(c.X, s, input) })
		a.separate(s, func(s *shellState) { a.statement(c.Y, s, stdin{from: c.X}) })
	default:
		a.opaque(c, "it has a form that is not understood")
	}
}

func (a *analyzer) ifClause(c *syntax.IfClause, s *shellState, input stdin) {
	if c.ThenPos.IsValid() {
		a.statementsWith(c.Cond, s, input)
	}
	if s.dead {
		return
	}
	otherwise := s.clone()
	a.branches++
	a.statementsWith(c.Then, s, input)
	switch {
	case c.Else == nil:
	case !c.Else.ThenPos.IsValid():
		a.statementsWith(c.Else.Then, otherwise, input)
	default:
		a.ifClause(c.Else, otherwise, input)
	}
	a.branches--
	s.join(otherwise)
}

// repeat executes a loop's body until nothing new can happen.
func (a *analyzer) repeat(s *shellState, body func(*shellState)) {
	a.branches++
	defer func() { a.branches-- }()
	l := &loop{left: nil}
	a.loops = append(a.loops, l)
	defer func() { a.loops = a.loops[:len(a.loops)-1] }()
	for round := 0; !a.stopped; round++ {
		before := s.clone()
		after := s.clone()
		body(after)
		s.join(after)
		s.join(l.left)
		if s.equal(before) {
			return
		}
		if round >= 4 {
			widen(s, before)
		}
		if round > 12 {
			s.forget()
			return
		}
	}
}

// widen makes what still changes unknown.
func widen(s, before *shellState) {
	for name, values := range s.vars {
		if !slices.EqualFunc(values, before.vars[name], value.equal) {
			s.vars[name] = []value{{{kind: pieceAny}}}
		}
	}
	for name, fields := range s.arrays {
		if !equalFields(fields, before.arrays[name]) {
			s.arrays[name] = nil
		}
	}
}

func (a *analyzer) forClause(c *syntax.ForClause, s *shellState, input stdin) {
	switch l := c.Loop.(type) {
	case *syntax.WordIter:
		values := []value{{{kind: pieceAny}}}
		if l.InPos.IsValid() {
			values = a.items(l.Items, s)
		} else if !s.anyParams {
			values = valuesOf([][]field{s.params})
		}
		if a.placeholders.in(l.Name.Value) {
			a.opaque(c, "an input names a variable")
		}
		a.repeat(s, func(s *shellState) {
			if len(values) > 0 {
				a.assign(s, l.Name.Value, values)
				a.statementsWith(c.Do, s, input)
			}
		})
	case *syntax.CStyleLoop:
		a.arithmetic(l.Init, s)
		a.repeat(s, func(s *shellState) {
			a.arithmetic(l.Cond, s)
			a.statementsWith(c.Do, s, input)
			a.arithmetic(l.Post, s)
		})
	default:
		a.opaque(c, "it has a form that is not understood")
	}
}

// items are the values that a for loop assigns.
func (a *analyzer) items(words []*syntax.Word, s *shellState) []value {
	lists := a.words(words, s)
	if lists == nil {
		return []value{{{kind: pieceAny}}}
	}
	return valuesOf(lists)
}

func valuesOf(lists [][]field) []value {
	var all []value
	for _, list := range lists {
		for _, f := range list {
			v := f.pieces
			if f.many {
				v = manyValue(f)
			}
			all = union(all, []value{v})
		}
	}
	return all
}

// manyValue is one of the words that a field may be.
func manyValue(f field) value {
	known := derived([]value{f.pieces})[0]
	if _, constant := f.pieces.constant(); constant {
		return value{{kind: pieceOutput}} // names of files
	}
	return known
}

func (a *analyzer) caseClause(c *syntax.CaseClause, s *shellState, input stdin) {
	a.single(c.Word, s)
	before := s.clone()
	after := &shellState{dead: true}
	otherwise := true
	through := &shellState{dead: true} // of an item that ends in ;&
	a.branches++
	for _, item := range c.Items {
		branch := before.clone()
		for _, pattern := range item.Patterns {
			a.pattern(pattern, branch)
			before.join(branch)
			if pattern.Lit() == "*" {
				otherwise = false
			}
		}
		branch.join(through)
		a.statementsWith(item.Stmts, branch, input)
		through = &shellState{dead: true}
		if item.Op == syntax.Fallthrough || item.Op == syntax.Resume || item.Op == syntax.ResumeKorn {
			through = branch.clone()
		}
		after.join(branch)
	}
	a.branches--
	if otherwise {
		after.join(before)
	}
	*s = *after
}

// declare defines a function.
func (a *analyzer) declare(c *syntax.FuncDecl, s *shellState) {
	names := c.Names
	if c.Name != nil {
		names = append(slices.Clone(names), c.Name)
	}
	if len(names) == 0 {
		a.opaque(c, "it has a form that is not understood")
	}
	for _, name := range names {
		if a.placeholders.in(name.Value) || strings.ContainsAny(name.Value, "$*?`\\\"'") {
			a.opaque(c, "the name of the function is not known")
			continue
		}
		if slices.Contains(specialBuiltins, name.Value) || name.Value == "command_not_found_handle" {
			a.opaque(c, "it redefines "+name.Value)
		}
		if c.RsrvWord && strings.Contains(a.source, "+e") { // other shells than bash execute the body at once, and go on
			a.statement(c.Body, s.clone(), stdin{})
		}
		s.functions[name.Value] = []*syntax.Stmt{c.Body}
		if !slices.Contains(a.everFunctions[name.Value], c.Body) {
			a.everFunctions[name.Value] = append(a.everFunctions[name.Value], c.Body)
		}
	}
}

// specialBuiltins are commands that steer the shell itself.
var specialBuiltins = []string{
	"break", ":", ".", "source", "continue", "eval", "exec", "exit", "export", "readonly", "return", "set", "shift", "times", "trap", "unset",
	"local", "declare", "typeset", "command", "builtin", "alias", "unalias", "read", "cd", "shopt", "enable", "hash", "let", "[", "[[", "test",
}

// declaration executes export, readonly, local, declare and typeset.
func (a *analyzer) declaration(c *syntax.DeclClause, s *shellState) {
	variant := c.Variant.Value
	if bodies := s.functions[variant]; len(bodies) > 0 {
		a.opaque(c, "it is redefined by a function")
	}
	global, readonly, array, function := variant == "export" || variant == "readonly", variant == "readonly", false, false
	for _, arg := range c.Args {
		if !arg.Naked || arg.Name != nil {
			continue
		}
		flag := ""
		if values := a.single(arg.Value, s); len(values) == 1 {
			flag, _ = values[0].constant()
		}
		switch {
		case len(flag) < 2 || flag[0] != '-' && flag[0] != '+' || strings.Contains(flag[1:], "n") && variant != "export":
			if a.quotedAssignments(arg, s) {
				continue
			}
			a.opaque(c, "the name of the variable is not known")
			s.forget()
			return
		}
		global = global || strings.Contains(flag, "g")
		readonly = readonly || strings.Contains(flag, "r")
		array = array || strings.ContainsAny(flag, "aA")
		function = function || strings.ContainsAny(flag, "fF")
		if strings.Contains(flag, "i") {
			a.opaque(c, "it makes the shell evaluate values as expressions")
		}
	}
	if function {
		return
	}
	for _, arg := range c.Args {
		if arg.Name == nil {
			continue
		}
		if a.placeholders.in(arg.Name.Value) {
			a.opaque(c, "the name of the variable is not known")
			return
		}
		if !global && len(a.frames) > 0 {
			a.localize(s, arg.Name.Value)
		}
		if !arg.Naked {
			a.assignment(arg, s)
		} else if !global && len(a.frames) > 0 {
			a.assign(s, arg.Name.Value, []value{{}})
		} else if array {
			s.arrays[arg.Name.Value] = nil
		}
		if readonly {
			s.readonly[arg.Name.Value] = true
		}
	}
}

// quotedAssignments executes an argument such as "NAME=value", whose name is known.
func (a *analyzer) quotedAssignments(arg *syntax.Assign, s *shellState) bool {
	byName := map[string][]value{}
	for _, v := range a.single(arg.Value, s) {
		if len(v) == 0 || v[0].kind != pieceText {
			return false
		}
		name, rest, assigned := strings.Cut(v[0].text, "=")
		if !assigned || !syntax.ValidName(name) || doubtful(name) != "" || a.placeholders.in(name) {
			return false
		}
		byName[name] = append(byName[name], mergePieces(append(value{{kind: pieceText, text: rest}}, v[1:]...)))
	}
	for name, values := range byName {
		if len(byName) > 1 || len(a.frames) > 0 {
			values = union(s.lookup(name), values)
		}
		a.assign(s, name, values)
	}
	return true
}

// localize remembers a variable, to restore it at the end of the function.
func (a *analyzer) localize(s *shellState, name string) {
	f := a.frames[len(a.frames)-1]
	if _, ok := f.saved[name]; ok {
		return
	}
	values, known := s.vars[name]
	f.saved[name] = savedVariable{values: values, known: known, conditional: a.branches > f.branches}
}

// assignment executes NAME=value.
func (a *analyzer) assignment(assign *syntax.Assign, s *shellState) {
	name := assign.Name.Value
	if a.placeholders.in(name) {
		a.opaque(assign, "the name of the variable is not known")
		s.forget()
		return
	}
	if why := doubtful(name); why != "" {
		a.doubtfulVariable(assign, name, why, s)
	}
	switch {
	case assign.Array != nil:
		a.assignArray(assign, s)
	case assign.Index != nil:
		a.arithmetic(assign.Index, s)
		a.single(assign.Value, s)
		s.vars[name] = []value{{{kind: pieceAny}}}
		a.ever[name] = s.vars[name]
		s.arrays[name] = nil
	case assign.Append:
		if _, array := s.arrays[name]; array {
			s.arrays[name] = nil
		}
		var all []value
		for _, before := range s.lookup(name) {
			for _, after := range a.single(assign.Value, s) {
				all = union(all, []value{mergePieces(append(slices.Clone(before), after...))})
			}
		}
		a.assign(s, name, all)
	default:
		a.assign(s, name, a.single(assign.Value, s))
	}
}

func (a *analyzer) assignArray(assign *syntax.Assign, s *shellState) {
	name := assign.Name.Value
	var words []*syntax.Word
	indexed := false
	for _, element := range assign.Array.Elems {
		if element.Index != nil {
			a.arithmetic(element.Index, s)
			indexed = true
		}
		if element.Value != nil {
			words = append(words, element.Value)
		}
	}
	lists := a.words(words, s)
	before, had := s.arrays[name]
	_, scalar := s.vars[name]
	a.assign(s, name, []value{{{kind: pieceAny}}})
	s.arrays[name] = nil
	if len(lists) != 1 || indexed || s.readonly[name] {
		return
	}
	elements := append([]field{}, lists[0]...)
	if assign.Append {
		if had && before == nil || scalar && !had || !had {
			return
		}
		elements = append(slices.Clone(before), elements...)
	}
	s.arrays[name] = elements
}

// test executes [[ … ]].
func (a *analyzer) test(expression syntax.TestExpr, s *shellState) {
	switch x := expression.(type) {
	case *syntax.BinaryTest:
		switch x.Op {
		case syntax.TsEql, syntax.TsNeq, syntax.TsLeq, syntax.TsGeq, syntax.TsLss, syntax.TsGtr:
			for _, side := range []syntax.TestExpr{x.X, x.Y} {
				if word, ok := side.(*syntax.Word); ok {
					a.single(word, s)
					a.arithmetic(word, s)
				}
			}
			return
		}
		a.test(x.X, s)
		a.test(x.Y, s)
	case *syntax.UnaryTest:
		a.test(x.X, s)
		if word, ok := x.X.(*syntax.Word); ok && x.Op == syntax.TsVarSet {
			for _, v := range a.single(word, s) {
				if hasSubscript([]field{{pieces: v}}, "") {
					a.opaque(word, "bash executes the command in the subscript")
				}
			}
		}
	case *syntax.ParenTest:
		a.test(x.X, s)
	case *syntax.Word:
		if len(x.Parts) == 1 {
			if _, ok := x.Parts[0].(*syntax.ExtGlob); ok {
				return
			}
		}
		a.pattern(x, s)
	}
}

// pattern expands a word that may be a pattern.
func (a *analyzer) pattern(word *syntax.Word, s *shellState) {
	kept := &syntax.Word{}
	for _, part := range word.Parts {
		if _, ok := part.(*syntax.ExtGlob); !ok {
			kept.Parts = append(kept.Parts, part)
		}
	}
	a.single(kept, s)
}

// redirects opens files and here-documents.
func (a *analyzer) redirects(statement *syntax.Stmt, s *shellState, input stdin) stdin {
	for _, redirect := range statement.Redirs {
		if call, ok := statement.Cmd.(*syntax.CallExpr); ok && (redirect.Op == syntax.RdrAll || redirect.Op == syntax.AppAll) && len(call.Args) > 0 && call.Args[len(call.Args)-1].Pos().After(redirect.Pos()) {
			a.opaque(statement, "another shell than bash executes what is behind &> as a command")
		}
		if redirect.Hdoc != nil {
			input = stdin{text: a.heredoc(redirect, s)}
			continue
		}
		values := a.single(redirect.Word, s)
		switch redirect.Op {
		case syntax.WordHdoc:
			input = stdin{text: values}
		case syntax.RdrIn:
			input = stdin{file: true}
		case syntax.DplIn, syntax.DplOut:
			if redirect.Op == syntax.DplIn {
				input = stdin{file: true}
			}
		default:
			if redirect.Op == syntax.RdrInOut {
				input = stdin{file: true}
			}
			for _, v := range values {
				a.writes(redirect, v, s, "is redirected")
			}
		}
		if redirect.N != nil && strings.HasPrefix(redirect.N.Value, "{") {
			a.assignNumber(strings.Trim(redirect.N.Value, "{}"), s)
		}
	}
	return input
}

// heredoc are the texts of a here-document.
func (a *analyzer) heredoc(redirect *syntax.Redirect, s *shellState) []value {
	if isQuoted(redirect.Word) {
		var all []value
		for _, atoms := range a.textWithInputs(redirect.Hdoc.Lit(), true) {
			var v value
			for _, at := range atoms {
				p := at.piece
				p.quoted = false
				v = append(v, p)
			}
			all = union(all, []value{mergePieces(v)})
		}
		return all
	}
	var parts []syntax.WordPart
	for _, part := range redirect.Hdoc.Parts {
		if lit, ok := part.(*syntax.Lit); ok { // a double quote is not special here
			copied := *lit
			copied.Value = strings.ReplaceAll(copied.Value, `\"`, `\\"`)
			part = &copied
		}
		parts = append(parts, part)
	}
	return a.single(&syntax.Word{Parts: []syntax.WordPart{&syntax.DblQuoted{Parts: parts}}}, s)
}

// writtenKubeconfig rejects a script that writes a kubeconfig which executes a command.
func (a *analyzer) writtenKubeconfig(statement *syntax.Stmt) {
	for _, redirect := range statement.Redirs {
		if redirect.Hdoc == nil && redirect.Op != syntax.RdrOut && redirect.Op != syntax.AppOut && redirect.Op != syntax.RdrClob {
			continue
		}
		if text := a.nodeText(statement); strings.Contains(text, "exec:") || strings.Contains(text, `"exec"`) || redirect.Hdoc != nil && strings.Contains(a.nodeText(redirect.Hdoc), "exec:") {
			a.opaque(statement, "it may write a kubeconfig that executes a command")
			return
		}
	}
}
