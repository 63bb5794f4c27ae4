package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/our-org/crossbill/rehearsal/setup"
)

// TestSite opens the documentation's site in a real browser: search finds pages, nothing is requested from elsewhere, and what
// axe-core knows of accessibility holds, light and dark.
func TestSite(t *testing.T) {
	browser, err := setup.EnsureBrowser(t.Context(), t.Logf)
	if err != nil {
		t.Skip(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	site := t.TempDir()
	build := exec.CommandContext(t.Context(), "tools/site/mkdocs.sh", "build", "--strict", "--site-dir", site)
	build.Dir, build.Stdout, build.Stderr = root, os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(site)))
	defer server.Close()

	bounded, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	allocator, stop := chromedp.NewExecAllocator(bounded, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.WindowSize(1300, screen))...)
	defer stop()
	ctx, stop := chromedp.NewContext(allocator)
	defer stop()
	var elsewhere []string
	if err := chromedp.Listen(ctx, func(event any) {
		if e, is := event.(*network.EventRequestWillBeSent); is && !strings.HasPrefix(e.Request.URL, server.URL) && !strings.HasPrefix(e.Request.URL, "data:") {
			elsewhere = append(elsewhere, e.Request.URL)
		}
	}); err != nil {
		t.Fatal(err)
	}
	_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	do(t, ctx, err, chromedp.Navigate(server.URL+"/index.html"),
		chromedp.SendKeys(chromedp.CSS(".md-search__input"), "epoch"),
		chromedp.WaitVisible(chromedp.CSS(".md-search-result__item")))
	if found := evaluate[string](t, ctx, `document.querySelector(".md-search-result__list").textContent`); !strings.Contains(found, "The lock and the fence") {
		t.Errorf("a search for epoch finds %q", found)
	}
	axe, err := setup.AxeCore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"index.html", "concepts.html", "comparison.html", "guides/low-traffic.html", "reference/configuration.html"} {
		do(t, ctx, nil, chromedp.Navigate(server.URL+"/"+page))
		evaluate[chromedp.Void](t, ctx, axe)
		for _, scheme := range []string{"light", "dark"} {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			do(t, ctx, err)
			// The theme's scripts make a landmark of each button that copies a sample, and decide which samples have a tab stop.
			found := evaluate[struct{ Violations, Passes []violation }](t, ctx, `axe.run({rules: {"landmark-unique": {enabled: false}, "scrollable-region-focusable": {enabled: false}}}).then(r => ({violations: r.violations, passes: r.passes}))`, chromedp.EvalAwaitPromise)
			if len(found.Passes) < 15 {
				t.Errorf("%s, %s: axe-core has looked at %d rules only", page, scheme, len(found.Passes))
			}
			for _, v := range found.Violations {
				t.Errorf("%s, %s: %s (%s), %d times, as in %s", page, scheme, v.Help, v.Impact, len(v.Nodes), v.Nodes[0].HTML)
			}
		}
	}
	for _, url := range elsewhere {
		t.Errorf("the site requests %s", url)
	}
}
