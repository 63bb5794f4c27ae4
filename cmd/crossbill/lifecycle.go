package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/notify"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// lifecycleOptions are those of the commands that change what is deployed.
type lifecycleOptions struct {
	command   string
	cluster   clusterOptions
	traffic   trafficOptions
	notify    notifyOptions
	output    outputOptions
	hooks     hookOptions
	gitops    gitOpsOptions
	now       bool // the traffic is moved before anything is asked of Git
	timeout   time.Duration
	by        string
	releaseID string
	given     origin // of the release, as far as the command was given it
	takeover  bool
	keepWarm  time.Duration
	keep      int // releases that can be returned to
	dryRun    bool
	others    bool // the other objects of the manifests are applied with the release
	recovers  bool // bad notification options do not hold it up

	cmd      *cobra.Command
	out, log io.Writer
	steps    []notify.Step
	started  time.Time
	live     *notify.Live // nil before the command runs, and where nobody sees it
	asker    *asker       // nil before the cluster is connected, and where nobody is to be asked
}

// origin is where a release comes from.
type origin struct{ commit, pipelineURL string }

// add adds the flags that all of these commands have.
func (o *lifecycleOptions) add(cmd *cobra.Command) {
	o.command = cmd.Name()
	flags := cmd.Flags()
	flags.BoolVar(&o.dryRun, "dry-run", false, "show what would be written, by server-side dry runs; nothing is written, and nothing is waited for")
	o.addBound(flags)
	o.cluster.add(cmd)
	inSection(flags, clusterSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.cluster.app, "app", "", "app that is meant; manifests of another one are refused (default: the manifests')")
	})
	o.output.add(cmd)
}

func (o *lifecycleOptions) addBound(flags *pflag.FlagSet) {
	positiveDuration(flags, &o.timeout, "timeout", 5*time.Minute, "how long a wait for the cluster may see no progress")
	flags.IntVar(&o.keep, "keep-releases", release.DefaultKeepReleases, "how many of the last releases that ended well can be returned to by rollback --to")
	flags.StringVar(&o.by, "by", "", "who acts, for the ledger (default: user and job of GitLab CI or GitHub Actions, else user and host)")
}

// addReleaseID adds --release-id of the commands that go on with a release.
func (o *lifecycleOptions) addReleaseID(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.releaseID, "release-id", "", "release that is meant: any other one in flight is left alone, exit code 5 (default: the one in flight)")
	completeReleases(cmd, "release-id", &o.cluster, false)
}

// addKeepWarm adds --keep-warm of the commands that end a promoted release.
func (o *lifecycleOptions) addKeepWarm(cmd *cobra.Command) {
	anyDuration(cmd.Flags(), &o.keepWarm, "keep-warm", 0, "how long to keep the pods of the version before, without traffic, so that rollback --to returns in seconds (default: not)")
}

// addTakeover adds --takeover of the commands that wait for the lock.
func (o *lifecycleOptions) addTakeover(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.takeover, "takeover", false, "take the lock of a dead job at once; one that lives stops with exit code 5")
}

// addOthers adds --apply-others of the commands that release.
func (o *lifecycleOptions) addOthers(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.others, "apply-others", false, "apply the manifests' other objects (ServiceAccount, HorizontalPodAutoscaler, NetworkPolicy, …) with the release, and take them back with it")
}

func (o *lifecycleOptions) complete(cmd *cobra.Command, _ []string) error {
	o.cmd, o.out, o.log = cmd, cmd.OutOrStdout(), cmd.ErrOrStderr()
	o.cluster.complete(cmd)
	if o.by == "" {
		o.by = rollout.Identity()
	}
	return nil
}

func (o *lifecycleOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	if o.keep < 1 || o.keep > 20 {
		return &usererr.Error{Field: "--keep-releases", Problem: fmt.Sprintf("%d is not a number of releases", o.keep), Fix: "give 1 to 20"}
	}
	if err := o.cluster.validate(); err != nil {
		return err
	}
	if err := o.notify.validate(); err != nil && !o.recovers {
		return err
	}
	if err := o.traffic.validate(o.cluster.namespace); err != nil {
		if !o.recovers {
			return err
		}
		warn(o.cmd, fmt.Sprintf("%v; going on without Prometheus", err))
	}
	if err := o.gitops.load(o.cmd, o.others); err != nil {
		return err
	}
	return o.hooks.load(o.cmd, &o.cluster)
}

// outcome is what a command came to, as it is printed.
type outcome struct {
	rollout.Result
	Verdict *verdictSummary `json:"verdict,omitempty"`
}

// act is what a command does to the cluster.
type act func(context.Context, *rollout.Cluster) (outcome, error)

// remark says how the manifests were read, where that may surprise.
func (o *lifecycleOptions) remark() error {
	remarks := o.cluster.set.Remarks()
	if o.others {
		var err error
		if remarks, err = o.cluster.set.RemarksApplied(o.cluster.namespace); err != nil {
			return err
		}
	}
	for _, remark := range remarks {
		fmt.Fprintf(o.log, "manifests: %s\n", remark)
	}
	return nil
}

// change does it, or with --dry-run prints what it would write.
func (o *lifecycleOptions) change(ctx context.Context, do act) error {
	if o.dryRun {
		return o.plan(ctx, do)
	}
	return o.perform(ctx, do)
}

// perform does it, prints what came of it and notifies. This is the one place where a command runs.
func (o *lifecycleOptions) perform(ctx context.Context, do act) error {
	o.started = time.Now()
	o.live = o.notify.live(ctx)
	came, err := o.connectAnd(ctx, do)
	o.live.Stop()
	if err == nil || came.Verdict != nil && o.output.structured() { // else the error says all that there is
		if printErr := o.print(came); err == nil {
			err = printErr
		}
	}
	id := o.releaseID
	if came.Release != nil {
		id = came.Release.ID
	}
	o.notify.send(ctx, o.log, &notify.Event{
		Command: o.command, App: o.cluster.appName(), Namespace: o.cluster.namespace, By: o.by, Asked: o.asker.hasAsked(), ReleaseID: id,
		Commit: o.given.commit, PipelineURL: o.given.pipelineURL, StartedAt: o.started, FinishedAt: time.Now(), Steps: o.steps,
	}, came.Result, err)
	return err
}

// progress shows how far the analysis of a release is.
func (o *lifecycleOptions) progress(r *release.Release, e verdict.Evaluation) {
	if e.Judgment.Outcome == release.Healthy {
		o.asker.sometimes()
	}
	shown := *r // which is shown later
	o.live.Show(&notify.Event{
		Command: o.command, App: o.cluster.appName(), Namespace: o.cluster.namespace, By: o.by, Release: &shown, ReleaseID: r.ID, Result: notify.Judging,
		StartedAt: o.started, FinishedAt: time.Now(), Progress: progressOf(e.Judgment),
	})
}

// progressOf is how far the evidence of a judgment is, by the objective that has the least.
func progressOf(j verdict.Judgment) *notify.Progress {
	p := &notify.Progress{Left: j.Left, Enough: 1, Missing: j.Reason}
	if j.Outcome == release.Healthy {
		p.Outcome, p.Missing = j.Outcome, ""
	}
	for _, e := range j.Evidence {
		p.Requests = max(p.Requests, int64(e.Total.Canary.Events))
		if !e.Relative || !e.Alone { // else there is nothing to compare with
			_, healthy := e.Progress()
			p.Enough = min(p.Enough, healthy)
		}
	}
	if len(j.Evidence) == 0 || p.Requests == 0 {
		p.Enough = 0
	}
	return p
}

func (o *lifecycleOptions) connectAnd(ctx context.Context, do act) (outcome, error) {
	c, err := o.connect(ctx)
	if err != nil {
		return outcome{}, err
	}
	o.asker = o.newAsker(ctx, c)
	came, err := do(ctx, c)
	o.asker.finish(came.Result, err)
	return came, err
}

// connect reaches the cluster and gives it what the options say.
func (o *lifecycleOptions) connect(ctx context.Context) (*rollout.Cluster, error) {
	start := time.Now()
	o.cluster.git = func(c *rollout.Cluster) error {
		c.Timeout = o.timeout
		c.Log = func(e rollout.Event) {
			fmt.Fprintf(o.log, "%6.1fs  %s: %s\n", time.Since(start).Seconds(), e.Object, e.Message)
			o.steps = append(o.steps, notify.Step{At: time.Now(), Object: e.Object, Message: e.Message})
		}
		if err := o.gitops.apply(o.cmd, &o.cluster, c); err != nil || !o.now {
			return err
		}
		return c.RouteNow(ctx) // before anything is asked of Git
	}
	c, err := o.cluster.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.By, c.Takeover, c.ReleaseID, c.KeepReleases, c.KeepWarm = o.by, o.takeover, o.releaseID, o.keep, o.keepWarm
	c.ApplyOthers = o.others
	o.traffic.apply(c)
	o.hooks.apply(c)
	return c, nil
}

func (o *lifecycleOptions) print(came outcome) error {
	came.Release = came.Release.WithoutEvidence()
	v := view{data: came, text: line("%s: %s", came.Command, came.Message)}
	if came.Release != nil {
		v.names = []string{"release/" + came.Release.ID}
	}
	if came.Preview != nil {
		v.names = []string{"preview/" + came.Preview.Name}
	}
	return o.output.print(o.out, v)
}

// planned is what a command would write, as it is printed.
type planned struct {
	Command string           `json:"command"`
	DryRun  bool             `json:"dryRun"`
	Changes []rollout.Change `json:"changes"`
	Notes   []string         `json:"notes,omitempty"` // what it takes, or risks
	Message string           `json:"message"`
}

// plan prints what a command would write. Nobody is notified.
func (o *lifecycleOptions) plan(ctx context.Context, do act) error {
	plan := &rollout.Plan{Changes: []rollout.Change{}}
	came, err := o.connectAnd(ctx, func(ctx context.Context, c *rollout.Cluster) (outcome, error) {
		c.Plan = plan
		return do(ctx, c)
	})
	if err != nil {
		return err
	}
	return o.printPlan(planned{o.command, true, plan.Changes, plan.Notes, came.Message})
}

func (o *lifecycleOptions) printPlan(p planned) error {
	v := view{data: p, text: func(out io.Writer) error {
		for _, change := range p.Changes {
			fmt.Fprintf(out, "%s %s\n%s\n", change.Action, change.Object, indent(change.Diff))
		}
		if len(p.Changes) == 0 {
			fmt.Fprintln(out, "no change")
		}
		for _, note := range p.Notes {
			fmt.Fprintf(out, "note: %s\n", note)
		}
		_, err := fmt.Fprintf(out, "after it: %s\n", p.Message)
		return err
	}}
	for _, change := range p.Changes {
		v.names = append(v.names, objectName(change.Object))
	}
	return o.output.print(o.out, v)
}

// objectName writes "Deployment shop/app" as kubectl does: deployment/app.
func objectName(object string) string {
	kind, name, _ := strings.Cut(object, " ")
	if _, after, ok := strings.Cut(name, "/"); ok {
		name = after
	}
	return strings.ToLower(kind) + "/" + name
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}
