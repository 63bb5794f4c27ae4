package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/cache"
)

// store is where changes are written, with the ledger and the lock, and the compare-and-swap that fences them. Everything
// that a release does is the same over each of them; what runs is always read from the cluster.
type store interface {
	// readState reads what is kept of an app, as a ConfigMap of that name: the ledger and what goes with it. The error is
	// that of an object that is not found where there is none.
	readState(ctx context.Context, name string) (*corev1.ConfigMap, error)
	// writeState writes it as it was read, and gives what is there then: a conflict when somebody has written it since.
	writeState(ctx context.Context, j *job, next *corev1.ConfigMap) (*corev1.ConfigMap, error)
	// watchState lists and watches it.
	watchState(name string) *cache.ListWatch

	// readLease reads the lock; nil when there is none.
	readLease(ctx context.Context, name string) (*coordinationv1.Lease, error)
	// writeLease writes it as it was read: a conflict when somebody has written it since.
	writeLease(ctx context.Context, next *coordinationv1.Lease) (*coordinationv1.Lease, error)
	// takeFree takes a lock that was released, in one write; nil where that cannot be done.
	takeFree(ctx context.Context, name, identity string) *coordinationv1.Lease
	// expired says whether a lock was not renewed for so long that its job counts as dead. certain: nobody has to ask that job.
	expired(lease *coordinationv1.Lease) (expired, certain bool)
	// ask has whoever holds the lock say that it lives, where it does not say so all the while.
	ask(ctx context.Context, lease *coordinationv1.Lease) error
	// answers asks whoever holds a lock that has not expired, and waits for the answer.
	answers(ctx context.Context) (alive bool, err error)

	// places are where ledger and lock are, for messages.
	places() (ledger, lock string)
	// binds says whether Deployments note what the ledger says of them, because more accounts may write it than them.
	binds() bool

	// carryOut writes to an object as it was read, and gives what became of it, nil of a deletion: a conflict when
	// somebody has written it since.
	carryOut(ctx context.Context, j *job, o object, live metav1.Object, w *write) (metav1.Object, error)
	// fenceOff keeps a job before this one, whose lock did not end in order, from writing to any object.
	fenceOff(ctx context.Context, j *job) error
	// dryApply is what an apply would make of a Deployment; nil where that cannot be known.
	dryApply(ctx context.Context, j *job, desired *appsv1.Deployment) (*appsv1.Deployment, error)
	// writers are the field managers by which a release's manifests get into the cluster, and with which operation; "" for any.
	writers() (managers sets.Set[string], by metav1.ManagedFieldsOperationType)

	// lookRelease refuses a release that would not last, or that cannot be written here, before its first write. found is what
	// canary has found.
	lookRelease(ctx context.Context, j *job, found *canaryFound) error
	// catchUp waits until the cluster is as the store has it: what a command then decides by, no write on its way changes.
	catchUp(ctx context.Context, j *job) error
	// letIn is the step with which a release ends: who applies the app's objects from Git does so again. It is safe to repeat.
	letIn(ctx context.Context, j *job) error
}

// store is the one that the app's releases are written to.
func (c *Cluster) store() store {
	switch {
	case c.Git != nil:
		return gitStore{c}
	case c.GitOps != nil:
		return besideController{apiServer{c}}
	}
	return apiServer{c}
}

// apiServer is the store where the app runs.
type apiServer struct{ *Cluster }

func (s apiServer) readState(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	return s.Kube.CoreV1().ConfigMaps(s.Namespace).Get(ctx, name, metav1.GetOptions{})
}

func (s apiServer) writeState(ctx context.Context, _ *job, next *corev1.ConfigMap) (*corev1.ConfigMap, error) {
	configMaps := s.Kube.CoreV1().ConfigMaps(s.Namespace)
	if next.ResourceVersion != "" {
		return configMaps.Update(ctx, next, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	written, err := configMaps.Create(ctx, next, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		err = apierrors.NewConflict(corev1.Resource("configmaps"), next.Name, err) // to be looked at
	}
	return written, err
}

func (s apiServer) watchState(name string) *cache.ListWatch {
	return listWatch(s.Kube.CoreV1().ConfigMaps(s.Namespace), named(name))
}

func (s apiServer) readLease(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	lease, err := s.Kube.CoordinationV1().Leases(s.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return lease, err
}

func (s apiServer) writeLease(ctx context.Context, next *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	leases := s.Kube.CoordinationV1().Leases(s.Namespace)
	if next.ResourceVersion == "" {
		return leases.Create(ctx, next, metav1.CreateOptions{FieldManager: fieldManager})
	}
	return leases.Update(ctx, next, metav1.UpdateOptions{FieldManager: fieldManager})
}

func (s apiServer) takeFree(ctx context.Context, name, identity string) *coordinationv1.Lease {
	now := metav1.NowMicro()
	patch, err := json.Marshal([]patchOp{
		{"test", "/spec/holderIdentity", ""}, {"replace", "/spec/holderIdentity", identity},
		{"add", "/spec/acquireTime", now}, {"add", "/spec/renewTime", now}, {"add", "/spec/leaseDurationSeconds", int32(leaseDuration / time.Second)},
	})
	if err != nil {
		return nil
	}
	lease, err := s.Kube.CoordinationV1().Leases(s.Namespace).Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return nil
	}
	return lease
}

// expired goes by the API server's times: when it wrote the renewal, and what it says that time is. Where it does not say so,
// those of the two jobs' own clocks count, which may differ.
func (s apiServer) expired(lease *coordinationv1.Lease) (expired, certain bool) {
	lasts := leaseDuration
	if seconds := lease.Spec.LeaseDurationSeconds; seconds != nil { // of an earlier Crossbill's
		lasts = time.Duration(*seconds) * time.Second
	}
	if renewed, now := renewedAt(lease), s.API.now(); !renewed.IsZero() && !now.IsZero() {
		return now.Sub(renewed) > lasts, true
	}
	return lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) > lasts+clockSkew, true
}

// renewedAt is when the API server wrote the last renewal of a lock; zero if it does not say so.
func renewedAt(lease *coordinationv1.Lease) (at time.Time) {
	for _, entry := range lease.ManagedFields {
		if entry.Time != nil && entry.Time.After(at) && entry.Subresource == "" {
			at = entry.Time.Time
		}
	}
	return at
}

func (apiServer) ask(context.Context, *coordinationv1.Lease) error { return nil }

func (apiServer) answers(context.Context) (alive bool, err error) { return true, nil } // it renews the lock

func (s apiServer) places() (ledger, lock string) {
	name := s.Namespace + "/" + s.stateName()
	return "ConfigMap " + name, "Lease " + name
}

func (apiServer) binds() bool { return true }

func (s apiServer) carryOut(ctx context.Context, j *job, o object, live metav1.Object, w *write) (metav1.Object, error) {
	return j.toAPIServer(ctx, o, live, w)
}

func (apiServer) fenceOff(ctx context.Context, j *job) error { return j.stamp(ctx) }

// dryApply gives nil when a webhook that knows no dry run hides it.
func (s apiServer) dryApply(ctx context.Context, j *job, desired *appsv1.Deployment) (*appsv1.Deployment, error) {
	o := s.deployment(desired.Name)
	made, err := j.tryApply(ctx, o, desired)
	if err != nil {
		err = fmt.Errorf("%s: %w", o, err)
	}
	return as[*appsv1.Deployment](made), j.beforehand(err)
}

func (apiServer) writers() (sets.Set[string], metav1.ManagedFieldsOperationType) {
	return sets.New(fieldManager), metav1.ManagedFieldsOperationApply
}

func (apiServer) lookRelease(_ context.Context, j *job, _ *canaryFound) error {
	return j.lookUncontrolled()
}

func (apiServer) catchUp(context.Context, *job) error { return nil }

func (apiServer) letIn(_ context.Context, j *job) error {
	if j.planning() {
		return nil
	}
	return j.lookLeft()
}
