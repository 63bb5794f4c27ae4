// Package gitlab is the rehearsal's GitLab. Its API is the double in internal/gitlab/gitlabtest, which makes a
// pipeline of each trigger, signs the ID tokens of its jobs, and knows who may press which. internal/pipelinefile decides which job comes next, as GitLab would. gitlab-ci-local
// runs each job in a shell, from the repository's own pipeline file, with its inputs, variables and script.
//
// gitlab-ci-local is no GitLab Runner. It differs: it reads the pipeline file itself, where GitLab gives a runner a job of which
// everything is decided; it runs one job at a time and talks to no coordinator, so that a job cannot be canceled and does not time
// out (timeout, RUNNER_SCRIPT_TIMEOUT), no answer is lost and no runner dies; after_script runs whatever happened, without
// CI_JOB_STATUS of a canceled or timed-out job; artifacts are files of the folder that all jobs share, not an archive that is uploaded and
// unpacked, so that a job also sees files that it does not need; variables are plain, no file is made of KUBECONFIG, and nothing
// is masked in the log; watch_canary would keep it from all other jobs, and ends at once; retry and resource_group do nothing.
// Outdated deployment jobs are not prevented, as in a project that has turned that off.
//
// Where that matters, GitLab's own runner runs the jobs: see [Coordinator] and [Runner], and [Pipeline.Start] in place of
// [Pipeline.Run]. The long tests do (TestRunner in rehearsal/commands).
package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/gitlab/gitlabtest"
	"github.com/our-org/crossbill/internal/pipelinefile"
	"github.com/our-org/crossbill/templates"
)

// Options say what the GitLab deploys with. All are needed but those that say what is without them.
type Options struct {
	Dir        string            // for the checkouts of its jobs; it is created
	Repository string            // whose pipeline file the project has, with the component that it includes
	Config     []byte            // crossbill.yaml of the project
	Manifests  string            // folder of the app's manifests; "" where releases are bundles, which have them
	Images     string            // regular expression of the images that it accepts, in place of the sample's; "" for the file as it is
	Runner     string            // folder with gitlab-ci-local; "" where GitLab's own runner runs the jobs
	Crossbill  string            // folder with crossbill, which the jobs' image has
	Kube       string            // kubeconfig of its agent
	Files      map[string]string // files that variables of the project are, by their names
	Address    string            // host:port to listen at; "" for any port
	Remote     string            // of its checkouts, for Git, beside which the runner finds components; "" where the file includes none

	// Environment is protected: Approver alone may deploy to it, and crossbill.yaml's approval policy asks for that. "": there is
	// no policy.
	Environment string
}

// Approver is the person who presses the gate.
const Approver = "mona"

// GitLab has one project, and a runner.
type GitLab struct {
	URL          string
	Project      string
	TriggerToken string
	Token        string
	Coordinator  *Coordinator // for GitLab's own runner

	options   Options
	variables map[string]string // of the project's settings
	file      *pipelinefile.File
	text      []byte // of the pipeline file, as the project has it
	server    *gitlabtest.Server
	http      *http.Server
}

// Start starts to listen on this machine. The caller must close it.
func Start(o Options) (*GitLab, error) {
	path := filepath.Join(o.Repository, ".gitlab-ci.yml")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if o.Images != "" {
		if text, err = projects(text, o.Images); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	file, err := pipelinefile.ParseIncluding(text, o.find)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	listener, err := net.Listen("tcp", cmp.Or(o.Address, "127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	server := gitlabtest.New()
	server.URL = "http://" + listener.Addr().String()
	if o.Environment != "" {
		server.ProtectedEnvironments = map[string][]string{o.Environment: {Approver}}
		o.Config, err = configure(o.Config, map[string]any{"approval": map[string]any{"issuer": server.URL, "project": server.Project, "environment": o.Environment}})
		if err != nil {
			return nil, err
		}
	}
	coordinator, handler := newCoordinator(), http.NewServeMux()
	handler.Handle("/", server)
	handler.Handle("/api/v4/jobs/", coordinator)
	handler.Handle("/api/v4/runners/", coordinator)
	g := &GitLab{
		URL: server.URL, Project: server.Project, TriggerToken: server.TriggerToken, Token: server.APIToken, Coordinator: coordinator,
		options: o, variables: map[string]string{}, file: file, text: text, server: server, http: &http.Server{Handler: handler},
	}
	go g.http.Serve(listener) //nolint:errcheck // ends with Close
	return g, nil
}

// Close stops it.
func (g *GitLab) Close() error { return g.http.Close() }

// find is the text of a file that the pipeline file includes: one of the project's, or this repository's component.
func (o *Options) find(include pipelinefile.Include) (string, []byte, error) {
	if include.Kind != "component" {
		return pipelinefile.InRepository(o.Repository)(include)
	}
	_, _, text, err := templates.Component(include.Address)
	return include.Address, text, err
}

// projects is the pipeline file of a project: this repository's, with the images that the project accepts, as an
// infrastructure team writes it once. There is no engine here: its jobs have the image of the command.
func projects(text []byte, images string) ([]byte, error) {
	header, body, ok := strings.Cut(string(text), "\n---\n")
	if !ok {
		return nil, errors.New("it has no header with inputs")
	}
	var spec struct {
		Spec struct {
			Inputs map[string]map[string]any `yaml:"inputs"`
		} `yaml:"spec"`
	}
	if err := yaml.Unmarshal([]byte(header), &spec); err != nil {
		return nil, err
	}
	for _, name := range []string{"image", "bundle"} { // which is in the image's repository
		input := spec.Spec.Inputs[name]
		if input == nil {
			return nil, fmt.Errorf("it has no input %q", name)
		}
		input["regex"] = images
	}
	changed, err := yaml.Marshal(spec)
	if err != nil {
		return nil, err
	}
	const engine = "engine: dagger\n"
	if !strings.Contains(body, engine) {
		return nil, errors.New("it does not name the component's engine")
	}
	body = strings.Replace(body, engine, "engine: none\n      crossbill_image: registry.example.com/our-org/crossbill@sha256:"+strings.Repeat("0", 64)+"\n", 1)
	return []byte(string(changed) + "---\n" + body), nil
}

// Configure replaces values of a crossbill.yaml, by their keys: the sample app's file describes another cluster.
func Configure(file string, values map[string]any) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if text, err = configure(text, values); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return text, nil
}

func configure(text []byte, values map[string]any) ([]byte, error) {
	var config map[string]any
	if err := yaml.Unmarshal(text, &config); err != nil {
		return nil, err
	}
	for key, value := range values {
		sections := strings.Split(key, ".")
		in := config
		for _, name := range sections[:len(sections)-1] {
			section, _ := in[name].(map[string]any)
			if section == nil {
				section = map[string]any{}
				in[name] = section
			}
			in = section
		}
		in[sections[len(sections)-1]] = value
	}
	return yaml.Marshal(config)
}

// Pipeline is the pipeline of one release.
type Pipeline struct {
	ID int64

	gitlab     *GitLab
	simulation *pipelinefile.Simulation
	dir        string
	inputs     map[string]any
	checked    bool              // against GitLab's JSON schema, which one job's run does for all
	pressed    map[string]string // who has pressed a job, by its name; whoever started the pipeline runs the others
	started    map[string]time.Time
	finished   map[string]time.Time
	commit     string                // of the project
	given      map[string]*Execution // to a runner, by the job
	artifacts  map[string]*Execution // who has left some, by the job
}

// Pipeline finds the pipeline that a trigger made, so that the caller can run it.
func (g *GitLab) Pipeline(ctx context.Context, id int64) (*Pipeline, error) {
	all := g.server.Pipelines()
	at := slices.IndexFunc(all, func(p gitlabtest.Pipeline) bool { return p.ID == id })
	if at < 0 {
		return nil, fmt.Errorf("there is no pipeline %d", id)
	}
	simulation, err := g.file.Simulate()
	if err != nil {
		return nil, err
	}
	p := &Pipeline{ID: id, gitlab: g, simulation: simulation, dir: filepath.Join(g.options.Dir, strconv.FormatInt(id, 10)), inputs: all[at].Inputs, pressed: map[string]string{}, started: map[string]time.Time{}, finished: map[string]time.Time{}, given: map[string]*Execution{}, artifacts: map[string]*Execution{}}
	p.show()
	return p, p.checkout(ctx)
}

// checkout makes the job's repository: gitlab-ci-local needs one, with a remote.
func (p *Pipeline) checkout(ctx context.Context) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	if p.gitlab.options.Manifests != "" {
		if err := os.CopyFS(filepath.Join(p.dir, "k8s"), os.DirFS(p.gitlab.options.Manifests)); err != nil {
			return err
		}
	}
	remote := p.gitlab.options.Remote
	if remote == "" {
		remote = "git@gitlab.example.com:" + p.gitlab.Project + ".git"
		if err := os.CopyFS(filepath.Join(p.dir, "templates"), os.DirFS(filepath.Join(p.gitlab.options.Repository, "templates"))); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(p.dir, "crossbill.yaml"), p.gitlab.options.Config, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, "release.gitlab-ci.yml"), p.gitlab.text, 0o644); err != nil {
		return err
	}
	commit := []string{"-c", "user.name=rehearsal", "-c", "user.email=rehearsal@example.com", "-c", "commit.gpgsign=false", "commit", "--quiet", "--message", "the deploying project"}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"}, {"remote", "add", "origin", remote},
		{"add", "."}, commit, {"update-ref", "refs/remotes/origin/main", "HEAD"}, {"symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"},
	} {
		git := exec.CommandContext(ctx, "git", args...)
		git.Dir = p.dir
		git.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := git.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w\n%s", args[0], err, out)
		}
	}
	head := exec.CommandContext(ctx, "git", "rev-parse", "HEAD")
	head.Dir = p.dir
	out, err := head.Output()
	p.commit = strings.TrimSpace(string(out))
	return err
}

// Status is GitLab's word for the pipeline.
func (p *Pipeline) Status() string { return p.simulation.Status() }

// watchJob judges the canary until somebody presses the gate.
const watchJob = "watch_canary"

// Next is the job that a runner would take now; "" if there is none. There is one runner here, and the job that judges the
// canary on while the gate waits would keep it: that job ends at once.
func (p *Pipeline) Next() string {
	for _, j := range p.simulation.Jobs() {
		switch {
		case j.Status == "pending" && j.Name == watchJob:
			if p.simulation.Finish(watchJob, true) == nil {
				p.show()
				return p.Next()
			}
		case j.Status == "pending":
			return j.Name
		}
	}
	return ""
}

// Press starts a manual job, as its button does for a user.
func (p *Pipeline) Press(job, user string) error {
	if environment := p.environment(job); !p.gitlab.server.MayDeploy(environment, user) {
		return fmt.Errorf("403 Forbidden: %s may not deploy to %s", user, environment)
	}
	defer p.show()
	if err := p.simulation.Press(job); err != nil {
		return err
	}
	p.pressed[job] = user
	return nil
}

// user is as whom a job runs.
func (p *Pipeline) user(job string) string {
	if user := p.pressed[job]; user != "" {
		return user
	}
	return p.gitlab.server.TriggerUser
}

// reference is an input in a job's text.
var reference = regexp.MustCompile(`\$\[\[\s*inputs\.(\w+)\s*\]\]`)

// environment is a job's, with the inputs in its name.
func (p *Pipeline) environment(job string) string {
	j := p.gitlab.file.Job(job)
	if j == nil {
		return ""
	}
	return reference.ReplaceAllStringFunc(j.Environment.Name, func(text string) string {
		return fmt.Sprint(p.inputs[reference.FindStringSubmatch(text)[1]])
	})
}

// tokens are the ID tokens that a job asks for, by the name of their variable.
func (p *Pipeline) tokens(job string) map[string]string {
	made := map[string]string{}
	for variable, audience := range p.gitlab.file.Job(job).IDTokens() {
		made[variable] = p.gitlab.server.IDToken(gitlabtest.TokenJob{
			Pipeline: p.ID, Job: job, User: p.pressed[job], Audience: audience, Timeout: 30 * time.Minute,
			Environment: p.environment(job), Action: p.gitlab.file.Job(job).Environment.Action,
		})
	}
	return made
}

// JobError is the error of a job whose script failed.
type JobError struct {
	Job string
	Err error
}

func (e *JobError) Error() string { return fmt.Sprintf("job %s failed: %v", e.Job, e.Err) }
func (e *JobError) Unwrap() error { return e.Err }

// Run runs a job that is pending and writes what it prints to log. A script that fails is a *JobError.
func (p *Pipeline) Run(ctx context.Context, job string, log io.Writer) error {
	if err := p.refuse(job); err != nil {
		return err
	}
	// It is already decided that the job runs now; gitlab-ci-local only runs it.
	wrapper, err := yaml.Marshal(map[string]any{
		"include": []any{map[string]any{"local": "/release.gitlab-ci.yml", "inputs": p.inputs}},
		job:       map[string]any{"rules": []any{map[string]any{"when": "always"}}, "needs": []any{}},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, ".gitlab-ci.yml"), wrapper, 0o644); err != nil {
		return err
	}
	web := fmt.Sprintf("%s/%s/-/pipelines/%d", p.gitlab.URL, p.gitlab.Project, p.ID)
	cmd := exec.CommandContext(ctx, filepath.Join(p.gitlab.options.Runner, "gitlab-ci-local"), "--force-shell-executor", "--no-color",
		"--json-schema-validation="+strconv.FormatBool(!p.checked), "--home", filepath.Join(p.gitlab.options.Dir, "home"), "--ignore-predefined-vars", "CI_PIPELINE_SOURCE,CI_PIPELINE_URL",
		"--variable", "CI_PIPELINE_SOURCE=trigger", "--variable", "CI_PIPELINE_URL="+web, "--variable", "KUBECONFIG="+p.gitlab.options.Kube, job)
	for variable, token := range p.tokens(job) {
		cmd.Args = append(cmd.Args, "--variable", variable+"="+token)
	}
	for variable, file := range p.gitlab.options.Files {
		cmd.Args = append(cmd.Args, "--variable", variable+"="+file)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	path := []string{p.gitlab.options.Runner, p.gitlab.options.Crossbill, os.Getenv("PATH")}
	cmd.Env = append(os.Environ(), "PATH="+strings.Join(path, string(os.PathListSeparator)), "GITLAB_USER_LOGIN="+p.user(job), "GIT_CONFIG_GLOBAL=/dev/null")
	p.checked = true
	p.started[job] = time.Now()
	p.showRunning(job)
	failure := cmd.Run()
	p.finished[job] = time.Now()
	var exit *exec.ExitError
	if failure != nil && !errors.As(failure, &exit) {
		return failure
	}
	if err := p.simulation.Finish(job, failure == nil); err != nil {
		return err
	}
	p.show()
	if failure != nil {
		return &JobError{job, failure}
	}
	return nil
}

// Artifact reads a file that a job left behind.
func (p *Pipeline) Artifact(name string) ([]byte, error) {
	if p.gitlab.options.Runner == "" {
		return p.uploaded(name)
	}
	return os.ReadFile(filepath.Join(p.dir, name))
}

// show updates the pipeline in the API.
func (p *Pipeline) show() { p.showRunning("") }

func (p *Pipeline) showRunning(running string) {
	status := p.simulation.Status()
	var jobs []gitlabtest.Job
	for _, j := range p.simulation.Jobs() {
		if j.Name == running || p.running(j.Name) {
			j.Status, status = "running", "running"
		}
		shown := gitlabtest.Job{Name: j.Name, Stage: j.Stage, Status: j.Status, AllowFailure: j.AllowFailure, Environment: p.environment(j.Name), StartedAt: p.started[j.Name], FinishedAt: p.finished[j.Name]}
		if !shown.StartedAt.IsZero() {
			shown.User = p.user(j.Name)
		}
		jobs = append(jobs, shown)
	}
	p.gitlab.server.Show(p.ID, status, jobs)
}
