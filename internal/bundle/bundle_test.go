package bundle

import (
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/usererr"
)

// planted is the value of a Secret that no output has.
const planted = "pl4nted-v4lue"

// app are manifests with what a pod reads.
const app = `
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 3000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop-primary}
spec:
  selector: {matchLabels: {app: shop, version: primary}}
  template:
    metadata: {labels: {app: shop, version: primary}}
    spec:
      initContainers:
      - {name: migrate, image: "registry.example.com/our-org/shop:dev"}
      - {name: wait, image: "registry.example.com/wait@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"}
      containers:
      - name: app
        image: registry.example.com/our-org/shop:dev
        envFrom: [{configMapRef: {name: shop}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {GREETING: hello}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec:
  host: shop
  subsets: [{name: primary, labels: {version: primary}}, {name: canary, labels: {version: canary}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example.com]
  http:
  - route:
    - {destination: {host: shop, subset: primary}, weight: 100}
    - {destination: {host: shop, subset: canary}, weight: 0}
`

// secret has the planted value.
const secret = `---
apiVersion: v1
kind: Secret
metadata: {name: shop}
stringData: {PASSWORD: ` + planted + `}
`

func render(t *testing.T, texts ...string) *manifest.Rendered {
	t.Helper()
	rendered, err := manifest.RenderedFrom("app.yaml", []byte(strings.Join(texts, "")))
	if err != nil {
		t.Fatal(err)
	}
	return rendered
}

func keychain() authn.Keychain { return authn.DefaultKeychain }

// serve runs a real registry and pushes an image with labels into it.
func serve(t *testing.T) (image string) {
	t.Helper()
	server := httptest.NewServer(fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	built, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := built.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC)}
	config.Config.Labels = map[string]string{sourceAnnotation: "https://github.com/our-org/shop", revisionAnnotation: "c0ffee0"}
	if built, err = mutate.ConfigFile(built, config); err != nil {
		t.Fatal(err)
	}
	pushed, err := registry.Push(t.Context(), built, strings.TrimPrefix(server.URL, "http://")+"/our-org/shop:1", keychain())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(pushed, ":1@", "@", 1)
}

func push(t *testing.T, image string, texts ...string) string {
	t.Helper()
	content, err := Fill(render(t, texts...), image, true)
	if err != nil {
		t.Fatal(err)
	}
	reference, err := Push(t.Context(), content, "", Origin{}, keychain())
	if err != nil {
		t.Fatal(err)
	}
	return reference
}

func TestPushAndPull(t *testing.T) {
	image := serve(t)
	reference := push(t, image, app)
	if again := push(t, image, app); again != reference {
		t.Errorf("pushed %s, then %s", reference, again)
	}
	if other := push(t, image, strings.Replace(app, "hello", "goodbye", 1)); other == reference {
		t.Error("another configuration has the same digest")
	}
	b, err := Pull(t.Context(), "bundle", Scheme+reference, keychain())
	if err != nil {
		t.Fatal(err)
	}
	if b.Reference != reference || b.Image != image || b.Source != "https://github.com/our-org/shop" || b.Revision != "c0ffee0" {
		t.Errorf("%+v", b)
	}
	pod := b.Set.Deployment.Spec.Template.Spec
	images := []string{pod.InitContainers[0].Image, pod.InitContainers[1].Image, pod.Containers[0].Image}
	if diff := cmp.Diff([]string{image, "registry.example.com/wait@sha256:" + strings.Repeat("0a", 32), image}, images); diff != "" {
		t.Error(diff)
	}
	if b.Set.ConfigMaps["shop"].Data["GREETING"] != "hello" {
		t.Error("the ConfigMap is another one")
	}
}

// TestArtifactIsAsFluxMakesThem: https://github.com/fluxcd/pkg, oci/push.go and oci/pull.go; the title is what oras pulls
// (https://oras.land/docs/how_to_guides/pushing_and_pulling).
func TestArtifactIsAsFluxMakesThem(t *testing.T) {
	image := serve(t)
	reference, err := name.NewDigest(push(t, image, app))
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(reference)
	if err != nil {
		t.Fatal(err)
	}
	m, err := pulled.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.MediaType != "application/vnd.oci.image.manifest.v1+json" || m.Config.MediaType != ConfigMediaType || len(m.Layers) != 1 || m.Layers[0].MediaType != ContentMediaType {
		t.Errorf("%+v", m)
	}
	if got := m.Layers[0].Annotations["org.opencontainers.image.title"]; got != "manifests.tar.gz" {
		t.Errorf("title %q", got)
	}
	want := map[string]string{
		"org.opencontainers.image.created": "2026-11-26T10:00:00Z", "org.opencontainers.image.source": "https://github.com/our-org/shop", "org.opencontainers.image.revision": "c0ffee0",
		"crossbill.our-org.github.com/image": image, "crossbill.our-org.github.com/app": "shop",
	}
	if diff := cmp.Diff(want, m.Annotations); diff != "" {
		t.Error(diff)
	}
	config, err := pulled.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, config.Config.Labels); diff != "" {
		t.Error(diff)
	}
	if _, digest, _ := strings.Cut(image, "@"); m.Subject == nil || m.Subject.Digest.String() != digest {
		t.Errorf("subject %+v", m.Subject)
	}
	subject, err := name.NewDigest(image)
	if err != nil {
		t.Fatal(err)
	}
	referrers, err := remote.Referrers(subject)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := referrers.IndexManifest()
	if err != nil || len(listed.Manifests) != 1 || listed.Manifests[0].ArtifactType != ConfigMediaType {
		t.Errorf("%v, %+v", err, listed)
	}
}

func TestAnotherRepositoryHasNoSubject(t *testing.T) {
	image := serve(t)
	content, err := Fill(render(t, app), image, false)
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(image, "/")
	reference, err := Push(t.Context(), content, host+"/our-org/bundles", Origin{Created: time.Unix(1, 0), Revision: "c0ffee1"}, keychain())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(reference, host+"/our-org/bundles@sha256:") {
		t.Error(reference)
	}
	b, err := Pull(t.Context(), "bundle", reference, keychain())
	if err != nil || b.Image != image || b.Revision != "c0ffee1" {
		t.Errorf("%v %+v", err, b)
	}
	ref, err := name.NewDigest(reference)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := pulled.Manifest(); err != nil || m.Subject != nil {
		t.Errorf("%v, subject %+v", err, m.Subject)
	}
}

// TestTwoFolders: where the manifests are, and in which order their files are written, changes nothing.
func TestTwoFolders(t *testing.T) {
	image := serve(t)
	var pushed []string
	for _, order := range [][]int{{0, 1, 2, 3, 4}, {4, 2, 0, 3, 1}} {
		dir := filepath.Join(t.TempDir(), "manifests")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		documents := strings.Split(app, "---\n")
		for _, i := range order {
			if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))+".yaml"), []byte(documents[i]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		rendered, err := manifest.Render(t.Context(), manifest.Source{Path: dir})
		if err != nil {
			t.Fatal(err)
		}
		content, err := Fill(rendered, image, false)
		if err != nil {
			t.Fatal(err)
		}
		reference, err := Push(t.Context(), content, "", Origin{}, keychain())
		if err != nil {
			t.Fatal(err)
		}
		pushed = append(pushed, reference)
	}
	if pushed[0] != pushed[1] {
		t.Errorf("%s and %s", pushed[0], pushed[1])
	}
}

func TestFillRefuses(t *testing.T) {
	const digest = "registry.example.com/our-org/shop@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	for name, test := range map[string]struct{ image, text, want string }{
		"a tag":             {"registry.example.com/our-org/shop:1", app, `image: "registry.example.com/our-org/shop:1"`},
		"a Secret":          {digest, app + secret, "bundle.allowSecrets: Secret shop has values"},
		"no Deployment":     {digest, "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\n", "kind Deployment"},
		"what takes a pod":  {digest, strings.Replace(app, "spec:\n  selector", "spec:\n  strategy: {type: Recreate}\n  selector", 1), "Recreate"},
		"a key that is not": {digest, strings.Replace(app, "envFrom: [{configMapRef: {name: shop}}]", "env: [{name: A, valueFrom: {configMapKeyRef: {name: shop, key: NONE}}}]", 1), `no key "NONE"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Fill(render(t, test.text), test.image, false)
			var input *usererr.Error
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), planted) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestPullRefuses: what somebody may have pushed in place of a bundle, or made it say.
func TestPullRefuses(t *testing.T) {
	image := serve(t)
	own, err := name.NewDigest(image)
	if err != nil {
		t.Fatal(err)
	}
	content, err := Fill(render(t, app), image, false)
	if err != nil {
		t.Fatal(err)
	}
	made := func(change func(*Content)) v1.Image {
		t.Helper()
		other := *content
		change(&other)
		artifact, err := Artifact(&other, nil, Origin{Created: time.Unix(0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		return artifact
	}
	const another = "registry.example.com/our-org/another@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	good := made(func(*Content) {})
	layers, err := good.Layers()
	if err != nil {
		t.Fatal(err)
	}
	two, err := mutate.AppendLayers(good, layers[0])
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	noImage := mutate.Annotations(good, map[string]string{ImageAnnotation: ""}).(v1.Image)
	elsewhere := mutate.Subject(good, v1.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0b", 32)}, Size: 1}).(v1.Image)
	for name, test := range map[string]struct {
		artifact v1.Image
		want     string
	}{
		"an image":                          {foreign, "is of type"},
		"an empty one":                      {mutate.ConfigMediaType(empty.Image, ConfigMediaType), "has 0 layers"},
		"two layers":                        {two, "has 2 layers"},
		"no image named":                    {noImage, "names no image by digest"},
		"an image that its pods do not run": {made(func(c *Content) { c.Image = another }), "and its Deployment shop-primary runs"},
		"a subject that is not its image":   {elsewhere, "and refers to sha256:0b0b"},
		"a Deployment with an image by tag": {made(func(c *Content) { c.Rendered = render(t, app) }), "runs \"registry.example.com/our-org/shop:dev\""},
		"manifests that are no app's":       {made(func(c *Content) { c.Rendered = render(t, "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\n") }), "kind Deployment"},
		"a field that only Go reads": {made(func(c *Content) {
			c.Rendered = inAnotherCase(t, content, "initContainers:", "hostnetwork: true\n      initContainers:")
		}), `unknown field "spec.template.spec.hostnetwork"`},
		"a kind that only Go reads": {made(func(c *Content) { c.Rendered = inAnotherCase(t, content, "kind: Deployment", "Kind: Deployment") }), `unknown field "Kind"`},
		"a namespace that only Go reads": {made(func(c *Content) {
			c.Rendered = inAnotherCase(t, content, "name: shop-primary", "name: shop-primary\n  Namespace: kube-system")
		}), `unknown field "metadata.Namespace"`},
		"a Secret that only Go reads": {made(func(c *Content) {
			c.Rendered = render(t, string(content.Rendered.YAML()), strings.Replace(secret, "stringData", "StringData", 1))
		}), `unknown field "StringData"`},
		"a sidecar that is named like theirs": {made(func(c *Content) {
			c.Rendered = render(t, strings.Replace(app, "- name: app", "- {name: other, image: \""+image+"\"}\n      - name: app", 1))
		}), "runs \"registry.example.com/our-org/shop:dev\""},
	} {
		t.Run(name, func(t *testing.T) {
			reference, err := registry.PushByDigest(t.Context(), test.artifact, own.Context(), keychain())
			if err != nil {
				t.Fatal(err)
			}
			_, err = Pull(t.Context(), "bundle", reference, keychain())
			var input *usererr.Error
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	t.Run("a digest that is not found", func(t *testing.T) {
		_, err := Pull(t.Context(), "bundle", own.Context().Name()+"@sha256:"+strings.Repeat("0c", 32), keychain())
		var input *usererr.Error
		if !errors.As(err, &input) || !strings.Contains(err.Error(), "does not have") {
			t.Error(err)
		}
	})
	t.Run("a tag", func(t *testing.T) {
		_, err := Pull(t.Context(), "bundle", own.Context().Name()+":1", keychain())
		var input *usererr.Error
		if !errors.As(err, &input) || !strings.Contains(err.Error(), "names no bundle by digest") {
			t.Error(err)
		}
	})
}

// inAnotherCase is a bundle's content with a text replaced: encoding/json would take a field for the one that is meant, and what
// looks for that in the object would see nothing.
func inAnotherCase(t *testing.T, content *Content, old, changed string) *manifest.Rendered {
	t.Helper()
	text := string(content.Rendered.YAML())
	if !strings.Contains(text, old) {
		t.Fatalf("no %q in\n%s", old, text)
	}
	return render(t, strings.Replace(text, old, changed, 1))
}

func TestDiff(t *testing.T) {
	const other = "0th3r-v4lue"
	before := render(t, app, secret, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: old}\n")
	after := render(t, strings.Replace(app, "hello", "goodbye", 1), strings.Replace(secret, planted, other, 1), "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: new}\n")
	changes, err := Diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	text := ""
	for _, change := range changes {
		got = append(got, change.Action+" "+change.Object)
		text += change.Diff
	}
	if diff := cmp.Diff([]string{"change ConfigMap shop", "change Secret shop", "remove ConfigMap old", "add ServiceAccount new"}, got); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{"-  GREETING: hello\n", "+  GREETING: goodbye\n", "-  PASSWORD: '*** (before)'\n", "+  PASSWORD: '*** (after)'\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, planted) || strings.Contains(text, other) {
		t.Errorf("it shows a value:\n%s", text)
	}
	same, err := Diff(before, before)
	if err != nil || len(same) != 0 {
		t.Errorf("%v %v", same, err)
	}
	masked, err := Masked(before)
	if err != nil || strings.Contains(masked, planted) || !strings.Contains(masked, "PASSWORD: '***'") {
		t.Errorf("%v\n%s", err, masked)
	}
}

// TestDiffOfSecretsOfEveryForm: added, removed, moved between fields, and of a form that is none.
func TestDiffOfSecretsOfEveryForm(t *testing.T) {
	forms := []string{
		"", secret, strings.Replace(secret, "stringData", "data", 1),
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: shop}\ndata: " + planted + "\n",
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: shop}\ndata: {A: [" + planted + "], B: {C: " + planted + "}}\n",
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: shop}\nstringData: {A: " + planted + ", PASSWORD: other}\n",
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: shop}\nStringData: {A: " + planted + "}\nother: " + planted + "\n",
		"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n",
	}
	for _, a := range forms {
		for _, b := range forms {
			changes, err := Diff(render(t, a), render(t, b))
			if err != nil {
				t.Fatal(err)
			}
			for _, change := range changes {
				if strings.Contains(change.Diff, planted) {
					t.Errorf("%s", change.Diff)
				}
			}
			if (len(changes) == 0) != (a == b) {
				t.Errorf("%d changes between %q and %q", len(changes), a, b)
			}
		}
	}
}
