// Package kubelet plays the scheduler, the kubelet and the container runtime of a cluster with one
// node, with pods as plain processes of this machine.
//
// A pod's image is pulled from its registry and unpacked once per digest; its entrypoint runs
// under chroot as the pod's user, with the pod's environment. Probes are made for real, processes
// that end are started again with a back-off, and a deleted pod gets its preStop hook, SIGTERM,
// its grace period and SIGKILL before its object is removed. What kubectl and controllers see
// (conditions, container states, reasons, events) is what a kubelet writes.
//
// What differs from a kubelet:
//   - All pods share one network, in which every pod's IP is local (see package sandbox). A
//     server must therefore listen on its pod's IP: the variable HOST is set to it, unless the
//     pod sets HOST itself. A server that listens on 0.0.0.0 would answer for all pods.
//   - The scheduler is one rule: a pod without a node gets the node. This spares linking and
//     starting kube-scheduler, which has nothing to choose here.
//   - The node is ready from its start, with room for any pod: no heartbeats, no leases, no limits of its own.
//   - Pods' addresses come in turn from one range, as CNI's host-local hands them out. The range of package cluster is so
//     large that no test sees an address twice.
//   - A container's memory is looked at five times a second, without its page cache; one that has
//     more than its limit is killed (OOMKilled, 137). A kernel does not wait. Other limits are ignored,
//     and so is the service account's token.
//   - A node that is gone is one for a single pod, that [GoneAnnotation] names: its processes stand still,
//     so connections are accepted and never answered, where a real node's are not accepted either.
//     The pod is marked as not ready after 50 seconds; it is not evicted after another 300. The Node stays
//     Ready: other pods are on it.
//   - No init containers, exec probes or hooks, no volumes but emptyDir and those of ConfigMaps and Secrets, and no
//     subPath. A pod that asks for one of these waits with CreateContainerConfigError.
//   - The API server gets the log of a container from it, with all of the container's lives in one; there is no exec, attach,
//     port-forward, nor following of a log.
//   - A volume of ConfigMaps and Secrets is written when its container starts, and not again when one of them changes; a
//     kubelet does that within a minute or so, where they are not immutable. A pod whose volume cannot be made waits with
//     CreateContainerConfigError, where a kubelet's stays in ContainerCreating.
//
// The rest was checked against pkg/kubelet of Kubernetes 1.37: a container that ends is noticed at the next
// look, one a second (the generic PLEG's), and is started again at once the first time, then after 10 s,
// 20 s and so on up to 5 minutes, until it has lived for 10 minutes.
//
// It needs the rights to mount and to chroot, and should run in a mount namespace of its own.
package kubelet

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// GoneAnnotation on a pod, with any value: the pod's node is gone. Its processes do not answer, nobody probes them,
// its status stays as it was, and its deletion never ends, unless it is forced.
const GoneAnnotation = "rehearsal/node-gone"

// goneAfter is the kube-controller-manager's --node-monitor-grace-period.
const goneAfter = 50 * time.Second

// Options say which node to play, and where.
type Options struct {
	Client kubernetes.Interface
	// Node is the name of the one node, which registers itself, and NodeIP its address.
	Node   string
	NodeIP netip.Addr
	// FirstIP to LastIP are the addresses for pods, but those that end in 0 and 255.
	FirstIP, LastIP netip.Addr
	// Dir is a folder for unpacked images, and for the logs of containers:
	// logs/<namespace>_<pod>_<container>.log.
	Dir string
	// Log takes what has no place in a pod's status or events. May be nil.
	Log func(format string, args ...any)
}

// Run plays the node until ctx ends; then it kills every pod's processes and returns. Pods'
// objects stay as they are.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	k := &kubelet{
		Options: o, ctx: ctx, images: newImages(filepath.Join(o.Dir, "images")),
		addresses: newAddresses(o.FirstIP, o.LastIP), pods: map[types.UID]*pod{},
	}
	if err := k.makeFolders(); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	defer func() { _ = syscall.Unmount(k.podsDir(), syscall.MNT_DETACH) }() // else Dir cannot be removed
	if err := k.serve(ctx); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	if err := k.register(); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("kubelet: %w", err)
	}
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: o.Client.CoreV1().Events("")})
	k.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: o.Node})

	// The resync repeats what failed, a binding for instance.
	factory := informers.NewSharedInformerFactory(o.Client, 5*time.Second)
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.seen(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { k.seen(o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if tombstone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = tombstone.Obj
			}
			k.removed(o.(*corev1.Pod).UID)
		},
	}); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	k.running.Wait()
	return nil
}

type kubelet struct {
	Options
	ctx       context.Context
	images    *images
	addresses *addresses
	events    record.EventRecorder

	mu      sync.Mutex
	pods    map[types.UID]*pod // those that were started
	running sync.WaitGroup
}

func (k *kubelet) logsDir() string { return filepath.Join(k.Dir, "logs") }
func (k *kubelet) podsDir() string { return filepath.Join(k.Dir, "pods") }

// makeFolders makes the folders, the one for pods in memory: an overlay's upper layer cannot lie
// on another overlay, which is what a container's disk is.
func (k *kubelet) makeFolders() error {
	for _, dir := range []string{k.logsDir(), k.podsDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := syscall.Mount("tmpfs", k.podsDir(), "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", k.podsDir(), err)
	}
	return nil
}

// seen takes the newest version of a pod.
func (k *kubelet) seen(p *corev1.Pod) {
	over := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	switch {
	case p.Spec.NodeName == "" && p.DeletionTimestamp == nil && !over:
		go k.bind(p)
		return
	case p.Spec.NodeName != k.Node:
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	running := k.pods[p.UID]
	switch {
	case running != nil:
		running.update(p)
	case p.DeletionTimestamp != nil:
		go k.remove(p) // nothing of it ever ran, or all has ended
	case over || k.ctx.Err() != nil:
	case p.Status.PodIP == "":
		go k.admit(p)
	default:
		running = newPod(k, p)
		k.pods[p.UID] = running
		k.running.Add(1)
		go func() {
			defer k.running.Done()
			running.run()
			k.mu.Lock()
			delete(k.pods, p.UID)
			k.mu.Unlock()
		}()
	}
}

// removed stops everything of a pod whose object is gone.
func (k *kubelet) removed(uid types.UID) {
	k.addresses.release(uid)
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pods[uid]; p != nil {
		p.kill()
	}
}

func (k *kubelet) bind(p *corev1.Pod) {
	err := k.Client.CoreV1().Pods(p.Namespace).Bind(k.ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: k.Node},
	}, metav1.CreateOptions{})
	switch {
	case err == nil:
		k.events.Eventf(p, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", p.Namespace, p.Name, k.Node)
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err) || k.ctx.Err() != nil: // bound or gone meanwhile
	default:
		k.Log("bind pod %s/%s: %v", p.Namespace, p.Name, err)
	}
}

// remove removes the object of a pod of which nothing runs any more.
func (k *kubelet) remove(p *corev1.Pod) {
	uid, now := p.UID, int64(0)
	err := k.Client.CoreV1().Pods(p.Namespace).Delete(k.ctx, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && k.ctx.Err() == nil {
		k.Log("remove pod %s/%s: %v", p.Namespace, p.Name, err)
	}
}
