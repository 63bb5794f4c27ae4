// Package hook is what runs at points of a release beside Crossbill itself: a Kubernetes Job that is made of one in the
// manifests (a database migration, a smoke or a load test), or a web call that gets the release as JSON. It knows what a hook
// is, what its Job looks like, how a Job has ended, and how an address is called. When hooks run, and that each does so once
// for a release, point and step, is package rollout's to keep, which makes the Jobs too.
package hook

import (
	"cmp"
	"fmt"
	"regexp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Hook is a hook as crossbill.yaml has it.
type Hook struct {
	Name      string            `json:"name"`
	Point     release.HookPoint `json:"point"`
	Job       string            `json:"job,omitempty"` // of the manifests; "" for a web call
	URL       string            `json:"url,omitempty"`
	SecretEnv string            `json:"secretEnv,omitempty"` // the variable with the secret that calls are signed with
	Timeout   metav1.Duration   `json:"timeout,omitzero"`
	Retries   *int              `json:"retries,omitempty"`
	OnFailure string            `json:"onFailure,omitempty"` // rollback or continue

	Secret string `json:"-"` // what SecretEnv has
}

// What happens to a release when a hook fails.
const (
	Rollback = "rollback"
	Continue = "continue"
)

// The defaults: a Job is not repeated, because a migration that failed half-way is nothing to repeat blindly; a call is,
// with the same key.
const (
	jobTimeout  = 10 * time.Minute
	callTimeout = 30 * time.Second
	callRetries = 2
)

// NamePattern is what a hook may be called.
var NamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$`)

// Check finds what is wrong with a hook. The field is relative to it.
func (h *Hook) Check() *usererr.Error {
	bad := func(field, problem, fix string) *usererr.Error {
		return &usererr.Error{Field: field, Problem: problem, Fix: fix}
	}
	switch {
	case !h.Point.Before() && h.Point != release.AfterPromotion && h.Point != release.AfterRollback:
		return bad("point", fmt.Sprintf("%q is not a point of a release", h.Point), "give beforeCanary, beforeStep, beforePromotion, afterPromotion or afterRollback")
	case h.Job == "" && h.URL == "":
		return bad("job", "is missing", "name a Job of the manifests, or give a url")
	case h.Job != "" && h.URL != "":
		return bad("url", "a job is named as well", "keep one of them: two hooks may have the same point")
	case h.Job != "" && h.SecretEnv != "":
		return bad("secretEnv", "it is for a url: it signs what is sent", "remove it; a Job reads Secrets as its pods do")
	case h.OnFailure != "" && h.OnFailure != Rollback && h.OnFailure != Continue:
		return bad("onFailure", fmt.Sprintf("%q is neither rollback nor continue", h.OnFailure), "give one of them, or leave it out")
	case h.OnFailure == Rollback && !h.Point.Before():
		return bad("onFailure", fmt.Sprintf("a hook at %s runs when nothing is left to roll back: its failure is noted, and changes nothing", h.Point), "remove it")
	}
	if h.URL != "" {
		if err := usererr.SecureURL("url", h.URL); err != nil {
			found, ok := err.(*usererr.Error) //nolint:errorlint // that is all it gives
			if !ok {
				found = bad("url", err.Error(), "")
			}
			if found.Problem == "tokens would travel without encryption" {
				found.Problem, found.Fix = "the release would travel without encryption", "use https; http is for this machine alone"
			}
			return found
		}
	}
	return nil
}

// CheckAll finds two hooks of one name. at is the second one's number.
func CheckAll(hooks []Hook) (at int, bad *usererr.Error) {
	seen := map[string]bool{}
	for i, h := range hooks {
		if seen[h.Name] {
			return i, &usererr.Error{Field: "name", Problem: fmt.Sprintf("another hook is called %q", h.Name), Fix: "give each a name of its own: what it has done is noted by it"}
		}
		seen[h.Name] = true
	}
	return 0, nil
}

// Back says whether the release is rolled back when the hook fails.
func (h *Hook) Back() bool { return h.Point.Before() && h.OnFailure != Continue }

// Lasts is how long a Job may take with its retries, or each attempt of a call.
func (h *Hook) Lasts() time.Duration {
	if h.Job != "" {
		return cmp.Or(h.Timeout.Duration, jobTimeout)
	}
	return cmp.Or(h.Timeout.Duration, callTimeout)
}

func (h *Hook) retries() int {
	switch {
	case h.Retries != nil:
		return *h.Retries
	case h.Job != "":
		return 0
	}
	return callRetries
}
