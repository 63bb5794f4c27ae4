package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"path/filepath"

	"github.com/our-org/crossbill/rollout"
)

//go:embed timeline.html
var page string

// WriteHTML writes a timeline as one file that needs no network. The file appears whole or not at
// all.
func WriteHTML(file string, status *rollout.Status, entries []Entry) error {
	t, err := template.New("timeline").Funcs(template.FuncMap{"short": short}).Parse(page)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, map[string]any{"Status": status, "Entries": entries}); err != nil {
		return err
	}
	partial, err := os.CreateTemp(filepath.Dir(file), ".report-*")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	defer os.Remove(partial.Name())
	_, err = partial.Write(text.Bytes())
	if closing := partial.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Chmod(partial.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(partial.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
