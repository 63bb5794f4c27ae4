package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

const image = "registry.example.com/our-org/qwik-node-app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// copyWith copies the repository's manifests and replaces text in one of them.
func copyWith(t *testing.T, file, before, after string) string {
	t.Helper()
	dir := t.TempDir()
	paths, err := filepath.Glob("../../k8s/*.yaml")
	if err != nil || len(paths) < 5 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(path) == file {
			if !strings.Contains(string(text), before) {
				t.Fatalf("%s does not contain %q", file, before)
			}
			text = []byte(strings.ReplaceAll(string(text), before, after))
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadRepositoryManifests(t *testing.T) {
	set, err := Load("../../k8s")
	if err != nil {
		t.Fatal(err)
	}
	if set.App != "qwik-node-app" || set.Name(release.Canary) != "qwik-node-app-canary" {
		t.Errorf("app %q, canary %q", set.App, set.Name(release.Canary))
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		d, err := set.Track(track, "demo", image)
		if err != nil {
			t.Fatal(err)
		}
		for what, value := range map[string]string{
			"selector": d.Spec.Selector.MatchLabels[TrackLabel], "pods": d.Spec.Template.Labels[TrackLabel], "labels": d.Labels[TrackLabel],
		} {
			if value != string(track) {
				t.Errorf("%s of the %s has version %q", what, track, value)
			}
		}
		if got := set.Image(d); got != image {
			t.Errorf("image of the %s is %q", track, got)
		}
		if d.Spec.Replicas != nil {
			t.Errorf("the %s names its replicas", track)
		}
	}
	if set.Deployment.Name != "qwik-node-app-primary" {
		t.Error("making a track changed the set")
	}
}

func TestTemplateHash(t *testing.T) {
	hash := func(dir string) string {
		set, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		h, err := set.TemplateHash()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if hash("../../k8s") != hash(copyWith(t, "deployment.yaml", "image: registry.example.com/our-org/qwik-node-app", "image: other")) {
		t.Error("it depends on the image")
	}
	if hash("../../k8s") == hash(copyWith(t, "deployment.yaml", `value: "5000"`, `value: "6000"`)) {
		t.Error("it does not depend on the environment")
	}
}

func TestLoadRejectsBadManifests(t *testing.T) {
	for name, c := range map[string]struct{ file, old, new, want string }{
		"not YAML":                    {"service.yaml", "kind: Service", "kind: [", "service.yaml"},
		"unknown field":               {"deployment.yaml", "replicas: 2", "replica: 2", "replica"},
		"unknown Istio field":         {"virtual-service.yaml", "weight: 100", "wieght: 100", "wieght"},
		"no canary subset":            {"destination-rule.yaml", "- name: canary", "- name: other", "no subset canary"},
		"subset with moved labels":    {"destination-rule.yaml", "version: canary", "version: v2", "destination-rule.yaml: DestinationRule qwik-node-app-dr: spec.subsets: there is no subset canary"},
		"route without canary":        {"virtual-service.yaml", "subset: canary", "subset: other", "virtual-service.yaml: VirtualService qwik-node-app-vs: spec.http: no route names both subsets"},
		"route not at rest":           {"virtual-service.yaml", "weight: 100", "weight: 90", "spec.http[0].route: the weights are 90/0"},
		"rule for another host":       {"destination-rule.yaml", "host: qwik-node-app-service", "host: other", "spec.host: \"other\" is not the Service"},
		"service over one track":      {"service.yaml", "selector:\n    app: qwik-node-app", "selector:\n    app: qwik-node-app\n    version: primary", "service.yaml: Service qwik-node-app-service: spec.selector: it names a track"},
		"service over other pods":     {"service.yaml", "selector:\n    app: qwik-node-app", "selector:\n    app: other", "does not match"},
		"selector without track":      {"deployment.yaml", "matchLabels:\n      app: qwik-node-app\n      version: primary", "matchLabels:\n      app: qwik-node-app", "deployment.yaml: Deployment qwik-node-app-primary: spec.selector.matchLabels: the label version: primary is missing"},
		"missing kind":                {"service.yaml", "kind: Service", "kind: ServiceAccount", "no manifest of kind Service"},
		"two of a kind":               {"gateway.yaml", "apiVersion: networking.istio.io/v1\nkind: Gateway", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: qwik-node-app-canary}\n---\napiVersion: networking.istio.io/v1\nkind: Gateway", "Deployment qwik-node-app-canary has the name that a track of qwik-node-app-primary has"},
		"document without a kind":     {"gateway.yaml", "kind: Gateway", "", "no kind"},
		"a list":                      {"gateway.yaml", "apiVersion: networking.istio.io/v1\nkind: Gateway", "- one\n---\napiVersion: networking.istio.io/v1\nkind: Gateway", "document 1: is not a manifest: it has no apiVersion"},
		"a word for a number":         {"service.yaml", "port: 80", "port: eighty", "document 1: spec.ports.port: a string is not of type int32"},
		"a name that is none":         {"service.yaml", "name: qwik-node-app-service", "name: Shop_Service", `metadata.name: "Shop_Service" is not a name`},
		"weight that is not a number": {"virtual-service.yaml", "weight: 100", "weight: ninety", "ninety"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(copyWith(t, c.file, c.old, c.new))
			var input *usererr.Error
			if !errors.As(err, &input) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a usererr.Error with %q", err, c.want)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "nope")); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("a missing folder: %v", err)
	}
	if _, err := Load(t.TempDir()); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestRoutesIgnoresOthers(t *testing.T) {
	set, err := Load(copyWith(t, "virtual-service.yaml", "  http:\n", `  http:
    - name: theirs
      match: [{uri: {prefix: /theirs}}]
      route: [{destination: {host: other}}]
    - name: theirs-on-primary
      match: [{uri: {prefix: /admin}}]
      route: [{destination: {host: qwik-node-app-service, subset: primary}}]
    - name: theirs-mixed
      match: [{uri: {prefix: /mixed}}]
      route:
        - {destination: {host: qwik-node-app-service, subset: primary}, weight: 50}
        - {destination: {host: qwik-node-app-service, subset: canary}, weight: 25}
        - {destination: {host: other}, weight: 25}
`))
	if err != nil {
		t.Fatal(err)
	}
	routes := set.Routes(set.VirtualService)
	if len(routes) != 1 || routes[0] != (Route{HTTP: 3, Primary: 0, Canary: 1}) {
		t.Errorf("routes %v, want only the fourth", routes)
	}
}

func TestIsHost(t *testing.T) {
	set, err := Load("../../k8s")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, namespace string
		want            bool
	}{
		{"qwik-node-app-service", "demo", true},
		{"qwik-node-app-service.demo", "demo", true},
		{"qwik-node-app-service.demo.svc", "demo", true},
		{"qwik-node-app-service.demo.svc.cluster.local", "demo", true},
		{"qwik-node-app-service.demo.svc.cluster.local", "", true},
		{"qwik-node-app-service.other.svc.cluster.local", "demo", false},
		{"qwik-node-app-service.example.com", "demo", false},
		{"qwik-node-app-service-2", "demo", false},
		{"", "demo", false},
	} {
		if got := set.IsHost(c.host, c.namespace); got != c.want {
			t.Errorf("IsHost(%q, %q) = %v", c.host, c.namespace, got)
		}
	}
}

// TestPastMesh: which VirtualServices hold for callers in the mesh too, and what the remark on the others says.
func TestPastMesh(t *testing.T) {
	set, err := Load(shipped)
	if err != nil || strings.Contains(strings.Join(set.Remarks(), "; "), "in the mesh") {
		t.Fatal(err, set.Remarks())
	}
	for name, c := range map[string]struct {
		gateways, hosts []string
		match           []*networkingapi.HTTPMatchRequest
		want            string
	}{
		"both":                        {[]string{"public", "mesh"}, []string{"app.example.com", "qwik-node-app-service"}, nil, ""},
		"no gateway is the mesh's":    {nil, []string{"qwik-node-app-service.demo.svc.cluster.local"}, nil, ""},
		"the gateway alone":           {[]string{"public"}, []string{"app.example.com", "qwik-node-app-service"}, nil, "gateways lack `mesh`"},
		"another host":                {[]string{"public", "mesh"}, []string{"app.example.com"}, nil, "hosts lack the Service"},
		"the Service elsewhere":       {[]string{"mesh"}, []string{"qwik-node-app-service.other"}, nil, "hosts lack the Service"},
		"all Services":                {[]string{"mesh"}, []string{"*.demo.svc.cluster.local"}, nil, ""},
		"those of another namespace":  {[]string{"mesh"}, []string{"*.other.svc.cluster.local"}, nil, "hosts lack the Service"},
		"a match at the gateway":      {[]string{"public", "mesh"}, []string{"qwik-node-app-service"}, []*networkingapi.HTTPMatchRequest{{Gateways: []string{"public"}}}, "match only other gateways"},
		"a match at both":             {[]string{"public", "mesh"}, []string{"qwik-node-app-service"}, []*networkingapi.HTTPMatchRequest{{Gateways: []string{"public"}}, {Gateways: []string{"mesh"}}}, ""},
		"a match that names no place": {[]string{"public", "mesh"}, []string{"qwik-node-app-service"}, []*networkingapi.HTTPMatchRequest{{}}, ""},
	} {
		vs := set.VirtualService.DeepCopy()
		vs.Namespace, vs.Spec.Gateways, vs.Spec.Hosts, vs.Spec.Http[0].Match = "demo", c.gateways, c.hosts, c.match
		if got := set.PastMesh(vs); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	set, err = Load(copyWith(t, "virtual-service.yaml", "    - mesh\n", ""))
	const want = "VirtualService qwik-node-app-vs does not route callers in the mesh: its gateways lack `mesh`; they reach a canary by its share of the pods, at any weight: add the gateway `mesh` and the host qwik-node-app-service"
	if err != nil || !slices.Contains(set.Remarks(), want) {
		t.Errorf("%v, remarks %q", err, set.Remarks())
	}
}

func FuzzLoad(f *testing.F) {
	for _, name := range []string{"service.yaml", "deployment.yaml", "virtual-service.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../k8s", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r := &Rendered{}
		if err := r.addText("fuzz.yaml", text, written); err == nil {
			_, _ = r.Set()
		}
	})
}
