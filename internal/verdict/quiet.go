package verdict

import (
	"context"
	"fmt"
	"time"
)

// A workload is quiet if its counters were sampled quietSamples times over quietFor without an increase. A
// workload without counters, which was never seen to be called, is quiet after unseenFor.
const (
	quietSamples = 3
	quietFor     = 3 * time.Second
	unseenFor    = 10 * time.Second
)

// Quiet waits until nobody calls a workload. It fails if that cannot be shown before ctx ends. It goes by the
// times of Prometheus's samples, so reading one scrape twice does not count twice.
func (s *Source) Quiet(ctx context.Context, workload string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	q := quiet{start: time.Now()}
	for {
		now := time.Now()
		reading, err := s.Requests(ctx, "source", workload, now)
		if err != nil {
			return err
		}
		sampled, err := s.lastSample(ctx, "source", workload, now)
		if err != nil {
			return err
		}
		if q.add(reading, sampled, now) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was called until the deadline, or its counters were not sampled: %w", workload, ctx.Err())
		case <-tick.C:
		}
	}
}

// lastSample is when a workload's counters were last sampled, as one side of its calls reports them. It is zero
// if that was not within an hour.
func (s *Source) lastSample(ctx context.Context, reporter, workload string, at time.Time) (time.Time, error) {
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

// quiet counts the samples since the last increase.
type quiet struct {
	start   time.Time
	last    Series
	first   time.Time // sample after which nothing increased
	newest  time.Time
	samples int
}

// add adds a reading and says whether the workload is quiet.
func (q *quiet) add(r Series, sampled, now time.Time) bool {
	if sampled.IsZero() {
		return q.last == nil && now.Sub(q.start) >= unseenFor
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
