package environment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/our-org/crossbill/internal/usererr"
)

// snapshot is a commit with all that it consists of; it does not change. lazy says that files may be missing that were not
// asked for yet.
type snapshot struct {
	commit  *object.Commit
	objects storer.EncodedObjectStorer
	lazy    bool
}

// Tree is the files of a commit and what an edit has made of them. Folders are read when they are looked into; nothing is
// written to a disk. Paths have slashes and start at the root.
type Tree struct {
	from   *snapshot
	root   *folder
	fetch  func([]plumbing.Hash) error // asks the server for files and folders; nil where all is there
	failed error                       // of fetch
}

type folder struct {
	hash    plumbing.Hash // as it was read
	entries map[string]*entry
	read    bool
	listed  bool // its files were asked for by Files
	changed bool // an entry of it, however deep
}

type entry struct {
	mode    filemode.FileMode
	hash    plumbing.Hash
	folder  *folder // of mode Dir
	changed bool
	data    []byte // of what is changed
}

// TreeOf is a tree of files that are in no repository; head names it.
func TreeOf(head string, files map[string][]byte) (*Tree, error) {
	objects := memory.NewStorage()
	empty := objects.NewEncodedObject()
	if err := (&object.Tree{}).Encode(empty); err != nil {
		return nil, err
	}
	root, err := objects.SetEncodedObject(empty)
	if err != nil {
		return nil, err
	}
	tree := newTree(&snapshot{commit: &object.Commit{TreeHash: root}, objects: objects})
	for name, text := range files {
		if err := tree.Write(name, text); err != nil {
			return nil, err
		}
	}
	if root, err = tree.write(objects); err != nil {
		return nil, err
	}
	return newTree(&snapshot{commit: &object.Commit{Hash: plumbing.NewHash(head), TreeHash: root}, objects: objects}), nil
}

func newTree(from *snapshot) *Tree {
	return &Tree{from: from, root: &folder{hash: from.commit.TreeHash}}
}

// Head is the commit that was read.
func (t *Tree) Head() string { return t.from.commit.Hash.String() }

// Err is why a file could not be read from the server; nil when each could. What an edit has made of the tree then is not to
// be used.
func (t *Tree) Err() error { return t.failed }

// Changed says whether an edit has changed anything.
func (t *Tree) Changed() bool { return t.root.changed }

// Read gives a file. The error is fs.ErrNotExist where there is none.
func (t *Tree) Read(name string) ([]byte, error) {
	dir, base, err := t.find(name, false)
	if err != nil {
		return nil, err
	}
	var e *entry
	if dir != nil {
		e = dir.entries[base]
	}
	if e == nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	if err := regular(name, e); err != nil {
		return nil, err
	}
	if e.changed {
		return slices.Clone(e.data), nil
	}
	blob, err := t.blob(name, dir, e)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, &usererr.Error{Field: name, Problem: fmt.Sprintf("it has more than %d MiB", maxFile>>20), Fix: "keep manifests in smaller files"}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	reader, err := blob.Reader()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer reader.Close()
	data := make([]byte, blob.Size)
	if _, err := io.ReadFull(reader, data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// blob is a file's, from the server if it was not read yet.
func (t *Tree) blob(name string, dir *folder, e *entry) (*object.Blob, error) {
	blob, err := object.GetBlob(t.from.objects, e.hash)
	kept, ok := keptOf(t.from)
	if !errors.Is(err, plumbing.ErrObjectNotFound) || t.fetch == nil || !ok || kept.isLarge(e.hash) {
		return blob, err
	}
	if t.failed == nil {
		t.failed = t.fetch(t.wanted(name, dir, e))
	}
	if t.failed != nil {
		return nil, t.failed
	}
	return object.GetBlob(t.from.objects, e.hash)
}

// fewFiles is how many files are read together when one of them is looked at.
const fewFiles = 100

// wanted is what to ask for when a file is missing. Who lists a folder reads its files next, and who reads a file reads those
// beside it, so one request gets them all.
func (t *Tree) wanted(name string, dir *folder, e *entry) []plumbing.Hash {
	var listed *folder
	f := t.root
	for part := range strings.SplitSeq(name, "/") {
		if f.listed {
			listed = f
		}
		if f.entries[part] == nil || f.entries[part].folder == nil {
			break
		}
		f = f.entries[part].folder
	}
	if listed != nil {
		kept, _ := keptOf(t.from)
		wants, _ := kept.missing(listed.hash)
		return wants
	}
	for _, beside := range dir.entries {
		if beside.folder != nil || len(dir.entries) > fewFiles {
			return []plumbing.Hash{e.hash}
		}
	}
	return []plumbing.Hash{dir.hash}
}

// Has says whether there is a file. It asks the server for nothing.
func (t *Tree) Has(name string) bool {
	dir, base, err := t.find(name, false)
	return err == nil && dir != nil && dir.entries[base] != nil && regular(name, dir.entries[base]) == nil
}

// Write puts a file in place, with the folders that it needs. A file that exists keeps its mode.
func (t *Tree) Write(name string, data []byte) error {
	dir, base, err := t.find(name, true)
	if err != nil {
		return err
	}
	e := dir.entries[base]
	if e == nil {
		e = &entry{mode: filemode.Regular}
	} else if err := regular(name, e); err != nil {
		return err
	}
	hash := plumbing.ComputeHash(plumbing.BlobObject, data)
	if e.hash == hash {
		return nil
	}
	e.hash, e.changed, e.data = hash, true, slices.Clone(data)
	dir.entries[base] = e
	t.touch(name)
	return nil
}

// Remove removes a file, and the folders that become empty. The error is fs.ErrNotExist where there is none.
func (t *Tree) Remove(name string) error {
	dir, base, err := t.find(name, false)
	if err != nil {
		return err
	}
	if dir == nil || dir.entries[base] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if err := regular(name, dir.entries[base]); err != nil {
		return err
	}
	delete(dir.entries, base)
	t.touch(name)
	for name := path.Dir(name); name != "." && len(dir.entries) == 0; name = path.Dir(name) {
		if dir, base, err = t.find(name, false); err != nil {
			return err
		}
		delete(dir.entries, base)
	}
	return nil
}

// Files are the paths of all files in a folder and the folders in it, sorted; "" is the root. Symbolic links and submodules
// are left out. The error is fs.ErrNotExist where there is no such folder, or nothing in it.
func (t *Tree) Files(dir string) ([]string, error) {
	top, name := t.root, path.Clean("/" + dir)[1:]
	if name != "" {
		parent, base, err := t.find(name, false)
		if err != nil {
			return nil, err
		}
		if parent == nil || parent.entries[base] == nil || parent.entries[base].folder == nil {
			return nil, &fs.PathError{Op: "read", Path: dir, Err: fs.ErrNotExist}
		}
		top = parent.entries[base].folder
	}
	var files []string
	var walk func(f *folder, at string) error
	walk = func(f *folder, at string) error {
		if err := t.load(f); err != nil {
			return err
		}
		for _, base := range slices.Sorted(maps.Keys(f.entries)) {
			e := f.entries[base]
			switch {
			case e.folder != nil:
				if err := walk(e.folder, path.Join(at, base)); err != nil {
					return err
				}
			case e.mode.IsRegular() || e.mode == filemode.Executable:
				files = append(files, path.Join(at, base))
			}
		}
		return nil
	}
	if err := walk(top, name); err != nil {
		return nil, err
	}
	top.listed = !top.hash.IsZero()
	if len(files) == 0 {
		return nil, &fs.PathError{Op: "read", Path: dir, Err: fs.ErrNotExist}
	}
	slices.Sort(files)
	return files, nil
}

// find gives the folder of a path, nil where there is none, and its last part. It makes folders when they are wanted.
func (t *Tree) find(name string, makeFolders bool) (*folder, string, error) {
	if err := inside(name); err != nil {
		return nil, "", err
	}
	parts := strings.Split(name, "/")
	f := t.root
	for i, part := range parts {
		if err := t.load(f); err != nil {
			return nil, "", err
		}
		if i == len(parts)-1 {
			break
		}
		e := f.entries[part]
		switch {
		case e == nil && !makeFolders:
			return nil, "", nil
		case e == nil:
			e = &entry{mode: filemode.Dir, folder: &folder{read: true, entries: map[string]*entry{}}}
			f.entries[part] = e
		case e.folder == nil:
			return nil, "", &usererr.Error{Field: name, Problem: path.Join(parts[:i+1]...) + " is " + what(e.mode), Fix: "give the path of a file in the repository itself"}
		}
		f = e.folder
	}
	return f, parts[len(parts)-1], nil
}

// touch marks the folders of a path as changed.
func (t *Tree) touch(name string) {
	f := t.root
	f.changed = true
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		f = f.entries[part].folder
		f.changed = true
	}
}

func (t *Tree) load(f *folder) error {
	if f.read {
		return nil
	}
	read, err := object.GetTree(t.from.objects, f.hash)
	if err != nil {
		return fmt.Errorf("tree %s: %w", f.hash, err)
	}
	f.entries, f.read = make(map[string]*entry, len(read.Entries)), true
	for _, e := range read.Entries {
		f.entries[e.Name] = &entry{mode: e.Mode, hash: e.Hash}
		if e.Mode == filemode.Dir {
			f.entries[e.Name].folder = &folder{hash: e.Hash}
		}
	}
	return nil
}

// inside refuses a path that is not one of a file in the repository, and Git's own.
func inside(name string) error {
	fix := "give the path of a file from the root of the repository, such as apps/shop/deployment.yaml"
	if name == "" || name == "." || path.IsAbs(name) || path.Clean(name) != name || strings.Contains(name, "\\") || strings.ContainsFunc(name, unicode.IsControl) {
		return &usererr.Error{Field: fmt.Sprintf("%q", name), Problem: "it is not a path in the repository", Fix: fix}
	}
	for part := range strings.SplitSeq(name, "/") {
		if lower := strings.ToLower(part); part == ".." || lower == ".git" || strings.HasPrefix(lower, "git~") {
			return &usererr.Error{Field: fmt.Sprintf("%q", name), Problem: "it is not a path in the repository", Fix: fix}
		}
	}
	return nil
}

// regular refuses what is no file.
func regular(name string, e *entry) error {
	if e.mode.IsRegular() || e.mode == filemode.Executable {
		return nil
	}
	return &usererr.Error{Field: name, Problem: "it is " + what(e.mode), Fix: "give the path of a file in the repository itself"}
}

func what(mode filemode.FileMode) string {
	switch mode {
	case filemode.Dir:
		return "a folder"
	case filemode.Symlink:
		return "a symbolic link"
	case filemode.Submodule:
		return "a submodule"
	}
	return "a file"
}

// write puts all changed objects into a store and gives the hash of the tree.
func (t *Tree) write(to storer.EncodedObjectStorer) (plumbing.Hash, error) {
	return t.writeFolder(t.root, to)
}

func (t *Tree) writeFolder(f *folder, to storer.EncodedObjectStorer) (plumbing.Hash, error) {
	if !f.changed {
		return f.hash, nil
	}
	var tree object.Tree
	for name, e := range f.entries {
		hash := e.hash
		switch {
		case e.folder != nil:
			inner, err := t.writeFolder(e.folder, to)
			if err != nil {
				return hash, err
			}
			hash = inner
		case e.changed:
			blob := &plumbing.MemoryObject{}
			blob.SetType(plumbing.BlobObject)
			if _, err := blob.Write(e.data); err != nil {
				return hash, err
			}
			if _, err := to.SetEncodedObject(blob); err != nil {
				return hash, err
			}
		}
		tree.Entries = append(tree.Entries, object.TreeEntry{Name: name, Mode: e.mode, Hash: hash})
	}
	slices.SortFunc(tree.Entries, func(a, b object.TreeEntry) int { return strings.Compare(sortName(a), sortName(b)) })
	encoded := &plumbing.MemoryObject{}
	if err := tree.Encode(encoded); err != nil {
		return plumbing.ZeroHash, err
	}
	return to.SetEncodedObject(encoded)
}

// sortName is what Git sorts an entry by: a folder as if its name ended with a slash.
func sortName(e object.TreeEntry) string {
	if e.Mode == filemode.Dir {
		return e.Name + "/"
	}
	return e.Name
}
