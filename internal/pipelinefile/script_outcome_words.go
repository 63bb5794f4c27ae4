package pipelinefile

import (
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// outcomeBuiltins are the shell's commands that steer how a script goes on.
var outcomeBuiltins map[string]func(p *proof, words []string, redirects []*syntax.Redirect, c course, tested bool) []course

func init() { // they call each other through invoke
	type builtin = func(p *proof, words []string, redirects []*syntax.Redirect, c course, tested bool) []course
	succeeds := func(_ *proof, _ []string, _ []*syntax.Redirect, c course, _ bool) []course {
		return []course{c.finished(true)}
	}
	forgets := func(_ *proof, _ []string, _ []*syntax.Redirect, c course, _ bool) []course {
		c.vars = nil
		return c.either()
	}
	ends := func(e ending) builtin {
		return func(_ *proof, words []string, _ []*syntax.Redirect, c course, _ bool) []course {
			c.ending = e
			if len(words) < 2 {
				return []course{c}
			}
			return c.decided(compare(words[1], "=", "0"))
		}
	}
	leaves := func(e ending) builtin {
		return func(_ *proof, words []string, _ []*syntax.Redirect, c course, _ bool) []course {
			c.ending, c.levels = e, 1
			if len(words) > 1 {
				c.levels, _ = strconv.Atoi(words[1])
			}
			return []course{c.finished(true)}
		}
	}
	test := func(_ *proof, words []string, _ []*syntax.Redirect, c course, _ bool) []course {
		return c.decided(holds(strings.TrimSuffix(words[0], "test"), words[1:]))
	}
	passes := func(p *proof, words []string, redirects []*syntax.Redirect, c course, tested bool) []course {
		args := words[1:]
		for len(args) > 0 && strings.HasPrefix(args[0], "-") {
			if strings.ContainsAny(args[0], "vV") && words[0] == "command" {
				return c.either()
			}
			args = args[1:]
		}
		courses := p.invoke(args, redirects, c, tested, true)
		if words[0] == "exec" && len(args) > 0 {
			for i := range courses {
				courses[i].ending = exits
			}
		}
		return courses
	}
	outcomeBuiltins = map[string]builtin{
		":": succeeds, "true": succeeds, "echo": succeeds,
		"false": func(_ *proof, _ []string, _ []*syntax.Redirect, c course, _ bool) []course {
			return []course{c.finished(false)}
		},
		"read": forgets, "mapfile": forgets, "readarray": forgets, "getopts": forgets, "unset": forgets, "let": forgets, "printf": func(_ *proof, words []string, _ []*syntax.Redirect, c course, _ bool) []course {
			if len(words) > 1 && strings.HasPrefix(words[1], "-v") {
				c.vars = nil
			}
			return []course{c.finished(true)}
		},
		"export": forgets, "readonly": forgets, "local": forgets, "declare": forgets, "typeset": forgets, "source": forgets, ".": forgets,
		"exit": ends(exits), "return": ends(returns), "break": leaves(breaks), "continue": leaves(continues), "test": test, "[": test,
		"command": passes, "builtin": passes, "exec": passes,
		"eval": func(p *proof, words []string, _ []*syntax.Redirect, c course, tested bool) []course {
			return p.text(strings.Join(words[1:], " "), c, tested)
		},
		"set": func(_ *proof, words []string, _ []*syntax.Redirect, c course, _ bool) []course {
			return []course{c.options(words).finished(true)}
		},
		"shift": func(_ *proof, words []string, _ []*syntax.Redirect, c course, _ bool) []course {
			n := 1
			if len(words) > 1 {
				n, _ = strconv.Atoi(words[1])
			}
			c.params = c.params[min(max(n, 0), len(c.params)):]
			return []course{c.finished(true)}
		},
		"trap": func(_ *proof, words []string, _ []*syntax.Redirect, c course, _ bool) []course {
			args := words[1:]
			if len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			for n, signal := range args {
				signal = strings.TrimPrefix(strings.ToUpper(signal), "SIG")
				switch {
				case n == 0:
					continue
				case signal == "0" || strings.Contains(signal, unknownText):
					signal = "EXIT"
				case signal == "DEBUG" || signal == "RETURN":
					signal = "ERR"
				}
				command := args[0]
				if command == "-" {
					command = ":"
				}
				c.traps = with(c.traps, signal, command)
			}
			return []course{c.finished(true)}
		},
	}
}

// words are the words that the shell makes of one.
func (c course) words(word *syntax.Word) []string {
	if len(word.Parts) == 1 {
		part, quoted := word.Parts[0], false
		if double, ok := part.(*syntax.DblQuoted); ok && len(double.Parts) == 1 {
			part, quoted = double.Parts[0], true
		}
		if parameter, ok := part.(*syntax.ParamExp); ok && parameter.Param != nil {
			switch {
			case parameter.Param.Value == "@" || parameter.Param.Value == "*":
				if parameter.Slice == nil && parameter.Exp == nil && parameter.Repl == nil {
					return slices.Clone(c.params)
				}
			case parameter.Index != nil:
				if elements, ok := c.vars[parameter.Param.Value+"[@]"]; ok && elements != "" {
					return strings.Split(elements, "\x1f")
				}
			case !quoted:
				if value := c.parameter(parameter); !strings.Contains(value, unknownText) {
					return strings.Fields(value)
				}
			}
		}
	}
	return []string{c.word(word)}
}

// word is the text of a word, as far as it is known.
func (c course) word(word *syntax.Word) string { return c.parts(word.Parts) }

func (c course) parts(parts []syntax.WordPart) string {
	var all strings.Builder
	for _, part := range parts {
		switch part := part.(type) {
		case *syntax.Lit:
			all.WriteString(strings.ReplaceAll(part.Value, `\`, ""))
		case *syntax.SglQuoted:
			all.WriteString(part.Value)
		case *syntax.DblQuoted:
			all.WriteString(c.parts(part.Parts))
		case *syntax.ParamExp:
			all.WriteString(c.parameter(part))
		default:
			all.WriteString(unknownText)
		}
	}
	return all.String()
}

func (c course) variable(name string) string {
	if value, ok := c.vars[name]; ok {
		return value
	}
	return unknownText
}

func (c course) parameter(parameter *syntax.ParamExp) string {
	if parameter.Param == nil || parameter.Length || parameter.Excl || parameter.Width || parameter.Index != nil || parameter.Slice != nil || parameter.Repl != nil {
		return unknownText
	}
	name := parameter.Param.Value
	value := c.variable(name)
	switch n, err := strconv.Atoi(name); {
	case name == "?" && c.status:
		value = "0"
	case name == "?":
		value = someFailure
	case name == "@" || name == "*":
		value = strings.Join(c.params, " ")
	case err == nil && n > 0 && n <= len(c.params):
		value = c.params[n-1]
	}
	if parameter.Exp != nil && (value == "" || strings.Contains(value, unknownText) || parameter.Exp.Op != syntax.DefaultUnsetOrNull && parameter.Exp.Op != syntax.DefaultUnset) {
		return unknownText
	}
	return value
}

// likely is whether something is so.
type likely int

const (
	never likely = iota
	perhaps
	always
)

func sure(yes bool) likely {
	if yes {
		return always
	}
	return never
}

// decided is the status of a condition.
func (c course) decided(yes likely) []course {
	if yes == perhaps {
		return c.either()
	}
	return []course{c.finished(yes == always)}
}

// compare compares two words as test does.
func compare(left, operator, right string) likely {
	if strings.Contains(left+right, unknownText) {
		return perhaps
	}
	l, leftErr := strconv.Atoi(left)
	r, rightErr := strconv.Atoi(right)
	numbers := leftErr == nil && rightErr == nil
	equal := perhaps
	switch {
	case left == someFailure && right == "0" || left == "0" && right == someFailure:
		equal = never
	case strings.Contains(left+right, someFailure):
	case numbers:
		equal = sure(l == r)
	default:
		equal = sure(left == right)
	}
	switch {
	case operator == "=" || operator == "==" || operator == "-eq":
		return equal
	case operator == "!=" || operator == "-ne":
		return always - equal
	case operator == "-gt" && left == someFailure && right == "0":
		return always
	case operator == "-gt" && numbers:
		return sure(l > r)
	}
	return perhaps
}

// holds executes test, or [ with its end.
func holds(bracket string, words []string) likely {
	if bracket != "" && len(words) > 0 {
		words = words[:len(words)-1]
	}
	switch {
	case len(words) > 1 && words[0] == "!":
		return always - holds("", words[1:])
	case len(words) == 3:
		return compare(words[0], words[1], words[2])
	case len(words) == 2 && (words[0] == "-n" || words[0] == "-z") && !strings.Contains(words[1], unknownText):
		return sure((words[1] == "") == (words[0] == "-z"))
	}
	return perhaps
}

// test is the condition of [[ … ]].
func (c course) test(expression syntax.TestExpr) likely {
	switch x := expression.(type) {
	case *syntax.ParenTest:
		return c.test(x.X)
	case *syntax.UnaryTest:
		if x.Op == syntax.TsNot {
			return always - c.test(x.X)
		}
		if word, ok := x.X.(*syntax.Word); ok {
			return holds("", []string{x.Op.String(), c.word(word)})
		}
	case *syntax.BinaryTest:
		switch x.Op {
		case syntax.AndTest:
			return min(c.test(x.X), c.test(x.Y))
		case syntax.OrTest:
			return max(c.test(x.X), c.test(x.Y))
		}
		left, ok := x.X.(*syntax.Word)
		right, alsoOk := x.Y.(*syntax.Word)
		if ok && alsoOk && !strings.ContainsAny(c.word(right), "*?[") {
			return compare(c.word(left), x.Op.String(), c.word(right))
		}
	}
	return perhaps
}

// matching says whether a pattern of case matches.
func matching(value string, pattern *syntax.Word, c course) likely {
	if pattern.Lit() == "*" {
		return always
	}
	text := c.word(pattern)
	if strings.ContainsAny(text, "*?[") {
		return perhaps
	}
	for _, part := range pattern.Parts {
		if _, glob := part.(*syntax.ExtGlob); glob {
			return perhaps
		}
	}
	return compare(value, "=", text)
}
