package environment

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// SetImage writes a release's image, repository@sha256:…, to where a folder decides the image of a Deployment: the entry
// of the outermost kustomization that names the image, with newName and digest, else the container in the Deployment
// itself. container is the one that runs the app, and may be empty where there is only one; others of the same image get
// it too. The image is written exactly as Crossbill writes it to a cluster, so that nothing rolls out when the controller
// applies it. Errors are *usererr.Error and name file and fix.
func SetImage(tree *Tree, dir, deployment, container, image string) error {
	image, err := release.ParseImage("image", image)
	if err != nil {
		return err
	}
	matches, app, err := places(tree, dir, deployment, container)
	if err != nil {
		return err
	}
	for i := range matches {
		if i == app || matches[i].image == matches[app].image { // as manifest.Track does
			if err := matches[i].set(tree, image); err != nil {
				return err
			}
		}
	}
	return nil
}

// Image is the image that a folder gives a Deployment's container, found as SetImage finds it, as it is written there:
// repository@sha256:…, or by tag.
func Image(tree *Tree, dir, deployment, container string) (string, error) {
	matches, app, err := places(tree, dir, deployment, container)
	if err != nil {
		return "", err
	}
	return matches[app].whole, nil
}

// places are where the images of a Deployment are decided, and which of them is the app's.
func places(tree *Tree, dir, deployment, container string) (matches []place, app int, err error) {
	if matches, err = ofDeployment(tree, dir, deployment); err != nil {
		return nil, 0, err
	}
	app = -1
	for i, p := range matches {
		if p.init || container != "" && p.container != container {
			continue
		}
		if app >= 0 {
			return nil, 0, &usererr.Error{Field: p.manifest, Problem: fmt.Sprintf("Deployment %s has several containers", deployment), Fix: "name the app's container"}
		}
		app = i
	}
	if app < 0 {
		return nil, 0, &usererr.Error{Field: matches[0].manifest, Problem: fmt.Sprintf("Deployment %s has no container %s", deployment, container), Fix: hint(matches)}
	}
	return matches, app, nil
}

// ofDeployment are the places of a Deployment that a folder has once.
func ofDeployment(tree *Tree, dir, deployment string) (matches []place, err error) {
	s := &search{tree: tree, reading: map[string]bool{}}
	found, err := s.folder(path.Clean("/" + dir)[1:])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &usererr.Error{Field: "gitops.path", Problem: fmt.Sprintf("%s has no folder %q with files", tree.short(), dir), Fix: "give the folder that the GitOps controller applies"}
	}
	if err != nil {
		return nil, err
	}
	for _, p := range found {
		if p.deployment != deployment {
			continue
		}
		if len(matches) > 0 && (p.manifest != matches[0].manifest || p.document != matches[0].document) {
			return nil, &usererr.Error{Field: p.manifest, Problem: fmt.Sprintf("Deployment %s is in %s too", deployment, matches[0].manifest), Fix: "keep one of them, or give a folder that has one"}
		}
		matches = append(matches, p)
	}
	if len(matches) == 0 {
		return nil, &usererr.Error{Field: "gitops.path", Problem: fmt.Sprintf("%s has no Deployment %s", orRoot(dir), deployment), Fix: hint(found)}
	}
	return matches, nil
}

// SetValue writes a value at a path in a file, such as image.digest in a chart's values.
func SetValue(tree *Tree, file, at, value string) error {
	text, err := values(tree, file)
	if err != nil {
		return err
	}
	edited, err := SetScalar(file, text, At(strings.Split(at, ".")...), value)
	if wrong, ok := errors.AsType[*usererr.Error](err); ok {
		return &usererr.Error{Field: wrong.Field, Problem: at + ": " + wrong.Problem, Fix: wrong.Fix}
	}
	if err != nil {
		return err
	}
	return tree.Write(file, edited)
}

// Value is a value at a path in a file, as SetValue finds it.
func Value(tree *Tree, file, at string) (string, error) {
	text, err := values(tree, file)
	if err != nil {
		return "", err
	}
	all, err := documents(text)
	if err != nil || len(all) != 1 {
		return "", &usererr.Error{Field: file, Problem: "it is not one document of YAML", Fix: "give a file of values"}
	}
	n := At(strings.Split(at, ".")...)(content(all[0]))
	if n == nil || n.Kind != yaml.ScalarNode {
		return "", &usererr.Error{Field: file, Problem: at + ": there is no value", Fix: "write one there; from then on it is changed where it is"}
	}
	return n.Value, nil
}

// values are a chart's, as they are written.
func values(tree *Tree, file string) ([]byte, error) {
	text, err := tree.Read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &usererr.Error{Field: file, Problem: "there is no such file in " + tree.short(), Fix: "give the path from the root of the repository"}
	}
	return text, err
}

func (t *Tree) short() string { return "commit " + t.Head()[:10] }

func orRoot(dir string) string {
	if dir == "" || dir == "." {
		return "the root of the repository"
	}
	return dir
}

// place is where the image of a container is decided.
type place struct {
	deployment, container string // as rendered
	manifest              string // file of the Deployment
	document              int
	init                  bool   // it is an init container
	image                 string // without tag and digest, as rendered
	whole                 string // with them

	file string // that decides
	find func(document int, content *yaml.Node) *yaml.Node
	// entry is the kustomization's entry that decides; nil where the container does
	entry *yaml.Node

	// patched is a kustomization whose patches may set the image as well
	patched string
}

func (p *place) set(tree *Tree, image string) error {
	if p.patched != "" && p.entry == nil {
		return &usererr.Error{Field: p.patched, Problem: "a patch in it may set the image of Deployment " + p.deployment, Fix: "set the image with newName and digest in its images: instead"}
	}
	text, err := tree.Read(p.file)
	if err != nil {
		return err
	}
	put := func(value string, fields ...string) (err error) {
		document := -1
		text, err = SetScalar(p.file, text, func(content *yaml.Node) *yaml.Node {
			document++
			return At(fields...)(p.find(document, content))
		}, value)
		return err
	}
	if p.entry == nil {
		if err := put(image, "image"); err != nil {
			return err
		}
		return tree.Write(p.file, text)
	}
	repository, digest, _ := strings.Cut(image, "@")
	at := fmt.Sprintf("%s:%d", p.file, p.entry.Line)
	write := fmt.Sprintf("write newName: %s and digest: %s there once; from then on they are changed where they are", repository, digest)
	switch name := child(p.entry, "name"); {
	case child(p.entry, "newTag") != nil:
		return &usererr.Error{Field: at, Problem: "the image has a newTag: nothing is deployed by tag", Fix: "replace newTag by digest: " + digest}
	case child(p.entry, "tagSuffix") != nil:
		return &usererr.Error{Field: at, Problem: "the image has a tagSuffix, which a digest has no use for", Fix: "remove it"}
	case child(p.entry, "digest") == nil:
		return &usererr.Error{Field: at, Problem: "the image has no digest", Fix: write}
	case child(p.entry, "newName") == nil && name.Value != repository:
		return &usererr.Error{Field: at, Problem: "the image has no newName, and its name is not " + repository, Fix: write}
	case child(p.entry, "newName") != nil:
		if err := put(repository, "newName"); err != nil {
			return err
		}
	}
	if err := put(digest, "digest"); err != nil {
		return err
	}
	return tree.Write(p.file, text)
}

// search looks for Deployments as a GitOps controller does: in what a kustomization names, else in all files of a folder
// and the folders in it.
type search struct {
	tree    *Tree
	reading map[string]bool // folders that are being read: a cycle is not followed
}

func hint(found []place) string {
	var names []string
	for _, p := range found {
		names = append(names, p.deployment+" (container "+p.container+", "+p.manifest+")")
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return "give the folder that the GitOps controller applies; a chart's image is set by its path in the values"
	}
	return "there are: " + strings.Join(names[:min(len(names), 8)], ", ")
}

var kustomizationFiles = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

func (s *search) folder(dir string) ([]place, error) {
	files, err := s.tree.Files(dir)
	if err != nil {
		return nil, err
	}
	kustomization := ""
	for _, name := range kustomizationFiles {
		if file := path.Join(dir, name); slices.Contains(files, file) {
			if kustomization != "" {
				return nil, &usererr.Error{Field: file, Problem: "there is a " + path.Base(kustomization) + " too", Fix: "keep one of them"}
			}
			kustomization = file
		}
	}
	if kustomization != "" {
		if s.reading[dir] {
			return nil, nil
		}
		s.reading[dir] = true
		defer delete(s.reading, dir)
		return s.kustomization(kustomization)
	}
	var found []place
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
func (s *search) kustomization(file string) ([]place, error) {
	text, err := s.tree.Read(file)
	if err != nil {
		return nil, err
	}
	all, err := documents(text)
	if err != nil || len(all) != 1 {
		return nil, &usererr.Error{Field: file, Problem: "it is not one document of YAML", Fix: "`kubectl kustomize " + path.Dir(file) + "` shows what is wrong"}
	}
	root := content(all[0])
	var found []place
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
			var inner []place
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
	prefix, suffix := scalar(child(root, "namePrefix")), scalar(child(root, "nameSuffix"))
	for i := range found {
		p := &found[i]
		p.deployment = prefix + p.deployment + suffix
		if patched {
			p.entry, p.patched = nil, file
		}
		images := child(root, "images")
		if images == nil {
			continue
		}
		decided := false
		for index, entry := range images.Content {
			name := scalar(child(entry, "name"))
			if name == "" || name != p.image {
				continue
			}
			if decided {
				return nil, &usererr.Error{Field: fmt.Sprintf("%s:%d", file, entry.Line), Problem: "image " + name + " has an entry before this one too", Fix: "keep one of them"}
			}
			decided = true
			p.file, p.entry, p.patched = file, entry, ""
			p.find = func(_ int, content *yaml.Node) *yaml.Node {
				return At("images", fmt.Sprint(index))(content)
			}
		}
		if decided {
			p.image = cmp.Or(scalar(child(p.entry, "newName")), p.image)
			p.whole = chosen(p)
		}
	}
	return found, nil
}

// chosen is the image that a kustomization's entry makes of one: a digest wins over a tag, and without either that of the
// manifest stays.
func chosen(p *place) string {
	digest, tag := scalar(child(p.entry, "digest")), scalar(child(p.entry, "newTag"))
	switch {
	case digest != "":
		return p.image + "@" + digest
	case tag != "":
		return p.image + ":" + tag
	}
	return p.image + strings.TrimPrefix(p.whole, repositoryOf(p.whole))
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

func scalar(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// manifest gives the containers of the Deployments in a file.
func (s *search) manifest(file string) ([]place, error) {
	text, err := s.tree.Read(file)
	if err != nil {
		return nil, err
	}
	all, err := documents(text)
	if err != nil {
		if !strings.Contains(string(text), "Deployment") {
			return nil, nil
		}
		return nil, &usererr.Error{Field: file, Problem: "it is not YAML: " + oneLine(err.Error()), Fix: "a chart's template cannot be edited: give the path of the image in its values"}
	}
	var found []place
	for document, node := range all {
		root := content(node)
		if scalar(child(root, "kind")) != "Deployment" || !strings.HasPrefix(scalar(child(root, "apiVersion")), "apps/") {
			continue
		}
		for _, list := range []string{"initContainers", "containers"} {
			containers := At("spec", "template", "spec", list)(root)
			if containers == nil {
				continue
			}
			for index, container := range containers.Content {
				found = append(found, place{
					deployment: scalar(At("metadata", "name")(root)),
					container:  scalar(child(container, "name")),
					manifest:   file,
					document:   document,
					init:       list == "initContainers",
					image:      repositoryOf(scalar(child(container, "image"))),
					whole:      scalar(child(container, "image")),
					file:       file,
					find: func(number int, content *yaml.Node) *yaml.Node {
						if number != document {
							return nil
						}
						return At("spec", "template", "spec", list, fmt.Sprint(index))(content)
					},
				})
			}
		}
	}
	return found, nil
}

// repositoryOf is an image without tag and digest, as kustomize splits it.
func repositoryOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		image = image[:colon]
	}
	return image
}
