package gitlab

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/pipelinefile"
)

// ErrCanceled is the end of a job that somebody has canceled.
var ErrCanceled = errors.New("canceled")

// failureReasons are what GitLab says that it knows, of what a runner says (the job's features).
var failureReasons = []string{
	"unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure", "runner_system_failure", "missing_dependency_failure",
	"runner_unsupported", "job_execution_timeout", "scheduler_failure", "data_integrity_failure", "trace_size_exceeded",
}

// Pending are the jobs that a runner would take now, but for those that have one.
func (p *Pipeline) Pending() (names []string) {
	for _, j := range p.simulation.Jobs() {
		if j.Status == "pending" && p.given[j.Name] == nil {
			names = append(names, j.Name)
		}
	}
	return names
}

// Start gives a job that is pending to the runner of the coordinator.
func (p *Pipeline) Start(job string) (*Execution, error) {
	if !slices.Contains(p.Pending(), job) {
		return nil, fmt.Errorf("job %s is not pending", job)
	}
	if err := p.refuse(job); err != nil {
		return nil, err
	}
	e, err := p.give(job)
	p.show()
	return e, err
}

func (p *Pipeline) give(job string) (*Execution, error) {
	e := p.gitlab.Coordinator.execution(job, p.fill(p.gitlab.file.Job(job).ResourceGroup))
	payload, err := p.payload(e, p.gitlab.Coordinator.maximumTimeout())
	if err != nil {
		return nil, err
	}
	p.given[job] = e
	p.gitlab.Coordinator.queue(e, payload)
	return e, nil
}

// Wait waits for the end of a job, and takes it into the pipeline. A job that is retried by itself is waited for again, and e is
// the last of its executions. A job that has failed is a *JobError, of which one that was canceled is ErrCanceled.
func (p *Pipeline) Wait(ctx context.Context, e *Execution) (*Execution, error) {
	for retries := 0; ; retries++ {
		select {
		case <-ctx.Done():
			return e, ctx.Err()
		case <-e.ended:
		}
		p.started[e.Job], p.finished[e.Job] = e.Started(), time.Now()
		if e.size() > 0 {
			p.artifacts[e.Job] = e
		}
		if e.Status() != "failed" || retries >= p.retries(e.Job, e.Reason()) {
			break
		}
		next, err := p.give(e.Job)
		if err != nil {
			return e, err
		}
		e = next
		p.show()
	}
	delete(p.given, e.Job)
	defer p.show()
	switch e.Status() {
	case "success":
		return e, p.simulation.Finish(e.Job, true)
	case "canceled":
		return e, errors.Join(p.simulation.Cancel(e.Job), &JobError{e.Job, ErrCanceled})
	}
	finish := func() error { return p.simulation.Exit(e.Job, e.ExitCode()) }
	if e.ExitCode() == 0 { // no code that could be allowed
		finish = func() error { return p.simulation.Finish(e.Job, false) }
	}
	if err := finish(); err != nil {
		return e, err
	}
	return e, &JobError{e.Job, fmt.Errorf("%s, exit code %d", e.Reason(), e.ExitCode())}
}

// retries are how often GitLab retries a job by itself that has failed for a reason.
func (p *Pipeline) retries(job, reason string) int {
	j := p.gitlab.file.Job(job)
	if slices.Contains(j.RetryWhen, reason) || slices.Contains(j.RetryWhen, "always") {
		if most := j.Texts("retry", "max"); len(most) == 1 {
			n, _ := strconv.Atoi(most[0])
			return n
		}
	}
	if reason == "scheduler_failure" {
		return 2
	}
	return 0
}

// Retry is the button of a job that has ended.
func (p *Pipeline) Retry(job, user string) error {
	if environment := p.environment(job); !p.gitlab.server.MayDeploy(environment, user) {
		return fmt.Errorf("403 Forbidden: %s may not deploy to %s", user, environment)
	}
	defer p.show()
	if err := p.simulation.Retry(job); err != nil {
		return err
	}
	p.pressed[job] = user
	return nil
}

// CancelAll is the button of the pipeline: jobs that run are canceled as by their own button, the others never start.
func (p *Pipeline) CancelAll() {
	for _, e := range p.given {
		e.Cancel()
	}
	for _, j := range p.simulation.Jobs() {
		if p.given[j.Name] == nil && slices.Contains([]string{"created", "pending", "scheduled"}, j.Status) {
			_ = p.simulation.Cancel(j.Name)
		}
	}
	p.show()
}

// Add makes a pipeline, as a trigger with these inputs does.
func (g *GitLab) Add(ctx context.Context, inputs map[string]any) (*Pipeline, error) {
	return g.Pipeline(ctx, g.server.Add(gitlabtest.Pipeline{Source: "trigger", Inputs: inputs}))
}

// SetVariable sets a variable in the project's settings, for the jobs that are started from now on; "" removes it.
func (g *GitLab) SetVariable(key, value string) {
	if g.variables[key] = value; value == "" {
		delete(g.variables, key)
	}
}

// State is GitLab's word for a job.
func (p *Pipeline) State(job string) string {
	for _, j := range p.simulation.Jobs() {
		if j.Name == job {
			return j.Status
		}
	}
	return ""
}

// fill puts the pipeline's inputs into a text, or their defaults.
func (p *Pipeline) fill(text string) string {
	return reference.ReplaceAllStringFunc(text, func(found string) string {
		name := reference.FindStringSubmatch(found)[1]
		if given, ok := p.inputs[name]; ok {
			return fmt.Sprint(given)
		}
		if fallback := p.gitlab.file.Inputs[name].Default; fallback != nil {
			return *fallback
		}
		return ""
	})
}

func (p *Pipeline) filled(texts []string) []string {
	filled := make([]string, len(texts))
	for i, text := range texts {
		filled[i] = p.fill(text)
	}
	return filled
}

// variable is one that a job gets.
type variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	File   bool   `json:"file"`
	Masked bool   `json:"masked"`
	Raw    bool   `json:"raw"`
}

// payload is a job as GitLab gives it to a runner: of the pipeline file nothing is left to be decided.
func (p *Pipeline) payload(e *Execution, maximum time.Duration) (map[string]any, error) {
	job := p.gitlab.file.Job(e.Job)
	timeout := time.Hour // the project's
	if own := job.Texts("timeout"); len(own) == 1 {
		d, err := time.ParseDuration(own[0])
		if err != nil {
			return nil, fmt.Errorf("job %s: timeout: %w", e.Job, err)
		}
		timeout = d
	}
	if maximum > 0 {
		timeout = min(timeout, maximum)
	}
	seconds := int(timeout.Seconds())
	steps := []map[string]any{{
		"name": "script", "script": p.filled(slices.Concat(job.Texts("before_script"), job.Texts("script"))),
		"timeout": seconds, "when": "on_success", "allow_failure": false,
	}}
	if after := job.Texts("after_script"); len(after) > 0 {
		steps = append(steps, map[string]any{"name": "after_script", "script": p.filled(after), "timeout": seconds, "when": "always", "allow_failure": true})
	}
	artifacts := []map[string]any{}
	if paths := job.Texts("artifacts", "paths"); len(paths) > 0 {
		artifacts = append(artifacts, map[string]any{
			"name": "", "untracked": false, "paths": p.filled(paths), "when": first(job.Texts("artifacts", "when"), "on_success"),
			"artifact_type": "archive", "artifact_format": "zip", "expire_in": first(job.Texts("artifacts", "expire_in"), "30 days"),
		})
	}
	dependencies := []map[string]any{}
	for _, name := range p.dependencies(job) {
		if from := p.artifacts[name]; from != nil {
			dependencies = append(dependencies, map[string]any{
				"id": from.ID, "token": from.token, "name": name, "artifacts_file": map[string]any{"filename": "artifacts.zip", "size": from.size()},
			})
		}
	}
	variables, err := p.variables(e, job, seconds)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"id": e.ID, "token": e.token, "allow_git_fetch": true,
		"job_info": map[string]any{"name": e.Job, "stage": job.Stage, "project_id": 7, "project_name": filepath.Base(p.gitlab.Project), "project_full_path": p.gitlab.Project, "pipeline_id": p.ID},
		"git_info": map[string]any{
			"repo_url": "file://" + p.dir, "ref": "main", "sha": p.commit, "before_sha": strings.Repeat("0", 40), "ref_type": "branch",
			"refspecs": []string{"+refs/heads/main:refs/remotes/origin/main"}, "depth": 20,
		},
		"runner_info": map[string]any{"timeout": seconds},
		"variables":   variables, "steps": steps, "artifacts": artifacts, "dependencies": dependencies,
		"image": nil, "services": []any{}, "cache": []any{}, "credentials": []any{}, "hooks": []any{},
		"features": map[string]any{"trace_sections": true, "token_mask_prefixes": []string{"glpat-", "glcbt-"}, "failure_reasons": failureReasons},
	}, nil
}

func first(texts []string, otherwise string) string {
	if len(texts) > 0 {
		return texts[0]
	}
	return otherwise
}

// dependencies are the jobs whose artifacts a job gets: those that it needs, or all of the stages before its own.
func (p *Pipeline) dependencies(job *pipelinefile.Job) (names []string) {
	if job.HasNeeds {
		return job.Needs
	}
	stages := p.gitlab.file.Stages
	for _, other := range p.gitlab.file.Jobs {
		if slices.Index(stages, other.Stage) < slices.Index(stages, job.Stage) {
			names = append(names, other.Name)
		}
	}
	return names
}

// variables of a job, in GitLab's order: what it sets itself, the file's, and then the project's, which win.
func (p *Pipeline) variables(e *Execution, job *pipelinefile.Job, timeout int) ([]variable, error) {
	server, user := p.gitlab.server, p.gitlab.server.UserOf(p.user(e.Job))
	var all []variable
	public := func(key, value string) { all = append(all, variable{Key: key, Value: value, Public: true}) }
	secret := func(key, value string) { all = append(all, variable{Key: key, Value: value, Masked: true}) }
	id, pipeline := strconv.FormatInt(e.ID, 10), strconv.FormatInt(p.ID, 10)
	project := server.URL + "/" + p.gitlab.Project
	for _, v := range [][2]string{
		{"CI", "true"}, {"GITLAB_CI", "true"}, {"CI_SERVER_URL", server.URL}, {"CI_PROJECT_ID", "7"}, {"CI_PROJECT_PATH", p.gitlab.Project},
		{"CI_PROJECT_NAME", filepath.Base(p.gitlab.Project)}, {"CI_PROJECT_URL", project}, {"CI_CONFIG_PATH", "release.gitlab-ci.yml"},
		{"CI_PIPELINE_ID", pipeline}, {"CI_PIPELINE_URL", project + "/-/pipelines/" + pipeline}, {"CI_PIPELINE_SOURCE", "trigger"},
		{"CI_JOB_ID", id}, {"CI_JOB_URL", project + "/-/jobs/" + id}, {"CI_JOB_NAME", e.Job}, {"CI_JOB_STAGE", job.Stage},
		{"CI_JOB_TIMEOUT", strconv.Itoa(timeout)},
		{"CI_COMMIT_SHA", p.commit}, {"CI_COMMIT_REF_NAME", "main"}, {"CI_COMMIT_BRANCH", "main"}, {"CI_COMMIT_REF_PROTECTED", "true"},
		{"CI_ENVIRONMENT_NAME", p.fill(job.Environment.Name)}, {"CI_ENVIRONMENT_ACTION", cmp.Or(job.Environment.Action, "start")},
		{"GITLAB_USER_LOGIN", user.Login}, {"GITLAB_USER_ID", strconv.FormatInt(user.ID, 10)},
	} {
		public(v[0], v[1])
	}
	secret("CI_JOB_TOKEN", e.token)
	for name, token := range p.tokens(e.Job) {
		secret(name, token)
	}
	for _, key := range job.Keys("variables") {
		public(key, p.fill(first(job.Texts("variables", key), "")))
	}
	kube, err := os.ReadFile(p.gitlab.options.Kube)
	if err != nil {
		return nil, err
	}
	all = append(all, variable{Key: "KUBECONFIG", Value: string(kube), File: true})
	for _, key := range slices.Sorted(maps.Keys(p.gitlab.options.Files)) {
		text, err := os.ReadFile(p.gitlab.options.Files[key])
		if err != nil {
			return nil, err
		}
		all = append(all, variable{Key: key, Value: string(text), File: true})
	}
	for _, key := range slices.Sorted(maps.Keys(p.gitlab.variables)) {
		all = append(all, variable{Key: key, Value: p.gitlab.variables[key]})
	}
	return all, nil
}

// refuse fails a job of a protected environment that nobody has started who may deploy to it.
func (p *Pipeline) refuse(job string) error {
	environment := p.environment(job)
	if p.gitlab.server.MayDeploy(environment, p.user(job)) {
		return nil
	}
	if err := p.simulation.Finish(job, false); err != nil {
		return err
	}
	p.show()
	return &JobError{job, fmt.Errorf("protected_environment_failure: %s may not deploy to %s", p.user(job), environment)}
}

// uploaded reads a file of the newest artifacts that have it.
func (p *Pipeline) uploaded(name string) (text []byte, err error) {
	err = fmt.Errorf("no job has uploaded %s", name)
	newest := int64(0)
	for _, e := range p.artifacts {
		if found, problem := e.Artifact(name); problem == nil && e.ID > newest {
			newest, text, err = e.ID, found, nil
		}
	}
	return text, err
}

// Artifact reads a file of what the job has uploaded.
func (e *Execution) Artifact(name string) ([]byte, error) {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	if e.artifacts == nil {
		return nil, fmt.Errorf("%s has uploaded nothing", e.Job)
	}
	archive, err := zip.NewReader(bytes.NewReader(e.artifacts), int64(len(e.artifacts)))
	if err != nil {
		return nil, err
	}
	file, err := archive.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

func (e *Execution) size() int {
	e.coordinator.mu.Lock()
	defer e.coordinator.mu.Unlock()
	return len(e.artifacts)
}

// Runner is GitLab's own runner, for the jobs of a GitLab whose Coordinator it asks.
type Runner struct {
	dir, program string
	process      *exec.Cmd
	ended        chan struct{}
}

// StartRunner starts one: dir is a folder for its configuration, clones and log, and program comes from setup.EnsureGitLabRunner.
// Its jobs have Crossbill's folder before PATH, as their image has the command. The caller must stop or kill it.
func (g *GitLab) StartRunner(dir, program string) (*Runner, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`concurrent = 4
check_interval = 1
shutdown_timeout = 30

[[runners]]
  name = "rehearsal"
  url = %q
  id = 1
  token = %q
  executor = "shell"
  shell = "bash"
  builds_dir = %q
  cache_dir = %q
  environment = [%q]
`, g.URL, g.Coordinator.Token, filepath.Join(dir, "builds"), filepath.Join(dir, "cache"), "PATH="+g.options.Crossbill+string(os.PathListSeparator)+os.Getenv("PATH"))
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	r := &Runner{dir: dir, program: program}
	return r, r.Start()
}

// Start starts a runner again that was killed.
func (r *Runner) Start() error {
	log, err := os.OpenFile(filepath.Join(r.dir, "runner.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	r.process = exec.Command(r.program, "run", "--config", filepath.Join(r.dir, "config.toml"), "--working-directory", r.dir)
	r.process.Stdout, r.process.Stderr = log, log
	r.process.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "HOME="+r.dir)
	if err := r.process.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	r.ended = ended
	go func(process *exec.Cmd) {
		_ = process.Wait() // how it ends says the test
		close(ended)
	}(r.process)
	return nil
}

// Kill kills the runner as a machine that goes does: it can do nothing about its jobs, whose processes go on.
func (r *Runner) Kill() {
	_ = r.process.Process.Kill()
	<-r.ended
}

// Stop ends the runner, and with it the jobs that it has.
func (r *Runner) Stop() {
	_ = r.process.Process.Signal(os.Interrupt)
	select {
	case <-r.ended:
	case <-time.After(time.Minute):
		r.Kill()
	}
}

// Log is what the runner itself has printed.
func (r *Runner) Log() string {
	text, _ := os.ReadFile(filepath.Join(r.dir, "runner.log"))
	return string(text)
}

// running are the jobs that a runner has.
func (p *Pipeline) running(job string) bool {
	e := p.given[job]
	return e != nil && !e.Started().IsZero()
}
