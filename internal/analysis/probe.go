package analysis

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
)

// Probe is requests of the analysis's own, for an app that has too few. What is answered is not looked at: the
// gateway counts it.
type Probe struct {
	URL    string
	Rate   float64 // requests a second
	Header string  // "name: value"; may be empty
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
	if name, _, ok := p.header(); p.Header != "" && (!ok || name == "") {
		return &usererr.Error{Field: "probe.header", Problem: fmt.Sprintf("%q is not a header", p.Header), Fix: "give for example 'x-track: canary'"}
	}
	return nil
}

func (p *Probe) header() (name, value string, ok bool) {
	name, value, ok = strings.Cut(p.Header, ":")
	return strings.TrimSpace(name), strings.TrimSpace(value), ok
}

// probers is how many requests may be under way; more are left out, not queued.
const probers = 50

// start calls the URL until stop, which waits for what is under way.
func (p *Probe) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	client := &http.Client{Timeout: 10 * time.Second}
	call := func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
		if err != nil {
			return
		}
		request.Header.Set("User-Agent", "crossbill-probe")
		if name, value, ok := p.header(); ok {
			request.Header.Set(name, value)
		}
		if response, err := client.Do(request); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
	}
	var underWay sync.WaitGroup
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
			select {
			case slots <- struct{}{}:
				underWay.Go(func() { call(); <-slots })
			default:
			}
		}
	})
	return func() { cancel(); underWay.Wait() }
}
