package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// fluxApp is the prefix of a stage of an app whose objects Flux applies from Git. It had a release before that.
const fluxApp = "flux, "

const (
	holdKey    = "kustomize.toolkit.fluxcd.io/reconcile"
	heldKey    = "crossbill.our-org.github.com/held"
	fluxByName = "kustomize-controller"
)

// flux stands for Flux and the repository that it applies: each commit is the image that primary is to run. It was checked
// against kustomize-controller 1.9.6 (internal/controller/kustomization_controller.go, and the apply of fluxcd/pkg/ssa) and
// against what it did beside a release.
//
// Where it differs, it is worse: it applies what it has fetched after each write of anybody else to the app's objects, and
// not at its interval alone; it fetches nothing unless it is asked. It applies every object although nothing has drifted.
type flux struct {
	set    *manifest.Set
	client dynamic.Interface
	wake   chan struct{}
	turn   chan struct{}

	mu       sync.Mutex
	commits  []string                        // the image that each one has primary run
	template map[int]*corev1.PodTemplateSpec // that a commit has written; else it is that of the one before
	artifact int                             // the commit that it has fetched
	down     error                           // of the repository
	deaf     bool                            // it does not read
	notHeld  bool                            // it takes no annotation, as Argo CD
	leaves   bool                            // its settings make it leave all objects alone
	pushing  func()                          // just before a push
	syncing  string                          // what it says that it applies
}

func newFlux(w *world) *flux {
	f := &flux{set: w.set, client: w.dynamic(fluxByName, w.server), wake: make(chan struct{}, 1), turn: make(chan struct{}, 1), template: map[int]*corev1.PodTemplateSpec{}}
	w.server.changed = append(w.server.changed, func(e event) {
		if e.by != fluxByName && e.by != "" && slices.Contains([]string{"deployments", "virtualservices", "destinationrules", "services", "httproutes"}, e.resource) {
			select {
			case f.wake <- struct{}{}:
			default:
			}
		}
	})
	return f
}

// run applies until ctx ends.
func (f *flux) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lag):
		}
		f.reconcile(ctx)
	}
}

// reconcile applies each object of the commit that was fetched, but for those that carry the annotation.
func (f *flux) reconcile(ctx context.Context) {
	f.turn <- struct{}{} // one at a time
	defer func() { <-f.turn }()
	f.mu.Lock()
	if f.deaf || f.leaves || len(f.commits) == 0 {
		f.mu.Unlock()
		return
	}
	image, template := f.commits[f.artifact], f.templateOf(f.artifact)
	f.mu.Unlock()
	for _, o := range f.objects(image, template) {
		client := f.client.Resource(resources[o.GetKind()]).Namespace(namespace)
		live, err := client.Get(ctx, o.GetName(), metav1.GetOptions{})
		if err == nil && live.GetAnnotations()[holdKey] == "disabled" {
			continue
		}
		if _, err := client.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fluxByName, Force: true}); err != nil && ctx.Err() == nil {
			panic(fmt.Sprintf("flux: %s %s: %v", o.GetKind(), o.GetName(), err))
		}
	}
}

var resources = map[string]schema.GroupVersionResource{
	"Deployment": {Group: "apps", Version: "v1", Resource: "deployments"}, "Service": {Version: "v1", Resource: "services"},
	"VirtualService":  {Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"},
	"DestinationRule": {Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"},
	"HTTPRoute":       {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"},
}

// templateOf is the pod template that a commit has; nil is the manifests'.
func (f *flux) templateOf(commit int) *corev1.PodTemplateSpec {
	for ; commit >= 0; commit-- {
		if t := f.template[commit]; t != nil {
			return t
		}
	}
	return nil
}

// objects are the manifests with the labels that Flux gives them.
func (f *flux) objects(image string, template *corev1.PodTemplateSpec) (all []*unstructured.Unstructured) {
	add := func(kind string, o metav1.Object, err error) {
		if err != nil {
			panic(err)
		}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			panic(err)
		}
		u := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(content)}
		u.SetGroupVersionKind(resources[kind].GroupVersion().WithKind(kind))
		u.SetNamespace(namespace)
		delete(u.Object, "status")
		unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
		labels := u.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels["kustomize.toolkit.fluxcd.io/name"], labels["kustomize.toolkit.fluxcd.io/namespace"] = "apps", "flux-system"
		u.SetLabels(labels)
		all = append(all, u)
	}
	set := *f.set
	if set.Deployment = set.Deployment.DeepCopy(); template != nil {
		set.Deployment.Spec.Template = *template.DeepCopy()
	}
	primary, err := set.Track(release.Primary, namespace, image)
	add("Deployment", primary, err)
	add("Service", f.set.Service, nil)
	if f.set.Route != nil {
		for _, track := range []release.Track{release.Primary, release.Canary} {
			add("Service", f.set.Tracks[track], nil)
		}
		add("HTTPRoute", f.set.Route, nil)
		return all
	}
	add("VirtualService", f.set.VirtualService, nil)
	add("DestinationRule", f.set.DestinationRule, nil)
	return all
}

// adopt has Flux apply an app that is there; all of its fields are Flux's then.
func (w *world) adopt() {
	w.Helper()
	w.flux.commits = []string{image("1")}
	w.flux.reconcile(w.Context())
	for _, o := range w.flux.objects(image("1"), nil) {
		client := w.flux.client.Resource(resources[o.GetKind()]).Namespace(namespace)
		live, err := client.Get(w.Context(), o.GetName(), metav1.GetOptions{})
		w.must(live, err)
		theirs, err := json.Marshal(slices.DeleteFunc(live.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "crossbill" }))
		w.must(theirs, err)
		w.must(client.Patch(w.Context(), o.GetName(), types.JSONPatchType, fmt.Appendf(nil, `[{"op":"replace","path":"/metadata/managedFields","value":%s}]`, theirs), metav1.PatchOptions{}))
	}
}

func (f *flux) String() string { return "Flux" }
func (f *flux) Hold() (key, value string) {
	if f.notHeld {
		return "", ""
	}
	return holdKey, "disabled"
}

func (f *flux) Check(_ context.Context, objects []gitops.Object) ([]string, error) {
	for _, o := range objects {
		if _, ok := gitops.OwnerOf(o); !ok {
			return nil, &usererr.Error{Field: o.GetName(), Problem: "nobody applies it"}
		}
	}
	return []string{"it is checked"}, nil
}

func (f *flux) Fetch(ctx context.Context, _ []gitops.Object) (string, error) {
	time.Sleep(300 * time.Millisecond)
	f.mu.Lock()
	if f.deaf {
		f.mu.Unlock()
		return "", errors.New("Flux has not read the repository in 5m0s")
	}
	f.artifact = len(f.commits) - 1
	commit := strconv.Itoa(f.artifact)
	f.mu.Unlock()
	f.reconcile(ctx)
	return commit, nil
}

func (f *flux) Apply(ctx context.Context, _ []gitops.Object) error {
	time.Sleep(lag)
	f.reconcile(ctx)
	return nil
}

func (f *flux) Applying(context.Context, []gitops.Object) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.syncing, nil
}

func (f *flux) image(context.Context) (string, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.commits) - 1
	return f.commits[last], strconv.Itoa(last), f.down
}

// commit is a compare-and-swap, as package environment makes one: an edit of the head that was read, and a push that names
// it as its parent.
func (f *flux) commit(ctx context.Context, c rollout.GitCommit) (string, error) {
	for {
		in, head, err := f.image(ctx)
		if err != nil {
			return "", err
		}
		switch {
		case in == c.To && !c.Always && f.has(c.Template):
			return head, nil
		case in != c.From && in != c.To:
			return "", &usererr.Error{Field: "gitops.repository", Problem: "it has " + in}
		}
		if err := c.Holds(ctx); err != nil {
			return "", err
		}
		if f.pushing != nil {
			f.pushing()
		}
		if pushed := f.push(head, c.To, c.Template); pushed != "" {
			return pushed, nil
		}
	}
}

// has says whether the head has a pod template.
func (f *flux) has(template *corev1.PodTemplateSpec) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return template == nil || apiequality.Semantic.DeepEqual(f.templateOf(len(f.commits)-1), template)
}

func (f *flux) push(parent, image string, template *corev1.PodTemplateSpec) (commit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strconv.Itoa(len(f.commits)-1) != parent {
		return ""
	}
	f.template[len(f.commits)] = template
	f.commits = append(f.commits, image)
	return strconv.Itoa(len(f.commits) - 1)
}

// gitOps is a job's view of Flux and its repository; a commit is one of the job's writes.
func (w *world) gitOps(j *job) *rollout.GitOps {
	return &rollout.GitOps{
		Controller: w.flux,
		Objects: func(context.Context) (all []manifest.Object, err error) {
			w.flux.mu.Lock()
			head := len(w.flux.commits) - 1
			in, template := w.flux.commits[head], w.flux.templateOf(head)
			w.flux.mu.Unlock()
			for _, o := range w.flux.objects(in, template) {
				raw, err := o.MarshalJSON()
				w.must(raw, err)
				all = append(all, manifest.Object{GroupVersionKind: o.GroupVersionKind(), Name: o.GetName(), Raw: raw})
			}
			return all, nil
		},
		Image: w.flux.image,
		Try:   func(context.Context, rollout.GitCommit) error { return nil },
		Commit: func(ctx context.Context, c rollout.GitCommit) (commit string, err error) {
			before := len(w.flux.commits)
			err = j.beside("commit "+digitOf(c.To), func() error {
				commit, err = w.flux.commit(ctx, c)
				return err
			})
			if len(w.flux.commits) > before {
				w.server.mu.Lock()
				w.effects = append(w.effects, effect{by: j.name, action: "commit", object: digitOf(c.To)})
				w.server.mu.Unlock()
			}
			return commit, err
		},
	}
}

// beside is a write of a job that is not to the API server. What passes shows nothing: package environment tries again.
func (n *network) beside(what string, do func() error) error {
	n.mu.Lock()
	if n.killed {
		n.mu.Unlock()
		return errKilled
	}
	n.seen++
	n.every = append(n.every, what)
	if n.seen == n.at && n.hit == "" {
		if n.hit = what; n.fault == refused {
			n.refuses = what
		}
	}
	refuse, dead, before := n.refuses == what, n.hit == what && n.fault == dies, n.before
	n.mu.Unlock()
	if before != nil {
		if err := before(&http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/" + what}}); err != nil {
			return err
		}
	}
	if refuse {
		return errors.New("the server refuses the push")
	}
	err := do()
	if dead {
		n.mu.Lock()
		n.killed = true
		n.mu.Unlock()
		n.kill()
		return errKilled
	}
	return err
}

// unrestOfFlux says in what Git and the cluster differ, and what is left of a release.
func (w *world) unrestOfFlux(digit string) string {
	w.Helper()
	if in, _, _ := w.flux.image(w.Context()); digitOf(in) != digit {
		return "Git has primary run " + digitOf(in)
	}
	for _, o := range w.flux.objects(image(digit), nil) {
		live, err := w.flux.client.Resource(resources[o.GetKind()]).Namespace(namespace).Get(w.Context(), o.GetName(), metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, key := range []string{holdKey, heldKey} {
			if _, there := live.GetAnnotations()[key]; there {
				return o.GetKind() + " " + o.GetName() + " carries " + key
			}
		}
		if slices.ContainsFunc(live.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "crossbill" }) {
			return o.GetKind() + " " + o.GetName() + " has fields that crossbill still owns"
		}
	}
	w.flux.reconcile(w.Context())
	time.Sleep(30 * time.Second)
	if is := w.running(release.Primary); is != digit {
		return "Flux has put " + is + " on primary"
	}
	return ""
}

// besideCrashes are crashes of an app that Flux applies, whoever writes what it applies.
var besideCrashes = []crashCase{
	{"rest", "canary", "2"},
	{"canary", "shift", "2"},
	{"healthy", "promote", "2"},
	{"healthy", "promote under traffic", "2"},
	{"promoted", "cleanup", "2"},
	{"promoted", "guard", "2"},
	{"started", "rollback", "1"},
	{"canary", "rollback", "1"},
	{"promoting", "rollback", "1"},
	{"moving", "rollback", "1"},
	{"rolled", "rollback", "1"},
	{"promoted", "rollback", "1"},
	{"canary", "guard", "1"},
	{"ended", "return", "1"},
	{"next", "return", "1"},
	{"returning to primary", "rollback", "2"},
	{"returned", "rollback", "2"},
}

func init() {
	for _, c := range besideCrashes {
		c.stage = fluxApp + c.stage
		crashes = append(crashes, c)
	}
}

// TestBesideFlux: what a release does beside Flux, in order, and that nothing of it rolls twice.
func TestBesideFlux(t *testing.T) {
	at(t, fluxApp+"rest", func(w *world) {
		var did []string
		for _, command := range []string{"canary", "verify healthy", "promote", "cleanup"} {
			j := w.job(command)
			if _, err := commands[command](w.Context(), j); err != nil {
				w.Fatalf("%s: %v", command, err)
			}
			did = append(did, command+": "+strings.Join(w.did(j), ", "))
		}
		w.Log(strings.Join(did, "\n"))
		if unrest := w.unrest("2"); unrest != "" {
			w.Error(unrest)
		}
	})
}

// TestLatePush: the push of a promotion that has lost its lock does not arrive after the rollback that took it.
func TestLatePush(t *testing.T) {
	at(t, fluxApp+"healthy", func(w *world) {
		w.flux.pushing = func() {
			w.flux.pushing = nil
			w.must(w.job("back").Rollback(w.Context(), "it is bad"))
		}
		if _, err := w.job("late").Promote(w.Context()); !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("the promotion that has lost its lock: %v", err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestGitRefuses: what is wrong in Git, or with Flux, is said before anything is written.
func TestGitRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		stage, command string
		change         func(*world, *job)
		says           string
	}{
		"not configured": {"rest", "canary", func(_ *world, j *job) { j.GitOps = nil },
			"Deployment prod/qwik-node-app-primary: Flux's Kustomization flux-system/apps applies it from Git, and would undo the release; write the section gitops of crossbill.yaml (docs/guides/gitops.md); nothing was changed"},
		"Git is ahead": {"rest", "canary", func(w *world, _ *job) { w.flux.commits = append(w.flux.commits, image("3")) },
			"gitops.repository: commit 1 has primary run " + image("3") + ", and it runs " + image("1")},
		"a template that Git cannot have": {"rest", "canary", func(w *world, j *job) {
			j.Manifests = w.own()
			j.Manifests.Deployment.Spec.Template.Spec.Containers[0].Env[1].Value = "1"
			j.GitOps.Try = func(context.Context, rollout.GitCommit) error {
				return &usererr.Error{Field: "deployment.yaml:7", Problem: "a comment"}
			}
		}, "deployment.yaml:7: a comment"},
		"a template, beside Argo CD": {"rest", "canary", func(w *world, j *job) {
			w.flux.notHeld = true
			j.Manifests = w.own()
			j.Manifests.Deployment.Spec.Template.Spec.Containers[0].Env[1].Value = "1"
		}, "manifests: they differ from Git in more than the image, and Flux would put that back on primary as soon as promotion writes it: .spec.template.spec.containers[name="},
		"another Service": {"rest", "canary", func(w *world, j *job) { j.Manifests = w.moved() }, "Service prod/qwik-node-app-service: Git has it differently"},
		"nothing in Git": {"rest", "canary", func(_ *world, j *job) {
			j.GitOps.Objects = func(context.Context) ([]manifest.Object, error) { return nil, nil }
		}, "gitops.path: it has no Deployment prod/qwik-node-app-primary"},
		"Git is down": {"rest", "canary", func(w *world, _ *job) { w.flux.down = errors.New("no answer") }, "no answer"},
		"somebody reverts the promotion": {"promoted", "cleanup", func(w *world, _ *job) { w.flux.commits = append(w.flux.commits, image("1")) },
			"commit 2 has primary run sha256:" + strings.Repeat("1", 64) + ", and not sha256:" + strings.Repeat("2", 64) + ", which release r2 promoted: somebody has taken its commit back; rollback ends the release"},
		"Flux does not read": {"promoted", "cleanup", func(w *world, _ *job) { w.flux.deaf = true },
			"Flux has not read the repository in 5m0s; Flux leaves the release's objects alone until then"},
	} {
		t.Run(name, func(t *testing.T) {
			at(t, fluxApp+c.stage, func(w *world) {
				j := w.job(c.command)
				c.change(w, j)
				_, err := commands[c.command](w.Context(), j)
				if c.says == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v\nwant %s", err, c.says)
				}
				if c.command == "canary" && len(j.every) > 0 {
					t.Errorf("it wrote %q", j.every)
				}
			})
		})
	}
}

// TestGitDownOnTheWayBack: the traffic goes back without Git, and Git is put right by the same rollback later.
func TestGitDownOnTheWayBack(t *testing.T) {
	at(t, fluxApp+"promoted", func(w *world) {
		w.flux.down = errors.New("no answer")
		_, err := w.job("back").Rollback(w.Context(), "it is bad")
		if err == nil || !strings.Contains(err.Error(), "no answer; the traffic is where it belongs, and Flux leaves the release's objects alone; rollback continues from here") {
			t.Error(err)
		}
		if is := w.running(release.Primary); is != "1" {
			t.Errorf("primary runs %s", is)
		}
		time.Sleep(time.Minute)
		if is := w.running(release.Primary); is != "1" {
			t.Errorf("Flux has put %s back", is)
		}
		w.flux.down = nil
		w.must(w.job("again").Rollback(w.Context(), "it is bad"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
		if got := len(w.flux.commits); got != 3 {
			t.Errorf("%d commits, want the first, the promotion's and the rollback's", got)
		}
	})
}

// TestSomebodyLetsFluxIn: that is drift, and said.
func TestSomebodyLetsFluxIn(t *testing.T) {
	at(t, fluxApp+"healthy", func(w *world) {
		w.flux.deaf = true
		w.patchDeployment(release.Primary, `[{"op":"remove","path":"/metadata/annotations/kustomize.toolkit.fluxcd.io~1reconcile"}]`)
		_, err := w.job("promote").Promote(w.Context())
		if err == nil || !strings.Contains(err.Error(), "the annotation kustomize.toolkit.fluxcd.io/reconcile: disabled is gone from qwik-node-app-primary") {
			t.Error(err)
		}
	})
}

// TestEndedWithoutGitOps: a job that does not know of Flux leaves no release behind that Flux is kept from.
func TestEndedWithoutGitOps(t *testing.T) {
	for stage, command := range map[string]string{"promoted": "cleanup", "canary": "rollback"} {
		at(t, fluxApp+stage, func(w *world) {
			j := w.job(command)
			j.GitOps = nil
			if _, err := commands[command](w.Context(), j); err == nil || !strings.Contains(err.Error(), "gitops.controller: is missing") || w.read().Release == nil {
				t.Errorf("%s: %v", command, err)
			}
			w.must(commands[command](w.Context(), w.job("again")))
			if unrest := w.unrest(map[string]string{"cleanup": "2", "rollback": "1"}[command]); unrest != "" {
				t.Error(unrest)
			}
		})
	}
}

// TestTemplateInGit: a release that changes the pod template has Git say so too, and a rollback puts that back.
func TestTemplateInGit(t *testing.T) {
	for _, back := range []bool{false, true} {
		at(t, fluxApp+"rest", func(w *world) {
			changed := w.own()
			changed.Deployment.Spec.Template.Spec.Containers[0].Env[1].Value = "1"
			value := func() string {
				d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(release.Primary), metav1.GetOptions{})
				w.must(d, err)
				return d.Spec.Template.Spec.Containers[0].Env[1].Value
			}
			was := value()
			for _, command := range []string{"canary", "verify healthy", "promote", map[bool]string{false: "cleanup", true: "rollback"}[back]} {
				j := w.job(command)
				j.Manifests = changed
				w.must(commands[command](w.Context(), j))
			}
			w.flux.reconcile(w.Context())
			time.Sleep(time.Minute)
			is, want := w.running(release.Primary)+" "+value(), map[bool]string{false: "2 1", true: "1 " + was}[back]
			if is != want {
				t.Errorf("back %t: primary runs %s, want %s", back, is, want)
			}
			if r := w.read().History[0]; r.Git == nil || r.Git.Template != "" {
				t.Error("the ledger keeps what Git had")
			}
		})
	}
}

// TestGitTemplateAlone: a release of another template with the same image reaches Git.
func TestGitTemplateAlone(t *testing.T) {
	at(t, fluxApp+"rest", func(w *world) {
		changed := w.own()
		changed.Deployment.Spec.Template.Spec.Containers[0].Env[1].Value = "1"
		asked := 0
		job := func(name string) *job {
			j := w.job(name)
			j.Manifests = changed
			commit := j.GitOps.Commit
			j.GitOps.Commit = func(ctx context.Context, c rollout.GitCommit) (string, error) { asked++; return commit(ctx, c) }
			return j
		}
		w.must(job("canary").Canary(w.Context(), release.Release{ID: "template", Image: image("1"), Weight: 10}))
		for _, command := range []string{"verify healthy", "promote", "cleanup"} {
			w.must(commands[command](w.Context(), job(command)))
		}
		if asked == 0 {
			t.Error("no commit was asked for")
		}
	})
}

// TestGitLatePushAfterGuard: a rollback without the section took the lock first.
func TestGitLatePushAfterGuard(t *testing.T) {
	at(t, fluxApp+"healthy", func(w *world) {
		w.flux.pushing = func() {
			w.flux.pushing = nil
			j := w.job("guard")
			j.GitOps = nil
			if _, err := j.Rollback(w.Context(), "abandoned"); err == nil {
				t.Error("no error")
			}
			w.must(w.job("back").Rollback(w.Context(), "it is bad"))
		}
		if _, err := w.job("late").Promote(w.Context()); !errors.Is(err, rollout.ErrLockLost) {
			t.Error(err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestGitThirdImage: Git decides; the rollback ends.
func TestGitThirdImage(t *testing.T) {
	at(t, fluxApp+"promoted", func(w *world) {
		w.flux.commits = append(w.flux.commits, image("3"))
		w.observer.started = false // no canary has proved that one
		if _, err := w.job("back").Rollback(w.Context(), "it is bad"); err != nil {
			t.Error(err)
		}
	})
}

// TestGitSectionRemoved: promote without the section, of a release that was started with it.
func TestGitSectionRemoved(t *testing.T) {
	at(t, fluxApp+"healthy", func(w *world) {
		j := w.job("promote")
		j.GitOps = nil
		if _, err := j.Promote(w.Context()); err == nil {
			t.Error("promoted, without a commit")
		}
	})
}

// TestGitLedgerLost: what a lost release has kept from Flux, a rollback lets it into again.
func TestGitLedgerLost(t *testing.T) {
	at(t, fluxApp+"promoted", func(w *world) {
		w.must(nil, w.kube.CoreV1().ConfigMaps(namespace).Delete(w.Context(), "crossbill-"+w.set.App, metav1.DeleteOptions{}))
		w.must(nil, w.kube.AppsV1().Deployments(namespace).Delete(w.Context(), w.set.Name(release.Canary), metav1.DeleteOptions{}))
		time.Sleep(time.Minute)
		result, err := w.job("back").Rollback(w.Context(), "it is lost")
		if err != nil || !strings.HasSuffix(result.Message, "and Flux applies the app again") {
			t.Errorf("%q, %v", result.Message, err)
		}
		if unrest := w.unrestOfFlux("2"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestAnApplyThatBeganBefore: a controller that takes no annotation undoes a write by what it had read before it, some time
// later. The release has it all the same, and no canary is deleted that gets traffic.
func TestAnApplyThatBeganBefore(t *testing.T) {
	for _, c := range []struct{ resource, command string }{{"virtualservices", "promote"}, {"deployments", "promote"}, {"virtualservices", "back"}} {
		t.Run(c.resource+", "+c.command, func(t *testing.T) {
			at(t, fluxApp+map[string]string{"promote": "healthy", "back": "promoted"}[c.command], func(w *world) {
				w.flux.notHeld, w.flux.leaves = true, true
				undone := w.undo(c.resource)
				j, want := w.job(c.command), "2"
				if c.command == "promote" {
					w.must(j.Promote(w.Context()))
				} else {
					want = "1"
					w.must(j.Rollback(w.Context(), "it is bad"))
				}
				if undone() == 0 {
					t.Error("nothing was undone: this proves nothing")
				}
				if is := w.running(release.Primary); is != want {
					t.Errorf("primary runs %s, want %s", is, want)
				}
				if status, err := w.job("look").Status(w.Context()); err != nil || status.Weights.Canary != 0 {
					t.Errorf("weights %+v: %v", status.Weights, err)
				}
			})
		})
	}
}

// undo has each of a release's changes of a kind undone, once, by an apply that began before it and takes four seconds.
func (w *world) undo(resource string) (undone func() int) {
	client := w.dynamic("argocd-controller", w.server)
	specs := map[string]bool{}
	n := 0
	w.server.changed = append(w.server.changed, func(e event) {
		if e.resource != resource || e.by == "" || e.by == "argocd-controller" || e.before == nil || e.after == nil {
			return
		}
		before, after := e.before.object, e.after.object
		was, is := fmt.Sprint(before.Object["spec"]), fmt.Sprint(after.Object["spec"])
		if was == is || specs[is] || before.GetName() == w.set.Name(release.Canary) {
			return
		}
		specs[is] = true
		w.flux.mu.Lock()
		w.flux.syncing = fmt.Sprint("sync ", len(specs))
		w.flux.mu.Unlock()
		go func() {
			time.Sleep(4 * time.Second)
			patch, err := json.Marshal(map[string]any{"spec": before.Object["spec"]})
			w.must(patch, err)
			w.must(client.Resource(resources[before.GetKind()]).Namespace(namespace).Patch(w.Context(), before.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "argocd-controller"}))
			w.flux.mu.Lock()
			defer w.flux.mu.Unlock()
			w.flux.syncing = ""
			n++
		}()
	})
	return func() int { return n }
}
