package commands_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hookJob is a Job whose pod calls an address, with the app's own image.
const hookJob = `apiVersion: batch/v1
kind: Job
metadata: {name: %[1]s}
spec:
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      restartPolicy: Never
      containers:
        - name: work
          image: registry.example.com/our-org/%[2]s:any
          command: [/srv/app, call, %[3]s/%[1]s]
---
`

// testHooks releases with real Jobs: a migration that runs once, though the command that started it is killed; a smoke test at
// each step; a call; and a check before the promotion that fails.
func testHooks(t *testing.T) {
	t.Parallel()
	a := newApp(t, "hooked")
	var mu sync.Mutex
	seen := map[string]int{}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := r.URL.Path
		if q := r.URL.Query(); q.Has("POINT") {
			what += " " + q.Get("RELEASE_ID") + " " + q.Get("POINT") + " " + q.Get("WEIGHT")
			if !strings.Contains(q.Get("IMAGE"), "@sha256:") {
				t.Errorf("image %q", q.Get("IMAGE"))
			}
		}
		mu.Lock()
		seen[what]++
		mu.Unlock()
		if strings.HasPrefix(what, "/migrate") {
			time.Sleep(3 * time.Second)
		}
		if strings.HasPrefix(what, "/check") {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer receiver.Close()
	count := func(what string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[what]
	}
	jobs := ""
	for _, name := range []string{"migrate", "smoke", "check"} {
		jobs += fmt.Sprintf(hookJob, name, a.name, receiver.URL)
	}
	if err := os.WriteFile(filepath.Join(a.manifests, "hooks.yaml"), []byte(jobs), 0o600); err != nil {
		t.Fatal(err)
	}
	configured := func(more string) string {
		file := filepath.Join(t.TempDir(), "crossbill.yaml")
		text := "hooks:\n- {name: migrate, point: beforeCanary, job: migrate}\n- {name: smoke, point: beforeStep, job: smoke}\n- {name: calendar, point: afterPromotion, url: '" + receiver.URL + "/calendar'}\n" + more
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	config, logs := configured(""), t.TempDir()
	release := func(image, id string) []string {
		return []string{"canary", "--image", images[image], "--release-id", id, "--config", config, "--hook-logs", logs}
	}
	a.must(release("one", "h1")...)
	if count("/migrate h1 beforeCanary 0") != 1 || count("/calendar") != 1 {
		t.Fatalf("the first release: %v", seen)
	}

	stop := a.observe()
	killed := program(a.arguments(release("two", "h2"))...)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	a.eventually(func() error {
		if count("/migrate h2 beforeCanary 0") == 0 {
			return fmt.Errorf("no migration yet: %v", seen)
		}
		return nil
	})
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait()
	if out := a.must(append(release("two", "h2"), "--takeover")...); !strings.Contains(out, "was started before") {
		t.Errorf("the Job that runs is not taken over:\n%s", out)
	}
	a.must("shift", "--steps", "30", "--config", config, "--hook-logs", logs)
	a.healthy()
	a.must("promote", "--config", config, "--hook-logs", logs)
	a.must("cleanup", "--config", config)
	stop()
	for _, what := range []string{"/migrate h2 beforeCanary 0", "/smoke h2 beforeStep 10", "/smoke h2 beforeStep 30"} {
		if count(what) != 1 {
			t.Errorf("%s: %d times: %v", what, count(what), seen)
		}
	}
	if count("/calendar") != 2 {
		t.Errorf("calls: %v", seen)
	}
	for _, name := range []string{"h2-beforeCanary-migrate.log", "h2-beforeStep-30-smoke.log"} {
		if text, err := os.ReadFile(filepath.Join(logs, name)); err != nil || !strings.Contains(string(text), "container work, exit code 0\nanswered 200 OK\n") {
			t.Errorf("%s: %v, %q", name, err, text)
		}
	}

	config = configured("- {name: check, point: beforePromotion, job: check}\n")
	a.must(release("three", "h3")...)
	a.healthy()
	code, out := a.crossbill("promote", "--config", config)
	if code != 3 || !strings.Contains(out, "hook check at beforePromotion failed: BackoffLimitExceeded") || !strings.Contains(out, "rolled back: ") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if a.weights() != atRest || a.image("canary") != "" || digest(a.image("primary")) != digest(images["two"]) || count("/check h3 beforePromotion 10") != 1 {
		t.Errorf("weights %+v, canary %q, primary %s: %v", a.weights(), a.image("canary"), a.image("primary"), seen)
	}
	made, err := a.kube.BatchV1().Jobs(a.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range made.Items {
		if *job.Spec.Suspend || job.Status.Active > 0 || job.Annotations["crossbill.our-org.github.com/epoch"] == "" {
			t.Errorf("%s: %+v", job.Name, job.Status)
		}
	}
	if len(made.Items) != 7 {
		t.Errorf("%d Jobs", len(made.Items))
	}
}
