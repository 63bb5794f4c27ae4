package commands_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
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
	crashStride = flag.Int("crash.stride", 3, "TestCrashMatrix: fault every so many-th request of a command, by routers that take turns; 1 is all of them by every router")
	crashOut    = flag.String("crash.json", "", "TestCrashMatrix: file for what it counts")
)

// fault is what happens to one mutating request of a command.
type fault string

const (
	never  fault = "never arrives"        // the connection is refused
	silent fault = "is done, answer lost" // the connection breaks behind it
	dies   fault = "is done, the job is killed"
)

var faults = []struct {
	name string
	fault
}{{"never", never}, {"silent", silent}, {"dies", dies}}

// faulty is the network of a job: one of its mutating requests meets a fault. The lock's renewals,
// which leader election sends at times of its own, are not counted.
type faulty struct {
	next  http.RoundTripper
	at    int // which request, from 1
	fault fault
	kill  context.CancelFunc

	mu     sync.Mutex
	seen   int
	what   string // the request that met it
	killed bool
}

var errKilled = errors.New("the job was killed")

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	lease := strings.Contains(r.URL.Path, "/leases/") // renewals; the first one is a POST to the list
	counts := r.Method != http.MethodGet && !lease && !strings.Contains(r.URL.Path, "/selfsubject")
	if counts {
		f.seen++
	}
	hit := counts && f.seen == f.at
	if hit {
		f.what = r.Method + " " + r.URL.Path
	}
	killed := f.killed
	f.mu.Unlock()
	switch {
	case killed:
		return nil, errKilled
	case !hit:
		return f.next.RoundTrip(r)
	case f.fault == never:
		return nil, syscall.ECONNREFUSED
	}
	response, err := f.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body.Close()
	if f.fault == dies {
		f.mu.Lock()
		f.killed = true
		f.mu.Unlock()
		f.kill()
		return nil, errKilled
	}
	return nil, syscall.ECONNRESET
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

// crashCount is what TestCrashMatrix comes to by a router.
type crashCount struct {
	mu         sync.Mutex
	Router     string `json:"router"`
	Cases      int    `json:"cases"`
	Violations int    `json:"violations"` // of an invariant, at any change of any object
	Unfinished int    `json:"unfinished"` // the way out did not lead to rest

	found []string // what either was
}

// TestCrashMatrix lets every mutating request of every command, by every router, fail in each way, then runs the command
// again, or rolls back. All the while an observer checks the invariants; in the end the app is at rest, on the
// new image or the old one as the way out says.
func TestCrashMatrix(t *testing.T) {
	var out struct {
		Routers []*crashCount `json:"routers"`
	}
	for _, router := range routers {
		out.Routers = append(out.Routers, &crashCount{Router: router.name})
	}
	t.Run("matrix", func(t *testing.T) {
		turn := 0
		for _, command := range append(slices.Clone(commandCases), firstCase) {
			for _, f := range faults {
				for o, way := range []string{"resume", "rollback"} {
					if command.rollsBack() && way == "rollback" {
						continue // the same
					}
					for i, router := range routers {
						if !command.by(router.name) || *crashStride > 1 && command.by("HTTPRoute") && (turn+o)%len(routers) != i {
							continue
						}
						t.Run(strings.Join([]string{router.name, command.name, f.name, way}, " "), func(t *testing.T) {
							t.Parallel()
							name := strings.Join([]string{"crash", strings.ToLower(router.name[:1]), command.name, f.name, way[:2]}, "-")
							out.Routers[i].all(t, name, command, f.fault, way == "rollback", router.manifests)
						})
					}
				}
				turn++
			}
		}
	})
	for _, count := range out.Routers {
		for _, found := range count.found { // here, beside each other, not where each was found among the logs of others
			t.Errorf("%s: %s", count.Router, found)
		}
		t.Logf("%s: %d cases, %d with a violation, %d unfinished", count.Router, count.Cases, count.Violations, count.Unfinished)
		if count.Cases < 30 {
			t.Errorf("%s: only %d cases", count.Router, count.Cases)
		}
	}
	writeJSON(t, *crashOut, out)
}

// all are the cases of a command that meet a fault, on an app, or on a new one each for a first release.
func (count *crashCount) all(t *testing.T, name string, command commandCase, f fault, rollBack bool, manifests func(*app)) {
	var a *app
	if command.name != "first" {
		a = configuredApp(t, name, manifests)
		a.foreign()
		a.autoscaled()
	}
	for at := 1; ; at += *crashStride {
		if command.name == "first" {
			a = newApp(t, fmt.Sprintf("%s-%d", name, at))
			a.configure(digest(images["two"]))
			manifests(a)
		}
		if !a.crash(count, command, f, at, rollBack) {
			return
		}
	}
}

// crash is one case; false when the command makes fewer requests.
func (a *app) crash(count *crashCount, command commandCase, f fault, at int, rollBack bool) bool {
	a.Helper()
	old := a.image("primary")
	image := images["two"]
	if digest(old) == digest(image) {
		image = images["three"]
	}
	command.before(a, image)

	stop := a.observing()
	ctx, cancel := context.WithCancel(a.Context())
	defer cancel()
	network := &faulty{at: at, fault: f, kill: cancel}
	config := rest.CopyConfig(running.RESTConfig)
	config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
		network.next = next
		return network
	}
	job := a.quiet("job", config)
	job.Again = true
	first := command.run(ctx, job, image)
	hit := network.what
	if hit == "" { // the command has ended before
		if first != nil {
			a.Errorf("%s without a fault: %v", command.name, first)
		}
		rollBack = false
	}

	// The way out, from another machine.
	where := fmt.Sprintf("%s, request %d (%s) %s", command.name, at, hit, f)
	next := a.quiet("next", nil)
	next.Takeover, next.Again = true, true
	var err error
	switch {
	case rollBack:
		_, err = next.Rollback(a.Context(), "test")
	default:
		if err = command.run(a.Context(), next, image); err == nil {
			err = a.toTheEnd(next, command.name)
		}
	}
	problems, states := stop()
	if states == 0 && hit == "" {
		problems = append(problems, "the observer saw nothing")
	}
	unfinished := a.unrest(err, where, old, image, rollBack, command.name)
	count.mu.Lock()
	defer count.mu.Unlock()
	if hit != "" {
		count.Cases++
	}
	for _, problem := range problems {
		count.found = append(count.found, where+": "+problem)
	}
	if len(problems) > 0 {
		count.Violations++
		a.Fail()
	}
	if unfinished != "" {
		count.found = append(count.found, fmt.Sprintf("%s: %s (the first run ended with: %v)", where, unfinished, first))
		count.Unfinished++
		a.Fail()
		return false // the app is not what the next case needs
	}
	return hit != ""
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
	if command == "canary" || command == "sticky" || command == "shift" {
		a.healthy()
		if _, err := c.Promote(a.Context()); err != nil {
			return err
		}
	}
	if command == "canary" || command == "sticky" || command == "shift" || command == "promote" {
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
