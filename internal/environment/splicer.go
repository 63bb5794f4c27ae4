package environment

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// splicer makes one edit at the bytes of what it changes. Where it goes wrong, check sees it.
type splicer struct {
	*edit
	text      []byte
	parent    *yaml.Node // what has the key or item
	lineBreak string
	compact   bool // how lists are written
}

func (s *splicer) splice() ([]byte, error) {
	key := s.path[len(s.path)-1]
	switch {
	case s.parent.Style&yaml.FlowStyle != 0:
		return s.inFlow(key)
	case len(s.parent.Content) == 0:
		return nil, s.refuse(s.parent.Line, "what it is in is not written out")
	case s.parent.Kind == yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil {
			return s.item(i)
		}
	case s.parent.Kind == yaml.MappingNode:
		return s.entry(key)
	}
	return nil, s.refuse(s.parent.Line, tooClever)
}

// replaced is the text with other bytes in a place.
func (s *splicer) replaced(start, end int, by ...string) []byte {
	return slices.Concat(s.text[:start], []byte(strings.Join(by, "")), s.text[end:])
}

// block is a value over lines, each but the first with a break and spaces before it.
func (s *splicer) block(v any, indent int) string {
	return strings.ReplaceAll(string(marshaled(v, s.compact, false)), "\n", s.lineBreak+strings.Repeat(" ", indent))
}

// entry edits one key of a mapping that is written as a block.
func (s *splicer) entry(key string) ([]byte, error) {
	index := keyOf(s.parent, key)
	indent := s.parent.Content[0].Column - 1
	if index < 0 { // behind the last one
		end := s.endOf(s.parent.Content[len(s.parent.Content)-2:])
		return s.replaced(end, end, s.lineBreak, strings.Repeat(" ", indent), string(marshaled(key, false, false)), ":", s.behindKey(s.value, indent)), nil
	}
	name, value := s.parent.Content[index], s.parent.Content[index+1]
	start, ok := offset(s.text, name.Line, name.Column)
	if !ok {
		return nil, s.refuse(name.Line, tooClever)
	}
	end := s.endOf(s.parent.Content[index : index+2])
	if s.how == put {
		return s.valueOf(name, value, end)
	}
	if s.headed(start) || bytes.HasPrefix(bytes.TrimLeft(s.text[end:], " \t"), []byte("#")) {
		return nil, s.refuse(name.Line, "a comment on it would be lost")
	}
	switch {
	case s.first(start):
		return s.withoutLines(start, end), nil
	case index+2 < len(s.parent.Content): // behind a dash: the next key takes its place
		next, _ := offset(s.text, s.parent.Content[index+2].Line, s.parent.Content[index+2].Column)
		return s.replaced(start, next), nil
	}
	return nil, s.refuse(name.Line, tooClever)
}

// keyOf is the index of a key of a mapping, the last one of the name, or -1.
func keyOf(mapping *yaml.Node, key string) int {
	for i := len(mapping.Content) - 2; i >= 0; i -= 2 {
		if mapping.Content[i].Kind == yaml.ScalarNode && mapping.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// valueOf replaces the value of a key, up to an end.
func (s *splicer) valueOf(name, value *yaml.Node, end int) ([]byte, error) {
	_, colon, ok := written(s.text, name)
	if !ok {
		return nil, s.refuse(name.Line, tooClever)
	}
	colon += len(s.text[colon:]) - len(bytes.TrimLeft(s.text[colon:], " \t"))
	if !bytes.HasPrefix(s.text[colon:], []byte(":")) {
		return nil, s.refuse(name.Line, tooClever)
	}
	colon++
	by := s.behindKey(s.value, name.Column-1)
	if strings.HasPrefix(by, s.lineBreak) && value.Line > name.Line {
		colon = lineEnd(s.text, colon) // with a comment
	}
	return s.replaced(colon, end, by), nil
}

// behindKey is what stands behind the colon of a key that has a value.
func (s *splicer) behindKey(v any, indent int) string {
	switch v := v.(type) {
	case []any:
		if len(v) > 0 && s.compact {
			return s.lineBreak + strings.Repeat(" ", indent) + s.block(v, indent)
		} else if len(v) > 0 {
			break
		}
		return " []"
	case map[string]any:
		if len(v) > 0 {
			break
		}
		return " {}"
	default:
		return " " + s.block(v, indent)
	}
	return s.lineBreak + strings.Repeat(" ", indent+2) + s.block(v, indent+2)
}

// item edits one item of a list that is written as a block.
func (s *splicer) item(i int) ([]byte, error) {
	list := s.parent.Content
	indent := s.parent.Column - 1
	indentation := strings.Repeat(" ", indent)
	dash, ok := s.dash(min(i, len(list)-1))
	if !ok {
		return nil, s.refuse(s.parent.Line, tooClever)
	}
	switch {
	case s.how == insert && i > 0:
		before, ok := s.dash(i - 1)
		if !ok {
			return nil, s.refuse(s.parent.Line, tooClever)
		}
		end := s.end(before, indent+1, list[i-1])
		return s.replaced(end, end, s.lineBreak, indentation, s.block([]any{s.value}, indent)), nil
	case s.how == insert && s.first(dash): // before the comments of the first one
		start := s.behindText(dash)
		return s.replaced(start, start, indentation, s.block([]any{s.value}, indent), s.lineBreak), nil
	case s.how == insert:
		return s.replaced(dash, dash, s.block([]any{s.value}, indent), s.lineBreak, indentation), nil
	}
	end := s.end(dash, indent+1, list[i])
	switch {
	case s.how == put:
		return s.replaced(dash, end, s.block([]any{s.value}, indent)), nil
	case s.headed(dash):
		return nil, s.refuse(list[i].Line, "a comment on it would be lost")
	case s.first(dash):
		return s.withoutLines(dash, end), nil
	case i+1 < len(list):
		if next, ok := s.dash(i + 1); ok {
			return s.replaced(dash, next), nil
		}
	}
	return nil, s.refuse(list[i].Line, tooClever)
}

// dash is where an item of the list has its dash.
func (s *splicer) dash(i int) (int, bool) {
	for line := s.parent.Content[i].Line; line >= s.parent.Line; line-- {
		at, ok := offset(s.text, line, s.parent.Column)
		if ok && at < len(s.text) && s.text[at] == '-' && (line == s.parent.Line || s.first(at)) {
			return at, true
		}
	}
	return 0, false
}

// first says whether there is nothing but spaces before a place in its line.
func (s *splicer) first(at int) bool {
	return len(bytes.TrimLeft(s.text[lineStart(s.text, at):at], " ")) == 0
}

// headed says whether the line above has a comment that starts where this place is: it is about it.
func (s *splicer) headed(at int) bool {
	start := lineStart(s.text, at)
	if start == 0 || !s.first(at) {
		return false
	}
	above := s.text[lineStart(s.text, start-1):start]
	return len(bytes.TrimLeft(above, " "))+at-start == len(above) && bytes.HasPrefix(bytes.TrimLeft(above, " "), []byte("#"))
}

// behindText is the start of the line behind the last text above a place: of the comments and empty lines there, else its own.
func (s *splicer) behindText(at int) int {
	start := lineStart(s.text, at)
	for start > 0 {
		above := lineStart(s.text, start-1)
		if line := bytes.TrimSpace(s.text[above:start]); len(line) > 0 && line[0] != '#' {
			break
		}
		start = above
	}
	return start
}

// withoutLines is the text without the lines of two places.
func (s *splicer) withoutLines(start, end int) []byte {
	start = lineStart(s.text, start)
	if size := lineBreak(s.text[end:]); size > 0 {
		return s.replaced(start, end+size)
	}
	return s.replaced(len(s.text[:start])-breakBefore(s.text, start), end)
}

// breakBefore is the size of the line break in front of a place.
func breakBefore(text []byte, at int) int {
	for size := min(3, at); size > 0; size-- {
		if lineBreak(text[at-size:]) == size {
			return size
		}
	}
	return 0
}

// endOf is where the last line of a key and its value ends.
func (s *splicer) endOf(pair []*yaml.Node) int {
	at, _ := offset(s.text, pair[0].Line, pair[0].Column)
	return s.end(at, pair[0].Column, pair[1])
}

// end is where the last line ends of what starts at a place in a column and has a value: of all lines that are deeper.
func (s *splicer) end(at, column int, value *yaml.Node) int {
	var deepest func(n *yaml.Node)
	deepest = func(n *yaml.Node) {
		start, ok := offset(s.text, n.Line, n.Column)
		if !ok {
			return
		}
		at = max(at, start)
		if n.Style&yaml.FlowStyle != 0 {
			if parts, ok := flowParts(s.text, start); ok {
				at = max(at, parts.end)
			}
			return
		}
		for _, inner := range n.Content {
			deepest(inner)
		}
	}
	deepest(value)
	end := lineEnd(s.text, at)
	for next := end; next < len(s.text); {
		start := next + lineBreak(s.text[next:])
		next = lineEnd(s.text, start)
		line := s.text[start:next]
		trimmed := bytes.TrimLeft(line, " ")
		if len(trimmed) == 0 {
			continue
		}
		if len(line)-len(trimmed) < column { // the next one, or what it is in
			break
		}
		end = next
	}
	return end
}

func lineStart(text []byte, at int) int {
	start := bytes.LastIndexAny(text[:at], "\n\r\u0085\u2028\u2029")
	if start < 0 {
		return 0
	}
	_, size := utf8.DecodeRune(text[start:])
	return start + size
}

func lineEnd(text []byte, at int) int {
	for at < len(text) && lineBreak(text[at:]) == 0 {
		at++
	}
	return at
}

// lineBreakOf is how the lines of a text end.
func lineBreakOf(text []byte) string {
	end := lineEnd(text, 0)
	if size := lineBreak(text[end:]); size > 0 {
		return string(text[end : end+size])
	}
	return "\n"
}

// inFlow edits one key or item of what is written in flow style.
func (s *splicer) inFlow(key string) ([]byte, error) {
	start, ok := offset(s.text, s.parent.Line, s.parent.Column)
	if !ok {
		return nil, s.refuse(s.parent.Line, tooClever)
	}
	parts, ok := flowParts(s.text, start)
	each := 1 // nodes of a part
	index := 0
	if s.parent.Kind == yaml.MappingNode {
		each = 2
		if index = keyOf(s.parent, key); index < 0 {
			index = len(s.parent.Content)
		}
		index /= 2
	} else if n, err := strconv.Atoi(key); err == nil {
		index = n
	}
	count := len(parts.all)
	if !ok || count != len(s.parent.Content)/each || index > count {
		return nil, s.refuse(s.parent.Line, tooClever)
	}
	switch {
	case s.how == remove && index > 0:
		return s.replaced(parts.all[index-1][1], parts.all[index][1]), nil
	case s.how == remove && count > 1:
		return s.replaced(parts.all[0][0], parts.all[1][0]), nil
	case s.how == remove:
		return s.replaced(parts.all[0][0], parts.all[0][1]), nil
	}
	added := s.flow(s.value)
	if s.how == put && index < count {
		value := s.parent.Content[(index+1)*each-1]
		at, ok := offset(s.text, value.Line, value.Column)
		if !ok || at < parts.all[index][0] || at > parts.all[index][1] {
			return nil, s.refuse(value.Line, tooClever)
		}
		return s.replaced(at, parts.all[index][1], added), nil
	}
	if each == 2 {
		added = s.flow(key) + ": " + added
	}
	switch {
	case index > 0:
		end := parts.all[index-1][1]
		return s.replaced(end, end, ", ", added), nil
	case count > 0:
		return s.replaced(parts.all[0][0], parts.all[0][0], added, ", "), nil
	}
	return s.replaced(start+1, start+1, added), nil
}

// flow is a value in one line.
func (s *splicer) flow(v any) string {
	if !isJSON(s.file) {
		inList := marshaled([]any{v}, false, true) // so that a comma in it is quoted
		return string(inList[1 : len(inList)-1])
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v) // into memory
	return strings.TrimSpace(out.String())
}

// parts are where the keys or items of a list or map in flow style are, and where it ends.
type parts struct {
	all [][2]int
	end int
}

// flowParts takes apart the list or map in flow style that starts at a place. One with a comment it does not.
func flowParts(text []byte, start int) (p parts, ok bool) {
	depth, from := 0, start+1
	last := byte(0) // that is no space
	part := func(end int) {
		if inner := bytes.TrimSpace(text[from:end]); len(inner) > 0 {
			from += bytes.Index(text[from:end], inner)
			p.all = append(p.all, [2]int{from, from + len(inner)})
		}
		from = end + 1
	}
	for at := start; at < len(text); at++ {
		c := text[at]
		switch {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			continue
		case c == '#' && strings.IndexByte(" \t\r\n", text[at-1]) >= 0:
			return parts{}, false
		case (c == '"' || c == '\'') && strings.IndexByte("[{,:?", last) >= 0:
			length := closed(text[at:])
			if length == 0 {
				return parts{}, false
			}
			at += length - 1
		case c == '{' || c == '[':
			depth++
		case c == ',' && depth == 1:
			part(at)
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				part(at)
				p.end = at + 1
				return p, true
			}
		}
		last = c
	}
	return parts{}, false
}

// closed is the length of the quoted value that a text starts with, over lines as well; 0 where it does not end.
func closed(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && text[0] == '"':
			i++
		case text[i] != text[0]:
		case text[0] == '\'' && i+1 < len(text) && text[i+1] == '\'':
			i++
		default:
			return i + 1
		}
	}
	return 0
}
