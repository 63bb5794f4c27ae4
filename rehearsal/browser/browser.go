// Package browser opens pages in Chromium, for tests: it audits them, says what they request and what the console says, and makes
// the screenshots of the documentation.
package browser

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/our-org/crossbill/rehearsal/setup"
)

var screenshots = flag.String("screenshots", "", "write the screenshots of the documentation into this folder")

// Window is a page in a Chromium of its own.
type Window struct {
	t   *testing.T
	ctx context.Context

	mu        sync.Mutex
	said      []string
	requested []string
}

// patience bounds each step in a page. What a whole test needs depends on what runs beside it.
const patience = time.Minute

// Open opens an empty page of that size in pixels until the test ends. It skips the test if there is no Chromium.
func Open(t *testing.T, width, height int) *Window {
	t.Helper()
	program, err := setup.EnsureBrowser(t.Context(), t.Logf)
	if err != nil {
		t.Skip(err)
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WindowSize(width, height))...)
	t.Cleanup(stop)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	w := &Window{t: t, ctx: ctx}
	w.must(chromedp.Listen(ctx, w.note))
	_, err = chromedp.Call(ctx, cdplog.Enable, cdp.Empty{})
	w.must(err)
	_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	w.must(err)
	return w
}

func (w *Window) note(event any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := event.(type) {
	case *cdplog.EventEntryAdded: // with those of the Content Security Policy
		w.said = append(w.said, string(e.Entry.Source)+": "+e.Entry.Text+" "+e.Entry.URL)
	case *runtime.EventConsoleAPICalled:
		w.said = append(w.said, "console."+string(e.Type))
	case *runtime.EventExceptionThrown:
		w.said = append(w.said, "exception: "+e.ExceptionDetails.Text)
	case *network.EventRequestWillBeSent:
		w.requested = append(w.requested, e.Request.URL)
	}
}

func (w *Window) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// Said are the messages on the console so far.
func (w *Window) Said() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.said)
}

// Requested are the addresses that the page has requested so far.
func (w *Window) Requested() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.requested)
}

// Do does steps one after the other. The test ends when one fails.
func (w *Window) Do(steps ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	for _, step := range steps {
		Run(w, step)
	}
}

func run[T any](w *Window, step chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, step)
}

// Run does a step and returns its result. The test ends when it fails.
func Run[T any](w *Window, step chromedp.Action[T]) T {
	w.t.Helper()
	value, err := run(w, step)
	w.must(err)
	return value
}

// Evaluate is the value of a JavaScript expression in the page, or of what it promises. The test ends when it throws.
func Evaluate[T any](w *Window, expression string) T {
	w.t.Helper()
	value, err := run(w, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		w.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// scheme sets what the page takes for the user's color scheme: light, dark, or "" for the browser's own.
func (w *Window) scheme(name string) {
	w.t.Helper()
	params := emulation.SetEmulatedMediaParams{}
	if name != "" {
		params.Features = []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}
	}
	_, err := chromedp.Call(w.ctx, emulation.SetEmulatedMedia, params)
	w.must(err)
}

// violation is what axe-core has found (https://github.com/dequelabs/axe-core/blob/develop/doc/API.md#results-object).
type violation struct {
	Help   string
	Impact string
	Nodes  []struct{ HTML string }
}

// Audit fails the test for each rule of axe-core that the page violates in light or dark. page names it in messages; rules, an
// object of axe-core's options, switches some off, and may be empty.
func (w *Window) Audit(page, rules string) {
	w.t.Helper()
	axe, err := setup.AxeCore(w.t.Context(), w.t.Logf)
	w.must(err)
	Evaluate[chromedp.Void](w, axe)
	if rules == "" {
		rules = "{}"
	}
	for _, scheme := range []string{"light", "dark"} {
		w.scheme(scheme)
		found := Evaluate[struct{ Violations, Passes []violation }](w, `axe.run({rules: `+rules+`}).then(r => ({violations: r.violations, passes: r.passes}))`)
		w.t.Logf("axe-core, %s, %s: %d rules hold, %d are violated", page, scheme, len(found.Passes), len(found.Violations))
		if len(found.Passes) < 15 {
			w.t.Errorf("%s, %s: axe-core has looked at %d rules only", page, scheme, len(found.Passes))
		}
		for _, v := range found.Violations {
			w.t.Errorf("%s, %s: %s (%s), %d times, as in %s", page, scheme, v.Help, v.Impact, len(v.Nodes), v.Nodes[0].HTML)
		}
	}
	w.scheme("")
}

// FitsAndIsReachable fails the test if the page is wider than a telephone, or if what it can open, scroll, or follow cannot be
// reached without a mouse. It leaves the page with that size in pixels.
func (w *Window) FitsAndIsReachable(page string, width, height int64) {
	w.t.Helper()
	w.Do(chromedp.EmulateViewport(360, 740))
	if wide := Evaluate[float64](w, `document.documentElement.scrollWidth`); wide > 360 {
		w.t.Errorf("%s: on a telephone 360 px wide it is %.0f px wide", page, wide)
	}
	w.Do(chromedp.EmulateViewport(width, height))
	for _, unreachable := range Evaluate[[]string](w, `[...document.querySelectorAll("summary, .scroll, a")].filter(e => e.checkVisibility()).filter(e => { e.focus(); return document.activeElement !== e }).map(e => e.outerHTML.slice(0, 80))`) {
		w.t.Errorf("%s: without a mouse one cannot get at %s", page, unreachable)
	}
}

// Screenshot writes what the page shows at that size in pixels to a file of the documentation, with -screenshots; else it does
// nothing. `make screenshots` makes all of them.
func (w *Window) Screenshot(file string, width, height int64) {
	w.t.Helper()
	if *screenshots == "" {
		return
	}
	w.Do(chromedp.EmulateViewport(width, height))
	w.must(os.WriteFile(filepath.Join(*screenshots, file), Run(w, chromedp.CaptureScreenshot()), 0o644))
}
