package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

// TestFollowChecksFirst: what a new release cannot be judged by is bad input before its canary gets anything. A release that
// has a canary is gone on with, and the app's first one is not judged.
func TestFollowChecksFirst(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer server.Close()
	rejected := errors.New("rejected")
	for name, c := range map[string]struct {
		release release.Release
		admit   error
		code    int
		says    string
	}{
		"a new one":       {release.Release{Previous: byDigest}, nil, exitBadInput, "prometheus.url: Prometheus at "},
		"not admitted":    {release.Release{Previous: byDigest}, rejected, exitFailure, "rejected"},
		"gone on with":    {release.Release{Previous: byDigest, Stage: release.StageCanary}, nil, 0, ""},
		"the app's first": {release.Release{}, nil, 0, ""},
	} {
		cluster := &rollout.Cluster{Namespace: "shop", Manifests: &manifest.Set{App: "app", Service: &corev1.Service{}, Deployment: &appsv1.Deployment{}}, Admit: func(context.Context, *release.Release) error { return c.admit }}
		o := followOptions{on: true, analysis: analysisOptions{slo: verdict.DefaultSLO()}}
		if err := o.checks(cluster, &lifecycleOptions{traffic: trafficOptions{prometheus: server.URL}, log: io.Discard}); err != nil {
			t.Fatal(err)
		}
		err := cluster.Admit(t.Context(), &c.release)
		if exitCode(err) != c.code || err != nil && !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("%s: exit code %d, %v", name, exitCode(err), err)
		}
	}
}

// TestJobEnd: a followed release ends before the time of its job does, by what GitLab says of it; elsewhere it has no end.
func TestJobEnd(t *testing.T) {
	now := time.Date(2026, 11, 26, 8, 5, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		env  map[string]string
		want string // time of day; "" for none
	}{
		"a laptop":              {map[string]string{"CI_JOB_TIMEOUT": "3600"}, ""},
		"no time-out":           {map[string]string{"GITLAB_CI": "true"}, ""},
		"an hour":               {map[string]string{"GITLAB_CI": "true", "CI_JOB_TIMEOUT": "3600", "CI_JOB_STARTED_AT": "2026-11-26T08:00:00Z"}, "08:58:00"},
		"the script has less":   {map[string]string{"GITLAB_CI": "true", "CI_JOB_TIMEOUT": "3600", "CI_JOB_STARTED_AT": "2026-11-26T08:00:00Z", "RUNNER_SCRIPT_TIMEOUT": "24m"}, "08:22:00"},
		"the script has more":   {map[string]string{"GITLAB_CI": "true", "CI_JOB_TIMEOUT": "600", "CI_JOB_STARTED_AT": "2026-11-26T08:00:00Z", "RUNNER_SCRIPT_TIMEOUT": "24m"}, "08:08:00"},
		"a short one":           {map[string]string{"GITLAB_CI": "true", "CI_JOB_TIMEOUT": "300", "CI_JOB_STARTED_AT": "2026-11-26T08:05:00Z"}, "08:09:00"},
		"no start":              {map[string]string{"GITLAB_CI": "true", "CI_JOB_TIMEOUT": "3600"}, "09:03:00"},
		"a start in the future": {map[string]string{"GITLAB_CI": "true", "CI_JOB_TIMEOUT": "3600", "CI_JOB_STARTED_AT": "2026-11-26T09:00:00Z"}, "09:03:00"},
		"what is no number":     {map[string]string{"GITLAB_CI": "true", "CI_JOB_TIMEOUT": "1h", "RUNNER_SCRIPT_TIMEOUT": "soon"}, ""},
	} {
		got := ""
		if end := jobEnd(func(name string) string { return c.env[name] }, now); !end.IsZero() {
			got = end.Format(time.TimeOnly)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
