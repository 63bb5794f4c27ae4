package verdict

import (
	"context"
	"fmt"
	"time"
)

// The evidence that nobody calls a workload any more: its counters were sampled quietSamples times
// over quietFor without growing. A workload without any counters was never seen to be called; it is
// given unseenFor.
const (
	quietSamples = 3
	quietFor     = 3 * time.Second
	unseenFor    = 10 * time.Second
)

// Quiet returns when nobody calls a workload any more, or with an error when that cannot be seen
// before ctx ends. The times are those of Prometheus's samples, so that two looks at one scrape do
// not count as two.
func (s *Source) Quiet(ctx context.Context, workload string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	q := quiet{begin: time.Now()}
	for {
		now := time.Now()
		reading, err := s.Requests(ctx, "source", workload, now)
		if err != nil {
			return err
		}
		sampled, err := s.sampledAt(ctx, "source", workload, now)
		if err != nil {
			return err
		}
		if q.look(reading, sampled, now) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was called until the deadline, or its counters were not sampled: %w", workload, ctx.Err())
		case <-tick.C:
		}
	}
}

// sampledAt is when a workload's counters, as one side of its calls reports them, were sampled last; zero
// when they were not within an hour.
func (s *Source) sampledAt(ctx context.Context, reporter, workload string, at time.Time) (time.Time, error) {
	sampled := `timestamp(` + s.selector("istio_requests_total", reporter, workload, "") + `)`
	vector, err := s.query(ctx, `max(`+sampled+`)`, at)
	if err == nil && len(vector) == 0 { // a failed scrape hides them at once
		vector, err = s.query(ctx, `max(max_over_time(`+sampled+`[`+lookback+`:1s]))`, at)
	}
	if err != nil || len(vector) == 0 {
		return time.Time{}, err
	}
	return time.UnixMilli(int64(float64(vector[0].Value) * 1000)), nil
}

// quiet counts the samples since the counters grew last.
type quiet struct {
	begin   time.Time
	last    Series
	first   time.Time // sample from which on nothing grew
	newest  time.Time
	samples int
}

// look takes one more reading and says whether the workload is at rest.
func (q *quiet) look(r Series, sampled, now time.Time) bool {
	if sampled.IsZero() {
		return q.last == nil && now.Sub(q.begin) >= unseenFor
	}
	if q.last == nil || r.Increase(q.last) > 0 {
		q.last, q.first, q.newest, q.samples = r, sampled, sampled, 1
		return false
	}
	if sampled.After(q.newest) {
		q.newest = sampled
		q.samples++
	}
	return q.samples >= quietSamples && q.newest.Sub(q.first) >= quietFor
}
