package pipelinefile

import (
	"regexp"
	"slices"
	"strings"
)

// truth is what is known about a condition before the pipeline exists.
type truth byte

const (
	unknown truth = iota
	yes
	no
)

func truthOf(value bool) truth {
	if value {
		return yes
	}
	return no
}

// operand is a value in a condition.
type operand struct {
	text    string
	known   bool
	unset   bool // a variable that nobody has set: null
	pattern bool
	other   bool // set, to something that is not written in any condition of the file
}

// outlook is what conditions are evaluated in: what variables are, and what is decided where that is not enough.
type outlook struct {
	variable func(name string) operand
	decide   func(question string) truth
}

// condition evaluates a rule's `if` as GitLab does: ==, !=, =~, !~, && before ||, parentheses. What it cannot
// evaluate is decided by the outlook.
func (o outlook) condition(text string) truth {
	p := &conditionParser{tokens: tokenPattern.FindAllString(text, -1), outlook: o, live: true}
	value := p.or()
	if len(p.tokens) > 0 || p.broken {
		return o.decide(text)
	}
	return value
}

// variablesIn are the names of the variables in a condition, and the texts that each is compared with.
func variablesIn(text string, found map[string][]string) {
	tokens := tokenPattern.FindAllString(text, -1)
	for i, token := range tokens {
		name, ok := variableName(token)
		if !ok {
			continue
		}
		for _, at := range []int{i - 2, i + 2} {
			if at >= 0 && at < len(tokens) && slices.Contains([]string{"==", "!="}, tokens[(i+at)/2]) && strings.ContainsAny(tokens[at][:1], `"'`) {
				if literal := tokens[at][1 : len(tokens[at])-1]; !slices.Contains(found[name], literal) {
					found[name] = append(found[name], literal)
				}
			}
		}
		if found[name] == nil {
			found[name] = []string{}
		}
	}
}

var tokenPattern = regexp.MustCompile(`&&|\|\||==|!=|=~|!~|\(|\)|"[^"]*"|'[^']*'|/(?:[^/\\]|\\.)*/[a-zA-Z]*|\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\}|[A-Za-z]+|\S`)

func variableName(token string) (string, bool) {
	if !strings.HasPrefix(token, "$") || len(token) < 2 {
		return "", false
	}
	return strings.Trim(token[1:], "{}"), true
}

type conditionParser struct {
	tokens  []string
	outlook outlook
	live    bool // what is parsed now still matters
	broken  bool
	depth   int
}

func (p *conditionParser) take(token string) bool {
	if len(p.tokens) > 0 && p.tokens[0] == token {
		p.tokens = p.tokens[1:]
		return true
	}
	return false
}

// skipping parses what no longer matters, so that nothing is decided for it.
func (p *conditionParser) skipping(skip bool, parse func() truth) truth {
	was := p.live
	p.live = was && !skip
	value := parse()
	p.live = was
	return value
}

func (p *conditionParser) or() truth {
	value := p.and()
	for p.take("||") {
		switch right := p.skipping(value == yes, p.and); {
		case value == yes || right == yes:
			value = yes
		case value == unknown || right == unknown:
			value = unknown
		}
	}
	return value
}

func (p *conditionParser) and() truth {
	value := p.comparison()
	for p.take("&&") {
		switch right := p.skipping(value == no, p.comparison); {
		case value == no || right == no:
			value = no
		case value == unknown || right == unknown:
			value = unknown
		}
	}
	return value
}

func (p *conditionParser) decide(question string) truth {
	if !p.live {
		return unknown
	}
	return p.outlook.decide(question)
}

func (p *conditionParser) comparison() truth {
	if p.depth++; p.depth > deepest {
		p.broken = true
		return unknown
	}
	defer func() { p.depth-- }()
	if p.take("(") {
		value := p.or()
		p.broken = p.broken || !p.take(")")
		return value
	}
	left, first := p.operand()
	for _, operator := range []string{"==", "!=", "=~", "!~"} {
		if !p.take(operator) {
			continue
		}
		right, second := p.operand()
		if !p.live {
			return unknown
		}
		equal := p.equal(left, right, first, second, operator[1] == '~')
		if operator[0] != '=' {
			equal = map[truth]truth{yes: no, no: yes, unknown: unknown}[equal]
		}
		return equal
	}
	if !p.live {
		return unknown
	}
	if !left.known {
		return p.decide(first)
	}
	return truthOf(!left.unset && (left.text != "" || left.other))
}

// equal compares two operands; first and second are how they are written.
func (p *conditionParser) equal(left, right operand, first, second string, match bool) truth {
	if match {
		return p.matches(left, right, first, second)
	}
	switch {
	case !left.known || !right.known, left.other && right.other:
		if second < first {
			first, second = second, first
		}
		return p.decide(first + " == " + second)
	case left.other || right.other:
		return no
	case left.unset || right.unset:
		return truthOf(left.unset && right.unset)
	}
	return truthOf(left.text == right.text)
}

func (p *conditionParser) matches(left, right operand, first, second string) truth {
	if left.unset {
		return no
	}
	pattern, err := regexp.Compile(expression(right.text))
	if !left.known || left.other || !right.pattern || err != nil {
		return p.decide(first + " =~ " + second)
	}
	return truthOf(pattern.MatchString(left.text))
}

// operand is a text, a pattern or a variable.
func (p *conditionParser) operand() (operand, string) {
	if len(p.tokens) == 0 {
		p.broken = true
		return operand{}, ""
	}
	token := p.tokens[0]
	p.tokens = p.tokens[1:]
	if name, ok := variableName(token); ok {
		if !p.live {
			return operand{}, token
		}
		return p.outlook.variable(name), token
	}
	switch {
	case len(token) > 1 && (token[0] == '"' || token[0] == '\''):
		text := token[1 : len(token)-1]
		return operand{text: text, known: !strings.Contains(text, "$")}, token
	case len(token) > 1 && token[0] == '/':
		return operand{text: token, known: true, pattern: true}, token
	case token == "null":
		return operand{known: true, unset: true}, token
	}
	p.broken = true
	return operand{}, token
}

// expression is a pattern as GitLab writes it, /…/ with flags, for Go; both are RE2.
func expression(pattern string) string {
	end := strings.LastIndex(pattern, "/")
	if end <= 0 {
		return pattern
	}
	body := pattern[1:end]
	if strings.Contains(pattern[end:], "i") {
		return "(?i)" + body
	}
	return body
}

// starts says whether workflow:rules admit a pipeline of this source: unknown when that depends on more than
// the source.
func (f *File) starts(source string) truth {
	return f.startsWhere(map[string]operand{"CI_PIPELINE_SOURCE": {text: source, known: true}}, unknown)
}

// startsWhere is starts where these variables are known, and whether files of `changes` have changed.
func (f *File) startsWhere(variables map[string]operand, changed truth) truth {
	o := outlook{
		variable: func(name string) operand { return variables[name] },
		decide:   func(string) truth { return unknown },
	}
	if f.Workflow == nil {
		return yes
	}
	possible := no
	for _, rule := range f.Workflow {
		matches := yes
		if rule.If != "" {
			matches = o.condition(rule.If)
		}
		if rule.files != "" && matches == yes {
			matches = unknown
		}
		if strings.HasPrefix(rule.files, "changes") && changed == no {
			matches = no
		}
		if rule.conditional && rule.If == "" && rule.files == "" {
			matches = unknown
		}
		if matches != no && rule.When != "never" && possible != yes {
			possible = matches
		}
		if matches == yes {
			break
		}
	}
	return possible
}
