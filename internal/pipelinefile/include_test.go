package pipelinefile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// these finds files by what include calls them.
func these(files map[string]string) Finder {
	return func(i Include) (string, []byte, error) {
		text, ok := files[i.Address]
		if !ok {
			return "", nil, errors.New("there is none")
		}
		return i.Address, []byte(text), nil
	}
}

// TestMerges: the first case is the example of GitLab's documentation (doc/ci/yaml/includes.md, merge method), the others
// its words: included first in their order, nested ones before what includes them, maps merged at any depth, everything
// else replaced.
func TestMerges(t *testing.T) {
	for name, test := range map[string]struct {
		text  string
		files map[string]string
		want  string // the job test, merged; its own variables are those of the file
	}{
		"GitLab's example": {
			"include: 'common.yml'\nvariables:\n  POSTGRES_USER: username\ntest:\n  rules:\n    - if: $CI_PIPELINE_SOURCE == \"merge_request_event\"\n      when: manual\n  artifacts:\n    reports:\n      junit: rspec.xml\n",
			map[string]string{"common.yml": "variables:\n  POSTGRES_USER: common_username\n  POSTGRES_PASSWORD: testing_password\ntest:\n  rules:\n    - when: never\n  script:\n    - echo LOGIN=${POSTGRES_USER} > deploy.env\n    - rake spec\n  artifacts:\n    reports:\n      dotenv: deploy.env\n"},
			`{"artifacts":{"reports":{"dotenv":"deploy.env","junit":"rspec.xml"}},"rules":[{"if":"$CI_PIPELINE_SOURCE == \"merge_request_event\"","when":"manual"}],"script":["echo LOGIN=${POSTGRES_USER} > deploy.env","rake spec"]} {"POSTGRES_PASSWORD":"testing_password","POSTGRES_USER":"username"}`,
		},
		"the last one wins": {
			"include: [{local: /a.yml}, b.yml]\n",
			map[string]string{"a.yml": "test: {script: [a], retry: 1}\n", "b.yml": "test: {script: [b]}\n"},
			`{"retry":"1","script":["b"]} null`,
		},
		"what is nested comes first": {
			"include: {local: a.yml}\ntest: {retry: 2}\n",
			map[string]string{"a.yml": "include: [b.yml]\ntest: {script: [a]}\n", "b.yml": "test: {script: [b], retry: 1, stage: test}\n"},
			`{"retry":"2","script":["a"],"stage":"test"} null`,
		},
		"a nested map in the place of a text": {
			"include: [a.yml, b.yml]\n",
			map[string]string{"a.yml": "test: {script: [a], image: {name: one, entrypoint: ['']}}\n", "b.yml": "include: [c.yml]\ntest: {image: {name: two}}\n", "c.yml": "test: {image: three}\n"},
			`{"image":{"entrypoint":[""],"name":"two"},"script":["a"]} null`,
		},
		"extends and references cross files": {
			"include: [a.yml]\ntest: {extends: .base, script: [!reference [.base, script], mine]}\n",
			map[string]string{"a.yml": ".base: {script: [theirs], retry: 1}\n"},
			`{"extends":".base","retry":"1","script":["theirs","mine"]} null`,
		},
		"inputs": {
			"spec: {inputs: {app: {default: '', regex: '^[a-z]*$'}}}\n---\ninclude:\n  - local: a.yml\n    inputs: {name: \"$[[ inputs.app ]]-x\", flag: true, count: 3}\n",
			map[string]string{"a.yml": "spec:\n  inputs:\n    name:\n    flag: {type: boolean}\n    count: {type: number}\n    word: {default: 'it''s', options: ['it''s']}\n---\ntest:\n  script: [\"echo $[[ inputs.name ]] $[[ inputs.word ]]\"]\n  interruptible: $[[ inputs.flag ]]\n  retry: $[[ inputs.count ]]\n"},
			`{"interruptible":true,"retry":"3","script":["echo $[[ inputs.app ]]-x it's"]} null`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := ParseIncluding([]byte(test.text), these(test.files))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range f.problems {
				if p.rule == RuleIncluded || p.rule == RuleIncludedInput {
					t.Errorf("problem %+v", p)
				}
			}
			if diff := cmp.Diff(test.want, f.Job("test").values.canonical()+" "+f.variables.canonical()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestIncludes breaks the repository's file in one way each, or what it includes: the finding has the file and the line.
func TestIncludes(t *testing.T) {
	const release = "templates/release/template.yml"
	digest := "sha256-" + strings.Repeat("A", 43) + "="
	for name, test := range map[string]struct {
		old, new         string // of the file
		oldText, newText string // of the component
		rule, says       string
		line             string // text of the line that is found, in the file or in the component
		inComponent      bool
	}{
		"a value without quotes":           {old: `commit: "$[[ inputs.commit ]]"`, new: `commit: $[[ inputs.commit ]]`, rule: RuleIncludedInput, says: "without quotes", line: "commit: $[[ inputs.commit ]]"},
		"another engine":                   {old: "engine: dagger", new: "engine: podman", rule: "error", says: `does not admit "podman"`, line: "engine: podman"},
		"an input that there is not":       {old: "engine: dagger", new: "engines: dagger", rule: RuleIncludedInput, says: `no input "engines"`, line: "engines: dagger"},
		"a value that is no text":          {old: "engine: dagger", new: "engine: on", rule: "error", says: "no text", line: "engine: on"},
		"a number":                         {old: "engine: dagger", new: "environment: 2026", rule: RuleIncludedInput, says: "no text", line: "environment: 2026"},
		"a value with a quote":             {old: "engine: dagger", new: `config: "a'; rm -rf /; '"`, rule: RuleIncludedInput, says: "does not match", line: "rm -rf"},
		"an image by tag":                  {old: "engine: dagger", new: "crossbill_image: registry.example.com/our-org/crossbill:1.0.0", rule: RuleIncludedInput, says: "does not match", line: "crossbill:1.0.0"},
		"a default that is not valid":      {old: `options: ["", "yes"]`, new: `options: ["", "yes", "no"]`, oldText: `options: ["", "yes"]`, newText: `options: ["yes"]`, rule: RuleIncludedInput, says: "its options are", line: "again: \"$"},
		"functions":                        {old: `"$[[ inputs.commit ]]"`, new: `"$[[ inputs.commit | truncate(0,8) ]]"`, rule: RuleNotUnderstood, says: "truncate", line: "truncate"},
		"a value of several lines":         {old: "engine: dagger", new: `config: "a\nb"`, rule: RuleNotUnderstood, says: "more than one line", line: `config: "a\nb"`},
		"a list":                           {old: "engine: dagger", new: "config: [a]", rule: RuleNotUnderstood, says: "lists, maps", line: "config: [a]"},
		"conditional":                      {old: "    inputs:\n      # In", new: "    rules: [{if: $X}]\n    inputs:\n      # In", rule: RuleIncluded, says: "an include with `rules`", line: "- local:"},
		"by a variable":                    {old: "local: templates/", new: "local: $DIR/", rule: RuleIncluded, says: "a variable or an input", line: "- local:"},
		"by an input":                      {old: "local: templates/release/", new: "local: templates/$[[ inputs.app ]]/", rule: RuleIncluded, says: "a variable or an input", line: "- local:"},
		"by a pattern":                     {old: "release/template.yml", new: "*/template.yml", rule: RuleIncluded, says: "a pattern", line: "- local:"},
		"that does not exist":              {old: "release/template.yml", new: "other/template.yml", rule: RuleIncluded, says: "there is none", line: "- local:"},
		"of another project":               {old: "local: templates/release/template.yml", new: "project: a/b\n    file: [/x.yml]", rule: RuleIncluded, says: "project: x.yml@a/b", line: "project: a/b"},
		"remote, without integrity":        {old: "local: templates/release/template.yml", new: "remote: https://example.com/t.yml", rule: RuleIncluded, says: "another file tomorrow", line: "remote:"},
		"remote, another integrity":        {old: "local: templates/release/template.yml", new: "remote: https://example.com/t.yml\n    integrity: " + digest, rule: RuleIncludedInput, says: digest, line: "remote:"},
		"a host that a trigger sets":       {old: "local: templates/release/template.yml", new: "component: $HOST/our-org/crossbill/release@1.0.0", rule: RuleIncluded, says: "a variable or an input", line: "component:"},
		"a path that a trigger sets":       {old: "local: templates/release/template.yml", new: "component: $CI_SERVER_FQDN/$CI_SERVER_FQDN/release@1.0.0", rule: RuleIncluded, says: "a variable or an input", line: "component:"},
		"a root pattern that takes all":    {old: `regex: ^([0-9a-f]{7,64})?$`, new: `regex: .*`, rule: RuleInput, says: `input "commit"`, line: "COMMIT='", inComponent: true},
		"a root pattern that takes tags":   {old: `@sha256:[0-9a-f]{64})?$`, new: `(:[a-z]+|@sha256:[0-9a-f]{64}))?$`, rule: RuleByDigest, says: `input "image"`, line: "crossbill queue", inComponent: true},
		"a registry of anybody":            {old: `registry\.example\.com/our-org/qwik-node-app@`, new: `[a-z0-9./-]+@`, rule: RuleByDigest, says: "any registry", line: "crossbill canary", inComponent: true},
		"a gate that does not block":       {oldText: "      allow_failure: false", newText: "      allow_failure: true", rule: RuleGateBlocks, says: "", line: "promote_to_production:", inComponent: true},
		"a gate that the file opens":       {old: "include:", new: "promote_to_production:\n  rules:\n    - when: on_success\n\ninclude:", rule: RuleGateBlocks, says: "", line: "promote_to_production:"},
		"a gate that the file lets fail":   {old: "include:", new: "promote_to_production:\n  rules:\n    - when: manual\n      allow_failure: true\n\ninclude:", rule: RuleGateBlocks, says: "", line: "promote_to_production:"},
		"a script that the file replaces":  {old: "include:", new: "verify_canary:\n  script: [kubectl delete namespace production]\n\ninclude:", rule: RuleNothingAfter, says: "", line: "verify_canary:"},
		"a workflow that the file widens":  {old: "include:", new: "workflow:\n  rules:\n    - if: $CI_PIPELINE_SOURCE\n\ninclude:", rule: RuleWorkflow, says: "can create a pipeline"},
		"an input in the component's text": {oldText: "COMMIT='$[[ inputs.commit ]]'", newText: "COMMIT='$[[ inputs.sha ]]'", rule: RuleInput, says: `uses input "sha", which its header`, line: "inputs.sha", inComponent: true},
		"a function in the component":      {oldText: "COMMIT='$[[ inputs.commit ]]'", newText: "COMMIT=$[[ inputs.commit | posix_escape ]]", rule: RuleNotUnderstood, says: "posix_escape", line: "posix_escape", inComponent: true},
		"no quotes in the component":       {oldText: "COMMIT='$[[ inputs.commit ]]'", newText: "COMMIT=$[[ inputs.commit ]]", rule: ""}, // hexadecimal
		"no quotes around an address":      {oldText: "SOURCE_URL='$[[ inputs.source_url ]]'", newText: "echo `$[[ inputs.source_url ]]`", rule: RuleInput, says: `input "source_url"`, line: "inputs.source_url", inComponent: true},
	} {
		t.Run(name, func(t *testing.T) {
			text, component := including(t, "dagger"), read(t, release)
			for _, edit := range []struct {
				in       *string
				old, new string
			}{{&text, test.old, test.new}, {&component, test.oldText, test.newText}} {
				changed := strings.Replace(*edit.in, edit.old, edit.new, 1)
				if edit.old != "" && changed == *edit.in {
					t.Fatalf("there is no %q", edit.old)
				}
				*edit.in = changed
			}
			f, err := ParseIncluding([]byte(text), these(map[string]string{release: component, "https://example.com/t.yml": component}))
			if test.rule == "error" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			found := Check(f, Options{})
			if test.rule == "" {
				if len(found) > 0 {
					t.Errorf("%v", found)
				}
				return
			}
			lines := strings.Split(text, "\n")
			if test.inComponent {
				lines = strings.Split(component, "\n")
			}
			if !slices.ContainsFunc(found, func(f Finding) bool {
				right := f.Rule == test.rule && strings.Contains(f.Problem, test.says) && (f.File == release) == test.inComponent
				return right && (test.line == "" || f.Line > 0 && strings.Contains(lines[f.Line-1], test.line))
			}) {
				t.Errorf("no %s with %q at %q among\n%s", test.rule, test.says, test.line, strings.ReplaceAll(fmt.Sprint(found), " line ", "\nline "))
			}
		})
	}
}

// TestIncludesWithoutEnd: a file that includes itself, and one that includes too many, are errors.
func TestIncludesWithoutEnd(t *testing.T) {
	for name, text := range map[string]string{
		"itself": "include: [a.yml]\n", "too many": "include: [" + strings.Repeat("b.yml, ", mostIncludes+1) + "]\n",
	} {
		if _, err := ParseIncluding([]byte(text), these(map[string]string{"a.yml": "include: [a.yml]\nx: {script: [a]}\n", "b.yml": "x: {script: [a]}\n"})); err == nil || !strings.Contains(err.Error(), "more than 150 files") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
