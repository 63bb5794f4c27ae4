package gitops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/our-org/crossbill/internal/usererr"
)

// flux is kustomize-controller with source-controller. What is said of them here was read in their versions 1.9.6.
type flux struct{ cluster }

var (
	kustomizations  = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
	gitRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
)

func kustomization(namespace, name string) reference {
	return reference{kustomizations, "Kustomization", namespace, name}
}

func (f *flux) String() string { return "Flux" }

// Hold: kustomize-controller skips an object that has it, on the live one as in Git (ssa.ResourceManager.shouldSkipApply).
func (f *flux) Hold() (string, string) { return kustomizationLabels + "reconcile", "disabled" }

func (f *flux) Check(ctx context.Context, objects []Object) (remarks []string, err error) {
	var problems []error
	checked := map[reference]bool{}
	first := ""
	for _, object := range objects {
		owner, owned := OwnerOf(object)
		switch problem := ownerProblem(Flux, object, owner, owned); {
		case problem != nil:
			problems = append(problems, problem)
			continue
		case !owned: // nothing of Flux touches it
			continue
		}
		if says := object.GetAnnotations()[kustomizationLabels+"ssa"]; says != "" && !strings.EqualFold(says, "Override") && !strings.EqualFold(says, "Merge") {
			remarks = append(remarks, fmt.Sprintf("%s applies no change of %s: it has the annotation %sssa: %s", owner, object, kustomizationLabels, says))
		}
		k := kustomization(owner.Namespace, owner.Name)
		if checked[k] {
			continue
		}
		checked[k] = true
		source, found, err := f.checkKustomization(ctx, k, appliedBy(k, objects))
		remarks = append(remarks, found...)
		if err != nil && !isUser(err) {
			return remarks, err
		}
		problems = append(problems, err)
		switch {
		case source == "":
		case first == "":
			first = source
		case !sameRepository(first, source):
			problems = append(problems, oneRepository(k, source, first, "Kustomization"))
		}
	}
	return remarks, errors.Join(problems...)
}

// checkKustomization looks at a Kustomization, what it makes of its objects, and its source, whose address it gives.
func (f *flux) checkKustomization(ctx context.Context, k reference, objects []Object) (address string, remarks []string, err error) {
	live, err := f.read(ctx, k)
	if err != nil {
		return "", nil, err
	}
	var problems []error
	bad := func(r reference, problem, fix string) {
		problems = append(problems, &usererr.Error{Field: r.String(), Problem: problem, Fix: fix})
	}
	if suspended(live) {
		bad(k, "it is suspended: what a promotion commits would not be applied", resume(k))
	}
	if message, failed := notReady(live); failed {
		remarks = append(remarks, fmt.Sprintf("%s is not ready: %s", k, message))
	}
	if prunes, _, _ := unstructured.NestedBool(live.Object, "spec", "prune"); f.options.commits() && !prunes {
		bad(k, "it does not prune (spec.prune): a canary that is removed from Git would stay in the cluster", "set spec.prune: true")
	}
	switch err := f.builds(ctx, k, live, objects); {
	case err != nil && !isUser(err):
		return "", remarks, err
	default:
		problems = append(problems, err)
	}
	found, err := f.askable(ctx, k)
	remarks, problems = append(remarks, found...), append(problems, err)
	source, ok := sourceOf(live)
	if !ok {
		kind, _, _ := unstructured.NestedString(live.Object, "spec", "sourceRef", "kind")
		bad(k, "it applies a source of kind "+kind+", and a commit of Crossbill's reaches only what comes from a GitRepository", "let its sourceRef name the GitRepository of gitops.repository")
		return "", remarks, errors.Join(problems...)
	}
	repository, err := f.read(ctx, source)
	switch {
	case isUser(err):
		return "", remarks, errors.Join(append(problems, err)...)
	case err != nil:
		return "", remarks, err
	}
	if suspended(repository) {
		bad(source, "it is suspended: what a promotion commits would not be read", resume(source))
	}
	if message, failed := notReady(repository); failed {
		remarks = append(remarks, fmt.Sprintf("%s is not ready: %s", source, message))
	}
	found, err = f.askable(ctx, source)
	remarks, problems = append(remarks, found...), append(problems, err)
	if follows := followed(repository); f.options.Branch != "" && follows != "branch "+f.options.Branch {
		bad(source, "it follows "+follows+", and gitops.branch is "+f.options.Branch, "name one branch in both")
	}
	if _, verifies, _ := unstructured.NestedMap(repository.Object, "spec", "verify"); verifies && !f.options.Signed {
		bad(source, "it accepts only signed commits (spec.verify), and Crossbill's are not signed: one of them would stop everything that comes from this repository",
			"give a key as gitops.signingKeyFile, and its public half to the Secret of spec.verify")
	}
	address, _, _ = unstructured.NestedString(repository.Object, "spec", "url")
	if f.options.Repository != "" && !sameRepository(address, f.options.Repository) {
		remarks = append(remarks, otherRepository(source, address, f.options.Repository))
	}
	return address, remarks, errors.Join(problems...)
}

// sourceOf is the GitRepository of a Kustomization; false when its source is of another kind.
func sourceOf(k *unstructured.Unstructured) (reference, bool) {
	ref, _, _ := unstructured.NestedStringMap(k.Object, "spec", "sourceRef")
	return reference{gitRepositories, "GitRepository", cmp.Or(ref["namespace"], k.GetNamespace()), ref["name"]}, ref["kind"] == "GitRepository"
}

// followed says what a GitRepository checks out, by the order in which source-controller looks at its fields.
func followed(repository *unstructured.Unstructured) string {
	ref, _, _ := unstructured.NestedStringMap(repository.Object, "spec", "ref")
	switch {
	case ref["commit"] != "":
		return "commit " + ref["commit"]
	case strings.HasPrefix(ref["name"], "refs/heads/"):
		return "branch " + strings.TrimPrefix(ref["name"], "refs/heads/")
	case ref["name"] != "":
		return "reference " + ref["name"]
	case ref["semver"] != "":
		return "tags " + ref["semver"]
	case ref["tag"] != "":
		return "tag " + ref["tag"]
	}
	return "branch " + cmp.Or(ref["branch"], "master")
}

func suspended(o *unstructured.Unstructured) bool {
	yes, _, _ := unstructured.NestedBool(o.Object, "spec", "suspend")
	return yes
}

func resume(r reference) string {
	kind := map[string]string{"Kustomization": "kustomization", "GitRepository": "source git"}[r.kind]
	return fmt.Sprintf("`flux resume %s %s --namespace %s`", kind, r.name, r.namespace)
}

// condition is one of an object's conditions; one of the zero value where it has none of that type.
func condition(o *unstructured.Unstructured, kind string) metav1.Condition {
	all, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range all {
		fields, _ := item.(map[string]any)
		if fields["type"] != kind {
			continue
		}
		text := func(key string) string { s, _ := fields[key].(string); return s }
		return metav1.Condition{Type: kind, Status: metav1.ConditionStatus(text("status")), Reason: text("reason"), Message: text("message")}
	}
	return metav1.Condition{}
}

func notReady(o *unstructured.Unstructured) (message string, failed bool) {
	ready := condition(o, "Ready")
	return oneLine(cmp.Or(ready.Message, ready.Reason)), ready.Status == metav1.ConditionFalse
}

// owners are the Kustomizations that apply any of the objects, each once.
func (f *flux) owners(objects []Object) []reference {
	var owners []reference
	for _, object := range objects {
		owner, ok := OwnerOf(object)
		if k := kustomization(owner.Namespace, owner.Name); ok && owner.Controller == Flux && owner.Kind == "Kustomization" && !slices.Contains(owners, k) {
			owners = append(owners, k)
		}
	}
	return owners
}
