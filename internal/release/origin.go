package release

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Origin is where a release's image comes from, as the image policy admitted it when the release started.
type Origin struct {
	// Unchecked says why the origin was not checked; then the rest is not known, or was true of an earlier command.
	Unchecked string `json:"unchecked,omitempty"`

	Repository string `json:"repository,omitempty"`
	Commit     string `json:"commit,omitempty"`
	Ref        string `json:"ref,omitempty"`
	Builder    string `json:"builder,omitempty"`
	SignedBy   string `json:"signedBy,omitempty"`
	Run        string `json:"run,omitempty"` // URL of the run that built it
	// MadeAt is when the provenance was made; Verified says that a log or a time-stamping authority has seen it, and not
	// only its signer says so.
	MadeAt   time.Time `json:"madeAt,omitzero"`
	Verified bool      `json:"timeVerified,omitempty"`
	// Older says in what it is older than what primary ran, where it was released nevertheless.
	Older string `json:"older,omitempty"`
}

// Serving is what the last release that got all of the traffic left on primary.
type Serving struct {
	Digest string `json:"digest"`
	Origin Origin `json:"origin"`
}

// String is the origin for people.
func (o *Origin) String() string {
	switch {
	case o == nil:
		return "not noted"
	case o.Unchecked != "":
		return "not checked: " + o.Unchecked
	}
	text := fmt.Sprintf("%s at %s (%s), signed by %s", o.Repository, o.Commit, o.Ref, o.SignedBy)
	if o.Older != "" {
		text += "; older than what primary ran: " + o.Older
	}
	return text
}

// checked says whether an image policy has admitted the origin.
func (o *Origin) checked() bool { return o != nil && o.Unchecked == "" }

// Older says in what a release's image is older than the one that primary runs; "" when it is not, when both are of one
// commit, or when one of the two origins is not known. Runs of one workflow host are compared by their numbers, which
// a second attempt keeps, so that an old commit does not become young by being built again; else the times are.
func (l *Ledger) Older(want *Release) string {
	if l.Serving == nil || !want.Origin.checked() || DigestOf(want.Previous) != l.Serving.Digest {
		return ""
	}
	ours, primary := want.Origin, &l.Serving.Origin
	if ours.Repository != primary.Repository || ours.Commit == primary.Commit {
		return ""
	}
	of, run := runNumber(ours.Run)
	ofPrimary, runOfPrimary := runNumber(primary.Run)
	switch {
	case of != "" && of == ofPrimary:
		if run < runOfPrimary {
			return fmt.Sprintf("it was built in run %d, primary's in run %d", run, runOfPrimary)
		}
	case primary.MadeAt.IsZero():
	case ours.MadeAt.IsZero():
		return "it does not say when it was built, primary's does: " + primary.MadeAt.Format(time.RFC3339)
	case ours.MadeAt.Before(primary.MadeAt):
		return fmt.Sprintf("its provenance is of %s, primary's of %s", ours.MadeAt.Format(time.RFC3339), primary.MadeAt.Format(time.RFC3339))
	}
	return ""
}

// runNumber are the repository and the number of a GitHub run, https://github.com/OWNER/REPO/actions/runs/NUMBER; "" and
// 0 of another address.
func runNumber(address string) (repository string, number int64) {
	repository, rest, ok := strings.Cut(address, "/actions/runs/")
	text, _, _ := strings.Cut(rest, "/")
	number, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || number <= 0 {
		return "", 0
	}
	return repository, number
}

// serve notes what primary runs now that a release has got all of the traffic.
func (l *Ledger) serve(r *Release) {
	switch {
	case !r.Origin.checked():
		if l.Serving != nil && l.Serving.Digest != r.Digest() {
			l.Serving = nil
		}
	case l.Serving == nil || l.Serving.Digest != r.Digest(): // else it was signed once more, which makes it no younger
		l.Serving = &Serving{Digest: r.Digest(), Origin: *r.Origin}
	}
}
