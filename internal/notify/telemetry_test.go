package notify

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	model "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

var begun = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

func event(outcome release.Outcome) *Event {
	r := &release.Release{
		ID: "0123456789ab", Image: "registry.example.com/app@sha256:" + strings.Repeat("a", 64), Stage: release.StageRollingBack, Weight: 10, StartedAt: begun.Add(-time.Minute), Reason: "too many errors",
		PipelineURL: "https://gitlab.example.com/infra/deploy/-/pipelines/9", Verdict: &release.Verdict{Outcome: release.Unhealthy, Requests: 194, Evidence: "long"},
	}
	return &Event{
		Command: "verify", App: "shop", Namespace: "production", Release: r, ReleaseID: r.ID, Outcome: outcome, ExitCode: 3, Message: "unhealthy: <!channel> & more", Begun: begun, Ended: begun.Add(42 * time.Second),
		Steps: []Step{{begun.Add(time.Second), "VirtualService shop-vs", "routes 100 % to primary"}},
	}
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answers []int
		said    string // the error has it; "" for none
	}{
		"taken":                 {answers: []int{200}},
		"taken the third time":  {answers: []int{502, 429, 200}},
		"not there any more":    {answers: []int{404}, said: "404"},
		"never in good health":  {answers: []int{500, 500, 500, 500}, said: "500"},
		"nobody at the address": {said: "webhook: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []Notice
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var n Notice
				if err := json.NewDecoder(r.Body).Decode(&n); err != nil || r.Header.Get("Content-Type") != "application/json" {
					t.Error(err)
				}
				got = append(got, n)
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(test.answers[len(got)-1])
			}))
			address := server.URL + "/services/T0/SECRET"
			if len(test.answers) == 0 {
				server.Close()
			} else {
				defer server.Close()
			}
			err := Webhook(t.Context(), address, event(release.OutcomeRolledBack))
			if (err == nil) != (test.said == "") || err != nil && !strings.Contains(err.Error(), test.said) {
				t.Fatalf("error %v, want %q", err, test.said)
			}
			if err != nil {
				if strings.Contains(err.Error(), "SECRET") {
					t.Errorf("the error has the address: %v", err)
				}
				return
			}
			n := got[len(got)-1]
			if n.State != "rolled_back" || n.Release.Verdict.Evidence != "" || n.Links.Pipeline == "" || len(got) != len(test.answers) {
				t.Errorf("%+v after %d tries", n, len(got))
			}
			if strings.Contains(n.Text, "<!channel>") || !strings.Contains(n.Text, "&lt;!channel&gt; &amp; more") || !strings.Contains(n.Text, "<https://gitlab.example.com/infra/deploy/-/pipelines/9|release 0123456789ab>") {
				t.Errorf("text %q", n.Text)
			}
		})
	}
	if err := Webhook(t.Context(), "hooks.example.com", event("")); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("an address without a scheme: %v", err)
	}
}

// Commands of one release, run on different machines, are one trace, and the one that ends it sends its root.
func TestTrace(t *testing.T) {
	var mu sync.Mutex
	var got []*spans.Span
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, of := range request.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				got = append(got, scope.Spans...)
			}
		}
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	if Traced() {
		t.Error("it is on without an endpoint")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	if !Traced() {
		t.Error("it is off with an endpoint")
	}
	// As in an exec of Dagger's, whose engine names a collector of its own.
	t.Setenv("OTEL_SDK_DISABLED", "true")
	if Traced() {
		t.Error("it is on though it is disabled")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
	t.Setenv("CROSSBILL_OTLP_ENDPOINT", server.URL+"/")
	if !Traced() {
		t.Error("it is off with an endpoint of its own")
	}
	first := event("")
	first.Command, first.ExitCode = "canary", 0
	for _, e := range []*Event{first, event(release.OutcomeRolledBack), {Command: "trigger", ReleaseID: "0123456789ab", Begun: begun, Ended: begun}, {Command: "status"}} {
		if err := Trace(t.Context(), "1.2.3", e); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 4 {
		t.Fatalf("%d spans", len(got))
	}
	var root *spans.Span
	ids := map[string]bool{}
	for _, s := range got {
		ids[string(s.SpanId)] = true
		if string(s.TraceId) != string(got[0].TraceId) {
			t.Errorf("%s is of another trace", s.Name)
		}
		if len(s.ParentSpanId) == 0 {
			root = s
		}
	}
	switch {
	case root == nil || root.Name != "release shop" || root.StartTimeUnixNano != uint64(begun.Add(-time.Minute).UnixNano()) || root.Status.GetCode() != spans.Status_STATUS_CODE_ERROR:
		t.Fatalf("root %v", root)
	case len(ids) != 4:
		t.Error("spans share an id")
	}
	for _, s := range got {
		if s != root && string(s.ParentSpanId) != string(root.SpanId) {
			t.Errorf("%s is not a child of the release", s.Name)
		}
	}
	if s := got[0]; s.EndTimeUnixNano-s.StartTimeUnixNano != uint64(42*time.Second) || len(s.Events) != 1 || s.Events[0].Name != "routes 100 % to primary" || s.Status.GetCode() == spans.Status_STATUS_CODE_ERROR {
		t.Errorf("the canary's span %v", s)
	}
	server.Close()
	if err := Trace(t.Context(), "1.2.3", event("")); err == nil {
		t.Error("a collector that is gone is no error")
	}
}

func TestPush(t *testing.T) {
	t.Parallel()
	got := map[string]float64{}
	var groups []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		labels := strings.Split(strings.TrimPrefix(r.URL.Path, "/metrics/"), "/")
		pairs := slices.Sorted(func(yield func(string) bool) {
			for pair := range slices.Chunk(labels, 2) {
				yield(strings.Join(pair, "="))
			}
		})
		groups = append(groups, r.Method+" "+strings.Join(pairs, " "))
		decoder := expfmt.NewDecoder(r.Body, expfmt.ResponseFormat(r.Header))
		for {
			family := new(model.MetricFamily)
			if decoder.Decode(family) != nil {
				break
			}
			got[family.GetName()] = family.GetMetric()[0].GetGauge().GetValue()
		}
	}))
	defer server.Close()
	if err := Push(t.Context(), server.URL, event(release.OutcomeRolledBack)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"PUT app=shop command=verify job=crossbill namespace=production", "POST app=shop job=crossbill namespace=production"}; !slices.Equal(groups, want) {
		t.Errorf("groups %q, want %q", groups, want)
	}
	for name, want := range map[string]float64{
		"crossbill_verb_duration_seconds": 42, "crossbill_verb_exit_code": 3, "crossbill_canary_weight_percent": 0, "crossbill_canary_requests": 194,
		"crossbill_release_duration_seconds": 102, "crossbill_release_rolled_back": 1, "crossbill_verb_last_run_timestamp_seconds": float64(begun.Unix() + 42),
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %g (%v), want %g", name, value, ok, want)
		}
	}
}
