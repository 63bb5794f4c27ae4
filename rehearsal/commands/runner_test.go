package commands_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/rehearsal/gitlab"
	"github.com/our-org/crossbill/rehearsal/load"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// The jobs of the shipped pipeline file.
const (
	queueJob   = "queue"
	canaryJob  = "deploy_canary"
	verifyJob  = "verify_canary"
	watchJob   = "watch_canary"
	promoteJob = "promote_to_production"
	cleanupJob = "cleanup"
	revertJob  = "rollback"
)

// inOrder are the jobs up to a promoted release, but for the one that watches.
var inOrder = []string{queueJob, canaryJob, verifyJob, promoteJob, cleanupJob}

// slowAPI is the API server behind a network that holds back a command's writes from a number on, those of leases apart: for 20
// seconds, or until the command gives up. Then a held write arrives all the same, or not.
type slowAPI struct {
	*httptest.Server
	arrives bool

	mu      sync.Mutex
	left    int // writes until then; below 0 nothing is held
	reached chan struct{}
}

func newSlowAPI(t *testing.T, arrives bool) *slowAPI {
	transport, err := rest.TransportFor(running.RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	host, err := url.Parse(running.RESTConfig.Host)
	if err != nil {
		t.Fatal(err)
	}
	s := &slowAPI{arrives: arrives, left: -1}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(host) },
		Transport:     transport,
		FlushInterval: -1, // watches
		ErrorLog:      nil,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if writes(r) && s.holds() {
			select {
			case <-r.Context().Done():
				if !s.arrives {
					return
				}
				r = r.WithContext(context.WithoutCancel(r.Context()))
			case <-time.After(20 * time.Second):
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { _ = s.Config.Close() }) // at once, whatever is held
	return s
}

// holds counts a write.
func (s *slowAPI) holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.left < 0:
		return false
	case s.left > 0:
		s.left--
		return false
	}
	if s.reached != nil {
		close(s.reached)
		s.reached = nil
	}
	return true
}

// after admits so many writes; the channel is closed when the next one has come.
func (s *slowAPI) after(n int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.reached = n, make(chan struct{})
	return s.reached
}

// free holds back nothing more.
func (s *slowAPI) free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = -1
}

// delivered is an app whose releases GitLab's own runner makes, from the shipped pipeline file.
type delivered struct {
	*app
	gitlab   *gitlab.GitLab
	runner   *gitlab.Runner
	api      *slowAPI
	pipeline *gitlab.Pipeline
	traffic  *load.Generator
	began    time.Time
}

// The app drains: what ends at once when it is asked to may lose a request when a rollback replaces primary's pods.
const oldVersion, newVersion = "drains a", "drains b"

// deliver makes an app at rest on the old version, under traffic, and a pipeline that is to release the new one.
func deliver(t *testing.T, name string, arrives bool, minDuration time.Duration) *delivered {
	d := &delivered{app: newApp(t, name), api: newSlowAPI(t, arrives)}
	d.must("canary", "--image", images[oldVersion])
	program, err := setup.EnsureGitLabRunner(t.Context(), "", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kube := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: agent\ncontexts: [{name: agent, context: {cluster: agent, user: agent}}]\nclusters: [{name: agent, cluster: {server: %q}}]\nusers: [{name: agent, user: {}}]\n", d.api.URL)
	if err := os.WriteFile(kube, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.gitlab, err = gitlab.Start(gitlab.Options{
		Dir: filepath.Join(dir, "gitlab"), Repository: "../..", Manifests: d.manifests, Images: "^.*$", Crossbill: programs, Kube: kube, Environment: "production/" + d.name,
		Config: fmt.Appendf(nil, "app: %s\nmanifests: k8s\ncluster: {namespace: %s, timeout: 2m}\nprometheus: {url: %q}\ncanary: {weight: 50, settleDelay: 200ms}\nanalysis:\n  minDuration: %s\n  objectives:\n    - {name: availability, objective: 99.9, margin: 1}\n",
			d.name, d.namespace, running.PrometheusURL, minDuration),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.gitlab.Close() })
	d.gitlab.Coordinator.SetTraceInterval(time.Second)
	d.runner, err = d.gitlab.StartRunner(filepath.Join(dir, "runner"), program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.runner.Stop()
		if t.Failed() {
			t.Logf("the coordinator:\n%s", strings.Join(d.gitlab.Coordinator.Requests(), "\n"))
		}
	})
	d.traffic = load.Start("http://"+running.GatewayAddress+"/", d.served(), 60)
	t.Cleanup(d.traffic.Stop)
	d.began = time.Now()
	d.release("runner-1")
	return d
}

// release makes a pipeline.
func (d *delivered) release(id string) {
	d.Helper()
	var err error
	if d.pipeline, err = d.gitlab.Add(d.Context(), map[string]any{"app": d.name, "image": images[newVersion], "release_id": id, "commit": "c0ffee1"}); err != nil {
		d.Fatal(err)
	}
}

// start gives a job to the runner, after pressing it if it is a button.
func (d *delivered) start(job string) *gitlab.Execution {
	d.Helper()
	if d.pipeline.State(job) == "manual" {
		if err := d.pipeline.Press(job, gitlab.Approver); err != nil {
			d.Fatal(err)
		}
	}
	e, err := d.pipeline.Start(job)
	if err != nil {
		d.Fatal(err)
	}
	return e
}

func (d *delivered) wait(e *gitlab.Execution) (*gitlab.Execution, error) {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), 4*time.Minute)
	defer cancel()
	e, err := d.pipeline.Wait(ctx, e)
	if err != nil && !errors.As(err, new(*gitlab.JobError)) {
		d.Fatalf("%s: %v; it is %s\n%s\nthe runner:\n%s", e.Job, err, e.Status(), e.Log(), d.runner.Log())
	}
	return e, err
}

// done wants a job to succeed.
func (d *delivered) done(job string) *gitlab.Execution {
	d.Helper()
	e, err := d.wait(d.start(job))
	if err != nil {
		d.Fatalf("%v\n%s", err, e.Log())
	}
	return e
}

// upTo runs the jobs before one.
func (d *delivered) upTo(job string) {
	d.Helper()
	for _, before := range inOrder {
		if before == job || (job == watchJob || job == revertJob) && before == promoteJob {
			return
		}
		d.done(before)
	}
}

// onward runs the jobs from one on.
func (d *delivered) onward(job string) {
	d.Helper()
	at := slices.Index(inOrder, job)
	if job == watchJob {
		at = slices.Index(inOrder, promoteJob)
	}
	for _, next := range inOrder[at:] {
		d.done(next)
	}
}

// automatic runs what GitLab starts by itself after a job has failed. Neither a canceled nor a timed-out job says that the
// release is bad, so that nothing is rolled back.
func (d *delivered) automatic() {
	d.Helper()
	for _, job := range d.pipeline.Pending() {
		if !strings.HasPrefix(job, "rollback_after_") {
			continue
		}
		if e, err := d.wait(d.start(job)); err == nil || !strings.Contains(e.Log(), "Not rolled back: exit code") {
			d.Errorf("%s: %v\n%s", job, err, e.Log())
		}
	}
}

// settles wants the app at rest on a version, after a release with an outcome, no request lost, and no lock that is held.
func (d *delivered) settles(version string, outcome release.Outcome) {
	d.Helper()
	status := d.status()
	if status.Release != nil || len(status.History) == 0 || status.History[0].Outcome != outcome {
		d.Errorf("the ledger: %+v", status)
	}
	if d.weights() != atRest || d.image("canary") != "" || digest(d.image("primary")) != digest(images[version]) {
		d.Errorf("weights %+v, canary %q, primary %q; want version %s alone", d.weights(), d.image("canary"), d.image("primary"), version)
	}
	d.free()
	from := time.Now().Add(time.Second)
	time.Sleep(3 * time.Second)
	if last := d.traffic.Between(from, time.Now()); last.Versions[version] == 0 || last.Versions[version] < last.Requests-last.Lost {
		d.Errorf("in the end %v answer, want %s", last.Versions, version)
	}
	if all := d.traffic.Between(d.began, time.Now().Add(-time.Second)); all.Lost > 0 || all.Requests == 0 {
		d.Errorf("%d of %d requests lost: %v", all.Lost, all.Requests, all.Problems)
	}
}

// free wants nobody to hold the lock.
func (d *delivered) free() {
	d.Helper()
	lease, err := d.kube.CoordinationV1().Leases(d.namespace).Get(d.Context(), "crossbill-"+d.name, metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
		d.Errorf("the lock: %+v, %v", lease.Spec, err)
	}
}

// interruption is a way in which a job does not come to its end.
type interruption string

// The ways.
const (
	canceled      interruption = "cancel"         // somebody presses it
	timedOut      interruption = "timeout"        // of the job
	scriptTimeout interruption = "script timeout" // RUNNER_SCRIPT_TIMEOUT
	runnerDies    interruption = "runner dies"    // killed, and started again
)

// before sets what has to be set before the job starts.
func (d *delivered) before(how interruption) {
	switch how {
	case timedOut:
		d.gitlab.Coordinator.SetMaximumTimeout(12 * time.Second)
	case scriptTimeout:
		d.gitlab.SetVariable("RUNNER_SCRIPT_TIMEOUT", "10s")
	}
}

// interrupt does it when the job has come to its middle, and waits for its end.
func (d *delivered) interrupt(how interruption, e *gitlab.Execution, middle <-chan struct{}) *gitlab.Execution {
	d.Helper()
	if how == canceled || how == runnerDies {
		select {
		case <-middle:
		case <-time.After(90 * time.Second):
			d.Fatalf("%s did not come to its middle: it is %s\n%s", e.Job, e.Status(), e.Log())
		}
	}
	began := time.Now()
	switch how {
	case canceled:
		e.Cancel()
	case runnerDies:
		d.runner.Kill()
		if err := d.runner.Start(); err != nil {
			d.Fatal(err)
		}
		e.Cancel() // who looks at the job's page sees that nothing happens
		time.Sleep(3 * time.Second)
		if e.Status() != "canceling" {
			d.Errorf("%s: its runner is gone, and it is %s", e.Job, e.Status())
		}
		e.Abandon()
	}
	e, err := d.wait(e)
	d.api.free()
	d.gitlab.Coordinator.SetMaximumTimeout(0)
	d.gitlab.SetVariable("RUNNER_SCRIPT_TIMEOUT", "")
	d.Logf("%s, %s: %v, %s after it; log ends %q", e.Job, how, err, time.Since(began).Round(100*time.Millisecond), lastLines(e.Log(), 4))
	if err == nil {
		d.Fatalf("%s was not interrupted\n%s", e.Job, e.Log())
	}
	d.left(how, e)
	return e
}

// left checks what an interrupted job has left behind.
func (d *delivered) left(how interruption, e *gitlab.Execution) {
	d.Helper()
	status, reason, kept := "failed", "job_execution_timeout", false
	switch how {
	case canceled:
		status, reason, kept = "canceled", "", true
	case scriptTimeout:
		kept = true
	case runnerDies:
		reason = "stuck_or_timeout_failure"
	}
	if e.Status() != status || e.Reason() != reason {
		d.Errorf("%s is %s, %s; want %s, %s\n%s", e.Job, e.Status(), e.Reason(), status, reason, e.Log())
	}
	code, err := e.Artifact("exit-code")
	_, noReport := e.Artifact("report.html")
	if kept && (err != nil || string(code) != "1\n" || noReport != nil) || !kept && err == nil {
		d.Errorf("%s: it left exit code %q (%v), report %v\n%s", e.Job, code, err, noReport, e.Log())
	}
	if how != runnerDies { // who was asked to end has given the lock back
		d.free()
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// looked is a line of an analysis.
var looked = regexp.MustCompile(`(?m)^ *[1-9][0-9]*\.[0-9]s  `)

// middle starts a job. The channel is closed when it has made some of its writes, or has looked at the canary.
func (d *delivered) middle(job string, writes int) (*gitlab.Execution, <-chan struct{}) {
	d.Helper()
	if job != verifyJob && job != watchJob {
		reached := d.api.after(writes)
		return d.start(job), reached
	}
	e, reached := d.start(job), make(chan struct{})
	go func() {
		for d.Context().Err() == nil && e.Live() {
			if time.Sleep(100 * time.Millisecond); looked.MatchString(e.Log()) {
				close(reached)
				return
			}
		}
	}()
	return e, reached
}

// wayOut is what brings a release right whose job was interrupted.
type wayOut string

// The ways.
const (
	byRetry    wayOut = "retry"
	byRollback wayOut = "rollback"
	byGuard    wayOut = "guard"
)

// rightAgain goes it, and wants the app at rest.
func (d *delivered) rightAgain(job string, way wayOut) {
	d.Helper()
	switch way {
	case byRetry:
		user := "jane" // who runs the canary again counts as who started it, and cannot approve
		if job == promoteJob {
			user = gitlab.Approver
		}
		if err := d.pipeline.Retry(job, user); err != nil {
			d.Fatal(err)
		}
		if job == revertJob || job == watchJob {
			e := d.start(job)
			if job == watchJob {
				d.onward(job)
			}
			if e, err := d.wait(e); err != nil {
				d.Fatalf("%v\n%s", err, e.Log())
			}
		} else {
			d.onward(job)
		}
	case byRollback:
		d.done(revertJob)
	case byGuard:
		time.Sleep(2 * time.Second)
		d.must("guard", "--dead", "1s", "--waiting", "1s")
	}
	// After the promotion there is nothing to guard but what cleanup has left.
	if way == byRetry && job != revertJob || way == byGuard && job == cleanupJob {
		d.settles(newVersion, release.OutcomePromoted)
		return
	}
	d.settles(oldVersion, release.OutcomeRolledBack)
}

// TestRunner: GitLab's own runner runs the shipped jobs. Somebody cancels each of them in its middle, it takes too long, its runner
// dies, and the coordinator's answers get lost. What is left is never a route to nobody, and the next job, a rollback or a guard
// brings the release right, without a lost request.
func TestRunner(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	lanes := make(chan struct{}, 3)
	lane := func(t *testing.T) {
		t.Parallel()
		lanes <- struct{}{}
		t.Cleanup(func() { <-lanes })
	}
	t.Run("a good release", func(t *testing.T) { lane(t); testRunnerDelivers(t) })
	t.Run("lost answers", func(t *testing.T) { lane(t); testRunnerLosesAnswers(t) })
	turn := 0
	for i, how := range []interruption{canceled, timedOut, scriptTimeout, runnerDies} {
		for j, job := range []string{canaryJob, verifyJob, watchJob, promoteJob, cleanupJob, revertJob} {
			ways := []wayOut{byRetry, byRollback, byGuard}
			if job == revertJob {
				ways = []wayOut{byRetry}
			}
			way, n, writes := ways[(i+j)%len(ways)], turn, 1+i%3
			if job == cleanupJob { // which makes fewer
				writes = 1 + i%2
			}
			turn++
			t.Run(fmt.Sprintf("%s in %s then %s", how, job, way), func(t *testing.T) {
				lane(t)
				least := 4 * time.Second
				if job == verifyJob {
					least = 30 * time.Second // it must not have ended before that
				}
				d := deliver(t, fmt.Sprintf("runner-%d", n), (i+j)%2 == 0, least)
				stop := d.observing()
				d.upTo(job)
				d.before(how)
				e, middle := d.middle(job, writes)
				d.interrupt(how, e, middle)
				d.automatic()
				d.rightAgain(job, way)
				problems, states := stop()
				for _, problem := range problems {
					t.Error(problem)
				}
				if states < 3 { // a canary that was canceled after its first write makes few
					t.Errorf("only %d states were seen", states)
				}
			})
		}
	}
}

// testRunnerDelivers releases a good version. The watch stands beside the gate, and ends by itself when somebody has pressed it.
func testRunnerDelivers(t *testing.T) {
	d := deliver(t, "runner-good", false, 4*time.Second)
	stop := d.observe()
	for _, job := range []string{queueJob, canaryJob, verifyJob} {
		d.done(job)
	}
	if got := d.pipeline.Status(); got != "manual" && got != "running" {
		t.Errorf("the pipeline is %s", got)
	}
	watch := d.start(watchJob)
	for !looked.MatchString(watch.Log()) && watch.Status() != "failed" {
		time.Sleep(100 * time.Millisecond)
	}
	promoted := d.done(promoteJob)
	if e, err := d.wait(watch); err != nil {
		t.Errorf("%v\n%s", err, e.Log())
	}
	d.done(cleanupJob)
	stop()
	d.settles(newVersion, release.OutcomePromoted)
	if got := d.pipeline.Status(); got != "success" {
		t.Errorf("the pipeline is %s", got)
	}
	for _, file := range []string{"promote.json", "report.html", "exit-code"} {
		if text, err := promoted.Artifact(file); err != nil || len(text) == 0 {
			t.Errorf("%s: %q, %v", file, text, err)
		}
	}
	if by := d.status().History[0].Approvers(); !strings.Contains(by, gitlab.Approver) {
		t.Errorf("approved by %q", by)
	}
	if strings.Contains(promoted.Log(), "eyJ") {
		t.Errorf("a token is in the log:\n%s", promoted.Log())
	}
}

// testRunnerLosesAnswers releases a good version while answers of the coordinator are lost, refused or late.
func testRunnerLosesAnswers(t *testing.T) {
	d := deliver(t, "runner-answers", false, 4*time.Second)
	stop := d.observe()
	for _, lost := range gitlab.LostAnswers {
		if d.pipeline.State(lost.Job) == "manual" {
			if err := d.pipeline.Press(lost.Job, gitlab.Approver); err != nil {
				t.Fatal(err)
			}
		}
		e, err := d.pipeline.RunLosing(t.Context(), lost, gitlab.Approver)
		if err != nil {
			t.Fatalf("%v\n%s", err, e.Log())
		}
	}
	stop()
	d.settles(newVersion, release.OutcomePromoted)
}
