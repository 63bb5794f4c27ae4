package httpclient

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// made are what package net/http makes clients of. A parameter, or a field, that is a client made here is no new one.
var made = []string{"DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm"}

// TestEveryClientIsMadeHere: no other package makes an HTTP client or transport of its own.
func TestEveryClientIsMadeHere(t *testing.T) {
	seen := 0
	for _, root := range []string{"..", "../../cmd", "../../ci"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "../httpclient/") {
				return nil
			}
			seen++
			positions := token.NewFileSet()
			file, err := parser.ParseFile(positions, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, at := range clientsIn(file) {
				t.Errorf("%s makes an HTTP client: use package httpclient, or httpretry", positions.Position(at))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 100 {
		t.Errorf("only %d files were looked at", seen)
	}
}

// clientsIn are the places where a file makes an HTTP client or a transport.
func clientsIn(file *ast.File) []token.Pos {
	name := ""
	for _, i := range file.Imports {
		if i.Path.Value == `"net/http"` {
			if name = "http"; i.Name != nil {
				name = i.Name.Name
			}
		}
	}
	var found []token.Pos
	if name == "" {
		return nil
	}
	if name == "." {
		return []token.Pos{file.Pos()}
	}
	of := func(e ast.Node, names ...string) bool {
		selector, ok := e.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		of, ok := selector.X.(*ast.Ident)
		return ok && of.Name == name && slices.Contains(names, selector.Sel.Name)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if of(n.Type, "Client", "Transport") {
				found = append(found, n.Pos())
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "new" && len(n.Args) == 1 && of(n.Args[0], "Client", "Transport") {
				found = append(found, n.Pos())
			}
		case *ast.ValueSpec: // var client http.Client
			if of(n.Type, "Client", "Transport") {
				found = append(found, n.Pos())
			}
		case *ast.SelectorExpr:
			if of(n, made...) {
				found = append(found, n.Pos())
			}
		}
		return true
	})
	return found
}

// TestClientsInFindsEachWay: the test above would see each way to make a client.
func TestClientsInFindsEachWay(t *testing.T) {
	for text, want := range map[string]int{
		`import "net/http"; var c = http.Client{}`:                                      1,
		`import "net/http"; var c = &http.Client{Timeout: 1}`:                           1,
		`import "net/http"; var c = new(http.Client)`:                                   1,
		`import "net/http"; var c http.Client`:                                          1,
		`import "net/http"; var c = http.DefaultClient`:                                 1,
		`import h "net/http"; var r, _ = h.Get("x")`:                                    1,
		`import "net/http"; var t = &http.Transport{}`:                                  1,
		`import "net/http"; var t = http.DefaultTransport.(*http.Transport)`:            1,
		`import . "net/http"; var c = Client{}`:                                         1,
		`import "net/http"; type t struct { c *http.Client }; const m = http.MethodGet`: 0,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x; "+text, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(clientsIn(file)); got != want {
			t.Errorf("%s: %d found, want %d", text, got, want)
		}
	}
}
