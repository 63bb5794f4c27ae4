package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

func newImageCommand() *cobra.Command {
	cmd := newGroupCommand("image", "Build, name and sign the app's image, without a container engine; show where one comes from")
	cmd.AddCommand(newImageBuildCommand(), newImageDigestCommand(), newImageAttestCommand(), newImageInspectCommand())
	return cmd
}

type imageFlags struct {
	appDir, base, push string
	output             outputOptions
	login              loginFlags
	labels             image.Labels
	created            int64
	assetsOf, assets   string
	platforms          []string
}

func newImageBuildCommand() *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "build --push REPOSITORY:TAG",
		Short: "Put the built app on a Node base image and push it; prints repository:tag@digest",
		Long: `Put the built app (dist and server, no node_modules) on a Node base image, push
it, and print repository:tag@sha256:… as the registry has it. The same files and
the same base give the same digest.

Environment:
  REGISTRY_USERNAME  user of the registry that is pushed to (or --username);
                     default: as docker login has it
  REGISTRY_PASSWORD  its password or token (or --password-file)
  SOURCE_DATE_EPOCH  time of the image (or --created)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return buildImage(cmd, &flags) },
	}
	f := cmd.Flags()
	f.StringVar(&flags.appDir, "app-dir", "app", "folder of the built app")
	f.StringVar(&flags.base, "base", image.DefaultBase, "base image with Node at "+image.Node+": repository@sha256:…, or oci:FOLDER")
	f.StringVar(&flags.push, "push", "", "where to push: registry/repository:tag; or oci:FOLDER, a new folder for an OCI image layout")
	f.StringSliceVar(&flags.platforms, "platform", nil, "platforms, for example linux/amd64,linux/arm64: an index of an image for each; --base must be one too (default: linux/amd64 alone, or the one of --base)")
	f.StringVar(&flags.assetsOf, "assets-of", "", "image that is live, by digest: its hashed assets are taken along, for pages that are open (default: none)")
	f.StringVar(&flags.assets, "assets-folder", "dist/build", "with --assets-of: folder of files whose names have a hash of their content")
	flags.login.add(f)
	f.StringVar(&flags.labels.Title, "name", "", "label: the app's name (default: app of crossbill.yaml)")
	f.StringVar(&flags.labels.Version, "version", "", "label: the app's version")
	f.StringVar(&flags.labels.Revision, "revision", "", "label: the commit")
	f.StringVar(&flags.labels.Source, "source-url", "", "label: the repository's URL")
	f.Int64Var(&flags.created, "created", epoch(), "time of the image in seconds since 1970, for example the commit's (default $SOURCE_DATE_EPOCH, then 0)")
	flags.output.add(cmd)
	return cmd
}

// epoch reads SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/).
func epoch() int64 {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return 0
	}
	return seconds
}

func buildImage(cmd *cobra.Command, flags *imageFlags) error {
	if err := flags.output.validate(); err != nil {
		return err
	}
	if flags.push == "" {
		return &usererr.Error{Field: "--push", Problem: "is missing", Fix: "give registry/repository:tag, or oci:FOLDER"}
	}
	keychain, err := flags.login.keychain()
	if err != nil {
		return err
	}
	if !strings.HasPrefix(flags.base, "oci:") {
		flags.labels.Base = flags.base
	}
	if flags.labels.Title == "" {
		flags.labels.Title = configOf(cmd).App
	}
	flags.labels.Created = time.Unix(flags.created, 0)
	bases, err := flags.bases(cmd.Context())
	if err != nil {
		return err
	}
	var below []v1.Layer
	if flags.assetsOf != "" {
		earlier, err := registry.Pull(cmd.Context(), "assetsOf", flags.assetsOf, keychain)
		if err != nil {
			return err
		}
		layer, err := image.Assets(earlier, flags.appDir, flags.assets, flags.labels.Created)
		if err != nil {
			return err
		}
		if layer != nil {
			below = append(below, layer)
		}
	}
	var images []v1.Image
	for _, base := range bases {
		built, err := image.Build(base, flags.appDir, flags.labels, below...)
		if err != nil {
			return err
		}
		images = append(images, built)
	}
	var built registry.Pushable = images[0]
	if len(flags.platforms) > 0 {
		if built, err = image.Index(images, flags.labels); err != nil {
			return err
		}
	}
	var reference string
	if folder, ok := strings.CutPrefix(flags.push, "oci:"); ok {
		reference, err = registry.WriteLayout(built, folder)
	} else {
		reference, err = registry.Push(cmd.Context(), built, flags.push, keychain)
	}
	if err != nil {
		return err
	}
	manifest, err := images[0].Manifest()
	if err != nil {
		return err
	}
	size := manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return flags.output.print(cmd.OutOrStdout(), view{
		data: struct {
			Reference string `json:"reference"`
			Digest    string `json:"digest"`
			Size      int64  `json:"size"` // compressed, in bytes; of the first platform
			Layers    int    `json:"layers"`
		}{reference, release.DigestOf(reference), size, len(manifest.Layers)},
		text:  line("%s", reference),
		names: []string{"image/" + reference},
	})
}

// bases are the base images, one for each platform.
func (f *imageFlags) bases(ctx context.Context) ([]v1.Image, error) {
	if len(f.platforms) == 0 {
		base, err := registry.Pull(ctx, "image.base", f.base, authn.DefaultKeychain)
		return []v1.Image{base}, err
	}
	var bases []v1.Image
	for _, text := range f.platforms {
		platform, err := v1.ParsePlatform(text)
		if err != nil || platform.OS == "" || platform.Architecture == "" {
			return nil, &usererr.Error{Field: "--platform", Problem: fmt.Sprintf("%q is not a platform", text), Fix: "give os/architecture, for example linux/arm64"}
		}
		base, err := registry.PullPlatform(ctx, "image.base", f.base, *platform, authn.DefaultKeychain)
		if err != nil {
			return nil, err
		}
		bases = append(bases, base)
	}
	return bases, nil
}

func newImageDigestCommand() *cobra.Command {
	var login loginFlags
	cmd := &cobra.Command{
		Use:   "digest REPOSITORY:TAG",
		Short: "Ask the registry what a tag is now; prints repository:tag@digest",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keychain, err := login.keychain()
			if err != nil {
				return err
			}
			reference, err := registry.Digest(cmd.Context(), args[0], keychain)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), reference)
			return err
		},
	}
	login.add(cmd.Flags())
	return cmd
}

// loginFlags are the credentials of the registry that is pushed to.
type loginFlags struct {
	username, passwordFile string
}

func (f *loginFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.username, "username", "", "user of the registry (default $REGISTRY_USERNAME, then as docker login has it)")
	flags.StringVar(&f.passwordFile, "password-file", "", "file with the user's password or token (default $REGISTRY_PASSWORD)")
}

func (f *loginFlags) keychain() (authn.Keychain, error) {
	password, err := secret("--password-file", f.passwordFile, "REGISTRY_PASSWORD")
	if err != nil {
		return nil, err
	}
	username := f.username
	if username == "" {
		username = os.Getenv("REGISTRY_USERNAME")
	}
	switch {
	case username == "" && password == "":
		return authn.DefaultKeychain, nil
	case username == "":
		return nil, &usererr.Error{Field: "--username", Problem: "is missing beside a password", Fix: "give both, or neither"}
	case password == "":
		return nil, &usererr.Error{Field: "--password-file", Problem: "is missing beside a user name", Fix: "give both, or neither"}
	}
	return registry.Login{Username: username, Password: password}, nil
}

// environmentLogin is the login that commands of the cluster read a registry with, which may be a private one.
func environmentLogin() (authn.Keychain, error) { return new(loginFlags).keychain() }
