package rollout

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"github.com/our-org/crossbill/internal/usererr"
)

// Preflight finds, before anything is written, what would make every command fail: an API server that
// does not answer, a namespace that does not exist, Istio's types missing, manifests for another
// namespace. Errors are *usererr.Error but for the API server's own.
func (c *Cluster) Preflight(ctx context.Context) error {
	ledger := &job{Cluster: c}
	if err := ledger.readLedger(ctx); err == nil && ledger.state.ResourceVersion != "" {
		c.ledgerRead = &justRead{ledger.state, time.Now()} // its cluster had all of that
		return c.checkNamespaces()
	}
	if err := c.Served(ctx); err != nil {
		return err
	}
	return c.CheckNamespace(ctx)
}

// Served finds the types of the mesh that the manifests need and the API server does not have.
func (c *Cluster) Served(ctx context.Context) error {
	if c.Manifests.Route != nil {
		return c.routeServed()
	}
	resources, err := discovery.ToDiscoveryInterfaceWithContext(c.Kube.Discovery()).ServerResourcesForGroupVersionWithContext(ctx, "networking.istio.io/v1")
	if apierrors.IsNotFound(err) {
		return &usererr.Error{Field: "cluster", Problem: "it has no networking.istio.io/v1: Istio's CRDs are missing", Fix: "install Istio 1.22 or newer, or check the context"}
	}
	if err != nil {
		return fmt.Errorf("the API server does not answer: %w; nothing was changed", err)
	}
	for _, kind := range []string{"VirtualService", "DestinationRule", "Gateway"} {
		if !slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind }) {
			return &usererr.Error{Field: "cluster", Problem: "the CRD of " + kind + " is missing", Fix: "install all of Istio's CRDs"}
		}
	}
	return nil
}

// CheckNamespace finds a namespace that does not exist, and manifests for another one.
func (c *Cluster) CheckNamespace(ctx context.Context) error {
	_, err := c.Kube.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &usererr.Error{Field: "cluster.namespace", Problem: fmt.Sprintf("namespace %q not found", c.Namespace), Fix: "create it or name another one"}
	}
	if err != nil && !apierrors.IsForbidden(err) { // a deployer may be bound to its namespace alone
		return fmt.Errorf("namespace %s: %w; nothing was changed", c.Namespace, err)
	}
	return c.checkNamespaces()
}

// checkNamespaces finds manifests for another namespace.
func (c *Cluster) checkNamespaces() error {
	for object, namespace := range c.manifestNamespaces() {
		if namespace != "" && namespace != c.Namespace {
			return &usererr.Error{Field: object, Problem: fmt.Sprintf("its manifest is for namespace %q, the release is for %q", namespace, c.Namespace), Fix: "remove metadata.namespace or name that namespace"}
		}
	}
	return nil
}

// manifestNamespaces are those of what must be where the app is. The mesh's objects may be elsewhere.
func (c *Cluster) manifestNamespaces() map[string]string {
	m := c.Manifests
	namespaces := map[string]string{
		"Service " + m.Service.Name:       m.Service.Namespace,
		"Deployment " + m.Deployment.Name: m.Deployment.Namespace,
	}
	if m.Route != nil {
		namespaces[m.Route.GetKind()+" "+m.Route.GetName()] = m.Route.GetNamespace()
		for _, service := range m.Tracks {
			namespaces["Service "+service.Name] = service.Namespace
		}
	}
	return namespaces
}
