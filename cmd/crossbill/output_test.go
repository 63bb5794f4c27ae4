package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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

// TestWholeFiles: a file appears whole, one that cannot be written is found before, and a link stays a link.
func TestWholeFiles(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := requireWritable("--html", file); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the check left a file: %v", err)
	}
	for _, path := range []string{file, link} {
		if err := writeWhole(path, []byte(path)); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != path {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() {
		t.Errorf("the link became a file: %v", err)
	}
	for path, bad := range map[string]bool{"": false, file: false, os.DevNull: false, dir: true, filepath.Join(dir, "none", "file"): true} {
		if err := requireWritable("--html", path); (err != nil) != bad || err != nil && exitCode(err) != exitBadInput {
			t.Errorf("%q: %v", path, err)
		}
	}
}
