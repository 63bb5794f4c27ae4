package release

import (
	"fmt"
	"strconv"
	"time"
)

// HookPoint is a point of a release at which others are asked or notified: by a Kubernetes Job, or by a web call.
type HookPoint string

// The points, in the order in which a release passes them.
const (
	BeforeCanary    HookPoint = "beforeCanary"    // before its first pod is made
	BeforeStep      HookPoint = "beforeStep"      // before each raise of the canary's share
	BeforePromotion HookPoint = "beforePromotion" // before primary is changed
	AfterPromotion  HookPoint = "afterPromotion"  // when primary has all of the traffic
	AfterRollback   HookPoint = "afterRollback"   // when the old primary has all of the traffic, and the canary is gone
)

// Before says whether what fails at a point can still keep the release from going on.
func (p HookPoint) Before() bool {
	return p == BeforeCanary || p == BeforeStep || p == BeforePromotion
}

// HookState says how far a hook has come at a point of a release.
type HookState string

// The states of a hook. Started is noted before anything of it begins.
const (
	HookStarted HookState = "started"
	HookPassed  HookState = "passed"
	HookFailed  HookState = "failed"
)

// HookRun is what a hook has done at a point of a release. There is one for each hook, point and step.
type HookRun struct {
	Point      HookPoint `json:"point"`
	Name       string    `json:"name"`
	Step       int       `json:"step,omitempty"` // of beforeStep: the weight that the canary is about to get
	State      HookState `json:"state"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	By         string    `json:"by"`
	Job        string    `json:"job,omitempty"` // the name of its Kubernetes Job
	URL        string    `json:"url,omitempty"`
	Message    string    `json:"message,omitempty"` // how it ended
}

// String names it for people: hook smoke at beforeStep 25%.
func (h *HookRun) String() string {
	text := "hook " + h.Name + " at " + string(h.Point)
	if h.Step > 0 {
		text += fmt.Sprintf(" %d%%", h.Step)
	}
	return text
}

// HookRun is what is noted of a hook at a point and step of the release; nil when it has not started.
func (r *Release) HookRun(point HookPoint, name string, step int) *HookRun {
	for i := range r.Hooks {
		if h := &r.Hooks[i]; h.Point == point && h.Name == name && h.Step == step {
			return h
		}
	}
	return nil
}

// HookKey is what a hook's run is known by, everywhere and for ever: also in a release of the same name that is started
// again. By it, a receiver of web calls knows that it was called before.
func (r *Release) HookKey(point HookPoint, name string, step int) string {
	return fmt.Sprintf("%s/%s/%s/%d/%s", r.ID, point, name, step, strconv.FormatInt(r.StartedAt.UnixMilli(), 36))
}

// hookMessage is how long the message of a run may be in the ledger.
const hookMessage = 500

// StartHook notes that a hook begins, once.
func (r *Release) StartHook(run HookRun) *HookRun {
	if was := r.HookRun(run.Point, run.Name, run.Step); was != nil {
		return was
	}
	run.State = HookStarted
	r.Hooks = append(r.Hooks, run)
	return &r.Hooks[len(r.Hooks)-1]
}

// End notes how a hook has ended.
func (h *HookRun) End(passed bool, message string, now time.Time) {
	if h.State, h.FinishedAt = HookPassed, now; !passed {
		h.State = HookFailed
	}
	if runes := []rune(message); len(runes) > hookMessage {
		message = string(runes[:hookMessage]) + "…"
	}
	h.Message = message
}
