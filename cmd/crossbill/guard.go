package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/rollout"
)

type guardOptions struct {
	lifecycleOptions
	limits             rollout.Limits
	analysis           analysisOptions
	all, allNamespaces bool

	unjudged bool // after validate: what waits is not judged
}

func newGuardCommand() *cobra.Command {
	o := &guardOptions{}
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "End a release that nobody works on any more; to be run on a schedule",
		Long: `End a release that nobody works on any more: roll it back, or clean it up when
it was promoted. A release that a living job works on is left alone, as is one
that stands still for no longer than the flags allow. What is known to be bad is
ended at once: a canary that was judged unhealthy, a rollback that did not
finish, a canary of no release. Run it on a schedule. With --all or
--all-namespaces it needs no manifests: the ledgers name the objects.

It ends the previews whose time is over, too.

With --prometheus a canary that waits for its verdict or its approver is judged:
its pods, and all of its requests since it was judged last. One that has turned
bad is rolled back (exit code 3).`,
		Example: `  # In a scheduled pipeline, every five minutes
  crossbill guard --dead 15m --waiting 24h

  # All apps of the cluster
  crossbill guard --all-namespaces`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	positiveDuration(cmd.Flags(), &o.limits.Dead, "dead", 15*time.Minute, "how long a release may stand still where a job must be at work")
	positiveDuration(cmd.Flags(), &o.limits.Waiting, "waiting", 24*time.Hour, "how long a canary may wait for its verdict, or for an approver")
	cmd.Flags().BoolVar(&o.all, "all", false, "all apps of the namespace; needs no manifests")
	cmd.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "all apps of the cluster; needs no manifests")
	o.addKeepWarm(cmd)
	o.addHooks(cmd, false)
	o.add(cmd)
	o.traffic.add(cmd)
	o.notify.add(cmd)
	o.addRecovery(cmd)
	return cmd
}

func (o *guardOptions) run(ctx context.Context) error {
	if o.everyApp() {
		return o.runAll(ctx)
	}
	return o.change(ctx, o.guard)
}

func (o *guardOptions) guard(ctx context.Context, c *rollout.Cluster) (outcome, error) {
	result, err := c.Guard(ctx, o.limits)
	if err == nil {
		ended, failed := c.EndPreviews(ctx)
		if len(ended) > 0 {
			result.Message += "; ended previews: " + strings.Join(ended, ", ")
		}
		if failed != nil { // a release is more urgent
			warn(o.cmd, fmt.Sprintf("%v; run guard again", failed))
		}
	}
	if err == nil && !o.dryRun && result.Outcome == "" {
		if _, err := c.FitCanary(ctx); err != nil {
			warn(o.cmd, fmt.Sprintf("the canary that waits could not get the size that it needs now: %v", err))
		}
	}
	if err != nil || o.dryRun || o.unjudged || o.traffic.source == nil || result.Outcome != "" {
		return outcome{Result: result}, err
	}
	options, err := o.analysis.options(c, &o.traffic, o.log)
	if err != nil {
		return outcome{Result: result}, err
	}
	came, err := analysis.Guard(ctx, options)
	if came.Message == "" { // there is no canary that waits
		came.Result = result
	}
	return outcome{came.Result, summaryOf(came.Verdict)}, err
}

func (o *guardOptions) validate() error {
	check := o.lifecycleOptions.validate
	if o.everyApp() {
		check = o.validateAll
	}
	if err := check(); err != nil {
		return err
	}
	if o.unjudged = o.traffic.prometheus == "" || o.everyApp(); o.unjudged { // each app has objectives of its own
		return nil
	}
	if err := o.analysis.load(o.cmd, o.cluster.manifests); err != nil { // what nobody works on is ended all the same
		o.unjudged = true
		warn(o.cmd, fmt.Sprintf("%v; no canary is judged", err))
	}
	return nil
}
