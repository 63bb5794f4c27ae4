package pipelinefile

import (
	"errors"
	"fmt"
	"slices"
)

// inheritance fills in what jobs inherit: root is the file's mapping.
type inheritance struct {
	root *yamlValue
	size int
}

// merged is a job with its extends merged in: maps deeply, everything else replaced.
func (r *inheritance) merged(name string, depth int) (*yamlValue, error) {
	job := r.root.get(name)
	if !job.is(mapValue) {
		return nil, fmt.Errorf("%q is not a job of this file", name)
	}
	if depth > deepest {
		return nil, fmt.Errorf("%q extends itself", name)
	}
	parents := job.get("extends").texts()
	found := &yamlValue{kind: mapValue, line: job.line}
	for _, parent := range parents {
		if r.size++; r.size > largest {
			return nil, errors.New("extends too much")
		}
		inherited, err := r.merged(parent, depth+1)
		if err != nil {
			return nil, fmt.Errorf("extends: %w", err)
		}
		found = merged(found, inherited)
	}
	return merged(found, job), nil
}

// merged merges maps deeply, and replaces everything else.
func merged(into, from *yamlValue) *yamlValue {
	found := &yamlValue{kind: mapValue, line: into.line}
	for _, key := range into.keys {
		found.set(key, into.lines[key], into.fields[key])
	}
	for _, key := range from.keys {
		field := from.fields[key]
		if old := found.get(key); old.is(mapValue) && field.is(mapValue) {
			field = merged(old, field)
		}
		found.set(key, from.lines[key], field)
	}
	return found
}

// mostReferences is how deeply GitLab resolves !reference in !reference.
const mostReferences = 10

// resolve looks up !reference, which may stand in lists and refer to further ones.
func (r *inheritance) resolve(v *yamlValue, depth int) (*yamlValue, error) {
	if r.size++; depth > mostReferences || r.size > largest {
		return nil, errors.New("!reference refers to itself, or to more than 10 others in a row")
	}
	switch v.kind {
	case referenceValue:
		target, err := r.target(v)
		if err != nil {
			return nil, err
		}
		return r.resolve(target, depth+1)
	case listValue:
		return r.resolveList(v, depth)
	case mapValue:
		found := &yamlValue{kind: mapValue, line: v.line}
		for _, key := range v.keys {
			got, err := r.resolve(v.fields[key], depth)
			if err != nil {
				return nil, err
			}
			found.set(key, v.lines[key], got)
		}
		return found, nil
	default:
		return v, nil
	}
}

// target is what a !reference names. GitLab looks it up before extends are merged, so that one that only has the key
// by extends is an error there.
func (r *inheritance) target(v *yamlValue) (*yamlValue, error) {
	path := v.texts()
	if len(path) == 0 {
		return nil, errors.New("!reference names nothing")
	}
	job, err := r.merged(path[0], 0)
	if err != nil && len(path) > 1 {
		return nil, fmt.Errorf("!reference: %w", err)
	}
	target := job
	if err != nil {
		if target = r.root.get(path[0]); target == nil {
			return nil, fmt.Errorf("!reference: %w", err)
		}
	}
	for _, key := range path[1:] {
		inner := target.get(key)
		if inner == nil {
			return nil, fmt.Errorf("!reference %v names nothing", path)
		}
		target = inner
	}
	return target, nil
}

// resolveList resolves the items of a list.
func (r *inheritance) resolveList(v *yamlValue, depth int) (*yamlValue, error) {
	found := &yamlValue{kind: listValue, line: v.line}
	for _, item := range v.list {
		got, err := r.resolve(item, depth)
		if err != nil {
			return nil, err
		}
		if item.kind == referenceValue && got.kind == listValue { // a list in the place of an item is spliced in
			found.list = append(found.list, got.list...)
			continue
		}
		found.list = append(found.list, got)
	}
	return found, nil
}

// globals are keywords of the top level that are defaults of all jobs: the older way to write `default`.
var globals = []string{"image", "services", "cache", "before_script", "after_script"}

// defaults are the values that a job inherits, as far as its own `inherit` admits them.
func (r *inheritance) defaults(job *yamlValue) *yamlValue {
	found := &yamlValue{kind: mapValue}
	add := func(from *yamlValue, keys []string) {
		for _, key := range keys {
			if field := from.get(key); field != nil && field.kind != nullValue && inherits(job, "default", key) {
				found.set(key, from.lines[key], field)
			}
		}
	}
	add(r.root, globals)
	if defaults := r.root.get("default"); defaults.is(mapValue) {
		add(defaults, defaults.keys)
	}
	return found
}

// inherits says whether a job inherits one of the defaults, or one of the file's variables.
func inherits(job *yamlValue, section, key string) bool {
	switch from := job.get("inherit").get(section); {
	case from.is(boolValue):
		return from.truth
	case from.is(listValue):
		return slices.Contains(from.texts(), key)
	}
	return true
}
