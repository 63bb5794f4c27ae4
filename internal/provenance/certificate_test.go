package provenance

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

// fulcio issues certificates as Fulcio does for a GitHub workflow
// (sigstore/fulcio, certificate-specification.md), which ca.VirtualSigstore does not: it
// has no extensions but the issuer. Unlike the real one it asks for no identity token and puts nothing into a
// certificate transparency log; the time of the signature is from a time-stamping authority alone, as with GitHub's
// own Sigstore for private repositories.
type fulcio struct {
	*ca.VirtualSigstore
	root, intermediate *x509.Certificate
	key                *ecdsa.PrivateKey
}

func newFulcio(t *testing.T) *fulcio {
	t.Helper()
	sigstore, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	f := &fulcio{VirtualSigstore: sigstore}
	top, key, err := ca.GenerateRootCa()
	if err != nil {
		t.Fatal(err)
	}
	f.root = top
	if f.intermediate, f.key, err = ca.GenerateFulcioIntermediate(top, key); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fulcio) CTLogs() map[string]*root.TransparencyLog    { return nil }
func (f *fulcio) RekorLogs() map[string]*root.TransparencyLog { return nil }
func (f *fulcio) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return []root.CertificateAuthority{&root.FulcioCertificateAuthority{
		Root: f.root, Intermediates: []*x509.Certificate{f.intermediate},
		ValidityPeriodStart: f.root.NotBefore, ValidityPeriodEnd: f.root.NotAfter,
	}}
}

// claims are the extensions of a certificate, by the last number of their OIDs.
type claims map[int]string

const (
	issuer, signerURI, runnerEnvironment, repositoryURI, repositoryDigest, repositoryRef, configURI, trigger, invocation = 8, 9, 11, 12, 13, 14, 18, 20, 21
)

// ofMain are the claims of the release workflow on main.
func ofMain() claims {
	return claims{
		issuer: gitHub, signerURI: workflow, runnerEnvironment: "github-hosted", repositoryURI: repository, repositoryDigest: commit, repositoryRef: "refs/heads/main",
		configURI: workflow, trigger: "push", invocation: repository + "/actions/runs/1/attempts/1",
	}
}

// with are these claims but for one.
func (c claims) with(claim int, text string) claims { c[claim] = text; return c }

// GetCertificate makes it a sign.CertificateProvider.
func (c issuance) GetCertificate(_ context.Context, pair sign.Keypair, _ *sign.CertificateProviderOptions) ([]byte, error) {
	subject, err := url.Parse(c.claims[signerURI])
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{subject}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	for number, text := range c.claims {
		value, err := asn1.MarshalWithParams(text, "utf8")
		if err != nil {
			return nil, err
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: append(slices.Clone(certificate.OIDIssuerV2[:len(certificate.OIDIssuerV2)-1]), number), Value: value})
	}
	return x509.CreateCertificate(rand.Reader, template, c.fulcio.intermediate, pair.GetPublicKey(), c.fulcio.key)
}

type issuance struct {
	fulcio *fulcio
	claims claims
}

// attest signs a statement as a workflow with these claims.
func (f *fulcio) attest(t *testing.T, c claims, text []byte) *bundle.Bundle {
	t.Helper()
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := sign.Bundle(&sign.DSSEData{Data: text, PayloadType: bundle.IntotoMediaType}, pair, sign.BundleOptions{
		CertificateProvider: issuance{f, c}, CertificateProviderOptions: &sign.CertificateProviderOptions{},
	})
	if err != nil {
		t.Fatal(err)
	}
	stamp, err := f.TimestampResponse(signed.GetDsseEnvelope().GetSignatures()[0].GetSig())
	if err != nil {
		t.Fatal(err)
	}
	signed.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp}}}
	content, err := protojson.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	entity, err := parseBundle(content)
	if err != nil {
		t.Fatal(err)
	}
	return entity
}

// gitHubs is a statement as actions/attest-build-provenance makes it.
func gitHubs(digest string) string {
	return `{"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "app", "digest": {"sha256": "` + strings.TrimPrefix(digest, "sha256:") + `"}}], "predicateType": "https://slsa.dev/provenance/v1",
		"predicate": {"buildDefinition": {"buildType": "https://actions.github.io/buildtypes/workflow/v1",
		"externalParameters": {"workflow": {"ref": "refs/heads/main", "repository": "` + repository + `", "path": ".github/workflows/release.yml"}},
		"internalParameters": {"github": {"event_name": "push", "repository_id": "1", "repository_owner_id": "2", "runner_environment": "github-hosted"}},
		"resolvedDependencies": [{"uri": "git+` + repository + `@refs/heads/main", "digest": {"gitCommit": "` + commit + `"}}]},
		"runDetails": {"builder": {"id": "` + workflow + `"}, "metadata": {"invocationId": "` + repository + `/actions/runs/1/attempts/1"}}}}`
}

// TestCertificate: what a workflow says of itself counts only as far as its certificate says the same.
func TestCertificate(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	ours := good
	ours.Builder, ours.Invocation = workflow, repository+"/actions/runs/1"
	said := func(before, after string) string { return strings.ReplaceAll(gitHubs(digest), before, after) }
	const called = "https://github.com/our-org/workflows/.github/workflows/build.yml@refs/tags/v2"
	for name, test := range map[string]struct {
		statement string
		claims    claims
		says      string
	}{
		"GitHub's":                           {gitHubs(digest), ofMain(), ""},
		"ours":                               {string(provenance(t, digest, ours)), ofMain(), ""},
		"ours, in a workflow that is called": {string(provenance(t, digest, ours)), ofMain().with(signerURI, called), ""},
		"GitHub's, in one that is called":    {said(`"id": "`+workflow, `"id": "`+called), ofMain().with(signerURI, called), ""},
		"a second attempt":                   {said("/attempts/1", "/attempts/2"), ofMain(), ""},
		"GitHub's, as until 2024":            {said(`"id": "`+workflow, `"id": "https://github.com/actions/runner/github-hosted`), ofMain(), ""},
		"a runner of somebody's own":         {said(`"id": "`+workflow, `"id": "https://github.com/actions/runner/github-hosted`), ofMain().with(runnerEnvironment, "self-hosted"), `the runner "github-hosted", and the signer's certificate "self-hosted"`},
		"a pull request that says main":      {gitHubs(digest), ofMain().with(repositoryRef, "refs/pull/7/merge"), `the ref "refs/heads/main", and the signer's certificate "refs/pull/7/merge"`},
		"a pull request":                     {said("refs/heads/main", "refs/pull/7/merge"), ofMain().with(repositoryRef, "refs/pull/7/merge").with(signerURI, strings.Replace(workflow, "heads/main", "pull/7/merge", 1)).with(trigger, "pull_request"), "from refs/pull/7/merge, and the policy admits refs/heads/main only"},
		"pull_request_target":                {said(`"push"`, `"pull_request_target"`), ofMain().with(trigger, "pull_request_target"), "a pull request started the build"},
		"without a ref, on a branch":         {strings.Replace(said(`"ref": "refs/heads/main", `, ""), "@refs/heads/main", "", 1), ofMain().with(repositoryRef, "refs/heads/mine"), "from refs/heads/mine, and"},
		"another repository":                 {gitHubs(digest), ofMain().with(repositoryURI, "https://github.com/their-org/app"), "the repository"},
		"another commit":                     {gitHubs(digest), ofMain().with(repositoryDigest, strings.Repeat("b", 40)), "the commit"},
		"another builder":                    {said(`"id": "`+workflow, `"id": "`+called), ofMain(), "the builder"},
		"another workflow":                   {said("workflows/release.yml\"}", "workflows/other.yml\"}"), ofMain(), "the workflow"},
		"another run":                        {said("/runs/1/", "/runs/2/"), ofMain(), "the run"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := yaml.Marshal(Policy{Repository: repository, Identities: []Identity{{Issuer: gitHub, SubjectPattern: "https://github\\.com/our-org/.*"}}})
			if err != nil {
				t.Fatal(err)
			}
			v := verifier(t, string(text))
			v.roots = func() ([]root.TrustedMaterial, error) { return []root.TrustedMaterial{f}, nil }
			origin, err := v.accept(f.attest(t, test.claims, []byte(test.statement)), digest, Wanted{Commit: commit})
			if (test.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Fatalf("got %v, want %q", err, test.says)
			}
			if err == nil && (origin.Ref != "refs/heads/main" || origin.Invocation != test.claims[invocation] || origin.SignedBy != test.claims[signerURI]) {
				t.Errorf("%+v", origin)
			}
		})
	}
}

// TestRealProvenance: the certificate and the statement of a release that GitHub's and Sigstore's own services made
// agree as certified expects it. It is the provenance of npm's sigstore 2.0.0, which sigstore-go has among its tests.
func TestRealProvenance(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join("testdata", "sigstore.js@2.0.0-provenance.sigstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := root.NewTrustedRootFromPath(filepath.Join("testdata", "public-good.json"))
	if err != nil {
		t.Fatal(err)
	}
	const source, revision = "https://github.com/sigstore/sigstore-js", "f0b49a04e5a62250e0f60fb128004a73110fe311"
	text, err := yaml.Marshal(Policy{Repository: source, Identities: []Identity{{Issuer: gitHub, Subject: source + "/.github/workflows/release.yml@refs/heads/main"}}})
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, string(text))
	v.roots = func() ([]root.TrustedMaterial, error) { return []root.TrustedMaterial{trusted}, nil }
	entity, err := parseBundle(content)
	if err != nil {
		t.Fatal(err)
	}
	// Its subject is a package, by SHA-512: what an image's is, by SHA-256, is not tried here.
	result, signedBy, err := v.verifySignature(entity, verify.WithoutArtifactUnsafe())
	if err != nil {
		t.Fatal(err)
	}
	origin, err := v.originFrom(result, signedBy, Wanted{Commit: revision})
	if err != nil || origin.Ref != "refs/heads/main" || origin.Builder != "https://github.com/actions/runner/github-hosted" || origin.Invocation != source+"/actions/runs/5904696764/attempts/1" {
		t.Errorf("%+v, %v", origin, err)
	}
	if _, err := v.originFrom(result, signedBy, Wanted{Commit: strings.Repeat("b", 40)}); err == nil {
		t.Error("it is admitted for another commit")
	}
}
