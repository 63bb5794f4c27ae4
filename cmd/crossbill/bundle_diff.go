package main

import (
	"context"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/usererr"
)

type bundleDiffOptions struct {
	login     loginOptions
	output    outputOptions
	app       string
	namespace string

	cmd      *cobra.Command
	sides    []string
	keychain authn.Keychain
	out      io.Writer
}

// bundleDiff is what bundle diff prints.
type bundleDiff struct {
	Old     string          `json:"old"`
	New     string          `json:"new"`
	Changes []bundle.Change `json:"changes"`
}

func newBundleDiffCommand() *cobra.Command {
	o := &bundleDiffOptions{}
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show what differs between two bundles, or a bundle and manifests",
		Long: `Show what differs between two bundles, or between a bundle and manifests. Each of
the two is a bundle, oci://repository@sha256:…, or what --manifests takes. Values
of Secrets are masked; that one changes is shown. Nothing is asked of a cluster.`,
		Example: `  # Two releases
  crossbill bundle diff oci://registry.example.com/our-org/app@sha256:… oci://registry.example.com/our-org/app@sha256:…

  # The bundle of the last release, and what is in this branch
  crossbill bundle diff oci://registry.example.com/our-org/app@sha256:… k8s`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || args[0] == "" || args[1] == "" {
				return &usererr.Error{Field: "OLD NEW", Problem: fmt.Sprintf("%d are given", len(args)), Fix: "give two"}
			}
			return nil
		},
		RunE: runs(o),
	}
	addRendering(cmd.Flags(), &o.app, &o.namespace)
	o.login.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *bundleDiffOptions) complete(cmd *cobra.Command, args []string) error {
	o.cmd, o.out, o.sides = cmd, cmd.OutOrStdout(), args
	return nil
}

func (o *bundleDiffOptions) validate() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	last := "" // bundle, whose registry the login is for
	for i, side := range o.sides {
		if bundle.Named(side) {
			if last, err = bundle.Parse([]string{"OLD", "NEW"}[i], side); err != nil {
				return err
			}
		}
	}
	o.keychain, err = o.login.keychain(last)
	return err
}

func (o *bundleDiffOptions) run(ctx context.Context) error {
	var rendered []*manifest.Rendered
	for i, side := range o.sides {
		one, err := o.read(ctx, []string{"OLD", "NEW"}[i], side)
		if err != nil {
			return err
		}
		rendered = append(rendered, one)
	}
	changes, err := bundle.Diff(rendered[0], rendered[1])
	if err != nil {
		return err
	}
	v := view{data: bundleDiff{o.sides[0], o.sides[1], changes}, text: func(out io.Writer) error {
		for _, change := range changes {
			if _, err := fmt.Fprintf(out, "%s %s\n%s\n", change.Action, change.Object, indent(change.Diff)); err != nil {
				return err
			}
		}
		if len(changes) == 0 {
			fmt.Fprintln(out, "no change")
		}
		return nil
	}}
	for _, change := range changes {
		v.names = append(v.names, objectName(change.Object))
	}
	return o.output.print(o.out, v)
}

// read reads one of the two sides.
func (o *bundleDiffOptions) read(ctx context.Context, option, side string) (*manifest.Rendered, error) {
	if !bundle.Named(side) {
		return renderManifests(o.cmd, side, o.app, o.namespace)
	}
	pulled, err := bundle.Pull(ctx, option, side, o.keychain)
	if err != nil {
		return nil, err
	}
	return pulled.Rendered, nil
}
