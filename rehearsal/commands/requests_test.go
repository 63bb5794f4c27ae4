package commands_test

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/internal/rollout"
)

// counter counts the API requests of a job and the time that they take, without its watches and those of
// its lock, which is renewed every 2 s.
type counter struct {
	next http.RoundTripper

	mu        sync.Mutex
	seen      []string
	conflicts int // somebody else's write came between: read and write again
	looks     int // at pods, again and again while endpoints come one by one: a wait, as a watch is
	took      time.Duration
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	begin := time.Now()
	response, err := c.next.RoundTrip(r)
	if r.URL.Query().Get("watch") == "" && !strings.Contains(r.URL.Path, "/leases") {
		c.mu.Lock()
		defer c.mu.Unlock()
		if strings.HasSuffix(r.URL.Path, "/pods") {
			if c.looks++; c.looks > 1 {
				return response, err
			}
		}
		c.seen = append(c.seen, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/apis"))
		c.took += time.Since(begin)
		if err == nil && response.StatusCode == http.StatusConflict {
			c.conflicts++
		}
	}
	return response, err
}

// counted is the app as a job sees it, with its requests counted.
func (a *app) counted() (*rollout.Cluster, *counter) {
	a.Helper()
	count := &counter{}
	config := rest.CopyConfig(running.RESTConfig)
	config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
		count.next = next
		return count
	}
	return a.quiet("count", config), count
}

// mostRequests is what a command may ask of the API server, if nobody else writes.
const mostRequests = 15

// mostOfFirst is what an app's first release may ask, which makes all of its objects, each in a dry run first.
const mostOfFirst = 36

// TestAPIRequests bounds what a command asks of the API server.
func TestAPIRequests(t *testing.T) {
	t.Parallel()
	a := released(t, "requests")
	image := images["two"]
	for _, step := range []struct {
		name string
		most int
		run  func(ctx context.Context, c *rollout.Cluster) error
	}{
		{"canary", mostRequests, func(ctx context.Context, c *rollout.Cluster) error {
			_, err := c.Canary(ctx, wanted(c, image))
			return err
		}},
		{"canary again", 1, func(ctx context.Context, c *rollout.Cluster) error {
			_, err := c.Canary(ctx, wanted(c, image))
			return err
		}},
		{"status", 4, func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Status(ctx); return err }},
		{"promote", mostRequests, func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Promote(ctx); return err }},
		{"cleanup", mostRequests, func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Cleanup(ctx); return err }},
		{"canary to roll back", mostRequests, func(ctx context.Context, c *rollout.Cluster) error {
			_, err := c.Canary(ctx, wanted(c, images["three"]))
			return err
		}},
		{"rollback", mostRequests, func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Rollback(ctx, "test"); return err }},
	} {
		if step.name == "promote" {
			a.healthy()
		}
		c, count := a.counted()
		begin := time.Now()
		if err := step.run(t.Context(), c); err != nil {
			t.Fatal(step.name, err)
		}
		t.Logf("%s: %d requests that took %s, %s in all", step.name, len(count.seen), count.took.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		if len(count.seen)-2*count.conflicts > step.most {
			t.Errorf("%s: more than %d requests, with %d conflicts:\n%s", step.name, step.most, count.conflicts, strings.Join(count.seen, "\n"))
		}
	}
}

// mostOfRelease is what a whole good release may ask of the API server, its lock included, watches apart, and apart from the looks
// at the route that verify repeats while it lasts.
const mostOfRelease = 44

// request is a line of --verbose.
var request = regexp.MustCompile(`(?m)^(GET|POST|PUT|PATCH|DELETE) \S+?(/api\S*) (.*) in \S+$`)

// cheap bounds what the commands of a release have asked of the API server, by what they said of it.
func (a *app) cheap(said string) {
	a.Helper()
	var counted []string
	conflicts := 0
	for _, found := range request.FindAllStringSubmatch(said, -1) {
		if strings.Contains(found[2], "watch=") {
			continue
		}
		if strings.HasPrefix(found[3], "409") { // somebody else wrote in between: a controller
			conflicts++
		}
		line := found[1] + " " + found[2] + " " + found[3]
		if n := len(counted); n > 0 && counted[n-1] == line && found[1] == http.MethodGet { // it depends on how long verify takes
			continue
		}
		counted = append(counted, line)
	}
	a.Logf("a good release: %d requests, %d conflicts", len(counted), conflicts)
	if n := len(counted) - 2*conflicts; n > mostOfRelease || n == 0 {
		a.Errorf("a good release asked for %d things of the API server, %d are allowed:\n%s", n, mostOfRelease, strings.Join(counted, "\n"))
	}
}
