package main

import (
	"testing"
	"time"
)

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
