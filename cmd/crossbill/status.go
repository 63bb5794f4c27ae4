package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type statusFlags struct {
	all, everywhere, watch bool
}

// watchPause is the time between two looks of --watch.
const watchPause = 2 * time.Second

func newStatusCommand() *cobra.Command {
	var cluster clusterOptions
	var output outputOptions
	var flags statusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show where the app's release is, or those of all apps",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster.complete(cmd)
			if err := output.validate(); err != nil {
				return err
			}
			show, err := flags.shows(cmd, &cluster, &output)
			if err != nil {
				return err
			}
			if !flags.watch {
				return show(cmd.OutOrStdout())
			}
			if output.structured() {
				return &usererr.Error{Field: "--watch", Problem: "it is for people to look at, " + output.format + " is not", Fix: "leave one of them out"}
			}
			return watchStatus(cmd, show)
		},
	}
	cluster.addReader(cmd)
	output.add(cmd)
	cmd.Flags().BoolVar(&flags.all, "all", false, "all apps of the namespace; needs no manifests")
	cmd.Flags().BoolVarP(&flags.everywhere, "all-namespaces", "A", false, "all apps of the cluster; needs no manifests")
	cmd.Flags().BoolVarP(&flags.watch, "watch", "w", false, fmt.Sprintf("look again every %s until it is interrupted; on a terminal in place", watchPause))
	return cmd
}

// shows is what a look reads and prints.
func (f *statusFlags) shows(cmd *cobra.Command, cluster *clusterOptions, output *outputOptions) (func(io.Writer) error, error) {
	if f.all || f.everywhere {
		return statusOfAll(cmd, cluster, output, f.everywhere)
	}
	if err := cluster.validate(); err != nil {
		return nil, err
	}
	c, err := cluster.connect(cmd.Context())
	if err != nil {
		return nil, err
	}
	return func(out io.Writer) error {
		status, err := c.Status(cmd.Context())
		if err != nil {
			return err
		}
		shown := *status
		shown.Release = status.Release.WithoutEvidence()
		shown.History = nil
		for _, finished := range status.History {
			finished.Release = *finished.Release.WithoutEvidence()
			shown.History = append(shown.History, finished)
		}
		v := view{
			data: shown,
			text: func(out io.Writer) error { return report.WriteStatus(out, status, false) },
			wide: func(out io.Writer) error { return report.WriteStatus(out, status, true) },
		}
		if status.Release != nil {
			v.names = []string{"release/" + status.Release.ID}
		}
		return output.print(out, v)
	}, nil
}

// watchStatus looks again and again. On a terminal each look takes the place of the one before; elsewhere it
// is printed when it is another.
func watchStatus(cmd *cobra.Command, show func(io.Writer) error) error {
	out := cmd.OutOrStdout()
	file, ok := out.(*os.File)
	terminal := ok && isatty.IsTerminal(file.Fd())
	before := ""
	for {
		var look strings.Builder
		if err := show(&look); err != nil {
			if cmd.Context().Err() != nil {
				return nil
			}
			fmt.Fprintln(&look, "crossbill:", err) // a cluster that does not answer now may do so again
		}
		switch {
		case terminal: // home, the text with the rest of each line cleared, then all below
			fmt.Fprintf(out, "\x1b[H%s\x1b[J", strings.ReplaceAll(look.String(), "\n", "\x1b[K\n"))
		case look.String() != before:
			fmt.Fprintf(out, "%s\n%s", time.Now().UTC().Format(time.RFC3339), look.String())
		}
		before = look.String()
		select {
		case <-time.After(watchPause):
		case <-cmd.Context().Done():
			return nil
		}
	}
}

func statusOfAll(cmd *cobra.Command, cluster *clusterOptions, output *outputOptions, everywhere bool) (func(io.Writer) error, error) {
	if err := cluster.loadKubeconfig(); err != nil {
		return nil, err
	}
	namespace := cluster.namespace
	if everywhere {
		namespace = ""
	}
	kube, err := cluster.client()
	if err != nil {
		return nil, err
	}
	return func(out io.Writer) error {
		apps, err := rollout.StatusOfAll(cmd.Context(), kube, namespace)
		if err != nil {
			return err
		}
		if len(apps) == 0 && !output.structured() {
			fmt.Fprintln(cmd.ErrOrStderr(), "no app has been released by crossbill there")
			return nil
		}
		v := view{
			data: apps,
			text: func(out io.Writer) error { return report.WriteApps(out, apps, time.Now(), false) },
			wide: func(out io.Writer) error { return report.WriteApps(out, apps, time.Now(), true) },
		}
		for _, app := range apps {
			v.names = append(v.names, "app/"+app.App)
		}
		return output.print(out, v)
	}, nil
}

func newHistoryCommand() *cobra.Command {
	var cluster clusterOptions
	var output outputOptions
	var most int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the app's past releases: who, when, how long, verdict, and why one went back",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if most < 1 {
				return &usererr.Error{Field: "--last", Problem: fmt.Sprintf("%d is not a number of releases", most), Fix: "give 1 or more; the ledger keeps 20"}
			}
			cluster.complete(cmd)
			if err := output.validate(); err != nil {
				return err
			}
			if err := cluster.validate(); err != nil {
				return err
			}
			status, err := cluster.status(cmd.Context())
			if err != nil {
				return err
			}
			past := report.History(status.History[:min(most, len(status.History))])
			if len(past) == 0 && !output.structured() {
				fmt.Fprintln(cmd.ErrOrStderr(), "no release has finished yet")
				return nil
			}
			v := view{
				data: past,
				text: func(out io.Writer) error { return report.WriteHistory(out, past, false) },
				wide: func(out io.Writer) error { return report.WriteHistory(out, past, true) },
			}
			for _, p := range past {
				v.names = append(v.names, "release/"+p.ID)
			}
			return output.print(cmd.OutOrStdout(), v)
		},
	}
	cluster.addReader(cmd)
	output.add(cmd)
	cmd.Flags().IntVar(&most, "last", 20, "how many releases, newest first")
	return cmd
}
