package environment

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
	kubernetes "sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

func TestSetScalar(t *testing.T) {
	const image = "registry.example.com/our-org/shop@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for name, test := range map[string]struct {
		text, path, value string
		want              string // "" for an error
	}{
		"plain":                            {text: "a:\n  image: old:1 # the image\n  b: x\n", path: "a image", value: image, want: "a:\n  image: " + image + " # the image\n  b: x\n"},
		"double quotes":                    {text: `image: "old:1"  # c` + "\n", path: "image", value: image, want: `image: "` + image + `"  # c` + "\n"},
		"single quotes":                    {text: `image: 'it''s'` + "\n", path: "image", value: "it's ' new", want: `image: 'it''s '' new'` + "\n"},
		"escapes":                          {text: `image: "a\"\\"` + "\n", path: "image", value: `"\`, want: `image: "\"\\"` + "\n"},
		"flow map":                         {text: "{ a:   {image:   old,   b: 1 } }\n", path: "a image", value: image, want: "{ a:   {image:   " + image + ",   b: 1 } }\n"},
		"flow map with a comma":            {text: "{a: old, b: 1}", path: "a", value: "x, y: 2", want: `{a: "x, y: 2", b: 1}`},
		"flow map, ends in it":             {text: "{a: old, b: 1}", path: "a", value: "x,y", want: `{a: "x,y", b: 1}`},
		"JSON":                             {text: "{\n\t\"a\": {\"image\": \"old\"}\n}\n", path: "a image", value: image, want: "{\n\t\"a\": {\"image\": \"" + image + "\"}\n}\n"},
		"CRLF":                             {text: "a: 1\r\nimage: old\r\nb: 2\r\n", path: "image", value: image, want: "a: 1\r\nimage: " + image + "\r\nb: 2\r\n"},
		"CR":                               {text: "a: 1\rimage: old\rb: 2\r", path: "image", value: "new", want: "a: 1\rimage: new\rb: 2\r"},
		"BOM":                              {text: "\ufeffimage: old\nb: 2\n", path: "image", value: "new", want: "\ufeffimage: new\nb: 2\n"},
		"multi-byte columns":               {text: "{größe: \"日本🎉\", image: old, b: ü}\n", path: "image", value: "new", want: "{größe: \"日本🎉\", image: new, b: ü}\n"},
		"line separators":                  {text: "a: \"x\u2028y\"\nimage: old\n", path: "image", value: "new", want: "a: \"x\u2028y\"\nimage: new\n"},
		"tabs":                             {text: "image:\tv1\t# c\n", path: "image", value: "new", want: "image:\tnew\t# c\n"},
		"no end of line":                   {text: "image: old", path: "image", value: "new", want: "image: new"},
		"a list in compact form":           {text: "c:\n- name: x\n  image: old\n-   image: other\n", path: "c 0 image", value: "new", want: "c:\n- name: x\n  image: new\n-   image: other\n"},
		"the value is its own key":         {text: "old: old\n", path: "old", value: "new", want: "old: new\n"},
		"documents":                        {text: "# first\n---\na: 1\n---\nimage: old\n...\n---\nb: 2\n", path: "image", value: "new", want: "# first\n---\na: 1\n---\nimage: new\n...\n---\nb: 2\n"},
		"a directive":                      {text: "%YAML 1.1\n---\nimage: old\n", path: "image", value: "new", want: "%YAML 1.1\n---\nimage: new\n"},
		"a number stays one":               {text: "weight: 10\n", path: "weight", value: "90", want: "weight: 90\n"},
		"a string stays one":               {text: "tag: v1\n", path: "tag", value: "90", want: "tag: \"90\"\n"},
		"what others take for a boolean":   {text: "tag: v1\n", path: "tag", value: "yes", want: "tag: \"yes\"\n"},
		"null":                             {text: "tag: null\n", path: "tag", value: "true", want: "tag: \"true\"\n"},
		"a colon and a hash":               {text: "a: b\n", path: "a", value: "c: d #e", want: "a: \"c: d #e\"\n"},
		"empty":                            {text: "a: b # c\n", path: "a", value: "", want: "a: \"\" # c\n"},
		"quoted empty":                     {text: "a: \"\"\nb: 1\n", path: "a", value: "x", want: "a: \"x\"\nb: 1\n"},
		"line break":                       {text: "a: b\n", path: "a", value: "c\nd: e", want: "a: \"c\\nd: e\"\n"},
		"the same":                         {text: "a:   'b'   \n", path: "a", value: "b", want: "a:   'b'   \n"},
		"aliases elsewhere":                {text: "x: &x {c: 1}\ny: *x\nimage: old\n", path: "image", value: "new", want: "x: &x {c: 1}\ny: *x\nimage: new\n"},
		"an anchor that nobody uses above": {text: "x: &x\n  image: old\n", path: "x image", value: "new", want: "x: &x\n  image: new\n"},

		"nothing there":             {text: "a: 1\n", path: "image", value: "new"},
		"a key without":             {text: "image:\nb: 1\n", path: "image", value: "new"},
		"a map":                     {text: "image: {a: b}\n", path: "image", value: "new"},
		"an alias":                  {text: "a: &a old\nimage: *a\n", path: "image", value: "new"},
		"an anchor":                 {text: "image: &a old\nb: *a\n", path: "image", value: "new"},
		"in what is aliased":        {text: "a: &a\n  image: old\nb: *a\n", path: "a image", value: "new"},
		"merged":                    {text: "a: &a\n  image: old\nb:\n  <<: *a\n", path: "b image", value: "new"},
		"behind an alias":           {text: "a: &a\n  image: old\nb: *a\n", path: "b image", value: "new"},
		"literal":                   {text: "image: |\n  old\n", path: "image", value: "new"},
		"folded":                    {text: "image: >-\n  old\n", path: "image", value: "new"},
		"a plain one in two lines":  {text: "image: old\n  and more\nb: 1\n", path: "image", value: "new"},
		"a quoted one in two lines": {text: "image: \"old\n  and more\"\nb: 1\n", path: "image", value: "new"},
		"a tag":                     {text: "image: !!str old\n", path: "image", value: "new"},
		"two documents":             {text: "image: old\n---\nimage: old\n", path: "image", value: "new"},
		"a template":                {text: "image: {{ .Values.image }}\n", path: "image", value: "new"},
		"no YAML":                   {text: "a: [\n", path: "image", value: "new"},
		"UTF-16":                    {text: "\xff\xfei\x00m\x00:\x00", path: "im", value: "new"},
		"no UTF-8":                  {text: "image: old\nb: \xff\n", path: "image", value: "new"},
		"no UTF-8 to write":         {text: "image: old\n", path: "image", value: "\xff"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := SetScalar("file.yaml", []byte(test.text), At(strings.Fields(test.path)...), test.value)
			if wrong, ok := errors.AsType[*usererr.Error](err); err != nil && (!ok || !strings.HasPrefix(wrong.Field, "file.yaml")) {
				t.Errorf("got %v", err)
			}
			if string(got) != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got  %q, %v\nwant %q", got, err, test.want)
			}
		})
	}
}

// spliced checks a splice against a reader of its own, Kubernetes': what it decodes differs in the one value, and all bytes
// but the value's are the same.
func spliced(t interface{ Fatalf(string, ...any) }, text, edited []byte, path []string, value string) {
	before, after := 0, 0
	for before < len(text) && before < len(edited) && text[before] == edited[before] {
		before++
	}
	for after < len(text)-before && after < len(edited)-before && text[len(text)-1-after] == edited[len(edited)-1-after] {
		after++
	}
	if removed := text[before : len(text)-after]; bytes.ContainsAny(removed, "\n\r") {
		t.Fatalf("more than one line is gone: %q", removed)
	}
	var a, b any
	if yaml.Unmarshal(text, &a) != nil { // such as a key that is there twice: no splice made it so
		return
	}
	if err := yaml.Unmarshal(edited, &b); err != nil {
		t.Fatalf("%q cannot be decoded: %v", edited, err)
	}
	var at func(value any, path []string) any
	at = func(value any, path []string) any {
		if len(path) == 0 {
			return value
		}
		switch v := value.(type) {
		case map[string]any:
			return at(v[path[0]], path[1:])
		case map[any]any:
			return at(v[path[0]], path[1:])
		case []any:
			var i int
			if _, err := fmt.Sscan(path[0], &i); err == nil && i >= 0 && i < len(v) {
				return at(v[i], path[1:])
			}
		}
		return nil
	}
	old, now := at(a, path), at(b, path)
	if fmt.Sprint(now) != value && fmt.Sprintf("%T", now) == "string" {
		t.Fatalf("%q has %q at %q, want %q", edited, now, path, value)
	}
	// The rest: put a mark in both places and compare.
	mark := func(text []byte, from any) string {
		var all any
		if yaml.Unmarshal(text, &all) != nil {
			return ""
		}
		var set func(v any, path []string) any
		set = func(v any, path []string) any {
			if len(path) == 0 {
				return "MARK"
			}
			switch v := v.(type) {
			case map[string]any:
				v[path[0]] = set(v[path[0]], path[1:])
			case map[any]any:
				v[path[0]] = set(v[path[0]], path[1:])
			case []any:
				var i int
				if _, err := fmt.Sscan(path[0], &i); err == nil && i >= 0 && i < len(v) {
					v[i] = set(v[i], path[1:])
				}
			}
			return v
		}
		return fmt.Sprintf("%#v", set(all, path))
	}
	if x, y := mark(text, old), mark(edited, now); x != y && !strings.Contains(x, "0x") && !strings.Contains(x, "NaN") {
		t.Fatalf("something else changed:\n%q\n%q\n%s\n%s", text, edited, x, y)
	}
}

// TestSpliceProperty: over generated files with all that people write, a splice changes its value and nothing else.
func TestSpliceProperty(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		words := []string{"a", "old:1", "x y", "größe", "日本🎉", "it's", `say "x"`, "1", "1.5", "yes", "null", "~", "# no comment", "a #b", "-", "- a", "a: b", "{", "*x", "&y", "", " lead", "trail ", "a\tb", "a\\b", "!t", "%d", "@r", "0x1F", "1_000", "2001-01-01", "=", "<<", "?", "|", ">", "x,y", "a]b", "a}b"}
		nl := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "line break")
		write := func(value string) string {
			style := rapid.SampledFrom([]yaml.Style{0, yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle, yaml.LiteralStyle}).Draw(t, "style")
			written, err := yaml.Marshal(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: style, Value: value})
			if err != nil {
				t.Fatalf("%v", err)
			}
			return strings.ReplaceAll(strings.TrimSuffix(string(written), "\n"), "\n", nl+"      ")
		}
		space := func() string { return strings.Repeat(" ", rapid.IntRange(1, 4).Draw(t, "spaces")) }
		comment := func() string {
			return rapid.SampledFrom([]string{"", "", " # image: old", "   #", "\t# tab", " # ü"}).Draw(t, "comment")
		}
		var text strings.Builder
		text.WriteString(rapid.SampledFrom([]string{"", "\ufeff", "---" + nl, "# top" + nl + nl, "%YAML 1.1" + nl + "---" + nl}).Draw(t, "start"))
		keys := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "image", "größe", "k1", "x-y", "\"q k\"", "日本"}), 1, 5, rapid.ID).Draw(t, "keys")
		chosen := rapid.IntRange(0, len(keys)-1).Draw(t, "chosen")
		var path []string
		for i, key := range keys {
			value := func() string { return write(rapid.SampledFrom(words).Draw(t, "value")) }
			name := strings.Trim(key, `"`)
			mine := []string{name}
			text.WriteString(rapid.SampledFrom([]string{"", "", nl, "# comment" + nl}).Draw(t, "before"))
			switch rapid.IntRange(0, 4).Draw(t, "shape") {
			case 0:
				text.WriteString(key + ":" + space() + value() + comment() + nl)
			case 1:
				text.WriteString(key + ": {b:" + space() + write("plain") + "," + space() + "image:" + space() + rapid.SampledFrom([]string{"old", `"old"`, "'o''ld'", "1", "ü"}).Draw(t, "flow") + space() + "}" + comment() + nl)
				mine = append(mine, "image")
			case 2:
				text.WriteString(key + ":" + comment() + nl + "  inner:" + space() + value() + comment() + nl + "  other: 1" + nl)
				mine = append(mine, "inner")
			case 3:
				text.WriteString(key + ":" + nl + "- name: n" + nl + "  image:" + space() + value() + comment() + nl + "-   image: z" + nl)
				mine = append(mine, "0", "image")
			default:
				text.WriteString(key + ": &anchor" + fmt.Sprint(i) + " {c: 1}" + nl + "alias" + fmt.Sprint(i) + ": *anchor" + fmt.Sprint(i) + nl)
				mine = append(mine, "c")
			}
			if i == chosen {
				path = mine
			}
		}
		if rapid.Bool().Draw(t, "no end") {
			trimmed := strings.TrimSuffix(text.String(), nl)
			text.Reset()
			text.WriteString(trimmed)
		}
		value := rapid.OneOf(rapid.SampledFrom(words), rapid.String(), rapid.Just("registry.example.com/a/b@sha256:00")).Draw(t, "new")
		file := []byte(text.String())
		edited, err := SetScalar("f", file, At(path...), value)
		if _, ok := errors.AsType[*usererr.Error](err); err != nil && !ok {
			t.Fatalf("%v", err)
		}
		if err != nil {
			return
		}
		accepted++
		spliced(t, file, edited, path, value)
		again, err := SetScalar("f", edited, At(path...), value)
		if err != nil || !bytes.Equal(again, edited) {
			t.Fatalf("again: %q, %v", again, err)
		}
		var decoded any
		if kubernetes.Unmarshal(bytes.TrimPrefix(edited, bom), &decoded) != nil && kubernetes.Unmarshal(bytes.TrimPrefix(file, bom), &decoded) == nil {
			t.Fatalf("Kubernetes could read %q, and cannot read %q", file, edited)
		}
	})
	if accepted == 0 {
		t.Error("no file could be edited")
	}
	t.Log(accepted, "edited")
}

// FuzzSetScalar: whatever the file, a splice is right or refused.
func FuzzSetScalar(f *testing.F) {
	for _, text := range []string{"image: old\n", "\ufeffa: {image: 'x'}\r\n", "a: &a\n  image: old\nb: *a\n", "image: |\n  x\n", "- image: \"\\u00e9\"\n- b\n", "image: old\n---\nb: 1\n", "? image\n: old\n", "image: a\u0085b: c\n", "image: !!int 1\n", "image: a\n  b\n", "\"image\" : 'a''b'#\n", "{image,b}", "[image: old]", "image: \"a\\\n b\"\n"} {
		for _, value := range []string{"new", "a: b", "'", "\"\\", "\n", "", "1", "\u2028", "#"} {
			f.Add(text, value)
		}
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		for _, path := range [][]string{{"image"}, {"a", "image"}, {"0", "image"}} {
			edited, err := SetScalar("f", []byte(text), At(path...), value)
			if err != nil {
				if _, ok := errors.AsType[*usererr.Error](err); !ok {
					t.Fatalf("%v", err)
				}
				continue
			}
			if all, _ := documents([]byte(text)); len(all) == 1 {
				spliced(t, []byte(text), edited, path, value)
			}
			again, err := SetScalar("f", edited, At(path...), value)
			if err != nil || !bytes.Equal(again, edited) {
				t.Fatalf("%q, again: %q, %v", edited, again, err)
			}
		}
	})
}
