package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/image"
	"github.com/our-org/crossbill/release"
)

func newImageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build and name the app's image, without a container engine",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImageBuildCommand(), newImageDigestCommand())
	return cmd
}

type imageFlags struct {
	appDir, base, push, output string
	labels                     image.Labels
	created                    int64
}

func newImageBuildCommand() *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "build --base REPOSITORY@sha256:… --push REPOSITORY:TAG",
		Short: "Put the built app on a Node base image and push it; prints repository:tag@digest",
		Long: `Put the built app (dist and server, no node_modules) on a Node base image, push
it, and print repository:tag@sha256:… as the registry has it. The same files and
the same base give the same digest. Credentials are those of docker login.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return buildImage(cmd, &flags) },
	}
	f := cmd.Flags()
	f.StringVar(&flags.appDir, "app-dir", "app", "folder of the built app")
	f.StringVar(&flags.base, "base", "", "base image with Node at "+image.Node+": repository@sha256:…, or oci:FOLDER")
	f.StringVar(&flags.push, "push", "", "where to push: registry/repository:tag")
	f.StringVar(&flags.labels.Title, "name", "", "label: the app's name")
	f.StringVar(&flags.labels.Version, "version", "", "label: the app's version")
	f.StringVar(&flags.labels.Revision, "revision", "", "label: the commit")
	f.StringVar(&flags.labels.Source, "source-url", "", "label: the repository's URL")
	f.Int64Var(&flags.created, "created", epoch(), "time of the image in seconds since 1970, for example the commit's (default $SOURCE_DATE_EPOCH, then 0)")
	f.StringVarP(&flags.output, "output", "o", "text", "text or json")
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
	if flags.push == "" {
		return &release.InputError{Field: "--push", Problem: "is missing", Fix: "give registry/repository:tag"}
	}
	flags.labels.Created = time.Unix(flags.created, 0)
	base, err := image.Base(cmd.Context(), flags.base)
	if err != nil {
		return err
	}
	built, err := image.Build(base, flags.appDir, flags.labels)
	if err != nil {
		return err
	}
	reference, err := image.Push(cmd.Context(), built, flags.push)
	if err != nil {
		return err
	}
	if flags.output != "json" {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), reference)
		return err
	}
	manifest, err := built.Manifest()
	if err != nil {
		return err
	}
	size := manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return printJSON(cmd.OutOrStdout(), struct {
		Reference string `json:"reference"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"` // compressed, in bytes
		Layers    int    `json:"layers"`
	}{reference, release.DigestOf(reference), size, len(manifest.Layers)})
}

func newImageDigestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "digest REPOSITORY:TAG",
		Short: "Ask the registry what a tag is now; prints repository:tag@digest",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			reference, err := image.Digest(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), reference)
			return err
		},
	}
}
