package commands_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/rehearsal/browser"
	"github.com/our-org/crossbill/rehearsal/load"
)

// reader makes an account that may read everything in the app's namespace, and nothing else, and gives its kubeconfig.
func (a *app) reader() string {
	a.Helper()
	ctx := a.Context()
	meta := metav1.ObjectMeta{Name: "reader", Namespace: a.namespace}
	_, err1 := a.kube.CoreV1().ServiceAccounts(a.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	_, err2 := a.kube.RbacV1().Roles(a.namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch"}},
	}}, metav1.CreateOptions{})
	_, err3 := a.kube.RbacV1().RoleBindings(a.namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "reader"}}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "reader"},
	}, metav1.CreateOptions{})
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			a.Fatal(err)
		}
	}
	return a.kubeconfigOf("reader")
}

// cable leads to the API server until it is cut.
type cable struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	isCut bool
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: listener}
	t.Cleanup(func() { listener.Close(); c.cut(true) })
	go func() {
		for {
			ours, err := listener.Accept()
			if err != nil {
				return
			}
			theirs, err := net.Dial("tcp", to)
			c.mu.Lock()
			if err != nil || c.isCut {
				ours.Close()
			} else {
				c.conns = append(c.conns, ours, theirs)
				go func() { _, _ = io.Copy(theirs, ours); theirs.Close() }()
				go func() { _, _ = io.Copy(ours, theirs); ours.Close() }()
			}
			c.mu.Unlock()
		}
	}()
	return c
}

func (c *cable) cut(is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut = is; is {
		for _, conn := range c.conns {
			conn.Close()
		}
		c.conns = nil
	}
}

// serving is a live page that is served.
type serving struct {
	*exec.Cmd
	address string
}

func (a *app) serve(args ...string) *serving {
	a.Helper()
	p := &serving{Cmd: exec.Command(filepath.Join(programs, "crossbill"), append([]string{"status", "--serve=127.0.0.1:0"}, args...)...)}
	p.Env, p.Stderr = append(os.Environ(), "KUBECONFIG=", "HOME=/nonexistent"), os.Stderr
	out, err := p.StdoutPipe()
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { _ = p.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		a.Fatal(err)
	}
	p.address = strings.TrimSpace(line)
	return p
}

// window is a page in a browser.
type window struct {
	*testing.T
	*browser.Window
}

// text is what an element says; "" for none.
func (w *window) text(selector string) string {
	w.Helper()
	return browser.Evaluate[string](w.Window, fmt.Sprintf(`(document.querySelector(%q)?.textContent ?? "").replace(/\s+/g, " ").trim()`, selector))
}

// shows waits until an element says something, without loading the page again.
func (w *window) shows(selector, want string) {
	w.Helper()
	const within = time.Minute // on a busy machine
	for deadline := time.Now().Add(within); !strings.Contains(w.text(selector), want); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("after %s, %s does not say %q, but %q\n%s", within, selector, want, w.text(selector), w.text("main"))
		}
	}
}

func (w *window) audit(page string) {
	w.Helper()
	w.Audit(page, "")
	w.FitsAndIsReachable(page, 1100, 1000)
}

// agrees compares what the page of an app shows with what `status -o json` does.
func (w *window) agrees(a *app, at string) {
	w.Helper()
	status := a.status()
	want := map[string]string{
		"#traffic":        fmt.Sprintf("%d%% primary, %d%% canary", status.Weights.Primary, status.Weights.Canary),
		"#releases tbody": "",
		"#tracks tbody":   "",
		"#stage strong.canary-stage, #stage strong.verified": "",
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		text := string(track) + " not found"
		if of := status.Tracks[track]; of != nil {
			text = fmt.Sprintf("%s %d of %d %s", track, of.Ready, of.Replicas, of.Image)
		}
		want["#tracks tbody"] = strings.TrimSpace(want["#tracks tbody"] + " " + text)
	}
	for _, f := range status.History {
		text := fmt.Sprintf("%s %s sha256:%.12s %s", f.FinishedAt.UTC().Format("2006-01-02 15:04:05"), f.ID, strings.TrimPrefix(f.Digest(), "sha256:"), strings.ReplaceAll(string(f.Outcome), "_", " "))
		if f.Verdict != nil {
			text += fmt.Sprintf(" %s %d", f.Verdict.Outcome, f.Verdict.Requests)
		}
		want["#releases tbody"] = strings.TrimSpace(want["#releases tbody"] + " " + strings.TrimSpace(text+" "+f.Why()))
	}
	if status.Release != nil {
		want["#stage strong.canary-stage, #stage strong.verified"] = string(status.Release.Stage)
	}
	got := map[string]string{}
	for selector := range want {
		got[selector] = browser.Evaluate[string](w.Window, fmt.Sprintf(`[...(document.querySelector(%q)?.querySelectorAll("td, th, span") ?? [])].map(e => e.textContent.trim()).filter(t => t).join(" ") || (document.querySelector(%q)?.textContent ?? "")`, selector, selector))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("%s, the page differs from status -o json (-json +page):\n%s", at, diff)
	}
}

// TestLivePage looks at `status --serve` in a browser while a release runs, with an account that may only read.
func TestLivePage(t *testing.T) {
	t.Parallel()
	a := released(t, "shop")
	traffic := load.Start("http://"+running.GatewayAddress+"/", a.served(), 100)
	defer traffic.Stop()
	toAPI := newCable(t, strings.TrimPrefix(running.RESTConfig.Host, "https://"))
	page := a.serve("--kubeconfig", a.reader(), "--namespace", a.namespace, "--connect-to", toAPI.Addr().String())
	w := &window{t, browser.Open(t, 1100, 1000)}
	w.Do(chromedp.Navigate(page.address))
	w.shows(`[id="app.ns-shop.shop"]`, "first")

	// The list follows the release, and the link that is focused stays so.
	browser.Evaluate[chromedp.Void](w.Window, `document.said = []; new MutationObserver(() => document.said.push(document.getElementById("stages").textContent)).observe(document.getElementById("stages"), {childList: true}); document.querySelector("main a").focus()`)
	a.must("canary", "--image", images["two"], "--weight", "50")
	w.shows(`[id="app.ns-shop.shop"]`, "50% canary")
	if focused := browser.Evaluate[string](w.Window, `document.activeElement.textContent`); focused != "shop" {
		t.Errorf("after the change the focus is on %q", focused)
	}
	if said := browser.Evaluate[[]string](w.Window, `document.said`); !slices.Contains(said, "shop: stage canary") {
		t.Errorf("a screen reader has said %q", said)
	}
	w.audit("all apps")

	// The app's page, by its link and the keyboard.
	browser.Evaluate[chromedp.Void](w.Window, `document.querySelector("main a").focus()`)
	w.Do(chromedp.KeyEvent("\r"))
	w.shows("#stage", "at stage canary")
	w.agrees(a, "canary")
	browser.Evaluate[chromedp.Void](w.Window, `document.said = []; new MutationObserver(() => document.said.push(document.getElementById("stages").textContent)).observe(document.getElementById("stages"), {childList: true}); document.querySelector("figure details").open = true`)
	if code, out := a.crossbill("verify", "--prometheus", running.PrometheusURL, "--interval", "1s", "--config", byAvailability(t)); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	w.shows("#stage", "at stage verified")
	w.shows("#verdicts", "healthy")
	w.agrees(a, "verified")
	if verdict := a.status().Release.Verdict; !strings.Contains(w.text("#verdicts"), verdict.Reason) {
		t.Errorf("the verdict is %q, the page has %q", verdict.Reason, w.text("#verdicts"))
	}
	if !browser.Evaluate[bool](w.Window, `document.querySelector("figure details").open`) {
		t.Error("what the reader has opened was closed")
	}
	browser.Evaluate[chromedp.Void](w.Window, `document.querySelector("figure details").open = false; scrollTo(0, 0); document.activeElement.blur()`)
	w.Screenshot("live.png", 1100, 1500)
	browser.Evaluate[chromedp.Void](w.Window, `document.querySelectorAll("details").forEach(d => d.open = true)`)
	w.audit("the app")

	// The cluster does not respond for a while.
	toAPI.cut(true)
	w.shows("#stale", "The cluster does not respond since ")
	if got := w.text("#traffic"); got != "50% primary, 50% canary" {
		t.Errorf("meanwhile the traffic is %q", got)
	}
	toAPI.cut(false)
	for deadline := time.Now().Add(30 * time.Second); w.text("#stale") != ""; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is still stale: ", w.text("#stale"))
		}
	}

	a.must("promote", "--prometheus", running.PrometheusURL)
	a.must("cleanup", "--prometheus", running.PrometheusURL)
	w.shows("#stage", "No release is in flight")
	w.agrees(a, "promoted")
	said := browser.Evaluate[[]string](w.Window, `document.said`)
	if got, want := said, []string{"shop: stage verified"}; len(got) < 2 || got[0] != want[0] || got[len(got)-1] != "shop: promoted" {
		t.Errorf("a screen reader has said %q", got)
	}
	for _, line := range w.Said() {
		if !strings.Contains(line, "net::ERR") {
			t.Errorf("the browser says %s", line)
		}
	}
	for _, url := range w.Requested() {
		if !strings.HasPrefix(url, page.address) && !strings.HasPrefix(url, "data:,") {
			t.Errorf("it fetches %s", url)
		}
	}

	// It ends in order while a page is open, and the page says so.
	if err := page.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := page.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	w.shows("#lost", "The connection to crossbill status --serve is lost since 2")
	w.Do(chromedp.Navigate("about:blank"))

	a.manyLive(w)
}

// manyLive opens the page of 200 apps, whose ledgers are the app's.
func (a *app) manyLive(w *window) {
	a.Helper()
	many := &app{T: a.T, kube: a.kube, mesh: a.mesh, name: "many-live", namespace: "ns-many-live"}
	many.makeNamespace()
	own, err := a.kube.CoreV1().ConfigMaps(a.namespace).Get(a.Context(), "crossbill-shop", metav1.GetOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for i := range 200 {
		name := fmt.Sprintf("live-%03d", i)
		state := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "crossbill-" + name, Labels: map[string]string{"app": name, "app.kubernetes.io/managed-by": own.Labels["app.kubernetes.io/managed-by"]}},
			Data:       map[string]string{"ledger.json": strings.Replace(own.Data["ledger.json"], `"app": "shop"`, `"app": "`+name+`"`, 1)},
		}
		if _, err := a.kube.CoreV1().ConfigMaps(many.namespace).Create(a.Context(), state, metav1.CreateOptions{}); err != nil {
			a.Fatal(err)
		}
	}
	page := many.serve("--kubeconfig", running.Kubeconfig, "--namespace", many.namespace)
	w.Do(chromedp.Navigate(page.address))
	if n := browser.Evaluate[int](w.Window, `document.querySelectorAll("tbody tr").length`); n != 200 {
		a.Errorf("%d apps", n)
	}
	waits := browser.Evaluate[[]string](w.Window, `performance.getEntriesByType("resource").filter(e => e.renderBlockingStatus == "blocking").map(e => new URL(e.name).pathname)`)
	if !slices.Equal(waits, []string{"/style.css"}) {
		a.Errorf("before its first content the page waits for %q", waits)
	}
	painted := browser.Evaluate[float64](w.Window, `new Promise(done => new PerformanceObserver(l => l.getEntriesByName("first-contentful-paint").forEach(e => done(e.startTime))).observe({type: "paint", buffered: true}))`)
	a.Logf("the page of 200 apps has its first content after %.0f ms", painted)
}
