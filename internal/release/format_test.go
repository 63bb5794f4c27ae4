package release

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestVersion1: each ledger that a Crossbill wrote before there was a version 2 is read, and is written as that one wrote it, so
// that it can be read there again. The files are those of a release at each of its stages, as commit 93e33b4 wrote them.
func TestVersion1(t *testing.T) {
	files, err := filepath.Glob("testdata/version1/*.json")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ParseLedger("qwik-node-app", string(text))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if diff := cmp.Diff(string(text), l.String()); diff != "" {
			t.Errorf("%s is written as another ledger (-was +is):\n%s", file, diff)
		}
	}
}

// TestVersion1DropsWhatItDoesNotKnow: it had fields that were removed since.
func TestVersion1DropsWhatItDoesNotKnow(t *testing.T) {
	l, err := ParseLedger("app", `{"version": 1, "app": "app", "epoch": 4, "gitCommit": "c0ffee"}`)
	if err != nil || l.Epoch != 4 || strings.Contains(l.String(), "gitCommit") {
		t.Errorf("%v, %+v", err, l)
	}
}

func TestNewerLedgers(t *testing.T) {
	for text, want := range map[string]string{
		`{"version": 3, "app": "app"}`:                                         "its format has version 3, and this one knows the versions up to 2",
		`{"version": 3, "app": {"name": "app"}, "epoch": "a"}`:                 "its format has version 3, and this one knows the versions up to 2",
		`{"version": 2, "app": "app", "freeze": {"until": "2027"}}`:            `it has the field "freeze", which this one does not know`,
		`{"version": 2, "app": "app", "history": [{"id": "1", "score": 0.9}]}`: `it has the field "score", which this one does not know`,
	} {
		_, err := ParseLedger("app", text)
		newer, ok := errors.AsType[*NewerLedgerError](err)
		if !ok {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, newer.What); diff != "" {
			t.Errorf("%s:\n%s", text, diff)
		}
	}
}

// TestTheOldestVersionThatHoldsIt: a field or value that came later makes the ledger one of the later version, where it is set.
func TestTheOldestVersionThatHoldsIt(t *testing.T) {
	fields, later := inFormat1, laterValues
	t.Cleanup(func() { inFormat1, laterValues = fields, later })
	inFormat1 = maps.Clone(fields)
	delete(inFormat1, "Hold.reason")
	laterValues = map[string]int{"Outcome=superseded": 2}
	for name, c := range map[string]struct {
		ledger Ledger
		want   int
	}{
		"neither":       {Ledger{Hold: &Hold{By: "me"}, History: []Finished{{Outcome: OutcomePromoted}}}, 1},
		"a later field": {Ledger{Hold: &Hold{By: "me", Reason: "a freeze"}}, 2},
		"a later value": {Ledger{History: []Finished{{Outcome: OutcomePromoted}, {Outcome: OutcomeSuperseded}}}, 2},
		"a text alike":  {Ledger{Hold: &Hold{By: "Outcome=superseded"}}, 1},
	} {
		c.ledger.App = "app"
		read, err := ParseLedger("app", c.ledger.String())
		if err != nil || read.Version != c.want {
			t.Errorf("%s: %v, written in version %d, want %d", name, err, read.Version, c.want)
		}
	}
}

// TestEachValueHasAVersion: a new stage, outcome or other value of the ledger's types of texts is in laterValues. Without that, a
// Crossbill that does not know it would take the ledger for one of its own.
func TestEachValueHasAVersion(t *testing.T) {
	types := map[string]bool{}
	for part := range inFormat1 {
		if of, _, ok := strings.Cut(part, "="); ok {
			types[of] = true
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			of, ok := spec.Type.(*ast.Ident)
			value, literal := spec.Values[0].(*ast.BasicLit)
			if !ok || !literal || !types[of.Name] {
				return true
			}
			text, err := strconv.Unquote(value.Value)
			if part := of.Name + "=" + text; err != nil || !inFormat1[part] && laterValues[part] == 0 {
				t.Errorf("%s: raise LedgerVersion, and put %s into laterValues with it", name, part)
			}
			seen++
			return true
		})
	}
	if seen < 30 {
		t.Errorf("only %d values were seen", seen)
	}
}
