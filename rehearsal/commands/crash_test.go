package commands_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

var (
	crashStride = flag.Int("crash.stride", 3, "TestCrashMatrix: fault every so many-th request of a command, in a short run half as often, by routers that take turns; 1 is all of them by every router, and in TestGitOps every push")
	crashOut    = flag.String("crash.json", "", "TestCrashMatrix: file for what it counts")
)

// fault is what happens to one mutating request of a command.
type fault string

const (
	never   fault = "never arrives"        // the connection is refused
	silent  fault = "is done, answer lost" // the connection breaks behind it
	dies    fault = "is done, the job is killed"
	forGood fault = "never arrives, nor does any later one"
	late    fault = "arrives when the job was killed, and another one has ended"
)

// crashTurnInCluster makes the short form: every so many-th pair of a command and a fault. It has no factor in common with the
// number of faults, so that each of them comes.
const crashTurnInCluster = 4

var faults = []struct {
	name string
	fault
}{{"never", never}, {"silent", silent}, {"dies", dies}}

// strideOfCrashes is which requests of a command on the API server meet a fault: in a short run half as many.
func strideOfCrashes() int {
	if *long || *crashStride == 1 {
		return *crashStride
	}
	return 2 * *crashStride
}

// faulty is the network of a job: one of its mutating requests meets a fault.
type faulty struct {
	counts func(*http.Request) bool // which are mutating
	at     int                      // which request of them, from 1
	fault  fault
	kill   context.CancelFunc

	mu     sync.Mutex
	seen   int
	what   string // the request that met it
	killed bool
	held   func() (*http.Response, error) // sends what arrives late
}

// writes are the mutating requests to the API server, but for the lock's renewals, which leader election sends at times of
// its own.
func writes(r *http.Request) bool {
	lease := strings.Contains(r.URL.Path, "/leases/") // renewals; the first one is a POST to the list
	return r.Method != http.MethodGet && !lease && !strings.Contains(r.URL.Path, "/selfsubject")
}

// config is a configuration of the cluster's with this network.
func (f *faulty) config() *rest.Config {
	config := rest.CopyConfig(running.RESTConfig)
	config.WrapTransport = func(next http.RoundTripper) http.RoundTripper { return &through{f, next} }
	return config
}

// through is a network on the way to one server.
type through struct {
	*faulty
	next http.RoundTripper
}

var errKilled = errors.New("the job was killed")

// RoundTrip implements http.RoundTripper.
func (f *through) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	counts := f.counts(r)
	if counts {
		f.seen++
	}
	hit := counts && f.seen == f.at
	if hit {
		f.what = r.Method + " " + r.URL.Path
	}
	killed, lost := f.killed, counts && f.fault == forGood && f.seen >= f.at
	f.mu.Unlock()
	switch {
	case killed:
		return nil, errKilled
	case lost, hit && f.fault == never:
		return nil, syscall.ECONNREFUSED
	case !hit:
		return f.next.RoundTrip(r)
	case f.fault == late:
		return nil, f.hold(r)
	}
	response, err := f.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body.Close()
	if f.fault == dies {
		f.die()
		return nil, errKilled
	}
	return nil, syscall.ECONNRESET
}

// hold keeps a request for later, and ends the job.
func (f *through) hold(r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	f.held = func() (*http.Response, error) {
		r := r.Clone(context.Background())
		r.Body = io.NopCloser(bytes.NewReader(body))
		return f.next.RoundTrip(r)
	}
	f.die()
	return errKilled
}

func (f *faulty) die() {
	f.mu.Lock()
	f.killed = true
	f.mu.Unlock()
	f.kill()
}

// commandCase is a command, and what must be done before it on an app without a release in flight.
type commandCase struct {
	name   string
	before func(a *app, image string)
	run    func(ctx context.Context, c *rollout.Cluster, image string) error
}

// by says whether a router has the command: nothing keeps browsers on a version by an HTTPRoute.
func (v commandCase) by(router string) bool {
	return router == "VirtualService" || v.name != "sticky" && v.name != "unstick"
}

func (v commandCase) rollsBack() bool { return v.name == "rollback" || v.name == "unstick" }

func wanted(c *rollout.Cluster, image string) release.Release {
	configured(c, image)
	return release.Release{ID: "crash-" + image[len(image)-8:], Image: image, Weight: 10}
}

// configured gives the manifests of a job the configuration that goes with an image: each release of these tests has its own.
func configured(c *rollout.Cluster, image string) *rollout.Cluster {
	for _, own := range c.Manifests.ConfigMaps {
		if own.Data[releaseKey] != "" {
			own.Data[releaseKey] = digest(image)
		}
	}
	for _, own := range c.Manifests.Secrets {
		own.StringData = map[string]string{"SECRET": planted + digest(image)}
	}
	return c
}

func (a *app) prepare(run func(*rollout.Cluster) (rollout.Result, error)) {
	a.Helper()
	c := a.cluster("before", nil)
	c.Again = true
	if _, err := run(c); err != nil {
		a.Fatal(err)
	}
}

// firstCase is the canary command of an app that has no primary: each of its cases needs a new app.
var firstCase = commandCase{"first", func(*app, string) {}, func(ctx context.Context, c *rollout.Cluster, image string) error {
	_, err := c.Canary(ctx, wanted(c, image))
	return err
}}

var commandCases = []commandCase{
	{"canary", func(*app, string) {}, func(ctx context.Context, c *rollout.Cluster, image string) error {
		_, err := c.Canary(ctx, wanted(c, image))
		return err
	}},
	{"shift", func(a *app, image string) {
		a.prepare(func(c *rollout.Cluster) (rollout.Result, error) { return c.Canary(a.Context(), wanted(c, image)) })
	}, func(ctx context.Context, c *rollout.Cluster, image string) error {
		_, err := configured(c, image).Shift(ctx, []int{25, 60}, 0)
		return err
	}},
	{"promote", func(a *app, image string) {
		a.prepare(func(c *rollout.Cluster) (rollout.Result, error) { return c.Canary(a.Context(), wanted(c, image)) })
		a.healthy()
	}, func(ctx context.Context, c *rollout.Cluster, image string) error {
		_, err := configured(c, image).Promote(ctx)
		return err
	}},
	{"cleanup", func(a *app, image string) {
		a.prepare(func(c *rollout.Cluster) (rollout.Result, error) { return c.Canary(a.Context(), wanted(c, image)) })
		a.healthy()
		a.prepare(func(c *rollout.Cluster) (rollout.Result, error) { return configured(c, image).Promote(a.Context()) })
	}, func(ctx context.Context, c *rollout.Cluster, _ string) error {
		_, err := c.Cleanup(ctx)
		return err
	}},
	{"rollback", func(a *app, image string) {
		a.prepare(func(c *rollout.Cluster) (rollout.Result, error) { return c.Canary(a.Context(), wanted(c, image)) })
		a.healthy()
		a.prepare(func(c *rollout.Cluster) (rollout.Result, error) { return configured(c, image).Promote(a.Context()) })
	}, func(ctx context.Context, c *rollout.Cluster, _ string) error {
		_, err := c.Rollback(ctx, "test")
		return err
	}},
}

func init() {
	sticky := func(c *rollout.Cluster, image string) release.Release {
		r := wanted(c, image)
		r.Sticky = &release.Sticky{Assets: "/build/"}
		return r
	}
	commandCases = append(commandCases,
		commandCase{"sticky", func(*app, string) {}, func(ctx context.Context, c *rollout.Cluster, image string) error {
			_, err := c.Canary(ctx, sticky(c, image))
			return err
		}},
		commandCase{"unstick", func(a *app, image string) {
			a.prepare(func(c *rollout.Cluster) (rollout.Result, error) { return c.Canary(a.Context(), sticky(c, image)) })
		}, func(ctx context.Context, c *rollout.Cluster, _ string) error {
			_, err := c.Rollback(ctx, "test")
			return err
		}})
}

// crashCount is what cases of crashes come to by a router.
type crashCount struct {
	counts func(*http.Request) bool // what meets the faults

	mu         sync.Mutex
	Router     string `json:"router"`
	Cases      int    `json:"cases"`
	Violations int    `json:"violations"` // of an invariant, at any change of any object
	Unfinished int    `json:"unfinished"` // the way out did not lead to rest

	different int      // at rest, Git and cluster are
	found     []string // what any of these was
}

// report makes errors of what was found, beside each other, not where each was found among the logs of others.
func (count *crashCount) report(t *testing.T, atLeast int) {
	t.Helper()
	for _, found := range count.found {
		t.Errorf("%s: %s", count.Router, found)
	}
	t.Logf("%s: %d cases, %d with a violation, %d unfinished, %d different in Git", count.Router, count.Cases, count.Violations, count.Unfinished, count.different)
	if count.Cases < atLeast {
		t.Errorf("%s: only %d cases", count.Router, count.Cases)
	}
}

// crashGroup are cases of a command that differ in the request that meets the fault: every so many-th from the first one, up to a
// last one or until the command makes fewer.
type crashGroup struct {
	command             commandCase
	fault               fault
	rollBack            bool // else the command is run again
	first, stride, last int
}

// ways are those out of a crash of a command.
func (v commandCase) ways() []string {
	if v.rollsBack() {
		return []string{"resume"} // the other one is the same
	}
	return []string{"resume", "rollback"}
}

// TestCrashMatrix lets every mutating request of every command, by every router, fail in each way, then runs the command
// again, or rolls back. All the while an observer checks the invariants; in the end the app is at rest, on the
// new image or the old one as the way out says. TestGitOps has the same of an app whose releases are commits.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	var out struct {
		Routers []*crashCount `json:"routers"`
	}
	for _, router := range routers {
		out.Routers = append(out.Routers, &crashCount{Router: router.name, counts: writes})
	}
	t.Run("matrix", func(t *testing.T) {
		turn, stride := 0, strideOfCrashes()
		for _, command := range append(slices.Clone(commandCases), firstCase) {
			for _, f := range faults {
				for o, way := range command.ways() {
					for i, router := range routers {
						if !command.by(router.name) || *crashStride > 1 && command.by("HTTPRoute") && (turn+o)%len(routers) != i {
							continue
						}
						if !*long && turn%crashTurnInCluster != 0 {
							continue
						}
						t.Run(strings.Join([]string{router.name, command.name, f.name, way}, " "), func(t *testing.T) {
							t.Parallel()
							name := strings.Join([]string{"crash", strings.ToLower(router.name[:1]), command.name, f.name, way[:2]}, "-")
							out.Routers[i].all(
								crashGroup{command: command, fault: f.fault, rollBack: way == "rollback", first: 1, stride: stride, last: math.MaxInt},
								crashApps(t, name, command.name, router.manifests))
						})
					}
				}
				turn++
			}
		}
	})
	atLeast := 5
	if *long {
		atLeast = 30
	}
	for _, count := range out.Routers {
		count.report(t, atLeast)
	}
	writeJSON(t, *crashOut, out)
}

// crashApps gives one app for all cases of a command, or a new one each for a first release.
func crashApps(t *testing.T, name, command string, manifests func(*app)) func(at int) *app {
	if command == "first" {
		return func(at int) *app {
			a := newApp(t, fmt.Sprintf("%s-%d", name, at))
			a.configure(digest(images["two"]))
			manifests(a)
			return a
		}
	}
	a := configuredApp(t, name, manifests)
	a.foreign()
	a.autoscaled()
	return func(int) *app { return a }
}

// all are the cases of a group, each on the app that there is for it; false when that is not at rest after one.
func (count *crashCount) all(g crashGroup, on func(at int) *app) (rests bool) {
	for at := g.first; at <= g.last; at += g.stride {
		if hit, rests := on(at).crash(count, g, at); !hit || !rests {
			return rests
		}
	}
	return true
}

// crash is one case, which is none when the command makes fewer requests. It leaves an app at rest, or says that it does not.
func (a *app) crash(count *crashCount, g crashGroup, at int) (hit, rests bool) {
	a.Helper()
	command, rollBack := g.command, g.rollBack
	old := a.image("primary")
	image := images["two"]
	if digest(old) == digest(image) {
		image = images["three"]
	}
	command.before(a, image)

	stop := a.observing()
	ctx, cancel := context.WithCancel(a.Context())
	defer cancel()
	network := &faulty{counts: count.counts, at: at, fault: g.fault, kill: cancel}
	job := a.quiet("job", network.config())
	job.Again = true
	first := command.run(ctx, job, image)
	hit = network.what != ""
	if !hit { // the command has ended before
		if first != nil {
			a.Errorf("%s without a fault: %v", command.name, first)
		}
		rollBack = false
	}

	// The way out, from another machine.
	where := fmt.Sprintf("%s, request %d (%s) %s, then ", command.name, at, network.what, g.fault)
	next := a.quiet("next", nil)
	next.Takeover, next.Again = true, true
	parent, err := "", error(nil)
	if a.commits != nil {
		parent = a.commits.head()
	}
	switch {
	case rollBack:
		where += "rollback"
		_, err = next.Rollback(a.Context(), "test")
	default:
		where += "again"
		if err = command.run(a.Context(), next, image); err == nil {
			err = a.toTheEnd(next, command.name)
		}
	}
	var different, problems []string
	if a.commits != nil {
		different = a.commits.different()
		if network.held != nil && a.commits.head() != parent { // else it comes in time
			problems = a.commits.takes(network.held)
		}
	}
	seen, states := stop()
	problems = append(problems, seen...)
	if states == 0 && !hit {
		problems = append(problems, "the observer saw nothing")
	}
	unfinished := a.unrest(err, where, old, image, rollBack, command.name)
	count.mu.Lock()
	defer count.mu.Unlock()
	if hit {
		count.Cases++
	}
	for _, problem := range append(problems, different...) {
		count.found = append(count.found, where+": "+problem)
	}
	if len(problems) > 0 {
		count.Violations++
		a.Fail()
	}
	if len(different) > 0 {
		count.different++
		a.Fail()
	}
	if unfinished != "" {
		count.found = append(count.found, fmt.Sprintf("%s: %s (the first run ended with: %v)", where, unfinished, first))
		count.Unfinished++
		a.Fail()
	}
	return hit, unfinished == "" && len(different) == 0 // else the app is not what the next case needs
}

// autoscaled gives primary an HPA. Nobody measures pods here, so that its controller keeps to its bounds only.
func (a *app) autoscaled() {
	a.Helper()
	_, err := a.kube.AutoscalingV2().HorizontalPodAutoscalers(a.namespace).Create(a.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: a.name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MinReplicas: new(int32(2)), MaxReplicas: 4,
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: a.name + "-primary"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		a.Fatal(err)
	}
}

// toTheEnd carries a release that goes on to its end.
func (a *app) toTheEnd(c *rollout.Cluster, command string) error {
	switch command {
	case "canary", "sticky", "shift":
		a.healthy()
		fallthrough
	case "verify":
		if _, err := c.Promote(a.Context()); err != nil {
			return err
		}
		fallthrough
	case "promote":
		_, err := c.Cleanup(a.Context())
		return err
	}
	return nil
}

// unrest says why an app is not at rest as it should be; "" when it is.
func (a *app) unrest(err error, where, old, image string, rolledBack bool, command string) string {
	a.Helper()
	if err != nil {
		return "the way out failed: " + err.Error()
	}
	status, err := a.cluster("look", nil).Status(a.Context())
	if err != nil {
		return err.Error()
	}
	want := image
	if rolledBack || command == "rollback" || command == "unstick" {
		want = old
	}
	switch {
	case status.Release != nil:
		return fmt.Sprintf("release %s is still in flight at %s", status.Release.ID, status.Release.Stage)
	case command == "first" && rolledBack && status.Tracks[release.Primary] == nil:
		return "" // the app is gone again
	case command == "first" && rolledBack && len(status.History) > 0 && status.History[0].Outcome == release.OutcomeFirst:
		return "" // it had all of its traffic already
	case status.Weights == nil || *status.Weights != atRest:
		return fmt.Sprintf("weights %+v", status.Weights)
	case status.Tracks[release.Canary] != nil:
		return "the canary is still there"
	case status.Tracks[release.Primary] == nil || digest(status.Tracks[release.Primary].Image) != digest(want):
		// A release that had ended before the rollback is not undone by it.
		if ended := status.History[0]; rolledBack && ended.Outcome == release.OutcomePromoted && digest(status.Tracks[release.Primary].Image) == digest(image) {
			return ""
		}
		return fmt.Sprintf("primary runs %v, want %s", status.Tracks[release.Primary], want)
	}
	return ""
}

// quiet is the app as a job sees it, without a log.
func (a *app) quiet(by string, config *rest.Config) *rollout.Cluster {
	a.Helper()
	c := a.cluster(by, config)
	c.Log, c.SettleDelay = nil, 200*time.Millisecond
	return c
}
