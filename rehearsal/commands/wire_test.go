package commands_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/rehearsal/load"
)

// wireGrace is how long pods of the tests below have to end.
const wireGrace = 12 * time.Second

// wireApp is an app that speaks more than HTTP/1.1 (rehearsal/cluster/testdata/wire), with a port of a protocol, and with
// manifests that may be prepared further.
func wireApp(t *testing.T, name, protocol string, prepare ...func(*app)) *app {
	t.Helper()
	a := newApp(t, name)
	a.writeManifests("- name: http\n      port: 80", "- name: "+protocol+"\n      port: 80", "terminationGracePeriodSeconds: 30", fmt.Sprintf("terminationGracePeriodSeconds: %d", int(wireGrace.Seconds())))
	a.shape(prepare)
	a.must("canary", "--image", images["wire a"])
	a.served()
	return a
}

// calls is a gRPC client that calls the app through the gateway.
func (a *app) calls() health.HealthClient {
	a.Helper()
	return a.callsBy(running.GatewayAddress, a.name+".example.com")
}

// callsBy is a gRPC client that calls a host through a proxy.
func (a *app) callsBy(proxy, host string) health.HealthClient {
	a.Helper()
	client, err := grpc.NewClient("passthrough:///"+proxy, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(host))
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { client.Close() })
	return health.NewHealthClient(client)
}

// caller calls all the time, a share of the time with the wish for a status.
type caller struct {
	asks    string // the status; "" for none
	calls   atomic.Int64
	mu      sync.Mutex
	answers map[codes.Code]int
	stop    context.CancelFunc
	ended   sync.WaitGroup
}

func (a *app) call(client health.HealthClient, asks string) *caller {
	ctx, cancel := context.WithCancel(a.Context())
	c := &caller{asks: asks, answers: map[codes.Code]int{}, stop: cancel}
	for range 4 {
		c.ended.Go(func() {
			for tick := time.NewTicker(40 * time.Millisecond); ctx.Err() == nil; <-tick.C {
				request := &health.HealthCheckRequest{}
				if c.calls.Add(1)%10 < 3 {
					request.Service = c.asks
				}
				_, err := client.Check(ctx, request)
				if ctx.Err() != nil {
					return
				}
				c.mu.Lock()
				c.answers[status.Code(err)]++
				c.mu.Unlock()
			}
		})
	}
	return c
}

// end ends the calls, and gives how many had which status.
func (c *caller) end() map[codes.Code]int {
	c.stop()
	c.ended.Wait()
	return c.answers
}

// canaryOf counts the calls that the canary answers, of 200 on one connection.
func (a *app) canaryOf(client health.HealthClient) (n int) {
	a.Helper()
	for range 200 {
		var header metadata.MD
		if _, err := client.Check(a.Context(), &health.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
			a.Fatal(err)
		}
		if track := header.Get("x-app-track"); len(track) == 1 && track[0] == "canary" {
			n++
		}
	}
	return n
}

// TestGRPCVerdict calls a gRPC server through the gateway, and through the sidecar of a caller. A canary of which 30% of
// the calls are answered with INTERNAL, each with code 200, is rolled back; calls that ask for NOT_FOUND, of both tracks,
// blame none. The weight holds for the calls on a connection.
func TestGRPCVerdict(t *testing.T) {
	t.Parallel()
	a := wireApp(t, "grpc-verdict", "grpc")
	sidecar, err := running.StartCaller(t.Context(), a.namespace, "cart")
	if err != nil {
		t.Fatal(err)
	}
	clients := map[string]health.HealthClient{"gateway": a.calls(), "sidecar": a.callsBy(sidecar.Address(80), a.name+"-service")}
	callers := map[string]*caller{}
	for by, client := range clients {
		a.eventually(func() error {
			if _, err := client.Check(t.Context(), &health.HealthCheckRequest{}); err != nil {
				return fmt.Errorf("by the %s: %w", by, err)
			}
			return nil
		})
		callers[by] = a.call(client, "5")
	}
	verify := func(image string, want int, says string) {
		t.Helper()
		a.must("canary", "--image", images[image], "--weight", "50")
		code, out := a.crossbill("verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--max-duration", "2m", "--config", byAvailability(t))
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Logf("%s: %s", image, lines[len(lines)-1])
		if code != want || !strings.Contains(out, says) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s", image, code, want, says, out)
		}
	}
	verify("wire internal", 3, "availability:")
	if h := a.status().History; a.weights() != atRest || len(h) == 0 || h[0].Outcome != release.OutcomeRolledBack {
		t.Errorf("weights %+v, history %+v", a.weights(), h)
	}
	verify("wire b", 0, "healthy: availability: ") // not 100%: this machine may lose a call
	for by, c := range callers {
		answers, canary := c.end(), a.canaryOf(clients[by])
		t.Logf("by the %s: calls by status %v; then %d of 200 to the canary", by, answers, canary)
		for code := range answers {
			if code != codes.OK && code != codes.NotFound && code != codes.Internal {
				t.Errorf("by the %s: %d calls ended with %s", by, answers[code], code)
			}
		}
		if answers[codes.NotFound] == 0 || answers[codes.Internal] == 0 {
			t.Errorf("by the %s: answers %v: the calls do not ask for what they should", by, answers)
		}
		if canary < 65 || canary > 135 { // five standard deviations
			t.Errorf("by the %s: the canary answers %d of 200 at weight 50", by, canary)
		}
	}
	a.must("rollback", "--prometheus", running.PrometheusURL)
	for by, client := range clients {
		if n := a.canaryOf(client); n > 0 {
			t.Errorf("by the %s: the canary answers %d of 200 after a rollback", by, n)
		}
	}
}

// stream is a stream of any protocol: next waits for its next message. It gives the track that answers.
type stream struct {
	track string
	next  func() error
}

// streams open a stream through the gateway, by protocol.
func (a *app) streams() map[string]func(context.Context) (*stream, error) {
	host := a.name + ".example.com"
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", running.GatewayAddress)
	}
	client, calls := &http.Client{Transport: &http.Transport{DialContext: dial}}, a.calls()
	return map[string]func(context.Context) (*stream, error){
		"gRPC": func(ctx context.Context) (*stream, error) {
			watch, err := calls.Watch(ctx, &health.HealthCheckRequest{})
			if err != nil {
				return nil, err
			}
			var header metadata.MD
			if header, err = watch.Header(); err != nil || len(header.Get("x-app-track")) == 0 {
				return nil, fmt.Errorf("header %v, %w", header, err)
			}
			return &stream{header.Get("x-app-track")[0], func() error { _, err := watch.Recv(); return err }}, nil
		},
		"server-sent events": func(ctx context.Context) (*stream, error) {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/events", nil)
			if err != nil {
				return nil, err
			}
			response, err := client.Do(request)
			if err != nil {
				return nil, err
			}
			lines := bufio.NewReader(response.Body)
			first, err := lines.ReadString('\n')
			return &stream{strings.TrimPrefix(strings.TrimSpace(first), "data: "), func() error { _, err := lines.ReadString('\n'); return err }}, err
		},
		"WebSocket": func(ctx context.Context) (*stream, error) {
			socket, response, err := (&websocket.Dialer{NetDialContext: dial}).DialContext(ctx, "ws://"+host+"/socket", nil)
			if err != nil {
				return nil, fmt.Errorf("%v: %w", response, err)
			}
			context.AfterFunc(ctx, func() { socket.Close() })
			_, first, err := socket.ReadMessage()
			return &stream{string(first), func() error { _, _, err := socket.ReadMessage(); return err }}, err
		},
	}
}

// TestStreams opens streams of each protocol on the canary and leaves them open. They live on at weight 0, through the
// promotion and while the canary is drained, until its pods have had their time to end, and no longer: cleanup waits for
// nobody who listens all day. Then their callers reach primary. Short requests are not lost meanwhile; of a GRPCRoute istiod makes
// routes for them too.
func TestStreams(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		protocol string
		prepare  func(*app)
		kinds    []string
		long     bool
	}{
		"grpc":      {"grpc", func(*app) {}, []string{"gRPC", "server-sent events"}, true},
		"grpcroute": {"grpc", routeBy("GRPCRoute"), []string{"gRPC"}, false},
		"http":      {"http", func(*app) {}, []string{"WebSocket", "server-sent events"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.long {
				onlyLong(t)
			}
			t.Parallel()
			a := wireApp(t, "streams-"+name, c.protocol, c.prepare)
			a.must("canary", "--image", images["wire b"], "--weight", "50")
			traffic := load.Start("http://"+running.GatewayAddress+"/", a.name+".example.com", 50)
			began := time.Now()
			type open struct {
				kind  string
				again func(context.Context) (*stream, error)
				err   error
				ended moment
				after string // the track that its caller reaches then
			}
			var listeners sync.WaitGroup
			var all []*open
			for _, kind := range c.kinds {
				o := &open{kind: kind, again: a.streams()[kind]}
				all = append(all, o)
				s := a.onCanary(o.again)
				listeners.Go(func() {
					for o.err == nil {
						o.err = s.next()
					}
					o.ended.Store(time.Now())
					if s, err := o.again(a.Context()); err == nil {
						o.after = s.track
					} else {
						o.after = err.Error()
					}
				})
			}
			a.healthy()
			a.must("promote")
			for _, o := range all {
				if !o.ended.Load().IsZero() {
					t.Errorf("%s: ended when the canary lost its weight: %v", o.kind, o.err)
				}
			}
			cleanup, asked := time.Now(), a.canaryAskedToEnd()
			a.must("cleanup", "--prometheus", running.PrometheusURL, "--timeout", "90s")
			drained := time.Since(cleanup)
			listeners.Wait()
			end := <-asked
			traffic.Stop()
			tally := traffic.Between(began, time.Now())
			t.Logf("drained and deleted in %s; %d requests", drained.Round(100*time.Millisecond), tally.Requests)
			if tally.Lost != 0 || tally.Requests == 0 {
				t.Errorf("%d of %d requests were lost: %v", tally.Lost, tally.Requests, tally.Problems)
			}
			for _, o := range all {
				lived := o.ended.Load().Sub(end)
				t.Logf("%s: ended %s after its pod was asked to (%v); then %s", o.kind, lived.Round(100*time.Millisecond), o.err, o.after)
				if lived < wireGrace-2*time.Second || lived > wireGrace+5*time.Second {
					t.Errorf("%s ended %s after its pod was asked to, want %s", o.kind, lived, wireGrace)
				}
				if o.after != "primary" {
					t.Errorf("%s: afterwards its caller reaches %s", o.kind, o.after)
				}
			}
		})
	}
}

// onCanary opens streams until one is the canary's. It lasts as long as the test.
func (a *app) onCanary(open func(context.Context) (*stream, error)) (found *stream) {
	a.Helper()
	a.eventually(func() error {
		ctx, cancel := context.WithCancel(a.Context())
		s, err := open(ctx)
		if err == nil && s.track != "canary" {
			err = errors.New("it is " + s.track + "'s")
		}
		if err != nil {
			cancel()
			return err
		}
		a.Cleanup(cancel)
		found = s
		return nil
	})
	return found
}

// moment is a time that one side notes and another one looks at.
type moment struct{ nanoseconds atomic.Int64 }

func (m *moment) Store(at time.Time) { m.nanoseconds.Store(at.UnixNano()) }

func (m *moment) Load() time.Time {
	if n := m.nanoseconds.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// canaryAskedToEnd gives when a pod of the canary was asked to end, as soon as one is.
func (a *app) canaryAskedToEnd() <-chan time.Time {
	a.Helper()
	pods, err := a.kube.CoreV1().Pods(a.namespace).Watch(a.Context(), metav1.ListOptions{LabelSelector: "version=canary"})
	if err != nil {
		a.Fatal(err)
	}
	asked := make(chan time.Time, 1)
	go func() {
		defer close(asked)
		defer pods.Stop()
		for event := range pods.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && pod.DeletionTimestamp != nil {
				asked <- time.Now()
				return
			}
		}
	}()
	return asked
}
