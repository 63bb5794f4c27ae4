package pipelinefile

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// inputPlace is where in a script GitLab inserts an input, which decides what its text can do there.
type inputPlace int

const (
	placeSingle        inputPlace = iota // in single quotes
	placeDouble                          // in double quotes
	placeHeredoc                         // in a here-document that expands variables
	placeQuotedHeredoc                   // in one that does not
	placeComment
	placeWord // unquoted
	placeName // a part of a name, an arithmetic expression, or a place that is not understood
)

func (p inputPlace) String() string {
	return [...]string{"in single quotes", "in double quotes", "in a here-document", "in a quoted here-document", "in a comment", "outside quotes", "in a name"}[p]
}

// inputUse is a place of a script in which GitLab inserts the text of an input.
type inputUse struct {
	Line      int
	Name      string
	Functions string // such as expand_vars, truncate(0,8)
	Place     inputPlace
	Command   bool // it is the name of a command, or a part of it
}

// placeholders stand for inputs while a script is parsed.
type placeholders struct {
	prefix string
	inputs []placeholder
}

type placeholder struct {
	name      string
	functions string
	written   string
	input     Input
	declared  bool
}

var inputExpression = regexp.MustCompile(`\$\[\[\s*inputs\.([A-Za-z0-9_-]+)\s*((?:\|[^\]]*)?)\]\]`)

func (p *placeholders) replace(text string, inputs map[string]Input) string {
	for p.prefix = "zzinput"; strings.Contains(text, p.prefix); {
		p.prefix += "z"
	}
	return inputExpression.ReplaceAllStringFunc(text, func(written string) string {
		match := inputExpression.FindStringSubmatch(written)
		input, declared := inputs[match[1]]
		functions := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(match[2]), "|"))
		p.inputs = append(p.inputs, placeholder{match[1], functions, written, input, declared})
		return fmt.Sprintf("%s%dzz", p.prefix, len(p.inputs)-1)
	})
}

// split cuts a text at its placeholders. Even parts are text, odd ones indexes of inputs.
func (p *placeholders) split(text string) (texts []string, inputs []int) {
	if len(p.inputs) == 0 {
		return []string{text}, nil
	}
	for {
		before, after, found := strings.Cut(text, p.prefix)
		texts = append(texts, before)
		if !found {
			return texts, inputs
		}
		digits, rest, _ := strings.Cut(after, "zz")
		index, _ := strconv.Atoi(digits)
		inputs = append(inputs, min(max(index, 0), len(p.inputs)-1))
		text = rest
	}
}

// restore puts inputs back as they are written.
func (p *placeholders) restore(text string) string {
	texts, inputs := p.split(text)
	var all strings.Builder
	all.WriteString(texts[0])
	for i, index := range inputs {
		all.WriteString(p.inputs[index].written + texts[i+1])
	}
	return all.String()
}

func (p *placeholders) in(text string) bool {
	return len(p.inputs) > 0 && strings.Contains(text, p.prefix)
}

// token is the placeholder of an input.
func (p *placeholders) token(index int) string { return fmt.Sprintf("%s%dzz", p.prefix, index) }

// plainOption is an option of an input that means the same in every place of a script.
var plainOption = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,-]*$`)

// alternatives are the values of an input, when they are a short closed list of plain words.
func (p placeholder) alternatives() []string {
	switch {
	case p.functions != "" || !p.declared:
	case p.input.Type == "boolean":
		return []string{"true", "false"}
	case len(p.input.Options) > 0 && len(p.input.Options) <= 8 && !slices.ContainsFunc(p.input.Options, func(o string) bool { return !plainOption.MatchString(o) }):
		return p.input.Options
	}
	return nil
}

// collectInputs finds the places of inputs in a script.
func (a *analyzer) collectInputs(file *syntax.File) {
	if len(a.placeholders.inputs) == 0 {
		return
	}
	seen := 0
	var parents []syntax.Node
	syntax.Walk(file, func(node syntax.Node) bool {
		if node == nil {
			parents = parents[:len(parents)-1]
			return true
		}
		text, place := "", placeName
		switch n := node.(type) {
		case *syntax.Lit:
			text, place = n.Value, placeOf(node, parents)
		case *syntax.SglQuoted:
			text, place = n.Value, placeSingle
			if inBackquotes(parents) || n.Dollar {
				place = placeName
			}
		}
		if a.placeholders.in(text) {
			_, inputs := a.placeholders.split(text)
			seen += len(inputs)
			a.addInputs(inputs, a.nodeLine(node), place, isCommandName(node, parents))
			if place == placeName {
				a.opaque(node, "an input is inserted in a place where it is more than a value")
			}
		}
		parents = append(parents, node)
		return true
	})
	if _, all := a.placeholders.split(a.source); len(all) > seen { // comments are not in the tree
		a.commentInputs(file)
	}
}

// commentInputs finds inputs in comments.
func (a *analyzer) commentInputs(*syntax.File) {
	withComments, err := syntax.NewParser(syntax.Variant(syntax.LangBash), syntax.KeepComments(true)).Parse(strings.NewReader(a.source), "")
	if err != nil {
		a.inputsInText(a.source)
		return
	}
	syntax.Walk(withComments, func(node syntax.Node) bool {
		if comment, ok := node.(*syntax.Comment); ok && a.placeholders.in(comment.Text) {
			_, inputs := a.placeholders.split(comment.Text)
			a.addInputs(inputs, a.fileLine(int(comment.Pos().Line())), placeComment, false)
		}
		return true
	})
}

// inputsInText reports the inputs of a script that cannot be parsed.
func (a *analyzer) inputsInText(text string) {
	for number, line := range strings.Split(text, "\n") {
		_, inputs := a.placeholders.split(line)
		at := a.fileLine(number + 1)
		if a.site != nil {
			at = a.site.line
		}
		a.addInputs(inputs, at, placeName, false)
	}
}

func (a *analyzer) addInputs(indexes []int, line int, place inputPlace, command bool) {
	for _, index := range indexes {
		use := inputUse{Line: line, Name: a.placeholders.inputs[index].name, Functions: a.placeholders.inputs[index].functions, Place: place, Command: command}
		if !slices.Contains(a.found.inputs, use) {
			a.found.inputs = append(a.found.inputs, use)
		}
	}
}

// placeOf is the place of a literal, by what is around it.
func placeOf(node syntax.Node, parents []syntax.Node) inputPlace {
	if inBackquotes(parents) {
		return placeName
	}
	child := node
	for _, parent := range slices.Backward(parents) {
		switch parent := parent.(type) {
		case *syntax.DblQuoted:
			if parent.Dollar {
				return placeName
			}
			return placeDouble
		case *syntax.ParamExp:
			if parent.Param == child || parent.Exp == nil || parent.Exp.Word != child {
				return placeName
			}
		case *syntax.Redirect:
			switch {
			case child == parent.Hdoc && isQuoted(parent.Word):
				return placeQuotedHeredoc
			case child == parent.Hdoc:
				return placeHeredoc
			case child == parent.N || parent.Hdoc != nil: // a delimiter
				return placeName
			}
			return placeWord
		case *syntax.Assign:
			if child == parent.Name || child == parent.Index {
				return placeName
			}
			return placeWord
		case *syntax.FuncDecl, *syntax.WordIter, *syntax.CoprocClause:
			if _, ok := child.(*syntax.Lit); ok {
				return placeName
			}
			return placeWord
		case *syntax.DeclClause, *syntax.LetClause, *syntax.ArithmExp, *syntax.ArithmCmd, *syntax.BinaryArithm, *syntax.UnaryArithm, *syntax.ExtGlob:
			return placeName
		case *syntax.CmdSubst, *syntax.ProcSubst, *syntax.CallExpr, *syntax.Stmt:
			return placeWord
		}
		child = parent
	}
	return placeWord
}

func isQuoted(delimiter *syntax.Word) bool {
	for _, part := range delimiter.Parts {
		if lit, ok := part.(*syntax.Lit); !ok || strings.Contains(lit.Value, `\`) {
			return true
		}
	}
	return false
}

// inBackquotes is a place with a quoting of its own.
func inBackquotes(parents []syntax.Node) bool {
	return slices.ContainsFunc(parents, func(node syntax.Node) bool {
		substitution, ok := node.(*syntax.CmdSubst)
		return ok && substitution.Backquotes
	})
}

// isCommandName says whether a node is in the first word of a command.
func isCommandName(node syntax.Node, parents []syntax.Node) bool {
	child := node
	for _, parent := range slices.Backward(parents) {
		if call, ok := parent.(*syntax.CallExpr); ok {
			return len(call.Args) > 0 && call.Args[0] == child
		}
		if _, ok := parent.(*syntax.Stmt); ok {
			return false
		}
		child = parent
	}
	return false
}

const wordRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+,-"

// harm says what a value of the input can do in its place, "" when all values are harmless there.
func (u inputUse) harm(input Input) string {
	bad := forbidding("'")
	switch u.Place {
	case placeDouble:
		bad = forbidding("\"$`\\")
	case placeHeredoc:
		bad = forbidding("$`\\\n")
	case placeQuotedHeredoc, placeComment:
		bad = forbidding("\n")
	case placeWord:
		bad = admitting(wordRunes)
	case placeName:
		bad = admitting("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
	}
	if u.Place != placeComment && strings.Contains(u.Functions, "expand_vars") {
		bad = bad.and("$")
	}
	switch {
	case input.Type == "array":
		return "it is a list, whose text is not one word"
	case input.Type == "boolean":
		return ""
	case len(input.Options) > 0:
		for _, option := range input.Options {
			if strings.ContainsFunc(option, bad.has) || u.Place == placeWord && option == "" && u.Command {
				return fmt.Sprintf("its option %q is more than a value %s", option, u.Place)
			}
		}
		return ""
	case u.Command:
		return "its values are names of commands"
	case input.Type == "number":
		return ""
	case input.Regex == "":
		return "it has no pattern"
	}
	language, err := parseLanguage(input.Regex)
	if err != nil {
		return fmt.Sprintf("its pattern is not RE2: %v", err)
	}
	if found, ok := language.contains(bad); ok {
		return fmt.Sprintf("its pattern admits %s %s", found, u.Place)
	}
	if input.Default != nil && strings.ContainsFunc(*input.Default, bad.has) {
		return fmt.Sprintf("its default %q is more than a value %s", *input.Default, u.Place)
	}
	return ""
}
