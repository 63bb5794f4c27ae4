package gitlab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/environment/gittest"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// TestByReference: a fresh repository that has nothing but the file of the guide for a new app and its crossbill.yaml goes
// through the runner. The component comes from another repository, by Git, at its tag. What the jobs call is written down.
func TestByReference(t *testing.T) {
	runner, err := setup.EnsureRunner(t.Context(), "..", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	origin, stop, err := ServeComponent(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer stop() //nolint:errcheck // nobody asks it any more

	page, err := os.ReadFile("../../docs/guides/adopt.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\nspec:\n")
	file, _, found := strings.Cut("spec:\n"+rest, "```\n")
	if !found || !strings.Contains(file, "component: $CI_SERVER_FQDN/our-org/crossbill/release@1.0.0\n") {
		t.Fatal("the guide shows no file that includes the component")
	}
	project, programs := t.TempDir(), t.TempDir()
	file = strings.Replace(file, "@sha256:…", "@sha256:"+strings.Repeat("0", 64), 1)
	write(t, filepath.Join(project, "release.gitlab-ci.yml"), file, 0o644)
	write(t, filepath.Join(project, "crossbill.yaml"), "app: qwik-node-app\n", 0o644)
	calls := filepath.Join(programs, "calls")
	write(t, filepath.Join(programs, "crossbill"), "#!/bin/sh\necho \"[$CROSSBILL_MANIFESTS] $*\" >>"+calls+"\n", 0o755)
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"remote", "add", "origin", origin + "/our-org/qwik-node-app.git"}} {
		git(t, project, args...)
	}
	digest := "registry.example.com/our-org/qwik-node-app@sha256:" + strings.Repeat("1", 64)
	inputs := map[string]any{"app": "qwik-node-app", "bundle": digest, "release_id": "r1", "commit": "1234567", "source_url": "https://github.com/our-org/qwik-node-app/actions/runs/1", "again": "yes"}
	run := func(job string, inputs map[string]any) (string, error) {
		// gitlab-ci-local takes no inputs for the file itself: what a trigger sends is what this include gives. It is already
		// decided that the job runs now.
		wrapper, err := yaml.Marshal(map[string]any{
			"include": []any{map[string]any{"local": "/release.gitlab-ci.yml", "inputs": inputs}},
			job:       map[string]any{"rules": []any{map[string]any{"when": "always"}}, "needs": []any{}},
		})
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(project, ".gitlab-ci.yml"), string(wrapper), 0o644)
		git(t, project, "add", ".")
		git(t, project, "commit", "-q", "--allow-empty", "-m", job)
		cmd := exec.CommandContext(t.Context(), filepath.Join(runner, "gitlab-ci-local"), "--force-shell-executor", "--no-color", "--home", filepath.Join(programs, "home"), "--ignore-predefined-vars", "CI_PIPELINE_URL",
			"--variable", "CI_PIPELINE_URL=https://gitlab.example.com/1", "--variable", "KUBECONFIG=k", "--variable", "CROSSBILL_NAMESPACE=stranger", "--variable", "RELEASE_ID=stranger", job)
		cmd.Dir, cmd.Env = project, append(append(os.Environ(), gittest.Environ()...), "PATH="+programs+":"+runner+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, job := range []string{"queue", "deploy_canary", "verify_canary", promote, "cleanup", "rollback"} {
		if out, err := run(job, inputs); err != nil {
			t.Fatalf("%s: %v\n%s", job, err, out)
		}
	}
	const shared = " -o json --config crossbill.yaml --kubeconfig k --app qwik-node-app\n"
	const what = " --commit 1234567 --pipeline-url https://gitlab.example.com/1 --source-url https://github.com/our-org/qwik-node-app/actions/runs/1 --again"
	var want strings.Builder
	for _, call := range []string{
		"queue --release-id r1" + what, "canary --release-id r1" + what, "verify --release-id r1", "promote --release-id r1", "cleanup --release-id r1",
		"rollback --release-id r1 --reason rollback of https://gitlab.example.com/1",
	} {
		want.WriteString("[oci://" + digest + "] " + call + shared + "[oci://" + digest + "] report --html report.html --config crossbill.yaml --kubeconfig k\n")
	}
	got, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Error(diff)
	}

	// Of the checks this runner knows options, and no patterns.
	inputs["app"] = "other"
	if out, err := run("queue", inputs); err == nil || !strings.Contains(out, "allowed options") {
		t.Errorf("another app: %v\n%s", err, out)
	}
	if after, _ := os.ReadFile(calls); string(after) != string(got) {
		t.Errorf("a rejected pipeline has run\n%s", strings.TrimPrefix(string(after), string(got)))
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), gittest.Environ()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}
