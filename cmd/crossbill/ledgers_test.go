package main

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

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

// waiting is the ledger of an app whose canary has waited for a while.
func waiting(t *testing.T, app string, since time.Duration) *release.Ledger {
	t.Helper()
	l := ledgerOf(t, app, true)
	objects, at := l.History[0].Objects, time.Now().Add(-since)
	if _, err := l.Start(release.Release{ID: "r2", Image: byDigest, Previous: byDigest, Weight: 10, Objects: objects}, "jane", at); err != nil {
		t.Fatal(err)
	}
	if err := l.Reach(release.StageCanary, "jane", at); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestAllAppsByTheirLedgersInGit: status and guard of all apps find those whose ledger is in Git beside those in the cluster, and
// what is wrong with one of them, or with Git, keeps nothing of the others away.
func TestAllAppsByTheirLedgersInGit(t *testing.T) {
	f := inGit(t, map[string]*release.Ledger{"app": ledgerOf(t, "app", true), "busy": waiting(t, "busy", time.Hour), "old": waiting(t, "old", time.Hour), "far": waiting(t, "far", time.Hour)}, map[string]string{
		"releases/busy/app.json": `{"namespace": "shop", "path": "apps/busy"}`, "releases/far/app.json": `{"namespace": "far", "path": "apps/far"}`,
		"releases/broken/ledger.json": "{", "releases/broken/app.json": `{"namespace": "shop", "path": "apps/broken"}`,
	})
	here := map[string]*release.Ledger{"here": ledgerOf(t, "here", true)}
	for _, c := range []struct {
		line string
		away bool // Git
		code int
		says []string
		not  []string
	}{
		{"status --all", false, 0, []string{"shop       busy    canary", "shop       app     -", "shop       here    -", "ledger of broken is not readable"}, []string{"far"}},
		{"status -A -o json", false, 0, []string{`"app": "far"`, `"inGit": true`}, nil},
		{"status -A", true, exitBadInput, []string{"shop       here  -", "crossbill: ledgers (releases in Git): ", "the token may not read"}, []string{"busy"}},
		{"guard --all", false, exitFailure, []string{ // broken is the first that fails
			"shop/app: no release is in flight\nshop/busy: release r2 is at stage canary for 1h", "; 24h0m0s is allowed\nshop/here: no release is in flight\n",
			"shop/broken: ledger of broken is not readable",
			"shop/old: releases/old/app.json: it is missing, so that nothing says which folder of the repository has the manifests", "run `crossbill guard --app old --namespace shop` with the app's own crossbill.yaml",
		}, []string{"far"}},
		{"guard -A", true, exitBadInput, []string{"shop/here: no release is in flight\n", "the token may not read"}, []string{"busy"}},
	} {
		f.refuse = nil
		if c.away {
			f.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
				http.Error(w, "away", http.StatusForbidden)
				return true
			}
		}
		server := &apiServer{ledgers: here}
		line := strings.Fields(c.line)
		r := runLine(t, slices.Concat(line[:1], server.serve(t, "shop"), line[1:])...)
		for _, says := range c.says {
			if !strings.Contains(r.err+r.out, says) {
				t.Errorf("%s does not say %q", c.line, says)
			}
		}
		for _, not := range c.not {
			if strings.Contains(r.out+r.err, not) {
				t.Errorf("%s says %q", c.line, not)
			}
		}
		if r.code != c.code || len(server.writes) > 0 || f.commits() != 1 || t.Failed() {
			t.Fatalf("%s: exit code %d, want %d, writes %v, %d commits\n%s%s", c.line, r.code, c.code, server.writes, f.commits(), r.out, r.err)
		}
	}
}
