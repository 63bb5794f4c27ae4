package gitops_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/gitops"
	"github.com/our-org/crossbill/rehearsal/sandbox"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// What the tests share.
var (
	running *cluster.Cluster
	flux    *gitops.Flux
	folder  string // for what they write
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (_ int, err error) {
	ctx := context.Background()
	progress := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	programs, err := setup.Ensure(ctx, "", progress)
	if err != nil {
		return 1, err
	}
	controllers, err := setup.EnsureFlux(ctx, "", progress)
	if err != nil {
		return 1, err
	}
	if !sandbox.Inside() {
		return sandbox.Run(ctx, os.Args[1:])
	}
	if _, err := sandbox.Enter(); err != nil {
		return 1, err
	}
	if folder, err = os.MkdirTemp("", "crossbill-gitops-"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	running, err = cluster.Start(ctx, cluster.Options{
		Dir: filepath.Join(folder, "cluster"), TestclusterBinary: programs.Testcluster, EnvoyBinary: programs.Envoy,
		PrometheusBinary: programs.Prometheus, GatewayAPI: programs.GatewayAPI,
	})
	if err != nil {
		return 1, err
	}
	defer running.Close()
	if flux, err = gitops.StartFlux(ctx, running, controllers, filepath.Join(folder, "flux")); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// environment is a repository that Flux applies to the cluster.
type environment struct {
	*testing.T
	*gitops.Repository
	*gitops.Kustomization
	name string
	kube kubernetes.Interface
}

// newEnvironment has Flux apply a repository, with ConfigMaps that have a value each, by their names.
func newEnvironment(t *testing.T, name string, values map[string]string, settings ...gitops.Setting) *environment {
	t.Helper()
	kube, err := kubernetes.NewForConfig(running.RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	e := &environment{T: t, name: name, kube: kube}
	if e.Repository, err = gitops.Serve(filepath.Join(folder, name), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Repository.Stop)
	first := e.commit(values)
	if e.Kustomization, err = flux.Apply(t.Context(), name, e.Repository, "./app", settings...); err != nil {
		t.Fatal(err)
	}
	e.applied(first)
	return e
}

// commit sets the values of ConfigMaps.
func (e *environment) commit(values map[string]string, removed ...string) (commit string) {
	e.Helper()
	files := map[string]string{}
	for name, value := range values {
		files["app/"+name+".yaml"] = fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s-%s, namespace: %s}\ndata: {value: %q}\n", e.name, name, running.Namespace, value)
	}
	for i, name := range removed {
		removed[i] = "app/" + name + ".yaml"
	}
	commit, err := e.Repository.Commit("Change", files, removed...)
	if err != nil {
		e.Fatal(err)
	}
	return commit
}

// patience is how long Flux may take for anything on a busy machine.
const patience = time.Minute

func (e *environment) applied(commit string) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), patience)
	defer cancel()
	if err := e.WaitApplied(ctx, commit); err != nil {
		e.Fatal(err)
	}
}

// request asks Flux for a commit, and waits until it is applied.
func (e *environment) request(commit string) {
	e.Helper()
	if err := e.Request(e.Context()); err != nil {
		e.Fatal(err)
	}
	e.applied(commit)
}

// again has Flux apply what it has read once more.
func (e *environment) again() {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), patience)
	defer cancel()
	if err := errors.Join(e.RequestApply(ctx), e.WaitHandled(ctx)); err != nil {
		e.Fatal(err)
	}
}

// values are those of the live ConfigMaps.
func (e *environment) values() map[string]string {
	e.Helper()
	all, err := e.kube.CoreV1().ConfigMaps(running.Namespace).List(e.Context(), metav1.ListOptions{LabelSelector: "kustomize.toolkit.fluxcd.io/name=" + e.name})
	if err != nil {
		e.Fatal(err)
	}
	values := map[string]string{}
	for _, c := range all.Items {
		values[strings.TrimPrefix(c.Name, e.name+"-")] = c.Data["value"]
	}
	return values
}

func (e *environment) want(when string, want map[string]string) {
	e.Helper()
	if diff := cmp.Diff(want, e.values()); diff != "" {
		e.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// patch changes a live ConfigMap as somebody else does.
func (e *environment) patch(name, patch string) {
	e.Helper()
	if _, err := e.kube.CoreV1().ConfigMaps(running.Namespace).Patch(e.Context(), e.name+"-"+name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		e.Fatal(err)
	}
}

func TestFluxAppliesCommits(t *testing.T) {
	e := newEnvironment(t, "commits", map[string]string{"a": "1", "b": "1"})
	e.want("after the first commit", map[string]string{"a": "1", "b": "1"})
	e.request(e.commit(map[string]string{"a": "2", "c": "2"}, "b"))
	e.want("after one that adds, changes and removes", map[string]string{"a": "2", "c": "2"})
	e.patch("a", `{"data":{"value":"drifted"}}`)
	e.again()
	e.want("after drift", map[string]string{"a": "2", "c": "2"})
}

// hold keeps Flux away from a live object.
const (
	hold    = `{"metadata":{"annotations":{"kustomize.toolkit.fluxcd.io/reconcile":"disabled"}}}`
	release = `{"metadata":{"annotations":{"kustomize.toolkit.fluxcd.io/reconcile":null}}}`
)

func TestFluxLeavesHeldObjectsAlone(t *testing.T) {
	e := newEnvironment(t, "held", map[string]string{"a": "1", "b": "1"})
	e.patch("a", hold)
	e.patch("a", `{"data":{"value":"released"}}`)
	e.request(e.commit(map[string]string{"a": "2", "b": "2"}))
	e.again()
	e.want("held", map[string]string{"a": "released", "b": "2"})
	e.request(e.commit(nil, "a"))
	e.want("held, and removed from Git", map[string]string{"a": "released", "b": "2"})
	e.request(e.commit(map[string]string{"a": "2"}))
	e.patch("a", release)
	e.again()
	e.want("no longer held", map[string]string{"a": "2", "b": "2"})
}

func TestFluxStopsAndGoesOn(t *testing.T) {
	e := newEnvironment(t, "stops", map[string]string{"a": "1"})
	ctx := t.Context()
	still := func(commit, when string) {
		t.Helper()
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if err := e.WaitApplied(short, commit); err == nil {
			t.Errorf("%s: commit %s was applied", when, commit)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	do(e.Suspend(ctx, true))
	commit := e.commit(map[string]string{"a": "2"})
	do(e.Request(ctx))
	still(commit, "suspended")
	do(e.Suspend(ctx, false))
	e.applied(commit)

	flux.Kustomize.Stop()
	commit = e.commit(map[string]string{"a": "3"})
	do(e.Request(ctx))
	still(commit, "the controller is stopped")
	do(flux.Kustomize.Start(ctx))
	e.applied(commit)

	e.Repository.Stop()
	commit = e.commit(map[string]string{"a": "4"})
	do(e.Request(ctx))
	still(commit, "Git is down")
	do(e.Repository.Start())
	e.request(commit)
	e.want("at the end", map[string]string{"a": "4"})
}

// TestFluxTakes measures Flux: a commit is applied sooner than at the interval of 10 s, and the two need no more memory than
// their pods have in an installation of Flux, which is 1 GiB each.
func TestFluxTakes(t *testing.T) {
	e := newEnvironment(t, "takes", map[string]string{"a": "0"})
	var took []time.Duration
	for i := range 5 {
		began := time.Now()
		e.request(e.commit(map[string]string{"a": fmt.Sprint(i + 1)}))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	if took[2] > 8*time.Second {
		t.Errorf("from a commit to applied: %s", took[2])
	}
	t.Logf("ready after %.2f s; from a commit to applied: %.2f s", flux.Ready.Seconds(), took[2].Seconds())
	for name, controller := range map[string]*gitops.Controller{"source-controller": flux.Source, "kustomize-controller": flux.Kustomize} {
		memory, err := controller.Memory()
		if err != nil || memory > 1<<30 || memory < 1<<20 {
			t.Errorf("%s has %d MB in memory: %v", name, memory>>20, err)
		}
		t.Logf("%s has %d MB in memory", name, memory>>20)
	}
}
