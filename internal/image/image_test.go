package image

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
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

// serve runs a real registry behind a handler that may interfere.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	server := httptest.NewServer(wrap(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/our-org/app"
}

func plain(h http.Handler) http.Handler { return h }

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
	if difference, err := Diff(a, b); err != nil || len(difference) > 0 {
		t.Fatalf("%v, %v", difference, err)
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
	difference, err := Diff(a, b)
	if err != nil || len(difference) != 2 || !strings.HasPrefix(difference[0], "app/dist/new: only in the second") || !strings.HasPrefix(difference[1], "app/dist/robots.txt: ") {
		t.Errorf("difference %q, %v", difference, err)
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

func TestPushReturnsWhatTheRegistryHas(t *testing.T) {
	dir := t.TempDir()
	writeApp(t, dir, app)
	image, err := Build(empty.Image, dir, Labels{})
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := image.Digest()
	var refused atomic.Int32
	flaky := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && refused.Add(1) <= 2 {
				http.Error(w, "not now", http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	for name, wrap := range map[string]func(http.Handler) http.Handler{"a registry": plain, "a registry that fails twice": flaky} {
		repository := serve(t, wrap)
		got, err := Push(context.Background(), image, repository+":1.0.0", authn.DefaultKeychain)
		if want := repository + ":1.0.0@" + digest.String(); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestATagThatMovesUnderThePushIsNoticed(t *testing.T) {
	dir := t.TempDir()
	writeApp(t, dir, app)
	image, err := Build(empty.Image, dir, Labels{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Build(empty.Image, dir, Labels{Version: "other"})
	if err != nil {
		t.Fatal(err)
	}
	var repository string
	var moved atomic.Bool
	repository = serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/1.0.0") && moved.CompareAndSwap(false, true) {
				ref, err := parseTag("", repository+":1.0.0")
				if err == nil {
					err = remote.Write(ref, other)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	})
	if got, err := Push(context.Background(), image, repository+":1.0.0", authn.DefaultKeychain); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTagsAndBasesThatNameNothing(t *testing.T) {
	ctx := context.Background()
	repository := serve(t, plain)
	if _, err := Digest(ctx, repository+":nope", authn.DefaultKeychain); err == nil {
		t.Error("a tag that is not there has a digest")
	}
	for _, reference := range []string{"", "node:24", "oci:" + t.TempDir()} {
		if _, err := Base(ctx, reference); !errors.As(err, new(*usererr.Error)) {
			t.Errorf("base %q: %v", reference, err)
		}
	}
	for _, tag := range []string{"", "app", "UPPER/x:1", "a/b:c:d"} {
		if _, err := Push(ctx, empty.Image, tag, authn.DefaultKeychain); !errors.As(err, new(*usererr.Error)) {
			t.Errorf("push to %q: %v", tag, err)
		}
	}
}

func TestALoginIsForTheRegistryThatIsPushedTo(t *testing.T) {
	repository := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "ci" || password != "s3cret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	if _, err := Push(context.Background(), empty.Image, repository+":1", Login{Username: "ci", Password: "s3cret"}); err != nil {
		t.Error(err)
	}
	for _, login := range []Login{{}, {Username: "ci", Password: "old"}} {
		if _, err := Push(context.Background(), empty.Image, repository+":1", login); err == nil || !strings.Contains(err.Error(), "check the credentials") {
			t.Errorf("%+v: %v", login, err)
		}
	}
}

func TestALayoutIsABaseAgain(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "layout")
	reference, err := WriteLayout(empty.Image, folder)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Base(context.Background(), "oci:"+folder)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := again.Digest()
	if err != nil || reference != "oci:"+folder+"@"+digest.String() {
		t.Errorf("%s is %s, %v", reference, digest, err)
	}
	if _, err := WriteLayout(empty.Image, folder); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("a folder with other things is written to: %v", err)
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
		has, err := files(c.image)
		if err != nil {
			t.Fatal(err)
		}
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
	repository := serve(t, plain)
	base := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range []string{"amd64", "arm64", "s390x"} {
		config, err := empty.Image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", architecture
		one, err := mutate.ConfigFile(empty.Image, config)
		if err != nil {
			t.Fatal(err)
		}
		base = mutate.AppendManifests(base, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	pushed, err := Push(t.Context(), base, repository+":base", authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	build := func() (reference string, layers []string) {
		t.Helper()
		var images []v1.Image
		for _, architecture := range []string{"amd64", "arm64"} {
			one, err := BaseFor(t.Context(), pushed, v1.Platform{OS: "linux", Architecture: architecture})
			if err != nil {
				t.Fatal(err)
			}
			built, err := Build(one, dir, Labels{Version: "1.0.0"})
			if err != nil {
				t.Fatal(err)
			}
			all, err := built.Layers()
			if err != nil {
				t.Fatal(err)
			}
			digest, err := all[len(all)-1].Digest()
			if err != nil {
				t.Fatal(err)
			}
			images, layers = append(images, built), append(layers, digest.String())
		}
		index, err := Index(images, Labels{Version: "1.0.0"})
		if err != nil {
			t.Fatal(err)
		}
		if reference, err = Push(t.Context(), index, repository+":1.0.0", authn.DefaultKeychain); err != nil {
			t.Fatal(err)
		}
		return reference, layers
	}
	reference, layers := build()
	if again, _ := build(); again != reference {
		t.Errorf("the same build is %s, then %s", reference, again)
	}
	if layers[0] != layers[1] {
		t.Errorf("the app's layers differ: %v", layers)
	}
	parts, err := Parts(t.Context(), reference, authn.DefaultKeychain)
	if err != nil || len(parts) != 2 || parts[0] == parts[1] {
		t.Errorf("parts %v, %v", parts, err)
	}
	if none, err := Parts(t.Context(), repository+"@"+parts[0], authn.DefaultKeychain); err != nil || len(none) != 0 {
		t.Errorf("parts of an image: %v, %v", none, err)
	}
	if _, err := BaseFor(t.Context(), pushed, v1.Platform{OS: "linux", Architecture: "riscv64"}); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("a platform that the base lacks: %v", err)
	}
	folder := filepath.Join(t.TempDir(), "layout")
	if got, err := WriteLayout(base, folder); err != nil || !strings.HasPrefix(got, "oci:"+folder+"@sha256:") {
		t.Errorf("%s, %v", got, err)
	}
}
