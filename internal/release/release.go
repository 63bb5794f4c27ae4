// Package release says what a release is: its identity, its plan, its stages and its ledger. It is
// pure: no I/O, no clock of its own, no knowledge of the cluster. What it promises: a digest reaches
// primary only after a healthy verdict in the same release, one release is in flight per app, and a
// finished release is never resumed.
package release

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/our-org/crossbill/internal/usererr"
)

// Track is one of the two copies of an app. It is also the name of its subset and the value of the
// label "version" of its pods, from the first release on.
type Track string

// The two tracks.
const (
	Primary Track = "primary"
	Canary  Track = "canary"
)

// Stage says how far a release in flight has come. A stage is written when its work begins where a
// death half-way must be seen (promoting, rolling_back), and when it is done everywhere else.
type Stage string

// The stages, in the order of the lifecycle.
const (
	StageStarted     Stage = "started"      // the ledger names the release; no traffic has moved
	StageCanary      Stage = "canary"       // the canary is ready and has its weight
	StageVerified    Stage = "verified"     // the verdict is in the ledger
	StagePromoting   Stage = "promoting"    // primary is taking the digest
	StagePromoted    Stage = "promoted"     // primary has the digest and all of the traffic
	StageRollingBack Stage = "rolling_back" // traffic is going back to the old primary
)

// UnmarshalText reads a stage, also as releases before 0.2 wrote it.
func (s *Stage) UnmarshalText(text []byte) error {
	if *s = Stage(text); *s == "claimed" {
		*s = StageStarted
	}
	return nil
}

// Outcome is how a release finished.
type Outcome string

// The outcomes.
const (
	OutcomeFirst      Outcome = "first"       // no primary to protect: straight to primary
	OutcomePromoted   Outcome = "promoted"    // the digest has all of the traffic
	OutcomeReturned   Outcome = "returned"    // the digest, which had it before, has all of the traffic again
	OutcomeRolledBack Outcome = "rolled_back" // the old primary has all of the traffic
	OutcomeUnchanged  Outcome = "unchanged"   // primary ran the digest already
	OutcomeSuperseded Outcome = "superseded"  // a newer release took its place before anybody approved it
)

// Good says whether a release with this outcome has all of the traffic.
func (o Outcome) Good() bool { return o != OutcomeRolledBack && o != OutcomeSuperseded }

// VerdictOutcome is the result of the analysis of a canary.
type VerdictOutcome string

// The verdicts. Too little evidence is inconclusive, which is never a pass.
const (
	Healthy      VerdictOutcome = "healthy"
	Unhealthy    VerdictOutcome = "unhealthy"
	Inconclusive VerdictOutcome = "inconclusive"
)

// Verdict is the result of the analysis of a canary, as the ledger keeps it. It is bound to what was judged: a release
// and its digest, the pod template, the canary's weight and since when it had that. A verdict of an older crossbill says
// the digest alone: nothing is promoted by it.
type Verdict struct {
	Outcome   VerdictOutcome `json:"outcome"`
	Cause     string         `json:"cause,omitempty"` // of an inconclusive one, by name
	ReleaseID string         `json:"releaseId,omitempty"`
	Digest    string         `json:"digest"`
	Template  string         `json:"template,omitempty"`
	Weight    int            `json:"weight,omitempty"`
	Since     time.Time      `json:"since,omitzero"`
	// Mirror: the canary's requests were copies of so many percent of the safe ones, beside those of testers. Callers got
	// none of the answers, and what is not safe was not judged.
	Mirror int `json:"mirror,omitempty"`
	// Match: testers sent the canary's requests, at weight 0 all that are not copies.
	Match *Match `json:"match,omitempty"`

	Reason   string    `json:"reason"`
	Requests int64     `json:"requests"` // the canary's, while it was judged
	At       time.Time `json:"at"`
	// Evidence is what the verdict rests on, enough to judge again: package verdict's Record as JSON.
	Evidence string `json:"evidence,omitempty"`
	// Dropped says that there was evidence, which the ledger had no room for.
	Dropped bool `json:"evidenceDropped,omitempty"`
}

// Subject is a verdict on the release as it is, which does not say its outcome yet.
func (r *Release) Subject() Verdict {
	return Verdict{ReleaseID: r.ID, Digest: r.Digest(), Template: r.Template, Weight: r.Weight, Since: r.weighedSince(), Mirror: r.Mirror, Match: r.Match}
}

// On says whether two verdicts are on the same: a release, its template, and a weight of the same time.
func (v Verdict) On(other Verdict) bool {
	return v.ReleaseID == other.ReleaseID && v.Digest == other.Digest && v.Template == other.Template && v.Weight == other.Weight && v.Since.Equal(other.Since) && v.Mirror == other.Mirror && v.Match.Same(other.Match)
}

// ServesSince is when the canary got traffic for the first time; zero before it has any.
func (r *Release) ServesSince() time.Time {
	for _, step := range r.Steps {
		if step.Stage == StageCanary {
			return step.At
		}
	}
	return time.Time{}
}

// weighedSince is when the canary got the weight that it has; zero before it has one.
func (r *Release) weighedSince() time.Time {
	for _, step := range slices.Backward(r.Steps) {
		if step.Stage == StageCanary {
			return step.At
		}
	}
	return time.Time{}
}

// unlike says what a verdict is on, if that is not the release as it is; "" if it is. Its harm outlives a shift: an
// unhealthy verdict holds at every weight of the same release.
func (v *Verdict) unlike(r *Release) string {
	is := r.Subject()
	switch {
	case v.Digest != is.Digest:
		return "on " + v.Digest + ", not on " + is.Digest
	case v.ReleaseID == "":
		return "by an older crossbill, which did not note what it judged"
	case v.ReleaseID != is.ReleaseID, v.Since.Before(r.StartedAt):
		return "in another run, as release " + v.ReleaseID
	case v.Template != is.Template:
		return "with another pod template"
	case v.Outcome == Unhealthy:
		return ""
	case v.Weight != is.Weight:
		return fmt.Sprintf("with %d%% of the traffic, not with %d%%", v.Weight, is.Weight)
	case v.Mirror != is.Mirror:
		return fmt.Sprintf("with copies of %d%% of the safe requests, not with %d%%", v.Mirror, is.Mirror)
	case !v.Match.Same(is.Match):
		return "with the requests of other testers"
	case !v.Since.Equal(is.Since):
		return "before the canary got its weight at " + is.Since.Format(time.RFC3339)
	}
	return ""
}

// Release is one digest on its way to primary.
type Release struct {
	ID       string   `json:"id"`
	Image    string   `json:"image"`              // repository@sha256:…
	Previous string   `json:"previous,omitempty"` // what primary ran when the release started
	Replicas int32    `json:"replicas,omitempty"` // what all of the traffic needed when the canary's share changed last
	Weight   int      `json:"weight"`             // percent of the traffic that the canary gets
	Sticky   *Sticky  `json:"sticky,omitempty"`   // a browser keeps the version that answered it first
	Stage    Stage    `json:"stage"`
	Verdict  *Verdict `json:"verdict,omitempty"`
	Reason   string   `json:"reason,omitempty"` // why it is rolling back
	// SupersededBy is the newer release that it gives way to; "" when it does not.
	SupersededBy string    `json:"supersededBy,omitempty"`
	Template     string    `json:"template"` // hash of the pod template that the canary proves
	StartedAt    time.Time `json:"startedAt"`
	StartedBy    string    `json:"startedBy"`
	Commit       string    `json:"commit,omitempty"`
	Origin       *Origin   `json:"origin,omitempty"` // of the image; nil in the ledgers of earlier versions
	PipelineURL  string    `json:"pipelineUrl,omitempty"`
	SourceURL    string    `json:"sourceUrl,omitempty"` // page of the run that triggered it
	Proposal     string    `json:"proposal,omitempty"`  // commit of the environment repository that proposed it to `crossbill run`
	Objects      *Objects  `json:"objects,omitempty"`   // what a rollback needs to find
	Steps        []Step    `json:"steps"`
	// Judged are the verdicts that another one has followed, oldest first, without their evidence.
	Judged []Verdict `json:"judged,omitempty"`

	// PrimaryReplicas is what primary had when Replicas was noted; 0: as many.
	PrimaryReplicas int32 `json:"primaryReplicas,omitempty"`

	// Untried: no pod of it was ever made, because the API server refused it. Its digest is not known to be bad.
	Untried bool `json:"untried,omitempty"`

	Takeovers []Takeover `json:"takeovers,omitempty"`

	Authors   []string   `json:"authors,omitempty"` // names of who wrote it, as whoever started it says
	Pipeline  *Pipeline  `json:"pipeline,omitempty"`
	Approvals []Approval `json:"approvals,omitempty"`

	// Config is what its pods read beside the image: Template covers the copies, which are named by their content.
	Config []Config `json:"config,omitempty"`
	// Bundle is the OCI artifact that its manifests came from: repository@sha256:…; "" when they were files.
	Bundle string `json:"bundle,omitempty"`
	// Pod is the pod template as primary got it, as JSON: what a return to this release puts back. Kept of the last releases.
	Pod string `json:"pod,omitempty"`
	// Return: it goes back to a release that had all of the traffic before. Nil: it has a canary that is judged.
	Return *Return `json:"return,omitempty"`

	// Match are the requests that reach the canary whatever its weight is, until the release ends. Nil: none.
	Match *Match `json:"match,omitempty"`
	// Mirror is how many percent of the safe requests (GET, HEAD) to primary the canary gets a copy of, whose answers nobody
	// gets. It ends when the canary gets a weight.
	Mirror int `json:"mirror,omitempty"`
	// Plan is the way that it is taken before promotion. Empty: people take it there.
	Plan Plan `json:"plan,omitempty"`

	// Git is what a release beside a GitOps controller has to do with its repository. Nil: nothing applies the app from Git.
	Git *Git `json:"git,omitempty"`

	// Asked is how often people were asked to go on with it, where that is done. Nil: never.
	Asked *Asked `json:"asked,omitempty"`

	// Baseline: new pods of what primary runs are beside the canary, which is compared with them. Only while it is in flight.
	Baseline bool `json:"baseline,omitempty"`

	// Hooks are the Jobs and web calls that its points have had, in the order in which they started.
	Hooks []HookRun `json:"hooks,omitempty"`
}

// Git is what a release has to do with the environment repository.
type Git struct {
	Controller string `json:"controller"`       // what applies the app: Flux, Argo CD
	Commit     string `json:"commit,omitempty"` // the last one that was made for it: of its promotion, or of its rollback
	// Template is the pod template that primary had there before, as JSON; "" where it is the release's own.
	Template string `json:"template,omitempty"`
	// PushOpen: the push of a job that has lost its lock may be on its way.
	PushOpen bool `json:"pushOpen,omitempty"`
}

// finished is what is worth keeping of it.
func (g *Git) finished() *Git {
	if g == nil {
		return nil
	}
	return &Git{Controller: g.Controller, Commit: g.Commit}
}

// Sticky says how browsers are kept on a version while a release is in flight.
type Sticky struct {
	Assets string `json:"assets"` // prefix of the paths whose files have a hash of their content in their names
}

// Takeover is a lock that was taken from a job, by whom and when.
type Takeover struct {
	From string    `json:"from"`
	By   string    `json:"by"`
	At   time.Time `json:"at"`
}

// Step is one stage reached, by whom and when.
type Step struct {
	Stage  Stage     `json:"stage"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Weight int       `json:"weight,omitempty"` // the canary's from here on, in percent, where a stage gives it one
	Gets   string    `json:"gets,omitempty"`   // what leads to the canary from here on, where it is more than its weight
}

// WithoutEvidence is the release for people to read: what its verdict rests on and the pod templates are long, and left out.
func (r *Release) WithoutEvidence() *Release {
	if r == nil {
		return nil
	}
	short := *r
	short.Pod, short.Git = "", r.Git.finished()
	if r.Verdict != nil {
		verdict := *r.Verdict
		verdict.Evidence = ""
		short.Verdict = &verdict
	}
	return &short
}

// Reached says whether the release has ever been at a stage.
func (r *Release) Reached(stage Stage) bool {
	return slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Stage == stage })
}

// Digest is the image's digest, sha256:….
func (r *Release) Digest() string { return DigestOf(r.Image) }

// DigestOf gives the digest of an image reference, or "" when it has none.
func DigestOf(image string) string {
	ref, err := name.NewDigest(image)
	if err != nil {
		return ""
	}
	return ref.DigestStr()
}

// Shortly is an image for a line that people read: its digest, or all of it where it is named by tag.
func Shortly(image string) string {
	if digest := DigestOf(image); digest != "" {
		return digest
	}
	return image
}

// ParseImage checks that an image reference has a digest and drops its tag: a release is named by
// its digest, and nothing is ever deployed by tag. Accepts repository@sha256:… and
// repository:tag@sha256:….
func ParseImage(field, image string) (string, error) {
	ref, err := name.NewDigest(image)
	if err != nil {
		return "", &usererr.Error{
			Field:   field,
			Problem: fmt.Sprintf("%q is not an image with a digest", image),
			Fix:     "give repository@sha256:…, as `crossbill image build --push` or `crossbill image digest` prints it",
		}
	}
	return ref.Context().Name() + "@" + ref.DigestStr(), nil
}

// ParseBundle checks that a reference to a bundle has a digest, and drops its tag. Accepts what ParseImage does, also
// behind oci://, and gives repository@sha256:….
func ParseBundle(field, bundle string) (string, error) {
	reference := strings.TrimPrefix(bundle, "oci://")
	ref, err := name.NewDigest(reference)
	if err != nil || strings.Contains(reference, "://") {
		return "", &usererr.Error{
			Field:   field,
			Problem: fmt.Sprintf("%q is not a bundle with a digest", bundle),
			Fix:     "give repository@sha256:…, as `crossbill bundle` prints it",
		}
	}
	return ref.Context().Name() + "@" + ref.DigestStr(), nil
}

// The forms of the name of a release and of a commit. .gitlab-ci.yml has the same patterns, so that GitLab checks them
// as well.
var (
	IDPattern     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	CommitPattern = regexp.MustCompile(`^[0-9a-f]{7,64}$`)
)

// CheckID checks the name of a release.
func CheckID(field, id string) error {
	if !IDPattern.MatchString(id) {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not a release id", id), Fix: "give lower-case letters, digits and hyphens, at most 63, as `crossbill trigger` prints them"}
	}
	return nil
}

// CheckCommit checks the commit that an image was built from.
func CheckCommit(field, commit string) error {
	if !CommitPattern.MatchString(commit) {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not a commit", commit), Fix: "give 7 to 64 hexadecimal digits, as `git rev-parse HEAD` prints them"}
	}
	return nil
}

// ParseWeight checks a canary's weight in percent.
func ParseWeight(field string, weight int) error {
	if weight < 1 || weight > 99 {
		return &usererr.Error{
			Field:   field,
			Problem: fmt.Sprintf("%d is not a weight", weight),
			Fix:     "give a percentage from 1 to 99; 100 is what promote does",
		}
	}
	return nil
}

// CheckSteps checks the weights in percent that a canary goes through: at least one, and rising.
func CheckSteps(field string, steps []int) error {
	const fix = "give rising percentages, for example 10,25,50"
	if len(steps) == 0 {
		return &usererr.Error{Field: field, Problem: "is missing", Fix: fix}
	}
	for i, weight := range steps {
		if err := ParseWeight(field, weight); err != nil {
			return err
		}
		if i > 0 && weight <= steps[i-1] {
			return &usererr.Error{Field: field, Problem: fmt.Sprintf("%d comes after %d", weight, steps[i-1]), Fix: fix}
		}
	}
	return nil
}
