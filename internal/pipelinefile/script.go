package pipelinefile

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// scriptLine is one item of a job's script, with the line of the file on which its text begins.
type scriptLine struct {
	Text string
	Line int
}

// scriptContext is what a script finds when it starts.
type scriptContext struct {
	Inputs map[string]Input
	Given  map[string][]string // the values that the file gives variables; a trigger or a project may give others
}

// effectClass says what a command can do, from harmless to unknown.
type effectClass int

const (
	classReads    effectClass = iota // it changes nothing outside the runner
	classCanary                      // crossbill's commands that are allowed before the gate
	classChanges                     // it can change what runs in production
	classPromotes                    // crossbill promote
	classOpaque                      // what it does cannot be proved
)

func (c effectClass) String() string {
	return [...]string{"reads", "canary", "changes", "promotes", "opaque"}[c]
}

// effect is a command that a script may run.
type effect struct {
	Line    int
	Command string // as in the script
	Kind    string // such as "crossbill promote", "kubectl apply"; of an opaque one, why it is
	Class   effectClass
}

// variableUse is a variable that decides where, with which rights or by which code a command acts, and that the script
// does not assign: a trigger variable chooses it.
type variableUse struct {
	Line     int
	Variable string
	Command  string
}

// imageUse is an image that a script deploys and that is not proved to have a digest.
type imageUse struct {
	Line         int
	Command      string
	Problem, Fix string
}

// effects are what a script may do. Every command that some run of the script starts is in it, or something opaque is.
type effects struct {
	reads   []effect
	canary  []effect
	changes []effect // of class changes and promotes
	opaque  []effect
	uses    []variableUse
	images  []imageUse
	inputs  []inputUse
	targets []targetUse

	proposed bool // it deploys what the repository names
}

// Bounds of the analysis. Beyond them a script is opaque.
const (
	mostSteps        = 60_000
	mostScriptBytes  = 256 << 10
	mostOpened       = 8_000 // commands that may be inside each other, for the parser
	mostDepth        = 150   // of calls and nested command strings
	mostAlternatives = 16    // values of one variable
	mostCalls        = 2048
)

// analyze says what a script can do when its items run in one shell, in their order.
//
// It is a static execution: each statement is executed once for all values that its variables may have. All branches
// are taken, loops are repeated until nothing new is assigned, functions are executed where they are called. What is
// not known to be harmless is opaque.
func analyze(script []scriptLine, env scriptContext) effects {
	a := &analyzer{context: env, seen: map[string]bool{}, ever: map[string][]value{}, everFunctions: map[string][]*syntax.Stmt{}}
	a.run(script)
	return a.found
}

type analyzer struct {
	context scriptContext
	found   effects
	seen    map[string]bool
	steps   int
	stopped bool

	placeholders placeholders
	lines        []int // of the joined script: file's line of each of its lines
	source       string
	site         *callSite // the outermost call, when a function or a command string is being executed
	depth        int
	frames       []*frame
	loops        []*loop
	branches     int // how many conditions surround the statement

	statementsOfScript []*syntax.Stmt // those that are in nothing else
	readsNow           *syntax.Stmt   // the one of them that has read a proposal

	traps         []trap
	statementNow  *syntax.Stmt // which is executed, without calls
	inputNow      *syntax.Stmt // the other side of its pipe
	ever          map[string][]value
	everFunctions map[string][]*syntax.Stmt
}

// callSite is where an effect is reported: at the line of the job's script, not in a function that it calls.
type callSite struct {
	line int
	text string
}

// frame is one call of a function.
type frame struct {
	saved    map[string]savedVariable // by local
	branches int
	returned *shellState
}

type savedVariable struct {
	values      []value
	known       bool
	conditional bool
}

// loop collects the states in which break and continue leave a loop's body.
type loop struct {
	left *shellState
}

func (a *analyzer) run(script []scriptLine) {
	var text strings.Builder
	var boundaries []int // line numbers of the joined text that begin an item
	line := 1
	for _, item := range script {
		boundaries = append(boundaries, line)
		body := strings.ReplaceAll(strings.TrimRight(item.Text, "\n"), "\r\n", "\n")
		if endsInBackslash(body) {
			a.opaqueAt(item.Line, firstLine(body), "its last line ends in a backslash, and the next item continues it")
			return
		}
		for i := range strings.Count(body, "\n") + 1 {
			a.lines = append(a.lines, item.Line+i)
			line++
		}
		text.WriteString(body + "\n")
	}
	if text.Len() > mostScriptBytes {
		a.opaqueAt(a.fileLine(1), "", "the script is too long")
		return
	}
	a.source = a.placeholders.replace(text.String(), a.context.Inputs)
	parsed, err := parseShell(a.source)
	if err != nil {
		a.opaqueAt(a.fileLine(errorLine(err)), a.lineText(errorLine(err)), "it is not a shell script that can be read: "+errorText(err))
		a.inputsInText(a.source)
		return
	}
	a.collectInputs(parsed)
	if spans := spansItems(parsed, boundaries); spans != nil {
		a.opaqueAt(a.fileLine(int(spans.Pos().Line())), a.nodeText(spans), "it goes over the end of an item of the script, where the runner inserts commands of its own")
	}
	s := newShellState()
	a.statementsOfScript = parsed.Stmts
	a.statements(parsed.Stmts, s)
	a.runTraps()
}

// endsInBackslash says whether a shell would join the text with what follows it.
func endsInBackslash(text string) bool {
	trimmed := strings.TrimRight(text, `\`)
	return (len(text)-len(trimmed))%2 == 1
}

// opens are texts that can begin something inside something else.
var opens = regexp.MustCompile("[({`!|&]|\\b(if|elif|while|until|for|case|select|time|coproc|function)\\b")

// controls are characters that shells and the parser may read differently.
var controls = regexp.MustCompile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

func parseShell(text string) (file *syntax.File, err error) {
	if len(opens.FindAllStringIndex(text, mostOpened+1)) > mostOpened {
		return nil, errors.New("too much of it is nested")
	}
	if at := controls.FindStringIndex(text); at != nil {
		return nil, fmt.Errorf("it has the control character %q", text[at[0]])
	}
	defer func() { // a parser that fails is a script that cannot be read
		if problem := recover(); problem != nil {
			file, err = nil, fmt.Errorf("%v", problem)
		}
	}()
	return syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
}

// spansItems finds a part of a script, other than a compound command, that begins in one item and ends in another.
// The runner writes an echo before each item, which would become a part of it.
func spansItems(file *syntax.File, boundaries []int) (found syntax.Node) {
	item := func(pos syntax.Pos) int {
		index, exact := slices.BinarySearch(boundaries, int(pos.Line()))
		if exact {
			return index
		}
		return index - 1
	}
	syntax.Walk(file, func(node syntax.Node) bool {
		if node == nil || found != nil {
			return false
		}
		switch node.(type) {
		case *syntax.File, *syntax.Stmt, *syntax.IfClause, *syntax.WhileClause, *syntax.ForClause, *syntax.CaseClause, *syntax.CaseItem,
			*syntax.Block, *syntax.Subshell, *syntax.FuncDecl, *syntax.Comment:
			return true
		}
		end := node.End()
		if redirect, ok := node.(*syntax.Redirect); ok && redirect.Hdoc != nil { // its delimiter is on the next line
			if hdocEnd := redirect.Hdoc.End(); hdocEnd.IsValid() {
				end = hdocEnd
				if item(end) != item(node.Pos()) && end.Col() <= 1 { // the body ends where the next line begins
					return true
				}
			}
		}
		if node.Pos().IsValid() && end.IsValid() && item(node.Pos()) != item(end) {
			found = node
			return false
		}
		return true
	})
	return found
}

// step counts work. It is false when there is too much of it.
func (a *analyzer) step(n int) bool {
	a.steps += n
	if a.steps > mostSteps && !a.stopped {
		a.stopped = true
		a.report(classOpaque, "", 0, "the script is too large to prove")
	}
	return !a.stopped
}

// report adds an effect, once for each line, command and kind. Inside a function it is reported where the function is
// called.
func (a *analyzer) report(class effectClass, text string, line int, kind string) {
	if a.site != nil {
		text, line = a.site.text, a.site.line
	}
	e := effect{Line: line, Command: shorten(a.placeholders.restore(text)), Kind: kind, Class: class}
	key := fmt.Sprintf("%d\n%s\n%s\n%d", e.Line, e.Command, e.Kind, e.Class)
	if a.seen[key] {
		return
	}
	a.seen[key] = true
	switch class {
	case classReads:
		a.found.reads = append(a.found.reads, e)
	case classCanary:
		a.found.canary = append(a.found.canary, e)
	case classChanges, classPromotes:
		a.found.changes = append(a.found.changes, e)
	case classOpaque:
		a.found.opaque = append(a.found.opaque, e)
	}
}

func (a *analyzer) opaqueAt(line int, text, why string) { a.report(classOpaque, text, line, why) }

// opaque reports a part of the script as one that cannot be proved.
func (a *analyzer) opaque(node syntax.Node, why string) {
	a.report(classOpaque, a.nodeText(node), a.nodeLine(node), why)
}

func (a *analyzer) nodeLine(node syntax.Node) int {
	if a.site != nil {
		return a.site.line
	}
	return a.fileLine(int(node.Pos().Line()))
}

func (a *analyzer) fileLine(line int) int {
	if line < 1 || line > len(a.lines) {
		return 0
	}
	return a.lines[line-1]
}

func (a *analyzer) nodeText(node syntax.Node) string {
	start, end := int(node.Pos().Offset()), int(node.End().Offset())
	if start < 0 || end > len(a.source) || start >= end {
		return ""
	}
	return a.source[start:end]
}

func (a *analyzer) lineText(line int) string {
	lines := strings.Split(a.source, "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	return lines[line-1]
}

func firstLine(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	return first
}

func shorten(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 120 {
		return string(runes[:119]) + "…"
	}
	return text
}

func errorLine(err error) int {
	if parse, ok := errors.AsType[syntax.ParseError](err); ok {
		return int(parse.Pos.Line())
	}
	if variant, ok := errors.AsType[syntax.LangError](err); ok {
		return int(variant.Pos.Line())
	}
	return 1
}

func errorText(err error) string {
	if parse, ok := errors.AsType[syntax.ParseError](err); ok {
		return parse.Text
	}
	return err.Error()
}

// nested parses and executes a command string, in the given state.
func (a *analyzer) nested(node syntax.Node, text string, s *shellState) {
	if a.depth >= mostDepth || !a.step(1+len(text)/64) {
		a.opaque(node, "commands are nested too deeply")
		return
	}
	parsed, err := parseShell(text)
	if err != nil {
		a.opaque(node, "its command string cannot be read: "+errorText(err))
		a.inputsInText(text)
		return
	}
	a.inside(node, func() {
		saved := a.source
		a.source = text
		a.collectInputs(parsed)
		a.statements(parsed.Stmts, s)
		a.source = saved
	})
}

// inside executes something on behalf of a command: effects are reported at the command.
func (a *analyzer) inside(node syntax.Node, execute func()) {
	saved := a.site
	if a.site == nil {
		a.site = &callSite{a.nodeLine(node), a.nodeText(node)}
	}
	a.depth++
	execute()
	a.depth--
	a.site = saved
}

// trap is a command that the shell executes at its end, or after any statement.
type trap struct {
	command string
	site    callSite
	set     *shellState // where it was set
}

// runTraps executes the commands of traps. Every variable may have any of the values that it has had since the trap
// was set; those of before do no harm.
func (a *analyzer) runTraps() {
	for i := 0; i < len(a.traps) && a.step(1); i++ { // a trap may set another
		t := a.traps[i]
		s := t.set.clone()
		s.dead = false
		for name, values := range a.ever {
			s.vars[name] = union(s.lookup(name), values)
		}
		for name := range s.arrays {
			s.arrays[name] = nil
		}
		for name, bodies := range a.everFunctions {
			before := s.functions[name]
			if len(before) == 0 && isProgram(name) {
				before = []*syntax.Stmt{nil}
			}
			for _, body := range bodies {
				if !slices.Contains(before, body) {
					before = append(slices.Clone(before), body)
				}
			}
			s.functions[name] = before
		}
		parsed, err := parseShell(t.command)
		if err != nil {
			a.opaqueAt(t.site.line, t.site.text, "its trap cannot be read: "+errorText(err))
			continue
		}
		saved := a.source
		a.source, a.site = t.command, &t.site
		a.collectInputs(parsed)
		a.statements(parsed.Stmts, s)
		a.source, a.site = saved, nil
	}
}
