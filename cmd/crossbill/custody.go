package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/usererr"
)

type attestFlags struct {
	login         loginFlags
	keyFile       string
	keyless       bool
	fulcio, rekor string
	appDir, base  string
	build         provenance.Build
	created       int64
	output        outputOptions
}

func newImageAttestCommand() *cobra.Command {
	var flags attestFlags
	cmd := &cobra.Command{
		Use:   "attest REPOSITORY@DIGEST",
		Short: "Sign where an image comes from, and what is in it; both are attached to it in the registry",
		Long: `Attach to an image, in its registry: an SBOM (CycloneDX) of what the bundler put
into it, a signed provenance (SLSA v1) that names repository, commit and build,
and a signature as cosign makes them. ` + "`crossbill canary`" + `, shift and promote let an
image through by that provenance, when there is a policy (imagePolicy in crossbill.yaml).

Repository and commit are the image's labels, unless given.

Environment:
  CROSSBILL_SIGNING_KEY  private key as PEM (or --key-file)
  REGISTRY_USERNAME, REGISTRY_PASSWORD
                         as for image build`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return attest(cmd, &flags, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&flags.keyFile, "key-file", "", "file with an unencrypted private key as PEM (default $CROSSBILL_SIGNING_KEY)")
	f.BoolVar(&flags.keyless, "keyless", false, "sign as the GitHub workflow that runs this; it needs id-token: write")
	f.StringVar(&flags.fulcio, "fulcio-url", provenance.PublicFulcio, "with --keyless: who makes out the certificate")
	f.StringVar(&flags.rekor, "rekor-url", provenance.PublicRekor, "with --keyless: the log that it is entered into")
	f.StringVar(&flags.appDir, "app-dir", "", "folder of the built app, for the SBOM (default: none is made)")
	f.StringVar(&flags.base, "base", "", "base image, by digest (default: the image's label)")
	f.StringVar(&flags.build.Repository, "repository", "", "source repository, https://… (default: the image's label, then GitHub's variables)")
	f.StringVar(&flags.build.Commit, "commit", "", "its commit (default: the image's label)")
	f.StringVar(&flags.build.Ref, "ref", "", "its branch or tag, for example refs/heads/main (default: GitHub's variable)")
	f.StringVar(&flags.build.Builder, "builder", "", "URI of who built it (default: GitHub's workflow, else https://github.com/our-org/crossbill/laptop)")
	f.StringVar(&flags.build.Invocation, "run-url", "", "URL of the run that built it (default: GitHub's run)")
	f.Int64Var(&flags.created, "created", epoch(), "time of what is attached, in seconds since 1970 (default $SOURCE_DATE_EPOCH, then now)")
	flags.login.add(f)
	flags.output.add(cmd)
	return cmd
}

// attached is what attest has put beside an image.
type attached struct {
	Image      string `json:"image"`
	SBOM       string `json:"sbom,omitempty"`
	Provenance string `json:"provenance"`
	Signature  string `json:"signature"`
}

func attest(cmd *cobra.Command, flags *attestFlags, reference string) error {
	if err := flags.output.validate(); err != nil {
		return err
	}
	ref, err := parseDigest("image", reference)
	if err != nil {
		return err
	}
	keychain, err := flags.login.keychain()
	if err != nil {
		return err
	}
	signer, err := flags.signer(cmd.Context())
	if err != nil {
		return err
	}
	options := registry.Options(cmd.Context(), keychain)
	inspected, err := provenance.Inspect(cmd.Context(), ref, options...)
	if err != nil {
		return err
	}
	if err := flags.complete(inspected.Labels); err != nil {
		return err
	}
	created := time.Now()
	if flags.created != 0 {
		created = time.Unix(flags.created, 0)
	}
	var sbom []byte
	if flags.appDir != "" {
		if sbom, err = image.SBOM(flags.appDir, ref.Context().Name(), ref.DigestStr(), flags.build.Base); err != nil {
			return err
		}
	}
	made, err := provenance.Attest(cmd.Context(), signer, ref, flags.build, sbom, created, options...)
	if err != nil {
		return err
	}
	return flags.output.print(cmd.OutOrStdout(), view{
		data:  attached{ref.Name(), made.SBOM, made.Provenance, made.Signature},
		text:  line("%s: signed as built from %s at %s", ref, flags.build.Repository, flags.build.Commit),
		names: []string{"image/" + ref.Name()},
	})
}

func (f *attestFlags) signer(ctx context.Context) (*provenance.Signer, error) {
	key := os.Getenv("CROSSBILL_SIGNING_KEY")
	if f.keyFile != "" {
		text, err := os.ReadFile(f.keyFile)
		if err != nil {
			return nil, &usererr.Error{Field: "--key-file", Problem: err.Error()}
		}
		key = string(text)
	}
	switch {
	case f.keyless && key != "":
		return nil, &usererr.Error{Field: "--keyless", Problem: "there is a key as well", Fix: "give one of them"}
	case f.keyless:
		return provenance.NewKeylessSigner(ctx, f.fulcio, f.rekor)
	case key == "":
		return nil, &usererr.Error{Field: "--key-file", Problem: "there is no key to sign with", Fix: "give --key-file, set CROSSBILL_SIGNING_KEY, or sign as a GitHub workflow by --keyless"}
	}
	return provenance.NewKeySigner([]byte(key))
}

// complete fills in what the image's labels and GitHub's variables know
// (https://docs.github.com/actions/reference/workflows-and-actions/variables).
func (f *attestFlags) complete(labels map[string]string) error {
	server, repository := os.Getenv("GITHUB_SERVER_URL"), os.Getenv("GITHUB_REPOSITORY")
	onGitHub := os.Getenv("GITHUB_ACTIONS") == "true" && repository != ""
	b := &f.build
	fill := func(field *string, values ...string) {
		for _, value := range values {
			if *field == "" {
				*field = value
			}
		}
	}
	fill(&b.Repository, labels["org.opencontainers.image.source"])
	fill(&b.Commit, labels["org.opencontainers.image.revision"])
	b.Base = f.base
	fill(&b.Base, labels["org.opencontainers.image.base.name"])
	if onGitHub {
		fill(&b.Repository, server+"/"+repository)
		fill(&b.Ref, os.Getenv("GITHUB_REF"))
		fill(&b.Builder, server+"/"+os.Getenv("GITHUB_WORKFLOW_REF"))
		fill(&b.Invocation, server+"/"+repository+"/actions/runs/"+os.Getenv("GITHUB_RUN_ID"))
	}
	fill(&b.Builder, "https://github.com/our-org/crossbill/laptop")
	switch {
	case !strings.HasPrefix(b.Repository, "https://"):
		return &usererr.Error{Field: "--repository", Problem: fmt.Sprintf("%q is not a repository's address", b.Repository), Fix: "give https://host/owner/name, or `image build --source-url`"}
	case b.Commit == "":
		return &usererr.Error{Field: "--commit", Problem: "is missing, and the image has no label that says it", Fix: "give it, or `image build --revision`"}
	}
	return nil
}

func parseDigest(field, reference string) (name.Digest, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return ref, &usererr.Error{Field: field, Problem: err.Error(), Fix: "give repository@sha256:…; `crossbill image digest` gives it for a tag"}
	}
	return ref, nil
}

func newImageInspectCommand() *cobra.Command {
	var login loginFlags
	var trust trustOptions
	var output outputOptions
	var commit, manifests string
	cmd := &cobra.Command{
		Use:   "inspect REPOSITORY@DIGEST",
		Short: "Show what an image is, what is attached to it, and whether the policy lets it through",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.validate(); err != nil {
				return err
			}
			ref, err := parseDigest("image", args[0])
			if err != nil {
				return err
			}
			if err := trust.load(cmd, manifests); err != nil {
				return err
			}
			policy := trust.policy
			keychain, err := login.keychain()
			if err != nil {
				return err
			}
			options := registry.Options(cmd.Context(), keychain)
			found := inspected{}
			if found.Image, err = provenance.Inspect(cmd.Context(), ref, options...); err != nil {
				return err
			}
			if policy != nil {
				found.Trusted, err = policy.Verify(cmd.Context(), args[0], commit, options...)
			}
			refused := err
			if refused != nil && !errors.As(refused, new(*provenance.RejectedError)) {
				return refused
			}
			if err := output.print(cmd.OutOrStdout(), view{
				data:  found,
				text:  func(out io.Writer) error { return found.print(out, policy != nil) },
				names: []string{"image/" + ref.Name()},
			}); err != nil {
				return err
			}
			return refusedIsBadInput(refused)
		},
	}
	login.add(cmd.Flags())
	trust.add(cmd)
	cmd.Flags().StringVar(&manifests, "manifests", "k8s", "folder with the app's Kubernetes manifests, and the policy")
	cmd.Flags().StringVar(&commit, "commit", "", "also check that it was built from this commit")
	output.add(cmd)
	return cmd
}

// inspected is an image, and who it is trusted for.
type inspected struct {
	*provenance.Image
	Trusted *provenance.Origin `json:"trusted,omitempty"`
}

func (i *inspected) print(out io.Writer, checked bool) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("image", "%s", i.Reference)
	row("is", "%s", strings.Join(append([]string{i.MediaType, fmt.Sprintf("%.1f MB compressed", float64(i.SizeBytes)/1e6)}, i.Platforms...), ", "))
	row("runs", "%s, as user %s", strings.Join(i.Command, " "), i.User)
	for _, label := range []string{"title", "version", "revision", "source", "base.name"} {
		if value := i.Labels["org.opencontainers.image."+label]; value != "" {
			row(label, "%s", value)
		}
	}
	if !i.CreatedAt.IsZero() {
		row("created", "%s", i.CreatedAt.UTC().Format(time.RFC3339))
	}
	for _, a := range i.Attachments {
		said := a.Problem
		switch {
		case said != "":
		case a.Kind == "sbom":
			said = fmt.Sprintf("%d components", a.Packages)
		case a.Origin != nil:
			said = fmt.Sprintf("%s at %s, by %s", a.Origin.Repository, a.Origin.Commit, a.Origin.Builder)
		}
		row("attached", "%s", strings.TrimSpace(fmt.Sprintf("%s %s  %s", a.Kind, a.Digest[:19], said)))
	}
	if len(i.Attachments) == 0 {
		row("attached", "nothing")
	}
	switch {
	case !checked:
		row("trusted", "not checked: there is no policy")
	case i.Trusted != nil:
		row("trusted", "yes: built from %s at %s, signed by %s", i.Trusted.Repository, i.Trusted.Commit, i.Trusted.SignedBy)
	default:
		row("trusted", "no")
	}
	return w.Flush()
}
