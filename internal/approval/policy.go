// Package approval asks at run time whether a person who may has approved a release, whatever the pipeline file says. Its
// witness is GitLab's ID token of the job that runs the command: who started the job, in which pipeline of which project, on
// which ref, for which environment (https://docs.gitlab.com/ci/secrets/id_token_authentication/).
//
// It keeps invariant 15 of the design, and promises that a token is only believed when the instance's own key has signed it
// for us, now, and that whatever cannot be checked is refused. [Verifier] asks the network; all that is decided is decided by
// [Policy.Decide], which is pure.
package approval

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/our-org/crossbill/internal/usererr"
)

// The commands that a policy can be asked before.
const (
	Canary  = "canary"
	Shift   = "shift"
	Promote = "promote"
	Approve = "approve" // records an approval for those, or for a step of a plan
	Step    = "step"    // takes a release through its plan
)

// Defaults of a policy.
const (
	DefaultAudience = "crossbill"
	DefaultRef      = "main"
)

// Policy says whose approval a release needs: the section approval of crossbill.yaml.
type Policy struct {
	Issuer      string   `json:"issuer"`
	Audience    string   `json:"audience,omitempty"`
	Project     string   `json:"project"`
	ProjectID   int      `json:"projectId,omitempty"`
	Ref         string   `json:"ref,omitempty"`
	Environment string   `json:"environment"`
	Approvers   []string `json:"approvers,omitempty"`
	NotAuthor   bool     `json:"notAuthor,omitempty"`
	Number      int      `json:"number,omitempty"`
	Before      []string `json:"before,omitempty"`
}

// Check finds what is wrong with a policy, and gives what it leaves out its default. Fields are relative to the section.
func (p *Policy) Check() *usererr.Error {
	if err := usererr.SecureURL("issuer", p.Issuer); err != nil {
		return &usererr.Error{Field: "issuer", Problem: fmt.Sprintf("keys from %q could be anybody's", p.Issuer), Fix: "give the https address of your GitLab, as iss in its tokens has it"}
	}
	if p.Audience == "" {
		p.Audience = DefaultAudience
	}
	if p.Ref == "" {
		p.Ref = DefaultRef
	}
	if p.Number == 0 {
		p.Number = 1
	}
	if len(p.Before) == 0 {
		p.Before = []string{Promote}
	}
	if n := len(p.Approvers); n > 0 && n < p.Number {
		return &usererr.Error{Field: "number", Problem: fmt.Sprintf("%d approvers are needed and %d are named", p.Number, n), Fix: "name more approvers, or ask for fewer"}
	}
	for i, login := range p.Approvers {
		if slices.ContainsFunc(p.Approvers[:i], func(before string) bool { return sameLogin(before, login) }) {
			return &usererr.Error{Field: fmt.Sprintf("approvers[%d]", i), Problem: fmt.Sprintf("%s is there twice", login), Fix: "remove one"}
		}
	}
	if !slices.Contains(p.Before, Promote) {
		return &usererr.Error{Field: "before", Problem: "promote is not in it, and what promote does is what the gate is for", Fix: "give [promote] or [canary, promote]"}
	}
	return nil
}

// Hash names a policy that was checked. The order of a list does not matter.
func (p *Policy) Hash() string {
	sorted := *p
	sorted.Approvers, sorted.Before = slices.Sorted(slices.Values(p.Approvers)), slices.Sorted(slices.Values(p.Before))
	text, err := json.Marshal(sorted)
	if err != nil {
		panic(err) // plain data: cannot fail
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

// where says whose jobs the policy asks. It does not change with a crossbill.yaml: another protected ref has its own, which
// could name itself and its own approvers.
func (p *Policy) where() string {
	return fmt.Sprintf("the jobs of %s at %s on %s for %s", p.Project, p.Issuer, p.Ref, p.Environment)
}

// beyond are the commands that the policy is asked before beside promote, which every policy is.
func (p *Policy) beyond() []string {
	return slices.DeleteFunc(slices.Sorted(slices.Values(p.Before)), func(command string) bool { return command == Promote })
}

// Who says who may approve, for people.
func (p *Policy) Who() string {
	if len(p.Approvers) > 0 {
		return strings.Join(p.Approvers, ", ")
	}
	return "those who may deploy to " + p.Environment
}

// Asks says whether the policy is asked before a command.
func (p *Policy) Asks(command string) bool {
	return command == Approve || slices.Contains(p.Before, command)
}
