package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type promoteOptions struct {
	lifecycleOptions
	trust    trustOptions
	analysis analysisOptions
}

func newPromoteCommand() *cobra.Command {
	o := &promoteOptions{}
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "Put the canary's digest on primary and give it all of the traffic",
		Long: `Put the digest that the canary proved on primary, wait for the rollout, and
route all of the traffic to primary. Only a digest that was judged healthy in
this release is promoted. A primary that does not become ready is rolled back
to what it ran before (exit code 6). With --bake, primary is judged for a while
longer and rolled back when it is unhealthy (exit code 3).`,
		Example: `  # Promote the release in flight
  crossbill promote

  # Judge primary for ten minutes more
  crossbill promote --bake 10m --prometheus http://prometheus.istio-system:9090

  # See what it would write
  crossbill promote --dry-run`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	o.addReleaseID(cmd)
	o.addTakeover(cmd)
	o.trust.add(cmd)
	o.add(cmd)
	o.traffic.add(cmd)
	inSection(cmd.Flags(), analysisSection, func(flags *pflag.FlagSet) {
		anyDuration(flags, &o.analysis.maxDuration, "bake", 0, "how long primary is judged after it has all of the traffic; needs --prometheus (default: not)")
	})
	o.analysis.add(cmd)
	o.notify.add(cmd)
	return cmd
}

func (o *promoteOptions) bake() bool { return o.analysis.maxDuration > 0 }

func (o *promoteOptions) validate() error {
	if o.bake() && o.traffic.prometheus == "" {
		return &usererr.Error{Field: "--prometheus", Problem: "is missing beside --bake", Fix: "give Prometheus's URL"}
	}
	if err := o.lifecycleOptions.validate(); err != nil {
		return err
	}
	if o.bake() || o.analysis.file != "" {
		if err := o.analysis.load(o.cmd, o.cluster.manifests); err != nil {
			return err
		}
	}
	return o.trust.load(o.cmd, o.cluster.manifests)
}

func (o *promoteOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		if err := o.trust.apply(c); err != nil {
			return outcome{}, err
		}
		result, err := c.Promote(ctx)
		if err != nil {
			return outcome{Result: result}, analysis.RollBackUnready(ctx, analysis.Of(c), err)
		}
		if !o.bake() || o.dryRun || result.Release == nil || result.Release.Stage != release.StagePromoted {
			return outcome{Result: result}, nil
		}
		options, err := o.analysis.options(c, &o.traffic, o.log)
		if err != nil {
			return outcome{Result: result}, err
		}
		came, err := analysis.Bake(ctx, options, result)
		return outcome{came.Result, summaryOf(came.Verdict)}, err
	})
}
