package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/bundle"
)

type bundleInspectOptions struct {
	login     loginOptions
	output    outputOptions
	namespace string

	policy    bundle.Policy
	reference string
	keychain  authn.Keychain
	out       io.Writer
}

// inspectedBundle is what bundle inspect prints.
type inspectedBundle struct {
	Reference  string   `json:"reference"`
	App        string   `json:"app"`
	Image      string   `json:"image"`
	Source     string   `json:"source,omitempty"`
	Revision   string   `json:"revision,omitempty"`
	Objects    []string `json:"objects"`
	Violations []string `json:"violations"` // of the bundle policy
}

func newBundleInspectCommand() *cobra.Command {
	o := &bundleInspectOptions{}
	cmd := &cobra.Command{
		Use:   "inspect REPOSITORY@DIGEST",
		Short: "Show what a bundle holds, and whether the bundle policy admits it",
		Long: `Show which image a bundle names, where it comes from as it says itself, which
objects it holds, and what of them the bundle policy (bundle in crossbill.yaml)
does not admit. With -o manifests it prints the objects, values of Secrets masked.
Who signed it, image inspect shows. Exit code 2 when the policy does not admit it.`,
		Example: `  crossbill bundle inspect registry.example.com/our-org/app@sha256:…

  # The manifests themselves
  crossbill bundle inspect registry.example.com/our-org/app@sha256:… -o manifests`,
		Args: oneArgument("REPOSITORY@DIGEST"),
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.namespace, "namespace", "", "namespace of the app (default: the only one that objects name)")
	o.login.add(cmd)
	o.output.add(cmd, manifestsFormat)
	return cmd
}

// manifestsFormat is the format of bundle inspect that prints the objects.
const manifestsFormat = "manifests"

func (o *bundleInspectOptions) complete(cmd *cobra.Command, args []string) (err error) {
	o.out, o.policy = cmd.OutOrStdout(), configOf(cmd).Bundle
	o.reference, err = bundle.Parse("REPOSITORY@DIGEST", args[0])
	return err
}

func (o *bundleInspectOptions) validate() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	o.keychain, err = o.login.keychain(o.reference)
	return err
}

func (o *bundleInspectOptions) run(ctx context.Context) error {
	b, err := bundle.Pull(ctx, "REPOSITORY@DIGEST", o.reference, o.keychain)
	if err != nil {
		return err
	}
	objects, err := bundle.Objects(b.Rendered)
	if err != nil {
		return err
	}
	namespace := o.namespace
	if namespace == "" {
		namespace = b.Set.Deployment.Namespace
	}
	violations := o.policy.Check(objects, b.Set.App, namespace)
	masked, err := bundle.Masked(b.Rendered)
	if err != nil {
		return err
	}
	inspected := inspectedBundle{Reference: b.Reference, App: b.Set.App, Image: b.Image, Source: b.Source, Revision: b.Revision, Objects: objectsOf(b.Rendered), Violations: append([]string{}, violations...)}
	err = o.output.print(o.out, view{
		data: inspected, names: bundleNames(b.Reference),
		text: inspected.text,
		more: map[string]func(io.Writer) error{manifestsFormat: func(out io.Writer) error {
			_, err := io.WriteString(out, masked)
			return err
		}},
	})
	if err != nil {
		return err
	}
	return bundle.Rejection(b.Reference, violations)
}

func (i inspectedBundle) text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, field := range []struct{ name, value string }{
		{"bundle", i.Reference}, {"app", i.App}, {"image", i.Image}, {"source", i.Source}, {"revision", i.Revision},
	} {
		if field.value != "" {
			fmt.Fprintf(w, "%s:\t%s\n", field.name, field.value)
		}
	}
	for n, object := range i.Objects {
		fmt.Fprintf(w, "%s\t%s\n", map[bool]string{true: "objects:"}[n == 0], object)
	}
	for n, violation := range i.Violations {
		fmt.Fprintf(w, "%s\t%s\n", map[bool]string{true: "violations:"}[n == 0], violation)
	}
	return w.Flush()
}
