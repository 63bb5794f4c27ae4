package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	istio "istio.io/client-go/pkg/clientset/versioned"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/httpclient"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// clusterOptions say which app in which cluster a command is about.
type clusterOptions struct {
	kubeconfig string
	overrides  clientcmd.ConfigOverrides
	connectTo  string
	manifests  string

	// admitBundle decides on the bundle that the manifests come from, before it is read; nil where nothing is deployed.
	admitBundle func(ctx context.Context, reference string, keychain authn.Keychain) error

	recovers bool   // what cannot be read is done without
	byLedger bool   // a bundle is done without
	app      string // that is meant; "" for the manifests'
	appGiven bool   // by its flag
	unread   error  // why the manifests could not be read
	path     string // of the app's folder in Git, as its ledger has it; "" for gitops.path

	git       func(*rollout.Cluster) error // what applies the manifests from Git; nil for what reads
	verbose   bool
	cmd       *cobra.Command // after complete
	log       io.Writer
	set       *manifest.Set  // after loadManifests
	bundle    *bundle.Bundle // that the set comes from, if it does
	config    *rest.Config   // after loadKubeconfig, as are namespace and api
	api       *rollout.Contact
	namespace string
}

func (o *clusterOptions) add(cmd *cobra.Command) {
	inSection(cmd.Flags(), clusterSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.manifests, "manifests", "k8s", "the app's Kubernetes manifests: a folder, a kustomization, a Helm chart, - for the standard input, or oci://REPOSITORY@sha256:… for a bundle")
		addRouter(flags)
		o.addKubectl(flags)
		flags.StringVar(&o.connectTo, "connect-to", "", "host:port where the API server is reached, when not at the kubeconfig's address; its certificate is still checked for the kubeconfig's name")
	})
	completeCluster(cmd, o)
}

// addRouter adds the flag that says what leads the traffic to the tracks. Its value is read with the other settings.
func addRouter(flags *pflag.FlagSet) {
	flags.String("router", "", "what leads the traffic to the tracks, where the manifests have both: virtualservice or httproute (default: what the manifests have)")
}

// addReader adds the flags of a command that changes nothing. Until the next release it takes the flags of the
// others too.
func (o *clusterOptions) addReader(cmd *cobra.Command) {
	o.add(cmd)
	var timeout time.Duration
	positiveDuration(cmd.Flags(), &timeout, "timeout", time.Minute, "has no meaning here")
	cmd.Flags().String("by", "", "has no meaning here")
	for _, name := range []string{"timeout", "by"} {
		_ = cmd.Flags().MarkDeprecated(name, "this command waits for nothing and changes nothing; it will be removed")
	}
}

// addKubectl adds kubectl's own flags, but for the secrets, which everybody on the machine could read, and for
// what turns the check of certificates off.
func (o *clusterOptions) addKubectl(flags *pflag.FlagSet) {
	flags.StringVar(&o.kubeconfig, clientcmd.RecommendedConfigPathFlag, "", "kubeconfig file (default $KUBECONFIG, then ~/.kube/config, then the pod's own account)")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.CurrentContext.Description = "context of the kubeconfig (default: its current one)"
	names.ContextOverrideFlags.Namespace.Description = "namespace of the app (default: the context's)"
	names.ContextOverrideFlags.ClusterName.Description = "cluster of the kubeconfig (default: the context's)"
	names.ContextOverrideFlags.AuthInfoName.Description = "user of the kubeconfig (default: the context's)"
	names.ClusterOverrideFlags.APIServer.Description = "URL of the API server (default: the cluster's)"
	names.ClusterOverrideFlags.CertificateAuthority.Description = "file with the API server's CA (default: the cluster's)"
	names.ClusterOverrideFlags.TLSServerName.Description = "name that the API server's certificate is checked for (default: its host)"
	names.AuthOverrideFlags.Impersonate.Description = "user to act as"
	names.AuthOverrideFlags.ImpersonateGroups.Description = "group to act as; can be given more than once"
	names.Timeout.Description = "bound of each request to the API server; 0 is none"
	names.AuthOverrideFlags.Token, names.AuthOverrideFlags.Username, names.AuthOverrideFlags.Password = clientcmd.FlagInfo{}, clientcmd.FlagInfo{}, clientcmd.FlagInfo{}
	names.AuthOverrideFlags.ImpersonateUID, names.AuthOverrideFlags.ClientCertificate, names.AuthOverrideFlags.ClientKey = clientcmd.FlagInfo{}, clientcmd.FlagInfo{}, clientcmd.FlagInfo{}
	names.ClusterOverrideFlags.InsecureSkipTLSVerify, names.ClusterOverrideFlags.DisableCompression, names.ClusterOverrideFlags.ProxyURL = clientcmd.FlagInfo{}, clientcmd.FlagInfo{}, clientcmd.FlagInfo{}
	clientcmd.BindOverrideFlags(&o.overrides, flags, names)
}

func (o *clusterOptions) complete(cmd *cobra.Command) {
	o.cmd, o.log = cmd, cmd.ErrOrStderr()
	o.appGiven = cmd.Flags().Changed("app")
	o.verbose, _ = cmd.Flags().GetBool("verbose")
}

// validate reads the manifests and the kubeconfig, and asks nothing of the cluster.
func (o *clusterOptions) validate() error {
	if err := o.loadManifests(); err != nil {
		return err
	}
	if err := o.loadKubeconfig(); err != nil {
		return err
	}
	return o.checkBundle()
}

// loadKubeconfig resolves the kubeconfig as kubectl does.
func (o *clusterOptions) loadKubeconfig() error {
	if err := checkHostPort(o.connectTo); o.connectTo != "" && err != nil {
		return &usererr.Error{Field: "--connect-to", Problem: err.Error(), Fix: "give host:port, for example 10.0.0.1:6443"}
	}
	if timeout, err := clientcmd.ParseTimeout(o.overrides.Timeout); err != nil || timeout < 0 {
		return &usererr.Error{Field: "--request-timeout", Problem: fmt.Sprintf("%q is not a duration", o.overrides.Timeout), Fix: "give for example 30s, or 0 for none"}
	}
	client := o.clientConfig()
	if err := o.checkOverrides(client); err != nil {
		return err
	}
	config, err := client.ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return &usererr.Error{Field: "--kubeconfig", Problem: "it names no cluster", Fix: "give a kubeconfig file with a current context, set KUBECONFIG, or run in a pod with a service account"}
	case errors.Is(err, os.ErrNotExist):
		return &usererr.Error{Field: "--kubeconfig", Problem: err.Error(), Fix: "check the path"}
	case err != nil && len(o.overrides.AuthInfo.ImpersonateGroups) > 0 && o.overrides.AuthInfo.Impersonate == "":
		return &usererr.Error{Field: "--as-group", Problem: "is given without a user", Fix: "give --as too"}
	case err != nil:
		return &usererr.Error{Field: "--kubeconfig", Problem: err.Error(), Fix: "give a kubeconfig file that kubectl can read"}
	}
	if o.namespace, _, err = client.Namespace(); err != nil {
		return &usererr.Error{Field: "cluster.namespace", Problem: err.Error()}
	}
	// The commands make a few requests each; client-go's default of 5 a second would be what they wait for.
	config.QPS, config.Burst = 50, 100
	config.UserAgent = "crossbill"
	config.Wrap(func(transport http.RoundTripper) http.RoundTripper { return httpclient.Guard{Transport: transport} })
	config.WarningHandler = rest.NoWarnings{}
	if o.log != nil { // else this completes a line
		config.WarningHandler = rest.NewWarningWriter(o.log, rest.WarningWriterOptions{Deduplicate: true})
	}
	if o.connectTo != "" {
		dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
		config.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, o.connectTo)
		}
	}
	if o.verbose {
		config.Wrap(logRequests(o.log))
	}
	o.api = &rollout.Contact{}
	config.Wrap(o.api.Wrap)
	o.config = config
	return nil
}

// checkOverrides finds flags that name what there is not. client-go would say so of the kubeconfig, or ask the network.
func (o *clusterOptions) checkOverrides(client clientcmd.ClientConfig) error {
	given := &o.overrides
	if raw, err := client.RawConfig(); err == nil {
		for _, n := range []struct {
			field, kind, name, fix string
			found                  bool
		}{
			{"cluster.context", "context", given.CurrentContext, "give --context NAME, or --context= for the current one; `kubectl config get-contexts` lists them", raw.Contexts[given.CurrentContext] != nil},
			{"--cluster", "cluster", given.Context.Cluster, "`kubectl config get-clusters` lists them", raw.Clusters[given.Context.Cluster] != nil},
			{"--user", "user", given.Context.AuthInfo, "`kubectl config get-users` lists them", raw.AuthInfos[given.Context.AuthInfo] != nil},
		} {
			if n.name != "" && !n.found {
				return &usererr.Error{Field: n.field, Problem: fmt.Sprintf("%s %q not found in the kubeconfig", n.kind, n.name), Fix: n.fix}
			}
		}
	}
	if server := given.ClusterInfo.Server; server != "" {
		if u, err := url.Parse(server); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return &usererr.Error{Field: "--server", Problem: fmt.Sprintf("%q is not a web address", server), Fix: "give for example https://10.0.0.1:6443"}
		}
	}
	if file := given.ClusterInfo.CertificateAuthority; file != "" {
		if _, err := os.Stat(file); err != nil {
			return &usererr.Error{Field: "--certificate-authority", Problem: err.Error(), Fix: "give a file with the API server's CA as PEM"}
		}
	}
	return nil
}

// checkHostPort finds what cannot be dialed.
func checkHostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 || host == "" {
		return fmt.Errorf("%q is not a host and a port", address)
	}
	return nil
}

func (o *clusterOptions) clientConfig() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &o.overrides)
}

// client is a client of the cluster's own types.
func (o *clusterOptions) client() (kubernetes.Interface, error) {
	kube, err := kubernetes.NewForConfig(o.config)
	if err != nil {
		return nil, &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	return kube, nil
}

// connect reaches the cluster, after validate, and finds what would make every command fail.
func (o *clusterOptions) connect(ctx context.Context) (*rollout.Cluster, error) {
	if err := o.findApp(ctx); err != nil {
		return nil, err
	}
	c, err := o.cluster()
	if err != nil {
		return nil, err
	}
	git := o.git
	if git == nil {
		git = o.ledgerInGit
	}
	if err := git(c); err != nil {
		return nil, err
	}
	return c, c.Preflight(ctx)
}

// ledgerInGit has a cluster that is only read find its ledger, where that is in Git.
func (o *clusterOptions) ledgerInGit(c *rollout.Cluster) error {
	of := gitOpsOptions{fresh: time.Second} // for ledger and lock
	if err := of.load(o.cmd, false); err != nil || !storesInGit(of.settings) {
		return err
	}
	return of.apply(o.cmd, o, c)
}

// cluster is the app in the cluster, of which nothing has been asked yet.
func (o *clusterOptions) cluster() (*rollout.Cluster, error) {
	kube, err := o.client()
	if err != nil {
		return nil, err
	}
	mesh, err := istio.NewForConfig(o.config)
	if err != nil {
		return nil, &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	if o.set != nil {
		if err := o.set.In(o.namespace); err != nil {
			return nil, err
		}
	}
	kinds, err := dynamic.NewForConfig(o.config)
	if err != nil {
		return nil, &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	return &rollout.Cluster{
		Kube: kube, Istio: mesh, Kinds: rollout.NewKinds(kinds, kube.Discovery()), API: o.api, Namespace: o.namespace, Manifests: o.set,
		Parts: func(ctx context.Context, reference string) ([]string, error) {
			keychain, err := o.login(reference)
			if err != nil {
				return nil, err
			}
			return registry.IndexDigests(ctx, reference, keychain)
		},
		Configs: func(ctx context.Context, image, reported string) ([]string, error) {
			keychain, err := o.login(image) // a node may name any registry
			if err != nil {
				return nil, err
			}
			return registry.ConfigDigests(ctx, reported, keychain)
		},
	}, nil
}

// login is the one for a release's image.
func (o *clusterOptions) login(image string) (authn.Keychain, error) {
	of := ""
	if o.bundle != nil {
		of = o.bundle.Reference
	}
	return releaseLogin(o.set, of, image)
}

// status connects and reads what the cluster knows of the app's releases.
func (o *clusterOptions) status(ctx context.Context) (*rollout.Status, error) {
	c, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.Status(ctx)
}
