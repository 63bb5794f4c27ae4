package environment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/usererr"
)

// manifest is a document of a file that has an object of Kubernetes.
type manifest struct {
	name     string // as rendered
	file     string
	document int
	places   []place // of a Deployment: where its images are decided
}

// theOne is the manifest of the object of a kind and name that a folder has once. Its name is the one that a kustomization gives
// it.
func theOne(tree *Tree, dir, kind, name string) (*manifest, error) {
	one, others, err := look(tree, dir, kind, name)
	if err == nil && one == nil {
		err = &usererr.Error{Field: "gitops.path", Problem: fmt.Sprintf("%s has no %s %s", orRoot(dir), kind, name), Fix: hint(kind, others)}
	}
	return one, err
}

// look looks for the object of a kind and name, nil where there is none, and for others of the kind.
func look(tree *Tree, dir, kind, name string) (one *manifest, others []manifest, err error) {
	s := &search{tree: tree, kind: kind, reading: map[string]bool{}}
	found, err := s.folder(path.Clean("/" + dir)[1:])
	if tree.failed != nil { // a file that may matter was not seen
		return nil, nil, tree.failed
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, noFolder(tree, dir)
	}
	if err != nil {
		return nil, nil, err
	}
	for i := range found {
		switch m := &found[i]; {
		case m.name != name:
			others = append(others, *m)
		case one == nil:
			one = m
		case one.file != m.file || one.document != m.document:
			return nil, nil, &usererr.Error{Field: m.file, Problem: fmt.Sprintf("%s %s is in %s too", kind, name, one.file), Fix: "keep one of them, or give a folder that has one"}
		}
	}
	return one, others, nil
}

func noFolder(tree *Tree, dir string) error {
	return &usererr.Error{Field: "gitops.path", Problem: fmt.Sprintf("%s has no folder %q with files", tree.short(), dir), Fix: "give the folder that the GitOps controller applies"}
}

func hint(kind string, found []manifest) string {
	var names []string
	for _, m := range found {
		if kind != "Deployment" {
			names = append(names, m.name+" ("+m.file+")")
		}
		for _, p := range m.places {
			names = append(names, m.name+" (container "+p.container+", "+m.file+")")
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return "give the folder that the GitOps controller applies; a chart's image is set by its path in the values"
	}
	return "there are: " + strings.Join(names[:min(len(names), 8)], ", ")
}

// search looks for the objects of a kind as a GitOps controller does: in what a kustomization names, else in all files of a
// folder and the folders in it.
type search struct {
	tree    *Tree
	kind    string
	reading map[string]bool // folders that are being read: a cycle is not followed
}

var kustomizationFiles = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

func (s *search) folder(dir string) ([]manifest, error) {
	files, err := s.tree.Files(dir)
	if err != nil {
		return nil, err
	}
	kustomization, err := kustomizationOf(dir, files)
	if err != nil {
		return nil, err
	}
	if kustomization != "" {
		if s.reading[dir] {
			return nil, nil
		}
		s.reading[dir] = true
		defer delete(s.reading, dir)
		return s.kustomization(kustomization)
	}
	var found []manifest
	below := "" // a folder in this one with a kustomization of its own
	for _, file := range files {
		if below != "" && strings.HasPrefix(file, below+"/") {
			continue
		}
		if below = s.ownFolder(dir, file, files); below != "" {
			inside, err := s.folder(below)
			if err != nil {
				return nil, err
			}
			found = append(found, inside...)
			continue
		}
		if !manifestFile(file) {
			continue
		}
		inside, err := s.manifest(file)
		if err != nil {
			return nil, err
		}
		found = append(found, inside...)
	}
	return found, nil
}

// kustomizationOf is the kustomization of a folder, "" where it has none.
func kustomizationOf(dir string, files []string) (kustomization string, err error) {
	for _, name := range kustomizationFiles {
		if file := path.Join(dir, name); slices.Contains(files, file) {
			if kustomization != "" {
				return "", &usererr.Error{Field: file, Problem: "there is a " + path.Base(kustomization) + " too", Fix: "keep one of them"}
			}
			kustomization = file
		}
	}
	return kustomization, nil
}

// ownFolder is the outermost folder between dir and a file that has a kustomization; "" for none.
func (s *search) ownFolder(dir, file string, files []string) (own string) {
	for at := path.Dir(file); at != dir && at != "."; at = path.Dir(at) {
		for _, name := range kustomizationFiles {
			if _, ok := slices.BinarySearch(files, path.Join(at, name)); ok {
				own = at
			}
		}
	}
	return own
}

func manifestFile(file string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(file))) && !slices.Contains(kustomizationFiles, path.Base(file))
}

// kustomization gives what a kustomization comes to, as far as names and images go.
func (s *search) kustomization(file string) ([]manifest, error) {
	root, err := readKustomization(s.tree, file)
	if err != nil {
		return nil, err
	}
	var found []manifest
	patched := false
	for _, field := range []string{"resources", "bases", "components"} {
		list := child(root, field)
		if list == nil {
			continue
		}
		for _, n := range list.Content {
			name := path.Join(path.Dir(file), n.Value)
			if n.Kind != yaml.ScalarNode || inside(name) != nil { // elsewhere: not ours to edit
				continue
			}
			var inner []manifest
			if _, err := s.tree.Files(name); err == nil {
				inner, err = s.folder(name)
				if err != nil {
					return nil, err
				}
			} else if inner, err = s.manifest(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			found = append(found, inner...)
		}
	}
	for _, field := range []string{"patches", "patchesStrategicMerge", "patchesJson6902", "transformers", "replacements", "helmCharts"} {
		if list := child(root, field); list != nil {
			patched = patched || s.mentionsImage(file, list)
		}
	}
	prefix, suffix, images := scalar(child(root, "namePrefix")), scalar(child(root, "nameSuffix")), child(root, "images")
	for i := range found {
		m := &found[i]
		m.name = prefix + m.name + suffix
		for j := range m.places {
			p := &m.places[j]
			if patched {
				p.entry, p.patched = nil, file
			}
			if images == nil {
				continue
			}
			if err := p.decide(file, images); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// mentionsImage says whether a part of a kustomization, or a file that it names, may set an image.
func (s *search) mentionsImage(file string, n *yaml.Node) bool {
	if n.Kind == yaml.ScalarNode {
		if strings.Contains(n.Value, "image") {
			return true
		}
		named := path.Join(path.Dir(file), n.Value)
		if strings.Contains(n.Value, "\n") || inside(named) != nil {
			return false
		}
		text, err := s.tree.Read(named)
		return err == nil && strings.Contains(string(text), "image")
	}
	return slices.ContainsFunc(n.Content, func(inner *yaml.Node) bool { return s.mentionsImage(file, inner) })
}

// manifest gives the objects of the kind in a file.
func (s *search) manifest(file string) ([]manifest, error) {
	text, err := s.tree.Read(file)
	if err != nil {
		return nil, err
	}
	all, err := documents(text)
	if err != nil {
		if !strings.Contains(string(text), s.kind) {
			return nil, nil
		}
		return nil, &usererr.Error{Field: file, Problem: "it is not YAML: " + oneLine(err.Error()), Fix: "a chart's template cannot be edited: give the path of the image in its values"}
	}
	var found []manifest
	for document, node := range all {
		root := content(node)
		if scalar(child(root, "kind")) != s.kind {
			continue
		}
		m := manifest{name: scalar(At("metadata", "name")(root)), file: file, document: document}
		if s.kind == "Deployment" {
			if !strings.HasPrefix(scalar(child(root, "apiVersion")), "apps/") {
				continue
			}
			m.places = containers(file, document, root)
		}
		found = append(found, m)
	}
	return found, nil
}

// readKustomization gives what is in a kustomization.
func readKustomization(tree *Tree, file string) (*yaml.Node, error) {
	text, err := tree.Read(file)
	if err != nil {
		return nil, err
	}
	all, err := documents(text)
	if err != nil || len(all) != 1 {
		return nil, &usererr.Error{Field: file, Problem: "it is not one document of YAML", Fix: "`kubectl kustomize " + path.Dir(file) + "` shows what is wrong"}
	}
	return content(all[0]), nil
}
