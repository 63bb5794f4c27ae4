package scaffold

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/rhysd/actionlint"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/pipelinefile"
	"github.com/our-org/crossbill/templates"
)

// TestPreviewFiles: what init writes for previews is valid, refers to the version that releases do, and has no finding of lint; the
// policy admits what that version's workflow has built for pull requests of the repository.
func TestPreviewFiles(t *testing.T) {
	a := answers()
	a.Previews, a.PreviewsDir, a.Ref = "our-org/previews", t.TempDir(), "master"
	if _, err := git.PlainInit(a.PreviewsDir, false); err != nil { // on master, too
		t.Fatal(err)
	}
	github := t.TempDir()
	files, err := Files(a, t.TempDir(), github)
	if err != nil {
		t.Fatal(err)
	}
	byPath := map[string]string{}
	for _, f := range files {
		byPath[f.Path] = f.Text
	}
	linter, err := actionlint.NewLinter(os.Stderr, &actionlint.LinterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, called := range map[string]string{"pull-request.yml": "preview-image.yml", "preview.yml": "preview-handoff.yml"} {
		text := byPath[filepath.Join(github, ".github", "workflows", name)]
		problems, err := linter.Lint(".github/workflows/"+name, []byte(text), nil)
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v %v", name, problems, err)
		}
		for _, want := range []string{strings.Replace(a.Workflow, "deliver.yml", called, 1) + a.Note + "\n", "image: " + image + "-previews"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", name, want, text)
			}
		}
	}
	pipeline, err := pipelinefile.ParseIncluding([]byte(byPath[filepath.Join(a.PreviewsDir, ".gitlab-ci.yml")]), func(i pipelinefile.Include) (string, []byte, error) {
		if i.Address != "$CI_SERVER_FQDN/our-org/crossbill/preview@1.0.0" {
			t.Errorf("it includes %s", i.Address)
		}
		_, _, text, err := templates.Component(i.Address)
		return i.Address, text, err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range pipelinefile.Check(pipeline, pipelinefile.Options{}) {
		t.Error(finding)
	}
	if text := byPath[filepath.Join(a.PreviewsDir, ".gitlab-ci.yml")]; !strings.Contains(text, "branch: master, ") {
		t.Errorf("no branch in\n%s", text)
	}
	parsed, err := config.Parse(config.FileName, []byte(byPath[filepath.Join(a.PreviewsDir, config.FileName)]))
	if err != nil {
		t.Fatal(err)
	}
	policy := parsed.Preview.ImagePolicy
	want := []string{"shop", "", "https://github.com/our-org/shop", "refs/pull/*/merge", `https://github\.com/our-org/crossbill/\.github/workflows/preview-image\.yml@` + strings.Repeat("0a", 20)}
	if diff := cmp.Diff(want, []string{parsed.App, parsed.GitLab.Project, policy.Repository, policy.Refs[0], policy.Identities[0].SubjectPattern}); diff != "" {
		t.Errorf("crossbill.yaml (-want +got):\n%s", diff)
	}
}

// TestNoPreviewFiles: what could not work, or would let previews release, is refused by the name of its option.
func TestNoPreviewFiles(t *testing.T) {
	onMaster := func(a *Answers) {
		if _, err := git.PlainInit(a.PreviewsDir, false); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(*Answers)
		field  string
	}{
		"the project that releases": {func(a *Answers) { a.Previews = a.Project }, "--previews: "},
		"no project":                {func(a *Answers) { a.Previews = "previews" }, "--previews: "},
		"a project with a bracket":  {func(a *Answers) { a.Previews = "a/b}" }, "--previews: "},
		"another workflow":          {func(a *Answers) { a.Workflow = "./.github/workflows/own.yml" }, "--workflow: "},
		"no image of the command":   {func(a *Answers) { a.CrossbillImage, a.Module = "", "." }, "--crossbill-image: "},
		"another branch":            {onMaster, "--previews-dir: "},
		"no repository":             {func(a *Answers) { a.Repository = "" }, "--github-repository: "},
	} {
		a := answers()
		a.Previews, a.PreviewsDir = "our-org/previews", t.TempDir()
		test.change(&a)
		if _, err := Files(a, t.TempDir(), t.TempDir()); err == nil || !strings.HasPrefix(err.Error(), test.field) {
			t.Errorf("%s: %v, want %s", name, err, test.field)
		}
	}
}
