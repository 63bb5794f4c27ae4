package gitops

import (
	"context"
	"errors"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/environment/gittest"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

func shopImage(digit string) string {
	return "registry.example.com/our-org/shop@sha256:" + strings.Repeat(digit, 64)
}

// served is an environment repository with files, on Git's own server.
func served(t *testing.T, files map[string]string) (*Repository, *gittest.Repository) {
	t.Helper()
	root := t.TempDir()
	bare, err := gittest.Init(filepath.Join(root, "environment.git"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bare.Commit("First", gittest.Change{Files: files}); err != nil {
		t.Fatal(err)
	}
	backend, err := gittest.Server(root)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(backend)
	t.Cleanup(server.Close)
	git, err := environment.New(environment.Options{URL: server.URL + "/environment.git", Branch: "main"})
	if err != nil {
		t.Fatal(err)
	}
	return &Repository{Git: git, App: "shop", Folder: "apps/shop", Deployment: "shop-primary", Container: "app"}, bare
}

func shopFiles(image string) map[string]string {
	return map[string]string{
		"apps/shop/kustomization.yaml": "namespace: prod\nresources: [../base]\nimages:\n- name: shop # from the build\n  newName: registry.example.com/our-org/shop\n  digest: " + release.DigestOf(image) + "\n",
		"apps/base/kustomization.yaml": "resources: [deployment.yaml]\n",
		"apps/base/deployment.yaml":    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop-primary}\nspec:\n  template:\n    spec:\n      containers:\n      - {name: app, image: shop}\n",
		"values.yaml":                  "image: {digest: \"" + release.DigestOf(image) + "\"}\nwhole: " + image + "\n",
	}
}

func promotion() Change {
	return Change{From: shopImage("1"), To: shopImage("2"), Holds: func(context.Context) error { return nil }, Release: &release.Release{
		ID: "8db9a2d5989c", Image: shopImage("2"), Previous: shopImage("1"), Stage: release.StagePromoting, Commit: "3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d", PipelineURL: "https://gitlab.example.com/infra/-/pipelines/7",
		Verdict:   &release.Verdict{Outcome: release.Healthy, Reason: "1,234 requests"},
		Approvals: []release.Approval{{Kind: release.ApprovalVerified, By: "mona"}},
	}}
}

// TestCommit: what a promotion and its rollback leave in the repository, for a person to read.
func TestCommit(t *testing.T) {
	r, bare := served(t, shopFiles(shopImage("1")))
	head, err := r.Commit(t.Context(), promotion())
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.Commit(t.Context(), promotion())
	if err != nil || again != head {
		t.Errorf("the same again: %s, %v", again, err)
	}
	if image, commit, err := r.Image(t.Context()); err != nil || image != shopImage("2") || commit != head {
		t.Errorf("%s, %s, %v", image, commit, err)
	}
	back := promotion()
	back.From, back.To, back.Release.Stage, back.Release.Reason = back.To, back.From, release.StageRollingBack, "callers get errors"
	for range 2 {
		if _, err := r.Commit(t.Context(), back); err != nil {
			t.Fatal(err)
		}
	}
	back.Always = true
	if _, err := r.Commit(t.Context(), back); err != nil {
		t.Fatal(err)
	}
	got, err := bare.Git("log", "--reverse", "-p", "--format=== %B", "--unified=0", "main~3..main")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.SplitSeq(got, "\n") {
		if !strings.HasPrefix(line, "index ") && !strings.HasPrefix(line, "diff ") && !strings.HasPrefix(line, "@@") {
			lines = append(lines, strings.ReplaceAll(strings.ReplaceAll(line, strings.Repeat("1", 64), "1…"), strings.Repeat("2", 64), "2…"))
		}
	}
	const trailers = `Release: 8db9a2d5989c
Source-Commit: 3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d3f9a1c2d
Verdict: healthy (1,234 requests)
Pipeline: https://gitlab.example.com/infra/-/pipelines/7
Approved-By: mona
`
	want := `== shop: promote release 8db9a2d5989c

Primary runs registry.example.com/our-org/shop@sha256:2…
in place of registry.example.com/our-org/shop@sha256:1….

` + trailers + `

--- a/apps/shop/kustomization.yaml
+++ b/apps/shop/kustomization.yaml
-  digest: sha256:1…
+  digest: sha256:2…
== shop: roll back release 8db9a2d5989c

Primary runs registry.example.com/our-org/shop@sha256:1…
in place of registry.example.com/our-org/shop@sha256:2….

Why: callers get errors

` + trailers + `

--- a/apps/shop/kustomization.yaml
+++ b/apps/shop/kustomization.yaml
-  digest: sha256:2…
+  digest: sha256:1…
== shop: roll back release 8db9a2d5989c

Primary runs registry.example.com/our-org/shop@sha256:1…, as before the release.
This commit keeps out the push of a job that has lost its lock.

Why: callers get errors

` + strings.TrimSuffix(trailers, "\n")
	if diff := cmp.Diff(want, strings.Join(lines, "\n")); diff != "" {
		t.Error(diff)
	}
}

// TestCommitRefused: nothing is pushed when the lock is lost, or over somebody else's image.
func TestCommitRefused(t *testing.T) {
	r, bare := served(t, shopFiles(shopImage("3")))
	_, err := r.Commit(t.Context(), promotion())
	if wrong, ok := errors.AsType[*usererr.Error](err); !ok || !strings.Contains(wrong.Problem, "which is neither what it ran before release 8db9a2d5989c nor that") {
		t.Error(err)
	}
	lost := errors.New("the lock is lost")
	change := promotion()
	change.From, change.Holds = shopImage("3"), func(context.Context) error { return lost }
	if _, err := r.Commit(t.Context(), change); !errors.Is(err, lost) {
		t.Error(err)
	}
	if count, err := bare.Git("rev-list", "--count", "main"); count != "1" {
		t.Errorf("%s commits, %v", count, err)
	}
}

// TestCommitTag: a tag gives way to the digest, and a rollback puts it back as it was.
func TestCommitTag(t *testing.T) {
	files := shopFiles(shopImage("1"))
	files["apps/shop/kustomization.yaml"] = "resources: [../base]\nimages:\n- name: shop # from the build\n  newName: registry.example.com/our-org/shop\n  newTag: v1 # of June\n"
	r, bare := served(t, files)
	change := promotion()
	change.From = "registry.example.com/our-org/shop:v1"
	for range 2 {
		if _, err := r.Commit(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		change.From, change.To, change.Release.Stage = change.To, change.From, release.StageRollingBack
	}
	text, err := bare.Git("show", "--format=", "--unified=0", "main~1")
	if want := "-  newTag: v1 # of June\n+  digest: sha256:" + strings.Repeat("2", 64) + " # of June"; err != nil || !strings.HasSuffix(text, want) {
		t.Errorf("%s, %v", text, err)
	}
	if text, err := bare.Git("diff", "main~2", "main"); err != nil || text != "" {
		t.Errorf("%s, %v", text, err)
	}
}

// TestCommitBehindComponent: an image that something of the kustomization puts back is refused before a release, and in its commit.
func TestCommitBehindComponent(t *testing.T) {
	files := shopFiles(shopImage("1"))
	files["apps/shop/kustomization.yaml"] += "components: [../pinned]\n"
	files["apps/pinned/kustomization.yaml"] = "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches:\n- target: {kind: Deployment}\n  patch: |\n    - op: replace\n      path: /spec/template/spec/containers/0/image\n      value: " + shopImage("1") + "\n"
	r, _ := served(t, files)
	for name, err := range map[string]error{"Try": r.Try(t.Context(), promotion()), "Commit": func() error { _, err := r.Commit(t.Context(), promotion()); return err }()} {
		if wrong, ok := errors.AsType[*usererr.Error](err); !ok || !strings.Contains(wrong.Problem, "the folder still renders "+shopImage("1")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChartValue: the image of a chart is a value, a digest or the whole.
func TestChartValue(t *testing.T) {
	for _, at := range []string{"image.digest", "whole"} {
		r, bare := served(t, shopFiles(shopImage("1")))
		r.Value = "values.yaml:" + at
		if _, err := r.Commit(t.Context(), promotion()); err != nil {
			t.Fatal(err)
		}
		if image, _, err := r.Image(t.Context()); err != nil || !SameImage(image, shopImage("2")) || SameImage(image, shopImage("1")) {
			t.Errorf("%s: %s, %v", at, image, err)
		}
		if text, err := bare.Git("diff", "--shortstat", "main~1", "main"); text != "1 file changed, 1 insertion(+), 1 deletion(-)" {
			t.Errorf("%s: %s, %v", at, text, err)
		}
	}
}

// TestObjects: Git's manifests are rendered as the app's are.
func TestObjects(t *testing.T) {
	r, _ := served(t, shopFiles(shopImage("1")))
	r.Render = manifest.Source{}
	objects, err := r.Objects(t.Context())
	if err != nil || len(objects) != 1 || objects[0].Kind != "Deployment" || objects[0].Namespace != "prod" || !strings.Contains(string(objects[0].Raw), shopImage("1")) {
		t.Errorf("%v, %v", objects, err)
	}
	r.Folder = "apps/nowhere"
	_, err = r.Objects(t.Context())
	if err == nil || strings.Contains(err.Error(), os.TempDir()) {
		t.Error(err)
	}
}

// TestCommitTemplate: a template that changes is in the commit with the image, where the folder renders it from, and a rollback
// leaves what was there.
func TestCommitTemplate(t *testing.T) {
	files := shopFiles(shopImage("1"))
	files["apps/base/deployment.yaml"] = `apiVersion: apps/v1
kind: Deployment
metadata: {name: shop-primary}
spec:
  template:
    spec:
      containers:
      - name: app # the one
        image: shop
        env:
        - name: LEVEL # how much it says
          value: info
`
	r, bare := served(t, files)
	template := func(level string) *corev1.PodTemplateSpec {
		return &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "whatever", Env: []corev1.EnvVar{{Name: "LEVEL", Value: level}}}}}}
	}
	change := promotion()
	change.Template = template("debug")
	if err := r.Try(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if text, err := bare.Git("diff", "--stat", "--format=", "main~1", "main"); err != nil || !strings.Contains(text, "apps/base/deployment.yaml") || !strings.Contains(text, "2 files changed, 2 insertions(+), 2 deletions(-)") {
		t.Errorf("%s, %v", text, err)
	}
	change.From, change.To, change.Template, change.Release.Stage = change.To, change.From, template("info"), release.StageRollingBack
	if _, err := r.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if text, err := bare.Git("diff", "main~2", "main"); err != nil || text != "" {
		t.Errorf("%s, %v", text, err)
	}

	change = promotion()
	change.Template = template("debug")
	change.Template.Spec.Containers[0].Env = nil
	if err := r.Try(t.Context(), change); err == nil || !strings.Contains(err.Error(), "apps/base/deployment.yaml:11: spec.template.spec.containers.0.env has to be edited, and a comment in it would be lost") {
		t.Error(err)
	}
	if count, err := bare.Git("rev-list", "--count", "main"); count != "3" {
		t.Errorf("%s commits, %v", count, err)
	}
}

// TestCommitSidecar: the image of another container is a part of the template.
func TestCommitSidecar(t *testing.T) {
	files := shopFiles(shopImage("1"))
	files["apps/base/deployment.yaml"] = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop-primary}\nspec:\n  template:\n    spec:\n      containers:\n      - name: app\n        image: shop\n        env:\n        - name: LEVEL\n          value: info\n      - name: proxy\n        image: proxy:1\n"
	r, _ := served(t, files)
	change := promotion()
	change.Template = &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: shopImage("2"), Env: []corev1.EnvVar{{Name: "LEVEL", Value: "info"}}}, {Name: "proxy", Image: "proxy:2"}}}}
	if _, err := r.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	objects, err := r.Objects(t.Context())
	if err != nil || !strings.Contains(string(objects[0].Raw), "proxy:2") {
		t.Errorf("the sidecar's image is not in Git: %s", objects[0].Raw)
	}
}

// TestCommitOverOthers: a template that somebody else has committed since is not written over, and a rollback leaves it.
func TestCommitOverOthers(t *testing.T) {
	files := shopFiles(shopImage("1"))
	files["apps/base/deployment.yaml"] = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop-primary}\nspec:\n  template:\n    spec:\n      containers:\n      - name: app\n        image: shop\n        workingDir: /theirs\n"
	r, bare := served(t, files)
	template := func(dir string) *corev1.PodTemplateSpec {
		return &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "x", WorkingDir: dir}}}}
	}
	change := promotion()
	change.Was, change.Template = template("/old"), template("/new")
	if _, err := r.Commit(t.Context(), change); err == nil || !strings.Contains(err.Error(), "has another pod template than when release 8db9a2d5989c started") {
		t.Error(err)
	}
	change.Release.Stage = release.StageRollingBack
	if _, err := r.Commit(t.Context(), change); err != nil {
		t.Error(err)
	}
	if text, err := bare.Git("diff", "--name-only", "main~1", "main"); text != "apps/shop/kustomization.yaml" {
		t.Errorf("%s, %v", text, err)
	}
}

// TestAddNamed: what rendering a folder reads is found without reading the rest of the repository.
func TestAddNamed(t *testing.T) {
	tree, err := environment.TreeOf("1", map[string][]byte{
		"apps/shop/kustomization.yaml":         []byte("resources: [deployment.yaml, ../../bases/web, overlay, https://example.com/x, /etc]\ncomponents:\n- ../../bases/.common\n"),
		"apps/shop/deployment.yaml":            []byte("kind: Deployment\n"),
		"apps/shop/overlay/kustomization.yaml": []byte("resources: [../../../bases/deep]\n"),
		"apps/shop/unused/kustomization.yaml":  []byte("resources: [../../cart]\n"),
		"apps/cart/kustomization.yaml":         []byte("resources: [a.yaml]\n"),
		"bases/web/Kustomization":              []byte("bases: [../web, ../../apps/shop]\nresources: [../../../apps/cart]\n"),
		"bases/.common/kustomization.yml":      []byte("{"),
		"bases/deep/a.yaml":                    []byte("kind: A\n"),
		"bases/unused/a.yaml":                  []byte("kind: A\n"),
		"everything/kustomization.yaml":        []byte("resources: [..]\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for folder, want := range map[string][]string{
		"apps/shop":  {"apps/shop", "apps/shop/overlay", "bases/.common", "bases/deep", "bases/web"},
		"everything": {"", "everything"},
		"nowhere":    nil,
		"":           {""},
	} {
		folders := map[string]bool{}
		addNamed(tree, folder, folders)
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(folders))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", folder, diff)
		}
	}
}
