package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// epochAnnotation is the epoch of the lock that wrote an object last.
const epochAnnotation = "crossbill.our-org.github.com/epoch"

// first says whether an app's first release is in flight.
func (j *job) first() bool {
	r := j.ledger.Release
	return r != nil && r.Previous == ""
}

// foreign says whether a Deployment that has the name of one which releases make is somebody else's: no job writes to it, not
// even a stamp, by which the canary and what a first release makes are known. A baseline is known by its label.
func (j *job) foreign(live *appsv1.Deployment) bool {
	_, stamped := live.Annotations[epochAnnotation]
	switch live.Name {
	case j.deploymentName(baseline):
		return !manifest.IsBaseline(live)
	case j.deploymentName(release.Canary):
		return !stamped
	case j.deploymentName(release.Primary):
		return !stamped && j.first()
	}
	return false
}

// foreignError refuses such a Deployment.
func (j *job) foreignError(live *appsv1.Deployment, fix string) error {
	return &usererr.Error{Field: j.deployment(live.Name).String(), Problem: "it is there, and no release has made it", Fix: fix}
}

// nameFree refuses, before anything is written, what needs the name of somebody else's Deployment.
func (j *job) nameFree(live *appsv1.Deployment) error {
	if live == nil || !j.foreign(live) {
		return nil
	}
	return j.foreignError(live, "delete it, or give it another name; nothing was changed")
}

// notForeign refuses to write to such a Deployment in the middle of a release.
func (j *job) notForeign(live *appsv1.Deployment) error {
	if !j.foreign(live) {
		return nil
	}
	return j.foreignError(live, "delete it, or give it another name, and run the command again; rollback ends the release")
}

// fence refuses an object that a newer lock has written.
func (j *job) fence(o metav1.Object) error {
	if o == nil {
		return nil
	}
	if _, copied := o.GetLabels()[manifest.CopyLabel]; copied && !j.ownCopy(o) { // another app's copy, or one that apps share, has that app's epochs
		return nil
	}
	if _, ok := o.GetLabels()[manifest.PreviewLabel]; ok { // ofPreview fences it
		return nil
	}
	epoch, err := epochOf(o)
	if err == nil && epoch > j.epoch {
		return ErrLockLost
	}
	return err
}

// outrun is called when an object carries a newer epoch than this job's. Either another job has the lock; or nobody has
// written the ledger since, and it is older than what it describes: somebody has restored it. The ledger is then brought
// above all that the objects carry, by a write of it as this job knows it, and every object is stamped, as after a job that
// did not end in order.
func (j *job) outrun(ctx context.Context) error {
	if err := j.holds(ctx); err != nil {
		return err
	}
	newest, err := j.newestEpoch(ctx)
	if err != nil {
		return err
	}
	j.log("ledger", "it is older (lock %d) than the objects that it describes (lock %d): somebody has restored it, and releases since then are not in it", j.epoch-1, newest)
	j.epoch = newest + 1
	j.ledger.Epoch = j.epoch
	if err := j.commit(ctx); err != nil {
		return err
	}
	return j.store().fenceOff(ctx, j)
}

// epochOf is the epoch that an object carries; 0 without one.
func epochOf(o metav1.Object) (int64, error) {
	text, ok := o.GetAnnotations()[epochAnnotation]
	if !ok {
		return 0, nil
	}
	epoch, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s has annotation %s: %q, which is not a number; remove it", o.GetName(), epochAnnotation, text)
	}
	return epoch, nil
}

func (j *job) stampOnto(o metav1.Object) {
	annotations := map[string]string{epochAnnotation: strconv.FormatInt(j.epoch, 10)}
	for key, value := range o.GetAnnotations() {
		if key != epochAnnotation {
			annotations[key] = value
		}
	}
	o.SetAnnotations(annotations)
}

// stampOp stamps an object as it was read.
func (j *job) stampOp(live metav1.Object) patchOp {
	epoch := strconv.FormatInt(j.epoch, 10)
	if live.GetAnnotations() == nil {
		return patchOp{"add", "/metadata/annotations", map[string]string{epochAnnotation: epoch}}
	}
	return patchOp{"add", "/metadata/annotations/crossbill.our-org.github.com~1epoch", epoch} // ~1 is "/" in a JSON pointer
}

// stamp puts this lock's epoch on every object that the last holder could still write: by this job's names, and by those of the
// ledger where they are others, which a rollback goes by that follows.
func (j *job) stamp(ctx context.Context) error {
	own, named := j.Cluster, j.byLedger()
	if err := j.stampNamed(ctx); err != nil || named == own {
		return err
	}
	j.Cluster = named
	defer func() { j.Cluster = own }()
	return j.stampNamed(ctx)
}

func (j *job) stampNamed(ctx context.Context) error {
	for _, o := range j.fenced() {
		if err := j.stampOne(ctx, o); err != nil {
			return err
		}
	}
	if err := j.stampBaseline(ctx); err != nil {
		return err
	}
	if err := j.stampHooks(ctx); err != nil {
		return err
	}
	if err := j.stampCopies(ctx); err != nil {
		return err
	}
	for _, o := range j.fencedOthers() { // nor must it depend on those for objects that somebody has taken from this account since
		if err := j.stampOne(ctx, o); err != nil && !lacksPermission(err) {
			return err
		}
	}
	// What migrate removes. Only migrate needs the permissions for that: rollback must not depend on them.
	orphans, err := j.orphanedReplicaSets(ctx, j.appSelector())
	for i := 0; err == nil && i < len(orphans); i++ {
		err = j.stampOne(ctx, j.replicaSet(orphans[i].Name))
	}
	if apierrors.IsForbidden(err) {
		return nil
	}
	return err
}

func (j *job) stampOne(ctx context.Context, o object) error {
	_, _, err := change(ctx, j, o, func(live metav1.Object) (*write, error) {
		switch live := live.(type) {
		case nil:
			return nil, nil
		case *appsv1.Deployment:
			if j.foreign(live) {
				return nil, nil
			}
		case *corev1.Service:
			if j.first() && j.othersService(live) {
				return nil, nil
			}
		}
		return j.patch(), nil
	})
	return err
}

// newestEpoch is the highest epoch on the app's objects, for a ledger that was lost.
func (j *job) newestEpoch(ctx context.Context) (int64, error) {
	newest, objects := int64(0), append(j.fenced(), j.fencedOthers()...)
	if j.Git == nil { // else it is rejected, and no Role has it
		objects = append(objects, j.track(baseline))
	}
	for _, o := range objects {
		live, err := o.read(ctx)
		if lacksPermission(err) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w; nothing was changed", o, err)
		}
		if live == nil {
			continue
		}
		epoch, err := epochOf(live)
		if err != nil {
			return 0, err
		}
		newest = max(newest, epoch)
	}
	for _, kind := range []string{"ConfigMap", "Secret"} {
		if !j.reads(kind) {
			continue
		}
		copies, err := j.copiesOf(ctx, kind)
		if _, ok := errors.AsType[*forbiddenError](err); ok {
			continue
		}
		if err != nil {
			return 0, err
		}
		for _, o := range copies {
			epoch, err := epochOf(o)
			if err != nil {
				return 0, err
			}
			newest = max(newest, epoch)
		}
	}
	return newest, nil
}

// ownedByOthers are the objects whose fields somebody else owns between releases.
func (j *job) ownedByOthers() []object {
	router := j.router()
	return append(router.backends(), router.route())
}

func ours(e metav1.ManagedFieldsEntry) bool { return e.Manager == fieldManager }

// ownsFields says whether there is something left to hand back.
func (j *job) ownsFields(ctx context.Context) (bool, error) {
	if !j.manages() {
		return false, nil
	}
	for _, o := range j.ownedByOthers() {
		live, err := o.read(ctx)
		if err != nil {
			return false, fmt.Errorf("%s: %w; nothing was changed", o, err)
		}
		if live != nil && slices.ContainsFunc(live.GetManagedFields(), ours) {
			return true, nil
		}
	}
	return false, nil
}

// othersFields is the operation that gives up what some managers own of an object's fields.
func othersFields(live metav1.Object, ours func(metav1.ManagedFieldsEntry) bool) (patchOp, error) {
	others := slices.DeleteFunc(slices.Clone(live.GetManagedFields()), ours)
	if len(others) == 0 {
		others = []metav1.ManagedFieldsEntry{{}} // the API server's sign for "nobody"; an empty list changes nothing
	}
	entries, err := json.Marshal(others)
	return patchOp{"replace", "/metadata/managedFields", json.RawMessage(entries)}, err
}

// handBack gives up the ownership of fields of what routes the app that our patches took, so that the next unforced apply of
// whoever owns them succeeds: the objects are again as the manifest has them.
func (j *job) handBack(ctx context.Context) error {
	if j.planning() || !j.manages() {
		return nil
	}
	for _, o := range j.ownedByOthers() {
		// What this job knows of it is new enough: nobody else takes fields in our name.
		if live := j.recall(o); live != nil && !slices.ContainsFunc(live.GetManagedFields(), ours) {
			continue
		}
		_, _, err := change(ctx, j, o, func(live metav1.Object) (*write, error) {
			if live == nil {
				return nil, nil
			}
			if !slices.ContainsFunc(live.GetManagedFields(), ours) {
				return nil, nil
			}
			given, err := othersFields(live, ours)
			return &write{patch: []patchOp{given}}, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
