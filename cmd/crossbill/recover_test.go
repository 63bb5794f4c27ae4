package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// ledgerOf is the ledger of an app whose last release has finished. With named, it names the app's objects.
func ledgerOf(t *testing.T, app string, named bool) *release.Ledger {
	t.Helper()
	set, err := manifest.Load("../../k8s")
	if err != nil {
		t.Fatal(err)
	}
	r := release.Release{ID: "r1", Image: byDigest}
	if named {
		if r.Objects, err = set.Objects("shop"); err != nil {
			t.Fatal(err)
		}
	}
	return &release.Ledger{Version: release.LedgerVersion, App: app, History: []release.Finished{{Release: r, Outcome: release.OutcomePromoted}}}
}

// TestTheWayBackNeedsNoFiles: a broken crossbill.yaml, manifests that cannot be read, a Prometheus that cannot be asked
// and another working directory are warnings to rollback and guard, which go by the ledger, and errors to all others.
func TestTheWayBackNeedsNoFiles(t *testing.T) {
	quiet(t)
	broken := filepath.Join(t.TempDir(), "crossbill.yaml")
	if err := os.WriteFile(broken, []byte("app: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "crossbill.yaml")
	if err := os.WriteFile(agent, []byte("cluster: {context: \"our-org/agents:production\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	two := map[string]*release.Ledger{"app": ledgerOf(t, "app", true), "other": ledgerOf(t, "other", true)}
	for _, c := range []struct {
		line    string
		ledgers map[string]*release.Ledger
		code    int
		says    []string
	}{
		{"rollback --manifests none", map[string]*release.Ledger{"app": two["app"]}, 0, []string{"warning: ", "going by the ledger of app", "nothing to roll back"}},
		{"rollback --manifests none --config " + broken, map[string]*release.Ledger{"app": two["app"]}, 0, []string{"warning: " + broken, "going by the ledger of app", "nothing to roll back"}},
		{"rollback --manifests none --prometheus-config none --prometheus http://127.0.0.1:1", map[string]*release.Ledger{"app": two["app"]}, 0, []string{"going on without Prometheus", "nothing to roll back"}},
		{"rollback --manifests none --app app --config " + agent, two, exitBadInput, []string{"cluster.context: context ", "not found in the kubeconfig; give --context NAME, or --context= for the current one"}},
		{"rollback --manifests none --app app --context= --config " + agent, two, 0, []string{"nothing to roll back"}},
		{"rollback --manifests none", two, exitBadInput, []string{"namespace shop has several: app, other", "name the one"}},
		{"rollback --manifests none --app other", two, 0, []string{"going by the ledger of other", "nothing to roll back"}},
		{"rollback --app other", two, 0, []string{"are those of qwik-node-app", "going by the ledger of other"}},
		{"rollback --manifests none --app nope", two, exitBadInput, []string{`"nope" has no ledger in namespace shop`}},
		{"rollback --manifests none", nil, exitBadInput, []string{"no app has a ledger in namespace shop"}},
		{"rollback --manifests none", map[string]*release.Ledger{"app": ledgerOf(t, "app", false)}, exitBadInput, []string{"--manifests: they are missing", "an earlier Crossbill"}},
		{"guard --manifests none --app app", two, 0, []string{"guard: no release is in flight"}},
		{"guard --all", two, 0, []string{"shop/app: no release is in flight\nshop/other: no release is in flight"}},
		{"guard -A -o json", two, 0, []string{`"namespace": "shop"`, `"app": "other"`}},
		{"guard -A", map[string]*release.Ledger{"app": two["app"], "old": ledgerOf(t, "old", false)}, exitBadInput, []string{"shop/app: no release is in flight", "shop/old: ", "an earlier Crossbill"}},
		{"guard -A", map[string]*release.Ledger{"app": two["app"], "new": {Version: release.LedgerVersion, App: "new"}}, 0, []string{"shop/app: no release is in flight\nshop/new: no release is in flight"}},
		{"rollback --manifests none", map[string]*release.Ledger{"new": {Version: release.LedgerVersion, App: "new"}}, exitBadInput, []string{`--app: nothing of "new" has been released yet in namespace shop`}},
		{"queue --leave --release-id r2 --manifests none", map[string]*release.Ledger{"app": two["app"]}, 0, []string{"going by the ledger of app", "release r2 is not in the line"}},
		{"queue --release-id r2 --manifests none", map[string]*release.Ledger{"app": two["app"]}, exitBadInput, []string{"none"}},
		{"guard -A --dry-run", two, exitBadInput, []string{"--dry-run"}},
		{"promote --manifests none", two, exitBadInput, []string{"none"}},
		{"cleanup --config " + broken, two, exitBadInput, []string{broken}},
	} {
		t.Run(c.line, func(t *testing.T) {
			server := &apiServer{ledgers: c.ledgers}
			line := strings.Fields(c.line)
			r := runLine(t, append(append(line[:1:1], server.serve(t, "shop")...), line[1:]...)...)
			for _, says := range c.says {
				if !strings.Contains(r.err+r.out, says) {
					t.Errorf("it does not say %q", says)
				}
			}
			if r.code != c.code || len(server.writes) > 0 || t.Failed() {
				t.Errorf("exit code %d, want %d, writes %v\n%s%s", r.code, c.code, server.writes, r.out, r.err)
			}
		})
	}
}

// TestAnotherAppIsRefused: the app that is meant, by flag, variable or crossbill.yaml, is held against the manifests'
// before anything is asked of the cluster. A pipeline that was started for one app cannot release another.
func TestAnotherAppIsRefused(t *testing.T) {
	quiet(t)
	file := filepath.Join(t.TempDir(), "crossbill.yaml")
	if err := os.WriteFile(file, []byte("app: other\nmanifests: "+absolute(t, "../../k8s")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := "--image " + byDigest
	for _, c := range []struct {
		line, variable string
		code           int
		says           string
	}{
		{line: "canary --app other " + image, code: exitBadInput, says: `--app: "other" is meant, and the manifests in `},
		{line: "verify --app other --prometheus http://127.0.0.1:1", code: exitBadInput, says: "are those of qwik-node-app"},
		{line: "promote --app other", code: exitBadInput, says: "are those of qwik-node-app"},
		{line: "cleanup --app other", code: exitBadInput, says: "are those of qwik-node-app"},
		{line: "shift --app other --steps 20", code: exitBadInput, says: "are those of qwik-node-app"},
		{line: "migrate --app other", code: exitBadInput, says: "are those of qwik-node-app"},
		{line: "promote --app other --dry-run", code: exitBadInput, says: "are those of qwik-node-app"},
		{line: "cleanup", variable: "other", code: exitBadInput, says: `CROSSBILL_APP: "other" is meant`},
		{line: "cleanup --config " + file, code: exitBadInput, says: `crossbill.yaml:1: app: "other" is meant`},
		{line: "cleanup --config " + file + " --app qwik-node-app", says: "no release is in flight"},
		{line: "cleanup --app qwik-node-app", says: "no release is in flight"},
		{line: "cleanup --app Other", code: exitBadInput, says: `--app: "Other" is not a name of lower-case letters`},
	} {
		t.Run(c.line+c.variable, func(t *testing.T) {
			t.Setenv("CROSSBILL_APP", c.variable)
			server := &apiServer{}
			line := strings.Fields(c.line)
			r := runLine(t, append(append(line[:1:1], server.serve(t, "shop")...), line[1:]...)...)
			if r.code != c.code || !strings.Contains(r.err+r.out, c.says) {
				t.Errorf("exit code %d, want %d and %q\n%s%s", r.code, c.code, c.says, r.out, r.err)
			}
			if asked := server.requests; c.code != 0 && len(asked) > 0 {
				t.Errorf("it asked the cluster: %v", asked)
			}
		})
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReleaseIDIsOfItsImage: a pipeline that has the name of one release cannot release another image, app or commit. It is
// found before the cluster is asked, so before the lock.
func TestReleaseIDIsOfItsImage(t *testing.T) {
	quiet(t)
	_, digest, _ := strings.Cut(byDigest, "@")
	made := release.NewID("qwik-node-app", digest, "c0ffee0", "")
	server := &apiServer{}
	there := server.serve(t, "shop")
	away := []string{"--kubeconfig", kubeconfigOf(t, "http://127.0.0.1:1"), "--namespace", "shop", "--manifests", "../../k8s"}
	for name, test := range map[string]struct {
		id, commit string
		code       int
	}{
		"its own":           {made, "c0ffee0", 0},
		"a name":            {"mine", "c0ffee0", 0},
		"another image's":   {release.NewID("qwik-node-app", "sha256:"+strings.Repeat("0b", 32), "c0ffee0", ""), "c0ffee0", exitBadInput},
		"another app's":     {release.NewID("shop", digest, "c0ffee0", ""), "c0ffee0", exitBadInput},
		"another commit's":  {made, "c0ffee1", exitBadInput},
		"without a commit":  {made, "", exitBadInput},
		"of no commit":      {release.NewID("qwik-node-app", digest, "", ""), "", 0},
		"made up":           {"0123456789ab", "c0ffee0", exitBadInput},
		"not an id at all":  {"A", "c0ffee0", exitBadInput},
		"12 digits, a date": {"202611261641", "c0ffee0", exitBadInput},
	} {
		cluster := there
		if test.code != 0 { // where nothing answers, exit code 1 would show that it was asked
			cluster = away
		}
		r := runLine(t, append([]string{"canary", "--dry-run", "--image", byDigest, "--release-id", test.id, "--commit", test.commit}, cluster...)...)
		if r.code != test.code || test.code != 0 && !strings.Contains(r.err, "--release-id: ") {
			t.Errorf("%s: exit code %d, want %d\n%s%s", name, r.code, test.code, r.out, r.err)
		}
	}
}
