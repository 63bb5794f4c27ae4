package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/our-org/crossbill/internal/release"
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
	var cluster clusterFlags
	var flags statusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show where the app's release is, or those of all apps",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			show, err := flags.shows(cmd, &cluster)
			if err != nil {
				return err
			}
			if !flags.watch {
				return show(cmd.OutOrStdout())
			}
			if cluster.output == "json" || cluster.output == "yaml" {
				return &usererr.Error{Field: "--watch", Problem: "it is for people to look at, " + cluster.output + " is not", Fix: "leave one of them out"}
			}
			return watchStatus(cmd, show)
		},
	}
	cluster.add(cmd.Flags())
	cluster.formats = append(cluster.formats, "yaml", "wide")
	cmd.Flags().Lookup("output").Usage = "text, json, yaml or wide (text with more in it)"
	cmd.Flags().BoolVar(&flags.all, "all", false, "all apps of the namespace; needs no manifests")
	cmd.Flags().BoolVarP(&flags.everywhere, "all-namespaces", "A", false, "all apps of the cluster; needs no manifests")
	cmd.Flags().BoolVarP(&flags.watch, "watch", "w", false, fmt.Sprintf("look again every %s until it is interrupted; on a terminal in place", watchPause))
	return cmd
}

// shows is what a look reads and prints.
func (f *statusFlags) shows(cmd *cobra.Command, cluster *clusterFlags) (func(io.Writer) error, error) {
	if f.all || f.everywhere {
		return statusOfAll(cmd, cluster, f.everywhere)
	}
	c, err := cluster.connect(cmd)
	if err != nil {
		return nil, err
	}
	return func(out io.Writer) error {
		status, err := c.Status(cmd.Context())
		if err != nil {
			return err
		}
		switch cluster.output {
		case "text", "wide":
			return report.Status(out, status, cluster.output == "wide")
		}
		status.Release = status.Release.WithoutEvidence()
		for i := range status.History {
			status.History[i].Release = *status.History[i].Release.WithoutEvidence()
		}
		return cluster.printData(out, status)
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

func statusOfAll(cmd *cobra.Command, cluster *clusterFlags, everywhere bool) (func(io.Writer) error, error) {
	if err := checkOutput(cluster.output, cluster.formats...); err != nil {
		return nil, err
	}
	config, namespace, err := cluster.restConfig()
	if err != nil {
		return nil, err
	}
	if everywhere {
		namespace = ""
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	return func(out io.Writer) error {
		apps, err := rollout.StatusOfAll(cmd.Context(), kube, namespace)
		if err != nil {
			return err
		}
		switch {
		case cluster.output != "text" && cluster.output != "wide":
			return cluster.printData(out, apps)
		case len(apps) == 0:
			fmt.Fprintln(cmd.ErrOrStderr(), "no app has been released by crossbill there")
			return nil
		}
		return report.All(out, apps, time.Now(), cluster.output == "wide")
	}, nil
}

func newHistoryCommand() *cobra.Command {
	var cluster clusterFlags
	var most int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the app's past releases: who, when, how long, verdict, and why one went back",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if most < 1 {
				return &usererr.Error{Field: "--last", Problem: fmt.Sprintf("%d is not a number of releases", most), Fix: "give 1 or more; the ledger keeps 20"}
			}
			status, err := cluster.status(cmd)
			if err != nil {
				return err
			}
			past := report.History(status.History[:min(most, len(status.History))])
			switch {
			case cluster.output != "text" && cluster.output != "wide":
				return cluster.printData(cmd.OutOrStdout(), past)
			case len(past) == 0:
				fmt.Fprintln(cmd.ErrOrStderr(), "no release has ended yet")
				return nil
			}
			return report.HistoryText(cmd.OutOrStdout(), past, cluster.output == "wide")
		},
	}
	cluster.add(cmd.Flags())
	cluster.formats = append(cluster.formats, "yaml", "wide")
	cmd.Flags().Lookup("output").Usage = "text, json, yaml or wide (text with more in it)"
	cmd.Flags().IntVar(&most, "last", 20, "how many releases, newest first")
	return cmd
}

func newPlanCommand() *cobra.Command {
	var cluster clusterFlags
	var flags releaseFlags
	var again bool
	var from string
	cmd := &cobra.Command{
		Use:   "plan canary|promote|cleanup|rollback|migrate",
		Short: "Show what a command would write, by server-side dry runs; nothing is written",
		Long: `Show what a command would write, by server-side dry runs; nothing is written, and
nothing is waited for. --image, --weight, --release-id, --commit, --pipeline-url
and --again are canary's, --from is migrate's.`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"canary", "promote", "cleanup", "rollback", "migrate"},
		RunE: func(cmd *cobra.Command, args []string) error {
			var want release.Release
			var err error
			if args[0] == "canary" {
				if want, err = flags.release(""); err != nil {
					return err
				}
			}
			c, err := cluster.connect(cmd)
			if err != nil {
				return err
			}
			if args[0] == "canary" {
				if want, err = flags.release(c.Manifests.App); err != nil {
					return err
				}
			}
			c.Again = again
			changes, result, err := c.Plan(cmd.Context(), args[0], want, from)
			if err != nil {
				return err
			}
			if cluster.output == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					Command string `json:"command"`
					Changes any    `json:"changes"`
					Message string `json:"message"`
				}{args[0], changes, result.Message})
			}
			out := cmd.OutOrStdout()
			for _, change := range changes {
				fmt.Fprintf(out, "%s %s\n%s\n", change.Action, change.Object, indent(change.Diff))
			}
			if len(changes) == 0 {
				fmt.Fprintln(out, "no change")
			}
			_, err = fmt.Fprintf(out, "after it: %s\n", result.Message)
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "for migrate: the Deployment that was made by hand")
	cluster.add(cmd.Flags())
	flags.add(cmd)
	cmd.Flags().BoolVar(&again, "again", false, "as for canary")
	return cmd
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}
