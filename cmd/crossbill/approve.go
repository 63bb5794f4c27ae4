package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/rollout"
)

type approveOptions struct {
	lifecycleOptions
	approval approvalOptions
}

func newApproveCommand() *cobra.Command {
	o := &approveOptions{}
	cmd := &cobra.Command{
		Use:   "approve",
		Short: "Record a verified approval of the release, where promote needs more than one",
		Long: `Verify GitLab's ID token of the job that runs this command, and record in the
ledger who started the job: an approval of the release in flight. With
approval.number above 1, promote counts it together with its own; each of them is
of another person. It changes nothing else.`,
		Example: `  # In a manual job with id_tokens, which another person starts
  crossbill approve --release-id "$RELEASE_ID"

  # On a laptop, with rights in the cluster
  crossbill approve --approve-as-operator --by mona`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	o.addReleaseID(cmd)
	o.addTakeover(cmd)
	o.approval.add(cmd)
	o.add(cmd)
	o.notify.add(cmd)
	return cmd
}

func (o *approveOptions) validate() error {
	if err := o.lifecycleOptions.validate(); err != nil {
		return err
	}
	return o.approval.load(o.cmd, o.by)
}

func (o *approveOptions) run(ctx context.Context) error {
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		o.approval.apply(c)
		result, err := c.Approve(ctx)
		return outcome{Result: result}, err
	})
}
