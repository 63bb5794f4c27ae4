package verdict

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/our-org/crossbill/internal/usererr"
)

// Source reads raw counters of a workload from Prometheus, or from another server with its API, such as Thanos,
// Mimir or VictoriaMetrics. It reads Istio's standard metrics
// (https://istio.io/latest/docs/reference/config/metrics/) as the callers reported them, and the user's own
// queries.
type Source struct {
	prometheus promv1.API
	url        string
	namespace  string
	indicators []Indicator
	explain    func(format string, args ...any) // may be nil
}

// SourceOptions say where the counters are.
type SourceOptions struct {
	URL        string // with the path prefix, if there is one
	HTTPConfig string // file with Prometheus's http_config: credentials, CA, headers; may be empty
	Matcher    string // label matchers of every query, such as cluster="eu-1"; may be empty
	Namespace  string
	Service    string // of the app, by which unattributed errors are found; may be empty
	Indicators []Indicator
	Explain    func(format string, args ...any) // gets each query and its answer; may be nil
}

// NewSource makes a source. It does not connect yet.
func NewSource(o SourceOptions) (*Source, error) {
	if !strings.HasPrefix(o.URL, "http://") && !strings.HasPrefix(o.URL, "https://") {
		return nil, &usererr.Error{Field: "prometheus.url", Problem: fmt.Sprintf("%q is not an http or https URL", o.URL), Fix: "give for example http://prometheus.istio-system:9090"}
	}
	config := promconfig.DefaultHTTPClientConfig
	if o.HTTPConfig != "" {
		loaded, _, err := promconfig.LoadHTTPConfigFile(o.HTTPConfig)
		if err != nil {
			return nil, &usererr.Error{Field: "prometheus.httpConfig", Problem: err.Error(), Fix: "give a file with Prometheus's http_config: it may have authorization, basic_auth, tls_config or http_headers"}
		}
		config = *loaded
	}
	transport, err := promconfig.NewRoundTripperFromConfig(config, "crossbill")
	if err != nil {
		return nil, &usererr.Error{Field: "prometheus.httpConfig", Problem: err.Error(), Fix: "check the files that it names"}
	}
	client, err := api.NewClient(api.Config{Address: o.URL, Client: &http.Client{Transport: transport, Timeout: 10 * time.Second}})
	if err != nil {
		return nil, &usererr.Error{Field: "prometheus.url", Problem: err.Error(), Fix: "give Prometheus's URL"}
	}
	return &Source{prometheus: promv1.NewAPI(client), url: o.URL, namespace: o.Namespace, indicators: o.Indicators, explain: o.Explain}, nil
}

// ScrapeInterval is how often a workload's counters are sampled, by the samples of the last ten minutes; 0 if
// there are fewer than two.
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

// Missing says why a workload has no counters at all, as far as Prometheus knows. The cause is empty if it has
// some.
func (s *Source) Missing(ctx context.Context, workload string, at time.Time) (Cause, string) {
	for _, look := range []struct {
		query  string
		cause  Cause
		reason string
	}{
		{s.selector("istio_requests_total", "source", workload, lookback), "", ""},
		{`istio_requests_total{reporter="source",` + fmt.Sprintf("destination_workload_namespace=%q}", s.namespace), NoTraffic, "no request reached " + workload + " (other workloads in its namespace were called)"},
		{`istio_requests_total{reporter="source"}`, NoTraffic, "no request reached " + workload + ", nor anything else in its namespace"},
		{`istio_requests_total{reporter!="source"}`, MissingLabels, `istio_requests_total exists, but none with reporter="source": the gateway is not scraped, or its labels are dropped`},
		{`istio_requests_total`, MissingLabels, "istio_requests_total exists, but without Istio's labels: the scrape configuration drops them"},
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

// readBackoff bounds the attempts of one query to about 8 seconds of pauses.
var readBackoff = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 6}

// query asks for a vector. NaN is an error.
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

// ask evaluates a query. It retries until readBackoff is used up; a query that Prometheus rejects is bad input
// at once.
func (s *Source) ask(ctx context.Context, query string, at time.Time) (model.Value, error) {
	var last error
	var answer model.Value
	err := wait.ExponentialBackoffWithContext(ctx, readBackoff, func(ctx context.Context) (bool, error) {
		value, warnings, err := s.prometheus.Query(ctx, query, at)
		if err == nil && len(warnings) > 0 { // for example, only some of the stores answered
			err = fmt.Errorf("the answer is incomplete: %s", strings.Join(warnings, "; "))
		}
		var rejected *promv1.Error
		if errors.As(err, &rejected) && rejected.Type == promv1.ErrBadData {
			return false, &usererr.Error{Field: "analysis.objectives: query " + query, Problem: rejected.Msg, Fix: "fix the query of that objective"}
		}
		last, answer = err, value
		return err == nil, nil
	})
	switch {
	case err == nil, errors.As(err, new(*usererr.Error)):
		return answer, err
	case last != nil:
		err = last
	}
	return nil, &UnreachableError{URL: s.url, Err: err}
}

// UnreachableError is the error of a Prometheus that did not answer.
type UnreachableError struct {
	URL string
	Err error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("Prometheus at %s does not answer: %s", e.URL, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// DataError is the error of data that cannot be counted.
type DataError struct {
	Cause Cause
	Text  string
}

func (e *DataError) Error() string { return e.Text }
