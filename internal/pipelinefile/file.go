// Package pipelinefile reads a .gitlab-ci.yml as GitLab does and proves what must hold for a release pipeline:
// nothing behind the approval gate runs before somebody has pressed it, rollback can be reached from every state,
// and nothing is deployed by tag.
//
// GitLab's schema accepts files that break all three: these are errors of meaning, not of form. The best known is
// `when: manual` at the job beside `rules` without `when`: the job is manual but not blocking, so that the jobs
// behind it run at once and the pipeline is green with nothing promoted.
//
// It fails closed: what a job does is decided by its script, not by its name, and a keyword, a form or a command that
// is not understood is a finding, unless the job is certainly behind the gate. Files from include are merged as GitLab
// merges them; one that is not seen is a finding too.
package pipelinefile

import (
	"fmt"
	"slices"
)

// File is a pipeline file with everything that is inherited filled in.
type File struct {
	Inputs   map[string]Input
	Name     string // workflow:name
	Workflow []Rule
	Stages   []string
	Jobs     []Job // in the file's order, without hidden ones

	parts            []*part // the file, and those that it includes
	variables        *yamlValue
	workflow, stages *yamlValue
	included         bool // some of its jobs are not seen
	cancelsLine      int
	cancelsOnFailure bool // workflow:auto_cancel:on_job_failure, or that of one of the workflow's rules
	problems         []problem

	when     string  // the inputs that were put in
	variants []*File // the same file with other values of them
}

// problem notes something that is not understood.
func (f *File) problem(job *Job, line int, keyword, format string, args ...any) {
	p := problem{line: line, keyword: keyword, text: fmt.Sprintf(format, args...)}
	if job != nil {
		p.job = job.Name
	}
	f.problems = append(f.problems, p)
}

// Rule is one of rules.
type Rule struct {
	If           string
	When         string
	AllowFailure *bool

	line          int
	interruptible *bool
	needs         []need
	hasNeeds      bool
	variables     *yamlValue
	conditional   bool   // it has an if, or changes, or exists
	files         string // changes and exists, "" without
}

// need is one of needs.
type need struct {
	name     string
	optional bool
	matrix   []map[string][]string // the instances of a parallel job; nil for all
}

// Job is a job as written; Behaviors says what GitLab makes of it.
type Job struct {
	Name  string
	Line  int // see Place
	Stage string

	When          string // "" when not written
	AllowFailure  *bool  // nil when not written; allow_failure:exit_codes counts as false
	Rules         []Rule
	HasRules      bool
	Needs         []string
	HasNeeds      bool // needs: [] starts the job at once
	Script        []string
	Interruptible *bool
	ResourceGroup string
	Environment   Environment
	RetryWhen     []string // nil without retry; "always" without retry:when
	Trigger       bool     // it starts a child pipeline

	values    *yamlValue // everything, with what is inherited
	needs     []need
	exitCodes []int  // allow_failure:exit_codes
	refs      string // only and except, "" without
	variables *yamlValue
	instances []instance // of parallel, nil without
	of        *Job       // the job in the file, for an instance of it
}

// Environment is a job's environment.
type Environment struct {
	Name   string
	Action string

	onStop   string
	autoStop bool
}

// written is the job as it is in the file: an instance of a parallel job has a name of its own.
func (j *Job) written() *Job {
	if j.of != nil {
		return j.of
	}
	return j
}

// allNeeds are the needs of a job, and those that its rules put in their place.
func (j *Job) allNeeds() [][]need {
	all := [][]need{j.needs}
	for _, rule := range j.Rules {
		all = append(all, rule.needs)
	}
	return all
}

// Behavior is what GitLab makes of when, allow_failure and one matching rule.
type Behavior struct {
	When         string // on_success, on_failure, always, manual, delayed; never: the job is left out
	AllowFailure bool
}

// Behaviors are the ways in which a job can be in a pipeline, one for each rule that may match.
func (j *Job) Behaviors() []Behavior {
	if !j.HasRules {
		return []Behavior{j.behavior(nil)}
	}
	var found []Behavior
	for i := range j.Rules {
		found = append(found, j.behavior(&j.Rules[i]))
		if !j.Rules[i].conditional {
			return found
		}
	}
	return append(found, Behavior{When: "never"}) // no rule matched
}

// leftOut says whether no pipeline has the job: a file leaves out a job that it includes by `rules: [{when: never}]`.
func (j *Job) leftOut() bool {
	return !slices.ContainsFunc(j.Behaviors(), func(b Behavior) bool { return b.When != "never" })
}

// behavior is what a job is when a rule matches; nil for a job without rules.
func (j *Job) behavior(rule *Rule) Behavior {
	b := Behavior{When: j.When}
	if b.When == "" {
		b.When = "on_success"
	}
	// allow_failure is decided by the job-level `when` alone; a rule changes it only by its own
	// allow_failure. That is why a job-level `when: manual` beside rules does not block.
	b.AllowFailure = b.When == "manual"
	if j.AllowFailure != nil {
		b.AllowFailure = *j.AllowFailure
	}
	if rule != nil && rule.When != "" {
		b.When = rule.When
	}
	if rule != nil && rule.AllowFailure != nil {
		b.AllowFailure = *rule.AllowFailure
	}
	return b
}

// Job gives a job by name, nil when there is none.
func (f *File) Job(name string) *Job {
	for i := range f.Jobs {
		if f.Jobs[i].Name == name {
			return &f.Jobs[i]
		}
	}
	return nil
}
