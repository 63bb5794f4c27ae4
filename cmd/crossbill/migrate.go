package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type migrateOptions struct {
	lifecycleOptions
	from string
}

func newMigrateCommand() *cobra.Command {
	o := &migrateOptions{}
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Take an app that was deployed manually to the two tracks, without losing a request",
		Long: `Take an app that was deployed manually to the two tracks: create primary with
the digest that its pods run, wait until it is ready, route the traffic to it,
and remove the old Deployment. The app serves all the while. Once for an app,
before its first canary.`,
		Example: `  # See what it would write, then do it
  crossbill migrate --dry-run
  crossbill migrate`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	cmd.Flags().StringVar(&o.from, "from", "", "Deployment that was created manually (default: the one whose pods the Service selects)")
	o.addTakeover(cmd)
	o.add(cmd)
	inSection(cmd.Flags(), trafficSection, func(flags *pflag.FlagSet) {
		o.traffic.addSettleDelay(flags, "time that the data plane is given to apply a change")
	})
	return cmd
}

func (o *migrateOptions) validate() error {
	if o.from != "" && len(validation.IsDNS1123Subdomain(o.from)) > 0 {
		return &usererr.Error{Field: "--from", Problem: fmt.Sprintf("%q is not the name of a Deployment", o.from), Fix: "`kubectl get deployments` lists them"}
	}
	if bundle.Named(o.cluster.manifests) {
		trust := &trustOptions{}
		if err := trust.load(o.cmd, o.cluster.manifests); err != nil {
			return err
		}
		trust.admitBundle(&o.cluster, provenance.Wanted{AnyAge: true})
	}
	return o.lifecycleOptions.validate()
}

func (o *migrateOptions) run(ctx context.Context) error {
	if err := o.remark(); err != nil {
		return err
	}
	return o.change(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		c.Admit = func(ctx context.Context, r *release.Release) error {
			keychain, err := o.cluster.login(r.Image)
			if err != nil {
				return err
			}
			return registry.RequireFound(ctx, r.Image, keychain, func(err error) { c.Log(rollout.Event{At: time.Now(), Object: "image", Message: err.Error()}) })
		}
		result, err := c.Migrate(ctx, o.from)
		return outcome{Result: result}, err
	})
}
