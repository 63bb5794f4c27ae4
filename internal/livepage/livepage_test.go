package livepage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

const hostile = `<script>alert("x")</script>`

func image(c string) string {
	return "registry.example.com/our-org/app@sha256:" + strings.Repeat(c, 64)
}

// ledger has finished releases with their evidence, and one in flight at a stage: "" for none.
func ledger(t testing.TB, app string, finished int, stage release.Stage, at time.Time) *release.Ledger {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	test := verdict.DefaultSLO().Test()
	record := verdict.Record{Method: verdict.Method, Test: test}
	for i := range 60 {
		block := verdict.Block{Elapsed: time.Duration(i+1) * 5 * time.Second}
		for range test.Objectives {
			block.Pairs = append(block.Pairs, verdict.Pair{Canary: verdict.Tally{Events: 60, Bad: float64(i % 2)}, Primary: verdict.Tally{Events: 540, Bad: 5}})
		}
		record.Blocks = append(record.Blocks, block)
	}
	evidence, err := json.Marshal(record)
	must(err)
	l := &release.Ledger{Version: release.LedgerVersion, App: app}
	canary := func(id string) {
		_, err := l.Start(release.Release{ID: id, Image: image("b"), Previous: image("a"), Weight: 10, SourceURL: "https://github.com/our-org/app/actions/runs/1"}, "jane@gitlab-job-11", at)
		must(err)
		must(l.Reach(release.StageCanary, "jane@gitlab-job-11", at.Add(20*time.Second)))
	}
	judge := func(outcome release.VerdictOutcome) {
		v := l.Release.Subject()
		v.Outcome, v.Reason, v.Requests, v.At, v.Evidence = outcome, "availability: 30 of the canary's 3600 events are bad", 3600, at.Add(5*time.Minute), string(evidence)
		must(l.Judge(v, "jane@gitlab-job-12", v.At))
	}
	for i := range finished {
		canary(fmt.Sprintf("release%05d", i))
		judge(release.Unhealthy)
		l.Release.Reason = "it is " + hostile
		must(l.Reach(release.StageRollingBack, "jane@gitlab-job-12", at.Add(6*time.Minute)))
		must(l.Finish(release.OutcomeRolledBack, "jane@gitlab-job-12", at.Add(7*time.Minute)))
		at = at.Add(time.Hour)
	}
	if stage != "" {
		canary("e61f62a65104")
	}
	if stage == release.StageVerified {
		judge(release.Healthy)
	}
	return l
}

// statusOf is what the cluster says of an app with a ledger.
func statusOf(l *release.Ledger) *rollout.Status {
	s := &rollout.Status{
		App: l.App, Namespace: "production", Release: l.Release, History: l.History, Lock: "jane@gitlab-job-12",
		Weights: &manifest.WeightPair{Primary: 100},
		Tracks:  map[release.Track]*rollout.TrackStatus{release.Primary: {Image: image("a"), Replicas: 4, Ready: 4}},
	}
	if l.Release != nil {
		s.Weights = &manifest.WeightPair{Primary: 90, Canary: 10}
		s.Tracks[release.Canary] = &rollout.TrackStatus{Image: image("b"), Replicas: 1, Ready: 1}
	}
	return s
}

// appOf is the same among all apps.
func appOf(s *rollout.Status) rollout.AppStatus {
	a := rollout.AppStatus{Namespace: s.Namespace, App: s.App, Release: s.Release.WithoutEvidence(), Tracks: s.Tracks, Lock: s.Lock}
	if len(s.History) > 0 {
		a.Last = &s.History[0]
	}
	return a
}

// cluster is a source whose content a test changes.
type cluster struct {
	mu          sync.Mutex
	status      *rollout.Status
	reach, read error
	reads       int
	slow        bool  // a read does not end by itself
	inGit       bool  // its ledger is
	git         error // why the environment repository does not answer
	answered    time.Time
}

func (c *cluster) source() *Source {
	return &Source{
		Namespace: "production",
		Apps: func() ([]rollout.AppStatus, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			app := appOf(c.status)
			app.InGit = c.inGit
			return []rollout.AppStatus{app}, nil
		},
		Git: func() (time.Time, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.answered, c.git
		},
		App: func(ctx context.Context, _ rollout.AppStatus) (*rollout.Status, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.reads++; c.slow {
				c.mu.Unlock()
				<-ctx.Done()
				c.mu.Lock()
				return nil, ctx.Err()
			}
			return c.status, c.read
		},
		Reach: func(context.Context) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.reach
		},
	}
}

func (c *cluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// pipes is a network in memory, whose connections hold nothing: what is written is taken at once, or waits. It is no
// kinder to a server than a socket, which takes some kilobytes first.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), ended: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.ended) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

// served runs a test against a server, which must end in order.
func served(t *testing.T, c *cluster, test func(t *testing.T, page *Server, client *http.Client, end func() error)) {
	synctest.Test(t, func(t *testing.T) {
		page, network := New(c.source(), false), newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- page.Serve(ctx, network) }()
		transport := &http.Transport{DialContext: network.dial}
		end := sync.OnceValue(func() error {
			cancel()
			err := <-ended
			transport.CloseIdleConnections()
			return err
		})
		test(t, page, &http.Client{Transport: transport}, end)
		if err := end(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

// text is what a reader sees of a page or of a part of one.
func text(t testing.TB, from io.Reader, id string) string {
	t.Helper()
	root, err := html.Parse(from)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for n := range root.Descendants() {
		of := id == ""
		for up := n; up != nil && !of; up = up.Parent {
			for _, a := range up.Attr {
				of = of || a.Key == "id" && a.Val == id
			}
		}
		if of && n.Type == html.TextNode {
			words = append(words, strings.Fields(n.Data)...)
		}
	}
	return strings.Join(words, " ")
}

func get(t testing.TB, client *http.Client, path string) (int, string) {
	t.Helper()
	response, err := client.Get("http://localhost" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// TestNumbers: what a page shows is what the status and the ledger say.
func TestNumbers(t *testing.T) {
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	c := &cluster{status: statusOf(ledger(t, "shop", 2, release.StageVerified, at))}
	served(t, c, func(t *testing.T, _ *Server, client *http.Client, _ func() error) {
		code, page := get(t, client, "/apps/production/shop")
		if code != http.StatusOK || strings.Contains(page, hostile) {
			t.Errorf("status %d; a reason became markup: %v", code, strings.Contains(page, hostile))
		}
		for id, want := range map[string]string{
			"stage":    "Release e61f62a65104 is at stage verified . There is a verdict. Next: promote, by an approver.",
			"traffic":  "90% primary, 10% canary",
			"tracks":   "Track Ready Image primary 4 of 4 " + image("a") + " canary 1 of 1 " + image("b"),
			"lock":     "held by jane@gitlab-job-12",
			"stages":   "",
			"releases": "Finished (UTC) Release Digest Outcome Verdict Canary requests Reason 2026-11-23 09:07:00 release00001 sha256:bbbbbbbbbbbb rolled back unhealthy 3600 it is " + hostile + " 2026-11-23 08:07:00 release00000 sha256:bbbbbbbbbbbb rolled back unhealthy 3600 it is " + hostile,
		} {
			if diff := cmp.Diff(want, text(t, strings.NewReader(page), id)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", id, diff)
			}
		}
		if got := text(t, strings.NewReader(page), "verdicts"); !strings.Contains(got, "healthy : availability: 30 of the canary's 3600 events are bad") || !strings.Contains(got, "99.17% of 3600") {
			t.Errorf("the verdict is %s", got)
		}
		_, page = get(t, client, "/")
		if got, want := text(t, strings.NewReader(page), "app.production.shop"), "shop production verified for"; !strings.HasPrefix(got, want) || !strings.Contains(got, "10% canary Next promote, by an approver Verdict healthy Ready primary 4/4, canary 1/1 Lock jane@gitlab-job-12") {
			t.Errorf("among all apps it is %s", got)
		}
		if code, page := get(t, client, "/apps/production/other"); code != http.StatusNotFound || !strings.Contains(page, "released no app of this name") {
			t.Errorf("another app: %d, %s", code, page)
		}
	})
}

// TestBaselineOnThePage: a baseline is where both tracks are, with what it gets.
func TestBaselineOnThePage(t *testing.T) {
	c := &cluster{status: statusOf(ledger(t, "shop", 0, release.StageCanary, time.Now()))}
	c.status.Tracks[manifest.BaselineTrack] = &rollout.TrackStatus{Image: image("a"), Replicas: 2, Ready: 1, Share: 18}
	served(t, c, func(t *testing.T, _ *Server, client *http.Client, _ func() error) {
		_, page := get(t, client, "/apps/production/shop")
		want := "Track Ready Image primary 4 of 4 " + image("a") + " canary 1 of 1 " + image("b") + " baseline 1 of 2 ready, about 18% of the traffic, out of primary's " + image("a")
		if diff := cmp.Diff(want, text(t, strings.NewReader(page), "tracks")); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		_, page = get(t, client, "/")
		if got := text(t, strings.NewReader(page), "app.production.shop"); !strings.Contains(got, "primary 4/4, canary 1/1, baseline 1/2") {
			t.Errorf("among all apps it is %s", got)
		}
	})
}

// TestOnlyThisMachine: nothing is shown to other sites, and nothing can be done.
func TestOnlyThisMachine(t *testing.T) {
	c := &cluster{status: statusOf(ledger(t, "shop", 0, "", time.Now()))}
	for _, of := range []struct {
		host, method, path string
		anywhere           bool
		want               int
	}{
		{"127.0.0.1:8080", "GET", "/", false, 200},
		{"localhost:8080", "GET", "/", false, 200},
		{"LOCALHOST", "HEAD", "/", false, 200},
		{"[::1]:8080", "GET", "/style.css", false, 200},
		{"127.9.9.9", "GET", "/live.js", false, 200},
		{"[::ffff:127.0.0.1]:80", "GET", "/apps/production/shop", false, 200},
		{"attacker.example.com:8080", "GET", "/", false, 403},
		{"127.0.0.1.example.com", "GET", "/events", false, 403},
		{"localhost.example.com", "GET", "/style.css", false, 403},
		{"10.0.0.1:8080", "GET", "/", false, 403},
		{"", "GET", "/", false, 403},
		{"board.example.com", "GET", "/", true, 200},
		{"localhost", "POST", "/", false, 405},
		{"localhost", "DELETE", "/apps/production/shop", false, 405},
		{"localhost", "GET", "/apps/production/shop/promote", false, 404},
	} {
		r := httptest.NewRequest(of.method, of.path, nil)
		r.Host = of.host
		w := httptest.NewRecorder()
		New(c.source(), of.anywhere).handler(t.Context()).ServeHTTP(w, r)
		if w.Code != of.want {
			t.Errorf("%s %s of %q: %d, want %d", of.method, of.path, of.host, w.Code, of.want)
		}
		if got := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'") || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s of %q has the headers %v", of.method, of.path, of.host, w.Header())
		}
	}
}

// stream reads the events of an address.
type stream struct {
	t    *testing.T
	body io.ReadCloser
	read *bufio.Reader
}

func open(t *testing.T, client *http.Client, path string) *stream {
	t.Helper()
	response, err := client.Get("http://localhost" + path)
	if err != nil || response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
		t.Fatal(err, response)
	}
	return &stream{t, response.Body, bufio.NewReader(response.Body)}
}

// next is the next page, or the error that the stream ends with.
func (s *stream) next() (page report.Live, id string, err error) {
	s.t.Helper()
	for {
		line, err := s.read.ReadString('\n')
		if err != nil {
			return page, id, err
		}
		if data, ok := strings.CutPrefix(line, "id: "); ok {
			id = strings.TrimSpace(data)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			return page, id, json.Unmarshal([]byte(data), &page)
		}
	}
}

// TestStream: a page that is open gets what changes, soon, and no page that it has.
func TestStream(t *testing.T) {
	c := &cluster{status: statusOf(ledger(t, "shop", 1, release.StageCanary, time.Now()))}
	served(t, c, func(t *testing.T, page *Server, client *http.Client, end func() error) {
		events := open(t, client, "/apps/production/shop/events?version=none")
		first, id, err := events.next()
		if err != nil || !strings.HasPrefix(first.Title, "canary: shop") || id == "" {
			t.Fatal(first, id, err)
		}
		changed := time.Now()
		c.set(func() { c.status = statusOf(ledger(t, "shop", 1, release.StageVerified, time.Now())) })
		page.Changed()
		for {
			now, _, err := events.next()
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(now.Title, "verified: shop") {
				break
			}
		}
		if took := time.Since(changed); took > freshFor {
			t.Errorf("a change takes %s", took)
		}
		// What nobody says that it has changed, such as a route, is seen by the next look.
		changed = time.Now()
		c.set(func() { s := *c.status; s.Weights = &manifest.WeightPair{Primary: 50, Canary: 50}; c.status = &s })
		for {
			now, _, err := events.next()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(now.Main), "50% primary, 50% canary") {
				break
			}
		}
		if took := time.Since(changed); took > lookPause {
			t.Errorf("a look takes %s", took)
		}
		// The server ends: so does the stream, in order.
		ended := make(chan error, 1)
		go func() { ended <- end() }()
		for err == nil {
			_, _, err = events.next()
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("the stream ends with %v", err)
		}
	})
	quiet := &cluster{status: statusOf(ledger(t, "shop", 0, "", time.Now()))}
	served(t, quiet, func(t *testing.T, _ *Server, client *http.Client, _ func() error) {
		events := open(t, client, "/events?version=none")
		_, id, err := events.next()
		if err != nil {
			t.Fatal(err)
		}
		events.body.Close()
		events = open(t, client, "/events?version="+id)
		defer events.body.Close()
		for range 3 { // retry, then signs of life
			for {
				line, err := events.read.ReadString('\n')
				if err != nil || strings.HasPrefix(line, "data:") {
					t.Fatal("a page that it has: ", line, err)
				}
				if line == "\n" {
					break
				}
			}
		}
	})
}

// TestSlowReader: who does not read is dropped, and holds up nobody.
func TestSlowReader(t *testing.T) {
	c := &cluster{status: statusOf(ledger(t, "shop", 1, release.StageCanary, time.Now()))}
	served(t, c, func(t *testing.T, page *Server, client *http.Client, _ func() error) {
		slow := open(t, client, "/apps/production/shop/events") // reads no further
		time.Sleep(time.Second)
		page.mu.Lock()
		open := page.streams
		page.mu.Unlock()
		if open != 1 {
			t.Errorf("%d streams are open", open)
		}
		start := time.Now()
		if code, _ := get(t, client, "/apps/production/shop"); code != http.StatusOK || time.Since(start) > time.Second {
			t.Errorf("another reader gets %d after %s", code, time.Since(start))
		}
		time.Sleep(dropAfter + 2*lookPause)
		synctest.Wait()
		page.mu.Lock()
		open = page.streams
		page.mu.Unlock()
		if open != 0 {
			t.Errorf("after %s it is still waited for", time.Since(start))
		}
		slow.body.Close()
	})
}

// TestManyReaders: there is an end to how many streams are open.
func TestManyReaders(t *testing.T) {
	c := &cluster{status: statusOf(ledger(t, "shop", 0, "", time.Now()))}
	served(t, c, func(t *testing.T, _ *Server, client *http.Client, _ func() error) {
		for range readers {
			events := open(t, client, "/events")
			defer events.body.Close()
			go func() { _, _ = io.Copy(io.Discard, events.body) }()
		}
		response, err := client.Get("http://localhost/events")
		if err != nil || response.StatusCode != http.StatusServiceUnavailable {
			t.Fatal(response, err)
		}
		response.Body.Close()
		if c.reads > 0 {
			t.Errorf("they have read an app %d times that nobody looks at", c.reads)
		}
	})
}

// TestStale: while the cluster does not respond, the page says since when and keeps what it had.
func TestStale(t *testing.T) {
	c := &cluster{status: statusOf(ledger(t, "shop", 1, release.StageCanary, time.Now()))}
	served(t, c, func(t *testing.T, _ *Server, client *http.Client, _ func() error) {
		synctest.Wait()
		responded := time.Now().UTC().Format("2006-01-02 15:04:05")
		get(t, client, "/apps/production/shop")
		c.set(func() { c.reach, c.read = errors.New("connection refused"), errors.New("connection refused") })
		time.Sleep(reachPause + time.Second)
		for _, path := range []string{"/", "/apps/production/shop"} {
			_, page := get(t, client, path)
			if got, want := text(t, strings.NewReader(page), "stale"), "The cluster does not respond since "+responded+" . The page shows what was there then. connection refused"; got != want {
				t.Errorf("%s says %q, want %q", path, got, want)
			}
			if !strings.Contains(page, "10%") {
				t.Errorf("%s shows nothing any more", path)
			}
		}
		c.set(func() { c.reach, c.read = nil, nil })
		time.Sleep(reachPause + time.Second)
		if _, page := get(t, client, "/"); strings.Contains(page, `id="stale"`) {
			t.Error("it is still stale")
		}
		// What the reader may not read is left out, and said.
		c.set(func() { c.read = errors.New("virtualservices is forbidden") })
		time.Sleep(time.Second)
		_, page := get(t, client, "/apps/production/shop")
		if !strings.Contains(page, "the rest cannot be read: virtualservices is forbidden") || strings.Contains(page, `id="traffic"`) || !strings.Contains(text(t, strings.NewReader(page), "tracks"), "primary 4 of 4") {
			t.Errorf("it shows %s", text(t, strings.NewReader(page), "main"))
		}
	})
}

// TestSlowFirstRead: a page that has less than it should, because its first read took too long, says so.
func TestSlowFirstRead(t *testing.T) {
	c := &cluster{status: statusOf(ledger(t, "shop", 1, release.StageCanary, time.Now())), slow: true}
	served(t, c, func(t *testing.T, _ *Server, client *http.Client, _ func() error) {
		const note = "the rest could not be read within 4s"
		if _, page := get(t, client, "/apps/production/shop"); !strings.Contains(page, note) || strings.Contains(page, `id="traffic"`) {
			t.Errorf("it shows %s", text(t, strings.NewReader(page), "main"))
		}
		c.set(func() { c.slow = false })
		time.Sleep(freshFor + time.Second)
		if _, page := get(t, client, "/apps/production/shop"); strings.Contains(page, note) || !strings.Contains(page, `id="traffic"`) {
			t.Errorf("it shows %s", text(t, strings.NewReader(page), "main"))
		}
	})
}

// TestNamesOfApps: each app of the list has an element of its own, whatever the names.
func TestNamesOfApps(t *testing.T) {
	apps := []rollout.AppStatus{{Namespace: "shop", App: "api-web"}, {Namespace: "shop-api", App: "web"}, {Namespace: "shop", App: "api.web"}}
	page, err := report.LiveApps(apps, "", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, app := range apps {
		if id := ` id="app.` + app.Namespace + "." + app.App + `"`; strings.Count(string(page.Main), id) != 1 {
			t.Errorf("%s is there %d times", id, strings.Count(string(page.Main), id))
		}
	}
}

// TestStaleGit: while the environment repository does not answer, the list and the pages of its apps say so, and keep what they had.
func TestStaleGit(t *testing.T) {
	const says = "The environment repository does not respond since 2000-01-01 00:00:00 . The page shows what was there then. 503"
	for _, inGit := range []bool{true, false} {
		c := &cluster{status: statusOf(ledger(t, "shop", 1, release.StageCanary, time.Now())), inGit: inGit}
		served(t, c, func(t *testing.T, server *Server, client *http.Client, _ func() error) {
			stale := func(path string) string {
				t.Helper()
				_, page := get(t, client, path)
				if !strings.Contains(page, "10%") {
					t.Errorf("%s shows nothing any more", path)
				}
				if !strings.Contains(page, `id="stale"`) {
					return ""
				}
				return text(t, strings.NewReader(page), "stale")
			}
			get(t, client, "/apps/production/shop")
			c.set(func() { c.git, c.answered = errors.New("503"), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) })
			server.Changed()
			if got := stale("/"); got != says {
				t.Errorf("the list says %q", got)
			}
			if got := stale("/apps/production/shop"); (got == says) != inGit || got != "" && !inGit {
				t.Errorf("in Git %v: the app says %q", inGit, got)
			}
			c.set(func() { c.answered = time.Time{} })
			server.Changed()
			if got, want := stale("/"), "The environment repository does not respond. What it has is missing here. 503"; got != want {
				t.Errorf("the list says %q", got)
			}
			if !inGit {
				return
			}
			// It is away, and nobody knows so yet.
			c.set(func() { c.git, c.read = nil, errors.New("503") })
			server.Changed()
			if got := stale("/apps/production/shop"); !strings.HasPrefix(got, "The cluster or the environment repository does not respond since ") || !strings.HasSuffix(got, " 503") {
				t.Errorf("the app says %q", got)
			}
		})
	}
}

// manyApps is a cluster with 200 apps, every tenth with a release in flight. Their ledgers are full.
func manyApps(t testing.TB) *fake.Clientset {
	t.Helper()
	var objects []runtime.Object
	full, busy := ledger(t, "NAME", 20, "", time.Now().Add(-30*time.Hour)), ledger(t, "NAME", 19, release.StageVerified, time.Now().Add(-20*time.Hour))
	for i := range 200 {
		name, l := fmt.Sprintf("app-%03d", i), full
		if i%10 == 0 {
			l = busy
		}
		for _, track := range []release.Track{release.Primary, release.Canary} {
			if track == release.Canary && l == full {
				continue
			}
			objects = append(objects, &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Namespace: "production", Name: name + "-" + string(track)},
				Spec: appsv1.DeploymentSpec{Replicas: new(int32(4)), Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{manifest.AppLabel: name, manifest.TrackLabel: string(track)}},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: name, Image: image("a")}}},
				}},
				Status: appsv1.DeploymentStatus{ReadyReplicas: 4},
			})
		}
		objects = append(objects, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "production", Name: "crossbill-" + name, Labels: map[string]string{"app": name, "app.kubernetes.io/managed-by": "crossbill"}},
			Data:       map[string]string{"ledger.json": strings.ReplaceAll(l.String(), "NAME", name)},
		})
	}
	return fake.NewClientset(objects...)
}

// serveMany serves them.
func serveMany(t testing.TB) (address string) {
	t.Helper()
	kube := manyApps(t)
	var page atomic.Pointer[Server]
	watched, err := rollout.WatchAll(t.Context(), kube, nil, "", func() {
		if p := page.Load(); p != nil {
			p.Changed()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watched.Apps(); err != nil { // as the command does before it gives its address
		t.Fatal(err)
	}
	one := statusOf(ledger(t, "app-000", 19, release.StageVerified, time.Now().Add(-20*time.Hour)))
	server := New(&Source{
		Apps:  watched.Apps,
		App:   func(context.Context, rollout.AppStatus) (*rollout.Status, error) { return one, nil },
		Reach: func(ctx context.Context) error { return rollout.Reach(ctx, kube, "") },
	}, false)
	page.Store(server)
	listener := httptest.NewServer(server.handler(t.Context()))
	t.Cleanup(listener.Close)
	return listener.URL
}

// TestManyApps: the page of 200 apps has all of them.
func TestManyApps(t *testing.T) {
	address := serveMany(t)
	for _, path := range []string{"/", "/apps/production/app-000"} {
		response, err := http.Get(address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if path == "/" && strings.Count(string(body), ` id="app.production.app-`) != 200 {
			t.Errorf("%d apps", strings.Count(string(body), ` id="app.production.app-`))
		}
		t.Logf("%s: %d kB", path, len(body)/1000)
	}
}

// BenchmarkManyApps is the time until the page of 200 apps is there.
func BenchmarkManyApps(b *testing.B) {
	address := serveMany(b)
	for b.Loop() {
		b.StopTimer()
		time.Sleep(freshFor) // else it is the page of the reader before
		b.StartTimer()
		response, err := http.Get(address + "/")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			b.Fatal(err)
		}
		response.Body.Close()
	}
}
