// Package templates is what others include: the GitLab CI/CD components release and guard, in the version of this build.
package templates

import "embed"

// Files has each component as NAME/template.yml.
//
//go:embed release/template.yml guard/template.yml
var Files embed.FS
