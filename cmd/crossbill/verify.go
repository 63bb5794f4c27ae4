package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

type verifyOptions struct {
	lifecycleOptions
	analysis   analysisOptions
	probe      probeOptions
	record     string
	observe    bool
	watch      bool
	noRollback bool
	again      bool
}

func newVerifyCommand() *cobra.Command {
	o := &verifyOptions{}
	cmd := &cobra.Command{
		Use:   "verify --prometheus URL",
		Short: "Judge the canary by what its callers saw; roll back when it is unhealthy",
		Long: `Judge the canary beside primary, by the requests that reach both of them.

A sequential test with stated error rates decides as soon as there is enough
evidence. Counts Istio's request counters as the callers reported them. Too few
requests or unreadable metrics are inconclusive, never healthy. The objectives,
their margins and the error rates are the section analysis of crossbill.yaml.

The canary's pods are watched as well: one that restarts, runs out of memory or
loses its readiness is unhealthy at once.

Exit codes: 0 healthy, 3 unhealthy (rolled back, unless --no-rollback),
4 inconclusive (the canary keeps its weight). With --dry-run nothing is changed.

With --watch a healthy canary is judged on until somebody promotes the release
(exit code 0) or ends it (exit code 2). One that turns bad is rolled back (exit
code 3). An API server or a Prometheus that is away is waited for.`,
		Example: `  # Judge the release in flight
  crossbill verify --prometheus http://prometheus.istio-system:9090

  # Go on until the release is promoted or rolled back
  crossbill verify --prometheus http://prometheus.istio-system:9090 --watch

  # An app that nobody calls at night
  crossbill verify --prometheus http://prometheus.istio-system:9090 --probe https://app.example.com/

  # Judge and change nothing; keep what the verdict rests on
  crossbill verify --prometheus http://prometheus.istio-system:9090 --dry-run --record verdict.json`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.record, "record", "", "file for the verdict with all that it rests on, as JSON; 'crossbill replay' judges it again")
	flags.BoolVar(&o.observe, "observe", false, "the same as --dry-run")
	flags.BoolVar(&o.watch, "watch", false, "judge on after a healthy verdict, until the release is promoted or rolled back")
	flags.BoolVar(&o.noRollback, "no-rollback", false, "leave an unhealthy canary as it is")
	flags.BoolVar(&o.again, "again", false, "judge again a release that was judged healthy")
	o.addReleaseID(cmd)
	o.addTakeover(cmd)
	o.addHooks(cmd, false)
	o.add(cmd)
	flags.Lookup("dry-run").Usage = "judge and change nothing: no verdict in the ledger, no rollback"
	o.traffic.add(cmd)
	flags.Lookup("prometheus").Usage = "URL of the Prometheus that scrapes the mesh (needed)"
	o.analysis.add(cmd)
	inSection(flags, analysisSection, func(flags *pflag.FlagSet) {
		o.analysis.addMaxDuration(flags)
		o.probe.add(flags)
	})
	o.notify.add(cmd)
	return cmd
}

func (o *verifyOptions) complete(cmd *cobra.Command, args []string) error {
	o.dryRun = o.dryRun || o.observe
	o.notify.enabled = !o.dryRun
	return o.lifecycleOptions.complete(cmd, args)
}

func (o *verifyOptions) validate() error {
	if o.traffic.prometheus == "" {
		return &usererr.Error{Field: "--prometheus", Problem: "is missing", Fix: "give Prometheus's URL, for example http://prometheus.istio-system:9090"}
	}
	if err := o.probe.validate(o.cmd); err != nil {
		return err
	}
	for name, set := range map[string]bool{"dry-run": o.dryRun, "no-rollback": o.noRollback} {
		if set && o.watch {
			return &usererr.Error{Field: "--watch", Problem: "does not go together with --" + name, Fix: "leave one of them out"}
		}
	}
	if err := o.lifecycleOptions.validate(); err != nil {
		return err
	}
	if err := requireWritable("--record", o.record); err != nil {
		return err
	}
	return o.analysis.load(o.cmd, o.cluster.manifests)
}

func (o *verifyOptions) run(ctx context.Context) error {
	return o.perform(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		options, err := o.analysis.options(c, &o.traffic, o.log)
		if err != nil {
			return outcome{}, err
		}
		options.Again, options.Observe, options.NoRollback = o.again, o.dryRun, o.noRollback
		options.Probe = o.probe.probe(&o.analysis)
		options.Progress = o.progress
		if o.record != "" {
			options.Record = o.writeRecord
		}
		judge := analysis.Verify
		if o.watch {
			judge, options.Report, options.Refresh = analysis.Watch, sometimes(options.Report), refresh(o.cmd)
		}
		came, err := judge(ctx, options)
		summary := summaryOf(came.Verdict)
		if summary != nil {
			summary.Probe = options.Probe.Result()
		}
		return outcome{came.Result, summary}, err
	})
}

// refresh is how often a watch notes that the canary is still healthy: often enough for promote.
func refresh(cmd *cobra.Command) time.Duration {
	age, err := time.ParseDuration(configOf(cmd).settings.Value("promote.maxVerdictAge"))
	if err != nil {
		return 0
	}
	return age / 2
}

// shownEvery is how often a watch shows a look, once there is a verdict.
const shownEvery = time.Minute

// sometimes shows each look until the canary is healthy, then one a minute.
func sometimes(show func(verdict.Evaluation)) func(verdict.Evaluation) {
	var last time.Time
	return func(e verdict.Evaluation) {
		if e.Judgment.Outcome == release.Healthy && e.At.Sub(last) < shownEvery {
			return
		}
		last = e.At
		show(e)
	}
}

// record is a verdict as a file keeps it.
type record struct {
	Release string `json:"release"`
	Digest  string `json:"digest"`
	*verdict.Verification
}

func (o *verifyOptions) writeRecord(r *release.Release, v *verdict.Verification) error {
	text, err := json.MarshalIndent(record{r.ID, r.Digest(), v}, "", "  ")
	if err == nil {
		err = writeWhole(o.record, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("--record: %w", err)
	}
	return nil
}
