package notify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// endpointVariable names a collector before OpenTelemetry's own variables do: for where somebody else sets
// those for each process, as Dagger's engine does.
const endpointVariable = "CROSSBILL_OTLP_ENDPOINT"

// Traced says whether a collector is named: by CROSSBILL_OTLP_ENDPOINT, or by OpenTelemetry's standard variables
// (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
func Traced() bool {
	return os.Getenv(endpointVariable) != "" || os.Getenv("OTEL_SDK_DISABLED") != "true" && cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) != ""
}

// SpanContext is a release's place in its trace: the trace, and the span that all others are children of. Both
// ids are made of the release's id alone, so that GitHub's run, GitLab's jobs and a laptop add to one trace
// without handing anything on.
func SpanContext(releaseID string) trace.SpanContext {
	sum := sha256.Sum256([]byte("crossbill release " + releaseID))
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(sum[:16]), SpanID: trace.SpanID(sum[16:24]), TraceFlags: trace.FlagsSampled, Remote: true,
	})
}

// rootIDs gives the release's span its own ids, and random ones to every other.
type rootIDs struct {
	root trace.SpanContext
}

func (r rootIDs) NewIDs(context.Context) (trace.TraceID, trace.SpanID) {
	return r.root.TraceID(), r.root.SpanID()
}

func (r rootIDs) NewSpanID(context.Context, trace.TraceID) trace.SpanID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", r.root.SpanID(), os.Getpid(), time.Now().UnixNano()))
	return trace.SpanID(sum[:8])
}

// Trace sends a command as a span of its release's trace, with what it did as span events; and when it ended the
// release, the span of the whole release; by OTLP over HTTP, to where Traced's variables say.
func Trace(ctx context.Context, version string, e *Event) error {
	if e.ReleaseID == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var where []otlptracehttp.Option
	if endpoint := os.Getenv(endpointVariable); endpoint != "" {
		where = append(where, otlptracehttp.WithEndpointURL(strings.TrimSuffix(endpoint, "/")+"/v1/traces"))
	}
	exporter, err := otlptracehttp.New(ctx, where...)
	if err != nil {
		return fmt.Errorf("OpenTelemetry: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "crossbill"), attribute.String("service.version", version)), resource.WithFromEnv())
	if err != nil {
		return fmt.Errorf("OpenTelemetry: %w", err)
	}
	root := SpanContext(e.ReleaseID)
	ended := &collected{}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(ended), sdktrace.WithResource(about), sdktrace.WithIDGenerator(rootIDs{root}), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	tracer := provider.Tracer("crossbill")
	attributes := []attribute.KeyValue{
		attribute.String("crossbill.app", e.App), attribute.String("crossbill.namespace", e.Namespace), attribute.String("crossbill.release", e.ReleaseID), attribute.String("crossbill.state", e.State()),
	}
	if e.Release != nil {
		attributes = append(attributes, attribute.String("crossbill.digest", e.Release.Digest()), attribute.String("vcs.ref.head.revision", e.Release.Commit))
	}
	_, span := tracer.Start(trace.ContextWithRemoteSpanContext(ctx, root), e.Command, trace.WithTimestamp(e.Begun), trace.WithAttributes(attributes...), trace.WithAttributes(attribute.Int("process.exit.code", e.ExitCode)))
	for _, step := range e.Steps {
		span.AddEvent(step.Message, trace.WithTimestamp(step.At), trace.WithAttributes(attribute.String("crossbill.object", step.Object)))
	}
	if e.ExitCode != 0 {
		span.SetStatus(codes.Error, e.Message)
	}
	span.End(trace.WithTimestamp(e.Ended))
	if e.Outcome != "" && e.Release != nil {
		_, whole := tracer.Start(ctx, "release "+e.App, trace.WithNewRoot(), trace.WithTimestamp(e.Release.StartedAt), trace.WithAttributes(attributes...))
		if !e.Outcome.Good() {
			whole.SetStatus(codes.Error, e.Release.Reason)
		}
		whole.End(trace.WithTimestamp(e.Ended))
	}
	err = exporter.ExportSpans(ctx, ended.spans)
	if stopping := exporter.Shutdown(ctx); err == nil {
		err = stopping
	}
	if err != nil {
		return fmt.Errorf("OpenTelemetry: %w", err)
	}
	return nil
}

// collected keeps spans that have ended, to be sent together, where an error can be told.
type collected struct{ spans []sdktrace.ReadOnlySpan }

func (*collected) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (c *collected) OnEnd(span sdktrace.ReadOnlySpan)              { c.spans = append(c.spans, span) }
func (*collected) Shutdown(context.Context) error                  { return nil }
func (*collected) ForceFlush(context.Context) error                { return nil }
