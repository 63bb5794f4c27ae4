package rollout

import (
	"context"
	"fmt"

	"github.com/our-org/crossbill/internal/release"
)

// Hold keeps new releases of the app from starting until Resume. What is in flight goes on.
func (c *Cluster) Hold(ctx context.Context, reason string) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "hold",
		look: func(_ context.Context, j *job) (struct{}, *Result, error) {
			if j.ledger.Hold != nil {
				return struct{}{}, j.nothing("the app is %s: nothing to do", j.ledger.Hold), nil
			}
			return struct{}{}, nil, nil
		},
		start: func(j *job, _ struct{}) error {
			j.ledger.Hold = &release.Hold{By: j.By, Since: now(), Reason: reason}
			return nil
		},
		noted: func(j *job) Result {
			result := j.result("no new release starts until `crossbill resume`")
			if r := j.ledger.Release; r != nil {
				result.Message += fmt.Sprintf("; release %s, in flight, goes on", r.ID)
			}
			result.Release = nil // it is not about one
			return result
		},
	})
}

// Resume lets new releases of the app start again.
func (c *Cluster) Resume(ctx context.Context) (Result, error) {
	return run(ctx, c, command[struct{}]{
		name: "resume",
		look: func(_ context.Context, j *job) (struct{}, *Result, error) {
			if j.ledger.Hold == nil {
				return struct{}{}, j.nothing("the app is not on hold: nothing to do"), nil
			}
			return struct{}{}, nil, nil
		},
		start: func(j *job, _ struct{}) error {
			j.log("ledger", "the app was %s", j.ledger.Hold)
			j.ledger.Hold = nil
			return nil
		},
		noted: func(j *job) Result {
			result := j.result("the app is not on hold any more: releases can start again")
			result.Release = nil // it is not about one
			return result
		},
	})
}

// held refuses a new release of an app that is on hold.
func (j *job) held() error {
	if j.ledger.Hold == nil {
		return nil
	}
	return &StageError{fmt.Errorf("the app is %s; `crossbill resume` lets releases start again; nothing was changed", j.ledger.Hold)}
}
