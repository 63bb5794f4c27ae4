package commands_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/our-org/crossbill/rehearsal/signing"
)

func signingKey(t *testing.T, repository string) (file, policy string) {
	t.Helper()
	file, policy, err := signing.Key(t.TempDir(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return file, policy
}

// testOnlyWhatIsTrusted: where there is a policy, an image that nobody whom it names has signed is refused before
// anything is written, by every command that gives it traffic.
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
	attest := func(key, ref string) {
		t.Helper()
		if code, out := a.command("image", "attest", image, "--repository", repository, "--commit", commit, "--ref", ref, "--key-file", key); code != 0 {
			t.Fatalf("attest: exit code %d\n%s", code, out)
		}
	}
	canary := []string{"canary", "--image", image, "--commit", commit}

	refused("it has no provenance", canary...)
	attest(stranger, "refs/heads/main")
	refused("signed by no key that the policy names", canary...)
	attest(key, "refs/pull/7/merge")
	refused("built from refs/pull/7/merge, and the policy admits refs/heads/main only", canary...)
	attest(key, "refs/heads/main")
	refused("the release is of bbbb", "canary", "--image", image, "--commit", strings.Repeat("b", 40))
	if code, out := a.crossbill("canary", "--image", image); code != 2 || !strings.Contains(out, "--commit: is missing") {
		t.Errorf("a release without a commit: exit code %d\n%s", code, out)
	}
	if code, out := a.command("image", "inspect", image, "--trust", trust); code != 0 || !strings.Contains(out, "yes: built from "+repository+" at "+commit) {
		t.Errorf("inspect: exit code %d\n%s", code, out)
	}
	if out := a.must(canary...); !strings.Contains(out, "built from "+repository+" at "+commit+" (refs/heads/main), signed by key ") {
		t.Errorf("canary:\n%s", out)
	}
	theirs := strings.Replace(strangers, repository, "https://github.com/their-org/app", 1)
	write(theirs)
	refused("not from https://github.com/their-org/app", "shift", "--steps", "25")
	write(policy)
	a.must("shift", "--steps", "25")
	a.healthy()
	write(theirs)
	refused("not from https://github.com/their-org/app", "promote")
	write(policy)
	a.must("promote")
	write("repository: x")
	a.must("rollback") // the way back is never refused
}
