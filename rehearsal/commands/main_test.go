// Package commands_test tests every command against a real API server, with real controllers, istiod and pods.
package commands_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	istio "istio.io/client-go/pkg/clientset/versioned"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/our-org/crossbill/internal/image"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/sandbox"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// What the tests share.
var (
	running  *cluster.Cluster
	binaries setup.Programs
	programs string            // folder with crossbill and app, built outside the sandbox
	images   map[string]string // by what the app in them does, by digest
)

var long = flag.Bool("long", false, "also what a short run leaves out: more crashes, more ways in which a canary turns bad, more of Flux")

// onlyLong leaves a test out of a short run: what it shows, in-package tests show too, and a shorter one on the real parts.
func onlyLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("left out of a short run; make test-long has it")
	}
}

const programsVariable = "CROSSBILL_TEST_PROGRAMS"

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx := context.Background()
	var err error
	binaries, err = setup.Ensure(ctx, "", func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
	if err != nil {
		return 1, err
	}
	if !sandbox.Inside() {
		return outside(ctx)
	}
	if _, err := sandbox.Enter(); err != nil {
		return 1, err
	}
	klog.SetLogger(logr.Discard())
	programs = os.Getenv(programsVariable)
	running, err = cluster.Start(ctx, cluster.Options{
		Dir: filepath.Join(programs, "cluster"), TestclusterBinary: binaries.Testcluster, EnvoyBinary: binaries.Envoy,
		PrometheusBinary: binaries.Prometheus, GatewayAPI: binaries.GatewayAPI, TwoPrometheus: true,
	})
	if err != nil {
		return 1, err
	}
	defer running.Close()
	if images, err = pushImages(ctx); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// outside builds the programs where the network is, and runs the tests in the sandbox.
func outside(ctx context.Context) (int, error) {
	dir, err := os.MkdirTemp("", "crossbill-commands-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	for name, source := range map[string]string{"crossbill": "../../cmd/crossbill", "app": "../cluster/testdata/app", "wire": "../cluster/testdata/wire"} {
		folder, err := filepath.Abs(source)
		if err != nil {
			return 1, err
		}
		build := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, name), ".")
		build.Dir, build.Env = folder, append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("building %s: %w\n%s", name, err, text)
		}
	}
	if err := os.Setenv(programsVariable, dir); err != nil {
		return 1, err
	}
	if runs("TestGitOps") {
		if _, err := setup.EnsureFlux(ctx, "", func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }); err != nil {
			return 1, err
		}
	}
	if runs("TestRunner") && *long {
		if _, err := setup.EnsureGitLabRunner(ctx, "", func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }); err != nil {
			return 1, err
		}
	}
	if *argocd && runs("TestArgoCD") {
		if _, err := setup.EnsureArgoCD(ctx, "", func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }); err != nil {
			return 1, err
		}
	}
	if runs("TestLivePage") || runs("TestBrowsers") {
		log := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
		if _, err := setup.EnsureBrowser(ctx, log); err != nil {
			fmt.Fprintf(os.Stderr, "no browser: %v; TestBrowsers and TestLivePage are skipped\n", err)
		} else if _, err := setup.AxeCore(ctx, log); err != nil {
			return 1, err
		}
	}
	return sandbox.Run(ctx, os.Args[1:])
}

// runs tells whether a test is to run, by the flag that says which.
func runs(test string) bool {
	flag.Parse()
	first, _, _ := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	yes, err := regexp.MatchString(first, test)
	return yes || err != nil
}

// pushImages pushes one image for each behavior that a test needs.
func pushImages(ctx context.Context) (map[string]string, error) {
	pushed, layers := map[string]string{}, map[string]v1.Layer{}
	for _, program := range []string{"app", "wire"} {
		layer, err := image.Layer(programs, []string{program}, "/srv", time.Unix(0, 0))
		if err != nil {
			return nil, err
		}
		layers[program] = layer
	}
	for name, env := range map[string][]string{
		"one": {"VERSION=one"}, "two": {"VERSION=two"}, "three": {"VERSION=three"}, "unready": {"UNREADY=1"}, "fails": {"VERSION=fails", "FAIL=100"}, "crash": {"CRASH=1"},
		"fails 5": {"VERSION=fails 5", "FAIL=5"}, "fails 20": {"VERSION=fails 20", "FAIL=20"}, "slow": {"VERSION=slow", "SLOW=700ms"}, "dies": {"VERSION=dies", "DIES_AFTER=4s"},
		"flaps":       {"VERSION=flaps", "FLAP=4s"},
		"eats":        {"VERSION=eats", "EATS=40"},
		"hangs":       {"VERSION=hangs", "HANGS=100"},
		"not found":   {"VERSION=not found", "NOT_FOUND=100"},
		"fades":       {"VERSION=fades", "UNREADY_AFTER=12s"},
		"two and one": {"VERSION=two", "ASSETS_OF=one"},
		"ends a":      {"VERSION=ends a", "ABRUPT=1"}, "ends b": {"VERSION=ends b", "ABRUPT=1"}, "ends c": {"VERSION=ends c", "ABRUPT=1"},
		"wire a": {"VERSION=wire a"}, "wire b": {"VERSION=wire b"}, "wire internal": {"VERSION=wire internal", "FAIL=30", "STATUS=13"},
		"drains a": {"VERSION=drains a", "DRAIN=3s"}, "drains b": {"VERSION=drains b", "DRAIN=3s"}, "drains c": {"VERSION=drains c", "DRAIN=3s"},
	} {
		program := "app"
		if strings.HasPrefix(name, "wire ") {
			program = "wire"
		}
		base, err := mutate.AppendLayers(empty.Image, layers[program])
		if err != nil {
			return nil, err
		}
		config, err := base.ConfigFile()
		if err != nil {
			return nil, err
		}
		config = config.DeepCopy()
		config.Config.Entrypoint, config.Config.User, config.Config.Env = []string{"/srv/" + program}, image.User, env
		made, err := mutate.ConfigFile(base, config)
		if err != nil {
			return nil, err
		}
		if pushed[name], err = registry.Push(ctx, made, running.RegistryHost+"/test/app:"+strings.ReplaceAll(name, " ", "-"), authn.DefaultKeychain); err != nil {
			return nil, err
		}
	}
	return pushed, nil
}

// app is one app in a namespace of its own.
type app struct {
	*testing.T
	name, namespace, manifests string
	kube                       kubernetes.Interface
	mesh                       istio.Interface
	env                        []string // more environment of its commands
	commits                    *commits // where its releases are written; nil: the API server
}

// newApp makes the namespace and manifests of an app, from the repository's own.
func newApp(t *testing.T, name string) *app {
	t.Helper()
	a := &app{T: t, name: name, namespace: "ns-" + name}
	a.kube, a.mesh = clients(t, running.RESTConfig)
	a.writeManifests()
	a.makeNamespace()
	return a
}

// shape prepares the app's manifests further.
func (a *app) shape(prepare []func(*app)) {
	a.Helper()
	for _, do := range prepare {
		do(a)
	}
}

// writeManifests writes the repository's manifests with the app's names; edits are pairs of old and new.
func (a *app) writeManifests(edits ...string) {
	t := a.T
	t.Helper()
	a.manifests = t.TempDir()
	files, err := filepath.Glob("../../k8s/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.NewReplacer(append(edits, "qwik-node-app", a.name, "app.example.com", a.name+".example.com")...).Replace(string(text))
		if err := os.WriteFile(filepath.Join(a.manifests, filepath.Base(file)), []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// makeNamespace makes the app's namespace, which other apps may have made already.
func (a *app) makeNamespace() {
	t := a.T
	t.Helper()
	if _, err := a.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.namespace}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	a.eventually(func() error {
		_, err := a.kube.CoreV1().ServiceAccounts(a.namespace).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
}

func clients(t *testing.T, config *rest.Config) (kubernetes.Interface, istio.Interface) {
	t.Helper()
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, 0
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := istio.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return kube, mesh
}

func (a *app) eventually(check func() error) {
	a.Helper()
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	a.Fatal(err)
}

// cluster is the app as package rollout sees it, through a configuration of its own when given.
func (a *app) cluster(by string, config *rest.Config) *rollout.Cluster {
	a.Helper()
	set, err := manifest.Load(a.manifests)
	if err != nil {
		a.Fatal(err)
	}
	c := &rollout.Cluster{
		Kube: a.kube, Istio: a.mesh, Namespace: a.namespace, Manifests: set, By: by,
		Timeout: 30 * time.Second, SettleDelay: time.Second,
		Log: func(e rollout.Event) { a.Logf("%s: %s: %s", by, e.Object, e.Message) },
	}
	if config != nil {
		c.Kube, c.Istio = clients(a.T, config)
	}
	config = cmp.Or(config, running.RESTConfig)
	c.Kinds = kinds(a.T, config, c.Kube)
	if a.commits != nil {
		a.commits.store(c, config)
	}
	return c
}

// kinds are all those that a cluster has.
func kinds(t *testing.T, config *rest.Config, kube kubernetes.Interface) *rollout.Kinds {
	t.Helper()
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, 0
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return rollout.NewKinds(client, kube.Discovery())
}

// crossbill runs the command and returns its exit code and everything that it printed.
func (a *app) crossbill(args ...string) (code int, out string) {
	a.Helper()
	return a.command(a.arguments(args)...)
}

// arguments are those that lead a command to the app.
func (a *app) arguments(args []string) []string {
	args = append(args, "--kubeconfig", running.Kubeconfig, "--namespace", a.namespace, "--manifests", a.manifests)
	switch args[0] {
	case "canary", "shift", "promote", "cleanup", "rollback", "verify", "guard":
		args = append(args, "--settle-delay", "1s")
	}
	return args
}

// process is the command, with all that it prints.
type process struct {
	*exec.Cmd
	out bytes.Buffer
}

func program(args ...string) *process {
	p := &process{Cmd: exec.Command(filepath.Join(programs, "crossbill"), args...)}
	p.Stdout, p.Stderr, p.Env = &p.out, &p.out, append(os.Environ(), "KUBECONFIG=", "HOME=/nonexistent")
	return p
}

func (a *app) command(args ...string) (code int, out string) {
	a.Helper()
	p := program(args...)
	p.Env = append(p.Env, a.env...)
	start := time.Now()
	err := p.Run()
	a.Logf("%s: %s in %.1f s: exit code %d", start.UTC().Format("15:04:05"), args[0], time.Since(start).Seconds(), p.ProcessState.ExitCode())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		a.Fatal(err)
	}
	return p.ProcessState.ExitCode(), p.out.String()
}

// must runs the command and wants exit code 0.
func (a *app) must(args ...string) string {
	a.Helper()
	code, out := a.crossbill(args...)
	if code != 0 {
		a.Fatalf("crossbill %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// state names every object of the app with its resourceVersion, the lock and the ledger included.
func (a *app) state() map[string]string {
	a.Helper()
	ctx := a.Context()
	state := map[string]string{}
	note := func(kind string, o metav1.Object) {
		state[kind+" "+o.GetName()] = o.GetResourceVersion()
	}
	var deployments *appsv1.DeploymentList
	a.eventually(func() (err error) { // the controller answers a new annotation too, and when an old pod is gone
		if deployments, err = a.kube.AppsV1().Deployments(a.namespace).List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
		for i := range deployments.Items {
			d := &deployments.Items[i]
			if d.Status.ObservedGeneration < d.Generation || d.Status.TerminatingReplicas != nil && *d.Status.TerminatingReplicas > 0 {
				return fmt.Errorf("the controller is not done with Deployment %s yet", d.Name)
			}
		}
		return nil
	})
	for i := range deployments.Items {
		note("Deployment", &deployments.Items[i])
	}
	ledgers, err := a.kube.CoreV1().ConfigMaps(a.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for i := range ledgers.Items {
		note("ConfigMap", &ledgers.Items[i])
	}
	locks, err := a.kube.CoordinationV1().Leases(a.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for i := range locks.Items {
		note("Lease", &locks.Items[i])
	}
	services, err := a.kube.CoreV1().Services(a.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for i := range services.Items {
		note("Service", &services.Items[i])
	}
	routes, err := a.mesh.NetworkingV1().VirtualServices(a.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for _, o := range routes.Items {
		note("VirtualService", o)
	}
	rules, err := a.mesh.NetworkingV1().DestinationRules(a.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for _, o := range rules.Items {
		note("DestinationRule", o)
	}
	gateways, err := a.mesh.NetworkingV1().Gateways(a.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for _, o := range gateways.Items {
		note("Gateway", o)
	}
	return state
}

func (a *app) weights() manifest.WeightPair {
	a.Helper()
	status, err := a.cluster("test", nil).Status(a.Context())
	if err != nil || status.Weights == nil {
		a.Fatalf("no weights: %v", err)
	}
	return *status.Weights
}

// image is the image of a track's Deployment; "" when there is none.
func (a *app) image(track string) string {
	a.Helper()
	list, err := a.kube.AppsV1().Deployments(a.namespace).List(a.Context(), metav1.ListOptions{LabelSelector: "version=" + track})
	if err != nil {
		a.Fatal(err)
	}
	if len(list.Items) == 0 {
		return ""
	}
	return list.Items[0].Spec.Template.Spec.Containers[0].Image
}

// writeJSON keeps what a test has measured, if there is a file for it.
func writeJSON(t *testing.T, file string, value any) {
	t.Helper()
	if file == "" {
		return
	}
	text, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
