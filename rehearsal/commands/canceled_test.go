package commands_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/pipelinefile"
)

// testACanceledJob cancels jobs of the shipped pipeline file as GitLab's runner does, which signals the script's process
// group: the command ends in order and at once, gives its lock back, says what is safe next, and the job leaves its exit
// code. Another job then goes on, or back. (The runner kills what has not ended after ten minutes; that is not waited for.)
func testACanceledJob(t *testing.T) {
	t.Parallel()
	a := released(t, "canceled")
	text, err := os.ReadFile("../../.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	none := strings.Replace(string(text), "engine: dagger", "engine: none\n      crossbill_image: registry.example.com/our-org/crossbill@sha256:"+strings.Repeat("0", 64), 1)
	file, err := pipelinefile.ParseIncluding([]byte(none), pipelinefile.InRepository("../.."))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("manifests: %s\ncluster:\n  namespace: %s\n  timeout: 2m\nprometheus:\n  url: %s\ncanary:\n  settleDelay: 200ms\n", a.manifests, a.namespace, running.PrometheusURL)
	job := func(name, image string, until *regexp.Regexp) (out string) {
		t.Helper()
		inputs := map[string]string{"app": a.name, "image": image, "release_id": "canceled-2", "commit": "c0ffee1", "source_url": "", "again": ""}
		script := regexp.MustCompile(`\$\[\[ inputs\.(\w+) \]\]`).ReplaceAllStringFunc(strings.Join(file.Job(name).Script, "\n"), func(input string) string {
			return inputs[strings.TrimSuffix(strings.TrimPrefix(input, "$[[ inputs."), " ]]")]
		})
		script, _, _ = strings.Cut(script, "\ncrossbill report ") // after_script is a shell of its own
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "crossbill.yaml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		var log lines
		shell := exec.Command("bash", "-eo", "pipefail", "-c", script)
		shell.Dir, shell.Stdout, shell.Stderr = dir, &log, &log
		shell.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "KUBECONFIG="+running.Kubeconfig, "GITLAB_USER_LOGIN=jane", "CI_JOB_ID=7", "CI_PIPELINE_URL=https://gitlab.example.com/p/1")
		shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := shell.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- shell.Wait() }()
		for deadline := time.Now().Add(time.Minute); !until.MatchString(log.String()); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) || len(ended) > 0 {
				t.Fatalf("%s did not get there:\n%s", name, log.String())
			}
		}
		canceled := time.Now()
		if err := syscall.Kill(-shell.Process.Pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s has not ended:\n%s", name, log.String())
		}
		out = log.String()
		code, err := os.ReadFile(filepath.Join(dir, "exit-code"))
		if took := time.Since(canceled); took > 10*time.Second || string(code) != "1\n" || shell.ProcessState.ExitCode() != 1 {
			t.Errorf("%s: after %s, exit code %d, left %q (%v)\n%s", name, took, shell.ProcessState.ExitCode(), code, err, out)
		}
		lease, err := a.kube.CoordinationV1().Leases(a.namespace).Get(t.Context(), "crossbill-"+a.name, metav1.GetOptions{})
		released := lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == ""
		if err != nil || !released && !strings.Contains(out, "could not be released") { // it gives up after a second, and says so
			t.Errorf("%s: the lock after it: %+v, %v", name, lease.Spec, err)
		}
		return out
	}
	const next = "the same command continues from here, rollback ends the release"
	if out := job("deploy_canary", images["unready"], regexp.MustCompile(`canceled-canary: 1 of 1 replicas updated`)); !strings.Contains(out, "interrupted: "+next) {
		t.Errorf("a canceled canary does not say what is safe:\n%s", out)
	}
	a.must("rollback", "--release-id", "canceled-2")
	if a.weights() != atRest {
		t.Errorf("weights after it: %+v", a.weights())
	}
	a.must("canary", "--image", images["two"], "--release-id", "canceled-2", "--again")
	if out := job("verify_canary", "", regexp.MustCompile(`(?m)^ *[1-9][0-9]*\.[0-9]s  `)); !strings.Contains(out, "context canceled") {
		t.Errorf("a canceled analysis:\n%s", out)
	}
	if a.weights() != split {
		t.Errorf("a canceled analysis moved traffic: %+v", a.weights())
	}
	a.healthy()
	a.must("promote", "--release-id", "canceled-2")
}

// lines is what a process has printed, while it runs.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
