package main

import (
	"cmp"
	"context"
	"fmt"
	"net/mail"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// environmentRepository is the one of the section gitops; nothing is asked of its server yet.
func environmentRepository(cmd *cobra.Command) (*environment.Repository, error) {
	return environmentReadWithin(cmd, 0)
}

// environmentReadWithin is the same, of which a head that was read so lately is taken for the branch's.
func environmentReadWithin(cmd *cobra.Command, fresh time.Duration) (*environment.Repository, error) {
	settings := configOf(cmd).settings
	if settings == nil || settings.Value("gitops.repository") == "" {
		return nil, &usererr.Error{Field: "gitops.repository", Problem: "is missing", Fix: "name the environment repository in the section gitops of crossbill.yaml"}
	}
	author, err := mail.ParseAddress(settings.Value("gitops.author"))
	if err != nil {
		return nil, &usererr.Error{Field: "gitops.author", Problem: err.Error(), Fix: "give for example Release bot <releases@example.com>"}
	}
	return environment.New(environment.Options{
		URL: settings.Value("gitops.repository"), Branch: settings.Value("gitops.branch"),
		User: settings.Value("gitops.user"), TokenFile: settings.Value("gitops.tokenFile"),
		KeyFile: settings.Value("gitops.sshKeyFile"), KnownHostsFile: settings.Value("gitops.knownHostsFile"),
		SigningKeyFile: settings.Value("gitops.signingKeyFile"), AuthorName: author.Name, AuthorEmail: author.Address, Fresh: fresh,
	})
}

// gitOpsOptions are what applies the manifests from Git, of the section gitops.
type gitOpsOptions struct {
	settings   *config.Settings // nil: nothing is known to apply them
	repository *environment.Repository
	missing    error         // why there is no repository
	fresh      time.Duration // how long what was read of it is taken for what it is
}

// load reads the credentials of the repository. A command that leads to a promotion is refused without them; any other one
// needs them only if it ends a release.
func (o *gitOpsOptions) load(cmd *cobra.Command, others bool) error {
	settings := configOf(cmd).settings
	if settings == nil || settings.Value("gitops.controller") == "" {
		return nil
	}
	o.settings = settings
	if others {
		return &usererr.Error{Field: "applyOthers", Problem: "gitops.controller is set too, and it applies them", Fix: "leave out one of the two"}
	}
	o.repository, o.missing = environmentReadWithin(cmd, o.fresh)
	if name := cmd.Name(); name == "canary" || name == "shift" || name == "promote" {
		return o.missing
	}
	return nil
}

// apply gives a cluster the controller and the repository.
func (o *gitOpsOptions) apply(cmd *cobra.Command, cluster *clusterOptions, c *rollout.Cluster) error {
	if o.settings == nil {
		return nil
	}
	kinds, err := dynamic.NewForConfig(cluster.config)
	if err != nil {
		return &usererr.Error{Field: "--kubeconfig", Problem: err.Error()}
	}
	name, ledgers := o.settings.Value("gitops.controller"), ""
	if storesInGit(o.settings) {
		ledgers = o.settings.Value("gitops.releases")
	}
	options := gitops.Options{
		Namespace: o.settings.Value("gitops.namespace"), Branch: o.settings.Value("gitops.branch"),
		Repository: o.settings.Value("gitops.repository"), Signed: o.settings.Value("gitops.signingKeyFile") != "",
		Ledgers: ledgers, Value: o.settings.Value("gitops.value"), Timeout: c.Timeout,
		ImageNames: func(ctx context.Context) ([]string, error) {
			repository, err := o.of(cmd, cluster, c)
			if err != nil {
				return nil, err
			}
			return repository.ImageNames(ctx)
		},
		Log: func(format string, args ...any) {
			c.Log(rollout.Event{At: time.Now(), Object: name, Message: fmt.Sprintf(format, args...)})
		},
	}
	if o.repository != nil {
		options.Files = (&gitops.Repository{Git: o.repository}).Files
	}
	controller, err := gitops.New(name, kinds, options)
	if err != nil {
		return err
	}
	if c.Manifests != nil {
		c.Manifests = c.Manifests.WithoutConfiguration()
	}
	if ledgers != "" {
		return o.commitTo(cmd, cluster, c, controller)
	}
	c.GitOps = &rollout.GitOps{Controller: controller}
	o.reach(cmd, cluster, c)
	return nil
}

// commitTo makes the repository what a cluster's releases are written to.
func (o *gitOpsOptions) commitTo(cmd *cobra.Command, cluster *clusterOptions, c *rollout.Cluster, controller gitops.Controller) error {
	if o.missing != nil {
		return o.missing
	}
	if o.settings.Value("gitops.value") != "" {
		return &usererr.Error{Field: "gitops.value", Problem: "the steps of a release cannot be written into a chart, and gitops.store is git", Fix: "set gitops.store to cluster, or name the folder with the app's manifests as gitops.path"}
	}
	render := sourceOf(cmd, "", cluster.appName())
	render.Namespace = c.Namespace
	folder := cmp.Or(cluster.path, o.settings.Value("gitops.path"))
	c.Git = &rollout.GitStore{
		Controller: controller, Repository: o.repository, Folder: folder, Ledgers: o.settings.Value("gitops.releases"),
		Render: (&gitops.Repository{Git: o.repository, Folder: folder, Render: render}).Rendered,
	}
	return nil
}

// storesInGit says whether the steps of a release are commits, and the ledgers in Git.
func storesInGit(settings *config.Settings) bool {
	return settings != nil && settings.Value("gitops.controller") != "" && settings.Value("gitops.store") == "git"
}

// ledgers are those of the environment repository; nil where they are in the cluster.
func (o *gitOpsOptions) ledgers() (*rollout.GitLedgers, error) {
	if !storesInGit(o.settings) {
		return nil, nil
	}
	if o.missing != nil {
		return nil, o.missing
	}
	return &rollout.GitLedgers{Repository: o.repository, Folder: o.settings.Value("gitops.releases")}, nil
}

// of is the repository as it is of a cluster's app, or why there is none.
func (o *gitOpsOptions) of(cmd *cobra.Command, cluster *clusterOptions, c *rollout.Cluster) (*gitops.Repository, error) {
	if o.missing != nil {
		return nil, o.missing
	}
	names, err := c.Manifests.Objects(c.Namespace)
	if err != nil {
		return nil, err
	}
	render := sourceOf(cmd, "", cluster.appName())
	render.Namespace = c.Namespace
	return &gitops.Repository{
		Git: o.repository, App: c.Manifests.App, Folder: o.settings.Value("gitops.path"), Value: o.settings.Value("gitops.value"),
		Deployment: names.Deployments[release.Primary], Container: names.Container, Render: render,
	}, nil
}

// image reads what Git has primary run.
func (o *gitOpsOptions) image(cmd *cobra.Command, cluster *clusterOptions, c *rollout.Cluster) func(context.Context) (image, commit string, err error) {
	return func(ctx context.Context) (image, commit string, err error) {
		repository, err := o.of(cmd, cluster, c)
		if err != nil {
			return "", "", err
		}
		return repository.Image(ctx)
	}
}

// reach gives a cluster the repository, or why there is none.
func (o *gitOpsOptions) reach(cmd *cobra.Command, cluster *clusterOptions, c *rollout.Cluster) {
	c.GitOps.Image = o.image(cmd, cluster, c)
	c.GitOps.Objects = func(ctx context.Context) ([]manifest.Object, error) {
		repository, err := o.of(cmd, cluster, c)
		if err != nil {
			return nil, err
		}
		return repository.Objects(ctx)
	}
	c.GitOps.Try = func(ctx context.Context, commit rollout.GitCommit) error {
		repository, err := o.of(cmd, cluster, c)
		if err != nil {
			return err
		}
		return repository.Try(ctx, gitops.Change(commit))
	}
	c.GitOps.Commit = func(ctx context.Context, commit rollout.GitCommit) (string, error) {
		repository, err := o.of(cmd, cluster, c)
		if err != nil {
			return "", err
		}
		return repository.Commit(ctx, gitops.Change(commit))
	}
}
