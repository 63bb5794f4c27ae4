// Package moa stands in for GitLab's expression language, in which a job's inputs are written: `${{ … }}`. The coordinator sends
// no job inputs, and then the runner reads no text as a template.
package moa

import (
	"errors"

	"gitlab.com/gitlab-org/moa/ast"
)

// ParseTemplate is asked only where a job has inputs.
func ParseTemplate(string) (ast.Expr, error) {
	return nil, errors.New("stand-in for moa: a job with inputs")
}

// EscapeTemplate is asked only with FF_CONCRETE, which is off.
func EscapeTemplate(string) string { panic("stand-in for moa: a job by FF_CONCRETE") }
