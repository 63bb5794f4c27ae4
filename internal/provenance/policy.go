package provenance

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/httpretry"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Policy says which images may be deployed: imagePolicy in crossbill.yaml.
type Policy struct {
	// Repository is the only one that images are built from: https://github.com/our-org/qwik-node-app.
	Repository string `json:"repository"`
	// Refs are the branches and tags that images are built from: refs/heads/main, refs/tags/v*. None: refs/heads/main alone.
	Refs []string `json:"refs,omitempty"`
	// Builders are the builders that the provenance may name (SLSA's builder.id). None: any that the signer vouches for.
	Builders []string `json:"builders,omitempty"`
	// MaxAge is how old the provenance may be when the release starts. None: any age.
	MaxAge metav1.Duration `json:"maxAge,omitzero"`
	// Keys are public keys as PEM. The provenance is signed by one of them, or by one of Identities.
	Keys []string `json:"keys,omitempty"`
	// Identities are those who sign without a key of their own.
	Identities []Identity `json:"identities,omitempty"`
	// TrustedRoots are files with the roots of Sigstore services (`gh attestation trusted-root`, `cosign trusted-root
	// create`), relative to the file with the policy. None: Sigstore's public ones, which are fetched and checked by TUF.
	TrustedRoots []string `json:"trustedRoots,omitempty"`
}

// Identity is whom a certificate of Fulcio's names.
type Identity struct {
	// Issuer vouches for the subject: https://token.actions.githubusercontent.com for a GitHub workflow.
	Issuer string `json:"issuer"`
	// Subject of a GitHub workflow is the one with the signing step: https://github.com/our-org/crossbill/.github/workflows/deliver.yml@COMMIT.
	Subject string `json:"subject,omitempty"`
	// SubjectPattern is a regular expression for the whole subject, in place of Subject.
	SubjectPattern string `json:"subjectPattern,omitempty"`
}

// defaultRef is what images are built from where the policy names no ref: what the pipeline releases.
const defaultRef = "refs/heads/main"

// refPattern is the form of a ref in a policy. Its kind is literal, so that no pattern for branches admits a pull
// request's ref.
var refPattern = regexp.MustCompile(`^refs/[a-z-]+/[^\s?\[\\]+$`)

// Verifier decides which images are admitted.
type Verifier struct {
	repository string
	refs       []string
	builders   []string
	maxAge     time.Duration
	keys       []crypto.PublicKey
	identities []verify.PolicyOption
	file       string
	roots      func() ([]root.TrustedMaterial, error)
	ownRoots   bool // from files
}

// ReadVerifier reads a policy from a file of its own. Errors are *usererr.Error.
func ReadVerifier(file string) (*Verifier, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &usererr.Error{Field: "imagePolicy", Problem: err.Error(), Fix: "give the file with the policy"}
	}
	p := &Policy{}
	if err := yaml.UnmarshalStrict(text, p); err != nil {
		return nil, &usererr.Error{Field: file, Problem: err.Error(), Fix: "see docs/guides/provenance.md"}
	}
	v, invalid := NewVerifier(p, file)
	if invalid != nil {
		invalid.Field = file + " " + invalid.Field
		return nil, invalid
	}
	return v, nil
}

// NewVerifier compiles a policy that was read from a file. The field of the error is relative to the policy.
func NewVerifier(p *Policy, file string) (*Verifier, *usererr.Error) {
	invalid := func(field, problem, fix string) *usererr.Error {
		return &usererr.Error{Field: field, Problem: problem, Fix: fix}
	}
	if !strings.HasPrefix(p.Repository, "https://") || strings.ContainsAny(p.Repository, "@ ") {
		return nil, invalid("repository", fmt.Sprintf("%q is not a repository's address", p.Repository), "give https://host/owner/name")
	}
	if len(p.Keys)+len(p.Identities) == 0 {
		return nil, invalid("keys", "there is no signer", "name a key or an identity")
	}
	for i, ref := range p.Refs {
		if !refPattern.MatchString(ref) {
			return nil, invalid(fmt.Sprintf("refs[%d]", i), fmt.Sprintf("%q is not a ref", ref), "give for example refs/heads/main, or refs/tags/v*: * stands for a part of a name without /")
		}
	}
	for i, builder := range p.Builders {
		if at, err := url.Parse(builder); err != nil || at.Scheme == "" {
			return nil, invalid(fmt.Sprintf("builders[%d]", i), fmt.Sprintf("%q is not a builder's URI", builder), "give it as the provenance names it: `crossbill image inspect` shows it")
		}
	}
	if p.MaxAge.Duration < 0 {
		return nil, invalid("maxAge", p.MaxAge.Duration.String()+" is not a duration above 0", "give for example 720h")
	}
	v := &Verifier{
		refs: p.Refs, builders: p.Builders, maxAge: p.MaxAge.Duration,
		repository: strings.TrimSuffix(strings.TrimSuffix(p.Repository, "/"), ".git"),
		file:       file,
		ownRoots:   len(p.TrustedRoots) > 0,
		roots:      func() ([]root.TrustedMaterial, error) { return readRoots(p.TrustedRoots, filepath.Dir(file)) },
	}
	if len(v.refs) == 0 {
		v.refs = []string{defaultRef}
	}
	for i, text := range p.Keys {
		key, err := parseKey(text)
		if err != nil {
			return nil, invalid(fmt.Sprintf("keys[%d]", i), err.Error(), "give a public key: -----BEGIN PUBLIC KEY-----")
		}
		v.keys = append(v.keys, key)
	}
	for i, who := range p.Identities {
		field := fmt.Sprintf("identities[%d]", i)
		if who.Issuer == "" || (who.Subject == "") == (who.SubjectPattern == "") {
			return nil, invalid(field, "it needs an issuer, and either subject or subjectPattern", "see docs/guides/provenance.md")
		}
		identity, err := who.certificate()
		if err != nil {
			return nil, invalid(field+".subjectPattern", err.Error(), "give a regular expression of Go's")
		}
		v.identities = append(v.identities, verify.WithCertificateIdentity(identity))
	}
	return v, nil
}

// Check reads the files that the policy names, so that one which is missing is found before a release is touched.
// Errors are *usererr.Error.
func (v *Verifier) Check() error {
	if len(v.identities) == 0 || !v.ownRoots {
		return nil
	}
	_, err := v.roots()
	return err
}

// Repository is the only one that images may be built from.
func (v *Verifier) Repository() string { return v.repository }

// certificate is what the certificate of an identity says. A pattern is for the whole subject.
func (i Identity) certificate() (verify.CertificateIdentity, error) {
	pattern := i.SubjectPattern
	if pattern != "" {
		if _, err := regexp.Compile(pattern); err != nil {
			return verify.CertificateIdentity{}, err
		}
		pattern = "^(?:" + pattern + ")$"
	}
	return verify.NewShortCertificateIdentity(i.Issuer, "", i.Subject, pattern)
}

func parseKey(text string) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	_, err = signature.LoadDefaultVerifier(key)
	return key, err
}

// publicRoots are how Sigstore's public roots are fetched. They are fetched and checked anew each time, from the root that
// is built in, and kept nowhere: a container has no home to keep them in, and another user's cache is nobody's to trust.
// Tests fetch others.
var publicRoots = func() *tuf.Options {
	options := tuf.DefaultOptions().WithDisableLocalCache()
	fetch := fetcher.NewDefaultFetcher()
	fetch.SetHTTPUserAgent("crossbill")
	fetch.SetHTTPClient(httpretry.Client(nil))
	return options.WithFetcher(fetch)
}

// readRoots returns the roots that certificates are verified with.
func readRoots(files []string, dir string) ([]root.TrustedMaterial, error) {
	if len(files) == 0 {
		public, err := root.FetchTrustedRootWithOptions(publicRoots())
		if err != nil {
			return nil, fmt.Errorf("trusted root of Sigstore: %w; where it cannot be reached, name files in imagePolicy.trustedRoots", err)
		}
		return []root.TrustedMaterial{public}, nil
	}
	var all []root.TrustedMaterial
	for i, file := range files {
		field := fmt.Sprintf("imagePolicy.trustedRoots[%d]", i)
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, &usererr.Error{Field: field, Problem: err.Error()}
		}
		before := len(all)
		// GitHub's command writes several, one a line.
		for decoder := json.NewDecoder(strings.NewReader(string(text))); decoder.More(); {
			var raw json.RawMessage
			if err := decoder.Decode(&raw); err != nil {
				return nil, &usererr.Error{Field: field, Problem: err.Error()}
			}
			one, err := root.NewTrustedRootFromJSON(raw)
			if err != nil {
				return nil, &usererr.Error{Field: field, Problem: err.Error()}
			}
			all = append(all, one)
		}
		if len(all) == before {
			return nil, &usererr.Error{Field: field, Problem: file + " has no roots", Fix: "write it with `gh attestation trusted-root` or `cosign trusted-root create`"}
		}
	}
	return all, nil
}
