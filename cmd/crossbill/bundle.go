package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

type bundleOptions struct {
	login        loginOptions
	output       outputOptions
	manifests    string
	app          string
	namespace    string
	image        string
	repository   string
	revision     string
	sourceURL    string
	created      int64
	allowSecrets bool
	metadataFile string

	cmd      *cobra.Command
	keychain authn.Keychain
	content  *bundle.Content
	out      io.Writer
}

// madeBundle is what bundle prints.
type madeBundle struct {
	Reference string   `json:"reference"`
	Digest    string   `json:"digest"`
	App       string   `json:"app"`
	Image     string   `json:"image"`
	Objects   []string `json:"objects"`
}

func newBundleCommand() *cobra.Command {
	o := &bundleOptions{}
	cmd := &cobra.Command{
		Use:   "bundle --image REPOSITORY@sha256:…",
		Short: "Push manifests, configuration and the image's digest as one artifact",
		Long: `Render the manifests, check them, put the image into them, and push them as an OCI
artifact, whose reference is printed: repository@sha256:…. Its digest stands for
all that a release changes: image, pod template and configuration. The same
manifests and the same image give the same digest. Sign it with image attest.

It goes to the image's repository and refers to the image. Flux's OCIRepository,
oras and crane read it.

Environment:
  REGISTRY_USERNAME, REGISTRY_PASSWORD
                     as for image build
  SOURCE_DATE_EPOCH  time of the bundle (or --created)`,
		Example: `  # Make a bundle, sign it, and release it
  reference="$(crossbill bundle --image registry.example.com/our-org/app@sha256:…)"
  crossbill image attest "$reference" --key-file signing.pem
  crossbill canary --bundle "oci://$reference"

  # What does it change?
  crossbill bundle diff oci://registry.example.com/our-org/app@sha256:… k8s`,
		Args: func(cmd *cobra.Command, args []string) error { return unknownCommand(cmd, args) },
		RunE: runs(o),
	}
	f := cmd.Flags()
	f.StringVar(&o.image, "image", "", "image to release, by digest: repository@sha256:…")
	f.StringVar(&o.manifests, "manifests", "k8s", "the app's Kubernetes manifests: a folder, a kustomization, a Helm chart, or - for the standard input")
	addRendering(f, &o.app, &o.namespace)
	f.StringVar(&o.repository, "repository", "", "repository to push to (default: the image's)")
	f.BoolVar(&o.allowSecrets, "allow-secrets", false, "let the bundle hold Secrets with values, which everybody can read who can pull it")
	f.StringVar(&o.sourceURL, "source-url", "", "annotation: the repository's URL (default: the image's label)")
	f.StringVar(&o.revision, "revision", "", "annotation: the commit (default: the image's label)")
	createdFlag(f, &o.created, "time of the bundle in seconds since 1970 (default $SOURCE_DATE_EPOCH, then the image's)")
	f.StringVar(&o.metadataFile, "metadata-file", "", "file for what -o json prints")
	o.login.add(cmd)
	o.output.add(cmd)
	cmd.AddCommand(newBundleDiffCommand(), newBundleInspectCommand())
	return cmd
}

func (o *bundleOptions) complete(cmd *cobra.Command, _ []string) error {
	o.cmd, o.out = cmd, cmd.OutOrStdout()
	return nil
}

func (o *bundleOptions) validate() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	if o.image == "" {
		return &usererr.Error{Field: "--image", Problem: "is missing", Fix: "give repository@sha256:…; `crossbill image digest` gives it for a tag"}
	}
	if _, err := release.ParseImage("--image", o.image); err != nil {
		return err
	}
	if o.repository != "" {
		if _, err := bundle.ParseRepository("--repository", o.repository); err != nil {
			return err
		}
	}
	if err := checkCreated(o.created); err != nil {
		return err
	}
	if err := requireWritable("--metadata-file", o.metadataFile); err != nil {
		return err
	}
	if o.keychain, err = o.login.keychain(cmp.Or(o.repository, o.image)); err != nil {
		return err
	}
	if bundle.Named(o.manifests) {
		return &usererr.Error{Field: "manifests", Problem: o.manifests + " is a bundle already", Fix: "give what it is to be made of"}
	}
	rendered, err := renderManifests(o.cmd, o.manifests, o.app, o.namespace)
	if err != nil {
		return err
	}
	o.content, err = bundle.Fill(rendered, o.image, o.allowSecrets)
	return err
}

func (o *bundleOptions) run(ctx context.Context) error {
	for _, remark := range o.content.Rendered.Remarks {
		fmt.Fprintf(o.cmd.ErrOrStderr(), "manifests: %s\n", remark)
	}
	if left := o.content.Rendered.Skipped; len(left) > 0 { // whoever reads the bundle cannot know
		fmt.Fprintf(o.cmd.ErrOrStderr(), "manifests: not in the bundle: %s\n", strings.Join(left, ", "))
	}
	origin := bundle.Origin{Source: o.sourceURL, Revision: o.revision, Created: createdAt(o.created, time.Time{})}
	reference, err := bundle.Push(ctx, o.content, o.repository, origin, o.keychain)
	if err != nil {
		return err
	}
	made := madeBundle{Reference: reference, Digest: release.DigestOf(reference), App: o.content.App, Image: o.content.Image, Objects: objectsOf(o.content.Rendered)}
	if o.metadataFile != "" {
		var text bytes.Buffer
		if err := printJSON(&text, made); err != nil {
			return err
		}
		if err := writeWhole(o.metadataFile, text.Bytes()); err != nil {
			return fmt.Errorf("pushed %s, but --metadata-file could not be written: %w", reference, err)
		}
	}
	return o.output.print(o.out, view{data: made, text: line("%s", reference), names: bundleNames(reference)})
}

// addRendering adds the flags that say what manifests are rendered for.
func addRendering(flags *pflag.FlagSet, app, namespace *string) {
	flags.StringVar(app, "app", "", "app that is meant, where the manifests have several")
	flags.StringVar(namespace, "namespace", "", "namespace that a Helm chart is rendered for")
	addRouter(flags)
}

// renderManifests renders what --manifests takes, without a cluster.
func renderManifests(cmd *cobra.Command, path, app, namespace string) (*manifest.Rendered, error) {
	source := sourceOf(cmd, path, app)
	source.Namespace = namespace
	return manifest.Render(cmd.Context(), source)
}

// objectsOf are the objects of what was rendered, for people.
func objectsOf(rendered *manifest.Rendered) []string {
	names := []string{}
	for i := range rendered.Objects {
		names = append(names, rendered.Objects[i].String())
	}
	return names
}

// bundleNames are what -o name prints for a bundle.
func bundleNames(reference string) []string { return []string{"bundle/" + reference} }
