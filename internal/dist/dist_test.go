package dist

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/usererr"
)

var update = flag.Bool("update", false, "write the golden files in place of comparing them")

const commit = "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe"

func version() *Version {
	return &Version{
		Number: "1.2.3", Commit: commit, Date: time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC),
		Repository: "https://github.com/our-org/crossbill", Downloads: "https://github.com/our-org/crossbill/releases/download/v1.2.3",
	}
}

// program stands for the source of the command, since that takes minutes to compile: it has the same variables.
const program = `package main

var version, versionCommit, versionDate, versionComponents string

func main() { println(version, versionCommit, versionDate, versionComponents) }
`

// writeSource writes the program's source into a folder.
func writeSource(dir string) error {
	for name, text := range map[string]string{"go.mod": "module github.com/our-org/crossbill\n\ngo 1.26\n", "cmd/crossbill/main.go": program, "LICENSE": "Apache License\n"} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// here is the platform of this machine.
var here = v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}

// What all tests have: the program's source, below bin its binary for this machine, and below dist what is published of it, with
// images on nothing and on a base; that base, and the repository of the images.
var work, base, repository string

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := inFolder(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func inFolder(m *testing.M) (code int, err error) {
	if work, err = os.MkdirTemp("", "dist-test-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(work)
	if err := writeSource(work); err != nil {
		return 1, err
	}
	if _, err := Compile(context.Background(), version(), work, filepath.Join(work, "bin"), []v1.Platform{here}); err != nil {
		return 1, err
	}
	served := httptest.NewServer(fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(true)))
	defer served.Close()
	host := strings.TrimPrefix(served.URL, "http://")
	if base, err = pushBase(host + "/library/base"); err != nil {
		return 1, err
	}
	repository = host + "/our-org/crossbill"
	if err := Write(context.Background(), version(), everywhere(), filepath.Join(work, "LICENSE"), filepath.Join(work, "dist"), []Base{{}, {Name: "shell", Reference: base}}, authn.DefaultKeychain); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// pushBase pushes an index of base images for both platforms of Linux, which have a shell.
func pushBase(repository string) (string, error) {
	var images []v1.Image
	for _, architecture := range []string{"amd64", "arm64"} {
		built, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: architecture, Config: v1.Config{Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin", "LANG=C"}, User: "root"}})
		if err != nil {
			return "", err
		}
		images = append(images, built)
	}
	index, err := image.Index(images, image.Labels{Title: "base"})
	if err != nil {
		return "", err
	}
	reference, err := registry.Push(context.Background(), index, repository+":1", authn.DefaultKeychain)
	return strings.Replace(reference, ":1@", "@", 1), err
}

// everywhere are binaries for all platforms: that of this machine, under each name.
func everywhere() (all []Binary) {
	for _, p := range Platforms {
		all = append(all, Binary{p, filepath.Join(work, "bin", here.OS+"-"+here.Architecture, "crossbill")})
	}
	return all
}

// written is a copy of what is published.
func written(t *testing.T) string {
	t.Helper()
	out := t.TempDir()
	if err := os.CopyFS(out, os.DirFS(filepath.Join(work, "dist"))); err != nil {
		t.Fatal(err)
	}
	return out
}

// files are all below a folder, by name.
func files(t *testing.T, folder string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(folder, path)
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCompile: the same source is the same bytes, in whichever folder and environment it is built, and the binary knows its version.
func TestCompile(t *testing.T) {
	t.Setenv("GOFLAGS", "-gcflags=all=-N -buildvcs=true")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("CGO_ENABLED", "1")
	elsewhere := filepath.Join(t.TempDir(), "deeper")
	if err := writeSource(elsewhere); err != nil {
		t.Fatal(err)
	}
	again, err := Compile(t.Context(), version(), elsewhere, t.TempDir(), []v1.Platform{here})
	if err != nil {
		t.Fatal(err)
	}
	one, err := os.ReadFile(everywhere()[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(again[0].Path)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("the binaries differ, %v", err)
	}
	changed := version()
	changed.Number, changed.Components = "1.2.4", "gitlab.example.com/tools/crossbill"
	binaries, err := Compile(t.Context(), changed, work, t.TempDir(), []v1.Platform{here})
	if err != nil {
		t.Fatal(err)
	}
	said, err := exec.CommandContext(t.Context(), binaries[0].Path).CombinedOutput()
	if want := "1.2.4 " + commit + " 2026-11-27T08:00:00Z gitlab.example.com/tools/crossbill\n"; err != nil || string(said) != want {
		t.Errorf("it says %q, %v, want %q", said, err, want)
	}
}

// TestWrite: the same binaries make the same files, all of the commit's time.
func TestWrite(t *testing.T) {
	out := filepath.Join(t.TempDir(), "dist")
	if err := Write(t.Context(), version(), everywhere(), filepath.Join(work, "LICENSE"), out, []Base{{}, {Name: "shell", Reference: base}}, authn.DefaultKeychain); err != nil {
		t.Fatal(err)
	}
	one, two := files(t, out), files(t, filepath.Join(work, "dist"))
	var names []string
	for name := range one {
		if one[name] != two[name] {
			t.Errorf("%s differs", name)
		}
		if !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	want := []string{
		"checksums.txt", "crossbill.rb", "crossbill.yaml",
		"crossbill_1.2.3_darwin_amd64.cdx.json", "crossbill_1.2.3_darwin_amd64.tar.gz", "crossbill_1.2.3_darwin_arm64.cdx.json", "crossbill_1.2.3_darwin_arm64.tar.gz",
		"crossbill_1.2.3_linux_amd64.cdx.json", "crossbill_1.2.3_linux_amd64.tar.gz", "crossbill_1.2.3_linux_arm64.cdx.json", "crossbill_1.2.3_linux_arm64.tar.gz",
		"image-shell.cdx.json", "image.cdx.json",
	}
	if diff := cmp.Diff(want, names); diff != "" || len(one) != len(two) {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "checksums.txt")
	check.Dir = out
	if said, err := check.CombinedOutput(); err != nil || strings.Count(string(said), ": OK") != 12 {
		t.Errorf("sha256sum: %v\n%s", err, said)
	}
	zipped, err := gzip.NewReader(strings.NewReader(one["crossbill_1.2.3_linux_arm64.tar.gz"]))
	if err != nil {
		t.Fatal(err)
	}
	var entries []string
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, fmt.Sprintf("%s %o %d:%d %s", h.Name, h.Mode, h.Uid, h.Gid, h.ModTime.UTC().Format(time.RFC3339)))
	}
	if diff := cmp.Diff([]string{"LICENSE 644 0:0 2026-11-27T08:00:00Z", "crossbill 755 0:0 2026-11-27T08:00:00Z"}, entries); diff != "" || !zipped.ModTime.IsZero() {
		t.Errorf("archive of %v (-want +got):\n%s", zipped.ModTime, diff)
	}
}

// TestPackages: what Homebrew and krew read is as it was looked at.
func TestPackages(t *testing.T) {
	sums := map[string]string{}
	for i, b := range everywhere() {
		sums[b.name(version(), ".tar.gz")] = strings.Repeat(fmt.Sprint(i), 64)
	}
	manifest, err := krew(version(), everywhere(), sums)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"crossbill.rb": homebrew(version(), everywhere(), sums), "crossbill.yaml": manifest} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if diff := cmp.Diff(string(want), string(got)); err != nil || diff != "" {
			t.Errorf("%s: %v; run go test ./internal/dist -update if this is meant:\n%s", file, err, diff)
		}
	}
}

// TestImages: they run as nobody in particular, with the command and nothing else; on a base with what that has.
func TestImages(t *testing.T) {
	for folder, want := range map[string]struct {
		files []string
		env   []string
		base  string
	}{
		"image":       {[]string{"etc/group", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", "usr/local/bin/crossbill"}, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, ""},
		"image-shell": {[]string{"usr/local/bin/crossbill"}, []string{"LANG=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, base},
	} {
		index, d, err := readImage(filepath.Join(work, "dist", folder))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(described{"1.2.3", commit, "https://github.com/our-org/crossbill", want.base}, d, cmp.AllowUnexported(described{})); diff != "" {
			t.Errorf("%s:\n%s", folder, diff)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		var platforms []string
		for _, m := range manifest.Manifests {
			platforms = append(platforms, m.Platform.String())
			built, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			config, err := built.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			got := v1.Config{User: "65532:65532", Entrypoint: []string{"/usr/local/bin/crossbill"}, Env: want.env, Labels: config.Config.Labels}
			if diff := cmp.Diff(got, config.Config); diff != "" || config.Architecture != m.Platform.Architecture {
				t.Errorf("%s for %s, %s (-want +got):\n%s", folder, m.Platform, config.Architecture, diff)
			}
			if diff := cmp.Diff(want.files, filesIn(t, built)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", folder, diff)
			}
		}
		if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
			t.Errorf("%s:\n%s", folder, diff)
		}
	}
}

// filesIn are the names of an image's files.
func filesIn(t *testing.T, built v1.Image) (names []string) {
	t.Helper()
	content := mutate.Extract(built)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// keys makes a signer, and a policy file that trusts it.
func keys(t *testing.T) (*provenance.Signer, *provenance.Verifier) {
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
	signer, err := provenance.NewKeySigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(provenance.Policy{Repository: "https://github.com/our-org/crossbill", Refs: []string{"refs/tags/v*"}, Keys: []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	policy, err := provenance.ReadVerifier(file)
	if err != nil {
		t.Fatal(err)
	}
	return signer, policy
}

// TestPublish: images and files have a signed provenance that crossbill's own policy admits; what was changed afterward has none.
func TestPublish(t *testing.T) {
	out := written(t)
	signer, policy := keys(t)
	_, others := keys(t)
	build := provenance.Build{Ref: "refs/tags/v1.2.3", Builder: "https://example.com/builder", FinishedAt: time.Now()}
	images, err := Publish(t.Context(), out, repository, signer, build, authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Publish(t.Context(), out, repository, signer, build, authn.DefaultKeychain)
	if diff := cmp.Diff(images, again); err != nil || diff != "" {
		t.Errorf("again: %v\n%s", err, diff)
	}
	if len(images) != 2 || !strings.HasPrefix(images[0], repository+":1.2.3@sha256:") || !strings.HasPrefix(images[1], repository+":1.2.3-shell@sha256:") {
		t.Fatalf("images %q", images)
	}
	for _, reference := range images {
		_, digest, _ := strings.Cut(reference, "@")
		origin, err := policy.Verify(t.Context(), repository+"@"+digest, provenance.Wanted{Commit: commit}, registry.Options(t.Context(), authn.DefaultKeychain)...)
		if err != nil || origin.Repository != "https://github.com/our-org/crossbill" || origin.Ref != "refs/tags/v1.2.3" {
			t.Errorf("%s: %v, %+v", reference, err, origin)
		}
	}
	if origin, err := Verify(policy, out, provenance.Wanted{Commit: commit}); err != nil || origin.Commit != commit {
		t.Errorf("%v, %+v", err, origin)
	}
	if _, err := Verify(others, out, provenance.Wanted{}); err == nil {
		t.Error("another key is as good")
	}
	const archive = "crossbill_1.2.3_linux_amd64.tar.gz"
	for name, c := range map[string]struct {
		change func(folder string) error
		says   string // "": accepted
	}{
		"a part of it":    {func(folder string) error { return os.Remove(filepath.Join(folder, archive)) }, ""},
		"another file":    {func(folder string) error { return os.WriteFile(filepath.Join(folder, archive), []byte("x"), 0o600) }, archive + " is not the file that checksums.txt has"},
		"another formula": {func(folder string) error { return os.WriteFile(filepath.Join(folder, formula), []byte("x"), 0o600) }, formula + " is not the file that checksums.txt has"},
		"another plugin":  {func(folder string) error { return os.WriteFile(filepath.Join(folder, plugin), []byte("x"), 0o600) }, plugin + " is not the file that checksums.txt has"},
		"no signature":    {func(folder string) error { return os.Remove(filepath.Join(folder, signature)) }, signature},
		"other checksums": {func(folder string) error { return os.WriteFile(filepath.Join(folder, checksums), []byte("x"), 0o600) }, checksums + ": it is signed by no key"},
	} {
		folder := t.TempDir()
		if err := errors.Join(os.CopyFS(folder, os.DirFS(out)), c.change(folder)); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(policy, folder, provenance.Wanted{})
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestBadInput(t *testing.T) {
	signer, _ := keys(t)
	out := written(t)
	if err := os.WriteFile(filepath.Join(out, "crossbill.rb"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(change func(*Version)) error {
		v := version()
		change(v)
		return Write(t.Context(), v, everywhere(), filepath.Join(work, "LICENSE"), filepath.Join(t.TempDir(), "dist"), nil, authn.DefaultKeychain)
	}
	publish := func(folder, repository string) error {
		_, err := Publish(t.Context(), folder, repository, signer, provenance.Build{}, authn.DefaultKeychain)
		return err
	}
	for field, err := range map[string]error{
		"version": write(func(v *Version) { v.Number = "v1.2.3" }),
		"commit":  write(func(v *Version) { v.Commit = "c0ffee0" }),
		"created": write(func(v *Version) { v.Date = time.Time{} }),
		"out":     Write(t.Context(), version(), nil, "", out, nil, authn.DefaultKeychain),
		"license": Write(t.Context(), version(), nil, "nothing", t.TempDir(), nil, authn.DefaultKeychain),
		"push":    publish(out, "crossbill:1.2.3"),
		"dist":    errors.Join(publish(t.TempDir(), "127.0.0.1:1/crossbill"), publish(out, "127.0.0.1:1/crossbill")),
	} {
		if wrong, ok := errors.AsType[*usererr.Error](err); !ok || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestChangesAreNotPublished: a provenance of them would name a commit that does not have them.
func TestChangesAreNotPublished(t *testing.T) {
	v, out := version(), filepath.Join(t.TempDir(), "dist")
	var err error
	if v.Number, err = NumberOf("v1.2.3", true); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), v, everywhere()[2:3], filepath.Join(work, "LICENSE"), out, []Base{{}}, authn.DefaultKeychain); err != nil {
		t.Fatal(err)
	}
	signer, _ := keys(t)
	_, err = Publish(t.Context(), out, repository, signer, provenance.Build{}, authn.DefaultKeychain)
	if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "version 1.2.3-dirty has changes that are in no commit") {
		t.Error(err)
	}
}

func TestNumberOf(t *testing.T) {
	for described, want := range map[string]string{
		"v1.2.3": "1.2.3", "1.2.3": "1.2.3", "v1.2.3-rc.1": "1.2.3-rc.1", "v1.2.3-4-gc0ffee1": "1.2.3-4-gc0ffee1", "v1.2.3-4-gc0ffee1-dirty": "1.2.3-4-gc0ffee1-dirty",
		"c0ffee1": "0.0.0-gc0ffee1", "0123456-dirty": "0.0.0-g0123456-dirty", "v1.2": "0.0.0-gv1.2", "": "", "v1.2.3+a": "", "a b": "", "v1.2.3;x": "",
	} {
		got, err := NumberOf(described, strings.HasSuffix(described, "dirty"))
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, %v, want %q", described, got, err, want)
		}
	}
}
