package gitops

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/our-org/crossbill/internal/usererr"
)

// TestFluxFetchIsPastWhatWasBefore: whatever is under way when a commit is pushed, nothing older than the commit that Fetch
// gives is written after it. The schedules must be able to show it: a wait for the GitRepository alone would not do.
func TestFluxFetchIsPastWhatWasBefore(t *testing.T) {
	notEnough := 0
	for seed := range uint64(120) {
		synctest.Test(t, func(t *testing.T) {
			w := newFluxWorld(seed, aKustomization(), aGitRepository())
			ctx, stop := context.WithCancel(t.Context())
			defer func() { stop(); synctest.Wait() }()
			go w.sourceController(ctx, theRepository)
			go w.kustomizeController(ctx, theKustomization, theRepository, 2*time.Second)
			c, _ := controllerOf(t, Flux, w.client, Options{Branch: "main"})
			time.Sleep(5*time.Second + w.upTo(3*time.Second))
			mine := w.push()
			go func() { // others push too, and somebody may suspend it
				sleep(ctx, w.upTo(2*time.Second))
				if seed%3 == 0 {
					w.push()
				}
				if seed%5 == 0 {
					w.patch(theKustomization, map[string]any{"spec": map[string]any{"suspend": true}})
				}
			}()
			commit, err := c.Fetch(ctx, theApp())
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			fetched := time.Now()
			time.Sleep(10 * time.Second)
			if commit < mine {
				t.Errorf("seed %d: Fetch gives %s, and %s was pushed before it", seed, commit, mine)
			}
			afterShown, afterFetched := w.olderAfter(mine, commit, fetched)
			notEnough += afterShown
			if afterFetched > 0 {
				t.Errorf("seed %d: %d objects of an older commit were applied after Fetch gave %s", seed, afterFetched, commit)
			}
		})
	}
	if notEnough == 0 {
		t.Error("no schedule has an older commit under way when the source shows the new one: this proves nothing")
	}
}

func TestFluxFetch(t *testing.T) {
	suspend := func(r reference) func(fluxWorld) {
		return func(w fluxWorld) { w.patch(r, map[string]any{"spec": map[string]any{"suspend": true}}) }
	}
	for _, c := range []struct {
		name    string
		objects []Object
		before  func(fluxWorld)
		without string    // the controller that does not run
		others  reference // what others ask too
		want    string    // of the error; "" for the commit
		within  time.Duration
		logs    []string
	}{
		{name: "a commit", objects: theApp(), within: 5 * time.Second},
		{name: "others ask too", objects: theApp(), others: theRepository, within: 10 * time.Second},
		{name: "nothing of Flux", objects: []Object{byFlux("", "Service", "shop", "")}, want: "no commit"},
		{name: "the branch cannot be read", objects: theApp(), before: func(w fluxWorld) { w.broken = "failed to checkout and determine revision:\n authentication required" }, within: 10 * time.Second,
			want: "Flux's GitRepository flux-system/env cannot be read: failed to checkout and determine revision: authentication required"},
		{name: "source-controller does not run", objects: theApp(), without: "source", within: 70 * time.Second,
			want: "waited 1m0s for Flux to read the repository: GitRepository flux-system/env has not answered; is source-controller running?; run the command again, which goes on from here"},
		{name: "kustomize-controller does not run", objects: theApp(), without: "kustomize", within: 70 * time.Second,
			want: "waited 1m0s for Flux to read the repository: Kustomization flux-system/apps has not answered; is kustomize-controller running?; run the command again, which goes on from here"},
		{name: "the source was suspended meanwhile", objects: theApp(), before: suspend(theRepository), within: 10 * time.Second,
			want: "GitRepository flux-system/env: it is suspended, so Flux does not read the repository; `flux resume source git env --namespace flux-system`"},
		{name: "the Kustomization was suspended meanwhile", objects: theApp(), before: suspend(theKustomization), within: 10 * time.Second,
			logs: []string{"Kustomization flux-system/apps is suspended: it applies nothing until it is resumed"}},
		{name: "the Kustomization is gone", objects: []Object{byFlux("apps", "Deployment", "shop-primary", "other")}, within: time.Second,
			want: "Kustomization flux-system/other: is not found, and the app's objects say that it applies them; create it again, or remove its labels and annotations from the objects if nothing applies them any more; if another cluster has it, let a controller in this one apply the app"},
		{name: "the API server stumbles", objects: theApp(), within: 10 * time.Second, before: func(w fluxWorld) {
			left := 3
			w.client.PrependReactor("get", "gitrepositories", func(clienttesting.Action) (bool, runtime.Object, error) {
				left--
				return left >= 0, nil, apierrors.NewServiceUnavailable("etcd is electing")
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFluxWorld(1, aKustomization(), aGitRepository())
				ctx, stop := context.WithCancel(t.Context())
				defer func() { stop(); synctest.Wait() }()
				if c.without != "source" {
					go w.sourceController(ctx, theRepository)
				}
				if c.without != "kustomize" {
					go w.kustomizeController(ctx, theKustomization, theRepository, time.Hour)
				}
				time.Sleep(5 * time.Second)
				if c.before != nil {
					c.before(w)
				}
				if c.others.name != "" {
					go w.ask(ctx, c.others)
				}
				head := w.push()
				controller, logs := controllerOf(t, Flux, w.client, Options{Branch: "main", Timeout: time.Minute})
				started := time.Now()
				commit, err := controller.Fetch(ctx, c.objects)
				got := strings.Replace(commit, head, "", 1)
				switch {
				case err != nil:
					got = err.Error()
				case commit == "":
					got = "no commit"
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
				if took := time.Since(started); took > c.within {
					t.Errorf("it took %s, want %s at most", took, c.within)
				}
				if diff := cmp.Diff(c.logs, logs()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestFluxFetchFromTwoSources: two GitRepositories of one repository are asked until they have the same commit.
func TestFluxFetchFromTwoSources(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			second := func(o map[string]any) { o["metadata"].(map[string]any)["name"] = "second" }
			from := func(o map[string]any) {
				second(o)
				o["spec"].(map[string]any)["sourceRef"].(map[string]any)["name"] = "second"
			}
			w := newFluxWorld(seed, aKustomization(), aGitRepository(), aKustomization(from), aGitRepository(second))
			ctx, stop := context.WithCancel(t.Context())
			defer func() { stop(); synctest.Wait() }()
			for _, name := range [][2]string{{"apps", "env"}, {"second", "second"}} {
				source := reference{gitRepositories, "GitRepository", "flux-system", name[1]}
				go w.sourceController(ctx, source)
				go w.kustomizeController(ctx, kustomization("flux-system", name[0]), source, time.Hour)
			}
			time.Sleep(3 * time.Second)
			mine := w.push()
			go func() { sleep(ctx, w.upTo(time.Second)); w.push() }()
			c, _ := controllerOf(t, Flux, w.client, Options{})
			commit, err := c.Fetch(ctx, []Object{byFlux("apps", "Deployment", "shop-primary", "apps"), byFlux("", "Service", "shop", "second")})
			if err != nil || commit < mine {
				t.Errorf("seed %d: commit %s, %v", seed, commit, err)
			}
			for _, name := range []string{"apps", "second"} {
				if last, _, _ := unstructured.NestedString(w.get(kustomization("flux-system", name)).Object, "status", "lastAttemptedRevision"); last < "main@sha1:"+commit {
					t.Errorf("seed %d: %s is at %s, and Fetch gave %s", seed, name, last, commit)
				}
			}
		})
	}
}

func TestFluxApply(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(fluxWorld)
		others reference // what others ask too
		want   string
		within time.Duration
		logs   []string
	}{
		{name: "applied", within: 5 * time.Second},
		{name: "others ask too", others: theKustomization, within: 20 * time.Second},
		{name: "a health check is waited for", before: func(w fluxWorld) { w.health = 20 * time.Second }, within: 50 * time.Second},
		{name: "it never ends", before: func(w fluxWorld) { w.health = time.Hour }, within: 70 * time.Second,
			want: "waited 1m0s for Flux to apply what it has read: Kustomization flux-system/apps has not finished: Reconciliation in progress; run the command again, which goes on from here"},
		{name: "it cannot be applied", before: func(w fluxWorld) {
			w.applies = "Deployment/shop/shop-primary dry-run failed:\n spec.replicas: Invalid value"
		}, within: 10 * time.Second,
			want: "Flux's Kustomization flux-system/apps could not apply the commit: Deployment/shop/shop-primary dry-run failed: spec.replicas: Invalid value"},
		{name: "suspended", before: func(w fluxWorld) {
			w.patch(theKustomization, map[string]any{"spec": map[string]any{"suspend": true}})
		}, within: 5 * time.Second, logs: []string{"Kustomization flux-system/apps is suspended: it applies nothing until it is resumed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFluxWorld(2, aKustomization(), aGitRepository())
				ctx, stop := context.WithCancel(t.Context())
				defer func() { stop(); synctest.Wait() }()
				go w.sourceController(ctx, theRepository)
				go w.kustomizeController(ctx, theKustomization, theRepository, time.Hour)
				time.Sleep(5 * time.Second)
				if c.before != nil {
					c.before(w)
				}
				if c.others.name != "" {
					go w.ask(ctx, c.others)
				}
				controller, logs := controllerOf(t, Flux, w.client, Options{Timeout: time.Minute})
				started := time.Now()
				got := ""
				if err := controller.Apply(ctx, theApp()); err != nil {
					got = err.Error()
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
				if took := time.Since(started); took > c.within {
					t.Errorf("it took %s, want %s at most", took, c.within)
				}
				if diff := cmp.Diff(c.logs, logs()); diff != "" {
					t.Error(diff)
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				if written := w.written[len(w.written)-1].at; c.want == "" && c.logs == nil && written.Before(started) {
					t.Error("nothing was applied")
				}
			})
		})
	}
}

// TestFluxAnswerOfAnEarlierRequest: one that is put back in place of ours says nothing of what began before ours.
func TestFluxAnswerOfAnEarlierRequest(t *testing.T) {
	c, _ := controllerOf(t, Flux, fakeClient(aKustomization(func(o map[string]any) {
		o["status"] = map[string]any{"lastHandledReconcileAt": "earlier"}
	})), Options{})
	asked, err := c.(*flux).request(t.Context(), theKustomization)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		annotation, handled string
		want                bool
	}{
		{"earlier", "earlier", false},
		{"later", "earlier", false},
		{"last", "later", true},
		{"last", "last", true},
	} {
		live := aKustomization(func(o map[string]any) {
			o["metadata"].(map[string]any)["annotations"] = map[string]any{requestedAt: step.annotation}
			o["status"] = map[string]any{"lastHandledReconcileAt": step.handled}
		})
		if got := asked.answered(live); got != step.want {
			t.Errorf("%+v: %t", step, got)
		}
	}
}

// TestFluxConditions are the outcomes of a reconcile that the world above does not have.
func TestFluxConditions(t *testing.T) {
	for reason, want := range map[string]string{
		"HealthCheckFailed":   "done",
		"PruneFailed":         "done",
		"DependencyNotReady":  "goes on",
		"HealthCheckCanceled": "goes on",
		"BuildFailed":         "fails",
		"ArtifactFailed":      "fails",
	} {
		live := aKustomization(func(o map[string]any) {
			o["status"] = map[string]any{"lastHandledReconcileAt": "x", "conditions": []any{map[string]any{"type": "Ready", "status": "False", "reason": reason, "message": "says why"}}}
		})
		c, _ := controllerOf(t, Flux, fakeClient(), Options{})
		now := c.(*flux).tried(theKustomization, live, &question{tokens: map[string]bool{"x": true}})
		got := "goes on"
		switch {
		case now.done:
			got = "done"
		case now.failure != nil:
			got = "fails"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", reason, got, want)
		}
	}
}

// TestFluxAnswerOfAnOlderSpec: a branch that was changed in the GitRepository meanwhile is read first.
func TestFluxAnswerOfAnOlderSpec(t *testing.T) {
	live := aGitRepository(func(o map[string]any) {
		o["status"] = map[string]any{
			"lastHandledReconcileAt": "x", "observedGeneration": int64(1), "artifact": map[string]any{"revision": "main@sha1:1"},
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
		}
	})
	w := &fetch{asked: map[reference]*question{theRepository: {tokens: map[string]bool{"x": true}}}}
	for generation, want := range map[int64]string{1: "main@sha1:1", 2: ""} {
		live.SetGeneration(generation)
		if got, _, err := w.answer(theRepository, live); got != want || err != nil {
			t.Errorf("generation %d: %q, %v; want %q", generation, got, err, want)
		}
	}
}

func TestFluxCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := controllerOf(t, Flux, fakeClient(aKustomization(), aGitRepository()), Options{})
		ctx, stop := context.WithCancelCause(t.Context())
		go func() { time.Sleep(3 * time.Second); stop(errors.New("the job was canceled")) }()
		started := time.Now()
		_, err := c.Fetch(ctx, theApp())
		if diff := cmp.Diff("stopped while waiting for Flux to read the repository: the job was canceled", fmt.Sprint(err)); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(started); took != 3*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestFluxCheck(t *testing.T) {
	spec := func(fields ...string) func(map[string]any) { // key, value
		return func(o map[string]any) {
			for i := 0; i < len(fields); i += 2 {
				if err := unstructured.SetNestedField(o, fields[i+1], append([]string{"spec"}, strings.Split(fields[i], ".")...)...); err != nil {
					panic(err)
				}
			}
		}
	}
	suspend := func(o map[string]any) { o["spec"].(map[string]any)["suspend"] = true }
	notReady := func(o map[string]any) {
		o["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "False", "reason": "X", "message": "says why"}}}
	}
	named := func(name string) func(map[string]any) {
		return func(o map[string]any) { o["metadata"].(map[string]any)["name"] = name }
	}
	forbid := func(does, resource string) func(*clienttesting.Fake) {
		return func(f *clienttesting.Fake) {
			f.PrependReactor(does, resource, func(a clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(a.GetResource().GroupResource(), "x", errors.New(`User "crossbill" cannot `+does))
			})
		}
	}
	helm := byFlux("apps", "Deployment", "shop-primary", "")
	helm.SetLabels(map[string]string{"helm.toolkit.fluxcd.io/name": "shop", "helm.toolkit.fluxcd.io/namespace": "shop"})
	argo := byFlux("networking.istio.io", "VirtualService", "shop", "")
	argo.SetAnnotations(map[string]string{"argocd.argoproj.io/tracking-id": "shop:networking.istio.io/VirtualService:shop/shop"})
	once := byFlux("networking.istio.io", "VirtualService", "shop", "apps")
	once.SetAnnotations(map[string]string{"kustomize.toolkit.fluxcd.io/ssa": "IfNotPresent"})

	for _, c := range []struct {
		name    string
		objects []Object
		live    []*unstructured.Unstructured
		client  func(*clienttesting.Fake)
		options Options
		remarks []string
		want    string
		failure bool // the error is not one of input
	}{
		{name: "as it should be"},
		{name: "beside what nothing applies", objects: append(theApp(), byFlux("", "Service", "shop", ""))},
		{name: "no app yet", objects: []Object{}},
		{name: "branch by its full name", live: []*unstructured.Unstructured{aKustomization(), aGitRepository(spec("ref.name", "refs/heads/main", "ref.branch", "other"))}},
		{name: "the default branch", live: []*unstructured.Unstructured{aKustomization(), aGitRepository(func(o map[string]any) { delete(o["spec"].(map[string]any), "ref") })},
			want: "GitRepository flux-system/env: it follows branch master, and gitops.branch is main; name one branch in both"},
		{name: "a tag", live: []*unstructured.Unstructured{aKustomization(), aGitRepository(spec("ref.tag", "v1"))},
			want: "GitRepository flux-system/env: it follows tag v1, and gitops.branch is main; name one branch in both"},
		{name: "tags", live: []*unstructured.Unstructured{aKustomization(), aGitRepository(spec("ref.semver", "1.x", "ref.tag", "v1"))},
			want: "GitRepository flux-system/env: it follows tags 1.x, and gitops.branch is main; name one branch in both"},
		{name: "a commit", live: []*unstructured.Unstructured{aKustomization(), aGitRepository(spec("ref.commit", "abc"))},
			want: "GitRepository flux-system/env: it follows commit abc, and gitops.branch is main; name one branch in both"},
		{name: "not applied", objects: []Object{byFlux("apps", "Deployment", "shop-primary", "")},
			want: "Deployment shop/shop-primary: gitops.controller is flux, and nothing of it applies this object; put its manifest where a Kustomization applies it; without gitops.controller Crossbill releases it as nobody else's"},
		{name: "applied by Argo CD", objects: []Object{argo},
			want: "VirtualService shop/shop: gitops.controller is flux, and Argo CD's Application shop applies it; set gitops.controller: argocd"},
		{name: "applied by Helm", objects: []Object{helm},
			want: "Deployment shop/shop-primary: Flux's HelmRelease shop/shop applies it, and Crossbill cannot keep helm-controller from a live object: an upgrade of the chart would undo the release; let a Kustomization apply the app's manifests"},
		{name: "applied once", objects: []Object{once},
			remarks: []string{"Flux's Kustomization flux-system/apps applies no change of VirtualService shop/shop: it has the annotation kustomize.toolkit.fluxcd.io/ssa: IfNotPresent"}},
		{name: "no Kustomization", live: []*unstructured.Unstructured{},
			want: "Kustomization flux-system/apps: is not found, and the app's objects say that it applies them; create it again, or remove its labels and annotations from the objects if nothing applies them any more; if another cluster has it, let a controller in this one apply the app"},
		{name: "no Flux", client: func(f *clienttesting.Fake) {
			f.PrependReactor("get", "kustomizations", func(a clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewGenericServerResponse(404, "GET", a.GetResource().GroupResource(), "apps", "404 page not found", 0, true)
			})
		}, want: "Kustomization flux-system/apps: this cluster has no kustomizations.kustomize.toolkit.fluxcd.io: a controller in another cluster applies the app here, and cannot be asked from here; let a controller in this cluster apply the app, or remove the owner's labels and annotations if nothing applies it any more"},
		{name: "no source", live: []*unstructured.Unstructured{aKustomization()},
			want: "GitRepository flux-system/env: is not found, and the app's objects say that it applies them; create it again, or remove its labels and annotations from the objects if nothing applies them any more; if another cluster has it, let a controller in this one apply the app"},
		{name: "another kind of source", live: []*unstructured.Unstructured{aKustomization(spec("sourceRef.kind", "OCIRepository"))},
			want: "Kustomization flux-system/apps: it applies a source of kind OCIRepository, and a commit of Crossbill's reaches only what comes from a GitRepository; let its sourceRef name the GitRepository of gitops.repository"},
		{name: "may not read", client: forbid("get", "kustomizations"),
			want: "Kustomization flux-system/apps: Crossbill may not read or annotate it: kustomizations.kustomize.toolkit.fluxcd.io \"x\" is forbidden: User \"crossbill\" cannot get; give Crossbill's account get and patch on kustomizations.kustomize.toolkit.fluxcd.io in namespace flux-system; `crossbill gitops config` prints the Role"},
		{name: "may not ask", client: forbid("patch", "*"),
			want: "Kustomization flux-system/apps: Crossbill may not read or annotate it: kustomizations.kustomize.toolkit.fluxcd.io \"x\" is forbidden: User \"crossbill\" cannot patch; give Crossbill's account get and patch on kustomizations.kustomize.toolkit.fluxcd.io in namespace flux-system; `crossbill gitops config` prints the Role\n" +
				"GitRepository flux-system/env: Crossbill may not read or annotate it: gitrepositories.source.toolkit.fluxcd.io \"x\" is forbidden: User \"crossbill\" cannot patch; give Crossbill's account get and patch on gitrepositories.source.toolkit.fluxcd.io in namespace flux-system; `crossbill gitops config` prints the Role"},
		{name: "the API server does not answer", client: func(f *clienttesting.Fake) {
			f.PrependReactor("get", "gitrepositories", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewServiceUnavailable("etcd is electing")
			})
		}, want: "GitRepository flux-system/env: etcd is electing", failure: true},
		{name: "suspended", live: []*unstructured.Unstructured{aKustomization(suspend), aGitRepository(suspend)},
			want: "Kustomization flux-system/apps: it is suspended: what a promotion commits would not be applied; `flux resume kustomization apps --namespace flux-system`\n" +
				"GitRepository flux-system/env: it is suspended: what a promotion commits would not be read; `flux resume source git env --namespace flux-system`"},
		{name: "not ready", live: []*unstructured.Unstructured{aKustomization(notReady), aGitRepository(notReady)},
			remarks: []string{"Kustomization flux-system/apps is not ready: says why", "GitRepository flux-system/env is not ready: says why"}},
		{name: "only signed commits", live: []*unstructured.Unstructured{aKustomization(), aGitRepository(spec("verify.mode", "HEAD"))},
			want: "GitRepository flux-system/env: it accepts only signed commits (spec.verify), and Crossbill's are not signed: one of them would stop everything that comes from this repository; give a key as gitops.signingKeyFile, and its public half to the Secret of spec.verify"},
		{name: "signed commits", live: []*unstructured.Unstructured{aKustomization(), aGitRepository(spec("verify.mode", "HEAD"))}, options: Options{Signed: true}},
		{name: "the repository by another address", options: Options{Repository: "git@gitlab.internal:our-org/environment"}},
		{name: "another repository", options: Options{Repository: "https://gitlab.example.com/our-org/other.git"},
			remarks: []string{"GitRepository flux-system/env reads https://gitlab.example.com/our-org/environment.git, and gitops.repository is https://gitlab.example.com/our-org/other.git: if these are two repositories, no commit of Crossbill's arrives"}},
		{name: "two repositories", objects: append(theApp(), byFlux("", "Service", "shop", "second")),
			live: []*unstructured.Unstructured{
				aKustomization(), aGitRepository(),
				aKustomization(named("second"), spec("sourceRef.name", "second")), aGitRepository(named("second"), spec("url", "ssh://git@gitlab.example.com/our-org/other")),
			},
			want: "Kustomization flux-system/second: it applies ssh://git@gitlab.example.com/our-org/other, and another Kustomization applies objects of the same app from https://gitlab.example.com/our-org/environment.git; keep the app's manifests in one repository: one commit has to be the whole release"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.objects == nil {
				c.objects = theApp()
			}
			if c.live == nil {
				c.live = []*unstructured.Unstructured{aKustomization(), aGitRepository()}
			}
			client := fakeClient(c.live...)
			if c.client != nil {
				c.client(&client.Fake)
			}
			c.options.Branch = "main"
			controller, _ := controllerOf(t, Flux, client, c.options)
			remarks, err := controller.Check(t.Context(), c.objects)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.remarks, remarks); diff != "" {
				t.Error(diff)
			}
			if input := errors.As(err, new(*usererr.Error)); err != nil && input == c.failure {
				t.Errorf("%v is input: %v", err, input)
			}
			for _, action := range client.Actions() {
				_, reads := action.(clienttesting.GetActionImpl)
				if patch, ok := action.(clienttesting.PatchAction); !reads && (!ok || string(patch.GetPatch()) != "{}") {
					t.Errorf("it writes: %v", action)
				}
			}
		})
	}
}

func TestUnknownController(t *testing.T) {
	_, err := New("jenkins", fakeClient(), Options{})
	if diff := cmp.Diff(`gitops.controller: "jenkins" is not a controller that Crossbill knows; give flux or argocd`, fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}
}
