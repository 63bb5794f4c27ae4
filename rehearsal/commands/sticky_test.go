package commands_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// testStickyRoutes: what a sticky release adds to the VirtualService goes without a trace, whichever way the
// release ends, and other people's routes stay where they are.
func testStickyRoutes(t *testing.T) {
	t.Parallel()
	a := released(t, "sticky")
	a.foreign()
	routes := func() string {
		t.Helper()
		vs, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).Get(t.Context(), "sticky-vs", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, http := range vs.Spec.Http {
			text += http.String() + "\n"
		}
		return text
	}
	atRest := routes()
	stop := a.observe()
	for _, end := range [][]string{{"rollback"}, {"promote", "cleanup"}} {
		a.must("canary", "--again", "--image", images["two"], "--sticky")
		if code, out := a.crossbill("canary", "--image", images["two"]); code != 0 {
			t.Errorf("a job that is run again: exit code %d\n%s", code, out)
		}
		now := routes()
		for _, want := range []string{manifest.StickyPrefix + "canary-0", manifest.StickyPrefix + "primary-0", "set-cookie", `name:"theirs"`} {
			if !strings.Contains(now, want) {
				t.Errorf("the routes lack %s:\n%s", want, now)
			}
		}
		if drift := a.status().Drift; len(drift) != 0 {
			t.Errorf("drift %q", drift)
		}
		a.must("shift", "--steps", "50")
		a.healthy()
		for _, command := range end {
			a.must(command)
		}
		if now := routes(); now != atRest {
			t.Errorf("after %v the routes are\n%swere\n%s", end, now, atRest)
		}
	}
	stop()
	if code, out := a.crossbill("canary", "--image", images["three"], "--sticky", "--sticky-assets", "build"); code != 2 || !strings.Contains(out, "--sticky-assets") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// testPodsThatOutliveTheirDeployment: a job was killed right after it had deleted the canary, whose pods are
// ready for some moments more. The rollback that follows must not send a sticky canary's browsers to them.
func testPodsThatOutliveTheirDeployment(t *testing.T) {
	t.Parallel()
	a := released(t, "outlive")
	a.must("canary", "--image", images["two"], "--sticky")
	observed := a.observing()
	orphan := metav1.DeletePropagationOrphan
	if err := a.kube.AppsV1().Deployments(a.namespace).Delete(t.Context(), "outlive-canary", metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil {
		t.Fatal(err)
	}
	c := a.cluster("rollback", nil)
	c.SettleDelay = 3 * time.Second
	ended := make(chan error, 1)
	go func() {
		_, err := c.Rollback(context.Background(), "test")
		ended <- err
	}()
	a.eventually(func() error {
		if now := a.weights(); now != atRest {
			return fmt.Errorf("weights %+v", now)
		}
		return nil
	})
	left := metav1.ListOptions{LabelSelector: manifest.TrackLabel + "=canary"}
	if err := a.kube.AppsV1().ReplicaSets(a.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, left); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	problems, states := observed()
	for _, problem := range problems {
		t.Error(problem)
	}
	if states < 3 { // the routes at rest, the Deployment's end, and that of its pods
		t.Errorf("only %d states were seen", states)
	}
}

// seen is what browsers report: by browser and version, the number of chunks that were found and not found.
type seen struct {
	mu     sync.Mutex
	chunks map[string]map[string][2]int
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	browser, version := r.URL.Path, r.FormValue("version")
	if s.chunks[browser] == nil {
		s.chunks[browser] = map[string][2]int{}
	}
	count := s.chunks[browser][version]
	if r.FormValue("found") == "true" {
		count[0]++
	} else {
		count[1]++
	}
	s.chunks[browser][version] = count
}

// since returns and resets what was reported.
func (s *seen) since() map[string]map[string][2]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	reported := s.chunks
	s.chunks = map[string]map[string][2]int{}
	return reported
}

// wait waits until each of some browsers has reported a few chunks since the last look.
func (s *seen) wait(a *app, browsers []string) {
	a.Helper()
	a.eventually(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, browser := range browsers {
			chunks := 0
			for _, n := range s.chunks["/"+browser] {
				chunks += n[0] + n[1]
			}
			if chunks < 4 {
				return fmt.Errorf("browser %s has reported %d chunks", browser, chunks)
			}
		}
		return nil
	})
}

// browse opens the app in a fresh browser.
func (a *app) browse(ctx context.Context, program, collector, name string) {
	a.Helper()
	host := a.name + ".example.com"
	profile, err := os.MkdirTemp("", "crossbill-browser-")
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { a.eventually(func() error { return os.RemoveAll(profile) }) }) // its helpers write until they end too
	browser := exec.CommandContext(ctx, program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests", "--remote-debugging-port=0",
		"--host-resolver-rules=MAP "+host+" 127.0.0.1", "--user-data-dir="+profile, "http://"+host+"/browser#"+url.QueryEscape(collector+"/"+name))
	browser.WaitDelay = time.Second
	if err := browser.Start(); err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { _ = browser.Process.Kill(); _ = browser.Wait() })
}

// TestBrowsers opens a release in real browsers, which load its pages and their chunks again and again while
// the weights move. With --sticky each keeps its version and finds every chunk, during a rollback as well;
// without it they do not.
func TestBrowsers(t *testing.T) {
	program, err := setup.EnsureBrowser(t.Context(), t.Logf)
	if err != nil {
		t.Skip(err)
	}
	t.Parallel()
	look := func(a *app, what string, s *seen, oneVersion bool, browsers ...string) (missing int) {
		t.Helper()
		s.wait(a, browsers)
		reported := s.since()
		for browser, versions := range reported {
			for _, n := range versions {
				missing += n[1]
			}
			if oneVersion && len(versions) != 1 {
				t.Errorf("%s: browser %s was given several versions: %v", what, browser, versions)
			}
		}
		t.Logf("%s: %v", what, reported)
		if len(reported) != len(browsers) {
			t.Errorf("%s: %d browsers have reported", what, len(reported))
		}
		return missing
	}
	start := func(t *testing.T, name string, canary ...string) (*app, *seen, func(browsers ...string)) {
		a := released(t, name)
		a.served()
		s := &seen{chunks: map[string]map[string][2]int{}}
		collector := httptest.NewServer(s)
		t.Cleanup(collector.Close)
		a.must(append([]string{"canary", "--image", images["two and one"]}, canary...)...)
		time.Sleep(2 * time.Second) // until the gateway has it
		return a, s, func(browsers ...string) {
			for _, browser := range browsers {
				a.browse(t.Context(), program, collector.URL, browser)
			}
			s.wait(a, browsers)
		}
	}
	t.Run("sticky", func(t *testing.T) {
		a, s, open := start(t, "browsers-sticky", "--weight", "1", "--sticky")
		all := []string{"a", "b", "c", "d"}
		open("a", "b")
		missing := look(a, "weight 1", s, true, "a", "b")
		a.must("shift", "--steps", "99")
		time.Sleep(time.Second)
		s.since()
		open("c", "d")
		s.wait(a, all)
		s.mu.Lock()
		reported := maps.Clone(s.chunks)
		s.mu.Unlock()
		if len(reported["/a"]) != 1 || len(reported["/c"]) != 1 || reported["/a"]["one"][0] == 0 && reported["/b"]["one"][0] == 0 || reported["/c"]["two"][0] == 0 && reported["/d"]["two"][0] == 0 {
			t.Errorf("the browsers are not on both versions: %v", reported)
		}
		missing += look(a, "weight 99", s, true, all...)
		a.must("rollback", "--prometheus", running.PrometheusURL)
		time.Sleep(time.Second)
		missing += look(a, "rollback", s, false, all...)
		a.must("canary", "--again", "--image", images["two and one"], "--weight", "50", "--sticky")
		time.Sleep(3 * time.Second)
		missing += look(a, "weight 50", s, false, all...)
		a.healthy()
		a.must("promote")
		time.Sleep(500 * time.Millisecond)
		// While primary's pods are replaced one by one, a page of a new one may ask an old one for its
		// chunks, as in every rolling update: that is reported, not blamed on the release.
		t.Logf("%d chunks were missing while primary was rolled over", look(a, "promotion", s, false, all...))
		a.must("cleanup", "--prometheus", running.PrometheusURL)
		time.Sleep(2 * time.Second)
		missing += look(a, "after the promotion", s, false, all...)
		if missing > 0 {
			t.Errorf("%d chunks were missing", missing)
		}
	})
	t.Run("not sticky", func(t *testing.T) {
		a, s, open := start(t, "browsers-free", "--weight", "50")
		open("a", "b")
		missing := 0
		a.eventually(func() error {
			if missing += look(a, "weight 50", s, false, "a", "b"); missing == 0 {
				return errors.New("no chunk is missing without --sticky: the browsers do not see what they should")
			}
			return nil
		})
	})
}
