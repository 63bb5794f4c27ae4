package gitops

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/labels"
	kustomize "sigs.k8s.io/kustomize/api/types"
)

// A controller's own object may make something else of a folder than the folder says: then what a commit changes there is not
// what is applied. Each controller gives the settings of that kind that it has, and what is here says which objects they change.

// setting is one that an object of a controller has.
type setting struct {
	field   string // spec.images[0]
	does    string // what it does to the objects that it changes, %s for these
	fix     string
	changes func(Object) (bool, error)
}

// changed are the settings of an object of a controller that change what a release commits, by refusals that name the objects. Beside
// a controller that is only the pod template of a Deployment; where every step is a commit, all objects.
func (c *cluster) changed(settings []setting, objects []Object, refuse func(problem, fix string) error) error {
	var problems []error
	for _, s := range settings {
		var names []string
		for _, o := range objects {
			if !c.options.commits() && o.Kind != "Deployment" {
				continue
			}
			yes, err := s.changes(o)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", s.field, o, err)
			}
			if yes {
				names = append(names, o.String())
			}
		}
		if len(names) > 0 {
			problems = append(problems, refuse("its "+s.field+" "+fmt.Sprintf(s.does, strings.Join(names, ", ")), s.fix))
		}
	}
	return errors.Join(problems...)
}

// The settings that both controllers have, of kustomize.

const intoFolder = " in the kustomization.yaml of gitops.path, and remove it here"

func renames(field, affix string) setting {
	return setting{
		field: field, does: "gives %s a name that the folder in Git does not have",
		fix: "write it" + intoFolder, changes: func(Object) (bool, error) { return affix != "", nil },
	}
}

func movesTo(field, namespace string) setting {
	return setting{
		field: field, does: "moves %s to namespace " + namespace, fix: "name the namespace that the app is in",
		changes: func(o Object) (bool, error) { return namespace != "" && namespace != o.GetNamespace(), nil },
	}
}

func adds(field string, components []string) setting {
	return setting{
		field: field, does: "may change %s after all that the folder in Git says", fix: "list them as components" + intoFolder,
		changes: func(Object) (bool, error) { return len(components) > 0, nil },
	}
}

// retags refuses an entry that names an image of a Deployment, or what it is called in Git. One of another image is harmless.
func retags(field string, image kustomize.Image, called func() ([]string, error)) setting {
	return setting{
		field: field, does: "decides an image of %s, whatever a commit says", fix: "write the entry among the images" + intoFolder,
		changes: func(o Object) (bool, error) {
			if o.Kind != "Deployment" {
				return false, nil
			}
			live, err := asMap(o)
			if err != nil {
				return false, err
			}
			inGit, err := called()
			if err != nil {
				return false, err
			}
			names := slices.Clone(inGit)
			for _, of := range []string{"containers", "initContainers"} {
				for _, container := range list(live, "spec", "template", "spec", of) {
					fields, _ := container.(map[string]any)
					name, _ := fields["image"].(string)
					names = append(names, repositoryOf(name))
				}
			}
			return slices.ContainsFunc(names, func(name string) bool { return name == image.NewName || imageMatches(image.Name, name) }), nil
		},
	}
}

// imageMatches is image.IsImageMatched of kustomize, which takes the name in an entry as an expression.
func imageMatches(entry, name string) bool {
	pattern, err := regexp.Compile("^(?:" + entry + ")$")
	return entry != "" && (entry == name || err == nil && pattern.MatchString(name))
}

// patches refuses a patch of an object. Beside a controller, one that leaves the pod template alone is harmless.
func (c *cluster) patches(field string, patch kustomize.Patch) setting {
	return setting{
		field: field, does: "changes %s after all that the folder in Git says", fix: "write what it says into the manifests, and remove it here",
		changes: func(o Object) (bool, error) {
			targets, all := targetsOf(patch)
			matches := all || slices.ContainsFunc(targets, func(target kustomize.Selector) bool { return selects(target, o) })
			return matches && (c.options.commits() || touches(patch, "/spec/template")), nil
		},
	}
}

// targetsOf are the objects that a patch changes: by its target, or else those that it is written as. all: that is not known.
func targetsOf(patch kustomize.Patch) (targets []kustomize.Selector, all bool) {
	if patch.Target != nil {
		return []kustomize.Selector{*patch.Target}, false
	}
	parts, err := documentsOf(patch.Patch)
	if err != nil || patch.Path != "" {
		return nil, true
	}
	for _, part := range parts {
		fields, _ := part.(map[string]any)
		metadata, _ := fields["metadata"].(map[string]any)
		kind, _ := fields["kind"].(string)
		name, _ := metadata["name"].(string)
		if kind == "" || name == "" {
			return nil, true
		}
		target := kustomize.Selector{}
		target.Kind, target.Name = kind, regexp.QuoteMeta(name)
		targets = append(targets, target)
	}
	return targets, false
}

// documentsOf are those of a text of YAML.
func documentsOf(text string) (all []any, err error) {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for {
		var one any
		switch err := decoder.Decode(&one); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case one != nil:
			all = append(all, one)
		}
	}
}

// selects says whether a patch's target may be a live object. kustomize looks for it before it gives objects prefixes and a
// namespace, so that a name matches which is a part of the live one, and so does the namespace of an object that names none.
// Labels and annotations are those that are live.
func selects(target kustomize.Selector, o Object) bool {
	regex, err := kustomize.NewSelectorRegex(&target)
	if err != nil {
		return true
	}
	gvk := target.Gvk
	gvk.Group, gvk.Kind = o.Group, o.Kind
	name, err := regexp.Compile(target.Name)
	return err == nil && name.MatchString(o.GetName()) && regex.MatchGvk(gvk) &&
		(regex.MatchNamespace(o.GetNamespace()) || regex.MatchNamespace("default")) &&
		matchesAll(target.LabelSelector, o.GetLabels()) && matchesAll(target.AnnotationSelector, o.GetAnnotations())
}

func matchesAll(selector string, of map[string]string) bool {
	parsed, err := labels.Parse(selector)
	return err != nil || parsed.Matches(labels.Set(of))
}

// touches says whether a patch may change what is at a JSON pointer: by its operations, or its fields.
func touches(patch kustomize.Patch, pointer string) bool {
	parts, err := documentsOf(patch.Patch)
	if err != nil || patch.Path != "" {
		return true
	}
	return slices.ContainsFunc(parts, func(part any) bool {
		operations, ok := part.([]any)
		if !ok {
			return writes(part, strings.Split(pointer, "/")[1:])
		}
		return slices.ContainsFunc(operations, func(operation any) bool {
			fields, _ := operation.(map[string]any)
			path, ok := fields["path"].(string)
			return !ok || overlap(path, pointer)
		})
	})
}

// writes says whether a strategic merge patch has something at a path, or replaces what is around it.
func writes(part any, at []string) bool {
	fields, ok := part.(map[string]any)
	if !ok || len(at) == 0 {
		return true
	}
	if _, directive := fields["$patch"]; directive {
		return true
	}
	inside, there := fields[at[0]]
	return there && writes(inside, at[1:])
}

// overlap says whether one of two JSON pointers is at or in what the other one points to.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") || a == "" || b == ""
}

// inTo reads a part of an object of a controller into a type of its own.
func inTo(part any, into any) error {
	text, err := json.Marshal(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
