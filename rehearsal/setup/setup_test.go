package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func quiet(string, ...any) {}

// program makes a folder's program.
func program(dir string) error {
	return os.WriteFile(filepath.Join(dir, "program"), []byte("made"), 0o755)
}

func TestEnsureMakesOnceForAllWhoAsk(t *testing.T) {
	cache := t.TempDir()
	var made atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			path, err := ensure(t.Context(), cache, "thing-1", "program", quiet, func(dir string) error {
				made.Add(1)
				return program(dir)
			})
			if b, _ := os.ReadFile(path); err != nil || string(b) != "made" {
				t.Errorf("%s holds %q: %v", path, b, err)
			}
		})
	}
	group.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times, want once", made.Load())
	}
}

func TestEnsureLeavesNothingHalfMade(t *testing.T) {
	cache := t.TempDir()
	broken := errors.New("broken")
	_, err := ensure(t.Context(), cache, "thing-1", "program", quiet, func(dir string) error {
		if err := program(dir); err != nil {
			t.Fatal(err)
		}
		return broken
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "thing-1") {
		t.Errorf("error %v, want thing-1's", err)
	}
	left, _ := filepath.Glob(filepath.Join(cache, "*"))
	hidden, _ := filepath.Glob(filepath.Join(cache, ".new-*"))
	if len(hidden) != 0 || fmt.Sprint(left) != fmt.Sprint([]string{filepath.Join(cache, "thing-1.lock")}) {
		t.Errorf("left %v and %v, want the lock alone", left, hidden)
	}
	if _, err := ensure(t.Context(), cache, "thing-1", "program", quiet, program); err != nil {
		t.Errorf("the next time: %v", err)
	}
}

func TestLockEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(ctx, path, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("second lock: %v, want %v", err, context.Canceled)
	}
}

const goMod = `module github.com/our-org/crossbill/rehearsal
go 1.26.0
require (
	go.etcd.io/etcd/server/v3 v3.7.0
	istio.io/istio v0.0.1
	k8s.io/kubernetes v1.37.2
	example.com/unrelated v1.0.0
)
`

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestKeyChangesWithWhatIsBuiltAlone(t *testing.T) {
	module := t.TempDir()
	key := func() string {
		t.Helper()
		s, err := readSource(module)
		if err != nil {
			t.Fatal(err)
		}
		return s.name
	}
	write(t, filepath.Join(module, "go.mod"), goMod)
	write(t, filepath.Join(module, "cmd/testcluster/main.go"), "package main")
	first := key()
	if !strings.HasPrefix(first, "testcluster-v1.37.2-") {
		t.Errorf("name %q does not begin with the Kubernetes version", first)
	}
	write(t, filepath.Join(module, "go.mod"), strings.Replace(goMod, "unrelated v1.0.0", "unrelated v1.0.1", 1))
	if key() != first {
		t.Error("another version of an unrelated module: the key changed")
	}
	write(t, filepath.Join(module, "go.mod"), strings.Replace(goMod, "istio v0.0.1", "istio v0.0.2", 1))
	if key() == first {
		t.Error("another version of Istio: the key is the same")
	}
	write(t, filepath.Join(module, "go.mod"), goMod)
	write(t, filepath.Join(module, "cmd/testcluster/main.go"), "package main // changed")
	if key() == first {
		t.Error("another source: the key is the same")
	}
}

func TestFluxIsBuiltAnewWithItsVersionsAlone(t *testing.T) {
	module := t.TempDir()
	text := `module github.com/our-org/crossbill/rehearsal/flux
go 1.26.0
require (
	example.com/unrelated v1.0.0 // indirect
	github.com/fluxcd/kustomize-controller v1.9.6 // indirect
	github.com/fluxcd/source-controller v1.9.5 // indirect
)
replace k8s.io/api => k8s.io/api v0.37.2
`
	name := func(changes ...string) string {
		t.Helper()
		write(t, filepath.Join(module, "go.mod"), strings.NewReplacer(changes...).Replace(text))
		name, err := fluxName(module)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	first := name()
	if !strings.HasPrefix(first, "flux-v1.9.6-") {
		t.Errorf("name %q does not begin with Flux's version", first)
	}
	if name("unrelated v1.0.0", "unrelated v1.0.1") != first {
		t.Error("another version of an unrelated module: the name changed")
	}
	if name("v1.9.5", "v1.9.6") == first {
		t.Error("another version of source-controller: the name is the same")
	}
	if name("v0.37.2", "v0.37.3") == first {
		t.Error("another version of Kubernetes: the name is the same")
	}
	write(t, filepath.Join(module, "go.mod"), strings.ReplaceAll(text, "source-controller", "another"))
	if name, err := fluxName(module); err == nil {
		t.Errorf("without source-controller: %q", name)
	}
}

func TestGitLabRunnerIsBuiltAnewWithItsModule(t *testing.T) {
	module := t.TempDir()
	text := "module github.com/our-org/crossbill/rehearsal/runner\ngo 1.26.5\nrequire gitlab.com/gitlab-org/gitlab-runner v1.11.1-0.20260903214710-fc1f1862bd91\n"
	write(t, filepath.Join(module, "standin/moa/moa.go"), "package moa")
	name := func(file, text string) string {
		t.Helper()
		write(t, filepath.Join(module, file), text)
		name, err := gitlabRunnerName(module)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	first := name("go.mod", text)
	if !strings.HasPrefix(first, "gitlab-runner-fc1f1862bd91-") {
		t.Errorf("name %q does not begin with the runner's version", first)
	}
	if name("go.mod", text) != first {
		t.Error("nothing has changed: the name has")
	}
	if name("standin/moa/moa.go", "package moa // changed") == first {
		t.Error("another stand-in: the name is the same")
	}
	write(t, filepath.Join(module, "go.mod"), strings.Replace(text, "gitlab-runner v", "another v", 1))
	if name, err := gitlabRunnerName(module); err == nil {
		t.Errorf("without the runner: %q", name)
	}
}

func TestPeerIsInTheCacheOrNot(t *testing.T) {
	cache, module := t.TempDir(), t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	write(t, filepath.Join(module, "compare/flagger/go.mod"), "module example.com/x\nrequire github.com/fluxcd/flagger v1.44.0\n")
	p, there, err := CachedPeer(module, "flagger")
	if err != nil || there || p.Version != "v1.44.0" {
		t.Fatalf("got %+v, %t, %v, want nothing of v1.44.0", p, there, err)
	}
	write(t, p.Program, "")
	again, there, err := CachedPeer(module, "flagger")
	if err != nil || !there || again != p {
		t.Errorf("got %+v, %t, %v, want %+v", again, there, err, p)
	}
	if got, err := EnsurePeer(t.Context(), module, "flagger", quiet); err != nil || got != p {
		t.Errorf("got %+v, %v, want %+v", got, err, p)
	}
	for _, name := range []string{"argo-rollouts", "spinnaker"} {
		if _, _, err := CachedPeer(module, name); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestModuleIsFoundFromWithin(t *testing.T) {
	repository := t.TempDir()
	module := filepath.Join(repository, "rehearsal")
	write(t, filepath.Join(repository, "go.mod"), "module github.com/our-org/crossbill\n")
	write(t, filepath.Join(module, "go.mod"), goMod)
	write(t, filepath.Join(module, "cluster/testdata/x"), "")
	for _, dir := range []string{repository, module, filepath.Join(module, "cluster/testdata")} {
		t.Chdir(dir)
		if got, err := findModule(); err != nil || got != module {
			t.Errorf("from %s: %q, %v, want %q", dir, got, err, module)
		}
	}
	t.Chdir(t.TempDir())
	if _, err := findModule(); err == nil || !strings.Contains(err.Error(), "checkout") {
		t.Errorf("outside: %v, want an error that says where to run", err)
	}
}

func TestMissingToolIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for tool, err := range map[string]error{
		"go":                   buildTestcluster(t.Context(), source{}, t.TempDir(), quiet),
		"the go command":       buildFlux(t.Context(), "", t.TempDir(), quiet),
		"install Go 1.26":      buildArgoCD(t.Context(), "", t.TempDir(), quiet),
		"GitLab's runner":      buildGitLabRunner(t.Context(), "", t.TempDir(), quiet),
		"install Go 1.26 or l": buildPeer(t.Context(), "", "flagger", t.TempDir(), quiet),
		"python3":              fetchEnvoy(t.Context(), t.TempDir(), quiet),
		"is missing (package":  fetchPrometheus(t.Context(), t.TempDir(), quiet),
	} {
		if err == nil || !strings.Contains(err.Error(), tool) {
			t.Errorf("without tools: %v, want an error with %q", err, tool)
		}
	}
}
