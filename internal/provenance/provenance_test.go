package provenance

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1random "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/our-org/crossbill/internal/usererr"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"google.golang.org/protobuf/encoding/protojson"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	repository = "https://github.com/our-org/app"
	commit     = "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe"
	workflow   = "https://github.com/our-org/app/.github/workflows/release.yml@refs/heads/main"
	gitHub     = "https://token.actions.githubusercontent.com"
)

// pushed is an image in a registry of its own.
func pushed(t *testing.T, options ...registry.Option) name.Digest {
	t.Helper()
	server := httptest.NewServer(registry.New(append(options, registry.Logger(log.New(io.Discard, "", 0)))...))
	t.Cleanup(server.Close)
	return push(t, strings.TrimPrefix(server.URL, "http://")+"/our-org/app")
}

func push(t *testing.T, repository string) name.Digest {
	t.Helper()
	image, err := v1random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(repository + "@" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	return ref
}

// keys makes a key pair: a signer with the private one and a policy that names the public one.
func keys(t *testing.T) (*Signer, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer(t, key), policyOf(t, key.Public())
}

func signer(t *testing.T, key crypto.Signer) *Signer {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewKeySigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func policyOf(t *testing.T, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(Policy{Repository: repository, Keys: []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func verifier(t *testing.T, policy string) *Verifier {
	t.Helper()
	p := &Policy{}
	if err := yaml.UnmarshalStrict([]byte(policy), p); err != nil {
		t.Fatal(err)
	}
	v, invalid := NewVerifier(p, "crossbill.yaml")
	if invalid != nil {
		t.Fatal(invalid)
	}
	return v
}

var good = Build{Repository: repository, Ref: "refs/heads/main", Commit: commit, Builder: "https://github.com/our-org/app/actions", Base: "gcr.io/distroless/nodejs24-debian12@sha256:" + strings.Repeat("d", 64)}

// provenance is a statement that an image was built so.
func provenance(t *testing.T, digest string, b Build) []byte {
	t.Helper()
	predicate, err := b.provenance()
	if err != nil {
		t.Fatal(err)
	}
	text, err := statement("registry.example.com/our-org/app", digest, provenanceType, predicate)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// bareSignature is a statement that says nothing.
func bareSignature(t *testing.T, digest string) []byte {
	t.Helper()
	text, err := statement("registry.example.com/our-org/app", digest, signatureType, nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// edited is a statement with another text in it.
func edited(t *testing.T, statement []byte, before, after string) []byte {
	t.Helper()
	if bytes.Count(statement, []byte(before)) != 1 {
		t.Fatalf("%q is not once in %s", before, statement)
	}
	return bytes.Replace(statement, []byte(before), []byte(after), 1)
}

func signed(t *testing.T, s *Signer, statement []byte) []byte {
	t.Helper()
	text, err := s.sign(t.Context(), statement)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func attachBundle(t *testing.T, image name.Digest, content []byte) {
	t.Helper()
	annotations := map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": provenanceType}
	if _, err := attach(t.Context(), image, bundleMediaType, content, annotations, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// TestVerify: an image is admitted only when its provenance was signed by somebody whom the policy names, about this
// digest, this repository and this commit.
func TestVerify(t *testing.T) {
	ours, policy := keys(t)
	others, _ := keys(t)
	mallory := good
	mallory.Repository = "https://github.com/their-org/app"
	fork := good
	fork.Repository = repository + "-fork"
	unknown := good
	unknown.Commit = ""
	pull, refless := good, good
	pull.Ref, refless.Ref = "refs/pull/7/merge", ""
	const zero = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for name, test := range map[string]struct {
		bundles func(t *testing.T, digest string) [][]byte // that are attached to the image, in this order
		commit  string
		reason  string // of the rejection; "" for an image that is admitted
	}{
		"built and signed by us": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, d, good))}
		}, commit, ""},
		"any commit": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, d, good))}
		}, "", ""},
		"valid after invalid": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, others, provenance(t, d, good)), []byte("{}"), signed(t, ours, provenance(t, d, good))}
		}, commit, ""},
		"several subjects, ours among them": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, provenance(t, zero, good), `"subject":[`, `"subject":[{"name":"app","digest":{"sha256":"`+strings.TrimPrefix(d, "sha256:")+`"}},`))}
		}, commit, ""},
		"several subjects, ours under another algorithm": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, provenance(t, zero, good), `"subject":[`, `"subject":[{"name":"app","digest":{"sha512_256":"`+strings.TrimPrefix(d, "sha256:")+`"}},`))}
		}, commit, "or is about another image"},
		"no subject": {func(t *testing.T, d string) [][]byte {
			text := provenance(t, d, good)
			return [][]byte{signed(t, ours, edited(t, text, `"subject":[{"name":"registry.example.com/our-org/app","digest":{"sha256":"`+strings.TrimPrefix(d, "sha256:")+`"}}],`, ""))}
		}, commit, "or is about another image"},
		"nothing attached": {func(*testing.T, string) [][]byte { return nil }, commit, "it has no provenance"},
		"a signature alone": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, bareSignature(t, d))}
		}, commit, "it has no provenance"},
		"another predicate type": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, provenance(t, d, good), provenanceType, "https://slsa.dev/provenance/v2"))}
		}, commit, "it has no provenance"},
		"two predicate types": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, bareSignature(t, d), `"predicateType":`, `"predicateType":"`+provenanceType+`","predicateType":`))}
		}, commit, "provenance sha256:"},
		"another statement type": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, provenance(t, d, good), "https://in-toto.io/Statement/v1", "https://example.com/Statement/v1"))}
		}, commit, "wrong statement type"},
		"another payload type": {func(t *testing.T, d string) [][]byte {
			text, err := sign.Bundle(&sign.DSSEData{Data: provenance(t, d, good), PayloadType: "application/json"}, ours.keypair, sign.BundleOptions{})
			if err != nil {
				t.Fatal(err)
			}
			content, err := protojson.Marshal(text)
			if err != nil {
				t.Fatal(err)
			}
			return [][]byte{content}
		}, commit, "unsupported DSSE payload type"},
		"a field that in-toto does not have": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, provenance(t, d, good), `"subject":`, `"surprise":1,"subject":`))}
		}, commit, "provenance sha256:"},
		"a provenance of another form": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, provenance(t, d, good), `"builder":{"id":"`+good.Builder+`"}`, `"builder":"us"`))}
		}, commit, "its provenance cannot be read"},
		"signed by another key": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, others, provenance(t, d, good))}
		}, commit, "signed by no key that the policy names"},
		"another key under our name": {func(t *testing.T, d string) [][]byte {
			theirs := signed(t, others, provenance(t, d, good))
			return [][]byte{bytes.ReplaceAll(theirs, others.keypair.GetHint(), ours.keypair.GetHint())}
		}, commit, "signed by no key that the policy names"},
		"another image's provenance": {func(t *testing.T, _ string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, zero, good))}
		}, commit, "or is about another image"},
		"another repository": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, d, mallory))}
		}, commit, "not from " + repository},
		"a repository that starts as ours": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, d, fork))}
		}, commit, "not from " + repository},
		"another commit": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, d, good))}
		}, strings.Repeat("b", 40), "the release is of bbbb"},
		"no commit": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, d, unknown))}
		}, commit, "not from"},
		"a pull request": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, d, pull))}
		}, commit, "from refs/pull/7/merge, and the policy admits refs/heads/main only"},
		"no ref": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, provenance(t, d, refless))}
		}, commit, "it names no branch or tag"},
		"a pull request that says main in its parameters": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, provenance(t, d, pull), `"ref":"refs/pull/7/merge"`, `"ref":"refs/heads/main"`))}
		}, commit, "its parameters name refs/heads/main, its dependency refs/pull/7/merge"},
		"another repository in its parameters": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signed(t, ours, edited(t, provenance(t, d, good), `"repository":"`+repository+`"`, `"repository":"https://github.com/their-org/app"`))}
		}, commit, "its parameters name https://github.com/their-org/app"},
		"a payload that was changed after it was signed": {func(t *testing.T, d string) [][]byte {
			return [][]byte{withPayload(t, signed(t, ours, provenance(t, zero, good)), provenance(t, d, good))}
		}, commit, "signed by no key"},
		"a signed digest without a statement": {func(t *testing.T, d string) [][]byte {
			return [][]byte{signedDigest(t, ours, d)}
		}, commit, "it signs no statement"},
		"not a bundle": {func(*testing.T, string) [][]byte { return [][]byte{[]byte(`{"mediaType": "x"}`)} }, commit, "is not a Sigstore bundle"},
	} {
		for registryName, options := range map[string][]registry.Option{"referrers": {registry.WithReferrersSupport(true)}, "tag": nil} {
			t.Run(name+", "+registryName, func(t *testing.T) {
				t.Parallel()
				image := pushed(t, options...)
				for _, content := range test.bundles(t, image.DigestStr()) {
					attachBundle(t, image, content)
				}
				got, err := verifier(t, policy).Verify(t.Context(), image.Name(), Wanted{Commit: test.commit})
				if test.reason == "" {
					want := &Origin{Repository: repository, Commit: commit, Ref: good.Ref, Builder: good.Builder, SignedBy: "key " + string(ours.keypair.GetHint())}
					if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Origin{}, "StatementDigest")); err != nil || diff != "" {
						t.Errorf("%v, origin (-want +got):\n%s", err, diff)
					}
					return
				}
				if !errors.As(err, new(*RejectedError)) || !strings.Contains(err.Error(), test.reason) || !strings.Contains(err.Error(), "nothing was changed") {
					t.Errorf("got %v, want a rejection with %q", err, test.reason)
				}
			})
		}
	}
}

// TestRefsAndBuilders: only what was built from a ref and by a builder of the policy is admitted. A pull request's ref
// has to be named as one.
func TestRefsAndBuilders(t *testing.T) {
	t.Parallel()
	ours, policy := keys(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, test := range []struct {
		refs, builders []string
		ref, builder   string
		says           string // "" for one that is admitted
	}{
		{nil, nil, "refs/heads/main", good.Builder, ""},
		{nil, nil, "refs/heads/maintenance", good.Builder, "refs/heads/maintenance, and"},
		{nil, nil, "refs/heads/mine", good.Builder, "refs/heads/mine, and the policy admits refs/heads/main only"},
		{nil, nil, "refs/tags/v1", good.Builder, "refs/tags/v1, and"},
		{nil, nil, "main", good.Builder, "from main, and"},
		{[]string{"refs/tags/v*"}, nil, "refs/tags/v1.2.3", good.Builder, ""},
		{[]string{"refs/tags/v*"}, nil, "refs/tags/w1", good.Builder, "and the policy admits refs/tags/v* only"},
		{[]string{"refs/tags/v*"}, nil, "refs/heads/main", good.Builder, "and the policy admits"},
		{[]string{"refs/heads/*"}, nil, "refs/heads/release/1", good.Builder, "and the policy admits"},
		{[]string{"refs/heads/*", "refs/heads/release/*"}, nil, "refs/heads/release/1", good.Builder, ""},
		{[]string{"refs/heads/*", "refs/tags/*"}, nil, "refs/pull/7/merge", good.Builder, "from refs/pull/7/merge, and"},
		{[]string{"refs/heads/main", "refs/pull/*/merge"}, nil, "refs/pull/7/merge", good.Builder, ""},
		{nil, []string{workflow}, "refs/heads/main", workflow, ""},
		{nil, []string{workflow}, "refs/heads/main", workflow + "x", "it names the builder"},
		{nil, []string{workflow}, "refs/heads/main", strings.Replace(workflow, "release", "pull-request", 1), "and the policy admits " + workflow + " only"},
	} {
		t.Run(strings.Join(test.refs, " ")+" "+test.ref+" "+test.builder, func(t *testing.T) {
			p := &Policy{}
			if err := yaml.UnmarshalStrict([]byte(policy), p); err != nil {
				t.Fatal(err)
			}
			p.Refs, p.Builders = test.refs, test.builders
			v, invalid := NewVerifier(p, "crossbill.yaml")
			if invalid != nil {
				t.Fatal(invalid)
			}
			b := good
			b.Ref, b.Builder = test.ref, test.builder
			entity, err := parseBundle(signed(t, ours, provenance(t, digest, b)))
			if err != nil {
				t.Fatal(err)
			}
			_, err = v.accept(entity, digest, Wanted{Commit: commit})
			if (test.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
}

// TestAge: what is too old when the release starts is rejected, by the time of the log or authority if there is one, else by
// what the signer says.
func TestAge(t *testing.T) {
	t.Parallel()
	ours, policy := keys(t)
	f := newFulcio(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	hour := metav1.Duration{Duration: time.Hour}
	for name, test := range map[string]struct {
		maxAge   metav1.Duration
		ago      time.Duration // since the build ended, as the statement says; 0 for one that does not say it
		started  time.Duration // since the release started
		verified bool          // signed just now, as an authority says
		says     string
		anyAge   bool
	}{
		"any age":                         {ago: 10000 * time.Hour},
		"no time, any age":                {},
		"no release's":                    {maxAge: hour, ago: 70 * time.Minute, anyAge: true},
		"young":                           {maxAge: hour, ago: 50 * time.Minute},
		"old":                             {maxAge: hour, ago: 70 * time.Minute, says: "its signer says that the build ended at"},
		"old now, young when it started":  {maxAge: hour, ago: 70 * time.Minute, started: 30 * time.Minute},
		"no time":                         {maxAge: hour, says: "it does not say when it was made"},
		"in the future":                   {ago: -time.Hour, says: "in the future"},
		"a clock that is ahead":           {maxAge: hour, ago: -time.Minute},
		"said to be old, signed just now": {maxAge: hour, ago: 70 * time.Minute, verified: true},
		"without a time, signed just now": {maxAge: hour, verified: true},
		"signed before the release":       {maxAge: hour, started: -2 * time.Hour, verified: true, says: "it was signed at"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := good
			if test.ago != 0 {
				b.FinishedAt = time.Now().Add(-test.ago)
			}
			p := &Policy{}
			if err := yaml.UnmarshalStrict([]byte(policy), p); err != nil {
				t.Fatal(err)
			}
			p.MaxAge, p.Identities = test.maxAge, []Identity{{Issuer: gitHub, Subject: workflow}}
			v, invalid := NewVerifier(p, "crossbill.yaml")
			if invalid != nil {
				t.Fatal(invalid)
			}
			v.roots = func() ([]root.TrustedMaterial, error) { return []root.TrustedMaterial{f}, nil }
			entity, err := parseBundle(signed(t, ours, provenance(t, digest, b)))
			if err != nil {
				t.Fatal(err)
			}
			if test.verified {
				b.Builder = workflow
				entity = f.attest(t, ofMain(), provenance(t, digest, b))
			}
			want := Wanted{Commit: commit, AnyAge: test.anyAge}
			if test.started != 0 {
				want.At = time.Now().Add(-test.started)
			}
			origin, err := v.accept(entity, digest, want)
			if (test.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			if err == nil && test.verified == origin.SignedAt.IsZero() {
				t.Errorf("signed at %s", origin.SignedAt)
			}
		})
	}
}

// withPayload is a bundle with another payload under its signature.
func withPayload(t *testing.T, content, payload []byte) []byte {
	t.Helper()
	var b map[string]any
	if err := json.Unmarshal(content, &b); err != nil {
		t.Fatal(err)
	}
	b["dsseEnvelope"].(map[string]any)["payload"] = payload // as base64
	forged, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return forged
}

// signedDigest is a bundle that signs an image's manifest by its digest alone.
func signedDigest(t *testing.T, s *Signer, digest string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(strings.TrimPrefix(digest, "sha256:"))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := s.keypair.(*keypair).signer.Sign(rand.Reader, raw, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var b map[string]any
	if err := json.Unmarshal(signed(t, s, []byte("{}")), &b); err != nil {
		t.Fatal(err)
	}
	delete(b, "dsseEnvelope")
	b["messageSignature"] = map[string]any{"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": raw}, "signature": signature}
	content, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestInspect: what an image is, whatever is attached to it.
func TestInspect(t *testing.T) {
	t.Parallel()
	image := pushed(t) // without a platform
	s, _ := keys(t)
	at := time.Unix(1700000000, 0)
	sbom := []byte(`{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "name": "zod", "version": "1"}]}`)
	attested, err := Attest(t.Context(), s, image, good, sbom, at, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attach(t.Context(), image, bundleMediaType, []byte("{"), nil, at.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := attach(t.Context(), image, "text/plain", []byte("a note"), nil, at); err != nil {
		t.Fatal(err)
	}
	inspected, err := Inspect(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Attachment{}
	for _, a := range inspected.Attachments {
		got[a.Kind] = a
	}
	created := at.UTC().Format(time.RFC3339)
	want := map[string]Attachment{
		"sbom":       {Digest: attested.SBOM, MediaType: sbomMediaType, CreatedAt: created, Kind: "sbom", Packages: 1},
		"provenance": {Digest: attested.Provenance, MediaType: bundleMediaType, CreatedAt: created, Kind: "provenance", Origin: &Origin{Repository: repository, Commit: commit, Ref: good.Ref, Builder: good.Builder}},
		"signature":  {Digest: attested.Signature, MediaType: bundleMediaType, CreatedAt: created, Kind: "signature"},
		"unreadable": {Digest: got["unreadable"].Digest, MediaType: bundleMediaType, CreatedAt: at.Add(time.Second).UTC().Format(time.RFC3339), Kind: "unreadable", Problem: got["unreadable"].Problem},
	}
	if diff := cmp.Diff(want, got); diff != "" || got["unreadable"].Problem == "" || inspected.Attachments[3].Kind != "unreadable" {
		t.Errorf("attachments (-want +got):\n%s", diff)
	}
}

// TestProvenance: what Crossbill says of a build, in SLSA's terms.
func TestProvenance(t *testing.T) {
	b := good
	b.AssetsOf = "registry.example.com/our-org/app@sha256:" + strings.Repeat("f", 64)
	b.Invocation, b.SBOM, b.FinishedAt = "https://github.com/our-org/app/actions/runs/1", "sha256:"+strings.Repeat("e", 64), time.Unix(1700000000, 0)
	var got any
	text := provenance(t, "sha256:"+strings.Repeat("a", 64), b)
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	var want any
	if err := yaml.Unmarshal([]byte(`
_type: https://in-toto.io/Statement/v1
subject: [{name: registry.example.com/our-org/app, digest: {sha256: `+strings.Repeat("a", 64)+`}}]
predicateType: https://slsa.dev/provenance/v1
predicate:
  buildDefinition:
    buildType: https://github.com/our-org/crossbill/blob/main/docs/guides/provenance.md#build-type
    externalParameters: {source: {repository: https://github.com/our-org/app, ref: refs/heads/main}}
    resolvedDependencies:
      - {uri: git+https://github.com/our-org/app@refs/heads/main, digest: {gitCommit: `+commit+`}}
      - {uri: oci://gcr.io/distroless/nodejs24-debian12, digest: {sha256: `+strings.Repeat("d", 64)+`}}
      - {name: assets, uri: oci://registry.example.com/our-org/app, digest: {sha256: `+strings.Repeat("f", 64)+`}}
  runDetails:
    builder: {id: https://github.com/our-org/app/actions}
    metadata: {invocationId: https://github.com/our-org/app/actions/runs/1, finishedOn: "2023-11-14T22:13:20Z"}
    byproducts: [{name: sbom, mediaType: application/vnd.cyclonedx+json, digest: {sha256: `+strings.Repeat("e", 64)+`}}]
`), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statement (-want +got):\n%s", diff)
	}
	if again := provenance(t, "sha256:"+strings.Repeat("a", 64), b); !bytes.Equal(text, again) {
		t.Errorf("the same build is\n%s\nthen\n%s", text, again)
	}
}

// TestIdentities: a workflow's signature counts for that workflow alone.
func TestIdentities(t *testing.T) {
	t.Parallel()
	sigstore, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	text := provenance(t, digest, good)
	for name, test := range map[string]struct {
		by      *ca.VirtualSigstore
		subject string
		issuer  string
		policy  Identity
		digest  string
		says    string
	}{
		"our workflow":          {sigstore, workflow, gitHub, Identity{Issuer: gitHub, Subject: workflow}, digest, ""},
		"one like it":           {sigstore, workflow, gitHub, Identity{Issuer: gitHub, SubjectPattern: `https://github\.com/our-org/app/.*`}, digest, ""},
		"another workflow":      {sigstore, strings.Replace(workflow, "our-org", "their-org", 1), gitHub, Identity{Issuer: gitHub, Subject: workflow}, digest, "is not valid"},
		"a branch":              {sigstore, strings.Replace(workflow, "main", "mine", 1), gitHub, Identity{Issuer: gitHub, Subject: workflow}, digest, "is not valid"},
		"ours inside of theirs": {sigstore, "https://evil.example.com/" + workflow, gitHub, Identity{Issuer: gitHub, SubjectPattern: `https://github\.com/our-org/app/.*`}, digest, "is not valid"},
		"another issuer":        {sigstore, workflow, "https://evil.example.com", Identity{Issuer: gitHub, Subject: workflow}, digest, "is not valid"},
		"another Sigstore":      {elsewhere, workflow, gitHub, Identity{Issuer: gitHub, Subject: workflow}, digest, "is not valid"},
		"another image":         {sigstore, workflow, gitHub, Identity{Issuer: gitHub, Subject: workflow}, "sha256:" + strings.Repeat("b", 64), "is not valid"},
	} {
		t.Run(name, func(t *testing.T) {
			entity, err := test.by.Attest(test.subject, test.issuer, text)
			if err != nil {
				t.Fatal(err)
			}
			policy, err := json.Marshal(Policy{Repository: repository, Identities: []Identity{test.policy}})
			if err != nil {
				t.Fatal(err)
			}
			v := verifier(t, string(policy))
			v.roots = func() ([]root.TrustedMaterial, error) { return []root.TrustedMaterial{withoutCTLogs{sigstore}}, nil }
			origin, err := v.accept(entity, test.digest, Wanted{Commit: commit})
			if test.says == "" {
				v.roots = func() ([]root.TrustedMaterial, error) { return nil, nil }
				if _, err := v.accept(entity, test.digest, Wanted{Commit: commit}); err == nil || !strings.Contains(err.Error(), "roots are empty") {
					t.Errorf("without roots: %v", err)
				}
			}
			if test.says == "" && (err != nil || origin.SignedBy != test.subject) || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%+v, %v", origin, err)
			}
			_, keyPolicy := keys(t)
			if _, err := verifier(t, keyPolicy).accept(entity, test.digest, Wanted{Commit: commit}); err == nil {
				t.Error("a policy that only names keys admits an identity")
			}
		})
	}
}

// withoutCTLogs: the test's Sigstore puts no certificate into a log.
type withoutCTLogs struct{ *ca.VirtualSigstore }

func (withoutCTLogs) CTLogs() map[string]*root.TransparencyLog { return nil }

func TestKeys(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey, "Ed25519": edKey} {
		image := pushed(t)
		attachBundle(t, image, signed(t, signer(t, key), provenance(t, image.DigestStr(), good)))
		if _, err := verifier(t, policyOf(t, key.Public())).Verify(t.Context(), image.Name(), Wanted{Commit: commit}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	big, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(big)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"nothing": nil, "not a key": []byte("glpat-secret"), "a curve that is not P-256": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if _, err := NewKeySigner(text); !errors.As(err, new(*usererr.Error)) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeylessNeedsAnIdentity(t *testing.T) {
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "")
	if _, err := NewKeylessSigner(t.Context(), PublicFulcio, PublicRekor); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("%v", err)
	}
}

// TestGitHubsIdentity: the runner is asked for a token for Sigstore. An answer without one is an error that does not
// show the request's own token.
func TestGitHubsIdentity(t *testing.T) {
	faults := 1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case faults > 0:
			faults--
			w.WriteHeader(http.StatusBadGateway)
		case r.Header.Get("Authorization") != "Bearer runner" || r.URL.Query().Get("audience") != "sigstore" || r.URL.Query().Get("api-version") != "2":
			w.WriteHeader(http.StatusForbidden)
		default:
			_, _ = io.WriteString(w, `{"value": "ey.token"}`)
		}
	}))
	defer server.Close()
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", server.URL+"/token?api-version=2")
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner")
	if token, err := gitHubToken(t.Context()); err != nil || token != "ey.token" {
		t.Errorf("%q, %v", token, err)
	}
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "another")
	if _, err := gitHubToken(t.Context()); err == nil || !strings.Contains(err.Error(), "403") || strings.Contains(err.Error(), "another") {
		t.Errorf("%v", err)
	}
}

func TestBadPolicies(t *testing.T) {
	t.Parallel()
	_, policy := keys(t)
	for text, problem := range map[string]string{
		"":                          " repository: ",
		"repository: our-org/app":   "is not a repository's address",
		"repository: " + repository: " keys: there is no signer",
		strings.Replace(policy, "keys", "key", 1):                                                  "unknown field",
		"repository: " + repository + "\nkeys: [abc]":                                              " keys[0]: it is not PEM",
		"repository: " + repository + "\nkeys: [abc]\nrefs: [main]":                                ` refs[0]: "main" is not a ref`,
		"repository: " + repository + "\nkeys: [abc]\nrefs: ['refs/*/7/merge']":                    " refs[0]: ",
		"repository: " + repository + "\nkeys: [abc]\nrefs: ['refs/heads/[a']":                     " refs[0]: ",
		"repository: " + repository + "\nkeys: [abc]\nbuilders: [release.yml]":                     " builders[0]: ",
		"repository: " + repository + "\nidentities: [{issuer: x}]":                                "either subject or subjectPattern",
		"repository: " + repository + "\nidentities: [{issuer: x, subject: y, subjectPattern: z}]": "either subject or subjectPattern",
		"repository: " + repository + "\nidentities: [{issuer: x, subjectPattern: '('}]":           "missing closing",
	} {
		file := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadVerifier(file)
		if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), problem) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: got %v, want %q", text, err, problem)
		}
	}
	if _, err := ReadVerifier(filepath.Join(t.TempDir(), "none.yaml")); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("a file that does not exist: %v", err)
	}
}

// TestGitHubsProvenance reads the form that GitHub's own attestations have.
func TestGitHubsProvenance(t *testing.T) {
	t.Parallel()
	s := &intoto.Statement{}
	if err := protojson.Unmarshal([]byte(`{"predicate": {"buildDefinition": {"buildType": "https://actions.github.io/buildtypes/workflow/v1",
		"externalParameters": {"workflow": {"ref": "refs/heads/main", "repository": "https://github.com/our-org/app", "path": ".github/workflows/release.yml"}},
		"internalParameters": {"github": {"event_name": "push", "repository_id": "1", "repository_owner_id": "2", "runner_environment": "github-hosted"}},
		"resolvedDependencies": [{"uri": "git+https://github.com/our-org/app@refs/heads/main", "digest": {"gitCommit": "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe"}}]},
		"runDetails": {"builder": {"id": "https://github.com/our-org/app/.github/workflows/release.yml@refs/heads/main"}, "metadata": {"invocationId": "https://github.com/our-org/app/actions/runs/1/attempts/1"}, "futureField": 1}}}`), s); err != nil {
		t.Fatal(err)
	}
	p, err := predicateOf(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.origin()
	want := &Origin{Repository: repository, Commit: commit, Ref: "refs/heads/main", Builder: workflow, Invocation: "https://github.com/our-org/app/actions/runs/1/attempts/1"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, origin (-want +got):\n%s", err, diff)
	}
}

// FuzzBundle: anybody can attach anything to an image; it is rejected at worst.
func FuzzBundle(f *testing.F) {
	newKeypair := func() *keypair {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			f.Fatal(err)
		}
		return &keypair{signer: key, name: "ECDSA", algorithm: protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256}
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	predicate, err := good.provenance()
	if err != nil {
		f.Fatal(err)
	}
	text, err := statement("app", digest, provenanceType, predicate)
	if err != nil {
		f.Fatal(err)
	}
	content, err := (&Signer{keypair: newKeypair()}).sign(f.Context(), text)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte(`{}`))
	v := &Verifier{repository: repository, keys: []crypto.PublicKey{newKeypair().GetPublicKey()}}
	f.Fuzz(func(t *testing.T, content []byte) {
		entity, err := parseBundle(content)
		if err != nil {
			return
		}
		if _, err := v.accept(entity, digest, Wanted{Commit: commit}); err == nil {
			t.Fatal("a policy that names another key admits it")
		}
	})
}

// FuzzStatement: whatever a signer of the policy's signs, it is read as it is or rejected, and what is admitted is of the
// policy's repository, ref and commit.
func FuzzStatement(f *testing.F) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, b := range []Build{good, {}, {Repository: repository, Ref: "refs/pull/7/merge", Commit: commit}} {
		predicate, err := b.provenance()
		if err != nil {
			f.Fatal(err)
		}
		text, err := statement("app", digest, provenanceType, predicate)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(gitHubs(digest))
	f.Add(`{"_type":"https://in-toto.io/Statement/v1","predicate":{"buildDefinition":{"externalParameters":{"workflow":[],"source":null}},"runDetails":{"metadata":{"finishedOn":"0000"}}}}`)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	pair := &keypair{signer: key, name: "ECDSA", algorithm: protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256}
	v := &Verifier{repository: repository, refs: []string{defaultRef}, keys: []crypto.PublicKey{key.Public()}}
	f.Fuzz(func(t *testing.T, text string) {
		content, err := (&Signer{keypair: pair}).sign(t.Context(), []byte(text))
		if err != nil {
			return
		}
		entity, err := parseBundle(content)
		if err != nil {
			return
		}
		origin, err := v.accept(entity, digest, Wanted{Commit: commit})
		if err == nil && (origin.Repository != repository || origin.Ref != defaultRef || origin.Commit != commit) {
			t.Fatalf("admits %+v", origin)
		}
	})
}

// FuzzPolicy: a policy is read as it is meant or refused with the field; none admits a pull request that names none.
func FuzzPolicy(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	valid, err := yaml.Marshal(Policy{Repository: repository, Refs: []string{"refs/tags/v*"}, Builders: []string{workflow}, Keys: []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add([]byte("repository: " + repository + "\nidentities: [{issuer: x, subjectPattern: '.*'}]\nmaxAge: 1h\nrefs: ['refs/*']\n"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := &Policy{}
		if yaml.UnmarshalStrict(text, p) != nil {
			return
		}
		v, invalid := NewVerifier(p, "crossbill.yaml")
		if invalid != nil {
			if invalid.Field == "" || invalid.Problem == "" {
				t.Fatalf("%+v", invalid)
			}
			return
		}
		if len(v.keys)+len(v.identities) == 0 {
			t.Fatal("it names nobody who signs")
		}
		named := slices.ContainsFunc(p.Refs, func(ref string) bool { return strings.HasPrefix(ref, "refs/pull/") })
		err := v.checkOrigin(&Origin{Repository: v.repository, Ref: "refs/pull/7/merge", Builder: strings.Join(p.Builders[:min(1, len(p.Builders))], ""), SignedAt: time.Now()}, Wanted{})
		if err == nil && !named {
			t.Fatalf("%q admits a pull request", p.Refs)
		}
	})
}
