package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/golang/protobuf/jsonpb" //nolint:staticcheck // Istio's own clients read with it: it takes durations as Istio does
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/protoadapt"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// Load reads the manifests of a folder, in the order of the files' names, and checks that they fit together. What
// its kustomization names is rendered first. Errors are *usererr.Error and name the file.
func Load(dir string) (*Set, error) {
	folder, err := look(dir)
	if err != nil {
		return nil, err
	}
	set := &Set{}
	if folder.kustomization != "" {
		if folder.plain, err = set.addKustomization(folder); err != nil {
			return nil, err
		}
	}
	for _, file := range folder.plain {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, &usererr.Error{Field: file, Problem: err.Error(), Fix: "make the file readable"}
		}
		if err := set.read(file, text); err != nil {
			return nil, err
		}
	}
	if err := set.complete(folder); err != nil {
		return nil, err
	}
	if err := set.check(); err != nil {
		return nil, err
	}
	return set, nil
}

// folder is what a folder of manifests has.
type folder struct {
	dir           string
	kustomization string   // its file; "" for none
	plain         []string // files that are read as they are
	deeper        []string // folders in it that hold manifests: they are not read
	chart         bool     // it is a Helm chart
}

func look(dir string) (folder, error) {
	found := folder{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return found, &usererr.Error{Field: "manifests", Problem: err.Error(), Fix: "give the folder with the app's Kubernetes manifests"}
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		info, err := os.Stat(path) // follows links: a mounted ConfigMap is made of them
		switch {
		case err != nil && strings.HasPrefix(entry.Name(), "."): // an editor's lock leads nowhere
		case err != nil:
			return found, &usererr.Error{Field: path, Problem: err.Error(), Fix: "remove the file or make it readable"}
		case info.IsDir():
			if inside, _ := filepath.Glob(filepath.Join(path, "*.y*ml")); len(inside) > 0 {
				found.deeper = append(found.deeper, entry.Name())
			}
		case slices.Contains([]string{"kustomization.yaml", "kustomization.yml", "Kustomization"}, entry.Name()):
			found.kustomization = path
		case entry.Name() == "Chart.yaml":
			found.chart = true
		case slices.Contains([]string{configFile, SLOFile, TrustFile}, entry.Name()):
		case slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))):
			found.plain = append(found.plain, path)
		}
	}
	return found, nil
}

// complete finds what an app needs and the folder does not have.
func (s *Set) complete(folder folder) error {
	for _, kind := range []struct {
		name  string
		found bool
	}{
		{"Service", s.Service != nil}, {"Deployment", s.Deployment != nil},
		{"DestinationRule", s.DestinationRule != nil}, {"VirtualService", s.VirtualService != nil},
	} {
		if kind.found {
			continue
		}
		problem, fix := "no manifest of kind "+kind.name+" was found", "add one"
		if len(s.Skipped) > 0 {
			problem += " (not read as one: " + strings.Join(s.Skipped, ", ") + ")"
		}
		switch {
		case folder.chart:
			fix = "it is a Helm chart: render it with `helm template` into a folder, and give that"
		case len(folder.deeper) > 0:
			fix = "add one, or give the folder that has them: folders inside it (" + strings.Join(folder.deeper, ", ") + ") are not read"
		}
		return &usererr.Error{Field: folder.dir, Problem: problem, Fix: fix}
	}
	return nil
}

// read adds the documents of a file to the set.
func (s *Set) read(file string, text []byte) error {
	if bytes.HasPrefix(text, []byte{0xFF, 0xFE}) || bytes.HasPrefix(text, []byte{0xFE, 0xFF}) {
		return &usererr.Error{Field: file, Problem: "it is UTF-16", Fix: "save it as UTF-8"}
	}
	for i, document := range documentsOf(text) {
		if err := s.readDocument(file, document); err != nil {
			err.Problem = fmt.Sprintf("document %d: %s", i+1, err.Problem)
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

// readDocument adds a document to the set.
func (s *Set) readDocument(file, document string) *usererr.Error {
	raw, err := yaml.YAMLToJSONStrict([]byte(document))
	if err != nil {
		if line := lineWith(document, func(line string) bool { return strings.Contains(line, "{{") }); line > 0 {
			return templated(file, line)
		}
		return &usererr.Error{Field: file, Problem: plain(err)}
	}
	before := s.taken
	if err := s.add(file, raw); err != nil {
		if line := lineWith(document, leftover.MatchString); line > 0 {
			return templated(file, line)
		}
		return &usererr.Error{Field: file, Problem: plain(err)}
	}
	if s.taken > before {
		if line := lineWith(document, leftover.MatchString); line > 0 {
			return templated(file, line)
		}
	}
	return nil
}

func templated(file string, line int) *usererr.Error {
	return &usererr.Error{Field: file, Problem: fmt.Sprintf("line %d is a template ({{ … }}), not a manifest", line), Fix: "render it first, for example with `helm template`"}
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
var wrongType = regexp.MustCompile(`cannot unmarshal (\S+) into Go struct field [^\s.]+\.(\S+) of type \S*?([^\s.]+)$`)

// plain is a decoder's error without the decoders it came through.
func plain(err error) string {
	text := strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: ")
	text = strings.TrimPrefix(strings.TrimPrefix(text, "error converting YAML to JSON: "), "yaml: ")
	return wrongType.ReplaceAllString(strings.TrimPrefix(text, "json: "), "$2: a $1 is not of type $3")
}

// add adds an object, or each one of a List, to the set.
func (s *Set) add(file string, raw []byte) error {
	if string(raw) == "null" {
		return nil // only comments
	}
	if raw[0] != '{' {
		return errors.New("is not a manifest: it has no apiVersion, kind and metadata")
	}
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err == nil && strings.HasSuffix(list.Kind, "List") {
		for i, item := range list.Items {
			if err := s.add(file, item); err != nil {
				return fmt.Errorf("item %d: %w", i+1, err)
			}
		}
		return nil
	}
	var meta struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return s.addForeign(file, raw, err)
	}
	if meta.Kind == "" && meta.APIVersion == "" {
		s.Skipped = append(s.Skipped, file+" (no Kubernetes object)")
		return nil
	}
	if meta.Kind == "" || meta.APIVersion == "" {
		return errors.New("has no kind or no apiVersion")
	}
	return s.addObject(file, raw, meta.GroupVersionKind(), meta.ObjectMeta)
}

// addForeign skips a document that looks like no Kubernetes object at all: a chart's values, for example.
func (s *Set) addForeign(file string, raw []byte, err error) error {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) == nil && fields["apiVersion"] == nil && fields["kind"] == nil {
		s.Skipped = append(s.Skipped, file+" (no Kubernetes object)")
		return nil
	}
	return err
}

// The groups of the kinds that an app is made of.
var groups = map[string][]string{
	"Service": {""}, "Deployment": {"apps"},
	"DestinationRule": {istioGroup}, "VirtualService": {istioGroup}, "Gateway": {istioGroup},
	"ConfigMap": {""}, "Secret": {""},
}

const istioGroup = "networking.istio.io"

func (s *Set) addObject(file string, raw []byte, gvk schema.GroupVersionKind, meta metav1.ObjectMeta) error {
	if !slices.Contains(groups[gvk.Kind], gvk.Group) {
		if gvk.Kind == "Deployment" && gvk.Group == "extensions" {
			return errors.New("apiVersion extensions/v1beta1 is gone since Kubernetes 1.16: use apps/v1")
		}
		name := meta.Name
		if name == "" {
			name = meta.GenerateName
		}
		s.Skipped = append(s.Skipped, strings.TrimSpace(gvk.Kind+" "+name))
		return nil
	}
	if meta.Name == "" {
		return fmt.Errorf("%s has no metadata.name", gvk.Kind)
	}
	if len(validation.IsDNS1123Subdomain(meta.Name)) > 0 {
		return fmt.Errorf("metadata.name: %q is not a name of lower-case letters, digits, '-' and '.'", meta.Name)
	}
	if again, err := s.once(file, raw, gvk.Kind, meta.Name); again || err != nil {
		return err
	}
	if gvk.Kind != "ConfigMap" && gvk.Kind != "Secret" { // what these hold may be a template of the app's
		s.taken++
	}
	switch gvk.Kind {
	case "Service":
		return decode(&s.Service, raw, nil)
	case "Deployment":
		return decode(&s.Deployment, raw, nil)
	case "DestinationRule":
		return decode(&s.DestinationRule, raw, &networkingapi.DestinationRule{})
	case "VirtualService":
		return decode(&s.VirtualService, raw, &networkingapi.VirtualService{})
	case "ConfigMap":
		return keep(&s.ConfigMaps, raw)
	case "Secret":
		return keep(&s.Secrets, raw)
	}
	var gateway *networking.Gateway
	err := decode(&gateway, raw, &networkingapi.Gateway{})
	s.Gateways = append(s.Gateways, gateway)
	return err
}

// origin is where an object was read from.
type origin struct {
	file, name string
	raw        []byte
}

// once notes an object of a kind that an app has once; again says that this very object was read before.
func (s *Set) once(file string, raw []byte, kind, name string) (again bool, err error) {
	key := kind
	if slices.Contains([]string{"Gateway", "ConfigMap", "Secret"}, kind) {
		key += " " + name
	}
	first, ok := s.origins[key]
	switch {
	case ok && bytes.Equal(first.raw, raw):
		return true, nil
	case ok && first.name == name:
		return false, fmt.Errorf("%s %s is there a second time, and differs from the one in %s: keep one", kind, name, first.file)
	case ok:
		return false, fmt.Errorf("%s %s is a second one of its kind, after %s in %s: one app has one Service, Deployment, DestinationRule and VirtualService; give each app a folder of its own", kind, name, first.name, first.file)
	}
	if s.origins == nil {
		s.origins = map[string]origin{}
	}
	s.origins[key] = origin{file, name, raw}
	return false, nil
}

// keep decodes an object of which an app may have several.
func keep[T any, P interface {
	*T
	metav1.Object
}](place *map[string]*T, raw []byte) error {
	var decoded *T
	if err := decode(&decoded, raw, nil); err != nil {
		return err
	}
	if *place == nil {
		*place = map[string]*T{}
	}
	(*place)[P(decoded).GetName()] = decoded
	return nil
}

// decode decodes an object. spec is an empty one of an Istio object.
func decode[T any](place **T, raw []byte, spec protoadapt.MessageV1) error {
	if spec != nil { // first, because its messages name the field
		if err := checkSpec(raw, spec); err != nil {
			return err
		}
	}
	decoded := new(T)
	if err := yaml.UnmarshalStrict(raw, decoded); err != nil {
		return err
	}
	object := any(decoded).(runtime.Object)
	dropServers(object)
	if kind := object.GetObjectKind(); spec != nil { // every version is the same type to Istio; the client's is v1
		kind.SetGroupVersionKind(schema.GroupVersionKind{Group: istioGroup, Version: "v1", Kind: kind.GroupVersionKind().Kind})
	}
	*place = decoded
	return nil
}

// checkSpec finds unknown fields in an Istio object. Its own decoder, which this is, drops them silently.
func checkSpec(raw []byte, spec protoadapt.MessageV1) error {
	var object struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return err
	}
	if len(object.Spec) == 0 {
		return errors.New("has no spec")
	}
	err := (&jsonpb.Unmarshaler{}).Unmarshal(bytes.NewReader(object.Spec), spec)
	if err == nil {
		return nil
	}
	// protojson says more clearly what is wrong, but takes no duration except in seconds.
	if clearer := protojson.Unmarshal(object.Spec, protoadapt.MessageV2Of(spec)); clearer != nil && !strings.Contains(clearer.Error(), "google.protobuf.Duration") {
		return clearer
	}
	return err
}

// serversAnnotations are written by the server or by kubectl, and are in an export.
var serversAnnotations = []string{corev1.LastAppliedConfigAnnotation, "deployment.kubernetes.io/revision"}

// dropServers leaves out what an export of a live object carries and a manifest must not: what its server keeps.
func dropServers(object runtime.Object) {
	meta := object.(metav1.Object)
	exported := meta.GetUID() != ""
	meta.SetUID("")
	meta.SetResourceVersion("")
	meta.SetGeneration(0)
	meta.SetCreationTimestamp(metav1.Time{})
	meta.SetDeletionTimestamp(nil)
	meta.SetManagedFields(nil)
	meta.SetSelfLink("")
	annotations := meta.GetAnnotations()
	for _, key := range serversAnnotations {
		delete(annotations, key)
	}
	switch o := object.(type) {
	case *corev1.Service:
		o.Status = corev1.ServiceStatus{}
		if exported && o.Spec.ClusterIP != corev1.ClusterIPNone {
			o.Spec.ClusterIP, o.Spec.ClusterIPs = "", nil
		}
	case *appsv1.Deployment:
		o.Status = appsv1.DeploymentStatus{}
		o.Spec.Template.CreationTimestamp = metav1.Time{}
	}
}
