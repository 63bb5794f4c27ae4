package release

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stages are the constants of the type Stage, from the source.
func stages(t *testing.T) []Stage {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "release.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []Stage
	ast.Inspect(file, func(node ast.Node) bool {
		spec, is := node.(*ast.ValueSpec)
		if !is {
			return true
		}
		if kind, is := spec.Type.(*ast.Ident); is && kind.Name == "Stage" {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, Stage(value))
		}
		return true
	})
	return all
}

// TestThePictureOfStages: docs/states.svg has the stages, and the ways from one to another, that a ledger has.
func TestThePictureOfStages(t *testing.T) {
	picture, err := os.ReadFile("../../docs/states.svg")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, from := range stages(t) {
		want[string(from)] = true
		for _, to := range stages(t) {
			// Nothing but the end follows rolling_back.
			if from != to && from != StageRollingBack && allowed(from, to) {
				want[string(from+" to "+to)] = true
			}
		}
		for outcome := range map[Outcome]bool{OutcomeFirst: true, OutcomePromoted: true, OutcomeRolledBack: true} {
			if (&Ledger{Release: &Release{Stage: from}}).Finish(outcome, "", now) == nil {
				want[string(from)+" to end"] = true
			}
		}
		shifted := &Ledger{Release: &Release{Stage: from, Weight: 10}}
		if shifted.Shift(20, "", now) == nil && shifted.Release.Stage != from {
			want[string(from+" to "+shifted.Release.Stage)] = true
		}
		returned := &Ledger{Release: &Release{Stage: from, Return: &Return{}}}
		if returned.Reach(StagePromoting, "", now) == nil && from != StagePromoting {
			want[string(from+" to "+StagePromoting)] = true
		}
	}
	got := map[string]bool{}
	for _, found := range regexp.MustCompile(`class="stage"[^>]*>([^<]+)<`).FindAllStringSubmatch(string(picture), -1) {
		got[found[1]] = true
	}
	for _, found := range regexp.MustCompile(`data-from="([^"]+)" data-to="([^"]+)"`).FindAllStringSubmatch(string(picture), -1) {
		got[found[1]+" to "+found[2]] = true
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("docs/states.svg (-code +picture):\n%s", diff)
	}
}
