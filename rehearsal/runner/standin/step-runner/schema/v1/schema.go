// Package schema has the steps of a job with `run:`, as the coordinator sends them: a job with `script:` has none.
package schema

// Step is one of them.
type Step struct {
	Name   *string
	Step   any
	Inputs StepInputs
	Run    []Step
}

// StepInputs are its inputs.
type StepInputs map[string]any
