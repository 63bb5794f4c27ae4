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
	deeper        []string // folders in it
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
			if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") { // a link may lead to where it is
				found.deeper = append(found.deeper, path)
			}
		case slices.Contains(kustomizationFiles, entry.Name()):
			if found.kustomization != "" {
				return found, &usererr.Error{Field: path, Problem: "there is a " + filepath.Base(found.kustomization) + " too", Fix: "keep one of them"}
			}
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

// addFolder adds what a folder comes to: its chart, its kustomization, its files.
func (r *Rendered) addFolder(ctx context.Context, source Source) error {
	folder, err := look(source.Path)
	switch {
	case err != nil:
		return err
	case folder.chart && folder.kustomization != "":
		return &usererr.Error{Field: folder.dir, Problem: "it is a Helm chart and a kustomization", Fix: "give a folder that is one of them"}
	case folder.chart:
		return r.addChart(ctx, source)
	case folder.kustomization != "":
		if folder.plain, err = r.addKustomization(ctx, folder, source.AllowRemote); err != nil {
			return err
		}
	}
	if err := r.addFiles(folder); err != nil {
		return err
	}
	if source.Subfolders && folder.kustomization == "" {
		return r.addDeeper(folder)
	}
	if with := withManifests(folder.deeper); len(with) > 0 {
		r.advice = "add one, or give the folder that has them: folders inside it (" + strings.Join(with, ", ") + ") are not read without render.subfolders"
	}
	return nil
}

// addFiles adds the plain files of a folder, in the order of their names.
func (r *Rendered) addFiles(folder folder) error {
	for _, file := range folder.plain {
		if err := r.addFile(file); err != nil {
			return err
		}
	}
	return nil
}

// addDeeper adds the files of the folders in a folder, in the order of their names.
func (r *Rendered) addDeeper(folder folder) error {
	for _, dir := range folder.deeper {
		inside, err := look(dir)
		if err != nil {
			return err
		}
		if what := map[bool]string{true: "Helm chart", false: "kustomization"}[inside.chart]; inside.chart || inside.kustomization != "" {
			return &usererr.Error{Field: dir, Problem: "it is a " + what + " among folders of plain files", Fix: "give that folder as manifests, or leave render.subfolders out"}
		}
		if err := r.addFiles(inside); err != nil {
			return err
		}
		if err := r.addDeeper(inside); err != nil {
			return err
		}
	}
	return nil
}

// withManifests are the names of the folders that have files in which there may be manifests.
func withManifests(folders []string) (names []string) {
	for _, dir := range folders {
		if inside, _ := filepath.Glob(filepath.Join(dir, "*.y*ml")); len(inside) > 0 {
			names = append(names, filepath.Base(dir))
		}
	}
	return names
}
