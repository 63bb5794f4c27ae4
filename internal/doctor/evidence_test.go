package doctor

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
	"github.com/our-org/crossbill/internal/verdict/prometheustest"
)

func TestEvidence(t *testing.T) {
	istio := func(workload string) prometheustest.Labels {
		return prometheustest.Labels{"__name__": "istio_requests_total", "reporter": "source", "destination_workload": workload, "destination_workload_namespace": "shop", "response_code": "200"}
	}
	const url = "http://prometheus.example.com"
	for name, c := range map[string]struct {
		scrape time.Duration
		labels prometheustest.Labels // of the requests that were counted; nil: none
		last   time.Duration         // since the last scrape; 0: they go on
		fails  int
		max    time.Duration
		want   []string
	}{
		"as it should be": {scrape: 15 * time.Second, labels: istio("shop-primary"), want: []string{
			"✓ Prometheus: " + url + " counts the requests of shop-primary, by Istio's labels", "✓ scraping: the requests of shop-primary are sampled every 15s"}},
		"before the first release": {scrape: 15 * time.Second, labels: istio("other"), want: []string{
			"? Prometheus: " + url + " answers; no request reached shop-primary (other workloads in its namespace were called). Its labels show with the first requests", "? scraping: see Prometheus first"}},
		"labels are dropped": {scrape: 15 * time.Second, labels: prometheustest.Labels{"__name__": "istio_requests_total", "pod": "x"}, want: []string{
			"✗ Prometheus: prometheus.url: istio_requests_total exists, but without Istio's labels: the scrape configuration drops them (fix: correct the scrape configuration of the mesh's proxies: nothing else shows whether a canary is healthy)", "? scraping: see Prometheus first"}},
		"too seldom": {scrape: 2 * time.Minute, labels: istio("shop-primary"), max: 5 * time.Minute, want: []string{
			"✓ Prometheus: " + url + " counts the requests of shop-primary, by Istio's labels",
			"✗ scraping: analysis.maxDuration: 5m0s is too short: the counters are sampled every 2m0s (fix: give at least 8m0s)"}},
		"scraping has stopped": {scrape: 15 * time.Second, labels: istio("shop-primary"), last: 4 * time.Minute, want: []string{
			"✓ Prometheus: " + url + " counts the requests of shop-primary, by Istio's labels",
			"✗ scraping: prometheus.url: the requests of shop-primary were sampled 4m0s ago, and every 15s before: scraping has stopped (fix: look at the targets in Prometheus: counters that old are no evidence)"}},
		"refused": {scrape: 15 * time.Second, fails: http.StatusForbidden, want: []string{
			"✗ Prometheus: prometheus.url: Prometheus at " + url + " does not answer: client_error: client error: 403 (fix: check the address and the credentials, and that this machine reaches it)", "? scraping: see Prometheus first"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // a query is repeated
				now := time.Now()
				server := &prometheustest.Server{Scrape: c.scrape}
				server.Replicas = []prometheustest.Replica{{Missed: func(at time.Time) bool { return c.last > 0 && at.After(now.Add(-c.last)) }}}
				server.Fails = func(string, time.Time) int { return c.fails }
				if c.labels != nil {
					server.Target(prometheustest.Labels{"job": "gateway"}, 0).Add(c.labels, now.Add(-time.Hour), 100)
				}
				source, err := verdict.NewSource(verdict.SourceOptions{URL: url, Namespace: "shop", Transport: server})
				if err != nil {
					t.Fatal(err)
				}
				longest := c.max
				if longest == 0 {
					longest = 15 * time.Minute
				}
				evidence := &Evidence{Source: source, URL: url, Primary: "shop-primary", MaxDuration: longest, Now: func() time.Time { return now }}
				if diff := cmp.Diff(c.want, run(t, evidence.Checks()...)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestRegistry(t *testing.T) {
	for _, c := range []struct {
		exists bool
		err    error
		want   string
	}{
		{true, nil, "✓ registry: registry.example.com/shop may be pulled from"},
		{false, nil, "? registry: registry.example.com/shop may be pulled from as far as its registry says, but has no images yet"},
		{false, &usererr.Error{Field: "registry", Problem: "HTTP 403", Fix: "log in"}, "✗ registry: registry: HTTP 403 (fix: log in)"},
		{false, &registry.AwayError{Repository: "registry.example.com/shop", Err: errors.New("connection refused")}, "? registry: the registry of registry.example.com/shop does not answer: connection refused. The nodes of the cluster have to reach it"},
		{false, errors.New("HTTP 500"), "✗ registry: HTTP 500"},
	} {
		got := run(t, Registry("registry.example.com/shop", func(context.Context) (bool, error) { return c.exists, c.err }))
		if diff := cmp.Diff([]string{c.want}, got); diff != "" {
			t.Error(diff)
		}
	}
}
