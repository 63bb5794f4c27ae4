//go:build controlplane

// Command testcluster is the rehearsal's control plane in one binary: etcd, kube-apiserver and
// kube-controller-manager in one process ("control-plane"), and istiod as a further process of the
// same binary. One binary is one link: each of the two alone links for longer than it starts. "crds" prints Istio's CustomResourceDefinitions.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	"istio.io/istio/manifests"
	istiod "istio.io/istio/pilot/cmd/pilot-discovery/app"
	istiolog "istio.io/istio/pkg/log"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/component-base/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testcluster:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("usage: testcluster control-plane|crds|istiod|version [flags]")
	}
	name := os.Args[1]
	os.Args = os.Args[1:]
	switch name {
	case "control-plane":
		return controlPlane(os.Args[1:])
	case "crds":
		return printCRDs()
	case "istiod":
		pflag.CommandLine = pflag.NewFlagSet(name, pflag.ExitOnError) // drop the flags that Kubernetes registers globally
		istiolog.EnableKlogWithCobra()
		return istiod.NewRootCommand().Execute()
	case "version":
		fmt.Println("Kubernetes", version.Get().GitVersion)
		return nil
	default:
		return fmt.Errorf("unknown component %q: want control-plane, crds, istiod or version", name)
	}
}

// printCRDs writes the CustomResourceDefinitions of the linked Istio, as YAML documents.
func printCRDs() error {
	b, err := manifests.FS.ReadFile("charts/base/files/crd-all.gen.yaml")
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(b)
	return err
}

// controlPlane runs etcd, the API server and the controller manager in this process until one of
// them ends. Arguments: DATADIR ETCD_CLIENT_URL ETCD_PEER_URL READYZ_URL [apiserver flags] -- [controller manager flags].
func controlPlane(args []string) error {
	if len(args) < 4 {
		return fmt.Errorf("control-plane: want DATADIR ETCD_CLIENT_URL ETCD_PEER_URL READYZ_URL [apiserver flags] -- [controller manager flags]")
	}
	apiserverFlags, kcmFlags := args[4:], []string(nil)
	for i, a := range args {
		if a == "--" {
			apiserverFlags, kcmFlags = args[4:i], args[i+1:]
			break
		}
	}
	// Each command applies the logging configuration again; the first one wins.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	if err := startEtcd(args[0], args[1], args[2]); err != nil {
		return err
	}
	done := make(chan error, 2)
	start := func(command *cobra.Command, flags []string) {
		command.SetArgs(flags)
		go func() { done <- fmt.Errorf("%s ended: %w", command.Name(), command.Execute()) }()
	}
	start(apiserver.NewAPIServerCommand(), apiserverFlags)
	if err := waitReady(args[3], done); err != nil {
		return err
	}
	start(kcm.NewControllerManagerCommand(), kcmFlags)
	return <-done
}

func startEtcd(dir, client, peer string) error {
	clientURL, err := url.Parse(client)
	if err != nil {
		return err
	}
	peerURL, err := url.Parse(peer)
	if err != nil {
		return err
	}
	c := embed.NewConfig()
	c.Dir, c.UnsafeNoFsync, c.LogLevel = dir, true, "error" // throw-away data: no fsync
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	e, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	<-e.Server.ReadyNotify()
	return nil
}

// waitReady polls the API server's readyz (no client of ours can watch before it answers).
func waitReady(readyz string, ended <-chan error) error {
	client := &http.Client{
		Timeout: time.Second,
		// The serving certificate was made a moment ago for this one run; the clients proper verify it.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver not ready after a minute: see its log above")
		case <-tick.C:
			response, err := client.Get(readyz)
			if err != nil {
				continue
			}
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
}
