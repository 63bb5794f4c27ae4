package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

type imageAttestOptions struct {
	login         loginOptions
	output        outputOptions
	keyFile       string
	keyless       bool
	fulcio, rekor string
	appDir        string
	build         provenance.Build
	created       int64

	key      string
	signer   *provenance.Signer // of --keyless only once it runs
	image    name.Digest
	keychain authn.Keychain
	out      io.Writer
	warn     func(warning string)
}

// attestedImage is what image attest prints: digests of what it attached.
type attestedImage struct {
	Image      string `json:"image"`
	SBOM       string `json:"sbom,omitempty"`
	Provenance string `json:"provenance"`
	Signature  string `json:"signature"`
}

func newImageAttestCommand() *cobra.Command {
	o := &imageAttestOptions{}
	cmd := &cobra.Command{
		Use:   "attest REPOSITORY@DIGEST",
		Short: "Attach a signed provenance, a signature and an SBOM to an image",
		Long: `Attach to an image, in its registry: an SBOM (CycloneDX) of what the bundler put
into it, a signed provenance (SLSA v1) that names repository, commit and build,
and a signature as cosign makes them. Where there is an image policy (imagePolicy
in crossbill.yaml), canary, shift and promote admit an image by that provenance.

Repository and commit are the image's labels, unless they are given.

Environment:
  CROSSBILL_SIGNING_KEY  private key as PEM (or --key-file)
  REGISTRY_USERNAME, REGISTRY_PASSWORD
                         as for image build`,
		Example: `  # Sign with a key, and attach an SBOM of the built app
  crossbill image attest registry.example.com/our-org/app@sha256:… --app-dir app --key-file signing.pem

  # In a GitHub job with the permission id-token: write
  crossbill image attest registry.example.com/our-org/app@sha256:… --keyless`,
		Args: oneArgument("REPOSITORY@DIGEST"),
		RunE: runs(o),
	}
	f := cmd.Flags()
	f.StringVar(&o.keyFile, "key-file", "", "file with an unencrypted private key as PEM (default $CROSSBILL_SIGNING_KEY)")
	f.BoolVar(&o.keyless, "keyless", false, "sign as the GitHub workflow that runs this; it needs id-token: write")
	f.StringVar(&o.fulcio, "fulcio-url", provenance.PublicFulcio, "with --keyless: service that issues the certificate")
	f.StringVar(&o.rekor, "rekor-url", provenance.PublicRekor, "with --keyless: log of signatures")
	f.StringVar(&o.appDir, "app-dir", "", "folder of the built app, for the SBOM (default: no SBOM)")
	f.StringVar(&o.build.Base, "base", "", "base image, by digest (default: the image's label)")
	f.StringVar(&o.build.Repository, "repository", "", "source repository, https://… (default: the image's label, then GitHub's variables)")
	f.StringVar(&o.build.Commit, "commit", "", "commit that the image was built from (default: the image's label)")
	f.StringVar(&o.build.Ref, "ref", "", "branch or tag of the commit, for example refs/heads/main; an image policy asks for it (default: GitHub's variable)")
	f.StringVar(&o.build.Builder, "builder", "", "URI of who built it (default: GitHub's workflow, else https://github.com/our-org/crossbill/laptop)")
	f.StringVar(&o.build.Invocation, "run-url", "", "URL of the run that built it (default: GitHub's run)")
	createdFlag(f, &o.created, "when the build ended, in seconds since 1970: what the provenance says, and the time of the attachments (default $SOURCE_DATE_EPOCH, then now)")
	o.login.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *imageAttestOptions) complete(cmd *cobra.Command, args []string) (err error) {
	o.out, o.warn = cmd.OutOrStdout(), func(warning string) { warn(cmd, warning) }
	o.key = os.Getenv("CROSSBILL_SIGNING_KEY")
	if o.keyFile != "" {
		text, err := os.ReadFile(o.keyFile)
		if err != nil {
			return &usererr.Error{Field: "--key-file", Problem: err.Error(), Fix: "give a file with a private key as PEM"}
		}
		o.key = string(text)
	}
	o.image, err = parseDigest(args[0])
	return err
}

func (o *imageAttestOptions) validate() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	switch {
	case o.keyless && o.key != "":
		return &usererr.Error{Field: "--keyless", Problem: "there is a key as well", Fix: "give one of them"}
	case !o.keyless && o.key == "":
		return &usererr.Error{Field: "--key-file", Problem: "there is no key to sign with", Fix: "give --key-file, set CROSSBILL_SIGNING_KEY, or sign as a GitHub workflow with --keyless"}
	}
	if !o.keyless {
		if o.signer, err = provenance.NewKeySigner([]byte(o.key)); err != nil {
			return err
		}
	}
	if o.appDir != "" {
		if _, err := image.SBOM(o.appDir, o.image.Context().Name(), o.image.DigestStr(), o.build.Base); err != nil {
			return err
		}
	}
	if err := checkCreated(o.created); err != nil {
		return err
	}
	if o.build.Repository != "" {
		if err := checkRepository(o.build.Repository); err != nil {
			return err
		}
	}
	if o.build.Commit != "" {
		if err := release.CheckCommit("--commit", o.build.Commit); err != nil {
			return err
		}
	}
	o.keychain, err = o.login.keychain(o.image.Name())
	return err
}

func (o *imageAttestOptions) run(ctx context.Context) error {
	if o.keyless {
		signer, err := provenance.NewKeylessSigner(ctx, o.fulcio, o.rekor)
		if err != nil {
			return err
		}
		o.signer = signer
	}
	options := registry.Options(ctx, o.keychain)
	inspected, err := provenance.Inspect(ctx, o.image, options...)
	if err != nil {
		return err
	}
	if err := completeBuild(&o.build, inspected.Labels); err != nil {
		return err
	}
	if o.build.Ref == "" {
		o.warn("--ref is not known: the provenance will name no branch or tag, and an image policy rejects that")
	}
	at := createdAt(o.created, time.Now())
	o.build.FinishedAt = at
	var sbom []byte
	if o.appDir != "" {
		if sbom, err = image.SBOM(o.appDir, o.image.Context().Name(), o.image.DigestStr(), o.build.Base); err != nil {
			return err
		}
	}
	attested, err := provenance.Attest(ctx, o.signer, o.image, o.build, sbom, at, options...)
	if err != nil {
		return err
	}
	return o.output.print(o.out, view{
		data:  attestedImage{o.image.Name(), attested.SBOM, attested.Provenance, attested.Signature},
		text:  line("%s: signed as built from %s at %s", o.image, o.build.Repository, o.build.Commit),
		names: imageNames(o.image.Name()),
	})
}

// completeBuild fills in what the image's labels and GitHub's variables know.
func completeBuild(b *provenance.Build, labels map[string]string) error {
	fill := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	fill(&b.Repository, labels["org.opencontainers.image.source"])
	fill(&b.Commit, labels["org.opencontainers.image.revision"])
	fill(&b.Base, labels["org.opencontainers.image.base.name"])
	fill(&b.AssetsOf, labels[image.AssetsOfLabel])
	fill(&b.Image, labels[bundle.ImageAnnotation])
	b.FillIn(os.Getenv)
	if err := checkRepository(b.Repository); err != nil {
		return err
	}
	if b.Commit == "" {
		return &usererr.Error{Field: "--commit", Problem: "is missing, and the image has no label with it", Fix: "give it, or `image build --revision`"}
	}
	return nil
}

func checkRepository(address string) error {
	if !strings.HasPrefix(address, "https://") {
		return &usererr.Error{Field: "--repository", Problem: fmt.Sprintf("%q is not a repository's address", address), Fix: "give https://host/owner/name, or `image build --source-url`"}
	}
	return nil
}
