package pipelinefile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// rollbacks checks that the jobs that are there to roll back do it, whenever they run, and run only after a failure or a
// press.
func (c *checker) rollbacks() {
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		if c.judges(job) || c.isGate(job) {
			continue // what they roll back by themselves comes on top of the others
		}
		r := c.roleOf(job)
		if strings.HasPrefix(job.Name, c.options.Rollback) && !r.runs("rollback") && !r.belongsBehind() {
			c.report(job, RuleRollback, "its script does not run `crossbill rollback`, or runs it only to see what it would do", "let it roll back, or give it another name")
		}
		if c.isRollback(job) {
			c.rollback(job)
		}
	}
	c.protected()
}

// rollback checks one job that rolls back.
func (c *checker) rollback(job *Job) {
	s := rollbackOf(job)
	if len(s.calls) == 0 {
		return // it is run by something else, which has been looked at
	}
	for _, p := range s.problems {
		c.reportAt(job, p.line, "script", RuleRollback, p.text, "let `crossbill rollback` run unconditionally, or depend on the exit code of the job that failed")
	}
	if s.wrapped && c.undefined(job) {
		c.reportAt(job, job.values.lines["script"], "script", RuleRollback, "it calls crossbill, which is a function in other jobs and is not defined in this one", "let it have the before_script of the others")
	}
	c.codes(job, s)
	if s.guarded || c.pressed(job) {
		return
	}
	for _, b := range job.Behaviors() {
		if b.When == "on_success" || b.When == "always" || b.When == "delayed" {
			c.report(job, RuleRollsBack, fmt.Sprintf("it starts by itself although nothing has failed (when: %s), and rolls back a release that is good", b.When), "let it start `on_failure`, or manually with `allow_failure: true`")
		}
	}
}

// codes checks on which exit codes of `canary --follow` a job rolls back that starts by itself after it: on each that says
// that the release is bad, and not on the one that says that the job's time is over.
func (c *checker) codes(job *Job, s *rollbackScript) {
	after := c.followed(job)
	if after == "" {
		return
	}
	at := job.values.lines["script"]
	if !s.guarded {
		c.reportAt(job, at, "script", RuleRollsBack, fmt.Sprintf("it rolls back after every failure of %s: also when just the time of that job is over (exit code %d)", after, timeIsOver), "let it depend on the exit code: 3, 4, and 6 say that the release is bad")
	}
	for _, codes := range s.codes {
		for _, code := range []string{"3", "4", "6"} {
			if !slices.Contains(codes, code) {
				c.reportAt(job, at, "script", RuleRollsBack, fmt.Sprintf("it does not roll back on exit code %s of %s, which says that the release is bad", code, after), "add it: `canary --follow` is the verification too")
			}
		}
		if slices.Contains(codes, strconv.Itoa(timeIsOver)) {
			c.reportAt(job, at, "script", RuleRollsBack, fmt.Sprintf("it rolls back on exit code %d of %s, which says that just the time of that job is over", timeIsOver, after), "leave it out: the same job goes on when it is run again")
		}
	}
}

// timeIsOver is the exit code of `canary --follow` that has no time left: run again, it goes on.
const timeIsOver = 8

// followed is the job with `canary --follow` after whose failure another one starts by itself, "" when there is none.
func (c *checker) followed(job *Job) string {
	if !slices.ContainsFunc(job.Behaviors(), func(b Behavior) bool { return b.When == "on_failure" }) {
		return ""
	}
	for i := range c.file.Jobs {
		other := &c.file.Jobs[i]
		needed := slices.ContainsFunc(job.needs, func(n need) bool { return n.name == other.Name })
		if c.roleOf(other).runs(following) && (needed || !job.HasNeeds) {
			return other.Name
		}
	}
	return ""
}

// pressed says whether a job runs only behind another one that somebody presses, and that is not the gate.
func (c *checker) pressed(job *Job) bool {
	for _, n := range job.needs {
		needed := c.file.Job(n.name)
		if needed == nil || n.optional || c.isGate(needed) {
			continue
		}
		if !slices.ContainsFunc(needed.Behaviors(), func(b Behavior) bool { return b.When != "manual" && b.When != "never" }) {
			return true
		}
	}
	return false
}

// undefined says whether other jobs with the same image define crossbill as a function and a job does not.
func (c *checker) undefined(job *Job) bool {
	for i := range c.file.Jobs {
		other := &c.file.Jobs[i]
		if other.Name != job.Name && sameImage(job, other) && rollbackOf(other).defines {
			return true
		}
	}
	return false
}

func sameImage(a, b *Job) bool {
	of, other := a.values.get("image"), b.values.get("image")
	return of == nil || other != nil && of.canonical() == other.canonical()
}

// protected checks that no job that must start by itself, or at any time, is in the environment of the gate: GitLab
// drops a job of a protected environment that no approver has started.
func (c *checker) protected() {
	gate := c.file.Job(c.options.Gate)
	if gate == nil {
		return
	}
	r := c.roleOf(gate)
	name := gate.Environment.Name
	if name == "" {
		if r.belongsBehind() && !r.starts {
			c.report(gate, RuleEnvironment, "it has no environment, so that it cannot be protected: everybody who may run jobs can press it", "add `environment`, and protect that environment in GitLab")
		}
		return
	}
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		if job.Name != gate.Name && job.Environment.Name != name && c.roleOf(job).returns() {
			c.reportAt(job, job.values.lines["environment"], "environment:name", RuleEnvironment, fmt.Sprintf("it gives an earlier release all of the traffic, and is not in the environment of %s: people who are no approvers can press it", gate.Name), "give it the gate's environment, with an action other than start")
		}
		if job.Name == gate.Name || job.Environment.Name != name || c.isGate(job) {
			continue
		}
		if c.judges(job) || c.isRollback(job) {
			c.reportAt(job, job.values.lines["environment"], "environment:name", RuleEnvironment, fmt.Sprintf("it is in the environment of %s: when that is protected, GitLab drops the job unless an approver has started it", gate.Name), "give it the canary's environment")
		}
	}
}

// promoted checks that the gate does something: a pipeline whose gate only prints is green with nothing promoted.
func (c *checker) promoted() {
	gate := c.file.Job(c.options.Gate)
	if gate == nil || c.roleOf(gate).belongsBehind() && !rollbackOf(gate).shows {
		return
	}
	for i := range c.file.Jobs {
		if r := c.roleOf(&c.file.Jobs[i]); c.file.Jobs[i].Name != gate.Name && (r.promotes() || r.starts) {
			return
		}
	}
	c.report(gate, RuleGreen, "neither its script nor that of another job runs `crossbill promote`: the pipeline is green with nothing promoted", "let it promote")
}

// rollbackScript is what a script does before it rolls back.
type rollbackScript struct {
	calls    []*syntax.CallExpr
	problems []problem
	wrapped  bool // the calls are of crossbill, which the script does not define
	shows    bool // the promotion only shows what it would do
	defines  bool // crossbill is a function of the script
	guarded  bool // it rolls back only after some exit codes
	assigned map[string]bool
	waits    bool
	guards   map[string]bool // functions that can end the script
	codes    [][]string      // the exit codes that such functions are called with, when these are written out
}

func rollbackOf(job *Job) *rollbackScript {
	s := &rollbackScript{assigned: map[string]bool{}, guards: map[string]bool{}}
	var text strings.Builder
	var lines []int
	for _, keyword := range []string{"before_script", "script"} {
		for _, item := range linesOf(job.shell(keyword)) {
			body := block.ReplaceAllString(strings.TrimRight(item.Text, "\n"), "input")
			text.WriteString(body + "\n")
			for n := range strings.Count(body, "\n") + 1 {
				lines = append(lines, item.Line+n)
			}
		}
	}
	file, err := parseShell(text.String())
	if err != nil {
		return s // a script that cannot be read is reported as such
	}
	s.definitions(file)
	report := func(node syntax.Node, format string, args ...any) {
		p := problem{text: fmt.Sprintf(format, args...)}
		if at := int(node.Pos().Line()); at-1 < len(lines) {
			p.line = lines[at-1]
		}
		s.problems = append(s.problems, p)
	}
	for _, stmt := range file.Stmts {
		s.before(stmt, report)
		s.find(stmt, report)
	}
	return s
}

// definitions notes what the script assigns and defines.
func (s *rollbackScript) definitions(file *syntax.File) {
	syntax.Walk(file, func(node syntax.Node) bool {
		switch n := node.(type) {
		case *syntax.Assign:
			if n.Name != nil {
				s.assigned[n.Name.Value] = true
			}
		case *syntax.FuncDecl:
			s.defines = s.defines || n.Name.Value == "crossbill"
			s.guards[n.Name.Value] = calls(n.Body, "exit", "return")
		case *syntax.CallExpr:
			s.waits = s.waits || calls(n, "wait")
			words := literalWords(n)
			s.shows = s.shows || isCrossbill(words) && slices.Contains(words, "promote") && onlyShows(words)
		}
		return true
	})
}

// calls says whether a node has a call of one of some commands.
func calls(node syntax.Node, names ...string) bool {
	found := false
	syntax.Walk(node, func(node syntax.Node) bool {
		if expression, ok := node.(*syntax.CallExpr); ok && len(expression.Args) > 0 {
			found = found || slices.Contains(names, expression.Args[0].Lit())
		}
		return true
	})
	return found
}

// isCrossbill says whether a command is crossbill, by itself or by Dagger.
func isCrossbill(words []string) bool {
	return len(words) > 1 && (words[0] == "crossbill" || strings.HasSuffix(words[0], "/crossbill") || words[0] == "dagger")
}

// onlyShows says whether a command of crossbill changes nothing.
func onlyShows(words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool {
		return slices.Contains([]string{"--dry-run", "--dry-run=true", "--help", "-h"}, word)
	})
}

// isRollbackCall says whether a command is crossbill's rollback, by itself or by Dagger.
func isRollbackCall(words []string) bool {
	return isCrossbill(words) && slices.Contains(words[1:], "rollback")
}

// before looks at a statement of the script that stands before the rollback, and fails or waits where it should not.
func (s *rollbackScript) before(stmt *syntax.Stmt, report func(syntax.Node, string, ...any)) {
	expression, ok := stmt.Cmd.(*syntax.CallExpr)
	if !ok || len(expression.Args) == 0 || len(s.calls) > 0 {
		return
	}
	words := literalWords(expression)
	if s.guards[words[0]] {
		s.guarded = true
		if len(words) > 1 && !slices.ContainsFunc(words[1:], func(word string) bool { _, err := strconv.Atoi(word); return err != nil }) {
			s.codes = append(s.codes, words[1:])
		}
	}
	switch {
	case words[0] == "read" && len(stmt.Redirs) == 0:
		report(stmt, "it waits for an answer before it rolls back: a job has nobody who gives one")
	case words[0] == "false", words[0] == "exit":
		report(stmt, "its script ends before it rolls back")
	case (words[0] == "test" || words[0] == "[") && len(words) > 2 && slices.Contains([]string{"-f", "-e", "-s"}, words[1]) && words[2] != "" && !strings.Contains(words[2], "code"):
		report(stmt, "it rolls back only if there is a file %s", words[2])
	case len(words) > 1 && words[0] == "crossbill" && slices.Contains([]string{"canary", "verify", "promote"}, words[1]) && !slices.Contains(words, "--help"):
		report(stmt, "it rolls back only if `crossbill %s` succeeds", words[1])
	}
}

// find finds the rollback in a statement of the script, and what it depends on.
func (s *rollbackScript) find(stmt *syntax.Stmt, report func(syntax.Node, string, ...any)) {
	var parents []syntax.Node
	syntax.Walk(stmt, func(node syntax.Node) bool {
		if node == nil {
			parents = parents[:len(parents)-1]
			return true
		}
		parents = append(parents, node)
		expression, ok := node.(*syntax.CallExpr)
		if !ok || !isRollbackCall(literalWords(expression)) || inFunction(parents) {
			return true
		}
		s.calls = append(s.calls, expression)
		if onlyShows(literalWords(expression)) {
			report(expression, "it only shows what a rollback would do")
		}
		s.wrapped = !s.defines && expression.Args[0].Lit() == "crossbill"
		for i, parent := range parents[:len(parents)-1] {
			if p, ok := parent.(*syntax.Stmt); ok && p.Background && !s.waits {
				report(expression, "it rolls back in the background: the job's end ends it")
			}
			if condition := conditionOf(parent, parents[i+1]); condition != nil {
				if s.dependsOnAFailure(condition) {
					s.guarded = true
				} else {
					report(expression, "it rolls back only if a condition holds, which does not depend on what has failed")
				}
			}
		}
		return true
	})
}

func inFunction(parents []syntax.Node) bool {
	return slices.ContainsFunc(parents, func(n syntax.Node) bool { _, ok := n.(*syntax.FuncDecl); return ok })
}

// conditionOf is the condition under which a command's child runs; nil when there is none.
func conditionOf(parent, child syntax.Node) syntax.Node {
	switch p := parent.(type) {
	case *syntax.IfClause:
		if len(p.Cond) > 0 && p.Cond[0] != child {
			return p.Cond[0]
		}
	case *syntax.BinaryCmd:
		if (p.Op == syntax.AndStmt || p.Op == syntax.OrStmt) && p.Y == child {
			return p.X
		}
	case *syntax.CaseClause:
		return p.Word
	}
	return nil
}

// dependsOnAFailure says whether a condition asks for more than a file or a variable that somebody may have set.
func (s *rollbackScript) dependsOnAFailure(condition syntax.Node) bool {
	asks := false
	syntax.Walk(condition, func(node syntax.Node) bool {
		switch n := node.(type) {
		case *syntax.CmdSubst:
			asks = true
		case *syntax.ParamExp:
			asks = asks || n.Param != nil && (s.assigned[n.Param.Value] || n.Param.Value == "?" || n.Param.Value == "CI_JOB_STATUS")
		case *syntax.CallExpr:
			if words := literalWords(n); len(words) > 0 {
				asks = asks || !slices.Contains([]string{"", "test", "[", "false", "true", ":"}, words[0])
			}
		case *syntax.Lit:
			asks = asks || strings.Contains(n.Value, "exit-code") || strings.Contains(n.Value, "exit_code")
		}
		return true
	})
	return asks
}

// literalWords are the words of a command, with "" for what is not written out.
func literalWords(expression *syntax.CallExpr) (words []string) {
	for _, arg := range expression.Args {
		word := arg.Lit()
		if len(arg.Parts) == 1 {
			if quoted, ok := arg.Parts[0].(*syntax.SglQuoted); ok {
				word = quoted.Value
			}
		}
		words = append(words, word)
	}
	return words
}
