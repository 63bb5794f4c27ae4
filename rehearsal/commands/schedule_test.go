package commands_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"pgregory.net/rapid"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

var scheduleCount = flag.Int("schedules", 2, "TestRandomSchedules: how many")

// schedule is what happens on one app: jobs that run beside each other, each step after step, and a person.
type schedule struct {
	Jobs   [][]step
	Person uint64 // seed of what the person does
}

// step is a command that a job runs.
type step struct {
	Command  string
	Image    string
	Takeover bool
	Seconds  int    // after which the job is killed
	Network  uint64 // seed of how bad its network is
}

// schedules draws one. Fewer and simpler steps are tried first when a failing one is made smaller.
var schedules = rapid.Custom(func(t *rapid.T) schedule {
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			Command:  rapid.SampledFrom([]string{"canary", "whole lifecycle", "shift", "promote", "cleanup", "rollback"}).Draw(t, "command"),
			Image:    rapid.SampledFrom([]string{"two", "three"}).Draw(t, "image"),
			Takeover: rapid.IntRange(0, 2).Draw(t, "takeover") == 2,
			Seconds:  13 - rapid.IntRange(1, 12).Draw(t, "killed"),
			Network:  rapid.Uint64().Draw(t, "network"),
		}
	}), 2, 6)
	return schedule{rapid.SliceOfN(steps, 2, 3).Draw(t, "jobs"), rapid.Uint64().Draw(t, "person")}
})

// rough is the network of a job on a bad day: answers are slow, lost or refused, watches break off.
type rough struct {
	next http.RoundTripper

	mu  sync.Mutex
	rng *rand.Rand
}

func (r *rough) draw(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rng.IntN(n)
}

func (r *rough) RoundTrip(request *http.Request) (*http.Response, error) {
	if r.draw(4) == 0 {
		time.Sleep(time.Duration(r.draw(200)) * time.Millisecond)
	}
	switch r.draw(60) {
	case 0, 1:
		return refusal(request, http.StatusTooManyRequests, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"TooManyRequests","code":429}`), nil
	case 2, 3:
		return refusal(request, http.StatusInternalServerError, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"InternalError","code":500}`), nil
	case 4, 5:
		return nil, syscall.ECONNREFUSED
	case 6, 7:
		if request.Method == http.MethodPut || request.Method == http.MethodPatch {
			return refusal(request, http.StatusConflict, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Conflict","code":409}`), nil
		}
	}
	response, err := r.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if request.URL.Query().Get("watch") != "" {
		if r.draw(2) == 0 {
			time.AfterFunc(time.Duration(100+r.draw(2000))*time.Millisecond, func() { response.Body.Close() })
		}
		return response, nil
	}
	if r.draw(40) == 0 {
		response.Body.Close()
		return nil, syscall.ECONNRESET
	}
	return response, nil
}

func refusal(request *http.Request, code int, body string) *http.Response {
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: request,
		Header: http.Header{"Content-Type": {"application/json"}, "Retry-After": {"1"}}, Body: io.NopCloser(bytes.NewBufferString(body)),
	}
}

// TestRandomSchedules lets jobs of several releases work against each other over bad networks, while a
// person edits the route, an autoscaler primary, and pods come and go. No invariant breaks meanwhile, and
// one rollback in the end leads to rest. A schedule that fails is made smaller before it is shown.
func TestRandomSchedules(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"rapid.checks": "1", "rapid.shrinktime": "4m", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	var played atomic.Int64
	for i := range *scheduleCount {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			play := func(s schedule) []string {
				return configuredApp(t, fmt.Sprintf("schedule-%d", played.Add(1))).play(s)
			}
			if !*long { // the same ones each time; make soak draws others
				for _, problem := range play(schedules.Example(i)) {
					t.Error(problem)
				}
				return
			}
			rapid.Check(t, func(r *rapid.T) {
				for _, problem := range play(schedules.Draw(r, "schedule")) {
					r.Error(problem)
				}
			})
		})
	}
}

// play carries a schedule out and says what is wrong with what came of it.
func (a *app) play(s schedule) (problems []string) {
	a.Helper()
	a.autoscaled()
	stop := a.observing()
	ctx, cancel := context.WithTimeout(a.Context(), 45*time.Second)
	defer cancel()
	var jobs sync.WaitGroup
	for i, steps := range s.Jobs {
		jobs.Go(func() {
			for _, step := range steps {
				a.take(ctx, step, fmt.Sprintf("job-%d", i))
			}
		})
	}
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { a.person(done, rand.New(rand.NewPCG(s.Person, 99))) })
	jobs.Wait()
	close(done)
	others.Wait()

	last := a.quiet("last", nil)
	last.Takeover = true
	_, err := last.Rollback(a.Context(), "the end")
	problems, states := stop()
	if err != nil {
		return append(problems, fmt.Sprintf("rollback: %v", err))
	}
	status, err := last.Status(a.Context())
	if err != nil {
		return append(problems, err.Error())
	}
	if status.Release != nil || *status.Weights != atRest || status.Tracks[release.Canary] != nil {
		problems = append(problems, fmt.Sprintf("not at rest: %+v", status))
	}
	a.Logf("%d states, %d releases ended", states, len(status.History))
	return problems
}

// take runs a step to its end, or until it is killed. What it says does not matter here.
func (a *app) take(ctx context.Context, s step, name string) {
	config := rest.CopyConfig(running.RESTConfig)
	config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
		return &rough{next: next, rng: rand.New(rand.NewPCG(s.Network, 7))}
	}
	c := a.quiet(name, config)
	if s.Network%2 == 0 { // some drain by what two Prometheus servers say in turn
		source, err := verdict.NewSource(verdict.SourceOptions{URL: running.ReplicasURL, Namespace: a.namespace})
		if err != nil {
			a.Error(err)
			return
		}
		c.Drained = source.Quiet
	}
	c.Again, c.Takeover, c.Timeout, c.LockTimeout = true, s.Takeover, 10*time.Second, 8*time.Second
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Seconds)*time.Second)
	defer cancel()
	switch s.Command {
	case "canary":
		_, _ = c.Canary(ctx, wanted(c, images[s.Image]))
	case "whole lifecycle":
		_, _ = c.Canary(ctx, wanted(c, images[s.Image]))
		a.judge(ctx, c)
		_, _ = c.Promote(ctx)
		_, _ = c.Cleanup(ctx)
	case "shift":
		_, _ = a.inFlight(ctx, c).Shift(ctx, []int{30, 60}, 0)
	case "promote":
		a.judge(ctx, c)
		_, _ = a.inFlight(ctx, c).Promote(ctx)
	case "cleanup":
		_, _ = c.Cleanup(ctx)
	case "rollback":
		_, _ = c.Rollback(ctx, name)
	}
}

// inFlight gives a job the configuration of the release that is in flight.
func (a *app) inFlight(ctx context.Context, c *rollout.Cluster) *rollout.Cluster {
	if status, err := c.Status(ctx); err == nil && status.Release != nil {
		return configured(c, status.Release.Image)
	}
	return c
}

// judge puts a healthy verdict on whatever is in flight.
func (a *app) judge(ctx context.Context, c *rollout.Cluster) {
	status, err := c.Status(ctx)
	if err == nil && status.Release != nil {
		v := status.Release.Subject()
		v.Outcome, v.Reason, v.At = release.Healthy, "test", time.Now()
		_, _ = c.Judge(ctx, v, false)
	}
}

// person edits what is not Crossbill's: annotations and a route of their own, primary's number of
// replicas.
func (a *app) person(done <-chan struct{}, rng *rand.Rand) {
	routes, deployments := a.mesh.NetworkingV1().VirtualServices(a.namespace), a.kube.AppsV1().Deployments(a.namespace)
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(200+rng.IntN(600)) * time.Millisecond):
		}
		ctx := context.Background()
		switch rng.IntN(3) {
		case 0:
			note := fmt.Sprintf(`{"metadata":{"annotations":{"person/note":"%d"}}}`, rng.IntN(1000))
			_, _ = routes.Patch(ctx, a.name+"-vs", types.MergePatchType, []byte(note), metav1.PatchOptions{})
		case 1:
			scale, err := deployments.GetScale(ctx, a.name+"-primary", metav1.GetOptions{})
			if err == nil {
				scale.Spec.Replicas = int32(2 + rng.IntN(3)) // what its HPA allows
				_, _ = deployments.UpdateScale(ctx, a.name+"-primary", scale, metav1.UpdateOptions{})
			}
		case 2:
			pods, err := a.kube.CoreV1().Pods(a.namespace).List(ctx, metav1.ListOptions{LabelSelector: "version=canary"})
			if err != nil {
				continue
			}
			ready := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
				return p.DeletionTimestamp != nil || !isReady(p)
			})
			if len(ready) > 1 { // without its last one the canary would lose its endpoints by a person's hand
				_ = a.kube.CoreV1().Pods(a.namespace).Delete(ctx, ready[0].Name, metav1.DeleteOptions{})
			}
		}
	}
}

func isReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
