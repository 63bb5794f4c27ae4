package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// releaseFlags name the release that canary begins and plan looks at.
type releaseFlags struct {
	image, id, commit, pipeline, source string
	weight                              int
	sticky                              bool
	assets                              string
}

func (f *releaseFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.image, "image", "", "image to release, by digest: repository@sha256:…")
	cmd.Flags().IntVar(&f.weight, "weight", 10, "the canary's share of the traffic, in percent")
	cmd.Flags().BoolVar(&f.sticky, "sticky", false, "keep a browser on the version that answered it first, by a cookie, until the release has ended")
	cmd.Flags().StringVar(&f.assets, "sticky-assets", "/build/", "with --sticky: prefix of the paths of files that have a hash in their names")
	cmd.Flags().StringVar(&f.commit, "commit", "", "commit that the image was built from")
	cmd.Flags().StringVar(&f.id, "release-id", "", "name of the release (default: made of app, digest and commit)")
	cmd.Flags().StringVar(&f.pipeline, "pipeline-url", "", "page of the pipeline that runs the release")
	cmd.Flags().StringVar(&f.source, "source-url", "", "page of the run that handed the release over")
}

func (f *releaseFlags) release(app string) (release.Release, error) {
	image, err := release.ParseImage("--image", f.image)
	if err != nil {
		return release.Release{}, err
	}
	if err := release.ParseWeight("--weight", f.weight); err != nil {
		return release.Release{}, err
	}
	r := release.Release{ID: f.id, Image: image, Weight: f.weight, Commit: f.commit, PipelineURL: f.pipeline, SourceURL: f.source}
	if f.sticky {
		if !strings.HasPrefix(f.assets, "/") || f.assets == "/" {
			return release.Release{}, &usererr.Error{Field: "--sticky-assets", Problem: fmt.Sprintf("%q is not a path below /", f.assets), Fix: "give for example /build/"}
		}
		r.Sticky = &release.Sticky{Assets: f.assets}
	}
	if r.ID == "" {
		r.ID = release.NewID(app, r.Digest(), f.commit)
	}
	return r, nil
}

func newCanaryCommand() *cobra.Command {
	var cluster clusterFlags
	var flags releaseFlags
	var drain drainFlags
	var trust trustFlags
	var tell tellFlags
	var takeover, again bool
	cmd := &cobra.Command{
		Use:   "canary --image REPOSITORY@sha256:…",
		Short: "Begin a release: start the canary and give it a share of the traffic",
		Long: `Begin a release, or go on with the same one after a crash.

Applies the canary's Deployment, waits until its pods are ready endpoints, then
routes its share of the traffic to it. A canary that does not become ready in
time is rolled back (exit code 6). An app without a primary gets its first
release straight on primary.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tell.around(cmd, &cluster, "canary", &flags.id, func() (rollout.Result, error) {
				if _, err := flags.release(""); err != nil { // before anything is asked of the cluster
					return rollout.Result{}, err
				}
				c, err := cluster.connect(cmd)
				if err != nil {
					return rollout.Result{}, err
				}
				want, err := flags.release(c.Manifests.App)
				if err != nil {
					return rollout.Result{}, err
				}
				if err := drain.apply(c); err != nil { // for the way back
					return rollout.Result{}, err
				}
				if err := trust.apply(c, cluster.manifests); err != nil {
					return rollout.Result{}, err
				}
				if err := requireImage(c); err != nil {
					return rollout.Result{}, err
				}
				c.Takeover, c.Again = takeover, again
				result, err := c.Canary(cmd.Context(), want)
				if err != nil {
					return rollout.Result{}, rollBackUnready(cmd.Context(), c, err)
				}
				return cluster.printed(cmd, result)
			})
		},
	}
	cluster.add(cmd.Flags())
	flags.add(cmd)
	drain.add(cmd.Flags())
	trust.add(cmd.Flags())
	tell.add(cmd)
	cmd.Flags().BoolVar(&again, "again", false, "release it once more, although it has ended before (rolled back, or promoted and replaced since)")
	takeoverFlag(cmd.Flags(), &takeover)
	return cmd
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
		if err := image.RequireFound(ctx, r.Image, keychain, warn); err != nil || admit == nil {
			return err
		}
		return admit(ctx, r)
	}
	return nil
}

// rollBackUnready rolls back when pods did not become ready in time: exit code 6 either way, the
// message says which.
func rollBackUnready(ctx context.Context, c *rollout.Cluster, cause error) error {
	var notReady *rollout.NotReadyError
	if !errors.As(cause, &notReady) || ctx.Err() != nil {
		return cause
	}
	c.ReleaseID = notReady.ReleaseID
	result, err := c.Rollback(ctx, notReady.Deployment+": "+notReady.Reason)
	if err != nil {
		return &exitError{exitDeadline, fmt.Errorf("%w\nrolling back did not finish: %w; run `crossbill rollback`", cause, err)}
	}
	return &exitError{exitDeadline, fmt.Errorf("%w\nrolled back: %s", cause, result.Message)}
}
