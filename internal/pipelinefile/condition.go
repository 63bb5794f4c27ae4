package pipelinefile

import (
	"regexp"
	"strings"
)

// truth is what is known about a condition before the pipeline exists.
type truth byte

const (
	unknown truth = iota
	yes
	no
)

// condition evaluates a rule's `if` as far as the given variables allow: ==, !=, =~, !~, &&, ||,
// parentheses. What it cannot evaluate is unknown.
func condition(text string, variables map[string]string) truth {
	p := &conditionParser{tokens: tokenPattern.FindAllString(text, -1), variables: variables}
	value := p.or()
	if len(p.tokens) > 0 {
		return unknown
	}
	return value
}

var tokenPattern = regexp.MustCompile(`&&|\|\||==|!=|=~|!~|\(|\)|"[^"]*"|'[^']*'|/(?:[^/\\]|\\.)*/i?|\$[A-Za-z_][A-Za-z0-9_]*|\S`)

type conditionParser struct {
	tokens    []string
	variables map[string]string
}

func (p *conditionParser) take(token string) bool {
	if len(p.tokens) > 0 && p.tokens[0] == token {
		p.tokens = p.tokens[1:]
		return true
	}
	return false
}

func (p *conditionParser) or() truth {
	value := p.and()
	for p.take("||") {
		switch right := p.and(); {
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
		switch right := p.comparison(); {
		case value == no || right == no:
			value = no
		case value == unknown || right == unknown:
			value = unknown
		}
	}
	return value
}

func (p *conditionParser) comparison() truth {
	if p.take("(") {
		value := p.or()
		p.take(")")
		return value
	}
	left, known := p.operand()
	for _, operator := range []string{"==", "!=", "=~", "!~"} {
		if !p.take(operator) {
			continue
		}
		right, also := p.operand()
		if !known || !also {
			return unknown
		}
		equal := left == right
		if operator[1] == '~' {
			pattern, err := regexp.Compile(expression(right))
			if err != nil {
				return unknown
			}
			equal = pattern.MatchString(left)
		}
		return truthOf(equal == (operator[0] == '='))
	}
	if !known {
		return unknown
	}
	return truthOf(left != "")
}

// operand is a text, a pattern or a variable; false when its value is not known.
func (p *conditionParser) operand() (string, bool) {
	if len(p.tokens) == 0 {
		return "", false
	}
	token := p.tokens[0]
	p.tokens = p.tokens[1:]
	switch token[0] {
	case '"', '\'':
		text := token[1 : len(token)-1]
		return text, !strings.Contains(text, "$[[")
	case '/':
		return token, true
	case '$':
		value, known := p.variables[token[1:]]
		return value, known
	default:
		return "", false
	}
}

func expression(pattern string) string {
	pattern = strings.TrimPrefix(pattern, "/")
	if trimmed, ok := strings.CutSuffix(pattern, "/i"); ok {
		return "(?i)" + trimmed
	}
	return strings.TrimSuffix(pattern, "/")
}

func truthOf(value bool) truth {
	if value {
		return yes
	}
	return no
}

// starts says whether workflow:rules admit a pipeline of this source: unknown when that depends on more than
// the source.
func (f *File) starts(source string) truth {
	if f.Workflow == nil {
		return yes
	}
	possible := no
	for _, rule := range f.Workflow {
		matches := yes
		if rule.conditional {
			matches = unknown
			if rule.If != "" {
				matches = condition(rule.If, map[string]string{"CI_PIPELINE_SOURCE": source})
			}
		}
		if matches != no && rule.When != "never" {
			possible = matches
		}
		if matches == yes {
			break
		}
	}
	return possible
}
