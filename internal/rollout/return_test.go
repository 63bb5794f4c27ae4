package rollout_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
)

const boundAnnotation = "crossbill.our-org.github.com/releases"

// returnable are the ids of the releases that the ledger keeps the pod template of, and that primary notes as its own.
func (w *world) returnable() (kept, noted []string) {
	w.Helper()
	ledger, err := release.ParseLedger(w.set.App, w.ledger().Data[ledgerKey])
	w.must(ledger, err)
	hashes := strings.Fields(w.deployment(release.Primary).Annotations[boundAnnotation])
	for _, f := range ledger.Returnable() {
		kept = append(kept, f.ID)
		for _, hash := range hashes {
			if hash == fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(f.Image+"\n"+f.Pod))) {
				noted = append(noted, f.ID)
			}
		}
	}
	return kept, noted
}

// TestPodIsKept: the ledger keeps what primary ran as a release that ended well, and primary notes it: of the last releases
// that can be returned to, and of none that was rolled back.
func TestPodIsKept(t *testing.T) {
	for stage, want := range map[string][]string{"rest": {"r1"}, "ended": {"r2", "r1"}, "rolled_back": {"r1"}, "promoted": {"r1"}} {
		at(t, stage, func(w *world) {
			kept, noted := w.returnable()
			if diff := cmp.Diff(want, kept); diff != "" {
				t.Errorf("%s (-want +got):\n%s", stage, diff)
			}
			if diff := cmp.Diff(kept, noted); diff != "" {
				t.Errorf("%s: primary does not note what the ledger keeps (-kept +noted):\n%s", stage, diff)
			}
			if stage != "promoted" {
				return
			}
			hashes := w.deployment(release.Primary).Annotations[boundAnnotation]
			w.must(w.job("back").Rollback(w.Context(), "test"))
			if back := w.deployment(release.Primary).Annotations[boundAnnotation]; back == hashes || len(strings.Fields(back)) != 1 {
				t.Errorf("after the rollback primary notes %q, before it %q", back, hashes)
			}
			if kept, noted := w.returnable(); !cmp.Equal(kept, want) || !cmp.Equal(noted, want) {
				t.Errorf("after the rollback %q are kept, %q are noted", kept, noted)
			}
		})
	}
	at(t, "ended", func(w *world) {
		for digit := 3; digit <= 5; digit++ {
			j := w.job("more")
			j.KeepReleases = 3
			w.must(j.Canary(w.Context(), wanted(fmt.Sprint(digit))))
			w.must(judge(w.Context(), j.Cluster, release.Healthy))
			w.must(j.Promote(w.Context()))
			w.must(j.Cleanup(w.Context()))
		}
		want := []string{"r5", "r4", "r3"}
		if kept, noted := w.returnable(); !cmp.Equal(kept, want) || !cmp.Equal(noted, want) {
			t.Errorf("%q are kept, %q are noted; want %q", kept, noted, want)
		}
	})
}
