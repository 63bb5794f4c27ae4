package manifest

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// withJob is the sample app's manifests with a Job.
func withJob(t *testing.T, pod string) *Set {
	t.Helper()
	rendered, err := Render(t.Context(), Source{Path: "../../k8s"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := RenderedFrom("k8s", append(rendered.YAML(), []byte("\n---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate}\nspec:\n  template:\n"+pod)...))
	if err != nil {
		t.Fatal(err)
	}
	set, err := r.Set()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const goodJob = `
    metadata: {labels: {app: migrate}}
    spec:
      restartPolicy: Never
      initContainers: [{name: wait, image: "docker.io/library/busybox@sha256:` + "1111111111111111111111111111111111111111111111111111111111111111" + `"}]
      containers:
      - name: migrate
        image: registry.example.com/our-org/qwik-node-app:latest
        envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: database}}]
`

// TestTakeJobs: a Job that a hook is made of is no other object any more; it gets the release's image and copies.
func TestTakeJobs(t *testing.T) {
	set := withJob(t, goodJob)
	before := len(set.Others)
	for range 2 {
		if err := set.TakeJobs("migrate"); err != nil {
			t.Fatal(err)
		}
	}
	if len(set.Others) != before-1 || set.Jobs["migrate"] == nil {
		t.Errorf("%d others of %d, Jobs %v", len(set.Others), before, set.Jobs)
	}
	r := &release.Release{Image: "registry.example.com/our-org/qwik-node-app@sha256:" + strings.Repeat("2", 64), Config: []release.Config{{Kind: "ConfigMap", Name: "settings", Copy: "settings-abc"}, {Kind: "Secret", Name: "database"}}}
	job, err := set.Job("migrate", r)
	if err != nil {
		t.Fatal(err)
	}
	pod := job.Spec.Template.Spec
	got := []string{pod.Containers[0].Image, pod.InitContainers[0].Image[:31], pod.Containers[0].EnvFrom[0].ConfigMapRef.Name, pod.Containers[0].EnvFrom[1].SecretRef.Name}
	if diff := cmp.Diff([]string{r.Image, "docker.io/library/busybox@sha25", "settings-abc", "database"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if set.Jobs["migrate"].Spec.Template.Spec.Containers[0].Image == r.Image {
		t.Error("the Job of the manifests was changed")
	}
	if tagged, err := set.TaggedJobs(nil); err != nil || len(tagged) != 0 {
		t.Errorf("%v, %v", tagged, err)
	}
	bound, err := set.Bind(nil)
	if err != nil || bound.Jobs["migrate"] == nil {
		t.Errorf("%v, %v", err, bound)
	}
}

// TestRefusedJobs: what a hook's Job may not be.
func TestRefusedJobs(t *testing.T) {
	for name, c := range map[string]struct{ from, to, says string }{
		"missing":                    {"", "", "the manifests have no Job of this name"},
		"the app's label":            {"app: migrate", "app: qwik-node-app", "Service qwik-node-app-service selects its pods"},
		"a track's labels":           {"app: migrate", "app: qwik-node-app, version: canary", "selects its pods"},
		"pods that start again":      {"restartPolicy: Never", "restartPolicy: Always", "neither Never nor OnFailure"},
		"an image by tag":            {"busybox@sha256:" + strings.Repeat("1", 64), "busybox:1.36", "names an image by tag"},
		"what is no field of a Job":  {"restartPolicy: Never", "restartPolicy: Never\n      restartPolice: a", "restartPolice"},
		"pods without any container": {"containers:\n      - name", "ephemeralContainers:\n      - name", "there is none"},
	} {
		t.Run(name, func(t *testing.T) {
			set := withJob(t, strings.Replace(goodJob, c.from, c.to, 1))
			job := "migrate"
			if c.from == "" {
				job = "other"
			}
			err := set.TakeJobs(job)
			if err == nil {
				_, err = set.TaggedJobs([]string{"docker.io/envoyproxy/*"})
			}
			if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
	set := withJob(t, goodJob)
	if _, err := set.Job("migrate", &release.Release{}); !errors.As(err, new(*usererr.Error)) {
		t.Errorf("a Job that was not taken: %v", err)
	}
	set.NamesOnly = true
	if err := set.TakeJobs("other"); err != nil || set.Jobs != nil {
		t.Errorf("names alone: %v, %v", err, map[string]*batchv1.Job(set.Jobs))
	}
}
