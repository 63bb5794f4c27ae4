package main

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrint(t *testing.T) {
	v := view{
		data:  map[string]any{"name": "a<b"},
		text:  line("short"),
		wide:  line("longer"),
		names: []string{"release/a", "release/b"},
		more:  map[string]func(io.Writer) error{"markdown": line("# title")},
	}
	for format, want := range map[string]string{
		"text":     "short\n",
		"wide":     "longer\n",
		"name":     "release/a\nrelease/b\n",
		"json":     "{\n  \"schemaVersion\": 1,\n  \"name\": \"a<b\"\n}\n",
		"yaml":     "name: a<b\nschemaVersion: 1\n",
		"markdown": "# title\n",
	} {
		var out bytes.Buffer
		if err := (&outputOptions{format: format}).print(&out, v); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("%s: %s", format, diff)
		}
	}
}

func TestDocument(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{[]int{1, 2}, `{"schemaVersion":1,"items":[1,2]}`},
		{[]int{}, `{"schemaVersion":1,"items":[]}`},
		{[]int(nil), `{"schemaVersion":1,"items":[]}`},
		{struct{}{}, `{"schemaVersion":1}`},
		{struct {
			A int `json:"a"`
		}{7}, `{"schemaVersion":1,"a":7}`},
	} {
		got, err := document(c.value)
		if err != nil || string(got) != c.want {
			t.Errorf("%v: %s, %v; want %s", c.value, got, err, c.want)
		}
	}
	if _, err := document("text"); err == nil {
		t.Error("a text is no object")
	}
}
