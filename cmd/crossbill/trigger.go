package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab"
)

type triggerOptions struct {
	handoffOptions
	trigger gitlab.TriggerOptions
}

func newTriggerCommand() *cobra.Command {
	o := &triggerOptions{}
	cmd := &cobra.Command{
		Use:   "trigger --project GROUP/PROJECT --app NAME (--image | --bundle) REPOSITORY@sha256:… --commit SHA",
		Short: "Start GitLab's pipeline for a release, once, or adopt the existing one",
		Long: `Start GitLab's pipeline for a release, once, or adopt the existing one.

The pipeline is found by its name, "release APP ID". Whatever happens to the
network, the same command can be run again. When several pipelines of one
release appear, the lowest id is kept and the others are canceled. Pipelines of
the same name that the trigger token did not start, or that run on another ref,
are left alone and named in the log.

A bundle carries the manifests and names the image: GitLab's jobs take both from
it.

Environment:
  GITLAB_TRIGGER_TOKEN  pipeline trigger token (or --trigger-token-file)
  GITLAB_TOKEN          access token, scope read_api, or api to cancel
                        duplicates (or --token-file)`,
		Example: `  # In a GitHub workflow, which sets the commit and the page of the run
  crossbill trigger --project infra/deploy --app shop --image registry.example.com/our-org/shop@sha256:…

  # Hand over a bundle, as the command bundle printed it
  crossbill trigger --project infra/deploy --app shop --bundle registry.example.com/our-org/shop@sha256:…

  # Print the id and the page of the pipeline
  crossbill trigger --project infra/deploy --app shop --image registry.example.com/our-org/shop@sha256:… \
    --commit "$(git rev-parse HEAD)" -o json | jq -r '.pipelineId, .url'`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.trigger.Release.App, "app", "", "name of the app")
	flags.StringVar(&o.trigger.Release.Image, "image", "", "image to release, by digest: repository@sha256:…")
	flags.StringVar(&o.trigger.Release.Bundle, "bundle", "", "bundle to release in place of an image, by digest: repository@sha256:…")
	flags.StringVar(&o.trigger.Release.Commit, "commit", "", "commit that the image was built from")
	flags.StringVar(&o.trigger.Release.ID, "release-id", "", "name of the release (default: made of app, digest and commit)")
	flags.StringVar(&o.trigger.Release.SourceURL, "source-url", "", "page of the run that hands the release over")
	flags.BoolVar(&o.trigger.Variables, "variables", false, "send trigger variables instead of typed inputs, for a GitLab before 18.1")
	flags.BoolVar(&o.trigger.Again, "again", false, "start another pipeline although one of this release has finished")
	positiveDuration(flags, &o.trigger.Settle, "settle", 10*time.Second, "how long to wait for pipelines of other senders")
	o.add(cmd, "read_api, or api to cancel duplicates", 15*time.Minute)
	o.gitlab.addOrigin(cmd, &o.trigger.Ref)
	o.gitlab.addTriggerToken(cmd)
	return cmd
}

func (o *triggerOptions) run(ctx context.Context) error {
	o.trigger.Timeout = o.timeout
	started := time.Now()
	p, err := gitlab.Trigger(ctx, o.client, o.trigger)
	o.trace(ctx, "trigger", o.trigger.Release.App, p.ReleaseID, started, err)
	if p.ID == 0 {
		return err
	}
	return errors.Join(err, o.print(p))
}

func (o *triggerOptions) print(p gitlab.Pipeline) error {
	how, next := "started", ""
	if p.Adopted {
		how = "adopted"
	}
	if p.Status == "failed" || p.Status == "success" {
		next = "; it has finished: retry its jobs in GitLab, or give --again"
	}
	return o.output.print(o.out, view{
		data:  p,
		text:  line("trigger: %s pipeline %d (%s) of release %s: %s%s", how, p.ID, p.Status, p.ReleaseID, p.URL, next),
		names: pipelineName(p.ID),
	})
}
