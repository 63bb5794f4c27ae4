package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golang/protobuf/jsonpb" //nolint:staticcheck // Istio's own clients read with it: it takes durations as Istio does
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/protoadapt"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// Set finds the app in the objects, and checks that they fit together. Errors are *usererr.Error and name the file.
func (r *Rendered) Set() (*Set, error) {
	s := &Set{Skipped: slices.Clone(r.Skipped), remarks: slices.Clone(r.Remarks), origins: map[string]origin{}}
	for i := range r.Objects {
		o := &r.Objects[i]
		err := s.add(o)
		switch own := slices.Contains(groups[o.Kind], o.Group); {
		case o.template > 0 && own && (err != nil || o.Kind != "ConfigMap" && o.Kind != "Secret"): // what these hold may be a template of the app's
			return nil, templated(o.From, o.place, o.template)
		case err != nil:
			return nil, o.problem(plain(err))
		}
	}
	if err := s.complete(r); err != nil {
		return nil, err
	}
	slices.SortStableFunc(s.Others, func(a, b *unstructured.Unstructured) int { return cmp.Compare(order(a), order(b)) })
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

// complete finds what an app needs and the source does not have.
func (s *Set) complete(r *Rendered) error {
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
		problem := "no manifest of kind " + kind.name + " was found"
		if left := s.left(); len(left) > 0 {
			problem += " (not read as one: " + strings.Join(left, ", ") + ")"
		}
		return &usererr.Error{Field: r.path, Problem: problem, Fix: cmp.Or(r.advice, "add one")}
	}
	return nil
}

// The groups of the kinds that an app is made of.
var groups = map[string][]string{
	"Service": {""}, "Deployment": {"apps"},
	"DestinationRule": {istioGroup}, "VirtualService": {istioGroup}, "Gateway": {istioGroup},
	"ConfigMap": {""}, "Secret": {""},
}

const istioGroup = "networking.istio.io"

// add adds an object to the set.
func (s *Set) add(o *Object) error {
	if !slices.Contains(groups[o.Kind], o.Group) {
		if o.Kind == "Deployment" && o.Group == "extensions" {
			return errors.New("apiVersion extensions/v1beta1 is gone since Kubernetes 1.16: use apps/v1")
		}
		return s.addOther(o)
	}
	if o.Name == "" {
		return fmt.Errorf("%s has no metadata.name", o.Kind)
	}
	if len(validation.IsDNS1123Subdomain(o.Name)) > 0 {
		return fmt.Errorf("metadata.name: %q is not a name of lower-case letters, digits, '-' and '.'", o.Name)
	}
	if err := s.place(o); err != nil {
		return err
	}
	switch o.Kind {
	case "Service":
		return decode(&s.Service, o.Raw, nil)
	case "Deployment":
		return decode(&s.Deployment, o.Raw, nil)
	case "DestinationRule":
		return decode(&s.DestinationRule, o.Raw, &networkingapi.DestinationRule{})
	case "VirtualService":
		return decode(&s.VirtualService, o.Raw, &networkingapi.VirtualService{})
	case "ConfigMap":
		return keep(&s.ConfigMaps, o.Raw)
	case "Secret":
		return keep(&s.Secrets, o.Raw)
	}
	var gateway *networking.Gateway
	err := decode(&gateway, o.Raw, &networkingapi.Gateway{})
	s.Gateways = append(s.Gateways, gateway)
	return err
}

// addOther adds an object that a canary has no opinion on.
func (s *Set) addOther(o *Object) error {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(o.Raw); err != nil {
		return err
	}
	s.Others = append(s.Others, object)
	return nil
}

// kindOrder is the order in which kinds are applied, so that what others need is there first. Other kinds come before the last.
var kindOrder = []string{
	"Namespace", "NetworkPolicy", "ResourceQuota", "LimitRange", "PodDisruptionBudget", "ServiceAccount", "Secret", "ConfigMap",
	"StorageClass", "PersistentVolume", "PersistentVolumeClaim", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding",
	"Role", "RoleBinding", "Service", "DaemonSet", "Pod", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler", "StatefulSet",
	"Job", "CronJob", "Ingress", "", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration",
}

// order is an object's place in kindOrder.
func order(o *unstructured.Unstructured) int {
	if i := slices.Index(kindOrder, o.GetKind()); i >= 0 {
		return i
	}
	return slices.Index(kindOrder, "")
}

// origin is where an object was read from.
type origin struct{ file, name string }

// place notes an object of a kind that an app has once.
func (s *Set) place(o *Object) error {
	key := o.Kind
	if slices.Contains([]string{"Gateway", "ConfigMap", "Secret"}, o.Kind) {
		key += " " + o.Name
	}
	if first, ok := s.origins[key]; ok {
		return fmt.Errorf("%s is a second one of its kind, after %s in %s: one app has one Service, Deployment, DestinationRule and VirtualService; give each app a folder of its own", o.String(), first.name, first.file)
	}
	s.origins[key] = origin{o.From, o.Name}
	return nil
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
	if kind := any(decoded).(runtime.Object).GetObjectKind(); spec != nil { // every version is the same type to Istio; the client's is v1
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
