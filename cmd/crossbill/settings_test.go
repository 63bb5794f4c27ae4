package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestPrecedence: a flag wins over a variable of Crossbill's, that over crossbill.yaml, the file over what GitLab
// sets for a job, and that over the default.
func TestPrecedence(t *testing.T) {
	quiet(t)
	file := filepath.Join(t.TempDir(), "crossbill.yaml")
	text := "manifests: deploy\ncanary: {weight: 20}\nprometheus: {url: http://file}\ncluster: {timeout: 3m}\nshift: {steps: [20, 40]}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CROSSBILL_CONFIG", file)
	t.Setenv("CROSSBILL_PROMETHEUS", "http://variable")
	t.Setenv("GITLAB_CI", "true")
	t.Setenv("CI_PIPELINE_URL", "https://gitlab.example.com/infra/deploy/-/pipelines/9")
	for _, c := range []struct{ line, flag, want string }{
		{"canary --weight 30", "weight", "30"},
		{"canary", "weight", "20"},
		{"canary --config /dev/null", "weight", "10"},
		{"canary --prometheus http://flag", "prometheus", "http://flag"},
		{"canary", "prometheus", "http://variable"},
		{"canary", "pipeline-url", "https://gitlab.example.com/infra/deploy/-/pipelines/9"},
		{"canary", "timeout", "3m0s"},
		{"canary", "manifests", filepath.Join(filepath.Dir(file), "deploy")},
		{"canary --config /dev/null", "timeout", "5m0s"},
		{"shift", "steps", "[20,40]"},
		{"shift --steps 50", "steps", "[50]"},
	} {
		words := strings.Fields(c.line)
		root := newRootCommand()
		var got string
		for _, cmd := range root.Commands() { // in place of the work
			cmd.RunE = func(cmd *cobra.Command, _ []string) error {
				got = cmd.Flag(c.flag).Value.String()
				return nil
			}
		}
		root.SetArgs(words)
		if code := execute(t.Context(), root); code != 0 || got != c.want {
			t.Errorf("%s: --%s is %q, want %q; exit code %d", c.line, c.flag, got, c.want, code)
		}
	}
}

// TestOptionsAreNamedAsWritten: an error names an option by the flag, the variable, or the line of the file that
// set it.
func TestOptionsAreNamedAsWritten(t *testing.T) {
	quiet(t)
	file := filepath.Join(t.TempDir(), "crossbill.yaml")
	if err := os.WriteFile(file, []byte("cluster:\n  context: nowhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--kubeconfig", kubeconfigOf(t, "http://127.0.0.1:1"), "--manifests", "../../k8s"}
	for _, c := range []struct{ line, variable, want string }{
		{"promote --context nowhere", "", "crossbill: --context: context"},
		{"promote", "nowhere", "crossbill: CROSSBILL_CONTEXT: context"},
		{"promote --config " + file, "", "crossbill.yaml:2: cluster.context: context"},
		{"version --config /nonexistent", "", ""}, // which has no such option
		{"promote --config /nonexistent", "", "crossbill: --config: open /nonexistent"},
	} {
		t.Setenv("CROSSBILL_CONTEXT", c.variable)
		words := strings.Fields(c.line)
		if words[0] == "promote" {
			words = append(words, flags...)
		}
		r := runLine(t, words...)
		if want := map[bool]int{true: 0, false: exitBadInput}[c.want == ""]; r.code != want || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: exit code %d, %q; want %q", c.line, r.code, r.err, c.want)
		}
	}
}
