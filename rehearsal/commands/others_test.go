package commands_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

func (a *app) status() rollout.Status {
	a.Helper()
	var status rollout.Status
	if err := json.Unmarshal([]byte(a.must("status", "-o", "json")), &status); err != nil {
		a.Fatal(err)
	}
	return status
}

// look is the status without a process for the command, for those who look again and again.
func (a *app) look() rollout.Status {
	a.Helper()
	status, err := a.cluster("look", nil).Status(a.Context())
	if err != nil {
		a.Fatal(err)
	}
	return *status
}

// testAPipelineOfWhichNothingIsLeftToDo: a first release, and the release of what primary runs
// already, have no canary. The jobs of their pipelines succeed all the same, and write nothing.
func testAPipelineOfWhichNothingIsLeftToDo(t *testing.T) {
	t.Parallel()
	a := newApp(t, "nothing")
	if out := a.must("plan", "canary", "--image", images["one"]); !strings.Contains(out, "create Deployment") {
		t.Errorf("plan of a first release:\n%s", out)
	}
	a.pipeline("first", release.OutcomeFirst)
	a.pipeline("again", release.OutcomeUnchanged)
	if history := a.status().History; len(history) != 2 {
		t.Errorf("history %+v", history)
	}

	// A job of an older stage that is run again finds its work done.
	a.must("canary", "--image", images["two"])
	a.healthy()
	a.must("promote")
	before := a.state()
	a.must("canary", "--image", images["two"])
	a.must("verify", "--prometheus", running.PrometheusURL)
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("the jobs of a promoted release changed something: %v, then %v", before, after)
	}
	if out := a.must("plan", "rollback"); strings.Count(out, "update VirtualService") != 2 {
		t.Errorf("the plan of a rollback after promotion routes to the canary and back:\n%s", out)
	}
}

// gate holds a job's patch of an object back until it is let go; then it is sent, whatever the job thinks by
// then. With answer it is sent at once, and its answer is held back.
type gate struct {
	object   string // part of its path
	answer   bool
	next     http.RoundTripper
	once     sync.Once
	reached  chan struct{}
	released chan struct{}
}

func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPatch || !strings.Contains(r.URL.Path, g.object) || r.URL.Query().Get("dryRun") != "" {
		return g.next.RoundTrip(r)
	}
	if g.answer {
		defer func() {
			g.once.Do(func() { close(g.reached) })
			<-g.released
		}()
		return g.next.RoundTrip(r)
	}
	g.once.Do(func() { close(g.reached) })
	<-g.released
	return g.next.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
}

// through is a configuration whose requests go through the gate.
func (g *gate) through() *rest.Config {
	g.reached, g.released = make(chan struct{}), make(chan struct{})
	config := rest.CopyConfig(running.RESTConfig)
	config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
		g.next = next
		return g
	}
	return config
}

// testAnAnswerThatComesLate: the answer to a job's canary arrives after its release was rolled back. The job
// sees at once that there is nothing to wait for.
func testAnAnswerThatComesLate(t *testing.T) {
	t.Parallel()
	a := released(t, "answer")
	stop := a.observe()
	late := &gate{object: "/deployments/answer-canary", answer: true}
	job := a.quiet("late", late.through())
	ended := make(chan error, 1)
	go func() {
		_, err := job.Canary(context.Background(), wanted(job, images["two"]))
		ended <- err
	}()
	<-late.reached
	if _, err := a.quiet("next", nil).Rollback(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	close(late.released)
	select {
	case err := <-ended:
		if !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("the late job: %v", err)
		}
	case <-time.After(20 * time.Second): // of the 30 that it may wait
		t.Error("the late job waits for what is deleted")
	}
	if a.weights() != atRest || a.image("canary") != "" {
		t.Errorf("weights %+v, canary %q", a.weights(), a.image("canary"))
	}
	stop()
}

// testAWriteThatComesLate: a job's route arrives after its release was rolled back, by a job that found
// the lock empty. It must not be carried out: there are no pods any more.
func testAWriteThatComesLate(t *testing.T) {
	t.Parallel()
	a := released(t, "late")
	stop := a.observe()
	late := &gate{object: "/virtualservices/"}
	job := a.quiet("late", late.through())
	ended := make(chan error, 1)
	go func() {
		_, err := job.Canary(context.Background(), wanted(job, images["two"]))
		ended <- err
	}()
	<-late.reached
	// Another job took the lock over, and died before it did anything.
	leases := a.kube.CoordinationV1().Leases(a.namespace)
	if _, err := leases.Patch(t.Context(), "crossbill-late", types.MergePatchType, []byte(`{"spec":{"holderIdentity":""}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.quiet("next", nil).Rollback(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	close(late.released)
	if err := <-ended; err == nil {
		t.Error("the late job does not know that it lost its lock")
	}
	if a.weights() != atRest || a.image("canary") != "" {
		t.Errorf("weights %+v, canary %q", a.weights(), a.image("canary"))
	}
	stop()
}

// testACreationThatComesLate: a job's canary is made after its release was rolled back, and the next one has a canary of its own. The
// API server must not take the one for a new version of the other.
func testACreationThatComesLate(t *testing.T) {
	t.Parallel()
	a := released(t, "made")
	late := &gate{object: "/deployments/made-canary"}
	job := a.quiet("late", late.through())
	ended := make(chan error, 1)
	go func() {
		_, err := job.Canary(context.Background(), wanted(job, images["two"]))
		ended <- err
	}()
	<-late.reached
	if _, err := a.quiet("back", nil).Rollback(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	a.must("canary", "--image", images["three"])
	close(late.released)
	if err := <-ended; !errors.Is(err, rollout.ErrLockLost) {
		t.Errorf("%v, want ErrLockLost", err)
	}
	if a.weights() != split || digest(a.image("canary")) != digest(images["three"]) {
		t.Errorf("weights %+v, canary %q", a.weights(), a.image("canary"))
	}
}

// testDrift: what somebody else changes in a release in flight is reported, with what to do.
func testDrift(t *testing.T) {
	t.Parallel()
	a := released(t, "drift")
	a.must("canary", "--image", images["two"])
	if drift := a.status().Drift; len(drift) != 0 {
		t.Errorf("nobody has changed anything: %q", drift)
	}
	if _, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Patch(t.Context(), "drift-vs", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":50},{"op":"replace","path":"/spec/http/0/route/1/weight","value":50}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.kube.AppsV1().Deployments(a.namespace).Patch(t.Context(), "drift-primary", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"`+images["three"]+`"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	out := a.must("status")
	for _, want := range []string{"the canary has weight 50, the release gave it 10", "primary runs " + images["three"], "rollback ends the release"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
	}
	a.must("rollback")

	// The digest has failed: another release of it is refused as well.
	if code, out := a.crossbill("canary", "--image", images["two"], "--release-id", "another"); code != 2 || !strings.Contains(out, "was rolled back in release") {
		t.Errorf("a digest that was rolled back: exit code %d\n%s", code, out)
	}
}

// testACanaryGetsMoreInSteps: each step is ready before it is routed to, and what was judged before is
// judged again.
func testACanaryGetsMoreInSteps(t *testing.T) {
	t.Parallel()
	a := released(t, "steps")
	if code, out := a.crossbill("shift", "--steps", "25"); code != 2 || !strings.Contains(out, "no release is in flight") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	a.must("canary", "--image", images["two"])
	for _, bad := range []string{"0", "100", "25,25", "50,25", ""} {
		if code, out := a.crossbill("shift", "--steps", bad); code != 2 {
			t.Errorf("--steps %q: exit code %d\n%s", bad, code, out)
		}
	}
	stop := a.observe()
	a.healthy()
	a.must("shift", "--steps", "10,25,60")
	status := a.status()
	if *status.Weights != (manifest.WeightPair{Primary: 40, Canary: 60}) || status.Tracks[release.Canary].Ready != 2 || len(status.Drift) != 0 {
		t.Errorf("status %+v", status)
	}
	before := a.state()
	a.must("shift", "--steps", "10,25,60")
	a.must("canary", "--image", images["two"]) // a job that is run again
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("a shift that is done changed something: %v, then %v", before, after)
	}
	if code, out := a.crossbill("promote"); code != 2 || !strings.Contains(out, "no verdict") {
		t.Errorf("promotion on the verdict of a smaller share: exit code %d\n%s", code, out)
	}
	a.healthy()
	a.must("promote")
	a.must("cleanup")
	stop()
}

// pipeline runs the jobs of a pipeline whose canary has nothing to do for the others.
func (a *app) pipeline(id string, outcome release.Outcome) {
	a.Helper()
	a.must("canary", "--image", images["one"], "--release-id", id)
	if last := a.status().History[0]; last.ID != id || last.Outcome != outcome {
		a.Errorf("release %s ended %s, want %s", last.ID, last.Outcome, outcome)
	}
	before := a.state()
	a.must("canary", "--image", images["one"], "--release-id", id)
	a.must("verify", "--prometheus", running.PrometheusURL, "--release-id", id)
	a.must("promote", "--release-id", id)
	a.must("cleanup", "--release-id", id)
	a.must("rollback", "--release-id", id)
	if after := a.state(); !maps.Equal(before, after) {
		a.Errorf("release %s: its jobs changed something: %v, then %v", id, before, after)
	}
}

// testAnAppThatSomebodyElseDeployed: a primary that Crossbill cannot change, or whose container it
// cannot name, is neither a first release nor one to roll back.
func testAnAppThatSomebodyElseDeployed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"selector":  {"    matchLabels:\n      app: NAME\n      version: primary", "    matchLabels:\n      app: NAME"},
		"container": {"- name: app\n", "- name: web\n"},
	} {
		a := newApp(t, "hand-"+name)
		text, err := os.ReadFile(filepath.Join(a.manifests, "deployment.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		edited := strings.Replace(string(text), strings.ReplaceAll(change[0], "NAME", a.name), strings.ReplaceAll(change[1], "NAME", a.name), 1)
		if edited == string(text) {
			t.Fatal("the manifest has another form")
		}
		edited = strings.Replace(edited, "image: registry.example.com/our-org/"+a.name, "image: "+images["one"], 1)
		_, err = a.kube.AppsV1().Deployments(a.namespace).Patch(t.Context(), a.name+"-primary", types.ApplyPatchType, []byte(edited), metav1.PatchOptions{FieldManager: "kubectl"})
		if err != nil {
			t.Fatal(err)
		}
		if code, out := a.crossbill("canary", "--image", images["two"]); code != 2 || !strings.Contains(out, "Deployment ns-hand-"+name) {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
		a.must("rollback")
		if status := a.status(); status.Release != nil || len(status.History) != 0 || a.image("primary") != images["one"] {
			t.Errorf("%s: status %+v, primary %q", name, status, a.image("primary"))
		}
	}
}

// testARouteThatSomebodyElseTookAway: a release does not begin without its route, and a rollback does
// not need it.
func testARouteThatSomebodyElseTookAway(t *testing.T) {
	t.Parallel()
	a := released(t, "routeless")
	take := func() {
		t.Helper()
		_, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Patch(t.Context(), a.name+"-vs", types.JSONPatchType,
			[]byte(`[{"op":"replace","path":"/spec/http","value":[{"route":[{"destination":{"host":"routeless-service","subset":"primary"}}]}]}]`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	a.must("canary", "--image", images["two"])
	take()
	if drift := strings.Join(a.status().Drift, "\n"); !strings.Contains(drift, "its route is gone") {
		t.Errorf("drift %q", drift)
	}
	a.must("rollback")
	if a.image("canary") != "" {
		t.Error("the canary is still there")
	}
	before := a.state()
	if code, out := a.crossbill("canary", "--again", "--image", images["two"]); code != 2 || !strings.Contains(out, "VirtualService") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("a release without a route changed something: %v, then %v", before, after)
	}
}

// testARollbackBesideACanary: while a canary waits for its pods, the rollback of another release
// disturbs nobody; that of its own release stops it, and it does not take the lock back.
func testARollbackBesideACanary(t *testing.T) {
	t.Parallel()
	a := released(t, "disturbed")
	stop := a.observe()
	type ended struct {
		code int
		out  string
	}
	canary := make(chan ended, 1)
	go func() {
		code, out := a.crossbill("canary", "--image", images["unready"], "--release-id", "mine", "--timeout", "25s")
		canary <- ended{code, out}
	}()
	a.canaryIsThere()
	if code, out := a.crossbill("rollback", "--release-id", "another"); code != 5 {
		t.Errorf("rollback of another release: exit code %d\n%s", code, out)
	}
	select {
	case c := <-canary:
		t.Fatalf("the canary was disturbed: exit code %d\n%s", c.code, c.out)
	default:
	}
	if code, out := a.crossbill("rollback", "--release-id", "mine"); code != 0 {
		t.Errorf("rollback: exit code %d\n%s", code, out)
	}
	if c := <-canary; c.code != 5 || !strings.Contains(c.out, "another job has taken the lock") {
		t.Errorf("the canary ended with exit code %d\n%s", c.code, c.out)
	}
	stop()
	status := a.status()
	if takeovers := status.History[0].Takeovers; len(takeovers) != 1 || takeovers[0].From == "" {
		t.Errorf("takeovers %+v", takeovers)
	}
	if status.Release != nil || status.History[0].Outcome != release.OutcomeRolledBack || a.image("canary") != "" || a.weights() != atRest {
		t.Errorf("status %+v", status)
	}
}

// testAReleaseThatNobodyWorksOn: guard ends it, in the way that its stage asks for, but not too early
// and not while a job lives.
func testAReleaseThatNobodyWorksOn(t *testing.T) {
	t.Parallel()
	a := released(t, "guard")
	limits := rollout.Limits{Dead: 15 * time.Minute, Waiting: 24 * time.Hour}
	guard := func(later time.Duration, want string) {
		t.Helper()
		c := a.cluster("guard", nil)
		earlier := rollout.Limits{Dead: limits.Dead - later, Waiting: limits.Waiting - later} // as if it were later
		result, err := c.Guard(t.Context(), earlier)
		if err != nil || !strings.Contains(result.Message, want) {
			t.Errorf("guard %s later: %q, %v; want %q", later, result.Message, err, want)
		}
	}
	guard(100*time.Hour, "no release is in flight")

	a.must("canary", "--image", images["two"])
	before := a.state()
	guard(0, "24h0m0s is allowed")
	guard(23*time.Hour, "1h0m0s is allowed")
	if after := a.state(); !maps.Equal(before, after) {
		t.Errorf("guard changed something: %v, then %v", before, after)
	}
	guard(25*time.Hour, "has all of the traffic again")
	if status := a.status(); status.Release != nil || status.History[0].Outcome != release.OutcomeRolledBack || !strings.Contains(status.History[0].Reason, "nobody has worked on it") {
		t.Errorf("status %+v", status)
	}

	a.must("canary", "--again", "--image", images["two"])
	a.healthy()
	a.must("promote")
	guard(time.Hour, "23h0m0s is allowed") // it may be baking
	guard(25*time.Hour, "is released")
	if status := a.status(); status.Release != nil || status.History[0].Outcome != release.OutcomePromoted || a.image("canary") != "" {
		t.Errorf("status %+v", status)
	}

	// A job that waits for its pods is alive, however old its release is.
	canary := make(chan int, 1)
	go func() {
		code, _ := a.crossbill("canary", "--image", images["unready"], "--timeout", "8s")
		canary <- code
	}()
	a.canaryIsThere()
	guard(time.Hour, "works on it")
	if code := <-canary; code != 6 {
		t.Errorf("the canary ended with exit code %d", code)
	}
	if code, out := a.crossbill("guard", "--dead", "0s"); code != 2 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	a.must("guard")
}
