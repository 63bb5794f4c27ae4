package hardening

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/our-org/crossbill/rehearsal/browser"
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
	t.Parallel()
	var weight atomic.Int64
	page := gateway(t, start(t, "TRACK=primary", "ORIGIN="), start(t, "TRACK=canary", "ORIGIN="), &weight) // its address is not known before
	w := browser.Open(t, 1100, 900)
	w.Do(chromedp.Navigate(page))
	text := func(script string) string {
		t.Helper()
		return browser.Evaluate[string](w, script)
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

	w.Do(chromedp.Click(chromedp.CSS(".board button")))
	until("a click stops it", func() bool { return text(`document.querySelector(".board button").textContent`) == "Start" })
	time.Sleep(500 * time.Millisecond)
	before := answers()
	time.Sleep(500 * time.Millisecond)
	if after := answers(); after != before {
		t.Errorf("stopped, it went on from %d to %d answers", before, after)
	}

	w.Do(chromedp.SendKeys(chromedp.CSS("input[name=name]"), "Ann"), chromedp.Click(chromedp.CSS("form button")))
	until("the form is answered", func() bool {
		return strings.HasPrefix(text(`document.querySelector("p[role=status]").textContent`), "Hello Ann, this is version ")
	})

	for _, line := range w.Said() {
		t.Errorf("the page says %s", line)
	}
}
