package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/release"
)

// TestQueueOfAFirstRelease: with each policy, an app's first release has its turn at once: by manifests and by a bundle, where
// no ledger is, and where an earlier job has made one.
func TestQueueOfAFirstRelease(t *testing.T) {
	b := newBundles(t)
	reference := b.make(t, "../../k8s")
	for _, ledgers := range []map[string]*release.Ledger{
		nil,
		{"qwik-node-app": {Version: release.LedgerVersion, App: "qwik-node-app"}},
		{"other": ledgerOf(t, "other", true)}, // that it takes for its own nowhere
	} {
		for _, manifests := range [][]string{{"--manifests", "../../k8s"}, {"--manifests", "oci://" + reference}, {"--bundle", reference}} {
			for policy, says := range map[string]string{"refuse": "no release waits for another one", "queue": "it is the turn of release r1", "supersede": "it is the turn of release r1"} {
				server := &apiServer{ledgers: ledgers}
				flags := server.serve(t, "shop")
				r := runLine(t, slices.Concat([]string{"queue", "--dry-run", "--release-id", "r1", "--queue-policy", policy}, manifests, flags[:len(flags)-2])...)
				if r.code != 0 || !strings.Contains(r.out, says) {
					t.Errorf("%s, %q, %d ledgers: exit code %d\n%s%s", policy, manifests, len(ledgers), r.code, r.out, r.err)
				}
				if len(ledgers) > 0 && slices.Contains(server.requests, "GET /api/v1/namespaces/shop/configmaps/crossbill-other") {
					t.Errorf("%s, %q: it reads the ledger of another app", policy, manifests)
				}
			}
		}
	}
}
