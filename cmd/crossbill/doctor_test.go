package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
			r := runLine(t, slices.Concat([]string{"doctor"}, server.serve(t), c.args)...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			if len(server.writes) > 0 || git.everything() != before {
				t.Errorf("it writes: %v", server.writes)
			}
			text := strings.NewReplacer(git.git("rev-parse", "--short=10", "main"), "COMMIT", git.url, "https://gitlab.example.com").Replace(r.out + r.err)
			golden(t, filepath.Join("testdata", "doctor", c.name+".txt"), []byte(text))
		})
	}
}

// TestDoctorOnAnEmptyCluster: nothing is wrong before there is anything.
func TestDoctorOnAnEmptyCluster(t *testing.T) {
	quiet(t)
	server := &apiServer{}
	r := runLine(t, append([]string{"doctor"}, server.serve(t, "shop")...)...)
	if want := "? applied from Git: nothing of the app is in the cluster yet\n"; r.code != 0 || r.out != want || len(server.writes) > 0 {
		t.Errorf("exit code %d\n%s%s\nwrites %v", r.code, r.out, r.err, server.writes)
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
