package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

func newPreviewCommand() *cobra.Command {
	cmd := newGroupCommand("preview", "Run a pull request's image beside the app, reached by a header alone")
	cmd.AddCommand(newPreviewUpCommand(), newPreviewDownCommand(), newPreviewListCommand())
	return cmd
}

// previewOptions are those of both commands that change something.
type previewOptions struct {
	lifecycleOptions
	name string
}

func (o *previewOptions) addName(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.name, "name", "", "name of the preview, for example pr-42")
}

// addRest adds the flags of the commands that change something.
func (o *previewOptions) addRest(cmd *cobra.Command) {
	o.addTakeover(cmd)
	o.add(cmd)
	o.command = "preview " + cmd.Name()
}

func (o *previewOptions) checkName() error {
	if o.name == "" {
		return &usererr.Error{Field: "--name", Problem: "is missing", Fix: "give the name of the preview, for example pr-42"}
	}
	return nil
}

// patient lets a cluster's command wait for the lock for as long as for pods: a job of a release that has it may wait for its
// pods, and nobody is in a hurry for a preview.
func (o *previewOptions) patient(c *rollout.Cluster) { c.LockTimeout = max(o.timeout, time.Minute) }

type previewUpOptions struct {
	previewOptions
	want     rollout.PreviewSpec
	replicas int
	trust    trustOptions
}

func newPreviewUpCommand() *cobra.Command {
	o := &previewUpOptions{}
	cmd := &cobra.Command{
		Use:   "up --name NAME --image IMAGE",
		Short: "Bring a preview up, or give it another image",
		Long: `Run an image beside the app: a Deployment, a Service, and copies of the
configuration of its own, made from the manifests as primary's are, and one rule
for the requests whose header x-crossbill-preview has the preview's name. Nothing
else reaches it: it has no weight, and it is never released. A release in flight
goes on.

It is reached once it is ready. Run again, it gets the image that is given and a
new time; while a new image does not get ready, the old one answers. It lasts for
three days; then guard ends it.

The image runs in the cluster of the app, with its service account and its
configuration: bring up only what you would let run there.`,
		Example: `  # A pull request's image
  crossbill preview up --name pr-42 --image registry.example.com/our-org/app-previews@sha256:…

  # Reach it
  curl -H 'x-crossbill-preview: pr-42' https://app.example.com`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	o.addName(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.want.Image, "image", "", "image to run, by digest: repository@sha256:…")
	flags.StringVar(&o.want.Commit, "commit", "", "commit that the image was built from; an image policy asks for it")
	flags.StringVar(&o.want.Header, "header", rollout.DefaultPreviewHeader, "header of the requests that reach the preview, with its name as the value")
	flags.IntVar(&o.replicas, "replicas", 1, "pods of the preview")
	positiveDuration(flags, &o.want.Lasts, "lasts", rollout.DefaultPreviewLasts, "how long it lasts; then guard ends it")
	flags.IntVar(&o.want.Limit, "limit", rollout.DefaultPreviewLimit, "how many previews the app may have at one time")
	flags.StringSliceVar(&o.want.Labels, "labels", nil, "labels of the app's pods that the preview's have too (default: none but the mesh's)")
	o.trust.add(cmd)
	o.addRest(cmd)
	return cmd
}

func (o *previewUpOptions) validate() error {
	if err := o.checkName(); err != nil {
		return err
	}
	if o.want.Name = o.name; o.want.Image == "" {
		return &usererr.Error{Field: "--image", Problem: "is missing", Fix: "give repository@sha256:…; `crossbill image digest` gives it for a tag"}
	}
	var err error
	if o.want.Image, err = release.ParseImage("--image", o.want.Image); err != nil {
		return err
	}
	if o.want.Commit != "" {
		if err := release.CheckCommit("--commit", o.want.Commit); err != nil {
			return err
		}
	}
	if o.replicas < 1 || o.replicas > 10 {
		return &usererr.Error{Field: "--replicas", Problem: fmt.Sprintf("%d is not a number of pods for a preview", o.replicas), Fix: "give 1 to 10"}
	}
	o.want.Replicas = int32(o.replicas)
	if o.want.Limit < 1 || o.want.Limit > 50 {
		return &usererr.Error{Field: "--limit", Problem: fmt.Sprintf("%d is not a number of previews", o.want.Limit), Fix: "give 1 to 50"}
	}
	// The manifests are the app's, also in a bundle: what is released decides on them, and not what a pull request has built.
	released := o.trust
	if err := released.load(o.cmd, o.cluster.manifests); err != nil {
		return err
	}
	released.admitBundle(&o.cluster, provenance.Wanted{AnyAge: true})
	o.trust.previews = true
	if err := o.trust.load(o.cmd, o.cluster.manifests); err != nil {
		return err
	}
	if o.trust.policy != nil && o.want.Commit == "" {
		return &usererr.Error{Field: "--commit", Problem: "is missing: the policy admits what was built from the image's commit", Fix: "give it"}
	}
	return o.lifecycleOptions.validate()
}

func (o *previewUpOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		if err := o.trust.apply(c); err != nil {
			return outcome{}, err
		}
		requireImage(c)
		o.patient(c)
		result, err := c.PreviewUp(ctx, o.want)
		if errors.As(err, new(*rollout.NotReadyError)) {
			err = &exitError{exitDeadline, err}
		}
		return outcome{Result: result}, err
	})
}

type previewDownOptions struct{ previewOptions }

func newPreviewDownCommand() *cobra.Command {
	o := &previewDownOptions{}
	cmd := &cobra.Command{
		Use:   "down --name NAME",
		Short: "End a preview",
		Long: `Take the rule away that leads to a preview, then delete its Deployment, and with it
all that is its own. It needs nothing but the cluster: where crossbill.yaml or the
manifests cannot be read, it goes by the ledger. Without such a preview there is
nothing to do.`,
		Example: `  crossbill preview down --name pr-42`,
		Args:    cobra.NoArgs,
		RunE:    runs(o),
	}
	o.addName(cmd)
	o.addRest(cmd)
	o.traffic.add(cmd)
	o.addRecovery(cmd)
	return cmd
}

func (o *previewDownOptions) validate() error {
	if err := o.checkName(); err != nil {
		return err
	}
	return o.lifecycleOptions.validate()
}

func (o *previewDownOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		o.patient(c)
		result, err := c.PreviewDown(ctx, o.name)
		return outcome{Result: result}, err
	})
}

type previewListOptions struct{ readerOptions }

func newPreviewListCommand() *cobra.Command {
	o := &previewListOptions{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the app's previews: image, header, and until when",
		Long: `List the app's previews: what they run, the header by which they are reached, and
until when they last. One without a Deployment is a rule that leads nowhere:
preview down, or guard, takes it away.`,
		Example: `  crossbill preview list

  # The names of those that are over
  crossbill preview list -o json | jq -r '.items[] | select(.expiresAt < (now | todate)) | .name'`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	o.add(cmd)
	return cmd
}

func (o *previewListOptions) run(ctx context.Context) error {
	c, err := o.cluster.connect(ctx)
	if err != nil {
		return err
	}
	all, err := c.Previews(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 && !o.output.structured() {
		_, err := fmt.Fprintln(o.log, "there are no previews")
		return err
	}
	v := view{data: all, text: func(out io.Writer) error { return writePreviews(out, all) }}
	for _, p := range all {
		v.names = append(v.names, "preview/"+p.Name)
	}
	return o.output.print(o.out, v)
}

// writePreviews prints previews as a table.
func writePreviews(out io.Writer, all []rollout.Preview) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tREADY\tREACHED BY\tUNTIL (UTC)\tBY\tIMAGE")
	for _, p := range all {
		header, until, ready := p.Header, p.ExpiresAt.UTC().Format(time.DateTime), fmt.Sprintf("%d/%d", p.Ready, p.Replicas)
		switch {
		case p.Image == "":
			header, until, ready = "a rule without a Deployment", "-", "-"
		case !p.Routed:
			header = "nothing yet"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, ready, header, until, cmp.Or(p.By, "-"), cmp.Or(release.DigestOf(p.Image), p.Image, "-"))
	}
	return table.Flush()
}
