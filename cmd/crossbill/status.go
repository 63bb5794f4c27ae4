package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/our-org/crossbill/release"
	"github.com/our-org/crossbill/report"
	"github.com/our-org/crossbill/rollout"
)

func newStatusCommand() *cobra.Command {
	var cluster clusterFlags
	var all, everywhere bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show where the app's release is, or those of all apps",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all || everywhere {
				return statusOfAll(cmd, &cluster, everywhere)
			}
			c, err := cluster.connect(cmd)
			if err != nil {
				return err
			}
			status, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			if cluster.output == "json" {
				status.Release = status.Release.WithoutEvidence()
				for i := range status.History {
					status.History[i].Release = *status.History[i].Release.WithoutEvidence()
				}
				return printJSON(cmd.OutOrStdout(), status)
			}
			return report.Status(cmd.OutOrStdout(), status)
		},
	}
	cluster.add(cmd.Flags())
	cmd.Flags().BoolVar(&all, "all", false, "all apps of the namespace; needs no manifests")
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "all apps of the cluster; needs no manifests")
	return cmd
}

func statusOfAll(cmd *cobra.Command, cluster *clusterFlags, everywhere bool) error {
	if err := checkOutput(cluster.output); err != nil {
		return err
	}
	config, namespace, err := cluster.restConfig()
	if err != nil {
		return err
	}
	if everywhere {
		namespace = ""
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return &release.InputError{Field: "--kubeconfig", Problem: err.Error()}
	}
	apps, err := rollout.StatusOfAll(cmd.Context(), kube, namespace)
	if err != nil {
		return err
	}
	if cluster.output == "json" {
		return printJSON(cmd.OutOrStdout(), apps)
	}
	if len(apps) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no app has been released by crossbill there")
		return nil
	}
	return report.All(cmd.OutOrStdout(), apps, time.Now())
}

func newReportCommand() *cobra.Command {
	var cluster clusterFlags
	var html string
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Tell the app's releases as one timeline: text, JSON, or one HTML file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.connect(cmd)
			if err != nil {
				return err
			}
			status, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			timeline := report.Timeline(status)
			if html != "" {
				if err := report.WriteHTML(html, status, timeline); err != nil {
					return err
				}
			}
			if cluster.output == "json" {
				return printJSON(cmd.OutOrStdout(), timeline)
			}
			return report.Text(cmd.OutOrStdout(), timeline)
		},
	}
	cluster.add(cmd.Flags())
	cmd.Flags().StringVar(&html, "html", "", "also write one self-contained HTML file there")
	return cmd
}

func newPlanCommand() *cobra.Command {
	var cluster clusterFlags
	var flags releaseFlags
	var again bool
	var from string
	cmd := &cobra.Command{
		Use:   "plan canary|promote|cleanup|rollback|migrate",
		Short: "Show what a verb would write, by server-side dry runs; nothing is written",
		Long: `Show what a verb would write, by server-side dry runs; nothing is written, and
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
					Verb    string `json:"verb"`
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
