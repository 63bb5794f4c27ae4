package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/our-org/crossbill/internal/manifest"
)

// restoreFor bounds the time in which a rollback puts other objects back before it moves the traffic.
const restoreFor = 5 * time.Second

// restoreFirst is the step of a rollback that puts back what promotion has changed, before anything else: the pods of both
// tracks have run with it, and those of the old primary may not start without. It holds nothing up.
func (j *job) restoreFirst(ctx context.Context) error {
	kept, err := j.keptOthers()
	if err != nil { // restoreOthers says so
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, restoreFor)
	defer cancel()
	for _, one := range slices.Backward(kept.Objects) {
		if one.Before == "" {
			continue
		}
		if err := j.restoreOther(bounded, one, false); errors.Is(err, ErrLockLost) || ctx.Err() != nil {
			return err
		} else if err != nil {
			j.log(one.Kind+" "+one.Name, "%v; rolling back nevertheless", err)
		}
	}
	return nil
}

// restoreOthers is the step that takes back what the release has changed of the other objects, and deletes those that it has
// made, in the opposite order.
func (j *job) restoreOthers(ctx context.Context) error {
	kept, err := j.keptOthers()
	if err != nil {
		j.log("ledger", "%v; they stay as they are", err)
		return nil
	}
	for _, one := range slices.Backward(kept.Objects) {
		restore := j.restoreOther
		if one.Before == "" {
			restore = j.deleteOther
		}
		if err := restore(ctx, one, true); err != nil {
			return err
		}
	}
	return nil
}

// restoreOther puts an object back as it was, if the release has changed it.
func (j *job) restoreOther(ctx context.Context, kept keptOther, last bool) error {
	o, err := j.otherObject(kept)
	if err != nil {
		return err
	}
	previous := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal([]byte(kept.Before), &previous.Object); err != nil { // integers stay integers
		return fmt.Errorf("%s: %s as it was before is not readable: %w", j.ledgerName(), o, err)
	}
	note := hashOf(kept.Before)
	put := func(previous *unstructured.Unstructured) (before, after *unstructured.Unstructured, err error) {
		return change(ctx, j, o, func(live *unstructured.Unstructured) (*write, error) {
			if why := kept.untouched(live, note); why != "" {
				if last && why != asItWas {
					j.log(o.String(), "stays as it is: %s", why)
				}
				return nil, nil
			}
			return j.apply(previous.DeepCopy()), nil
		})
	}
	if len(kept.Added) > 0 && !j.planning() { // what it did not have goes while the object still says what it was
		if _, _, err := put(noted(previous, note)); err != nil {
			return err
		}
		if err := j.removeAdded(ctx, o, kept, note); err != nil {
			return err
		}
	}
	before, after, err := put(previous)
	if err != nil || before == after || after == nil {
		return err
	}
	j.hpas = nil
	is, err := content(after)
	if err != nil {
		return err
	}
	if was, err := hashOfContent(is); err != nil || was != kept.Was && !j.planning() {
		j.log(o.String(), "put back; others have changed parts of it since, which stay")
		return err
	}
	j.log(o.String(), "put back as it was before the release")
	return nil
}

const asItWas = "it is as it was"

// untouched is why a rollback leaves an object as it is; "" when the release has changed it.
func (k keptOther) untouched(live *unstructured.Unstructured, note string) string {
	if live == nil {
		return "somebody has deleted it"
	}
	if live.GetAnnotations()[previousAnnotation] == note {
		return ""
	}
	is, err := content(live)
	if err == nil {
		if was, err := hashOfContent(is); err == nil && was == k.Was {
			return asItWas
		}
	}
	return "promotion has not changed it, or what is kept of it is not what it was"
}

// removeAdded removes the fields that the release has brought and that are left when nobody applies them any more: the API
// server's defaults. Those that somebody else has set since stay.
func (j *job) removeAdded(ctx context.Context, o object, kept keptOther, note string) error {
	_, _, err := change(ctx, j, o, func(live *unstructured.Unstructured) (*write, error) {
		if live == nil || live.GetAnnotations()[previousAnnotation] != note {
			return nil, nil
		}
		var ops []patchOp
		for _, pointer := range kept.Added {
			path := pathOf(pointer)
			if _, there, _ := unstructured.NestedFieldNoCopy(live.Object, path...); there && !ownedBeside(live, path) {
				ops = append(ops, patchOp{Op: "remove", Path: pointer})
			}
		}
		if len(ops) == 0 {
			return nil, nil
		}
		return j.patch(ops...), nil
	})
	return err
}

func pathOf(pointer string) []string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(parts[i])
	}
	return parts
}

// ownedBeside says whether somebody else owns a field, or a part of it.
func ownedBeside(live *unstructured.Unstructured, path []string) bool {
	return slices.ContainsFunc(live.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
		if ours(e) || e.FieldsV1 == nil {
			return false
		}
		var owned map[string]any
		if json.Unmarshal(e.FieldsV1.GetRawBytes(), &owned) != nil {
			return true
		}
		for _, key := range path {
			inner, ok := owned["f:"+key].(map[string]any)
			if !ok {
				return false
			}
			owned = inner
		}
		return true
	})
}

// deleteOther deletes an object that the release has made.
func (j *job) deleteOther(ctx context.Context, kept keptOther, _ bool) error {
	o, err := j.otherObject(kept)
	if err != nil {
		return err
	}
	note := kept.note(j.ledger.Release)
	before, after, err := change(ctx, j, o, func(live *unstructured.Unstructured) (*write, error) {
		switch {
		case live == nil || live.GetDeletionTimestamp() != nil:
			return nil, nil
		case live.GetAnnotations()[previousAnnotation] != note:
			j.log(o.String(), "stays: the release has not made it")
			return nil, nil
		case manifest.Holds(kept.Kind):
			j.log(o.String(), "stays, although the release has made it: what it holds would be deleted with it")
			return nil, nil
		}
		return j.remove(metav1.DeletePropagationBackground), nil
	})
	if lacksPermission(err) {
		j.log(o.String(), "stays, although the release has made it: this account may not delete it")
		return nil
	}
	if err == nil && before != after {
		j.log(o.String(), "deleted: the release had made it")
	}
	return err
}
