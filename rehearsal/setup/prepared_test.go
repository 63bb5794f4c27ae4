package setup

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
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
)

// published is a registry with a prepared control plane, which is a script. change is given each response before it is sent.
func published(t *testing.T, made string, change func(r *http.Request, w http.ResponseWriter) (answered bool)) name.Digest {
	t.Helper()
	blobs := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || change == nil || !change(r, w) {
			blobs.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	program := filepath.Join(t.TempDir(), "testcluster")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	to, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://")+"/our-org/control-plane", name.StrictValidation)
	if err != nil {
		t.Fatal(err)
	}
	text, err := publish(t.Context(), to, made, program, quiet)
	if err != nil {
		t.Fatal(err)
	}
	again, err := publish(t.Context(), to, made, program, quiet)
	if err != nil || again != text {
		t.Errorf("published again it is %s (%v), want %s", again, err, text)
	}
	t.Setenv(PreparedVariable, text)
	reference, err := Prepared()
	if err != nil {
		t.Fatal(err)
	}
	return *reference
}

func TestPreparedControlPlaneIsFetched(t *testing.T) {
	reference, dir := published(t, "testcluster-1", nil), t.TempDir()
	if err := fetchTestcluster(t.Context(), reference, "testcluster-1", dir, quiet); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "testcluster")
	if text, err := os.ReadFile(program); err != nil || string(text) != "#!/bin/sh\nexit 0\n" {
		t.Errorf("fetched %q (%v), want the script", text, err)
	}
	if info, err := os.Stat(program); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v (%v), want 0755", info.Mode(), err)
	}
}

// Whatever is wrong with a prepared one, nothing of it is left, and the caller can build.
func TestPreparedControlPlaneIsRefused(t *testing.T) {
	for title, tt := range map[string]struct {
		want   string // of this checkout
		change func(r *http.Request, w http.ResponseWriter) bool
		err    string
	}{
		"of other sources": {want: "testcluster-2", err: `it is "testcluster-1", and this checkout needs testcluster-2`},
		"another program": {want: "testcluster-1", err: "error verifying", change: func(r *http.Request, w http.ResponseWriter) bool {
			if !strings.Contains(r.URL.Path, "/blobs/") {
				return false
			}
			_, _ = w.Write(gzipped("#!/bin/sh\nexit 1\n"))
			return true
		}},
		"another manifest": {want: "testcluster-1", err: "digest", change: func(r *http.Request, w http.ResponseWriter) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write([]byte(`{"schemaVersion":2}`))
			return true
		}},
		"it is gone": {want: "testcluster-1", err: "404", change: func(r *http.Request, w http.ResponseWriter) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.WriteHeader(http.StatusNotFound)
			return true
		}},
	} {
		t.Run(title, func(t *testing.T) {
			published(t, "testcluster-1", tt.change)
			cache := t.TempDir()
			err := fetchPrepared(t.Context(), cache, source{name: tt.want}, quiet)
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want one with %q", err, tt.err)
			}
			left, _ := filepath.Glob(filepath.Join(cache, "*"))
			hidden, _ := filepath.Glob(filepath.Join(cache, ".new-*"))
			if len(hidden) != 0 || len(left) != 1 || left[0] != filepath.Join(cache, tt.want+".lock") {
				t.Errorf("it has left %v and %v, want the lock alone", left, hidden)
			}
		})
	}
}

func TestPreparedNamesADigest(t *testing.T) {
	for _, text := range []string{"registry.example.com/our-org/control-plane:1", "control-plane@sha256:12", "@"} {
		t.Setenv(PreparedVariable, text)
		if reference, err := Prepared(); err == nil || !strings.HasPrefix(err.Error(), PreparedVariable+": ") {
			t.Errorf("%s: %v, %v; want an error that names the variable", text, reference, err)
		}
	}
	t.Setenv(PreparedVariable, "")
	if reference, err := Prepared(); reference != nil || err != nil {
		t.Errorf("without one: %v, %v", reference, err)
	}
}

// One that cannot be fetched is said, and the control plane is built.
func TestPreparedFallsBackToBuilding(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("PATH", t.TempDir()) // without a Go command, building fails and says so
	t.Setenv(PreparedVariable, "127.0.0.1:1/our-org/control-plane@sha256:"+strings.Repeat("0", 64))
	module := t.TempDir()
	write(t, filepath.Join(module, "go.mod"), goMod)
	write(t, filepath.Join(module, "cmd/testcluster/main.go"), "package main")
	var said []string
	_, err := EnsureTestcluster(t.Context(), module, func(format string, args ...any) { said = append(said, format) })
	if err == nil || !strings.Contains(err.Error(), "the go command is missing") {
		t.Errorf("error %v, want that of the build", err)
	}
	if !strings.Contains(strings.Join(said, "\n"), "built from source instead") {
		t.Errorf("it said %q, want why it builds", said)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := EnsureTestcluster(ctx, module, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("after Ctrl-C: %v, want %v", err, context.Canceled)
	}
}
