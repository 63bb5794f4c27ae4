package pipelinefile

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

var (
	imageArgument = regexp.MustCompile(`(?:--image[= ]+|set image \S+ \S+=)("[^"]*"|'[^']*'|\S+)`)
	interpolated  = regexp.MustCompile(`\$\[\[\s*inputs\.([A-Za-z0-9_-]+)[^\]]*\]\]`)
	shellVariable = regexp.MustCompile(`^\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?$`)
	digestInText  = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
)

// images checks that what a job deploys has a digest: written, or from an input that admits nothing else.
func (c *checker) images(job *Job) {
	for _, line := range job.Script {
		for _, match := range imageArgument.FindAllStringSubmatch(line, -1) {
			c.image(job, strings.Trim(match[1], `"'`), 0)
		}
	}
}

func (c *checker) image(job *Job, value string, depth int) {
	if input := interpolated.FindStringSubmatch(value); input != nil && input[0] == value {
		c.imageInput(job, input[1])
		return
	}
	variable := shellVariable.FindStringSubmatch(value)
	if variable == nil || depth > 5 {
		if !digestInText.MatchString(value) {
			c.report(job, RuleByDigest, fmt.Sprintf("it deploys %s, which has no digest", value), "give repository@sha256:…")
		}
		return
	}
	name := variable[1]
	for _, line := range job.Script {
		if assigned, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			c.image(job, strings.Trim(assigned, `"'`), depth+1)
			return
		}
	}
	c.report(job, RuleByDigest, fmt.Sprintf("it deploys $%s, which a trigger variable can set to a tag", name), fmt.Sprintf("assign it in the script: %s='$[[ inputs.image ]]'", name))
}

func (c *checker) imageInput(job *Job, name string) {
	input, ok := c.file.Inputs[name]
	pattern, err := syntax.Parse(input.Regex, syntax.Perl)
	switch {
	case !ok || input.Regex == "" || err != nil:
		c.report(job, RuleByDigest, fmt.Sprintf("it deploys the input %q, which has no pattern", name), "give the input a regex that ends in @sha256:[0-9a-f]{64}$")
	case !onlyDigests(pattern):
		c.report(job, RuleByDigest, fmt.Sprintf("the pattern of input %q also admits images without a digest", name), "start it with ^ and end each of its alternatives with @sha256:[0-9a-f]{64}, then $")
	}
}

// onlyDigests proves that an expression matches nothing but texts that end in a digest, and perhaps
// the empty one. It is false for an expression of another form.
func onlyDigests(re *syntax.Regexp) bool {
	if re.Op != syntax.OpConcat || len(re.Sub) < 3 || re.Sub[0].Op != syntax.OpBeginText || re.Sub[len(re.Sub)-1].Op != syntax.OpEndText {
		return false
	}
	middle := re.Sub[1 : len(re.Sub)-1]
	if len(middle) == 1 && middle[0].Op == syntax.OpQuest {
		middle = middle[0].Sub
	}
	return endInDigest(middle)
}

// endInDigest says whether a sequence of expressions always ends in @sha256: and 64 hexadecimal digits.
func endInDigest(sequence []*syntax.Regexp) bool {
	last := sequence[len(sequence)-1]
	switch last.Op {
	case syntax.OpCapture, syntax.OpConcat:
		return endInDigest(last.Sub)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(last.Sub, func(one *syntax.Regexp) bool { return !endInDigest([]*syntax.Regexp{one}) })
	case syntax.OpRepeat:
		if last.Min != 64 || last.Max != 64 || last.Sub[0].String() != "[0-9a-f]" || len(sequence) < 2 {
			return false
		}
		before := sequence[len(sequence)-2]
		return before.Op == syntax.OpLiteral && before.Flags&syntax.FoldCase == 0 && strings.HasSuffix(string(before.Rune), "@sha256:")
	}
	return false
}
