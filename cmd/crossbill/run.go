package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/reconcile"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

type runOptions struct {
	cluster    clusterOptions
	traffic    trafficOptions
	interval   time.Duration
	once       bool
	repository string
	policy     string
	health     string // address that answers whether this process works; "" for none
	output     outputOptions

	cmd      *cobra.Command
	git      *proposals
	steps    bool          // crossbill.yaml has them
	turn     time.Duration // queue.turn
	out, log io.Writer
}

func newRunCommand() *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run --app NAME --prometheus URL",
		Short: "Release what the environment repository asks for, without a pipeline",
		Long: `Release what the environment repository asks for, without a pipeline: canary and
verify when its file of the app names a release (propose), promote and cleanup when
a later commit approves it (approve --in-git), rollback when the canary is bad. It
runs the same commands, as processes of their own, and watches a canary that waits.

Run several: one of them leads, by the Lease crossbill-APP.run. Whatever dies,
another one goes on from the ledger. The flags are passed on to the commands;
everything else is in crossbill.yaml.`,
		Example: `  # In a Deployment (k8s/run)
  crossbill run --app shop --prometheus http://prometheus.istio-system.svc:9090

  # What can be done now, on a schedule
  crossbill run --app shop --prometheus http://prometheus.istio-system.svc:9090 --once`,
		Args: cobra.NoArgs,
		RunE: runs(o),
	}
	flags := cmd.Flags()
	positiveDuration(flags, &o.interval, "interval", 30*time.Second, "time between two looks at Git and the ledger")
	flags.BoolVar(&o.once, "once", false, "do what can be done now, and end; a canary that waits is judged once, as by guard")
	flags.StringVar(&o.health, "health-address", "", "address that answers /health and /ready, for example :8080; without it none does")
	flags.StringVar(&o.repository, "repository", "", "repository that images and bundles have to be from; without it from any")
	queuePolicy(cmd, &o.policy)
	o.cluster.add(cmd)
	inSection(flags, clusterSection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.cluster.app, "app", "", "name of the app")
	})
	o.traffic.add(cmd)
	flags.Lookup("prometheus").Usage = "URL of the Prometheus that scrapes the mesh (needed)"
	o.output.add(cmd)
	return cmd
}

func (o *runOptions) complete(cmd *cobra.Command, _ []string) error {
	o.cmd, o.out, o.log = cmd, cmd.OutOrStdout(), cmd.ErrOrStderr()
	o.cluster.complete(cmd)
	return nil
}

func (o *runOptions) validate() (err error) {
	if err := o.output.validate(); err != nil {
		return err
	}
	if o.output.format != "text" && o.output.format != "json" {
		return &usererr.Error{Field: "--output", Problem: o.output.format + " is not for what goes on", Fix: "give text or json"}
	}
	if o.cluster.app == "" {
		return &usererr.Error{Field: "--app", Problem: "is missing", Fix: "give the name of the app"}
	}
	if err := release.CheckApp("app", o.cluster.app); err != nil {
		return err
	}
	if o.traffic.prometheus == "" {
		return &usererr.Error{Field: "--prometheus", Problem: "is missing", Fix: "give Prometheus's URL, for example http://prometheus.istio-system:9090"}
	}
	if err := checkQueuePolicy(o.policy); err != nil {
		return err
	}
	if err := o.checkHealth(); err != nil {
		return err
	}
	if o.repository != "" {
		repository, err := name.NewRepository(o.repository)
		if err != nil {
			return &usererr.Error{Field: "--repository", Problem: fmt.Sprintf("%q is not a repository", o.repository), Fix: "give for example registry.example.com/our-org/shop"}
		}
		o.repository = repository.Name()
	}
	if storesInGit(configOf(o.cmd).settings) {
		return &usererr.Error{Field: "gitops.store", Problem: "run reads the ledger in the cluster, and with git it is in the repository", Fix: "set cluster, or release by a pipeline"}
	}
	plan, err := configOf(o.cmd).Plan()
	if err != nil {
		return err
	}
	o.steps, o.turn = len(plan) > 0, cmp.Or(configOf(o.cmd).Queue.Turn.Duration, queueTurn)
	if o.git, err = newProposals(o.cmd, o.cluster.app); err != nil {
		return err
	}
	return o.cluster.loadKubeconfig()
}

// checkHealth finds what is wrong with the address.
func (o *runOptions) checkHealth() error {
	if o.health == "" {
		return nil
	}
	if o.once {
		return &usererr.Error{Field: "--health-address", Problem: "does not go together with --once, which ends by itself", Fix: "leave one of them out"}
	}
	if _, port, err := net.SplitHostPort(o.health); err != nil || port == "" {
		return &usererr.Error{Field: "--health-address", Problem: fmt.Sprintf("%q is not an address with a port", o.health), Fix: "give for example :8080, or 127.0.0.1:8080"}
	}
	return nil
}

func (o *runOptions) run(ctx context.Context) error {
	kube, err := o.cluster.client()
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	log := &lines{to: o.log}
	loop := &reconcile.Loop{
		Interval: o.interval,
		Look:     func(ctx context.Context) (reconcile.Git, reconcile.State, error) { return o.look(ctx, kube) },
		Do:       func(ctx context.Context, step reconcile.Step) int { return o.do(ctx, program, step, log) },
		Say:      func(e reconcile.Event) { o.say(e, log) },
	}
	health := &reconcile.Health{Silent: max(10*o.interval, leastSilence)}
	loop.Round = health.Round
	if o.once {
		err := loop.Once(ctx)
		if ended, ok := errors.AsType[*reconcile.ExitError](err); ok {
			return &exitError{ended.Code, err}
		}
		return err
	}
	end, err := o.serveHealth(ctx, health)
	if err != nil {
		return err
	}
	defer end()
	return o.lead(ctx, kube, health, loop.Run)
}

// leastSilence is how long the loop may not come round at least, before /health says so: longer than Git is tried to be reached.
const leastSilence = 10 * time.Minute

// serveHealth answers whether this process works, until end is called.
func (o *runOptions) serveHealth(ctx context.Context, health *reconcile.Health) (end func(), err error) {
	if o.health == "" {
		return func() {}, nil
	}
	repository, err := environmentRepository(o.cmd) // beside the one that the loop reads
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", o.health)
	if err != nil {
		return nil, &usererr.Error{Field: "--health-address", Problem: err.Error(), Fix: "give an address of this machine with a port that nobody has"}
	}
	server := &http.Server{Handler: health, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	ctx, stop := context.WithCancel(ctx)
	var both sync.WaitGroup
	both.Go(func() { _ = server.Serve(listener) })
	both.Go(func() { readOnce(ctx, repository, o.interval, health.Read) })
	return func() {
		stop()
		_ = server.Close()
		both.Wait()
	}, nil
}

// readOnce reads the repository until it could be read.
func readOnce(ctx context.Context, repository *environment.Repository, interval time.Duration, read func()) {
	for {
		if _, err := repository.Read(ctx); err == nil {
			read()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
		}
	}
}

// look reads Git and the ledger.
func (o *runOptions) look(ctx context.Context, kube kubernetes.Interface) (g reconcile.Git, s reconcile.State, err error) {
	s.Policy, s.Steps = release.QueuePolicy(o.policy), o.steps
	if s.Ledger, s.Lock, err = rollout.ReadLedger(ctx, kube, o.cluster.api, o.cluster.namespace, o.cluster.app); err != nil {
		return g, s, err
	}
	meant := ""
	if s.Ledger.Release != nil {
		meant = s.Ledger.Release.Proposal
	}
	g.Signers, g.Needs, g.Repository = o.git.signers, o.git.needs, o.repository
	g.History, g.Problem = o.git.read(ctx, meant)
	return g, s, nil
}

// arguments are those of the command of a step.
func (o *runOptions) arguments(step reconcile.Step) []string {
	r := step.Release
	add := func(arguments []string, name, value string) []string {
		if value == "" {
			return arguments
		}
		return append(arguments, "--"+name+"="+value)
	}
	var arguments []string
	what := func(arguments ...string) []string {
		for _, a := range []struct{ name, value string }{{"image", r.Image}, {"bundle", r.Bundle}, {"commit", r.Commit}, {"source-url", r.SourceURL}} {
			arguments = add(arguments, a.name, a.value)
		}
		if step.Again {
			arguments = append(arguments, "--again")
		}
		return arguments
	}
	switch step.Command {
	case reconcile.Queue:
		wait := 2 * time.Minute // it gives way at once, or not any more
		if step.Turn {
			wait += o.turn // unless it is newer, or wanted again: then its turn has to lapse
		}
		arguments = what("queue", "--queue-wait="+wait.String())
	case reconcile.Canary:
		arguments = what("canary", "--proposal="+step.Proposal)
	case reconcile.Follow:
		arguments = what("canary", "--follow", "--proposal="+step.Proposal)
	case reconcile.Verify:
		if arguments = []string{"verify"}; !o.once {
			arguments = append(arguments, "--watch")
		}
	case reconcile.Promote:
		arguments = []string{"promote", "--approved-in-git"}
	case reconcile.Rollback:
		arguments = []string{"rollback", "--reason=" + step.Reason}
	default:
		arguments = []string{string(step.Command)}
	}
	if step.Command != reconcile.Guard {
		arguments = append(arguments, "--release-id="+r.ID)
	}
	return append(arguments, o.passed(arguments[0], r.Bundle != "")...)
}

// passed are the flags of this command that another one has too. A bundle has its own manifests.
func (o *runOptions) passed(command string, bundled bool) (arguments []string) {
	other, _, err := o.cmd.Root().Find([]string{command})
	if err != nil {
		return nil
	}
	o.cmd.Flags().Visit(func(f *pflag.Flag) {
		own := f.Name == "interval" || f.Name == "output" || f.Name == "repository"
		if own || bundled && f.Name == "manifests" || other.Flag(f.Name) == nil {
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			for _, value := range list.GetSlice() {
				arguments = append(arguments, "--"+f.Name+"="+value)
			}
			return
		}
		arguments = append(arguments, "--"+f.Name+"="+f.Value.String())
	})
	return arguments
}

// do runs a command as a process of its own. Whatever it prints goes to the log.
func (o *runOptions) do(ctx context.Context, program string, step reconcile.Step, log *lines) int {
	arguments := o.arguments(step)
	command := exec.CommandContext(ctx, program, arguments...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) } // and it is waited for: it ends in order
	if step.Release.Bundle != "" {
		command.Env = append(os.Environ(), "CROSSBILL_MANIFESTS="+bundle.Scheme+step.Release.Bundle)
	}
	read, write := io.Pipe()
	command.Stdout, command.Stderr = write, write
	var copied sync.WaitGroup
	copied.Go(func() { log.copy(arguments[0], read) })
	err := command.Run()
	_ = write.Close()
	copied.Wait()
	if err == nil {
		return 0
	}
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.ExitCode() >= 0 {
		return ended.ExitCode()
	}
	log.print("run: %s: %v", arguments[0], err)
	return exitFailure
}

// say prints an event: as text to the log, beside what the commands print, or as one line of JSON.
func (o *runOptions) say(e reconcile.Event, log *lines) {
	if o.output.format == "json" {
		log.exclusively(func() { _ = printLine(o.out, e) })
		return
	}
	text := e.Message
	if e.ReleaseID != "" {
		text = fmt.Sprintf("%s of release %s: %s", e.Command, e.ReleaseID, e.Message)
	}
	log.print("run: %s", text)
}

// The times of the Lease. They save work: what keeps two processes from changing an app is its lock, which each command
// takes.
const (
	leaseLasts  = 30 * time.Second
	leaseRenew  = 20 * time.Second
	leasePeriod = 5 * time.Second
)

// leaseName is the name of the Lease of the process that leads. The lock of no app has it: their names have no dot.
func leaseName(app string) string { return "crossbill-" + app + ".run" }

// lead does the work while this process leads, and ends when it does not any more.
func (o *runOptions) lead(ctx context.Context, kube kubernetes.Interface, health *reconcile.Health, work func(context.Context) error) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	leads, ended := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: leaseName(o.cluster.app), Namespace: o.cluster.namespace},
			Client:     kube.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: fmt.Sprintf("%s_%d", host, os.Getpid())},
		},
		LeaseDuration: leaseLasts, RenewDeadline: leaseRenew, RetryPeriod: leasePeriod, ReleaseOnCancel: false,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				close(leads)
				_ = work(ctx)
				close(ended)
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(string) { health.Settled() },
		},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(o.log, "run: waits until it leads (Lease %s/%s)\n", o.cluster.namespace, leaseName(o.cluster.app))
	elector.Run(ctx)
	select {
	case <-leads:
		<-ended // the command at work has stopped
	default:
	}
	if ctx.Err() != nil {
		return nil // it was asked to end
	}
	return errors.New("another process leads now, or the API server was away for too long; run the same command again")
}
