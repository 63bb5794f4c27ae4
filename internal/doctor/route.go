package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	istio "istio.io/client-go/pkg/clientset/versioned"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/usererr"
)

// Route is how callers get to the app.
type Route struct {
	Kube      kubernetes.Interface
	Istio     istio.Interface
	Dynamic   dynamic.Interface
	Manifests *manifest.Set
	Namespace string
}

// Checks are those of the gateway, and of the callers in the mesh.
func (r *Route) Checks() []Check {
	if r.Manifests.Route != nil {
		return []Check{{Name: "gateway", Run: r.parents, Needs: "types"}}
	}
	return []Check{{Name: "gateway", Run: r.gateways, Needs: "types"}, {Name: "mesh", Run: r.mesh}}
}

// mesh says whom of the callers in the mesh a release does not route.
func (r *Route) mesh(context.Context) ([]string, error) {
	if why := r.Manifests.PastMesh(r.Manifests.VirtualService); why != "" {
		return nil, &UnknownError{fmt.Sprintf("VirtualService %s does not route callers in the mesh: %s. They reach a canary at any weight, if there are any", r.Manifests.VirtualService.Name, why)}
	}
	return []string{"callers in the mesh get a release's weights"}, nil
}

// gateways looks at each Gateway of Istio that the VirtualService names.
func (r *Route) gateways(ctx context.Context) (found []string, err error) {
	vs := r.Manifests.VirtualService
	var problems []error
	for _, name := range vs.Spec.Gateways {
		if name == manifest.MeshGateway {
			continue
		}
		namespace, short, ok := strings.Cut(name, "/")
		if !ok {
			namespace, short = r.Namespace, name
			if vs.Namespace != "" {
				namespace = vs.Namespace
			}
		}
		one, err := r.gateway(ctx, namespace, short)
		found, problems = append(found, one...), append(problems, err)
	}
	if len(found) == 0 && errors.Join(problems...) == nil {
		return []string{"VirtualService " + vs.Name + " names no gateway: the app is called from within the mesh"}, nil
	}
	return found, errors.Join(problems...)
}

func (r *Route) gateway(ctx context.Context, namespace, name string) (found []string, err error) {
	vs, field := r.Manifests.VirtualService, "Gateway "+namespace+"/"+name
	live, err := r.Istio.NetworkingV1().Gateways(namespace).Get(ctx, name, metav1.GetOptions{})
	how := "exists"
	switch {
	case apierrors.IsForbidden(err):
		return nil, &UnknownError{field + " may not be read: `kubectl get gateways.networking.istio.io -n " + namespace + " " + name + " -o yaml` shows its hosts"}
	case apierrors.IsNotFound(err):
		own := slices.IndexFunc(r.Manifests.Gateways, func(g *networking.Gateway) bool {
			return g.Name == name && (g.Namespace == "" || g.Namespace == namespace)
		})
		if own < 0 {
			return nil, &usererr.Error{Field: "VirtualService " + vs.Name + ": spec.gateways", Problem: field + " not found", Fix: "create it, or name one that exists"}
		}
		live, how = r.Manifests.Gateways[own].DeepCopy(), "is made by the first release"
		live.Namespace = namespace
	case err != nil:
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	in := vs.Namespace
	if in == "" {
		in = r.Namespace
	}
	var hosts []string
	for _, host := range vs.Spec.Hosts {
		if admits(live, host, in) {
			hosts = append(hosts, host)
		}
	}
	if len(hosts) == 0 {
		return nil, &usererr.Error{Field: field, Problem: fmt.Sprintf("it has none of the hosts of VirtualService %s: %s", vs.Name, strings.Join(vs.Spec.Hosts, ", ")), Fix: "add the app's host to its servers, or name another gateway"}
	}
	found = []string{fmt.Sprintf("%s %s and has %s", field, how, strings.Join(hosts, ", "))}
	return found, r.selected(ctx, field, live.Spec.Selector)
}

// admits says whether a server of a Gateway takes a host of a VirtualService in a namespace
// (https://istio.io/latest/docs/reference/config/networking/gateway/#Server).
func admits(g *networking.Gateway, host, namespace string) bool {
	for _, server := range g.Spec.Servers {
		for _, pattern := range server.Hosts {
			in, name, ok := strings.Cut(pattern, "/")
			if !ok {
				in, name = "*", pattern
			}
			if in == "." {
				in = g.Namespace
			}
			if (in == "*" || in == namespace) && overlap(name, host) {
				return true
			}
		}
	}
	return false
}

// overlap says whether two hosts, of which each may begin with a wildcard, have one in common.
func overlap(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	wildA, wildB := strings.HasPrefix(a, "*"), strings.HasPrefix(b, "*")
	restA, restB := strings.TrimPrefix(a, "*"), strings.TrimPrefix(b, "*")
	switch {
	case wildA && wildB:
		return strings.HasSuffix(restA, restB) || strings.HasSuffix(restB, restA)
	case wildA:
		return len(b) > len(restA) && strings.HasSuffix(b, restA)
	case wildB:
		return len(a) > len(restB) && strings.HasSuffix(a, restB)
	}
	return a == b
}

// selected looks whether a proxy serves a Gateway: istiod looks for its pods in all namespaces.
func (r *Route) selected(ctx context.Context, field string, selector map[string]string) error {
	text := labels.SelectorFromSet(selector).String()
	pods, err := r.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: text, Limit: 1})
	switch {
	case apierrors.IsForbidden(err):
		return &UnknownError{field + ": this account may not see the gateway's pods, and needs not: `kubectl get pods -A -l " + text + "` does"}
	case err != nil:
		return fmt.Errorf("pods of %s: %w", field, err)
	case len(pods.Items) == 0:
		return &UnknownError{field + ": no pod has its selector, " + text + ": nothing listens, unless its proxies run outside of the cluster"}
	}
	return nil
}

// parents looks at each Gateway of the Gateway API that the route names. Whether its controller has taken the route shows with
// the first release.
func (r *Route) parents(ctx context.Context) (found []string, err error) {
	route, err := manifest.ReadGatewayRoute(r.Manifests.Route)
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, parent := range route.Parents {
		if parent.Kind != nil && *parent.Kind != "Gateway" {
			continue
		}
		namespace := r.Namespace
		if parent.Namespace != nil {
			namespace = string(*parent.Namespace)
		}
		one, err := r.parent(ctx, namespace, string(parent.Name), route.Hosts)
		found, problems = append(found, one...), append(problems, err)
	}
	if len(found) == 0 && errors.Join(problems...) == nil {
		return []string{"the route names no Gateway: the app is called from within the mesh"}, nil
	}
	return found, errors.Join(problems...)
}

var gatewayAPI = schema.GroupVersionResource{Group: gateway.GroupName, Version: "v1", Resource: "gateways"}

func (r *Route) parent(ctx context.Context, namespace, name string, hosts []string) ([]string, error) {
	field := "Gateway " + namespace + "/" + name
	live, err := r.Dynamic.Resource(gatewayAPI).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return nil, &UnknownError{field + " may not be read: `kubectl get gateways.gateway.networking.k8s.io -n " + namespace + " " + name + " -o yaml` shows its listeners"}
	case apierrors.IsNotFound(err):
		return nil, &usererr.Error{Field: r.Manifests.Route.GetKind() + " " + r.Manifests.Route.GetName() + ": spec.parentRefs", Problem: field + " not found", Fix: "create it, or name one that exists"}
	case err != nil:
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	listeners, _, _ := unstructured.NestedSlice(live.Object, "spec", "listeners")
	if !slices.ContainsFunc(listeners, func(l any) bool {
		listener, _ := l.(map[string]any)
		own, _ := listener["hostname"].(string)
		return own == "" || len(hosts) == 0 || slices.ContainsFunc(hosts, func(host string) bool { return overlap(own, host) })
	}) {
		return nil, &usererr.Error{Field: field, Problem: "no listener has a hostname of the route: " + strings.Join(hosts, ", "), Fix: "add a listener for the app's hostname, or name another Gateway"}
	}
	return []string{field + " exists, and has a listener for the route"}, nil
}
