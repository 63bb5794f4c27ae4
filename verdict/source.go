package verdict

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/our-org/crossbill/release"
)

// Source reads Istio's standard metrics
// (https://istio.io/latest/docs/reference/config/metrics/) from a Prometheus API: the raw counters
// of one workload, as the caller's side saw them (reporter "source"). The canary's own sidecar
// cannot count what never reached it.
type Source struct {
	prometheus promv1.API
	url        string
	namespace  string
	latency    time.Duration
}

// NewSource connects nothing yet. url is Prometheus's, with the path prefix if it has one.
func NewSource(url, namespace string, latency time.Duration) (*Source, error) {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return nil, &release.InputError{Field: "--prometheus", Problem: fmt.Sprintf("%q is not a URL", url), Fix: "give for example http://prometheus.istio-system:9090"}
	}
	client, err := api.NewClient(api.Config{Address: url, Client: &http.Client{Timeout: 10 * time.Second}})
	if err != nil {
		return nil, &release.InputError{Field: "--prometheus", Problem: err.Error(), Fix: "give Prometheus's URL"}
	}
	return &Source{prometheus: promv1.NewAPI(client), url: url, namespace: namespace, latency: latency}, nil
}

// Reading is the raw counters of one workload at one time.
type Reading struct {
	At       time.Time
	Requests Series // by all labels; errors are told by the label response_code
	errors   map[string]bool
	Timed    Series // bucket +Inf
	Fast     Series // bucket of the latency threshold
}

// Read reads a workload's counters at one time. A failure is retried for a few seconds.
func (s *Source) Read(ctx context.Context, workload string, at time.Time) (*Reading, error) {
	return s.read(ctx, workload, at, "")
}

// Baseline reads a workload's counters as they were last seen within an hour: a series that a failed
// scrape hides right now must not count its whole life when it is back.
func (s *Source) Baseline(ctx context.Context, workload string, at time.Time) (*Reading, error) {
	return s.read(ctx, workload, at, "[1h]")
}

func (s *Source) read(ctx context.Context, workload string, at time.Time, span string) (*Reading, error) {
	labels := s.labels(workload)
	selector := func(metric string) string {
		if span == "" {
			return metric + `{` + labels + `}`
		}
		return `last_over_time(` + metric + `{` + labels + `}` + span + `)`
	}
	requests, err := s.query(ctx, selector("istio_requests_total"), at)
	if err != nil {
		return nil, err
	}
	r := &Reading{At: at, Requests: Series{}, errors: map[string]bool{}, Timed: Series{}, Fast: Series{}}
	for _, sample := range requests {
		key := series(sample.Metric)
		r.Requests[key] = float64(sample.Value)
		r.errors[key] = isError(string(sample.Metric["response_code"]))
	}
	buckets, err := s.query(ctx, selector("istio_request_duration_milliseconds_bucket"), at)
	if err != nil {
		return nil, err
	}
	bound := float64(s.latency) / float64(time.Millisecond)
	for _, sample := range buckets {
		le, err := strconv.ParseFloat(string(sample.Metric["le"]), 64)
		if err != nil {
			return nil, fmt.Errorf("histogram of %s has bucket le=%q", workload, sample.Metric["le"])
		}
		switch {
		case math.IsInf(le, 1):
			r.Timed[series(sample.Metric)] = float64(sample.Value)
		case le == bound:
			r.Fast[series(sample.Metric)] = float64(sample.Value)
		}
	}
	if len(r.Timed) > 0 && len(r.Fast) == 0 {
		return nil, &release.InputError{Field: "--latency-ms", Problem: fmt.Sprintf("%g is not a bucket bound of istio_request_duration_milliseconds", bound), Fix: "give one of its bounds, for example 500 or 1000"}
	}
	return r, nil
}

// series names a series by its labels: functions drop the metric's name.
func series(metric model.Metric) string {
	labels := metric.Clone()
	delete(labels, model.MetricNameLabel)
	return labels.String()
}

func (s *Source) labels(workload string) string {
	return fmt.Sprintf(`reporter="source",destination_workload=%s,destination_workload_namespace=%s`, strconv.Quote(workload), strconv.Quote(s.namespace))
}

// isError says whether a response code is a server's fault. Code 0 is a request without an answer:
// the caller went away or the connection broke.
func isError(code string) bool {
	return strings.HasPrefix(code, "5") || code == "0"
}

// Since counts the events between an earlier reading and this one.
func (r *Reading) Since(earlier *Reading) Counts {
	var c Counts
	for key, n := range r.Requests.Increase(earlier.Requests) {
		c.Requests += n
		if r.errors[key] {
			c.Errors += n
		}
	}
	for _, n := range r.Timed.Increase(earlier.Timed) {
		c.Timed += n
	}
	fast := 0.0
	for _, n := range r.Fast.Increase(earlier.Fast) {
		fast += n
	}
	c.Slow = max(0, c.Timed-fast)
	return c
}

// readBackoff bounds the attempts of one query: about 8 seconds of pauses.
var readBackoff = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 6}

// query asks for a vector, and drops nothing: NaN is an error.
func (s *Source) query(ctx context.Context, query string, at time.Time) (model.Vector, error) {
	var last error
	var vector model.Vector
	err := wait.ExponentialBackoffWithContext(ctx, readBackoff, func(ctx context.Context) (bool, error) {
		value, warnings, err := s.prometheus.Query(ctx, query, at)
		if err == nil && len(warnings) > 0 { // such as an answer of some stores only
			err = fmt.Errorf("the answer is not whole: %s", strings.Join(warnings, "; "))
		}
		if err != nil {
			last = err
			var bad *promv1.Error
			if errors.As(err, &bad) && bad.Type == promv1.ErrBadData {
				return false, err
			}
			return false, nil
		}
		result, ok := value.(model.Vector)
		if !ok {
			return false, fmt.Errorf("Prometheus answered with a %s", value.Type())
		}
		vector = result
		return true, nil
	})
	if err != nil {
		if last != nil {
			err = last
		}
		return nil, &UnreachableError{URL: s.url, Err: err}
	}
	for _, sample := range vector {
		if math.IsNaN(float64(sample.Value)) {
			return nil, fmt.Errorf("%s is NaN in Prometheus", sample.Metric)
		}
	}
	return vector, nil
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
