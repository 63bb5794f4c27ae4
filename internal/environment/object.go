package environment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/usererr"
)

// Heading is the comment above an object that AddObject writes.
const Heading = "# Written by Crossbill for a release; it goes when the release ends.\n"

// Object is the object of a kind and name in a folder, or in what its kustomization reads, as Kubernetes' JSON decodes it: its
// own document, before a kustomization changes more of it than its name. It is nil where there is none. Errors are
// *usererr.Error.
func Object(tree *Tree, dir, kind, name string) (map[string]any, error) {
	m, _, err := look(tree, dir, kind, name)
	if err != nil || m == nil {
		return nil, err
	}
	_, object, err := m.read(tree)
	return object, err
}

// SetObject edits the manifest of that object so that it becomes after. Only what differs is edited, where it is. What would
// lose a comment is refused, and so is what an anchor shares. Labels and annotations of which none is left go as well. Errors
// are *usererr.Error and name file and line.
func SetObject(tree *Tree, dir, kind, name string, after map[string]any) error {
	m, err := theOne(tree, dir, kind, name)
	if err != nil {
		return err
	}
	return m.set(tree, after)
}

// SetTemplate edits the manifest of a Deployment so that its pod template, which a folder renders as before, becomes after.
// Both are without the images, which SetImage writes. It refuses as SetObject does, and also what the manifest does not have
// because a kustomization makes it. Whether the folder renders as after then is for the caller to see.
func SetTemplate(tree *Tree, dir, deployment string, before, after map[string]any) error {
	m, err := theOne(tree, dir, "Deployment", deployment)
	if err != nil {
		return err
	}
	was, err := plainly(before)
	if err != nil {
		return err
	}
	is, err := plainly(after)
	if err != nil {
		return err
	}
	text, err := tree.Read(m.file)
	if err != nil {
		return err
	}
	if text, err = carryOut(text, m.file, m.document, edits([]string{"spec", "template"}, was, is)); err != nil {
		return err
	}
	return tree.Write(m.file, text)
}

// read gives the file of a manifest, and its object.
func (m *manifest) read(tree *Tree) (text []byte, object map[string]any, err error) {
	if text, err = tree.Read(m.file); err != nil {
		return nil, nil, err
	}
	all, err := documents(text)
	if err != nil || m.document >= len(all) {
		return nil, nil, m.unreadable(1)
	}
	v, err := decoded(all[m.document])
	object, _ = v.(map[string]any)
	if err != nil || object == nil {
		return nil, nil, m.unreadable(content(all[m.document]).Line)
	}
	return text, object, nil
}

func (m *manifest) unreadable(line int) error {
	return &usererr.Error{Field: fmt.Sprintf("%s:%d", m.file, line), Problem: "it is no object of Kubernetes", Fix: "write one there that `kubectl` reads"}
}

// set edits it to be another object.
func (m *manifest) set(tree *Tree, object map[string]any) error {
	text, before, err := m.read(tree)
	if err != nil {
		return err
	}
	after, err := cleaned(object)
	if err != nil {
		return err
	}
	dropEmptied(before, after)
	if text, err = carryOut(text, m.file, m.document, edits(nil, before, after)); err != nil {
		return err
	}
	return tree.Write(m.file, text)
}

// dropEmptied drops labels and annotations that an object has had, and of which none is left.
func dropEmptied(before, after map[string]any) {
	was, _ := before["metadata"].(map[string]any)
	is, _ := after["metadata"].(map[string]any)
	for _, field := range []string{"labels", "annotations"} {
		if left, ok := is[field].(map[string]any); ok && len(left) == 0 && !reflect.DeepEqual(was[field], is[field]) {
			delete(is, field)
		}
	}
}

// cleaned is an object as people write it, without what only a cluster has.
func cleaned(object map[string]any) (map[string]any, error) {
	v, err := plainly(object)
	if err != nil {
		return nil, err
	}
	withoutTime(v)
	is, _ := v.(map[string]any)
	delete(is, "status")
	return is, nil
}

// withoutTime removes each creationTimestamp that is null, which Go writes for objects that no cluster has.
func withoutTime(v any) {
	switch v := v.(type) {
	case map[string]any:
		if at, ok := v["creationTimestamp"]; ok && at == nil {
			delete(v, "creationTimestamp")
		}
		for _, inner := range v {
			withoutTime(inner)
		}
	case []any:
		for _, inner := range v {
			withoutTime(inner)
		}
	}
}

// AddObject writes an object as a file of its own, whose path is below a folder, such as canary.yaml. Where the folder has a
// kustomization, its resources name the file then, its images leave those of the object as they are, and the object's name there is
// without what namePrefix and nameSuffix add. A file that is there is edited if it has this object alone, and is an error else. Errors
// are *usererr.Error.
func AddObject(tree *Tree, dir, file string, object map[string]any) error {
	kustomization, name, err := ownFile(tree, dir, file)
	if err != nil {
		return err
	}
	after, err := cleaned(object)
	if err != nil {
		return err
	}
	if kustomization == "" {
		return writeObject(tree, name, after)
	}
	if err := withoutAffixes(tree, kustomization, after); err != nil {
		return err
	}
	named, err := nameResource(tree, kustomization, file)
	if err != nil {
		return err
	}
	if named, err = standIn(named, kustomization, after); err != nil {
		return err
	}
	if err := writeObject(tree, name, after); err != nil {
		return err
	}
	return tree.Write(kustomization, named)
}

// withoutAffixes takes from an object's name what a kustomization adds to it.
func withoutAffixes(tree *Tree, kustomization string, object map[string]any) error {
	root, err := readKustomization(tree, kustomization)
	if err != nil {
		return err
	}
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	left := name
	for _, affix := range []struct {
		field string
		cut   func(string, string) (string, bool)
	}{{"namePrefix", strings.CutPrefix}, {"nameSuffix", strings.CutSuffix}} {
		added := child(root, affix.field)
		rest, ok := affix.cut(left, scalar(added))
		if !ok || rest == "" {
			return &usererr.Error{
				Field: fmt.Sprintf("%s:%d", kustomization, added.Line), Problem: fmt.Sprintf("its %s %s is not in the name of %s %s, which it would change", affix.field, added.Value, object["kind"], name),
				Fix: "name the object with it, or write the whole names into the manifests",
			}
		}
		left = rest
	}
	metadata["name"] = left
	return nil
}

func writeObject(tree *Tree, name string, after map[string]any) error {
	switch text, err := tree.Read(name); {
	case errors.Is(err, fs.ErrNotExist):
		return tree.Write(name, slices.Concat([]byte(Heading), marshaled(after, true, false), []byte("\n")))
	case err != nil:
		return err
	case !hasAlone(text, after):
		return &usererr.Error{Field: name, Problem: "the file is there, and has something else", Fix: "move what is in it, in a commit of your own"}
	}
	return (&manifest{file: name}).set(tree, after)
}

// hasAlone says whether a file has an object, whatever it is like, and nothing else.
func hasAlone(text []byte, object map[string]any) bool {
	all, err := documents(text)
	if err != nil || len(all) != 1 {
		return false
	}
	metadata, _ := object["metadata"].(map[string]any)
	is := func(value any, path ...string) bool {
		wanted, _ := value.(string)
		return scalar(At(path...)(content(all[0]))) == wanted
	}
	return is(object["kind"], "kind") && is(metadata["name"], "metadata", "name") && is(metadata["namespace"], "metadata", "namespace")
}

// RemoveObject removes a file that AddObject has written, and what AddObject has written of it into the folder's kustomization.
// Where there is no such file, nothing changes. Errors are *usererr.Error.
func RemoveObject(tree *Tree, dir, file string) error {
	kustomization, name, err := ownFile(tree, dir, file)
	if err != nil {
		return err
	}
	text, err := tree.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if all, err := documents(text); err != nil || len(all) != 1 {
		return &usererr.Error{Field: name, Problem: "it does not have one object alone, as Crossbill has written it", Fix: "remove what the release has there, in a commit of your own"}
	}
	if kustomization == "" {
		return tree.Remove(name)
	}
	others, err := dropResource(tree, kustomization, file)
	if err != nil {
		return err
	}
	if others, err = standIn(others, kustomization, nil); err != nil {
		return err
	}
	if err := tree.Remove(name); err != nil {
		return err
	}
	return tree.Write(kustomization, others)
}

// ownFile is the kustomization of a folder, "" for none, and the path of a file below the folder.
func ownFile(tree *Tree, dir, file string) (kustomization, name string, err error) {
	dir = path.Clean("/" + dir)[1:]
	if err := inside(file); err != nil {
		return "", "", err
	}
	name = path.Join(dir, file)
	if !manifestFile(name) {
		return "", "", &usererr.Error{Field: name, Problem: "a GitOps controller reads no manifest there", Fix: "give a file such as canary.yaml"}
	}
	files, err := tree.Files(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", noFolder(tree, dir)
	}
	if err != nil {
		return "", "", err
	}
	if chart := path.Join(dir, "Chart.yaml"); slices.Contains(files, chart) {
		return "", "", &usererr.Error{Field: chart, Problem: "the folder is a chart, to which no object can be added", Fix: "give a folder of manifests, or one with a kustomization"}
	}
	kustomization, err = kustomizationOf(dir, files)
	return kustomization, name, err
}

// nameResource is a kustomization whose resources name a file.
func nameResource(tree *Tree, kustomization, file string) ([]byte, error) {
	text, index, resources, err := resource(tree, kustomization, file)
	switch {
	case err != nil || index >= 0:
		return text, err
	case resources == nil:
		return carryOut(text, kustomization, 0, []edit{{path: []string{"resources"}, value: []any{file}}})
	}
	return carryOut(text, kustomization, 0, []edit{{path: []string{"resources", strconv.Itoa(len(resources.Content))}, how: insert, value: file}})
}

// dropResource is a kustomization whose resources do not name a file.
func dropResource(tree *Tree, kustomization, file string) ([]byte, error) {
	text, index, resources, err := resource(tree, kustomization, file)
	switch {
	case err != nil || index < 0:
		return text, err
	case len(resources.Content) == 1 && resources.Style&yaml.FlowStyle == 0:
		return carryOut(text, kustomization, 0, []edit{{path: []string{"resources"}, how: remove}})
	}
	return carryOut(text, kustomization, 0, []edit{{path: []string{"resources", strconv.Itoa(index)}, how: remove}})
}

// resource is which of a kustomization's resources a file is: -1 for none.
func resource(tree *Tree, kustomization, file string) (text []byte, index int, resources *yaml.Node, err error) {
	root, err := readKustomization(tree, kustomization)
	if err != nil {
		return nil, 0, nil, err
	}
	if text, err = tree.Read(kustomization); err != nil {
		return nil, 0, nil, err
	}
	resources = child(root, "resources")
	switch {
	case resources == nil && root.Style&yaml.FlowStyle != 0:
		return nil, 0, nil, &usererr.Error{Field: fmt.Sprintf("%s:%d", kustomization, root.Line), Problem: "it has no resources", Fix: "write resources: [] there"}
	case resources == nil:
		return text, -1, nil, nil
	case resources.Kind != yaml.SequenceNode:
		return nil, 0, nil, &usererr.Error{Field: fmt.Sprintf("%s:%d", kustomization, resources.Line), Problem: "resources is no list", Fix: "write a list there, or remove the key"}
	}
	index = slices.IndexFunc(resources.Content, func(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && path.Clean(n.Value) == file })
	return text, index, resources, nil
}
