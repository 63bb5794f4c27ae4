package gitops

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Setup is what there has to be so that releases and a controller leave each other in peace.
type Setup struct {
	Controller string
	Account    release.ObjectName // the ServiceAccount that Crossbill's jobs run as

	// Flux: what applies the app, and where it comes from.
	Kustomization, GitRepository release.ObjectName

	// Argo CD: what applies the app, its objects, and primary's Deployment with the container that runs the app.
	Application release.ObjectName
	Objects     *release.Objects
	Deployment  *appsv1.Deployment
	Container   string
}

// Part is an object to apply, with why.
type Part struct {
	Why    string
	Object map[string]any
}

// Parts are the objects. Flux needs no setting of its own: a release annotates what Flux has to leave alone.
func (s Setup) Parts() ([]Part, error) {
	switch s.Controller {
	case Flux:
		return s.rights(
			right{kustomizations.Group, kustomizations.Resource, s.Kustomization},
			right{gitRepositories.Group, gitRepositories.Resource, s.GitRepository},
		)
	case ArgoCD:
		rights, err := s.rights(right{applications.Group, applications.Resource, s.Application})
		if err != nil {
			return nil, err
		}
		settings, err := s.settings()
		return append([]Part{settings}, rights...), err
	}
	return nil, &usererr.Error{Field: "gitops.controller", Problem: fmt.Sprintf("%q is not a controller that Crossbill knows", s.Controller), Fix: "give flux or argocd"}
}

// right is one object that Crossbill reads and annotates.
type right struct {
	group, resource string
	name            release.ObjectName
}

// rights are a Role with its binding for each namespace.
func (s Setup) rights(all ...right) ([]Part, error) {
	var parts []Part
	for i, first := range all {
		namespace := first.name.Namespace
		if slices.ContainsFunc(all[:i], func(r right) bool { return r.name.Namespace == namespace }) {
			continue
		}
		meta := metav1.ObjectMeta{Name: "crossbill-gitops-" + s.Account.Namespace, Namespace: namespace}
		role := &rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"}, ObjectMeta: meta}
		for _, r := range all[i:] {
			if r.name.Namespace == namespace {
				role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{r.group}, Resources: []string{r.resource}, ResourceNames: []string{r.name.Name}, Verbs: []string{"get", "patch"}})
			}
		}
		binding := &rbacv1.RoleBinding{
			TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"}, ObjectMeta: meta,
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: s.Account.Name, Namespace: s.Account.Namespace}},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: role.Kind, Name: meta.Name},
		}
		ofRole, err := fieldsOf(role)
		if err != nil {
			return nil, err
		}
		ofBinding, err := fieldsOf(binding)
		if err != nil {
			return nil, err
		}
		parts = append(parts, Part{"Crossbill looks at what applies the app, and asks for it by an annotation.", ofRole}, Part{Object: ofBinding})
	}
	return parts, nil
}

// settings are what the Application has to say: the combination under which a release kept its weights and image, and later
// changes in Git were applied.
func (s Setup) settings() (Part, error) {
	var rules []ignoreRule
	if route := s.Objects.Route; route != nil {
		rules = append(rules, ignoreRule{Group: "gateway.networking.k8s.io", Kind: route.Kind, Name: route.Name})
	} else {
		rules = append(rules, ignoreRule{Group: "networking.istio.io", Kind: "VirtualService", Name: s.Objects.VirtualService.Name, Namespace: s.Objects.VirtualService.Namespace})
	}
	rules[0].ManagedFieldsManagers = []string{fieldManager}
	live, err := asMap(Object{Object: s.Deployment})
	if err != nil {
		return Part{}, err
	}
	rules = append(rules, ignoreRule{Group: "apps", Kind: "Deployment", Name: s.Objects.Deployments[release.Primary], JQPathExpressions: expressions(live, imagePaths(live, s.Container))})
	fields, err := fieldsOf(map[string]any{
		"apiVersion": applications.GroupVersion().String(), "kind": "Application",
		"metadata": map[string]any{"name": s.Application.Name, "namespace": s.Application.Namespace},
		"spec":     map[string]any{"ignoreDifferences": rules, "syncPolicy": map[string]any{"syncOptions": []string{respect}}},
	})
	return Part{"Merge this into the Application. Argo CD leaves alone what a release changes, and applies every other change in Git.", fields}, err
}

// fieldsOf is an object as it is written, without what is empty.
func fieldsOf(object any) (fields map[string]any, err error) {
	text, err := json.Marshal(object)
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if meta, ok := fields["metadata"].(map[string]any); ok {
		delete(meta, "creationTimestamp")
	}
	return fields, err
}

// YAML are the parts as one file, with comments. A list of words is one line.
func YAML(parts []Part) (string, error) {
	var text bytes.Buffer
	for i, part := range parts {
		if i > 0 {
			text.WriteString("---\n")
		}
		if part.Why != "" {
			text.WriteString("# " + part.Why + "\n")
		}
		var node yaml.Node
		if err := node.Encode(part.Object); err != nil {
			return "", err
		}
		inLines(&node)
		encoder := yaml.NewEncoder(&text)
		encoder.SetIndent(2)
		if err := errors.Join(encoder.Encode(&node), encoder.Close()); err != nil {
			return "", err
		}
	}
	return text.String(), nil
}

func inLines(node *yaml.Node) {
	if node.Kind == yaml.SequenceNode && !slices.ContainsFunc(node.Content, func(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode }) {
		node.Style = yaml.FlowStyle
	}
	for _, inner := range node.Content {
		inLines(inner)
	}
}

// ParseName reads NAMESPACE/NAME, or a NAME in a namespace that is given.
func ParseName(option, text, namespace string) (release.ObjectName, error) {
	before, name, both := strings.Cut(text, "/")
	if !both {
		before, name = namespace, text
	}
	if before = cmp.Or(before, namespace); before == "" || name == "" || strings.Contains(name, "/") {
		return release.ObjectName{}, &usererr.Error{Field: option, Problem: fmt.Sprintf("%q is not the name of an object", text), Fix: "give NAMESPACE/NAME"}
	}
	return release.ObjectName{Namespace: before, Name: name}, nil
}
