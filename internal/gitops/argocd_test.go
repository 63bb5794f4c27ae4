package gitops

import (
	"context"
	"errors"
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

// TestArgoFetchIsPastWhatWasBefore: whatever is under way when a commit is pushed, nothing older than the commit that Fetch
// gives is written after it. The schedules must be able to show it: a wait for the revision alone would not do.
func TestArgoFetchIsPastWhatWasBefore(t *testing.T) {
	notEnough := 0
	for seed := range uint64(120) {
		synctest.Test(t, func(t *testing.T) {
			w := newArgoWorld(seed, anApplication())
			ctx, stop := context.WithCancel(t.Context())
			defer func() { stop(); synctest.Wait() }()
			w.run(ctx)
			c, _ := controllerOf(t, ArgoCD, w.client, Options{Branch: "main"})
			time.Sleep(8 * time.Second)
			w.push() // somebody else's, which is being applied when ours is pushed
			w.patch(w.name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{refreshAnnotation: "normal"}}})
			time.Sleep(w.upTo(3 * time.Second))
			if seed%4 == 0 { // and asks again, at the wrong moment
				w.patch(w.name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{refreshAnnotation: "normal"}}})
				time.Sleep(w.upTo(300 * time.Millisecond))
			}
			mine := w.push()
			go func() {
				sleep(ctx, w.upTo(2*time.Second))
				if seed%3 == 0 {
					w.push()
				}
			}()
			commit, err := c.Fetch(ctx, theAppOfArgo())
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
		t.Error("no schedule has an older commit under way when the Application shows the new one: this proves nothing")
	}
}

func TestArgoFetch(t *testing.T) {
	for _, c := range []struct {
		name    string
		objects []Object
		live    *unstructured.Unstructured
		before  func(*argoWorld)
		stopped bool // Argo CD does not run
		want    string
		within  time.Duration
	}{
		{name: "a commit", objects: theAppOfArgo(), within: 10 * time.Second},
		{name: "nothing of Argo CD", objects: []Object{aDeployment("")}, want: "no commit"},
		{name: "not synced automatically", objects: theAppOfArgo(), live: anApplication(without("syncPolicy.automated")), within: 10 * time.Second},
		{name: "the branch cannot be read", objects: theAppOfArgo(), before: func(w *argoWorld) { w.broken = "authentication\nrequired" }, within: 15 * time.Second,
			want: "Argo CD's Application argocd/shop cannot be compared with Git: ComparisonError: Failed to load target state: authentication required"},
		{name: "it is read again", objects: theAppOfArgo(), within: 15 * time.Second, before: func(w *argoWorld) {
			w.broken = "try again"
			go func() {
				time.Sleep(time.Second)
				w.world.mu.Lock()
				defer w.world.mu.Unlock()
				w.broken = ""
			}()
		}},
		{name: "the controller does not run", objects: theAppOfArgo(), stopped: true, within: 70 * time.Second,
			want: "waited 1m0s for Argo CD to read the repository: Application argocd/shop has not answered; is Argo CD's application controller running?; run the command again, which goes on from here"},
		{name: "a sync does not end", objects: theAppOfArgo(), within: 70 * time.Second, before: func(w *argoWorld) {
			w.health = time.Hour
			w.push()
			w.patch(w.name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{refreshAnnotation: "normal"}}})
			time.Sleep(3 * time.Second)
		}, want: "waited 1m0s for Argo CD to read the repository: Application argocd/shop is still being synced to another commit: waiting for a hook; run the command again, which goes on from here"},
		{name: "skipped", objects: theAppOfArgo(), within: time.Second, before: func(w *argoWorld) {
			w.patch(w.name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{skipReconcile: "true"}}})
		}, want: "Application argocd/shop: it has the annotation argocd.argoproj.io/skip-reconcile, so Argo CD does not look at it; remove the annotation"},
		{name: "gone", objects: []Object{aDeployment("other")}, within: time.Second,
			want: "Application argocd/other: is not found, and the app's objects say that it applies them; create it again, or remove its labels and annotations from the objects if nothing applies them any more; if another cluster has it, let a controller in this one apply the app"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.live == nil {
					c.live = anApplication()
				}
				w := newArgoWorld(1, c.live)
				ctx, stop := context.WithCancel(t.Context())
				defer func() { stop(); synctest.Wait() }()
				if !c.stopped {
					w.run(ctx)
				}
				time.Sleep(8 * time.Second)
				if c.before != nil {
					c.before(w)
				}
				head := w.push()
				controller, _ := controllerOf(t, ArgoCD, w.client, Options{Branch: "main", Timeout: time.Minute})
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
			})
		})
	}
}

func TestArgoApply(t *testing.T) {
	for _, c := range []struct {
		name    string
		live    *unstructured.Unstructured
		before  func(*argoWorld)
		want    string
		within  time.Duration
		logs    []string
		applied bool
	}{
		{name: "applied", within: 10 * time.Second, applied: true},
		{name: "a commit that changes nothing", before: func(w *argoWorld) { w.unchanged = true }, within: 5 * time.Second},
		{name: "it cannot be applied", before: func(w *argoWorld) { w.applies = "one or more objects failed to apply,\nreason: spec.replicas" }, within: 20 * time.Second,
			want: "Argo CD's Application argocd/shop could not be synced: one or more objects failed to apply, reason: spec.replicas"},
		{name: "a sync does not end", before: func(w *argoWorld) { w.health = time.Hour }, within: 70 * time.Second,
			want: "waited 1m0s for Argo CD to sync: Application argocd/shop is being synced: waiting for a hook; run the command again, which goes on from here", applied: true},
		{name: "not synced automatically", live: anApplication(without("syncPolicy.automated")), within: 10 * time.Second,
			logs: []string{"Application argocd/shop is not synced automatically: what Git has is applied when somebody syncs it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.live == nil {
					c.live = anApplication()
				}
				w := newArgoWorld(1, c.live)
				ctx, stop := context.WithCancel(t.Context())
				defer func() { stop(); synctest.Wait() }()
				w.run(ctx)
				time.Sleep(8 * time.Second)
				if c.before != nil {
					c.before(w)
				}
				head := w.push()
				controller, logs := controllerOf(t, ArgoCD, w.client, Options{Branch: "main", Timeout: time.Minute})
				started := time.Now()
				got := ""
				if err := controller.Apply(ctx, theAppOfArgo()); err != nil {
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
				w.world.mu.Lock()
				defer w.world.mu.Unlock()
				if n := len(w.written); c.applied != (n > 0 && w.written[n-1].commit == head) {
					t.Errorf("applied %v", w.written)
				}
			})
		})
	}
}

// TestArgoAsksWhereNobodyHas: a comparison that somebody else has asked for between a read and the request would be taken for
// the answer.
func TestArgoAsksWhereNobodyHas(t *testing.T) {
	w := newWorld(1, anApplication())
	somebody := map[string]any{"metadata": map[string]any{"annotations": map[string]any{refreshAnnotation: "hard"}}}
	quicker := true
	w.client.PrependReactor("patch", "applications", func(clienttesting.Action) (bool, runtime.Object, error) {
		if quicker {
			quicker = false
			w.patch(theApplication, somebody)
		}
		return false, nil, nil
	})
	controller, _ := controllerOf(t, ArgoCD, w.client, Options{})
	r := controller.(*argo).refreshing()
	var got []string
	for range 4 {
		app, _, err := r.refresh(t.Context(), theApplication)
		if app != nil || err != nil {
			t.Fatalf("it is answered: %v, %v", app, err)
		}
		got = append(got, w.get(theApplication).GetAnnotations()[refreshAnnotation])
		if len(got) == 2 { // somebody's is answered
			w.patch(theApplication, map[string]any{"metadata": map[string]any{"annotations": map[string]any{refreshAnnotation: nil}}})
		}
	}
	if diff := cmp.Diff([]string{"hard", "hard", "normal", "normal"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestArgoRepeatsARequest: one that stays open is changed after a while, again and again.
func TestArgoRepeatsARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, anApplication())
		controller, _ := controllerOf(t, ArgoCD, w.client, Options{})
		r := controller.(*argo).refreshing()
		var got []string
		for range 5 {
			app, _, err := r.refresh(t.Context(), theApplication)
			if app != nil || err != nil {
				t.Fatalf("it is answered: %v, %v", app, err)
			}
			got = append(got, w.get(theApplication).GetAnnotations()[refreshAnnotation])
			time.Sleep(patience * 2 / 3)
		}
		if diff := cmp.Diff([]string{"normal", "normal", "normal", "hard", "hard"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestArgoAsksHardAfterAnError: an error is cached until then.
func TestArgoAsksHardAfterAnError(t *testing.T) {
	w := newWorld(1, anApplication())
	controller, _ := controllerOf(t, ArgoCD, w.client, Options{})
	r := controller.(*argo).refreshing()
	var got []string
	for range 3 {
		_, now, err := r.refresh(t.Context(), theApplication)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, w.get(theApplication).GetAnnotations()[refreshAnnotation], now.state)
		w.patch(theApplication, map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{refreshAnnotation: nil}},
			"status":   map[string]any{"conditions": []any{map[string]any{"type": "ComparisonError", "message": "cached"}}},
		})
	}
	if diff := cmp.Diff([]string{
		"normal", "Application argocd/shop has not answered", "", "Application argocd/shop: ComparisonError: cached", "hard", "Application argocd/shop has not answered",
	}, got); diff != "" {
		t.Error(diff)
	}
}

// TestArgoSynced are the ways in which an Application stands that the world above does not have.
func TestArgoSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name   string
			status map[string]any
			want   string // at once, and after a while
		}{
			{"a sync of this commit has left something out", map[string]any{"sync": map[string]any{"status": "OutOfSync", "revision": sha(1)}, "operationState": map[string]any{"phase": "Succeeded", "syncResult": map[string]any{"revision": sha(1)}}}, "done, done"},
			{"no sync is started", map[string]any{"sync": map[string]any{"status": "OutOfSync", "revision": sha(1)}}, "waits, done"},
			{"no sync is started after a failed one", map[string]any{"sync": map[string]any{"status": "OutOfSync", "revision": sha(1)}, "conditions": []any{map[string]any{"type": "SyncError", "message": "Failed last sync attempt"}}}, "fails, fails"},
			{"an earlier sync has failed, and this commit is applied", map[string]any{"sync": map[string]any{"status": "Synced", "revision": sha(1)}, "operationState": map[string]any{"phase": "Failed", "syncResult": map[string]any{"revision": sha(0)}}}, "done, done"},
		} {
			live := anApplication(func(o map[string]any) { o["status"] = c.status })
			controller, _ := controllerOf(t, ArgoCD, fakeClient(live), Options{})
			a := controller.(*argo)
			app, err := a.application(t.Context(), theApplication)
			if err != nil {
				t.Fatal(err)
			}
			idle := map[reference]time.Time{}
			var got []string
			for range 2 {
				now, err := a.synced(app, idle)
				switch {
				case err != nil:
					t.Fatal(err)
				case now.done:
					got = append(got, "done")
				case now.failure != nil:
					got = append(got, "fails")
				default:
					got = append(got, "waits")
				}
				time.Sleep(patience)
			}
			if diff := cmp.Diff(c.want, strings.Join(got, ", ")); diff != "" {
				t.Errorf("%s: %s", c.name, diff)
			}
		}
	})
}

// TestArgoApplying: a sync under way is named, and another one differently; one that has not started has read nothing.
func TestArgoApplying(t *testing.T) {
	status := func(phase, began string) func(map[string]any) {
		return func(o map[string]any) {
			o["status"] = map[string]any{"operationState": map[string]any{"phase": phase, "startedAt": began}}
		}
	}
	asked := func(o map[string]any) { o["operation"] = map[string]any{"sync": map[string]any{}} }
	const began = "2026-01-02T03:04:05Z"
	for _, c := range []struct {
		name string
		live *unstructured.Unstructured
		want string
	}{
		{"nothing", anApplication(), ""},
		{"a sync", anApplication(asked, status("Running", began)), "Application argocd/shop since " + began},
		{"one that has not started", anApplication(asked, status("Succeeded", began)), ""},
		{"one that has ended", anApplication(status("Succeeded", began)), ""},
	} {
		controller, _ := controllerOf(t, ArgoCD, fakeClient(c.live), Options{})
		if got, err := controller.Applying(t.Context(), theAppOfArgo()); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	controller, _ := controllerOf(t, ArgoCD, fakeClient(), Options{})
	if _, err := controller.Applying(t.Context(), theAppOfArgo()); err == nil {
		t.Error("no error without the Application")
	}
}

// set gives an Application's spec a value at a path with dots; without takes one away.
func set(at string, value any) func(map[string]any) {
	return func(o map[string]any) {
		if err := unstructured.SetNestedField(o, value, append([]string{"spec"}, strings.Split(at, ".")...)...); err != nil {
			panic(err)
		}
	}
}

func without(at string) func(map[string]any) {
	return func(o map[string]any) {
		unstructured.RemoveNestedField(o, append([]string{"spec"}, strings.Split(at, ".")...)...)
	}
}

// rules replaces the ignoreDifferences.
func rules(all ...map[string]any) func(map[string]any) {
	list := make([]any, 0, len(all))
	for _, rule := range all {
		list = append(list, rule)
	}
	return set("ignoreDifferences", list)
}

func rule(group, kind, name string, key string, values ...any) map[string]any {
	r := map[string]any{"group": group, "kind": kind, key: values}
	if name != "" {
		r["name"] = name
	}
	return r
}

var (
	ruleOfRoute = rule("networking.istio.io", "VirtualService", "", "managedFieldsManagers", "crossbill")
	ruleOfImage = rule("apps", "Deployment", "shop-primary", "jqPathExpressions", ".spec.template.spec.containers[].image")
)

const (
	putsWeightsBack = "VirtualService shop/shop: Application argocd/shop would put its weights back; add to its ignoreDifferences: {group: networking.istio.io, kind: VirtualService, name: shop, managedFieldsManagers: [crossbill]}"
	putsImageBack   = "Deployment shop/shop-primary: Application argocd/shop would put back what a release changes of it: /spec/template/spec/containers/0/image; add to its ignoreDifferences: {group: apps, kind: Deployment, name: shop-primary, jqPathExpressions: ['.spec.template.spec.containers[].image']}"
	copiesList      = "VirtualService shop/shop: Application argocd/shop ignores its weights by path: with RespectIgnoreDifferences=true Argo CD copies the whole list of routes from the cluster, and no change of it in Git is applied any more; remove jqPathExpressions and jsonPointers for it from the ignoreDifferences, and add: {group: networking.istio.io, kind: VirtualService, name: shop, managedFieldsManagers: [crossbill]}"
	hidesDeployment = "Deployment shop/shop-primary: Application argocd/shop ignores what the manager crossbill owns of it: changes of it in Git are not applied while Crossbill owns any of its fields, and it says Synced all the same; name the routes' kind in that rule of ignoreDifferences, and ignore the Deployment's image by jqPathExpressions"
	onlyHides       = "Application argocd/shop: its spec.syncPolicy.syncOptions lack RespectIgnoreDifferences=true: ignoreDifferences alone hide a difference, and the next sync of any commit undoes the release; add RespectIgnoreDifferences=true to them"
)

// TestArgoSettings is the table of settings that were tried with a release under load, and the forms that mean the same.
func TestArgoSettings(t *testing.T) {
	const weights = ".spec.http[].route[].weight"
	for _, c := range []struct {
		name    string
		rules   func(map[string]any)
		options []any // of syncOptions
		want    []string
		remarks []string
	}{
		{name: "nothing", rules: without("ignoreDifferences"), options: []any{}, want: []string{onlyHides, putsImageBack, putsWeightsBack}},
		{name: "jq weights and image", rules: rules(rule("networking.istio.io", "VirtualService", "", "jqPathExpressions", weights), ruleOfImage), options: []any{}, want: []string{onlyHides, copiesList}},
		{name: "the same, respected", rules: rules(rule("networking.istio.io", "VirtualService", "", "jqPathExpressions", weights), ruleOfImage), want: []string{copiesList}},
		{name: "the same, by server-side apply", rules: rules(rule("networking.istio.io", "VirtualService", "", "jqPathExpressions", weights), ruleOfImage), options: []any{respect, "ServerSideApply=true"}, want: []string{copiesList}},
		{name: "the manager, for everything", rules: rules(rule("*", "*", "", "managedFieldsManagers", "crossbill")), options: []any{respect, "ServerSideApply=true"}, want: []string{hidesDeployment, putsImageBack}},
		{name: "the one that works", rules: rules(ruleOfRoute, ruleOfImage)},

		{name: "not respected", rules: rules(ruleOfRoute, ruleOfImage), options: []any{"RespectIgnoreDifferences=false"}, want: []string{onlyHides}},
		{name: "the manager beside others", rules: rules(rule("networking.istio.io", "VirtualService", "", "managedFieldsManagers", "other", "crossbill"), ruleOfImage)},
		{name: "another manager", rules: rules(rule("networking.istio.io", "VirtualService", "", "managedFieldsManagers", "other"), ruleOfImage), want: []string{putsWeightsBack}},
		{name: "another object", rules: rules(rule("networking.istio.io", "VirtualService", "other", "managedFieldsManagers", "crossbill"), ruleOfImage), want: []string{putsWeightsBack}},
		{name: "another namespace", rules: rules(map[string]any{"group": "networking.istio.io", "kind": "VirtualService", "namespace": "other", "managedFieldsManagers": []any{"crossbill"}}, ruleOfImage), want: []string{putsWeightsBack}},
		{name: "another group", rules: rules(rule("", "VirtualService", "", "managedFieldsManagers", "crossbill"), ruleOfImage), want: []string{putsWeightsBack}},
		{name: "patterns", rules: rules(rule("*.istio.io", "Virtual*", "shop", "managedFieldsManagers", "crossbill"), rule("a{p,q}ps", "Deploy????", "", "jqPathExpressions", ".spec.template.spec.containers[].image"))},
		{name: "both ways", rules: rules(ruleOfRoute, rule("networking.istio.io", "VirtualService", "", "jsonPointers", "/spec/http/0/route/1/weight"), ruleOfImage), want: []string{copiesList}},
		{name: "the whole route", rules: rules(ruleOfRoute, rule("networking.istio.io", "VirtualService", "", "jqPathExpressions", ".spec.http"), ruleOfImage), want: []string{copiesList}},
		{name: "another field of the route", rules: rules(ruleOfRoute, rule("networking.istio.io", "VirtualService", "", "jqPathExpressions", ".spec.http[].timeout"), ruleOfImage),
			remarks: []string{"Application argocd/shop ignores /spec/http/0/timeout of VirtualService shop/shop: with RespectIgnoreDifferences=true the whole list around it is copied from the cluster, and no change of it in Git is applied"}},
		{name: "the first container", rules: rules(ruleOfRoute, rule("apps", "Deployment", "", "jqPathExpressions", ".spec.template.spec.containers[0].image"))},
		{name: "the second container", rules: rules(ruleOfRoute, rule("apps", "Deployment", "", "jqPathExpressions", ".spec.template.spec.containers[1].image")), want: []string{putsImageBack}},
		{name: "the container by name", rules: rules(ruleOfRoute, rule("apps", "Deployment", "", "jqPathExpressions", `.spec.template.spec.containers[] | select(.name == "app").image`))},
		{name: "a pointer", rules: rules(ruleOfRoute, rule("apps", "Deployment", "", "jsonPointers", "/spec/replicas", "/spec/template/spec/containers/0/image"))},
		{name: "not an expression", rules: rules(ruleOfRoute, rule("apps", "Deployment", "", "jqPathExpressions", ".spec..[")), want: []string{putsImageBack}},
		{name: "too much", rules: rules(ruleOfRoute, rule("apps", "Deployment", "", "jqPathExpressions", ".spec.template")),
			remarks: []string{"Application argocd/shop ignores all of /spec/template of Deployment shop/shop-primary: no change of it in Git is applied"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.options == nil {
				c.options = []any{respect}
			}
			controller, _ := controllerOf(t, ArgoCD, fakeClient(anApplication(c.rules, set("syncPolicy.syncOptions", c.options))), Options{Branch: "main"})
			remarks, err := controller.Check(t.Context(), theAppOfArgo())
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(strings.Join(c.want, "\n"), got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.remarks, remarks); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestArgoCheck(t *testing.T) {
	const repository = "https://gitlab.example.com/our-org/environment.git"
	sources := func(all ...map[string]any) func(map[string]any) {
		var list []any
		for _, source := range all {
			list = append(list, source)
		}
		return func(o map[string]any) {
			without("source")(o)
			set("sources", list)(o)
		}
	}
	git := map[string]any{"repoURL": repository, "targetRevision": "main"}
	chart := map[string]any{"repoURL": "https://charts.example.com", "chart": "shop", "targetRevision": "1.2.3"}
	forbid := func(does string) func(*clienttesting.Fake) {
		return func(f *clienttesting.Fake) {
			f.PrependReactor(does, "applications", func(a clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(a.GetResource().GroupResource(), "shop", errors.New(`User "crossbill" cannot `+does))
			})
		}
	}
	app := func(image string) any { return map[string]any{"name": "app", "image": image} }
	flux := byFlux("networking.istio.io", "VirtualService", "shop", "apps")
	oneSubset := byArgo("networking.istio.io", "DestinationRule", "shop", "shop", map[string]any{"spec": map[string]any{"subsets": []any{map[string]any{"name": "primary"}}}})
	twoSubsets := byArgo("networking.istio.io", "DestinationRule", "shop", "shop", map[string]any{"spec": map[string]any{"subsets": []any{map[string]any{"name": "primary"}, map[string]any{"name": "canary"}}}})

	const readsLedgers = "Application argocd/shop: it applies every YAML and JSON file of a folder that the ledgers are in, and a ledger is no manifest; give gitops.releases another folder, or let spec.source.path name that of the app"
	aDirectory := func(path string, recurse bool, change ...func(map[string]any)) *unstructured.Unstructured {
		return anApplication(append([]func(map[string]any){without("ignoreDifferences"), set("source.path", path), set("source.directory", map[string]any{"recurse": recurse}), func(o map[string]any) {
			o["status"] = map[string]any{"sourceType": "Directory"}
		}}, change...)...)
	}

	for _, c := range []struct {
		name    string
		objects []Object
		live    []*unstructured.Unstructured
		client  func(*clienttesting.Fake)
		options Options
		remarks []string
		want    string
		failure bool
	}{
		{name: "as it should be"},
		{name: "beside what nothing applies", objects: append(theAppOfArgo(), byArgo("", "Service", "shop", "", nil))},
		{name: "in another namespace", objects: []Object{aDeployment("teams_shop"), aVirtualService("teams_shop")},
			live: []*unstructured.Unstructured{anApplication(func(o map[string]any) { o["metadata"].(map[string]any)["namespace"] = "teams" })}},
		{name: "Argo CD in another namespace", options: Options{Namespace: "gitops"},
			live: []*unstructured.Unstructured{anApplication(func(o map[string]any) { o["metadata"].(map[string]any)["namespace"] = "gitops" })}},
		{name: "not applied", objects: []Object{aDeployment("")},
			want: "Deployment shop/shop-primary: gitops.controller is argocd, and nothing of it applies this object; put its manifest where an Application applies it; without gitops.controller Crossbill releases it as nobody else's"},
		{name: "applied by Flux", objects: []Object{flux},
			want: "VirtualService shop/shop: gitops.controller is argocd, and Flux's Kustomization flux-system/apps applies it; set gitops.controller: flux"},
		{name: "no Application", live: []*unstructured.Unstructured{},
			want: "Application argocd/shop: is not found, and the app's objects say that it applies them; create it again, or remove its labels and annotations from the objects if nothing applies them any more; if another cluster has it, let a controller in this one apply the app"},
		{name: "no Argo CD", client: func(f *clienttesting.Fake) {
			f.PrependReactor("get", "applications", func(a clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewGenericServerResponse(404, "GET", a.GetResource().GroupResource(), "shop", "404 page not found", 0, true)
			})
		}, want: "Application argocd/shop: this cluster has no applications.argoproj.io: a controller in another cluster applies the app here, and cannot be asked from here; let a controller in this cluster apply the app, or remove the owner's labels and annotations if nothing applies it any more"},
		{name: "may not read", client: forbid("get"),
			want: "Application argocd/shop: Crossbill may not read or annotate it: applications.argoproj.io \"shop\" is forbidden: User \"crossbill\" cannot get; give Crossbill's account get and patch on applications.argoproj.io in namespace argocd; `crossbill gitops config` prints the Role"},
		{name: "may not ask", client: forbid("patch"),
			want: "Application argocd/shop: Crossbill may not read or annotate it: applications.argoproj.io \"shop\" is forbidden: User \"crossbill\" cannot patch; give Crossbill's account get and patch on applications.argoproj.io in namespace argocd; `crossbill gitops config` prints the Role"},
		{name: "the API server does not answer", client: func(f *clienttesting.Fake) {
			f.PrependReactor("get", "applications", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewServiceUnavailable("etcd is electing")
			})
		}, want: "Application argocd/shop: etcd is electing", failure: true},
		{name: "skipped", live: []*unstructured.Unstructured{anApplication(func(o map[string]any) {
			o["metadata"].(map[string]any)["annotations"] = map[string]any{skipReconcile: "true"}
		})},
			want: "Application argocd/shop: it has the annotation argocd.argoproj.io/skip-reconcile: what a promotion commits would not be applied; remove the annotation"},
		{name: "not synced automatically", live: []*unstructured.Unstructured{anApplication(without("syncPolicy.automated"))},
			remarks: []string{"Application argocd/shop is not synced automatically: what a promotion commits is applied when somebody syncs it"}},
		{name: "not synced automatically, and reset by a sync", live: []*unstructured.Unstructured{anApplication(without("syncPolicy.automated"), rules(ruleOfImage))}, want: putsWeightsBack,
			remarks: []string{"Application argocd/shop is not synced automatically: what a promotion commits is applied when somebody syncs it"}},
		{name: "automation turned off", live: []*unstructured.Unstructured{anApplication(set("syncPolicy.automated.enabled", false))},
			remarks: []string{"Application argocd/shop is not synced automatically: what a promotion commits is applied when somebody syncs it"}},
		{name: "it says what is wrong", live: []*unstructured.Unstructured{anApplication(func(o map[string]any) {
			o["status"] = map[string]any{"conditions": []any{map[string]any{"type": "ComparisonError", "message": "no such\npath"}}}
		})}, remarks: []string{"Application argocd/shop: ComparisonError: no such path"}},
		{name: "another branch", live: []*unstructured.Unstructured{anApplication(set("source.targetRevision", "v1.0"))},
			want: "Application argocd/shop: it follows v1.0, and gitops.branch is main; name one branch in both"},
		{name: "the branch by its full name", live: []*unstructured.Unstructured{anApplication(set("source.targetRevision", "refs/heads/main"))}},
		{name: "the default branch", live: []*unstructured.Unstructured{anApplication(set("source.targetRevision", "HEAD"))},
			remarks: []string{"Application argocd/shop follows the default branch of " + repository + ": releases need that to be main"}},
		{name: "another repository", options: Options{Repository: "git@gitlab.example.com:our-org/other"},
			remarks: []string{"Application argocd/shop reads " + repository + ", and gitops.repository is git@gitlab.example.com:our-org/other: if these are two repositories, no commit of Crossbill's arrives"}},
		{name: "a chart", live: []*unstructured.Unstructured{anApplication(func(o map[string]any) { o["spec"].(map[string]any)["source"] = chart })},
			want: "Application argocd/shop: its source is a chart or an OCI artifact, which no commit changes; give it the branch of gitops.repository as its source"},
		{name: "a chart with values from Git", options: Options{Repository: repository}, live: []*unstructured.Unstructured{anApplication(sources(chart, git))}},
		{name: "several sources, and which is not known", live: []*unstructured.Unstructured{anApplication(sources(git, git))},
			want: "Application argocd/shop: it has several sources, and not exactly one of them is gitops.repository; name the repository once among its sources, as gitops.repository has it"},
		{name: "the repository twice", options: Options{Repository: repository}, live: []*unstructured.Unstructured{anApplication(sources(git, git))},
			want: "Application argocd/shop: it has several sources, and not exactly one of them is gitops.repository; name the repository once among its sources, as gitops.repository has it"},
		{name: "one of several sources", live: []*unstructured.Unstructured{anApplication(sources(git))}},
		{name: "a hydrator", live: []*unstructured.Unstructured{anApplication(set("sourceHydrator", map[string]any{"drySource": map[string]any{}}))},
			want: "Application argocd/shop: it applies what its sourceHydrator writes, and Crossbill cannot know when a commit has come through that; give it a source that is the branch of gitops.repository itself"},
		{name: "made by an ApplicationSet", live: []*unstructured.Unstructured{anApplication(rules(ruleOfImage), func(o map[string]any) {
			o["metadata"].(map[string]any)["ownerReferences"] = []any{map[string]any{"apiVersion": "argoproj.io/v1alpha1", "kind": "ApplicationSet", "name": "shops", "uid": "1"}}
		})}, want: putsWeightsBack + ", where the Application comes from: ApplicationSet argocd/shops"},
		{name: "an app of apps", live: []*unstructured.Unstructured{anApplication(rules(ruleOfImage), func(o map[string]any) {
			o["metadata"].(map[string]any)["annotations"] = map[string]any{trackingID: "root:argoproj.io/Application:argocd/shop"}
		})}, want: putsWeightsBack + ", where the Application comes from: Argo CD's Application root"},
		{name: "an init container of the app, and a sidecar", objects: []Object{
			byArgo("apps", "Deployment", "shop-primary", "shop", map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
				"containers": []any{app("registry.example.com:5000/shop:v1@sha256:1"), app("registry.example.com/proxy@sha256:2")}, "initContainers": []any{app("registry.example.com:5000/shop@sha256:1")},
			}}}}),
		}, want: strings.NewReplacer("containers/0/image", "initContainers/0/image", ".containers[]", ".initContainers[]").Replace(putsImageBack)},
		{name: "two containers", live: []*unstructured.Unstructured{anApplication(rules(ruleOfRoute))}, objects: []Object{
			aDeployment("shop", map[string]any{"name": "proxy", "image": "registry.example.com/proxy@sha256:2"}, app("registry.example.com/shop@sha256:1")),
		}, want: strings.NewReplacer("containers/0/image", "containers/0/image", "'.spec.template.spec.containers[].image'", `'.spec.template.spec.containers[] | select(.name == "proxy") | .image'`).Replace(putsImageBack)},
		{name: "what the object names", objects: []Object{{Group: "apps", Kind: "Deployment", Object: aDeployment("shop").Object, Paths: []string{"/spec/replicas"}}},
			want: "Deployment shop/shop-primary: Application argocd/shop would put back what a release changes of it: /spec/replicas; add to its ignoreDifferences: {group: apps, kind: Deployment, name: shop-primary, jqPathExpressions: ['.spec.replicas']}"},
		{name: "a subset is missing", objects: []Object{oneSubset},
			want: "DestinationRule shop/shop: Application argocd/shop would remove the subset that a release adds to it; write both subsets into Git, or add to its ignoreDifferences: {group: networking.istio.io, kind: DestinationRule, name: shop, managedFieldsManagers: [crossbill]}"},
		{name: "both subsets", objects: []Object{twoSubsets}},
		{name: "by commits", options: Options{Ledgers: "releases"}, live: []*unstructured.Unstructured{anApplication(without("ignoreDifferences"))}},
		{name: "by commits, without prune", options: Options{Ledgers: "releases"}, live: []*unstructured.Unstructured{anApplication(without("syncPolicy.automated.prune"), without("ignoreDifferences"))},
			want: "Application argocd/shop: it is not synced automatically, with prune: the steps of a release would not be applied; set spec.syncPolicy.automated: {prune: true}"},
		{name: "by commits, and they are ignored", options: Options{Ledgers: "releases"}, objects: []Object{{Group: "apps", Kind: "Deployment", Object: aDeployment("shop").Object, Paths: []string{"/spec/template/spec/containers/0/image"}}},
			want: "Deployment shop/shop-primary: Application argocd/shop ignores /spec/template/spec/containers/0/image of it: with RespectIgnoreDifferences=true no commit of a release to it is applied; remove that from its ignoreDifferences"},
		{name: "ledgers beside the app's folder", options: Options{Ledgers: "releases"}, live: []*unstructured.Unstructured{aDirectory("apps/shop", true)}},
		{name: "ledgers below the app's folder, which is read alone", options: Options{Ledgers: "releases"}, live: []*unstructured.Unstructured{aDirectory(".", false)}},
		{name: "ledgers in a folder whose name begins like the app's", options: Options{Ledgers: "releases-of-shop"}, live: []*unstructured.Unstructured{aDirectory("releases", true)}},
		{name: "ledgers below the app's folder", options: Options{Ledgers: "shop/releases"}, live: []*unstructured.Unstructured{aDirectory("shop", true)}, want: readsLedgers},
		{name: "ledgers below the root", options: Options{Ledgers: "releases"}, live: []*unstructured.Unstructured{aDirectory(".", true)}, want: readsLedgers},
		{name: "ledgers in the app's folder", options: Options{Ledgers: "shop"}, live: []*unstructured.Unstructured{aDirectory("shop", false)}, want: readsLedgers},
		{name: "ledgers below a kustomization", options: Options{Ledgers: "shop/releases"}, live: []*unstructured.Unstructured{aDirectory("shop", true, func(o map[string]any) {
			o["status"].(map[string]any)["sourceType"] = "Kustomize"
		})}},
		{name: "writes beside a directory", live: []*unstructured.Unstructured{aDirectory(".", true, rules(ruleOfRoute, ruleOfImage))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.objects == nil {
				c.objects = theAppOfArgo()
			}
			if c.live == nil {
				c.live = []*unstructured.Unstructured{anApplication()}
			}
			client := fakeClient(c.live...)
			if c.client != nil {
				c.client(&client.Fake)
			}
			c.options.Branch = "main"
			controller, _ := controllerOf(t, ArgoCD, client, c.options)
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
		})
	}
}
