package verdict

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
)

// A workload is quiet if its counters were sampled quietSamples times over quietFor without an increase. A
// workload without counters, which was never seen to be called, is quiet after unseenFor.
const (
	quietSamples = 3
	quietFor     = 3 * time.Second
	unseenFor    = 10 * time.Second
)

// Quiet waits until nobody calls a workload. It fails if that cannot be shown before ctx ends. It goes by the
// times of Prometheus's samples, so reading one scrape twice does not count twice; each proxy that calls the
// workload must have been sampled. Reads that fail are repeated.
//
// All reporters are read: the callers' proxies, the waypoint, and the workload's own sidecar, which alone sees callers
// whose proxies know no requests. What that one has of callers outside the mesh is left out: nobody drains them, and
// a Prometheus that scrapes the app is one of them.
//
// A request counts when it ends, so an open stream is seen by its messages only: Istio counts those of gRPC
// while they flow. A WebSocket, or a stream that is silent, is not seen. It ends when its pod does.
func (s *Source) Quiet(ctx context.Context, workload string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	q := quiet{start: time.Now()}
	var failed error
	for {
		now := time.Now()
		samples, err := s.calls(ctx, workload, func(selector string) ([]scraped, error) { return s.samples(ctx, selector, 2*time.Minute, now) })
		if err == nil && q.started() {
			failed = nil
			if q.add(samples, now) {
				return nil
			}
		} else if err == nil {
			var seen []scraped
			if seen, err = s.calls(ctx, workload, func(selector string) ([]scraped, error) { return s.last(ctx, selector, now) }); err == nil {
				q.begin(seen, samples, now)
			}
		}
		if err != nil {
			failed = err
		}
		select {
		case <-ctx.Done():
			if failed != nil {
				return failed
			}
			return fmt.Errorf("%s was called until the deadline, or its counters were not sampled: %w", workload, ctx.Err())
		case <-tick.C:
		}
	}
}

// calls reads all that shows calls of a workload: requests that end, and messages of gRPC streams that are open.
func (s *Source) calls(ctx context.Context, workload string, read func(selector string) ([]scraped, error)) (all []scraped, err error) {
	for _, metric := range []string{"istio_requests_total", "istio_request_messages_total", "istio_response_messages_total"} {
		for _, selector := range []string{
			s.tracks(metric, callersSide, []string{workload}),
			s.tracks(metric, ownSide, []string{workload}, `source_workload!="unknown"`),
		} {
			read, err := read(selector)
			if err != nil {
				return nil, err
			}
			for i := range read {
				read[i].key = metric + read[i].key
			}
			all = append(all, read...)
		}
	}
	return all, ctx.Err()
}

// quiet counts the samples since the last increase.
type quiet struct {
	start   time.Time
	meter   meter
	grown   float64
	first   model.Time // sample after which nothing increased
	newest  model.Time
	samples int
}

func (q *quiet) started() bool { return q.meter.counters != nil }

func (q *quiet) begin(seen, all []scraped, now time.Time) {
	q.meter.begin(seen, all, model.TimeFromUnixNano(now.UnixNano()), q.horizon(all))
	q.first, q.newest, q.samples = newestOf(all), newestOf(all), 1
}

func (q *quiet) horizon(all []scraped) time.Duration { return 3*interval(all) + 5*time.Second }

// add adds a reading and says whether the workload is quiet.
func (q *quiet) add(all []scraped, now time.Time) bool {
	if len(q.meter.counters) == 0 && len(all) == 0 {
		return now.Sub(q.start) >= unseenFor
	}
	at, horizon := model.TimeFromUnixNano(now.UnixNano()), q.horizon(all)
	var live []scraped // a proxy that has gone calls nobody
	newest := newestOf(all)
	for _, s := range all {
		if newest.Sub(s.newest()) <= horizon {
			live = append(live, s)
		}
	}
	q.meter.take(live, at, horizon)
	grown := 0.0
	for _, c := range q.meter.counters {
		grown += c.grown
	}
	sampled := q.meter.from
	if grown > q.grown || q.first == 0 {
		q.grown, q.first, q.newest, q.samples = grown, max(sampled, newest), max(sampled, newest), 1
		return false
	}
	if sampled > q.newest {
		q.newest = sampled
		q.samples++
	}
	return q.samples >= quietSamples && q.newest.Sub(q.first) >= quietFor
}
