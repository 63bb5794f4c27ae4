// Command argocd is those parts of Argo CD that bring manifests from Git into a cluster, and the store that they share:
//
//	argocd application-controller|repo-server FLAGS
//	argocd redis HOST:PORT
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alicebob/miniredis/v2"
	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	reposerver "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
	"github.com/argoproj/argo-cd/v3/util/log"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

func main() {
	klog.SetLogger(log.NewLogrusLogger(log.NewWithCurrentConfig()))
	root := &cobra.Command{Use: "argocd"}
	controller, reposerver := controller.NewCommand(), reposerver.NewCommand()
	controller.Use, reposerver.Use = "application-controller", "repo-server"
	root.AddCommand(controller, reposerver, &cobra.Command{Use: "redis", Args: cobra.ExactArgs(1), RunE: redis})
	if root.Execute() != nil {
		os.Exit(1)
	}
}

// redis serves until a signal ends it.
func redis(_ *cobra.Command, arguments []string) error {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(arguments[0]); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	defer server.Close()
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	<-end
	return nil
}
