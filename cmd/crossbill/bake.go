package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/release"
	"github.com/our-org/crossbill/rollout"
	"github.com/our-org/crossbill/verdict"
)

// checkBake finds a bake that could not be judged, before anything is promoted.
func (f *thresholdFlags) checkBake(prometheus string) error {
	switch {
	case f.window < 0:
		return &release.InputError{Field: "--bake", Problem: fmt.Sprintf("%s is not a time", f.window), Fix: "give for example 10m"}
	case f.window == 0:
		return nil
	case prometheus == "":
		return &release.InputError{Field: "--prometheus", Problem: "is missing beside --bake", Fix: "give Prometheus's URL"}
	}
	_, err := f.thresholds()
	return err
}

// bake judges primary after it has all of the traffic. An unhealthy one is rolled back to the previous
// digest. Too little evidence is no reason to go back, nor a proof: the release stays promoted, and the
// exit code says it.
func bake(cmd *cobra.Command, c *rollout.Cluster, limits *thresholdFlags, prometheus string, promoted rollout.Result) (rollout.Result, error) {
	thresholds, err := limits.thresholds()
	if err != nil {
		return promoted, err
	}
	source, err := verdict.NewSource(prometheus, c.Namespace, thresholds.Latency)
	if err != nil {
		return promoted, err
	}
	primary := c.Manifests.Name(release.Primary)
	v, err := verdict.Verify(cmd.Context(), verdict.Options{
		Source: source, Canary: primary, Primary: primary, Thresholds: thresholds, Interval: limits.interval,
		Report: func(e verdict.Evaluation) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%6.1fs  bake: primary %6.0f requests, %6.2f %% ok, %5.2f %% slow\n", e.Elapsed.Seconds(),
				e.Canary.Requests, 100*e.Canary.SuccessRatio(), 100*e.Canary.SlowRatio())
		},
	})
	if err != nil {
		return promoted, fmt.Errorf("bake: %w; the release is promoted, run promote again to judge it, or rollback", err)
	}
	switch v.Outcome {
	case release.Healthy:
		promoted.Message += "; baked: " + v.Reason
		return promoted, nil
	case release.Inconclusive:
		return promoted, &exitError{exitInconclusive, errors.New("bake: inconclusive: " + v.Reason + "; the release is promoted, run promote again to judge it, or rollback")}
	}
	c.ReleaseID = promoted.Release.ID
	result, err := c.Rollback(cmd.Context(), "bake: "+v.Reason)
	if err != nil {
		return promoted, &exitError{exitUnhealthy, fmt.Errorf("bake: unhealthy: %s\nrolling back did not finish: %w; run `crossbill rollback`", v.Reason, err)}
	}
	if result.Outcome != release.OutcomeRolledBack {
		return promoted, &exitError{exitUnhealthy, fmt.Errorf("bake: unhealthy: %s\nNOT rolled back, the release has been ended meanwhile: release an older image", v.Reason)}
	}
	return result, &exitError{exitUnhealthy, fmt.Errorf("bake: unhealthy: %s\nrolled back: %s", v.Reason, result.Message)}
}
