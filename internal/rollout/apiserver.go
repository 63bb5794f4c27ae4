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

func (apiServer) hasPreviews() bool { return true }

func (apiServer) binds() bool { return true }

// carryOut makes a write that holds only for the resourceVersion that was read: else it is a conflict.
func (s apiServer) carryOut(ctx context.Context, j *job, o object, live metav1.Object, w *write) (metav1.Object, error) {
	switch {
	case w.create != nil:
		if w.stamped {
			j.stampOnto(w.create)
		}
		return o.create(ctx, w.create, metav1.CreateOptions{FieldManager: fieldManager, DryRun: s.dryRun()})
	case w.apply != nil:
		j.stampOnto(w.apply)
		content, err := plain(w.apply)
		if err != nil {
			return nil, err
		}
		delete(content, "status")
		metadata := content["metadata"].(map[string]any) // every API object has it
		delete(metadata, "creationTimestamp")
		delete(metadata, "managedFields")
		return s.applyFields(ctx, o, live, fieldManager, content)
	case w.size != nil:
		return s.applyFields(ctx, o, live, sizeManager, map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment",
			"metadata": map[string]any{"name": o.name, "namespace": o.namespace},
			"spec":     map[string]any{"replicas": *w.size},
		})
	case w.remove != "":
		return nil, s.delete(ctx, o, live, w.remove)
	}
	ops := []patchOp{{"replace", "/metadata/resourceVersion", live.GetResourceVersion()}}
	if w.stamped {
		ops = append(ops, j.stampOp(live))
	}
	body, err := json.Marshal(append(ops, w.patch...))
	if err != nil {
		return nil, err
	}
	return o.patch(ctx, types.JSONPatchType, body, metav1.PatchOptions{FieldManager: fieldManager, DryRun: s.dryRun()})
}

// noVersion is a resourceVersion that no object has: etcd's before its first write. An apply that names it creates an object that is
// missing, and is a conflict where there is one. Without it, one that comes late would be forced onto what has been made since.
const noVersion = "1"

// applyFields applies what a manager owns. The resourceVersion does not keep an apply from creating an object that was deleted since
// it was read; its UID does (applyPatch in k8s.io/apiserver/pkg/endpoints/handlers/patch.go).
func (s apiServer) applyFields(ctx context.Context, o object, live metav1.Object, manager string, content map[string]any) (metav1.Object, error) {
	metadata := content["metadata"].(map[string]any)
	switch {
	case s.planning() && (live == nil || live.GetResourceVersion() == ""): // it is made in this plan alone
	case live == nil:
		metadata["resourceVersion"] = noVersion
	default:
		metadata["resourceVersion"], metadata["uid"] = live.GetResourceVersion(), string(live.GetUID())
	}
	body, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	force := true
	return o.patch(ctx, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: &force, DryRun: s.dryRun(), FieldValidation: metav1.FieldValidationStrict})
}

func (s apiServer) delete(ctx context.Context, o object, live metav1.Object, policy metav1.DeletionPropagation) error {
	uid, version := live.GetUID(), live.GetResourceVersion()
	err := o.delete(ctx, metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: &uid, ResourceVersion: &version},
		PropagationPolicy: &policy, DryRun: s.dryRun(),
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (s apiServer) dryRun() []string {
	if s.planning() {
		return []string{metav1.DryRunAll}
	}
	return nil
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
