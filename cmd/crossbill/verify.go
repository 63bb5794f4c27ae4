package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/release"
	"github.com/our-org/crossbill/rollout"
	"github.com/our-org/crossbill/verdict"
)

// thresholdFlags say what is healthy.
type thresholdFlags struct {
	window, interval    time.Duration
	minRequests         float64
	minSuccess, maxSlow float64
	latencyMS           float64
}

// add adds all but the window, whose name is the verb's.
func (f *thresholdFlags) add(flags *pflag.FlagSet) {
	flags.DurationVar(&f.interval, "interval", 5*time.Second, "time between two looks")
	flags.Float64Var(&f.minRequests, "min-requests", 100, "requests below which nothing is proved")
	flags.Float64Var(&f.minSuccess, "min-success", 99, "percent of the requests that must succeed")
	flags.Float64Var(&f.latencyMS, "latency-ms", 500, "milliseconds above which a request is slow: a bucket bound of the histogram")
	flags.Float64Var(&f.maxSlow, "max-slow", 5, "percent of the requests that may be slow")
}

func (f *thresholdFlags) thresholds() (verdict.Thresholds, error) {
	t := verdict.Thresholds{
		Window: f.window, MinRequests: f.minRequests, MinSuccess: f.minSuccess / 100,
		Latency: time.Duration(f.latencyMS * float64(time.Millisecond)), MaxSlow: f.maxSlow / 100,
	}
	return t, t.Check()
}

type verifyFlags struct {
	drain             drainFlags
	limits            thresholdFlags
	noRollback, again bool
	takeover          bool
	id                *string
}

func newVerifyCommand() *cobra.Command {
	var cluster clusterFlags
	var flags verifyFlags
	var github githubFlags
	cmd := &cobra.Command{
		Use:   "verify --prometheus URL",
		Short: "Judge the canary by what its callers saw; roll back when it is unhealthy",
		Long: `Judge the canary by the requests that reached it while it was watched.

Counts istio_requests_total and istio_request_duration_milliseconds as the
callers reported them. Too few requests or unreadable metrics are inconclusive,
never healthy. Exit codes: 0 healthy, 3 unhealthy (rolled back, unless
--no-rollback), 4 inconclusive (the canary keeps its share).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return github.around(cmd, "verify", flags.id, func() (rollout.Result, error) { return verify(cmd, &cluster, &flags) })
		},
	}
	cluster.add(cmd.Flags())
	flags.id = ofReleaseFlag(cmd.Flags())
	flags.drain.add(cmd.Flags())
	github.add(cmd)
	cmd.Flags().DurationVar(&flags.limits.window, "window", time.Minute, "how long the canary is watched")
	flags.limits.add(cmd.Flags())
	cmd.Flags().BoolVar(&flags.noRollback, "no-rollback", false, "leave an unhealthy canary as it is")
	takeoverFlag(cmd.Flags(), &flags.takeover)
	cmd.Flags().Lookup("prometheus").Usage = "URL of the Prometheus that scrapes the mesh (needed)"
	cmd.Flags().BoolVar(&flags.again, "again", false, "judge again a release that was judged healthy")
	return cmd
}

func verify(cmd *cobra.Command, cluster *clusterFlags, flags *verifyFlags) (rollout.Result, error) {
	thresholds, err := flags.limits.thresholds()
	if err != nil {
		return rollout.Result{}, err
	}
	c, err := cluster.connect(cmd)
	if err != nil {
		return rollout.Result{}, err
	}
	c.ReleaseID, c.Takeover = *flags.id, flags.takeover
	source, err := verdict.NewSource(flags.drain.prometheus, c.Namespace, thresholds.Latency)
	if err != nil {
		return rollout.Result{}, err
	}
	status, err := c.Status(cmd.Context())
	if err != nil {
		return rollout.Result{}, err
	}
	r := status.Release
	if r != nil && c.ReleaseID != "" && r.ID != c.ReleaseID {
		return rollout.Result{}, &release.InFlightError{Release: *r}
	}
	if message, done, err := judged(status, c.ReleaseID, flags.again); done || err != nil {
		if err != nil {
			return rollout.Result{}, err
		}
		return cluster.printed(cmd, rollout.Result{Verb: "verify", App: c.Manifests.App, Release: r, Message: message})
	}
	verification, err := verdict.Verify(cmd.Context(), verdict.Options{
		Source: source, Canary: c.Manifests.Name(release.Canary), Primary: c.Manifests.Name(release.Primary),
		Thresholds: thresholds, Interval: flags.limits.interval,
		Report: func(e verdict.Evaluation) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%6.1fs  canary %6.0f requests, %6.2f %% ok, %5.2f %% slow   primary %6.0f requests, %6.2f %% ok, %5.2f %% slow\n", e.Elapsed.Seconds(),
				e.Canary.Requests, 100*e.Canary.SuccessRatio(), 100*e.Canary.SlowRatio(),
				e.Primary.Requests, 100*e.Primary.SuccessRatio(), 100*e.Primary.SlowRatio())
		},
	})
	if err != nil {
		return rollout.Result{}, err
	}
	// What was judged must be what the release has put there, from the first look to the last.
	after, err := c.Status(cmd.Context())
	if err != nil {
		return rollout.Result{}, err
	}
	if drift := append(status.Drift, after.Drift...); len(drift) > 0 && verification.Outcome != release.Unhealthy {
		verification.Outcome, verification.Reason = release.Inconclusive, "somebody else has changed the release: "+drift[0]
	}
	return conclude(cmd, cluster, flags, c, r, verification)
}

// judged says whether there is nothing to judge any more, or nothing that could be judged.
func judged(status *rollout.Status, id string, again bool) (message string, done bool, err error) {
	r := status.Release
	if r == nil {
		last := (&release.Ledger{History: status.History}).Last(id)
		switch {
		case last == nil:
			return "", false, &rollout.StageError{Err: fmt.Errorf("%w: begin one with canary", release.ErrNoRelease)}
		case !last.Outcome.Good():
			return "", false, &rollout.StageError{Err: fmt.Errorf("release %s has ended: %s (%s); begin one with canary", last.ID, last.Outcome, last.Reason)}
		}
		return fmt.Sprintf("release %s has ended (%s): there is no canary to judge", last.ID, last.Outcome), true, nil
	}
	healthy := r.Verdict != nil && r.Verdict.Outcome == release.Healthy
	switch r.Stage {
	case release.StageVerified:
		if healthy && !again {
			return "judged healthy before: " + r.Verdict.Reason, true, nil
		}
		return "", false, nil
	case release.StageCanary:
		return "", false, nil
	case release.StagePromoting, release.StagePromoted:
		return "judged healthy before it was promoted: " + r.Verdict.Reason, true, nil
	}
	return "", false, &rollout.StageError{Err: fmt.Errorf("release %s is at stage %s: only a canary with traffic can be judged", r.ID, r.Stage)}
}

// conclude writes the verdict into the ledger and does what follows from it.
func conclude(cmd *cobra.Command, cluster *clusterFlags, flags *verifyFlags, c *rollout.Cluster, r *release.Release, v *verdict.Verification) (rollout.Result, error) {
	result, err := c.Judge(cmd.Context(), release.Verdict{
		Outcome: v.Outcome, Digest: r.Digest(), Reason: v.Reason,
		Requests: int64(v.Canary().Requests), At: time.Now().UTC().Truncate(time.Millisecond),
	})
	if err != nil {
		return rollout.Result{}, err
	}
	var code error
	switch v.Outcome {
	case release.Inconclusive:
		code = &exitError{exitInconclusive, errors.New("inconclusive: " + v.Reason + "; the canary keeps its share, run verify again or roll back")}
	case release.Unhealthy:
		code = &exitError{exitUnhealthy, errors.New("unhealthy: " + v.Reason)}
		if !flags.noRollback {
			if err := flags.drain.apply(c); err != nil {
				return result, err
			}
			if result, err = c.Rollback(cmd.Context(), v.Reason); err != nil {
				return result, &exitError{exitUnhealthy, fmt.Errorf("unhealthy: %s\nrolling back did not finish: %w; run `crossbill rollback`", v.Reason, err)}
			}
			code = &exitError{exitUnhealthy, fmt.Errorf("unhealthy: %s\nrolled back: %s", v.Reason, result.Message)}
		}
	}
	if cluster.output == "json" {
		err = printJSON(cmd.OutOrStdout(), struct {
			rollout.Result
			Verdict *verdict.Verification `json:"verdict"`
		}{result, v})
	} else if code == nil {
		err = cluster.printResult(cmd.OutOrStdout(), result)
	}
	return result, errors.Join(code, err)
}
