package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/release"
)

// inGit is an environment repository with ledgers. What it has of an app is an empty folder: nothing of it is live.
func inGit(t *testing.T, ledgers map[string]*release.Ledger, more map[string]string) *forge {
	t.Helper()
	files := map[string]string{"apps/README.md": "Ours\n"}
	for app, ledger := range ledgers {
		files["releases/"+app+"/ledger.json"] = ledger.String() + "\n"
		files["apps/"+app+"/configmap.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + app + "}\n"
	}
	maps.Copy(files, more)
	f := newForge(t, files)
	f.configure(map[string]string{"controller": "flux", "store": "git", "path": "apps/app"})
	return f
}

// TestTheWayBackByALedgerInGit: rollback and guard need no manifests where the ledgers are in Git.
func TestTheWayBackByALedgerInGit(t *testing.T) {
	two := map[string]*release.Ledger{"app": ledgerOf(t, "app", true), "other": ledgerOf(t, "other", true)}
	f := inGit(t, two, map[string]string{"releases/other/app.json": `{"namespace": "shop", "path": "apps/other"}`})
	for _, c := range []struct {
		line string
		code int
		says []string
	}{
		{"rollback --manifests none", exitBadInput, []string{"namespace shop has several: app, other", "name the one"}},
		{"rollback --manifests none --app app", 0, []string{"going by the ledger of app", "nothing to roll back"}},
		{"guard --manifests none --app other", 0, []string{"going by the ledger of other", "no release is in flight"}},
		{"rollback --manifests none --app nope", exitBadInput, []string{`--app: "nope" has no ledger in Git (releases) for namespace shop`}},
	} {
		server := &apiServer{}
		line := strings.Fields(c.line)
		r := runLine(t, slices.Concat(line[:1], server.serve(t, "shop"), line[1:])...)
		for _, says := range c.says {
			if !strings.Contains(r.err+r.out, says) {
				t.Errorf("%s does not say %q", c.line, says)
			}
		}
		if r.code != c.code || len(server.writes) > 0 || f.commits() != 1 || t.Failed() {
			t.Fatalf("%s: exit code %d, want %d, writes %v, %d commits\n%s%s", c.line, r.code, c.code, server.writes, f.commits(), r.out, r.err)
		}
	}
}
