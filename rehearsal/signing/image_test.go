package signing

import (
	"archive/tar"
	"bytes"
	"errors"
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
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/our-org/crossbill/internal/dist"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
)

// rootVariable has the file system that the test binary, when it is started again as a container, runs its arguments in.
const rootVariable = "CROSSBILL_TEST_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(rootVariable); root != "" {
		fmt.Fprintln(os.Stderr, contain(root, os.Args[1:]))
		os.Exit(125)
	}
	os.Exit(m.Run())
}

// contain runs a command in a root that nobody can write to, as user and group 65532. It returns only with an error.
func contain(root string, args []string) error {
	const id = 65532
	for _, step := range []func() error{
		func() error { return syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") },
		func() error { return syscall.Mount(root, root, "", syscall.MS_BIND, "") },
		func() error {
			return syscall.Mount("", root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		},
		func() error { return syscall.Chroot(root) },
		func() error { return os.Chdir("/") },
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setgid(id) },
		func() error { return syscall.Setuid(id) },
		nothingWritable,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return syscall.Exec(args[0], args, slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, rootVariable) }))
}

// nothingWritable tries to make a file in each folder.
func nothingWritable() error {
	return filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("%s can be written to: %w", path, err)
		}
		return nil
	})
}

// TestTheCommandsOwnImage: the image of the command is pushed and signed by crossbill's own code, and verifies itself, by a policy as
// for an app's image: by the command in it, as its user, on a read-only root that has nothing but the image's files.
func TestTheCommandsOwnImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	binary, err := filepath.Abs("../../bin/crossbill")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: make bin/crossbill builds it", err)
	}
	const commit = "c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffe"
	version := &dist.Version{Number: "1.2.3", Commit: commit, Date: time.Unix(1764000000, 0), Repository: "https://github.com/our-org/crossbill", Downloads: "https://example.com"}
	out := filepath.Join(t.TempDir(), "dist")
	binaries := []dist.Binary{{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, Path: binary}}
	if err := dist.Write(t.Context(), version, binaries, "../../LICENSE", out, []dist.Base{{}}, authn.DefaultKeychain); err != nil {
		t.Fatal(err)
	}
	key, policy, err := Key(t.TempDir(), version.Repository)
	if err != nil {
		t.Fatal(err)
	}
	_, others, err := Key(t.TempDir(), version.Repository)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := provenance.NewKeySigner(text)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	repository := strings.TrimPrefix(server.URL, "http://") + "/our-org/crossbill"
	build := provenance.Build{Ref: "refs/tags/v1.2.3", Builder: "https://example.com/builder", FinishedAt: time.Now()}
	images, err := dist.Publish(t.Context(), out, repository, signer, build, authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	_, digest, _ := strings.Cut(images[0], "@")
	reference, err := name.NewDigest(repository + "@" + digest)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(reference, append(registry.Options(t.Context(), authn.DefaultKeychain), remote.WithPlatform(binaries[0].Platform))...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := pulled.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65532:65532" {
		t.Errorf("it runs as %q", config.Config.User)
	}
	root := t.TempDir()
	extract(t, pulled, root)
	tags := "refs: [refs/tags/v*]\n"
	for file, text := range map[string]string{"policy.yaml": policy + tags, "others.yaml": others + tags} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		line string
		code int
		says string
	}{
		{"version", 0, "ledger     format versions 1 to "},
		{"image inspect " + reference.Name() + " --trust /policy.yaml --commit " + commit, 0, "admitted  yes: built from https://github.com/our-org/crossbill at c0ffee0"},
		{"image inspect " + reference.Name() + " --trust /policy.yaml", 0, "signature"},
		{"image inspect " + reference.Name() + " --trust /others.yaml", 2, "signed by no key that the policy names"},
		{"lint nothing.yml", 2, "nothing.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], append(config.Config.Entrypoint, strings.Fields(c.line)...)...)
		cmd.Env = append(config.Config.Env, rootVariable+"="+root)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: %v, want exit code %d and %q\n%s", c.line, err, c.code, c.says, said.String())
		}
		t.Logf("crossbill %s\n%s", c.line, said.String())
	}
}

// extract writes the files of an image into a folder, with the modes that they have.
func extract(t *testing.T, image v1.Image, root string) {
	t.Helper()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	content := mutate.Extract(image)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(root, filepath.Clean("/"+h.Name))
		text, err := io.ReadAll(r)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, h.FileInfo().Mode())); err != nil {
			t.Fatal(err)
		}
	}
}
