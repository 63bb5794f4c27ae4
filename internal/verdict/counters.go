package verdict

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	"github.com/prometheus/common/model"
)

// Series is the raw value of each counter at one time, by its labels. Values only grow, except for resets.
type Series map[string]float64

// Increase is how much all counters together have grown since an earlier reading. A series that the earlier
// reading lacks started at 0, as counters do: the first error of a canary creates its series. A counter that
// fell was reset to 0.
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

// Counters are the counters of one indicator.
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

// mergeMissing adds the series that an earlier reading has and this one lacks. A failed scrape hides a series
// for a moment, and the series must not count from 0 when it is back.
func (r *Reading) mergeMissing(earlier *Reading) *Reading {
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

// lookback is how long a series counts that a failed scrape, or the end of its pod, hides.
const lookback = "1h"

// Baseline reads a workload's counters as they were last seen within an hour. A series that a failed scrape
// hides right now must not count its whole life when it is back.
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

// selector selects a workload's metric as one side of its calls reports it, last seen within span.
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
			Field:   fmt.Sprintf("analysis.objectives: latency of %s", indicator.Name),
			Problem: fmt.Sprintf("%g ms is not a bucket bound of istio_request_duration_milliseconds", bound),
			Fix:     fmt.Sprintf("give one of its bounds (in milliseconds): %v", bounds),
		}
	}
	return c, nil
}

// readQueries reads an indicator that is defined by queries.
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

// series names a series by its labels, without the metric's name: PromQL functions drop it.
func series(metric model.Metric) string {
	labels := metric.Clone()
	delete(labels, model.MetricNameLabel)
	return labels.String()
}

// grpcErrors are the gRPC status codes of server errors: UNKNOWN, DEADLINE_EXCEEDED,
// UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS
// (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/).
var grpcErrors = []string{"2", "4", "12", "13", "14", "15"}

// isError says whether a series counts server errors. Code 0 is a request without an answer.
func isError(metric model.Metric) bool {
	code := string(metric["response_code"])
	return strings.HasPrefix(code, "5") || code == "0" || slices.Contains(grpcErrors, string(metric["grpc_response_status"]))
}

// callerLeft says whether a series counts requests whose caller went away before the answer (Envoy's response
// flag DC). They say nothing about the app.
func callerLeft(metric model.Metric) bool {
	return metric["response_code"] == "0" && slices.Contains(strings.Split(string(metric["response_flags"]), ","), "DC")
}

// Requests reads all request counters of a workload, last seen within an hour, as one side of its calls reports
// them: "source" is the caller's side, "destination" its own.
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
