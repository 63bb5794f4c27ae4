// Package di would make step-runner's service, which the shell executor starts for the first job that needs it.
package di

import (
	"errors"
	"log/slog"

	"gitlab.com/gitlab-org/step-runner/pkg/runner"
)

// Container makes nothing.
type Container struct{}

// NewContainer returns one.
func NewContainer(...func(*Container)) *Container { return &Container{} }

// WithBuiltinFunc adds nothing.
func WithBuiltinFunc(string, runner.BuiltinFunction) func(*Container) { return nil }

// WithOperatorLogger adds nothing.
func WithOperatorLogger(*slog.Logger) func(*Container) { return nil }

// StepRunnerService refuses.
func (*Container) StepRunnerService() (any, error) {
	return nil, errors.New("stand-in for step-runner: a job with run:, or FF_CONCRETE")
}
