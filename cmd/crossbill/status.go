package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/report"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type statusOptions struct {
	readerOptions
	all, allNamespaces, watch bool
	serve                     serveOptions

	gitops gitOpsOptions
	git    *rollout.GitLedgers // after validate of all apps: those in Git; nil for none
}

// watchPause is the time between two looks of --watch.
const watchPause = 2 * time.Second

func newStatusCommand() *cobra.Command {
	o := &statusOptions{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show where the app's release is, or those of all apps",
		Long: `Show where the app's release is: its stage and what comes next, who holds the
lock, the traffic, both tracks, and what somebody else has changed. With --all
or --all-namespaces, a line for each app that Crossbill has released.

--serve shows all of this as a page that changes by itself: the apps of the
namespace, or with --all-namespaces of the cluster, and each app. It needs no
manifests, reads with the rights of the kubeconfig, and changes nothing.`,
		Example: `  # This app
  crossbill status

  # Follow it
  crossbill status --watch

  # All apps of the cluster, with digests and pipelines
  crossbill status --all-namespaces -o wide

  # All apps of the namespace as a live page, until Ctrl-C
  crossbill status --serve

  # Those of the cluster, at another port
  crossbill status --serve=127.0.0.1:9000 --all-namespaces

  # The stage, for a script
  crossbill status -o json | jq -r '.release.stage // "none"'`,
		Args: o.serve.args,
		RunE: runs(o),
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "all apps of the namespace; needs no manifests")
	cmd.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "all apps of the cluster; needs no manifests")
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, fmt.Sprintf("look again every %s until it is interrupted; on a terminal in place", watchPause))
	o.serve.add(cmd)
	o.add(cmd)
	return cmd
}

func (o *statusOptions) complete(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		o.serve.address = args[0]
	}
	return o.readerOptions.complete(cmd, args)
}

func (o *statusOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	if o.watch && o.output.structured() {
		return &usererr.Error{Field: "--watch", Problem: "it is for people, --output " + o.output.format + " is for programs", Fix: "give one of them"}
	}
	if err := o.serve.validate(o); err != nil {
		return err
	}
	if !o.all && !o.allNamespaces && o.serve.address == "" {
		return o.cluster.validate()
	}
	o.gitops.fresh = freshFor
	if err := o.gitops.load(o.cluster.cmd, false); err != nil {
		return err
	}
	var err error
	if o.git, err = o.gitops.ledgers(); err != nil {
		return err
	}
	return o.cluster.loadKubeconfig()
}

// freshFor is how long what was read of Git serves the next look too. It is shorter than the time between two looks at all
// ledgers.
const freshFor = 4 * time.Second

func (o *statusOptions) run(ctx context.Context) error {
	if o.serve.address != "" {
		return o.servePage(ctx)
	}
	look, err := o.look(ctx)
	if err != nil {
		return err
	}
	if o.watch {
		return watchLooks(ctx, o.out, look)
	}
	return look(ctx, o.out)
}

// look gives what prints a look.
func (o *statusOptions) look(ctx context.Context) (func(context.Context, io.Writer) error, error) {
	if !o.all && !o.allNamespaces {
		c, err := o.cluster.connect(ctx)
		return func(ctx context.Context, out io.Writer) error { return o.showApp(ctx, c, out) }, err
	}
	namespace := o.cluster.namespace
	if o.allNamespaces {
		namespace = ""
	}
	kube, err := o.cluster.client()
	if err != nil {
		return nil, err
	}
	apps := func() ([]rollout.AppStatus, error) { return rollout.StatusOfAll(ctx, kube, o.git, namespace) }
	if o.watch {
		watched, err := rollout.WatchAll(ctx, kube, o.git, namespace, nil)
		if err != nil {
			return nil, err
		}
		apps = func() ([]rollout.AppStatus, error) {
			all, err := watched.Apps()
			_, away := watched.Git()
			return all, errors.Join(err, away)
		}
	}
	return func(_ context.Context, out io.Writer) error {
		all, err := apps()
		if len(all) == 0 && err != nil {
			return err
		}
		return errors.Join(err, o.showApps(all, out))
	}, nil
}

// showApp prints where one app is: of one whose ledger a newer Crossbill has written, what the cluster shows, and the error.
func (o *statusOptions) showApp(ctx context.Context, c *rollout.Cluster, out io.Writer) error {
	status, err := c.Status(ctx)
	var newer *release.NewerLedgerError
	if errors.As(err, &newer) {
		status, err = c.StatusOfObjects(ctx, newer.Problem())
	}
	if err != nil {
		return err
	}
	v := view{
		data: withoutEvidence(status),
		text: func(out io.Writer) error { return report.WriteStatus(out, status, false) },
		wide: func(out io.Writer) error { return report.WriteStatus(out, status, true) },
	}
	if status.Release != nil {
		v.names = releaseNames(status.Release.ID)
	}
	if err := o.output.print(out, v); err != nil || newer == nil {
		return err
	}
	return newer
}

// showApps prints where all apps are.
func (o *statusOptions) showApps(apps []rollout.AppStatus, out io.Writer) error {
	if len(apps) == 0 && !o.output.structured() {
		_, err := fmt.Fprintln(o.log, "Crossbill has released no app there")
		return err
	}
	v := view{
		data: apps,
		text: func(out io.Writer) error { return report.WriteApps(out, apps, time.Now(), false) },
		wide: func(out io.Writer) error { return report.WriteApps(out, apps, time.Now(), true) },
	}
	for _, app := range apps {
		v.names = append(v.names, "app/"+app.App)
	}
	return o.output.print(out, v)
}

// watchLooks looks again and again. On a terminal each look replaces the one before; elsewhere it is printed when
// it differs.
func watchLooks(ctx context.Context, out io.Writer, look func(context.Context, io.Writer) error) error {
	file, ok := out.(*os.File)
	terminal := ok && isatty.IsTerminal(file.Fd())
	before := ""
	for {
		var text strings.Builder
		if err := look(ctx, &text); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			fmt.Fprintln(&text, "crossbill:", err) // a cluster that does not answer now may do so later
		}
		switch {
		case terminal: // home, the text with the rest of each line cleared, then everything below
			fmt.Fprintf(out, "\x1b[H%s\x1b[J", strings.ReplaceAll(text.String(), "\n", "\x1b[K\n"))
		case text.String() != before:
			fmt.Fprintf(out, "%s\n%s", time.Now().UTC().Format(time.RFC3339), text.String())
		}
		before = text.String()
		select {
		case <-time.After(watchPause):
		case <-ctx.Done():
			return nil
		}
	}
}
