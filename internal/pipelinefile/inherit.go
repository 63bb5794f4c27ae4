package pipelinefile

import (
	"errors"
	"fmt"
)

// inheritance fills in what jobs inherit: values are those of the file's mapping.
type inheritance struct{ values map[string]any }

// merged is a job with its extends merged in: maps deeply, everything else replaced.
func (r *inheritance) merged(name string, depth int) (map[string]any, error) {
	job, ok := r.values[name].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%q is not a job of this file", name)
	}
	if depth > deepest {
		return nil, fmt.Errorf("%q extends itself", name)
	}
	found := map[string]any{}
	parents := stringsIn([]any{job["extends"]})
	for _, parent := range parents {
		inherited, err := r.merged(parent, depth+1)
		if err != nil {
			return nil, fmt.Errorf("extends: %w", err)
		}
		merge(found, inherited)
	}
	merge(found, job)
	return found, nil
}

// merge merges maps deeply, and replaces everything else.
func merge(into, from map[string]any) {
	for key, value := range from {
		old, a := into[key].(map[string]any)
		with, b := value.(map[string]any)
		if a && b {
			copied := map[string]any{}
			merge(copied, old)
			merge(copied, with)
			into[key] = copied
			continue
		}
		into[key] = value
	}
}

// resolve looks up !reference, which may stand in lists and refer to further ones.
func (r *inheritance) resolve(value any, depth int) (any, error) {
	if depth > deepest {
		return nil, errors.New("!reference refers to itself")
	}
	switch value := value.(type) {
	case reference:
		target, err := r.target(value)
		if err != nil {
			return nil, err
		}
		return r.resolve(target, depth+1)
	case []any:
		return r.resolveList(value, depth)
	case map[string]any:
		found := map[string]any{}
		for key, item := range value {
			got, err := r.resolve(item, depth+1)
			if err != nil {
				return nil, err
			}
			found[key] = got
		}
		return found, nil
	default:
		return value, nil
	}
}

// target is what a !reference names.
func (r *inheritance) target(value reference) (any, error) {
	if len(value) == 0 {
		return nil, errors.New("!reference names nothing")
	}
	job, err := r.merged(value[0], 0)
	if err != nil {
		return nil, fmt.Errorf("!reference: %w", err)
	}
	var target any = job
	for _, key := range value[1:] {
		inner, ok := target.(map[string]any)
		if !ok || inner[key] == nil {
			return nil, fmt.Errorf("!reference %v names nothing", []string(value))
		}
		target = inner[key]
	}
	return target, nil
}

// resolveList resolves the items of a list.
func (r *inheritance) resolveList(value []any, depth int) (any, error) {
	resolved := make([]any, 0, len(value))
	for _, item := range value {
		got, err := r.resolve(item, depth+1)
		if err != nil {
			return nil, err
		}
		if _, referred := item.(reference); referred {
			if inner, ok := got.([]any); ok { // a list in the place of an item is spliced in
				resolved = append(resolved, inner...)
				continue
			}
		}
		resolved = append(resolved, got)
	}
	return resolved, nil
}
