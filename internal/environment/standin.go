package environment

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/usererr"
)

// standInName begins the names that stand for images in an object that AddObject writes.
const standInName = "crossbill-canary"

// standIn keeps the images of a kustomization from changing those of an object in one of its files. An image that one of them
// would change gets a name in the object that stands for it, and an entry after all others gives that name the image:
// kustomize's transformers run in the order of the entries (api/internal/target/kusttarget_configplugin.go). The object is changed,
// and the kustomization's text is given. Entries of an earlier object go; without an object, all of them.
func standIn(text []byte, kustomization string, object map[string]any) ([]byte, error) {
	all, err := documents(text)
	if err != nil || len(all) != 1 {
		return nil, &usererr.Error{Field: kustomization, Problem: "it is not one document of YAML", Fix: "write one kustomization there"}
	}
	value, err := decoded(all[0])
	if err != nil {
		return nil, err
	}
	before, _ := value.(map[string]any)
	images, _ := before["images"].([]any)
	after := maps.Clone(before)
	kept := slices.DeleteFunc(slices.Clone(images), isStandIn)
	added, err := standIns(child(content(all[0]), "images"), kustomization, object)
	if err != nil {
		return nil, err
	}
	if after["images"] = append(kept, added...); len(kept)+len(added) == 0 {
		delete(after, "images")
	}
	if len(images) == 0 && len(added) == 0 {
		return text, nil
	}
	return carryOut(text, kustomization, 0, edits(nil, before, after))
}

func isStandIn(entry any) bool {
	fields, _ := entry.(map[string]any)
	name, _ := fields["name"].(string)
	return strings.HasPrefix(name, standInName)
}

// standIns puts names in the place of the images that a kustomization's images would change, and gives the entries for them.
func standIns(images *yaml.Node, kustomization string, object map[string]any) (entries []any, err error) {
	if images == nil || images.Kind != yaml.SequenceNode {
		return nil, nil
	}
	names := map[string]string{} // of the images
	for _, container := range containersOf(object) {
		image, _ := container["image"].(string)
		p := place{image: repositoryOf(image), whole: image}
		if err := p.decide(kustomization, images); err != nil {
			return nil, err
		}
		entry := entryFor(image)
		if p.whole == image || entry == nil {
			continue
		}
		if names[image] == "" {
			names[image] = standInName
			if len(names) > 1 {
				names[image] = fmt.Sprintf("%s-%d", standInName, len(names))
			}
			entry["name"] = names[image]
			entries = append(entries, entry)
		}
		container["image"] = names[image]
	}
	return entries, nil
}

// entryFor is an entry of a kustomization's images that makes an image of any name; nil when none can.
func entryFor(image string) map[string]any {
	repository := repositoryOf(image)
	switch rest := strings.TrimPrefix(image, repository); {
	case strings.HasPrefix(rest, "@"):
		return map[string]any{"newName": repository, "digest": rest[1:]}
	case strings.HasPrefix(rest, ":") && !strings.Contains(rest, "@"):
		return map[string]any{"newName": repository, "newTag": rest[1:]}
	}
	return nil
}

// containersOf are the containers of an object's pod template.
func containersOf(object map[string]any) (all []map[string]any) {
	var pod any = object
	for _, key := range []string{"spec", "template", "spec"} {
		fields, _ := pod.(map[string]any)
		pod = fields[key]
	}
	fields, _ := pod.(map[string]any)
	for _, key := range []string{"initContainers", "containers"} {
		list, _ := fields[key].([]any)
		for _, item := range list {
			if container, ok := item.(map[string]any); ok {
				all = append(all, container)
			}
		}
	}
	return all
}
