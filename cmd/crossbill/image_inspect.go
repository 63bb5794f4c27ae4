package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
)

type imageInspectOptions struct {
	login     loginOptions
	trust     trustOptions
	output    outputOptions
	manifests string
	commit    string

	image    name.Digest
	keychain authn.Keychain
	out      io.Writer
}

// inspectedImage is what image inspect prints: the image, and the source that the policy admits it for.
type inspectedImage struct {
	*provenance.Image
	VerifiedOrigin *provenance.Origin `json:"verifiedOrigin,omitempty"`
	Rejection      string             `json:"rejection,omitempty"`
}

func newImageInspectCommand() *cobra.Command {
	o := &imageInspectOptions{}
	cmd := &cobra.Command{
		Use:   "inspect REPOSITORY@DIGEST",
		Short: "Show an image, its attachments, and whether the image policy admits it",
		Long: `Show what an image is, what is attached to it in the registry, and whether the
image policy (imagePolicy in crossbill.yaml) admits it. What attachments say is
not verified; the last line is. Exit code 2 when the policy rejects the image.`,
		Example: `  crossbill image inspect registry.example.com/our-org/app@sha256:…

  # Would it be admitted in a release of this commit?
  crossbill image inspect registry.example.com/our-org/app@sha256:… --commit "$(git rev-parse HEAD)"`,
		Args: oneArgument("REPOSITORY@DIGEST"),
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.manifests, "manifests", "k8s", "folder with the app's Kubernetes manifests")
	cmd.Flags().StringVar(&o.commit, "commit", "", "commit that the image must have been built from (default: any)")
	o.trust.add(cmd)
	o.login.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *imageInspectOptions) complete(cmd *cobra.Command, args []string) (err error) {
	o.out = cmd.OutOrStdout()
	if o.image, err = parseDigest(args[0]); err != nil {
		return err
	}
	return o.trust.load(cmd, o.manifests)
}

func (o *imageInspectOptions) validate() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	o.keychain, err = o.login.keychain(o.image.Name())
	return err
}

func (o *imageInspectOptions) run(ctx context.Context) error {
	options := registry.Options(ctx, o.keychain)
	image, err := provenance.Inspect(ctx, o.image, options...)
	if err != nil {
		return err
	}
	inspected := inspectedImage{Image: image}
	var rejected *provenance.RejectedError
	if o.trust.policy != nil {
		inspected.VerifiedOrigin, err = o.trust.policy.Verify(ctx, o.image.Name(), provenance.Wanted{Commit: o.commit}, options...)
		if errors.As(err, &rejected) {
			inspected.Rejection = strings.Join(rejected.Reasons, "; ")
		} else if err != nil {
			return err
		}
	}
	if err := o.output.print(o.out, view{data: inspected, text: inspected.text, names: imageNames(o.image.Name())}); err != nil {
		return err
	}
	if rejected != nil {
		return rejectedIsBadInput(rejected)
	}
	return nil
}

func (i inspectedImage) text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("image", "%s", i.Reference)
	row("type", "%s", strings.Join(append([]string{i.MediaType, fmt.Sprintf("%.1f MB compressed", float64(i.SizeBytes)/1e6)}, i.Platforms...), ", "))
	if released := i.Labels[bundle.ImageAnnotation]; released != "" {
		row("bundle", "of %s", released)
	} else {
		row("command", "%s, as user %s", strings.Join(i.Command, " "), i.User)
	}
	for _, label := range []string{"title", "version", "revision", "source", "base.name"} {
		if value := i.Labels["org.opencontainers.image."+label]; value != "" {
			row(label, "%s", value)
		}
	}
	if !i.CreatedAt.IsZero() {
		row("created", "%s", i.CreatedAt.UTC().Format(time.RFC3339))
	}
	for _, a := range i.Attachments {
		detail := a.Problem
		switch {
		case detail != "":
		case a.Kind == "sbom":
			detail = fmt.Sprintf("%d components", a.Packages)
		case a.Origin != nil:
			detail = fmt.Sprintf("%s at %s, %s, by %s", a.Origin.Repository, a.Origin.Commit, cmp.Or(a.Origin.Ref, "no ref"), a.Origin.Builder)
		}
		row("attached", "%s", strings.TrimSpace(fmt.Sprintf("%s %.19s  %s", a.Kind, a.Digest, detail)))
	}
	for _, problem := range i.Skipped {
		row("skipped", "%s", problem)
	}
	if len(i.Attachments) == 0 {
		row("attached", "nothing")
	}
	switch {
	case i.VerifiedOrigin != nil:
		row("admitted", "yes: built from %s at %s (%s), signed by %s", i.VerifiedOrigin.Repository, i.VerifiedOrigin.Commit, i.VerifiedOrigin.Ref, i.VerifiedOrigin.SignedBy)
	case i.Rejection != "":
		row("admitted", "no: %s", i.Rejection)
	default:
		row("admitted", "not verified: there is no image policy")
	}
	return w.Flush()
}
