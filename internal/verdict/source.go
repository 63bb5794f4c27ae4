package verdict

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Source reads raw counters of one workload from Prometheus, or from what answers its API as Thanos, Mimir
// and VictoriaMetrics do: Istio's standard metrics
// (https://istio.io/latest/docs/reference/config/metrics/) as the caller's side saw them, and queries of
// the user's own.
type Source struct {
	prometheus promv1.API
	url        string
	namespace  string
	indicators []Indicator
	explain    func(format string, args ...any) // may be nil
}

// SourceOptions say where the counters are.
type SourceOptions struct {
	URL        string // with the path prefix if there is one
	HTTPConfig string // file in the form of Prometheus's http_config: credentials, CA, headers; may be empty
	Namespace  string
	Indicators []Indicator
	Explain    func(format string, args ...any) // is told each query with its answer; may be nil
}

// NewSource connects nothing yet.
func NewSource(o SourceOptions) (*Source, error) {
	if !strings.HasPrefix(o.URL, "http://") && !strings.HasPrefix(o.URL, "https://") {
		return nil, &usererr.Error{Field: "--prometheus", Problem: fmt.Sprintf("%q is not a URL", o.URL), Fix: "give for example http://prometheus.istio-system:9090"}
	}
	config := promconfig.DefaultHTTPClientConfig
	if o.HTTPConfig != "" {
		loaded, _, err := promconfig.LoadHTTPConfigFile(o.HTTPConfig)
		if err != nil {
			return nil, &usererr.Error{Field: "--prometheus-config", Problem: err.Error(), Fix: "give a file in the form of Prometheus's http_config, with authorization, basic_auth, tls_config or http_headers"}
		}
		config = *loaded
	}
	transport, err := promconfig.NewRoundTripperFromConfig(config, "crossbill")
	if err != nil {
		return nil, &usererr.Error{Field: "--prometheus-config", Problem: err.Error(), Fix: "check the files that it names"}
	}
	client, err := api.NewClient(api.Config{Address: o.URL, Client: &http.Client{Transport: transport, Timeout: 10 * time.Second}})
	if err != nil {
		return nil, &usererr.Error{Field: "--prometheus", Problem: err.Error(), Fix: "give Prometheus's URL"}
	}
	return &Source{prometheus: promv1.NewAPI(client), url: o.URL, namespace: o.Namespace, indicators: o.Indicators, explain: o.Explain}, nil
}

// Series is the raw value of each counter at one time, by its labels. Values only grow, but for resets.
type Series map[string]float64

// Increase is by how much the counters have grown from an earlier reading, all together. A series that was
// not there before started at 0, as a counter does: the first error of a canary is born with its series. A
// counter that fell was reset and started at 0 again.
func (s Series) Increase(earlier Series) float64 {
	grown := 0.0
	for key, value := range s {
		before := earlier[key]
		if value < before {
			before = 0
		}
		grown += value - before
	}
	return math.Round(grown)
}

// Counters are one indicator's.
type Counters struct{ Total, Good Series }

// Reading is the raw counters of one workload at one time, for each indicator.
type Reading struct {
	Counters []Counters
}

// Since counts the events between an earlier reading and this one, for each indicator.
func (r *Reading) Since(earlier *Reading) []Tally {
	tallies := make([]Tally, len(r.Counters))
	for i, c := range r.Counters {
		total, good := c.Total.Increase(earlier.Counters[i].Total), c.Good.Increase(earlier.Counters[i].Good)
		tallies[i] = Tally{Events: total, Bad: max(0, total-good)} // good may be sampled a moment later than total
	}
	return tallies
}

// over keeps what an earlier reading knew and this one lacks: a series that a failed scrape hides for
// a moment must not count from 0 when it is back.
func (r *Reading) over(earlier *Reading) *Reading {
	for i, c := range earlier.Counters {
		for _, pair := range []struct{ now, before Series }{{r.Counters[i].Total, c.Total}, {r.Counters[i].Good, c.Good}} {
			for key, value := range pair.before {
				if _, ok := pair.now[key]; !ok {
					pair.now[key] = value
				}
			}
		}
	}
	return r
}

// Read reads a workload's counters at one time. A failure is retried for a few seconds.
func (s *Source) Read(ctx context.Context, workload string, at time.Time) (*Reading, error) {
	return s.read(ctx, workload, at, "")
}

// lookback is how long a series is known that a failed scrape, or the end of its pod, hides.
const lookback = "1h"

// Baseline reads a workload's counters as they were last seen within an hour: a series that a failed
// scrape hides right now must not count its whole life when it is back.
func (s *Source) Baseline(ctx context.Context, workload string, at time.Time) (*Reading, error) {
	return s.read(ctx, workload, at, lookback)
}

func (s *Source) read(ctx context.Context, workload string, at time.Time, span string) (*Reading, error) {
	r := &Reading{}
	for _, indicator := range s.indicators {
		var counters Counters
		var err error
		switch {
		case indicator.Total != "":
			counters, err = s.readQueries(ctx, indicator, workload, at)
		case indicator.Latency != nil:
			counters, err = s.readLatency(ctx, indicator, workload, at, span)
		default:
			counters, err = s.readAvailability(ctx, workload, at, span)
		}
		if err != nil {
			return nil, err
		}
		r.Counters = append(r.Counters, counters)
	}
	return r, nil
}

// selector is a metric of a workload as one side of its calls reports it, and as it was last seen within span.
func (s *Source) selector(metric, reporter, workload, span string) string {
	plain := fmt.Sprintf(`%s{reporter=%q,destination_workload=%q,destination_workload_namespace=%q}`, metric, reporter, workload, s.namespace)
	if span == "" {
		return plain
	}
	return `last_over_time(` + plain + `[` + span + `])`
}

func (s *Source) readAvailability(ctx context.Context, workload string, at time.Time, span string) (Counters, error) {
	requests, err := s.query(ctx, s.selector("istio_requests_total", "source", workload, span), at)
	if err != nil {
		return Counters{}, err
	}
	c := Counters{Series{}, Series{}}
	for _, sample := range requests {
		if callerLeft(sample.Metric) {
			continue
		}
		key := series(sample.Metric)
		c.Total[key] = float64(sample.Value)
		if !isError(sample.Metric) {
			c.Good[key] = float64(sample.Value)
		}
	}
	return c, nil
}

func (s *Source) readLatency(ctx context.Context, indicator Indicator, workload string, at time.Time, span string) (Counters, error) {
	buckets, err := s.query(ctx, s.selector("istio_request_duration_milliseconds_bucket", "source", workload, span), at)
	if err != nil {
		return Counters{}, err
	}
	c := Counters{Series{}, Series{}}
	bound := float64(indicator.Latency.Duration) / float64(time.Millisecond)
	var bounds []float64
	for _, sample := range buckets {
		le, err := strconv.ParseFloat(string(sample.Metric["le"]), 64)
		if err != nil {
			return Counters{}, fmt.Errorf("histogram of %s has bucket le=%q", workload, sample.Metric["le"])
		}
		switch {
		case math.IsInf(le, 1):
			c.Total[series(sample.Metric)] = float64(sample.Value)
		case le == bound:
			c.Good[series(sample.Metric)] = float64(sample.Value)
		}
		if !math.IsInf(le, 1) && !slices.Contains(bounds, le) {
			bounds = append(bounds, le)
		}
	}
	if len(c.Total) > 0 && len(c.Good) == 0 {
		slices.Sort(bounds)
		return Counters{}, &usererr.Error{
			Field:   fmt.Sprintf("objective %s: latency", indicator.Name),
			Problem: fmt.Sprintf("%g ms is not a bucket bound of istio_request_duration_milliseconds", bound),
			Fix:     fmt.Sprintf("give one of its bounds, in milliseconds: %v", bounds),
		}
	}
	return c, nil
}

// readQueries reads an indicator of the user's own.
func (s *Source) readQueries(ctx context.Context, indicator Indicator, workload string, at time.Time) (Counters, error) {
	c := Counters{Series{}, Series{}}
	for _, side := range []struct {
		query string
		into  Series
	}{{indicator.Total, c.Total}, {indicator.Good, c.Good}} {
		quoted := func(name string) string { return strings.Trim(strconv.Quote(name), `"`) }
		query := strings.NewReplacer("$workload", quoted(workload), "$namespace", quoted(s.namespace)).Replace(side.query)
		vector, err := s.query(ctx, query, at)
		if err != nil {
			return Counters{}, fmt.Errorf("objective %s: %w", indicator.Name, err)
		}
		for _, sample := range vector {
			side.into[series(sample.Metric)] = float64(sample.Value)
		}
	}
	return c, nil
}

// series names a series by its labels: functions drop the metric's name.
func series(metric model.Metric) string {
	labels := metric.Clone()
	delete(labels, model.MetricNameLabel)
	return labels.String()
}

// grpcErrors are the gRPC status codes that a server is to blame for: UNKNOWN, DEADLINE_EXCEEDED,
// UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS
// (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/).
var grpcErrors = []string{"2", "4", "12", "13", "14", "15"}

// isError says whether a series counts a server's faults. Code 0 is a request without an answer.
func isError(metric model.Metric) bool {
	code := string(metric["response_code"])
	return strings.HasPrefix(code, "5") || code == "0" || slices.Contains(grpcErrors, string(metric["grpc_response_status"]))
}

// callerLeft says whether a series counts requests whose caller went away before there was an answer
// (Envoy's response flag DC), which says nothing of the app.
func callerLeft(metric model.Metric) bool {
	return metric["response_code"] == "0" && slices.Contains(strings.Split(string(metric["response_flags"]), ","), "DC")
}

// ScrapeInterval is how often a workload's counters are sampled, from the times of the samples of the last
// ten minutes; 0 when there are fewer than two.
func (s *Source) ScrapeInterval(ctx context.Context, workload string, at time.Time) (time.Duration, error) {
	value, err := s.ask(ctx, s.selector("istio_requests_total", "source", workload, "")+"[10m]", at)
	if err != nil {
		return 0, err
	}
	matrix, ok := value.(model.Matrix)
	if !ok {
		return 0, fmt.Errorf("Prometheus answered with a %s", value.Type())
	}
	var gaps []time.Duration
	for _, stream := range matrix {
		for i := 1; i < len(stream.Values); i++ {
			gaps = append(gaps, stream.Values[i].Timestamp.Sub(stream.Values[i-1].Timestamp))
		}
	}
	if len(gaps) == 0 {
		return 0, nil
	}
	slices.Sort(gaps)
	return gaps[len(gaps)/2], nil
}

// Missing says why a workload has no counters at all, as far as Prometheus knows.
func (s *Source) Missing(ctx context.Context, workload string, at time.Time) (Cause, string) {
	for _, look := range []struct {
		query  string
		cause  Cause
		reason string
	}{
		{s.selector("istio_requests_total", "source", workload, lookback), "", ""},
		{`istio_requests_total{reporter="source",` + fmt.Sprintf("destination_workload_namespace=%q}", s.namespace), NoTraffic, "no request reached " + workload + " (other workloads of its namespace have been called)"},
		{`istio_requests_total{reporter="source"}`, NoTraffic, "no request reached " + workload + ", nor anything else of its namespace"},
		{`istio_requests_total{reporter!="source"}`, MissingLabels, `there is istio_requests_total, but none with reporter="source": the gateway is not scraped, or its labels are dropped`},
		{`istio_requests_total`, MissingLabels, "there is istio_requests_total, but without Istio's labels: they are dropped when it is scraped"},
	} {
		vector, err := s.query(ctx, "count("+look.query+")", at)
		if err != nil {
			return PrometheusDown, err.Error()
		}
		if len(vector) > 0 {
			return look.cause, look.reason
		}
	}
	return NoTraffic, "no request reached " + workload + ": Prometheus has no istio_requests_total at all, so nothing was called through the mesh, or the gateway is not scraped"
}

// Requests reads all of a workload's request counters, as they were last seen within an hour, as one side of
// its calls reports them: "source" is the caller's, "destination" its own.
func (s *Source) Requests(ctx context.Context, reporter, workload string, at time.Time) (Series, error) {
	vector, err := s.query(ctx, s.selector("istio_requests_total", reporter, workload, lookback), at)
	if err != nil {
		return nil, err
	}
	all := Series{}
	for _, sample := range vector {
		all[series(sample.Metric)] = float64(sample.Value)
	}
	return all, nil
}

// readBackoff bounds the attempts of one query: about 8 seconds of pauses.
var readBackoff = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 6}

// query asks for a vector, and drops nothing: NaN is an error.
func (s *Source) query(ctx context.Context, query string, at time.Time) (model.Vector, error) {
	value, err := s.ask(ctx, query, at)
	if err != nil {
		return nil, err
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("Prometheus answered with a %s to %s", value.Type(), query)
	}
	if s.explain != nil {
		s.explain("%s  %s", at.Format("15:04:05.000"), query)
	}
	for _, sample := range vector {
		if s.explain != nil {
			s.explain("    %s  %s = %v", sample.Timestamp.Time().Format("15:04:05.000"), series(sample.Metric), sample.Value)
		}
		if math.IsNaN(float64(sample.Value)) {
			return nil, &DataError{NotANumber, fmt.Sprintf("%s is NaN in Prometheus", sample.Metric)}
		}
	}
	return vector, nil
}

func (s *Source) ask(ctx context.Context, query string, at time.Time) (model.Value, error) {
	var last error
	var answer model.Value
	err := wait.ExponentialBackoffWithContext(ctx, readBackoff, func(ctx context.Context) (bool, error) {
		value, warnings, err := s.prometheus.Query(ctx, query, at)
		if err == nil && len(warnings) > 0 { // such as an answer of some stores only
			err = fmt.Errorf("the answer is not whole: %s", strings.Join(warnings, "; "))
		}
		if err != nil {
			last = err
			var bad *promv1.Error
			if errors.As(err, &bad) && bad.Type == promv1.ErrBadData {
				return false, &usererr.Error{Field: "query " + query, Problem: bad.Msg, Fix: "correct it in the SLO file"}
			}
			return false, nil
		}
		answer = value
		return true, nil
	})
	if errors.As(err, new(*usererr.Error)) {
		return nil, err
	}
	if err != nil {
		if last != nil {
			err = last
		}
		return nil, &UnreachableError{URL: s.url, Err: err}
	}
	return answer, nil
}

// UnreachableError says that Prometheus did not answer.
type UnreachableError struct {
	URL string
	Err error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("Prometheus at %s does not answer: %s", e.URL, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// DataError says that what Prometheus has cannot be counted.
type DataError struct {
	Cause Cause
	Text  string
}

func (e *DataError) Error() string { return e.Text }
