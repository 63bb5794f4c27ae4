package provenance

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"sigs.k8s.io/yaml"
)

// tufRepository serves Sigstore's roots as its CDN does, by its own keys. It has one version of each file and one key of
// each role, without delegations; the real one has five keys for its root, three of which sign.
func tufRepository(t *testing.T) (address string, trust []byte) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "public-good.json"))
	if err != nil {
		t.Fatal(err)
	}
	tomorrow := time.Now().AddDate(0, 0, 1).UTC()
	top, targets, snapshot, timestamp := metadata.Root(tomorrow), metadata.Targets(tomorrow), metadata.Snapshot(tomorrow), metadata.Timestamp(tomorrow)
	file := filepath.Join(t.TempDir(), "trusted_root.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if targets.Signed.Targets["trusted_root.json"], err = metadata.TargetFile().FromFile(file, "sha256"); err != nil {
		t.Fatal(err)
	}
	signers := map[string]signature.Signer{}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		key, err := metadata.KeyFromPublicKey(private.Public())
		if err == nil {
			err = top.Signed.AddKey(key, role)
		}
		if err == nil {
			signers[role], err = signature.LoadSigner(private, crypto.Hash(0))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{fmt.Sprintf("/targets/%x.trusted_root.json", sha256.Sum256(content)): content}
	serve := func(name string, text []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		files[name] = text
	}
	for _, err := range []error{second(top.Sign(signers[metadata.ROOT])), second(targets.Sign(signers[metadata.TARGETS])), second(snapshot.Sign(signers[metadata.SNAPSHOT])), second(timestamp.Sign(signers[metadata.TIMESTAMP]))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]interface{ ToBytes(bool) ([]byte, error) }{"/1.root.json": top, "/1.targets.json": targets, "/1.snapshot.json": snapshot, "/timestamp.json": timestamp} {
		text, err := to.ToBytes(false)
		serve(name, text, err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text, ok := files[r.URL.Path]; ok {
			_, _ = w.Write(text)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	return server.URL, files["/1.root.json"]
}

func second[T any](_ T, err error) error { return err }

// TestRootsWithoutAHome: a keyless signature can be verified where the user has no home and may write nowhere, as in a
// container of distroless's nonroot. Run by root, it becomes that user.
func TestRootsWithoutAHome(t *testing.T) {
	if address := os.Getenv("CROSSBILL_TEST_TUF"); address != "" {
		childWithoutAHome(t, address)
		return
	}
	t.Parallel()
	address, trust := tufRepository(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	binary := filepath.Join(dir, "provenance.test")
	for _, err := range []error{os.Chmod(filepath.Dir(dir), 0o755), os.Mkdir(empty, 0o555), copyFile(os.Args[0], binary), os.WriteFile(filepath.Join(dir, "root.json"), trust, 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^TestRootsWithoutAHome$", "-test.v")
	cmd.Dir = empty
	cmd.Env = []string{"CROSSBILL_TEST_TUF=" + address, "CROSSBILL_TEST_ROOT=" + filepath.Join(dir, "root.json"), "TMPDIR=" + empty}
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^--- PASS: TestRootsWithoutAHome`).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// childWithoutAHome reads the roots as a policy that names none does.
func childWithoutAHome(t *testing.T, address string) {
	if home, err := os.UserHomeDir(); err == nil {
		t.Fatalf("there is a home: %s", home)
	}
	if err := os.WriteFile("file", nil, 0o600); err == nil {
		t.Fatal("the working directory can be written to")
	}
	trust, err := os.ReadFile(os.Getenv("CROSSBILL_TEST_ROOT"))
	if err != nil {
		t.Fatal(err)
	}
	before := publicRoots
	publicRoots = func() *tuf.Options { return before().WithRoot(trust).WithRepositoryBaseURL(address) }
	text, err := yaml.Marshal(Policy{Repository: repository, Identities: []Identity{{Issuer: gitHub, Subject: workflow}}})
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, string(text))
	roots, err := v.roots()
	if err != nil || len(roots) != 1 || len(roots[0].RekorLogs()) == 0 {
		t.Errorf("%v, %v", roots, err)
	}
	// With the cache that sigstore-go has by default there would be none.
	publicRoots = func() *tuf.Options {
		options := before().WithRoot(trust).WithRepositoryBaseURL(address)
		options.DisableLocalCache = false
		return options
	}
	if _, err := v.roots(); err == nil || !strings.Contains(err.Error(), "trustedRoots") {
		t.Errorf("with a cache: %v", err)
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}
