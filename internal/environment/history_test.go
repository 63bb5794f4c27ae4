package environment

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/our-org/crossbill/internal/usererr"
)

// never is a history that is read to its end.
func never([]Version) bool { return false }

// TestHistory: the versions of one file, newest first, however many commits lie between them; a merge is one commit.
func TestHistory(t *testing.T) {
	for _, name := range []string{"lazy", "neither"} {
		t.Run(name, func(t *testing.T) { testHistory(t, servers[name]) })
	}
}

func testHistory(t *testing.T, settings []string) {
	s := serve(t, map[string]string{"a": "1"})
	s.gives(settings...)
	var stream strings.Builder // 70 commits, by one process
	for i := range 70 {
		text := fmt.Sprint(i)
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter Somebody <somebody@example.com> now\ndata 1\nb\n%sM 100644 inline b\ndata %d\n%s\n", map[bool]string{true: "from refs/heads/main^0\n"}[i == 0], len(text), text)
	}
	s.imports(stream.String())
	s.push("releases/shop.yaml", map[string]string{"releases/shop.yaml": "one"})
	work := t.TempDir()
	s.run(work, "clone", "-q", s.bare, ".")
	s.run(work, "switch", "-q", "-c", "branch")
	for _, text := range []string{"two", "three"} {
		if err := os.WriteFile(filepath.Join(work, "releases/shop.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.run(work, "commit", "-q", "-a", "-m", text)
	}
	s.run(work, "switch", "-q", "main")
	s.run(work, "merge", "-q", "--no-ff", "-m", "Merge", "branch")
	s.run(work, "push", "-q", "origin", "main")
	s.push("b", map[string]string{"b": "last"})
	s.run(work, "pull", "-q")
	s.run(work, "rm", "-q", "releases/shop.yaml")
	s.run(work, "commit", "-q", "-m", "gone")
	s.run(work, "push", "-q", "origin", "main")

	for name, test := range map[string]struct {
		enough func([]Version) bool
		want   []string
	}{
		"all":            {never, []string{"gone ", "Merge three", "releases/shop.yaml one"}},
		"no deeper":      {func([]Version) bool { return true }, []string{"gone ", "Merge three", "releases/shop.yaml one"}},
		"of a":           {never, []string{"First 1"}},
		"a not far":      {func([]Version) bool { return true }, nil},
		"what never was": {never, nil},
	} {
		file := map[string]string{"of a": "a", "a not far": "a", "what never was": "releases/cart.yaml"}[name]
		if file == "" {
			file = "releases/shop.yaml"
		}
		versions, head, err := s.repository().History(t.Context(), file, test.enough)
		if err != nil || head != s.head() {
			t.Fatalf("%s: head %s, %v", name, head, err)
		}
		var got []string
		for _, v := range versions {
			got = append(got, s.git("log", "-1", "--format=%s", v.Commit)+" "+string(v.Text))
			if author := s.git("log", "-1", "--format=%an <%ae>", v.Commit); v.Author != author {
				t.Errorf("author %s, want %s", v.Author, author)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestSigners: a signature of Git's own counts when its key is one that may sign, now.
func TestSigners(t *testing.T) {
	s := serve(t, map[string]string{"a": "1"})
	work := t.TempDir()
	s.run(work, "clone", "-q", s.bare, ".")
	public := map[string]string{}
	for i, kind := range []string{"ed25519", "rsa", "ecdsa"} {
		bits := map[string]string{"ed25519": "256", "rsa": "2048", "ecdsa": "256"}[kind]
		key := filepath.Join(t.TempDir(), kind)
		if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v %s", err, out)
		}
		text, err := os.ReadFile(key + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		public[kind] = strings.Join(strings.Fields(string(text))[:2], " ")
		if err := os.WriteFile(filepath.Join(work, "a"), []byte(fmt.Sprint(i)), 0o600); err != nil {
			t.Fatal(err)
		}
		s.run(work, "-c", "gpg.format=ssh", "-c", "user.signingKey="+key, "commit", "-q", "-a", "-S", "-m", kind)
		s.run(work, "push", "-q", "origin", "main")
	}
	versions, _, err := s.repository().History(t.Context(), "a", never)
	if err != nil || len(versions) != 4 {
		t.Fatalf("%d versions, %v", len(versions), err)
	}
	byKind := map[string]Version{"ecdsa": versions[0], "rsa": versions[1], "ed25519": versions[2], "none": versions[3]}
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	forged := byKind["ed25519"]
	forged.signed = append([]byte("tree "), forged.signed...)
	for name, test := range map[string]struct {
		file, kind string
		version    *Version
		want       string
	}{
		"ed25519":       {file: "mona@example.com " + public["ed25519"], kind: "ed25519", want: "mona@example.com"},
		"rsa":           {file: "# people\n\n\"mona@example.com,m@example.com\" " + public["rsa"] + " her laptop", kind: "rsa", want: "mona@example.com,m@example.com"},
		"ecdsa":         {file: "x " + public["rsa"] + "\nmona " + public["ecdsa"], kind: "ecdsa", want: "mona"},
		"in time":       {file: `mona namespaces="file,git",valid-after="20260101",valid-before="202607011201Z" ` + public["rsa"], kind: "rsa", want: "mona"},
		"too early":     {file: `mona valid-after="20260702" ` + public["rsa"], kind: "rsa", want: "is not valid now"},
		"too late":      {file: `mona valid-before="20260701115959" ` + public["rsa"], kind: "rsa", want: "is not valid now"},
		"another key":   {file: "mona " + public["ecdsa"], kind: "rsa", want: "is nobody's who may"},
		"for files":     {file: `mona namespaces="file" ` + public["rsa"] + "\nx " + public["ecdsa"], kind: "rsa", want: "is nobody's who may"},
		"not signed":    {file: "mona " + public["rsa"], kind: "none", want: "it is not signed"},
		"other content": {file: "mona " + public["ed25519"], version: &forged, want: "its signature is not right"},
		"not SSH":       {file: "mona " + public["ed25519"], version: &Version{signature: "-----BEGIN PGP SIGNATURE-----\n"}, want: "it has no SSH signature"},
	} {
		signers, err := parseSigners([]byte(test.file))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		v := byKind[test.kind]
		if test.version != nil {
			v = *test.version
		}
		got, err := signers.Signed(v, now)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// TestParseSignersErrors: each says which line it is.
func TestParseSignersErrors(t *testing.T) {
	key, err := privateKey("key", sshKey(t))
	if err != nil {
		t.Fatal(err)
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
	for text, want := range map[string]string{
		"":                                   "it names nobody who signs commits",
		"mona namespaces=\"file\" " + public: "it names nobody who signs commits",
		"# x\nmona":                          ":2: it has no principal with a public key",
		public:                               ":1: it has no principal with a public key",
		"\"mona " + public:                   ":1: a quote does not end",
		"mona cert-authority " + public:      ":1: the option cert-authority is not known",
		"mona valid-after=\"x\" " + public:   ":1: valid-after=\"x\" is not a time such as",
	} {
		name := filepath.Join(t.TempDir(), "signers")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadSigners(name)
		if _, ok := errors.AsType[*usererr.Error](err); !ok || !strings.Contains(err.Error(), "gitops.allowedSignersFile: "+name) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// FuzzSigners: whatever the file is, it is read or refused.
func FuzzSigners(f *testing.F) {
	f.Add("mona namespaces=\"git\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Hc2Q1cXQy5nX2cmVhbGx5IGEga2V5IGJ1dCBsb25n mona")
	f.Add("\"a b\" cert-authority ssh-rsa AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		signers, err := parseSigners([]byte(text))
		if _, bad := errors.AsType[*usererr.Error](err); err != nil && !bad || err == nil && len(signers) == 0 {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
