package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	fake "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
)

var (
	anyDigest      = regexp.MustCompile(`sha256:[0-9a-f]{12,64}`)
	anyFingerprint = regexp.MustCompile(`key [A-Za-z0-9+/]{43}=`)
)

// TestImage: an image is built, named, signed and inspected, in each form of output.
func TestImage(t *testing.T) {
	for _, variable := range []string{"REGISTRY_USERNAME", "REGISTRY_PASSWORD", "SOURCE_DATE_EPOCH", "CROSSBILL_SIGNING_KEY", "GITHUB_ACTIONS", "CROSSBILL_CONFIG"} {
		t.Setenv(variable, "")
	}
	server := httptest.NewServer(fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"app/server/entry.fastify.js": "serve()",
		"app/dist/robots.txt":         "y",
		"app/sbom/dist.cdx.json":      `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "name": "zod", "version": "3.25.48"}]}`,
		"app/sbom/server.cdx.json":    `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "name": "zod", "version": "3.25.48"}]}`,
		"app/pnpm-lock.yaml":          "packages:\n  zod@3.25.48:\n    resolution: {integrity: sha512-" + strings.Repeat("A", 86) + "==}\n",
	})
	writeKey(t, dir, "ours")
	writeKey(t, dir, "theirs")
	if _, err := registry.WriteLayout(empty.Image, filepath.Join(dir, "base")); err != nil {
		t.Fatal(err)
	}
	shown := func(text string) string { // what is the same in each run
		text = strings.ReplaceAll(text, host, "registry.example.com")
		return anyFingerprint.ReplaceAllString(anyDigest.ReplaceAllString(text, "sha256:…"), "key …")
	}
	must := func(code int, args ...string) string {
		t.Helper()
		r := runLine(t, append([]string{"image"}, args...)...)
		if r.code != code {
			t.Fatalf("image %s: exit code %d, want %d\n%s%s", args[0], r.code, code, r.out, r.err)
		}
		return r.out
	}
	build := []string{"build", "--app-dir", dir + "/app", "--base", "oci:" + dir + "/base", "--push", host + "/our-org/app:1.1.0", "--version", "1.1.0", "--revision", "c0ffee0", "--source-url", "https://github.com/our-org/app", "--created", "1700000000"}
	golden(t, filepath.Join("testdata", "golden", "image-build.json"), []byte(shown(must(0, append(build, "-o", "json")...))))
	reference := strings.TrimSpace(must(0, build...))
	if again := strings.TrimSpace(must(0, "digest", host+"/our-org/app:1.1.0")); again != reference {
		t.Errorf("image digest prints %s, image build printed %s", again, reference)
	}
	golden(t, filepath.Join("testdata", "golden", "image-digest.json"), []byte(shown(must(0, "digest", host+"/our-org/app:1.1.0", "-o", "json"))))
	if got, want := must(0, "digest", host+"/our-org/app:1.1.0", "-o", "name"), "image/"+reference+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	image := host + "/our-org/app@" + anyDigest.FindString(reference)
	golden(t, filepath.Join("testdata", "golden", "image-attest.json"), []byte(shown(must(0, "attest", image, "--ref", "refs/heads/main", "--app-dir", dir+"/app", "--key-file", dir+"/ours.pem", "--created", "1700000000", "-o", "json"))))
	golden(t, filepath.Join("testdata", "golden", "image-inspect.json"), []byte(shown(must(0, "inspect", image, "--trust", dir+"/ours.yaml", "-o", "json"))))
	golden(t, filepath.Join("testdata", "golden", "image-inspect.txt"), []byte(shown(must(0, "inspect", image, "--trust", dir+"/ours.yaml"))))
	golden(t, filepath.Join("testdata", "golden", "image-rejected.json"), []byte(shown(must(exitBadInput, "inspect", image, "--trust", dir+"/theirs.yaml", "-o", "json"))))
}

// TestAssetsOf: the image whose assets are included is held to the image policy, and named in the provenance.
func TestAssetsOf(t *testing.T) {
	for _, variable := range []string{"REGISTRY_USERNAME", "REGISTRY_PASSWORD", "SOURCE_DATE_EPOCH", "CROSSBILL_SIGNING_KEY", "GITHUB_ACTIONS", "CROSSBILL_CONFIG", "CROSSBILL_REQUIRE_PROVENANCE"} {
		t.Setenv(variable, "")
	}
	server := httptest.NewServer(fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	repository := strings.TrimPrefix(server.URL, "http://") + "/our-org/app"
	dir := t.TempDir()
	writeKey(t, dir, "ours")
	writeFiles(t, dir, map[string]string{
		"app/server/entry.fastify.js": "serve()", "app/dist/build/q-1.js": "one",
		"next/server/entry.fastify.js": "serve()", "next/dist/build/q-2.js": "two",
	})
	if _, err := registry.WriteLayout(empty.Image, filepath.Join(dir, "base")); err != nil {
		t.Fatal(err)
	}
	build := func(app, tag string, more ...string) ran {
		t.Helper()
		return runLine(t, append([]string{"image", "build", "--app-dir", filepath.Join(dir, app), "--base", "oci:" + dir + "/base", "--push", repository + ":" + tag, "--revision", "c0ffee0", "--source-url", "https://github.com/our-org/app"}, more...)...)
	}
	first := build("app", "1")
	live := repository + "@" + anyDigest.FindString(first.out)
	if first.code != 0 {
		t.Fatal(first.err)
	}
	trusted := []string{"--assets-of", live, "--trust", dir + "/ours.yaml"}
	if r := build("next", "2", trusted...); r.code != exitBadInput || !strings.Contains(r.err, "it has no provenance") || r.out != "" {
		t.Errorf("unsigned: exit code %d, %s", r.code, r.err)
	}
	if r := runLine(t, "image", "digest", repository+":2"); r.code == 0 {
		t.Errorf("it was pushed: %s", r.out)
	}
	if r := build("next", "2", "--assets-of", live); r.code != 0 || !strings.Contains(r.err, "there is no image policy: the origin of "+live+" was not checked") {
		t.Errorf("without a policy: exit code %d, %s", r.code, r.err)
	}
	if r := build("next", "2", "--assets-of", live, "--require-provenance"); r.code != exitBadInput || !strings.Contains(r.err, "there is no image policy; ") {
		t.Errorf("without the policy that is required: exit code %d, %s", r.code, r.err)
	}
	if r := build("next", "2", "--assets-of", "oci:"+dir+"/base", "--trust", dir+"/ours.yaml"); r.code != exitBadInput || !strings.Contains(r.err, "--assets-of: an image in a folder has no provenance") {
		t.Errorf("of a folder: exit code %d, %s", r.code, r.err)
	}
	if r := runLine(t, "image", "attest", live, "--ref", "refs/heads/main", "--key-file", dir+"/ours.pem"); r.code != 0 {
		t.Fatal(r.err)
	}
	second := build("next", "2", trusted...)
	if second.code != 0 {
		t.Fatal(second.err)
	}
	b := provenance.Build{Ref: "refs/heads/main"}
	inspected := runLine(t, "image", "inspect", repository+"@"+anyDigest.FindString(second.out), "-o", "json")
	var shown struct{ Labels map[string]string }
	if err := json.Unmarshal([]byte(inspected.out), &shown); err != nil {
		t.Fatalf("%v, %s", err, inspected.err)
	}
	if err := completeBuild(&b, shown.Labels); err != nil || b.AssetsOf != live {
		t.Errorf("the provenance names the assets of %q, %v; want %s", b.AssetsOf, err, live)
	}
}

// writeKey writes a private key, and a policy that names its public key.
func writeKey(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	policy, err := json.Marshal(provenance.Policy{
		Repository: "https://github.com/our-org/app",
		Keys:       []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))},
	})
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{
		name + ".pem":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		name + ".yaml": string(policy),
	})
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBadImageLines: bad input is found before a registry is asked.
func TestBadImageLines(t *testing.T) {
	for _, variable := range []string{"REGISTRY_USERNAME", "REGISTRY_PASSWORD", "CROSSBILL_SIGNING_KEY", "GITHUB_ACTIONS"} {
		t.Setenv(variable, "")
	}
	app := t.TempDir()
	writeFiles(t, app, map[string]string{"server/entry.fastify.js": "", "dist/build/a.js": ""})
	for line, want := range map[string]string{
		"build":                           "--push: is missing",
		"build --push a/b:1 --platform x": `"x" is not a platform`,
		"build --push registry.example.com/a/b:1 --app-dir APP --base node:24": "--base: ",
		"build --push a/b:1 --username u":                                      "--password-file: is missing beside a user name",
		"build --push oci:new --app-dir APP --created -1":                      "--created: -1 is not a time",
		"build --push oci:new --app-dir APP --assets-of a:1":                   "--assets-of: ",
		"build --push a/b:1":                                                   `--push: "a/b:1" is not registry/repository:tag`,
		"build --push registry.example.com/a@sha256:" + hex:                    "has a digest",
		"build --push oci:":                                                    "--push: oci: names no folder",
		"build --push oci:testdata":                                            "--push: testdata already exists",
		"build --push oci:new --app-dir testdata":                              "--app-dir: testdata has no ",
		"attest a/b@sha256:" + hex + " --key-file image.go":                    "--key-file: it does not hold a private key",
		"digest a@sha256:" + hex:                                               "has a digest",
		"digest":                                                               "REPOSITORY:TAG: is missing",
		"digest app":                                                           "image: ",
		"attest app:1 --key-file /nonexistent":                                 "--key-file: ",
		"attest app:1 --keyless":                                               "image: ",
		"attest a/b@sha256:" + hex + "":                                        "--key-file: there is no key to sign with",
		"attest a/b@sha256:" + hex + " --keyless":                              "--keyless: there is no identity",
		"inspect app:1":                                                        "image: ",
		"inspect a/b@sha256:" + hex + " -o xml":                                "--output: ",
		"inspect a/b@sha256:" + hex + " --trust /nonexistent":                  "/nonexistent",
	} {
		t.Run(line, func(t *testing.T) {
			r := runLine(t, append([]string{"image"}, strings.Fields(strings.ReplaceAll(line, "APP", app))...)...)
			if r.code != exitBadInput || !strings.Contains(r.err, want) || r.out != "" {
				t.Errorf("exit code %d, %q on standard output, and\n%s\nwant\n%s", r.code, r.out, r.err, want)
			}
		})
	}
}

const hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// TestSourceDateEpochIsANumber: a time that cannot be read must not become 1970 unseen.
func TestSourceDateEpochIsANumber(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	app := t.TempDir()
	writeFiles(t, app, map[string]string{"server/entry.fastify.js": "", "dist/build/a.js": ""})
	r := runLine(t, "image", "build", "--push", "oci:new", "--app-dir", app)
	if want := `SOURCE_DATE_EPOCH: "yesterday" is not a number of seconds`; r.code != exitBadInput || !strings.Contains(r.err, want) {
		t.Errorf("exit code %d, %q; want %q", r.code, r.err, want)
	}
}
