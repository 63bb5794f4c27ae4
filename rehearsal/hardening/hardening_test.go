// Package hardening runs the built app as its Deployment does, and treats it badly: requests that are made to break
// it, more connections than it has seen, a SIGTERM in the middle of all that; and looks at its page in a browser.
package hardening

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/rehearsal/lifecycle"
)

var figuresFile = flag.String("figures", "", "file for what is measured, as JSON")

const root = "../.."

func TestMain(m *testing.M) {
	flag.Parse()
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// build makes the app's bundles, in its folder.
func build() error {
	for _, args := range [][]string{{"install", "--frozen-lockfile", "--prefer-offline"}, {"build"}} {
		cmd := exec.Command("npx", append([]string{"--yes", lifecycle.Pnpm}, args...)...)
		cmd.Dir, cmd.Env = filepath.Join(root, "app"), append(os.Environ(), "CI=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("pnpm %v: %w\n%s", args, err, out)
		}
	}
	return nil
}

// server is one copy of the app.
type server struct {
	*exec.Cmd
	address string
	log     bytes.Buffer
	started time.Time
	ended   chan error
}

// deployed is what the Deployment sets: the app's environment, and its memory limit in bytes.
func deployed(t *testing.T) (env []string, memory int64) {
	t.Helper()
	set, err := manifest.Load(filepath.Join(root, "k8s"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range set.Deployment.Spec.Template.Spec.Containers {
		if c.Name == set.ContainerName() {
			for _, e := range c.Env {
				if e.ValueFrom == nil {
					env = append(env, e.Name+"="+e.Value)
				}
			}
			memory = c.Resources.Limits.Memory().Value()
		}
	}
	if memory == 0 || len(env) == 0 {
		t.Fatal("the Deployment has no memory limit, or sets nothing")
	}
	return env, memory
}

// given are the ports that a copy of the app has, or will have: one that is free again may be given twice.
var given sync.Map

// start runs a copy of the app and waits for its first 200.
func start(t *testing.T, env ...string) *server {
	t.Helper()
	ports := make([]string, 2)
	for i := range ports {
		for taken := true; taken; _, taken = given.LoadOrStore(ports[i], true) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			_, ports[i], _ = net.SplitHostPort(l.Addr().String())
			l.Close()
		}
	}
	deployedEnv, _ := deployed(t)
	s := &server{Cmd: exec.Command("node", "server/entry.fastify.js"), address: "127.0.0.1:" + ports[0], ended: make(chan error, 1)}
	s.Dir, s.Stdout, s.Stderr = filepath.Join(root, "app"), &s.log, &s.log
	s.Env = slices.Concat(os.Environ(), deployedEnv, []string{"NODE_ENV=production", "HOST=127.0.0.1", "PORT=" + ports[0], "METRICS_PORT=" + ports[1]}, env)
	s.started = time.Now()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- s.Wait() }()
	t.Cleanup(func() { _ = s.Process.Kill() })
	for {
		if response, err := http.Get("http://" + s.address + "/health"); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return s
			}
		}
		if time.Since(s.started) > 30*time.Second {
			t.Fatalf("the app does not answer\n%s", s.log.String())
		}
		time.Sleep(3 * time.Millisecond)
	}
}

// memory is a line of /proc/PID/status, in bytes: VmRSS now, VmHWM at most until now.
func (s *server) memory(t *testing.T, line string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(line + `:\s+(\d+) kB`).FindSubmatch(text)
	if match == nil {
		t.Fatalf("no %s in\n%s", line, text)
	}
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// raw sends bytes as they are and gives the answer's status and body.
func (s *server) raw(t *testing.T, request string) (status int, body string) {
	t.Helper()
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, string(text)
}

func TestHostileRequests(t *testing.T) {
	t.Parallel()
	s := start(t) // with the Deployment's ORIGIN
	get := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n"
	}
	post := func(headers, body string) string {
		return "POST /?qaction=useGreeting HTTP/1.1\r\nHost: app.example.com\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n" + headers + "\r\n" + body
	}
	for name, c := range map[string]struct {
		request string
		status  []int
	}{
		"out of the folder":            {get("/../../../../etc/passwd"), []int{400, 403, 404}},
		"out of it, encoded":           {get("/%2e%2e/%2e%2e/%2e%2e/etc/passwd"), []int{400, 403, 404}},
		"out of it, encoded slashes":   {get("/build/..%2f..%2fserver%2fentry.fastify.js"), []int{400, 403, 404}},
		"out of it, twice encoded":     {get("/build/%252e%252e/%252e%252e/package.json"), []int{400, 403, 404}},
		"out of it, backslashes":       {get(`/build/..\..\package.json`), []int{400, 403, 404}},
		"another host's address":       {get("//etc/passwd"), []int{400, 403, 404}},
		"a zero in it":                 {get("/build/%00"), []int{400, 403, 404}},
		"no encoding at all":           {get("/%"), []int{400, 404}},
		"a host that is none":          {"GET / HTTP/1.1\r\nHost: evil.example.com/x?\r\nConnection: close\r\n\r\n", []int{400}},
		"two hosts":                    {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", []int{400}},
		"no host":                      {"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", []int{400}},
		"a form from elsewhere":        {post("Origin: https://evil.example.com\r\nContent-Length: 8\r\n", "name=Ann"), []int{403}},
		"a form from nowhere":          {post("Origin: null\r\nContent-Length: 8\r\n", "name=Ann"), []int{403}},
		"a form from here":             {post("Origin: https://app.example.com\r\nContent-Length: 8\r\n", "name=Ann"), []int{200}},
		"a body of 60 MB":              {post("Origin: https://app.example.com\r\nContent-Length: 62914560\r\n", "name="+strings.Repeat("a", 1<<16)), []int{413}},
		"a body of unknown length":     {post("Origin: https://app.example.com\r\nTransfer-Encoding: chunked\r\n", "8\r\nname=Ann\r\n0\r\n\r\n"), []int{411}},
		"two lengths":                  {post("Origin: https://app.example.com\r\nContent-Length: 8\r\nContent-Length: 9\r\n", "name=Ann"), []int{400}},
		"a length and chunks":          {post("Origin: https://app.example.com\r\nContent-Length: 8\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), []int{400, 411}},
		"a header that never ends":     {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 1<<17) + "\r\n\r\n", []int{431, 0}},
		"another method":               {"DELETE / HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n", []int{404, 405}},
		"what is not HTTP":             {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", []int{400, 0}},
		"the list of all source files": {get("/q-manifest.json"), []int{404}},
		"the list of all packages":     {get("/cyclonedx/bom.json"), []int{404}},
		"metrics":                      {get("/metrics"), []int{404}},
	} {
		status, body := s.raw(t, c.request)
		if !slices.Contains(c.status, status) || strings.Contains(body, "root:") || strings.Contains(body, "devDependencies") || strings.Contains(body, "createQwikCity") {
			t.Errorf("%s: %d, want one of %d\n%.300s", name, status, c.status, body)
		}
	}
	if response, err := http.Get("http://" + s.address + "/health"); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("after all that: %v, %v", response, err)
	}
	if _, limit := deployed(t); s.memory(t, "VmHWM") > limit {
		t.Errorf("it took %d MiB, the limit is %d", s.memory(t, "VmHWM")>>20, limit>>20)
	}
}

// TestIdleConnections: the app is never the first to close a connection that Envoy may still use. It says that it keeps an
// idle one for longer than Envoy does, with the DestinationRule's timeout or without, and no other timeout closes it.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	s := start(t)
	set, err := manifest.Load(filepath.Join(root, "k8s"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	for i, idle := range []time.Duration{0, 20 * time.Second} { // longer than requestTimeout and headersTimeout
		time.Sleep(idle)
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, "GET /api/version HTTP/1.1\r\nHost: app.example.com\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("request %d, after %s: %v", i+1, idle, err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("request %d, after %s: %s, %v", i+1, idle, response.Status, err)
		}
		seconds, err := strconv.Atoi(strings.TrimPrefix(response.Header.Get("Keep-Alive"), "timeout="))
		const envoys = time.Hour // HttpProtocolOptions.idle_timeout, where nobody sets it
		ours, gateways := time.Duration(seconds)*time.Second, set.DestinationRule.Spec.GetTrafficPolicy().GetConnectionPool().GetHttp().GetIdleTimeout().AsDuration()
		if err != nil || ours <= envoys || gateways == 0 || gateways > envoys {
			t.Errorf("the app keeps an idle connection for %s (%v), Envoy for %s, or %s", ours, err, gateways, envoys)
		}
	}
}

// TestSlowSenders: who sends a header a byte at a time does not keep others out, and not the connection.
func TestSlowSenders(t *testing.T) {
	t.Parallel()
	s := start(t)
	const senders = 200
	var closed atomic.Int64
	var all sync.WaitGroup
	ctx, stop := context.WithTimeout(t.Context(), 60*time.Second)
	defer stop()
	for range senders {
		c, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer c.Close()
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
			gone := make(chan struct{})
			go func() { _, _ = io.Copy(io.Discard, c); close(gone) }()
			for {
				select {
				case <-gone:
					closed.Add(1)
					return
				case <-ctx.Done():
					return
				case <-time.After(time.Second):
					_, _ = io.WriteString(c, "a")
				}
			}
		})
	}
	time.Sleep(time.Second)
	for range 20 {
		started := time.Now()
		response, err := http.Get("http://" + s.address + "/health")
		if err != nil || response.StatusCode != http.StatusOK || time.Since(started) > 5*time.Second {
			t.Errorf("beside slow senders: %v, %v after %s", response, err, time.Since(started))
		}
	}
	started := time.Now()
	all.Wait()
	if closed.Load() != senders {
		t.Errorf("%d of %d slow senders were shut out within a minute", closed.Load(), senders)
	}
	t.Logf("%d slow senders were shut out within %s", closed.Load(), time.Since(started).Round(time.Second))
}

// ports are those in a network error, which would make each a kind of its own.
var ports = regexp.MustCompile(`:\d+`)

// TestManyConnections: a thousand callers keep their connections, and none is refused. How long an answer takes is the
// machine's matter; that answers go on coming is the app's.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	s := start(t)
	const callers, each, without = 1000, 5, time.Minute
	transport := &http.Transport{MaxIdleConnsPerHost: callers, MaxConnsPerHost: callers}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	stuck := time.AfterFunc(without, func() { stop(fmt.Errorf("%s without an answer", without)) })
	defer stuck.Stop()
	call := func(path string) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+path, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
		stuck.Reset(without)
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	}
	var mu sync.Mutex
	failed := map[string]int{}
	began := time.Now()
	for round, path := range []string{"/", "/api/version", "/api/version", "/api/version", "/api/version"} {
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				if err := call(path); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed[fmt.Sprintf("round %d: %s", round, ports.ReplaceAllString(err.Error(), ""))]++
				}
			})
		}
		all.Wait()
	}
	peak := s.memory(t, "VmHWM")
	_, limit := deployed(t)
	for what, times := range failed {
		t.Errorf("%d of %d requests failed: %s", times, callers*each, what)
	}
	if peak > limit {
		t.Errorf("it took %d MiB, the limit is %d", peak>>20, limit>>20)
	}
	if t.Failed() {
		t.Logf("the app's log:\n%s", s.log.String())
	}
	t.Logf("%d connections, %d MiB, %s", callers, peak>>20, time.Since(began).Round(time.Second))
}

// load asks for a path over some connections until it is stopped. It counts good answers as they come, and returns the failures.
func load(ctx context.Context, address, path string, connections int, good *atomic.Int64) (failed []string) {
	transport := &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			for ctx.Err() == nil {
				response, err := client.Get("http://" + address + path) // not the context: what was started is waited for
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
				switch {
				case err == nil && response.StatusCode == http.StatusOK:
					good.Add(1)
					continue
				case err == nil:
					err = errors.New(response.Status)
				}
				mu.Lock()
				failed = append(failed, err.Error())
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return failed
}

// TestEndUnderLoad: SIGTERM while requests come, which go elsewhere before the drain is over, as behind a Service:
// none is lost, and the end is a good one.
func TestEndUnderLoad(t *testing.T) {
	t.Parallel()
	s := start(t, "DRAIN_MS=15000") // so that on a busy machine too the load has stopped before the drain is over
	ctx, stop := context.WithCancel(t.Context())
	var answered atomic.Int64
	var failed []string
	done := make(chan struct{})
	go func() { failed = load(ctx, s.address, "/", 20, &answered); close(done) }()
	for end := time.Now().Add(time.Minute); answered.Load() < 50; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d answered within a minute", answered.Load())
		}
	}
	if err := s.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ready := http.StatusOK
	for end := time.Now().Add(10 * time.Second); ready != http.StatusServiceUnavailable && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if response, err := http.Get("http://" + s.address + "/ready"); err == nil {
			response.Body.Close()
			ready = response.StatusCode
		}
	}
	if ready != http.StatusServiceUnavailable {
		t.Errorf("ready while it ends: %d", ready)
	}
	time.Sleep(time.Second)
	stop()
	<-done
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("it ended with %v\n%s", err, s.log.String())
		}
	case <-time.After(40 * time.Second):
		t.Error("it has not ended")
	}
	if len(failed) > 0 {
		t.Errorf("%d answered, %d lost: %q", answered.Load(), len(failed), failed)
	}
	t.Logf("%d answered, %d lost", answered.Load(), len(failed))
}

// TestFigures measures what a copy of the app takes and gives, alone on the machine: run it by itself.
func TestFigures(t *testing.T) {
	if *figuresFile == "" {
		t.Skip("it measures, and needs the machine for itself: --figures names the file")
	}
	var out struct {
		Node          string    `json:"node"`
		FirstAnswerMs []float64 `json:"firstAnswerMs"` // from start to the first 200, sorted
		AtRestMiB     int64     `json:"atRestMiB"`
		PeakMiB       int64     `json:"peakMiB"`         // of the loads below
		PagesPerS     float64   `json:"pagesPerSecond"`  // GET /, 16 connections
		HealthPerS    float64   `json:"healthPerSecond"` // GET /health, 16 connections
	}
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	out.Node = strings.TrimSpace(string(version))
	var s *server
	for range 11 {
		if s != nil {
			_ = s.Process.Kill()
		}
		s = start(t)
		out.FirstAnswerMs = append(out.FirstAnswerMs, float64(time.Since(s.started).Microseconds())/1000)
	}
	slices.Sort(out.FirstAnswerMs)
	out.AtRestMiB = s.memory(t, "VmRSS") >> 20
	perSecond := func(path string) float64 {
		const seconds = 8
		ctx, stop := context.WithTimeout(t.Context(), seconds*time.Second)
		defer stop()
		var answered atomic.Int64
		failed := load(ctx, s.address, path, 16, &answered)
		if len(failed) > 0 {
			t.Errorf("%s: %q", path, failed)
		}
		return float64(answered.Load()) / seconds
	}
	out.PagesPerS, out.HealthPerS = perSecond("/"), perSecond("/health")
	out.PeakMiB = s.memory(t, "VmHWM") >> 20
	if _, limit := deployed(t); out.PeakMiB > limit>>20 {
		t.Errorf("%d MiB under load, the limit is %d", out.PeakMiB, limit>>20)
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", text)
	if err := os.WriteFile(*figuresFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
