package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// Load reads every .yaml and .yml file of a folder, in the order of their names, and checks that they fit
// together. Errors are *usererr.Error and name the file.
func Load(dir string) (*Set, error) {
	names, err := files(dir)
	if err != nil {
		return nil, err
	}
	set := &Set{}
	for _, file := range names {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, &usererr.Error{Field: file, Problem: err.Error(), Fix: "make the file readable"}
		}
		if err := set.read(file, text); err != nil {
			return nil, err
		}
	}
	if err := set.check(dir); err != nil {
		return nil, err
	}
	return set, nil
}

func files(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != dir {
			return filepath.SkipDir
		}
		if ext := filepath.Ext(path); (ext == ".yaml" || ext == ".yml") && !slices.Contains([]string{configFile, SLOFile, TrustFile}, d.Name()) {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		return nil, &usererr.Error{Field: "manifests", Problem: err.Error(), Fix: "give the folder with the app's Kubernetes manifests"}
	}
	return names, nil
}

// read adds the documents of a file to the set.
func (s *Set) read(file string, text []byte) error {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for i := 1; ; i++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.add(file, document)
		}
		if err != nil {
			return &usererr.Error{Field: file, Problem: fmt.Sprintf("document %d: %s", i, plain(err))}
		}
	}
}

// wrongType is what sigs.k8s.io/json says of a value of another type, in Go's words.
var wrongType = regexp.MustCompile(`cannot unmarshal (\S+) into Go struct field [^\s.]+\.(\S+) of type \S*?([^\s.]+)$`)

// plain is a decoder's error without the decoders it came through.
func plain(err error) string {
	text := strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: ")
	return wrongType.ReplaceAllString(strings.TrimPrefix(text, "json: "), "$2: a $1 is not of type $3")
}

// add adds one document to the set.
func (s *Set) add(file string, document []byte) error {
	raw, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return err
	}
	if string(raw) == "null" {
		return nil // only comments
	}
	if raw[0] != '{' {
		return errors.New("is not a manifest: it has no apiVersion, kind and metadata")
	}
	var meta struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return err
	}
	if meta.Kind == "" || meta.Name == "" {
		return errors.New("has no kind or no metadata.name")
	}
	if s.files == nil {
		s.files = map[string]string{}
	}
	switch meta.GroupVersionKind().GroupKind().String() {
	case "Service":
		err = decodeOnce(&s.Service, raw, nil)
	case "Deployment.apps":
		err = decodeOnce(&s.Deployment, raw, nil)
	case "DestinationRule.networking.istio.io":
		err = decodeOnce(&s.DestinationRule, raw, &networkingapi.DestinationRule{})
	case "VirtualService.networking.istio.io":
		err = decodeOnce(&s.VirtualService, raw, &networkingapi.VirtualService{})
	case "Gateway.networking.istio.io":
		var gateway *networking.Gateway
		err = decodeOnce(&gateway, raw, &networkingapi.Gateway{})
		s.Gateways = append(s.Gateways, gateway)
	default:
		s.Skipped = append(s.Skipped, meta.Kind+" "+meta.Name)
		return nil
	}
	if len(validation.IsDNS1123Subdomain(meta.Name)) > 0 {
		return fmt.Errorf("metadata.name: %q is not a name of lower-case letters, digits, '-' and '.'", meta.Name)
	}
	s.files[meta.Kind] = file
	return err
}

// decodeOnce decodes an object of a kind that an app has once. spec is an empty one of an Istio object.
func decodeOnce[T any](place **T, raw []byte, spec proto.Message) error {
	if *place != nil {
		return errors.New("is a second one of its kind: one app has one Service, Deployment, DestinationRule and VirtualService")
	}
	if spec != nil { // first, because its messages name the field
		if err := checkSpec(raw, spec); err != nil {
			return err
		}
	}
	object := new(T)
	if err := yaml.UnmarshalStrict(raw, object); err != nil {
		return err
	}
	*place = object
	return nil
}

// checkSpec finds unknown fields in an Istio object. Its own decoder drops them silently.
func checkSpec(raw []byte, spec proto.Message) error {
	var object struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return err
	}
	if len(object.Spec) == 0 {
		return errors.New("has no spec")
	}
	return protojson.Unmarshal(object.Spec, spec)
}
