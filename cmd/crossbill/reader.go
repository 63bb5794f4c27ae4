package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/rollout"
)

// readerOptions are those of the commands that read an app's releases in the cluster and change nothing.
type readerOptions struct {
	cluster clusterOptions
	output  outputOptions

	out, log io.Writer
}

func (o *readerOptions) add(cmd *cobra.Command, formats ...string) {
	o.cluster.addReader(cmd)
	o.output.add(cmd, formats...)
}

func (o *readerOptions) complete(cmd *cobra.Command, _ []string) error {
	o.out, o.log = cmd.OutOrStdout(), cmd.ErrOrStderr()
	o.cluster.complete(cmd)
	return nil
}

func (o *readerOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	return o.cluster.validate()
}

// releaseNames are releases as -o name prints them.
func releaseNames(ids ...string) []string {
	var names []string
	for _, id := range ids {
		names = append(names, "release/"+id)
	}
	return names
}

// withoutEvidence is a status for people and programs to read: what verdicts are based on is long, and left out.
func withoutEvidence(s *rollout.Status) rollout.Status {
	short := *s
	short.Release, short.History = s.Release.WithoutEvidence(), nil
	for _, finished := range s.History {
		finished.Release = *finished.WithoutEvidence()
		short.History = append(short.History, finished)
	}
	return short
}
