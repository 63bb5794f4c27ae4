package main

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

func newGitOpsCommand() *cobra.Command {
	cmd := newGroupCommand("gitops", "Release beside Flux or Argo CD")
	cmd.AddCommand(newGitOpsConfigCommand())
	return cmd
}

type gitOpsConfigOptions struct {
	manifests, app, namespace             string
	controller                            string
	kustomization, repository             string
	application, applicationNamespace, by string
	output                                outputOptions

	cmd   *cobra.Command
	setup gitops.Setup // after validate
	out   io.Writer
}

func newGitOpsConfigCommand() *cobra.Command {
	o := &gitOpsConfigOptions{}
	cmd := &cobra.Command{
		Use:   "config --namespace NAME",
		Short: "Print what Flux or Argo CD needs so that it leaves a release alone",
		Long: `Print what there has to be in the cluster so that releases and the controller of
the section gitops leave each other in peace, with the names of the manifests.

Flux: permission to read the Kustomization and its GitRepository, and to ask for a
reconcile. No setting of either changes: a release annotates what Flux has to
leave alone. Argo CD: what its Application has to ignore, and permission to read
the Application and to ask for a refresh.

Nothing is asked of a cluster. doctor shows what is missing there.`,
		Example: `  # For Flux, with the names in the cluster
  crossbill gitops config --controller flux --namespace production \
    --kustomization flux-system/apps --git-repository flux-system/environment

  # For Argo CD
  crossbill gitops config --controller argocd --namespace production --application shop`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.manifests, "manifests", "k8s", "the app's Kubernetes manifests: a folder, a kustomization, a Helm chart, or - for the standard input")
	flags.StringVar(&o.app, "app", "", "app that is meant, where the manifests have several")
	flags.StringVar(&o.namespace, "namespace", "", "namespace of the app")
	addRouter(flags)
	flags.StringVar(&o.controller, "controller", "", "what applies the manifests from Git: flux or argocd")
	flags.StringVar(&o.kustomization, "kustomization", "flux-system/flux-system", "Flux's Kustomization that applies the app: NAMESPACE/NAME")
	flags.StringVar(&o.repository, "git-repository", "flux-system/flux-system", "GitRepository that the Kustomization comes from: NAMESPACE/NAME")
	flags.StringVar(&o.application, "application", "", "Argo CD's Application that applies the app: NAME, or NAMESPACE/NAME (default: the app's name)")
	flags.StringVar(&o.by, "service-account", "crossbill", "account that Crossbill's jobs run as: NAME in the app's namespace, or NAMESPACE/NAME")
	o.output.add(cmd)
	return cmd
}

func (o *gitOpsConfigOptions) complete(cmd *cobra.Command, _ []string) error {
	o.cmd, o.out, o.applicationNamespace = cmd, cmd.OutOrStdout(), "argocd"
	if settings := configOf(cmd).settings; settings != nil {
		o.applicationNamespace = settings.Value("gitops.namespace")
	}
	return nil
}

func (o *gitOpsConfigOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	if o.controller == "" {
		return &usererr.Error{Field: "gitops.controller", Problem: "is missing", Fix: "give flux or argocd"}
	}
	if o.namespace == "" {
		return &usererr.Error{Field: "cluster.namespace", Problem: "is missing", Fix: "give the namespace of the app"}
	}
	source := sourceOf(o.cmd, o.manifests, o.app)
	source.Namespace = o.namespace
	set, err := manifest.Read(o.cmd.Context(), source)
	if err != nil {
		return err
	}
	objects, err := set.Objects(o.namespace)
	if err != nil {
		return err
	}
	o.setup = gitops.Setup{Controller: o.controller, Objects: objects, Deployment: set.Deployment, Container: objects.Container}
	if o.application == "" {
		o.application = set.App
	}
	for _, name := range []struct {
		option, text, namespace string
		into                    *release.ObjectName
	}{
		{"--service-account", o.by, o.namespace, &o.setup.Account},
		{"--kustomization", o.kustomization, "", &o.setup.Kustomization},
		{"--git-repository", o.repository, "", &o.setup.GitRepository},
		{"--application", o.application, o.applicationNamespace, &o.setup.Application},
	} {
		if *name.into, err = gitops.ParseName(name.option, name.text, name.namespace); err != nil {
			return err
		}
	}
	return nil
}

func (o *gitOpsConfigOptions) run(context.Context) error {
	parts, err := o.setup.Parts()
	if err != nil {
		return err
	}
	var objects []map[string]any
	v := view{}
	for _, part := range parts {
		objects = append(objects, part.Object)
		kind, _ := part.Object["kind"].(string)
		meta, _ := part.Object["metadata"].(map[string]any)
		name, _ := meta["name"].(string)
		v.names = append(v.names, strings.ToLower(kind)+"/"+name)
	}
	v.data = objects
	v.text = func(out io.Writer) error {
		text, err := gitops.YAML(parts)
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, text)
		return err
	}
	return o.output.print(o.out, v)
}
