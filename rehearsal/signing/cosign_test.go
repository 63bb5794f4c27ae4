package signing

import (
	"bytes"
	"flag"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	fake "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
)

var cosignPath = flag.String("cosign", "", "the cosign command, which make test-cosign builds")

// TestCosign: cosign itself verifies the signature and the provenance of an image and of a bundle, by the public key alone, and
// accepts neither by another key, nor those of one that was not signed.
func TestCosign(t *testing.T) {
	if *cosignPath == "" {
		t.Skip("make test-cosign builds cosign, which takes minutes, and names it with -cosign")
	}
	server := httptest.NewServer(fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	repository := strings.TrimPrefix(server.URL, "http://") + "/our-org/qwik-node-app"
	built, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := registry.Push(t.Context(), built, repository+":1", authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	image := strings.Replace(pushed, ":1@", "@", 1)
	made := func(greeting string) string {
		t.Helper()
		rendered, err := manifest.Render(t.Context(), manifest.Source{Path: "../../k8s"})
		if err != nil {
			t.Fatal(err)
		}
		content, err := bundle.Fill(rendered, image, false)
		if err != nil {
			t.Fatal(err)
		}
		reference, err := bundle.Push(t.Context(), content, "", bundle.Origin{Revision: greeting, Created: time.Unix(1, 0)}, authn.DefaultKeychain)
		if err != nil {
			t.Fatal(err)
		}
		return reference
	}
	signed, unsigned := made("c0ffee0"), made("c0ffee1")
	ours, theirs := t.TempDir(), t.TempDir()
	key, public := keyIn(t, ours)
	_, other := keyIn(t, theirs)
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := provenance.NewKeySigner(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{image, signed} {
		digest, err := name.NewDigest(reference)
		if err != nil {
			t.Fatal(err)
		}
		build := provenance.Build{Repository: "https://github.com/our-org/qwik-node-app", Ref: "refs/heads/main", Commit: "c0ffee0", Builder: "https://github.com/our-org/crossbill/laptop", Image: image}
		if _, err := provenance.Attest(t.Context(), signer, digest, build, nil, time.Unix(1, 0), registry.Options(t.Context(), authn.DefaultKeychain)...); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		what, key, reference string
		good                 bool
	}{
		{"image", public, image, true},
		{"bundle", public, signed, true},
		{"bundle, another key", other, signed, false},
		{"bundle that is not signed", public, unsigned, false},
	} {
		for _, line := range []string{"verify", "verify-attestation --type slsaprovenance1"} {
			arguments := append(strings.Fields(line), "--key", test.key, "--insecure-ignore-tlog", test.reference)
			command := exec.CommandContext(t.Context(), *cosignPath, arguments...)
			command.Env = append(os.Environ(), "HOME="+theirs, "TUF_ROOT="+filepath.Join(theirs, "tuf"))
			var out, problem bytes.Buffer
			command.Stdout, command.Stderr = &out, &problem
			err := command.Run()
			if (err == nil) != test.good {
				t.Errorf("%s: cosign %s: %v\n%s%s", test.what, line, err, out.String(), problem.String())
			}
			if _, digest, _ := strings.Cut(test.reference, "@"); test.good && line == "verify" && !strings.Contains(out.String(), digest) {
				t.Errorf("%s: cosign %s names another digest: %s", test.what, line, out.String())
			}
			t.Logf("%s: cosign %s: %v\n%s%s", test.what, line, err, out.String(), problem.String())
		}
	}
}

// keyIn makes a key in a folder, and gives the files of its two halves.
func keyIn(t *testing.T, dir string) (private, public string) {
	t.Helper()
	private, text, err := Key(dir, "https://github.com/our-org/qwik-node-app")
	if err != nil {
		t.Fatal(err)
	}
	policy := provenance.Policy{}
	if err := yaml.Unmarshal([]byte(text), &policy); err != nil {
		t.Fatal(err)
	}
	public = filepath.Join(dir, "public.pem")
	if err := os.WriteFile(public, []byte(policy.Keys[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	return private, public
}
