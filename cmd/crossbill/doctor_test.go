package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"sigs.k8s.io/yaml"
)

// fluxServer is an API server with the app of k8s as Flux has applied it, and Flux's own two objects. It takes the dry run
// of a patch that changes nothing, and no other write.
type fluxServer struct {
	apiServer
	image  string
	branch string // that the GitRepository follows
	fails  string // the kind that it cannot read
}

func (s *fluxServer) objects(t *testing.T) map[string]string {
	t.Helper()
	labels := func(text string) string {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		meta, _ := o["metadata"].(map[string]any)
		meta["namespace"], meta["labels"] = "shop", map[string]any{"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
		out, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	deployment := strings.Replace(read(t, "k8s/deployment.yaml"), "image: registry.example.com/our-org/qwik-node-app", "image: "+s.image+" #", 1)
	return map[string]string{
		"/apis/apps/v1/namespaces/shop/deployments/qwik-node-app-primary":                      labels(deployment),
		"/api/v1/namespaces/shop/services/qwik-node-app-service":                               labels(read(t, "k8s/service.yaml")),
		"/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/apps":      `{"apiVersion":"kustomize.toolkit.fluxcd.io/v1","kind":"Kustomization","metadata":{"name":"apps","namespace":"flux-system"},"spec":{"sourceRef":{"kind":"GitRepository","name":"environment"}}}`,
		"/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/gitrepositories/environment": `{"apiVersion":"source.toolkit.fluxcd.io/v1","kind":"GitRepository","metadata":{"name":"environment","namespace":"flux-system"},"spec":{"url":"https://gitlab.example.com/environment.git","ref":{"branch":"` + s.branch + `"}}}`,
	}
}

func (s *fluxServer) serve(t *testing.T) []string {
	t.Helper()
	objects := s.objects(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.fails != "" && strings.Contains(r.URL.Path, s.fails) {
			http.Error(w, "no such version", http.StatusBadRequest) // what may pass is tried for long
			return
		}
		object, ok := objects[r.URL.Path]
		dry := r.Method == http.MethodPatch && r.URL.Query().Get("dryRun") == "All"
		if ok && (r.Method == http.MethodGet || dry) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(object))
			return
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return []string{"--kubeconfig", kubeconfigOf(t, server.URL), "--namespace", "shop", "--manifests", "../../k8s"}
}

// withRegistry are the flags that name the manifests of k8s with a registry that is here, in place of those of an image that
// is nowhere. It is empty.
func withRegistry(t *testing.T) (flags []string, host string) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host, folder := strings.TrimPrefix(server.URL, "http://"), t.TempDir()
	files, err := filepath.Glob("../../k8s/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text := strings.ReplaceAll(read(t, filepath.Join("k8s", filepath.Base(file))), "image: registry.example.com/", "image: "+host+"/")
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(file)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"--manifests", folder}, host
}

// atHome puts names in place of addresses that differ from run to run.
func atHome(text string, addresses ...string) string {
	return regexp.MustCompile(`http://127\.0\.0\.1:[0-9]+`).ReplaceAllString(strings.NewReplacer(addresses...).Replace(text), "https://10.0.0.1:6443")
}

func TestDoctor(t *testing.T) {
	quiet(t)
	const running = "registry.example.com/our-org/qwik-node-app@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	for _, c := range []struct {
		name   string
		branch string
		image  string            // in Git
		config map[string]string // of gitops; nil for none
		args   []string
		fails  string // the kind that the API server cannot read
		code   int
	}{
		{name: "unconfigured", branch: "main", image: running, code: exitBadInput},
		{name: "ready", branch: "main", image: running, config: map[string]string{"controller": "flux", "path": "apps"}},
		{name: "blocked", branch: "other", image: "registry.example.com/our-org/qwik-node-app:latest", config: map[string]string{"controller": "flux", "path": "apps"}, code: exitBadInput},
		{name: "blocked-json", branch: "other", image: running, config: map[string]string{"controller": "flux", "path": "apps"}, args: []string{"-o", "json"}, code: exitBadInput},
		{name: "away", branch: "main", image: running, config: map[string]string{"controller": "flux", "path": "apps"}, fails: "services", code: exitFailure},
	} {
		t.Run(c.name, func(t *testing.T) {
			git := newForge(t, map[string]string{"apps/deployment.yaml": strings.Replace(read(t, "k8s/deployment.yaml"), "image: registry.example.com/our-org/qwik-node-app", "image: "+c.image+" #", 1)})
			if c.config == nil {
				t.Setenv("CROSSBILL_CONFIG", "/dev/null")
			} else {
				git.configure(c.config)
			}
			server := &fluxServer{image: running, branch: c.branch, fails: c.fails}
			before := git.everything()
			manifests, host := withRegistry(t)
			r := runLine(t, slices.Concat([]string{"doctor"}, server.serve(t), manifests, c.args)...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			if len(server.writes) > 0 || git.everything() != before {
				t.Errorf("it writes: %v", server.writes)
			}
			text := atHome(r.out+r.err, git.git("rev-parse", "--short=10", "main"), "COMMIT", git.url, "https://gitlab.example.com", host, "registry.example.com")
			golden(t, filepath.Join("testdata", "doctor", c.name+".txt"), []byte(text))
		})
	}
}

// TestDoctorOnAnEmptyCluster: nothing is wrong before there is anything.
func TestDoctorOnAnEmptyCluster(t *testing.T) {
	quiet(t)
	server := &apiServer{}
	manifests, host := withRegistry(t)
	r := runLine(t, slices.Concat([]string{"doctor"}, server.serve(t, "shop"), manifests)...)
	if r.code != 0 || len(server.writes) > 0 {
		t.Errorf("exit code %d, writes %v", r.code, server.writes)
	}
	golden(t, filepath.Join("testdata", "doctor", "empty.txt"), []byte(atHome(r.out+r.err, host, "registry.example.com")))
}

// TestDoctorWithoutASetUp: what cannot even be read is in the list, not in place of it.
func TestDoctorWithoutASetUp(t *testing.T) {
	quiet(t)
	manifests, host := withRegistry(t)
	for name, args := range map[string][]string{
		"manifests":  append((&apiServer{}).serve(t, "shop"), "--manifests", "nowhere"),
		"kubeconfig": {"--kubeconfig", "nowhere", "--manifests", "../../k8s/tls"},
		"cluster":    append([]string{"--kubeconfig", kubeconfigOf(t, "http://127.0.0.1:1"), "--namespace", "shop"}, manifests...),
	} {
		r := runLine(t, append([]string{"doctor"}, args...)...)
		if r.code != exitBadInput {
			t.Errorf("%s: exit code %d", name, r.code)
		}
		golden(t, filepath.Join("testdata", "doctor", "without-"+name+".txt"), []byte(atHome(r.out+r.err, host, "registry.example.com")))
	}
}

func TestGitOpsConfig(t *testing.T) {
	quiet(t)
	for name, line := range map[string]string{
		"flux":        "--controller flux --namespace production --kustomization flux-system/apps --git-repository sources/environment --service-account ci/deployer",
		"argocd":      "--controller argocd --namespace production",
		"argocd-json": "--controller argocd --namespace production --application teams/shop -o json",
		"name":        "--controller flux --namespace production -o name",
	} {
		r := runLine(t, append([]string{"gitops", "config", "--manifests", "../../k8s"}, strings.Fields(line)...)...)
		if r.code != 0 || r.err != "" {
			t.Errorf("%s: exit code %d: %s", name, r.code, r.err)
		}
		golden(t, filepath.Join("testdata", "gitops", name+".txt"), []byte(r.out))
	}
	for line, want := range map[string]string{
		"":                     "--controller: is missing; give flux or argocd",
		"--controller flux":    "--namespace: is missing; give the namespace of the app",
		"--controller jenkins": `--controller: "jenkins" is not flux or argocd; give for example flux`,
		"--controller flux --namespace x --kustomization apps": `--kustomization: "apps" is not the name of an object; give NAMESPACE/NAME`,
		"--controller flux --namespace x --manifests nope":     "--manifests: ",
		"--controller flux --namespace x -o xml":               `--output: "xml" is not a format`,
	} {
		r := runLine(t, append([]string{"gitops", "config", "--manifests", "../../k8s"}, strings.Fields(line)...)...)
		if r.code != exitBadInput || !strings.Contains(r.err, want) || r.out != "" {
			t.Errorf("%q: exit code %d: %s%s", line, r.code, r.out, r.err)
		}
	}
}
