package main

import (
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/release"
)

// TestANewerLedger: where a newer Crossbill has written the ledger, every command that needs it says so, ends with exit code 2, and
// writes nothing. Status shows what the cluster shows.
func TestANewerLedger(t *testing.T) {
	quiet(t)
	const app = "qwik-node-app"
	const says = "the ledger of qwik-node-app was written by a newer crossbill: its format has version 1000, and this one knows the versions up to "
	for line, out := range map[string]string{
		"status":                                 "release  not known: " + says,
		"status -o json":                         `"problem": "` + says,
		"history":                                "",
		"report":                                 "",
		"canary --image " + byDigest:             "",
		"shift --steps 20":                       "",
		"verify --prometheus http://127.0.0.1:1": "",
		"promote":                                "",
		"promote --dry-run":                      "",
		"approve":                                "",
		"cleanup":                                "",
		"rollback":                               "",
		"rollback --to r1":                       "",
		"rollback --manifests none":              "",
		"hold --reason x":                        "",
		"resume":                                 "",
		"guard":                                  "",
		"guard --all":                            "",
		"replay":                                 "",
	} {
		t.Run(line, func(t *testing.T) {
			server := &apiServer{ledgers: map[string]*release.Ledger{app: ledgerOf(t, app, true)}, newer: true}
			words := strings.Fields(line)
			r := runLine(t, append(append(words[:1:1], server.serve(t, "shop")...), words[1:]...)...)
			if r.code != exitBadInput || !strings.Contains(r.out+r.err, says) || !strings.Contains(r.out, out) {
				t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
			}
			if len(server.writes) > 0 {
				t.Errorf("it writes %v", server.writes)
			}
		})
	}
	t.Run("status --all", func(t *testing.T) {
		server := &apiServer{ledgers: map[string]*release.Ledger{app: ledgerOf(t, app, true), "other": ledgerOf(t, "other", true)}, newer: true}
		r := runLine(t, append([]string{"status", "--all"}, server.serve(t, "shop")...)...)
		if r.code != 0 || strings.Count(r.out, "newer crossbill") != 2 {
			t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
		}
	})
}
