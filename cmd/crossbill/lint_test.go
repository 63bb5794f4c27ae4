package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/pipelinefile"
)

const brokenPipeline = "testdata/broken.gitlab-ci.yml"

// lintLine is the form of a finding: file:line: message (rule); the line is left out for a finding about the whole file.
var lintLine = regexp.MustCompile(`^testdata/broken\.gitlab-ci\.yml(:\d+)?: .+; .+ \([a-z-]+\)$`)

func TestLintLines(t *testing.T) {
	r := runLine(t, "lint", brokenPipeline)
	lines := strings.SplitSeq(strings.TrimSpace(r.out), "\n")
	for line := range lines {
		if !lintLine.MatchString(line) {
			t.Errorf("%q", line)
		}
	}
	if !strings.Contains(r.out, ":1: promote_to_production: `when: manual` at the job beside `rules`") {
		t.Errorf("no line of the job: %s", r.out)
	}
}

// TestLintSARIF holds the output against what SARIF 2.1.0 requires: the properties that its schema names as required, and
// the values that GitHub and GitLab ask for.
func TestLintSARIF(t *testing.T) {
	for _, file := range []string{brokenPipeline, "../../.gitlab-ci.yml"} {
		r := runLine(t, "lint", file, "-o", "sarif")
		var log struct {
			Schema  string `json:"$schema"`
			Version string `json:"version"`
			Runs    []struct {
				Tool struct {
					Driver struct {
						Name  string `json:"name"`
						Rules []struct {
							ID string `json:"id"`
						} `json:"rules"`
					} `json:"driver"`
				} `json:"tool"`
				Results []struct {
					RuleID    string `json:"ruleId"`
					RuleIndex *int   `json:"ruleIndex"`
					Level     string `json:"level"`
					Message   struct {
						Text string `json:"text"`
					} `json:"message"`
					Locations []struct {
						PhysicalLocation struct {
							ArtifactLocation struct {
								URI string `json:"uri"`
							} `json:"artifactLocation"`
							Region struct {
								StartLine int `json:"startLine"`
							} `json:"region"`
						} `json:"physicalLocation"`
					} `json:"locations"`
					PartialFingerprints map[string]string `json:"partialFingerprints"`
				} `json:"results"`
			} `json:"runs"`
		}
		decoder := json.NewDecoder(strings.NewReader(r.out))
		if err := decoder.Decode(&log); err != nil {
			t.Fatal(err, r.out)
		}
		if log.Version != "2.1.0" || !strings.Contains(log.Schema, "sarif-2.1.0") || len(log.Runs) != 1 || log.Runs[0].Tool.Driver.Name == "" || log.Runs[0].Results == nil {
			t.Fatalf("%s: %+v", file, log)
		}
		if found := len(log.Runs[0].Results); (found > 0) != (file == brokenPipeline) {
			t.Errorf("%s: %d results", file, found)
		}
		seen := map[string]bool{}
		for _, result := range log.Runs[0].Results {
			rules, mark := log.Runs[0].Tool.Driver.Rules, result.PartialFingerprints["crossbill/v1"]
			switch {
			case result.RuleIndex == nil || *result.RuleIndex >= len(rules) || rules[*result.RuleIndex].ID != result.RuleID:
				t.Errorf("the rule of %+v is not in the list of rules", result)
			case result.Level != "error" || result.Message.Text == "" || mark == "" || seen[mark]:
				t.Errorf("%+v", result)
			case len(result.Locations) != 1 || result.Locations[0].PhysicalLocation.Region.StartLine < 1 || result.Locations[0].PhysicalLocation.ArtifactLocation.URI != brokenPipeline:
				t.Errorf("%+v", result.Locations)
			}
			seen[mark] = true
		}
	}
}

// TestLintCodeQuality holds the output against GitLab's format: each item has these fields, and a fingerprint of its own.
func TestLintCodeQuality(t *testing.T) {
	r := runLine(t, "lint", brokenPipeline, "-o", "codequality")
	var issues []struct {
		Description string `json:"description"`
		CheckName   string `json:"check_name"`
		Fingerprint string `json:"fingerprint"`
		Severity    string `json:"severity"`
		Location    struct {
			Path  string `json:"path"`
			Lines struct {
				Begin int `json:"begin"`
			} `json:"lines"`
		} `json:"location"`
	}
	if err := json.Unmarshal([]byte(r.out), &issues); err != nil {
		t.Fatal(err, r.out)
	}
	seen := map[string]bool{}
	for _, issue := range issues {
		if issue.Description == "" || issue.CheckName == "" || issue.Location.Path != brokenPipeline || issue.Location.Lines.Begin < 1 || issue.Severity != "critical" && issue.Severity != "major" {
			t.Errorf("%+v", issue)
		}
		if issue.Fingerprint == "" || seen[issue.Fingerprint] {
			t.Errorf("the fingerprint of %+v is not its own", issue)
		}
		seen[issue.Fingerprint] = true
	}
	if len(issues) == 0 || r.code != 1 {
		t.Errorf("%d issues, exit code %d", len(issues), r.code)
	}
}

// TestLintKnowsEveryCommand: a command that lint does not know is a finding in every file that calls it.
func TestLintKnowsEveryCommand(t *testing.T) {
	for _, command := range newRootCommand().Commands() {
		file, err := pipelinefile.Parse([]byte("job:\n  script: [crossbill " + command.Name() + "]\n"))
		if err != nil {
			t.Fatal(err)
		}
		for _, finding := range pipelinefile.Check(file, pipelinefile.Options{}) {
			if strings.Contains(finding.Problem, "`crossbill "+command.Name()+"` is not known") {
				t.Errorf("%s: %s", command.Name(), finding)
			}
		}
	}
}

// TestLintMerged has a double of GitLab merge a file that includes its gate.
func TestLintMerged(t *testing.T) {
	whole, err := os.ReadFile("../../.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	included, err := os.ReadFile("../../templates/release/template.yml")
	if err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(string(whole), "\n---\n")
	_, body, _ := strings.Cut(string(included), "\n---\n")
	body = strings.NewReplacer("$[[ inputs.engine ]]", "dagger", "$[[ inputs.crossbill_image ]]", "", "$[[ inputs.branch ]]", "main", "$[[ inputs.environment ]]", "production", "$[[ inputs.dagger_module ]]", ".").Replace(body)
	workflow, _, _ := strings.Cut(body, "\nstages:")
	body = strings.ReplaceAll(body, "$[[ inputs.image ]]", "registry.example.com/our-org/a@sha256:"+strings.Repeat("0", 64))
	body = strings.ReplaceAll(body, "$[[ inputs.bundle ]]", "")
	body = regexp.MustCompile(`\$\[\[ inputs\.\w+ \]\]`).ReplaceAllString(body, "x")
	path := filepath.Join(t.TempDir(), "ci.yml")
	if err := os.WriteFile(path, []byte(header+"\n---\n"+workflow+"\ninclude: {local: release.yml}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := gitlabtest.New()
	web := httptest.NewServer(server)
	defer web.Close()
	t.Setenv("GITLAB_TOKEN", server.APIToken)
	line := []string{"lint", path, "--merged", "--gitlab-url", web.URL, "--project", server.Project}
	for name, test := range map[string]struct {
		lint gitlabtest.Lint
		code int
		want string
	}{
		"the included jobs are right": {gitlabtest.Lint{Merged: body}, 0, "no finding"},
		"the included gate is not":    {gitlabtest.Lint{Merged: strings.Replace(body, "allow_failure: false", "allow_failure: true", 1)}, 1, "(gate-blocks)"},
		"GitLab rejects it":           {gitlabtest.Lint{Errors: []string{"jobs:x config is empty"}}, 1, "GitLab rejects the file: jobs:x config is empty; correct it (gitlab-accepts-the-file)"},
		"the merged file is none":     {gitlabtest.Lint{Merged: "- a"}, 1, "(not-understood)"},
	} {
		server.Lint = func(string) gitlabtest.Lint { return test.lint }
		if r := runLine(t, line...); r.code != test.code || !strings.Contains(r.out, test.want) {
			t.Errorf("%s: exit code %d: %s%s", name, r.code, r.out, r.err)
		}
	}
	t.Setenv("GITLAB_TOKEN", server.ReadToken)
	if r := runLine(t, line...); r.code != 2 || !strings.Contains(r.err, "scope api") {
		t.Errorf("a token that reads: exit code %d: %s", r.code, r.err)
	}
}
