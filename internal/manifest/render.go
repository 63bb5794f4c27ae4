package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	yamlnode "go.yaml.in/yaml/v3"
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
	Router  string   // what leads to the tracks: RouterVirtualService, RouterHTTPRoute, or "" for what the objects have

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

	place     string // in the file, ahead of a problem
	templated string // the document, if it has what looks like an unrendered template
}

// Find reads the object of a kind and name, and says whether there is one.
func Find(objects []Object, kind, name string, into any) (found bool, err error) {
	i := slices.IndexFunc(objects, func(o Object) bool { return o.Kind == kind && o.Name == name })
	if i < 0 {
		return false, nil
	}
	return true, json.Unmarshal(objects[i].Raw, into)
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
		place, templates := fmt.Sprintf("document %d: ", i+1), ""
		switch {
		case kind == rendered:
			place = "as it is rendered, " + place
		case leftover.MatchString(document):
			templates = document
		}
		fails := func(err error) error {
			if line := lineWith(document, func(line string) bool { return strings.Contains(line, "{{") }); kind == written && line > 0 {
				return templated(file, place, line)
			}
			return &usererr.Error{Field: file, Problem: place + plain(err)}
		}
		values, err := valuesOf(document)
		if err != nil {
			return fails(err)
		}
		for _, value := range values {
			raw, err := yaml.YAMLToJSONStrict([]byte(value))
			if err != nil {
				return fails(err)
			}
			if err := r.add(Object{From: file, place: place, templated: templates}, raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// separator is a line that begins a document, which may begin on it (YAML 1.2, 9.1.2).
var separator = regexp.MustCompile(`^---([ \t].*)?$`)

// terminator is a line that ends one.
var terminator = regexp.MustCompile(`^\.\.\.([ \t].*)?$`)

// documentsOf splits a file at its separators. Each document keeps its place by the empty lines ahead of it, so that
// the line in a decoder's error is the file's.
func documentsOf(text []byte) []string {
	const mark = "\uFEFF" // a byte order mark, also where files were joined
	text = bytes.TrimPrefix(text, []byte(mark))
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	var documents []string
	start := 0
	for i := 0; i <= len(lines); i++ {
		next := i + 1
		if i < len(lines) {
			line := strings.TrimPrefix(lines[i], mark)
			switch {
			case separator.MatchString(line):
				if rest := strings.TrimSpace(line[3:]); rest != "" && rest[0] != '#' {
					lines[i], next = "   "+line[3:], i // its content begins here
				}
			case !terminator.MatchString(line):
				continue
			}
		}
		if document := strings.TrimPrefix(strings.Join(lines[start:i], "\n"), mark); holdsMore(document) {
			documents = append(documents, strings.Repeat("\n", start)+document+"\n")
		}
		start = next
	}
	return documents
}

// holdsMore says whether a document holds more than comments and directives.
func holdsMore(document string) bool {
	return slices.ContainsFunc(strings.Split(document, "\n"), func(line string) bool {
		return strings.TrimSpace(line) != "" && line[0] != '#' && line[0] != '%'
	})
}

// valuesOf are the values of a document: one, or those of a stream of JSON, which needs no separators. What goes on after the
// end of a document is refused: its decoder would leave the rest out without a word.
func valuesOf(document string) ([]string, error) {
	begins := strings.TrimSpace(document)
	for strings.HasPrefix(begins, "#") {
		_, begins, _ = strings.Cut(begins, "\n")
		begins = strings.TrimSpace(begins)
	}
	if begins == "" || !strings.Contains("{[!&\"'", begins[:1]) {
		return []string{document}, nil // a mapping in lines goes on to the end, or is an error
	}
	if values := jsonValues(begins); len(values) > 1 {
		return values, nil
	}
	decoder := yamlnode.NewDecoder(strings.NewReader(document))
	var value yamlnode.Node
	if decoder.Decode(&value) != nil || errors.Is(decoder.Decode(&value), io.EOF) {
		return []string{document}, nil // what is wrong with it the decoder of objects says
	}
	return nil, errors.New("it goes on after its end: begin each object with a line ---")
}

// jsonValues are the values of a stream of JSON; none if it is something else.
func jsonValues(text string) (values []string) {
	decoder := json.NewDecoder(strings.NewReader(text))
	for {
		var value json.RawMessage
		switch err := decoder.Decode(&value); {
		case errors.Is(err, io.EOF):
			return values
		case err != nil:
			return nil
		}
		values = append(values, string(value))
	}
}

// leftover is what a template engine should have replaced. Other braces may be meant for the app.
var leftover = regexp.MustCompile(`\{\{-?\s*(\.|\$|/\*|(include|template|if|else|range|with|end|define|block|printf|quote|toYaml|required|default|tpl)\b)`)

func templated(file, place string, line int) error {
	return &usererr.Error{Field: file, Problem: fmt.Sprintf("%sline %d is a template ({{ … }}), not a manifest", place, line), Fix: "render it first, for example with `helm template`"}
}

// namesSomething are the fields in which a template is certainly left over: what they hold names an object, or finds one.
var namesSomething = []string{"name", "generateName", "namespace", "labels", "matchLabels", "selector", "image", "host", "hosts", "hostnames", "gateways", "subset", "port", "targetPort", "containerPort"}

// texts are the fields that others read, whose text may be a template of theirs: an agent's in annotations, the app's in data.
var texts = []string{"annotations", "data", "stringData", "binaryData"}

// leftoverIn is a template in a field that names something; "" for none.
func leftoverIn(value any, names bool) string {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if !names && slices.Contains(texts, key) {
				continue
			}
			if found := leftoverIn(v[key], names || slices.Contains(namesSomething, key)); found != "" {
				return found
			}
		}
	case []any:
		for _, inner := range v {
			if found := leftoverIn(inner, names); found != "" {
				return found
			}
		}
	case string:
		if names && leftover.MatchString(v) {
			return v
		}
	}
	return ""
}

// unrendered is the error of an object that is a template; nil if what it has of one may be meant for others.
func (o *Object) unrendered() error {
	var object any
	if o.templated == "" || json.Unmarshal(o.Raw, &object) != nil {
		return nil
	}
	found := leftoverIn(object, false)
	if found == "" {
		return nil
	}
	at := leftover.FindStringIndex(found)
	begins, _, _ := strings.Cut(found[at[0]:], `"`) // which the file may have with a backslash
	return templated(o.From, o.place, cmp.Or(
		lineWith(o.templated, func(line string) bool { return strings.Contains(line, begins) }),
		lineWith(o.templated, leftover.MatchString)))
}

// unreadable is the error of an object that does not decode, which a template may be why of.
func (o *Object) unreadable(err error) error {
	fix := ""
	if line := lineWith(o.templated, leftover.MatchString); line > 0 {
		fix = fmt.Sprintf("correct it; if line %d is a template ({{ … }}) of a chart, render it first, for example with `helm template`", line)
	}
	return &usererr.Error{Field: o.From, Problem: o.place + plain(err), Fix: fix}
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
var wrongType = regexp.MustCompile(`cannot unmarshal (\S+)(?: \S+)? into Go (?:struct field [^\s.]+\.(\S+)|value) of type \S*?([^\s.]+)$`)

// value is what YAML's decoder quotes of the text, which may be a Secret's: a password that begins with * is an alias to it.
var value = regexp.MustCompile("unknown anchor '.*' referenced|`[^`]*`")

// protobuf is how an error of Istio's decoder begins: its place is not the file's.
// It puts a space of either kind after its name, to keep programs from reading its errors.
var protobuf = regexp.MustCompile(`^proto:[\s\x{a0}]*(syntax error )?(\(line [0-9:]+\): )?`)

// plain is a decoder's error without the decoders it came through, and without values.
func plain(err error) string {
	text := value.ReplaceAllStringFunc(err.Error(), func(quoted string) string {
		if quoted[0] == '`' {
			return "a value"
		}
		return "a value that begins with * and is no alias: write it in quotes"
	})
	if strings.HasPrefix(text, "illegal base64 data") {
		return "data: a value is not base64: encode it, or write it as it is in a Secret's stringData"
	}
	text = protobuf.ReplaceAllString(text, "")
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
		return what.problem("is not a manifest: it has no apiVersion, kind and metadata (several are separated by lines ---, or the items of a List)")
	}
	if list, items, err := itemsOf(raw); list {
		if err != nil {
			return what.problem(err.Error())
		}
		for i, item := range items {
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
		SOPS              json.RawMessage `json:"sops"` // what it was encrypted with; its values are not the app's
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
	if meta.Kind == "Secret" && meta.APIVersion == "v1" && meta.SOPS != nil {
		r.Skipped = append(r.Skipped, "Secret "+meta.Name+" (encrypted with SOPS: the pods read the one in the cluster)")
		return nil
	}
	what.GroupVersionKind, what.Namespace, what.Name = meta.GroupVersionKind(), meta.Namespace, meta.Name
	if what.Raw, err = withoutServers(raw); err != nil {
		return what.problem(plain(err))
	}
	return r.once(what)
}

// itemsOf are the items of a List, or of a list of one kind, whose items have none of their own when an API gives it. An object
// that has no items may have such a kind as well.
func itemsOf(raw []byte) (list bool, items []json.RawMessage, err error) {
	var fields map[string]json.RawMessage
	var kind metav1.TypeMeta
	if json.Unmarshal(raw, &fields) != nil || json.Unmarshal(raw, &kind) != nil || !strings.HasSuffix(kind.Kind, "List") {
		return false, nil, nil
	}
	all, ok := fields["items"]
	switch {
	case !ok && kind.Kind == "List" && fields["spec"] == nil:
		return true, nil, errors.New("the List has no items")
	case !ok:
		return false, nil, nil
	case json.Unmarshal(all, &items) != nil:
		return true, nil, errors.New("items is no list")
	}
	each := strings.TrimSuffix(kind.Kind, "List")
	for i := range items {
		if each == "" || !foreign(items[i]) {
			continue
		}
		item := map[string]any{}
		if err := jsonutil.Unmarshal(items[i], &item); err != nil {
			return true, nil, err
		}
		item["apiVersion"], item["kind"] = kind.APIVersion, each
		if items[i], err = json.Marshal(item); err != nil {
			return true, nil, err
		}
	}
	return true, items, nil
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
