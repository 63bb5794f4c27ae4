// Package lifecycle releases the real app four times, through the whole lifecycle: a first release, a changed
// version that goes through its canary, a bad version that must be rolled back, and the good image with a bad
// configuration, which must be rolled back as well. It uses the crossbill
// command as a person or a job would, and watches from outside what callers see.
package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/gitlab"
	"github.com/our-org/crossbill/rehearsal/load"
	"github.com/our-org/crossbill/rehearsal/screen"
)

// Host is the app's public name.
const Host = "app.example.com"

// App is its name.
const App = "qwik-node-app"

const (
	name   = App
	weight = 10
)

// Rehearsal is what a rehearsal needs.
type Rehearsal struct {
	Repository string // the checkout
	Crossbill  string // the command
	Config     string // crossbill.yaml with the values of the rehearsal's cluster
	Base       string // base image, for crossbill image build --base
	Work       string // scratch folder
	SigningKey string // file with the private key for signing images
	Out        string // results
	Rate       int    // requests per second
	Screen     *screen.Screen
	Cluster    *cluster.Cluster
	GitLab     *gitlab.GitLab
	// Environment is what a GitOps controller applies the app from. May be nil: then nothing does.
	Environment *Environment
	// Only is how many of the versions are released; 0 for all.
	Only int

	traffic *load.Generator // through the gateway
	mesh    *load.Generator // through the sidecar of a caller in another namespace
	checked *task           // the app's own checks
	made    map[string]*made
}

// made is what is made of a version, in the background: while a release is under way, the next one is built, published and signed,
// as GitHub's side would do. While that release ends, the next one is handed over.
type made struct {
	build, publish, sign, bundle, trigger, queue *task

	image     string // by digest, once it is published
	imageMB   float64
	reference string           // of the bundle, once there is one
	handing   bool             // it is handed over, or about to be
	pipeline  *gitlab.Pipeline // once it is
}

// A task runs in the background.
type task struct {
	ended  chan struct{}
	result string
	err    error
}

func newTask() *task { return &task{ended: make(chan struct{})} }

// run does the task's work.
func (t *task) run(work func() (result string, err error)) error {
	t.result, t.err = work()
	close(t.ended)
	return t.err
}

// wait waits until the task has ended, and gives its error.
func (t *task) wait(ctx context.Context) error {
	select {
	case <-t.ended:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// show shows a task as a step, until it has ended.
func (r *Rehearsal) show(ctx context.Context, name, doing string, t *task) error {
	return r.Screen.Step(name, func(progress func(string)) (string, error) {
		progress(doing)
		if err := t.wait(ctx); err != nil {
			return "", err
		}
		return t.result, nil
	})
}

// Version is one version of the app: the checkout's app with some files replaced.
type Version struct {
	Number  string
	Overlay string // folder under rehearsal/apps; "" for the app as it is
	Timeout string // for prices, in milliseconds: a setting of the app's; "" for the usual one
	Image   string // the version whose image it has; "" for its own
	What    string
	Bad     bool
}

// Source is the repository that the provenance of all versions names.
const Source = "https://github.com/our-org/" + name

// commit stands for the commit that the version is built from.
func (v Version) commit() string { return fmt.Sprintf("%x", sha1.Sum([]byte(v.Number))) }

// Versions are those that are released, in order.
var Versions = []Version{
	{Number: "1.0.0", What: "the unchanged app; the first release goes straight to primary"},
	{Number: "1.1.0", Overlay: "changed", What: "a changed app; canary, verify, promote, cleanup"},
	{Number: "1.2.0", Overlay: "bad", What: "a bad version with 30% errors; verify must roll it back", Bad: true},
	{Number: "1.1.0-config", Image: "1.1.0", Timeout: badConfig, What: "the image of 1.1.0 with a configuration that fails 30% of the requests; verify must roll it back", Bad: true},
}

// The timeout for prices, which version 1.1.0 answers with: the usual one, and one that is too short.
const (
	goodConfig = "1000"
	badConfig  = "700"
)

// Release is the result of one release.
type Release struct {
	Version  string  `json:"version"`
	Digest   string  `json:"digest"`
	Bundle   string  `json:"bundle"`  // its digest
	Outcome  string  `json:"outcome"` // promoted, rolled_back or first
	Requests int     `json:"requests"`
	Lost     int     `json:"lost"`   // not answered by any version of the app
	Failed   int     `json:"failed"` // answered by the app with a server error
	Seconds  float64 `json:"seconds"`
	ImageMB  float64 `json:"imageMB"` // compressed
}

// Summary is what the rehearsal writes to rehearsal.json.
type Summary struct {
	ControlPlaneSeconds   float64    `json:"controlPlaneSeconds"`
	TotalSeconds          float64    `json:"totalSeconds"`
	RequestsPerSecond     int        `json:"requestsPerSecond"`
	Requests              int        `json:"requests"`
	Lost                  int        `json:"lost"`
	Failed                int        `json:"failed"`
	CanaryShare           float64    `json:"canaryShare"`     // percent of the requests at weight 10
	CanaryShareOf         int        `json:"canaryShareOf"`   // requests that it was measured over
	RollbackSeconds       float64    `json:"rollbackSeconds"` // from the bad canary's first request to its last
	Mesh                  Mesh       `json:"mesh"`
	ConfigRollbackSeconds float64    `json:"configRollbackSeconds"` // the same of the bad configuration
	Problems              []string   `json:"problems,omitempty"`    // why requests were lost
	Releases              []*Release `json:"releases"`
}

// Mesh is what a caller in the mesh saw, beside those at the gateway.
type Mesh struct {
	Requests      int     `json:"requests"`
	Lost          int     `json:"lost"`
	Failed        int     `json:"failed"`
	CanaryShare   float64 `json:"canaryShare"`
	CanaryShareOf int     `json:"canaryShareOf"`
}

// Begin runs the app's own checks and builds its versions in the background, one after the other, from when its packages are
// there. It needs no cluster and no GitLab.
func (r *Rehearsal) Begin(ctx context.Context, packages func(context.Context) (pnpm string, err error)) {
	r.checked, r.made = newTask(), map[string]*made{}
	for _, v := range Versions {
		r.made[v.Number] = &made{build: newTask(), publish: newTask(), sign: newTask(), bundle: newTask(), trigger: newTask(), queue: newTask()}
	}
	go func() {
		pnpm, err := packages(ctx)
		if err != nil {
			_ = r.checked.run(func() (string, error) { return "", err })
			return // nobody asks for the builds then
		}
		go r.checked.run(func() (string, error) { //nolint:errcheck // Check gives it
			start := time.Now()
			_, err := r.runApp(ctx, "check", filepath.Join(r.Repository, "app"), "nice", pnpm, "check")
			return fmt.Sprintf("the app's types, lint and unit tests pass; %.0fs, in the background", time.Since(start).Seconds()), err
		})
		for _, v := range r.Versions() {
			if v.Image == "" && r.made[v.Number].build.run(func() (string, error) { return "client and server bundles", r.build(ctx, pnpm, v) }) != nil {
				return // and it ends with this one
			}
		}
	}()
}

// Publish begins to publish the versions in the background, one after the other, once they are built. The first one is what runs
// already; the others are changes, and nothing of them is published before the app's own checks pass.
func (r *Rehearsal) Publish(ctx context.Context) {
	go func() {
		for i, v := range r.Versions() {
			if i > 0 && r.checked.wait(ctx) != nil || r.publish(ctx, v) != nil {
				return // and so does the step that waits for it
			}
		}
	}()
}

// Check waits for the app's own checks.
func (r *Rehearsal) Check(ctx context.Context) error {
	return r.show(ctx, "check", "the app's types, lint and unit tests", r.checked)
}

// Pnpm is the app's package manager.
const Pnpm = "pnpm@10.34.9"

// Release releases one version. The traffic starts with the first release.
func (r *Rehearsal) Release(ctx context.Context, v Version, summary *Summary) error {
	r.Screen.Title("Release %s: %s", v.Number, v.What)
	result := &Release{Version: v.Number}
	summary.Releases = append(summary.Releases, result)
	if err := r.waitMade(ctx, v); err != nil {
		return err
	}
	result.ImageMB = r.made[v.Number].imageMB
	if r.Environment != nil && r.traffic == nil {
		if err := r.introduce(ctx, v); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := r.rollOut(ctx, v, result, summary); err != nil {
		return err
	}
	if r.Environment != nil {
		if err := r.settled(ctx); err != nil {
			return err
		}
	}
	end := time.Now()
	if v.Timeout != "" {
		for _, a := range r.traffic.Answers(start, end) {
			if a.Track == "primary" && a.Config != goodConfig {
				return fmt.Errorf("primary answered with configuration %q at %s, want %q", a.Config, a.Sent, goodConfig)
			}
		}
	}
	tally := r.traffic.Between(start, end)
	result.Requests, result.Lost, result.Failed, result.Seconds = tally.Requests, tally.Lost, tally.Failed, seconds(end.Sub(start))
	for path, traffic := range map[string]*load.Generator{"the gateway": r.traffic, "the sidecar of a caller": r.mesh} {
		for _, problem := range problems(traffic.Answers(start, end), start) {
			summary.Problems = append(summary.Problems, fmt.Sprintf("release %s, through %s: %s", v.Number, path, problem))
		}
	}
	slices.Sort(summary.Problems)
	return nil
}

// problems says what the lost ones among requests came to, and when they were sent: in seconds from a time on.
func problems(answers []load.Answer, from time.Time) (found []string) {
	lost := map[string][]time.Duration{}
	for _, a := range answers {
		if a.Lost() {
			lost[a.Problem] = append(lost[a.Problem], a.Sent.Sub(from))
		}
	}
	for _, problem := range slices.Sorted(maps.Keys(lost)) {
		sent := lost[problem]
		found = append(found, fmt.Sprintf("%d × %s, %.1fs to %.1fs after its start", len(sent), problem, slices.Min(sent).Seconds(), slices.Max(sent).Seconds()))
	}
	return found
}

// waitMade shows what becomes of a version before it is handed over.
func (r *Rehearsal) waitMade(ctx context.Context, v Version) error {
	m := r.made[v.Number]
	if v.Image == "" {
		err := r.show(ctx, "build", "client and server bundles", m.build)
		if err == nil {
			err = r.show(ctx, "publish", "pushing the image", m.publish)
		}
		if err == nil {
			err = r.show(ctx, "sign", "SBOM, provenance, signature", m.sign)
		}
		if err != nil {
			return err
		}
	}
	return r.show(ctx, "bundle", "manifests and configuration", m.bundle)
}

// image is what a version runs, by digest, once it is published.
func (r *Rehearsal) image(v Version) string { return r.made[cmp.Or(v.Image, v.Number)].image }

// publish pushes and signs a version's own image, once it is built, and then its bundle.
func (r *Rehearsal) publish(ctx context.Context, v Version) error {
	m := r.made[v.Number]
	if v.Image == "" {
		if err := m.build.wait(ctx); err != nil {
			return err
		}
		if err := m.publish.run(func() (string, error) { return r.push(ctx, v) }); err != nil {
			return err
		}
		err := m.sign.run(func() (string, error) {
			var made struct{ SBOM, Provenance string }
			err := r.crossbill(ctx, "sign-"+v.Number, &made, "image", "attest", m.image, "--app-dir", r.built(v), "--ref", "refs/heads/main", "--key-file", r.SigningKey)
			return fmt.Sprintf("provenance %s, SBOM %s", shortDigests(made.Provenance), shortDigests(made.SBOM)), err
		})
		if err != nil {
			return err
		}
	}
	return m.bundle.run(func() (string, error) { return r.bundle(ctx, v) })
}

// push builds a version's image, and pushes it.
func (r *Rehearsal) push(ctx context.Context, v Version) (string, error) {
	var image struct {
		Reference, Digest string
		SizeBytes         int64
	}
	err := r.crossbill(ctx, "publish-"+v.Number, &image, "image", "build", "--app-dir", r.built(v), "--base", r.Base, "--name", name,
		"--version", v.Number, "--revision", v.commit(), "--source-url", Source, "--push", r.Cluster.RegistryHost+"/our-org/"+name+":"+v.Number)
	m := r.made[v.Number]
	m.image, m.imageMB = image.Reference, float64(image.SizeBytes)/1e6
	return fmt.Sprintf("%s, %.1f MB", shortDigests(image.Digest), m.imageMB), err
}

// bundle pushes and signs what is released: the version's manifests and configuration, which name its image.
func (r *Rehearsal) bundle(ctx context.Context, v Version) (string, error) {
	manifests, err := r.manifests(v)
	if err != nil {
		return "", err
	}
	var made struct{ Reference, Digest string }
	err = r.crossbill(ctx, "bundle-"+v.Number, &made, "bundle", "--image", r.image(v), "--manifests", manifests, "--revision", v.commit())
	if err != nil {
		return "", err
	}
	r.made[v.Number].reference = made.Reference
	return shortDigests(made.Digest), r.crossbill(ctx, "sign-bundle-"+v.Number, &struct{}{}, "image", "attest", made.Reference, "--ref", "refs/heads/main", "--key-file", r.SigningKey)
}

// manifests makes the folder with a version's manifests: a kustomization of the app's own. Beside a GitOps controller, whose
// ConfigMaps are, the setting is in the pod template.
func (r *Rehearsal) manifests(v Version) (folder string, err error) {
	folder = r.folder(v)
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(r.Repository, "k8s"))); err != nil {
		return "", err
	}
	timeout := cmp.Or(v.Timeout, goodConfig)
	if r.Environment != nil {
		return folder, setInTemplate(filepath.Join(folder, "deployment.yaml"), timeout)
	}
	text, err := os.ReadFile(filepath.Join(r.Repository, "rehearsal", "apps", "settings", "kustomization.yaml"))
	if err != nil {
		return "", err
	}
	text = bytes.ReplaceAll(text, []byte("TIMEOUT_MS="+goodConfig), []byte("TIMEOUT_MS="+timeout))
	return folder, os.WriteFile(filepath.Join(folder, "kustomization.yaml"), text, 0o644)
}

func (r *Rehearsal) folder(v Version) string { return filepath.Join(r.Work, "manifests-"+v.Number) }

// commandResult is the part of a command's JSON output that the rehearsal reads.
type commandResult struct {
	Message, Outcome string
	Verdict          struct{ Reason string }
}

// The jobs of the pipeline file that the rehearsal treats specially.
const (
	queueJob   = "queue"
	canaryJob  = "deploy_canary"
	verifyJob  = "verify_canary"
	promoteJob = "promote_to_production"
	cleanupJob = "cleanup"
)

// commandOf is the command that a job runs. The file that the job leaves behind has its name.
func commandOf(job string) string {
	command, _, _ := strings.Cut(strings.TrimPrefix(job, "deploy_"), "_")
	return command
}

// rollOut hands the release to GitLab and runs its pipeline to the end, with the approval.
func (r *Rehearsal) rollOut(ctx context.Context, v Version, result *Release, summary *Summary) error {
	m := r.made[v.Number]
	result.Digest = release.DigestOf(r.image(v))
	result.Bundle = release.DigestOf(m.reference)
	r.handOver(ctx, v)
	if err := r.show(ctx, "trigger", "starting the pipeline exactly once", m.trigger); err != nil {
		return err
	}
	if err := r.show(ctx, queueJob, "whether another release goes first", m.queue); err != nil {
		return err
	}
	pipeline, restarted := m.pipeline, newTask()
	var routed time.Time // when the canary got its weight
	for {
		job := pipeline.Next()
		if job == "" && pipeline.Status() == "manual" {
			if err := r.press(ctx, v, pipeline); err != nil {
				return err
			}
			continue
		}
		if job == "" {
			break
		}
		if job == cleanupJob || job == verifyJob && v.Bad { // after which the canary is gone
			r.handOverNext(ctx, v)
		}
		done, err := r.job(ctx, v, pipeline, job)
		if err != nil {
			return err
		}
		if done.Outcome != "" {
			result.Outcome = done.Outcome
		}
		switch {
		case job == canaryJob && done.Outcome == "first":
			if err := r.startTraffic(ctx); err != nil {
				return err
			}
		case job == canaryJob:
			routed = time.Now()
			if v.Timeout != "" {
				go restarted.run(func() (string, error) { return r.restartPrimary(ctx) }) //nolint:errcheck // shown after the next job
			}
		case job == verifyJob && v.Timeout != "":
			if err := r.show(ctx, "restart", "a pod of primary is deleted", restarted); err != nil {
				return err
			}
			summary.ConfigRollbackSeconds = seconds(r.configSeen(badConfig, true).Sub(r.configSeen(badConfig, false)))
		case job == verifyJob && v.Bad:
			summary.RollbackSeconds = seconds(r.lastSeen(v.Number).Sub(r.firstSeen(v.Number)))
		case job == verifyJob && !routed.IsZero():
			tally := r.traffic.Between(routed.Add(time.Second), time.Now()) // the route takes up to a second to reach the gateway
			summary.CanaryShare, summary.CanaryShareOf = 100*tally.Share("canary"), tally.Requests
			tally = r.mesh.Between(routed.Add(time.Second), time.Now())
			summary.Mesh.CanaryShare, summary.Mesh.CanaryShareOf = 100*tally.Share("canary"), tally.Requests
		}
	}
	return r.follow(ctx, v, pipeline, map[bool]string{false: "promoted", true: "rolled_back"}[v.Bad])
}

// handOver starts the release's pipeline in the background, as GitHub's workflow does, and has it look whether another release goes
// first. A second call changes nothing.
func (r *Rehearsal) handOver(ctx context.Context, v Version) {
	m := r.made[v.Number]
	if m.handing {
		return
	}
	m.handing = true
	go func() {
		if m.bundle.wait(ctx) != nil || m.trigger.run(func() (string, error) { return r.trigger(ctx, v) }) != nil {
			return
		}
		_ = m.queue.run(func() (string, error) {
			result, err := r.runJob(ctx, v, m.pipeline, queueJob)
			return shortDigests(result.Message), err
		})
	}()
}

// handOverNext hands over the version that is released after another one, if there is one.
func (r *Rehearsal) handOverNext(ctx context.Context, v Version) {
	all := r.Versions()
	if next := 1 + slices.Index(all, v); next < len(all) {
		r.handOver(ctx, all[next])
	}
}

// trigger starts the release's pipeline.
func (r *Rehearsal) trigger(ctx context.Context, v Version) (string, error) {
	m := r.made[v.Number]
	var started struct{ PipelineID int64 }
	err := r.crossbill(ctx, "trigger-"+v.Number, &started, "trigger", "--gitlab-url", r.GitLab.URL, "--project", r.GitLab.Project, "--app", name,
		"--bundle", m.reference, "--commit", v.commit(), "--settle", "200ms") // this GitLab lists a pipeline at once
	if err != nil {
		return "", err
	}
	m.pipeline, err = r.GitLab.Pipeline(ctx, started.PipelineID)
	return fmt.Sprintf("GitLab pipeline %d", started.PipelineID), err
}

// job runs a job of the pipeline, and shows the traffic meanwhile.
func (r *Rehearsal) job(ctx context.Context, v Version, pipeline *gitlab.Pipeline, job string) (result commandResult, err error) {
	err = r.Screen.Step(commandOf(job), func(progress func(string)) (string, error) {
		defer r.watchTraffic(time.Now(), progress)()
		if result, err = r.runJob(ctx, v, pipeline, job); err != nil {
			return "", err
		}
		if v.Bad && job == verifyJob {
			return "unhealthy, rolled back: " + result.Verdict.Reason, nil
		}
		return shortDigests(result.Message), nil
	})
	return result, err
}

// runJob runs a job of the pipeline. The verification of a bad version must fail.
func (r *Rehearsal) runJob(ctx context.Context, v Version, pipeline *gitlab.Pipeline, job string) (result commandResult, err error) {
	command := commandOf(job)
	log, err := os.Create(filepath.Join(r.Out, "logs", command+"-"+v.Number+".log"))
	if err != nil {
		return result, err
	}
	defer log.Close()
	failure := pipeline.Run(ctx, job, log)
	if text, err := pipeline.Artifact(command + ".json"); err == nil {
		if err := json.Unmarshal(text, &result); err != nil {
			return result, fmt.Errorf("the result of %s: %w", job, err)
		}
	}
	mustFail, failed := v.Bad && job == verifyJob, errors.As(failure, new(*gitlab.JobError))
	switch {
	case failed && !mustFail:
		return result, fmt.Errorf("%w; see %s", failure, log.Name())
	case failed:
		return result, nil
	case failure == nil && mustFail:
		return result, fmt.Errorf("verify did not find version %s unhealthy: %s", v.Number, result.Message)
	}
	return result, failure
}

// press is the approver: GitHub's watch reports that the pipeline waits, and the job behind the gate is started.
func (r *Rehearsal) press(ctx context.Context, v Version, pipeline *gitlab.Pipeline) error {
	return r.Screen.Step("gate", func(progress func(string)) (string, error) {
		if _, err := r.watch(ctx, "gate-"+v.Number, pipeline, 7); err != nil {
			return "", err
		}
		return fmt.Sprintf("waiting for an approver; %s presses %s", gitlab.Approver, promoteJob), pipeline.Press(promoteJob, gitlab.Approver)
	})
}

// follow checks what GitHub learns about the end of the pipeline.
func (r *Rehearsal) follow(ctx context.Context, v Version, pipeline *gitlab.Pipeline, want string) error {
	return r.Screen.Step("watch", func(progress func(string)) (string, error) {
		state, err := r.watch(ctx, "watch-"+v.Number, pipeline, map[string]int{"promoted": 0, "rolled_back": 1}[want])
		if err == nil && state != want {
			err = fmt.Errorf("watch reports %s for version %s, want %s", state, v.Number, want)
		}
		return strings.ReplaceAll("GitHub sees: "+state, "_", " "), err
	})
}

// watch runs the command and checks its exit code.
func (r *Rehearsal) watch(ctx context.Context, log string, pipeline *gitlab.Pipeline, want int) (string, error) {
	var seen struct{ State string }
	err := r.crossbill(ctx, log, &seen, "watch", "--gitlab-url", r.GitLab.URL, "--project", r.GitLab.Project, "--pipeline", strconv.FormatInt(pipeline.ID, 10))
	if code := exitCode(err); code != want {
		return "", fmt.Errorf("watch finished with exit code %d, want %d: %w", code, want, err)
	}
	return seen.State, nil
}

// startTraffic waits until the gateway answers and starts the load. Before the first release there is nothing to
// call.
func (r *Rehearsal) startTraffic(ctx context.Context) error {
	return r.Screen.Step("traffic", func(progress func(string)) (string, error) {
		progress("waiting for the gateway's first answer")
		if err := answers(ctx, "the gateway", r.Cluster.GatewayAddress, Host); err != nil {
			return "", err
		}
		caller, err := r.Cluster.StartCaller(ctx, "callers", "checkout")
		if err != nil {
			return "", err
		}
		service := fmt.Sprintf("%s-service.%s.svc.cluster.local", name, r.Cluster.Namespace)
		progress("waiting for a sidecar's first answer")
		if err := answers(ctx, "the sidecar of a caller", caller.Address(80), service); err != nil {
			return "", err
		}
		mesh := max(1, r.Rate/10) // part of the rate: the app has no more to do
		r.traffic = load.Start("http://"+r.Cluster.GatewayAddress+"/api/version", Host, max(1, r.Rate-mesh))
		r.mesh = load.Start("http://"+caller.Address(80)+"/api/version", service, mesh)
		return fmt.Sprintf("from now on, %d requests per second, %d of them through the sidecar of a caller in the mesh", r.Rate, mesh), nil
	})
}

// watchTraffic shows how the traffic of the last seconds was split, until it is stopped.
func (r *Rehearsal) watchTraffic(start time.Time, progress func(string)) (stop func()) {
	if r.traffic == nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := time.Now()
			recent, all := r.traffic.Between(now.Add(-2*time.Second), now), r.traffic.Between(start, now)
			progress(fmt.Sprintf("%s  %d requests, %d lost", bar(recent), all.Requests, all.Lost))
		}
	}()
	return func() { close(done) }
}

// bar draws how the traffic is split between the tracks.
func bar(t load.Tally) string {
	const width = 20
	share := t.Share("canary")
	canary := int(share*width + 0.5)
	if share > 0 && canary == 0 {
		canary = 1
	}
	return fmt.Sprintf("primary %s%s canary %4.1f%%", strings.Repeat("█", width-canary), strings.Repeat("░", canary), 100*share)
}

// Finish adds up the releases and writes the summary.
func (r *Rehearsal) Finish(summary *Summary) error {
	for _, release := range summary.Releases {
		summary.Requests += release.Requests
		summary.Lost += release.Lost
		summary.Failed += release.Failed
	}
	tally := r.mesh.Between(time.Time{}, time.Now())
	summary.Mesh.Requests, summary.Mesh.Lost, summary.Mesh.Failed = tally.Requests, tally.Lost, tally.Failed
	text, err := json.MarshalIndent(summary, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.Out, "rehearsal.json"), append(text, '\n'), 0o644)
}

// Report writes the report of all releases as one page, from the ledger and GitLab, and returns its name.
func (r *Rehearsal) Report(ctx context.Context) (string, error) {
	file := filepath.Join(r.Out, "report.html")
	_, err := r.run(ctx, "report", r.Repository, r.Crossbill, "report", "--html", file, "--gitlab-url", r.GitLab.URL, "--project", r.GitLab.Project,
		"--kubeconfig", r.Cluster.Kubeconfig, "--namespace", r.Cluster.Namespace)
	return file, err
}

// StopTraffic stops the load.
func (r *Rehearsal) StopTraffic() {
	for _, traffic := range []*load.Generator{r.traffic, r.mesh} {
		if traffic != nil {
			traffic.Stop()
		}
	}
}

func (r *Rehearsal) firstSeen(version string) time.Time { return r.traffic.Seen(version, false) }
func (r *Rehearsal) lastSeen(version string) time.Time  { return r.traffic.Seen(version, true) }

// configSeen is when the first or the last request that a configuration answered was sent.
func (r *Rehearsal) configSeen(config string, last bool) (seen time.Time) {
	for _, a := range r.traffic.Answers(time.Time{}, time.Now()) {
		if a.Config == config && (seen.IsZero() || a.Sent.After(seen) == last) {
			seen = a.Sent
		}
	}
	return seen
}

// restartPrimary deletes a pod of primary in the middle of a release: its successor has the old configuration.
func (r *Rehearsal) restartPrimary(ctx context.Context) (string, error) {
	pod, err := r.Cluster.RestartPod(ctx, "version=primary")
	return fmt.Sprintf("pod %s of primary, deleted meanwhile: its successor has the old configuration", pod), err
}

// built is the folder with a version's dist and server.
func (r *Rehearsal) built(v Version) string { return filepath.Join(r.Work, "app-"+v.Number) }

// build builds one version's bundles. All versions are built in one copy of the app, as in one checkout.
func (r *Rehearsal) build(ctx context.Context, pnpm string, v Version) error {
	app, checkout := filepath.Join(r.Repository, "app"), filepath.Join(r.Work, "app")
	if _, err := os.Stat(checkout); err != nil {
		if err := copySources(app, checkout); err != nil {
			return err
		}
		if err := usePackages(app, checkout); err != nil {
			return err
		}
	}
	if err := copySources(app, checkout); err != nil { // restore what the last overlay replaced
		return err
	}
	if v.Overlay != "" {
		if err := overlay(filepath.Join(r.Repository, "rehearsal", "apps", v.Overlay), checkout); err != nil {
			return err
		}
	}
	build := []string{"env", "APP_VERSION=" + v.Number, pnpm, "build"}
	if v.Number != Versions[0].Number { // there is traffic, which has priority
		build = slices.Insert(build, 0, "nice")
	}
	if _, err := r.runApp(ctx, "build-"+v.Number, checkout, build[0], build[1:]...); err != nil {
		return err
	}
	for _, made := range []string{"dist", "server", "sbom"} {
		if err := os.CopyFS(filepath.Join(r.built(v), made), os.DirFS(filepath.Join(checkout, made))); err != nil {
			return err
		}
	}
	lock, err := os.ReadFile(filepath.Join(checkout, "pnpm-lock.yaml"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.built(v), "pnpm-lock.yaml"), lock, 0o644)
}

// crossbill runs the command and reads the JSON that it prints, even if it fails.
func (r *Rehearsal) crossbill(ctx context.Context, log string, result any, args ...string) error {
	args = append(args, "-o", "json")
	out, err := r.run(ctx, log, r.Repository, r.Crossbill, args...)
	if len(bytes.TrimSpace(out)) > 0 {
		if parse := json.Unmarshal(out, result); parse != nil && err == nil {
			return fmt.Errorf("the output of crossbill %s is not JSON: %w", args[0], parse)
		}
	}
	return err
}

// run runs a program with what a job of the release has in its environment, logs its messages in out/logs, and returns its output.
func (r *Rehearsal) run(ctx context.Context, log, dir, program string, args ...string) ([]byte, error) {
	return r.runWith(ctx, []string{"CROSSBILL_CONFIG=" + r.Config, "GITLAB_TRIGGER_TOKEN=" + r.GitLab.TriggerToken, "GITLAB_TOKEN=" + r.GitLab.Token}, log, dir, program, args...)
}

// runApp does it with one of the app's own programs. There may be no cluster and no GitLab yet.
func (r *Rehearsal) runApp(ctx context.Context, log, dir, program string, args ...string) ([]byte, error) {
	// The sandbox has no network: npm must not try to use it.
	return r.runWith(ctx, []string{"npm_config_offline=true"}, log, dir, program, args...)
}

func (r *Rehearsal) runWith(ctx context.Context, env []string, log, dir, program string, args ...string) ([]byte, error) {
	file := filepath.Join(r.Out, "logs", log+".log")
	messages, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer messages.Close()
	fmt.Fprintf(messages, "$ %s %s\n", program, strings.Join(args, " "))
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, messages
	cmd.Env = append(append(os.Environ(), "CI=1", "NO_COLOR=1"), env...)
	err = cmd.Run()
	messages.Write(out.Bytes())
	if err != nil {
		return out.Bytes(), &commandError{program: filepath.Base(program), log: file, err: err}
	}
	return out.Bytes(), nil
}

// commandError shows the end of a failed command's log.
type commandError struct {
	program, log string
	err          error
}

func (e *commandError) Error() string {
	text, _ := os.ReadFile(e.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > 15 {
		lines = lines[len(lines)-15:]
	}
	return fmt.Sprintf("%s: %s\n  %s\n(full log: %s)", e.program, e.err, strings.Join(lines, "\n  "), e.log)
}
func (e *commandError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func seconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Millisecond)) / float64(time.Second)
}

var longDigest = regexp.MustCompile(`(sha256:[0-9a-f]{12})[0-9a-f]{52}`)

// shortDigests shortens digests to the part that people compare.
func shortDigests(text string) string { return longDigest.ReplaceAllString(text, "$1") }
