package scaffold

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/renameio/v2"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Answers are what the files are made of.
type Answers struct {
	App        string
	Image      string // repository of the app's images
	Manifests  string
	AppDir     string // of the app's source; "" for the workflow's default
	Assets     string // prefix of the paths of files that are named by their content, which have browsers stay on a version; "" for none
	Namespace  string
	Context    string // of the kubeconfig; "" for its current one
	Prometheus string
	GitLabURL  string // "" for gitlab.com
	Project    string // in GitLab
	Repository string // in GitHub: owner/name; "" leaves it out
	Branch     string // of GitHub's repository, whose commits are released; "" for main
	Ref        string // branch of GitLab's project, whose pipelines release; "" for main

	Component      string // what .gitlab-ci.yml includes: a component, an https address, or a path in the project
	CrossbillImage string // by digest; "" has the jobs run in Dagger's engine
	Module         string // of Dagger, then
	Workflow       string // what release.yml calls
	Note           string // after it, as a comment: the version that its commit is

	Previews    string // GitLab project that runs previews of pull requests; "" for none
	PreviewsDir string // folder of its repository; "" leaves its files out
}

// File is one file, as it is to be.
type File struct {
	Path    string
	Text    string
	Before  string // as it is
	Exists  bool
	Warning string // why it is left as it is, though the answers say something else

	settings bool // a crossbill.yaml of releases
}

// Unchanged says whether the file is already as it is to be.
func (f *File) Unchanged() bool { return f.Exists && f.Before == f.Text }

// Diff is what writing the file changes.
func (f *File) Diff() string {
	before := f.Path
	if !f.Exists {
		before = os.DevNull
	}
	return udiff.Unified(before, f.Path, f.Before, f.Text)
}

// Write writes the file whole, or not at all.
func (f *File) Write() error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(f.Path, []byte(f.Text), 0o644)
}

// Files are those of the two repositories, which may be one. Errors are *usererr.Error, by the options' names.
func Files(a Answers, gitlabDir, githubDir string) ([]*File, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	settings := a.settings()
	if _, err := config.Parse(config.FileName, []byte(settings)); err != nil {
		return nil, err
	}
	files := []*File{{Path: filepath.Join(githubDir, config.FileName), Text: settings, settings: true}}
	if filepath.Clean(gitlabDir) != filepath.Clean(githubDir) {
		files = append(files, &File{Path: filepath.Join(gitlabDir, config.FileName), Text: settings, settings: true})
	}
	files = append(files,
		&File{Path: filepath.Join(gitlabDir, ".gitlab-ci.yml"), Text: a.pipeline()},
		&File{Path: filepath.Join(githubDir, ".github", "workflows", "release.yml"), Text: a.workflow()},
	)
	if a.Previews != "" {
		more, err := a.previewFiles(githubDir)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	for _, f := range files {
		text, err := os.ReadFile(f.Path)
		switch {
		case err == nil:
			f.Before, f.Exists = string(text), true
			if f.settings {
				if err := a.keep(f); err != nil {
					return nil, err
				}
			}
		case !errors.Is(err, fs.ErrNotExist):
			return nil, &usererr.Error{Field: f.Path, Problem: err.Error(), Fix: "make it readable"}
		}
	}
	return files, nil
}

// branch is a name that both files and the component take as it is: GitHub reads a pattern.
var branch = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)

var repository = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`)

// check finds what is missing, or would not be what it says in a file that is not read here. Of the repository it makes the one form.
func (a *Answers) check() error {
	for _, missing := range []struct{ field, value, fix string }{
		{"app", a.App, "give the name of the app"},
		{"--image", a.Image, "give the repository of the app's images, for example registry.example.com/our-org/shop"},
		{"gitlab.project", a.Project, "give the GitLab project that deploys: group/project"},
	} {
		if missing.value == "" {
			return &usererr.Error{Field: missing.field, Problem: "is missing", Fix: missing.fix}
		}
	}
	image, err := name.NewRepository(a.Image, name.StrictValidation)
	if err != nil || !repository.MatchString(a.Image) {
		return &usererr.Error{Field: "--image", Problem: fmt.Sprintf("%q is not a repository with its registry", a.Image), Fix: "give registry/repository without a tag, for example registry.example.com/our-org/shop, or docker.io/our-org/shop"}
	}
	a.Image = image.Name() // as the commands print it, which the pipelines compare: index.docker.io for docker.io
	for _, of := range []struct{ field, branch string }{{"--github-dir", a.Branch}, {"--gitlab-dir", a.Ref}} {
		if of.branch != "" && !branch.MatchString(of.branch) {
			return &usererr.Error{Field: of.field, Problem: fmt.Sprintf("its branch %q has characters that a pipeline file reads as others", of.branch), Fix: "release from a branch with letters, digits, and . _ / - in its name"}
		}
	}
	if a.CrossbillImage != "" {
		if _, err := release.ParseImage("--crossbill-image", a.CrossbillImage); err != nil {
			return err
		}
	}
	for field, value := range map[string]string{"--component": a.Component, "--workflow": a.Workflow, "--dagger-module": a.Module} {
		if value == "" && (field != "--dagger-module" || a.CrossbillImage == "") {
			return &usererr.Error{Field: field, Problem: "is missing, and this build of crossbill knows no version of its own", Fix: "give what the file is to refer to; see `crossbill init --help`"}
		}
		if strings.ContainsAny(value, " \t\r\n\"'{}[],") {
			return &usererr.Error{Field: field, Problem: fmt.Sprintf("%q is not a reference", value), Fix: "give it without spaces, quotes, commas and brackets"}
		}
	}
	return nil
}

// scalar is a text as YAML, in quotes where it would be something else.
func scalar(text string) string {
	out, err := yaml.Marshal(text)
	if err != nil {
		return fmt.Sprintf("%q", text)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// ref is the branch of GitLab's project where it has to be named: "" for main, which everything has as its default.
func (a *Answers) ref() string {
	if a.Ref == "main" {
		return ""
	}
	return a.Ref
}

// inputBranch is the component's input of that branch.
func (a *Answers) inputBranch() string {
	if ref := a.ref(); ref != "" {
		return "branch: " + scalar(ref) + ", "
	}
	return ""
}

// settings is crossbill.yaml.
func (a *Answers) settings() string {
	var b bytes.Buffer
	section := func(name string, lines ...string) {
		written := false
		for i := 0; i+1 < len(lines); i += 2 {
			if lines[i+1] == "" {
				continue
			}
			if !written {
				fmt.Fprintf(&b, "%s:\n", name)
				written = true
			}
			fmt.Fprintf(&b, "  %s: %s\n", lines[i], scalar(lines[i+1]))
		}
	}
	fmt.Fprintf(&b, "app: %s\nmanifests: %s\n", scalar(a.App), scalar(a.Manifests))
	section("cluster", "context", a.Context, "namespace", a.Namespace)
	section("prometheus", "url", a.Prometheus)
	ref := a.ref()
	section("gitlab", "url", a.GitLabURL, "project", a.Project, "ref", ref)
	if a.Project != "" { // that of previews has no gate
		section("approval", "issuer", cmp.Or(a.GitLabURL, "https://gitlab.com"), "project", a.Project, "ref", ref, "environment", "production/"+a.App)
	}
	if a.Assets != "" {
		b.WriteString("canary:\n  # A page of one version finds no script in the other: such answers (404) would end a good release. Needs cookies.\n  sticky: true\n")
		if a.Assets != "/build/" { // the default
			fmt.Fprintf(&b, "  stickyAssets: %s\n", scalar(a.Assets))
		}
	}
	if a.Repository != "" {
		fmt.Fprintf(&b, "notify:\n  github:\n    repository: %s\n", scalar(a.Repository))
	}
	return b.String()
}

// keep has a crossbill.yaml that exists keep what the answers do not change: sections and comments of people's own, and values
// that they have changed.
func (a *Answers) keep(f *File) error {
	said, err := config.Parse(f.Path, []byte(f.Before))
	if err != nil {
		return nil // it is another file: whether it is written over is asked
	}
	before := *a // what made the file
	before.App, before.Context, before.Namespace, before.Prometheus = said.App, said.Cluster.Context, said.Cluster.Namespace, said.Prometheus.URL
	before.GitLabURL, before.Project, before.Ref, before.Repository = said.GitLab.URL, said.GitLab.Project, said.GitLab.Ref, said.Notify.GitHub.Repository
	manifests := cmp.Or(said.Manifests, filepath.Join(filepath.Dir(f.Path), "k8s"))
	if below, err := filepath.Rel(filepath.Dir(f.Path), manifests); manifests != a.Manifests && (err != nil || filepath.ToSlash(below) != filepath.ToSlash(filepath.Clean(a.Manifests))) {
		before.Manifests = manifests
	}
	var fields map[string]any
	if yaml.Unmarshal([]byte(f.Before), &fields) != nil || len(fields) == 0 {
		return nil
	}
	edited, err := environment.Edit(f.Path, []byte(f.Before), func(values map[string]any) { merge(values, before.values(), a.values()) })
	if bad, ok := errors.AsType[*usererr.Error](err); ok {
		f.Text, f.Warning = f.Before, bad.Error()
		return nil
	}
	if err == nil {
		_, err = config.Parse(f.Path, edited)
	}
	if err != nil {
		return err
	}
	f.Text = string(edited)
	return nil
}

// values are those of crossbill.yaml.
func (a *Answers) values() (values map[string]any) {
	if err := yaml.Unmarshal([]byte(a.settings()), &values); err != nil {
		panic(err) // it was parsed before
	}
	return values
}

// merge changes in values what differs between two others.
func merge(values, was, is map[string]any) {
	for key, value := range is {
		section, isSection := value.(map[string]any)
		have, _ := values[key].(map[string]any)
		old, _ := was[key].(map[string]any)
		switch {
		case reflect.DeepEqual(was[key], value):
		case isSection && have != nil:
			merge(have, old, section)
		case isSection && old != nil: // somebody has removed the section
		default:
			values[key] = value
		}
	}
}

// pipeline is .gitlab-ci.yml: the inputs of a release, and the component that they go to. They are in quotes: GitLab reads a value
// as YAML after it has put it in its place.
func (a *Answers) pipeline() string {
	bundle := strings.ReplaceAll("^("+regexp.QuoteMeta(a.Image)+"@sha256:[0-9a-f]{64})?$", "'", "''")
	engine := "crossbill_image: " + a.CrossbillImage
	if a.CrossbillImage == "" {
		engine = "engine: dagger, dagger_module: " + a.Module
	}
	return fmt.Sprintf(`spec:
  inputs:
    app: {default: "", options: ["", %s]}
    bundle: {default: "", regex: '%s'}
    release_id: {default: "", regex: '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$'}
    commit: {default: "", regex: '^([0-9a-f]{7,64})?$'}
    source_url: {default: "", regex: '^(https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._/-]*)?)?$'}
    again: {default: "", options: ["", "yes"]}
---
include:
  - %s: %s
    inputs:
      {app: "$[[ inputs.app ]]", bundle: "$[[ inputs.bundle ]]", release_id: "$[[ inputs.release_id ]]",
      commit: "$[[ inputs.commit ]]", source_url: "$[[ inputs.source_url ]]", again: "$[[ inputs.again ]]",
      %s%s}
`, scalar(a.App), bundle, a.includeKind(), a.Component, a.inputBranch(), engine)
}

// includeKind is the keyword of the component's include.
func (a *Answers) includeKind() string {
	switch {
	case strings.HasPrefix(a.Component, "https://"), strings.HasPrefix(a.Component, "http://"):
		return "remote"
	case strings.HasPrefix(a.Component, "/"):
		return "local"
	}
	return "component"
}

// workflow is release.yml. The secrets of its environments reach what it calls only if they are passed on.
func (a *Answers) workflow() string {
	with := "image: " + scalar(a.Image)
	if a.AppDir != "" && a.AppDir != "app" {
		with += ", app_dir: " + scalar(a.AppDir)
	}
	if a.Manifests != "" && a.Manifests != "k8s" {
		with += ", manifests: " + scalar(a.Manifests)
	}
	return fmt.Sprintf(`on: {push: {branches: [%s]}}
jobs:
  release:
    uses: %s%s
    permissions: {contents: read, id-token: write, attestations: write, deployments: write}
    secrets: inherit
    with: {%s} # attest: false, in a private or internal repository without GitHub Enterprise Cloud
`, scalar(cmp.Or(a.Branch, "main")), a.Workflow, cmp.Or(a.Note, ""), with)
}
