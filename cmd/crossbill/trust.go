package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	registryapi "github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// trustOptions say whose images are admitted.
type trustOptions struct {
	file     string
	required bool
	previews bool // the images are those of previews

	policy *provenance.Verifier // after load; nil when there is none
	bundle *provenance.Origin   // of the bundle that the manifests came from, once it is admitted
}

func (o *trustOptions) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.file, "trust", "", "file with the policy that says whose images are admitted (default: the section imagePolicy of crossbill.yaml; without one all are)")
	cmd.Flags().BoolVar(&o.required, "require-provenance", false, "refuse to go on without an image policy, instead of saying that the image's origin was not checked")
}

// load reads the policy.
func (o *trustOptions) load(cmd *cobra.Command, manifests string) error {
	if o.file == "" && cmd.Flags().Changed("trust") { // a variable that is not set
		return &usererr.Error{Field: "--trust", Problem: "names no file", Fix: "give the file with the policy, or leave the flag out"}
	}
	find := configOf(cmd).Policy
	if o.previews {
		find = configOf(cmd).PreviewPolicy
	}
	policy, warning, err := find(o.file, manifests)
	if err != nil {
		return err
	}
	warn(cmd, warning)
	// What crossbill.yaml requires, no flag or variable takes back: whoever triggers could set the latter.
	if policy == nil && (o.required || configOf(cmd).Image.RequireProvenance) {
		return &usererr.Error{Field: "image.requireProvenance", Problem: noPolicy, Fix: "write the section imagePolicy of crossbill.yaml, or name a file with --trust (docs/guides/provenance.md)"}
	}
	o.policy = policy
	if policy == nil {
		return nil
	}
	return policy.Check()
}

// apply lets a cluster's commands deploy only what the policy admits. Without one they say that nothing was checked.
func (o *trustOptions) apply(c *rollout.Cluster) error {
	if o.policy == nil {
		c.Admit = func(_ context.Context, r *release.Release) error {
			c.Log(rollout.Event{At: time.Now(), Object: "image", Message: noPolicy + ": its origin was not checked"})
			unchecked := release.Origin{}
			if r.Origin != nil {
				unchecked = *r.Origin
			}
			unchecked.Unchecked = noPolicy
			r.Origin = &unchecked
			return nil
		}
		return nil
	}
	c.Admit = func(ctx context.Context, r *release.Release) error {
		if r.Commit == "" {
			return commitMissing()
		}
		keychain, err := releaseLogin(c.Manifests, r.Bundle, r.Image)
		if err != nil {
			return err
		}
		origin, err := o.verify(ctx, c, r, keychain)
		if err != nil {
			return rejectedIsBadInput(err)
		}
		c.Log(rollout.Event{At: time.Now(), Object: "image", Message: fmt.Sprintf("built from %s at %s (%s), signed by %s", origin.Repository, origin.Commit, origin.Ref, origin.SignedBy)})
		if r.Bundle != "" && o.bundle != nil { // what is released is the bundle
			origin = o.bundle
		}
		if r.Origin == nil || r.Origin.Unchecked != "" {
			r.Origin = &release.Origin{
				Repository: origin.Repository, Commit: origin.Commit, Ref: origin.Ref, Builder: origin.Builder, SignedBy: origin.SignedBy,
				Run: origin.Invocation, MadeAt: origin.MadeAt(), Verified: !origin.SignedAt.IsZero(),
			}
		}
		return nil
	}
	return nil
}

// admissionPauses are those before a registry or log that gives no answer is asked again. Each question has the
// registry client's own, shorter, repetitions within.
var admissionPauses = []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second}

// verify verifies a release's image. A canary that is healthy stays as it is when that cannot be done.
func (o *trustOptions) verify(ctx context.Context, c *rollout.Cluster, r *release.Release, keychain authn.Keychain) (*provenance.Origin, error) {
	log := func(message string) {
		c.Log(rollout.Event{At: time.Now(), Object: "image", Message: message})
	}
	want := provenance.Wanted{Commit: r.Commit, At: r.StartedAt}
	if r.Bundle != "" { // it is of the release's commit, and was asked for that; the image that it names may be an older one
		want = provenance.Wanted{AnyAge: true}
	}
	origin, err := o.ask(ctx, r.Image, want, keychain, log)
	switch {
	case err == nil || decided(err) || ctx.Err() != nil:
		return origin, err
	case r.Stage == "":
		return nil, fmt.Errorf("the image's origin could not be checked: %w; run the command again when the registry answers", err)
	}
	return nil, fmt.Errorf("the image's origin could not be checked: %w; release %s stays as it is, at stage %s: run the command again when the registry answers, or rollback", err, r.ID, r.Stage)
}

// ask asks the policy about what a registry has, again for a while when that cannot be done.
func (o *trustOptions) ask(ctx context.Context, reference string, want provenance.Wanted, keychain authn.Keychain, log func(message string)) (*provenance.Origin, error) {
	for attempt := 0; ; attempt++ {
		origin, err := o.policy.Verify(ctx, reference, want, registry.Options(ctx, keychain)...)
		if err == nil || decided(err) || ctx.Err() != nil || attempt == len(admissionPauses) {
			return origin, err
		}
		log(fmt.Sprintf("its origin could not be checked, and is again in %s: %v", admissionPauses[attempt], err))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (interrupted while the origin of %s was to be checked again; nothing was changed)", ctx.Err(), reference)
		case <-time.After(admissionPauses[attempt]):
		}
	}
}

// admitBundle lets a cluster's manifests come only from a bundle that the policy admits: it is asked before anything in the
// bundle is read. Where there is no policy, apply says so.
func (o *trustOptions) admitBundle(cluster *clusterOptions, want provenance.Wanted) {
	cluster.admitBundle = func(ctx context.Context, reference string, keychain authn.Keychain) error {
		switch {
		case o.policy == nil:
			return nil
		case want.Commit == "" && !want.AnyAge:
			return commitMissing()
		}
		log := func(message string) { fmt.Fprintf(cluster.log, "bundle: %s\n", message) }
		origin, err := o.ask(ctx, reference, want, keychain, log)
		if err != nil {
			return rejectedIsBadInput(err)
		}
		log(fmt.Sprintf("made from %s at %s (%s), signed by %s", origin.Repository, origin.Commit, origin.Ref, origin.SignedBy))
		o.bundle = origin
		return nil
	}
}

func commitMissing() error {
	return &usererr.Error{Field: "--commit", Problem: "is missing: the policy admits what was built from the release's commit", Fix: "give it, from canary on"}
}

// requireBundle refuses to go on with a release by another bundle than its own.
func requireBundle(c *rollout.Cluster, given *bundle.Bundle) {
	if given == nil {
		return
	}
	admit := c.Admit
	c.Admit = func(ctx context.Context, r *release.Release) error {
		switch {
		case r.Bundle != "" && release.DigestOf(r.Bundle) != release.DigestOf(given.Reference):
			return &usererr.Error{Field: "manifests", Problem: fmt.Sprintf("release %s was started with the bundle %s, not with %s", r.ID, r.Bundle, given.Reference), Fix: "give --manifests " + bundle.Scheme + r.Bundle}
		case r.Digest() != release.DigestOf(given.Image):
			return &usererr.Error{Field: "manifests", Problem: fmt.Sprintf("release %s is of the image %s, and the bundle names %s", r.ID, r.Image, given.Image), Fix: "give the bundle, or the manifests, that the release was started with"}
		}
		return admit(ctx, r)
	}
}

// decided says whether the same question has the same answer in a minute.
func decided(err error) bool {
	answer, ok := errors.AsType[*registryapi.Error](err)
	return errors.As(err, new(*provenance.RejectedError)) || errors.As(err, new(*usererr.Error)) ||
		ok && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden)
}

// requireImage rejects a release whose image is not in its registry, before the policy is asked.
func requireImage(c *rollout.Cluster) {
	admit := c.Admit
	c.Admit = func(ctx context.Context, r *release.Release) error {
		keychain, err := releaseLogin(c.Manifests, r.Bundle, r.Image)
		if err != nil {
			return err
		}
		warn := func(err error) {
			c.Log(rollout.Event{At: time.Now(), Object: "image", Message: err.Error()})
		}
		if err := registry.RequireFound(ctx, r.Image, keychain, warn); err != nil || admit == nil {
			return err
		}
		return admit(ctx, r)
	}
}

// noPolicy is why an image's origin is not checked.
const noPolicy = "there is no image policy"

func rejectedIsBadInput(err error) error {
	if errors.As(err, new(*provenance.RejectedError)) {
		return &exitError{exitBadInput, err}
	}
	return err
}
