package pipelinefile

import (
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// outcomes checks that the outcome of a step is that of its job: what GitLab does next, it decides by that.
func (c *checker) outcomes() {
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		r := c.roleOf(job)
		if job.Name == c.verify && !r.runs("verify") && len(r.opaque) == 0 {
			c.report(job, RuleVerified, "its script does not run `crossbill verify`", "let it verify the canary, or name the job that does")
		}
		shell := outcomeOf(job)
		for _, command := range []string{"canary", "verify", "promote"} {
			if part := map[string]bool{"canary": job.Name == c.canary, "verify": job.Name == c.verify, "promote": c.isGate(job)}[command]; !part || !r.runs(command) {
				continue
			}
			line, hidden := shell.hides(command)
			if line == 0 {
				line = job.Line
			}
			switch {
			case hidden:
				c.reportAt(job, line, "script", RuleRollsBack, fmt.Sprintf("its script goes on after `crossbill %s` has failed, so that the job may succeed all the same", command), "let the failure of the command be that of the script")
			case command == "verify" && !shell.certain(command):
				c.reportAt(job, job.values.lines["script"], "script", RuleVerified, "its script can succeed without `crossbill verify`", "run it unconditionally")
			}
		}
	}
}

// outcome is the shell in which a job's script runs.
type outcome struct {
	file  *syntax.File
	lines []int // of the pipeline file, for each line of the script
	calls map[string][]call
}

// call is a call of crossbill in a script.
type call struct {
	line        int
	hidden      bool // its failure does not end the script
	conditional bool // the script can succeed without it
}

func outcomeOf(job *Job) *outcome {
	o := &outcome{calls: map[string][]call{}}
	var text strings.Builder
	for _, keyword := range []string{"before_script", "script"} {
		for _, item := range linesOf(job.shell(keyword)) {
			body := block.ReplaceAllString(strings.TrimRight(item.Text, "\n"), "input")
			text.WriteString(body + "\n")
			for n := range strings.Count(body, "\n") + 1 {
				o.lines = append(o.lines, item.Line+n)
			}
		}
	}
	file, err := parseShell(text.String())
	if err != nil {
		return o // a script that cannot be read is reported as such
	}
	o.file = file
	o.walk()
	return o
}

// hides says whether the failure of a command is hidden, and where.
func (o *outcome) hides(command string) (line int, hidden bool) {
	for _, c := range o.calls[command] {
		if c.hidden {
			return c.line, true
		}
	}
	return 0, false
}

// certain says whether a script cannot succeed without a command. One in which the command is not seen, because
// something else calls it, counts as certain: what that is has been looked at.
func (o *outcome) certain(command string) bool {
	calls := o.calls[command]
	return len(calls) == 0 || slices.ContainsFunc(calls, func(c call) bool { return !c.conditional })
}

// walk finds the calls of crossbill, also those in functions.
func (o *outcome) walk() {
	var parents []syntax.Node
	lenient := false // set +e
	syntax.Walk(o.file, func(node syntax.Node) bool {
		if node == nil {
			parents = parents[:len(parents)-1]
			return true
		}
		parents = append(parents, node)
		expression, ok := node.(*syntax.CallExpr)
		if !ok {
			return true
		}
		words := literalWords(expression)
		if len(words) > 1 && words[0] == "set" {
			lenient = errexit(words, lenient)
		}
		if len(words) > 1 && words[0] == "trap" && strings.Contains(words[1], "exit 0") {
			lenient = true
		}
		if command := crossbillCommand(words); command != "" {
			found := o.context(parents)
			found.hidden = found.hidden || lenient && !o.isLast(parents)
			if at := int(expression.Pos().Line()); at-1 < len(o.lines) {
				found.line = o.lines[at-1]
			}
			o.calls[command] = append(o.calls[command], found)
		}
		return true
	})
}

func errexit(words []string, lenient bool) bool {
	for n, word := range words {
		off, on := strings.HasPrefix(word, "+"), strings.HasPrefix(word, "-")
		named := n+1 < len(words) && strings.HasSuffix(word, "o") && words[n+1] == "errexit"
		if short := strings.Contains(word, "e") && (off || on); short || named && (off || on) {
			lenient = off
		}
	}
	return lenient
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

// crossbillCommand is the command of a call of crossbill, by itself or by Dagger.
func crossbillCommand(words []string) string {
	if len(words) == 0 || words[0] != "crossbill" && !strings.HasSuffix(words[0], "/crossbill") && words[0] != "dagger" {
		return ""
	}
	for _, word := range words[1:] {
		if slices.Contains([]string{"canary", "verify", "promote"}, word) {
			return word
		}
	}
	return ""
}

// context is what the commands around a call make of its failure.
func (o *outcome) context(parents []syntax.Node) (c call) {
	for i := len(parents) - 2; i >= 0; i-- {
		child := parents[i+1]
		switch parent := parents[i].(type) {
		case *syntax.Stmt:
			c.hidden = c.hidden || parent.Background || parent.Negated || parent.Coprocess
		case *syntax.BinaryCmd:
			o.binary(parent, child, parents[:i], &c)
		case *syntax.IfClause:
			inside := slices.ContainsFunc(parent.Cond, func(s *syntax.Stmt) bool { return s == child })
			c.hidden = c.hidden || inside
			c.conditional = c.conditional || !inside
		case *syntax.WhileClause:
			c.hidden = c.hidden || slices.ContainsFunc(parent.Cond, func(s *syntax.Stmt) bool { return s == child })
			c.conditional = true
		case *syntax.ForClause, *syntax.CaseItem:
			c.conditional = true
		case *syntax.CmdSubst, *syntax.ProcSubst:
			c.hidden = c.hidden || !isValue(parents[:i])
		case *syntax.FuncDecl:
			return c
		}
	}
	return c
}

// isValue says whether a substitution is the value of an assignment of its own, whose status is that of the
// command.
func isValue(parents []syntax.Node) bool {
	for _, parent := range slices.Backward(parents) {
		if expression, ok := parent.(*syntax.CallExpr); ok {
			return len(expression.Args) == 0
		}
		if _, ok := parent.(*syntax.DeclClause); ok {
			return false
		}
	}
	return false
}

// binary is what ||, && and | make of the failure of one side.
func (o *outcome) binary(parent *syntax.BinaryCmd, child syntax.Node, above []syntax.Node, c *call) {
	switch left := parent.X == child; {
	case parent.Op == syntax.OrStmt && left:
		c.hidden = c.hidden || !o.fails(parent.Y)
	case parent.Op == syntax.AndStmt && left: // does not end the script by itself
		c.hidden = c.hidden || !o.isLast(append(slices.Clone(above), parent)) && !isLeftOfOr(above, parent)
	case parent.Op == syntax.OrStmt || parent.Op == syntax.AndStmt:
		c.conditional = true
	}
}

// isLeftOfOr says whether what follows || takes care of the failure: that is looked at for itself.
func isLeftOfOr(above []syntax.Node, node syntax.Node) bool {
	for _, a := range slices.Backward(above) {
		switch parent := a.(type) {
		case *syntax.Stmt:
			node = parent
		case *syntax.BinaryCmd:
			return parent.Op == syntax.OrStmt && parent.X == node
		default:
			return false
		}
	}
	return false
}

// fails says whether what runs after a failure fails the script: it exits, or keeps the code with which the script
// exits later.
func (o *outcome) fails(stmt *syntax.Stmt) bool {
	certain := false
	switch cmd := stmt.Cmd.(type) {
	case *syntax.Block:
		return len(cmd.Stmts) > 0 && o.fails(cmd.Stmts[len(cmd.Stmts)-1])
	case *syntax.BinaryCmd:
		return cmd.Op == syntax.AndStmt && o.fails(cmd.Y)
	case *syntax.CallExpr:
		words := literalWords(cmd)
		switch {
		case len(words) == 0:
			for _, assign := range cmd.Assigns {
				certain = certain || assign.Name != nil && o.exitsWith(assign.Name.Value)
			}
		case words[0] == "false":
			certain = true
		case words[0] == "exit" || words[0] == "return":
			certain = len(words) == 1 || words[1] != "0"
		}
	}
	return certain
}

// exitsWith says whether the script's last statement is an exit with a variable.
func (o *outcome) exitsWith(variable string) bool {
	if len(o.file.Stmts) == 0 {
		return false
	}
	last, ok := o.file.Stmts[len(o.file.Stmts)-1].Cmd.(*syntax.CallExpr)
	if !ok || len(last.Args) != 2 || last.Args[0].Lit() != "exit" {
		return false
	}
	found := false
	syntax.Walk(last.Args[1], func(node syntax.Node) bool {
		if parameter, ok := node.(*syntax.ParamExp); ok && parameter.Param != nil && parameter.Param.Value == variable {
			found = true
		}
		return true
	})
	return found
}

// isLast says whether a statement is the script's last one, so that its status is the script's.
func (o *outcome) isLast(parents []syntax.Node) bool {
	for i := range parents {
		if stmt, ok := parents[i].(*syntax.Stmt); ok {
			return len(o.file.Stmts) > 0 && o.file.Stmts[len(o.file.Stmts)-1] == stmt
		}
	}
	return false
}
