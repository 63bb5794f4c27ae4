package reconcile

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// says is what a process answers now: code and text of /health and of /ready.
func (h *Health) says(t *testing.T) string {
	t.Helper()
	var all []string
	for _, path := range []string{"/health", "/ready", "/"} {
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		all = append(all, strings.TrimSpace(http.StatusText(answer.Code)+": "+answer.Body.String()))
	}
	if all[2] != "Not Found: 404 page not found" {
		t.Errorf("/ answers %s", all[2])
	}
	return strings.Join(all[:2], "; ")
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Health{Silent: 10 * time.Minute}
		want := func(want string) {
			t.Helper()
			if diff := cmp.Diff(want, h.says(t)); diff != "" {
				t.Error(diff)
			}
		}
		want("OK: ok; Service Unavailable: the environment repository could not be read yet")
		h.Read()
		want("OK: ok; Service Unavailable: it is not known yet which process leads")
		h.Settled()
		want("OK: ok; OK: ok")
		time.Sleep(time.Hour) // another process leads
		want("OK: ok; OK: ok")
		h.Round()
		time.Sleep(10 * time.Minute)
		want("OK: ok; OK: ok")
		time.Sleep(time.Second)
		want("Service Unavailable: the loop has not come round for 10m1s, and 10m0s are admitted; OK: ok")
		h.Round()
		want("OK: ok; OK: ok")
	})
}

// TestRounds: a loop that waits for a command comes round, and so does one whose command takes long to stop; one that hangs does not.
func TestRounds(t *testing.T) {
	for name, test := range map[string]struct {
		looks func(c *cluster, looked int) // in place of an answer
		slow  time.Duration                // a command takes so long to stop
		alive bool
	}{
		"nothing to do":                {alive: true},
		"a command that stops slowly":  {alive: true, slow: 40 * time.Minute, looks: func(c *cluster, _ int) { c.verifies() }},
		"the API server never answers": {looks: func(_ *cluster, looked int) { hangs(looked > 3) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, of(1))
				c.git.History = nil
				h := &Health{Silent: 10 * time.Minute}
				looked := 0
				l := c.loop()
				l.Round = h.Round
				l.Look = func(ctx context.Context) (Git, State, error) {
					if looked++; test.looks != nil {
						test.looks(c, looked)
					}
					return c.look(ctx)
				}
				l.Do = func(ctx context.Context, step Step) int {
					<-ctx.Done()
					time.Sleep(test.slow)
					return 0
				}
				ctx, stop := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() { _ = l.Run(ctx) })
				if test.slow > 0 {
					time.Sleep(time.Minute)
					stop()
				}
				for range 60 {
					time.Sleep(30 * time.Second)
					if err := h.Alive(); err != nil && test.alive {
						t.Fatal(err)
					}
				}
				if err := h.Alive(); err == nil && !test.alive {
					t.Error("it counts as alive")
				}
				stop()
				running.Wait()
			})
		})
	}
}

// verifies has the cluster in a state in which Verify is at work.
func (c *cluster) verifies() {
	c.set(func() {
		c.git.History = history(of(1))
		if c.ledger.Release == nil {
			c.change(Step{Command: Canary, Release: of(1).Handoff, Proposal: of(1).Commit})
		}
	})
}

// hangs blocks a look for an hour.
func hangs(yes bool) {
	if yes {
		time.Sleep(time.Hour)
	}
}
