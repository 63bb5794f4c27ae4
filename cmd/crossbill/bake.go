package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// checkBake finds a bake that could not be judged, before anything is promoted.
func checkBake(cmd *cobra.Command, limits *sloFlags, drain *drainFlags, manifests string) (*verdict.SLO, error) {
	switch {
	case limits.maxDuration < 0:
		return nil, &usererr.Error{Field: "--bake", Problem: fmt.Sprintf("%s is not a time", limits.maxDuration), Fix: "give for example 10m"}
	case limits.maxDuration == 0:
		return nil, nil
	case drain.prometheus == "":
		return nil, &usererr.Error{Field: "--prometheus", Problem: "is missing beside --bake", Fix: "give Prometheus's URL"}
	}
	slo, err := limits.load(cmd, manifests)
	if err != nil {
		return nil, err
	}
	slo.Limit(limits.maxDuration)
	return slo, nil
}

// bake judges primary by the budgets after it has all of the traffic, for all of the time. An unhealthy one
// is rolled back to the previous digest. Too little evidence is no reason to go back, nor a proof: the
// release stays promoted, and the exit code says it.
func bake(cmd *cobra.Command, c *rollout.Cluster, slo *verdict.SLO, limits *sloFlags, drain *drainFlags, promoted rollout.Result) (rollout.Result, error) {
	source, err := limits.source(cmd, c, drain, slo)
	if err != nil {
		return promoted, err
	}
	test := slo.Test()
	test.Whole = true
	v, err := verdict.Verify(cmd.Context(), verdict.Options{
		Source: source, Canary: c.Manifests.Name(release.Primary), Test: test, Interval: limits.interval, Report: printLook(cmd),
		Warn: printWarning(cmd),
	})
	if err != nil {
		unjudged := fmt.Errorf("bake: %w; the release is promoted, run promote again to judge it, or rollback", err)
		if errors.As(err, new(*usererr.Error)) { // promoted it is, so it is not the bad input of a command that changed nothing
			return promoted, &exitError{exitInconclusive, unjudged}
		}
		return promoted, unjudged
	}
	switch v.Outcome {
	case release.Healthy:
		promoted.Message += "; baked: " + v.Reason
		return promoted, nil
	case release.Inconclusive:
		return promoted, &exitError{exitInconclusive, errors.New("bake: inconclusive: " + v.Reason + "; the release is promoted, run promote again to judge it, or rollback")}
	}
	c.ReleaseID = promoted.Release.ID
	begin := time.Now()
	result, err := c.Rollback(cmd.Context(), "bake: "+v.Reason)
	if err != nil {
		return promoted, &exitError{exitUnhealthy, fmt.Errorf("bake: unhealthy: %s\nrolling back did not finish: %w; run `crossbill rollback`", v.Reason, err)}
	}
	if result.Outcome != release.OutcomeRolledBack {
		return promoted, &exitError{exitUnhealthy, fmt.Errorf("bake: unhealthy: %s\nNOT rolled back, the release has been ended meanwhile: release an older image", v.Reason)}
	}
	return result, &exitError{exitUnhealthy, fmt.Errorf("bake: unhealthy: %s\nrolled back in %s: %s", v.Reason, time.Since(begin).Round(100*time.Millisecond), result.Message)}
}
