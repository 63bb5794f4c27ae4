package release

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
)

// Plan is the whole way of a canary before promotion, as its release started with it: crossbill.yaml may change meanwhile.
// Each step is done once, in order, and what gives the canary more is done only after a healthy verdict on what it has.
type Plan []PlanStep

// PlanStep is one step of a plan: one of its first six fields is set.
type PlanStep struct {
	Match   *Match   `json:"match,omitempty"`   // testers' requests reach the canary
	Mirror  int      `json:"mirror,omitempty"`  // percent of the safe requests that it gets a copy of
	Weight  int      `json:"weight,omitempty"`  // percent of the traffic
	Pause   Duration `json:"pause,omitempty"`   // it stays as it is, and is judged
	Analyze *Analyze `json:"analyze,omitempty"` // a healthy verdict
	Approve bool     `json:"approve,omitempty"` // somebody who may says yes

	DoneAt  time.Time `json:"doneAt,omitzero"`
	By      string    `json:"by,omitempty"`
	Skipped bool      `json:"skipped,omitempty"` // a person's shift went past it
}

// Analyze is what a healthy verdict needs for one step, where it differs from the rest of the analysis. 0: it does not.
type Analyze struct {
	MinRequests float64  `json:"minRequests,omitempty"`
	MinDuration Duration `json:"minDuration,omitempty"`
	MaxDuration Duration `json:"maxDuration,omitempty"`
}

// Duration is a time.Duration that is text in JSON: 5m0s.
type Duration time.Duration

// MarshalText writes it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads it.
func (d *Duration) UnmarshalText(text []byte) error {
	value, err := time.ParseDuration(string(text))
	*d = Duration(value)
	return err
}

// String writes a duration without its zeros: 5m.
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Gives says whether a step gives the canary something.
func (s *PlanStep) Gives() bool { return s.Match != nil || s.Mirror > 0 || s.Weight > 0 }

// Needs is the share of the traffic that the canary must have the capacity for after the step, in percent.
func (s *PlanStep) Needs() int { return max(s.Weight, s.Mirror) }

// Done says whether a step is done, or was left out by a person's shift.
func (s *PlanStep) Done() bool { return !s.DoneAt.IsZero() }

func (s PlanStep) String() string {
	switch {
	case s.Match != nil:
		return "match " + s.Match.String()
	case s.Mirror > 0:
		return fmt.Sprintf("mirror %d%%", s.Mirror)
	case s.Weight > 0:
		return fmt.Sprintf("weight %d%%", s.Weight)
	case s.Pause > 0:
		return "pause " + s.Pause.String()
	case s.Approve:
		return "approve"
	}
	text := "analyze"
	if a := s.Analyze; a != nil {
		if a.MinRequests > 0 {
			text += fmt.Sprintf(", %g requests", a.MinRequests)
		}
		if a.MinDuration > 0 {
			text += ", at least " + a.MinDuration.String()
		}
		if a.MaxDuration > 0 {
			text += ", at most " + a.MaxDuration.String()
		}
	}
	return text
}

// NewPlan is a plan of steps as they were written, with an analysis before each step that gives the canary more, before
// each approval and at the end, where none was written.
func NewPlan(steps []PlanStep) Plan {
	var plan Plan
	judged := true // the canary has nothing yet
	for _, s := range steps {
		if !judged && (s.Gives() || s.Approve) {
			plan, judged = append(plan, PlanStep{Analyze: &Analyze{}}), true
		}
		plan = append(plan, s)
		if judged = judged && !s.Gives(); s.Analyze != nil {
			judged = true
		}
	}
	if !judged {
		plan = append(plan, PlanStep{Analyze: &Analyze{}})
	}
	return plan
}

// CheckPlan finds what is wrong with the steps of a plan as they were written. field is the name of the list.
func CheckPlan(field string, steps []PlanStep) *usererr.Error {
	weight, mirror := 0, 0
	for i, s := range steps {
		bad := func(key, fix, format string, args ...any) *usererr.Error {
			return &usererr.Error{Field: fmt.Sprintf("%s[%d]%s", field, i, key), Problem: fmt.Sprintf(format, args...), Fix: fix}
		}
		switch kinds := s.kinds(); {
		case len(kinds) == 0:
			return bad("", "give one of match, mirror, weight, pause, analyze and approve", "says nothing")
		case len(kinds) > 1:
			return bad("", "write each after a dash of its own", "has %s", strings.Join(kinds, " and "))
		case i == 0 && !s.Gives():
			return bad("."+kinds[0], "begin with match, mirror or weight", "the canary has nothing yet")
		case s.Match != nil && i > 0:
			return bad(".match", "write it first", "testers come before everybody else")
		case s.Mirror > 0 && weight > 0:
			return bad(".mirror", "write it before the first weight", "the canary has %d%% of the traffic itself", weight)
		case s.Mirror != 0 && (s.Mirror < 1 || s.Mirror > 100):
			return bad(".mirror", "give a percentage from 1% to 100%", "%d%% is not a share of the requests", s.Mirror)
		case s.Mirror > 0 && s.Mirror <= mirror:
			return bad(".mirror", "give rising percentages, for example 5% and 50%", "%d%% does not follow %d%%", s.Mirror, mirror)
		case s.Weight != 0 && (s.Weight < 1 || s.Weight > 99):
			return bad(".weight", "give a percentage from 1 to 99; 100 is what promote does", "%d is not a weight", s.Weight)
		case s.Weight > 0 && s.Weight <= weight:
			return bad(".weight", "give rising weights, for example 10 and 50", "%d does not follow %d", s.Weight, weight)
		case s.Pause < 0:
			return bad(".pause", "give for example 5m", "%s is not a duration above 0", s.Pause)
		case s.Approve && i > 0 && steps[i-1].Approve:
			return bad(".approve", "remove one; approval.number says how many approvers are needed", "is there twice, one after the other")
		}
		weight, mirror = max(weight, s.Weight), max(mirror, s.Mirror)
	}
	return nil
}

// kinds are the fields of a step that are set.
func (s *PlanStep) kinds() (kinds []string) {
	for _, one := range []struct {
		name string
		set  bool
	}{{"match", s.Match != nil}, {"mirror", s.Mirror != 0}, {"weight", s.Weight != 0}, {"pause", s.Pause != 0}, {"analyze", s.Analyze != nil}, {"approve", s.Approve}} {
		if one.set {
			kinds = append(kinds, one.name)
		}
	}
	return kinds
}

// At is the index of the step that a release is at, the number of steps after the last one.
func (p Plan) At() int {
	if i := slices.IndexFunc(p, func(s PlanStep) bool { return !s.Done() }); i >= 0 {
		return i
	}
	return len(p)
}

// Current is the step that a release is at; one that says nothing after the last one.
func (p Plan) Current() PlanStep {
	if at := p.At(); at < len(p) {
		return p[at]
	}
	return PlanStep{}
}

// Given is the index of the last step that has given the canary something; -1: none has.
func (p Plan) Given() int {
	for i := p.At() - 1; i >= 0; i-- {
		if p[i].Gives() {
			return i
		}
	}
	return -1
}

// Since is when the step that a release is at began; zero before the first one is done.
func (p Plan) Since() time.Time {
	if at := p.At(); at > 0 {
		return p[at-1].DoneAt
	}
	return time.Time{}
}

// Step is a step with its place: step 3 of 7: weight 50%.
func (p Plan) Step(i int) string { return fmt.Sprintf("step %d of %d: %s", i+1, len(p), p[i]) }

// Same says whether two plans have the same steps, however far they are.
func (p Plan) Same(other Plan) bool {
	return slices.EqualFunc(p, other, func(a, b PlanStep) bool { return a.String() == b.String() })
}

// Last says whether a step is the last one. The approval that is last is the one that promote itself asks for.
func (p Plan) Last(i int) bool { return i == len(p)-1 }

// Finished says whether all that the plan has before promotion is done.
func (p Plan) Finished() bool {
	at := p.At()
	return at == len(p) || p.Last(at) && p[at].Approve
}

// ceiling is the highest weight that the canary may have before the next approval, and the index of that; -1: there is none.
func (p Plan) ceiling() (weight, approval int) {
	for i, s := range p {
		if s.Approve && !s.Done() {
			return weight, i
		}
		weight = max(weight, s.Weight)
	}
	return 99, -1
}

// done notes that steps are done, up to and without an index. Those that nobody performed were left out.
func (p Plan) done(until int, skipped bool, by string, now time.Time) {
	for i := p.At(); i < until; i++ {
		p[i].DoneAt, p[i].By, p[i].Skipped = now, by, skipped
	}
}

// shifted notes a person's shift: what the plan has up to that weight is left out.
func (p Plan) shifted(weight int, by string, now time.Time) {
	for i := len(p) - 1; i >= p.At(); i-- {
		if p[i].Weight > 0 && p[i].Weight <= weight {
			p.done(i+1, true, by, now)
			return
		}
	}
}

// satisfied says whether a verdict is all that a step's analysis asks for.
func (a *Analyze) satisfied(v *Verdict, since time.Time) bool {
	return v.Outcome == Healthy && !v.At.Before(since) && float64(v.Requests) >= a.MinRequests && v.At.Sub(v.Since) >= time.Duration(a.MinDuration)
}

// AwaitsApprovalError says that a plan goes on only after somebody has approved it.
type AwaitsApprovalError struct {
	Step   string // with its place
	Reason string // what is missing
}

func (e *AwaitsApprovalError) Error() string { return e.Step + ": " + e.Reason }

// ErrNoPlan says that a release is not taken through steps.
var ErrNoPlan = errors.New("it was started without steps: use shift and verify")

// planned is the release in flight at a step of its plan. over says that the step is done already.
func (l *Ledger) planned(step int) (r *Release, over bool, err error) {
	switch r = l.Release; {
	case r == nil:
		return nil, false, ErrNoRelease
	case len(r.Plan) == 0:
		return nil, false, fmt.Errorf("release %s: %w", r.ID, ErrNoPlan)
	case r.Stage != StageCanary && r.Stage != StageVerified:
		return nil, false, fmt.Errorf("release %s is at stage %s: only a canary is taken through steps", r.ID, r.Stage)
	case step < 0 || step >= len(r.Plan) || step > r.Plan.At():
		return nil, false, fmt.Errorf("release %s is at step %d of %d: step %d is not next", r.ID, r.Plan.At()+1, len(r.Plan), step+1)
	}
	return r, r.Plan[step].Done(), nil
}

// proven says why a release does not go on with its plan: what it has now was not judged healthy as it is.
func (r *Release) proven(step int) error {
	v := r.Verdict
	switch {
	case v == nil || r.Stage != StageVerified:
		return fmt.Errorf("release %s does not go on to %s: what it has was not judged", r.ID, r.Plan.Step(step))
	case v.Outcome != Healthy:
		return fmt.Errorf("release %s was judged %s (%s): only a healthy one goes on to %s", r.ID, v.Outcome, v.Reason, r.Plan.Step(step))
	}
	if unlike := v.unlike(r); unlike != "" {
		return fmt.Errorf("release %s was judged %s: it does not go on to %s", r.ID, unlike, r.Plan.Step(step))
	}
	return nil
}

// Proven says whether the release was judged healthy as it is.
func (r *Release) Proven() bool {
	return r.Stage == StageVerified && r.Verdict != nil && r.Verdict.Outcome == Healthy && r.Verdict.unlike(r) == ""
}

// Giveable says whether a step that gives the canary something may be taken now. over: it was taken.
func (l *Ledger) Giveable(step int) (over bool, err error) {
	r, over, err := l.planned(step)
	switch {
	case err != nil || over:
		return over, err
	case !r.Plan[step].Gives():
		return false, fmt.Errorf("%s gives the canary nothing", r.Plan.Step(step))
	}
	return false, r.proven(step)
}

// Give takes the step of the plan that the release is at: the canary gets what the step says, and has to be judged with it.
func (l *Ledger) Give(step int, by string, now time.Time) error {
	if over, err := l.Giveable(step); over || err != nil {
		return err
	}
	r := l.Release
	r.give(r.Plan[step])
	r.Plan = slices.Clone(r.Plan)
	r.Plan.done(step+1, false, by, now)
	l.weighed(by, now)
	return nil
}

// Weighed notes that the canary gets what it has only from now on: whoever was to route it died before. What was counted
// until now does not count.
func (l *Ledger) Weighed(by string, now time.Time) error {
	if r := l.Release; r == nil {
		return ErrNoRelease
	} else if r.Stage != StageCanary && r.Stage != StageVerified {
		return fmt.Errorf("release %s is at stage %s: only a canary gets traffic", r.ID, r.Stage)
	}
	l.weighed(by, now)
	return nil
}

func (l *Ledger) weighed(by string, now time.Time) {
	r := l.Release
	r.superseded()
	r.Stage = StageCanary
	r.Steps = append(r.Steps, r.canaryStep(now, by))
}

// give is what the release gives its canary after a step. Testers keep theirs; a mirror ends with the first weight.
func (r *Release) give(s PlanStep) {
	switch {
	case s.Match != nil:
		r.Match = s.Match
	case s.Mirror > 0:
		r.Mirror = s.Mirror
	default:
		r.Weight, r.Mirror = s.Weight, 0
	}
}

// Passable says whether a step that gives the canary nothing is over: a pause whose time has passed, or an approval, which the
// gate is asked for. over: it was noted.
func (l *Ledger) Passable(step int, now time.Time) (over bool, err error) {
	r, over, err := l.planned(step)
	if err != nil || over {
		return over, err
	}
	switch s := r.Plan[step]; {
	case s.Pause > 0:
		if left := time.Duration(s.Pause) - now.Sub(r.Plan.Since()); left > 0 {
			return false, fmt.Errorf("%s: it has %s left", r.Plan.Step(step), left.Round(time.Second))
		}
		return false, nil
	case s.Approve:
		return false, r.proven(step)
	}
	return false, fmt.Errorf("%s is over only by what it does", r.Plan.Step(step))
}

// PassStep notes that a step which gives the canary nothing is over.
func (l *Ledger) PassStep(step int, by string, now time.Time) error {
	if over, err := l.Passable(step, now); over || err != nil {
		return err
	}
	l.Release.Plan = slices.Clone(l.Release.Plan)
	l.Release.Plan.done(step+1, false, by, now)
	return nil
}

// analyzed notes that the analysis that the plan is at is over, if the verdict is all that it asks for.
func (r *Release) analyzed(by string, now time.Time) {
	at := r.Plan.At()
	if at == len(r.Plan) || r.Plan[at].Analyze == nil || !r.Plan[at].Analyze.satisfied(r.Verdict, r.Plan.Since()) {
		return
	}
	r.Plan = slices.Clone(r.Plan)
	r.Plan.done(at+1, false, by, now)
}

// AwaitsApproval is the number, from 1, of the plan's step whose approval is not the one that promote asks for: 0 when the
// release is not at such a step.
func (r *Release) AwaitsApproval() int {
	if at := r.Plan.At(); at < len(r.Plan) && r.Plan[at].Approve && !r.Plan.Last(at) {
		return at + 1
	}
	return 0
}

// Shiftable says whether a person's shift to a weight leaves out no approval that the plan asks for.
func (r *Release) Shiftable(weight int) error {
	most, approval := r.Plan.ceiling()
	if weight <= max(most, r.Weight) || approval < 0 {
		return nil
	}
	return fmt.Errorf("release %s: %d%% is more than its plan gives before %s", r.ID, weight, r.Plan.Step(approval))
}
