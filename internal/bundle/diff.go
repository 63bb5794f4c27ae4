package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/manifest"
)

// Change is what differs in one object. Values of Secrets are masked.
type Change struct {
	Object string `json:"object"` // "Deployment shop/app-primary"
	Action string `json:"action"` // add, remove or change
	Diff   string `json:"diff"`
}

// Diff compares what was rendered with what comes after it: removed and changed objects in the order of the first, then the
// added ones in the order of the second.
func Diff(before, after *manifest.Rendered) ([]Change, error) {
	old, err := Objects(before)
	if err != nil {
		return nil, err
	}
	wanted, err := Objects(after)
	if err != nil {
		return nil, err
	}
	changes := []Change{}
	for _, o := range old {
		i := slices.IndexFunc(wanted, func(w *unstructured.Unstructured) bool { return label(w) == label(o) })
		if i < 0 {
			if changes, err = appendChange(changes, "remove", o, nil); err != nil {
				return nil, err
			}
			continue
		}
		if changes, err = appendChange(changes, "change", o, wanted[i]); err != nil {
			return nil, err
		}
		wanted = slices.Delete(wanted, i, i+1)
	}
	for _, w := range wanted {
		if changes, err = appendChange(changes, "add", nil, w); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// label names an object, by its group too where that is not Kubernetes' own.
func label(o *unstructured.Unstructured) string {
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	kind := o.GetKind()
	if group := o.GroupVersionKind().Group; strings.Contains(group, ".") {
		kind += "." + group
	}
	return kind + " " + name
}

func appendChange(changes []Change, action string, before, after *unstructured.Unstructured) ([]Change, error) {
	old, wanted := masked(before, after)
	was, err := textOf(old)
	if err != nil {
		return nil, err
	}
	will, err := textOf(wanted)
	if err != nil || was == will {
		return changes, err
	}
	o := before
	if o == nil {
		o = after
	}
	return append(changes, Change{label(o), action, udiff.Unified("before", "after", was, will)}), nil
}

func textOf(object map[string]any) (string, error) {
	if object == nil {
		return "", nil
	}
	text, err := yaml.Marshal(object)
	return string(text), err
}

// mask stands for a value of a Secret.
const mask = "***"

// masked gives two objects without the values of Secrets; either may be nil. A value that changes shows as one that does.
func masked(before, after *unstructured.Unstructured) (old, wanted map[string]any) {
	copied := func(o *unstructured.Unstructured) map[string]any {
		if o == nil {
			return nil
		}
		return o.DeepCopy().Object
	}
	old, wanted = copied(before), copied(after)
	if !isSecret(before) && !isSecret(after) {
		return old, wanted
	}
	for _, field := range keysOf(old, wanted) {
		if slices.Contains([]string{"apiVersion", "kind", "metadata", "type", "immutable"}, field) {
			continue // all else is, or was meant as, a value
		}
		was, is := values(old, field), values(wanted, field)
		for _, key := range keysOf(was, is) {
			oldMask, newMask := mask, mask
			if a, b := was[key], is[key]; a != nil && b != nil && !same(a, b) {
				oldMask, newMask = mask+" (before)", mask+" (after)"
			}
			for _, side := range []struct {
				values map[string]any
				mask   string
			}{{was, oldMask}, {is, newMask}} {
				if _, ok := side.values[key]; ok {
					side.values[key] = side.mask
				}
			}
		}
	}
	return old, wanted
}

func isSecret(o *unstructured.Unstructured) bool {
	if o == nil || !strings.EqualFold(o.GetKind(), "Secret") {
		return false
	}
	group := o.GroupVersionKind().Group
	return group == "" || group == "core" // an API server would refuse the latter; its values are there all the same
}

// values are a Secret's. A field of another form is masked as a whole.
func values(object map[string]any, field string) map[string]any {
	if object == nil || object[field] == nil {
		return nil
	}
	if values, ok := object[field].(map[string]any); ok {
		return values
	}
	object[field] = mask
	return nil
}

func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// Masked is what was rendered as YAML, without the values of Secrets.
func Masked(rendered *manifest.Rendered) (string, error) {
	objects, err := Objects(rendered)
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, o := range objects {
		_, object := masked(nil, o)
		text, err := textOf(object)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&all, "---\n%s", text)
	}
	return all.String(), nil
}

// keysOf are the keys of two maps, sorted.
func keysOf(a, b map[string]any) []string {
	both := maps.Clone(a)
	if both == nil {
		both = map[string]any{}
	}
	maps.Copy(both, b)
	return sortedKeys(both)
}
