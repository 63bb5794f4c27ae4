package manifest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/our-org/crossbill/internal/usererr"
)

// folder is what a folder of manifests has.
type folder struct {
	dir           string
	kustomization string   // its file; "" for none
	plain         []string // files that are read as they are
	deeper        []string // folders in it that hold manifests: they are not read
	chart         bool     // it is a Helm chart
}

func look(dir string) (folder, error) {
	found := folder{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return found, &usererr.Error{Field: "manifests", Problem: err.Error(), Fix: "give the folder with the app's Kubernetes manifests"}
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		info, err := os.Stat(path) // follows links: a mounted ConfigMap is made of them
		switch {
		case err != nil && strings.HasPrefix(entry.Name(), "."): // an editor's lock leads nowhere
		case err != nil:
			return found, &usererr.Error{Field: path, Problem: err.Error(), Fix: "remove the file or make it readable"}
		case info.IsDir():
			if inside, _ := filepath.Glob(filepath.Join(path, "*.y*ml")); len(inside) > 0 {
				found.deeper = append(found.deeper, entry.Name())
			}
		case slices.Contains([]string{"kustomization.yaml", "kustomization.yml", "Kustomization"}, entry.Name()):
			found.kustomization = path
		case entry.Name() == "Chart.yaml":
			found.chart = true
		case slices.Contains([]string{configFile, SLOFile, TrustFile}, entry.Name()):
		case slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))):
			found.plain = append(found.plain, path)
		}
	}
	return found, nil
}

// addFolder adds what a folder has, in the order of the files' names. What its kustomization names is rendered first.
func (r *Rendered) addFolder(_ context.Context, source Source) error {
	folder, err := look(source.Path)
	if err != nil {
		return err
	}
	if folder.kustomization != "" {
		if folder.plain, err = r.addKustomization(folder); err != nil {
			return err
		}
	}
	for _, file := range folder.plain {
		text, err := os.ReadFile(file)
		if err != nil {
			return &usererr.Error{Field: file, Problem: err.Error(), Fix: "make the file readable"}
		}
		if err := r.addText(file, text, true); err != nil {
			return err
		}
	}
	switch {
	case folder.chart:
		r.advice = "it is a Helm chart: render it with `helm template` into a folder, and give that"
	case len(folder.deeper) > 0:
		r.advice = "add one, or give the folder that has them: folders inside it (" + strings.Join(folder.deeper, ", ") + ") are not read"
	}
	return nil
}
