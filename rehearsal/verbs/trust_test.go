package verbs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/our-org/crossbill/image/custody"
)

// signingKey makes a private key in a file, and the policy that trusts it.
func signingKey(t *testing.T, repository string) (file, policy string) {
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
	file = filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(custody.Trust{Repository: repository, Keys: []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))}})
	if err != nil {
		t.Fatal(err)
	}
	return file, string(text)
}

// testOnlyWhatIsTrusted: where there is a policy, an image that nobody whom it names has signed is refused before
// anything is written, by canary and by promote.
func testOnlyWhatIsTrusted(t *testing.T) {
	t.Parallel()
	a := released(t, "trust")
	const repository = "https://github.com/our-org/app"
	commit := strings.Repeat("c0ffee12", 5)
	key, policy := signingKey(t, repository)
	stranger, strangers := signingKey(t, repository)
	trust := filepath.Join(a.manifests, "trust.yaml")
	write := func(policy string) {
		t.Helper()
		if err := os.WriteFile(trust, []byte(policy), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(policy)
	// An image of its own: other tests' policies know nothing of it.
	tagged := images["three"]
	image := tagged[:strings.LastIndex(tagged, ":three@")] + tagged[strings.Index(tagged, "@"):]
	refused := func(says string, args ...string) {
		t.Helper()
		before := a.state()
		if code, out := a.crossbill(args...); code != 2 || !strings.Contains(out, says) || !strings.Contains(out, "nothing was changed") {
			t.Errorf("crossbill %s: exit code %d\n%s", args[0], code, out)
		}
		if after := a.state(); !maps.Equal(before, after) {
			t.Errorf("a refused %s changed something: %v, then %v", args[0], before, after)
		}
	}
	attest := func(key string) {
		t.Helper()
		if code, out := a.command("image", "attest", image, "--repository", repository, "--commit", commit, "--key-file", key); code != 0 {
			t.Fatalf("attest: exit code %d\n%s", code, out)
		}
	}
	canary := []string{"canary", "--image", image, "--commit", commit}

	refused("no provenance is attached", canary...)
	attest(stranger)
	refused("signed by no key that the policy names", canary...)
	attest(key)
	refused("the release is of bbbb", "canary", "--image", image, "--commit", strings.Repeat("b", 40))
	if code, out := a.crossbill("canary", "--image", image); code != 2 || !strings.Contains(out, "--commit: is missing") {
		t.Errorf("a release without a commit: exit code %d\n%s", code, out)
	}
	if code, out := a.command("image", "inspect", image, "--trust", trust); code != 0 || !strings.Contains(out, "yes: built from "+repository+" at "+commit) {
		t.Errorf("inspect: exit code %d\n%s", code, out)
	}
	if out := a.must(canary...); !strings.Contains(out, "built from "+repository+" at "+commit+", signed by key ") {
		t.Errorf("canary:\n%s", out)
	}
	a.healthy()
	write(strings.Replace(strangers, repository, "https://github.com/their-org/app", 1))
	refused("not from https://github.com/their-org/app", "promote")
	write(policy)
	a.must("promote")
	write("repository: x")
	a.must("rollback") // the way back is never refused
}
