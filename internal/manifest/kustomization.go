package manifest

import (
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// addKustomization adds what a folder's kustomization renders, and leaves the files that it names out of
// the plain files. It gives those that are left, which are read as they are.
func (r *Rendered) addKustomization(folder folder) (beside []string, err error) {
	bad := func(err error, fix string) ([]string, error) {
		return nil, &usererr.Error{Field: folder.kustomization, Problem: strings.TrimSpace(err.Error()), Fix: fix}
	}
	text, err := os.ReadFile(folder.kustomization)
	if err != nil {
		return bad(err, "make the file readable")
	}
	named, remote, err := namedBy(text)
	if err != nil {
		return bad(err, "")
	}
	if remote != "" { // a rollback must not depend on it
		return nil, &usererr.Error{Field: folder.kustomization, Problem: remote + " is fetched from elsewhere", Fix: "keep a copy in the repository, and name that"}
	}
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder.dir)
	if err != nil {
		return bad(err, "`kubectl kustomize "+folder.dir+"` shows what it renders")
	}
	for _, resource := range rendered.Resources() {
		raw, err := resource.MarshalJSON()
		if err != nil {
			return bad(err, "")
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

// namedBy are the files beside a kustomization that it names, in whichever field, and something that it fetches.
func namedBy(text []byte) (named map[string]bool, remote string, err error) {
	var content any
	if err := yaml.Unmarshal(text, &content); err != nil {
		return nil, "", err
	}
	named = map[string]bool{}
	var walk func(value any)
	walk = func(value any) {
		switch v := value.(type) {
		case map[string]any:
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		case string:
			_, path, generated := strings.Cut(v, "=") // configMapGenerator: key=file
			if !generated {
				path = v
			}
			named[filepath.Clean(path)] = true
		}
	}
	walk(content)
	fields, _ := content.(map[string]any)
	for _, field := range []string{"resources", "bases", "components"} {
		list, _ := fields[field].([]any)
		for _, entry := range list {
			if at, ok := entry.(string); ok && (strings.Contains(at, "://") || strings.HasPrefix(at, "git@") || strings.HasPrefix(at, "github.com/") || strings.Contains(at, "?ref=")) {
				remote = at
			}
		}
	}
	return named, remote, nil
}
