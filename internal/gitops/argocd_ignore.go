package gitops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/itchyny/gojq"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ignoreRule is one of an Application's ignoreDifferences.
type ignoreRule struct {
	Group                 string   `json:"group"`
	Kind                  string   `json:"kind"`
	Name                  string   `json:"name,omitempty"`
	Namespace             string   `json:"namespace,omitempty"`
	JSONPointers          []string `json:"jsonPointers,omitempty"`
	JQPathExpressions     []string `json:"jqPathExpressions,omitempty"`
	ManagedFieldsManagers []string `json:"managedFieldsManagers,omitempty"`
}

// matches is IgnoreDiffConfig.HasIgnoreDifference of util/argo/diff: group and kind are patterns, an empty group is the core's
// alone, an empty name or namespace is all.
func (r ignoreRule) matches(o Object) bool {
	return matches(r.Group, o.Group) && matches(r.Kind, o.Kind) && (r.Name == "" || r.Name == o.GetName()) && (r.Namespace == "" || r.Namespace == o.GetNamespace())
}

// matches is Argo CD's glob.Match for what has no separators: *, ?, [a-z] and {a,b}.
func matches(pattern, text string) bool {
	before, rest, alternatives := strings.Cut(pattern, "{")
	inside, after, closed := strings.Cut(rest, "}")
	if !alternatives || !closed {
		ok, err := path.Match(pattern, text)
		return ok && err == nil
	}
	return slices.ContainsFunc(strings.Split(inside, ","), func(one string) bool { return matches(before+one+after, text) })
}

// routeKinds are those whose weights Crossbill writes as the manager of the whole list, and gives back at the end.
var routeKinds = []string{"VirtualService", "HTTPRoute", "GRPCRoute"}

// check looks at what an Application ignores of an object. The rules come from a release under load (kinds, settings, later
// changes in Git), and from normalizeTargetResources of Argo CD's controller/sync.go: an ignored field is copied from the
// live object into what is applied. In a Deployment a list is merged by the name of its elements; of a kind that Argo CD was
// not compiled with, which is every route, the whole list around the field is copied.
func (app *application) check(o Object) (remarks []string, err error) {
	managed := false
	for _, rule := range app.IgnoreDifferences {
		managed = managed || rule.matches(o) && slices.Contains(rule.ManagedFieldsManagers, fieldManager)
	}
	before, err := asMap(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o, err)
	}
	left := app.withoutIgnored(o, before)
	ignored := missing(before, left, "")
	switch {
	case o.Kind == "Deployment":
		return app.checkDeployment(o, before, ignored, managed)
	case slices.Contains(routeKinds, o.Kind):
		return app.checkRoute(o, before, ignored, managed)
	case o.Kind == "DestinationRule" && !managed && len(list(before, "spec", "subsets")) < 2:
		return nil, app.bad(o.String(), app.name.String()+" would remove the subset that a release adds to it", "write both subsets into Git, or add to its ignoreDifferences: "+managedRule(o))
	}
	return nil, nil
}

func (app *application) checkDeployment(o Object, live any, ignored []string, managed bool) (remarks []string, err error) {
	if managed {
		err = app.bad(o.String(), app.name.String()+" ignores what the manager "+fieldManager+" owns of it: changes of it in Git are not applied while Crossbill owns any of its fields, and it says Synced all the same",
			"name the routes' kind in that rule of ignoreDifferences, and ignore the Deployment's image by jqPathExpressions")
	}
	var open []string
	for _, p := range changedPaths(o, live) {
		around := slices.IndexFunc(ignored, func(i string) bool { return p == i || strings.HasPrefix(p, i+"/") })
		switch {
		case around < 0:
			open = append(open, p)
		case ignored[around] != p:
			remarks = append(remarks, fmt.Sprintf("%s ignores all of %s of %s: no change of it in Git is applied", app.name, ignored[around], o))
		}
	}
	if len(open) == 0 {
		return slices.Compact(remarks), err
	}
	return slices.Compact(remarks), errors.Join(err, app.bad(o.String(), app.name.String()+" would put back what a release changes of it: "+strings.Join(open, ", "), "add to its ignoreDifferences: "+pathRule(o, live, open)))
}

func (app *application) checkRoute(o Object, live any, ignored []string, managed bool) (remarks []string, err error) {
	weights := pointers(live, "", "weight")
	for _, i := range ignored {
		if slices.ContainsFunc(weights, func(w string) bool { return w == i || strings.HasPrefix(w, i+"/") }) {
			return nil, app.bad(o.String(), app.name.String()+" ignores its weights by path: with "+respect+" Argo CD copies the whole list of routes from the cluster, and no change of it in Git is applied any more",
				"remove jqPathExpressions and jsonPointers for it from the ignoreDifferences, and add: "+managedRule(o))
		}
		if strings.HasPrefix(i, "/spec/") && slices.ContainsFunc(strings.Split(i, "/"), isIndex) {
			remarks = append(remarks, fmt.Sprintf("%s ignores %s of %s: with %s the whole list around it is copied from the cluster, and no change of it in Git is applied", app.name, i, o, respect))
		}
	}
	if managed {
		return remarks, nil
	}
	return remarks, app.bad(o.String(), app.name.String()+" would put its weights back", "add to its ignoreDifferences: "+managedRule(o))
}

// checkCommitted refuses an Application that does not apply what a commit changes of an object.
func (app *application) checkCommitted(o Object) error {
	if !slices.Contains(app.SyncPolicy.SyncOptions, respect) { // then what it ignores is only hidden
		return nil
	}
	before, err := asMap(o)
	if err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	ignored := missing(before, app.withoutIgnored(o, before), "")
	for _, changes := range append(pointers(before, "", "weight"), o.Paths...) {
		for _, i := range ignored {
			if changes == i || strings.HasPrefix(changes, i+"/") {
				return app.bad(o.String(), app.name.String()+" ignores "+i+" of it: with "+respect+" no commit of a release to it is applied", "remove that from its ignoreDifferences")
			}
		}
	}
	return nil
}

func isIndex(segment string) bool {
	_, err := strconv.Atoi(segment)
	return err == nil
}

// managedRule is the rule that leaves to Crossbill what it owns of an object.
func managedRule(o Object) string {
	return fmt.Sprintf("{group: %s, kind: %s, name: %s, managedFieldsManagers: [%s]}", o.Group, o.Kind, o.GetName(), fieldManager)
}

// pathRule is the rule that leaves out fields of a live object, or of one in a manifest.
func pathRule(o Object, live any, paths []string) string {
	quoted := expressions(live, paths)
	for i, expression := range quoted {
		quoted[i] = "'" + expression + "'"
	}
	return fmt.Sprintf("{group: %s, kind: %s, name: %s, jqPathExpressions: [%s]}", o.Group, o.Kind, o.GetName(), strings.Join(quoted, ", "))
}

// expressions are JSON pointers as jq has them: the one element of a list is every one, one of several is found by its name.
func expressions(live any, paths []string) []string {
	var all []string
	for _, p := range paths {
		expression, at := "", live
		for segment := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
			elements, _ := at.([]any)
			index, err := strconv.Atoi(segment)
			switch {
			case err != nil || index >= len(elements):
				fields, _ := at.(map[string]any)
				expression, at = expression+"."+segment, fields[segment]
			case len(elements) == 1:
				expression, at = expression+"[]", elements[0]
			default:
				at = elements[index]
				fields, _ := at.(map[string]any)
				expression += fmt.Sprintf(`[] | select(.name == "%v") | `, fields["name"])
			}
		}
		all = append(all, expression)
	}
	return slices.Compact(all)
}

// changedPaths are the fields of a Deployment that a release changes: those that the object names, else the images of what
// runs the first container's repository.
func changedPaths(o Object, live any) []string {
	if paths := slices.DeleteFunc(slices.Clone(o.Paths), func(p string) bool { return p == "" }); len(paths) > 0 {
		return paths
	}
	return imagePaths(live, "")
}

// ImagePaths are the images that a release changes in a Deployment, as JSON pointers: of every container and init container
// that runs the repository of the named one.
func ImagePaths(deployment metav1.Object, container string) []string {
	live, err := asMap(Object{Object: deployment})
	if err != nil {
		return nil
	}
	return imagePaths(live, container)
}

// imagePaths is ImagePaths; of an empty name the first container is meant.
func imagePaths(live any, container string) []string {
	repository := ""
	for _, c := range list(live, "spec", "template", "spec", "containers") {
		fields, _ := c.(map[string]any)
		if image, _ := fields["image"].(string); container == "" || fields["name"] == container {
			repository = repositoryOf(image)
			break
		}
	}
	var paths []string
	for _, of := range []string{"containers", "initContainers"} {
		for i, c := range list(live, "spec", "template", "spec", of) {
			fields, _ := c.(map[string]any)
			if image, _ := fields["image"].(string); repositoryOf(image) == repository {
				paths = append(paths, fmt.Sprintf("/spec/template/spec/%s/%d/image", of, i))
			}
		}
	}
	return paths
}

// repositoryOf is an image without its tag and digest.
func repositoryOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		image = image[:colon]
	}
	return image
}

func asMap(o Object) (map[string]any, error) {
	text, err := json.Marshal(o.Object)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	return fields, json.Unmarshal(text, &fields)
}

// list is a list in an object; nil when there is none.
func list(object any, at ...string) []any {
	for _, key := range at {
		fields, _ := object.(map[string]any)
		object = fields[key]
	}
	all, _ := object.([]any)
	return all
}

// withoutIgnored is an object without what the rules ignore of it by path, as Argo CD's ignoreNormalizer makes it: a rule
// that fails is left out.
func (app *application) withoutIgnored(o Object, object map[string]any) any {
	var left any = object
	for _, rule := range app.IgnoreDifferences {
		if !rule.matches(o) {
			continue
		}
		for _, pointer := range rule.JSONPointers {
			if after, err := withoutPointer(left, pointer); err == nil {
				left = after
			}
		}
		for _, expression := range rule.JQPathExpressions {
			if after, err := withoutExpression(left, expression); err == nil {
				left = after
			}
		}
	}
	return left
}

func withoutPointer(object any, pointer string) (any, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	remove, err := json.Marshal([]map[string]string{{"op": "remove", "path": pointer}})
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(remove)
	if err != nil {
		return nil, err
	}
	if text, err = patch.Apply(text); err != nil {
		return nil, err
	}
	var after any
	return after, json.Unmarshal(text, &after)
}

func withoutExpression(object any, expression string) (any, error) {
	query, err := gojq.Parse("del(" + expression + ")")
	if err != nil {
		return nil, err
	}
	code, err := gojq.Compile(query)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	after, ok := code.RunWithContext(ctx, object).Next()
	if err, failed := after.(error); !ok || failed {
		return nil, errors.Join(err, errors.New("no result"))
	}
	return after, nil
}

// missing are the pointers to what one object has and another one lacks or has differently, each as far up as it differs.
func missing(before, after any, at string) []string {
	if reflect.DeepEqual(before, after) {
		return nil
	}
	var found []string
	switch was := before.(type) {
	case map[string]any:
		now, ok := after.(map[string]any)
		if !ok {
			return []string{at}
		}
		for key, value := range was {
			if other, ok := now[key]; ok {
				found = append(found, missing(value, other, at+"/"+escaped(key))...)
			} else {
				found = append(found, at+"/"+escaped(key))
			}
		}
	case []any:
		now, ok := after.([]any)
		if !ok || len(now) != len(was) {
			return []string{at}
		}
		for i := range was {
			found = append(found, missing(was[i], now[i], fmt.Sprintf("%s/%d", at, i))...)
		}
	default:
		return []string{at}
	}
	slices.Sort(found)
	return found
}

// pointers are all fields of a name in an object.
func pointers(object any, at, name string) []string {
	var found []string
	switch o := object.(type) {
	case map[string]any:
		for key, value := range o {
			if key == name {
				found = append(found, at+"/"+escaped(key))
			}
			found = append(found, pointers(value, at+"/"+escaped(key), name)...)
		}
	case []any:
		for i, value := range o {
			found = append(found, pointers(value, fmt.Sprintf("%s/%d", at, i), name)...)
		}
	}
	return found
}

// escaped is a key in a JSON pointer.
func escaped(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }
