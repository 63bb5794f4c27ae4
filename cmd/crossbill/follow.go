package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// followOptions say how canary takes a release through its steps.
type followOptions struct {
	on       bool
	within   time.Duration // 0: what the job has left
	analysis analysisOptions
	probe    probeOptions

	until time.Time // after load; zero: there is no end
}

func (o *followOptions) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&o.on, "follow", false, "take the release through the steps of crossbill.yaml, each analyzed before the next; without steps, analyze it at its first weight")
	positiveDuration(flags, &o.within, "within", 0, "with --follow: end in order after this time (default: before the time of GitLab's job ends, by $CI_JOB_STARTED_AT with $CI_JOB_TIMEOUT and $RUNNER_SCRIPT_TIMEOUT)")
	o.analysis.add(cmd)
	inSection(flags, analysisSection, func(flags *pflag.FlagSet) {
		o.analysis.addMaxDuration(flags)
		o.probe.add(flags)
	})
}

// plan is the way of a release that is followed, nil of one that is not. Without steps it is what the release gets before.
func (o *followOptions) plan(c *canaryOptions, before release.Release) (release.Plan, error) {
	plan, err := configOf(c.cmd).Plan()
	if !o.on || err != nil {
		if len(plan) > 0 {
			warn(c.cmd, "crossbill.yaml has steps, which only canary --follow takes")
		}
		return nil, errors.Join(err, o.off(c.cmd))
	}
	if err := o.check(c); err != nil {
		return nil, err
	}
	if len(plan) == 0 {
		return release.NewPlan(slices.DeleteFunc([]release.PlanStep{{Match: before.Match}, {Mirror: before.Mirror}, {Weight: before.Weight}}, func(s release.PlanStep) bool { return !s.Gives() })), nil
	}
	for _, name := range []string{"weight", "match", "mirror"} {
		if c.cmd.Flags().Changed(name) {
			return nil, &usererr.Error{Field: "--" + name, Problem: "crossbill.yaml has steps, which say what the canary gets", Fix: "leave it out, or leave out --follow"}
		}
	}
	return plan, nil
}

// off refuses flags that mean nothing without --follow.
func (o *followOptions) off(cmd *cobra.Command) error {
	for _, name := range []string{"within", "slo", "interval", "min-requests", "max-duration", "explain", "probe", "probe-rate", "probe-header"} {
		if cmd.Flags().Changed(name) {
			return &usererr.Error{Field: "--" + name, Problem: "is for --follow, which is not given", Fix: "give both, or leave it out: without --follow, canary judges nothing"}
		}
	}
	return nil
}

// check finds what is missing to judge a canary.
func (o *followOptions) check(c *canaryOptions) error {
	if c.traffic.prometheus == "" {
		return &usererr.Error{Field: "--prometheus", Problem: "is missing beside --follow, which judges the canary", Fix: "give Prometheus's URL, for example http://prometheus.istio-system:9090"}
	}
	return o.probe.validate(c.cmd)
}

// load reads what the canary is judged by, and when the job ends.
func (o *followOptions) load(cmd *cobra.Command, manifests string) error {
	if !o.on {
		return nil
	}
	if o.until = jobEnd(os.Getenv, time.Now()); o.within > 0 {
		o.until = time.Now().Add(o.within)
	}
	return o.analysis.load(cmd, manifests)
}

// reserve is what of a job's time is left for what comes after it: its report, and the runner's own work.
const reserve = 2 * time.Minute

// jobEnd is when a job of GitLab's should have ended by itself, less a reserve; zero when nothing says so.
func jobEnd(getenv func(string) string, now time.Time) time.Time {
	if getenv("GITLAB_CI") != "true" {
		return time.Time{}
	}
	var most time.Duration
	if seconds, err := strconv.Atoi(getenv("CI_JOB_TIMEOUT")); err == nil && seconds > 0 {
		most = time.Duration(seconds) * time.Second
	}
	if script, err := time.ParseDuration(getenv("RUNNER_SCRIPT_TIMEOUT")); err == nil && script > 0 && (most == 0 || script < most) {
		most = script
	}
	if most == 0 {
		return time.Time{}
	}
	began, err := time.Parse(time.RFC3339, getenv("CI_JOB_STARTED_AT"))
	if err != nil || began.After(now) {
		began = now
	}
	return began.Add(most - min(reserve, most/5))
}

// checks has the analysis of a new release begin once, before its canary gets anything: what is bad input by then has changed
// nothing. A release whose canary may have traffic is Follow's.
func (o *followOptions) checks(c *rollout.Cluster, lifecycle *lifecycleOptions) error {
	options, err := o.analysis.options(c, &lifecycle.traffic, lifecycle.log)
	if err != nil {
		return err
	}
	admit := c.Admit
	c.Admit = func(ctx context.Context, r *release.Release) error {
		if admit != nil {
			if err := admit(ctx, r); err != nil {
				return err
			}
		}
		if r.Stage != "" || r.Previous == "" { // the app's first release is not judged
			return nil
		}
		return analysis.CheckPlan(ctx, options, r.Plan)
	}
	return nil
}

// run takes the release that canary has started, or gone on with, through its steps.
func (o *followOptions) run(ctx context.Context, c *rollout.Cluster, lifecycle *lifecycleOptions) (outcome, error) {
	options, err := o.analysis.options(c, &lifecycle.traffic, lifecycle.log)
	if err != nil {
		return outcome{}, err
	}
	options.Report, options.Refresh = sometimes(options.Report), refresh(lifecycle.cmd)
	options.Progress = lifecycle.progress
	options.Probe = o.probe.probe(&o.analysis)
	came, err := analysis.Follow(ctx, analysis.FollowOptions{Options: options, Steps: analysis.Of(c), Until: o.until, Say: sayer(lifecycle.log)})
	summary := summaryOf(came.Verdict)
	if summary != nil {
		summary.Probe = options.Probe.Result()
	}
	return outcome{came.Result, summary}, err
}

// sayer prints a line for each step.
func sayer(log io.Writer) func(string) {
	start := time.Now()
	return func(line string) { fmt.Fprintf(log, "%6.1fs  %s\n", time.Since(start).Seconds(), line) }
}
