package verbs_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/rollout"
)

// counter counts the API requests of a job, without its watches and those of its claim, which is renewed
// every 2 s.
type counter struct {
	next http.RoundTripper

	mu   sync.Mutex
	seen []string
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") == "" && !strings.Contains(r.URL.Path, "/leases") {
		c.mu.Lock()
		c.seen = append(c.seen, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/apis"))
		c.mu.Unlock()
	}
	return c.next.RoundTrip(r)
}

// TestAPIRequests bounds what a verb asks of the API server: 22, 21 and 11 were measured for canary,
// promote and cleanup; a write that meets a conflict is two more.
func TestAPIRequests(t *testing.T) {
	a := released(t, "requests")
	image := images["two"]
	for _, step := range []struct {
		name string
		most int
		run  func(ctx context.Context, c *rollout.Cluster) error
	}{
		{"canary", 27, func(ctx context.Context, c *rollout.Cluster) error {
			_, err := c.Canary(ctx, wanted(c, image))
			return err
		}},
		{"canary again", 1, func(ctx context.Context, c *rollout.Cluster) error {
			_, err := c.Canary(ctx, wanted(c, image))
			return err
		}},
		{"status", 4, func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Status(ctx); return err }},
		{"promote", 27, func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Promote(ctx); return err }},
		{"cleanup", 16, func(ctx context.Context, c *rollout.Cluster) error { _, err := c.Cleanup(ctx); return err }},
	} {
		count := &counter{}
		config := rest.CopyConfig(running.RESTConfig)
		config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
			count.next = next
			return count
		}
		c := a.quiet("count", config)
		if step.name == "promote" {
			a.healthy()
		}
		begin := time.Now()
		if err := step.run(t.Context(), c); err != nil {
			t.Fatal(step.name, err)
		}
		t.Logf("%s: %d requests, %s", step.name, len(count.seen), time.Since(begin).Round(time.Millisecond))
		if len(count.seen) > step.most {
			t.Errorf("%s: more than %d requests:\n%s", step.name, step.most, strings.Join(count.seen, "\n"))
		}
	}
}
