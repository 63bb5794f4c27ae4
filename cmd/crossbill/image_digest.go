package main

import (
	"context"
	"io"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
)

type imageDigestOptions struct {
	login  loginOptions
	output outputOptions

	tag      string
	keychain authn.Keychain
	out      io.Writer
}

func newImageDigestCommand() *cobra.Command {
	o := &imageDigestOptions{}
	cmd := &cobra.Command{
		Use:   "digest REPOSITORY:TAG",
		Short: "Print a tag's image with the digest that the registry has for it now",
		Example: `  crossbill image digest registry.example.com/our-org/app:1.1.0

  # Release what a tag names now
  crossbill canary --image "$(crossbill image digest registry.example.com/our-org/app:1.1.0)"`,
		Args: oneArgument("REPOSITORY:TAG"),
		RunE: runs(o),
	}
	o.login.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *imageDigestOptions) complete(cmd *cobra.Command, args []string) error {
	o.out, o.tag = cmd.OutOrStdout(), args[0]
	return nil
}

func (o *imageDigestOptions) validate() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	if _, err := registry.ParseTag("image", o.tag); err != nil {
		return err
	}
	o.keychain, err = o.login.keychain(o.tag)
	return err
}

func (o *imageDigestOptions) run(ctx context.Context) error {
	reference, err := registry.Digest(ctx, o.tag, o.keychain)
	if err != nil {
		return err
	}
	return o.output.print(o.out, view{
		data: struct {
			Reference string `json:"reference"`
			Digest    string `json:"digest"`
		}{reference, release.DigestOf(reference)},
		text:  line("%s", reference),
		names: imageNames(reference),
	})
}
