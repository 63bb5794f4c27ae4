package environment

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/usererr"
)

// treeOf is a tree of files in memory.
func treeOf(t interface{ Fatalf(string, ...any) }, files map[string]string) *Tree {
	objects := memory.NewStorage()
	empty := objects.NewEncodedObject()
	if err := (&object.Tree{}).Encode(empty); err != nil {
		t.Fatalf("%v", err)
	}
	hash, err := objects.SetEncodedObject(empty)
	if err != nil {
		t.Fatalf("%v", err)
	}
	tree := newTree(&snapshot{commit: &object.Commit{TreeHash: hash}, objects: objects})
	for name, text := range files {
		if err := tree.Write(name, []byte(text)); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return committed(t, tree)
}

// committed is the tree that a commit of an edited one has.
func committed(t interface{ Fatalf(string, ...any) }, tree *Tree) *Tree {
	objects := tree.from.objects.(*memory.Storage)
	hash, err := tree.write(objects)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return newTree(&snapshot{commit: &object.Commit{TreeHash: hash}, objects: objects})
}

func filesOf(t interface{ Fatalf(string, ...any) }, tree *Tree) map[string]string {
	files := map[string]string{}
	names, err := tree.Files("")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v", err)
	}
	for _, name := range names {
		text, err := tree.Read(name)
		if err != nil {
			t.Fatalf("%v", err)
		}
		files[name] = string(text)
	}
	return files
}

// TestTreeProperty: a tree is a map of paths, edited or committed, and equal ones have one hash.
func TestTreeProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree, want := treeOf(t, nil), map[string]string{}
		parts := rapid.SampledFrom([]string{"a", "b", "a-b", "a.b", "ab", "ü"})
		for range rapid.IntRange(1, 30).Draw(t, "edits") {
			name := strings.Join(rapid.SliceOfN(parts, 1, 3).Draw(t, "path"), "/")
			_, isFile := want[name]
			isFolder, below := false, false
			for other := range want {
				isFolder = isFolder || strings.HasPrefix(other, name+"/")
				below = below || strings.HasPrefix(name, other+"/")
			}
			switch rapid.IntRange(0, 3).Draw(t, "edit") {
			case 0:
				if err := tree.Remove(name); (err == nil) != isFile || errors.Is(err, fs.ErrNotExist) != (!isFile && !isFolder && !below) {
					t.Fatalf("remove %s: %v", name, err)
				}
				delete(want, name)
			case 1:
				tree = committed(t, tree)
			default:
				text := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "text")
				if err := tree.Write(name, []byte(text)); (err == nil) == (isFolder || below) {
					t.Fatalf("write %s: %v", name, err)
				}
				if !isFolder && !below {
					want[name] = text
				}
			}
			if diff := cmp.Diff(want, filesOf(t, tree)); diff != "" {
				t.Fatalf("%s", diff)
			}
		}
		tree = committed(t, tree)
		if diff := cmp.Diff(want, filesOf(t, tree)); diff != "" {
			t.Fatalf("%s", diff)
		}
		if afresh := treeOf(t, want); afresh.root.hash != tree.root.hash {
			t.Fatalf("%v has two hashes", slices.Sorted(maps.Keys(want)))
		}
	})
}

func TestTreePaths(t *testing.T) {
	tree := treeOf(t, map[string]string{"dir/file": "x"})
	tree.root.entries = nil
	tree.root.read = false
	if err := tree.load(tree.root); err != nil {
		t.Fatal(err)
	}
	tree.root.entries["link"] = &entry{mode: filemode.Symlink, hash: plumbing.ComputeHash(plumbing.BlobObject, []byte("/etc/passwd"))}
	tree.root.entries["module"] = &entry{mode: filemode.Submodule, hash: tree.root.hash}
	for _, name := range []string{"", ".", "..", "/etc/passwd", "../x", "dir/../../x", "dir/", "./x", "dir//file", "a\\b", "a\x00b", "a\nb", ".git/config", "dir/.GIT/hooks/x", "git~1/x", "dir", "link", "link/x", "module", "module/x", "dir/file/x"} {
		_, read := tree.Read(name)
		for what, err := range map[string]error{"read": read, "write": tree.Write(name, []byte("x")), "remove": tree.Remove(name)} {
			if _, ok := errors.AsType[*usererr.Error](err); !ok {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
		if tree.Has(name) {
			t.Errorf("it has %q", name)
		}
	}
	if !tree.Has("dir/file") || tree.Has("dir/other") || tree.Has("other/file") {
		t.Error("it has another file than dir/file")
	}
	if files, err := tree.Files("."); err != nil || !slices.Equal(files, []string{"dir/file"}) {
		t.Errorf("got %v, %v", files, err)
	}
	for _, name := range []string{"nowhere", "dir/nowhere", "dir/file"} {
		if _, err := tree.Files(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("files of %s: %v", name, err)
		}
	}
}
