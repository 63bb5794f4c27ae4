// Package notify delivers what a command came to: to the Deployment in GitHub that a release belongs to, to its
// commit and its pull request there, or its merge request in GitLab, to chats, to any program by a webhook, to Prometheus through a Pushgateway,
// and to a trace collector. It promises that notifying is bounded in time, is off unless a target is configured,
// and never changes the release or the command's own result.
package notify

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// Notifier is one target of notifications.
type Notifier interface {
	// Notify delivers an event, at least once. It returns nil as well when the event does not concern the target.
	// Errors are *usererr.Error for a target that is misconfigured, or say what the target answered. They never
	// contain a secret.
	Notify(ctx context.Context, e *Event) error
}

// Result says how a command ended.
type Result string

// The results.
const (
	Succeeded    Result = "succeeded"
	Unhealthy    Result = "unhealthy"    // the canary, or primary after a promotion, was judged unhealthy
	NotReady     Result = "not_ready"    // pods did not become ready in time
	Inconclusive Result = "inconclusive" // too little evidence for a verdict
	Failed       Result = "failed"       // a dependency failed
	Refused      Result = "refused"      // bad input, the wrong stage, or another job holds the lock; nothing was changed
	Waits        Result = "waits"        // the command goes on: the release is in the line. It is for GitHub and GitLab alone
	Waited       Result = "waited"       // it has left the line, because its turn did not come
	Judging      Result = "judging"      // the command goes on: Progress says how far it is. It is for pages and chats alone
	Asks         Result = "asks"         // the command goes on: the release waits for an approver. It is for chats alone
)

// Event is a command that has finished, or that waits.
type Event struct {
	Command   string
	App       string
	Namespace string
	By        string           // who acts, as the ledger says it
	Asked     bool             // the command has asked people to go on with the release
	Release   *release.Release // nil when there is none
	ReleaseID string           // also without Release, if it is known
	// Commit and PipelineURL are those of the release, where the command was given them; Release knows them too.
	Commit, PipelineURL string
	Outcome             release.Outcome // when the command finished the release
	Result              Result
	ExitCode            int
	Message             string // what the command did, or why it failed
	// SupersededBy is the release in favor of which this one is not released.
	SupersededBy string
	StartedAt    time.Time
	FinishedAt   time.Time
	Steps        []Step
	Progress     *Progress // of an analysis that goes on
}

// Progress is how far the analysis of a canary is.
type Progress struct {
	Outcome  release.VerdictOutcome // healthy: the canary is judged on; else ""
	Enough   float64                // share of the evidence that a healthy verdict needs, from 0 to 1
	Requests int64                  // the canary's, so far
	Left     time.Duration          // until there is enough, if it grows as it has so far; 0 is unknown
	Missing  string                 // what there is too little of
}

// Step is something that the command did on the way.
type Step struct {
	At      time.Time
	Object  string
	Message string
}

// State is the word for where the release is now: its outcome if it has finished, "failed" for a command that
// failed, else its stage.
func (e *Event) State() string {
	switch {
	case e.SupersededBy != "":
		return string(release.OutcomeSuperseded)
	case e.Outcome != "":
		return string(e.Outcome)
	case e.Result != Succeeded:
		return "failed"
	case e.Release != nil:
		return string(e.Release.Stage)
	}
	return "unchanged"
}

// noteworthy says whether there is anything to notify of. Nothing is sent of a command that was refused, that had
// nothing to do, or of a guard that left the release alone.
func (e *Event) noteworthy() bool {
	switch {
	case e.Result == Refused:
		return false
	case e.Result != Succeeded:
		return true
	case e.SupersededBy != "":
		return true
	case e.Release == nil:
		return false
	}
	return e.Command != "guard" || e.Outcome != ""
}

// Targets are the configured targets. One without its address or token is off.
type Targets struct {
	GitHub         GitHub // off without a token
	PullRequest    bool   // GitHub shows the release on its commit and pull request as well
	GitLab         GitLab // off without a token: shows the release on its commit and merge request
	WebhookURL     string // a secret
	Chat           Chat   // off without an address
	PushgatewayURL string
	Log            func(string) // is given what people should know of a target; may be nil
	Version        string       // of Crossbill, for traces; those are configured by OpenTelemetry's variables
}

// Pages are those that show a release on its commit, and on the pull or merge request.
func (t Targets) Pages() []Notifier {
	var all []Notifier
	if t.GitHub.Token != "" && t.PullRequest {
		all = append(all, PullRequest{GitHub: t.GitHub, Log: t.Log})
	}
	if t.GitLab.Token != "" {
		all = append(all, MergeRequest{GitLab: t.GitLab, Log: t.Log})
	}
	return all
}

// Hosts are those where a release's code is.
func (t Targets) Hosts() []Notifier {
	if t.GitHub.Token == "" {
		return t.Pages()
	}
	return append([]Notifier{t.GitHub}, t.Pages()...)
}

// Notifiers are those that are configured.
func (t Targets) Notifiers() []Notifier {
	all := t.Hosts()
	if t.WebhookURL != "" {
		all = append(all, Webhook{URL: t.WebhookURL})
	}
	if len(t.Chat.Addresses) > 0 {
		all = append(all, t.Chat)
	}
	if t.PushgatewayURL != "" {
		all = append(all, Pushgateway{URL: t.PushgatewayURL})
	}
	if TracesConfigured() {
		all = append(all, Traces{Version: t.Version})
	}
	return all
}

// timeout bounds one notification, and so all of them: they are sent at the same time.
const timeout = 30 * time.Second

// All sends a noteworthy event to all targets at the same time and joins their errors. It also sends after ctx was
// canceled, since it is the last thing that a process does, and never takes longer than half a minute.
func All(ctx context.Context, notifiers []Notifier, e *Event) error {
	if !e.noteworthy() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	errs := make([]error, len(notifiers))
	var pending sync.WaitGroup
	for i, n := range notifiers {
		pending.Go(func() { errs[i] = n.Notify(ctx, e) })
	}
	pending.Wait()
	return errors.Join(errs...)
}
