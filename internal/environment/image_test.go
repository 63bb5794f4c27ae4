package environment

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/usererr"
)

const (
	digest     = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	repository = "registry.example.com/our-org/shop"
)

// manifestOf is a Deployment as people write it.
func manifestOf(name, image string) string {
	return `# the app
apiVersion: v1
kind: Service
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata:
    name:   ` + name + `   # aligned
spec:
    template:
        spec:
            initContainers:
            - {name: migrate,  image: ` + image + `}
            - {name: wait, image: busybox}
            containers:
            - name: app
              image:   "` + image + `"   # which one
            - image: proxy:1
              name: proxy
`
}

func TestSetImage(t *testing.T) {
	kustomization := func(images string, rest ...string) string {
		return "resources:\n- deployment.yaml\n" + strings.Join(rest, "") + "images:\n" + images
	}
	complete := "-   name: shop\n    newName: old.example.com/shop # moved\n    digest: 'sha256:00'\n"
	for name, test := range map[string]struct {
		files     map[string]string
		dir       string
		deploy    string
		container string
		want      map[string]string // file to what it has then
		field     string            // of the error
		problem   string
	}{
		"a plain folder": {
			files: map[string]string{"apps/shop/deployment.yaml": manifestOf("shop-primary", "old:1"), "apps/shop/other.yaml": "kind: ConfigMap\n", "apps/shop/README.md": "Deployment: {"},
			dir:   "apps/shop", container: "app",
			want: map[string]string{"apps/shop/deployment.yaml": strings.ReplaceAll(manifestOf("shop-primary", "old:1"), "old:1", repository+"@"+digest)},
		},
		"below a folder": {
			files: map[string]string{"apps/shop/deep/deployment.yml": manifestOf("shop-primary", "old:1"), "apps/b/deployment.yaml": manifestOf("b", "old:1")},
			dir:   "apps", container: "app",
			want: map[string]string{"apps/shop/deep/deployment.yml": strings.ReplaceAll(manifestOf("shop-primary", "old:1"), "old:1", repository+"@"+digest)},
		},
		"a kustomization": {
			files: map[string]string{"shop/kustomization.yaml": kustomization(complete), "shop/deployment.yaml": manifestOf("shop-primary", "shop:1")},
			dir:   "shop", container: "app",
			want: map[string]string{"shop/kustomization.yaml": kustomization("-   name: shop\n    newName: " + repository + " # moved\n    digest: '" + digest + "'\n")},
		},
		"a kustomization whose name is the repository": {
			files: map[string]string{"shop/kustomization.yml": kustomization("- {name: " + repository + ", digest: \"sha256:00\"}\n"), "shop/deployment.yaml": manifestOf("shop-primary", repository+":1")},
			dir:   "shop", container: "app",
			want: map[string]string{"shop/kustomization.yml": kustomization("- {name: " + repository + ", digest: \"" + digest + "\"}\n")},
		},
		"an overlay decides": {
			files: map[string]string{
				"overlays/production/kustomization.yaml": "resources: [../../base]\nnamePrefix: eu-\nimages:\n- name: old.example.com/shop\n  newName: x\n  digest: y\n",
				"base/kustomization.yaml":                kustomization(complete), "base/deployment.yaml": manifestOf("shop-primary", "shop"),
			},
			dir: "overlays/production", deploy: "eu-shop-primary", container: "app",
			want: map[string]string{"overlays/production/kustomization.yaml": "resources: [../../base]\nnamePrefix: eu-\nimages:\n- name: old.example.com/shop\n  newName: " + repository + "\n  digest: " + digest + "\n"},
		},
		"the base decides": {
			files: map[string]string{
				"overlays/production/kustomization.yaml": "resources: [../../base]\nnameSuffix: -eu\nimages: [{name: another, newTag: v1}]\n",
				"base/kustomization.yaml":                kustomization(complete), "base/deployment.yaml": manifestOf("shop-primary", "shop"),
			},
			dir: "overlays/production", deploy: "shop-primary-eu", container: "app",
			want: map[string]string{"base/kustomization.yaml": kustomization("-   name: shop\n    newName: " + repository + " # moved\n    digest: '" + digest + "'\n")},
		},
		"a kustomization that does not decide": {
			files: map[string]string{"shop/kustomization.yaml": kustomization("- {name: another, newTag: v1}\n"), "shop/deployment.yaml": manifestOf("shop-primary", "old:1")},
			dir:   "shop", container: "app",
			want: map[string]string{"shop/deployment.yaml": strings.ReplaceAll(manifestOf("shop-primary", "old:1"), "old:1", repository+"@"+digest)},
		},
		"the only container": {
			files: map[string]string{"d.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop-primary}\nspec: {template: {spec: {containers: [{name: x, image: y}]}}}\n"},
			want:  map[string]string{"d.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop-primary}\nspec: {template: {spec: {containers: [{name: x, image: " + repository + "@" + digest + "}]}}}\n"},
		},
		"it is there": {
			files: map[string]string{"d.yaml": manifestOf("shop-primary", repository+"@"+digest)}, container: "app", want: map[string]string{},
		},

		"newTag": {
			files: map[string]string{"kustomization.yaml": kustomization("- name: shop # the app\n  newName: " + repository + "\n  newTag: \"v1\" # of June\n"), "deployment.yaml": manifestOf("shop-primary", "shop")}, container: "app",
			want: map[string]string{"kustomization.yaml": kustomization("- name: shop # the app\n  newName: " + repository + "\n  digest: \"" + digest + "\" # of June\n")},
		},
		"newTag in braces": {
			files: map[string]string{"kustomization.yaml": kustomization("- {newTag: v1, name: " + repository + "}\n"), "deployment.yaml": manifestOf("shop-primary", repository)}, container: "app",
			want: map[string]string{"kustomization.yaml": kustomization("- {digest: " + digest + ", name: " + repository + "}\n")},
		},
		"newTag and digest":  {files: map[string]string{"kustomization.yaml": kustomization("- {name: shop, newName: x, newTag: v1, digest: x}\n"), "deployment.yaml": manifestOf("shop-primary", "shop")}, container: "app", field: "kustomization.yaml:4", problem: "newTag beside its digest"},
		"newTag, no newName": {files: map[string]string{"kustomization.yaml": kustomization("- {name: shop, newTag: v1}\n"), "deployment.yaml": manifestOf("shop-primary", "shop")}, container: "app", field: "kustomization.yaml:4", problem: "no newName"},
		"no digest":          {files: map[string]string{"kustomization.yaml": kustomization("- {name: shop, newName: x}\n"), "deployment.yaml": manifestOf("shop-primary", "shop")}, container: "app", field: "kustomization.yaml:4", problem: "no digest"},
		"no newName":         {files: map[string]string{"kustomization.yaml": kustomization("- {name: shop, digest: x}\n"), "deployment.yaml": manifestOf("shop-primary", "shop")}, container: "app", field: "kustomization.yaml:4", problem: "no newName"},
		"two entries":        {files: map[string]string{"kustomization.yaml": kustomization(complete + complete), "deployment.yaml": manifestOf("shop-primary", "shop")}, container: "app", field: "kustomization.yaml:7", problem: "before this one too"},
		"a patch":            {files: map[string]string{"kustomization.yaml": kustomization("- {name: another, newTag: v1}\n", "patches:\n- path: p.yaml\n"), "deployment.yaml": manifestOf("shop-primary", "shop"), "p.yaml": "image: z"}, container: "app", field: "kustomization.yaml", problem: "patch"},
		"no Deployment":      {files: map[string]string{"d.yaml": manifestOf("other", "shop")}, container: "app", field: "gitops.path", problem: "has no Deployment shop-primary"},
		"no container":       {files: map[string]string{"d.yaml": manifestOf("shop-primary", "shop")}, container: "web", field: "d.yaml", problem: "no container web"},
		"which container":    {files: map[string]string{"d.yaml": manifestOf("shop-primary", "shop")}, field: "d.yaml", problem: "several containers"},
		"two Deployments":    {files: map[string]string{"d.yaml": manifestOf("shop-primary", "shop"), "e.yaml": manifestOf("shop-primary", "shop")}, container: "app", field: "e.yaml", problem: "d.yaml too"},
		"no folder":          {files: map[string]string{"d.yaml": "x"}, dir: "apps", field: "gitops.path", problem: `no folder "apps"`},
		"a chart":            {files: map[string]string{"templates/d.yaml": "kind: Deployment\n{{ if }}\n- ["}, field: "templates/d.yaml", problem: "not YAML"},
		"a shared image":     {files: map[string]string{"d.yaml": "x: &i old\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop-primary}\nspec: {template: {spec: {containers: [{name: x, image: *i}]}}}\n"}, field: "d.yaml:5", problem: "without losing something"},
		"two kustomization":  {files: map[string]string{"kustomization.yaml": "{}", "kustomization.yml": "{}"}, field: "kustomization.yml", problem: "too"},
		"a cycle":            {files: map[string]string{"a/kustomization.yaml": "resources: [../a, ../../elsewhere, https://example.com/x, nowhere.yaml]\n"}, dir: "a", field: "gitops.path", problem: "has no Deployment"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := treeOf(t, test.files)
			if test.deploy == "" {
				test.deploy = "shop-primary"
			}
			err := SetImage(tree, test.dir, test.deploy, test.container, repository+":v1@"+digest)
			if test.field != "" {
				wrong, ok := errors.AsType[*usererr.Error](err)
				if !ok || wrong.Field != test.field || !strings.Contains(wrong.Problem, test.problem) || wrong.Fix == "" {
					t.Errorf("got %v\nwant %s: …%s…", err, test.field, test.problem)
				}
				return
			}
			want := map[string]string{}
			maps.Copy(want, test.files)
			maps.Copy(want, test.want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, filesOf(t, tree)); diff != "" {
				t.Error(diff)
			}
			if got, err := Image(tree, test.dir, test.deploy, test.container); err != nil || got != repository+"@"+digest {
				t.Errorf("afterwards it is %q, %v", got, err)
			}
		})
	}
	if err := SetImage(treeOf(t, map[string]string{"a": "b"}), "", "x", "", "shop"); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("an image without a digest: %v", err)
	}
}

// TestSetImageBack: what was by tag is by tag again, byte for byte.
func TestSetImageBack(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a newTag": {
			"kustomization.yaml": "resources: [deployment.yaml]\nimages:\n- name: shop\n  newName: " + repository + "\n  newTag: \"1.27\" # of June\n",
			"deployment.yaml":    manifestOf("shop-primary", "shop"),
		},
		"a newTag in braces": {
			"kustomization.yaml": "resources: [deployment.yaml]\nimages: [{newTag: '1.27', name: " + repository + "}]\n",
			"deployment.yaml":    manifestOf("shop-primary", repository),
		},
		"a plain folder": {"deployment.yaml": manifestOf("shop-primary", repository+":1.27")},
	} {
		t.Run(name, func(t *testing.T) {
			tree := treeOf(t, files)
			for _, image := range []string{repository + "@" + digest, repository + ":1.27"} {
				if err := SetImage(tree, "", "shop-primary", "app", image); err != nil {
					t.Fatal(err)
				}
				if got, err := Image(tree, "", "shop-primary", "app"); err != nil || got != image {
					t.Errorf("it is %s, %v; want %s", got, err, image)
				}
			}
			if diff := cmp.Diff(files, filesOf(t, tree)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestImage: what a kustomization makes of an image, as kustomize does (api/image and the builtin ImageTagTransformer of v0.21).
func TestImage(t *testing.T) {
	for entry, want := range map[string]string{
		"": "shop:1",
		"images: [{name: shop, newName: other, digest: 'sha256:00'}]": "other@sha256:00",
		"images: [{name: shop, newTag: '2'}]":                         "shop:2",
		"images: [{name: shop, newName: other}]":                      "other:1",
		"images: [{name: elsewhere, newTag: '2'}]":                    "shop:1",
	} {
		tree := treeOf(t, map[string]string{"kustomization.yaml": "resources: [deployment.yaml]\n" + entry + "\n", "deployment.yaml": manifestOf("shop-primary", "shop:1")})
		if got, err := Image(tree, ".", "shop-primary", "app"); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %s", entry, got, err, want)
		}
	}
	if _, err := Image(treeOf(t, map[string]string{"a.yaml": ""}), "", "shop-primary", ""); err == nil || !strings.Contains(err.Error(), "has no Deployment shop-primary") {
		t.Error(err)
	}
}

func TestSetValue(t *testing.T) {
	tree := treeOf(t, map[string]string{"values.yaml": "image:\n  repository: x # c\n  digest: \"\"\n"})
	if err := SetValue(tree, "values.yaml", "image.digest", digest); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"values.yaml": "image:\n  repository: x # c\n  digest: \"" + digest + "\"\n"}, filesOf(t, tree)); diff != "" {
		t.Error(diff)
	}
	for _, wrong := range [][2]string{{"values.yaml", "image.tag"}, {"values.yaml", "image"}, {"nowhere.yaml", "image"}} {
		if err := SetValue(tree, wrong[0], wrong[1], "x"); err == nil || !strings.Contains(err.Error(), wrong[0]) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}

func TestImageNames(t *testing.T) {
	tree := treeOf(t, map[string]string{
		"base/kustomization.yaml": "resources: [deployment.yaml]\nimages:\n- {name: shop, newName: registry.example.com/base/shop}\n",
		"base/deployment.yaml":    manifestOf("shop-primary", "shop:1"),
		"eu/kustomization.yaml":   "resources: [../base]\nimages:\n- {name: registry.example.com/base/shop, newName: registry.example.com/eu/shop, digest: 'sha256:00'}\n- {name: other, newName: x}\n",
	})
	names, err := ImageNames(tree, "eu", "shop-primary")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"busybox", "proxy", "registry.example.com/base/shop", "registry.example.com/eu/shop", "shop"}, names); diff != "" {
		t.Error(diff)
	}
}
