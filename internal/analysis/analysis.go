// Package analysis is what needs both a verdict and a rollout: it judges a release and does what follows from
// the verdict. It promises that too little evidence, and a release that somebody else has changed meanwhile,
// are never healthy; that an unhealthy release is rolled back unless the caller forbids it; and that whatever
// is rolled back is the release that was judged.
//
// Errors say how the release turned out: *UnhealthyError, *InconclusiveError and *NotReadyError. Any other error
// is a dependency's that failed, or the state of the release does not allow the command (as in package rollout).
package analysis

import (
	"context"
	"errors"
	"fmt"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

// Rollout is what the analysis needs of the release in flight.
type Rollout interface {
	Status(ctx context.Context) (*rollout.Status, error)
	// Judge notes a verdict in the ledger and, if rollback is set and it is unhealthy, rolls the release back.
	// The result is the rollback's when there was one. A rollback that did not finish is a *rollout.RollbackError.
	Judge(ctx context.Context, v release.Verdict, rollback bool) (rollout.Result, error)
	// Rollback rolls a release back, and no other one. urgent: its callers get errors.
	Rollback(ctx context.Context, releaseID, reason string, urgent bool) (rollout.Result, error)
	// Witness watches the tracks' pods until ctx ends, and what becomes of the release that is judged.
	Witness(ctx context.Context, r *release.Release) (Witness, error)
}

// Witness says what the pods show, and whether the release is still what is judged.
type Witness interface {
	Look() (rollout.Witnessed, error)
	// Live is where the release is, and what somebody else has changed of it.
	Live(ctx context.Context) (*rollout.Status, error)
}

// Of is a cluster as the analysis needs it.
func Of(c *rollout.Cluster) Stepper { return cluster{c} }

type cluster struct{ *rollout.Cluster }

// Status leaves the lock out: nobody asks here who has it.
func (c cluster) Status(ctx context.Context) (*rollout.Status, error) { return c.Live(ctx) }

func (c cluster) Rollback(ctx context.Context, releaseID, reason string, urgent bool) (rollout.Result, error) {
	c.ReleaseID, c.Urgent = releaseID, urgent
	return c.Cluster.Rollback(ctx, reason)
}

func (c cluster) Witness(ctx context.Context, r *release.Release) (Witness, error) {
	return c.Cluster.Witness(ctx, r)
}

// Outcome is the result of an analysis.
type Outcome struct {
	rollout.Result
	Verdict *verdict.Verification // nil when there was nothing to judge
}

// UnhealthyError says that a release was judged unhealthy, and what followed from it.
type UnhealthyError struct {
	Reason string
	Then   string // what was done about it; may be empty
	Err    error  // why rolling back did not finish, if it did not
}

func (e *UnhealthyError) Error() string {
	text := "unhealthy: " + e.Reason
	if e.Then != "" {
		text += "\n" + e.Then
	}
	if e.Err != nil {
		text += fmt.Sprintf("\nrolling back did not finish: %v; run `crossbill rollback`", e.Err)
	}
	return text
}

func (e *UnhealthyError) Unwrap() error { return e.Err }

// InconclusiveError says that the evidence was not enough for a verdict, and what may be done next.
type InconclusiveError struct {
	Reason string
	Next   string
	Err    error // what could not be read, if it was an error
}

func (e *InconclusiveError) Error() string { return "inconclusive: " + e.Reason + "; " + e.Next }
func (e *InconclusiveError) Unwrap() error { return e.Err }

// NotReadyError says that pods did not become ready in time, and what followed from it.
type NotReadyError struct {
	Cause error  // a *rollout.NotReadyError
	Then  string // what was done about it; empty when rolling back did not finish
	Err   error  // why it did not finish
}

func (e *NotReadyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%v\nrolling back did not finish: %v; run `crossbill rollback`", e.Cause, e.Err)
	}
	return fmt.Sprintf("%v\nrolled back: %s", e.Cause, e.Then)
}

func (e *NotReadyError) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Cause, e.Err}
	}
	return []error{e.Cause}
}

// RollBackUnready rolls a release back whose pods did not become ready in time: cause is then a
// *rollout.NotReadyError, and the error a *NotReadyError. Any other cause is given back as it is, as is every
// one after ctx has ended.
func RollBackUnready(ctx context.Context, r Rollout, cause error) error {
	var notReady *rollout.NotReadyError
	if !errors.As(cause, &notReady) || ctx.Err() != nil {
		return cause
	}
	result, err := r.Rollback(ctx, notReady.ReleaseID, notReady.Deployment+": "+notReady.Reason, false)
	if err != nil {
		return &NotReadyError{Cause: cause, Err: err}
	}
	return &NotReadyError{Cause: cause, Then: result.Message}
}
