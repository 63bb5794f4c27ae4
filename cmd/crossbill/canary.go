package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/analysis"
	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type canaryOptions struct {
	lifecycleOptions
	trust        trustOptions
	approval     approvalOptions
	image        string
	bundle       string
	weight       int
	match        string
	mirror       string
	sticky       bool
	stickyAssets string
	baseline     bool
	commit       string
	pipelineURL  string
	sourceURL    string
	proposal     string
	again        bool
	allowTags    []string
	authors      []string
	policy       string // of the line
	follow       followOptions

	release release.Release // after validate
}

func newCanaryCommand() *cobra.Command {
	o := &canaryOptions{}
	cmd := &cobra.Command{
		Use:   "canary (--image | --bundle) REPOSITORY@sha256:…",
		Short: "Start a release: create the canary and route a little traffic to it",
		Long: `Start a release, or go on with the same one after a crash.

Applies the canary's Deployment, waits until its pods are ready endpoints, then
routes its share of the traffic to it. A canary that does not become ready in
time is rolled back (exit code 6). With --match or --mirror, and without
--weight, nobody but testers, or nobody at all, gets answers of the canary's
until 'crossbill shift' gives it a weight. An app without a primary gets its first
release straight on primary. With the section approval in crossbill.yaml, an ID
token of the job records who started the pipeline: whom promote then refuses.

With --follow it takes the release through the steps of crossbill.yaml and judges
it all the while, as verify does; the next step comes after a healthy verdict. It
ends when the canary waits for its approver. Run it again after a crash, or when
the time of its job was over (exit code 8): it goes on with the step where it
was. An unhealthy canary is rolled back (exit code 3), an inconclusive one keeps
what it has (exit code 4).`,
		Example: `  # Route 10% of the traffic to a new image
  crossbill canary --image registry.example.com/our-org/app@sha256:…

  # Start with 5%, and keep each browser on the version that answered it first
  crossbill canary --image registry.example.com/our-org/app@sha256:… --weight 5 --sticky

  # Before the first percent: testers alone, who send the header x-canary: yes
  crossbill canary --image registry.example.com/our-org/app@sha256:… --match header:x-canary=yes

  # Before the first percent: copies of 5% of the GET and HEAD requests, whose answers nobody gets
  crossbill canary --image registry.example.com/our-org/app@sha256:… --mirror 5%

  # Release a bundle: image, manifests and configuration
  crossbill canary --bundle oci://registry.example.com/our-org/app@sha256:…

  # Go through the steps of crossbill.yaml, until an approver has to decide
  crossbill canary --image registry.example.com/our-org/app@sha256:… --follow --prometheus http://prometheus.istio-system:9090

  # See what it would write
  crossbill canary --image registry.example.com/our-org/app@sha256:… --dry-run`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	o.addAll(cmd)
	return cmd
}

func (o *canaryOptions) addAll(cmd *cobra.Command) {
	o.addRelease(cmd)
	queuePolicy(cmd, &o.policy)
	o.addOthers(cmd)
	o.addTakeover(cmd)
	o.addHooks(cmd, true)
	o.trust.add(cmd)
	o.approval.add(cmd)
	o.add(cmd)
	o.traffic.add(cmd)
	o.follow.add(cmd)
	o.notify.add(cmd)
}

// addRelease adds the flags that say what is released.
func (o *canaryOptions) addRelease(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.image, "image", "", "image to release, by digest: repository@sha256:…")
	flags.StringVar(&o.bundle, "bundle", "", "bundle to release in place of an image and manifests, by digest: oci://repository@sha256:…")
	flags.IntVar(&o.weight, "weight", 10, "the canary's share of the traffic, in percent; with --match or --mirror 0, unless it is given")
	flags.StringVar(&o.match, "match", "", "requests that reach the canary whatever its weight is: header:NAME=VALUE, header:NAME^=PREFIX, header:NAME=~REGEX or header:NAME, and the same with cookie (default: none)")
	flags.StringVar(&o.mirror, "mirror", "", "part of the GET and HEAD requests of which the canary gets a copy until it has a weight, for example 5%; nobody gets the answers (default: none)")
	flags.BoolVar(&o.sticky, "sticky", false, "keep a browser on the version that answered it first, by a cookie, until the release has finished")
	flags.StringVar(&o.stickyAssets, "sticky-assets", "/build/", "with --sticky: prefix of the paths of files that have a hash in their names")
	flags.BoolVar(&o.baseline, "baseline", false, "start new pods of the old version beside the canary, as many as it has, and compare the canary with them instead of primary: both begin cold")
	flags.StringSliceVar(&o.allowTags, "allow-tags", nil, "repositories whose images the pod template may name by tag; * stands for a part of a name")
	flags.StringVar(&o.commit, "commit", "", "commit that the image was built from")
	flags.StringVar(&o.releaseID, "release-id", "", "name of the release (default: made of app, digest and commit)")
	flags.StringVar(&o.pipelineURL, "pipeline-url", "", "URL of the pipeline that runs the release")
	flags.StringVar(&o.sourceURL, "source-url", "", "URL of the run that handed the release over")
	flags.StringVar(&o.proposal, "proposal", "", "commit of the environment repository that has proposed the release: promote --approved-in-git looks for an approval after it")
	flags.StringSliceVar(&o.authors, "author", nil, "who wrote the release, as login or e-mail address: approval.notAuthor refuses them as its approvers")
	flags.BoolVar(&o.again, "again", false, "release it once more, although it has finished before (rolled back, or promoted and replaced since), or although it is older than what primary runs")
}

func (o *canaryOptions) validate() error {
	image, err := o.parseImage()
	if err != nil {
		return err
	}
	before, err := o.parseBefore()
	if err != nil {
		return err
	}
	plan, err := o.follow.plan(o, before)
	if err != nil {
		return err
	}
	if o.releaseID != "" {
		if err := release.CheckID("--release-id", o.releaseID); err != nil {
			return err
		}
	}
	if o.commit != "" {
		if err := release.CheckCommit("--commit", o.commit); err != nil {
			return err
		}
	}
	if o.proposal != "" {
		if err := release.CheckCommit("--proposal", o.proposal); err != nil {
			return err
		}
	}
	if err := checkAuthors(o.authors); err != nil {
		return err
	}
	if err := checkSourceURL(o.sourceURL); err != nil {
		return err
	}
	if err := checkQueuePolicy(o.policy); err != nil {
		return err
	}
	o.release = release.Release{ID: o.releaseID, Image: image, Weight: before.Weight, Match: before.Match, Mirror: before.Mirror, Commit: o.commit, PipelineURL: o.pipelineURL, SourceURL: o.sourceURL, Proposal: o.proposal, Authors: o.authors}
	if len(plan) > 0 {
		first := plan[0]
		o.release.Plan, o.release.Match, o.release.Mirror, o.release.Weight = plan, first.Match, first.Mirror, first.Weight
	}
	o.release.Baseline = o.baseline
	if o.sticky {
		if !strings.HasPrefix(o.stickyAssets, "/") || o.stickyAssets == "/" {
			return &usererr.Error{Field: "--sticky-assets", Problem: fmt.Sprintf("%q is not a path below /", o.stickyAssets), Fix: "give for example /build/"}
		}
		o.release.Sticky = &release.Sticky{Assets: o.stickyAssets}
	}
	if err := o.trust.load(o.cmd, o.cluster.manifests); err != nil {
		return err
	}
	o.trust.admitBundle(&o.cluster, provenance.Wanted{Commit: o.commit})
	if err := o.lifecycleOptions.validate(); err != nil {
		return err
	}
	if err := o.takeBundle(); err != nil {
		return err
	}
	if o.release.ID == "" {
		o.release.ID = release.NewID(o.cluster.set.App, o.release.Digest(), o.commit, o.release.Bundle)
	}
	if err := release.CheckNewID("--release-id", o.release.ID, o.cluster.set.App, o.release.Digest(), o.commit, o.release.Bundle); err != nil {
		return err
	}
	if err := o.follow.load(o.cmd, o.cluster.manifests); err != nil {
		return err
	}
	return o.approval.load(o.cmd, o.by)
}

// checkSourceURL finds what is no address of a run.
func checkSourceURL(address string) error {
	if u, err := url.Parse(address); address != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		return &usererr.Error{Field: "--source-url", Problem: fmt.Sprintf("%q is not a web address", address), Fix: "give https://host/path"}
	}
	return nil
}

// parseBefore gives the canary's weight, and what leads to it before it has one.
func (o *canaryOptions) parseBefore() (r release.Release, err error) {
	if r.Weight = o.weight; o.match != "" {
		if r.Match, err = release.ParseMatch("canary.match", o.match); err != nil {
			return r, err
		}
	}
	if o.mirror != "" {
		if r.Mirror, err = release.ParseMirror("canary.mirror", o.mirror); err != nil {
			return r, err
		}
	}
	settings := configOf(o.cmd).settings
	if (r.Match != nil || r.Mirror > 0) && !o.cmd.Flags().Changed("weight") && (settings == nil || !settings.Given("canary.weight")) {
		r.Weight = 0
	}
	return r, release.CheckBefore("canary.weight", r.Weight, r.Match, r.Mirror)
}

// parseImage gives the image of --image; "" when the bundle names it.
func (o *canaryOptions) parseImage() (string, error) {
	if o.bundle != "" {
		switch {
		case o.image != "":
			return "", &usererr.Error{Field: "--bundle", Problem: "an image is given as well", Fix: "give one of them: the bundle names its image"}
		case o.cmd.Flags().Changed("manifests"):
			return "", &usererr.Error{Field: "--bundle", Problem: "--manifests is given as well", Fix: "give one of them: the bundle carries its manifests"}
		}
		reference, err := bundle.Parse("--bundle", o.bundle)
		o.cluster.manifests = bundle.Scheme + reference
		return "", err
	}
	if o.image == "" {
		if bundle.Named(o.cluster.manifests) {
			return "", nil
		}
		return "", &usererr.Error{Field: "--image", Problem: "is missing", Fix: "give repository@sha256:…; `crossbill image digest` gives it for a tag"}
	}
	return release.ParseImage("--image", o.image)
}

// takeBundle makes the image that the bundle names the release's.
func (o *canaryOptions) takeBundle() error {
	given := o.cluster.bundle
	if given == nil {
		return nil
	}
	if o.release.Image != "" && o.release.Digest() != release.DigestOf(given.Image) {
		return &usererr.Error{Field: "--image", Problem: fmt.Sprintf("%s is another image than the bundle's, %s", o.release.Image, given.Image), Fix: "leave it out, or give the bundle that was made of this image"}
	}
	o.release.Image, o.release.Bundle = given.Image, given.Reference
	return nil
}

func (o *canaryOptions) run(ctx context.Context) error {
	o.releaseID, o.given = o.release.ID, origin{o.release.Commit, o.release.PipelineURL}
	if err := o.remark(); err != nil {
		return err
	}
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		if err := o.trust.apply(c); err != nil {
			return outcome{}, err
		}
		requireImage(c)
		o.approval.apply(c)
		c.Again, c.AllowTags = o.again, o.allowTags
		c.Line.Policy = release.QueuePolicy(o.policy)
		if o.follow.on && !o.dryRun {
			if err := o.follow.checks(c, &o.lifecycleOptions); err != nil {
				return outcome{}, err
			}
		}
		result, err := c.Canary(ctx, o.release)
		if err != nil || !o.follow.on || o.dryRun || result.Release == nil || result.Release.ID != o.release.ID || result.Outcome != "" {
			return outcome{Result: result}, analysis.RollBackUnready(ctx, analysis.Of(c), err)
		}
		return o.follow.run(ctx, c, &o.lifecycleOptions)
	})
}
