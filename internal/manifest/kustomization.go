package manifest

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// kustomizationFiles are the names that a kustomization's file may have.
var kustomizationFiles = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// addKustomization adds what a folder's kustomization renders, and leaves the files that it names out of the plain files.
// It gives those that are left, which are read as they are.
func (r *Rendered) addKustomization(ctx context.Context, folder folder, allowRemote bool) (beside []string, err error) {
	named, err := checkKustomization(folder.kustomization, allowRemote, map[string]bool{})
	if err != nil {
		return nil, err
	}
	var result resmap.ResMap
	err = alone(ctx, folder.kustomization, func() error {
		result, err = krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder.dir)
		if err != nil {
			return &usererr.Error{Field: folder.kustomization, Problem: withoutPairs(strings.TrimSpace(err.Error())), Fix: "`kubectl kustomize " + folder.dir + "` shows what it renders"}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, resource := range result.Resources() {
		raw, err := resource.MarshalJSON()
		if err != nil {
			return nil, &usererr.Error{Field: folder.kustomization, Problem: err.Error()}
		}
		if err := r.add(Object{From: folder.kustomization}, raw); err != nil {
			return nil, err
		}
	}
	remark := folder.kustomization + " is rendered"
	for _, file := range folder.plain {
		if !named[filepath.Base(file)] {
			beside = append(beside, file)
		}
	}
	if len(beside) > 0 {
		remark += "; what it does not name is read as it is: " + strings.Join(beside, ", ")
	}
	r.Remarks = append(r.Remarks, remark)
	return beside, nil
}

// Kustomize quotes all literals of a generator where one is wrong, and a line of a file of variables
// (sigs.k8s.io/kustomize/api/kv). They may be a Secret's.
var (
	quotedLiterals = regexp.MustCompile(`(?s)literal sources \[.*, expected key=value`)
	quotedLine     = regexp.MustCompile(`(?s)line \[[0-9 ]*\] has invalid utf8 bytes : .*`)
)

// withoutPairs is Kustomize's error without the values of generators.
func withoutPairs(text string) string {
	text = quotedLiterals.ReplaceAllString(text, "one of the literals is not key=value")
	return quotedLine.ReplaceAllString(text, "a line is not UTF-8")
}

// checkKustomization refuses what a kustomization, or one that it is made of, would fetch or run, and gives what it names
// beside it, in whichever field.
func checkKustomization(file string, allowRemote bool, seen map[string]bool) (named map[string]bool, err error) {
	bad := func(problem, fix string) (map[string]bool, error) {
		return nil, &usererr.Error{Field: file, Problem: problem, Fix: fix}
	}
	named = map[string]bool{}
	if seen[file] {
		return named, nil // Kustomize says that it is a cycle
	}
	seen[file] = true
	text, err := os.ReadFile(file)
	if err != nil {
		return bad(err.Error(), "make the file readable")
	}
	var content map[string]any
	if err := yaml.Unmarshal(text, &content); err != nil {
		return bad(plain(err), "")
	}
	for _, field := range []string{"helmCharts", "helmChartInflationGenerator"} {
		if content[field] != nil {
			return bad(field+" would run helm and fetch a chart", "keep the chart in the repository and give its folder as manifests, or name what `helm template` renders among the resources")
		}
	}
	eachText(content, func(text string) {
		if _, path, generated := strings.Cut(text, "="); generated { // configMapGenerator: key=file
			text = path
		}
		named[filepath.Clean(text)] = true
	})
	paths := kustomizationPaths(content)
	for _, field := range []string{"generators", "transformers", "validators"} {
		eachText(content[field], func(text string) { paths = append(paths, pluginPaths(filepath.Dir(file), text)...) })
	}
	for _, path := range paths {
		if isRemote(path) {
			if !allowRemote { // a rollback must not depend on it
				return bad(path+" is fetched from elsewhere", "keep a copy in the repository and name that, or allow it with render.allowRemote")
			}
			continue
		}
		for _, name := range kustomizationFiles {
			inner := filepath.Join(filepath.Dir(file), path, name)
			if _, err := os.Stat(inner); err != nil {
				continue
			}
			if _, err := checkKustomization(inner, allowRemote, seen); err != nil {
				return nil, err
			}
		}
	}
	return named, nil
}

// kustomizationPaths are all paths that a kustomization reads: in fields of paths, and of what has them.
func kustomizationPaths(content map[string]any) (paths []string) {
	for _, field := range []string{"resources", "bases", "components", "crds", "configurations", "generators", "transformers", "validators", "patchesStrategicMerge"} {
		eachText(content[field], func(text string) {
			if !strings.Contains(text, "\n") { // else it is what would be in the file
				paths = append(paths, text)
			}
		})
	}
	for _, field := range []string{"patches", "patchesJson6902", "replacements", "openapi", "configMapGenerator", "secretGenerator"} {
		list, ok := content[field].([]any)
		if !ok {
			list = []any{content[field]}
		}
		for _, entry := range list {
			fields, _ := entry.(map[string]any)
			for _, key := range []string{"path", "files", "envs", "env"} {
				eachText(fields[key], func(text string) {
					if _, path, ok := strings.Cut(text, "="); ok && !isRemote(text) {
						text = path
					}
					paths = append(paths, text)
				})
			}
		}
	}
	return paths
}

// pluginPaths are what a generator or transformer reads, whose configuration is text or in a file.
func pluginPaths(dir, text string) (paths []string) {
	if !strings.Contains(text, "\n") {
		read, err := os.ReadFile(filepath.Join(dir, text))
		if err != nil {
			return nil // a folder, or Kustomize says so
		}
		text = string(read)
	}
	var walk func(value any)
	walk = func(value any) {
		switch v := value.(type) {
		case map[string]any:
			for key, inner := range v {
				if slices.Contains([]string{"path", "paths", "files", "envs", "env"}, key) {
					eachText(inner, func(text string) { paths = append(paths, text) })
				}
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	for _, document := range documentsOf([]byte(text)) {
		var content any
		if yaml.Unmarshal([]byte(document), &content) == nil {
			walk(content)
		}
	}
	return paths
}

// isRemote says whether Kustomize would fetch a path: by HTTP, or as a repository, by running git
// (sigs.k8s.io/kustomize/api/internal: loader.IsRemoteFile, git.NewRepoSpecFromURL).
func isRemote(path string) bool {
	u, err := url.Parse(path)
	lower := strings.ToLower(path)
	return err == nil && slices.Contains([]string{"http", "https"}, u.Scheme) || strings.Contains(lower, "://") || strings.Contains(lower, "@") ||
		strings.HasPrefix(lower, "git::") || strings.HasPrefix(lower, "github.com") || strings.HasPrefix(lower, "www.github.com")
}

// eachText calls do for every text in a value.
func eachText(value any, do func(string)) {
	switch v := value.(type) {
	case map[string]any:
		for _, inner := range v {
			eachText(inner, do)
		}
	case []any:
		for _, inner := range v {
			eachText(inner, do)
		}
	case string:
		do(v)
	}
}
