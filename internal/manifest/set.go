package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golang/protobuf/jsonpb" //nolint:staticcheck // Istio's own clients read with it: it takes durations as Istio does
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/protoadapt"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
)

// Set finds the app in the objects, and checks that they fit together. Errors are *usererr.Error and name the file.
func (r *Rendered) Set() (*Set, error) {
	s := &Set{Skipped: slices.Clone(r.Skipped), remarks: slices.Clone(r.Remarks), origins: map[string]string{}}
	c := &choice{r: r, set: s}
	for _, step := range []func() error{c.deployment, c.service, c.router, c.rest, s.check} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// The groups of the kinds that an app is made of.
var groups = map[string][]string{
	"Service": {""}, "Deployment": {"apps"},
	"DestinationRule": {istioGroup}, "VirtualService": {istioGroup}, "Gateway": {istioGroup},
	"ConfigMap": {""}, "Secret": {""},
}

const istioGroup = "networking.istio.io"

// own says whether an object is of a kind that an app is made of.
func own(o *Object) bool { return slices.Contains(groups[o.Kind], o.Group) }

// read decodes an object of the app.
func read[T any](place **T, o *Object, spec protoadapt.MessageV1) error {
	if err := o.unrendered(); err != nil {
		return err
	}
	err := checkName(o)
	if err == nil {
		err = decode(place, o.Raw, spec)
	}
	if err != nil {
		return o.unreadable(err)
	}
	return nil
}

func checkName(o *Object) error {
	if o.Name == "" {
		return fmt.Errorf("%s has no metadata.name", o.Kind)
	}
	if len(validation.IsDNS1123Subdomain(o.Name)) > 0 {
		return fmt.Errorf("metadata.name: %q is not a name of lower-case letters, digits, '-' and '.'", o.Name)
	}
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

// decode decodes an object. spec is an empty one of an Istio object.
func decode[T any](place **T, raw []byte, spec protoadapt.MessageV1) error {
	if spec != nil { // first, because its messages name the field
		if err := checkSpec(raw, spec); err != nil {
			return err
		}
	}
	decoded := new(T)
	// As the API server decodes: encoding/json would take hostnetwork for hostNetwork, where whoever looks at the manifest
	// for that sees neither.
	switch unknown, err := kjson.UnmarshalStrict(raw, decoded); {
	case err != nil:
		return err
	case len(unknown) > 0:
		return unknown[0]
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
