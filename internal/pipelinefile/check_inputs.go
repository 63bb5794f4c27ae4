package pipelinefile

import (
	"fmt"
	"regexp"
	"strings"
)

// hostile are values that an input used in a script must not admit.
var hostile = []string{"'", `"`, "`", "$(id)", "${IFS}", "a;b", "a&b", "a|b", "a b", "a\nb", "a\\b", "a>b", "-x", "../x", "a\x00b", "a\rb"}

// inputs checks the patterns of inputs that are used in scripts: GitLab inserts them as text, before
// any shell reads it.
func (c *checker) inputs() {
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		for _, line := range job.Script {
			for _, match := range interpolated.FindAllStringSubmatch(line, -1) {
				c.input(job, match[1])
			}
		}
	}
}

func (c *checker) input(job *Job, name string) {
	input, ok := c.file.Inputs[name]
	switch {
	case !ok:
		c.report(job, RuleInput, fmt.Sprintf("it uses input %q, which the header does not declare", name), "declare it in spec:inputs")
	case input.Type == "number", input.Type == "boolean", len(input.Options) > 0:
	case input.Regex == "":
		c.report(job, RuleInput, fmt.Sprintf("input %q is used in its script and has no pattern: whoever starts the pipeline can run commands", name), "give the input a regex or options")
	default:
		pattern, err := regexp.Compile(input.Regex)
		if err != nil {
			c.report(job, RuleInput, fmt.Sprintf("the pattern of input %q is not RE2: %v", name, err), "fix it")
			return
		}
		for _, bad := range hostile {
			if pattern.MatchString(bad) || input.Default != nil && pattern.MatchString(*input.Default+bad) && *input.Default != "" {
				c.report(job, RuleInput, fmt.Sprintf("the pattern of input %q admits %q into its script", name, bad), "anchor it with ^ and $ and list the characters that it may contain")
				return
			}
		}
	}
}

// workflow checks which events create a pipeline, and its name.
func (c *checker) workflow() {
	for _, source := range []string{"push", "merge_request_event", "schedule", "pipeline", "parent_pipeline", "external_pull_request_event", "chat", "webide"} {
		if c.file.starts(source) != no {
			c.report(nil, RuleWorkflow, fmt.Sprintf("%s can create a pipeline", source), `let workflow:rules admit the sources "trigger", "api" and "web", and nothing else`)
			break
		}
	}
	if c.file.starts("trigger") == no {
		c.report(nil, RuleWorkflow, "no trigger can create a pipeline", `let workflow:rules admit the source "trigger"`)
	}
	if name := strings.Join(strings.Fields(interpolated.ReplaceAllString(c.file.Name, "<$1>")), " "); name != "release <app> <release_id>" {
		c.report(nil, RuleName, fmt.Sprintf("workflow:name is %q: `crossbill trigger` cannot find the pipeline again", c.file.Name), "set it to \"release $[[ inputs.app ]] $[[ inputs.release_id ]]\"")
	}
}
