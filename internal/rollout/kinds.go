package rollout

import (
	"context"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
)

// Kinds reaches objects of every kind that the cluster has.
type Kinds struct {
	client    dynamic.Interface
	discovery discovery.ServerResourcesInterface

	mu    sync.Mutex
	found map[string]*metav1.APIResourceList // by group and version
}

// NewKinds reaches them with the clients of a cluster.
func NewKinds(client dynamic.Interface, resources discovery.ServerResourcesInterface) *Kinds {
	return &Kinds{client: client, discovery: resources, found: map[string]*metav1.APIResourceList{}}
}

// resource is how a kind is named in requests; nil when the cluster does not have it.
func (k *Kinds) resource(gvk schema.GroupVersionKind) (*metav1.APIResource, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	version := gvk.GroupVersion().String()
	list, ok := k.found[version]
	if !ok {
		var err error
		if list, err = k.discovery.ServerResourcesForGroupVersion(version); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		k.found[version] = list
	}
	if list == nil {
		return nil, nil
	}
	for i := range list.APIResources {
		if r := &list.APIResources[i]; r.Kind == gvk.Kind && !strings.Contains(r.Name, "/") {
			return r, nil
		}
	}
	return nil, nil
}

// otherObject is how an object is read and written.
func (c *Cluster) otherObject(k keptOther) (object, error) {
	if c.Kinds == nil {
		return object{}, fmt.Errorf("%s %s cannot be reached: there is no client for its kind", k.Kind, k.Name)
	}
	var client dynamic.ResourceInterface = c.Kinds.client.Resource(schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Resource})
	if k.Namespace != "" {
		client = client.(dynamic.NamespaceableResourceInterface).Namespace(k.Namespace)
	}
	kind := k.Kind
	if own, ok := map[string]string{"Service": "", "Deployment": "apps", "VirtualService": istioGroup, "DestinationRule": istioGroup, "Gateway": istioGroup}[kind]; ok && own != k.Group {
		kind += "." + k.Group // else it would be taken for the app's
	}
	return object{
		kind: kind, namespace: k.Namespace, name: k.Name,
		read: func(ctx context.Context) (metav1.Object, error) {
			live, err := client.Get(ctx, k.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			return live, nil
		},
		create: func(ctx context.Context, o metav1.Object, options metav1.CreateOptions) (metav1.Object, error) {
			return client.Create(ctx, o.(*unstructured.Unstructured), options)
		},
		patch: func(ctx context.Context, kind types.PatchType, body []byte, options metav1.PatchOptions) (metav1.Object, error) {
			return client.Patch(ctx, k.Name, kind, body, options)
		},
		delete: func(ctx context.Context, options metav1.DeleteOptions) error {
			return client.Delete(ctx, k.Name, options)
		},
	}, nil
}

const istioGroup = "networking.istio.io"

// plain is an object as plain data of its own.
func plain(o any) (map[string]any, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u.DeepCopy().Object, nil // the converter gives it as it is
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(o)
}
