package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// completionTimeout bounds what a completion asks of the cluster: somebody has pressed Tab and waits.
const completionTimeout = 2 * time.Second

// completer is cobra's completion of a flag.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// asking is a completion that is empty when the cluster is away.
func asking(ask func(ctx context.Context) ([]string, error)) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		if err := cmd.Root().PersistentPreRunE(cmd, nil); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, err := ask(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeCluster completes the flags that name something of a kubeconfig or a cluster.
func completeCluster(cmd *cobra.Command, o *clusterOptions) {
	_ = cmd.RegisterFlagCompletionFunc("context", asking(func(context.Context) ([]string, error) {
		raw, err := o.clientConfig().RawConfig()
		return slices.Sorted(maps.Keys(raw.Contexts)), err
	}))
	_ = cmd.RegisterFlagCompletionFunc("namespace", asking(func(ctx context.Context) ([]string, error) {
		if err := o.loadKubeconfig(); err != nil {
			return nil, err
		}
		kube, err := o.client()
		if err != nil {
			return nil, err
		}
		list, err := kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		var names []string
		for _, namespace := range list.Items {
			names = append(names, namespace.Name)
		}
		return names, nil
	}))
	_ = cmd.MarkFlagDirname("manifests")
}

// completeReleases completes a flag that names a release; ended also offers those that have ended.
func completeReleases(cmd *cobra.Command, flag string, o *clusterOptions, ended bool) {
	_ = cmd.RegisterFlagCompletionFunc(flag, asking(func(ctx context.Context) ([]string, error) {
		if err := o.validate(); err != nil {
			return nil, err
		}
		c, err := o.cluster()
		if err != nil {
			return nil, err
		}
		status, err := c.Status(ctx)
		if err != nil {
			return nil, err
		}
		var ids []string
		if status.Release != nil {
			ids = append(ids, describeRelease(status.Release))
		}
		for i := range status.History {
			if ended {
				ids = append(ids, describeRelease(&status.History[i].Release))
			}
		}
		return ids, nil
	}))
}

func describeRelease(r *release.Release) string {
	return cobra.CompletionWithDesc(r.ID, r.Image)
}
