package notify

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/our-org/crossbill/internal/release"
)

func TestTracesConfigured(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"nothing":                           {},
		"all signals":                       {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://o"}, true},
		"traces alone":                      {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://o"}, true},
		"turned off":                        {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://o", "OTEL_SDK_DISABLED": "true"}, false},
		"Crossbill's own, in a Dagger exec": {map[string]string{"CROSSBILL_OTLP_ENDPOINT": "http://o", "OTEL_SDK_DISABLED": "true"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{"CROSSBILL_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"} {
				t.Setenv(variable, test.env[variable])
			}
			if got := TracesConfigured(); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// TestTraces: commands of one release, run on different machines, are one trace, and the one that finishes it
// sends its root.
func TestTraces(t *testing.T) {
	var mu sync.Mutex
	var got []*spans.Span
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
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
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
	t.Setenv("CROSSBILL_OTLP_ENDPOINT", server.URL+"/")
	traces, first := Traces{Version: "1.2.3"}, unhealthyCanary("")
	first.Command, first.Result, first.ExitCode = "canary", Succeeded, 0
	for _, e := range []*Event{first, unhealthyCanary(release.OutcomeRolledBack), {Command: "trigger", ReleaseID: "0123456789ab", StartedAt: started, FinishedAt: started}, {Command: "status"}} {
		if err := traces.Notify(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 4 {
		t.Fatalf("%d spans, want 4", len(got))
	}
	var root *spans.Span
	ids := map[string]bool{}
	for _, s := range got {
		ids[string(s.SpanId)] = true
		if string(s.TraceId) != string(got[0].TraceId) {
			t.Errorf("%s belongs to another trace", s.Name)
		}
		if len(s.ParentSpanId) == 0 {
			root = s
		}
	}
	switch {
	case root == nil || root.Name != "release shop" || root.StartTimeUnixNano != uint64(started.Add(-time.Minute).UnixNano()) || root.Status.GetCode() != spans.Status_STATUS_CODE_ERROR:
		t.Fatalf("root %v", root)
	case len(ids) != 4:
		t.Error("spans share an id")
	}
	for _, s := range got {
		if s != root && string(s.ParentSpanId) != string(root.SpanId) {
			t.Errorf("%s is not a child of the release", s.Name)
		}
	}
	if s := got[0]; s.EndTimeUnixNano-s.StartTimeUnixNano != uint64(42*time.Second) || len(s.Events) != 1 || s.Events[0].Name != "routes 100% to primary" || s.Status.GetCode() == spans.Status_STATUS_CODE_ERROR {
		t.Errorf("the canary's span %v", s)
	}
	server.Close()
	if err := traces.Notify(t.Context(), unhealthyCanary("")); err == nil {
		t.Error("no error of a collector that is down")
	}
}
