package environment

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// SetImage writes a release's image, repository@sha256:…, to where a folder decides the image of a Deployment: the entry
// of the outermost kustomization that names the image, with newName and digest, else the container in the Deployment
// itself. container is the one that runs the app, and may be empty where there is only one; others of the same image get
// it too. The image is written exactly as Crossbill writes it to a cluster, so that nothing rolls out when the controller
// applies it. A digest takes the place of a newTag, and repository:tag, which primary ran before, that of a digest. Errors are
// *usererr.Error and name file and fix.
func SetImage(tree *Tree, dir, deployment, container, image string) error {
	image, err := parseImage(image)
	if err != nil {
		return err
	}
	places, app, err := places(tree, dir, deployment, container)
	if err != nil {
		return err
	}
	var written []*yaml.Node
	for i := range places {
		entry := places[i].entry
		if places[i].image != places[app].image || entry != nil && slices.Contains(written, entry) { // as manifest.Track does
			continue
		}
		if err := places[i].set(tree, deployment, image); err != nil {
			return err
		}
		written = append(written, entry)
	}
	return nil
}

// parseImage is an image as it is written into Git. A tag stays as it was.
func parseImage(image string) (string, error) {
	if _, err := name.NewTag(image); err == nil && strings.HasPrefix(strings.TrimPrefix(image, repositoryOf(image)), ":") {
		return image, nil
	}
	return release.ParseImage("image", image)
}

// Image is the image that a folder gives a Deployment's container, found as SetImage finds it, as it is written there:
// repository@sha256:…, or by tag.
func Image(tree *Tree, dir, deployment, container string) (string, error) {
	places, app, err := places(tree, dir, deployment, container)
	if err != nil {
		return "", err
	}
	return places[app].whole, nil
}

// ImageInKustomization says whether an entry of a kustomization's images decides the image of that container.
func ImageInKustomization(tree *Tree, dir, deployment, container string) (bool, error) {
	places, app, err := places(tree, dir, deployment, container)
	if err != nil {
		return false, err
	}
	return places[app].entry != nil, nil
}

// ImageNames are what the images of a Deployment are called on their way through a folder's kustomizations, without tags and
// digests, each once.
func ImageNames(tree *Tree, dir, deployment string) ([]string, error) {
	d, err := theOne(tree, dir, "Deployment", deployment)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range d.places {
		names = append(names, p.called...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// places are where the images of a Deployment are decided, and which of them is the app's.
func places(tree *Tree, dir, deployment, container string) (all []place, app int, err error) {
	d, err := theOne(tree, dir, "Deployment", deployment)
	if err != nil {
		return nil, 0, err
	}
	app = -1
	for i, p := range d.places {
		if p.init || container != "" && p.container != container {
			continue
		}
		if app >= 0 {
			return nil, 0, &usererr.Error{Field: d.file, Problem: fmt.Sprintf("Deployment %s has several containers", deployment), Fix: "name the app's container"}
		}
		app = i
	}
	if app < 0 {
		return nil, 0, &usererr.Error{Field: d.file, Problem: fmt.Sprintf("Deployment %s has no container %s", deployment, container), Fix: hint("Deployment", []manifest{*d})}
	}
	return d.places, app, nil
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
	container string
	init      bool     // it is an init container
	image     string   // without tag and digest, as rendered
	whole     string   // with them
	called    []string // without them, as it was before each kustomization, and is

	file string // that decides
	find func(document int, content *yaml.Node) *yaml.Node
	// entry is the kustomization's entry that decides; nil where the container does
	entry *yaml.Node

	// patched is a kustomization whose patches may set the image as well
	patched string
}

func (p *place) set(tree *Tree, deployment, image string) error {
	if p.patched != "" && p.entry == nil {
		return &usererr.Error{Field: p.patched, Problem: "a patch in it may set the image of Deployment " + deployment, Fix: "set the image with newName and digest in its images: instead"}
	}
	text, err := tree.Read(p.file)
	if err != nil {
		return err
	}
	if p.entry != nil {
		return p.setEntry(tree, text, image)
	}
	document := -1
	text, err = SetScalar(p.file, text, func(content *yaml.Node) *yaml.Node {
		document++
		return At("image")(p.find(document, content))
	}, image)
	if err != nil {
		return err
	}
	return tree.Write(p.file, text)
}

// setEntry writes an image into the entry of a kustomization. A digest in place of a tag is on the tag's line.
func (p *place) setEntry(tree *Tree, text []byte, image string) (err error) {
	repository := repositoryOf(image)
	field, value := "newTag", strings.TrimPrefix(image, repository)[1:]
	if strings.HasPrefix(image, repository+"@") {
		field = "digest"
	}
	at := fmt.Sprintf("%s:%d", p.file, p.entry.Line)
	write := fmt.Sprintf("write newName: %s and %s: %s there once; from then on they are changed where they are", repository, field, value)
	is := "digest"
	if child(p.entry, "newTag") != nil {
		is = "newTag"
	}
	switch {
	case child(p.entry, "newTag") != nil && child(p.entry, "digest") != nil:
		return &usererr.Error{Field: at, Problem: "the image has a newTag beside its digest, which has no use for it", Fix: "remove newTag"}
	case child(p.entry, "tagSuffix") != nil:
		return &usererr.Error{Field: at, Problem: "the image has a tagSuffix, which a digest has no use for", Fix: "remove it"}
	case child(p.entry, is) == nil:
		return &usererr.Error{Field: at, Problem: "the image has no digest", Fix: write}
	case child(p.entry, "newName") == nil && scalar(child(p.entry, "name")) != repository:
		return &usererr.Error{Field: at, Problem: "the image has no newName, and its name is not " + repository, Fix: write}
	}
	put := func(find func(entry *yaml.Node) *yaml.Node, value string) {
		if err == nil {
			text, err = SetScalar(p.file, text, func(content *yaml.Node) *yaml.Node { return find(p.find(0, content)) }, value)
		}
	}
	if child(p.entry, "newName") != nil {
		put(At("newName"), repository)
	}
	put(func(entry *yaml.Node) *yaml.Node { return entry.Content[keyOf(entry, is)] }, field)
	put(At(field), value)
	if err != nil {
		return err
	}
	return tree.Write(p.file, text)
}

// decide lets a kustomization's images: decide the image of a container, where it names it.
func (p *place) decide(file string, images *yaml.Node) error {
	decided := false
	for index, entry := range images.Content {
		image := scalar(child(entry, "name"))
		if image == "" || image != p.image {
			continue
		}
		if decided {
			return &usererr.Error{Field: fmt.Sprintf("%s:%d", file, entry.Line), Problem: "image " + image + " has an entry before this one too", Fix: "keep one of them"}
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
		p.called = append(p.called, p.image)
	}
	return nil
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

// containers are the places of a Deployment's images as its manifest has them.
func containers(file string, document int, root *yaml.Node) (all []place) {
	for _, list := range []string{"initContainers", "containers"} {
		in := At("spec", "template", "spec", list)(root)
		if in == nil {
			continue
		}
		for index, container := range in.Content {
			all = append(all, place{
				container: scalar(child(container, "name")),
				init:      list == "initContainers",
				image:     repositoryOf(scalar(child(container, "image"))),
				whole:     scalar(child(container, "image")),
				called:    []string{repositoryOf(scalar(child(container, "image")))},
				file:      file,
				find: func(number int, content *yaml.Node) *yaml.Node {
					if number != document {
						return nil
					}
					return At("spec", "template", "spec", list, fmt.Sprint(index))(content)
				},
			})
		}
	}
	return all
}

func scalar(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// repositoryOf is an image without tag and digest, as kustomize splits it.
func repositoryOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		image = image[:colon]
	}
	return image
}
