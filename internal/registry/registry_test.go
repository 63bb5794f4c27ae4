package registry

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/our-org/crossbill/internal/usererr"
)

// serve runs a real registry behind a handler that may interfere.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	server := httptest.NewServer(wrap(fake.New(fake.Logger(log.New(io.Discard, "", 0)))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/our-org/app"
}

func plain(h http.Handler) http.Handler { return h }

func TestPushReturnsWhatTheRegistryHas(t *testing.T) {
	image, err := random.Image(100, 1)
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
		got, err := Push(t.Context(), image, repository+":1.0.0", authn.DefaultKeychain)
		if want := repository + ":1.0.0@" + digest.String(); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestATagThatMovesUnderThePushIsNoticed(t *testing.T) {
	image, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	var repository string
	var moved atomic.Bool
	repository = serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/1.0.0") && moved.CompareAndSwap(false, true) {
				ref, err := ParseTag("", repository+":1.0.0")
				if err == nil {
					err = remote.Write(ref, other)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	})
	if got, err := Push(t.Context(), image, repository+":1.0.0", authn.DefaultKeychain); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBadReferences(t *testing.T) {
	ctx := t.Context()
	repository := serve(t, plain)
	if _, err := Digest(ctx, repository+":nope", authn.DefaultKeychain); err == nil {
		t.Error("a tag that does not exist has a digest")
	}
	for _, reference := range []string{"", "node:24", "oci:" + t.TempDir()} {
		if _, err := Pull(ctx, "base", reference, authn.DefaultKeychain); !errors.As(err, new(*usererr.Error)) {
			t.Errorf("pull %q: %v", reference, err)
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
	if _, err := Push(t.Context(), empty.Image, repository+":1", Login{HostOf(repository), "ci", "s3cret"}); err != nil {
		t.Error(err)
	}
	for _, login := range []Login{{}, {HostOf(repository), "ci", "old"}, {"registry.example.com", "ci", "s3cret"}} {
		if _, err := Push(t.Context(), empty.Image, repository+":1", login); err == nil || !strings.Contains(err.Error(), "check the credentials") {
			t.Errorf("%+v: %v", login, err)
		}
	}
}

// TestALoginIsForOneRegistry: another one, which anybody may name, gets what docker login has for it.
func TestALoginIsForOneRegistry(t *testing.T) {
	var seen []string
	other := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, _, _ := r.BasicAuth()
			if seen = append(seen, user); user != "docker" {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	login := Login{"registry.example.com", "ci", "s3cret"}
	if _, err := Push(t.Context(), empty.Image, other+":1", login); err == nil {
		t.Error("it was pushed without a login")
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	config := fmt.Sprintf(`{"auths": {%q: {"username": "docker", "password": "own"}}}`, HostOf(other))
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), empty.Image, other+":1", login); err != nil {
		t.Error(err)
	}
	if slices.Contains(seen, "ci") {
		t.Errorf("it saw the users %q", seen)
	}
	for reference, want := range map[string]string{"registry.example.com/a/b": "registry.example.com", "docker.io/a/b:1": "index.docker.io", "localhost:5000/a@sha256:" + strings.Repeat("0", 64): "localhost:5000", "oci:folder": "", "": ""} {
		if got := HostOf(reference); got != want {
			t.Errorf("the host of %q is %q, want %q", reference, got, want)
		}
	}
}

// TestRedirectsOfARegistry: a registry may keep its content elsewhere, which gets no login; an upload goes nowhere else.
func TestRedirectsOfARegistry(t *testing.T) {
	image, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	var storage *httptest.Server
	var asked, uploads atomic.Int32
	var redirectUploads atomic.Bool
	content := fake.New(fake.Logger(log.New(io.Discard, "", 0)))
	storage = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1); r.Method != http.MethodGet && r.Method != http.MethodHead {
			uploads.Add(1)
		}
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s elsewhere with %q", r.Method, r.Header.Get("Authorization"))
		}
		content.ServeHTTP(w, r)
	}))
	defer storage.Close()
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _, known := r.BasicAuth()
		switch {
		case !known:
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/"), r.Method == http.MethodPut && redirectUploads.Load():
			http.Redirect(w, r, storage.URL+r.URL.RequestURI(), http.StatusTemporaryRedirect)
		default:
			content.ServeHTTP(w, r)
		}
	}))
	defer home.Close()
	repository, login := strings.TrimPrefix(home.URL, "http://")+"/our-org/app", Login{strings.TrimPrefix(home.URL, "http://"), "ci", "s3cret"}
	pushed, err := Push(t.Context(), image, repository+":1", login)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := Pull(t.Context(), "image", pushed, login)
	if err == nil {
		_, err = pulled.RawConfigFile()
	}
	if err != nil || asked.Load() == 0 {
		t.Errorf("its content elsewhere: %v, asked %d times", err, asked.Load())
	}
	redirectUploads.Store(true)
	if _, err := Push(t.Context(), image, repository+":2", login); err == nil || !strings.Contains(err.Error(), "redirects a PUT") || uploads.Load() != 0 {
		t.Errorf("an upload elsewhere: %v, %d requests", err, uploads.Load())
	}
}

func TestLayoutIsReadAgain(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "layout")
	reference, err := WriteLayout(empty.Image, folder)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Pull(t.Context(), "base", "oci:"+folder, authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := again.Digest()
	if err != nil || reference != "oci:"+folder+"@"+digest.String() {
		t.Errorf("%s is %s, %v", reference, digest, err)
	}
	if _, err := WriteLayout(empty.Image, folder); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("a folder that exists is written to: %v", err)
	}
}

// TestIndex: an index is pushed as one digest; its images are found by platform.
func TestIndex(t *testing.T) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var want []string
	for _, architecture := range []string{"amd64", "arm64"} {
		image, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, digest.String())
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}})
	}
	repository := serve(t, plain)
	pushed, err := Push(t.Context(), index, repository+":1.0.0", authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := IndexDigests(t.Context(), pushed, authn.DefaultKeychain)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, digests (-want +got):\n%s", err, diff)
	}
	if got, err := IndexDigests(t.Context(), repository+"@"+want[0], authn.DefaultKeychain); err != nil || len(got) != 0 {
		t.Errorf("an image has the digests %v, %v", got, err)
	}
	arm, err := PullPlatform(t.Context(), "base", pushed, v1.Platform{OS: "linux", Architecture: "arm64"}, authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := arm.Digest(); err != nil || digest.String() != want[1] {
		t.Errorf("linux/arm64 is %s, %v; want %s", digest, err, want[1])
	}
	if _, err := PullPlatform(t.Context(), "base", pushed, v1.Platform{OS: "linux", Architecture: "riscv64"}, authn.DefaultKeychain); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("a platform that the index lacks: %v", err)
	}
	folder := filepath.Join(t.TempDir(), "layout")
	if got, err := WriteLayout(index, folder); err != nil || !strings.HasPrefix(got, "oci:"+folder+"@sha256:") {
		t.Errorf("%s, %v", got, err)
	}
}

// TestReadable: what a registry says of an image that it does not have shows whether the login may pull.
func TestReadable(t *testing.T) {
	withLogin := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, ok := r.BasicAuth(); !ok || user != "jane" || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	image, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		wrap    func(http.Handler) http.Handler
		login   Login // Host is of the double
		pushed  bool
		exists  bool
		problem string
	}{
		{name: "empty", wrap: plain},
		{name: "pushed", wrap: plain, pushed: true, exists: true},
		{name: "login", wrap: withLogin, login: Login{Username: "jane", Password: "secret"}, pushed: true, exists: true},
		{name: "wrong login", wrap: withLogin, login: Login{Username: "jane", Password: "wrong"}, problem: "HTTP 401"},
		{name: "no login", wrap: withLogin, problem: "HTTP 401"},
	} {
		t.Run(c.name, func(t *testing.T) {
			repository := serve(t, c.wrap)
			c.login.Host = HostOf(repository)
			if c.pushed {
				if _, err := Push(t.Context(), image, repository+":one", c.login); err != nil {
					t.Fatal(err)
				}
			}
			exists, err := Readable(t.Context(), "registry", repository, c.login)
			input := new(usererr.Error)
			if errors.As(err, &input) != (c.problem != "") || !strings.Contains(input.Problem, c.problem) || exists != c.exists {
				t.Errorf("exists %v, want %v; %v", exists, c.exists, err)
			}
		})
	}
	if _, err := Readable(t.Context(), "registry", "127.0.0.1:1/our-org/app", authn.DefaultKeychain); !errors.As(err, new(*AwayError)) {
		t.Errorf("away: %v", err)
	}
	broken := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusInternalServerError) })
	})
	if _, err := Readable(t.Context(), "registry", broken, authn.DefaultKeychain); err == nil || errors.As(err, new(*usererr.Error)) || errors.As(err, new(*AwayError)) {
		t.Errorf("broken: %v", err)
	}
}

// raw is a manifest as it is.
type raw string

func (r raw) RawManifest() ([]byte, error)        { return []byte(r), nil }
func (r raw) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// TestConfigDigests: an index with another attestation, and one of its images, are the same image; what cannot be read is none.
func TestConfigDigests(t *testing.T) {
	repository := serve(t, plain)
	push := func(tag string, pushable Pushable) string {
		t.Helper()
		pushed, err := Push(t.Context(), pushable, repository+":"+tag, authn.DefaultKeychain)
		if err != nil {
			t.Fatal(err)
		}
		_, digest, _ := strings.Cut(pushed, "@")
		return repository + "@" + digest
	}
	var images []v1.Image
	var configs []string
	for range 4 { // of two platforms, and two attestations
		image, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		images, configs = append(images, image), append(configs, config.String())
	}
	indexOf := func(attestation v1.Image) v1.ImageIndex {
		on := func(image v1.Image, os, architecture string) mutate.IndexAddendum {
			return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: architecture}}}
		}
		return mutate.AppendManifests(empty.Index, on(images[0], "linux", "amd64"), on(images[1], "linux", "arm64"), on(attestation, "unknown", "unknown"))
	}
	first, second, image := push("1", indexOf(images[2])), push("2", indexOf(images[3])), push("3", images[0])
	if first == second {
		t.Fatal("the indexes are one")
	}
	for reference, want := range map[string][]string{first: configs[:2], second: configs[:2], image: configs[:1], push("4", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: indexOf(images[2])})): configs[:2]} {
		got, err := ConfigDigests(t.Context(), reference, authn.DefaultKeychain)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v, configurations (-want +got):\n%s", reference, err, diff)
		}
	}
	bare := raw(`{"schemaVersion": 2}`)
	hash, _, err := v1.SHA256(strings.NewReader(string(bare)))
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(repository + "@" + hash.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Put(ref, bare); err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{ref.Name(), repository + "@" + nothing, repository + ":1"} {
		if got, err := ConfigDigests(t.Context(), reference, authn.DefaultKeychain); err == nil {
			t.Errorf("%s has the configurations %v", reference, got)
		}
	}
}
