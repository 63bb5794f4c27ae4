package main

import (
	"context"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// guarded is what guard did for one of many apps, as it is printed.
type guarded struct {
	Namespace string `json:"namespace"`
	rollout.Result
	Error string `json:"error,omitempty"`
}

// validateAll finds what is wrong with the options where each app is known by its ledger.
func (o *guardOptions) validateAll() error {
	if o.dryRun {
		return &usererr.Error{Field: "--dry-run", Problem: "it shows the changes of one app", Fix: "name the app with --app, without --all"}
	}
	if err := o.output.validate(); err != nil {
		return err
	}
	if err := o.gitops.load(o.cmd, o.others); err != nil {
		return err
	}
	return o.cluster.loadKubeconfig()
}

// runAll guards every app that has a ledger, in the cluster or in Git. What fails for one keeps it from no other.
func (o *guardOptions) runAll(ctx context.Context) error {
	namespace := o.cluster.namespace
	if o.allNamespaces {
		namespace = ""
	}
	kube, err := o.cluster.client()
	if err != nil {
		return err
	}
	inGit := o.gitops
	ledgers, missing := inGit.ledgers()
	apps, err := rollout.Apps(ctx, kube, ledgers, namespace)
	all, failed := []guarded{}, []error{missing, err}
	for _, app := range apps {
		if o.gitops = (gitOpsOptions{}); app.InGit {
			o.gitops = inGit
		}
		result, err := o.guardApp(ctx, app)
		g := guarded{Namespace: app.Namespace, Result: result}
		g.App, g.Release = app.Name, result.Release.WithoutEvidence()
		if err != nil {
			g.Error = err.Error()
			failed = append(failed, fmt.Errorf("%s/%s: %w", app.Namespace, app.Name, err))
		}
		all = append(all, g)
	}
	v := view{data: all, text: func(out io.Writer) error {
		for _, g := range all {
			if g.Error == "" {
				fmt.Fprintf(out, "%s/%s: %s\n", g.Namespace, g.App, g.Message)
			}
		}
		return nil
	}}
	for _, g := range all {
		v.names = append(v.names, "app/"+g.App)
	}
	return joined(append(failed, o.output.print(o.out, v))...)
}

// guardApp guards one app, and notifies if there was something to do.
func (o *guardOptions) guardApp(ctx context.Context, app rollout.App) (rollout.Result, error) {
	if app.Unreleased || app.InGit && app.AtRest {
		return rollout.Result{Command: o.command, Message: "no release is in flight"}, nil
	}
	if app.Err != nil {
		return rollout.Result{}, app.Err
	}
	if app.InGit && app.Path == "" && app.Name != o.cluster.app { // then gitops.path may be another app's
		return rollout.Result{}, &usererr.Error{
			Field:   path.Join(o.gitops.settings.Value("gitops.releases"), app.Name, "app.json"),
			Problem: "it is missing, so that nothing says which folder of the repository has the manifests: an earlier Crossbill has written the ledger",
			Fix:     fmt.Sprintf("run `crossbill guard --app %s --namespace %s` with the app's own crossbill.yaml", app.Name, app.Namespace),
		}
	}
	o.cluster.set, o.cluster.namespace, o.cluster.path, o.steps = app.Manifests, app.Namespace, app.Path, nil
	if err := o.traffic.validate(app.Namespace); err != nil {
		warn(o.cmd, fmt.Sprintf("%v; going on without Prometheus", err))
	}
	started := time.Now()
	came, err := o.connectAnd(ctx, o.guard)
	if len(o.steps) > 0 || err != nil {
		id := ""
		if came.Release != nil {
			id = came.Release.ID
		}
		o.notify.send(ctx, o.log, &notify.Event{
			Command: o.command, App: app.Name, Namespace: app.Namespace, By: o.by, Asked: o.asker.hasAsked(), ReleaseID: id,
			StartedAt: started, FinishedAt: time.Now(), Steps: o.steps,
		}, came.Result, err)
	}
	o.notify.remarks.print(o.log)
	return came.Result, err
}

// everyApp says whether guard is for more than one app.
func (o *guardOptions) everyApp() bool { return o.all || o.allNamespaces }
