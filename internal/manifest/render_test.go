package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
)

// shopChart is a chart that works, with more files or others.
func shopChart(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for file, text := range map[string]string{
		"Chart.yaml":  "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
		"values.yaml": "replicas: 2\nhost: shop.example.com\n",
		"templates/deployment.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {{ .Release.Name }}\nspec:\n  replicas: {{ .Values.replicas }}\n  selector: {matchLabels: {app: shop}}\n" +
			"  template:\n    metadata: {labels: {app: shop}}\n    spec: {containers: [{name: app, image: registry.example.com/our-org/shop, ports: [{name: http, containerPort: 3000}]}]}\n",
		"templates/service.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: {{ .Release.Name }}}\nspec: {selector: {app: shop}, ports: [{port: 80, targetPort: http}]}\n",
		"templates/route.yaml":   "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: {{ .Release.Name }}}\nspec: {hosts: [{{ .Values.host }}], gateways: [public/public], http: [{route: [{destination: {host: {{ .Release.Name }}}}]}]}\n",
	} {
		if _, other := files[file]; !other {
			write(t, filepath.Join(dir, file), text)
		}
	}
	for file, text := range files {
		write(t, filepath.Join(dir, file), text)
	}
	return dir
}

// TestCharts: what a chart does that would make a release depend on where it is rendered is refused, by file and line.
func TestCharts(t *testing.T) {
	for name, c := range map[string]struct {
		files  map[string]string
		source Source
		want   string // of the error; "" for none
	}{
		"as it is":                    {},
		"a value of nothing":          {files: map[string]string{"templates/x.yaml": "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: {{ .Values.a.b }}\n"}, want: "templates/x.yaml:4: executing"},
		"a mistake in a helper":       {files: map[string]string{"templates/_h.tpl": "\n{{ define \"h\" }}\n{{ .Values.a.b }}{{ end }}", "templates/x.yaml": "{{ include \"h\" . }}"}, want: "templates/_h.tpl:3: executing \"h\" at <.Values.a.b>: nil pointer evaluating interface {}.b (rendered for DIR/templates/x.yaml:1)"},
		"a template that has no end":  {files: map[string]string{"templates/x.yaml": "a: 1\n{{ if .Values.x }}\n"}, want: "templates/x.yaml:3: unexpected EOF"},
		"a function that is none":     {files: map[string]string{"templates/x.yaml": "\n{{ nope }}\n"}, want: "templates/x.yaml:2: function \"nope\" not defined"},
		"a value that is required":    {files: map[string]string{"templates/x.yaml": "{{ required \"name the host\" .Values.nothing }}"}, want: "templates/x.yaml:1: name the host"},
		"a chart that gives up":       {files: map[string]string{"templates/x.yaml": "{{ fail \"not like this\" }}"}, want: "templates/x.yaml:1: not like this"},
		"a lookup":                    {files: map[string]string{"templates/x.yaml": "\n{{ (lookup \"v1\" \"Secret\" \"a\" \"b\").data }}"}, want: "templates/x.yaml:2: executing \"shop/templates/x.yaml\" at <lookup \"v1\" \"Secret\" \"a\" \"b\">: error calling lookup: lookup asks the cluster, which rendering does not"},
		"a lookup that is allowed":    {files: map[string]string{"templates/x.yaml": "{{ $kept := lookup \"v1\" \"Secret\" \"a\" \"b\" }}{{ if $kept }}{{ fail \"found\" }}{{ end }}"}, source: Source{AllowLookup: true}},
		"chance where it is allowed":  {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData:\n  a: {{ default (randAlphaNum 9) (lookup \"v1\" \"Secret\" \"a\" \"b\").data }}\n"}, source: Source{AllowLookup: true}, want: "it renders differently each time"},
		"a lookup that is not asked":  {files: map[string]string{"templates/x.yaml": "{{ if .Values.x }}{{ lookup \"v1\" \"Secret\" \"a\" \"b\" }}{{ end }}"}},
		"chance":                      {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData:\n  a: {{ randAlphaNum 4 }}\n"}, want: "templates/x.yaml: it renders differently each time (randAlphaNum, line 5)"},
		"chance that is not used":     {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData:\n  a: {{ .Values.host | default (randAlphaNum 4) }}\n"}},
		"a certificate made up":       {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData:\n  a: {{ (genSelfSignedCert \"a\" nil nil 365).Cert | quote }}\n"}, want: "templates/x.yaml: it renders differently each time"},
		"today":                       {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  {{- with $d := now }}\n  a: {{ $d | date \"2006-01\" | quote }}\n  {{- end }}\n"}, want: "templates/x.yaml: it renders differently each time (now, line 5)"},
		"chance in a test's name":     {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: test-{{ randAlphaNum 5 | lower }}\n  annotations: {helm.sh/hook: test-success}\n"}},
		"now in a text":               {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: not now, b: {{ \"now\" | quote }}}\n"}},
		"the time in its notes":       {files: map[string]string{"templates/NOTES.txt": "{{ now }}"}},
		"an order that is none":       {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: {{ dict \"a\" 1 \"b\" 2 \"c\" 3 \"d\" 4 \"e\" 5 \"f\" 6 \"g\" 7 | keys | join \"\" }}}\n"}, want: "templates/x.yaml: it renders differently each time (keys, line 4)"},
		"no YAML":                     {files: map[string]string{"templates/x.yaml": "a: b\n c: {{ .Values.host }}\n"}, want: "templates/x.yaml: as it is rendered, document 1: line 2: "},
		"an unknown field":            {files: map[string]string{"templates/service.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {selectors: {app: shop}, selector: {app: shop}, ports: [{port: 80, targetPort: http}]}\n"}, want: "templates/service.yaml: as it is rendered, document 1: unknown field \"spec.selectors\""},
		"two of one name":             {files: map[string]string{"templates/again.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: {{ .Release.Name }}}\nspec: {selector: {app: shop}, ports: [{port: 81, targetPort: http}]}\n"}, want: "templates/service.yaml: as it is rendered, document 1: Service shop is there a second time, and differs from the one in DIR/templates/again.yaml: keep one"},
		"two others of one name":      {files: map[string]string{"templates/x.yaml": "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x}\nspec: {a: 1}\n---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x}\nspec: {a: 2}\n"}, want: "document 2: CronJob x is there a second time"},
		"a key that is nowhere":       {files: map[string]string{"templates/deployment.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\nspec:\n  selector: {matchLabels: {app: shop}}\n  template:\n    metadata: {labels: {app: shop}}\n    spec: {containers: [{name: app, image: x, ports: [{name: http, containerPort: 3000}], env: [{name: A, valueFrom: {configMapKeyRef: {name: x, key: b}}}]}]}\n", "templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n"}, want: "spec.template.spec.containers[app].env[A]: ConfigMap x has no key \"b\""},
		"a dependency that is away":   {files: map[string]string{"Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\ndependencies: [{name: redis, version: 1.x.x, repository: 'https://charts.example.com'}]\n"}, want: "Chart.yaml: the dependency redis is not in the folder charts; run `helm dependency build` first"},
		"a library chart":             {files: map[string]string{"Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\ntype: library\n"}, want: "it is a library chart"},
		"a chart that is none":        {files: map[string]string{"Chart.yaml": "name: shop\n"}, want: "it is no chart that Helm can read"},
		"another Kubernetes":          {files: map[string]string{"Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\nkubeVersion: '>=1.99'\n"}, want: "Chart.yaml: the chart is for Kubernetes >=1.99, and is rendered for v1.34.0; say in render.kubeVersion"},
		"the Kubernetes it wants":     {files: map[string]string{"Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\nkubeVersion: '>=1.99'\n"}, source: Source{KubeVersion: "1.99.2"}},
		"a version that is none":      {source: Source{KubeVersion: "new"}, want: "render.kubeVersion: \"new\" is not a version"},
		"a release that has no name":  {source: Source{ReleaseName: "Shop_1"}, want: "render.releaseName: \"Shop_1\""},
		"values against the schema":   {files: map[string]string{"values.schema.json": `{"properties": {"replicas": {"type": "string"}}}`}, want: "got number, want string"},
		"a schema from elsewhere":     {files: map[string]string{"values.schema.json": `{"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"replicas": {"$ref": "http://127.0.0.1:1/schema.json"}}}`}},
		"values of no file":           {source: Source{Values: []string{"nowhere.yaml"}}, want: "render.values: open nowhere.yaml"},
		"a kustomization beside it":   {files: map[string]string{"kustomization.yaml": "resources: []\n"}, want: "it is a Helm chart and a kustomization"},
		"braces for the app":          {files: map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: {{ \"{{ .Values.x }}\" | quote }}}\n"}},
		"a file that asks for itself": {files: map[string]string{"templates/x.yaml": "{{ define \"x\" }}{{ include \"x\" . }}{{ end }}{{ include \"x\" . }}"}, want: "templates/x.yaml:1"},
	} {
		t.Run(name, func(t *testing.T) {
			source := c.source
			source.Path = shopChart(t, c.files)
			set, err := Read(t.Context(), source)
			if c.want != "" {
				if want := strings.ReplaceAll(c.want, "DIR", source.Path); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want a usererr.Error with %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if set.Deployment.Name != "shop-primary" || *set.Deployment.Spec.Replicas != 2 {
				t.Errorf("%s with %d replicas", set.Deployment.Name, *set.Deployment.Spec.Replicas)
			}
		})
	}
}

// TestChartValues: a later file of values wins, and its null removes what the chart has by default, also where an earlier file
// has a value, as with Helm. A release has the app's name unless another one is given, and the chart knows its namespace and
// the APIs of the mesh.
func TestChartValues(t *testing.T) {
	dir := shopChart(t, map[string]string{
		"values.yaml": "replicas: 2\nhost: shop.example.com\nlist: {c: 9, d: 9, e: 9}\n",
		"a/one.yaml":  "replicas: 3\nlist: {a: 1, b: 1, c: 1, d: null}\n", "a/two.yaml": "list: {b: 2, c: null, e: {f: 2}}\n",
		"templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: {{ .Release.Namespace }}}\ndata: {list: {{ .Values.list | toJson | quote }}, mesh: {{ .Capabilities.APIVersions.Has \"networking.istio.io/v1\" | quote }}}\n",
	})
	set, err := Read(t.Context(), Source{Path: dir, App: "web", Namespace: "production", Values: []string{dir + "/a/one.yaml", dir + "/a/two.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	x := set.ConfigMaps["x"]
	if set.App != "web" || *set.Deployment.Spec.Replicas != 3 || x.Namespace != "production" || x.Data["list"] != `{"a":1,"b":2,"e":{"f":2}}` || x.Data["mesh"] != "true" {
		t.Errorf("app %s, %d replicas, %v", set.App, *set.Deployment.Spec.Replicas, x)
	}
	if set, err = Read(t.Context(), Source{Path: dir, App: "web", ReleaseName: "green"}); err != nil || set.App != "green" {
		t.Errorf("%v, %v", set, err)
	}
	for text, want := range map[string]string{"replicas: 3\nreplicas: 4\n": "bad.yaml: ", "- a\n": "bad.yaml: "} {
		write(t, dir+"/a/bad.yaml", text)
		if _, err := Read(t.Context(), Source{Path: dir, Values: []string{dir + "/a/bad.yaml"}}); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestRenderingKeepsSecrets: what a library writes about values is in no log, and in no error.
func TestRenderingKeepsSecrets(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	for _, c := range []struct{ values, template string }{
		{"db: hunter2-of-the-db\n", "{{ .Values.db.password }}"},
		{"template: '{{ .Values.nothing.at.all }} hunter2-of-the-template'\n", "{{ tpl .Values.template . }}"},
		{"template: '{{ hunter2-of-the-template'\n", "{{ tpl .Values.template . }}"},
		{"pin: hunter2-of-the-schema\n", ""},
		{"db: {password: hunter2-of-the-db}\n", "{{ mustRegexMatch (print \"(\" .Values.db.password) \"a\" }}"},
		{"db: {password: hunter2-of-the-db}\n", "{{ include .Values.db.password . }}"},
		{"db: {auth: [hunter2-of-the-list]}\n", "{{ fail (printf \"%s is too short\" (index .Values.db.auth 0)) }}"},
		{"db: {password: hunter2-of-the-db}\n", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ndata:\n  password: {{ .Values.db.password }}\n"},
		{"db: {password: hunter2-of-the-db}\n", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData:\n  password: {{ .Values.db.password }}\n 'bad': {{ .Values.db.password }}\n"},
	} {
		dir := shopChart(t, map[string]string{"values.schema.json": `{"properties": {"pin": {"pattern": "^[0-9]*$"}}}`, "values.yaml": "replicas: 2\nhost: a.example.com\n" + c.values, "templates/x.yaml": c.template, "over.yaml": "db: {password: {deeper: hunter2-of-the-file}}\nhost: {a: hunter2-of-the-host}\n"})
		for _, values := range [][]string{nil, {dir + "/over.yaml"}} {
			if _, err := Read(t.Context(), Source{Path: dir, Values: values}); err == nil && values == nil || err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: %v", c.template, err)
			}
		}
	}
	if strings.Contains(logged.String(), "hunter2") {
		t.Errorf("the log has %s", logged.String())
	}
}

// TestKustomizationsKeepSecrets: what a generator cannot read is not in the error, nor what is beside it.
func TestKustomizationsKeepSecrets(t *testing.T) {
	for _, generator := range []string{
		"{name: db, literals: [PASSWORD=hunter2, TOKEN]}",
		"{name: db, literals: [PASSWORD=hunter2, =hunter2]}",
		"{name: db, literals: ['A=hunter2]: x', hunter2]}",
		"{name: db, literals: [\"A=hunter2\\nhunter2\", hunter2-and-more]}",
		"{name: db, envs: [db.env]}",
		"{name: db, literals: [PASSWORD=hunter2, PASSWORD=hunter2]}",
		"{name: db, literals: ['a b=hunter2']}",
		"{literals: [PASSWORD=hunter2]}",
		"{name: db, literals: {PASSWORD: hunter2}}",
		"{name: db, literals: PASSWORD=hunter2}",
		"{name: db, type: [], literals: [PASSWORD=hunter2]}",
		"{name: db, behavior: replace, literals: [PASSWORD=hunter2]}",
		"{name: db, behavior: other, literals: [PASSWORD=hunter2]}",
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "db.env"), "PASSWORD=hunter2\nhunter2\xff=hunter2\n")
		write(t, filepath.Join(dir, "kustomization.yaml"), "secretGenerator: ["+generator+"]\n")
		_, err := Load(dir)
		if !errors.As(err, new(*usererr.Error)) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "104 117 110 116 101 114 50") {
			t.Errorf("%s: %v", generator, err)
		}
	}
}

// TestKustomizationsFetchAndRunNothing: neither the folder's own nor one that it is made of.
func TestKustomizationsFetchAndRunNothing(t *testing.T) {
	const exec = "apiVersion: v1\nkind: Run\nmetadata: {name: run, annotations: {config.kubernetes.io/function: 'exec: {path: ./run.sh}'}}\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a base of a base":        {map[string]string{"kustomization.yaml": "resources: [a]\n", "a/kustomization.yaml": "resources: [../b]\n", "b/kustomization.yml": "resources: ['https://example.com/x.yaml']\n"}, "b/kustomization.yml: https://example.com/x.yaml is fetched from elsewhere"},
		"a component":             {map[string]string{"kustomization.yaml": "components: [c]\n", "c/kustomization.yaml": "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\nresources: ['git@example.com:a/b.git']\n"}, "c/kustomization.yaml: git@example.com:a/b.git is fetched"},
		"a repository":            {map[string]string{"kustomization.yaml": "resources: [github.com/our-org/base]\n"}, "github.com/our-org/base is fetched"},
		"a repository in capital": {map[string]string{"kustomization.yaml": "resources: ['HTTPS://example.com/x.git']\n"}, "HTTPS://example.com/x.git is fetched"},
		"a patch":                 {map[string]string{"kustomization.yaml": "patches: [{path: 'https://example.com/p.yaml'}]\n"}, "https://example.com/p.yaml is fetched"},
		"a file of a generator":   {map[string]string{"kustomization.yaml": "configMapGenerator: [{name: c, files: ['a=https://example.com/a']}]\n"}, "https://example.com/a is fetched"},
		"an OpenAPI schema":       {map[string]string{"kustomization.yaml": "openapi: {path: 'http://example.com/s.json'}\n"}, "http://example.com/s.json is fetched"},
		"a transformer":           {map[string]string{"kustomization.yaml": "transformers: [t.yaml]\n", "t.yaml": "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: t}\npath: https://example.com/p.yaml\n"}, "https://example.com/p.yaml is fetched"},
		"a transformer, written":  {map[string]string{"kustomization.yaml": "transformers:\n- |-\n  apiVersion: builtin\n  kind: PatchTransformer\n  metadata: {name: t}\n  path: https://example.com/p.yaml\n"}, "https://example.com/p.yaml is fetched"},
		"a chart":                 {map[string]string{"kustomization.yaml": "helmCharts: [{name: shop, repo: 'https://charts.example.com'}]\n"}, "helmCharts would run helm and fetch a chart; keep the chart in the repository"},
		"a program":               {map[string]string{"kustomization.yaml": "generators: [run.yaml]\n", "run.yaml": exec, "run.sh": "#!/bin/sh\ntouch ran\n"}, "external plugins disabled"},
		"a file above":            {map[string]string{"kustomization.yaml": "resources: [../../etc/x.yaml]\n"}, "kustomization.yaml: "},
		"itself":                  {map[string]string{"kustomization.yaml": "resources: [a]\n", "a/kustomization.yaml": "resources: [../a]\n"}, "cycle"},
		"two files":               {map[string]string{"kustomization.yaml": "", "Kustomization": ""}, "there is a Kustomization too"},
		"a text for a list":       {map[string]string{"kustomization.yaml": "resources: x.yaml\n"}, "kustomization.yaml: "},
		"nothing":                 {map[string]string{"kustomization.yaml": "\n"}, "kustomization.yaml: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				write(t, filepath.Join(dir, file), text)
			}
			_, err := Load(dir)
			if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a usererr.Error with %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
				t.Error("a program was run")
			}
		})
	}
}

// TestAlone: what a library panics of is an error, and what does not end is left.
func TestAlone(t *testing.T) {
	err := alone(t.Context(), "kustomization.yaml", func() error { panic("odd") })
	if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "kustomization.yaml: the library that renders it failed: odd") {
		t.Error(err)
	}
	if err := alone(t.Context(), "a", func() error { return nil }); err != nil {
		t.Error(err)
	}
}

// TestStandardInput: what another program renders is read as a folder's file is.
func TestStandardInput(t *testing.T) {
	all := ""
	for _, file := range []string{"deployment.yaml", "service.yaml", "destination-rule.yaml", "virtual-service.yaml"} {
		all += base(t, file) + "---\n"
	}
	set, err := Read(t.Context(), Source{Path: "-", Stdin: strings.NewReader(all)})
	if err != nil || set.App != "shop" {
		t.Fatal(set, err)
	}
	for _, c := range []struct {
		in   io.Reader
		want string
	}{
		{nil, "manifests: - is the standard input, and there is none"},
		{strings.NewReader(" \n"), "manifests: nothing was written to the standard input"},
		{io.LimitReader(endless{}, mostInput+2), "has more than 32 MiB"},
		{strings.NewReader("kind: [\n"), "standard input: document 1: "},
		{strings.NewReader("kind: Service\n"), "standard input: document 1: has no kind or no apiVersion"},
	} {
		if _, err := Read(t.Context(), Source{Path: "-", Stdin: c.in}); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// endless is input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '#'
	}
	return len(p), nil
}

// TestSubfolders: they are read on request, in the order of their names; a chart or a kustomization among them is not.
func TestSubfolders(t *testing.T) {
	dir := t.TempDir()
	for file, at := range map[string]string{"deployment.yaml": "a", "service.yaml": "a/b", "destination-rule.yaml": "c", "virtual-service.yaml": "."} {
		write(t, filepath.Join(dir, at, file), base(t, file))
	}
	write(t, filepath.Join(dir, ".git/x.yaml"), "kind: [")
	if err := os.Symlink(dir, filepath.Join(dir, "a/again")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "folders inside it (a, c) are not read without render.subfolders") {
		t.Error(err)
	}
	if _, err := Read(t.Context(), Source{Path: dir, Subfolders: true}); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(dir, "c/kustomization.yaml"), "resources: [destination-rule.yaml]\n")
	if _, err := Read(t.Context(), Source{Path: dir, Subfolders: true}); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "/c: it is a kustomization among folders of plain files") {
		t.Error(err)
	}
}

// TestSeveralApps: which of several Deployments and Services is the app's, and what becomes of the others.
func TestSeveralApps(t *testing.T) {
	deployment := func(name, app string) string {
		return fmt.Sprintf("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: %s}\nspec: {selector: {matchLabels: {app: %s}}, template: {metadata: {labels: {app: %s}}, spec: {containers: [{name: x, image: registry.example.com/%s, ports: [{containerPort: 80}]}]}}}\n---\n", name, app, app, app)
	}
	service := func(name, app, more string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {selector: {app: %s}, ports: [{port: 80}]%s}\n---\n", name, app, more)
	}
	route := func(host string) string {
		return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [a], http: [{route: [{destination: {host: %s}}]}]}\n---\n", host)
	}
	volume := "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: v}\nspec: {accessModes: [ReadWriteOncePod]}\n---\n"
	for name, c := range map[string]struct {
		text, app, gateway string
		hosts              []string
		want, problem      string // the Deployment and the Service; or of the error
	}{
		"by the route":          {text: deployment("a", "a") + deployment("b", "b") + service("a", "a", "") + service("b", "b", "") + route("b"), want: "b-primary b"},
		"by its name":           {text: deployment("a", "a") + deployment("b", "b") + service("a", "a", "") + service("b", "b", "") + route("a"), app: "a", want: "a-primary a"},
		"by nothing":            {text: deployment("a", "a") + deployment("b", "b") + service("a", "a", "") + service("b", "b", ""), problem: "app: there are several Deployments, and no route shows which one is the app: a, b"},
		"by another name":       {text: deployment("a", "a") + deployment("b", "b") + service("a", "a", ""), app: "c", problem: "app: none of the Deployments is c: a, b"},
		"a headless Service":    {text: deployment("a", "a") + service("x", "a", ", clusterIP: None") + service("w", "a", "") + route("w"), want: "a-primary w"},
		"a Service named alike": {text: deployment("a", "a") + service("a", "a", "") + service("a-external", "a", ", type: LoadBalancer"), gateway: "x/y", hosts: []string{"h"}, want: "a-primary a"},
		"two Services":          {text: deployment("a", "a") + service("x", "a", "") + service("w", "a", ""), problem: "several Services select the app's pods: x, w"},
		"a Service of others":   {text: deployment("a", "a") + service("x", "b", "") + service("w", "c", ""), problem: "no manifest of kind Service that selects the pods of Deployment a was found"},
		"a track's name":        {text: deployment("a", "a") + deployment("a-canary", "c") + service("a", "a", "") + route("a"), problem: "Deployment a-canary has the name that a track of a has"},
		"no VirtualService":     {text: deployment("a", "a") + service("a", "a", ""), problem: "kind: VirtualService\nmetadata:\n  name: a\nspec:\n  gateways:\n  - NAMESPACE/GATEWAY\n  - mesh\n  hosts:\n  - app.example.com\n  - a\n  http:\n  - route:\n    - destination:\n        host: a\n        subset: primary\n      weight: 100\n    - destination:\n        host: a\n        subset: canary\n"},
		"a gateway, no host":    {text: deployment("a", "a") + service("a", "a", ""), gateway: "x/y", problem: "say in render.hosts for which hosts it is made"},
		"one volume, one pod":   {text: strings.Replace(deployment("a", "a"), "containers:", "volumes: [{name: v, persistentVolumeClaim: {claimName: v}}], containers:", 1) + service("a", "a", "") + route("a") + volume, problem: "PersistentVolumeClaim v is ReadWriteOncePod"},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Read(t.Context(), Source{Path: "-", Stdin: strings.NewReader(c.text), App: c.app, Gateway: c.gateway, Hosts: c.hosts})
			if c.problem != "" {
				if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), c.problem) {
					t.Errorf("got %v, want a usererr.Error with %q", err, c.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := set.Deployment.Name + " " + set.Service.Name; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestAChartOfThirtyTemplates is rendered in less than a second of a processor's, as often as it takes to see that it is the
// same each time.
func TestAChartOfThirtyTemplates(t *testing.T) {
	dir, before := thirtyTemplates(t), processorTime(t)
	if _, err := Render(t.Context(), Source{Path: dir}); err != nil {
		t.Fatal(err)
	}
	if took := processorTime(t) - before; took > time.Second {
		t.Errorf("rendered in %v", took)
	}
}

// processorTime is what this process has used so far, on however busy a machine.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func thirtyTemplates(t testing.TB) string {
	dir := t.TempDir()
	put := func(file, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n")
	put("values.yaml", "secret: given\n")
	put("templates/_helpers.tpl", "{{- define \"labels\" }}\n    app.kubernetes.io/name: {{ .Chart.Name }}\n    app.kubernetes.io/instance: {{ .Release.Name }}\n{{- end }}")
	for i := range 30 {
		put(fmt.Sprintf("templates/%02d.yaml", i), fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-%d\n  labels: {{- include \"labels\" . }}\ndata:\n  {{- range $i := until 50 }}\n  key-{{ $i }}: {{ printf \"%%s-%%d\" $.Release.Name $i | quote }}\n  {{- end }}\n  secret: {{ .Values.secret | default (randAlphaNum 20) | quote }}\n", i))
	}
	return dir
}

func BenchmarkAChartOfThirtyTemplates(b *testing.B) {
	dir := thirtyTemplates(b)
	for b.Loop() {
		if _, err := Render(b.Context(), Source{Path: dir}); err != nil {
			b.Fatal(err)
		}
	}
}
