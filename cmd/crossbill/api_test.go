package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/release"
)

// apiServer is a Kubernetes API server with Istio's types and one empty namespace, shop. It answers a dry run as
// if it had been written, and refuses every other write. It differs from a real one in that it does no defaulting
// and no validation: what a write comes to is shown by the tests of package rollout and by the rehearsal.
type apiServer struct {
	mu       sync.Mutex
	requests []string
	writes   []string // that are no dry runs
	warning  string   // comes with the answer to each write
	ledgers  map[string]*release.Ledger
	newer    bool // a later Crossbill has written them
}

// ledger is an app's ledger as the server has it; nil if it has none.
func (s *apiServer) ledger(app string) map[string]any {
	ledger, ok := s.ledgers[app]
	if !ok {
		return nil
	}
	text := ledger.String()
	if s.newer {
		text = strings.Replace(text, `"version": 1`, `"version": 1000`, 1)
	}
	return map[string]any{
		"kind": "ConfigMap", "apiVersion": "v1",
		"metadata": map[string]any{"name": "crossbill-" + app, "namespace": "shop", "resourceVersion": "1", "labels": map[string]any{"app": app, "app.kubernetes.io/managed-by": "crossbill"}},
		"data":     map[string]any{"ledger.json": text},
	}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	answer := func(code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	status := func(code int, reason string) {
		answer(code, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": r.URL.Path + ": " + reason, "code": code})
	}
	if app, ok := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/shop/configmaps/crossbill-"); ok && r.Method == http.MethodGet && s.ledger(app) != nil {
		answer(http.StatusOK, s.ledger(app))
		return
	}
	switch {
	case r.Method == http.MethodGet && len(s.ledgers) > 0 && filepath.Base(r.URL.Path) == "configmaps":
		items := []any{}
		for _, app := range slices.Sorted(maps.Keys(s.ledgers)) {
			items = append(items, s.ledger(app))
		}
		answer(http.StatusOK, map[string]any{"kind": "ConfigMapList", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": "1"}, "items": items})
	case r.Method == http.MethodGet && r.URL.Path == "/apis/networking.istio.io/v1":
		var resources []any
		for _, kind := range []string{"VirtualService", "DestinationRule", "Gateway"} {
			resources = append(resources, map[string]any{"name": strings.ToLower(kind) + "s", "namespaced": true, "kind": kind, "verbs": []string{"get", "patch"}})
		}
		answer(http.StatusOK, map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "networking.istio.io/v1", "resources": resources})
	case r.URL.Path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews": // of an account that may do all
		answer(http.StatusCreated, map[string]any{"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": map[string]any{"allowed": true}})
	case r.Method == http.MethodGet && r.URL.Path == "/version":
		answer(http.StatusOK, map[string]any{"gitVersion": "v1.37.2"})
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/namespaces/shop":
		answer(http.StatusOK, map[string]any{"kind": "Namespace", "apiVersion": "v1", "metadata": map[string]any{"name": "shop"}})
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/namespaces":
		answer(http.StatusOK, map[string]any{"kind": "NamespaceList", "apiVersion": "v1", "items": []any{map[string]any{"metadata": map[string]any{"name": "shop"}}}})
	case r.Method == http.MethodGet && lists[filepath.Base(r.URL.Path)] != "":
		answer(http.StatusOK, map[string]any{"apiVersion": "networking.istio.io/v1", "kind": lists[filepath.Base(r.URL.Path)], "items": []any{}})
	case r.Method == http.MethodGet && slices.Contains([]string{"configmaps", "secrets", "deployments", "leases", "endpointslices", "pods", "events", "replicasets", "horizontalpodautoscalers"}, filepath.Base(r.URL.Path)):
		answer(http.StatusOK, map[string]any{"kind": "List", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": "1"}, "items": []any{}})
	case r.Method == http.MethodGet:
		status(http.StatusNotFound, "NotFound")
	case r.URL.Query().Get("dryRun") != "All":
		s.writes = append(s.writes, r.Method+" "+r.URL.Path)
		status(http.StatusForbidden, "Forbidden")
	default:
		if s.warning != "" {
			w.Header().Set("Warning", fmt.Sprintf("299 - %q", s.warning))
		}
		body, err := io.ReadAll(r.Body)
		var object map[string]any
		switch {
		case err != nil:
		case bytes.HasPrefix(body, []byte("k8s\x00")): // protobuf, as client-go writes Kubernetes' own types
			var decoded runtime.Object
			if decoded, _, err = scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil); err == nil {
				object, err = runtime.DefaultUnstructuredConverter.ToUnstructured(decoded)
			}
		default:
			err = yaml.Unmarshal(body, &object)
		}
		if err != nil {
			status(http.StatusBadRequest, "BadRequest")
			return
		}
		answer(http.StatusCreated, object)
	}
}

// lists are the kinds of Istio's lists: their client reads no other.
var lists = map[string]string{"virtualservices": "VirtualServiceList", "destinationrules": "DestinationRuleList"}

// serve starts the API server and gives the flags that name it.
func (s *apiServer) serve(t *testing.T, namespace string) []string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return []string{"--kubeconfig", kubeconfigOf(t, server.URL), "--namespace", namespace, "--manifests", "../../k8s"}
}

// kubeconfigOf writes a kubeconfig with two contexts for the server.
func kubeconfigOf(t *testing.T, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: staging
clusters: [{name: here, cluster: {server: %q}}]
users: [{name: jane, user: {token: secret-token}}]
contexts:
- {name: staging, context: {cluster: here, user: jane, namespace: shop}}
- {name: production, context: {cluster: here, user: jane}}
`, server)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// quiet keeps what this machine has configured away from a test.
func quiet(t *testing.T) {
	t.Helper()
	for _, name := range []string{"CROSSBILL_WEBHOOK", "CROSSBILL_GITHUB_TOKEN", "CROSSBILL_NOTIFY_GITLAB_TOKEN", "CROSSBILL_PUSHGATEWAY", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "GITLAB_CI", "GITHUB_ACTIONS"} {
		t.Setenv(name, "")
	}
	t.Setenv("CROSSBILL_CONFIG", "/dev/null")
}

// byDigest is an image whose registry is away: nothing is asked of the network.
const byDigest = "127.0.0.1:1/our-org/app@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"

// TestCommandsOnAnEmptyCluster: what each command says and ends with where nothing has been released yet. None
// of these lines may write anything.
func TestCommandsOnAnEmptyCluster(t *testing.T) {
	quiet(t)
	for _, c := range []struct {
		line string
		code int
		out  string // standard output contains it
		err  string // standard error contains it
	}{
		{"status", 0, "none in flight", ""},
		{"status -o name", 0, "", ""},
		{"status -v", 0, "none in flight", "GET http://127.0.0.1"},
		{"history", 0, "", "no release"},
		{"history -o json", 0, `"items": []`, ""},
		{"promote", exitBadInput, "", "no release is in flight"},
		{"promote --dry-run", exitBadInput, "", "no release is in flight"},
		{"cleanup --dry-run", 0, "no change\nafter it: no release is in flight", ""},
		{"shift --steps 20 --dry-run", exitBadInput, "", "no release is in flight"},
		{"rollback --dry-run -o json", 0, `"changes": []`, ""},
		{"guard", 0, "guard: no release is in flight", ""},
		{"guard --dry-run", 0, "no change", ""},
		{"verify --prometheus http://127.0.0.1:1", exitBadInput, "", "no release is in flight"},
		{"migrate --dry-run", exitBadInput, "", "--from: "},
		{"promote --namespace nope", exitBadInput, "", `--namespace: namespace "nope"`},
		{"promote --context nope", exitBadInput, "", `--context: context "nope" not found in the kubeconfig; give --context NAME, or --context= for the current one`},
		{"plan rollback", 0, "no change", "deprecated"},
		{"plan promote", exitBadInput, "", "no release is in flight"},
	} {
		t.Run(c.line, func(t *testing.T) {
			server := &apiServer{}
			line := strings.Fields(c.line)
			r := runLine(t, append(append(line[:1:1], server.serve(t, "shop")...), line[1:]...)...)
			if r.code != c.code || !strings.Contains(r.out, c.out) || !strings.Contains(r.err+r.out, c.err) {
				t.Errorf("exit code %d, want %d\n%s%s", r.code, c.code, r.out, r.err)
			}
			if len(server.writes) > 0 {
				t.Errorf("it writes: %v", server.writes)
			}
			if strings.Contains(r.out+r.err, "secret-token") {
				t.Error("it shows the token")
			}
		})
	}
}

// TestCanaryDryRun: the first release of an app as a plan. --dry-run and the older plan say the same.
func TestCanaryDryRun(t *testing.T) {
	quiet(t)
	const want = "service/qwik-node-app-service\ndestinationrule/qwik-node-app-dr\ndeployment/qwik-node-app-primary\ngateway/public-gateway\nvirtualservice/qwik-node-app-vs\n"
	for _, line := range [][]string{{"canary", "--dry-run"}, {"plan", "canary"}} {
		server := &apiServer{}
		r := runLine(t, slices.Concat(line, []string{"--image", byDigest, "--weight", "20", "-o", "name"}, server.serve(t, "shop"))...)
		out := strings.TrimPrefix(r.out, "Command \"plan\" is deprecated, use COMMAND --dry-run\n") // which main's root command prints to standard error
		if r.code != 0 || len(server.writes) > 0 || out != want {
			t.Errorf("%v: exit code %d, writes %v\n%s%s", line, r.code, server.writes, r.out, r.err)
		}
	}
}

// TestWarnings: what the API server warns of is in the log, once.
func TestWarnings(t *testing.T) {
	quiet(t)
	server := &apiServer{warning: `would violate PodSecurity "restricted:latest"`}
	r := runLine(t, slices.Concat([]string{"canary", "--dry-run", "--image", byDigest}, server.serve(t, "shop"))...)
	if want := "Warning: " + server.warning + "\n"; r.code != 0 || strings.Count(r.err, want) != 1 || strings.Contains(r.out, "Warning") {
		t.Errorf("exit code %d, standard error %q, want %q once", r.code, r.err, want)
	}
}

// TestClusterIsAway: a command says so with exit code 1, and a completion is only empty.
func TestClusterIsAway(t *testing.T) {
	quiet(t)
	away := []string{"--kubeconfig", kubeconfigOf(t, "http://127.0.0.1:1"), "--namespace", "shop", "--manifests", "../../k8s"}
	if r := runLine(t, append([]string{"promote"}, away...)...); r.code != exitFailure || !strings.Contains(r.err, "nothing was changed") {
		t.Errorf("exit code %d\n%s", r.code, r.err)
	}
	for _, flag := range []string{"--namespace", "--release-id"} {
		if r := runLine(t, append(append([]string{"__complete", "promote"}, away...), flag, "")...); r.code != 0 || !strings.HasPrefix(r.out, ":4") {
			t.Errorf("completion of %s: exit code %d, %q", flag, r.code, r.out)
		}
	}
}

func TestCompletion(t *testing.T) {
	quiet(t)
	server := &apiServer{}
	flags := server.serve(t, "shop")
	for line, want := range map[string]string{
		"promote --context ":   "production\nstaging\n",
		"promote --namespace ": "shop\n",
		"promote -o ":          "text\nwide\njson\nyaml\nname\n",
		"help image ":          "build\t",
		"image ":               "build\t",
		"plan ":                "canary\npromote\n",
	} {
		words := strings.Split(line, " ")
		args := append([]string{"__complete"}, words[:1]...)
		if words[0] == "promote" {
			args = append(args, flags...)
		}
		if r := runLine(t, append(args, words[1:]...)...); r.code != 0 || !strings.HasPrefix(r.out, want) {
			t.Errorf("%s: exit code %d, %q, want %q", line, r.code, r.out, want)
		}
	}
}
