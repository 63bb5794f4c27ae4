package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// sloFlags say what is healthy.
type sloFlags struct {
	file        string
	interval    time.Duration
	maxDuration time.Duration
	minRequests float64
	explain     bool
}

func (f *sloFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.file, "slo", "", "file with the objectives (default: slo.yaml in the folder of --manifests, else 99.9 % available and 95 % within 500 ms)")
	flags.DurationVar(&f.interval, "interval", 5*time.Second, "time between two looks")
	flags.Float64Var(&f.minRequests, "min-requests", 0, "the canary's requests below which nothing passes (default: the file's)")
	flags.BoolVar(&f.explain, "explain", false, "print every query with the samples that answered it")
}

// load reads the objectives. Flags go before the file.
func (f *sloFlags) load(cmd *cobra.Command, manifests string) (*verdict.SLO, error) {
	file := f.file
	if file == "" {
		file = filepath.Join(manifests, manifest.SLOFile)
	}
	slo, err := verdict.LoadSLO(file, f.file != "")
	if err != nil {
		return nil, err
	}
	if cmd.Flags().Changed("min-requests") {
		if f.minRequests < 1 {
			return nil, &usererr.Error{Field: "--min-requests", Problem: fmt.Sprintf("%g requests prove nothing", f.minRequests), Fix: "give at least 1"}
		}
		slo.MinRequests = f.minRequests
	}
	if cmd.Flags().Changed("max-duration") {
		if f.maxDuration <= 0 {
			return nil, &usererr.Error{Field: "--max-duration", Problem: fmt.Sprintf("%s is not a time to watch", f.maxDuration), Fix: "give for example 15m"}
		}
		slo.Limit(f.maxDuration)
	}
	return slo, nil
}

// source reads what the objectives count.
func (f *sloFlags) source(cmd *cobra.Command, c *rollout.Cluster, drain *drainFlags, slo *verdict.SLO) (*verdict.Source, error) {
	o := verdict.SourceOptions{Indicators: slo.Objectives}
	if f.explain {
		o.Explain = func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "    "+format+"\n", args...) }
	}
	return drain.source(c, o)
}

// printLook prints a look as a line: what both tracks got and how far the evidence is.
func printLook(cmd *cobra.Command) func(verdict.Evaluation) {
	return func(e verdict.Evaluation) {
		line := fmt.Sprintf("%6.1fs", e.Elapsed.Seconds())
		for _, v := range e.Judgement.Evidence {
			line += "  " + v.Objective + ": canary " + shareText(v.Total.Canary)
			if !v.Alone {
				line += ", primary " + shareText(v.Total.Primary)
			}
			bad, good := v.Progress()
			line += fmt.Sprintf(", shown bad %.0f %%, good %.0f %%;", 100*bad, 100*good)
		}
		switch {
		case e.Judgement.Decided:
			line += "  " + string(e.Judgement.Outcome)
		case e.Judgement.Left > 0:
			line += fmt.Sprintf("  about %s more", e.Judgement.Left.Round(time.Second))
		}
		fmt.Fprintln(cmd.ErrOrStderr(), line)
	}
}

// printWarning prints what hinders a verdict.
func printWarning(cmd *cobra.Command) func(string) {
	return func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "        "+text) }
}

func shareText(t verdict.Tally) string {
	if t.Events == 0 {
		return "nothing yet"
	}
	return fmt.Sprintf("%.2f %% of %.0f ok", 100*(1-t.Share()), t.Events)
}

type verifyFlags struct {
	drain             drainFlags
	slo               sloFlags
	probe             probeFlags
	record            string
	noRollback, again bool
	observe, takeover bool
	id                *string
}

func newVerifyCommand() *cobra.Command {
	var cluster clusterFlags
	var flags verifyFlags
	var tell tellFlags
	cmd := &cobra.Command{
		Use:   "verify --prometheus URL",
		Short: "Judge the canary by what its callers saw; roll back when it is unhealthy",
		Long: `Judge the canary beside primary, by the requests that reach both of them.

A sequential test with stated error rates decides as soon as there is enough
evidence. Counts Istio's request counters as the callers reported them. Too few
requests or unreadable metrics are inconclusive, never healthy. The objectives,
their margins and the error rates are in slo.yaml beside the manifests.

Exit codes: 0 healthy, 3 unhealthy (rolled back, unless --no-rollback),
4 inconclusive (the canary keeps its share). With --observe nothing is changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tell.around(cmd, &cluster, "verify", flags.id, func() (rollout.Result, error) { return verify(cmd, &cluster, &flags) })
		},
	}
	cluster.add(cmd.Flags())
	flags.id = ofReleaseFlag(cmd.Flags())
	flags.drain.add(cmd.Flags())
	tell.add(cmd)
	flags.slo.add(cmd.Flags())
	flags.probe.add(cmd.Flags())
	cmd.Flags().DurationVar(&flags.slo.maxDuration, "max-duration", 0, "time after which what is not decided is inconclusive (default: the file's, else 15m)")
	cmd.Flags().StringVar(&flags.record, "record", "", "file for the verdict with all that it rests on, as JSON; `crossbill replay` judges it again")
	cmd.Flags().BoolVar(&flags.observe, "observe", false, "judge and change nothing: no verdict in the ledger, no rollback")
	cmd.Flags().BoolVar(&flags.noRollback, "no-rollback", false, "leave an unhealthy canary as it is")
	takeoverFlag(cmd.Flags(), &flags.takeover)
	cmd.Flags().Lookup("prometheus").Usage = "URL of the Prometheus that scrapes the mesh (needed)"
	cmd.Flags().BoolVar(&flags.again, "again", false, "judge again a release that was judged healthy")
	return cmd
}

func verify(cmd *cobra.Command, cluster *clusterFlags, flags *verifyFlags) (rollout.Result, error) {
	slo, err := flags.slo.load(cmd, cluster.manifests)
	if err != nil {
		return rollout.Result{}, err
	}
	c, err := cluster.connect(cmd)
	if err != nil {
		return rollout.Result{}, err
	}
	c.ReleaseID, c.Takeover = *flags.id, flags.takeover
	source, err := flags.slo.source(cmd, c, &flags.drain, slo)
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
	if message, done, err := judged(status, c.ReleaseID, flags.again || flags.observe); done || err != nil {
		if err != nil {
			return rollout.Result{}, err
		}
		return cluster.printed(cmd, rollout.Result{Command: "verify", App: c.Manifests.App, Release: r, Message: message})
	}
	stop, err := flags.probe.start(cmd.Context())
	if err != nil {
		return rollout.Result{}, err
	}
	verification, err := verdict.Verify(cmd.Context(), verdict.Options{
		Source: source, Canary: c.Manifests.Name(release.Canary), Primary: c.Manifests.Name(release.Primary),
		Test: slo.Test(), Interval: flags.slo.interval, Report: printLook(cmd),
		Warn: printWarning(cmd),
	})
	stop()
	if err != nil {
		return rollout.Result{}, err
	}
	// What was judged must be what the release has put there, from the first look to the last.
	after, err := c.Status(cmd.Context())
	if err != nil {
		return rollout.Result{}, err
	}
	if drift := append(status.Drift, after.Drift...); len(drift) > 0 && verification.Outcome != release.Unhealthy {
		verification.Outcome, verification.Cause, verification.Reason = release.Inconclusive, verdict.Drift, "somebody else has changed the release: "+drift[0]
	}
	if err := writeRecord(flags.record, r, verification); err != nil {
		return rollout.Result{}, err
	}
	if flags.observe {
		return observed(cmd, cluster, c, r, verification)
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
	evidence, err := json.Marshal(v.Record)
	if err != nil {
		return rollout.Result{}, err
	}
	result, err := c.Judge(cmd.Context(), release.Verdict{
		Outcome: v.Outcome, Cause: string(v.Cause), Digest: r.Digest(), Reason: v.Reason, Evidence: string(evidence),
		Requests: int64(v.Record.Requests()), At: time.Now().UTC().Truncate(time.Millisecond),
	})
	if err != nil {
		return rollout.Result{}, fmt.Errorf("%s (%s), but the verdict could not be noted: %w", v.Outcome, v.Reason, err)
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
	return result, printJudged(cmd, cluster, result, v, code)
}

// printJudged prints what verify came to, and gives the error that it ends with, if any: code.
func printJudged(cmd *cobra.Command, cluster *clusterFlags, result rollout.Result, v *verdict.Verification, code error) error {
	switch {
	case cluster.output == "json":
		result.Release = result.Release.WithoutEvidence()
		return errors.Join(code, printJSON(cmd.OutOrStdout(), struct {
			rollout.Result
			Verdict *verdict.Verification `json:"verdict"`
		}{result, v}))
	case code == nil:
		return cluster.printResult(cmd.OutOrStdout(), result)
	}
	return code
}

// observed tells a verdict from which nothing follows but the exit code.
func observed(cmd *cobra.Command, cluster *clusterFlags, c *rollout.Cluster, r *release.Release, v *verdict.Verification) (rollout.Result, error) {
	result := rollout.Result{Command: "verify", App: c.Manifests.App, Release: r, Message: fmt.Sprintf("observed: %s: %s; nothing was changed", v.Outcome, v.Reason)}
	var code error
	switch v.Outcome {
	case release.Unhealthy:
		code = &exitError{exitUnhealthy, errors.New(result.Message)}
	case release.Inconclusive:
		code = &exitError{exitInconclusive, errors.New(result.Message)}
	}
	return result, printJudged(cmd, cluster, result, v, code)
}

// record is a verdict as a file keeps it.
type record struct {
	Release string `json:"release"`
	Digest  string `json:"digest"`
	*verdict.Verification
}

func writeRecord(file string, r *release.Release, v *verdict.Verification) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(record{r.ID, r.Digest(), v}, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("--record: %w; the verdict (%s: %s) was not noted, run verify again", err, v.Outcome, v.Reason)
	}
	return nil
}
