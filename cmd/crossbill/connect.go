package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	istio "istio.io/client-go/pkg/clientset/versioned"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// clusterFlags are the flags of every command that talks to a cluster.
type clusterFlags struct {
	kubeconfig string
	connectTo  string
	overrides  clientcmd.ConfigOverrides
	manifests  string
	output     string
	timeout    time.Duration
	by         string
	formats    []string // of --output

	// What connect found, for who is told.
	app, namespace string
	steps          []notify.Step
}

func (f *clusterFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file (default $KUBECONFIG, then ~/.kube/config, then the pod's own account)")
	flags.StringVar(&f.overrides.CurrentContext, "context", "", "context of the kubeconfig (default: its current one)")
	flags.StringVarP(&f.overrides.Context.Namespace, "namespace", "n", "", "namespace of the app (default: the context's)")
	flags.StringVar(&f.connectTo, "connect-to", "", "host:port where the API server is reached, when not at the kubeconfig's address; its certificate is still checked for the kubeconfig's name")
	flags.StringVar(&f.manifests, "manifests", "k8s", "folder with the app's Kubernetes manifests")
	f.formats = []string{"text", "json"}
	flags.StringVarP(&f.output, "output", "o", "text", "text or json")
	flags.DurationVar(&f.timeout, "timeout", 5*time.Minute, "bound of each wait for the cluster")
	flags.StringVar(&f.by, "by", "", "who acts, for the ledger (default: user and job of GitLab CI or GitHub Actions, else user and host)")
}

// connect reads the manifests, reaches the cluster and finds what would make every command fail.
func (f *clusterFlags) connect(cmd *cobra.Command) (*rollout.Cluster, error) {
	if err := checkOutput(f.output, f.formats...); err != nil {
		return nil, err
	}
	set, err := manifest.Load(f.manifests)
	if err != nil {
		return nil, err
	}
	config, namespace, err := f.restConfig()
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	mesh, err := istio.NewForConfig(config)
	if err != nil {
		return nil, &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	if f.by == "" {
		f.by = rollout.Identity()
	}
	f.app, f.namespace = set.App, namespace
	start := time.Now()
	c := &rollout.Cluster{
		Kube: kube, Istio: mesh, Namespace: namespace, Manifests: set,
		By: f.by, Timeout: f.timeout,
		Parts: func(ctx context.Context, reference string) ([]string, error) {
			keychain, err := environmentLogin()
			if err != nil {
				return nil, err
			}
			return image.Parts(ctx, reference, keychain)
		},
		Log: func(e rollout.Event) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%6.1fs  %s: %s\n", time.Since(start).Seconds(), e.Object, e.Message)
			f.steps = append(f.steps, notify.Step{At: time.Now(), Object: e.Object, Message: e.Message})
		},
	}
	return c, c.Preflight(cmd.Context())
}

// status connects and reads what the cluster knows of the app's releases.
func (f *clusterFlags) status(cmd *cobra.Command) (*rollout.Status, error) {
	c, err := f.connect(cmd)
	if err != nil {
		return nil, err
	}
	return c.Status(cmd.Context())
}

// checkOutput finds a format that a command does not have.
func checkOutput(format string, formats ...string) error {
	if slices.Contains(formats, format) {
		return nil
	}
	return &usererr.Error{Field: "--output", Problem: fmt.Sprintf("%q is not a format", format), Fix: "give one of: " + strings.Join(formats, ", ")}
}

// restConfig resolves the kubeconfig as kubectl does.
func (f *clusterFlags) restConfig() (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	client := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &f.overrides)
	if raw, err := client.RawConfig(); err == nil && f.overrides.CurrentContext != "" && raw.Contexts[f.overrides.CurrentContext] == nil {
		return nil, "", &usererr.Error{Field: "--context", Problem: fmt.Sprintf("context %q is not in the kubeconfig", f.overrides.CurrentContext), Fix: "`kubectl config get-contexts` lists them"}
	}
	config, err := client.ClientConfig()
	if err != nil {
		fix := "give a kubeconfig file, set KUBECONFIG, or run in a pod with a service account"
		if errors.Is(err, os.ErrNotExist) {
			fix = "check the path"
		}
		return nil, "", &usererr.Error{Field: "--kubeconfig", Problem: err.Error(), Fix: fix}
	}
	namespace, _, err := client.Namespace()
	if err != nil {
		return nil, "", &usererr.Error{Field: "--namespace", Problem: err.Error()}
	}
	// The commands make a few requests each; client-go's default of 5 a second would be what they wait for.
	config.QPS, config.Burst = 50, 100
	config.UserAgent = "crossbill"
	config.WarningHandler = rest.NoWarnings{}
	if f.connectTo != "" {
		if _, _, err := net.SplitHostPort(f.connectTo); err != nil {
			return nil, "", &usererr.Error{Field: "--connect-to", Problem: err.Error(), Fix: "give host:port"}
		}
		dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
		config.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, f.connectTo)
		}
	}
	return config, namespace, nil
}

// drainFlags say how a command sees that the canary gets no more requests, before its pods are deleted.
type drainFlags struct {
	prometheus       string
	prometheusConfig string
	settle           time.Duration
}

func (f *drainFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.prometheus, "prometheus", "", "Prometheus's URL: a canary is deleted when its request counters stand still")
	flags.StringVar(&f.prometheusConfig, "prometheus-config", "", "file in the form of Prometheus's http_config: credentials, CA and headers for Prometheus (default: none)")
	flags.DurationVar(&f.settle, "settle-delay", rollout.DefaultSettleDelay, "without --prometheus: time that the data plane is given to take a route over")
}

func (f *drainFlags) apply(c *rollout.Cluster) error {
	c.SettleDelay = f.settle
	if f.prometheus == "" {
		return nil
	}
	source, err := f.source(c, verdict.SourceOptions{})
	if err != nil {
		return err
	}
	c.Drained = source.Quiet
	return nil
}

// source is the Prometheus that the flags name.
func (f *drainFlags) source(c *rollout.Cluster, o verdict.SourceOptions) (*verdict.Source, error) {
	o.URL, o.HTTPConfig, o.Namespace = f.prometheus, f.prometheusConfig, c.Namespace
	return verdict.NewSource(o)
}

// takeoverFlag is --takeover of the commands that wait for the lock.
func takeoverFlag(flags *pflag.FlagSet, takeover *bool) {
	flags.BoolVar(takeover, "takeover", false, "take the lock of a dead job at once; one that lives stops with exit code 5")
}

// ofReleaseFlag is --release-id of the commands that go on with a release.
func ofReleaseFlag(flags *pflag.FlagSet) *string {
	return flags.String("release-id", "", "release that is meant: any other one in flight is left alone, exit code 5 (default: the one in flight)")
}

// printResult prints what a command came to.
func (f *clusterFlags) printResult(out io.Writer, result rollout.Result) error {
	if f.output == "json" {
		result.Release = result.Release.WithoutEvidence()
		return printJSON(out, result)
	}
	_, err := fmt.Fprintf(out, "%s: %s\n", result.Command, result.Message)
	return err
}

// printed is a result that was printed.
func (f *clusterFlags) printed(cmd *cobra.Command, result rollout.Result) (rollout.Result, error) {
	return result, f.printResult(cmd.OutOrStdout(), result)
}

// printData prints a value as the JSON or YAML that was asked for.
func (f *clusterFlags) printData(out io.Writer, value any) error {
	if f.output != "yaml" {
		return printJSON(out, value)
	}
	text, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
