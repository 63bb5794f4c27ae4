package e2e

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/our-org/crossbill/rehearsal/setup"
)

var (
	reportFile = flag.String("report", "", "look at this report, not at one of a new rehearsal")
	picture    = flag.String("picture", "", "write a screenshot of the report there, as PNG")
)

func TestReport(t *testing.T) {
	if *reportFile == "" {
		t.Skip("TestMakeRehearse looks at its own; --report names another")
	}
	lookAtReport(t, *reportFile)
}

// violation is what axe-core has found (https://github.com/dequelabs/axe-core/blob/develop/doc/API.md#results-object).
type violation struct {
	Help   string
	Impact string
	Nodes  []struct{ HTML string }
}

// lookAtReport opens a report of a rehearsal in a real browser: it is accessible, fetches nothing, and
// shows the reason of a rollback on the first screen.
func lookAtReport(t *testing.T, file string) {
	browser, err := setup.EnsureBrowser(t.Context(), t.Logf)
	if err != nil {
		t.Skip(err)
	}
	absolute, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	address := "file://" + absolute
	bounded, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	allocator, stop := chromedp.NewExecAllocator(bounded, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.WindowSize(1280, screen))...)
	defer stop()
	ctx, stop := chromedp.NewContext(allocator)
	defer stop()

	// It is called between two commands, never beside one.
	var fetched []string
	if err := chromedp.Listen(ctx, func(event any) {
		if e, is := event.(*network.EventRequestWillBeSent); is && e.Request.URL != address {
			fetched = append(fetched, e.Request.URL)
		}
	}); err != nil {
		t.Fatal(err)
	}
	_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	do(t, ctx, err, chromedp.Navigate(address))

	reason := evaluate[struct {
		Text   string
		Bottom float64
	}](t, ctx, `(() => {
		const cell = document.querySelector("td.rolled_back").parentElement.lastElementChild
		return {text: cell.textContent, bottom: cell.getBoundingClientRect().bottom}
	})()`)
	if reason.Bottom > screen || !strings.Contains(reason.Text, "of the canary's") {
		t.Errorf("the reason of the rollback, %q, ends %.0f px down; a screen has %d", reason.Text, reason.Bottom, screen)
	}

	evaluate[chromedp.Void](t, ctx, `document.querySelectorAll("details").forEach(d => d.open = true)`)
	axe, err := setup.AxeCore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	evaluate[chromedp.Void](t, ctx, axe)
	for _, scheme := range []string{"light", "dark"} {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		do(t, ctx, err)
		found := evaluate[struct{ Violations, Passes []violation }](t, ctx, `axe.run().then(r => ({violations: r.violations, passes: r.passes}))`, chromedp.EvalAwaitPromise)
		t.Logf("axe-core, %s: %d rules hold, %d are violated", scheme, len(found.Passes), len(found.Violations))
		if len(found.Passes) < 15 {
			t.Errorf("%s: it has looked at %d rules only", scheme, len(found.Passes))
		}
		for _, v := range found.Violations {
			t.Errorf("%s: %s (%s), %d times, as in %s", scheme, v.Help, v.Impact, len(v.Nodes), v.Nodes[0].HTML)
		}
	}

	// Every release can be opened and shut, and every table scrolled, without a mouse.
	for _, unreachable := range evaluate[[]string](t, ctx, `[...document.querySelectorAll("summary, .scroll, a")].filter(e => { e.focus(); return document.activeElement !== e }).map(e => e.outerHTML.slice(0, 80))`) {
		t.Errorf("without a mouse one cannot get at %s", unreachable)
	}

	do(t, ctx, nil, chromedp.EmulateViewport(360, 740))
	if wide := evaluate[float64](t, ctx, `document.documentElement.scrollWidth`); wide > 360 {
		t.Errorf("on a telephone 360 px wide the page is %.0f px wide", wide)
	}

	_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{})
	do(t, ctx, err, chromedp.EmulateViewport(1100, 1900), chromedp.Navigate(address))
	if pdf, err := chromedp.Run(ctx, chromedp.PrintToPDF()); err != nil || !bytes.HasPrefix(pdf, []byte("%PDF-")) {
		t.Errorf("it does not print: %v, %d bytes", err, len(pdf))
	}
	if *picture != "" {
		png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		do(t, ctx, err)
		if err := os.WriteFile(*picture, png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, url := range fetched {
		t.Errorf("the report fetches %s", url)
	}
}

// screen is the height in pixels of what a newcomer sees of the report at once.
const screen = 800

// do ends the test with err, or when a step fails.
func do(t *testing.T, ctx context.Context, err error, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err == nil {
		err = chromedp.Do(ctx, steps...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func evaluate[T any](t *testing.T, ctx context.Context, script string, options ...chromedp.EvaluateOption) T {
	t.Helper()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, options...))
	if err != nil {
		t.Fatal(err)
	}
	return value
}
