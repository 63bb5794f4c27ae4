package verdict

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/usererr"
)

// Source reads raw counters of a workload from Prometheus, or from another server with its API, such as Thanos,
// Mimir or VictoriaMetrics. It reads Istio's standard metrics
// (https://istio.io/latest/docs/reference/config/metrics/) as the callers' side reported them, and the user's own
// queries. A track is known by destination_workload, however it is routed to: by a subset of one Service or by a
// Service of its own.
type Source struct {
	prometheus promv1.API
	url        string
	matcher    string
	namespace  string
	service    string
	of         map[string]string // workloads by the Service that leads to them alone
	side       string            // whose reports are judged
	made       time.Time         // when the judged workload was made; see former
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
	// Tracks are workloads by the Service that leads to them alone, if they have one. Errors of such a Service are
	// the workload's. May be nil.
	Tracks     map[string]string
	Indicators []Indicator
	Transport  http.RoundTripper                // in place of the network; nil outside of tests
	Explain    func(format string, args ...any) // gets each query and its answer; may be nil
}

// maxAnswer is how many bytes an answer may have: ten minutes of all series of a large mesh.
const maxAnswer = 128 << 20

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
	if problem := matcherProblem(o.Matcher); problem != "" {
		return nil, &usererr.Error{Field: "prometheus.matcher", Problem: problem, Fix: `give label matchers as in PromQL, for example cluster="eu-1"`}
	}
	transport := o.Transport
	if transport == nil {
		var err error
		if transport, err = promconfig.NewRoundTripperFromConfig(config, "crossbill"); err != nil {
			return nil, &usererr.Error{Field: "prometheus.httpConfig", Problem: err.Error(), Fix: "check the files that it names"}
		}
	}
	client, err := api.NewClient(api.Config{Address: o.URL, Client: httpclient.NewFor(transport, 10*time.Second, maxAnswer)})
	if err != nil {
		return nil, &usererr.Error{Field: "prometheus.url", Problem: err.Error(), Fix: "give Prometheus's URL"}
	}
	s := &Source{
		prometheus: promv1.NewAPI(client), url: o.URL, matcher: o.Matcher, namespace: o.Namespace, service: o.Service, of: o.Tracks, side: callersSide,
		indicators: o.Indicators, explain: o.Explain,
	}
	return s, s.checkQueries()
}

// Copies is the source for a canary that gets copies of requests: it reads what the sidecars of both workloads report. Who
// mirrors a request reports the original alone: Envoy sends the copy by the cluster's own client, past its filters and its
// access log (envoyproxy/envoy, source/common/router/shadow_writer_impl.cc; istio/istio#11093, #23496). So no report of the
// callers' side has it, a waypoint's as little as a gateway's. Errors that reached no workload are those of callers, who
// get none of the copies' answers.
func (s *Source) Copies() *Source {
	copies := *s
	copies.side, copies.service, copies.of = ownSide, "", nil
	return &copies
}

// ScrapeInterval is how often a workload's counters are sampled, by the samples of the last ten minutes; 0 if
// there are fewer than two.
func (s *Source) ScrapeInterval(ctx context.Context, workload string, at time.Time) (time.Duration, error) {
	all, err := s.samples(ctx, s.requests(s.side, workload), 10*time.Minute, at)
	return interval(all), err
}

// Scraped is how often a workload's counters are sampled, as ScrapeInterval says, and when they were sampled last; zero if
// not in the last ten minutes.
func (s *Source) Scraped(ctx context.Context, workload string, at time.Time) (every time.Duration, last time.Time, err error) {
	all, err := s.samples(ctx, s.requests(s.side, workload), 10*time.Minute, at)
	if err != nil || len(all) == 0 {
		return 0, time.Time{}, err
	}
	return interval(all), newestOf(all).Time(), nil
}

// Late says whether counters that were sampled so long ago are too old for a verdict, at a scrape interval; 0 for unknown.
func Late(ago, every time.Duration) bool {
	limit := staleLeast
	if every > 0 {
		limit = staleScrapes * every
	}
	return ago > limit
}

// LeastDuration is how long an analysis has to be able to last, at a scrape interval.
func LeastDuration(every time.Duration) time.Duration { return 4 * every }

// interval is the usual time between two samples of a series; 0 if no series has two.
func interval(all []scraped) time.Duration {
	var gaps []time.Duration
	for _, series := range all {
		for i := 1; i < len(series.samples); i++ {
			gaps = append(gaps, series.samples[i].at.Sub(series.samples[i-1].at))
		}
	}
	if len(gaps) == 0 {
		return 0
	}
	slices.Sort(gaps)
	return gaps[len(gaps)/2]
}

// Missing says why a workload has no counters at all, as far as Prometheus knows. The cause is empty if it has
// some.
func (s *Source) Missing(ctx context.Context, workload string, at time.Time) (Cause, string) {
	const metric = "istio_requests_total"
	if s.side == ownSide {
		return s.missingCopies(ctx, workload, at)
	}
	for _, look := range []struct {
		query  string
		cause  Cause
		reason string
	}{
		{`last_over_time(` + s.requests(callersSide, workload) + `[` + lookback + `])`, "", ""},
		{s.tracks("istio_tcp_connections_opened_total", callersSide, []string{workload}), MissingLabels, "connections to " + workload + " were counted, but no requests: no proxy on the way knows its protocol. In ambient mode, requests need a waypoint; with sidecars, name the Service's port after the protocol, for example http or grpc"},
		{s.selector(metric, reportedBy(callersSide), fmt.Sprintf("destination_workload_namespace=%q", s.namespace)), NoTraffic, "no request reached " + workload + " (other workloads in its namespace were called)"},
		{s.selector(metric, reportedBy(callersSide)), NoTraffic, "no request reached " + workload + ", nor anything else in its namespace"},
		{s.selector(metric, `reporter!=""`), MissingLabels, `istio_requests_total exists, but none with reporter="source" or "waypoint": the gateway is not scraped, or its labels are dropped`},
		{s.selector(metric), MissingLabels, "istio_requests_total exists, but without Istio's labels: the scrape configuration drops them"},
	} {
		vector, err := s.query(ctx, "count("+look.query+")", at)
		if err != nil {
			return causeOf(err), err.Error()
		}
		if len(vector) > 0 {
			return look.cause, look.reason
		}
	}
	if s.matcher != "" {
		return NoTraffic, "no request reached " + workload + ": Prometheus has no istio_requests_total with " + s.matcher
	}
	return NoTraffic, "no request reached " + workload + ": Prometheus has no istio_requests_total at all, so nothing was called through the mesh, or the gateway is not scraped"
}

// missingCopies is Missing of a canary that gets copies.
func (s *Source) missingCopies(ctx context.Context, workload string, at time.Time) (Cause, string) {
	vector, err := s.query(ctx, "count(last_over_time("+s.requests(ownSide, workload)+"["+lookback+"]))", at)
	switch {
	case err != nil:
		return causeOf(err), err.Error()
	case len(vector) > 0:
		return "", ""
	}
	return NoTraffic, "the sidecar of " + workload + " has reported no request, and only a sidecar counts what is mirrored: there was none, or its pods have no sidecar, or are not scraped"
}

// selector selects a metric by matchers and by the source's own.
func (s *Source) selector(metric string, matchers ...string) string {
	if s.matcher != "" {
		matchers = append(matchers, s.matcher)
	}
	return metric + "{" + strings.Join(matchers, ",") + "}"
}

// The sides of a call that report it, as patterns of the label reporter. A caller's own proxy, or a gateway, reports
// it as "source"; a waypoint, which stands before the workload in ambient mode, as "waypoint", and then there is no
// proxy of the caller that knows requests; the workload's own sidecar as "destination" (istio/proxy,
// istio_stats.cc: ClientSidecar, ServerGateway, ServerSidecar). Istio's own dashboards read source|waypoint. Where a
// gateway calls through a waypoint (label istio.io/ingress-use-waypoint), the gateway's report names the waypoint as the workload:
// istiod gives it the waypoint's endpoints (istio/istio 1.31, pilot/pkg/xds/endpoints, findServiceWaypoint). See [once]
// for when it does not.
const (
	callersSide = "source|waypoint"
	ownSide     = "destination"
)

// reportedBy matches the reports of a side.
func reportedBy(side string) string {
	if strings.Contains(side, "|") {
		return fmt.Sprintf("reporter=~%q", side)
	}
	return fmt.Sprintf("reporter=%q", side)
}

// once leaves out the report of a caller whose calls a waypoint reports too, so that no request counts twice. That is
// the case of a gateway before a waypoint whose pods have sidecars as well, which name themselves in the answer. Only
// gateways call through waypoints as well as report, so nothing is missed, but for a workload of
// which some pods have sidecars and others are behind the waypoint: of those only the latter count.
func once(all []scraped) []scraped {
	call := func(s scraped) string {
		return strings.Join([]string{
			string(s.labels["source_workload"]), string(s.labels["source_workload_namespace"]),
			string(s.labels["destination_workload"]), string(s.labels["destination_workload_namespace"]),
		}, "\x00")
	}
	waypoint := map[string]bool{}
	for _, s := range all {
		if caller := s.labels["source_workload"]; s.labels["reporter"] == "waypoint" && caller != "" && caller != "unknown" {
			waypoint[call(s)] = true
		}
	}
	if len(waypoint) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(s scraped) bool { return s.labels["reporter"] == "source" && waypoint[call(s)] })
}

// tracks selects the metric of some workloads as one side of their calls reports it.
func (s *Source) tracks(metric, side string, workloads []string, more ...string) string {
	workload := fmt.Sprintf("destination_workload=%q", workloads[0])
	if len(workloads) > 1 {
		quoted := make([]string, len(workloads))
		for i, name := range workloads {
			quoted[i] = regexp.QuoteMeta(name)
		}
		workload = fmt.Sprintf("destination_workload=~%q", strings.Join(quoted, "|"))
	}
	return s.selector(metric, append([]string{reportedBy(side), workload, fmt.Sprintf("destination_workload_namespace=%q", s.namespace)}, more...)...)
}

// requests selects the request counters of workloads as one side of their calls reports them.
func (s *Source) requests(side string, workloads ...string) string {
	return s.tracks("istio_requests_total", side, workloads)
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

// samples reads what was scraped of a selector's series in the span before a time. Unlike the value of a series,
// its samples say when they were taken, and a scrape that fails does not hide them. Older versions of VictoriaMetrics have
// a NaN where a series ended or a scrape failed (VictoriaMetrics/VictoriaMetrics#5806).
func (s *Source) samples(ctx context.Context, selector string, span time.Duration, at time.Time) ([]scraped, error) {
	query := fmt.Sprintf("%s[%dms]", selector, span.Milliseconds())
	value, err := s.ask(ctx, query, at)
	if err != nil {
		return nil, err
	}
	matrix, ok := value.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("Prometheus answered with a %s to %s", value.Type(), query)
	}
	if s.explain != nil {
		s.explain("%s  %s", at.Format("15:04:05.000"), query)
	}
	all := make([]scraped, 0, len(matrix))
	for _, stream := range matrix {
		series := scraped{labels: stream.Metric, key: series(stream.Metric), group: target(stream.Metric)}
		for _, point := range stream.Values {
			if math.IsNaN(float64(point.Value)) {
				continue
			}
			series.samples = append(series.samples, sample{point.Timestamp, float64(point.Value)})
		}
		if len(series.samples) == 0 && len(stream.Values) > 1 { // one alone is the marker of a series that has ended
			return nil, &DataError{NotANumber, fmt.Sprintf("%s is NaN in Prometheus", stream.Metric)}
		}
		if len(series.samples) == 0 {
			continue
		}
		if newest := series.samples[len(series.samples)-1]; s.explain != nil {
			s.explain("    %s  %s = %v", newest.at.Time().Format("15:04:05.000"), series.key, newest.value)
		}
		all = append(all, series)
	}
	return all, nil
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
		if last, answer = err, value; errors.As(err, new(*httpclient.RedirectError)) {
			return false, err // it redirects again
		}
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

// fixable says whether it is the user who must do something: the name does not exist, what answers is no Prometheus
// or its certificate is not trusted, or the credentials are refused. Else it may answer in a minute.
func (e *UnreachableError) fixable() bool {
	if answer, ok := errors.AsType[*promv1.Error](e.Err); ok {
		later := strings.HasSuffix(answer.Msg, " 429") || strings.HasSuffix(answer.Msg, " 408")
		return answer.Type == promv1.ErrClient && !later || answer.Type == promv1.ErrBadResponse
	}
	if name, ok := errors.AsType[*net.DNSError](e.Err); ok {
		return name.IsNotFound
	}
	return errors.As(e.Err, new(*tls.CertificateVerificationError))
}

// DataError is the error of data that cannot be counted.
type DataError struct {
	Cause Cause
	Text  string
}

func (e *DataError) Error() string { return e.Text }

// sampledWithin is how far back the last sample of a workload is looked for.
const sampledWithin = 5 * time.Minute

// lastSample is when a workload's counters were last sampled, as one side of its calls reports them; zero if not
// within sampledWithin.
func (s *Source) lastSample(ctx context.Context, side, workload string, at time.Time) (time.Time, error) {
	all, err := s.samples(ctx, s.requests(side, workload), sampledWithin, at)
	if err != nil || len(all) == 0 {
		return time.Time{}, err
	}
	return newestOf(all).Time(), nil
}
