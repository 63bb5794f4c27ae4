package release

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// ApprovalKind says on what an approval rests.
type ApprovalKind string

// The kinds.
const (
	ApprovalVerified   ApprovalKind = "verified"   // the ID token of a job that its approver started
	ApprovalSigned     ApprovalKind = "signed"     // a commit in the environment repository that its approver has signed
	ApprovalCommit     ApprovalKind = "commit"     // a commit there, by whoever may push to the branch
	ApprovalOperator   ApprovalKind = "operator"   // the word of a person with rights in the cluster
	ApprovalUnverified ApprovalKind = "unverified" // nobody's: no policy asks for one
)

// Approval is somebody's yes to the release in flight. It is bound to that release by being in it.
type Approval struct {
	Kind    ApprovalKind `json:"kind"`
	By      string       `json:"by"`               // the approver's login, or the key's principals, or the commit's author; of the other kinds what --by says
	UserID  string       `json:"userId,omitempty"` // in the issuer's numbers, which stay when a login changes
	Command string       `json:"command"`          // that it was given to
	Step    int          `json:"step,omitempty"`   // of the release's plan that it is for, from 1; 0: the promotion
	At      time.Time    `json:"at"`

	// Of a verified one: the job that the approver started, and its token.
	Issuer   string `json:"issuer,omitempty"`
	Pipeline string `json:"pipeline,omitempty"`
	Job      string `json:"job,omitempty"`
	Token    string `json:"token,omitempty"` // its unique id, not the token itself

	Commit string `json:"commit,omitempty"` // that brought one by a commit

	Policy string `json:"policy,omitempty"` // hash of the policy that it was held against
}

// Same says whether two approvals are of the same person, or of the same kind of nobody.
func (a Approval) Same(b Approval) bool {
	if a.Kind == ApprovalVerified && b.Kind == ApprovalVerified {
		return a.Issuer == b.Issuer && a.UserID == b.UserID
	}
	return a.Kind == b.Kind && a.By == b.By
}

// Pipeline is the one that runs a release, as the verified ID token of its canary's job has it.
type Pipeline struct {
	Issuer  string `json:"issuer"`
	Project string `json:"project"`
	ID      string `json:"id"`
	Source  string `json:"source"` // what started it: trigger, api, web
	// Users are those as whom the canary's job has run: who started the pipeline, and who has retried the job. What nobody
	// starts runs as one of them.
	Users []User `json:"users"`
}

// User is a user of the issuer's.
type User struct {
	ID    string `json:"id"`
	Login string `json:"login"`
}

// PolicySeen is the approval policy that an app's commands were last run with.
type PolicySeen struct {
	Hash   string    `json:"hash"`
	Where  string    `json:"where"`            // issuer, project, ref and environment of its jobs
	Before []string  `json:"before,omitempty"` // commands that it asks before, beside promote
	Since  time.Time `json:"since"`
	By     string    `json:"by"`
}

// Passed is what the approval gate has found: what is noted together with the work that it admits.
type Passed struct {
	By       string     // who acts, when that is verified; else ""
	Approval *Approval  // a new one; nil when there is none to note
	Others   []Approval // of other people, beside it
	Pipeline *Pipeline  // of the canary's job
	Policy   string     // hash of the policy; "" without one
	Where    string     // the policy's issuer, project, ref and environment
	Before   []string   // commands that the policy asks before, beside promote
	Remarks  []string   // for the log
}

// Pass notes in the ledger what the gate has found.
func (l *Ledger) Pass(p *Passed, by string, now time.Time) {
	if p == nil {
		return
	}
	if p.Policy != "" && (l.Policy == nil || l.Policy.Hash != p.Policy) {
		l.Policy = &PolicySeen{Hash: p.Policy, Where: p.Where, Before: p.Before, Since: now, By: by}
	}
	r := l.Release
	if r == nil {
		return
	}
	r.runBy(p.Pipeline)
	if p.Approval != nil {
		r.approve(*p.Approval, now)
	}
	for _, other := range p.Others {
		r.approve(other, now)
	}
}

// Approved says whether somebody has approved the release for a command already. Once is enough, however often a job is run.
func (r *Release) Approved(a Approval) bool {
	return slices.ContainsFunc(r.Approvals, func(was Approval) bool { return was.Same(a) && was.Command == a.Command && was.Step == a.Step })
}

// approve notes an approval.
func (r *Release) approve(a Approval, now time.Time) {
	if r.Approved(a) {
		return
	}
	a.At = now
	r.Approvals = append(slices.Clone(r.Approvals), a)
}

// runBy notes the pipeline that runs the release. To the one that was noted first, further users are added; another one that
// goes on with the release does not take its place.
func (r *Release) runBy(p *Pipeline) {
	switch {
	case p == nil:
	case r.Pipeline == nil:
		noted := *p
		r.Pipeline = &noted
	case r.Pipeline.same(p):
		noted := *r.Pipeline
		for _, u := range p.Users {
			if !slices.Contains(noted.Users, u) {
				noted.Users = append(slices.Clone(noted.Users), u)
			}
		}
		r.Pipeline = &noted
	}
}

// NewUser says whether a job of the release's pipeline ran as somebody who is not noted yet.
func (r *Release) NewUser(p *Pipeline) bool {
	return p != nil && r.Pipeline != nil && r.Pipeline.same(p) && slices.ContainsFunc(p.Users, func(u User) bool { return !slices.Contains(r.Pipeline.Users, u) })
}

func (p *Pipeline) same(q *Pipeline) bool { return p.Issuer == q.Issuer && p.ID == q.ID }

// Approvers names who approved the release, for people; "" when nothing is noted.
func (r *Release) Approvers() string {
	var names []string
	for _, a := range r.Approvals {
		if name := a.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func (a Approval) String() string {
	switch a.Kind {
	case ApprovalVerified:
		return a.By
	case ApprovalSigned:
		return fmt.Sprintf("%s (signed commit %.12s)", a.By, a.Commit)
	case ApprovalCommit:
		return fmt.Sprintf("%s (commit %.12s)", a.By, a.Commit)
	case ApprovalOperator:
		return a.By + " (operator)"
	}
	return a.By + " (not verified)"
}
