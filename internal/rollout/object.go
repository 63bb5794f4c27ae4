package rollout

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/our-org/crossbill/internal/release"
)

// object is an object that a release writes: how it is read and written, whatever its kind.
type object struct {
	kind, namespace, name string

	read   func(context.Context) (metav1.Object, error) // nil when not found
	create func(context.Context, metav1.Object, metav1.CreateOptions) (metav1.Object, error)
	patch  func(context.Context, types.PatchType, []byte, metav1.PatchOptions) (metav1.Object, error)
	delete func(context.Context, metav1.DeleteOptions) error

	unread bool // nobody is known to have made it: the first attempt to write it does not read it
}

func (o object) String() string {
	if o.namespace == "" {
		return o.kind + " " + o.name
	}
	return o.kind + " " + o.namespace + "/" + o.name
}

// client is what the generated clients of all kinds have in common.
type client[T any] interface {
	Get(context.Context, string, metav1.GetOptions) (T, error)
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

func objectOf[T metav1.Object](kind, namespace, name string, c client[T]) object {
	return object{
		kind: kind, namespace: namespace, name: name,
		read: func(ctx context.Context) (metav1.Object, error) {
			live, err := c.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			return live, nil
		},
		create: func(ctx context.Context, o metav1.Object, options metav1.CreateOptions) (metav1.Object, error) {
			return c.Create(ctx, o.(T), options)
		},
		patch: func(ctx context.Context, kind types.PatchType, body []byte, options metav1.PatchOptions) (metav1.Object, error) {
			return c.Patch(ctx, name, kind, body, options)
		},
		delete: func(ctx context.Context, options metav1.DeleteOptions) error { return c.Delete(ctx, name, options) },
	}
}

// as is an object as its own type; the zero T for nil.
func as[T metav1.Object](o metav1.Object) T {
	typed, _ := o.(T)
	return typed
}

func (c *Cluster) deployment(name string) object {
	return objectOf("Deployment", c.Namespace, name, c.Kube.AppsV1().Deployments(c.Namespace))
}

// track is the Deployment of a track.
func (c *Cluster) track(track release.Track) object { return c.deployment(c.deploymentName(track)) }

func (c *Cluster) replicaSet(name string) object {
	return objectOf("ReplicaSet", c.Namespace, name, c.Kube.AppsV1().ReplicaSets(c.Namespace))
}

func (c *Cluster) service() object {
	return objectOf("Service", c.Namespace, c.Manifests.Service.Name, c.Kube.CoreV1().Services(c.Namespace))
}

func (c *Cluster) destinationRule() object {
	namespace := c.namespaceOf(c.Manifests.DestinationRule)
	return objectOf("DestinationRule", namespace, c.Manifests.DestinationRule.Name, c.Istio.NetworkingV1().DestinationRules(namespace))
}

func (c *Cluster) virtualService() object {
	namespace := c.namespaceOf(c.Manifests.VirtualService)
	return c.readRoute(objectOf("VirtualService", namespace, c.Manifests.VirtualService.Name, c.Istio.NetworkingV1().VirtualServices(namespace)))
}

// gateway is one that apps share: it is only ever created.
func (c *Cluster) gateway(namespace, name string) object {
	return objectOf("Gateway", namespace, name, c.Istio.NetworkingV1().Gateways(namespace))
}

// namespaceOf is where an object of the mesh is: where its manifest says, else beside the app.
func (c *Cluster) namespaceOf(o metav1.Object) string {
	if namespace := o.GetNamespace(); namespace != "" {
		return namespace
	}
	return c.Namespace
}

// known is an object as this job has read or written it last.
type known struct {
	object metav1.Object
	at     time.Time
}

// knownFor is how long a Deployment that was read is worth a write without another read: its status changes all the
// time, and with it its version. The other kinds change when somebody writes them.
const knownFor = 30 * time.Second

// remember keeps an object for the write that may follow. What was not found is not kept: its creation could not name
// what it follows.
func (j *job) remember(o object, live metav1.Object) {
	if live == nil {
		delete(j.known, o.String())
		return
	}
	if j.known == nil {
		j.known = map[string]known{}
	}
	j.known[o.String()] = known{live, time.Now()}
}

// recall gives an object that this job knows; nil if it has to be read.
func (j *job) recall(o object) metav1.Object {
	k, ok := j.known[o.String()]
	if !ok || o.kind == "Deployment" && time.Since(k.at) > knownFor {
		return nil
	}
	return k.object
}

// freshFor is how long an object that was read shows that there is nothing to write to it.
const freshFor = 3 * time.Second

// fresh says whether an object was read just now.
func (j *job) fresh(o object) bool { return time.Since(j.known[o.String()].at) < freshFor }

// look reads an object, and keeps it for the write that may follow.
func look[T metav1.Object](ctx context.Context, j *job, o object) (T, error) {
	found, err := o.read(ctx)
	if err != nil {
		return as[T](nil), fmt.Errorf("%s: %w", o, err)
	}
	j.remember(o, found)
	return as[T](found), nil
}

// recent is an object as this job has just read it, else as it is now.
func recent[T metav1.Object](ctx context.Context, j *job, o object) (T, error) {
	if found := j.recall(o); found != nil {
		return as[T](found), nil
	}
	return look[T](ctx, j, o)
}

func (j *job) liveTrack(ctx context.Context, track release.Track) (*appsv1.Deployment, error) {
	return look[*appsv1.Deployment](ctx, j, j.track(track))
}

// fenced are the objects that carry the epoch of the lock that wrote them last, beside the ledger and a baseline.
func (j *job) fenced() []object {
	return append([]object{j.track(release.Primary), j.track(release.Canary), j.service()}, j.ownedByOthers()...)
}
