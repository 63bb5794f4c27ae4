// Package reconcile says which command carries out next what Git asks for, where no pipeline does. It is pure: what the
// environment repository says of an app, and the app's ledger, give a step.
//
// What it keeps:
//
//   - Nothing is promoted that Git does not approve by name, in the commits since that release was proposed.
//   - A release that has finished is not started again, unless a newer commit proposes it with again. An older one never
//     takes the place of a newer one. Both by the rules of the line.
//   - Where it is not known what Git asks for, nothing starts and nothing is promoted. What is in flight is watched on.
//   - A release that Git did not start here is left alone, but that it gives way as to a pipeline.
package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/proposal"
	"github.com/our-org/crossbill/internal/release"
)

// Git is what the environment repository says of an app.
type Git struct {
	History proposal.History
	Problem error               // why it is not known; History is then not looked at
	Signers environment.Signers // who may approve; nil: who may push
	Needs   int                 // so many of them have to; 0 is 1
	// Repository is that of a registry from which releases come; "" for any.
	Repository string
}

// Command is one of Crossbill's. None: there is nothing to do.
type Command string

// The commands.
const (
	None     Command = ""
	Queue    Command = "queue" // another release gives way, in flight or in the line
	Canary   Command = "canary"
	Follow   Command = "canary --follow"
	Verify   Command = "verify"
	Promote  Command = "promote"
	Cleanup  Command = "cleanup"
	Rollback Command = "rollback"
	Guard    Command = "guard" // in place of Verify, where nobody waits for it
)

// Step is what is done next, about which release.
type Step struct {
	Command  Command
	Release  release.Handoff // none of None
	Proposal string          // commit that proposed it
	Again    bool
	Waits    bool   // it is watched until a person decides: nothing else is to be done
	Turn     bool   // of Queue: nothing is in flight, and what is before it in the line may have to lose its turn
	Reason   string // why, for people; of None and of what waits, what it waits for
}

// State is what the cluster says of an app.
type State struct {
	Ledger *release.Ledger
	Lock   string // who is at work on it; "" for nobody
	Policy release.QueuePolicy
	Steps  bool // a release that starts is taken through steps
}

// Next is the step that follows.
func Next(g Git, s State, now time.Time) Step {
	r := s.Ledger.Release
	if r == nil {
		return s.start(g)
	}
	of := Step{Release: handoff(s.Ledger.App, r), Proposal: r.Proposal, Again: true} // it was accepted when it started
	switch {
	case r.Proposal == "":
		if newer := s.giveWay(g); newer != nil {
			return *newer
		}
		return Step{Reason: fmt.Sprintf("release %s is in flight (stage %s), and %s has started it: it is not this process's", r.ID, r.Stage, r.StartedBy)}
	case r.Stage == release.StageRollingBack && s.Lock != "":
		return Step{Reason: fmt.Sprintf("release %s is rolling back: %s is at work", r.ID, s.Lock)}
	case r.Stage == release.StageRollingBack:
		return of.by(Rollback, cmp.Or(r.Reason, "its rollback was interrupted"))
	case r.Stage == release.StagePromoting: // it was approved when it began
		return of.by(Promote, "its promotion was interrupted")
	case r.Stage == release.StagePromoted:
		return of.by(Cleanup, "it is on primary")
	case r.Stage == release.StageVerified && r.Verdict != nil && r.Verdict.Outcome != release.Healthy:
		return of.by(Rollback, fmt.Sprintf("%s: %s", r.Verdict.Outcome, r.Verdict.Reason))
	}
	approvals, missing := []proposal.Approval(nil), g.Problem
	if missing == nil {
		approvals, missing = g.History.Approvals(r.Proposal, r.ID, g.Signers, g.Needs, now)
	}
	if newer := s.giveWay(g); newer != nil && len(approvals) == 0 {
		return *newer
	}
	return of.forward(r, s.Ledger, approvals, missing)
}

// forward is what comes next for a release that goes on.
func (s Step) forward(r *release.Release, l *release.Ledger, approvals []proposal.Approval, missing error) Step {
	switch at := r.AwaitsApproval(); {
	case r.Stage == release.StageStarted:
		if len(r.Plan) > 0 {
			return s.by(Follow, "its canary was interrupted")
		}
		return s.by(Canary, "its canary was interrupted")
	case at > 0 && !slices.ContainsFunc(r.Approvals, func(a release.Approval) bool { return a.Step == at }):
		s.Waits = r.Proven()
		return s.by(Verify, r.Plan.Step(at-1)+" waits for `crossbill approve`")
	case !r.Plan.Finished():
		return s.by(Follow, "it has steps before it")
	case l.Promotable() != nil:
		return s.by(Verify, l.Promotable().Error())
	case len(approvals) == 0:
		s.Waits = true
		return s.by(Verify, "its canary is healthy and waits for approval: "+missing.Error())
	}
	reasons := make([]string, len(approvals))
	for i, a := range approvals {
		reasons[i] = fmt.Sprintf("commit %.12s of %s approves it", a.Commit, a.By)
	}
	return s.by(Promote, strings.Join(reasons, ", "))
}

func (s Step) by(command Command, reason string) Step {
	s.Command, s.Reason = command, reason
	return s
}

// handoff is what a release in flight was started with.
func handoff(app string, r *release.Release) release.Handoff {
	h := release.Handoff{App: app, ID: r.ID, Image: r.Image, Bundle: r.Bundle, Commit: r.Commit, SourceURL: r.SourceURL}
	if h.Bundle != "" {
		h.Image = ""
	}
	return h
}

// start is what comes next while no release is in flight.
func (s State) start(g Git) Step {
	step, nothing := s.wanted(g)
	if nothing != "" {
		return Step{Reason: nothing}
	}
	turn, ahead := s.Ledger.Turn(step.Release.ID)
	switch {
	case !turn && (s.Policy == release.QueueSupersede || s.Policy == release.QueueInOrder) && s.Ledger.Hold == nil: // nobody else may be there to take what is ahead out of the line
		step.Turn = true
		return step.by(Queue, fmt.Sprintf("commit %.12s proposes it, and %s", step.Proposal, ahead))
	case !turn:
		return Step{Reason: fmt.Sprintf("release %s waits: %s", step.Release.ID, ahead)}
	}
	start := Canary
	if s.Steps {
		start = Follow
	}
	return step.by(start, fmt.Sprintf("commit %.12s proposes it", step.Proposal))
}

// giveWay is the step by which the release in flight gives way to the one that Git names; nil when it does not.
func (s State) giveWay(g Git) *Step {
	l := s.Ledger
	step, nothing := s.wanted(g)
	if s.Policy != release.QueueSupersede || nothing != "" || step.Release.ID == l.Release.ID || l.Hold != nil || !l.Supersedable(step.Release.ID) {
		return nil
	}
	return new(step.by(Queue, fmt.Sprintf("commit %.12s proposes it, and release %s gives way", step.Proposal, l.Release.ID)))
}

// wanted is the release that Git wants to have started, or why there is none.
func (s State) wanted(g Git) (step Step, nothing string) {
	if g.Problem != nil {
		return Step{}, g.Problem.Error()
	}
	p, by, err := g.History.Current()
	switch {
	case err != nil:
		return Step{}, err.Error()
	case p == nil:
		return Step{}, "Git names no release"
	}
	if g.Repository != "" {
		if err := p.CheckRepository(g.Repository); err != nil {
			return Step{}, err.Error()
		}
	}
	l := *s.Ledger
	if f := l.Find(p.ID); f != nil && !newerThan(p, by, f) {
		return Step{}, fmt.Sprintf("release %s has finished (%s): nothing is released until Git names another one, or proposes it again", p.ID, f.Outcome)
	}
	if why := superfluous(l, p, s.Policy); why != "" {
		return Step{}, why
	}
	return Step{Release: p.Handoff, Proposal: by.Commit, Again: p.Again}, ""
}

// newerThan says whether a release that has finished is proposed once more: by another commit than the one that it was
// started for. Where that is not known, by a later one.
func newerThan(p *proposal.Proposal, by *proposal.Version, f *release.Finished) bool {
	if f.Proposal == "" {
		return p.Again && by.At.After(f.FinishedAt)
	}
	return p.Again && by.Commit != f.Proposal
}

// superfluous says which newer release makes a proposal superfluous; "" when none does.
func superfluous(l release.Ledger, p *proposal.Proposal, policy release.QueuePolicy) string {
	if p.Again {
		return ""
	}
	if by, why := l.Superseded(p.ID); by != "" {
		return fmt.Sprintf("release %s is superseded by release %s: %s", p.ID, by, why)
	}
	if w := l.Waits(p.ID); w != nil && w.Again {
		return ""
	}
	l.Queue = slices.DeleteFunc(slices.Clone(l.Queue), func(w release.Queued) bool { return w.ID == p.ID }) // else what came since would not matter
	if left, _ := l.Enter(release.Queued{ID: p.ID, SourceURL: p.SourceURL}, policy, time.Time{}); left != nil {
		return fmt.Sprintf("release %s is superseded: %s", p.ID, left.Reason)
	}
	return ""
}
