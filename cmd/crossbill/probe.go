package main

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
	"github.com/spf13/pflag"
)

// probeFlags are requests of verify's own, for an app that has too few.
type probeFlags struct {
	url    string
	rate   float64
	header string
}

func (f *probeFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "probe", "", "URL to call while the canary is judged, for an app with too little traffic of its own: GET requests that are safe to repeat (default: none)")
	flags.Float64Var(&f.rate, "probe-rate", 10, "requests a second to --probe")
	flags.StringVar(&f.header, "probe-header", "", "'name: value' for --probe, when a route of the VirtualService leads that header to the canary (default: the route's weights decide)")
}

// probers is how many requests may be under way; more are left out, not queued.
const probers = 50

// start calls the URL until stop, which waits for what is under way. What comes back is not looked at: the
// gateway counts it.
func (f *probeFlags) start(ctx context.Context) (stop func(), err error) {
	if f.url == "" {
		return func() {}, nil
	}
	target, err := url.Parse(f.url)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, &usererr.Error{Field: "--probe", Problem: fmt.Sprintf("%q is not a URL", f.url), Fix: "give for example https://app.example.com/"}
	}
	if !(f.rate > 0 && f.rate <= 1000) {
		return nil, &usererr.Error{Field: "--probe-rate", Problem: fmt.Sprintf("%g is not a number of requests a second, up to 1000", f.rate), Fix: "give for example 10"}
	}
	name, value, ok := strings.Cut(f.header, ":")
	if f.header != "" && (!ok || strings.TrimSpace(name) == "") {
		return nil, &usererr.Error{Field: "--probe-header", Problem: fmt.Sprintf("%q is not a header", f.header), Fix: "give for example 'x-track: canary'"}
	}
	ctx, cancel := context.WithCancel(ctx)
	client := &http.Client{Timeout: 10 * time.Second}
	call := func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
		if err != nil {
			return
		}
		request.Header.Set("User-Agent", "crossbill-probe")
		if f.header != "" {
			request.Header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
		}
		if response, err := client.Do(request); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
	}
	var under sync.WaitGroup
	under.Go(func() {
		slots := make(chan struct{}, probers)
		tick := time.NewTicker(time.Duration(float64(time.Second) / f.rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case slots <- struct{}{}:
				under.Go(func() { call(); <-slots })
			default:
			}
		}
	})
	return func() { cancel(); under.Wait() }, nil
}
