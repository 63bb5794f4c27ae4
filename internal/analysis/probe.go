package analysis

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// Probe is requests of the analysis's own, for an app that has too few. It counts itself what came of them. With a header
// that leads to the canary it sends as many without it, so to primary for the most part, and judges the two as a stream of
// their own. A gateway counts its requests like those of callers, and Istio's metrics do not tell them apart: the verdict
// says how many they are.
type Probe struct {
	URL    string
	Rate   float64       // requests a second
	Header string        // "name: value"; may be empty
	Slow   time.Duration // an answer that takes longer is slow; 0: none is

	running *probing
}

// Answers are what came of some of a probe's requests.
type Answers struct {
	Requests int `json:"requests"`
	Failed   int `json:"failed"` // no answer over a connection that there was, or a server error
	Slow     int `json:"slow"`
}

// Probed is what came of a probe's requests.
type Probed struct {
	Canary   *Answers `json:"canary,omitempty"`   // with the header
	Primary  *Answers `json:"primary,omitempty"`  // without it, so to primary for the most part
	Weighted *Answers `json:"weighted,omitempty"` // where there is no header: to both tracks, by their weights
}

// Validate finds a probe that cannot be sent. Errors are *usererr.Error.
func (p *Probe) Validate() error {
	target, err := url.Parse(p.URL)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return &usererr.Error{Field: "probe.url", Problem: fmt.Sprintf("%q is not a URL", p.URL), Fix: "give for example https://app.example.com/"}
	}
	if !(p.Rate > 0 && p.Rate <= 1000) {
		return &usererr.Error{Field: "probe.rate", Problem: fmt.Sprintf("%g is not a number of requests a second, up to 1000", p.Rate), Fix: "give for example 10"}
	}
	name, value, ok := p.header()
	switch {
	case p.Header == "":
		return nil
	case !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value): // the client would not send it
		return &usererr.Error{Field: "probe.header", Problem: fmt.Sprintf("%q is not a header", p.Header), Fix: "give for example 'x-track: canary'"}
	case slices.Contains(ofClient, strings.ToLower(name)):
		return &usererr.Error{Field: "probe.header", Problem: fmt.Sprintf("%q is not sent: the HTTP client sets it itself", p.Header), Fix: "give another header, by which a route leads to the canary; the host is that of probe.url"}
	}
	return nil
}

// ofClient are the headers that Go's HTTP client leaves out, refuses, or sets itself: no route would see such a one.
var ofClient = []string{"host", "content-length", "transfer-encoding", "trailer", "connection", "proxy-connection", "keep-alive", "upgrade", "te"}

func (p *Probe) header() (name, value string, ok bool) {
	name, value, ok = strings.Cut(p.Header, ":")
	return strings.TrimSpace(name), strings.TrimSpace(value), ok
}

// probers is how many requests may be under way; more are left out, not queued.
const probers = 50

// CauseProbe is the cause of a canary that answers the probe worse than primary does.
const CauseProbe verdict.Cause = "probe"

// probing is a probe under way.
type probing struct {
	probe  *Probe
	weight int // the canary's, in percent
	test   verdict.Test
	start  time.Time
	stop   func() // waits for what is under way

	mu      sync.Mutex
	got     [2]Answers // with the header, or all when there is none; and without it
	judged  [2]Answers // the same as of the last look
	state   *verdict.State
	counted float64 // the canary's requests, as the gateway counted them
	unsent  error   // why one could not be sent; nil: all were
}

// begin calls the URL until it is stopped.
func (p *Probe) begin(ctx context.Context, o verdict.Test, weight int) *probing {
	ctx, cancel := context.WithCancel(ctx)
	r := &probing{probe: p, weight: weight, test: p.testOf(o), start: time.Now()}
	r.state, p.running = r.test.Begin(), r
	var underWay sync.WaitGroup
	client := httpclient.Probe(10 * time.Second)
	underWay.Go(func() {
		slots := make(chan struct{}, probers)
		tick := time.NewTicker(time.Duration(float64(time.Second) / p.Rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for kind := range r.kinds() {
				select {
				case slots <- struct{}{}:
					underWay.Go(func() { r.call(ctx, client, kind); <-slots })
				default:
				}
			}
		}
	})
	r.stop = func() { cancel(); underWay.Wait() }
	return r
}

// kinds are how many ways of sending there are: with the header and without it, or one.
func (r *probing) kinds() int {
	if r.probe.Header == "" {
		return 1
	}
	return 2
}

// call sends one request and counts what comes of it.
func (r *probing) call(ctx context.Context, client *http.Client, kind int) {
	var left atomic.Bool // a request without a connection reached nobody, so it says nothing of the app
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { left.Store(true) }})
	request, err := http.NewRequestWithContext(traced, http.MethodGet, r.probe.URL, nil)
	if err != nil {
		return
	}
	request.Header.Set("User-Agent", "crossbill-probe")
	if name, value, ok := r.probe.header(); ok && kind == 0 {
		request.Header.Set(name, value)
	}
	began := time.Now()
	response, err := client.Do(request)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(response.Body, httpclient.MaxAnswer))
		response.Body.Close()
	}
	if ctx.Err() != nil { // it was not the app that ended it
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !left.Load() {
		r.unsent = err
		return
	}
	r.got[kind].Requests++
	switch {
	case err != nil || response.StatusCode >= http.StatusInternalServerError:
		r.got[kind].Failed++
	case r.probe.Slow > 0 && time.Since(began) > r.probe.Slow:
		r.got[kind].Slow++
	}
}

// testOf is what the probe's own stream is judged by: the objectives for errors and latency that callers have.
func (p *Probe) testOf(o verdict.Test) verdict.Test {
	const never = 1000 * time.Hour
	own := verdict.Test{FalseRollback: o.FalseRollback, FalsePass: o.FalsePass, Burst: o.Burst, MinRequests: o.MinRequests, MaxDuration: never}
	for _, slow := range []bool{false, true} {
		at := slices.IndexFunc(o.Objectives, func(one verdict.Objective) bool { return one.Slow == slow && !one.Relative })
		if at >= 0 && (!slow || p.Slow > 0) {
			objective := o.Objectives[at]
			objective.Name = "probe's " + objective.Name
			own.Objectives = append(own.Objectives, objective)
		}
	}
	return own
}

// look judges what came of the requests since the last look: why the canary is unhealthy by them, or else why it cannot
// be healthy yet. A minimum of requests is of callers, or of the probe, never of both together.
func (r *probing) look(now time.Time) (unhealthy, hold string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kinds() == 2 && len(r.test.Objectives) > 0 {
		block := verdict.Block{Elapsed: now.Sub(r.start)}
		for _, objective := range r.test.Objectives {
			block.Pairs = append(block.Pairs, verdict.Pair{Canary: since(r.got[0], r.judged[0], objective.Slow), Primary: since(r.got[1], r.judged[1], objective.Slow)})
		}
		r.judged = r.got
		if j := r.state.Add(block); j.Outcome == release.Unhealthy {
			return j.Reason, ""
		}
	}
	own := r.toCanary()
	if callers := max(0, r.counted-own); callers < r.test.MinRequests && own < r.test.MinRequests {
		hold = fmt.Sprintf("%.0f requests of callers and %.0f of the probe reached the canary; a healthy verdict needs at least %.0f of either", callers, own, r.test.MinRequests)
		if r.unsent != nil {
			hold += fmt.Sprintf("; the probe could not send some: %v", r.unsent)
		}
	}
	return "", hold
}

// witness adds what the probe's own requests show.
func (r *probing) witness(seen *verdict.Witnessed) {
	if seen.Unhealthy, seen.Hold = r.look(time.Now()); seen.Unhealthy != "" {
		seen.Cause = CauseProbe
	} else if seen.Hold != "" {
		seen.Cause = verdict.ThinTraffic
	}
}

// counts notes how many requests the gateway has counted for the canary.
func (r *probing) counts(report func(verdict.Evaluation)) func(verdict.Evaluation) {
	return func(e verdict.Evaluation) {
		r.mu.Lock()
		for _, evidence := range e.Judgment.Evidence {
			r.counted = max(r.counted, evidence.Total.Canary.Events)
		}
		r.mu.Unlock()
		if report != nil {
			report(e)
		}
	}
}

// since counts the answers since an earlier look as events.
func since(now, before Answers, slow bool) verdict.Tally {
	bad := now.Failed - before.Failed
	if slow {
		bad += now.Slow - before.Slow
	}
	return verdict.Tally{Events: float64(now.Requests - before.Requests), Bad: float64(bad)}
}

// toCanary is how many of the requests reached the canary.
func (r *probing) toCanary() float64 {
	if r.kinds() == 2 {
		return float64(r.got[0].Requests)
	}
	return float64(r.got[0].Requests*r.weight) / 100
}

// text says what came of the requests, for the reason of a verdict.
func (r *probing) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	how := "by its weight"
	if r.kinds() == 2 {
		how = "by the header"
	}
	return fmt.Sprintf("; %.0f of the canary's requests are the probe's, %s: %d of %d failed", r.toCanary(), how, r.got[0].Failed, r.got[0].Requests)
}

// Result is what came of the requests; nil when none were sent.
func (p *Probe) Result() *Probed {
	if p == nil || p.running == nil {
		return nil
	}
	r := p.running
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	if r.kinds() == 1 {
		return &Probed{Weighted: &got[0]}
	}
	return &Probed{Canary: &got[0], Primary: &got[1]}
}
