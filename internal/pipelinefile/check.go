package pipelinefile

import (
	"fmt"
	"slices"
	"strings"
)

// Options name the jobs that have a part in a release.
type Options struct {
	Gate     string // the approval gate; default promote_to_production
	Canary   string // default deploy_canary
	Verify   string // default verify_canary
	Rollback string // prefix of the names of the rollback jobs; default rollback
}

func (o Options) withDefaults() Options {
	for field, value := range map[*string]string{&o.Gate: "promote_to_production", &o.Canary: "deploy_canary", &o.Verify: "verify_canary", &o.Rollback: "rollback"} {
		if *field == "" {
			*field = value
		}
	}
	return o
}

// Finding is a rule that a file breaks.
type Finding struct {
	Line    int    `json:"line,omitempty"`
	Rule    string `json:"rule"`
	Job     string `json:"job,omitempty"`
	Problem string `json:"problem"`
	Fix     string `json:"fix"`
}

func (f Finding) String() string {
	where := ""
	if f.Line > 0 {
		where = fmt.Sprintf("line %d: ", f.Line)
	}
	if f.Job != "" {
		where += f.Job + ": "
	}
	return fmt.Sprintf("%s%s (%s); %s", where, f.Problem, f.Rule, f.Fix)
}

// The rules that a file is checked against.
const (
	RuleIncluded     = "included-jobs-are-not-seen"
	RuleMissing      = "job-is-missing"
	RuleGateBlocks   = "gate-blocks"
	RuleNothingAfter = "nothing-behind-the-gate-runs-before-it"
	RuleGreen        = "green-means-promoted"
	RuleRollback     = "rollback-is-reachable"
	RuleNotBlocking  = "only-the-gate-blocks"
	RuleRollsBack    = "failure-rolls-back"
	RuleByDigest     = "deployed-by-digest"
	RuleInput        = "input-is-tight"
	RuleOverridable  = "trigger-cannot-override"
	RuleOneByOne     = "one-by-one"
	RuleEnvironment  = "environments-are-distinct"
	RuleRetry        = "retry-is-safe"
	RuleWorkflow     = "started-on-purpose"
	RuleName         = "named-by-release"
	RuleTooLarge     = "too-large-to-prove"
)

// Bounds of a proof.
const (
	mostPipelines = 256
	mostStates    = 1_000_000 // of all of them together
)

// Check finds what is wrong with a pipeline file. No finding is a proof, for every set of matching rules and every
// order of events, that what the package comment promises holds.
func Check(f *File, o Options) []Finding {
	c := &checker{file: f, options: o.withDefaults(), seen: map[string]bool{}}
	if f.included {
		c.report(nil, RuleIncluded, "jobs from include are not checked", "check the merged file that GitLab's pipeline editor shows")
	}
	for _, name := range []string{c.options.Gate, c.options.Canary, c.options.Verify} {
		if f.Job(name) == nil {
			c.report(nil, RuleMissing, fmt.Sprintf("there is no job %q", name), "add it, or give the name of the job that does its work")
		}
	}
	c.gate()
	c.order()
	c.jobs()
	c.inputs()
	c.workflow()
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return a.Line - b.Line })
	return c.findings
}

type checker struct {
	file     *File
	options  Options
	findings []Finding
	seen     map[string]bool
}

// report adds a finding, the first of each rule and job.
func (c *checker) report(job *Job, rule, problem, fix string) {
	f := Finding{Rule: rule, Problem: problem, Fix: fix}
	if job != nil {
		f.Job, f.Line = job.Name, job.Line
	}
	key := rule + "\n" + f.Job
	if rule == RuleMissing || rule == RuleInput || rule == RuleOverridable {
		key += "\n" + problem
	}
	if !c.seen[key] {
		c.seen[key] = true
		c.findings = append(c.findings, f)
	}
}

func (c *checker) isRollback(name string) bool { return strings.HasPrefix(name, c.options.Rollback) }
