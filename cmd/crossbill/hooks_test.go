package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// TestHooksThatCannotRun: what leads to the promotion stops before it changes anything; what ends a release goes on.
func TestHooksThatCannotRun(t *testing.T) {
	t.Setenv("GITLAB_CI", "")
	t.Setenv("GITHUB_ACTIONS", "")
	t.Setenv("HOOK_SECRET", "")
	for says, h := range map[string]hook.Hook{
		"hooks[0].secretEnv: $HOOK_SECRET is empty: hook a could not be signed": {Name: "a", Point: release.BeforeCanary, URL: "https://hooks.example.com", SecretEnv: "HOOK_SECRET"},
		"hooks[0]: hooks: job work: the manifests have no Job of this name":     {Name: "a", Point: release.BeforeCanary, Job: "work"},
	} {
		for _, begins := range []bool{true, false} {
			cmd := newCanaryCommand()
			var out bytes.Buffer
			cmd.SetErr(&out)
			cmd.SetContext(context.WithValue(t.Context(), configKey{}, resolved{Config: &config.Config{Hooks: []hook.Hook{h}}}))
			set, err := manifest.Load("../../k8s")
			if err != nil {
				t.Fatal(err)
			}
			o := &hookOptions{enabled: true, begins: begins}
			err = o.load(cmd, &clusterOptions{set: set})
			switch {
			case begins && (!errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), says)):
				t.Errorf("%v, want %q", err, says)
			case !begins && (err != nil || !strings.Contains(out.String(), says+"; ")):
				t.Errorf("%v, it warns %q", err, &out)
			}
			if o.logs != "" || len(o.hooks) != 1 {
				t.Errorf("%+v", o)
			}
		}
	}
}

// TestHookLogs: what a hook says is in a file of its own, in a job of CI without being asked for.
func TestHookLogs(t *testing.T) {
	t.Setenv("GITLAB_CI", "true")
	t.Setenv("HOOK_SECRET", "s3cret")
	t.Chdir(t.TempDir())
	cmd := newCanaryCommand()
	cmd.SetContext(context.WithValue(t.Context(), configKey{}, resolved{Config: &config.Config{Hooks: []hook.Hook{{Name: "smoke", Point: release.BeforeStep, URL: "https://hooks.example.com", SecretEnv: "HOOK_SECRET"}}}}))
	o := &hookOptions{enabled: true, begins: true}
	if err := o.load(cmd, &clusterOptions{}); err != nil {
		t.Fatal(err)
	}
	c := &rollout.Cluster{}
	o.apply(c)
	if c.Hooks[0].Secret != "s3cret" {
		t.Errorf("%+v", c.Hooks)
	}
	for _, run := range []release.HookRun{{Name: "smoke", Point: release.BeforeStep, Step: 25}, {Name: "smoke", Point: release.AfterRollback}} {
		if err := c.HookLog("r2", run, "what it says\n"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"r2-beforeStep-25-smoke.log", "r2-afterRollback-smoke.log"} {
		if text, err := os.ReadFile(filepath.Join("hooks", name)); err != nil || string(text) != "what it says\n" {
			t.Errorf("%s: %v, %q", name, err, text)
		}
	}
}

// TestFailedHookIsLikeAnUnhealthyCanary: its exit code is the one on which the pipeline rolls back.
func TestFailedHookIsLikeAnUnhealthyCanary(t *testing.T) {
	for _, err := range []error{&rollout.HookError{}, &rollout.HookError{Err: errors.New("the API server is away")}, errors.Join(&rollout.HookError{Err: &rollout.StageError{Err: errors.New("x")}})} {
		if code := exitCode(err); code != exitUnhealthy {
			t.Errorf("%v: exit code %d", err, code)
		}
	}
}
