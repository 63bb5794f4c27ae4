package gitops

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kustomize "sigs.k8s.io/kustomize/api/types"

	"github.com/our-org/crossbill/internal/usererr"
)

// kustomizationSpec is what of a Kustomization's spec makes something else of its objects than the folder says.
type kustomizationSpec struct {
	TargetNamespace string            `json:"targetNamespace"`
	NamePrefix      string            `json:"namePrefix"`
	NameSuffix      string            `json:"nameSuffix"`
	Images          []kustomize.Image `json:"images"`
	Patches         []kustomize.Patch `json:"patches"`
	Components      []string          `json:"components"`
	CommonMetadata  struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"commonMetadata"`
	PostBuild struct {
		Substitute     map[string]string `json:"substitute"`
		SubstituteFrom []any             `json:"substituteFrom"`
	} `json:"postBuild"`
	Ignore []struct {
		Paths  []string            `json:"paths"`
		Target *kustomize.Selector `json:"target"`
	} `json:"ignore"`
}

// builds refuses a Kustomization that makes something else of these objects than its folder says: Generator.GenerateManifest of
// fluxcd/pkg/kustomize writes its fields into the kustomization.yaml, and kustomize-controller goes over what that renders. Common
// metadata are harmless: a release reads and writes none of them.
func (f *flux) builds(ctx context.Context, k reference, live *unstructured.Unstructured, objects []Object) error {
	var spec kustomizationSpec
	if err := inTo(live.Object["spec"], &spec); err != nil {
		return fmt.Errorf("%s: %w", k, err)
	}
	const substitute, reconcile = kustomizationLabels + "substitute", kustomizationLabels + "reconcile"
	settings := []setting{
		renames("spec.namePrefix", spec.NamePrefix), renames("spec.nameSuffix", spec.NameSuffix),
		movesTo("spec.targetNamespace", spec.TargetNamespace), adds("spec.components", spec.Components),
		{
			field: "spec.postBuild", does: "replaces every ${…} in %s, whatever a release has proved", fix: "give the objects the annotation " + substitute + ": disabled in Git",
			changes: func(o Object) (bool, error) {
				common := spec.CommonMetadata.Labels[substitute] + spec.CommonMetadata.Annotations[substitute] // which come after it
				disabled := common == "" && (o.GetLabels()[substitute] == "disabled" || o.GetAnnotations()[substitute] == "disabled")
				return !disabled && len(spec.PostBuild.Substitute)+len(spec.PostBuild.SubstituteFrom) > 0, nil
			},
		},
		{
			field: "spec.commonMetadata", does: "has Flux leave %s alone: no commit is applied", fix: "remove " + reconcile + " there",
			changes: func(Object) (bool, error) {
				return spec.CommonMetadata.Labels[reconcile] == "disabled" || spec.CommonMetadata.Annotations[reconcile] == "disabled", nil
			},
		},
	}
	called := f.called(ctx)
	for i, image := range spec.Images {
		settings = append(settings, retags(fmt.Sprintf("spec.images[%d]", i), image, called))
	}
	for i, patch := range spec.Patches {
		settings = append(settings, f.patches(fmt.Sprintf("spec.patches[%d]", i), patch))
	}
	for i, rule := range spec.Ignore {
		settings = append(settings, setting{
			field: fmt.Sprintf("spec.ignore[%d]", i), does: "has Flux leave out fields of %s that a step changes", fix: "remove the rule",
			changes: func(o Object) (bool, error) {
				return f.options.commits() && (rule.Target == nil || selects(*rule.Target, o)) && slices.ContainsFunc(rule.Paths, stepped(o.Kind)), nil
			},
		})
	}
	return f.changed(settings, objects, func(problem, fix string) error {
		return &usererr.Error{Field: k.String(), Problem: problem, Fix: fix}
	})
}

// stepped says of a JSON pointer whether a step of a release changes what is there in an object of a kind.
func stepped(kind string) func(pointer string) bool {
	all := map[string][]string{
		"Deployment": {"/spec/template", "/spec/replicas"}, "VirtualService": {"/spec/http", "/spec/tcp", "/spec/tls"}, "DestinationRule": {"/spec/subsets"},
		"HTTPRoute": {"/spec/rules"}, "GRPCRoute": {"/spec/rules"},
	}[kind]
	return func(pointer string) bool {
		return slices.ContainsFunc(all, func(at string) bool { return overlap(pointer, at) })
	}
}

// appliedBy are the objects that a Kustomization applies.
func appliedBy(k reference, objects []Object) []Object {
	return slices.DeleteFunc(slices.Clone(objects), func(o Object) bool {
		owner, ok := OwnerOf(o)
		return !ok || owner.Kind != "Kustomization" || kustomization(owner.Namespace, owner.Name) != k
	})
}
