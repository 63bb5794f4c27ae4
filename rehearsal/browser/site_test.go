package browser_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/our-org/crossbill/rehearsal/browser"
)

// TestSite opens the documentation's site in a real browser: search finds pages, nothing is requested from elsewhere, and what
// axe-core knows of accessibility holds, light and dark.
func TestSite(t *testing.T) {
	w := browser.Open(t, 1300, 800)
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

	w.Do(chromedp.Navigate(server.URL+"/index.html"),
		chromedp.SendKeys(chromedp.CSS(".md-search__input"), "epoch"),
		chromedp.WaitVisible(chromedp.CSS(".md-search-result__item")))
	if found := browser.Evaluate[string](w, `document.querySelector(".md-search-result__list").textContent`); !strings.Contains(found, "The lock and the fence") {
		t.Errorf("a search for epoch finds %q", found)
	}
	for _, page := range []string{"index.html", "concepts.html", "comparison.html", "guides/low-traffic.html", "reference/configuration.html"} {
		w.Do(chromedp.Navigate(server.URL + "/" + page))
		// The theme's scripts make a landmark of each button that copies a sample, and decide which samples have a tab stop.
		w.Audit(page, `{"landmark-unique": {enabled: false}, "scrollable-region-focusable": {enabled: false}}`)
	}
	for _, url := range w.Requested() {
		if !strings.HasPrefix(url, server.URL) && !strings.HasPrefix(url, "data:") {
			t.Errorf("the site requests %s", url)
		}
	}
}
