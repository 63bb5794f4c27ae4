package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/livepage"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// serveOptions say where `status --serve` listens.
type serveOptions struct {
	address  string // "" when it does not
	anywhere bool
}

const servesAt = "127.0.0.1:8080"

func (s *serveOptions) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.address, "serve", "", "serve a live page of all apps and of each at this host:port until it is interrupted (default "+servesAt+"; port 0 is any that is free)")
	cmd.Flags().Lookup("serve").NoOptDefVal = servesAt
	cmd.Flags().BoolVar(&s.anywhere, "serve-anywhere", false, "let --serve listen for other machines: whoever reaches the address sees the releases, and it asks nobody who they are")
}

// args lets the address be an argument: a flag with a default takes none that follows it.
func (s *serveOptions) args(cmd *cobra.Command, args []string) error {
	if s.address == servesAt {
		return cobra.MaximumNArgs(1)(cmd, args)
	}
	return cobra.NoArgs(cmd, args)
}

// validate finds an address that cannot be listened at, or that others would reach.
func (s *serveOptions) validate(o *statusOptions) error {
	if s.address == "" {
		if s.anywhere {
			return &usererr.Error{Field: "--serve-anywhere", Problem: "is given without --serve", Fix: "give --serve=HOST:PORT too"}
		}
		return nil
	}
	for _, other := range []struct {
		given bool
		name  string
	}{{o.watch, "--watch"}, {o.output.format != "text", "--output"}} {
		if other.given {
			return &usererr.Error{Field: "--serve", Problem: "it serves a page, " + other.name + " prints", Fix: "give one of them"}
		}
	}
	host, port, err := net.SplitHostPort(s.address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return &usererr.Error{Field: "--serve", Problem: fmt.Sprintf("%q is not a host and a port", s.address), Fix: "give for example --serve=" + servesAt}
	}
	if !s.anywhere && !livepage.Loopback(host) {
		return &usererr.Error{Field: "--serve", Problem: fmt.Sprintf("other machines could reach %s, and it asks nobody who they are", s.address), Fix: "give an address of this machine alone, such as " + servesAt + ", or --serve-anywhere"}
	}
	return nil
}

// servePage serves the live page until ctx ends.
func (o *statusOptions) servePage(ctx context.Context) error {
	namespace := o.cluster.namespace
	if o.allNamespaces {
		namespace = ""
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.serve.address)
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EACCES) {
		return &usererr.Error{Field: "--serve", Problem: err.Error(), Fix: "give another address or port"}
	} else if err != nil {
		return fmt.Errorf("--serve: %w", err)
	}
	defer listener.Close()
	base, err := o.cluster.cluster()
	if err != nil {
		return err
	}
	source := livepage.Source{
		Namespace: namespace,
		App: func(ctx context.Context, app rollout.AppStatus) (*rollout.Status, error) {
			return o.statusOf(ctx, base, app)
		},
		Reach: func(ctx context.Context) error { return rollout.Reach(ctx, base.Kube, namespace) },
	}
	page := livepage.New(&source, o.serve.anywhere)
	watched, err := rollout.WatchAll(ctx, base.Kube, o.git, namespace, page.Changed)
	if err != nil {
		return err
	}
	source.Apps, source.Git = watched.Apps, watched.Git
	if _, err := source.Apps(); err != nil { // the first reader need not wait for all ledgers to be read
		return err
	}
	fmt.Fprintf(o.out, "http://%s/\n", listener.Addr())
	return page.Serve(ctx, listener)
}

// statusOf reads where one app is, by its ledger alone.
func (o *statusOptions) statusOf(ctx context.Context, base *rollout.Cluster, of rollout.AppStatus) (*rollout.Status, error) {
	c := *base
	c.Namespace = of.Namespace
	if !of.InGit {
		app, err := rollout.FindApp(ctx, base.Kube, of.Namespace, of.App)
		if err != nil {
			return nil, err
		}
		c.Manifests = app.Manifests
		return c.Status(ctx)
	}
	app, err := o.git.Find(ctx, of.Namespace, of.App)
	if err != nil {
		return nil, err
	}
	c.Manifests = app.Manifests
	cluster := o.cluster
	cluster.set, cluster.path = app.Manifests, app.Path
	if err := o.gitops.apply(cluster.cmd, &cluster, &c); err != nil {
		return nil, err
	}
	return c.Status(ctx)
}
