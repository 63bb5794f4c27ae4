package rollout_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// changedManifests are the app's, with pairs of text before and after in the Deployment.
func changedManifests(t *testing.T, pairs ...string) *manifest.Set {
	t.Helper()
	dir := t.TempDir()
	paths, err := filepath.Glob("../../k8s/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(path) == "deployment.yaml" {
			if !strings.Contains(string(text), pairs[0]) {
				t.Fatalf("no %q", pairs[0])
			}
			text = []byte(strings.NewReplacer(pairs...).Replace(string(text)))
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set, err := manifest.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const memoryLimit = "              memory: 192Mi\n"

// TestRefusedBeforeTheLock: what the API server would refuse of a release is found by a dry run: it is bad input that
// names the field, nothing is written, and the digest can be released once that is corrected (case 26).
func TestRefusedBeforeTheLock(t *testing.T) {
	for _, stage := range []string{"rest", "new"} {
		at(t, stage, func(w *world) {
			j := w.job("job")
			j.Manifests = changedManifests(t, memoryLimit, "              memory: 64Mi\n")
			_, err := j.Canary(w.Context(), wanted("2"))
			if refusal(err) != "input" || !strings.Contains(err.Error(), "spec.template.spec.containers[0].resources.requests: the API server refuses it") ||
				!strings.Contains(err.Error(), "memory limit of 64Mi") || !strings.Contains(err.Error(), "nothing was changed") {
				t.Errorf("%s: %v", stage, err)
			}
			if len(j.every) > 0 || len(w.did(j)) > 0 {
				t.Errorf("%s: it wrote %q", stage, j.every)
			}
			if _, err := w.job("again").Canary(w.Context(), wanted("2")); err != nil {
				t.Errorf("%s: %v", stage, err)
			}
		})
	}
}

// TestDryRunFaults: a dry run is tried again after a fault, and says what to do about a refusal by the cluster.
func TestDryRunFaults(t *testing.T) {
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	generic := func(code int, message string) error {
		return apierrors.NewGenericServerResponse(code, "patch", deployments, "x", message, 0, true)
	}
	for name, c := range map[string]struct {
		err  error
		once bool
		says string // "": the release goes on
	}{
		"an API server that is away":  {generic(http.StatusServiceUnavailable, ""), true, ""},
		"a conflict":                  {apierrors.NewConflict(deployments, "x", errors.New("modified")), true, ""},
		"a webhook without dry runs":  {apierrors.NewBadRequest(`admission webhook "w" does not support dry run`), false, ""},
		"a webhook that denies it":    {apierrors.NewForbidden(deployments, "x", errors.New(`admission webhook "w" denied the request: no`)), false, "correct the manifests, or what forbids it in the cluster; nothing was changed"},
		"an account that may not":     {apierrors.NewForbidden(deployments, "x", errors.New(`User "jane" cannot patch resource "deployments" in API group "apps"`)), false, "give this account the permission"},
		"an account that is unknown":  {apierrors.NewUnauthorized("no"), false, "check the credentials"},
		"a request that is too large": {apierrors.NewRequestEntityTooLargeError("limit is 3145728"), false, "correct the manifests"},
		"a bad request":               {apierrors.NewBadRequest("no"), false, "correct the manifests"},
	} {
		at(t, "rest", func(w *world) {
			j := w.job("job")
			failed := false
			j.before = func(r *http.Request) error {
				if r.URL.Query().Get("dryRun") == "" || c.once && failed {
					return nil
				}
				failed = true
				return c.err
			}
			_, err := j.Canary(w.Context(), wanted("2"))
			if c.says == "" && err != nil || c.says != "" && (refusal(err) != "input" || !strings.Contains(err.Error(), c.says) || len(j.every) > 0) {
				t.Errorf("%s: %v after %q, want %q", name, err, j.every, c.says)
			}
		})
	}
}

// setEnv does what `kubectl set env` does: it changes a track alone, as a field manager of its own.
func (w *world) setEnv(track release.Track, manager, value string) {
	w.Helper()
	patch := fmt.Sprintf(`[{"op":"add","path":"/spec/template/spec/containers/0/env/-","value":{"name":"EXTRA","value":%q}}]`, value)
	w.must(w.kube.AppsV1().Deployments(namespace).Patch(w.Context(), w.set.Name(track), types.JSONPatchType, []byte(patch), metav1.PatchOptions{FieldManager: manager}))
	w.wait()
}

// TestLeftovers: a field that somebody has set on primary alone would not be on the canary: the release is refused
// before it starts. What an older apply has left there is taken over, and goes when the release is promoted. After a
// promotion both tracks run the same pod template.
func TestLeftovers(t *testing.T) {
	for manager, says := range map[string]string{
		"kubectl-set":               `spec.template.spec.containers[name="app"].env[name="EXTRA"] (set by kubectl-set)`,
		"kubectl-edit":              "kubectl edit deployment/qwik-node-app-primary",
		"kubectl-client-side-apply": "",
	} {
		at(t, "rest", func(w *world) {
			w.observer.started = false
			w.setEnv(release.Primary, manager, "x")
			w.observer.started = true
			j := w.job("job")
			_, err := j.Canary(w.Context(), wanted("2"))
			if says != "" {
				if refusal(err) != "input" || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "nothing was changed") || len(j.every) > 0 {
					t.Errorf("%s: %v after %q", manager, err, j.every)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := envOf(w.deployment(release.Primary)); !slices.Contains(got, "EXTRA") {
				t.Errorf("primary has changed before the promotion: %q", got)
			}
			if *w.deployment(release.Primary).Spec.Replicas != 2 {
				t.Error("primary has another size")
			}
			w.must(judge(w.Context(), w.job("judge").Cluster, release.Healthy))
			if _, err := w.job("promote").Promote(w.Context()); err != nil {
				t.Fatal(err)
			}
			primary := w.deployment(release.Primary)
			if got := envOf(primary); slices.Contains(got, "EXTRA") || *primary.Spec.Replicas != 2 {
				t.Errorf("primary has %q in %d replicas", got, *primary.Spec.Replicas)
			}
		})
	}
}

// TestLeftoverDefault: a field that has left the manifest, and has a default, is one too.
func TestLeftoverDefault(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.observer.started = false
		w.must(w.kube.AppsV1().Deployments(namespace).Patch(w.Context(), w.set.Name(release.Primary), types.JSONPatchType,
			[]byte(`[{"op":"add","path":"/spec/template/spec/dnsPolicy","value":"Default"}]`), metav1.PatchOptions{FieldManager: "kubectl-edit"}))
		w.wait()
		w.observer.started = true
		if _, err := w.job("job").Canary(w.Context(), wanted("2")); refusal(err) != "input" || !strings.Contains(err.Error(), "spec.template.spec.dnsPolicy (set by kubectl-edit)") {
			t.Errorf("%v", err)
		}
	})
}

// TestRestartIsNoDifference: `kubectl rollout restart` changes nothing in what primary runs.
func TestRestartIsNoDifference(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.must(w.kube.AppsV1().Deployments(namespace).Patch(w.Context(), w.set.Name(release.Primary), types.MergePatchType,
			[]byte(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"2026-01-01T00:00:00Z"}}}}}`), metav1.PatchOptions{FieldManager: "kubectl-rollout"}))
		w.wait()
		if _, err := w.job("job").Canary(w.Context(), wanted("2")); err != nil {
			t.Errorf("%v", err)
		}
	})
}

// TestTemplateChangedMeanwhile: somebody changes one of the tracks after the canary was judged. Promotion does not
// start; one that is under way already ends with the way back.
func TestTemplateChangedMeanwhile(t *testing.T) {
	for _, track := range []release.Track{release.Primary, release.Canary} {
		at(t, "healthy", func(w *world) {
			w.observer.started = false
			w.setEnv(track, "kubectl-set", "x")
			w.observer.started = true
			j := w.job("job")
			if _, err := j.Promote(w.Context()); refusal(err) != "input" || !strings.Contains(err.Error(), `env[name="EXTRA"]`) || len(j.every) > 0 {
				t.Errorf("%s: %v after %q", track, err, j.every)
			}
			if _, err := w.job("back").Rollback(w.Context(), "test"); err != nil {
				t.Error(err)
			}
		})
	}
	at(t, "healthy", func(w *world) {
		j := w.job("job")
		done := false
		j.before = func(r *http.Request) error {
			if !done && r.Method == http.MethodPatch && r.URL.Query().Get("dryRun") == "" && strings.HasSuffix(r.URL.Path, "-primary") {
				done = true
				w.observer.started = false
				w.setEnv(release.Primary, "kubectl-set", "x")
				w.observer.started = true
			}
			return nil
		}
		_, err := j.Promote(w.Context())
		var notReady *rollout.NotReadyError
		if !errors.As(err, &notReady) || !strings.Contains(err.Error(), `not the one that the canary proved: .spec.template.spec.containers[name="app"].env[name="EXTRA"]`) {
			t.Errorf("%v", err)
		}
		if _, err := w.job("back").Rollback(w.Context(), "test"); err != nil {
			t.Error(err)
		}
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

func (w *world) deployment(track release.Track) *appsv1.Deployment {
	w.Helper()
	d, err := w.kube.AppsV1().Deployments(namespace).Get(w.Context(), w.set.Name(track), metav1.GetOptions{})
	w.must(d, err)
	return d
}

func envOf(d *appsv1.Deployment) (names []string) {
	for _, e := range d.Spec.Template.Spec.Containers[0].Env {
		names = append(names, e.Name)
	}
	return names
}

// TestUnfitDeployment: a Deployment that loses pods while it is replaced, or that never is, is refused before the lock
// with the fix (case 13); so is an image that somebody could change under a release.
func TestUnfitDeployment(t *testing.T) {
	const strategy = "    type: RollingUpdate\n    rollingUpdate:\n      maxUnavailable: 0 # capacity never drops while primary gets a new digest\n      maxSurge: 1\n"
	for name, c := range map[string]struct {
		pairs []string
		says  string
	}{
		"Recreate":       {[]string{strategy, "    type: Recreate\n"}, "deployment.yaml: Deployment qwik-node-app-primary: spec.strategy.type: Recreate ends every pod"},
		"maxUnavailable": {[]string{"maxUnavailable: 0", "maxUnavailable: 25%"}, "use type RollingUpdate with maxUnavailable: 0"},
		"paused":         {[]string{"  replicas: 2\n", "  replicas: 2\n  paused: true\n"}, "spec.paused: a paused Deployment never gets the release; remove it"},
		"a tag":          {[]string{"      containers:\n", "      containers:\n        - {name: proxy, image: envoyproxy/envoy:v1.30}\n"}, "canary.allowTags"},
	} {
		for _, stage := range []string{"rest", "new"} {
			at(t, stage, func(w *world) {
				j := w.job("job")
				j.Manifests = changedManifests(t, c.pairs...)
				if _, err := j.Canary(w.Context(), wanted("2")); refusal(err) != "input" || !strings.Contains(err.Error(), c.says) || len(j.every) > 0 {
					t.Errorf("%s at %s: %v after %q, want %q", name, stage, err, j.every, c.says)
				}
			})
		}
	}
	at(t, "rest", func(w *world) {
		j := w.job("job")
		j.Manifests = changedManifests(t, "      containers:\n", "      containers:\n        - {name: proxy, image: envoyproxy/envoy:v1.30}\n")
		j.AllowTags = []string{"docker.io/envoyproxy/*"}
		if _, err := j.Canary(w.Context(), wanted("2")); err != nil || !slices.ContainsFunc(j.logged, func(l string) bool { return strings.Contains(l, "envoyproxy/envoy:v1.30 has no digest") }) {
			t.Errorf("%v, %q", err, j.logged)
		}
	})
}

// TestLivePrimary: what somebody has set on the live primary is refused, where the release would not get through, or
// corrected by the release's own apply.
func TestLivePrimary(t *testing.T) {
	for _, stage := range []string{"rest", "healthy"} {
		at(t, stage, func(w *world) {
			w.patchDeployment(release.Primary, `[{"op":"add","path":"/spec/paused","value":true}]`)
			j := w.job("job")
			command := map[string]string{"rest": "canary", "healthy": "promote"}[stage]
			if _, err := commands[command](w.Context(), j); refusal(err) != "input" || !strings.Contains(err.Error(), "kubectl rollout resume deployment/qwik-node-app-primary") || len(j.every) > 0 {
				t.Errorf("%s: %v after %q", command, err, j.every)
			}
		})
	}
	at(t, "healthy", func(w *world) {
		w.patchDeployment(release.Primary, `[{"op":"replace","path":"/spec/strategy","value":{"type":"Recreate"}}]`)
		w.must(w.job("job").Promote(w.Context()))
		if s := w.deployment(release.Primary).Spec.Strategy; s.Type != appsv1.RollingUpdateDeploymentStrategyType || s.RollingUpdate.MaxUnavailable.String() != "0" {
			t.Errorf("primary is replaced by %v", s)
		}
	})
}

// TestRefusedMadeNothing: a release that the API server refuses after the lock, because a webhook knows no dry runs,
// has made no canary: it is not said to go on by itself, and its digest can be released again without more.
func TestRefusedMadeNothing(t *testing.T) {
	at(t, "rest", func(w *world) {
		j := w.job("job")
		j.before = func(r *http.Request) error {
			switch {
			case r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, "-canary"):
				return nil
			case r.URL.Query().Get("dryRun") != "":
				return apierrors.NewBadRequest(`admission webhook "w" does not support dry run`)
			}
			return apierrors.NewBadRequest(`admission webhook "w" denied the request: no`)
		}
		if _, err := j.Canary(w.Context(), wanted("2")); err == nil || !strings.Contains(err.Error(), "would again") || strings.Contains(err.Error(), "continues from here") {
			t.Errorf("%v", err)
		}
		w.must(w.job("back").Rollback(w.Context(), "refused"))
		if _, err := w.job("again").Canary(w.Context(), wanted("2")); err != nil {
			t.Errorf("%v", err)
		}
	})
}
