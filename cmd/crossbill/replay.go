package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

type replayOptions struct {
	readerOptions
	releaseID, slo, file string

	test     *verdict.Test // after validate; nil: as it was judged
	recorded *recorded     // after validate, if it is from a file
}

// recorded is a verdict with the counts that it is based on.
type recorded struct {
	releaseID string
	outcome   release.VerdictOutcome
	counts    *verdict.Record
}

func newReplayCommand() *cobra.Command {
	o := &replayOptions{}
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Judge a past release again, by what was counted then",
		Long: `Judge a past release again from the counts in the ledger, or in a file that
verify --record wrote. With --slo it uses other objectives, margins or error
rates: what would they have decided, and when? It changes nothing. Exit codes as
of verify.`,
		Example: `  # Judge the newest release again
  crossbill replay

  # What would stricter objectives have decided?
  crossbill replay --release-id 0123456789ab --slo strict.yaml

  # From a file, without a cluster
  crossbill replay --file verdict.json`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.releaseID, "release-id", "", "release to judge (default: the one in flight, else the newest that has finished)")
	flags.StringVar(&o.slo, "slo", "", "file with other objectives (default: as it was judged)")
	flags.StringVar(&o.file, "file", "", "file that verify --record wrote, instead of the ledger")
	o.add(cmd)
	completeReleases(cmd, "release-id", &o.cluster, true)
	_ = cmd.MarkFlagFilename("slo", "yaml", "yml")
	_ = cmd.MarkFlagFilename("file", "json")
	return cmd
}

func (o *replayOptions) validate() error {
	if o.slo != "" {
		slo, err := verdict.LoadSLO(o.slo, true)
		if err != nil {
			return err
		}
		test := slo.Test()
		o.test = &test
	}
	if o.file == "" {
		return o.readerOptions.validate()
	}
	if o.releaseID != "" {
		return &usererr.Error{Field: "--release-id", Problem: "given together with --file, which has one release", Fix: "give one of them"}
	}
	var err error
	if o.recorded, err = readRecord(o.file); err != nil {
		return err
	}
	return o.output.validate()
}

// readRecord reads a file that verify --record wrote.
func readRecord(file string) (*recorded, error) {
	text, err := os.ReadFile(file)
	var from record
	if err == nil {
		err = json.Unmarshal(text, &from)
	}
	if err == nil && (from.Verification == nil || from.Outcome == "") {
		err = errors.New("it has no verdict")
	}
	if err == nil {
		err = from.Record.Check()
	}
	if err != nil {
		return nil, &usererr.Error{Field: "--file", Problem: err.Error(), Fix: "give a file that verify --record wrote"}
	}
	return &recorded{from.Release, from.Outcome, &from.Record}, nil
}

func (o *replayOptions) run(ctx context.Context) error {
	if o.recorded == nil {
		status, err := o.cluster.status(ctx)
		if err != nil {
			return err
		}
		if o.recorded, err = lastVerdict(status, o.releaseID); err != nil {
			return err
		}
	}
	judgment, used, err := o.recorded.counts.Replay(o.test)
	if err != nil {
		return err
	}
	return o.print(judgment, used)
}

// lastVerdict is the verdict of a release; "" is the one in flight, else the newest that has finished.
func lastVerdict(s *rollout.Status, id string) (*recorded, error) {
	r := s.Release
	if r == nil || id != "" && r.ID != id {
		r = nil
		if last := (&release.Ledger{History: s.History}).Last(id); last != nil {
			r = &last.Release
		}
	}
	switch {
	case r == nil && id == "":
		return nil, &rollout.StageError{Err: errors.New("the ledger has no release yet")}
	case r == nil:
		return nil, &rollout.StageError{Err: fmt.Errorf("the ledger has no release %s", id)}
	case r.Verdict == nil || r.Verdict.Evidence == "":
		return nil, &rollout.StageError{Err: fmt.Errorf("release %s has no verdict with counts", r.ID)}
	}
	counts, err := verdict.ParseRecord(r.Verdict.Evidence)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", r.ID, err)
	}
	return &recorded{r.ID, r.Verdict.Outcome, counts}, nil
}

// print prints a judgment that was made after some of the blocks of counts.
func (o *replayOptions) print(j verdict.Judgment, used int) error {
	if !j.Decided { // the counts end before this test would have
		j.Outcome = release.Inconclusive
	}
	out := struct {
		ReleaseID       string                 `json:"releaseId"`
		RecordedOutcome release.VerdictOutcome `json:"recordedOutcome"`
		Judgment        verdict.Judgment       `json:"judgment"`
		DurationSeconds float64                `json:"durationSeconds"` // until the decision
		OtherMethod     bool                   `json:"otherMethod"`     // the record was judged by an earlier method than this one
	}{ReleaseID: o.recorded.releaseID, RecordedOutcome: o.recorded.outcome, Judgment: j, OtherMethod: o.recorded.counts.Outdated()}
	if used > 0 {
		out.DurationSeconds = o.recorded.counts.Blocks[used-1].Elapsed.Seconds()
	}
	by := ""
	if out.OtherMethod {
		by = " by an earlier method"
	}
	err := o.output.print(o.out, view{
		data:  out,
		text:  line("replay: release %s was judged %s%s; again: %s after %.0f s: %s", out.ReleaseID, out.RecordedOutcome, by, j.Outcome, out.DurationSeconds, j.Reason),
		names: releaseNames(out.ReleaseID),
	})
	if err != nil {
		return err
	}
	switch j.Outcome {
	case release.Unhealthy:
		return &exitError{exitUnhealthy, errors.New("replay: unhealthy")}
	case release.Inconclusive:
		return &exitError{exitInconclusive, errors.New("replay: inconclusive")}
	}
	return nil
}
