package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

const (
	// fieldManager owns what Crossbill writes.
	fieldManager = "crossbill"
	// sizeManager owns the number of primary's replicas, apart from everything else: a manager that
	// stops naming a field gives it up, and the API server would then reset it to 1.
	sizeManager = "crossbill-size"
)

// write is one change to an object: exactly one of its fields says what becomes of it.
type write struct {
	create metav1.Object              // it is made; it was not found
	apply  metav1.Object              // it is brought to this, by server-side apply
	size   *int32                     // a Deployment gets so many replicas
	patch  []patchOp                  // these are carried out on it as it was read
	remove metav1.DeletionPropagation // it is deleted as it was read, and what it owns as this says

	stamped bool   // it gets the epoch of the job's lock
	says    string // what it does, for a commit; may be empty
}

// change is the one way to write an object: read it, check the fence, change it, record it. decide makes the
// write out of what is live; nil when there is nothing to do. It is safe to try again after an unknown
// outcome: each attempt reads anew, and its write names what it read. The first one takes what this job has read
// already, if there is something to write to it: where that has changed since, the write is a conflict. So is one that makes
// an object that is there already.
func change[T metav1.Object](ctx context.Context, j *job, o object, decide func(live T) (*write, error)) (before, after T, err error) {
	known, fresh := j.recall(o), j.fresh(o)
	unread := o.unread && known == nil
	err = j.retried(ctx, o.String(), func() error {
		live, do, err := known, (*write)(nil), error(nil)
		enough := live != nil && j.fence(live) == nil
		known = nil
		if enough {
			do, err = decide(as[T](live))
			enough = err == nil && (do != nil || fresh)
		}
		if !enough {
			if live = nil; !unread {
				if live, err = j.readFenced(ctx, o); err != nil {
					return err
				}
			}
			unread = false
			if do, err = decide(as[T](live)); err != nil {
				return err
			}
		}
		before, after = as[T](live), as[T](live)
		if do == nil {
			j.record(o, live, live) // an earlier attempt may have done it, its answer lost
			return nil
		}
		written, err := j.store().carryOut(ctx, j, o, live, do)
		if live != nil && apierrors.IsNotFound(err) { // somebody has deleted it since it was read
			j.remember(o, nil)
			return apierrors.NewConflict(schema.GroupResource{Resource: o.kind}, o.name, err)
		}
		if err != nil {
			return err
		}
		after = as[T](written)
		j.record(o, live, written)
		return nil
	})
	return before, after, err
}

// readFenced reads an object that this job is to write.
func (j *job) readFenced(ctx context.Context, o object) (metav1.Object, error) {
	live, err := o.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := j.fence(live); !errors.Is(err, ErrLockLost) {
		return live, err
	}
	if err := j.outrun(ctx); err != nil {
		return nil, err
	}
	if live, err = o.read(ctx); err != nil {
		return nil, err
	}
	return live, j.fence(live)
}

// writeBackoff bounds the attempts of one write: about 28 seconds.
var writeBackoff = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 9}

// retried tries a write until it succeeds, and says of one that did not what is safe to do next.
func (j *job) retried(ctx context.Context, what string, attempt func() error) error {
	err := persist(ctx, attempt)
	switch {
	case err == nil, errors.Is(err, ErrLockLost), errors.As(err, new(*usererr.Error)):
		return err
	case refusedForGood(err) && !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) && j.ofRelease() && j.inFlight() && j.ledger.Release.Stage == release.StageStarted:
		return fmt.Errorf("%s: the API server refuses it, and would again: %w; rollback ends the release", what, err)
	case refusedForGood(err):
		return fmt.Errorf("%s: the API server refused the change: %w; fix that, then %s", what, err, j.next())
	case ctx.Err() != nil: // conclude says what to do next
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w; %s", what, err, j.next())
}

// persist tries a write again while its error may pass. It ends at once when the job is stopped.
func persist(ctx context.Context, attempt func() error) error {
	last := context.Cause(ctx)
	_ = wait.ExponentialBackoffWithContext(ctx, writeBackoff, func(context.Context) (bool, error) {
		last = attempt()
		if last != nil && (ctx.Err() != nil || !transient(last)) {
			return false, last
		}
		return last == nil, nil
	})
	return last
}

func transient(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsServiceUnavailable(err) ||
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err)
}

// create makes an object that was not found. owned: it is the app's alone, so it carries the epoch.
func (j *job) create(desired metav1.Object, owned bool) *write {
	return &write{create: desired, stamped: owned}
}

// apply brings an object to what is desired, by server-side apply. It takes a field over from whoever set it,
// which for our own objects' fields is what a release is.
func (j *job) apply(desired metav1.Object) *write { return &write{apply: desired, stamped: true} }

// applySize gives a Deployment a number of replicas, under a manager of its own that an HPA may take it from.
func (j *job) applySize(replicas int32) *write { return &write{size: &replicas} }

// patch carries operations out on an object and stamps it. Lists of VirtualService and DestinationRule are
// atomic under server-side apply, so these two are changed by such patches: only the named fields change,
// whatever else is there.
func (j *job) patch(ops ...patchOp) *write { return &write{patch: ops, stamped: true} }

// remove deletes an object as it was read. What it owns is deleted as policy says.
func (j *job) remove(policy metav1.DeletionPropagation) *write { return &write{remove: policy} }

// patchOp is one operation of a JSON patch (RFC 6902).
type patchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}
