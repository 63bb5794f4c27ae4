package commands_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// planted is a part of every Secret's value here: nothing that a command prints or keeps may have it.
const planted = "planted-value-"

// configure writes the manifests of a release with configuration of its own: two ConfigMaps and a Secret.
func (a *app) configure(release string) {
	a.Helper()
	from := fmt.Sprintf("          envFrom:\n            - configMapRef: {name: %[1]s}\n            - configMapRef: {name: %[1]s-more}\n            - secretRef: {name: %[1]s}\n", a.name)
	a.writeManifests("          env:\n", from+"          env:\n")
	text := fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: %[1]s}
data: {RELEASE: %[2]q}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: %[1]s-more}
data: {MORE: always the same}
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s}
stringData: {SECRET: %[3]q}
`, a.name, release, planted+release)
	if err := os.WriteFile(filepath.Join(a.manifests, "configuration.yaml"), []byte(text), 0o600); err != nil {
		a.Fatal(err)
	}
}

// configuredApp is a released app with configuration of its own, and with manifests that may be prepared further.
func configuredApp(t *testing.T, name string, prepare ...func(*app)) *app {
	t.Helper()
	a := newApp(t, name)
	a.configure(digest(images["one"]))
	a.shape(prepare)
	a.must("canary", "--image", images["one"])
	return a
}

// copies are the ConfigMaps and Secrets of the namespace that have one of these releases' configuration, by name.
func (a *app) copies() map[string]string {
	a.Helper()
	found := map[string]string{}
	all, err := a.kube.CoreV1().ConfigMaps(a.namespace).List(a.Context(), metav1.ListOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for _, c := range all.Items {
		if c.Data[releaseKey] != "" {
			found["ConfigMap "+c.Name] = fmt.Sprint(c.Data)
		}
	}
	secrets, err := a.kube.CoreV1().Secrets(a.namespace).List(a.Context(), metav1.ListOptions{})
	if err != nil {
		a.Fatal(err)
	}
	for _, s := range secrets.Items {
		if s.Data["SECRET"] != nil {
			found["Secret "+s.Name] = string(s.Data["SECRET"])
		}
	}
	return found
}

// pods are a track's, without those that end.
func (a *app) pods(track string) []corev1.Pod {
	a.Helper()
	list, err := a.kube.CoreV1().Pods(a.namespace).List(a.Context(), metav1.ListOptions{LabelSelector: "version=" + track})
	if err != nil {
		a.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// restarted deletes a pod of primary, waits for its successor, and wants each pod to serve the configuration of a release.
func (a *app) restarted(release string) {
	a.Helper()
	before := a.pods("primary")
	if len(before) == 0 {
		a.Fatal("primary has no pod")
	}
	if err := a.kube.CoreV1().Pods(a.namespace).Delete(a.Context(), before[0].Name, metav1.DeleteOptions{}); err != nil {
		a.Fatal(err)
	}
	a.eventually(func() error {
		now := a.pods("primary")
		if len(now) < len(before) {
			return fmt.Errorf("primary has %d pods, not %d", len(now), len(before))
		}
		for _, p := range now {
			if p.Name == before[0].Name || !isReady(p) {
				return fmt.Errorf("pod %s is not ready: %+v", p.Name, p.Status)
			}
		}
		return nil
	})
	a.serves("primary", release)
}

// serves wants each pod of a track to serve the configuration of a release: read back from the pods themselves.
func (a *app) serves(track, release string) {
	a.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	for _, p := range a.pods(track) {
		response, err := client.Get("http://" + p.Status.PodIP + ":3000/")
		if err != nil {
			a.Errorf("pod %s: %v", p.Name, err)
			continue
		}
		response.Body.Close()
		if got, want := response.Header.Get("x-app-configuration"), release+planted+release; got != want {
			a.Errorf("pod %s of %s serves configuration %q, want %q", p.Name, track, got, want)
		}
	}
}

// testTheConfigurationOfPodsThatRestart releases configuration alone, under one image: a pod that restarts at any stage has
// that of its track, and a rollback brings the old one back as it was.
func testTheConfigurationOfPodsThatRestart(t *testing.T) {
	t.Parallel()
	a := newApp(t, "configured")
	printed := ""
	must := func(args ...string) string {
		t.Helper()
		out := a.must(args...)
		printed += out
		return out
	}
	canary := []string{"canary", "--image", images["one"]}
	a.configure("a")
	must(canary...)
	a.restarted("a")
	stop := a.observe()
	kept := a.copies()
	if out := must(canary...); !strings.Contains(out, "nothing to do") || !strings.Contains(out, "Secret") {
		t.Errorf("the same again says: %s", out)
	}

	a.configure("b") // and back
	must(canary...)
	if a.weights() != split {
		t.Fatalf("a release of configuration alone has weights %+v", a.weights())
	}
	a.restarted("a")
	a.serves("canary", "b")
	a.healthy()
	a.restarted("a")
	must("rollback")
	a.restarted("a")
	if back := a.copies(); !maps.Equal(back, kept) {
		t.Errorf("after a rollback there are %v, before the release %v", back, kept)
	}

	must(append(canary, "--again")...) // and on
	a.healthy()
	printed += a.must("promote", "--dry-run")
	must("promote")
	a.restarted("b")
	a.serves("canary", "b")
	must("cleanup")
	a.restarted("b")
	if copies := a.copies(); !maps.Equal(kept, filter(copies, kept)) {
		t.Errorf("the last release's configuration is gone: %v", copies)
	}
	printed += a.must("status", "-o", "json") + a.must("history", "-o", "json")
	stop()

	ledgers, err := a.kube.CoreV1().ConfigMaps(a.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range ledgers.Items {
		printed += fmt.Sprint(c)
	}
	if at := strings.Index(printed, planted); at >= 0 {
		t.Errorf("a Secret's value is shown: …%s…", printed[max(0, at-200):min(len(printed), at+50)])
	}
}

// filter is what one map has of another one's keys.
func filter(all, of map[string]string) map[string]string {
	found := map[string]string{}
	for key := range of {
		if value, ok := all[key]; ok {
			found[key] = value
		}
	}
	return found
}
