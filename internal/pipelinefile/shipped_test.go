package pipelinefile_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/pipelinefile"
)

// The component that others include is looked at with each of its engines; the environment's file is the same with its own
// workflow. The guard's component has one job and no gate.
const (
	component   = "../../templates/release/template.yml"
	environment = "../../.gitlab/environment.gitlab-ci.yml"
	guard       = "../../templates/guard/template.yml"
	action      = "../../.github/actions/dagger/action.yml"
)

// shipped are texts by what they are called.
func shipped(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{"guard": guarding(t)}
	for _, engine := range pipelinefile.Engines {
		texts[engine] = pipelinefile.Flat(t, engine)
	}
	return texts
}

// guarding is the guard's component with its inputs put in.
func guarding(t *testing.T) string {
	_, body, _ := strings.Cut(content(t, guard), "\n---\n")
	return strings.NewReplacer("$[[ inputs.environment ]]", "production", "$[[ inputs.app ]]", "qwik-node-app", "$[[ inputs.branch ]]", "main", "$[[ inputs.config ]]", "crossbill.yaml",
		"$[[ inputs.crossbill_image ]]", pipelinefile.CrossbillImage).Replace(body)
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const gate = "promote_to_production"

// jobsIn are the jobs of a pipeline file with what they extend, read without package pipelinefile: what it proves of
// these files is another test's.
func jobsIn(t *testing.T, text string) (workflow map[string]any, jobs map[string]map[string]any) {
	t.Helper()
	documents := strings.Split(text, "\n---\n")
	var body map[string]any
	if err := yaml.Unmarshal([]byte(documents[len(documents)-1]), &body); err != nil {
		t.Fatal(err)
	}
	var whole func(name string) map[string]any
	whole = func(name string) map[string]any {
		job, _ := body[name].(map[string]any)
		base, ok := job["extends"].(string)
		if !ok {
			return job
		}
		merged := maps.Clone(whole(base))
		for key, value := range job {
			own, isMap := value.(map[string]any)
			if inherited, both := merged[key].(map[string]any); isMap && both { // GitLab merges hashes, key by key
				under := maps.Clone(inherited)
				maps.Copy(under, own)
				value = under
			}
			merged[key] = value
		}
		return merged
	}
	jobs = map[string]map[string]any{}
	for key := range body {
		if key != "workflow" && key != "stages" && !strings.HasPrefix(key, ".") {
			jobs[key] = whole(key)
		}
	}
	workflow, _ = body["workflow"].(map[string]any)
	if len(jobs) == 0 || workflow == nil {
		t.Fatalf("%d jobs, workflow %v", len(jobs), workflow)
	}
	return workflow, jobs
}

// TestOnlyTheGateNamesProduction: GitLab drops a job of a protected environment whose user may not deploy to it (Enterprise
// Edition, Ci::ProcessBuildService, whatever the environment's action), and a job that nobody pressed has the user of the
// trigger token. So no other job may have the gate's environment. A group protects environments by their tier: the
// canary's is not production, whatever its name begins with.
func TestOnlyTheGateNamesProduction(t *testing.T) {
	for path, text := range shipped(t) {
		_, jobs := jobsIn(t, text)
		for job, values := range jobs {
			environment, _ := values["environment"].(map[string]any)
			named, _ := environment["name"].(string)
			production := regexp.MustCompile(`^production/(\$\[\[ inputs\.app \]\]|qwik-node-app)$`).MatchString(named)
			if production != (job == gate) || !production && !strings.HasSuffix(named, "-canary") {
				t.Errorf("%s: %s has the environment %q", path, job, named)
			}
			if tier := environment["deployment_tier"]; tier != map[bool]string{true: "production", false: "other"}[production] {
				t.Errorf("%s: %s has the tier %v", path, job, tier)
			}
		}
	}
}

// TestPipelinesOnlyOfProtectedMain: before anything makes a pipeline, every other ref is left out.
func TestPipelinesOnlyOfProtectedMain(t *testing.T) {
	for path, text := range shipped(t) {
		workflow, _ := jobsIn(t, text)
		rules, _ := workflow["rules"].([]any)
		bounded := false
		for _, item := range rules {
			rule := item.(map[string]any)
			if rule["if"] == `$CI_COMMIT_REF_PROTECTED != "true" || $CI_COMMIT_BRANCH != "main"` && rule["when"] == "never" {
				bounded = true
			}
			if rule["when"] != "never" && !bounded {
				t.Errorf("%s: %v makes a pipeline of any ref", path, rule)
			}
		}
		if !bounded {
			t.Errorf("%s: the ref is not looked at", path)
		}
	}
}

// TestReportsSurviveTheTimeout: when a job's timeout passes, GitLab's runner runs neither after_script nor the upload of
// artifacts. The script's own is below it, and leaves time for both.
func TestReportsSurviveTheTimeout(t *testing.T) {
	for path, text := range shipped(t) {
		_, jobs := jobsIn(t, text)
		for job, values := range jobs {
			variables, _ := values["variables"].(map[string]any)
			duration := func(value any) time.Duration {
				text, _ := value.(string)
				d, err := time.ParseDuration(text) // as the runner reads its variables
				if err != nil {
					t.Errorf("%s: %s: %v", path, job, err)
				}
				return d
			}
			whole, script, after := duration(values["timeout"]), duration(variables["RUNNER_SCRIPT_TIMEOUT"]), time.Duration(0)
			if values["after_script"] != nil {
				after = duration(variables["RUNNER_AFTER_SCRIPT_TIMEOUT"])
			}
			if whole-script-after < 2*time.Minute {
				t.Errorf("%s: %s: %s for all, of which %s for the script and %s for after_script", path, job, whole, script, after)
			}
			artifacts, _ := values["artifacts"].(map[string]any)
			if artifacts["when"] != "always" || artifacts["access"] != "developer" {
				t.Errorf("%s: %s: artifacts %v", path, job, artifacts)
			}
		}
	}
}

var (
	imageLine   = regexp.MustCompile(`^\s*-?\s*(image|name):\s+(\S+[/:]\S+)`)
	placeholder = "@sha256:DIGEST"
	digestAtEnd = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
	unpinned    = regexp.MustCompile(`\|\s*(\w+=\S+\s+)*(ba)?sh\b|[a-z]:latest\b|apk add|apt-get install|\bcurl\b.*install\.sh`)
)

// TestPinned: images by digest, and no program that was downloaded without a checksum. Where the digest is the user's,
// what stands there is no image reference: the job does not start until it was filled in.
func TestPinned(t *testing.T) {
	files, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	files = append(files, component, environment, guard, "../../templates/preview/template.yml", "../../.gitlab/previews.gitlab-ci.yml", action, "../../.github/actions/preview/action.yml", "../../.github/actions/handoff/action.yml", "../../k8s/guard/cronjob.yaml", "../../k8s/run/deployment.yaml")
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		unset := 0
		for i, line := range strings.Split(string(text), "\n") {
			if comment := strings.Index(line, "#"); comment >= 0 {
				line = line[:comment]
			}
			if unpinned.MatchString(line) {
				t.Errorf("%s:%d: %s", path, i+1, line)
			}
			found := imageLine.FindStringSubmatch(line)
			if found == nil || strings.Contains(path, ".github") || strings.Contains(found[2], "inputs.environment") {
				continue
			}
			image := found[2]
			switch _, err := name.ParseReference(image); {
			case image == `"$[[`: // the pattern of crossbill_image has the digest
			case strings.HasSuffix(image, placeholder):
				if unset++; err == nil {
					t.Errorf("%s:%d: %s can be pulled", path, i+1, image)
				}
			case err != nil || !digestAtEnd.MatchString(image):
				t.Errorf("%s:%d: %s is not by digest (%v)", path, i+1, image, err)
			}
		}
		if unset > 1 {
			t.Errorf("%s: its user has %d places to fill in", path, unset)
		}
	}
}

// run prepares a job's script as a runner gives it to the shell, in a folder with stand-ins for the programs that it
// calls.
func run(t *testing.T, text, job string, programs map[string]string) (cmd *exec.Cmd, dir string) {
	t.Helper()
	file, err := pipelinefile.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for program, script := range programs {
		if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, jobs := jobsIn(t, text)
	lines := file.Job(job).Script
	if after, _ := jobs[job]["after_script"].([]any); len(after) > 0 { // which is a shell of its own
		lines = lines[:len(lines)-len(after)]
	}
	script := regexp.MustCompile(`\$\[\[ inputs\.(\w+) \]\]`).ReplaceAllString(strings.Join(lines, "\n"), "the-$1")
	cmd = exec.CommandContext(t.Context(), "sh", "-e", "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "KUBECONFIG=k", "GITLAB_USER_LOGIN=jane", "CI_JOB_ID=7", "CI_JOB_NAME=" + job, "CI_PIPELINE_URL=u"}
	return cmd, dir
}

// TestTheDownloadIsChecked: another archive than the one whose checksum is in the file is not unpacked, and nothing runs.
func TestTheDownloadIsChecked(t *testing.T) {
	cmd, dir := run(t, pipelinefile.Flat(t, "dagger"), "cleanup", map[string]string{
		"wget":   `while [ "$1" != -qO ]; do shift; done; echo "another program" >"$2"`,
		"tar":    "touch unpacked",
		"dagger": "touch called",
	})
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/tmp/dagger.tar.gz: FAILED") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, made := range []string{"unpacked", "called"} {
		if _, err := os.Stat(filepath.Join(dir, made)); err == nil {
			t.Errorf("it was %s all the same", made)
		}
	}
}

// TestTheDownloadIsTriedAgain: a rollback outlives a server that answers 502 twice, and ends when it always does.
func TestTheDownloadIsTriedAgain(t *testing.T) {
	for name, test := range map[string]struct{ answer, tries, calls string }{
		"twice":  {`[ "$(cat tries)" = xxx ]`, "xxx", "call"},
		"always": {"false", "xxxxx", ""},
	} {
		cmd, dir := run(t, pipelinefile.Flat(t, "dagger"), "rollback", map[string]string{
			"wget": "printf x >>tries\n" + test.answer, "sleep": "", "sha256sum": "", "tar": "", "dagger": `printf %s "$1" >>calls`,
		})
		out, err := cmd.CombinedOutput()
		if got := content(t, filepath.Join(dir, "tries")); got != test.tries {
			t.Errorf("502 %s: %d tries, want %d", name, len(got), len(test.tries))
		}
		called, _ := os.ReadFile(filepath.Join(dir, "calls"))
		if (err == nil) != (test.calls != "") || string(called) != test.calls {
			t.Errorf("502 %s: %v, calls %q\n%s", name, err, called, out)
		}
	}
}

// TestTheActionsDownloadIsChecked: the same of GitHub's side, where curl tries again.
func TestTheActionsDownloadIsChecked(t *testing.T) {
	text, err := os.ReadFile(action)
	if err != nil {
		t.Fatal(err)
	}
	var composite struct {
		Runs struct {
			Steps []struct {
				Run string
				Env map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &composite); err != nil || len(composite.Runs.Steps) != 1 {
		t.Fatal(len(composite.Runs.Steps), err)
	}
	step, dir := composite.Runs.Steps[0], t.TempDir()
	for program, script := range map[string]string{
		"curl": `case "$*" in *" --retry 5 --retry-all-errors "*) touch retries ;; esac; while [ "$1" != --output ]; do shift; done; echo "another program" >"$2"`,
		"tar":  "touch unpacked",
	} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step.Run) // as GitHub's runner
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "RUNNER_TEMP=" + dir, "GITHUB_PATH=" + filepath.Join(dir, "path")}
	for name, value := range step.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	_, unpacked := os.Stat(filepath.Join(dir, "unpacked"))
	if _, path := os.Stat(filepath.Join(dir, "path")); err == nil || unpacked == nil || path == nil || !strings.Contains(string(out), "FAILED") {
		t.Errorf("%v, unpacked: %t\n%s", err, unpacked == nil, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "retries")); err != nil {
		t.Errorf("curl does not try again: %v", err)
	}
	other := content(t, component)
	for _, value := range step.Env { // the same command on both sides
		if !strings.Contains(other, value) {
			t.Errorf("%s does not have %s", component, value)
		}
	}
}

// TestACanceledJobEndsInOrder: the signal of a canceled or timed-out job reaches the shell and the command, which are one
// process group. The shell waits for the command to end, and leaves its exit code for the job that may roll back.
func TestACanceledJobEndsInOrder(t *testing.T) {
	const command = `case "$*" in *report* | *proposal*) exit ;; esac
trap 'sleep 0.3; touch ended; exit 1' TERM
touch started
while :; do sleep 0.05; done`
	for path, text := range shipped(t) {
		if path == "guard" {
			continue
		}
		for _, job := range []string{"deploy_canary", "watch_canary", gate} {
			cmd, dir := run(t, text, job, map[string]string{"crossbill": command, "dagger": command, "wget": "", "sha256sum": "", "tar": ""})
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for range 200 {
				if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			code, _ := os.ReadFile(filepath.Join(dir, "exit-code"))
			if _, unfinished := os.Stat(filepath.Join(dir, "ended")); cmd.ProcessState.ExitCode() != 1 || string(code) != "1\n" || unfinished != nil {
				t.Errorf("%s: %s: %v, exit code %q, the command ended: %t", path, job, err, code, unfinished == nil)
			}
		}
	}
}

// TestPnpmHasItsHash: corepack holds what it downloads against the hash, as the Dagger module lets it. Everybody else runs
// the same version.
func TestPnpmHasItsHash(t *testing.T) {
	text, err := os.ReadFile("../../app/package.json")
	if err != nil {
		t.Fatal(err)
	}
	pinned := regexp.MustCompile(`"packageManager": "(pnpm@[0-9.]+)\+sha512\.[0-9a-f]{128}"`).FindStringSubmatch(string(text))
	if pinned == nil {
		t.Fatal("package.json names no pnpm with its hash")
	}
	for _, path := range []string{"../../Makefile", "../../rehearsal/lifecycle/lifecycle.go"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`pnpm@[0-9.]+`).FindAllString(string(text), -1) {
			if found != pinned[1] {
				t.Errorf("%s runs %s, package.json names %s", path, found, pinned[1])
			}
		}
	}
}

// TestSamplesOnPages: what a page shows of a pipeline file, put into the shipped one, has no finding.
func TestSamplesOnPages(t *testing.T) {
	header, body, _ := strings.Cut(pipelinefile.Flat(t, "none"), "\n---\n")
	found := 0
	err := filepath.WalkDir("../../docs", func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		page, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(string(page), -1) {
			if !strings.Contains(block[1], "script:") {
				continue
			}
			found++
			file, err := pipelinefile.Parse([]byte(header + "\n---\n" + merged(t, body, block[1])))
			if err != nil {
				t.Errorf("%s: %v\n%s", path, err, block[1])
				continue
			}
			for _, finding := range pipelinefile.Check(file, pipelinefile.Options{}) {
				t.Errorf("%s: %s\n%s", path, finding, block[1])
			}
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("%d samples, %v", found, err)
	}
}

// merged puts the jobs of a sample into a pipeline file: what it says of a job that is there takes the place of that.
func merged(t *testing.T, body, sample string) string {
	t.Helper()
	var file, changes yaml.Node
	for text, into := range map[string]*yaml.Node{body: &file, sample: &changes} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	var merge func(into, from *yaml.Node, deeper bool)
	merge = func(into, from *yaml.Node, deeper bool) {
	next:
		for i := 0; i < len(from.Content); i += 2 {
			for j := 0; j < len(into.Content); j += 2 {
				if into.Content[j].Value != from.Content[i].Value {
					continue
				}
				if deeper {
					merge(into.Content[j+1], from.Content[i+1], false)
				} else {
					into.Content[j+1] = from.Content[i+1]
				}
				continue next
			}
			into.Content = append(into.Content, from.Content[i], from.Content[i+1])
		}
	}
	merge(file.Content[0], changes.Content[0], true)
	text, err := yaml.Marshal(&file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
