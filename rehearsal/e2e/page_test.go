package e2e

import (
	"bytes"
	"flag"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/our-org/crossbill/rehearsal/browser"
)

var reportFile = flag.String("report", "", "look at this report, not at one of a new rehearsal")

func TestReport(t *testing.T) {
	if *reportFile == "" {
		t.Skip("TestMakeRehearse looks at its own; --report names another")
	}
	lookAtReport(t, *reportFile)
}

// screen is the height in pixels of what a newcomer sees of a page at once.
const screen = 800

// lookAtReport opens a report of a rehearsal in a real browser: it is accessible, fetches nothing, and
// shows the reason of a rollback on the first screen.
func lookAtReport(t *testing.T, file string) {
	absolute, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	address := "file://" + absolute
	w := browser.Open(t, 1280, screen)
	w.Do(chromedp.Navigate(address))

	reason := browser.Evaluate[struct {
		Text   string
		Bottom float64
	}](w, `(() => {
		const cell = document.querySelector("td.rolled_back").parentElement.lastElementChild
		return {text: cell.textContent, bottom: cell.getBoundingClientRect().bottom}
	})()`)
	if reason.Bottom > screen || !strings.Contains(reason.Text, "of the canary's") {
		t.Errorf("the reason of the rollback, %q, ends %.0f px down; a screen has %d", reason.Text, reason.Bottom, screen)
	}

	browser.Evaluate[chromedp.Void](w, `document.querySelectorAll("details").forEach(d => d.open = true)`)
	w.Audit("the report", "")
	w.FitsAndIsReachable("the report", 1100, screen)

	w.Do(chromedp.Navigate(address))
	if pdf := browser.Run(w, chromedp.PrintToPDF()); !bytes.HasPrefix(pdf, []byte("%PDF-")) {
		t.Errorf("it does not print: %d bytes", len(pdf))
	}
	w.Screenshot("report.png", 1100, 1640)
	for _, url := range w.Requested() {
		if url != address {
			t.Errorf("the report fetches %s", url)
		}
	}
}
