package gitops

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// fluxNamespace is where Flux's own objects are.
const fluxNamespace = "flux-system"

// Flux is the real one, running in a rehearsal's cluster.
type Flux struct {
	Source, Kustomize *Controller
	// Ready is the time from StartFlux's begin until both were ready.
	Ready time.Duration

	objects dynamic.Interface
}

// StartFlux makes Flux's kinds in a cluster and starts its two controllers, as administrators and with the settings of an
// installation of Flux, except that the health check of one commit ends with the next. They keep what they read from Git in a
// folder, which is made, and end with the cluster.
func StartFlux(ctx context.Context, c *cluster.Cluster, programs setup.Flux, dir string) (*Flux, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(c.RESTConfig)
	if err != nil {
		return nil, err
	}
	if err := c.Establish(ctx, programs.Kinds); err != nil {
		return nil, fmt.Errorf("flux: %w", err)
	}
	if err := makeNamespace(ctx, objects, fluxNamespace); err != nil {
		return nil, fmt.Errorf("flux: %w", err)
	}
	env := []string{"KUBECONFIG=" + c.Kubeconfig, "RUNTIME_NAMESPACE=" + fluxNamespace}
	const artifacts = "127.0.0.1:9790"
	f := &Flux{
		objects: objects,
		Source: &Controller{
			cluster: c, name: "flux-source-controller", program: programs.SourceController, env: env, health: "http://127.0.0.1:9792/readyz",
			args: []string{
				"--health-addr=127.0.0.1:9792",
				"--storage-path=" + dir, "--storage-addr=" + artifacts, "--storage-adv-addr=" + artifacts,
				"--metrics-addr=127.0.0.1:9791",
			},
		},
		Kustomize: &Controller{
			cluster: c, name: "flux-kustomize-controller", program: programs.KustomizeController, env: env, health: "http://127.0.0.1:9794/readyz",
			args: []string{"--health-addr=127.0.0.1:9794", "--metrics-addr=127.0.0.1:9793", "--no-remote-bases", "--feature-gates=CancelHealthCheckOnNewRevision=true"},
		},
	}
	if err := startAll(ctx, f.Source, f.Kustomize); err != nil {
		return nil, err
	}
	f.Ready = time.Since(began)
	return f, nil
}

var (
	gitRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
	kustomizations  = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
)

// A Kustomization is a folder of a repository that Flux applies to the cluster.
type Kustomization struct {
	name       string
	repository *Repository
	objects    dynamic.Interface
}

// Setting changes the spec of a Kustomization or its GitRepository before it is made.
type Setting func(repository, kustomization map[string]any)

// Wait makes the Kustomization wait until what it has applied is ready.
func Wait(_, kustomization map[string]any) { kustomization["wait"] = true }

// Apply has Flux apply a folder of a repository from now on, and remove what is no longer there. It looks for commits every
// 10 seconds and for drift every minute, and does not wait until anything is ready.
func (f *Flux) Apply(ctx context.Context, name string, r *Repository, folder string, settings ...Setting) (*Kustomization, error) {
	repository := map[string]any{"interval": "10s", "url": r.URL, "ref": map[string]any{"branch": "main"}}
	kustomization := map[string]any{
		"interval": "1m", "path": folder, "prune": true, "wait": false, "timeout": "1m",
		"sourceRef": map[string]any{"kind": "GitRepository", "name": name},
	}
	for _, set := range settings {
		set(repository, kustomization)
	}
	k := &Kustomization{name: name, repository: r, objects: f.objects}
	for _, made := range []struct {
		resource schema.GroupVersionResource
		object   *unstructured.Unstructured
	}{
		{gitRepositories, object("source.toolkit.fluxcd.io/v1", "GitRepository", name, repository)},
		{kustomizations, object("kustomize.toolkit.fluxcd.io/v1", "Kustomization", name, kustomization)},
	} {
		if _, err := k.client(made.resource).Create(ctx, made.object, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create %s %s: %w", made.object.GetKind(), name, err)
		}
	}
	return k, nil
}

// Every has Flux look for commits and for drift so often.
func Every(interval string) Setting {
	return func(repository, kustomization map[string]any) {
		repository["interval"], kustomization["interval"] = interval, interval
	}
}

// Into has Flux put objects that name no namespace into one.
func Into(namespace string) Setting {
	return func(_, kustomization map[string]any) { kustomization["targetNamespace"] = namespace }
}

// Ignore has Flux leave fields alone, given as JSON pointers, of the objects that a target selects.
func Ignore(target map[string]any, paths ...any) Setting {
	return func(_, kustomization map[string]any) {
		rules, _ := kustomization["ignore"].([]any)
		kustomization["ignore"] = append(rules, map[string]any{"target": target, "paths": paths})
	}
}

// Remove has Flux apply the folder no longer, and waits until it has removed what came from it.
func (k *Kustomization) Remove(ctx context.Context) error {
	for _, resource := range []schema.GroupVersionResource{kustomizations, gitRepositories} {
		if err := k.client(resource).Delete(ctx, k.name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return await(ctx, func(ctx context.Context) error {
		_, err := k.client(kustomizations).Get(ctx, k.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil:
			err = fmt.Errorf("flux has not removed what it applied of %s", k.name)
		}
		return err
	})
}

func (k *Kustomization) client(resource schema.GroupVersionResource) dynamic.ResourceInterface {
	return k.objects.Resource(resource).Namespace(fluxNamespace)
}

// Suspend keeps Flux from applying, or lets it apply again.
func (k *Kustomization) Suspend(ctx context.Context, suspended bool) error {
	return k.patch(ctx, kustomizations, fmt.Sprintf(`{"spec":{"suspend":%t}}`, suspended))
}

// Request asks Flux to read the repository now, as a webhook would. A new commit is then applied.
func (k *Kustomization) Request(ctx context.Context) error { return k.request(ctx, gitRepositories) }

// RequestApply asks Flux to apply what it has read, whether there is something new or not: drift is then undone.
func (k *Kustomization) RequestApply(ctx context.Context) error {
	return k.request(ctx, kustomizations)
}

func (k *Kustomization) request(ctx context.Context, resource schema.GroupVersionResource) error {
	return k.patch(ctx, resource, fmt.Sprintf(`{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":%q}}}`, time.Now().Format(time.RFC3339Nano)))
}

func (k *Kustomization) patch(ctx context.Context, resource schema.GroupVersionResource, patch string) error {
	// The field manager is that of the flux command.
	_, err := k.client(resource).Patch(ctx, k.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "flux-client-side-apply"})
	return err
}

// WaitApplied waits until Flux has applied a commit, or a later one. What it leaves alone counts as applied.
func (k *Kustomization) WaitApplied(ctx context.Context, commit string) error {
	return await(ctx, func(ctx context.Context) error {
		live, err := k.client(kustomizations).Get(ctx, k.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		revision, _, err := unstructured.NestedString(live.Object, "status", "lastAppliedRevision")
		if err != nil {
			return err
		}
		applied := strings.TrimPrefix(revision, "main@sha1:")
		if applied == commit || applied != "" && k.repository.contains(applied, commit) {
			return nil
		}
		return fmt.Errorf("flux has not applied commit %s of %s, but %q: %s", commit, k.name, revision, conditions(live))
	})
}

// WaitHandled waits until Flux has answered the last request to apply what it has read, or one that others have made since:
// those who ask all the time would else never let it end.
func (k *Kustomization) WaitHandled(ctx context.Context) error {
	requests := map[string]bool{}
	return await(ctx, func(ctx context.Context) error {
		live, err := k.client(kustomizations).Get(ctx, k.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		handled, _, err := unstructured.NestedString(live.Object, "status", "lastHandledReconcileAt")
		if err != nil {
			return err
		}
		asked := live.GetAnnotations()["reconcile.fluxcd.io/requestedAt"]
		requests[asked] = true
		if !requests[handled] {
			return fmt.Errorf("flux has not answered the request of %s to apply %s: %s", asked, k.name, conditions(live))
		}
		return nil
	})
}

// conditions are what an object says of itself.
func conditions(u *unstructured.Unstructured) string {
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	var said []string
	for _, c := range all {
		if c, ok := c.(map[string]any); ok {
			said = append(said, fmt.Sprintf("%v=%v (%v: %v)", c["type"], c["status"], c["reason"], c["message"]))
		}
	}
	return strings.Join(said, ", ")
}
