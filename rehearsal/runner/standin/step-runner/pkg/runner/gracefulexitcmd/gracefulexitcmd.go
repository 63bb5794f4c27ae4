// Package gracefulexitcmd runs the commands of FF_CONCRETE, which is off: the shell executor signals its own.
package gracefulexitcmd

import (
	"context"
	"errors"
	"os/exec"
	"time"
)

// New returns a command that fails.
func New(context.Context, time.Duration, string, ...string) *exec.Cmd {
	return &exec.Cmd{Err: errors.New("stand-in for step-runner: a job by FF_CONCRETE")}
}
