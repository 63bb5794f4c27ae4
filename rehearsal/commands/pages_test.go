package commands_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// manifestsOnPages are the samples of manifests in docs/, by the page's name below it.
func manifestsOnPages(t *testing.T) map[string][]string {
	t.Helper()
	const docs = "../../docs"
	sample := regexp.MustCompile("(?ms)^```yaml\n(apiVersion:.*?)^```$")
	found := map[string][]string{}
	err := filepath.WalkDir(docs, func(file string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".md" {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		page, err := filepath.Rel(docs, file)
		for _, block := range sample.FindAllStringSubmatch(string(text), -1) {
			found[page] = append(found[page], block[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestManifestsOnPages: the API server and istiod's webhook accept every manifest that the documentation shows, and a first
// release of those of the kind tutorial is planned.
func TestManifestsOnPages(t *testing.T) {
	t.Parallel()
	kube, _ := clients(t, running.RESTConfig)
	a := &app{T: t, kube: kube, name: "podinfo", namespace: "ns-pages", manifests: t.TempDir()}
	a.makeNamespace()
	client, err1 := dynamic.NewForConfig(running.RESTConfig)
	groups, err2 := restmapper.GetAPIGroupResources(kube.Discovery())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	try := func(object *unstructured.Unstructured) error {
		mapping, err := mapper.RESTMapping(object.GroupVersionKind().GroupKind(), object.GroupVersionKind().Version)
		if err != nil {
			return err
		}
		var objects dynamic.ResourceInterface = client.Resource(mapping.Resource)
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			object.SetNamespace(a.namespace)
			objects = client.Resource(mapping.Resource).Namespace(a.namespace)
		}
		_, err = objects.Create(t.Context(), object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
		if apierrors.IsAlreadyExists(err) { // it was valid: another test has made it of the same page
			return nil
		}
		return err
	}
	tried := 0
	found := manifestsOnPages(t)
	for page, samples := range found {
		for _, sample := range samples {
			decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(sample), 4096)
			for {
				object := &unstructured.Unstructured{}
				if err := decoder.Decode(object); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v\n%s", page, err, sample)
				}
				if err := try(object); err != nil {
					t.Errorf("%s: %s %s: %v", page, object.GetKind(), object.GetName(), err)
				}
				tried++
			}
		}
	}
	if tried < 10 {
		t.Errorf("found only %d manifests", tried)
	}

	podinfo := found["tutorials/kind.md"]
	if len(podinfo) != 1 {
		t.Fatalf("the kind tutorial has %d samples of manifests", len(podinfo))
	}
	if err := os.WriteFile(filepath.Join(a.manifests, "podinfo.yaml"), []byte(podinfo[0]), 0o644); err != nil {
		t.Fatal(err)
	}
	a.must("canary", "--dry-run", "--image", "ghcr.io/stefanprodan/podinfo@sha256:"+strings.Repeat("0", 64))
}
