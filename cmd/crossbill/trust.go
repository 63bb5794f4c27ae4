package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// trustOptions say whose images are admitted.
type trustOptions struct {
	file string

	policy *provenance.Verifier // after load; nil when there is none
}

func (o *trustOptions) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.file, "trust", "", "file with the policy that says whose images are admitted (default: the section imagePolicy of crossbill.yaml; without one all are)")
}

// load reads the policy.
func (o *trustOptions) load(cmd *cobra.Command, manifests string) error {
	policy, warning, err := configOf(cmd).Policy(o.file, manifests)
	if err != nil {
		return err
	}
	warn(cmd, warning)
	o.policy = policy
	return nil
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
	keychain, err := environmentLogin()
	if err != nil {
		return err
	}
	c.Admit = func(ctx context.Context, r *release.Release) error {
		if r.Commit == "" {
			return &usererr.Error{Field: "--commit", Problem: "is missing: the policy admits what was built from the release's commit", Fix: "give it, from canary on"}
		}
		origin, err := o.policy.Verify(ctx, r.Image, provenance.Wanted{Commit: r.Commit, At: r.StartedAt}, registry.Options(ctx, keychain)...)
		if err != nil {
			return rejectedIsBadInput(err)
		}
		c.Log(rollout.Event{At: time.Now(), Object: "image", Message: fmt.Sprintf("built from %s at %s (%s), signed by %s", origin.Repository, origin.Commit, origin.Ref, origin.SignedBy)})
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

// requireImage rejects a release whose image is not in its registry, before the policy is asked.
func requireImage(c *rollout.Cluster) error {
	keychain, err := environmentLogin()
	if err != nil {
		return err
	}
	admit := c.Admit
	c.Admit = func(ctx context.Context, r *release.Release) error {
		warn := func(err error) {
			c.Log(rollout.Event{At: time.Now(), Object: "image", Message: err.Error()})
		}
		if err := registry.RequireFound(ctx, r.Image, keychain, warn); err != nil || admit == nil {
			return err
		}
		return admit(ctx, r)
	}
	return nil
}

// noPolicy is why an image's origin is not checked.
const noPolicy = "there is no image policy"

func rejectedIsBadInput(err error) error {
	if errors.As(err, new(*provenance.RejectedError)) {
		return &exitError{exitBadInput, err}
	}
	return err
}
