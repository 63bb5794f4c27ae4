package pipelinefile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// inputs checks the inputs as text of the file: GitLab puts them in before it reads the YAML, in comments too. What
// they can do in a script is checked with the script.
func (c *checker) inputs() {
	c.matchable()
	scripts := c.scriptLines()
	for _, p := range c.file.parts {
		if !p.interpolates {
			continue
		}
		number := p.base
		for line := range strings.Lines(p.body) {
			number++
			for _, match := range block.FindAllStringSubmatch(line, -1) {
				c.inputInYAML(number, line, match, scripts[number])
			}
		}
	}
}

// matchable checks that the patterns of the inputs match something: nothing can be said of the values of one that does
// not, and no pipeline can be started with it.
func (c *checker) matchable() {
	for _, name := range slices.Sorted(maps.Keys(c.file.Inputs)) {
		input := c.file.Inputs[name]
		if input.Regex == "" {
			continue
		}
		if language, err := parseLanguage(input.Regex); err == nil && language.empty() {
			c.reportAt(nil, input.line, "spec:inputs:"+name+":regex", RuleInput, fmt.Sprintf("input %q has a pattern that matches nothing: %s", name, input.Regex), "write the pattern without slashes around it, with ^ at its beginning and $ at its end")
		}
	}
}

// scriptLines are the lines that belong to scripts.
func (c *checker) scriptLines() map[int]bool {
	found := map[int]bool{}
	for i := range c.file.Jobs {
		for _, keyword := range []string{"before_script", "script", "after_script", "hooks"} {
			for _, line := range linesOf(c.file.Jobs[i].shell(keyword)) {
				for n := range strings.Count(line.Text, "\n") + 1 {
					found[line.Line+n] = true
				}
			}
		}
	}
	return found
}

// inputInYAML checks one interpolation.
func (c *checker) inputInYAML(number int, line string, match []string, script bool) {
	input := inputWithBlock.FindStringSubmatch(match[1])
	if input == nil {
		c.reportAt(nil, number, "", RuleNotUnderstood, fmt.Sprintf("the interpolation %s is not understood", match[0]), "use an input")
		return
	}
	declared, ok := c.file.Inputs[input[1]]
	if !ok {
		c.reportAt(nil, number, "", RuleInput, fmt.Sprintf("it uses input %q, which the header does not declare", input[1]), "declare it in spec:inputs")
		return
	}
	if strings.Contains(match[1], "expand_vars") {
		c.reportAt(nil, number, "", RuleInput, fmt.Sprintf("%s puts the values of variables into the file, which a trigger variable can set", match[0]), "leave expand_vars out")
		return
	}
	if declared.closed || declared.Type == "number" || declared.Type == "array" && !script {
		return
	}
	bad := "\n\r\x00"
	rest := strings.TrimSpace(block.ReplaceAllString(line, ""))
	switch {
	case strings.HasPrefix(rest, "#"): // in a comment everything but its end is harmless
	case script:
		if item := strings.TrimLeft(rest, "- "); strings.HasPrefix(item, `"`) || strings.HasPrefix(item, `'`) {
			bad += item[:1]
		}
	default:
		bad += "\"'\\#&*!|>"
		if strings.ContainsAny(rest, "{[") {
			bad += "{}[],"
		}
	}
	problem := "has no pattern"
	if declared.Regex != "" {
		language, err := parseLanguage(declared.Regex)
		if err != nil {
			problem = fmt.Sprintf("has a pattern that is not RE2: %v", err)
		} else if found, more := language.contains(forbidding(bad)); more {
			problem = "has a pattern that admits " + found
		} else {
			return
		}
	}
	c.reportAt(nil, number, "", RuleInput, fmt.Sprintf("input %q %s: GitLab puts it into the file's text, so that whoever starts the pipeline can change the file", input[1], problem), "give the input options, or a regex with ^, $ and the characters that it may contain")
}

// workflow checks which events create a pipeline, and its name.
func (c *checker) workflow() {
	if c.file.cancelsOnFailure {
		c.reportAt(nil, c.file.cancelsLine, "workflow:auto_cancel:on_job_failure", RuleRollsBack, "the failure of a job cancels the others, the ones that roll back too", "set it to none")
	}
	if c.readsProposal() {
		c.proposed()
		return
	}
	c.admits("trigger", "api", "web")
	if c.file.starts("trigger") == no {
		c.report(nil, RuleWorkflow, "no trigger can create a pipeline", `let workflow:rules admit the source "trigger"`)
	}
	want := "release $[[ inputs.app ]] $[[ inputs.release_id ]]"
	if c.ofPreviews() {
		want = "preview $[[ inputs.app ]] $[[ inputs.preview_id ]]"
	}
	named := func(name string) string {
		return strings.Join(strings.Fields(wholeInput.ReplaceAllString(name, "<$1>")), " ")
	}
	if named(c.file.Name) != named(want) {
		c.report(nil, RuleName, fmt.Sprintf("workflow:name is %q: `crossbill trigger` cannot find the pipeline again", c.file.Name), fmt.Sprintf("set it to %q", want))
	}
}

// admits checks that no other source than these creates a pipeline.
func (c *checker) admits(admitted ...string) {
	for _, source := range sources {
		if !slices.Contains(admitted, source) && c.file.starts(source) != no {
			last := len(admitted) - 1
			c.report(nil, RuleWorkflow, fmt.Sprintf("%s can create a pipeline", source), fmt.Sprintf("let workflow:rules admit the sources %s and %q, and nothing else", quoted(admitted[:last]), admitted[last]))
			return
		}
	}
}

func quoted(words []string) string {
	var all []string
	for _, word := range words {
		all = append(all, strconv.Quote(word))
	}
	return strings.Join(all, ", ")
}

// readsProposal says whether the release is the one that the repository names, and not what a trigger brings.
func (c *checker) readsProposal() bool {
	for _, r := range c.roles {
		if r.acts() && r.proposed {
			return true
		}
	}
	return false
}

// proposed checks which events create the pipeline of a release that the repository names: a push to one branch that
// changes the file of a proposal.
func (c *checker) proposed() {
	c.admits("push", "api", "web")
	push := operand{text: "push", known: true}
	if c.file.starts("push") == no {
		c.report(nil, RuleWorkflow, "no push can create a pipeline", `let workflow:rules admit the source "push"`)
	}
	another, main := operand{known: true, other: true}, operand{text: "main", known: true}
	for _, ref := range []map[string]operand{
		{"CI_COMMIT_BRANCH": another, "CI_COMMIT_REF_NAME": another},
		{"CI_COMMIT_BRANCH": {known: true, unset: true}, "CI_COMMIT_TAG": another, "CI_COMMIT_REF_NAME": another},
	} {
		ref["CI_PIPELINE_SOURCE"], ref["CI_DEFAULT_BRANCH"] = push, main
		if c.file.startsWhere(ref, unknown) != no {
			c.report(nil, RuleWorkflow, "a push of any branch or tag can create a pipeline, also of one that waits to be merged", `begin workflow:rules with {if: $CI_COMMIT_BRANCH != "main", when: never}`)
			return
		}
	}
	if c.file.startsWhere(map[string]operand{"CI_PIPELINE_SOURCE": push}, no) != no {
		c.report(nil, RuleWorkflow, "a push that proposes nothing can create a pipeline", "add `changes` with the file of the proposal to the rule of the push")
	}
}

// wholeInput is an interpolation without functions: truncate would leave out a part of the value.
var wholeInput = regexp.MustCompile(`\$\[\[\s*inputs\.([A-Za-z0-9_-]+)\s*\]\]`)
