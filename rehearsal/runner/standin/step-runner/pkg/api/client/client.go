// Package client has what the runner asks of step-runner, which runs the steps of a job with `run:`. A job with `script:` has
// none.
package client

import "time"

// RunRequest asks for steps.
type RunRequest struct {
	Id, WorkDir, BuildDir, Steps string
	Timeout                      *time.Duration
	Env                          map[string]string
	Variables                    []Variable
}

// Variable is one of the job's.
type Variable struct {
	Key, Value   string
	File, Masked bool
}

// State is how steps ended.
type State int

// The states that the runner knows.
const (
	StateSuccess State = iota
	StateCancelled
)

func (State) String() string { return "stand-in" }

// ErrorKind is why they failed.
type ErrorKind int

// The kinds that the runner knows.
const (
	ErrorUnknown ErrorKind = iota
	ErrorInternal
	ErrorStepFailure
	ErrorCancelled
	ErrorTimeout
)

// Status is the answer.
type Status struct {
	State     State
	Message   string
	ErrorKind ErrorKind
}
