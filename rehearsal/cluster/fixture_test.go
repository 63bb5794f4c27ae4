package cluster_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/our-org/crossbill/rehearsal/cluster"
)

var resources = map[string]schema.GroupVersionResource{
	"Service":         {Version: "v1", Resource: "services"},
	"Pod":             {Version: "v1", Resource: "pods"},
	"Deployment":      {Group: "apps", Version: "v1", Resource: "deployments"},
	"Gateway":         {Group: "networking.istio.io", Version: "v1", Resource: "gateways"},
	"DestinationRule": {Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"},
	"VirtualService":  {Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"},
	"HTTPRoute":       {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"},
}

func objects(t *testing.T, kind string) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(running.RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(resources[kind]).Namespace(running.Namespace)
}

func clientset(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(running.RESTConfig)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// apply applies the documents of a file in testdata, after replacing words in it. edit may change
// each object first.
func apply(t *testing.T, file string, replace map[string]string, edit func(*unstructured.Unstructured)) error {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for word, value := range replace {
		text = strings.ReplaceAll(text, word, value)
	}
	documents := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var u unstructured.Unstructured
		err := documents.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		if edit != nil {
			edit(&u)
		}
		if _, err := objects(t, u.GetKind()).Apply(t.Context(), u.GetName(), &u, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			return fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
}

func mustApply(t *testing.T, file string, replace map[string]string, edit func(*unstructured.Unstructured)) {
	t.Helper()
	if err := apply(t, file, replace, edit); err != nil {
		t.Fatal(err)
	}
}

// deploy applies an app's Service, routes and Deployments, and waits until the gateway can serve
// each track.
func deploy(t *testing.T, app string, primary, canary int, replicas map[string]int) {
	t.Helper()
	mustApply(t, "gateway.yaml", nil, nil)
	mustApply(t, "app.yaml", map[string]string{"NAME": app, "PRIMARY": fmt.Sprint(primary), "CANARY": fmt.Sprint(canary)}, nil)
	for track, n := range replicas {
		deployment(t, app, track, n, nil)
	}
	for track, n := range replicas {
		rolledOut(t, app+"-"+track)
		serving(t, app, track, n)
	}
}

func deployment(t *testing.T, app, track string, replicas int, env map[string]string) {
	t.Helper()
	mustApply(t, "deployment.yaml", map[string]string{
		"NAME": app, "TRACK}": track + "}", "NAME-TRACK": app + "-" + track, "REPLICAS": fmt.Sprint(replicas), "IMAGE": image(t),
	}, func(u *unstructured.Unstructured) {
		u.SetName(app + "-" + track)
		containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
		c := containers[0].(map[string]any)
		for k, v := range env {
			c["env"] = append(c["env"].([]any), map[string]any{"name": k, "value": v})
		}
		_ = unstructured.SetNestedSlice(u.Object, containers, "spec", "template", "spec", "containers")
	})
}

func rolledOut(t *testing.T, name string) {
	t.Helper()
	client := clientset(t)
	eventually(t, func() error {
		d, err := client.AppsV1().Deployments(running.Namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		want := *d.Spec.Replicas
		if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas != want || s.AvailableReplicas != want || s.Replicas != want {
			return fmt.Errorf("deployment %s: %d of %d available, %d updated, %d in all", name, s.AvailableReplicas, want, s.UpdatedReplicas, s.Replicas)
		}
		return nil
	})
}

func pods(t *testing.T, selector string) []corev1.Pod {
	t.Helper()
	list, err := clientset(t).CoreV1().Pods(running.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	const limit = time.Minute // a busy machine takes its time
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// setWeights patches an app's route.
func setWeights(t *testing.T, app string, primary, canary int) {
	t.Helper()
	patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/http/0/route/0/weight","value":%d},{"op":"replace","path":"/spec/http/0/route/1/weight","value":%d}]`, primary, canary)
	if _, err := objects(t, "VirtualService").Patch(t.Context(), app+"-vs", types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// gateway is a client that reaches every host through the gateway.
var gateway = &http.Client{
	Timeout: 10 * time.Second,
	Transport: &http.Transport{
		MaxIdleConnsPerHost: 8,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", running.GatewayAddress)
		},
	},
}

// tally counts the answers that get had, by app and status.
var tally = struct {
	sync.Mutex
	answers map[string]map[int]float64
}{answers: map[string]map[int]float64{}}

// get makes one request and returns its status and body.
func get(app, path string) (int, string, error) {
	response, err := gateway.Get("http://" + app + ".example.com" + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	tally.Lock()
	if tally.answers[app] == nil {
		tally.answers[app] = map[int]float64{}
	}
	tally.answers[app][response.StatusCode]++
	tally.Unlock()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// serving waits until the gateway's subset of the app has n healthy endpoints and no others: a
// Deployment that is available is not yet known to the gateway.
func serving(t *testing.T, app, subset string, n int) {
	t.Helper()
	name := fmt.Sprintf("outbound|80|%s|%s-service.%s.svc.cluster.local", subset, app, running.Namespace)
	eventually(t, func() error {
		healthy, all, err := endpoints(name)
		if err != nil {
			return err
		}
		if healthy != n || all != n {
			return fmt.Errorf("%s has %d endpoints, %d of them healthy, want %d", name, all, healthy, n)
		}
		return nil
	})
	if n == 0 {
		return
	}
	eventually(t, func() error { // the route comes after the clusters
		if status, body, err := get(app, "/health"); err != nil || status == http.StatusNotFound {
			return fmt.Errorf("gateway answers %d %q %v", status, body, err)
		}
		return nil
	})
}

// endpoints counts the endpoints of one of the gateway's clusters.
func endpoints(name string) (healthy, all int, _ error) {
	body, err := adminGet("/clusters")
	for line := range strings.Lines(body) {
		_, flags, ok := strings.Cut(strings.TrimSpace(line), "::health_flags::")
		if !ok || !strings.HasPrefix(line, name+"::") {
			continue
		}
		all++
		if flags == "healthy" {
			healthy++
		}
	}
	return healthy, all, err
}

// adminGet asks the gateway's admin interface.
func adminGet(path string) (string, error) {
	response, err := http.Get("http://" + cluster.EnvoyAdmin + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// image builds the test's app and pushes it; it returns repository@digest.
func image(t *testing.T) string {
	t.Helper()
	reference, err := pushed()
	if err != nil {
		t.Fatal(err)
	}
	return reference
}

var pushed = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "crossbill-app-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "app")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "./testdata/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the app: %w\n%s", err, out)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
		return "", err
	}
	if _, err := w.Write(b); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return "", err
	}
	if img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/app"}, User: "65532:65532"}); err != nil {
		return "", err
	}
	tag, err := name.NewTag(running.RegistryHost + "/demo/app:1")
	if err != nil {
		return "", err
	}
	if err := remote.Write(tag, img); err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	return tag.Context().Digest(digest.String()).Name(), nil
})
