package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/usererr"
)

type historyOptions struct {
	readerOptions
	last int
}

func newHistoryCommand() *cobra.Command {
	o := &historyOptions{}
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the app's finished releases: when, how long, verdict, outcome, and by whom",
		Long: `List the app's finished releases, newest first: when they finished, how long they
took, the verdict, who promoted them, the outcome, and why one was rolled back.
The ledger keeps the last 20, and older ones that can be returned to.`,
		Example: `  # The last five
  crossbill history --last 5

  # With who started each, its commit and its pipeline
  crossbill history -o wide

  # The digests that were rolled back
  crossbill history -o json | jq -r '.items[] | select(.outcome == "rolled_back") | .digest'`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().IntVar(&o.last, "last", 20, "how many releases, newest first")
	o.add(cmd)
	return cmd
}

func (o *historyOptions) validate() error {
	if o.last < 1 {
		return &usererr.Error{Field: "--last", Problem: fmt.Sprintf("%d is not a number of releases", o.last), Fix: "give 1 or more; the ledger keeps 40 at most"}
	}
	return o.readerOptions.validate()
}

func (o *historyOptions) run(ctx context.Context) error {
	status, err := o.cluster.status(ctx)
	if err != nil {
		return err
	}
	if status.Hold != nil && !o.output.structured() {
		fmt.Fprintln(o.log, "the app is", status.Hold)
	}
	if len(status.Queue) > 0 && !o.output.structured() {
		fmt.Fprintln(o.log, "in the line:", report.Line(status.Queue))
	}
	history := report.History(status.History[:min(o.last, len(status.History))])
	if len(history) == 0 && !o.output.structured() {
		_, err := fmt.Fprintln(o.log, "no release has finished yet")
		return err
	}
	v := view{
		data: history,
		text: func(out io.Writer) error { return report.WriteHistory(out, history, false) },
		wide: func(out io.Writer) error { return report.WriteHistory(out, history, true) },
	}
	for _, r := range history {
		v.names = append(v.names, releaseNames(r.ID)...)
	}
	return o.output.print(o.out, v)
}
