package commands_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/rollout"
)

// listener is a chat, a Pushgateway and a trace collector. It keeps what it receives.
type listener struct {
	mu       sync.Mutex
	requests []string // method and path
	notices  []notify.Message
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r.Method+" "+r.URL.Path)
	if r.URL.Path == "/chat" {
		var n notify.Message
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		l.notices = append(l.notices, n)
	}
}

// count is the number of requests with a prefix.
func (l *listener) count(request string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.requests {
		if strings.HasPrefix(r, request) {
			n++
		}
	}
	return n
}

// testNotifications: people and programs can follow a release and its history, and the notifications agree with it.
func testNotifications(t *testing.T) {
	t.Parallel()
	a := released(t, "notified")
	heard := &listener{}
	server := httptest.NewServer(heard)
	defer server.Close()
	chat := filepath.Join(t.TempDir(), "chat")
	if err := os.WriteFile(chat, []byte(server.URL+"/chat\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	notifying := func(args ...string) {
		t.Helper()
		p := program(a.arguments(append(args, "--webhook-file", chat, "--pushgateway", server.URL))...)
		p.Env = append(p.Env, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)
		if err := p.Run(); err != nil || strings.Contains(p.out.String(), "notification failed") {
			t.Fatalf("crossbill %v: %v\n%s", args, err, p.out.String())
		}
	}

	// Watch the release meanwhile.
	watch := program(a.arguments([]string{"status", "--watch"})...)
	reader, writer := io.Pipe()
	watch.Stdout = writer
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watch.Process.Kill() })
	lines := bufio.NewScanner(reader)
	until := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("the watch ended before it showed %q", text)
	}

	until("none in flight")
	const run, pipeline = "https://github.com/our-org/app/actions/runs/7", "https://gitlab.example.com/infra/deploy/-/pipelines/9"
	commit := strings.Repeat("c0ffee12", 5)
	notifying("canary", "--image", images["two"], "--source-url", run, "--pipeline-url", pipeline, "--commit", commit)
	until("90% primary, 10% canary")
	for _, want := range []string{"https://github.com/our-org/app/commit/" + commit, run, pipeline, "1 of 1 ready", "next      verify"} {
		if out := a.must("status", "-o", "wide"); !strings.Contains(out, want) {
			t.Errorf("status -o wide has no %q:\n%s", want, out)
		}
	}
	var status rollout.Status
	if err := yaml.Unmarshal([]byte(a.must("status", "-o", "yaml")), &status); err != nil || status.Release == nil || status.Release.Stage != release.StageCanary || *status.Weights != split {
		t.Errorf("status -o yaml: %v, %+v", err, status)
	}
	if out := a.must("report", "-o", "markdown"); !strings.Contains(out, "| canary | 10% of the traffic |") || !strings.Contains(out, "| GitLab | [pipeline](<"+pipeline+">) |") {
		t.Errorf("the report as Markdown:\n%s", out)
	}
	notifying("rollback", "--reason", "the shop is on fire")
	until("the shop is on fire")
	if err := watch.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	if err := watch.Wait(); err != nil {
		t.Errorf("the watch, interrupted: %v", err)
	}

	var past struct{ Items []report.FinishedRelease }
	if err := json.Unmarshal([]byte(a.must("history", "-o", "json", "--last", "1")), &past); err != nil {
		t.Fatal(err)
	}
	if len(past.Items) != 1 || past.Items[0].Outcome != release.OutcomeRolledBack || past.Items[0].Reason != "the shop is on fire" || past.Items[0].Links.RunURL != run || past.Items[0].Commit != commit || past.Items[0].FinishedAt.Before(past.Items[0].StartedAt) {
		t.Errorf("history: %+v", past)
	}
	if out := a.must("history"); strings.Count(out, "\n") != 3 || !strings.Contains(out, "the shop is on fire") {
		t.Errorf("history:\n%s", out)
	}
	if code, out := a.crossbill("history", "--last", "0"); code != 2 {
		t.Errorf("history of no releases: exit code %d\n%s", code, out)
	}

	var states []string
	for _, n := range heard.notices {
		states = append(states, n.Command+" "+n.State)
	}
	if got := strings.Join(states, ", "); got != "canary canary, rollback rolled_back" {
		t.Errorf("the chat heard %q", got)
	}
	for request, want := range map[string]int{"PUT /metrics/job/crossbill/": 2, "POST /metrics/job/crossbill/": 2, "POST /v1/traces": 2} {
		if n := heard.count(request); n != want {
			t.Errorf("%d of %s, want %d: %v", n, request, want, heard.requests)
		}
	}
}
