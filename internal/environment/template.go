package environment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/usererr"
)

// SetTemplate edits the manifest of a Deployment so that its pod template, which a folder renders as before, becomes after.
// Both are as JSON decodes them, without the images, which SetImage writes. Only what differs is edited: a value where it
// is, a list or an object that is another one as a whole. What would lose a comment is refused, and so is what the manifest
// does not have because a kustomization makes it. Whether the folder renders as after then is for the caller to see. Errors
// are *usererr.Error and name file and line.
func SetTemplate(tree *Tree, dir, deployment string, before, after map[string]any) error {
	p, err := theOne(tree, dir, "Deployment", deployment)
	if err != nil {
		return err
	}
	text, err := tree.Read(p.file)
	if err != nil {
		return err
	}
	for _, e := range edits(nil, before, after) {
		e.file, e.document, e.path = p.file, p.document, append([]string{"spec", "template"}, e.path...)
		if text, err = e.carryOut(text); err != nil {
			return err
		}
	}
	return tree.Write(p.file, text)
}

// edit is one change of a document.
type edit struct {
	file     string
	document int
	path     []string // keys and indexes
	value    any      // nil to remove it
}

// edits are what makes one value of another: as few as there are, each as deep as it goes.
func edits(path []string, before, after any) (all []edit) {
	was, wasMap := before.(map[string]any)
	is, isMap := after.(map[string]any)
	below := func(key string) []string { return append(slices.Clone(path), key) }
	if wasMap && isMap {
		keys := maps.Clone(was)
		maps.Copy(keys, is)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			if _, stays := is[key]; !stays {
				all = append(all, edit{path: below(key)})
			} else if !reflect.DeepEqual(was[key], is[key]) {
				all = append(all, edits(below(key), was[key], is[key])...)
			}
		}
		return all
	}
	if reflect.DeepEqual(before, after) {
		return nil
	}
	if olds, news := items(before), items(after); correspond(olds, news) {
		for i := range news {
			all = append(all, edits(below(strconv.Itoa(i)), olds[i], news[i])...)
		}
		return all
	}
	return []edit{{path: path, value: after}}
}

func items(v any) []any {
	list, _ := v.([]any)
	return list
}

// correspond says whether the items of two lists are the same things, of which each may have changed.
func correspond(olds, news []any) bool {
	if len(olds) == 0 || len(olds) != len(news) {
		return false
	}
	for i := range olds {
		was, wasMap := olds[i].(map[string]any)
		is, isMap := news[i].(map[string]any)
		if wasMap != isMap || wasMap && was["name"] != is["name"] {
			return false
		}
	}
	return true
}

func (e *edit) refuse(line int, problem string) error {
	return &usererr.Error{
		Field: fmt.Sprintf("%s:%d", e.file, line), Problem: strings.Join(e.path, ".") + " has to be edited, and " + problem,
		Fix: "write what the release has there, in a commit of your own",
	}
}

// carryOut makes one edit of a file, and checks that nothing else of it has changed.
func (e *edit) carryOut(text []byte) ([]byte, error) {
	before, err := documents(text)
	if err != nil || e.document >= len(before) {
		return nil, e.refuse(1, "the file cannot be read")
	}
	root := content(before[e.document])
	old := At(e.path...)(root)
	if scalar, ok := asScalar(e.value); ok && old != nil && old.Kind == yaml.ScalarNode {
		number := -1
		edited, err := SetScalar(e.file, text, func(n *yaml.Node) *yaml.Node {
			if number++; number != e.document {
				return nil
			}
			return At(e.path...)(n)
		}, scalar)
		if err == nil && e.check(before, edited) == nil { // else it is of another type
			return edited, nil
		}
	}
	last := len(e.path) - 1
	parent := At(e.path[:last]...)(root)
	switch {
	case parent == nil:
		return nil, e.refuse(root.Line, "the manifest does not have what it is in: a kustomization makes it")
	case parent.Kind != yaml.MappingNode || parent.Style&yaml.FlowStyle != 0 || len(parent.Content) == 0:
		return nil, e.refuse(parent.Line, "what it is in is not written with one key in each line")
	case shared(before[e.document], parent):
		return nil, e.refuse(parent.Line, "an anchor or alias shares it with another place")
	case old == nil && e.value == nil:
		return nil, e.refuse(parent.Line, "the manifest does not have it: a kustomization makes it")
	}
	edited, err := e.rewrite(text, parent, e.path[last])
	if err != nil {
		return nil, err
	}
	if err := e.check(before, edited); err != nil {
		return nil, err
	}
	return edited, nil
}

func asScalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool, float64, int64, json.Number:
		return strings.TrimSpace(string(marshaled(v, 0))), true
	}
	return "", false
}

// marshaled is a value as a block of YAML, each line indented.
func marshaled(v any, indent int) []byte {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	_ = encoder.Encode(v) // maps, lists and scalars, into memory
	lines := strings.SplitAfter(strings.TrimSuffix(out.String(), "\n"), "\n")
	return []byte(strings.Repeat(" ", indent) + strings.Join(lines, strings.Repeat(" ", indent)))
}

// rewrite replaces, adds or removes one key of a mapping that is written as a block.
func (e *edit) rewrite(text []byte, parent *yaml.Node, key string) ([]byte, error) {
	index := slices.IndexFunc(parent.Content, func(n *yaml.Node) bool { return n.Value == key })
	for index > 0 && index%2 == 1 { // a value, not a key
		next := slices.IndexFunc(parent.Content[index+1:], func(n *yaml.Node) bool { return n.Value == key })
		if next < 0 {
			index = -1
			break
		}
		index += 1 + next
	}
	column := parent.Content[0].Column
	var entry []byte
	if e.value != nil {
		entry = []byte(key + ":")
		if _, ok := asScalar(e.value); ok {
			entry = append(append(entry, ' '), marshaled(e.value, 0)...)
		} else {
			entry = append(append(entry, '\n'), marshaled(e.value, column+1)...)
		}
	}
	if index < 0 { // behind the last one
		end := endOf(text, parent.Content[len(parent.Content)-2], parent.Content[len(parent.Content)-1])
		added := slices.Concat([]byte("\n"+strings.Repeat(" ", column-1)), entry)
		return slices.Concat(text[:end], added, text[end:]), nil
	}
	name, value := parent.Content[index], parent.Content[index+1]
	if line := commented(name, value, e.value == nil); line > 0 {
		return nil, e.refuse(line, "a comment in it would be lost")
	}
	if aliased(value) {
		return nil, e.refuse(value.Line, "it has an anchor or an alias")
	}
	start, ok := offset(text, name.Line, name.Column)
	if !ok {
		return nil, e.refuse(name.Line, tooClever)
	}
	end := endOf(text, name, value)
	if e.value != nil {
		return slices.Concat(text[:start], entry, text[end:]), nil
	}
	switch first := len(bytes.TrimLeft(text[lineStart(text, start):start], " ")) == 0; {
	case first && end < len(text): // alone in its lines
		return slices.Concat(text[:lineStart(text, start)], text[end+1:]), nil
	case index+2 < len(parent.Content): // behind a dash: the next key takes its place
		next, _ := offset(text, parent.Content[index+2].Line, parent.Content[index+2].Column)
		return slices.Concat(text[:start], text[next:]), nil
	}
	return nil, e.refuse(name.Line, tooClever)
}

func lineStart(text []byte, at int) int { return bytes.LastIndexByte(text[:at], '\n') + 1 }

// endOf is where the last line of a key and its value ends, without its line break.
func endOf(text []byte, name, value *yaml.Node) int {
	last := name.Line
	var deepest func(n *yaml.Node)
	deepest = func(n *yaml.Node) {
		last = max(last, n.Line)
		for _, inner := range n.Content {
			deepest(inner)
		}
	}
	deepest(value)
	lines := bytes.SplitAfter(text, []byte("\n"))
	end := last // number of lines up to there
	for at := last; at < len(lines); at++ {
		content := bytes.TrimRight(lines[at], "\r\n")
		trimmed := bytes.TrimLeft(content, " ")
		if len(trimmed) == 0 {
			continue
		}
		if len(content)-len(trimmed) < name.Column { // the next entry, or what the mapping is in
			break
		}
		end = at + 1
	}
	return len(bytes.TrimRight(bytes.Join(lines[:end], nil), "\r\n"))
}

// commented is the line of a comment on a value; 0 when there is none. That on its key stays, unless the key goes.
func commented(name, value *yaml.Node, goes bool) (line int) {
	if goes && name.HeadComment+name.LineComment+name.FootComment != "" {
		return name.Line
	}
	var look func(n *yaml.Node)
	look = func(n *yaml.Node) {
		if n.HeadComment+n.LineComment+n.FootComment != "" && line == 0 {
			line = n.Line
		}
		for _, inner := range n.Content {
			look(inner)
		}
	}
	look(value)
	return line
}

func aliased(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || n.Anchor != "" || slices.ContainsFunc(n.Content, aliased)
}

// check reads the result: each document is what it was, but for this edit, and no comment is gone.
func (e *edit) check(before []*yaml.Node, edited []byte) error {
	after, err := documents(edited)
	if err != nil || len(after) != len(before) {
		return e.refuse(1, tooClever)
	}
	for i := range before {
		var want, got any
		if before[i].Decode(&want) != nil || after[i].Decode(&got) != nil {
			return e.refuse(before[i].Line, tooClever)
		}
		if i == e.document && !e.in(want, e.path) || !reflect.DeepEqual(plainly(want), plainly(got)) || !slices.Equal(comments(before[i]), comments(after[i])) {
			return e.refuse(before[i].Line, tooClever)
		}
	}
	return nil
}

// in carries the edit out on a decoded document.
func (e *edit) in(v any, path []string) bool {
	switch v := v.(type) {
	case map[string]any:
		if len(path) == 1 {
			if v[path[0]] = e.value; e.value == nil {
				delete(v, path[0])
			}
			return true
		}
		return e.in(v[path[0]], path[1:])
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i >= len(v) {
			return false
		}
		if len(path) == 1 {
			v[i] = e.value
			return e.value != nil
		}
		return e.in(v[i], path[1:])
	}
	return false
}

// plainly is a value as JSON has it, whatever type its numbers are of.
func plainly(v any) (plain any) {
	text, err := json.Marshal(v)
	if err != nil || json.Unmarshal(text, &plain) != nil {
		return errors.New("it is no JSON")
	}
	return plain
}

func comments(n *yaml.Node) (all []string) {
	for _, text := range []string{n.HeadComment, n.LineComment, n.FootComment} {
		if text != "" {
			all = append(all, text)
		}
	}
	for _, inner := range n.Content {
		all = append(all, comments(inner)...)
	}
	slices.Sort(all)
	return all
}
