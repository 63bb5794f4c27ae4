package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/pipelinefile"
)

func TestWatchExitCodes(t *testing.T) {
	promoted := []gitlabtest.Job{{Name: "promote_to_production", Status: "success"}}
	for status, want := range map[string]int{"success": 0, "failed": 1, "canceled": 1, "manual": 7, "running": 6} {
		t.Run(status, func(t *testing.T) {
			server := gitlabtest.New()
			id := server.Add(gitlabtest.Pipeline{Name: "release app abc", Life: []gitlabtest.Phase{{Status: status, Jobs: promoted}}})
			listener := httptest.NewServer(server)
			defer listener.Close()
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte(server.ReadToken+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			code, out := runCommand(t, "watch", "--gitlab-url", listener.URL, "--project", server.Project, "--pipeline", strconv.FormatInt(id, 10), "--token-file", token, "--timeout", "1s", "-o", "json")
			var p gitlab.Progress
			if err := json.Unmarshal([]byte(out), &p); err != nil || code != want || p.PipelineID != id || p.Status != status {
				t.Errorf("exit code %d, want %d; %s %v", code, want, out, err)
			}
		})
	}
}

func TestTriggerRefusesBadInput(t *testing.T) {
	t.Setenv("GITLAB_TOKEN", "t")
	t.Setenv("GITLAB_TRIGGER_TOKEN", "t")
	good := []string{"trigger", "--project", "infra/deploy", "--app", "app", "--commit", "c0ffee0", "--image", "registry.example.com/app@sha256:" + strings.Repeat("0a", 32)}
	for name, more := range map[string][]string{
		"image by tag":        {"--image", "registry.example.com/app:v1"},
		"plain http":          {"--gitlab-url", "http://gitlab.example.com"},
		"no such token file":  {"--token-file", "/nonexistent"},
		"token as flag":       {"--token", "secret"},
		"unknown output":      {"-o", "xml"},
		"argument":            {"please"},
		"commit with a space": {"--commit", "c0ffee0 "},
	} {
		t.Run(name, func(t *testing.T) {
			if code, _ := runCommand(t, append(good[:len(good):len(good)], more...)...); code != exitBadInput {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestLintExitCodes(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.yml")
	if err := os.WriteFile(broken, []byte("promote_to_production: {when: manual, rules: [{if: $A}], script: [x]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"../../.gitlab-ci.yml": 0, broken: 1, "/nonexistent": 2, "lint.go": 2} {
		if code, out := runCommand(t, "lint", path); code != want {
			t.Errorf("%s: exit code %d, want %d\n%s", path, code, want, out)
		}
	}
}

// optional begins a shell's words that are there only if a variable is set.
var optional = regexp.MustCompile(`\$\{[A-Z_]+:\+`)

// TestPipelineFileCallsThisCommand: every command and flag that the variant without an engine uses exists.
func TestPipelineFileCallsThisCommand(t *testing.T) {
	data, err := os.ReadFile("../../.gitlab/no-engine.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	file, err := pipelinefile.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range file.Jobs {
		var commands []string
		for _, line := range job.Script {
			words := strings.Fields(optional.ReplaceAllString(line, ""))
			if words[0] != "crossbill" {
				continue
			}
			commands = append(commands, words[1])
			cmd, _, err := newRootCommand().Find(words[1:2])
			if err != nil || cmd.Name() != words[1] {
				t.Fatalf("%s: no command %s", job.Name, words[1])
			}
			for _, word := range words[2:] {
				name, long := strings.CutPrefix(strings.TrimRight(word, "}"), "--")
				if long && cmd.Flags().Lookup(name) == nil {
					t.Errorf("%s: %s has no flag --%s", job.Name, cmd.Name(), name)
				}
			}
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if f.Name == "release-id" && !strings.Contains(line, "--release-id") {
					t.Errorf("%s: %s does not say which release it means", job.Name, cmd.Name())
				}
			})
		}
		if len(commands) != 2 || commands[1] != "report" {
			t.Errorf("%s: it calls %v: one command and then report are wanted", job.Name, commands)
		}
	}
}
