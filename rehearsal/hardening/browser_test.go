package hardening

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/our-org/crossbill/rehearsal/setup"
)

// gateway splits requests between two copies of the app by weight, as the mesh does.
func gateway(t *testing.T, primary, canary *server, weight *atomic.Int64) string {
	t.Helper()
	to := func(s *server) http.Handler {
		return httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.address})
	}
	one, two := to(primary), to(canary)
	split := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rand.Int64N(100) < weight.Load() {
			two.ServeHTTP(w, r)
			return
		}
		one.ServeHTTP(w, r)
	}))
	t.Cleanup(split.Close)
	return split.URL
}

// TestPageInABrowser: the page lives, sends its form, and shows a canary come and go, without a word on the console
// and within its Content Security Policy.
func TestPageInABrowser(t *testing.T) {
	browser, err := setup.EnsureBrowser(t.Context(), t.Logf)
	if err != nil {
		t.Skip(err)
	}
	t.Parallel()
	var weight atomic.Int64
	page := gateway(t, start(t, "TRACK=primary", "ORIGIN="), start(t, "TRACK=canary", "ORIGIN="), &weight) // its address is not known before
	bounded, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	allocator, stop := chromedp.NewExecAllocator(bounded, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser), chromedp.NoSandbox)...)
	defer stop()
	ctx, stop := chromedp.NewContext(allocator)
	defer stop()

	var mu sync.Mutex
	var said []string
	if err := chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded: // with those of the security policy
			said = append(said, string(e.Entry.Source)+": "+e.Entry.Text+" "+e.Entry.URL)
		case *runtime.EventConsoleAPICalled:
			said = append(said, "console."+string(e.Type))
		case *runtime.EventExceptionThrown:
			said = append(said, "exception: "+e.ExceptionDetails.Text)
		}
	}); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = chromedp.Call(ctx, log.Enable, cdp.Empty{})
	must(err)
	must(chromedp.Do(ctx, chromedp.Navigate(page)))
	text := func(script string) string {
		t.Helper()
		value, err := chromedp.Run(ctx, chromedp.Evaluate[string](script))
		must(err)
		return value
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(40 * time.Second); !is(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not within 40 s: %s\n%s", what, text(`document.querySelector(".board").innerText`))
			}
		}
	}
	answers := func() int {
		n, _ := strconv.Atoi(text(`document.querySelector("output[aria-label=answers]").textContent`))
		return n
	}
	share := func(track string) string {
		return text(`[...document.querySelectorAll(".bars li")].filter(e => e.innerText.includes("` + track + `")).map(e => e.querySelector("strong").textContent).join() || "none"`)
	}

	if title := text(`document.title`); !strings.HasPrefix(title, "qwik-node-app ") {
		t.Errorf("the title is %q", title)
	}
	until("the board asks by itself", func() bool { return answers() > 3 })
	if got := share("canary"); got != "none" {
		t.Errorf("the canary has %s before there is one", got)
	}
	text(`(() => { const i = document.querySelector("input[type=range]"); i.value = 20; i.dispatchEvent(new Event("input", {bubbles: true})); return "" })()`)
	weight.Store(40)
	until("the board shows the canary", func() bool { got := share("canary"); return got != "none" && got != "0.0%" })
	weight.Store(0)
	until("the canary is gone from it", func() bool { return share("canary") == "0.0%" })

	must(chromedp.Do(ctx, chromedp.Click(chromedp.CSS(".board button"))))
	until("a click stops it", func() bool { return text(`document.querySelector(".board button").textContent`) == "Start" })
	time.Sleep(500 * time.Millisecond)
	before := answers()
	time.Sleep(500 * time.Millisecond)
	if after := answers(); after != before {
		t.Errorf("stopped, it went on from %d to %d answers", before, after)
	}

	must(chromedp.Do(ctx, chromedp.SendKeys(chromedp.CSS("input[name=name]"), "Ann"), chromedp.Click(chromedp.CSS("form button"))))
	until("the form is answered", func() bool {
		return strings.HasPrefix(text(`document.querySelector("p[role=status]").textContent`), "Hello Ann, this is version ")
	})

	mu.Lock()
	defer mu.Unlock()
	for _, line := range said {
		t.Errorf("the page says %s", line)
	}
}
