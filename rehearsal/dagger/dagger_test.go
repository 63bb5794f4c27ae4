//go:build dagger

// Package dagger_test calls every function of the Dagger module on a real engine, with the rehearsal's
// registry, cluster and Prometheus and a GitLab double as tcp:// services. `make test-dagger` runs it where
// there are a dagger command and an engine.
package dagger_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/gitlab"
	"github.com/our-org/crossbill/rehearsal/lifecycle"
	"github.com/our-org/crossbill/rehearsal/load"
	"github.com/our-org/crossbill/rehearsal/nodebase"
	"github.com/our-org/crossbill/rehearsal/sandbox"
	"github.com/our-org/crossbill/rehearsal/setup"
	"github.com/our-org/crossbill/rehearsal/signing"
)

var (
	images = flag.String("dagger.images", "", "arguments before the function that name images in place of the module's own: --tool-images=node=…,go=…")
	page   = flag.String("dagger.page", "", "page to write: each function's call and what it printed")
)

const baseVariable = "CROSSBILL_TEST_BASE"

var (
	running *cluster.Cluster
	gitLab  *gitlabtest.Server
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx := context.Background()
	log := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	programs, err := setup.Ensure(ctx, "", log)
	if err != nil {
		return 1, err
	}
	if !sandbox.Inside() {
		if text, err := exec.CommandContext(ctx, "dagger", "version").Output(); err != nil || !strings.Contains(string(text), "v0.21.8") {
			return 1, fmt.Errorf("dagger v0.21.8 has to be in PATH, and an engine reached: %s %v", text, err)
		}
		base, err := nodebase.Ensure(ctx)
		if err == nil {
			err = os.Setenv(baseVariable, base)
		}
		if err != nil {
			return 1, err
		}
		return sandbox.Run(ctx, os.Args[1:])
	}
	if _, err := sandbox.Enter(); err != nil {
		return 1, err
	}
	klog.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "crossbill-dagger-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	running, err = cluster.Start(ctx, cluster.Options{
		Dir: filepath.Join(dir, "cluster"), TestclusterBinary: programs.Testcluster, EnvoyBinary: programs.Envoy, PrometheusBinary: programs.Prometheus,
		GatewayAPI: programs.GatewayAPI,
	})
	if err != nil {
		return 1, err
	}
	defer running.Close()
	listener, err := net.Listen("tcp", gitLabs)
	if err != nil {
		return 1, err
	}
	gitLab = gitlabtest.New()
	gitLab.Life = []gitlabtest.Phase{
		{Status: "running"},
		{After: 3 * time.Second, Status: "manual", Jobs: []gitlabtest.Job{
			{Name: "deploy_canary", Stage: "canary", Status: "success"}, {Name: "verify_canary", Stage: "verify", Status: "success"},
			{Name: "promote_to_production", Stage: "promote", Status: "manual"}, {Name: "rollback", Stage: "rollback", Status: "manual"},
		}},
	}
	go http.Serve(listener, gitLab) //nolint:errcheck // ends with the process
	code := m.Run()
	if code != 0 || *page == "" {
		return code, nil
	}
	listed, err := exec.CommandContext(ctx, "dagger", "functions", "--mod=../..").Output()
	if err != nil {
		return 1, err
	}
	return 0, writePage(*page, string(listed))
}

// module calls functions of the module.
type module struct {
	*testing.T
	constructor []string
	env         []string
}

// result is what a call came to.
type result struct {
	code           int
	stdout, stderr string
}

// command is a `dagger` command in the repository.
func (m *module) command(ctx context.Context, args ...string) *exec.Cmd {
	if args[0] == "call" {
		args = slices.Concat(args[:1], strings.Fields(*images), args[1:])
	}
	cmd := exec.CommandContext(ctx, "dagger", args...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), append(m.env, "DAGGER_PROGRESS=logs", "DO_NOT_TRACK=1", "DAGGER_NO_UPDATE_CHECK=1", "DAGGER_NO_NAG=1", "NO_COLOR=1")...)
	return cmd
}

// dagger runs a `dagger` command.
func (m *module) dagger(args ...string) result {
	m.Helper()
	cmd := m.command(m.Context(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		m.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	m.Logf("%.1f s, exit code %d, %d lines of log: dagger %s", time.Since(began).Seconds(), r.code, strings.Count(r.stderr, "\n"), strings.Join(args, " "))
	return r
}

// shows runs the built app as a service of the engine's, and wants it to answer.
func (m *module) shows() {
	m.Helper()
	ctx, stop := context.WithTimeout(m.Context(), 3*time.Minute)
	defer stop()
	cmd := m.command(ctx, slices.Concat([]string{"call"}, m.constructor, []string{"build", "as-service", "up", "--ports=3000:3000"})...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		m.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // it was interrupted
	defer stop()
	for {
		response, err := http.Get("http://127.0.0.1:3000/health")
		if err == nil && response.Body.Close() == nil && response.StatusCode == http.StatusOK {
			return
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			m.Fatalf("the app that was built does not answer: %v %v", response, err)
		}
	}
}

// call calls a function and wants an exit code. It gives what was printed, with a failure also the log.
func (m *module) call(want int, function string, args ...string) string {
	m.Helper()
	r := m.dagger(slices.Concat([]string{"call"}, m.constructor, strings.Fields(function), args)...)
	records = append(records, record{strings.Fields(function)[0], m.constructor, append(strings.Fields(function), args...), r})
	if r.code != want {
		m.Fatalf("%s: exit code %d, want %d\n%s\n%s", function, r.code, want, r.stdout, r.stderr)
	}
	if r.code != 0 {
		return strings.TrimSpace(r.stdout) + r.stderr
	}
	// The log is for people: what a function returns is on standard output alone.
	if _, data, ok := strings.Cut(r.stdout, "{\n"); ok && json.Valid([]byte(r.stdout)) {
		if line, _, _ := strings.Cut(data, "\n"); strings.Contains(r.stderr, line) {
			m.Errorf("%s: the log has the JSON %q too, among %d lines", function, line, strings.Count(r.stderr, "\n"))
		}
	}
	return strings.TrimSpace(r.stdout)
}

// with is the module with more arguments before the function.
func (m *module) with(args ...string) *module {
	return &module{m.T, slices.Concat(m.constructor, args), m.env}
}

// has wants texts in what a call printed.
func (m *module) has(printed string, wants ...string) {
	m.Helper()
	for _, want := range wants {
		if !strings.Contains(printed, want) {
			m.Errorf("%q is not in\n%s", want, printed)
		}
	}
}

// read reads a call's JSON.
func read[T any](t *testing.T, printed string) (value T) {
	t.Helper()
	if err := json.Unmarshal([]byte(printed), &value); err != nil {
		t.Fatalf("%v in %s", err, printed)
	}
	return value
}

const commit = "0123456789abcdef0123456789abcdef01234567"

// local is the name of the rehearsal's registry where a call is given it as a service.
const local = "registry.localhost:5000"

// gitLabs is GitLab's address.
const gitLabs = "127.0.0.1:8929"

// newModule is the module without arguments before the function; GitLab's tokens are in the environment.
func newModule(t *testing.T) *module {
	return &module{T: t, env: []string{"GITLAB_TOKEN=" + gitLab.APIToken, "GITLAB_TRIGGER_TOKEN=" + gitLab.TriggerToken}}
}

// config writes the sample app's crossbill.yaml with what is true of this cluster and this GitLab, and returns its path.
func config(t *testing.T, base string) string {
	t.Helper()
	text, err := gitlab.Configure("../../crossbill.yaml", map[string]any{
		"cluster.namespace": running.Namespace, "gitlab.project": gitLab.Project, "image.base": local + "/node@" + base,
	})
	if err != nil {
		t.Fatal(err)
	}
	var content map[string]any
	if err := yaml.Unmarshal(text, &content); err != nil {
		t.Fatal(err)
	}
	delete(content["cluster"].(map[string]any), "context") // the kubeconfig has one
	delete(content, "approval")                            // no job calls the functions here
	if text, err = yaml.Marshal(content); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "crossbill.yaml")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// pushBase pushes the base of the app's image, and returns its digest.
func pushBase(t *testing.T) string {
	t.Helper()
	base, err := registry.Pull(t.Context(), "base", os.Getenv(baseVariable), authn.DefaultKeychain)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := base.Digest()
	if err != nil {
		t.Fatal(err)
	}
	to, err := name.NewDigest(running.RegistryHost + "/node@" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, base); err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func TestFunctionsAreListed(t *testing.T) {
	m := newModule(t)
	listed := m.dagger("functions").stdout
	for _, function := range functions {
		if !regexp.MustCompile(`(?m)^` + function + ` +\S`).MatchString(listed) {
			t.Errorf("%s is not in\n%s", function, listed)
		}
	}
}

// TestMissingArguments: what is missing is said by the module itself, with the exit code of bad input.
func TestMissingArguments(t *testing.T) {
	m := newModule(t)
	for says, call := range map[string][]string{
		"--kubeconfig-file is missing":                          {"call", "status"},
		"--gitlab-token is missing":                             {"call", "watch", "--pipeline=7"},
		"--gitlab-token: the secret cannot be read":             {"call", "--gitlab-token=env:NO_SUCH_VARIABLE", "watch", "--pipeline=7"},
		"--kubeconfig-file: the secret cannot be read":          {"call", "--kubeconfig-file=file:no-such-file", "status"},
		"--tool-images: \"ruby=ruby:3\" is not NAME=IMAGE with": {"call", "--tool-images=ruby=ruby:3", "status"},
	} {
		if r := m.dagger(call...); r.code != 2 || !strings.Contains(r.stderr, "Error: "+says) {
			t.Errorf("%s: exit code %d, want 2 and %q\n%s", call, r.code, says, r.stderr)
		}
	}
}

// TestLifecycle carries a release through its whole lifecycle by the module's functions.
func TestLifecycle(t *testing.T) {
	m := newModule(t)

	m.call(0, "check")
	m = m.with("--config-file=" + config(t, pushBase(t)))
	toRegistry := m.with("--registry-service=tcp://" + cluster.Registry)
	if user := toRegistry.call(0, "build user"); user != image.User {
		t.Errorf("the image's user is %q", user)
	}
	toRegistry.shows()
	if entry := m.call(0, "cli entrypoint"); entry != "crossbill" {
		t.Errorf("the command's entrypoint is %q", entry)
	}

	first := toRegistry.call(0, "publish", "--address="+local+"/our-org/app:1.0.0", "--app-version=1.0.0", "--source-commit="+commit)
	if again := toRegistry.call(0, "publish", "--address="+local+"/our-org/app:again", "--app-version=1.0.0", "--source-commit="+commit); digest(again) != digest(first) {
		t.Errorf("one commit is two images: %s, %s", first, again)
	}
	key, _, err := signing.Key(t.TempDir(), lifecycle.Source)
	if err != nil {
		t.Fatal(err)
	}
	second := toRegistry.call(0, "publish", "--address="+local+"/our-org/app:1.1.0", "--app-version=1.1.0", "--source-commit="+commit, "--source-url="+lifecycle.Source, "--signing-key=file:"+key)
	m.has(toRegistry.call(0, "inspect", "--image="+local+"/our-org/app@"+digest(second)), "sbom", "provenance", "1.1.0")

	toGitLab := m.with("--gitlab-service=tcp://"+gitLabs, "--gitlab-token=env:GITLAB_TOKEN")
	toGitLab.handoff(local + "/our-org/app@" + digest(second))
	toCluster := m.with("--manifests-dir=k8s", "--kubeconfig-file=file:"+running.Kubeconfig, "--kubernetes-service=tcp://"+cluster.APIServer, "--prometheus-service=tcp://"+cluster.Prometheus)
	toCluster.rollout(running.RegistryHost+"/our-org/app@"+digest(first), running.RegistryHost+"/our-org/app@"+digest(second))

	released := read[struct{ State string }](t, toRegistry.with(toGitLab.constructor[1:]...).call(0, "release", "--address="+local+"/our-org/app:1.2.0", "--source-commit="+commit,
		"--app-version=1.2.0", "--trigger-token=env:GITLAB_TRIGGER_TOKEN"))
	if released.State != "waiting" {
		t.Errorf("release ends with %s", released.State)
	}
}

func digest(published string) string {
	_, digest, _ := strings.Cut(published, "@")
	return digest
}

// handoff triggers, watches and cancels, and sees that the same call is made twice when it is given twice.
func (m *module) handoff(image string) {
	t := m.T
	type pipeline struct {
		PipelineID int64
		State      string
	}
	trigger := func(args ...string) pipeline {
		return read[pipeline](t, m.call(0, "trigger", append([]string{"--image=" + image, "--commit=" + commit, "--trigger-token=env:GITLAB_TRIGGER_TOKEN"}, args...)...))
	}
	started := trigger()
	if adopted := trigger(); adopted != started || gitLab.Posts() != 1 {
		t.Errorf("the second trigger returns %v after %v, %d POSTs", adopted, started, gitLab.Posts())
	}
	watched := read[pipeline](t, m.call(0, "watch", fmt.Sprintf("--pipeline=%d", started.PipelineID)))
	if watched.State != "waiting" {
		t.Errorf("watch sees %s", watched.State)
	}
	m.has(m.call(0, "cancel", fmt.Sprintf("--pipeline=%d", started.PipelineID)), "rollback")

	// One call, twice: without +cache="never" Dagger would answer the second from its cache.
	seen := map[int64]bool{started.PipelineID: true}
	for range 2 {
		for id := range seen {
			gitLab.Show(id, "failed", nil)
		}
		seen[trigger("--again").PipelineID] = true
	}
	if len(seen) != 3 || gitLab.Posts() != 3 {
		t.Errorf("%d pipelines of %d POSTs, want 3 of 3", len(seen), gitLab.Posts())
	}
}

// rollout releases two images, and takes the second back.
func (m *module) rollout(first, second string) {
	t := m.T
	type outcome struct {
		Outcome string
		Message string
	}
	m.has(m.call(0, "plan", "--command=canary", "--image="+first), "create")
	if o := read[outcome](t, m.call(0, "canary", "--image="+first)); o.Outcome != "first" {
		t.Errorf("the first release: %v", o)
	}
	m.has(m.call(0, "status"), digest(first)[:19])
	traffic := load.Start("http://"+running.GatewayAddress+"/api/version", lifecycle.Host, 200)
	defer traffic.Stop()

	m.call(0, "canary", "--image="+second)
	m.call(0, "shift", "--steps=20,30")
	began := time.Now()
	m.has(m.call(0, "verify", "--max-duration=3m"), "healthy")
	if share := 100 * traffic.Between(began, time.Now()).Share("canary"); share < 20 || share > 40 {
		t.Errorf("the canary had %.1f%% of the traffic at weight 30", share)
	}
	m.call(0, "promote")
	m.call(0, "cleanup")
	m.has(m.call(0, "status"), digest(second)[:19])
	m.has(m.call(0, "history"), "promoted")
	m.call(0, "guard")
	m.call(0, "preview-up", "--name=pr-42", "--image="+first)
	m.has(m.call(0, "preview-list"), "x-crossbill-preview: pr-42", digest(first)[:19])
	m.call(0, "preview-down", "--name=pr-42")

	// Both times there is a canary afterwards, by the same line.
	for range 2 {
		m.call(0, "canary", "--image="+first, "--again")
		m.has(m.call(0, "status", "--format=json"), `"canary": 10`)
		m.has(m.call(4, "verify", "--max-duration=5s"), "inconclusive")
		m.call(0, "rollback")
	}

	m.has(m.call(0, "report", "--format=markdown", "contents"), "rolled back")
	file := filepath.Join(t.TempDir(), "report.html")
	m.call(0, "report", "-o", file)
	if text, err := os.ReadFile(file); err != nil || !bytes.Contains(text, []byte("rolled back")) {
		t.Errorf("the report: %v, %d bytes", err, len(text))
	}

	// The command's own words and exit code come through; an image that no registry has is noticed at once.
	m.has(m.call(2, "canary", "--image=registry.example.com/our-org/app:latest"), "--image", "sha256")
	m.has(m.call(2, "promote", "--release-id=no-such-release"), "no-such-release")
}

// TestRehearsal runs the rehearsal as a function: privileged, and on a new engine for long.
func TestRehearsal(t *testing.T) {
	m := newModule(t)
	text := m.call(0, "rehearse", "file", "--path=rehearsal.json", "contents")
	if s := read[lifecycle.Summary](t, text); len(s.Releases) != 3 || s.Lost != 0 {
		t.Errorf("%s", text)
	}
}
