package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// The other objects of the manifests are both tracks', as the Service is (invariant 14). A canary only makes those that are
// missing and that its pods need to start; promotion applies all else, when primary runs the release; a rollback puts back
// what promotion has changed and deletes what the release has made. What was before is kept beside the ledger, and bound to
// each object by an annotation: see previousAnnotation.

// keptOther is an object that a release changes or makes, with what it was.
type keptOther struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Resource  string `json:"resource"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"` // none: it is the cluster's
	Name      string `json:"name"`

	Before string `json:"before,omitempty"` // an apply that puts it back, as JSON; "" when it was missing
	Was    string `json:"was,omitempty"`    // hash of all of it
	// Added are the fields, as JSON pointers, that are not in Before: the API server's defaults of them stay behind when they are
	// given up.
	Added []string `json:"added,omitempty"`
}

// keptOthers is what is kept beside the ledger.
type keptOthers struct {
	Hash    string      `json:"hash"` // of all objects that the release applies, so that promotion applies the same
	Objects []keptOther `json:"objects,omitempty"`
}

// othersBudget is how many bytes of them are kept.
const othersBudget = 256 << 10

func (k *keptOthers) find(like keptOther) *keptOther {
	for i := range k.Objects {
		if k.Objects[i].same(like) {
			return &k.Objects[i]
		}
	}
	return nil
}

func (k keptOther) same(like keptOther) bool {
	return k.Group == like.Group && k.Resource == like.Resource && k.Namespace == like.Namespace && k.Name == like.Name
}

// note is what an object carries that the release in flight has changed or made.
func (k keptOther) note(r *release.Release) string {
	if k.Before == "" {
		return "created by " + r.ID + " " + r.StartedAt.Format(time.RFC3339Nano)
	}
	return hashOf(k.Before)
}

// put adds an object, or takes the place of what is noted of it.
func (k *keptOthers) put(one keptOther) {
	if at := k.find(one); at != nil {
		*at = one
		return
	}
	k.Objects = append(k.Objects, one)
}

// text is how it is kept; "" for nothing.
func (k *keptOthers) text() (string, error) {
	if k.Hash == "" && len(k.Objects) == 0 {
		return "", nil
	}
	text, err := json.Marshal(k)
	return string(text), err
}

// keptOthers is what the ledger's ConfigMap has.
func (j *job) keptOthers() (kept keptOthers, err error) {
	if j.previousOthers == "" {
		return kept, nil
	}
	if err := json.Unmarshal([]byte(j.previousOthers), &kept); err != nil {
		return kept, fmt.Errorf("%s: what the other objects were before is not readable: %w", j.ledgerName(), err)
	}
	return kept, nil
}

// otherFound is one of the manifests' other objects as a look has found it.
type otherFound struct {
	keptOther
	object  object
	desired *unstructured.Unstructured
	live    *unstructured.Unstructured // nil: it is missing
	planned *unstructured.Unstructured // as the API server would make it; nil: it takes no dry run
	changed bool                       // an apply would change it, or make it
}

// othersFound are all of them, and the hash of what is wanted of them.
type othersFound struct {
	all  []otherFound
	hash string
}

// changed says whether a release would change one of them, or make it.
func (f *othersFound) changed() bool {
	return slices.ContainsFunc(f.all, func(o otherFound) bool { return o.changed })
}

// desiredOthers are the objects that a release applies; none unless that is wanted.
func (j *job) desiredOthers() ([]*unstructured.Unstructured, string, error) {
	if !j.ApplyOthers || j.Manifests.NamesOnly {
		return nil, "", nil
	}
	desired, _, err := j.Manifests.Applied(j.Namespace)
	if err != nil || len(desired) == 0 {
		return nil, "", err
	}
	text, err := json.Marshal(desired)
	return desired, hashOf(string(text)), err
}

// lookOthers finds what an apply of each of them would change, by server-side dry runs, and refuses what the API server
// would. Nothing is written.
func (j *job) lookOthers(ctx context.Context) (found othersFound, err error) {
	desired, hash, err := j.desiredOthers()
	if err != nil || len(desired) == 0 {
		return found, err
	}
	found.hash = hash
	for _, d := range desired {
		one, err := j.lookOther(ctx, d)
		if err != nil {
			return found, err
		}
		found.all = append(found.all, one)
	}
	return found, nil
}

// named finds how an object of the manifests is reached.
func (j *job) named(d *unstructured.Unstructured) (found otherFound, err error) {
	gvk := d.GroupVersionKind()
	field := gvk.Kind + " " + d.GetName()
	if j.Kinds == nil {
		return found, &usererr.Error{Field: "applyOthers", Problem: field + " cannot be reached: there is no client for its kind", Fix: "leave applyOthers out"}
	}
	resource, err := j.Kinds.resource(gvk)
	switch {
	case err != nil:
		return found, fmt.Errorf("kinds of %s: %w; nothing was changed", gvk.GroupVersion(), err)
	case resource == nil:
		return found, &usererr.Error{Field: field, Problem: fmt.Sprintf("the cluster has no kind %s of apiVersion %s", gvk.Kind, gvk.GroupVersion()), Fix: "install what defines it first, or remove the object from the manifests; nothing was changed"}
	}
	found.keptOther = keptOther{Group: gvk.Group, Version: gvk.Version, Resource: resource.Name, Kind: gvk.Kind, Name: d.GetName()}
	if resource.Namespaced {
		if found.Namespace = d.GetNamespace(); found.Namespace == "" {
			found.Namespace = j.Namespace
			d.SetNamespace(j.Namespace)
		}
	} else {
		d.SetNamespace("")
	}
	if found.object, err = j.otherObject(found.keptOther); err != nil {
		return found, err
	}
	found.desired = d
	return found, j.notOurs(found)
}

// notOurs refuses an object that is the release's own, or Crossbill's: it is written in another way.
func (j *job) notOurs(found otherFound) error {
	own := slices.ContainsFunc(j.fenced(), func(o object) bool { return o.String() == found.object.String() })
	state := strings.HasPrefix(found.Name, statePrefix) && (found.Kind == "ConfigMap" || found.Kind == "Lease")
	if !own && !state && found.desired.GetLabels()[manifest.CopyLabel] == "" {
		return nil
	}
	return &usererr.Error{Field: found.object.String(), Problem: "a release makes and changes it itself", Fix: "remove it from the manifests, or give it another name; nothing was changed"}
}

// lookOther looks at one of them.
func (j *job) lookOther(ctx context.Context, d *unstructured.Unstructured) (found otherFound, err error) {
	if found, err = j.named(d); err != nil {
		return found, err
	}
	err = persist(ctx, func() (err error) {
		found.live, err = look[*unstructured.Unstructured](ctx, j, found.object)
		return err
	})
	if err != nil {
		return found, j.outside(found, j.beforehand(err))
	}
	made, err := j.tryApply(ctx, found.object, d)
	switch {
	case err == nil:
		found.planned = as[*unstructured.Unstructured](made)
	case apierrors.IsNotFound(err) && found.live == nil: // it refers to one that is made before it: a RoleBinding to its Role
	default:
		if err := j.beforehand(fmt.Errorf("%s: %w", found.object, err)); err != nil {
			return found, j.outside(found, err)
		}
	}
	return found, found.compare()
}

// outside says of a refusal what to do about an object that is not in the app's namespace.
func (j *job) outside(found otherFound, err error) error {
	var refused *usererr.Error
	if found.Namespace == j.Namespace || !errors.As(err, &refused) {
		return err
	}
	where := "in namespace " + found.Namespace
	if found.Namespace == "" {
		where = "of the whole cluster"
	}
	said := *refused
	said.Fix = fmt.Sprintf("it is %s: let somebody who may apply it, and remove it from these manifests, or give this account the permission; nothing was changed", where)
	return &said
}

// compare finds what an apply would change, and keeps how that is taken back.
func (f *otherFound) compare() error {
	if f.live == nil {
		f.changed = true
		return nil
	}
	is, err := content(f.live)
	if err != nil {
		return err
	}
	if f.Was, err = hashOfContent(is); err != nil {
		return err
	}
	want, err := content(f.desired)
	if err != nil {
		return err
	}
	before := is // without a dry run all of it is kept
	if f.planned != nil {
		will, err := content(f.planned)
		if err != nil {
			return err
		}
		f.changed = !reflect.DeepEqual(is, will)
		before = common(want, is)
		merge(before, taken(is, will))
		f.Added = brought(is, will, "")
	} else {
		f.changed = !covers(is, want)
	}
	if !f.changed {
		f.Added, f.Was = nil, ""
		return nil
	}
	before["apiVersion"], before["kind"] = f.desired.GetAPIVersion(), f.desired.GetKind()
	text, err := json.Marshal(before)
	if err != nil {
		return err
	}
	f.Before = string(text)
	return nil
}

func hashOfContent(content map[string]any) (string, error) {
	text, err := json.Marshal(content)
	return hashOf(string(text)), err
}

// taken is what an object has and another one has not, or has otherwise. Lists are taken as a whole.
func taken(is, other map[string]any) map[string]any {
	found := map[string]any{}
	for key, value := range is {
		has, ok := other[key]
		inner, isMap := value.(map[string]any)
		hasInner, both := has.(map[string]any)
		switch {
		case ok && reflect.DeepEqual(value, has):
		case isMap && both:
			if part := taken(inner, hasInner); len(part) > 0 {
				found[key] = part
			}
		default:
			found[key] = value
		}
	}
	return found
}

// brought are the fields that another object has beside one's, as JSON pointers.
func brought(is, other map[string]any, at string) (pointers []string) {
	for key, value := range other {
		has, ok := is[key]
		pointer := at + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
		inner, isMap := value.(map[string]any)
		hasInner, both := has.(map[string]any)
		switch {
		case !ok:
			pointers = append(pointers, pointer)
		case isMap && both:
			pointers = append(pointers, brought(hasInner, inner, pointer)...)
		}
	}
	slices.Sort(pointers)
	return pointers
}

// keepOthers is what is to be kept of the objects beside what is kept already: neededOnly, of those alone that are missing
// and that pods need to start; else of all that change.
func (j *job) keepOthers(kept keptOthers, found othersFound, neededOnly bool) (string, error) {
	kept.Hash = found.hash
	for _, one := range found.all {
		if at := kept.find(one.keptOther); !one.changed || at != nil && one.live != nil && one.live.GetAnnotations()[previousAnnotation] == at.note(j.ledger.Release) {
			continue
		}
		if !neededOnly || one.live == nil && manifest.Needed(one.desired) {
			kept.put(one.keptOther)
		}
	}
	text, err := kept.text()
	if err != nil || len(text) <= othersBudget {
		return text, err
	}
	largest := slices.MaxFunc(kept.Objects, func(a, b keptOther) int { return len(a.Before) - len(b.Before) })
	return "", &usererr.Error{
		Field:   largest.Kind + " " + largest.Name,
		Problem: fmt.Sprintf("what the objects that change were before takes %d bytes, of which this one has %d; %d are kept beside the ledger", len(text), len(largest.Before), othersBudget),
		Fix:     "change fewer of them in one release; nothing was changed",
	}
}

// othersOfRelease refuses manifests whose other objects are not those that the canary's release started with.
func (j *job) othersOfRelease(hash string) error {
	kept, err := j.keptOthers()
	if err != nil || kept.Hash == hash {
		return err
	}
	r := j.ledger.Release
	switch {
	case hash == "":
		return &usererr.Error{Field: "applyOthers", Problem: fmt.Sprintf("release %s started with it, and %s is run without", r.ID, j.command), Fix: "give it to both, in crossbill.yaml; nothing was changed"}
	case kept.Hash == "":
		return &usererr.Error{Field: "applyOthers", Problem: fmt.Sprintf("release %s started without it, and %s is run with it", r.ID, j.command), Fix: "give it to both, in crossbill.yaml; nothing was changed"}
	}
	return &usererr.Error{Field: "manifests", Problem: fmt.Sprintf("the objects beside the app's are not those that release %s started with", r.ID), Fix: "give the manifests that it started with, or roll it back and start a new one; nothing was changed"}
}

// resumeOthers refuses other objects than those that the release in flight started with.
func (j *job) resumeOthers() error {
	_, hash, err := j.desiredOthers()
	if err == nil {
		err = j.othersOfRelease(hash)
	}
	return err
}

// lookPromotedOthers gives what is to be kept of the objects that a promotion changes.
func (j *job) lookPromotedOthers(ctx context.Context) (kept string, err error) {
	if err := j.resumeOthers(); err != nil || !j.ApplyOthers || j.ledger.Release.Stage != release.StageVerified {
		return j.previousOthers, err
	}
	found, err := j.lookOthers(ctx)
	if err != nil {
		return "", err
	}
	before, err := j.keptOthers()
	if err != nil {
		return "", err
	}
	return j.keepOthers(before, found, false)
}

// lookCanaryOthers finds what a release that starts changes of the other objects, and what is to be kept of that.
func (j *job) lookCanaryOthers(ctx context.Context, found *canaryFound) (err error) {
	if found.others, err = j.lookOthers(ctx); err != nil {
		return err
	}
	all, err := j.keepOthers(keptOthers{}, found.others, false) // also what promotion will keep has to fit
	if err != nil || found.primary == nil {
		found.keptOthers = all
		return err
	}
	found.keptOthers, err = j.keepOthers(keptOthers{}, found.others, true)
	return err
}

// sayOthers says what of the objects waits for the promotion.
func (j *job) sayOthers(found othersFound) {
	for _, one := range found.all {
		if !one.changed || one.live == nil && manifest.Needed(one.desired) {
			continue
		}
		if one.live == nil {
			j.say(one.object.String(), "is created by promotion")
		} else {
			j.say(one.object.String(), "is changed by promotion, when primary runs the release")
		}
		if j.planning() && one.planned != nil {
			later := one.object
			later.name += " (at promotion)"
			var live metav1.Object
			if one.live != nil {
				live = one.live
			}
			j.Plan.add(later, live, one.planned)
		}
	}
}

// createNeeded is the step that makes those objects that are missing and that pods need to start.
func (j *job) createNeeded(ctx context.Context) error {
	return j.eachOther(ctx, func(one otherFound, kept *keptOther) error {
		if kept.Before != "" || !manifest.Needed(one.desired) {
			return nil
		}
		before, _, err := change(ctx, j, one.object, func(live *unstructured.Unstructured) (*write, error) {
			if live != nil {
				return nil, nil
			}
			return j.apply(noted(one.desired, kept.note(j.ledger.Release))), nil
		})
		if err == nil && before == nil {
			j.log(one.object.String(), "created: pods need it to start")
		}
		return err
	})
}

// eachOther does something with each object that is noted in the ledger, in the order of the manifests.
func (j *job) eachOther(ctx context.Context, do func(otherFound, *keptOther) error) error {
	kept, err := j.keptOthers()
	if err != nil || len(kept.Objects) == 0 {
		return err
	}
	desired, _, err := j.desiredOthers()
	if err != nil {
		return err
	}
	for _, d := range desired {
		one, err := j.named(d)
		if err != nil {
			return err
		}
		if at := kept.find(one.keptOther); at != nil {
			if err := do(one, at); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// noted is an object that says of itself what it was.
func noted(o *unstructured.Unstructured, note string) *unstructured.Unstructured {
	o = o.DeepCopy()
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[previousAnnotation] = note
	o.SetAnnotations(annotations)
	return o
}

// promoteOthers is the step that applies the other objects after primary has taken the release.
func (j *job) promoteOthers(ctx context.Context) error {
	return j.eachOther(ctx, func(one otherFound, _ *keptOther) error { return j.promoteOther(ctx, one) })
}

// errOtherMoved says that somebody has changed an object since what it was has been kept.
var errOtherMoved = errors.New("somebody has just changed it")

func (j *job) promoteOther(ctx context.Context, one otherFound) error {
	for attempt := 0; ; attempt++ {
		kept, err := j.keptOthers()
		if err != nil {
			return err
		}
		at := kept.find(one.keptOther)
		if at == nil { // it has become what is wanted meanwhile
			return nil
		}
		before, after, err := change(ctx, j, one.object, func(live *unstructured.Unstructured) (*write, error) {
			note := at.note(j.ledger.Release)
			switch {
			case live == nil && at.Before == "", live != nil && live.GetAnnotations()[previousAnnotation] == note:
			case live == nil || at.Before == "":
				return nil, errOtherMoved
			default:
				is, err := content(live)
				if err != nil {
					return nil, err
				}
				if was, err := hashOfContent(is); err != nil || was != at.Was {
					return nil, errors.Join(errOtherMoved, err)
				}
			}
			return j.apply(noted(one.desired, note)), nil
		})
		if errors.Is(err, errOtherMoved) && attempt < 3 {
			if err := j.keepAgain(ctx, one.desired.DeepCopy()); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		switch {
		case before == nil:
			j.log(one.object.String(), "created")
		case before.GetResourceVersion() != after.GetResourceVersion():
			j.log(one.object.String(), "applied as the manifest has it")
		}
		j.hpas = nil // it may be one
		return nil
	}
}

// keepAgain keeps an object as it is now, which somebody has changed since promotion began.
func (j *job) keepAgain(ctx context.Context, desired *unstructured.Unstructured) error {
	one, err := j.lookOther(ctx, desired)
	if err != nil {
		return err
	}
	kept, err := j.keptOthers()
	if err != nil {
		return err
	}
	kept.Objects = slices.DeleteFunc(kept.Objects, one.same)
	if one.changed {
		kept.put(one.keptOther)
	}
	if j.previousOthers, err = kept.text(); err != nil {
		return err
	}
	return j.commit(ctx)
}

// fencedOthers are the other objects that the release in flight may write. What is not readable is not among them.
func (j *job) fencedOthers() (found []object) {
	kept, err := j.keptOthers()
	if err != nil {
		return nil
	}
	for _, k := range kept.Objects {
		if o, err := j.otherObject(k); err == nil {
			found = append(found, o)
		}
	}
	return found
}
