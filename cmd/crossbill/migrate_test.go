package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
)

// TestMigrateAsksTheRegistry: what runs may no longer be in its registry, from which primary's pods are to get it.
func TestMigrateAsksTheRegistry(t *testing.T) {
	quiet(t)
	for _, variable := range []string{"REGISTRY_USERNAME", "REGISTRY_PASSWORD", "REGISTRY_HOST"} {
		t.Setenv(variable, "")
	}
	manifests, host := withRegistry(t)
	image := host + "/our-org/qwik-node-app"
	container := map[string]any{"name": "app", "image": image + ":v1", "ports": []any{map[string]any{"name": "http", "containerPort": 3000}}}
	labels := map[string]any{"app": "qwik-node-app"}
	template := map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{container}}}
	lists := map[string]map[string]any{
		"deployments": {"kind": "DeploymentList", "apiVersion": "apps/v1", "items": []any{map[string]any{
			"metadata": map[string]any{"name": "web"}, "spec": map[string]any{"selector": map[string]any{"matchLabels": labels}, "template": template},
		}}},
		"pods": {"kind": "PodList", "apiVersion": "v1", "items": []any{map[string]any{
			"metadata": map[string]any{"name": "web-1", "labels": labels}, "spec": template["spec"],
			"status": map[string]any{"containerStatuses": []any{map[string]any{"name": "app", "imageID": image + "@" + strings.SplitN(byDigest, "@", 2)[1]}}},
		}}},
	}
	api := &apiServer{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if list := lists[path.Base(r.URL.Path)]; r.Method == http.MethodGet && list != nil {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(list)
			return
		}
		api.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	r := runLine(t, append([]string{"migrate", "--kubeconfig", kubeconfigOf(t, server.URL), "--namespace", "shop"}, manifests...)...)
	if want := host + " has no image " + image + "@sha256:0a0a"; r.code != exitBadInput || !strings.Contains(r.err, want) || len(api.writes) > 0 {
		t.Errorf("exit code %d, it writes %v\n%s%s", r.code, api.writes, r.out, r.err)
	}
}
