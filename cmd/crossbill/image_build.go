package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

type imageBuildOptions struct {
	login            loginOptions
	trust            trustOptions // for the image of --assets-of
	output           outputOptions
	appDir, base     string
	push             string
	assetsOf, assets string
	labels           image.Labels
	created          int64
	platformNames    []string

	platforms []v1.Platform
	keychain  authn.Keychain
	out       io.Writer
	warn      func(warning string)
}

// builtImage is what image build prints.
type builtImage struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	SizeBytes int64  `json:"sizeBytes"` // compressed, of the first platform
	Layers    int    `json:"layers"`
}

func newImageBuildCommand() *cobra.Command {
	o := &imageBuildOptions{}
	cmd := &cobra.Command{
		Use:   "build --push REPOSITORY:TAG",
		Short: "Add the built app to a Node base image, and push it",
		Long: `Add the built app (dist and server, no node_modules) to a Node base image, push
it, and print repository:tag@sha256:… as the registry has it. The same files on
the same base give the same digest.

Environment:
  REGISTRY_USERNAME  user of the registry that is pushed to (or --username);
                     default: as docker login has it
  REGISTRY_PASSWORD  its password or token (or --password-file)
  REGISTRY_HOST      the registry that both are for; default: that of --push.
                     Others get what docker login has
  SOURCE_DATE_EPOCH  time of the image (or --created)`,
		Example: `  # Build and push, with the commit as a label and its time as the image's
  crossbill image build --push registry.example.com/our-org/app:1.1.0 --version 1.1.0 \
    --revision "$(git rev-parse HEAD)" --created "$(git log -1 --format=%ct)"

  # One digest for two platforms
  crossbill image build --push registry.example.com/our-org/app:1.1.0 --platform linux/amd64,linux/arm64

  # Without a registry
  crossbill image build --push oci:out/image`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	f := cmd.Flags()
	f.StringVar(&o.appDir, "app-dir", "app", "folder of the built app")
	f.StringVar(&o.base, "base", image.DefaultBase, "base image with Node at "+image.Node+": repository@sha256:…, or oci:FOLDER")
	f.StringVar(&o.push, "push", "", "where to push: registry/repository:tag; or oci:FOLDER, a new folder for an OCI image layout")
	f.StringSliceVar(&o.platformNames, "platform", nil, "platforms, for example linux/amd64,linux/arm64: builds an index with an image for each, --base must be an index too (default: linux/amd64, or the platform of --base)")
	f.StringVar(&o.assetsOf, "assets-of", "", "live image, by digest, whose hashed assets are included for pages that are still open (default: none)")
	f.StringVar(&o.assets, "assets-folder", "dist/build", "with --assets-of: folder of files whose names have a hash of their content")
	f.StringVar(&o.labels.Title, "name", "", "label: the app's name")
	f.StringVar(&o.labels.Version, "version", "", "label: the app's version")
	f.StringVar(&o.labels.Revision, "revision", "", "label: the commit")
	f.StringVar(&o.labels.Source, "source-url", "", "label: the repository's URL")
	createdFlag(f, &o.created, "time of the image in seconds since 1970, for example the commit's (default $SOURCE_DATE_EPOCH, then 0)")
	o.trust.add(cmd)
	o.login.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *imageBuildOptions) complete(cmd *cobra.Command, _ []string) error {
	o.out, o.warn = cmd.OutOrStdout(), func(warning string) { warn(cmd, warning) }
	if o.assetsOf != "" {
		manifests := "k8s"
		if settings := configOf(cmd).settings; settings != nil {
			manifests = settings.Value("manifests")
		}
		if err := o.trust.load(cmd, manifests); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(o.base, "oci:") {
		o.labels.Base = o.base
	}
	o.labels.Created = createdAt(o.created, time.Unix(0, 0))
	return nil
}

func (o *imageBuildOptions) validate() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	if o.push == "" {
		return &usererr.Error{Field: "--push", Problem: "is missing", Fix: "give registry/repository:tag, or oci:FOLDER"}
	}
	for _, text := range o.platformNames {
		platform, err := v1.ParsePlatform(text)
		if err != nil || platform.OS == "" || platform.Architecture == "" {
			return &usererr.Error{Field: "image.platforms", Problem: fmt.Sprintf("%q is not a platform", text), Fix: "give os/architecture, for example linux/arm64"}
		}
		o.platforms = append(o.platforms, *platform)
	}
	of := o.push
	if registry.HostOf(of) == "" { // a folder
		of = o.assetsOf
	}
	if o.keychain, err = o.login.keychain(of); err != nil {
		return err
	}
	if err := registry.CheckTarget(o.push); err != nil {
		return err
	}
	if err := image.CheckApp(o.appDir); err != nil {
		return err
	}
	if err := checkCreated(o.created); err != nil {
		return err
	}
	for option, reference := range map[string]string{"image.base": o.base, "assetsOf": o.assetsOf} {
		if reference == "" && option == "assetsOf" {
			continue
		}
		if err := registry.CheckSource(option, reference); err != nil {
			return err
		}
	}
	return nil
}

func (o *imageBuildOptions) run(ctx context.Context) error {
	bases, err := o.bases(ctx)
	if err != nil {
		return err
	}
	earlier, err := o.earlierAssets(ctx)
	if err != nil {
		return err
	}
	var images []v1.Image
	for _, base := range bases {
		built, err := image.Build(base, o.appDir, o.labels, earlier...)
		if err != nil {
			return err
		}
		images = append(images, built)
	}
	var pushable registry.Pushable = images[0]
	if len(o.platforms) > 0 {
		if pushable, err = image.Index(images, o.labels); err != nil {
			return err
		}
	}
	var reference string
	if folder, ok := strings.CutPrefix(o.push, "oci:"); ok {
		reference, err = registry.WriteLayout(pushable, folder)
	} else {
		reference, err = registry.Push(ctx, pushable, o.push, o.keychain)
	}
	if err != nil {
		return err
	}
	manifest, err := images[0].Manifest()
	if err != nil {
		return err
	}
	built := builtImage{Reference: reference, Digest: release.DigestOf(reference), SizeBytes: manifest.Config.Size, Layers: len(manifest.Layers)}
	for _, layer := range manifest.Layers {
		built.SizeBytes += layer.Size
	}
	return o.output.print(o.out, view{data: built, text: line("%s", reference), names: imageNames(reference)})
}

// bases are the base images, one for each platform. Their credentials are those of docker login, since the registry
// that is pushed to is another one.
func (o *imageBuildOptions) bases(ctx context.Context) ([]v1.Image, error) {
	if len(o.platforms) == 0 {
		base, err := registry.Pull(ctx, "image.base", o.base, authn.DefaultKeychain)
		return []v1.Image{base}, err
	}
	var bases []v1.Image
	for _, platform := range o.platforms {
		base, err := registry.PullPlatform(ctx, "image.base", o.base, platform, authn.DefaultKeychain)
		if err != nil {
			return nil, err
		}
		bases = append(bases, base)
	}
	return bases, nil
}

// checkAssetsOf asks the image policy about the image whose assets are included: they are served beside the app's own.
func (o *imageBuildOptions) checkAssetsOf(ctx context.Context) error {
	switch {
	case o.trust.policy == nil:
		o.warn(noPolicy + ": the origin of " + o.assetsOf + " was not checked")
		return nil
	case strings.HasPrefix(o.assetsOf, "oci:"):
		return &usererr.Error{Field: "assetsOf", Problem: "an image in a folder has no provenance, and there is an image policy", Fix: "give the image in its registry, by digest"}
	}
	_, err := o.trust.policy.Verify(ctx, o.assetsOf, provenance.Wanted{AnyAge: true}, registry.Options(ctx, o.keychain)...)
	return rejectedIsBadInput(err)
}

// nameOf is repository@digest of an image; the folder of a layout is nobody's matter.
func nameOf(reference string, pulled v1.Image) (string, error) {
	if !strings.HasPrefix(reference, "oci:") {
		return release.ParseImage("assetsOf", reference)
	}
	digest, err := pulled.Digest()
	return "layout@" + digest.String(), err
}

// earlierAssets is the layer with the assets of --assets-of, if it has some that this app lacks.
func (o *imageBuildOptions) earlierAssets(ctx context.Context) ([]v1.Layer, error) {
	if o.assetsOf == "" {
		return nil, nil
	}
	if err := o.checkAssetsOf(ctx); err != nil {
		return nil, err
	}
	earlier, err := registry.Pull(ctx, "assetsOf", o.assetsOf, o.keychain)
	if err != nil {
		return nil, err
	}
	layer, err := image.Assets(earlier, o.appDir, o.assets, o.labels.Created)
	if err != nil || layer == nil {
		return nil, err
	}
	if o.labels.AssetsOf, err = nameOf(o.assetsOf, earlier); err != nil {
		return nil, err
	}
	return []v1.Layer{layer}, nil
}
