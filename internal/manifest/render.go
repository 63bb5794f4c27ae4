package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	jsonutil "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// Rendered is what a source comes to: all of its objects, in its order.
type Rendered struct {
	App     string   // the app that is meant, where there are several; "" for the only one
	Objects []Object // no two of one name
	Remarks []string // what a reader of the source may not expect of how it was read
	Skipped []string // what is no object of the release, with why

	path   string // of the source
	advice string // where to look for a kind that is missing

	gateway string   // of the VirtualService that is made where there is none; "" for none
	hosts   []string // of it
}

// Object is one object of a source.
type Object struct {
	schema.GroupVersionKind
	Namespace, Name string
	Raw             []byte // as JSON, with sorted keys, without what only a server writes
	From            string // the file

	place    string // in the file, ahead of a problem
	template int    // line of what looks like an unrendered template; 0 for none
}

// String names the object for people.
func (o *Object) String() string { return strings.TrimSpace(o.Kind + " " + o.Name) }

// problem is an error of the object.
func (o *Object) problem(problem string) error {
	return &usererr.Error{Field: o.From, Problem: o.place + problem}
}

// YAML is all objects as YAML: the same bytes for the same objects, on every machine.
func (r *Rendered) YAML() []byte {
	var text bytes.Buffer
	for i := range r.Objects {
		document, err := yaml.JSONToYAML(r.Objects[i].Raw)
		if err != nil {
			panic(err) // it was made of YAML
		}
		text.WriteString("---\n")
		text.Write(document)
	}
	return text.Bytes()
}

// RenderedFrom reads what YAML has written. name is what errors call it.
func RenderedFrom(name string, text []byte) (*Rendered, error) {
	r := &Rendered{path: name}
	return r, r.addText(name, text, rendered)
}

// kindOfText says where a text is from.
type kindOfText bool

const (
	written  kindOfText = true  // somebody wrote it: what looks like a template was meant to be rendered
	rendered kindOfText = false // what looks like a template is meant for the app
)

// addText adds the documents of a text.
func (r *Rendered) addText(file string, text []byte, kind kindOfText) error {
	if bytes.HasPrefix(text, []byte{0xFF, 0xFE}) || bytes.HasPrefix(text, []byte{0xFE, 0xFF}) {
		return &usererr.Error{Field: file, Problem: "it is UTF-16", Fix: "save it as UTF-8"}
	}
	for i, document := range documentsOf(text) {
		place, template := fmt.Sprintf("document %d: ", i+1), 0
		switch kind {
		case rendered:
			place = "as it is rendered, " + place
		case written:
			template = lineWith(document, leftover.MatchString)
		}
		raw, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			if line := lineWith(document, func(line string) bool { return strings.Contains(line, "{{") }); kind == written && line > 0 {
				return templated(file, place, line)
			}
			return &usererr.Error{Field: file, Problem: place + plain(err)}
		}
		if err := r.add(Object{From: file, place: place, template: template}, raw); err != nil {
			return err
		}
	}
	return nil
}

// separator is a line that begins a document.
var separator = regexp.MustCompile(`^---([ \t]*|[ \t]+#.*)$`)

// documentsOf splits a file at its separators. Each document keeps its place by the empty lines ahead of it, so that
// the line in a decoder's error is the file's.
func documentsOf(text []byte) []string {
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	var documents []string
	start := 0
	for i := 0; i <= len(lines); i++ {
		if i < len(lines) && !separator.MatchString(lines[i]) {
			continue
		}
		if document := strings.Join(lines[start:i], "\n"); strings.TrimSpace(document) != "" {
			documents = append(documents, strings.Repeat("\n", start)+document+"\n")
		}
		start = i + 1
	}
	return documents
}

// leftover is what a template engine should have replaced. Other braces may be meant for the app.
var leftover = regexp.MustCompile(`\{\{-?\s*(\.|\$|/\*|(include|template|if|else|range|with|end|define|block|printf|quote|toYaml|required|default|tpl)\b)`)

func templated(file, place string, line int) error {
	return &usererr.Error{Field: file, Problem: fmt.Sprintf("%sline %d is a template ({{ … }}), not a manifest", place, line), Fix: "render it first, for example with `helm template`"}
}

// lineWith is the number of the first line, without its comment, that is one of those asked for; 0 for none.
func lineWith(text string, is func(string) bool) int {
	for i, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") && is(line) {
			return i + 1
		}
	}
	return 0
}

// wrongType is what sigs.k8s.io/json says of a value of another type, in Go's words.
var wrongType = regexp.MustCompile(`cannot unmarshal (\S+) into Go (?:struct field [^\s.]+\.(\S+)|value) of type \S*?([^\s.]+)$`)

// value is what YAML's decoder quotes of the text, which may be a Secret's: a password that begins with * is an alias to it.
var value = regexp.MustCompile("unknown anchor '.*' referenced|`[^`]*`")

// plain is a decoder's error without the decoders it came through, and without values.
func plain(err error) string {
	text := value.ReplaceAllStringFunc(err.Error(), func(quoted string) string {
		if quoted[0] == '`' {
			return "a value"
		}
		return "a value that begins with * and is no alias: write it in quotes"
	})
	text = strings.TrimPrefix(text, "error unmarshaling JSON: while decoding JSON: ")
	text = strings.TrimPrefix(strings.TrimPrefix(text, "error converting YAML to JSON: "), "yaml: ")
	return wrongType.ReplaceAllString(strings.TrimPrefix(text, "json: "), "$2: a $1 is not of type $3")
}

// add adds an object, or each one of a List. what says where it is from.
func (r *Rendered) add(what Object, raw []byte) error {
	if string(raw) == "null" {
		return nil // only comments
	}
	if raw[0] != '{' {
		return what.problem("is not a manifest: it has no apiVersion, kind and metadata")
	}
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err == nil && strings.HasSuffix(list.Kind, "List") {
		for i, item := range list.Items {
			each := what
			each.place += fmt.Sprintf("item %d: ", i+1)
			if err := r.add(each, item); err != nil {
				return err
			}
		}
		return nil
	}
	var meta struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	err := json.Unmarshal(raw, &meta)
	switch {
	case err != nil && !foreign(raw):
		return what.problem(plain(err))
	case err != nil || meta.Kind == "" && meta.APIVersion == "":
		r.Skipped = append(r.Skipped, what.From+" (no Kubernetes object)")
		return nil
	case meta.Kind == "" || meta.APIVersion == "":
		return what.problem("has no kind or no apiVersion")
	}
	for _, key := range hookAnnotations {
		if when := meta.Annotations[key]; when != "" {
			r.Skipped = append(r.Skipped, fmt.Sprintf("%s (a %s hook of %s: nothing runs it)", strings.TrimSpace(meta.Kind+" "+cmp.Or(meta.Name, meta.GenerateName)), when, strings.TrimPrefix(strings.TrimSuffix(key, "/hook"), "argocd.")))
			return nil
		}
	}
	what.GroupVersionKind, what.Namespace, what.Name = meta.GroupVersionKind(), meta.Namespace, meta.Name
	if what.Raw, err = withoutServers(raw); err != nil {
		return what.problem(plain(err))
	}
	return r.once(what)
}

// hookAnnotations are on what Helm or Argo CD runs before or after they apply the rest: tests, migrations.
var hookAnnotations = []string{"helm.sh/hook", "argocd.argoproj.io/hook"}

// foreign says whether a document looks like no Kubernetes object at all: a chart's values, for example.
func foreign(raw []byte) bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(raw, &fields) == nil && fields["apiVersion"] == nil && fields["kind"] == nil
}

// once adds an object, unless this very one was read before.
func (r *Rendered) once(object Object) error {
	i := slices.IndexFunc(r.Objects, func(o Object) bool {
		return o.Kind == object.Kind && o.Group == object.Group && o.Namespace == object.Namespace && o.Name == object.Name && o.Name != ""
	})
	switch {
	case i < 0:
		r.Objects = append(r.Objects, object)
	case !bytes.Equal(r.Objects[i].Raw, object.Raw):
		return object.problem(fmt.Sprintf("%s is there a second time, and differs from the one in %s: keep one", object.String(), r.Objects[i].From))
	}
	return nil
}

// serversAnnotations are written by the server or by kubectl, and are in an export.
var serversAnnotations = []string{corev1.LastAppliedConfigAnnotation, "deployment.kubernetes.io/revision"}

// withoutServers leaves out what an export of a live object carries and a manifest must not: what its server keeps.
func withoutServers(raw []byte) ([]byte, error) {
	object := map[string]any{}
	if err := jsonutil.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	meta, ok := object["metadata"].(map[string]any)
	if !ok && object["metadata"] != nil {
		return nil, errors.New("metadata is not a list of fields")
	}
	exported := meta["uid"] != nil
	for _, key := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields", "selfLink"} {
		delete(meta, key)
	}
	if annotations, ok := meta["annotations"].(map[string]any); ok {
		for _, key := range serversAnnotations {
			delete(annotations, key)
		}
		if len(annotations) == 0 {
			delete(meta, "annotations")
		}
	}
	delete(object, "status")
	spec, _ := object["spec"].(map[string]any)
	if object["kind"] == "Service" && exported && spec["clusterIP"] != corev1.ClusterIPNone {
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
	}
	if template, ok := spec["template"].(map[string]any); ok {
		if meta, ok := template["metadata"].(map[string]any); ok {
			delete(meta, "creationTimestamp")
		}
	}
	return json.Marshal(object)
}
