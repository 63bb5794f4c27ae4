// Package verdict judges a canary by what its callers saw. It counts requests from raw counters, and
// compares shares with thresholds over a window. It promises that too few requests, missing or
// unreadable metrics are never a healthy verdict.
//
// The mathematics (Window, Thresholds.Judge) is pure; reading Prometheus is in source.go.
package verdict

import (
	"fmt"
	"time"

	"github.com/our-org/crossbill/release"
)

// Counts are the events of one track over some time.
type Counts struct {
	Requests float64 `json:"requests"`
	Errors   float64 `json:"errors"` // answered 5xx, or not at all
	Timed    float64 `json:"timed"`  // requests with a measured time
	Slow     float64 `json:"slow"`   // of these, slower than the latency threshold
}

// SuccessRatio is the share of requests that were answered without a server error, from 0 to 1.
func (c Counts) SuccessRatio() float64 {
	if c.Requests == 0 {
		return 0
	}
	return 1 - c.Errors/c.Requests
}

// SlowRatio is the share of timed requests over the latency threshold, from 0 to 1.
func (c Counts) SlowRatio() float64 {
	if c.Timed == 0 {
		return 0
	}
	return c.Slow / c.Timed
}

// Series is the raw value of each counter at one time, by its labels. Values only grow, but for
// resets.
type Series map[string]float64

// Increase is by how much each counter has grown from an earlier reading. A series that was not there
// before started at 0, as a counter does: the first error of a canary is born with its series. A
// counter that fell was reset and started at 0 again.
func (s Series) Increase(earlier Series) Series {
	grown := Series{}
	for key, value := range s {
		before := earlier[key]
		if value < before {
			before = 0
		}
		grown[key] = value - before
	}
	return grown
}

// Add adds the counts of two spans of time.
func (c Counts) Add(d Counts) Counts {
	return Counts{c.Requests + d.Requests, c.Errors + d.Errors, c.Timed + d.Timed, c.Slow + d.Slow}
}

// Thresholds say what is healthy.
type Thresholds struct {
	Window      time.Duration `json:"window"`      // how long the canary is watched
	MinRequests float64       `json:"minRequests"` // fewer prove nothing
	MinSuccess  float64       `json:"minSuccess"`  // share from 0 to 1
	Latency     time.Duration `json:"latency"`     // what is slow; a bound of the histogram's buckets
	MaxSlow     float64       `json:"maxSlow"`     // share from 0 to 1
}

// Check refuses thresholds that mean nothing.
func (t Thresholds) Check() error {
	switch {
	case t.Window <= 0:
		return &release.InputError{Field: "--window", Problem: fmt.Sprintf("%s is not a time to watch", t.Window), Fix: "give for example 1m"}
	case t.MinRequests < 1:
		return &release.InputError{Field: "--min-requests", Problem: fmt.Sprintf("%g requests prove nothing", t.MinRequests), Fix: "give at least 1"}
	case t.MinSuccess <= 0 || t.MinSuccess > 1:
		return &release.InputError{Field: "--min-success", Problem: "it is not a percentage above 0 and up to 100", Fix: "give for example 99"}
	case t.Latency <= 0:
		return &release.InputError{Field: "--latency-ms", Problem: "it is not a time", Fix: "give a bucket bound of the histogram, for example 500"}
	case t.MaxSlow < 0 || t.MaxSlow > 1:
		return &release.InputError{Field: "--max-slow", Problem: "it is not a percentage from 0 to 100", Fix: "give for example 5"}
	}
	return nil
}

// Judge compares a canary's counts with the thresholds. final says that the window is over; before
// that only an unhealthy verdict is given, and decided is false otherwise.
func (t Thresholds) Judge(canary Counts, final bool) (outcome release.VerdictOutcome, reason string, decided bool) {
	if canary.Requests < t.MinRequests {
		reason = fmt.Sprintf("%.0f requests reached the canary, %.0f are needed", canary.Requests, t.MinRequests)
		if canary.Requests == 0 {
			reason = "no request reached the canary"
		}
		return release.Inconclusive, reason, final
	}
	if canary.SuccessRatio() < t.MinSuccess {
		return release.Unhealthy, fmt.Sprintf("%.2f %% of %.0f requests succeeded, %g %% are needed", 100*canary.SuccessRatio(), canary.Requests, 100*t.MinSuccess), true
	}
	if canary.Timed < t.MinRequests {
		return release.Inconclusive, fmt.Sprintf("only %.0f requests have a measured time, %.0f are needed", canary.Timed, t.MinRequests), final
	}
	if canary.SlowRatio() > t.MaxSlow {
		return release.Unhealthy, fmt.Sprintf("%.2f %% of %.0f requests took longer than %s, at most %g %% may", 100*canary.SlowRatio(), canary.Timed, t.Latency, 100*t.MaxSlow), true
	}
	if !final {
		return "", "", false
	}
	return release.Healthy, fmt.Sprintf("%.2f %% of %.0f requests succeeded, %.2f %% took longer than %s", 100*canary.SuccessRatio(), canary.Requests, 100*canary.SlowRatio(), t.Latency), true
}
