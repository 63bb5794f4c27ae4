package pipelinefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// kindOfValue is the type that GitLab's YAML reader (Ruby's Psych, YAML 1.1) gives a value.
type kindOfValue byte

const (
	nullValue kindOfValue = iota
	boolValue
	textValue // numbers too: nothing here computes with them
	listValue
	mapValue
	referenceValue // !reference [job, key …], not resolved yet
)

// yamlValue is a value of a file, with the line that it is on. It is never changed: merging makes new ones.
type yamlValue struct {
	kind   kindOfValue
	line   int
	plain  bool // a text that was not quoted
	truth  bool
	text   string
	start  int // the line on which the text itself begins: a block's is the one after its |
	list   []*yamlValue
	keys   []string // of a map, in their order
	fields map[string]*yamlValue
	lines  map[string]int // of the keys
}

// get is a field of a map; nil when there is none, and when the value is no map.
func (v *yamlValue) get(key string) *yamlValue {
	if v == nil || v.kind != mapValue {
		return nil
	}
	return v.fields[key]
}

// set adds or replaces a field of a map that is being built.
func (v *yamlValue) set(key string, line int, field *yamlValue) {
	if v.fields == nil {
		v.fields, v.lines = map[string]*yamlValue{}, map[string]int{}
	}
	if _, has := v.fields[key]; !has {
		v.keys = append(v.keys, key)
	}
	v.fields[key], v.lines[key] = field, line
}

// without is a map without one of its fields.
func (v *yamlValue) without(key string) *yamlValue {
	found := &yamlValue{kind: mapValue, line: v.line}
	for _, other := range v.keysOf() {
		if other != key {
			found.set(other, v.lines[other], v.fields[other])
		}
	}
	return found
}

// is says whether there is a value, and of which kind.
func (v *yamlValue) is(kind kindOfValue) bool { return v != nil && v.kind == kind }

// string is a text; "" for every other kind.
func (v *yamlValue) string() string {
	if v.is(textValue) {
		return v.text
	}
	return ""
}

// texts are the texts in a value, in the lists in it too.
func (v *yamlValue) texts() (found []string) {
	for _, t := range v.scalars() {
		found = append(found, t.text)
	}
	return found
}

// scalars are the texts in a value with their lines.
func (v *yamlValue) scalars() []*yamlValue {
	if v == nil {
		return nil
	}
	switch v.kind {
	case textValue:
		return []*yamlValue{v}
	case listValue, referenceValue:
		var found []*yamlValue
		for _, item := range v.list {
			found = append(found, item.scalars()...)
		}
		return found
	}
	return nil
}

// canonical is a text that is the same for the same values.
func (v *yamlValue) canonical() string {
	if v == nil {
		return "null"
	}
	switch v.kind {
	case boolValue:
		return strconv.FormatBool(v.truth)
	case textValue:
		return strconv.Quote(v.text)
	case listValue:
		var items []string
		for _, item := range v.list {
			items = append(items, item.canonical())
		}
		return "[" + strings.Join(items, ",") + "]"
	case mapValue:
		var items []string
		for _, key := range slices.Sorted(slices.Values(v.keys)) {
			items = append(items, strconv.Quote(key)+":"+v.fields[key].canonical())
		}
		return "{" + strings.Join(items, ",") + "}"
	}
	return "null"
}

// walk visits a value and all that is in it. place is the keys that lead to it, with * for the items of a list.
func (v *yamlValue) walk(place []string, visit func(place []string, v *yamlValue)) {
	if v == nil {
		return
	}
	visit(place, v)
	for _, item := range v.list {
		item.walk(append(slices.Clip(place), "*"), visit)
	}
	for _, key := range v.keys {
		v.fields[key].walk(append(slices.Clip(place), key), visit)
	}
}

// decodeDocuments reads the YAML documents of a file, without empty ones.
func decodeDocuments(data []byte) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var documents []*yaml.Node
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not YAML: %w", err)
		}
		if len(document.Content) == 1 {
			documents = append(documents, document.Content[0])
		}
	}
}

// shift adds to the lines of a document.
func shift(node *yaml.Node, lines int) {
	node.Line += lines
	for _, inner := range node.Content {
		shift(inner, lines)
	}
}

const (
	deepest = 50      // bounds extends, !reference and nesting, against files that refer to themselves
	largest = 200_000 // bounds the number of values, against anchors that multiply
)

// decoder turns YAML nodes into values. problems are what Psych and others read in different ways.
type decoder struct {
	size     int
	restore  func(string) string // puts interpolations back
	problems []problem
}

// problem is something in a file that cannot be understood for certain.
type problem struct {
	rule    string // RuleNotUnderstood if empty
	minor   bool   // it does not matter in a job that only reads
	line    int
	job     string
	keyword string
	text    string
	fix     string
}

func (d *decoder) problem(line int, keyword, format string, args ...any) {
	d.problems = append(d.problems, problem{line: line, keyword: keyword, text: fmt.Sprintf(format, args...)})
}

func (d *decoder) decode(node *yaml.Node, depth int) (*yamlValue, error) {
	if depth > deepest {
		return nil, fmt.Errorf("line %d: nested too deeply", node.Line%linesOfAPart)
	}
	if d.size++; d.size > largest {
		return nil, fmt.Errorf("line %d: too large", node.Line%linesOfAPart)
	}
	switch node.Kind {
	case yaml.AliasNode:
		return d.decode(node.Alias, depth+1)
	case yaml.SequenceNode:
		found := &yamlValue{kind: listValue, line: node.Line}
		for _, item := range node.Content {
			decoded, err := d.decode(item, depth+1)
			if err != nil {
				return nil, err
			}
			found.list = append(found.list, decoded)
		}
		if node.Tag == "!reference" {
			found.kind = referenceValue
		} else {
			d.tag(node, "!!seq")
		}
		return found, nil
	case yaml.MappingNode:
		d.tag(node, "!!map")
		return d.decodeMap(node, depth)
	default:
		return d.scalar(node), nil
	}
}

// tag notes a tag that was written: what it makes of a value is not read here.
func (d *decoder) tag(node *yaml.Node, usual ...string) {
	if node.Style&yaml.TaggedStyle != 0 && !slices.Contains(usual, node.Tag) {
		d.problem(node.Line, node.Tag, "the tag %s is not understood", node.Tag)
	}
}

var (
	psychTrue  = regexp.MustCompile(`(?i)^(yes|true|on)$`)
	psychFalse = regexp.MustCompile(`(?i)^(no|false|off)$`)
	psychNull  = regexp.MustCompile(`(?i)^(null|~|)$`)
)

// scalar reads a scalar as Psych's ScalarScanner does: yes, no, on and off are booleans, y and n are texts.
func (d *decoder) scalar(node *yaml.Node) *yamlValue {
	d.tag(node, "!!str")
	found := &yamlValue{kind: textValue, line: node.Line, start: node.Line, text: d.restore(node.Value)}
	if node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		found.start++
	}
	if node.Style&^yaml.FlowStyle != 0 { // quoted, a block, or with a tag
		return found
	}
	found.plain = true
	switch {
	case psychNull.MatchString(node.Value):
		found.kind = nullValue
	case psychTrue.MatchString(node.Value):
		found.kind, found.truth = boolValue, true
	case psychFalse.MatchString(node.Value):
		found.kind = boolValue
	}
	return found
}

// decodeMap decodes a mapping. What is merged into it by << replaces the keys that stand before it, as in Psych and
// unlike in YAML's own description; keys that stand after it replace what was merged.
func (d *decoder) decodeMap(node *yaml.Node, depth int) (*yamlValue, error) {
	found := &yamlValue{kind: mapValue, line: node.Line}
	written := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		decoded, err := d.decode(node.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		if key.Kind == yaml.ScalarNode && key.Value == "<<" && key.Tag == "!!merge" {
			d.merge(found, key, decoded)
			continue
		}
		name := d.key(key)
		if written[name] {
			d.problem(key.Line, name, "the key %q is there twice; GitLab takes the last one", name)
		}
		written[name] = true
		found.set(name, key.Line, decoded)
	}
	return found, nil
}

// key is the name of a key.
func (d *decoder) key(node *yaml.Node) string {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Kind != yaml.ScalarNode {
		d.problem(node.Line, "key", "a key that is not a text is not understood")
		return fmt.Sprintf("key of line %d", node.Line%linesOfAPart)
	}
	if decoded := d.scalar(node); decoded.kind != textValue {
		d.problem(node.Line, node.Value, "the key %s is not a text in YAML 1.1", node.Value)
	}
	return d.restore(node.Value)
}

// merge merges what << names: of a list the first map wins.
func (d *decoder) merge(into *yamlValue, key *yaml.Node, from *yamlValue) {
	maps := []*yamlValue{from}
	if from.kind == listValue {
		maps = slices.Clone(from.list)
		slices.Reverse(maps)
	}
	for _, one := range maps {
		if one.kind != mapValue {
			d.problem(key.Line, "<<", "<< merges something that is not a map")
			continue
		}
		for _, name := range one.keys {
			into.set(name, one.lines[name], one.fields[name])
		}
	}
}
