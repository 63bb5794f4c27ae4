package provenance

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1random "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
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

// keys makes a key pair: the private one and a policy that trusts the public one.
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
	s, err := WithKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
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
	text, err := json.Marshal(Trust{Repository: repository, Keys: []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func trust(t *testing.T, policy string) *Trust {
	t.Helper()
	parsed, err := ParseTrust("trust.yaml", []byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

var good = Build{Repository: repository, Ref: "refs/heads/main", Commit: commit, Builder: "https://github.com/our-org/app/actions", Base: "gcr.io/distroless/nodejs24-debian12@sha256:" + strings.Repeat("d", 64)}

func statement(t *testing.T, digest, predicateType string, predicate any) []byte {
	t.Helper()
	text, err := StatementOf("registry.example.com/our-org/app", digest, predicateType, predicate)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func attach(t *testing.T, image name.Digest, s *Signer, statement []byte) {
	t.Helper()
	signed, err := s.Sign(t.Context(), statement)
	if err != nil {
		t.Fatal(err)
	}
	attachRaw(t, image, signed)
}

func attachRaw(t *testing.T, image name.Digest, content []byte) {
	t.Helper()
	if _, err := Attach(t.Context(), image, bundleMediaType, content, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// TestTrust: only an image whose provenance somebody signed whom the policy names, about this digest, this
// repository and this commit, is let through.
func TestTrust(t *testing.T) {
	ours, policy := keys(t)
	others, _ := keys(t)
	for name, test := range map[string]struct {
		attach func(*testing.T, name.Digest)
		commit string
		says   string // "" is let through
	}{
		"built and signed by us": {func(t *testing.T, i name.Digest) {
			attach(t, i, ours, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(good)))
		}, commit, ""},
		"whichever commit": {func(t *testing.T, i name.Digest) {
			attach(t, i, ours, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(good)))
		}, "", ""},
		"nothing attached": {func(*testing.T, name.Digest) {}, commit, "no provenance is attached"},
		"signed, not said of what": {func(t *testing.T, i name.Digest) {
			attach(t, i, ours, statement(t, i.DigestStr(), SignatureType, struct{}{}))
		}, commit, "no provenance is attached"},
		"signed by another key": {func(t *testing.T, i name.Digest) {
			attach(t, i, others, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(good)))
		}, commit, "signed by no key that the policy names"},
		"a good one after a bad": {func(t *testing.T, i name.Digest) {
			attach(t, i, others, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(good)))
			attach(t, i, ours, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(good)))
		}, commit, ""},
		"another image's provenance": {func(t *testing.T, i name.Digest) {
			attach(t, i, ours, statement(t, push(t, i.Context().Name()).DigestStr(), ProvenanceType, ProvenanceOf(good)))
		}, commit, "or is about another image"},
		"another repository": {func(t *testing.T, i name.Digest) {
			b := good
			b.Repository = "https://github.com/their-org/app"
			attach(t, i, ours, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(b)))
		}, commit, "not from " + repository},
		"a repository with ours as its beginning": {func(t *testing.T, i name.Digest) {
			b := good
			b.Repository = repository + "-fork"
			attach(t, i, ours, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(b)))
		}, commit, "not from " + repository},
		"another commit": {func(t *testing.T, i name.Digest) {
			attach(t, i, ours, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(good)))
		}, strings.Repeat("b", 40), "the release is of bbbb"},
		"no commit": {func(t *testing.T, i name.Digest) {
			b := good
			b.Commit = ""
			attach(t, i, ours, statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(b)))
		}, commit, "not from"},
		"changed after it was signed": {func(t *testing.T, i name.Digest) {
			signed, err := others.Sign(t.Context(), statement(t, i.DigestStr(), ProvenanceType, ProvenanceOf(good)))
			if err != nil {
				t.Fatal(err)
			}
			ourOwn, err := ours.Sign(t.Context(), statement(t, "sha256:"+strings.Repeat("0", 64), ProvenanceType, ProvenanceOf(good)))
			if err != nil {
				t.Fatal(err)
			}
			var a, b map[string]any
			if json.Unmarshal(signed, &a) != nil || json.Unmarshal(ourOwn, &b) != nil {
				t.Fatal("not JSON")
			}
			b["dsseEnvelope"].(map[string]any)["payload"] = a["dsseEnvelope"].(map[string]any)["payload"]
			forged, err := json.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			attachRaw(t, i, forged)
		}, commit, "signed by no key"},
		"no bundle": {func(t *testing.T, i name.Digest) { attachRaw(t, i, []byte(`{"mediaType": "x"}`)) }, commit, "is not a Sigstore bundle"},
	} {
		for registryName, options := range map[string][]registry.Option{"referrers": {registry.WithReferrersSupport(true)}, "tag": nil} {
			t.Run(name+", "+registryName, func(t *testing.T) {
				t.Parallel()
				image := pushed(t, options...)
				test.attach(t, image)
				origin, err := trust(t, policy).Check(t.Context(), image.Name(), test.commit)
				if test.says == "" {
					if err != nil || origin.Repository != repository || origin.Commit != commit || !strings.HasPrefix(origin.SignedBy, "key ") || origin.Builder != good.Builder {
						t.Errorf("%+v, %v", origin, err)
					}
					return
				}
				var refused *RefusedError
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "nothing was changed") {
					t.Errorf("%v, want %q", err, test.says)
				}
			})
		}
	}
}

// TestInspect: the chain of an image, whatever is attached to it.
func TestInspect(t *testing.T) {
	t.Parallel()
	image := pushed(t) // without a platform
	s, _ := keys(t)
	at := time.Unix(1700000000, 0)
	if _, err := Say(t.Context(), s, image, ProvenanceType, ProvenanceOf(good), at, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := Say(t.Context(), s, image, SignatureType, struct{}{}, at.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(t.Context(), image, SBOMMediaType, []byte(`{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "name": "zod", "version": "1"}]}`), nil, at.Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(t.Context(), image, bundleMediaType, []byte("{"), nil, at.Add(3*time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(t.Context(), image, "text/plain", []byte("a note"), nil, at); err != nil {
		t.Fatal(err)
	}
	c, err := Inspect(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, l := range c.Attached {
		kinds = append(kinds, l.Kind)
	}
	if got := strings.Join(kinds, " "); got != "provenance signature sbom unreadable" || c.Attached[0].Origin.Commit != commit || c.Attached[2].Packages != 1 || c.Attached[3].Problem == "" {
		t.Errorf("%s: %+v", got, c.Attached)
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
	text := statement(t, digest, ProvenanceType, ProvenanceOf(good))
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
		"another workflow":      {sigstore, strings.Replace(workflow, "our-org", "their-org", 1), gitHub, Identity{Issuer: gitHub, Subject: workflow}, digest, "does not hold"},
		"a branch":              {sigstore, strings.Replace(workflow, "main", "mine", 1), gitHub, Identity{Issuer: gitHub, Subject: workflow}, digest, "does not hold"},
		"ours inside of theirs": {sigstore, "https://evil.example.com/" + workflow, gitHub, Identity{Issuer: gitHub, SubjectPattern: `https://github\.com/our-org/app/.*`}, digest, "does not hold"},
		"another issuer":        {sigstore, workflow, "https://evil.example.com", Identity{Issuer: gitHub, Subject: workflow}, digest, "does not hold"},
		"another Sigstore":      {elsewhere, workflow, gitHub, Identity{Issuer: gitHub, Subject: workflow}, digest, "does not hold"},
		"another image":         {sigstore, workflow, gitHub, Identity{Issuer: gitHub, Subject: workflow}, "sha256:" + strings.Repeat("b", 64), "does not hold"},
	} {
		t.Run(name, func(t *testing.T) {
			entity, err := test.by.Attest(test.subject, test.issuer, text)
			if err != nil {
				t.Fatal(err)
			}
			policy, err := json.Marshal(Trust{Repository: repository, Identities: []Identity{test.policy}})
			if err != nil {
				t.Fatal(err)
			}
			trusted := trust(t, string(policy))
			trusted.roots = func() ([]root.TrustedMaterial, error) { return []root.TrustedMaterial{withoutCTLogs{sigstore}}, nil }
			origin, err := trusted.accept(entity, test.digest, commit)
			if test.says == "" && (err != nil || origin.SignedBy != test.subject) || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%+v, %v", origin, err)
			}
			keyOnly := trust(t, func() string { _, policy := keys(t); return policy }())
			if _, err := keyOnly.accept(entity, test.digest, commit); err == nil {
				t.Error("a policy that names keys alone lets an identity through")
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
		attach(t, image, signer(t, key), statement(t, image.DigestStr(), ProvenanceType, ProvenanceOf(good)))
		if _, err := trust(t, policyOf(t, key.Public())).Check(t.Context(), image.Name(), commit); err != nil {
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
		if _, err := WithKey(text); !errors.As(err, new(*usererr.Error)) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeylessNeedsAnIdentity(t *testing.T) {
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "")
	if _, err := Keyless(context.Background(), PublicFulcio, PublicRekor); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("%v", err)
	}
}

// TestGitHubsIdentity: the runner is asked for a token that is made out to Sigstore, and an answer without one is an
// error that does not tell of the request's own token.
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
	for text, says := range map[string]string{
		"":                          "repository",
		"repository: our-org/app":   "is not a repository's address",
		"repository: " + repository: "nobody is trusted",
		strings.Replace(policy, "keys", "key", 1):                                                  "unknown field",
		"repository: " + repository + "\nkeys: [abc]":                                              "it is not PEM",
		"repository: " + repository + "\nidentities: [{issuer: x}]":                                "either subject or subjectPattern",
		"repository: " + repository + "\nidentities: [{issuer: x, subject: y, subjectPattern: z}]": "either subject or subjectPattern",
		"repository: " + repository + "\nidentities: [{issuer: x, subjectPattern: '('}]":           "missing closing",
	} {
		if _, err := ParseTrust("trust.yaml", []byte(text)); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

// TestGitHubsProvenance reads the form that GitHub's own attestations have.
func TestGitHubsProvenance(t *testing.T) {
	t.Parallel()
	var p Provenance
	if err := json.Unmarshal([]byte(`{"buildDefinition": {"buildType": "https://actions.github.io/buildtypes/workflow/v1",
		"externalParameters": {"workflow": {"ref": "refs/heads/main", "repository": "https://github.com/our-org/app", "path": ".github/workflows/release.yml"}},
		"resolvedDependencies": [{"uri": "git+https://github.com/our-org/app@refs/heads/main", "digest": {"gitCommit": "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe"}}]},
		"runDetails": {"builder": {"id": "https://github.com/our-org/app/.github/workflows/release.yml@refs/heads/main"}, "metadata": {"invocationId": "https://github.com/our-org/app/actions/runs/1/attempts/1"}}}`), &p); err != nil {
		t.Fatal(err)
	}
	if at, of := p.Source(); at != repository || of != commit {
		t.Errorf("%s at %s", at, of)
	}
}

// FuzzBundle: what is attached to an image is anybody's; it never is more than refused.
func FuzzBundle(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	s := &Signer{keypair: &keypair{signer: key, name: "ECDSA", algorithm: 5}}
	digest := "sha256:" + strings.Repeat("a", 64)
	text, err := StatementOf("app", digest, ProvenanceType, ProvenanceOf(good))
	if err != nil {
		f.Fatal(err)
	}
	signed, err := s.Sign(f.Context(), text)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte(`{}`))
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	policy := &Trust{Repository: repository, keys: []crypto.PublicKey{stranger.Public()}}
	f.Fuzz(func(t *testing.T, content []byte) {
		entity, err := parse(content)
		if err != nil {
			return
		}
		if _, err := policy.accept(entity, digest, commit); err == nil {
			t.Fatal("a stranger's policy lets it through")
		}
	})
}

func TestSBOM(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(file, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := func(components string) string {
		return `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [` + components + `]}`
	}
	qwik := `{"type": "library", "group": "@builder.io", "name": "qwik", "version": "1.20.1", "licenses": [{"license": {"id": "MIT"}}]}`
	zod := `{"type": "library", "name": "zod", "version": "3.25.48"}`
	write(Bundles[0], list(qwik))
	write(Bundles[1], list(zod+","+qwik))
	hash := strings.Repeat("A", 86) + "=="
	write("pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages:\n  '@builder.io/qwik@1.20.1':\n    resolution: {integrity: sha512-"+hash+"}\n  zod@3.25.48:\n    resolution: {integrity: sha512-"+hash+"}\n  vite@7.3.8:\n    resolution: {integrity: sha512-"+hash+"}\n")
	digest := "sha256:" + strings.Repeat("a", 64)
	text, err := SBOM(dir, "registry.example.com:5000/our-org/app", digest, good.Base)
	if err != nil {
		t.Fatal(err)
	}
	again, err := SBOM(dir, "registry.example.com:5000/our-org/app", digest, good.Base)
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same build has another SBOM: %v", err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, c := range *bom.Components {
		urls = append(urls, c.PackageURL)
		if c.Type == cdx.ComponentTypeLibrary && (c.Hashes == nil || (*c.Hashes)[0].Value != strings.Repeat("0", 128)) {
			t.Errorf("%s has the hash %v", c.Name, c.Hashes)
		}
	}
	if want := "pkg:npm/%40builder.io/qwik@1.20.1 pkg:npm/zod@3.25.48 pkg:oci/nodejs24-debian12@sha256%3A" + strings.Repeat("d", 64) + "?repository_url=gcr.io/distroless/nodejs24-debian12"; strings.Join(urls, " ") != want {
		t.Errorf("%q, want %q", urls, want)
	}
	if bom.SerialNumber != "" || bom.Metadata.Timestamp != "" {
		t.Error("it has a time or a random number")
	}

	write(Bundles[1], list(`{"type": "library", "name": "stowaway", "version": "1.0.0"}`))
	if _, err := SBOM(dir, "app", digest, ""); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "stowaway@1.0.0 is in the bundle, and not in pnpm-lock.yaml") {
		t.Errorf("%v", err)
	}
	write(Bundles[1], list(""))
	if _, err := SBOM(dir, "app", digest, ""); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("%v", err)
	}
}
