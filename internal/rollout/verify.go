package rollout

import (
	"context"

	"github.com/our-org/crossbill/internal/release"
)

// RollbackError says that a verdict is in the ledger, and that the rollback which follows from it did not
// finish.
type RollbackError struct{ Err error }

func (e *RollbackError) Error() string { return e.Err.Error() }
func (e *RollbackError) Unwrap() error { return e.Err }

// Judge puts a verdict on the release in flight. With rollBack, an unhealthy one rolls it back in the same
// lock, which is then taken from whoever holds it: verdict and rollback are one write of the ledger. Errors:
// *StageError, *RollbackError, those of Rollback.
func (c *Cluster) Judge(ctx context.Context, v release.Verdict, rollBack bool) (Result, error) {
	rollBack = rollBack && v.Outcome == release.Unhealthy
	judging := *c
	judging.Takeover = c.Takeover || rollBack
	noted := false
	judged := command[struct{}]{
		name: "verify",
		look: func(_ context.Context, j *job) (struct{}, *Result, error) {
			if err := j.ledger.Expect(j.ReleaseID); err != nil {
				return struct{}{}, nil, err
			}
			if err := j.ledger.Judgeable(&v); err != nil { // before the lock is taken from somebody
				return struct{}{}, nil, &StageError{err}
			}
			if rollBack {
				j.goByLedger()
			}
			return struct{}{}, nil, nil
		},
		start: func(j *job, _ struct{}) error {
			if err := j.ledger.Judge(v, j.By, now()); err != nil {
				return &StageError{err}
			}
			if rollBack {
				return j.startRollback(v.Reason)
			}
			return nil
		},
		started: func() { noted = true },
		noted:   func(j *job) Result { return j.result("%s: %s", v.Outcome, v.Reason) },
	}
	if rollBack {
		judged.act = func(ctx context.Context, j *job, _ struct{}) (Result, error) { return j.rollback(ctx, v.Reason) }
	}
	result, err := run(ctx, &judging, judged)
	if err != nil && noted && rollBack {
		err = &RollbackError{err}
	}
	return result, err
}
