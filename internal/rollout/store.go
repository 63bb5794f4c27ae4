package rollout

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	// hasPreviews says whether objects can be written that no manifests have, and a rule that leads to them.
	hasPreviews() bool
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
