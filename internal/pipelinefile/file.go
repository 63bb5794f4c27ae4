// Package pipelinefile reads a .gitlab-ci.yml as GitLab does and proves what must hold for a release pipeline:
// nothing behind the approval gate runs before somebody has pressed it, rollback can be reached from every state,
// and nothing is deployed by tag.
//
// GitLab's schema accepts files that break all three: these are errors of meaning, not of form. The best known is
// `when: manual` at the job beside `rules` without `when`: the job is manual but not blocking, so that the jobs
// behind it run at once and the pipeline is green with nothing promoted.
//
// It reads the spec header, stages, default, workflow, hidden jobs, extends, anchors, !reference, rules, needs,
// when, allow_failure. It does not see jobs from include, which is a finding.
package pipelinefile

// File is a pipeline file with everything that is inherited filled in.
type File struct {
	Inputs   map[string]Input
	Name     string // workflow:name
	Workflow []Rule
	Stages   []string
	Jobs     []Job // in the file's order, without hidden ones

	variables map[string]any
	included  bool

	cancelsOnFailure bool // workflow:auto_cancel:on_job_failure: all
}

// Input is one of spec:inputs.
type Input struct {
	Type    string   `yaml:"type"`
	Regex   string   `yaml:"regex"`
	Options []string `yaml:"options"`
	Default *string  `yaml:"default"`
}

// Rule is one of rules.
type Rule struct {
	If           string `yaml:"if"`
	When         string `yaml:"when"`
	AllowFailure *bool  `yaml:"allow_failure"`

	conditional bool // it has an if, or changes, or exists
}

// Job is a job as written; Behaviors says what GitLab makes of it.
type Job struct {
	Name  string
	Line  int
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

	variables map[string]any
	optional  []string // needs that may be missing from a pipeline
	exitCodes []int    // allow_failure:exit_codes
}

// Environment is a job's environment.
type Environment struct {
	Name   string `yaml:"name"`
	Action string `yaml:"action"`
}

// Behavior is what GitLab makes of when, allow_failure and one matching rule.
type Behavior struct {
	When         string // on_success, on_failure, always, manual, delayed; never: the job is left out
	AllowFailure bool
}

// Behaviors are the ways in which a job can be in a pipeline, one for each rule that may match.
func (j *Job) Behaviors() []Behavior {
	when := j.When
	if when == "" {
		when = "on_success"
	}
	// allow_failure is decided by the job-level `when` alone; a rule changes it only by its own
	// allow_failure. That is why a job-level `when: manual` beside rules does not block.
	allow := when == "manual"
	if j.AllowFailure != nil {
		allow = *j.AllowFailure
	}
	if !j.HasRules {
		return []Behavior{{when, allow}}
	}
	var found []Behavior
	for _, rule := range j.Rules {
		b := Behavior{when, allow}
		if rule.When != "" {
			b.When = rule.When
		}
		if rule.AllowFailure != nil {
			b.AllowFailure = *rule.AllowFailure
		}
		found = append(found, b)
		if !rule.conditional {
			return found
		}
	}
	return append(found, Behavior{When: "never"}) // no rule matched
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
