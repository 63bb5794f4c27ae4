package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/usererr"
)

// caseFolder is a folder of testdata/cases: manifests as users brought them, found in public bug reports. What a case
// does not have is the base's, which is plain and works.
func caseFolder(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, from := range []string{"00-base", name} {
		paths, err := filepath.Glob(filepath.Join("testdata/cases", from, "*.*"))
		if err != nil || len(paths) == 0 {
			t.Fatal(from, paths, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, filepath.Base(path)), string(text))
		}
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestCasesAreRead: what API server and mesh take, and `kubectl apply` reads, is read.
func TestCasesAreRead(t *testing.T) {
	for _, name := range []string{"00-base", "01-duration-minutes", "02b-kustomization-kind", "22-two-routes", "24-migrate-with-sidecar"} {
		if _, err := Load(caseFolder(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, dir := range []string{"04-list", "23-guestbook/backend", "23-guestbook/frontend"} {
		if _, err := Load(filepath.Join("testdata/cases", dir)); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestDurationsAsIstioReadsThem: jsonpb, which Istio reads with, takes Go's durations; protojson takes only seconds.
func TestDurationsAsIstioReadsThem(t *testing.T) {
	set, err := Load(caseFolder(t, "01-duration-minutes"))
	if err != nil {
		t.Fatal(err)
	}
	if got := set.DestinationRule.Spec.TrafficPolicy.OutlierDetection.BaseEjectionTime.AsDuration().Minutes(); got != 15 {
		t.Errorf("15m was read as %v minutes", got)
	}
	for text, ok := range map[string]bool{"250ms": true, "1h30m": true, "1.5s": true, "90s": true, "15": false, "15 minutes": false, "1d": false} {
		dir := caseFolder(t, "00-base")
		write(t, filepath.Join(dir, "virtual-service.yaml"), strings.Replace(base(t, "virtual-service.yaml"), "    - route:", "    - timeout: "+text+"\n      route:", 1))
		_, err := Load(dir)
		if (err == nil) != ok || err != nil && (!errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "virtual-service.yaml: document 1")) {
			t.Errorf("timeout: %s: %v", text, err)
		}
	}
}

// base is a file of the plain app.
func base(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/cases/00-base", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFilesAsTheyArrive: every form in which `kubectl apply` takes an app's objects, and what else lies beside them.
func TestFilesAsTheyArrive(t *testing.T) {
	const job = "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: shop-migrate-}\nspec: {template: {spec: {restartPolicy: Never, containers: []}}}\n"
	crlf := func(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") }
	for name, c := range map[string]struct {
		files   map[string]string // on top of the base; "" removes one
		skipped []string
		want    string // of the error; "" for none
	}{
		"a chart's values":     {map[string]string{"values.yaml": "image: {tag: v1}\nmetadata: shop\n"}, []string{"values.yaml (no Kubernetes object)"}, ""},
		"a Job without a name": {map[string]string{"job.yaml": job}, []string{"Job shop-migrate-"}, ""},
		"other kinds": {map[string]string{"others.yaml": "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: c}\n---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: p}\n---\n" +
			"apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: h}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {t: 'x {{ .Values.y }}'}\n---\n" +
			"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\n---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\n"},
			[]string{"PodDisruptionBudget p", "ConfigMap m", "Service k", "HorizontalPodAutoscaler h", "CronJob c", "Gateway g"}, ""},
		"a List in a List":                       {map[string]string{"service.yaml": "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ServiceList\n  items:\n  - " + strings.ReplaceAll(strings.TrimSpace(base(t, "service.yaml")), "\n", "\n    ") + "\n"}, nil, ""},
		"a bad item":                             {map[string]string{"service.yaml": "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n"}, nil, "service.yaml: document 1: item 1: Service has no metadata.name"},
		"an empty List":                          {map[string]string{"list.yaml": "apiVersion: v1\nkind: List\nitems: []\n"}, nil, ""},
		"JSON":                                   {map[string]string{"service.yaml": "", "service.json": `{"apiVersion":"v1","kind":"Service","metadata":{"name":"shop"},"spec":{"selector":{"app":"shop"},"ports":[{"name":"http","port":80,"targetPort":"http"}]}}`}, nil, ""},
		"JSON with tabs":                         {map[string]string{"service.yaml": "", "service.json": "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\n\t\t\"name\": \"shop\"\n\t},\n\t\"spec\": {\"selector\": {\"app\": \"shop\"}, \"ports\": [{\"port\": 80}]}\n}\n"}, nil, ""},
		"JSON of no object":                      {map[string]string{"dashboard.json": `{"panels":[]}`}, []string{"dashboard.json (no Kubernetes object)"}, ""},
		"JSON one after the other":               {map[string]string{"service.yaml": "", "service.json": `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"}}` + "\n" + `{"apiVersion":"v1","kind":"Service","metadata":{"name":"shop"},"spec":{"selector":{"app":"shop"},"ports":[{"port":80}]}}`}, []string{"ConfigMap m"}, ""},
		"a document on the line that begins it":  {map[string]string{"service.yaml": base(t, "service.yaml") + "--- {apiVersion: v1, kind: ConfigMap, metadata: {name: m}}\n"}, []string{"ConfigMap m"}, ""},
		"documents that end":                     {map[string]string{"service.yaml": "%YAML 1.1\n---\n" + base(t, "service.yaml") + "...\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n"}, []string{"ConfigMap m"}, ""},
		"a document that goes on after its end":  {map[string]string{"service.yaml": "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}}\n\n" + base(t, "service.yaml")}, nil, "service.yaml: document 1: it goes on after its end"},
		"a document that goes on in braces":      {map[string]string{"service.yaml": "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}}\n{apiVersion: v1, kind: ConfigMap, metadata: {name: n}}\n"}, nil, "service.yaml: document 1: it goes on after its end"},
		"files that were joined":                 {map[string]string{"service.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n---\n\uFEFF" + base(t, "service.yaml") + "\uFEFF---\n# end\n"}, []string{"ConfigMap m"}, ""},
		"a kind whose name ends with List":       {map[string]string{"x.yaml": "apiVersion: example.com/v1\nkind: IPAllowList\nmetadata: {name: x}\nspec: {}\n"}, []string{"IPAllowList x"}, ""},
		"items that have the kind of their list": {map[string]string{"x.yaml": "apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: m}\n"}, []string{"ConfigMap m"}, ""},
		"a List of no items":                     {map[string]string{"x.yaml": "apiVersion: v1\nkind: List\nItems: []\n"}, nil, "x.yaml: document 1: the List has no items"},
		"a List of nothing":                      {map[string]string{"x.yaml": "apiVersion: v1\nkind: List\nitems:\n"}, nil, ""},
		"items that are no list":                 {map[string]string{"x.yaml": "apiVersion: v1\nkind: List\nitems: {a: b}\n"}, nil, "x.yaml: document 1: items is no list"},
		"a number with a point":                  {map[string]string{"deployment.yaml": strings.Replace(base(t, "deployment.yaml"), "replicas: 2", "replicas: 2.5", 1)}, nil, "deployment.yaml: document 1: spec.replicas: a number is not of type int32"},
		"a value that is no base64":              {map[string]string{"x.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: plain}\n"}, nil, "x.yaml: document 1: data: a value is not base64"},
		"a field that Istio does not know":       {map[string]string{"destination-rule.yaml": base(t, "destination-rule.yaml") + "  trafficPolicies: {}\n"}, nil, "destination-rule.yaml: document 1: unknown field \"trafficPolicies\""},
		"a Secret of SOPS": {map[string]string{"x.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'ENC[AES256_GCM,data:eA==,type:str]'}\nsops: {mac: 'ENC[AES256_GCM,data:eA==,type:str]', version: 3.9.0}\n",
			"deployment.yaml": base(t, "deployment.yaml") + "          envFrom: [{secretRef: {name: s}}]\n          env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: b}}}]\n"},
			[]string{"Secret s (encrypted with SOPS: the pods read the one in the cluster)"}, ""},
		"comments only":     {map[string]string{"service.yaml": "# one\n---\n# two\n---\n" + base(t, "service.yaml") + "---\n\n--- # three\n# four\n"}, nil, ""},
		"an empty file":     {map[string]string{"empty.yaml": " \n"}, nil, ""},
		".yml":              {map[string]string{"service.yaml": "", "service.yml": base(t, "service.yaml")}, nil, ""},
		"CRLF":              {map[string]string{"service.yaml": crlf(base(t, "service.yaml") + "---\n# end\n"), "deployment.yaml": crlf(base(t, "deployment.yaml"))}, nil, ""},
		"a byte order mark": {map[string]string{"service.yaml": "\uFEFF" + base(t, "service.yaml")}, nil, ""},
		"UTF-16":            {map[string]string{"service.yaml": "\xff\xfea\x00"}, nil, "service.yaml: it is UTF-16; save it as UTF-8"},
		"v1beta1": {map[string]string{
			"virtual-service.yaml": strings.Replace(base(t, "virtual-service.yaml"), "istio.io/v1", "istio.io/v1beta1", 1), "destination-rule.yaml": strings.Replace(base(t, "destination-rule.yaml"), "istio.io/v1", "istio.io/v1alpha3", 1),
		}, nil, ""},
		"a Deployment of long ago": {map[string]string{"deployment.yaml": strings.Replace(base(t, "deployment.yaml"), "apps/v1", "extensions/v1beta1", 1)}, nil, "use apps/v1"},
		"twice the same":           {map[string]string{"again.yaml": base(t, "service.yaml")}, nil, ""},
		"twice, differing":         {map[string]string{"again.yaml": strings.Replace(base(t, "service.yaml"), "80", "81", 1)}, nil, "service.yaml: document 1: Service shop is there a second time, and differs from the one in again.yaml"},
		"two of a kind":            {map[string]string{"again.yaml": strings.Replace(base(t, "service.yaml"), "name: shop", "name: other", 1)}, []string{"Service other"}, ""},
		"another app's rule": {map[string]string{"again.yaml": strings.Replace(base(t, "service.yaml"), "shop", "cart", 2) + "---\n" + strings.Replace(base(t, "destination-rule.yaml"), "shop", "cart", 2)},
			[]string{"Service cart", "DestinationRule cart"}, ""},
		"another app's rule alone": {map[string]string{"destination-rule.yaml": "", "again.yaml": strings.Replace(base(t, "service.yaml"), "shop", "cart", 2) + "---\n" + strings.NewReplacer("name: shop", "name: cart", "host: shop", "host: cart.default.svc.cluster.local").Replace(base(t, "destination-rule.yaml"))},
			[]string{"Service cart", "DestinationRule cart"}, ""},
		"two rules for one host":  {map[string]string{"again.yaml": strings.Replace(base(t, "destination-rule.yaml"), "name: shop", "name: again", 1)}, nil, "DestinationRule shop is for the same Service as again: keep one"},
		"a port of nobody":        {map[string]string{"service.yaml": strings.Replace(base(t, "service.yaml"), "targetPort: http", "targetPort: web", 1)}, nil, "service.yaml: Service shop: spec.ports: port 80 leads to port web, which no container of Deployment shop-primary has; give a container port that name"},
		"a template":              {map[string]string{"deployment.yaml": "# {{ a comment }}\n" + strings.Replace(base(t, "deployment.yaml"), "registry.example.com/our-org/shop", "{{ .Values.image }}", 1)}, nil, "deployment.yaml: document 1: line 17 is a template"},
		"a quoted template":       {map[string]string{"service.yaml": strings.Replace(base(t, "service.yaml"), "name: shop", "name: '{{ include \"shop.name\" . }}'", 1)}, nil, "service.yaml: document 1: line 3 is a template"},
		"a template that reads":   {map[string]string{"service.yaml": strings.Replace(base(t, "service.yaml"), "app: shop", "app: '{{ .Release.Name }}'", 1)}, nil, "service.yaml: document 1: line 5 is a template"},
		"braces of the app's":     {map[string]string{"deployment.yaml": base(t, "deployment.yaml") + "          args: ['--format={{message}}']\n"}, nil, ""},
		"a template in a comment": {map[string]string{"deployment.yaml": strings.Replace(base(t, "deployment.yaml"), "replicas: 2", "replicas: 2 # was {{ .Values.replicas }}", 1)}, nil, ""},
		"the app's own template":  {map[string]string{"deployment.yaml": base(t, "deployment.yaml") + "          command: [watch, '--format={{.State}}']\n          args: ['{{ if .OK }}up{{ end }}']\n          env: [{name: FORMAT, value: '{{ .Time }}'}]\n"}, nil, ""},
		"a template of Vault's": {map[string]string{"deployment.yaml": strings.Replace(base(t, "deployment.yaml"), "      labels: {app: shop, version: primary}\n    spec:",
			"      labels: {app: shop, version: primary}\n      annotations:\n        vault.hashicorp.com/agent-inject-template-db: |\n          {{- with secret \"db/creds/shop\" }}\n          {{ .Data.password }}\n          {{- end }}\n    spec:", 1)}, nil, ""},
		"beside a template of Vault's": {map[string]string{"deployment.yaml": strings.NewReplacer("      labels: {app: shop, version: primary}\n    spec:",
			"      labels: {app: shop, version: primary}\n      annotations: {a: '{{ .Data.password }}'}\n    spec:", "our-org/shop\n", "our-org/shop:{{ .Values.tag }}\n").Replace(base(t, "deployment.yaml"))}, nil, "deployment.yaml: document 1: line 17 is a template"},
		"a template in quotes":    {map[string]string{"service.yaml": strings.Replace(base(t, "service.yaml"), "name: shop", `name: "{{ include \"shop.name\" . }}"`, 1)}, nil, "service.yaml: document 1: line 3 is a template"},
		"a template for a number": {map[string]string{"deployment.yaml": strings.Replace(base(t, "deployment.yaml"), "replicas: 2", "replicas: '{{ .Values.replicas }}'", 1)}, nil, "deployment.yaml: document 1: spec.replicas: a string is not of type int32; correct it; if line 7 is a template"},
		"a template for a port":   {map[string]string{"service.yaml": strings.Replace(base(t, "service.yaml"), "targetPort: http", "targetPort: '{{ .Values.port }}'", 1)}, nil, "service.yaml: document 1: line 6 is a template"},
		"a template for a host":   {map[string]string{"virtual-service.yaml": strings.Replace(base(t, "virtual-service.yaml"), "shop.example.com", "'{{ .Values.host }}'", 1)}, nil, "virtual-service.yaml: document 1: line 5 is a template"},
		"the line of a mistake":   {map[string]string{"service.yaml": "# one\n---\n# two\n" + strings.Replace(base(t, "service.yaml"), "kind: Service", "kind: [", 1)}, nil, "line 6"},
		"folders inside":          {map[string]string{"service.yaml": "", "base/service.yaml": base(t, "service.yaml")}, nil, "folders inside it (base) are not read"},
		"a chart":                 {map[string]string{"service.yaml": "", "Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\n", "templates/service.yaml": "{{ x }}"}, nil, "templates/service.yaml:1: function \"x\" not defined"},
		"values for a Service":    {map[string]string{"service.yaml": "metadata: {name: shop}\n"}, nil, "no manifest of kind Service was found (not read as one: service.yaml (no Kubernetes object))"},
		"an export": {map[string]string{"service.yaml": strings.Replace(base(t, "service.yaml"), "metadata: {name: shop}", "metadata: {name: shop, uid: u, resourceVersion: '5', managedFields: [{manager: kubectl}], creationTimestamp: '2026-01-01T00:00:00Z', generation: 2, annotations: {kubectl.kubernetes.io/last-applied-configuration: x}}", 1) +
			"  clusterIP: 10.0.0.1\n  clusterIPs: [10.0.0.1]\nstatus: {loadBalancer: {}}\n"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := caseFolder(t, "00-base")
			for file, text := range c.files {
				write(t, filepath.Join(dir, file), text)
				if text == "" {
					if err := os.Remove(filepath.Join(dir, file)); err != nil {
						t.Fatal(err)
					}
				}
			}
			set, err := Load(dir)
			if c.want != "" {
				if !errors.As(err, new(*usererr.Error)) || !strings.Contains(strings.ReplaceAll(err.Error(), dir+"/", ""), c.want) {
					t.Errorf("got %v, want a usererr.Error with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			left := set.left()
			for i, name := range left {
				left[i] = strings.TrimPrefix(name, dir+"/")
			}
			if diff := cmp.Diff(c.skipped, left); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
			if s := set.Service; s.Name != "shop" || s.UID != "" || s.ResourceVersion != "" || s.ManagedFields != nil || len(s.Annotations) > 0 || s.Spec.ClusterIP != "" || s.Generation != 0 {
				t.Errorf("the Service was read as %+v", s)
			}
			if got := set.VirtualService.APIVersion + " " + set.DestinationRule.APIVersion; got != "networking.istio.io/v1 networking.istio.io/v1" {
				t.Errorf("the client's versions are %s", got)
			}
		})
	}
}

// TestKustomization: what a folder's kustomization names is rendered, what it does not is read as it is, and nothing is
// fetched.
func TestKustomization(t *testing.T) {
	dir := caseFolder(t, "02b-kustomization-kind")
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{dir + "/kustomization.yaml is rendered; what it does not name is read as it is: " + dir + "/destination-rule.yaml, " + dir + "/virtual-service.yaml", "VirtualService shop does not route callers in the mesh: its gateways lack `mesh`; they reach a canary by its share of the pods, at any weight: add the gateway `mesh` and the host shop"}
	if diff := cmp.Diff(want, set.Remarks()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	top := t.TempDir()
	for _, file := range []string{"deployment.yaml", "service.yaml", "destination-rule.yaml", "virtual-service.yaml"} {
		write(t, filepath.Join(top, "base", file), base(t, file))
	}
	write(t, filepath.Join(top, "base/kustomization.yaml"), "resources: [deployment.yaml, service.yaml, destination-rule.yaml, virtual-service.yaml]\n")
	overlay := filepath.Join(top, "overlays/prod")
	write(t, filepath.Join(overlay, "more.yaml"), "spec: {replicas: 7}\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop-primary}\n")
	write(t, filepath.Join(overlay, "kustomization.yaml"), "resources: [../../base]\nnamespace: prod\npatches: [{path: more.yaml}]\nconfigMapGenerator: [{name: c, literals: [a=b]}]\n")
	if set, err = Load(overlay); err != nil {
		t.Fatal(err)
	}
	if remarks := set.Remarks(); *set.Deployment.Spec.Replicas != 7 || set.Service.Namespace != "prod" || len(remarks) != 3 || !strings.Contains(remarks[2], "left alone, to be applied separately if at all: ConfigMap c-") {
		t.Errorf("rendered as %+v, remarks %q", set.Deployment.Spec, remarks)
	}
	for text, want := range map[string]string{
		"resources: [https://example.com/base]\n": "kustomization.yaml: https://example.com/base is fetched from elsewhere",
		"resources: [nowhere.yaml]\n":             "nowhere.yaml",
		"resources: [\n":                          "kustomization.yaml: ",
	} {
		write(t, filepath.Join(overlay, "kustomization.yaml"), text)
		if _, err := Load(overlay); !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
