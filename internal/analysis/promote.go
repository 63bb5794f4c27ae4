package analysis

import (
	"context"
	"errors"

	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// Promoter puts a release on primary. A verdict that is too old is a *rollout.StaleVerdictError.
type Promoter interface {
	Promote(ctx context.Context) (rollout.Result, error)
}

// Promote promotes. A canary whose verdict is too old is judged first, on and not anew: the record of its last verdict
// goes on, with the requests since then. by says by what; nil when there is no Prometheus, and then it is refused.
//
// Errors: as of Promoter, and as of Verify beside an outcome with the verdict: nothing was promoted.
func Promote(ctx context.Context, p Promoter, by func() (Options, error)) (Outcome, error) {
	result, err := p.Promote(ctx)
	stale := new(rollout.StaleVerdictError)
	if !errors.As(err, &stale) {
		return Outcome{Result: result}, err
	}
	if by == nil {
		return Outcome{}, &usererr.Error{
			Field: "promote.maxVerdictAge", Problem: stale.Error(),
			Fix: "give --prometheus, so that promote judges the canary again, or run verify --again; 0 accepts a verdict of any age",
		}
	}
	o, err := by()
	if err != nil {
		return Outcome{}, err
	}
	if o.Warn != nil {
		o.Warn(stale.Error() + ": judging again")
	}
	o.Again = true
	came, err := Verify(ctx, o)
	if err != nil {
		return came, err
	}
	came.Result, err = p.Promote(ctx)
	return came, err
}
