package notify

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/our-org/crossbill/internal/httpclient"
)

// endpointVariable names a collector and wins over OpenTelemetry's own variables: for where somebody else sets
// those for each process, as Dagger's engine does.
const endpointVariable = "CROSSBILL_OTLP_ENDPOINT"

// TracesConfigured says whether a collector is named: by CROSSBILL_OTLP_ENDPOINT, or by OpenTelemetry's standard
// variables (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
func TracesConfigured() bool {
	return os.Getenv(endpointVariable) != "" || os.Getenv("OTEL_SDK_DISABLED") != "true" && cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) != ""
}

// Traces sends OpenTelemetry spans by OTLP over HTTP to the collector that TracesConfigured looks for.
type Traces struct {
	Version string // of Crossbill
}

// Notify sends the command as a span of its release's trace, with its steps as span events; and when it finished
// the release, the span of the whole release as well.
func (t Traces) Notify(ctx context.Context, e *Event) error {
	if e.ReleaseID == "" {
		return nil
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "crossbill"), attribute.String("service.version", t.Version)), resource.WithFromEnv())
	if err != nil {
		return fmt.Errorf("traces: %w", err)
	}
	if err := export(ctx, spansOf(ctx, about, e)); err != nil {
		return fmt.Errorf("traces: %w", withoutURL(err))
	}
	return nil
}

// spansOf are the spans of an event.
func spansOf(ctx context.Context, about *resource.Resource, e *Event) []sdktrace.ReadOnlySpan {
	root := rootSpanContext(e.ReleaseID)
	finished := &spanCollector{}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(finished), sdktrace.WithResource(about), sdktrace.WithIDGenerator(rootIDs{root}), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	tracer := provider.Tracer("crossbill")
	attributes := []attribute.KeyValue{
		attribute.String("crossbill.app", e.App), attribute.String("crossbill.namespace", e.Namespace), attribute.String("crossbill.release", e.ReleaseID), attribute.String("crossbill.state", e.State()),
	}
	if e.Release != nil {
		attributes = append(attributes, attribute.String("crossbill.digest", e.Release.Digest()), attribute.String("vcs.ref.head.revision", e.Release.Commit))
	}
	_, span := tracer.Start(trace.ContextWithRemoteSpanContext(ctx, root), e.Command, trace.WithTimestamp(e.StartedAt), trace.WithAttributes(attributes...), trace.WithAttributes(attribute.Int("process.exit.code", e.ExitCode)))
	for _, step := range e.Steps {
		span.AddEvent(step.Message, trace.WithTimestamp(step.At), trace.WithAttributes(attribute.String("crossbill.object", step.Object)))
	}
	if e.ExitCode != 0 {
		span.SetStatus(codes.Error, e.Message)
	}
	span.End(trace.WithTimestamp(e.FinishedAt))
	if e.Outcome != "" && e.Release != nil {
		_, whole := tracer.Start(ctx, "release "+e.App, trace.WithNewRoot(), trace.WithTimestamp(e.Release.StartedAt), trace.WithAttributes(attributes...))
		if !e.Outcome.Good() && e.SupersededBy == "" {
			whole.SetStatus(codes.Error, e.Release.Reason)
		}
		whole.End(trace.WithTimestamp(e.FinishedAt))
	}
	return finished.spans
}

// export sends spans to the collector.
func export(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	// Headers, which may hold a token, and certificates come from the environment: a client of ours would not have them.
	options := []otlptracehttp.Option{otlptracehttp.WithProxy(httpclient.Proxy)}
	if endpoint := os.Getenv(endpointVariable); endpoint != "" {
		options = append(options, otlptracehttp.WithEndpointURL(strings.TrimSuffix(endpoint, "/")+"/v1/traces"))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return err
	}
	err = exporter.ExportSpans(ctx, spans)
	return errors.Join(err, exporter.Shutdown(ctx))
}

// rootSpanContext is a release's place in its trace: the trace, and the span that all others are children of.
// Both ids are derived from the release's id alone, so that GitHub's run, GitLab's jobs and a laptop add to one
// trace without passing anything on.
func rootSpanContext(releaseID string) trace.SpanContext {
	sum := sha256.Sum256([]byte("crossbill release " + releaseID))
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(sum[:16]), SpanID: trace.SpanID(sum[16:24]), TraceFlags: trace.FlagsSampled, Remote: true,
	})
}

// rootIDs gives the release's span its own ids, and random ones to every other span.
type rootIDs struct {
	root trace.SpanContext
}

func (r rootIDs) NewIDs(context.Context) (trace.TraceID, trace.SpanID) {
	return r.root.TraceID(), r.root.SpanID()
}

func (rootIDs) NewSpanID(context.Context, trace.TraceID) trace.SpanID {
	var id trace.SpanID
	rand.Read(id[:]) // never fails
	return id
}

// spanCollector keeps finished spans, so that they are sent together and an error can be reported.
type spanCollector struct{ spans []sdktrace.ReadOnlySpan }

func (*spanCollector) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (c *spanCollector) OnEnd(span sdktrace.ReadOnlySpan)              { c.spans = append(c.spans, span) }
func (*spanCollector) Shutdown(context.Context) error                  { return nil }
func (*spanCollector) ForceFlush(context.Context) error                { return nil }
