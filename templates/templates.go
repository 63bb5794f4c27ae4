// Package templates is what others include: the GitLab CI/CD components release, guard, and preview, in the version of this build.
package templates

import (
	"embed"
	"path"
	"strings"
)

// Files has each component as NAME/template.yml.
//
//go:embed release/template.yml guard/template.yml preview/template.yml
var Files embed.FS

// Component is the text of the component with the name at the end of an address, HOST/GROUP/PROJECT/NAME@VERSION, and the project
// and the version of the address. Errors: *fs.PathError for a name that there is none of.
func Component(address string) (project, version string, text []byte, err error) {
	where, version, _ := strings.Cut(address, "@")
	text, err = Files.ReadFile(path.Base(where) + "/template.yml")
	return path.Dir(where), version, text, err
}
