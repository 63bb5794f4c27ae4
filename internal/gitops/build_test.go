package gitops

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// builtByFlux are the app's objects, with what they say of images.
func builtByFlux(annotations map[string]string) []Object {
	objects := []Object{aDeployment("", map[string]any{"name": "app", "image": "registry.example.com/shop@sha256:1"}, map[string]any{"name": "proxy", "image": "proxy:1"}), aVirtualService("")}
	for _, o := range objects {
		o.SetLabels(map[string]string{"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system", "app": "shop"})
		o.SetAnnotations(maps.Clone(annotations))
	}
	return objects
}

// TestFluxBuilds is what of a Kustomization makes something else of an app than its folder says: the case's YAML is of its spec.
func TestFluxBuilds(t *testing.T) {
	const kustomization = "Kustomization flux-system/apps: its "
	disabled := map[string]string{"kustomize.toolkit.fluxcd.io/substitute": "disabled"}
	image := func(of string) string {
		return kustomization + "spec.images[0] decides an image of " + of + ", whatever a commit says; write the entry among the images in the kustomization.yaml of gitops.path, and remove it here"
	}
	patch := func(of string) string {
		return kustomization + "spec.patches[0] changes " + of + " after all that the folder in Git says; write what it says into the manifests, and remove it here"
	}
	const deployment, both = "Deployment shop/shop-primary", "Deployment shop/shop-primary, VirtualService shop/shop"
	for name, c := range map[string]struct {
		spec        string
		annotations map[string]string
		inGit       []string // what images are called there
		beside      string   // the refusal where Crossbill writes the cluster
		commits     string   // the refusal where every step is a commit; "same"
	}{
		"nothing of the kind": {spec: "{path: apps, wait: true, force: false, timeout: 5m}"},

		"the app's image":                 {spec: "images: [{name: registry.example.com/shop, digest: 'sha256:2'}]", beside: image(deployment), commits: "same"},
		"the app's image, by a new name":  {spec: "images: [{name: app, newName: registry.example.com/shop}]", beside: image(deployment), commits: "same"},
		"the app's image, as Git has it":  {spec: "images: [{name: app, newTag: v2}]", inGit: []string{"app", "registry.example.com/shop"}, beside: image(deployment), commits: "same"},
		"an expression":                   {spec: "images: [{name: '.*', newTag: v2}]", beside: image(deployment), commits: "same"},
		"the image of a container beside": {spec: "images: [{name: proxy, newTag: v2}]", beside: image(deployment), commits: "same"},
		"another image":                   {spec: "images: [{name: shop, newTag: v2}, {name: registry.example.com/shop-api, newName: api}]", inGit: []string{"app"}},

		"a prefix":          {spec: "namePrefix: eu-", beside: kustomization + "spec.namePrefix gives " + deployment + " a name that the folder in Git does not have; write it in the kustomization.yaml of gitops.path, and remove it here", commits: kustomization + "spec.namePrefix gives " + both + " a name that the folder in Git does not have; write it in the kustomization.yaml of gitops.path, and remove it here"},
		"a suffix":          {spec: "nameSuffix: -eu", beside: kustomization + "spec.nameSuffix gives " + deployment + " a name that the folder in Git does not have; write it in the kustomization.yaml of gitops.path, and remove it here", commits: kustomization + "spec.nameSuffix gives " + both + " a name that the folder in Git does not have; write it in the kustomization.yaml of gitops.path, and remove it here"},
		"its namespace":     {spec: "targetNamespace: shop"},
		"another namespace": {spec: "targetNamespace: other", beside: kustomization + "spec.targetNamespace moves " + deployment + " to namespace other; name the namespace that the app is in", commits: kustomization + "spec.targetNamespace moves " + both + " to namespace other; name the namespace that the app is in"},
		"components":        {spec: "components: [../eu]", beside: kustomization + "spec.components may change " + deployment + " after all that the folder in Git says; list them as components in the kustomization.yaml of gitops.path, and remove it here", commits: kustomization + "spec.components may change " + both + " after all that the folder in Git says; list them as components in the kustomization.yaml of gitops.path, and remove it here"},

		"a patch of the Deployment":             {spec: "patches: [{target: {kind: Deployment, name: shop-primary}, patch: '[{op: add, path: /spec/template/metadata/annotations/x, value: y}]'}]", beside: patch(deployment), commits: "same"},
		"a patch of all that is in the pod":     {spec: "patches: [{target: {kind: Deployment}, patch: '[{op: replace, path: /spec, value: {}}]'}]", beside: patch(deployment), commits: "same"},
		"a patch of its replicas":               {spec: "patches: [{target: {kind: Deployment}, patch: '[{op: replace, path: /spec/replicas, value: 3}]'}]", commits: patch(deployment)},
		"a patch with the object's name":        {spec: "patches: [{patch: \"apiVersion: apps/v1\\nkind: Deployment\\nmetadata: {name: shop-primary}\\nspec: {template: {spec: {priorityClassName: high}}}\"}]", beside: patch(deployment), commits: "same"},
		"a patch that leaves the pods alone":    {spec: "patches: [{patch: \"kind: Deployment\\nmetadata: {name: shop-primary, labels: {a: b}}\\nspec: {replicas: 3}\"}]", commits: patch(deployment)},
		"a patch that replaces what it can":     {spec: "patches: [{patch: \"kind: Deployment\\nmetadata: {name: shop-primary}\\nspec: {$patch: replace}\"}]", beside: patch(deployment), commits: "same"},
		"a patch of two objects":                {spec: "patches: [{patch: \"kind: Deployment\\nmetadata: {name: other}\\n---\\nkind: Deployment\\nmetadata: {name: shop-primary}\\nspec: {template: {}}\"}]", beside: patch(deployment), commits: "same"},
		"a patch by labels":                     {spec: "patches: [{target: {labelSelector: app=shop}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]", beside: patch(deployment), commits: patch(both)},
		"a patch before the name has a prefix":  {spec: "patches: [{target: {kind: Deployment, name: primary}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]", beside: patch(deployment), commits: "same"},
		"a patch before there is a namespace":   {spec: "patches: [{target: {kind: Deployment, namespace: default}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]", beside: patch(deployment), commits: "same"},
		"a patch that is not an expression":     {spec: "patches: [{target: {kind: Deployment, name: '('}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]", beside: patch(deployment), commits: patch(both)},
		"a patch of the route":                  {spec: "patches: [{target: {group: networking.istio.io, kind: VirtualService}, patch: '[{op: add, path: /spec/http/0/timeout, value: 1s}]'}]", commits: patch("VirtualService shop/shop")},
		"a patch of another Deployment":         {spec: "patches: [{target: {kind: Deployment, name: other}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]"},
		"a patch of another kind":               {spec: "patches: [{target: {kind: StatefulSet}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]"},
		"a patch of another group":              {spec: "patches: [{target: {group: other.io, version: v1, kind: Deployment}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]"},
		"a patch of another namespace":          {spec: "patches: [{target: {kind: Deployment, namespace: other}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]"},
		"a patch by other labels":               {spec: "patches: [{target: {labelSelector: app=other}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]"},
		"a patch by annotations that are not":   {spec: "patches: [{target: {annotationSelector: a=b}, patch: '[{op: add, path: /spec/template/x, value: y}]'}]"},
		"a patch that nobody can read":          {spec: "patches: [{patch: '{'}]", beside: patch(deployment), commits: patch(both)},
		"a patch of operations, without target": {spec: "patches: [{patch: '[{op: add, path: /spec/template/x, value: y}]'}]", beside: patch(deployment), commits: patch(both)},

		"substitution": {spec: "postBuild: {substitute: {REGION: eu}}",
			beside:  kustomization + "spec.postBuild replaces every ${…} in " + deployment + ", whatever a release has proved; give the objects the annotation kustomize.toolkit.fluxcd.io/substitute: disabled in Git",
			commits: kustomization + "spec.postBuild replaces every ${…} in " + both + ", whatever a release has proved; give the objects the annotation kustomize.toolkit.fluxcd.io/substitute: disabled in Git"},
		"substitution of nothing":     {spec: "postBuild: {substitute: {}}"},
		"substitution elsewhere":      {spec: "postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}]}", annotations: disabled},
		"substitution that goes on":   {spec: "postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}]}\ncommonMetadata: {annotations: {kustomize.toolkit.fluxcd.io/substitute: disabled}}", annotations: disabled, beside: kustomization + "spec.postBuild replaces every ${…} in " + deployment + ", whatever a release has proved; give the objects the annotation kustomize.toolkit.fluxcd.io/substitute: disabled in Git", commits: kustomization + "spec.postBuild replaces every ${…} in " + both + ", whatever a release has proved; give the objects the annotation kustomize.toolkit.fluxcd.io/substitute: disabled in Git"},
		"common metadata":             {spec: "commonMetadata: {labels: {team: shop}, annotations: {a: b}}"},
		"common metadata against all": {spec: "commonMetadata: {annotations: {kustomize.toolkit.fluxcd.io/reconcile: disabled}}", beside: kustomization + "spec.commonMetadata has Flux leave " + deployment + " alone: no commit is applied; remove kustomize.toolkit.fluxcd.io/reconcile there", commits: kustomization + "spec.commonMetadata has Flux leave " + both + " alone: no commit is applied; remove kustomize.toolkit.fluxcd.io/reconcile there"},

		"weights that are left out":  {spec: "ignore: [{target: {kind: VirtualService}, paths: [/spec/http/0/route/0/weight]}]", commits: kustomization + "spec.ignore[0] has Flux leave out fields of VirtualService shop/shop that a step changes; remove the rule"},
		"all that is left out":       {spec: "ignore: [{paths: ['']}]", commits: kustomization + "spec.ignore[0] has Flux leave out fields of " + both + " that a step changes; remove the rule"},
		"other fields are left out":  {spec: "ignore: [{target: {kind: Deployment}, paths: [/spec/strategy, /spec/templates]}, {paths: [/metadata/annotations/a]}]"},
		"other objects are left out": {spec: "ignore: [{target: {kind: Secret}, paths: ['']}]"},
	} {
		t.Run(name, func(t *testing.T) {
			fields := map[string]any{}
			if err := yaml.Unmarshal([]byte(c.spec), &fields); err != nil {
				t.Fatal(err)
			}
			fields["prune"] = true
			live := aKustomization(func(o map[string]any) { maps.Copy(o["spec"].(map[string]any), fields) })
			for _, options := range []Options{{}, {Ledgers: "releases"}} {
				want := c.beside
				if options.commits() && c.commits != "same" {
					want = c.commits
				}
				options.Branch = "main"
				options.ImageNames = func(context.Context) ([]string, error) { return c.inGit, nil }
				controller, _ := controllerOf(t, Flux, fakeClient(live, aGitRepository()), options)
				_, err := controller.Check(t.Context(), builtByFlux(c.annotations))
				refused(t, want, err)
			}
		})
	}
}

// refused compares an error of input with what it has to say.
func refused(t *testing.T, want string, err error) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err != nil && !errors.As(err, new(*usererr.Error)) {
		t.Errorf("it is not of input: %v", err)
	}
}

// TestBuildsAsked: the repository is asked only where its names matter, and what it answers is not taken for nothing.
func TestBuildsAsked(t *testing.T) {
	down := errors.New("the Git server does not answer")
	argo, _ := controllerOf(t, ArgoCD, fakeClient(anApplication()), Options{Files: func(context.Context, string) ([]string, error) { return nil, down }})
	if _, err := argo.Check(t.Context(), theAppOfArgo()); !errors.Is(err, down) {
		t.Error(err)
	}
	for spec, want := range map[string]error{"{}": nil, "images: [{name: other, newTag: v1}]": down} {
		fields := map[string]any{}
		if err := yaml.Unmarshal([]byte(spec), &fields); err != nil {
			t.Fatal(err)
		}
		live := aKustomization(func(o map[string]any) { maps.Copy(o["spec"].(map[string]any), fields) })
		controller, _ := controllerOf(t, Flux, fakeClient(live, aGitRepository()), Options{ImageNames: func(context.Context) ([]string, error) { return nil, down }})
		if _, err := controller.Check(t.Context(), builtByFlux(nil)); !errors.Is(err, want) || errors.As(err, new(*usererr.Error)) {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

// TestArgoBuilds is what of an Application makes something else of an app than Git says: the case's YAML is of its spec.
func TestArgoBuilds(t *testing.T) {
	const application, kustomize = "Application argocd/shop: its ", "Application argocd/shop: its spec.source.kustomize."
	const deployment, both = "Deployment shop/shop-primary", "Deployment shop/shop-primary, VirtualService shop/shop"
	const repository = "https://gitlab.example.com/our-org/environment.git"
	decides := func(field, of string) string {
		return application + field + " decides image.digest for " + of + ", whatever a commit says of it in gitops.value; remove it there"
	}
	inRepository := func(more string) string {
		return "source: {repoURL: " + repository + ", targetRevision: main, path: apps/shop, " + more + "}"
	}
	chart := func(more string) string {
		return "source: null\nsources:\n- {repoURL: " + repository + ", targetRevision: main, ref: env}\n- {repoURL: https://charts.example.com, chart: shop, targetRevision: 1.0.0, helm: {" + more + "}}"
	}
	const unread = "Application argocd/shop: no chart of it reads apps/shop/values.yaml, where gitops.value has the image; name it last of the helm.valueFiles of its chart"
	const value = "apps/shop/values.yaml:image.digest"
	for name, c := range map[string]struct {
		spec    string
		value   string
		beside  string
		commits string // "same"; with a value, there are no such releases
	}{
		"nothing of the kind": {spec: inRepository("kustomize: {version: v5.0.0, kubeVersion: '1.37'}")},
		"the app's image": {spec: inRepository("kustomize: {images: ['registry.example.com/shop@sha256:2']}"), commits: "same",
			beside: kustomize + "images[0] decides an image of " + deployment + ", whatever a commit says; write the entry among the images in the kustomization.yaml of gitops.path, and remove it here"},
		"the app's image, by a new name": {spec: inRepository("kustomize: {images: ['other:1', 'app=registry.example.com/shop:v2']}"), commits: "same",
			beside: kustomize + "images[1] decides an image of " + deployment + ", whatever a commit says; write the entry among the images in the kustomization.yaml of gitops.path, and remove it here"},
		"another image": {spec: inRepository("kustomize: {images: ['registry.example.com:5000/shop:v2', 'shop=registry.example.com/shops']}")},
		"a prefix": {spec: inRepository("kustomize: {namePrefix: eu-}"),
			beside:  kustomize + "namePrefix gives " + deployment + " a name that the folder in Git does not have; write it in the kustomization.yaml of gitops.path, and remove it here",
			commits: kustomize + "namePrefix gives " + both + " a name that the folder in Git does not have; write it in the kustomization.yaml of gitops.path, and remove it here"},
		"its namespace": {spec: inRepository("kustomize: {namespace: shop}")},
		"another namespace": {spec: inRepository("kustomize: {namespace: other}"),
			beside:  kustomize + "namespace moves " + deployment + " to namespace other; name the namespace that the app is in",
			commits: kustomize + "namespace moves " + both + " to namespace other; name the namespace that the app is in"},
		"a patch": {spec: inRepository("kustomize: {patches: [{target: {kind: Deployment, name: shop-primary}, patch: '[{op: add, path: /spec/template/x, value: y}]', options: {allowKindChange: false}}]}"), commits: "same",
			beside: kustomize + "patches[0] changes " + deployment + " after all that the folder in Git says; write what it says into the manifests, and remove it here"},
		"a patch in a file": {spec: inRepository("kustomize: {patches: [{path: patch.yaml}]}"),
			beside:  kustomize + "patches[0] changes " + deployment + " after all that the folder in Git says; write what it says into the manifests, and remove it here",
			commits: kustomize + "patches[0] changes " + both + " after all that the folder in Git says; write what it says into the manifests, and remove it here"},
		"a patch of something else": {spec: inRepository("kustomize: {patches: [{path: patch.yaml, target: {kind: Secret}}]}")},
		"components": {spec: inRepository("kustomize: {components: [../eu]}"),
			beside:  kustomize + "components may change " + deployment + " after all that the folder in Git says; list them as components in the kustomization.yaml of gitops.path, and remove it here",
			commits: kustomize + "components may change " + both + " after all that the folder in Git says; list them as components in the kustomization.yaml of gitops.path, and remove it here"},
		"labels": {spec: inRepository("kustomize: {commonLabels: {team: shop}}"),
			beside:  kustomize + "commonLabels changes the labels of the pods of " + deployment + "; set labelWithoutSelector: true beside it, and leave labelIncludeTemplates out",
			commits: kustomize + "commonLabels changes the labels of the pods of " + deployment + "; set labelWithoutSelector: true beside it, and leave labelIncludeTemplates out"},
		"labels of the objects alone": {spec: inRepository("kustomize: {commonLabels: {team: shop}, labelWithoutSelector: true}")},
		"labels of pods": {spec: inRepository("kustomize: {commonLabels: {team: shop}, labelWithoutSelector: true, labelIncludeTemplates: true}"), commits: "same",
			beside: kustomize + "commonLabels changes the labels of the pods of " + deployment + "; set labelWithoutSelector: true beside it, and leave labelIncludeTemplates out"},
		"annotations": {spec: inRepository("kustomize: {commonAnnotations: {team: shop}}"), commits: "same",
			beside: kustomize + "commonAnnotations changes the annotations of the pods of " + deployment + "; write them as commonAnnotations in the kustomization.yaml of gitops.path, and remove it here"},
		"replicas": {spec: inRepository("kustomize: {replicas: [{name: other, count: 2}, {name: primary, count: '3'}]}"),
			commits: kustomize + "replicas[1] decides how many pods " + deployment + " has, which steps of a release change; write the number into the manifest, and remove it here"},
		"a plugin": {spec: inRepository("plugin: {name: vault}"),
			beside:  application + "spec.source.plugin makes " + deployment + " of the folder by a program that Crossbill does not know; let Argo CD apply the folder without it",
			commits: application + "spec.source.plugin makes " + both + " of the folder by a program that Crossbill does not know; let Argo CD apply the folder without it"},
		"jsonnet": {spec: inRepository("directory: {jsonnet: {extVars: [{name: image, value: x}], tlas: [{name: a, value: b}]}}")},
		"one of several sources": {spec: "source: null\nsources:\n- {repoURL: https://gitlab.example.com/our-org/other.git, kustomize: {namePrefix: other-}}\n- {repoURL: " + repository + ", targetRevision: main, kustomize: {images: [registry.example.com/shop:v1]}}", commits: "same",
			beside: application + "spec.sources[1].kustomize.images[0] decides an image of " + deployment + ", whatever a commit says; write the entry among the images in the kustomization.yaml of gitops.path, and remove it here"},

		"a chart":                           {spec: inRepository("helm: {releaseName: shop, parameters: [{name: replicas, value: '2'}], values: 'image: {pullPolicy: Always}'}"), value: value},
		"a chart without more":              {spec: inRepository(""), value: value},
		"a chart's parameter":               {spec: inRepository("helm: {parameters: [{name: replicas, value: '2'}, {name: image.digest, value: 'sha256:1'}]}"), value: value, beside: decides("spec.source.helm.parameters[1]", deployment)},
		"a chart's parameter around it":     {spec: inRepository("helm: {fileParameters: [{name: image, path: x}]}"), value: value, beside: decides("spec.source.helm.fileParameters[0]", deployment)},
		"a chart's values":                  {spec: inRepository("helm: {values: 'image: {digest: x}'}"), value: value, beside: decides("spec.source.helm.values", deployment)},
		"a chart's values, as an object":    {spec: inRepository("helm: {values: 'image: {digest: x}', valuesObject: {image: {digest: y}}}"), value: value, beside: decides("spec.source.helm.valuesObject", deployment)},
		"a chart's values that do not win":  {spec: inRepository("helm: {values: 'image: {digest: x}', valuesObject: {a: b}}"), value: value},
		"a chart's value files":             {spec: inRepository("helm: {valueFiles: [../common.yaml, values.yaml]}"), value: value},
		"a value file from the root":        {spec: inRepository("helm: {valueFiles: [/apps/shop/values.yaml]}"), value: value},
		"a value file that comes later":     {spec: inRepository("helm: {valueFiles: [values.yaml, https://example.com/eu.yaml, 'eu/*.yaml']}"), value: value, beside: application + "spec.source.helm.valueFiles may decide image.digest for " + deployment + " after the file of gitops.value: https://example.com/eu.yaml, apps/shop/eu/*.yaml; name that file last of them"},
		"a value file that is not read":     {spec: inRepository("helm: {valueFiles: [eu.yaml]}"), value: value, beside: unread},
		"a chart from elsewhere":            {spec: chart("valueFiles: [base.yaml, $env/apps/shop/values.yaml]"), value: value},
		"a chart from elsewhere, overruled": {spec: chart("valueFiles: [$env/apps/shop/values.yaml], parameters: [{name: image.digest, value: x}]"), value: value, beside: decides("spec.sources[1].helm.parameters[0]", deployment)},
		"a chart that reads its own values": {spec: chart("valueFiles: [apps/shop/values.yaml]"), value: value, beside: unread},
		"a chart that reads no value file":  {spec: chart(""), value: value, beside: unread},
	} {
		t.Run(name, func(t *testing.T) {
			fields := map[string]any{}
			if err := yaml.Unmarshal([]byte(c.spec), &fields); err != nil {
				t.Fatal(err)
			}
			for _, options := range []Options{{}, {Ledgers: "releases"}} {
				live := anApplication(func(o map[string]any) { maps.Copy(o["spec"].(map[string]any), fields) })
				want := c.beside
				if options.commits() {
					without("ignoreDifferences")(live.Object)
					if c.value != "" {
						continue
					}
					if c.commits != "same" {
						want = c.commits
					}
				}
				options.Branch, options.Repository, options.Value = "main", repository, c.value
				controller, _ := controllerOf(t, ArgoCD, fakeClient(live), options)
				_, err := controller.Check(t.Context(), theAppOfArgo())
				refused(t, want, err)
			}
		})
	}
}

// TestArgoOverriding: what an image updater leaves in Git for one Application decides more than the folder.
func TestArgoOverriding(t *testing.T) {
	for file, want := range map[string]string{
		"apps/shop/.argocd-source.yaml":       "Application argocd/shop: it takes what apps/shop/.argocd-source.yaml in Git says before all else there, whatever a commit changes; move that into the kustomization.yaml or the values of the folder, and remove the file",
		"apps/shop/.argocd-source-shop.yaml":  "Application argocd/shop: it takes what apps/shop/.argocd-source-shop.yaml in Git says before all else there, whatever a commit changes; move that into the kustomization.yaml or the values of the folder, and remove the file",
		"apps/shop/.argocd-source-other.yaml": "",
		"apps/shop/sub/.argocd-source.yaml":   "",
	} {
		controller, _ := controllerOf(t, ArgoCD, fakeClient(anApplication()), Options{Branch: "main", Files: func(_ context.Context, folder string) ([]string, error) {
			if folder != "apps/shop" {
				t.Errorf("folder %s", folder)
			}
			return []string{"apps/shop/deployment.yaml", file}, nil
		}})
		_, err := controller.Check(t.Context(), theAppOfArgo())
		refused(t, want, err)
	}
}

// TestChangedByOwner: what a Kustomization says of its objects is not held against those of another one.
func TestChangedByOwner(t *testing.T) {
	second := func(o map[string]any) {
		o["metadata"].(map[string]any)["name"] = "second"
		o["spec"].(map[string]any)["namePrefix"] = "x-"
	}
	controller, _ := controllerOf(t, Flux, fakeClient(aKustomization(), aGitRepository(), aKustomization(second)), Options{Branch: "main"})
	other := aDeployment("")
	other.SetName("other")
	other.SetLabels(map[string]string{"kustomize.toolkit.fluxcd.io/name": "second", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"})
	_, err := controller.Check(t.Context(), append(builtByFlux(nil), other))
	if err == nil || strings.Contains(err.Error(), "shop-primary") || !strings.Contains(err.Error(), "Deployment shop/other") {
		t.Error(err)
	}
}
