// Command app is what make compare releases: a server that says which version it is, answers probes, and drains when it is asked
// to stop. The environment of its image makes it a bad version; what the Deployment adds is the same for all versions.
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if os.Getenv("CRASH") != "" {
		fmt.Println("crashing, as configured")
		os.Exit(3)
	}
	fail := percent(os.Getenv("FAIL"))
	slow, dies, flap, cold := span("SLOW"), span("DIES_AFTER"), span("FLAP"), span("COLD")
	// What turns bad does so some time after the first request, however long a release took to get there.
	var first sync.Once
	var called atomic.Int64 // when it came, in Unix nanoseconds
	age := func() time.Duration {
		if since := called.Load(); since > 0 {
			return time.Since(time.Unix(0, since))
		}
		return 0
	}
	shared := follow(os.Getenv("FAULTS"))
	capacity := percent(os.Getenv("CAPACITY"))
	var arrived counter
	var draining atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if draining.Load() || flap > 0 && age()/flap%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/load", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, arrived.perSecond(time.Now())) })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if n := arrived.add(time.Now()); capacity > 0 && float64(n) > capacity { // no version answers this one
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		first.Do(func() {
			called.Store(time.Now().UnixNano())
			if dies > 0 {
				time.AfterFunc(dies, func() { os.Exit(4) })
			}
		})
		w.Header().Set("x-app-version", os.Getenv("VERSION"))
		w.Header().Set("x-app-configuration", os.Getenv("CONFIGURATION"))
		if (slow > 0 || age() < cold) && rand.IntN(2) == 0 {
			time.Sleep(max(slow, slowStart))
		}
		if rand.Float64()*100 < fail+shared() {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprintln(w, os.Getenv("VERSION"))
	})
	server := &http.Server{Addr: os.Getenv("HOST") + ":3000", Handler: mux}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	stopped := make(chan struct{})
	go func() {
		<-term
		draining.Store(true)
		time.Sleep(span("DRAIN"))
		_ = server.Shutdown(context.Background())
		close(stopped)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Println(err)
		os.Exit(1)
	}
	<-stopped
}

// counter counts requests by second.
type counter struct {
	mu     sync.Mutex
	counts [8]int
	second int64 // of the last one
}

// at moves on to a second. The caller holds mu.
func (c *counter) at(now time.Time) *int {
	for ; c.second < now.Unix(); c.second = max(c.second+1, now.Unix()-int64(len(c.counts))) {
		c.counts[(c.second+1)%int64(len(c.counts))] = 0
	}
	return &c.counts[c.second%int64(len(c.counts))]
}

// add counts a request, and says how many this second has.
func (c *counter) add(now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.at(now)
	*n++
	return *n
}

// perSecond is the average of the last 5 seconds that are over.
func (c *counter) perSecond(now time.Time) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at(now)
	sum := 0
	for i := int64(1); i <= 5; i++ {
		sum += c.counts[(c.second-i+int64(len(c.counts)))%int64(len(c.counts))]
	}
	return float64(sum) / 5
}

// slowStart is how much later half of the answers come while the app is cold.
const slowStart = 700 * time.Millisecond

func span(variable string) time.Duration {
	d, _ := time.ParseDuration(os.Getenv(variable))
	return d
}

func percent(text string) float64 {
	p, _ := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return p
}

// follow asks an address twice a second which percentage of the answers is to fail, as a database that both tracks share would
// have it. Nobody is asked without an address.
func follow(address string) func() float64 {
	var now atomic.Value
	now.Store(0.0)
	if address != "" {
		go func() {
			for range time.Tick(500 * time.Millisecond) {
				response, err := http.Get(address)
				if err != nil {
					continue
				}
				text, _ := io.ReadAll(response.Body)
				response.Body.Close()
				now.Store(percent(string(text)))
			}
		}()
	}
	return func() float64 { return now.Load().(float64) }
}
