// Command rehearse releases the app of this repository on one machine: from its source to 100% of the traffic
// of a real service mesh, canary first. See docs/rehearsal.md.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/gitlab"
	"github.com/our-org/crossbill/rehearsal/gitops"
	"github.com/our-org/crossbill/rehearsal/lifecycle"
	"github.com/our-org/crossbill/rehearsal/nodebase"
	"github.com/our-org/crossbill/rehearsal/sandbox"
	"github.com/our-org/crossbill/rehearsal/screen"
	"github.com/our-org/crossbill/rehearsal/setup"
	"github.com/our-org/crossbill/rehearsal/signing"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "rehearse:", err)
		os.Exit(2)
	}
	if sandbox.Inside() {
		err = inside(ctx, o)
	} else {
		var code int
		if code, err = outside(ctx, o); err == nil {
			os.Exit(code)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rehearse:", err)
		os.Exit(1)
	}
}

// options are the flags. The unexported ones below pass values from outside the sandbox to inside.
type options struct {
	hold         bool
	setupOnly    bool
	controlPlane bool
	publish      string
	adopt        bool
	rate         int
	repository   string
	out          string
	gitops       string

	work     string
	base     string
	runner   string
	programs setup.Programs
	started  int64
}

func parse(args []string) (*options, error) {
	var o options
	flags := flag.NewFlagSet("rehearse", flag.ExitOnError)
	flags.BoolVar(&o.hold, "hold", false, "keep everything running until Ctrl-C")
	flags.BoolVar(&o.setupOnly, "setup-only", false, "only fetch and build what the rehearsal needs")
	flags.BoolVar(&o.controlPlane, "control-plane-only", false, "only fetch or build the control plane ("+setup.PreparedVariable+": a prepared one)")
	flags.Func("publish-control-plane", "only push this checkout's control plane into a `repository`, for others to name in "+setup.PreparedVariable, func(repository string) error {
		o.publish = repository
		return setup.CheckRepository(repository)
	})
	flags.BoolVar(&o.adopt, "adopt", false, "adopt Crossbill in an empty repository instead: init, doctor, a first release and a canary")
	flags.IntVar(&o.rate, "rate", 500, "requests per second through the gateway")
	flags.StringVar(&o.repository, "repository", ".", "the checkout")
	flags.StringVar(&o.out, "out", "out", "folder for the results")
	flags.StringVar(&o.gitops, "gitops", "", "a GitOps controller that applies the app from Git beside the releases: flux or argocd")
	flags.StringVar(&o.work, "work", "", "(set by rehearse itself)")
	flags.StringVar(&o.base, "base", "", "(set by rehearse itself)")
	flags.StringVar(&o.runner, "runner", "", "(set by rehearse itself)")
	flags.StringVar(&o.programs.Testcluster, "testcluster", "", "(set by rehearse itself)")
	flags.StringVar(&o.programs.Envoy, "envoy", "", "(set by rehearse itself)")
	flags.StringVar(&o.programs.Prometheus, "prometheus", "", "(set by rehearse itself)")
	flags.StringVar(&o.programs.PrometheusAssets, "prometheus-assets", "", "(set by rehearse itself)")
	flags.StringVar(&o.programs.GatewayAPI, "gateway-api", "", "(set by rehearse itself)")
	flags.Int64Var(&o.started, "started", time.Now().UnixMilli(), "(set by rehearse itself)")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if o.rate < 1 || o.rate > 2000 {
		return nil, fmt.Errorf("--rate: %d is not a number from 1 to 2000; give the requests per second", o.rate)
	}
	if !slices.Contains([]string{"", "flux", "argocd"}, o.gitops) {
		return nil, fmt.Errorf("--gitops: %q is not a controller that the rehearsal can run; give flux or argocd, or nothing for none", o.gitops)
	}
	if _, err := setup.Prepared(); err != nil {
		return nil, err
	}
	var err error
	if o.repository, err = filepath.Abs(o.repository); err != nil {
		return nil, err
	}
	if o.out, err = filepath.Abs(o.out); err != nil {
		return nil, err
	}
	return &o, nil
}

// outside fetches and builds what the rehearsal needs, and runs the rest in the sandbox, which has no network.
func outside(ctx context.Context, o *options) (int, error) {
	s := screen.New(os.Stdout)
	if o.publish != "" {
		return 0, publish(ctx, o, s)
	}
	s.Title("Crossbill rehearsal: a whole release on this machine")
	work, err := os.MkdirTemp("", "crossbill-rehearsal-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	o.work = work
	if err := announce(ctx, o, s); err != nil {
		return 0, err
	}
	if o.controlPlane {
		return 0, s.Step("control plane", func(progress func(string)) (string, error) {
			return setup.EnsureTestcluster(ctx, o.module(), o.log(progress))
		})
	}
	installing, stop := context.WithCancel(ctx)
	preparing, fail := context.WithCancelCause(ctx)
	installed := make(chan struct{})
	go func() {
		defer close(installed)
		if err := o.install(installing); err != nil {
			fail(err) // before the rest is compiled for minutes
		}
	}()
	defer func() { stop(); <-installed; fail(nil) }()
	if err := broken(preparing, setUp(preparing, o, s)); err != nil {
		return 0, err
	}
	if o.setupOnly {
		return 0, packages(ctx, o, s)
	}
	if err := os.MkdirAll(filepath.Join(o.out, "logs"), 0o755); err != nil {
		return 0, err
	}
	return sandbox.Run(ctx, []string{
		"--hold=" + strconv.FormatBool(o.hold), "--adopt=" + strconv.FormatBool(o.adopt), "--rate", strconv.Itoa(o.rate), "--repository", o.repository, "--out", o.out,
		"--work", o.work, "--base", o.base, "--runner", o.runner, "--started", strconv.FormatInt(o.started, 10),
		"--testcluster", o.programs.Testcluster, "--envoy", o.programs.Envoy,
		"--prometheus", o.programs.Prometheus, "--prometheus-assets", o.programs.PrometheusAssets,
		"--gateway-api", o.programs.GatewayAPI, "--gitops", o.gitops,
	}, o.doors()...)
}

// announce says what comes, how long it takes, and what to read meanwhile.
func announce(ctx context.Context, o *options, s *screen.Screen) error {
	if err := setup.FetchPrepared(ctx, o.module(), func(format string, args ...any) { s.Line("  "+format, args...) }); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.Line("  %v; it is built from source instead", err)
		if err := os.Unsetenv(setup.PreparedVariable); err != nil { // it has been tried
			return err
		}
	}
	there, err := setup.HasTestcluster(o.module())
	if err != nil {
		return err
	}
	if !o.setupOnly && !o.controlPlane && !o.adopt {
		s.Line("  It starts a control plane and a mesh, and releases the app in app/ %d times: about two minutes.", len(lifecycle.Versions))
	}
	if !there {
		s.Line("  The first time, it compiles the control plane: 8 to 15 minutes on two cores, once. %s=REGISTRY/REPOSITORY@sha256:… fetches a prepared one.", setup.PreparedVariable)
	}
	s.Line("  To read meanwhile: docs/tutorials/rehearsal.md has what you can do with it, docs/concepts.md what it shows.")
	s.Line("")
	return nil
}

// publish pushes the control plane, and prints what others give to use it.
func publish(ctx context.Context, o *options, s *screen.Screen) error {
	reference := ""
	err := s.Step("control plane", func(progress func(string)) (_ string, err error) {
		reference, err = setup.Publish(ctx, o.module(), o.publish, o.log(progress))
		return "published", err
	})
	if err == nil {
		s.Line("%s=%s", setup.PreparedVariable, reference)
	}
	return err
}

func (o *options) module() string { return filepath.Join(o.repository, "rehearsal") }

func (o *options) log(progress func(string)) setup.Log {
	return func(format string, args ...any) { progress(fmt.Sprintf(format, args...)) }
}

// gitServer is the door to the environment repository. Its address is the same on both sides when the port is free.
var gitServer = sandbox.Door{Name: "git", Port: 9418, Target: "127.0.0.1:9418"}

func (o *options) doors() []sandbox.Door {
	doors := append(cluster.Doors(), front)
	if o.gitops != "" {
		doors = append(doors, gitServer)
	}
	return doors
}

// setUp fetches and builds what is missing.
func setUp(ctx context.Context, o *options, s *screen.Screen) error {
	err := s.Step("programs", func(progress func(string)) (string, error) {
		module, log := o.module(), o.log(progress)
		var err error
		if o.programs, err = setup.Ensure(ctx, module, log); err != nil {
			return "", err
		}
		what := "control plane, Envoy, Prometheus, gitlab-ci-local"
		if o.runner, err = setup.EnsureRunner(ctx, module, log); err != nil {
			return what, err
		}
		switch o.gitops {
		case "flux":
			_, err = setup.EnsureFlux(ctx, module, log)
			what += ", Flux"
		case "argocd":
			_, err = setup.EnsureArgoCD(ctx, module, log)
			what += ", Argo CD"
		}
		return what, err
	})
	if err != nil {
		return err
	}
	return s.Step("base image", func(progress func(string)) (string, error) {
		progress("Node from the npm registry")
		var err error
		o.base, err = nodebase.Ensure(ctx)
		return "Node " + nodebase.Version, err
	})
}

// packages shows the installation of the app's packages, until it has ended.
func packages(ctx context.Context, o *options, s *screen.Screen) error {
	return s.Step("packages", func(progress func(string)) (string, error) {
		progress("pnpm install")
		_, err := o.packages(ctx)
		return "the app's packages", err
	})
}

// install installs the app's packages, which needs the network, beside what comes before them. It leaves a file in the work folder
// that has its error, or nothing: packages, inside the sandbox or not, waits for it.
func (o *options) install(ctx context.Context) error {
	failure := ""
	pnpm, err := o.pnpm(ctx)
	if err == nil {
		// What has not changed since the last time is not looked at again.
		cmd := exec.CommandContext(ctx, pnpm, "install", "--frozen-lockfile", "--prefer-offline", "--config.optimistic-repeat-install=true")
		cmd.Dir = filepath.Join(o.repository, "app")
		cmd.Env = append(os.Environ(), "CI=1", "NO_COLOR=1")
		cmd.WaitDelay = 5 * time.Second
		var text []byte
		if text, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("pnpm install in app: %w\n%s", err, text)
		}
	}
	if err != nil {
		failure = err.Error()
	}
	file := filepath.Join(o.work, "installed")
	return errors.Join(err, os.WriteFile(file+".new", []byte(failure), 0o644), os.Rename(file+".new", file))
}

// pnpm is the app's package manager.
func (o *options) pnpm(ctx context.Context) (string, error) {
	return setup.EnsurePnpm(ctx, lifecycle.Pnpm, func(string, ...any) {})
}

// packages waits until the app's packages are installed, and gives what has installed them.
func (o *options) packages(ctx context.Context) (pnpm string, err error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		failure, err := os.ReadFile(filepath.Join(o.work, "installed"))
		switch {
		case err == nil && len(failure) > 0:
			return "", errors.New(string(failure))
		case err == nil:
			return o.pnpm(ctx)
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}

// inside runs the rehearsal.
func inside(ctx context.Context, o *options) error {
	doors, err := sandbox.Enter()
	if err != nil {
		return err
	}
	s := screen.New(os.Stdout)
	key, policy, err := signing.Key(o.work, lifecycle.Source)
	if err != nil {
		return err
	}
	r := &lifecycle.Rehearsal{
		Repository: o.repository, Crossbill: filepath.Join(o.repository, "bin", "crossbill"), Base: o.base,
		Work: o.work, Out: o.out, SigningKey: key, Rate: o.rate, Screen: s,
	}
	if !o.adopt { // which first has a repository to set up
		r.Begin(ctx, o.packages)
	}
	var c *cluster.Cluster
	err = s.Step("control plane", func(progress func(string)) (string, error) {
		var err error
		c, err = cluster.Start(ctx, cluster.Options{
			Dir:               filepath.Join(o.work, "cluster"),
			TestclusterBinary: o.programs.Testcluster, EnvoyBinary: o.programs.Envoy,
			PrometheusBinary: o.programs.Prometheus, PrometheusAssets: o.programs.PrometheusAssets,
			GatewayAPI: o.programs.GatewayAPI,
			Log:        func(format string, args ...any) { progress(fmt.Sprintf(format, args...)) },
		})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("kube-apiserver, controllers and istiod ready in %.1fs; Envoy, Prometheus and a registry", c.ControlPlaneReady.Seconds()), nil
	})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-c.Broken():
			cancel(err)
		case <-ctx.Done():
		}
	}()
	if o.adopt {
		return broken(ctx, adopt(ctx, o, s, c, key))
	}
	environment, err := startGitOps(ctx, o, s, c)
	if err != nil {
		return err
	}
	deploying, err := startGitLab(o, c, policy, environment)
	if err != nil {
		return err
	}
	defer deploying.Close()
	config, err := o.writeConfig(o.work, c, c.PrometheusURL, environment.URL())
	if err != nil {
		return err
	}
	r.GitLab, r.Config, r.Cluster, r.Environment = deploying, config, c, environment
	if err := broken(ctx, rehearse(ctx, o, r)); err != nil {
		return err
	}
	if o.hold {
		return hold(ctx, o, s, r, doors)
	}
	return nil
}

// broken is why a part of the cluster has ended, where an error comes from that.
func broken(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && cause != ctx.Err() {
		return cause
	}
	return err
}

// startGitOps starts the GitOps controller and an environment repository for it; nil without one.
func startGitOps(ctx context.Context, o *options, s *screen.Screen, c *cluster.Cluster) (*lifecycle.Environment, error) {
	if o.gitops == "" {
		return nil, nil
	}
	e := &lifecycle.Environment{}
	return e, s.Step("gitops", func(progress func(string)) (string, error) {
		start, log := startFlux, func(format string, args ...any) { progress(fmt.Sprintf(format, args...)) }
		if o.gitops == "argocd" {
			start = startArgoCD
		}
		ready, err := start(ctx, o, c, e, log)
		if err != nil {
			return "", err
		}
		if e.Repository, err = gitops.Serve(filepath.Join(o.work, "git"), gitServer.Target); err != nil {
			return "", err
		}
		token := rand.Text()
		e.Repository.Protect(token)
		e.Token = filepath.Join(o.work, "gitops-token")
		if err := os.WriteFile(e.Token, []byte(token), 0o600); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s ready in %.1fs; an environment repository", e.Controller, ready.Seconds()), nil
	})
}

func startFlux(ctx context.Context, o *options, c *cluster.Cluster, e *lifecycle.Environment, log setup.Log) (ready time.Duration, err error) {
	programs, err := setup.EnsureFlux(ctx, filepath.Join(o.repository, "rehearsal"), log)
	if err != nil {
		return 0, err
	}
	flux, err := gitops.StartFlux(ctx, c, programs, filepath.Join(o.work, "flux"))
	if err != nil {
		return 0, err
	}
	e.Controller = "Flux"
	e.Apply = func(ctx context.Context, name string, r *gitops.Repository, folder string) (gitops.Applied, error) {
		return flux.Apply(ctx, name, r, "./"+folder)
	}
	return flux.Ready, nil
}

// startArgoCD's Applications have the settings that `crossbill gitops config` prints.
func startArgoCD(ctx context.Context, o *options, c *cluster.Cluster, e *lifecycle.Environment, log setup.Log) (ready time.Duration, err error) {
	programs, err := setup.EnsureArgoCD(ctx, filepath.Join(o.repository, "rehearsal"), log)
	if err != nil {
		return 0, err
	}
	argo, err := gitops.StartArgoCD(ctx, c, programs, filepath.Join(o.work, "argocd"))
	if err != nil {
		return 0, err
	}
	e.Controller, e.Plain = "Argo CD", true
	e.Apply = func(ctx context.Context, name string, r *gitops.Repository, folder string) (gitops.Applied, error) {
		app, err := argo.Apply(ctx, name, r, folder)
		if err != nil {
			return nil, err
		}
		config := exec.CommandContext(ctx, filepath.Join(o.repository, "bin", "crossbill"), "gitops", "config", "-o", "json",
			"--controller", "argocd", "--application", name, "--namespace", c.Namespace, "--manifests", filepath.Join(o.repository, "k8s"))
		config.Dir = o.work
		text, err := config.Output()
		if err != nil {
			return nil, fmt.Errorf("crossbill gitops config: %w", err)
		}
		var printed struct {
			Items []struct{ Spec map[string]any }
		}
		if err := json.Unmarshal(text, &printed); err != nil {
			return nil, fmt.Errorf("crossbill gitops config: %w", err)
		}
		return app, app.Change(ctx, map[string]any{"spec": printed.Items[0].Spec}) // the Application comes first
	}
	return argo.Ready, nil
}

// startGitLab starts the GitLab that deploys to the cluster, with the pipeline file for runners without a
// container engine.
func startGitLab(o *options, c *cluster.Cluster, policy string, environment *lifecycle.Environment) (*gitlab.GitLab, error) {
	values, err := o.clusterValues(c, c.PrometheusURL, environment.URL())
	if err != nil {
		return nil, err
	}
	var trusted map[string]any
	if err := yaml.Unmarshal([]byte(policy), &trusted); err != nil {
		return nil, err
	}
	values["imagePolicy"] = trusted
	config, err := gitlab.Configure(filepath.Join(o.repository, "crossbill.yaml"), values)
	if err != nil {
		return nil, err
	}
	return gitlab.Start(gitlab.Options{
		Dir:        filepath.Join(o.work, "gitlab"),
		Repository: o.repository, Config: config,
		Images:      "^(" + regexp.QuoteMeta(c.RegistryHost) + "/our-org/[a-z0-9._-]+@sha256:[0-9a-f]{64})?$",
		Environment: "production/qwik-node-app",
		Runner:      o.runner, Crossbill: filepath.Join(o.repository, "bin"), Kube: c.Kubeconfig,
		Files: environment.Variables(),
	})
}

// clusterValues are what a crossbill.yaml says of the rehearsal's cluster, of its traffic, and of what applies the app to it from Git.
func (o *options) clusterValues(c *cluster.Cluster, prometheus, repository string) (map[string]any, error) {
	context, err := currentContext(c.Kubeconfig)
	// At this rate there is evidence enough to pass after about 10 seconds: the defaults of 30 would only wait.
	values := map[string]any{
		"cluster.context": context, "cluster.namespace": c.Namespace, "prometheus.url": prometheus,
		"analysis.minDuration": "10s", "analysis.warmUp": "5s", "analysis.maxDuration": "5m",
	}
	if repository != "" {
		values["gitops"] = map[string]any{"controller": o.gitops, "repository": repository, "path": lifecycle.EnvironmentPath}
	}
	return values, err
}

// writeConfig writes the sample app's crossbill.yaml for the rehearsal's cluster into a folder, and returns its path.
func (o *options) writeConfig(dir string, c *cluster.Cluster, prometheus, environment string) (string, error) {
	values, err := o.clusterValues(c, prometheus, environment)
	if err != nil {
		return "", err
	}
	values["manifests"] = filepath.Join(o.repository, "k8s")
	text, err := gitlab.Configure(filepath.Join(o.repository, "crossbill.yaml"), values)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "crossbill.yaml")
	return file, os.WriteFile(file, text, 0o644)
}

func currentContext(kubeconfig string) (string, error) {
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return "", err
	}
	return config.CurrentContext, nil
}

// rehearse releases all versions and prints the results.
func rehearse(ctx context.Context, o *options, r *lifecycle.Rehearsal) error {
	summary := &lifecycle.Summary{ControlPlaneSeconds: r.Cluster.ControlPlaneReady.Seconds(), RequestsPerSecond: o.rate}
	if err := packages(ctx, o, r.Screen); err != nil {
		return err
	}
	r.Publish(ctx)
	if !o.hold { // --hold keeps the traffic as well
		defer r.StopTraffic()
	}
	elapsed := func() float64 { return float64(time.Now().UnixMilli()-o.started) / 1000 }
	before := elapsed()
	spent := []string{fmt.Sprintf("%.0fs until the first release", before)}
	for i, version := range r.Versions() {
		if i == 1 { // the first change; what runs already has been checked before
			if err := r.Check(ctx); err != nil {
				return err
			}
		}
		if err := r.Release(ctx, version, summary); err != nil {
			return err
		}
		now := elapsed()
		spent = append(spent, fmt.Sprintf("%s %.0fs", version.Number, now-before))
		before = now
	}
	summary.TotalSeconds = elapsed()
	if err := r.Finish(summary); err != nil {
		return err
	}
	report, err := r.Report(ctx)
	if err != nil {
		return err
	}
	r.Screen.Title("What callers saw, at %d requests per second", o.rate)
	for _, release := range summary.Releases {
		r.Screen.Line("  %-12s  %-12s %7d requests  %d lost  %d answered with an error   %s", release.Version, release.Outcome, release.Requests, release.Lost, release.Failed, release.Digest[:19])
	}
	for _, problem := range summary.Problems {
		r.Screen.Line("  lost: %s", problem)
	}
	r.Screen.Line("  The canary of 1.1.0 got %.2f%% of %d requests at weight 10.", summary.CanaryShare, summary.CanaryShareOf)
	mesh := summary.Mesh
	r.Screen.Line("  A caller in the mesh sent %d requests through its sidecar: %d lost. The canary of 1.1.0 got %.2f%% of %d.", mesh.Requests, mesh.Lost, mesh.CanaryShare, mesh.CanaryShareOf)
	r.Screen.Line("  The bad version got requests for %.1fs until all traffic was back on primary.", summary.RollbackSeconds)
	if summary.ConfigRollbackSeconds > 0 {
		r.Screen.Line("  The bad configuration got requests for %.1fs.", summary.ConfigRollbackSeconds)
	}
	r.Screen.Line("  The control plane was ready after %.1fs, and the rehearsal took %.0fs. Figures: %s", summary.ControlPlaneSeconds, summary.TotalSeconds, relative(filepath.Join(o.out, "rehearsal.json")))
	r.Screen.Line("  Where the time went: %s.", strings.Join(spent, ", "))
	r.Screen.Line("  Report with plots: %s", relative(report))
	return printLog(r)
}

// printLog prints what the environment repository has, if there is one.
func printLog(r *lifecycle.Rehearsal) error {
	if r.Environment == nil {
		return nil
	}
	commits, err := r.Environment.Repository.Log()
	if err != nil {
		return err
	}
	r.Screen.Title("The environment repository, the last commit first")
	for _, subject := range commits {
		r.Screen.Line("  %s", subject)
	}
	return nil
}

// hold keeps everything running and prints where it is.
func hold(ctx context.Context, o *options, s *screen.Screen, r *lifecycle.Rehearsal, doors []sandbox.Door) error {
	c := r.Cluster
	at := map[string]string{}
	for _, door := range doors {
		at[door.Name] = door.Host
	}
	text, err := c.KubeconfigFor(at["apiserver"])
	if err != nil {
		return err
	}
	kubeconfig := filepath.Join(o.out, "kubeconfig")
	if err := os.WriteFile(kubeconfig, text, 0o600); err != nil {
		return err
	}
	environment := strings.Replace(r.Environment.URL(), gitServer.Target, at[gitServer.Name], 1)
	config, err := o.writeConfig(o.out, c, "http://"+at["prometheus"], environment)
	if err != nil {
		return err
	}
	broken := make(chan error, 1)
	go func() { broken <- serveFront(c.GatewayAddress) }()
	s.Title("Everything keeps running, including the traffic. Press Ctrl-C to stop.")
	s.Line("  the app       http://%s in a browser", at["app"])
	s.Line("  gateway       http://%s, for requests with `Host: %s`", at["gateway"], lifecycle.Host)
	s.Line("  Prometheus    http://%s", at["prometheus"])
	s.Line("  registry      http://%s/v2/_catalog", at["registry"])
	s.Line("  Envoy         http://%s", at["envoy-admin"])
	if environment != "" {
		s.Line("  environment   git clone %s", environment)
	}
	s.Line("  crossbill     export KUBECONFIG=%s CROSSBILL_CONFIG=%s", relative(kubeconfig), relative(config))
	s.Line("")
	s.Line("  Try, for example, with an image from the registry:")
	s.Line("    bin/crossbill status")
	s.Line("    bin/crossbill canary --approve-as-operator --again --image $(bin/crossbill image digest %s/our-org/qwik-node-app:1.2.0)", at["registry"])
	s.Line("    bin/crossbill verify")
	select {
	case <-ctx.Done():
		return nil
	case err := <-broken:
		return fmt.Errorf("forwarding to the app: %w", err)
	}
}

// relative is a path as seen from the working directory, if that is possible.
func relative(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	short, err := filepath.Rel(dir, path)
	if err != nil {
		return path
	}
	return short
}
