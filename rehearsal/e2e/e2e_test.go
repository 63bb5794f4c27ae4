// Package e2e runs the README's main command, and then the tutorial, as a newcomer would, and checks what they say.
package e2e

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/our-org/crossbill/rehearsal/lifecycle"
)

func TestMakeRehearse(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	rehearseAndHold(t, root, out, func(at held) { followTutorial(t, root, out, at) })
	text, err := os.ReadFile(filepath.Join(out, "rehearsal.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s lifecycle.Summary
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", text)

	want := []string{"first", "promoted", "rolled_back", "rolled_back"}
	if len(s.Releases) != len(want) {
		t.Fatalf("%d releases", len(s.Releases))
	}
	digests := map[string]bool{}
	for i, r := range s.Releases {
		if r.Outcome != want[i] {
			t.Errorf("release %s: %s, want %s", r.Version, r.Outcome, want[i])
		}
		if r.Lost != 0 {
			t.Errorf("release %s: %d of %d requests lost: %v", r.Version, r.Lost, r.Requests, s.Problems)
		}
		digests[r.Bundle] = true
	}
	if len(digests) != len(want) {
		t.Errorf("%d digests of %d bundles", len(digests), len(want))
	}
	good, bad, config := s.Releases[1], s.Releases[2], s.Releases[3]
	if good.Failed != 0 || bad.Failed == 0 || config.Failed == 0 {
		t.Errorf("%d errors of the good version, %d of the bad one, %d of the bad configuration", good.Failed, bad.Failed, config.Failed)
	}
	if config.Digest != good.Digest || bad.Digest == good.Digest {
		t.Errorf("the images are %s, %s, and with the bad configuration %s", good.Digest, bad.Digest, config.Digest)
	}
	// Each request is a draw with probability 0.1. Five standard deviations: a right gateway is
	// outside once in a million runs.
	for _, c := range []struct {
		path        string
		share       float64
		of, atLeast int
	}{{"gateway", s.CanaryShare, s.CanaryShareOf, 4000}, {"sidecar", s.Mesh.CanaryShare, s.Mesh.CanaryShareOf, 400}} {
		bound := 100 * 5 * math.Sqrt(0.1*0.9/float64(c.of))
		if c.of < c.atLeast || math.Abs(c.share-10) > bound {
			t.Errorf("by the %s the canary had %.2f%% of %d requests, want 10 ± %.2f of at least %d", c.path, c.share, c.of, bound, c.atLeast)
		}
	}
	if s.Mesh.Lost != 0 || s.Mesh.Requests == 0 {
		t.Errorf("a caller in the mesh lost %d of %d requests", s.Mesh.Lost, s.Mesh.Requests)
	}
	lookAtReport(t, filepath.Join(out, "report.html"))
}
