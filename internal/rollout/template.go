package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// What was proven is what is deployed (invariant 3): the pod template of primary, as it is live, is the one that the
// canary of the same release has, as it is live. They can differ although both are applied from one manifest: a field
// that somebody else has set on primary alone (kubectl set env, kubectl edit) stays there.

// restartedAt is set by `kubectl rollout restart`, on one track, and changes nothing in what its pods run.
const restartedAt = "kubectl.kubernetes.io/restartedAt"

// typesOfKubernetes know the keys of lists: that an item of env is known by its name.
var typesOfKubernetes = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(scheme.Scheme) })

// differences are the fields in which primary's pod template is not the canary's, or a baseline's, but for what has to differ
// (the labels that name the track) and what changes nothing (the time of a restart).
func differences(primary, canary *appsv1.Deployment) (*fieldpath.Set, error) {
	ours, err := typedTemplate(primary)
	if err != nil {
		return nil, err
	}
	theirs, err := typedTemplate(canary)
	if err != nil {
		return nil, err
	}
	found, err := theirs.Compare(ours)
	if err != nil {
		return nil, fmt.Errorf("the pod templates of %s and %s cannot be compared: %w", primary.Name, canary.Name, err)
	}
	return found.Added.Union(found.Removed).Union(found.Modified), nil
}

// typedTemplate is a Deployment's pod template, as far as it is the same on both tracks.
func typedTemplate(d *appsv1.Deployment) (*typed.TypedValue, error) {
	bare := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: *d.Spec.Template.DeepCopy()}}
	bare.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
	delete(bare.Spec.Template.Labels, manifest.TrackLabel)
	delete(bare.Spec.Template.Labels, manifest.BaselineLabel)
	delete(bare.Spec.Template.Annotations, restartedAt)
	value, err := typesOfKubernetes().ObjectToTyped(bare, typed.AllowDuplicates)
	if err != nil {
		return nil, fmt.Errorf("the pod template of Deployment %s cannot be read: %w", d.Name, err)
	}
	return value, nil
}

// appliers are the managers of fields that came from manifests, before Crossbill applied these: what has left the
// manifests since is to go from the cluster.
var appliers = sets.New("kubectl-client-side-apply", "before-first-apply")

// ownersOf are the managers of a field of a Deployment.
func ownersOf(d *appsv1.Deployment, path fieldpath.Path) (sets.Set[string], error) {
	owners := sets.New[string]()
	for _, entry := range d.ManagedFields {
		fields, err := fieldsOf(entry)
		if err != nil {
			return nil, fmt.Errorf("the fields of Deployment %s that %s manages: %w", d.Name, entry.Manager, err)
		}
		if fields.Has(path) {
			owners.Insert(entry.Manager)
		}
	}
	return owners, nil
}

func fieldsOf(entry metav1.ManagedFieldsEntry) (*fieldpath.Set, error) {
	fields := &fieldpath.Set{}
	if entry.FieldsV1 == nil {
		return fields, nil
	}
	return fields, fields.FromJSON(entry.FieldsV1.GetRawReader())
}

// leftovers are the fields in which primary would differ from the canary once the manifest that the canary was applied
// with is applied to it. The manifest's own fields become equal, and what only Crossbill manages goes. taken are those
// that an apply left there before Crossbill: they can be taken over, and then go too. The others are refused, with who
// set them.
func (j *job) templateLeftovers(primary, canary *appsv1.Deployment, different *fieldpath.Set) (taken, refused []string, err error) {
	writers, _ := j.store().writers()
	applied, err := j.appliedTo(canary)
	if err != nil {
		return nil, nil, err
	}
	for _, field := range topmost(different) {
		owners := sets.New[string]()
		for path := range different.All() {
			if !within(field, path.String()) || applied.Has(path) {
				continue
			}
			for _, d := range []*appsv1.Deployment{primary, canary} {
				of, err := ownersOf(d, path)
				if err != nil {
					return nil, nil, err
				}
				owners = owners.Union(of)
			}
		}
		name := strings.TrimPrefix(field, ".")
		switch others := owners.Difference(writers); {
		case others.Len() == 0:
		case appliers.IsSuperset(others):
			taken = append(taken, name)
		default:
			refused = append(refused, fmt.Sprintf("%s (set by %s)", name, strings.Join(sets.List(others), ", ")))
		}
	}
	return taken, refused, nil
}

// manages says whether Crossbill manages the fields of what a release writes, so that they are its own to give back.
func (j *job) manages() bool {
	writers, _ := j.store().writers()
	return writers.Has(fieldManager)
}

// appliedTo are the fields that the last apply of a Deployment for a release named.
func (j *job) appliedTo(d *appsv1.Deployment) (*fieldpath.Set, error) {
	writers, by := j.store().writers()
	for _, entry := range d.ManagedFields {
		if writers.Has(entry.Manager) && entry.Subresource == "" && (by == "" || entry.Operation == by) {
			return fieldsOf(entry)
		}
	}
	return &fieldpath.Set{}, nil
}

// topmost are the paths of a set that are not below another one of it.
func topmost(set *fieldpath.Set) (fields []string) {
	for path := range set.All() {
		fields = append(fields, path.String())
	}
	slices.Sort(fields)
	return slices.DeleteFunc(slices.Clone(fields), func(field string) bool {
		return slices.ContainsFunc(fields, func(other string) bool { return other != field && within(other, field) })
	})
}

// within says whether a path is another one or below it.
func within(above, path string) bool {
	rest, ok := strings.CutPrefix(path, above)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// judgeTemplates refuses a primary, as it is live, that would run another pod template than the canary, as the API
// server would make it. takeOver: its fields from an older apply are to be taken over first.
func (j *job) judgeTemplates(primary, canary *appsv1.Deployment) (takeOver bool, err error) {
	different, err := differences(primary, canary)
	if err != nil || different.Empty() {
		return false, err
	}
	taken, refused, err := j.templateLeftovers(primary, canary, different)
	if err != nil || len(refused) == 0 {
		return len(taken) > 0, err
	}
	return false, &usererr.Error{
		Field:   j.deployment(primary.Name).String(),
		Problem: "its pod template differs from the manifest's, which is what the canary gets: " + strings.Join(refused, ", "),
		Fix:     "write these fields into the manifest, or remove them from the Deployment (`kubectl edit deployment/" + primary.Name + "`); nothing was changed",
	}
}

// provable refuses a promotion after which primary would not run what its canary proved: somebody has changed one of
// the two since.
func (j *job) provable(live map[release.Track]*appsv1.Deployment) error {
	canary, primary := live[release.Canary], live[release.Primary]
	switch {
	case canary == nil || primary == nil:
		return nil
	case primary.Spec.Paused:
		return paused(j.track(release.Primary))
	}
	different, err := differences(primary, canary)
	if err != nil || different.Empty() {
		return err
	}
	taken, refused, err := j.templateLeftovers(primary, canary, different)
	if err != nil || len(taken)+len(refused) == 0 {
		return err
	}
	return &usererr.Error{
		Field:   j.track(release.Primary).String(),
		Problem: "its pod template would not be the one that the canary proved: " + strings.Join(append(refused, taken...), ", "),
		Fix:     "put it back as it was, or roll the release back and write these fields into the manifest; nothing was changed",
	}
}

// provenCanary is the canary that promotion is to compare primary with, as it is live; nil where there is none: one that
// somebody has deleted proves nothing more.
func (j *job) provenCanary(ctx context.Context) (*appsv1.Deployment, error) {
	if j.ledger.Release.Stage != release.StagePromoting || j.planning() {
		return nil, nil
	}
	return recent[*appsv1.Deployment](ctx, j, j.track(release.Canary))
}

// proven checks that primary, once promotion has put the release on it, runs what the canary does.
func (j *job) proven(primary, canary *appsv1.Deployment) error {
	if canary == nil {
		return nil
	}
	different, err := differences(primary, canary)
	if err != nil || different.Empty() {
		return err
	}
	return &NotReadyError{Deployment: primary.Name, Reason: "its pod template is not the one that the canary proved: " + strings.Join(topmost(different), ", ")}
}

// takeOverTemplate is the step that makes the fields of primary's pod template which an older apply set Crossbill's
// own: its next apply of primary, which is promotion's, then removes those that the manifest no longer has. It changes
// no field. client-go's csaupgrade does the same for all of an object: with the template alone, the number of replicas
// and labels of others stay whose they are.
func (j *job) takeOverTemplate(ctx context.Context) error {
	if !j.manages() {
		return nil
	}
	o := j.track(release.Primary)
	before, after, err := change(ctx, j, o, func(live *appsv1.Deployment) (*write, error) {
		if live == nil {
			return nil, nil
		}
		entries, err := withTemplateTaken(live.ManagedFields)
		if entries == nil || err != nil {
			return nil, err
		}
		return j.patch(patchOp{"replace", "/metadata/managedFields", entries}), nil
	})
	if err == nil && before != after {
		j.log(o.String(), "takes over the fields of its pod template that kubectl apply manages: promotion removes those that the manifest no longer has")
	}
	return err
}

// templateFields are all fields of a Deployment's pod template.
var templateFields = fieldpath.MakePrefixMatcherOrDie("spec", "template")

// withTemplateTaken gives Crossbill the fields of the pod template that appliers manage; nil when they manage none.
func withTemplateTaken(entries []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, error) {
	taken := &fieldpath.Set{}
	var kept []metav1.ManagedFieldsEntry
	for _, entry := range entries {
		if appliers.Has(entry.Manager) && entry.Subresource == "" {
			fields, err := fieldsOf(entry)
			if err != nil {
				return nil, err
			}
			template := fields.FilterIncludeMatches(templateFields)
			taken = taken.Union(template)
			if fields = fields.Difference(template); fields.Empty() {
				continue
			}
			if entry.FieldsV1, err = asFields(fields); err != nil {
				return nil, err
			}
		}
		kept = append(kept, entry)
	}
	if taken.Empty() {
		return nil, nil
	}
	own := slices.IndexFunc(kept, func(e metav1.ManagedFieldsEntry) bool {
		return ours(e) && e.Operation == metav1.ManagedFieldsOperationApply
	})
	if own < 0 {
		own, kept = len(kept), append(kept, metav1.ManagedFieldsEntry{
			Manager: fieldManager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: appsv1.SchemeGroupVersion.String(), FieldsType: "FieldsV1", Time: new(metav1.Now()),
		})
	}
	before, err := fieldsOf(kept[own])
	if err != nil {
		return nil, err
	}
	kept[own].FieldsV1, err = asFields(before.Union(taken))
	return kept, err
}

func asFields(set *fieldpath.Set) (*metav1.FieldsV1, error) {
	text, err := set.ToJSON()
	return metav1.NewFieldsV1(string(text)), err
}
