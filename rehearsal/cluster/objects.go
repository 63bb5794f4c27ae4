package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// objects are the clients for what a cluster needs before it can be used.
type objects struct {
	typed   kubernetes.Interface
	dynamic dynamic.Interface
}

func newObjects(config *rest.Config) (*objects, error) {
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	d, err := dynamic.NewForConfig(config)
	return &objects{typed: typed, dynamic: d}, err
}

// ready asks whether the API server is.
func (o *objects) ready(ctx context.Context) error {
	_, err := o.typed.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err
}

// prepare makes the namespaces and the webhook with which istiod validates Istio's
// objects. The schemas of their kinds alone accept a weight of 111 and a route to nowhere.
func (o *objects) prepare(ctx context.Context, namespace string, ca []byte) error {
	for _, name := range []string{"istio-system", namespace} {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := o.typed.CoreV1().Namespaces().Create(ctx, n, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
	}
	fail, none, validate := admissionv1.Fail, admissionv1.SideEffectClassNone, istiodConfig
	webhook := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "istio-validator-istio-system"},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:         "validation.istio.io",
			ClientConfig: admissionv1.WebhookClientConfig{URL: &validate, CABundle: ca},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule: admissionv1.Rule{
					APIGroups:   []string{"networking.istio.io", "security.istio.io", "notify.istio.io", "extensions.istio.io"},
					APIVersions: []string{"*"}, Resources: []string{"*"},
				},
			}},
			FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		}},
	}
	if _, err := o.typed.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, webhook, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create istiod's webhook: %w", err)
	}
	return nil
}

func (o *objects) nodeReady(ctx context.Context) error {
	node, err := o.typed.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("node %s is not Ready", nodeName)
}

// serviceAccount asks for the namespace's default one; pods are refused before it exists.
func (o *objects) serviceAccount(namespace string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := o.typed.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	}
}

// definitions are the CustomResourceDefinitions of the istiod that is linked in.
func (c *Cluster) definitions(ctx context.Context) ([]unstructured.Unstructured, error) {
	out, err := exec.CommandContext(ctx, c.options.TestclusterBinary, "crds").Output()
	if err != nil {
		return nil, fmt.Errorf("testcluster crds: %w", err)
	}
	all, err := documents(bytes.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("testcluster crds: %w", err)
	}
	return all, nil
}

// definitionsIn are those in a file.
func definitionsIn(file string) ([]unstructured.Unstructured, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("kinds: %w", err)
	}
	defer f.Close()
	all, err := documents(f)
	if err != nil {
		return nil, fmt.Errorf("kinds in %s: %w", file, err)
	}
	return all, nil
}

// Establish makes the kinds in a file, and waits until the API server serves them.
func (c *Cluster) Establish(ctx context.Context, file string) error {
	definitions, err := definitionsIn(file)
	if err != nil {
		return err
	}
	a, err := newObjects(c.RESTConfig)
	if err != nil {
		return err
	}
	return a.establish(ctx, definitions)
}

// documents are those of a YAML text that are not empty.
func documents(text io.Reader) (all []unstructured.Unstructured, err error) {
	decoder := yaml.NewYAMLOrJSONDecoder(text, 4096)
	for {
		var u unstructured.Unstructured
		switch err := decoder.Decode(&u.Object); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case len(u.Object) > 0:
			all = append(all, u)
		}
	}
}

var crds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// establish creates definitions, side by side, and waits until each is established.
func (o *objects) establish(ctx context.Context, definitions []unstructured.Unstructured) error {
	errs := make([]error, len(definitions))
	var group sync.WaitGroup
	for i := range definitions {
		group.Go(func() { errs[i] = o.establishOne(ctx, &definitions[i]) })
	}
	group.Wait()
	return errors.Join(errs...)
}

func (o *objects) establishOne(ctx context.Context, definition *unstructured.Unstructured) error {
	client := o.dynamic.Resource(crds)
	created, err := client.Create(ctx, definition, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create %s: %w", definition.GetName(), err)
	}
	if established(created) {
		return nil
	}
	watch, err := client.Watch(ctx, metav1.ListOptions{
		FieldSelector: "metadata.name=" + definition.GetName(), ResourceVersion: created.GetResourceVersion(),
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", definition.GetName(), err)
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		if u, ok := event.Object.(*unstructured.Unstructured); ok && established(u) {
			return nil
		}
	}
	return fmt.Errorf("%s was not established: %w", definition.GetName(), context.Cause(ctx))
}

func established(u *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
			return true
		}
	}
	return false
}
