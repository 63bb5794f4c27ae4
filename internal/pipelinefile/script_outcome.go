package pipelinefile

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// proof executes a script in every way in which its commands may succeed and fail, and finds the ways that end well
// although the judged command has failed, or has not run. What it does not understand may do either.
type proof struct {
	command []string // the judged command, such as crossbill verify
	lines   []int    // of the pipeline file

	steps, depth int
	line         int // of the outermost command
	hidden       bool
	hiddenAt     int
	skipped      bool
}

const (
	mostOutcomeSteps = 40_000
	mostOutcomeDepth = 40
	unknownText      = "\x02" // in a word: what is not known
	someFailure      = "\x03" // in a word: the exit code of something that has failed
)

// ending is how a list of commands ends before its end.
type ending int

const (
	goesOn ending = iota
	exits
	returns
	breaks
	continues
)

// course is one way in which a script may have gone so far.
type course struct {
	ran, failed       bool // the judged command
	failedAt          int
	status            bool // $? is 0
	excused           bool // the last failure does not end the shell: something looks at it
	errexit, pipefail bool
	ending            ending
	levels            int // of break and continue
	vars              map[string]string
	functions         map[string]*syntax.Stmt
	traps             map[string]string
	locals            map[string]bool
	params            []string
}

func (c course) key() string {
	var all strings.Builder
	fmt.Fprint(&all, c.ran, c.failed, c.failedAt, c.status, c.excused, c.errexit, c.pipefail, c.ending, c.levels)
	for _, values := range []map[string]string{c.vars, c.traps} {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			fmt.Fprintf(&all, "|%s=%s", name, values[name])
		}
		all.WriteString("\n")
	}
	for _, name := range slices.Sorted(maps.Keys(c.functions)) {
		fmt.Fprintf(&all, "|%s%p", name, c.functions[name])
	}
	fmt.Fprintf(&all, "%q%v", c.params, slices.Sorted(maps.Keys(c.locals)))
	return all.String()
}

func with[V any](values map[string]V, name string, value V) map[string]V {
	copied := maps.Clone(values)
	if copied == nil {
		copied = map[string]V{}
	}
	copied[name] = value
	return copied
}

func (c course) set(name, value string) course {
	c.vars = with(c.vars, name, value)
	return c
}

func (c course) finished(ok bool) course {
	c.status, c.excused = ok, false
	return c
}

// either is a command that may succeed and fail.
func (c course) either() []course { return []course{c.finished(true), c.finished(false)} }

func (p *proof) run(file *syntax.File) {
	start := course{status: true, errexit: true, pipefail: true} // as the runner sets them
	for _, c := range p.leave(p.list(file.Stmts, []course{start}, false), start) {
		if !c.status {
			continue
		}
		if c.failed && !p.hidden {
			p.hidden, p.hiddenAt = true, c.failedAt
		}
		p.skipped = p.skipped || !c.ran
	}
	if p.exhausted() {
		p.hidden, p.skipped = true, true
	}
}

func (p *proof) exhausted() bool { return p.steps > mostOutcomeSteps }

func distinctCourses(courses []course) []course {
	if len(courses) < 2 {
		return courses
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(courses), func(c course) bool {
		key := c.key()
		found := seen[key]
		seen[key] = true
		return found
	})
}

// each continues the courses that go on.
func each(courses []course, execute func(course) []course) (after []course) {
	for _, c := range courses {
		if c.ending != goesOn {
			after = append(after, c)
			continue
		}
		after = append(after, execute(c)...)
	}
	return distinctCourses(after)
}

// list executes statements. Their failures do not end the shell when something looks at their status (tested).
func (p *proof) list(stmts []*syntax.Stmt, courses []course, tested bool) []course {
	for _, stmt := range stmts {
		courses = each(courses, func(c course) []course { return p.statement(stmt, c, tested) })
	}
	return courses
}

func (p *proof) statement(stmt *syntax.Stmt, c course, tested bool) []course {
	p.steps++
	if p.exhausted() || p.depth > mostOutcomeDepth {
		p.steps = mostOutcomeSteps + 1
		return nil
	}
	p.depth++
	defer func() { p.depth-- }()
	if stmt.Background || stmt.Coprocess || stmt.Disown {
		copied := *stmt
		copied.Background, copied.Coprocess, copied.Disown = false, false, false
		return each(p.separate(c, func(c course) []course { return p.statement(&copied, c, tested) }), func(c course) []course { return []course{c.finished(true)} })
	}
	courses := []course{c}
	for _, redirect := range stmt.Redirs {
		for _, word := range []*syntax.Word{redirect.Word, redirect.Hdoc} {
			if word != nil {
				courses = p.substitutions(word, courses)
			}
		}
	}
	courses = each(courses, func(c course) []course { return p.do(stmt, c, tested || stmt.Negated) })
	return each(courses, func(c course) []course {
		if stmt.Negated {
			c.status, c.excused = !c.status, true
		}
		return p.failure(c, tested)
	})
}

// failure ends the shell, if errexit does.
func (p *proof) failure(c course, tested bool) []course {
	if c.status || c.excused || tested {
		return []course{c}
	}
	command, trapped := c.traps["ERR"]
	ended := c
	ended.ending = exits
	switch {
	case !trapped && c.errexit:
		return []course{ended}
	case !trapped:
		return []course{c}
	}
	after := p.trap(command, c)
	if !c.errexit {
		after = append(after, c) // a function does not inherit the trap
	} else {
		after = append(after, ended)
	}
	return after
}

// trap executes a trap's command. Without an exit of its own the status stays.
func (p *proof) trap(command string, c course) (after []course) {
	cleared := c
	cleared.traps = nil
	for _, end := range p.text(command, cleared, false) {
		if end.ending != exits && end.ending != returns {
			end.status = c.status
			end.ending = goesOn
			if c.errexit {
				end.ending = exits
			}
		}
		after = append(after, end)
	}
	return after
}

// text executes a command string in the shell of the script.
func (p *proof) text(command string, c course, tested bool) []course {
	file, err := parseShell(strings.NewReplacer(unknownText, "input", someFailure, "1").Replace(command))
	if err != nil {
		return c.either()
	}
	saved := p.line
	if p.line == 0 {
		p.line = 1
	}
	c.excused = false
	var after []course
	p.inside(func() { after = p.list(file.Stmts, []course{c}, tested) })
	p.line = saved
	return after
}

// inside executes something that a command of the script calls.
func (p *proof) inside(execute func()) {
	p.depth += 2
	execute()
	p.depth -= 2
}

// leave ends a shell: its trap runs, and the status is all that stays of it.
func (p *proof) leave(courses []course, outer course) (after []course) {
	for _, c := range courses {
		ends := []course{c}
		if command, ok := c.traps["EXIT"]; ok {
			c.ending = goesOn
			ends = p.trap(command, c)
		}
		for _, end := range ends {
			left := outer
			left.ran, left.failed, left.failedAt, left.status, left.excused = end.ran, end.failed, end.failedAt, end.status, false
			after = append(after, left)
		}
	}
	return distinctCourses(after)
}

// separate executes something in a shell of its own.
func (p *proof) separate(c course, execute func(course) []course) []course {
	inner := c
	inner.traps = nil
	return p.leave(execute(inner), c)
}

// do executes the command of a statement.
func (p *proof) do(stmt *syntax.Stmt, c course, tested bool) []course {
	switch cmd := stmt.Cmd.(type) {
	case nil:
		return []course{c.finished(true)}
	case *syntax.CallExpr:
		return p.call(cmd, stmt.Redirs, c, tested)
	case *syntax.Block:
		return p.list(cmd.Stmts, []course{c}, tested)
	case *syntax.Subshell:
		return p.separate(c, func(c course) []course { return p.list(cmd.Stmts, []course{c}, tested) })
	case *syntax.BinaryCmd:
		return p.binary(cmd, c, tested)
	case *syntax.IfClause:
		return p.condition(cmd, c, tested)
	case *syntax.WhileClause:
		return p.loop(c, false, func(c course) (body, left []course) {
			for _, after := range p.list(cmd.Cond, []course{c}, true) {
				if after.ending == goesOn && after.status == cmd.Until {
					left = append(left, after.finished(true))
				} else {
					body = append(body, after)
				}
			}
			return p.list(cmd.Do, body, tested), left
		})
	case *syntax.ForClause:
		return p.forEach(cmd, c, tested)
	case *syntax.CaseClause:
		return p.choice(cmd, c, tested)
	case *syntax.FuncDecl:
		if cmd.Name != nil {
			c.functions = with(c.functions, cmd.Name.Value, cmd.Body)
		}
		return []course{c.finished(true)}
	case *syntax.DeclClause:
		return p.declaration(cmd, c)
	case *syntax.TestClause:
		return each(p.substitutions(cmd, []course{c}), func(c course) []course { return c.decided(c.test(cmd.X)) })
	case *syntax.TimeClause:
		if cmd.Stmt != nil {
			return p.statement(cmd.Stmt, c, tested)
		}
		return []course{c.finished(true)}
	case *syntax.CoprocClause:
		return each(p.separate(c, func(c course) []course { return p.statement(cmd.Stmt, c, true) }), func(c course) []course { return []course{c.finished(true)} })
	}
	c.vars = nil // such as ((code = 0))
	return each(p.substitutions(stmt.Cmd, []course{c}), course.either)
}

func (p *proof) binary(cmd *syntax.BinaryCmd, c course, tested bool) []course {
	if cmd.Op == syntax.Pipe || cmd.Op == syntax.PipeAll {
		left := p.separate(c, func(c course) []course { return p.statement(cmd.X, c, tested) })
		return each(left, func(l course) []course {
			right := p.separate(l, func(c course) []course { return p.statement(cmd.Y, c, tested) })
			return each(right, func(c course) []course { return []course{c.finished(c.status && (l.status || !c.pipefail))} })
		})
	}
	return each(p.statement(cmd.X, c, true), func(c course) []course {
		if c.status == (cmd.Op == syntax.OrStmt) {
			c.excused = true
			return []course{c}
		}
		return p.statement(cmd.Y, c, tested)
	})
}

func (p *proof) condition(cmd *syntax.IfClause, c course, tested bool) []course {
	if !cmd.ThenPos.IsValid() { // else
		return p.list(cmd.Then, []course{c}, tested)
	}
	return each(p.list(cmd.Cond, []course{c}, true), func(c course) []course {
		switch {
		case c.status:
			return p.list(cmd.Then, []course{c}, tested)
		case cmd.Else != nil:
			return p.condition(cmd.Else, c, tested)
		}
		return []course{c.finished(true)}
	})
}

// loop executes a body any number of times, or at least once.
func (p *proof) loop(c course, once bool, execute func(course) (body, left []course)) (after []course) {
	seen := map[string]bool{}
	next := []course{c}
	for len(next) > 0 && !p.exhausted() {
		var again []course
		for _, c := range next {
			key := c.key()
			if seen[key] {
				continue
			}
			seen[key] = true
			body, left := execute(c)
			after = append(after, left...)
			for _, b := range body {
				switch {
				case (b.ending == breaks || b.ending == continues) && b.levels > 1:
					b.levels--
					after = append(after, b)
				case b.ending == breaks:
					b.ending = goesOn
					after = append(after, b.finished(true))
				case b.ending == continues:
					b.ending = goesOn
					again = append(again, b)
				case b.ending != goesOn:
					after = append(after, b)
				default:
					again = append(again, b)
				}
			}
		}
		if once {
			after = append(after, again...)
		}
		next = again
	}
	return distinctCourses(after)
}

func (p *proof) forEach(cmd *syntax.ForClause, c course, tested bool) []course {
	courses := []course{c}
	name, certain := "", false
	if words, ok := cmd.Loop.(*syntax.WordIter); ok {
		name = words.Name.Value
		for _, word := range words.Items {
			courses = p.substitutions(word, courses)
			certain = certain || isOne(word)
		}
	} else {
		courses[0].vars = nil
	}
	return each(courses, func(c course) []course {
		after := p.loop(c, true, func(c course) (body, left []course) {
			if name != "" {
				c = c.set(name, unknownText)
			}
			return p.list(cmd.Do, []course{c}, tested), nil
		})
		if !certain {
			after = append(after, c.finished(true))
		}
		return after
	})
}

// isOne says whether a word is one word for certain: it is written out, or quoted and no list.
func isOne(word *syntax.Word) bool {
	if text := word.Lit(); text != "" {
		return !strings.ContainsAny(text, "*?[{")
	}
	quoted, ok := word.Parts[0].(*syntax.DblQuoted)
	return ok && len(word.Parts) == 1 && !slices.ContainsFunc(quoted.Parts, func(part syntax.WordPart) bool {
		parameter, ok := part.(*syntax.ParamExp)
		return ok && (parameter.Index != nil || parameter.Excl || parameter.Param == nil || parameter.Param.Value == "@")
	})
}

func (p *proof) choice(cmd *syntax.CaseClause, c course, tested bool) []course {
	return each(p.substitutions(cmd.Word, []course{c}), func(c course) (after []course) {
		value := c.word(cmd.Word)
		for n, item := range cmd.Items {
			matches := never
			for _, pattern := range item.Patterns {
				matches = max(matches, matching(value, pattern, c))
			}
			if matches == never {
				continue
			}
			body := p.list(item.Stmts, []course{c.finished(true)}, tested)
			if item.Op != syntax.Break && n+1 < len(cmd.Items) { // it may go on with the next
				next := *cmd
				next.Items = cmd.Items[n+1:]
				body = append(body, each(body, func(c course) []course { return p.list(next.Items[0].Stmts, []course{c}, tested) })...)
			}
			after = append(after, body...)
			if matches == always {
				return after
			}
		}
		return append(after, c.finished(true))
	})
}

func (p *proof) declaration(cmd *syntax.DeclClause, c course) []course {
	return each(p.substitutions(cmd, []course{c}), func(c course) []course {
		for _, arg := range cmd.Args {
			if arg.Name == nil {
				continue
			}
			if cmd.Variant.Value != "export" && cmd.Variant.Value != "readonly" {
				c.locals = with(c.locals, arg.Name.Value, true)
			}
			if !arg.Naked {
				c = c.assign(arg)
			} else if cmd.Variant.Value == "local" {
				c = c.set(arg.Name.Value, unknownText)
			}
		}
		return []course{c.finished(true)}
	})
}

func (c course) assign(assign *syntax.Assign) course {
	value := unknownText
	switch {
	case assign.Array != nil:
		var elements []string
		for _, element := range assign.Array.Elems {
			if element.Index != nil || element.Value == nil {
				return c.set(assign.Name.Value, unknownText)
			}
			elements = append(elements, c.words(element.Value)...)
		}
		if !assign.Append {
			c = c.set(assign.Name.Value+"[@]", strings.Join(elements, "\x1f"))
		} else {
			c = c.set(assign.Name.Value+"[@]", c.vars[assign.Name.Value+"[@]"]+"\x1f"+strings.Join(elements, "\x1f"))
		}
	case assign.Append || assign.Index != nil:
	case assign.Value == nil:
		value = ""
	default:
		value = c.word(assign.Value)
	}
	return c.set(assign.Name.Value, value)
}

// substitutions executes the command substitutions in a node. Their failures are lost, but for those of assignments.
// Bash switches errexit off in them.
func (p *proof) substitutions(node syntax.Node, courses []course) []course {
	syntax.Walk(node, func(node syntax.Node) bool {
		var stmts []*syntax.Stmt
		switch sub := node.(type) {
		case *syntax.CmdSubst:
			stmts = sub.Stmts
		case *syntax.ProcSubst:
			stmts = sub.Stmts
		case *syntax.ParamExp:
			if sub.Exp != nil && (sub.Exp.Op == syntax.AssignUnset || sub.Exp.Op == syntax.AssignUnsetOrNull) && sub.Param != nil {
				for i := range courses {
					courses[i] = courses[i].set(sub.Param.Value, unknownText)
				}
			}
			return true
		case *syntax.ArithmExp:
			for i := range courses {
				courses[i].vars = nil
			}
			return true
		default:
			return true
		}
		courses = each(courses, func(c course) []course {
			after := p.separate(c, func(c course) []course {
				c.errexit = false
				return p.list(stmts, []course{c}, false)
			})
			return after
		})
		return false
	})
	return courses
}

// call executes a simple command.
func (p *proof) call(cmd *syntax.CallExpr, redirects []*syntax.Redirect, c course, tested bool) []course {
	if p.line == 0 {
		defer func() { p.line = 0 }()
		p.line = int(cmd.Pos().Line())
	}
	before := c.status
	courses := []course{c}
	hasSubstitution := false
	for _, assign := range cmd.Assigns {
		courses = p.substitutions(assign, courses)
	}
	for _, arg := range cmd.Args {
		courses = p.substitutions(arg, courses)
	}
	syntax.Walk(cmd, func(node syntax.Node) bool {
		_, found := node.(*syntax.CmdSubst)
		hasSubstitution = hasSubstitution || found
		return !found
	})
	return each(courses, func(c course) []course {
		status := c.status
		c.status = before
		for _, assign := range cmd.Assigns {
			if assign.Name != nil && len(cmd.Args) == 0 {
				c = c.assign(assign)
			} else if assign.Name != nil {
				c = c.set(assign.Name.Value, unknownText)
			}
		}
		if len(cmd.Args) == 0 {
			return []course{c.finished(!hasSubstitution || status)}
		}
		var words []string
		for _, arg := range cmd.Args {
			words = append(words, c.words(arg)...)
		}
		return p.invoke(words, redirects, c, tested, false)
	})
}

// passing are programs whose exit code is that of the command that they execute.
var passing = []string{"env", "nice", "ionice", "stdbuf", "timeout", "sudo", "nohup", "time", "doas", "chronic", "unbuffer", "flock", "busybox"}

var nestedShells = []string{"sh", "bash", "ash", "dash"}

// invoke executes a command with its words.
func (p *proof) invoke(words []string, redirects []*syntax.Redirect, c course, tested, external bool) []course {
	if len(words) == 0 {
		return []course{c.finished(true)}
	}
	if body := c.functions[words[0]]; body != nil && !external {
		return p.function(body, words[1:], c, tested)
	}
	name := path.Base(words[0])
	if p.judges(name, words[1:]) {
		c.ran = true
		failed := c.finished(false)
		failed.failed = true
		if p.line-1 < len(p.lines) && p.line > 0 {
			failed.failedAt = p.lines[p.line-1]
		}
		return []course{c.finished(true), failed}
	}
	switch {
	case slices.Contains(nestedShells, name):
		return p.nestedShell(words, redirects, c)
	case slices.Contains(passing, name):
		for n, word := range words[1:] {
			base := path.Base(word)
			if base == p.command[0] || base == "dagger" || slices.Contains(passing, base) || slices.Contains(nestedShells, base) {
				return p.invoke(words[n+1:], redirects, c, tested, true)
			}
		}
		return c.either()
	}
	if execute, ok := outcomeBuiltins[words[0]]; ok {
		return execute(p, words, redirects, c, tested)
	}
	return c.either()
}

// judges says whether a command is the judged one. For its help it does not run.
func (p *proof) judges(name string, args []string) bool {
	if name != p.command[0] && (name != "dagger" || p.command[0] != "crossbill") {
		return false
	}
	for _, flag := range []string{"--help", "-h", "--version", "--dry-run", "--help=true", "--dry-run=true"} {
		if slices.Contains(args, flag) {
			return false
		}
	}
	return !slices.ContainsFunc(p.command[1:], func(word string) bool { return !slices.Contains(args, word) })
}

func (p *proof) function(body *syntax.Stmt, args []string, c course, tested bool) []course {
	called := c
	called.params, called.locals = args, nil
	var courses []course
	p.inside(func() { courses = p.statement(body, called, tested) })
	for i, after := range courses {
		for name := range after.locals {
			after = after.set(name, c.variable(name))
		}
		after.params, after.locals, after.excused = c.params, c.locals, false
		if after.ending == returns {
			after.ending = goesOn
		}
		courses[i] = after
	}
	return distinctCourses(courses)
}

// nestedShell executes a command string or here-document in a shell that has none of the options.
func (p *proof) nestedShell(words []string, redirects []*syntax.Redirect, c course) []course {
	inner := course{ran: c.ran, failed: c.failed, failedAt: c.failedAt, status: true}
	text, found := "", false
	for n := 1; n < len(words) && !found; n++ {
		word := words[n]
		if !strings.HasPrefix(word, "-") {
			return c.either() // a file
		}
		inner = inner.options([]string{"", word, strings.Join(words[n+1:min(n+2, len(words))], "")})
		switch {
		case strings.HasSuffix(word, "o") && !strings.HasPrefix(word, "--"):
			n++
		case strings.Contains(word, "c") && !strings.HasPrefix(word, "--"):
			for n+1 < len(words) && strings.HasPrefix(words[n+1], "-") { // sh -c -e
				n++
				inner = inner.options([]string{"", words[n]})
			}
			if n+1 < len(words) {
				text, found = words[n+1], true
			}
		}
	}
	for _, redirect := range redirects {
		if found {
			break
		}
		if redirect.Hdoc != nil {
			text, found = c.word(redirect.Hdoc), true
		} else if redirect.Op == syntax.WordHdoc {
			text, found = c.word(redirect.Word), true
		}
	}
	if !found {
		return c.either()
	}
	return p.leave(p.text(text, inner, false), c)
}

// options executes set.
func (c course) options(words []string) course {
	for n := 1; n < len(words); n++ {
		word := words[n]
		if word == "--" || len(word) < 2 || word[0] != '-' && word[0] != '+' {
			if word == "--" {
				n++
			}
			c.params = words[min(n, len(words)):]
			return c
		}
		on := word[0] == '-'
		if strings.Contains(word, "e") && !strings.HasPrefix(word, "--") {
			c.errexit = on
		}
		if strings.Contains(word, "o") && !strings.HasPrefix(word, "--") && n+1 < len(words) {
			n++
			switch words[n] {
			case "errexit":
				c.errexit = on
			case "pipefail":
				c.pipefail = on
			}
		}
		if strings.Contains(word, unknownText) {
			c.errexit, c.pipefail = false, false
		}
	}
	return c
}
