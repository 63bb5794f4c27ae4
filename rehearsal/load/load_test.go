package load

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestProblems: each kind of lost request has one name, whichever connection it came by, and the words of a proxy that answered itself.
func TestProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
		wait   time.Duration // for an answer
	}{
		"a proxy without endpoints": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
		}, "503 Service Unavailable: no healthy upstream", time.Minute},
		"a connection that breaks": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", time.Minute},
		"nobody answers":           {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 200ms", 200 * time.Millisecond},
		"nobody listens":           {nil, "dial tcp 127.0.0.1:1: connect: connection refused", time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := "http://127.0.0.1:1"
			if c.answer != nil {
				server := httptest.NewServer(c.answer)
				t.Cleanup(server.Close)
				url = server.URL
			}
			g := StartImpatient(url, "app.example.com", 100, c.wait)
			for len(g.Answers(time.Time{}, time.Now())) < 3 {
				time.Sleep(time.Millisecond)
			}
			g.Stop()
			got := g.Between(time.Time{}, time.Now())
			if len(got.Problems) != 1 || got.Problems[c.want] != got.Requests || got.Lost != got.Requests {
				t.Errorf("of %d requests %d lost: %v, want %q", got.Requests, got.Lost, got.Problems, c.want)
			}
		})
	}
}

// TestBetween: answers are counted by when their request was sent, in whatever order they came.
func TestBetween(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	g := &Generator{patience: 10 * time.Second}
	sent := func(second int, version string) {
		g.answers = append(g.answers, Answer{Sent: start.Add(time.Duration(second) * time.Second), Code: 200, Version: version})
	}
	for second := range 100 {
		if second == 69 {
			sent(60, "slow") // it came 9 seconds after the others of its time
		}
		sent(second, "quick")
	}
	for _, c := range []struct{ from, to, want int }{{0, 100, 101}, {60, 61, 2}, {61, 100, 39}, {0, 1, 1}, {99, 100, 1}, {200, 300, 0}} {
		got := g.Between(start.Add(time.Duration(c.from)*time.Second), start.Add(time.Duration(c.to)*time.Second))
		if got.Requests != c.want {
			t.Errorf("%d requests from %d s to %d s, want %d", got.Requests, c.from, c.to, c.want)
		}
	}
}
