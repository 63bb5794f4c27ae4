package provenance

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFiles: one provenance is that of each file of a build, and of no other; a signature is that of one content.
func TestFiles(t *testing.T) {
	signer, policy := keys(t)
	_, others := keys(t)
	sum := func(text string) string { h := sha256.Sum256([]byte(text)); return hex.EncodeToString(h[:]) }
	build := Build{Repository: repository, Ref: "refs/heads/main", Commit: commit, Builder: "https://example.com/builder"}
	bundle, err := AttestFiles(t.Context(), signer, map[string]string{"a.tar.gz": sum("a"), "b.tar.gz": sum("b")}, build)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := build
	elsewhere.Repository = "https://github.com/others/app"
	theirs, err := AttestFiles(t.Context(), signer, map[string]string{"a.tar.gz": sum("a")}, elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := SignFile(t.Context(), signer, []byte("sums"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bundle       []byte
		sum, policy  string
		commit, says string // the error; "": accepted
	}{
		"one":            {bundle, sum("a"), policy, "", ""},
		"the other":      {bundle, sum("b"), policy, commit, ""},
		"another file":   {bundle, sum("c"), policy, "", "or is about another image"},
		"another key":    {bundle, sum("a"), others, "", "signed by no key that the policy names"},
		"another commit": {bundle, sum("a"), policy, strings.Repeat("0", 40), "it says that it was built from commit"},
		"another source": {theirs, sum("a"), policy, "", "it says that it was built from \"https://github.com/others/app\""},
		"a signature":    {signature, sum("sums"), policy, "", "it signs no statement"},
		"no bundle":      {[]byte("{}"), sum("a"), policy, "", "it is not a Sigstore bundle"},
	} {
		origin, err := verifier(t, c.policy).VerifyFile(c.bundle, c.sum, Wanted{Commit: c.commit})
		switch {
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %q", name, err, c.says)
		case c.says == "" && (err != nil || origin.Commit != commit):
			t.Errorf("%s: %v, %+v", name, err, origin)
		}
	}
	if by, err := verifier(t, policy).VerifyContent(signature, []byte("sums")); err != nil || !strings.HasPrefix(by, "key ") {
		t.Errorf("signed by %q, %v", by, err)
	}
	for name, c := range map[string]struct{ policy, content string }{"other content": {policy, "other sums"}, "another key": {others, "sums"}} {
		if by, err := verifier(t, c.policy).VerifyContent(signature, []byte(c.content)); err == nil {
			t.Errorf("%s is signed by %s", name, by)
		}
	}
}

// TestFillIn: what is given wins over the variables, which count only in a workflow of GitHub's.
func TestFillIn(t *testing.T) {
	const laptop = "https://github.com/our-org/crossbill/laptop"
	variables := map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "our-org/app", "GITHUB_REF": "refs/tags/v1", "GITHUB_WORKFLOW_REF": "our-org/app/.github/workflows/publish.yml@refs/tags/v1", "GITHUB_RUN_ID": "7"}
	for name, c := range map[string]struct {
		given, want Build
		variables   map[string]string
	}{
		"a laptop":   {Build{Ref: "refs/heads/main"}, Build{Ref: "refs/heads/main", Builder: laptop}, nil},
		"a workflow": {Build{}, Build{Repository: "https://github.com/our-org/app", Ref: "refs/tags/v1", Builder: "https://github.com/our-org/app/.github/workflows/publish.yml@refs/tags/v1", Invocation: "https://github.com/our-org/app/actions/runs/7"}, variables},
		"given":      {Build{Repository: "r", Ref: "f", Builder: "b", Invocation: "i"}, Build{Repository: "r", Ref: "f", Builder: "b", Invocation: "i"}, variables},
	} {
		c.given.FillIn(func(name string) string { return c.variables[name] })
		if diff := cmp.Diff(c.want, c.given); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
