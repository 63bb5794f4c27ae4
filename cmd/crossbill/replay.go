package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

func newReplayCommand() *cobra.Command {
	var cluster clusterOptions
	var output outputOptions
	var id, slo, file string
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Judge a past release again, by what was counted then",
		Long: `Judge a past release again from the counts in the ledger, or in a file that
verify --record wrote. With --slo by other objectives, margins or error rates:
what would they have decided, and when? Changes nothing. Exit codes as of verify.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster.complete(cmd)
			if err := output.validate(); err != nil {
				return err
			}
			name, was, kept, err := recorded(cmd, &cluster, id, file)
			if err != nil {
				return err
			}
			var other *verdict.Test
			if slo != "" {
				loaded, err := verdict.LoadSLO(slo, true)
				if err != nil {
					return err
				}
				test := loaded.Test()
				other = &test
			}
			j, used, err := kept.Replay(other)
			if err != nil {
				return err
			}
			return printReplay(cmd, &output, name, was, kept, j, used)
		},
	}
	cluster.addReader(cmd)
	output.add(cmd)
	cmd.Flags().StringVar(&id, "release-id", "", "release to judge (default: the one in flight, else the newest that has ended)")
	cmd.Flags().StringVar(&slo, "slo", "", "file with other objectives (default: as it was judged)")
	cmd.Flags().StringVar(&file, "file", "", "file that verify --record wrote, in place of the ledger")
	return cmd
}

// recorded finds what a verdict rests on.
func recorded(cmd *cobra.Command, cluster *clusterOptions, id, file string) (name string, was release.VerdictOutcome, kept *verdict.Record, err error) {
	if file != "" {
		text, err := os.ReadFile(file)
		var from record
		if err == nil {
			err = json.Unmarshal(text, &from)
		}
		if err == nil && from.Verification == nil {
			err = fmt.Errorf("it has no verdict")
		}
		if err != nil {
			return "", "", nil, &usererr.Error{Field: "--file", Problem: err.Error(), Fix: "give a file that verify --record wrote"}
		}
		return from.Release, from.Outcome, &from.Record, from.Record.Check()
	}
	if err := cluster.validate(); err != nil {
		return "", "", nil, err
	}
	status, err := cluster.status(cmd.Context())
	if err != nil {
		return "", "", nil, err
	}
	r := status.Release
	if r == nil || id != "" && r.ID != id {
		if last := (&release.Ledger{History: status.History}).Last(id); last != nil {
			r = &last.Release
		} else {
			r = nil
		}
	}
	switch {
	case r == nil:
		return "", "", nil, &rollout.StageError{Err: fmt.Errorf("the ledger knows no release %s", id)}
	case r.Verdict == nil || r.Verdict.Evidence == "":
		return "", "", nil, &rollout.StageError{Err: fmt.Errorf("release %s has no verdict with counts", r.ID)}
	}
	kept, err = verdict.ParseRecord(r.Verdict.Evidence)
	return r.ID, r.Verdict.Outcome, kept, err
}

func printReplay(cmd *cobra.Command, output *outputOptions, name string, was release.VerdictOutcome, kept *verdict.Record, j verdict.Judgement, used int) error {
	out := struct {
		Release   string                 `json:"release"`
		Was       release.VerdictOutcome `json:"was"`
		Judgement verdict.Judgement      `json:"judgement"`
		Seconds   float64                `json:"seconds"` // until the decision
	}{Release: name, Was: was, Judgement: j}
	if used > 0 {
		out.Seconds = kept.Blocks[used-1].Elapsed.Seconds()
	}
	if !j.Decided { // the counts end before this test would have
		out.Judgement.Outcome = release.Inconclusive
	}
	err := output.print(cmd.OutOrStdout(), view{
		data:  out,
		text:  line("replay: release %s was judged %s; again: %s after %.0f s: %s", name, was, out.Judgement.Outcome, out.Seconds, j.Reason),
		names: []string{"release/" + name},
	})
	if err != nil {
		return err
	}
	switch out.Judgement.Outcome {
	case release.Unhealthy:
		return &exitError{exitUnhealthy, fmt.Errorf("replay: unhealthy")}
	case release.Inconclusive:
		return &exitError{exitInconclusive, fmt.Errorf("replay: inconclusive")}
	}
	return nil
}
