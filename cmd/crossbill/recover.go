package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// recoverable marks a command that ends a release, and that nothing on the machine it runs on may keep from it: where
// crossbill.yaml or the manifests cannot be read, it goes by flags, environment and the ledger.
const recoverable = "crossbill/recovers"

// addRecovery makes a command one that recovers.
func (o *lifecycleOptions) addRecovery(cmd *cobra.Command) {
	o.setRecovery(true)
	cmd.Annotations = map[string]string{recoverable: "true"}
	cmd.Flags().Lookup("app").Usage = "name of the app: where the manifests cannot be read or are another app's, its ledger names the objects (default: the manifests', else the only app in the namespace)"
}

// setRecovery says whether a command does without what it cannot read, and goes by the ledger.
func (o *lifecycleOptions) setRecovery(does bool) {
	o.recovers, o.cluster.recovers, o.cluster.byLedger = does, does, does
}

// configured reads crossbill.yaml and the environment. A command that recovers does without what it cannot read.
func configured(cmd *cobra.Command, named string, getenv func(string) string) (*config.Config, *config.Settings, error) {
	file, err := config.Load(named, getenv)
	var settings *config.Settings
	if err == nil {
		settings, err = file.Resolve(cmd.Name(), cmd.Flags(), getenv)
	}
	if err == nil || cmd.Annotations[recoverable] == "" {
		return file, settings, err
	}
	warn(cmd, fmt.Sprintf("%v; going on without it", err))
	file = &config.Config{}
	if settings, err = file.Resolve(cmd.Name(), cmd.Flags(), getenv); err != nil {
		settings, err = file.Resolve(cmd.Name(), cmd.Flags(), func(string) string { return "" })
	}
	return file, settings, err
}

// loadManifests reads the manifests. Those of another app than the one that is meant are refused, before anything is
// asked of the cluster. A command that recovers does without what it cannot read, and without those of another app that
// its flag names; crossbill.yaml's app is for it only a name for where there are no manifests.
func (o *clusterOptions) loadManifests() error {
	set, err := o.readManifests()
	if err == nil && o.app != "" && set.App != o.app && (o.appGiven || !o.recovers) {
		err = &usererr.Error{
			Field: "app", Problem: fmt.Sprintf("%q is meant, and the manifests in %s are those of %s", o.app, o.manifests, set.App),
			Fix: "name the app of the manifests, or give them with --manifests",
		}
	}
	if err != nil && !o.recovers && !errors.Is(err, errBundle) {
		return err
	}
	if o.unread = err; err == nil {
		o.set = set
	}
	return nil
}

// readManifests renders what --manifests names and finds the app in it.
func (o *clusterOptions) readManifests() (*manifest.Set, error) {
	ctx := context.Background() // of a completion
	if o.cmd != nil {
		ctx = o.cmd.Context()
	}
	if bundle.Named(o.manifests) {
		return o.readBundle(ctx)
	}
	if o.cmd == nil {
		return manifest.Read(ctx, manifest.Source{Path: o.manifests, App: o.app})
	}
	source := sourceOf(o.cmd, o.manifests, o.app)
	source.Namespace, _, _ = o.clientConfig().Namespace() // what is wrong with the kubeconfig is said when it is needed
	return manifest.Read(ctx, source)
}

// sourceOf is a source of manifests, with what crossbill.yaml says of how it is rendered.
func sourceOf(cmd *cobra.Command, path, app string) manifest.Source {
	render, in, router := configOf(cmd).Render, cmd.InOrStdin(), ""
	if settings := configOf(cmd).settings; settings != nil {
		router = settings.Value("router")
	}
	if file, ok := in.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		in = nil
	}
	return manifest.Source{
		Path: path, App: app, Stdin: in,
		Subfolders: render.Subfolders, Values: render.Values, ReleaseName: render.ReleaseName, KubeVersion: render.KubeVersion,
		AllowLookup: render.AllowLookup, AllowRemote: render.AllowRemote, Gateway: render.Gateway, Hosts: render.Hosts, Router: router,
	}
}

// readBundle pulls the bundle that --manifests names. A command that deploys lets the image policy decide first; one that
// ends a release goes by the ledger: it must not need a registry.
func (o *clusterOptions) readBundle(ctx context.Context) (*manifest.Set, error) {
	if o.byLedger {
		return nil, errBundle
	}
	reference, err := bundle.Parse("manifests", o.manifests)
	if err != nil {
		return nil, err
	}
	keychain, err := environmentLogin(reference)
	if err != nil {
		return nil, err
	}
	if o.admitBundle != nil {
		if err := o.admitBundle(ctx, reference, keychain); err != nil {
			return nil, err
		}
	}
	pulled, err := bundle.Pull(ctx, "manifests", reference, keychain)
	if err != nil {
		return nil, err
	}
	o.bundle = pulled
	return pulled.Set, nil
}

// errBundle is why manifests in a bundle are not read.
var errBundle = errors.New("the manifests are in a bundle, which this command does without")

// checkBundle finds what the bundle policy does not admit, where the command deploys.
func (o *clusterOptions) checkBundle() error {
	if o.bundle == nil || o.admitBundle == nil {
		return nil
	}
	objects, err := bundle.Objects(o.bundle.Rendered)
	if err != nil {
		return err
	}
	policy := configOf(o.cmd).Bundle
	return bundle.Rejection(o.bundle.Reference, policy.Check(objects, o.bundle.Set.App, o.namespace))
}

// findApp finds the app by its ledger where there are no manifests.
func (o *clusterOptions) findApp(ctx context.Context) error {
	if o.set != nil {
		return nil
	}
	app, err := o.appByLedger(ctx)
	if err != nil {
		return fmt.Errorf("%w (%w)", err, o.unread)
	}
	level := "warning: "
	if errors.Is(o.unread, errBundle) {
		level = ""
	}
	fmt.Fprintf(o.log, "crossbill: %s%v; going by the ledger of %s\n", level, o.unread, app.Name)
	o.set, o.path = app.Manifests, app.Path
	return nil
}

// appByLedger finds the app where its ledger is.
func (o *clusterOptions) appByLedger(ctx context.Context) (rollout.App, error) {
	of := gitOpsOptions{}
	if err := of.load(o.cmd, false); err != nil {
		return rollout.App{}, err
	}
	git, err := of.ledgers()
	if err != nil {
		return rollout.App{}, err
	}
	if git != nil {
		return git.Find(ctx, o.namespace, o.app)
	}
	kube, err := o.client()
	if err != nil {
		return rollout.App{}, err
	}
	return rollout.FindApp(ctx, kube, o.namespace, o.app)
}

// appName is the app's name, as far as it is known.
func (o *clusterOptions) appName() string {
	if o.set != nil {
		return o.set.App
	}
	return o.app
}
