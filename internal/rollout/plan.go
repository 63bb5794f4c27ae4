package rollout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Plan collects what a command would write, in order. Each write is a server-side dry run, so a change that the
// API server would refuse is refused.
type Plan struct {
	Changes []Change `json:"changes"`
	Notes   []string `json:"notes,omitempty"` // what the command takes, or risks

	route metav1.Object            // as it was planned last
	made  map[string]metav1.Object // what only the plan has made, by its name
}

// Change is one write that a command would make, as the API server answered its dry run.
type Change struct {
	Object string `json:"object"`
	Action string `json:"action"` // create, update or delete
	Diff   string `json:"diff"`   // unified, of the YAML before and after
}

func (c *Cluster) planning() bool { return c.Plan != nil }

// record notes what a write made of an object: in the plan, or for the waits that follow the write.
func (j *job) record(o object, before, after metav1.Object) {
	if j.planning() {
		j.Plan.add(o, before, after)
		return
	}
	j.remember(o, after)
	if after == nil || o.kind != "Deployment" {
		return
	}
	if j.written == nil {
		j.written = map[string]version{}
	}
	j.written[o.name] = version{after.GetUID(), after.GetGeneration()}
}

// routed notes the route that a command has planned, also where it leads back to what is live.
func (p *Plan) routed(o object, before, after metav1.Object) {
	if before == after && p.route != nil {
		p.add(o, p.route, after)
	}
	p.route = after
}

func (p *Plan) note(text string) {
	if !slices.Contains(p.Notes, text) {
		p.Notes = append(p.Notes, text)
	}
}

// add notes a planned write, unless it changes nothing. A dry run leaves nothing, so the same write can come
// twice in a row.
func (p *Plan) add(o object, before, after metav1.Object) {
	old, planned := planText(o, before, after, "live"), planText(o, after, before, "planned")
	if old == planned {
		return
	}
	action := "update"
	switch {
	case old == "":
		action = "create"
	case planned == "":
		action = "delete"
	}
	change := Change{Object: o.String(), Action: action, Diff: udiff.Unified("live", "planned", old, planned)}
	if last := p.last(change.Object); last == nil || *last != change {
		p.Changes = append(p.Changes, change)
	}
	if action == "create" {
		if p.made == nil {
			p.made = map[string]metav1.Object{}
		}
		p.made[change.Object] = after
	}
}

// last is the last planned write of an object; nil when there is none.
func (p *Plan) last(object string) *Change {
	for i := len(p.Changes) - 1; i >= 0; i-- {
		if p.Changes[i].Object == object {
			return &p.Changes[i]
		}
	}
	return nil
}

// removeMade plans the deletion of an object that only the plan has made.
func (p *Plan) removeMade(o object) {
	if made := p.made[o.String()]; made != nil {
		p.add(o, made, nil)
	}
}

// planText is an object as YAML, without what the server keeps for itself; "" for nil. other is the same object on the
// other side of the write; side names this one.
func planText(o object, object, other metav1.Object, side string) string {
	if object == nil {
		return ""
	}
	content, err := plain(object)
	if err != nil {
		return fmt.Sprintf("not shown: %s\n", err)
	}
	if o.kind == "Secret" {
		mask(content, other, side)
	}
	u := unstructured.Unstructured{Object: content}
	for _, path := range []string{"status", "metadata.managedFields", "metadata.resourceVersion", "metadata.uid", "metadata.creationTimestamp", "metadata.generation"} {
		unstructured.RemoveNestedField(u.Object, strings.Split(path, ".")...)
	}
	annotations := u.GetAnnotations()
	delete(annotations, epochAnnotation)
	delete(annotations, previousAnnotation)
	delete(annotations, "deployment.kubernetes.io/revision")
	if len(annotations) == 0 {
		annotations = nil
	}
	u.SetAnnotations(annotations)
	text, err := yaml.Marshal(u.Object)
	if err != nil {
		return fmt.Sprintf("not shown: %s\n", err)
	}
	return string(text)
}

// mask takes the values out of a Secret. The keys stay, and a value that is another one on the other side shows as such.
func mask(content map[string]any, other metav1.Object, side string) {
	var others map[string]any
	if other != nil {
		others, _ = plain(other) // without it every value shows as another one
	}
	for _, field := range []string{"data", "stringData"} {
		values, _, _ := unstructured.NestedMap(content, field)
		for key, value := range values {
			was, _, _ := unstructured.NestedFieldNoCopy(others, field, key)
			values[key] = "(masked)"
			if other != nil && was != value {
				values[key] = "(masked, " + side + ")"
			}
		}
		if values != nil {
			content[field] = values
		}
	}
	unstructured.RemoveNestedField(content, "metadata", "annotations", corev1.LastAppliedConfigAnnotation)
}
