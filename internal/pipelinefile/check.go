package pipelinefile

import (
	"cmp"
	"fmt"
	"slices"
)

// Options name the jobs that have a part in a release.
type Options struct {
	Gate     string // the approval gate; default promote_to_production
	Canary   string // default deploy_canary
	Verify   string // default verify_canary
	Rollback string // prefix of the names of the rollback jobs whose scripts cannot be read; default rollback
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
	File    string `json:"-"` // that is included, "" for the file itself
	Line    int    `json:"line,omitempty"`
	Rule    string `json:"rule"`
	Job     string `json:"job,omitempty"`
	Keyword string `json:"keyword,omitempty"`
	Problem string `json:"problem"`
	Fix     string `json:"fix"`
}

func (f Finding) String() string {
	where := ""
	if f.File != "" {
		where = f.File + ": "
	}
	if f.Line > 0 {
		where += fmt.Sprintf("line %d: ", f.Line)
	}
	if f.Job != "" {
		where += f.Job + ": "
	}
	return fmt.Sprintf("%s%s (%s); %s", where, f.Problem, f.Rule, f.Fix)
}

// The rules that a file is checked against.
const (
	RuleNotUnderstood = "not-understood"
	RuleIncluded      = "included-jobs-are-not-seen"
	RuleIncludedInput = "included-inputs-are-valid"
	RuleMissing       = "job-is-missing"
	RuleGateBlocks    = "gate-blocks"
	RuleVerified      = "gate-waits-for-verify"
	RuleNothingAfter  = "nothing-behind-the-gate-runs-before-it"
	RuleGreen         = "green-means-promoted"
	RuleRollback      = "rollback-is-reachable"
	RuleNotBlocking   = "only-the-gate-blocks"
	RuleRollsBack     = "failure-rolls-back"
	RuleByDigest      = "deployed-by-digest"
	RuleInput         = "input-is-tight"
	RuleOverridable   = "trigger-cannot-override"
	RuleOneByOne      = "one-by-one"
	RuleEnvironment   = "environments-are-distinct"
	RuleRetry         = "retry-is-safe"
	RuleWorkflow      = "started-on-purpose"
	RuleName          = "named-by-release"
	RuleOperator      = "approved-by-a-person"
	RulePreviews      = "previews-release-nothing"
	RuleTooLarge      = "too-large-to-prove"
)

// Bounds of a proof.
const (
	mostPipelines = 256
	mostStates    = 1_000_000 // of all of them together
)

// Check finds what is wrong with a pipeline file. No finding is a proof, for every set of matching rules, every value
// of an input and every order of events, that what the package comment promises holds.
func Check(f *File, o Options) []Finding {
	c := &checker{options: o.withDefaults(), seen: map[string]bool{}, budget: mostStates}
	for _, one := range append([]*File{f}, f.variants...) {
		c.file = one
		c.check()
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return cmp.Compare(a.Line, b.Line) })
	for i := range c.findings {
		c.findings[i].File, c.findings[i].Line = f.place(c.findings[i].Line)
	}
	return c.findings
}

type checker struct {
	file           *File
	options        Options
	canary, verify string // names of the jobs
	roles          map[string]role
	findings       []Finding
	seen           map[string]bool
	budget         int
}

// check checks one file: one value of each input that decides about jobs.
func (c *checker) check() {
	c.roles = map[string]role{}
	for i := range c.file.Jobs {
		c.roles[c.file.Jobs[i].Name] = roleOf(c.file, &c.file.Jobs[i])
	}
	if c.ofPreviews() {
		c.problems()
		c.previewsAlone()
		c.jobs()
		c.inputs()
		c.workflow()
		return
	}
	c.noPreviews()
	usual := Options{}.withDefaults()
	c.canary, c.verify = c.named(c.options.Canary, usual.Canary, "canary"), c.named(c.options.Verify, usual.Verify, following, "verify")
	c.missing()
	c.problems()
	c.gate()
	c.stops()
	c.order()
	c.jobs()
	c.outcomes()
	c.rollbacks()
	c.promoted()
	c.inputs()
	c.workflow()
}

// missing checks that all is there to be looked at.
func (c *checker) missing() {
	for _, name := range []string{c.named(c.options.Gate, Options{}.withDefaults().Gate, "promote"), c.canary, c.verify} {
		if c.file.Job(name) == nil {
			c.report(nil, RuleMissing, fmt.Sprintf("there is no job %q", name), "add it, or give the name of the job that does its work")
		}
	}
}

// problems reports what was not understood while the file was read.
func (c *checker) problems() {
	for _, p := range c.file.problems {
		job := c.file.Job(p.job)
		if p.minor && job != nil && !c.roleOf(job).acts() {
			continue
		}
		c.add(Finding{Line: p.line, Rule: cmp.Or(p.rule, RuleNotUnderstood), Job: p.job, Keyword: p.keyword, Problem: p.text, Fix: cmp.Or(p.fix, "write it in a form that is understood, or leave it out")}, p.text)
	}
}

// report adds a finding, the first of each rule and job.
func (c *checker) report(job *Job, rule, problem, fix string) {
	f := Finding{Rule: rule, Problem: problem, Fix: fix}
	if job != nil {
		f.Job, f.Line = job.written().Name, job.written().Line
	}
	key := ""
	if rule == RuleMissing || rule == RuleInput || rule == RuleOverridable {
		key = problem
	}
	c.add(f, key)
}

// reportAt adds a finding about a line of a job's, the first of each rule, job, line and problem.
func (c *checker) reportAt(job *Job, line int, keyword, rule, problem, fix string) {
	f := Finding{Line: line, Rule: rule, Keyword: keyword, Problem: problem, Fix: fix}
	if job != nil {
		f.Job = job.written().Name
		if line == 0 {
			f.Line = job.written().Line
		}
	}
	c.add(f, fmt.Sprint(f.Line, problem))
}

func (c *checker) add(f Finding, key string) {
	key = f.Rule + "\n" + f.Job + "\n" + key
	if c.seen[key] {
		return
	}
	c.seen[key] = true
	if c.file.when != "" && f.Rule != RuleNotUnderstood && f.Keyword != "include" {
		f.Problem += " (when input " + c.file.when + ")"
	}
	c.findings = append(c.findings, f)
}
