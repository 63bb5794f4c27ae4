package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type promoteOptions struct {
	lifecycleOptions
	trust    trustOptions
	approval approvalOptions
	track    string // that has the traffic while primary is replaced
	analysis analysisOptions
	bake     time.Duration
	maxAge   time.Duration
	inGit    bool // the approval is in the environment repository
}

func newPromoteCommand() *cobra.Command {
	o := &promoteOptions{}
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "Put the canary's digest on primary and give it all of the traffic",
		Long: `Give the canary all of the traffic, put the digest that it proved on primary,
wait for the rollout, and route all of the traffic to primary. Where crossbill.yaml
has the section approval, GitLab's ID token of the job must first prove that an
approver has started it. The canary is
grown for that first, so that the app runs twice for a while; with
--promote-traffic primary, primary's pods are replaced under traffic. Only a
digest that was judged healthy in this release is promoted. A canary whose
verdict is older than --max-verdict-age is judged again first: on, not anew
(exit codes 3 and 4). A primary that does not become ready is rolled back to what
it ran before (exit code 6). With --bake, primary is judged for a while
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
	o.addOthers(cmd)
	o.addTakeover(cmd)
	o.addHooks(cmd, true)
	o.trust.add(cmd)
	o.approval.add(cmd)
	inSection(cmd.Flags(), approvalSection, func(flags *pflag.FlagSet) {
		flags.BoolVar(&o.inGit, "approved-in-git", false, "promote only if a commit in the environment repository approves the release, as crossbill run does")
	})
	cmd.Flags().StringVar(&o.track, "promote-traffic", string(release.Canary), "which track has the traffic while primary's pods are replaced: canary (grown for all of it) or primary (under traffic)")
	o.add(cmd)
	o.traffic.add(cmd)
	inSection(cmd.Flags(), analysisSection, func(flags *pflag.FlagSet) {
		anyDuration(flags, &o.bake, "bake", 0, "how long primary is judged after it has all of the traffic; needs --prometheus (default: not)")
		anyDuration(flags, &o.maxAge, "max-verdict-age", 10*time.Minute, "how old a verdict may be; an older canary is judged again, which needs --prometheus; 0 accepts any")
	})
	o.analysis.add(cmd)
	o.notify.add(cmd)
	return cmd
}

func (o *promoteOptions) validate() error {
	if o.bake > 0 && o.traffic.prometheus == "" {
		return &usererr.Error{Field: "--prometheus", Problem: "is missing beside --bake", Fix: "give Prometheus's URL"}
	}
	if err := o.trust.load(o.cmd, o.cluster.manifests); err != nil {
		return err
	}
	o.trust.admitBundle(&o.cluster, provenance.Wanted{AnyAge: true}) // canary has looked at commit and age
	if err := o.lifecycleOptions.validate(); err != nil {
		return err
	}
	if o.traffic.prometheus != "" || o.analysis.file != "" {
		if err := o.analysis.load(o.cmd, o.cluster.manifests); err != nil {
			return err
		}
	}
	if err := o.approval.load(o.cmd, o.by); err != nil || !o.inGit {
		return err
	}
	git, err := newProposals(o.cmd, o.cluster.appName())
	if err != nil {
		return err
	}
	o.approval.gate.Commit = git.approvals
	return nil
}

func (o *promoteOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		if err := o.trust.apply(c); err != nil {
			return outcome{}, err
		}
		requireBundle(c, o.cluster.bundle)
		o.approval.apply(c)
		c.MaxVerdictAge, c.PromoteTraffic = o.maxAge, release.Track(o.track)
		by := func() (analysis.Options, error) { return o.analysis.options(c, &o.traffic, o.log) }
		if o.traffic.prometheus == "" {
			by = nil
		}
		came, err := analysis.Promote(ctx, c, by)
		if err != nil {
			return outcome{came.Result, summaryOf(came.Verdict)}, analysis.RollBackUnready(ctx, analysis.Of(c), err)
		}
		if o.bake == 0 || o.dryRun || came.Release == nil || came.Release.Stage != release.StagePromoted {
			return outcome{came.Result, summaryOf(came.Verdict)}, nil
		}
		options, err := by()
		if err != nil {
			return outcome{Result: came.Result}, err
		}
		came, err = analysis.Bake(ctx, options, came.Result, o.bake)
		return outcome{came.Result, summaryOf(came.Verdict)}, err
	})
}
