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

// TestPreviewPipeline: the job of a project of previews goes through the runner, with the inputs that trigger sends. What it calls is
// written down: nothing of whoever triggers takes the place of an input, or of the configuration.
func TestPreviewPipeline(t *testing.T) {
	runner, err := setup.EnsureRunner(t.Context(), "..", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	project, programs := t.TempDir(), t.TempDir()
	file, err := os.ReadFile("../../.gitlab/previews.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(project, "templates"), os.DirFS("../../templates")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(project, "previews.gitlab-ci.yml"), strings.Replace(string(file), "@sha256:DIGEST", "@sha256:"+strings.Repeat("0", 64), 1), 0o644)
	calls := filepath.Join(programs, "calls")
	write(t, filepath.Join(programs, "crossbill"), "#!/bin/sh\necho \"[$CROSSBILL_NAMESPACE$CROSSBILL_PREVIEW_LIMIT] $*\" >>"+calls+"\necho {}\n", 0o755)
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"remote", "add", "origin", "git@gitlab.example.com:our-org/previews.git"}} {
		git(t, project, args...)
	}
	image := "registry.example.com/our-org/qwik-node-app-previews@sha256:" + strings.Repeat("5b", 32)
	run := func(inputs map[string]any) (string, error) {
		wrapper, err := yaml.Marshal(map[string]any{
			"include": []any{map[string]any{"local": "/previews.gitlab-ci.yml", "inputs": inputs}},
			"preview": map[string]any{"rules": []any{map[string]any{"when": "always"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(project, ".gitlab-ci.yml"), string(wrapper), 0o644)
		git(t, project, "add", ".")
		git(t, project, "commit", "-q", "--allow-empty", "-m", "inputs")
		cmd := exec.CommandContext(t.Context(), filepath.Join(runner, "gitlab-ci-local"), "--force-shell-executor", "--no-color", "--home", filepath.Join(programs, "home"),
			"--variable", "KUBECONFIG=k", "--variable", "CROSSBILL_NAMESPACE=stranger", "--variable", "CROSSBILL_PREVIEW_LIMIT=50", "--variable", "NAME=stranger", "--variable", "ACTION=down", "preview")
		cmd.Dir, cmd.Env = project, append(append(os.Environ(), gittest.Environ()...), "PATH="+programs+":"+runner+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, inputs := range []map[string]any{
		{"app": "qwik-node-app", "preview_id": "pr-42-up-5b5b5b5b5b5b", "name": "pr-42", "action": "up", "image": image, "commit": "1234567", "source_url": "https://github.com/our-org/app/actions/runs/1"},
		{"app": "qwik-node-app", "preview_id": "pr-42-down", "name": "pr-42", "action": "down", "image": "", "commit": "", "source_url": ""},
	} {
		if out, err := run(inputs); err != nil {
			t.Fatalf("%v: %v\n%s", inputs, err, out)
		}
	}
	const shared = " -o json --config crossbill.yaml --kubeconfig k --app qwik-node-app\n"
	want := "[] preview up --name pr-42 --image " + image + " --commit 1234567 --require-provenance" + shared + "[] preview down --name pr-42" + shared
	got, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if out, err := run(map[string]any{"app": "qwik-node-app", "preview_id": "x", "name": "x", "action": "promote"}); err == nil || !strings.Contains(out, "allowed options") {
		t.Errorf("another action: %v\n%s", err, out)
	}
}
