package gitlab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/rehearsal/setup"
)

var long = flag.Bool("long", false, "also GitLab's own runner, which is built the first time")

// working is a crossbill that says what it is asked, and works for as long as a file says. Asked to end, it says so, and ends with 1.
const working = `#!/bin/bash
echo "$1" >>calls
[ "$1" = report ] && { echo page >report.html; exit; }
trap 'echo "asked to end" >&2; exit 1' TERM
for ((i = 0; i < $(cat %[1]q); i++)); do
	echo "working" >&2
	sleep 1 &
	wait $!
done
`

// ran is a pipeline whose jobs GitLab's own runner runs, with such a crossbill.
type ran struct {
	*testing.T
	*Pipeline
	gitlab  *GitLab
	runner  *Runner
	seconds string // file with how long it works
}

func runs(t *testing.T) *ran {
	t.Helper()
	if !*long {
		t.Skip("left out of a short run; make test-long has it")
	}
	program, err := setup.EnsureGitLabRunner(t.Context(), "..", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile("../../crossbill.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kube, seconds := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "seconds")
	write(t, kube, "kind: Config\n", 0o600)
	write(t, seconds, "0", 0o600)
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bin", "crossbill"), fmt.Sprintf(working, seconds), 0o755)
	g, err := Start(Options{
		Dir: filepath.Join(dir, "gitlab"), Repository: "../..", Config: sample, Manifests: "../../k8s", Images: "^.*$", Kube: kube, Crossbill: filepath.Join(dir, "bin"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	g.Coordinator.SetTraceInterval(time.Second)
	p, err := g.Add(t.Context(), map[string]any{"app": "qwik-node-app", "release_id": "r1"})
	if err != nil {
		t.Fatal(err)
	}
	runner, err := g.StartRunner(filepath.Join(dir, "runner"), program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		runner.Stop()
		if t.Failed() {
			t.Logf("the coordinator:\n%s\nthe runner:\n%s", strings.Join(g.Coordinator.Requests(), "\n"), runner.Log())
		}
	})
	return &ran{t, p, g, runner, seconds}
}

// working starts a job that works for a while, and waits until it does.
func (r *ran) working(job string) *Execution {
	r.Helper()
	write(r.T, r.seconds, "60", 0o600)
	e, err := r.Start(job)
	if err != nil {
		r.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !strings.Contains(e.Log(), "working"); time.Sleep(50 * time.Millisecond) {
		if !e.Live() || time.Now().After(deadline) {
			r.Fatalf("it is %s\n%s", e.Status(), e.Log())
		}
	}
	return e
}

func (r *ran) ends(e *Execution) (*Execution, error) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Minute)
	defer cancel()
	e, err := r.Wait(ctx, e)
	if errors.Is(err, context.DeadlineExceeded) {
		r.Fatalf("it has not ended: it is %s\n%s", e.Status(), e.Log())
	}
	return e, err
}

// TestRunnerEnds: what is left of the shipped jobs when they are canceled, and when one of the two timeouts passes: whether
// crossbill was asked to end, whether after_script ran, and what was uploaded.
func TestRunnerEnds(t *testing.T) {
	for name, c := range map[string]struct {
		before         func(g *GitLab)
		cancel         bool
		status, reason string
		kept           bool // exit code, and the report of after_script
	}{
		"canceled":       {func(*GitLab) {}, true, "canceled", "", true},
		"timeout":        {func(g *GitLab) { g.Coordinator.SetMaximumTimeout(6 * time.Second) }, false, "failed", "job_execution_timeout", false},
		"script timeout": {func(g *GitLab) { g.SetVariable("RUNNER_SCRIPT_TIMEOUT", "6s") }, false, "failed", "job_execution_timeout", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := runs(t)
			c.before(r.gitlab)
			e := r.working("queue")
			if c.cancel {
				e.Cancel()
			}
			e, err := r.ends(e)
			if err == nil || e.Status() != c.status || e.Reason() != c.reason || !strings.Contains(e.Log(), "asked to end") {
				t.Errorf("%v; it is %s, %s\n%s", err, e.Status(), e.Reason(), e.Log())
			}
			code, noCode := e.Artifact("exit-code")
			_, noReport := e.Artifact("report.html")
			if c.kept && (noCode != nil || string(code) != "1\n" || noReport != nil) || !c.kept && noCode == nil {
				t.Errorf("exit code %q, %v; report: %v\n%s", code, noCode, noReport, e.Log())
			}
		})
	}
}

// TestRunnerDies: a job whose runner is killed stays as it is for GitLab, also when it is canceled. The runner that is started
// again takes its next execution.
func TestRunnerDies(t *testing.T) {
	r := runs(t)
	e := r.working("queue")
	r.runner.Kill()
	if err := r.runner.Start(); err != nil {
		t.Fatal(err)
	}
	e.Cancel()
	time.Sleep(5 * time.Second)
	if e.Status() != "canceling" {
		t.Errorf("it is %s", e.Status())
	}
	e.ForceCancel()
	if _, err := r.ends(e); !errors.Is(err, ErrCanceled) {
		t.Error(err)
	}
	write(t, r.seconds, "0", 0o600)
	if err := r.Retry("queue", Approver); err != nil {
		t.Fatal(err)
	}
	again, err := r.Start("queue")
	if err != nil {
		t.Fatal(err)
	}
	if again, err = r.ends(again); err != nil {
		t.Errorf("%v\n%s", err, again.Log())
	}
}

// TestRunnerLosesAnswers: a release whose runner meets every fault of the coordinator's answers.
func TestRunnerLosesAnswers(t *testing.T) {
	r := runs(t)
	write(t, r.seconds, "2", 0o600)
	for _, lost := range LostAnswers {
		if r.State(lost.Job) == "manual" {
			if err := r.Press(lost.Job, Approver); err != nil {
				t.Fatal(err)
			}
		}
		e, err := r.RunLosing(t.Context(), lost, Approver)
		if err != nil {
			t.Fatalf("%v\n%s", err, e.Log())
		}
	}
}
