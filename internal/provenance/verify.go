package provenance

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

// Origin is where an image comes from, and who says so.
type Origin struct {
	Repository string `json:"repository"`
	Commit     string `json:"commit"`
	Ref        string `json:"ref,omitempty"`      // refs/heads/main
	SignedBy   string `json:"signedBy,omitempty"` // a key's fingerprint, or a certificate's subject
	Builder    string `json:"builder,omitempty"`
	// SignedAt is when it was signed, as a log or a time-stamping authority has it that the policy's roots trust: verified.
	SignedAt time.Time `json:"signedAt,omitzero"`
	// FinishedAt is when the build ended, as the signer says it.
	FinishedAt      time.Time `json:"finishedAt,omitzero"`
	Invocation      string    `json:"invocation,omitempty"`      // URL of the run that built it
	StatementDigest string    `json:"statementDigest,omitempty"` // of the attachment
}

// MadeAt is when the provenance was made: as it was verified, else as its signer says; zero when nobody says it.
func (o *Origin) MadeAt() time.Time {
	if !o.SignedAt.IsZero() {
		return o.SignedAt
	}
	return o.FinishedAt
}

// RejectedError says why an image is not deployed.
type RejectedError struct {
	Image   string
	Policy  string   // the file
	Reasons []string // one for each statement that was looked at
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("%s is rejected by the image policy in %s: %s; nothing was changed", e.Image, e.Policy, strings.Join(e.Reasons, "; "))
}

// Wanted is what a release asks of its image's provenance, beside the policy.
type Wanted struct {
	Commit string    // that it was built from; "" for any
	At     time.Time // when the release started: until then the provenance ages; zero is now
	AnyAge bool      // it is no release's: the policy's age does not count
}

// Verify finds a signed provenance of an image that the policy accepts, and that is what is wanted.
//
// Errors: *RejectedError; *usererr.Error for a bad image name or root; otherwise the registry or Sigstore's roots could
// not be read.
func (v *Verifier) Verify(ctx context.Context, image string, want Wanted, options ...remote.Option) (*Origin, error) {
	ref, err := name.NewDigest(image)
	if err != nil {
		return nil, &usererr.Error{Field: "image", Problem: err.Error(), Fix: "give repository@sha256:…"}
	}
	once := *v
	once.roots = sync.OnceValues(v.roots)
	s := &search{Verifier: &once, digest: ref.DigestStr(), want: want}
	looked, err := readAttachments(ctx, ref, []string{bundleMediaType}, options, s.look)
	switch {
	case err != nil:
	case s.found != nil:
		return s.found, nil
	case s.failed != nil:
		err = s.failed
	case looked.failed != nil: // what it would have been is not known
		err = looked.failed
	default:
		reasons := fewer(append(s.reasons, looked.skipped...))
		if reasons = append(reasons, looked.unseen...); len(reasons) == 0 {
			reasons = []string{"it has no provenance: it was not built and signed by the pipeline, or the signature was not pushed"}
		}
		return nil, &RejectedError{Image: image, Policy: v.file, Reasons: reasons}
	}
	return nil, fmt.Errorf("%w; nothing was changed", err)
}

// search looks for a provenance that is accepted.
type search struct {
	*Verifier
	digest string
	want   Wanted

	found   *Origin
	reasons []string // one for each that is rejected
	failed  error    // what could not be verified
}

// look verifies one attachment, and says whether it is the last one to look at.
func (s *search) look(a attachment) bool {
	entity, err := parseBundle(a.content)
	if err != nil {
		s.reasons = append(s.reasons, fmt.Sprintf("%s is not a Sigstore bundle (%v)", short(a.digest), err))
		return false
	}
	// Not verified yet: it only serves to skip statements about other things.
	if statement, err := unverified(entity); err == nil && statement.GetPredicateType() != provenanceType {
		return false
	}
	origin, err := s.accept(entity, s.digest, s.want)
	switch {
	case errors.As(err, new(*usererr.Error)) || errors.Is(err, errRoots):
		s.failed = cmp.Or(s.failed, err) // another one may need no roots
		return false
	case err != nil:
		s.reasons = append(s.reasons, fmt.Sprintf("provenance %s: %v", short(a.digest), err))
		return false
	}
	origin.StatementDigest = a.digest
	s.found = origin
	return true
}

// maxReasons is how many reasons of one kind a rejection names.
const maxReasons = 10

// fewer are reasons that a person reads.
func fewer(reasons []string) []string {
	if len(reasons) <= maxReasons {
		return reasons
	}
	return append(reasons[:maxReasons:maxReasons], fmt.Sprintf("and %d more attachments are as little a provenance", len(reasons)-maxReasons))
}

func parseBundle(content []byte) (*bundle.Bundle, error) {
	entity := &bundle.Bundle{}
	return entity, entity.UnmarshalJSON(content)
}

var errRoots = errors.New("no trusted root")

// accept checks who signed a statement, that it is a provenance about the digest, and which source and builder it names.
func (v *Verifier) accept(entity verify.SignedEntity, digest string, want Wanted) (*Origin, error) {
	raw, err := hex.DecodeString(strings.TrimPrefix(digest, "sha256:"))
	if err != nil || len(raw) != 32 {
		return nil, fmt.Errorf("%s is not a SHA-256", digest)
	}
	result, signedBy, err := v.verifySignature(entity, verify.WithArtifactDigest("sha256", raw))
	if err != nil {
		return nil, err
	}
	return v.originFrom(result, signedBy, want)
}

// originFrom reads the origin from a statement whose signature holds, and compares it with the policy's.
func (v *Verifier) originFrom(result *verify.VerificationResult, signedBy string, want Wanted) (*Origin, error) {
	s := result.Statement // from the envelope whose signature holds; nil when no envelope was signed
	switch {
	case s == nil:
		return nil, errors.New("it signs no statement")
	case s.GetPredicateType() != provenanceType:
		return nil, fmt.Errorf("it is a statement of %q, not of provenance", s.GetPredicateType())
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("its statement is invalid: %w", err)
	}
	p, err := predicateOf(s)
	if err != nil {
		return nil, fmt.Errorf("its provenance cannot be read: %w", err)
	}
	origin, err := p.origin()
	if err != nil {
		return nil, fmt.Errorf("its provenance contradicts itself: %w", err)
	}
	origin.SignedBy = signedBy
	for _, stamp := range result.VerifiedTimestamps {
		if at := stamp.Timestamp.UTC(); origin.SignedAt.IsZero() || at.Before(origin.SignedAt) {
			origin.SignedAt = at // of more than one the first: it was there then
		}
	}
	if c := result.Signature.Certificate; c != nil {
		if err := certified(origin, p, c); err != nil {
			return nil, err
		}
	}
	return origin, v.checkOrigin(origin, want)
}

// checkOrigin compares an origin with the policy's, and with what is wanted.
func (v *Verifier) checkOrigin(o *Origin, want Wanted) error {
	admits := func(ref string) func(string) bool {
		return func(pattern string) bool { ok, err := path.Match(pattern, ref); return ok && err == nil }
	}
	switch {
	case o.Repository != v.repository:
		return fmt.Errorf("it says that it was built from %q, not from %s", o.Repository, v.repository)
	case want.Commit != "" && o.Commit != want.Commit:
		return fmt.Errorf("it says that it was built from commit %q, the release is of %s", o.Commit, want.Commit)
	case o.Ref == "":
		return fmt.Errorf("it names no branch or tag that it was built from, and the policy admits %s only: sign it again with `crossbill image attest --ref`", strings.Join(v.refs, ", "))
	case !slices.ContainsFunc(v.refs, admits(o.Ref)):
		return fmt.Errorf("it says that it was built from %s, and the policy admits %s only", o.Ref, strings.Join(v.refs, ", "))
	case len(v.builders) > 0 && !slices.Contains(v.builders, o.Builder):
		return fmt.Errorf("it names the builder %q, and the policy admits %s only", o.Builder, strings.Join(v.builders, ", "))
	}
	return v.checkAge(o, want)
}

// clockSkew is how far ahead of this machine's clock another one may be.
const clockSkew = 5 * time.Minute

// checkAge finds a provenance that is too old, or from the future: a signer who says any time must not make it young
// for ever.
func (v *Verifier) checkAge(o *Origin, want Wanted) error {
	at, bound := want.At, v.maxAge
	if want.AnyAge {
		bound = 0
	}
	made, says := o.MadeAt(), "it was signed at"
	if o.SignedAt.IsZero() {
		says = "its signer says that the build ended at"
	}
	if at.IsZero() {
		at = time.Now()
	}
	switch age := at.Sub(made); {
	case made.IsZero() && bound > 0:
		return fmt.Errorf("it does not say when it was made, and the policy admits what is at most %s old", bound)
	case made.IsZero():
	case made.After(time.Now().Add(clockSkew)):
		return fmt.Errorf("%s %s, which is in the future", says, made.Format(time.RFC3339))
	case bound > 0 && age > bound:
		return fmt.Errorf("%s %s, and the policy admits what is at most %s old", says, made.Format(time.RFC3339), bound)
	}
	return nil
}

// verifySignature verifies a bundle with the policy's keys or identities, and returns who signed it.
func (v *Verifier) verifySignature(entity verify.SignedEntity, about verify.ArtifactPolicyOption) (*verify.VerificationResult, string, error) {
	content, err := entity.VerificationContent()
	if err != nil {
		return nil, "", err
	}
	if content.Certificate() == nil {
		return v.verifyKey(entity, about)
	}
	return v.verifyIdentity(entity, about)
}

func (v *Verifier) verifyKey(entity verify.SignedEntity, about verify.ArtifactPolicyOption) (*verify.VerificationResult, string, error) {
	reason := errors.New("it is signed by a key, and the policy names none")
	for _, key := range v.keys {
		verifier, err := signature.LoadDefaultVerifier(key)
		if err != nil {
			return nil, "", err
		}
		trusted := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			return root.NewExpiringKey(verifier, time.Time{}, time.Time{}), nil
		})
		sigstore, err := verify.NewVerifier(trusted, verify.WithNoObserverTimestamps())
		if err != nil {
			return nil, "", err
		}
		result, err := sigstore.Verify(entity, verify.NewPolicy(about, verify.WithKey()))
		if err == nil {
			return result, "key " + fingerprint(key), nil
		}
		reason = fmt.Errorf("it is signed by no key that the policy names, or is about another image (%w)", err)
	}
	return nil, "", reason
}

func (v *Verifier) verifyIdentity(entity verify.SignedEntity, about verify.ArtifactPolicyOption) (*verify.VerificationResult, string, error) {
	if len(v.identities) == 0 {
		return nil, "", errors.New("it is signed by an identity, and the policy names none")
	}
	roots, err := v.roots()
	if err != nil {
		return nil, "", errors.Join(errRoots, err)
	}
	reason := errors.New("the policy's trusted roots are empty")
	for _, trusted := range roots {
		// When it was signed must be known from a log or a time-stamping authority, whichever these services have.
		options := []verify.VerifierOption{verify.WithObserverTimestamps(1)}
		if len(trusted.RekorLogs()) > 0 {
			options = append(options, verify.WithTransparencyLog(1))
		}
		if len(trusted.CTLogs()) > 0 {
			options = append(options, verify.WithSignedCertificateTimestamps(1))
		}
		sigstore, err := verify.NewVerifier(trusted, options...)
		if err != nil {
			return nil, "", err
		}
		result, err := sigstore.Verify(entity, verify.NewPolicy(about, v.identities...))
		if err == nil {
			return result, result.Signature.Certificate.SubjectAlternativeName, nil
		}
		reason = fmt.Errorf("its signature is not valid: %w", err)
	}
	return nil, "", reason
}

func short(digest string) string { return digest[:min(19, len(digest))] }
