package rollout_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/release"
)

// mostRequests is what a good release may ask of the API server, watches apart: reads, writes and the lock's.
const mostRequests = 45

// mostForConfiguration is what each command may ask in addition for an app whose pods read two ConfigMaps and a Secret.
const mostForConfiguration = 4

// TestRequestsOfAGoodRelease counts what a good release asks of the API server, as the commands do it: each in a
// process of its own, with a look before the verdict and one after it.
func TestRequestsOfAGoodRelease(t *testing.T) {
	asked := map[string]map[string]int{}
	for _, stage := range []string{"rest", configuredApp + "rest"} {
		asked[stage] = requestsOf(t, stage)
	}
	for command, without := range asked["rest"] {
		if with := asked[configuredApp+"rest"][command]; with > without+mostForConfiguration {
			t.Errorf("%s: %d requests of an app that reads configuration, %d of one that reads none", command, with, without)
		}
	}
}

// requestsOf is how many requests each command of a good release makes.
func requestsOf(t *testing.T, stage string) map[string]int {
	each := map[string]int{}
	at(t, stage, func(w *world) {
		total, asked := 0, ""
		run := func(name string, command func(ctx context.Context, j *job) error) {
			j := w.job(name)
			var seen []string
			j.before = func(r *http.Request) error {
				if r.URL.Query().Get("watch") == "" {
					parts := strings.Split(r.URL.Path, "/")
					seen = append(seen, r.Method+" "+strings.Join(parts[len(parts)-2:], "/"))
				}
				return nil
			}
			if err := j.Preflight(w.Context()); err != nil {
				t.Fatal(err)
			}
			if err := command(w.Context(), j); err != nil {
				t.Fatal(err)
			}
			total += len(seen)
			each[name] = len(seen)
			asked += name + ":\n  " + strings.Join(seen, "\n  ") + "\n"
			t.Logf("%s: %d requests", name, len(seen))
		}
		run("canary", func(ctx context.Context, j *job) error { _, err := j.Canary(ctx, j.wanted("2")); return err })
		run("verify", func(ctx context.Context, j *job) error {
			status, err := j.Live(ctx)
			if err != nil {
				return err
			}
			watching, stop := context.WithCancel(ctx)
			defer stop()
			witness, err := j.Witness(watching, status.Release)
			if err != nil {
				return err
			}
			time.Sleep(time.Minute)
			if status, err = witness.Live(ctx); err != nil {
				return err
			}
			_, err = judgeAs(ctx, j.Cluster, status, release.Healthy, false)
			return err
		})
		run("promote", func(ctx context.Context, j *job) error { _, err := j.Promote(ctx); return err })
		run("cleanup", func(ctx context.Context, j *job) error { _, err := j.Cleanup(ctx); return err })
		if stage == "rest" && total > mostRequests {
			t.Errorf("%d requests, %d are allowed:\n%s", total, mostRequests, asked)
		}
	})
	return each
}
