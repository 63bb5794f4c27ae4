// Package doctor looks whether what a release needs is in place, before there is a release. It changes nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

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

	After string // the check that has to have ended before; "" for none
	Needs string // the check that has to have ended well: else this one is unknown
}

// Bound is how long all checks together may take. What has not ended by then could not be looked at.
const Bound = 4 * time.Second

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

// Run carries out the checks side by side, within Bound, and gives what they have come to in their order. named is an option
// as its user knows it.
func Run(ctx context.Context, checks []Check, named func(field string) string) []Finding {
	ctx, cancel := context.WithTimeout(ctx, Bound)
	defer cancel()
	ended := map[string]chan struct{}{}
	for _, check := range checks {
		ended[check.Name] = make(chan struct{})
	}
	results := make([]result, len(checks))
	failed := func(name string) bool {
		return slices.ContainsFunc(checks, func(c Check) bool { return c.Name == name }) &&
			results[slices.IndexFunc(checks, func(c Check) bool { return c.Name == name })].err != nil
	}
	var all sync.WaitGroup
	for i, check := range checks {
		all.Go(func() {
			defer close(ended[check.Name])
			for _, before := range []string{check.After, check.Needs} {
				if before != "" && ended[before] != nil {
					<-ended[before]
				}
			}
			if failed(check.Needs) {
				results[i].err = &UnknownError{"see " + check.Needs + " first"}
				return
			}
			results[i] = within(ctx, check)
		})
	}
	all.Wait()
	var findings []Finding
	for i, check := range checks {
		for _, detail := range results[i].found {
			findings = append(findings, Finding{Check: check.Name, Status: OK, Detail: detail})
		}
		for _, one := range apart(results[i].err) {
			if f := finding(check.Name, one, named); !said(findings, f) {
				findings = append(findings, f)
			}
		}
	}
	return findings
}

// said says whether an earlier check has found the same problem.
func said(findings []Finding, f Finding) bool {
	return f.Status == Problem && f.Failure == nil && slices.ContainsFunc(findings, func(before Finding) bool {
		return before.Status == Problem && before.Check != f.Check && before.Detail == f.Detail
	})
}

// result is what a check gives.
type result struct {
	found []string
	err   error
}

// within runs a check, and does not wait for one that does not look at its context.
func within(ctx context.Context, check Check) result {
	if ctx.Err() != nil {
		return result{err: errSlow}
	}
	done := make(chan result, 1)
	go func() {
		found, err := check.Run(ctx)
		done <- result{found, err}
	}()
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
	}
	select {
	case r := <-done: // it has ended at the same time, and may know why nothing came
		return r
	case <-time.After(slowly):
		return result{err: errSlow}
	}
}

// slowly is how long after Bound a check may still say why it has no answer.
const slowly = 200 * time.Millisecond

var errSlow = fmt.Errorf("there was no answer within %s", Bound)

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
