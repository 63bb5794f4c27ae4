package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/our-org/crossbill/internal/usererr"
	"pgregory.net/rapid"
)

func writeApp(t interface {
	Helper()
	Fatal(...any)
}, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

var app = map[string]string{"server/entry.fastify.js": "serve()", "server/package.json": "{}", "dist/build/q-1.js": "x", "dist/robots.txt": "y"}

func TestTheSameFilesAreTheSameImage(t *testing.T) {
	labels := Labels{Title: "app", Version: "1", Created: time.Unix(1e9, 0)}
	one, two := t.TempDir(), filepath.Join(t.TempDir(), "deeper")
	writeApp(t, one, app)
	writeApp(t, two, app)
	if err := os.Chtimes(filepath.Join(two, "dist/robots.txt"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(two, "dist/robots.txt"), 0o640); err != nil {
		t.Fatal(err)
	}
	a, err := Build(empty.Image, one, labels)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Build(empty.Image, two, labels)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files(t, a), files(t, b)); diff != "" {
		t.Fatalf("files differ (-one +two):\n%s", diff)
	}
	digestA, _ := a.Digest()
	digestB, _ := b.Digest()
	if digestA != digestB {
		t.Errorf("%s and %s", digestA, digestB)
	}
	writeApp(t, two, map[string]string{"dist/robots.txt": "changed", "dist/new": ""})
	if b, err = Build(empty.Image, two, labels); err != nil {
		t.Fatal(err)
	}
	was, is := files(t, a), files(t, b)
	var changed []string
	for name := range is {
		if was[name] != is[name] {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	if diff := cmp.Diff([]string{"app/dist/new", "app/dist/robots.txt"}, changed); diff != "" {
		t.Errorf("changed files (-want +got):\n%s", diff)
	}
}

// files describes each file of an image.
func files(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	content := mutate.Extract(image)
	defer content.Close()
	described := map[string]string{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return described
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		described[h.Name] = fmt.Sprintf("mode %o, owner %d:%d, time %d, link %q, %q", h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Linkname, text)
	}
}

// TestAnyChangeIsAnotherDigest: two apps have one digest only when their files are the same.
func TestAnyChangeIsAnotherDigest(t *testing.T) {
	file := rapid.StringMatching(`(dist|server)/[a-z]{1,3}(/[a-z]{1,2}x)?`)
	gen := rapid.MapOf(file, rapid.StringN(0, 4, -1))
	digest := func(t *rapid.T, files map[string]string) string {
		dir, err := os.MkdirTemp("", "image-test-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		for name := range files {
			for other := range files {
				if strings.HasPrefix(other, name+"/") {
					t.Skip("a file under a file")
				}
			}
		}
		writeApp(t, dir, map[string]string{"server/entry.fastify.js": "", "dist/.keep": ""})
		writeApp(t, dir, files)
		image, err := Build(empty.Image, dir, Labels{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	same := func(a, b map[string]string) bool {
		if len(a) != len(b) {
			return false
		}
		for name, text := range a {
			if other, ok := b[name]; !ok || other != text {
				return false
			}
		}
		return true
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		if (digest(t, a) == digest(t, b)) != same(a, b) {
			t.Fatal("digests and files disagree")
		}
	})
}

func TestTheConfigSaysHowToRun(t *testing.T) {
	dir := t.TempDir()
	writeApp(t, dir, app)
	image, err := Build(empty.Image, dir, Labels{Title: "app", Version: "1.2.3", Revision: "c0ffee"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.User != "65532:65532" || c.Config.WorkingDir != "/app" || c.Config.Entrypoint[0] != "/nodejs/bin/node" || c.Config.Cmd[0] != "server/entry.fastify.js" || len(c.Config.ExposedPorts) != 2 {
		t.Errorf("config %+v", c.Config)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, labels := range []map[string]string{c.Config.Labels, manifest.Annotations} {
		if labels["org.opencontainers.image.version"] != "1.2.3" || labels["org.opencontainers.image.revision"] != "c0ffee" {
			t.Errorf("labels %v", labels)
		}
	}
}

func TestAFolderThatIsNotABuiltAppIsRefused(t *testing.T) {
	if _, err := Build(empty.Image, t.TempDir(), Labels{}); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("%v", err)
	}
	dir := t.TempDir()
	writeApp(t, dir, app)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "dist/link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(empty.Image, dir, Labels{}); err == nil || !strings.Contains(err.Error(), "dist/link") {
		t.Errorf("a link is packed: %v", err)
	}
}

// TestAssetsOfTheVersionBefore: the image has the hashed files of the version before it, but not of those
// before that one, and its own are as they are.
func TestAssetsOfTheVersionBefore(t *testing.T) {
	build := func(files map[string]string, earlier v1.Image) (v1.Image, error) {
		dir := t.TempDir()
		writeApp(t, dir, app)
		writeApp(t, dir, files)
		var below []v1.Layer
		if earlier != nil {
			layer, err := Assets(earlier, dir, "dist/build", time.Unix(0, 0))
			if err != nil {
				return nil, err
			}
			if layer != nil {
				below = append(below, layer)
			}
		}
		return Build(empty.Image, dir, Labels{}, below...)
	}
	must := func(image v1.Image, err error) v1.Image {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return image
	}
	one := must(build(map[string]string{"dist/build/q-one.js": "one", "dist/build/q-same.js": "same", "dist/page-1.html": ""}, nil))
	two := must(build(map[string]string{"dist/build/q-two.js": "two", "dist/build/q-same.js": "same"}, one))
	three := must(build(map[string]string{"dist/build/q-three.js": "three"}, two))
	for name, c := range map[string]struct {
		image v1.Image
		want  []string
		not   []string
	}{
		"two":   {two, []string{"app/dist/build/q-one.js", "app/dist/build/q-two.js", "app/dist/build/q-same.js"}, []string{"app/dist/page-1.html"}},
		"three": {three, []string{"app/dist/build/q-two.js", "app/dist/build/q-same.js", "app/dist/build/q-three.js"}, []string{"app/dist/build/q-one.js"}},
	} {
		has := files(t, c.image)
		for _, file := range c.want {
			if _, ok := has[file]; !ok {
				t.Errorf("%s lacks %s", name, file)
			}
		}
		for _, file := range c.not {
			if _, ok := has[file]; ok {
				t.Errorf("%s has %s", name, file)
			}
		}
	}
	again := must(build(map[string]string{"dist/build/q-two.js": "two", "dist/build/q-same.js": "same"}, one))
	a, _ := two.Digest()
	if b, _ := again.Digest(); a != b {
		t.Errorf("%s and %s", a, b)
	}
	if _, err := build(map[string]string{"dist/build/q-same.js": "other"}, one); err == nil || !strings.Contains(err.Error(), "q-same.js") {
		t.Errorf("a file with other bytes: %v", err)
	}
}

// TestSeveralPlatforms: one digest for all of them, and the app's layer, which is JavaScript, is the same in each.
func TestSeveralPlatforms(t *testing.T) {
	dir := t.TempDir()
	writeApp(t, dir, app)
	build := func() (digest v1.Hash, platforms, layers []string) {
		t.Helper()
		var images []v1.Image
		for _, architecture := range []string{"amd64", "arm64"} {
			config, err := empty.Image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			config = config.DeepCopy()
			config.OS, config.Architecture = "linux", architecture
			base, err := mutate.ConfigFile(empty.Image, config)
			if err != nil {
				t.Fatal(err)
			}
			built, err := Build(base, dir, Labels{Version: "1.0.0"})
			if err != nil {
				t.Fatal(err)
			}
			all, err := built.Layers()
			if err != nil {
				t.Fatal(err)
			}
			layer, err := all[len(all)-1].Digest()
			if err != nil {
				t.Fatal(err)
			}
			images, layers = append(images, built), append(layers, layer.String())
		}
		index, err := Index(images, Labels{Version: "1.0.0"})
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range manifest.Manifests {
			platforms = append(platforms, m.Platform.String())
		}
		if digest, err = index.Digest(); err != nil {
			t.Fatal(err)
		}
		return digest, platforms, layers
	}
	digest, platforms, layers := build()
	if again, _, _ := build(); again != digest {
		t.Errorf("the same build is %s, then %s", digest, again)
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
	if layers[0] != layers[1] {
		t.Errorf("the app's layers differ: %v", layers)
	}
}

func TestSBOM(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(file, text string) {
		t.Helper()
		writeApp(t, dir, map[string]string{file: text})
	}
	list := func(components string) string {
		return `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [` + components + `]}`
	}
	qwik := `{"type": "library", "group": "@builder.io", "name": "qwik", "version": "1.20.1", "licenses": [{"license": {"id": "MIT"}}]}`
	zod := `{"type": "library", "name": "zod", "version": "3.25.48"}`
	write(bundles[0], list(qwik))
	write(bundles[1], list(zod+","+qwik))
	hash := strings.Repeat("A", 86) + "=="
	write("pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages:\n  '@builder.io/qwik@1.20.1':\n    resolution: {integrity: sha512-"+hash+"}\n  zod@3.25.48:\n    resolution: {integrity: sha512-"+hash+"}\n  vite@7.3.8:\n    resolution: {integrity: sha512-"+hash+"}\n")
	const base = "gcr.io/distroless/nodejs24-debian12@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
	digest := "sha256:" + strings.Repeat("a", 64)
	text, err := SBOM(dir, "registry.example.com:5000/our-org/app", digest, base)
	if err != nil {
		t.Fatal(err)
	}
	again, err := SBOM(dir, "registry.example.com:5000/our-org/app", digest, base)
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

	write(bundles[1], list(`{"type": "library", "name": "stowaway", "version": "1.0.0"}`))
	if _, err := SBOM(dir, "app", digest, ""); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "stowaway@1.0.0 is in the bundle but not in pnpm-lock.yaml") {
		t.Errorf("%v", err)
	}
	write(bundles[1], list(""))
	if _, err := SBOM(dir, "app", digest, ""); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("%v", err)
	}
}
