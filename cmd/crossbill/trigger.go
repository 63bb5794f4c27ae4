package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

type triggerOptions struct {
	handoffOptions
	trigger  gitlab.TriggerOptions
	up, down string // preview
	cmd      *cobra.Command
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

--preview-up and --preview-down hand a preview over instead, to a project of its
own: whoever can start previews must not be able to start a release. Its pipeline
is "preview APP ID", where one that has finished does not count.

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
    --commit "$(git rev-parse HEAD)" -o json | jq -r '.pipelineId, .url'

  # Bring the preview of a pull request up, and end it
  crossbill trigger --project infra/previews --app shop --preview-up pr-42 --image registry.example.com/our-org/shop-previews@sha256:…
  crossbill trigger --project infra/previews --app shop --preview-down pr-42`,
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
	flags.StringVar(&o.up, "preview-up", "", "name of a preview that comes up with the image, in place of a release")
	flags.StringVar(&o.down, "preview-down", "", "name of a preview that ends, in place of a release")
	positiveDuration(flags, &o.trigger.Settle, "settle", 10*time.Second, "how long to wait for pipelines of other senders")
	o.add(cmd, "read_api, or api to cancel duplicates", 15*time.Minute)
	o.gitlab.addOrigin(cmd, &o.trigger.Ref)
	o.gitlab.addTriggerToken(cmd)
	addJobNames(cmd, &o.trigger.Jobs)
	return cmd
}

func (o *triggerOptions) complete(cmd *cobra.Command, args []string) error {
	o.cmd = cmd
	return o.handoffOptions.complete(cmd, args)
}

func (o *triggerOptions) validate() error {
	if o.up != "" || o.down != "" {
		if err := o.preview(); err != nil {
			return err
		}
	}
	return o.handoffOptions.validate()
}

// preview turns the flags of a release into those of a preview.
func (o *triggerOptions) preview() error {
	r, project := &o.trigger.Release, o.gitlab.project
	switch {
	case o.up != "" && o.down != "":
		return &usererr.Error{Field: "--preview-down", Problem: "a preview comes up and ends at once", Fix: "give one of --preview-up and --preview-down"}
	case r.Bundle != "" || r.ID != "":
		return &usererr.Error{Field: "--preview-" + map[bool]string{true: "up", false: "down"}[o.up != ""], Problem: "a preview has no bundle and no release ID", Fix: "leave --bundle and --release-id out"}
	case project != "" && project == configOf(o.cmd).GitLab.Project:
		return &usererr.Error{Field: "--project", Problem: project + " is the project that releases (gitlab.project): whoever can start its previews could start a release", Fix: "give previews a project of their own (docs/guides/previews.md), and name that"}
	}
	o.trigger.Preview = &release.PreviewHandoff{App: r.App, Name: o.up + o.down, Down: o.down != "", Image: r.Image, Commit: r.Commit, SourceURL: r.SourceURL}
	if o.down != "" { // whatever commit the platform says
		o.trigger.Preview.Commit = ""
	}
	return nil
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
	how, next, what := "started", "", "release "+p.ReleaseID
	if p.Preview != "" {
		what = "preview " + p.Preview
	}
	if p.Adopted {
		how = "adopted"
	}
	if p.Status == "failed" || p.Status == "success" {
		next = "; it has finished: retry its jobs in GitLab, or give --again"
	}
	return o.output.print(o.out, view{
		data:  p,
		text:  line("trigger: %s pipeline %d (%s) of %s: %s%s", how, p.ID, p.Status, what, p.URL, next),
		names: pipelineName(p.ID),
	})
}
