// Package proto has the names of step-runner's messages.
package proto

// Spec describes a function.
type Spec struct{ Spec *Spec_Content }

// Spec_Content is what it takes.
type Spec_Content struct {
	Inputs map[string]*Spec_Content_Input
}

// Spec_Content_Input is one of them.
type Spec_Content_Input struct{ Type ValueType }

// ValueType is an input's.
type ValueType int

// ValueType_string is the one that is used.
const ValueType_string ValueType = 0

// RegisterStepRunnerServer is not reached: there is no service.
func RegisterStepRunnerServer(any, any) { panic("stand-in for step-runner") }
