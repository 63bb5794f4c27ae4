package manifest

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/release"
)

// neededKinds are those of objects without which pods do not start, or read no configuration, by kind and group. One that is
// new takes nothing from the pods that run.
var neededKinds = map[string]string{
	"ServiceAccount": "", "ConfigMap": "", "PersistentVolumeClaim": "", "PersistentVolume": "",
	"Role": rbacGroup, "RoleBinding": rbacGroup, "ClusterRole": rbacGroup, "ClusterRoleBinding": rbacGroup,
	"StorageClass": "storage.k8s.io", "PriorityClass": "scheduling.k8s.io", "RuntimeClass": "node.k8s.io",
	"SecretProviderClass": "secrets-store.csi.x-k8s.io", "ExternalSecret": "external-secrets.io", "SecretStore": "external-secrets.io",
	"SealedSecret": "bitnami.com", "Certificate": "cert-manager.io",
}

const rbacGroup = "rbac.authorization.k8s.io"

// Needed says whether pods need an object to start.
func Needed(o *unstructured.Unstructured) bool {
	group, ok := neededKinds[o.GetKind()]
	return ok && group == o.GroupVersionKind().Group
}

// holding are the kinds whose deletion deletes what people have put into them.
var holding = []string{"PersistentVolumeClaim", "PersistentVolume", "CustomResourceDefinition", "Namespace"}

// Holds says whether the deletion of an object of a kind would delete data with it.
func Holds(kind string) bool { return slices.Contains(holding, kind) }

// Applied are the objects that a release applies beside what a canary is made of, in the order in which that is done, and
// left those that it does not, each with why.
func (s *Set) Applied(namespace string) (applied []*unstructured.Unstructured, left []string, err error) {
	for _, o := range s.Others {
		o = o.DeepCopy()
		switch {
		case o.GetName() == "":
			left = append(left, o.GetKind()+" "+o.GetGenerateName()+" (it has no name)")
			continue
		case o.GetKind() == "Secret" && o.GroupVersionKind().Group == "":
			left = append(left, secretLeft(o.GetName()))
			continue
		case o.GetKind() == "Namespace" && o.GetName() == namespace:
			left = append(left, "Namespace "+o.GetName()+" (it is the release's own)")
			continue
		}
		if err := s.retarget(o); err != nil {
			return nil, nil, err
		}
		applied = append(applied, o)
	}
	return applied, left, nil
}

// RemarksApplied are Remarks on a set whose other objects are applied with the release.
func (s *Set) RemarksApplied(namespace string) ([]string, error) {
	applied, left, err := s.Applied(namespace)
	if err != nil {
		return nil, err
	}
	remarks, names := slices.Clone(s.remarks), []string(nil)
	for _, o := range applied {
		names = append(names, o.GetKind()+" "+o.GetName())
	}
	if len(names) > 0 {
		remarks = append(remarks, "applied with the release: "+strings.Join(names, ", "))
	}
	if left = append(left, s.Skipped...); len(left) > 0 {
		remarks = append(remarks, "left alone, to be applied separately if at all: "+strings.Join(left, ", "))
	}
	return remarks, nil
}

func secretLeft(name string) string {
	return "Secret " + name + " (no container of the app reads it by this name, and a rollback could not put it back: its values are kept nowhere)"
}

// retarget leads what scales the Deployment, by the name that it has in its manifest, to primary's.
func (s *Set) retarget(o *unstructured.Unstructured) error {
	for _, field := range []string{"scaleTargetRef", "targetRef"} {
		target, found, _ := unstructured.NestedStringMap(o.Object, "spec", field)
		if !found || target["name"] != s.Deployment.Name && target["name"] != s.Written || target["kind"] != "Deployment" && target["kind"] != "" {
			continue
		}
		target["name"] = s.Name(release.Primary)
		if err := unstructured.SetNestedStringMap(o.Object, target, "spec", field); err != nil {
			return err
		}
	}
	return nil
}
