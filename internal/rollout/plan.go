package rollout

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/hexops/gotextdiff"
	"github.com/hexops/gotextdiff/myers"
	"github.com/hexops/gotextdiff/span"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Change is one write that a command would make, as the API server answered its dry run.
type Change struct {
	Object string `json:"object"`
	Action string `json:"action"` // create, update or delete
	Diff   string `json:"diff"`   // unified, of the YAML before and after
}

// Plan says what a command would write, in order: each write is a server-side dry run. Nothing is
// written and nothing is waited for. want is canary's, from is migrate's.
func (c *Cluster) Plan(ctx context.Context, command string, want release.Release, from string) ([]Change, Result, error) {
	changes := []Change{}
	planning := *c
	planning.plan = &changes
	var result Result
	var err error
	switch command {
	case "canary":
		result, err = planning.Canary(ctx, want)
	case "promote":
		result, err = planning.Promote(ctx)
	case "cleanup":
		result, err = planning.Cleanup(ctx)
	case "rollback":
		result, err = planning.Rollback(ctx, "plan")
	case "migrate":
		result, err = planning.Migrate(ctx, from)
	default:
		err = &usererr.Error{Field: "command", Problem: fmt.Sprintf("%q writes nothing that can be planned", command), Fix: "give canary, promote, cleanup, rollback or migrate"}
	}
	return changes, result, err
}

// record notes a planned write.
func (j *job) record(object string, before, after any) {
	if j.plan == nil {
		return
	}
	old, new := planText(before), planText(after)
	if old == new {
		return
	}
	action := "update"
	switch {
	case old == "":
		action = "create"
	case new == "":
		action = "delete"
	}
	edits := myers.ComputeEdits(span.URIFromPath(object), old, new)
	diff := fmt.Sprint(gotextdiff.ToUnified("live", "planned", old, edits))
	change := Change{Object: object, Action: action, Diff: diff}
	if !slices.Contains(*j.plan, change) { // a dry run leaves nothing, so the same write can come twice
		*j.plan = append(*j.plan, change)
	}
}

// planText is an object as YAML, without what the server keeps for itself.
func planText(object any) string {
	if value := reflect.ValueOf(object); object == nil || value.Kind() == reflect.Pointer && value.IsNil() {
		return ""
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return fmt.Sprintf("not shown: %s\n", err)
	}
	u := unstructured.Unstructured{Object: content}
	for _, path := range []string{"status", "metadata.managedFields", "metadata.resourceVersion", "metadata.uid", "metadata.creationTimestamp", "metadata.generation"} {
		unstructured.RemoveNestedField(u.Object, strings.Split(path, ".")...)
	}
	annotations := u.GetAnnotations()
	delete(annotations, epochAnnotation)
	delete(annotations, "deployment.kubernetes.io/revision")
	u.SetAnnotations(annotations)
	text, err := yaml.Marshal(u.Object)
	if err != nil {
		return fmt.Sprintf("not shown: %s\n", err)
	}
	return string(text)
}
