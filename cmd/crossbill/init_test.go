package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5"
	gitconfig "github.com/go-git/go-git/v5/config"
	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/config"
)

// places are two repositories: GitHub's with the manifests of k8s, and GitLab's, which is empty.
func places(t *testing.T) (github, gitlab string, flags []string) {
	t.Helper()
	github, gitlab = t.TempDir(), t.TempDir()
	if err := os.CopyFS(filepath.Join(github, "k8s"), os.DirFS("../../k8s")); err != nil {
		t.Fatal(err)
	}
	return github, gitlab, []string{
		"--github-dir", github, "--gitlab-dir", gitlab, "--component", "gitlab.example.com/our-org/crossbill/release@1.0.0",
		"--workflow", "our-org/crossbill/.github/workflows/deliver.yml@" + strings.Repeat("0a", 20), "--crossbill-image", "registry.example.com/our-org/crossbill@sha256:" + strings.Repeat("0a", 32),
	}
}

// written are the files below some folders, but for the manifests.
func writtenIn(t *testing.T, dirs ...string) (names []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && !strings.Contains(path, "k8s") {
				name, _ := filepath.Rel(dir, path)
				names = append(names, name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// answered runs a command line with answers on its terminal.
func answered(t *testing.T, answers string, args ...string) ran {
	t.Helper()
	var out, errOut bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(answers))
	root.SetOut(&out)
	root.SetErr(&errOut)
	code := execute(t.Context(), root)
	return ran{code, out.String(), errOut.String()}
}

func TestInit(t *testing.T) {
	quiet(t)
	github, gitlab, flags := places(t)
	all := []string{".github/workflows/release.yml", "crossbill.yaml", ".gitlab-ci.yml", "crossbill.yaml"}
	line := slices.Concat([]string{"init", "--yes"}, flags)

	r := runLine(t, line...)
	if r.code != exitBadInput || !strings.Contains(r.err, "--project: is missing") || len(writtenIn(t, github, gitlab)) > 0 {
		t.Fatalf("without a project: exit code %d\n%s", r.code, r.err)
	}
	line = append(line, "--project", "our-org/infrastructure")
	if r = runLine(t, append(line, "--dry-run", "-o", "name")...); r.code != 0 || len(writtenIn(t, github, gitlab)) > 0 || strings.Count(r.err, "+++ ") != 4 || strings.Count(r.out, "file/") != 4 {
		t.Fatalf("as a dry run: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if r = runLine(t, line...); r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	if diff := cmp.Diff(all, writtenIn(t, github, gitlab)); diff != "" {
		t.Error(diff)
	}
	lintClean(t, gitlab, flags)
	if r = runLine(t, line...); r.code != 0 || strings.Count(r.out, ": unchanged\n") != 4 || strings.Contains(r.err, "+++") {
		t.Errorf("again: exit code %d\n%s%s", r.code, r.out, r.err)
	}

	// Later runs go by crossbill.yaml.
	settings := filepath.Join(github, "crossbill.yaml")
	if r = runLine(t, slices.Concat([]string{"init", "--yes", "--image", "registry.example.com/our-org/qwik-node-app"}, flags)...); r.code != 0 || strings.Count(r.out, ": unchanged\n") != 4 {
		t.Errorf("by crossbill.yaml: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	text, err := os.ReadFile(settings)
	if err == nil {
		err = os.WriteFile(settings, append(text, "canary:\n  weight: 5\n"...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r = runLine(t, line...); r.code != 0 || strings.Count(r.out, ": unchanged\n") != 4 {
		t.Errorf("with a setting of the user's: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	line = append(line, "--namespace", "shop")
	if r = runLine(t, line...); r.code != exitBadInput || !strings.Contains(r.err, "-  namespace: production\n+  namespace: shop") || !strings.Contains(r.err, "give --overwrite") {
		t.Errorf("over what exists: exit code %d\n%s", r.code, r.err)
	}
	if r = runLine(t, append(line, "--overwrite")...); r.code != 0 || !strings.Contains(r.out, settings+": overwritten\n") {
		t.Errorf("with --overwrite: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	want := strings.Replace(string(text), "namespace: production", "namespace: shop", 1) + "canary:\n  weight: 5\n"
	if text, err = os.ReadFile(settings); err != nil || string(text) != want {
		t.Errorf("%v, -want +got:\n%s", err, cmp.Diff(want, string(text)))
	}
}

// lintClean holds the pipeline file of a folder, with the component that the flags name, to the rules of lint.
func lintClean(t *testing.T, folder string, flags []string) {
	t.Helper()
	component := flags[slices.Index(flags, "--component")+1]
	r := runLine(t, "lint", filepath.Join(folder, ".gitlab-ci.yml"), "--include", component+"=../../templates/release/template.yml")
	if r.code != 0 || !strings.Contains(r.out, "no finding") {
		t.Errorf("lint: exit code %d\n%s%s", r.code, r.out, r.err)
	}
}

// TestInitForDagger: without an image of the command, GitLab's jobs run in Dagger's engine; lint takes that too.
func TestInitForDagger(t *testing.T) {
	quiet(t)
	_, gitlab, flags := places(t)
	at := slices.Index(flags, "--crossbill-image")
	flags = append(slices.Clone(flags[:at]), "--dagger-module", "github.com/our-org/crossbill@"+strings.Repeat("0a", 20))
	if r := runLine(t, slices.Concat([]string{"init", "--yes", "--project", "our-org/infrastructure"}, flags)...); r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	lintClean(t, gitlab, flags)
}

// TestInitNamesMissingScripts: an app as create-qwik makes it has no script check; the first run of the workflow would end there.
func TestInitNamesMissingScripts(t *testing.T) {
	quiet(t)
	github, _, flags := places(t)
	line := slices.Concat([]string{"init", "--yes", "--dry-run", "--project", "our-org/infrastructure"}, flags)
	for scripts, warning := range map[string]string{
		`"build": "qwik build", "lint": "eslint src"`: "app/package.json has no script check, which the workflow runs",
		``: "app/package.json has no script check and no script build, which the workflow runs",
		`"build": "qwik build", "check": "vitest run"`: "",
	} {
		writeFiles(t, github, map[string]string{"app/package.json": `{"name": "my-qwik-empty-starter", "scripts": {` + scripts + `}}`})
		if r := runLine(t, line...); r.code != 0 || strings.Contains(r.err, "has no script") != (warning != "") || !strings.Contains(r.err, warning) {
			t.Errorf("with {%s}: exit code %d, want %q\n%s", scripts, r.code, warning, r.err)
		}
	}
	writeFiles(t, github, map[string]string{"web/package.json": "{}"})
	if r := runLine(t, append(line, "--app-dir", "web")...); !strings.Contains(r.err, "web/package.json has no script check and no script build") {
		t.Errorf("with --app-dir: %s", r.err)
	}
}

// TestInitAsks: what is there is the default of a question; there are six at most.
func TestInitAsks(t *testing.T) {
	quiet(t)
	github, gitlab, flags := places(t)
	line := append([]string{"init"}, flags...)
	r := answered(t, "\n\nour-org/infrastructure\nour-org/agents:production\nshop\n\ny\ny\nno\n\n", line...)
	if r.code != 0 || strings.Count(r.err, "]: ")+strings.Count(r.err, "project: ")+strings.Count(r.err, "one: ") < 6 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	if diff := cmp.Diff([]string{".github/workflows/release.yml", "crossbill.yaml", "crossbill.yaml"}, writtenIn(t, github, gitlab)); diff != "" {
		t.Error(diff)
	}
	text, err := os.ReadFile(filepath.Join(github, "crossbill.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`app: qwik-node-app
manifests: k8s
cluster:
  context: our-org/agents:production
  namespace: shop
prometheus:
  url: http://prometheus.istio-system.svc:9090
gitlab:
  project: our-org/infrastructure
approval:
  issuer: https://gitlab.com
  project: our-org/infrastructure
  environment: production/qwik-node-app
`, string(text)); diff != "" {
		t.Error(diff)
	}
	if r = answered(t, "\n\n", line...); r.code != exitBadInput || !strings.Contains(r.err, "there was no answer") {
		t.Errorf("without answers: exit code %d\n%s", r.code, r.err)
	}
}

// TestInitFindsGitLab: the releases go to the GitLab that the remote is of, and nothing goes to gitlab.com instead.
func TestInitFindsGitLab(t *testing.T) {
	quiet(t)
	const assumed = "https://gitlab.com is assumed"
	for name, c := range map[string]struct {
		remote       string
		flags        []string
		url, project string // of gitlab; "" for none
		warns        bool
	}{
		"by its name":          {"git@gitlab.corp.example:group/infra.git", nil, "https://gitlab.corp.example", "group/infra", false},
		"by the project":       {"git@git.corp.example:group/infra.git", []string{"--project", "group/infra"}, "https://git.corp.example", "group/infra", false},
		"by the flag":          {"git@gitlab.corp.example:group/infra.git", []string{"--gitlab-url", "https://code.corp.example"}, "https://code.corp.example", "group/infra", false},
		"gitlab.com":           {"git@gitlab.com:group/infra.git", nil, "", "group/infra", false},
		"another project":      {"git@gitlab.corp.example:group/infra.git", []string{"--project", "group/deploy"}, "", "group/deploy", true},
		"no remote":            {"", []string{"--project", "group/infra"}, "", "group/infra", true},
		"no remote, with flag": {"", []string{"--project", "group/infra", "--gitlab-url", "https://gitlab.com"}, "https://gitlab.com", "group/infra", false},
	} {
		t.Run(name, func(t *testing.T) {
			github, gitlab, flags := places(t)
			repository, err := git.PlainInit(gitlab, false)
			if err == nil && c.remote != "" {
				_, err = repository.CreateRemote(&gitconfig.RemoteConfig{Name: "origin", URLs: []string{c.remote}})
			}
			if err != nil {
				t.Fatal(err)
			}
			r := runLine(t, slices.Concat([]string{"init", "--yes"}, flags, c.flags)...)
			if r.code != 0 || strings.Contains(r.err, assumed) != c.warns {
				t.Fatalf("exit code %d\n%s", r.code, r.err)
			}
			written, err := config.Load(filepath.Join(github, "crossbill.yaml"), os.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			issuer := c.url
			if issuer == "" {
				issuer = "https://gitlab.com"
			}
			if diff := cmp.Diff([]string{c.url, c.project, issuer, c.project}, []string{written.GitLab.URL, written.GitLab.Project, written.Approval.Issuer, written.Approval.Project}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestInitOnAnotherBranch: releases begin on the branch that a repository has; what crossbill.yaml says comes first.
func TestInitOnAnotherBranch(t *testing.T) {
	quiet(t)
	github, gitlab, flags := places(t)
	for _, dir := range []string{github, gitlab} { // both on master
		if _, err := git.PlainInit(dir, false); err != nil {
			t.Fatal(err)
		}
	}
	line := slices.Concat([]string{"init", "--yes", "--project", "our-org/infrastructure"}, flags)
	read := func(parts ...string) string {
		text, err := os.ReadFile(filepath.Join(parts...))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if r := runLine(t, line...); r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	for text, want := range map[string]string{
		read(github, ".github", "workflows", "release.yml"): "branches: [master]",
		read(gitlab, ".gitlab-ci.yml"):                      "branch: master, ",
		read(github, "crossbill.yaml"):                      "  project: our-org/infrastructure\n  ref: master\n  environment:",
		read(gitlab, "crossbill.yaml"):                      "  project: our-org/infrastructure\n  ref: master\napproval:",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	lintClean(t, gitlab, flags)
	settings := filepath.Join(github, "crossbill.yaml")
	if err := os.WriteFile(settings, []byte(strings.ReplaceAll(read(settings), "ref: master", "ref: production")), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := runLine(t, append(line, "--overwrite")...); r.code != 0 || !strings.Contains(r.out, settings+": unchanged\n") || !strings.Contains(read(gitlab, ".gitlab-ci.yml"), "branch: production, ") {
		t.Errorf("by crossbill.yaml: exit code %d\n%s%s", r.code, r.out, r.err)
	}
}

// TestInitSticky: an app with a bundled front end is released sticky, unless its crossbill.yaml is somebody's own already.
func TestInitSticky(t *testing.T) {
	quiet(t)
	github, gitlab, flags := places(t)
	if err := os.WriteFile(filepath.Join(github, "package.json"), []byte(`{"devDependencies": {"vite": "7.3.8"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(gitlab, "crossbill.yaml")
	if err := os.WriteFile(own, []byte("app: qwik-node-app\nmanifests: k8s\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := runLine(t, slices.Concat([]string{"init", "--yes", "--overwrite", "--project", "our-org/infrastructure"}, flags)...); r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	for file, want := range map[string]bool{filepath.Join(github, "crossbill.yaml"): true, own: false} {
		written, err := config.Load(file, os.Getenv)
		if err != nil {
			t.Fatal(err)
		}
		if written.Canary.Sticky != want || want && written.Canary.StickyAssets != "/assets/" {
			t.Errorf("%s: %+v", file, written.Canary)
		}
	}
}

// TestInitRefers: what the files refer to is what the command was built from.
func TestInitRefers(t *testing.T) {
	for name, c := range map[string]struct {
		build buildInfo
		want  []string // component, workflow, note, module
	}{
		"a release":         {buildInfo{Version: "1.2.3", Commit: "0a0b"}, []string{"$CI_SERVER_FQDN/our-org/crossbill/release@1.2.3", "our-org/crossbill/.github/workflows/deliver.yml@0a0b", " # 1.2.3", "github.com/our-org/crossbill@0a0b"}},
		"of another home":   {buildInfo{Version: "1.2.3", Commit: "0a0b", Components: "gitlab.example.com/tools/crossbill"}, []string{"gitlab.example.com/tools/crossbill/release@1.2.3", "our-org/crossbill/.github/workflows/deliver.yml@0a0b", " # 1.2.3", "github.com/our-org/crossbill@0a0b"}},
		"go install":        {buildInfo{Version: "v1.2.3"}, []string{"$CI_SERVER_FQDN/our-org/crossbill/release@1.2.3", "our-org/crossbill/.github/workflows/deliver.yml@v1.2.3", "", "github.com/our-org/crossbill@v1.2.3"}},
		"a commit":          {buildInfo{Version: "v1.2.3-4-g0a0b", Commit: "0a0b"}, []string{"$CI_SERVER_FQDN/our-org/crossbill/release@0a0b", "our-org/crossbill/.github/workflows/deliver.yml@0a0b", "", "github.com/our-org/crossbill@0a0b"}},
		"with changes":      {buildInfo{Version: "v1.2.3-dirty", Commit: "0a0b"}, []string{"", "", "", ""}},
		"nobody knows what": {buildInfo{}, []string{"", "", "", ""}},
	} {
		o := &initOptions{}
		o.refer(buildInfoOf(c.build, &debug.BuildInfo{}))
		if diff := cmp.Diff(c.want, []string{o.answers.Component, o.answers.Workflow, o.answers.Note, o.answers.Module}); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
