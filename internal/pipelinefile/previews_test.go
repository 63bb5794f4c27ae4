package pipelinefile

import (
	"slices"
	"strings"
	"testing"
)

const (
	previewComponent = "templates/preview/template.yml"
	previewFile      = ".gitlab/previews.gitlab-ci.yml"
)

// TestPreviews: the file of a project that makes previews has no finding. Broken in one way each, together with the component that
// it includes, it has one: nothing in it may change a release, or be chosen by whoever starts it.
func TestPreviews(t *testing.T) {
	base := strings.Replace(read(t, previewFile), "sha256:DIGEST", "sha256:"+strings.Repeat("0", 64), 1)
	job := func(script string) string {
		return "\nextra:\n  resource_group: previews/$[[ inputs.app ]]\n  script: [" + script + "]\n"
	}
	for name, test := range map[string]struct {
		add              string // to the file
		old, new         string // of the file
		oldText, newText string // of the component
		rule, says       string
	}{
		"as it is":                       {},
		"a job that reads":               {add: job("crossbill status")},
		"the list of previews":           {add: job("crossbill preview list")},
		"by Dagger":                      {add: job("dagger -m github.com/our-org/crossbill@v1 call preview-list")},
		"a guard, which ends releases":   {add: job("crossbill guard"), rule: RulePreviews, says: "crossbill guard"},
		"a rollback":                     {add: job("crossbill rollback"), rule: RulePreviews, says: "may change a release"},
		"a return":                       {add: job("crossbill rollback --to previous"), rule: RulePreviews, says: "may change a release"},
		"a hold":                         {add: job("crossbill hold"), rule: RulePreviews, says: "may change a release"},
		"a cleanup by Dagger":            {add: job("dagger -m github.com/our-org/crossbill@v1 call cleanup"), rule: RulePreviews, says: "may change a release"},
		"a release that is handed over":  {add: job("crossbill trigger"), rule: RulePreviews, says: "may change a release"},
		"kubectl":                        {add: job("kubectl delete deployment shop-primary"), rule: RulePreviews, says: "kubectl delete"},
		"a script that is not read":      {add: job("./deploy.sh"), rule: RulePreviews, says: "may change a release"},
		"another pipeline":               {add: "\nextra:\n  trigger: our-org/infrastructure\n", rule: RulePreviews, says: "starts another pipeline"},
		"in the shell after it":          {oldText: "  script:\n", newText: "  after_script: [crossbill cancel]\n  script:\n", rule: RulePreviews, says: "crossbill cancel"},
		"a canary":                       {add: job("crossbill canary --image \\\"$IMAGE\\\""), rule: RulePreviews, says: "in a pipeline that releases"},
		"a promotion":                    {add: job("crossbill promote"), rule: RulePreviews, says: "in a pipeline that releases"},
		"the gate":                       {add: "\npromote_to_production:\n  script: [echo]\n", rule: RulePreviews, says: "in a pipeline that releases"},
		"an image of anybody":            {old: `registry\.example\.com/our-org/qwik-node-app-previews@`, new: `[a-z0-9./-]+@`, rule: RuleByDigest, says: "any registry"},
		"an image by tag":                {old: "previews@sha256:[0-9a-f]{64})?$", new: "previews:[a-z0-9-]+)?$", oldText: "(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64})?$", newText: "(/[a-z0-9._-]+)+:[a-z0-9-]+)?$", rule: RuleByDigest, says: `input "image"`},
		"a name that ends the quotes":    {old: "name: {default: \"\", regex: '^([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?)?$'}", new: "name: {default: \"\", regex: '^.*$'}", rule: RuleInput, says: `input "name"`},
		"a configuration that is chosen": {oldText: "--config '$[[ inputs.config ]]'", newText: `--config "$CONFIG"`, rule: RuleOverridable, says: "$CONFIG"},
		"a name of nobody's":             {oldText: "  name: preview $[[ inputs.app ]] $[[ inputs.preview_id ]]", newText: "  name: previews", rule: RuleName, says: "cannot find the pipeline again"},
		"by a push":                      {oldText: `    - if: $CI_PIPELINE_SOURCE == "trigger"`, newText: `    - if: $CI_PIPELINE_SOURCE == "push" || $CI_PIPELINE_SOURCE == "trigger"`, rule: RuleWorkflow, says: "push can create"},
		"stopped halfway":                {oldText: "interruptible: false", newText: "interruptible: true", rule: RuleOneByOne, says: "stop it halfway"},
		"two jobs for one preview":       {oldText: "  resource_group: $[[ inputs.environment ]]/$[[ inputs.app ]]/$[[ inputs.name ]]\n", newText: "", rule: RuleOneByOne, says: "at the same time"},
		"two jobs, by another input":     {oldText: "[[ inputs.app ]]/$[[ inputs.name ]]", newText: "[[ inputs.app ]]/$[[ inputs.commit ]]", rule: RuleOneByOne, says: "at the same time"},
		"repeated after a failure":       {oldText: "when: [runner_system_failure, scheduler_failure]", newText: "when: [script_failure]", rule: RuleRetry, says: "script_failure"},
	} {
		t.Run(name, func(t *testing.T) {
			text, component := base+test.add, read(t, previewComponent)
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
			f, err := ParseIncluding([]byte(text), these(map[string]string{previewComponent: component}))
			if err != nil {
				t.Fatal(err)
			}
			found := Check(f, Options{})
			right := slices.ContainsFunc(found, func(f Finding) bool {
				return f.Rule == test.rule && strings.Contains(f.String(), test.says)
			})
			if test.rule == "" && len(found) > 0 || test.rule != "" && !right {
				t.Errorf("want %q with %q, found\n%v", test.rule, test.says, found)
			}
		})
	}
}

// TestNoPreviewsInAReleasesPipeline: the same of the pipeline that releases.
func TestNoPreviewsInAReleasesPipeline(t *testing.T) {
	text := including(t, "dagger") + "\npreview:\n  stage: cleanup\n  resource_group: production/$[[ inputs.app ]]\n  script: [crossbill preview down --name x]\n"
	f, err := ParseIncluding([]byte(text), these(map[string]string{"templates/release/template.yml": read(t, "templates/release/template.yml")}))
	if err != nil {
		t.Fatal(err)
	}
	if found := Check(f, Options{}); !slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == RulePreviews && f.Job == "preview" }) {
		t.Errorf("found %v", found)
	}
}
