package rollout

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// The pods of each release read copies of the app's ConfigMaps and Secrets, which are named by their content and never
// change (package manifest). They are made before the pods that read them, by the job that has the lock, and go when
// nothing refers to them any more.

// keyLength is that of the key, in bytes, that hashes of the contents of Secrets are made with.
const keyLength = 32

// keyField is where the Secret with the key has it.
const keyField = "key"

// keyName is the name of the Secret with the app's key. It is there from the first release that reads a Secret on.
func (c *Cluster) keyName() string { return c.stateName() + "-key" }

func (c *Cluster) configMap(name string) object {
	return objectOf("ConfigMap", c.Namespace, name, c.Kube.CoreV1().ConfigMaps(c.Namespace))
}

func (c *Cluster) secret(name string) object {
	return objectOf("Secret", c.Namespace, name, c.Kube.CoreV1().Secrets(c.Namespace))
}

// configuration is a ConfigMap or a Secret.
func (c *Cluster) configuration(kind, name string) object {
	if kind == "Secret" {
		return c.secret(name)
	}
	return c.configMap(name)
}

// bind makes the manifests of this job those whose pods read copies. It may be done again: the key may have been made
// since.
func (j *job) bind(ctx context.Context) error {
	set := cmp.Or(j.unbound, j.Manifests)
	if set.NamesOnly {
		return nil
	}
	var key []byte
	if set.NeedsKey() {
		var err error
		key, err = j.key(ctx)
		if errors.As(err, new(*forbiddenError)) && !ownsSecrets(set) { // then no name is made with it
			err = nil
		}
		if err != nil {
			return err
		}
	}
	bound, err := set.Bind(key)
	if err != nil {
		return err
	}
	c := *j.Cluster
	c.Manifests, c.unbound = bound, set
	j.Cluster = &c
	return nil
}

// ownsSecrets says whether a set's pods read Secrets that are in the manifests.
func ownsSecrets(set *manifest.Set) bool {
	return slices.ContainsFunc(manifest.References(&set.Deployment.Spec.Template.Spec), func(r manifest.Reference) bool {
		return r.Kind == "Secret" && !r.Node && set.Secrets[r.Name] != nil
	})
}

// key is the app's key. One that nobody has made yet is made in memory; it is written before the ledger names what was
// hashed with it.
func (j *job) key(ctx context.Context) ([]byte, error) {
	copies, err := j.copiesOf(ctx, "Secret")
	if err != nil {
		return nil, err
	}
	if live := as[*corev1.Secret](copies[j.keyName()]); live != nil {
		if len(live.Data[keyField]) < keyLength {
			return nil, &usererr.Error{Field: j.secret(live.Name).String(), Problem: fmt.Sprintf("it has no key of %d bytes under %q", keyLength, keyField), Fix: "put back what it had, or delete it: the next release then makes a new one, and a copy of every Secret"}
		}
		return live.Data[keyField], nil
	}
	if r := j.ledger.Release; r != nil && slices.ContainsFunc(r.Config, func(c release.Config) bool {
		return c.Kind == "Secret" && (c.Copy != "" || c.Hash != "" && c.Hash != release.Absent)
	}) {
		return nil, &usererr.Error{Field: j.secret(j.keyName()).String(), Problem: fmt.Sprintf("it is gone, and what release %s reads of Secrets is named with its key", r.ID), Fix: "put it back, or roll the release back and start a new one"}
	}
	if j.newKey == nil {
		j.newKey = make([]byte, keyLength)
		_, _ = rand.Read(j.newKey) // it never fails
	}
	return j.newKey, nil
}

// makeKey writes a key that was made in memory, before the ledger is committed: else a release could be in flight whose
// names nobody can find again. It overwrites nothing, so it needs no fence. errMoved: somebody else has made one.
func (j *job) makeKey(ctx context.Context) error {
	if j.newKey == nil {
		return nil
	}
	o := j.secret(j.keyName())
	o.unread = true
	_, _, err := change(ctx, j, o, func(live *corev1.Secret) (*write, error) {
		switch {
		case live == nil:
			return j.create(&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: o.name, Namespace: o.namespace, Labels: map[string]string{manifest.CopyLabel: manifest.CopyLabelValue(j.app())}},
				Data:       map[string][]byte{keyField: j.newKey}, Immutable: new(true),
			}, false), nil
		case slices.Equal(live.Data[keyField], j.newKey): // an earlier attempt, its answer lost
			return nil, nil
		case !j.ownCopy(live):
			return nil, &usererr.Error{Field: o.String(), Problem: fmt.Sprintf("it has the name of the app's key, and not the label %s=%s", manifest.CopyLabel, manifest.CopyLabelValue(j.app())), Fix: "give it the label if it is the key, else another name; nothing was changed"}
		}
		return nil, errMoved
	})
	switch {
	case err == nil:
		j.log(o.String(), "has the key that hashes of Secrets are made with from now on")
	case lacksPermission(err) && len(j.Manifests.Copies.Secrets) == 0:
		j.unwatchSecrets()
	default:
		return err
	}
	j.newKey = nil
	return nil
}

// unwatchSecrets takes the hashes of others' Secrets out of the release: their key could not be kept.
func (j *job) unwatchSecrets() {
	r := j.ledger.Release
	if r == nil {
		return
	}
	for i := range r.Config {
		if c := &r.Config[i]; c.Kind == "Secret" && c.Hash != "" && c.Hash != release.Absent {
			j.log(j.secret(c.Name).String(), "%s", unwatched)
			c.Hash = ""
		}
	}
}

// copiesOf are the copies of a kind that the app has, by name, as one request gives them: a job asks once.
func (j *job) copiesOf(ctx context.Context, kind string) (map[string]metav1.Object, error) {
	if found, ok := j.copies[kind]; ok {
		return found, nil
	}
	found, only := map[string]metav1.Object{}, labeled(manifest.CopyLabel+"="+manifest.CopyLabelValue(j.app()))
	var err error
	if kind == "Secret" {
		var list *corev1.SecretList
		if list, err = j.Kube.CoreV1().Secrets(j.Namespace).List(ctx, only); err == nil {
			for i := range list.Items {
				found[list.Items[i].Name] = &list.Items[i]
			}
		}
	} else {
		var list *corev1.ConfigMapList
		if list, err = j.Kube.CoreV1().ConfigMaps(j.Namespace).List(ctx, only); err == nil {
			for i := range list.Items {
				found[list.Items[i].Name] = &list.Items[i]
			}
		}
	}
	switch {
	case lacksPermission(err):
		return nil, &forbiddenError{&usererr.Error{Field: kind + "s of " + j.Namespace, Problem: err.Error(), Fix: "let this account get, list, create, patch and delete them in the namespace: the app's pods read copies of them; nothing was changed"}}
	case err != nil:
		return nil, fmt.Errorf("%ss of %s: %w; nothing was changed", kind, j.Namespace, err)
	}
	for name, o := range found {
		j.remember(j.configuration(kind, name), o)
	}
	if j.copies == nil {
		j.copies = map[string]map[string]metav1.Object{}
	}
	j.copies[kind] = found
	return found, nil
}

// forgetCopies makes a job list the copies of a kind again: they may not be there any more.
func (j *job) forgetCopies(kind string) {
	for name := range j.copies[kind] {
		j.remember(j.configuration(kind, name), nil)
	}
	delete(j.copies, kind)
}

// forbiddenError says that this account may not read what pods read.
type forbiddenError struct{ error }

func (e *forbiddenError) Unwrap() error { return e.error }

// ownCopy says whether an object has the label of this app's copies.
func (j *job) ownCopy(o metav1.Object) bool {
	of, ok := o.GetLabels()[manifest.CopyLabel]
	return ok && of == manifest.CopyLabelValue(j.app())
}

// ensureCopies is the step that makes the copies that the release's pods read, where they are missing.
func (j *job) ensureCopies(ctx context.Context) error {
	for _, c := range j.Manifests.Copies.ConfigMaps {
		if j.inLedger("ConfigMap", c.Name) {
			if _, err := j.copiesOf(ctx, "ConfigMap"); err != nil {
				return err
			}
			break
		}
	}
	for _, c := range j.Manifests.Copies.ConfigMaps {
		if err := j.ensureCopy(ctx, j.configMap(c.Name), c.DeepCopy()); err != nil {
			return err
		}
	}
	for _, c := range j.Manifests.Copies.Secrets {
		if err := j.ensureCopy(ctx, j.secret(c.Name), c.DeepCopy()); err != nil {
			return err
		}
	}
	return nil
}

// inLedger says whether a release of the ledger that has come to something reads a copy: it may be there.
func (j *job) inLedger(kind, name string) bool {
	reads := func(r *release.Release) bool {
		return slices.ContainsFunc(r.Config, func(c release.Config) bool { return c.Kind == kind && c.Copy == name })
	}
	if r := j.ledger.Release; r != nil && j.resumed && reads(r) {
		return true
	}
	return slices.ContainsFunc(j.ledger.History, func(f release.Finished) bool { return reads(&f.Release) })
}

// ensureCopy makes a copy. What nobody has noted is made without being looked for first.
func (j *job) ensureCopy(ctx context.Context, o object, desired metav1.Object) error {
	if live := j.copies[o.kind][o.name]; live != nil && sameContent(live, desired) && immutable(live) {
		return nil
	}
	o.unread = true
	desired.SetNamespace(o.namespace)
	before, after, err := change(ctx, j, o, func(live metav1.Object) (*write, error) {
		switch {
		case live == nil:
			return j.create(desired, true), nil
		case !sameContent(live, desired):
			return nil, &usererr.Error{Field: o.String(), Problem: "it does not have the content that its name says: somebody else has made it, or changed it", Fix: "delete it and run the command again, or roll the release back and give the one in the manifests another name"}
		}
		return j.share(live), nil
	})
	if err == nil && before == nil && after != nil {
		j.log(o.String(), "made: what the release's pods read does not change under them")
	}
	return err
}

// share is the write after which nobody changes or deletes a copy that somebody else has made: Kustomize's generators
// give the same name to the same content, and so does another app. Nil when that is so already.
func (j *job) share(live metav1.Object) *write {
	var ops []patchOp
	if !immutable(live) {
		ops = append(ops, patchOp{"add", "/immutable", true})
	}
	if of := live.GetLabels()[manifest.CopyLabel]; of != "" && !j.ownCopy(live) {
		ops = append(ops, patchOp{"replace", "/metadata/labels/" + strings.ReplaceAll(manifest.CopyLabel, "/", "~1"), ""}) // of no app: no app deletes it
	}
	if len(ops) == 0 {
		return nil
	}
	return &write{patch: ops}
}

func immutable(o metav1.Object) bool {
	var is *bool
	switch o := o.(type) {
	case *corev1.ConfigMap:
		is = o.Immutable
	case *corev1.Secret:
		is = o.Immutable
	}
	return is != nil && *is
}

// sameContent says whether pods read the same in two ConfigMaps or Secrets.
func sameContent(live, desired metav1.Object) bool {
	switch live := live.(type) {
	case *corev1.ConfigMap:
		desired, ok := desired.(*corev1.ConfigMap)
		return ok && apiequality.Semantic.DeepEqual(live.Data, desired.Data) && apiequality.Semantic.DeepEqual(live.BinaryData, desired.BinaryData)
	case *corev1.Secret:
		desired, ok := desired.(*corev1.Secret)
		return ok && cmp.Or(live.Type, corev1.SecretTypeOpaque) == cmp.Or(desired.Type, corev1.SecretTypeOpaque) && apiequality.Semantic.DeepEqual(live.Data, desired.Data)
	}
	return false
}

// stampCopies puts this lock's epoch on the app's copies, so that a late cleanup does not delete what a new release reads.
func (j *job) stampCopies(ctx context.Context) error {
	for _, kind := range []string{"ConfigMap", "Secret"} {
		if !j.reads(kind) {
			continue
		}
		j.forgetCopies(kind) // whoever was here before may have deleted some since
		copies, err := j.copiesOf(ctx, kind)
		if _, ok := errors.AsType[*forbiddenError](err); ok {
			continue // then whoever was here before could delete none
		}
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(copies)) {
			if name == j.keyName() { // nobody deletes it
				continue
			}
			o := j.configuration(kind, name)
			if err := j.stampOne(ctx, o); err != nil && !apierrors.IsForbidden(err) {
				return err
			}
			if j.recall(o) == nil {
				delete(copies, name)
			}
		}
	}
	return nil
}

// reads says whether pods of a release of the app read copies of a kind.
func (j *job) reads(kind string) bool {
	of := func(all []release.Config) bool {
		return slices.ContainsFunc(all, func(c release.Config) bool { return c.Kind == kind && c.Copy != "" })
	}
	return of(j.Manifests.Config) || j.ledger.Release != nil && of(j.ledger.Release.Config) ||
		slices.ContainsFunc(j.ledger.History, func(f release.Finished) bool { return of(f.Config) })
}

// unwatched says what follows where this account lacks a permission.
const unwatched = "is others', and this account may not read it, or not keep the key of its hash: a change of it is not noticed"

// lookWatched is the configuration of the release that is wanted, with the content of what others own of it as it is now.
// What pods cannot start without is refused when it is missing.
func (j *job) lookWatched(ctx context.Context) ([]release.Config, error) {
	all := slices.Clone(j.Manifests.Config)
	for i := range all {
		if all[i].Copy != "" {
			continue
		}
		o := j.configuration(all[i].Kind, all[i].Name)
		live, err := o.read(ctx)
		switch {
		case lacksPermission(err):
			j.log(o.String(), "%s", unwatched)
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w; nothing was changed", o, err)
		}
		if err := j.startable(o, live); err != nil {
			return nil, err
		}
		hash, err := j.contentHash(ctx, live)
		switch {
		case errors.As(err, new(*forbiddenError)): // the key may not be read
			j.log(o.String(), "%s", unwatched)
			continue
		case err != nil:
			return nil, err
		}
		all[i].Hash = hash
	}
	return all, nil
}

// startable refuses a ConfigMap or a Secret of others without which no pod would start.
func (j *job) startable(o object, live metav1.Object) error {
	for _, r := range manifest.References(&j.Manifests.Deployment.Spec.Template.Spec) {
		if r.Node || r.Optional || r.Kind != o.kind || r.Name != o.name {
			continue
		}
		bad := &usererr.Error{Field: "Deployment " + j.Manifests.Deployment.Name + ": spec.template.spec." + r.Field, Fix: "make it, add it to the manifests, or say optional: true; nothing was changed"}
		if live == nil {
			bad.Problem = o.String() + " not found, and the manifests do not have it"
			return bad
		}
		for _, key := range r.Keys {
			if !hasKey(live, key) {
				bad.Problem = fmt.Sprintf("%s, which is not in the manifests, has no key %q", o, key)
				return bad
			}
		}
	}
	return nil
}

func hasKey(o metav1.Object, key string) (ok bool) {
	switch o := o.(type) {
	case *corev1.ConfigMap:
		if _, ok = o.Data[key]; !ok {
			_, ok = o.BinaryData[key]
		}
	case *corev1.Secret:
		_, ok = o.Data[key]
	}
	return ok
}

// contentHash identifies the content of a ConfigMap or a Secret that others own.
func (j *job) contentHash(ctx context.Context, live metav1.Object) (string, error) {
	switch live := live.(type) {
	case *corev1.ConfigMap:
		return manifest.ConfigMapHash(live), nil
	case *corev1.Secret:
		key, err := j.key(ctx)
		return manifest.SecretHash(key, live.Type, live.Data), err
	}
	return release.Absent, nil
}
