package environment

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	jsonutil "k8s.io/apimachinery/pkg/util/json"

	"github.com/our-org/crossbill/internal/usererr"
)

// how says what an edit does to what its path names.
type how int

const (
	put    how = iota // a value, in place of one or as a new key
	insert            // an item of a list, in front of the one that is there
	remove            // a key or an item
)

// edit is one change of a document.
type edit struct {
	file     string
	document int
	path     []string // keys and indexes
	how      how
	value    any
}

// edits are what makes one value of another, in this order: each as deep as it goes.
func edits(at []string, before, after any) (all []edit) {
	if reflect.DeepEqual(before, after) {
		return nil
	}
	below := func(key string) []string { return append(slices.Clone(at), key) }
	switch was := before.(type) {
	case map[string]any:
		is, _ := after.(map[string]any)
		if len(was) == 0 || len(is) == 0 {
			break
		}
		keys := maps.Clone(was)
		maps.Copy(keys, is)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			old, had := was[key]
			value, has := is[key]
			switch {
			case had && has:
				all = append(all, edits(below(key), old, value)...)
			case has:
				all = append(all, edit{path: below(key), value: value})
			default:
				all = append(all, edit{path: below(key), how: remove})
			}
		}
		return all
	case []any:
		is, _ := after.([]any)
		from := matched(was, is)
		if !slices.ContainsFunc(from, func(i int) bool { return i >= 0 }) {
			break // another list
		}
		for i := range slices.Backward(was) {
			if !slices.Contains(from, i) {
				all = append(all, edit{path: below(strconv.Itoa(i)), how: remove})
			}
		}
		for i, old := range from {
			if old < 0 {
				all = append(all, edit{path: below(strconv.Itoa(i)), how: insert, value: is[i]})
			}
		}
		for i, old := range from {
			if old >= 0 {
				all = append(all, edits(below(strconv.Itoa(i)), was[old], is[i])...)
			}
		}
		return all
	}
	return []edit{{path: at, value: after}}
}

// matched says for each item of a list which one of an older list it is, -1 for none. Both lists have them in one order.
func matched(olds, news []any) []int {
	from := make([]int, len(news))
	for i := range from {
		from[i] = -1
	}
	first := 0
	for first < min(len(olds), len(news)) && reflect.DeepEqual(olds[first], news[first]) {
		from[first] = first
		first++
	}
	last := 0
	for last < min(len(olds), len(news))-first && reflect.DeepEqual(olds[len(olds)-1-last], news[len(news)-1-last]) {
		last++
		from[len(news)-last] = len(olds) - last
	}
	a, b := olds[first:len(olds)-last], news[first:len(news)-last]
	alikeness := make([][]int, len(a))
	best := make([][]int, len(a)+1) // of the items from there on
	for i := range best {
		best[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		alikeness[i] = make([]int, len(b))
		for j := len(b) - 1; j >= 0; j-- {
			best[i][j] = max(best[i+1][j], best[i][j+1])
			if alikeness[i][j] = alike(a[i], b[j]); alikeness[i][j] > 0 {
				best[i][j] = max(best[i][j], best[i+1][j+1]+alikeness[i][j])
			}
		}
	}
	lastOld, lastNew := 0, 0
	inPlace := func(i, j int) { // as many others between two that match: each may be the one in its place
		if i-lastOld != j-lastNew {
			return
		}
		for lastNew < j {
			if mayBecome(a[lastOld], b[lastNew]) {
				from[first+lastNew] = first + lastOld
			}
			lastOld, lastNew = lastOld+1, lastNew+1
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case alikeness[i][j] > 0 && best[i][j] == best[i+1][j+1]+alikeness[i][j]:
			inPlace(i, j)
			from[first+j] = first + i
			i, j = i+1, j+1
			lastOld, lastNew = i, j
		case best[i][j] == best[i+1][j]:
			i++
		default:
			j++
		}
	}
	inPlace(len(a), len(b))
	return from
}

// alike counts what two values have in common; things of other names have nothing.
func alike(a, b any) (common int) {
	if reflect.DeepEqual(a, b) {
		common = 1
	}
	switch a := a.(type) {
	case map[string]any:
		b, _ := b.(map[string]any)
		switch same := reflect.DeepEqual(a["name"], b["name"]); {
		case !same:
			return 0
		case a["name"] != nil:
			common += 1000
		}
		for key := range a {
			if _, both := b[key]; both {
				common += alike(a[key], b[key])
			}
		}
	case []any:
		b, _ := b.([]any)
		for i := range min(len(a), len(b)) {
			common += alike(a[i], b[i])
		}
	}
	return common
}

// mayBecome says whether a change may make one value of another.
func mayBecome(old, value any) bool {
	was, wasMap := old.(map[string]any)
	is, isMap := value.(map[string]any)
	return wasMap == isMap && (!wasMap || reflect.DeepEqual(was["name"], is["name"]))
}

// Edit makes a YAML file of one document have other values. Only what differs is edited, where it is. What would lose a comment,
// or change more, is refused. Errors are *usererr.Error.
func Edit(file string, text []byte, change func(values map[string]any)) ([]byte, error) {
	bad := func(problem string) ([]byte, error) {
		return nil, &usererr.Error{Field: file, Problem: problem, Fix: "edit it yourself"}
	}
	all, err := documents(text)
	if err != nil || len(all) != 1 {
		return bad("it is not one document of YAML")
	}
	var values [2]map[string]any
	for i := range values {
		v, err := decoded(all[0])
		if err != nil {
			return bad(err.Error())
		}
		values[i], _ = v.(map[string]any)
	}
	if len(values[0]) == 0 {
		return bad("it has no fields")
	}
	change(values[1])
	return carryOut(text, file, 0, edits(nil, values[0], values[1]))
}

func (e *edit) refuse(line int, problem string) error {
	return &usererr.Error{
		Field: fmt.Sprintf("%s:%d", e.file, line), Problem: strings.Join(e.path, ".") + " has to be edited, and " + problem,
		Fix: "write what the release has there, in a commit of your own",
	}
}

// carryOut makes edits of a document, and checks for each that nothing else of the file has changed.
func carryOut(text []byte, file string, document int, all []edit) (_ []byte, err error) {
	for _, e := range all {
		e.file, e.document = file, document
		if text, err = e.carryOut(text); err != nil {
			return nil, err
		}
	}
	return text, nil
}

func (e *edit) carryOut(text []byte) ([]byte, error) {
	before, err := documents(text)
	if err != nil || e.document >= len(before) || len(e.path) == 0 {
		return nil, e.refuse(1, "the file cannot be read")
	}
	root := content(before[e.document])
	old := At(e.path...)(root)
	if scalar, ok := asScalar(e.value); ok && e.how == put && old != nil && old.Kind == yaml.ScalarNode {
		number := -1
		edited, err := SetScalar(e.file, text, func(n *yaml.Node) *yaml.Node {
			if number++; number != e.document {
				return nil
			}
			return At(e.path...)(n)
		}, scalar)
		if err == nil && e.check(text, edited, before) == nil { // else it is of another type
			return edited, nil
		}
	}
	parent := At(e.path[:len(e.path)-1]...)(root)
	switch {
	case parent == nil || parent.Kind == yaml.AliasNode:
		return nil, e.refuse(root.Line, "the manifest does not have what it is in: an alias or a kustomization makes it")
	case shared(before[e.document], parent):
		return nil, e.refuse(parent.Line, "an anchor or alias shares it with another place")
	case old == nil && e.how == remove:
		return nil, e.refuse(parent.Line, "the manifest does not have it: an alias or a kustomization makes it")
	case old != nil && e.how != insert && aliased(old):
		return nil, e.refuse(old.Line, "it has an anchor or an alias")
	}
	s := splicer{edit: e, text: text, parent: parent, lineBreak: lineBreakOf(text), compact: compact(before[e.document])}
	edited, err := s.splice()
	if err != nil {
		return nil, err
	}
	if err := e.check(text, edited, before); err != nil {
		return nil, err
	}
	return edited, nil
}

func aliased(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || n.Anchor != "" || slices.ContainsFunc(n.Content, aliased)
}

// check reads the result: each document is what it was, but for this edit, and no comment is gone.
func (e *edit) check(text, edited []byte, before []*yaml.Node) error {
	after, err := documents(edited)
	if err != nil || len(after) != len(before) {
		return e.refuse(1, tooClever)
	}
	for i := range before {
		want, err := decoded(before[i])
		if err == nil && i == e.document {
			want, err = e.in(want, e.path)
		}
		if err == nil {
			want, err = plainly(want)
		}
		got, unreadable := decoded(after[i])
		if err != nil || unreadable != nil || !reflect.DeepEqual(want, got) {
			return e.refuse(before[i].Line, tooClever)
		}
	}
	if hashes(text, before) != hashes(edited, after) {
		return e.refuse(e.line(before), "a comment in it would be lost")
	}
	return nil
}

// line is that of what is edited, or of what it is in.
func (e *edit) line(documents []*yaml.Node) int {
	root := content(documents[e.document])
	for depth := len(e.path); depth > 0; depth-- {
		if n := At(e.path[:depth]...)(root); n != nil {
			return n.Line
		}
	}
	return root.Line
}

// in is a value with the edit made.
func (e *edit) in(v any, at []string) (_ any, err error) {
	last := len(at) == 1
	switch v := v.(type) {
	case map[string]any:
		switch inner, ok := v[at[0]]; {
		case !last && !ok:
			return nil, fmt.Errorf("no %s", at[0])
		case !last:
			v[at[0]], err = e.in(inner, at[1:])
		case e.how == remove:
			delete(v, at[0])
		default:
			v[at[0]] = e.value
		}
		return v, err
	case []any:
		i, err := strconv.Atoi(at[0])
		switch {
		case err != nil || i < 0 || i > len(v) || i == len(v) && (!last || e.how != insert):
			return nil, fmt.Errorf("no %s", at[0])
		case !last:
			v[i], err = e.in(v[i], at[1:])
		case e.how == insert:
			v = slices.Insert(v, i, e.value)
		case e.how == remove:
			v = slices.Delete(v, i, i+1)
		default:
			v[i] = e.value
		}
		return v, err
	}
	return nil, fmt.Errorf("no %s", at[0])
}

// decoded is a document as Kubernetes' JSON decodes it: numbers are int64 or float64.
func decoded(document *yaml.Node) (any, error) {
	var v any
	if err := document.Decode(&v); err != nil {
		return nil, err
	}
	return plainly(v)
}

// plainly is a value as Kubernetes' JSON decodes it.
func plainly(v any) (plain any, err error) {
	text, err := json.Marshal(stringKeys(v))
	if err == nil {
		err = jsonutil.Unmarshal(text, &plain)
	}
	return plain, err
}

// stringKeys makes the keys of maps strings, as JSON has them.
func stringKeys(v any) any {
	switch v := v.(type) {
	case map[any]any:
		m := make(map[string]any, len(v))
		for key, inner := range v {
			m[fmt.Sprint(key)] = stringKeys(inner)
		}
		return m
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, inner := range v {
			m[key] = stringKeys(inner)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = stringKeys(v[i])
		}
		return list
	}
	return v
}

var hash = regexp.MustCompile(`(?m)(?:^|[ \t\r\x{85}\x{2028}\x{2029}])#`)

// hashes counts what may start a comment, without that in values: the reader does not find all comments, and not the same ones
// after an edit.
func hashes(text []byte, documents []*yaml.Node) int {
	count := len(hash.FindAll(text, -1))
	var look func(n *yaml.Node)
	look = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "#") {
			value := []byte(n.Value)
			if start, end, ok := written(text, n); ok {
				value = text[start:end]
			}
			count -= len(hash.FindAll(value, -1))
		}
		for _, inner := range n.Content {
			look(inner)
		}
	}
	for _, document := range documents {
		look(document)
	}
	return count
}

func asScalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case nil, bool, float64, int64:
		return string(marshaled(v, false, false)), true
	}
	return "", false
}

// leading are the keys that people write first, in this order.
var leading = []string{"apiVersion", "kind", "name", "namespace", "labels", "annotations", "metadata", "spec"}

// marshaled is a value as YAML: as a block, or in one line.
func marshaled(v any, compact, flow bool) []byte {
	var n yaml.Node
	_ = n.Encode(v) // maps, lists and scalars, as JSON has them
	var order func(n *yaml.Node)
	order = func(n *yaml.Node) {
		for _, inner := range n.Content {
			order(inner)
		}
		if n.Kind != yaml.MappingNode {
			return
		}
		pairs := slices.Collect(slices.Chunk(n.Content, 2))
		slices.SortStableFunc(pairs, func(a, b []*yaml.Node) int { return cmp.Compare(rank(a[0].Value), rank(b[0].Value)) })
		n.Content = slices.Concat(pairs...)
	}
	order(&n)
	if flow {
		n.Style |= yaml.FlowStyle
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if compact {
		encoder.CompactSeqIndent()
	}
	_ = encoder.Encode(&n) // into memory
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

func rank(key string) int {
	if i := slices.Index(leading, key); i >= 0 {
		return i
	}
	return len(leading)
}

// compact says whether a document's lists start where their key starts, as kubectl and kustomize write them.
func compact(n *yaml.Node) bool {
	inKey, deeper := 0, 0
	var look func(n *yaml.Node)
	look = func(n *yaml.Node) {
		for i, inner := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && inner.Kind == yaml.SequenceNode && inner.Style&yaml.FlowStyle == 0 {
				if inner.Column == n.Content[i-1].Column {
					inKey++
				} else {
					deeper++
				}
			}
			look(inner)
		}
	}
	look(n)
	return inKey > deeper
}

// isJSON says of a file that only JSON may be in it.
func isJSON(file string) bool { return strings.EqualFold(path.Ext(file), ".json") }
