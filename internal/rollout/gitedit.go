package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// canaryFile is the canary's Deployment in the app's folder: it comes and goes as a whole.
const canaryFile = "canary.yaml"

// gitEdit is a write as an edit of an app's folder in Git.
type gitEdit struct {
	gitStore
	object object
	live   metav1.Object // as it was when the write was decided
	write  *write

	before map[string]any // what the folder said of it
	edited bool           // the folder is to say something else
	wanted metav1.Object  // as the folder has the object afterwards; nil when it has it no more
}

func (e *gitEdit) isCanary() bool {
	return e.object.kind == "Deployment" && e.object.name == e.deploymentName(release.Canary)
}

// says is what the commit does, in a few words.
func (e *gitEdit) says(j *job) string {
	id := ""
	if r := j.ledger.Release; r != nil {
		id = " of release " + r.ID
	}
	switch w := e.write; {
	case w.says != "":
		return w.says
	case w.remove != "":
		return "remove the canary" + id
	case e.isCanary() && w.apply != nil:
		return "run the canary" + id
	case e.object.kind == "Deployment" && w.apply != nil && j.ledger.Release.Stage == release.StageRollingBack:
		return "primary runs what it ran before release " + j.ledger.Release.ID
	case e.object.kind == "Deployment" && w.apply != nil:
		return "primary runs release " + j.ledger.Release.ID
	case w.size != nil:
		return fmt.Sprintf("%s gets %d replicas", e.object.name, *w.size)
	case len(w.patch) == 1 && w.patch[0].Path == "/spec/replicas":
		return fmt.Sprintf("%s gets %v replicas", e.object.name, w.patch[0].Value)
	}
	return "change " + e.object.kind + " " + e.object.name
}

// edit makes the write of a tree. It is a conflict where Git has the object otherwise than the cluster had it when the write was
// decided; nothing where an earlier attempt has made it.
func (e *gitEdit) edit(ctx context.Context, tree *environment.Tree) error {
	objects, err := e.Git.Render(ctx, tree)
	if err != nil {
		return err
	}
	before, err := e.in(objects)
	switch {
	case err != nil:
		return err
	case e.write.remove != "":
		return e.removeCanary(ctx, tree, before)
	case e.isCanary() && e.write.apply != nil:
		return e.putCanary(ctx, tree, before)
	case before == nil:
		return &usererr.Error{Field: e.object.String(), Problem: "Git does not have it, in " + e.folder(), Fix: "commit it there first"}
	}
	after, err := e.after(before)
	if err != nil {
		return err
	}
	was, err := contentOf(before)
	if err != nil {
		return err
	}
	is, err := contentOf(after)
	if err != nil {
		return err
	}
	e.before, e.wanted = was, before
	if reflect.DeepEqual(was, is) {
		return nil
	}
	if e.live != nil && e.differs(e.live) != "" {
		return notAsRead(strings.ToLower(e.object.kind), e.object.name)
	}
	e.wanted, e.edited = after, true
	raw, err := environment.Object(tree, e.Git.Folder, e.object.kind, e.object.name)
	if err != nil {
		return err
	}
	text := is
	switch after := after.(type) {
	case *networking.VirtualService:
		text, _ = withZeroWeights(is, raw).(map[string]any)
	case *appsv1.Deployment:
		if text, err = e.setImage(tree, before.(*appsv1.Deployment), after, is); err != nil {
			return err
		}
	}
	edited, _ := overlay(raw, was, text).(map[string]any)
	if err := environment.SetObject(tree, e.Git.Folder, e.object.kind, e.object.name, edited); err != nil {
		return err
	}
	return e.rendersAs(ctx, tree, is)
}

// setImage writes the image that a Deployment gets where an entry of a kustomization decides it, and gives what the manifest is to
// say then: the image as before. Where the manifest decides it gives is, all of the Deployment.
func (e *gitEdit) setImage(tree *environment.Tree, before, after *appsv1.Deployment, is map[string]any) (map[string]any, error) {
	kept, container, image := withoutImage(before, after)
	if image != "" {
		decides, err := environment.ImageInKustomization(tree, e.Git.Folder, after.Name, container)
		if err != nil {
			return nil, err
		}
		if decides {
			if err := environment.SetImage(tree, e.Git.Folder, after.Name, container, image); err != nil {
				return nil, err
			}
			return contentOf(kept)
		}
	}
	return is, nil
}

// withoutImage is a Deployment with the image that its app has had, the container that runs the app, and its other image; that is
// empty where it stays.
func withoutImage(before, after *appsv1.Deployment) (kept *appsv1.Deployment, container, image string) {
	kept = after.DeepCopy()
	was := map[string]string{}
	for _, c := range slices.Concat(before.Spec.Template.Spec.Containers, before.Spec.Template.Spec.InitContainers) {
		was[c.Name] = c.Image
	}
	for _, list := range [][]corev1.Container{kept.Spec.Template.Spec.Containers, kept.Spec.Template.Spec.InitContainers} {
		for i := range list {
			c := &list[i]
			switch old := was[c.Name]; {
			case old == "" || old == c.Image:
			case image == "" || image == c.Image:
				container, image = cmp.Or(container, c.Name), c.Image
				c.Image = old
			}
		}
	}
	return kept, container, image
}

// planned is what is live as the edit would make it.
func (e *gitEdit) planned() (metav1.Object, error) {
	if e.live == nil || e.wanted == nil {
		return e.wanted, nil
	}
	after, err := contentOf(e.wanted)
	if err != nil {
		return nil, err
	}
	all, err := plain(e.live)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(overlay(all, e.before, after))
	if err != nil {
		return nil, err
	}
	live := e.empty()
	return live, json.Unmarshal(text, live)
}

func (e *gitEdit) folder() string { return cmp.Or(e.Git.Folder, "the root") }

// rendersAs refuses an edit after which the folder does not have the object as it is wanted.
func (e *gitEdit) rendersAs(ctx context.Context, tree *environment.Tree, want map[string]any) error {
	objects, err := e.Git.Render(ctx, tree)
	if err != nil {
		return err
	}
	got, err := e.in(objects)
	if err != nil {
		return err
	}
	var has map[string]any
	if got != nil {
		if has, err = contentOf(got); err != nil {
			return err
		}
	}
	if where := differs("", want, has, true); where != "" {
		return &usererr.Error{
			Field:   "gitops.path",
			Problem: fmt.Sprintf("%s cannot be written there: %s in what the folder makes of it, by images, patches or the like of a kustomization", e.object, where),
			Fix:     "write it in the object's own manifest alone",
		}
	}
	return nil
}

func (e *gitEdit) removeCanary(ctx context.Context, tree *environment.Tree, before metav1.Object) error {
	switch {
	case before == nil:
		return nil
	case !e.isCanary():
		return &usererr.Error{Field: e.object.String(), Problem: "it is in Git, and a release does not remove it there", Fix: "remove it in a commit of your own"}
	}
	if err := environment.RemoveObject(tree, e.Git.Folder, canaryFile); err != nil {
		return err
	}
	objects, err := e.Git.Render(ctx, tree)
	if err != nil {
		return err
	}
	if left, err := e.in(objects); left == nil || err != nil {
		return err
	}
	return &usererr.Error{Field: e.object.String(), Problem: "somebody has moved it to another file than " + canaryFile, Fix: "remove it there, in a commit of your own"}
}

// putCanary writes the canary's manifest, as whatever was decided by what is live has it.
func (e *gitEdit) putCanary(ctx context.Context, tree *environment.Tree, before metav1.Object) error {
	want, err := contentOf(e.write.apply)
	if err != nil {
		return err
	}
	if before != nil && e.live == nil || before != nil && e.live != nil && (&gitEdit{gitStore: e.gitStore, object: e.object, wanted: before}).differs(e.live) != "" {
		if has, err := contentOf(before); err != nil || !reflect.DeepEqual(has, want) { // else an earlier attempt has made it
			return cmp.Or(err, notAsRead("deployments", e.object.name))
		}
	}
	if before != nil {
		if e.before, err = contentOf(before); err != nil {
			return err
		}
	}
	e.wanted = e.write.apply
	if before != nil && reflect.DeepEqual(e.before, want) { // but for the stamp of another job
		return nil
	}
	content, err := plain(e.write.apply)
	if err != nil {
		return err
	}
	primary, err := environment.Object(tree, e.Git.Folder, "Deployment", e.deploymentName(release.Primary))
	if err != nil {
		return err
	}
	if metadata, _ := primary["metadata"].(map[string]any); metadata["namespace"] == nil { // its kustomization or controller says where
		delete(content["metadata"].(map[string]any), "namespace")
	}
	if err := environment.AddObject(tree, e.Git.Folder, canaryFile, content); err != nil {
		return err
	}
	return e.rendersAs(ctx, tree, want)
}

// in is the object among those of the folder, of its own type; nil when there is none.
func (e *gitEdit) in(objects []manifest.Object) (metav1.Object, error) {
	into := e.empty()
	found, err := manifest.Find(objects, e.object.kind, e.object.name, into)
	if !found || err != nil {
		return nil, err
	}
	return into, nil
}

// empty is an object of its type.
func (e *gitEdit) empty() metav1.Object {
	switch e.object.kind {
	case "Deployment":
		return &appsv1.Deployment{}
	case "Service":
		return &corev1.Service{}
	case "VirtualService":
		return &networking.VirtualService{}
	case "DestinationRule":
		return &networking.DestinationRule{}
	}
	return &unstructured.Unstructured{}
}

// after is what the write makes of the object as Git has it.
func (e *gitEdit) after(before metav1.Object) (metav1.Object, error) {
	switch w := e.write; {
	case w.patch != nil:
		return e.patched(before)
	case w.size != nil:
		after := before.(*appsv1.Deployment).DeepCopy()
		after.Spec.Replicas = w.size
		return after, nil
	case e.object.kind == "Deployment" && w.apply != nil:
		return e.withTemplate(before.(*appsv1.Deployment), w.apply.(*appsv1.Deployment))
	}
	return nil, &usererr.Error{Field: e.object.String(), Problem: "a release does not write it in Git", Fix: "commit it to the repository first"}
}

// withTemplate is primary with another pod template. One that a cluster has had may say what its API server adds to each: that
// stays out of Git.
func (e *gitEdit) withTemplate(before, desired *appsv1.Deployment) (metav1.Object, error) {
	after := before.DeepCopy()
	after.Spec.Template = desired.Spec.Template
	if e.live == nil {
		return after, nil
	}
	var all []any
	for _, o := range []metav1.Object{after, before, e.live} {
		content, err := contentOf(o)
		if err != nil {
			return nil, err
		}
		all = append(all, content)
	}
	text, err := json.Marshal(withoutAdded(all[0], all[1], all[2]))
	if err != nil {
		return nil, err
	}
	after = before.DeepCopy()
	after.Spec.Template = corev1.PodTemplateSpec{}
	return after, json.Unmarshal(text, after)
}

// withoutAdded is a value without what the cluster has added to what Git says, and which is the same in it.
func withoutAdded(v, git, live any) any {
	switch v := v.(type) {
	case map[string]any:
		said, _ := git.(map[string]any)
		has, _ := live.(map[string]any)
		kept := map[string]any{}
		for key, value := range v {
			if _, there := said[key]; there || said == nil || !reflect.DeepEqual(has[key], value) {
				kept[key] = withoutAdded(value, said[key], has[key])
			}
		}
		return kept
	case []any:
		said, _ := git.([]any)
		has, _ := live.([]any)
		kept := slices.Clone(v)
		for i, item := range v {
			kept[i] = withoutAdded(item, like(said, i, item), like(has, i, item))
		}
		return kept
	}
	return v
}

// like is the item of a list that is the same thing as one of another list: by its name, or else by its place.
func like(list []any, place int, item any) any {
	if name := itemName(item); name != nil {
		if i := slices.IndexFunc(list, func(other any) bool { return itemName(other) == name }); i >= 0 {
			return list[i]
		}
		return nil
	}
	if place < len(list) {
		return list[place]
	}
	return nil
}

// patched is an object with the operations of the write carried out on it.
func (e *gitEdit) patched(before metav1.Object) (metav1.Object, error) {
	text, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	ops, err := json.Marshal(e.write.patch)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(ops)
	if err != nil {
		return nil, err
	}
	if text, err = patch.Apply(text); err != nil { // it names what the cluster has, and Git not
		return nil, notAsRead(strings.ToLower(e.object.kind), e.object.name)
	}
	after := e.empty()
	return after, json.Unmarshal(text, after)
}

// differs says in what a live object is not as Git has it, "" if in nothing that Git says.
func (e *gitEdit) differs(live metav1.Object) string {
	switch {
	case e.wanted == nil && (live == nil || live.GetDeletionTimestamp() != nil):
		return ""
	case e.wanted == nil:
		return "it is still there, and Git does not have it"
	case live == nil || live.GetDeletionTimestamp() != nil:
		return "it does not exist yet"
	}
	want, err := contentOf(e.wanted)
	if err != nil {
		return err.Error()
	}
	has, err := contentOf(live)
	if err != nil {
		return err.Error()
	}
	whole := e.object.kind == "VirtualService" || e.object.kind == "DestinationRule" // the API server adds nothing to these
	if whole {
		return differs("spec", want["spec"], has["spec"], true)
	}
	return differs("", want, has, false)
}

// removes says whether the edit is seen in no field: what was live has all that the folder is to say.
func (e *gitEdit) removes() bool {
	return e.edited && e.live != nil && e.wanted != nil && e.differs(e.live) == ""
}

// contentOf is what a manifest says of an object: its spec, labels and annotations, in the form that all have in common.
func contentOf(o metav1.Object) (map[string]any, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	all := map[string]any{}
	if err := kjson.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	content := map[string]any{}
	for _, key := range []string{"spec", "data"} {
		if all[key] != nil {
			content[key] = withoutNulls(all[key])
		}
	}
	metadata := map[string]any{}
	for key, values := range map[string]map[string]string{"labels": o.GetLabels(), "annotations": o.GetAnnotations()} {
		named := map[string]any{}
		for name, value := range values {
			if name != epochAnnotation {
				named[name] = value
			}
		}
		if len(named) > 0 {
			metadata[key] = named
		}
	}
	if len(metadata) > 0 {
		content["metadata"] = metadata
	}
	return content, nil
}

// withoutNulls drops the fields without a value, which Go writes of times and the like.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if value == nil {
				delete(v, key)
			} else if v[key] = withoutNulls(value); key == "strategy" || key == "resources" || key == "status" {
				if m, ok := v[key].(map[string]any); ok && len(m) == 0 {
					delete(v, key)
				}
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutNulls(v[i])
		}
	}
	return v
}

// differs says where a value does not have what is wanted of it, "" nowhere. exactly: nor may it have more. Items of a list are
// those of the same name, or else of the same place.
func differs(at string, want, has any, exactly bool) string {
	wanted, isMap := want.(map[string]any)
	if !isMap {
		if list, ok := want.([]any); ok {
			return listDiffers(at, list, has, exactly)
		}
		if reflect.DeepEqual(want, has) {
			return ""
		}
		return fmt.Sprintf("%s is %s, and Git has %s", at, written(has), written(want))
	}
	held, _ := has.(map[string]any)
	keys := maps.Clone(wanted)
	if exactly {
		maps.Copy(keys, held)
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		below := strings.TrimPrefix(at+"."+key, ".")
		if _, there := wanted[key]; !there {
			return fmt.Sprintf("%s is %s, and Git has none", below, written(held[key]))
		}
		if found := differs(below, wanted[key], held[key], exactly); found != "" {
			return found
		}
	}
	return ""
}

func listDiffers(at string, want []any, has any, exactly bool) string {
	held, _ := has.([]any)
	if len(want) != len(held) {
		return fmt.Sprintf("%s has %d items, and Git %d", at, len(held), len(want))
	}
	for i, item := range want {
		if found := differs(fmt.Sprintf("%s.%d", at, i), item, like(held, i, item), exactly); found != "" {
			return found
		}
	}
	return ""
}

func itemName(item any) any {
	fields, _ := item.(map[string]any)
	return fields["name"]
}

// written is a value for a message.
func written(v any) string {
	if v == nil {
		return "not there"
	}
	text, err := json.Marshal(v)
	if err != nil || len(text) > 60 {
		return "another one"
	}
	return string(text)
}

// withZeroWeights is a route with the weights that its manifest has and that are 0 now, which its type leaves out: their lines stay.
func withZeroWeights(v, raw any) any {
	switch v := v.(type) {
	case map[string]any:
		said, _ := raw.(map[string]any)
		kept := maps.Clone(v)
		for key, value := range v {
			kept[key] = withZeroWeights(value, said[key])
		}
		if _, weighed := said["weight"]; weighed && v["weight"] == nil {
			kept["weight"] = int64(0)
		}
		return kept
	case []any:
		said, _ := raw.([]any)
		kept := slices.Clone(v)
		for i, item := range v {
			kept[i] = withZeroWeights(item, like(said, i, item))
		}
		return kept
	}
	return v
}

// overlay is a manifest with what makes one of its readings another one.
func overlay(raw, before, after any) any {
	if reflect.DeepEqual(before, after) {
		return raw
	}
	was, wasMap := before.(map[string]any)
	is, isMap := after.(map[string]any)
	text, textMap := raw.(map[string]any)
	if isMap && (wasMap || before == nil) && (textMap || raw == nil) {
		edited := maps.Clone(text)
		if edited == nil {
			edited = map[string]any{}
		}
		for key := range was {
			if _, stays := is[key]; !stays {
				delete(edited, key)
			}
		}
		for key, value := range is {
			if next := overlay(text[key], was[key], value); next != nil {
				edited[key] = next
			}
		}
		return edited
	}
	olds, _ := before.([]any)
	news, isList := after.([]any)
	texts, _ := raw.([]any)
	if isList && len(olds) == len(news) && len(texts) == len(news) {
		edited := slices.Clone(texts)
		for i := range news {
			if itemName(olds[i]) != itemName(news[i]) || itemName(texts[i]) != itemName(news[i]) {
				return after
			}
			edited[i] = overlay(texts[i], olds[i], news[i])
		}
		return edited
	}
	return after
}
