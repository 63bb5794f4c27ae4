package verdict

import (
	"context"
	"fmt"
	"math"
	"strconv"
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

// Prometheus is asked for new samples every readEvery, and up to every readOften where they come often: the last one that
// is needed is seen soon after its scrape.
const (
	readEvery = time.Second
	readOften = 250 * time.Millisecond
)

// Quiet waits until nobody calls a workload. It fails if that cannot be shown before ctx ends. It goes by the
// times of Prometheus's samples, so reading one scrape twice does not count twice; each proxy that calls the
// workload must have been sampled. Reads that fail are repeated.
//
// All reporters are read: the callers' proxies, the waypoint, and the workload's own sidecar, which alone sees callers
// whose proxies know no requests. What that one has of callers outside the mesh is left out: nobody drains them, and
// a Prometheus that scrapes the app is one of them.
//
// A request counts when it ends. So nothing shows a stream that is open (gRPC, WebSocket, server-sent events), and one
// that ends looks like a call. But it took longer than Quiet has waited, so it began before: see [ended]. The open ones
// end with their pods.
func (s *Source) Quiet(ctx context.Context, workload string) error {
	pace := readEvery
	tick := time.NewTicker(pace)
	defer tick.Stop()
	q, e := quiet{start: time.Now(), still: quietFor}, ended{}
	var failed error
	for {
		now := time.Now()
		done, err := s.requestsRest(ctx, &q, workload, now)
		if err == nil && !done && now.Sub(q.start) >= unseenFor {
			done, err = s.onlyStreamsEnd(ctx, e, workload, now.Sub(q.start), now)
		}
		if done {
			return nil
		}
		if err != nil {
			failed = err
		} else if q.started() {
			failed = nil
		}
		if next := q.pace(); next != pace {
			pace = next
			tick.Reset(pace)
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

// requestsRest takes one more reading of the requests that have ended, and says whether there have been none for long
// enough.
func (s *Source) requestsRest(ctx context.Context, q *quiet, workload string, now time.Time) (bool, error) {
	samples, err := s.calls(ctx, "istio_requests_total", workload, now, s.recently)
	if err != nil {
		return false, err
	}
	if q.started() {
		return q.add(samples, now), nil
	}
	seen, err := s.calls(ctx, "istio_requests_total", workload, now, s.last)
	if err == nil {
		q.begin(seen, samples, now)
	}
	return false, err
}

// ended follows the requests that took no longer than each bound of Istio's histogram from which a request may be a
// stream, in milliseconds.
type ended map[float64]*quiet

// atLeast is the first bound that is not below a time; 0 if there is none.
func (e ended) atLeast(d time.Duration) (bound float64) {
	for one := range e {
		if one >= float64(d)/float64(time.Millisecond) && (bound == 0 || one < bound) {
			bound = one
		}
	}
	return bound
}

// onlyStreamsEnd takes one more reading of the histograms, and says whether all that has ended for a while took longer
// than was waited: it is what started before. Where the histograms are dropped, nothing says so.
func (s *Source) onlyStreamsEnd(ctx context.Context, e ended, workload string, waited time.Duration, now time.Time) (bool, error) {
	all, err := s.calls(ctx, "istio_request_duration_milliseconds_bucket", workload, now, s.recently)
	if err != nil {
		return false, err
	}
	of := map[float64][]scraped{}
	for _, one := range all {
		le, err := strconv.ParseFloat(string(one.labels["le"]), 64)
		if err == nil && le >= 1000*unseenFor.Seconds() && !math.IsInf(le, 1) {
			of[le] = append(of[le], one)
		}
	}
	rest := map[float64]bool{}
	for le, series := range of {
		if e[le] == nil {
			e[le] = &quiet{start: now, still: quietFor + 2*histogramLag}
			e[le].begin(nil, series, now)
			continue
		}
		rest[le] = e[le].add(series, now)
	}
	return rest[e.atLeast(waited)], nil
}

// histogramLag is how much later than its counters Envoy brings its histograms up to date, at most
// (stats_flush_interval, which Istio leaves at 5 s). So a gap between two calls may look that much longer, at both ends.
const histogramLag = 5 * time.Second

// recently reads what was scraped of a selector in the last two minutes.
func (s *Source) recently(ctx context.Context, selector string, at time.Time) ([]scraped, error) {
	return s.samples(ctx, selector, 2*time.Minute, at)
}

// calls reads a metric of the calls to a workload, of all who know who calls.
func (s *Source) calls(ctx context.Context, metric, workload string, at time.Time, read func(context.Context, string, time.Time) ([]scraped, error)) (all []scraped, err error) {
	for _, selector := range []string{
		s.tracks(metric, callersSide, []string{workload}),
		s.tracks(metric, ownSide, []string{workload}, `source_workload!="unknown"`),
	} {
		found, err := read(ctx, selector, at)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// quiet counts the samples since the last increase.
type quiet struct {
	start   time.Time
	still   time.Duration // for how long nothing may increase
	meter   meter
	grown   float64
	first   model.Time // sample after which nothing increased
	newest  model.Time
	samples int
	scrape  time.Duration // how often the counters are sampled; 0 if not known
}

// pace is the time until the next look: a quarter of that between two samples.
func (q *quiet) pace() time.Duration {
	if q.scrape <= 0 {
		return readEvery
	}
	return min(max(q.scrape/4, readOften), readEvery)
}

func (q *quiet) started() bool { return q.meter.counters != nil }

func (q *quiet) begin(seen, all []scraped, now time.Time) {
	q.meter.begin(seen, all, model.TimeFromUnixNano(now.UnixNano()), q.horizon(all))
	q.first, q.newest, q.samples = newestOf(all), newestOf(all), 1
	q.scrape = interval(all)
}

func (q *quiet) horizon(all []scraped) time.Duration { return 3*interval(all) + 5*time.Second }

// add adds a reading and says whether the workload is quiet.
func (q *quiet) add(all []scraped, now time.Time) bool {
	if len(q.meter.counters) == 0 && len(all) == 0 {
		return now.Sub(q.start) >= unseenFor
	}
	at, horizon := model.TimeFromUnixNano(now.UnixNano()), q.horizon(all)
	q.scrape = interval(all)
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
	return q.samples >= quietSamples && q.newest.Sub(q.first) >= q.still
}
