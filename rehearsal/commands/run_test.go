package commands_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/rehearsal/gitops"
	"github.com/our-org/crossbill/rehearsal/load"
)

// TestRun: two processes release what Git asks for, with the Roles that k8s has for them. The one that leads is killed while
// the canary waits; the other one promotes it after a commit has approved it. A bad release is rolled back, and not started
// again.
func TestRun(t *testing.T) {
	t.Parallel()
	a := released(t, "run")
	a.account("rbac.yaml")
	a.account("../run/rbac.yaml")
	git, err := gitops.Serve(filepath.Join(t.TempDir(), "git"), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(git.Stop)
	if _, err := git.Commit("First", map[string]string{"README.md": "releases"}); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "crossbill.yaml")
	text := fmt.Sprintf("app: %s\ngitops: {repository: %q, author: Mona <mona@example.com>}\nanalysis:\n  minDuration: 5s\n  objectives:\n    - {name: availability, objective: 99.9, margin: 1}\n", a.name, git.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	traffic := load.Start("http://"+running.GatewayAddress+"/", a.served(), 100)
	defer traffic.Stop()
	kubeconfig := a.kubeconfigOf("crossbill")
	start := func() *process {
		p := program("run", "--config", config, "--kubeconfig", kubeconfig, "--namespace", a.namespace, "--manifests", a.manifests, "--settle-delay", "1s", "--prometheus", running.PrometheusURL, "--interval", "1s")
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	commit := func(command string, args ...string) {
		t.Helper()
		if code, out := a.command(append([]string{command, "--config", config}, args...)...); code != 0 {
			t.Fatalf("%s: exit code %d\n%s", command, code, out)
		}
	}
	propose := func(image string, run int) {
		t.Helper()
		commit("propose", "--image", images[image], "--commit", fmt.Sprintf("%07x", run), "--source-url", fmt.Sprintf("https://github.com/our-org/app/actions/runs/%d", run))
	}
	until := func(what string, is func(rollout.Status) bool) {
		t.Helper()
		began := time.Now()
		a.eventually(func() error {
			if !is(a.look()) {
				return errors.New("not yet: " + what)
			}
			return nil
		})
		t.Logf("%s after %s", what, time.Since(began).Round(100*time.Millisecond))
	}

	propose("two", 1)
	leader := start()
	until("healthy", func(s rollout.Status) bool {
		return s.Release != nil && s.Release.Verdict != nil && s.Release.Verdict.Outcome == release.Healthy
	})
	if got := a.weights(); got != split {
		t.Errorf("weights %+v while it waits for approval", got)
	}
	other := start()
	if err := leader.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = leader.Wait() // it was killed
	commit("approve", "--in-git")
	until("promoted and cleaned up", func(s rollout.Status) bool {
		return s.Release == nil && len(s.History) > 0 && s.History[0].Outcome == release.OutcomePromoted
	})
	first := a.status().History[0]
	if a.weights() != atRest || a.image("canary") != "" || digest(a.image("primary")) != digest(images["two"]) || first.Approvers() != fmt.Sprintf("Mona <mona@example.com> (commit %.12s)", head(t, git)) {
		t.Errorf("weights %+v, canary %q, primary %q, approved by %q", a.weights(), a.image("canary"), a.image("primary"), first.Approvers())
	}

	propose("fails", 2)
	until("rolled back", func(s rollout.Status) bool {
		return s.Release == nil && s.History[0].Outcome == release.OutcomeRolledBack
	})
	commit("approve", "--in-git") // too late
	time.Sleep(4 * time.Second)   // several looks
	if s := a.status(); s.Release != nil || s.History[0].Outcome != release.OutcomeRolledBack || s.History[1].ID != first.ID || a.weights() != atRest || digest(a.image("primary")) != digest(images["two"]) {
		t.Errorf("it was started again: %+v", s)
	}
	if err := other.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := other.Wait(); err != nil {
		t.Errorf("it has ended with %v", err)
	}
	if out := other.out.String(); t.Failed() || !strings.Contains(out, "has finished (rolled_back): nothing is released until") {
		t.Errorf("the first one:\n%s\nthe other one:\n%s", leader.out.String(), out)
	}
}

func head(t *testing.T, git *gitops.Repository) string {
	t.Helper()
	commit, err := git.Head()
	if err != nil {
		t.Fatal(err)
	}
	return commit
}
