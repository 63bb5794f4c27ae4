package main

import (
	"errors"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// Exit codes, documented in docs/reference/exit-codes.md.
const (
	exitFailure      = 1 // a dependency failed; the message says what is safe to do next
	exitBadInput     = 2 // bad input, or a command that the present stage does not allow; nothing was changed
	exitUnhealthy    = 3 // the canary is unhealthy, or a hook failed; it was rolled back, unless --no-rollback
	exitInconclusive = 4 // too little evidence; the canary keeps its weight
	exitLockHeld     = 5 // another release is in flight or has its turn, or another job has taken the lock
	exitDeadline     = 6 // pods were not ready in time; rolled back
	exitWaiting      = 7 // the pipeline waits for an approver
	exitTimeOver     = 8 // the time of the job is over; the same command goes on from there
)

// exitError carries an exit code that its error's type does not have.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// joined are errors that have nothing to do with each other. They end the command with the exit code of the first one.
func joined(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return &exitError{exitCode(err), errors.Join(errs...)}
		}
	}
	return nil
}

// exitCode is the exit code that an error ends the command with.
func exitCode(err error) int {
	var coded *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, new(*analysis.UnhealthyError)), errors.As(err, new(*rollout.HookError)):
		return exitUnhealthy
	case errors.As(err, new(*analysis.InconclusiveError)):
		return exitInconclusive
	case errors.As(err, new(*analysis.NotReadyError)):
		return exitDeadline
	case errors.As(err, new(*analysis.TimeOverError)):
		return exitTimeOver
	case errors.Is(err, rollout.ErrLockLost), errors.As(err, new(*release.InFlightError)), errors.As(err, new(*rollout.LockHeldError)),
		errors.As(err, new(*release.InLineError)), errors.As(err, new(*rollout.WaitedError)):
		return exitLockHeld
	case errors.As(err, new(*usererr.Error)), errors.As(err, new(*rollout.StageError)), errors.As(err, new(*release.NewerLedgerError)):
		return exitBadInput
	default:
		return exitFailure
	}
}
