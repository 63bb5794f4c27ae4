package verbs_test

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
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/release"
	"github.com/our-org/crossbill/rollout"
)

var (
	scheduleCount = flag.Int("schedules", 4, "TestRandomSchedules: how many")
	scheduleSeed  = flag.Uint64("schedules.seed", 1, "TestRandomSchedules: seed of the first one")
)

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
// person edits the route and an autoscaler primary. No invariant breaks meanwhile, and one rollback in
// the end leads to rest.
func TestRandomSchedules(t *testing.T) {
	for i := range *scheduleCount {
		seed := *scheduleSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			a := released(t, fmt.Sprintf("schedule-%d", seed))
			stop := a.observing()
			ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
			defer cancel()
			rng := rand.New(rand.NewPCG(seed, 0))
			var jobs sync.WaitGroup
			for job := range 2 + rng.IntN(2) {
				own := rand.New(rand.NewPCG(seed, uint64(job)+1))
				jobs.Go(func() { a.restless(ctx, own, fmt.Sprintf("job-%d", job)) })
			}
			done := make(chan struct{})
			var others sync.WaitGroup
			others.Go(func() { a.person(done, rand.New(rand.NewPCG(seed, 99))) })
			jobs.Wait()
			close(done)
			others.Wait()

			last := a.quiet("last", nil)
			last.Takeover = true
			_, err := last.Rollback(t.Context(), "the end")
			problems, states := stop()
			for _, problem := range problems {
				t.Error(problem)
			}
			if err != nil {
				t.Fatalf("rollback: %v", err)
			}
			status, err := last.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if status.Release != nil || *status.Weights != atRest || status.Tracks[release.Canary] != nil {
				t.Errorf("not at rest: %+v", status)
			}
			runs := digest(status.Tracks[release.Primary].Image)
			proved := runs == digest(images["one"])
			for _, f := range status.History {
				proved = proved || f.Outcome == release.OutcomePromoted && digest(f.Image) == runs
			}
			if !proved {
				t.Errorf("primary runs %s, which no release has promoted: %+v", runs, status.History)
			}
			t.Logf("%d states, %d releases ended", states, len(status.History))
		})
	}
}

// restless runs verbs at random until its time is over. What they say does not matter here.
func (a *app) restless(ctx context.Context, rng *rand.Rand, name string) {
	for range 6 {
		if ctx.Err() != nil {
			return
		}
		config := rest.CopyConfig(running.RESTConfig)
		seed := rng.Uint64()
		config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
			return &rough{next: next, rng: rand.New(rand.NewPCG(seed, 7))}
		}
		c := a.quiet(name, config)
		c.Again, c.Takeover, c.Timeout, c.ClaimTimeout = true, rng.IntN(3) == 0, 10*time.Second, 8*time.Second
		limited, cancel := context.WithTimeout(ctx, time.Duration(1+rng.IntN(12))*time.Second) // some are killed
		image := images[[]string{"two", "three"}[rng.IntN(2)]]
		switch rng.IntN(8) {
		case 0, 1:
			_, _ = c.Canary(limited, wanted(c, image))
		case 2, 3:
			_, _ = c.Canary(limited, wanted(c, image))
			a.judge(limited, c)
			_, _ = c.Promote(limited)
			_, _ = c.Cleanup(limited)
		case 4:
			_, _ = c.Shift(limited, []int{30, 60}, 0)
		case 5:
			a.judge(limited, c)
			_, _ = c.Promote(limited)
		case 6:
			_, _ = c.Cleanup(limited)
		case 7:
			_, _ = c.Rollback(limited, name)
		}
		cancel()
	}
}

// judge puts a healthy verdict on whatever is in flight.
func (a *app) judge(ctx context.Context, c *rollout.Cluster) {
	status, err := c.Status(ctx)
	if err == nil && status.Release != nil {
		_, _ = c.Judge(ctx, release.Verdict{Outcome: release.Healthy, Digest: status.Release.Digest(), Reason: "test", At: time.Now()})
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
				scale.Spec.Replicas = int32(2 + rng.IntN(2))
				_, _ = deployments.UpdateScale(ctx, a.name+"-primary", scale, metav1.UpdateOptions{})
			}
		case 2:
			pods, err := a.kube.CoreV1().Pods(a.namespace).List(ctx, metav1.ListOptions{LabelSelector: "version=canary"})
			if err != nil {
				continue
			}
			ready := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
				return p.DeletionTimestamp != nil || !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
					return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
				})
			})
			if len(ready) > 1 { // without its last one the canary would lose its endpoints by a person's hand
				_ = a.kube.CoreV1().Pods(a.namespace).Delete(ctx, ready[0].Name, metav1.DeleteOptions{})
			}
		}
	}
}
