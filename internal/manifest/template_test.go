package manifest

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
)

// TestServedContainer: the container that the Service leads to runs the app, also where it leads to the port of its own number.
func TestServedContainer(t *testing.T) {
	for name, c := range map[string]struct{ port, want string }{
		"a name":        {"{port: 80, targetPort: http}", "web"},
		"a number":      {"{port: 80, targetPort: 3000}", "web"},
		"none":          {"{port: 3000}", "web"},
		"an empty name": {"{port: 3000, targetPort: ''}", "web"},
		"the sidecar's": {"{port: 9000}", "proxy"},
		"of nobody":     {"{port: 80}", ""},
	} {
		dir := caseFolder(t, "00-base")
		write(t, dir+"/deployment.yaml", strings.Replace(base(t, "deployment.yaml"), "- name: app", "- {name: proxy, image: proxy, ports: [{containerPort: 9000}]}\n        - name: web", 1))
		write(t, dir+"/service.yaml", strings.Replace(base(t, "service.yaml"), "{name: http, port: 80, targetPort: http}", c.port, 1))
		set, err := Load(dir)
		if err != nil && (c.want != "" || !strings.Contains(err.Error(), "none of the 2 containers")) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err == nil && set.ContainerName() != c.want {
			t.Errorf("%s: %q runs the app, want %q", name, set.ContainerName(), c.want)
		}
	}
}

// TestEveryContainerGetsTheDigest: init containers, sidecars and image volumes of the app's repository run the release
// as well (case 07); the others run what the manifest names.
func TestEveryContainerGetsTheDigest(t *testing.T) {
	dir := copyWith(t, "deployment.yaml", "      containers:\n", `      volumes:
        - name: assets
          image:
            reference: registry.example.com/our-org/qwik-node-app:assets
      initContainers:
        - name: migrate
          image: registry.example.com/our-org/qwik-node-app:latest
        - name: pinned
          image: registry.example.com/our-org/qwik-node-app@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
        - name: other
          image: registry.example.com/our-org/other:1
      containers:
        - name: worker
          image: registry.example.com/our-org/qwik-node-app
        - name: elsewhere
          image: registry.example.com/their-org/qwik-node-app:1
`)
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := set.Track(release.Canary, "demo", image)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, place := range imagePlaces(&d.Spec.Template.Spec) {
		got[place.field] = *place.image
	}
	want := map[string]string{
		"initContainers[migrate].image": image, "initContainers[pinned].image": image, "initContainers[other].image": "registry.example.com/our-org/other:1",
		"containers[app].image": image, "containers[worker].image": image, "containers[elsewhere].image": "registry.example.com/their-org/qwik-node-app:1",
		"volumes[assets].image.reference": image,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	elsewhere := "mirror.example.com/their-org/x@sha256:" + strings.Repeat("c", 64)
	if d, err = set.Track(release.Canary, "demo", elsewhere); err != nil || d.Spec.Template.Spec.InitContainers[0].Image != elsewhere {
		t.Errorf("an image from a mirror: the init container runs %s, %v", d.Spec.Template.Spec.InitContainers[0].Image, err)
	}
	before, err := set.TemplateHash()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(dir + "/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/deployment.yaml", []byte(strings.Replace(string(text), "qwik-node-app:latest", "qwik-node-app:newer", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if set, err = Load(dir); err != nil {
		t.Fatal(err)
	}
	if after, err := set.TemplateHash(); err != nil || after != before {
		t.Errorf("the tag of an image that the release replaces changes the template: %v", err)
	}
}

// TestTagged: an image that is not the release's is named by digest, or listed.
func TestTagged(t *testing.T) {
	const digest = "@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	for _, c := range []struct {
		container string
		allow     []string
		admitted  []string
		refused   string
	}{
		{"{name: proxy, image: envoyproxy/envoy:v1.30}", nil, nil, `deployment.yaml: Deployment qwik-node-app-primary: spec.template.spec.containers[proxy].image: "envoyproxy/envoy:v1.30" names an image by tag`},
		{"{name: proxy, image: envoyproxy/envoy}", nil, nil, "list its repository in canary.allowTags"},
		{"{name: proxy, image: envoyproxy/envoy" + digest + "}", nil, nil, ""},
		{"{name: proxy, image: envoyproxy/envoy:v1.30" + digest + "}", nil, nil, ""},
		{"{name: proxy, image: envoyproxy/envoy:v1.30}", []string{"envoyproxy/envoy"}, []string{"envoyproxy/envoy:v1.30"}, ""},
		{"{name: proxy, image: envoyproxy/envoy:v1.30}", []string{"docker.io/envoyproxy/*"}, []string{"envoyproxy/envoy:v1.30"}, ""},
		{"{name: proxy, image: envoyproxy/envoy:v1.30}", []string{"docker.io/envoy"}, nil, "names an image by tag"},
		{"{name: proxy, image: registry.example.com:5000/x/y:1}", []string{"registry.example.com:5000/x/y"}, []string{"registry.example.com:5000/x/y:1"}, ""},
		{"{name: istio-proxy, image: auto}", nil, nil, ""},
		{"{name: migrate, image: registry.example.com/our-org/qwik-node-app:latest}", nil, nil, ""},
	} {
		set, err := Load(copyWith(t, "deployment.yaml", "      containers:\n", "      containers:\n        - "+c.container+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		admitted, err := set.Tagged(c.allow)
		if diff := cmp.Diff(c.admitted, admitted); diff != "" {
			t.Errorf("%s: -want +got:\n%s", c.container, diff)
		}
		if (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: %v, want %q", c.container, err, c.refused)
		}
	}
}

// TestReleasable: what takes primary's pods away while a release is put in place is refused, with the fix (case 13).
func TestReleasable(t *testing.T) {
	const strategy = "      maxUnavailable: 0 # capacity never drops while primary gets a new digest\n      maxSurge: 1\n"
	for before, c := range map[string]struct{ after, refused string }{
		"  replicas: 2\n": {"  replicas: 2\n  paused: true\n", "spec.paused: a paused Deployment never gets the release; remove it"},
		"    type: RollingUpdate\n    rollingUpdate:\n" + strategy: {"    type: Recreate\n", "spec.strategy.type: Recreate ends every pod"},
		strategy: {"      maxUnavailable: 25%\n", "maxUnavailable: 25% lets a roll-out take pods of primary away"},
		"      maxUnavailable: 0 # capacity never drops while primary gets a new digest\n": {"      maxUnavailable: 1\n", "maxUnavailable: 0 and maxSurge"},
		"      maxSurge: 1\n": {"      maxSurge: 0%\n", "maxSurge: 0 lets a roll-out make no pod"},
		"maxUnavailable: 0 #": {"maxUnavailable: 0% #", ""},
		"  strategy:\n    type: RollingUpdate\n    rollingUpdate:\n" + strategy: {"", ""},
	} {
		set, err := Load(copyWith(t, "deployment.yaml", before, c.after))
		if err != nil {
			t.Fatal(err)
		}
		err = set.Releasable()
		if (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%q: %v, want %q", c.after, err, c.refused)
		}
		d, err := set.Track(release.Primary, "demo", image)
		if err != nil {
			t.Fatal(err)
		}
		if rolling := d.Spec.Strategy.RollingUpdate; rolling == nil || rolling.MaxUnavailable.String() != "0" || rolling.MaxSurge != nil && isZero(*rolling.MaxSurge) {
			t.Errorf("%q: a roll-out goes by %v", c.after, d.Spec.Strategy)
		}
	}
}
