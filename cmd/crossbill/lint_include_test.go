package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/our-org/crossbill/templates"
)

// guidesFile is the pipeline file that the guide for a new app shows, with an image in place of the one to fill in.
func guidesFile(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/guides/adopt.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\nspec:\n")
	text, _, found := strings.Cut("spec:\n"+rest, "```\n")
	if !found || strings.Count(text, "\n") > 19 {
		t.Fatalf("the guide's file has %d lines, want at most 19", strings.Count(text, "\n"))
	}
	return strings.Replace(text, "@sha256:…", "@sha256:"+strings.Repeat("0", 64), 1)
}

// TestLintIncludes lints the guide's file with each way to include the component.
func TestLintIncludes(t *testing.T) {
	component, err := templates.Files.ReadFile("release/template.yml")
	if err != nil {
		t.Fatal(err)
	}
	version = "v1.0.0"
	defer func() { version = "" }()
	const address = "component: $CI_SERVER_FQDN/our-org/crossbill/release@1.0.0"
	for name, test := range map[string]struct {
		include string
		flags   string
		code    int
		want    string
	}{
		"the component of this version":  {address, "", 0, "11 jobs, no finding"},
		"with a host":                    {"component: gitlab.example.com/our-org/crossbill/release@1.0.0", "", 0, "11 jobs, no finding"},
		"in a group of its own":          {"component: gitlab.example.com/mirrors/tools/crossbill/release@v1.0.0", "", 0, "11 jobs, no finding"},
		"another version":                {strings.Replace(address, "1.0.0", "1.1.0", 1), "", 1, "this is crossbill v1.0.0: version 1.1.0 is checked by the lint of that version"},
		"a version that moves":           {strings.Replace(address, "1.0.0", "~latest", 1), "", 1, "version ~latest is checked by"},
		"no version":                     {strings.Replace(address, "@1.0.0", "", 1), "", 1, "included-jobs-are-not-seen"},
		"no component of crossbill's":    {strings.Replace(address, "release", "deploy", 1), "", 1, "it is in another project"},
		"of another project":             {"component: gitlab.example.com/our-org/ci/release@1.0.0", "", 1, "it is in another project"},
		"of another project, given":      {"component: gitlab.example.com/our-org/ci/release@2.0.0", "gitlab.example.com/our-org/ci/release@2.0.0=", 0, "11 jobs, no finding"},
		"local":                          {"local: ci/release.yml", "", 0, "11 jobs, no finding"},
		"local, by its whole path":       {"local: /ci/release.yml", "", 0, "11 jobs, no finding"},
		"local, outside the repository":  {"local: ../release.yml", "", 1, "it is not in the repository"},
		"local, not there":               {"local: ci/other.yml", "", 1, "no such file"},
		"project":                        {"project: our-org/pipelines\n    ref: v1\n    file: /release.yml", "release.yml@our-org/pipelines:v1=", 0, "11 jobs, no finding"},
		"project, not given":             {"project: our-org/pipelines\n    ref: v1\n    file: /release.yml", "", 1, "the jobs of project: release.yml@our-org/pipelines:v1 are not checked"},
		"remote, without integrity":      {"remote: https://example.com/release.yml", "https://example.com/release.yml=", 1, "give `integrity: sha256-"},
		"remote, not given":              {"remote: https://example.com/release.yml", "", 1, "the jobs of remote: https://example.com/release.yml are not checked"},
		"a file that is not given right": {address, "release", 2, "is not ADDRESS=FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			repository := t.TempDir()
			for path, text := range map[string]string{
				".git/HEAD": "", "ci/release.yml": string(component), "deploy/.gitlab-ci.yml": strings.Replace(guidesFile(t), address, test.include, 1),
			} {
				path = filepath.Join(repository, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			line := []string{"lint", filepath.Join(repository, "deploy", ".gitlab-ci.yml")}
			if test.flags != "" {
				line = append(line, "--include", test.flags)
				if strings.HasSuffix(test.flags, "=") {
					line[len(line)-1] += filepath.Join(repository, "ci", "release.yml")
				}
			}
			if r := runLine(t, line...); r.code != test.code || !strings.Contains(r.out+r.err, test.want) {
				t.Errorf("exit code %d: %s%s", r.code, r.out, r.err)
			}
		})
	}
}

// TestLintPlaces: a finding in an included file names that file and its line, in each format.
func TestLintPlaces(t *testing.T) {
	repository := t.TempDir()
	component, err := templates.Files.ReadFile("release/template.yml")
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(component), "allow_failure: false", "allow_failure: true", 1)
	text := strings.Replace(guidesFile(t), "component: $CI_SERVER_FQDN/our-org/crossbill/release@1.0.0", "local: release.yml", 1)
	for name, text := range map[string]string{"release.yml": broken, "ci.yml": text} {
		if err := os.WriteFile(filepath.Join(repository, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for output, want := range map[string]string{
		"text": `release\.yml:\d\d\d: promote_to_production: `, "json": `"file": ".*release\.yml",\s+"line": \d\d\d,`,
		"sarif": `"uri": ".*release\.yml"`, "codequality": `"path": ".*release\.yml"`,
	} {
		if r := runLine(t, "lint", filepath.Join(repository, "ci.yml"), "-o", output); !regexp.MustCompile(want).MatchString(r.out) {
			t.Errorf("%s: %s", output, r.out)
		}
	}
}
