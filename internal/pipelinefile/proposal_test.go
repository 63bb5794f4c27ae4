package pipelinefile

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// environmentFile is the pipeline of an environment repository, as docs/guides/commit.md has it.
const environmentFile = ".gitlab/environment.gitlab-ci.yml"

// environmentPipeline is the file as its user fills it in.
func environmentPipeline(t *testing.T, text string) *File {
	t.Helper()
	f, err := ParseIncluding([]byte(strings.Replace(text, "registry.example.com/our-org/crossbill@sha256:DIGEST", CrossbillImage, 1)), InRepository("../.."))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestEnvironmentFile: it is proved as the others are, and has the jobs that a trigger's pipeline has.
func TestEnvironmentFile(t *testing.T) {
	file := environmentPipeline(t, read(t, environmentFile))
	for _, finding := range Check(file, Options{}) {
		t.Error(finding)
	}
	triggered, err := Parse([]byte(Flat(t, "none")))
	if err != nil {
		t.Fatal(err)
	}
	for i, job := range triggered.Jobs {
		other := file.Jobs[i]
		if other.Name != job.Name || other.Stage != job.Stage || !slices.Equal(other.Needs, job.Needs) || !slices.Equal(other.Behaviors(), job.Behaviors()) {
			t.Errorf("%s is not %s in a trigger's pipeline", other.Name, job.Name)
		}
	}
}

// TestBrokenEnvironmentFiles: each way of breaking it is found.
func TestBrokenEnvironmentFiles(t *testing.T) {
	const reading = "    - &read crossbill proposal --app qwik-node-app --repository registry.example.com/our-org/qwik-node-app -o dotenv > release.env\n"
	for name, test := range map[string]struct {
		old, new string
		rule     string
		says     string
	}{
		"a push of any branch":         {`    - if: $CI_COMMIT_REF_PROTECTED != "true" || $CI_COMMIT_BRANCH != "main"` + "\n      when: never\n", "", RuleWorkflow, "a push of any branch or tag"},
		"a protected branch":           {` || $CI_COMMIT_BRANCH != "main"`, "", RuleWorkflow, "a push of any branch or tag"},
		"any push":                     {"      changes: [releases/qwik-node-app.yaml]\n", "", RuleWorkflow, "a push that proposes nothing"},
		"a file that exists":           {"changes: [rel", "exists: [rel", RuleWorkflow, "a push that proposes nothing"},
		"no push":                      {`    - if: $CI_PIPELINE_SOURCE == "push"`, `    - if: $CI_PIPELINE_SOURCE == "web"`, RuleWorkflow, "no push can"},
		"a trigger":                    {`|| $CI_PIPELINE_SOURCE == "api"`, `|| $CI_PIPELINE_SOURCE == "trigger"`, RuleWorkflow, "trigger can create"},
		"a merge request":              {`|| $CI_PIPELINE_SOURCE == "api"`, `|| $CI_PIPELINE_SOURCE == "merge_request_event"`, RuleWorkflow, "merge_request_event can create"},
		"images from anywhere":         {" --repository registry.example.com/our-org/qwik-node-app", "", RuleByDigest, "a trigger variable can set"},
		"images from a variable":       {" --repository registry.example.com/our-org/qwik-node-app", ` --repository "$REPOSITORY"`, RuleByDigest, "a trigger variable can set"},
		"another app by a variable":    {"--app qwik-node-app --repository", `--app "$NAME" --repository`, RuleByDigest, "a trigger variable can set"},
		"any file":                     {"-o dotenv", `-o dotenv "$FILE"`, RuleByDigest, "a trigger variable can set"},
		"another format":               {"-o dotenv", "-o json", RuleByDigest, "a trigger variable can set"},
		"it may fail":                  {"> release.env\n", "> release.env || true\n", RuleByDigest, "a trigger variable can set"},
		"errors do not count":          {reading, "    - set +e\n" + reading, RuleByDigest, "a trigger variable can set"},
		"only sometimes":               {reading, strings.Replace(strings.Replace(reading, "crossbill", "if [ -f x ]; then crossbill", 1), "release.env", "release.env; fi", 1), RuleByDigest, "a trigger variable can set"},
		"another file":                 {". ./release.env", ". ./other.env", RuleNotUnderstood, "not a part of the pipeline file"},
		"a file in the PATH":           {". ./release.env", ". release.env", RuleNotUnderstood, "not a part of the pipeline file"},
		"added to what was there":      {"> release.env", ">> release.env", RuleNotUnderstood, "not a part of the pipeline file"},
		"the errors":                   {"> release.env", "2> release.env", RuleNotUnderstood, "not a part of the pipeline file"},
		"changed in between":           {"    - &release . ", "    - cp other.env release.env\n    - &release . ", RuleNotUnderstood, "not a part of the pipeline file"},
		"changed by who knows what":    {"    - &release . ", "    - sort -o release.env other.env\n    - &release . ", RuleNotUnderstood, "not a part of the pipeline file"},
		"not read at all":              {"    - &release . ./release.env\n", "    - &release true\n", RuleByDigest, "a trigger variable can set"},
		"only looked at":               {"    - &release . ./release.env\n", "    - &release cat release.env\n", RuleWorkflow, "push can create"},
		"changed afterwards":           {"    - &release . ./release.env\n", "    - &release . ./release.env\n    - CROSSBILL_IMAGE=$OTHER\n", RuleByDigest, "$OTHER"},
		"for other variables":          {"    - &release . ./release.env\n", "    - &release . ./release.env\n    - export CROSSBILL_NAMESPACE=$OTHER\n", RuleOverridable, "$OTHER"},
		"a release of another program": {"&read crossbill", "&read ./crossbill", RuleNotUnderstood, "not a part of the pipeline file"},
		"manifests of a variable":      {`"oci://$CROSSBILL_BUNDLE"`, `"oci://$MANIFESTS"`, RuleOverridable, "$MANIFESTS"},
	} {
		t.Run(name, func(t *testing.T) {
			text := read(t, environmentFile)
			broken := strings.ReplaceAll(text, test.old, test.new)
			if broken == text {
				t.Fatal("nothing was broken")
			}
			found := Check(environmentPipeline(t, broken), Options{})
			if !slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == test.rule && strings.Contains(f.Problem, test.says) }) {
				t.Errorf("no %s with %q among %v", test.rule, test.says, found)
			}
		})
	}
}

// TestProposedBranches: conditions that name one branch are understood in each of their usual forms.
func TestProposedBranches(t *testing.T) {
	for rules, good := range map[string]bool{
		`[{if: '$CI_COMMIT_BRANCH == "main" && $CI_PIPELINE_SOURCE == "push"', changes: [releases/shop.yaml]}]`:                                                                                 true,
		`[{if: '$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH && $CI_PIPELINE_SOURCE == "push"', changes: [releases/shop.yaml]}]`:                                                                     true,
		`[{if: '$CI_COMMIT_REF_NAME != $CI_DEFAULT_BRANCH', when: never}, {if: '$CI_PIPELINE_SOURCE == "push"', changes: {paths: [releases/shop.yaml]}}, {if: '$CI_PIPELINE_SOURCE == "web"'}]`: true,
		`[{if: '$CI_COMMIT_BRANCH && $CI_PIPELINE_SOURCE == "push"', changes: [releases/shop.yaml]}]`:                                                                                           false,
		`[{if: '$CI_COMMIT_BRANCH != "develop" && $CI_PIPELINE_SOURCE == "push"', changes: [releases/shop.yaml]}]`:                                                                              false,
		`[{if: '$CI_COMMIT_TAG', when: never}, {if: '$CI_PIPELINE_SOURCE == "push"', changes: [releases/shop.yaml]}]`:                                                                           false,
		`[{if: '$CI_COMMIT_BRANCH == "main"', changes: [releases/shop.yaml]}]`:                                                                                                                  false,
	} {
		text := read(t, environmentFile)
		begin, end := strings.Index(text, "  rules:\n"), strings.Index(text, "include:\n")
		f := environmentPipeline(t, text[:begin]+"  rules: "+rules+"\n"+text[end:])
		if found := Check(f, Options{}); (len(found) == 0) != good {
			t.Errorf("%s: %v", rules, found)
		}
	}
}

// TestAnEnvironmentsCall runs a job's script as a runner does: what the file names is what crossbill gets, whatever whoever
// pushed has set, and a file that is not right ends the job before anything else.
func TestAnEnvironmentsCall(t *testing.T) {
	file := environmentPipeline(t, read(t, environmentFile))
	const dotenv = "CROSSBILL_APP=qwik-node-app\nCROSSBILL_RELEASE_ID=the-id\nCROSSBILL_IMAGE=<image>\nCROSSBILL_BUNDLE=<bundle>\nCROSSBILL_COMMIT=c0ffee0\nCROSSBILL_SOURCE_URL=https://x/1\nCROSSBILL_AGAIN=\n"
	image, bundle := strings.NewReplacer("<image>", "r/i@sha256:1", "<bundle>", ""), strings.NewReplacer("<image>", "", "<bundle>", "r/b@sha256:2")
	for name, test := range map[string]struct {
		dotenv string
		code   int
		want   string
	}{
		"an image":        {image.Replace(dotenv), 0, "[] canary --image r/i@sha256:1 --release-id the-id --commit c0ffee0 --pipeline-url https://gitlab.example.com/1 --source-url https://x/1 -o json --config crossbill.yaml --kubeconfig k --app qwik-node-app\n[] report --html report.html --kubeconfig k\n"},
		"a bundle":        {bundle.Replace(dotenv), 0, "[oci://r/b@sha256:2] canary --release-id the-id --commit c0ffee0 --pipeline-url https://gitlab.example.com/1 --source-url https://x/1 -o json --config crossbill.yaml --kubeconfig k --app qwik-node-app\n[oci://r/b@sha256:2] report --html report.html --kubeconfig k\n"},
		"it is not right": {"", 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := "#!/bin/sh\nif [ \"$1\" = proposal ]; then cat <<'EOF'\n" + test.dotenv + "EOF\n" + map[bool]string{true: "exit 2", false: "exit"}[test.code != 0] + "; fi\necho \"[$CROSSBILL_MANIFESTS] $*\" >>calls\n"
			if err := os.WriteFile(filepath.Join(dir, "crossbill"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", oneShell(file.Job("deploy_canary")))
			cmd.Dir = dir
			cmd.Env = []string{
				"PATH=" + dir + ":" + os.Getenv("PATH"), "KUBECONFIG=k", "CI_PIPELINE_URL=https://gitlab.example.com/1",
				"CROSSBILL_IMAGE=stranger", "CROSSBILL_BUNDLE=stranger", "CROSSBILL_AGAIN=yes", "CROSSBILL_RELEASE_ID=stranger", "CROSSBILL_MANIFESTS=oci://stranger", "CROSSBILL_CONFIG=stranger.yaml",
			}
			out, err := cmd.CombinedOutput()
			calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
			code, _ := os.ReadFile(filepath.Join(dir, "exit-code"))
			if cmd.ProcessState.ExitCode() != test.code || test.code != 0 && string(code) != "2\n" {
				t.Errorf("%v %s, exit code %q", err, out, code)
			}
			if diff := cmp.Diff(test.want, string(calls)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestEnvironmentPage: what the guide shows of the file is in it.
func TestEnvironmentPage(t *testing.T) {
	page, file := read(t, "docs/guides/commit.md"), read(t, environmentFile)
	for _, begin := range []string{"```yaml\nworkflow:", "```sh\ncrossbill proposal"} {
		_, rest, found := strings.Cut(page, begin)
		shown, _, _ := strings.Cut(rest, "```")
		_, name, _ := strings.Cut(begin, "\n")
		for line := range strings.Lines(name + shown) {
			if !found || !strings.Contains(file, strings.TrimSpace(line)) {
				t.Errorf("%s does not have %q", environmentFile, line)
			}
		}
	}
	_, rest, _ := strings.Cut(page, "```yaml\nworkflow:")
	if shown, _, _ := strings.Cut(rest, "```"); !strings.Contains(file, "\nworkflow:"+shown) {
		t.Errorf("%s has another workflow than the guide", environmentFile)
	}
}
