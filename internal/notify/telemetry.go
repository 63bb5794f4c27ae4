// Package telemetry tells others what a command did: a chat or any program by a webhook, a trace collector by
// OpenTelemetry, Prometheus through its Pushgateway. It promises that telling is bounded in time, is off
// unless an address is given, and changes nothing of the release.
package notify

import (
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Event is a command that has ended.
type Event struct {
	Command   string
	App       string
	Namespace string
	Release   *release.Release // nil when there is none
	ReleaseID string           // also when there is none, if it is known
	Outcome   release.Outcome  // when the command ended the release
	ExitCode  int
	Message   string // what came of it, or why it failed
	Begun     time.Time
	Ended     time.Time
	Steps     []Step
}

// Step is something that the command did on the way.
type Step struct {
	At      time.Time
	Object  string
	Message string
}

// State is the word for what a command came to: the outcome of the release if it has ended, "failed" for a command
// that failed, else the release's stage.
func (e *Event) State() string {
	switch {
	case e.Outcome != "":
		return string(e.Outcome)
	case e.ExitCode != 0:
		return "failed"
	case e.Release != nil:
		return string(e.Release.Stage)
	}
	return "unchanged"
}
