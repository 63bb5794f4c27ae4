// Package load sends steady traffic through the gateway, as the outside world would, and counts what
// comes back. The traffic is made by the vegeta library at a constant rate: a slow answer does not
// hold the next request back.
package load

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Generator is traffic under way.
type Generator struct {
	attacker *vegeta.Attacker
	patience time.Duration
	done     chan struct{}

	mu      sync.Mutex
	answers []Answer
}

// Answer is what came of one request.
type Answer struct {
	Sent    time.Time
	Code    uint16 // 0: no answer
	Version string // of the app that answered; "" when none did
	Track   string
	Config  string // what the app says of its configuration, if anything
	Latency time.Duration
	Problem string // what a request came to that was lost, or answered with an error
}

// Lost tells whether no version of the app answered: nobody did, or the gateway itself.
func (a Answer) Lost() bool { return a.Code == 0 || a.Version == "" }

// Start begins to send rate requests a second to a URL under a host name. Callers wait for 10 s.
func Start(url, host string, rate int) *Generator {
	return StartImpatient(url, host, rate, 10*time.Second)
}

// StartImpatient is Start with callers that leave when they have waited for so long.
func StartImpatient(url, host string, rate int, patience time.Duration) *Generator {
	return start(url, http.Header{"Host": {host}}, rate, patience)
}

// StartWith is Start with a header of the requests.
func StartWith(url, host, name, value string, rate int) *Generator {
	return start(url, http.Header{"Host": {host}, http.CanonicalHeaderKey(name): {value}}, rate, 10*time.Second)
}

func start(url string, headers http.Header, rate int, patience time.Duration) *Generator {
	g := &Generator{
		patience: patience,
		attacker: vegeta.NewAttacker(vegeta.Timeout(patience), vegeta.Connections(256), vegeta.KeepAlive(true)),
		done:     make(chan struct{}),
	}
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: http.MethodGet, URL: url, Header: headers})
	results := g.attacker.Attack(target, vegeta.Rate{Freq: rate, Per: time.Second}, 0, "rehearsal")
	go func() {
		defer close(g.done)
		for r := range results {
			g.add(r)
		}
	}()
	return g
}

func (g *Generator) add(r *vegeta.Result) {
	a := Answer{Sent: r.Timestamp, Code: r.Code, Latency: r.Latency}
	a.Version, a.Track, a.Config = r.Headers.Get("x-app-version"), r.Headers.Get("x-app-track"), r.Headers.Get("x-app-configuration")
	a.Problem = g.problem(r, a.Lost())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers = append(g.answers, a)
}

// own is a caller's side of a connection, which differs each time.
var own = regexp.MustCompile(`[0-9.]+:[0-9]+->`)

// problem is what a request came to, in the same words for all of a kind. A proxy that answers itself says why in its body: nothing
// else distinguishes that no endpoint was ready from a connection that failed.
func (g *Generator) problem(r *vegeta.Result, lost bool) string {
	switch {
	case strings.Contains(r.Error, "Client.Timeout exceeded"):
		return fmt.Sprintf("no answer within %s", g.patience)
	case r.Code == 0:
		if _, cause, ok := strings.Cut(r.Error, "\": "); ok { // after the method and the URL
			return own.ReplaceAllString(cause, "")
		}
	case lost && len(r.Body) > 0:
		return fmt.Sprintf("%s: %.200s", r.Error, strings.TrimSpace(string(r.Body)))
	}
	return r.Error
}

// Stop ends the traffic and waits for the last answers.
func (g *Generator) Stop() {
	g.attacker.Stop()
	<-g.done
}

// Tally is what came back of the requests of some time.
type Tally struct {
	Requests int `json:"requests"`
	// Lost is requests without an answer by any version of the app: no answer at all, or an error of
	// the gateway's own.
	Lost int `json:"lost"`
	// Failed is requests that the app itself answered with a server error.
	Failed   int            `json:"failed"`
	Tracks   map[string]int `json:"tracks"`
	Versions map[string]int `json:"versions"`
	Slowest  time.Duration  `json:"slowestNanoseconds"`
	Problems map[string]int `json:"problems,omitempty"` // what the lost ones came to
}

// Share is a track's share of the answered requests, from 0 to 1.
func (t Tally) Share(track string) float64 {
	answered := t.Requests - t.Lost
	if answered == 0 {
		return 0
	}
	return float64(t.Tracks[track]) / float64(answered)
}

// Between counts the requests that were sent from one time on and before another.
func (g *Generator) Between(from, to time.Time) Tally {
	t := Tally{Tracks: map[string]int{}, Versions: map[string]int{}, Problems: map[string]int{}}
	g.each(from, to, func(a *Answer) {
		t.Requests++
		t.Slowest = max(t.Slowest, a.Latency)
		if a.Lost() {
			t.Lost++
			t.Problems[a.Problem]++
			return
		}
		t.Tracks[a.Track]++
		t.Versions[a.Version]++
		if a.Code >= 500 {
			t.Failed++
		}
	})
	return t
}

// Answers are those to the requests that were sent from one time on and before another.
func (g *Generator) Answers(from, to time.Time) (answers []Answer) {
	g.each(from, to, func(a *Answer) { answers = append(answers, *a) })
	return answers
}

// slack is how much later than a caller's patience its answer may be kept, on a busy machine.
const slack = 10 * time.Second

// each gives those answers one by one. They are kept in the order in which they came, so those before one that was sent long
// before the time asked for were sent before it as well: callers wait for so long only.
func (g *Generator) each(from, to time.Time, do func(*Answer)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	first := len(g.answers)
	for first > 0 && from.Sub(g.answers[first-1].Sent) < g.patience+slack {
		first--
	}
	for i := range g.answers[first:] {
		if a := &g.answers[first+i]; !a.Sent.Before(from) && a.Sent.Before(to) {
			do(a)
		}
	}
}

// Seen is when the first or the last request that a version answered was sent; zero when there is
// none.
func (g *Generator) Seen(version string, last bool) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	var seen time.Time
	for _, a := range g.answers {
		if a.Version == version && (seen.IsZero() || a.Sent.After(seen) == last) {
			seen = a.Sent
		}
	}
	return seen
}
