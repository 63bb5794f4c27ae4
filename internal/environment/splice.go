package environment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/usererr"
)

const tooClever = "it cannot be edited without losing something"

// At finds a value by the keys and indexes that lead to it, such as "image", "digest" or "containers", "0", "image". It does
// not look behind an alias or a merge key: what is there is written elsewhere.
func At(path ...string) func(document *yaml.Node) *yaml.Node {
	return func(n *yaml.Node) *yaml.Node {
		for _, key := range path {
			n = child(n, key)
		}
		return n
	}
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		var found *yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == key {
				found = n.Content[i+1] // of a key that is there twice, the last one counts
			}
		}
		return found
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
	}
	return nil
}

// SetScalar replaces one value in a YAML file and leaves every other byte as it is. find gets each document's content and
// gives the value in it, or nil; exactly one is to be found. The value keeps its quotes and stays a string, or the number
// or boolean that it was. What cannot be replaced so that the result, read again, differs in this one value is refused.
// Errors are *usererr.Error and name the file.
func SetScalar(file string, text []byte, find func(document *yaml.Node) *yaml.Node, value string) ([]byte, error) {
	bad := func(line int, problem, fix string) ([]byte, error) {
		place := file
		if line > 0 {
			place = fmt.Sprintf("%s:%d", file, line)
		}
		return nil, &usererr.Error{Field: place, Problem: problem, Fix: fix}
	}
	before, err := documents(text)
	if err != nil {
		return bad(0, "it is not YAML that can be edited: "+oneLine(err.Error()), "")
	}
	if !utf8.ValidString(value) {
		return bad(0, "the new value is not UTF-8", "")
	}
	var old *yaml.Node
	at := 0
	for i := range before {
		if n := find(content(before[i])); n != nil {
			if old != nil {
				return bad(n.Line, fmt.Sprintf("the value is here and in line %d too", old.Line), "keep one of them")
			}
			old, at = n, i
		}
	}
	if old == nil {
		return bad(0, "the value was not found in it", "write it there once; from then on it is changed where it is")
	}
	switch {
	case old.Kind != yaml.ScalarNode:
		return bad(old.Line, "it is no single value; "+tooClever, "write the value itself there")
	case shared(before[at], old):
		return bad(old.Line, "an anchor or alias shares it with another place; "+tooClever, "write the value out where it is meant")
	case old.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return bad(old.Line, "it is a block of text (| or >); "+tooClever, "write the value in one line, behind its key")
	}
	start, end, ok := written(text, old)
	if !ok {
		return bad(old.Line, "it is written over several lines, empty, or with a tag or anchor; "+tooClever, `write the value in one line, such as "" for an empty one`)
	}
	if old.Value == value {
		return text, nil
	}
	for _, spelling := range spellings(old, value) {
		edited := bytes.Join([][]byte{text[:start], []byte(spelling), text[end:]}, nil)
		if after, err := documents(edited); err == nil && only(before, after, old, value) {
			return edited, nil
		}
	}
	return bad(old.Line, tooClever, "write the value in one line, behind its key")
}

// bom is a byte order mark; the reader of YAML skips it, without a column.
var bom = []byte("\xef\xbb\xbf")

// documents reads all documents of a file.
func documents(text []byte) (all []*yaml.Node, err error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8")
	}
	decoder := yaml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, bom)))
	for {
		document := &yaml.Node{}
		if err := decoder.Decode(document); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		datesAsText(document)
		all = append(all, document)
	}
}

// datesAsText takes a date for the string that it is to Kubernetes.
func datesAsText(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!timestamp" && n.Style == 0 {
		n.Tag = "!!str"
	}
	for _, inner := range n.Content {
		datesAsText(inner)
	}
}

func content(document *yaml.Node) *yaml.Node {
	if document.Kind == yaml.DocumentNode && len(document.Content) > 0 {
		return document.Content[0]
	}
	return document
}

// shared says whether a value has more than one place: it has an anchor, it is in what an alias repeats, or it was found
// behind an alias.
func shared(document, value *yaml.Node) bool {
	repeated := map[*yaml.Node]bool{}
	var collect func(n *yaml.Node)
	collect = func(n *yaml.Node) {
		if n.Kind == yaml.AliasNode {
			repeated[n.Alias] = true
		}
		for _, inner := range n.Content {
			collect(inner)
		}
	}
	collect(document)
	var alone func(n *yaml.Node) bool // it is in n, and nowhere else
	alone = func(n *yaml.Node) bool {
		if repeated[n] {
			return false
		}
		if n == value {
			return n.Anchor == ""
		}
		return slices.ContainsFunc(n.Content, alone)
	}
	return !alone(document)
}

// written finds the bytes of a value that is written in one line.
func written(text []byte, n *yaml.Node) (start, end int, ok bool) {
	if start, ok = offset(text, n.Line, n.Column); !ok {
		return 0, 0, false
	}
	rest := text[start:]
	length := 0
	switch {
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		length = quoted(rest)
	case n.Style&^yaml.TaggedStyle == 0 && n.Value != "" && bytes.HasPrefix(rest, []byte(n.Value)):
		length = len(n.Value)
	}
	if length == 0 {
		return 0, 0, false
	}
	var read yaml.Node
	if yaml.Unmarshal(rest[:length], &read) != nil {
		return 0, 0, false
	}
	same := content(&read)
	return start, start + length, same.Kind == yaml.ScalarNode && same.Value == n.Value && same.Style == n.Style
}

// quoted is the length of the quoted value that a text starts with; 0 for none in one line.
func quoted(text []byte) int {
	if len(text) == 0 || text[0] != '"' && text[0] != '\'' {
		return 0
	}
	for i := 1; i < len(text); i++ {
		switch {
		case lineBreak(text[i:]) > 0:
			return 0
		case text[i] == '\\' && text[0] == '"' && i+1 < len(text) && lineBreak(text[i+1:]) == 0: // else the break is escaped
			i++
		case text[i] == text[0] && text[0] == '\'' && i+1 < len(text) && text[i+1] == '\'':
			i++
		case text[i] == text[0]:
			return i + 1
		}
	}
	return 0
}

// offset is where a line and a column are, which YAML counts from 1, in characters.
func offset(text []byte, line, column int) (int, bool) {
	at := 0
	if bytes.HasPrefix(text, bom) {
		at = len(bom)
	}
	for ; line > 1; line-- {
		for {
			if at >= len(text) {
				return 0, false
			}
			size := lineBreak(text[at:])
			if size > 0 {
				at += size
				break
			}
			_, size = utf8.DecodeRune(text[at:])
			at += size
		}
	}
	for ; column > 1; column-- {
		if at >= len(text) || lineBreak(text[at:]) > 0 {
			return 0, false
		}
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	return at, at <= len(text)
}

// lineBreak is the size of the line break that a text starts with: of YAML 1.1, as the reader counts lines.
func lineBreak(text []byte) int {
	for _, end := range []string{"\r\n", "\n", "\r", "\u0085", "\u2028", "\u2029"} {
		if bytes.HasPrefix(text, []byte(end)) {
			return len(end)
		}
	}
	return 0
}

// spellings are the ways to write a value, the one that is most like the old one first.
func spellings(old *yaml.Node, value string) (all []string) {
	style := old.Style &^ yaml.TaggedStyle
	if style == 0 && plain(old, value) {
		all = append(all, value)
	}
	styles := []yaml.Style{yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle}
	if style == yaml.SingleQuotedStyle {
		styles = []yaml.Style{yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle}
	}
	for _, style := range styles {
		written, err := yaml.Marshal(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: style, Value: value})
		if text := strings.TrimSuffix(string(written), "\n"); err == nil && !strings.ContainsAny(text, "\r\n\u0085\u2028\u2029") {
			all = append(all, text)
		}
	}
	return all
}

// plain says whether a value may go without quotes: as a string that every reader takes for one, or as the number or
// boolean that it replaces.
func plain(old *yaml.Node, value string) bool {
	written, err := yaml.Marshal(value)
	if err == nil && string(written) == value+"\n" {
		return true
	}
	return old.Tag != "!!str" && old.Tag != "!!null" && tagOf(value) == old.Tag
}

func tagOf(plain string) string {
	var n yaml.Node
	if yaml.Unmarshal([]byte(plain), &n) != nil || content(&n).Kind != yaml.ScalarNode || content(&n).Value != plain {
		return ""
	}
	return content(&n).Tag
}

// only says whether two readings of a file differ in one value alone, which is now a given one: a string, or of its old
// type.
func only(before, after []*yaml.Node, old *yaml.Node, value string) bool {
	if len(before) != len(after) {
		return false
	}
	var same func(a, b *yaml.Node) bool
	same = func(a, b *yaml.Node) bool {
		if a.Kind != b.Kind || a.Line != b.Line || a.Anchor != b.Anchor || len(a.Content) != len(b.Content) ||
			a.HeadComment != b.HeadComment || a.LineComment != b.LineComment || a.FootComment != b.FootComment {
			return false
		}
		if a == old {
			return b.Value == value && (b.Tag == "!!str" || b.Tag == a.Tag)
		}
		if a.Value != b.Value || a.Tag != b.Tag || a.Style != b.Style {
			return false
		}
		for i := range a.Content {
			if !same(a.Content[i], b.Content[i]) {
				return false
			}
		}
		return true
	}
	for i := range before {
		if !same(before[i], after[i]) {
			return false
		}
	}
	return true
}
