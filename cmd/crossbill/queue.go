package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// queueTurn is the default of queue.turn.
const queueTurn = 10 * time.Minute

// queuePolicy adds --queue-policy.
func queuePolicy(cmd *cobra.Command, policy *string) {
	cmd.Flags().StringVar(policy, "queue-policy", string(release.QueueRefuse), "what becomes of a release while another one is in flight: refuse, queue (in order of commits) or supersede (in place of one that nobody has approved)")
}

// checkQueuePolicy finds what is no policy.
func checkQueuePolicy(policy string) error {
	switch release.QueuePolicy(policy) {
	case release.QueueRefuse, release.QueueInOrder, release.QueueSupersede:
		return nil
	}
	return &usererr.Error{Field: "--queue-policy", Problem: fmt.Sprintf("%q is not a policy", policy), Fix: "give refuse, queue or supersede"}
}

type queueOptions struct {
	lifecycleOptions
	queued release.Queued
	policy string
	line   rollout.Line
	leave  bool
}

func newQueueCommand() *cobra.Command {
	o := &queueOptions{}
	cmd := &cobra.Command{
		Use:   "queue --release-id ID",
		Short: "Wait until it is a release's turn, before canary starts it",
		Long: `Put a release into the app's line and wait until it is its turn; canary starts it
then. With --queue-policy queue the line is in order of commits. With supersede a
release waits only for one that somebody has approved: one that nobody has
approved is rolled back for it, and older ones that wait are not released. With
refuse, the default, it does not wait, and canary is refused while another release
is in flight.

A release that a newer one makes superfluous ends well: exit code 0, here and in
each later command about it. Run again after a crash, it keeps its place. The
first one in the line that does not take its turn loses it. status shows the line.`,
		Example: `  # In the pipeline, in a job of its own before canary
  crossbill queue --release-id "$RELEASE_ID" --commit "$COMMIT" --source-url "$SOURCE_URL"

  # Take a release out of the line
  crossbill queue --release-id 8db9a2d5989c --leave`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.releaseID, "release-id", "", "name of the release")
	flags.StringVar(&o.queued.Image, "image", "", "image that it releases, by digest, for status")
	flags.StringVar(&o.queued.Bundle, "bundle", "", "bundle that it releases, by digest: its manifests, and for status")
	flags.StringVar(&o.queued.Commit, "commit", "", "commit that the image was built from")
	flags.StringVar(&o.queued.SourceURL, "source-url", "", "URL of the run that handed the release over: by its number the line is in order")
	flags.StringVar(&o.queued.PipelineURL, "pipeline-url", "", "URL of the pipeline that runs the release")
	flags.BoolVar(&o.queued.Again, "again", false, "let it wait although it has finished before, or although it is older than what primary runs")
	flags.BoolVar(&o.leave, "leave", false, "take the release out of the line")
	o.addHooks(cmd, false)
	queuePolicy(cmd, &o.policy)
	positiveDuration(flags, &o.line.Wait, "queue-wait", 23*time.Hour, "how long a release waits for its turn")
	positiveDuration(flags, &o.line.Turn, "queue-turn", queueTurn, "how long a release may take to start when it is its turn; then it is the next one's")
	o.add(cmd)
	o.traffic.add(cmd)
	o.notify.add(cmd)
	return cmd
}

func (o *queueOptions) validate() error {
	if o.releaseID == "" {
		return &usererr.Error{Field: "--release-id", Problem: "is missing", Fix: "give the name of the release, as `crossbill trigger` prints it"}
	}
	if err := release.CheckID("--release-id", o.releaseID); err != nil {
		return err
	}
	if err := checkQueuePolicy(o.policy); err != nil {
		return err
	}
	var err error
	if o.queued.Image != "" {
		if o.queued.Image, err = release.ParseImage("--image", o.queued.Image); err != nil {
			return err
		}
	}
	if o.queued.Bundle != "" {
		if o.queued.Bundle, err = release.ParseBundle("--bundle", o.queued.Bundle); err != nil {
			return err
		}
		if !o.cmd.Flags().Changed("manifests") { // as canary
			o.cluster.manifests = bundle.Scheme + o.queued.Bundle
		}
	}
	if o.queued.Commit != "" {
		if err := release.CheckCommit("--commit", o.queued.Commit); err != nil {
			return err
		}
	}
	if err := checkSourceURL(o.queued.SourceURL); err != nil {
		return err
	}
	// What leaves has a ledger. What enters may be an app's first release, and must be no other app's: it reads what canary does.
	o.setRecovery(o.leave)
	return o.lifecycleOptions.validate()
}

func (o *queueOptions) run(ctx context.Context) error {
	o.given = origin{o.queued.Commit, o.queued.PipelineURL}
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		o.queued.ID, o.queued.By = o.releaseID, o.by
		if o.leave {
			result, err := c.Leave(ctx, o.releaseID, "taken out by "+o.by)
			return outcome{Result: result}, err
		}
		c.Line = o.line
		c.Line.Policy = release.QueuePolicy(o.policy)
		if !o.dryRun {
			c.Line.Waits = func(ctx context.Context, message string) {
				o.notify.waits(ctx, o.log, &notify.Event{Command: o.command, App: o.cluster.appName(), Namespace: o.cluster.namespace, ReleaseID: o.releaseID, Commit: o.given.commit, PipelineURL: o.given.pipelineURL, Message: message})
			}
		}
		result, err := c.Queue(ctx, o.queued)
		return outcome{Result: result}, err
	})
}
