package provenance

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"sigs.k8s.io/yaml"
)

// Trust is who may have built what is deployed, as the section imagePolicy of crossbill.yaml says it.
type Trust struct {
	// Repository is the only one that images are built from: https://github.com/our-org/qwik-node-app.
	Repository string `json:"repository"`
	// Keys are public keys as PEM. One of them, or of Identities, has signed the provenance.
	Keys []string `json:"keys,omitempty"`
	// Identities are who signed without a key of their own.
	Identities []Identity `json:"identities,omitempty"`
	// TrustedRoots are files, beside this one, with the roots of Sigstore services (`gh attestation trusted-root`,
	// `cosign trusted-root create`). None: Sigstore's public ones, which are fetched and checked by TUF.
	TrustedRoots []string `json:"trustedRoots,omitempty"`

	file  string
	keys  []crypto.PublicKey
	roots func() ([]root.TrustedMaterial, error)
}

// Identity is whom a certificate of Fulcio's is made out to.
type Identity struct {
	// Issuer has seen who it is: https://token.actions.githubusercontent.com for a GitHub workflow.
	Issuer string `json:"issuer"`
	// Subject is who: https://github.com/OWNER/REPO/.github/workflows/release.yml@refs/heads/main.
	Subject string `json:"subject,omitempty"`
	// SubjectPattern is a regular expression for all of it, in the place of Subject.
	SubjectPattern string `json:"subjectPattern,omitempty"`
}

// ReadTrust reads a policy. Errors are *usererr.Error.
func ReadTrust(file string) (*Trust, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &usererr.Error{Field: "--trust", Problem: err.Error(), Fix: "give the file with the policy"}
	}
	return ParseTrust(file, text)
}

// ParseTrust reads the text of a policy; files that it names lie beside it.
func ParseTrust(file string, text []byte) (*Trust, error) {
	t := &Trust{}
	if err := yaml.UnmarshalStrict(text, t); err != nil {
		return nil, &usererr.Error{Field: file, Problem: err.Error(), Fix: "see docs/provenance.md"}
	}
	if err := t.Complete(file); err != nil {
		err.Field = file + " " + err.Field
		return nil, err
	}
	return t, nil
}

// Complete checks a policy that was decoded from a file, and reads its keys; nil if all is well.
func (t *Trust) Complete(file string) *usererr.Error {
	t.file = file
	refused := func(field, problem, fix string) *usererr.Error {
		return &usererr.Error{Field: field, Problem: problem, Fix: fix}
	}
	if !strings.HasPrefix(t.Repository, "https://") || strings.ContainsAny(t.Repository, "@ ") {
		return refused("repository", fmt.Sprintf("%q is not a repository's address", t.Repository), "give https://host/owner/name")
	}
	t.Repository = strings.TrimSuffix(strings.TrimSuffix(t.Repository, "/"), ".git")
	if len(t.Keys)+len(t.Identities) == 0 {
		return refused("keys", "nobody is trusted", "name a key or an identity")
	}
	for i, text := range t.Keys {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return refused(fmt.Sprintf("keys[%d]", i), "it is not PEM", "give a public key: -----BEGIN PUBLIC KEY-----")
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err == nil {
			_, err = signature.LoadDefaultVerifier(key)
		}
		if err != nil {
			return refused(fmt.Sprintf("keys[%d]", i), err.Error(), "give a public key: -----BEGIN PUBLIC KEY-----")
		}
		t.keys = append(t.keys, key)
	}
	for i, who := range t.Identities {
		field := fmt.Sprintf("identities[%d]", i)
		if who.Issuer == "" || (who.Subject == "") == (who.SubjectPattern == "") {
			return refused(field, "it needs an issuer, and either subject or subjectPattern", "see docs/provenance.md")
		}
		if _, err := regexp.Compile(who.SubjectPattern); err != nil {
			return refused(field+".subjectPattern", err.Error(), "")
		}
	}
	t.roots = t.readRoots
	return nil
}

// readRoots gives what certificates are checked by.
func (t *Trust) readRoots() ([]root.TrustedMaterial, error) {
	if len(t.TrustedRoots) == 0 {
		public, err := root.FetchTrustedRoot()
		if err != nil {
			return nil, fmt.Errorf("Sigstore's trusted root: %w; where it cannot be reached name files in trustedRoots", err)
		}
		return []root.TrustedMaterial{public}, nil
	}
	var all []root.TrustedMaterial
	for i, file := range t.TrustedRoots {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(t.file), file))
		if err != nil {
			return nil, &usererr.Error{Field: fmt.Sprintf("%s trustedRoots[%d]", t.file, i), Problem: err.Error()}
		}
		// GitHub's command writes several, one a line.
		for decoder := json.NewDecoder(strings.NewReader(string(text))); decoder.More(); {
			var raw json.RawMessage
			if err := decoder.Decode(&raw); err != nil {
				return nil, &usererr.Error{Field: fmt.Sprintf("%s trustedRoots[%d]", t.file, i), Problem: err.Error()}
			}
			one, err := root.NewTrustedRootFromJSON(raw)
			if err != nil {
				return nil, &usererr.Error{Field: fmt.Sprintf("%s trustedRoots[%d]", t.file, i), Problem: err.Error()}
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// Origin is where an image comes from, and who says so.
type Origin struct {
	Repository string `json:"repository"`
	Commit     string `json:"commit"`
	SignedBy   string `json:"signedBy"` // a key's fingerprint, or a certificate's subject
	Builder    string `json:"builder,omitempty"`
	Statement  string `json:"statement"` // digest of what is attached to the image
}

// RefusedError says why an image is not deployed. Nothing was changed.
type RefusedError struct {
	Image   string
	Policy  string
	Reasons []string // of each statement that was looked at
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s is refused by %s: %s; nothing was changed", e.Image, e.Policy, strings.Join(e.Reasons, "; "))
}

// Check finds a signed provenance of an image that the policy accepts, for that commit if one is given.
//
// Errors: *RefusedError; *usererr.Error for a bad image name; else the registry, or Sigstore's roots, could not
// be read.
func (t *Trust) Check(ctx context.Context, image, commit string, options ...remote.Option) (*Origin, error) {
	ref, err := name.NewDigest(image)
	if err != nil {
		return nil, &usererr.Error{Field: "--image", Problem: err.Error(), Fix: "give repository@sha256:…"}
	}
	refused := &RefusedError{Image: image, Policy: t.file}
	attached, err := List(ctx, ref, []string{bundleMediaType}, options...)
	if err != nil {
		return nil, fmt.Errorf("%w; nothing was changed", err)
	}
	for _, a := range attached {
		entity, err := parse(a.Content)
		if err != nil {
			refused.Reasons = append(refused.Reasons, fmt.Sprintf("%s is not a Sigstore bundle (%v)", short(a.Digest), err))
			continue
		}
		// What is said before it is known who says it: only to pass over signatures of other things.
		if said, err := unverified(entity); err == nil && said.PredicateType != ProvenanceType {
			continue
		}
		origin, err := t.accept(entity, ref.DigestStr(), commit)
		var input *usererr.Error
		if errors.As(err, &input) || errors.Is(err, errRoots) {
			return nil, fmt.Errorf("%w; nothing was changed", err)
		}
		if err != nil {
			refused.Reasons = append(refused.Reasons, fmt.Sprintf("provenance %s: %v", short(a.Digest), err))
			continue
		}
		origin.Statement = a.Digest
		return origin, nil
	}
	if len(refused.Reasons) == 0 {
		refused.Reasons = []string{"no provenance is attached to it: it was not built and signed by the pipeline, or the signature was not pushed"}
	}
	return nil, refused
}

func parse(content []byte) (*bundle.Bundle, error) {
	entity := &bundle.Bundle{}
	return entity, entity.UnmarshalJSON(content)
}

// unverified is what a bundle says, whoever says it.
func unverified(entity verify.SignedEntity) (*Statement, error) {
	content, err := entity.SignatureContent()
	if err != nil {
		return nil, err
	}
	envelope := content.EnvelopeContent()
	if envelope == nil {
		return nil, errors.New("it signs no statement")
	}
	payload, err := envelope.RawEnvelope().DecodeB64Payload()
	if err != nil {
		return nil, err
	}
	s := &Statement{}
	return s, json.Unmarshal(payload, s)
}

var errRoots = errors.New("no trusted root")

// accept checks who signed a statement, over which digest, and what it says of the source.
func (t *Trust) accept(entity verify.SignedEntity, digest, commit string) (*Origin, error) {
	raw, err := hex.DecodeString(strings.TrimPrefix(digest, "sha256:"))
	if err != nil || len(raw) != 32 {
		return nil, fmt.Errorf("%s is not a SHA-256", digest)
	}
	origin, result, err := t.signer(entity, verify.WithArtifactDigest("sha256", raw))
	if err != nil {
		return nil, err
	}
	// Read from the envelope whose signature was checked.
	said, err := unverified(entity)
	if err != nil {
		return nil, err
	}
	if said.PredicateType != ProvenanceType {
		return nil, fmt.Errorf("it is a statement of %q, not of provenance", said.PredicateType)
	}
	var p Provenance
	if err := json.Unmarshal(said.Predicate, &p); err != nil {
		return nil, fmt.Errorf("its provenance cannot be read: %w", err)
	}
	origin.Repository, origin.Commit = p.Source()
	origin.Builder = p.RunDetails.Builder.ID
	sources := map[string][2]string{"it": {origin.Repository, origin.Commit}}
	if certificate := result.Signature.Certificate; certificate != nil && certificate.SourceRepositoryURI != "" {
		sources["the signer's certificate"] = [2]string{certificate.SourceRepositoryURI, certificate.SourceRepositoryDigest}
	}
	for who, source := range sources {
		if source[0] != t.Repository {
			return nil, fmt.Errorf("%s says that it was built from %q, not from %s", who, source[0], t.Repository)
		}
		if commit != "" && source[1] != commit {
			return nil, fmt.Errorf("%s says that it was built from commit %q, the release is of %s", who, source[1], commit)
		}
	}
	return origin, nil
}

// signer checks a bundle's signature against each key and identity.
func (t *Trust) signer(entity verify.SignedEntity, about verify.ArtifactPolicyOption) (*Origin, *verify.VerificationResult, error) {
	content, err := entity.VerificationContent()
	if err != nil {
		return nil, nil, err
	}
	if content.Certificate() == nil {
		return t.signedByKey(entity, about)
	}
	return t.signedByIdentity(entity, about)
}

func (t *Trust) signedByKey(entity verify.SignedEntity, about verify.ArtifactPolicyOption) (*Origin, *verify.VerificationResult, error) {
	reason := errors.New("it is signed by a key, and the policy names none")
	for _, key := range t.keys {
		verifier, err := signature.LoadDefaultVerifier(key)
		if err != nil {
			return nil, nil, err
		}
		trusted := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			return root.NewExpiringKey(verifier, time.Time{}, time.Time{}), nil
		})
		v, err := verify.NewVerifier(trusted, verify.WithNoObserverTimestamps())
		if err != nil {
			return nil, nil, err
		}
		result, err := v.Verify(entity, verify.NewPolicy(about, verify.WithKey()))
		if err == nil {
			return &Origin{SignedBy: "key " + fingerprint(key)}, result, nil
		}
		reason = fmt.Errorf("it is signed by no key that the policy names, or is about another image (%w)", err)
	}
	return nil, nil, reason
}

func (t *Trust) signedByIdentity(entity verify.SignedEntity, about verify.ArtifactPolicyOption) (*Origin, *verify.VerificationResult, error) {
	if len(t.Identities) == 0 {
		return nil, nil, errors.New("it is signed by an identity, and the policy names none")
	}
	roots, err := t.roots()
	if err != nil {
		return nil, nil, errors.Join(errRoots, err)
	}
	policy := []verify.PolicyOption{}
	for _, who := range t.Identities {
		pattern := who.SubjectPattern
		if pattern != "" {
			pattern = "^(?:" + pattern + ")$"
		}
		identity, err := verify.NewShortCertificateIdentity(who.Issuer, "", who.Subject, pattern)
		if err != nil {
			return nil, nil, err
		}
		policy = append(policy, verify.WithCertificateIdentity(identity))
	}
	var reason error
	for _, trusted := range roots {
		// When it was signed must be known from a log or a time-stamping authority, whichever these services have.
		options := []verify.VerifierOption{verify.WithObserverTimestamps(1)}
		if len(trusted.RekorLogs()) > 0 {
			options = append(options, verify.WithTransparencyLog(1))
		}
		if len(trusted.CTLogs()) > 0 {
			options = append(options, verify.WithSignedCertificateTimestamps(1))
		}
		v, err := verify.NewVerifier(trusted, options...)
		if err != nil {
			return nil, nil, err
		}
		result, err := v.Verify(entity, verify.NewPolicy(about, policy...))
		if err == nil {
			return &Origin{SignedBy: result.Signature.Certificate.SubjectAlternativeName}, result, nil
		}
		reason = fmt.Errorf("its signature does not hold: %w", err)
	}
	return nil, nil, reason
}

func short(digest string) string { return digest[:min(19, len(digest))] }
