package pipelinefile

import (
	"errors"
	"os"
	"path/filepath"
)

// InRepository finds local files in the folder of a repository, and no others.
func InRepository(root string) Finder {
	return func(include Include) (string, []byte, error) {
		if include.Kind != "local" {
			return "", nil, errors.New("it is in another project")
		}
		if !filepath.IsLocal(include.Address) {
			return "", nil, errors.New("it is not in the repository")
		}
		name := filepath.Join(root, include.Address)
		text, err := os.ReadFile(name)
		return name, text, err
	}
}
