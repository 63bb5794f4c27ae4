package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/gitlab"
	"github.com/our-org/crossbill/rehearsal/lifecycle"
	"github.com/our-org/crossbill/rehearsal/screen"
)

// adoption is the trial of a team that has an app, its manifests, and an empty repository: init, doctor, and the references
// that init wrote, up to a promoted canary.
type adoption struct {
	dir     string // the team's repository
	files   map[string]string
	started time.Time
}

// adopted is adopt.json.
type adopted struct {
	LinesWritten int            `json:"linesWritten"` // by init
	Lines        map[string]int `json:"lines"`        // by file
	Edits        int            `json:"edits"`        // files that are others at the end than init wrote them
	Minutes      float64        `json:"minutes"`      // from init to the promoted canary
	Outcome      string         `json:"outcome"`      // of the second release: the first has nothing to be compared with
	Blocked      []string       `json:"blocked,omitempty"`
}

// gitlabAddress is where the trial's GitLab is: init writes it into a file before there is a pipeline file to start it with.
const gitlabAddress = "127.0.0.1:8929"

// adopt releases an app with nothing but what init wrote.
func adopt(ctx context.Context, o *options, s *screen.Screen, c *cluster.Cluster, key string) error {
	a := &adoption{dir: filepath.Join(o.work, "team"), started: time.Now()}
	s.Title("A team adopts Crossbill: an app, its manifests, and an empty repository")
	origin, stop, err := gitlab.ServeComponent(filepath.Join(o.work, "components"))
	if err != nil {
		return err
	}
	defer stop()
	if err := s.Step("init", func(progress func(string)) (string, error) { return a.init(ctx, o, c, origin) }); err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(a.dir, "crossbill.yaml"))
	if err != nil {
		return err
	}
	deploying, err := gitlab.Start(gitlab.Options{
		Dir: filepath.Join(o.work, "gitlab"), Repository: a.dir, Config: config, Address: gitlabAddress, Remote: origin + "/our-org/infrastructure.git",
		Environment: "production/" + lifecycle.App, Runner: o.runner, Crossbill: filepath.Join(o.repository, "bin"), Kube: c.Kubeconfig,
	})
	if err != nil {
		return err
	}
	defer deploying.Close()
	r := &lifecycle.Rehearsal{
		GitLab: deploying, Config: filepath.Join(a.dir, "crossbill.yaml"),
		Repository: o.repository, Crossbill: filepath.Join(o.repository, "bin", "crossbill"), Base: o.base,
		Work: o.work, Out: o.out, SigningKey: key, Rate: o.rate, Screen: s, Cluster: c, Only: 2,
	}
	result := adopted{Lines: map[string]int{}}
	err = s.Step("doctor", func(progress func(string)) (string, error) {
		var summary string
		summary, result.Blocked, err = a.doctor(ctx, o, c, deploying)
		return summary, err
	})
	if err != nil {
		return err
	}
	for _, problem := range result.Blocked {
		s.Line("    ✗ %s", problem)
	}
	r.Begin(ctx, o.packages)
	if err := r.Check(ctx); err != nil {
		return err
	}
	r.Publish(ctx)
	defer r.StopTraffic()
	summary := &lifecycle.Summary{RequestsPerSecond: o.rate}
	for _, version := range r.Versions() {
		if err := r.Release(ctx, version, summary); err != nil {
			return err
		}
	}
	result.Outcome = summary.Releases[1].Outcome
	result.Minutes = time.Since(a.started).Round(time.Second).Minutes()
	if err := a.count(&result); err != nil {
		return err
	}
	text, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	s.Title("%d lines written by init, %d files edited, %s after %.1f minutes: %s", result.LinesWritten, result.Edits, result.Outcome, result.Minutes, relative(filepath.Join(o.out, "adopt.json")))
	return os.WriteFile(filepath.Join(o.out, "adopt.json"), append(text, '\n'), 0o644)
}

// init makes the team's repository, with the app's manifests alone, and runs `crossbill init` in it.
func (a *adoption) init(ctx context.Context, o *options, c *cluster.Cluster, origin string) (string, error) {
	if err := os.CopyFS(filepath.Join(a.dir, "k8s"), os.DirFS(filepath.Join(o.repository, "k8s"))); err != nil {
		return "", err
	}
	kube, err := currentContext(c.Kubeconfig)
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{{"git", "init", "--quiet", "--initial-branch=main"}, {"git", "remote", "add", "origin", "git@github.com:our-org/" + lifecycle.App + ".git"}} {
		if _, err := a.run(ctx, nil, args...); err != nil {
			return "", err
		}
	}
	_, err = a.run(ctx, nil, filepath.Join(o.repository, "bin", "crossbill"), "init", "--yes",
		"--project", gitlabtest.New().Project, "--gitlab-url", "http://"+gitlabAddress, "--image", c.RegistryHost+"/our-org/"+lifecycle.App,
		"--context", kube, "--namespace", c.Namespace, "--prometheus", c.PrometheusURL,
		"--component", "$CI_SERVER_FQDN/our-org/crossbill/release@1.0.0", "--crossbill-image", c.RegistryHost+"/our-org/crossbill@sha256:"+strings.Repeat("0", 64),
		"--workflow", "our-org/crossbill/.github/workflows/deliver.yml@"+strings.Repeat("0", 40))
	if err != nil {
		return "", err
	}
	a.files = map[string]string{}
	lines := 0
	for _, name := range []string{"crossbill.yaml", ".gitlab-ci.yml", ".github/workflows/release.yml"} {
		text, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil {
			return "", err
		}
		a.files[name] = string(text)
		lines += bytes.Count(text, []byte("\n"))
	}
	return fmt.Sprintf("%d lines in %d files", lines, len(a.files)), nil
}

// doctor looks at the set-up before the first release, as the job that releases would. What it says blocks is an error but for
// what only a release brings.
func (a *adoption) doctor(ctx context.Context, o *options, c *cluster.Cluster, g *gitlab.GitLab) (summary string, blocked []string, err error) {
	started := time.Now()
	out, err := a.run(ctx, []string{"KUBECONFIG=" + c.Kubeconfig, "GITLAB_TOKEN=" + g.Token}, filepath.Join(o.repository, "bin", "crossbill"), "doctor", "-o", "json")
	took := time.Since(started)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 2) {
		return "", nil, err
	}
	var found struct {
		Items []struct{ Check, Status, Detail string }
	}
	if err := json.Unmarshal(out, &found); err != nil {
		return "", nil, fmt.Errorf("crossbill doctor: %w\n%s", err, out)
	}
	counts := map[string]int{}
	for _, item := range found.Items {
		counts[item.Status]++
		if item.Status == "problem" {
			blocked = append(blocked, item.Check+": "+item.Detail)
		}
	}
	return fmt.Sprintf("%d right, %d problems, %d not to be known, in %.1fs", counts["ok"], counts["problem"], counts["unknown"], took.Seconds()), blocked, nil
}

// count says how much init wrote, and which of it is another file by now.
func (a *adoption) count(result *adopted) error {
	for name, wrote := range a.files {
		text, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil {
			return err
		}
		if string(text) != wrote {
			result.Edits++
		}
		result.Lines[name] = strings.Count(wrote, "\n")
		result.LinesWritten += result.Lines[name]
	}
	return nil
}

// run runs a program in the team's repository, and gives what it prints.
func (a *adoption) run(ctx context.Context, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = a.dir, append(os.Environ(), env...), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("%s: %w\n%s%s", filepath.Base(args[0]), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}
