package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestAsk: people are asked once and reminded once, whoever looks; a job at work is not disturbed.
func TestAsk(t *testing.T) {
	ask := func(w *world, remind time.Duration, jobs ...*job) (asked int) {
		var pending sync.WaitGroup
		var lock sync.Mutex
		for _, j := range jobs {
			pending.Go(func() {
				r, err := j.Ask(w.Context(), remind)
				if err != nil {
					w.Errorf("%s: %v", j.name, err)
				}
				if lock.Lock(); r != nil {
					asked++
				}
				lock.Unlock()
			})
		}
		pending.Wait()
		return asked
	}
	for _, stage := range []string{"healthy", gitApp + "healthy"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			at(t, stage, func(w *world) {
				one, two := w.job("one"), w.job("two")
				if asked := ask(w, time.Hour, one, two); asked != 1 {
					w.Errorf("asked %d times at once", asked)
				}
				if asked := ask(w, time.Hour, w.job("three")); asked != 0 {
					w.Errorf("asked %d times again", asked)
				}
				time.Sleep(time.Hour + time.Minute)
				synctest.Wait()
				if asked := ask(w, time.Hour, w.job("four"), w.job("five")); asked != 1 {
					w.Errorf("reminded %d times at once", asked)
				}
				if asked := ask(w, 0, w.job("six")); asked != 0 {
					w.Errorf("reminded %d times where nobody is to be", asked)
				}
				w.must(w.job("promote").Promote(w.Context()))
				if asked := ask(w, time.Hour, w.job("seven")); asked != 0 {
					w.Errorf("asked %d times after the promotion", asked)
				}
			})
		})
	}
	for _, stage := range []string{"canary", "unhealthy", "inconclusive", "promoting", "ended"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			at(t, stage, func(w *world) {
				j := w.job("one")
				if asked := ask(w, time.Hour, j); asked != 0 || len(j.every) > 0 {
					w.Errorf("asked %d times, wrote %q", asked, j.every)
				}
			})
		})
	}
	t.Run("a promotion is faster", func(t *testing.T) {
		t.Parallel()
		at(t, "healthy", func(w *world) {
			j, promoter := w.job("ask"), w.job("promote")
			var once sync.Once
			j.before = func(r *http.Request) (err error) {
				if r.Method != http.MethodGet {
					once.Do(func() { _, err = promoter.Promote(w.Context()) })
				}
				return err
			}
			began := time.Now()
			if asked := ask(w, time.Hour, j); asked != 0 || len(j.every) != 1 {
				w.Errorf("asked %d times in %s, wrote %q", asked, time.Since(began), j.every)
			}
		})
	})
	t.Run("the API server is away", func(t *testing.T) {
		t.Parallel()
		at(t, "healthy", func(w *world) {
			j := w.job("ask")
			j.before = func(*http.Request) error { return errors.New("connection refused") }
			ctx, stop := context.WithTimeout(w.Context(), 10*time.Second)
			defer stop()
			began := time.Now()
			if r, err := j.Ask(ctx, time.Hour); r != nil || err == nil || time.Since(began) > 10*time.Second {
				w.Errorf("%v, %v, in %s", r, err, time.Since(began))
			}
		})
	})
}
