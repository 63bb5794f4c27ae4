// Package doctor looks whether what a release needs is in place, before there is a release. It changes nothing.
package doctor

import (
	"context"
	"errors"

	"github.com/our-org/crossbill/internal/usererr"
)

// Status is what a check has come to.
type Status string

// The three of them. What is unknown blocks nothing.
const (
	OK      Status = "ok"
	Problem Status = "problem"
	Unknown Status = "unknown"
)

// Check is one thing to look at. Run gives what it has found out, a line each. A *usererr.Error of it, or several that are
// joined, is a problem with its fix; an *UnknownError says that it cannot be known; any other one that it could not be looked
// at.
type Check struct {
	Name string
	Run  func(context.Context) (found []string, err error)
}

// UnknownError says why something cannot be known here, and how it shows.
type UnknownError struct{ Why string }

func (e *UnknownError) Error() string { return e.Why }

// Finding is one line of what the checks have come to.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`

	// Failure is why a check could not look at what it is about; nil for one that has.
	Failure error `json:"-"`
}

// Run carries out the checks in their order. named is an option as its user knows it.
func Run(ctx context.Context, checks []Check, named func(field string) string) []Finding {
	var findings []Finding
	for _, check := range checks {
		found, err := check.Run(ctx)
		for _, detail := range found {
			findings = append(findings, Finding{Check: check.Name, Status: OK, Detail: detail})
		}
		for _, one := range apart(err) {
			findings = append(findings, finding(check.Name, one, named))
		}
	}
	return findings
}

func finding(check string, err error, named func(string) string) Finding {
	if unknown, ok := errors.AsType[*UnknownError](err); ok {
		return Finding{Check: check, Status: Unknown, Detail: unknown.Why}
	}
	if input, ok := errors.AsType[*usererr.Error](err); ok {
		return Finding{Check: check, Status: Problem, Detail: named(input.Field) + ": " + input.Problem, Fix: input.Fix}
	}
	return Finding{Check: check, Status: Problem, Detail: err.Error(), Failure: err}
}

// apart are the errors that were joined.
func apart(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, apart(one)...)
	}
	return all
}
